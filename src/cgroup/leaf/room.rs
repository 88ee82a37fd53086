//! Room for containers in a leaf: the engine makes their cgroups in one directory, and whoever asked for them stands beside.
//!
//! ```text
//!  <leaf>                    the limits of the server, for all of it
//!  ├─ pinfold-client         the engine's command, and the monitors that it starts
//!  └─ pinfold-containers     what an engine is told as --cgroup-parent
//!     └─ libpod-…, <id>      a container, made by the engine
//! ```
//!
//! An engine whose daemon has systemd make its cgroups is told a slice instead, which is beside the scope in the session's
//! slice and has the server's limits for itself: the leaf's [`Annex`](super::Annex).
//!
//! Beside, because a cgroup with processes cannot give its children controllers (admin-guide/cgroup-v2, "No Internal Process
//! Constraint"). All of it is below the leaf, so that whatever holds for that holds for the containers: limits, readings,
//! `populated`, the kill, and what a daemon finds that takes over.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::{Leaf, PAUSE_FIRST, PAUSE_MOST, has_exited};
use crate::cgroup::dir::{Cgroup, CgroupError};
use crate::cgroup::files::Membership;
use crate::cgroup::group::Controllers;
use crate::cgroup::layout::Layout;
use crate::cgroup::stranger::give_back;
use crate::limits::Bytes;
use crate::snapshot::MemoryView;

/// Where the command of an engine stands.
pub const CLIENT: &str = "pinfold-client";

/// Where its containers do.
const CONTAINERS: &str = "pinfold-containers";

/// How long the monitor of a container that was killed may take to do what it was told to do then: `--rm`. Whoever waits for an
/// end waits a little longer for each of its steps.
pub const CLEANED_UP_MAX: Duration = Duration::from_secs(9);

/// How deep, and how many, the cgroups may be that are made in a leaf that was given to its user.
const GIVEN: [(&str, &str); 2] = [("cgroup.max.depth", "16"), ("cgroup.max.descendants", "1024")];

/// What a user may write to whom a cgroup is given (admin-guide/cgroup-v2, "Delegation"); no limit is among it.
const GIVEN_FILES: [&str; 3] = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];

impl Leaf {
    /// Makes room for containers, and moves the launcher on beside it. Where the engine is its user's own, that user is given
    /// the leaf. What fails is taken back: the launcher stands in the leaf then, as it did before.
    pub fn make_room(
        &self,
        layout: &Layout,
        (pid, pidfd): (i32, BorrowedFd<'_>),
        user: Option<u32>,
    ) -> Result<(), CgroupError> {
        let made = self.try_make_room(pid, pidfd, user);
        if made.is_err() {
            let v2 = &self.group.v2;
            let words = Controllers::enabled(v2).map(Controllers::words).unwrap_or_default();
            let off: Vec<String> = words.iter().map(|word| format!("-{word}")).collect();
            let _ = v2.write("cgroup.subtree_control", &off.join(" "));
            let is_in = Membership::of(pid).is_ok_and(|place| place.v2 == Some(format!("{}/{CLIENT}", self.cgroup)));
            if is_in {
                let _ = v2.write("cgroup.procs", &pid.to_string());
            }
            if has_exited(pidfd) {
                // Whoever has its number by now was never meant.
                give_back(layout, self, pid);
            }
            let _ = v2.remove_child(CONTAINERS).and_then(|()| v2.remove_child(CLIENT));
            let _ = self.group.die_as_one();
        }
        made
    }

    fn try_make_room(&self, pid: i32, pidfd: BorrowedFd<'_>, user: Option<u32>) -> Result<(), CgroupError> {
        let v2 = &self.group.v2;
        let client = v2.create_child(CLIENT)?;
        let containers = v2.create_child(CONTAINERS)?;
        if has_exited(pidfd) {
            return Err(CgroupError::gone(client.path()));
        }
        client.write("cgroup.procs", &pid.to_string())?;
        if has_exited(pidfd) {
            return Err(CgroupError::gone(client.path()));
        }
        let place = Membership::of(pid).ok().and_then(|place| place.v2);
        if place != Some(format!("{}/{CLIENT}", self.cgroup)) {
            return Err(CgroupError::gone(client.path()));
        }
        self.group.delegate_controllers(Controllers::of(v2)?)?;
        // Memory that runs out ends the containers, and leaves those who clean up after them.
        if v2.has("memory.oom.group") {
            v2.write("memory.oom.group", "0")?;
            containers.write("memory.oom.group", "1")?;
        }
        let Some(user) = user else { return Ok(()) };
        for (file, most) in GIVEN {
            v2.write(file, most)?;
        }
        for cgroup in [&client, &containers, v2] {
            cgroup.give(&GIVEN_FILES, user)?;
        }
        Ok(())
    }

    /// The directory of its containers, where it has room for some.
    pub fn containers(&self) -> Option<Cgroup> {
        match &self.annex {
            Some(annex) => Cgroup::open(annex.group.v2.path()).ok(),
            None => self.group.v2.child(CONTAINERS).ok(),
        }
    }

    /// What an engine is told as the parent of its containers.
    pub fn container_parent(&self) -> String {
        self.annex.as_ref().map_or_else(|| format!("{}/{CONTAINERS}", self.cgroup), |annex| annex.unit.clone())
    }

    /// What of its memory is in use now, of all of it.
    pub fn memory_in_use(&self) -> Option<Bytes> {
        sum(self.group.memory_in_use(), self.annex.as_ref().and_then(|annex| annex.group.memory_in_use()))
    }

    /// The most that was in use, of all of it.
    pub fn memory_peak(&self) -> Option<Bytes> {
        sum(self.group.memory_peak(), self.annex.as_ref().and_then(|annex| annex.group.memory_peak()))
    }

    /// The memory of all of it.
    pub fn memory(&self) -> MemoryView {
        let own = self.group.memory();
        let Some(annex) = &self.annex else { return own };
        let other = annex.group.memory();
        MemoryView {
            rss_bytes: sum(own.rss_bytes, other.rss_bytes),
            working_set_bytes: sum(own.working_set_bytes, other.working_set_bytes),
            current_bytes: sum(own.current_bytes, other.current_bytes),
            anon_bytes: sum(own.anon_bytes, other.anon_bytes),
            file_bytes: sum(own.file_bytes, other.file_bytes),
            shmem_bytes: sum(own.shmem_bytes, other.shmem_bytes),
            kernel_bytes: sum(own.kernel_bytes, other.kernel_bytes),
            swap_bytes: sum(own.swap_bytes, other.swap_bytes),
            // Each had its most at another moment: what is told was there at once.
            peak_bytes: own.peak_bytes.max(other.peak_bytes),
            // Each has the limit for itself.
            max_bytes: own.max_bytes,
        }
    }

    /// Kills its containers, and waits for those who clean up after them: what the leaf holds then is killed with it. Whoever
    /// was given the leaf can keep this from what it is for, a threaded cgroup takes no kill, and delays the other no further.
    pub(super) fn kill_containers(&self) {
        let Some(containers) = self.containers() else { return };
        let (start, mut pause) = (Instant::now(), PAUSE_FIRST);
        while self.populated().is_ok_and(|populated| populated) && start.elapsed() < CLEANED_UP_MAX {
            if containers.populated().unwrap_or(false) {
                let _ = containers.write("cgroup.kill", "1");
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }
}

/// What is not told of one of them is that of the other.
fn sum(one: Option<Bytes>, other: Option<Bytes>) -> Option<Bytes> {
    match (one, other) {
        (Some(Bytes(one)), Some(Bytes(other))) => Some(Bytes(one + other)),
        (one, other) => one.or(other),
    }
}
