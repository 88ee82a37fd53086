//! Questions to the history, and its answers.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Deserialize, Serialize};

use crate::limits::Bytes;
use crate::occurrence::Occurrence;
use crate::session::SessionId;
use crate::timestamp::Timestamp;

/// The most ends that one question is answered with.
pub const ENDS_MAX: u32 = 10_000;

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Question {
    /// What ended at this time or later.
    pub since: Option<Timestamp>,
    /// Of this session only.
    pub session: Option<SessionId>,
    /// Added up by this, rather than one by one.
    pub by: Option<By>,
    /// The most ends, the latest of them; at most [`ENDS_MAX`].
    pub limit: Option<u32>,
}

/// What ends are added up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The server's name.
    Server,
    /// The host.
    Host,
    /// The cause.
    Cause,
}

/// What is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The ends, oldest first; empty where they are added up.
    pub ends: Vec<Occurrence>,
    /// What they add up to, most ends first.
    pub groups: Vec<Group>,
    /// Whether there are more than these.
    pub more: bool,
}

/// Some ends, added up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The server, host or cause; `null` for a host that is not known.
    pub name: Option<String>,
    /// How many ended.
    pub ends: u64,
    /// How many of them needed the kill.
    pub killed: u64,
    /// How many of them ran out of memory.
    pub memory: u64,
    /// The largest peak.
    pub peak_bytes: Option<Bytes>,
    /// What was charged to them when they ended, in all.
    pub memory_bytes: Option<Bytes>,
    /// How long they lived on average.
    pub mean_lifetime_seconds: f64,
    /// How long the oldest lived.
    pub max_lifetime_seconds: f64,
}
