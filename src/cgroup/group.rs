//! One of our cgroups, of any level: a v2 directory and, on a hybrid machine, its companions in v1 `memory` and `pids`.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};

use super::dir::{Cgroup, CgroupError};
use super::files;
use super::knobs::{self, KnobError, Version};
use super::oom::{self, OomEvents};
use crate::limits::Limits;

/// Which controllers hold limits on this machine, as found when the tree was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Controllers {
    /// `memory`, v2 or v1.
    pub memory: bool,
    /// `pids`, v2 or v1.
    pub pids: bool,
    /// `cpu`, v2 only.
    pub cpu: bool,
    /// `io`, v2 only.
    pub io: bool,
}

impl Controllers {
    /// Those that a v2 cgroup can hand on to its children: `cgroup.controllers`.
    pub fn of(cgroup: &Cgroup) -> Result<Self, CgroupError> {
        Ok(Self::listed(&cgroup.read("cgroup.controllers")?))
    }

    /// Those that the children of a v2 cgroup have: `cgroup.subtree_control`.
    pub fn enabled(cgroup: &Cgroup) -> Result<Self, CgroupError> {
        Ok(Self::listed(&cgroup.read("cgroup.subtree_control")?))
    }

    fn listed(list: &str) -> Self {
        let has = |name| list.split_whitespace().any(|word| word == name);
        Self { memory: has("memory"), pids: has("pids"), cpu: has("cpu"), io: has("io") }
    }

    /// Their names.
    pub fn words(self) -> Vec<&'static str> {
        let all = [(self.memory, "memory"), (self.pids, "pids"), (self.cpu, "cpu"), (self.io, "io")];
        all.into_iter().filter_map(|(holds, name)| holds.then_some(name)).collect()
    }

    /// Whether this one is among them.
    pub fn has(self, word: &str) -> bool {
        self.words().contains(&word)
    }
}

/// One level, machine, session or server, as one leaf sees it: its directories, which all leaves below it share, and how
/// much of what happened there is accounted for in this leaf.
#[derive(Debug)]
pub struct Group {
    held: Arc<Held>,
    /// How many of the times that it ran out of memory are accounted for.
    explained: AtomicU64,
}

/// The directories of one level, held once for all that stands in it.
#[derive(Debug)]
pub struct Held {
    /// Tracks and kills.
    pub(super) v2: Cgroup,
    /// v1 companion, on a hybrid machine.
    pub(super) memory: Option<Cgroup>,
    /// v1 companion, on a hybrid machine.
    pub(super) pids: Option<Cgroup>,
    /// What is known of memory kills by this level's limit.
    pub(super) oom: OomEvents,
}

impl Deref for Group {
    type Target = Held;

    fn deref(&self) -> &Held {
        &self.held
    }
}

/// Where the directories of a group are, for the record that lets a later daemon find them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupPaths {
    /// The v2 directory.
    pub v2: PathBuf,
    /// The v1 `memory` companion.
    pub memory: Option<PathBuf>,
    /// The v1 `pids` companion.
    pub pids: Option<PathBuf>,
}

impl GroupPaths {
    /// The directories of a child group.
    pub fn child(&self, name: &str) -> Self {
        let below = |path: &PathBuf| path.join(name);
        Self { v2: below(&self.v2), memory: self.memory.as_ref().map(below), pids: self.pids.as_ref().map(below) }
    }
}

impl Group {
    /// Opens the directories of a group that exists.
    pub fn open(paths: &GroupPaths) -> Result<Self, CgroupError> {
        let memory = paths.memory.as_ref().map(Cgroup::open).transpose()?;
        let pids = paths.pids.as_ref().map(Cgroup::open).transpose()?;
        Self::of(Cgroup::open(&paths.v2)?, memory, pids)
    }

    /// Opens what is left of a group of which somebody has removed directories. A companion that is gone is none.
    pub fn open_remains(paths: &GroupPaths) -> Result<Self, CgroupError> {
        let companion = |path: &Option<PathBuf>| match path.as_ref().map(Cgroup::open) {
            Some(Err(error)) if error.is_gone() => Ok(None),
            opened => opened.transpose(),
        };
        Self::of(Cgroup::open_or_removed(&paths.v2)?, companion(&paths.memory)?, companion(&paths.pids)?)
    }

    fn of(v2: Cgroup, memory: Option<Cgroup>, pids: Option<Cgroup>) -> Result<Self, CgroupError> {
        let oom = OomEvents::watch(memory.as_ref())?;
        Ok(Self::on(Arc::new(Held { v2, memory, pids, oom })))
    }

    /// The same directories for another leaf. What happened before explains nothing that happens in that from now on.
    pub(super) fn on(held: Arc<Held>) -> Self {
        let group = Self { held, explained: AtomicU64::new(0) };
        group.explain_oom();
        group
    }

    /// The directories, for as long as somebody else holds them.
    pub(super) fn held(&self) -> Weak<Held> {
        Arc::downgrade(&self.held)
    }

    /// Whether it is the same level, held once.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.held, &other.held)
    }

    /// Makes a child group in each hierarchy. It must be new: a leaf is single-use.
    pub fn make_child(&self, name: &str) -> Result<Self, CgroupError> {
        let v2 = self.v2.create_child(name)?;
        self.beside(v2, name, |parent| parent.make_child(name)).inspect_err(|_| {
            // Best effort: the caller removes the child by name as well.
            let _ = self.remove_child(name);
        })
    }

    /// Makes a child group where it is not there already, and tells whether all of it is new.
    pub fn ensure_child(&self, name: &str) -> Result<(Self, bool), CgroupError> {
        let (v2, mut is_new) = self.v2.ensure_child(name)?;
        let child = self.beside(v2, name, |parent| match parent.make_child(name) {
            Err(error) if error.exists() => {
                is_new = false;
                Ok(())
            }
            made => made,
        })?;
        Ok((child, is_new))
    }

    /// A child with the companions that `make` makes. What is there is killed and proved in v2, by a descriptor. Its companions
    /// need none: a leaf's have a name for ever, and a session's are used by whoever finds its v2 directory alive.
    fn beside(
        &self,
        v2: Cgroup,
        name: &str,
        mut make: impl FnMut(&Cgroup) -> Result<(), CgroupError>,
    ) -> Result<Self, CgroupError> {
        let mut companion = |parent: &Option<Cgroup>| {
            let made = |parent: &Cgroup| make(parent).and_then(|()| parent.child_by_name(name));
            parent.as_ref().map(made).transpose()
        };
        let (memory, pids) = (companion(&self.memory)?, companion(&self.pids)?);
        Self::of(v2, memory, pids)
    }

    /// Opens a child group that is there.
    pub fn child(&self, name: &str) -> Result<Self, CgroupError> {
        let companion = |parent: &Option<Cgroup>| parent.as_ref().map(|parent| parent.child_by_name(name)).transpose();
        Self::of(self.v2.child(name)?, companion(&self.memory)?, companion(&self.pids)?)
    }

    /// Removes a child group from each hierarchy, with whatever its processes made below it.
    pub fn remove_child(&self, name: &str) -> Result<(), CgroupError> {
        for companion in [&self.memory, &self.pids].into_iter().flatten() {
            companion.remove_tree(name)?;
        }
        self.v2.remove_tree(name)
    }

    /// Lets children use the controllers: `cgroup.subtree_control` (v2 only; v1 children always have theirs).
    pub fn delegate_controllers(&self, controllers: Controllers) -> Result<(), CgroupError> {
        if self.memory.is_some() || self.pids.is_some() {
            return Ok(());
        }
        let wanted: Vec<String> = controllers.words().iter().map(|word| format!("+{word}")).collect();
        if wanted.is_empty() { Ok(()) } else { self.v2.write("cgroup.subtree_control", &wanted.join(" ")) }
    }

    /// Sets the limits where each is held, and reads them back.
    pub fn set_limits(&self, limits: &Limits) -> Result<(), KnobError> {
        match &self.memory {
            Some(companion) => knobs::set_memory(companion, Version::V1, limits)?,
            None => knobs::set_memory(&self.v2, Version::V2, limits)?,
        }
        knobs::set_pids(self.pids.as_ref().unwrap_or(&self.v2), limits)?;
        knobs::set_cpu(&self.v2, limits)?;
        knobs::set_io(&self.v2, limits)
    }

    /// Whether it has any file that a limit could stand in.
    pub fn tells_limits(&self) -> bool {
        self.memory.is_some() || self.pids.is_some() || self.v2.has("memory.max") || self.v2.has("pids.max")
    }

    /// What the kernel holds now; what it does not tell is `None`.
    pub fn limits(&self) -> Limits {
        let memory = match &self.memory {
            Some(companion) => knobs::memory_limits(companion, Version::V1),
            None => knobs::memory_limits(&self.v2, Version::V2),
        };
        let other = knobs::other_limits(&self.v2, self.pids.as_ref().unwrap_or(&self.v2));
        Limits {
            memory_max: memory.memory_max,
            memory_high: memory.memory_high,
            memory_swap_max: memory.memory_swap_max,
            ..other
        }
    }

    /// Whether a v2 group whose limits somebody else sets (systemd's) holds these.
    pub fn verify_limits(&self, limits: &Limits) -> Result<(), KnobError> {
        knobs::verify(&self.v2, limits)
    }

    /// `memory.oom.group`: half a session is worse than none. v1 has no such file; there the driver kills on the event.
    pub fn die_as_one(&self) -> Result<(), CgroupError> {
        if self.memory.is_none() && self.v2.has("memory.oom.group") {
            self.v2.write("memory.oom.group", "1")?;
        }
        Ok(())
    }

    /// How often a fork was refused in it or below it: `max` of `pids.events`, where the limit stands
    /// (`pids.events.local` on kernels whose `pids.events` counts the children's too).
    pub fn pids_refusals(&self) -> u64 {
        self.pids_limit_hits().unwrap_or(0)
    }

    /// The same, as far as the kernel tells.
    pub fn pids_limit_hits(&self) -> Option<u64> {
        let cgroup = self.pids_events();
        let text = cgroup.read("pids.events.local").or_else(|_| cgroup.read("pids.events")).ok()?;
        files::keyed(&text, "max")
    }

    /// Whether its process limit is used up now.
    pub(super) fn pids_full(&self) -> bool {
        let cgroup = self.pids_events();
        let number = |file| cgroup.read(file).ok().and_then(|text| files::number(&text));
        number("pids.max").zip(number("pids.current")).is_some_and(|(max, current)| current >= max)
    }

    /// How often it ran out of memory since that was last accounted for.
    pub(super) fn oom_news(&self) -> u64 {
        self.oom.reached(&self.v2).saturating_sub(self.explained.load(Ordering::Relaxed))
    }

    /// v1: whether it was ever at its own memory limit.
    pub(super) fn was_at_its_v1_limit(&self) -> bool {
        self.memory.as_ref().is_some_and(oom::was_at_its_limit)
    }

    /// What it ran out of memory for so far is accounted for.
    pub(super) fn explain_oom(&self) {
        self.explained.fetch_max(self.oom.reached(&self.v2), Ordering::Relaxed);
    }

    /// Whether its memory is limited and counted in a v1 companion.
    pub fn has_memory_companion(&self) -> bool {
        self.memory.is_some()
    }

    /// Whether a refused fork is told by no event: v1 counts it in `pids.events` and, from Linux 6.12 on, wakes nobody.
    pub fn pids_are_polled(&self) -> bool {
        self.pids.is_some()
    }

    /// Where its directories are.
    pub fn paths(&self) -> GroupPaths {
        let path = |cgroup: &Cgroup| cgroup.path().to_owned();
        GroupPaths { v2: path(&self.v2), memory: self.memory.as_ref().map(path), pids: self.pids.as_ref().map(path) }
    }

    /// The v2 directory: what views call the cgroup.
    pub fn v2(&self) -> &Cgroup {
        &self.v2
    }

    /// The directory whose `pids.events` moves when this level's process limit is reached.
    pub fn pids_events(&self) -> &Cgroup {
        self.pids.as_ref().unwrap_or(&self.v2)
    }

    /// What wakes when the kernel runs out of memory in it: an eventfd on v1; on v2 `memory.events` is watched.
    pub fn oom_eventfd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.oom.eventfd()
    }
}
