//! Gives the memory of an idle leaf back: page cache, and where there is swap what stands for no file as well.
//!
//! On v2 that is `memory.reclaim` (Linux 5.19), in steps between which it can be called off; on v1 `memory.force_empty`, which
//! is one step (admin-guide/cgroup-v2 and admin-guide/cgroup-v1/memory). A leaf that may not swap by itself swaps while it is
//! reclaimed, and keeps there what went there: its limit is put back as soon as that is over.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::dir::{Cgroup, CgroupError};
use super::files;
use super::group::Group;
use super::knobs::{self, KnobError, Version};
use super::leaf::Leaf;
use crate::limits::{Bytes, Limit, Limits};

/// How much is asked for at a time. A step takes tens of milliseconds where swap is a disk.
const STEP: u64 = 8 << 20;

/// Less than this is not worth a step.
const LEAST: u64 = 512 << 10;

/// How long it may take in all.
const TIME_MAX: Duration = Duration::from_secs(20);

/// The part of all swap that is left for others, and the least of it.
const SPARE_PART: u64 = 10;
const SPARE_LEAST: u64 = 32 << 20;

/// How much of the time of late something on the machine may have waited for memory or for disks, in percent: before the
/// first step, and between two, where we are among those that wait.
const PRESSURE_BEFORE: f64 = 20.0;
const PRESSURE_MEANWHILE: f64 = 60.0;

/// What was given back, and why it was no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reclaimed {
    /// What was charged before, and after.
    pub before: Bytes,
    /// As above.
    pub after: Bytes,
    /// What stands in swap now.
    pub swap: Bytes,
    /// Why it went no further.
    pub stop: Stop,
}

impl Reclaimed {
    /// Whether that is worth a word: as much as a step has to give.
    pub fn gave_back(&self) -> bool {
        self.before.0.saturating_sub(self.after.0) >= LEAST
    }
}

/// Why a reclaim went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The kernel finds nothing more.
    Done,
    /// It was called off.
    CalledOff,
    /// The machine is short of memory, or its disks are busy.
    Pressure,
    /// It took too long.
    Time,
}

impl Stop {
    /// Whether there is more to give back, at another time.
    pub fn is_for_now(self) -> bool {
        match self {
            Self::Pressure | Self::Time => true,
            Self::Done | Self::CalledOff => false,
        }
    }
}

/// Whether leaves below this directory can give memory back, as its files tell.
pub fn can_reclaim(group: &Group) -> bool {
    match &group.memory {
        Some(companion) => companion.has("memory.force_empty"),
        None => group.v2.has("memory.reclaim"),
    }
}

/// The machine's swap, all of it and what is free, and what may still be used for what is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swap {
    /// All of it.
    pub total: Bytes,
    /// Of it what is free.
    pub free: Bytes,
}

impl Swap {
    /// As the kernel tells now (proc_meminfo(5)).
    pub fn now() -> Self {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self::of(&text)
    }

    fn of(text: &str) -> Self {
        let amount = |key: &str| {
            let kib = text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse().ok());
            Bytes(kib.unwrap_or(0u64) << 10)
        };
        Self { total: amount("SwapTotal:"), free: amount("SwapFree:") }
    }

    /// What is left for idle servers, so that something is left for who needs it.
    pub fn room(self) -> Bytes {
        Bytes(self.free.0.saturating_sub((self.total.0 / SPARE_PART).max(SPARE_LEAST)))
    }
}

impl Leaf {
    /// Gives back what it can, at most `swap` of it to swap. Blocks; `go_on` is asked between steps.
    pub fn reclaim(&self, swap: Limit<Bytes>, go_on: &dyn Fn() -> bool) -> Result<Reclaimed, KnobError> {
        let _turn = self.knobs().lock().unwrap_or_else(PoisonError::into_inner);
        let group = self.group();
        let before = used(group);
        let stop = match &group.memory {
            Some(_) if is_pressed(PRESSURE_BEFORE) => Stop::Pressure,
            Some(companion) => {
                // It stops by itself where the kernel finds nothing more.
                companion.write("memory.force_empty", "0")?;
                Stop::Done
            }
            None => with_swap(&group.v2, swap, || steps(&group.v2, go_on))?,
        };
        Ok(Reclaimed { before, after: used(group), swap: group.memory().swap_bytes.unwrap_or(Bytes(0)), stop })
    }
}

impl Leaf {
    /// Puts back a limit on swap that a daemon had lifted when it died.
    pub fn limit_swap(&self, limit: Option<Limit<Bytes>>) -> Result<(), KnobError> {
        let _turn = self.knobs().lock().unwrap_or_else(PoisonError::into_inner);
        if self.group().memory.is_some() { Ok(()) } else { put_back(&self.group().v2, limit) }
    }
}

/// All that is charged.
fn used(group: &Group) -> Bytes {
    group.memory().current_bytes.unwrap_or(Bytes(0))
}

/// Lets it swap meanwhile, as far as there is room, where its own limit is lower than that.
fn with_swap(
    leaf: &Cgroup,
    most: Limit<Bytes>,
    work: impl FnOnce() -> Result<Stop, CgroupError>,
) -> Result<Stop, KnobError> {
    const FILE: &str = "memory.swap.max";
    let number = |file| leaf.read(file).ok().and_then(|text| files::number(&text));
    let held = leaf.read(FILE).ok().map(|text| knobs::memory_limit(&text));
    let stands = number("memory.swap.current").unwrap_or(0);
    let meanwhile = most_in_swap(stands, Swap::now().room(), most);
    let Some(Limit::At(Bytes(limit))) = held.filter(|_| meanwhile > stands) else { return Ok(work()?) };
    if meanwhile <= limit {
        return Ok(work()?);
    }
    leaf.write(FILE, &meanwhile.to_string())?;
    let done = work();
    put_back(leaf, held)?;
    Ok(done?)
}

/// How much may stand in swap when all is done, where so much does already: never more than what was written for it.
fn most_in_swap(stands: u64, room: Bytes, most: Limit<Bytes>) -> u64 {
    let fits = stands.saturating_add(room.0);
    most.at().map_or(fits, |Bytes(most)| most.min(fits))
}

fn put_back(leaf: &Cgroup, limit: Option<Limit<Bytes>>) -> Result<(), KnobError> {
    match knobs::set_memory(leaf, Version::V2, &Limits { memory_swap_max: limit, ..Limits::default() }) {
        Err(KnobError::Cgroup(error)) if error.is_gone() => Ok(()),
        done => done,
    }
}

fn steps(leaf: &Cgroup, go_on: &dyn Fn() -> bool) -> Result<Stop, CgroupError> {
    let start = Instant::now();
    let current = || leaf.read("memory.current").ok().and_then(|text| files::number(&text)).unwrap_or(0);
    let mut before = current();
    let mut pressure = PRESSURE_BEFORE;
    loop {
        match () {
            () if !go_on() => return Ok(Stop::CalledOff),
            () if start.elapsed() >= TIME_MAX => return Ok(Stop::Time),
            () if is_pressed(pressure) => return Ok(Stop::Pressure),
            () if before < LEAST => return Ok(Stop::Done),
            () => {}
        }
        pressure = PRESSURE_MEANWHILE;
        match leaf.write("memory.reclaim", &before.min(STEP).to_string()) {
            Ok(()) => {}
            // Less than was asked for, or it was interrupted: how much it was shows in the usage.
            Err(error) if error.is_again() => {}
            Err(error) if error.is_gone() => return Ok(Stop::Done),
            Err(error) => return Err(error),
        }
        let after = current();
        if before.saturating_sub(after) < LEAST {
            return Ok(Stop::Done);
        }
        before = after;
    }
}

/// Whether something on the machine has waited for memory or for disks for so much of the last ten seconds (PSI; the kernel's
/// accounting/psi). A kernel that does not tell is not pressed.
fn is_pressed(percent: f64) -> bool {
    let waited = |file: &str, kind| {
        let text = std::fs::read_to_string(format!("/proc/pressure/{file}")).unwrap_or_default();
        of_late(&text, kind).unwrap_or(0.0)
    };
    waited("memory", "some") >= percent || waited("io", "full") >= percent
}

/// `avg10` of one line of a pressure file.
fn of_late(text: &str, kind: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_all_swap_is_left_for_others() {
        let meminfo = "MemTotal:        1000000 kB\nSwapCached:            0 kB\nSwapTotal:       2097148 kB\n\
                       SwapFree:        1048576 kB\n";
        let swap = Swap::of(meminfo);
        assert_eq!((swap.total, swap.free), (Bytes(2097148 << 10), Bytes(1 << 30)));
        assert_eq!(swap.room(), Bytes((1 << 30) - (2097148 << 10) / 10));
        assert_eq!(Swap::of("").room(), Bytes(0), "there is none");
        assert_eq!(Swap { free: Bytes(1 << 20), ..swap }.room(), Bytes(0), "it is used up");
    }

    #[test]
    fn what_stands_in_swap_already_counts_for_what_may() {
        let most = |stands, room, most| most_in_swap(stands, Bytes(room), most);
        assert_eq!(most(5, 20, Limit::Infinity), 25);
        assert_eq!(most(5, 20, Limit::At(Bytes(12))), 12);
        assert_eq!(most(5, 20, Limit::At(Bytes(0))), 0, "it has nowhere to go");
        assert_eq!(most(5, 0, Limit::At(Bytes(12))), 5, "no swap is left");
    }

    #[test]
    fn pressure_is_that_of_the_last_ten_seconds() {
        // From Linux 6.12.
        let text = "some avg10=81.04 avg60=24.50 avg300=5.94 total=20151000\n\
                    full avg10=80.95 avg60=24.31 avg300=5.89 total=20012345\n";
        assert_eq!((of_late(text, "some"), of_late(text, "full")), (Some(81.04), Some(80.95)));
        assert_eq!(of_late("", "some"), None);
    }
}
