//! Changes the limits of what lives, in place: up at once, and down never below what is used, unless that is forced.
//!
//! What the kernel does with a limit below usage differs: v2 kills the moment that `memory.max` is written, v1 refuses
//! (EBUSY) what it cannot take back; with `pids.max` and `memory.swap.max` only what comes after fails. So usage is read
//! first, after page cache that stands in the way was given back, and what holds in the end is read from the kernel again.

use std::fmt::Display;
use std::time::{Duration, Instant};

use super::dir::Cgroup;
use super::files;
use super::group::Group;
use crate::chain::chain;
use crate::limits::{Bytes, Limit, LimitKey, Limits};
use crate::policy::{Lowering, Pass, Usage, differing, is_below_usage};

/// How long the kernel may take to give back page cache, and how much it is asked for at a time.
const ROOM_MAX: Duration = Duration::from_secs(3);
const ROOM_STEP: u64 = 64 << 20;

/// How often v1 is asked for the lowest limit that it takes, while what is limited goes on using memory.
const LOWEST_TRIES: usize = 5;

/// A limit that is another one now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub key: LimitKey,
    /// What it was.
    pub from: Limit<u64>,
    /// What it is.
    pub to: Limit<u64>,
}

/// A limit that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub key: LimitKey,
    /// What it is.
    pub stays: Limit<u64>,
    /// What it should be.
    pub wanted: Limit<u64>,
    /// What is used, where that is why.
    pub usage: Option<u64>,
    /// What the kernel or a manager said, where that is why.
    pub error: Option<String>,
}

/// What came of it.
#[derive(Debug)]
pub struct Adjusted<E> {
    /// What is different now.
    pub changed: Vec<Changed>,
    /// What is not.
    pub kept: Vec<Kept>,
    /// Why something was kept, where it is not for what is used.
    pub error: Option<E>,
}

impl Group {
    /// Adjusts the limits that differ. `set` sets some of them; `below` are the leaves that this group holds, whose page
    /// cache may be given back.
    pub fn adjust<E: std::error::Error>(
        &self,
        wanted: &Limits,
        (pass, lowering): (Pass, Lowering),
        below: &[&Group],
        set: impl Fn(&Limits) -> Result<(), E>,
    ) -> Adjusted<E> {
        let (before, wanted) = (self.limits(), &self.as_held(*wanted));
        let mut keys = differing(&before, wanted, pass);
        let mut adjusted = Adjusted { changed: Vec::new(), kept: Vec::new(), error: None };
        if keys.is_empty() {
            return adjusted;
        }
        if lowering == Lowering::NotBelowUsage && self.memory.is_none() {
            self.make_room(wanted, below);
        }
        let usage = self.usage();
        keys.retain(|key| {
            // v1 tries itself, and takes back what it can on the way.
            let by_itself = self.memory.is_some() && *key == LimitKey::MemoryMax;
            let stays = lowering == Lowering::NotBelowUsage && !by_itself;
            let stays = stays && is_below_usage(*key, &before, wanted, &usage);
            if stays {
                let used = usage.of(*key);
                adjusted.keep(*key, (&before, wanted), used, used.is_none().then_some("what is in use cannot be read"));
            }
            !stays
        });
        if keys.is_empty() {
            return adjusted;
        }
        // What is refused of one kind is no reason to leave the other.
        let (memory, other): (Vec<LimitKey>, Vec<LimitKey>) = keys.iter().partition(|key| key.is_memory());
        let set_some = |keys: &[LimitKey]| {
            let mut part = Limits::default();
            keys.iter().for_each(|key| part.take(*key, wanted));
            if keys.is_empty() { None } else { set(&self.whole(part, &before)).err() }
        };
        let errors = [set_some(&memory), set_some(&other)];
        let told = errors.each_ref().map(|error| error.as_ref().map(|error| chain(error)));
        if errors[0].is_some() && lowering == Lowering::Forced && self.memory.is_some() {
            self.lower_as_far_as_v1_goes(wanted, &set);
        }
        let (after, usage) = (self.limits(), self.usage());
        for key in keys {
            let error = if key.is_memory() { &told[0] } else { &told[1] };
            let (was, is) = (before.get(key).unwrap_or(key.untouched()), after.get(key).unwrap_or(key.untouched()));
            if was != is {
                adjusted.changed.push(Changed { key, from: was, to: is });
            }
            if wanted.get(key).is_some_and(|wanted| wanted != is) {
                let used = usage.of(key).filter(|_| is_below_usage(key, &after, wanted, &usage));
                adjusted.keep(key, (&after, wanted), used, error.as_ref().filter(|_| used.is_none()));
            }
        }
        if adjusted.kept.iter().any(|kept| kept.usage.is_none()) {
            adjusted.error = errors.into_iter().flatten().next();
        }
        adjusted
    }

    /// v1 limits swap in a sum with memory: without a limit of memory there is none of the sum.
    fn as_held(&self, mut wanted: Limits) -> Limits {
        if self.memory.is_some() && wanted.memory_max == Some(Limit::Infinity) && wanted.memory_swap_max.is_some() {
            wanted.memory_swap_max = Some(Limit::Infinity);
        }
        wanted
    }

    /// v1 has memory and swap in one sum: each needs the other.
    fn whole(&self, mut part: Limits, before: &Limits) -> Limits {
        if self.memory.is_some() && part.memory_max.or(part.memory_swap_max).is_some() {
            part.memory_max = part.memory_max.or(before.memory_max);
            part.memory_swap_max = part.memory_swap_max.or(before.memory_swap_max);
        }
        part
    }

    /// v1 never kills for a lowered limit, and refuses one below usage. What goes beyond the lowest that it takes is killed.
    fn lower_as_far_as_v1_goes<E>(&self, wanted: &Limits, set: &impl Fn(&Limits) -> Result<(), E>) {
        const PAGE: u64 = 4096;
        for _ in 0..LOWEST_TRIES {
            let (Some(Limit::At(Bytes(most))), Some(used)) = (wanted.memory_max, self.usage().memory) else { return };
            let lowest = Bytes(used.next_multiple_of(PAGE).max(most));
            let is_lower = self.limits().memory_max.is_none_or(|held| held.at().is_none_or(|held| lowest < held));
            if !is_lower || set(&Limits { memory_max: Some(Limit::At(lowest)), ..*wanted }).is_ok() {
                return;
            }
        }
    }

    /// What is used of its limits now.
    fn usage(&self) -> Usage {
        let read = |cgroup: &Cgroup, file| cgroup.read(file).ok().and_then(|text| files::number(&text));
        let (memory, swap) = match &self.memory {
            Some(v1) => {
                let memory = read(v1, "memory.usage_in_bytes");
                let both = read(v1, "memory.memsw.usage_in_bytes");
                (memory, both.zip(memory).map(|(both, memory)| both.saturating_sub(memory)))
            }
            None => (read(&self.v2, "memory.current"), read(&self.v2, "memory.swap.current")),
        };
        Usage { memory, swap, pids: read(self.pids.as_ref().unwrap_or(&self.v2), "pids.current") }
    }

    /// Gives page cache back that stands between usage and a lower limit (`memory.reclaim`, Linux 5.19). It is asked of the
    /// leaves, which are ours, in steps, for a bounded time: launches may wait for it. That it takes back less than it was
    /// asked for (EAGAIN) shows in the usage.
    fn make_room(&self, wanted: &Limits, below: &[&Group]) {
        let ceilings = [wanted.memory_max, wanted.memory_high];
        let Some(Bytes(most)) = ceilings.into_iter().flatten().filter_map(Limit::at).min() else { return };
        let start = Instant::now();
        for leaf in below.iter().filter(|leaf| leaf.v2.has("memory.reclaim")) {
            loop {
                let over = self.usage().memory.unwrap_or_default().saturating_sub(most);
                if over == 0 || start.elapsed() > ROOM_MAX {
                    return;
                }
                // It is not there: what is left in this leaf cannot be given back.
                if leaf.v2.write("memory.reclaim", &over.min(ROOM_STEP).to_string()).is_err() {
                    break;
                }
            }
        }
    }
}

impl<E> Adjusted<E> {
    fn keep(
        &mut self,
        key: LimitKey,
        (held, wanted): (&Limits, &Limits),
        usage: Option<u64>,
        error: Option<impl Display>,
    ) {
        let value = |limits: &Limits| limits.get(key).unwrap_or(key.untouched());
        let error = error.map(|error| error.to_string());
        self.kept.push(Kept { key, stays: value(held), wanted: value(wanted), usage, error });
    }
}
