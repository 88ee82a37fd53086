//! Freezes a leaf and thaws it again (`cgroup.freeze`, admin-guide/cgroup-v2): what is frozen runs no instruction, holds all
//! that it holds, and can be killed.
//!
//! A thaw always wins: whoever freezes does it under an [`Order`], and an order that was called off freezes nothing any more.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::dir::{Cgroup, CgroupError};
use super::files;
use super::leaf::Leaf;
use crate::naming::LeafName;

/// The first pause between two looks at `cgroup.events`; it doubles up to [`PAUSE_MOST`].
const PAUSE_FIRST: Duration = Duration::from_micros(20);

/// The longest pause between two looks.
const PAUSE_MOST: Duration = Duration::from_millis(5);

/// How deep leaves stand below the directory of the machine level: a slice, a scope and the leaf.
const LEVELS_MAX: usize = 4;

/// An order to freeze a leaf, which can be called off at any moment.
#[derive(Debug, Default)]
pub struct Order {
    off: AtomicBool,
    /// Held while `cgroup.freeze` is written, so that a thaw comes after the freeze that it undoes.
    write: Mutex<()>,
}

impl Order {
    /// Calls it off, where it has frozen nothing: [`Leaf::thaw`] undoes what it has.
    pub fn call_off(&self) {
        self.off.store(true, Ordering::Release);
    }

    /// Whether it was called off.
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire)
    }
}

impl Leaf {
    /// Freezes it; `false` where the order was called off.
    pub fn freeze(&self, order: &Order) -> Result<bool, CgroupError> {
        let _writes = order.write.lock().unwrap_or_else(PoisonError::into_inner);
        if order.is_off() {
            return Ok(false);
        }
        self.group().v2().write("cgroup.freeze", "1").map(|()| true)
    }

    /// Calls the order off, and thaws what it froze. That the leaf is gone is success.
    pub fn thaw(&self, order: &Order) -> Result<(), CgroupError> {
        order.call_off();
        let _writes = order.write.lock().unwrap_or_else(PoisonError::into_inner);
        match self.group().v2().write("cgroup.freeze", "0") {
            Err(error) if !error.is_gone() => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether all of it stands still, as the kernel tells: `frozen` of `cgroup.events`.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        is_frozen(self.group().v2())
    }

    /// Waits until all of it stands still, or until all of it may run; `false` where that was not told in time. What is in
    /// uninterruptible sleep stands still only when it wakes.
    pub fn wait_frozen(&self, frozen: bool, at_most: Duration) -> Result<bool, CgroupError> {
        let (start, mut pause) = (Instant::now(), PAUSE_FIRST);
        loop {
            match self.is_frozen() {
                Ok(found) if found == frozen => return Ok(true),
                Err(error) if error.is_gone() => return Ok(!frozen),
                Err(error) => return Err(error),
                Ok(_) if start.elapsed() >= at_most => return Ok(false),
                Ok(_) => {}
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }
}

fn is_frozen(cgroup: &Cgroup) -> Result<bool, CgroupError> {
    cgroup.read("cgroup.events").map(|text| files::keyed(&text, "frozen") == Some(1))
}

/// What came of thawing all that may have been left frozen.
#[derive(Debug, Default)]
pub struct Thawed {
    /// How many leaves were frozen, and are no more.
    pub leaves: usize,
    /// What could not be thawed, or looked at.
    pub failed: Vec<CgroupError>,
}

/// Thaws every leaf below the directory of a machine level, for a daemon that died while they were frozen. What cannot be
/// thawed keeps nothing else frozen.
pub fn thaw_all_below(machine: &Path) -> Thawed {
    let mut thawed = Thawed::default();
    match Cgroup::open(machine) {
        Ok(machine) => thaw_below(&machine, LEVELS_MAX, &mut thawed),
        Err(error) if error.is_gone() => {}
        Err(error) => thawed.failed.push(error),
    }
    thawed
}

fn thaw_below(cgroup: &Cgroup, levels: usize, thawed: &mut Thawed) {
    if levels == 0 {
        return;
    }
    let names = cgroup.children().unwrap_or_else(|error| {
        thawed.failed.push(error);
        Vec::new()
    });
    for name in names {
        let child = match cgroup.child(&name) {
            Ok(child) => child,
            Err(error) if error.is_gone() => continue,
            Err(error) => {
                thawed.failed.push(error);
                continue;
            }
        };
        let freezes = child.read("cgroup.freeze").is_ok_and(|text| text.trim() == "1");
        if freezes && LeafName::parse(&name).is_ok() {
            match child.write("cgroup.freeze", "0") {
                Err(error) if !error.is_gone() => thawed.failed.push(error),
                _ => thawed.leaves += 1,
            }
        }
        thaw_below(&child, levels - 1, thawed);
    }
}
