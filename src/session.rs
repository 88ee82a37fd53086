//! Words: who a session is, who owns it, what its servers are called. Values that cannot be wrong once built.
//!
//! Nothing here reads a clock, a file or a process.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;

use serde::{Deserialize, Serialize};

/// A name was not acceptable: which kind, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {given:?} {why}")]
pub struct NameError {
    kind: &'static str,
    given: String,
    why: &'static str,
}

impl NameError {
    fn new(kind: &'static str, given: &str, why: &'static str) -> Self {
        let mut given = given.to_owned();
        if let Some((cut, _)) = given.char_indices().nth(80) {
            given.truncate(cut);
            given.push('…');
        }
        Self { kind, given, why }
    }
}

/// What a host calls one agent run: any UTF-8 of 1 to 200 bytes without NUL.
///
/// It is never used as a path or unit name; [`crate::naming`] derives those from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(String);

impl SessionId {
    /// The longest session id, in bytes.
    pub const MAX_BYTES: usize = 200;

    /// Parses what a host or a user gave as the id of a session.
    pub fn parse(given: &str) -> Result<Self, NameError> {
        let refuse = |why| Err(NameError::new("session id", given, why));
        match given {
            "" => refuse("is empty; give 1 to 200 bytes"),
            long if long.len() > Self::MAX_BYTES => refuse("is longer than 200 bytes; shorten it"),
            nul if nul.contains('\0') => refuse("contains a NUL byte, which no environment variable can carry"),
            fine => Ok(Self(fine.to_owned())),
        }
    }

    /// The id as the host spelled it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id of a session for people: control characters escaped, so that an id cannot forge a line of output.
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { fmt::Write::write_char(f, c)? }
        }
        Ok(())
    }
}

/// The name of a server or of a host: 1 to 64 bytes of ASCII letters, digits and `. _ - @ : +`, not beginning with a dot.
///
/// Safe as a label and in a log line; directory and unit names are still made only by [`crate::naming`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Parses a name that somebody gave, and refuses what is not one.
    pub fn parse(given: &str) -> Result<Self, NameError> {
        let refuse = |why| Err(NameError::new("name", given, why));
        if given.is_empty() || given.len() > Self::MAX_BYTES {
            return refuse("must have 1 to 64 bytes");
        }
        if given.starts_with('.') || !given.bytes().all(Self::allows) {
            return refuse("may hold ASCII letters, digits and . _ - @ : + only, and not begin with a dot");
        }
        Ok(Self(given.to_owned()))
    }

    /// Makes a name of any text: what is not allowed becomes `_`, what is too long is cut. `None` where nothing is left.
    pub fn from_lossy(text: &str) -> Option<Self> {
        let kept: String = text.chars().map(|c| if c.is_ascii() && Self::allows(c as u8) { c } else { '_' }).collect();
        let kept = kept.trim_start_matches('.').trim_matches('_');
        let cut = kept.get(..Self::MAX_BYTES.min(kept.len()))?;
        Self::parse(cut).ok()
    }

    fn allows(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || b"._-@:+".contains(&byte)
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Serde's door to a parsed type: in through `parse`, out as the text.
macro_rules! through_text {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
    )*};
}
through_text!(SessionId, Name);

/// A process, told apart from a later one with the same number: its pid and its start time
/// (`starttime` of proc_pid_stat(5), in clock ticks since boot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// The number, in the daemon's pid namespace.
    pub pid: i32,
    /// Clock ticks since boot.
    pub start_time: u64,
}

/// How a session got its id; it decides what a later launch without an id may join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedBy {
    /// `--session`, `PINFOLD_SESSION` or a known host's variable said it.
    Host,
    /// The host runs one session per process, so the owner's process is the session.
    Owner,
    /// Nobody named it: the launch is a session of its own (a *connection session*).
    Connection,
    /// The launch came from inside a leaf of this session.
    Nested,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_is_any_text_up_to_200_bytes() {
        for fine in ["s", "a b", "../../etc", "line\nbreak", "🦊", &"x".repeat(200)] {
            assert_eq!(SessionId::parse(fine).expect(fine).as_str(), fine);
        }
        for wrong in ["", "nul\0byte", &"x".repeat(201)] {
            assert!(SessionId::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_session_id_cannot_forge_a_line_of_output() {
        assert_eq!(SessionId::parse("a\nb\x1b[31m").unwrap().to_string(), "a\\nb\\u{1b}[31m");
    }

    #[test]
    fn a_name_is_a_label_and_never_a_path() {
        for wrong in ["", ".", "..", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(Name::parse(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(
            Name::from_lossy("@modelcontextprotocol/server fs").unwrap().as_str(),
            "@modelcontextprotocol_server_fs"
        );
        assert_eq!(Name::from_lossy("…"), None);
    }
}
