//! Words: why a server ended, and what the end did.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod exit;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::Bytes;
use crate::timespan::TimeSpan;
pub use exit::Exit;

/// Whose limit it was: the server's own, its session's, or the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// One launched MCP server: a leaf cgroup.
    Server,
    /// One agent run: the parent of its servers' leaves.
    Session,
    /// All of pinfold together.
    Machine,
    /// A cgroup above pinfold's, or the machine's memory itself.
    Outside,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Session => "session",
            Self::Machine => "machine",
            Self::Outside => "outside",
        })
    }
}

/// Which part of systemd stopped a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopper {
    /// A service manager stopped the session's scope or slice: an administrator, `BindsTo=`, a shutdown.
    #[default]
    Manager,
    /// systemd-oomd(8) killed all of the leaf.
    Oomd,
}

/// A server that stands still because its memory is at a `memory_high` and nothing can be reclaimed: as a rule, what
/// counts as that; as a fact, what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stall {
    /// For so long.
    pub span: TimeSpan,
    /// So much of it, in percent, with all that wanted to run in the leaf waiting for memory: `full` of `memory.pressure`.
    pub percent: u8,
}

/// Why a server ended. Each cause is a fact that somebody observed, never a guess from age, name or parentage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// Somebody entitled asked: `pinfold end`, or the host's hook.
    Requested,
    /// systemd stopped it.
    Stopped {
        /// What of systemd.
        #[serde(default)]
        by: Stopper,
    },
    /// The leader's pidfd became readable: the server's first process is gone.
    LeaderExited,
    /// The host closed the server's stdin: a hang-up on the held descriptor.
    StdinClosed,
    /// The owner's pidfd became readable: the host process is gone.
    OwnerGone,
    /// It ran out of memory: the kernel killed for it, or the server stood still. `level` is the cgroup whose limit it was.
    Memory {
        /// Whose limit was reached.
        level: Level,
        /// How it stood still, where it was not the kernel that killed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stall: Option<Stall>,
    },
    /// A process limit was reached and the policy says that this ends the server.
    Pids {
        /// Whose limit was reached.
        level: Level,
    },
    /// Its session's time-to-live is over.
    Expired {
        /// How long that was.
        ttl: TimeSpan,
    },
    /// It did nothing for as long as the policy allows.
    Idle {
        /// How long that was.
        idle_after: TimeSpan,
    },
    /// Its entry is gone from its host's configuration, or was switched off there.
    Unconfigured,
    /// The same server was launched again in the same session, beyond how many instances of it are allowed.
    Replaced,
    /// The launch failed after its leaf was made: there never was a server.
    LaunchFailed,
}

impl Cause {
    /// How much a fact explains, where one death shows as several: a killed host closes stdin first, and a server
    /// that the kernel killed for memory exits as well. `None` for causes that are orders, not observations.
    pub fn strength(self) -> Option<u8> {
        match self {
            Self::Memory { .. } => Some(5),
            Self::Stopped { .. } => Some(4),
            Self::OwnerGone => Some(3),
            Self::StdinClosed => Some(2),
            Self::LeaderExited => Some(1),
            Self::Requested
            | Self::Pids { .. }
            | Self::Expired { .. }
            | Self::Idle { .. }
            | Self::Unconfigured
            | Self::Replaced
            | Self::LaunchFailed => None,
        }
    }

    /// The word for metrics, JSON and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Stopped { .. } => "stopped",
            Self::LeaderExited => "leader_exited",
            Self::StdinClosed => "stdin_closed",
            Self::OwnerGone => "owner_gone",
            Self::Memory { .. } => "memory",
            Self::Pids { .. } => "pids",
            Self::Expired { .. } => "expired",
            Self::Idle { .. } => "idle",
            Self::Unconfigured => "unconfigured",
            Self::Replaced => "replaced",
            Self::LaunchFailed => "launch_failed",
        }
    }
}

/// The cause as a clause for people.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("its end was requested"),
            Self::Stopped { by: Stopper::Manager } => f.write_str("systemd stopped its session's unit"),
            Self::Stopped { by: Stopper::Oomd } => {
                f.write_str("systemd-oomd killed it, because memory or swap was short in a unit above it")
            }
            Self::LeaderExited => f.write_str("its first process exited"),
            Self::StdinClosed => f.write_str("the host closed its stdin"),
            Self::OwnerGone => f.write_str("the process that owned it is gone"),
            Self::Memory { level, stall: None } => {
                write!(f, "memory ran out: {} was reached", whose("memory limit", *level))
            }
            Self::Memory { level, stall: Some(Stall { span, percent }) } => {
                let whose = whose("memory_high", *level);
                write!(f, "memory ran out: it stood still at {whose} for {span} (full pressure {percent} %)")
            }
            Self::Pids { level } => write!(f, "no more processes: {} was reached", whose("process limit", *level)),
            Self::Expired { ttl } => write!(f, "its session's time-to-live of {ttl} is over"),
            Self::Idle { idle_after } => {
                write!(
                    f,
                    "it was idle: for {idle_after} it used no CPU time to speak of, read nothing and wrote nothing"
                )
            }
            Self::Unconfigured => f.write_str("its entry is gone from its host's configuration, or switched off there"),
            Self::Replaced => {
                f.write_str("it was launched again in its session, and its instances_max allows no more of it")
            }
            Self::LaunchFailed => f.write_str("its launch failed"),
        }
    }
}

/// Whose limit it was, for people.
fn whose(kind: &str, level: Level) -> String {
    match level {
        Level::Server => format!("the server's own {kind}"),
        Level::Session => format!("its session's {kind}"),
        Level::Machine => format!("the {kind} of all sessions together"),
        Level::Outside => format!("a {kind} above pinfold's, or the machine's,"),
    }
}

/// Why it ended, and what that gave back.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why())?;
        match self.processes {
            Some(1) => write!(f, ", 1 process")?,
            Some(count) => write!(f, ", {count} processes")?,
            None => {}
        }
        if let Some(bytes) = self.memory_bytes {
            write!(f, ", {bytes} given back")?;
        }
        if self.killed { write!(f, ", killed") } else { Ok(()) }
    }
}

/// What an end did, told once the kernel said that the leaf was empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Why it ended.
    #[serde(flatten)]
    pub cause: Cause,
    /// Processes that were in the leaf when the end began; `None` where they could not be counted.
    pub processes: Option<u32>,
    /// Whether `cgroup.kill` was needed, because something was left after the grace (or none was given).
    pub killed: bool,
    /// Memory charged to the leaf when the end began; `None` where no memory controller holds it.
    pub memory_bytes: Option<Bytes>,
    /// The most memory that was ever charged to the leaf; `None` where the kernel does not tell.
    pub peak_bytes: Option<Bytes>,
    /// How its first process exited, whatever ended the server; `None` where the kernel does not tell.
    #[serde(default)]
    pub exit: Option<Exit>,
}

impl Outcome {
    /// The cause as a clause for people; where that is the exit of its first process, with how it exited.
    pub fn why(&self) -> String {
        match (self.cause, self.exit) {
            (Cause::LeaderExited, Some(exit)) => exit.to_string(),
            (cause, _) => cause.to_string(),
        }
    }
}
