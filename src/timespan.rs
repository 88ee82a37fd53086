//! Words: how long to wait, as people write it.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A time span as in systemd.time(7), of one part: a whole number with `ms`, `s`, `min`, `h` or `d`, at most 30 days.
///
/// A number without a unit is refused, so that nobody waits 5000 seconds for what was meant as milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeSpan(Duration);

impl TimeSpan {
    /// The longest time span. Every wait has an end.
    pub const MAX: Duration = Duration::from_secs(30 * 86_400);
    const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

    /// So many seconds; more than the longest are the longest.
    pub const fn seconds(seconds: u32) -> Self {
        let span = Duration::from_secs(seconds as u64);
        Self(if span.as_secs() < Self::MAX.as_secs() { span } else { Self::MAX })
    }

    /// How long it is.
    pub fn duration(self) -> Duration {
        self.0
    }
}

/// The text was not a time span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a time span; write a whole number and a unit, as in 500ms, 5s, 2min, 1h or 1d (at most 30d)")]
pub struct TimeSpanError {
    given: String,
}

impl FromStr for TimeSpan {
    type Err = TimeSpanError;

    fn from_str(given: &str) -> Result<Self, TimeSpanError> {
        let digits = given.len() - given.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = given.split_at(digits);
        let factor = Self::UNITS.iter().find(|(name, _)| *name == unit.trim_start_matches(' ')).map(|(_, ms)| *ms);
        let span = number.parse::<u64>().ok().zip(factor).and_then(|(number, ms)| number.checked_mul(ms));
        match span.map(Duration::from_millis) {
            Some(span) if span <= Self::MAX => Ok(Self(span)),
            _ => Err(TimeSpanError { given: given.chars().take(80).collect() }),
        }
    }
}

/// The time span in its largest unit without a remainder: `90s`, `2min`.
impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis() as u64;
        let whole = Self::UNITS.iter().rev().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit));
        let (name, unit) = whole.unwrap_or(&("s", 1000));
        f.pad(&format!("{}{name}", ms / unit))
    }
}

impl TryFrom<String> for TimeSpan {
    type Error = TimeSpanError;
    fn try_from(text: String) -> Result<Self, TimeSpanError> {
        text.parse()
    }
}

impl From<TimeSpan> for String {
    fn from(span: TimeSpan) -> String {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_span_is_a_number_and_a_unit() {
        for (text, ms) in [
            ("500ms", 500),
            ("5s", 5_000),
            ("2min", 120_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("0s", 0),
            ("3 s", 3_000),
        ] {
            assert_eq!(text.parse::<TimeSpan>().unwrap().duration(), Duration::from_millis(ms), "{text}");
        }
        for wrong in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            "+1s",
            "5m",
            "5S",
            "31d",
            "99999999999999999999s",
            "1min 30s",
            "infinity",
            "٣s",
        ] {
            assert!(wrong.parse::<TimeSpan>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_time_span_reads_back_as_it_was_written(ms in 0..TimeSpan::MAX.as_millis() as u64) {
            let span: TimeSpan = format!("{ms}ms").parse().unwrap();
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn parsing_any_text_never_panics(text in ".{0,40}") {
            let _ = text.parse::<TimeSpan>();
        }
    }
}
