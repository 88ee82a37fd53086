//! The command line.

mod hosts;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::confine::Confine;
use crate::hostfile::hosts::HOSTS;
use crate::label::Label;
use crate::limits::{CpuMax, LimitWishes, MemorySize, PidsMax, Weight};
use crate::session::{Name, SessionId};
use crate::timespan::TimeSpan;
use crate::timestamp::Timestamp;

pub(super) use hosts::{Unwrap, Wrap};

/// Keeps what AI agents start in a cgroup of the agent's session, bounds it, and ends all of it at once.
#[derive(Debug, Parser)]
#[command(name = "pinfold", version, max_term_width = 100)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Launch a server in a cgroup of its session: put this in front of the server's command.
    Run(Run),
    /// Contain what runs already: move a process and all that it has started, grandchildren included, into a session's leaf.
    /// From then on it is limited, measured and ended as if it had been launched there; what cannot be moved as a whole stays
    /// where it is, and nothing is killed.
    Adopt(Adopt),
    /// Run the daemon.
    Serve(Serve),
    /// List the sessions and their servers.
    Ls(Ls),
    /// Show one session, or find the session of a process.
    Status(Status),
    /// Show the sessions and what each of them uses, live.
    Top(Top),
    /// End sessions or servers, with everything that they started.
    End(End),
    /// Freeze servers that do nothing, and give their memory back. Their stdin wakes them.
    Park(Park),
    /// Have parked servers go on.
    Thaw(Thaw),
    /// Tell what happened since the daemon started, at most the last 256 events: launches, refusals, memory kills, escapes,
    /// servers that were parked and thawed, ends and their causes.
    Events(Events),
    /// Tell what ended, since when it was kept: why, after how long, and what it had used at most.
    History(History),
    /// Have the daemon read its configuration anew: limits of what lives change in place.
    Reload(Reload),
    /// Tie labels to servers that live, so that they can be ended by them.
    Label(Relabel),
    /// Tell which servers run without pinfold, what they cost, and which of them look abandoned. It only looks.
    Scan(Scan),
    /// What a host's own hook calls where a session is over; it reads on stdin what the host tells.
    Hook(Hook),
    /// Tell what holds on this machine, or for one host, and what to do about what does not. Starts a daemon where none runs.
    Doctor(Doctor),
    /// Put pinfold in front of the servers in a host's own configuration, after a look at what changes.
    Wrap(Wrap),
    /// Take pinfold away from the servers in a host's own configuration: they stand there as before, byte for byte.
    Unwrap(Unwrap),
    /// Print what a shell reads to complete this command line; packages bring it along.
    Completions(Completions),
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// The session that the server belongs to, any text up to 200 bytes [default: PINFOLD_SESSION, what a known host says, or a session of its own].
    #[arg(long, value_name = "ID", value_parser = SessionId::parse)]
    pub(super) session: Option<SessionId>,
    /// What the server is called [default: what the command really launches].
    #[arg(long, value_name = "NAME", value_parser = Name::parse)]
    pub(super) server: Option<Name>,
    /// The host that launches it [default: recognised among the ancestors].
    #[arg(long, value_name = "NAME", value_parser = Name::parse)]
    pub(super) host: Option<Name>,
    /// A label for the server, by which `pinfold end --label` finds it; up to 16, each with its own key.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(super) labels: Vec<Label>,
    #[command(flatten)]
    pub(super) limits: Limits,
    /// Time between SIGTERM and the kill, when the server is ended: 500ms, 5s, 2min.
    #[arg(long, value_name = "DURATION")]
    pub(super) grace: Option<TimeSpan>,
    /// Run without containment rather than not at all; PINFOLD_UNCONTAINED=allow says the same.
    #[arg(long)]
    pub(super) uncontained: bool,
    /// Close its ways out of its leaf: its cgroups are read-only for it, service managers and container daemons are hidden,
    /// and nothing that it executes gains rights; with strict it has no capabilities either, which root needs [default: what
    /// the configuration says, which this cannot weaken].
    #[arg(long, value_name = "yes|strict", num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    pub(super) confine: Option<Confine>,
    #[command(flatten)]
    pub(super) socket: Socket,
    /// The command and its arguments. Into docker run and podman run goes a --cgroup-parent, by which the container is made in
    /// the session, and two labels.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

/// Limits of one server.
#[derive(Debug, Args)]
pub(super) struct Limits {
    /// Memory beyond which the kernel kills the server: 512M, 1.5G, 60% of RAM, infinity; not less than 16M.
    #[arg(long, value_name = "SIZE")]
    pub(super) memory_max: Option<MemorySize>,
    /// Memory beyond which the kernel slows the server down; one that stands still there is ended.
    #[arg(long, value_name = "SIZE")]
    pub(super) memory_high: Option<MemorySize>,
    /// Memory that may be swapped out.
    #[arg(long, value_name = "SIZE")]
    pub(super) memory_swap_max: Option<MemorySize>,
    /// Processes and threads.
    #[arg(long, value_name = "N")]
    pub(super) pids_max: Option<PidsMax>,
    /// CPU time, in percent of one CPU: 50%, 200%.
    #[arg(long, value_name = "PERCENT")]
    pub(super) cpu_max: Option<CpuMax>,
    /// CPU weight against other servers, 1 to 10000.
    #[arg(long, value_name = "N")]
    pub(super) cpu_weight: Option<Weight>,
    /// I/O weight against other servers, 1 to 10000.
    #[arg(long, value_name = "N")]
    pub(super) io_weight: Option<Weight>,
}

impl Limits {
    /// As they are asked for.
    pub(super) fn wishes(&self) -> LimitWishes {
        LimitWishes {
            memory_max: self.memory_max,
            memory_high: self.memory_high,
            memory_swap_max: self.memory_swap_max,
            pids_max: self.pids_max,
            cpu_max: self.cpu_max,
            cpu_weight: self.cpu_weight,
            io_weight: self.io_weight,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Adopt {
    /// The first process of each tree: it becomes a server of its own.
    #[arg(required = true, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub(super) pids: Vec<i32>,
    /// The session that it belongs to from now on [default: what its environment or its host says, or a session of its own].
    #[arg(long, value_name = "ID", value_parser = SessionId::parse)]
    pub(super) session: Option<SessionId>,
    /// What the server is called [default: what its command line launches].
    #[arg(long, value_name = "NAME", value_parser = Name::parse)]
    pub(super) server: Option<Name>,
    /// A label for the server, by which `pinfold end --label` finds it; up to 16, each with its own key.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(super) labels: Vec<Label>,
    #[command(flatten)]
    pub(super) limits: Limits,
    /// Time between SIGTERM and the kill, when the server is ended: 500ms, 5s, 2min.
    #[arg(long, value_name = "DURATION")]
    pub(super) grace: Option<TimeSpan>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Socket {
    /// The daemon's socket [default: the system daemon's where you may, else your own].
    #[arg(long, value_name = "PATH", env = "PINFOLD_SOCKET")]
    pub(super) socket: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum BackendChoice {
    /// What fits this machine.
    Auto,
    /// Transient units of a systemd manager.
    Systemd,
    /// Directories in a delegated subtree.
    Cgroupfs,
}

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// The configuration file [default: /etc/pinfold/pinfold.toml for root, else ~/.config/pinfold/pinfold.toml, where it is there].
    #[arg(long, value_name = "FILE", env = "PINFOLD_CONFIG")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) socket: Socket,
    /// Who makes the cgroups: auto takes systemd where its manager answers and no --root is given.
    #[arg(long, value_enum, default_value = "auto", env = "PINFOLD_BACKEND")]
    pub(super) backend: BackendChoice,
    /// The cgroup subtree to use: a directory of the cgroup v2 filesystem that this user may write.
    #[arg(long, value_name = "PATH", env = "PINFOLD_ROOT")]
    pub(super) root: Option<PathBuf>,
    /// Whoever starts this daemon starts it again whenever it dies, and runs `pinfold thaw --left` where that does not help:
    /// only then is an idle server parked. A systemd unit that sees to both is recognised by itself.
    #[arg(long)]
    pub(super) supervised: bool,
    /// Started by a launcher: go to the background, and leave when unused.
    #[arg(long, hide = true)]
    pub(super) on_demand: bool,
    /// The background half of `--on-demand`.
    #[arg(long, hide = true)]
    pub(super) detached: bool,
    /// The same, as a service of a manager that waits for its word.
    #[arg(long, hide = true)]
    pub(super) in_service: bool,
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    /// The session: its id, or its key, by which metrics and alerts call it.
    #[arg(value_parser = SessionId::parse, required_unless_present = "pid")]
    pub(super) session: Option<SessionId>,
    /// Find the session and the server that this process belongs to. Status 1 where none of yours holds it, or there is no such
    /// process.
    #[arg(long, value_name = "PID", conflicts_with = "session")]
    pub(super) pid: Option<i32>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Top {
    /// How often to look, 200ms to 1h; + and - change it.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    pub(super) interval: TimeSpan,
    #[command(flatten)]
    pub(super) socket: Socket,
}

/// An interval that shows something, and does not make the daemon work for nothing.
fn interval(given: &str) -> Result<TimeSpan, String> {
    let span: TimeSpan = given.parse().map_err(|error: crate::timespan::TimeSpanError| error.to_string())?;
    let fits = (Duration::from_millis(200)..=Duration::from_secs(3600)).contains(&span.duration());
    if fits { Ok(span) } else { Err("give 200ms to 1h".to_owned()) }
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(super) struct End {
    /// Sessions to end: their ids, or their keys, by which metrics and alerts call them.
    #[arg(value_name = "SESSION", value_parser = SessionId::parse, group = "what")]
    pub(super) sessions: Vec<SessionId>,
    /// End one server only: the session's id, a slash, and the server's name or leaf.
    #[arg(long, value_name = "SESSION/NAME", group = "what")]
    pub(super) server: Vec<String>,
    /// End all that this process owns.
    #[arg(long, value_name = "PID", group = "what")]
    pub(super) owner: Option<i32>,
    /// End all of your sessions.
    #[arg(long, group = "what")]
    pub(super) all: bool,
    /// End servers that carry this label: where it is given several times all of them, and where sessions, servers, an owner or
    /// --all are named, those of these that do.
    #[arg(long = "label", value_name = "KEY=VALUE", group = "what")]
    pub(super) labels: Vec<Label>,
    /// Spare what was launched at this time or later: RFC 3339 as `pinfold ls --json` shows it, or @SECONDS since 1970.
    #[arg(long, value_name = "TIME")]
    pub(super) before: Option<Timestamp>,
    /// Spare what is not of this generation of the session, as `pinfold status` shows it.
    #[arg(long, value_name = "N", conflicts_with_all = ["owner", "all"])]
    pub(super) generation: Option<u64>,
    /// Take it for done where a session or a server that is named is not there, or no more: without this that is status 1.
    #[arg(long)]
    pub(super) if_exists: bool,
    /// Kill at once, with no SIGTERM and no grace.
    #[arg(long)]
    pub(super) now: bool,
    /// Do not wait until they are gone.
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(super) struct Park {
    /// Servers to park: all of a session, by its id or key, or SESSION/NAME, by the server's name or leaf.
    #[arg(value_name = "SESSION[/SERVER]", group = "which")]
    pub(super) servers: Vec<String>,
    /// Park all of your servers.
    #[arg(long, group = "which")]
    pub(super) all: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(super) struct Thaw {
    /// Servers that shall go on: all of a session, by its id or key, or SESSION/NAME, by the server's name or leaf.
    #[arg(value_name = "SESSION[/SERVER]", group = "which")]
    pub(super) servers: Vec<String>,
    /// All of your servers.
    #[arg(long, group = "which")]
    pub(super) all: bool,
    /// Ask no daemon: thaw what one that is gone has left frozen. For an ExecStopPost= and its like.
    #[arg(long, group = "which")]
    pub(super) left: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Events {
    /// Go on, and tell what happens as it happens.
    #[arg(long, short)]
    pub(super) follow: bool,
    /// Only what happened to this session.
    #[arg(long, value_name = "ID", value_parser = SessionId::parse)]
    pub(super) session: Option<SessionId>,
    /// Only what happened since then: a time span ago (10min, 2h), RFC 3339, or @SECONDS since 1970.
    #[arg(long, value_name = "TIME", value_parser = super::history::since)]
    pub(super) since: Option<Timestamp>,
    /// Print JSON, one object on each line.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct History {
    /// What ended since then: a time span ago (2h, 7d), RFC 3339, or @SECONDS since 1970 [default: all that is kept].
    #[arg(long, value_name = "TIME", value_parser = super::history::since)]
    pub(super) since: Option<Timestamp>,
    /// Only servers of this session.
    #[arg(long, value_name = "ID", value_parser = SessionId::parse)]
    pub(super) session: Option<SessionId>,
    /// Add ends up by this, rather than list them.
    #[arg(long, value_enum)]
    pub(super) by: Option<HistoryBy>,
    /// How many ends to list, the latest of them; up to 10000 [default: 1000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::wire::ENDS_MAX)))]
    pub(super) limit: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum HistoryBy {
    /// The server's name.
    Server,
    /// The host that launched it.
    Host,
    /// The cause of the end.
    Cause,
}

#[derive(Debug, Args)]
pub(super) struct Reload {
    /// Lower limits below what is used, too: the kernel may kill for it.
    #[arg(long)]
    pub(super) force: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Relabel {
    /// Label all living servers that this process owns.
    #[arg(long, value_name = "PID", conflicts_with = "pid")]
    pub(super) owner: Option<i32>,
    /// Label the server that this process belongs to.
    #[arg(long, value_name = "PID")]
    pub(super) pid: Option<i32>,
    /// The session whose living servers are labelled (not with --owner or --pid), and then KEY=VALUE, up to 16 times.
    #[arg(required = true, value_name = "SESSION|KEY=VALUE")]
    pub(super) words: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Scan {
    /// Show also what looks as if it is in use, and all rows.
    #[arg(long)]
    pub(super) all: bool,
    /// Print JSON: all of it, up to 1000 trees.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Hook {
    /// The host that calls, by its hook SessionEnd: what its process owns is ended, unless it goes on after a clear or a resume.
    #[arg(value_enum, value_name = "HOST")]
    pub(super) host: HookHost,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum HookHost {
    /// Claude Code.
    ClaudeCode,
}

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Look at this host instead: whether pinfold is in front of what its files start, whether a launch through that lands in a
    /// leaf, and whether the end of its sessions is heard of.
    #[arg(value_name = "HOST", value_parser = PossibleValuesParser::new(HOSTS.iter().map(|host| host.name)))]
    pub(super) host: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    pub(super) shell: CompletionShell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CompletionShell {
    /// bash, with bash-completion.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}
