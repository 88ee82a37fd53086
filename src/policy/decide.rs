//! What a launch is granted.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;
use std::time::Duration;

use super::Refusal;
use super::settings::{OnExcess, OnPids, STALL, ServerWishes, SessionWishes, Settings};
use crate::confine::Confine;
use crate::limits::{Bytes, CpuMax, Limit, LimitWishes, Limits, MEMORY_MAX_FLOOR, MemorySize, PidsMax, Weight};
use crate::outcome::{Level, Stall};
use crate::session::{Name, SessionId};
use crate::timespan::TimeSpan;

/// The longest grace that is granted: an end that anybody can put off for longer is none.
pub const GRACE_MAX: Duration = Duration::from_secs(600);

/// A launch, as far as it matters for what it may use.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The host that launches, where it is known.
    pub host: Option<&'a Name>,
    /// The session it belongs to.
    pub session: &'a SessionId,
    /// The server to be launched.
    pub server: &'a Name,
    /// Limits that the launch itself asks for; they go before the configuration's.
    pub wishes: &'a LimitWishes,
    /// The grace that the launch itself asks for.
    pub grace: Option<Duration>,
    /// How it is to be confined, or has to be as the server that launches it is.
    pub confine: Confine,
    /// What this machine can hold.
    pub offered: &'a Offers,
}

/// What limits hold on this machine, in the place where the leaf would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offers {
    /// `memory.max`.
    pub memory: Offer,
    /// `memory.high`, with the pressure by which its watchdog sees what stands still there.
    pub memory_high: Offer,
    /// `memory.swap.max`.
    pub swap: Offer,
    /// `pids.max`.
    pub pids: Offer,
    /// `cpu.max` and `cpu.weight`.
    pub cpu: Offer,
    /// `io.weight`.
    pub io: Offer,
    /// `memory.reclaim`: memory can be given back while nothing is ended for it.
    pub trim: Offer,
    /// Freezing, and somebody who thaws whatever becomes of the daemon.
    pub park: Offer,
    /// The machine's memory, of which a share is taken.
    pub ram: Bytes,
}

/// Whether one kind of limit holds here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// The kernel enforces it.
    Holds,
    /// There is nothing of the kind to use up (a machine without swap): every such limit holds by itself, and none is
    /// set.
    NothingToLimit,
    /// It could hold, and whoever decides that has not allowed it: the leaf is inside a container. What nobody wrote gives
    /// way there, since the container's own limits hold; and so does the machine's, since it is not the machine's part that
    /// is used. Both are clauses without a full stop.
    Withheld {
        /// What is in the way.
        why: String,
        /// What would change that.
        remedy: String,
    },
    /// The kernel cannot enforce it here. Both are clauses without a full stop.
    Missing {
        /// What is missing.
        why: String,
        /// What would change that.
        remedy: String,
    },
}

impl Offer {
    /// Why it does not hold here and what would change that, as one clause.
    pub fn why_not(&self) -> Option<String> {
        match self {
            Self::Missing { why, remedy } | Self::Withheld { why, remedy } => Some(format!("{why}; {remedy}")),
            Self::Holds | Self::NothingToLimit => None,
        }
    }
}

/// Whether the launch may go ahead.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may, under these limits.
    Granted(Box<Grant>),
    /// It may not.
    Refused(Refusal),
}

/// Under what limits and manners a launch goes ahead. A limit that is `None` is left as the kernel made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Of the server's leaf.
    pub server: Limits,
    /// Of the session.
    pub session: Limits,
    /// Of all sessions together.
    pub machine: Limits,
    /// How long the session may live, if this launch is its first.
    pub ttl: Limit<TimeSpan>,
    /// Between SIGTERM and the kill.
    pub grace: Duration,
    /// Between the hang-up of stdin and SIGTERM.
    pub stdin_grace: Duration,
    /// What becomes of the server at its process limit.
    pub on_pids: OnPids,
    /// How long the server may do nothing.
    pub idle_after: Limit<TimeSpan>,
    /// After how long without activity its memory is given back while it goes on.
    pub trim_after: Limit<TimeSpan>,
    /// After how long without activity it is parked.
    pub park_after: Limit<TimeSpan>,
    /// Whether it is parked although something other than its stdin could wake it.
    pub park_reachable: bool,
    /// How much of it may stand in swap after its memory was given back. What nobody limited is limited by the swap there is.
    pub idle_swap: Limit<Bytes>,
    /// What counts as a standstill at a `memory_high`, its own or one above.
    pub stall: Stall,
    /// How many instances of the server its session may have at a time, where that is a named one.
    pub instances_max: Limit<u32>,
    /// What becomes of one more.
    pub on_excess: OnExcess,
    /// How the server is confined.
    pub confine: Confine,
    /// What the operator and the user should know: limits that were dropped or that cannot be reached. One clause each.
    pub warnings: Vec<String>,
}

/// Decides whether a launch may go ahead, and under what limits.
///
/// For the server, what the launch asks for goes before the rules, a later rule before an earlier one, any rule before
/// the general table, and that before the defaults. A limit that this machine cannot hold is a refusal, or under
/// `best_effort` a warning. One default gives way by itself: nobody asked for "no swap", and memory stays bounded
/// without it, so a kernel that does not account swap only costs a warning.
pub fn decide(settings: &Settings, request: &Request<'_>) -> Decision {
    match grant(settings, request) {
        Ok(grant) => Decision::Granted(Box::new(grant)),
        Err(refusal) => Decision::Refused(refusal),
    }
}

/// What a server that lives would be granted by other settings than those it was launched under.
pub fn regrant(settings: &Settings, request: &Request<'_>) -> Result<Box<Grant>, Refusal> {
    grant(settings, request).map(Box::new)
}

/// How a launch is confined by what is written down, at the least.
pub fn confined(settings: &Settings, host: Option<&Name>, session: &SessionId, server: &Name) -> Confine {
    written(settings, host, session, server).0.or(Settings::built_in_server()).confine.unwrap_or_default()
}

/// What is written down for a launch: a later rule goes before an earlier one, and any before the general tables.
fn written(
    settings: &Settings,
    host: Option<&Name>,
    session: &SessionId,
    server: &Name,
) -> (ServerWishes, SessionWishes) {
    let said = (settings.server, settings.session);
    let rules = settings.rules.iter().filter(|rule| rule.when.matches(host, session, server));
    rules.fold(said, |(server, session), rule| (rule.server.or(server), rule.session.or(session)))
}

fn grant(settings: &Settings, request: &Request<'_>) -> Result<Grant, Refusal> {
    let (mut server, session) = written(settings, request.host, request.session, request.server);
    server.limits = request.wishes.or(server.limits);
    server.grace = request.grace.or(server.grace);

    let mut scale = Scale { settings, offers: request.offered, dropped: Vec::new(), withheld: None };
    let built_in = Settings::built_in_server();
    let machine_limits = scale.level(Level::Machine, settings.machine, Settings::built_in_machine())?;
    let built_in_session = Settings::built_in_session();
    let session_limits = scale.level(Level::Session, session.limits, built_in_session.limits)?;
    let server_limits = scale.level(Level::Server, server.limits, built_in.limits)?;
    let mut warnings = scale.warnings();
    warnings.extend(out_of_reach(
        request.wishes,
        &server_limits,
        [(Level::Session, &session_limits), (Level::Machine, &machine_limits)],
    ));
    let manners = server.or(built_in);
    let (trim_after, park_after) = rests(&manners, request.offered, &mut warnings);
    let idle_swap = server.limits.memory_swap_max.map_or(Limit::Infinity, |swap| swap.resolve(request.offered.ram));
    Ok(Grant {
        server: server_limits,
        session: session_limits,
        machine: machine_limits,
        ttl: session.or(built_in_session).ttl.unwrap_or(Limit::Infinity),
        grace: bounded("grace", manners.grace)?,
        stdin_grace: bounded("stdin_grace", manners.stdin_grace)?,
        on_pids: manners.on_pids.unwrap_or(OnPids::Report),
        idle_after: manners.idle_after.unwrap_or(Limit::Infinity),
        trim_after,
        park_after,
        park_reachable: manners.park_reachable.unwrap_or(false),
        idle_swap,
        stall: Stall {
            span: manners.memory_high_for.unwrap_or(STALL.span),
            percent: manners.memory_high_pressure.unwrap_or(STALL.percent),
        },
        instances_max: manners.instances_max.unwrap_or(Limit::Infinity),
        on_excess: manners.on_excess.unwrap_or(OnExcess::Replace),
        // Whoever launches may ask for more than the operator, and never for less.
        confine: manners.confine.unwrap_or_default().max(request.confine),
        warnings,
    })
}

/// After how long an idle server is trimmed, and parked. What cannot be parked here is trimmed instead; that it cannot even be
/// trimmed is no more than if pinfold did not do such things.
fn rests(manners: &ServerWishes, offered: &Offers, warnings: &mut Vec<String>) -> (Limit<TimeSpan>, Limit<TimeSpan>) {
    let trim = manners.trim_after.unwrap_or(Limit::Infinity);
    let park = manners.park_after.unwrap_or(Limit::Infinity);
    let (trims, parks) = (offered.trim == Offer::Holds, offered.trim == Offer::Holds && offered.park == Offer::Holds);
    let instead = if parks { None } else { park.at() };
    if instead.is_some() {
        let why = [&offered.trim, &offered.park].into_iter().find_map(Offer::why_not);
        let but = if trims { "is trimmed when it is idle, and not parked" } else { "is not parked when it is idle" };
        warnings.push(format!("it {but}: {}", why.unwrap_or_default()));
    }
    let trim = trim.at().into_iter().chain(instead).min().filter(|_| trims);
    (trim.map_or(Limit::Infinity, Limit::At), if parks { park } else { Limit::Infinity })
}

fn bounded(key: &str, asked: Option<Duration>) -> Result<Duration, Refusal> {
    let asked = asked.unwrap_or_default();
    if asked <= GRACE_MAX {
        return Ok(asked);
    }
    Err(Refusal::new(
        format!("a {key} of {} seconds would hold up the end of a session for too long", asked.as_secs()),
        format!("ask for at most {} seconds", GRACE_MAX.as_secs()),
    ))
}

/// Limits that the launch asked for and that a wider level reaches first: they hold, but not as their author thinks.
fn out_of_reach(wishes: &LimitWishes, server: &Limits, wider: [(Level, &Limits); 2]) -> Vec<String> {
    fn beyond<T: Ord + fmt::Display>(
        key: &str,
        asked: Option<Limit<T>>,
        wider: [(Level, Option<Limit<T>>); 2],
    ) -> Option<String> {
        let asked = asked?.at()?;
        let reached =
            |(level, limit): (Level, Option<Limit<T>>)| Some((level, limit?.at()?)).filter(|(_, max)| *max < asked);
        let (level, first) = wider.into_iter().find_map(reached)?;
        Some(format!("the server's {key} of {asked} is out of reach: the {level}'s {key} of {first} comes first"))
    }
    let memory = wishes.memory_max.and(server.memory_max);
    let pids = wishes.pids_max.and(server.pids_max);
    [
        beyond("memory_max", memory, wider.map(|(level, limits)| (level, limits.memory_max))),
        beyond("pids_max", pids, wider.map(|(level, limits)| (level, limits.pids_max))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Refuses what nothing can start with. It is told as it was written, and not in whole pages.
fn enough(Wish { level, key, .. }: Wish, size: Option<MemorySize>, ram: Bytes) -> Result<(), Refusal> {
    let amount = size.and_then(|size| size.exact(ram).at()).unwrap_or(MEMORY_MAX_FLOOR);
    if amount >= MEMORY_MAX_FLOOR {
        return Ok(());
    }
    let unit = if amount < Bytes(1 << 10) && matches!(size, Some(MemorySize::Amount(_))) {
        "; a number without a unit counts bytes"
    } else {
        ""
    };
    Err(Refusal::new(
        format!("the {level}'s {key} of {amount} is less than a process can start with"),
        format!("ask for at least {MEMORY_MAX_FLOOR}{unit}"),
    ))
}

/// What is asked for, weighed against what the machine holds.
struct Scale<'a> {
    settings: &'a Settings,
    offers: &'a Offers,
    /// Limits that were left out: which, of which levels, and why.
    dropped: Vec<(&'static str, Vec<Level>, &'a str)>,
    /// Limits that a container leaves no room for, and why.
    withheld: Option<(&'a str, Vec<&'static str>)>,
}

/// One limit at one level, and whether somebody wrote it.
#[derive(Clone, Copy)]
struct Wish {
    level: Level,
    key: &'static str,
    /// What its number is followed by where people read it.
    unit: &'static str,
    asked: bool,
}

impl<'a> Scale<'a> {
    fn level(&mut self, level: Level, asked: LimitWishes, built_in: LimitWishes) -> Result<Limits, Refusal> {
        let offers = self.offers;
        let wish = |key, asked| Wish { level, key, unit: if key == "cpu_max" { "%" } else { "" }, asked };
        let all = asked.or(built_in);
        let memory = |size: MemorySize| size.resolve(offers.ram);
        let memory_max = wish("memory_max", asked.memory_max.is_some());
        let memory_high = wish("memory_high", asked.memory_high.is_some());
        let swap_max = wish("memory_swap_max", asked.memory_swap_max.is_some());
        let pids_max = wish("pids_max", asked.pids_max.is_some());
        let cpu_max = wish("cpu_max", asked.cpu_max.is_some());
        enough(memory_max, all.memory_max, offers.ram)?;
        enough(memory_high, all.memory_high, offers.ram)?;
        Ok(Limits {
            memory_max: self.ceiling(memory_max, &offers.memory, all.memory_max.map(memory), Bytes(0))?,
            memory_high: self.ceiling(memory_high, &offers.memory_high, all.memory_high.map(memory), Bytes(0))?,
            memory_swap_max: self.ceiling(swap_max, &offers.swap, all.memory_swap_max.map(memory), Bytes(0))?,
            pids_max: self.ceiling(pids_max, &offers.pids, all.pids_max.map(|PidsMax(max)| max), 1)?,
            cpu_max: self.ceiling(cpu_max, &offers.cpu, all.cpu_max.map(|CpuMax(max)| max), 1)?,
            cpu_weight: self.weight(wish("cpu_weight", true), &offers.cpu, all.cpu_weight)?,
            io_weight: self.weight(wish("io_weight", true), &offers.io, all.io_weight)?,
        })
    }

    /// A ceiling that is set, or `None` where there is nothing to set. "No limit" needs no controller to hold.
    fn ceiling<T: Ord + Copy + fmt::Display>(
        &mut self,
        wish: Wish,
        offer: &'a Offer,
        ceiling: Option<Limit<T>>,
        floor: T,
    ) -> Result<Option<Limit<T>>, Refusal> {
        match ceiling {
            None => Ok(None),
            Some(Limit::Infinity) => Ok((*offer == Offer::Holds).then_some(Limit::Infinity)),
            Some(Limit::At(amount)) if amount < floor => Err(Refusal::new(
                format!(
                    "the {}'s {} of {amount}{} is less than a process can start with",
                    wish.level, wish.key, wish.unit
                ),
                format!("ask for at least {floor}{}", wish.unit),
            )),
            Some(Limit::At(amount)) => Ok(self.holds(wish, offer, &amount)?.then_some(Limit::At(amount))),
        }
    }

    fn weight(&mut self, wish: Wish, offer: &'a Offer, weight: Option<Weight>) -> Result<Option<Weight>, Refusal> {
        match weight {
            Some(weight) if self.holds(wish, offer, &u32::from(weight))? => Ok(Some(weight)),
            Some(_) | None => Ok(None),
        }
    }

    /// Whether a limit is to be set: yes, no (there is no need, or it is dropped), or a refusal.
    fn holds(&mut self, wish: Wish, offer: &'a Offer, amount: &dyn fmt::Display) -> Result<bool, Refusal> {
        let Wish { level, key, unit, asked } = wish;
        match offer {
            Offer::Holds => Ok(true),
            Offer::NothingToLimit => Ok(false),
            Offer::Withheld { why, .. } if self.settings.best_effort || !asked || level == Level::Machine => {
                self.withheld.get_or_insert((why, Vec::new())).1.push(key);
                Ok(false)
            }
            Offer::Missing { why, .. } if self.settings.best_effort || (key == "memory_swap_max" && !asked) => {
                match self.dropped.iter_mut().find(|(dropped, ..)| *dropped == key) {
                    Some((_, levels, _)) => levels.push(level),
                    None => self.dropped.push((key, vec![level], why)),
                }
                Ok(false)
            }
            Offer::Withheld { why, remedy } | Offer::Missing { why, remedy } => {
                let by = if asked { "" } else { " (the default)" };
                Err(Refusal::new(
                    format!("the {level}'s {key} of {amount}{unit}{by} cannot hold here: {why}"),
                    format!("{remedy}, or write best_effort = true in the configuration to run without it"),
                ))
            }
        }
    }

    fn warnings(self) -> Vec<String> {
        let told = |(key, levels, why): (&str, Vec<Level>, &str)| {
            let levels: Vec<String> = levels.iter().map(Level::to_string).collect();
            format!("{key} of {} is not held here: {why}", levels.join(", "))
        };
        let withheld = self.withheld.map(|(why, mut keys)| {
            keys.sort_unstable();
            keys.dedup();
            format!("no {} is held here but the container's own: {why}", keys.join(", "))
        });
        self.dropped.into_iter().map(told).chain(withheld).collect()
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
