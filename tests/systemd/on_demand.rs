//! The daemon that a first launch starts: a service of the manager, not a part of its host.

use crate::support::*;

/// The service of an on-demand daemon, and its main process.
fn daemon() -> (String, i32) {
    let unit = units().into_iter().find(|unit| unit.starts_with("pinfold-daemon")).expect("a daemon's service");
    let pid = property(&unit, "MainPID").parse().unwrap();
    (unit, pid)
}

#[test]
fn a_first_launch_starts_the_daemon_as_a_service_that_outlives_its_host_and_leaves_when_unused() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon("[daemon]\nidle_exit = '1s'\n");
    let mut server = machine.up(&["--session", "s"], "exec cat");
    let (unit, pid) = daemon();
    assert_eq!(property(&unit, "ActiveState"), "active");
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroup.trim().ends_with(&unit), "{cgroup}");
    drop(server.child.stdin.take());
    server.exit_status();
    eventually("the daemon has left, and nothing of it", || {
        let left = units();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn an_on_demand_daemon_that_is_killed_is_started_again_and_adopts() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon("[daemon]\nidle_exit = '1s'\n");
    let server = machine.up(&["--session", "s"], "exec cat");
    let (unit, pid) = daemon();
    signal(pid, nix::sys::signal::Signal::SIGKILL);
    eventually("it is started again", || {
        let now = property(&unit, "MainPID");
        if now != "0" && now != pid.to_string() && property(&unit, "ActiveState") == "active" {
            Ok(())
        } else {
            Err(now)
        }
    });
    assert_eq!(machine.session("s").0["servers"][0]["leader_pid"], server.pid());
    machine.ask(&["end", "s"]);
    eventually("the daemon has left, and nothing of it", || {
        let left = units();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
