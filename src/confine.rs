//! Words: how much of the machine a server is shut off from, so that its ways out of its leaf are closed.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a server is confined. What comes later closes all that what comes before it does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confine {
    /// Not at all: it has the rights that it had.
    #[default]
    No,
    /// Its cgroups are read-only for it, the service managers and container daemons out of its sight, and no program that
    /// it executes gains rights (cgroup_namespaces(7), `PR_SET_NO_NEW_PRIVS` of prctl(2)).
    Yes,
    /// It has no capabilities either (capabilities(7)): root could undo the rest with them.
    Strict,
}

impl Confine {
    /// All, from the weakest on.
    pub const ALL: [Self; 3] = [Self::No, Self::Yes, Self::Strict];

    /// As it is written in the configuration, on the command line and in views.
    pub fn word(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Strict => "strict",
        }
    }
}

impl fmt::Display for Confine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// It is none of the words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write yes, strict or no")]
pub struct ConfineError;

impl FromStr for Confine {
    type Err = ConfineError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|confine| confine.word() == text).ok_or(ConfineError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_read_as_it_is_written_and_the_later_one_is_the_stronger() {
        for confine in Confine::ALL {
            assert_eq!(confine.word().parse(), Ok(confine));
            assert_eq!(serde_json::to_value(confine).unwrap(), confine.word());
        }
        assert!(Confine::ALL.is_sorted());
        for wrong in ["", "true", "Yes", "caps"] {
            assert_eq!(wrong.parse::<Confine>(), Err(ConfineError));
        }
    }
}
