//! When a server is idle: over a span of time there was no CPU time to speak of and no I/O in all of its leaf.
//!
//! Life is seen in little, because the other error ends a server that is in use. Any of these begins the span anew: a
//! process read or wrote a byte, came or went; a disk was asked for something; the CPU time went beyond what timers and
//! garbage collectors burn; a message waits in stdin; or any of this could not be read.
//!
//! It is blind for one thing: a server that waits for a long answer from elsewhere does nothing meanwhile.
//!
//! What follows from it has spans of its own: its memory is given back ([`Spans::trim`]), it is parked ([`Spans::park`]), it
//! ends ([`Spans::end`]).

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
    /// For each living process the bytes that it and the children it waited for have read(2) and written, of whatever kind
    /// of file, in order of their numbers.
    pub bytes: Vec<(i32, u64)>,
    /// What these fetched from disks, and had written there.
    pub disk: u64,
    /// All that block devices were asked for, where the kernel counts that for the leaf.
    pub blocks: u64,
}

/// After how long without activity what becomes of a server; `None`: never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spans {
    /// Its memory is reclaimed while it goes on.
    pub trim: Option<TimeSpan>,
    /// It is frozen, and its memory reclaimed.
    pub park: Option<TimeSpan>,
    /// It ends.
    pub end: Option<TimeSpan>,
}

impl Spans {
    /// By which it is read often enough for all of them.
    fn shortest(self) -> Option<TimeSpan> {
        [self.trim, self.park, self.end].into_iter().flatten().min()
    }
}

/// Watches one server for having nothing to do.
#[derive(Debug)]
pub struct Idle {
    spans: Spans,
    /// The shortest of them.
    shortest: TimeSpan,
    /// When it was last found to have done something, and what it had done until then.
    since: Option<(Moment, Activity)>,
    /// Its memory was given back since then: what it fetches from a disk is what it had.
    reclaimed: bool,
    /// When it is to be read next.
    next: Moment,
    /// When the reading that is under way began.
    asked: Option<Moment>,
}

impl Idle {
    /// Begins now: what was before is not known. `None` where nothing would follow.
    pub fn begin(spans: Spans, now: Moment) -> Option<Self> {
        let mut idle =
            Self { spans, shortest: spans.shortest()?, since: None, reclaimed: false, next: now, asked: None };
        idle.next = idle.following(now);
        Some(idle)
    }

    /// After how long what follows.
    pub fn spans(&self) -> Spans {
        self.spans
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
    /// Tells for how long the server has been idle, where it has.
    #[must_use]
    pub fn read(&mut self, now: Moment, found: Option<Activity>) -> Option<Duration> {
        let asked = self.asked.take()?;
        let (Some(found), Some((since, before))) = (found.clone(), &self.since) else {
            (self.since, self.reclaimed) = (found.map(|found| (now, found)), false);
            return None;
        };
        let span = asked.saturating_sub(*since);
        let seen = if self.reclaimed { found.clone().but_for_disks(before) } else { found.clone() };
        if seen.stirred_since(before, span) {
            (self.since, self.reclaimed) = (Some((now, found)), false);
            return None;
        }
        Some(span)
    }

    /// Its memory was reclaimed: until it does something else, what disks are asked for is that going and coming back. A
    /// timer of a program that does nothing touches the same few pages each time.
    pub fn was_reclaimed(&mut self) {
        self.reclaimed = true;
    }

    /// What it had done when it was last found to have done something.
    pub fn baseline(&self) -> Option<&Activity> {
        self.since.as_ref().map(|(_, activity)| activity)
    }

    /// Readings of all servers with the same span fall together, so that they are one wake-up.
    fn following(&self, now: Moment) -> Moment {
        let pause = (self.shortest.duration() / READINGS).max(PAUSE_LEAST).as_millis().max(1);
        Duration::from_millis(u64::try_from((now.as_millis() / pause + 1) * pause).unwrap_or(u64::MAX))
    }
}

impl Activity {
    /// The same, with what was asked of disks until then.
    #[must_use]
    pub fn but_for_disks(self, before: &Self) -> Self {
        Self { disk: before.disk, blocks: before.blocks, ..self }
    }

    /// Whether anything but what timers burn was done between `before` and this reading, `span` later.
    pub fn stirred_since(&self, before: &Self, span: Duration) -> bool {
        self.did_more(before, CPU_LEAST.max(span / CPU_PART))
    }

    /// Whether anything but so much CPU time was spent between `before` and this reading.
    pub fn did_more(&self, before: &Self, nothing: Duration) -> bool {
        let disks = (self.disk, self.blocks) != (before.disk, before.blocks);
        disks || self.bytes != before.bytes || self.cpu.saturating_sub(before.cpu) > nothing
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn activity(cpu_ms: u64, bytes: u64) -> Activity {
        Activity { cpu: Duration::from_millis(cpu_ms), bytes: vec![(7, bytes)], disk: 0, blocks: 0 }
    }

    fn ending(after: &str, now: Moment) -> Idle {
        Idle::begin(Spans { end: Some(after.parse().unwrap()), ..Spans::default() }, now).unwrap()
    }

    /// Whether a reading tells that it has been idle for as long as it may be.
    fn is_over(idle: &mut Idle, now: Moment, found: Option<Activity>) -> bool {
        let span = idle.spans().end.unwrap().duration();
        idle.read(now, found).is_some_and(|idle| idle >= span)
    }

    /// Reads what `found` tells of each moment, until it is idle or `until` is reached.
    fn idle_at(after: &str, until: Moment, mut found: impl FnMut(Moment) -> Option<Activity>) -> Option<Moment> {
        let mut idle = ending(after, Duration::ZERO);
        while let Some(now) = idle.next().filter(|next| *next <= until) {
            assert!(idle.ask(now) && !idle.ask(now), "one reading at a time");
            if is_over(&mut idle, now, found(now)) {
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
        assert_eq!(each(|found, count| found.disk += count), None, "a page of a file");
        assert_eq!(each(|found, count| found.cpu += Duration::from_millis(60 * count)), None, "CPU time");
        assert_eq!(each(|found, count| found.cpu += Duration::from_millis(count)), Some(10 * SECOND), "a timer");
        assert_eq!(idle_at("8s", hour, |now| (now.as_secs() % 6 != 0).then(|| activity(0, 0))), None, "unread");
    }

    #[test]
    fn what_a_timer_burns_over_hours_is_none_to_speak_of() {
        let half = |now: Moment| Some(Activity { cpu: now / 2000, bytes: Vec::new(), disk: 0, blocks: 0 });
        assert_eq!(idle_at("8h", 100 * 3600 * SECOND, half), Some(10 * 3600 * SECOND));
        let twice = |now: Moment| Some(Activity { cpu: now / 500, bytes: Vec::new(), disk: 0, blocks: 0 });
        assert_eq!(idle_at("8h", 100 * 3600 * SECOND, twice), None);
    }

    #[test]
    fn a_slow_reading_does_not_count_as_time_without_activity() {
        let mut idle = ending("2s", Duration::ZERO);
        let mut reads = |asked, now| idle.ask(asked) && is_over(&mut idle, now, Some(activity(0, 0)));
        assert!(!reads(SECOND, 5 * SECOND));
        assert!(!reads(6 * SECOND, 9 * SECOND), "it was read at 6 s, or later");
        assert!(reads(9 * SECOND, 9 * SECOND));
    }

    #[test]
    fn servers_with_the_same_span_are_read_at_the_same_moments() {
        let spans = [0, 100, 1_999].map(|begun| ending("8s", Duration::from_millis(begun)));
        assert!(spans.iter().all(|idle| idle.next() == Some(2 * SECOND)), "{spans:?}");
    }

    #[test]
    fn it_is_read_often_enough_for_the_shortest_of_its_spans() {
        let span = |text: &str| Some(text.parse().unwrap());
        let spans = Spans { trim: span("30min"), park: span("8s"), end: None };
        assert_eq!(Idle::begin(spans, Duration::ZERO).unwrap().next(), Some(2 * SECOND));
        assert!(Idle::begin(Spans::default(), Duration::ZERO).is_none(), "nothing would follow");
    }

    #[test]
    fn what_comes_and_goes_by_disk_after_memory_was_given_back_is_no_activity_until_there_is_another() {
        let mut idle = ending("2s", Duration::ZERO);
        let mut read = |second: u32, disk, bytes, reclaimed: bool| {
            if reclaimed {
                idle.was_reclaimed();
            }
            assert!(idle.ask(second * SECOND));
            idle.read(second * SECOND, Some(Activity { disk, blocks: disk, ..activity(0, bytes) }))
        };
        assert_eq!(read(1, 0, 0, false), None);
        assert_eq!(read(2, 7, 0, true), Some(SECOND), "the span goes on");
        assert_eq!(read(3, 9, 0, false), Some(2 * SECOND), "a timer has touched something");
        assert_eq!(read(4, 12, 1, false), None, "it read a message");
        assert_eq!(read(5, 13, 1, false), None, "and what it needs for that");
        assert_eq!(read(6, 13, 1, false), Some(SECOND));
    }

    proptest! {
        #[test]
        fn nothing_is_idle_before_its_span_has_passed_since_it_last_did_something(
            after in 1u64..100, steps in proptest::collection::vec(any::<bool>(), 1..200)
        ) {
            let mut idle = ending(&format!("{after}s"), Duration::ZERO);
            let (mut last, mut bytes) = (Duration::ZERO, 0);
            for stirs in steps {
                let now = idle.next().unwrap();
                if stirs {
                    (last, bytes) = (now, bytes + 1);
                }
                prop_assert!(idle.ask(now));
                if is_over(&mut idle, now, Some(activity(0, bytes))) {
                    prop_assert!(now - last >= Duration::from_secs(after));
                }
                prop_assert!(idle.next().unwrap() > now, "it never reads twice at one moment");
            }
        }
    }
}
