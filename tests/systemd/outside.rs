//! A user's daemon, and launchers of that user that stand outside the user manager's subtree, as in an SSH session or a
//! system unit: the kernel denies the daemon to write them into a leaf, so the manager has to place them.
//!
//! These are tests of the system ring: only root can stand somebody there.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::support::*;

/// The lingering user of the guest.
const AGENT: u32 = 1000;

/// A command as that user, with no more of an environment than a host gives its servers.
fn as_agent(mut command: Command) -> Command {
    command.uid(AGENT).gid(AGENT).env_clear().env("HOME", "/home/agent").env("PATH", "/usr/bin:/bin").current_dir("/");
    command
}

#[test]
fn launchers_outside_the_user_managers_subtree_are_placed_by_the_manager() {
    if !offered() || !is_system() {
        return;
    }
    let directory = tempfile::Builder::new().prefix("pinfold-test-").tempdir().unwrap();
    chown(directory.path(), Some(AGENT), Some(AGENT)).unwrap();
    let socket = directory.path().join("pinfold.sock");
    let mut serve = Command::new(binary());
    serve.args(["serve", "--backend", "systemd", "--socket"]).arg(&socket).stdin(Stdio::null());
    let mut daemon = Launched::spawn(as_agent(serve));
    eventually("the daemon listens", || {
        std::os::unix::net::UnixStream::connect(&socket).map_err(|error| error.to_string())
    });
    let run = |name: &str| {
        let mut run = Command::new(binary());
        run.args(["run", "--socket"]).arg(&socket).args(["--session", "s", "--server", name, "--"]);
        run.args(["sh", "-c", "cat /proc/self/cgroup; exec cat"]);
        let mut run = as_agent(run);
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = Launched::spawn(run);
        let line = server.line();
        assert!(!line.is_empty(), "{}", server.stderr());
        (server, line)
    };
    let (one, first) = run("one");
    let (two, second) = run("two");
    let slice = "0::/user.slice/user-1000.slice/user@1000.service/pinfold.slice/pinfold-s_";
    assert!(first.starts_with(slice) && first.contains(".scope/one."), "{first}");
    assert!(second.starts_with(slice) && second.contains(".scope/two."), "{second}");
    let mut end = Command::new(binary());
    end.args(["end", "--all", "--socket"]).arg(&socket);
    assert!(as_agent(end).status().unwrap().success());
    assert!(!lives(one.pid()) && !lives(two.pid()));
    signal(daemon.pid(), nix::sys::signal::Signal::SIGTERM);
    assert_eq!(daemon.exit_status(), 0);
    let left = std::path::Path::new("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/pinfold.slice");
    assert!(!left.exists(), "the user's slice is left");
}
