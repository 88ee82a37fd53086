//! When a server stands still at a `memory_high`: beyond that limit the kernel reclaims, and puts to sleep whoever asks for
//! more. What cannot be reclaimed, without swap all that a server has allocated, it then asks for in vain, and for ever.
//!
//! The sign of it is pressure: for a while, most of the time all that wants to run in the leaf waits for memory. Page cache
//! beyond the limit is no sign: it is reclaimed, and the server goes on.

use std::time::Duration;

use super::Moment;
use crate::outcome::{Level, Stall};

/// Between two readings of a server that presses against a limit.
const PAUSE: Duration = Duration::from_secs(1);

/// How long no limit may be pressed against before it is watched no more. A task that stands still presses anew at least
/// every 2 s (`MEMCG_MAX_HIGH_DELAY_JIFFIES` in the kernel's mm/memcontrol.c).
const CALM: Duration = Duration::from_secs(10);

/// A limit that was not pressed against for so long is not what a server stands still at: it waits for memory because the
/// machine, or another limit, has none.
const RECENT: Duration = Duration::from_secs(4);

/// The levels in the order of [`Pressure::presses`].
const LEVELS: [Level; 3] = [Level::Server, Level::Session, Level::Machine];

/// What a leaf has suffered so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// How long all that wanted to run in it has waited for memory: `full` of `memory.pressure`.
    pub full: Duration,
    /// How often the `memory_high` of the server, of its session and of the machine were each pressed against: `high` of
    /// `memory.events.local`.
    pub presses: [u64; 3],
}

/// What follows from a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It is watched on.
    Watched,
    /// Nothing presses any more: there is nothing to watch.
    Calm,
    /// It stands still.
    Stalled {
        /// At whose limit.
        level: Level,
        /// For how long, and how much of it.
        stall: Stall,
    },
}

/// Watches one server that presses against a limit.
#[derive(Debug)]
pub struct Watchdog {
    terms: Stall,
    /// Since when the pressure has been as in `terms`.
    since: (Moment, Pressure),
    last: (Moment, Pressure),
    /// When each limit was last pressed against, where it was.
    pressed: [Option<Moment>; 3],
    /// When any was, or the watch began.
    stirred: Moment,
}

impl Watchdog {
    /// Begins: something pressed.
    pub fn begin(terms: Stall, now: Moment, found: Pressure) -> Self {
        Self { terms, since: (now, found), last: (now, found), pressed: [None; 3], stirred: now }
    }

    /// When it is to be read next: with all others that are watched, at a full second.
    pub fn next(&self) -> Moment {
        Duration::from_secs(self.last.0.as_secs()) + PAUSE
    }

    /// Weighs the next reading.
    pub fn read(&mut self, now: Moment, found: Pressure) -> Verdict {
        for (index, pressed) in self.pressed.iter_mut().enumerate() {
            if found.presses[index] != self.last.1.presses[index] {
                *pressed = Some(now);
                self.stirred = now;
            }
        }
        let of_late = percent(self.last, (now, found));
        let whole = percent(self.since, (now, found));
        self.last = (now, found);
        if now.saturating_sub(self.stirred) >= CALM {
            return Verdict::Calm;
        }
        if whole < self.terms.percent {
            self.since = self.last;
        }
        if !self.is_long() || of_late < self.terms.percent {
            return Verdict::Watched;
        }
        let is_recent = |pressed: &Option<Moment>| pressed.is_some_and(|at| now.saturating_sub(at) < RECENT);
        match LEVELS.iter().zip(&self.pressed).find(|(_, pressed)| is_recent(pressed)) {
            Some((level, _)) => {
                Verdict::Stalled { level: *level, stall: Stall { span: self.terms.span, percent: whole } }
            }
            // It waits for memory, and none of these limits is why.
            None => {
                self.anew();
                Verdict::Watched
            }
        }
    }

    /// Whether it has stood still for long enough, as far as was read.
    pub fn is_long(&self) -> bool {
        self.last.0.saturating_sub(self.since.0) >= self.terms.span.duration()
    }

    /// Counts from the last reading on: what could be done against this stall was done.
    pub fn anew(&mut self) {
        self.since = self.last;
    }
}

/// How much of the time between two readings was stalled.
fn percent((then, before): (Moment, Pressure), (now, found): (Moment, Pressure)) -> u8 {
    let stalled = found.full.saturating_sub(before.full).as_micros() * 100;
    let percent = stalled / now.saturating_sub(then).as_micros().max(1);
    u8::try_from(percent.min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NONE: Pressure = Pressure { full: Duration::ZERO, presses: [0; 3] };

    fn terms() -> Stall {
        Stall { span: "10s".parse().unwrap(), percent: 40 }
    }

    /// One second after the other, each with so much of it stalled and the level that is pressed against: the second and the
    /// verdict that ended the watch.
    fn told(seconds: impl IntoIterator<Item = (u32, Option<usize>)>) -> Option<(u64, Verdict)> {
        let (mut now, mut found) = (Duration::ZERO, NONE);
        let mut watchdog = Watchdog::begin(terms(), now, found);
        for (percent, pressed) in seconds {
            now = watchdog.next();
            found.full += SECOND * percent / 100;
            if let Some(level) = pressed {
                found.presses[level] += 300;
            }
            let verdict = watchdog.read(now, found);
            if verdict != Verdict::Watched {
                return Some((now.as_secs(), verdict));
            }
        }
        None
    }

    fn stalled(level: Level, percent: u8) -> Verdict {
        Verdict::Stalled { level, stall: Stall { percent, ..terms() } }
    }

    #[test]
    fn what_stands_still_at_a_limit_is_told_after_its_span_with_whose_limit_it_was() {
        assert_eq!(told([(85, Some(0)); 60]), Some((10, stalled(Level::Server, 85))));
        assert_eq!(told([(100, Some(1)); 60]), Some((10, stalled(Level::Session, 100))));
        assert_eq!(told([(40, Some(2)); 60]), Some((10, stalled(Level::Machine, 40))));
        let later = [(5, Some(0)); 30].into_iter().chain([(90, Some(0)); 30]);
        assert_eq!(told(later), Some((40, stalled(Level::Server, 90))), "the calm before does not count");
    }

    #[test]
    fn what_is_reclaimed_and_goes_on_lives() {
        assert_eq!(told([(20, Some(0)); 600]), None);
        let waves = (0..600).map(|second| (if second % 12 < 4 { 100 } else { 5 }, Some(0)));
        assert_eq!(told(waves), None);
        let over = [(100, Some(0)); 5].into_iter().chain([(0, Some(0)); 600]);
        assert_eq!(told(over), None, "it stood still and goes on");
    }

    #[test]
    fn without_a_press_the_watch_ends_whatever_the_pressure_and_blames_no_limit() {
        assert_eq!(told([(0, None); 60]), Some((10, Verdict::Calm)));
        assert_eq!(told([(90, None); 60]), Some((10, Verdict::Calm)));
        let once = [(90, Some(0))].into_iter().chain([(90, None); 60]);
        assert_eq!(told(once), Some((11, Verdict::Calm)), "one press long ago is no reason");
        let first = [(0, Some(0)); 5].into_iter().chain([(0, None); 60]);
        assert_eq!(told(first), Some((15, Verdict::Calm)));
    }

    #[test]
    fn a_stall_that_something_was_done_against_counts_anew() {
        let mut watchdog = Watchdog::begin(terms(), Duration::ZERO, NONE);
        let at = |second: u32| Pressure { full: SECOND * second, presses: [0, u64::from(second), 0] };
        for second in 1..10 {
            assert_eq!(watchdog.read(SECOND * second, at(second)), Verdict::Watched);
        }
        assert_eq!(watchdog.read(SECOND * 10, at(10)), stalled(Level::Session, 100));
        watchdog.anew();
        for second in 11..20 {
            assert_eq!(watchdog.read(SECOND * second, at(second)), Verdict::Watched);
        }
        assert_eq!(watchdog.read(SECOND * 20, at(20)), stalled(Level::Session, 100));
    }

    proptest! {
        #[test]
        fn no_more_is_told_than_was_measured(seconds in proptest::collection::vec((0u32..=100, any::<bool>()), 1..120)) {
            let told = told(seconds.iter().map(|(percent, pressed)| (*percent, pressed.then_some(0))));
            if let Some((second, Verdict::Stalled { stall, .. })) = told {
                prop_assert!(second >= 10);
                let end = second as usize;
                let stalled = |from: usize| seconds[from..end].iter().map(|(percent, _)| *percent as usize).sum::<usize>();
                let measured = (0..=end - 10).any(|from| stalled(from) >= 40 * (end - from));
                prop_assert!(measured && stall.percent >= 40 && seconds[end - 1].0 >= 40, "{stall:?} at {second}");
            }
        }
    }
}
