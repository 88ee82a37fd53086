//! Drafts that a command left which was killed: found by their names, in which the number of its process stands.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Dir;
use rustix::process::Pid;

/// The most names of a directory that are looked at.
const NAMES_MAX: usize = 100_000;

/// The names in a directory of which `draft` tells whose process's drafts they are, where that process is gone.
pub(super) fn left(directory: &OwnedFd, draft: impl Fn(&str) -> Option<i32>) -> Vec<String> {
    let entries = Dir::read_from(directory.as_fd()).into_iter().flatten().take(NAMES_MAX).filter_map(Result::ok);
    let names = entries.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    names.filter(|name| draft(name).is_some_and(is_gone)).collect()
}

fn is_gone(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}
