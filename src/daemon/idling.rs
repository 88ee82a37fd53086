//! The driver's side of idle servers: when their leaves are read, and what follows.
//!
//! Without `idle_after` there is nothing to read and no timer for it. With it, a leaf is read a few times in each span, off
//! the driver, on the monotonic clock: while the machine sleeps, no server is idle.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::driver::Driver;
use super::message::Message;
use super::stdin;
use super::table::Server;
use crate::cgroup::Leaf;
use crate::chain::chain;
use crate::lifecycle::{Activity, Due, Event, Moment, State};

/// What was read of some servers; `None` where that failed.
pub(super) type Readings = Vec<(u64, Option<Activity>)>;

impl Driver {
    /// When the next leaf is to be read.
    pub(super) fn next_reading(&self) -> Option<Moment> {
        self.table.servers.values().filter_map(next).min()
    }

    /// Reads the leaves that are due, all of them in one go.
    pub(super) fn read_idlers(&mut self, now: Moment) {
        let mut asked: Vec<(u64, Arc<Leaf>)> = Vec::new();
        for (number, server) in &mut self.table.servers {
            if next(server).is_some_and(|next| next <= now)
                && let (Some(idle), Some(leaf)) = (&mut server.idle, &server.leaf)
                && idle.ask(now)
            {
                asked.push((*number, leaf.clone()));
            }
        }
        if asked.is_empty() {
            return;
        }
        let outbox = self.outbox.clone();
        tokio::spawn(async move {
            let read = move || asked.iter().map(|(number, leaf)| (*number, activity(leaf))).collect();
            if let Ok(readings) = tokio::task::spawn_blocking(read).await {
                let _ = outbox.send(Message::Readings(readings)).await;
            }
        });
    }

    /// Ends those that have done nothing for as long as they may.
    pub(super) fn weigh_idlers(&mut self, readings: Readings) {
        let now = self.now();
        for (number, reading) in readings {
            let Some(server) = self.table.servers.get_mut(&number) else { continue };
            // What waits in stdin wakes the server at any moment, or it is busy with what came before.
            let waits = server.stdin.as_ref().is_some_and(|stdin| stdin::has_unread(stdin.as_fd()));
            let Some(idle) = &mut server.idle else { continue };
            let over = idle.read(now, reading.filter(|_| !waits));
            let after = idle.after();
            if over && server.state == State::Running {
                self.feed(number, Event::Due(Due::Idle { idle_after: after }));
            }
        }
    }
}

/// Only what runs can be idle.
fn next(server: &Server) -> Option<Moment> {
    server.idle.as_ref().filter(|_| server.state == State::Running && server.leaf.is_some())?.next()
}

fn activity(leaf: &Leaf) -> Option<Activity> {
    leaf.activity().unwrap_or_else(|error| {
        tracing::debug!(leaf = leaf.name().as_str(), error = %chain(&error), "it is not known whether it is idle");
        None
    })
}
