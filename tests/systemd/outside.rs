//! A user's daemon, and launchers of that user that stand outside the user manager's subtree, as in an SSH session or a
//! system unit: the kernel denies the daemon to write them into a leaf, so the manager has to place them.
//!
//! These are tests of the system ring: only root can stand somebody there.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::*;

/// The lingering user of the guest.
const AGENT: u32 = 1000;

/// A command as that user, with no more of an environment than a host gives its servers.
fn as_agent(mut command: Command) -> Command {
    command.uid(AGENT).gid(AGENT).env_clear().env("HOME", "/home/agent").env("PATH", "/usr/bin:/bin").current_dir("/");
    command
}

/// A daemon of that user, and where it listens.
struct Agent {
    directory: tempfile::TempDir,
    daemon: Launched,
}

impl Agent {
    #[track_caller]
    fn with_config(config: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("pinfold-test-").tempdir().unwrap();
        chown(directory.path(), Some(AGENT), Some(AGENT)).unwrap();
        let path = directory.path().join("pinfold.toml");
        std::fs::write(&path, config).unwrap();
        let socket = directory.path().join("pinfold.sock");
        let log = std::fs::File::create(directory.path().join("serve.log")).unwrap();
        let mut serve = Command::new(binary());
        serve.args(["serve", "--backend", "systemd", "--socket"]).arg(&socket).arg("--config").arg(&path);
        serve.stdin(Stdio::null()).stderr(log);
        let daemon = Launched::spawn(as_agent(serve));
        eventually("the daemon listens", || {
            std::os::unix::net::UnixStream::connect(&socket).map_err(|error| error.to_string())
        });
        Self { directory, daemon }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("pinfold.sock")
    }

    /// Ends all and stops the daemon; nothing of it is left in the user's manager.
    #[track_caller]
    fn stop(mut self) {
        let mut end = Command::new(binary());
        end.args(["end", "--all", "--socket"]).arg(self.socket());
        assert!(as_agent(end).stdout(Stdio::null()).status().unwrap().success());
        signal(self.daemon.pid(), nix::sys::signal::Signal::SIGTERM);
        assert_eq!(self.daemon.exit_status(), 0);
        let left = Path::new("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/pinfold.slice");
        assert!(!left.exists(), "the user's slice is left");
    }

    /// `pinfold run` of that user out of a system unit with this property.
    fn run_from_unit(&self, property: &str) -> Launched {
        let mut run = Command::new("systemd-run");
        run.args([
            "--quiet",
            "--wait",
            "--pipe",
            "--collect",
            "--service-type=exec",
            "--uid=1000",
            "--unit=host-of-agent",
        ]);
        run.arg(format!("--property={property}"));
        run.arg("--").arg(binary()).args(["run", "--socket"]).arg(self.socket()).args([
            "--",
            "sh",
            "-c",
            "echo up; exec cat",
        ]);
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Launched::spawn(run)
    }
}

#[test]
fn launchers_outside_the_user_managers_subtree_are_placed_by_the_manager() {
    if !offered() || !is_system() {
        return;
    }
    let agent = Agent::with_config("");
    let run = |name: &str| {
        let mut run = Command::new(binary());
        run.args(["run", "--socket"]).arg(agent.socket()).args(["--session", "s", "--server", name, "--"]);
        run.args(["sh", "-c", "cat /proc/self/cgroup; exec cat"]);
        let mut run = as_agent(run);
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = Launched::spawn(run);
        let line = server.line();
        assert!(!line.is_empty(), "{}", server.stderr());
        (server, line)
    };
    let (_one, first) = run("one");
    let (_two, second) = run("two");
    let slice = "0::/user.slice/user-1000.slice/user@1000.service/pinfold.slice/pinfold-s_";
    assert!(first.starts_with(slice) && first.contains(".scope/one."), "{first}");
    assert!(second.starts_with(slice) && second.contains(".scope/two."), "{second}");
    // Their host stands in a unit of the system's manager, to which the user's cannot bind.
    let scope = first.split('/').find(|part| part.ends_with(".scope")).unwrap();
    assert!(second.contains(scope), "{first} {second}");
    let mut show = Command::new("systemctl");
    show.args(["--user", "show", scope, "--property=BindsTo,ActiveState"]);
    let mut show = as_agent(show);
    let shown = show.env("XDG_RUNTIME_DIR", format!("/run/user/{AGENT}")).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("ActiveState=active") && shown.contains("BindsTo=\n"), "{shown}");
    agent.stop();
}

#[test]
fn what_a_user_manager_cannot_enforce_is_refused_unless_the_unit_may_be_left() {
    if !offered() || !is_system() {
        return;
    }
    let agent = Agent::with_config("");
    let mut server = agent.run_from_unit("IPAddressDeny=any");
    let told = server.stderr();
    assert!(told.contains("IPAddressDeny= of host-of-agent.service"), "{told}");
    assert!(told.contains("allow_leave"), "{told}");
    assert_eq!(server.exit_status(), 125);
    agent.stop();
    let agent = Agent::with_config("allow_leave = ['host-of-*']\n");
    let mut server = agent.run_from_unit("IPAddressDeny=any");
    let line = server.line();
    assert_eq!(line, "up", "{}", if line.is_empty() { server.stderr() } else { String::new() });
    agent.stop();
}
