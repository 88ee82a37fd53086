//! What happens to a session's units behind our back, and while no daemon sees it.

use crate::support::*;

#[test]
fn a_server_that_somebody_moved_out_of_its_scope_is_shown_as_escaped_and_ended() {
    if !offered() || !is_system() {
        return;
    }
    let machine = Machine::new();
    let mut server = machine.up(&["--session", "s"], "exec sleep 1000");
    // The scope is empty then, which is its end for systemd; for the server that is no reason to end.
    std::fs::write("/sys/fs/cgroup/init.scope/cgroup.procs", server.pid().to_string()).unwrap();
    eventually("it is shown as escaped", || {
        let shown = machine.session("s").0["servers"][0].clone();
        if shown["escaped"] == true { Ok(()) } else { Err(format!("{shown}; {}", machine.log())) }
    });
    // The session's next server gets another scope.
    let _next = machine.up(&["--session", "s", "--server", "next"], "exec cat");
    assert!(machine.ask(&["end", "s"]).status.success());
    assert_eq!(server.exit_status(), 128 + 15);
    machine.expect_nothing_left();
}

#[test]
fn a_server_that_left_its_scope_while_no_daemon_ran_is_shown_as_escaped_and_ended_by_the_next_one() {
    if !offered() || !is_system() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = machine.up(&["--session", "s"], "exec sleep 1000");
    let leaf = machine.session("s").leaf(0);
    machine.kill_daemon();
    std::fs::write("/sys/fs/cgroup/init.scope/cgroup.procs", server.pid().to_string()).unwrap();
    eventually("systemd removes its scope", || if leaf.exists() { Err(format!("{leaf:?}")) } else { Ok(()) });
    for _ in 0..2 {
        machine.start();
        let shown = machine.session("s").0["servers"][0].clone();
        let expected = (&"running".into(), &true.into(), &vec![server.pid()].into());
        assert_eq!(
            (&shown["state"], &shown["escaped"], &shown["escaped_pids"]),
            expected,
            "{shown}; {}",
            machine.log()
        );
        assert!(lives(server.pid()));
        machine.kill_daemon();
    }
    machine.start();
    assert!(machine.ask(&["end", "s"]).status.success());
    assert_eq!(server.exit_status(), 128 + 15);
    machine.expect_nothing_left();
}

#[test]
fn what_was_stopped_while_no_daemon_ran_is_swept_by_the_next_one_and_launched_anew() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut stopped = machine.up(&["--session", "stopped"], "sleep 1000 & exec cat");
    let _other = machine.up(&["--session", "other"], "exec cat");
    let slice = machine.session("stopped").slice();
    machine.kill_daemon();
    systemctl(&["stop", &slice]);
    assert_eq!(stopped.exit_status(), 128 + 15);
    // Another instance of the manager is what the next daemon finds.
    let again = systemctl(&["daemon-reexec"]);
    assert!(again.status.success(), "{again:?}");
    machine.start();
    eventually("the other one alone is adopted", || {
        let ids: Vec<_> = machine.sessions().iter().map(|session| session["id"].clone()).collect();
        if ids == ["other"] { Ok(()) } else { Err(format!("{ids:?}; {}", machine.log())) }
    });
    let _again = machine.up(&["--session", "stopped"], "exec cat");
    assert!(machine.ask(&["end", "--all"]).status.success());
    machine.expect_nothing_left();
}
