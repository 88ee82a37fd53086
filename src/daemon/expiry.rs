//! The driver's side of a session's time-to-live: when it begins, and when it is over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::driver::Driver;
use crate::lifecycle::{Due, Event};
use crate::limits::Limit;
use crate::naming::SessionKey;
use crate::process;
use crate::records::Expiry;
use crate::timespan::TimeSpan;

/// A timer on `CLOCK_BOOTTIME`, so that the machine's sleep counts (timerfd_create(2)).
#[derive(Debug)]
pub(super) struct Alarm(OwnedFd);

impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?))
    }

    /// Rings at this moment since boot; at none, where none is given.
    fn set(&self, at: Option<Duration>) -> io::Result<()> {
        let span = |time: Duration| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        let timer = Itimerspec { it_interval: span(Duration::ZERO), it_value: span(at.unwrap_or_default()) };
        rustix::time::timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &timer)?;
        Ok(())
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Driver {
    /// A launch is about to be added to a session. With the first one of a generation its time begins; anew, where what had
    /// its time still ends.
    pub(super) fn begin_time(&mut self, key: &SessionKey, ttl: Limit<TimeSpan>, is_first: bool) {
        let now = process::since_boot();
        // What is over ends before anybody joins it, and is told by the same clock.
        self.expire_at(now);
        let Some(session) = self.table.sessions.get_mut(key) else { return };
        if is_first || session.expires.is_some_and(|expiry| expiry.at <= now) {
            session.expires = ttl.at().map(|ttl| Expiry { ttl, at: now + ttl.duration() });
            self.set_alarm(now);
        }
    }

    /// Ends the sessions whose time is over.
    pub(super) fn expire(&mut self) {
        self.expire_at(process::since_boot());
    }

    fn expire_at(&mut self, now: Duration) {
        let mut over = Vec::new();
        for session in self.table.sessions.values() {
            if let Some(expiry) = session.expires.filter(|expiry| expiry.at <= now) {
                over.extend(session.servers.iter().map(|number| (*number, expiry.ttl)));
            }
        }
        for (number, ttl) in over {
            self.feed(number, Event::Due(Due::Expired { ttl }));
        }
        self.set_alarm(now);
    }

    /// Rings when the next session's time is over. Those that are over already ring no more: they end.
    fn set_alarm(&self, now: Duration) {
        let moments = self.table.sessions.values().filter_map(|session| session.expires);
        let next = moments.map(|expiry| expiry.at).filter(|at| *at > now).min();
        if let Err(error) = self.alarm.set(next) {
            tracing::error!(%error, "a time-to-live will be noticed at the next launch only");
        }
    }
}
