//! Where metrics are listened for: a loopback address, or a unix socket that is for the daemon's own user alone.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::Options;
use crate::client::{SYSTEM_SOCKET, beside};
use crate::config::Listen;
use crate::process::peers;

/// Where the system's daemon is asked.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9317);

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Where a daemon listens whose configuration does not say so.
#[derive(Debug, Clone)]
pub(super) struct Usual(Place);

impl Usual {
    /// One daemon of a machine can have the usual address. Any other is told by the path of its own socket.
    pub(super) fn of(options: &Options) -> Self {
        let is_system = options.socket == Path::new(SYSTEM_SOCKET) && options.root.is_none() && !options.on_demand;
        Self(if is_system { Place::Tcp(USUAL) } else { Place::Unix(beside(&options.socket, "http")) })
    }

    /// Where to listen by this word of the configuration; nowhere, perhaps.
    pub(super) fn or(&self, said: &Listen) -> Option<Place> {
        match said {
            Listen::Auto => Some(self.0.clone()),
            Listen::Off => None,
            Listen::Tcp(address) => Some(Place::Tcp(*address)),
            Listen::Unix(path) => Some(Place::Unix(path.clone())),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Listens for as long as it is there.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Listener {
    pub(super) async fn bind(place: &Place) -> io::Result<Self> {
        match place {
            Place::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            Place::Unix(path) => {
                remove_stale(path)?;
                bind_unix(path, BACKLOG).map(|listener| Self::Unix(listener, path.clone()))
            }
        }
    }

    /// The next connection, and whose it is where that can be told.
    pub(super) async fn accept(&self) -> io::Result<(Box<dyn Stream>, Option<u32>)> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, there) = listener.accept().await?;
                let whose = stream.local_addr().and_then(|here| peers::owner(there, here)).ok();
                (Box::new(stream), whose)
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let whose = stream.peer_cred().ok().map(|peer| peer.uid());
                (Box::new(stream), whose)
            }
        })
    }

    /// Whether a browser can reach it, with a name that it was told by whoever it shows a page of.
    pub(super) fn is_for_browsers(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that is for nobody else.
pub(super) fn bind_unix(path: &Path, backlog: i32) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // bind(2) makes the file with the mode of the socket: from its first moment it is for nobody else.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, backlog)?;
    UnixListener::from_std(socket.into())
}

/// Removes a socket on which nobody listens any more: of a daemon that died.
pub(super) fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something stands there that is no socket"));
        }
        Ok(_) => {}
    }
    // One who listens and does not accept is not waited for.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path),
        Ok(()) | Err(Errno::AGAIN) => Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody listens there")),
        Err(error) => Err(error.into()),
    }
}
