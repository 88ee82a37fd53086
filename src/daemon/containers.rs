//! The driver's side of a server that is `docker run` or `podman run`: whether its container gets a place in its leaf.
//!
//! The launcher tells what its engine can be told, and the daemon says where; neither runs anything of the engine's. Once the
//! container is made below the leaf, it is ended like all that is there.

use std::os::fd::BorrowedFd;

use super::driver::Driver;
use super::launching::{LaunchRequest, Plan};
use crate::backend::Backend;
use crate::cgroup::{Layout, Leaf};
use crate::chain::chain;
use crate::confine::Confine;
use crate::container::{ContainerPlace, ContainerWish, Outside};
use crate::limits::Limits;
use crate::naming::SessionKey;

/// The root of all cgroup namespaces (`PROC_CGROUP_INIT_INO` of the kernel's include/linux/proc_ns.h): a path as it is seen
/// from there means the same to an engine's daemon.
const FIRST_NAMESPACE: &str = "cgroup:[4026531835]";

/// Room that is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Room {
    /// In the leaf.
    Directory {
        /// Who is given the leaf.
        user: Option<u32>,
    },
    /// In a slice beside its scope.
    Slice,
}

/// For whom.
pub(super) struct Newcomer<'a> {
    pub(super) key: &'a SessionKey,
    pub(super) pid: i32,
    pub(super) pidfd: BorrowedFd<'a>,
    /// Of the server.
    pub(super) limits: Limits,
}

impl Room {
    /// Makes it. Blocks. A launch goes on without, and its container is told as outside.
    pub(super) fn make(self, backend: &Backend, leaf: Leaf, newcomer: &Newcomer<'_>) -> (Leaf, ContainerPlace) {
        let (leaf, error) = match self {
            Self::Directory { user } => match leaf.make_room(newcomer.pid, newcomer.pidfd, user) {
                Ok(()) => return (leaf, ContainerPlace::Inside),
                Err(error) => (leaf, chain(&error)),
            },
            Self::Slice => match backend.annex(newcomer.key, leaf, &newcomer.limits) {
                Ok(leaf) => return (leaf, ContainerPlace::Inside),
                Err((error, leaf)) => (*leaf, error.map_or_else(String::new, |error| chain(&error))),
            },
        };
        tracing::debug!(leaf = leaf.name().as_str(), error, "there is no room for the container of this launch");
        (leaf, ContainerPlace::Outside { why: Outside::NoPlace })
    }
}

impl Driver {
    /// Where the container of a launch is to be, and what is to be made for it.
    pub(super) fn container_of(&self, request: &LaunchRequest, plan: &Plan) -> (Option<ContainerPlace>, Option<Room>) {
        let Some(wish) = request.wish.container else { return (None, None) };
        match self.room_for(wish, request, plan) {
            Ok(room) => (Some(ContainerPlace::Inside), Some(room)),
            Err(why) => (Some(ContainerPlace::Outside { why }), None),
        }
    }

    fn room_for(&self, wish: ContainerWish, request: &LaunchRequest, plan: &Plan) -> Result<Room, Outside> {
        let own_uid = nix::unistd::geteuid().as_raw();
        let room = match wish {
            ContainerWish::Nowhere { why } => return Err(why),
            // Somebody else's engine could make nothing in a leaf that is ours.
            ContainerWish::OwnDirectory => {
                Room::Directory { user: Some(request.peer.uid).filter(|uid| *uid != own_uid) }
            }
            ContainerWish::Directory => Room::Directory { user: None },
            ContainerWish::Slice if self.backend.has_slices_for_engines() => Room::Slice,
            ContainerWish::Slice => return Err(Outside::Driver),
        };
        let Layout::Pure { v2 } = self.backend.layout() else { return Err(Outside::Hybrid) };
        if request.container.is_some()
            || v2.root != "/"
            || (wish != ContainerWish::OwnDirectory && !is_first_namespace())
        {
            return Err(Outside::InContainer);
        }
        if plan.grant.confine > Confine::No {
            return Err(Outside::Confined);
        }
        Ok(room)
    }
}

fn is_first_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/cgroup").is_ok_and(|name| name.as_os_str() == FIRST_NAMESPACE)
}
