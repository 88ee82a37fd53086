//! The `cgroupfs` tree: `<root>/pinfold/<session>/<leaf>`, in a subtree that we may write.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use wildmatch::WildMatch;

use super::dir::{Cgroup, CgroupError};
use super::directories::Directories;
use super::files::Membership;
use super::group::{Controllers, GroupPaths};
use super::knobs::KnobError;
use super::layout::Layout;
use super::leaf::Leaf;
use super::root;
use crate::limits::{Bytes, Limits};
use crate::naming::{LeafName, SessionKey};
use crate::realm::Realm;
use crate::session::ProcessId;

/// The directory of the machine level, below the root.
pub(super) const MACHINE: &str = "pinfold";

/// How the name of a companion's machine level begins, of this tree or another.
pub(super) const COMPANIONS: &str = "/pinfold.";

/// Who is to be placed where, under which limits.
#[derive(Debug)]
pub struct Admission<'a> {
    /// The launcher.
    pub pid: i32,
    /// The same process, held.
    pub pidfd: BorrowedFd<'a>,
    /// Its session.
    pub key: &'a SessionKey,
    /// Its leaf, which does not exist yet.
    pub leaf: &'a LeafName,
    /// Where the machine level is for it ([`Tree::machine_paths`], [`Directories::machine_paths`]), as its record has it.
    pub paths: &'a GroupPaths,
    /// Of all of pinfold.
    pub machine: Limits,
    /// Of the session.
    pub session: Limits,
    /// Of the leaf.
    pub server: Limits,
    /// Whether the processes of its container may be moved out of the way of limits.
    pub move_processes: bool,
    /// Units that it may leave whatever held it there.
    pub allow_leave: &'a [WildMatch],
    /// The process that owns it: its host.
    pub owner: ProcessId,
    /// Since boot (`CLOCK_BOOTTIME`): when its end, if that was ordered for its session's time-to-live, has to be over.
    pub until: Option<Duration>,
}

/// Why somebody was not placed. Whatever was made is taken back before this is told, but for the leaf that [`Unplaced`]
/// may still hold.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The launcher died meanwhile.
    #[error("the launcher exited before it was placed")]
    LauncherGone,
    /// The kernel refused something.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A limit does not hold.
    #[error(transparent)]
    Knob(#[from] KnobError),
    /// The move was accepted, and the kernel tells another place.
    #[error("moved the process to {wanted}, and the kernel tells {found}")]
    NotMoved {
        /// Where it should be.
        wanted: String,
        /// Where it is.
        found: Membership,
    },
    /// Its own cgroup cannot be seen from here: another cgroup namespace.
    #[error("the cgroup {0} of the process is not visible in this daemon's cgroup namespace")]
    Invisible(Membership),
    /// Moving it would free it from a limit.
    #[error("moving the process would free it from {file} = {value} of {}", cgroup.display())]
    Sheds {
        /// Which limit.
        file: &'static str,
        /// What it says.
        value: String,
        /// Whose it is.
        cgroup: PathBuf,
    },
    /// Moving it would free it from what somebody attached to its cgroup.
    #[error("moving the process would free it from the BPF program ({kind}) of {}", cgroup.display())]
    ShedsProgram {
        /// Where it is attached, as bpftool(8) calls it.
        kind: &'static str,
        /// Whose it is.
        cgroup: PathBuf,
    },
}

/// Somebody was not placed.
#[derive(Debug)]
pub struct Unplaced {
    /// Why.
    pub error: AdmitError,
    /// The leaf that could not be taken back: the launcher is in it and may not be moved back.
    pub left: Option<Box<Leaf>>,
}

impl<E: Into<AdmitError>> From<E> for Unplaced {
    fn from(error: E) -> Self {
        Self { error: error.into(), left: None }
    }
}

/// Where a caller stands: outside, or in a leaf of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The session.
    pub key: SessionKey,
    /// The leaf.
    pub leaf: LeafName,
    /// The container that it says to be below; the host where it is in our own tree, in which nobody else makes anything.
    pub below: Realm,
}

/// The tree of one daemon.
#[derive(Debug)]
pub struct Tree {
    directories: Directories,
    /// The subtree that is ours to write.
    root: PathBuf,
    /// The kernel's path of `<root>/pinfold`.
    machine: String,
    changes: root::Changes,
    _lock: OwnedFd,
}

impl Tree {
    /// Opens the tree, makes what is missing and finds out which controllers hold limits in it.
    pub fn open(options: &root::TreeOptions) -> Result<Self, root::TreeError> {
        let opened = root::open(options)?;
        let machine_directory = opened.root.join(MACHINE);
        let machine = opened.layout.v2().cgroup(&machine_directory).ok_or(root::TreeError::OutsideMount {
            root: opened.root.clone(),
            mount: opened.layout.v2().point.clone(),
        })?;
        let tree = Self {
            directories: Directories::of(opened.layout, &machine_directory, opened.controllers),
            root: opened.root,
            machine,
            changes: opened.changes,
            _lock: opened.lock,
        };
        if options.leave_host {
            tree.leave_companions()?;
        }
        Ok(tree)
    }

    /// A daemon that was started from inside a leaf, of whatever tree, would be killed with the leaf's companions.
    fn leave_companions(&self) -> Result<(), CgroupError> {
        let Layout::Hybrid { memory, pids, .. } = self.layout() else { return Ok(()) };
        let own = Membership::of("self").unwrap_or_default();
        for (mount, cgroup) in [(memory, own.memory), (pids, own.pids)] {
            let Some((outside, _)) = cgroup.as_deref().and_then(|cgroup| cgroup.split_once(COMPANIONS)) else {
                continue;
            };
            if let Some(directory) = mount.as_ref().and_then(|mount| mount.directory(outside)) {
                Cgroup::open(directory)?.write("cgroup.procs", "0")?;
            }
        }
        Ok(())
    }

    /// What is mounted here.
    pub fn layout(&self) -> &Layout {
        self.directories.layout()
    }

    /// Its directories, and those of its sessions elsewhere.
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// Which controllers hold limits.
    pub fn controllers(&self) -> Controllers {
        self.directories.controllers
    }

    /// The subtree that is ours.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How much memory there is to take a share of, in bytes.
    pub fn ram(&self) -> Bytes {
        root::ram(&self.root)
    }

    /// Whether this kernel can limit swap: v1 needs `swapaccount`.
    pub fn swap_is_limited(&self) -> bool {
        match self.layout() {
            Layout::Pure { .. } => self.controllers().memory,
            Layout::Hybrid { memory, .. } => {
                memory.as_ref().is_some_and(|mount| mount.point.join("memory.memsw.limit_in_bytes").exists())
            }
        }
    }

    /// The directory of a session.
    pub fn session_directory(&self, key: &SessionKey) -> PathBuf {
        self.root.join(MACHINE).join(key.as_str())
    }

    /// Which leaf a process in `membership` stands in, if it is one of this tree.
    pub fn locate(&self, membership: &Membership) -> Option<Caller> {
        let below = membership.v2.as_deref()?.strip_prefix(self.machine.as_str())?.strip_prefix('/')?;
        let mut parts = below.split('/');
        let key = SessionKey::parse(parts.next()?).ok()?;
        let leaf = LeafName::parse(parts.next()?).ok()?;
        Some(Caller { key, leaf, below: Realm::Host })
    }

    /// The leaves that stand in the tree now, for the daemon that takes over from one that died.
    pub fn leaves(&self) -> Result<Vec<Caller>, CgroupError> {
        let machine = Cgroup::open(self.root.join(MACHINE))?;
        let mut found = Vec::new();
        for name in machine.children()? {
            let Ok(key) = SessionKey::parse(&name) else { continue };
            for leaf in machine.child(&name)?.children()? {
                found.extend(LeafName::parse(&leaf).ok().map(|leaf| Caller {
                    key: key.clone(),
                    leaf,
                    below: Realm::Host,
                }));
            }
        }
        Ok(found)
    }

    /// Where the machine level of a caller is.
    pub fn machine_paths(&self, caller: &Membership) -> Result<GroupPaths, AdmitError> {
        self.directories.with_companions(self.root.join(MACHINE), caller)
    }

    /// Makes the leaf, sets all limits, moves the launcher in, and proves it from the kernel's own words.
    pub fn admit(&self, wanted: &Admission<'_>) -> Result<Leaf, Unplaced> {
        let from = Membership::of(wanted.pid).map_err(|_| AdmitError::LauncherGone)?;
        let towards = self.locate(&from).is_none().then_some(self.root.as_path());
        self.directories.admit(wanted, &from, towards)
    }

    /// Removes an empty leaf that no record tells of; one with processes is refused by the kernel.
    pub fn sweep_unknown(&self, at: &Caller) -> Result<(), CgroupError> {
        self.directories.sweep(at, &GroupPaths { v2: self.root.join(MACHINE), memory: None, pids: None })
    }

    /// Takes the tree's own directories back, as far as they are empty: at the daemon's end.
    pub fn close(&self) {
        root::close(&self.root, &self.changes);
    }
}
