//! What `/proc` and cgroup files say. Their numbers are the kernel's, but a process chooses its own name and its words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinfold::cgroup::{Layout, Membership, leaf_of, percent};
use pinfold::process::holders::Object;
use pinfold::process::survey;

fuzz_target!(|text: &str| {
    let membership = Membership::parse(text);
    let _ = leaf_of(&membership);
    if let Ok(layout) = Layout::parse(text) {
        for cgroup in text.lines().take(8) {
            // Whatever a cgroup is called, its directory is below where its hierarchy is mounted.
            let Some(directory) = layout.v2().directory(cgroup) else { continue };
            let _ = layout.v2().cgroup(&directory);
        }
    }
    let (stat, status) = text.split_once('\0').unwrap_or((text, text));
    let _ = survey::parse(1, stat, status);
    let _ = (Object::parse(text), percent(text));
});
