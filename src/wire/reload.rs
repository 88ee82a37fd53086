//! What is asked for and answered where the configuration is read anew.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{Limit, LimitKey};
use crate::outcome::Level;
use crate::session::{Name, SessionId};

/// The configuration is to be read anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reload {
    /// Limits are lowered below what is used, too: the kernel may kill for it.
    pub force: bool,
}

/// What has a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitPlace {
    /// `server`, `session` or `machine`.
    pub level: Level,
    /// Whose session, below the machine.
    pub session: Option<SessionId>,
    /// Which server.
    pub server: Option<Name>,
    /// Its leaf.
    pub leaf: Option<String>,
}

/// A limit that is another one now. Bytes, processes, percent or weight, by its key; `null` is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitChange {
    /// Where.
    #[serde(flatten)]
    pub at: LimitPlace,
    /// Its key in the configuration.
    pub limit: LimitKey,
    /// What it was.
    pub from: Option<u64>,
    /// What it is.
    pub to: Option<u64>,
}

/// A limit that is not what the configuration says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitKept {
    /// Where.
    #[serde(flatten)]
    pub at: LimitPlace,
    /// Its key in the configuration.
    pub limit: LimitKey,
    /// What it is.
    pub stays: Option<u64>,
    /// What it should be.
    pub wanted: Option<u64>,
    /// What is used, where that is why.
    pub usage: Option<u64>,
    /// Why, as a clause.
    pub why: String,
}

/// The answer to `Reload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadReply {
    /// The file that was read; `null` where there is none, and the defaults hold.
    pub config: Option<String>,
    /// Limits of what lives that are others now.
    pub changed: Vec<LimitChange>,
    /// Limits of what lives that should be others.
    pub kept: Vec<LimitKept>,
    /// What else stays as it was, and why.
    pub warnings: Vec<String>,
}

/// A limit for people, as the configuration writes it.
fn spell(key: LimitKey, value: Option<u64>) -> String {
    key.spell(value.map_or(Limit::Infinity, Limit::At))
}

/// Whose limit it is, for people.
impl fmt::Display for LimitPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.session, &self.server, &self.leaf) {
            (Some(session), None, None) => write!(f, "session {session}"),
            (Some(session), Some(server), _) => write!(f, "session {session} / {server}"),
            (_, _, Some(leaf)) => f.write_str(leaf),
            (None, ..) => f.write_str("all sessions together"),
        }
    }
}

impl fmt::Display for LimitChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, limit, from, to } = self;
        write!(f, "{at}: {} from {} to {}", limit.word(), spell(*limit, *from), spell(*limit, *to))
    }
}

impl fmt::Display for LimitKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, limit, stays, wanted, why, .. } = self;
        let (stays, wanted) = (spell(*limit, *stays), spell(*limit, *wanted));
        write!(f, "{at}: {} stays {stays}, and is not {wanted}: {why}", limit.word())
    }
}
