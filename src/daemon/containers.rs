//! The driver's side of a server that is `docker run` or `podman run`: whether its container gets a place in its leaf.
//!
//! The launcher tells what its engine can be told, and the daemon says where; neither runs anything of the engine's. Once the
//! container is made below the leaf, it is ended like all that is there. Of one that is elsewhere the engine is asked to remove
//! it, by its labels, where it has a socket on this machine.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::driver::Driver;
use super::fair::{FairTurns, Queue};
use super::launching::{LaunchRequest, Plan};
use super::log::LINES;
use super::table::Server;
use crate::argv::{SERVER_LABEL, SESSION_LABEL};
use crate::backend::Backend;
use crate::cgroup::{Layout, Leaf};
use crate::chain::chain;
use crate::confine::Confine;
use crate::container::{ContainerPlace, ContainerWish, Outside, Remover};
use crate::engine::Engine;
use crate::limits::Limits;
use crate::naming::{LeafName, SessionKey};

/// The root of all cgroup namespaces (`PROC_CGROUP_INIT_INO` of the kernel's include/linux/proc_ns.h): a path as it is seen
/// from there means the same to an engine's daemon.
const FIRST_NAMESPACE: &str = "cgroup:[4026531835]";

/// The sockets of engines that are root's.
const ENGINES: [&str; 3] = ["/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock"];

/// The longest path of a socket (unix(7)).
const SOCKET_BYTES_MAX: usize = 107;

/// How often an engine is asked, and the first wait before it is asked again, which doubles each time.
const REMOVALS_MAX: usize = 6;
const AGAIN: Duration = Duration::from_millis(200);

/// How many engines are asked at a time, and for how many servers they may be waited for; and of these those of one user.
const TURNS: usize = 16;
const TURNS_OF_ONE: usize = 4;
const PLACES: usize = 1024;
const PLACES_OF_ONE: usize = 256;

/// How long an end waits for the engine to be asked for the first time.
const ASKED_MAX: Duration = Duration::from_secs(10);

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
            Self::Directory { user } => match leaf.make_room(backend.layout(), (newcomer.pid, newcomer.pidfd), user) {
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

/// The turns of those who ask engines: each may take as long as its user likes, and nobody else waits for that.
#[derive(Debug)]
pub(super) struct Engines {
    turns: FairTurns,
    places: FairTurns,
}

impl Default for Engines {
    fn default() -> Self {
        Self { turns: FairTurns::new(TURNS, TURNS_OF_ONE), places: FairTurns::new(PLACES, PLACES_OF_ONE) }
    }
}

impl Engines {
    /// Where this user waits.
    pub(super) fn queue(&mut self, user: u32) -> EngineQueue {
        EngineQueue { turns: self.turns.of(user), places: self.places.of(user) }
    }
}

/// Where one user waits.
#[derive(Debug)]
pub(super) struct EngineQueue {
    turns: Queue,
    places: Queue,
}

impl EngineQueue {
    /// Has the engine of a server remove what it still has of that, as often as it takes. It is waited for until it was asked
    /// once, and not for long.
    pub(super) async fn remove(self, left: Left, key: String) {
        if left.remover.is_none() {
            return;
        }
        let Some(place) = self.places.turn_at_once() else {
            let leaf = left.leaf.as_str();
            tracing::warn!(
                target: LINES, leaf,
                "{PLACES} servers wait for their engines, or {PLACES_OF_ONE} of this user: a container of this one may live \
                 on; remove what has the label {SERVER_LABEL}={leaf}"
            );
            return;
        };
        let (first, asked) = oneshot::channel();
        tokio::spawn(async move {
            let (left, mut first, mut pause) = (Arc::new(left), Some(first), AGAIN);
            loop {
                let Some(turn) = self.turns.turn().await else { return };
                let (of, key) = (left.clone(), key.clone());
                let ask = move || {
                    let is_done = of.remove_containers(&key);
                    drop(turn);
                    is_done
                };
                let is_done = tokio::task::spawn_blocking(ask).await.unwrap_or(true);
                if let Some(first) = first.take() {
                    // An end that waits no longer hears nothing.
                    let _ = first.send(());
                }
                if is_done {
                    return drop(place);
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        });
        let _ = tokio::time::timeout(ASKED_MAX, asked).await;
    }
}

/// What is left of a server whose leaf is gone.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) leaf: LeafName,
    remover: Option<Remover>,
    tries: AtomicUsize,
}

impl Left {
    pub(super) fn of(server: &Server) -> Self {
        Self::new(server.leaf_name.clone(), server.remover.clone())
    }

    pub(super) fn new(leaf: LeafName, remover: Option<Remover>) -> Self {
        Self { leaf, remover, tries: AtomicUsize::new(0) }
    }

    /// Has the engine remove what runs with the labels of the server: what was never in its leaf, or what the engine began there
    /// when that was gone. Tells whether there is nothing more to do about it. Blocks.
    fn remove_containers(&self, key: &str) -> bool {
        let Some(Remover { socket, of }) = &self.remover else { return true };
        let engine = Engine::at(Path::new(socket));
        let engine = of.map_or(engine.clone(), |user| engine.of(user));
        let leaf = self.leaf.as_str();
        match engine.remove(&[(SESSION_LABEL, key), (SERVER_LABEL, leaf)]) {
            Ok(0) => true,
            Ok(containers) => {
                tracing::info!(target: LINES, leaf, containers, "its engine has removed what it still had of this server");
                true
            }
            Err(error) if self.tries.fetch_add(1, Ordering::Relaxed) + 1 < REMOVALS_MAX => {
                tracing::debug!(leaf, error = %chain(&error), "its engine is asked again to remove what it has of this server");
                false
            }
            Err(error) => {
                tracing::warn!(
                    target: LINES, leaf, error = %chain(&error),
                    "a container of this server may live on: remove what has the label {SERVER_LABEL}={leaf}"
                );
                true
            }
        }
    }
}

impl Driver {
    /// The engine that a launch's container is removed by. Nobody has this daemon speak to an engine to which the caller
    /// could not speak, and no launcher in a container means a socket that is out here.
    pub(super) fn remover_of(&self, request: &LaunchRequest) -> Option<Remover> {
        let socket = request.wish.container_engine.clone()?;
        if request.container.is_some() || !socket.starts_with('/') || socket.len() > SOCKET_BYTES_MAX {
            return None;
        }
        let of = match (nix::unistd::geteuid().as_raw(), request.peer.uid) {
            (own, peer) if own == peer => None,
            // What is removed carries labels that only those can give who may speak to it.
            _ if ENGINES.contains(&socket.as_str()) => Some(0),
            (_, peer) => Some(peer),
        };
        Some(Remover { socket, of })
    }

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
