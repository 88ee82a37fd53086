//! When a server is idle: over a span of time there was no CPU time to speak of and no I/O in all of its leaf.
//!
//! Life is seen in little, because the other error ends a server that is in use. Any of these begins the span anew: a
//! process read or wrote a byte, came or went; a disk was asked for something; the CPU time went beyond what timers and
//! garbage collectors burn; a message waits in stdin; or any of this could not be read.
//!
//! It is blind for one thing: a server that waits for a long answer from elsewhere does nothing meanwhile.

use std::time::Duration;

use super::Moment;
use crate::timespan::TimeSpan;

/// Readings in each span. What happens right after one is dated to the next, so an idle server lives for up to half a
/// span longer than the span, and a second longer than a short one.
const READINGS: u32 = 4;

/// The shortest wait between two readings.
const PAUSE_LEAST: Duration = Duration::from_secs(1);

/// CPU time that is none to speak of, in a short span.
const CPU_LEAST: Duration = Duration::from_millis(50);

/// The same in a long span: a thousandth of it. An idle Node server burns nothing at all, and one with a timer that
/// rings each second half of this; a single call of a tool costs milliseconds and is I/O, where it is read(2) and answered by
/// write(2): the kernel counts neither send(2) and recv(2) nor io_uring.
const CPU_PART: u32 = 1000;

/// What a leaf has done so far, all cgroups below it included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// CPU time, of what has exited as well.
    pub cpu: Duration,
    /// For each living process the bytes that it and the children it waited for have read and written, of whatever kind
    /// of file, in order of their numbers.
    pub bytes: Vec<(i32, u64)>,
    /// All that block devices were asked for, where the kernel counts that for the leaf.
    pub blocks: u64,
}

/// Watches one server for having nothing to do.
#[derive(Debug)]
pub struct Idle {
    after: TimeSpan,
    /// When it was last found to have done something, and what it had done until then.
    since: Option<(Moment, Activity)>,
    /// When it is to be read next.
    next: Moment,
    /// When the reading that is under way began.
    asked: Option<Moment>,
}

impl Idle {
    /// Begins now: what was before is not known.
    pub fn begin(after: TimeSpan, now: Moment) -> Self {
        let mut idle = Self { after, since: None, next: now, asked: None };
        idle.next = idle.following(now);
        idle
    }

    /// How long it may be idle.
    pub fn after(&self) -> TimeSpan {
        self.after
    }

    /// When it is to be read next; while it is read, that is open.
    pub fn next(&self) -> Option<Moment> {
        self.asked.is_none().then_some(self.next)
    }

    /// A reading begins, if one is due.
    pub fn ask(&mut self, now: Moment) -> bool {
        let due = self.next().is_some_and(|next| next <= now);
        if due {
            self.asked = Some(now);
            self.next = self.following(now);
        }
        due
    }

    /// It is read once more, before what the last reading told has a consequence.
    pub fn ask_again(&mut self, now: Moment) {
        self.asked = Some(now);
    }

    /// The reading that was begun is there; `None` where it failed, or where something waits to be read by the server.
    /// Tells whether the server has been idle for long enough.
    #[must_use]
    pub fn read(&mut self, now: Moment, found: Option<Activity>) -> bool {
        let Some(asked) = self.asked.take() else { return false };
        let (Some(found), Some((since, before))) = (&found, &self.since) else {
            self.since = found.map(|found| (now, found));
            return false;
        };
        let span = asked.saturating_sub(*since);
        if found.stirred_since(before, span) {
            self.since = Some((now, found.clone()));
            return false;
        }
        span >= self.after.duration()
    }

    /// Readings of all servers with the same span fall together, so that they are one wake-up.
    fn following(&self, now: Moment) -> Moment {
        let pause = (self.after.duration() / READINGS).max(PAUSE_LEAST).as_millis().max(1);
        Duration::from_millis(u64::try_from((now.as_millis() / pause + 1) * pause).unwrap_or(u64::MAX))
    }
}

impl Activity {
    fn stirred_since(&self, before: &Self, span: Duration) -> bool {
        let nothing = CPU_LEAST.max(span / CPU_PART);
        self.bytes != before.bytes || self.blocks != before.blocks || self.cpu.saturating_sub(before.cpu) > nothing
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn activity(cpu_ms: u64, bytes: u64) -> Activity {
        Activity { cpu: Duration::from_millis(cpu_ms), bytes: vec![(7, bytes)], blocks: 0 }
    }

    /// Reads what `found` tells of each moment, until it is idle or `until` is reached.
    fn idle_at(after: &str, until: Moment, mut found: impl FnMut(Moment) -> Option<Activity>) -> Option<Moment> {
        let mut idle = Idle::begin(after.parse().unwrap(), Duration::ZERO);
        while let Some(now) = idle.next().filter(|next| *next <= until) {
            assert!(idle.ask(now) && !idle.ask(now), "one reading at a time");
            if idle.read(now, found(now)) {
                return Some(now);
            }
        }
        None
    }

    #[test]
    fn what_does_nothing_is_idle_after_its_span_and_not_before() {
        assert_eq!(idle_at("8s", 60 * SECOND, |_| Some(activity(3, 5))), Some(10 * SECOND));
        assert_eq!(idle_at("1s", 60 * SECOND, |_| Some(activity(3, 5))), Some(2 * SECOND));
    }

    #[test]
    fn what_still_does_something_is_not_idle() {
        let hour = 3600 * SECOND;
        let each = |change: fn(&mut Activity, u64)| {
            idle_at("8s", hour, |now| {
                let mut found = activity(0, 0);
                change(&mut found, now.as_secs() / 6);
                Some(found)
            })
        };
        assert_eq!(each(|found, count| found.bytes[0].1 += count), None, "a byte");
        assert_eq!(each(|found, count| found.bytes.push((8 + (count % 2) as i32, 0))), None, "a process");
        assert_eq!(each(|found, count| found.blocks += count), None, "a block");
        assert_eq!(each(|found, count| found.cpu += Duration::from_millis(60 * count)), None, "CPU time");
        assert_eq!(each(|found, count| found.cpu += Duration::from_millis(count)), Some(10 * SECOND), "a timer");
        assert_eq!(idle_at("8s", hour, |now| (now.as_secs() % 6 != 0).then(|| activity(0, 0))), None, "unread");
    }

    #[test]
    fn what_a_timer_burns_over_hours_is_none_to_speak_of() {
        let half = |now: Moment| Some(Activity { cpu: now / 2000, bytes: Vec::new(), blocks: 0 });
        assert_eq!(idle_at("8h", 100 * 3600 * SECOND, half), Some(10 * 3600 * SECOND));
        let twice = |now: Moment| Some(Activity { cpu: now / 500, bytes: Vec::new(), blocks: 0 });
        assert_eq!(idle_at("8h", 100 * 3600 * SECOND, twice), None);
    }

    #[test]
    fn a_slow_reading_does_not_count_as_time_without_activity() {
        let mut idle = Idle::begin("2s".parse().unwrap(), Duration::ZERO);
        assert!(idle.ask(SECOND));
        assert!(!idle.read(5 * SECOND, Some(activity(0, 0))));
        assert!(idle.ask(6 * SECOND) && !idle.read(9 * SECOND, Some(activity(0, 0))), "it was read at 6 s, or later");
        assert!(idle.ask(9 * SECOND) && idle.read(9 * SECOND, Some(activity(0, 0))));
    }

    #[test]
    fn servers_with_the_same_span_are_read_at_the_same_moments() {
        let spans = [0, 100, 1_999].map(|begun| Idle::begin("8s".parse().unwrap(), Duration::from_millis(begun)));
        assert!(spans.iter().all(|idle| idle.next() == Some(2 * SECOND)), "{spans:?}");
    }

    proptest! {
        #[test]
        fn nothing_is_idle_before_its_span_has_passed_since_it_last_did_something(
            after in 1u64..100, steps in proptest::collection::vec(any::<bool>(), 1..200)
        ) {
            let mut idle = Idle::begin(format!("{after}s").parse().unwrap(), Duration::ZERO);
            let (mut last, mut bytes) = (Duration::ZERO, 0);
            for stirs in steps {
                let now = idle.next().unwrap();
                if stirs {
                    (last, bytes) = (now, bytes + 1);
                }
                prop_assert!(idle.ask(now));
                if idle.read(now, Some(activity(0, bytes))) {
                    prop_assert!(now - last >= Duration::from_secs(after));
                }
                prop_assert!(idle.next().unwrap() > now, "it never reads twice at one moment");
            }
        }
    }
}
