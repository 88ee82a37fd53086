//! Tells one command from another without telling what it is.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A command line, word by word, and the directory that it is run in, as a SHA-256: what [`super::MaskedArgv`] leaves
/// out makes a difference here, and still does not leave the launcher.
///
/// Who can read one can try guesses against it, so it is shown in no view; who can read the records of a daemon can read
/// `/proc/PID/cmdline` of the server as well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommandDigest([u8; 32]);

/// The text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the digest of a command is written in 64 hexadecimal digits")]
pub struct DigestError;

impl CommandDigest {
    /// Of a command and the directory that it is run in.
    pub fn of<'a>(words: impl IntoIterator<Item = &'a [u8]>, directory: &'a [u8]) -> Self {
        let mut digest = Sha256::new();
        // No word holds a NUL byte, so no two lists feed the same bytes.
        for part in std::iter::once(directory).chain(words) {
            digest.update(part);
            digest.update([0]);
        }
        Self(digest.finalize().into())
    }
}

impl TryFrom<String> for CommandDigest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(DigestError);
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| DigestError)?;
        }
        Ok(Self(bytes))
    }
}

impl From<CommandDigest> for String {
    fn from(digest: CommandDigest) -> String {
        let mut text = String::with_capacity(64);
        for byte in digest.0 {
            write!(text, "{byte:02x}").expect("a String takes every write");
        }
        text
    }
}

/// For a log that tells everything: as much of it as tells two apart, and too little to try guesses against.
impl fmt::Debug for CommandDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandDigest({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(words: &[&str], directory: &str) -> CommandDigest {
        CommandDigest::of(words.iter().map(|word| word.as_bytes()), directory.as_bytes())
    }

    #[test]
    fn every_word_their_bounds_and_the_directory_make_a_difference() {
        let one = digest(&["node", "server.js", "--token", "a"], "/srv");
        assert_eq!(one, digest(&["node", "server.js", "--token", "a"], "/srv"));
        for other in [
            digest(&["node", "server.js", "--token", "b"], "/srv"),
            digest(&["node", "server.js", "--tokena"], "/srv"),
            digest(&["node", "server.js", "--token", "a", ""], "/srv"),
            digest(&["node", "server.js", "--token", "a"], "/srv/x"),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn it_is_read_back_from_its_text_and_nothing_else_is() {
        let one = digest(&["node"], "/");
        let text = String::from(one);
        assert_eq!(CommandDigest::try_from(text.clone()), Ok(one));
        for wrong in ["", "ab", &text[1..], &format!("{text}0"), &text.replace(&text[..1], "+"), &"é".repeat(32)] {
            assert_eq!(CommandDigest::try_from(wrong.to_owned()), Err(DigestError), "{wrong}");
        }
    }
}
