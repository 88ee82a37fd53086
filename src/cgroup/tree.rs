//! The `cgroupfs` tree: `<root>/pinfold/<session>/<leaf>`, in a subtree that we may write.
//!
//! On a hybrid machine each caller's companions stand below the caller's own v1 cgroups, so that nobody leaves a limit
//! that already held; on pure v2 a launch that would leave one is refused.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use wildmatch::WildMatch;

use super::adjust::Adjusted;
use super::dir::{Cgroup, CgroupError};
use super::files::Membership;
use super::group::{Controllers, Group, GroupPaths, Make};
use super::knobs::KnobError;
use super::layout::{Layout, Mount};
use super::leaf::{Above, Leaf, has_exited, is_exiting};
use super::root;
use crate::limits::{Bytes, Limits};
use crate::naming::{LeafName, SessionKey};
use crate::policy::{Lowering, Pass};
use crate::session::ProcessId;

/// The directory of the machine level, below the root.
pub(super) const MACHINE: &str = "pinfold";

/// How the name of a companion's machine level begins, of this tree or another.
pub(super) const COMPANIONS: &str = "/pinfold.";

/// How often an admission begins anew because a session's last leaf was removed under it.
const TRIES: usize = 5;

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
    /// Where the machine level is for it ([`Tree::machine_paths`]), as its record has it.
    pub paths: &'a GroupPaths,
    /// Of all of pinfold.
    pub machine: Limits,
    /// Of the session.
    pub session: Limits,
    /// Of the leaf.
    pub server: Limits,
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
    #[error("moved the process to {wanted}, and the kernel tells {found:?}")]
    NotMoved {
        /// Where it should be.
        wanted: String,
        /// Where it is.
        found: Membership,
    },
    /// Its own cgroup cannot be seen from here: another cgroup namespace.
    #[error("the cgroup {0:?} of the process is not visible in this daemon's cgroup namespace")]
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
}

/// The tree of one daemon.
#[derive(Debug)]
pub struct Tree {
    layout: Layout,
    /// The subtree that is ours to write.
    root: PathBuf,
    /// What the companions' machine level is called below a caller's own v1 cgroup.
    companion: String,
    /// The kernel's path of `<root>/pinfold`.
    machine: String,
    controllers: Controllers,
    changes: root::Changes,
    _lock: OwnedFd,
    /// Held while the levels that launches share are made and limited, so that what one of them sets is what it reads back.
    shared_levels: Mutex<()>,
}

impl Tree {
    /// Opens the tree, makes what is missing and finds out which controllers hold limits in it.
    pub fn open(options: &root::TreeOptions) -> Result<Self, root::TreeError> {
        let opened = root::open(options)?;
        let machine_directory = opened.root.join(MACHINE);
        let digest = Sha256::digest(machine_directory.as_os_str().as_encoded_bytes());
        let tag: String = digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect();
        let machine = opened.layout.v2().cgroup(&machine_directory).ok_or(root::TreeError::OutsideMount {
            root: opened.root.clone(),
            mount: opened.layout.v2().point.clone(),
        })?;
        let tree = Self {
            layout: opened.layout,
            root: opened.root,
            companion: format!("{MACHINE}.{tag}"),
            machine,
            controllers: opened.controllers,
            changes: opened.changes,
            _lock: opened.lock,
            shared_levels: Mutex::default(),
        };
        if options.leave_host {
            tree.leave_companions()?;
        }
        Ok(tree)
    }

    /// A daemon that was started from inside a leaf, of whatever tree, would be killed with the leaf's companions.
    fn leave_companions(&self) -> Result<(), CgroupError> {
        let Layout::Hybrid { memory, pids, .. } = &self.layout else { return Ok(()) };
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
        &self.layout
    }

    /// Which controllers hold limits.
    pub fn controllers(&self) -> Controllers {
        self.controllers
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
        match &self.layout {
            Layout::Pure { .. } => self.controllers.memory,
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
        Some(Caller { key, leaf })
    }

    /// The leaves that stand in the tree now, for the daemon that takes over from one that died.
    pub fn leaves(&self) -> Result<Vec<Caller>, CgroupError> {
        let machine = Cgroup::open(self.root.join(MACHINE))?;
        let mut found = Vec::new();
        for name in machine.children()? {
            let Ok(key) = SessionKey::parse(&name) else { continue };
            for leaf in machine.child(&name)?.children()? {
                found.extend(LeafName::parse(&leaf).ok().map(|leaf| Caller { key: key.clone(), leaf }));
            }
        }
        Ok(found)
    }

    /// Where the machine level of a caller is.
    pub fn machine_paths(&self, caller: &Membership) -> Result<GroupPaths, AdmitError> {
        let companion = |mount: &Option<Mount>, cgroup: &Option<String>| -> Result<_, AdmitError> {
            match (mount, cgroup) {
                (Some(mount), Some(cgroup)) => {
                    // A launch from inside a leaf: its companions are siblings, below the same caller's cgroup.
                    let outside = cgroup.split(&format!("/{}/", self.companion)).next().unwrap_or(cgroup);
                    let own = mount.directory(outside).ok_or_else(|| AdmitError::Invisible(caller.clone()))?;
                    Ok(Some(own.join(&self.companion)))
                }
                _ => Ok(None),
            }
        };
        let v2 = self.root.join(MACHINE);
        match &self.layout {
            Layout::Pure { .. } => Ok(GroupPaths { v2, memory: None, pids: None }),
            Layout::Hybrid { memory, pids, .. } => {
                Ok(GroupPaths { v2, memory: companion(memory, &caller.memory)?, pids: companion(pids, &caller.pids)? })
            }
        }
    }

    /// Makes the leaf, sets all limits, moves the launcher in, and proves it from the kernel's own words.
    pub fn admit(&self, wanted: &Admission<'_>) -> Result<Leaf, Unplaced> {
        let from = Membership::of(wanted.pid).map_err(|_| AdmitError::LauncherGone)?;
        self.refuse_shedding(&from)?;
        let leaf = self.make_leaf(wanted.paths, wanted)?;
        match self.move_in(&leaf, wanted.pid, wanted.pidfd) {
            Ok(()) => Ok(leaf),
            Err(error) => {
                // The launcher still has to print why: it goes back to where it came from, if it can.
                self.move_back(&from, wanted);
                let left = leaf.remove().is_err().then(|| Box::new(leaf));
                Err(Unplaced { error, left })
            }
        }
    }

    fn make_leaf(&self, paths: &GroupPaths, wanted: &Admission<'_>) -> Result<Leaf, AdmitError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_make_leaf(paths, wanted) {
                // The session's last server was removed, and the session's directory with it, between two steps here.
                Err(AdmitError::Cgroup(error) | AdmitError::Knob(KnobError::Cgroup(error)))
                    if error.is_gone() && tries < TRIES => {}
                other => return other,
            }
        }
    }

    fn try_make_leaf(&self, paths: &GroupPaths, wanted: &Admission<'_>) -> Result<Leaf, AdmitError> {
        let (machine, session) = self.make_shared_levels(paths, wanted)?;
        let group = session.make_child(wanted.leaf.as_str(), Make::New)?;
        let limited = group.set_limits(&wanted.server).map_err(AdmitError::from);
        let limited = limited.and_then(|()| Ok(group.die_as_one()?));
        if let Err(error) = limited {
            let _ = session.remove_child(wanted.leaf.as_str());
            return Err(error);
        }
        Ok(self.leaf(wanted.key, wanted.leaf, [machine, session, group]))
    }

    fn make_shared_levels(&self, paths: &GroupPaths, wanted: &Admission<'_>) -> Result<(Group, Group), AdmitError> {
        let _alone = self.shared_levels.lock().unwrap_or_else(PoisonError::into_inner);
        for path in [Some(&paths.v2), paths.memory.as_ref(), paths.pids.as_ref()].into_iter().flatten() {
            root::ensure_directory(path)?;
        }
        let machine = Group::open(paths)?;
        limit_shared(&machine, &wanted.machine)?;
        machine.delegate_controllers(self.controllers)?;
        let session = machine.make_child(wanted.key.as_str(), Make::Ensure)?;
        limit_shared(&session, &wanted.session)?;
        session.delegate_controllers(self.controllers)?;
        Ok((machine, session))
    }

    /// Changes the limits of a level that launches share, in place.
    pub fn adjust(
        &self,
        group: &Group,
        wanted: &Limits,
        how: (Pass, Lowering),
        below: &[&Group],
    ) -> Adjusted<KnobError> {
        let _alone = self.shared_levels.lock().unwrap_or_else(PoisonError::into_inner);
        group.adjust(wanted, how, below, |limits| group.set_limits(limits))
    }

    /// Opens a leaf that an earlier daemon made.
    pub fn adopt(&self, at: &Caller, paths: &GroupPaths) -> Result<Leaf, CgroupError> {
        let machine = Group::open(paths)?;
        let session = Group::open(&paths.child(at.key.as_str()))?;
        let group = Group::open(&paths.child(at.key.as_str()).child(at.leaf.as_str()))?;
        Ok(self.leaf(&at.key, &at.leaf, [machine, session, group]))
    }

    /// Opens what is left of a leaf of which somebody has removed directories.
    pub fn adopt_remains(&self, at: &Caller, paths: &GroupPaths) -> Result<Leaf, CgroupError> {
        let session = paths.child(at.key.as_str());
        let groups = [paths, &session, &session.child(at.leaf.as_str())].map(Group::open_remains);
        let [machine, session, group] = groups;
        Ok(self.leaf(&at.key, &at.leaf, [machine?, session?, group?]))
    }

    fn leaf(&self, key: &SessionKey, leaf: &LeafName, [machine, session, group]: [Group; 3]) -> Leaf {
        let cgroup = format!("{}/{}/{}", self.machine, key.as_str(), leaf.as_str());
        Leaf::new(
            leaf.clone(),
            group,
            Above { session: Arc::new(session), machine: Arc::new(machine), scope: None },
            cgroup,
        )
    }

    /// Moves a process, held by its pidfd, into a leaf and its companions, and proves it from the kernel's own words.
    pub(super) fn put(&self, leaf: &Leaf, pid: i32, pidfd: BorrowedFd<'_>) -> Result<(), AdmitError> {
        let group = leaf.group();
        let alive = || if has_exited(pidfd) { Err(AdmitError::LauncherGone) } else { Ok(()) };
        alive()?;
        for directory in [group.memory.as_ref(), group.pids.as_ref(), Some(&group.v2)].into_iter().flatten() {
            match directory.write("cgroup.procs", &pid.to_string()) {
                Err(error) if error.is_gone() => {
                    alive()?;
                    return Err(error.into());
                }
                other => other?,
            }
        }
        // A zombie is moved "successfully": only a live process whose place the kernel tells is placed.
        alive()?;
        let found = Membership::of(pid).map_err(|_| AdmitError::LauncherGone)?;
        let expected = |directory: &Option<Cgroup>, mount: Option<&Mount>, found: &Option<String>| match directory {
            Some(directory) => mount.and_then(|mount| mount.cgroup(directory.path())) == *found,
            None => true,
        };
        let (memory, pids) = match &self.layout {
            Layout::Pure { .. } => (None, None),
            Layout::Hybrid { memory, pids, .. } => (memory.as_ref(), pids.as_ref()),
        };
        let placed = leaf.holds(&found)
            && expected(&group.memory, memory, &found.memory)
            && expected(&group.pids, pids, &found.pids);
        if placed && leaf.populated()? {
            return Ok(());
        }
        if is_exiting(pidfd) {
            return Err(AdmitError::LauncherGone);
        }
        Err(AdmitError::NotMoved { wanted: group.v2.path().display().to_string(), found })
    }

    fn move_back(&self, from: &Membership, wanted: &Admission<'_>) {
        let (memory, pids) = match &self.layout {
            Layout::Pure { .. } => (None, None),
            Layout::Hybrid { memory, pids, .. } => (memory.as_ref(), pids.as_ref()),
        };
        for (mount, cgroup) in [(memory, &from.memory), (pids, &from.pids), (Some(self.layout.v2()), &from.v2)] {
            let directory = mount.zip(cgroup.as_deref()).and_then(|(mount, cgroup)| mount.directory(cgroup));
            // Once it is gone its number may be a stranger's.
            let directory = directory.filter(|_| !has_exited(wanted.pidfd));
            if let Some(directory) = directory.and_then(|path| Cgroup::open(path).ok()) {
                // Where it may not go back, it exits where it is: its leaf waits for that before it is removed.
                let _ = directory.write("cgroup.procs", &wanted.pid.to_string());
            }
        }
    }

    /// A launcher leaves what is attached to the cgroups between its own and what it has in common with our tree, and on
    /// pure v2 their limits.
    fn refuse_shedding(&self, from: &Membership) -> Result<(), AdmitError> {
        let (v2, limited) = (self.layout.v2(), matches!(self.layout, Layout::Pure { .. }));
        if self.locate(from).is_some() {
            return Ok(());
        }
        let invisible = || AdmitError::Invisible(from.clone());
        let mut place = from.v2.as_deref().and_then(|cgroup| v2.directory(cgroup)).ok_or_else(invisible)?;
        while !self.root.starts_with(&place) && place != v2.point {
            let cgroup = Cgroup::open(&place)?;
            if let Some(program) = cgroup.programs().first() {
                return Err(AdmitError::ShedsProgram { kind: program.word(), cgroup: place });
            }
            for file in ["memory.max", "memory.high", "memory.swap.max", "pids.max", "cpu.max"] {
                let Some(value) = cgroup.read(file).ok().filter(|_| limited) else { continue };
                let value = value.trim();
                if !value.starts_with("max") {
                    return Err(AdmitError::Sheds { file, value: value.to_owned(), cgroup: place });
                }
            }
            let Some(above) = place.parent() else { break };
            place = above.to_owned();
        }
        Ok(())
    }

    /// Removes a session's directories once its last leaf is gone, and the companions' machine level if nobody else
    /// uses it: it stands in a cgroup that is not ours, whose owner could not remove it while ours is there.
    /// That a session is in use again is no error.
    pub fn remove_session(&self, key: &SessionKey, above: &[GroupPaths]) -> Result<(), CgroupError> {
        for machine in above {
            for directory in [machine.memory.as_ref(), machine.pids.as_ref(), Some(&machine.v2)].into_iter().flatten() {
                let cgroup = match Cgroup::open(directory) {
                    Ok(cgroup) => cgroup,
                    Err(error) if error.is_gone() => continue,
                    Err(error) => return Err(error),
                };
                match cgroup.remove_child(key.as_str()) {
                    Err(error) if !error.is_busy() => return Err(error),
                    _ => {}
                }
                if *directory != machine.v2 {
                    root::remove_if_empty(directory);
                }
            }
        }
        Ok(())
    }

    /// Removes an empty leaf that a dead daemon left, with its companions, as far as they were made.
    pub fn sweep(&self, at: &Caller, machine: &GroupPaths) -> Result<(), CgroupError> {
        let session = machine.child(at.key.as_str());
        for directory in [session.memory, session.pids, Some(session.v2)].into_iter().flatten() {
            match Cgroup::open(directory).and_then(|session| session.remove_tree(at.leaf.as_str())) {
                Err(error) if !error.is_gone() => return Err(error),
                _ => {}
            }
        }
        self.remove_session(&at.key, std::slice::from_ref(machine))
    }

    /// Removes an empty leaf that no record tells of; one with processes is refused by the kernel.
    pub fn sweep_unknown(&self, at: &Caller) -> Result<(), CgroupError> {
        self.sweep(at, &GroupPaths { v2: self.root.join(MACHINE), memory: None, pids: None })
    }

    /// Takes the tree's own directories back, as far as they are empty: at the daemon's end.
    pub fn close(&self) {
        root::close(&self.root, &self.changes);
    }
}

/// Limits a level that may have others in it. What would be below what they use is left: no launch ends another.
fn limit_shared(group: &Group, wanted: &Limits) -> Result<(), KnobError> {
    let adjusted = group.adjust(wanted, (Pass::Both, Lowering::NotBelowUsage), &[], |limits| group.set_limits(limits));
    adjusted.error.map_or(Ok(()), Err)
}
