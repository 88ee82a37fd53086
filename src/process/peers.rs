//! Whose a TCP connection of this machine is: `NETLINK_SOCK_DIAG` tells of one socket by its two ends (sock_diag(7)).

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// `struct nlmsghdr` (netlink(7)).
const HEADER_BYTES: usize = 16;
/// `struct inet_diag_req_v2`.
const QUESTION_BYTES: usize = 56;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST_ONE: u16 = 1;
const TCP: u8 = 6;
/// Where `struct inet_diag_msg` has the uid.
const UID_AT: usize = HEADER_BYTES + 64;

/// The user of the socket that is bound to `own` and connected to `other`, in this network namespace.
pub fn owner(own: SocketAddr, other: SocketAddr) -> io::Result<u32> {
    let question = question(own, other);
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
    rustix::net::send(&socket, &question, SendFlags::empty())?;
    let mut bytes = [0u8; 1024];
    // The kernel answers while it is asked.
    let (_, read) = rustix::net::recv(&socket, &mut bytes[..], RecvFlags::DONTWAIT)?;
    let answer = &bytes[..read.min(bytes.len())];
    let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    let uid = answer.get(UID_AT..UID_AT + 4).and_then(|uid| uid.try_into().ok()).map(u32::from_ne_bytes);
    match (kind, uid) {
        (Some(SOCK_DIAG_BY_FAMILY), Some(uid)) => Ok(uid),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn question(own: SocketAddr, other: SocketAddr) -> Vec<u8> {
    let family = if own.is_ipv4() { nix::libc::AF_INET } else { nix::libc::AF_INET6 };
    let mut question = Vec::with_capacity(HEADER_BYTES + QUESTION_BYTES);
    question.extend(((HEADER_BYTES + QUESTION_BYTES) as u32).to_ne_bytes());
    question.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question.extend(REQUEST_ONE.to_ne_bytes());
    question.extend([0u8; 8]);
    // The family, the protocol, nothing more than the socket itself, padding; all states.
    question.extend([family as u8, TCP, 0, 0]);
    question.extend(u32::MAX.to_ne_bytes());
    question.extend(own.port().to_be_bytes());
    question.extend(other.port().to_be_bytes());
    question.extend(address(own.ip()));
    question.extend(address(other.ip()));
    // On whichever interface, and with whichever cookie.
    question.extend(0u32.to_ne_bytes());
    question.extend([0xff; 8]);
    question
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_of_this_machine_is_its_users() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(any) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, there) = listener.accept().unwrap();
            assert_eq!(question(there, server.local_addr().unwrap()).len(), HEADER_BYTES + QUESTION_BYTES);
            match owner(there, server.local_addr().unwrap()) {
                Ok(uid) => assert_eq!(uid, rustix::process::getuid().as_raw()),
                // A kernel may come without sock_diag(7) for TCP.
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
            }
            drop(client);
        }
    }

    #[test]
    fn of_what_is_no_connection_nobody_is_the_user() {
        let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
        assert!(owner(nowhere, "127.0.0.1:2".parse().unwrap()).is_err());
    }
}
