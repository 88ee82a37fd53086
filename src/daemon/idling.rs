//! The driver's side of idle servers: when their leaves are read, and what follows.
//!
//! Without a span after which something follows there is nothing to read and no timer for it. With one, a leaf is read a few
//! times in each span, off the driver, on the monotonic clock: while the machine sleeps, no server is idle.
//!
//! What the kernel holds up while it is read is alive, with all of its user that was to be read with it; and so is what
//! seemed idle and did something before it was read once more, by itself.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::driver::Driver;
use super::fair::{FairTurns, Queue};
use super::message::Message;
use super::publish;
use super::stdin;
use crate::cgroup::Leaf;
use crate::chain::chain;
use crate::lifecycle::{Activity, Due, Event, Moment, State};
use crate::session::ProcessId;
use crate::timespan::TimeSpan;

/// How long a reading may take: `/proc/PID/io` waits for a process that executes a program.
const READ_MAX: Duration = Duration::from_secs(10);

/// How many are read at the same time, and of one user. One that the kernel holds up keeps its place.
const READERS: usize = 16;
const READERS_OF_ONE: usize = 4;

/// Of each server what it has done; `None` where that could not be read, or the server is not where it could.
type Found = Vec<(u64, Option<Activity>)>;

/// What was read of some servers.
#[derive(Debug)]
pub(super) struct Readings {
    activities: Found,
    /// They had seemed idle before.
    again: bool,
}

/// The turns of those that read.
pub(super) fn readers() -> FairTurns {
    FairTurns::new(READERS, READERS_OF_ONE)
}

impl Driver {
    /// Reads the leaves that are due, those of one user in one go.
    pub(super) fn read_idlers(&mut self, now: Moment) {
        let mut asked: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for number in self.table.servers.due(now) {
            let Some(server) = self.table.servers.get_mut(&number) else { continue };
            let is_due = server.next_reading().is_some_and(|next| next <= now);
            if is_due && server.idle.as_mut().is_some_and(|idle| idle.ask(now)) {
                let uid = self.table.sessions.get(&server.key).map_or(0, |session| session.uid);
                asked.entry(uid).or_default().push(number);
            }
        }
        asked.into_iter().for_each(|(uid, numbers)| self.read_leaves(uid, numbers, false));
    }

    fn read_leaves(&mut self, uid: u32, numbers: Vec<u64>, again: bool) {
        let leaf = |number: &u64| {
            let server = self.table.servers.get(number)?;
            Some((*number, server.leaf.clone()?, server.leader))
        };
        let leaves: Vec<_> = numbers.iter().filter_map(leaf).collect();
        let (queue, outbox) = (self.readers.of(uid), self.outbox.clone());
        tokio::spawn(async move {
            let read = tokio::time::timeout(READ_MAX, read(queue, leaves)).await.ok().flatten();
            let activities = read.unwrap_or_else(|| numbers.into_iter().map(|number| (number, None)).collect());
            let _ = outbox.send(Message::Readings(Readings { activities, again })).await;
        });
    }

    /// Ends those that have done nothing for as long as they may, and has others rest ([`super::parking`]).
    pub(super) fn weigh_idlers(&mut self, readings: Readings) {
        let mut seem_idle = Vec::new();
        for (number, activity) in readings.activities {
            let idle = self.weigh_idler(number, activity);
            let Some(idle_after) = idle.and_then(|idle| self.is_over(number, idle)) else {
                self.rest(number, idle);
                continue;
            };
            if readings.again {
                self.feed(number, Event::Due(Due::Idle { idle_after }));
            } else {
                seem_idle.push(number);
            }
        }
        // A call may have come since they were read.
        let now = self.now();
        for number in &seem_idle {
            if let Some(idle) = self.table.servers.get_mut(number).and_then(|server| server.idle.as_mut()) {
                idle.ask_again(now);
            }
        }
        for number in seem_idle {
            self.read_leaves(self.table.uid(number), vec![number], true);
        }
    }

    /// For how long it may be idle, where it has been.
    fn is_over(&self, number: u64, idle: Duration) -> Option<TimeSpan> {
        let server = self.table.servers.get(&number).filter(|server| server.state == State::Running)?;
        server.idle.as_ref()?.spans().end.filter(|span| idle >= span.duration())
    }

    /// For how long it has been idle, where it has.
    fn weigh_idler(&mut self, number: u64, activity: Option<Activity>) -> Option<Duration> {
        let now = self.now();
        let server = self.table.servers.get_mut(&number)?;
        // What waits in stdin wakes the server at any moment, or it is busy with what came before.
        let waits = server.stdin.as_ref().is_some_and(|stdin| stdin::has_unread(stdin.as_fd()));
        server.idle.as_mut()?.read(now, activity.filter(|_| !waits))
    }
}

async fn read(queue: Queue, leaves: Vec<(u64, Arc<Leaf>, ProcessId)>) -> Option<Found> {
    let turn = queue.turn().await?;
    let reading = tokio::task::spawn_blocking(move || {
        let found = leaves.iter().map(|(number, leaf, leader)| (*number, activity(leaf, *leader))).collect();
        drop(turn);
        found
    });
    reading.await.ok()
}

/// What it did is not known of a server whose first process has left the leaf.
fn activity(leaf: &Leaf, leader: ProcessId) -> Option<Activity> {
    if publish::is_outside(leader, leaf) {
        return None;
    }
    leaf.activity().unwrap_or_else(|error| {
        tracing::debug!(leaf = leaf.name().as_str(), error = %chain(&error), "it is not known whether it is idle");
        None
    })
}
