//! Callers inside containers: whichever backend a daemon has, their leaves are directories below the container's own cgroup, so
//! that its limits, its devices and its end keep holding for its servers.

use super::Backend;
use super::offers::{RECLAIM, unsupervised, with_pressure, with_reclaim};
use crate::cgroup::{Controllers, Directories, Layout, Membership, ram};
use crate::policy::{Offer, Offers};
use crate::realm::Container;

impl Backend {
    /// Sessions as directories.
    pub fn directories(&self) -> &Directories {
        match self {
            Self::Cgroupfs(tree) => tree.directories(),
            Self::Systemd(units) => units.directories(),
        }
    }

    /// The container that a process is in, if it is in one.
    pub fn container_of(&self, pid: i32) -> Option<Container> {
        self.directories().container_of(pid)
    }

    /// Whether a caller's leaf is made below its container. What stands in a leaf of our own tree goes to another one there,
    /// whatever namespaces it has by now.
    pub fn is_placed_below(&self, container: &Container, caller: &Membership) -> bool {
        self.locate_in_tree(caller).is_none() && self.directories().takes_leaves(container)
    }

    /// Which limits hold below a container. cgroup v2 gives them to the children of a cgroup only where nobody stands in that
    /// itself, and in a container's own cgroup its processes do, unless they are moved out of the way.
    pub fn offers_below(&self, container: &Container, move_processes: bool) -> Offers {
        let directories = self.directories();
        if matches!(directories.layout(), Layout::Hybrid { .. }) {
            // The companions stand below the caller's own cgroups there, and v1 knows no such rule.
            return self.offers();
        }
        let (enabled, offered) = directories.controllers_below(container);
        let Controllers { memory, pids, cpu, io } = if move_processes { offered } else { enabled };
        let offer = |holds: bool, name: &str| match holds {
            true => Offer::Holds,
            false if move_processes => Offer::Withheld {
                why: format!("the container was not given the {name} controller"),
                remedy: "limit the container itself".to_owned(),
            },
            false => Offer::Withheld {
                why: "processes of the container stand in its own cgroup".to_owned(),
                remedy:
                    "limit the container itself, or write move_processes = true under [containers] in the configuration"
                        .to_owned(),
            },
        };
        let directory = directories.layout().v2().directory(container.cgroup()).unwrap_or_else(|| self.root());
        Offers {
            memory: offer(memory, "memory"),
            memory_high: with_pressure(offer(memory, "memory"), &directory),
            swap: offer(memory, "memory"),
            pids: offer(pids, "pids"),
            cpu: offer(cpu, "cpu"),
            io: offer(io, "io"),
            trim: with_reclaim(offer(memory, "memory"), &directory.join(RECLAIM)),
            park: unsupervised(),
            ram: ram(&directory),
        }
    }
}
