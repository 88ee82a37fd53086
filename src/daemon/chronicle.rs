//! What happened, on its way out of the driver: kept for whoever asks what was, and passed on to whoever follows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::broadcast;

use super::driver::Driver;
use super::historian::Kept;
use super::log;
use super::table::{Server, Session};
use crate::naming::SessionKey;
use crate::occurrence::{Ended, Occurrence, What};
use crate::realm::{Container, Realm};
use crate::records::Record;
use crate::session::{Name, SessionId};
use crate::timestamp::Timestamp;

/// How much of the past is kept.
const RECENT_MAX: usize = 256;

/// How far behind a follower may be. What it misses beyond that is told as a number.
const BEHIND_MAX: usize = 1024;

/// What happened, in order.
#[derive(Debug)]
pub(super) struct Chronicle {
    told: u64,
    recent: VecDeque<Arc<Occurrence>>,
    followers: broadcast::Sender<Arc<Occurrence>>,
}

/// The past, and the way on from there with nothing between.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) recent: Vec<Arc<Occurrence>>,
    pub(super) next: broadcast::Receiver<Arc<Occurrence>>,
}

impl Default for Chronicle {
    fn default() -> Self {
        Self { told: 0, recent: VecDeque::new(), followers: broadcast::channel(BEHIND_MAX).0 }
    }
}

impl Chronicle {
    fn add(&mut self, about: About, what: What) -> Arc<Occurrence> {
        self.told += 1;
        let About { uid, realm, session, key, host, server, leaf } = about;
        let occurrence = Arc::new(Occurrence {
            number: self.told,
            at: Timestamp::of(SystemTime::now()),
            uid,
            realm,
            session,
            key: key.map(|key| key.as_str().to_owned()),
            host,
            server,
            leaf,
            what,
        });
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(occurrence.clone());
        // That nobody follows is no failure.
        let _ = self.followers.send(occurrence.clone());
        occurrence
    }

    /// What was.
    pub(super) fn recent(&self) -> impl DoubleEndedIterator<Item = &Arc<Occurrence>> {
        self.recent.iter()
    }

    /// What was, and what comes.
    pub(super) fn follow(&self) -> Following {
        Following { recent: self.recent.iter().cloned().collect(), next: self.followers.subscribe() }
    }
}

/// What something happened to.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) uid: u32,
    pub(super) realm: Realm,
    pub(super) session: Option<SessionId>,
    pub(super) key: Option<SessionKey>,
    pub(super) host: Option<Name>,
    pub(super) server: Name,
    pub(super) leaf: Option<String>,
}

impl About {
    /// A server, of this session.
    pub(super) fn server(server: &Server, session: &Session) -> Self {
        Self {
            uid: session.uid,
            realm: session.realm(),
            session: Some(session.id.clone()),
            key: Some(server.key.clone()),
            host: server.host.clone(),
            server: server.name.clone(),
            leaf: Some(server.leaf_name.as_str().to_owned()),
        }
    }

    /// A server of which only its record is left.
    pub(super) fn record(record: &Record) -> Self {
        Self {
            uid: record.uid,
            realm: Container::realm_of(record.container.as_ref()),
            session: Some(record.session.clone()),
            key: SessionKey::parse(&record.key).ok(),
            host: record.host.clone(),
            server: record.server.clone(),
            leaf: Some(record.leaf.clone()),
        }
    }
}

impl Driver {
    /// Something happened to a server of the table.
    pub(super) fn occurred(&mut self, number: u64, what: What) {
        if let Some(about) = self.about(number) {
            self.occurred_to(about, what);
        }
    }

    /// An end is over.
    pub(super) fn ended(&mut self, about: About, ended: Ended) -> Option<Kept> {
        let occurrence = self.occurred_to(about, What::Ended(ended));
        self.historian.keep(&occurrence)
    }

    /// A server of the table, for what happens to it.
    pub(super) fn about(&self, number: u64) -> Option<About> {
        let server = self.table.servers.get(&number)?;
        let session = self.table.sessions.get(&server.key)?;
        Some(About::server(server, session))
    }

    /// Something happened.
    pub(super) fn occurred_to(&mut self, about: About, what: What) -> Arc<Occurrence> {
        let occurrence = self.chronicle.add(about, what);
        self.counters.count(&occurrence);
        log::to_journal(&occurrence);
        occurrence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(server: &str) -> About {
        let server = Name::parse(server).unwrap();
        About { uid: 0, realm: Realm::Host, session: None, key: None, host: None, server, leaf: None }
    }

    #[test]
    fn whoever_follows_gets_each_occurrence_once_and_the_past_is_bounded() {
        let mut chronicle = Chronicle::default();
        for pid in 0..300 {
            chronicle.add(about("x"), What::Adopted { pid });
        }
        let mut following = chronicle.follow();
        chronicle.add(about("x"), What::Adopted { pid: 300 });
        assert_eq!(following.recent.len(), RECENT_MAX);
        assert_eq!(following.recent.last().unwrap().number, 300);
        assert_eq!(following.next.try_recv().unwrap().number, 301);
        assert!(following.next.try_recv().is_err());
    }
}
