//! The driver's side of `memory_high`: what presses against one is watched until it is calm again, or stands still and is
//! ended.
//!
//! Nothing is polled before something presses: the kernel wakes us by `memory.events` of the cgroup that has the limit,
//! which counts it as `high`.

use std::path::Path;

use super::driver::Driver;
use super::table::Server;
use crate::cgroup::Leaf;
use crate::lifecycle::{Event, Moment, State, Verdict, Watchdog};
use crate::limits::Bytes;
use crate::outcome::{Cause, Level, Stall};

impl Driver {
    /// Watches for presses against what stands above a leaf; its own events are watched in any case.
    pub(super) fn watch_highs(&mut self, leaf: &Leaf) {
        for (group, has) in [leaf.session(), leaf.machine()].into_iter().zip(&leaf.memory_highs()[1..]) {
            if !has {
                continue;
            }
            let path = group.v2().path().to_owned();
            let known = self.table.pressed.get(&path).copied();
            let number = known.unwrap_or_else(|| self.table.number());
            self.table.pressed.insert(path, number);
            // The same directory again is the same watch (inotify_add_watch(2)); one that was made anew is another.
            if let Err(error) = self.watcher.watch_file(group.v2(), "memory.events", number) {
                tracing::warn!(leaf = leaf.name().as_str(), %error, "a memory_high above this leaf cannot be watched");
            }
        }
    }

    /// Stops watching what stands above no leaf any more.
    pub(super) fn forget_highs(&mut self) {
        let servers = &self.table.servers;
        let watcher = &self.watcher;
        self.table.pressed.retain(|path, number| {
            let used = servers.values().any(|server| server.leaf.as_ref().is_some_and(|leaf| is_below(leaf, path)));
            if !used {
                watcher.forget_files(*number);
            }
            used
        });
    }

    /// Event files have moved: of a leaf, or of what stands above some.
    pub(super) fn press(&mut self, number: u64) {
        let now = self.now();
        if let Some(server) = self.table.servers.get_mut(&number) {
            arm(server, now);
        } else if let Some((path, _)) = self.table.pressed.iter().find(|(_, pressed)| **pressed == number) {
            for server in self.table.servers.values_mut() {
                if server.leaf.as_ref().is_some_and(|leaf| is_below(leaf, path)) {
                    arm(server, now);
                }
            }
        }
    }

    /// Reads those that are watched and due, and ends what stands still.
    pub(super) fn read_pressure(&mut self, now: Moment) {
        let mut stalled = Vec::new();
        for number in self.table.servers.due(now) {
            let Some(server) = self.table.servers.get_mut(&number) else { continue };
            let Some(watchdog) = server.watchdog.as_mut().filter(|watchdog| watchdog.next() <= now) else { continue };
            let running = server.state == State::Running;
            let found = server.leaf.as_ref().filter(|_| running).and_then(|leaf| leaf.pressure());
            match found.map_or(Verdict::Calm, |found| watchdog.read(now, found)) {
                Verdict::Watched => {}
                Verdict::Calm => server.watchdog = None,
                Verdict::Stalled { level, stall } => stalled.push((number, level, stall)),
            }
        }
        for (number, level, stall) in stalled {
            self.end_stalled(number, level, stall);
        }
    }

    /// At its own limit a server ends itself. At one above, the server that uses most of it ends, once: then all that stood
    /// still there are given their time anew.
    fn end_stalled(&mut self, number: u64, level: Level, stall: Stall) {
        // One that stood still at the same limit may have been dealt with just now.
        let still = self.table.servers.get(&number).is_some_and(|server| {
            server.watchdog.as_ref().is_some_and(|watchdog| watchdog.is_long()) && server.state == State::Running
        });
        if !still {
            return;
        }
        let beside = self.below_the_same(number, level);
        for other in &beside {
            if let Some(watchdog) = self.table.servers.get_mut(other).and_then(|server| server.watchdog.as_mut()) {
                watchdog.anew();
            }
        }
        let ends_for_it = |other: &u64| {
            let cause = self.table.servers.get(other).and_then(|server| server.state.cause());
            matches!(cause, Some(Cause::Memory { level: at, stall: Some(_) }) if at == level)
        };
        // What ends for that gives back memory: whether that is enough shows when it is gone.
        if beside.iter().any(ends_for_it) {
            return;
        }
        let runs = |other: &&u64| self.table.servers.get(other).is_some_and(|server| server.state == State::Running);
        let most = beside.iter().filter(runs).max_by_key(|other| self.table.servers.get(other).map(used));
        if let Some(most) = most.copied() {
            let leaf = self.table.servers.get(&most).map(|server| server.leaf_name.as_str());
            tracing::warn!(leaf, %level, percent = stall.percent, "it stands still at a memory_high");
            self.feed(most, Event::Stalled { level, stall });
        }
    }

    /// The servers that a level's limit holds, if it is one of this server's.
    fn below_the_same(&self, number: u64, level: Level) -> Vec<u64> {
        let Some(leaf) = self.table.servers.get(&number).and_then(|server| server.leaf.as_ref()) else {
            return Vec::new();
        };
        let above = match level {
            Level::Session => leaf.session(),
            Level::Machine => leaf.machine(),
            Level::Server | Level::Outside => return vec![number],
        };
        let path = above.v2().path();
        let with_leaves = self.table.servers.iter().filter_map(|(other, server)| Some((*other, server.leaf.as_ref()?)));
        with_leaves.filter(|(_, leaf)| is_below(leaf, path)).map(|(other, _)| other).collect()
    }
}

/// Begins to watch, where one of its limits is such and it is not watched yet.
fn arm(server: &mut Server, now: Moment) {
    let Some(leaf) = server.leaf.as_ref().filter(|_| server.watchdog.is_none() && server.state == State::Running)
    else {
        return;
    };
    if leaf.memory_highs().contains(&true)
        && let Some(found) = leaf.pressure()
    {
        tracing::debug!(leaf = leaf.name().as_str(), "it may press against a memory_high");
        server.watchdog = Some(Watchdog::begin(server.stall, now, found));
    }
}

fn is_below(leaf: &Leaf, path: &Path) -> bool {
    leaf.session().v2().path() == path || leaf.machine().v2().path() == path
}

/// What a server holds that cannot be reclaimed: page cache is no reason to end anything.
fn used(server: &Server) -> Option<Bytes> {
    server.leaf.as_ref().and_then(|leaf| leaf.memory().rss_bytes)
}
