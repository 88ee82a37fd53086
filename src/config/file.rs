//! The file as it is written: one struct per table, one type per kind of value. Each value is checked where it is
//! read, so that the error knows its line.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use wildmatch::WildMatch;

use crate::limits::{CpuMax, Limit, LimitError, LimitWishes, MEMORY_MAX_FLOOR, MemorySize, PidsMax, Weight};
use crate::policy::{GRACE_MAX, HostRule, OnPids, Rule, ServerWishes, SessionWishes, Settings, Uncontained, WhenRule};
use crate::session::Name;
use crate::timespan::{TimeSpan, TimeSpanError};

/// The shortest time that a session may be given to live.
const TTL_MIN: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    best_effort: Option<bool>,
    uncontained: Option<Uncontained>,
    allow_leave: Option<Vec<String>>,
    #[serde(default)]
    machine: LevelTable,
    #[serde(default)]
    session: SessionTable,
    #[serde(default)]
    server: ServerTable,
    #[serde(default)]
    rule: Vec<RuleTable>,
    #[serde(default)]
    pub(super) host: Vec<toml::Spanned<Host>>,
    #[serde(default)]
    pub(super) daemon: Daemon,
}

impl File {
    /// All settings but the hosts and the bounds, which are left at their defaults.
    pub(super) fn settings(&self) -> Settings {
        let built_in = Settings::default();
        Settings {
            best_effort: self.best_effort.unwrap_or(built_in.best_effort),
            uncontained: self.uncontained.unwrap_or(built_in.uncontained),
            allow_leave: self.allow_leave.iter().flatten().map(|pattern| WildMatch::new(pattern)).collect(),
            machine: self.machine.limits(),
            session: self.session.wishes(),
            server: self.server.wishes(),
            rules: self.rule.iter().map(|rule| rule.0.clone()).collect(),
            ..built_in
        }
    }
}

/// A table with the keys of [`LimitWishes`] and its own. `memory_high` is not among them: see [`super::remedied`].
macro_rules! table_of_limits {
    ($name:ident { $($own:ident: $type:ty),* }) => {
        #[derive(Deserialize, Default)]
        #[serde(deny_unknown_fields, default)]
        struct $name {
            memory_max: Option<MemoryMax>,
            memory_swap_max: Option<SwapMax>,
            pids_max: Option<PidsMax>,
            cpu_max: Option<CpuMax>,
            cpu_weight: Option<Weight>,
            io_weight: Option<Weight>,
            $($own: Option<$type>,)*
        }

        impl $name {
            fn limits(&self) -> LimitWishes {
                LimitWishes {
                    memory_max: self.memory_max.map(|MemoryMax(size)| size),
                    memory_high: None,
                    memory_swap_max: self.memory_swap_max.map(|SwapMax(size)| size),
                    pids_max: self.pids_max,
                    cpu_max: self.cpu_max,
                    cpu_weight: self.cpu_weight,
                    io_weight: self.io_weight,
                }
            }
        }
    };
}
table_of_limits!(LevelTable {});
table_of_limits!(SessionTable { ttl: Ttl });
table_of_limits!(ServerTable { grace: Grace, stdin_grace: Grace, on_pids: OnPids });

impl SessionTable {
    fn wishes(&self) -> SessionWishes {
        SessionWishes { limits: self.limits(), ttl: self.ttl.map(|Ttl(ttl)| ttl) }
    }
}

impl ServerTable {
    fn wishes(&self) -> ServerWishes {
        ServerWishes {
            limits: self.limits(),
            grace: self.grace.map(|Grace(grace)| grace),
            stdin_grace: self.stdin_grace.map(|Grace(grace)| grace),
            on_pids: self.on_pids,
        }
    }
}

/// A `[[rule]]`.
#[derive(Deserialize)]
#[serde(try_from = "WrittenRule")]
struct RuleTable(Rule);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    when: When,
    session: Option<SessionTable>,
    server: Option<ServerTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    host: Option<String>,
    session: Option<String>,
    server: Option<String>,
}

impl TryFrom<WrittenRule> for RuleTable {
    type Error = &'static str;

    fn try_from(WrittenRule { when, session, server }: WrittenRule) -> Result<Self, Self::Error> {
        if when.host.is_none() && when.session.is_none() && when.server.is_none() {
            return Err("this rule speaks of every launch; give host, session or server in its `when`, or write its \
                        limits under [server] and [session]");
        }
        if session.is_none() && server.is_none() {
            return Err("this rule says nothing; give it a `server` or a `session` table");
        }
        if session.is_some() && when.server.is_some() {
            return Err("the limits of a session cannot depend on one of its servers; leave `server` out of its \
                        `when`, or make two rules of it");
        }
        let glob = |pattern: Option<String>| pattern.map(|pattern| WildMatch::new(&pattern));
        Ok(Self(Rule {
            when: WhenRule { host: glob(when.host), session: glob(when.session), server: glob(when.server) },
            session: session.unwrap_or_default().wishes(),
            server: server.unwrap_or_default().wishes(),
        }))
    }
}

/// A `[[host]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Host {
    pub(super) name: Name,
    commands: Option<Commands>,
    session_env: Option<Variable>,
    session_is_process: Option<bool>,
    files: Option<Vec<HostFile>>,
}

impl Host {
    /// Changes what the entry speaks of, and leaves the rest.
    pub(super) fn change(self, host: &mut HostRule) {
        if let Some(Commands(commands)) = self.commands {
            host.commands = commands;
        }
        if let Some(Variable(variable)) = self.session_env {
            host.session_env = variable;
        }
        host.session_is_process = self.session_is_process.unwrap_or(host.session_is_process);
        if let Some(files) = self.files {
            host.files = files.into_iter().map(|HostFile(path)| path).collect();
        }
    }

    /// A host that is not built in. `None` without commands: nothing would ever be recognised as it.
    pub(super) fn into_new(self) -> Option<HostRule> {
        Some(HostRule {
            name: self.name,
            commands: self.commands?.0,
            session_env: self.session_env.and_then(|Variable(variable)| variable),
            session_is_process: self.session_is_process.unwrap_or(false),
            files: self.files.into_iter().flatten().map(|HostFile(path)| path).collect(),
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Daemon {
    pub(super) idle_exit: Option<IdleExit>,
    pub(super) sessions_max: Option<Bound>,
    pub(super) servers_max: Option<Bound>,
}

/// A value as text, whether or not it was written in quotes: `memory_swap_max = 0` is as good as `"0"`.
#[derive(Deserialize)]
#[serde(from = "serde_json::Value")]
struct Scalar(String);

impl From<serde_json::Value> for Scalar {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::String(text) => Self(text),
            other => Self(other.to_string()),
        }
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
struct SwapMax(MemorySize);

impl TryFrom<Scalar> for SwapMax {
    type Error = LimitError;
    fn try_from(Scalar(text): Scalar) -> Result<Self, LimitError> {
        text.parse().map(Self)
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
struct MemoryMax(MemorySize);

impl TryFrom<Scalar> for MemoryMax {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        match text.parse().map_err(|error: LimitError| error.to_string())? {
            MemorySize::Amount(amount) if amount < MEMORY_MAX_FLOOR => {
                Err(format!("{amount} is less than a process can start with; write at least {MEMORY_MAX_FLOOR}"))
            }
            MemorySize::Share(0) => {
                Err(format!("0% is less than a process can start with; write at least {MEMORY_MAX_FLOOR}"))
            }
            enough => Ok(Self(enough)),
        }
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
struct Grace(Duration);

impl TryFrom<Scalar> for Grace {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        let span: TimeSpan = text.parse().map_err(|error: TimeSpanError| error.to_string())?;
        if span.duration() > GRACE_MAX {
            let max = GRACE_MAX.as_secs();
            return Err(format!("{span} would hold up the end of a session for too long; write at most {max}s"));
        }
        Ok(Self(span.duration()))
    }
}

/// How long a session may live. Less than a second would end it before its first server has answered.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
struct Ttl(Limit<TimeSpan>);

impl TryFrom<Scalar> for Ttl {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        if text == "infinity" {
            return Ok(Self(Limit::Infinity));
        }
        let span: TimeSpan = text.parse().map_err(|TimeSpanError { .. }| {
            format!("{text:?} is not a time to live; write 8h, 30min or \"infinity\" (at most 30d)")
        })?;
        if span.duration() < TTL_MIN {
            return Err(format!("{span} is too short to live for; write at least {}s", TTL_MIN.as_secs()));
        }
        Ok(Self(Limit::At(span)))
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
pub(super) struct IdleExit(pub(super) Limit<Duration>);

impl TryFrom<Scalar> for IdleExit {
    type Error = TimeSpanError;
    fn try_from(Scalar(text): Scalar) -> Result<Self, TimeSpanError> {
        match text.as_str() {
            "infinity" => Ok(Self(Limit::Infinity)),
            text => text.parse().map(|span: TimeSpan| Self(Limit::At(span.duration()))),
        }
    }
}

/// The most entries of a table of the daemon. Each costs descriptors and memory, so it has a bound of its own.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "i64")]
pub(super) struct Bound(u32);

impl TryFrom<i64> for Bound {
    type Error = String;
    fn try_from(number: i64) -> Result<Self, String> {
        match u32::try_from(number) {
            Ok(bound @ 1..=100_000) => Ok(Self(bound)),
            _ => Err(format!("{number} is not a bound of a table; write a number from 1 to 100000")),
        }
    }
}

impl From<Bound> for u32 {
    fn from(Bound(bound): Bound) -> u32 {
        bound
    }
}

#[derive(Deserialize)]
#[serde(try_from = "Vec<String>")]
struct Commands(Vec<String>);

impl TryFrom<Vec<String>> for Commands {
    type Error = String;
    fn try_from(commands: Vec<String>) -> Result<Self, String> {
        if commands.is_empty() {
            return Err("a host without commands is never recognised; name at least one".to_owned());
        }
        match commands.iter().find(|command| command.is_empty() || command.contains(['/', ' '])) {
            Some(wrong) => Err(format!("{wrong:?} is not the name of a command; write it without path and arguments")),
            None => Ok(Self(commands)),
        }
    }
}

/// A file of a host's, which is watched.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct HostFile(PathBuf);

impl TryFrom<String> for HostFile {
    type Error = String;
    fn try_from(path: String) -> Result<Self, String> {
        if !path.starts_with('/') && !path.starts_with("~/") {
            return Err(format!("{path:?} is below no known directory; write it from / or from ~/ on"));
        }
        Ok(Self(path.into()))
    }
}

/// A variable's name. Empty: there is none, which takes a built-in one away.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Variable(Option<String>);

impl TryFrom<String> for Variable {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        let fine = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !fine || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!("{name:?} is not the name of a variable; write it as in CLAUDE_CODE_SESSION_ID"));
        }
        Ok(Self(Some(name).filter(|name| !name.is_empty())))
    }
}
