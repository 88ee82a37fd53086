//! The levels that leaves share, each held once for as long as a leaf stands in it.
//!
//! A directory that was removed meanwhile is found out when something is made in it, which the kernel refuses: whoever tried
//! forgets it and begins anew.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, Weak};

use super::dir::CgroupError;
use super::group::{Group, GroupPaths, Held};

/// From how many on those that nobody holds any more are looked for.
const CROWD: usize = 64;

/// Those of one tree.
#[derive(Debug, Default)]
pub(super) struct Levels(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    held: HashMap<GroupPaths, Weak<Held>>,
    /// How many there are when the next look is worth it.
    look_at: usize,
}

impl Levels {
    /// The level with these directories, if somebody holds it.
    pub(super) fn find(&self, paths: &GroupPaths) -> Option<Group> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.held.get(paths).and_then(Weak::upgrade).map(Group::on)
    }

    /// The same, or what `open` opens.
    pub(super) fn find_or(
        &self,
        paths: &GroupPaths,
        open: impl FnOnce() -> Result<Group, CgroupError>,
    ) -> Result<Group, CgroupError> {
        match self.find(paths) {
            Some(group) => Ok(group),
            None => {
                let group = open()?;
                self.know(paths, &group);
                Ok(group)
            }
        }
    }

    fn know(&self, paths: &GroupPaths, group: &Group) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.held.insert(paths.clone(), group.held());
        if known.held.len() >= known.look_at.max(CROWD) {
            known.held.retain(|_, held| held.strong_count() > 0);
            known.look_at = known.held.len() * 2;
        }
    }

    /// It is another directory now, or none.
    pub(super) fn forget(&self, paths: &GroupPaths) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).held.remove(paths);
    }
}
