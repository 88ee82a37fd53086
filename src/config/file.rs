//! The file as it is written: one struct per table. Its single values are [`super::values`].
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::Deserialize;
use wildmatch::WildMatch;

use super::values::{
    Bound, Burst, Cap, Commands, Every, Grace, HostFile, IdleAfter, IdleExit, MemoryMax, Percent, StallSpan, SwapMax,
    Ttl, Variable, WaitMax,
};
use super::{history, metrics};
use crate::confine::Confine;
use crate::limits::{CpuMax, LimitWishes, PidsMax, Weight};
use crate::policy::{
    HostRule, OnExcess, OnPids, Rate, Rule, ServerWishes, SessionWishes, Settings, Uncontained, WhenRule,
};
use crate::session::Name;

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
    #[serde(default)]
    launches: Launches,
    #[serde(default)]
    containers: Containers,
    #[serde(default)]
    pub(super) metrics: metrics::Table,
    #[serde(default)]
    pub(super) history: history::Table,
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
            launches: self.launches.rate(),
            move_processes: self.containers.move_processes.unwrap_or(built_in.move_processes),
            ..built_in
        }
    }
}

/// A table with the keys of [`LimitWishes`] and its own.
macro_rules! table_of_limits {
    ($name:ident { $($own:ident: $type:ty),* }) => {
        #[derive(Deserialize, Default)]
        #[serde(deny_unknown_fields, default)]
        struct $name {
            memory_max: Option<MemoryMax>,
            memory_high: Option<MemoryMax>,
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
                    memory_high: self.memory_high.map(|MemoryMax(size)| size),
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
table_of_limits!(ServerTable {
    grace: Grace,
    stdin_grace: Grace,
    on_pids: OnPids,
    idle_after: IdleAfter,
    trim_after: IdleAfter,
    park_after: IdleAfter,
    park_reachable: bool,
    memory_high_pressure: Percent,
    memory_high_for: StallSpan,
    instances_max: Cap,
    on_excess: OnExcess,
    confine: Confine
});

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
            idle_after: self.idle_after.map(|IdleAfter(after)| after),
            trim_after: self.trim_after.map(|IdleAfter(after)| after),
            park_after: self.park_after.map(|IdleAfter(after)| after),
            park_reachable: self.park_reachable,
            memory_high_pressure: self.memory_high_pressure.map(|Percent(percent)| percent),
            memory_high_for: self.memory_high_for.map(|StallSpan(span)| span),
            instances_max: self.instances_max.map(|Cap(max)| max),
            on_excess: self.on_excess,
            confine: self.confine,
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
    sessions_max: Option<Bound>,
    servers_max: Option<Bound>,
    sessions_per_user_max: Option<Cap>,
    servers_per_user_max: Option<Cap>,
    sessions_per_host_max: Option<Cap>,
    servers_per_host_max: Option<Cap>,
}

impl Daemon {
    /// Changes the bounds that it speaks of.
    pub(super) fn bound(&self, settings: &mut Settings) {
        settings.sessions_max = self.sessions_max.map_or(settings.sessions_max, u32::from);
        settings.servers_max = self.servers_max.map_or(settings.servers_max, u32::from);
        for (written, cap) in [
            (self.sessions_per_user_max, &mut settings.sessions_per_user_max),
            (self.servers_per_user_max, &mut settings.servers_per_user_max),
            (self.sessions_per_host_max, &mut settings.sessions_per_host_max),
            (self.servers_per_host_max, &mut settings.servers_per_host_max),
        ] {
            *cap = written.map_or(*cap, |Cap(max)| max);
        }
    }
}

/// `[launches]`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Launches {
    burst: Option<Burst>,
    every: Option<Every>,
    wait_max: Option<WaitMax>,
}

/// `[containers]`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Containers {
    move_processes: Option<bool>,
}

impl Launches {
    fn rate(&self) -> Rate {
        let built_in = Settings::built_in_launches();
        Rate {
            burst: self.burst.map_or(built_in.burst, |Burst(burst)| burst),
            every: self.every.map_or(built_in.every, |Every(every)| every),
            wait_max: self.wait_max.map_or(built_in.wait_max, |WaitMax(wait)| wait),
        }
    }
}
