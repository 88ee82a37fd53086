//! A process that runs already is to be contained, with its whole tree.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Deserialize, Serialize};

use crate::label::Labels;
use crate::limits::LimitWishes;
use crate::session::{Name, SessionId};
use crate::timespan::TimeSpan;

/// What is to be adopted, as what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adopt {
    /// The first process of the tree.
    pub pid: i32,
    /// Index of its pidfd among the descriptors: it is this process, whoever has its number by now.
    #[serde(default)]
    pub pidfd: Option<usize>,
    /// `--session`.
    #[serde(default)]
    pub session: Option<SessionId>,
    /// `--server`; else what its command line launches.
    #[serde(default)]
    pub server: Option<Name>,
    /// `--label`.
    #[serde(default)]
    pub labels: Labels,
    /// Limits that are asked for.
    #[serde(default)]
    pub limits: LimitWishes,
    /// `--grace`.
    #[serde(default)]
    pub grace: Option<TimeSpan>,
}

/// All of it is in a leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// The first process.
    pub pid: i32,
    /// Its session.
    pub session: SessionId,
    /// Its server's name.
    pub server: Name,
    /// What the session's directory is called.
    pub key: String,
    /// What its leaf is called.
    pub leaf: String,
    /// The leaf's directory.
    pub cgroup: String,
    /// How many processes the kernel told in it afterwards.
    pub processes: u32,
    /// What its user should know.
    #[serde(default)]
    pub warnings: Vec<String>,
}
