//! The leaf of one server: signalled, killed, read and removed as a whole.
//!
//! A leaf is single-use: once `cgroup.kill` was written in it, kernels before 7.3 kill at birth what clone3(2) puts there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::dir::{Cgroup, CgroupError};
use super::files::Membership;
use super::group::Group;
use super::oom;
use crate::naming::LeafName;
use crate::outcome::Level;

/// The first pause between two reads of `cgroup.events`; it doubles up to [`PAUSE_MOST`]. Re-reading is quicker than
/// waiting for its notification, which the kernel sends at most every 10 ms.
const PAUSE_FIRST: Duration = Duration::from_micros(50);

/// The longest pause between two reads of `cgroup.events`.
const PAUSE_MOST: Duration = Duration::from_millis(10);

/// The kernel killed in the leaf for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryKill {
    /// Whose limit was reached.
    pub level: Level,
    /// How many processes the kernel has killed in this leaf so far.
    pub kills: u64,
}

/// The cgroup of one server, and those above it.
#[derive(Debug)]
pub struct Leaf {
    name: LeafName,
    group: Group,
    session: Arc<Group>,
    machine: Arc<Group>,
    /// The leaf's v2 path as `/proc/PID/cgroup` tells it.
    cgroup: String,
    /// Memory kills that were told already.
    told: AtomicU64,
    /// v1: whose limit the last memory event was about, until a kill follows from it.
    reached: Mutex<Option<Level>>,
}

impl Leaf {
    pub(super) fn new(name: LeafName, group: Group, session: Arc<Group>, machine: Arc<Group>, cgroup: String) -> Self {
        let leaf = Self { name, group, session, machine, cgroup, told: AtomicU64::new(0), reached: Mutex::default() };
        // The levels were opened one after the other: they are compared from now on.
        leaf.explain();
        leaf
    }

    /// Its name, unique among all living leaves.
    pub fn name(&self) -> &LeafName {
        &self.name
    }

    /// Its directories.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The session's directories, one above.
    pub fn session(&self) -> &Arc<Group> {
        &self.session
    }

    /// The machine level's directories, two above.
    pub fn machine(&self) -> &Arc<Group> {
        &self.machine
    }

    /// Whether a process in `membership` is in this leaf or below it.
    pub fn holds(&self, membership: &Membership) -> bool {
        let below = |path: &String| {
            path.strip_prefix(self.cgroup.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        membership.v2.as_ref().is_some_and(below)
    }

    /// Whether the kernel still sees a process in it.
    pub fn populated(&self) -> Result<bool, CgroupError> {
        self.group.v2.populated()
    }

    /// Its processes.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        self.group.v2.all_processes()
    }

    /// Sends SIGTERM and SIGCONT to every process in it, by pidfd and only after its membership was read back.
    pub fn terminate(&self) -> Result<u32, CgroupError> {
        let mut asked = 0;
        for pid in self.processes()? {
            let Some(pidfd) = open_process(pid) else { continue };
            // Between the list and pidfd_open(2) the number may have passed to a stranger.
            if Membership::of(pid).is_ok_and(|place| self.holds(&place)) {
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::TERM);
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::CONT);
                asked += 1;
            }
        }
        Ok(asked)
    }

    /// Writes `cgroup.kill`. What left the v2 leaf but not its v1 companions is killed one by one.
    pub fn kill(&self) -> Result<(), CgroupError> {
        match self.group.v2.write("cgroup.kill", "1") {
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
        for companion in [&self.group.memory, &self.group.pids].into_iter().flatten() {
            for pid in companion.all_processes()? {
                let Some(pidfd) = open_process(pid) else { continue };
                if in_companion(companion, pid) {
                    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
                }
            }
        }
        Ok(())
    }

    /// Waits until the kernel says that it is empty; `false` when that did not happen in time.
    pub fn wait_empty(&self, at_most: Duration) -> Result<bool, CgroupError> {
        let start = Instant::now();
        let mut pause = PAUSE_FIRST;
        while self.populated()? {
            if start.elapsed() >= at_most {
                return Ok(false);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MOST);
        }
        Ok(true)
    }

    /// The memory kill that was not told yet, if there is one.
    pub fn memory_kill(&self) -> Option<MemoryKill> {
        // The kill is counted after the event that it follows from, so it is read first.
        let kills = oom::kills(&self.group.v2, self.group.memory.as_ref());
        if self.group.memory.is_some() {
            self.note_v1_event();
        }
        if kills <= self.told.load(Ordering::Relaxed) {
            return None;
        }
        self.told.store(kills, Ordering::Relaxed);
        Some(MemoryKill { level: self.level_of_kill(), kills })
    }

    /// v1: an event wakes the level whose limit it was and all below, from the top down; above ours, all three. One of
    /// them kills in one leaf only, so each leaf remembers whose limit the last one was about, and not that there were any.
    fn note_v1_event(&self) {
        let (server, session, machine) = (self.group.oom_news(), self.session.oom_news(), self.machine.oom_news());
        if server == 0 {
            return;
        }
        let level = match () {
            () if server > session => Level::Server,
            () if session > machine => Level::Session,
            () if self.machine.was_at_its_v1_limit() => Level::Machine,
            () => Level::Outside,
        };
        self.explain();
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(level);
    }

    /// Whose limit a kill in this leaf was for.
    fn level_of_kill(&self) -> Level {
        if self.group.memory.is_some() {
            return self.reached.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(Level::Outside);
        }
        let levels = [(Level::Server, &self.group), (Level::Session, &*self.session), (Level::Machine, &*self.machine)];
        let lowest = levels.iter().find(|(_, group)| group.oom_news() > 0).map(|(level, _)| *level);
        self.explain();
        lowest.unwrap_or(Level::Outside)
    }

    /// What any level ran out of memory for so far explains nothing that comes.
    fn explain(&self) {
        for group in [&self.group, &*self.session, &*self.machine] {
            group.explain_oom();
        }
    }

    /// Whose process limit is full, as far as it still shows.
    pub fn full_level(&self) -> Level {
        let levels = [(Level::Server, &self.group), (Level::Session, &*self.session), (Level::Machine, &*self.machine)];
        levels.into_iter().find(|(_, group)| group.pids_full()).map_or(Level::Server, |(level, _)| level)
    }

    /// Removes its directories in all hierarchies, and what its processes made below them.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.session.remove_child(self.name.as_str())
    }
}

/// Whether the process is in this v1 companion now: the number alone may have passed to a stranger.
fn in_companion(companion: &Cgroup, pid: i32) -> bool {
    companion.all_processes().is_ok_and(|pids| pids.contains(&pid))
}

/// A descriptor of the process with this number now, if there is one.
fn open_process(pid: i32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Whether the process behind a pidfd has exited: it is then readable (pidfd_open(2)).
pub fn has_exited(pidfd: BorrowedFd<'_>) -> bool {
    let mut polled = [rustix::event::PollFd::from_borrowed_fd(pidfd.as_fd(), rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
}
