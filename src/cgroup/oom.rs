//! Memory kills as facts: how often, and by whose limit.
//!
//! On v2 the counters tell both: `oom_kill` moves in the victim's cgroup and all above it, `oom` in the one whose limit
//! was reached (`memory.events.local`). On v1 `oom_kill` of `memory.oom_control` moves in the victim's own cgroup, and the
//! one whose limit was reached wakes its own eventfd and all below it (admin-guide/cgroup-v1/memory).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::EventfdFlags;
use rustix::fs::{Mode, OFlags};

use super::dir::{Cgroup, CgroupError};
use super::files;

/// How far one level has run out of memory, for all who hold it.
#[derive(Debug)]
pub struct OomEvents {
    /// v1: counts the times the kernel ran out of memory at this level or above.
    eventfd: Option<OwnedFd>,
    /// v1: what was read from the eventfd so far. v2: unused. Whoever reads it has the lock, and so sees what others read.
    woken: Mutex<u64>,
}

impl OomEvents {
    pub(super) fn watch(v1_memory: Option<&Cgroup>) -> Result<Self, CgroupError> {
        Ok(Self { eventfd: v1_memory.map(register).transpose()?, woken: Mutex::default() })
    }

    pub(super) fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        self.eventfd.as_ref().map(AsFd::as_fd)
    }

    /// How often the limit of this level was reached with nothing left to reclaim, in all.
    pub(super) fn reached(&self, v2: &Cgroup) -> u64 {
        match &self.eventfd {
            Some(fd) => {
                let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
                let mut count = [0u8; 8];
                if rustix::io::read(fd, &mut count).is_ok_and(|read| read == 8) {
                    *woken += u64::from_ne_bytes(count);
                }
                *woken
            }
            None => {
                let text = v2.read("memory.events.local").unwrap_or_default();
                files::keyed(&text, "oom").unwrap_or(0)
            }
        }
    }
}

/// What the counters of a session, which outlive those of its leaves, were already explained by.
#[derive(Debug)]
pub struct Tally {
    /// Kills that were told for a leaf of the session.
    kills: AtomicU64,
    /// Limits that were reached in the session or below it, up to the last told kill.
    reached: AtomicU64,
}

impl Tally {
    /// Begins now: what happened before explains nothing.
    pub fn begin(session: &Cgroup) -> Self {
        Self { kills: kills(session, None).into(), reached: read_key(session, "memory.events", "oom").into() }
    }

    /// A leaf told kills from its own counters.
    pub(super) fn told(&self, kills: u64, session: &Cgroup) {
        self.kills.fetch_add(kills, Ordering::Relaxed);
        self.was_below(session);
    }

    /// Kills in the session that no leaf told; they are told now.
    pub(super) fn untold(&self, session: &Cgroup) -> Option<u64> {
        let all = kills(session, None);
        let told = self.kills.fetch_max(all, Ordering::Relaxed);
        all.checked_sub(told).filter(|untold| *untold > 0)
    }

    /// Whether a limit in the session or below it was reached since the last told kill.
    pub(super) fn was_below(&self, session: &Cgroup) -> bool {
        let reached = read_key(session, "memory.events", "oom");
        self.reached.swap(reached, Ordering::Relaxed) < reached
    }
}

/// v1: whether a level was ever at its own limit, as its peaks tell: failures of a charge (`memory.failcnt`) are not
/// counted by every kernel (6.18 does not). Where swap is limited as well, the sum of both is charged first.
pub(super) fn was_at_its_limit(memory: &Cgroup) -> bool {
    /// How far below the limit the kernel gives up at most: a batch of charges, rounded up.
    const SLACK: u64 = 1 << 20;
    let number = |file| memory.read(file).ok().and_then(|text| files::number(&text));
    let at_most = |peak, limit| number(peak).zip(number(limit)).is_some_and(|(peak, limit)| peak + SLACK >= limit);
    at_most("memory.max_usage_in_bytes", "memory.limit_in_bytes")
        || at_most("memory.memsw.max_usage_in_bytes", "memory.memsw.limit_in_bytes")
}

/// How many processes the kernel killed for memory in this cgroup and below, in all.
pub(super) fn kills(v2: &Cgroup, v1_memory: Option<&Cgroup>) -> u64 {
    match v1_memory {
        // v1 counts where the victim was, so what the server made below its companion is added.
        Some(companion) => companion.sum(&|cgroup| read_key(cgroup, "memory.oom_control", "oom_kill")),
        None => read_key(v2, "memory.events", "oom_kill"),
    }
}

fn read_key(cgroup: &Cgroup, file: &str, key: &str) -> u64 {
    cgroup.read(file).ok().and_then(|text| files::keyed(&text, key)).unwrap_or(0)
}

/// `cgroup.event_control`: "<eventfd> <memory.oom_control>"; the second descriptor need not be kept.
fn register(memory: &Cgroup) -> Result<OwnedFd, CgroupError> {
    let fail =
        |doing, errno: rustix::io::Errno| CgroupError::new(doing, memory.path().join("memory.oom_control"), errno);
    let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| fail("make an eventfd for", errno))?;
    let control =
        rustix::fs::open(memory.fd_path().join("memory.oom_control"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| fail("open", errno))?;
    memory.write("cgroup.event_control", &format!("{} {}", eventfd.as_raw_fd(), control.as_raw_fd()))?;
    Ok(eventfd)
}
