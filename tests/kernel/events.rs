//! What happened, as `pinfold events` tells it.

use std::process::Stdio;

use serde_json::Value;

use crate::servers::{perl, tell};
use crate::support::{Launched, Machine, binary, eventually, offered};
use crate::top::Terminal;

/// What happened so far, from `pinfold events --json OPTIONS…`.
#[track_caller]
fn events(machine: &Machine, options: &[&str]) -> Vec<Value> {
    let output = machine.ask(&[&["events", "--json"], options].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

#[test]
fn what_happens_to_a_session_is_told_once_in_order_and_with_its_cause() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[daemon]\nservers_max = 1\n");
    let mut server = machine.run(&["--session", "s", "--server", "fs"], "exec cat");
    machine.session("s");
    let refused = machine.ask(&["run", "--session", "t", "--server", "web", "--", "true"]);
    assert_eq!(refused.status.code(), Some(125), "{refused:?}");
    assert!(machine.ask(&["end", "s"]).status.success());
    server.exit_status();
    let told = events(&machine, &[]);
    assert_eq!(kinds(&told), ["launched", "refused", "ended"], "{told:?}");
    assert_eq!(told.iter().map(|event| event["number"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(
        (&told[0]["session"], &told[0]["server"], &told[0]["pid"]),
        (&"s".into(), &"fs".into(), &server.pid().into())
    );
    assert!(told[1]["reason"].as_str().unwrap().contains("servers_max"), "{}", told[1]);
    assert_eq!((&told[2]["cause"], &told[2]["leaf"]), (&"requested".into(), &told[0]["leaf"]));
    assert!(told[2]["lifetime_seconds"].as_f64() >= told[2]["end_seconds"].as_f64(), "{}", told[2]);
    assert_eq!(kinds(&events(&machine, &["--session", "s"])), ["launched", "ended"]);
    let page = String::from_utf8(machine.ask(&["events"]).stdout).unwrap();
    assert!(page.contains("  ended server fs of session s: its end was requested, "), "{page}");
    machine.expect_nothing_left();
}

#[test]
fn whoever_follows_sees_what_was_and_then_what_happens() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    assert!(machine.ask(&["run", "--session", "s", "--server", "before", "--", "true"]).status.success());
    eventually("its end is told", || {
        let told = events(&machine, &[]);
        if kinds(&told) == ["launched", "ended"] { Ok(()) } else { Err(format!("{told:?}")) }
    });
    let mut follow = machine.pinfold(&["events", "--follow", "--json", "--session", "s"]);
    follow.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut follower = Launched::spawn(follow);
    let mut next = || serde_json::from_str::<Value>(&follower.line()).unwrap();
    assert_eq!([next(), next()].map(|event| event["server"].clone()), ["before", "before"]);
    for session in ["another", "s"] {
        assert!(machine.ask(&["run", "--session", session, "--server", "after", "--", "true"]).status.success());
    }
    let told = [next(), next()];
    assert_eq!(kinds(&told), ["launched", "ended"]);
    assert_eq!(told.map(|event| event["session"].clone()), ["s", "s"]);
    let _ = follower.child.kill();
}

#[test]
fn what_happened_is_told_since_a_time_or_for_how_long() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    for (server, session) in [("one", "a"), ("two", "b")] {
        let ran = machine.ask(&["run", "--session", session, "--server", server, "--", "true"]);
        assert!(ran.status.success(), "{ran:?}");
    }
    let all = eventually("both ends are told", || {
        let told = events(&machine, &[]);
        if told.len() == 4 { Ok(told) } else { Err(format!("{told:?}")) }
    });
    // At exactly that time is since then.
    let second = all.iter().position(|event| event["server"] == "two").unwrap();
    let since = all[second]["at"].as_str().unwrap();
    assert_eq!(events(&machine, &["--since", since]), all[second..]);
    assert_eq!(events(&machine, &["--since", "1h", "--session", "a"]).len(), 2);
    let tomorrow = machine.ask(&["events", "--since", "2999-01-01T00:00:00Z"]);
    assert_eq!(String::from_utf8(tomorrow.stdout).unwrap(), "no events\n");
    let wrong = machine.ask(&["events", "--since", "yesterday"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

#[test]
fn people_who_follow_are_shown_where_the_past_ends_and_programs_are_not() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mark = "--- that was until now";
    let mut command = machine.pinfold(&["events", "--follow"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut piped = Launched::spawn(command);
    assert!(machine.ask(&["run", "--session", "s", "--server", "before", "--", "true"]).status.success());
    assert!(piped.line().contains("launched server before") && piped.line().contains("ended server before"));
    let _ = piped.child.kill();
    let Some(terminal) = Terminal::open(&machine, (100, 24)) else { return };
    terminal.press(&[&format!("'{}' events --follow", binary()), "Enter"]);
    let shown = terminal.expect(mark);
    assert!(shown.find("ended server before") < shown.find(mark), "{shown}");
    assert!(machine.ask(&["run", "--session", "s", "--server", "after", "--", "true"]).status.success());
    let shown = terminal.expect("ended server after");
    assert!(shown.find(mark) < shown.find("launched server after"), "{shown}");
    assert_eq!(shown.matches(mark).count(), 1, "{shown}");
}

#[test]
fn the_next_daemon_tells_what_it_found_alive_and_what_ended_unseen() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut stays = machine.run(&["--session", "s", "--server", "stays"], "exec cat");
    let mut goes = machine.run(&["--session", "t", "--server", "goes"], "read line");
    machine.session("s");
    machine.session("t");
    machine.kill_daemon();
    drop(goes.child.stdin.take());
    goes.exit_status();
    machine.start();
    let told = events(&machine, &[]);
    let of = |server: &str| told.iter().filter(|event| event["server"] == server).cloned().collect::<Vec<_>>();
    assert_eq!(kinds(&of("stays")), ["adopted"], "{told:?}");
    let ended = of("goes");
    assert_eq!((kinds(&ended), &ended[0]["cause"]), (vec!["ended"], &"leader_exited".into()), "{told:?}");
    assert!(ended[0]["end_seconds"].is_null(), "{ended:?}");
    assert!(machine.ask(&["end", "s"]).status.success());
    stays.exit_status();
}

#[test]
fn a_memory_kill_and_a_storm_are_told_once_each_and_before_what_follows_from_them() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[launches]\nburst = 1\nevery = '1h'\nwait_max = '0s'\n");
    // More than one process, all of which the kernel kills.
    let script = "my $child = child { rest }; <STDIN>; grow(200); rest";
    let mut hog = perl(&machine, &["--session", "s", "--server", "hog", "--memory-max", "40M"], script);
    machine.session("s");
    tell(&mut hog);
    assert_eq!(hog.exit_status(), 128 + 9, "{}", machine.log());
    let told = eventually("the end is told", || {
        let told = events(&machine, &["--session", "s"]);
        if kinds(&told).contains(&"ended") { Ok(told) } else { Err(format!("{told:?}")) }
    });
    assert_eq!(kinds(&told), ["launched", "memory_kill", "ended"], "{told:?}");
    assert_eq!(
        (&told[1]["level"], &told[2]["cause"], &told[2]["level"]),
        (&"server".into(), &"memory".into(), &"server".into())
    );
    assert!(told[2]["peak_bytes"].as_u64().unwrap() >= 30 << 20, "{}", told[2]);
    for _ in 0..2 {
        assert_eq!(machine.ask(&["run", "--server", "hog", "--", "true"]).status.code(), Some(125));
    }
    let told = events(&machine, &[]);
    assert_eq!(kinds(&told)[3..], ["storm", "refused", "refused"], "{told:?}");
    assert_eq!(told[3]["owner_pid"], std::process::id(), "{}", told[3]);
    machine.expect_nothing_left();
}
