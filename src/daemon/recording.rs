//! What the driver writes down of a server, for a daemon that comes after this one.

use super::driver::Driver;
use super::table::{Entry, Server};
use crate::cgroup::GroupPaths;
use crate::chain::chain;
use crate::lifecycle::State;
use crate::records::{Ending, FileId, Record};

impl Driver {
    /// What a later daemon must know of the server.
    pub(super) fn record(&self, server: &Server, machine: GroupPaths) -> Option<Record> {
        let session = self.table.sessions.get(&server.key)?;
        let killing = matches!(server.state, State::Killing { .. });
        Some(Record {
            boot_id: self.boot_id.clone(),
            uid: session.uid,
            session: session.id.clone(),
            named_by: session.named_by,
            key: server.key.as_str().to_owned(),
            leaf: server.leaf_name.as_str().to_owned(),
            container: session.container.clone(),
            host: server.host.clone(),
            server: server.name.clone(),
            entry_seen: (server.entry != Entry::Unnamed).then_some(server.entry == Entry::Seen),
            labels: server.labels.clone(),
            generation: server.generation,
            argv: server.argv.clone(),
            instance: server.instance.clone(),
            leader: server.leader,
            owner: server.owner,
            stdin: server.stdin.as_ref().and_then(FileId::of),
            stderr: server.stderr.as_ref().and_then(FileId::of),
            machine,
            grace: server.terms.grace,
            stdin_grace: server.terms.stdin_grace,
            on_pids: server.on_pids,
            idle_after: server.idle.as_ref().and_then(|idle| idle.spans().end),
            resting: server.resting,
            stall: server.stall,
            asked: server.asked.clone(),
            confine: server.confine,
            container_place: server.container,
            container_remover: server.remover.clone(),
            container_first: server.monitored.as_ref().map(|first| first.iter().map(|first| first.id).collect()),
            held: server.held,
            adopted: server.adopted,
            moving_from: None,
            started_at: server.started_at.time(),
            expires: session.expires,
            warnings: server.warnings.clone(),
            ending: server.state.cause().map(|cause| Ending { cause, killing }),
        })
    }

    /// The next daemon is to know what changed. Where an end has begun, its record was written for that.
    pub(super) fn record_again(&self, number: u64) {
        let Some(server) = self.table.servers.get(&number).filter(|server| server.state == State::Running) else {
            return;
        };
        let record = server.leaf.as_ref().and_then(|leaf| self.record(server, leaf.machine().paths()));
        if let Some(Err(error)) = record.map(|record| self.records.write(&record)) {
            tracing::warn!(error = %chain(&error), "the next daemon would not know what was changed for this server");
        }
    }
}
