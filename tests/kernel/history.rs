//! What ended, as `pinfold history` tells it: beyond daemons, and beyond their deaths.

use std::process::Stdio;

use serde_json::Value;

use crate::servers::{Process, perl, tell};
use crate::support::{Machine, eventually, is_root, offered, on_systemd, signal};

/// What `pinfold history --json OPTIONS…` tells.
#[track_caller]
fn history(machine: &Machine, options: &[&str]) -> Vec<Value> {
    let output = machine.ask(&[&["history", "--json"], options].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The same once it tells of so many.
#[track_caller]
fn history_of(machine: &Machine, count: usize) -> Vec<Value> {
    eventually("the history has it", || {
        let told = history(machine, &[]);
        if told.len() == count { Ok(told) } else { Err(format!("{told:?}: {}", machine.log())) }
    })
}

#[test]
fn what_ended_is_told_by_the_next_daemon_and_by_none_at_all() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    assert_eq!(String::from_utf8(machine.ask(&["history"]).stdout).unwrap(), "nothing ended\n");
    let mut server = machine.run(&["--session", "s", "--server", "fs", "--host", "codex"], "exec cat");
    machine.session("s");
    assert!(machine.ask(&["end", "s"]).status.success());
    server.exit_status();
    // Its stdin is nothing that could be closed first.
    assert!(machine.ask(&["run", "--session", "t", "--server", "web", "--", "true"]).status.success());
    let told = history_of(&machine, 2);
    let facts = |end: &Value| ["session", "server", "host", "cause"].map(|key| end[key].as_str().map(str::to_owned));
    let wanted = |facts: [&str; 4]| facts.map(|fact| Some(fact.to_owned()));
    assert_eq!(facts(&told[0]), wanted(["s", "fs", "codex", "requested"]));
    assert_eq!(facts(&told[1])[..2], wanted(["t", "web", "", ""])[..2]);
    assert!(told[0]["started_at"].as_str() < told[0]["at"].as_str(), "{}", told[0]);
    machine.kill_daemon();
    assert_eq!(history(&machine, &[]), told, "without a daemon");
    machine.start();
    assert_eq!(history(&machine, &[]), told, "by the next one");
    assert_eq!(history(&machine, &["--session", "t"]), told[1..]);
    assert_eq!(history(&machine, &["--limit", "1"]), told[1..], "the latest");
    assert_eq!(history(&machine, &["--since", "1h"]), told);
    assert!(history(&machine, &["--since", "2100-01-01T00:00:00Z"]).is_empty());
    let causes = history(&machine, &["--by", "cause"]);
    let counted: Vec<_> = causes.iter().map(|group| (group["name"].as_str().unwrap(), &group["ends"])).collect();
    assert_eq!(counted, [("leader_exited", &1.into()), ("requested", &1.into())]);
    let page = String::from_utf8(machine.ask(&["history"]).stdout).unwrap();
    assert_eq!(page.lines().count(), 3, "{page}");
    assert!(page.lines().nth(1).unwrap().contains("requested"), "{page}");
    machine.expect_nothing_left();
}

#[test]
fn what_ended_while_no_daemon_ran_is_in_the_history() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = machine.run(&["--session", "s", "--server", "alone"], "exec sleep 1000");
    machine.session("s");
    machine.kill_daemon();
    // Its host has not asked for its exit status yet, so its number is still its own.
    signal(server.pid(), nix::sys::signal::Signal::SIGKILL);
    let leader = Process::of(server.pid());
    eventually("it is a zombie", || if leader.state() == Some('Z') { Ok(()) } else { Err("not yet".to_owned()) });
    machine.start();
    let told = history_of(&machine, 1);
    server.exit_status();
    assert_eq!((&told[0]["server"], &told[0]["cause"]), (&"alone".into(), &"leader_exited".into()));
    assert!(told[0]["processes"].is_null() && told[0]["end_seconds"].is_null(), "nobody saw it: {told:?}");
    machine.expect_nothing_left();
}

#[test]
fn an_end_does_not_wait_for_a_history_that_cannot_be_written() {
    if !offered() {
        return;
    }
    let mut machine = Machine::without_daemon();
    // In the way of the database stands a pipe that nobody writes to: whoever opened it would wait for ever.
    let database = machine.path("pinfold.sock.history.db");
    nix::unistd::mkfifo(&database, nix::sys::stat::Mode::S_IRWXU).unwrap();
    machine.start();
    let mut server = machine.run(&["--session", "s", "--server", "fs"], "exec cat");
    machine.session("s");
    let ended = machine.ask(&["end", "s", "--now", "--json"]);
    assert!(ended.status.success(), "{ended:?}: {}", machine.log());
    server.exit_status();
    machine.expect_nothing_left();
    let lost = "pinfold_history_dropped_total";
    eventually("it is counted as lost", || {
        let dropped = machine.scrape().value(lost);
        if dropped == 1.0 { Ok(()) } else { Err(format!("{dropped}: {}", machine.log())) }
    });
    let log = machine.log();
    assert!(log.contains("what ends is not kept until this is mended"), "{log}");
    let told = machine.ask(&["history"]);
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.starts_with("pinfold: the history cannot be told: "), "{told}");
    assert_eq!(machine.stop_daemon(), 0);
}

#[test]
fn another_user_is_told_of_its_own_ends_alone() {
    if !offered() || !is_root() {
        return;
    }
    let machine = Machine::new();
    assert_eq!(machine.run(&["--session", "s", "--server", "fs"], "exit 0").exit_status(), 0);
    history_of(&machine, 1);
    // Whoever is in the group of the socket may ask.
    let socket = machine.socket();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&socket, open).unwrap();
    let mut ask = machine.pinfold(&["history", "--json"]);
    std::os::unix::process::CommandExt::uid(&mut ask, 12_345);
    let output = ask.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "[]");
    let mode = std::fs::metadata(machine.path("pinfold.sock.history.db")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
    machine.expect_nothing_left();
}

#[test]
fn a_memory_kill_shows_its_reason_wherever_an_operator_looks() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let options = ["--session", "s", "--server", "hog", "--host", "codex", "--memory-max", "40M"];
    let mut hog = perl(&machine, &options, "<STDIN>; grow(200); rest");
    machine.session("s");
    tell(&mut hog);
    assert_eq!(hog.exit_status(), 128 + 9, "{}", machine.log());
    let kept = history_of(&machine, 1);
    let of_server = |told: &Value| (told["cause"].as_str() == Some("memory"), told["level"].as_str() == Some("server"));
    assert_eq!(of_server(&kept[0]), (true, true), "{kept:?}");
    // systemd removes the cgroup of a scope that is empty, and its peak with it, perhaps before it was read.
    let peak = kept[0]["peak_bytes"].as_u64();
    assert!(peak.map_or(on_systemd(), |peak| peak >= 30 << 20), "{kept:?}");
    let reason = "memory ran out: ";
    let stderr = hog.stderr();
    assert!(stderr.contains("server hog of session s") && stderr.contains(reason), "{stderr}");
    let events = String::from_utf8(machine.ask(&["events"]).stdout).unwrap();
    assert!(events.lines().any(|line| line.contains(" ended ") && line.contains(reason)), "{events}");
    let page = String::from_utf8(machine.ask(&["history"]).stdout).unwrap();
    assert!(page.lines().nth(1).unwrap().contains("memory"), "{page}");
    let scraped = machine.scrape();
    for sample in [
        "pinfold_ends_total{cause=\"memory\",host=\"codex\",server=\"hog\"}",
        "pinfold_memory_kills_total{host=\"codex\",level=\"server\",server=\"hog\"}",
    ] {
        assert_eq!(scraped.value(sample), 1.0, "{}", scraped.body);
    }
    let log = machine.log();
    assert!(log.lines().any(|line| line.contains("hog") && line.contains(reason)), "{log}");
    machine.expect_nothing_left();
}
