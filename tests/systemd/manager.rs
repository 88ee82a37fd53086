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
#[track_caller]
pub fn survived(machine: &Machine) {
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

#[test]
fn a_failed_leftover_of_the_same_name_is_reset() {
    if !offered() {
        return;
    }
    // The key of session "s" of this user, and the scopes that its first launches would begin.
    let machine = Machine::new();
    let _one = machine.up(&["--session", "s"], "exec cat");
    let key = machine.session("s").key().to_owned();
    machine.ask(&["end", "s"]);
    machine.expect_nothing_left();
    drop(machine);
    let manager = if is_system() { "--system" } else { "--user" };
    for generation in 1..6 {
        let unit = format!("--unit=pinfold-{key}-{generation}.scope");
        let script = "sleep 0.2; kill -KILL $$";
        // A scope fails when it is stopped and does not end in time.
        let mut scope = std::process::Command::new("systemd-run");
        scope.args([manager, "--quiet", "--scope", &unit, "--property=RuntimeMaxSec=1", "--property=TimeoutStopSec=0"]);
        scope.args(["sh", "-c", &format!("trap '' TERM; sleep 30 & {script}")]);
        let _ = scope.status();
    }
    eventually("there are failed leftovers", || {
        let failed = units();
        if failed.len() == 5 && failed.iter().all(|unit| property(unit, "ActiveState") == "failed") {
            Ok(())
        } else {
            Err(format!("{failed:?}"))
        }
    });
    let machine = Machine::new();
    let _again = machine.up(&["--session", "s"], "exec cat");
    machine.ask(&["end", "s"]);
    systemctl(&["reset-failed", "pinfold-*"]);
    machine.expect_nothing_left();
}
