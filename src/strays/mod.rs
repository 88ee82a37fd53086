//! What runs on a machine without pinfold, as far as it can be told by looking: which processes look like MCP servers,
//! which of them make a tree, and whether anybody still needs it.
//!
//! Pure: facts in, views out. What is told here is a guess from looks, for a person to read. Nothing is ever signalled,
//! moved or limited because of it.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod looks;
mod trees;
mod verdict;

use serde::{Deserialize, Serialize};

use crate::argv::MaskedArgv;
use crate::limits::Bytes;
use crate::session::Name;
use crate::timestamp::Timestamp;

pub use looks::looks_like_server;
pub use trees::{Seen, Tree, trees};
pub use verdict::{Evidence, Parent, Stdin, Verdict, judge};

/// One tree of processes that looks like an MCP server and is in no leaf of ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stray {
    /// Its topmost process.
    pub pid: i32,
    /// What a person would call the server.
    pub server: Name,
    /// The command line of that process, without secrets.
    pub argv: MaskedArgv,
    /// Whose it is.
    pub uid: u32,
    /// What that user is called; `null` where the number has no name.
    pub user: Option<String>,
    /// When it was started.
    pub started_at: Timestamp,
    /// The same as a span.
    pub age_seconds: f64,
    /// How many processes it has.
    pub processes: usize,
    /// Their numbers, the topmost first; at most [`PIDS_MAX`].
    pub pids: Vec<i32>,
    /// Resident memory of all of them: what several share counts for each.
    pub rss_bytes: Bytes,
    /// Memory of all of them in which what is shared counts once; `null` where none could be read.
    pub pss_bytes: Option<Bytes>,
    /// Of how many processes that could not be read, and is missing in it.
    pub pss_missing: usize,
    /// The nearest living known host above it.
    pub owner: Option<StrayOwner>,
    /// It runs in a pid namespace of its own: a container.
    pub in_container: bool,
    /// Whether it looks abandoned.
    pub verdict: Verdict,
    /// Why.
    pub reasons: Vec<String>,
}

/// Who owns a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrayOwner {
    /// Which host.
    pub host: Name,
    /// Its process.
    pub pid: i32,
}

/// The most numbers that are told of one tree.
pub const PIDS_MAX: usize = 1000;

/// The most trees that are told one by one; all count in the sums.
pub const TREES_MAX: usize = 1000;

/// What trees of one kind cost together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// How many trees.
    pub trees: usize,
    /// How many processes.
    pub processes: usize,
    /// Their resident memory.
    pub rss_bytes: Bytes,
    /// Their memory in which what is shared counts once, as far as it could be read; `null` where none could.
    pub pss_bytes: Option<Bytes>,
    /// Of how many processes that could not be read.
    pub pss_missing: usize,
}

impl Cost {
    /// What both cost.
    pub fn plus(self, other: Self) -> Self {
        Self {
            trees: self.trees + other.trees,
            processes: self.processes + other.processes,
            rss_bytes: Bytes(self.rss_bytes.0 + other.rss_bytes.0),
            pss_bytes: match (self.pss_bytes, other.pss_bytes) {
                (Some(one), Some(other)) => Some(Bytes(one.0 + other.0)),
                (one, other) => one.or(other),
            },
            pss_missing: self.pss_missing + other.pss_missing,
        }
    }

    fn of(tree: &Stray) -> Self {
        Self {
            trees: 1,
            processes: tree.processes,
            rss_bytes: tree.rss_bytes,
            pss_bytes: tree.pss_bytes,
            pss_missing: tree.pss_missing,
        }
    }
}

/// What stands in leaves of ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contained {
    /// How many leaves, each of one server.
    pub servers: usize,
    /// The processes in them.
    pub processes: usize,
}

/// The answer of a scan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// The trees: what looks abandoned first, and of these the largest first; at most [`TREES_MAX`].
    pub trees: Vec<Stray>,
    /// How many more there are.
    pub left_out: usize,
    /// What looks abandoned.
    pub abandoned: Cost,
    /// What cannot be told.
    pub unclear: Cost,
    /// What looks as if it is in use.
    pub in_use: Cost,
    /// What is in leaves of ours, of whatever daemon, and so is none of these trees.
    pub contained: Contained,
    /// How many processes were looked at.
    pub looked_at: usize,
    /// Whether that is all there was to look at. Else there are too many, or it took too long.
    pub complete: bool,
    /// What could not be seen, and what would change that.
    pub notes: Vec<String>,
}

impl Survey {
    /// Sorts and sums up what was found.
    pub fn new(mut trees: Vec<Stray>) -> Self {
        let size = |tree: &Stray| tree.pss_bytes.unwrap_or(tree.rss_bytes);
        trees.sort_by(|one, other| {
            one.verdict.cmp(&other.verdict).then(size(other).cmp(&size(one))).then(one.pid.cmp(&other.pid))
        });
        let cost = |verdict: Verdict| {
            trees.iter().filter(|tree| tree.verdict == verdict).map(Cost::of).fold(Cost::default(), Cost::plus)
        };
        let (abandoned, unclear, in_use) = (cost(Verdict::Abandoned), cost(Verdict::Unclear), cost(Verdict::InUse));
        let left_out = trees.len().saturating_sub(TREES_MAX);
        trees.truncate(TREES_MAX);
        Self {
            trees,
            left_out,
            abandoned,
            unclear,
            in_use,
            contained: Contained::default(),
            looked_at: 0,
            complete: true,
            notes: Vec::new(),
        }
    }
}
