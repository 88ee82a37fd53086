//! The blocking work of giving an idle server's memory back, off the driver: look once more, freeze where it is parked, and
//! reclaim in steps. An order that is called off is left at the next step; a thaw does not wait for it.

use std::sync::Arc;
use std::time::Duration;

use crate::cgroup::{Leaf, Order, Reclaimed};
use crate::chain::chain;
use crate::lifecycle::Activity;
use crate::limits::{Bytes, Limit};
use crate::process::reach;

/// How long the kernel may take to bring all of a leaf to a standstill. What is in uninterruptible sleep takes longer.
const FREEZE_MAX: Duration = Duration::from_secs(2);

/// How long a server that somebody wants to have parked is looked at for doing something.
const LOOK: Duration = Duration::from_millis(200);

/// The part of that time that may be CPU time: a program that does nothing has timers, and a garbage collector.
const LOOK_PART: u32 = 10;

/// CPU time beyond which a server that is being trimmed has something to do.
const BUSY: Duration = Duration::from_millis(100);

/// What is to be done.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) leaf: Arc<Leaf>,
    pub(super) order: Arc<Order>,
    /// How much may stand in swap.
    pub(super) swap: Limit<Bytes>,
    /// Freeze it first.
    pub(super) park: Option<Park>,
}

/// Under which conditions it is frozen.
#[derive(Debug, Clone)]
pub(super) struct Park {
    /// Although something other than its stdin could wake it.
    pub(super) reachable: bool,
    /// What it had done when it was last found to have done something, and how long ago that is. `None`: that it does
    /// nothing is to be seen first.
    pub(super) idle: Option<(Activity, Duration)>,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Its memory was given back, as far as that went; where it was to be frozen, it is.
    Reclaimed(Reclaimed),
    /// Somebody wanted it awake.
    CalledOff,
    /// It is doing something, and is to do that with the memory that it has. It is awake.
    Stirs,
    /// It is not to be frozen, or cannot be: why, a clause without a full stop. It is awake.
    NotParked(String),
    /// The kernel refused something. It is awake.
    Failed(String),
}

/// Does it. Blocks. Whatever it does not leave frozen for good, it has thawed.
pub(super) fn run(task: &Task) -> Outcome {
    if let Some(park) = &task.park {
        match freeze(task, park) {
            Ok(None) => {}
            Ok(Some(outcome)) => return outcome,
            Err(error) => {
                thaw(task);
                return Outcome::Failed(error);
            }
        }
    }
    let began = task.leaf.cpu().unwrap_or_default();
    // What goes on may have something to do by now, and is left in peace.
    let is_busy = || task.leaf.cpu().is_ok_and(|now| now.saturating_sub(began) > BUSY);
    let go_on = || !task.order.is_off() && !is_busy();
    match task.leaf.reclaim(task.swap, &go_on) {
        Ok(_) if task.order.is_off() && task.park.is_some() => Outcome::CalledOff,
        Ok(reclaimed) => Outcome::Reclaimed(reclaimed),
        Err(error) => {
            // What was frozen before stays so: only its memory is at issue.
            if task.park.is_some() {
                thaw(task);
            }
            Outcome::Failed(chain(&error))
        }
    }
}

/// Freezes it; or tells why not.
fn freeze(task: &Task, Park { reachable, idle }: &Park) -> Result<Option<Outcome>, String> {
    let told = |error: crate::cgroup::CgroupError| chain(&error);
    let leaf = &task.leaf;
    if !reachable && let Some(reason) = way_in(leaf)? {
        return Ok(Some(Outcome::NotParked(reason)));
    }
    let before = match idle {
        Some((before, _)) => before.clone(),
        None => {
            let Some(before) = leaf.activity().map_err(told)? else {
                return Ok(Some(Outcome::NotParked("it has too many processes to be looked at".to_owned())));
            };
            std::thread::sleep(LOOK);
            before
        }
    };
    if !leaf.freeze(&task.order).map_err(told)? {
        return Ok(Some(Outcome::CalledOff));
    }
    if !leaf.wait_frozen(true, FREEZE_MAX).map_err(told)? {
        thaw(task);
        return Ok(Some(Outcome::NotParked("the kernel did not bring all of it to a standstill".to_owned())));
    }
    // From here on it does nothing, so that this is the last word on whether it was idle when it was frozen.
    let found = leaf.activity().map_err(told)?;
    // What disks were asked for may have been for giving memory back before.
    let stirred = found.is_none_or(|found| {
        let found = found.but_for_disks(&before);
        match idle {
            Some((_, span)) => found.stirred_since(&before, *span),
            None => found.did_more(&before, LOOK / LOOK_PART),
        }
    });
    if stirred && !task.order.is_off() {
        thaw(task);
        return Ok(Some(Outcome::Stirs));
    }
    Ok(None)
}

fn way_in(leaf: &Leaf) -> Result<Option<String>, String> {
    let pids = leaf.processes().map_err(|error| chain(&error))?;
    match reach::other_than_stdin(&pids) {
        Ok(found) => Ok(found.map(|reach| reach.to_string())),
        Err(error) => Ok(Some(format!("it cannot be seen whether anything but its stdin could wake it ({error})"))),
    }
}

/// The driver does it once more when it is told of the outcome, and sees to it where it fails.
fn thaw(task: &Task) {
    let _ = task.leaf.thaw(&task.order);
}
