//! Words: how much may be used. "No limit" is a case of its own, never a number.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// What is left of it without another amount, at the least nothing.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// An amount for people: `68.7M`, in powers of 1024 as systemd writes them.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut unit) = (self.0 as f64, "B");
        for next in ["K", "M", "G", "T"] {
            if value < 1024.0 {
                break;
            }
            (value, unit) = (value / 1024.0, next);
        }
        let text = match unit {
            "B" => format!("{value:.0}B"),
            _ if value.fract() == 0.0 => format!("{value:.0}{unit}"),
            _ => format!("{value:.1}{unit}"),
        };
        f.pad(&text)
    }
}

/// A ceiling that is there, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit<T> {
    /// At most this much.
    At(T),
    /// No limit: the kernel's `max`, systemd's `infinity`.
    Infinity,
}

/// The least memory limit that is granted: below it a process cannot be relied on to start, and what was meant as a
/// limit kills the server before it can say why.
pub const MEMORY_MAX_FLOOR: Bytes = Bytes(16 << 20);

impl<T> Limit<T> {
    /// The same ceiling in another measure.
    pub fn map<U>(self, to: impl FnOnce(T) -> U) -> Limit<U> {
        match self {
            Self::At(amount) => Limit::At(to(amount)),
            Self::Infinity => Limit::Infinity,
        }
    }

    /// The ceiling as a number, `None` where there is none.
    pub fn at(self) -> Option<T> {
        match self {
            Self::At(amount) => Some(amount),
            Self::Infinity => None,
        }
    }
}

/// A ceiling for people: the amount, or `infinity`.
impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(amount) => amount.fmt(f),
            Self::Infinity => f.pad("infinity"),
        }
    }
}

/// The text was not a limit: what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {expected}")]
pub struct LimitError {
    given: String,
    expected: &'static str,
}

/// A memory limit as it is written: an amount, a share of the machine's RAM, or none.
/// Spelled as in systemd.resource-control(5): `512M`, `1.5G`, `60%`, `infinity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MemorySize {
    /// An absolute amount.
    Amount(Bytes),
    /// Hundredths of a percent of the machine's RAM.
    Share(u32),
    /// No limit.
    Infinity,
}

impl MemorySize {
    /// The amount on a machine with `ram` of memory, rounded down to whole pages of 4 KiB as the kernel does.
    pub fn resolve(self, ram: Bytes) -> Limit<Bytes> {
        self.exact(ram).map(|Bytes(bytes)| Bytes(bytes & !4095))
    }

    /// The same as it was written, to be told.
    pub fn exact(self, ram: Bytes) -> Limit<Bytes> {
        match self {
            Self::Amount(bytes) => Limit::At(bytes),
            Self::Share(hundredths) => Limit::At(Bytes((u128::from(ram.0) * u128::from(hundredths) / 10_000) as u64)),
            Self::Infinity => Limit::Infinity,
        }
    }
}

impl FromStr for MemorySize {
    type Err = LimitError;

    fn from_str(given: &str) -> Result<Self, LimitError> {
        let wrong = || LimitError {
            given: given.to_owned(),
            expected: "a memory size; write 512M, 1.5G, 60% (of RAM) or infinity",
        };
        if given == "infinity" {
            return Ok(Self::Infinity);
        }
        if let Some(percent) = given.strip_suffix('%') {
            let share = decimal(percent).filter(|share| *share <= 100.0).ok_or_else(wrong)?;
            return Ok(Self::Share((share * 100.0).round() as u32));
        }
        let (number, factor) = match given.as_bytes().last() {
            Some(b'K' | b'k') => (&given[..given.len() - 1], 1u64 << 10),
            Some(b'M' | b'm') => (&given[..given.len() - 1], 1 << 20),
            Some(b'G' | b'g') => (&given[..given.len() - 1], 1 << 30),
            Some(b'T' | b't') => (&given[..given.len() - 1], 1 << 40),
            _ => (given, 1),
        };
        let bytes = decimal(number).ok_or_else(wrong)? * factor as f64;
        if bytes >= (1u64 << 60) as f64 {
            return Err(wrong());
        }
        Ok(Self::Amount(Bytes(bytes as u64)))
    }
}

/// A plain decimal number: digits, at most one point, no sign and no exponent.
fn decimal(text: &str) -> Option<f64> {
    let plain = !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    plain.then(|| text.parse().ok()).flatten()
}

impl TryFrom<String> for MemorySize {
    type Error = LimitError;
    fn try_from(text: String) -> Result<Self, LimitError> {
        text.parse()
    }
}

impl From<MemorySize> for String {
    fn from(size: MemorySize) -> String {
        match size {
            MemorySize::Amount(Bytes(bytes)) => bytes.to_string(),
            MemorySize::Share(hundredths) => format!("{}.{:02}%", hundredths / 100, hundredths % 100),
            MemorySize::Infinity => "infinity".into(),
        }
    }
}

/// A limit on processes *and threads*, as the kernel's pids controller counts them: a number from 1, or `infinity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "serde_json::Value")]
pub struct PidsMax(pub Limit<u32>);

impl FromStr for PidsMax {
    type Err = LimitError;

    fn from_str(given: &str) -> Result<Self, LimitError> {
        match given {
            "infinity" => Ok(Self(Limit::Infinity)),
            number => match number.parse::<u32>() {
                Ok(count) if (1..=4_194_304).contains(&count) => Ok(Self(Limit::At(count))),
                _ => Err(LimitError {
                    given: given.to_owned(),
                    expected: "a number of processes and threads from 1 to 4194304, or infinity",
                }),
            },
        }
    }
}

impl TryFrom<serde_json::Value> for PidsMax {
    type Error = LimitError;
    fn try_from(value: serde_json::Value) -> Result<Self, LimitError> {
        match value {
            serde_json::Value::String(text) => text.parse(),
            other => other.to_string().parse(),
        }
    }
}

impl From<PidsMax> for serde_json::Value {
    fn from(max: PidsMax) -> Self {
        max.0.at().map_or_else(|| "infinity".into(), Self::from)
    }
}

/// CPU time as a share of one CPU: `50%`, `200%` (two CPUs), or `infinity`. Whole percents from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuMax(pub Limit<u32>);

impl FromStr for CpuMax {
    type Err = LimitError;

    fn from_str(given: &str) -> Result<Self, LimitError> {
        if given == "infinity" {
            return Ok(Self(Limit::Infinity));
        }
        match given.strip_suffix('%').and_then(|percent| percent.parse::<u32>().ok()) {
            Some(percent) if (1..=1_000_000).contains(&percent) => Ok(Self(Limit::At(percent))),
            _ => Err(LimitError {
                given: given.to_owned(),
                expected: "a share of one CPU; write 50%, 200% (two CPUs) or infinity",
            }),
        }
    }
}

impl TryFrom<String> for CpuMax {
    type Error = LimitError;
    fn try_from(text: String) -> Result<Self, LimitError> {
        text.parse()
    }
}

impl From<CpuMax> for String {
    fn from(max: CpuMax) -> String {
        max.0.at().map_or_else(|| "infinity".into(), |percent| format!("{percent}%"))
    }
}

/// The weight that a cgroup is made with.
const WEIGHT_UNTOUCHED: u16 = 100;

/// A weight against siblings, 1 to 10000; 100 is what a cgroup has without one
/// (`cpu.weight` and `io.weight` of the kernel's admin-guide/cgroup-v2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Weight(u16);

impl TryFrom<u32> for Weight {
    type Error = LimitError;
    fn try_from(weight: u32) -> Result<Self, LimitError> {
        match weight {
            1..=10_000 => Ok(Self(weight as u16)),
            _ => Err(LimitError { given: weight.to_string(), expected: "a weight from 1 to 10000" }),
        }
    }
}

impl From<Weight> for u32 {
    fn from(weight: Weight) -> u32 {
        weight.0.into()
    }
}

impl FromStr for Weight {
    type Err = LimitError;
    fn from_str(given: &str) -> Result<Self, LimitError> {
        given.parse::<u32>().unwrap_or(0).try_into()
    }
}

/// The limits that somebody wrote down for one level. `None`: nothing was said, a wider rule decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitWishes {
    /// `memory.max`: beyond it the kernel kills.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<MemorySize>,
    /// `memory.high`: beyond it the kernel reclaims and stalls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<MemorySize>,
    /// `memory.swap.max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap_max: Option<MemorySize>,
    /// `pids.max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<PidsMax>,
    /// `cpu.max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_max: Option<CpuMax>,
    /// `cpu.weight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<Weight>,
    /// `io.weight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<Weight>,
}

impl LimitWishes {
    /// These wishes, and where they say nothing, the wider ones.
    #[must_use]
    pub fn or(self, wider: Self) -> Self {
        Self {
            memory_max: self.memory_max.or(wider.memory_max),
            memory_high: self.memory_high.or(wider.memory_high),
            memory_swap_max: self.memory_swap_max.or(wider.memory_swap_max),
            pids_max: self.pids_max.or(wider.pids_max),
            cpu_max: self.cpu_max.or(wider.cpu_max),
            cpu_weight: self.cpu_weight.or(wider.cpu_weight),
            io_weight: self.io_weight.or(wider.io_weight),
        }
    }
}

/// One of the limits that a cgroup has, by its key in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKey {
    /// `memory.max`.
    MemoryMax,
    /// `memory.high`.
    MemoryHigh,
    /// `memory.swap.max`.
    MemorySwapMax,
    /// `pids.max`.
    PidsMax,
    /// `cpu.max`.
    CpuMax,
    /// `cpu.weight`.
    CpuWeight,
    /// `io.weight`.
    IoWeight,
}

impl LimitKey {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::MemoryMax,
        Self::MemoryHigh,
        Self::MemorySwapMax,
        Self::PidsMax,
        Self::CpuMax,
        Self::CpuWeight,
        Self::IoWeight,
    ];

    /// The key.
    pub fn word(self) -> &'static str {
        match self {
            Self::MemoryMax => "memory_max",
            Self::MemoryHigh => "memory_high",
            Self::MemorySwapMax => "memory_swap_max",
            Self::PidsMax => "pids_max",
            Self::CpuMax => "cpu_max",
            Self::CpuWeight => "cpu_weight",
            Self::IoWeight => "io_weight",
        }
    }

    /// Whether it is about memory.
    pub fn is_memory(self) -> bool {
        matches!(self, Self::MemoryMax | Self::MemoryHigh | Self::MemorySwapMax)
    }

    /// Whether it bounds something that is in use, and could be below that.
    pub fn bounds_usage(self) -> bool {
        self.is_memory() || self == Self::PidsMax
    }

    /// What a cgroup has that nobody gave any other.
    pub fn untouched(self) -> Limit<u64> {
        match self {
            Self::CpuWeight | Self::IoWeight => Limit::At(WEIGHT_UNTOUCHED.into()),
            _ => Limit::Infinity,
        }
    }

    /// A value of it for people, as the configuration writes it.
    pub fn spell(self, value: Limit<u64>) -> String {
        match (self, value) {
            (_, Limit::Infinity) => "infinity".to_owned(),
            (Self::MemoryMax | Self::MemoryHigh | Self::MemorySwapMax, Limit::At(bytes)) => Bytes(bytes).to_string(),
            (Self::CpuMax, Limit::At(percent)) => format!("{percent}%"),
            (Self::PidsMax | Self::CpuWeight | Self::IoWeight, Limit::At(number)) => number.to_string(),
        }
    }
}

/// The limits of one cgroup, ready to be set and read back: what is `None` is left as the kernel made it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes that may be charged before the kernel kills.
    pub memory_max: Option<Limit<Bytes>>,
    /// Bytes beyond which the kernel reclaims and stalls.
    pub memory_high: Option<Limit<Bytes>>,
    /// Bytes that may be swapped out.
    pub memory_swap_max: Option<Limit<Bytes>>,
    /// Processes and threads.
    pub pids_max: Option<Limit<u32>>,
    /// Percent of one CPU.
    pub cpu_max: Option<Limit<u32>>,
    /// Weight against sibling cgroups.
    pub cpu_weight: Option<Weight>,
    /// Weight against sibling cgroups.
    pub io_weight: Option<Weight>,
}

impl Limits {
    /// One of them as a plain number: bytes, processes, percent, or weight.
    pub fn get(&self, key: LimitKey) -> Option<Limit<u64>> {
        let bytes = |limit: Option<Limit<Bytes>>| limit.map(|limit| limit.map(|Bytes(bytes)| bytes));
        let number = |limit: Option<Limit<u32>>| limit.map(|limit| limit.map(u64::from));
        let weight = |weight: Option<Weight>| weight.map(|weight| Limit::At(u32::from(weight).into()));
        match key {
            LimitKey::MemoryMax => bytes(self.memory_max),
            LimitKey::MemoryHigh => bytes(self.memory_high),
            LimitKey::MemorySwapMax => bytes(self.memory_swap_max),
            LimitKey::PidsMax => number(self.pids_max),
            LimitKey::CpuMax => number(self.cpu_max),
            LimitKey::CpuWeight => weight(self.cpu_weight),
            LimitKey::IoWeight => weight(self.io_weight),
        }
    }

    /// Takes one of them over from others.
    pub fn take(&mut self, key: LimitKey, from: &Self) {
        match key {
            LimitKey::MemoryMax => self.memory_max = from.memory_max,
            LimitKey::MemoryHigh => self.memory_high = from.memory_high,
            LimitKey::MemorySwapMax => self.memory_swap_max = from.memory_swap_max,
            LimitKey::PidsMax => self.pids_max = from.pids_max,
            LimitKey::CpuMax => self.cpu_max = from.cpu_max,
            LimitKey::CpuWeight => self.cpu_weight = from.cpu_weight,
            LimitKey::IoWeight => self.io_weight = from.io_weight,
        }
    }

    /// What a cgroup has that nobody gave any limit.
    pub fn untouched() -> Self {
        Self {
            memory_max: Some(Limit::Infinity),
            memory_high: Some(Limit::Infinity),
            memory_swap_max: Some(Limit::Infinity),
            pids_max: Some(Limit::Infinity),
            cpu_max: Some(Limit::Infinity),
            cpu_weight: Some(Weight(WEIGHT_UNTOUCHED)),
            io_weight: Some(Weight(WEIGHT_UNTOUCHED)),
        }
    }

    /// These limits; those that nobody asks for any more as the kernel made them, where `before` had been set.
    #[must_use]
    pub fn and_untouched(mut self, before: &Self) -> Self {
        for key in LimitKey::ALL {
            if self.get(key).is_none() && before.get(key).is_some() {
                self.take(key, &Self::untouched());
            }
        }
        self
    }
}
