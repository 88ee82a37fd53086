//! The launcher: what a server finds is what its host gave it, and what cannot be launched is told in one line.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

use crate::hosts::{lines, status_field};
use crate::support::{
    Launched, Machine, binary, eventually, lives, offered, on_systemd, processes, root_offered, signal,
};

/// Runs a command as it is, and through the launcher; both outputs, the bare one first.
#[track_caller]
fn bare_and_contained(machine: &Machine, prefix: &[&str], command: &[&str]) -> [Output; 2] {
    [&[][..], &[binary(), "run", "--session", "fidelity", "--"]].map(|launcher| {
        let words: Vec<&str> = [prefix, launcher, command].concat();
        let mut run = Command::new(words[0]);
        run.args(&words[1..]).stdin(Stdio::null());
        machine.point_here(&mut run);
        let output = run.output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        output
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_server_is_the_launchers_own_process_and_its_hosts_own_child() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut server = machine.run(&["--session", "s"], "echo $$ $PPID; exec cat");
    assert_eq!(server.line(), format!("{} {}", server.pid(), std::process::id()));
    assert_eq!(processes(&machine.leaf("s")), [server.pid()], "nothing of ours stays between");
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 0);
    machine.expect_nothing_left();
}

/// It is written to a cgroup itself, so that the kernel's wait for a move begins early: to the one in which it is.
#[test]
fn a_launch_leaves_the_daemon_where_somebody_put_it() {
    // What a manager put somewhere is not moved by hand.
    if !root_offered() || on_systemd() {
        return;
    }
    let machine = Machine::new();
    let daemon = machine.daemon_pid().to_string();
    let place = || {
        let text = std::fs::read_to_string(format!("/proc/{daemon}/cgroup")).unwrap();
        text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
    };
    let launch = |session: &str| {
        // Beyond what a move before it would spare it.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(machine.run(&["--session", session], "true").exit_status(), 0);
    };
    let before = place();
    launch("first");
    assert_eq!(place(), before);
    let elsewhere = machine.root().with_extension("put-here");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("cgroup.procs"), &daemon).unwrap();
    let moved = place();
    assert!(moved.ends_with("put-here"), "{moved}");
    launch("second");
    assert_eq!(place(), moved, "it was at {before} before");
    machine.expect_nothing_left();
    // The machine ends its daemon, and then this can go.
    drop(machine);
    std::fs::remove_dir(&elsewhere).unwrap();
}

#[test]
fn bytes_pass_both_ways_as_they_are_and_none_is_ours() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut server = machine.launch(&["--session", "s"], &["cat"]);
    let sent: Vec<u8> = (0..1_000_000u64).map(|at| (at.wrapping_mul(2654435761) >> 13) as u8).collect();
    let (mut stdin, message) = (server.child.stdin.take().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&message).unwrap());
    let mut received = Vec::new();
    server.child.stdout.take().unwrap().read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == sent, "{} bytes came back of {}", received.len(), sent.len());
    assert_eq!(server.exit_status(), 0);
    assert_eq!(server.stderr(), "", "a server that left by itself has nothing to be told");
    machine.expect_nothing_left();
}

#[test]
fn the_environment_is_the_hosts_and_our_two_variables() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let environment = |launcher: &[&str]| {
        let words = [launcher, &["cat", "/proc/self/environ"]].concat();
        let mut run = Command::new(words[0]);
        run.args(&words[1..]).stdin(Stdio::null()).env_clear();
        run.env("PATH", std::env::var_os("PATH").unwrap()).env("PINFOLD_SOCKET", machine.socket());
        run.env("EMPTY", "").env("LINES", "a\nb").env("BYTES", OsStr::from_bytes(b"\xff\xfe=\x01"));
        run.env(OsStr::from_bytes(b"N\xc3ME"), "=x").env("PINFOLD_SERVER", "another's");
        let output = run.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let pairs: Vec<Vec<u8>> = output.stdout.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        assert!(pairs.len() > 6, "{output:?}");
        pairs
    };
    let bare = environment(&[]);
    let contained = environment(&[binary(), "run", "--session", "s p", "--server", "n", "--"]);
    let added: Vec<String> = contained.iter().filter(|pair| !bare.contains(pair)).map(|pair| text(pair)).collect();
    assert_eq!(added.len(), 2, "{added:?}");
    assert_eq!(added[0], "PINFOLD_SESSION=s p");
    assert!(added[1].starts_with("PINFOLD_SERVER=n"), "{added:?}");
    let lost: Vec<String> = bare.iter().filter(|pair| !contained.contains(pair)).map(|pair| text(pair)).collect();
    assert_eq!(lost, ["PINFOLD_SERVER=another's"]);
    let kept: Vec<_> = contained.iter().filter(|pair| bare.contains(pair)).collect();
    assert!(kept.into_iter().eq(bare.iter().filter(|pair| contained.contains(pair))), "in the same order");
    machine.expect_nothing_left();
}

#[test]
fn signals_and_all_else_that_exec_passes_on_arrive_as_the_host_passed_them() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let privileged = root_offered().then_some(&["setpriv", "--no-new-privs", "--bounding-set=-sys_boot"][..]);
    let passed = [
        &["env"][..],
        &["env", "--ignore-signal=PIPE"],
        &["env", "--ignore-signal=HUP,INT,QUIT,CHLD", "--block-signal=USR1,RTMIN"],
        &["sh", "-c", "umask 027; ulimit -n 77; ulimit -c 0; cd /usr; exec \"$@\"", "sh"],
    ];
    for passed in passed.into_iter().chain(privileged) {
        let fields = |output: &Output| -> Vec<String> {
            let varying =
                ["Pid:", "Tgid:", "NStgid:", "NSpid:", "NSpgid:", "NSsid:", "Vm", "Rss", "voluntary", "nonvol"];
            let text = text(&output.stdout);
            let keep = |line: &&str| {
                !varying.iter().any(|prefix| line.starts_with(prefix))
                    && !line.contains("_allowed")
                    && !line.starts_with("SigQ")
                    && !line.starts_with("x86_Thread")
            };
            text.lines().filter(keep).map(str::to_owned).collect()
        };
        let [bare, contained] =
            bare_and_contained(&machine, passed, &["cat", "/proc/self/status", "/proc/self/limits"]);
        assert!(text(&bare.stdout).contains("SigIgn") && text(&bare.stdout).contains("Max open files"));
        assert_eq!(fields(&contained), fields(&bare), "{passed:?}");
        let [bare, contained] = bare_and_contained(&machine, passed, &["readlink", "/proc/self/cwd"]);
        assert_eq!(text(&contained.stdout), text(&bare.stdout), "{passed:?}");
    }
    // So that the comparison was not one of two empty masks.
    let ignoring = ["env", "--ignore-signal=PIPE", binary(), "run", "--", "cat", "/proc/self/status"];
    let mut run = Command::new(ignoring[0]);
    run.args(&ignoring[1..]);
    machine.point_here(&mut run);
    let output = run.output().unwrap();
    let ignored = text(&output.stdout).lines().find_map(|line| Some(line.strip_prefix("SigIgn:")?.trim().to_owned()));
    let ignored = u64::from_str_radix(&ignored.unwrap(), 16).unwrap();
    assert!(ignored & (1 << (Signal::SIGPIPE as u32 - 1)) != 0, "{output:?}");
    machine.expect_nothing_left();
}

#[test]
fn descriptors_arrive_as_the_host_passed_them_and_none_of_ours_does() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    std::fs::write(machine.path("held"), "x").unwrap();
    let held = machine.path("held").display().to_string();
    for passing in ["exec 3<\"$0\" 7<>\"$0\" 9>>\"$0\"", "exec 3<\"$0\" <&-", "exec 0<&- 2>&-", ":"] {
        let prefix = ["sh", "-c", &format!("{passing}; exec \"$@\""), &held];
        let listed = |output: &Output| -> Vec<String> {
            let arrows = text(&output.stdout);
            let arrows = arrows.lines().filter_map(|line| line.split_once(" -> "));
            let number = |left: &str| left.rsplit(' ').next().unwrap_or_default().to_owned();
            // Pipes and the listing's own directory have new numbers each time.
            let kind = |target: &str| target.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
            arrows.map(|(left, target)| format!("{} {}", number(left), kind(target))).collect()
        };
        let [bare, contained] = bare_and_contained(&machine, &prefix, &["ls", "-l", "/proc/self/fd"]);
        assert!(listed(&bare).iter().any(|line| line.starts_with("1 pipe")), "{bare:?}");
        assert_eq!(listed(&contained), listed(&bare), "{passing:?}");
    }
    machine.expect_nothing_left();
}

#[test]
fn the_hosts_own_wait_tells_how_the_server_ended() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    for status in [0, 1, 7, 125, 126, 127, 255] {
        let mut server = machine.run(&[], &format!("exit {status}"));
        assert_eq!(server.exit_status(), status);
    }
    for (name, number) in [("TERM", 15), ("KILL", 9), ("PIPE", 13), ("USR1", 10)] {
        let mut server = machine.run(&[], &format!("kill -{name} $$"));
        assert_eq!(server.exit_status(), 128 + number);
        assert_eq!(server.stderr(), "", "the host knows already");
    }
    machine.expect_nothing_left();
}

#[test]
fn what_cannot_be_executed_is_told_in_one_line_with_the_exit_status_that_env_has() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    std::fs::write(machine.path("data"), "no program").unwrap();
    let data = machine.path("data").display().to_string();
    for (command, status) in
        [("no-such-command-here", 127), ("/no/such/file", 127), (data.as_str(), 126), ("/", 126), ("", 127)]
    {
        let output = machine.ask(&["run", "--session", "s", "--", command, "x"]);
        assert_eq!(output.status.code(), Some(status), "{command:?}: {output:?}");
        let env = Command::new("env").args(["--", command, "x"]).output().unwrap();
        assert_eq!(env.status.code(), Some(status), "env agrees on {command:?}");
        let told = lines(&output);
        assert!(told.len() == 1 && told[0].starts_with("pinfold: cannot execute"), "{told:?}");
        assert!(told[0].contains(command) && output.stdout.is_empty(), "{output:?}");
    }
    machine.expect_nothing_left();
}

/// What `pinfold events --session s` says, without the times, once the end is told.
#[track_caller]
fn events_to_the_end(machine: &Machine) -> Vec<String> {
    eventually("the end is told", || {
        let told = text(&machine.ask(&["events", "--session", "s"]).stdout);
        let told: Vec<String> = told.lines().filter_map(|line| Some(line.split_once("  ")?.1.to_owned())).collect();
        if told.iter().any(|line| line.starts_with("ended")) { Ok(told) } else { Err(format!("{told:?}")) }
    })
}

#[test]
fn what_cannot_be_executed_is_told_as_such_with_its_end() {
    if !offered() {
        return;
    }
    for (command, why) in [("no-such-command-here", "No such file or directory"), ("/", "Permission denied")] {
        let machine = Machine::new();
        machine.ask(&["run", "--session", "s", "--server", "fs", "--", command, "x"]);
        let told = events_to_the_end(&machine);
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(told[1], format!("server fs of session s cannot execute {command:?}: {why}"));
        let ended = format!("ended server fs of session s: its command could not be executed: {why}, ");
        assert!(told[2].starts_with(&ended), "{told:?}");
        machine.expect_nothing_left();
    }
}

#[test]
fn what_a_running_server_says_of_itself_is_told_once_and_its_exit_is_the_kernels_word() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let says = r#"use IO::Socket::UNIX; use Socket;
        my $daemon = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $ENV{TEST_DAEMON}) or die;
        $/ = "\0";
        for my $errno (-1, 2, 2, 13) {
            print $daemon qq({"method":"io.pinfold.NotExecuted","parameters":{"errno":$errno}}\0);
            $daemon->flush;
            my $answer = <$daemon>;
            print STDERR ($answer =~ /error/ ? "refused" : "taken"), "\n";
        }
        exit 5;"#;
    let mut command = machine.pinfold(&["run", "--session", "s", "--server", "fs", "--", "perl", "-e", says]);
    let output = command.env("TEST_DAEMON", machine.socket()).output().unwrap();
    assert_eq!(lines(&output), ["refused", "taken", "refused", "refused"], "{output:?}");
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let told = events_to_the_end(&machine);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(!told[2].contains("could not be executed"), "{told:?}");
    machine.expect_nothing_left();
}

#[test]
fn how_a_servers_first_process_exited_is_told_with_its_end() {
    if !offered() {
        return;
    }
    for (script, exit, how) in [
        ("exit 3", serde_json::json!({ "status": 3 }), "exited with status 3"),
        ("kill -SEGV $$", serde_json::json!({ "signal": 11 }), "was killed by SIGSEGV"),
    ] {
        let machine = Machine::new();
        // Nobody waits for it before its end is told, so every kernel tells how it exited.
        let mut server = machine.run(&["--session", "s", "--server", "fs"], script);
        let told = events_to_the_end(&machine);
        let ended = format!("ended server fs of session s: its first process {how}, ");
        assert!(told.last().unwrap().starts_with(&ended), "{told:?}");
        let json = text(&machine.ask(&["events", "--session", "s", "--json"]).stdout);
        let ended: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
        assert_eq!((&ended["cause"], &ended["exit"]), (&"leader_exited".into(), &exit), "{ended}");
        server.exit_status();
        machine.expect_nothing_left();
    }
}

#[test]
fn a_refusal_is_status_125_and_one_line_with_reason_and_remedy() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("uncontained = \"refuse\"");
    for (options, reason, remedy) in [
        (&["--memory-max", "1M"][..], "less than a process can start with", "ask for at least"),
        (&["--memory-high", "1M"], "less than a process can start with", "ask for at least"),
        (&["--grace", "1h"], "would hold up the end", "ask for at most"),
        // The daemon was asked and said no: that is its operator's policy, not the launcher's.
        (&["--uncontained", "--memory-max", "1M"], "less than a process can start with", "ask for at least"),
    ] {
        let arguments = [&["run"], options, &["--", "sh", "-c", "echo ran"]].concat();
        let output = machine.ask(&arguments);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        let told = lines(&output);
        assert!(told.len() == 1 && told[0].contains(reason) && told[0].contains(remedy), "{told:?}");
        assert_eq!(text(&output.stdout), "", "it did not run");
    }
    assert_eq!(
        (machine.described()["refusals"].as_u64(), machine.described()["launches"].as_u64()),
        (Some(4), Some(0))
    );
    machine.expect_nothing_left();
}

#[test]
fn without_a_daemon_nothing_runs_uncontained_unless_the_user_says_so_and_then_loudly() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    // No daemon can be had: what it would need is not there.
    let run = |options: &[&str], allowed: Option<&str>| {
        let mut run = machine.pinfold(&["run"]);
        run.args(options)
            .args(["--", "sh", "-c", "echo ran; echo $PINFOLD_SERVER"])
            .env("PINFOLD_ROOT", "/no/such/cgroup");
        run.stdin(Stdio::null());
        if let Some(allowed) = allowed {
            run.env("PINFOLD_UNCONTAINED", allowed);
        }
        run.output().unwrap()
    };
    for (options, allowed) in [(&[][..], None), (&[], Some("refuse")), (&[], Some(""))] {
        let output = run(options, allowed);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(125), String::new()), "{output:?}");
        let told = lines(&output);
        assert!(told.len() == 1 && told[0].contains("not launched") && told[0].contains("--root"), "{told:?}");
    }
    for wrong in ["yes", "1", "Allow"] {
        let output = run(&["--uncontained"], Some(wrong));
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(125), String::new()), "{output:?}");
        let told = lines(&output);
        let what = format!("PINFOLD_UNCONTAINED is {wrong:?}, which means nothing: set it to allow");
        assert!(told.len() == 1 && told[0].contains(&what), "{told:?}");
    }
    for (options, allowed) in [(&["--uncontained"][..], None), (&[], Some("allow"))] {
        let output = run(options, allowed);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "ran\n\n"), "{output:?}");
        let told = lines(&output);
        assert!(told.len() == 1 && told[0].contains("RUNNING UNCONTAINED"), "{told:?}");
    }
    assert!(machine.cgroups().is_empty());
}

#[test]
fn a_refused_launch_runs_uncontained_where_the_configuration_allows_it_and_is_counted() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("uncontained = \"allow\"");
    let output = machine.ask(&["run", "--memory-max", "1M", "--", "echo", "ran"]);
    assert_eq!(output.status.code(), Some(125), "the launch must ask for it as well: {output:?}");
    let output = machine.ask(&["run", "--uncontained", "--memory-max", "1M", "--", "echo", "ran"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "ran\n"));
    assert!(lines(&output)[0].contains("RUNNING UNCONTAINED"), "{output:?}");
    assert_eq!(
        (machine.described()["refusals"].as_u64(), machine.described()["uncontained"].as_u64()),
        (Some(2), Some(1))
    );
}

/// The two kinds of stdin that hosts give: the socketpair of Node, and a pipe.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Socketpair,
    Pipe,
}

/// The host's end of a server's stdin.
enum HostEnd {
    Socketpair(UnixStream),
    Pipe(std::io::PipeWriter),
}

impl HostEnd {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Socketpair(end) => end.write_all(bytes),
            Self::Pipe(end) => end.write_all(bytes),
        }
    }

    /// As hosts do it: Node half-closes its socketpair and keeps it, a pipe is closed.
    fn close(self) -> Option<UnixStream> {
        match self {
            Self::Socketpair(end) => {
                end.shutdown(std::net::Shutdown::Write).unwrap();
                Some(end)
            }
            Self::Pipe(_) => None,
        }
    }
}

/// Launches a script with this kind of stdin. The server's end is given along: it is the same file description.
#[track_caller]
fn with_stdin(machine: &Machine, kind: Kind, script: &str) -> (Launched, HostEnd, OwnedFd) {
    let (host, server): (HostEnd, OwnedFd) = match kind {
        Kind::Socketpair => {
            let (host, server) = UnixStream::pair().unwrap();
            (HostEnd::Socketpair(host), server.into())
        }
        Kind::Pipe => {
            let (server, host) = std::io::pipe().unwrap();
            (HostEnd::Pipe(host), server.into())
        }
    };
    let mut run = machine.pinfold(&["run", "--session", "s", "--", "sh", "-c", script]);
    run.stdin(server.try_clone().unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    (Launched::spawn(run), host, server)
}

#[test]
fn a_server_that_does_not_leave_when_its_host_closed_its_stdin_is_ended_after_its_grace() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nstdin_grace = \"400ms\"\ngrace = \"10s\"");
    for kind in [Kind::Socketpair, Kind::Pipe] {
        let (mut server, host, dup) = with_stdin(&machine, kind, "sleep 1000 & echo up; wait");
        drop(dup);
        assert_eq!(server.line(), "up");
        let leaf = machine.leaf("s");
        let closed = Instant::now();
        let kept = host.close();
        assert_eq!(server.exit_status(), 128 + 15, "{kind:?}");
        assert!(closed.elapsed() >= Duration::from_millis(400), "{kind:?}: it had its grace");
        assert!(server.stderr().contains("the host closed its stdin, 2 processes"), "{kind:?}: {}", machine.log());
        eventually("its leaf is gone", || if leaf.exists() { Err(machine.log()) } else { Ok(()) });
        drop(kept);
    }
    machine.expect_nothing_left();
}

#[test]
fn a_server_that_leaves_when_its_host_closed_its_stdin_does_so_undisturbed() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nstdin_grace = \"20s\"\ngrace = \"20s\"");
    for kind in [Kind::Socketpair, Kind::Pipe] {
        let script = "trap 'echo TERM' TERM; cat >/dev/null; sleep 0.3; echo bye; exit 3";
        let (mut server, host, dup) = with_stdin(&machine, kind, script);
        drop(dup);
        machine.leaf("s");
        let kept = host.close();
        assert_eq!(server.line(), "bye", "{kind:?}: no signal came first");
        assert_eq!(server.exit_status(), 3);
        assert_eq!(server.stderr(), "");
        drop(kept);
        machine.expect_nothing_left();
    }
}

#[test]
fn a_stdin_that_was_closed_before_the_launch_is_noticed() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nstdin_grace = \"100ms\"");
    let (read, write) = std::io::pipe().unwrap();
    drop(write);
    let mut run = machine.pinfold(&["run", "--", "sleep", "1000"]);
    run.stdin(read).stderr(Stdio::piped());
    let mut server = Launched::spawn(run);
    assert_eq!(server.exit_status(), 128 + 15);
    assert!(server.stderr().contains("the host closed its stdin"));
    machine.expect_nothing_left();
}

#[test]
fn while_a_live_host_holds_stdin_nothing_happens_and_the_daemon_sleeps() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nstdin_grace = \"100ms\"\ngrace = \"100ms\"");
    for kind in [Kind::Socketpair, Kind::Pipe] {
        let (mut server, mut host, dup) = with_stdin(&machine, kind, "exec cat");
        drop(dup);
        machine.leaf("s");
        let wakes = || status_field(machine.daemon_pid(), "voluntary_ctxt_switches").parse::<u64>().unwrap();
        let (before, start, mut messages) = (wakes(), Instant::now(), 0);
        // There is no other proof of nothing than to wait for it: far beyond both graces.
        while start.elapsed() < Duration::from_millis(1500) {
            host.write(b"ping\n").unwrap();
            assert_eq!(server.line(), "ping");
            messages += 1;
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(messages > 20, "{messages} messages");
        assert!(wakes() - before < 10, "{kind:?}: {} wakes for {messages} messages", wakes() - before);
        assert_eq!(machine.session("s")["servers"][0]["stdin"], "watched");
        drop(host);
        assert_eq!(server.exit_status(), 0);
        machine.expect_nothing_left();
    }
}

#[test]
fn a_stdin_that_cannot_hang_up_is_shown_unwatched_and_its_server_lives_on() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nstdin_grace = \"50ms\"\ngrace = \"50ms\"");
    std::fs::write(machine.path("input"), "from a file\n").unwrap();
    for path in [machine.path("input"), "/dev/null".into()] {
        let mut run = machine.pinfold(&["run", "--session", "s", "--", "sh", "-c", "cat; echo eof; sleep 1000"]);
        run.stdin(std::fs::File::open(&path).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = Launched::spawn(run);
        while server.line() != "eof" {}
        assert_eq!(machine.session("s")["servers"][0]["stdin"], "unwatched");
        let page = machine.ask(&["status", "s"]);
        assert!(text(&page.stdout).contains("stdin unwatched"), "{page:?}");
        // Beyond both graces and the window in which facts are weighed.
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(machine.session("s")["servers"][0]["state"], "running");
        assert!(machine.ask(&["end", "s"]).status.success());
        assert_eq!(server.exit_status(), 128 + 15);
    }
    machine.expect_nothing_left();
}

#[test]
fn a_host_that_writes_to_a_dead_server_gets_epipe_as_without_us() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ngrace = \"100ms\"");
    for kind in [Kind::Socketpair, Kind::Pipe] {
        for ended in [false, true] {
            let (mut server, mut host, dup) = with_stdin(&machine, kind, "exec sleep 1000");
            drop(dup);
            machine.leaf("s");
            host.write(b"not read\n").unwrap();
            if ended {
                assert!(machine.ask(&["end", "s"]).status.success());
            } else {
                signal(server.pid(), Signal::SIGKILL);
            }
            server.exit_status();
            eventually(&format!("{kind:?}, ended {ended}: a write fails"), || match host.write(b"x") {
                Ok(()) => Err("it was written".to_owned()),
                // A socket that was closed with unread bytes tells that first.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Err(error.to_string()),
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                Err(error) => panic!("{error}"),
            });
            machine.expect_nothing_left();
        }
    }
}

#[test]
fn o_nonblock_on_stdin_is_the_servers_own_affair() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nstdin_grace = \"50ms\"\ngrace = \"10s\"");
    for kind in [Kind::Socketpair, Kind::Pipe] {
        for nonblocking in [false, true] {
            let script = "trap 'echo ending' TERM; echo up; while :; do sleep 0.02; done";
            let (mut server, host, dup) = with_stdin(&machine, kind, script);
            assert_eq!(server.line(), "up");
            machine.leaf("s");
            let flags = || OFlag::from_bits_truncate(fcntl(dup.as_fd(), FcntlArg::F_GETFL).unwrap());
            assert!(!flags().contains(OFlag::O_NONBLOCK), "{kind:?}: nobody asked for it");
            if nonblocking {
                // What a Node server does to its stdin: the flag is one of the file description, which all share.
                fcntl(dup.as_fd(), FcntlArg::F_SETFL(flags() | OFlag::O_NONBLOCK)).unwrap();
            }
            let kept = host.close();
            // By now the hang-up was noticed, weighed and answered.
            assert_eq!(server.line(), "ending");
            assert_eq!(flags().contains(OFlag::O_NONBLOCK), nonblocking, "{kind:?}");
            signal(server.pid(), Signal::SIGKILL);
            server.exit_status();
            machine.expect_nothing_left();
            assert_eq!(flags().contains(OFlag::O_NONBLOCK), nonblocking, "{kind:?}");
            drop(kept);
        }
    }
}

#[test]
fn the_session_and_server_of_any_process_can_be_asked_for() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut server =
        machine.run(&["--session", "s", "--server", "fs"], "(setsid sleep 1000 & echo $!); echo $$; exec cat");
    let (grandchild, leader) = (server.line(), server.line());
    for pid in [&grandchild, &leader] {
        let output = machine.ask(&["status", "--pid", pid, "--json"]);
        assert!(output.status.success(), "{output:?}");
        let located: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(located["session"]["id"], "s");
        assert_eq!(located["leaf"], located["session"]["servers"][0]["leaf"]);
        let page = machine.ask(&["status", "--pid", pid]);
        assert!(
            text(&page.stdout).starts_with(&format!("process {pid} belongs to server fs of session s\n")),
            "{page:?}"
        );
    }
    let own = std::process::id().to_string();
    let output = machine.ask(&["status", "--pid", &own]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lines(&output), [format!("pinfold: no session of yours holds process {own}")]);
    let nobody = i32::MAX.to_string();
    for arguments in [&["status", "--pid", &nobody][..], &["label", "--pid", &nobody, "run=1"]] {
        let output = machine.ask(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(lines(&output)[0].ends_with(&format!("there is no process {nobody}")), "{output:?}");
    }
    assert_eq!(machine.ask(&["status", "no such session"]).status.code(), Some(1));
    assert!(machine.ask(&["end", "s"]).status.success());
    server.exit_status();
    assert!(!lives(grandchild.parse().unwrap()));
    machine.expect_nothing_left();
}

#[test]
fn secrets_on_a_command_line_reach_the_server_and_nothing_of_ours() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let secret = "hunter2-x9Jq";
    let script = "echo \"$*\"; exec cat";
    let joined = format!("--token={secret}");
    let variable = format!("API_KEY={secret}");
    let mut server = machine.launch(
        &["--session", "s"],
        &["env", &variable, "sh", "-c", script, "sh", "--api-key", secret, &joined, "--password", secret],
    );
    assert_eq!(server.line(), format!("--api-key {secret} {joined} --password {secret}"));
    machine.leaf("s");
    for arguments in [&["ls"][..], &["ls", "--json"], &["status", "s"], &["status", "s", "--json"]] {
        let output = machine.ask(arguments);
        assert!(output.status.success() && output.stdout.len() > 20, "{output:?}");
        assert!(!text(&output.stdout).contains(secret), "{arguments:?}: {output:?}");
    }
    let shown = machine.session("s")["servers"][0]["argv"].to_string();
    assert!(shown.contains("--api-key") && shown.contains("***"), "{shown}");
    let mut records = 0;
    for record in std::fs::read_dir(machine.path("pinfold.sock.d")).unwrap() {
        let record = std::fs::read_to_string(record.unwrap().path()).unwrap();
        assert!(record.contains("--api-key") && !record.contains(secret), "{record}");
        records += 1;
    }
    assert_eq!(records, 1);
    assert!(!machine.log().contains(secret));
    drop(server.child.stdin.take());
    server.exit_status();
    machine.expect_nothing_left();
}

#[test]
fn an_argument_is_passed_on_as_it_is_whatever_bytes_it_holds() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut run = machine.pinfold(&["run", "--", "printf", "%s|"]);
    run.args(["--session", "", "a b", "--", "\n"].map(OsStr::new)).arg(OsStr::from_bytes(b"\xff\xfe"));
    let output = run.arg("x".repeat(100_000)).stdin(Stdio::null()).process_group(0).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let expected = [&b"--session||a b|--|\n|\xff\xfe|"[..], "x".repeat(100_000).as_bytes(), b"|"].concat();
    assert!(output.stdout == expected, "{:?}", text(&output.stdout[..40]));
    machine.expect_nothing_left();
}

#[test]
fn a_launch_that_asks_for_a_container_says_what_does_not_hold_for_that() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    for (command, said) in [("true docker run -i mcp/x", true), ("true docker ps", false)] {
        let mut server = machine.launch(&[], &["sh", "-c", command]);
        assert_eq!(server.exit_status(), 0, "{}", machine.log());
        let stderr = server.stderr();
        assert_eq!(stderr.contains("OUTSIDE the session"), said, "{command}: {stderr}");
    }
}

#[test]
fn an_engine_is_told_whose_container_it_makes_and_where_or_the_launch_says_that_it_is_not() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    // What it is told is seen from a program of its name.
    let engine = machine.path("podman");
    std::fs::write(&engine, "#!/bin/sh\necho \"$@\"\ncat /proc/self/cgroup\n").unwrap();
    std::fs::set_permissions(&engine, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let told = |words: &[&str]| {
        let mut run = machine.pinfold(&["run", "--session", "s", "--server", "fs", "--"]);
        let output = run.arg(&engine).args(words).stdin(Stdio::null()).process_group(0).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        (text(&output.stdout), text(&output.stderr))
    };
    let (words, said) = told(&["run", "-i", "--rm", "image"]);
    assert!(
        words.contains("--label=io.pinfold.session=s_") && words.contains("--label=io.pinfold.server=fs."),
        "{words}"
    );
    if said.contains("OUTSIDE the session") {
        assert!(said.contains("no pure cgroup v2") && !words.contains("--cgroup-parent"), "{said}{words}");
    } else {
        let parent = words.split("--cgroup-parent=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let leaf = parent.strip_suffix("/pinfold-containers").unwrap();
        assert!(words.starts_with("--cgroup-manager=cgroupfs run ") && words.contains("-i --rm image"), "{words}");
        assert!(words.lines().any(|line| line == format!("0::{leaf}/pinfold-client")), "{words}");
    }
    let (words, said) = told(&["run", "--cgroup-parent=/own", "image"]);
    assert!(said.contains("OUTSIDE the session") && words.contains("--cgroup-parent=/own image"), "{said}{words}");
    assert_eq!(words.matches("--cgroup-parent").count(), 1, "{words}");
    let (words, said) = told(&["ps"]);
    assert!(words.starts_with("ps\n") && said.is_empty(), "{said}{words}");
    machine.expect_nothing_left();
}
