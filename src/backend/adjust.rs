//! Changes the limits of all that lives: machine, sessions and servers, in the order in which nobody is ended for it who need
//! not be.

use std::sync::{Arc, PoisonError};

use super::Backend;
use crate::cgroup::{Changed, Group, Kept, Leaf};
use crate::limits::Limits;
use crate::naming::SessionKey;
use crate::policy::{Lowering, Pass};

/// What all that lives is to have.
#[derive(Debug)]
pub struct Wanted {
    /// All of pinfold together.
    pub machine: Limits,
    /// The sessions with living servers.
    pub sessions: Vec<WantedSession>,
}

/// What a session is to have.
#[derive(Debug)]
pub struct WantedSession {
    /// Which.
    pub key: SessionKey,
    /// All its servers together; `None` where that is left.
    pub limits: Option<Limits>,
    /// Its servers.
    pub leaves: Vec<WantedLeaf>,
}

/// What a server is to have.
#[derive(Debug)]
pub struct WantedLeaf {
    /// Where it is.
    pub leaf: Arc<Leaf>,
    /// `None` where that is left.
    pub limits: Option<Limits>,
}

/// Where something was changed, or was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The machine level.
    Machine,
    /// A session's.
    Session(SessionKey),
    /// A leaf, by its name.
    Server(SessionKey, String),
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Told {
    /// What is different now.
    pub changed: Vec<(Place, Changed)>,
    /// What is not as it should be.
    pub kept: Vec<(Place, Kept)>,
}

impl Backend {
    /// Adjusts all of it. Blocks for as long as the kernel takes to give memory back.
    pub fn adjust(&self, wanted: &Wanted, lowering: Lowering) -> Told {
        let mut told = Told::default();
        self.adjust_machine(wanted, (Pass::Grow, lowering), &mut told);
        for session in &wanted.sessions {
            self.adjust_session(session, (Pass::Grow, lowering), &mut told);
            self.adjust_servers(session, (Pass::Grow, lowering), &mut told);
        }
        for session in &wanted.sessions {
            self.adjust_servers(session, (Pass::Shrink, lowering), &mut told);
            self.adjust_session(session, (Pass::Shrink, lowering), &mut told);
        }
        self.adjust_machine(wanted, (Pass::Shrink, lowering), &mut told);
        told
    }

    fn adjust_machine(&self, wanted: &Wanted, how: (Pass, Lowering), told: &mut Told) {
        let leaves = || wanted.sessions.iter().flat_map(|session| &session.leaves);
        // On a hybrid machine there are several, below the cgroups of different callers.
        for machine in distinct(leaves().map(|leaf| leaf.leaf.machine())) {
            let below: Vec<&Group> = leaves().map(|leaf| leaf.leaf.group()).collect();
            match self {
                Self::Systemd(units) if !units.directories().is_below(&machine.paths()) => {
                    told.add(Place::Machine, units.adjust_machine(machine, &wanted.machine, how, &below))
                }
                _ => {
                    told.add(Place::Machine, self.directories().adjust(machine, &wanted.machine, how, &below));
                }
            }
        }
    }

    fn adjust_session(&self, wanted: &WantedSession, how: (Pass, Lowering), told: &mut Told) {
        let Some(limits) = &wanted.limits else { return };
        let below: Vec<&Group> = wanted.leaves.iter().map(|leaf| leaf.leaf.group()).collect();
        let is_below = |leaf: &WantedLeaf| self.directories().is_below(&leaf.leaf.machine().paths());
        let in_container = wanted.leaves.iter().any(is_below);
        for session in distinct(wanted.leaves.iter().map(|leaf| leaf.leaf.session())) {
            let place = Place::Session(wanted.key.clone());
            match self {
                Self::Systemd(units) if !in_container => {
                    told.add(place, units.adjust_session((&wanted.key, session), limits, how, &below))
                }
                _ => told.add(place, self.directories().adjust(session, limits, how, &below)),
            }
        }
    }

    /// The leaves are ours on either backend. A slice of containers has the same limits for itself.
    fn adjust_servers(&self, session: &WantedSession, how: (Pass, Lowering), told: &mut Told) {
        for wanted in &session.leaves {
            let Some(limits) = &wanted.limits else { continue };
            let group = wanted.leaf.group();
            let _turn = wanted.leaf.knobs().lock().unwrap_or_else(PoisonError::into_inner);
            let place = Place::Server(session.key.clone(), wanted.leaf.name().as_str().to_owned());
            told.add(place.clone(), group.adjust(limits, how, &[group], |limits| group.set_limits(limits)));
            if let (Self::Systemd(units), Some(annex)) = (self, wanted.leaf.annex()) {
                told.add(place, units.adjust_annex(annex, limits, how));
            }
        }
    }
}

impl Told {
    /// What is gone meanwhile needs no limit any more. What became of a leaf and of the slice of its containers alike is told
    /// once.
    fn add<E: IsGone>(&mut self, place: Place, adjusted: crate::cgroup::Adjusted<E>) {
        let changed = adjusted.changed.into_iter().map(|changed| (place.clone(), changed));
        let changed: Vec<_> = changed.filter(|changed| !self.changed.contains(changed)).collect();
        self.changed.extend(changed);
        if !adjusted.error.is_some_and(|error| error.is_gone()) {
            self.kept.extend(adjusted.kept.into_iter().map(|kept| (place.clone(), kept)));
        }
    }
}

/// Whether an error says that what was to be changed is gone.
pub(super) trait IsGone {
    /// Whether it does.
    fn is_gone(&self) -> bool;
}

impl IsGone for crate::cgroup::KnobError {
    fn is_gone(&self) -> bool {
        matches!(self, Self::Cgroup(error) if error.is_gone())
    }
}

/// Each group once, by the directory in which it is.
fn distinct<'a>(groups: impl Iterator<Item = &'a Arc<Group>>) -> Vec<&'a Group> {
    let mut found: Vec<&Group> = Vec::new();
    for group in groups {
        if found.iter().all(|other| other.paths() != group.paths()) {
            found.push(group);
        }
    }
    found
}
