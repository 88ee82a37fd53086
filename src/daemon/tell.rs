//! Tells why a server ended where people look: on its stderr, which hosts log. Never blocks and never changes the
//! descriptor's flags: the dup shares its file description with the server and its host.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::SendFlags;

use crate::outcome::{Cause, Outcome};
use crate::session::{Name, SessionId};

/// The line for the server's stderr and for the log. `None` where a server left by itself and nothing was left of it.
pub(super) fn line(session: &SessionId, server: &Name, outcome: &Outcome) -> Option<String> {
    let by_itself = matches!(outcome.cause, Cause::LeaderExited | Cause::StdinClosed);
    if by_itself && !outcome.killed && outcome.processes.unwrap_or(0) == 0 {
        return None;
    }
    Some(format!("ended server {server} of session {session}: {outcome}"))
}

/// Writes one line to a held stderr. Whatever cannot take it at once does not get it. Blocks where a filesystem does.
pub(super) fn write(stderr: &OwnedFd, line: &str) {
    let text = format!("pinfold: {line}\n");
    if !may_be_written(stderr) {
        return;
    }
    let Ok(stat) = rustix::fs::fstat(stderr) else { return };
    let written = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => {
            rustix::net::send(stderr, text.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map(drop)
        }
        FileType::RegularFile => rustix::io::write(stderr, text.as_bytes()).map(drop),
        // Opened anew it is a file description of our own, which may be non-blocking.
        FileType::CharacterDevice if !rustix::termios::isatty(stderr) => Ok(()),
        FileType::Fifo | FileType::CharacterDevice => {
            let path = format!("/proc/self/fd/{}", stderr.as_fd().as_raw_fd());
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .and_then(|own| rustix::io::write(own, text.as_bytes()).map(drop))
        }
        _ => Ok(()),
    };
    if let Err(errno) = written {
        tracing::debug!(%errno, "the reason could not be written to the server's stderr");
    }
}

/// Whether whoever sent it had it open for writing: opened anew by us, it is opened with our rights and not with theirs.
fn may_be_written(stderr: &OwnedFd) -> bool {
    let Ok(flags) = rustix::fs::fcntl_getfl(stderr) else { return false };
    !flags.contains(OFlags::PATH) && matches!(flags & OFlags::RWMODE, OFlags::WRONLY | OFlags::RDWR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_its_sender_could_not_write_is_not_opened_anew_for_writing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        let read = || {
            let mut bytes = [0; 64];
            rustix::io::read(&reader, &mut bytes)
        };
        for flags in [OFlags::PATH, OFlags::RDONLY | OFlags::NONBLOCK] {
            write(&rustix::fs::open(&path, flags, Mode::empty()).unwrap(), "reason");
            assert!(matches!(read(), Ok(0) | Err(rustix::io::Errno::AGAIN)));
        }
        write(&rustix::fs::open(&path, OFlags::WRONLY, Mode::empty()).unwrap(), "reason");
        assert_eq!(read(), Ok("pinfold: reason\n".len()));
    }
}
