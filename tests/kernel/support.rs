//! A machine for one test: a daemon on a socket of its own, in a cgroup subtree of its own, and hosts that launch there.
//!
//! `PINFOLD_TEST_BACKEND=systemd` puts it on the service manager of whoever runs the test instead. All machines share that
//! manager, so the tests run one at a time there.
//!
//! Whatever a test leaves is found when its [`Machine`] is dropped: the test fails if a process, a cgroup or a unit is left.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde_json::Value;

#[path = "offered.rs"]
mod offered;

pub use offered::*;

/// Beyond what anything here takes on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The binary under test: `PINFOLD_TEST_BINARY` in a guest, where what was built lies elsewhere.
pub fn binary() -> &'static str {
    static BINARY: LazyLock<String> = LazyLock::new(|| {
        std::env::var("PINFOLD_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_pinfold").to_owned())
    });
    &BINARY
}

/// Waits for a level, not for a change: until `condition` gives a value, or the deadline; then it tells the last state.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let (start, deadline) = (Instant::now(), DEADLINE * slowness());
    loop {
        match condition() {
            Ok(value) => return value,
            Err(last) if start.elapsed() > deadline => panic!("not within {deadline:?}: {what}; last seen: {last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The cgroup that tests make their own below: `PINFOLD_TEST_CGROUP`, or the top of the v2 hierarchy.
pub fn base() -> PathBuf {
    std::env::var_os("PINFOLD_TEST_CGROUP").map(PathBuf::from).or_else(v2_mount).expect("checked by offered()")
}

/// `systemctl` for the manager of whoever runs this.
pub fn systemctl(arguments: &[&str]) -> Output {
    let manager = if is_root() { "--system" } else { "--user" };
    Command::new("systemctl").arg(manager).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The directory of the cgroup that all units of the manager are below.
fn manager_cgroup() -> PathBuf {
    static CGROUP: LazyLock<PathBuf> = LazyLock::new(|| {
        let output = systemctl(&["show", "--value", "--property", "ControlGroup"]);
        let cgroup = String::from_utf8(output.stdout).unwrap();
        v2_mount().unwrap().join(cgroup.trim().trim_start_matches('/'))
    });
    CGROUP.clone()
}

/// The units of sessions that the manager has in memory, failed and dead ones included.
fn session_units() -> Vec<String> {
    let output = systemctl(&["list-units", "--all", "--plain", "--no-legend", "pinfold-*.slice", "pinfold-*.scope"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

/// One test's machine.
pub struct Machine {
    directory: tempfile::TempDir,
    root: PathBuf,
    daemon: Option<Child>,
    arguments: Vec<String>,
    /// What stands before the daemon's own command: a program that executes the rest of its command line.
    pub through: Vec<OsString>,
    /// The daemon's program, where it is not [`binary`].
    pub program: Option<PathBuf>,
}

impl Machine {
    /// A machine whose daemon has this configuration.
    #[track_caller]
    pub fn with_config(config: &str) -> Self {
        let mut machine = Self::configured(config);
        machine.start();
        machine
    }

    /// A machine whose daemon will have this configuration, and is yet to be started.
    #[track_caller]
    pub fn configured(config: &str) -> Self {
        let mut machine = Self::without_daemon();
        let path = machine.path("pinfold.toml");
        std::fs::write(&path, config).unwrap();
        machine.arguments = vec!["--config".into(), path.display().to_string()];
        machine
    }

    /// The same, whose daemon is started again whenever it dies, as it is told.
    #[track_caller]
    pub fn supervised(config: &str) -> Self {
        let mut machine = Self::configured(config);
        machine.arguments.push("--supervised".into());
        machine.start();
        machine
    }

    /// A machine whose daemon has no configuration.
    #[track_caller]
    pub fn new() -> Self {
        let mut machine = Self::without_daemon();
        machine.start();
        machine
    }

    /// A machine whose first launch has to start a daemon.
    #[track_caller]
    pub fn without_daemon() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let root = if on_systemd() {
            manager_cgroup()
        } else {
            let name = format!("pinfold-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
            let root = base().join(name);
            std::fs::create_dir(&root).unwrap();
            root
        };
        let directory = tempfile::Builder::new().prefix("pinfold-test-").tempdir().unwrap();
        Self { directory, root, daemon: None, arguments: Vec::new(), through: Vec::new(), program: None }
    }

    /// A file in the machine's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.path("pinfold.sock")
    }

    /// The cgroup subtree; the manager's where there is one.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory that all sessions are below.
    pub fn tree(&self) -> PathBuf {
        self.root.join(if on_systemd() { "pinfold.slice" } else { "pinfold" })
    }

    /// The cgroup of a daemon that a launcher started.
    pub fn daemon_cgroup(&self) -> PathBuf {
        if !on_systemd() {
            return self.root.join("pinfold-daemon");
        }
        // Where a manager puts what names no slice.
        let slice = self.root.join(if is_root() { "system.slice" } else { "app.slice" });
        let services = std::fs::read_dir(&slice).into_iter().flatten().flatten();
        let is_daemon = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("pinfold-daemon-");
        let found = services.into_iter().find(is_daemon).map(|entry| entry.path());
        found.unwrap_or_else(|| slice.join("pinfold-daemon-none.service"))
    }

    /// What leads a launcher's daemon here.
    pub fn place(&self) -> (&'static str, OsString) {
        if on_systemd() { ("PINFOLD_BACKEND", "systemd".into()) } else { ("PINFOLD_ROOT", self.root.clone().into()) }
    }

    /// Starts the daemon and waits until it listens. Its log goes to `serve.log`.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let daemon = self.serve().spawn().unwrap();
        let pid = daemon.id() as i32;
        self.daemon = Some(daemon);
        // One that a launch started meanwhile listens until it has made way.
        eventually("the daemon listens", || match self.listener() {
            Ok(other) if other != pid && self.through.is_empty() => Err(format!("{other} does; {}", self.log())),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error}; {}", self.log())),
        });
    }

    /// Who listens at its socket.
    pub fn listener(&self) -> std::io::Result<i32> {
        let stream = std::os::unix::net::UnixStream::connect(self.socket())?;
        Ok(nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)?.pid())
    }

    /// The daemon's command. Its log goes to `serve.log`.
    pub fn serve(&self) -> Command {
        let log = std::fs::File::options().create(true).append(true).open(self.path("serve.log")).unwrap();
        let program = self.program.as_deref().unwrap_or(Path::new(binary()));
        let mut serve = match self.through.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut through = Command::new(first);
                through.args(rest).arg(program);
                through
            }
        };
        let (variable, place) = self.place();
        serve.arg("serve").args(&self.arguments).arg("--socket").arg(self.socket()).env(variable, place);
        serve.env("PINFOLD_LOG", "debug,zbus=info").env_remove("JOURNAL_STREAM").stdin(Stdio::null()).stderr(log);
        serve
    }

    /// The records of its servers: the paths of the files.
    pub fn records(&self) -> Vec<PathBuf> {
        let listed = std::fs::read_dir(self.path("pinfold.sock.d")).into_iter().flatten().flatten();
        listed.map(|entry| entry.path()).collect()
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        let mut text = std::fs::read_to_string(self.path("serve.log")).unwrap_or_default();
        text.push_str(&std::fs::read_to_string(self.path("pinfold.sock.log")).unwrap_or_default());
        text
    }

    /// The daemon's pid.
    pub fn daemon_pid(&self) -> i32 {
        self.daemon.as_ref().expect("the daemon runs").id() as i32
    }

    /// Kills the daemon with SIGKILL, as the OOM killer would.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Stops the daemon with SIGTERM, and gives its exit status.
    #[track_caller]
    pub fn stop_daemon(&mut self) -> i32 {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        signal(daemon.id() as i32, nix::sys::signal::Signal::SIGTERM);
        let status = eventually("the daemon stops", || daemon.try_wait().unwrap().ok_or("it runs".to_owned()));
        status.code().unwrap_or(-1)
    }

    /// `pinfold ARGUMENTS…` for this machine, as a command to be completed.
    pub fn pinfold(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        let (variable, place) = self.place();
        command.args(arguments).env("PINFOLD_SOCKET", self.socket()).env(variable, place);
        for inherited in ["PINFOLD_SESSION", "PINFOLD_UNCONTAINED", "CLAUDE_CODE_SESSION_ID", "AGENT_SESSION_ID"] {
            command.env_remove(inherited);
        }
        command
    }

    /// `pinfold run OPTIONS… -- sh -c SCRIPT`, launched by this test process, its stdin held open.
    #[track_caller]
    pub fn run(&self, options: &[&str], script: &str) -> Launched {
        self.launch(options, &["sh", "-c", script])
    }

    /// `pinfold run OPTIONS… -- COMMAND…`, its stdin a pipe that is held open.
    #[track_caller]
    pub fn launch(&self, options: &[&str], command: &[&str]) -> Launched {
        let mut run = self.pinfold(&["run"]);
        run.args(options).arg("--").args(command);
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Launched::spawn(run)
    }

    /// Runs `pinfold ARGUMENTS…` to its end.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> Output {
        self.pinfold(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// The sessions, from `pinfold ls --json`.
    #[track_caller]
    pub fn sessions(&self) -> Vec<Value> {
        let output = self.ask(&["ls", "--json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The session with this id, once it has a running server.
    #[track_caller]
    pub fn session(&self, id: &str) -> Value {
        eventually(&format!("session {id:?} runs"), || {
            let sessions = self.sessions();
            let found =
                sessions.iter().find(|session| session["id"] == id && session["servers"][0]["state"] == "running");
            found.cloned().ok_or_else(|| format!("{sessions:?}; {}", self.log()))
        })
    }

    /// The directory of the only server's leaf of a session.
    #[track_caller]
    pub fn leaf(&self, id: &str) -> PathBuf {
        PathBuf::from(self.session(id)["servers"][0]["cgroup"].as_str().unwrap())
    }

    /// Has a server run and end, and waits until the history has it: what a daemon opens once, and late, is open then.
    #[track_caller]
    pub fn warm_up(&self) {
        assert!(self.ask(&["run", "--", "true"]).status.success(), "{}", self.log());
        eventually("its end is in the history", || {
            let told = self.ask(&["history"]);
            let told = String::from_utf8_lossy(&told.stdout).into_owned();
            if told.contains("leader_exited") { Ok(()) } else { Err(told) }
        });
        self.expect_nothing_left();
    }

    /// Waits until no session is left, and nothing of any in any hierarchy, nor in the manager, and no record of one: that
    /// stays until the history has the end.
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        eventually("no session is left", || {
            let sessions = self.sessions();
            if sessions.is_empty() { Ok(()) } else { Err(format!("{sessions:?}; {}", self.log())) }
        });
        self.expect_no_cgroups();
        eventually("no record is left", || {
            let records = self.records();
            if records.is_empty() { Ok(()) } else { Err(format!("{records:?}; {}", self.log())) }
        });
    }

    /// Waits until no cgroup of a session is left, in any hierarchy, nor a unit.
    #[track_caller]
    pub fn expect_no_cgroups(&self) {
        eventually("no cgroup and no unit is left", || {
            let mut left = self.cgroups();
            if left.is_empty() && on_systemd() {
                left.extend(session_units().into_iter().map(PathBuf::from));
            }
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}; {}", self.log())) }
        });
    }

    /// All cgroups of sessions of this machine, companions included.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        below(&self.tree(), &mut found);
        if on_systemd() {
            return found;
        }
        // A companion's machine level is named after the tree's path; its sessions are told by their keys.
        let tag = tag(&self.root.join("pinfold"));
        for controller in ["memory", "pids"] {
            if let Some(mount) = v1_mount(controller) {
                let mut all = Vec::new();
                below(&mount, &mut all);
                found.extend(all.into_iter().filter(|path| path.display().to_string().contains(&tag)));
            }
        }
        found
    }
}

impl Machine {
    /// Whatever a failed test left to the manager.
    fn stop_units(&self) {
        let left = session_units();
        for unit in &left {
            systemctl(&["stop", unit]);
            systemctl(&["reset-failed", unit]);
        }
        if std::thread::panicking() {
            systemctl(&["stop", "pinfold-daemon-*.service"]);
            return;
        }
        assert!(left.is_empty(), "the test left units: {left:?}; {}", self.log());
    }
}

/// What the companions of a tree are called: `pinfold.` and the first 6 hex digits of the path's SHA-256.
fn tag(machine: &Path) -> String {
    let digest = sha2::Sha256::digest(machine.as_os_str().as_encoded_bytes());
    use sha2::Digest;
    format!("pinfold.{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2])
}

fn below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&entry.path(), found);
            found.push(entry.path());
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !std::thread::panicking() && self.daemon.is_some() {
            let _ = self.ask(&["end", "--all", "--now"]);
        }
        if let Some(mut daemon) = self.daemon.take() {
            signal(daemon.id() as i32, nix::sys::signal::Signal::SIGTERM);
            let _ = daemon.wait();
        }
        if on_systemd() {
            return self.stop_units();
        }
        // Whatever a failed test left: killed through the test's own cgroup, removed from the bottom up.
        let left = self.cgroups();
        let _ = std::fs::write(self.root.join("cgroup.kill"), "1");
        let start = Instant::now();
        let mut directories = left.clone();
        below(&self.root, &mut directories);
        directories.push(self.root.clone());
        while directories.iter().any(|path| path.exists()) && start.elapsed() < Duration::from_secs(5) {
            for path in &directories {
                let _ = std::fs::remove_dir(path);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "the test left cgroups: {left:?}");
            assert!(!self.root.exists(), "the test left processes in {:?}", self.root);
        }
    }
}

/// A server that a test launched. Dropping it closes its stdin and reaps it; what ends it is up to the test.
pub struct Launched {
    pub child: Child,
}

impl Launched {
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        // A process group of its own, so that nothing a test signals reaches another test.
        Self { child: command.process_group(0).spawn().unwrap() }
    }

    /// The launcher's pid, which is the server's.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits for it to exit, and gives its exit status as a shell tells it (128 + signal).
    #[track_caller]
    pub fn exit_status(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let status = eventually("the server exits", || self.child.try_wait().unwrap().ok_or("it lives".to_owned()));
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// Everything it wrote to stderr until that was closed. The server must be gone, or about to go.
    #[track_caller]
    pub fn stderr(&mut self) -> String {
        let mut stderr = self.child.stderr.take().unwrap();
        let mut text = Vec::new();
        while let Some(byte) = next_byte(&mut stderr) {
            text.push(byte);
        }
        String::from_utf8(text).unwrap()
    }

    /// What of its attempts got out, of which it tells each in a line, `NAME out` or `NAME held`, and then that it is done.
    #[track_caller]
    pub fn got_out(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        loop {
            let line = self.line();
            match line.split_once(' ') {
                _ if line == "done" => break out,
                Some((name, "out")) => out.push(name.to_owned()),
                Some((_, "held")) => {}
                _ => panic!("{line:?}"),
            }
        }
    }

    /// The next line of its stdout.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let stdout = self.child.stdout.as_mut().unwrap();
        let mut line = Vec::new();
        while let Some(byte) = next_byte(stdout)
            && byte != b'\n'
        {
            line.push(byte);
        }
        String::from_utf8(line).unwrap()
    }
}

/// The next byte of a pipe, none at its end. A test that waits for one in vain fails, and does not hang.
#[track_caller]
fn next_byte(pipe: &mut (impl Read + AsFd)) -> Option<u8> {
    let milliseconds = (DEADLINE * slowness()).as_millis() as i32;
    let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let ready = nix::poll::poll(&mut polled, PollTimeout::try_from(milliseconds).unwrap()).unwrap();
    assert!(ready > 0, "the pipe was silent for {milliseconds} ms");
    let mut byte = [0];
    (pipe.read(&mut byte).unwrap() == 1).then_some(byte[0])
}

impl Drop for Launched {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if std::thread::panicking() {
            let _ = self.child.kill();
        }
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to one process.
pub fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

/// The pids in a cgroup itself.
pub fn processes(cgroup: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Whether a process lives (a zombie does not).
pub fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Attaches a BPF program to a cgroup that allows every device, as a container runtime attaches one that does not.
#[track_caller]
pub fn attach_device_program(cgroup: &Path) {
    let attached = Command::new("python3").args(["-c", ATTACH]).arg(cgroup).output().unwrap();
    assert!(attached.status.success(), "{attached:?}");
}

/// bpf(2): BPF_PROG_LOAD of `r0 = 1; exit` as BPF_PROG_TYPE_CGROUP_DEVICE, then BPF_PROG_ATTACH at BPF_CGROUP_DEVICE.
const ATTACH: &str = r"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, 128)
    done = libc.syscall(321, command, buffer, len(buffer))
    if done < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    return done
code = ctypes.create_string_buffer(struct.pack('<BBhi', 0xb7, 0, 0, 1) + struct.pack('<BBhi', 0x95, 0, 0, 0))
license = ctypes.create_string_buffer(b'GPL')
program = bpf(5, struct.pack('IIQQ', 15, 2, ctypes.addressof(code), ctypes.addressof(license)))
cgroup = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
bpf(8, struct.pack('IIII', cgroup, program, 6, 0))
";
