//! Keys, out of the bytes that a terminal sends.
//!
//! The few sequences that the screen knows are read here and not by the terminal library: its reader spins for ever on a
//! terminal that hung up, and misses what of a long paste came in one piece.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// A key that the screen knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Backspace,
    /// Ctrl-C: raw mode makes a key of it.
    Interrupt,
    /// Ctrl-L: draw all of it anew.
    Redraw,
    Char(char),
}

/// The longest sequence that is waited for. A longer one is none.
const SEQUENCE_MAX: usize = 16;

/// Bytes that are not a whole key yet.
#[derive(Debug, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
}

/// What stands at the front of the bytes.
enum Front {
    /// A key, or a sequence that is none of ours, of so many bytes.
    Whole(usize, Option<Key>),
    /// More has to come.
    Part,
}

impl Keys {
    /// Takes in what was read, and gives the keys that are whole.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.bytes.extend_from_slice(bytes);
        let mut keys = Vec::new();
        while !self.bytes.is_empty()
            && let Front::Whole(length, key) = front(&self.bytes)
        {
            keys.extend(key);
            self.bytes.drain(..length);
        }
        keys
    }

    /// Whether something waits for its rest.
    pub(super) fn waits(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The rest did not come: an ESC by itself was the key, anything else was none.
    pub(super) fn settle(&mut self) -> Option<Key> {
        let escape = self.bytes == [0x1b];
        self.bytes.clear();
        escape.then_some(Key::Escape)
    }
}

fn front(bytes: &[u8]) -> Front {
    match bytes {
        [0x1b] => Front::Part,
        [0x1b, b'[' | b'O', ..] => sequence(bytes),
        // ESC and then something else: the key, and what follows is the next one. Alt with a key is the key.
        [0x1b, ..] => Front::Whole(1, Some(Key::Escape)),
        [b'\r' | b'\n', ..] => Front::Whole(1, Some(Key::Enter)),
        [0x7f | 0x08, ..] => Front::Whole(1, Some(Key::Backspace)),
        [0x03, ..] => Front::Whole(1, Some(Key::Interrupt)),
        [0x0c, ..] => Front::Whole(1, Some(Key::Redraw)),
        [byte, ..] if byte.is_ascii_control() => Front::Whole(1, None),
        _ => character(bytes),
    }
}

/// ECMA-48's control sequences, as far as a key sends one: parameters, then one final byte.
fn sequence(bytes: &[u8]) -> Front {
    let Some(end) = bytes.iter().skip(2).position(|byte| (0x40..=0x7e).contains(byte)).map(|at| at + 2) else {
        let whole = Front::Whole(bytes.len(), None);
        return if bytes.len() < SEQUENCE_MAX { Front::Part } else { whole };
    };
    let key = match (&bytes[2..end], bytes[end]) {
        (_, b'A') => Some(Key::Up),
        (_, b'B') => Some(Key::Down),
        (_, b'H') | (b"1" | b"7", b'~') => Some(Key::Home),
        (_, b'F') | (b"4" | b"8", b'~') => Some(Key::End),
        (b"5", b'~') => Some(Key::PageUp),
        (b"6", b'~') => Some(Key::PageDown),
        // The keypad's own Enter.
        (b"", b'M') => Some(Key::Enter),
        _ => None,
    };
    Front::Whole(end + 1, key)
}

/// One character of UTF-8, as far as it is there. Bytes that are none are passed over.
fn character(bytes: &[u8]) -> Front {
    let piece = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(piece) {
        Ok(text) => text,
        Err(error) if error.valid_up_to() > 0 => {
            std::str::from_utf8(&piece[..error.valid_up_to()]).expect("it is valid up to there")
        }
        Err(error) => return error.error_len().map_or(Front::Part, |length| Front::Whole(length, None)),
    };
    match valid.chars().next() {
        Some(c) if c.is_control() => Front::Whole(c.len_utf8(), None),
        Some(c) => Front::Whole(c.len_utf8(), Some(Key::Char(c))),
        None => Front::Part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_what_terminals_send() {
        let read = |bytes: &[u8]| Keys::default().read(bytes);
        assert_eq!(read(b"j\x1b[A\x1bOB\x1b[5~"), [Key::Char('j'), Key::Up, Key::Down, Key::PageUp]);
        assert_eq!(read(b"\x1b[1~\x1b[F\r\x7f\x03"), [Key::Home, Key::End, Key::Enter, Key::Backspace, Key::Interrupt]);
        assert_eq!(read("é🦊".as_bytes()), [Key::Char('é'), Key::Char('🦊')]);
        assert_eq!(read(b"\x1b[1;5A"), [Key::Up], "with a modifier it is the key");
        assert_eq!(read(b"\x1b[200~q\x1b[201~"), [Key::Char('q')], "what is none of ours is passed over");
    }

    #[test]
    fn a_sequence_that_comes_in_pieces_is_one_key() {
        let mut keys = Keys::default();
        assert_eq!(keys.read(b"\x1b"), []);
        assert_eq!(keys.read(b"["), []);
        assert!(keys.waits());
        assert_eq!(keys.read(b"Bq"), [Key::Down, Key::Char('q')]);
        assert_eq!(keys.read(&[0xc3]), []);
        assert_eq!(keys.read(&[0xa9]), [Key::Char('é')]);
    }

    #[test]
    fn an_escape_by_itself_is_a_key_once_nothing_follows() {
        let mut keys = Keys::default();
        assert_eq!(keys.read(b"\x1b"), []);
        assert_eq!(keys.settle(), Some(Key::Escape));
        assert_eq!(keys.read(b"\x1b["), []);
        assert_eq!((keys.settle(), keys.waits()), (None, false));
    }

    #[test]
    fn no_bytes_are_kept_for_ever() {
        let mut keys = Keys::default();
        for _ in 0..1000 {
            let _ = keys.read(b"\x1b[1111111");
        }
        assert!(keys.bytes.len() < SEQUENCE_MAX);
        assert_eq!(Keys::default().read(&[0xff, 0xfe, b'q']), [Key::Char('q')]);
    }
}
