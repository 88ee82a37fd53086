//! The servers by their numbers, and when each of them is due. Each turn of the driver asks for the next moment, so it is not
//! looked for among all: what was touched since is looked at again.

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map};
use std::ops::Deref;

use super::table::Server;
use crate::lifecycle::Moment;

/// All servers. Whoever is given one to change may change when it is due.
#[derive(Debug, Default)]
pub(super) struct Servers {
    all: BTreeMap<u64, Server>,
    due: Due,
}

impl Deref for Servers {
    type Target = BTreeMap<u64, Server>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl Servers {
    pub(super) fn insert(&mut self, number: u64, server: Server) {
        self.due.touched.push(number);
        self.all.insert(number, server);
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Server> {
        self.due.touched.push(number);
        self.all.remove(&number)
    }

    pub(super) fn get_mut(&mut self, number: &u64) -> Option<&mut Server> {
        self.due.touched.push(*number);
        self.all.get_mut(number)
    }

    /// All of them: for what is done seldom.
    pub(super) fn values_mut(&mut self) -> btree_map::ValuesMut<'_, u64, Server> {
        self.due.touched.extend(self.all.keys());
        self.all.values_mut()
    }

    /// When the next of them is due.
    pub(super) fn next_due(&mut self) -> Option<Moment> {
        self.settle();
        self.due.moments.first().map(|(at, _)| *at)
    }

    /// The numbers of those that are.
    pub(super) fn due(&mut self, now: Moment) -> Vec<u64> {
        self.settle();
        self.due.moments.range(..=(now, u64::MAX)).map(|(_, number)| *number).collect()
    }

    fn settle(&mut self) {
        self.due.settle(|number| self.all.get(&number)?.next_due());
    }
}

/// Who is due when.
#[derive(Debug, Default)]
struct Due {
    moments: BTreeSet<(Moment, u64)>,
    of: HashMap<u64, Moment>,
    /// Those of which the others may be wrong.
    touched: Vec<u64>,
}

impl Due {
    fn settle(&mut self, moment_of: impl Fn(u64) -> Option<Moment>) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for number in touched.drain(..) {
            let now = moment_of(number);
            let before = match now {
                Some(at) => self.of.insert(number, at),
                None => self.of.remove(&number),
            };
            if now != before {
                before.map(|at| self.moments.remove(&(at, number)));
                now.map(|at| self.moments.insert((at, number)));
            }
        }
        // With the room that it has.
        self.touched = touched;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_next_moment_is_the_least_of_all_whatever_was_changed(
            steps in prop::collection::vec((0u64..8, prop::option::of(0u64..100), any::<bool>()), 0..200)
        ) {
            let (mut due, mut model) = (Due::default(), BTreeMap::new());
            for (number, at, looks) in steps {
                model.insert(number, at.map(Duration::from_millis));
                due.touched.push(number);
                if looks {
                    due.settle(|number| model.get(&number).copied().flatten());
                    let next = due.moments.first().map(|(at, _)| *at);
                    prop_assert_eq!(next, model.values().flatten().min().copied());
                    prop_assert_eq!(due.moments.len(), due.of.len());
                }
            }
        }
    }
}
