//! The socket that callers come to: one on which the service manager listens for us (sd_listen_fds(3)), or our own.
//!
//! A manager's socket outlives the daemon: who connects while none runs waits there, and has one started. It is neither made
//! nor removed here, its mode and group are its unit's, and it is taken only where it is what callers will come to.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use tokio::net::UnixListener;

use super::listener::{bind_unix, remove_stale};
use super::{ServeError, failed};

/// How long it may take until nobody listens any more for a daemon that was killed.
const CLOSED_MAX: Duration = Duration::from_secs(2);

/// How often that is looked for.
const CLOSED_PAUSE: Duration = Duration::from_millis(20);

/// As many callers may wait as the kernel allows (`net.core.somaxconn`).
const BACKLOG: i32 = i32::MAX;

/// What a socket's name ends with that a manager passes for a unit which gives it no other (`FileDescriptorName=`).
const SOCKET_UNIT: &str = ".socket";

/// A socket on which the manager listens, at the path that callers come to.
#[derive(Debug)]
pub(super) struct Handed(std::os::unix::net::UnixListener);

/// The way in, for as long as callers may come. Our own is removed when it is dropped, unless it is another's by then: a manager
/// whose unit is started makes its socket in the place of any other.
#[derive(Debug)]
pub(super) struct Door {
    own: Option<(PathBuf, FileNumber)>,
}

/// A device and a file on it.
type FileNumber = (u64, u64);

/// Finds the socket among what the manager passed and what is no part of its store. What is not even meant for listening is
/// closed; a socket that listens elsewhere, or that nobody can come to, is a mistake that somebody has to know of.
pub(super) fn handed(passed: Vec<(String, OwnedFd)>, socket: &Path) -> Result<Option<Handed>, ServeError> {
    let meant = |name: &str, fd: &OwnedFd| name.ends_with(SOCKET_UNIT) || socket_acceptconn(fd).unwrap_or(false);
    let mut found = None;
    for (name, fd) in passed.into_iter().filter(|(name, fd)| meant(name, fd)) {
        match check(fd, socket) {
            Ok(listener) => found = Some(Handed(listener)),
            Err(why) => return Err(ServeError::Passed { name, why, socket: socket.to_owned() }),
        }
    }
    Ok(found)
}

fn check(fd: OwnedFd, socket: &Path) -> Result<std::os::unix::net::UnixListener, String> {
    let kind = (socket_domain(&fd).ok(), socket_type(&fd).ok(), socket_acceptconn(&fd).ok());
    if kind != (Some(AddressFamily::UNIX), Some(SocketType::STREAM), Some(true)) {
        return Err("is no unix stream socket that listens (ListenStream= with a path)".into());
    }
    let listener = std::os::unix::net::UnixListener::from(fd);
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let Some(path) = address.as_pathname() else { return Err("has no path".into()) };
    if !is_same(path, socket) {
        return Err(format!("listens at {}", path.display()));
    }
    match std::fs::symlink_metadata(socket) {
        Ok(found) if found.file_type().is_socket() => Ok(listener),
        _ => Err("has lost its file, so nobody can come to it: its unit has to be restarted".into()),
    }
}

/// Whether two paths are of one file, as /run and /var/run have them.
fn is_same(path: &Path, other: &Path) -> bool {
    path == other || number(path).is_some_and(|one| number(other) == Some(one))
}

fn number(path: &Path) -> Option<FileNumber> {
    std::fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

impl Door {
    /// Lets callers in.
    pub(super) fn open(handed: Option<Handed>, socket: &Path) -> Result<(UnixListener, Self), ServeError> {
        match handed {
            Some(Handed(listener)) => {
                let heard = listen_again(&listener).and_then(|()| UnixListener::from_std(listener));
                Ok((heard.map_err(failed("listen for the service manager on", socket))?, Self { own: None }))
            }
            None => bind(socket).map(|listener| {
                let own = number(socket).map(|number| (socket.to_owned(), number));
                (listener, Self { own })
            }),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some((socket, _)) = self.own.as_ref().filter(|(socket, own)| number(socket) == Some(*own)) {
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// Whoever connects from here on is told by the kernel that it is this process that listens, and not the manager
/// (`SO_PEERCRED` is of the last listen(2)); who waits already stays where it is.
fn listen_again(listener: &std::os::unix::net::UnixListener) -> io::Result<()> {
    rustix::net::listen(listener.as_fd(), BACKLOG)?;
    listener.set_nonblocking(true)
}

/// Who may connect: the user, or for the system daemon whoever is in the group `pinfold`.
fn bind(socket: &Path) -> Result<UnixListener, ServeError> {
    clear(socket)?;
    let listener = bind_unix(socket, BACKLOG).map_err(failed("listen on", socket))?;
    let group = nix::unistd::Group::from_name("pinfold").ok().flatten().filter(|_| nix::unistd::geteuid().is_root());
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    if let Some(group) = group {
        std::os::unix::fs::chown(socket, None, Some(group.gid.as_raw()))
            .map_err(failed("give to group pinfold", socket))?;
    }
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(socket, permissions).map_err(failed("set the mode of", socket))?;
    Ok(listener)
}

/// The lock is ours, so what stands here was left by a daemon that died, unless somebody listens without having the lock: a
/// manager does, and whoever took that socket away would have all that wait there wait in vain.
fn clear(socket: &Path) -> Result<(), ServeError> {
    let start = Instant::now();
    loop {
        match remove_stale(socket) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                return Err(failed("remove the old", socket)(error));
            }
            Err(_) if start.elapsed() >= CLOSED_MAX => return Err(ServeError::Awaited { socket: socket.to_owned() }),
            // It was killed, and its end is not over.
            Err(_) => std::thread::sleep(CLOSED_PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener as Listener, UnixStream};

    fn refused(name: &str, fd: OwnedFd, socket: &Path) -> String {
        handed(vec![(name.to_owned(), fd)], socket).unwrap_err().to_string()
    }

    #[test]
    fn the_socket_at_the_expected_path_is_taken_and_stays_when_the_door_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("pinfold.sock");
        let other = std::fs::File::open("/dev/null").unwrap();
        let passed =
            vec![("stored".to_owned(), other.into()), ("x".to_owned(), Listener::bind(&socket).unwrap().into())];
        let found = handed(passed, &socket).unwrap();
        assert!(found.is_some());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (listener, door) = Door::open(found, &socket).unwrap();
            let caller = UnixStream::connect(&socket).unwrap();
            listener.accept().await.unwrap();
            let peer = nix::sys::socket::getsockopt(&caller, nix::sys::socket::sockopt::PeerCredentials).unwrap();
            assert_eq!(peer.pid(), std::process::id() as i32);
            drop(door);
        });
        assert!(socket.exists());
    }

    #[test]
    fn what_callers_would_not_come_to_is_refused_with_what_is_wrong_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, elsewhere) = (directory.path().join("pinfold.sock"), directory.path().join("other.sock"));
        let listener = Listener::bind(&elsewhere).unwrap();
        let told = refused("pinfold.socket", listener.into(), &socket);
        assert!(told.contains(&format!("listens at {}", elsewhere.display())), "{told}");
        let told = refused("pinfold.socket", UnixDatagram::unbound().unwrap().into(), &socket);
        assert!(told.contains("is no unix stream socket that listens"), "{told}");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(refused("any name", tcp.into(), &socket).contains("is no unix stream socket that listens"));
        let listener = Listener::bind(&socket).unwrap();
        std::fs::remove_file(&socket).unwrap();
        assert!(refused("pinfold.socket", listener.into(), &socket).contains("has lost its file"));
    }

    #[test]
    fn without_a_managers_socket_our_own_is_made_in_the_place_of_a_dead_one_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("pinfold.sock");
        drop(Listener::bind(&socket).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_listener, door) = Door::open(handed(Vec::new(), &socket).unwrap(), &socket).unwrap();
            UnixStream::connect(&socket).unwrap();
            drop(door);
            assert!(!socket.exists());

            let (_listener, door) = Door::open(None, &socket).unwrap();
            std::fs::rename(&socket, directory.path().join("aside")).unwrap();
            let _managers = Listener::bind(&socket).unwrap();
            drop(door);
        });
        assert!(socket.exists(), "what another has made in its place is not its own");
    }
}
