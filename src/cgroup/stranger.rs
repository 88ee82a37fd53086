//! A process that came into a leaf in another's place.
//!
//! `cgroup.procs` takes a number (cgroups(7)). Between the look at a launcher's pidfd and the write, the launcher may exit, be
//! waited for, and its number become another's, who is then in a leaf that is about to be killed. The look after the write
//! tells: where the launcher is gone, whoever has its number and is in the leaf was never meant, and goes back.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::process::{Pid, PidfdFlags};

use super::dir::Cgroup;
use super::directories::Directories;
use super::files::Membership;
use super::layout::{Layout, Mount};
use super::leaf::{Leaf, has_exited};
use super::tree::AdmitError;

impl Directories {
    /// Moves a process, held by its pidfd, into a leaf and its companions, and proves it. Where it was gone before it was
    /// moved, whoever has its number now does not stay there.
    pub fn move_in(&self, leaf: &Leaf, pid: i32, pidfd: BorrowedFd<'_>) -> Result<(), AdmitError> {
        let moved = self.put(leaf, pid, pidfd);
        if moved.is_err() && has_exited(pidfd) {
            give_back(self.layout(), leaf, pid);
        }
        moved
    }
}

/// Puts a process with this number, which is not the launcher's any more, out of the leaf: to where its parent is, since one
/// so young has not left that. Whoever's parent is in the leaf as well belongs there. Tells whether one was put out.
pub fn give_back(layout: &Layout, leaf: &Leaf, pid: i32) -> bool {
    let held = Pid::from_raw(pid).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    // The launcher itself, which nobody has waited for, has its number still, and has exited.
    let Some(held) = held.filter(|held| !has_exited(held.as_fd())) else { return false };
    let Some((place, home)) = Membership::of(pid).ok().zip(parent(pid).and_then(|parent| Membership::of(parent).ok()))
    else {
        return false;
    };
    let (memory, pids) = match layout {
        Layout::Pure { .. } => (None, None),
        Layout::Hybrid { memory, pids, .. } => (memory.as_ref(), pids.as_ref()),
    };
    let group = leaf.group();
    let mut out = false;
    for (mount, here, there, ours) in [
        (memory, &place.memory, &home.memory, group.memory.as_ref()),
        (pids, &place.pids, &home.pids, group.pids.as_ref()),
        (Some(layout.v2()), &place.v2, &home.v2, Some(&group.v2)),
    ] {
        let own = |mount: &Mount| mount.cgroup(ours?.path());
        let is_in = mount.and_then(own).is_some_and(|own| Some(&own) == here.as_ref() && Some(&own) != there.as_ref());
        let directory = mount.filter(|_| is_in).zip(there.as_deref()).and_then(|(mount, there)| mount.directory(there));
        if let Some(directory) = directory.and_then(|path| Cgroup::open(path).ok())
            && !has_exited(held.as_fd())
        {
            out |= directory.write("cgroup.procs", &pid.to_string()).is_ok();
        }
    }
    out
}

/// proc_pid_status(5).
fn parent(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok().filter(|parent| *parent > 0)
}
