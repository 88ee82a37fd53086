//! What is admitted: instances of one server, and how much there may be of everything.

use std::process::{Output, Stdio};

use crate::hosts::server_names;
use crate::support::{Launched, Machine, binary, eventually, offered, root_offered};

/// Lives until its stdin is closed.
const LIVES: &str = "echo up; exec cat";

#[track_caller]
fn launch(machine: &Machine, options: &[&str]) -> Launched {
    up(machine.run(options, LIVES))
}

#[track_caller]
fn up(mut server: Launched) -> Launched {
    let line = server.line();
    assert_eq!(line, "up", "{}", server.stderr());
    server
}

/// That a launch is refused, and what it is told.
#[track_caller]
fn refused(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(125), &b""[..]), "{text}");
    assert!(text.contains("not launched: "), "{text}");
    text
}

/// Waits until the session has so many servers, none of which ends.
#[track_caller]
fn expect_servers(machine: &Machine, session: &str, count: usize) {
    eventually(&format!("{count} servers run in session {session}"), || {
        let sessions = machine.sessions();
        let servers = sessions.iter().find(|found| found["id"] == session).map(|found| found["servers"].clone());
        let servers = servers.and_then(|servers| servers.as_array().cloned()).unwrap_or_default();
        let run = servers.iter().all(|server| server["state"] == "running");
        if run && servers.len() == count { Ok(()) } else { Err(format!("{servers:?}; {}", machine.log())) }
    });
}

#[track_caller]
fn expect_replaced(mut server: Launched) {
    assert_eq!(server.exit_status(), 128 + 15);
    let told = server.stderr();
    assert!(told.contains("it was launched again in its session"), "{told}");
}

#[test]
fn the_oldest_instance_beyond_the_most_is_ended_once_the_new_one_is_placed() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ninstances_max = 2\n");
    let fs = ["--session", "s", "--server", "fs"];
    let first = launch(&machine, &fs);
    let (_second, _other) = (launch(&machine, &fs), launch(&machine, &["--session", "s", "--server", "git"]));
    let _elsewhere = launch(&machine, &["--session", "t", "--server", "fs"]);
    expect_servers(&machine, "s", 3);
    let _third = launch(&machine, &fs);
    expect_replaced(first);
    expect_servers(&machine, "s", 3);
    expect_servers(&machine, "t", 1);
    assert_eq!(server_names(&machine.session("s")), ["fs", "git", "fs"]);
    assert!(machine.log().contains("cause=\"replaced\""));
    machine.ask(&["end", "--all"]);
    machine.expect_nothing_left();
}

#[test]
fn without_a_name_the_same_command_in_the_same_directory_is_the_same_server() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ninstances_max = 1\n");
    let with_secret =
        |secret: &str| up(machine.launch(&["--session", "s"], &["sh", "-c", LIVES, "sh", "--token", secret]));
    let first = with_secret("one");
    // Another word, even where it is a secret that nobody is shown; another directory.
    let _other = with_secret("two");
    let mut elsewhere = machine.pinfold(&["run", "--session", "s", "--", "sh", "-c", LIVES, "sh", "--token", "one"]);
    elsewhere.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let _elsewhere = up(Launched::spawn(elsewhere));
    expect_servers(&machine, "s", 3);
    let _again = with_secret("one");
    expect_replaced(first);
    expect_servers(&machine, "s", 3);
    machine.ask(&["end", "--all"]);
    machine.expect_nothing_left();
}

#[test]
fn launches_that_are_sessions_of_their_own_replace_nothing() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ninstances_max = 1\n");
    let own: Vec<Launched> = (0..3).map(|_| launch(&machine, &["--server", "fs"])).collect();
    // Nor does what is launched from inside of one.
    let inside = format!("{} run --server git -- sh -c 'echo up; exec sleep 1000' & ", binary());
    let mut nest = machine.run(&["--server", "nest"], &format!("{inside} {inside} wait"));
    assert_eq!((nest.line(), nest.line()), ("up".into(), "up".into()));
    let sessions = machine.sessions();
    assert_eq!(sessions.len(), 4, "{sessions:?}");
    let servers: usize = sessions.iter().map(|session| session["servers"].as_array().unwrap().len()).sum();
    assert_eq!(servers, 6, "{sessions:?}");
    assert!(!machine.log().contains("replaced"), "{}", machine.log());
    machine.ask(&["end", "--all", "--now"]);
    drop((own, nest));
    machine.expect_nothing_left();
}

#[test]
fn a_launch_that_fails_costs_no_instance() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ninstances_max = 1\n");
    let fs = ["--session", "s", "--server", "fs"];
    let _first = launch(&machine, &fs);
    let too_little = [&["run"], &fs[..], &["--memory-max", "1M", "--", "true"]].concat();
    refused(&machine.ask(&too_little));
    expect_servers(&machine, "s", 1);
    assert!(!machine.log().contains("replaced"), "{}", machine.log());
    machine.ask(&["end", "--all"]);
    machine.expect_nothing_left();
}

#[test]
fn an_instance_is_replaced_also_by_a_later_daemon() {
    if !offered() {
        return;
    }
    let mut machine = Machine::with_config("[server]\ninstances_max = 1\ngrace = '5s'\n");
    let (named, unnamed) = (["--session", "s", "--server", "fs"], ["--session", "t"]);
    let (first, second) = (launch(&machine, &named), launch(&machine, &unnamed));
    machine.kill_daemon();
    machine.start();
    let (mut again, _other) = (launch(&machine, &named), launch(&machine, &unnamed));
    for mut replaced in [first, second] {
        assert_eq!(replaced.exit_status(), 128 + 15);
    }
    // One that takes its time is still ended for that when its daemon is gone meanwhile.
    drop(again.child.stdin.take());
    assert_eq!(again.exit_status(), 0);
    let stays = "trap '' TERM; echo up; while :; do sleep 1; done";
    let mut stays = up(machine.run(&named, stays));
    let _last = launch(&machine, &named);
    eventually("its end has begun", || {
        let session = machine.sessions().into_iter().find(|session| session["id"] == "s").unwrap_or_default();
        let states: Vec<_> = session["servers"].as_array().into_iter().flatten().map(|one| &one["state"]).collect();
        if states.iter().any(|state| **state == "ending") { Ok(()) } else { Err(format!("{session}")) }
    });
    machine.kill_daemon();
    machine.start();
    assert_eq!(stays.exit_status(), 128 + 9);
    expect_servers(&machine, "s", 1);
    assert_eq!(machine.log().matches("cause=\"replaced\"").count(), 3, "{}", machine.log());
    machine.ask(&["end", "--all"]);
    machine.expect_nothing_left();
}

#[test]
fn where_the_configuration_says_so_one_more_instance_is_refused() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ninstances_max = 1\non_excess = 'refuse'\n");
    let fs = ["--session", "s", "--server", "fs"];
    let mut first = launch(&machine, &fs);
    let more = [&["run", "--uncontained"], &fs[..], &["--", "echo", "ran"]].concat();
    let told = refused(&machine.ask(&more));
    assert!(told.contains("server fs runs once in session s already, and its instances_max allows 1; end"), "{told}");
    expect_servers(&machine, "s", 1);
    // A host that starts its server anew has closed the old one's stdin first, and is not refused.
    for _ in 0..5 {
        drop(first.child.stdin.take());
        first = launch(&machine, &fs);
    }
    expect_servers(&machine, "s", 1);
    machine.ask(&["end", "--all"]);
    machine.expect_nothing_left();
}

#[test]
fn a_server_that_launches_itself_again_inside_is_one_instance() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ninstances_max = 1\n");
    let fs = ["--session", "s", "--server", "fs"];
    // Once as a child, and once in its own place.
    let child = format!("{} run --server fs -- sh -c '{LIVES}'; :", binary());
    let first = up(machine.run(&fs, &child));
    expect_servers(&machine, "s", 2);
    let second = up(machine.run(&fs, &format!("exec {} run --server fs -- sh -c '{LIVES}'", binary())));
    expect_replaced(first);
    expect_servers(&machine, "s", 1);
    let third = launch(&machine, &fs);
    expect_replaced(second);
    expect_servers(&machine, "s", 1);
    machine.ask(&["end", "--all"]);
    drop(third);
    machine.expect_nothing_left();
}

#[test]
fn a_full_cap_is_told_with_its_biggest_users_and_shows_nobody_what_others_run() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::with_config("[daemon]\nservers_max = 3\n");
    machine.open_to_all();
    let roots = ["--session", "secret of root", "--server", "fs"];
    let _held = (launch(&machine, &roots), launch(&machine, &roots));
    let mut own = machine.nobody(&["run", "--session", "mine", "--", "sh", "-c", LIVES]);
    own.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let _own = up(Launched::spawn(own));
    let full = "pinfold holds 3 servers already, and servers_max allows 3; the most have uid 0 (2), uid 65534 (1)";
    let told = refused(&machine.nobody(&["run", "--session", "mine", "--", "true"]).output().unwrap());
    assert!(told.contains(full) && told.contains("session mine (1)") && !told.contains("secret"), "{told}");
    assert!(told.contains("raise servers_max under [daemon]"), "{told}");
    let told = refused(&machine.ask(&["run", "--uncontained", "--", "true"]));
    assert!(told.contains(full) && told.contains("session secret of root (2), session mine (1)"), "{told}");
    machine.ask(&["end", "--all"]);
    machine.expect_nothing_left();
}

#[test]
fn a_user_and_a_host_have_caps_of_their_own() {
    if !offered() {
        return;
    }
    let caps = "[daemon]\nsessions_per_user_max = 2\nservers_per_user_max = 4\nsessions_per_host_max = 1\nservers_per_host_max = 2\n";
    let machine = Machine::with_config(caps);
    let of_host = ["--host", "zed", "--session", "a"];
    let _host = (launch(&machine, &of_host), launch(&machine, &of_host));
    let ask = |options: &[&str]| refused(&machine.ask(&[&["run"], options, &["--", "true"]].concat()));
    let told = ask(&of_host);
    assert!(
        told.contains("host zed of uid ")
            && told
                .contains(" holds 2 servers already, and servers_per_host_max allows 2; the most have session a (2)"),
        "{told}"
    );
    let told = ask(&["--host", "zed", "--session", "b"]);
    assert!(told.contains(" holds 1 sessions already, and sessions_per_host_max allows 1"), "{told}");
    let _user = (launch(&machine, &["--session", "b"]), launch(&machine, &["--session", "b"]));
    let told = ask(&["--session", "c"]);
    assert!(
        told.contains(" holds 2 sessions already, and sessions_per_user_max allows 2; the most have host zed (1)"),
        "{told}"
    );
    let told = ask(&["--session", "b"]);
    assert!(
        told.contains(" holds 4 servers already, and servers_per_user_max allows 4; the most have host zed (2)"),
        "{told}"
    );
    machine.ask(&["end", "--all"]);
    machine.expect_nothing_left();
}

#[test]
fn a_daemon_that_runs_out_of_descriptors_refuses_launches_and_ends_what_runs() {
    if !offered() {
        return;
    }
    let mut machine = Machine::configured("launches = { burst = \"infinity\" }\n");
    machine.through = ["prlimit", "--nofile=160:160"].map(Into::into).to_vec();
    machine.start();
    let mut servers = Vec::new();
    let told = loop {
        assert!(servers.len() < 60, "{} servers, and none is refused: {}", servers.len(), machine.log());
        let mut server = machine.run(&["--session", &format!("s-{}", servers.len()), "--uncontained"], LIVES);
        match server.line().as_str() {
            "up" => servers.push(server),
            _ => break (server.exit_status(), server.stderr()),
        }
    };
    assert_eq!(told.0, 125);
    assert!(
        told.1.contains("of the 160 descriptors that it may have") && told.1.contains("LimitNOFILE="),
        "{}",
        told.1
    );
    assert!(servers.len() > 5, "{} servers", servers.len());
    // What it does for those that run has room.
    assert_eq!(machine.sessions().len(), servers.len());
    for session in ["s-0", "s-1"] {
        let output = machine.ask(&["end", "--now", session]);
        assert!(output.status.success(), "{output:?}");
    }
    // What was sent with a launch is closed when there is time, and the first end had the history opened.
    eventually("there is room for another one", || {
        let mut server = machine.run(&["--session", "again"], LIVES);
        if server.line() == "up" { Ok(()) } else { Err(server.stderr()) }
    });
    assert!(machine.ask(&["end", "--all", "--now"]).status.success());
    for server in &mut servers {
        server.exit_status();
    }
    machine.expect_nothing_left();
    let log = machine.log();
    assert!(!log.contains("Too many open files"), "{log}");
}
