//! The driver's side of what no event tells: on a hybrid machine a fork that a limit refused is counted, and wakes nobody.
//!
//! It is looked for soon after a launch, when a limit that is too low shows, and then ever more seldom: the limit holds
//! whether anybody looks or not. Where the policy ends a server for it, it is looked for each second.

use std::collections::BTreeSet;
use std::time::Duration;

use super::driver::Driver;
use crate::cgroup::Leaf;
use crate::lifecycle::{Moment, State};
use crate::policy::OnPids;

/// The first pause between two looks at one server; it doubles up to [`PAUSE_MOST`].
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between two looks at one server.
const PAUSE_MOST: Duration = Duration::from_secs(64);

/// Looks that are due at nearly the same time are taken together, so that many servers wake the daemon as often as one.
const TOGETHER: Duration = Duration::from_millis(500);

/// How many are looked at in one turn of the driver: each is a file that is read.
const LOOKS: usize = 256;

/// When which server is looked at next, after which pause. One that is gone is dropped when its turn comes.
#[derive(Debug, Default)]
pub(super) struct Polls(BTreeSet<(Moment, Duration, u64)>);

impl Polls {
    /// All with the same pause are looked at when a multiple of it is over, so not later than after one, whenever each was
    /// launched: the daemon wakes up for all of them at once.
    fn add(&mut self, now: Moment, pause: Duration, number: u64) {
        let over = (now + pause).as_secs() / pause.as_secs();
        self.0.insert((Duration::from_secs(over * pause.as_secs()), pause, number));
    }

    /// When the next look is due.
    pub(super) fn next(&self) -> Option<Moment> {
        self.0.first().map(|(at, ..)| *at)
    }

    /// Takes what is due out, and what soon will be with it, as far as it is to be done in one turn.
    fn due(&mut self, now: Moment) -> BTreeSet<(Moment, Duration, u64)> {
        if self.next().is_none_or(|next| next > now) {
            return BTreeSet::new();
        }
        let later = self.0.split_off(&(now + TOGETHER, Duration::ZERO, 0));
        let mut due = std::mem::replace(&mut self.0, later);
        if let Some(next) = due.iter().nth(LOOKS).copied() {
            self.0.append(&mut due.split_off(&next));
        }
        due
    }
}

impl Driver {
    /// What a leaf can tell is watched from now on: its refused forks are looked for where no event tells of them.
    pub(super) fn poll(&mut self, number: u64, leaf: &Leaf) {
        let now = self.now();
        if leaf.group().pids_are_polled() {
            self.polls.add(now, PAUSE, number);
        }
    }

    /// Looks at those whose turn has come.
    pub(super) fn read_polled(&mut self, now: Moment) {
        for (_, pause, number) in self.polls.due(now) {
            // One that is weighed or asked to leave ends anyway.
            let server = self.table.servers.get(&number).filter(|server| server.state == State::Running);
            let Some(server) = server else { continue };
            let refused = server.leaf.as_ref().is_some_and(|leaf| leaf.group().pids_refusals() > server.pids_told);
            let soon = refused || server.on_pids == OnPids::End;
            self.polls.add(now, if soon { PAUSE } else { (pause * 2).min(PAUSE_MOST) }, number);
            if refused {
                self.look(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(polls: &mut Polls, milliseconds: u64) -> Vec<u64> {
        polls.due(Duration::from_millis(milliseconds)).into_iter().map(|(.., number)| number).collect()
    }

    #[test]
    fn looks_that_are_due_together_are_taken_together_and_no_other_is() {
        let mut polls = Polls::default();
        let at = |milliseconds| Duration::from_millis(milliseconds);
        polls.add(at(0), PAUSE, 1);
        polls.add(at(300), PAUSE, 2);
        polls.add(at(1100), PAUSE, 3);
        assert_eq!(polls.next(), Some(at(1000)));
        assert!(taken(&mut polls, 999).is_empty());
        assert_eq!((taken(&mut polls, 1000), polls.next()), (vec![1, 2], Some(at(2000))));
    }

    #[test]
    fn however_far_apart_servers_were_launched_the_daemon_wakes_up_for_them_together() {
        let mut polls = Polls::default();
        let at = |milliseconds| Duration::from_millis(milliseconds);
        (0..100).for_each(|number| polls.add(at(number * 613), PAUSE_MOST, number));
        let mut wakes = 0;
        while let Some(next) = polls.next().filter(|next| *next < 10 * PAUSE_MOST) {
            wakes += 1;
            // A turn comes a little late.
            let now = next + at(3);
            polls.due(now).into_iter().for_each(|(_, pause, number)| polls.add(now, pause, number));
        }
        assert_eq!(wakes, 9, "one each {PAUSE_MOST:?}");
    }

    #[test]
    fn of_many_that_are_due_a_turn_takes_some_and_the_next_one_the_others() {
        let mut polls = Polls::default();
        (0..LOOKS as u64 + 2).for_each(|number| polls.add(Duration::ZERO, PAUSE, number));
        assert_eq!(taken(&mut polls, 1000).len(), LOOKS);
        assert_eq!((polls.next(), taken(&mut polls, 1001).len()), (Some(PAUSE), 2));
        assert_eq!(polls.next(), None);
    }
}
