//! What runs without pinfold, as `pinfold scan` tells it: real trees, that look like servers by the name of their script.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::outside::{leaf_directories, move_out};
use crate::servers::Process;
use crate::support::{Launched, Machine, eventually, is_root, offered, root_offered, signal, subtree_offered};

/// How much memory the child of a [`Server`] holds, in bytes.
const HELD: u64 = 32 << 20;

/// A script that has a child and waits for it, as `npm exec` does, and does not leave when its stdin ends, as it should.
/// Dropping it ends what was seen of it.
struct Server {
    script: PathBuf,
    seen: Vec<Process>,
}

impl Server {
    #[track_caller]
    fn new(machine: &Machine, name: &str) -> Self {
        Self::that(machine, name, "1")
    }

    /// One whose child does something first, in perl.
    #[track_caller]
    fn that(machine: &Machine, name: &str, first: &str) -> Self {
        let script = machine.path(name);
        let ready = "open(my $ready, \">\", \"$ARGV[0].ready\")";
        let child = format!("perl -e 'my $held = \"x\" x {HELD}; {first}; {ready}; sleep(1000)' \"$0\" & wait");
        std::fs::write(&script, child).unwrap();
        Self { script, seen: Vec::new() }
    }

    fn path(&self) -> &str {
        self.script.to_str().unwrap()
    }

    /// A shell that starts it, passes its stdin on and leaves: what is left of it has the end for writing of that stdin.
    #[track_caller]
    fn started_by_a_parent_that_leaves(&self) -> Launched {
        self.left_by(r#"exec 3<&0; sh "$0" --token hunter2 <&3 3<&- & exit 0"#)
    }

    /// A shell that runs this script, in which the server's is `$0`.
    #[track_caller]
    fn left_by(&self, script: &str) -> Launched {
        let mut parent = Command::new("sh");
        parent.args(["-c", script, self.path()]);
        parent.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut parent = Launched::spawn(parent);
        assert_eq!(parent.exit_status(), 0);
        parent
    }

    /// The same by a process that is called like a host, holds its stdin and lives on.
    #[track_caller]
    fn started_by_a_host(&self, machine: &Machine, name: &str) -> Launched {
        let host = machine.path(name);
        std::fs::write(&host, r#"open(my $stdin, "|-", "sh", $ARGV[0]) or die; sleep(1000)"#).unwrap();
        let mut command = Command::new("perl");
        command.arg(&host).arg(&self.script).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Launched::spawn(command)
    }

    /// How a scan tells of it, once its child holds its memory, and `when` holds.
    #[track_caller]
    fn told(&mut self, machine: &Machine, what: &str, when: impl Fn(&Value) -> bool) -> Value {
        let ready = PathBuf::from(format!("{}.ready", self.path()));
        eventually("its child holds its memory", || if ready.exists() { Ok(()) } else { Err("not yet".to_owned()) });
        let told = eventually(what, || {
            let survey = scan(machine);
            let tree = tree(&survey, self.path()).cloned();
            tree.filter(|tree| tree["processes"] == 2).filter(&when).ok_or_else(|| survey["trees"].to_string())
        });
        let pids = told["pids"].as_array().unwrap().iter();
        self.seen = pids.map(|pid| Process::of(pid.as_i64().unwrap() as i32)).collect();
        assert_eq!(self.seen[0].pid, told["pid"].as_i64().unwrap() as i32, "the topmost is the first");
        told
    }

    #[track_caller]
    fn expect_alive(&self) {
        assert!(!self.seen.is_empty() && self.seen.iter().all(|process| process.lives()), "{:?}", self.seen);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for process in self.seen.iter().filter(|process| process.lives()) {
            signal(process.pid, Signal::SIGKILL);
        }
    }
}

/// What `pinfold scan --json` tells.
#[track_caller]
fn scan(machine: &Machine) -> Value {
    let output = machine.ask(&["scan", "--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The tree of the server with this script.
fn tree<'a>(survey: &'a Value, script: &str) -> Option<&'a Value> {
    let names = |tree: &&Value| tree["argv"].as_array().unwrap().iter().any(|word| word == script);
    survey["trees"].as_array().unwrap().iter().find(names)
}

fn reasons(tree: &Value) -> String {
    let reasons = tree["reasons"].as_array().unwrap().iter();
    reasons.map(|reason| reason.as_str().unwrap()).collect::<Vec<_>>().join("; ")
}

#[test]
fn a_tree_whose_parent_left_is_told_with_its_memory_and_as_abandoned_once_nobody_holds_its_stdin() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let mut server = Server::new(&machine, "mcp-server-orphan");
    let mut parent = server.started_by_a_parent_that_leaves();
    let told = server.told(&machine, "it is told as held", |tree| tree["verdict"] != "abandoned");
    assert_eq!((&told["server"], &told["owner"]), (&"mcp-server-orphan".into(), &Value::Null));
    let own = std::process::id();
    assert!(reasons(&told).contains(&format!("its stdin is held by process {own} (")), "{}", reasons(&told));
    let argv = told["argv"].as_array().unwrap();
    assert_eq!(argv.last().unwrap(), "***", "{argv:?}");

    drop(parent.child.stdin.take());
    let told = server.told(&machine, "it is told as abandoned", |tree| tree["verdict"] == "abandoned");
    assert!(reasons(&told).starts_with("what started it is gone: its parent is "), "{}", reasons(&told));
    assert!(reasons(&told).contains("nobody is left at the other end of its stdin"), "{}", reasons(&told));
    let pss = told["pss_bytes"].as_u64().unwrap();
    let rss = told["rss_bytes"].as_u64().unwrap();
    assert!(rss >= HELD && pss >= HELD && pss <= rss, "{told}");
    // What is shared is shared with others that come and go, so the sum is compared with its own parts.
    let survey = scan(&machine);
    let abandoned = survey["trees"].as_array().unwrap().iter().filter(|tree| tree["verdict"] == "abandoned");
    let sizes: Vec<u64> = abandoned.filter_map(|tree| tree["pss_bytes"].as_u64()).collect();
    assert!(sizes.iter().any(|size| *size >= HELD), "{survey}");
    assert_eq!(survey["abandoned"]["pss_bytes"], sizes.iter().sum::<u64>());

    let page = String::from_utf8(machine.ask(&["scan", "--all"]).stdout).unwrap();
    let row = page.lines().find(|line| line.starts_with("mcp-server-orphan ")).unwrap_or_else(|| panic!("{page}"));
    assert!(row.contains(" abandoned ") && row.contains(&told["pid"].to_string()), "{row}");
    assert!(!page.contains("hunter2"), "{page}");
    assert!(page.lines().last().unwrap().contains("pinfold adopt "), "{page}");
    server.expect_alive();
    assert!(!machine.socket().exists(), "no daemon was started for it");
}

#[test]
fn a_tree_whose_host_holds_its_stdin_is_not_told_as_abandoned_until_the_host_is_gone() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let mut server = Server::new(&machine, "mcp-server-held");
    let mut host = server.started_by_a_host(&machine, "claude");
    let told = server.told(&machine, "it is told as in use", |tree| tree["verdict"] == "in_use");
    assert_eq!((&told["owner"]["host"], &told["owner"]["pid"]), (&"claude-code".into(), &host.pid().into()));
    let wanted = format!("its host claude-code, process {}, lives; it holds the other end of its stdin", host.pid());
    assert_eq!(reasons(&told), wanted);
    server.expect_alive();

    signal(host.pid(), Signal::SIGKILL);
    host.exit_status();
    let told = server.told(&machine, "it is told as abandoned", |tree| tree["verdict"] == "abandoned");
    assert_eq!(told["owner"], Value::Null);
    server.expect_alive();
}

#[test]
fn what_nobody_can_ask_for_anything_by_a_socket_pair_is_told_as_well() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let mut server = Server::new(&machine, "mcp-server-paired");
    // As Node starts a child: its stdin is one end of a socket pair.
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut command = Command::new("sh");
    command.arg(&server.script).stdin(std::os::fd::OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    let mut launched = Launched::spawn(command);
    let own = std::process::id();
    let told =
        server.told(&machine, "its other end is found", |tree| reasons(tree).contains("stdin is held by process"));
    assert!(reasons(&told).contains(&format!("its stdin is held by process {own} (")), "{}", reasons(&told));
    assert_ne!(told["verdict"], "abandoned");
    // The test, its parent, lives on.
    drop(ours);
    server.told(&machine, "its other end is closed", |tree| tree["verdict"] == "abandoned");
    server.expect_alive();
    drop(server);
    launched.exit_status();
}

#[test]
fn what_may_serve_without_a_stdin_is_not_told_as_abandoned() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    // A script that is left by a shell without job control has its stdin from /dev/null (POSIX, "Asynchronous Lists").
    let mut silent = Server::new(&machine, "mcp-server-silent");
    silent.left_by(r#"sh "$0" & exit 0"#);
    let told = silent.told(&machine, "the one that does nothing is told", |_| true);
    assert_eq!(told["verdict"], "abandoned", "{told}");

    let listens =
        r#"use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die"#;
    let mut listening = Server::that(&machine, "mcp-server-listening", listens);
    listening.left_by(r#"sh "$0" & exit 0"#);
    let waits = |tree: &Value| reasons(tree).contains("it waits for connections on TCP port ");
    let told = listening.told(&machine, "the one that waits for connections is told", waits);
    assert_eq!(told["verdict"], "unclear", "{told}");

    // As systemd starts the main process of a service.
    let mut service = Server::new(&machine, "mcp-server-service");
    service.left_by(r#"sh -c 'SYSTEMD_EXEC_PID=$$ exec sh "$0"' "$0" & exit 0"#);
    let told = service.told(&machine, "the service is told", |_| true);
    assert_eq!(told["verdict"], "in_use", "{told}");
    for server in [&silent, &listening, &service] {
        server.expect_alive();
    }
}

#[test]
fn what_is_in_a_leaf_is_not_told_whether_its_daemon_lives_or_not() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let server = Server::new(&machine, "mcp-server-contained");
    let mut outside = Server::new(&machine, "mcp-server-outside");
    let mut launched = machine.launch(&["--session", "s"], &["sh", server.path()]);
    let mut parent = outside.started_by_a_parent_that_leaves();
    let inside = eventually("both of its processes run", || {
        let found = machine.session("s")["servers"][0]["processes"].clone();
        if found == 2 { Ok(Process::of(launched.pid())) } else { Err(found.to_string()) }
    });
    outside.told(&machine, "the one outside is told", |_| true);
    let survey = scan(&machine);
    assert_eq!(tree(&survey, server.path()), None);
    assert!(survey["contained"]["servers"].as_u64() >= Some(1), "{survey}");
    assert!(survey["contained"]["processes"].as_u64() >= Some(2), "{survey}");

    machine.kill_daemon();
    let survey = scan(&machine);
    assert_eq!(tree(&survey, server.path()), None);
    assert!(tree(&survey, outside.path()).is_some(), "{survey}");
    let notes = survey["notes"].to_string();
    assert!(notes.contains("no pinfold daemon listens at ") && notes.contains("the next daemon adopts it"), "{notes}");
    assert!(inside.lives());
    outside.expect_alive();

    machine.start();
    assert!(machine.ask(&["end", "s"]).status.success(), "{}", machine.log());
    launched.exit_status();
    drop(parent.child.stdin.take());
    machine.expect_nothing_left();
}

#[test]
fn what_left_its_leaf_is_told_and_whose_leaf_that_was() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    let mut server = Server::new(&machine, "mcp-server-escaped");
    let mut launched = machine.launch(&["--session", "s"], &["sh", server.path()]);
    eventually("both of its processes run", || {
        let found = machine.session("s")["servers"][0]["processes"].clone();
        if found == 2 { Ok(()) } else { Err(found.to_string()) }
    });
    assert_eq!(tree(&scan(&machine), server.path()), None);
    move_out(&leaf_directories(&machine, "s"));
    let told = server.told(&machine, "it is told", |tree| reasons(tree).contains("it left the leaf of "));
    assert!(reasons(&told).contains("it left the leaf of mcp-server-escaped, "), "{}", reasons(&told));
    server.expect_alive();
    assert!(machine.ask(&["end", "s"]).status.success(), "{}", machine.log());
    launched.exit_status();
    machine.expect_nothing_left();
}

#[test]
fn a_user_is_told_of_what_others_run_and_what_could_not_be_seen_of_it() {
    if !offered() || !is_root() {
        return;
    }
    let machine = Machine::without_daemon();
    let mut server = Server::new(&machine, "mcp-server-foreign");
    let parent = server.started_by_a_parent_that_leaves();
    server.told(&machine, "root sees it whole", |_| true);
    let output = machine.nobody(&["scan", "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let survey: Value = serde_json::from_slice(&output.stdout).unwrap();
    let told = tree(&survey, server.path()).unwrap_or_else(|| panic!("{survey}"));
    assert_eq!((&told["pss_bytes"], &told["pss_missing"], &told["uid"]), (&Value::Null, &2.into(), &0.into()));
    assert_eq!((&told["verdict"], &told["user"]), (&"unclear".into(), &"root".into()));
    assert!(reasons(told).contains("its stdin cannot be looked at"), "{}", reasons(told));
    let notes = survey["notes"].to_string();
    assert!(notes.contains("could not be looked at: run it as root"), "{notes}");
    assert!(notes.contains("could not be read, and is missing in the sums: run it as root"), "{notes}");
    server.expect_alive();
    drop(parent);
}
