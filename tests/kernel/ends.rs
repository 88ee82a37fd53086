//! Ends: whatever a server did to get away, nothing of it is left.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::servers::{Process, crowd, end, expect_dead, inhabitants, level, numbers_count, only_ended, perl};
use crate::support::{
    Machine, companions_offered, eventually, lives, offered, processes, root_offered, signal, v2_mount,
};

#[test]
fn a_grandchild_that_left_the_session_of_its_terminal_ends_with_its_session() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut server = machine.run(&["--session", "s"], "setsid sleep 1000 & echo $!; exec cat");
    let grandchild: i32 = server.line().parse().unwrap();
    let leaf = machine.leaf("s");
    assert_eq!(processes(&leaf).len(), 2, "server and grandchild are in the leaf");
    let output = machine.ask(&["end", "s"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!leaf.exists(), "the reply comes when the leaf is gone");
    assert!(!lives(grandchild));
    assert_eq!(server.exit_status(), 128 + 15);
    machine.expect_nothing_left();
}

#[test]
fn a_fork_bomb_at_its_process_limit_is_ended_whole() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let options = ["--session", "s", "--pids-max", "150", "--grace", "300ms"];
    let bomb = r#"$SIG{TERM} = "IGNORE"; while (1) { select(undef, undef, undef, 0.2) unless defined(fork()) }"#;
    let mut server = perl(&machine, &options, bomb);
    let (leaf, bombs) = crowd(&machine, "s", 150);
    let refusals = || machine.session("s")["servers"][0]["pids_refusals"].as_u64().unwrap();
    eventually("forks are refused", || if refusals() > 0 { Ok(()) } else { Err("none".into()) });
    let reply = end(&machine, &["s"]);
    assert_eq!(only_ended(&reply)["processes"], 150, "{reply}");
    assert_eq!(only_ended(&reply)["killed"], true, "{reply}");
    assert!(!leaf.exists());
    expect_dead(&bombs);
    assert_eq!(server.exit_status(), 128 + 9);
    machine.expect_nothing_left();
}

#[test]
fn two_thousand_processes_each_in_a_terminal_session_of_its_own_are_ended_whole() {
    if !offered() || !numbers_count() {
        return;
    }
    let machine = Machine::new();
    let script = r#"for (1..2000) { child { POSIX::setsid(); rest } } print "all\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s", "--pids-max", "2500"], script);
    assert_eq!(server.line(), "all");
    let (leaf, all) = crowd(&machine, "s", 2001);
    assert_eq!(all.len(), 2001);
    let reply = end(&machine, &["s"]);
    assert_eq!(only_ended(&reply)["processes"], 2001, "{reply}");
    assert!(!leaf.exists());
    expect_dead(&all);
    machine.expect_nothing_left();
}

/// Forks twice, leaves the terminal session, and closes all descriptors, as daemon(7) has it.
const DAEMONISE: &str = r#"
    my ($read, $write); pipe($read, $write);
    waitpid(child {
        POSIX::setsid();
        child { syswrite($write, "$$\n"); chdir("/"); POSIX::close($_) for 0..255; rest };
    }, 0);
    print scalar(<$read>);
"#;

#[test]
fn a_daemonised_grandchild_ends_with_its_session() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut server = perl(&machine, &["--session", "s"], &format!("{DAEMONISE}; rest"));
    let daemon = Process::told(&server.line());
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid)).unwrap();
    let parent = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap();
    assert_ne!(parent, server.pid().to_string(), "an orphan, brought up by init or another reaper");
    let (_, all) = crowd(&machine, "s", 2);
    assert!(all.contains(&daemon), "{all:?}");
    assert_eq!(only_ended(&end(&machine, &["s"]))["processes"], 2);
    expect_dead(&all);
    machine.expect_nothing_left();
}

#[test]
fn what_a_server_daemonised_goes_when_its_first_process_exits() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut server = perl(&machine, &["--session", "s", "--server", "d"], &format!("{DAEMONISE}; <STDIN>; exit(3)"));
    let daemon = Process::told(&server.line());
    machine.session("s");
    std::io::Write::write_all(server.child.stdin.as_mut().unwrap(), b"leave\n").unwrap();
    assert_eq!(server.exit_status(), 3, "the exit status is the server's own");
    machine.expect_nothing_left();
    assert!(!daemon.lives());
    assert_eq!(server.stderr().lines().count(), 1);
    let told = r#"server=d cause="leader_exited""#;
    assert!(machine.log().contains(told), "{}", machine.log());
}

#[test]
fn a_host_that_signals_its_direct_child_only_leaves_nothing_behind() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    for killer in [Signal::SIGTERM, Signal::SIGKILL] {
        let options = ["--session", "s", "--server", "w", "--grace", "300ms"];
        // As `npm exec` does it: a wrapper that dies, and the server proper below it, which does not care.
        let mut server = machine.run(
            &options,
            "sh -c 'trap \"\" TERM HUP; echo $$; while :; do sleep 1000; done' & setsid sleep 1000 & echo $!; wait",
        );
        let (first, second) = (Process::told(&server.line()), Process::told(&server.line()));
        let (_, all) = crowd(&machine, "s", 4);
        assert!(all.contains(&first) && all.contains(&second));
        signal(server.pid(), killer);
        assert_eq!(server.exit_status(), 128 + killer as i32);
        machine.expect_nothing_left();
        expect_dead(&all);
        let told = server.stderr();
        // By which signal a kernel before 6.15 tells only whoever asks before its host does.
        let by = told.split_once("ended server w of session s: its first process ").map_or("", |(_, by)| by);
        let expected = [format!("was killed by {killer}, 3 processes"), "exited, 3 processes".to_owned()];
        assert!(expected.iter().any(|expected| by.starts_with(expected)), "{told:?}");
    }
}

#[test]
fn a_server_whose_host_never_reaps_it_leaves_no_leaf() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut server = machine.run(&["--session", "s"], "exec sleep 1000");
    let leader = Process::of(server.pid());
    let leaf = machine.leaf("s");
    end(&machine, &["s"]);
    assert!(!leaf.exists());
    assert_eq!(leader.state(), Some('Z'), "nobody has waited for it");
    machine.expect_nothing_left();
    assert_eq!(server.exit_status(), 128 + 15);
}

#[test]
fn zombies_in_a_leaf_neither_count_nor_hold_up_its_end() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"my @dead = map { child { } } 1..30; print "@dead\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s"], script);
    let line = server.line();
    let dead: Vec<Process> = line.split(' ').map(Process::told).collect();
    eventually("they are zombies", || {
        let states: Vec<_> = dead.iter().map(|process| process.state()).collect();
        if states.iter().all(|state| *state == Some('Z')) { Ok(()) } else { Err(format!("{states:?}")) }
    });
    machine.session("s");
    let reply = end(&machine, &["s"]);
    assert_eq!(only_ended(&reply)["processes"], 1, "{reply}");
    assert_eq!(only_ended(&reply)["killed"], false, "{reply}");
    machine.expect_nothing_left();
    assert_eq!(server.exit_status(), 128 + 15);
}

#[test]
fn a_child_that_ignores_term_and_hup_is_killed_at_the_grace() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"print child { $SIG{TERM} = $SIG{HUP} = "IGNORE"; print "deaf "; rest }, "\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s", "--grace", "300ms"], script);
    let line = server.line();
    let deaf = Process::told(line.replace("deaf ", "").trim());
    let (_, all) = crowd(&machine, "s", 2);
    assert!(all.contains(&deaf));
    eventually("it is deaf", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", deaf.pid)).unwrap();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim().to_owned();
        let mask = u64::from_str_radix(&ignored, 16).unwrap();
        if mask & (1 << 14) != 0 && mask & 1 != 0 { Ok(()) } else { Err(ignored) }
    });
    let start = Instant::now();
    let reply = end(&machine, &["s"]);
    assert!(start.elapsed() >= Duration::from_millis(300), "the grace is its own");
    assert_eq!(only_ended(&reply)["killed"], true, "{reply}");
    expect_dead(&all);
    assert_eq!(server.exit_status(), 128 + 15, "the leader was asked, and went");
    assert!(server.stderr().contains(", killed"));
    machine.expect_nothing_left();
}

#[test]
fn a_stopped_child_is_woken_to_hear_that_it_ends() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"print child { $SIG{TERM} = sub { exit(0) }; kill("STOP", $$); rest }, "\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s", "--grace", "15s"], script);
    let stopped = Process::told(&server.line());
    eventually("it is stopped", || if stopped.state() == Some('T') { Ok(()) } else { Err("it runs".into()) });
    machine.session("s");
    let reply = end(&machine, &["s"]);
    assert_eq!(only_ended(&reply)["killed"], false, "{reply}");
    assert!(!stopped.lives());
    machine.expect_nothing_left();
}

#[test]
fn a_stopped_child_that_ignores_its_end_is_killed() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    // Stopped again by whoever wakes it.
    let script = r#"
        print child { $SIG{TERM} = $SIG{HUP} = "IGNORE"; $SIG{CONT} = sub { kill("STOP", $$) }; kill("STOP", $$); rest }, "\n";
        rest"#;
    let mut server = perl(&machine, &["--session", "s", "--grace", "300ms"], script);
    let stopped = Process::told(&server.line());
    eventually("it is stopped", || if stopped.state() == Some('T') { Ok(()) } else { Err("it runs".into()) });
    machine.session("s");
    let reply = end(&machine, &["s"]);
    assert_eq!(only_ended(&reply)["killed"], true, "{reply}");
    assert!(!stopped.lives());
    machine.expect_nothing_left();
}

#[test]
fn children_frozen_in_a_cgroup_of_their_own_are_killed_at_the_grace() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"
        my $own = at(""); mkdir("$own/ice") or die $!;
        print join(" ", map { child { $SIG{TERM} = sub { exit(0) }; put("$own/ice/cgroup.procs", $$); rest } } 1..3), "\n";
        while (1) {
            open(my $file, "<", "$own/ice/cgroup.procs"); my @there = <$file>;
            last if @there == 3; select(undef, undef, undef, 0.005);
        }
        put("$own/ice/cgroup.freeze", 1); print "frozen\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s", "--grace", "300ms"], script);
    let line = server.line();
    let frozen: Vec<Process> = line.split(' ').map(Process::told).collect();
    assert_eq!(server.line(), "frozen");
    let leaf = machine.leaf("s");
    eventually("they are frozen", || {
        let events = std::fs::read_to_string(leaf.join("ice/cgroup.events")).unwrap();
        if events.contains("frozen 1") { Ok(()) } else { Err(events) }
    });
    assert!(frozen.iter().all(|process| process.lives()));
    let reply = end(&machine, &["s"]);
    assert_eq!(only_ended(&reply)["processes"], 4, "{reply}");
    assert_eq!(only_ended(&reply)["killed"], true, "the frozen hear nothing: {reply}");
    expect_dead(&frozen);
    assert!(!leaf.exists());
    machine.expect_nothing_left();
}

#[test]
fn a_server_that_froze_its_own_leaf_is_killed_at_the_grace() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script =
        r#"$SIG{TERM} = sub { exit(0) }; child { rest }; print "now\n"; put(at("") . "/cgroup.freeze", 1); rest"#;
    let mut server = perl(&machine, &["--session", "s", "--grace", "300ms"], script);
    assert_eq!(server.line(), "now");
    let (leaf, all) = crowd(&machine, "s", 2);
    eventually("it is frozen", || {
        let events = std::fs::read_to_string(leaf.join("cgroup.events")).unwrap();
        if events.contains("frozen 1") { Ok(()) } else { Err(events) }
    });
    assert_eq!(only_ended(&end(&machine, &["s"]))["killed"], true);
    expect_dead(&all);
    assert!(!leaf.exists());
    machine.expect_nothing_left();
}

#[test]
fn processes_in_nested_and_threaded_cgroups_of_their_own_are_counted_and_ended() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"
        my $own = at("");
        my @deep = ("$own/a", "$own/a/b", "$own/a/b/c", "$own/t", "$own/t/u");
        for (@deep) { mkdir($_) or die "$_: $!" }
        put("$own/t/u/cgroup.type", "threaded");
        my @pids = map { my $to = $_; child { put("$to/cgroup.procs", $$); rest } } @deep[0..3];
        # One stands in the threaded cgroup by moving there from the domain above it.
        push(@pids, child { put("$own/t/cgroup.procs", $$); put("$own/t/u/cgroup.threads", $$); rest });
        print "@pids\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s"], script);
    let line = server.line();
    let nested: Vec<Process> = line.split(' ').map(Process::told).collect();
    assert_eq!(nested.len(), 5);
    let leaf = machine.leaf("s");
    eventually("one stands three below, and one in the threaded cgroup", || {
        let (deep, threads) = (processes(&leaf.join("a/b/c")), leaf.join("t/u/cgroup.threads"));
        let threads = std::fs::read_to_string(threads).unwrap();
        let there = deep == [nested[2].pid] && threads.trim() == nested[4].pid.to_string();
        if there { Ok(()) } else { Err(format!("{deep:?} {threads:?}")) }
    });
    assert_eq!(machine.session("s")["processes"], 6);
    let reply = end(&machine, &["s"]);
    assert_eq!(only_ended(&reply)["processes"], 6, "{reply}");
    expect_dead(&nested);
    assert!(!leaf.exists());
    machine.expect_nothing_left();
}

#[test]
fn processes_in_cgroups_made_below_the_companions_are_ended_and_the_companions_go() {
    if !offered() || !companions_offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"
        my @below = map { (at($_) . "/x", at($_) . "/x/y") } ("memory", "pids");
        for (@below) { mkdir($_) or die "$_: $!" }
        print child { put("$_/cgroup.procs", $$) for @below; print "moved "; rest }, "\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s"], script);
    let line = server.line();
    let nested = Process::told(line.replace("moved ", "").trim());
    let companions = ["memory", "pids"].map(|controller| level(server.pid(), controller, 0));
    for companion in &companions {
        eventually("it is two below", || {
            let there = processes(&companion.join("x/y"));
            if there == [nested.pid] { Ok(()) } else { Err(format!("{there:?}")) }
        });
    }
    machine.session("s");
    assert_eq!(only_ended(&end(&machine, &["s"]))["processes"], 2);
    assert!(!nested.lives());
    assert!(companions.iter().all(|companion| !companion.exists()), "the reply comes when the companions are gone");
    machine.expect_nothing_left();
}

#[test]
fn a_server_that_forks_all_the_while_is_killed_whole() {
    if !offered() || !numbers_count() {
        return;
    }
    let machine = Machine::new();
    let script = r#"
        $SIG{CHLD} = "IGNORE";
        sub life { POSIX::setsid() if rand() < 0.5; select(undef, undef, undef, 0.05) }
        for (1..8) { child { while (1) { my $pid = fork(); if (!defined($pid)) { life } elsif ($pid == 0) { life; POSIX::_exit(0) } } } }
        rest"#;
    for round in 0..5 {
        let mut server = perl(&machine, &["--session", "s", "--pids-max", "300"], script);
        let (leaf, seen) = crowd(&machine, "s", 100);
        let reply = end(&machine, &["s", "--now"]);
        assert_eq!(only_ended(&reply)["killed"], true, "round {round}: {reply}");
        assert!(!leaf.exists(), "round {round}");
        expect_dead(&seen);
        assert_eq!(server.exit_status(), 128 + 9);
        machine.expect_nothing_left();
    }
}

#[test]
fn a_killed_server_is_launched_anew_in_the_same_session_again_and_again() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut leaves = std::collections::BTreeSet::new();
    for round in 0..15 {
        let mut server = machine.run(&["--session", "s", "--server", "again"], "echo up; exec cat");
        assert_eq!(server.line(), "up", "round {round}: {}", machine.log());
        let leaf = machine.leaf("s");
        assert_eq!(processes(&leaf), [server.pid()], "round {round}");
        assert!(leaves.insert(leaf), "a leaf is single-use");
        only_ended(&end(&machine, &["s", "--now"]));
        assert_eq!(server.exit_status(), 128 + 9);
    }
    machine.expect_nothing_left();
}

#[test]
fn a_launch_while_its_session_ends_is_either_ended_with_it_or_lives() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let (mut lived, mut ended) = (0, 0);
    for round in 0..20 {
        let mut first = machine.run(&["--session", "s"], "echo up; exec cat");
        assert_eq!(first.line(), "up", "round {round}: {}", machine.log());
        let ending = machine.pinfold(&["end", "s", "--now"]).stdout(std::process::Stdio::null()).spawn().unwrap();
        // From before the end is ordered to after it is over, in steps.
        std::thread::sleep(Duration::from_millis(round));
        let mut second = machine.run(&["--session", "s"], "echo up; exec cat");
        let up = second.line() == "up";
        assert!({ ending }.wait().unwrap().success());
        assert_eq!(first.exit_status(), 128 + 9);
        // Whatever became of it, it is one of these, and nothing in between.
        let there = inhabitants(&machine.tree());
        if up && there.iter().any(|process| process.pid == second.pid()) {
            lived += 1;
            end(&machine, &["s", "--now"]);
            assert_eq!(second.exit_status(), 128 + 9);
        } else {
            ended += 1;
            let (status, told) = (second.exit_status(), second.stderr());
            let refused = status == 125 && told.contains("ended before it started");
            assert!(refused || status == 128 + 9, "round {round}: {status}, {told}; {}", machine.log());
        }
        machine.expect_nothing_left();
    }
    assert_eq!(lived + ended, 20);
    assert!(lived > 0, "the last rounds launch after the end");
}

#[test]
fn a_server_that_moved_out_of_its_leaf_is_shown_as_escaped_and_ended() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    // With a child that stays, so that the leaf is not empty, and without one.
    for stays in ["child { rest };", ""] {
        let script = format!(r#"{stays} put("$ENV{{TEST_V2}}/cgroup.procs", $$); print "out\n"; rest"#);
        let mut server = perl(&machine, &["--session", "s"], &script);
        assert_eq!(server.line(), "out", "{}", server_words(&mut server));
        let leader = Process::of(server.pid());
        assert!(processes(&v2_mount().unwrap()).contains(&leader.pid), "it stands at the top");
        eventually("it is shown", || {
            let view = machine.session("s")["servers"][0]["escaped"].clone();
            if view == true { Ok(()) } else { Err(view.to_string()) }
        });
        end(&machine, &["s"]);
        assert!(!leader.lives(), "it is held by its pidfd, wherever it is");
        assert_eq!(server.exit_status(), 128 + 15);
        machine.expect_nothing_left();
    }
}

#[test]
fn a_server_that_moved_out_of_all_its_cgroups_and_ignores_its_end_is_killed_at_the_grace() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"
        $SIG{TERM} = "IGNORE";
        put("$_/cgroup.procs", $$) for grep { $_ } @mount{"", "memory", "pids"};
        print "out\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s", "--grace", "300ms"], script);
    assert_eq!(server.line(), "out");
    let leader = Process::of(server.pid());
    let leaf = machine.leaf("s");
    assert!(inhabitants(&leaf).is_empty());
    let start = Instant::now();
    let reply = end(&machine, &["s"]);
    assert!(!leader.lives(), "{reply}; {}", machine.log());
    assert!(start.elapsed() >= Duration::from_millis(300), "the grace is its own");
    assert_eq!(server.exit_status(), 128 + 9);
    machine.expect_nothing_left();
}

#[test]
fn a_child_that_moved_out_of_the_leaf_but_not_of_the_companions_is_killed() {
    if !offered() || !companions_offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"
        print child { $SIG{TERM} = "IGNORE"; put("$ENV{TEST_V2}/cgroup.procs", $$); print "out "; rest }, "\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s"], script);
    let line = server.line();
    let child = Process::told(line.replace("out ", "").trim());
    eventually("it stands at the top", || {
        if processes(&v2_mount().unwrap()).contains(&child.pid) { Ok(()) } else { Err("not yet".into()) }
    });
    machine.session("s");
    end(&machine, &["s"]);
    assert!(!child.lives());
    machine.expect_nothing_left();
}

#[test]
fn a_server_that_leaves_by_itself_finds_nothing_of_ours_on_its_stderr() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut by_itself = machine.run(&["--session", "s"], "read line; echo own words >&2; exit 7");
    machine.session("s");
    std::io::Write::write_all(by_itself.child.stdin.as_mut().unwrap(), b"leave\n").unwrap();
    assert_eq!(by_itself.exit_status(), 7);
    assert_eq!(by_itself.stderr(), "own words\n");
    let mut at_eof = machine.run(&["--session", "t"], "exec cat");
    machine.session("t");
    drop(at_eof.child.stdin.take());
    assert_eq!(at_eof.exit_status(), 0);
    assert_eq!(at_eof.stderr(), "");
    machine.expect_nothing_left();
}

/// What a server that did not say what was expected wrote on its stderr.
fn server_words(server: &mut crate::support::Launched) -> String {
    if server.child.try_wait().unwrap().is_some() { server.stderr() } else { String::new() }
}
