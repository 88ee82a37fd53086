//! Begins, before there is a process to move, what the kernel waits for when it moves one.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::layout::{Layout, Moves};

/// For how long after a move the next one has nothing to wait for: about as long as a grace period.
const LASTS: Duration = Duration::from_millis(8);

/// Of its thread, which opens two files and writes one.
const STACK_BYTES: usize = 128 << 10;

/// A thread that has the kernel get ready for a move while the launch that needs one is still on its way.
///
/// Whoever moves a process between cgroups, by any manager and in any hierarchy, is the writer of one semaphore of the whole
/// machine, and the first writer in a while waits for an RCU grace period, 4 ms to 20, before it may go on (`kernel/rcu/sync.c`).
/// A process that is written to the cgroup in which it is takes the semaphore as well, and nothing moves. So that wait begins
/// when a launch is asked for, and runs while that is decided and recorded, and its leaf is made.
#[derive(Debug)]
pub struct Ahead {
    /// None where there is nothing to wait for, or no thread.
    begin: Option<SyncSender<()>>,
}

impl Ahead {
    /// Starts the thread, unless the hierarchies are mounted with `favordynmods`, which leaves nothing to wait for. Where none
    /// can be had each move waits for itself, and nothing else is lost.
    pub fn start(layout: Layout) -> Self {
        if Moves::detect().is_ok_and(|moves| moves.favored) {
            return Self { begin: None };
        }
        // One that comes while the thread is at it is served by what it does.
        let (begin, wanted) = sync_channel(0);
        let thread = std::thread::Builder::new().name("ahead".to_owned()).stack_size(STACK_BYTES);
        match thread.spawn(move || work(&layout, &wanted)) {
            Ok(_) => Self { begin: Some(begin) },
            Err(error) => {
                tracing::debug!(%error, "each move waits for itself");
                Self { begin: None }
            }
        }
    }

    /// A launch was asked for. Returns at once.
    pub fn begin(&self) {
        self.begin.as_ref().map(|begin| begin.try_send(()));
    }
}

fn work(layout: &Layout, wanted: &Receiver<()>) {
    let mut last: Option<Instant> = None;
    while wanted.recv().is_ok() {
        if last.is_some_and(|last| last.elapsed() < LASTS) {
            continue;
        }
        // A user's daemon may not write where its machine's administrator put it: then each move waits for itself.
        if let Err(error) = stay(layout) {
            tracing::debug!(%error, "a move cannot be begun before there is one");
            return;
        }
        last = Some(Instant::now());
    }
}

/// Moves this process to where it is. That is looked up each time, as somebody may have moved it meanwhile.
fn stay(layout: &Layout) -> io::Result<()> {
    let own = layout.own_directory().ok_or(io::ErrorKind::NotFound)?;
    File::options().write(true).open(own.join("cgroup.procs"))?.write_all(b"0")
}
