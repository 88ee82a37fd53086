//! The daemon as a unit: the installed one, and that a manager has one daemon.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::installed::{Installed, ask, leaders, up, usual};
use crate::support::*;

/// The innermost cgroup of a process.
#[track_caller]
fn unit_of(pid: i32) -> String {
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    cgroup.trim().rsplit('/').next().unwrap().to_owned()
}

#[test]
fn one_daemon_works_with_one_service_manager() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let _server = machine.up(&["--session", "s"], "exec cat");
    let mut second = machine.pinfold(&["serve", "--socket"]);
    let output = second.arg(machine.path("second.sock")).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("another pinfold works with the ") && told.contains("pinfold.sock"), "{told}");
    // Nor does a launch that would start one.
    let mut launch = machine.pinfold(&["run", "--session", "t", "--", "echo", "ran"]);
    let output = launch.env("PINFOLD_SOCKET", machine.path("third.sock")).stdin(Stdio::null()).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(125), &b""[..]), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("another pinfold works with the "), "{told}");
    assert!(machine.session("s").leaf(0).exists());
}

#[test]
fn a_daemon_that_is_killed_leaves_its_manager_to_the_next_at_once() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    machine.kill_daemon();
    drop(machine);
    let machine = Machine::new();
    let _server = machine.up(&["--session", "s"], "exec cat");
}

#[test]
fn the_installed_unit_is_what_systemd_expects() {
    if !offered() {
        return;
    }
    let _installed = Installed::new();
    let manager = if is_system() { "--system" } else { "--user" };
    let verified = Command::new("systemd-analyze").args(["verify", manager, "--man=no", "pinfold.service"]).output();
    let verified = verified.unwrap();
    assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");
}

#[test]
fn a_first_launch_starts_the_installed_unit_and_sessions_live_over_its_restarts() {
    if !offered() {
        return;
    }
    let installed = Installed::new();
    assert_eq!(property("pinfold.service", "ActiveState"), "inactive");
    let server = up("s");
    let first = installed.expect_active(0);
    assert_eq!(unit_of(first), "pinfold.service");
    assert_eq!(property("pinfold.service", "UnitFileState"), "disabled");
    let adj = std::fs::read_to_string(format!("/proc/{first}/oom_score_adj")).unwrap();
    assert_eq!(adj.trim(), if is_system() { "-900" } else { "100" });
    let own = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", server.pid())).unwrap();
    assert_ne!(own, adj, "the server has the daemon's mark");

    let restarted = systemctl(&["restart", "pinfold.service"]);
    assert!(restarted.status.success(), "{restarted:?}");
    let second = installed.expect_active(first);
    assert_eq!(leaders(), [i64::from(server.pid())]);

    signal(second, nix::sys::signal::Signal::SIGKILL);
    let third = installed.expect_active(second);
    assert_eq!(leaders(), [i64::from(server.pid())]);

    let stopped = systemctl(&["stop", "pinfold.service"]);
    assert!(stopped.status.success(), "{stopped:?}");
    assert!(!lives(third) && lives(server.pid()), "what a stop of the unit leaves");
    let other = up("t");
    installed.expect_active(third);
    let mut found = leaders();
    found.sort_unstable();
    let mut wanted = vec![i64::from(server.pid()), i64::from(other.pid())];
    wanted.sort_unstable();
    assert_eq!(found, wanted);

    assert!(ask(&["end", "--all"]).status.success());
    eventually("nothing is left", || if units().is_empty() { Ok(()) } else { Err(format!("{:?}", units())) });
}

#[test]
fn the_manager_keeps_what_is_held_of_a_server_over_a_killed_daemon_and_no_longer() {
    if !offered() {
        return;
    }
    let installed = Installed::new();
    let mut run = usual(&["run", "--session", "s", "--", "sh", "-c", "echo up; exec sleep 1000"]);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Launched::spawn(run);
    assert_eq!(server.line(), "up");
    let first = installed.expect_active(0);
    let kept = |number: &str| {
        eventually("the manager keeps what it should", || match property("pinfold.service", "NFileDescriptorStore") {
            found if found == number => Ok(()),
            found => Err(found),
        });
    };
    kept("2");
    signal(first, nix::sys::signal::Signal::SIGKILL);
    let second = installed.expect_active(first);
    let restarted = systemctl(&["restart", "pinfold.service"]);
    assert!(restarted.status.success(), "{restarted:?}");
    installed.expect_active(second);
    kept("2");
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 128 + 15);
    let told = server.stderr();
    assert!(told.contains("the host closed its stdin"), "{told}");
    kept("0");
}

#[test]
fn a_reload_of_the_installed_unit_changes_limits_in_place_and_a_wrong_file_fails_it_with_its_line() {
    if !offered() {
        return;
    }
    let installed = Installed::new();
    let configure = |memory: &str, pids: &str| {
        installed.configure(&format!("[session]\npids_max = {pids}\n[server]\nmemory_max = '{memory}'\n"));
    };
    let reload = || systemctl(&["reload", "pinfold.service"]);
    configure("300M", "300");
    let server = up("s");
    let daemon = installed.expect_active(0);
    let held = || {
        let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", server.pid())).unwrap();
        let leaf = Path::new("/sys/fs/cgroup").join(cgroup.trim().trim_start_matches("0::/"));
        let slice = leaf.ancestors().find(|path| path.extension().is_some_and(|kind| kind == "slice")).unwrap();
        let unit = slice.file_name().unwrap().to_str().unwrap().to_owned();
        (knob(&leaf, "memory.max"), knob(slice, "pids.max"), property(&unit, "TasksMax"))
    };
    let expected = |mib: u64, pids: &str| ((mib << 20).to_string(), pids.to_owned(), pids.to_owned());
    assert_eq!(held(), expected(300, "300"));
    for (memory, mib, pids) in [("500M", 500, "400"), ("200M", 200, "250")] {
        configure(memory, pids);
        let reloaded = reload();
        assert!(reloaded.status.success(), "{reloaded:?}");
        assert_eq!(held(), expected(mib, pids));
    }
    configure("lots", "100");
    assert!(!reload().status.success(), "the file is wrong");
    assert_eq!(held(), expected(200, "250"));
    let told = ask(&["reload"]);
    let text = String::from_utf8_lossy(&told.stderr);
    assert!(text.contains("pinfold.toml:4:") && text.contains("lots"), "{told:?}");
    assert_eq!((installed.main_pid(), leaders()), (daemon, vec![i64::from(server.pid())]));
}

#[test]
fn an_installed_unit_that_does_not_start_is_told_and_no_other_daemon_takes_its_place() {
    if !offered() {
        return;
    }
    let _installed = Installed::running("false");
    let run = ask(&["run", "--", "echo", "ran"]);
    assert_eq!((run.status.code(), run.stdout.as_slice()), (Some(125), &b""[..]), "{run:?}");
    let told = String::from_utf8_lossy(&run.stderr);
    let look =
        if is_system() { "`systemctl status pinfold.service`" } else { "`systemctl --user status pinfold.service`" };
    assert!(told.contains("cannot start pinfold.service") && told.contains(look), "{told}");
    assert!(units().is_empty(), "{:?}", units());
}

#[test]
fn another_socket_or_configuration_than_the_usual_is_not_the_installed_units() {
    if !offered() {
        return;
    }
    let _installed = Installed::new();
    let machine = Machine::without_daemon("[daemon]\nidle_exit = '1s'\n");
    let mut server = machine.up(&["--session", "s"], "exec cat");
    assert_eq!(property("pinfold.service", "ActiveState"), "inactive");
    assert!(units().iter().any(|unit| unit.starts_with("pinfold-daemon-")), "{:?}", units());
    // And while that daemon works with the manager, the unit says so and does not start.
    let run = usual(&["run", "--", "echo", "ran"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(run.status.code(), Some(125), "{run:?}");
    drop(server.child.stdin.take());
    server.exit_status();
    eventually("the daemon has left", || if units().is_empty() { Ok(()) } else { Err(format!("{:?}", units())) });
}
