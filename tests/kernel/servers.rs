//! Servers that misbehave, written in perl: every base system has it, and it forks faster than a shell.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Launched, Machine, eventually, on_systemd, pass_over, slowness, v1_mount, v2_mount};

/// What a script may use: `at("")` is its cgroup v2 directory and `at("memory")` that of a v1 controller; `put` writes a
/// file at once; `child { … }` forks and gives the pid; `grow` takes so many MiB; `rest` lives on.
const PRELUDE: &str = r#"
    use strict; use POSIX (); $| = 1;
    my %mount = ("", $ENV{TEST_V2}, "memory", $ENV{TEST_MEMORY}, "pids", $ENV{TEST_PIDS});
    sub at {
        open(my $file, "<", "/proc/self/cgroup") or die;
        while (my $line = <$file>) {
            chomp($line);
            my (undef, $name, $path) = split(/:/, $line, 3);
            return $mount{$name} . $path if $name eq $_[0];
        }
    }
    sub put {
        open(my $file, ">", $_[0]) or die "$_[0]: $!";
        defined(syswrite($file, $_[1])) or die "$_[0]: $!";
        close($file);
    }
    my @held;
    sub grow { push(@held, "x" x ($_[0] << 20)) }
    sub rest { sleep(1000) while 1 }
    sub child(&) {
        my $pid = fork() // die "fork: $!";
        return $pid if $pid;
        $_[0]->(); POSIX::_exit(0);
    }
"#;

/// `pinfold run OPTIONS… -- perl -e SCRIPT`, its stdin held open.
#[track_caller]
pub fn perl(machine: &Machine, options: &[&str], script: &str) -> Launched {
    let text = |path: Option<PathBuf>| path.unwrap_or_default().display().to_string();
    let mut command = machine.pinfold(&["run"]);
    command.args(options).args(["--", "perl", "-e", &format!("{PRELUDE}\n{script}")]);
    command.env("TEST_V2", text(v2_mount()));
    command.env("TEST_MEMORY", text(v1_mount("memory"))).env("TEST_PIDS", text(v1_mount("pids")));
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    Launched::spawn(command)
}

/// Has a server go on that waits for a line.
#[track_caller]
pub fn tell(server: &mut Launched) {
    std::io::Write::write_all(server.child.stdin.as_mut().unwrap(), b"go\n").unwrap();
}

/// Whether this machine is quick enough for a test about numbers. In an emulated one they mean nothing, and take minutes.
#[track_caller]
pub fn numbers_count() -> bool {
    if slowness() > 1 {
        pass_over("this machine is emulated, and it is about numbers");
    }
    slowness() == 1
}

/// What `pinfold end ARGUMENTS…` says it did.
#[track_caller]
pub fn end(machine: &Machine, arguments: &[&str]) -> Value {
    let output = machine.ask(&[&["end", "--json"], arguments].concat());
    assert!(output.status.success(), "{output:?}; {}", machine.log());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The one server that ended.
#[track_caller]
pub fn only_ended(reply: &Value) -> &Value {
    assert_eq!(reply["pending"].as_array().map(Vec::len), Some(0), "{reply}");
    let ended = reply["ended"].as_array().unwrap();
    assert_eq!(ended.len(), 1, "{reply}");
    &ended[0]
}

/// A process as nobody else will be it: its number and its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    start_time: u64,
}

impl Process {
    /// The process with this number now, which must be there.
    #[track_caller]
    pub fn of(pid: i32) -> Self {
        let (_, start_time) = stat(pid).unwrap_or_else(|| panic!("there is no process {pid}"));
        Self { pid, start_time }
    }

    /// As a word of stdout tells it.
    #[track_caller]
    pub fn told(word: &str) -> Self {
        Self::of(word.parse().unwrap_or_else(|_| panic!("{word:?} is not a pid")))
    }

    /// Its state in `/proc/PID/stat`; `None` once it was reaped.
    pub fn state(self) -> Option<char> {
        stat(self.pid).filter(|(_, start_time)| *start_time == self.start_time).map(|(state, _)| state)
    }

    /// Whether it lives: a zombie does not.
    pub fn lives(self) -> bool {
        self.state().is_some_and(|state| !matches!(state, 'Z' | 'X'))
    }
}

fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// All processes in a cgroup and below, as the kernel tells them.
pub fn inhabitants(cgroup: &Path) -> Vec<Process> {
    let text = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.parse().ok());
    let mut found: Vec<Process> = pids
        .filter_map(|pid| Some(Process { pid, start_time: stat(pid)?.1 }))
        .filter(|process| process.lives())
        .collect();
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(inhabitants(&entry.path()));
        }
    }
    found
}

/// Waits until the leaf of a session's only server holds `at_least` processes, and tells the leaf and them.
#[track_caller]
pub fn crowd(machine: &Machine, session: &str, at_least: usize) -> (PathBuf, Vec<Process>) {
    let leaf = machine.leaf(session);
    let crowd = eventually(&format!("{at_least} processes in {leaf:?}"), || {
        let found = inhabitants(&leaf);
        if found.len() >= at_least { Ok(found) } else { Err(format!("{}", found.len())) }
    });
    (leaf, crowd)
}

/// Fails if one of them lives.
#[track_caller]
pub fn expect_dead(processes: &[Process]) {
    let left: Vec<_> = processes.iter().filter(|process| process.lives()).collect();
    assert!(left.is_empty(), "{left:?} live");
}

/// The directory that carries a level's limits of one controller, seen from a process in the leaf: the v1 companion on
/// a hybrid machine, else v2. `up` is 0 for the server, 1 for the session, 2 for the machine.
#[track_caller]
pub fn level(process: i32, controller: &str, up: usize) -> PathBuf {
    // Of a unit, the scope stands between the server and its session.
    let up = up + usize::from(on_systemd() && up > 0);
    let text = std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    let (mount, name) = v1_mount(controller).map_or_else(|| (v2_mount().unwrap(), ""), |mount| (mount, controller));
    let found = text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (found, path) = (parts.next()?, parts.next()?);
        (found == name).then(|| mount.join(path.trim_start_matches('/')))
    });
    found.expect("every process is in each hierarchy").ancestors().nth(up).unwrap().to_owned()
}
