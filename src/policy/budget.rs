//! Whether there is room for one more session and one more server: for the machine, for each user, and for each host.
//!
//! A host is the software of one user: `openclaw` of uid 1000 and `openclaw` of uid 1001 are two. What no known host
//! launches counts for its user and for the machine only.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Refusal;
use super::settings::Settings;
use crate::limits::Limit;
use crate::realm::Realm;
use crate::session::{Name, SessionId};

/// How many of the biggest users a refusal names.
const NAMED_MAX: usize = 3;

/// One session that is there.
#[derive(Debug, Clone, Copy)]
pub struct Holding<'a> {
    /// Its id.
    pub id: &'a SessionId,
    /// Whose it is.
    pub uid: u32,
    /// And in which realm.
    pub realm: Realm,
    /// The host of its first launch, where it is known.
    pub host: Option<&'a Name>,
    /// Its servers.
    pub servers: u32,
    /// Those of them that the host of the launch launched.
    pub of_host: u32,
}

/// A launch that asks for room.
#[derive(Debug, Clone, Copy)]
pub struct Newcomer<'a> {
    /// Whose session it belongs to.
    pub uid: u32,
    /// And in which realm.
    pub realm: Realm,
    /// Who asks, and reads the answer: root is told of all sessions, anybody else of own ones, each in its realm.
    pub reader: (u32, Realm),
    /// The host that launches, where it is known.
    pub host: Option<&'a Name>,
    /// Whether its session is among those that are there.
    pub session_is_known: bool,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Sessions,
    Servers,
}

/// For whom it is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Machine,
    User,
    Host,
}

/// Whether there is room. The widest cap comes first: where all is full, nobody is told to end what is their own.
pub fn has_room(settings: &Settings, newcomer: &Newcomer<'_>, holdings: &[Holding<'_>]) -> Result<(), Refusal> {
    let session = !newcomer.session_is_known;
    for (what, whose, key, max) in [
        (What::Sessions, Whose::Machine, "sessions_max", Limit::At(settings.sessions_max)),
        (What::Sessions, Whose::User, "sessions_per_user_max", settings.sessions_per_user_max),
        (What::Sessions, Whose::Host, "sessions_per_host_max", settings.sessions_per_host_max),
        (What::Servers, Whose::Machine, "servers_max", Limit::At(settings.servers_max)),
        (What::Servers, Whose::User, "servers_per_user_max", settings.servers_per_user_max),
        (What::Servers, Whose::Host, "servers_per_host_max", settings.servers_per_host_max),
    ] {
        let Some(max) = max.at() else { continue };
        let counts = Counts { what, whose, newcomer, holdings };
        let held = counts.total();
        if held >= max && (what == What::Servers || session) {
            return Err(counts.refusal(key, held, max));
        }
    }
    Ok(())
}

/// What is kept free for what the daemon does beside holding servers, where it may have this many times as many: connections,
/// launches under way, files that are read.
const SPARE: (u64, u64) = (512, 4);

/// Whether so many descriptors of so many leave room for one server more.
pub fn has_descriptors(taken: u64, max: u64) -> Result<(), Refusal> {
    let (spare, share) = SPARE;
    if taken < max - spare.min(max / share) {
        return Ok(());
    }
    Err(Refusal::new(
        format!("the daemon has {taken} of the {max} descriptors that it may have, and what it does takes the others"),
        "end sessions, or let it have more: LimitNOFILE= of its unit, or `ulimit -Hn` where it is started",
    ))
}

struct Counts<'a> {
    what: What,
    whose: Whose,
    newcomer: &'a Newcomer<'a>,
    holdings: &'a [Holding<'a>],
}

impl Counts<'_> {
    fn of(&self, holding: &Holding<'_>) -> u32 {
        let of = |uid: u32, realm: Realm| (uid, realm.is_container());
        let is_of_user = of(holding.uid, holding.realm) == of(self.newcomer.uid, self.newcomer.realm);
        let is_of_host = is_of_user && self.newcomer.host.is_some() && holding.host == self.newcomer.host;
        match (self.what, self.whose) {
            (What::Sessions, Whose::Machine) => 1,
            (What::Sessions, Whose::User) => u32::from(is_of_user),
            (What::Sessions, Whose::Host) => u32::from(is_of_host),
            (What::Servers, Whose::Machine) => holding.servers,
            (What::Servers, Whose::User) if is_of_user => holding.servers,
            (What::Servers, Whose::Host) if is_of_user && self.newcomer.host.is_some() => holding.of_host,
            (What::Servers, Whose::User | Whose::Host) => 0,
        }
    }

    fn total(&self) -> u32 {
        self.holdings.iter().map(|holding| self.of(holding)).fold(0, u32::saturating_add)
    }

    fn refusal(&self, key: &str, held: u32, max: u32) -> Refusal {
        let own = user(self.newcomer.uid, self.newcomer.realm);
        let holder = match (self.whose, self.newcomer.host) {
            (Whose::Machine, _) => "pinfold".to_owned(),
            (Whose::Host, Some(host)) => format!("host {host} of {own}"),
            (Whose::User | Whose::Host, _) => own,
        };
        let what = if self.what == What::Sessions { "sessions" } else { "servers" };
        let mut biggest = Vec::new();
        if self.whose == Whose::Machine {
            biggest.extend(self.biggest(|holding| Some(user(holding.uid, holding.realm))));
        }
        if self.whose != Whose::Host {
            biggest.extend(
                self.biggest(|holding| Some(format!("host {}", holding.host.filter(|_| self.shows(holding))?))),
            );
        }
        // For each session it is always 1.
        if self.what == What::Servers {
            biggest.extend(
                self.biggest(|holding| Some(format!("session {}", Some(holding.id).filter(|_| self.shows(holding))?))),
            );
        }
        let most = if biggest.is_empty() { String::new() } else { format!("; the most have {}", biggest.join("; ")) };
        Refusal::new(
            format!("{holder} holds {held} {what} already, and {key} allows {max}{most}"),
            format!("end some (pinfold ls, pinfold end), or raise {key} under [daemon] in the configuration"),
        )
    }

    /// Nobody learns what others run, but for how much of it there is.
    fn shows(&self, holding: &Holding<'_>) -> bool {
        let (uid, realm) = self.newcomer.reader;
        (uid == 0 || uid == holding.uid) && realm.reaches(holding.realm)
    }

    /// The biggest holders of a kind with their counts; nothing where there are none.
    fn biggest(&self, holder: impl Fn(&Holding<'_>) -> Option<String>) -> Option<String> {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for holding in self.holdings {
            if let Some(holder) = holder(holding) {
                *counts.entry(holder).or_default() += self.of(holding);
            }
        }
        let mut counts: Vec<(String, u32)> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
        counts.sort_by_key(|(_, count)| Reverse(*count));
        let told: Vec<String> =
            counts.into_iter().take(NAMED_MAX).map(|(holder, count)| format!("{holder} ({count})")).collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}

/// What a user is called, for whom it is counted.
fn user(uid: u32, realm: Realm) -> String {
    if realm.is_container() { format!("uid {uid} in containers") } else { format!("uid {uid}") }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
