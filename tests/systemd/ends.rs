//! Ends: nothing of a session is left, neither process nor cgroup nor unit, and the reason is told.

use crate::support::*;

#[test]
fn stopping_the_scope_is_told_as_stopped() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut server = machine.up(&["--session", "s"], "sleep 1000 & exec cat");
    let stopped = systemctl(&["stop", &machine.session("s").scope(0)]);
    assert!(stopped.status.success(), "{stopped:?}");
    machine.expect_cause("stopped");
    assert_eq!(server.exit_status(), 128 + 15);
    machine.expect_nothing_left();
}

#[test]
fn stopping_the_slice_is_told_as_stopped_for_every_server() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let _one = machine.up(&["--session", "s", "--server", "one"], "exec cat");
    let mut two = machine.up(&["--session", "s", "--server", "two"], "trap '' TERM; while :; do sleep 1; done");
    let stopped = systemctl(&["stop", "--no-block", &machine.session("s").slice()]);
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(two.exit_status(), 128 + 9, "what ignores SIGTERM is killed");
    eventually("both ends are told", || {
        let log = machine.log();
        if log.matches("cause=\"stopped\"").count() == 2 { Ok(()) } else { Err(log) }
    });
    machine.expect_nothing_left();
}

#[test]
fn the_next_launch_of_a_stopped_session_is_granted() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let _one = machine.up(&["--session", "s"], "exec cat");
    systemctl(&["stop", &machine.session("s").slice()]);
    let _two = machine.up(&["--session", "s"], "exec cat");
    machine.ask(&["end", "s"]);
    machine.expect_nothing_left();
}

#[test]
fn a_daemon_that_was_killed_is_followed_by_one_that_adopts_its_servers() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let server = machine.up(&["--session", "s"], "exec cat");
    let mut gone = machine.up(&["--session", "gone"], "exec cat");
    machine.kill_daemon();
    drop(gone.child.stdin.take());
    gone.exit_status();
    machine.start();
    assert!(lives(server.pid()));
    eventually("only the living is there", || {
        let sessions = machine.sessions();
        if sessions.len() == 1 && units().len() == 2 { Ok(()) } else { Err(format!("{sessions:?} {:?}", units())) }
    });
    let _second = machine.up(&["--session", "s"], "exec cat");
    let session = machine.session("s");
    assert_eq!(session.scope(0), session.scope(1));
    machine.ask(&["end", "s"]);
    machine.expect_nothing_left();
}
