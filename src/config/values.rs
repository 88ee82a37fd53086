//! Single values of the file. Each is checked where it is read, so that the error knows its line.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::limits::{Limit, LimitError, MEMORY_MAX_FLOOR, MemorySize};
use crate::policy::{GRACE_MAX, WAIT_MAX};
use crate::timespan::{TimeSpan, TimeSpanError};

/// The shortest time that a session may be given to live.
const TTL_MIN: Duration = Duration::from_secs(1);

/// The shortest time that makes a server an idle one.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// The shortest time that a server may stand still before it is ended.
const STALL_MIN: Duration = Duration::from_secs(1);

/// A value as text, whether or not it was written in quotes: `memory_swap_max = 0` is as good as `"0"`.
#[derive(Deserialize)]
#[serde(from = "serde_json::Value")]
pub(super) struct Scalar(pub(super) String);

impl From<serde_json::Value> for Scalar {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::String(text) => Self(text),
            other => Self(other.to_string()),
        }
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
pub(super) struct SwapMax(pub(super) MemorySize);

impl TryFrom<Scalar> for SwapMax {
    type Error = LimitError;
    fn try_from(Scalar(text): Scalar) -> Result<Self, LimitError> {
        text.parse().map(Self)
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
pub(super) struct MemoryMax(pub(super) MemorySize);

impl TryFrom<Scalar> for MemoryMax {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        match text.parse().map_err(|error: LimitError| error.to_string())? {
            MemorySize::Amount(amount) if amount < MEMORY_MAX_FLOOR => {
                Err(format!("{amount} is less than a process can start with; write at least {MEMORY_MAX_FLOOR}"))
            }
            MemorySize::Share(0) => {
                Err(format!("0% is less than a process can start with; write at least {MEMORY_MAX_FLOOR}"))
            }
            enough => Ok(Self(enough)),
        }
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
pub(super) struct Grace(pub(super) Duration);

impl TryFrom<Scalar> for Grace {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        let span: TimeSpan = text.parse().map_err(|error: TimeSpanError| error.to_string())?;
        if span.duration() > GRACE_MAX {
            let max = GRACE_MAX.as_secs();
            return Err(format!("{span} would hold up the end of a session for too long; write at most {max}s"));
        }
        Ok(Self(span.duration()))
    }
}

/// How long a server may do nothing. Readings are not taken more often than each second.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
pub(super) struct IdleAfter(pub(super) Limit<TimeSpan>);

impl TryFrom<Scalar> for IdleAfter {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        if text == "infinity" {
            return Ok(Self(Limit::Infinity));
        }
        let span: TimeSpan = text.parse().map_err(|TimeSpanError { .. }| {
            format!("{text:?} is not a time to be idle for; write 30min, 8h or \"infinity\" (at most 30d)")
        })?;
        if span.duration() < IDLE_MIN {
            return Err(format!(
                "{span} is too short to tell an idle server by; write at least {}s",
                IDLE_MIN.as_secs()
            ));
        }
        Ok(Self(Limit::At(span)))
    }
}

/// A part of the time: `40%`. Whole percents from 1.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
pub(super) struct Percent(pub(super) u8);

impl TryFrom<Scalar> for Percent {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        match text.strip_suffix('%').and_then(|percent| percent.parse().ok()) {
            // What stands still for good was measured at 81 to 89 %.
            Some(percent @ 1..=80) => Ok(Self(percent)),
            _ => Err(format!("{text:?} is not a part of the time; write 40%, from 1% to 80%")),
        }
    }
}

/// For how long a server must stand still to be ended.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
pub(super) struct StallSpan(pub(super) TimeSpan);

impl TryFrom<Scalar> for StallSpan {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        let span: TimeSpan = text.parse().map_err(|error: TimeSpanError| error.to_string())?;
        if !(STALL_MIN..=GRACE_MAX).contains(&span.duration()) {
            let (min, max) = (STALL_MIN.as_secs(), GRACE_MAX.as_secs());
            return Err(format!("{span} is no time to stand still for; write from {min}s to {max}s"));
        }
        Ok(Self(span))
    }
}

/// How long a session may live. Less than a second would end it before its first server has answered.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
pub(super) struct Ttl(pub(super) Limit<TimeSpan>);

impl TryFrom<Scalar> for Ttl {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        if text == "infinity" {
            return Ok(Self(Limit::Infinity));
        }
        let span: TimeSpan = text.parse().map_err(|TimeSpanError { .. }| {
            format!("{text:?} is not a time to live; write 8h, 30min or \"infinity\" (at most 30d)")
        })?;
        if span.duration() < TTL_MIN {
            return Err(format!("{span} is too short to live for; write at least {}s", TTL_MIN.as_secs()));
        }
        Ok(Self(Limit::At(span)))
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
pub(super) struct IdleExit(pub(super) Limit<Duration>);

impl TryFrom<Scalar> for IdleExit {
    type Error = TimeSpanError;
    fn try_from(Scalar(text): Scalar) -> Result<Self, TimeSpanError> {
        match text.as_str() {
            "infinity" => Ok(Self(Limit::Infinity)),
            text => text.parse().map(|span: TimeSpan| Self(Limit::At(span.duration()))),
        }
    }
}

/// The most entries of a table of the daemon. Each costs descriptors and memory, so it has a bound of its own.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "i64")]
pub(super) struct Bound(u32);

impl TryFrom<i64> for Bound {
    type Error = String;
    fn try_from(number: i64) -> Result<Self, String> {
        match u32::try_from(number) {
            Ok(bound @ 1..=100_000) => Ok(Self(bound)),
            _ => Err(format!("{number} is not a bound of a table; write a number from 1 to 100000")),
        }
    }
}

impl From<Bound> for u32 {
    fn from(Bound(bound): Bound) -> u32 {
        bound
    }
}

/// A number of sessions, servers or instances that may have no bound of its own.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
pub(super) struct Cap(pub(super) Limit<u32>);

impl TryFrom<Scalar> for Cap {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        countable(&text, "a cap").map(Self)
    }
}

/// How many launches go at once.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
pub(super) struct Burst(pub(super) Limit<u32>);

impl TryFrom<Scalar> for Burst {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        countable(&text, "a number of launches").map(Self)
    }
}

fn countable(text: &str, what: &str) -> Result<Limit<u32>, String> {
    match (text, text.parse()) {
        ("infinity", _) => Ok(Limit::Infinity),
        (_, Ok(number @ 1..=100_000)) => Ok(Limit::At(number)),
        _ => Err(format!("{text:?} is not {what}; write a number from 1 to 100000, or \"infinity\"")),
    }
}

/// The span for one more launch. None at all would be no bound, which is written as such.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
pub(super) struct Every(pub(super) Duration);

impl TryFrom<Scalar> for Every {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        let span: TimeSpan = text.parse().map_err(|error: TimeSpanError| error.to_string())?;
        if span.duration().is_zero() {
            return Err(format!("{span} is no span between two launches; write burst = \"infinity\" for no bound"));
        }
        Ok(Self(span.duration()))
    }
}

/// How long a launch may wait for its turn.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
pub(super) struct WaitMax(pub(super) Duration);

impl TryFrom<Scalar> for WaitMax {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        let span: TimeSpan = text.parse().map_err(|error: TimeSpanError| error.to_string())?;
        if span.duration() > WAIT_MAX {
            let max = WAIT_MAX.as_secs();
            return Err(format!("a host does not wait for its server for {span}; write at most {max}s"));
        }
        Ok(Self(span.duration()))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "Vec<String>")]
pub(super) struct Commands(pub(super) Vec<String>);

impl TryFrom<Vec<String>> for Commands {
    type Error = String;
    fn try_from(commands: Vec<String>) -> Result<Self, String> {
        if commands.is_empty() {
            return Err("a host without commands is never recognised; name at least one".to_owned());
        }
        match commands.iter().find(|command| command.is_empty() || command.contains(['/', ' '])) {
            Some(wrong) => Err(format!("{wrong:?} is not the name of a command; write it without path and arguments")),
            None => Ok(Self(commands)),
        }
    }
}

/// A file of a host's, which is watched.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct HostFile(pub(super) PathBuf);

impl TryFrom<String> for HostFile {
    type Error = String;
    fn try_from(path: String) -> Result<Self, String> {
        if !path.starts_with('/') && !path.starts_with("~/") {
            return Err(format!("{path:?} is below no known directory; write it from / or from ~/ on"));
        }
        Ok(Self(path.into()))
    }
}

/// A variable's name. Empty: there is none, which takes a built-in one away.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Variable(pub(super) Option<String>);

impl TryFrom<String> for Variable {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        let fine = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !fine || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!("{name:?} is not the name of a variable; write it as in CLAUDE_CODE_SESSION_ID"));
        }
        Ok(Self(Some(name).filter(|name| !name.is_empty())))
    }
}
