//! How often a server may be launched: token buckets, so that one that exits at once and is started again at once does
//! not eat the machine.
//!
//! A launch needs a token of two buckets. One is of the process that owns it and the server; however many sessions that
//! process has, they share it. The other is of the owner's kind (its host, or the name of its program) and its user, and
//! holds [`KIN`] times as much: an owner that dies and comes back finds it as it was left.
//!
//! A bucket that is full again is forgotten. Each user has at most [`BUCKETS_MAX`] that are not; all beyond share one.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::Refusal;
use crate::limits::Limit;
use crate::session::{Name, ProcessId};

/// How many processes of one kind may do what one may.
pub const KIN: u32 = 4;

/// The longest that a launch may be made to wait for its turn: its host waits for its answer, and it is still to be placed.
pub const WAIT_MAX: Duration = Duration::from_secs(10);

/// The most buckets of one user that are not full.
const BUCKETS_MAX: usize = 1024;

/// How often a server may be launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many at once.
    pub burst: Limit<u32>,
    /// And then one in each of these spans.
    pub every: Duration,
    /// How long a launch beyond that waits for its turn, before it is refused.
    pub wait_max: Duration,
}

/// Who launches what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The owner's user.
    pub uid: u32,
    /// Whether in a container: what runs there slows nobody down on the host.
    pub in_container: bool,
    /// The process that owns it.
    pub owner: ProcessId,
    /// What that is: the name of its host, or else of its program.
    pub kind: String,
    /// The server.
    pub server: Name,
}

impl Source {
    /// Whether these are launches of one server by one process, which have their turns in the order in which they came.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.uid, self.owner, &self.server) == (other.uid, other.owner, &other.server)
    }
}

/// Why a launch is refused whose turn did not come.
pub fn too_often(source: &Source, rate: &Rate) -> Refusal {
    let Source { server, owner, kind, .. } = source;
    let seconds = |span: Duration| span.as_secs_f64();
    Refusal::new(
        format!(
            "server {server} is launched too often by process {} ({kind}): {} at once and then one every {} s are \
             allowed, and there was no turn for this one within {} s",
            owner.pid,
            rate.burst,
            seconds(rate.every),
            seconds(rate.wait_max)
        ),
        "see on the server's stderr why it exits and is launched again; if it is meant to be, raise burst under [launches] \
         in the configuration",
    )
}

/// What a launch waits for whose turn has not come, and for how long at most.
pub fn waits(source: &Source, rate: &Rate, left: Duration) -> String {
    let Source { server, owner, kind, .. } = source;
    format!(
        "server {server} waits for its turn, for at most {} s: process {} ({kind}) launches it too often; {} at once and then \
         one every {} s are allowed",
        left.as_secs_f64().ceil(),
        owner.pid,
        rate.burst,
        rate.every.as_secs_f64()
    )
}

/// Whose tokens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Owner(ProcessId, Name),
    Kind(String, Name),
    /// All that found no room for a bucket of their own.
    Rest,
}

/// A bucket: when it will be full again says how many tokens it holds.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Duration,
    /// A launch found it empty, and that was told.
    told: bool,
}

/// There is no token now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty {
    /// When there will be one, if nobody else takes it.
    pub at: Duration,
    /// This is the first launch that finds none since the bucket was full.
    pub begins: bool,
}

/// All buckets that are not full, of each user, and apart from those of what the user launches in containers.
#[derive(Debug, Default)]
pub struct Buckets {
    users: HashMap<(u32, bool), BTreeMap<Key, Bucket>>,
}

impl Buckets {
    /// Takes a token of each of a launch's buckets, or of none. Moments are spans since any beginning; they never go back.
    pub fn take(&mut self, rate: &Rate, source: &Source, now: Duration) -> Result<(), Empty> {
        let Some(burst) = rate.burst.at() else { return Ok(()) };
        self.forget_full(now);
        let user = self.users.entry((source.uid, source.in_container)).or_default();
        let own = Size { burst, every: rate.every };
        let kin = Size { burst: burst.saturating_mul(KIN), every: rate.every / KIN };
        let wanted = [
            (Key::Owner(source.owner, source.server.clone()), own),
            (Key::Kind(source.kind.clone(), source.server.clone()), kin),
        ];
        let wanted = wanted.map(|(key, size)| {
            if user.contains_key(&key) || user.len() < BUCKETS_MAX { (key, size) } else { (Key::Rest, kin) }
        });
        let at = wanted.iter().map(|(key, size)| size.next(user.get(key), now)).max().unwrap_or(now);
        let mut begins = false;
        for (key, size) in wanted {
            if at <= now {
                let bucket = user.entry(key).or_insert(Bucket { full_at: now, told: false });
                bucket.full_at = bucket.full_at.max(now) + size.every;
            } else if let Some(bucket) = user.get_mut(&key).filter(|bucket| size.next(Some(bucket), now) > now) {
                begins |= !std::mem::replace(&mut bucket.told, true);
            }
        }
        if at <= now { Ok(()) } else { Err(Empty { at, begins }) }
    }

    fn forget_full(&mut self, now: Duration) {
        self.users.retain(|_, buckets| {
            buckets.retain(|_, bucket| bucket.full_at > now);
            !buckets.is_empty()
        });
    }
}

/// How much a bucket holds, and how fast it fills.
#[derive(Clone, Copy)]
struct Size {
    burst: u32,
    every: Duration,
}

impl Size {
    /// When it holds a token.
    fn next(self, bucket: Option<&Bucket>, now: Duration) -> Duration {
        let full_at = bucket.map_or(now, |bucket| bucket.full_at);
        // One token less than full is all but one `every` before that.
        let room = self.every.saturating_mul(self.burst.saturating_sub(1));
        full_at.saturating_sub(room).max(now)
    }
}

#[cfg(test)]
#[path = "rate_tests.rs"]
mod tests;
