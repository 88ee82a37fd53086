//! What the operator decided, and what holds where nothing was said.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use super::rate::Rate;
use crate::confine::Confine;
use crate::limits::{Bytes, Limit, LimitWishes, MemorySize, PidsMax};
use crate::outcome::Stall;
use crate::session::{Name, SessionId};
use crate::timespan::TimeSpan;

/// What the configuration file says. [`Settings::default`] is a file that says nothing.
///
/// The wishes hold only what somebody wrote; what nobody wrote is in [`Settings::built_in_machine`] and its siblings.
/// They are kept apart because a limit that was asked for is held or refused, while a default may give way to the
/// machine (see [`super::decide`]).
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Whether a limit that cannot hold here is dropped with a warning. Otherwise it is a refusal.
    pub best_effort: bool,
    /// What becomes of a launch that asks to run without containment.
    pub uncontained: Uncontained,
    /// Limits of all sessions together.
    pub machine: LimitWishes,
    /// Limits of each session, and how long it may live.
    pub session: SessionWishes,
    /// Limits and manners of each server.
    pub server: ServerWishes,
    /// Exceptions, in the order of the file: where several match, what a later one says wins.
    pub rules: Vec<Rule>,
    /// The hosts that are recognised, the built-in ones included.
    pub hosts: Vec<HostRule>,
    /// Units that a launcher may leave although something that held it there cannot be taken along.
    pub allow_leave: Vec<WildMatch>,
    /// Whether the processes of a container may be moved to a cgroup below its own, so that its servers can have limits.
    pub move_processes: bool,
    /// The most sessions at a time.
    pub sessions_max: u32,
    /// The most servers at a time, in all sessions together.
    pub servers_max: u32,
    /// The most sessions of one user.
    pub sessions_per_user_max: Limit<u32>,
    /// The most servers of one user.
    pub servers_per_user_max: Limit<u32>,
    /// The most sessions of one host, which is the software of one user.
    pub sessions_per_host_max: Limit<u32>,
    /// The most servers of one host.
    pub servers_per_host_max: Limit<u32>,
    /// How often a server may be launched.
    pub launches: Rate,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            best_effort: false,
            uncontained: Uncontained::Allow,
            machine: LimitWishes::default(),
            session: SessionWishes::default(),
            server: ServerWishes::default(),
            rules: Vec::new(),
            hosts: built_in_hosts(),
            allow_leave: Vec::new(),
            move_processes: false,
            sessions_max: 1000,
            servers_max: 5000,
            sessions_per_user_max: Limit::Infinity,
            servers_per_user_max: Limit::Infinity,
            sessions_per_host_max: Limit::Infinity,
            servers_per_host_max: Limit::Infinity,
            launches: Self::built_in_launches(),
        }
    }
}

impl Settings {
    /// The machine's limits where the file says nothing. A quarter of the memory stays for the hosts and the system: an
    /// agent whose servers are bounded is of no use on a machine that has died.
    pub fn built_in_machine() -> LimitWishes {
        LimitWishes { memory_max: Some(MemorySize::Share(75_00)), pids_max: pids(16_384), ..any_swap() }
    }

    /// A session's limits where the file says nothing: one runaway agent leaves room for a second. It lives for as long
    /// as it has servers: nothing ends for its age unless somebody said so.
    pub fn built_in_session() -> SessionWishes {
        SessionWishes {
            limits: LimitWishes { memory_max: Some(MemorySize::Share(50_00)), pids_max: pids(4096), ..any_swap() },
            ttl: Some(Limit::Infinity),
        }
    }

    /// A server's limits and manners where the file says nothing. A Node server needs 70 to 185 MB, a headless browser
    /// ten times that, and V8 grows its heap before it collects. Threads count as processes, and each `npm exec`
    /// tree has some thirty of them, a browser hundreds. It does not swap by itself: a server that swaps answers too late to
    /// be of use and takes the whole machine's disk with it; dying is told, a standstill is not. What goes to swap is what an
    /// idle server does not touch, and it goes there only when that is given back.
    pub fn built_in_server() -> ServerWishes {
        ServerWishes {
            limits: LimitWishes {
                memory_max: Some(MemorySize::Amount(Bytes(2 << 30))),
                pids_max: pids(1024),
                memory_swap_max: Some(MemorySize::Amount(Bytes(0))),
                ..LimitWishes::default()
            },
            grace: Some(Duration::from_secs(3)),
            stdin_grace: Some(Duration::from_secs(5)),
            on_pids: Some(OnPids::Report),
            idle_after: Some(Limit::Infinity),
            trim_after: Some(Limit::At(TRIM_AFTER)),
            park_after: Some(Limit::Infinity),
            park_reachable: Some(false),
            memory_high_pressure: Some(STALL.percent),
            memory_high_for: Some(STALL.span),
            instances_max: Some(Limit::Infinity),
            on_excess: Some(OnExcess::Replace),
            confine: Some(Confine::No),
        }
    }

    /// How often a server may be launched where the file says nothing. A gateway that starts launches each of its servers
    /// once for each of its sessions, fifty of them at once; in the hours after that, fifteen new sessions a minute are
    /// many. A server that exits at once and is started again at once gets there within seconds.
    pub fn built_in_launches() -> Rate {
        Rate { burst: Limit::At(60), every: Duration::from_secs(4), wait_max: Duration::from_secs(5) }
    }

    /// The host of this name, where it is a known one.
    pub fn host(&self, name: &Name) -> Option<&HostRule> {
        self.hosts.iter().find(|host| host.name == *name)
    }
}

/// What counts as a standstill at a `memory_high` where nothing was said. One that stands still for good was measured at
/// 81 to 89 %, one whose page cache is reclaimed far below.
pub const STALL: Stall = Stall { span: TimeSpan::seconds(10), percent: 40 };

/// After how long without activity a server's memory is given back where nothing was said. It goes on meanwhile, and what it
/// needs again comes back page by page.
pub const TRIM_AFTER: TimeSpan = TimeSpan::seconds(30 * 60);

/// What may swap is said for each server; above it there is no other limit.
fn any_swap() -> LimitWishes {
    LimitWishes { memory_swap_max: Some(MemorySize::Infinity), ..LimitWishes::default() }
}

fn pids(count: u32) -> Option<PidsMax> {
    Some(PidsMax(Limit::At(count)))
}

/// What becomes of a launch that asks to run without containment (`--uncontained`) because it cannot be contained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Uncontained {
    /// It does not run.
    Refuse,
    /// It runs; that is said loudly and counted.
    Allow,
}

/// What becomes of a server that reached its process limit. The kernel refuses its forks in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnPids {
    /// It lives on, and the limit is reported.
    Report,
    /// It is ended.
    End,
}

/// What becomes of a launch beyond `instances_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExcess {
    /// It goes ahead, and once it is placed the oldest instance is ended.
    Replace,
    /// It is refused.
    Refuse,
}

/// What somebody wrote down for sessions. `None`: nothing was said, a wider rule decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionWishes {
    /// The limits of the session.
    pub limits: LimitWishes,
    /// How long it may live, from its first launch on.
    pub ttl: Option<Limit<TimeSpan>>,
}

impl SessionWishes {
    /// These wishes, and where they say nothing, the wider ones.
    #[must_use]
    pub fn or(self, wider: Self) -> Self {
        Self { limits: self.limits.or(wider.limits), ttl: self.ttl.or(wider.ttl) }
    }
}

/// What somebody wrote down for servers. `None`: nothing was said, a wider rule decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerWishes {
    /// The limits of the server's leaf.
    pub limits: LimitWishes,
    /// How long a server has between SIGTERM and the kill.
    pub grace: Option<Duration>,
    /// How long a server has to leave by itself once its stdin was closed, before SIGTERM.
    pub stdin_grace: Option<Duration>,
    /// What becomes of a server that reached its process limit.
    pub on_pids: Option<OnPids>,
    /// How long a server may do nothing.
    pub idle_after: Option<Limit<TimeSpan>>,
    /// After how long without activity its memory is given back while it goes on.
    pub trim_after: Option<Limit<TimeSpan>>,
    /// After how long without activity it is frozen and its memory given back.
    pub park_after: Option<Limit<TimeSpan>>,
    /// Whether it is parked although something other than its stdin could wake it.
    pub park_reachable: Option<bool>,
    /// The full memory pressure, in percent, at which a server that presses against a `memory_high` stands still.
    pub memory_high_pressure: Option<u8>,
    /// For how long it must have stood still to be ended.
    pub memory_high_for: Option<TimeSpan>,
    /// How many instances of the server a named session may have at a time.
    pub instances_max: Option<Limit<u32>>,
    /// What becomes of one more.
    pub on_excess: Option<OnExcess>,
    /// How the server is confined, at the least.
    pub confine: Option<Confine>,
}

impl ServerWishes {
    /// These wishes, and where they say nothing, the wider ones.
    #[must_use]
    pub fn or(self, wider: Self) -> Self {
        Self {
            limits: self.limits.or(wider.limits),
            grace: self.grace.or(wider.grace),
            stdin_grace: self.stdin_grace.or(wider.stdin_grace),
            on_pids: self.on_pids.or(wider.on_pids),
            idle_after: self.idle_after.or(wider.idle_after),
            trim_after: self.trim_after.or(wider.trim_after),
            park_after: self.park_after.or(wider.park_after),
            park_reachable: self.park_reachable.or(wider.park_reachable),
            memory_high_pressure: self.memory_high_pressure.or(wider.memory_high_pressure),
            memory_high_for: self.memory_high_for.or(wider.memory_high_for),
            instances_max: self.instances_max.or(wider.instances_max),
            on_excess: self.on_excess.or(wider.on_excess),
            confine: self.confine.or(wider.confine),
        }
    }
}

/// An exception: for the launches it speaks of, it says something else than the general tables.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rule {
    /// Which launches it speaks of.
    pub when: WhenRule,
    /// What it says for the session.
    pub session: SessionWishes,
    /// What it says for the server.
    pub server: ServerWishes,
}

/// Which launches a rule speaks of: those that match every glob (`*` and `?`) that is there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WhenRule {
    /// The name of the host. A launch whose host is not known does not match.
    pub host: Option<WildMatch>,
    /// The session's id.
    pub session: Option<WildMatch>,
    /// The server's name.
    pub server: Option<WildMatch>,
}

impl WhenRule {
    /// Whether the rule speaks of this launch.
    pub fn matches(&self, host: Option<&Name>, session: &SessionId, server: &Name) -> bool {
        let fits = |glob: &Option<WildMatch>, text: &str| glob.as_ref().is_none_or(|glob| glob.matches(text));
        self.host.as_ref().is_none_or(|glob| host.is_some_and(|host| glob.matches(host.as_str())))
            && fits(&self.session, session.as_str())
            && fits(&self.server, server.as_str())
    }
}

/// A host that is recognised among the ancestors of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    /// What it is called.
    pub name: Name,
    /// Its programs: names of commands or of scripts without their ending, or of the npm package that holds them.
    pub commands: Vec<String>,
    /// The environment variable by which it tells a server its session id.
    pub session_env: Option<String>,
    /// Whether one process of it is one session, so that the process can stand for a session without an id.
    pub session_is_process: bool,
    /// Its configuration files that are watched: a server whose entry goes from them is ended. A path that begins with `~/`
    /// is below the home of the daemon's user.
    pub files: Vec<PathBuf>,
}

/// What VS Code's programs and its extension host's script are called, in all of its builds.
const VSCODE: [&str; 7] =
    ["code", "code-insiders", "code-oss", "codium", "code-server", "vscode-server", "bootstrap-fork"];

/// The hosts that are known without a configuration.
pub fn built_in_hosts() -> Vec<HostRule> {
    let host = |name, commands: &[&str], session_env: Option<&str>, session_is_process| HostRule {
        name: Name::parse(name).expect("the built-in names are names"),
        commands: commands.iter().map(|command| (*command).to_owned()).collect(),
        session_env: session_env.map(str::to_owned),
        session_is_process,
        files: Vec::new(),
    };
    vec![
        // One gateway process holds all sessions and tells its servers nothing about them.
        host("openclaw", &["openclaw", "openclaw-gateway"], None, false),
        host("claude-code", &["claude", "claude-code"], Some("CLAUDE_CODE_SESSION_ID"), true),
        host("codex", &["codex", "codex-exec", "codex-app-server"], None, true),
        host("goose", &["goose", "goosed"], Some("AGENT_SESSION_ID"), true),
        // A server process with many sessions (opencode), or windows with many (the editors).
        host("opencode", &["opencode", "opencode-ai", "opencode-cli"], None, false),
        host("zed", &["zed", "zed-editor", "zed-remote-server"], None, false),
        host("cursor", &["cursor", "cursor-agent", "cursor-server"], None, false),
        host("vscode", &VSCODE, None, false),
        host("gemini-cli", &["gemini", "gemini-cli"], None, false),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_hosts_have_distinct_names() {
        let settings = Settings::default();
        for host in &settings.hosts {
            assert_eq!(settings.host(&host.name), Some(host));
        }
    }

    #[test]
    fn a_rule_speaks_of_what_matches_all_its_globs() {
        let rule = |host: &str, session: &str, server: &str| {
            let glob = |text: &str| (!text.is_empty()).then(|| WildMatch::new(text));
            WhenRule { host: glob(host), session: glob(session), server: glob(server) }
        };
        let host = Name::parse("openclaw").unwrap();
        let (session, server) = (SessionId::parse("agent:main").unwrap(), Name::parse("chrome-devtools").unwrap());
        for (when, matches, matches_without_host) in [
            (rule("", "", ""), true, true),
            (rule("openclaw", "agent:*", "chrome-*"), true, false),
            (rule("*", "", ""), true, false),
            (rule("", "agent:????", ""), true, true),
            (rule("", "agent", ""), false, false),
            (rule("codex", "agent:*", ""), false, false),
            (rule("", "", "Chrome-*"), false, false),
        ] {
            assert_eq!(when.matches(Some(&host), &session, &server), matches, "{when:?}");
            assert_eq!(when.matches(None, &session, &server), matches_without_host, "{when:?}");
        }
    }
}
