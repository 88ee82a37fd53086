//! The thread that speaks with the daemon: it looks as often as it is told, and carries out orders in between. A daemon
//! that hangs holds up this thread, and not the keys.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant, SystemTime};

use super::state::{About, Event, Reading, Trouble};
use crate::chain::chain;
use crate::client::{self, Client, ClientError};
use crate::occurrence::{Occurrence, What};
use crate::timestamp::Timestamp;
use crate::wire::{Call, Description, End, EndReply, EventsReply, ListReply, Watch};

/// What the screen wants of the thread.
#[derive(Debug)]
pub(super) enum Order {
    /// Look this often.
    Look(Duration),
    End(Vec<End>),
}

/// The thread's side of the screen.
pub(super) struct Reader {
    pub(super) socket: Option<PathBuf>,
    pub(super) interval: Duration,
    pub(super) start: Instant,
    pub(super) orders: Receiver<Order>,
    pub(super) news: SyncSender<Event>,
    /// Written to whenever there is news.
    pub(super) wake: UnixStream,
}

impl Reader {
    /// Looks until the screen is gone.
    pub(super) fn run(mut self) {
        loop {
            let looked = Instant::now();
            let event = match self.read() {
                Ok(reading) => Event::Read(Box::new(reading)),
                Err(error) => Event::Failed(Trouble { at: self.start.elapsed(), why: self.told(&error) }),
            };
            if !self.tell(event) {
                return;
            }
            loop {
                let left = self.interval.saturating_sub(looked.elapsed());
                match self.orders.recv_timeout(left) {
                    Ok(Order::Look(interval)) => self.interval = interval,
                    Ok(Order::End(ends)) => {
                        let told = match self.end(ends) {
                            Ok(true) => None,
                            Ok(false) => Some("nothing to end: it is gone already".to_owned()),
                            Err(error) => Some(format!("not ended: {}", self.told(&error))),
                        };
                        if told.is_some_and(|told| !self.tell(Event::Told(told))) {
                            return;
                        }
                        // What that did is to be seen at once.
                        break;
                    }
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    /// Whether the screen is still there to be told.
    fn tell(&mut self, event: Event) -> bool {
        if self.news.send(event).is_err() {
            return false;
        }
        match self.wake.write_all(&[1]) {
            // Where the pipe is full the screen has been woken already.
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            Ok(()) => true,
        }
    }

    fn find(&self) -> Result<Client, ClientError> {
        client::find(self.socket.as_deref())
    }

    /// Each reading finds the daemon anew: another one may have started meanwhile.
    fn read(&self) -> Result<Reading, ClientError> {
        let mut client = self.find()?;
        let about: Description = client.call(&Call::Describe, &[], client::VIEW_MAX)?;
        let sessions = client.call::<ListReply>(&Call::List, &[], client::VIEW_MAX)?.sessions;
        let ends = ends(&mut client)?;
        let other = client.other().map(|other| other.socket().display().to_string());
        Ok(Reading {
            at: self.start.elapsed(),
            now: Timestamp::of(SystemTime::now()),
            about: About { version: about.version, backend: about.backend, other },
            sessions,
            ends,
        })
    }

    /// Whether there was something to end. An end takes as long as the server's grace: it is begun here, and seen in the
    /// readings after it.
    fn end(&self, ends: Vec<End>) -> Result<bool, ClientError> {
        let mut client = self.find()?;
        let mut any = false;
        for end in ends {
            any |= client.call::<EndReply>(&Call::End(end), &[], client::VIEW_MAX)? != EndReply::default();
        }
        Ok(any)
    }

    fn told(&self, error: &ClientError) -> String {
        match (error, &self.socket) {
            (ClientError::NoDaemon(_), None) => "no daemon runs".to_owned(),
            _ => chain(error),
        }
    }
}

/// What ended lately, as far as the daemon keeps it.
fn ends(client: &mut Client) -> Result<Vec<Occurrence>, ClientError> {
    let events = client.call::<EventsReply>(&Call::Events(Watch::default()), &[], client::VIEW_MAX)?.events;
    Ok(events.into_iter().filter(|occurrence| matches!(occurrence.what, What::Ended(_))).collect())
}

/// Starts the thread. It is not joined: it may wait for a daemon that hangs, and whoever quits does not.
pub(super) fn start(reader: Reader) -> std::io::Result<()> {
    std::thread::Builder::new().name("reader".into()).spawn(move || reader.run()).map(drop)
}
