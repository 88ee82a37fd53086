//! What a daemon finds, and what it takes away: leaves are adopted, empty ones swept, and the units of a session without
//! servers stopped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Units, lock, paths};
use crate::backend::held;
use crate::cgroup::{Above, Caller, Cgroup, CgroupError, Group, Leaf, Scope};
use crate::limits::Limits;
use crate::naming::{MACHINE_SLICE, SessionKey};
use crate::systemd::SystemdError;

/// How long a unit that was stopped may keep its cgroup.
const GONE_MAX: Duration = Duration::from_secs(2);

impl Units {
    /// Opens a leaf that an earlier daemon made. What held its launcher goes on holding its session; where that is not known,
    /// because the daemon was of a version that did not write it down, what holds it now does.
    pub fn adopt(&self, at: &Caller, held: Option<&Limits>) -> Result<Leaf, CgroupError> {
        let found = self.scopes(&at.key)?.into_iter().find_map(|(scope, unit)| {
            let leaf = Group::open(&paths(scope.path().join(at.leaf.as_str()))).ok()?;
            Some((scope, unit, leaf))
        });
        let Some((directory, unit, group)) = found else {
            let path = self.session_directory(&at.key).join(at.leaf.as_str());
            return Err(CgroupError::gone(path));
        };
        let cgroup = format!("{}/{}", self.cgroup_of(&at.key, &unit), at.leaf.as_str());
        let session = self.session(&at.key);
        let mut session = lock(&session);
        let session = match &mut *session {
            Some(session) => session,
            kept => kept.insert(self.open_session(&at.key)?),
        };
        session.held = held::strictest(session.held, &held.copied().unwrap_or_else(|| session.group.limits()));
        let above = Above {
            session: session.group.clone(),
            machine: session.machine.clone(),
            scope: Some(Scope { directory, unit, tally: session.tally.clone() }),
        };
        Ok(self.with_its_annex(&at.key, Leaf::new(at.leaf.clone(), group, above, cgroup)))
    }

    /// Opens what is left of a leaf that is gone, as systemd removes it with its scope once that is empty: nothing but the
    /// levels above, as far as they stand.
    pub fn adopt_remains(&self, at: &Caller) -> Result<Leaf, CgroupError> {
        let session = self.session_directory(&at.key);
        let group = Group::open_remains(&paths(session.join(at.leaf.as_str())))?;
        let cgroup = format!("{}/{}/{}", self.machine, at.key.slice(), at.leaf.as_str());
        let (session, machine) = (Group::open_remains(&paths(session))?, Group::open_remains(&paths(self.root()))?);
        let above = Above { session: Arc::new(session), machine: Arc::new(machine), scope: None };
        Ok(self.with_its_annex(&at.key, Leaf::new(at.leaf.clone(), group, above, cgroup)))
    }

    /// Removes an empty leaf that a dead daemon left, and its session if that was all.
    pub fn sweep(&self, at: &Caller) -> Result<(), SweepError> {
        for (scope, _) in self.scopes(&at.key)? {
            scope.remove_tree(at.leaf.as_str())?;
        }
        self.remove_annex(&at.key, &at.leaf)?;
        self.remove_session(&at.key)
    }

    /// Stops the slice of a session that has no process any more, and with it a scope that never saw one end. That the
    /// session is in use again is no error; that a launcher which was refused is still in it is one.
    pub fn remove_session(&self, key: &SessionKey) -> Result<(), SweepError> {
        let removed = self.remove_if_empty(key)?;
        let mut lingering = lock(&self.lingering);
        if removed {
            lingering.remove(key);
        }
        if lingering.contains(key) { Err(SweepError::Lingers(key.slice())) } else { Ok(()) }
    }

    /// Removes every session that has no process and no leaf.
    pub fn sweep_empty(&self) {
        let children = Cgroup::open(self.root()).and_then(|machine| machine.children()).unwrap_or_default();
        for key in children.iter().filter_map(|slice| SessionKey::of_slice(slice)) {
            let is_empty = self.scopes(&key).is_ok_and(|scopes| {
                scopes.iter().all(|(scope, _)| scope.children().is_ok_and(|children| children.is_empty()))
            });
            if is_empty {
                // It is tried again at the next start.
                let _ = self.remove_if_empty(&key);
            }
        }
    }

    /// `false` where it has processes.
    fn remove_if_empty(&self, key: &SessionKey) -> Result<bool, SweepError> {
        let session = self.session(key);
        let mut session = lock(&session);
        let directory = self.session_directory(key);
        let populated = match Cgroup::open(&directory) {
            Ok(slice) => slice.populated()?,
            Err(error) if error.is_gone() => false,
            Err(error) => return Err(error.into()),
        };
        if populated {
            return Ok(false);
        }
        self.manager.stop(&key.slice())?;
        let start = Instant::now();
        while directory.exists() && start.elapsed() < GONE_MAX {
            std::thread::sleep(Duration::from_millis(2));
        }
        *session = None;
        // Whoever waits for this session at this moment holds it too, and goes on with it.
        let mut sessions = lock(&self.sessions);
        if sessions.get(key).is_some_and(|entry| Arc::strong_count(entry) == 2) {
            sessions.remove(key);
        }
        Ok(true)
    }

    /// Stops the machine's slice where no session is in it: at the daemon's end.
    pub fn close(&self) {
        let empty = Cgroup::open(self.root()).and_then(|machine| machine.children());
        if empty.is_ok_and(|children| children.is_empty()) {
            // That it is kept by somebody else's unit, or that the manager is gone, harms nobody.
            let _ = self.manager.stop(MACHINE_SLICE);
        }
    }
}

/// A session was not removed.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The kernel refused something.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// systemd refused something.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// A launcher that was refused has not left yet.
    #[error("a launcher that was refused is still in {0}")]
    Lingers(String),
}
