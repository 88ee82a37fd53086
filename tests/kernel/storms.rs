//! Servers that are launched again and again.

use std::io::Write;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::hosts::waits_for_an_answer;
use crate::support::{Launched, Machine, eventually, offered};

/// `pinfold run OPTIONS… -- echo ran`, in a session of its own each time.
#[track_caller]
fn launch(machine: &Machine, options: &[&str]) -> Output {
    machine.ask(&[&["run"], options, &["--", "echo", "ran"]].concat())
}

#[track_caller]
fn ran(output: &Output) {
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"ran\n"[..]), "{output:?}");
}

#[track_caller]
fn refused(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(125), &b""[..]), "{text}");
    text
}

/// What the daemon has counted.
#[track_caller]
fn count(machine: &Machine, what: &str) -> u64 {
    machine.described()[what].as_u64().unwrap()
}

#[test]
fn a_crash_loop_waits_and_is_refused_while_other_servers_of_its_host_go_on() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[launches]\nburst = 3\nevery = '1h'\nwait_max = '2s'\n");
    for _ in 0..3 {
        ran(&launch(&machine, &["--server", "crash"]));
    }
    let start = Instant::now();
    let told = refused(&launch(&machine, &["--server", "crash", "--session", "a new one"]));
    assert!(start.elapsed() >= Duration::from_secs(2), "it did not wait: {:?}", start.elapsed());
    let process = std::process::id();
    assert!(told.contains(&format!("server crash is launched too often by process {process} (")), "{told}");
    assert!(told.contains("3 at once and then one every 3600 s") && told.contains("raise burst under"), "{told}");
    let waits = format!("pinfold: server crash waits for its turn, for at most 1 s: process {process} (");
    assert_eq!(told.lines().filter(|line| line.starts_with(&waits)).count(), 1, "{told}");
    assert_eq!(told.lines().count(), 2, "{told}");
    // Whoever asks to run without containment where that cannot be had does not get around it.
    refused(&launch(&machine, &["--server", "crash", "--uncontained"]));
    ran(&launch(&machine, &["--server", "another"]));
    assert_eq!([count(&machine, "storms"), count(&machine, "delayed"), count(&machine, "refusals")], [1, 2, 2]);
    assert_eq!(machine.log().matches("a server is launched too often").count(), 1, "it is told once for each storm");
    machine.expect_nothing_left();
}

#[test]
fn while_one_server_waits_for_its_turn_others_of_its_host_are_launched() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[launches]\nburst = 1\nevery = '1h'\nwait_max = '10s'\n");
    ran(&launch(&machine, &["--server", "crash"]));
    let mut waits = machine.launch(&["--server", "crash"], &["true"]);
    eventually("it waits", || if count(&machine, "delayed") == 1 { Ok(()) } else { Err(machine.log()) });
    ran(&launch(&machine, &["--server", "another"]));
    assert_eq!(waits.exit_status(), 125);
    machine.expect_nothing_left();
}

#[test]
fn a_launch_beyond_the_burst_goes_ahead_when_its_turn_comes() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[launches]\nburst = 1\nevery = '2s'\nwait_max = '10s'\n");
    let start = Instant::now();
    for turn in 0..3 {
        ran(&launch(&machine, &["--server", "again"]));
        assert!(start.elapsed() >= Duration::from_secs(2) * turn, "too early: {:?}", start.elapsed());
    }
    assert_eq!(count(&machine, "refusals"), 0);
    machine.expect_nothing_left();
}

#[test]
fn a_launcher_that_is_killed_while_it_waits_leaves_nothing() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[launches]\nburst = 1\nevery = '1h'\nwait_max = '10s'\n");
    ran(&launch(&machine, &["--server", "crash"]));
    let mut waits = machine.launch(&["--server", "crash"], &["true"]);
    eventually("it waits", || if count(&machine, "delayed") == 1 { Ok(()) } else { Err(machine.log()) });
    eventually("it sleeps", || waits_for_an_answer(waits.pid()));
    waits.child.kill().unwrap();
    assert_eq!(waits.exit_status(), 128 + 9);
    // Its stdin is let go at once: a host that writes to it finds that nobody reads.
    let mut stdin = waits.child.stdin.take().unwrap();
    eventually("nobody reads its stdin", || match stdin.write(b" ") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Err(format!("{other:?}; {}", machine.log())),
    });
    assert!(machine.log().contains("a launcher is gone before its turn came"), "{}", machine.log());
    assert_eq!(count(&machine, "refusals"), 0);
    machine.expect_nothing_left();
}

#[test]
fn an_owner_that_comes_back_as_another_process_is_not_new() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[launches]\nburst = 1\nevery = '1h'\nwait_max = '0s'\n");
    let comes = || {
        let mut command = machine.host_command("crasher", "\"$PINFOLD\" run --server crash -- echo ran; exit $?");
        command.stdin(Stdio::null());
        let mut owner = Launched::spawn(command);
        let status = owner.exit_status();
        (status, owner.stderr())
    };
    for _ in 0..4 {
        let (status, told) = comes();
        assert_eq!(status, 0, "{told}");
    }
    let (status, told) = comes();
    assert!(status == 125 && told.contains("server crash is launched too often by process "), "{told}");
    machine.expect_nothing_left();
}

#[test]
fn fifty_sessions_that_start_the_same_server_at_once_are_no_storm() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let servers: Vec<Launched> = (0..50)
        .map(|number| machine.run(&["--session", &format!("s{number}"), "--server", "fs"], "echo ran"))
        .collect();
    for mut server in servers {
        assert_eq!(server.exit_status(), 0, "{}", server.stderr());
    }
    assert_eq!([count(&machine, "launches"), count(&machine, "delayed"), count(&machine, "storms")], [50, 0, 0]);
    machine.expect_nothing_left();
}
