//! Which daemon a user's commands take where the system's runs and the user's own: only root can stand both up.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::installed::usual;
use crate::support::*;

const SYSTEM: &str = "/run/pinfold/pinfold.sock";
const OWN: &str = "/run/user/1000/pinfold/pinfold.sock";

/// The group `pinfold`, for as long as it is wanted.
pub struct Group(String);

/// Its number.
const GROUP: u32 = 990;

impl Group {
    pub fn new() -> Self {
        let before = std::fs::read_to_string("/etc/group").unwrap();
        std::fs::write("/etc/group", format!("{before}pinfold:x:{GROUP}:\n")).unwrap();
        Self(before)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::write("/etc/group", &self.0);
    }
}

/// Somebody of the guest.
#[derive(Clone, Copy)]
pub enum Who {
    Root,
    /// uid 1000, with no further group.
    Agent,
    /// The same, in the group `pinfold`.
    Member,
    /// One without a service manager.
    Nobody,
}

/// `pinfold ARGUMENTS…` as somebody, with no more of an environment than a host gives its servers.
pub fn pinfold(who: Who, arguments: &[&str]) -> Command {
    let (uid, groups, home) = match who {
        Who::Root => return usual(arguments),
        Who::Agent => ("1000", "1000".to_owned(), "/home/agent"),
        Who::Member => ("1000", format!("1000,{GROUP}"), "/home/agent"),
        Who::Nobody => ("65534", "65534".to_owned(), "/nonexistent"),
    };
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}"), format!("--groups={groups}")]);
    command.arg("--").arg(binary()).args(arguments);
    command.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin").current_dir("/");
    command
}

#[track_caller]
pub fn ask(who: Who, arguments: &[&str]) -> Output {
    pinfold(who, arguments).stdin(Stdio::null()).output().unwrap()
}

/// `pinfold serve` at somebody's usual socket.
pub struct Daemon {
    process: Launched,
    who: Who,
}

impl Daemon {
    #[track_caller]
    pub fn start(who: Who) -> Self {
        let socket = PathBuf::from(if matches!(who, Who::Root) { SYSTEM } else { OWN });
        let mut serve = pinfold(who, &["serve"]);
        serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let process = Launched::spawn(serve);
        eventually("the daemon listens", || {
            std::os::unix::net::UnixStream::connect(&socket).map_err(|error| error.to_string())
        });
        Self { process, who }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = ask(self.who, &["end", "--all", "--now"]);
        signal(self.process.pid(), nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.child.wait();
    }
}

/// Where a server of `who` stood, and what `pinfold run` said besides.
#[track_caller]
fn launch(who: Who) -> (String, String) {
    let run = ask(who, &["run", "--session", "s", "--", "cat", "/proc/self/cgroup"]);
    assert!(run.status.success(), "{run:?}");
    (String::from_utf8(run.stdout).unwrap(), String::from_utf8(run.stderr).unwrap())
}

#[track_caller]
fn told(output: Output) -> String {
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_user_takes_the_systems_daemon_where_that_is_permitted_and_else_their_own_and_it_is_said_where_there_is_a_choice() {
    if !offered() || !is_system() {
        return;
    }
    let _group = Group::new();
    let own = Daemon::start(Who::Agent);
    let (place, said) = launch(Who::Agent);
    assert!(place.contains("/user@1000.service/pinfold.slice/"), "{place}");
    assert_eq!(said, "", "there is one daemon");
    assert_eq!(told(ask(Who::Agent, &["ls"])), "");

    let system = Daemon::start(Who::Root);
    let (place, said) = launch(Who::Agent);
    assert!(place.contains("/user@1000.service/pinfold.slice/"), "{place}");
    let line = format!(
        "pinfold: using the daemon at {OWN}; the one at {SYSTEM} is not for this user (join the group `pinfold`)\n"
    );
    assert_eq!(said, line);
    let (place, said) = launch(Who::Member);
    assert!(place.starts_with("0::/pinfold.slice/"), "{place}");
    let line = format!("pinfold: using the system's daemon at {SYSTEM}, and not this user's own at {OWN}\n");
    assert_eq!(said, line);

    drop(own);
    let (place, said) = launch(Who::Member);
    assert!(place.starts_with("0::/pinfold.slice/"), "{place}");
    assert_eq!(said, "", "there is one daemon");
    drop(system);
    assert!(!Path::new(SYSTEM).exists() && !Path::new(OWN).exists());
}

#[test]
fn ls_status_and_end_take_the_same_daemon_as_a_launch_and_name_the_other() {
    if !offered() || !is_system() {
        return;
    }
    let _group = Group::new();
    let (_own, _system) = (Daemon::start(Who::Agent), Daemon::start(Who::Root));
    let mut run = pinfold(Who::Member, &["run", "--session", "s", "--", "sh", "-c", "echo up; exec cat"]);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Launched::spawn(run);
    assert_eq!(server.line(), "up");

    let own = format!("sessions of the daemon at {OWN} are not shown: see `pinfold ls --socket {OWN}`");
    let not_permitted = format!("sessions of the daemon at {SYSTEM} are not shown: it is not for this user");
    let ls = ask(Who::Member, &["ls"]);
    assert!(String::from_utf8_lossy(&ls.stdout).contains(&server.pid().to_string()), "{ls:?}");
    assert!(told(ls).contains(&own));
    let ls = ask(Who::Agent, &["ls"]);
    assert_eq!(ls.stdout, b"no sessions\n");
    assert!(told(ls).contains(&not_permitted));

    // What is found needs no hint.
    assert_eq!(told(ask(Who::Member, &["status", "s"])), "");
    assert!(told(ask(Who::Member, &["status", "t"])).contains(&own));
    assert!(told(ask(Who::Agent, &["status", "s"])).contains(&not_permitted));
    assert!(told(ask(Who::Agent, &["status", "--pid", &server.pid().to_string()])).contains(&not_permitted));
    let end = ask(Who::Agent, &["end", "s"]);
    assert!(end.status.code() == Some(1) && lives(server.pid()), "{end:?}");
    assert!(told(end).contains(&not_permitted));
    assert_eq!(told(ask(Who::Member, &["end", "s"])), "");
    server.exit_status();
}

#[test]
fn a_socket_that_may_not_be_read_is_told_where_there_is_no_other() {
    if !offered() || !is_system() {
        return;
    }
    let _system = Daemon::start(Who::Root);
    let ls = ask(Who::Nobody, &["ls"]);
    assert_eq!(ls.status.code(), Some(1), "{ls:?}");
    let line = told(ls);
    // Nobody has made it yet.
    assert!(
        line.contains(&format!("may not speak to the daemon at {SYSTEM}: as root make the group `pinfold`")),
        "{line}"
    );
    assert!(line.contains("groupadd --system pinfold && usermod -aG pinfold "), "{line}");
}
