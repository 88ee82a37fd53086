//! What there is one daemon for: a socket, and a service manager. Both are locked for as long as the daemon lives.
//!
//! A cgroup tree is the third; [`crate::cgroup`] locks that itself.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Other, ServeError, failed};
use crate::chain::chain;
use crate::client::{beside, prepare_directory};
use crate::naming::ON_DEMAND_UNIT;
use crate::systemd::{Bus, Manager};

/// How long a daemon waits for the one before it, which no longer listens and has not let go of its lock yet.
const HANDOVER_MAX: Duration = Duration::from_secs(5);

/// One daemon for one socket.
pub(super) fn socket(socket: &Path, is_handed: bool) -> Result<File, ServeError> {
    let path = beside(socket, "lock");
    let file = open(&path)?;
    if is_handed && rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        stop_on_demand();
    }
    // One that cannot be spoken to is on its way out, or in. Where a manager listens that tells nothing.
    let taken = |_: &File| (!is_handed && UnixStream::connect(socket).is_ok()).then(|| socket.to_owned());
    match wait_for(&file, &path, taken)? {
        Locked::Ours => Ok(file),
        Locked::By(_) => Err(ServeError::Taken { socket: socket.to_owned(), other: Other::that_locked(&path).here() }),
    }
}

/// A daemon that a launch started, before a manager listened here for the installed one, can be reached by nobody any more: it
/// is stopped, and what it contains adopted.
fn stop_on_demand() {
    let manager = Bus::find(nix::unistd::geteuid().as_raw()).map(Manager::connect);
    for unit in ["service", "scope"].map(|kind| format!("{ON_DEMAND_UNIT}.{kind}")) {
        if let Ok(Ok(manager)) = &manager
            && let Err(error) = manager.stop(&unit)
        {
            tracing::warn!(error = %chain(&error), "the daemon that a launch had started is not stopped");
        }
    }
}

/// One daemon for one service manager: two would share [`pinfold.slice`](crate::naming::MACHINE_SLICE), sweep each other's
/// leaves and stop the slice under each other. The file tells where the one that has it listens.
pub(super) fn manager(bus: &Bus, socket: &Path) -> Result<File, ServeError> {
    let path = bus.runtime_directory().join("manager.lock");
    prepare_directory(&path)?;
    let mut file = open(&path)?;
    let named = |file: &File| {
        let mut name = Vec::new();
        // Its beginning may have been read before, by the wait's last turn.
        let mut file = file.take(4096);
        let read = file.get_mut().rewind().and_then(|()| file.read_to_end(&mut name));
        let other = read.ok().map(|_| PathBuf::from(std::ffi::OsString::from_vec(name)))?;
        UnixStream::connect(&other).is_ok().then_some(other)
    };
    match wait_for(&file, &path, named)? {
        Locked::Ours => {
            let told = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| {
                let absolute = std::path::absolute(socket)?;
                file.write_all(absolute.as_os_str().as_bytes())
            });
            told.map_err(failed("write", &path))?;
            Ok(file)
        }
        Locked::By(Some(other)) => Err(ServeError::ManagerTaken { manager: bus.word(), other: Other::at(other) }),
        Locked::By(None) => Err(ServeError::ManagerTaken { manager: bus.word(), other: Other::that_locked(&path) }),
    }
}

/// How a wait for a lock ended.
enum Locked {
    Ours,
    /// Another daemon has it, and listens there, if that is known.
    By(Option<PathBuf>),
}

fn open(path: &Path) -> Result<File, ServeError> {
    let file = File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(path);
    file.map_err(failed("open", path))
}

/// Takes the lock; waits a moment where `listening` does not tell where the one that has it listens.
fn wait_for(file: &File, path: &Path, listening: impl Fn(&File) -> Option<PathBuf>) -> Result<Locked, ServeError> {
    let deadline = Instant::now() + HANDOVER_MAX;
    loop {
        match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Locked::Ours),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(failed("lock", path)(errno.into())),
        }
        let other = listening(file);
        if other.is_some() || Instant::now() >= deadline {
            return Ok(Locked::By(other));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
