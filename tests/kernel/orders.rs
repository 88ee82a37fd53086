//! `pinfold end`: who is ended by which words, and what is said about it.

use std::time::{Duration, Instant};

use crate::servers::{Process, crowd, end, only_ended, perl};
use crate::support::{Launched, Machine, eventually, offered};

/// A server that leaves when asked to, once it is up.
#[track_caller]
fn server(machine: &Machine, session: &str, name: &str) -> Launched {
    let mut server = machine.run(&["--session", session, "--server", name], "echo up; exec cat");
    assert_eq!(server.line(), "up", "{}", machine.log());
    machine.session(session);
    server
}

/// The running servers as `session/name`.
fn running(machine: &Machine) -> Vec<String> {
    let mut found = Vec::new();
    for session in machine.sessions() {
        for server in session["servers"].as_array().unwrap() {
            found.push(format!("{}/{}", session["id"].as_str().unwrap(), server["name"].as_str().unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn several_sessions_are_ended_by_one_command_and_the_others_live() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut servers = [server(&machine, "a", "one"), server(&machine, "b", "two"), server(&machine, "c", "three")];
    let output = machine.ask(&["end", "a", "b"]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(lines[0].starts_with("a / one: 1 process, ") && lines[0].ends_with(" given back"), "{said}");
    assert!(lines[1].starts_with("b / two: 1 process, "), "{said}");
    assert!(lines[2].starts_with("2 servers: 2 processes, "), "{said}");
    assert_eq!(running(&machine), ["c/three"]);
    assert_eq!(servers[0].exit_status(), 128 + 15);
    assert_eq!(servers[1].exit_status(), 128 + 15);
    assert!(Process::of(servers[2].pid()).lives());
    end(&machine, &["c"]);
    machine.expect_nothing_left();
}

#[test]
fn a_session_is_called_by_its_key_as_an_alert_does_as_well_as_by_its_id() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let _servers = [server(&machine, "a/b", "one"), server(&machine, "other", "two")];
    let key = machine.session("a/b")["key"].as_str().unwrap().to_owned();
    assert_ne!(key, "a/b");
    let shown = machine.ask(&["status", &key]);
    assert!(shown.status.success() && String::from_utf8_lossy(&shown.stdout).starts_with("a/b ("), "{shown:?}");
    assert!(machine.ask(&["label", &key, "by=key"]).status.success());
    assert_eq!(machine.session("a/b")["servers"][0]["labels"]["by"], "key");
    let ended = machine.ask(&["end", "--server", &format!("{key}/one")]);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(running(&machine), ["other/two"]);
    end(&machine, &["other"]);
    machine.expect_nothing_left();
}

#[test]
fn two_instances_of_a_server_are_told_apart_by_their_leaves() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let _servers = ["twice", "twice", "once"].map(|name| server(&machine, "s", name));
    let leaves: Vec<String> = eventually("all are there", || {
        let sessions = machine.sessions();
        let servers = sessions.iter().flat_map(|session| session["servers"].as_array().unwrap().clone());
        let leaves: Vec<String> = servers.map(|server| server["leaf"].as_str().unwrap().to_owned()).collect();
        if leaves.len() == 3 { Ok(leaves) } else { Err(format!("{leaves:?}")) }
    });
    let expected: Vec<&str> =
        leaves.iter().map(|leaf| if leaf.starts_with("once.") { "once" } else { leaf.as_str() }).collect();
    let listed = String::from_utf8(machine.ask(&["ls"]).stdout).unwrap();
    let listed: Vec<&str> = listed.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(listed, expected);
    let shown = String::from_utf8(machine.ask(&["status", "s"]).stdout).unwrap();
    let said = String::from_utf8(machine.ask(&["end", "s"]).stdout).unwrap();
    for server in expected {
        assert!(shown.contains(&format!("\n  {server} (running)")), "{shown}");
        assert!(said.contains(&format!("s / {server}: ")), "{said}");
    }
    machine.expect_nothing_left();
}

#[test]
fn one_server_is_ended_by_its_name_or_leaf_and_its_sibling_lives() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    // A session's id may hold slashes.
    let [mut first, mut second, third] = ["first", "second", "third"].map(|name| server(&machine, "agent/main", name));
    let reply = end(&machine, &["--server", "agent/main/first"]);
    assert_eq!(only_ended(&reply)["server"], "first", "{reply}");
    assert_eq!(first.exit_status(), 128 + 15);
    assert_eq!(running(&machine), ["agent/main/second", "agent/main/third"]);
    let leaf = machine.session("agent/main")["servers"][0]["leaf"].as_str().unwrap().to_owned();
    let reply = end(&machine, &["--server", &format!("agent/main/{leaf}")]);
    assert_eq!(only_ended(&reply)["server"], "second", "{reply}");
    assert_eq!(second.exit_status(), 128 + 15);
    assert_eq!(running(&machine), ["agent/main/third"]);
    assert!(Process::of(third.pid()).lives());
    assert!(first.stderr().contains("ended server first of session agent/main: its end was requested, 1 process"));
    end(&machine, &["agent/main"]);
    machine.expect_nothing_left();
}

#[test]
fn all_that_one_process_owns_is_ended_and_what_others_own_lives() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let ours = server(&machine, "ours", "one");
    // A host of its own, with two sessions.
    let mut command = std::process::Command::new("sh");
    let launch = "\"$PINFOLD\" run --session $name --server x -- sleep 1000 < \"$FIFO\" &";
    command.args(["-c", &format!("for name in a b; do {launch} done; wait; echo over; exec sleep 1000")]);
    let environment = machine.pinfold(&[]);
    command.envs(environment.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let fifo = machine.path("stdin");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _held = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
    command.env("PINFOLD", crate::support::binary()).env("FIFO", &fifo).stdout(std::process::Stdio::piped());
    let mut host = Launched::spawn(command);
    machine.session("a");
    machine.session("b");
    assert_eq!(running(&machine), ["a/x", "b/x", "ours/one"]);
    assert_eq!(machine.session("a")["owner_pid"], host.pid());
    let reply = end(&machine, &["--owner", &host.pid().to_string()]);
    assert_eq!(reply["ended"].as_array().unwrap().len(), 2, "{reply}");
    assert_eq!(running(&machine), ["ours/one"]);
    assert_eq!(host.line(), "over", "the host itself is nobody's to end");
    assert!(Process::of(ours.pid()).lives());
    host.child.kill().unwrap();
    end(&machine, &["--owner", &std::process::id().to_string()]);
    assert!(running(&machine).is_empty());
    machine.expect_nothing_left();
}

#[test]
fn all_sessions_are_ended_and_added_up() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let _servers = ["a", "b", "c"].map(|session| server(&machine, session, "x"));
    let output = machine.ask(&["end", "--all"]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.lines().last().unwrap().starts_with("3 servers: 3 processes, "), "{said}");
    machine.expect_nothing_left();
}

#[test]
fn an_end_now_asks_nobody_and_waits_for_no_grace() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"$SIG{TERM} = sub { print STDERR "was asked\n"; exit(0) }; print "up\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s", "--grace", "1min"], script);
    assert_eq!(server.line(), "up");
    machine.session("s");
    let start = Instant::now();
    let reply = end(&machine, &["s", "--now"]);
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(only_ended(&reply)["killed"], true);
    assert_eq!(server.exit_status(), 128 + 9);
    assert!(!server.stderr().contains("was asked"));
    machine.expect_nothing_left();
}

#[test]
fn an_end_under_way_is_cut_short_by_an_end_now() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"$SIG{TERM} = "IGNORE"; print "up\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s", "--grace", "1min"], script);
    assert_eq!(server.line(), "up");
    let (_, all) = crowd(&machine, "s", 1);
    let output = machine.ask(&["end", "s", "--no-wait"]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.ends_with(": its end has begun\n"), "{said}");
    assert!(all[0].lives(), "its grace is a minute");
    assert_eq!(machine.sessions()[0]["state"], "ending");
    let reply = end(&machine, &["s", "--now"]);
    assert_eq!(only_ended(&reply)["cause"], "requested", "{reply}");
    assert_eq!(server.exit_status(), 128 + 9);
    machine.expect_nothing_left();
}

#[test]
fn an_end_without_waiting_goes_on_by_itself() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"$SIG{TERM} = "IGNORE"; print "up\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s", "--grace", "300ms"], script);
    assert_eq!(server.line(), "up");
    machine.session("s");
    let reply = end(&machine, &["s", "--no-wait"]);
    assert_eq!(reply["pending"].as_array().unwrap().len(), 1, "{reply}");
    machine.expect_nothing_left();
    assert_eq!(server.exit_status(), 128 + 9);
}

#[test]
fn an_end_of_a_session_or_a_server_that_is_not_there_is_told_with_what_may_have_been_meant() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let demo = server(&machine, "demo", "files");
    let hint = "`pinfold ls` lists those that live";
    for (arguments, told) in [
        (&["end", "dmeo"][..], format!("no session is called \"dmeo\"; did you mean \"demo\"? {hint}")),
        (&["end", "unknown"], format!("no session is called \"unknown\"; {hint}")),
        (&["end", "unknown/files"], format!("no session is called \"unknown/files\"; {hint}")),
        (
            &["end", "--server", "demo/file"],
            format!("session \"demo\" has no server \"file\"; did you mean \"files\"? {hint}"),
        ),
        (&["end", "--server", "dmeo/files"], format!("no session is called \"dmeo\"; did you mean \"demo\"? {hint}")),
        (&["status", "dmeo"], format!("no session is called \"dmeo\"; did you mean \"demo\"? {hint}")),
    ] {
        let output = machine.ask(arguments);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]), "{arguments:?}: {output:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("pinfold: {told}\n"), "{arguments:?}");
    }
    assert!(Process::of(demo.pid()).lives());
    // What is there is ended all the same.
    let output = machine.ask(&["end", "a", "demo", "b"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 2);
    assert!(output.stdout.starts_with(b"demo / files: 1 process"), "{:?}", String::from_utf8(output.stdout));
    let output = machine.ask(&["end", "demo", "--json"]);
    assert_eq!((output.status.code(), &output.stdout[..1]), (Some(1), &b"{"[..]), "{output:?}");
    machine.expect_nothing_left();
}

#[test]
fn an_end_that_may_come_late_is_done_where_nothing_is_left() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let other = server(&machine, "other", "x");
    let nobody = i32::MAX.to_string();
    for (arguments, told) in [
        (&["end", "unknown", "--if-exists"][..], "nothing to end: no session unknown is alive\n"),
        (&["end", "--server", "other/unknown", "--if-exists"], "nothing to end: session other has no server unknown\n"),
        (&["end", "--owner", &nobody], "nothing to end: process 2147483647 owns nothing\n"),
        (&["end", "--label", "run=42"], "nothing to end: no server of yours carries run=42\n"),
        (
            &["end", "unknown", "--generation", "7"],
            "nothing to end: no server of yours is of session unknown and is of generation 7\n",
        ),
    ] {
        let output = machine.ask(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), told, "{arguments:?}");
    }
    assert!(Process::of(other.pid()).lives());
    end(&machine, &["other"]);
    let output = machine.ask(&["end", "--all"]);
    assert_eq!((output.status.code(), output.stdout), (Some(0), b"nothing to end\n".to_vec()));
    machine.expect_nothing_left();
}

#[test]
fn an_end_that_names_nothing_is_refused_as_usage() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let server = server(&machine, "s", "x");
    for arguments in [&["end"][..], &["end", "--now"], &["end", "--server", "no-slash"]] {
        let output = machine.ask(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
    assert!(Process::of(server.pid()).lives());
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn ends_of_one_session_at_the_same_time_are_one_end() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"$SIG{TERM} = "IGNORE"; print "up\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s", "--grace", "500ms"], script);
    assert_eq!(server.line(), "up");
    let leader = Process::of(server.pid());
    machine.session("s");
    let replies: Vec<_> = std::thread::scope(|scope| {
        let ends: Vec<_> = (0..8).map(|_| scope.spawn(|| end(&machine, &["s"]))).collect();
        ends.into_iter().map(|end| end.join().unwrap()).collect()
    });
    assert!(!leader.lives());
    let told: Vec<_> = replies.iter().filter(|reply| reply["ended"].as_array().unwrap().len() == 1).collect();
    assert!(!told.is_empty(), "{replies:?}");
    for reply in &told {
        assert_eq!(only_ended(reply)["processes"], 1, "{reply}");
        assert_eq!(only_ended(reply)["cause"], "requested", "{reply}");
    }
    assert_eq!(server.exit_status(), 128 + 9);
    let lines = server.stderr();
    assert_eq!(lines.matches("ended server").count(), 1, "it is told once: {lines}");
    machine.expect_nothing_left();
}

#[test]
fn an_end_tells_the_memory_that_came_back() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"grow(40); print "up\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s"], script);
    assert_eq!(server.line(), "up");
    let current = || machine.session("s")["memory"]["current_bytes"].as_u64().unwrap();
    eventually("it is charged", || if current() >= 40 << 20 { Ok(()) } else { Err(current().to_string()) });
    let reply = end(&machine, &["s"]);
    let ended = only_ended(&reply);
    let (memory, peak) = (ended["memory_bytes"].as_u64().unwrap(), ended["peak_bytes"].as_u64().unwrap());
    assert!((40 << 20..200 << 20).contains(&memory), "{reply}");
    assert!(peak >= memory, "{reply}");
    machine.expect_nothing_left();
}
