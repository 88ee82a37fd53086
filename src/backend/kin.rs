//! A process that runs already goes into a leaf with all that it has started, or none of it does.
//!
//! The first process is placed as a launcher is. Whatever it starts from then on is born in the leaf, so only what was there
//! before is to be fetched: passes through its tree go on until two of them in a row found nothing outside. What fails sends
//! all of it back to where it stood. No process is ever signalled here.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::{AdmitError, Backend, Unplaced};
use crate::cgroup::{
    Admission, AdmitError as CgroupAdmitError, Caller, Cgroup, Layout, Leaf, Membership, Mount, has_exited, is_exiting,
};
use crate::policy::{Member, Refusal};
use crate::process::{self, Family};
use crate::realm::Realm;
use crate::session::ProcessId;

/// The most processes of one tree.
pub const MEMBERS_MAX: usize = 4096;

/// How many passes in a row must find nothing outside.
const QUIET: usize = 2;

/// How many passes there are at most.
const PASSES_MAX: usize = 200;

/// How long they may take together, and as long again on the way back. A move waits for all CPUs (the kernel's
/// cgroup_threadgroup_rwsem), which takes a busy machine some 20 ms for each process.
const SPAN_MAX: Duration = Duration::from_secs(40);

/// The tree of a process that is to be moved.
pub struct Kin<'a> {
    /// The process that was named.
    pub leader: ProcessId,
    /// The tree as it was when it was looked at first: whoever lost its parent since then is one of them still.
    pub known: &'a [ProcessId],
    /// Whether one of them may be moved.
    pub may: &'a dyn Fn(&Member) -> Result<(), Refusal>,
}

/// Why a tree was not moved.
#[derive(Debug, thiserror::Error)]
pub enum KinError {
    /// One of it may not be.
    #[error("{}", .0.reason)]
    Forbidden(Refusal),
    /// One of it stands elsewhere: moving it would take it out of whatever holds it there.
    #[error(
        "process {pid}, which is in the tree of process {leader}, stands in the cgroup {found:?}, and not where process \
         {leader} was, {from:?}"
    )]
    Elsewhere {
        /// Which.
        pid: i32,
        /// Whose tree it is.
        leader: i32,
        /// Where it is.
        found: String,
        /// Where it should be.
        from: String,
    },
    /// There are too many.
    #[error("process {0} has more than {MEMBERS_MAX} processes in its tree")]
    TooMany(i32),
    /// New ones were found outside in every pass.
    #[error(
        "the tree of process {leader} still had processes outside the leaf after {passes} passes and {} s", span.as_secs()
    )]
    Restless {
        /// Whose tree it is.
        leader: i32,
        /// How many passes.
        passes: usize,
        /// How long they took.
        span: Duration,
    },
    /// The named process is in a leaf by now.
    #[error("process {0} came into a leaf while it was looked at")]
    There(i32),
    /// The named process is gone, or has left the leaf.
    #[error("process {0} exited, or was moved elsewhere, while its tree was moved")]
    LeaderGone(i32),
    /// The processes of the machine cannot be listed.
    #[error("the tree of a process cannot be read from /proc")]
    Unreadable(#[source] std::io::Error),
    /// The kernel, or a manager, refused to move one.
    #[error("process {pid} of the tree of process {leader} cannot be moved")]
    Refused {
        /// Which.
        pid: i32,
        /// Whose tree it is.
        leader: i32,
        /// Why not.
        #[source]
        source: Box<AdmitError>,
    },
}

impl KinError {
    /// What whoever asked is told.
    pub(super) fn refusal(&self) -> Refusal {
        let remedy = match self {
            Self::Forbidden(refusal) => return refusal.clone(),
            Self::Elsewhere { pid, .. } => {
                format!("adopt process {pid} for itself first, or limit and stop it where it is")
            }
            Self::TooMany(_) => "adopt parts of it".to_owned(),
            Self::Restless { .. } => "adopt it when it starts fewer processes at a time".to_owned(),
            Self::There(_) => "`pinfold status --pid` shows it".to_owned(),
            Self::LeaderGone(_) => "name one of those that it left behind, if there are any".to_owned(),
            Self::Unreadable(_) | Self::Refused { .. } => "`pinfold doctor` tells what holds here".to_owned(),
        };
        Refusal { reason: crate::chain::chain(self), remedy }
    }
}

/// What became of one process in one pass.
enum Taken {
    /// It was outside, and is in the leaf.
    Moved,
    /// It was in the leaf already.
    There,
    /// It is in another leaf, with all that it starts: it is contained.
    Contained,
    /// It has exited.
    Gone,
}

impl Backend {
    /// Places a process that runs already in a new leaf, with its whole tree.
    pub fn admit_tree(&self, wanted: &Admission<'_>, kin: &Kin<'_>) -> Result<Leaf, Unplaced> {
        let from =
            Membership::of(wanted.pid).map_err(|_| KinError::LeaderGone(wanted.pid)).map_err(AdmitError::from)?;
        // It was outside when that was looked at, and has launched itself since then.
        if self.locate(&from).is_some() {
            return Err(AdmitError::from(KinError::There(wanted.pid)).into());
        }
        let unplaced = match self.admit(wanted) {
            Ok(leaf) => match self.gather(&leaf, &from, wanted.pidfd, kin) {
                Ok(()) => return Ok(leaf),
                Err(error) => Unplaced { error: error.into(), left: Some(Box::new(leaf)) },
            },
            Err(Unplaced { error: AdmitError::Cgroup(CgroupAdmitError::LauncherGone), left }) => {
                Unplaced { error: KinError::LeaderGone(wanted.pid).into(), left }
            }
            Err(unplaced) => unplaced,
        };
        let Unplaced { error, left } = unplaced;
        let place = Caller { key: wanted.key.clone(), leaf: wanted.leaf.clone(), below: Realm::Host };
        let left = self.send_back(&place, left.map(|leaf| *leaf), &from, kin.known.iter().copied().chain([kin.leader]));
        Err(Unplaced { error, left: left.map(Box::new) })
    }

    /// Sends back what a daemon that died had begun to move; gives the leaf where some of it stays there.
    pub fn undo_move(&self, at: &Caller, leaf: Leaf, from: &Membership, leader: ProcessId) -> Option<Leaf> {
        self.send_back(at, Some(leaf), from, std::iter::once(leader))
    }

    /// Fetches the rest of a tree whose first process is in its leaf.
    fn gather(&self, leaf: &Leaf, from: &Membership, leader: BorrowedFd<'_>, kin: &Kin<'_>) -> Result<(), KinError> {
        let start = Instant::now();
        let mut known: BTreeSet<ProcessId> = kin.known.iter().copied().chain([kin.leader]).collect();
        let (mut passes, mut quiet) = (0, 0);
        while quiet < QUIET {
            if passes == PASSES_MAX || start.elapsed() > SPAN_MAX {
                return Err(KinError::Restless { leader: kin.leader.pid, passes, span: start.elapsed() });
            }
            passes += 1;
            let found_outside = self.pass(leaf, from, kin, &mut known)?;
            quiet = if found_outside { 0 } else { quiet + 1 };
        }
        let is_there = Membership::of(kin.leader.pid).is_ok_and(|place| leaf.holds(&place));
        if is_there && !has_exited(leader) { Ok(()) } else { Err(KinError::LeaderGone(kin.leader.pid)) }
    }

    /// Looks at all of the tree once, parents before their children; tells whether any of it was outside.
    fn pass(
        &self,
        leaf: &Leaf,
        from: &Membership,
        kin: &Kin<'_>,
        known: &mut BTreeSet<ProcessId>,
    ) -> Result<bool, KinError> {
        let family = Family::now().map_err(KinError::Unreadable)?;
        known.retain(|id| family.has(*id));
        let mut queue: VecDeque<ProcessId> = std::iter::once(kin.leader).chain(known.iter().copied()).collect();
        let (mut seen, mut found_outside) = (HashSet::new(), false);
        while let Some(id) = queue.pop_front() {
            if !seen.insert(id) {
                continue;
            }
            match self.take(leaf, from, kin, id)? {
                Taken::Moved => found_outside = true,
                Taken::There => {}
                Taken::Contained | Taken::Gone => continue,
            }
            known.insert(id);
            if known.len() > MEMBERS_MAX {
                return Err(KinError::TooMany(kin.leader.pid));
            }
            queue.extend(family.children(id));
        }
        Ok(found_outside)
    }

    /// Moves one process into the leaf, unless it is there.
    fn take(&self, leaf: &Leaf, from: &Membership, kin: &Kin<'_>, id: ProcessId) -> Result<Taken, KinError> {
        let held = process::hold(id).filter(|pidfd| !has_exited(pidfd.as_fd()));
        let (Some(pidfd), Ok(place)) = (held, Membership::of(id.pid)) else { return Ok(Taken::Gone) };
        let path = Path::of(self.layout(), leaf, from);
        if path.is_at_its_end(leaf, &place) {
            return Ok(Taken::There);
        }
        if self.locate(&place).is_some_and(|other| other.leaf != *leaf.name()) {
            return Ok(Taken::Contained);
        }
        let Ok(member) = process::member(id) else { return Ok(Taken::Gone) };
        (kin.may)(&member).map_err(KinError::Forbidden)?;
        if let Some((found, from)) = path.is_left(leaf, &place) {
            // What is told of one that exits is not where it stood.
            if is_exiting(pidfd.as_fd()) {
                return Ok(Taken::Gone);
            }
            return Err(KinError::Elsewhere { pid: id.pid, leader: kin.leader.pid, found, from });
        }
        match self.move_in(leaf, id.pid, &pidfd) {
            Ok(()) => Ok(Taken::Moved),
            Err(AdmitError::Cgroup(CgroupAdmitError::LauncherGone)) => Ok(Taken::Gone),
            Err(error) => Err(KinError::Refused { pid: id.pid, leader: kin.leader.pid, source: Box::new(error) }),
        }
    }

    fn move_in(&self, leaf: &Leaf, pid: i32, pidfd: &OwnedFd) -> Result<(), AdmitError> {
        match self {
            Self::Cgroupfs(tree) => Ok(tree.directories().move_in(leaf, pid, pidfd.as_fd())?),
            Self::Systemd(units) => units.move_in(leaf, pid, pidfd.as_fd()),
        }
    }

    /// Sends what was moved back to where it stood, and removes the leaf. It is left where the kernel lets some of it not go:
    /// a user's daemon may not write in the cgroup that another's session has.
    fn send_back(
        &self,
        at: &Caller,
        leaf: Option<Leaf>,
        from: &Membership,
        known: impl Iterator<Item = ProcessId>,
    ) -> Option<Leaf> {
        let start = Instant::now();
        let path = leaf.as_ref().map(|leaf| (leaf, Path::of(self.layout(), leaf, from)));
        // Of a scope that was started and did not come as far as to have a leaf.
        let scope = format!("/{}", at.key.scope(at.leaf.launch()));
        let is_ours = |place: &Membership| {
            path.as_ref().is_some_and(|(leaf, path)| path.is_begun(leaf, place))
                || place.v2.as_ref().is_some_and(|cgroup| cgroup.ends_with(&scope))
        };
        let mut known: BTreeSet<ProcessId> = known.collect();
        for _ in 0..PASSES_MAX {
            let Ok(family) = Family::now() else { break };
            let in_leaf = leaf.as_ref().and_then(|leaf| all_in(leaf).ok()).unwrap_or_default();
            known.extend(in_leaf.into_iter().filter_map(|pid| process::identify(pid).ok()));
            known.extend(known.clone().into_iter().flat_map(|id| family.children(id)).collect::<Vec<_>>());
            known.retain(|id| family.has(*id));
            let returned: Vec<bool> = known.iter().map(|id| self.return_one(from, &is_ours, *id)).collect();
            if !returned.contains(&true) || start.elapsed() > SPAN_MAX {
                break;
            }
        }
        leaf.filter(|leaf| leaf.remove().is_err())
    }

    /// Moves one process back; tells whether it was in what is ours and now stands where it stood.
    fn return_one(&self, from: &Membership, is_ours: &dyn Fn(&Membership) -> bool, id: ProcessId) -> bool {
        let held = process::hold(id).filter(|pidfd| !has_exited(pidfd.as_fd()));
        let (Some(held), Ok(place)) = (held, Membership::of(id.pid)) else { return false };
        if !is_ours(&place) {
            return false;
        }
        let layout = self.layout();
        let (memory, pids) = companions(layout);
        for (mount, there, here) in [
            (memory, &from.memory, &place.memory),
            (pids, &from.pids, &place.pids),
            (Some(layout.v2()), &from.v2, &place.v2),
        ] {
            let directory = mount.zip(there.as_deref()).and_then(|(mount, cgroup)| mount.directory(cgroup));
            let directory = directory.filter(|_| there != here).and_then(|path| Cgroup::open(path).ok());
            // Once it is gone its number may be a stranger's.
            if let Some(directory) = directory.filter(|_| !has_exited(held.as_fd())) {
                // Where it may not go back, it stays contained, and that is told.
                let _ = directory.write("cgroup.procs", &id.pid.to_string());
            }
        }
        Membership::of(id.pid).is_ok_and(|now| now == *from)
    }
}

/// All processes in a leaf and its companions, and those that its scope itself holds on their way there.
fn all_in(leaf: &Leaf) -> Result<Vec<i32>, crate::cgroup::CgroupError> {
    let (mut pids, paths) = (leaf.processes()?, leaf.group().paths());
    if let Some(scope) = leaf.scope().and_then(|_| paths.v2.parent()) {
        pids.extend(Cgroup::open(scope.to_owned())?.processes()?);
    }
    for companion in [paths.memory, paths.pids].into_iter().flatten() {
        pids.extend(Cgroup::open(companion)?.all_processes()?);
    }
    Ok(pids)
}

fn companions(layout: &Layout) -> (Option<&Mount>, Option<&Mount>) {
    match layout {
        Layout::Pure { .. } => (None, None),
        Layout::Hybrid { memory, pids, .. } => (memory.as_ref(), pids.as_ref()),
    }
}

/// The ways from where a tree stood to its leaf, in each hierarchy. One that was started while its parent was moved is in
/// some of them at the end, and in others at the beginning.
struct Path<'a> {
    from: &'a Membership,
    memory: Option<String>,
    pids: Option<String>,
    /// The cgroup of the leaf's scope, through which its first process went.
    scope: Option<String>,
}

impl<'a> Path<'a> {
    fn of(layout: &Layout, leaf: &Leaf, from: &'a Membership) -> Self {
        let ((memory, pids), paths) = (companions(layout), leaf.group().paths());
        let cgroup = |mount: Option<&Mount>, path: Option<std::path::PathBuf>| mount?.cgroup(&path?);
        let scope = leaf.scope().and_then(|_| layout.v2().cgroup(paths.v2.parent()?));
        Self { from, memory: cgroup(memory, paths.memory), pids: cgroup(pids, paths.pids), scope }
    }

    fn is_at_its_end(&self, leaf: &Leaf, place: &Membership) -> bool {
        let companion = |end: &Option<String>, at: &Option<String>| end.is_none() || end == at;
        leaf.holds(place) && companion(&self.memory, &place.memory) && companion(&self.pids, &place.pids)
    }

    /// Whether one has come into anything of the leaf.
    fn is_begun(&self, leaf: &Leaf, place: &Membership) -> bool {
        let companion = |end: &Option<String>, at: &Option<String>| end.is_some() && end == at;
        leaf.holds(place) || companion(&self.memory, &place.memory) || companion(&self.pids, &place.pids)
    }

    /// The cgroup of one that is not on the way, and the one that it would have come from.
    fn is_left(&self, leaf: &Leaf, place: &Membership) -> Option<(String, String)> {
        let v2 = place.v2 == self.from.v2 || leaf.holds(place) || place.v2.is_some() && place.v2 == self.scope;
        let memory = self.memory.is_none() || place.memory == self.from.memory || place.memory == self.memory;
        let pids = self.pids.is_none() || place.pids == self.from.pids || place.pids == self.pids;
        let told = |at: &Option<String>| at.clone().unwrap_or_default();
        match (v2, memory, pids) {
            (true, true, true) => None,
            (false, ..) => Some((told(&place.v2), told(&self.from.v2))),
            (_, false, _) => Some((told(&place.memory), told(&self.from.memory))),
            (_, _, false) => Some((told(&place.pids), told(&self.from.pids))),
        }
    }
}
