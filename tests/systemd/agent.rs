//! The lingering user of the guest, with a daemon that stands outside this user's manager, and launchers that do so as well.
//!
//! What it is for are tests of the system ring: only root can stand somebody there, or do something to that manager.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::*;

/// Who that is.
pub const AGENT: u32 = 1000;

/// Where the user's manager has its units.
const MANAGER: &str = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service";

/// A command as that user, with no more of an environment than a host gives its servers.
pub fn as_agent(mut command: Command) -> Command {
    command.uid(AGENT).gid(AGENT).env_clear().env("HOME", "/home/agent").env("PATH", "/usr/bin:/bin").current_dir("/");
    command
}

/// A daemon of that user, and where it listens.
pub struct Agent {
    directory: tempfile::TempDir,
    daemon: Launched,
}

impl Agent {
    #[track_caller]
    pub fn new() -> Self {
        Self::with_config("")
    }

    #[track_caller]
    pub fn with_config(config: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("pinfold-test-").tempdir().unwrap();
        chown(directory.path(), Some(AGENT), Some(AGENT)).unwrap();
        let path = directory.path().join("pinfold.toml");
        std::fs::write(&path, config).unwrap();
        let socket = directory.path().join("pinfold.sock");
        let log = std::fs::File::create(directory.path().join("serve.log")).unwrap();
        let mut serve = Command::new(binary());
        serve.args(["serve", "--backend", "systemd", "--socket"]).arg(&socket).arg("--config").arg(&path);
        let mut serve = as_agent(serve);
        serve.env("PINFOLD_LOG", "debug,zbus=info").stdin(Stdio::null()).stderr(log);
        let agent = Self { directory, daemon: Launched::spawn(serve) };
        eventually("the daemon listens", || {
            std::os::unix::net::UnixStream::connect(&socket).map_err(|error| format!("{error}; {}", agent.log()))
        });
        agent
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("pinfold.sock")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("serve.log")).unwrap_or_default()
    }

    /// The process that is the user's manager.
    #[track_caller]
    pub fn manager(&self) -> i32 {
        property("user@1000.service", "MainPID").parse().unwrap()
    }

    /// `systemctl --user` of that user.
    pub fn systemctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("systemctl");
        command.arg("--user").args(arguments).stdin(Stdio::null());
        as_agent(command).env("XDG_RUNTIME_DIR", "/run/user/1000").output().unwrap()
    }

    /// The directories of the sessions, and the units of any that the manager has.
    pub fn remains(&self) -> Vec<String> {
        let below = std::fs::read_dir(Path::new(MANAGER).join("pinfold.slice")).into_iter().flatten().flatten();
        let directories = below.filter(|entry| entry.path().is_dir()).map(|entry| entry.path().display().to_string());
        let listed = self.systemctl(&["list-units", "--all", "--plain", "--no-legend", "pinfold-*"]);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        directories.chain(listed.lines().map(str::to_owned)).collect()
    }

    /// `pinfold run OPTIONS… -- sh -c SCRIPT` of that user, out of the unit that runs this test.
    #[track_caller]
    pub fn run(&self, options: &[&str], script: &str) -> Launched {
        let mut run = Command::new(binary());
        run.arg("run").args(options).arg("--socket").arg(self.socket()).args(["--", "sh", "-c", script]);
        let mut run = as_agent(run);
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Launched::spawn(run)
    }

    /// As [`Agent::run`], for a server that says `up` when it runs.
    #[track_caller]
    pub fn up(&self, options: &[&str], script: &str) -> Launched {
        let mut server = self.run(options, &format!("echo up; {script}"));
        let line = server.line();
        assert_eq!(line, "up", "{}; {}", if line.is_empty() { server.stderr() } else { String::new() }, self.log());
        server
    }

    /// `pinfold run` of that user out of a system unit with this property.
    pub fn run_from_unit(&self, property: &str) -> Launched {
        let mut run = Command::new("systemd-run");
        run.args(["--quiet", "--wait", "--pipe", "--collect", "--service-type=exec", "--uid=1000"]);
        run.arg("--unit=host-of-agent").arg(format!("--property={property}"));
        run.arg("--").arg(binary()).args(["run", "--socket"]).arg(self.socket());
        run.args(["--", "sh", "-c", "echo up; exec cat"]);
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Launched::spawn(run)
    }

    /// `pinfold ARGUMENTS…` of that user.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--socket").arg(self.socket()).stdin(Stdio::null());
        let output = as_agent(command).output().unwrap();
        assert!(output.status.success(), "{output:?}; {}", self.log());
        output
    }

    #[track_caller]
    pub fn sessions(&self) -> Vec<Value> {
        serde_json::from_slice(&self.ask(&["ls", "--json"]).stdout).unwrap()
    }

    /// Waits until the daemon has told this many ends for this cause.
    #[track_caller]
    pub fn expect_causes(&self, cause: &str, count: usize) {
        eventually(&format!("{count} ends for {cause}"), || {
            let log = self.log();
            if log.matches(&format!("cause=\"{cause}\"")).count() == count { Ok(()) } else { Err(log) }
        });
    }

    /// Waits until no session is left but these, to the daemon, the manager and the kernel.
    #[track_caller]
    pub fn expect_only(&self, ids: &[&str]) {
        eventually(&format!("{ids:?} are left, and nothing else"), || {
            let (sessions, remains) = (self.sessions(), self.remains());
            let known = |text: &String| ids.iter().any(|id| text.contains(&format!("pinfold-{id}_")));
            let listed = sessions.iter().all(|session| ids.iter().any(|id| session["id"] == **id));
            let all = listed && sessions.len() == ids.len() && remains.iter().all(known);
            if all { Ok(()) } else { Err(format!("{sessions:?} {remains:?}; {}", self.log())) }
        });
    }

    /// Ends all and stops the daemon; nothing of it is left in the user's manager.
    #[track_caller]
    pub fn stop(mut self) {
        self.ask(&["end", "--all"]);
        self.expect_only(&[]);
        signal(self.daemon.pid(), nix::sys::signal::Signal::SIGTERM);
        assert_eq!(self.daemon.exit_status(), 0);
        let left = Path::new(MANAGER).join("pinfold.slice");
        eventually("the user's slice is gone", || if left.exists() { Err("it is there".to_owned()) } else { Ok(()) });
    }
}

impl Drop for Agent {
    /// A daemon that a failed test left would hold up whoever waits for it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.daemon.child.kill();
        }
    }
}
