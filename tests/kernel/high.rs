//! `memory_high` and its watchdog: what stands still there is ended and says so, and what goes on lives. Where the watchdog
//! cannot see, there is no `memory_high`.

use std::path::Path;
use std::time::Duration;

use crate::hosts::status_field;
use crate::servers::{Process, end, level, perl, tell};
use crate::support::{Launched, Machine, eventually, lives, offered, pass_over};

const MIB: u64 = 1 << 20;

/// What a server that has nothing to be reclaimed gets, quicker than by default.
const QUICK: &str = "[server]\nmemory_high_for = '5s'\n";

fn holds(machine: &Machine) -> bool {
    machine.described()["limits"]["memory_high"]["state"] == "holds"
}

/// Whether a `memory_high` holds on this machine.
#[track_caller]
fn high_offered(machine: &Machine) -> bool {
    let holds = holds(machine);
    if !holds {
        pass_over("no memory_high can hold here");
    }
    holds
}

/// The number in a cgroup file, or of a key in it.
#[track_caller]
fn number(directory: &Path, file: &str, key: &str) -> u64 {
    let path = directory.join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{path:?}: {text}"));
    line.trim().parse().unwrap_or_else(|_| panic!("{path:?}: {text}"))
}

/// A server that grows to so many MiB once it is told to.
#[track_caller]
fn grows_to(machine: &Machine, name: &str, options: &[&str], mib: u64) -> Launched {
    let options = [&["--session", "s", "--server", name], options].concat();
    let mut server = perl(machine, &options, &format!(r#"print "up\n"; <STDIN>; grow({mib}); print "grown\n"; rest"#));
    assert_eq!(server.line(), "up", "{}", machine.log());
    server
}

#[test]
fn where_a_memory_high_cannot_hold_it_is_refused_with_the_reason() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    if holds(&machine) {
        pass_over("a memory_high holds here");
        return;
    }
    let why = machine.described()["limits"]["memory_high"]["why"].as_str().unwrap().to_owned();
    let mut server = machine.run(&["--session", "s", "--memory-high", "64M"], "echo up");
    assert_eq!((server.exit_status(), server.line().as_str()), (125, ""), "it does not run");
    let told = server.stderr();
    assert!(told.contains(&format!("the server's memory_high of 64M cannot hold here: {why}")), "{told}");
    assert!(told.contains("use memory_max") && told.lines().count() == 1, "{told}");
    let machine = Machine::with_config("[session]\nmemory_high = '64M'\n");
    let mut server = machine.run(&["--session", "s"], "echo up");
    assert_eq!(server.exit_status(), 125);
    assert!(server.stderr().contains("the session's memory_high of 64M cannot hold here"), "{}", machine.log());
    assert!(machine.cgroups().is_empty(), "nothing was made for it");
    let machine = Machine::with_config("best_effort = true\n[machine]\nmemory_high = '64M'\n");
    let mut server = machine.run(&["--session", "s"], "echo up; exec cat");
    assert_eq!(server.line(), "up", "{}", machine.log());
    let warnings = machine.session("s")["servers"][0]["warnings"].to_string();
    assert!(warnings.contains("memory_high of machine is not held here"), "{warnings}");
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn a_server_that_stands_still_at_its_memory_high_is_ended_and_says_so() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config(QUICK);
    if !high_offered(&machine) {
        return;
    }
    let mut small = grows_to(&machine, "small", &[], 1);
    let mut hog = grows_to(&machine, "hog", &["--memory-high", "32M"], 128);
    assert_eq!(number(&level(hog.pid(), "memory", 0), "memory.high", ""), 32 * MIB);
    tell(&mut hog);
    assert_eq!(hog.exit_status(), 128 + 9);
    let told = hog.stderr();
    let expected = "ended server hog of session s: memory ran out: it stood still at the server's own memory_high for 5s \
                    (full pressure ";
    assert!(told.contains(expected) && told.contains(", killed"), "{told:?}");
    assert!(!told.contains("grown"), "{told}");
    assert_eq!(machine.log().matches("cause=\"memory\"").count(), 1, "{}", machine.log());
    tell(&mut small);
    assert_eq!(small.line(), "grown", "its sibling goes on");
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn a_server_whose_page_cache_is_reclaimed_at_its_memory_high_lives() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nmemory_high_for = '2s'\n");
    if !high_offered(&machine) {
        return;
    }
    // Not below /tmp: the pages of a tmpfs are memory, and without swap nothing of them is reclaimed.
    let directory = tempfile::Builder::new().prefix("pinfold-test-").tempdir_in("/var/tmp").unwrap();
    let file = directory.path().join("big");
    let script = format!(
        "dd if=/dev/zero of={0} bs=1M count=100 status=none && sync {0} && echo written
        read go
        for round in 1 2 3 4 5 6; do dd if={0} of=/dev/null bs=1M status=none || exit; sleep 1; done; echo read; exec cat",
        file.display()
    );
    let options = ["--session", "s", "--server", "reader", "--memory-high", "32M"];
    let mut server = machine.run(&options, &script);
    assert_eq!(server.line(), "written", "{}", machine.log());
    let leaf = machine.leaf("s");
    let presses = number(&leaf, "memory.events", "high ");
    tell(&mut server);
    assert_eq!(server.line(), "read", "{}", machine.log());
    assert!(number(&leaf, "memory.events", "high ") > presses, "it was at its limit all the while");
    assert!(machine.log().contains("it may press against a memory_high"), "{}", machine.log());
    assert!(Process::of(server.pid()).lives());
    drop(server.child.stdin.take());
    assert_eq!((server.exit_status(), server.stderr().as_str()), (0, ""));
    machine.expect_nothing_left();
}

#[test]
fn at_the_memory_high_of_a_session_the_server_that_uses_most_is_ended() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config(&format!("{QUICK}[session]\nmemory_high = '64M'\n"));
    if !high_offered(&machine) {
        return;
    }
    let mut hog = grows_to(&machine, "hog", &[], 200);
    let mut small = grows_to(&machine, "small", &[], 16);
    assert_eq!(number(&level(hog.pid(), "memory", 1), "memory.high", ""), 64 * MIB);
    tell(&mut hog);
    eventually("the session is at its limit", || {
        let presses = number(&level(small.pid(), "memory", 1), "memory.events", "high ");
        if presses > 0 { Ok(()) } else { Err(machine.log()) }
    });
    // It stands still as well, although most is not its own.
    tell(&mut small);
    assert_eq!(hog.exit_status(), 128 + 9);
    let told = hog.stderr();
    assert!(told.contains("memory ran out: it stood still at its session's memory_high for 5s"), "{told:?}");
    assert_eq!(small.line(), "grown", "{}", machine.log());
    assert!(lives(small.pid()) && machine.session("s")["servers"].as_array().unwrap().len() == 1);
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn a_daemon_looks_at_what_presses_only_while_it_presses() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[session]\nmemory_high = '512M'\n");
    if !high_offered(&machine) {
        return;
    }
    let server = grows_to(&machine, "calm", &["--memory-high", "256M"], 1);
    machine.session("s");
    let wakes = || status_field(machine.daemon_pid(), "voluntary_ctxt_switches").parse::<u64>().unwrap();
    let before = wakes();
    // There is no other proof of nothing than to wait for it.
    std::thread::sleep(Duration::from_secs(3));
    let woken = wakes() - before;
    assert!(woken < 3, "{woken} wakes");
    assert!(lives(server.pid()));
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}
