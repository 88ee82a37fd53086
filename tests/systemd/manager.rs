//! What happens to the manager, and to the bus, does not happen to the sessions.

use crate::support::*;

#[test]
fn a_reload_of_the_manager_leaves_units_and_limits_as_they_are() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[session]\nmemory_max = '300M'\n[server]\nmemory_max = '100M'\n");
    let _one = machine.up(&["--session", "s"], "exec cat");
    let reloaded = systemctl(&["daemon-reload"]);
    assert!(reloaded.status.success(), "{reloaded:?}");
    survived(&machine);
}

#[test]
fn a_reexecuted_manager_has_another_unique_name_and_is_found_again() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[session]\nmemory_max = '300M'\n[server]\nmemory_max = '100M'\n");
    let _one = machine.up(&["--session", "s"], "exec cat");
    let again = systemctl(&["daemon-reexec"]);
    assert!(again.status.success(), "{again:?}");
    survived(&machine);
}

/// One session with a server goes on, takes a second server, is stopped from outside, and that is told.
fn survived(machine: &Machine) {
    let session = machine.session("s");
    assert_eq!(property(&session.slice(), "MemoryMax"), (300 << 20).to_string());
    assert_eq!(knob(&session.directory(), "memory.max"), (300 << 20).to_string());
    assert_eq!(knob(&session.leaf(0), "memory.max"), (100 << 20).to_string());
    let _two = machine.up(&["--session", "s"], "exec cat");
    let _other = machine.up(&["--session", "other"], "exec cat");
    assert_eq!(machine.session("s").scope(1), session.scope(0));
    machine.ask(&["end", "other"]);
    systemctl(&["stop", &session.slice()]);
    machine.expect_cause("stopped");
    machine.expect_nothing_left();
}
