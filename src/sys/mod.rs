//! Raw system calls: the only `unsafe` of the crate. Each block states the fact that makes it sound.
#![expect(unsafe_code, reason = "this is the room for it")]

pub mod accounts;
pub mod bpf;
pub mod crash;
pub mod pidfd;
pub mod text;

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigHandler, Signal};
use tokio::io::unix::AsyncFd;

/// Whether SIGPIPE was ignored when this process was executed.
static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// Which of the descriptors 0, 1 and 2 were closed then: a bit for each.
static CLOSED: AtomicU8 = AtomicU8::new(0);

/// Runs before `main`, and before the standard library sets SIGPIPE to ignored and opens `/dev/null` where a standard
/// descriptor is closed: it remembers what the host passed on.
extern "C" fn remember_what_was_passed() {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with a null new action sigaction(2) only writes the old one, to memory that is ours and large enough.
    let asked = unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), action.as_mut_ptr()) };
    if asked == 0 {
        // SAFETY: sigaction(2) succeeded, so it has written the structure.
        let handler = unsafe { action.assume_init() }.sa_sigaction;
        SIGPIPE_WAS_IGNORED.store(handler == libc::SIG_IGN, Ordering::Relaxed);
    }
    for fd in 0..3 {
        // SAFETY: F_GETFD reads a flag of a number, which need not be an open descriptor.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
        }
    }
}

// SAFETY: the loader calls each entry of .init_array as a C function without arguments that are needed; this one touches
// atomics and async-signal-safe calls only, so it does not matter that the standard library is not set up yet.
#[used]
#[unsafe(link_section = ".init_array")]
static REMEMBER: extern "C" fn() = remember_what_was_passed;

/// Replaces this process: `command` is looked up in `PATH` as execvp(3) does, and gets `environment`, and the signal
/// dispositions and standard descriptors that this process was given. Returns only to say why it failed.
pub fn exec(command: &[CString], environment: &[CString]) -> Result<Infallible, Errno> {
    let handler = if SIGPIPE_WAS_IGNORED.load(Ordering::Relaxed) { SigHandler::SigIgn } else { SigHandler::SigDfl };
    // SAFETY: neither disposition runs code of ours.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, handler) }?;
    for fd in (0..3).filter(|fd| CLOSED.load(Ordering::Relaxed) & (1 << fd) != 0) {
        // SAFETY: marking a number close-on-exec changes nothing before an exec, and nothing if it is not open.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    let failed = nix::unistd::execvpe(&command[0], command, environment);
    // What is printed after a failed exec must not end us.
    // SAFETY: as above.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigIgn) };
    failed
}

/// Marks every descriptor from `first` on close-on-exec (close_range(2), Linux 5.11).
pub fn close_on_exec_from(first: RawFd) -> Result<(), Errno> {
    // SAFETY: marking changes no descriptor that is in use; it only says what becomes of it at the next exec.
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    Errno::result(done).map(drop)
}

/// What a clock shows that begins at zero (clock_gettime(2)). By way of the C library, since rustix looks for the vDSO itself,
/// and under Valgrind, which takes it away, finds one that is not there.
pub fn elapsed(clock: libc::clockid_t) -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes a structure that is ours. Where the kernel lacked the clock it would write nothing.
    let _ = unsafe { libc::clock_gettime(clock, &raw mut now) };
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Lets the event loop wait on a descriptor that it owns from now on.
pub fn wait_on(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, is one and the same descriptor, and stays so until the AsyncFd that owns it is dropped.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// The descriptors that a service manager passed to this process, with their names (sd_listen_fds(3)); what told of them is
/// gone from the environment afterwards. For the beginning of a program, while it has one thread.
pub fn take_passed_descriptors() -> Vec<(String, OwnedFd)> {
    // SAFETY: nobody else reads or writes the environment, because there is no other thread.
    let passed = unsafe { sd_notify::listen_fds_with_names_and_unset_env() };
    // SAFETY: the manager opened these numbers for this very process, which LISTEN_PID says, and nobody here knew of them;
    // that they are open was seen when they were marked close-on-exec. They are given out once: the variables are gone.
    let own = |(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) });
    passed.map(|passed| passed.map(own).collect()).unwrap_or_default()
}

/// Has all threads share one heap. glibc gives each of them its own, which grows to what was ever in use there and is never
/// given back (mallopt(3)); a daemon whose threads only wait for the kernel has no use for that. Elsewhere it does nothing.
pub fn share_one_heap() {
    // SAFETY: it sets a number that the allocator looks at when a thread allocates for the first time.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
