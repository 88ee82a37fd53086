//! What comes on a connection: bytes, and the descriptors along with them, each of them counted as its user's.

use std::io;
use std::mem::MaybeUninit;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::aside::Foreign;
use super::places::Place;
use crate::wire::{self, Inbox};

/// What one read gave.
pub(super) struct Heard {
    pub(super) bytes: usize,
    /// More descriptors than are taken: the kernel closed some of them, or they were closed here.
    pub(super) surplus: bool,
}

/// How many descriptors come with one read at most (unix(7)).
const SCM_MAX_FD: usize = 253;

/// Reads once, with the descriptors that come along.
pub(super) async fn receive(
    stream: &UnixStream,
    inbox: &mut Inbox,
    descriptors: &mut Vec<Foreign>,
    place: &Place,
) -> io::Result<Heard> {
    stream
        .async_io(Interest::READABLE, || {
            let mut bytes = [0u8; 8192];
            // All of them: what there is no room for the kernel closes, on this thread.
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SCM_MAX_FD))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::net::recvmsg(
                stream,
                &mut [io::IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
            )?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(sent) = message {
                    descriptors.extend(sent.map(|fd| place.lend(fd)));
                }
            }
            let surplus = received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > wire::DESCRIPTORS_MAX;
            descriptors.truncate(wire::DESCRIPTORS_MAX);
            inbox.push(&bytes[..received.bytes]);
            Ok(Heard { bytes: received.bytes, surplus })
        })
        .await
}
