//! How a server's first process exited.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// How a server's first process exited. In JSON an object with one of these as its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself, with this exit status.
    Status(u8),
    /// This signal killed it.
    Signal(i32),
    /// It never became the server: its command could not be executed, for this errno.
    NotExecuted(i32),
}

impl Exit {
    /// What a status of wait(2) says of a process that is gone.
    pub fn of_wait_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Status((status >> 8) as u8),
            signal => Self::Signal(signal),
        }
    }

    /// Of what a launcher said of itself and what the kernel tells: that a command could not be executed goes with the exit
    /// statuses for that alone.
    pub fn of_both(said: Option<Self>, told: Option<Self>) -> Option<Self> {
        match (said, told) {
            (Some(Self::NotExecuted(_)), None | Some(Self::Status(126 | 127))) => said,
            (_, Some(_)) => told,
            (_, None) => said,
        }
    }

    /// The status, or the name of the signal or of the errno, for a table.
    pub fn word(self) -> String {
        match self {
            Self::Status(status) => status.to_string(),
            Self::Signal(number) => {
                Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |it| it.to_string())
            }
            Self::NotExecuted(errno) => format!("{:?}", Errno::from_raw(errno)),
        }
    }
}

/// As a clause for people, about the server.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "its first process exited with status {status}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "its first process was killed by {signal}"),
                Err(_) => write!(f, "its first process was killed by signal {number}"),
            },
            Self::NotExecuted(errno) => {
                write!(f, "its command could not be executed: {}", Errno::from_raw(*errno).desc())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_launcher_says_of_itself_counts_where_its_exit_is_that_of_one() {
        let said = Some(Exit::NotExecuted(2));
        for (told, both) in [
            (None, said),
            (Some(Exit::Status(127)), said),
            (Some(Exit::Status(0)), Some(Exit::Status(0))),
            (Some(Exit::Signal(9)), Some(Exit::Signal(9))),
        ] {
            assert_eq!(Exit::of_both(said, told), both);
        }
        assert_eq!(Exit::of_both(Some(Exit::Status(1)), None), Some(Exit::Status(1)));
        assert_eq!(Exit::of_both(None, None), None);
    }

    #[test]
    fn a_status_of_wait_is_an_exit_status_or_a_signal() {
        let told = |status| Exit::of_wait_status(status).to_string();
        assert_eq!(told(0), "its first process exited with status 0");
        assert_eq!(told(255 << 8), "its first process exited with status 255");
        assert_eq!(told(9), "its first process was killed by SIGKILL");
        // With the bit that says that it left a core dump.
        assert_eq!(told(0x80 | 11), "its first process was killed by SIGSEGV");
        assert_eq!(told(35), "its first process was killed by signal 35");
        let word = |status| Exit::of_wait_status(status).word();
        assert_eq!([word(3 << 8), word(15), word(35)], ["3", "SIGTERM", "signal 35"]);
        assert_eq!(Exit::NotExecuted(2).word(), "ENOENT");
    }
}
