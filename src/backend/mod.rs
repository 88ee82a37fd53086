//! One face for what makes cgroups. An enum, because the members are known when this is compiled and one is chosen once.

mod adjust;
mod containers;
mod held;
mod kin;
mod offers;
mod rooms;
mod units;

use std::path::PathBuf;

use crate::cgroup::{
    Admission, AdmitError as CgroupAdmitError, Caller, CgroupError, GroupPaths, KnobError, Layout, LayoutError, Leaf,
    Membership, Tree, TreeError, TreeOptions,
};
use crate::chain::chain;
use crate::limits::Limits;
use crate::naming::SessionKey;
use crate::policy::{Offers, Refusal};
use crate::realm::Container;
use crate::systemd::{Bus, BusMissing, Stopped, SystemdError};
pub use adjust::{Place, Told, Wanted, WantedLeaf, WantedSession};
pub use held::{CannotCopy, HeldError};
pub use kin::{Kin, KinError, MEMBERS_MAX};
pub use units::{SweepError, Units};

/// Who makes the cgroups.
#[derive(Debug)]
pub enum Backend {
    /// Directories in a subtree that we may write: containers, minimal machines.
    Cgroupfs(Box<Tree>),
    /// Transient units of a systemd manager.
    Systemd(Box<Units>),
}

/// Which backend is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// `systemd` where a manager answers, unless a subtree is named; else `cgroupfs`.
    Auto,
    /// `systemd` or nothing.
    Systemd,
    /// `cgroupfs` or nothing.
    Cgroupfs,
}

/// Why there is no backend. Each message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No cgroup tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// No usable layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// systemd cannot give pure v2 limits on a hybrid machine.
    #[error("the systemd backend needs cgroup v2 alone: boot with systemd.unified_cgroup_hierarchy=1")]
    Hybrid,
    /// The manager's cgroup is outside what we see.
    #[error("the service manager's cgroup {0} is not visible here: run pinfold in the manager's cgroup namespace")]
    Invisible(String),
    /// Nobody to speak to.
    #[error(transparent)]
    Bus(#[from] BusMissing),
    /// The manager refused, or could not be reached.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// The kernel refused something.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A subtree was named for a backend that has its own.
    #[error(
        "--root names a cgroup subtree, which only the cgroupfs backend has: leave it out, or say --backend cgroupfs"
    )]
    RootWithSystemd,
    /// The daemon is not where it was moved.
    #[error(
        "{scope} was started for this process, and the kernel tells {found:?}: `systemctl status {scope}` tells more"
    )]
    NotMoved {
        /// The scope that was made for it.
        scope: String,
        /// Where it is.
        found: Option<String>,
    },
    /// Neither backend works.
    #[error("{systemd}; and without a service manager")]
    Neither {
        /// Why there is no tree.
        #[source]
        tree: TreeError,
        /// Why no manager is used.
        systemd: String,
    },
}

/// Why somebody was not placed. Whatever was made is taken back before this is told, but for the leaf that [`Unplaced`]
/// may still hold.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The kernel refused something, or the launcher is gone.
    #[error(transparent)]
    Cgroup(#[from] CgroupAdmitError),
    /// systemd refused something.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// Moving it would free it from something.
    #[error(transparent)]
    Held(#[from] HeldError),
    /// The tree of a process that runs already cannot be moved as a whole.
    #[error(transparent)]
    Kin(#[from] KinError),
    /// The session's scope ended while the launcher was placed in it.
    #[error("systemd calls {unit} {state} while the launcher is in it")]
    ScopeDied {
        /// Which scope.
        unit: String,
        /// What systemd says.
        state: String,
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

impl From<CgroupError> for AdmitError {
    fn from(error: CgroupError) -> Self {
        CgroupAdmitError::from(error).into()
    }
}

impl From<KnobError> for AdmitError {
    fn from(error: KnobError) -> Self {
        CgroupAdmitError::from(error).into()
    }
}

impl Backend {
    /// Opens the backend of choice; tells with it why it is that one.
    pub fn open(choice: Choice, options: &TreeOptions) -> Result<(Self, String), BackendError> {
        let told =
            |units: &Units| format!("{} answers (systemd {})", units.manager().bus().word(), units.manager().version());
        match choice {
            Choice::Cgroupfs => Ok((Self::Cgroupfs(Box::new(Tree::open(options)?)), "it was asked for".to_owned())),
            Choice::Auto if options.root.is_some() => {
                Ok((Self::Cgroupfs(Box::new(Tree::open(options)?)), "a subtree was named".to_owned()))
            }
            Choice::Systemd if options.root.is_some() => Err(BackendError::RootWithSystemd),
            Choice::Systemd => {
                let units = Units::open()?;
                let why = told(&units);
                Ok((Self::Systemd(Box::new(units)), why))
            }
            Choice::Auto => match Units::open() {
                Ok(units) => {
                    let why = told(&units);
                    Ok((Self::Systemd(Box::new(units)), why))
                }
                Err(error) => {
                    let systemd = chain(&error);
                    match Tree::open(options) {
                        Ok(tree) => Ok((Self::Cgroupfs(Box::new(tree)), systemd)),
                        // Where systemd is not in charge, that is not what is wrong.
                        Err(tree) if matches!(error, BackendError::Bus(BusMissing::NotBooted)) => Err(tree.into()),
                        Err(tree) => Err(BackendError::Neither { tree, systemd }),
                    }
                }
            },
        }
    }

    /// What the field calls it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Cgroupfs(_) => "cgroupfs",
            Self::Systemd(_) => "systemd",
        }
    }

    /// What is mounted here.
    pub fn layout(&self) -> &Layout {
        match self {
            Self::Cgroupfs(tree) => tree.layout(),
            Self::Systemd(units) => units.layout(),
        }
    }

    /// The directory that everything is below.
    pub fn root(&self) -> PathBuf {
        match self {
            Self::Cgroupfs(tree) => tree.root().to_owned(),
            Self::Systemd(units) => units.root(),
        }
    }

    /// The directory of a session.
    pub fn session_directory(&self, key: &SessionKey) -> PathBuf {
        match self {
            Self::Cgroupfs(tree) => tree.session_directory(key),
            Self::Systemd(units) => units.session_directory(key),
        }
    }

    /// What somebody who looks at this machine should know of the backend.
    pub fn notes(&self) -> Vec<String> {
        let Self::Systemd(units) = self else { return Vec::new() };
        let unknown = units.manager().unknown_properties();
        let means = |name: &str| units::NEWER.iter().find(|(newer, _)| *newer == name).map(|(_, means)| *means);
        let told = |name: String| {
            let means = means(&name).unwrap_or("it is left out");
            format!("this systemd does not know {name}=: {means}")
        };
        unknown.into_iter().map(told).collect()
    }

    /// Which limits hold here.
    pub fn offers(&self) -> Offers {
        match self {
            Self::Cgroupfs(tree) => offers::of_tree(tree),
            Self::Systemd(units) => offers::of_units(units),
        }
    }

    /// Where the machine level of a caller is: below its container, where its leaf is to be made there.
    pub fn machine_paths(&self, caller: &Membership, below: Option<&Container>) -> Result<GroupPaths, AdmitError> {
        match (self, below) {
            (_, Some(container)) => Ok(self.directories().machine_paths(container, caller)?),
            (Self::Cgroupfs(tree), None) => Ok(tree.machine_paths(caller)?),
            (Self::Systemd(units), None) => Ok(GroupPaths { v2: units.root(), memory: None, pids: None }),
        }
    }

    /// Places a launcher in a new leaf, under its limits, and proves it.
    pub fn admit(&self, wanted: &Admission<'_>) -> Result<Leaf, Unplaced> {
        let told = |unplaced: crate::cgroup::Unplaced| Unplaced { error: unplaced.error.into(), left: unplaced.left };
        match self {
            _ if self.is_below(wanted.paths) => self.directories().admit_below(wanted).map_err(told),
            Self::Cgroupfs(tree) => tree.admit(wanted).map_err(told),
            Self::Systemd(units) => units.admit(wanted),
        }
    }

    fn is_below(&self, machine: &GroupPaths) -> bool {
        self.directories().is_below(machine)
    }

    /// Which leaf a process stands in, if it is one of ours.
    pub fn locate(&self, membership: &Membership) -> Option<Caller> {
        self.locate_in_tree(membership).or_else(|| self.directories().locate(membership))
    }

    fn locate_in_tree(&self, membership: &Membership) -> Option<Caller> {
        match self {
            Self::Cgroupfs(tree) => tree.locate(membership),
            Self::Systemd(units) => units.locate(membership),
        }
    }

    /// The leaves that stand now, for the daemon that takes over from one that died.
    pub fn leaves(&self) -> Result<Vec<Caller>, CgroupError> {
        match self {
            Self::Cgroupfs(tree) => tree.leaves(),
            Self::Systemd(units) => units.leaves(),
        }
    }

    /// Opens a leaf that an earlier daemon made. `held` is what its launcher was held by where it came from, as far as that
    /// is known.
    pub fn adopt(&self, at: &Caller, machine: &GroupPaths, held: Option<&Limits>) -> Result<Leaf, CgroupError> {
        match self {
            Self::Systemd(units) if !self.is_below(machine) => units.adopt(at, held),
            _ => self.directories().adopt(at, machine),
        }
    }

    /// Opens what is left of a leaf that somebody removed: for a server whose first process lives elsewhere.
    pub fn adopt_remains(&self, at: &Caller, machine: &GroupPaths) -> Result<Leaf, CgroupError> {
        match self {
            Self::Systemd(units) if !self.is_below(machine) => units.adopt_remains(at),
            _ => self.directories().adopt_remains(at, machine),
        }
    }

    /// The limits that hold a launcher where it comes from, and are to hold its session: for its record. Where its session is
    /// made below all that holds it, or it may not leave what does, there are none to take along.
    pub fn held(&self, from: &Membership, key: &SessionKey) -> Limits {
        match self {
            Self::Cgroupfs(_) => Limits::default(),
            Self::Systemd(units) => units.held_limits(from, key).unwrap_or_default(),
        }
    }

    /// Removes an empty leaf that a dead daemon left.
    pub fn sweep(&self, at: &Caller, machine: &GroupPaths) -> Result<(), SweepError> {
        match self {
            Self::Systemd(units) if !self.is_below(machine) => units.sweep(at),
            _ => Ok(self.directories().sweep(at, machine)?),
        }
    }

    /// Removes an empty leaf that no record tells of; one with processes is refused by the kernel.
    pub fn sweep_unknown(&self, at: &Caller) -> Result<(), SweepError> {
        match self {
            Self::Cgroupfs(tree) => Ok(tree.sweep_unknown(at)?),
            Self::Systemd(units) => units.sweep(at),
        }
    }

    /// Removes sessions in which nothing lives and no leaf stands: at a daemon's start.
    pub fn sweep_empty(&self) {
        if let Self::Systemd(units) = self {
            units.sweep_empty();
        }
    }

    /// Removes what is left of a session whose last server is gone.
    pub fn remove_session(&self, key: &SessionKey, machine: &[GroupPaths]) -> Result<(), SweepError> {
        match self {
            // A session is that of one container, or of none.
            Self::Systemd(units) if !machine.iter().any(|machine| self.is_below(machine)) => units.remove_session(key),
            _ => Ok(self.directories().remove_session(key, machine)?),
        }
    }

    /// The service manager, where there is one.
    pub fn bus(&self) -> Option<&Bus> {
        match self {
            Self::Cgroupfs(_) => None,
            Self::Systemd(units) => Some(units.manager().bus()),
        }
    }

    /// Moves this process out of its host's cgroup, in which it would die with its host, into a scope of its own. Where
    /// directories are made it has moved when they were opened ([`TreeOptions::leave_host`]).
    pub fn leave_host(&self, scope: &str) -> Result<(), BackendError> {
        match self {
            Self::Cgroupfs(_) => Ok(()),
            Self::Systemd(units) => units.leave_host(scope),
        }
    }

    /// Units that somebody else stops, where there are units. Can be taken once.
    pub fn take_stops(&self) -> Option<tokio::sync::mpsc::Receiver<Stopped>> {
        match self {
            Self::Cgroupfs(_) => None,
            Self::Systemd(units) => units.manager().take_stops(),
        }
    }

    /// Takes its own directories back, as far as nobody is in them.
    pub fn close(&self) {
        match self {
            Self::Cgroupfs(tree) => tree.close(),
            Self::Systemd(units) => units.close(),
        }
    }
}

/// What a launcher is told when it was not placed.
pub fn refusal(error: &AdmitError) -> Refusal {
    let remedy = match error {
        AdmitError::Cgroup(error) => cgroup_remedy(error),
        AdmitError::Systemd(_) => "`systemctl status pinfold.slice` and the journal tell more",
        AdmitError::Held(HeldError::CannotCopy(_)) => {
            "set the same for pinfold.slice and name the unit in `allow_leave` of the configuration, or launch from another unit"
        }
        AdmitError::Held(HeldError::Program { .. }) => {
            "name the unit in `allow_leave` of the configuration, launch from another one, or run a pinfold of its own in there"
        }
        AdmitError::Held(HeldError::Systemd(_)) => "`systemctl status` tells whether the manager answers",
        AdmitError::Held(HeldError::Cgroup(_) | HeldError::Invisible(_)) => {
            "run pinfold in the same cgroup namespace as its callers"
        }
        AdmitError::Kin(error) => return error.refusal(),
        AdmitError::ScopeDied { .. } => "start it again",
    };
    Refusal { reason: chain(error), remedy: remedy.to_owned() }
}

fn cgroup_remedy(error: &CgroupAdmitError) -> &'static str {
    match error {
        CgroupAdmitError::LauncherGone => "start it again",
        CgroupAdmitError::Cgroup(error) if error.is_denied() => {
            "run pinfold where it may move this process: as root, or in a cgroup above both; `pinfold doctor` tells more"
        }
        CgroupAdmitError::Cgroup(_) | CgroupAdmitError::Knob(_) | CgroupAdmitError::NotMoved { .. } => {
            "`pinfold doctor` tells what holds here"
        }
        CgroupAdmitError::Invisible(_) => "run pinfold in the same cgroup namespace as its callers",
        CgroupAdmitError::Sheds { .. } | CgroupAdmitError::ShedsProgram { .. } => {
            "run a pinfold of its own inside that cgroup (`pinfold serve --root`), so that it keeps holding"
        }
    }
}
