//! What may be held up by whoever made a file happens here, aside: on threads that nothing else waits for.
//!
//! close(2) of a descriptor that somebody sent asks the file's maker: FUSE and network filesystems flush, and a TCP socket
//! with `SO_LINGER` waits for as long as its sender chose. So does the end of a connection with such a descriptor still in it.

use std::collections::VecDeque;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Threads at a time. What comes beyond them waits, and holds up nobody.
const HANDS_MAX: usize = 128;

/// As much as this waits without a reason to slow down.
const WAITING: usize = 32;

/// How long a pause is, and how many of them there are at most.
const BREATH: Duration = Duration::from_millis(1);
const BREATHS: usize = 20;

/// How long a thread stays that has nothing to do.
const REST: Duration = Duration::from_secs(10);

/// Of each thread: it closes, and writes a line.
const STACK_BYTES: usize = 256 << 10;

type Job = Box<dyn FnOnce() + Send>;

struct Desk {
    waiting: VecDeque<Job>,
    idle: usize,
    hands: usize,
}

static DESK: Mutex<Desk> = Mutex::new(Desk { waiting: VecDeque::new(), idle: 0, hands: 0 });
static BELL: Condvar = Condvar::new();

fn desk() -> MutexGuard<'static, Desk> {
    DESK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does it on another thread, at once where one can be had.
pub(super) fn run(job: impl FnOnce() + Send + 'static) {
    let mut desk = desk();
    desk.waiting.push_back(Box::new(job));
    // Those that rest may have been called already for what waits before it.
    if desk.waiting.len() <= desk.idle || desk.hands == HANDS_MAX {
        BELL.notify_one();
        return;
    }
    let hand = std::thread::Builder::new().name("aside".to_owned()).stack_size(STACK_BYTES).spawn(work);
    match hand {
        Ok(_) => desk.hands += 1,
        // It waits for the next one that can be had.
        Err(error) => tracing::debug!(%error, "no thread can be had"),
    }
}

/// Waits a moment where much waits to be closed, so that whoever makes more of it does not do so faster than that is done.
pub(super) async fn breathe() {
    for _ in 0..BREATHS {
        if desk().waiting.len() < WAITING {
            return;
        }
        tokio::time::sleep(BREATH).await;
    }
}

fn work() {
    loop {
        let mut desk = desk();
        let job = loop {
            if let Some(job) = desk.waiting.pop_front() {
                break job;
            }
            desk.idle += 1;
            let (again, rested) = BELL.wait_timeout(desk, REST).unwrap_or_else(PoisonError::into_inner);
            desk = again;
            desk.idle -= 1;
            if rested.timed_out() && desk.waiting.is_empty() {
                desk.hands -= 1;
                return;
            }
        };
        drop(desk);
        job();
    }
}

/// A descriptor that came from another process. It is closed aside, and counted until it is.
#[derive(Debug)]
pub(super) struct Foreign {
    fd: Option<OwnedFd>,
    lender: Option<Arc<AtomicUsize>>,
}

impl Foreign {
    /// One of so many that this user has sent.
    pub(super) fn lent(fd: OwnedFd, lender: &Arc<AtomicUsize>) -> Self {
        lender.fetch_add(1, Ordering::Relaxed);
        Self { fd: Some(fd), lender: Some(lender.clone()) }
    }

    /// The descriptor itself, where closing it is known to wait for nobody: a pidfd.
    pub(super) fn known(mut self) -> OwnedFd {
        if let Some(lender) = self.lender.take() {
            lender.fetch_sub(1, Ordering::Relaxed);
        }
        self.fd.take().expect("it is taken only here and when it is dropped")
    }
}

impl From<OwnedFd> for Foreign {
    /// One that was taken, and that nobody has sent.
    fn from(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), lender: None }
    }
}

impl Deref for Foreign {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        self.fd.as_ref().expect("it is taken only where it is consumed")
    }
}

impl std::os::fd::AsFd for Foreign {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.deref().as_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let Some(fd) = self.fd.take() else { return };
        let lender = self.lender.take();
        let close = move || {
            drop(fd);
            if let Some(lender) = lender {
                lender.fetch_sub(1, Ordering::Relaxed);
            }
        };
        run(close);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use rustix::net::sockopt::set_socket_linger;

    use super::*;

    /// A descriptor whose close waits for this long.
    fn lingering(patience: Duration) -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        while std::io::Write::write(&mut stream, &[0; 1 << 16]).is_ok() {}
        set_socket_linger(&stream, Some(patience)).unwrap();
        (stream.into(), other)
    }

    #[test]
    fn a_descriptor_whose_close_waits_holds_up_neither_its_holder_nor_the_next() {
        let patience = Duration::from_secs(120);
        let counted = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let (stuck, others): (Vec<_>, Vec<_>) = (0..3).map(|_| lingering(patience)).unzip();
        stuck.into_iter().for_each(|fd| drop(Foreign::lent(fd, &counted)));
        let (read, write) = rustix::pipe::pipe().unwrap();
        drop(Foreign::from(write));
        // The end of the pipe is told once its last writer is closed.
        assert_eq!(rustix::io::read(&read, &mut [0]), Ok(0));
        assert!(start.elapsed() < patience);
        assert_eq!(counted.load(Ordering::Relaxed), 3, "they are counted until they are closed");
        // What they wait for is gone.
        drop(others);
        while counted.load(Ordering::Relaxed) > 0 {
            assert!(start.elapsed() < patience);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
