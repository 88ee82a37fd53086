//! Says on a terminal what goes on, in one line that is gone afterwards; elsewhere nothing.

use std::io::{IsTerminal, Write};

#[derive(Debug)]
pub struct Progress {
    shown: bool,
    dim: bool,
}

impl Progress {
    pub fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal(), dim: std::env::var_os("NO_COLOR").is_none() }
    }

    pub fn say(&self, what: &str) {
        if self.shown {
            let (dim, plain) = if self.dim { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
            let _ = write!(std::io::stderr(), "\r\x1b[K{dim}{what}{plain}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
