//! The slice of one server's containers, for an engine that has systemd make its cgroups: beside the scope, in the session's
//! slice, so that the session's limits hold for them, with the server's own as properties.

use super::properties::slice_limits;
use super::{Units, paths};
use crate::backend::AdmitError;
use crate::cgroup::{Annex, CgroupError, Group, Leaf};
use crate::limits::Limits;
use crate::naming::{LeafName, SessionKey};
use crate::systemd::{SystemdError, Value};

/// Properties without which it still does what it is for.
const MAY_LACK: &[&str] = &["CollectMode", "CPUAccounting"];

impl Units {
    /// Makes the slice of a new leaf. It is bound to the leaf's scope: what is left of the server when that is gone, is stopped
    /// though no daemon lives.
    pub fn annex(&self, key: &SessionKey, leaf: Leaf, limits: &Limits) -> Result<Leaf, (AdmitError, Box<Leaf>)> {
        match self.make_annex(key, &leaf, limits) {
            Ok(annex) => Ok(leaf.with_annex(annex)),
            Err(error) => {
                // The session's end stops it where this does not.
                let _ = self.manager.stop(&key.annex(leaf.name().launch()));
                Err((error, Box::new(leaf)))
            }
        }
    }

    fn make_annex(&self, key: &SessionKey, leaf: &Leaf, limits: &Limits) -> Result<Annex, AdmitError> {
        let unit = key.annex(leaf.name().launch());
        let scope = vec![leaf.scope().expect("a leaf of this backend stands in a scope").to_owned()];
        let properties = slice_limits(limits)
            .with("Description", Value::Text(format!("Containers of {} in session {key}", leaf.name())))
            .with("CollectMode", Value::Text("inactive-or-failed".into()))
            .with("BindsTo", Value::Texts(scope.clone()))
            .with("After", Value::Texts(scope));
        self.manager.start(&unit, properties, None, MAY_LACK)?;
        let annex = self.open_annex(key, leaf.name())?;
        annex.group.verify_limits(limits)?;
        Ok(annex)
    }

    pub(super) fn open_annex(&self, key: &SessionKey, leaf: &LeafName) -> Result<Annex, CgroupError> {
        let unit = key.annex(leaf.launch());
        let group = Group::open(&paths(self.session_directory(key).join(&unit)))?;
        Ok(Annex { group, cgroup: self.cgroup_of(key, &unit), unit })
    }

    /// A leaf with its slice, where it has one.
    pub(super) fn with_its_annex(&self, key: &SessionKey, leaf: Leaf) -> Leaf {
        match self.open_annex(key, leaf.name()) {
            Ok(annex) => leaf.with_annex(annex),
            Err(_) => leaf,
        }
    }

    /// Stops the slice of a leaf that is gone, where it had one.
    pub fn remove_annex(&self, key: &SessionKey, leaf: &LeafName) -> Result<(), SystemdError> {
        let unit = key.annex(leaf.launch());
        if self.session_directory(key).join(&unit).exists() { self.manager.stop(&unit) } else { Ok(()) }
    }
}
