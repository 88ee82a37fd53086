//! Hands on the cgroup filesystem: directories held by descriptor, files parsed, limits set and read back.
//!
//! It owns what stands in `/sys/fs/cgroup` and how it is spoken to: cgroup v2 is the model (the kernel's
//! admin-guide/cgroup-v2); on a *hybrid* machine v1 `memory` and `pids` companions carry limit and accounting while the
//! v2 tree tracks and kills. It never decides who is to end: [`crate::lifecycle`] does.

mod activity;
mod adjust;
mod ahead;
mod containers;
mod dir;
mod directories;
mod files;
mod freezer;
mod group;
mod knobs;
mod layout;
mod leaf;
mod levels;
mod oom;
mod places;
mod pressure;
mod reclaim;
mod root;
mod stranger;
mod tree;
mod usage;

pub use adjust::{Adjusted, Changed, Kept};
pub use ahead::Ahead;
pub use dir::{Cgroup, CgroupError};
pub use directories::Directories;
pub use files::{Membership, mount_points};
pub use freezer::{Order, Thawed, thaw_all_below};
pub use group::{Controllers, Group, GroupPaths};
pub use knobs::{KnobError, percent};
pub use layout::{Layout, LayoutError, Mount, Moves};
pub use leaf::{Above, Annex, CLEANED_UP_MAX, CLIENT, Leaf, MemoryKill, Scope, has_exited, is_exiting};
pub use oom::Tally;
pub use places::leaf_of;
pub use pressure::tells_pressure;
pub use reclaim::{Reclaimed, Stop, Swap, can_reclaim};
pub use root::{TreeError, TreeOptions, ram};
pub use stranger::give_back;
pub use tree::{Admission, AdmitError, Caller, Tree, Unplaced};
