//! Who calls: what the kernel tells of a connection's other end, and where that stands.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::net::UnixStream;

use super::message::Peer;
use crate::backend::Backend;
use crate::cgroup::{Caller, Membership, has_exited};
use crate::realm::{Container, Realm};
use crate::wire::Fault;

/// Where a launcher stands.
pub(super) struct Stand {
    /// The container that it is in.
    pub(super) container: Option<Container>,
    /// Its leaf is made below that.
    pub(super) is_below: bool,
    /// The leaf that it already is in.
    pub(super) inside: Option<Caller>,
}

impl Stand {
    /// Looks; `None` where it is in another realm than it was when it connected.
    pub(super) fn of(backend: &Backend, peer: Peer) -> Option<Self> {
        let place = Membership::of(peer.pid).unwrap_or_default();
        let container = if peer.realm == Realm::Host { None } else { backend.container_of(peer.pid) };
        let is_below = container.as_ref().is_some_and(|container| backend.is_placed_below(container, &place));
        let same = Container::realm_of(container.as_ref()) == peer.realm;
        same.then(|| Self { container, is_below, inside: backend.locate(&place) })
    }
}

/// Who is at the other end: SO_PEERCRED, and a pidfd of the same process where the kernel gives one (SO_PEERPIDFD, 6.5). Both
/// are as this process sees them, whatever namespaces the caller is in, and so is its container.
pub(super) fn identify(stream: &UnixStream, backend: &Backend) -> io::Result<(Peer, Option<OwnedFd>)> {
    let peer = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials)?;
    if peer.pid() == 0 {
        return Err(io::Error::other("the caller is in a pid namespace that cannot be seen from here"));
    }
    let pidfd = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerPidfd).ok();
    let realm = Container::realm_of(backend.container_of(peer.pid()).as_ref());
    if pidfd.as_ref().is_some_and(|pidfd| has_exited(pidfd.as_fd())) {
        return Err(io::Error::other("the caller is gone: what was read may be of another process"));
    }
    Ok((Peer { uid: peer.uid(), pid: peer.pid(), realm }, pidfd))
}

/// What no container is served with: numbers of processes mean others in there, and what is the machine's is not its own.
pub(super) fn on_the_host(peer: Peer, what: &str) -> Result<(), Fault> {
    if peer.realm == Realm::Host { Ok(()) } else { Err(Fault::NotPermitted(format!("{what} on the host only"))) }
}

/// The leaf that whoever gives an order stands in, if any.
pub(super) fn inside(backend: &Backend, peer: Peer, pidfd: Option<&OwnedFd>) -> Result<Option<Caller>, Fault> {
    let place = Membership::of(peer.pid).ok();
    // What was read is the peer's own only if it is still there; one that is gone may have stood in any leaf.
    let place = place.filter(|_| pidfd.is_none_or(|pidfd| !has_exited(pidfd.as_fd())));
    let place = place.ok_or_else(|| Fault::NotPermitted("the process that asks for this is gone".into()))?;
    Ok(backend.locate(&place))
}

/// What somebody in a container should know of the daemon beside what all do.
pub(super) fn note(peer: Peer) -> Option<String> {
    let note = "you are in a container: its servers stand below its own cgroup, and have limits of their own only where \
                move_processes under [containers] allows it";
    peer.realm.is_container().then(|| note.to_owned())
}
