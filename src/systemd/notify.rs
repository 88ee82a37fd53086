//! What this process tells the manager that started it (sd_notify(3)): that it is ready, and that it is alive, where the unit
//! has a watchdog (`WatchdogSec=`). Nothing is told by a process that no manager started.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::Duration;

/// Tells that this process is ready. A manager that does not hear it says so itself.
pub fn ready() {
    if let Ok(Some(manager)) = connect() {
        let _ = manager.send(b"READY=1");
    }
}

/// The way to the manager's watchdog, which kills this process when it is not told in time that it is alive.
#[derive(Debug)]
pub struct Watchdog {
    manager: UnixDatagram,
    at_most: Duration,
}

impl Watchdog {
    /// `None` where none is asked for, or another process is to answer (`WATCHDOG_PID`).
    pub fn open() -> Option<Self> {
        let at_most = sd_notify::watchdog_enabled().filter(|at_most| !at_most.is_zero())?;
        let manager = connect().ok()??;
        // Whoever has to say that it turns does not wait for a manager that does not listen.
        manager.set_nonblocking(true).ok()?;
        Some(Self { manager, at_most })
    }

    /// The longest that the manager is content without a word.
    pub fn at_most(&self) -> Duration {
        self.at_most
    }

    /// Tells that this process is alive. An error where the manager takes nothing at this moment.
    pub fn alive(&self) -> io::Result<()> {
        self.manager.send(b"WATCHDOG=1").map(drop)
    }
}

/// The manager's socket, if one started this process and wants to be told.
fn connect() -> io::Result<Option<UnixDatagram>> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(None) };
    let address = match path.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(PathBuf::from(&path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(Some(socket))
}
