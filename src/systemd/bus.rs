//! Where a systemd manager can be spoken to.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// systemd itself asks for this directory to know whether it is in charge (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Which manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bus {
    /// The system's, on the system bus.
    System,
    /// A user's.
    User(UserBus),
}

/// How a user's manager is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserBus {
    /// Through the user's bus.
    Socket(PathBuf),
    /// At the manager's own socket, where the user has no bus: `dbus-user-session` or `dbus-broker` is not installed.
    Private(PathBuf),
}

/// Why no manager can be spoken to; the message says what to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusMissing {
    /// Another init.
    NotBooted,
    /// The user has no manager now.
    NoUserManager {
        /// Whose.
        uid: u32,
        /// Where it would be.
        runtime: PathBuf,
    },
    /// The user's runtime directory is there, and in it no socket of the manager or of the bus.
    NoSocket(PathBuf),
}

impl std::error::Error for BusMissing {}

impl std::fmt::Display for BusMissing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why())?;
        self.remedy().map_or(Ok(()), |remedy| write!(f, ": {remedy}"))
    }
}

impl BusMissing {
    /// What is missing where, as a clause.
    pub fn why(&self) -> String {
        match self {
            Self::NotBooted => format!("systemd does not manage this machine ({BOOTED} is missing)"),
            Self::NoUserManager { uid, runtime } => {
                format!("uid {uid} has no service manager now ({} is missing)", runtime.display())
            }
            Self::NoSocket(runtime) => {
                format!("{} has neither the socket of a user bus nor that of a service manager", runtime.display())
            }
        }
    }

    /// What would change that; on a machine without systemd nothing has to.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::NotBooted => None,
            Self::NoUserManager { uid, .. } => {
                Some(format!("log in, or have root run `loginctl enable-linger {uid}`, which starts one and keeps it"))
            }
            // Its own socket is there for as long as it runs.
            Self::NoSocket(runtime) => {
                let uid = runtime.file_name().unwrap_or_default().display();
                Some(format!("it does not run: have root run `systemctl start user@{uid}.service`, or log in again"))
            }
        }
    }
}

impl Bus {
    /// The manager for what this user starts: the system's for root, else the user's own.
    pub fn find(uid: u32) -> Result<Self, BusMissing> {
        if !Path::new(BOOTED).is_dir() {
            return Err(BusMissing::NotBooted);
        }
        if uid == 0 { Ok(Self::System) } else { user_bus(uid).map(Self::User) }
    }

    /// Where pinfold keeps what there is one of for each manager: it follows from the manager, and from nothing that a
    /// caller may say.
    pub fn runtime_directory(&self) -> PathBuf {
        match self {
            Self::System => PathBuf::from("/run/pinfold"),
            Self::User(_) => runtime(nix::unistd::geteuid().as_raw()).join("pinfold"),
        }
    }

    /// For people: how it is spoken to.
    pub fn way(&self) -> &'static str {
        match self {
            Self::System => "on the system bus",
            Self::User(UserBus::Socket(_)) => "on the user bus",
            Self::User(UserBus::Private(_)) => "at its own socket, because there is no user bus",
        }
    }

    /// For people: which manager it is.
    pub fn word(&self) -> &'static str {
        match self {
            Self::System => "the system manager",
            Self::User(_) => "the user manager",
        }
    }
}

/// A host gives its servers neither `XDG_RUNTIME_DIR` nor a bus address, so the directory is derived from the uid.
fn user_bus(uid: u32) -> Result<UserBus, BusMissing> {
    let runtime = runtime(uid);
    if !std::fs::metadata(&runtime).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid) {
        return Err(BusMissing::NoUserManager { uid, runtime });
    }
    let is_socket = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let bus = Some(runtime.join("bus")).filter(is_socket).map(UserBus::Socket);
    let private = || Some(runtime.join("systemd/private")).filter(is_socket).map(UserBus::Private);
    bus.or_else(private).ok_or(BusMissing::NoSocket(runtime))
}

/// logind makes it for a user with a manager (user-runtime-dir@.service).
fn runtime(uid: u32) -> PathBuf {
    PathBuf::from(format!("/run/user/{uid}"))
}
