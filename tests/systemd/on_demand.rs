//! The daemon that a first launch starts: a service of the manager, not a part of its host.

use std::path::Path;
use std::process::Stdio;

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

/// `pinfold run` in a unit, and there in a mount namespace that has a directory, and a copy of the binary in it, which no
/// manager sees.
fn run_unseen(machine: &Machine, program: &Path, socket: &Path) -> Launched {
    let unseen = machine.path("unseen");
    let mut run = std::process::Command::new("systemd-run");
    run.arg(if is_system() { "--system" } else { "--user" });
    run.args(["--quiet", "--wait", "--pipe", "--collect", "--service-type=exec", "--unit=host-of-test"]);
    for (name, value) in [("PINFOLD_SOCKET", socket), ("PINFOLD_CONFIG", &machine.path("pinfold.toml"))] {
        run.arg(format!("--setenv={name}={}", value.display()));
    }
    run.args(["--", "bwrap", "--dev-bind", "/", "/", "--tmpfs"]).arg(&unseen);
    run.arg("--bind").arg(binary()).arg(unseen.join("pinfold"));
    run.arg("--").arg(program).args(["run", "--session", "s", "--", "sh", "-c", "echo up; exec cat"]);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Launched::spawn(run)
}

#[test]
fn where_no_service_can_be_started_the_daemon_moves_to_a_scope_of_its_own() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon("[daemon]\nidle_exit = '5s'\n");
    let unseen = machine.path("unseen");
    std::fs::create_dir(&unseen).unwrap();
    // The manager cannot execute what it does not see; or its service listens where the launcher does not find it.
    for (program, socket) in
        [(unseen.join("pinfold"), machine.socket()), (binary().into(), unseen.join("pinfold.sock"))]
    {
        let mut server = run_unseen(&machine, &program, &socket);
        let line = server.line();
        assert_eq!(line, "up", "{}", if line.is_empty() { server.stderr() } else { String::new() });
        let scope = units().into_iter().find(|unit| unit.starts_with("pinfold-daemon") && unit.ends_with(".scope"));
        let scope = scope.unwrap_or_else(|| panic!("no daemon's scope: {:?}", units()));
        let cgroup = property(&scope, "ControlGroup");
        let pids = knob(Path::new(&format!("/sys/fs/cgroup{cgroup}")), "cgroup.procs");
        let comm = std::fs::read_to_string(format!("/proc/{pids}/comm")).unwrap();
        assert_eq!(comm.trim(), "pinfold", "{pids}");
        let stopped = systemctl(&["stop", "host-of-test.service"]);
        assert!(
            stopped.status.success() && lives(pids.parse().unwrap()),
            "the daemon ended with its host; {stopped:?}"
        );
        server.exit_status();
        eventually("the daemon has left, and nothing of it", || {
            let left = units();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
}
