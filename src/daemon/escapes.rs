//! What left its leaf: looked for, and told.
//!
//! A process carries the marks of its server in its environment (`PINFOLD_SESSION`, `PINFOLD_SERVER`), and so does all that
//! it starts. Whoever owns a process can give it any marks, so they are good for a report and for nothing else: nothing is
//! ever ended for them.
//!
//! The look takes a walk through all of `/proc`. It is taken when somebody asks for one session, never by the driver, one at
//! a time, and for a bounded time: reading an environment waits for whoever holds the lock of that process's memory.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::driver::Driver;
use super::log::LINES;
use crate::backend::Backend;
use crate::cgroup::Membership;
use crate::naming::SessionKey;
use crate::occurrence::{PIDS_MAX, What};
use crate::policy::{SERVER_VARIABLE, SESSION_VARIABLE};
use crate::process;
use crate::session::{ProcessId, SessionId};

/// How long a look may take, its wait for the one before included.
const LOOK_MAX: Duration = Duration::from_secs(3);

/// How many processes are looked at.
const PROCESSES_MAX: usize = 100_000;

/// How many are told.
const FOUND_MAX: usize = 1000;

/// Processes of one server that were seen outside its leaf.
#[derive(Debug)]
pub(super) struct Escapees {
    /// Its first process is among them.
    pub(super) leader: bool,
    pub(super) pids: Vec<i32>,
}

/// Whose processes are looked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) session: SessionId,
    pub(super) key: SessionKey,
    pub(super) uid: u32,
    /// The leaves and first processes of its servers.
    pub(super) servers: Vec<(String, ProcessId)>,
}

/// What a look found: for each process the leaf that it names, and its number; and whether all were looked at.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) processes: Vec<(String, i32)>,
    pub(super) complete: bool,
}

/// The turn of whoever looks. One that the kernel holds up keeps it, so that it holds up one thread and no second one.
#[derive(Debug, Clone)]
pub(super) struct Turn(Arc<Semaphore>);

impl Default for Turn {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// Looks for processes that carry the marks of these servers and stand in no leaf.
pub(super) async fn look(turn: &Turn, wanted: Wanted, backend: Arc<Backend>) -> Found {
    let deadline = Instant::now() + LOOK_MAX;
    let mut found = Found::default();
    let Ok(Ok(turn)) = tokio::time::timeout_at(deadline, turn.0.clone().acquire_owned()).await else { return found };
    let (sender, mut receiver) = mpsc::channel(FOUND_MAX);
    let walk = tokio::task::spawn_blocking(move || {
        let complete = walk(&wanted, &backend, deadline.into(), &sender);
        drop(turn);
        complete
    });
    // What was found before the deadline is told, whatever becomes of the rest.
    while let Ok(Some(process)) = tokio::time::timeout_at(deadline, receiver.recv()).await {
        found.processes.push(process);
    }
    found.complete = matches!(tokio::time::timeout_at(deadline, walk).await, Ok(Ok(true)));
    found
}

/// Walks through `/proc`, and tells whether it came to its end.
fn walk(wanted: &Wanted, backend: &Backend, until: std::time::Instant, found: &mpsc::Sender<(String, i32)>) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return false };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut environment = Vec::new();
    for (index, pid) in pids.enumerate() {
        if index == PROCESSES_MAX || std::time::Instant::now() > until {
            return false;
        }
        let Some(leaf) = escaped_from(wanted, backend, pid, &mut environment) else { continue };
        // Where nobody reads any more, or too many were found, it is told as incomplete.
        if found.try_send((leaf.to_owned(), pid)).is_err() {
            return false;
        }
    }
    true
}

/// The leaf whose marks this process carries, where it stands in none.
fn escaped_from<'a>(wanted: &'a Wanted, backend: &Backend, pid: i32, environment: &mut Vec<u8>) -> Option<&'a str> {
    // One that is not dumpable belongs to root by this, whoever runs it (proc(5)): below it is asked again.
    let owner = std::fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    if owner != wanted.uid && owner != 0 {
        return None;
    }
    process::read_environment(pid, environment).ok()?;
    let (leaf, leader) = marked(wanted, environment)?;
    // A leaf of an earlier generation may have had the same name: its processes are older than this one's first.
    let id = process::identify(pid).ok().filter(|id| id.start_time >= leader.start_time)?;
    if process::uids(pid).ok()?.0 != wanted.uid {
        return None;
    }
    // In another leaf it is on its way into that: a launcher that a server started carries the server's marks until its exec.
    let outside = Membership::of(pid)
        .is_ok_and(|place| backend.locate(&place).is_none() && !stands_in_a_namesake(&wanted.key, leaf, &place));
    // What was read is about one process if the number is still its own.
    (outside && process::identify(pid).is_ok_and(|now| now == id)).then_some(leaf)
}

/// Whether a process is in the leaf of another daemon that has this session and leaf by the same names: one for another
/// tree, or one in a container whose processes are seen from here. Its marks are that one's.
fn stands_in_a_namesake(key: &SessionKey, leaf: &str, place: &Membership) -> bool {
    let Some(cgroup) = &place.v2 else { return false };
    let is_session = |name: &str| name == key.as_str() || SessionKey::of_scope(name).is_some_and(|(of, _)| of == *key);
    let names: Vec<&str> = cgroup.split('/').collect();
    names.windows(2).any(|pair| is_session(pair[0]) && pair[1] == leaf)
}

/// The server whose marks stand in an environment.
fn marked<'a>(wanted: &'a Wanted, environment: &[u8]) -> Option<(&'a str, ProcessId)> {
    let value = |name: &[u8]| {
        let mut variables = environment.split(|byte| *byte == 0);
        variables.find_map(|variable| variable.strip_prefix(name)?.strip_prefix(b"="))
    };
    let leaf = value(SERVER_VARIABLE.as_bytes())?;
    if value(SESSION_VARIABLE.as_bytes())? != wanted.session.as_str().as_bytes() {
        return None;
    }
    wanted.servers.iter().find(|(name, _)| name.as_bytes() == leaf).map(|(name, leader)| (name.as_str(), *leader))
}

impl Driver {
    /// Tells once for each server that its first process has left it, and once that others have.
    pub(super) fn escaped(&mut self, number: u64, escapees: &Escapees) {
        // A launcher that asks again because the daemon died before the reply, or a server that executes `pinfold run`
        // itself, is moved before the earlier leaf knows of it.
        let leads_on = self.table.leads_on(number);
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        let leader = server.leader.pid;
        let mut told = Vec::new();
        if escapees.leader && !leads_on && !server.escaped {
            server.escaped = true;
            told.push(leader);
            tracing::warn!(target: LINES, server = %server.name, pid = leader, "the server's first process left its leaf");
        }
        let others: BTreeSet<i32> = escapees.pids.iter().copied().filter(|pid| *pid != leader).collect();
        if !others.is_empty() && !server.escapees_told {
            server.escapees_told = true;
            let leaf = server.leaf_name.as_str();
            let server = &server.name;
            tracing::warn!(target: LINES, %server, leaf, pids = ?others, "processes that carry the server's marks left its leaf");
            told.extend(others);
        }
        told.truncate(PIDS_MAX);
        if !told.is_empty() {
            self.occurred(number, What::Escaped { pids: told });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_those_of_one_session_and_one_leaf_whole_and_the_first_of_each_counts() {
        let leader = ProcessId { pid: 7, start_time: 70 };
        let wanted = Wanted {
            session: SessionId::parse("s").unwrap(),
            key: SessionKey::new(0, &SessionId::parse("s").unwrap()),
            uid: 0,
            servers: vec![("fs.1".into(), leader), ("fs.12".into(), leader)],
        };
        let leaf = |environment: &str| marked(&wanted, environment.as_bytes()).map(|(leaf, _)| leaf);
        assert_eq!(leaf("A=b\0PINFOLD_SESSION=s\0PINFOLD_SERVER=fs.12\0"), Some("fs.12"));
        assert_eq!(leaf("PINFOLD_SERVER=fs.1\0PINFOLD_SESSION=s"), Some("fs.1"));
        for other in [
            "",
            "PINFOLD_SERVER=fs.1\0",
            "PINFOLD_SESSION=s\0",
            "PINFOLD_SESSION=t\0PINFOLD_SERVER=fs.1\0",
            "PINFOLD_SESSION=s\0PINFOLD_SERVER=fs.2\0",
            "XPINFOLD_SESSION=s\0PINFOLD_SERVER=fs.1\0",
            "PINFOLD_SESSION=s\nPINFOLD_SERVER=fs.1\0",
            "PINFOLD_SESSION=t\0PINFOLD_SESSION=s\0PINFOLD_SERVER=fs.1\0",
        ] {
            assert_eq!(leaf(other), None, "{other:?}");
        }
    }

    #[test]
    fn what_stands_in_a_leaf_of_the_same_names_is_another_daemons() {
        let key = SessionKey::new(0, &SessionId::parse("s").unwrap());
        let other = SessionKey::new(1, &SessionId::parse("s").unwrap());
        let stands = |cgroup: String| {
            stands_in_a_namesake(&key, "fs.1", &Membership { v2: Some(cgroup), ..Membership::default() })
        };
        assert!(stands(format!("/docker/1f/pinfold/{key}/fs.1")));
        assert!(stands(format!("/docker/1f/pinfold/{key}/fs.1/below")));
        assert!(stands(format!("/pinfold.slice/{}/{}/fs.1", key.slice(), key.scope(3))));
        for elsewhere in
            ["/".into(), format!("/pinfold/{key}"), format!("/pinfold/{key}/fs.2"), format!("/pinfold/{other}/fs.1")]
        {
            assert!(!stands(elsewhere.clone()), "{elsewhere}");
        }
    }
}
