//! A daemon of one test on the service manager of whoever runs the test, and the manager's own view of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::kernel::slowness;
pub use crate::kernel::{
    Launched, attach_device_program, binary, eventually, lives, processes, root_offered, signal, systemctl,
};
use crate::sandboxed::Sandboxed;

/// Whether this machine is meant for the ring.
pub fn offered() -> bool {
    let offered = std::env::var("PINFOLD_TEST_HOST").is_ok_and(|hosts| hosts.split(',').any(|host| host == "systemd"));
    if !offered {
        eprintln!("skipped: PINFOLD_TEST_HOST does not offer systemd");
    }
    offered
}

/// Whether it is the system manager.
pub fn is_system() -> bool {
    nix::unistd::geteuid().is_root()
}

/// One property of a unit, as `systemctl show` tells it.
#[track_caller]
pub fn property(unit: &str, name: &str) -> String {
    let output = systemctl(&["show", unit, "--value", "--property", name]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The units of sessions that the manager has in memory, failed and dead ones included.
pub fn units() -> Vec<String> {
    let output = systemctl(&["list-units", "--all", "--plain", "--no-legend", "pinfold-*"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // One that is only named by another unit is none.
    let told = text.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>());
    told.filter(|told| told.get(1) != Some(&"not-found")).filter_map(|told| Some((*told.first()?).to_owned())).collect()
}

/// The directory of the manager's cgroup.
pub fn base() -> PathBuf {
    let cgroup = property("pinfold.slice", "ControlGroup");
    let above = Path::new(&cgroup).parent().map(Path::to_owned).unwrap_or_default();
    Path::new("/sys/fs/cgroup").join(above.strip_prefix("/").unwrap_or(&above))
}

/// Reads a file of a cgroup.
#[track_caller]
pub fn knob(cgroup: &Path, file: &str) -> String {
    std::fs::read_to_string(cgroup.join(file))
        .unwrap_or_else(|error| panic!("{cgroup:?}/{file}: {error}"))
        .trim()
        .to_owned()
}

/// One daemon.
pub struct Machine {
    directory: tempfile::TempDir,
    config: Option<PathBuf>,
    daemon: Option<Daemon>,
}

/// Its process.
enum Daemon {
    Child(std::process::Child),
    /// As it is installed.
    Sandboxed(Sandboxed),
}

impl Daemon {
    fn pid(&self) -> i32 {
        match self {
            Self::Child(child) => child.id() as i32,
            Self::Sandboxed(service) => service.pid(),
        }
    }

    /// Signals it, and waits until it is gone.
    fn end(self, signal: nix::sys::signal::Signal) {
        match self {
            Self::Child(mut child) => {
                crate::kernel::signal(child.id() as i32, signal);
                child.wait().unwrap();
            }
            Self::Sandboxed(service) => service.end(signal),
        }
    }
}

impl Machine {
    #[track_caller]
    pub fn new() -> Self {
        Self::with_config("")
    }

    #[track_caller]
    pub fn with_config(config: &str) -> Self {
        let mut machine = Self::without_daemon(config);
        machine.start();
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("pinfold.sock")
    }

    /// A machine whose first launch has to start a daemon.
    #[track_caller]
    pub fn without_daemon(config: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("pinfold-test-").tempdir().unwrap();
        let path = directory.path().join("pinfold.toml");
        std::fs::write(&path, config).unwrap();
        Self { directory, config: Some(path), daemon: None }
    }

    /// Starts the daemon and waits until it listens.
    #[track_caller]
    pub fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("serve.log")).unwrap();
        let mut serve = Command::new(binary());
        serve.args(["serve", "--backend", "systemd", "--socket"]).arg(self.socket());
        if let Some(config) = &self.config {
            serve.arg("--config").arg(config);
        }
        serve.env("PINFOLD_LOG", "debug,zbus=info").env_remove("JOURNAL_STREAM").stdin(Stdio::null()).stderr(log);
        self.daemon = Some(match Sandboxed::is_wanted() {
            true => Daemon::Sandboxed(Sandboxed::start(&serve, self.directory.path())),
            false => Daemon::Child(serve.spawn().unwrap()),
        });
        eventually("the daemon listens", || {
            std::os::unix::net::UnixStream::connect(self.socket()).map_err(|error| format!("{error}; {}", self.log()))
        });
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("serve.log")).unwrap_or_default()
    }

    pub fn daemon_pid(&self) -> i32 {
        self.daemon.as_ref().expect("the daemon runs").pid()
    }

    /// Kills the daemon with SIGKILL.
    pub fn kill_daemon(&mut self) {
        self.daemon.take().expect("the daemon runs").end(nix::sys::signal::Signal::SIGKILL);
    }

    /// `pinfold ARGUMENTS…` for this daemon.
    pub fn pinfold(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).env("PINFOLD_SOCKET", self.socket()).env("PINFOLD_CONFIG", self.path("pinfold.toml"));
        command.env_remove("PINFOLD_SESSION").env_remove("PINFOLD_UNCONTAINED");
        command
    }

    /// `pinfold run OPTIONS… -- sh -c SCRIPT`, its stdin a pipe that is held open.
    #[track_caller]
    pub fn run(&self, options: &[&str], script: &str) -> Launched {
        let mut run = self.pinfold(&["run"]);
        run.args(options).args(["--", "sh", "-c", script]);
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Launched::spawn(run)
    }

    /// As [`Machine::run`], for a server that says `up` when it runs.
    #[track_caller]
    pub fn up(&self, options: &[&str], script: &str) -> Launched {
        let mut server = self.run(options, &format!("echo up; {script}"));
        let line = server.line();
        assert_eq!(line, "up", "{}; {}", if line.is_empty() { server.stderr() } else { String::new() }, self.log());
        server
    }

    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> Output {
        self.pinfold(arguments).stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    pub fn sessions(&self) -> Vec<Value> {
        let output = self.ask(&["ls", "--json"]);
        assert!(output.status.success(), "{output:?}; {}", self.log());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The session with this id.
    #[track_caller]
    pub fn session(&self, id: &str) -> Session {
        let sessions = self.sessions();
        let view = sessions.iter().find(|session| session["id"] == id);
        Session(view.unwrap_or_else(|| panic!("no session {id}: {sessions:?}; {}", self.log())).clone())
    }

    /// Waits until the daemon knows of no session, and the manager of no unit and the kernel of no cgroup of one.
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        eventually("nothing is left", || {
            let mut left: Vec<String> = self.sessions().iter().map(|session| session.to_string()).collect();
            left.extend(units());
            let slice = base().join("pinfold.slice");
            let children = std::fs::read_dir(slice).into_iter().flatten().flatten();
            left.extend(children.filter(|entry| entry.path().is_dir()).map(|entry| entry.path().display().to_string()));
            // A record stays until the history has the end.
            let records = std::fs::read_dir(self.path("pinfold.sock.d")).into_iter().flatten().flatten();
            left.extend(records.map(|record| record.path().display().to_string()));
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}; {}", self.log())) }
        });
    }

    /// Waits until the daemon has told that a server ended for this cause.
    #[track_caller]
    pub fn expect_cause(&self, cause: &str) {
        let told = format!("cause=\"{cause}\"");
        eventually(&format!("an end with {told}"), || {
            let log = self.log();
            if log.contains(&told) { Ok(()) } else { Err(log) }
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            let _ = self.ask(&["end", "--all", "--now"]);
        }
        if let Some(daemon) = self.daemon.take() {
            daemon.end(nix::sys::signal::Signal::SIGTERM);
        }
        let left = units();
        for unit in &left {
            systemctl(&["stop", unit]);
            systemctl(&["reset-failed", unit]);
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "the test left units: {left:?}; {}", self.log());
        }
        // A machine this slow needs a moment between the tests for what the manager still has to do.
        std::thread::sleep(std::time::Duration::from_millis(5) * slowness());
    }
}

/// A session as `pinfold ls --json` tells it.
#[derive(Debug)]
pub struct Session(pub Value);

impl Session {
    pub fn key(&self) -> &str {
        self.0["key"].as_str().unwrap()
    }

    /// Its slice.
    pub fn slice(&self) -> String {
        format!("pinfold-{}.slice", self.key())
    }

    /// The directory of its slice.
    pub fn directory(&self) -> PathBuf {
        PathBuf::from(self.0["cgroup"].as_str().unwrap())
    }

    /// The directory of its server's leaf.
    pub fn leaf(&self, index: usize) -> PathBuf {
        PathBuf::from(self.0["servers"][index]["cgroup"].as_str().unwrap())
    }

    /// The scope of its server's leaf.
    pub fn scope(&self, index: usize) -> String {
        self.leaf(index).parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
    }
}
