//! Waits for the kernel to speak: one epoll for pidfds, held stdins and eventfds, one inotify for cgroup event files.
//!
//! It reads no byte of a stdin: only hang-ups are of interest there, and a runtime's own readable interest would wake for
//! every message of a host.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

/// What spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The pidfd of a server's leader.
    Leader(u64),
    /// The pidfd of an owner.
    Owner(u64),
    /// The held stdin of a server.
    Stdin(u64),
    /// The memory eventfd of a leaf (v1).
    Oom(u64),
    /// An event file of a leaf.
    Events(u64),
    /// The timer of sessions with a time-to-live.
    Alarm,
    /// The pidfd of a launcher that waits for its turn.
    Waiting(u64),
}

/// How many events are taken at a time.
const BATCH: usize = 64;

impl Source {
    const INOTIFY: u64 = 0;

    fn token(self) -> u64 {
        let (kind, number) = match self {
            Self::Leader(number) => (1, number),
            Self::Owner(number) => (2, number),
            Self::Stdin(number) => (3, number),
            Self::Oom(number) => (4, number),
            Self::Events(number) => (5, number),
            Self::Alarm => (6, 0),
            Self::Waiting(number) => (7, number),
        };
        (kind << 56) | (number & ((1 << 56) - 1))
    }

    fn of(token: u64) -> Option<Self> {
        let number = token & ((1 << 56) - 1);
        Some(match token >> 56 {
            1 => Self::Leader(number),
            2 => Self::Owner(number),
            3 => Self::Stdin(number),
            4 => Self::Oom(number),
            5 => Self::Events(number),
            6 => Self::Alarm,
            7 => Self::Waiting(number),
            _ => return None,
        })
    }
}

/// The one place where the daemon waits for the kernel.
#[derive(Debug)]
pub struct Watcher {
    epoll: AsyncFd<OwnedFd>,
    inotify: OwnedFd,
    /// Which server an inotify watch descriptor belongs to.
    files: RefCell<HashMap<i32, u64>>,
}

impl Watcher {
    /// Makes the epoll and the inotify.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let data = epoll::EventData::new_u64(Source::INOTIFY);
        epoll::add(&epoll, &inotify, data, epoll::EventFlags::IN)?;
        Ok(Self { epoll: crate::sys::wait_on(epoll)?, inotify, files: RefCell::default() })
    }

    /// Watches a descriptor: a pidfd or eventfd for becoming readable, a stdin for its hang-up. A hang-up and an exit
    /// last, so each is told once (`EPOLLONESHOT`); an eventfd is told whenever it moves, a timer whenever it is over
    /// (`EPOLLET`).
    pub fn watch(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        use epoll::EventFlags as Flags;
        let flags = match source {
            // A socketpair tells a half-close as RDHUP, a pipe as HUP, which needs no asking.
            Source::Stdin(_) => Flags::RDHUP | Flags::ONESHOT,
            Source::Oom(_) | Source::Alarm => Flags::IN | Flags::ET,
            Source::Leader(_) | Source::Owner(_) | Source::Events(_) | Source::Waiting(_) => Flags::IN | Flags::ONESHOT,
        };
        Ok(epoll::add(self.epoll.get_ref(), fd, epoll::EventData::new_u64(source.token()), flags)?)
    }

    /// Watches a stdin that is watched already for input, too, or no more for that. Each time it is told once.
    pub fn watch_input(&self, stdin: impl AsFd, number: u64, input: bool) -> io::Result<()> {
        use epoll::EventFlags as Flags;
        let wanted = if input { Flags::IN | Flags::RDHUP } else { Flags::RDHUP };
        let data = epoll::EventData::new_u64(Source::Stdin(number).token());
        Ok(epoll::modify(self.epoll.get_ref(), stdin, data, wanted | Flags::ONESHOT)?)
    }

    /// Stops watching a descriptor. It must be done before the descriptor is closed: while the server holds the same
    /// file description, the registration of a closed dup lives on.
    pub fn forget(&self, fd: impl AsFd) {
        // That it was not watched, or told already, is no matter.
        let _ = epoll::delete(self.epoll.get_ref(), fd);
    }

    /// Watches an event file of a leaf for changes, until [`Watcher::forget_files`]: rmdir(2) of a cgroup does not end it.
    pub fn watch_file(&self, directory: &crate::cgroup::Cgroup, file: &str, number: u64) -> io::Result<()> {
        let path = directory.fd_path().join(file);
        let watch = inotify::add_watch(&self.inotify, path, inotify::WatchFlags::MODIFY)?;
        self.files.borrow_mut().insert(watch, number);
        Ok(())
    }

    /// Stops watching the event files of a server.
    pub fn forget_files(&self, number: u64) {
        self.files.borrow_mut().retain(|watch, owner| {
            if *owner == number {
                // That the kernel has dropped it meanwhile is no matter.
                let _ = inotify::remove_watch(&self.inotify, *watch);
            }
            *owner != number
        });
    }

    /// Waits until something speaks, and tells all that did.
    pub async fn next(&self) -> io::Result<Vec<Source>> {
        loop {
            let mut ready = self.epoll.readable().await?;
            let mut events = Vec::with_capacity(BATCH);
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            epoll::wait(self.epoll.get_ref(), rustix::buffer::spare_capacity(&mut events), Some(&now))?;
            if events.len() < BATCH {
                ready.clear_ready();
            }
            let mut spoke = Vec::new();
            for event in &events {
                match event.data.u64() {
                    Source::INOTIFY => spoke.extend(self.changed_files()),
                    token => spoke.extend(Source::of(token)),
                }
            }
            if !spoke.is_empty() {
                return Ok(spoke);
            }
        }
    }

    fn changed_files(&self) -> Vec<Source> {
        let mut files = self.files.borrow_mut();
        let mut buffer = [const { MaybeUninit::uninit() }; 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut found = Vec::new();
        while let Ok(event) = reader.next() {
            if event.events().contains(inotify::ReadFlags::IGNORED) {
                // The file is gone: systemd removes a scope with its leaves as soon as it is empty.
                found.extend(files.remove(&event.wd()).map(Source::Events));
            } else if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                // Something changed and we cannot tell what: all are looked at.
                found.extend(files.values().map(|number| Source::Events(*number)));
            } else if let Some(number) = files.get(&event.wd()) {
                found.push(Source::Events(*number));
            }
        }
        found.sort_unstable_by_key(|source| source.token());
        found.dedup();
        found
    }
}
