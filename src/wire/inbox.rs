//! Bytes until they are messages.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Collects bytes until a message is whole.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the first whole message out, without its NUL.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let end = self.whole()?;
        let rest = self.bytes.split_off(end + 1);
        let mut message = std::mem::replace(&mut self.bytes, rest);
        message.pop();
        Some(message)
    }

    /// The length of the first whole message, if there is one.
    pub fn whole(&self) -> Option<usize> {
        self.bytes.iter().position(|byte| *byte == 0)
    }

    /// How much waits for its NUL.
    pub fn pending(&self) -> usize {
        self.bytes.len()
    }
}
