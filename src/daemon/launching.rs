//! The driver's side of a launch until it is decided: who asks, which session it is, and whether policy grants it. What is
//! granted is placed by [`super::placing`].

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::admission::Denial;
use super::adopting::Moving;
use super::aside::Foreign;
use super::chronicle::About;
use super::driver::Driver;
use super::log::LINES;
use super::message::Peer;
use super::table::{Owner, Session};
use super::watch::Source;
use crate::cgroup::Caller;
use crate::confine::Confine;
use crate::naming::SessionKey;
use crate::occurrence::What;
use crate::policy::{
    self, Decision, Grant, Newcomer, Offers, Refusal, Request, SessionName, SessionNaming, Source as LaunchSource,
};
use crate::process::{self, Ancestor};
use crate::realm::{Container, Realm};
use crate::records::Instance;
use crate::session::{Name, ProcessId};
use crate::sys::crash;
use crate::wire::{Fault, Launch, Launched};

/// A launch, and what the kernel told about who asks for it.
#[derive(Debug)]
pub(super) struct LaunchRequest {
    pub(super) peer: Peer,
    pub(super) wish: Launch,
    pub(super) launcher: ProcessId,
    pub(super) pidfd: OwnedFd,
    pub(super) stdin: Option<Foreign>,
    pub(super) stderr: Option<Foreign>,
    /// The processes above the launcher, nearest first.
    pub(super) ancestors: Vec<Ancestor>,
    pub(super) environment: Vec<(String, String)>,
    /// The container that it is in.
    pub(super) container: Option<Container>,
    /// Its leaf is made below that.
    pub(super) is_below: bool,
    /// The leaf that the launcher already is in.
    pub(super) inside: Option<Caller>,
    /// When it asked.
    pub(super) asked_at: Instant,
    /// It is no launcher, but runs already: what moves with it.
    pub(super) moving: Option<Arc<Moving>>,
}

/// What was decided about a launch, before anything was made for it.
pub(super) struct Plan {
    pub(super) key: SessionKey,
    pub(super) name: SessionName,
    pub(super) uid: u32,
    /// The container whose session it is.
    pub(super) container: Option<Container>,
    pub(super) host: Option<Name>,
    pub(super) owner: ProcessId,
    /// What the owner's program is called.
    program: String,
    pub(super) grant: Box<Grant>,
    pub(super) instance: Instance,
    /// How long the launch has waited for its turn.
    pub(super) waited: Duration,
}

impl Plan {
    /// Who launches what, for how often that may be.
    pub(super) fn source(&self, request: &LaunchRequest) -> LaunchSource {
        let kind = self.host.as_ref().map_or_else(|| self.program.clone(), ToString::to_string);
        let in_container = self.container.is_some();
        LaunchSource { uid: self.uid, in_container, owner: self.owner, kind, server: request.wish.server.clone() }
    }
}

impl Driver {
    pub(super) fn launch(&mut self, request: LaunchRequest, reply: oneshot::Sender<Result<Launched, Fault>>) {
        match self.plan(&request) {
            Ok(plan) => self.take_turn(request, plan, reply),
            Err(denial) => self.turn_away(&request, denial, reply),
        }
    }

    /// Its turn has come.
    pub(super) fn go_ahead(
        &mut self,
        request: LaunchRequest,
        plan: Plan,
        reply: oneshot::Sender<Result<Launched, Fault>>,
    ) {
        match self.owner(&plan, request.launcher) {
            Ok(owner) => self.place(request, plan, owner, reply),
            Err(refusal) => self.turn_away(&request, refusal.into(), reply),
        }
    }

    /// Refuses a launch for which nothing was made.
    pub(super) fn turn_away(
        &mut self,
        request: &LaunchRequest,
        Denial { refusal, lasting }: Denial,
        reply: oneshot::Sender<Result<Launched, Fault>>,
    ) {
        let wish = &request.wish;
        let about = About {
            uid: request.peer.uid,
            realm: request.peer.realm,
            session: wish.session.clone(),
            key: wish.session.as_ref().map(|id| SessionKey::of(request.peer.uid, id, request.peer.realm)),
            host: wish.host.clone(),
            server: wish.server.clone(),
            leaf: None,
        };
        let fault = self.refuse(wish.uncontained && !lasting, about, refusal);
        let _ = reply.send(Err(fault));
    }

    /// Counts and tells a refusal.
    pub(super) fn refuse(&mut self, would_run_uncontained: bool, about: About, refusal: Refusal) -> Fault {
        let uncontained = would_run_uncontained && self.settings.uncontained == policy::Uncontained::Allow;
        self.counts.refusals += 1;
        self.counts.uncontained += u64::from(uncontained);
        tracing::warn!(target: LINES, server = %about.server, uncontained, "launch refused: {refusal}");
        self.occurred_to(about, What::Refused { reason: refusal.reason.clone(), uncontained });
        Fault::Refused { reason: refusal.reason, remedy: refusal.remedy, uncontained }
    }

    pub(super) fn plan(&self, request: &LaunchRequest) -> Result<Plan, Denial> {
        // Below a container the names of directories prove nothing: the session has to be that container's.
        let is_its = |caller: &Caller, session: &Session| {
            caller.below == Realm::Host || (caller.below == session.realm() && caller.below == request.peer.realm)
        };
        let inside = request
            .inside
            .as_ref()
            .and_then(|caller| self.table.sessions.get(&caller.key).filter(|session| is_its(caller, session)));
        if request.inside.is_some() && inside.is_none() {
            return Err(Refusal {
                reason: "this comes from inside a session that this daemon does not hold".into(),
                remedy: "launch it from outside".into(),
            }
            .into());
        }
        let facts: Vec<_> = request.ancestors.iter().map(|ancestor| ancestor.facts.clone()).collect();
        let recognised = policy::recognise_host(&self.settings, &facts);
        let owner = match (&recognised, request.inside.is_some()) {
            // From inside a leaf the host is outside it, and owns the whole session already.
            (Some((_, index)), false) => request.ancestors.get(*index),
            _ => request.ancestors.first(),
        };
        let program = owner.map_or_else(String::new, |owner| owner.facts.comm.clone());
        // The first process of a container launches itself.
        let owner = owner.map_or(request.launcher, |owner| owner.id);
        let host = request.wish.host.clone().or(recognised.map(|(name, _)| name));
        let caller = policy::Caller {
            explicit: request.wish.session.as_ref(),
            environment: &request.environment,
            host: host.as_ref(),
            owner,
            launcher: request.launcher,
            inside: inside.map(|session| &session.id),
        };
        let name = match policy::name_session(&self.settings, &caller) {
            SessionNaming::Named(name) => name,
            SessionNaming::Refused(refusal) => return Err(refusal.into()),
        };
        let uid = inside.map_or(request.peer.uid, |session| session.uid);
        let container = inside.map_or_else(|| request.container.clone(), |session| session.container.clone());
        let realm = Container::realm_of(container.as_ref());
        let key = SessionKey::of(uid, &name.id, realm);
        let known = self.table.sessions.get(&key);
        if known.is_some_and(|session| session.id != name.id || session.uid != uid || session.realm() != realm) {
            return Err(Refusal {
                reason: format!("the key {} of this session belongs to another one", key.as_str()),
                remedy: "choose another session id".into(),
            }
            .into());
        }
        let reader = (request.peer.uid, request.peer.realm);
        let newcomer = Newcomer { uid, realm, reader, host: host.as_ref(), session_is_known: known.is_some() };
        self.has_room(&newcomer, request.launcher).map_err(Denial::lasting)?;
        self.has_descriptors(request.pidfd.as_raw_fd()).map_err(Denial::lasting)?;
        let below = request.container.as_ref().filter(|_| request.is_below);
        let offers = below.map(|container| self.backend.offers_below(container, self.settings.move_processes));
        let offers = offers.map(|offers| Offers { park: self.offers.park.clone(), ..offers });
        let asked = Request {
            host: host.as_ref(),
            session: &name.id,
            server: &request.wish.server,
            wishes: &request.wish.limits,
            grace: request.wish.grace.map(|grace| grace.duration()),
            confine: request.wish.confine.unwrap_or_default().max(self.confine_of(request.inside.as_ref())),
            offered: offers.as_ref().unwrap_or(&self.offers),
        };
        let grant = match policy::decide(&self.settings, &asked) {
            Decision::Granted(grant) => grant,
            Decision::Refused(refusal) => return Err(refusal.into()),
        };
        let instance = self.instance(request, &key, &name, &grant).map_err(Denial::lasting)?;
        Ok(Plan { key, name, uid, container, host, owner, program, grant, instance, waited: Duration::ZERO })
    }

    /// How whoever launches from inside a leaf is confined.
    fn confine_of(&self, inside: Option<&Caller>) -> Confine {
        let Some(caller) = inside else { return Confine::No };
        let holder =
            self.table.servers.values().find(|server| server.key == caller.key && server.leaf_name == caller.leaf);
        holder.map_or(Confine::No, |server| server.confine)
    }

    /// The number of the owner's watch. What owns itself, because nobody else does, has none: its own exit is told as that.
    pub(super) fn owner(&mut self, plan: &Plan, launcher: ProcessId) -> Result<Option<u64>, Refusal> {
        if plan.owner == launcher { Ok(None) } else { self.hold_owner(plan.owner).map(Some) }
    }

    /// The number of the owner's watch: one pidfd for all servers of one owner.
    fn hold_owner(&mut self, id: ProcessId) -> Result<u64, Refusal> {
        let lost = |what: String| Refusal { reason: what, remedy: "launch it again".into() };
        if let Some((watch, owner)) = self.table.owners.iter().find(|(_, owner)| owner.id == id) {
            let gone = crate::cgroup::has_exited(std::os::fd::AsFd::as_fd(&owner.pidfd));
            return if gone { Err(lost(format!("its owner, process {}, is gone", id.pid))) } else { Ok(*watch) };
        }
        let pidfd = process::hold(id).ok_or_else(|| lost(format!("its owner, process {}, is gone", id.pid)))?;
        let watch = self.table.number();
        self.watcher
            .watch(&pidfd, Source::Owner(watch))
            .map_err(|error| lost(format!("its owner, process {}, cannot be watched: {error}", id.pid)))?;
        self.table.owners.insert(watch, Owner { id, pidfd, servers: BTreeSet::new() });
        crash::step("the owner is watched");
        Ok(watch)
    }
}
