//! What one row of the screen did lately: its resident memory over the last readings, and how fast its counters grew.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;
use std::time::Duration;

use crate::snapshot::{ActivityView, MemoryView, PressureView};

/// The most readings that are kept: more than the widest screen shows.
pub(super) const SAMPLES_MAX: usize = 120;

/// Two readings that are closer than this say nothing about a rate.
const APART_MIN: Duration = Duration::from_millis(200);

/// The lately of one session or server.
#[derive(Debug, Default)]
pub(super) struct Track {
    samples: VecDeque<u64>,
    last: Option<Counters>,
    cpu_percent: Option<f64>,
    pressure_percent: Option<f64>,
}

/// What the counters said, and when.
#[derive(Debug, Clone, Copy)]
struct Counters {
    at: Duration,
    cpu_seconds: Option<f64>,
    stalled_seconds: Option<f64>,
}

impl Track {
    /// Takes in what was read at a moment. A reading right after the one before changes nothing.
    pub(super) fn take(&mut self, at: Duration, memory: &MemoryView, activity: &ActivityView, pressure: &PressureView) {
        let now = Counters { at, cpu_seconds: activity.cpu_seconds, stalled_seconds: pressure.memory.some_seconds };
        if let Some(last) = self.last {
            let apart = at.saturating_sub(last.at);
            if apart < APART_MIN {
                return;
            }
            self.cpu_percent = percent(last.cpu_seconds, now.cpu_seconds, apart);
            self.pressure_percent = percent(last.stalled_seconds, now.stalled_seconds, apart);
        }
        self.last = Some(now);
        if let Some(rss) = memory.rss_bytes {
            if self.samples.len() == SAMPLES_MAX {
                self.samples.pop_front();
            }
            self.samples.push_back(rss.0);
        }
    }

    /// Resident memory, oldest first.
    pub(super) fn samples(&self) -> &VecDeque<u64> {
        &self.samples
    }

    /// CPU time over the last interval, in percent of one CPU.
    pub(super) fn cpu_percent(&self) -> Option<f64> {
        self.cpu_percent
    }

    /// How much of the last interval at least one process waited for memory, in percent.
    pub(super) fn pressure_percent(&self) -> Option<f64> {
        self.pressure_percent.map(|percent| percent.min(100.0))
    }
}

/// How fast a counter of seconds grew, in percent. One that fell is another counter, and says nothing.
fn percent(before: Option<f64>, now: Option<f64>, apart: Duration) -> Option<f64> {
    let grown = now? - before?;
    (grown >= 0.0).then(|| grown / apart.as_secs_f64() * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Bytes;
    use crate::snapshot::StallView;

    fn take(track: &mut Track, seconds: f64, rss: u64, cpu: f64, stalled: f64) {
        let memory = MemoryView { rss_bytes: Some(Bytes(rss)), ..MemoryView::default() };
        let activity = ActivityView { cpu_seconds: Some(cpu), ..ActivityView::default() };
        let memory_stall = StallView { some_seconds: Some(stalled), full_seconds: None };
        let pressure = PressureView { memory: memory_stall, ..PressureView::default() };
        track.take(Duration::from_secs_f64(seconds), &memory, &activity, &pressure);
    }

    #[test]
    fn rates_are_those_of_the_last_interval() {
        let mut track = Track::default();
        take(&mut track, 10.0, 1, 5.0, 1.0);
        assert_eq!((track.cpu_percent(), track.pressure_percent()), (None, None));
        take(&mut track, 12.0, 1, 8.0, 1.5);
        assert_eq!((track.cpu_percent(), track.pressure_percent()), (Some(150.0), Some(25.0)));
        take(&mut track, 14.0, 1, 8.0, 1.5);
        assert_eq!((track.cpu_percent(), track.pressure_percent()), (Some(0.0), Some(0.0)));
    }

    #[test]
    fn a_counter_that_fell_tells_no_rate() {
        let mut track = Track::default();
        take(&mut track, 0.0, 1, 5.0, 1.0);
        take(&mut track, 2.0, 1, 1.0, 1.0);
        assert_eq!(track.cpu_percent(), None);
    }

    #[test]
    fn a_reading_right_after_another_changes_nothing() {
        let mut track = Track::default();
        take(&mut track, 0.0, 1, 5.0, 1.0);
        take(&mut track, 0.01, 2, 6.0, 1.0);
        assert_eq!((track.samples().len(), track.cpu_percent()), (1, None));
    }

    #[test]
    fn samples_are_bounded_and_the_oldest_goes_first() {
        let mut track = Track::default();
        for number in 0..SAMPLES_MAX as u64 + 5 {
            take(&mut track, number as f64, number, 0.0, 0.0);
        }
        assert_eq!((track.samples().len(), track.samples().front()), (SAMPLES_MAX, Some(&5)));
    }
}
