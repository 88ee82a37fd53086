//! Idle servers give memory back and live on: trimmed while they go on, or parked until their host wants something.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::servers::{Process, end, numbers_count, perl};
use crate::support::{Launched, Machine, eventually, offered, on_systemd, root_offered, slowness};

/// Answers each line with itself, and leaves when its stdin ends, or when it is asked to.
const ECHO: &str = r#"
    $SIG{TERM} = sub { syswrite(STDOUT, "asked to leave\n"); POSIX::_exit(3) };
    my $text = "";
    syswrite(STDOUT, "up\n");
    while (my $count = sysread(STDIN, $text, 4096)) { syswrite(STDOUT, $text) }
    syswrite(STDOUT, "its stdin ended\n");
    POSIX::_exit(7);
"#;

/// As soon as readings can tell. What is slow has to be asked within each span.
fn parks() -> String {
    format!("[server]\npark_after = '{}s'\n", if slowness() > 1 { 4 } else { 1 })
}

#[track_caller]
fn echo(machine: &Machine, session: &str) -> Launched {
    let mut server = perl(machine, &["--session", session, "--server", "echo"], ECHO);
    assert_eq!(server.line(), "up", "{}", machine.log());
    server
}

#[track_caller]
fn call(server: &mut Launched, text: &str) {
    writeln!(server.child.stdin.as_mut().unwrap(), "{text}").unwrap();
    assert_eq!(server.line(), text);
}

/// The only server of a session, as `pinfold ls --json` shows it.
#[track_caller]
fn shown(machine: &Machine, session: &str) -> Value {
    let sessions = machine.sessions();
    let found = sessions.iter().find(|shown| shown["id"] == session);
    found.unwrap_or_else(|| panic!("{sessions:?}; {}", machine.log()))["servers"][0].clone()
}

fn is_frozen(leaf: &Path) -> bool {
    std::fs::read_to_string(leaf.join("cgroup.events")).is_ok_and(|text| text.contains("frozen 1"))
}

fn leaf(shown: &Value) -> PathBuf {
    PathBuf::from(shown["cgroup"].as_str().unwrap())
}

/// Waits until the only server of a session is parked, and the kernel says that all of it stands still.
#[track_caller]
fn expect_parked(machine: &Machine, session: &str) -> PathBuf {
    eventually("it is parked", || {
        let shown = shown(machine, session);
        let leaf = leaf(&shown);
        let is_parked = shown["state"] == "parked" && shown["parked_at"].is_string() && is_frozen(&leaf);
        if is_parked { Ok(leaf) } else { Err(format!("{shown}; {}", machine.log())) }
    })
}

/// Parks the only server of a session by hand, once it has done what it was doing.
#[track_caller]
fn park(machine: &Machine, session: &str) -> PathBuf {
    eventually("it lets itself be parked", || {
        let output = machine.ask(&["park", session]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("{told}; {}", machine.log())) }
    });
    expect_parked(machine, session)
}

/// Of each event of the session its word, and its reason where it has one.
fn events(machine: &Machine, session: &str) -> Vec<String> {
    let output = machine.ask(&["events", "--json", "--session", session]);
    let text = String::from_utf8(output.stdout).unwrap();
    let told = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let words = told.map(|event| format!("{} {}", event["event"], event["reason"]).replace(['"'], ""));
    words.map(|words| words.trim_end_matches(" null").to_owned()).collect()
}

#[test]
fn an_idle_server_is_parked_and_wakes_when_its_host_writes() {
    if !offered() {
        return;
    }
    let machine = Machine::supervised(&parks());
    let mut server = echo(&machine, "s");
    for turn in 0..2 {
        let leaf = expect_parked(&machine, "s");
        call(&mut server, &format!("turn {turn}"));
        assert!(!is_frozen(&leaf));
    }
    assert_eq!(shown(&machine, "s")["parked_at"], Value::Null);
    drop(server.child.stdin.take());
    assert_eq!((server.line(), server.exit_status()), ("its stdin ended".to_owned(), 7));
    machine.expect_nothing_left();
    let told = events(&machine, "s");
    let expected = ["launched", "parked idle", "thawed input", "parked idle", "thawed input", "ended"];
    assert_eq!(told, expected, "{}", machine.log());
}

#[test]
fn a_parked_server_leaves_by_itself_when_its_host_closes_its_stdin() {
    if !offered() {
        return;
    }
    let machine = Machine::supervised("");
    let mut server = echo(&machine, "s");
    park(&machine, "s");
    drop(server.child.stdin.take());
    assert_eq!((server.line(), server.exit_status()), ("its stdin ended".to_owned(), 7));
    machine.expect_nothing_left();
    assert!(events(&machine, "s").contains(&"thawed closed".to_owned()), "{:?}", events(&machine, "s"));
}

#[test]
fn the_end_of_a_parked_server_lets_it_act_on_its_sigterm() {
    if !offered() {
        return;
    }
    let machine = Machine::supervised("");
    let mut server = echo(&machine, "s");
    park(&machine, "s");
    end(&machine, &["s"]);
    assert_eq!((server.line(), server.exit_status()), ("asked to leave".to_owned(), 3));
    machine.expect_nothing_left();
    assert_eq!(events(&machine, "s")[1..3], ["parked requested", "thawed ending"]);
}

#[test]
fn a_parked_server_is_killed_whole() {
    if !offered() {
        return;
    }
    let machine = Machine::supervised("");
    let mut server = machine.run(&["--session", "s"], "setsid sleep 1000 & echo up; exec sleep 1000");
    assert_eq!(server.line(), "up");
    let leaf = park(&machine, "s");
    let all: Vec<Process> = crate::servers::inhabitants(&leaf);
    assert_eq!(all.len(), 2, "{all:?}");
    end(&machine, &["s", "--now"]);
    assert!(all.iter().all(|process| !process.lives()));
    assert_eq!(server.exit_status(), 128 + 9);
    machine.expect_nothing_left();
}

#[test]
fn a_stopping_daemon_leaves_no_server_frozen() {
    if !offered() {
        return;
    }
    let mut machine = Machine::supervised("");
    let mut server = echo(&machine, "s");
    let leaf = park(&machine, "s");
    assert_eq!(machine.stop_daemon(), 0);
    assert!(!is_frozen(&leaf));
    call(&mut server, "nobody is there");
    machine.start();
    end(&machine, &["--all"]);
    machine.expect_nothing_left();
}

#[test]
fn what_a_killed_daemon_left_frozen_is_thawed_by_the_next_one_and_by_hand_where_none_comes() {
    if !offered() {
        return;
    }
    let mut machine = Machine::supervised("");
    let mut server = echo(&machine, "s");
    for by_hand in [true, false] {
        let leaf = park(&machine, "s");
        let refused = machine.ask(&["thaw", "--left"]);
        assert!(!refused.status.success() && is_frozen(&leaf), "a daemon looks after it: {refused:?}");
        machine.kill_daemon();
        writeln!(server.child.stdin.as_mut().unwrap(), "is anybody there").unwrap();
        assert!(is_frozen(&leaf));
        if by_hand {
            let thawed = machine.ask(&["thaw", "--left"]);
            let told = String::from_utf8_lossy(&thawed.stdout).into_owned();
            assert!(thawed.status.success() && told == "1 server that a daemon had left frozen\n", "{thawed:?}");
        } else {
            machine.start();
        }
        assert_eq!(server.line(), "is anybody there");
        assert!(!is_frozen(&leaf));
        if by_hand {
            machine.start();
            machine.session("s");
        }
    }
    end(&machine, &["--all"]);
    machine.expect_nothing_left();
}

/// Keeps anybody from thawing a leaf, until it is dropped.
struct Stuck(PathBuf);

impl Stuck {
    #[track_caller]
    fn at(leaf: &Path) -> Self {
        use nix::mount::{MsFlags, mount};
        let file = leaf.join("cgroup.freeze");
        mount(Some(&file), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let stuck = Self(file.clone());
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, &file, None::<&str>, flags, None::<&str>).unwrap();
        stuck
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.0);
    }
}

#[test]
fn a_thaw_that_the_kernel_refuses_is_tried_again_until_it_is_done() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::supervised("");
    let mut server = echo(&machine, "s");
    let leaf = park(&machine, "s");
    let stuck = Stuck::at(&leaf);
    writeln!(server.child.stdin.as_mut().unwrap(), "is anybody there").unwrap();
    eventually("the daemon tells that it cannot", || {
        if machine.log().contains("cannot be thawed") { Ok(()) } else { Err(machine.log()) }
    });
    assert!(is_frozen(&leaf));
    drop(stuck);
    assert_eq!(server.line(), "is anybody there", "{}", machine.log());
    // It is parked as any other afterwards.
    let leaf = park(&machine, "s");
    call(&mut server, "once more");
    assert!(!is_frozen(&leaf));
    end(&machine, &["--all"]);
    machine.expect_nothing_left();
}

#[test]
fn what_cannot_be_thawed_keeps_nothing_else_frozen_and_is_told() {
    if !offered() || !root_offered() {
        return;
    }
    let mut machine = Machine::supervised("");
    let mut servers = ["a", "b"].map(|session| echo(&machine, session));
    // Whichever of them is come to first.
    for stuck in [0, 1] {
        let leaves = ["a", "b"].map(|session| park(&machine, session));
        machine.kill_daemon();
        let mount = Stuck::at(&leaves[stuck]);
        let thawed = machine.ask(&["thaw", "--left"]);
        assert_eq!([is_frozen(&leaves[0]), is_frozen(&leaves[1])], [stuck == 0, stuck == 1], "{thawed:?}");
        let told = String::from_utf8_lossy(&thawed.stderr).into_owned();
        let leaf = leaves[stuck].file_name().unwrap().to_str().unwrap();
        assert!(!thawed.status.success() && told.contains(leaf), "{thawed:?}");
        drop(mount);
        machine.start();
        servers.iter_mut().for_each(|server| call(server, "by the next daemon"));
    }
    end(&machine, &["--all"]);
    machine.expect_nothing_left();
}

#[test]
fn where_nobody_starts_the_daemon_again_an_idle_server_is_trimmed_instead_and_the_launch_says_so() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config(&parks());
    let mut server = echo(&machine, "s");
    eventually("it is trimmed", || {
        let told = events(&machine, "s");
        if told.contains(&"trimmed".to_owned()) { Ok(()) } else { Err(format!("{told:?}; {}", machine.log())) }
    });
    let shown = shown(&machine, "s");
    assert_eq!((&shown["state"], is_frozen(&leaf(&shown))), (&"running".into(), false));
    let warning = shown["warnings"][0].as_str().unwrap_or_default().to_owned();
    assert!(warning.contains("not parked") && warning.contains("--supervised"), "{shown}");
    let output = machine.ask(&["park", "s"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && told.contains("is not parked") && told.contains("--supervised"),
        "{output:?}"
    );
    call(&mut server, "it goes on");
    end(&machine, &["--all"]);
    assert!(server.stderr().contains("not parked"));
    machine.expect_nothing_left();
}

#[test]
fn what_something_other_than_its_stdin_could_wake_is_not_parked_unless_it_is_named() {
    if !offered() {
        return;
    }
    let rule = "[[rule]]\nwhen.server = 'named'\nserver.park_reachable = true\n";
    let machine = Machine::supervised(&format!("{}{rule}", parks()));
    let listens = r#"use Socket; socket(my $s, PF_INET, SOCK_STREAM, 0) or die; bind($s, pack_sockaddr_in(0, INADDR_LOOPBACK))
        or die; listen($s, 5) or die; print "up\n"; rest"#;
    let mut held = Vec::new();
    for name in ["listens", "named"] {
        let mut server = perl(&machine, &["--session", name, "--server", name], listens);
        assert_eq!(server.line(), "up");
        held.push(server);
    }
    // What it is given as its stdin tells nobody when it is wanted.
    let mut run = machine.pinfold(&["run", "--session", "unwatched", "--", "sleep", "1000"]);
    held.push(Launched::spawn({
        run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        run
    }));
    expect_parked(&machine, "named");
    for name in ["listens", "unwatched"] {
        eventually("it is trimmed instead", || {
            let told = events(&machine, name);
            if told.contains(&"trimmed".to_owned()) { Ok(()) } else { Err(format!("{told:?}; {}", machine.log())) }
        });
        assert_eq!(shown(&machine, name)["state"], "running");
    }
    let output = machine.ask(&["park", "unwatched"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("its stdin is not watched"), "{output:?}");
    // Whoever orders it has named it.
    park(&machine, "listens");
    end(&machine, &["--all", "--now"]);
    machine.expect_nothing_left();
}

#[test]
fn a_configuration_that_is_read_anew_wakes_who_is_parked() {
    if !offered() {
        return;
    }
    let machine = Machine::supervised("");
    let mut server = echo(&machine, "s");
    let leaf = park(&machine, "s");
    std::fs::write(machine.path("pinfold.toml"), "[server]\nmemory_max = '300M'\n").unwrap();
    let output = machine.ask(&["reload"]);
    assert!(output.status.success() && !is_frozen(&leaf), "{output:?}");
    call(&mut server, "by other rules");
    end(&machine, &["--all"]);
    machine.expect_nothing_left();
    assert_eq!(events(&machine, "s")[1..3], ["parked requested", "thawed reload"]);
}

#[test]
fn servers_are_parked_and_thawed_by_name_and_what_is_busy_is_refused() {
    if !offered() {
        return;
    }
    let machine = Machine::supervised("");
    let mut one = echo(&machine, "a/b");
    let script = "print \"up\\n\"; while (1) { my $sum = 0; $sum++ for 1..9999 }";
    let mut busy = perl(&machine, &["--session", "a/b", "--server", "busy"], script);
    assert_eq!(busy.line(), "up");
    let (output, told) = eventually("one of two is parked", || {
        let output = machine.ask(&["park", "a/b", "--json"]);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        if told["parked"][0].is_object() { Ok((output, told)) } else { Err(told.to_string()) }
    });
    assert_eq!((output.status.code(), &told["parked"][0]["server"]), (Some(1), &"echo".into()), "{told}");
    assert_eq!(told["refused"][0]["reason"], "it is doing something", "{told}");
    assert!(Process::of(busy.pid()).lives());
    let again = machine.ask(&["park", "a/b/echo"]);
    let told = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.status.success() && told.starts_with("a/b/echo: was parked, holds "), "{again:?}");
    let thawed = machine.ask(&["thaw", "a/b/echo"]);
    let told = String::from_utf8_lossy(&thawed.stdout).into_owned();
    assert!(thawed.status.success() && told == "a/b/echo: goes on\n", "{thawed:?}");
    call(&mut one, "by name");
    for (wish, why) in [("a/c", "no session is called \"a/c\""), ("a/b/ecco", "has no server \"ecco\"")] {
        let output = machine.ask(&["park", wish]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && told.contains(why), "{output:?}");
    }
    end(&machine, &["--all", "--now"]);
    machine.expect_nothing_left();
}

#[test]
fn the_page_cache_of_an_idle_server_is_given_back_while_it_goes_on() {
    if !offered() {
        return;
    }
    const M: u64 = 1 << 20;
    let machine = Machine::with_config("[server]\ntrim_after = '1s'\n");
    let file = machine.path("cache");
    // Written and synced, so that the kernel may drop it; what it holds besides is far less.
    let script = format!(
        r#"system("dd", "if=/dev/zero", "of={}", "bs=1M", "count=64", "conv=fsync", "status=none") == 0 or die; {ECHO}"#,
        file.display()
    );
    let mut server = perl(&machine, &["--session", "s", "--server", "echo"], &script);
    assert_eq!(server.line(), "up", "{}", machine.log());
    eventually("its cache is given back", || {
        let shown = shown(&machine, "s");
        let reclaimed = shown["reclaimed_bytes"].as_u64().unwrap_or(0);
        let holds = shown["memory"]["current_bytes"].as_u64().unwrap_or(u64::MAX);
        let given = reclaimed > 48 * M && holds < 16 * M && shown["state"] == "running";
        if given { Ok(()) } else { Err(format!("{shown}; {}", machine.log())) }
    });
    call(&mut server, "it never stopped");
    end(&machine, &["--all"]);
    machine.expect_nothing_left();
}

/// A generator whose every run is told by its seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }
}

/// How many turns a run has; `PINFOLD_TEST_SEED` runs one again.
const TURNS: u64 = 1000;

#[test]
fn no_answer_is_lost_or_out_of_order_however_a_server_is_parked_and_thawed() {
    if !offered() || !numbers_count() || on_systemd() {
        return;
    }
    let seed = std::env::var("PINFOLD_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id()) << 20);
    println!("PINFOLD_TEST_SEED={seed}");
    let mut dice = Dice(seed);
    let machine = Machine::supervised("");
    let mut server = echo(&machine, "s");
    let mut parking: Option<std::process::Child> = None;
    let mut parked = 0;
    for turn in 0..TURNS {
        match dice.below(8) {
            // It is parked while the next turns happen to it.
            0..=2 => {
                if let Some(mut parking) = parking.take() {
                    parked += u64::from(parking.wait().unwrap().success());
                }
                let mut command = machine.pinfold(&["park", "s"]);
                parking = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
                std::thread::sleep(Duration::from_millis(dice.below(250)));
            }
            3 => assert!(machine.ask(&["thaw", "s"]).status.success()),
            4 => {
                // Its host closes it, and launches it again.
                drop(server.child.stdin.take());
                assert_eq!((server.line(), server.exit_status()), ("its stdin ended".to_owned(), 7), "turn {turn}");
                server = echo(&machine, "s");
            }
            5 => {
                // Several at once, answered in their order.
                let lines = dice.below(5) + 2;
                let stdin = server.child.stdin.as_mut().unwrap();
                (0..lines).for_each(|line| writeln!(stdin, "{turn}.{line}").unwrap());
                (0..lines).for_each(|line| assert_eq!(server.line(), format!("{turn}.{line}"), "turn {turn}"));
            }
            _ => call(&mut server, &format!("turn {turn}")),
        }
    }
    if let Some(mut parking) = parking.take() {
        let _ = parking.wait();
    }
    assert!(parked > TURNS / 50, "only {parked} times it was parked");
    end(&machine, &["--all"]);
    machine.expect_nothing_left();
}

/// A host that keeps a server's stdin as a socket, as Node's child_process does.
#[test]
fn a_socket_as_stdin_wakes_a_parked_server_as_a_pipe_does() {
    if !offered() {
        return;
    }
    let machine = Machine::supervised("");
    let (mut host, server_end) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut run: Command = machine.pinfold(&["run", "--session", "s", "--server", "echo", "--", "cat"]);
    run.stdin(Stdio::from(std::os::fd::OwnedFd::from(server_end))).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Launched::spawn(run);
    machine.session("s");
    let leaf = park(&machine, "s");
    host.write_all(b"over a socket\n").unwrap();
    assert_eq!(server.line(), "over a socket");
    assert!(!is_frozen(&leaf));
    park(&machine, "s");
    host.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(server.exit_status(), 0);
    machine.expect_nothing_left();
}
