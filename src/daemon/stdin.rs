//! The held dup of a server's stdin: which kinds can be watched, whether it has hung up, and whether something waits
//! in it. No byte of it is read.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FileType;

use crate::records::FileId;

/// Whether a hang-up of this descriptor is told by poll(2): pipes tell `POLLHUP`, sockets `POLLRDHUP`.
pub(super) fn can_be_watched(stdin: impl AsFd) -> bool {
    matches!(FileId::look(stdin), Some((_, FileType::Fifo | FileType::Socket)))
}

/// Whether nobody will ever write to it again.
pub(super) fn has_hung_up(stdin: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(stdin, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let spoke = rustix::event::poll(&mut polled, Some(&now)).unwrap_or(0) > 0;
    spoke && polled[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP)
}

/// Whether something was written to it that its server has not read yet.
pub(super) fn has_unread(stdin: BorrowedFd<'_>) -> bool {
    rustix::io::ioctl_fionread(stdin).is_ok_and(|bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_half_closed_socketpair_and_a_pipe_without_writers_have_hung_up() {
        let (host, server) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(can_be_watched(&server) && !has_hung_up(server.as_fd()));
        host.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(has_hung_up(server.as_fd()));
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert!(can_be_watched(&read) && !has_hung_up(read.as_fd()));
        drop(write);
        assert!(has_hung_up(read.as_fd()));
    }

    #[test]
    fn what_was_written_and_not_read_is_seen_and_stays() {
        let (mut host, server) = std::os::unix::net::UnixStream::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert!(!has_unread(server.as_fd()) && !has_unread(read.as_fd()));
        io::Write::write_all(&mut host, b"ping").unwrap();
        rustix::io::write(&write, b"ping").unwrap();
        assert!(has_unread(server.as_fd()) && has_unread(read.as_fd()));
        drop((host, write));
        for stdin in [server.as_fd(), read.as_fd()] {
            let mut bytes = [0; 8];
            assert_eq!(rustix::io::read(stdin, &mut bytes), Ok(4));
            assert!(!has_unread(stdin), "the end is no message");
        }
    }

    #[test]
    fn a_file_is_not_watched() {
        assert!(!can_be_watched(std::fs::File::open("/dev/null").unwrap()));
    }
}
