//! Which processes that run already may be moved into a leaf, because somebody named them or one above them.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::identity::{ProcessFacts, recognise_host};
use super::{Refusal, Settings};

/// A process of the tree that is to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub pid: i32,
    /// What it shows.
    pub facts: ProcessFacts,
    /// Whose it is: the real and the effective uid.
    pub uids: (u32, u32),
    /// It is a thread of the kernel.
    pub is_of_kernel: bool,
    /// It has a pid namespace of its own, as the processes of a container have.
    pub is_in_container: bool,
}

/// Who asks for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopter {
    /// Whose order it is.
    pub uid: u32,
    /// Whose session it is to be in: that user may end all of it.
    pub session_uid: u32,
    /// The process that asks, and those above it.
    pub line: Vec<i32>,
    /// The daemon.
    pub daemon: i32,
    /// The process that was named.
    pub named: i32,
}

/// Programs that take in what lost its parent (`PR_SET_CHILD_SUBREAPER`, prctl(2)), which the kernel tells of nobody but
/// oneself: the inits of containers and the processes that container runtimes keep beside one.
const REAPERS: [&str; 9] = [
    "tini",
    "dumb-init",
    "docker-init",
    "catatonit",
    "containerd-shim",
    "containerd-shim-runc-v2",
    "conmon",
    "s6-svscan",
    "runsvdir",
];

/// Whether what this process is the parent of may have lost the one that started it.
pub fn takes_in_orphans(parent: &ProcessFacts) -> bool {
    let is_user_manager = parent.comm == "systemd" && parent.argv.iter().any(|word| word == "--user");
    // The kernel keeps 15 bytes of a name (proc_pid_comm(5)).
    let is_reaper = REAPERS.iter().any(|name| name.as_bytes()[..name.len().min(15)] == *parent.comm.as_bytes());
    parent.pid == 1 || is_user_manager || is_reaper
}

/// Whether a process of the tree may be moved. One that may not is a reason to move none.
pub fn may_be_moved(settings: &Settings, by: &Adopter, member: &Member) -> Result<(), Refusal> {
    let pid = member.pid;
    let which = if pid == by.named {
        format!("process {pid}")
    } else {
        format!("process {pid} ({}), which is in the tree of process {},", member.facts.comm, by.named)
    };
    let refuse = |why: String, remedy: &str| Err(Refusal::new(format!("{which} {why}"), remedy));
    let (real, effective) = member.uids;
    if pid == 1 {
        return refuse("is init, and all of the machine is its tree".into(), "name the server itself");
    }
    if member.is_of_kernel {
        return refuse("is a thread of the kernel, which no session can hold".into(), "name the server itself");
    }
    if pid == by.daemon {
        return refuse("is the daemon, which cannot contain itself".into(), "name the server itself");
    }
    if by.line.contains(&pid) {
        let why = "is the one that asks, or stands above it".into();
        return refuse(why, "name a process that this command was not started from");
    }
    if by.uid != 0 && (real != by.uid || effective != by.uid) {
        let other = if real == by.uid { effective } else { real };
        return refuse(format!("runs as uid {other}, and not as uid {}", by.uid), "ask as root");
    }
    if by.session_uid != 0 && (real, effective) != (by.session_uid, by.session_uid) {
        let why =
            format!("runs as uid {effective}, and uid {}, whose session it would be, could end it", by.session_uid);
        return refuse(why, "adopt those of its children that are that user's own");
    }
    if member.is_in_container {
        let why = "runs in a pid namespace of its own, as in a container".into();
        return refuse(why, "limit and stop the container by its runtime");
    }
    if let Some((host, _)) = recognise_host(settings, std::slice::from_ref(&member.facts)) {
        let why = format!("is an agent host ({host}), and to contain one is to end all of its sessions with it");
        return refuse(why, "name the servers that it has started, or have it start them by `pinfold run`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(pid: i32, comm: &str, argv: &[&str]) -> ProcessFacts {
        ProcessFacts { pid, comm: comm.into(), argv: argv.iter().map(|word| (*word).to_owned()).collect() }
    }

    fn node(pid: i32) -> Member {
        let facts = facts(pid, "node", &["node", "/srv/server.js"]);
        Member { pid, facts, uids: (1000, 1000), is_of_kernel: false, is_in_container: false }
    }

    fn refusal(uid: u32, member: &Member) -> Option<String> {
        let by = Adopter { uid, session_uid: 1000, line: vec![70, 60, 1], daemon: 80, named: 10 };
        may_be_moved(&Settings::default(), &by, member).err().map(|refusal| refusal.to_string())
    }

    #[test]
    fn a_server_may_be_moved_by_its_user_and_by_root() {
        assert_eq!((refusal(1000, &node(10)), refusal(0, &node(10)), refusal(1000, &node(11))), (None, None, None));
    }

    #[test]
    fn what_may_not_be_moved_is_named_with_its_reason_and_what_to_do() {
        let claude = Member { facts: facts(11, "claude", &["claude"]), ..node(11) };
        for (uid, member, parts) in [
            (0, node(1), ["process 1 (node), which is in the tree of process 10, is init", "name the server"]),
            (0, Member { is_of_kernel: true, ..node(10) }, ["process 10 is a thread of the kernel", "name the server"]),
            (0, node(80), ["is the daemon", "name the server"]),
            (0, node(70), ["is the one that asks", "was not started from"]),
            (0, node(60), ["stands above it", "was not started from"]),
            (1001, node(10), ["process 10 runs as uid 1000, and not as uid 1001", "as root"]),
            (1000, Member { uids: (1000, 0), ..node(11) }, ["runs as uid 0, and not as uid 1000", "as root"]),
            (1000, Member { uids: (0, 1000), ..node(11) }, ["runs as uid 0, and not as uid 1000", "as root"]),
            (0, Member { uids: (1000, 0), ..node(11) }, ["runs as uid 0", "uid 1000, whose session it would be"]),
            (0, Member { is_in_container: true, ..node(11) }, ["a pid namespace of its own", "by its runtime"]),
            (
                0,
                claude,
                ["(claude), which is in the tree of process 10, is an agent host (claude-code)", "pinfold run"],
            ),
        ] {
            let told = refusal(uid, &member).unwrap_or_default();
            assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        }
    }

    #[test]
    fn what_init_and_its_like_have_for_children_are_orphans() {
        for reaper in [
            facts(1, "launcher", &[]),
            facts(900, "systemd", &["/usr/lib/systemd/systemd", "--user"]),
            facts(900, "tini", &["tini", "--"]),
            facts(900, "containerd-shim", &["/usr/bin/containerd-shim-runc-v2"]),
        ] {
            assert!(takes_in_orphans(&reaper), "{reaper:?}");
        }
        for parent in [facts(900, "node", &["node", "tini"]), facts(900, "systemd", &["systemd-thing"])] {
            assert!(!takes_in_orphans(&parent), "{parent:?}");
        }
    }
}
