//! What happens to sessions, told once and in one form: to the journal, and to `pinfold events`.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::lifecycle::{ParkReason, ThawReason};
use crate::limits::Bytes;
use crate::outcome::{Level, Outcome};
use crate::realm::Realm;
use crate::session::{Name, SessionId};
use crate::timestamp::Timestamp;

/// The most processes that one occurrence names.
pub const PIDS_MAX: usize = 20;

/// One thing that happened to a server, or to the launch of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Occurrence {
    /// Counts up from 1, for as long as one daemon runs.
    pub number: u64,
    /// When, RFC 3339 in UTC.
    pub at: Timestamp,
    /// Whose it is: the user whose session it is, or who asked for the launch.
    pub uid: u32,
    /// Whose it is beside that: who may see it depends on it, and nobody is told.
    #[serde(skip)]
    pub realm: Realm,
    /// The session; `null` where a launch was refused before it had one.
    pub session: Option<SessionId>,
    /// What directories and labels call the session.
    pub key: Option<String>,
    /// The host, where it is known.
    pub host: Option<Name>,
    /// The server.
    pub server: Name,
    /// Its leaf; `null` where there was none yet.
    pub leaf: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// It was launched: in its leaf, with its limits, and about to exec.
    Launched {
        /// Its first process.
        pid: i32,
        /// From the request to the reply.
        launch_seconds: f64,
        /// Limits that were asked for and do not hold here.
        warnings: Vec<String>,
    },
    /// It ran already, and was moved into a leaf with its whole tree.
    MovedIn {
        /// Its first process.
        pid: i32,
        /// Limits that were asked for and do not hold here.
        warnings: Vec<String>,
    },
    /// A daemon that took over found it alive.
    Adopted {
        /// Its first process.
        pid: i32,
    },
    /// Its launch was refused.
    Refused {
        /// Why.
        reason: String,
        /// It runs without containment instead.
        uncontained: bool,
    },
    /// It is launched too often by one owner: its launches wait from now on.
    Storm {
        /// The owner.
        owner_pid: i32,
        /// What the owner is called.
        owner: String,
    },
    /// The kernel killed in its leaf for memory. Told at the first kill: it ends the server.
    MemoryKill {
        /// Whose limit was reached.
        level: Level,
        /// How many processes it had killed in the leaf by then. `memory.oom.group` kills all of them a moment later.
        kills: u64,
    },
    /// A process limit was reached for the first time: forks fail.
    PidsLimit {
        /// Whose limit it was.
        level: Level,
    },
    /// Its command could not be executed: it ends at once.
    NotExecuted {
        /// The command's first word.
        command: String,
        /// Why not.
        reason: String,
    },
    /// Processes of it were seen outside its leaf.
    Escaped {
        /// The first [`PIDS_MAX`] of them.
        pids: Vec<i32>,
    },
    /// It was idle, and its memory was given back while it went on; or, of what is parked, what the machine had no time for
    /// before.
    Trimmed {
        /// What was charged to it before.
        before_bytes: Bytes,
        /// And afterwards.
        after_bytes: Bytes,
        /// What of it stands in swap.
        swap_bytes: Bytes,
    },
    /// It was frozen, and its memory given back.
    Parked {
        /// Why.
        reason: ParkReason,
        /// What was charged to it before.
        before_bytes: Bytes,
        /// And afterwards.
        after_bytes: Bytes,
        /// What of it stands in swap.
        swap_bytes: Bytes,
    },
    /// It goes on after it was parked.
    Thawed {
        /// Why.
        reason: ThawReason,
        /// For how long it was parked.
        parked_seconds: f64,
        /// From what woke it to the moment when the kernel said that all of it may run; `null` where it did not say so
        /// in time.
        thaw_seconds: Option<f64>,
    },
    /// It ended, and nothing of it is left.
    Ended(Ended),
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Why, and what the end did.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// When it was launched, RFC 3339 in UTC.
    pub started_at: Timestamp,
    /// From its launch to the moment when nothing of it was left.
    pub lifetime_seconds: f64,
    /// From the fact that ended it to the same moment; `null` where no daemon ran for all of that.
    pub end_seconds: Option<f64>,
    /// Of its lifetime for how long it was parked, as far as the daemon that saw its end did that.
    #[serde(default)]
    pub parked_seconds: f64,
}

impl What {
    /// The word for JSON and the journal.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Launched { .. } => "launched",
            Self::MovedIn { .. } => "moved_in",
            Self::Adopted { .. } => "adopted",
            Self::Refused { .. } => "refused",
            Self::Storm { .. } => "storm",
            Self::MemoryKill { .. } => "memory_kill",
            Self::PidsLimit { .. } => "pids_limit",
            Self::NotExecuted { .. } => "not_executed",
            Self::Escaped { .. } => "escaped",
            Self::Trimmed { .. } => "trimmed",
            Self::Parked { .. } => "parked",
            Self::Thawed { .. } => "thawed",
            Self::Ended(_) => "ended",
        }
    }

    /// The journal's `MESSAGE_ID=`: one for each kind, for ever (systemd.journal-fields(7)).
    pub fn message_id(&self) -> &'static str {
        match self {
            Self::Launched { .. } => "928611931de84a9c9eeaf87b0de7cf99",
            Self::MovedIn { .. } => "37a593d5765f42368c6bd5fa34c5a1a3",
            Self::Adopted { .. } => "1c6e63697c36496e924e3f8abc6ad3fe",
            Self::Refused { .. } => "b7a8fade9d4b46bd953b3a0838dffe48",
            Self::Storm { .. } => "6b76fdb0cb7b46edb8b4967104b943f7",
            Self::MemoryKill { .. } => "1c7cc26f17df4e79aba035b832b04a94",
            Self::PidsLimit { .. } => "37c66c91ba4d47e1a3c3a59522075411",
            Self::NotExecuted { .. } => "2391caad2f9d4ad39ed7c22f6058410b",
            Self::Escaped { .. } => "c99a66624f64438d9ec0e750ec12462a",
            Self::Trimmed { .. } => "ff7088f6151cf7dbc8a6471f26761a4d",
            Self::Parked { .. } => "6d99df7ce056794312db4d5cb16a16fe",
            Self::Thawed { .. } => "c2f44dd8f90d0b4f7694e959fae9a199",
            Self::Ended(_) => "a619b921881345c08598c5801cc6623d",
        }
    }
}

/// One line for people.
impl fmt::Display for Occurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = &self.server;
        let whose = match &self.session {
            Some(session) => format!("server {server} of session {session}"),
            None => format!("server {server}"),
        };
        match &self.what {
            What::Launched { pid, .. } => write!(f, "launched {whose}, process {pid}"),
            What::MovedIn { pid, .. } => write!(f, "moved in {whose}, process {pid} with its tree"),
            What::Adopted { pid } => write!(f, "adopted {whose}, process {pid}"),
            What::Refused { reason, uncontained: false } => write!(f, "refused to launch {whose}: {reason}"),
            What::Refused { reason, uncontained: true } => {
                write!(f, "refused to launch {whose}, which runs UNCONTAINED instead: {reason}")
            }
            What::Storm { owner_pid, owner } => {
                write!(
                    f,
                    "{whose} is launched too often by process {owner_pid} ({owner}): its launches wait from now on"
                )
            }
            What::MemoryKill { level, kills } => {
                write!(f, "the kernel killed in {whose} for memory, by the limit of the {level} ({kills} so far)")
            }
            What::PidsLimit { level } => write!(f, "{whose} cannot fork: the process limit of the {level} is reached"),
            What::NotExecuted { command, reason } => write!(f, "{whose} cannot execute {command:?}: {reason}"),
            What::Escaped { pids } => {
                let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
                write!(f, "of {whose} these processes are outside its leaf: {}", pids.join(", "))
            }
            What::Trimmed { before_bytes, after_bytes, .. } => {
                write!(f, "trimmed {whose}, which is idle: it holds {after_bytes} of {before_bytes}")
            }
            What::Parked { reason, before_bytes, after_bytes, .. } => {
                let why = if *reason == ParkReason::Idle { ", which is idle" } else { "" };
                write!(f, "parked {whose}{why}: it holds {after_bytes} of {before_bytes}")
            }
            What::Thawed { reason, .. } => write!(f, "thawed {whose}: {reason}"),
            What::Ended(Ended { outcome, .. }) => write!(f, "ended {whose}: {outcome}"),
        }
    }
}
