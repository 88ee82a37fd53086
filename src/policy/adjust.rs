//! Whether a limit of what lives may be changed in place.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::limits::{Limit, LimitKey, Limits};

/// What becomes of a limit that would be below what is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lowering {
    /// It stays: on cgroup v2 the kernel kills the moment that `memory.max` is below what it cannot reclaim.
    NotBelowUsage,
    /// It is lowered, whatever that ends.
    Forced,
}

/// Which changes are made: what grows does so from the machine inwards, and what shrinks from the servers outwards, so that
/// a server is never allowed more than what it stands in for longer than need be, nor ended by a level above it for what its
/// own new limit would have given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// All but what shrinks.
    Grow,
    /// What shrinks.
    Shrink,
    /// Both.
    Both,
}

/// What is used now, in the measure of each limit; `None` where a limit is no bound of anything, or nobody tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes charged.
    pub memory: Option<u64>,
    /// Bytes swapped out.
    pub swap: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Usage {
    /// What is used of one limit.
    pub fn of(&self, key: LimitKey) -> Option<u64> {
        match key {
            LimitKey::MemoryMax | LimitKey::MemoryHigh => self.memory,
            LimitKey::MemorySwapMax => self.swap,
            LimitKey::PidsMax => self.pids,
            LimitKey::CpuMax | LimitKey::CpuWeight | LimitKey::IoWeight => None,
        }
    }
}

/// The limits of `wanted` that differ from what is held, as far as the pass is about them.
pub fn differing(held: &Limits, wanted: &Limits, pass: Pass) -> Vec<LimitKey> {
    let differs = |key: &LimitKey| {
        let Some(to) = wanted.get(*key) else { return false };
        let from = match held.get(*key) {
            Some(from) => from,
            // Swap that the kernel does not account; and that there is no limit needs no controller.
            None if *key == LimitKey::MemorySwapMax || to == key.untouched() => return false,
            None => key.untouched(),
        };
        let shrinks = lowers(from, to);
        from != to
            && match pass {
                Pass::Both => true,
                Pass::Grow => !shrinks,
                Pass::Shrink => shrinks,
            }
    };
    LimitKey::ALL.into_iter().filter(differs).collect()
}

/// Whether a limit would be lowered below what is used, as far as is known: where the limit can be read and what is used
/// cannot, it may be.
pub fn is_below_usage(key: LimitKey, held: &Limits, wanted: &Limits, usage: &Usage) -> bool {
    let from = held.get(key).unwrap_or(key.untouched());
    match wanted.get(key) {
        Some(to @ Limit::At(most)) if lowers(from, to) && key.bounds_usage() => {
            usage.of(key).map_or(held.get(key).is_some(), |used| used > most)
        }
        Some(_) | None => false,
    }
}

fn lowers(from: Limit<u64>, to: Limit<u64>) -> bool {
    match (from, to) {
        (_, Limit::Infinity) => false,
        (Limit::Infinity, Limit::At(_)) => true,
        (Limit::At(from), Limit::At(to)) => to < from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Bytes;

    fn limits(memory: Limit<u64>, pids: u32) -> Limits {
        Limits { memory_max: Some(memory.map(Bytes)), pids_max: Some(Limit::At(pids)), ..Limits::default() }
    }

    #[test]
    fn what_grows_and_what_shrinks_are_told_apart() {
        let held = limits(Limit::At(100), 10);
        let (memory, pids) = (LimitKey::MemoryMax, LimitKey::PidsMax);
        for (wanted, grows, shrinks) in [
            (held, vec![], vec![]),
            (limits(Limit::At(200), 10), vec![memory], vec![]),
            (limits(Limit::Infinity, 9), vec![memory], vec![pids]),
            (limits(Limit::At(99), 11), vec![pids], vec![memory]),
        ] {
            assert_eq!(differing(&held, &wanted, Pass::Grow), grows, "{wanted:?}");
            assert_eq!(differing(&held, &wanted, Pass::Shrink), shrinks, "{wanted:?}");
        }
        // Nothing was asked for, or the kernel holds nothing of the kind and nothing is to be held.
        assert_eq!(differing(&held, &Limits::default(), Pass::Both), []);
        assert_eq!(differing(&Limits::default(), &Limits::untouched(), Pass::Both), []);
        assert_eq!(differing(&Limits::default(), &held, Pass::Both), [memory, pids]);
    }

    #[test]
    fn only_lowering_can_be_below_usage() {
        let usage = Usage { memory: Some(150), swap: None, pids: Some(5) };
        let below = |held: &Limits, wanted: &Limits| {
            LimitKey::ALL.into_iter().filter(|key| is_below_usage(*key, held, wanted, &usage)).collect::<Vec<_>>()
        };
        let held = limits(Limit::At(200), 10);
        assert_eq!(below(&held, &limits(Limit::At(150), 5)), []);
        assert_eq!(below(&held, &limits(Limit::At(149), 4)), [LimitKey::MemoryMax, LimitKey::PidsMax]);
        // It is used up beyond the limit already: raising it is never wrong.
        assert_eq!(below(&limits(Limit::At(100), 2), &limits(Limit::At(120), 4)), []);
        assert_eq!(below(&limits(Limit::Infinity, 10), &limits(Limit::At(100), 10)), [LimitKey::MemoryMax]);
        let unread = |wanted| is_below_usage(LimitKey::MemoryMax, &held, &limits(wanted, 10), &Usage::default());
        assert!(unread(Limit::At(199)), "it may be below");
        assert!(!unread(Limit::At(201)) && !unread(Limit::Infinity));
    }

    #[test]
    fn what_nobody_asks_for_any_more_is_as_the_kernel_made_it() {
        let before = Limits { cpu_max: Some(Limit::At(50)), ..Limits::default() };
        let now = Limits { pids_max: Some(Limit::At(5)), ..Limits::default() }.and_untouched(&before);
        assert_eq!((now.cpu_max, now.memory_max), (Some(Limit::Infinity), None));
        assert_eq!(now.pids_max, Some(Limit::At(5)));
    }
}
