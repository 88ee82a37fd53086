//! A process that runs already is moved into a leaf of a session, with all that it has started: who may ask for it, whose
//! server it becomes, and who owns it. From then on it is a server like one that was launched.
//!
//! It has no launcher, so its stdin and stderr are taken from it, where that is allowed (pidfd_getfd(2)). It takes nobody's
//! turn and nobody's place: it runs already, and an order to contain it ends nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::process::PidfdGetfdFlags;
use tokio::sync::oneshot;

use super::aside::Foreign;
use super::driver::Driver;
use super::launching::{LaunchRequest, Plan};
use super::message::Peer;
use super::placing::ADOPTED_IN_PART;
use super::stdin;
use super::table::Server;
use crate::argv::{self, MaskedArgv};
use crate::backend::{Backend, MEMBERS_MAX};
use crate::cgroup::{Caller, Cgroup, Leaf, Membership, has_exited};
use crate::policy::{self, Adopter, Member, Refusal, may_be_moved};
use crate::process::{self, Family};
use crate::records::Record;
use crate::session::{ProcessId, SessionId};
use crate::wire::{Adopt, Adopted, Fault, Launch, Launched};

/// What moves with the process that was named.
#[derive(Debug)]
pub(super) struct Moving {
    pub(super) by: Adopter,
    /// Its tree when it was looked at first.
    pub(super) known: Vec<ProcessId>,
}

/// An order to adopt, and what the kernel told of the tree.
#[derive(Debug)]
pub(super) struct AdoptRequest {
    /// The launch that it is from here on.
    launch: LaunchRequest,
    /// Who asks.
    by: Peer,
    /// The leaf that this one stands in.
    by_inside: Option<Caller>,
    tree: Vec<Member>,
    stands: Stands,
}

/// Where the process that was named stands, as far as that is a reason to leave it there.
#[derive(Debug)]
enum Stands {
    Anywhere,
    /// In a leaf already.
    InLeaf(Caller),
    /// In a cgroup of threads, which it could not be given back to as it was.
    Threaded(String),
    /// It is the main process of this service.
    Service(String),
}

fn refused(reason: impl Into<String>, remedy: impl Into<String>) -> Refusal {
    Refusal { reason: reason.into(), remedy: remedy.into() }
}

fn gone(pid: i32) -> Refusal {
    refused(format!("process {pid} is not there, or has just exited"), "see `ps` for those that live")
}

/// The refusal as a reply: nothing was asked to run, so nothing runs without containment for it.
pub(super) fn fault(Refusal { reason, remedy }: Refusal) -> Fault {
    Fault::Refused { reason, remedy, uncontained: false }
}

/// Finds out what is to be moved. Reads all of `/proc`, and blocks for that.
pub(super) fn look(
    backend: &Backend,
    by: Peer,
    by_inside: Option<Caller>,
    wish: Adopt,
    sent: Option<OwnedFd>,
) -> Result<AdoptRequest, Refusal> {
    let asked_at = Instant::now();
    let pid = wish.pid;
    let leader = process::identify(pid).map_err(|_| gone(pid))?;
    let pidfd = match sent {
        Some(pidfd) if process::pid_of(pidfd.as_fd()).is_ok_and(|held| held == pid) => pidfd,
        Some(_) => return Err(gone(pid)),
        None => process::hold(leader).ok_or_else(|| gone(pid))?,
    };
    let (known, tree) = tree(leader)?;
    let from = Membership::of(pid).map_err(|_| gone(pid))?;
    let environment = process::environment(pid);
    let stands = stands(backend, pid, &from, &environment);
    let ancestors = process::ancestors(pid);
    let words = process::command_line(pid);
    // All that was read is about the process that is held.
    if has_exited(pidfd.as_fd()) || tree.first().is_none_or(|first| first.pid != pid) {
        return Err(gone(pid));
    }
    // Of somebody else's process nothing is taken, since its order is refused.
    let (stdin, stderr) =
        if by.uid == 0 || tree[0].uids == (by.uid, by.uid) { standards(&pidfd) } else { (None, None) };
    let line = std::iter::once(by.pid).chain(process::ancestors(by.pid).iter().map(|above| above.id.pid)).collect();
    // The session is that of the user whose process it is, also where root asks; of what changes its user it is root's.
    let (real, effective) = tree[0].uids;
    let uid = if real == effective { effective } else { 0 };
    let adopter = Adopter { uid: by.uid, session_uid: uid, line, daemon: std::process::id() as i32, named: pid };
    let launch = LaunchRequest {
        peer: Peer { uid, ..by },
        wish: as_launch(wish, &words),
        launcher: leader,
        pidfd,
        stdin,
        stderr,
        ancestors,
        environment,
        container: None,
        is_below: false,
        inside: None,
        asked_at,
        moving: Some(Arc::new(Moving { by: adopter, known })),
    };
    Ok(AdoptRequest { launch, by, by_inside, tree, stands })
}

/// The tree of a process: who is in it, and of those that live what is to be known of them.
fn tree(leader: ProcessId) -> Result<(Vec<ProcessId>, Vec<Member>), Refusal> {
    let family = Family::now().map_err(|error| refused(format!("cannot read /proc: {error}"), "mount it"))?;
    let Some(known) = family.tree(leader, MEMBERS_MAX) else {
        let many = format!("process {} has more than {MEMBERS_MAX} processes in its tree", leader.pid);
        return Err(refused(many, "adopt parts of it"));
    };
    // One that has exited meanwhile, or waits for its parent to notice, is nothing to move.
    let lives = |id: &ProcessId| process::hold(*id).is_some_and(|pidfd| !has_exited(pidfd.as_fd()));
    let members = known.iter().filter(|id| lives(id)).filter_map(|id| process::member(*id).ok()).collect();
    Ok((known, members))
}

/// What was asked for, as a launch of this command line would ask for it.
fn as_launch(wish: Adopt, words: &[String]) -> Launch {
    Launch {
        session: wish.session,
        named: wish.server.is_some(),
        server: wish.server.unwrap_or_else(|| argv::server_name(words)),
        host: None,
        argv: MaskedArgv::mask(words),
        command: None,
        labels: wish.labels,
        limits: wish.limits,
        grace: wish.grace,
        uncontained: false,
        confine: None,
        container: None,
        container_engine: None,
        container_monitor: false,
        stdin: None,
        stderr: None,
        pidfd: None,
    }
}

fn stands(backend: &Backend, pid: i32, from: &Membership, environment: &[(String, String)]) -> Stands {
    if let Some(caller) = backend.locate(from) {
        return Stands::InLeaf(caller);
    }
    let cgroup = from.v2.as_deref().unwrap_or_default();
    let directory = backend.layout().v2().directory(cgroup).and_then(|path| Cgroup::open(path).ok());
    let kind = directory.and_then(|directory| directory.read("cgroup.type").ok()).unwrap_or_default();
    if kind.contains("threaded") {
        return Stands::Threaded(cgroup.to_owned());
    }
    // systemd tells a service's main process its number, and whatever that starts finds it is not its own (systemd.exec(5)).
    let is_main = environment.iter().any(|(name, value)| name == "SYSTEMD_EXEC_PID" && *value == pid.to_string());
    let unit = cgroup.rsplit('/').find(|name| name.ends_with(".service") || name.ends_with(".scope"));
    match unit.filter(|unit| is_main && unit.ends_with(".service")) {
        Some(unit) => Stands::Service(unit.to_owned()),
        None => Stands::Anywhere,
    }
}

/// What is told of a tree that is in its leaf: how many the kernel has there now.
pub(super) fn told(pid: i32, launched: Launched) -> Adopted {
    let processes = Cgroup::open(&launched.cgroup).and_then(|leaf| leaf.all_processes());
    Adopted {
        pid,
        session: launched.session,
        server: launched.server,
        key: launched.key,
        leaf: launched.leaf,
        cgroup: launched.cgroup,
        processes: processes.map_or(0, |pids| u32::try_from(pids.len()).unwrap_or(u32::MAX)),
        warnings: launched.warnings,
    }
}

impl Driver {
    pub(super) fn adopt_running(&mut self, mut request: AdoptRequest, reply: oneshot::Sender<Result<Launched, Fault>>) {
        match self.plan_adoption(&mut request) {
            Ok((plan, owner)) => {
                self.place(request.launch, plan, owner, reply);
            }
            Err(refusal) => {
                tracing::info!(pid = request.launch.launcher.pid, uid = request.by.uid, "not adopted: {refusal}");
                let _ = reply.send(Err(fault(refusal)));
            }
        }
    }

    /// What it is as a launch, and the watch of its owner, if it has one.
    fn plan_adoption(&mut self, request: &mut AdoptRequest) -> Result<(Plan, Option<u64>), Refusal> {
        self.may_be_adopted(request)?;
        if let Some(session) = self.session_within_reach(request)? {
            request.launch.wish.session = Some(session);
        }
        let launch = &mut request.launch;
        let facts: Vec<_> = launch.ancestors.iter().map(|ancestor| ancestor.facts.clone()).collect();
        let is_of_host = policy::recognise_host(&self.settings, &facts).is_some();
        if !is_of_host && facts.first().is_none_or(policy::takes_in_orphans) {
            // Whoever started it is gone: it has no owner, and lives until it exits or is ended.
            launch.ancestors.clear();
        }
        let mut plan = self.plan(launch).map_err(|denial| denial.refusal)?;
        plan.instance.replaces_beyond = None;
        let owner = self.owner(&plan, launch.launcher).unwrap_or_else(|_| {
            // It has become an orphan meanwhile.
            plan.owner = launch.launcher;
            None
        });
        Ok((plan, owner))
    }

    /// A tree is in its leaf as a whole: from now on it stays there, whatever becomes of this daemon.
    pub(super) fn moved(&mut self, number: u64) {
        if self.table.servers.get(&number).is_some_and(|server| server.adopted) {
            self.record_again(number);
        }
    }

    /// An earlier daemon died while it moved a tree, and nobody was told that it is contained: what was moved goes back to
    /// where it stood. Gives the leaf where some of it cannot.
    pub(super) fn undo_move(&self, place: &Caller, record: &Record, leaf: Leaf) -> Option<Leaf> {
        let Some(from) = &record.moving_from else { return Some(leaf) };
        let (server, pid) = (&record.server, record.leader.pid);
        let left = self.backend.undo_move(place, leaf, from, record.leader);
        if left.is_none() {
            tracing::warn!(%server, pid, "a daemon died while it adopted a tree: all of that is where it stood before");
        }
        left
    }

    /// Some of a tree could not go back, and stays contained as what it is: no later daemon tries that again.
    pub(super) fn stays_moved(&mut self, number: u64) {
        if let Some(server) = self.table.servers.get_mut(&number) {
            server.warnings.push(format!("{ADOPTED_IN_PART}: the daemon died over it"));
        }
        self.moved(number);
    }

    fn may_be_adopted(&self, request: &AdoptRequest) -> Result<(), Refusal> {
        let pid = request.launch.launcher.pid;
        let Some(moving) = &request.launch.moving else { return Err(gone(pid)) };
        // First what is anybody's to know of the named process alone, and that it is the caller's own.
        may_be_moved(&self.settings, &moving.by, &request.tree[0])?;
        // Where it stood was read before, and somebody else's order may have come first.
        let on_its_way = |server: &Server| server.leader == request.launch.launcher && server.leaf.is_none();
        if self.table.servers.values().any(on_its_way) {
            let reason = format!("process {pid} is being moved into a leaf already");
            return Err(refused(reason, "`pinfold status --pid` shows it in a moment"));
        }
        match &request.stands {
            Stands::Anywhere => {}
            Stands::InLeaf(caller) => {
                let session = self.table.sessions.get(&caller.key);
                let session = session.map_or(caller.key.as_str().to_owned(), |session| session.id.to_string());
                let reason =
                    format!("process {pid} is in session {session} already, in the leaf {}", caller.leaf.as_str());
                return Err(refused(reason, "`pinfold status --pid` shows it"));
            }
            Stands::Threaded(cgroup) => {
                let reason =
                    format!("process {pid} stands in the cgroup {cgroup}, in which threads have cgroups of their own");
                return Err(refused(reason, "limit and stop it where it is"));
            }
            Stands::Service(unit) => {
                let reason = format!("process {pid} is the main process of {unit}, which systemd holds already");
                let remedy =
                    format!("use the unit's own limits and its stop (`systemctl set-property {unit} MemoryMax=512M`)");
                return Err(refused(reason, remedy));
            }
        }
        // What is in a leaf of ours stays there, but who leads it to one is looked at all the same: a host is none the less.
        request.tree.iter().try_for_each(|member| may_be_moved(&self.settings, &moving.by, member))
    }

    /// From inside a session its caller reaches that session only.
    fn session_within_reach(&self, request: &AdoptRequest) -> Result<Option<SessionId>, Refusal> {
        let Some(caller) = &request.by_inside else { return Ok(None) };
        let outside = "adopt it from outside";
        let Some(own) = self.table.sessions.get(&caller.key) else {
            return Err(refused("this comes from inside a session that this daemon does not hold", outside));
        };
        let wished = request.launch.wish.session.as_ref();
        if wished.is_some_and(|wished| *wished != own.id) || own.uid != request.launch.peer.uid {
            let reason = format!("from inside session {} a process can be adopted by that session only", own.id);
            return Err(refused(reason, outside));
        }
        Ok(Some(own.id.clone()))
    }
}

/// The stdin of a running process, where its hang-up is still to come and can be watched for, and its stderr. What is of no
/// use is closed aside.
fn standards(pidfd: &OwnedFd) -> (Option<Foreign>, Option<Foreign>) {
    let stdin = standard(pidfd, 0).filter(|fd| stdin::can_be_watched(fd) && !stdin::has_hung_up(fd.as_fd()));
    (stdin, standard(pidfd, 2))
}

/// A standard descriptor of a running process, where we may take it.
fn standard(pidfd: &OwnedFd, number: i32) -> Option<Foreign> {
    rustix::process::pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()).ok().map(Foreign::from)
}
