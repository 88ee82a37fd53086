//! Properties of units as org.freedesktop.systemd1(5) types them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use zbus::{Fd, OwnedVariant, Variant};

/// The value of a property.
#[derive(Debug, Clone)]
pub enum Value {
    /// `b`
    Flag(bool),
    /// `t`; no limit is the largest number, for systemd.
    Number(u64),
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
    /// `au`: process numbers.
    Processes(Vec<u32>),
    /// `ah`: a process, held.
    Held(Arc<OwnedFd>),
    /// `a(sasb)`: one command with its arguments, whose failure counts.
    Command(Vec<String>),
    /// As another unit has it.
    Copied(Arc<OwnedVariant>),
}

/// What a unit is made with.
#[derive(Debug, Clone, Default)]
pub struct Properties(Vec<(String, Value)>);

impl Properties {
    /// Adds a property.
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.set(name, value);
        self
    }

    /// Adds a property, or changes it.
    pub fn set(&mut self, name: &str, value: Value) {
        self.remove(name);
        self.0.push((name.to_owned(), value));
    }

    /// Takes a property out; `false` where it was not in.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(own, _)| own != name);
        self.0.len() < before
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn to_variants(&self) -> zbus::Result<Vec<(&str, Variant<'_>)>> {
        self.0.iter().map(|(name, value)| Ok((name.as_str(), value.to_variant()?))).collect()
    }
}

impl Value {
    fn to_variant(&self) -> zbus::Result<Variant<'_>> {
        Ok(match self {
            Self::Flag(flag) => Variant::from(*flag),
            Self::Number(number) => Variant::from(*number),
            Self::Text(text) => Variant::from(text.as_str()),
            Self::Texts(texts) => Variant::from(texts.clone()),
            Self::Processes(pids) => Variant::from(pids.clone()),
            Self::Held(pidfd) => Variant::from(vec![Fd::from(pidfd.as_fd())]),
            Self::Command(words) => {
                let program = words.first().cloned().unwrap_or_default();
                Variant::from(vec![(program, words.clone(), false)])
            }
            Self::Copied(value) => Variant::try_from(&**value)?,
        })
    }
}
