//! What there is one daemon for: a socket, and a service manager. Both are locked for as long as the daemon lives.
//!
//! A cgroup tree is the third; [`crate::cgroup`] locks that itself.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::others::{self, Other};
use super::{ServeError, failed};
use crate::client::{beside, prepare_directory};
use crate::systemd::Bus;

/// How long a daemon waits for the one before it, which no longer listens and has not let go of its lock yet.
const HANDOVER_MAX: Duration = Duration::from_secs(5);

/// What stands before its pid in the lock of a daemon that a launch started.
const ON_DEMAND: &str = "started on demand, as process ";

/// Who wants a socket to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// A daemon that a launch starts: the others go before it.
    OnDemand,
    /// One that a supervisor or a person starts, to stay.
    ToStay,
    /// The same, where a manager listens for it already.
    Handed,
    /// Nobody who listens: no daemon is to start meanwhile.
    ToThaw,
}

/// One daemon for one socket. One that a launch started makes way for one that is to stay, which adopts what it contains.
pub(super) fn socket(socket: &Path, claim: Claim) -> Result<File, ServeError> {
    let path = beside(socket, "lock");
    let mut file = open(&path)?;
    let is_to_stay = matches!(claim, Claim::ToStay | Claim::Handed);
    let mut told = None;
    let taken = |file: &File| {
        if let Some(pid) = started_on_demand(file).filter(|_| is_to_stay) {
            if told != Some(pid) {
                make_way(&path, pid);
                told = Some(pid);
            }
            return None;
        }
        // One that cannot be spoken to is on its way out, or in. Where a manager listens that tells nothing.
        (claim != Claim::Handed && UnixStream::connect(socket).is_ok()).then(|| socket.to_owned())
    };
    match wait_for(&file, &path, taken)? {
        Locked::Ours => {
            let told = match claim {
                Claim::OnDemand => format!("{ON_DEMAND}{}", std::process::id()),
                Claim::ToStay | Claim::Handed | Claim::ToThaw => String::new(),
            };
            rewrite(&mut file, told.as_bytes()).map_err(failed("write", &path))?;
            Ok(file)
        }
        Locked::By(_) => Err(ServeError::Taken { socket: socket.to_owned(), other: Other::that_locked(&path).here() }),
    }
}

/// The daemon that wrote into this lock that it was started on demand. It may be gone by now.
fn started_on_demand(file: &File) -> Option<i32> {
    String::from_utf8(content(file).ok()?).ok()?.strip_prefix(ON_DEMAND)?.parse().ok()
}

/// Tells it to stop, as `systemctl stop` does.
fn make_way(lock: &Path, pid: i32) {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return };
    let told = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).and_then(|process| {
        // It is that process, and no later one of its number: it still has the lock.
        match others::holder(lock) {
            Some(holder) if holder == pid.as_raw_nonzero().get() => {
                rustix::process::pidfd_send_signal(process, rustix::process::Signal::TERM)
            }
            _ => Ok(()),
        }
    });
    match told {
        Ok(()) => tracing::info!(%pid, "the daemon that a launch had started makes way; what it contains is adopted"),
        Err(error) => tracing::warn!(%pid, %error, "the daemon that a launch had started cannot be told to stop"),
    }
}

/// One daemon for one service manager: two would share [`pinfold.slice`](crate::naming::MACHINE_SLICE), sweep each other's
/// leaves and stop the slice under each other. The file tells where the one that has it listens.
pub(super) fn manager(bus: &Bus, socket: &Path) -> Result<File, ServeError> {
    let path = bus.runtime_directory().join("manager.lock");
    prepare_directory(&path)?;
    let mut file = open(&path)?;
    let named = |file: &File| {
        let other = PathBuf::from(OsString::from_vec(content(file).ok()?));
        UnixStream::connect(&other).is_ok().then_some(other)
    };
    match wait_for(&file, &path, named)? {
        Locked::Ours => {
            let absolute = std::path::absolute(socket).map_err(failed("find", socket))?;
            rewrite(&mut file, absolute.as_os_str().as_bytes()).map_err(failed("write", &path))?;
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

/// What stands in a lock, from its beginning: it may have been read before, by the wait's last turn.
fn content(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(4096).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn rewrite(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(bytes)
}

fn open(path: &Path) -> Result<File, ServeError> {
    let file = File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(path);
    file.map_err(failed("open", path))
}

/// Takes the lock; waits a moment where `listening` does not tell where the one that has it listens.
fn wait_for(
    file: &File,
    path: &Path,
    mut listening: impl FnMut(&File) -> Option<PathBuf>,
) -> Result<Locked, ServeError> {
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
