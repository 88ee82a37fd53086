//! What a session looks like as directories: `<machine level>/<session>/<leaf>`, wherever the machine level stands.
//!
//! It stands in the subtree of a [`super::Tree`], or below the cgroup of a container, whose limits and whatever else is
//! attached there then hold for its servers as well. On a hybrid machine each caller's companions stand below the caller's own
//! v1 cgroups, so that nobody leaves a limit that already held; on pure v2 a launch that would leave one is refused.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::adjust::Adjusted;
use super::containers::MOVED;
use super::dir::{Cgroup, CgroupError};
use super::files::Membership;
use super::group::{Controllers, Group, GroupPaths};
use super::knobs::KnobError;
use super::layout::{Layout, Mount};
use super::leaf::{Above, Leaf, has_exited, is_exiting};
use super::levels::Levels;
use super::root;
use super::tree::{Admission, AdmitError, Caller, MACHINE, Unplaced};
use crate::limits::Limits;
use crate::naming::{LeafName, SessionKey};
use crate::policy::{Lowering, Pass};
use crate::realm::Container;

/// How often an admission begins anew because a session's last leaf was removed under it.
const TRIES: usize = 5;

/// Makes, opens and removes them.
#[derive(Debug)]
pub struct Directories {
    pub(super) layout: Layout,
    /// What the machine level is called below a cgroup that is not ours: a container's, and a caller's own v1 cgroup.
    pub(super) companion: String,
    /// Those that hold limits in our own subtree.
    pub(super) controllers: Controllers,
    /// Held while the levels that launches share are made and limited, so that what one of them sets is what it reads back.
    shared_levels: Mutex<()>,
    levels: Levels,
}

impl Directories {
    /// Those of the daemon whose own machine level is this directory.
    pub fn of(layout: Layout, machine: &Path, controllers: Controllers) -> Self {
        let digest = Sha256::digest(machine.as_os_str().as_encoded_bytes());
        let tag: String = digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect();
        Self {
            layout,
            companion: format!("{MACHINE}.{tag}"),
            controllers,
            shared_levels: Mutex::default(),
            levels: Levels::default(),
        }
    }

    /// What is mounted here.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where a machine level has its companions for this caller, on a hybrid machine.
    pub(super) fn with_companions(&self, v2: PathBuf, caller: &Membership) -> Result<GroupPaths, AdmitError> {
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
        match &self.layout {
            Layout::Pure { .. } => Ok(GroupPaths { v2, memory: None, pids: None }),
            Layout::Hybrid { memory, pids, .. } => {
                Ok(GroupPaths { v2, memory: companion(memory, &caller.memory)?, pids: companion(pids, &caller.pids)? })
            }
        }
    }

    /// Where the machine level of a caller in a container is.
    pub fn machine_paths(&self, container: &Container, caller: &Membership) -> Result<GroupPaths, AdmitError> {
        let directory = self.layout.v2().directory(container.cgroup());
        let directory = directory.ok_or_else(|| AdmitError::Invisible(caller.clone()))?;
        self.with_companions(directory.join(&self.companion), caller)
    }

    /// Whether this machine level stands below a container's cgroup.
    pub fn is_below(&self, machine: &GroupPaths) -> bool {
        machine.v2.file_name().is_some_and(|name| name == self.companion.as_str())
    }

    /// Which leaf below a container a process in `membership` stands in, as far as names tell: a container that may write its
    /// cgroups can make such directories itself, so the session has to be that container's.
    pub fn locate(&self, membership: &Membership) -> Option<Caller> {
        let (container, below) = membership.v2.as_deref()?.split_once(&format!("/{}/", self.companion))?;
        let mut parts = below.split('/');
        let key = SessionKey::parse(parts.next()?).ok()?;
        let leaf = LeafName::parse(parts.next()?).ok()?;
        Some(Caller { key, leaf, below: Container::at(container).realm() })
    }

    /// Places a launcher in a new leaf below the cgroup of its container, and proves it.
    pub fn admit_below(&self, wanted: &Admission<'_>) -> Result<Leaf, Unplaced> {
        let from = Membership::of(wanted.pid).map_err(|_| AdmitError::LauncherGone)?;
        let container = wanted.paths.v2.parent().unwrap_or(&wanted.paths.v2);
        // From one leaf of a session to another; the session was compared when the launch was decided.
        let towards = self.locate(&from).is_none_or(|caller| caller.key != *wanted.key).then_some(container);
        self.admit(wanted, &from, towards)
    }

    /// Makes the leaf, sets all limits, moves the launcher in, and proves it from the kernel's own words. Whoever comes from
    /// outside may not leave what holds it on its way `towards` a directory.
    pub(super) fn admit(
        &self,
        wanted: &Admission<'_>,
        from: &Membership,
        towards: Option<&Path>,
    ) -> Result<Leaf, Unplaced> {
        towards.map_or(Ok(()), |towards| self.refuse_shedding(from, towards))?;
        let leaf = self.make_leaf(wanted.paths, wanted)?;
        match self.move_in(&leaf, wanted.pid, wanted.pidfd) {
            Ok(()) => Ok(leaf),
            Err(error) => {
                // The launcher still has to print why: it goes back to where it came from, if it can.
                self.move_back(from, wanted);
                let left = leaf.remove().is_err().then(|| Box::new(leaf));
                Err(Unplaced { error, left })
            }
        }
    }

    /// Which controllers the children of a machine level are given. Below a container it takes that nobody stands in the
    /// container's own cgroup: its processes are moved out of the way, where that is allowed.
    fn controllers_of(&self, machine: &GroupPaths, move_processes: bool) -> Result<Controllers, CgroupError> {
        let container = machine.v2.parent().filter(|_| self.is_below(machine));
        let Some(container) = container.filter(|_| matches!(self.layout, Layout::Pure { .. })) else {
            return Ok(self.controllers);
        };
        let container = Cgroup::open(container)?;
        if move_processes {
            let offered = Controllers::of(&container)?.words();
            for word in
                offered.into_iter().filter(|word| !Controllers::enabled(&container).is_ok_and(|on| on.has(word)))
            {
                let enable = || container.write("cgroup.subtree_control", &format!("+{word}"));
                match enable() {
                    Err(error) if error.is_busy() => {
                        root::empty_into(&container, MOVED)?;
                        enable()?;
                    }
                    other => other?,
                }
            }
        }
        Controllers::enabled(&container)
    }

    fn make_leaf(&self, paths: &GroupPaths, wanted: &Admission<'_>) -> Result<Leaf, AdmitError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_make_leaf(paths, wanted) {
                // The session's last server was removed, and the session's directory with it, between two steps here.
                Err(AdmitError::Cgroup(error) | AdmitError::Knob(KnobError::Cgroup(error)))
                    if error.is_gone() && tries < TRIES =>
                {
                    self.levels.forget(paths);
                    self.levels.forget(&paths.child(wanted.key.as_str()));
                }
                other => return other,
            }
        }
    }

    fn try_make_leaf(&self, paths: &GroupPaths, wanted: &Admission<'_>) -> Result<Leaf, AdmitError> {
        let (machine, session) = self.make_shared_levels(paths, wanted)?;
        let group = session.make_child(wanted.leaf.as_str())?;
        let limited = group.set_limits(&wanted.server).map_err(AdmitError::from);
        let limited = limited.and_then(|()| Ok(group.die_as_one()?));
        if let Err(error) = limited {
            let _ = session.remove_child(wanted.leaf.as_str());
            return Err(error);
        }
        Ok(self.leaf(wanted.key, wanted.leaf, [machine, session, group])?)
    }

    fn make_shared_levels(&self, paths: &GroupPaths, wanted: &Admission<'_>) -> Result<(Group, Group), AdmitError> {
        let _alone = self.shared_levels.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = self.levels.find_or(paths, || {
            for path in [Some(&paths.v2), paths.memory.as_ref(), paths.pids.as_ref()].into_iter().flatten() {
                root::ensure_directory(path)?;
            }
            Group::open(paths)
        })?;
        let controllers = self.controllers_of(paths, wanted.move_processes)?;
        limit_shared(&machine, &wanted.machine)?;
        machine.delegate_controllers(controllers)?;
        let key = wanted.key.as_str();
        let mut is_new = false;
        let session = self.levels.find_or(&paths.child(key), || {
            let (session, made) = machine.ensure_child(key)?;
            is_new = made;
            Ok(session)
        })?;
        // Of one that nobody was in yet there is no usage to look at.
        if is_new {
            session.set_limits(&wanted.session)?
        } else {
            limit_shared(&session, &wanted.session)?
        }
        session.delegate_controllers(controllers)?;
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
        let session_paths = paths.child(at.key.as_str());
        let machine = self.levels.find_or(paths, || Group::open(paths))?;
        let session = self.levels.find_or(&session_paths, || machine.child(at.key.as_str()))?;
        let group = session.child(at.leaf.as_str())?;
        self.leaf(&at.key, &at.leaf, [machine, session, group])
    }

    /// Opens what is left of a leaf of which somebody has removed directories.
    pub fn adopt_remains(&self, at: &Caller, paths: &GroupPaths) -> Result<Leaf, CgroupError> {
        let session = paths.child(at.key.as_str());
        let groups = [paths, &session, &session.child(at.leaf.as_str())].map(Group::open_remains);
        let [machine, session, group] = groups;
        self.leaf(&at.key, &at.leaf, [machine?, session?, group?])
    }

    fn leaf(
        &self,
        key: &SessionKey,
        leaf: &LeafName,
        [machine, session, group]: [Group; 3],
    ) -> Result<Leaf, CgroupError> {
        let level = machine.paths().v2;
        let above = self.layout.v2().cgroup(&level).ok_or_else(|| CgroupError::gone(level))?;
        let cgroup = format!("{above}/{}/{}", key.as_str(), leaf.as_str());
        let above = Above { session: Arc::new(session), machine: Arc::new(machine), scope: None };
        Ok(Leaf::new(leaf.clone(), group, above, cgroup))
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

    /// A launcher leaves what is attached to the cgroups between its own and what it has in common with a directory, and on
    /// pure v2 their limits.
    fn refuse_shedding(&self, from: &Membership, towards: &Path) -> Result<(), AdmitError> {
        let (v2, limited) = (self.layout.v2(), matches!(self.layout, Layout::Pure { .. }));
        let invisible = || AdmitError::Invisible(from.clone());
        let mut place = from.v2.as_deref().and_then(|cgroup| v2.directory(cgroup)).ok_or_else(invisible)?;
        while !towards.starts_with(&place) && place != v2.point {
            let cgroup = Cgroup::open(&place)?;
            if let Some(program) = cgroup.programs().unwrap_or_default().first() {
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
                if *directory != machine.v2 || self.is_below(machine) {
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
}

/// Limits a level that may have others in it. What would be below what they use is left: no launch ends another.
fn limit_shared(group: &Group, wanted: &Limits) -> Result<(), KnobError> {
    let adjusted = group.adjust(wanted, (Pass::Both, Lowering::NotBelowUsage), &[], |limits| group.set_limits(limits));
    adjusted.error.map_or(Ok(()), Err)
}
