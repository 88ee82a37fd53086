//! A manager's own socket as a transport for zbus.
//!
//! There systemd calls itself `org.freedesktop.systemd1` in the sender field of every message (sd_bus_set_sender(3)). On a
//! bus that field is a unique name, and zbus takes nothing else: so its first letter is made the colon that such a name
//! begins with, and the rest is left as it is.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;

/// What systemd calls itself.
const SENDER: &[u8] = b"org.freedesktop.systemd1";

/// Beyond any line of the handshake.
const LINE_MAX: usize = 256;

/// The first part of a message's header, which tells how long the rest is (D-Bus specification, "Message Format").
const FIXED: usize = 16;

/// The longest message that the specification allows.
const MESSAGE_MAX: usize = 128 << 20;

/// How many descriptors one message may carry.
const DESCRIPTORS: usize = 16;

/// A connection that has passed the handshake.
#[derive(Debug)]
pub(super) struct Private(UnixStream);

/// Connects and shows who we are (D-Bus specification, "Authentication Protocol"); gives the server's id as well.
pub(super) async fn connect(path: &Path) -> io::Result<(Private, String)> {
    let mut stream = UnixStream::connect(path).await?;
    let uid: String = nix::unistd::geteuid().to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
    let hello = format!("\0AUTH EXTERNAL {uid}\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n");
    stream.write_all(hello.as_bytes()).await?;
    let refused = |line: String| io::Error::new(io::ErrorKind::PermissionDenied, format!("it answered {line:?}"));
    let first = line(&mut stream).await?;
    let Some(id) = first.strip_prefix("OK ").map(str::to_owned) else { return Err(refused(first)) };
    let second = line(&mut stream).await?;
    if second != "AGREE_UNIX_FD" {
        return Err(refused(second));
    }
    Ok((Private(stream), id))
}

/// One line of the handshake. What follows it stays unread.
async fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if line.len() > LINE_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        line.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

impl Socket for Private {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let stream = Arc::new(self.0);
        Split::new(Reader { stream: stream.clone(), message: Vec::new(), given: 0 }, Writer(stream))
    }
}

/// Reads whole messages, and gives them on in pieces of any size.
#[derive(Debug)]
pub(super) struct Reader {
    stream: Arc<UnixStream>,
    message: Vec<u8>,
    given: usize,
}

impl Reader {
    /// Fills `self.message` up to this length; `false` where the other end hung up.
    async fn fill(&mut self, length: usize) -> io::Result<bool> {
        let mut at = self.message.len();
        self.message.resize(length, 0);
        while at < length {
            let (stream, room) = (&self.stream, &mut self.message[at..]);
            let read = stream.async_io(Interest::READABLE, || Ok(rustix::io::read(&**stream, &mut *room)?)).await?;
            if read == 0 {
                return Ok(false);
            }
            at += read;
        }
        Ok(true)
    }

    async fn next(&mut self) -> io::Result<bool> {
        self.message.clear();
        self.given = 0;
        if !self.fill(FIXED).await? {
            return Ok(false);
        }
        let (fields, total) = lengths(&self.message).ok_or(io::ErrorKind::InvalidData)?;
        if !self.fill(total).await? {
            return Ok(false);
        }
        make_unique(&mut self.message[FIXED..FIXED + fields]);
        Ok(true)
    }
}

/// How long the header fields are, and the whole message.
fn lengths(fixed: &[u8]) -> Option<(usize, usize)> {
    let number = |at: usize| {
        let bytes: [u8; 4] = fixed.get(at..at + 4)?.try_into().ok()?;
        let number = if fixed[0] == b'B' { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        usize::try_from(number).ok()
    };
    let (body, fields) = (number(4)?, number(12)?);
    let total = FIXED.checked_add(fields.checked_next_multiple_of(8)?)?.checked_add(body)?;
    (total <= MESSAGE_MAX).then_some((fields, total))
}

/// The sender field among the header fields (code 7, of type `s`) that has the well-known name gets a unique one.
fn make_unique(fields: &mut [u8]) {
    let field = |length: [u8; 4]| [&[7, 1, b's', 0][..], &length[..], SENDER, &[0]].concat();
    let length = SENDER.len() as u32;
    for wanted in [field(length.to_le_bytes()), field(length.to_be_bytes())] {
        if let Some(at) = fields.windows(wanted.len()).position(|found| found == wanted) {
            fields[at + wanted.len() - SENDER.len() - 1] = b':';
        }
    }
}

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        if self.given == self.message.len() && !self.next().await? {
            return Ok((0, Vec::new()));
        }
        let rest = &self.message[self.given..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.given += count;
        // What we ask for is answered without descriptors.
        Ok((count, Vec::new()))
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

/// Writes bytes, with the descriptors that go along.
#[derive(Debug)]
pub(super) struct Writer(Arc<UnixStream>);

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let bytes = [io::IoSlice::new(buffer)];
            Ok(rustix::net::sendmsg(&*self.0, &bytes, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    async fn close(&mut self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Both)?)
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_well_known_sender_of_a_message_is_made_unique() {
        // A signal's fields: path, interface, member, sender; and the same name where it is no sender.
        let mut message = zbus::Message::signal("/org/freedesktop/systemd1", "org.freedesktop.systemd1", "JobNew")
            .sender(":rg.freedesktop.systemd1")
            .build(&"org.freedesktop.systemd1")
            .unwrap()
            .data()
            .to_vec();
        let whole = message.clone();
        let unique = b":rg.freedesktop.systemd1";
        let at = message.windows(unique.len()).position(|found| found == unique).unwrap();
        message[at] = b'o';
        let (fields, total) = lengths(&message).unwrap();
        assert_eq!(total, message.len());
        make_unique(&mut message[FIXED..FIXED + fields]);
        assert!(message == whole);
    }

    #[test]
    fn a_length_beyond_what_a_message_may_have_is_refused() {
        let mut fixed = [0; FIXED];
        fixed[0] = b'l';
        fixed[4..8].copy_from_slice(&[0xff; 4]);
        assert_eq!(lengths(&fixed), None);
        assert_eq!(lengths(&[b'l', 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]), Some((9, 35)));
    }
}
