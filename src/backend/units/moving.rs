//! One process into a leaf, and those that it has started on its way there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags};

use super::Units;
use crate::backend::AdmitError;
use crate::cgroup::{AdmitError as CgroupAdmitError, Cgroup, Leaf, Membership, give_back, has_exited, is_exiting};

/// How often a scope's own cgroup is looked through for what was started there.
const STRAGGLES: usize = 20;

impl Units {
    /// A process that runs already may have started others in the scope's own cgroup, before it was moved on into its leaf.
    pub(super) fn move_stragglers(&self, leaf: &Leaf) -> Result<(), AdmitError> {
        let directory = leaf.group().v2().path().parent().map(PathBuf::from).unwrap_or_default();
        let scope = Cgroup::open(directory)?;
        for _ in 0..STRAGGLES {
            let stragglers = scope.processes()?;
            if stragglers.is_empty() {
                break;
            }
            for pid in stragglers {
                // Nobody but the launcher was ever put here, so whoever stands here is its own; of those listed some may have
                // exited meanwhile, and their numbers may be strangers'.
                let Some(pidfd) = hold(pid) else { continue };
                let here = self.layout().v2().cgroup(scope.path());
                if here.is_none() || Membership::of(pid).ok().and_then(|place| place.v2) != here {
                    continue;
                }
                match self.move_in(leaf, pid, pidfd.as_fd()) {
                    Err(AdmitError::Cgroup(CgroupAdmitError::LauncherGone)) | Ok(()) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Writes a process's number to the leaf, and proves that it is there. A user daemon may not write where the process comes
    /// from outside its manager's subtree; then the manager does it, which asks the system's.
    pub(in crate::backend) fn move_in(&self, leaf: &Leaf, pid: i32, pidfd: BorrowedFd<'_>) -> Result<(), AdmitError> {
        let moved = self.put(leaf, pid, pidfd);
        if moved.is_err() && has_exited(pidfd) {
            // Whoever has its number by now was never meant.
            give_back(self.layout(), leaf, pid);
        }
        moved
    }

    fn put(&self, leaf: &Leaf, pid: i32, pidfd: BorrowedFd<'_>) -> Result<(), AdmitError> {
        let gone = || AdmitError::from(CgroupAdmitError::LauncherGone);
        match leaf.group().v2().write("cgroup.procs", &pid.to_string()) {
            Err(error) if error.is_denied() => {
                let unit = leaf.scope().expect("a leaf of this backend stands in a scope");
                let attached = self.manager.attach(unit, leaf.name().as_str(), pid.unsigned_abs());
                attached.map_err(|error| if error.process_is_gone() { gone() } else { error.into() })?;
            }
            Err(_) if has_exited(pidfd) => return Err(gone()),
            other => other?,
        }
        if has_exited(pidfd) {
            return Err(gone());
        }
        let found = Membership::of(pid).map_err(|_| gone())?;
        if leaf.holds(&found) && leaf.populated()? {
            return Ok(());
        }
        if is_exiting(pidfd) {
            return Err(gone());
        }
        let wanted = leaf.group().v2().path().display().to_string();
        Err(CgroupAdmitError::NotMoved { wanted, found }.into())
    }
}

/// A descriptor of the process with this number now, if there is one.
fn hold(pid: i32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}
