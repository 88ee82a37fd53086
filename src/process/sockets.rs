//! The unix sockets of this network namespace, as the kernel lists them for ss(8): `NETLINK_SOCK_DIAG` (sock_diag(7)).
//!
//! A socket pair whose other end was closed stays connected in all that `/proc` shows; that nothing can come from there any
//! more is told here alone.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// How many sockets are taken note of.
const SOCKETS_MAX: usize = 500_000;

/// `struct nlmsghdr` (netlink(7)).
const HEADER_BYTES: usize = 16;
/// `struct unix_diag_msg` (sock_diag(7)).
const MESSAGE_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const REQUEST_ALL: u16 = 0x301;
/// Wants [`PEER`] in the answer.
const UDIAG_SHOW_PEER: u32 = 4;
/// `UNIX_DIAG_PEER`: the inode of the other end.
const PEER: u16 = 2;
/// `UNIX_DIAG_SHUTDOWN`: which ways are shut; it comes with every socket.
const SHUTDOWN: u16 = 6;
/// `RCV_SHUTDOWN` of it: nothing comes in any more.
const NO_INPUT: u8 = 1;
/// `TCP_LISTEN`, which unix sockets use as well.
const LISTENS: u8 = 10;

/// One unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixSocket {
    /// The inode of its other end; 0 where there is none.
    pub peer: u64,
    /// All that can be read of it is what waits in it, and its end.
    pub has_ended: bool,
    /// It waits for connections.
    pub listens: bool,
}

/// All of them, by inode. An error where the kernel does not tell, or not until the deadline.
pub fn unix(deadline: Instant) -> io::Result<HashMap<u64, UnixSocket>> {
    let socket = open()?;
    let mut found = HashMap::new();
    let mut bytes = vec![0u8; 64 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || found.len() > SOCKETS_MAX {
            return Err(io::ErrorKind::TimedOut.into());
        }
        set_socket_timeout(&socket, Timeout::Recv, Some(left.max(Duration::from_millis(1))))?;
        let (_, read) = rustix::net::recv(&socket, &mut bytes[..], RecvFlags::empty())?;
        if read == 0 || take(&bytes[..read.min(bytes.len())], &mut found)? {
            return Ok(found);
        }
    }
}

/// A socket on which the question was asked.
fn open() -> io::Result<OwnedFd> {
    let kind = (AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG));
    let socket = rustix::net::socket_with(kind.0, kind.1, kind.2, kind.3)?;
    let mut question = Vec::new();
    question.extend((HEADER_BYTES as u32 + 24).to_ne_bytes());
    question.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question.extend(REQUEST_ALL.to_ne_bytes());
    question.extend([0u8; 8]);
    // struct unix_diag_req: the family, no protocol, padding, all states, no inode, what to show, no cookie.
    question.extend([nix::libc::AF_UNIX as u8, 0, 0, 0]);
    question.extend(u32::MAX.to_ne_bytes());
    question.extend(0u32.to_ne_bytes());
    question.extend(UDIAG_SHOW_PEER.to_ne_bytes());
    question.extend([0xff; 8]);
    rustix::net::send(&socket, &question, SendFlags::empty())?;
    Ok(socket)
}

/// Takes the messages of one datagram; whether they were the last.
fn take(mut bytes: &[u8], found: &mut HashMap<u64, UnixSocket>) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let Some(message) = bytes.get(HEADER_BYTES..length as usize) else { break };
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let errno = u32_at(message, 0).map_or(0, |code| (code as i32).saturating_neg());
                return Err(io::Error::from_raw_os_error(errno));
            }
            SOCK_DIAG_BY_FAMILY => found.extend(parse(message)),
            _ => {}
        }
        bytes = bytes.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn parse(message: &[u8]) -> Option<(u64, UnixSocket)> {
    let inode = u64::from(u32_at(message, 4)?);
    let mut socket = UnixSocket { peer: 0, has_ended: false, listens: message.get(2) == Some(&LISTENS) };
    let mut rest = message.get(MESSAGE_BYTES..)?;
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let Some(value) = rest.get(4..usize::from(length)) else { break };
        match kind {
            PEER => socket.peer = u64::from(u32_at(value, 0)?),
            SHUTDOWN => socket.has_ended = value.first()? & NO_INPUT != 0,
            _ => {}
        }
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    Some((inode, socket))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn inode(socket: &impl AsRawFd) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }

    fn all() -> HashMap<u64, UnixSocket> {
        unix(Instant::now() + Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn a_socket_pair_is_told_with_its_other_end_and_that_it_was_closed() {
        let (one, other) = UnixStream::pair().unwrap();
        let seen = all()[&inode(&one)];
        assert_eq!(seen, UnixSocket { peer: inode(&other), has_ended: false, listens: false });
        other.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(all()[&inode(&one)].has_ended, "its other end writes no more");
        drop(other);
        assert!(all()[&inode(&one)].has_ended, "its other end is gone");
    }

    #[test]
    fn what_waits_for_connections_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(directory.path().join("s")).unwrap();
        assert!(all()[&inode(&listener)].listens);
    }

    #[test]
    fn an_answer_that_is_cut_off_is_taken_as_far_as_it_goes() {
        let mut bytes = vec![0u8; HEADER_BYTES + MESSAGE_BYTES];
        bytes[0] = (HEADER_BYTES + MESSAGE_BYTES) as u8;
        bytes[4] = SOCK_DIAG_BY_FAMILY as u8;
        bytes[HEADER_BYTES + 4] = 9;
        for length in 0..bytes.len() {
            let mut found = HashMap::new();
            assert!(!take(&bytes[..length], &mut found).unwrap());
            assert!(found.is_empty());
        }
        let mut found = HashMap::new();
        take(&bytes, &mut found).unwrap();
        assert!(found.contains_key(&9));
    }
}
