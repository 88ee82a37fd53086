//! The transport to a manager's own socket, where there is no bus between.
//!
//! There systemd calls itself `org.freedesktop.systemd1` in the sender field of its messages. The specification has a
//! unique name there, and zbus gives up a message that has anything else. Nobody asks who the sender is on a connection that
//! has one peer, so the name is replaced by a unique one of the same length as the bytes come in.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;

/// The most descriptors that come or go with one message.
const DESCRIPTORS_MAX: usize = 16;

/// The field as the D-Bus specification marshals it, up to the name: its code, the signature `s`, the name's length.
const FIELD: [u8; 4] = [7, 1, b's', 0];
const FOUND: &[u8; 24] = b"org.freedesktop.systemd1";
const INSTEAD: &[u8; 24] = b":org.freedesktop.systemd";

/// A connection to a manager's own socket.
#[derive(Debug)]
pub(super) struct Private(Arc<UnixStream>);

impl Private {
    pub(super) async fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(UnixStream::connect(path).await?)))
    }
}

impl Socket for Private {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        Split::new(Reader(self.0.clone()), Writer(self.0))
    }
}

#[derive(Debug)]
pub(super) struct Reader(Arc<UnixStream>);

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let (mut length, mut descriptors) = receive(&self.0, buffer).await?;
        // A field that came in part is waited for. It does not lie across the end of the buffer, which is that of a message
        // or of its first 16 bytes, in which no field is.
        while length > 0 && length < buffer.len() && ends_within_field(&buffer[..length]) {
            let (more, others) = receive(&self.0, &mut buffer[length..]).await?;
            descriptors.extend(others);
            length += more;
            if more == 0 {
                break;
            }
        }
        replace(&mut buffer[..length]);
        Ok((length, descriptors))
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

#[derive(Debug)]
pub(super) struct Writer(Arc<UnixStream>);

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let stream = &self.0;
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            Ok(rustix::net::sendmsg(stream, &[io::IoSlice::new(buffer)], &mut control, flags)?)
        };
        stream.async_io(Interest::WRITABLE, send).await
    }

    async fn close(&mut self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Both)?)
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

async fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let read = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = rustix::net::recvmsg(stream, &mut [io::IoSliceMut::new(buffer)], &mut control, flags)?;
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = message {
                descriptors.extend(sent);
            }
        }
        Ok((received.bytes, descriptors))
    };
    stream.async_io(Interest::READABLE, read).await
}

/// The sender field with systemd's name.
fn field() -> [u8; 32] {
    let mut field = [0; 32];
    field[..4].copy_from_slice(&FIELD);
    field[4..8].copy_from_slice(&(FOUND.len() as u32).to_ne_bytes());
    field[8..].copy_from_slice(FOUND);
    field
}

fn replace(bytes: &mut [u8]) {
    let field = field();
    let places = bytes.windows(field.len()).enumerate().filter(|(_, window)| *window == field);
    let places: Vec<usize> = places.map(|(at, _)| at + 8).collect();
    for at in places {
        bytes[at..at + INSTEAD.len()].copy_from_slice(INSTEAD);
    }
}

fn ends_within_field(bytes: &[u8]) -> bool {
    let field = field();
    (1..field.len().min(bytes.len() + 1)).any(|length| bytes.ends_with(&field[..length]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_is_no_unique_one_is_replaced_wherever_the_bytes_are_cut() {
        let mut message = b"l\x02\x01\x01 and what is before ".to_vec();
        message.extend(field());
        message.extend(b"\0 and a body with org.freedesktop.systemd1 in it");
        let mut whole = message.clone();
        replace(&mut whole);
        let text = String::from_utf8_lossy(&whole);
        assert!(
            text.contains(":org.freedesktop.systemd\0") && text.ends_with("org.freedesktop.systemd1 in it"),
            "{text}"
        );
        let start = message.windows(4).position(|window| window == FIELD).unwrap();
        for cut in 1..message.len() {
            let within = cut > start && cut < start + field().len();
            assert_eq!(ends_within_field(&message[..cut]), within, "{cut}");
        }
    }
}
