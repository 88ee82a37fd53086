//! Writes down what ended, off the driver: an end never waits for a disk. What the queue has no room for is dropped and
//! counted, and a database that cannot be used is told once and tried again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::chain::chain;
use crate::config::Bounds;
use crate::history::{History, HistoryError};
use crate::occurrence::Occurrence;
use crate::sys::crash;

/// Ends that may wait to be written.
const WAITING_MAX: usize = 1024;

/// How many are written at a time.
const BATCH_MAX: usize = 100;

/// After a failure: what ends meanwhile is dropped.
const PAUSE: Duration = Duration::from_secs(30);

/// How long a daemon that stops waits for what is still to be written.
pub(super) const STOP_MAX: Duration = Duration::from_secs(2);

/// An end that is being written down.
#[derive(Debug)]
pub(super) struct Kept(oneshot::Receiver<()>);

impl Kept {
    /// Waits until it is written, or is not going to be. Where a disk does not answer that may be never: whoever stops does
    /// not wait for it, and the next daemon finds the record.
    pub(super) async fn written(self) {
        let _ = self.0.await;
    }
}

/// An end on its way.
#[derive(Debug)]
struct Entry {
    occurrence: Arc<Occurrence>,
    /// Dropped when it is written, or is not going to be.
    written: oneshot::Sender<()>,
}

/// Where ends go to be written down.
#[derive(Debug)]
pub(super) struct Historian {
    sender: mpsc::Sender<Entry>,
    bounds: watch::Sender<Bounds>,
    dropped: IntCounter,
    /// Whether that was told.
    told: bool,
}

impl Historian {
    /// Starts the task that writes. It ends when what this returns first is dropped, once all is written.
    pub(super) fn start(path: PathBuf, bounds: Bounds, dropped: IntCounter) -> (Self, JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let (bounds, said) = watch::channel(bounds);
        let writer = Writer { path, said, history: None, failed: None, dropped: dropped.clone() };
        (Self { sender, bounds, dropped, told: false }, tokio::spawn(write_all(receiver, writer)))
    }

    /// The configuration says this from now on.
    pub(super) fn bound(&self, bounds: Bounds) {
        self.bounds.send_replace(bounds);
    }

    /// Has an end written down. `None` where that is not wanted, or where there is no room.
    pub(super) fn keep(&mut self, occurrence: &Arc<Occurrence>) -> Option<Kept> {
        if self.bounds.borrow().keep_nothing() {
            return None;
        }
        let (written, over) = oneshot::channel();
        let entry = Entry { occurrence: occurrence.clone(), written };
        if self.sender.try_send(entry).is_ok() {
            return Some(Kept(over));
        }
        self.dropped.inc();
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!("the history cannot keep up: some of what ends is missing in it");
        }
        None
    }
}

/// Who writes. It goes from one thread to the next: none is kept while nothing ends.
struct Writer {
    path: PathBuf,
    said: watch::Receiver<Bounds>,
    /// What is open, and by which bounds.
    history: Option<(History, Bounds)>,
    failed: Option<Instant>,
    dropped: IntCounter,
}

async fn write_all(mut entries: mpsc::Receiver<Entry>, mut writer: Writer) {
    let mut batch = Vec::new();
    while entries.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let (occurrences, written): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|Entry { occurrence, written }| (occurrence, written)).unzip();
        let work = tokio::task::spawn_blocking(move || {
            writer.write(&occurrences);
            writer
        });
        let Ok(back) = work.await else { return };
        writer = back;
        drop(written);
    }
}

impl Writer {
    fn write(&mut self, ends: &[Arc<Occurrence>]) {
        if self.failed.is_some_and(|at| at.elapsed() < PAUSE) {
            self.dropped.inc_by(ends.len() as u64);
            return;
        }
        match self.try_write(ends) {
            Ok(()) => {
                crash::step("ends were written down");
                if self.failed.take().is_some() {
                    tracing::info!("the history is written again");
                }
            }
            Err(error) => {
                self.dropped.inc_by(ends.len() as u64);
                self.history = None;
                if self.failed.replace(Instant::now()).is_none() {
                    tracing::warn!(
                        error = %chain(&error),
                        "what ends is not kept until this is mended; all else goes on"
                    );
                }
            }
        }
    }

    fn try_write(&mut self, ends: &[Arc<Occurrence>]) -> Result<(), HistoryError> {
        let bounds = *self.said.borrow();
        // It was on its way when the configuration came to say so. What is there stays.
        if bounds.keep_nothing() {
            return Ok(());
        }
        let (history, _) = match self.history.take().filter(|(_, opened)| *opened == bounds) {
            Some(open) => self.history.insert(open),
            None => self.history.insert((History::open(&self.path, bounds)?, bounds)),
        };
        history.write(&ends.iter().map(|end| &**end).collect::<Vec<_>>(), bounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Bytes;
    use crate::occurrence::{Ended, What};
    use crate::outcome::{Cause, Outcome};
    use crate::session::{Name, SessionId};
    use crate::timestamp::Timestamp;
    use crate::wire::Question;

    fn end(number: u64) -> Arc<Occurrence> {
        let now = Timestamp::of(std::time::SystemTime::now());
        let outcome = Outcome {
            cause: Cause::Requested,
            processes: None,
            killed: false,
            memory_bytes: None,
            peak_bytes: None,
            exit: None,
        };
        Arc::new(Occurrence {
            number,
            at: now,
            uid: 0,
            realm: crate::realm::Realm::Host,
            session: Some(SessionId::parse("s").unwrap()),
            key: None,
            host: None,
            server: Name::parse("x").unwrap(),
            leaf: Some(format!("x.{number}")),
            what: What::Ended(Ended {
                outcome,
                started_at: now,
                lifetime_seconds: 1.0,
                end_seconds: None,
                parked_seconds: 0.0,
            }),
        })
    }

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    #[tokio::test]
    async fn all_that_was_taken_is_written_before_a_daemon_stops() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/history.db");
        let dropped = counter();
        let (mut historian, writing) = Historian::start(path.clone(), Bounds::default(), dropped.clone());
        let kept: Vec<_> = (0..300).filter_map(|number| historian.keep(&end(number))).collect();
        drop(historian);
        writing.await.unwrap();
        assert_eq!((kept.len(), dropped.get()), (300, 0));
        assert_eq!(History::ask(&path, &Question::default(), 0).unwrap().ends.len(), 300);
    }

    #[tokio::test]
    async fn where_nothing_can_be_written_nobody_waits_and_each_end_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.db");
        std::fs::create_dir(&path).unwrap();
        let dropped = counter();
        let (mut historian, writing) = Historian::start(path, Bounds::default(), dropped.clone());
        for number in 0..3 {
            let kept = historian.keep(&end(number)).unwrap();
            tokio::time::timeout(Duration::from_secs(60), kept.written()).await.expect("nobody waits");
        }
        drop(historian);
        writing.await.unwrap();
        assert_eq!(dropped.get(), 3);
    }

    #[tokio::test]
    async fn what_the_queue_has_no_room_for_is_counted_and_the_driver_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let dropped = counter();
        let (mut historian, _writing) =
            Historian::start(directory.path().join("history.db"), Bounds::default(), dropped.clone());
        // The writer is a task of this thread, and does not run meanwhile.
        let taken = (0..WAITING_MAX as u64 + 5).filter_map(|number| historian.keep(&end(number))).count();
        assert_eq!((taken, dropped.get()), (WAITING_MAX, 5));
    }

    #[tokio::test]
    async fn an_end_on_its_way_when_nothing_is_kept_any_more_takes_nothing_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.db");
        for nothing in [Bounds { days: 0, ..Bounds::default() }, Bounds { bytes: Bytes(0), ..Bounds::default() }] {
            let (mut historian, writing) = Historian::start(path.clone(), Bounds::default(), counter());
            historian.keep(&end(1)).unwrap().written().await;
            // The writer is a task of this thread: it comes to this one when the bounds are others already.
            let on_its_way = historian.keep(&end(2)).unwrap();
            historian.bound(nothing);
            on_its_way.written().await;
            drop(historian);
            writing.await.unwrap();
            assert!(!History::ask(&path, &Question::default(), 0).unwrap().ends.is_empty());
        }
    }

    #[tokio::test]
    async fn what_the_configuration_says_holds_from_then_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.db");
        let (mut historian, writing) =
            Historian::start(path.clone(), Bounds { days: 0, ..Bounds::default() }, counter());
        assert!(historian.keep(&end(1)).is_none());
        assert!(!path.exists());
        historian.bound(Bounds::default());
        historian.keep(&end(2)).unwrap().written().await;
        historian.bound(Bounds { bytes: Bytes(0), ..Bounds::default() });
        assert!(historian.keep(&end(3)).is_none());
        drop(historian);
        writing.await.unwrap();
        assert_eq!(History::ask(&path, &Question::default(), 0).unwrap().ends.len(), 1);
    }
}
