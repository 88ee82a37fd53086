//! Command lines: whatever their words, a name is found, masking is final, and neither takes long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinfold::argv::{CommandDigest, MaskedArgv, is_generic, package, script, server_name, stem, versioned};

fuzz_target!(|text: &str| {
    let words: Vec<String> = text.split(['\0', '\n']).map(str::to_owned).collect();
    let _ = (server_name(&words), script(&words));
    let masked = MaskedArgv::mask(&words);
    assert_eq!(MaskedArgv::mask(masked.words()), masked, "masking what is masked changes nothing");
    assert!(masked.words().len() <= MaskedArgv::MAX_ARGUMENTS);
    assert!(masked.words().iter().map(String::len).sum::<usize>() <= MaskedArgv::MAX_BYTES);
    let _ = CommandDigest::of(words.iter().map(String::as_bytes), b"/");
    let _ = (stem(text), is_generic(text), package(text), versioned(text));
});
