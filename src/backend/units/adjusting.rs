//! Limits of slices that live, changed in place: by properties of the unit, which systemd writes to the kernel a moment later.

use std::time::{Duration, Instant};

use super::properties::slice_limits;
use super::{Units, lock};
use crate::backend::adjust::IsGone;
use crate::backend::{AdmitError, held};
use crate::cgroup::{Adjusted, AdmitError as CgroupAdmitError, Annex, Group, KnobError};
use crate::limits::Limits;
use crate::naming::{MACHINE_SLICE, SessionKey};
use crate::policy::{Lowering, Pass};

/// How long systemd may take to write what it was given. It answers before it does.
const WRITTEN_MAX: Duration = Duration::from_secs(5);

/// How often it is looked for.
const WRITTEN_PAUSE: Duration = Duration::from_millis(2);

impl Units {
    /// Changes the limits of all sessions together.
    pub fn adjust_machine(
        &self,
        group: &Group,
        wanted: &Limits,
        how: (Pass, Lowering),
        below: &[&Group],
    ) -> Adjusted<AdmitError> {
        let mut last = lock(&self.machine_limits);
        *last = None;
        group.adjust(wanted, how, below, |limits| self.set_slice(MACHINE_SLICE, group, limits))
    }

    /// Changes the limits of a session, as far as what held its launchers where they came from leaves it room.
    pub fn adjust_session(
        &self,
        (key, group): (&SessionKey, &Group),
        wanted: &Limits,
        how: (Pass, Lowering),
        below: &[&Group],
    ) -> Adjusted<AdmitError> {
        let session = lock(&self.sessions).get(key).cloned().unwrap_or_default();
        let session = lock(&session);
        let held = session.as_ref().map_or_else(Limits::default, |session| session.held);
        let wanted = held::strictest(*wanted, &held);
        group.adjust(&wanted, how, below, |limits| self.set_slice(&key.slice(), group, limits))
    }

    /// Changes the limits of the slice of a server's containers. Their page cache is not ours to give back.
    pub fn adjust_annex(&self, annex: &Annex, wanted: &Limits, how: (Pass, Lowering)) -> Adjusted<AdmitError> {
        annex.group.adjust(wanted, how, &[], |limits| self.set_slice(&annex.unit, &annex.group, limits))
    }

    /// Gives a slice other limits, and waits until the kernel has them.
    pub(super) fn set_slice(&self, slice: &str, group: &Group, limits: &Limits) -> Result<(), AdmitError> {
        self.manager.set(slice, slice_limits(limits))?;
        let start = Instant::now();
        loop {
            match group.verify_limits(limits) {
                Err(KnobError::NotHeld { .. }) if start.elapsed() < WRITTEN_MAX => std::thread::sleep(WRITTEN_PAUSE),
                other => return Ok(other?),
            }
        }
    }
}

impl IsGone for AdmitError {
    fn is_gone(&self) -> bool {
        match self {
            Self::Cgroup(CgroupAdmitError::Cgroup(error)) => error.is_gone(),
            Self::Cgroup(CgroupAdmitError::Knob(error)) => error.is_gone(),
            Self::Systemd(error) => error.is_gone(),
            Self::Cgroup(_) | Self::Held(_) | Self::Kin(_) | Self::ScopeDied { .. } => false,
        }
    }
}
