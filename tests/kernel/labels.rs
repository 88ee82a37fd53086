//! What belongs to one run of many: labels, generations of a session's id, and what left its leaf.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::hosts::NOBODY;
use crate::servers::{Process, end, perl};
use crate::support::{Launched, Machine, base, eventually, lives, offered, root_offered, signal, v1_mount};

/// All servers that are shown, with their sessions' ids.
#[track_caller]
fn servers(machine: &Machine) -> Vec<(String, Value)> {
    let sessions = machine.sessions();
    let of = |session: &Value| {
        let id = session["id"].as_str().unwrap().to_owned();
        session["servers"].as_array().unwrap().iter().map(|server| (id.clone(), server.clone())).collect::<Vec<_>>()
    };
    sessions.iter().flat_map(of).collect()
}

/// The view of one server, by the pid of its first process, once it runs.
#[track_caller]
fn server(machine: &Machine, pid: i32) -> Value {
    eventually(&format!("process {pid} leads a running server"), || {
        let all = servers(machine);
        let found = all.iter().find(|(_, server)| server["leader_pid"] == pid && server["state"] == "running");
        found.map(|(_, server)| server.clone()).ok_or_else(|| format!("{all:?}; {}", machine.log()))
    })
}

/// How many servers an end says that it ended, or began to.
fn hit(reply: &Value) -> usize {
    reply["ended"].as_array().unwrap().len() + reply["pending"].as_array().unwrap().len()
}

#[test]
fn servers_that_carry_all_of_the_given_labels_end_and_all_others_live() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let run = |session: &str, labels: &[&str]| {
        let mut options = vec!["--session", session];
        options.extend(labels.iter().flat_map(|label| ["--label", *label]));
        let server = machine.run(&options, "exec cat");
        self::server(&machine, server.pid());
        server
    };
    let mut both = run("a", &["run=42", "kind=cron job 🦊"]);
    let mut one = run("a", &["run=42"]);
    let mut elsewhere = run("b", &["run=42"]);
    let (other, none) = (run("b", &["run=4"]), run("c", &[]));
    assert_eq!(server(&machine, both.pid())["labels"], json!({ "run": "42", "kind": "cron job 🦊" }));
    assert_eq!(server(&machine, none.pid())["labels"], json!({}));
    let page = machine.ask(&["status", "a"]);
    assert!(String::from_utf8_lossy(&page.stdout).contains("labels: kind=cron job 🦊 run=42"), "{page:?}");
    assert_eq!(hit(&end(&machine, &["--label", "run=42", "--label", "kind=other"])), 0);
    assert_eq!(hit(&end(&machine, &["c", "--label", "run=42"])), 0, "a session is narrowed by them");
    assert_eq!(hit(&end(&machine, &["--all", "--label", "run=421"])), 0);
    assert_eq!(servers(&machine).len(), 5);
    assert_eq!(hit(&end(&machine, &["--label", "run=42", "--label", "kind=cron job 🦊"])), 1);
    assert_eq!(both.exit_status(), 128 + 15);
    assert_eq!(hit(&end(&machine, &["b", "--label", "run=42"])), 1);
    assert_eq!(elsewhere.exit_status(), 128 + 15);
    assert_eq!(hit(&end(&machine, &["--label", "run=42"])), 1);
    assert_eq!(one.exit_status(), 128 + 15);
    assert!(lives(other.pid()) && lives(none.pid()));
    assert_eq!(servers(&machine).len(), 2);
}

#[test]
fn what_is_no_label_is_told_and_neither_launches_nor_ends_anything() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let lived = machine.run(&["--session", "s", "--label", "run=1"], "exec cat");
    server(&machine, lived.pid());
    let many: Vec<String> = (0..17).flat_map(|number| ["--label".to_owned(), format!("k{number}=v")]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (options, expected) in [
        (&["--label", "run"][..], "write KEY=VALUE"),
        (&["--label", "run="], "is empty"),
        (&["--label", "a b=c"], "name \"a b\""),
        (&["--label", "k=line\nbreak"], "control character"),
        (&["--label", "k=1", "--label", "k=2"], "given twice"),
        (many.as_slice(), "at most 16 labels"),
    ] {
        for (command, rest, status) in [("run", &["--", "sh", "-c", "echo ran"][..], 125), ("end", &[], 2)] {
            let output = machine.ask(&[&[command], options, rest].concat());
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.code() == Some(status) && told.contains(expected),
                "{command} {options:?}: {output:?}"
            );
            assert!(output.stdout.is_empty(), "{output:?}");
        }
    }
    for (arguments, status) in [
        (&["label", "s"][..], 2),
        (&["label", "s", "run="], 2),
        (&["label", "--owner", "1", "--pid", "1", "run=2"], 2),
        (&["label", "nobody", "run=2"], 1),
        (&["label", "--pid", "1", "run=2"], 1),
        (&["end", "--before", "@1"], 2),
        (&["end", "--before", "yesterday", "s"], 2),
        (&["end", "--generation", "1", "--label", "run=1"], 2),
    ] {
        let output = machine.ask(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(server(&machine, lived.pid())["labels"], json!({ "run": "1" }));
}

#[test]
fn what_lives_is_labelled_by_its_session_its_owner_or_a_process_of_it_and_the_next_daemon_knows() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut first = machine.run(&["--session", "s", "--label", "run=0"], "sleep 1000 & echo $!; exec cat");
    let child = first.line();
    let second = machine.run(&["--session", "s"], "exec cat");
    let other = machine.run(&["--session", "other"], "exec cat");
    for pid in [first.pid(), second.pid(), other.pid()] {
        server(&machine, pid);
    }
    let label = |machine: &Machine, arguments: &[&str]| {
        let output = machine.ask(&[&["label", "--json"], arguments].concat());
        assert!(output.status.success(), "{output:?}; {}", machine.log());
        let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
        reply["leaves"].as_array().unwrap().len()
    };
    assert_eq!(label(&machine, &["s", "run=7"]), 2);
    assert_eq!(label(&machine, &["--pid", &child, "kind=x"]), 1);
    let owner = server(&machine, other.pid())["owner_pid"].to_string();
    assert_eq!(label(&machine, &["--owner", &owner, "host=test"]), 3);
    let expected = [
        (first.pid(), json!({ "run": "7", "kind": "x", "host": "test" })),
        (second.pid(), json!({ "run": "7", "host": "test" })),
        (other.pid(), json!({ "host": "test" })),
    ];
    for kills in 0..2 {
        for (pid, labels) in &expected {
            assert_eq!(server(&machine, *pid)["labels"], *labels, "after {kills} kills of the daemon");
        }
        machine.kill_daemon();
        machine.start();
    }
    // One that would have too many leaves all as they were.
    let many: Vec<String> = (0..14).map(|number| format!("k{number}=v")).collect();
    let mut arguments = vec!["label", "s"];
    arguments.extend(many.iter().map(String::as_str));
    let output = machine.ask(&arguments);
    assert!(String::from_utf8_lossy(&output.stderr).contains("at most 16 labels"), "{output:?}");
    assert_eq!(server(&machine, second.pid())["labels"], expected[1].1);
    assert_eq!(hit(&end(&machine, &["--label", "kind=x"])), 1);
    assert_eq!(first.exit_status(), 128 + 15);
    assert!(lives(second.pid()) && lives(other.pid()));
}

#[test]
fn from_inside_a_session_only_that_session_is_labelled_and_ended_by_label() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let other = machine.run(&["--session", "other", "--label", "run=1"], "exec cat");
    server(&machine, other.pid());
    let script = "\"$PINFOLD\" label other a=b; echo $?; \"$PINFOLD\" label --pid \"$OTHER\" a=b; echo $?; \
        \"$PINFOLD\" label s a=b >&2; echo $?; trap '' TERM; \"$PINFOLD\" end --label run=1 --no-wait >/dev/null; \
        while read -r _; do :; done";
    let mut run = machine.pinfold(&["run", "--session", "s", "--label", "run=1", "--grace", "100ms"]);
    machine.point_here(&mut run);
    run.args(["--", "sh", "-c", script]).env("OTHER", other.pid().to_string());
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut inside = Launched::spawn(run);
    assert_eq!((inside.line(), inside.line(), inside.line()), ("1".into(), "1".into(), "0".into()));
    assert!([128 + 9, 128 + 15].contains(&inside.exit_status()));
    let told = inside.stderr();
    assert!(told.contains("only that session can be labelled"), "{told}");
    eventually("only the other is left", || {
        let left = servers(&machine);
        if left.len() == 1 { Ok(()) } else { Err(format!("{left:?}")) }
    });
    assert_eq!(server(&machine, other.pid())["labels"], json!({ "run": "1" }), "it was out of reach for both");
}

#[test]
fn a_user_labels_and_ends_by_label_own_sessions_only() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    machine.open_to_all();
    let roots = machine.run(&["--session", "s", "--label", "run=1"], "exec cat");
    server(&machine, roots.pid());
    let ask = |arguments: &[&str]| machine.nobody(arguments).output().unwrap();
    let owner = server(&machine, roots.pid())["owner_pid"].to_string();
    let pid = roots.pid().to_string();
    for named in [&["s"][..], &["--owner", &owner], &["--pid", &pid]] {
        let output = ask(&[&["label"], named, &["a=b"]].concat());
        assert_eq!(output.status.code(), Some(1), "{named:?}: {output:?}");
    }
    assert!(ask(&["end", "--label", "run=1", "--now"]).status.success());
    assert_eq!(server(&machine, roots.pid())["labels"], json!({ "run": "1" }));
}

/// A server that does not leave when it is asked to, and whose end has begun.
#[track_caller]
fn slow_to_end(machine: &Machine) -> (Launched, Value) {
    let script = r#"$SIG{TERM} = "IGNORE"; print "deaf\n"; rest"#;
    let mut old = perl(machine, &["--session", "s", "--server", "old", "--grace", "500s"], script);
    assert_eq!(old.line(), "deaf");
    let shown = server(machine, old.pid());
    end(machine, &["s", "--no-wait"]);
    eventually("its end is under way", || {
        let all = servers(machine);
        if all[0].1["state"] == "ending" { Ok(()) } else { Err(format!("{all:?}")) }
    });
    (old, shown)
}

#[test]
fn a_late_end_of_an_earlier_generation_never_hits_the_next_one() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    for by_time in [false, true] {
        let (mut old, earlier) = slow_to_end(&machine);
        let mut new = machine.run(&["--session", "s", "--server", "new"], "exec cat");
        let later = server(&machine, new.pid());
        let number = |server: &Value| server["generation"].as_u64().unwrap();
        assert!(number(&later) > number(&earlier), "{later} {earlier}");
        // Its session shows the later one, and a third launch joins that.
        assert_eq!(machine.sessions()[0]["generation"], later["generation"]);
        let third = machine.run(&["--session", "s"], "exec cat");
        assert_eq!(server(&machine, third.pid())["generation"], later["generation"]);
        let selector = if by_time {
            // What is shown can be handed back: a launch at exactly that time is spared.
            ["--before".to_owned(), later["started_at"].as_str().unwrap().to_owned()]
        } else {
            ["--generation".to_owned(), earlier["generation"].to_string()]
        };
        let late = ["s", "--now", &selector[0], &selector[1]];
        let reply = end(&machine, &late);
        assert_eq!(reply["ended"].as_array().unwrap().len(), 1, "{reply}");
        assert_eq!(reply["ended"][0]["leaf"], earlier["leaf"], "{reply}");
        assert_eq!(old.exit_status(), 128 + 9);
        assert_eq!(hit(&end(&machine, &late)), 0, "what comes later still hits nothing");
        assert!(lives(new.pid()) && lives(third.pid()));
        let both = ["s".to_owned(), "--generation".to_owned(), later["generation"].to_string()];
        assert_eq!(hit(&end(&machine, &both.each_ref().map(String::as_str))), 2);
        assert_eq!(new.exit_status(), 128 + 15);
        machine.expect_nothing_left();
    }
}

#[test]
fn no_generation_comes_again_whatever_becomes_of_the_daemon() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut last = 0;
    for stops in [true, false] {
        let mut server = machine.run(&["--session", "s"], "exec cat");
        let generation = self::server(&machine, server.pid())["generation"].as_u64().unwrap();
        assert!(generation > last, "{generation} after {last}");
        last = generation;
        machine.kill_daemon();
        machine.start();
        assert_eq!(self::server(&machine, server.pid())["generation"], generation, "it is adopted as what it was");
        end(&machine, &["s"]);
        assert_eq!(server.exit_status(), 128 + 15);
        machine.expect_nothing_left();
        // What it wrote down is gone with its last server.
        if stops {
            machine.stop_daemon();
        } else {
            machine.kill_daemon();
        }
        machine.start();
    }
    let server = machine.run(&["--session", "s"], "exec cat");
    assert!(self::server(&machine, server.pid())["generation"].as_u64().unwrap() > last);
}

#[test]
fn the_time_to_live_of_a_session_begins_anew_with_its_next_generation() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[session]\nttl = '1h'\n");
    let (mut old, _) = slow_to_end(&machine);
    let expires = |machine: &Machine| machine.sessions()[0]["expires_at"].as_str().unwrap().to_owned();
    let before = expires(&machine);
    eventually("a launch shows another moment", || {
        let mut new = machine.run(&["--session", "s", "--server", "new"], "exec cat");
        let shown = server(&machine, new.pid());
        let now = expires(&machine);
        end(&machine, &["s", "--generation", &shown["generation"].to_string()]);
        new.exit_status();
        if now > before { Ok(()) } else { Err(format!("{now}, and {before} before")) }
    });
    end(&machine, &["s", "--now"]);
    assert_eq!(old.exit_status(), 128 + 9);
}

/// A cgroup beside all machines, and a process that a test has to end itself.
struct Away {
    cgroup: PathBuf,
    processes: Vec<i32>,
}

impl Drop for Away {
    fn drop(&mut self) {
        for pid in &self.processes {
            signal(*pid, nix::sys::signal::Signal::SIGKILL);
        }
        while std::fs::remove_dir(&self.cgroup).is_err() && self.processes.iter().any(|pid| lives(*pid)) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

/// Where v1 limits, what is in a companion of the leaf has not left it: this goes back to where the test is.
#[track_caller]
fn leave_companions(pid: i32) {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    for controller in ["memory", "pids"] {
        let Some(mount) = v1_mount(controller) else { continue };
        let path = own.lines().find_map(|line| line.split_once(&format!(":{controller}:/"))).unwrap().1;
        std::fs::write(mount.join(path).join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

/// `pinfold status s`, as JSON.
#[track_caller]
fn status(machine: &Machine) -> Value {
    let output = machine.ask(&["status", "s", "--json"]);
    assert!(output.status.success(), "{output:?}; {}", machine.log());
    serde_json::from_slice::<Value>(&output.stdout).unwrap()[0].clone()
}

/// A process of this test that carries the marks of a server and is none of it.
struct Marked(Child);

impl Marked {
    fn new(leaf: &str, uid: u32) -> Self {
        let mut sleep = Command::new("sleep");
        sleep.arg("1000").env("PINFOLD_SESSION", "s").env("PINFOLD_SERVER", leaf).uid(uid);
        Self(sleep.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn().unwrap())
    }

    /// Waits until what starts from now on has a later start time: the kernel tells that in clock ticks, of 10 ms.
    #[track_caller]
    fn is_of_the_past(&self) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let started: f64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
        eventually("the clock ticks", || {
            let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
            let now: f64 = uptime.split_whitespace().next().unwrap().parse().unwrap();
            if now * 100.0 > started + 1.5 { Ok(()) } else { Err(format!("{now} s, and {started} ticks")) }
        });
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_left_its_leaf_is_seen_and_told_with_its_pids_and_not_ended_for_its_marks() {
    if !offered() || !root_offered() {
        return;
    }
    // From before the server: the marks of an earlier one whose leaf had the same name.
    let earlier = Marked::new("w.2", 0);
    earlier.is_of_the_past();
    let machine = Machine::new();
    let cgroup = base().join(format!("pinfold-test-away-{}", std::process::id()));
    std::fs::create_dir(&cgroup).unwrap();
    let mut away = Away { cgroup, processes: Vec::new() };
    let place = away.cgroup.join("cgroup.procs");
    let script = r#"
        my $gone = child { put($ENV{AWAY}, $$); print "away\n"; rest };
        my $stays = child { rest };
        print "$gone $stays\n";
        <STDIN>; put($ENV{AWAY}, $$); print "out\n"; rest"#;
    let script = script.replace("$ENV{AWAY}", &format!("{:?}", place.display().to_string()));
    let mut server = perl(&machine, &["--session", "s", "--server", "w"], &script);
    let mut lines = [server.line(), server.line()];
    lines.sort_by_key(|line| line != "away");
    let (gone, _) = lines[1].split_once(' ').unwrap();
    let gone = Process::told(gone);
    away.processes.push(gone.pid);
    leave_companions(gone.pid);
    assert_eq!(self::server(&machine, server.pid())["leaf"], "w.2", "what the marks of the others say");
    let _foreign = Marked::new("w.2", NOBODY);
    let shown = status(&machine);
    let shown = &shown["servers"][0];
    assert_eq!((&shown["escaped"], &shown["escaped_pids"]), (&json!(false), &json!([gone.pid])), "{shown}");
    assert_eq!(self::server(&machine, server.pid())["escaped_pids"], json!([]), "a list does not look for them");
    let page = machine.ask(&["status", "s"]);
    let expected = format!("ESCAPED: in no leaf although they carry its marks: {}\n", gone.pid);
    assert!(String::from_utf8_lossy(&page.stdout).contains(&expected), "{page:?}");
    std::io::Write::write_all(server.child.stdin.as_mut().unwrap(), b"leave\n").unwrap();
    assert_eq!(server.line(), "out");
    away.processes.push(server.pid());
    let shown = status(&machine);
    let shown = &shown["servers"][0];
    let both = json!([server.pid(), gone.pid]);
    assert_eq!((&shown["escaped"], &shown["escaped_pids"]), (&json!(true), &both), "{shown}");
    assert_eq!(self::server(&machine, server.pid())["escaped_pids"], json!([server.pid()]));
    eventually("each is told once", || {
        let log = machine.log();
        let count = |text: &str| log.matches(text).count();
        let told =
            (count("processes that carry the server's marks left its leaf"), count("first process left its leaf"));
        if told == (1, 1) { Ok(()) } else { Err(format!("{told:?}: {log}")) }
    });
    end(&machine, &["s"]);
    assert_eq!(server.exit_status(), 128 + 15, "the first process is held, wherever it is");
    assert!(gone.lives(), "marks are no reason to end anything: whoever owns a process sets them");
    machine.expect_nothing_left();
}
