//! What the driver knows of each server and each session. Only the driver touches it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::aside::Foreign;
use super::outside::First;
use super::parking::Nap;
use super::servers::Servers;
use crate::argv::MaskedArgv;
use crate::cgroup::{GroupPaths, Leaf, has_exited};
use crate::confine::Confine;
use crate::container::{ContainerPlace, Remover};
use crate::label::Labels;
use crate::lifecycle::{Idle, Moment, State, Terms, Watchdog};
use crate::limits::{Bytes, Limits};
use crate::naming::{LeafName, SessionKey};
use crate::outcome::{Exit, Stall};
use crate::policy::OnPids;
use crate::process;
use crate::realm::{Container, Realm};
use crate::records::{Asked, Expiry, Instance, Resting};
use crate::session::{Name, NamedBy, ProcessId, SessionId};
use crate::timestamp::Timestamp;
use crate::wire::{EndReply, Ended, Fault, Launched};

/// One launched server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) key: SessionKey,
    pub(super) leaf_name: LeafName,
    pub(super) name: Name,
    /// The host that launched it, where it is known.
    pub(super) host: Option<Name>,
    /// Whether it has its name by a launch option, and whether the watched files of its host had an entry of that name since.
    pub(super) entry: Entry,
    pub(super) argv: MaskedArgv,
    /// What it is among the instances of the same server in its session.
    pub(super) instance: Instance,
    pub(super) labels: Labels,
    /// It was labelled anew before its record could tell.
    pub(super) relabelled: bool,
    pub(super) generation: u64,
    pub(super) state: State,
    pub(super) terms: Terms,
    pub(super) on_pids: OnPids,
    /// Watches for it doing nothing, where that has an end.
    pub(super) idle: Option<Idle>,
    /// What becomes of it when it is idle, short of its end.
    pub(super) resting: Resting,
    /// How it rests now.
    pub(super) nap: Nap,
    /// What counts as a standstill at a `memory_high`.
    pub(super) stall: Stall,
    /// Watches it while it presses against one.
    pub(super) watchdog: Option<Watchdog>,
    /// What its launch asked for itself, where that is known.
    pub(super) asked: Option<Asked>,
    /// How it was confined.
    pub(super) confine: Confine,
    /// What held its launcher where that came from, where that is known.
    pub(super) held: Option<Limits>,
    /// Where the container of its command is to be, where that makes one.
    pub(super) container: Option<ContainerPlace>,
    /// The engine that removes what it still has of it.
    pub(super) remover: Option<Remover>,
    /// The first processes of a container outside, where its monitor stays in the leaf.
    pub(super) monitored: Option<Vec<First>>,
    /// It ran already when it was moved into its leaf.
    pub(super) adopted: bool,
    /// The settings under which its launch was decided, by their number.
    pub(super) settings: u64,
    pub(super) leader: ProcessId,
    /// `None` where it was gone when the server was adopted.
    pub(super) leader_pidfd: Option<Arc<OwnedFd>>,
    /// How its leader exited, once that is known.
    pub(super) exit: Option<Exit>,
    pub(super) owner: ProcessId,
    /// The dup of its stdin, while its hang-up can still be of interest.
    pub(super) stdin: Option<Foreign>,
    /// The dup of its stderr, while there may be something to tell.
    pub(super) stderr: Option<Foreign>,
    /// `None` while it is being placed.
    pub(super) leaf: Option<Arc<Leaf>>,
    pub(super) started_at: Timestamp,
    /// Since when its end is under way, as far as this daemon saw it begin.
    pub(super) ending_since: Option<crate::lifecycle::Moment>,
    pub(super) warnings: Vec<String>,
    /// Its leader was seen outside its leaf.
    pub(super) escaped: bool,
    /// That others of it were seen outside was told already.
    pub(super) escapees_told: bool,
    /// That the kernel killed in it for memory was told already.
    pub(super) memory_kill_told: bool,
    /// Refused forks that were reported already.
    pub(super) pids_told: u64,
    /// Who waits for the launch.
    pub(super) launch: Option<Pending>,
    /// Blocking work for it, one at a time and in order.
    pub(super) jobs: VecDeque<Job>,
    /// Whether one of them is under way.
    pub(super) busy: bool,
    /// What the end found and did.
    pub(super) stock: Stock,
}

/// What ties a server to an entry of its host's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing: its name was guessed from its command line.
    Unnamed,
    /// It has a name of its own, and no entry of that name was seen.
    Unseen,
    /// An entry of its name was there while it ran.
    Seen,
}

/// Somebody who waits for a launch.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) reply: oneshot::Sender<Result<Launched, Fault>>,
    /// It would run without containment rather than not at all.
    pub(super) uncontained: bool,
    /// When it asked.
    pub(super) asked_at: Instant,
    /// It ran already.
    pub(super) moves_in: bool,
}

/// What an end found in the leaf when it began, and what was done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stock {
    pub(super) taken: bool,
    pub(super) processes: Option<u32>,
    pub(super) memory: Option<Bytes>,
    pub(super) peak: Option<Bytes>,
    pub(super) killed: bool,
}

/// Blocking work on a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    TakeStock,
    Terminate,
    Kill,
    Remove,
}

impl Job {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::TakeStock => "take stock",
            Self::Terminate => "terminate",
            Self::Kill => "kill",
            Self::Remove => "remove",
        }
    }
}

impl Server {
    /// When something is due for it that no event tells.
    pub(super) fn next_due(&self) -> Option<Moment> {
        let pressed = self.watchdog.as_ref().filter(|_| self.state == State::Running).map(Watchdog::next);
        self.state.deadline().into_iter().chain(self.next_reading()).chain(pressed).min()
    }

    /// When it is to be read for being idle: only what runs can be.
    pub(super) fn next_reading(&self) -> Option<Moment> {
        self.idle.as_ref().filter(|_| self.state == State::Running && self.leaf.is_some())?.next()
    }

    /// Whether its first process has exited.
    pub(super) fn leader_is_gone(&self) -> bool {
        self.leader_pidfd.as_ref().is_none_or(|pidfd| has_exited(pidfd.as_fd()))
    }

    /// How its first process exited, as far as it has and the kernel tells.
    pub(super) fn leader_exit(&self) -> Option<Exit> {
        let pidfd = self.leader_pidfd.as_ref();
        let told = pidfd.and_then(|pidfd| process::exit_of(self.leader, pidfd.as_fd()));
        Exit::of_both(self.exit, told)
    }
}

/// One session: it is there while it has servers.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) uid: u32,
    /// The container whose it is.
    pub(super) container: Option<Container>,
    pub(super) named_by: NamedBy,
    pub(super) host: Option<Name>,
    /// Its servers' numbers.
    pub(super) servers: Vec<u64>,
    /// When its time is over, where it has a time-to-live.
    pub(super) expires: Option<Expiry>,
    /// The machine levels that its leaves were made below; more than one where callers stand in different v1
    /// cgroups.
    pub(super) machines: Vec<GroupPaths>,
}

impl Session {
    /// Whose it is beside its user's.
    pub(super) fn realm(&self) -> Realm {
        Container::realm_of(self.container.as_ref())
    }

    /// Whether this is the session that a word of the caller means: its id, or its key, by which metrics and alerts call it.
    pub(super) fn is_called(&self, key: &SessionKey, word: &SessionId) -> bool {
        self.id == *word || key.as_str() == word.as_str()
    }
}

/// A process that owns servers.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) id: ProcessId,
    pub(super) pidfd: OwnedFd,
    /// Its servers' numbers.
    pub(super) servers: BTreeSet<u64>,
}

/// Somebody who waits for ends.
#[derive(Debug)]
pub(super) struct Waiter {
    /// The servers that are not gone yet.
    pub(super) remaining: Vec<u64>,
    pub(super) ended: Vec<Ended>,
    pub(super) deadline: crate::lifecycle::Moment,
    pub(super) reply: oneshot::Sender<EndReply>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) servers: Servers,
    pub(super) sessions: BTreeMap<SessionKey, Session>,
    /// By the number of their watch.
    pub(super) owners: HashMap<u64, Owner>,
    pub(super) waiters: Vec<Waiter>,
    /// The cgroups above leaves that have a `memory_high`, with the numbers of their watches.
    pub(super) pressed: HashMap<PathBuf, u64>,
    /// The number of the next launch, and of the next owner.
    pub(super) next: u64,
    /// The latest generation that any session had.
    pub(super) generation: u64,
}

impl Table {
    /// A number that no living server, leaf or owner has.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whose a server is; root's where it is gone.
    pub(super) fn uid(&self, number: u64) -> u32 {
        let server = self.servers.get(&number);
        server.and_then(|server| self.sessions.get(&server.key)).map_or(0, |session| session.uid)
    }

    /// Whether its first process leads a later launch: it is in the leaf of that, or on its way there.
    pub(super) fn leads_on(&self, number: u64) -> bool {
        let Some(server) = self.servers.get(&number) else { return false };
        self.servers.range(number + 1..).any(|(_, later)| later.leader == server.leader)
    }

    /// Takes a server out, and its session and owner with it if it was their last. Tells what went with it.
    pub(super) fn remove(&mut self, number: u64) -> Option<(Server, Gone)> {
        let server = self.servers.remove(number)?;
        let mut gone = Gone::default();
        if let Some(session) = self.sessions.get_mut(&server.key) {
            session.servers.retain(|other| *other != number);
            if session.servers.is_empty() {
                gone.session = self.sessions.remove(&server.key);
            }
        }
        let owner = self.owners.iter_mut().find(|(_, owner)| owner.servers.contains(&number));
        if let Some((watch, owner)) = owner {
            owner.servers.remove(&number);
            if owner.servers.is_empty() {
                let watch = *watch;
                gone.owner = self.owners.remove(&watch);
            }
        }
        Some((server, gone))
    }
}

/// What went with a server.
#[derive(Debug, Default)]
pub(super) struct Gone {
    pub(super) session: Option<Session>,
    pub(super) owner: Option<Owner>,
}
