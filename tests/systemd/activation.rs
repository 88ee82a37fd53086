//! The socket on which the manager listens for the installed unit.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use crate::installed::{Installed, ask, leaders, up, usual, usual_socket};
use crate::support::*;
use crate::which_daemon::Group;

/// How often the unit is restarted while others launch: a unit may be started five times in a minute.
const RESTARTS: usize = 3;

/// The units with the socket active, and for the system's manager the group that it is for.
struct Listening {
    installed: Installed,
    _group: Option<Group>,
}

impl Listening {
    #[track_caller]
    fn new() -> Self {
        Self::to(Installed::new)
    }

    #[track_caller]
    fn to(install: impl FnOnce() -> Installed) -> Self {
        let group = is_system().then(Group::new);
        let installed = install();
        let started = systemctl(&["start", "pinfold.socket"]);
        assert!(started.status.success(), "{started:?}");
        assert_eq!(property("pinfold.service", "ActiveState"), "inactive");
        Self { installed, _group: group }
    }
}

/// Which file the socket is.
#[track_caller]
fn file() -> (u64, u64) {
    let meta = std::fs::symlink_metadata(usual_socket()).unwrap();
    assert!(meta.file_type().is_socket());
    (meta.dev(), meta.ino())
}

#[test]
fn a_first_launch_with_the_socket_alone_starts_the_daemon_and_its_stop_leaves_the_socket_to_the_manager() {
    if !offered() {
        return;
    }
    let listening = Listening::new();
    let meta = std::fs::metadata(usual_socket()).unwrap();
    let (mode, group) = if is_system() { (0o660, 990) } else { (0o600, meta.gid()) };
    assert_eq!((meta.permissions().mode() & 0o777, meta.gid()), (mode, group));
    let made = file();

    let server = up("s");
    let first = listening.installed.expect_active(0);
    assert_eq!((file(), leaders()), (made, vec![i64::from(server.pid())]));
    // Whoever asks the kernel who listens is told of the daemon, not of the manager.
    let peer = UnixStream::connect(usual_socket()).unwrap();
    let peer = nix::sys::socket::getsockopt(&peer, nix::sys::socket::sockopt::PeerCredentials).unwrap();
    assert_eq!(peer.pid(), first);

    signal(first, nix::sys::signal::Signal::SIGKILL);
    let second = listening.installed.expect_active(first);
    assert_eq!((file(), leaders()), (made, vec![i64::from(server.pid())]));

    // systemctl warns that the socket may start it again.
    assert!(systemctl(&["stop", "pinfold.service"]).status.success());
    assert!(!lives(second) && lives(server.pid()));
    assert_eq!((file(), property("pinfold.socket", "ActiveState")), (made, "active".to_owned()));
    let other = up("t");
    listening.installed.expect_active(second);
    let mut found = leaders();
    found.sort_unstable();
    let mut wanted = [server.pid(), other.pid()].map(i64::from);
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    assert_eq!(file(), made);
    assert!(ask(&["end", "--all"]).status.success());
    eventually("nothing is left", || if units().is_empty() { Ok(()) } else { Err(format!("{:?}", units())) });
}

#[test]
fn whoever_launches_while_the_daemon_is_restarted_waits_and_is_served() {
    if !offered() {
        return;
    }
    let listening = Listening::new();
    let _server = up("s");
    let mut before = listening.installed.expect_active(0);
    for _ in 0..RESTARTS {
        let mut restart = std::process::Command::new("systemctl");
        restart.arg(if is_system() { "--system" } else { "--user" }).args(["restart", "pinfold.service"]);
        let mut restart = restart.stdin(Stdio::null()).spawn().unwrap();
        let mut launches = 0;
        while restart.try_wait().unwrap().is_none() || launches < 2 {
            let run = ask(&["run", "--session", "t", "--", "echo", "ran"]);
            assert!(run.status.success() && run.stdout == b"ran\n", "launch {launches}: {run:?}");
            launches += 1;
        }
        assert!(restart.wait().unwrap().success());
        before = listening.installed.expect_active(before);
    }
    // And with nobody there at all when it comes.
    assert!(systemctl(&["stop", "pinfold.service"]).status.success());
    let run = ask(&["run", "--session", "t", "--", "echo", "ran"]);
    assert!(run.status.success() && run.stdout == b"ran\n", "{run:?}");
}

#[test]
fn a_daemon_that_is_started_by_hand_does_not_take_the_managers_socket_away() {
    if !offered() {
        return;
    }
    let _listening = Listening::new();
    let made = file();
    let serve = usual(&["serve"]).stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&serve.stderr);
    assert_eq!(serve.status.code(), Some(1), "{told}");
    assert!(told.contains("for a daemon that is yet to come") && told.contains("start pinfold.service"), "{told}");
    assert_eq!(file(), made);
    let _server = up("s");
}

#[test]
fn a_socket_at_another_path_than_callers_come_to_is_refused() {
    if !offered() {
        return;
    }
    let mut listening = Listening::new();
    assert!(systemctl(&["stop", "pinfold.socket"]).status.success());
    let elsewhere = usual_socket().with_file_name("elsewhere.sock");
    let text = format!("[Socket]\nListenStream=\nListenStream={}\n", elsewhere.display());
    listening.installed.drop_in("pinfold.socket", "elsewhere", &text);
    let run = ask(&["run", "--", "echo", "ran"]);
    assert_eq!((run.status.code(), run.stdout.as_slice()), (Some(125), &b""[..]), "{run:?}");
    assert!(String::from_utf8_lossy(&run.stderr).contains("pinfold.service"), "{run:?}");
    drop(listening);
    let _ = std::fs::remove_file(elsewhere);
}

#[test]
fn that_the_daemon_does_not_start_is_told_to_whoever_came_to_its_socket() {
    if !offered() {
        return;
    }
    // Its manager gives it up after the second try: as many as it has by default take a guest longer than anybody waits.
    let _listening = Listening::to(|| {
        let mut installed = Installed::running("false");
        installed.drop_in("pinfold.service", "limit", "[Unit]\nStartLimitBurst=2\n");
        installed
    });
    let run = ask(&["run", "--", "echo", "ran"]);
    assert_eq!((run.status.code(), run.stdout.as_slice()), (Some(125), &b""[..]), "{run:?}");
    assert!(String::from_utf8_lossy(&run.stderr).contains("cannot start pinfold.service"), "{run:?}");
}

#[test]
fn what_a_launch_has_started_before_gives_way_to_the_installed_units_and_is_adopted() {
    if !offered() {
        return;
    }
    let server = up("s");
    assert_eq!(property("pinfold-daemon.service", "ActiveState"), "active");
    let listening = Listening::new();
    let other = up("t");
    listening.installed.expect_active(0);
    assert_eq!(property("pinfold-daemon.service", "ActiveState"), "inactive");
    let mut found = leaders();
    found.sort_unstable();
    let mut wanted = [server.pid(), other.pid()].map(i64::from);
    wanted.sort_unstable();
    assert_eq!(found, wanted);
}
