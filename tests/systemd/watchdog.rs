//! The manager's watchdog over the installed daemon.

use crate::installed::{Installed, leaders, up};
use crate::support::*;

#[test]
fn a_daemon_that_turns_tells_so_and_one_that_is_stuck_is_killed_and_what_it_contained_adopted() {
    if !offered() {
        return;
    }
    let mut installed = Installed::new();
    assert_eq!(property_in_file("WatchdogSec"), "60");
    installed.drop_in("pinfold.service", "watchdog", "[Service]\nWatchdogSec=10\n");
    let server = up("s");
    let first = installed.expect_active(0);
    let told = || property("pinfold.service", "WatchdogTimestampMonotonic").parse::<u64>().unwrap();
    // The first word is said at once, with its start; the next ones at half of the time.
    for _ in 0..2 {
        let before = told();
        eventually("it is told again", || if told() > before { Ok(()) } else { Err(before.to_string()) });
    }
    assert_eq!(installed.expect_active(0), first);

    signal(first, nix::sys::signal::Signal::SIGSTOP);
    let second = installed.expect_active(first);
    assert!(!lives(first) && lives(server.pid()));
    assert_eq!(property("pinfold.service", "NRestarts"), "1");
    assert_eq!(leaders(), [i64::from(server.pid())]);
    assert_eq!(property("pinfold.service", "NFileDescriptorStore"), "2", "what is held of it outlived that");
    assert_eq!(installed.expect_active(0), second);
}

/// What the unit says as it is installed.
fn property_in_file(name: &str) -> &'static str {
    let lines = crate::installed::source("pinfold.service").lines();
    lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).next().unwrap()
}
