//! What Prometheus and the page at `/` are told: counters of what happened, and one picture of what is.
//!
//! Nothing here reads a cgroup, waits, or owns a clock: whoever scrapes takes the picture, and gives the time. All names
//! are told in `docs/metrics.md`, which a test keeps equal to what is exported here.

mod counters;
#[cfg(test)]
mod documented;
mod encode;
mod families;
mod host;
mod own;
mod page;
mod pairs;
#[cfg(test)]
mod samples;
mod seen;
mod shown;

pub use counters::{Counters, Kept};
pub use encode::{Family, Format};
pub use families::families;
pub use host::is_ours;
pub use own::Own;
pub use page::{Page, page, policy};
pub use pairs::Pairs;
pub use seen::{Remembered, Seen};
pub use shown::Shown;

use crate::session::Name;
use crate::snapshot::{MemoryView, SessionView};

/// What a host is called that is not known.
pub(crate) const UNKNOWN: &str = "unknown";

/// How often limits were reached, as the kernel counts. `None` where it does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hits {
    /// Kills for memory.
    pub memory_kills: Option<u64>,
    /// Times at the memory limit.
    pub memory_limit: Option<u64>,
    /// Forks that were refused.
    pub pids_limit: Option<u64>,
}

/// A session that has series of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// What the kernel tells of it.
    pub view: SessionView,
    /// Of the session.
    pub hits: Hits,
    /// Its times.
    pub seen: Seen,
    /// The same of each of its servers, in their order.
    pub servers: Vec<(Hits, Seen)>,
}

/// A session beyond the cap: it is counted, and has no series of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Omitted {
    /// Its host.
    pub host: Option<Name>,
    /// Its servers, and how many processes each has.
    pub servers: Vec<(Name, u32)>,
}

/// All that is, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Picture {
    /// Those with series of their own.
    pub sessions: Vec<Reading>,
    /// Those beyond the cap.
    pub omitted: Vec<Omitted>,
    /// The level above all sessions, where one of them stands in it.
    pub machine: Option<MemoryView>,
    /// Launches that had to wait for their turn, since the daemon started.
    pub delayed: u64,
    /// Servers that are parked.
    pub parked: usize,
    /// Servers whose end is under way.
    pub ending: usize,
    /// For how long the oldest of these ends is under way, in seconds.
    pub oldest_end: f64,
    /// The most sessions.
    pub sessions_max: u32,
    /// The most servers.
    pub servers_max: u32,
}
