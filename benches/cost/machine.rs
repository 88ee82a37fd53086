//! Where all of it happens: cgroups of its own, a daemon of its own, and nothing left of them afterwards.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use pinfold::cgroup::{Layout, Membership};
use pinfold::client::{Client, beside};
use pinfold::naming::SessionKey;
use pinfold::session::SessionId;
use pinfold::wire::{Call, End, EndReply};

use crate::Fallible;
use crate::raw::{self, Level, Limits};

/// How its cgroups are called, with the number of the process after it.
const NAME: &str = "pinfold-bench-";

/// Beyond what a daemon needs to start, a server to come up, or all of them to end.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// What the daemon is configured with, and the raw sequence sets as well.
pub const SESSION: Limits = Limits { memory: 1 << 33, pids: 4096 };
pub const SERVER: Limits = Limits { memory: 1 << 31, pids: 2048 };
const CONFIG: &str = "machine = { memory_max = \"infinity\", pids_max = \"infinity\" }\n\
    session = { memory_max = \"8G\", pids_max = 4096 }\n\
    server = { memory_max = \"2G\", pids_max = 2048 }\n\
    launches = { burst = \"infinity\" }\n\
    daemon = { sessions_max = 6000, servers_max = 20000 }\n\
    metrics = { sessions_max = 6000 }\n";

/// Memory of a cgroup, in bytes, without the page cache.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub all: u64,
    pub kernel: u64,
    pub heap: u64,
    /// What its processes have in filesystems in memory, as `/run` is.
    pub files: u64,
}

#[derive(Debug)]
pub struct Machine {
    pub layout: Layout,
    /// The machine level of the raw sequence.
    pub raw: Level,
    /// Our own cgroups, in which callers stand, and where they came from.
    own: Vec<(PathBuf, PathBuf)>,
    /// The subtree of the daemon.
    root: PathBuf,
    /// What the daemon's memory is charged to.
    daemon_memory: Option<PathBuf>,
    directory: tempfile::TempDir,
    pub sleeper: PathBuf,
    /// A launcher that only enters.
    pub enter: PathBuf,
    pub pinfold: PathBuf,
    daemon: Option<Child>,
}

/// A server that runs, and its host's end of its stdin.
#[derive(Debug)]
pub struct Server {
    pub child: Child,
    _stdin: Option<ChildStdin>,
}

impl Machine {
    pub fn set_up(pinfold: PathBuf) -> Fallible<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err("it makes cgroups and moves processes: run it as root".into());
        }
        let _ = setrlimit(Resource::RLIMIT_NOFILE, 1 << 20, 1 << 20);
        // What is killed comes to us to be reaped, and what we wait for is not rounded up to 50 µs.
        nix::sys::prctl::set_child_subreaper(true)?;
        nix::sys::prctl::set_timerslack(1)?;
        let layout = Layout::detect()?;
        let membership = Membership::of("self")?;
        let name = format!("{NAME}{}", std::process::id());
        let root = layout.v2().point.join(&name);
        let companion = |mount: Option<&pinfold::cgroup::Mount>, cgroup: Option<&String>| {
            mount.zip(cgroup).and_then(|(mount, cgroup)| mount.directory(cgroup))
        };
        let (memory, pids) = match &layout {
            Layout::Pure { .. } => (None, None),
            Layout::Hybrid { memory, pids, .. } => (
                companion(memory.as_ref(), membership.memory.as_ref()),
                companion(pids.as_ref(), membership.pids.as_ref()),
            ),
        };
        for place in [Some(&layout.v2().point), memory.as_ref(), pids.as_ref()].into_iter().flatten() {
            sweep(place);
        }
        let own: Vec<_> = [&memory, &pids].into_iter().flatten().map(|from| (from.clone(), from.join(&name))).collect();
        let below = |from: &Option<PathBuf>| from.as_ref().map(|from| from.join(&name).join("raw"));
        let raw = Level { v2: root.join("raw"), memory: below(&memory), pids: below(&pids) };
        let daemon_memory = match &layout {
            Layout::Pure { .. } => Some(root.join("daemon")),
            Layout::Hybrid { .. } => memory.as_ref().map(|from| from.join(format!("{name}-daemon"))),
        };
        // A daemon's files are in memory, as /run is; a history that is of no user's daemon is with them.
        let memory_files = Path::new("/dev/shm");
        let place = if memory_files.is_dir() { memory_files.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::Builder::new().prefix(NAME).tempdir_in(place)?;
        let [sleeper, enter] = ["sleeper", "enter"].map(|name| directory.path().join(name));
        let machine = Self { layout, raw, own, root, daemon_memory, directory, sleeper, enter, pinfold, daemon: None };
        machine.make()?;
        Ok(machine)
    }

    fn make(&self) -> Fallible<()> {
        std::fs::create_dir(&self.root).map_err(|error| format!("{}: {error}", self.root.display()))?;
        if matches!(self.layout, Layout::Pure { .. }) {
            raw::write(&self.root.join("cgroup.subtree_control"), "+memory +pids")?;
        }
        for (_, own) in &self.own {
            std::fs::create_dir(own)?;
            raw::write(&own.join("cgroup.procs"), "0")?;
        }
        self.raw.make(Limits { memory: 1 << 40, pids: 1 << 20 }, true)?;
        if let Some(directory) = &self.daemon_memory {
            std::fs::create_dir(directory)?;
        }
        for (program, source) in [(&self.sleeper, "sleeper.c"), (&self.enter, "enter.c")] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/cost").join(source);
            let cc = Command::new("cc").args(["-O2", "-static", "-o"]).arg(program).arg(path).status()?;
            if !cc.success() {
                return Err(format!("cc did not compile benches/cost/{source}").into());
            }
        }
        Ok(())
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("pinfold.sock")
    }

    /// A file of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where its sessions are.
    pub fn tree(&self) -> PathBuf {
        self.root.join("pinfold")
    }

    /// The v2 directory of one of them.
    pub fn session_directory(&self, session: &str) -> Fallible<PathBuf> {
        let uid = nix::unistd::geteuid().as_raw();
        Ok(self.tree().join(SessionKey::new(uid, &SessionId::parse(session)?).as_str()))
    }

    /// Where callers stand in v1.
    pub fn own(&self) -> impl Iterator<Item = &PathBuf> {
        self.own.iter().map(|(_, own)| own)
    }

    /// Starts a daemon, in a memory cgroup of its own from its first page on.
    pub fn start_daemon(&mut self) -> Fallible<()> {
        let config = self.path("pinfold.toml");
        std::fs::write(&config, CONFIG)?;
        let log = std::fs::File::create(self.path("serve.log"))?;
        let enter = self.daemon_memory.as_ref().map_or_else(PathBuf::new, |directory| directory.join("cgroup.procs"));
        let mut command = Command::new("sh");
        command.args(["-c", "test -z \"$0\" || echo 0 > \"$0\"; exec \"$@\""]).arg(enter).arg(&self.pinfold);
        command.args(["serve", "--backend", "cgroupfs", "--root"]).arg(&self.root).arg("--socket").arg(self.socket());
        command.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.env_remove("JOURNAL_STREAM").env_remove("PINFOLD_LOG");
        self.daemon = Some(command.spawn()?);
        let start = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            let gone =
                self.daemon.as_mut().is_some_and(|daemon| daemon.try_wait().is_ok_and(|status| status.is_some()));
            if gone || start.elapsed() > WAIT_MAX {
                let log = std::fs::read_to_string(self.path("serve.log")).unwrap_or_default();
                return Err(format!("the daemon did not start: {log}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    pub fn stop_daemon(&mut self) -> Fallible<()> {
        if let Some(mut daemon) = self.daemon.take() {
            let pid = nix::unistd::Pid::from_raw(daemon.id() as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
            daemon.wait()?;
        }
        Ok(())
    }

    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().map_or(0, Child::id)
    }

    /// What the daemon's cgroup is charged with.
    pub fn daemon_memory(&self) -> Memory {
        let Some(directory) = &self.daemon_memory else { return Memory::default() };
        let number = |file: &str| std::fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok();
        let key = |file: &str, key: &str| {
            let text = std::fs::read_to_string(directory.join(file)).ok()?;
            text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
        };
        let all: Option<u64> = number("memory.usage_in_bytes").or_else(|| number("memory.current"));
        let kernel: Option<u64> = number("memory.kmem.usage_in_bytes").or_else(|| key("memory.stat", "kernel "));
        // The program's own pages are the page cache's: another run of it shares them. What it has in /run is not.
        let file: Option<u64> = key("memory.stat", "total_cache ").or_else(|| key("memory.stat", "file "));
        let in_memory: Option<u64> = key("memory.stat", "total_shmem ").or_else(|| key("memory.stat", "shmem "));
        let cache = file.unwrap_or(0).saturating_sub(in_memory.unwrap_or(0));
        let heap: Option<u64> = key("memory.stat", "total_rss ").or_else(|| key("memory.stat", "anon "));
        Memory {
            all: all.unwrap_or(0).saturating_sub(cache),
            kernel: kernel.unwrap_or(0),
            heap: heap.unwrap_or(0),
            files: in_memory.unwrap_or(0),
        }
    }

    /// Has the kernel take back what it would where memory is short: what it keeps of files that were read, above all.
    pub fn reclaim_daemon(&self) -> Fallible<()> {
        let Some(directory) = &self.daemon_memory else { return Ok(()) };
        match &self.layout {
            Layout::Hybrid { .. } => raw::write(&directory.join("memory.force_empty"), "0"),
            Layout::Pure { .. } => {
                // It says when it cannot have all that is asked for, which nobody expects.
                let _ = raw::write(&directory.join("memory.reclaim"), "1G");
                Ok(())
            }
        }
    }

    /// A name that no session had before.
    pub fn name(&self) -> String {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        format!("bench-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
    }

    /// `pinfold run` in this session.
    pub fn run(&self, session: &str) -> Command {
        let mut command = Command::new(&self.pinfold);
        command.arg("run").arg("--socket").arg(self.socket()).args(["--session", session, "--"]);
        command
    }

    pub fn client(&self) -> Fallible<Client> {
        Ok(Client::connect(&self.socket())?)
    }

    /// Ends a session, or all, and waits until it is gone.
    pub fn end(&self, session: Option<&str>) -> Fallible<EndReply> {
        end_by(&mut self.client()?, session)
    }
}

/// The order of an end.
pub fn order(session: Option<&str>) -> Fallible<Call> {
    let session = session.map(SessionId::parse).transpose()?;
    Ok(Call::End(End { all: session.is_none(), session, now: true, wait: true, ..End::default() }))
}

/// Gives it, on a connection that is there already.
pub fn end_by(client: &mut Client, session: Option<&str>) -> Fallible<EndReply> {
    Ok(client.call(&order(session)?, &[], WAIT_MAX)?)
}

impl Server {
    /// Starts one, with a pipe for its stdin as hosts have it, and waits until it says that it is up.
    pub fn start(command: &mut Command) -> Fallible<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::with_capacity(16, stdout).read_line(&mut line)?;
        }
        if line != "up\n" {
            let mut said = String::new();
            child.stderr.take().map_or(Ok(0), |mut stderr| stderr.read_to_string(&mut said))?;
            return Err(format!("{:?} did not come up ({}): {said}", command.get_program(), child.wait()?).into());
        }
        // What it would say later is of no interest.
        drop(child.stderr.take());
        let stdin = child.stdin.take();
        Ok(Self { child, _stdin: stdin })
    }

    /// Waits for these first, and then for what was theirs.
    pub fn reap(servers: impl IntoIterator<Item = Self>) -> Fallible<()> {
        for mut server in servers {
            server.child.wait()?;
        }
        reap();
        Ok(())
    }
}

/// Takes the exits of what was killed and is nobody's child any more.
pub fn reap() {
    while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
}

/// Runs a command to its end, and tells how long that took.
pub fn timed(command: &mut Command) -> Fallible<Duration> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    let status = command.status()?;
    let took = start.elapsed();
    if status.success() { Ok(took) } else { Err(format!("{:?}: {status}", command.get_program()).into()) }
}

/// One scrape, as Prometheus does it: how long it took, and how many bytes came.
pub fn scrape(socket: &Path) -> Fallible<(Duration, usize)> {
    let start = Instant::now();
    let mut stream = UnixStream::connect(beside(socket, "http"))?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let took = start.elapsed();
    let is_ok = answer.starts_with(b"HTTP/1.1 200");
    if is_ok { Ok((took, answer.len())) } else { Err(String::from_utf8_lossy(&answer[..answer.len().min(200)]).into()) }
}

/// What a process has in memory, in bytes.
pub fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

/// How many descriptors it has.
pub fn descriptors(pid: u32) -> Fallible<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

impl Drop for Machine {
    fn drop(&mut self) {
        // What is left is killed with everything that stands in it; the daemon finds nothing to end any more.
        let _ = raw::write(&self.root.join("cgroup.kill"), "1");
        reap();
        let _ = self.stop_daemon();
        for (from, own) in &self.own {
            let _ = raw::write(&from.join("cgroup.procs"), "0");
            remove_tree(own);
        }
        self.daemon_memory.iter().for_each(|directory| remove_tree(directory));
        remove_tree(&self.root);
    }
}

/// Removes a cgroup and all below it, as far as they are empty; what was just killed may take a moment.
fn remove_tree(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    for _ in 0..50 {
        reap();
        match std::fs::remove_dir(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}

/// Removes what a run left that was killed.
fn sweep(place: &Path) {
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(NAME).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = raw::write(&entry.path().join("cgroup.kill"), "1");
            remove_tree(&entry.path());
        }
    }
}
