//! The second look, at trees alone: what each reads its requests from, who holds the other end of that, and where it waits
//! for connections.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

use super::look::Processes;
use crate::process::holders::{self, Object};
use crate::process::sockets::{self, UnixSocket};
use crate::process::{self, survey};
use crate::strays::{Parent, Stdin, Tree};

/// How many places where a tree waits for connections are told.
const LISTENS_MAX: usize = 8;

/// What was seen of one tree.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) stdin: Stdin,
    /// The place of the process that holds the other end of its stdin, in the list of all.
    pub(super) holder: Option<usize>,
    pub(super) is_service: bool,
    pub(super) listens: Vec<String>,
    /// The other end of its stdin.
    other_end: Option<Object>,
}

/// What was seen of all trees, in their order.
pub(super) struct Clues {
    pub(super) facts: Vec<Facts>,
}

impl Clues {
    pub(super) fn gather(processes: &Processes, trees: &[Tree], deadline: Instant, at: &AtomicI32) -> Self {
        // Where the kernel does not tell of them, what is a socket stays unknown.
        let unix = if trees.is_empty() { HashMap::new() } else { sockets::unix(deadline).unwrap_or_default() };
        let mut facts = Vec::new();
        let mut tcp = HashMap::new();
        for tree in trees {
            if Instant::now() > deadline {
                facts.push(Facts::default());
                continue;
            }
            let place = tree.processes[0];
            let pid = processes.seen[place].id.pid;
            at.store(pid, Ordering::Relaxed);
            let (stdin, other_end) = stdin(pid, &unix);
            let is_service = is_service(pid, processes.beside[place].own_number);
            // It matters only for what nobody can ask for anything by its stdin.
            let may_listen = matches!(stdin, Stdin::Ended | Stdin::Null | Stdin::Closed);
            let listens =
                if may_listen { listens(processes, tree, &unix, &mut tcp, (deadline, at)) } else { Vec::new() };
            facts.push(Facts { stdin, holder: None, is_service, listens, other_end });
        }
        let mut clues = Self { facts };
        clues.find_holders(processes, trees, deadline, at);
        clues
    }

    /// Looks through the descriptors of all processes, those of hosts and parents first, until each other end is found.
    fn find_holders(&mut self, processes: &Processes, trees: &[Tree], deadline: Instant, at: &AtomicI32) {
        let mut wanted: HashSet<Object> = self.facts.iter().filter_map(|facts| facts.other_end).collect();
        let above: HashSet<i32> = trees
            .iter()
            .filter_map(|tree| match &tree.parent {
                Parent::Host(_, pid) | Parent::Other(pid, _) => Some(*pid),
                Parent::Reaper(_) => None,
            })
            .chain(trees.iter().map(|tree| processes.seen[tree.processes[0]].parent))
            .collect();
        let (first, rest): (Vec<usize>, Vec<usize>) =
            (0..processes.seen.len()).partition(|place| above.contains(&processes.seen[*place].id.pid));
        for place in first.into_iter().chain(rest) {
            if wanted.is_empty() || Instant::now() > deadline {
                return;
            }
            let pid = processes.seen[place].id.pid;
            at.store(pid, Ordering::Relaxed);
            for object in holders::held(pid, &wanted).unwrap_or_default() {
                let mut taken = false;
                for (facts, tree) in self.facts.iter_mut().zip(trees) {
                    // What a tree holds of itself is nobody's.
                    if facts.other_end == Some(object) && !tree.processes.contains(&place) {
                        facts.holder.get_or_insert(place);
                        // What may not be opened may be seen elsewhere.
                        facts.stdin = Stdin::Held;
                        taken = true;
                    }
                }
                if taken {
                    wanted.remove(&object);
                }
            }
        }
    }

    /// A process, as people are told of it.
    pub(super) fn called(&self, processes: &Processes, place: usize) -> (i32, String) {
        let facts = &processes.seen[place].facts;
        (facts.pid, facts.comm.clone())
    }
}

/// What a process reads its requests from, and the other end of that where it is an object of the kernel's.
fn stdin(pid: i32, unix: &HashMap<u64, UnixSocket>) -> (Stdin, Option<Object>) {
    let link = match survey::link(pid, "fd/0") {
        Ok(link) => link,
        // The directory is there and this entry is not.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && survey::link(pid, "cwd").is_ok() => {
            return (Stdin::Closed, None);
        }
        Err(_) => return (Stdin::Unknown, None),
    };
    match Object::parse(&link) {
        Some(pipe @ Object::Pipe(inode)) => match holders::pipe_has_ended(pid, inode) {
            Ok(true) => (Stdin::Ended, None),
            Ok(false) => (Stdin::Held, Some(pipe)),
            Err(_) => (Stdin::Unknown, Some(pipe)),
        },
        Some(Object::Socket(inode)) => match unix.get(&inode) {
            Some(socket) if socket.has_ended => (Stdin::Ended, None),
            Some(socket) if socket.peer != 0 => (Stdin::Held, Some(Object::Socket(socket.peer))),
            // Another network namespace, or not of this family.
            Some(_) | None => (Stdin::Unknown, None),
        },
        None if link == "/dev/null" => (Stdin::Null, None),
        None if link.starts_with("/dev/pts/") || link.starts_with("/dev/tty") || link == "/dev/console" => {
            (Stdin::Terminal, None)
        }
        None => (Stdin::Other, None),
    }
}

/// Whether a service manager started this very process: it says so to the main process of each service, whose children
/// inherit the number and have others (systemd.exec(5), since systemd 248).
fn is_service(pid: i32, own_number: i32) -> bool {
    let marks = |(name, value): &(String, String)| name == "SYSTEMD_EXEC_PID" && value.parse() == Ok(own_number);
    process::environment(pid).iter().any(marks)
}

/// Where processes of a tree wait for connections. `tcp` holds what was read of each network namespace.
fn listens(
    processes: &Processes,
    tree: &Tree,
    unix: &HashMap<u64, UnixSocket>,
    tcp: &mut HashMap<String, HashMap<u64, u16>>,
    (deadline, at): (Instant, &AtomicI32),
) -> Vec<String> {
    let first = processes.seen[tree.processes[0]].id.pid;
    let namespace = survey::link(first, "ns/net").unwrap_or_else(|_| format!("of {first}"));
    let ports = tcp.entry(namespace).or_insert_with(|| holders::listening(first));
    let listening = unix.iter().filter(|(_, socket)| socket.listens).map(|(inode, _)| *inode);
    let wanted: HashSet<Object> = listening.chain(ports.keys().copied()).map(Object::Socket).collect();
    let mut found = Vec::new();
    for place in &tree.processes {
        let pid = processes.seen[*place].id.pid;
        if Instant::now() > deadline {
            break;
        }
        at.store(pid, Ordering::Relaxed);
        for object in holders::held(pid, &wanted).unwrap_or_default() {
            let Object::Socket(inode) = object else { continue };
            let told = ports.get(&inode).map_or_else(|| "a unix socket".to_owned(), |port| format!("TCP port {port}"));
            if !found.contains(&told) && found.len() < LISTENS_MAX {
                found.push(told);
            }
        }
    }
    found
}
