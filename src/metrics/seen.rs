//! What only shows over time: when something last did anything, and since when a session is there. Pure.

use std::collections::BTreeMap;

use crate::snapshot::ActivityView;

/// Two moments, in seconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    /// When it began.
    pub started: f64,
    /// When it was last seen to have done anything.
    pub active: f64,
}

/// What was seen of each session, or of each server, so far.
#[derive(Debug, Default)]
pub struct Remembered(BTreeMap<String, (Seen, ActivityView)>);

impl Remembered {
    /// It is seen now. One that was never seen before counts as active. What it began by is the earliest that was told of
    /// it: of a session the servers go, and their beginnings with them.
    pub fn see(&mut self, name: &str, started: f64, activity: ActivityView, now: f64) -> Seen {
        let new = (Seen { started, active: now }, activity);
        let (seen, before) = self.0.entry(name.to_owned()).or_insert(new);
        seen.started = seen.started.min(started);
        if *before != activity {
            (*before, seen.active) = (activity, now);
        }
        *seen
    }

    /// Forgets all of which this does not hold.
    pub fn retain(&mut self, lives: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| lives(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activity_is_the_moment_at_which_a_counter_was_last_seen_to_move() {
        let mut remembered = Remembered::default();
        let cpu = |seconds| ActivityView { cpu_seconds: Some(seconds), ..ActivityView::default() };
        assert_eq!(remembered.see("s", 5.0, cpu(1.0), 10.0), Seen { started: 5.0, active: 10.0 });
        assert_eq!(remembered.see("s", 5.0, cpu(1.0), 20.0).active, 10.0);
        assert_eq!(remembered.see("s", 7.0, cpu(1.5), 30.0), Seen { started: 5.0, active: 30.0 });
        remembered.retain(|name| name != "s");
        assert_eq!(remembered.see("s", 7.0, cpu(1.5), 40.0), Seen { started: 7.0, active: 40.0 });
    }
}
