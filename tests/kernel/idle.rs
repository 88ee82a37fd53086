//! Idle servers: what does nothing is ended where the configuration says so, and what does anything lives.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::hosts::status_field;
use crate::servers::{Process, end, perl};
use crate::support::{Launched, Machine, eventually, lives, offered, slowness};

/// A server that is up and then sleeps, and a child of it that left its terminal's session and sleeps as well.
const SLEEPER: &str = "echo up; setsid sleep 1000 & exec sleep 1000";

#[track_caller]
fn sleeper(machine: &Machine, session: &str) -> Launched {
    let mut server = machine.run(&["--session", session, "--server", "sleeper"], SLEEPER);
    assert_eq!(server.line(), "up", "{}", machine.log());
    server
}

#[track_caller]
fn expect_idle(server: &mut Launched, session: &str, span: &str) {
    assert_eq!(server.exit_status(), 128 + 15);
    let told = server.stderr();
    let expected = format!("ended server sleeper of session {session}: it was idle: for {span} it used no CPU time");
    assert!(told.contains(&expected), "{told:?}");
}

#[test]
fn a_server_that_does_nothing_is_ended_as_idle() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nidle_after = '2s'\n");
    let start = Instant::now();
    let mut server = sleeper(&machine, "s");
    let child = eventually("its child is in the leaf", || {
        let all = crate::servers::inhabitants(&machine.leaf("s"));
        all.iter().copied().find(|process| process.pid != server.pid()).ok_or_else(|| format!("{all:?}"))
    });
    expect_idle(&mut server, "s", "2s");
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    machine.expect_nothing_left();
    assert!(!child.lives());
    assert_eq!(machine.log().matches("cause=\"idle\"").count(), 1, "{}", machine.log());
}

#[test]
fn a_server_that_does_anything_is_not_idle() {
    if !offered() {
        return;
    }
    // Whoever answers has to be asked within each span.
    let span = if slowness() > 1 { "12s" } else { "2s" };
    let machine = Machine::with_config(&format!(
        "[server]\nidle_after = '{span}'\n[[rule]]\nwhen.server = 'kept'\nserver.idle_after = 'infinity'\n",
    ));
    let start = |name: &str, script: &str| {
        let script = format!("sub pause {{ select(undef, undef, undef, $_[0]) }}\nprint \"up\\n\";\n{script}");
        let mut server = perl(&machine, &["--session", name, "--server", name], &script);
        assert_eq!(server.line(), "up", "{name}: {}", machine.log());
        server
    };
    let mut servers = vec![
        // Nothing is read and nothing is written by it.
        start("burns", "while (1) { my $sum = 0; $sum += $_ for 1..1_000_000; pause(0.2) }"),
        // A byte each time costs next to no CPU time.
        start("writes", r#"open(my $null, ">", "/dev/null"); while (1) { syswrite($null, "x"); pause(0.3) }"#),
        start("forks", "while (1) { child { pause(0.3) }; wait; }"),
        start(
            "nests",
            r#"my $below = at("") . "/below"; mkdir($below) or die;
            child { put("$below/cgroup.procs", $$); while (1) { put("/dev/null", "x"); pause(0.3) } }; rest"#,
        ),
        start("unread", "rest"),
        start("kept", "rest"),
        start("answers", r#"while (<STDIN>) { print "pong\n" }"#),
    ];
    servers[4].child.stdin.as_mut().unwrap().write_all(b"not read\n").unwrap();
    // Two that do nothing, one after the other, tell that all others had the time to be taken for idle twice.
    let mut idlers = Vec::new();
    for session in ["first", "second"] {
        let idle = sleeper(&machine, session);
        eventually("one that does nothing is ended", || {
            let answers = servers.last_mut().unwrap();
            answers.child.stdin.as_mut().unwrap().write_all(b"ping\n").unwrap();
            assert_eq!(answers.line(), "pong");
            std::thread::sleep(Duration::from_millis(300));
            if lives(idle.pid()) { Err(machine.log()) } else { Ok(()) }
        });
        idlers.push((session, idle));
    }
    let names = ["burns", "writes", "forks", "nests", "unread", "kept", "answers"];
    for (name, server) in names.iter().zip(&servers) {
        assert!(Process::of(server.pid()).lives(), "{name}");
        assert_eq!(machine.session(name)["state"], "running", "{name}");
    }
    idlers.iter_mut().for_each(|(session, idle)| expect_idle(idle, session, span));
    end(&machine, &["--all"]);
    machine.expect_nothing_left();
}

#[test]
fn a_restart_of_the_daemon_counts_idleness_anew() {
    if !offered() {
        return;
    }
    let mut machine = Machine::with_config("[server]\nidle_after = '3s'\n");
    let mut server = sleeper(&machine, "s");
    std::thread::sleep(Duration::from_secs(1));
    machine.kill_daemon();
    // While nobody looks, nothing is known.
    std::thread::sleep(Duration::from_millis(2500));
    let restarted = Instant::now();
    machine.start();
    assert_eq!(machine.session("s")["state"], "running");
    assert_eq!(server.exit_status(), 128 + 15);
    let took = restarted.elapsed();
    assert!(took >= Duration::from_secs(3), "{took:?}");
    machine.expect_nothing_left();
    assert!(machine.log().contains("cause=\"idle\""), "{}", machine.log());
}

#[test]
fn a_daemon_looks_a_few_times_in_each_span_for_all_servers_together_and_without_one_never() {
    if !offered() {
        return;
    }
    let mut woken = Vec::new();
    for config in ["", "[server]\nidle_after = '8s'\n"] {
        let machine = Machine::with_config(config);
        let servers = ["a", "b", "c", "d", "e", "f"].map(|session| sleeper(&machine, session));
        machine.session("f");
        let wakes = || status_field(machine.daemon_pid(), "voluntary_ctxt_switches").parse::<u64>().unwrap();
        let before = wakes();
        // There is no other proof of few than to wait: two readings are due in it, or three.
        std::thread::sleep(Duration::from_secs(5));
        woken.push(wakes() - before);
        assert!(servers.iter().all(|server| lives(server.pid())));
        end(&machine, &["--all"]);
        machine.expect_nothing_left();
    }
    // On a hybrid machine refused forks are looked for each second. Each reading is a timer, and a thread that tells.
    assert!(woken[0] < 20 && woken[1] <= woken[0] + 12, "{woken:?} wakes");
}
