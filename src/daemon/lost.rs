//! A leaf with processes whose record cannot be read: what it is, its own processes tell.
//!
//! Every server has its session's id and the name of its leaf in its environment, and its session's directory is called after
//! the id: what agrees with both is a fact. What nothing tells any more, the graces and a time-to-live, is as the configuration
//! has it now.

use std::time::SystemTime;

use super::driver::Driver;
use crate::argv::MaskedArgv;
use crate::cgroup::{Caller, GroupPaths, Leaf, Membership};
use crate::chain::chain;
use crate::confine::Confine;
use crate::label::Labels;
use crate::naming::SessionKey;
use crate::policy::{self, SERVER_VARIABLE, SESSION_VARIABLE, Settings};
use crate::process;
use crate::records::{Instance, Record, Resting};
use crate::session::{Name, NamedBy, ProcessId, SessionId};

/// What whoever looks at such a server should know.
const WARNING: &str =
    "its record was lost: its graces are those of the configuration, and its owner is the nearest host above it";

impl Driver {
    /// Puts a leaf that no record tells of back into the table; `false` where its processes do not tell what it is.
    pub(super) fn adopt_unknown(&mut self, place: &Caller) -> bool {
        let Some((mut record, leaf)) = self.told_by_processes(place) else { return false };
        (record.generation, _) = self.generation(&place.key, None);
        tracing::warn!(
            leaf = record.leaf,
            session = %record.session,
            "the record of a living server is lost; it was made anew from what its processes tell"
        );
        if let Err(error) = self.records.write(&record) {
            tracing::warn!(error = %chain(&error), "the next daemon will have to ask its processes again");
        }
        self.adopt(place, &record, leaf);
        true
    }

    fn told_by_processes(&self, place: &Caller) -> Option<(Record, Leaf)> {
        let machine = self.backend.session_directory(&place.key).parent()?.to_owned();
        let leaf = self.backend.adopt(place, &GroupPaths { v2: machine, memory: None, pids: None }, None).ok()?;
        let mut processes: Vec<ProcessId> =
            leaf.processes().ok()?.into_iter().filter_map(|pid| process::identify(pid).ok()).collect();
        // The first process came before all that it started.
        processes.sort_by_key(|process| process.start_time);
        let leader = *processes.first()?;
        let (uid, session, server) = processes.iter().find_map(|process| identity(place, process.pid))?;
        // Where the companions of a hybrid machine are, the leader's own membership tells.
        let machine = self.backend.machine_paths(&Membership::of(leader.pid).ok()?, None).ok()?;
        let leaf = self.backend.adopt(place, &machine, None).ok()?;
        let ancestors = process::ancestors(leader.pid);
        let facts: Vec<_> = ancestors.iter().map(|ancestor| ancestor.facts.clone()).collect();
        let host = policy::recognise_host(&self.settings, &facts);
        let is_nested = ancestors.first().and_then(|parent| Membership::of(parent.id.pid).ok());
        let is_nested = is_nested.is_some_and(|parent| self.backend.locate(&parent).is_some());
        let owner = match &host {
            Some((_, index)) if !is_nested => ancestors.get(*index),
            _ => ancestors.first(),
        };
        let manners = self.settings.server.or(Settings::built_in_server());
        let record = Record {
            boot_id: self.boot_id.clone(),
            uid,
            session,
            named_by: NamedBy::Host,
            key: place.key.as_str().to_owned(),
            leaf: place.leaf.as_str().to_owned(),
            container: None,
            host: host.map(|(name, _)| name),
            server,
            entry_seen: None,
            argv: MaskedArgv::mask(&process::command_line(leader.pid)),
            labels: Labels::default(),
            generation: 0,
            instance: Instance::default(),
            leader,
            owner: owner.map_or(leader, |owner| owner.id),
            stdin: None,
            stderr: None,
            machine,
            grace: manners.grace.unwrap_or_default(),
            stdin_grace: manners.stdin_grace.unwrap_or_default(),
            on_pids: manners.on_pids.unwrap_or(policy::OnPids::Report),
            idle_after: None,
            resting: Resting::default(),
            stall: policy::STALL,
            asked: None,
            confine: Confine::No,
            container_place: None,
            container_remover: None,
            container_first: None,
            held: None,
            adopted: false,
            moving_from: None,
            started_at: SystemTime::now(),
            expires: None,
            warnings: vec![WARNING.to_owned()],
            ending: None,
        };
        Some((record, leaf))
    }
}

/// Whose server this is, if what the process was given agrees with where it is. The session is that of
/// the user who launched it: of the process, or of root, who may have launched it as somebody else.
fn identity(place: &Caller, pid: i32) -> Option<(u32, SessionId, Name)> {
    let environment = process::environment(pid);
    let given = |name: &str| environment.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    let session = SessionId::parse(given(SESSION_VARIABLE)?).ok()?;
    if given(SERVER_VARIABLE)? != place.leaf.as_str() {
        return None;
    }
    let server = Name::from_lossy(place.leaf.as_str().rsplit_once('.')?.0)?;
    let launched_by = |uid: &u32| SessionKey::new(*uid, &session) == place.key;
    let uid = [process::uids(pid).ok()?.1, 0].into_iter().find(launched_by)?;
    Some((uid, session, server))
}
