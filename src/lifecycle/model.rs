//! A server as the kernel would have it, driven by random facts: whatever their order, the end keeps its promises.

use std::time::Duration;

use proptest::prelude::*;

use super::{Action, Due, Event, KILL_AGAIN, Moment, State, Terms, WEIGHING};
use crate::outcome::{Cause, Level, Stall, Stopper};
use crate::timespan::TimeSpan;

const TERMS: Terms = Terms { grace: Duration::from_secs(3), stdin_grace: Duration::from_secs(5), weighing: WEIGHING };
const START: Moment = Duration::from_secs(100);

/// Feeds events one after the other, all at `START` unless a pause is given, and keeps what was to be done.
struct Told {
    state: State,
    now: Moment,
    actions: Vec<Action>,
}

impl Told {
    fn running() -> Self {
        Self { state: State::Running, now: START, actions: Vec::new() }
    }

    fn then(mut self, event: Event) -> Self {
        let step = self.state.step(event, self.now, &TERMS);
        self.state = step.state;
        self.actions.extend(step.actions);
        self
    }

    fn after(mut self, pause: Duration) -> Self {
        self.now += pause;
        self.then(Event::Tick)
    }
}

#[test]
fn a_killed_host_closes_stdin_first_and_is_still_the_cause() {
    let told = Told::running().then(Event::StdinClosed).then(Event::OwnerGone).after(WEIGHING);
    assert_eq!(told.state, State::Terminating { until: told.now + TERMS.grace, cause: Cause::OwnerGone });
}

#[test]
fn a_server_may_leave_by_itself_when_its_stdin_is_closed() {
    let told = Told::running().then(Event::StdinClosed).after(WEIGHING);
    assert_eq!(told.state, State::Leaving { until: told.now + TERMS.stdin_grace });
    let told = told.after(TERMS.stdin_grace);
    assert!(matches!(told.state, State::Terminating { cause: Cause::StdinClosed, .. }));
    assert_eq!(told.actions, [Action::ReadFacts, Action::TakeStock, Action::Terminate]);
}

#[test]
fn an_end_that_another_daemon_began_goes_on_in_its_phase_and_keeps_its_cause() {
    for cause in [Cause::Requested, Cause::OwnerGone, Cause::LeaderExited, Cause::Unconfigured] {
        let asked = State::resume(cause, false, START, &TERMS);
        assert_eq!(asked.state, State::Terminating { until: START + TERMS.grace, cause });
        assert_eq!(asked.actions, [Action::TakeStock, Action::Terminate]);
        let killed = State::resume(cause, true, START, &TERMS);
        assert!(matches!(killed.state, State::Killing { .. }) && killed.state.cause() == Some(cause));
        assert_eq!(killed.actions, [Action::TakeStock, Action::Kill], "nothing is asked to terminate any more");
        for fact in
            [Event::LeaderExited, Event::StdinClosed, Event::OwnerGone, Event::MemoryKill { level: Level::Server }]
        {
            assert_eq!(asked.state.step(fact, START, &TERMS).state.cause(), Some(cause), "{fact:?}");
            assert_eq!(killed.state.step(fact, START, &TERMS).state.cause(), Some(cause), "{fact:?}");
        }
    }
    let stopped = State::resume(Cause::Stopped { by: Stopper::Manager }, false, START, &TERMS);
    assert_eq!(stopped.actions, [Action::TakeStock], "systemd has asked already");
}

#[test]
fn what_a_dead_leader_left_behind_is_not_waited_for_as_if_it_were_the_server() {
    let told = Told::running().then(Event::StdinClosed).then(Event::LeaderExited).after(WEIGHING);
    assert!(matches!(told.state, State::Terminating { cause: Cause::StdinClosed, .. }), "{:?}", told.state);
}

#[test]
fn a_memory_kill_is_stronger_than_the_exit_it_causes_and_waits_for_nothing() {
    let level = Level::Session;
    let told = Told::running().then(Event::LeaderExited).then(Event::MemoryKill { level });
    assert!(matches!(told.state, State::Killing { cause: Cause::Memory { level: Level::Session, stall: None }, .. }));
    assert_eq!(told.actions.last(), Some(&Action::Kill));
}

#[test]
fn what_systemd_stops_is_not_asked_to_terminate_a_second_time() {
    let told = Told::running().then(Event::LeaderExited).then(Event::Stopped).after(WEIGHING);
    assert_eq!(
        told.state,
        State::Terminating { until: told.now + TERMS.grace, cause: Cause::Stopped { by: Stopper::Manager } }
    );
    assert!(!told.actions.contains(&Action::Terminate));
}

#[test]
fn a_kill_by_systemd_oomd_is_stronger_than_the_exit_it_causes_and_waits_for_nothing() {
    let told = Told::running().then(Event::LeaderExited).then(Event::OomdKill);
    assert!(
        matches!(told.state, State::Killing { cause: Cause::Stopped { by: Stopper::Oomd }, .. }),
        "{:?}",
        told.state
    );
    assert_eq!(told.actions.last(), Some(&Action::Kill));
    let level = Level::Server;
    let told = Told::running().then(Event::MemoryKill { level }).then(Event::OomdKill);
    assert_eq!(told.state.cause(), Some(Cause::Memory { level, stall: None }), "what spoke first is kept");
}

#[test]
fn an_end_that_is_under_way_keeps_its_cause() {
    let requested = Event::EndRequested { now: false };
    let told = Told::running().then(requested).then(Event::OwnerGone).then(Event::LeaderExited).then(Event::Emptied);
    assert_eq!(told.state, State::Removing { cause: Cause::Requested });
}

#[test]
fn a_session_that_ignores_sigterm_is_killed_at_the_deadline_and_killed_again_until_empty() {
    let told = Told::running()
        .then(Event::EndRequested { now: false })
        .after(TERMS.grace)
        .after(KILL_AGAIN)
        .after(KILL_AGAIN * 2);
    assert_eq!(told.actions.iter().filter(|action| **action == Action::Kill).count(), 3);
    assert!(matches!(told.state, State::Killing { .. }), "only the kernel ends an end");
}

#[test]
fn an_end_that_arrives_while_placing_withdraws_the_launch() {
    let placing = Told { state: State::Placing { doomed: None }, ..Told::running() };
    let told = placing.then(Event::EndRequested { now: true }).then(Event::Placed);
    assert!(matches!(told.state, State::Withdrawing { cause: Cause::Requested, .. }));
}

fn ttl() -> TimeSpan {
    "8h".parse().unwrap()
}

#[test]
fn what_expires_ends_as_if_its_end_was_requested_and_says_why() {
    let cause = Cause::Expired { ttl: ttl() };
    let expired = Event::Due(Due::Expired { ttl: ttl() });
    let told = Told::running().then(expired);
    assert_eq!(told.state, State::Terminating { until: told.now + TERMS.grace, cause });
    assert_eq!(told.actions, [Action::TakeStock, Action::Terminate]);
    let told = Told::running().then(Event::LeaderExited).then(expired);
    assert!(matches!(told.state, State::Terminating { .. }) && told.state.cause() == Some(cause), "{:?}", told.state);
    let placing = Told { state: State::Placing { doomed: None }, ..Told::running() };
    let told = placing.then(expired).then(Event::Placed);
    assert!(matches!(told.state, State::Withdrawing { .. }) && told.state.cause() == Some(cause), "{:?}", told.state);
}

#[test]
fn what_expires_while_it_ends_keeps_its_cause() {
    let told = Told::running().then(Event::StdinClosed).after(WEIGHING).then(Event::Due(Due::Expired { ttl: ttl() }));
    assert!(matches!(told.state, State::Terminating { cause: Cause::StdinClosed, .. }), "{:?}", told.state);
    let told = told
        .then(Event::Due(Due::Expired { ttl: ttl() }))
        .then(Event::Emptied)
        .then(Event::Due(Due::Expired { ttl: ttl() }));
    assert_eq!(told.state, State::Removing { cause: Cause::StdinClosed });
}

fn stall() -> Stall {
    Stall { span: "10s".parse().unwrap(), percent: 85 }
}

#[test]
fn what_stands_still_at_memory_high_is_killed_without_being_asked() {
    let told = Told::running().then(Event::Stalled { level: Level::Server, stall: stall() });
    let cause = Cause::Memory { level: Level::Server, stall: Some(stall()) };
    assert!(matches!(told.state, State::Killing { .. }) && told.state.cause() == Some(cause), "{:?}", told.state);
    assert_eq!(told.actions, [Action::TakeStock, Action::Kill]);
    let said = cause.to_string();
    assert_eq!(said, "memory ran out: it stood still at the server's own memory_high for 10s (full pressure 85 %)");
    let told = Told::running()
        .then(Event::StdinClosed)
        .after(WEIGHING)
        .then(Event::Stalled { level: Level::Session, stall: stall() });
    assert!(matches!(told.state, State::Killing { cause: Cause::StdinClosed, .. }), "an end keeps its cause");
}

#[test]
fn what_is_idle_is_asked_to_terminate_and_told_for_how_long_it_was() {
    let told = Told::running().then(Event::Due(Due::Idle { idle_after: ttl() }));
    let cause = Cause::Idle { idle_after: ttl() };
    assert_eq!(told.state, State::Terminating { until: told.now + TERMS.grace, cause });
    assert!(cause.to_string().contains("for 8h"), "{cause}");
}

fn any_event() -> impl Strategy<Value = Event> {
    let level = || prop_oneof![Just(Level::Server), Just(Level::Session), Just(Level::Machine)];
    prop_oneof![
        Just(Event::Placed),
        Just(Event::PlacementFailed),
        any::<bool>().prop_map(|now| Event::EndRequested { now }),
        Just(Event::LeaderExited),
        Just(Event::StdinClosed),
        Just(Event::OwnerGone),
        Just(Event::Stopped),
        Just(Event::OomdKill),
        level().prop_map(|level| Event::MemoryKill { level }),
        level().prop_map(|level| Event::Stalled { level, stall: stall() }),
        level().prop_map(|level| Event::PidsLimit { level }),
        Just(Event::Due(Due::Expired { ttl: ttl() })),
        Just(Event::Due(Due::Idle { idle_after: ttl() })),
        Just(Event::Due(Due::Unconfigured)),
        Just(Event::Due(Due::Replaced)),
        Just(Event::Emptied),
        Just(Event::Tick),
        Just(Event::Removed),
        Just(Event::RemovalFailed),
    ]
}

proptest! {
    #[test]
    fn whatever_the_order_of_events_the_promises_hold(
        events in proptest::collection::vec((any_event(), 0u64..4000), 0..60)
    ) {
        let mut state = State::Placing { doomed: None };
        let mut now = START;
        let (mut may_kill, mut emptied, mut settled) = (false, false, None);
        for (event, pause) in events {
            now += Duration::from_millis(pause);
            let before = state;
            let step = state.step(event, now, &TERMS);
            state = step.state;
            emptied |= event == Event::Emptied;
            // What systemd stops it has asked to terminate.
            may_kill |= matches!(event, Event::EndRequested { now: true } | Event::OomdKill | Event::Stopped)
                || matches!(event, Event::MemoryKill { .. } | Event::Stalled { .. })
                || matches!(before, State::Withdrawing { .. } | State::Removing { .. });
            for action in &step.actions {
                match action {
                    Action::Terminate => may_kill = true,
                    Action::Kill => prop_assert!(may_kill, "killed before it was asked to terminate: {before:?} {event:?}"),
                    Action::Remove => prop_assert!(emptied, "removed before the kernel said empty: {before:?} {event:?}"),
                    Action::Tell => prop_assert_eq!(event, Event::Removed),
                    Action::ReadFacts | Action::ReleaseStdin | Action::ReleaseStderr | Action::TakeStock => {}
                }
            }
            if matches!(before, State::Ended { .. }) {
                prop_assert!(step.actions.is_empty() && state == before, "an ended server did something");
            }
            if let Some(cause) = settled {
                prop_assert_eq!(state.cause(), Some(cause), "an end under way changed its cause");
            }
            if !matches!(state, State::Placing { .. } | State::Running | State::Weighing(_)) {
                settled = settled.or(state.cause());
            }
        }
        // A kernel that does what it is told brings every end to its end.
        if state != State::Running && !matches!(state, State::Placing { .. }) {
            for _ in 0..8 {
                now += Duration::from_secs(20);
                let mut answers = vec![Event::Tick];
                while let Some(event) = answers.pop() {
                    let step = state.step(event, now, &TERMS);
                    state = step.state;
                    for action in step.actions {
                        match action {
                            Action::Kill => answers.push(Event::Emptied),
                            Action::Remove => answers.push(Event::Removed),
                            _ => {}
                        }
                    }
                }
                if matches!(state, State::Removing { .. }) {
                    state = state.step(Event::Removed, now, &TERMS).state;
                }
            }
            prop_assert!(matches!(state, State::Ended { .. }), "stuck in {state:?}");
        }
    }
}
