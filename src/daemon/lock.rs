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
use crate::chain::chain;
use crate::client::{beside, on_demand_unit, prepare_directory};
use crate::systemd::{Bus, Manager};

/// How long a daemon waits for the one before it, which no longer listens, or was told to stop, and has not let go of its lock
/// yet. A stop may take 5 s.
const HANDOVER_MAX: Duration = Duration::from_secs(8);

/// What a daemon that a launch started writes into its lock, before its pid, as soon as it heeds signals.
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

/// The lock of a socket, until it is dropped.
pub(super) struct Held {
    file: File,
    path: PathBuf,
    claim: Claim,
}

impl Held {
    /// Tells that this daemon makes way, where it does: from here on it heeds signals.
    pub(super) fn announce(&mut self) {
        if self.claim == Claim::OnDemand {
            let text = format!("{ON_DEMAND}{}", std::process::id());
            if let Err(error) = rewrite(&mut self.file, text.as_bytes()) {
                tracing::warn!(path = %self.path.display(), %error, "this daemon will not make way for one that is to stay");
            }
        }
    }
}

/// One daemon for one socket. One that a launch started makes way for one that is to stay, which adopts what it contains.
pub(super) fn socket(socket: &Path, claim: Claim) -> Result<Held, ServeError> {
    let path = beside(socket, "lock");
    let mut file = open(&path)?;
    let is_to_stay = matches!(claim, Claim::ToStay | Claim::Handed);
    let mut leaving = None;
    let taken = |file: &File| {
        let on_demand = started_on_demand(file).filter(|pid| is_to_stay && others::holder(&path) == Some(*pid));
        if on_demand.is_some() && on_demand != leaving {
            make_way(socket, &path, on_demand?);
            leaving = on_demand;
        }
        // One that cannot be spoken to is on its way out, or in. Where a manager listens that tells nothing.
        (on_demand.is_none() && claim != Claim::Handed && UnixStream::connect(socket).is_ok())
            .then(|| socket.to_owned())
    };
    match wait_for(&file, &path, taken)? {
        Locked::Ours => {
            // What an earlier holder wrote is true of it alone.
            rewrite(&mut file, b"").map_err(failed("write", &path))?;
            Ok(Held { file, path, claim })
        }
        Locked::By(_) => Err(ServeError::Taken { socket: socket.to_owned(), other: Other::that_locked(&path).here() }),
    }
}

/// The daemon that wrote into this lock that it was started on demand. It may be gone by now.
fn started_on_demand(file: &File) -> Option<i32> {
    String::from_utf8(content(file).ok()?).ok()?.strip_prefix(ON_DEMAND)?.parse().ok()
}

/// Has a daemon that a launch started stop: by its manager, which would start it again, or else by the signal that means that.
fn make_way(socket: &Path, lock: &Path, pid: i32) {
    tracing::info!(pid, "the daemon that a launch had started is to make way; what it contains is adopted");
    let manager = Bus::find(nix::unistd::geteuid().as_raw()).map(Manager::connect);
    for kind in ["service", "scope"] {
        let unit = format!("{}.{kind}", on_demand_unit(socket));
        if let Ok(Ok(manager)) = &manager
            && let Err(error) = manager.stop(&unit)
        {
            tracing::warn!(error = %chain(&error), unit, "the daemon that a launch had started is not stopped by its manager");
        }
    }
    let Some(process) = rustix::process::Pid::from_raw(pid) else { return };
    let told = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).and_then(|process| {
        // It is that process, and no later one of its number: it still has the lock.
        let is_it = others::holder(lock) == Some(pid);
        if is_it { rustix::process::pidfd_send_signal(process, rustix::process::Signal::TERM) } else { Ok(()) }
    });
    match told {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => tracing::warn!(pid, %error, "the daemon that a launch had started cannot be told to stop"),
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
