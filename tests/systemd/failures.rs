//! What goes wrong around a launch: launchers that die, scopes that are stopped at once, and hundreds of sessions.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pinfold::backend::{Backend, Choice};
use pinfold::cgroup::{Admission, Leaf, Membership, TreeOptions, has_exited};
use pinfold::chain::chain;
use pinfold::limits::Limits;
use pinfold::naming::{LeafName, SessionKey};
use pinfold::session::{Name, SessionId};
use pinfold::systemd::{Bus, Manager, Properties, Value};

use crate::kernel::slowness;
use crate::support::*;

/// How systemd is told which process begins a scope.
#[derive(Debug, Clone, Copy)]
enum By {
    /// As this manager can best: by a pidfd from 255 on.
    Best,
    /// By its number, as before.
    Number,
}

/// The backend itself, as a daemon has it.
fn backend(by: By) -> Backend {
    let (backend, _) = Backend::open(Choice::Systemd, &TreeOptions { root: None, leave_host: false }).unwrap();
    if let (By::Number, Backend::Systemd(units)) = (by, &backend) {
        // No slice has this property, and what one refuses is not asked for again.
        let unknown = Properties::default().with("PIDFDs", Value::Flag(true));
        units.manager().start("pinfold-has_no_processes.slice", unknown, None, &[]).unwrap_err();
        assert!(units.manager().lacks("PIDFDs"));
    }
    backend
}

/// Places a process that waits for nothing; tells why not as the launcher would be told.
fn admit(backend: &Backend, pid: i32, pidfd: &OwnedFd, launch: u64) -> Result<Leaf, String> {
    let key = key();
    let paths = backend.machine_paths(&Membership::default(), None).unwrap();
    let wanted = Admission {
        pid,
        pidfd: pidfd.as_fd(),
        key: &key,
        leaf: &LeafName::new(&Name::parse("x").unwrap(), launch),
        paths: &paths,
        machine: Limits::default(),
        session: Limits::default(),
        server: Limits::default(),
        move_processes: false,
        allow_leave: &[],
        owner: pinfold::process::identify(std::process::id() as i32).unwrap(),
        until: None,
    };
    backend.admit(&wanted).map_err(|unplaced| {
        assert!(unplaced.left.is_none(), "{unplaced:?}");
        chain(&unplaced.error)
    })
}

fn key() -> SessionKey {
    SessionKey::new(nix::unistd::geteuid().as_raw(), &SessionId::parse("doomed").unwrap())
}

/// Removes the session as the daemon does, until it is gone: nothing of it is left, neither living nor failed.
#[track_caller]
fn expect_removed(backend: &Backend) {
    eventually("the session is removed", || backend.remove_session(&key(), &[]).map_err(|error| chain(&error)));
    eventually("no unit is left", || {
        let left = units();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

fn hold(child: &Child) -> OwnedFd {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap()
}

#[test]
fn a_launcher_that_is_a_zombie_is_refused_and_leaves_no_immortal_scope() {
    if !offered() {
        return;
    }
    for by in [By::Best, By::Number] {
        let backend = backend(by);
        for launch in 1..4 {
            let mut launcher = Command::new("true").spawn().unwrap();
            let pidfd = hold(&launcher);
            eventually("it has exited", || if has_exited(pidfd.as_fd()) { Ok(()) } else { Err("it runs".to_owned()) });
            let told = admit(&backend, launcher.id() as i32, &pidfd, launch).unwrap_err();
            assert_eq!(told, "the launcher exited before it was placed", "{by:?}");
            expect_removed(&backend);
            launcher.wait().unwrap();
        }
        backend.close();
    }
}

#[test]
fn a_launcher_that_is_gone_is_refused_and_nothing_of_it_is_kept() {
    if !offered() {
        return;
    }
    for by in [By::Best, By::Number] {
        let backend = backend(by);
        let mut launcher = Command::new("true").spawn().unwrap();
        let pidfd = hold(&launcher);
        launcher.wait().unwrap();
        let told = admit(&backend, launcher.id() as i32, &pidfd, 1).unwrap_err();
        assert_eq!(told, "the launcher exited before it was placed", "{by:?}");
        expect_removed(&backend);
        backend.close();
    }
}

#[test]
fn a_launcher_that_dies_while_it_is_placed_leaves_nothing() {
    if !offered() {
        return;
    }
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for by in [By::Best, By::Number] {
        let backend = backend(by);
        // What a whole placement takes here and now.
        let start = Instant::now();
        let (mut placed, mut refused) = (0, 0);
        let mut whole = Duration::ZERO;
        for round in 0..16 {
            let mut launcher = Command::new("sleep").arg("1000").spawn().unwrap();
            let (pid, pidfd, reap) = (launcher.id() as i32, hold(&launcher), round % 2 == 0);
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let after = whole * ((random >> 33) as u32 % 1000) / 1000;
            let outcome = std::thread::scope(|scope| {
                let killer = scope.spawn(|| {
                    if round > 0 {
                        std::thread::sleep(after);
                        launcher.kill().unwrap();
                    }
                    if round > 0 && reap {
                        launcher.wait().unwrap();
                    }
                });
                let outcome = admit(&backend, pid, &pidfd, round + 1);
                killer.join().unwrap();
                outcome
            });
            whole = if round == 0 { start.elapsed() } else { whole };
            launcher.kill().unwrap();
            launcher.wait().unwrap();
            match outcome {
                Ok(leaf) => {
                    placed += 1;
                    eventually("its leaf goes", || leaf.remove().map_err(|error| chain(&error)));
                }
                Err(told) => {
                    refused += 1;
                    assert_eq!(told, "the launcher exited before it was placed", "{by:?}, killed after {after:?}");
                }
            }
            expect_removed(&backend);
        }
        assert!(placed > 0 && refused > 3, "{by:?}: {placed} placed, {refused} refused");
        backend.close();
    }
}

/// Stops every scope of a session as soon as it is there, until it is told to rest.
fn stop_all_scopes(resting: &AtomicBool) -> usize {
    let manager = Manager::connect(Bus::find(nix::unistd::geteuid().as_raw()).unwrap()).unwrap();
    let machine = base().join("pinfold.slice");
    let below = |directory: std::path::PathBuf| std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut stopped = BTreeSet::new();
    while !resting.load(Ordering::Relaxed) {
        let scopes = below(machine.clone()).flat_map(|slice| below(slice.path()));
        for scope in scopes.filter_map(|entry| entry.file_name().into_string().ok()) {
            if scope.ends_with(".scope") && stopped.insert(scope.clone()) {
                manager.stop(&scope).unwrap();
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    stopped.len()
}

#[test]
fn a_launch_whose_scope_is_stopped_at_once_succeeds_or_is_refused_with_a_clear_line() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    // So that the slice of all is there to be looked into.
    let _keeps = machine.up(&["--session", "keeps"], "exec cat");
    machine.ask(&["end", "keeps"]);
    let resting = AtomicBool::new(false);
    let (mut ran, mut refused, mut ended) = (0, 0, 0);
    let stopped = std::thread::scope(|scope| {
        let stopper = scope.spawn(|| stop_all_scopes(&resting));
        for round in 0..12 {
            let options = [format!("s{}", round % 4), "other".to_owned()];
            let mut servers: Vec<_> =
                options.iter().map(|id| machine.run(&["--session", id], "echo up; cat")).collect();
            for server in &mut servers {
                let (line, status) = (server.line(), server.exit_status());
                let told = server.stderr();
                match (line.as_str(), status) {
                    ("up", _) => ran += 1,
                    ("", 125) => {
                        refused += 1;
                        let lines: Vec<&str> = told.lines().collect();
                        let clear = lines.len() == 1 && lines[0].starts_with("pinfold: not launched: ");
                        assert!(clear, "{told}; {}", machine.log());
                    }
                    // systemd's SIGTERM or SIGKILL met the launcher itself.
                    ("", 137 | 143) => ended += 1,
                    other => panic!("{other:?}: {told}; {}", machine.log()),
                }
            }
        }
        resting.store(true, Ordering::Relaxed);
        stopper.join().unwrap()
    });
    eprintln!("{stopped} scopes stopped: {ran} ran, {refused} were refused, {ended} were ended before they ran");
    assert!(stopped > 5, "{stopped}");
    machine.expect_nothing_left();
    let _after = machine.up(&["--session", "s0"], "exec cat");
    machine.ask(&["end", "s0"]);
    machine.expect_nothing_left();
}

/// As many as the ring has time for: `PINFOLD_TEST_SESSIONS`.
fn how_many() -> usize {
    let told = std::env::var("PINFOLD_TEST_SESSIONS").ok().and_then(|count| count.parse().ok());
    told.unwrap_or(500 / (slowness() as usize * 2).max(1))
}

/// CPU time of the daemon, the manager and its bus since they started (proc_pid_stat(5)).
fn cpu(daemon: i32) -> String {
    let seconds = |pid: String| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        let ticks: u32 = fields.take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
        f64::from(ticks) / 100.0
    };
    let bus = property("dbus.service", "MainPID");
    format!("{:.1} / {:.1} / {:.1} s", seconds(daemon.to_string()), seconds("1".into()), seconds(bus))
}

/// The resident memory and the number of descriptors of a process.
fn cost(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default().trim().to_owned();
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    format!("{resident} resident, {descriptors} descriptors")
}

#[test]
fn hundreds_of_sessions_at_once_are_limited_listed_adopted_and_ended() {
    // A user's manager is the same program.
    if !offered() || !root_offered() {
        return;
    }
    let mut machine = Machine::with_config("[session]\nmemory_max = '100M'\npids_max = 77\n[server]\npids_max = 33\n");
    let (count, next) = (how_many(), AtomicUsize::new(0));
    let before = cost(machine.daemon_pid());
    let start = Instant::now();
    let mut servers: Vec<Launched> = std::thread::scope(|scope| {
        let one_by_one = || {
            let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed)).take_while(|at| *at < count);
            let launch = |at| {
                let mut run = machine.pinfold(&["run", "--session", &format!("s{at}"), "--", "sh", "-c"]);
                run.arg("echo up; exec sleep 10000").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
                let mut server = Launched::spawn(run);
                assert_eq!(server.line(), "up", "{at}: {}", machine.log());
                drop(server.child.stdout.take());
                server
            };
            numbers.map(launch).collect::<Vec<_>>()
        };
        let launchers: Vec<_> = (0..8).map(|_| scope.spawn(one_by_one)).collect();
        launchers.into_iter().flat_map(|launcher| launcher.join().unwrap()).collect()
    });
    let (launching, launched) = (start.elapsed(), cpu(machine.daemon_pid()));
    assert_eq!(units().len(), 2 * count, "a slice and a scope for each");
    let mut pids: BTreeSet<i64> = servers.iter().map(|server| i64::from(server.pid())).collect();
    expect_whole(&machine, &mut pids, count);
    let full = cost(machine.daemon_pid());
    eprintln!(
        "launched in {launching:.1?}, {:.1?} each; cpu {launched}; {before}, then {full}",
        launching / count as u32
    );

    machine.kill_daemon();
    let start = Instant::now();
    machine.start();
    let adopting = start.elapsed();
    expect_whole(&machine, &mut pids, count);
    eprintln!("adopted in {adopting:.1?}; {}; cpu {}", cost(machine.daemon_pid()), cpu(machine.daemon_pid()));

    let start = Instant::now();
    let output = machine.ask(&["end", "--all"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    eprintln!("{count} sessions ended in {:.1?}; cpu {}", start.elapsed(), cpu(machine.daemon_pid()));
    assert!(output.status.success(), "{:?}", told.lines().last());
    assert!(told.contains(&format!("{count} servers: {count} processes, ")), "{:?}", told.lines().last());
    for server in &mut servers {
        assert_eq!(server.exit_status(), 128 + 15);
    }
    let start = Instant::now();
    machine.expect_nothing_left();
    eprintln!("nothing was left {:.1?} later; cpu {}", start.elapsed(), cpu(machine.daemon_pid()));
}

/// All are listed with their processes, and those that are looked at are held by the manager and by the kernel as asked.
#[track_caller]
fn expect_whole(machine: &Machine, pids: &mut BTreeSet<i64>, count: usize) {
    let sessions = machine.sessions();
    assert_eq!(sessions.len(), count);
    let leads = |session: &serde_json::Value| session["servers"][0]["leader_pid"].as_i64().unwrap();
    assert_eq!(sessions.iter().map(leads).collect::<BTreeSet<_>>(), *pids);
    for at in [0, count / 3, count / 2, count - 1] {
        let session = machine.session(&format!("s{at}"));
        assert_eq!(property(&session.slice(), "MemoryMax"), (100 << 20).to_string());
        assert_eq!(property(&session.scope(0), "ActiveState"), "active");
        assert_eq!(knob(&session.directory(), "memory.max"), (100 << 20).to_string());
        assert_eq!(knob(&session.directory(), "pids.max"), "77");
        assert_eq!(knob(&session.leaf(0), "pids.max"), "33");
        let leader = session.0["servers"][0]["leader_pid"].as_i64().unwrap();
        assert_eq!(processes(&session.leaf(0)), [leader as i32]);
    }
}
