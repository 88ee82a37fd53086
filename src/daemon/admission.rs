//! The driver's side of whether a launch is admitted: is there room for it, and are there too many instances of its server.

use std::os::fd::{AsFd, RawFd};

use super::accept::descriptors_max;
use super::driver::Driver;
use super::launching::LaunchRequest;
use super::table::{Entry, Server};
use crate::cgroup::has_exited;
use crate::lifecycle::{Due, Event};
use crate::naming::SessionKey;
use crate::policy::{self, Grant, Holding, Likeness, Newcomer, OnExcess, Refusal, SessionName};
use crate::records::Instance;
use crate::session::{Name, ProcessId};

/// A launch that is refused.
#[derive(Debug)]
pub(super) struct Denial {
    pub(super) refusal: Refusal,
    /// It could be contained, and there are too many of its kind: it does not run without containment either, whatever the
    /// launch asks for, or no bound would hold.
    pub(super) lasting: bool,
}

impl Denial {
    pub(super) fn lasting(refusal: Refusal) -> Self {
        Self { refusal, lasting: true }
    }
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, lasting: false }
    }
}

impl Server {
    fn likeness(&self) -> Likeness<'_> {
        let named = self.entry != Entry::Unnamed;
        Likeness { name: &self.name, named, command: self.instance.command }
    }

    /// Whether nothing is known that ends it.
    fn lives(&self) -> bool {
        self.state.cause().is_none()
    }
}

impl Driver {
    /// Whether the table has room for a launch of this host. What the launcher is already does not count: it asks again
    /// because an earlier daemon died before it answered, or it is a server that becomes another one.
    pub(super) fn has_room(&self, newcomer: &Newcomer<'_>, launcher: ProcessId) -> Result<(), Refusal> {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let others = |number: &u64, host: Option<Option<&Name>>| {
            let server = self.table.servers.get(number).filter(|server| server.leader != launcher);
            server.is_some_and(|server| host.is_none_or(|host| server.host.as_ref() == host))
        };
        let holdings = self.table.sessions.values().map(|session| Holding {
            id: &session.id,
            uid: session.uid,
            realm: session.realm(),
            host: session.host.as_ref(),
            servers: count(session.servers.iter().filter(|number| others(number, None)).count()),
            of_host: count(session.servers.iter().filter(|number| others(number, Some(newcomer.host))).count()),
        });
        policy::has_room(&self.settings, newcomer, &holdings.collect::<Vec<_>>())
    }

    /// Whether the daemon has descriptors for one server more, and for what else it does meanwhile. The directory's size is
    /// their number (proc_pid_fd(5)); before Linux 6.2 it is 0, and `newest` tells as many as are taken below it, since the
    /// kernel gives out the lowest number that is free.
    pub(super) fn has_descriptors(&self, newest: RawFd) -> Result<(), Refusal> {
        let told = rustix::fs::stat("/proc/self/fd").map_or(0, |found| found.st_size);
        let taken = if told > 0 { told } else { newest.into() };
        policy::has_descriptors(u64::try_from(taken).unwrap_or(0), descriptors_max())
    }

    /// What a launch will be among the instances of its server, or why it may not be one.
    pub(super) fn instance(
        &self,
        request: &LaunchRequest,
        key: &SessionKey,
        name: &SessionName,
        grant: &Grant,
    ) -> Result<Instance, Refusal> {
        let wish = &request.wish;
        let likeness = Likeness { name: &wish.server, named: wish.named, command: wish.command };
        let mut instance = Instance { command: wish.command, inside: None, replaces_beyond: None };
        if let Some(caller) = &request.inside {
            // A leader that launches itself anew leaves the leaf that it was in: it is inside of whatever that was inside of.
            let stood_in = self.server_in(key, caller.leaf.as_str());
            let again = stood_in.filter(|server| server.leader == request.launcher);
            instance.inside = match again {
                Some(earlier) => earlier.instance.inside.clone(),
                None => Some(caller.leaf.as_str().to_owned()),
            };
        }
        let named_by = self.table.sessions.get(key).map_or(name.named_by, |session| session.named_by);
        let max = grant.instances_max.at().filter(|_| policy::counts_instances(named_by));
        let Some(max) = max.filter(|_| !self.is_within(key, instance.inside.as_deref(), &likeness)) else {
            return Ok(instance);
        };
        match grant.on_excess {
            OnExcess::Replace => instance.replaces_beyond = Some(max),
            OnExcess::Refuse => {
                let mut living = self.instances(key, &likeness);
                // A host that starts a server anew has ended the old one a moment ago, and that may not have been told yet.
                living.retain(|number| self.stays(*number, request));
                if living.len() >= usize::try_from(max).unwrap_or(usize::MAX) {
                    return Err(policy::too_many_instances(&wish.server, &name.id, living.len(), max));
                }
            }
        }
        Ok(instance)
    }

    /// Whether a server still has all that keeps it alive, as the kernel tells now, and is not about to become this launch.
    fn stays(&self, number: u64, request: &LaunchRequest) -> bool {
        let Some(server) = self.table.servers.get(&number) else { return false };
        let mut owners = self.table.owners.values().filter(|owner| owner.servers.contains(&number));
        let hung_up = server.stdin.as_ref().is_some_and(|stdin| super::stdin::has_hung_up(stdin.as_fd()));
        let gone = server.leader_is_gone() || hung_up || owners.any(|owner| has_exited(owner.pidfd.as_fd()));
        !gone && server.leader != request.launcher
    }

    /// The numbers of the living instances of a server in a session, those that are being placed included.
    fn instances(&self, key: &SessionKey, likeness: &Likeness<'_>) -> Vec<u64> {
        let Some(session) = self.table.sessions.get(key) else { return Vec::new() };
        let is_one = |number: &u64| {
            self.table.servers.get(number).is_some_and(|server| {
                server.lives()
                    && !server.leader_is_gone()
                    && server.likeness().is_same(likeness)
                    && !self.is_within(key, server.instance.inside.as_deref(), likeness)
            })
        };
        session.servers.iter().copied().filter(is_one).collect()
    }

    /// Whether what was launched from inside of this leaf is part of an instance: of one that launches itself again inside.
    fn is_within(&self, key: &SessionKey, inside: Option<&str>, likeness: &Likeness<'_>) -> bool {
        // Whoever is inside was launched later than what it is inside of, so this comes to an end.
        let mut next = inside.and_then(|leaf| self.server_in(key, leaf));
        while let Some(server) = next {
            if server.lives() && server.likeness().is_same(likeness) {
                return true;
            }
            next = server.instance.inside.as_deref().and_then(|leaf| self.server_in(key, leaf));
        }
        false
    }

    fn server_in(&self, key: &SessionKey, leaf: &str) -> Option<&Server> {
        let numbers = &self.table.sessions.get(key)?.servers;
        let servers = numbers.iter().filter_map(|number| self.table.servers.get(number));
        servers.into_iter().find(|server| server.leaf_name.as_str() == leaf)
    }

    /// A server is placed: of all instances that are, the oldest beyond the most are ended. A launch that fails before has
    /// cost none of them.
    pub(super) fn replace_older(&mut self, number: u64) {
        let Some(server) = self.table.servers.get(&number).filter(|server| server.lives()) else { return };
        let Some(max) = server.instance.replaces_beyond else { return };
        let mut placed = self.instances(&server.key, &server.likeness());
        placed.retain(|number| self.table.servers.get(number).is_some_and(|server| server.leaf.is_some()));
        for old in policy::oldest_beyond(max, placed) {
            self.feed(old, Event::Due(Due::Replaced));
        }
    }

    /// The same for all that an earlier daemon placed: it may have died between that and the end of what was replaced.
    pub(super) fn replace_all(&mut self) {
        for number in self.table.servers.keys().copied().collect::<Vec<_>>() {
            self.replace_older(number);
        }
    }
}
