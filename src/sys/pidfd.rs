//! What a pidfd tells of a process that is gone (ioctl_pidfd(2), `PIDFD_GET_INFO`).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

/// The status, as wait(2) gives it, of a process that was reaped; `None` before that, and from kernels that do not tell
/// (before Linux 6.15).
pub fn wait_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    // SAFETY: all of it are integers, for which zero is a value.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = libc::PIDFD_INFO_EXIT.into();
    // SAFETY: the number of the request says how large the structure is, and the kernel writes no more than that; it is
    // ours, and lives on.
    let told = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    let knows = told == 0 && info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0;
    knows.then_some(info.exit_code)
}
