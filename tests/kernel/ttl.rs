//! A session's time-to-live: it counts from the first launch, whatever becomes of the daemon, and its end says why.

use std::time::{Duration, Instant};

use crate::hosts::status_field;
use crate::support::{Machine, eventually, lives, offered, slowness};

const TTL: &str = "[session]\nttl = '3s'\n";

#[test]
fn a_session_whose_time_to_live_is_over_ends_and_says_why() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config(TTL);
    let start = Instant::now();
    let mut first = machine.run(&["--session", "s", "--server", "first"], "echo up; setsid sleep 1000 & exec cat");
    assert_eq!(first.line(), "up");
    let shown = machine.session("s");
    assert_eq!(shown["ttl"], "3s");
    let at = shown["expires_at"].as_str().unwrap().to_owned();
    let page = machine.ask(&["status", "s"]);
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains(" Expires: ") && page.contains(", 3s after its first launch"), "{page}");
    std::thread::sleep(Duration::from_secs(1));
    let mut second = machine.run(&["--session", "s", "--server", "second"], "echo up; exec cat");
    assert_eq!(second.line(), "up");
    let moved = (seconds(machine.session("s")["expires_at"].as_str().unwrap()) + 3600 - seconds(&at)) % 3600;
    assert!(moved <= 1 || moved == 3599, "a second launch does not put it off: by {moved} s from {at}");
    for (server, name) in [(&mut first, "first"), (&mut second, "second")] {
        assert_eq!(server.exit_status(), 128 + 15);
        let told = server.stderr();
        let expected = format!("ended server {name} of session s: its session's time-to-live of 3s is over");
        assert!(told.contains(&expected), "{told:?}");
    }
    let took = start.elapsed();
    let latest = Duration::from_secs(3) + Duration::from_secs(2) * slowness();
    assert!(took >= Duration::from_secs(3) && took < latest, "{took:?}");
    assert_eq!(machine.log().matches("cause=\"expired\"").count(), 2, "{}", machine.log());
    machine.expect_nothing_left();
}

/// The minutes and seconds of a moment in RFC 3339, in seconds.
fn seconds(text: &str) -> u64 {
    let number = |range: std::ops::Range<usize>| text[range].parse::<u64>().unwrap();
    number(14..16) * 60 + number(17..19)
}

#[test]
fn a_session_without_a_time_to_live_shows_none() {
    if !offered() {
        return;
    }
    let machine =
        Machine::with_config("[session]\nttl = '1s'\n[[rule]]\nwhen.session = 'long-*'\nsession.ttl = 'infinity'\n");
    let server = machine.run(&["--session", "long-1"], "exec cat");
    let shown = machine.session("long-1");
    assert!(shown["ttl"].is_null() && shown["expires_at"].is_null(), "{shown}");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(lives(server.pid()) && machine.session("long-1")["state"] == "running");
}

#[test]
fn a_restart_of_the_daemon_does_not_put_off_the_end_of_a_time_to_live() {
    if !offered() {
        return;
    }
    // What lies between must fit in it, on a slow machine too.
    let ttl = 3 * slowness();
    let mut machine = Machine::with_config(&format!("[session]\nttl = '{ttl}s'\n"));
    let start = Instant::now();
    let mut server = machine.run(&["--session", "s"], "echo up; exec cat");
    assert_eq!(server.line(), "up");
    // What is written later holds for sessions that begin later.
    std::fs::write(machine.path("pinfold.toml"), "[session]\nttl = '30d'\n").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    machine.kill_daemon();
    machine.start();
    assert_eq!(machine.session("s")["ttl"], format!("{ttl}s"));
    assert_eq!(server.exit_status(), 128 + 15);
    let took = start.elapsed();
    let ttl = Duration::from_secs(ttl.into());
    assert!(took >= ttl && took < ttl + Duration::from_secs(2) * slowness(), "{took:?}");
    eventually("the cause is told", || {
        let log = machine.log();
        if log.contains("cause=\"expired\"") { Ok(()) } else { Err(log) }
    });
    machine.expect_nothing_left();
}

#[test]
fn a_time_to_live_that_is_over_while_no_daemon_runs_ends_the_session_at_the_next_start() {
    if !offered() {
        return;
    }
    let mut machine = Machine::with_config("[session]\nttl = '1s'\n");
    let mut server = machine.run(&["--session", "s"], "echo up; exec cat");
    assert_eq!(server.line(), "up");
    machine.kill_daemon();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(lives(server.pid()));
    machine.start();
    assert_eq!(server.exit_status(), 128 + 15);
    machine.expect_nothing_left();
    assert!(machine.log().contains("cause=\"expired\""), "{}", machine.log());
}

#[test]
fn a_launch_while_what_had_its_time_still_ends_begins_another_time_to_live() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[session]\nttl = '1s'\n[server]\ngrace = '4s'\n");
    let mut deaf =
        machine.run(&["--session", "s", "--server", "deaf"], "trap '' TERM; echo up; while :; do sleep 1; done");
    assert_eq!(deaf.line(), "up");
    eventually("its time is over and it still ends", || {
        let shown = machine.sessions();
        if shown[0]["servers"][0]["state"] == "ending" { Ok(()) } else { Err(format!("{shown:?}")) }
    });
    let mut next = machine.run(&["--session", "s", "--server", "next"], "echo up; exec cat");
    let wakes = || status_field(machine.daemon_pid(), "voluntary_ctxt_switches").parse::<u64>().unwrap();
    assert_eq!(next.line(), "up", "{}", machine.log());
    let (before, start) = (wakes(), Instant::now());
    assert!(lives(deaf.pid()), "the launch met it while it ended");
    assert_eq!(next.exit_status(), 128 + 15);
    assert!(start.elapsed() > Duration::from_millis(500), "it had a time of its own: {:?}", start.elapsed());
    assert!(next.stderr().contains("its session's time-to-live of 1s is over"));
    assert!(wakes() - before < 100, "{} wakes in {:?}", wakes() - before, start.elapsed());
    assert_eq!(deaf.exit_status(), 128 + 9);
    machine.expect_nothing_left();
}
