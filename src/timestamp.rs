//! Words: a point in time on the machine's clock, as people and programs write it.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time from 1970 to 9999: RFC 3339 (`2026-01-31T12:00:00.25Z`, or with an offset), or seconds since 1970
/// after an `@`, as in systemd.time(7) and date(1) (`@1769860800.25`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(SystemTime);

/// The text is not a point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not a point in time; write RFC 3339 with its offset, as in 2026-01-31T12:00:00.25Z, or seconds since \
     1970, as in @1769860800.25"
)]
pub struct TimestampError {
    given: String,
}

/// The last second of the year 9999, which is the last that RFC 3339 can write.
const SECONDS_MAX: u64 = 253_402_300_799;

impl Timestamp {
    /// A moment of the clock in whole microseconds, so that it is shown as it is: what was read in a view and is handed
    /// back is the same point in time.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs().min(SECONDS_MAX);
        Self(UNIX_EPOCH + Duration::new(seconds, since.subsec_micros() * 1000))
    }

    /// The moment of the clock.
    pub fn time(self) -> SystemTime {
        self.0
    }

    fn parse(text: &str) -> Option<SystemTime> {
        let time = match text.strip_prefix('@') {
            Some(seconds) => UNIX_EPOCH + seconds_since(seconds)?,
            None => rfc3339(text)?,
        };
        let since = time.duration_since(UNIX_EPOCH).ok()?;
        (since.as_secs() <= SECONDS_MAX).then_some(time)
    }
}

/// `SECONDS` or `SECONDS.FRACTION`, the latter down to nanoseconds.
fn seconds_since(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let seconds = whole.parse().ok().filter(|seconds| *seconds <= SECONDS_MAX)?;
    Some(Duration::new(seconds, format!("{fraction:0<9}").parse().ok()?))
}

/// The parser knows no offsets, which RFC 3339 has.
fn rfc3339(text: &str) -> Option<SystemTime> {
    if !text.is_ascii() || text.len() > 40 {
        return None;
    }
    let text = text.to_ascii_uppercase();
    if let Some(local) = text.strip_suffix('Z') {
        return humantime::parse_rfc3339_weak(local).ok();
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
    let number = |at: usize| {
        let digits = offset.get(at..at + 2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<u64>().ok()
    };
    let (hours, minutes) = (number(1)?, number(4)?);
    if offset.as_bytes()[3] != b':' || hours > 23 || minutes > 59 {
        return None;
    }
    let local = humantime::parse_rfc3339_weak(local).ok()?;
    let offset_seconds = Duration::from_secs(hours * 3600 + minutes * 60);
    match offset.as_bytes()[0] {
        b'+' => local.checked_sub(offset_seconds),
        b'-' => local.checked_add(offset_seconds),
        _ => None,
    }
}

impl Timestamp {
    /// RFC 3339 in UTC to the second, as people read it.
    pub fn to_second(self) -> String {
        humantime::format_rfc3339_seconds(self.0).to_string()
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(given: &str) -> Result<Self, TimestampError> {
        let error = || TimestampError { given: given.chars().take(80).collect() };
        Self::parse(given).map(Self).ok_or_else(error)
    }
}

/// RFC 3339 in UTC with microseconds, and with nanoseconds where there are any.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
        if nanoseconds.is_multiple_of(1000) {
            write!(f, "{}", humantime::format_rfc3339_micros(self.0))
        } else {
            write!(f, "{}", humantime::format_rfc3339_nanos(self.0))
        }
    }
}

impl TryFrom<String> for Timestamp {
    type Error = TimestampError;
    fn try_from(text: String) -> Result<Self, TimestampError> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(timestamp: Timestamp) -> String {
        timestamp.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Duration {
        let timestamp: Timestamp = text.parse().unwrap_or_else(|error| panic!("{error}"));
        timestamp.time().duration_since(UNIX_EPOCH).unwrap()
    }

    #[test]
    fn one_point_in_time_is_written_in_many_ways() {
        let expected = Duration::new(1_769_860_800, 250_000_000);
        for text in [
            "2026-01-31T12:00:00.25Z",
            "2026-01-31t12:00:00.250000z",
            "2026-01-31T14:00:00.25+02:00",
            "2026-01-31 06:30:00.25-05:30",
            "@1769860800.25",
        ] {
            assert_eq!(at(text), expected, "{text}");
        }
        assert_eq!(at("@1769860800"), Duration::from_secs(1_769_860_800));
        assert_eq!(at("@0.000000001"), Duration::from_nanos(1));
    }

    #[test]
    fn what_leaves_room_for_doubt_is_refused() {
        for wrong in [
            "",
            "@",
            "@-1",
            "@1.",
            "@.5",
            "@1.0000000001",
            "@99999999999999",
            "1769860800",
            "2026-01-31T12:00:00",
            "2026-01-31",
            "2026-02-30T12:00:00Z",
            "2026-01-31T12:00:00+0200",
            "2026-01-31T12:00:00+02:60",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "5s",
            "now",
            "2026-01-31T12:00:0\u{663}Z",
        ] {
            assert!(wrong.parse::<Timestamp>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_as_the_same_point_in_time(seconds in 0..=SECONDS_MAX, nanoseconds in 0..1_000_000_000u32) {
            let time = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            for timestamp in [Timestamp::of(time), Timestamp(time)] {
                prop_assert_eq!(timestamp.to_string().parse(), Ok(timestamp));
            }
            prop_assert!(Timestamp::of(time) <= Timestamp(time));
        }

        #[test]
        fn parsing_any_text_never_panics(text in ".{0,50}") {
            let _ = text.parse::<Timestamp>();
        }
    }
}
