//! The held dup of a server's stdin: which kinds can be watched, and whether it has hung up. No byte of it is read.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FileType;

/// Whether a hang-up of this descriptor is told by poll(2): pipes tell `POLLHUP`, sockets `POLLRDHUP`.
pub(super) fn can_be_watched(stdin: impl AsFd) -> bool {
    let kind = rustix::fs::fstat(stdin).map(|stat| FileType::from_raw_mode(stat.st_mode));
    matches!(kind, Ok(FileType::Fifo | FileType::Socket))
}

/// Whether nobody will ever write to it again.
pub(super) fn has_hung_up(stdin: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(stdin, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let spoke = rustix::event::poll(&mut polled, Some(&now)).unwrap_or(0) > 0;
    spoke && polled[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP)
}

#[cfg(test)]
mod tests {
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
    fn a_file_is_not_watched() {
        assert!(!can_be_watched(std::fs::File::open("/dev/null").unwrap()));
    }
}
