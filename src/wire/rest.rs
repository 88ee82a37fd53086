//! Servers are to be parked, or to go on.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Deserialize, Serialize};

use crate::limits::Bytes;
use crate::session::{Name, SessionId};

/// Which servers are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rested {
    /// Those of this session.
    pub session: Option<SessionId>,
    /// Only this one of it: a name, or a leaf.
    pub server: Option<String>,
    /// All that the caller may give orders about.
    pub all: bool,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whose {
    /// Its session.
    pub session: SessionId,
    /// Its name.
    pub server: Name,
    /// Its leaf.
    pub leaf: String,
}

/// A server that is parked now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Which.
    #[serde(flatten)]
    pub whose: Whose,
    /// What was charged to it before.
    pub before_bytes: Bytes,
    /// What is charged to it now.
    pub after_bytes: Bytes,
    /// What of it stands in swap.
    pub swap_bytes: Bytes,
    /// It was parked before this call.
    #[serde(default)]
    pub was_parked: bool,
    /// The machine was short of something: more of its memory is given back when it is not.
    #[serde(default)]
    pub postponed: bool,
}

impl Parked {
    /// From what was charged before, what is now, and what stands in swap.
    pub fn new(whose: Whose, (before_bytes, after_bytes, swap_bytes): (Bytes, Bytes, Bytes)) -> Self {
        Self { whose, before_bytes, after_bytes, swap_bytes, was_parked: false, postponed: false }
    }
}

/// A server that is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotParked {
    /// Which.
    #[serde(flatten)]
    pub whose: Whose,
    /// Why not.
    pub reason: String,
}

impl NotParked {
    /// For this reason, a clause without a full stop.
    pub fn new(whose: Whose, reason: String) -> Self {
        Self { whose, reason }
    }
}

/// What was parked, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ParkReply {
    /// Parked.
    pub parked: Vec<Parked>,
    /// Not parked.
    pub refused: Vec<NotParked>,
}

/// What was thawed, and what was awake.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThawReply {
    /// Thawed.
    pub thawed: Vec<Whose>,
    /// It was not frozen.
    pub awake: Vec<Whose>,
}
