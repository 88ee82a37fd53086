//! Begins, before there is a process to move, what the kernel waits for when it moves one.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::layout::{Layout, Moves};

/// For how long after a move the next one has nothing to wait for: about as long as a grace period.
const LASTS: Duration = Duration::from_millis(8);

/// Has the kernel get ready for a move while the launch that needs one is still on its way.
///
/// Whoever moves a process between cgroups, by any manager and in any hierarchy, is the writer of one semaphore of the whole
/// machine, and the first writer in a while waits for an RCU grace period, or for two, before it may go on (`kernel/rcu/sync.c`).
/// A process that is written to the cgroup in which it is takes the semaphore as well, and nothing moves. So that wait begins
/// when a launch is asked for, and runs while that is decided and recorded, and its leaf is made.
#[derive(Debug)]
pub struct Ahead {
    layout: Layout,
    now: Mutex<Now>,
}

#[derive(Debug, Clone, Copy)]
enum Now {
    /// There is nothing to wait for, or it cannot be begun.
    Never,
    /// Nobody asks. When it last was over.
    Rest(Option<Instant>),
    /// It was begun: what comes now is served by that.
    Begun,
}

impl Ahead {
    /// Of this machine. Where the hierarchies are mounted with `favordynmods` no move waits.
    pub fn new(layout: Layout) -> Arc<Self> {
        let favored = Moves::detect().is_ok_and(|moves| moves.favored);
        Arc::new(Self { layout, now: Mutex::new(if favored { Now::Never } else { Now::Rest(None) }) })
    }

    /// A launch was asked for. Returns at once: what waits is a thread of the runtime's, which leaves when nobody asks.
    pub fn begin(self: &Arc<Self>) {
        {
            let mut now = self.now();
            match *now {
                Now::Never | Now::Begun => return,
                Now::Rest(Some(last)) if last.elapsed() < LASTS => return,
                Now::Rest(_) => *now = Now::Begun,
            }
        }
        let ahead = self.clone();
        tokio::task::spawn_blocking(move || {
            let stayed = stay(&ahead.layout);
            if let Err(error) = &stayed {
                tracing::debug!(%error, "a move was not begun before there is one");
            }
            *ahead.now() = match stayed.map_err(|error| error.kind()) {
                Ok(()) => Now::Rest(Some(Instant::now())),
                // A user's daemon may not write where its machine's administrator put it, and one in a container may not see
                // where it is: then each move waits for itself.
                Err(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::Unsupported) => Now::Never,
                // It was moved away from what it was about to open.
                Err(_) => Now::Rest(None),
            };
        });
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves this process to where it is. That is looked up each time, as somebody may have moved it meanwhile.
fn stay(layout: &Layout) -> io::Result<()> {
    let own = layout.own_directory().ok_or(ErrorKind::Unsupported)?;
    File::options().write(true).open(own.join("cgroup.procs"))?.write_all(b"0")
}
