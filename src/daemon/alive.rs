//! Tells the service manager's watchdog that the driver turns: from the driver's own loop, so that a daemon whose driver is
//! stuck is killed, and the next one adopts. Without a watchdog there is nothing to wake up for.

use std::time::Duration;

use crate::lifecycle::Moment;
use crate::systemd::Watchdog;

/// The wait before it is told again, where the manager took nothing.
const AGAIN: Duration = Duration::from_secs(1);

/// When it is told next, and to whom.
#[derive(Debug, Default)]
pub(super) struct Alive(Option<(Watchdog, Moment)>);

impl Alive {
    /// It is told for the first time at once.
    pub(super) fn new(watchdog: Option<Watchdog>) -> Self {
        Self(watchdog.map(|watchdog| (watchdog, Moment::ZERO)))
    }

    /// When the driver has to turn for it.
    pub(super) fn next(&self) -> Option<Moment> {
        self.0.as_ref().map(|(_, next)| *next)
    }

    /// Tells it, where it is time.
    pub(super) fn tell(&mut self, now: Moment) {
        let Some((watchdog, next)) = self.0.as_mut().filter(|(_, next)| *next <= now) else { return };
        *next = now + pause(watchdog.at_most(), watchdog.alive().is_ok());
    }
}

/// Half of what the manager is content with leaves as much again for a machine that is slow.
fn pause(at_most: Duration, taken: bool) -> Duration {
    if taken { at_most / 2 } else { AGAIN.min(at_most / 4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_told_at_half_of_its_time_and_sooner_where_the_manager_took_nothing() {
        let minute = Duration::from_secs(60);
        assert_eq!(pause(minute, true), Duration::from_secs(30));
        assert_eq!(pause(minute, false), AGAIN);
        assert_eq!(pause(AGAIN, false), AGAIN / 4);
    }

    #[test]
    fn without_a_watchdog_nothing_is_woken_up_for() {
        let mut alive = Alive::new(None);
        alive.tell(Duration::from_secs(7));
        assert_eq!(alive.next(), None);
    }
}
