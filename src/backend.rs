//! One face for what makes cgroups. An enum, because the members are known when this is compiled and one is chosen once.

use crate::cgroup::{
    Admission, AdmitError, Caller, CgroupError, GroupPaths, Leaf, Membership, Tree, TreeError, TreeOptions, Unplaced,
};
use crate::chain::chain;
use crate::naming::SessionKey;
use crate::policy::{Offer, Offers, Refusal};

/// Who makes the cgroups.
#[derive(Debug)]
pub enum Backend {
    /// Directories in a subtree that we may write: containers, minimal machines.
    Cgroupfs(Tree),
}

impl Backend {
    /// Opens the `cgroupfs` backend.
    pub fn cgroupfs(options: &TreeOptions) -> Result<Self, TreeError> {
        Tree::open(options).map(Self::Cgroupfs)
    }

    /// What the field calls it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Cgroupfs(_) => "cgroupfs",
        }
    }

    /// The tree of leaves, which every backend has.
    pub fn tree(&self) -> &Tree {
        match self {
            Self::Cgroupfs(tree) => tree,
        }
    }

    /// Which limits hold here.
    pub fn offers(&self) -> Offers {
        offers(self.tree())
    }

    /// Places a launcher in a new leaf, under its limits, and proves it.
    pub fn admit(&self, wanted: &Admission<'_>) -> Result<Leaf, Unplaced> {
        match self {
            Self::Cgroupfs(tree) => tree.admit(wanted),
        }
    }

    /// Which leaf a process stands in, if it is one of ours.
    pub fn locate(&self, membership: &Membership) -> Option<Caller> {
        self.tree().locate(membership)
    }

    /// Opens a leaf that an earlier daemon made.
    pub fn adopt(&self, at: &Caller, machine: &GroupPaths) -> Result<Leaf, CgroupError> {
        self.tree().adopt(at, machine)
    }

    /// Removes what is left of a session whose last server is gone.
    pub fn remove_session(&self, key: &SessionKey, machine: &[GroupPaths]) -> Result<(), CgroupError> {
        self.tree().remove_session(key, machine)
    }

    /// Takes its own directories back, as far as nobody is in them.
    pub fn close(&self) {
        self.tree().close();
    }
}

fn offers(tree: &Tree) -> Offers {
    let hybrid = tree.layout().word() == "hybrid";
    let holds = tree.controllers();
    let offer = |there: bool, name: &str| match (there, hybrid) {
        (true, _) => Offer::Holds,
        (false, true) => Offer::Missing {
            why: format!("this machine has no {name} controller in cgroup v2 (hybrid layout)"),
            remedy: "boot with systemd.unified_cgroup_hierarchy=1".to_owned(),
        },
        (false, false) => Offer::Missing {
            why: format!("the {name} controller is not available in {}", tree.root().display()),
            remedy: format!("enable it in the cgroup.subtree_control above, or delegate it ({name})"),
        },
    };
    let memory = offer(holds.memory, "memory");
    let swap = match tree.swap_is_limited() {
        true => memory.clone(),
        false if !has_swap() => Offer::NothingToLimit,
        false => Offer::Missing {
            why: "the kernel does not account swap".to_owned(),
            remedy: "boot with swapaccount=1".to_owned(),
        },
    };
    Offers {
        memory,
        swap,
        pids: offer(holds.pids, "pids"),
        cpu: offer(holds.cpu, "cpu"),
        io: offer(holds.io, "io"),
        ram: tree.ram(),
    }
}

/// Whether there is any swap to use (proc_swaps(5): a header line, then one line each).
fn has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// What a launcher is told when it was not placed.
pub fn refusal(error: &AdmitError) -> Refusal {
    let remedy = match error {
        AdmitError::LauncherGone => "start it again",
        AdmitError::Cgroup(error) if error.is_denied() => {
            "run pinfold where it may move this process: as root, or in a cgroup above both; `pinfold doctor` tells more"
        }
        AdmitError::Cgroup(_) | AdmitError::Knob(_) | AdmitError::NotMoved { .. } => {
            "`pinfold doctor` tells what holds here"
        }
        AdmitError::Invisible(_) => "run pinfold in the same cgroup namespace as its callers",
        AdmitError::Sheds { .. } => {
            "run a pinfold of its own inside that cgroup (`pinfold serve --root`), so that the limit keeps holding"
        }
    };
    Refusal { reason: chain(error), remedy: remedy.to_owned() }
}
