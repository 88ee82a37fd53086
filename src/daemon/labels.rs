//! The driver's side of labels: who may tie them to what lives, and that the next daemon knows of them.

use super::driver::Driver;
use super::message::Peer;
use super::targets::Selection;
use crate::cgroup::Caller;
use crate::chain::chain;
use crate::lifecycle::State;
use crate::wire::{Fault, Relabel, Relabelled};

impl Driver {
    /// Labels what was named, as far as the caller may: all of it or, where one server would have too many, none.
    pub(super) fn label(
        &mut self,
        peer: Peer,
        inside: Option<&Caller>,
        holder: Option<&Caller>,
        wish: &Relabel,
    ) -> Result<Relabelled, Fault> {
        if wish.session.is_none() && wish.owner_pid.is_none() && wish.pid.is_none() {
            return Err(Fault::InvalidParameter("name a session, an owner_pid, or a pid".into()));
        }
        if wish.labels.is_empty() {
            return Err(Fault::InvalidParameter("there is no label to give".into()));
        }
        let mut targets = self.targets(peer, inside, &Selection::of_relabel(wish))?;
        if let Some(pid) = wish.pid {
            let number = holder.and_then(|holder| self.number_of(holder)).filter(|number| targets.contains(number));
            targets = vec![number.ok_or(Fault::NotContained(pid))?];
        }
        let mut changed = Vec::with_capacity(targets.len());
        for number in targets {
            // What ends is named by what it was.
            let Some(server) = self.table.servers.get(&number).filter(|server| server.state.cause().is_none()) else {
                continue;
            };
            let labels = server.labels.with(&wish.labels);
            let labels = labels.map_err(|error| Fault::InvalidParameter(format!("{}: {error}", server.leaf_name)))?;
            changed.push((number, labels));
        }
        let mut reply = Relabelled::default();
        for (number, labels) in changed {
            let Some(server) = self.table.servers.get_mut(&number) else { continue };
            server.labels = labels;
            server.relabelled = true;
            reply.leaves.push(server.leaf_name.as_str().to_owned());
            self.record_labels(number);
        }
        Ok(reply)
    }

    /// The server whose leaf this is.
    fn number_of(&self, place: &Caller) -> Option<u64> {
        let mut servers = self.table.servers.iter();
        let found = servers.find(|(_, server)| server.key == place.key && server.leaf_name == place.leaf);
        found.map(|(number, _)| *number)
    }

    /// The next daemon is to know of them, too. The record of a launch that is under way is written again once it is placed.
    pub(super) fn record_labels(&mut self, number: u64) {
        let Some(server) = self.table.servers.get(&number).filter(|server| server.relabelled) else { return };
        // An end that began has written its record, or does so now.
        let Some(leaf) = server.leaf.as_ref().filter(|_| server.state == State::Running) else { return };
        let record = self.record(server, leaf.machine().paths());
        if let Some(Err(error)) = record.map(|record| self.records.write(&record)) {
            tracing::warn!(error = %chain(&error), "the next daemon would not know of this server's labels");
        }
        if let Some(server) = self.table.servers.get_mut(&number) {
            server.relabelled = false;
        }
    }
}
