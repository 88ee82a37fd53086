//! What a daemon tells of itself and of what holds where it runs.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The answer to `Describe`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Description {
    /// Of the daemon.
    pub version: String,
    /// The daemon.
    pub pid: i32,
    /// Whom it runs as.
    pub uid: u32,
    /// `systemd` or `cgroupfs`.
    pub backend: String,
    /// Why it is that one.
    pub backend_why: String,
    /// What else should be known of it.
    pub notes: Vec<String>,
    /// `v2` or `hybrid`.
    pub layout: String,
    /// The subtree that it writes.
    pub root: String,
    /// Its configuration file.
    pub config: Option<String>,
    /// For each kind of limit whether it holds.
    pub limits: BTreeMap<String, LimitState>,
    /// What can be done for idle servers: `trim` and `park`.
    pub idle: BTreeMap<String, LimitState>,
    /// Launches that were granted since it started.
    pub launches: u64,
    /// Launches that were refused.
    pub refusals: u64,
    /// Launches that were refused and run without containment.
    pub uncontained: u64,
    /// Launches that had to wait, because their server was launched too often.
    pub delayed: u64,
    /// How often that began: a launch found its server launched too often, and the ones before did not.
    pub storms: u64,
}

/// Whether one kind of limit holds where the daemon runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LimitState {
    /// The kernel enforces it.
    Holds,
    /// There is nothing of the kind: swap, on a machine without.
    NothingToLimit,
    /// The kernel cannot enforce it here.
    Missing {
        /// What is missing.
        why: String,
        /// What would change that.
        remedy: String,
    },
}
