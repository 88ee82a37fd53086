//! All that may be seen of a session from outside: what metrics, views and clients get, and nothing else.
//!
//! The JSON of `pinfold ls --json` and of the socket is exactly this.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Deserialize, Serialize};

use crate::argv::MaskedArgv;
use crate::confine::Confine;
use crate::container::Outside;
use crate::label::Labels;
use crate::limits::Bytes;
use crate::session::{Name, SessionId};
use crate::timespan::TimeSpan;
use crate::timestamp::Timestamp;

/// Memory charged to a cgroup, in bytes. `null` where the kernel does not tell, or where there is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryView {
    /// Resident: `anon + file_mapped` of `memory.stat` on v2, `total_rss + total_mapped_file` on v1.
    pub rss_bytes: Option<Bytes>,
    /// What cannot be given back without loss: all that is charged but inactive page cache.
    pub working_set_bytes: Option<Bytes>,
    /// All that is charged, page cache included: never a reason to end anything.
    pub current_bytes: Option<Bytes>,
    /// Memory of processes that stands for no file.
    pub anon_bytes: Option<Bytes>,
    /// Page cache, tmpfs and shared memory included.
    pub file_bytes: Option<Bytes>,
    /// Of it what is tmpfs and shared memory, and cannot be written back.
    pub shmem_bytes: Option<Bytes>,
    /// The kernel's own memory for it: stacks, page tables, slab.
    pub kernel_bytes: Option<Bytes>,
    /// Swapped out.
    pub swap_bytes: Option<Bytes>,
    /// The most that was ever charged.
    pub peak_bytes: Option<Bytes>,
    /// The limit.
    pub max_bytes: Option<Bytes>,
}

/// What was done so far. `null` where the kernel does not tell: I/O without the controller of that name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ActivityView {
    /// CPU time of all its processes, of those too that are gone.
    pub cpu_seconds: Option<f64>,
    /// Read from disks.
    pub read_bytes: Option<Bytes>,
    /// Written to disks.
    pub written_bytes: Option<Bytes>,
}

/// For how long processes have waited for a resource so far (the kernel's accounting/psi). `null` where it does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StallView {
    /// At least one of them.
    pub some_seconds: Option<f64>,
    /// All that wanted to run.
    pub full_seconds: Option<f64>,
}

/// What was waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PressureView {
    /// Memory.
    pub memory: StallView,
    /// CPU time.
    pub cpu: StallView,
    /// I/O.
    pub io: StallView,
}

/// One launched MCP server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerView {
    /// What it is called: `--server`, or what its command really launches.
    pub name: Name,
    /// Its leaf: the name and the number of the launch, unique among all that live.
    pub leaf: String,
    /// `placing`, `running`, `parked`, `ending`, `killing` or `removing`.
    pub state: String,
    /// Its first process.
    pub leader_pid: i32,
    /// The process that launched it, whose end ends it.
    pub owner_pid: i32,
    /// Processes in its leaf and below.
    #[serde(default)]
    pub processes: u32,
    /// The leaf's directory, an absolute path.
    pub cgroup: String,
    /// Its command line, secrets masked.
    pub argv: MaskedArgv,
    /// What its host tied to it.
    #[serde(default)]
    pub labels: Labels,
    /// Which generation of its session it was launched in.
    #[serde(default)]
    pub generation: u64,
    /// When it was launched, RFC 3339 in UTC, to the microsecond.
    pub started_at: Timestamp,
    /// What it uses.
    #[serde(default)]
    pub memory: MemoryView,
    /// What it has done.
    #[serde(default)]
    pub activity: ActivityView,
    /// What it has waited for.
    #[serde(default)]
    pub pressure: PressureView,
    /// How often a fork was refused by its process limit.
    #[serde(default)]
    pub pids_refusals: u64,
    /// `watched`, or `unwatched` where a hang-up of its stdin cannot be seen.
    #[serde(default)]
    pub stdin: StdinWatch,
    /// How it was confined when it was launched.
    #[serde(default)]
    pub confine: Confine,
    /// The container of a `docker run` or `podman run`; `null` where its command makes none.
    #[serde(default)]
    pub container: Option<ContainerView>,
    /// Its first process has left the leaf.
    #[serde(default)]
    pub escaped: bool,
    /// Processes of it that stand outside its leaf: its first one; and, where they were looked for, those that carry its
    /// marks in their environment and stand in no leaf.
    #[serde(default)]
    pub escaped_pids: Vec<i32>,
    /// Since when it is parked, RFC 3339 in UTC; `null` where it is not.
    #[serde(default)]
    pub parked_at: Option<Timestamp>,
    /// What it held when its memory was last given back, less what it holds now; `null` where that never was.
    #[serde(default)]
    pub reclaimed_bytes: Option<Bytes>,
    /// Limits that were asked for and do not hold here.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The container that the command of a server makes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerView {
    /// The cgroup that it was to be made in, below the server's leaf: an absolute path. `null` where it is outside.
    pub parent: Option<String>,
    /// What the kernel shows in there: the cgroups of containers, by the names that the engine gives them.
    pub cgroups: Vec<String>,
    /// Processes in there.
    pub processes: u32,
    /// Why it is outside the session: its limits and its end do not hold for it then.
    pub outside: Option<Outside>,
    /// Its engine is asked to remove it when its server has ended.
    pub removed: bool,
    /// It is outside, and ends with its server.
    pub monitored: bool,
    /// The first processes of such a container.
    pub outside_pids: Vec<i32>,
}

/// Whether a hang-up of a server's stdin would be noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdinWatch {
    /// A pipe or socket that is held and watched.
    Watched,
    /// Another kind of file, or one that could not be had.
    #[default]
    Unwatched,
}

/// One agent run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionView {
    /// What its host calls it.
    pub id: SessionId,
    /// What directories and labels call it.
    pub key: String,
    /// The host's name, where it is known.
    pub host: Option<Name>,
    /// The user whose session it is.
    pub uid: u32,
    /// The process that owns the first of its living servers.
    pub owner_pid: Option<i32>,
    /// Its latest generation: an id that is used again after its end, or while that is under way, begins another one. A
    /// later generation has a higher number, until the machine boots anew.
    #[serde(default)]
    pub generation: u64,
    /// `running`, or `ending` when all its servers are.
    pub state: String,
    /// `systemd` or `cgroupfs`.
    pub backend: String,
    /// The session's directory, an absolute path.
    pub cgroup: String,
    /// How long it may live from its first launch on; `null` where that has no end.
    pub ttl: Option<TimeSpan>,
    /// When that is over, RFC 3339 in UTC.
    pub expires_at: Option<String>,
    /// Processes of all its servers.
    #[serde(default)]
    pub processes: u32,
    /// What it uses, all servers together.
    #[serde(default)]
    pub memory: MemoryView,
    /// What it has done, servers that ended included.
    #[serde(default)]
    pub activity: ActivityView,
    /// What it has waited for.
    #[serde(default)]
    pub pressure: PressureView,
    /// Its servers, in the order of their launches.
    pub servers: Vec<ServerView>,
}
