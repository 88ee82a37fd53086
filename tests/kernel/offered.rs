//! What the machine that runs a test offers, and what a test passes over without it.

use std::io::Write;
use std::path::{Path, PathBuf};

/// How many times slower than usual this machine is: `PINFOLD_TEST_SLOWNESS`, for emulated ones.
pub fn slowness() -> u32 {
    std::env::var("PINFOLD_TEST_SLOWNESS").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Whether the daemons of this run work on a service manager.
pub fn on_systemd() -> bool {
    std::env::var("PINFOLD_TEST_BACKEND").is_ok_and(|backend| backend == "systemd")
}

/// Whether this machine offers what the ring needs. Where `PINFOLD_TEST_HOST` says so and it does not, that is a failure.
#[track_caller]
pub fn offered() -> bool {
    let promised = std::env::var("PINFOLD_TEST_HOST").is_ok_and(|hosts| hosts.split(',').any(|host| host == "kernel"));
    let missing = if v2_mount().is_none() {
        Some("a cgroup v2 mount")
    } else if on_systemd() {
        (!Path::new("/run/systemd/system").is_dir()).then_some("systemd in charge")
    } else if !is_root() {
        Some("root, to make cgroups")
    } else {
        None
    };
    match missing {
        None => true,
        Some(what) if promised => panic!("PINFOLD_TEST_HOST=kernel, and this machine lacks {what}"),
        Some(what) => {
            eprintln!("skipped: this needs {what}");
            false
        }
    }
}

/// Whether this is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Tells that a test, or a part of it, does not run here, and why. `PINFOLD_TEST_PASSED_OVER` names the file in which the
/// ring finds all of these when it is over.
#[track_caller]
pub fn pass_over(why: &str) {
    let at = std::panic::Location::caller();
    eprintln!("passed over at {at}: {why}");
    if let Some(path) = std::env::var_os("PINFOLD_TEST_PASSED_OVER") {
        let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
        writeln!(file, "{}:{}: {why}", at.file(), at.line()).unwrap();
    }
}

/// Whether this is root, where a test itself needs it: to be another user, or to leave all cgroups.
#[track_caller]
pub fn root_offered() -> bool {
    if !is_root() {
        pass_over("the test itself needs root");
    }
    is_root()
}

/// Whether the daemons of this run work in subtrees of their own, where a test is about that.
#[track_caller]
pub fn subtree_offered() -> bool {
    if on_systemd() {
        pass_over("it is about the cgroupfs backend alone");
    }
    !on_systemd()
}

/// Whether cgroup v1 companions stand beside cgroup v2 here.
#[track_caller]
pub fn companions_offered() -> bool {
    let offered = v1_mount("memory").is_some() && v1_mount("pids").is_some();
    if !offered {
        pass_over("companions stand beside a hybrid machine's cgroup v2 only");
    }
    offered
}

/// Where cgroup v2 is mounted.
pub fn v2_mount() -> Option<PathBuf> {
    mount_of(|kind, _| kind == "cgroup2")
}

/// Where a v1 controller is mounted, on a hybrid machine.
pub fn v1_mount(controller: &str) -> Option<PathBuf> {
    mount_of(|kind, options| kind == "cgroup" && options.split(',').any(|option| option == controller))
}

fn mount_of(is: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let after: Vec<&str> = after.split(' ').collect();
        is(after[0], after[2]).then(|| PathBuf::from(before.split(' ').nth(4).unwrap_or_default()))
    })
}
