//! The `systemd` backend: each session is a slice with the session's limits, and in it a scope that is delegated to us and
//! holds our leaves; several, where its launches come from hosts in different units.
//!
//! ```text
//!  pinfold.slice                        all of pinfold: the machine's limits
//!  └─ pinfold-<key>.slice               the session: its limits are the unit's properties
//!     ├─ pinfold-<key>-<n>.scope        Delegate=yes: from here on down the cgroups are ours
//!     │  ├─ <leaf>                      a server: limits set by us, read back
//!     │  └─ <leaf>
//!     └─ pinfold-<key>-<n>.slice        containers of one server, made by an engine that has systemd make them
//! ```
//!
//! Slice and scope, because each fails alone: systemd removes a scope's cgroup, and the counters that tell why, within
//! milliseconds of its last exit, while those of the slice stay; and only a scope is delegated. An emptied scope is dead,
//! so the next launch of the session begins another generation. So does one that needs what no living scope was given.
//!
//! No file is written in a cgroup that systemd owns, which is every one but the leaves and the delegated scope's
//! `cgroup.subtree_control` (systemd's CGROUP_DELEGATION, "Some Don'ts"): limits there are changed by properties.

mod adjusting;
mod annexing;
mod binding;
mod handing;
mod host;
mod moving;
mod placing;
mod properties;
mod removing;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::BackendError;
use crate::backend::held::Access;
use crate::cgroup::{
    AdmitError as CgroupAdmitError, Caller, Cgroup, CgroupError, Controllers, Directories, Group, GroupPaths, Layout,
    Membership, Tally,
};
use crate::limits::{Bytes, Limits};
use crate::naming::{LeafName, MACHINE_SLICE, SessionKey};
use crate::realm::Realm;
use crate::systemd::{Bus, Manager, SystemdError};

use binding::Given;
pub use removing::SweepError;

/// Properties that not every manager knows, and what it means where one does not.
pub(super) const NEWER: &[(&str, &str)] = &[
    ("PIDFDs", "launchers are placed by their number, and looked at again afterwards"),
    ("OOMPolicy", "systemd may stop a whole session for memory, where the kernel ended one server"),
    ("CollectMode", "units that failed stay listed until `systemctl reset-failed`"),
];

/// All sessions of one manager.
#[derive(Debug)]
pub struct Units {
    manager: Manager,
    /// Sessions that stand below containers, where there are no units.
    directories: Directories,
    /// The directory of the cgroup that all of the manager's units are below.
    base: PathBuf,
    /// The kernel's path of [`MACHINE_SLICE`].
    machine: String,
    controllers: Controllers,
    sessions: Mutex<HashMap<SessionKey, Arc<Mutex<Option<Session>>>>>,
    /// What the machine's slice was last given.
    machine_limits: Mutex<Option<Limits>>,
    /// The system's manager, which a user's daemon asks about the units of launchers that stand outside its own manager.
    system: Mutex<Option<Arc<Manager>>>,
    /// Sessions that a refused launcher may still be in: they are in use by nobody who may use them.
    lingering: Mutex<HashSet<SessionKey>>,
}

/// What is kept open of a session while it lives.
#[derive(Debug)]
struct Session {
    group: Arc<Group>,
    machine: Arc<Group>,
    tally: Arc<Tally>,
    /// What its launchers were held by where they came from, as limits: the strictest.
    held: Limits,
    /// What its slice restricts besides, once that is of interest.
    access: Option<Access>,
    /// What its living scopes were given, as far as it was asked for.
    scopes: HashMap<String, Given>,
}

impl Units {
    /// Connects to the manager of what this user starts, and finds out what it was given to hand on.
    pub fn open() -> Result<Self, BackendError> {
        let bus = Bus::find(nix::unistd::geteuid().as_raw())?;
        let layout = Layout::detect()?;
        if !matches!(layout, Layout::Pure { .. }) {
            return Err(BackendError::Hybrid);
        }
        let manager = Manager::connect(bus)?;
        manager.probe(NEWER.iter().map(|(name, _)| *name))?;
        let machine = format!("{}/{MACHINE_SLICE}", manager.cgroup());
        let invisible = || BackendError::Invisible(machine.clone());
        let directory = layout.v2().directory(&machine).ok_or_else(invisible)?;
        let base = directory.parent().ok_or_else(invisible)?.to_owned();
        let controllers = Controllers::of(&Cgroup::open(&base)?)?;
        Ok(Self {
            manager,
            directories: Directories::of(layout, &base.join(MACHINE_SLICE), controllers),
            base,
            machine,
            controllers,
            sessions: Mutex::default(),
            machine_limits: Mutex::default(),
            system: Mutex::default(),
            lingering: Mutex::default(),
        })
    }

    /// What is mounted here.
    pub fn layout(&self) -> &Layout {
        self.directories.layout()
    }

    /// Sessions that stand below containers.
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// The manager.
    pub fn manager(&self) -> &Manager {
        &self.manager
    }

    /// Which controllers the manager can give to its units.
    pub fn controllers(&self) -> Controllers {
        self.controllers
    }

    /// The directory of the cgroup that all of the manager's units are below.
    pub(in crate::backend) fn base(&self) -> &Path {
        &self.base
    }

    /// The directory of the machine's slice.
    pub fn root(&self) -> PathBuf {
        self.base.join(MACHINE_SLICE)
    }

    /// How much memory there is to take a share of, in bytes.
    pub fn ram(&self) -> Bytes {
        crate::cgroup::ram(&self.base)
    }

    /// The directory of a session.
    pub fn session_directory(&self, key: &SessionKey) -> PathBuf {
        self.root().join(key.slice())
    }

    /// Which leaf a process in `membership` stands in, if it is one of this manager's sessions.
    pub fn locate(&self, membership: &Membership) -> Option<Caller> {
        let below = membership.v2.as_deref()?.strip_prefix(self.machine.as_str())?.strip_prefix('/')?;
        let mut parts = below.split('/');
        let key = SessionKey::of_slice(parts.next()?)?;
        let (of, _) = SessionKey::of_scope(parts.next()?)?;
        let leaf = LeafName::parse(parts.next()?).ok()?;
        (of == key).then_some(Caller { key, leaf, below: Realm::Host })
    }

    /// The leaves that stand now, for the daemon that takes over from one that died.
    pub fn leaves(&self) -> Result<Vec<Caller>, CgroupError> {
        let machine = match Cgroup::open(self.root()) {
            Ok(machine) => machine,
            Err(error) if error.is_gone() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for slice in machine.children()? {
            let Some(key) = SessionKey::of_slice(&slice) else { continue };
            for (scope, _) in self.scopes(&key)? {
                let names = scope.children()?;
                let leaves = names.iter().filter_map(|name| LeafName::parse(name).ok());
                found.extend(leaves.map(|leaf| Caller { key: key.clone(), leaf, below: Realm::Host }));
            }
        }
        Ok(found)
    }

    /// The scopes of a session whose cgroups are there, newest first.
    fn scopes(&self, key: &SessionKey) -> Result<Vec<(Cgroup, String)>, CgroupError> {
        let slice = match Cgroup::open(self.session_directory(key)) {
            Ok(slice) => slice,
            Err(error) if error.is_gone() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let names = slice.children()?;
        let mut found: Vec<_> = names
            .iter()
            .filter_map(|name| SessionKey::of_scope(name))
            .filter(|(of, _)| of == key)
            .map(|(_, generation)| generation)
            .collect();
        found.sort_unstable_by(|one, other| other.cmp(one));
        let opened = found.into_iter().filter_map(|generation| {
            let unit = key.scope(generation);
            // One that goes at this moment is not there.
            slice.child(&unit).ok().map(|scope| (scope, unit))
        });
        Ok(opened.collect())
    }

    fn session(&self, key: &SessionKey) -> Arc<Mutex<Option<Session>>> {
        lock(&self.sessions).entry(key.clone()).or_default().clone()
    }

    fn open_session(&self, key: &SessionKey) -> Result<Session, CgroupError> {
        let group = Group::open(&paths(self.session_directory(key)))?;
        let machine = Group::open(&paths(self.root()))?;
        let tally = Arc::new(Tally::begin(group.v2()));
        let (group, machine) = (Arc::new(group), Arc::new(machine));
        let (held, scopes) = (Limits::default(), HashMap::new());
        Ok(Session { group, machine, tally, held, access: None, scopes })
    }

    /// The scopes of the session that have processes, so that systemd will not end them under us. Newest first.
    fn living_scopes(&self, key: &SessionKey) -> Result<Vec<(Cgroup, String)>, CgroupAdmitError> {
        let mut living = Vec::new();
        for (scope, unit) in self.scopes(key)? {
            if scope.populated()? {
                living.push((scope, unit));
            }
        }
        Ok(living)
    }

    fn system_manager(&self) -> Result<Arc<Manager>, SystemdError> {
        let mut system = lock(&self.system);
        if let Some(manager) = &*system {
            return Ok(manager.clone());
        }
        Ok(system.insert(Arc::new(Manager::connect(Bus::System)?)).clone())
    }

    /// The kernel's path of a scope.
    fn cgroup_of(&self, key: &SessionKey, scope: &str) -> String {
        format!("{}/{}/{scope}", self.machine, key.slice())
    }
}

fn paths(v2: PathBuf) -> GroupPaths {
    GroupPaths { v2, memory: None, pids: None }
}

/// What is locked here is held over one session's admission or removal, which nobody may do twice at a time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
