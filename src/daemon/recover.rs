//! What a daemon does first: adopts the servers that live, and sweeps what is empty.
//!
//! The cgroup tree is the truth. A leaf with processes and a record goes on as if nothing had happened; what is empty is
//! removed; a first process that lives outside its leaf, also where that is gone, is the server still; of a leaf with
//! processes and no record its processes tell what it is, and where they do not it is told and left alone. Records of an
//! earlier boot, in a directory that outlived it, are told and removed, and nothing in them is looked up: the numbers of its
//! processes mean others now.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::chronicle::About;
use super::containers::Left;
use super::driver::Driver;
use super::historian::Kept;
use super::log::LINES;
use super::outside::First;
use super::parking::{Nap, spans};
use super::removing;
use super::supervision::thaw;
use super::table::{Entry, Owner, Server, Session, Stock};
use super::watch::Source;
use crate::cgroup::{Caller, CgroupError, Leaf, has_exited};
use crate::chain::chain;
use crate::lifecycle::{Due, Event, Idle, State};
use crate::occurrence::{Ended, What};
use crate::outcome::{Cause, Outcome};
use crate::policy::SERVER_VARIABLE;
use crate::process;
use crate::realm::Realm;
use crate::records::{Loaded, Past, Record};
use crate::sys::crash;
use crate::timestamp::Timestamp;

impl Driver {
    /// Takes over what an earlier daemon left.
    pub(super) fn recover(&mut self) {
        let Loaded { records, past, unreadable } = self.records.load(&self.boot_id).unwrap_or_else(|error| {
            tracing::error!(error = %chain(&error), "what earlier launches left cannot be adopted");
            Loaded::default()
        });
        for error in unreadable {
            tracing::warn!(error = %chain(&error), "a record is passed over; remove it if no server of it lives");
        }
        // Whoever has input waiting waits no longer than this.
        for error in thaw(records.iter()).failed {
            tracing::error!(error = %chain(&error), "what stands there may be frozen, and cannot be thawed");
        }
        self.tell_past(&past);
        let leaves = self.backend.leaves().unwrap_or_else(|error| {
            tracing::error!(error = %chain(&error), "the tree cannot be read");
            Vec::new()
        });
        // What is adopted is given numbers for what it watches, too: they begin above all that there were.
        let numbers = records.iter().filter_map(Record::place).chain(leaves.iter().cloned());
        self.table.next = numbers.map(|place| place.leaf.launch()).fold(self.table.next, u64::max);
        // As they were launched: the last one's host says what holds its session.
        let mut records = records;
        records.sort_by_key(|record| record.place().map(|place| place.leaf.launch()));
        let mut known: Vec<Caller> = Vec::new();
        let (mut adopted, mut swept) = (0, 0);
        for record in records {
            let Some(place) = record.place() else { continue };
            self.table.next = self.table.next.max(place.leaf.launch());
            self.table.generation = self.table.generation.max(record.generation);
            // Its leaf is known as it stands, if it is in our own tree.
            known.push(Caller { below: Realm::Host, ..place.clone() });
            let opened = match self.open(&place, &record) {
                Ok(leaf) => match self.undo_move(&place, &record, leaf) {
                    Some(leaf) => Ok(leaf),
                    None => {
                        self.sweep(record, None);
                        swept += 1;
                        continue;
                    }
                },
                failed => failed,
            };
            match opened {
                Ok(leaf) if leaf.populated().unwrap_or(true) || lives_outside(&record) => {
                    self.adopt(&place, &record, leaf);
                    if record.moving_from.is_some() {
                        self.stays_moved(place.leaf.launch());
                    }
                    crash::step("a server was adopted");
                    adopted += 1;
                }
                Err(error) if !error.is_gone() => {
                    tracing::error!(error = %chain(&error), "a leaf cannot be adopted and is left to the next start");
                }
                Ok(_) | Err(_) => {
                    let kept = self.tell_unseen(&record);
                    self.sweep(record, kept);
                    swept += 1;
                }
            }
        }
        for place in leaves {
            if !known.contains(&place) {
                match self.backend.sweep_unknown(&place) {
                    Ok(()) => swept += 1,
                    Err(_) if self.adopt_unknown(&place) => adopted += 1,
                    Err(error) => {
                        tracing::warn!(error = %chain(&error), "a leaf that no record tells of is left alone");
                    }
                }
            }
        }
        self.backend.sweep_empty();
        self.store.remove_rest();
        self.replace_all();
        self.expire();
        if adopted + swept > 0 {
            tracing::info!(adopted, swept, "took over from an earlier daemon");
        }
    }

    /// Opens the leaf of a record, or what is left of it where somebody removed it: its server may have left it before.
    fn open(&self, place: &Caller, record: &Record) -> Result<Leaf, CgroupError> {
        match self.backend.adopt(place, &record.machine, record.held.as_ref()) {
            Err(error) if error.is_gone() => {
                let left = self.backend.adopt_remains(place, &record.machine)?;
                if lives_outside(record) {
                    let (server, pid) = (&record.server, record.leader.pid);
                    tracing::warn!(%server, pid, "a server outlived its leaf, which somebody removed; it is shown as escaped");
                }
                Ok(left)
            }
            opened => opened,
        }
    }

    /// Tells of what ended with an earlier boot, each before its record goes.
    fn tell_past(&self, past: &[Past]) {
        for record in past {
            match &record.server {
                Some((session, server)) => tracing::info!(
                    %session,
                    %server,
                    "server {server} of session {session} ended with an earlier boot of the machine"
                ),
                None => tracing::info!(
                    record = %record.path.display(),
                    "a record that an earlier boot of the machine left does not tell of which server, and is removed"
                ),
            }
            if let Err(error) = self.records.remove_past(record) {
                tracing::warn!(error = %chain(&error), "a record of an earlier boot stays, and will be told of again");
            }
        }
    }

    /// Puts a living leaf back into the table.
    pub(super) fn adopt(&mut self, place: &Caller, record: &Record, leaf: Leaf) {
        let number = place.leaf.launch();
        // The leader may be gone while what it left behind lives.
        let pidfd = process::hold(record.leader).map(Arc::new);
        let (stdin, stderr) = self.take_held(&place.leaf, record, pidfd.as_deref());
        let owner_gone = !self.adopt_owner(number, record);
        let leaf = Arc::new(leaf);
        let server = Server {
            key: place.key.clone(),
            leaf_name: place.leaf.clone(),
            name: record.server.clone(),
            host: record.host.clone(),
            entry: match record.entry_seen {
                None => Entry::Unnamed,
                Some(false) => Entry::Unseen,
                Some(true) => Entry::Seen,
            },
            argv: record.argv.clone(),
            instance: record.instance.clone(),
            labels: record.labels.clone(),
            relabelled: false,
            generation: record.generation,
            state: State::Running,
            terms: self.terms(record.grace, record.stdin_grace),
            on_pids: record.on_pids,
            idle: Idle::begin(spans(&record.resting, record.idle_after), self.now()),
            resting: record.resting,
            nap: Nap::default(),
            stall: record.stall,
            watchdog: None,
            asked: record.asked.clone(),
            confine: record.confine,
            container: record.container_place,
            remover: record.container_remover.clone(),
            monitored: monitored(record).filter(|_| leaf.containers().is_none()),
            held: record.held,
            adopted: record.adopted,
            settings: self.reloads.generation,
            leader: record.leader,
            leader_pidfd: pidfd.clone(),
            exit: None,
            owner: record.owner,
            stdin,
            stderr,
            leaf: Some(leaf.clone()),
            started_at: Timestamp::of(record.started_at),
            ending_since: None,
            warnings: record.warnings.clone(),
            escaped: false,
            escapees_told: false,
            memory_kill_told: false,
            pids_told: leaf.group().pids_refusals(),
            launch: None,
            jobs: Default::default(),
            busy: false,
            stock: Stock::default(),
        };
        let session = self.table.sessions.entry(place.key.clone()).or_insert_with(|| Session {
            id: record.session.clone(),
            uid: record.uid,
            container: record.container.clone(),
            named_by: record.named_by,
            host: record.host.clone(),
            servers: Vec::new(),
            expires: None,
            machines: Vec::new(),
        });
        session.servers.push(number);
        // One that ended and one that was launched meanwhile may differ: the later moment is that of the session.
        session.expires = session.expires.into_iter().chain(record.expires).max_by_key(|expiry| expiry.at);
        if !session.machines.contains(&record.machine) {
            session.machines.push(record.machine.clone());
        }
        self.table.servers.insert(number, server);
        self.occurred(number, What::Adopted { pid: record.leader.pid });
        if let Some(ending) = record.ending {
            self.resume_end(number, ending);
        }
        match pidfd.as_deref().map(|pidfd| self.watcher.watch(pidfd, Source::Leader(number))) {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%error, "an adopted server's first process cannot be watched"),
            None => self.feed(number, Event::LeaderExited),
        }
        self.watch_leaf(number, &leaf);
        self.thaw_adopted(number);
        self.follow_container(number);
        if let Err(error) = leaf.limit_swap(record.resting.swap_max) {
            tracing::warn!(error = %chain(&error), leaf = record.leaf, "its limit on swap is not what it was given");
        }
        if owner_gone {
            self.feed(number, Event::OwnerGone);
        }
        if let Some(expiry) = record.expires.filter(|expiry| expiry.at <= process::since_boot()) {
            self.feed(number, Event::Due(Due::Expired { ttl: expiry.ttl }));
        }
    }

    /// Holds the owner of an adopted server, where it has one beside itself; `false` where it is gone.
    fn adopt_owner(&mut self, number: u64, record: &Record) -> bool {
        if record.owner == record.leader {
            return true;
        }
        if let Some(owner) = self.table.owners.values_mut().find(|owner| owner.id == record.owner) {
            owner.servers.insert(number);
            return true;
        }
        let Some(pidfd) = process::hold(record.owner) else { return false };
        let watch = self.table.number();
        if let Err(error) = self.watcher.watch(&pidfd, Source::Owner(watch)) {
            tracing::warn!(%error, "an adopted server's owner cannot be watched");
        }
        self.table.owners.insert(watch, Owner { id: record.owner, pidfd, servers: [number].into() });
        true
    }

    /// Tells of a server that ended while no daemon ran: it has the cause for which its end began, or its first process left.
    fn tell_unseen(&mut self, record: &Record) -> Option<Kept> {
        let lives = || process::hold(record.leader).is_some_and(|leader| !has_exited(leader.as_fd()));
        if record.ending.is_none() && lives() {
            // The daemon died before its launcher was placed, which then was refused or runs elsewhere: there was no server.
            return None;
        }
        let cause = record.ending.map_or(Cause::LeaderExited, |ending| ending.cause);
        let (session, server) = (&record.session, &record.server);
        tracing::info!(
            target: LINES, %session, %server, cause = cause.word(),
            "server {server} of session {session} ended while no daemon ran: {cause}"
        );
        if cause == Cause::LaunchFailed {
            return None;
        }
        let outcome =
            Outcome { cause, processes: None, killed: false, memory_bytes: None, peak_bytes: None, exit: None };
        let lifetime_seconds = record.started_at.elapsed().unwrap_or_default().as_secs_f64();
        let started_at = Timestamp::of(record.started_at);
        self.ended(
            About::record(record),
            Ended { outcome, started_at, lifetime_seconds, end_seconds: None, parked_seconds: 0.0 },
        )
    }

    /// Removes what is empty, and lets its record go. On a hybrid machine a launcher that was on its way into the leaf may
    /// still be in a companion: then it is tried again, when the driver has other things to do.
    fn sweep(&mut self, record: Record, kept: Option<Kept>) {
        let Some(place) = record.place() else { return };
        let (backend, turns) = (self.backend.clone(), self.removals.clone());
        let session = place.key.as_str().to_owned();
        // Its monitor went without it.
        for first in monitored(&record).unwrap_or_default().iter().filter(|first| first.kill()) {
            tracing::info!(leaf = record.leaf, pid = first.id.pid, "a container outlived its server, and is killed");
        }
        let (leaf, left) = (record.leaf, Left::new(place.leaf.clone(), record.container_remover));
        let sweep = move || match backend.sweep(&place, &record.machine) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "an empty leaf is not removed yet");
                false
            }
        };
        let swept = sweep();
        let (letting_go, engine) = (self.let_go(leaf, kept), self.engines.queue(record.uid));
        tokio::spawn(async move {
            if !swept {
                removing::again(&turns, &session, Arc::new(sweep)).await;
            }
            engine.remove(left, session).await;
            letting_go.await;
        });
    }
}

/// What still lives of the first processes of a container outside.
fn monitored(record: &Record) -> Option<Vec<First>> {
    Some(record.container_first.as_ref()?.iter().filter_map(|id| First::of(*id)).collect())
}

/// Whether a server's first process lives, where its leaf tells that it is not there. The mark in its environment tells a
/// server that left its leaf from a launcher that never came so far: that one is no server, and may be launching anew.
fn lives_outside(record: &Record) -> bool {
    let environment = process::environment(record.leader.pid);
    let is_marked = environment.iter().any(|(name, value)| name == SERVER_VARIABLE && *value == record.leaf);
    // What was adopted ran before it could be marked; once it was in its leaf it was a server.
    let was_there = record.adopted && record.moving_from.is_none();
    (is_marked || was_there) && process::hold(record.leader).is_some()
}
