//! How a server ends: a pure function from (state, event, moment) to (state, actions).
//!
//! It owns the order of an end, and when readings over time become a fact ([`Idle`], [`Watchdog`]), and how
//! what is idle rests ([`Rest`]). It reads no clock,
//! touches no process and logs nothing: the daemon's driver feeds it facts and carries out its actions.
//!
//! ```text
//!  Placing ──placed──▶ Running ─leader/stdin/owner…─▶ Weighing ──▶ Terminating ──grace over──▶ Killing
//!     │                   │ │                            │   │          ▲   │                    │  ▲
//!     │ failed            │ └──memory────────────────────┼───┼──────────┼───┼───────────────────▶│  │ not removable
//!     ▼                   │                  stdin_closed▼   │ empty    │   │ empty              ▼  │
//!  Withdrawing            └──end requested──────────▶ Leaving┼──────────┘   └────────────────▶ Removing ──▶ Ended
//!     └───────────────────────────────────────────────────────────────────── empty ─────────────▶┘
//! ```
//!
//! * One death shows as several facts: a killed host closes stdin first, and what the kernel killed for memory also
//!   exits. So the first fact opens a short window ([`Terms::weighing`]) in which the strongest one is found.
//! * An end that is under way keeps its cause. What is [`Due`] ends as if it was requested.
//! * Only the kernel ends an end: `Emptied` means that the leaf's `cgroup.events` said `populated 0`.
//! * `cgroup.kill` is written again on a deadline: before Linux 6.12.16 and 6.1.129 a fork could slip through one write.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod idle;
mod rest;
mod stall;
mod step;

#[cfg(test)]
mod model;

use std::time::Duration;

use crate::outcome::{Cause, Level, Stall};
use crate::timespan::TimeSpan;
pub use idle::{Activity, Idle, Spans};
pub use rest::{ParkReason, Rest, ThawReason, Want};
pub use stall::{Pressure, Verdict, Watchdog};

/// Time since the daemon's start, on the monotonic clock.
pub type Moment = Duration;

/// How long all facts are read again after the first one spoke, where the kernel tells them all.
pub const WEIGHING: Duration = Duration::from_millis(100);

/// The same where a service manager has a part in it: that it stops something is told over D-Bus, on a busy machine a
/// quarter of a second after what it stopped has exited.
pub const WEIGHING_OF_UNITS: Duration = Duration::from_millis(500);

/// How long a launcher whose launch failed may stay in its leaf: it only has to print its reason and exit.
pub const WITHDRAWING: Duration = Duration::from_secs(5);

/// The first wait before `cgroup.kill` is written again; it doubles up to [`KILL_AGAIN_MOST`].
pub const KILL_AGAIN: Duration = Duration::from_millis(200);

/// The longest wait before `cgroup.kill` is written again. What is in uninterruptible sleep is tried for ever.
pub const KILL_AGAIN_MOST: Duration = Duration::from_secs(10);

/// How long the end of a server may take at each step, as the policy granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Between SIGTERM and `cgroup.kill`.
    pub grace: Duration,
    /// Between the hang-up of stdin and SIGTERM.
    pub stdin_grace: Duration,
    /// Between the first fact and the verdict which one explains most.
    pub weighing: Duration,
}

/// Where a server is on its way. Why it ended is [`Cause`]; the two are never mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The backend makes the leaf and moves the launcher in. An end that arrives now waits for that.
    Placing {
        /// The end that arrived.
        doomed: Option<Cause>,
    },
    /// The launcher was proved to be in the leaf and told to exec.
    Running,
    /// A fact spoke; all others are read again until `until`, and the strongest is kept.
    Weighing(Window),
    /// Its stdin was closed: it may leave by itself until `until`.
    Leaving {
        /// When patience ends.
        until: Moment,
    },
    /// SIGTERM was sent to all of it.
    Terminating {
        /// When it is killed.
        until: Moment,
        /// Why it ends.
        cause: Cause,
    },
    /// `cgroup.kill` was written.
    Killing {
        /// When it is written again.
        again: Moment,
        /// How long the wait after that will be.
        pause: Duration,
        /// Why it ends.
        cause: Cause,
    },
    /// The launch failed: the launcher is still in the leaf, prints its reason and exits.
    Withdrawing {
        /// When it is killed.
        until: Moment,
        /// Why it ends.
        cause: Cause,
    },
    /// The kernel said empty; last readings are taken and the directories removed.
    Removing {
        /// Why it ended.
        cause: Cause,
    },
    /// Nothing of it is left.
    Ended {
        /// Why it ended.
        cause: Cause,
    },
}

/// The facts of [`State::Weighing`] so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// When it closes.
    until: Moment,
    /// The strongest fact.
    strongest: Cause,
    /// The leader was seen gone.
    leader_gone: bool,
    /// The leaf was seen empty.
    empty: bool,
}

impl State {
    /// When the state changes by itself, if nothing else happens before.
    pub fn deadline(self) -> Option<Moment> {
        match self {
            Self::Weighing(Window { until, .. })
            | Self::Leaving { until }
            | Self::Terminating { until, .. }
            | Self::Withdrawing { until, .. } => Some(until),
            Self::Killing { again, .. } => Some(again),
            Self::Placing { .. } | Self::Running | Self::Removing { .. } | Self::Ended { .. } => None,
        }
    }

    /// Why it ends, once that is settled.
    pub fn cause(self) -> Option<Cause> {
        match self {
            Self::Placing { doomed } => doomed,
            Self::Running => None,
            Self::Weighing(Window { strongest, .. }) => Some(strongest),
            Self::Leaving { .. } => Some(Cause::StdinClosed),
            Self::Terminating { cause, .. }
            | Self::Killing { cause, .. }
            | Self::Withdrawing { cause, .. }
            | Self::Removing { cause }
            | Self::Ended { cause } => Some(cause),
        }
    }

    /// The word for views and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Placing { .. } => "placing",
            Self::Running => "running",
            Self::Weighing(_) | Self::Leaving { .. } | Self::Terminating { .. } => "ending",
            Self::Killing { .. } => "killing",
            Self::Withdrawing { .. } | Self::Removing { .. } => "removing",
            Self::Ended { .. } => "ended",
        }
    }
}

/// Why a server is to end although nothing happened to it and nobody asks: as much of an order as a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The time-to-live of its session is over.
    Expired {
        /// How long it was.
        ttl: TimeSpan,
    },
    /// It did nothing for as long as its policy allows.
    Idle {
        /// How long that was.
        idle_after: TimeSpan,
    },
    /// Its entry is gone from its host's configuration.
    Unconfigured,
    /// A later instance of it has taken its place.
    Replaced,
}

impl From<Due> for Cause {
    fn from(due: Due) -> Self {
        match due {
            Due::Expired { ttl } => Self::Expired { ttl },
            Due::Idle { idle_after } => Self::Idle { idle_after },
            Due::Unconfigured => Self::Unconfigured,
            Due::Replaced => Self::Replaced,
        }
    }
}

/// What happened, each a fact that was read from the kernel or an order from somebody entitled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The launcher is proved to be in its leaf, under its limits.
    Placed,
    /// It could not be placed; what was made of the leaf is to go.
    PlacementFailed,
    /// Somebody entitled ordered the end.
    EndRequested {
        /// Begin at `cgroup.kill`, with no SIGTERM and no grace.
        now: bool,
    },
    /// The leader's pidfd is readable.
    LeaderExited,
    /// The held stdin hung up.
    StdinClosed,
    /// The owner's pidfd is readable.
    OwnerGone,
    /// systemd stops the unit that the leaf stands in: it has sent SIGTERM to all of it.
    Stopped,
    /// systemd-oomd has sent SIGKILL to all of the leaf, or is about to.
    OomdKill,
    /// The kernel killed in the leaf for memory.
    MemoryKill {
        /// Whose limit it was.
        level: Level,
    },
    /// It stands still at a `memory_high`, or is what has to go for another one that does.
    Stalled {
        /// Whose `memory_high` it is.
        level: Level,
        /// What was measured.
        stall: Stall,
    },
    /// A process limit was reached, and the policy ends the server for it.
    PidsLimit {
        /// Whose limit it was.
        level: Level,
    },
    /// It is to end, and nobody has to ask for it any more.
    Due(Due),
    /// The leaf's `cgroup.events` says `populated 0`.
    Emptied,
    /// The state's deadline may have passed.
    Tick,
    /// The leaf's directories are gone.
    Removed,
    /// They could not be removed: something is in them.
    RemovalFailed,
}

/// What the driver is to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Read leader, owner, stdin and the counters again, and feed what they say.
    ReadFacts,
    /// Let go of the held stdin: while we hold it, a host can write to a dead server without EPIPE.
    ReleaseStdin,
    /// Let go of the held stderr: nothing will be told there, and a host may wait for its end.
    ReleaseStderr,
    /// Count what is there, for the outcome.
    TakeStock,
    /// SIGTERM and SIGCONT to every process of the leaf.
    Terminate,
    /// Write `cgroup.kill`, and watch for `populated 0`.
    Kill,
    /// Take the last readings and remove the directories.
    Remove,
    /// All is over: tell the outcome.
    Tell,
}

/// The answer of [`State::step`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// Where the server is now.
    pub state: State,
    /// What is to be done for it.
    pub actions: Vec<Action>,
}
