//! Connections as they come in: who calls, as the kernel tells, and whether that user may have one more.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::aside;
use super::caller;
use super::message::Peer;
use super::places::Place;
use super::socket::{ConnectionError, Service, converse};

/// Accepts connections until the listener fails.
pub(super) async fn serve(listener: UnixListener, service: Arc<Service>) -> io::Result<()> {
    let mut told = false;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Out of descriptors, or the client is gone already: neither is the end of the service.
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "cannot accept a connection; trying again until one can be");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        told = false;
        // Of a crowd that is turned away not even a task is made.
        if let Some((stream, peer, pidfd, place)) = admit(stream, &service) {
            let service = service.clone();
            tokio::spawn(async move { converse(stream, (peer, pidfd), place, &service).await });
        } else {
            // Until they are closed, those that are turned away take descriptors.
            aside::breathe().await;
        }
    }
}

/// Finds out who calls, and whether its user may have one more connection. What is wrong with it is told in one line.
fn admit(stream: UnixStream, service: &Service) -> Option<(UnixStream, Peer, Option<OwnedFd>, Place)> {
    let refused: ConnectionError = match caller::identify(&stream, &service.backend) {
        Ok((peer, pidfd)) => match service.places.open((peer.uid, peer.realm.is_container())) {
            Some(place) => return Some((stream, peer, pidfd, place)),
            None => ConnectionError::Crowd(peer.uid),
        },
        Err(error) => error.into(),
    };
    tracing::debug!(error = %refused, "connection closed");
    let_go(stream, None);
    None
}

/// Closes a connection in which something may be left: descriptors perhaps, each of which is closed with it. Its place is its
/// user's until that is done.
pub(super) fn let_go(stream: UnixStream, place: Option<Place>) {
    let Ok(stream) = stream.into_std() else { return };
    aside::run(move || {
        drop(stream);
        drop(place);
    });
}

/// How many descriptors the daemon may have: its soft limit, which was raised at the start.
pub(super) fn descriptors_max() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}
