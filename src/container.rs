//! The container of a server that is `docker run` or `podman run`: what its launcher asks for it, and where it was given a
//! place.
//!
//! The engine starts the container, and would put it where no end of the session reaches. So the launcher tells it another
//! parent for the container's cgroup, which is one that this server has.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a launcher asks for the container that its command makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "place", rename_all = "snake_case")]
pub enum ContainerWish {
    /// A directory of cgroupfs, for an engine of which the caller is master itself: podman.
    OwnDirectory,
    /// A directory of cgroupfs, for an engine's daemon, which is root's.
    Directory,
    /// A slice, for a daemon that has systemd make them.
    Slice,
    /// None.
    Nowhere {
        /// Why it cannot be had.
        why: Outside,
    },
}

/// Where the container of a server is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "place", rename_all = "snake_case")]
pub enum ContainerPlace {
    /// In the server's own leaf, or in a slice beside it in its session.
    Inside,
    /// Where its engine puts it.
    Outside {
        /// Why.
        why: Outside,
    },
}

/// The engine that is asked, once its server has ended, to remove what it still has of it by the server's labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remover {
    /// The socket of its API.
    pub socket: String,
    /// Who has to be listening there, where not everybody may.
    #[serde(default)]
    pub of: Option<u32>,
}

/// Why a container is outside its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outside {
    /// `docker exec`, `compose`, or an engine behind another program.
    Unfollowed,
    /// Its own options say where it goes.
    OwnOptions,
    /// The engine is on another machine, or in a virtual one.
    Remote,
    /// The engine does not answer, or not as one does.
    Unanswered,
    /// The engine makes its containers' cgroups not at all, or by another systemd than pinfold its own.
    Driver,
    /// The engine is one without root of its own.
    Rootless,
    /// The launcher is itself in a container, and the engine need not be.
    InContainer,
    /// Cgroups v1 hold the limits here.
    Hybrid,
    /// The launcher may not use its cgroups.
    Confined,
    /// Neither the kernel nor systemd gave it a place.
    NoPlace,
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unfollowed => {
                "what the command asks of its engine cannot be followed: only docker run and podman run can"
            }
            Self::OwnOptions => {
                "its own options say where it goes (--cgroup-parent, --cgroups, --cgroup-manager or --pod)"
            }
            Self::Remote => "its engine is on another machine, or in a virtual one",
            Self::Unanswered => {
                "its engine does not tell how it makes cgroups: it does not run, or may not be spoken to by this user"
            }
            Self::Driver => {
                "its engine has the system's systemd make its cgroups, and this pinfold does not; or it makes none"
            }
            Self::Rootless => "its engine is a daemon without root, which has cgroups of its own",
            Self::InContainer => "its launcher is in a container itself, and its engine need not be in the same one",
            Self::Hybrid => "this machine has no pure cgroup v2 (boot with systemd.unified_cgroup_hierarchy=1)",
            Self::Confined => "the server is confined",
            Self::NoPlace => "no place could be made for it",
        })
    }
}
