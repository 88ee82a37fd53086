//! What a daemon keeps, and what is kept of a daemon: bugs that were found once, each with its test.

use std::process::Stdio;

use crate::daemon::OnDemand;
use crate::support::{Machine, eventually, lives, offered, subtree_offered};

/// The inotify watches of the daemon, from its fdinfo (proc_pid_fdinfo(5)).
fn event_watches(machine: &Machine) -> usize {
    let directory = format!("/proc/{}/fdinfo", machine.daemon_pid());
    let files = std::fs::read_dir(directory).unwrap().flatten();
    let texts = files.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default());
    texts.map(|text| text.lines().filter(|line| line.starts_with("inotify ")).count()).sum()
}

#[test]
fn the_watches_of_event_files_end_with_their_servers() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    assert_eq!(event_watches(&machine), 0);
    for _ in 0..5 {
        let _server = machine.run(&["--session", "s"], "exec cat");
        machine.session("s");
        assert!(event_watches(&machine) > 0, "a living server is watched");
        assert!(machine.ask(&["end", "s"]).status.success());
    }
    machine.expect_nothing_left();
    assert_eq!(event_watches(&machine), 0);
}

#[test]
fn what_lives_is_listed_and_ended_although_its_daemon_died() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let server = machine.run(&["--session", "s"], "exec cat");
    machine.session("s");
    machine.kill_daemon();
    assert_eq!(machine.sessions().len(), 1, "whoever looks starts the next daemon: {}", machine.log());
    let daemon = OnDemand::of(&machine);
    assert!(machine.ask(&["end", "s"]).status.success());
    eventually("the server is gone", || if lives(server.pid()) { Err("it lives".to_owned()) } else { Ok(()) });
    machine.expect_nothing_left();
    daemon.stop(&machine);
}

#[test]
fn one_daemon_works_on_one_tree() {
    if !offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    let _server = machine.run(&["--session", "s"], "exec cat");
    let leaf = machine.leaf("s");
    let mut second = machine.pinfold(&["serve", "--root"]);
    second.arg(machine.root()).arg("--socket").arg(machine.path("second.sock"));
    let output = second.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    let (pid, socket) = (machine.daemon_pid(), machine.socket().display().to_string());
    let who = format!("{} (process {pid}, which listens at {socket}): ", machine.root().display());
    assert!(told.contains(&format!("another pinfold works below {who}use that one (--socket {socket})")), "{told}");
    assert!(told.contains(&format!("kill {pid}")) && told.contains("another --root"), "{told}");
    assert!(leaf.exists());
}

#[test]
fn a_root_that_is_not_there_is_told_with_what_to_do() {
    if !offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let missing = machine.root().join("not/there");
    let mut daemon = machine.pinfold(&["serve", "--root"]);
    daemon.arg(&missing).arg("--socket").arg(machine.path("second.sock"));
    let output = daemon.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains(&format!("there is no cgroup {}: make it with mkdir", missing.display())), "{told}");
    assert!(!missing.exists());
}

#[test]
fn no_daemon_with_another_root_is_started_for_what_one_that_was_killed_left() {
    if !offered() || !subtree_offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = machine.run(&["--session", "s"], "echo up; exec sleep 1000");
    assert_eq!(server.line(), "up");
    machine.kill_daemon();
    let other = machine.root().join("other");
    std::fs::create_dir(&other).unwrap();
    let mut ls = machine.pinfold(&["ls"]);
    let (variable, _) = machine.place();
    let output = ls.env(variable, &other).stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(told.contains(&format!("pinfold serve --root {} ", machine.root().display())), "{told}");
    eventually("nothing of the other is left", || std::fs::remove_dir(&other).map_err(|error| error.to_string()));
    machine.start();
    assert_eq!(machine.session("s")["servers"][0]["escaped"], false);
    assert!(machine.ask(&["end", "s"]).status.success());
    assert_eq!(server.exit_status(), 128 + 15);
    machine.expect_nothing_left();
}

#[test]
fn a_wrong_configuration_is_no_reason_to_run_uncontained() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let config = machine.path("wrong.toml");
    std::fs::write(&config, "uncontained = \"refuse\"\nmemory_maxx = 1\n").unwrap();
    let mut run = machine.pinfold(&["run", "--uncontained", "--", "echo", "ran"]);
    let output = run.env("PINFOLD_CONFIG", &config).stdin(Stdio::null()).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(125), &b""[..]), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("memory_maxx"), "{output:?}");
}
