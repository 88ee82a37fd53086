//! Where the containers of a server are made that an engine's daemon makes for it: in its leaf on either backend, or in a slice
//! beside its scope.

use super::{AdmitError, Backend, SweepError};
use crate::cgroup::Leaf;
use crate::limits::Limits;
use crate::naming::{LeafName, SessionKey};
use crate::systemd::Bus;

impl Backend {
    /// Whether a slice of ours is one to an engine's daemon: it speaks to the system's manager, where another one's name would
    /// make a new slice.
    pub fn has_slices_for_engines(&self) -> bool {
        matches!(self, Self::Systemd(units) if *units.manager().bus() == Bus::System)
    }

    /// Gives a new leaf a slice for its containers, under the server's limits; or the leaf back.
    pub fn annex(
        &self,
        key: &SessionKey,
        leaf: Leaf,
        limits: &Limits,
    ) -> Result<Leaf, (Option<AdmitError>, Box<Leaf>)> {
        match self {
            Self::Systemd(units) => units.annex(key, leaf, limits).map_err(|(error, leaf)| (Some(error), leaf)),
            Self::Cgroupfs(_) => Err((None, Box::new(leaf))),
        }
    }

    /// Removes that slice, which has nobody in it any more, where there is one. The end of the session does it as well.
    pub fn remove_annex(&self, key: &SessionKey, leaf: &LeafName) -> Result<(), SweepError> {
        match self {
            Self::Systemd(units) => Ok(units.remove_annex(key, leaf)?),
            Self::Cgroupfs(_) => Ok(()),
        }
    }
}
