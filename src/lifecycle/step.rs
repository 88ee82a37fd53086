//! The step function. Pairs are matched in full: a new event does not compile until each state has answered it.

use super::{Action, Event, KILL_AGAIN, KILL_AGAIN_MOST, Moment, State, Step, Terms, WITHDRAWING, Window};
use crate::outcome::{Cause, Stopper};

use Action::{Kill, ReadFacts, ReleaseStderr, ReleaseStdin, Remove, TakeStock, Tell, Terminate};

impl State {
    /// Answers one event at one moment.
    pub fn step(self, event: Event, now: Moment, terms: &Terms) -> Step {
        match self {
            Self::Placing { doomed } => placing(doomed, event, now),
            Self::Running => running(event, now, terms),
            Self::Weighing(window) => weighing(window, event, now, terms),
            Self::Leaving { until } => leaving(until, event, now, terms),
            Self::Terminating { until, cause } => terminating(until, cause, event, now),
            Self::Killing { again, pause, cause } => killing(again, pause, cause, event, now),
            Self::Withdrawing { until, cause } => withdrawing(until, cause, event, now),
            Self::Removing { cause } => removing(cause, event, now),
            Self::Ended { .. } => stay(self),
        }
    }

    /// An end that an earlier daemon began goes on in its phase and keeps its cause, whatever is read meanwhile: what was
    /// to be killed is killed, and what was asked to terminate is asked again, with the whole of its grace.
    pub fn resume(cause: Cause, killing: bool, now: Moment, terms: &Terms) -> Step {
        match cause {
            cause if killing => kill(cause, now),
            // As when its window closed: systemd sent the SIGTERM.
            cause @ STOPPED => to(Self::Terminating { until: now + terms.grace, cause }, &[TakeStock]),
            cause => terminate(cause, now, terms),
        }
    }
}

const STOPPED: Cause = Cause::Stopped { by: Stopper::Manager };

const OOMD_KILLED: Cause = Cause::Stopped { by: Stopper::Oomd };

fn stay(state: State) -> Step {
    Step { state, actions: Vec::new() }
}

fn to(state: State, actions: &[Action]) -> Step {
    Step { state, actions: actions.to_vec() }
}

fn terminate(cause: Cause, now: Moment, terms: &Terms) -> Step {
    to(State::Terminating { until: now + terms.grace, cause }, &[TakeStock, Terminate])
}

fn kill(cause: Cause, now: Moment) -> Step {
    to(State::Killing { again: now + KILL_AGAIN, pause: KILL_AGAIN * 2, cause }, &[TakeStock, Kill])
}

fn remove(cause: Cause) -> Step {
    to(State::Removing { cause }, &[ReleaseStdin, Remove])
}

fn placing(doomed: Option<Cause>, event: Event, now: Moment) -> Step {
    let withdraw = |cause| to(State::Withdrawing { until: now + WITHDRAWING, cause }, &[]);
    match (event, doomed) {
        (Event::Placed, None) => stay(State::Running),
        (Event::Placed, Some(cause)) => withdraw(cause),
        (Event::PlacementFailed, doomed) => withdraw(doomed.unwrap_or(Cause::LaunchFailed)),
        (Event::EndRequested { .. }, None) => stay(State::Placing { doomed: Some(Cause::Requested) }),
        (Event::LeaderExited, None) => stay(State::Placing { doomed: Some(Cause::LeaderExited) }),
        (Event::OwnerGone, None) => stay(State::Placing { doomed: Some(Cause::OwnerGone) }),
        (Event::Stopped, None) => stay(State::Placing { doomed: Some(STOPPED) }),
        (Event::OomdKill, None) => stay(State::Placing { doomed: Some(OOMD_KILLED) }),
        (Event::Due(due), None) => stay(State::Placing { doomed: Some(due.into()) }),
        (
            Event::EndRequested { .. }
            | Event::LeaderExited
            | Event::OwnerGone
            | Event::Stopped
            | Event::OomdKill
            | Event::Due(_),
            Some(cause),
        ) => stay(State::Placing { doomed: Some(cause) }),
        // An empty leaf is what placing begins with; a closed stdin is the server's to read, once it runs.
        (
            Event::StdinClosed
            | Event::MemoryKill { .. }
            | Event::Stalled { .. }
            | Event::PidsLimit { .. }
            | Event::Emptied
            | Event::Tick
            | Event::Removed
            | Event::RemovalFailed,
            doomed,
        ) => stay(State::Placing { doomed }),
    }
}

fn running(event: Event, now: Moment, terms: &Terms) -> Step {
    let weigh = |strongest, actions: &[Action]| {
        let leader_gone = strongest == Cause::LeaderExited;
        to(State::Weighing(Window { until: now + terms.weighing, strongest, leader_gone, empty: false }), actions)
    };
    match event {
        Event::EndRequested { now: false } => terminate(Cause::Requested, now, terms),
        Event::EndRequested { now: true } => kill(Cause::Requested, now),
        Event::Due(due) => terminate(due.into(), now, terms),
        Event::LeaderExited => weigh(Cause::LeaderExited, &[ReleaseStdin, ReadFacts]),
        Event::StdinClosed => weigh(Cause::StdinClosed, &[ReadFacts]),
        Event::OwnerGone => weigh(Cause::OwnerGone, &[ReadFacts]),
        Event::Stopped => weigh(STOPPED, &[ReadFacts]),
        Event::OomdKill => kill(OOMD_KILLED, now),
        Event::MemoryKill { level } => kill(Cause::Memory { level, stall: None }, now),
        // What stands still does not get to handle a SIGTERM.
        Event::Stalled { level, stall } => kill(Cause::Memory { level, stall: Some(stall) }, now),
        Event::PidsLimit { level } => terminate(Cause::Pids { level }, now, terms),
        // Empty while its leader lives: the leader has left the leaf, or its exit is about to be told.
        Event::Emptied => to(State::Running, &[ReadFacts]),
        Event::Placed | Event::PlacementFailed | Event::Tick | Event::Removed | Event::RemovalFailed => {
            stay(State::Running)
        }
    }
}

impl Window {
    /// The window with the stronger of its fact and `fact`.
    fn with(self, fact: Cause) -> State {
        let strongest = if fact.strength() > self.strongest.strength() { fact } else { self.strongest };
        State::Weighing(Self { strongest, leader_gone: self.leader_gone || fact == Cause::LeaderExited, ..self })
    }

    /// What follows from the strongest fact, when the window closes.
    fn settle(self, now: Moment, terms: &Terms) -> Step {
        match self.strongest {
            cause if self.empty => remove(cause),
            // systemd has sent SIGTERM already, and a second one cuts short what many programs do at the first.
            cause @ Cause::Stopped { .. } => to(State::Terminating { until: now + terms.grace, cause }, &[TakeStock]),
            Cause::StdinClosed if !self.leader_gone => stay(State::Leaving { until: now + terms.stdin_grace }),
            cause => terminate(cause, now, terms),
        }
    }
}

fn weighing(window: Window, event: Event, now: Moment, terms: &Terms) -> Step {
    match event {
        Event::EndRequested { now: false } => terminate(Cause::Requested, now, terms),
        Event::EndRequested { now: true } => kill(Cause::Requested, now),
        Event::Due(due) => terminate(due.into(), now, terms),
        Event::LeaderExited => to(window.with(Cause::LeaderExited), &[ReleaseStdin]),
        Event::StdinClosed => stay(window.with(Cause::StdinClosed)),
        Event::OwnerGone => stay(window.with(Cause::OwnerGone)),
        Event::Stopped => stay(window.with(STOPPED)),
        Event::OomdKill => kill(OOMD_KILLED, now),
        Event::MemoryKill { level } => kill(Cause::Memory { level, stall: None }, now),
        Event::Stalled { level, stall } => kill(Cause::Memory { level, stall: Some(stall) }, now),
        // It left by itself: nothing will be told on its stderr, and its host may be waiting for that to end.
        Event::Emptied if !window.empty => {
            to(State::Weighing(Window { empty: true, ..window }), &[ReleaseStderr, ReadFacts])
        }
        Event::Tick if now >= window.until => window.settle(now, terms),
        Event::Emptied
        | Event::Tick
        | Event::PidsLimit { .. }
        | Event::Placed
        | Event::PlacementFailed
        | Event::Removed
        | Event::RemovalFailed => stay(State::Weighing(window)),
    }
}

fn leaving(until: Moment, event: Event, now: Moment, terms: &Terms) -> Step {
    const CAUSE: Cause = Cause::StdinClosed;
    match event {
        Event::EndRequested { now: false }
        | Event::OwnerGone
        | Event::Stopped
        | Event::PidsLimit { .. }
        | Event::Due(_) => terminate(CAUSE, now, terms),
        Event::EndRequested { now: true } | Event::OomdKill | Event::MemoryKill { .. } | Event::Stalled { .. } => {
            kill(CAUSE, now)
        }
        Event::LeaderExited => {
            let mut step = terminate(CAUSE, now, terms);
            step.actions.insert(0, ReleaseStdin);
            step
        }
        Event::Emptied => remove(CAUSE),
        Event::Tick if now >= until => terminate(CAUSE, now, terms),
        Event::Tick
        | Event::Placed
        | Event::PlacementFailed
        | Event::StdinClosed
        | Event::Removed
        | Event::RemovalFailed => stay(State::Leaving { until }),
    }
}

fn terminating(until: Moment, cause: Cause, event: Event, now: Moment) -> Step {
    let here = State::Terminating { until, cause };
    match event {
        Event::Emptied => remove(cause),
        Event::EndRequested { now: true } | Event::OomdKill | Event::MemoryKill { .. } | Event::Stalled { .. } => {
            kill(cause, now)
        }
        Event::Tick if now >= until => kill(cause, now),
        Event::LeaderExited => to(here, &[ReleaseStdin]),
        Event::Tick
        | Event::EndRequested { now: false }
        | Event::Placed
        | Event::PlacementFailed
        | Event::StdinClosed
        | Event::OwnerGone
        | Event::Stopped
        | Event::PidsLimit { .. }
        | Event::Due(_)
        | Event::Removed
        | Event::RemovalFailed => stay(here),
    }
}

fn killing(again: Moment, pause: std::time::Duration, cause: Cause, event: Event, now: Moment) -> Step {
    let here = State::Killing { again, pause, cause };
    match event {
        Event::Emptied => remove(cause),
        Event::LeaderExited => to(here, &[ReleaseStdin]),
        Event::Tick if now >= again => {
            let next = State::Killing { again: now + pause, pause: (pause * 2).min(KILL_AGAIN_MOST), cause };
            to(next, &[Kill])
        }
        Event::Tick
        | Event::EndRequested { .. }
        | Event::OomdKill
        | Event::MemoryKill { .. }
        | Event::Stalled { .. }
        | Event::Placed
        | Event::PlacementFailed
        | Event::StdinClosed
        | Event::OwnerGone
        | Event::Stopped
        | Event::PidsLimit { .. }
        | Event::Due(_)
        | Event::Removed
        | Event::RemovalFailed => stay(here),
    }
}

fn withdrawing(until: Moment, cause: Cause, event: Event, now: Moment) -> Step {
    match event {
        Event::Emptied => remove(cause),
        Event::Tick if now >= until => kill(cause, now),
        Event::EndRequested { now: true } => kill(cause, now),
        Event::LeaderExited => to(State::Withdrawing { until, cause }, &[ReleaseStdin]),
        Event::Tick
        | Event::EndRequested { now: false }
        | Event::OomdKill
        | Event::MemoryKill { .. }
        | Event::Stalled { .. }
        | Event::Placed
        | Event::PlacementFailed
        | Event::StdinClosed
        | Event::OwnerGone
        | Event::Stopped
        | Event::PidsLimit { .. }
        | Event::Due(_)
        | Event::Removed
        | Event::RemovalFailed => stay(State::Withdrawing { until, cause }),
    }
}

fn removing(cause: Cause, event: Event, now: Moment) -> Step {
    match event {
        Event::Removed => to(State::Ended { cause }, &[Tell]),
        // Something got in between `populated 0` and rmdir(2): it belongs to what ends.
        Event::RemovalFailed => kill(cause, now),
        Event::Emptied
        | Event::Tick
        | Event::EndRequested { .. }
        | Event::LeaderExited
        | Event::StdinClosed
        | Event::OwnerGone
        | Event::Stopped
        | Event::OomdKill
        | Event::MemoryKill { .. }
        | Event::Stalled { .. }
        | Event::PidsLimit { .. }
        | Event::Due(_)
        | Event::Placed
        | Event::PlacementFailed => stay(State::Removing { cause }),
    }
}
