//! What an idle server's memory is used for in the meantime: it is trimmed while it goes on, or parked: frozen, and then
//! trimmed. Neither ends anything, and a server that is wanted is awake again before anything else happens to it.
//!
//! ```text
//!           idle for trim_after              idle for park_after, and may be parked
//!  Awake ─────────────────────▶ Trimming ─▶ Trimmed ───────────────────────────────▶ Parking ──▶ Parked
//!    ▲                             │           │                                        │          │
//!    └──────── it did something, or input, its end, an order, a configuration, a stop ──┴──────────┘
//! ```

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Spans;

/// How a server that runs rests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rest {
    /// It does not.
    #[default]
    Awake,
    /// Its memory is being given back, and it goes on.
    Trimming,
    /// Its memory was given back, and it has done nothing since.
    Trimmed,
    /// It is being frozen, and its memory given back.
    Parking,
    /// It is frozen.
    Parked,
}

/// What is to be done for an idle server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Want {
    /// Nothing.
    Nothing,
    /// Give its memory back.
    Trim,
    /// Freeze it, and give its memory back.
    Park,
}

impl Rest {
    /// What is due after it was idle for so long. What may not be parked is trimmed instead.
    pub fn wants(self, spans: Spans, idle: Duration, may_park: bool) -> Want {
        let reached = |span: Option<crate::timespan::TimeSpan>| span.is_some_and(|span| idle >= span.duration());
        match self {
            Self::Awake | Self::Trimmed if may_park && reached(spans.park) => Want::Park,
            Self::Awake if reached(spans.trim) || reached(spans.park) => Want::Trim,
            Self::Awake | Self::Trimmed | Self::Trimming | Self::Parking | Self::Parked => Want::Nothing,
        }
    }

    /// Whether it is frozen, or about to be.
    pub fn is_frozen(self) -> bool {
        matches!(self, Self::Parking | Self::Parked)
    }
}

/// Why a server was parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParkReason {
    /// It was idle for `park_after`.
    Idle,
    /// Somebody entitled asked.
    Requested,
}

impl ParkReason {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Idle, Self::Requested];

    /// The word for JSON, metrics and the journal.
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Requested => "requested",
        }
    }
}

/// Why a parked server was thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThawReason {
    /// Something was written to its stdin.
    Input,
    /// Its stdin hung up.
    Closed,
    /// Its end began.
    Ending,
    /// Somebody entitled asked.
    Requested,
    /// The configuration was read anew: what may be parked may be another thing, and limits are changed.
    Reload,
    /// The daemon stopped.
    Stopping,
}

impl ThawReason {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Input, Self::Closed, Self::Ending, Self::Requested, Self::Reload, Self::Stopping];

    /// The word for JSON, metrics and the journal.
    pub fn word(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Closed => "closed",
            Self::Ending => "ending",
            Self::Requested => "requested",
            Self::Reload => "reload",
            Self::Stopping => "stopping",
        }
    }
}

/// A clause for people.
impl fmt::Display for ThawReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "its host wrote to it",
            Self::Closed => "its host closed its stdin",
            Self::Ending => "its end began",
            Self::Requested => "that was asked for",
            Self::Reload => "the configuration was read anew",
            Self::Stopping => "the daemon stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_server_is_trimmed_once_and_parked_later_where_it_may_be() {
        let seconds = Duration::from_secs;
        let spans = Spans { trim: Some("10s".parse().unwrap()), park: Some("20s".parse().unwrap()), end: None };
        for (rest, idle, may_park, wanted) in [
            (Rest::Awake, 9, true, Want::Nothing),
            (Rest::Awake, 10, true, Want::Trim),
            (Rest::Trimmed, 19, true, Want::Nothing),
            (Rest::Trimmed, 20, true, Want::Park),
            (Rest::Awake, 20, true, Want::Park),
            (Rest::Awake, 20, false, Want::Trim),
            (Rest::Trimmed, 20, false, Want::Nothing),
            (Rest::Trimming, 60, true, Want::Nothing),
            (Rest::Parking, 60, true, Want::Nothing),
            (Rest::Parked, 60, true, Want::Nothing),
        ] {
            assert_eq!(rest.wants(spans, seconds(idle), may_park), wanted, "{rest:?} after {idle} s");
        }
        let parks = Spans { trim: None, ..spans };
        assert_eq!(Rest::Awake.wants(parks, seconds(20), false), Want::Trim, "instead");
        assert_eq!(Rest::Awake.wants(Spans::default(), seconds(1 << 20), true), Want::Nothing);
    }
}
