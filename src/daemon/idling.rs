//! The driver's side of idle servers: when their leaves are read, and what follows.
//!
//! Without `idle_after` there is nothing to read and no timer for it. With it, a leaf is read a few times in each span, off
//! the driver, on the monotonic clock: while the machine sleeps, no server is idle.
//!
//! What the kernel holds up while it is read is alive, and so is what seemed idle and did something before it was read once
//! more, by itself.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::driver::Driver;
use super::message::Message;
use super::publish;
use super::stdin;
use super::table::Server;
use crate::cgroup::Leaf;
use crate::chain::chain;
use crate::lifecycle::{Activity, Due, Event, Moment, State};
use crate::session::ProcessId;

/// How long a reading may take: `/proc/PID/io` waits for a process that executes a program.
const READ_MAX: Duration = Duration::from_secs(10);

/// How many are read at the same time. One that the kernel holds up keeps its place.
const READERS: usize = 16;

/// What was read of a server.
#[derive(Debug)]
pub(super) struct Reading {
    number: u64,
    /// `None` where that failed, or the server is not where it could be read.
    activity: Option<Activity>,
    /// It had seemed idle before.
    again: bool,
}

/// The turns of those that read.
#[derive(Debug, Clone)]
pub(super) struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(READERS)))
    }
}

impl Driver {
    /// When the next leaf is to be read.
    pub(super) fn next_reading(&self) -> Option<Moment> {
        self.table.servers.values().filter_map(next).min()
    }

    /// Reads the leaves that are due.
    pub(super) fn read_idlers(&mut self, now: Moment) {
        let mut asked = Vec::new();
        for (number, server) in &mut self.table.servers {
            if next(server).is_some_and(|next| next <= now) && server.idle.as_mut().is_some_and(|idle| idle.ask(now)) {
                asked.push(*number);
            }
        }
        asked.into_iter().for_each(|number| self.read_idler(number, false));
    }

    fn read_idler(&self, number: u64, again: bool) {
        let Some(server) = self.table.servers.get(&number) else { return };
        let Some(leaf) = server.leaf.clone() else { return };
        let (leader, readers, outbox) = (server.leader, self.readers.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let activity = tokio::time::timeout(READ_MAX, read(&readers, leaf, leader)).await.ok().flatten();
            let _ = outbox.send(Message::Reading(Reading { number, activity, again })).await;
        });
    }

    /// Ends it, where it has done nothing for as long as it may.
    pub(super) fn weigh_idler(&mut self, reading: Reading) {
        let now = self.now();
        let Some(server) = self.table.servers.get_mut(&reading.number) else { return };
        // What waits in stdin wakes the server at any moment, or it is busy with what came before.
        let waits = server.stdin.as_ref().is_some_and(|stdin| stdin::has_unread(stdin.as_fd()));
        let Some(idle) = &mut server.idle else { return };
        let over = idle.read(now, reading.activity.filter(|_| !waits));
        let after = idle.after();
        if !over || server.state != State::Running {
            return;
        }
        if reading.again {
            self.feed(reading.number, Event::Due(Due::Idle { idle_after: after }));
        } else {
            // A call may have come since it was read.
            idle.ask_again(now);
            self.read_idler(reading.number, true);
        }
    }
}

/// Only what runs can be idle.
fn next(server: &Server) -> Option<Moment> {
    server.idle.as_ref().filter(|_| server.state == State::Running && server.leaf.is_some())?.next()
}

async fn read(Readers(turns): &Readers, leaf: Arc<Leaf>, leader: ProcessId) -> Option<Activity> {
    let turn = turns.clone().acquire_owned().await.ok()?;
    let reading = tokio::task::spawn_blocking(move || {
        let activity = activity(&leaf, leader);
        drop(turn);
        activity
    });
    reading.await.ok().flatten()
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
