//! `[history]`: what is kept of what ended.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::Deserialize;

use super::values::Scalar;
use crate::limits::{Bytes, MemorySize};

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// For how many days; 0 keeps nothing.
    pub days: u32,
    /// The size of the database. Its log comes on top of that, a mebibyte.
    pub bytes: Bytes,
}

impl Bounds {
    /// Whether no end is to be written.
    pub fn keep_nothing(&self) -> bool {
        self.days == 0 || self.bytes.0 == 0
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self { days: 90, bytes: Bytes(64 << 20) }
    }
}

/// The table as it is written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Table {
    days: Option<Days>,
    max_size: Option<Size>,
}

impl Table {
    pub(super) fn bounds(&self) -> Bounds {
        let built_in = Bounds::default();
        Bounds {
            days: self.days.map_or(built_in.days, |Days(days)| days),
            bytes: self.max_size.map_or(built_in.bytes, |Size(bytes)| bytes),
        }
    }
}

/// For how long the history goes back.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
struct Days(u32);

impl TryFrom<Scalar> for Days {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        match text.parse() {
            Ok(days @ 0..=3660) => Ok(Self(days)),
            _ => Err(format!("{text:?} is no number of days; write a whole number up to 3660, 0 to keep nothing")),
        }
    }
}

/// What the history may take on disk.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "Scalar")]
struct Size(Bytes);

impl TryFrom<Scalar> for Size {
    type Error = String;
    fn try_from(Scalar(text): Scalar) -> Result<Self, String> {
        match text.parse() {
            Ok(MemorySize::Amount(size @ (Bytes(0) | Bytes(0x10_0000..=0x100_0000_0000)))) => Ok(Self(size)),
            _ => Err(format!("{text:?} is no size for a history; write 64M, from 1M to 1T, or 0 to keep nothing")),
        }
    }
}
