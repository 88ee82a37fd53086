//! Properties of units as org.freedesktop.systemd1(5) types them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use zbus::{Fd, OwnedVariant, Variant as DBus};

/// The value of a property.
#[derive(Debug, Clone)]
pub enum Value {
    /// `b`
    Flag(bool),
    /// `t`; no limit is the largest number, for systemd.
    Number(u64),
    /// `u`
    Count(u32),
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
    Copied(Arc<Variant>),
}

/// The value of a property as a manager told it, of any type.
#[derive(Debug, PartialEq)]
pub struct Variant(pub(super) OwnedVariant);

impl Variant {
    /// Whether it is an empty list, an empty text, or a structure whose lists are all empty.
    pub fn is_nothing(&self) -> bool {
        match &*self.0 {
            DBus::Array(array) => array.is_empty(),
            DBus::Str(text) => text.is_empty(),
            DBus::Structure(structure) => {
                structure.fields().iter().all(|field| !matches!(field, DBus::Array(array) if !array.is_empty()))
            }
            _ => false,
        }
    }

    /// Whether it is this text.
    pub fn is_text(&self, text: &str) -> bool {
        matches!(&*self.0, DBus::Str(own) if own.as_str() == text)
    }

    /// Whether it is a flag that is set.
    pub fn is_true(&self) -> bool {
        matches!(&*self.0, DBus::Bool(true))
    }

    /// The number, where it is one without a sign.
    pub fn number(&self) -> Option<u64> {
        match &*self.0 {
            DBus::U32(number) => Some((*number).into()),
            DBus::U64(number) => Some(*number),
            _ => None,
        }
    }

    /// Whether it has this text in it, at any depth: a word of a command line.
    pub fn has_word(&self, word: &str) -> bool {
        has_word(&self.0, word)
    }

    /// Two lists as one. `None` where they are none, or none of the same type.
    pub fn joined(&self, other: &Self) -> Option<Self> {
        let (DBus::Array(one), DBus::Array(two)) = (&*self.0, &*other.0) else { return None };
        let mut both = one.try_clone().ok()?;
        for element in two.iter() {
            both.append(element.try_clone().ok()?).ok()?;
        }
        DBus::Array(both).try_to_owned().ok().map(Self)
    }

    /// Another of the same value. `None` for descriptors that cannot be duplicated.
    pub fn try_clone(&self) -> Option<Self> {
        self.0.try_clone().ok().map(Self)
    }
}

fn has_word(value: &DBus<'_>, word: &str) -> bool {
    match value {
        DBus::Str(text) => text.as_str() == word,
        DBus::Array(array) => array.iter().any(|element| has_word(element, word)),
        DBus::Structure(structure) => structure.fields().iter().any(|field| has_word(field, word)),
        _ => false,
    }
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

    pub(super) fn to_variants(&self) -> zbus::Result<Vec<(&str, DBus<'_>)>> {
        self.0.iter().map(|(name, value)| Ok((name.as_str(), value.to_variant()?))).collect()
    }
}

impl Value {
    fn to_variant(&self) -> zbus::Result<DBus<'_>> {
        Ok(match self {
            Self::Flag(flag) => DBus::from(*flag),
            Self::Number(number) => DBus::from(*number),
            Self::Count(number) => DBus::from(*number),
            Self::Text(text) => DBus::from(text.as_str()),
            Self::Texts(texts) => DBus::from(texts.clone()),
            Self::Processes(pids) => DBus::from(pids.clone()),
            Self::Held(pidfd) => DBus::from(vec![Fd::from(pidfd.as_fd())]),
            Self::Command(words) => {
                let program = words.first().cloned().unwrap_or_default();
                DBus::from(vec![(program, words.clone(), false)])
            }
            Self::Copied(value) => DBus::try_from(&value.0)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_known_by_its_words() {
        let thaw = ["/usr/bin/pinfold", "thaw", "--left"].map(str::to_owned).to_vec();
        let told = Variant(Value::Command(thaw).to_variant().unwrap().try_to_owned().unwrap());
        assert!(told.has_word("thaw") && told.has_word("--left") && !told.is_nothing());
        assert!(!told.has_word("left") && !told.has_word("pinfold"));
    }
}
