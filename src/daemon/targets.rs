//! Which servers an order means, of those that the caller may give orders about.

use super::driver::Driver;
use super::message::Peer;
use super::table::Server;
use crate::cgroup::Caller;
use crate::label::Labels;
use crate::realm::Realm;
use crate::session::SessionId;
use crate::timestamp::Timestamp;
use crate::wire::{End, Fault, Relabel, Rested};

/// What an order names: all that is given must hold.
#[derive(Debug, Default)]
pub(super) struct Selection<'a> {
    /// Its id, or its key.
    pub(super) session: Option<&'a SessionId>,
    /// A name, or a leaf.
    pub(super) server: Option<&'a str>,
    pub(super) owner_pid: Option<i32>,
    pub(super) labels: Option<&'a Labels>,
    pub(super) before: Option<Timestamp>,
    pub(super) generation: Option<u64>,
    /// What is done to them, for a refusal.
    pub(super) done: &'static str,
}

impl<'a> Selection<'a> {
    /// What is to end.
    pub(super) fn of_end(wish: &'a End) -> Result<Self, Fault> {
        if wish.session.is_none() && wish.owner_pid.is_none() && wish.labels.is_empty() && !wish.all {
            return Err(Fault::InvalidParameter("name a session, an owner_pid, labels, or all".into()));
        }
        if wish.generation.is_some() && wish.session.is_none() {
            return Err(Fault::InvalidParameter("a generation is one of a session: name the session".into()));
        }
        Ok(Self {
            session: wish.session.as_ref(),
            server: wish.server.as_deref(),
            owner_pid: wish.owner_pid,
            labels: Some(&wish.labels),
            before: wish.before,
            generation: wish.generation,
            done: "ended",
        })
    }

    /// What is to be labelled, where no process names it.
    pub(super) fn of_relabel(wish: &'a Relabel) -> Self {
        Self { session: wish.session.as_ref(), owner_pid: wish.owner_pid, done: "labelled", ..Self::default() }
    }

    /// What is to be parked, or to go on.
    pub(super) fn of_rest(wish: &'a Rested, done: &'static str) -> Result<Self, Fault> {
        if wish.session.is_none() && !wish.all {
            return Err(Fault::InvalidParameter("name a session, or all".into()));
        }
        Ok(Self { session: wish.session.as_ref(), server: wish.server.as_deref(), done, ..Self::default() })
    }

    fn means(&self, server: &Server) -> bool {
        let named = self.server.is_none_or(|name| server.name.as_str() == name || server.leaf_name.as_str() == name);
        named
            && self.owner_pid.is_none_or(|pid| server.owner.pid == pid)
            && self.labels.is_none_or(|wanted| server.labels.include(wanted))
            && self.before.is_none_or(|before| server.started_at < before)
            && self.generation.is_none_or(|generation| server.generation == generation)
    }
}

impl Driver {
    /// The numbers of the servers that are meant and within the caller's reach: its own, or root's all; and from inside a
    /// leaf those of that session only; in each case within its realm.
    pub(super) fn targets(
        &self,
        peer: Peer,
        inside: Option<&Caller>,
        selection: &Selection<'_>,
    ) -> Result<Vec<u64>, Fault> {
        let mut targets = Vec::new();
        for (key, session) in &self.table.sessions {
            let named = selection.session.is_none_or(|word| session.is_called(key, word));
            // What stands in a leaf of our own tree is of that session, whatever namespaces it has made for itself.
            let own = inside.is_some_and(|caller| caller.below == Realm::Host && caller.key == *key);
            let realm = if own { session.realm() } else { peer.realm };
            if !named || !(Peer { realm, ..peer }).reaches(session.uid, session.realm()) {
                continue;
            }
            if inside.is_some_and(|caller| caller.key != *key) {
                if selection.session.is_some() {
                    let own = format!("from inside a session only that session can be {}", selection.done);
                    return Err(Fault::NotPermitted(own));
                }
                continue;
            }
            let servers = session.servers.iter().filter_map(|number| Some((*number, self.table.servers.get(number)?)));
            targets.extend(servers.filter(|(_, server)| selection.means(server)).map(|(number, _)| number));
        }
        Ok(targets)
    }
}
