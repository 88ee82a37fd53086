//! The daemon: started by whoever needs it, killed at any moment, and spoken to by anybody.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::hosts::{descriptors, expect_gone, lines, status_field, v2_cgroup, waits_for_an_answer};
use crate::support::{
    DEADLINE, Launched, Machine, binary, eventually, lives, offered, on_systemd, processes, signal, slowness, v2_mount,
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `pinfold ARGUMENTS…` with the six variables that a host gives, and what leads to this machine.
fn from_a_host(machine: &Machine, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env_clear();
    for (name, value) in
        [("HOME", "/root"), ("LOGNAME", "root"), ("SHELL", "/bin/sh"), ("TERM", "dumb"), ("USER", "root")]
    {
        command.env(name, value);
    }
    command.env("PATH", std::env::var_os("PATH").unwrap());
    let (variable, place) = machine.place();
    command.env("PINFOLD_SOCKET", machine.socket()).env(variable, place);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A daemon that a launcher started, told to leave at the end of the test.
pub struct OnDemand {
    pid: i32,
}

impl OnDemand {
    #[track_caller]
    pub fn of(machine: &Machine) -> Self {
        Self { pid: machine.described()["pid"].as_i64().unwrap() as i32 }
    }

    #[track_caller]
    pub fn stop(self, machine: &Machine) {
        signal(self.pid, Signal::SIGTERM);
        expect_gone(self.pid);
        eventually("it took its directories along", || {
            let (tree, own) = (machine.tree(), machine.daemon_cgroup());
            // Where it was started is gone, and a cgroup that gives its children limits takes no processes: then the
            // daemon has nowhere to go, and its directory stays, empty.
            let control = std::fs::read_to_string(machine.root().join("cgroup.subtree_control")).unwrap_or_default();
            let stays = !on_systemd() && !control.trim().is_empty() && crate::support::processes(&own).is_empty();
            let left = tree.exists() || (own.exists() && !stays);
            if left { Err(format!("{tree:?} or {own:?}: {}", machine.log())) } else { Ok(()) }
        });
    }
}

#[test]
fn ten_launchers_that_find_no_daemon_start_exactly_one_and_all_run() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    std::fs::write(machine.path("hosts-file"), "").unwrap();
    let held = std::fs::File::open(machine.path("hosts-file")).unwrap();
    keep_at_exec(&held);
    let mut servers: Vec<Launched> = (0..10)
        .map(|number| {
            let session = format!("s{number}");
            Launched::spawn(from_a_host(
                &machine,
                &["run", "--session", &session, "--", "sh", "-c", "echo $PPID; exec cat"],
            ))
        })
        .collect();
    for server in &mut servers {
        assert_eq!(server.number(), std::process::id() as i32, "{}", machine.log());
    }
    assert_eq!(machine.sessions().len(), 10);
    let daemon = OnDemand::of(&machine);
    // That of a service is in the journal.
    assert_eq!(machine.log().matches(" ready ").count(), usize::from(!on_systemd()), "{}", machine.log());
    let own = machine.daemon_cgroup();
    assert_eq!(processes(&own), [daemon.pid], "one daemon, in a cgroup of its own");
    let mount = v2_mount().unwrap();
    assert_ne!(v2_cgroup(daemon.pid, &mount), v2_cgroup(std::process::id() as i32, &mount));

    let parent: i32 = status_field(daemon.pid, "PPid").parse().unwrap();
    assert!(parent != std::process::id() as i32 && servers.iter().all(|server| server.pid() != parent));
    let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(daemon.pid))).unwrap();
    assert_eq!(session.as_raw(), daemon.pid, "it left its host's session");
    assert_eq!(std::fs::read_link(format!("/proc/{}/cwd", daemon.pid)).unwrap(), PathBuf::from("/"));

    let inherited = descriptors(servers[0].pid()).iter().any(|(_, target)| target.ends_with("hosts-file"));
    assert!(inherited, "the server has what the host passed");
    let open = descriptors(daemon.pid);
    assert!(open.iter().all(|(_, target)| !target.ends_with("hosts-file")), "{open:?}");
    for (number, target) in &open {
        let journal = on_systemd() && *number > 0 && target.starts_with("socket:");
        assert!(*number > 2 || target == "/dev/null" || journal, "{open:?}");
    }
    for server in &servers {
        let stdout = &descriptors(server.pid())[1].1;
        assert!(stdout.starts_with("pipe:") && open.iter().all(|(_, target)| target != stdout), "{stdout} in {open:?}");
    }
    for server in &mut servers {
        drop(server.child.stdin.take());
        assert_eq!(server.exit_status(), 0);
        // It ends at once: nobody keeps the host's stderr open.
        assert_eq!(server.stderr(), "");
    }
    machine.expect_nothing_left();
    eventually("nothing of any host is left in the daemon", || {
        let pipes: Vec<_> =
            descriptors(daemon.pid).into_iter().filter(|(_, target)| target.starts_with("pipe:")).collect();
        if pipes.is_empty() { Ok(()) } else { Err(format!("{pipes:?}")) }
    });
    daemon.stop(&machine);
}

/// As a host passes a descriptor on: without close-on-exec.
fn keep_at_exec(fd: impl AsFd) {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
}

#[test]
fn an_on_demand_daemon_outlives_the_host_that_started_it() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let mut host = machine.host("claude", "launch --session s -- sh -c 'echo up; setsid sleep 1000 & sleep 1000'");
    let server = host.number();
    assert_eq!(host.line(), "up");
    let daemon = OnDemand::of(&machine);
    // Whatever a host's supervisor kills: its process group, and it itself.
    nix::sys::signal::killpg(nix::unistd::Pid::from_raw(host.pid()), Signal::SIGKILL).unwrap();
    host.exit_status();
    expect_gone(server);
    assert!(lives(daemon.pid));
    machine.expect_nothing_left();
    assert_eq!(OnDemand::of(&machine).pid, daemon.pid);
    daemon.stop(&machine);
}

#[test]
fn an_on_demand_daemon_has_the_hosts_configuration_and_leaves_when_it_is_unused() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let config = machine.path("own.toml");
    std::fs::write(&config, "[daemon]\nidle_exit = \"300ms\"").unwrap();
    let mut run = from_a_host(&machine, &["run", "--session", "s", "--", "sh", "-c", "echo up; exec cat"]);
    run.env("PINFOLD_CONFIG", &config);
    let mut server = Launched::spawn(run);
    assert_eq!(server.line(), "up");
    let described = machine.described();
    assert_eq!(described["config"], config.display().to_string());
    let daemon = OnDemand::of(&machine);
    // While it holds a server it is not unused, however long that says nothing.
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(OnDemand::of(&machine).pid, daemon.pid);
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 0);
    expect_gone(daemon.pid);
    assert!(!machine.socket().exists() && !machine.tree().exists(), "it took all along");
    assert!(text(&machine.ask(&["ls"]).stderr).contains("no pinfold daemon listens"));
}

#[test]
fn a_daemon_that_a_launch_started_makes_way_for_one_that_is_to_stay() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = machine.run(&["--session", "s"], "echo up; exec cat");
    assert_eq!(server.line(), "up");
    machine.kill_daemon();
    // Whoever looks in before the supervisor has it started again finds what lives, by a daemon of its own.
    assert_eq!(machine.sessions().len(), 1);
    let daemon = OnDemand::of(&machine);
    machine.start();
    expect_gone(daemon.pid);
    assert_eq!(machine.described()["pid"], machine.daemon_pid());
    assert_eq!(processes(&machine.leaf("s")), [server.pid()]);
    // One that is to stay makes way for nobody.
    let second = machine.serve().output().unwrap();
    assert_eq!(second.status.code(), Some(1), "{second:?}; {}", machine.log());
    assert_eq!(machine.described()["pid"], machine.daemon_pid());
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 0);
    machine.expect_nothing_left();
}

#[test]
fn a_launch_while_the_daemon_is_leaving_gets_the_next_one() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let config = machine.path("own.toml");
    // On a slow machine a daemon would have left again before whoever started it has found it.
    let slow = slowness();
    std::fs::write(&config, format!("[daemon]\nidle_exit = \"{}ms\"", 250 * slow)).unwrap();
    let started = Instant::now();
    let mut daemons = BTreeSet::new();
    for round in 0..15 {
        let mut run = from_a_host(&machine, &["run", "--", "sh", "-c", "exit 7"]);
        run.env("PINFOLD_CONFIG", &config).stdin(Stdio::null());
        let output = run.output().unwrap();
        assert_eq!(output.status.code(), Some(7), "round {round}: {output:?}: {}", machine.log());
        daemons.extend(processes(&machine.daemon_cgroup()));
        // Around the moment at which the daemon leaves.
        std::thread::sleep(Duration::from_millis(335 + 3 * round) * slow);
        if started.elapsed() > DEADLINE * slow {
            break;
        }
    }
    assert!(daemons.len() > 3, "it left between: {daemons:?}");
    daemons.into_iter().for_each(expect_gone);
}

#[test]
fn a_configuration_that_is_wrong_is_told_by_the_launch_that_needed_a_daemon() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let config = machine.path("own.toml");
    std::fs::write(&config, "[daemon]\nno_such_key = 1").unwrap();
    let output = from_a_host(&machine, &["run", "--", "true"]).env("PINFOLD_CONFIG", &config).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let told = lines(&output);
    assert!(told.len() == 1 && told[0].contains("own.toml:") && told[0].contains("no_such_key"), "{told:?}");
}

#[test]
fn a_launcher_killed_at_any_moment_leaves_nothing() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    machine.warm_up();
    let before = descriptors(machine.daemon_pid());
    let start = Instant::now();
    let mut server = machine.run(&["--session", "measure"], "echo up; exec cat");
    server.line();
    // What a whole launch takes here and now.
    let whole = start.elapsed().clamp(Duration::from_millis(5), Duration::from_millis(60));
    drop(server);
    let (daemon, mut random) = (machine.daemon_pid(), 0x9e37_79b9_7f4a_7c15_u64);
    let (mut early, mut late) = (0, 0);
    let rounds = 200 / slowness().min(5);
    for round in 0..rounds {
        let session = format!("s{}", round % 7);
        let mut server = machine.launch(&["--session", &session], &["sleep", "1000"]);
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let share = (random >> 33) as u32 % 1500;
        std::thread::sleep(whole * share / 1000);
        let running = status_field(server.pid(), "Name") == "sleep";
        signal(server.pid(), Signal::SIGKILL);
        assert_eq!(server.exit_status(), 128 + 9);
        if running { late += 1 } else { early += 1 }
    }
    assert!(early > rounds / 10, "{early} were killed before the exec, {late} after");
    machine.expect_nothing_left();
    assert_eq!(machine.described()["pid"], daemon);
    eventually("no record is left", || {
        let left = std::fs::read_dir(machine.path("pinfold.sock.d")).unwrap().count();
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    });
    eventually("no descriptor is left", || {
        let held: Vec<_> = descriptors(daemon).into_iter().filter(|open| !before.contains(open)).collect();
        // The connection of whoever asks may not be gone yet: a socket and its pidfd.
        if held.len() <= 2 { Ok(()) } else { Err(format!("{held:?}")) }
    });
    assert!(machine.ask(&["run", "--", "true"]).status.success());
    machine.expect_nothing_left();
}

#[test]
fn a_launcher_that_dies_before_the_daemon_has_read_its_request_leaves_nothing() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    for _ in 0..3 {
        signal(machine.daemon_pid(), Signal::SIGSTOP);
        let mut server = machine.launch(&["--session", "s"], &["sleep", "1000"]);
        eventually("it has asked", || waits_for_an_answer(server.pid()));
        signal(server.pid(), Signal::SIGKILL);
        server.exit_status();
        signal(machine.daemon_pid(), Signal::SIGCONT);
        machine.expect_nothing_left();
    }
    assert_eq!(machine.described()["launches"], 0);
    assert!(machine.ask(&["run", "--", "true"]).status.success());
    machine.expect_nothing_left();
}

#[test]
fn an_owner_that_dies_before_the_daemon_has_read_the_request_takes_its_launch_along() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    signal(machine.daemon_pid(), Signal::SIGSTOP);
    let mut host = machine.host("claude", "launch --session s -- sleep 1000");
    let server = host.number();
    eventually("it has asked", || waits_for_an_answer(server));
    signal(host.pid(), Signal::SIGKILL);
    host.exit_status();
    signal(machine.daemon_pid(), Signal::SIGCONT);
    // Its stdin has hung up and its parent is another one now: it ends for whichever fact is seen.
    expect_gone(server);
    machine.expect_nothing_left();
}

/// The sessions as they must be found again: ids, leaves and leaders.
fn shape(sessions: &[Value]) -> BTreeSet<String> {
    let servers = sessions.iter().flat_map(|session| {
        let servers = session["servers"].as_array().unwrap().iter();
        servers.map(move |server| {
            let words = ["name", "leaf", "state", "leader_pid", "owner_pid", "cgroup", "argv", "started_at", "stdin"];
            let facts: Vec<String> = words.map(|word| server[word].to_string()).to_vec();
            format!(
                "{} {} {} {}: {}",
                session["id"],
                session["host"],
                session["uid"],
                session["cgroup"],
                facts.join(" ")
            )
        })
    });
    servers.collect()
}

#[test]
fn a_killed_daemons_servers_live_on_and_the_next_daemon_adopts_them() {
    if !offered() {
        return;
    }
    let config = "[server]\nstdin_grace = \"100ms\"\ngrace = \"10s\"";
    let mut machine = Machine::with_config(config);
    let mut host = machine.host("claude", "launch --session owned -- sleep 1000");
    let owned = host.number();
    let mut piped = machine.run(&["--session", "p q/../🦊", "--server", "piped"], "while :; do sleep 0.05; done");
    let (near, far) = UnixStream::pair().unwrap();
    let mut run = machine.pinfold(&["run", "--session", "p q/../🦊", "--server", "paired", "--", "sleep", "1000"]);
    run.stdin(std::os::fd::OwnedFd::from(far)).stdout(Stdio::null()).stderr(Stdio::null());
    let mut paired = Launched::spawn(run);
    let mut asked = machine.run(&["--session", "asked"], "echo up; cat; exit 3");
    asked.line();
    machine.session("owned");
    let before = eventually("all four run", || {
        let shape = shape(&machine.sessions());
        let all = shape.len() == 4 && shape.iter().all(|server| server.contains("running"));
        if all { Ok(shape) } else { Err(format!("{shape:?}")) }
    });
    for _ in 0..2 {
        machine.kill_daemon();
        assert!([owned, piped.pid(), paired.pid(), asked.pid()].into_iter().all(lives));
        machine.start();
        assert_eq!(shape(&machine.sessions()), before, "adopted as they were");
    }
    // Every fact is noticed as before.
    near.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(paired.exit_status(), 128 + 15, "the socketpair's hang-up: {}", machine.log());
    drop(piped.child.stdin.take());
    assert_eq!(piped.exit_status(), 128 + 15, "the pipe's hang-up");
    signal(host.pid(), Signal::SIGKILL);
    expect_gone(owned);
    host.exit_status();
    let log = eventually("the causes are told", || {
        let log = machine.log();
        if log.matches("cause=").count() == 3 { Ok(log) } else { Err(log) }
    });
    assert_eq!(
        (log.matches("cause=\"stdin_closed\"").count(), log.matches("cause=\"owner_gone\"").count()),
        (2, 1),
        "{log}"
    );
    // A launch joins an adopted session, and an end reaches both.
    let mut joined = machine.run(&["--session", "asked", "--server", "joined"], "echo up; exec cat");
    joined.line();
    assert_eq!(machine.sessions().len(), 1);
    let output = machine.ask(&["end", "asked", "--json"]);
    let ended: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ended["ended"].as_array().unwrap().len(), 2, "{ended}");
    assert_eq!((asked.exit_status(), joined.exit_status()), (128 + 15, 128 + 15));
    machine.expect_nothing_left();
}

#[test]
fn a_host_that_writes_to_a_dead_adopted_server_gets_epipe() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = machine.launch(&["--session", "s"], &["sleep", "1000"]);
    machine.leaf("s");
    machine.kill_daemon();
    machine.start();
    assert_eq!(machine.session("s")["servers"][0]["stdin"], "watched");
    signal(server.pid(), Signal::SIGKILL);
    server.exit_status();
    let stdin = server.child.stdin.as_mut().unwrap();
    eventually("a write fails", || match stdin.write_all(b"x") {
        Ok(()) => Err("it was written".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => panic!("{error}"),
    });
    machine.expect_nothing_left();
}

#[test]
fn what_happened_while_the_daemon_was_dead_is_noticed_at_its_next_start() {
    if !offered() {
        return;
    }
    let mut machine = Machine::with_config("[server]\nstdin_grace = \"100ms\"\ngrace = \"10s\"");
    let mut host = machine.host("claude", "launch --session owned -- sh -c 'setsid sleep 1000 & sleep 1000'");
    let owned = host.number();
    let mut led =
        machine.run(&["--session", "led"], "setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $!; exec cat");
    let leftover = led.number();
    let mut hung = machine.run(&["--session", "hung"], "echo up; exec sleep 1000");
    hung.line();
    let mut empty = machine.run(&["--session", "empty"], "echo up; exec sleep 1000");
    empty.line();
    machine.session("owned");
    let leaves: Vec<PathBuf> = ["owned", "led", "hung", "empty"].iter().map(|id| machine.leaf(id)).collect();
    machine.kill_daemon();
    signal(host.pid(), Signal::SIGKILL);
    signal(led.pid(), Signal::SIGKILL);
    signal(empty.pid(), Signal::SIGKILL);
    drop(hung.child.stdin.take());
    for server in [&mut host, &mut led, &mut empty] {
        server.exit_status();
    }
    assert!(lives(owned) && lives(leftover) && lives(hung.pid()), "nobody noticed");
    assert!(leaves.iter().all(|leaf| leaf.exists()));
    machine.start();
    assert!(!leaves[3].exists(), "what is empty is swept before the daemon listens");
    [owned, leftover].into_iter().for_each(expect_gone);
    assert_eq!(hung.exit_status(), 128 + 15);
    machine.expect_nothing_left();
    let log = machine.log();
    // What left nothing behind is told as well.
    for (cause, ends) in [("owner_gone", 1), ("leader_exited", 2), ("stdin_closed", 1)] {
        assert_eq!(log.matches(&format!("cause=\"{cause}\"")).count(), ends, "{cause}: {log}");
    }
}

#[test]
fn an_end_goes_on_when_the_daemon_is_killed_in_its_midst() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    // It ignores SIGTERM: without what follows SIGTERM it lives for ever.
    let script = "trap 'echo TERM' TERM; echo up; while :; do sleep 0.05; done";
    let mut server = machine.run(&["--session", "s", "--grace", "500ms"], script);
    assert_eq!(server.line(), "up");
    let leaf = machine.leaf("s");
    assert!(machine.ask(&["end", "s", "--no-wait"]).status.success());
    assert_eq!(server.line(), "TERM");
    machine.kill_daemon();
    assert!(lives(server.pid()));
    machine.start();
    assert_eq!(server.exit_status(), 128 + 9, "{}", machine.log());
    machine.expect_nothing_left();
    assert!(!leaf.exists());
    assert!(machine.log().contains("cause=\"requested\""), "{}", machine.log());
}

#[test]
fn a_daemon_killed_during_ends_and_launches_leaves_nothing_for_the_next_one_to_miss() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..6 {
        let mut servers: Vec<Launched> =
            (0..4).map(|number| machine.run(&["--session", &format!("s{number}")], "echo up; exec cat")).collect();
        for server in &mut servers {
            if server.line() != "up" {
                panic!("round {round}: {}: {}", server.stderr(), machine.log());
            }
        }
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mut end = machine.pinfold(&["end", "--all", "--now"]);
        let mut end = end.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(5000 + (random >> 33) % 15_000));
        machine.kill_daemon();
        end.wait().unwrap();
        machine.start();
        // What had not begun to end lives; the rest goes on to its end.
        let output = machine.ask(&["end", "--all", "--now"]);
        assert!(output.status.success(), "round {round}: {output:?}");
        for server in &mut servers {
            assert_eq!(server.exit_status(), 128 + 9, "round {round}");
        }
        machine.expect_nothing_left();
    }
}

#[test]
fn launches_under_way_when_the_daemon_is_killed_run_contained_or_are_refused() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut random = 0x1234_5678_9abc_def1_u64;
    let (mut ran, mut refused) = (0, 0);
    for _ in 0..6 {
        let mut servers: Vec<Launched> = (0..6)
            .map(|number| machine.run(&["--session", &format!("s{number}")], "grep ^0:: /proc/self/cgroup; exec cat"))
            .collect();
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        std::thread::sleep(Duration::from_micros((random >> 33) % 60_000));
        machine.kill_daemon();
        // Some launchers now start a daemon of their own; then this one is one too many, and that is told.
        for server in &mut servers {
            let line = server.line();
            if line.is_empty() {
                assert_eq!(server.exit_status(), 125);
                refused += 1;
            } else {
                let tree = machine.tree().file_name().unwrap().to_str().unwrap().to_owned();
                assert!(line.contains(&format!("/{tree}/")), "{line}");
                ran += 1;
            }
        }
        eventually("a daemon listens", || {
            if UnixStream::connect(machine.socket()).is_ok() {
                return Ok(());
            }
            let mut doctor = machine.pinfold(&["doctor", "--json"]);
            let output = doctor.stdin(Stdio::null()).output().unwrap();
            if output.status.success() { Ok(()) } else { Err(format!("{output:?}")) }
        });
        eventually("each runs in one leaf, which is its own", || {
            let sessions = machine.sessions();
            let all = sessions.iter().flat_map(|session| session["servers"].as_array().unwrap());
            let leaders: Vec<i64> = all.clone().map(|server| server["leader_pid"].as_i64().unwrap()).collect();
            let single = leaders.iter().collect::<BTreeSet<_>>().len() == leaders.len();
            let stay = all.into_iter().all(|server| server["escaped"] == false);
            if single && stay { Ok(()) } else { Err(format!("{sessions:?}")) }
        });
        let output = machine.ask(&["end", "--all", "--now"]);
        assert!(output.status.success(), "{output:?}: {}", machine.log());
        for server in &mut servers {
            server.exit_status();
        }
        machine.expect_nothing_left();
        OnDemand::of(&machine).stop(&machine);
        machine.start();
    }
    assert!(ran > 0, "{ran} ran, {refused} were refused");
}

#[test]
fn doctor_tells_whether_the_kernel_moves_a_launch_at_once_and_changes_nothing_about_it() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let doctor = machine.ask(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let told: Vec<_> = findings.iter().filter(|finding| finding["what"] == "moves").collect();
    assert_eq!(told.len(), 1, "{report}");
    let cgroups: String = before.lines().filter(|line| line.contains(" - cgroup")).collect();
    let expected = if cgroups.contains("favordynmods") { "ok" } else { "note" };
    assert_eq!(told[0]["verdict"], expected, "{report}");
    assert_eq!(mounts(), before);
}

#[test]
fn a_daemon_started_from_inside_a_leaf_outlives_that_leaf() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let script = "echo up; read -r _; \"$PINFOLD\" run --server inner -- sh -c 'echo inner; exec sleep 1000' <&0";
    let mut run = machine.pinfold(&["run", "--session", "s", "--server", "outer", "--", "sh", "-c", script]);
    machine.point_here(&mut run);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut outer = Launched::spawn(run);
    assert_eq!(outer.line(), "up");
    machine.kill_daemon();
    outer.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(outer.line(), "inner");
    let daemon = OnDemand::of(&machine);
    assert_eq!(crate::hosts::server_names(&machine.session("s")), ["outer", "inner"]);
    let output = machine.ask(&["end", "--server", "s/outer", "--now"]);
    assert!(output.status.success(), "{output:?}");
    outer.exit_status();
    machine.expect_nothing_left();
    assert_eq!(OnDemand::of(&machine).pid, daemon.pid);
    daemon.stop(&machine);
}

#[test]
fn a_server_that_executes_pinfold_run_itself_moves_to_another_leaf_and_leaves_none_behind() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = "sleep 1000 & echo $!; exec \"$PINFOLD\" run --server second -- sh -c 'echo moved; exec cat'";
    let mut run = machine.pinfold(&["run", "--session", "s", "--server", "first", "--", "sh", "-c", script]);
    machine.point_here(&mut run);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = Launched::spawn(run);
    let left_behind: i32 = server.number();
    assert_eq!(server.line(), "moved");
    expect_gone(left_behind);
    let session = eventually("one server is left", || {
        let session = machine.session("s");
        if crate::hosts::server_names(&session) == ["second"] { Ok(session) } else { Err(session.to_string()) }
    });
    assert_eq!(
        (&session["servers"][0]["leader_pid"], &session["servers"][0]["escaped"]),
        (&server.pid().into(), &false.into())
    );
    server.child.stdin.as_mut().unwrap().write_all(b"still there\n").unwrap();
    assert_eq!(server.line(), "still there");
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 0);
    machine.expect_nothing_left();
}

#[test]
fn launches_into_one_session_at_the_same_time_do_not_disturb_each_other() {
    if !offered() {
        return;
    }
    for _ in 0..8 {
        let machine = Machine::new();
        let mut servers: Vec<Launched> =
            (0..6).map(|_| machine.run(&["--session", "s"], "echo up; exec cat")).collect();
        for server in &mut servers {
            if server.line() != "up" {
                panic!("{}", server.stderr());
            }
        }
        assert_eq!(machine.session("s")["servers"].as_array().unwrap().len(), 6);
        assert!(machine.ask(&["end", "s", "--now"]).status.success());
        machine.expect_nothing_left();
    }
}

#[test]
fn a_daemon_that_is_told_to_stop_leaves_its_sessions_alone() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = machine.run(&["--session", "s"], "echo up; exec cat");
    server.line();
    let before = shape(&machine.sessions());
    assert_eq!(machine.stop_daemon(), 0);
    assert!(!machine.socket().exists());
    server.child.stdin.as_mut().unwrap().write_all(b"still there\n").unwrap();
    assert_eq!(server.line(), "still there");
    machine.start();
    assert_eq!(shape(&machine.sessions()), before);
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 0);
    machine.expect_nothing_left();
    assert_eq!(machine.stop_daemon(), 0);
    assert!(!machine.tree().exists(), "nothing contained, nothing kept");
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused_and_the_first_goes_on() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut server = machine.run(&["--session", "s"], "exec cat");
    machine.leaf("s");
    let output = machine.ask(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    let told = lines(&output);
    assert!(told.len() == 1 && told[0].contains("another pinfold serves") && told[0].contains("--socket"), "{told:?}");
    assert!(told[0].contains(&format!(" (process {}): ", machine.daemon_pid())), "{told:?}");
    assert_eq!(machine.described()["pid"], machine.daemon_pid());
    assert_eq!(machine.session("s")["state"], "running");
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 0);
    machine.expect_nothing_left();
}

#[test]
fn the_socket_speaks_varlink_and_describes_itself() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let info = machine.call("org.varlink.service.GetInfo", &Value::Null)["parameters"].clone();
    for key in ["vendor", "product", "version", "url"] {
        assert!(info[key].is_string(), "{info}");
    }
    assert_eq!(info["interfaces"], serde_json::json!(["org.varlink.service", "io.pinfold"]));
    let asked = |interface: &str| {
        machine.call("org.varlink.service.GetInterfaceDescription", &serde_json::json!({ "interface": interface }))
    };
    let description = asked("io.pinfold")["parameters"]["description"].as_str().unwrap().to_owned();
    for method in ["Launch", "End", "List", "Locate", "Describe"] {
        assert!(description.contains(&format!("\nmethod {method}(")), "{method} in {description}");
        assert_ne!(
            machine.call(&format!("io.pinfold.{method}"), &Value::Null)["error"],
            "org.varlink.service.MethodNotFound"
        );
    }
    for (method, error) in [
        ("io.pinfold.NoSuch", "org.varlink.service.MethodNotFound"),
        ("org.example.Ping", "org.varlink.service.MethodNotFound"),
        ("", "org.varlink.service.MethodNotFound"),
        ("io.pinfold.Locate", "org.varlink.service.InvalidParameter"),
        ("io.pinfold.Launch", "org.varlink.service.InvalidParameter"),
        ("io.pinfold.End", "org.varlink.service.InvalidParameter"),
    ] {
        assert_eq!(machine.call(method, &Value::Null)["error"], error, "{method:?}");
    }
    assert_eq!(asked("org.example")["error"], "org.varlink.service.InterfaceNotFound");
    let nowhere = machine.call("io.pinfold.Locate", &serde_json::json!({ "pid": -1 }));
    assert_eq!(nowhere["error"], "io.pinfold.NotContained");
    machine.expect_nothing_left();
}
