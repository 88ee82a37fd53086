//! The picture that metrics and the page are made of: facts from the driver, readings from the kernel off the driver, by the
//! descriptors that are held. Nothing is read while nobody asks.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::driver::Driver;
use super::publish::{self, Entry};
use crate::cgroup::{Group, Leaf};
use crate::metrics::{Hits, Kept, Omitted, Pairs, Picture, Reading, Remembered, Seen, Shown};
use crate::occurrence::{Occurrence, What};
use crate::snapshot::MemoryView;
use crate::timestamp::Timestamp;

/// The most ends that the page shows.
const ENDS_MAX: usize = 20;

/// What the driver knows for a picture.
#[derive(Debug)]
pub(super) struct Facts {
    entries: Vec<Entry>,
    /// For how long each end is under way that is, in seconds.
    ends: Vec<f64>,
    delayed: u64,
    parked: usize,
    sessions_max: u32,
    servers_max: u32,
    kept: Kept,
    /// What hosts and servers are called in labels.
    pub(super) pairs: Pairs,
    /// The last ends, the latest first.
    pub(super) ended: Vec<Arc<Occurrence>>,
}

impl Driver {
    /// Copies what a picture needs.
    pub(super) fn facts(&self) -> Facts {
        let now = self.now();
        let ending = self.table.servers.values().filter(|server| server.state.cause().is_some());
        let age = |since: Option<_>| since.map_or(0.0, |since| now.saturating_sub(since).as_secs_f64());
        let ended = |occurrence: &&Arc<Occurrence>| matches!(occurrence.what, What::Ended(_));
        Facts {
            // Root sees all.
            entries: publish::entries(&self.table, None, &self.backend),
            ends: ending.map(|server| age(server.ending_since)).collect(),
            delayed: self.counts.delayed,
            parked: self.parked(),
            sessions_max: self.settings.sessions_max,
            servers_max: self.settings.servers_max,
            kept: self.counters.kept().clone(),
            pairs: self.counters.pairs().clone(),
            ended: self.chronicle.recent().rev().filter(ended).take(ENDS_MAX).cloned().collect(),
        }
    }
}

/// What outlives one picture.
#[derive(Debug, Default)]
pub(super) struct Memory {
    shown: Shown,
    sessions: Remembered,
    servers: Remembered,
}

impl Memory {
    /// Reads what the kernel tells of these. Blocks.
    pub(super) fn picture(&mut self, facts: &mut Facts, sessions_max: usize) -> Picture {
        let mut entries = std::mem::take(&mut facts.entries);
        // Where not all have series, the oldest have.
        entries.sort_by_key(|entry| (entry.began(), entry.key.as_str().to_owned()));
        let kept = |entry: &Entry| facts.kept.get(entry.key.as_str());
        self.shown.choose(entries.iter().map(|entry| entry.key.as_str()), sessions_max);
        let machine = machine(entries.iter().filter(|entry| !entry.is_below).flat_map(Entry::leaves));
        let (mut sessions, mut omitted) = (Vec::new(), Vec::new());
        for entry in entries {
            if self.shown.has(entry.key.as_str()) {
                let kept = kept(&entry).cloned().unwrap_or_default();
                sessions.push(self.reading(entry, &kept));
            } else {
                omitted.push(Omitted { host: entry.host.clone(), servers: entry.processes() });
            }
        }
        let living: HashSet<&str> = sessions.iter().map(|reading| reading.view.key.as_str()).collect();
        self.sessions.retain(|key| living.contains(key));
        let servers = sessions.iter().flat_map(|reading| &reading.view.servers);
        let living: HashSet<&str> = servers.map(|server| server.leaf.as_str()).collect();
        self.servers.retain(|leaf| living.contains(leaf));
        Picture {
            sessions,
            omitted,
            machine,
            delayed: facts.delayed,
            parked: facts.parked,
            ending: facts.ends.len(),
            oldest_end: facts.ends.iter().copied().fold(0.0, f64::max),
            sessions_max: facts.sessions_max,
            servers_max: facts.servers_max,
        }
    }

    fn reading(&mut self, entry: Entry, kept: &BTreeMap<Option<String>, u64>) -> Reading {
        let leaves: Vec<Option<Arc<Leaf>>> = entry.all_leaves().cloned().collect();
        let (view, refusals) = publish::read(entry);
        let now = unix(SystemTime::now());
        let servers: Vec<(Hits, Seen)> = view
            .servers
            .iter()
            .zip(leaves.iter().zip(refusals))
            .map(|(server, (leaf, refused))| {
                let hits = leaf.as_ref().map(|leaf| hits_of(leaf.group(), refused)).unwrap_or_default();
                let started = unix(server.started_at.time());
                (hits, self.servers.see(&server.leaf, started, server.activity, now))
            })
            .collect();
        let hits = session_hits(leaves.iter().zip(servers.iter().map(|(hits, _)| hits)), kept);
        let started = view.servers.iter().map(|server| unix(server.started_at.time())).fold(now, f64::min);
        let seen = self.sessions.see(&view.key, started, view.activity, now);
        Reading { view, hits, seen, servers }
    }
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn hits_of(group: &Group, pids_limit: Option<u64>) -> Hits {
    let (memory_limit, memory_kills) = group.memory_hits();
    Hits { memory_kills, memory_limit, pids_limit }
}

/// The session's own counters. On v1 they do not tell kills, which are then those of its leaves, and those that were told of
/// leaves that are gone.
fn session_hits<'a>(
    servers: impl Iterator<Item = (&'a Option<Arc<Leaf>>, &'a Hits)>,
    kept: &BTreeMap<Option<String>, u64>,
) -> Hits {
    let mut hits = Hits::default();
    let mut read: Vec<&Group> = Vec::new();
    for (leaf, of_leaf) in servers.filter_map(|(leaf, hits)| Some((leaf.as_ref()?, hits))) {
        let session = leaf.session();
        if !session.has_memory_companion() {
            return hits_of(session, session.pids_limit_hits());
        }
        let told = kept.get(&Some(leaf.name().as_str().to_owned())).copied();
        let kills = of_leaf.memory_kills.max(told).unwrap_or(0);
        hits.memory_kills = Some(hits.memory_kills.unwrap_or_else(|| kept.get(&None).copied().unwrap_or(0)) + kills);
        // The callers of one session may stand in several v1 cgroups: what counts is the fullest, as with its memory.
        if !read.iter().any(|other| other.is(session)) {
            hits.memory_limit = hits.memory_limit.max(session.memory_limit_hits());
            hits.pids_limit = hits.pids_limit.max(session.pids_limit_hits());
            read.push(session);
        }
    }
    hits
}

/// The level above all sessions but those of containers. On a hybrid machine there is one for each v1 cgroup that callers stand in; what counts is
/// the fullest.
fn machine<'a>(leaves: impl Iterator<Item = &'a Arc<Leaf>>) -> Option<MemoryView> {
    let mut read: Vec<&Arc<Group>> = Vec::new();
    let mut fullest: Option<MemoryView> = None;
    for machine in leaves.map(|leaf| leaf.machine()) {
        if !read.iter().any(|other| other.is(machine)) {
            let memory = machine.memory();
            fullest = Some(fullest.map_or(memory, |fullest| publish::wider(fullest, memory)));
            read.push(machine);
        }
    }
    fullest
}

impl Entry {
    /// When the oldest of its servers was launched.
    fn began(&self) -> Option<Timestamp> {
        self.servers.iter().map(|server| server.view.started_at).min()
    }

    /// The leaf of each of its servers, none while one is being placed.
    fn all_leaves(&self) -> impl Iterator<Item = &Option<Arc<Leaf>>> {
        self.servers.iter().map(|server| &server.leaf)
    }

    fn leaves(&self) -> impl Iterator<Item = &Arc<Leaf>> {
        self.all_leaves().flatten()
    }

    /// Its servers, and how many processes each has.
    fn processes(&self) -> Vec<(crate::session::Name, u32)> {
        let count = |leaf: &Arc<Leaf>| leaf.processes().map_or(0, |pids| pids.len() as u32);
        let servers = self.servers.iter();
        servers.map(|server| (server.view.name.clone(), server.leaf.as_ref().map_or(0, count))).collect()
    }
}
