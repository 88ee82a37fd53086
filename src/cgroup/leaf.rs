//! The leaf of one server: signalled, killed, read and removed as a whole.
//!
//! A leaf is single-use: once `cgroup.kill` was written in it, kernels before 7.3 kill at birth what clone3(2) puts there.

mod room;

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::dir::{Cgroup, CgroupError};
use super::files::Membership;
use super::group::Group;
use super::oom::{self, Tally};
use crate::naming::LeafName;
use crate::outcome::Level;
use crate::sys::crash;
pub use room::{CLEANED_UP_MAX, CLIENT};

/// The first pause between two reads of `cgroup.events`; it doubles up to [`PAUSE_MOST`]. Re-reading is quicker than
/// waiting for its notification, which the kernel sends at most every 10 ms.
const PAUSE_FIRST: Duration = Duration::from_micros(50);

/// The longest pause between two reads of `cgroup.events`.
const PAUSE_MOST: Duration = Duration::from_millis(10);

/// Processes that are held at a time to be killed one by one.
const HELD_MAX: usize = 256;

/// The kernel killed in the leaf for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryKill {
    /// Whose limit was reached.
    pub level: Level,
    /// How many processes the kernel has killed in this leaf so far.
    pub kills: u64,
}

/// What a leaf stands in.
#[derive(Debug)]
pub struct Above {
    /// The session's directories.
    pub session: Arc<Group>,
    /// The machine level's.
    pub machine: Arc<Group>,
    /// The systemd scope between the session and the leaf, where there is one.
    pub scope: Option<Scope>,
}

/// A systemd scope that is delegated to us. systemd removes it, and the leaves in it, within milliseconds of its last
/// exit, so what a leaf's own counters can no longer tell is read from the session's.
#[derive(Debug)]
pub struct Scope {
    /// Its directory.
    pub directory: Cgroup,
    /// Its unit.
    pub unit: String,
    /// Of all leaves of the session.
    pub tally: Arc<Tally>,
}

/// A slice beside the scope, in which an engine has systemd make the containers of one server.
#[derive(Debug)]
pub struct Annex {
    /// Its directory.
    pub group: Group,
    /// Its path as `/proc/PID/cgroup` tells it.
    pub cgroup: String,
    /// Its unit.
    pub unit: String,
}

/// The cgroup of one server, and those above it.
#[derive(Debug)]
pub struct Leaf {
    name: LeafName,
    group: Group,
    annex: Option<Annex>,
    above: Above,
    /// The leaf's v2 path as `/proc/PID/cgroup` tells it.
    cgroup: String,
    /// Memory kills that were told already.
    told: AtomicU64,
    /// v1: whose limit the last memory event was about, until a kill follows from it.
    reached: Mutex<Option<Level>>,
    /// Who changes its limits, one at a time.
    knobs: Mutex<()>,
}

impl Leaf {
    /// A leaf whose directories were made; `cgroup` is what the kernel calls the v2 one.
    pub fn new(name: LeafName, group: Group, above: Above, cgroup: String) -> Self {
        let (annex, told, reached, knobs) = (None, AtomicU64::new(0), Mutex::default(), Mutex::default());
        let leaf = Self { name, group, annex, above, cgroup, told, reached, knobs };
        // The levels were opened one after the other: they are compared from now on. Those of a scope are the same for
        // all leaves of its session, and what they count may be another leaf's to tell.
        if leaf.above.scope.is_none() {
            leaf.explain();
        }
        leaf
    }

    /// The same, with a slice in which the containers of its server are.
    pub fn with_annex(self, annex: Annex) -> Self {
        Self { annex: Some(annex), ..self }
    }

    /// Its name, unique among all living leaves.
    pub fn name(&self) -> &LeafName {
        &self.name
    }

    /// Held by whoever changes its limits: what is lifted for a while is put back before it is changed for good.
    pub fn knobs(&self) -> &Mutex<()> {
        &self.knobs
    }

    /// Its directories.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Where the containers of its server are, where that is not in it.
    pub fn annex(&self) -> Option<&Annex> {
        self.annex.as_ref()
    }

    /// The session's directories.
    pub fn session(&self) -> &Arc<Group> {
        &self.above.session
    }

    /// The machine level's directories.
    pub fn machine(&self) -> &Arc<Group> {
        &self.above.machine
    }

    /// The systemd scope that it stands in.
    pub fn scope(&self) -> Option<&str> {
        self.above.scope.as_ref().map(|scope| scope.unit.as_str())
    }

    /// Whether a process in `membership` is in this leaf or below it.
    pub fn holds(&self, membership: &Membership) -> bool {
        let below = |path: &String, cgroup: &str| {
            path.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let annex = self.annex.as_ref().map(|annex| annex.cgroup.as_str());
        let own = [Some(self.cgroup.as_str()), annex];
        membership.v2.as_ref().is_some_and(|path| own.into_iter().flatten().any(|cgroup| below(path, cgroup)))
    }

    /// Whether the kernel still sees a process in it.
    pub fn populated(&self) -> Result<bool, CgroupError> {
        let annex = self.annex.as_ref().map_or(Ok(false), |annex| annex.group.v2.populated())?;
        Ok(annex || self.group.v2.populated()?)
    }

    /// Whether it is one cgroup, with none below or beside it.
    pub fn is_single(&self) -> bool {
        self.annex.is_none() && self.group.v2.children().is_ok_and(|children| children.is_empty())
    }

    /// Its processes.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        let mut found = self.group.v2.all_processes()?;
        if let Some(annex) = &self.annex {
            found.extend(annex.group.v2.all_processes()?);
        }
        Ok(found)
    }

    /// Sends SIGTERM and SIGCONT to every process in it, by pidfd and only after its membership was read back. Where it has
    /// room for containers, to those of them alone: their monitors stay until they have cleaned up.
    pub fn terminate(&self) -> Result<u32, CgroupError> {
        let mut asked = 0;
        let pids = self.containers().map_or_else(|| self.processes(), |containers| containers.all_processes())?;
        for pid in pids {
            let Some(pidfd) = open_process(pid) else { continue };
            // Between the list and pidfd_open(2) the number may have passed to a stranger.
            if Membership::of(pid).is_ok_and(|place| self.holds(&place)) {
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::TERM);
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::CONT);
                crash::step("a process was asked to terminate");
                asked += 1;
            }
        }
        Ok(asked)
    }

    /// Writes `cgroup.kill`: where it has room for containers, to that first.
    pub fn kill(&self) -> Result<(), CgroupError> {
        self.kill_containers();
        match self.group.v2.write("cgroup.kill", "1") {
            Err(error) if !error.is_gone() => Err(error),
            _ => Ok(()),
        }
    }

    /// Kills one by one what left the v2 leaf but not its v1 companions.
    pub fn kill_in_companions(&self) -> Result<(), CgroupError> {
        for companion in [&self.group.memory, &self.group.pids].into_iter().flatten() {
            for pids in companion.all_processes()?.chunks(HELD_MAX) {
                let held: Vec<_> = pids.iter().filter_map(|pid| Some((*pid, open_process(*pid)?))).collect();
                // Before they were held, a number may have passed to a stranger.
                let still_in: HashSet<i32> = companion.all_processes()?.into_iter().collect();
                for (_, pidfd) in held.iter().filter(|(pid, _)| still_in.contains(pid)) {
                    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
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
        if let Some(scope) = self.above.scope.as_ref().filter(|_| !self.group.v2.has("cgroup.events")) {
            let kills = scope.tally.untold(&self.above.session.v2)?;
            return Some(MemoryKill { level: self.level_of_lost_kill(scope), kills });
        }
        // The kill is counted after the event that it follows from, so it is read first.
        let kills = oom::kills(&self.group.v2, self.group.memory.as_ref())
            + self.annex.as_ref().map_or(0, |annex| oom::kills(&annex.group.v2, None));
        if self.group.memory.is_some() {
            self.note_v1_event();
        }
        let told = self.told.swap(kills, Ordering::Relaxed);
        if kills <= told {
            return None;
        }
        let level = match (self.level_of_kill(), &self.above.scope) {
            // It went between two reads of its counters.
            (Level::Outside, Some(scope)) if !self.group.v2.has("cgroup.events") => self.level_of_lost_kill(scope),
            (level, _) => level,
        };
        if let Some(scope) = &self.above.scope {
            scope.tally.told(kills - told, &self.above.session.v2);
        }
        Some(MemoryKill { level, kills })
    }

    /// How often systemd-oomd began to kill it whole: `user.oomd_ooms`, which it counts up before it kills (systemd's
    /// src/oom/oomd-util.c).
    pub fn oomd_kills(&self) -> u64 {
        self.group.v2.attribute("user.oomd_ooms").and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Whose limit a kill was for whose leaf is gone with its counters: the session's count what was below it.
    fn level_of_lost_kill(&self, scope: &Scope) -> Level {
        let levels = [(Level::Machine, &*self.above.machine), (Level::Session, &*self.above.session)];
        let highest = levels.iter().find(|(_, group)| group.oom_news() > 0).map(|(level, _)| *level);
        let below = scope.tally.was_below(&self.above.session.v2);
        levels.iter().for_each(|(_, group)| group.explain_oom());
        highest.unwrap_or(if below { Level::Server } else { Level::Outside })
    }

    /// v1: an event wakes the level whose limit it was and all below, from the top down; above ours, all three. One of
    /// them kills in one leaf only, so each leaf remembers whose limit the last one was about, and not that there were any.
    fn note_v1_event(&self) {
        let (server, session, machine) =
            (self.group.oom_news(), self.above.session.oom_news(), self.above.machine.oom_news());
        if server == 0 {
            return;
        }
        let level = match () {
            () if server > session => Level::Server,
            () if session > machine => Level::Session,
            () if self.above.machine.was_at_its_v1_limit() => Level::Machine,
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
        let Above { session, machine, .. } = &self.above;
        let annex = self.annex.as_ref().map(|annex| (Level::Server, &annex.group));
        let levels = [(Level::Server, &self.group), (Level::Session, &**session), (Level::Machine, &**machine)];
        let mut levels = annex.iter().chain(&levels);
        let lowest = levels.find(|(_, group)| group.oom_news() > 0).map(|(level, _)| *level);
        self.explain();
        lowest.unwrap_or(Level::Outside)
    }

    /// What any level ran out of memory for so far explains nothing that comes.
    fn explain(&self) {
        let annex = self.annex.as_ref().map(|annex| &annex.group);
        for group in [&self.group, &*self.above.session, &*self.above.machine].into_iter().chain(annex) {
            group.explain_oom();
        }
    }

    /// Whose process limit is full, as far as it still shows.
    pub fn full_level(&self) -> Level {
        let Above { session, machine, .. } = &self.above;
        let levels = [(Level::Server, &self.group), (Level::Session, &**session), (Level::Machine, &**machine)];
        levels.into_iter().find(|(_, group)| group.pids_full()).map_or(Level::Server, |(level, _)| level)
    }

    /// Removes its directories in all hierarchies, and what its processes made below them.
    pub fn remove(&self) -> Result<(), CgroupError> {
        match &self.above.scope {
            Some(scope) => scope.directory.remove_tree(self.name.as_str()),
            None => self.above.session.remove_child(self.name.as_str()),
        }
    }
}

/// A descriptor of the process with this number now, if there is one.
fn open_process(pid: i32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Whether the process behind a pidfd has exited: it is then readable (pidfd_open(2)).
pub fn has_exited(pidfd: BorrowedFd<'_>) -> bool {
    exits_within(pidfd, 0)
}

/// Whether a process that was not moved is about to exit. The kernel accepts the move of one that is exiting and leaves it
/// where it is (`PF_EXITING` in cgroup_migrate_add_task()); its pidfd is readable a moment later.
pub fn is_exiting(pidfd: BorrowedFd<'_>) -> bool {
    exits_within(pidfd, 1)
}

fn exits_within(pidfd: BorrowedFd<'_>, seconds: i64) -> bool {
    let mut polled = [rustix::event::PollFd::from_borrowed_fd(pidfd.as_fd(), rustix::event::PollFlags::IN)];
    let span = rustix::event::Timespec { tv_sec: seconds, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&span)).is_ok_and(|ready| ready > 0)
}
