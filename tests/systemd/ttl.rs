//! A session's time-to-live is systemd's to hold as well: it stops what a dead daemon would have ended.

use std::time::{Duration, Instant};

use crate::support::*;

/// `RuntimeMaxUSec` of a unit, as seconds. systemctl shows it as systemd.time(7) has it, here at most in minutes.
fn runtime_max(unit: &str) -> u64 {
    let shown = property(unit, "RuntimeMaxUSec");
    let parts = shown.split(' ').map(|part| match part.trim_end_matches(char::is_alphabetic) {
        minutes if part.ends_with("min") => minutes.parse::<f64>().unwrap() * 60.0,
        hours if part.ends_with('h') => hours.parse::<f64>().unwrap() * 3600.0,
        millis if part.ends_with("ms") => millis.parse::<f64>().unwrap() / 1000.0,
        micros if part.ends_with("us") => micros.parse::<f64>().unwrap() / 1e6,
        seconds => seconds.parse::<f64>().unwrap_or_else(|_| panic!("{shown:?}")),
    });
    parts.sum::<f64>().round() as u64
}

#[test]
fn a_scope_is_given_what_is_left_of_the_time_to_live_and_some_more() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config(
        "[session]\nttl = '1h'\n[server]\ngrace = '5s'\n[[rule]]\nwhen.session = 'free'\nsession.ttl = 'infinity'\n",
    );
    let _free = machine.up(&["--session", "free"], "exec cat");
    assert_eq!(property(&machine.session("free").scope(0), "RuntimeMaxUSec"), "infinity");
    let _one = machine.up(&["--session", "s"], "exec cat");
    let given = runtime_max(&machine.session("s").scope(0));
    assert!((3610..=3615).contains(&given), "the hour, the grace and a margin: {given}");
    machine.ask(&["end", "--all"]);
    machine.expect_nothing_left();
}

#[test]
fn a_time_to_live_that_is_over_ends_the_session_before_systemd_does() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[session]\nttl = '3s'\n");
    let mut server = machine.up(&["--session", "s"], "exec cat");
    assert_eq!(server.exit_status(), 128 + 15);
    let told = server.stderr();
    assert!(told.contains("its session's time-to-live of 3s is over"), "{told}; {}", machine.log());
    machine.expect_nothing_left();
}

#[test]
fn systemd_ends_a_session_whose_time_is_over_while_no_daemon_runs_and_the_next_one_sweeps_it() {
    if !offered() {
        return;
    }
    let mut machine = Machine::with_config("[session]\nttl = '10s'\n[server]\ngrace = '1s'\n");
    let start = Instant::now();
    let mut server = machine.up(&["--session", "s"], "setsid sh -c 'trap \"\" TERM; echo up; sleep 1000' & exec cat");
    assert_eq!(server.line(), "up");
    let session = machine.session("s");
    let left_behind = processes(&session.leaf(0));
    assert!(left_behind.len() > 1, "{left_behind:?}");
    machine.kill_daemon();
    assert_eq!(server.exit_status(), 128 + 15);
    assert!(start.elapsed() > Duration::from_secs(20), "a living daemon would have been first: {:?}", start.elapsed());
    eventually("systemd killed what ignores SIGTERM", || {
        let left: Vec<_> = left_behind.iter().filter(|pid| lives(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    eventually("it removed the scope", || if session.leaf(0).exists() { Err("it is there".into()) } else { Ok(()) });
    machine.start();
    machine.expect_nothing_left();
}

#[test]
fn a_launch_that_may_live_for_longer_than_a_scope_gets_another_one() {
    if !offered() {
        return;
    }
    let mut machine = Machine::with_config("[session]\nttl = '10min'\n");
    let up = |machine: &Machine, name, grace| {
        let server = machine.up(&["--session", "s", "--server", name, "--grace", grace], "exec cat");
        let session = machine.session("s");
        let index = session.0["servers"].as_array().unwrap().iter().position(|server| server["name"] == name);
        (session.scope(index.unwrap()), server)
    };
    let (one, _first) = up(&machine, "one", "3s");
    let (two, _second) = up(&machine, "two", "3s");
    let (three, _third) = up(&machine, "three", "1min");
    assert_eq!(one, two);
    assert_ne!(one, three, "its grace ends after systemd would stop the first");
    machine.kill_daemon();
    machine.start();
    let (four, _fourth) = up(&machine, "four", "1min");
    let (five, _fifth) = up(&machine, "five", "2min");
    assert_eq!(four, three, "what a scope was given is read from the manager");
    assert!(five != one && five != three);
    assert!(runtime_max(&five) > runtime_max(&three) + 30);
    machine.ask(&["end", "s"]);
    machine.expect_nothing_left();
}

#[test]
fn a_launch_while_what_had_its_time_still_ends_is_not_stopped_with_it() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[session]\nttl = '10s'\n[server]\ngrace = '60s'\n");
    let mut deaf = machine.up(&["--session", "s"], "trap '' TERM; while :; do sleep 1; done");
    eventually("its time is over and it still ends", || {
        let shown = machine.sessions();
        if shown[0]["servers"][0]["state"] == "ending" { Ok(()) } else { Err(format!("{shown:?}")) }
    });
    let mut next = machine.up(&["--session", "s"], "exec cat");
    let session = machine.session("s");
    assert_ne!(session.scope(0), session.scope(1));
    assert_eq!(next.exit_status(), 128 + 15);
    assert!(next.stderr().contains("its session's time-to-live of 10s is over"));
    machine.ask(&["end", "s", "--now"]);
    assert_eq!(deaf.exit_status(), 128 + 9);
    machine.expect_nothing_left();
}
