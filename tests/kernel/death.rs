//! The daemon's own death: it is killed at every single step that it takes, one after the other, and the next daemon finds
//! all as it has to be.
//!
//! A debug build's daemon kills itself at the N-th step when `PINFOLD_CRASH_AT=N` says so. One script of launches and ends is
//! played for N = 1, 2, 3… until a daemon lives through it, and after each death the only invariant that counts is looked at:
//! alive are exactly the servers that have no cause yet, each in its leaf, and there is no cgroup and no record beside.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::hosts::v2_cgroup;
use crate::servers::level;
use crate::support::{Launched, Machine, binary, eventually, lives, offered, on_systemd, signal, v2_mount};

/// Scripts that are played at a time: each waits most of the time.
const PLAYERS: usize = 6;

/// Beyond any number of steps that the script has.
const STEPS_MAX: u64 = 2000;

/// Short, so that an end passes through all its phases soon.
pub(crate) const CONFIG: &str = "[server]\ngrace = \"100ms\"\nstdin_grace = \"100ms\"\n[daemon]\nidle_exit = \"60s\"";

/// What stands after a script was played.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Played {
    /// The daemon died at this step.
    Killed(String),
    /// It lived through all of it.
    Through,
}

/// Plays a script for each step, and gives the names of the steps at which the daemon died, in order of N.
#[track_caller]
pub(crate) fn play_at_every_step(play: impl Fn(u64) -> Played + Sync) -> Vec<String> {
    let (next, over) = (AtomicU64::new(1), AtomicBool::new(false));
    let killed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..PLAYERS {
            scope.spawn(|| {
                let _stops_all = Stops(&over);
                while !over.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    assert!(at < STEPS_MAX, "the daemon takes steps without end");
                    match play(at) {
                        Played::Killed(step) => killed.lock().unwrap().push((at, step)),
                        Played::Through => over.store(true, Ordering::Relaxed),
                    }
                }
            });
        }
    });
    let mut killed = killed.into_inner().unwrap();
    killed.sort();
    killed.into_iter().map(|(_, step)| step).collect()
}

/// When one player fails, the others need not play on.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// A script that fails shows what its daemons said.
pub(crate) struct Tells<'a>(pub(crate) &'a Machine);

impl Drop for Tells<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0.log());
        }
    }
}

/// A daemon that is to die.
pub(crate) struct Doomed<'a> {
    machine: &'a Machine,
    child: Child,
}

impl<'a> Doomed<'a> {
    /// Started, and listening unless it died before that.
    pub(crate) fn start(machine: &'a Machine, at: &str) -> Self {
        Self::start_with(machine, &[("PINFOLD_CRASH_AT", at)])
    }

    /// One that takes its time, too, or no more than that.
    pub(crate) fn start_with(machine: &'a Machine, variables: &[(&str, &str)]) -> Self {
        let mut child = machine.serve().envs(variables.iter().copied()).spawn().unwrap();
        eventually("the daemon listens or is dead", || {
            let listens = machine.listener().is_ok_and(|pid| pid == child.id() as i32);
            let done = listens || child.try_wait().unwrap().is_some();
            if done { Ok(()) } else { Err(machine.log()) }
        });
        Self { machine, child }
    }

    fn is_dead(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// At which step it died, if it did.
    pub(crate) fn died_at(&mut self) -> Option<String> {
        if !self.is_dead() {
            return None;
        }
        let log = self.machine.log();
        let step = log.lines().find_map(|line| line.strip_prefix("crash at step ")?.split_once(": "));
        Some(step.unwrap_or_else(|| panic!("it died of something else: {log}")).1.to_owned())
    }
}

impl Doomed<'_> {
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Doomed<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A daemon that is about to die has died. To look changes nothing and is no step.
#[track_caller]
pub(crate) fn answers_or_is_dead(machine: &Machine, daemon: &mut Doomed<'_>) {
    eventually("the daemon answers or is dead", || {
        let answers = machine.ask(&["ls"]).status.success();
        if daemon.is_dead() || answers { Ok(()) } else { Err(machine.log()) }
    });
}

/// A daemon listens again: a launcher that found none may have started one, and else it is started here.
#[track_caller]
pub(crate) fn revive(machine: &Machine) {
    if UnixStream::connect(machine.socket()).is_ok() {
        return;
    }
    let mut child = machine.serve().spawn().unwrap();
    eventually("a daemon listens again", || {
        UnixStream::connect(machine.socket()).map(drop).map_err(|error| format!("{error}: {}", machine.log()))
    });
    // Its parent need not wait for it: it is stopped by its pid, and reaped here.
    std::thread::spawn(move || child.wait());
}

/// A server of the script.
struct Player {
    launched: Launched,
    /// What it says when it runs.
    says: &'static str,
    /// It said so: until its launch is over it may be refused.
    runs: bool,
    /// It was given a reason to end.
    doomed: bool,
}

impl Player {
    fn new(launched: Launched, says: &'static str) -> Self {
        Self { launched, says, runs: false, doomed: false }
    }

    /// Waits until it runs in its leaf, or was refused in one clear line.
    #[track_caller]
    fn settle(&mut self, machine: &Machine) {
        let line = self.launched.line();
        self.runs = line == self.says;
        if !self.runs {
            assert_eq!(line, "", "{}", machine.log());
            assert_eq!(self.launched.exit_status(), 125, "{}", machine.log());
            let told = self.launched.stderr();
            assert!(told.lines().count() == 1 && told.starts_with("pinfold: "), "{told:?}: {}", machine.log());
        }
    }
}

fn servers(machine: &Machine) -> Vec<Value> {
    let sessions = machine.sessions();
    sessions.iter().flat_map(|session| session["servers"].as_array().unwrap().clone()).collect()
}

/// The invariant: who lives is listed and stands in its leaf, who does not is not listed, and nothing else is there.
#[track_caller]
fn expect_whole(machine: &Machine, living: &[i32], dead: &[i32]) {
    let (mount, wanted) = (v2_mount().unwrap(), BTreeSet::from_iter(living.iter().copied()));
    eventually("all is as it has to be", || {
        let servers = servers(machine);
        let fail = |what: &str| Err(format!("{what}: {living:?} {dead:?} {servers:?}: {}", machine.log()));
        let listed: BTreeSet<i32> =
            servers.iter().map(|server| server["leader_pid"].as_i64().unwrap() as i32).collect();
        if listed != wanted || listed.len() != servers.len() {
            return fail("listed are others than live");
        }
        if let Some(pid) = living.iter().find(|pid| !lives(**pid)) {
            return fail(&format!("{pid} is dead"));
        }
        if let Some(pid) = dead.iter().find(|pid| lives(**pid)) {
            return fail(&format!("{pid} lives"));
        }
        let leaves: BTreeSet<PathBuf> =
            servers.iter().map(|server| server["cgroup"].as_str().unwrap().into()).collect();
        if servers.iter().any(|server| {
            let pid = server["leader_pid"].as_i64().unwrap() as i32;
            v2_cgroup(pid, &mount) != Path::new(server["cgroup"].as_str().unwrap()) || server["state"] != "running"
        }) {
            return fail("one stands outside its leaf, or ends");
        }
        // Each directory of any hierarchy is a leaf, a session of one, or, of a companion, the machine level.
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let mut named: BTreeSet<String> =
            leaves.iter().flat_map(|leaf| [name(leaf), name(leaf.parent().unwrap())]).collect();
        let stray: Vec<PathBuf> = machine
            .cgroups()
            .into_iter()
            .filter(|path| !named.contains(&name(path)) && (named.is_empty() || !name(path).starts_with("pinfold.")))
            .collect();
        if !stray.is_empty() {
            return fail(&format!("{stray:?} belong to nobody"));
        }
        let mut records: BTreeSet<String> = machine.records().iter().map(|path| name(path)).collect();
        named = leaves.iter().map(|leaf| format!("{}.json", name(leaf))).collect();
        if records != named {
            records.extend(named);
            return fail(&format!("records of others: {records:?}"));
        }
        Ok(())
    });
}

/// Whoever ran has ended in the history, whichever daemon it was that saw it, and no leaf twice. A launcher that was placed
/// by a daemon that died, and asked the next one, had two.
#[track_caller]
fn expect_remembered(machine: &Machine, ran: &[(&str, bool)]) {
    let output = machine.ask(&["history", "--json"]);
    assert!(output.status.success(), "{output:?}: {}", machine.log());
    let ends: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    for (server, _) in ran.iter().filter(|(_, ran)| *ran) {
        assert!(ends.iter().any(|end| end["server"] == *server), "{server} is missing: {ends:?}: {}", machine.log());
    }
    let leaves: BTreeSet<&str> = ends.iter().map(|end| end["leaf"].as_str().unwrap()).collect();
    assert_eq!(leaves.len(), ends.len(), "one is there twice: {ends:?}: {}", machine.log());
}

/// Records whose end has begun: these servers end whether or not anybody asks again.
fn begun(machine: &Machine) -> Vec<i32> {
    let read = |path: PathBuf| serde_json::from_slice::<Value>(&std::fs::read(path).ok()?).ok();
    // A draft was never said.
    let whole = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let records = machine.records().into_iter().filter(whole).filter_map(read);
    records
        .filter(|record| !record["ending"].is_null())
        .map(|record| record["leader"]["pid"].as_i64().unwrap() as i32)
        .collect()
}

/// The script: two servers of one session, the first with one that it launches itself, and one whose owner is killed. They
/// end by a closed stdin, with their owner, and on request, the last one with a SIGTERM that it ignores.
fn play(at: &str, again: Option<u64>) -> Played {
    let machine = Machine::configured(CONFIG);
    let _tells = Tells(&machine);
    let mut daemon = Doomed::start(&machine, at);
    let recover = |machine: &Machine| {
        if let Some(again) = again {
            // Dies a second time, in what it does first.
            let mut second = Doomed::start(machine, &again.to_string());
            answers_or_is_dead(machine, &mut second);
        }
        revive(machine);
    };
    if daemon.is_dead() {
        recover(&machine);
    }
    let configured = |mut command: std::process::Command| {
        command.env("PINFOLD_CONFIG", machine.path("pinfold.toml"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // The one that is launched by the other says so on its stdout, through a file of its own: both speak at once.
    let nested = machine.path("inner");
    let script = format!(
        "\"$PINFOLD\" run --server inner -- sh -c 'echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000' 2>{0}.told & echo up; exec cat",
        nested.display()
    );
    let mut run =
        configured(machine.pinfold(&["run", "--session", "s", "--server", "outer", "--", "sh", "-c", &script]));
    machine.point_here(&mut run);
    let mut outer = Player::new(Launched::spawn(run), "up");
    let stubborn = "trap '' TERM; echo up; exec sleep 1000";
    let run = configured(machine.pinfold(&["run", "--session", "s", "--server", "asked", "--", "sh", "-c", stubborn]));
    let mut asked = Player::new(Launched::spawn(run), "up");
    let owned = "trap '' TERM HUP; \"$PINFOLD\" run --session t --server owned -- sh -c 'echo $$; exec sleep 1000' <\"$FIFO.$$\" 9>&- & wait";
    let mut host = Launched::spawn(configured(machine.host_command("claude", owned)));
    for player in [&mut outer, &mut asked] {
        player.settle(&machine);
    }
    let owned: Option<i32> = host.line().parse().ok();
    let inner: Option<i32> = outer
        .runs
        .then(|| {
            eventually("the inner one runs or is refused", || {
                if let Ok(pid) = std::fs::read_to_string(&nested) {
                    return Ok(pid.trim().parse().ok());
                }
                let told = std::fs::read_to_string(nested.with_extension("told")).unwrap_or_default();
                if told.ends_with('\n') { Ok(None) } else { Err(format!("{told:?}: {}", machine.log())) }
            })
        })
        .flatten();
    let mut living: Vec<i32> =
        [outer.runs.then(|| outer.launched.pid()), asked.runs.then(|| asked.launched.pid()), owned, inner]
            .into_iter()
            .flatten()
            .collect();
    let mut dead = Vec::new();
    let check = |machine: &Machine, living: &[i32], dead: &[i32]| expect_whole(machine, living, dead);
    answers_or_is_dead(&machine, &mut daemon);
    if daemon.is_dead() {
        recover(&machine);
        check(&machine, &living, &dead);
    }

    // All of it ends at once, each for a reason of its own.
    drop(outer.launched.child.stdin.take());
    signal(host.pid(), Signal::SIGKILL);
    for pid in [outer.runs.then(|| outer.launched.pid()), owned, inner].into_iter().flatten() {
        living.retain(|other| *other != pid);
        dead.push(pid);
    }
    outer.doomed = true;
    if asked.runs {
        let done = machine.ask(&["end", "--server", "s/asked"]);
        if !done.status.success() {
            // Nobody tells whether it was heard. What was begun goes on; what was not is asked for again.
            eventually("the daemon that hung up is dead", || {
                if daemon.is_dead() { Ok(()) } else { Err(format!("{done:?}: {}", machine.log())) }
            });
            let goes_on = begun(&machine).contains(&asked.launched.pid());
            recover(&machine);
            if !goes_on {
                let done = machine.ask(&["end", "--server", "s/asked"]);
                assert!(matches!(done.status.code(), Some(0 | 1)), "{done:?}: {}", machine.log());
            }
        }
        living.retain(|other| *other != asked.launched.pid());
        dead.push(asked.launched.pid());
    }
    eventually("the others have ended, or their daemon is dead", || {
        let ended = dead.iter().all(|pid| !lives(*pid)) && machine.records().is_empty();
        if ended || daemon.is_dead() { Ok(()) } else { Err(format!("{dead:?}: {}", machine.log())) }
    });
    answers_or_is_dead(&machine, &mut daemon);
    if daemon.is_dead() {
        recover(&machine);
    }
    check(&machine, &living, &dead);
    let died = daemon.died_at();
    if died.is_none() {
        // What comes now is no part of the script.
        daemon.kill();
        revive(&machine);
    }
    let output = machine.ask(&["end", "--all"]);
    assert!(output.status.success(), "{output:?}: {}", machine.log());
    machine.expect_nothing_left();
    let ran = [("outer", outer.runs), ("asked", asked.runs), ("owned", owned.is_some()), ("inner", inner.is_some())];
    expect_remembered(&machine, &ran);
    for mut player in [outer, asked] {
        player.launched.exit_status();
    }
    host.exit_status();
    stop(&machine);
    died.map_or(Played::Through, Played::Killed)
}

/// Stops whichever daemon runs, and looks that it takes along what is its own.
#[track_caller]
pub(crate) fn stop(machine: &Machine) {
    let pid = machine.described()["pid"].as_i64().unwrap() as i32;
    signal(pid, Signal::SIGTERM);
    eventually("the daemon stops", || if lives(pid) { Err(machine.log()) } else { Ok(()) });
    assert!(!machine.tree().exists() && !machine.socket().exists(), "{}", machine.log());
}

#[test]
fn a_daemon_killed_at_any_single_step_loses_nothing_and_leaks_nothing() {
    if !offered() || on_systemd() {
        return;
    }
    let started = std::time::Instant::now();
    let steps = play_at_every_step(|at| play(&at.to_string(), None));
    println!("{} steps in {:.1} s: {steps:?}", steps.len(), started.elapsed().as_secs_f32());
    let names: BTreeSet<&str> = steps.iter().map(String::as_str).collect();
    // Two launches at once take their steps in any order: what no number hit is hit by its name.
    for step in STEPS.iter().filter(|step| !names.contains(*step)) {
        assert_eq!(play(step, None), Played::Killed((*step).to_owned()), "no daemon was killed at {step:?}");
    }
}

#[test]
fn a_daemon_killed_again_while_it_takes_over_loses_nothing_and_leaks_nothing() {
    if !offered() || on_systemd() {
        return;
    }
    // In a launch, between launches, and in the midst of ends; and then at each of the first steps of the next one.
    let deaths: Vec<(u64, u64)> =
        [12, 30, 55, 75, 85, 95, 110].into_iter().flat_map(|at| (1..=8).map(move |again| (at, again))).collect();
    let steps = play_at_every_step(|number| match deaths.get(number as usize - 1) {
        Some((at, again)) => match play(&at.to_string(), Some(*again)) {
            Played::Killed(step) => Played::Killed(step),
            Played::Through => Played::Killed("none".to_owned()),
        },
        None => Played::Through,
    });
    let died = steps.iter().filter(|step| *step != "none").count();
    assert!(died * 2 > deaths.len(), "the deaths come too late: {steps:?}");
}

/// Each is one that no death is to miss.
const STEPS: &[&str] = &[
    "the daemon starts",
    "the daemon listens",
    "the owner is watched",
    "a draft was made",
    "a draft was written",
    "a record was written",
    "a cgroup was made",
    "cgroup.procs",
    "before the reply",
    "a reply was sent",
    "take stock",
    "terminate",
    "a process was asked to terminate",
    "kill",
    "cgroup.kill",
    "remove",
    "a cgroup was removed",
    "ends were written down",
    "a record was removed",
];

#[test]
fn the_next_daemon_tells_why_a_server_ended_while_none_ran() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = machine.run(&["--session", "s", "--server", "alone"], "echo up; exec cat");
    assert_eq!(server.line(), "up");
    machine.session("s");
    machine.kill_daemon();
    signal(server.pid(), Signal::SIGKILL);
    assert_eq!(server.exit_status(), 128 + 9);
    machine.start();
    eventually("its end is told", || {
        let log = machine.log();
        let told = log.contains("server alone of session s ended while no daemon ran");
        if told && log.contains("cause=\"leader_exited\"") { Ok(()) } else { Err(log) }
    });
    machine.expect_nothing_left();
}

#[test]
fn what_a_corrupt_record_no_longer_tells_its_server_does_and_a_foreign_file_is_passed_over() {
    if !offered() || on_systemd() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = machine.run(&["--session", "s", "--server", "known"], "echo up; cat");
    assert_eq!(server.line(), "up");
    machine.session("s");
    machine.kill_daemon();
    let records = machine.records();
    assert_eq!(records.len(), 1, "{records:?}");
    std::fs::write(&records[0], "{\"boot_id\": ").unwrap();
    let foreign = records[0].with_file_name("foreign.json");
    nix::unistd::mkfifo(&foreign, nix::sys::stat::Mode::S_IRWXU).unwrap();
    machine.start();
    let log = machine.log();
    assert_eq!(log.matches("a record is passed over").count(), 2, "{log}");
    let session = machine.session("s");
    let known = &session["servers"][0];
    assert_eq!((known["name"].as_str(), known["state"].as_str()), (Some("known"), Some("running")), "{session}");
    assert_eq!(known["leader_pid"].as_i64(), Some(i64::from(server.pid())), "{session}");
    assert!(lives(server.pid()) && foreign.exists());
    assert!(machine.ask(&["end", "s"]).status.success());
    server.exit_status();
    std::fs::remove_file(&foreign).unwrap();
    machine.expect_nothing_left();
}

#[test]
fn another_program_takes_over_what_lives() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = machine.run(&["--session", "s", "--memory-max", "64M"], "echo up; exec sleep 1000");
    assert_eq!(server.line(), "up");
    let next = machine.path("pinfold-next");
    std::fs::copy(binary(), &next).unwrap();
    machine.program = Some(next.clone());
    machine.stop_daemon();
    machine.start();
    assert_eq!(std::fs::read_link(format!("/proc/{}/exe", machine.daemon_pid())).unwrap(), next);
    let shown = servers(&machine);
    assert_eq!((&shown[0]["leader_pid"], &shown[0]["stdin"]), (&server.pid().into(), &"watched".into()), "{shown:?}");
    assert_eq!(shown[0]["memory"]["max_bytes"], 64 << 20);
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 128 + 15);
    eventually("it is told", || {
        if machine.log().contains("cause=\"stdin_closed\"") { Ok(()) } else { Err(machine.log()) }
    });
    machine.expect_nothing_left();
}

/// A daemon for which each move of a process takes a second longer.
const SLOW: (&str, &str) = ("PINFOLD_SLOW_AT", "cgroup.procs");

/// Waits until the only server stands in another leaf than `before`. Nothing is told as an escape until then.
#[track_caller]
fn moves_on_without_an_escape(machine: &Machine, before: &str) {
    eventually("it is in its next leaf", || {
        let servers = servers(machine);
        let escaped = servers.iter().find(|server| server["escaped"] == true || server["escaped_pids"] != json!([]));
        assert_eq!(escaped, None, "{}", machine.log());
        match &servers[..] {
            [only] if only["leaf"] != before && only["state"] == "running" => Ok(()),
            _ => Err(format!("{servers:?}: {}", machine.log())),
        }
    });
    let told = machine.log();
    assert!(!told.contains("left its leaf") && !told.contains("outside its leaf"), "{told}");
}

#[test]
fn a_launcher_that_asks_the_next_daemon_again_has_not_escaped_from_the_leaf_that_the_last_one_gave_it() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let mut first = Doomed::start_with(&machine, &[SLOW, ("PINFOLD_CRASH_AT", "before the reply")]);
    let mut server = machine.run(&["--session", "s", "--server", "short"], "echo up; exec cat");
    eventually("it is being placed", || if machine.records().is_empty() { Err(machine.log()) } else { Ok(()) });
    // It is not to start a daemon itself.
    signal(server.pid(), Signal::SIGSTOP);
    eventually("the daemon dies before the reply", || first.died_at().ok_or_else(|| machine.log()));
    let _next = Doomed::start_with(&machine, &[SLOW]);
    let before = eventually("it is adopted where it is", || {
        let leaf = servers(&machine).first().and_then(|server| Some(server["leaf"].as_str()?.to_owned()));
        leaf.ok_or_else(|| machine.log())
    });
    signal(server.pid(), Signal::SIGCONT);
    moves_on_without_an_escape(&machine, &before);
    assert_eq!(server.line(), "up");
    assert!(machine.ask(&["end", "s"]).status.success());
    server.exit_status();
    machine.expect_nothing_left();
}

#[test]
fn a_launcher_whose_daemon_died_over_its_placing_is_placed_by_the_next_one_under_its_limits() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let mut first = Doomed::start_with(
        &machine,
        &[("PINFOLD_SLOW_AT", "a record was written"), ("PINFOLD_CRASH_AT", "a cgroup was made")],
    );
    let mut server = machine.run(&["--session", "s", "--pids-max", "50"], "echo up; exec cat");
    eventually("it is being placed", || if machine.records().is_empty() { Err(machine.log()) } else { Ok(()) });
    // It is not to start a daemon itself.
    signal(server.pid(), Signal::SIGSTOP);
    eventually("the daemon dies over it", || first.died_at().ok_or_else(|| machine.log()));
    let _next = Doomed::start_with(&machine, &[]);
    signal(server.pid(), Signal::SIGCONT);
    assert_eq!(server.line(), "up", "{}", machine.log());
    let held = std::fs::read_to_string(level(server.pid(), "pids", 0).join("pids.max")).unwrap();
    assert_eq!(held.trim(), "50", "{}", machine.log());
    let other = machine.run(&["--session", "s", "--server", "other", "--pids-max", "40"], "exec cat");
    eventually("another one is placed beside it", || {
        let told = machine.session("s");
        let count = told["servers"].as_array().map_or(0, Vec::len);
        let held = std::fs::read_to_string(level(other.pid(), "pids", 0).join("pids.max")).unwrap_or_default();
        if count == 2 && held.trim() == "40" { Ok(()) } else { Err(format!("{held}: {told}; {}", machine.log())) }
    });
    assert!(machine.ask(&["end", "s"]).status.success());
    server.exit_status();
    machine.expect_nothing_left();
}

#[test]
fn a_server_that_executes_pinfold_run_itself_has_not_escaped_either() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let _daemon = Doomed::start_with(&machine, &[SLOW]);
    // What it leaves behind keeps its earlier leaf populated, and ignores that it is to end.
    let script = "trap '' TERM; sleep 1000 & echo up; read -r _; exec \"$PINFOLD\" run --server second -- cat";
    let mut run = machine.pinfold(&["run", "--session", "s", "--server", "first", "--", "sh", "-c", script]);
    machine.point_here(&mut run);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Launched::spawn(run);
    assert_eq!(server.line(), "up");
    let before = servers(&machine)[0]["leaf"].as_str().unwrap().to_owned();
    server.child.stdin.as_mut().unwrap().write_all(b"go on\n").unwrap();
    moves_on_without_an_escape(&machine, &before);
    assert!(machine.ask(&["end", "s"]).status.success());
    server.exit_status();
    machine.expect_nothing_left();
}
