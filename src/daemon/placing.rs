//! The driver's side of a launch that is granted: a leaf is made and proved off the driver, and the reply lets the launcher
//! exec.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use tokio::sync::oneshot;

use super::adopting::{self, Moving};
use super::containers::{Left, Newcomer, Room};
use super::driver::Driver;
use super::launching::{LaunchRequest, Plan};
use super::message::{Message, Peer};
use super::outside::may_monitor;
use super::parking::{Nap, resting, spans};
use super::stdin;
use super::table::{Pending, Server, Session, Stock};
use super::watch::Source;
use crate::backend::{self, AdmitError, Backend, Kin, Unplaced};
use crate::cgroup::{Admission, AdmitError as CgroupAdmitError, Leaf, Membership};
use crate::chain::chain;
use crate::client::LAUNCH_MAX;
use crate::confine::Confine;
use crate::container::ContainerPlace;
use crate::lifecycle::{Event, Idle, State, Terms, WEIGHING, WEIGHING_OF_UNITS};
use crate::limits::Limits;
use crate::naming::LeafName;
use crate::occurrence::What;
use crate::outcome::Exit;
use crate::policy::{Grant, Member, Refusal, may_be_moved};
use crate::records::{Asked, Record};
use crate::session::ProcessId;
use crate::sys::crash;
use crate::timestamp::Timestamp;
use crate::wire::{Fault, Launched};

/// How long placing may take before the launcher is refused: that is to reach it while it still listens.
const PLACE_MAX: Duration = LAUNCH_MAX.saturating_sub(Duration::from_secs(5));

/// How many launchers are placed at a time. Each may wait for a manager, on a thread that the ends of others need.
pub(super) const PLACEMENTS: usize = 64;

/// How many trees are moved at a time. Each may take a minute, and those who wait for one hold no place of a launcher.
pub(super) const MOVES: usize = 2;

/// What is no errno any more (`MAX_ERRNO` of the kernel's include/linux/err.h).
const ERRNO_MAX: i32 = 4096;

/// How much is told of a command that cannot be executed, in characters.
const COMMAND_MAX: usize = 200;

/// Memory stays charged to the cgroup that it was taken in (admin-guide/cgroup-v2 of the kernel, "Memory Ownership"), and v1
/// moves it no more.
const ELSEWHERE: &str = "the memory that it had when it was adopted stays charged to where it stood: what is shown of its \
                         memory, and its limit, count what it has taken since";

/// What came of placing.
#[derive(Debug)]
pub(super) enum Admitted {
    /// And where the container of its command is to be, where that makes one.
    Placed(Box<Leaf>, Option<ContainerPlace>),
    Failed(Unplaced),
    /// The record of the launch could not be written, so nothing was made.
    Unrecorded(String),
}

/// What was not moved of a tree that was adopted: the reason follows.
pub(super) const ADOPTED_IN_PART: &str = "it was not adopted as a whole";

/// What the operator and the user should know of a server that is placed.
pub(super) fn warnings(grant: &Grant, runs_already: bool) -> Vec<String> {
    let unconfined = runs_already && grant.confine > Confine::No;
    let told = unconfined.then(|| "it is not confined, as what runs already cannot be: launch it again".to_owned());
    grant.warnings.iter().cloned().chain(told).chain(runs_already.then(|| ELSEWHERE.to_owned())).collect()
}

/// Who is to be placed where.
struct Placement {
    number: u64,
    process: ProcessId,
    pidfd: Arc<OwnedFd>,
    leaf: LeafName,
    /// What moves with it.
    moving: Option<Arc<Moving>>,
    /// What its container wants.
    room: Option<Room>,
}

impl Driver {
    pub(super) fn place(
        &mut self,
        request: LaunchRequest,
        plan: Plan,
        owner: Option<u64>,
        reply: oneshot::Sender<Result<Launched, Fault>>,
    ) {
        // What is over ends before anybody joins it.
        self.expire();
        let (generation, is_first) = self.generation(&plan.key, request.inside.as_ref());
        let number = self.table.number();
        let leaf_name = LeafName::new(&request.wish.server, number);
        let (container, room) = self.container_of(&request, &plan);
        let (remover, monitored) = (self.remover_of(&request), may_monitor(&request).then(Vec::new));
        let (pidfd, stdin) = (Arc::new(request.pidfd), request.stdin.filter(|fd| stdin::can_be_watched(fd)));
        let resting = resting(&plan.grant);
        let server = Server {
            key: plan.key.clone(),
            leaf_name: leaf_name.clone(),
            name: request.wish.server.clone(),
            host: plan.host.clone(),
            entry: self.entry(&plan, &request.wish),
            argv: request.wish.argv.clone(),
            instance: plan.instance.clone(),
            labels: request.wish.labels.clone(),
            relabelled: false,
            generation,
            state: State::Placing { doomed: None },
            terms: self.terms(plan.grant.grace, plan.grant.stdin_grace),
            on_pids: plan.grant.on_pids,
            idle: Idle::begin(spans(&resting, plan.grant.idle_after.at()), self.now()),
            resting,
            nap: Nap::default(),
            stall: plan.grant.stall,
            watchdog: None,
            asked: Some(Asked { limits: request.wish.limits, grace: request.wish.grace }),
            confine: if request.moving.is_some() { Confine::No } else { plan.grant.confine },
            held: None,
            container,
            remover,
            monitored,
            adopted: request.moving.is_some(),
            settings: self.reloads.generation,
            leader: request.launcher,
            leader_pidfd: Some(pidfd.clone()),
            exit: None,
            owner: plan.owner,
            stdin,
            stderr: request.stderr,
            leaf: None,
            started_at: Timestamp::of(SystemTime::now()),
            ending_since: None,
            warnings: warnings(&plan.grant, request.moving.is_some()),
            escaped: false,
            escapees_told: false,
            memory_kill_told: false,
            pids_told: 0,
            launch: Some(Pending {
                reply,
                uncontained: request.wish.uncontained,
                asked_at: request.asked_at,
                moves_in: request.moving.is_some(),
            }),
            jobs: Default::default(),
            busy: false,
            stock: Stock::default(),
        };
        self.table.sessions.entry(plan.key.clone()).or_insert_with(|| Session {
            id: plan.name.id.clone(),
            uid: plan.uid,
            container: plan.container.clone(),
            named_by: plan.name.named_by,
            host: plan.host.clone(),
            servers: Vec::new(),
            expires: None,
            machines: Vec::new(),
        });
        self.begin_time(&plan.key, plan.grant.ttl, is_first);
        if let Some(session) = self.table.sessions.get_mut(&plan.key) {
            session.servers.push(number);
        }
        if let Some(owner) = owner.and_then(|owner| self.table.owners.get_mut(&owner)) {
            owner.servers.insert(number);
        }
        let from = Membership::of(request.launcher.pid);
        let below = request.container.as_ref().filter(|_| request.is_below);
        // Below its container it leaves nothing that holds it.
        let held = |from| if below.is_some() { Limits::default() } else { self.backend.held(from, &plan.key) };
        let server = Server { held: from.as_ref().ok().map(held), ..server };
        let moving_from = from.as_ref().ok().filter(|_| request.moving.is_some()).cloned();
        let machine = from
            .map_err(|_| AdmitError::from(CgroupAdmitError::LauncherGone))
            .and_then(|from| self.backend.machine_paths(&from, below));
        let record = machine.as_ref().ok().and_then(|machine| self.record(&server, machine.clone()));
        let record = record.map(|record| Record { moving_from, ..record });
        if let (Ok(machine), Some(session)) = (machine, self.table.sessions.get_mut(&plan.key)) {
            // From here on its directories may be made, whatever becomes of the launch.
            if !session.machines.contains(&machine) {
                session.machines.push(machine);
            }
        }
        self.table.servers.insert(number, server);
        if let Err(error) = self.watcher.watch(&*pidfd, Source::Leader(number)) {
            tracing::warn!(%error, "the launcher cannot be watched");
        }
        let moving = request.moving;
        let placement = Placement { number, process: request.launcher, pidfd, leaf: leaf_name, moving, room };
        self.admit(placement, &plan, record);
    }

    pub(super) fn terms(&self, grace: Duration, stdin_grace: Duration) -> Terms {
        let weighing = match &*self.backend {
            Backend::Cgroupfs(_) => WEIGHING,
            Backend::Systemd(_) => WEIGHING_OF_UNITS,
        };
        Terms { grace, stdin_grace, weighing }
    }

    /// Starts the blocking part: the record first, so that whatever dies from here on is found again.
    fn admit(&mut self, placement: Placement, plan: &Plan, record: Option<Record>) {
        let Placement { number, process, pidfd, leaf, moving, room } = placement;
        let (backend, records, outbox) = (self.backend.clone(), self.records.clone(), self.outbox.clone());
        let (key, grant, allow_leave) = (plan.key.clone(), plan.grant.clone(), self.settings.allow_leave.clone());
        let machine = self.reloads.of_machine(grant.machine);
        let move_processes = self.settings.move_processes;
        let moves = moving.is_some().then(|| self.moves.clone());
        let moving = moving.map(|moving| (moving, self.settings.clone()));
        let work = move || {
            let Some(record) = record else {
                return Admitted::Failed(CgroupAdmitError::LauncherGone.into());
            };
            if let Err(error) = records.write(&record) {
                return Admitted::Unrecorded(chain(&error));
            }
            let wanted = Admission {
                pid: process.pid,
                pidfd: std::os::fd::AsFd::as_fd(&*pidfd),
                key: &key,
                leaf: &leaf,
                paths: &record.machine,
                machine,
                session: grant.session,
                server: grant.server,
                move_processes,
                allow_leave: &allow_leave,
                owner: record.owner,
                until: record.expires.map(|expiry| expiry.at + record.grace),
            };
            let placed = match moving {
                None => backend.admit(&wanted),
                Some((moving, settings)) => {
                    let may = |member: &Member| may_be_moved(&settings, &moving.by, member);
                    backend.admit_tree(&wanted, &Kin { leader: process, known: &moving.known, may: &may })
                }
            };
            match placed {
                Ok(leaf) => match room {
                    Some(room) => {
                        let (pid, pidfd) = (process.pid, std::os::fd::AsFd::as_fd(&*pidfd));
                        let (leaf, place) =
                            room.make(&backend, leaf, &Newcomer { key: &key, pid, pidfd, limits: grant.server });
                        Admitted::Placed(Box::new(leaf), Some(place))
                    }
                    None => Admitted::Placed(Box::new(leaf), record.container_place),
                },
                Err(unplaced) => Admitted::Failed(unplaced),
            }
        };
        let (placements, place_max) = (self.placements.clone(), PLACE_MAX.saturating_sub(plan.waited));
        tokio::spawn(async move {
            let work = async {
                let _move = match moves {
                    Some(moves) => moves.acquire_owned().await.ok(),
                    None => None,
                };
                let _turn = placements.acquire_owned().await;
                tokio::task::spawn_blocking(work).await
            };
            let mut work = std::pin::pin!(work);
            let outcome = tokio::select! {
                outcome = &mut work => outcome,
                () = tokio::time::sleep(place_max) => {
                    let _ = outbox.send(Message::Overdue(number)).await;
                    work.await
                }
            };
            if let Ok(outcome) = outcome {
                let _ = outbox.send(Message::Admitted(number, Box::new(outcome))).await;
            }
        });
    }

    /// Placing goes on for as long as each of its steps may, and the launcher does not wait for that: it is told before it
    /// gives up by itself. Where it is placed after all, its exit ends it.
    pub(super) fn overdue(&mut self, number: u64) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        // A tree that is moved ends nowhere for taking its time; whoever asked for it waits or does not.
        let Some(pending) = server.launch.take_if(|pending| !pending.moves_in) else { return };
        let Some(about) = self.about(number) else { return };
        let refusal = Refusal {
            reason: format!("it was not placed within {} s of its launch", PLACE_MAX.as_secs()),
            remedy: "see whether the service manager and the kernel answer, and launch it again".to_owned(),
        };
        // It may be placed at any moment from now on: it must not run without containment until then.
        let fault = self.refuse(false, about, refusal);
        let _ = pending.reply.send(Err(fault));
    }

    /// The launcher is in its leaf, or is not.
    pub(super) fn admitted(&mut self, number: u64, outcome: Admitted) {
        let settings = self.table.servers.get(&number).map(|server| server.settings);
        match outcome {
            Admitted::Placed(leaf, container) => {
                if let Some(server) = self.table.servers.get_mut(&number) {
                    server.container = container;
                    let outside = matches!(container, Some(ContainerPlace::Outside { .. }));
                    server.monitored = server.monitored.take().filter(|_| outside);
                }
                self.placed(number, *leaf);
            }
            Admitted::Failed(Unplaced { error, left }) => {
                self.not_placed(number, backend::refusal(&error), left);
            }
            Admitted::Unrecorded(reason) => {
                let remedy = "make room in the daemon's runtime directory, and make it writable".to_owned();
                self.not_placed(number, Refusal { reason, remedy }, None);
            }
        }
        settings.into_iter().for_each(|settings| self.decided_under(settings));
    }

    fn placed(&mut self, number: u64, leaf: Leaf) {
        let leaf = Arc::new(leaf);
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        server.leaf = Some(leaf.clone());
        self.watch_leaf(number, &leaf);
        self.follow_container(number);
        self.keep_held(number);
        self.leave_earlier_leaves(number);
        self.feed(number, Event::Placed);
        self.moved(number);
        self.replace_older(number);
        self.record_entry(number);
        self.record_labels(number);
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        let Some(Pending { reply, asked_at, moves_in, .. }) = server.launch.take() else { return };
        if server.state != State::Running {
            let cause = server.state.cause().map_or_else(String::new, |cause| format!(": {cause}"));
            let fault = Fault::Refused {
                reason: format!("the server was ended before it started{cause}"),
                remedy: "launch it again".into(),
                uncontained: false,
            };
            let _ = reply.send(Err(fault));
            return;
        }
        let Some(session) = self.table.sessions.get(&server.key) else { return };
        let group = leaf.group().paths();
        let companions = [("memory", group.memory.is_some()), ("pids", group.pids.is_some())];
        let launched = Launched {
            session: session.id.clone(),
            server: server.name.clone(),
            key: server.key.as_str().to_owned(),
            leaf: server.leaf_name.as_str().to_owned(),
            cgroup: group.v2.display().to_string(),
            companions: companions.iter().filter(|(_, there)| *there).map(|(name, _)| (*name).to_owned()).collect(),
            confine: server.confine,
            container: server.container,
            container_removed: server.remover.is_some(),
            container_monitored: server.monitored.is_some(),
            container_parent: (server.container == Some(ContainerPlace::Inside)).then(|| leaf.container_parent()),
            warnings: server.warnings.clone(),
        };
        let (pid, warnings) = (server.leader.pid, launched.warnings.clone());
        if moves_in {
            self.occurred(number, What::MovedIn { pid, warnings });
        } else {
            self.counts.launches += 1;
            self.occurred(number, What::Launched { pid, launch_seconds: asked_at.elapsed().as_secs_f64(), warnings });
        }
        tracing::debug!(session = %launched.session, server = %launched.server, leaf = launched.leaf, "launched");
        crash::step("before the reply");
        // That the launcher is gone meanwhile is told by its pidfd.
        let _ = reply.send(Ok(launched));
    }

    /// The launcher says that it cannot become the server. Its exit, a moment later, ends what was made for it.
    pub(super) fn not_executed(&mut self, peer: Peer, errno: i32) -> bool {
        let leads = |server: &Server| server.leader.pid == peer.pid && !server.leader_is_gone();
        let Some(number) = self.table.servers.iter().rev().find(|(_, server)| leads(server)).map(|(number, _)| *number)
        else {
            return false;
        };
        let Some(server) = self.table.servers.get_mut(&number) else { return false };
        let uid = self.table.sessions.get(&server.key).map(|session| session.uid);
        // A server can say it, too, whatever it became. Once is enough, and what the kernel tells of its exit counts more.
        if uid != Some(peer.uid) || server.adopted || server.exit.is_some() || !(1..ERRNO_MAX).contains(&errno) {
            return false;
        }
        server.exit = Some(Exit::NotExecuted(errno));
        let command: String =
            server.argv.words().first().into_iter().flat_map(|word| word.chars()).take(COMMAND_MAX).collect();
        let reason = Errno::from_raw(errno).desc().to_owned();
        self.occurred(number, What::NotExecuted { command, reason });
        true
    }

    /// A process that is launched anew leads another leaf now: what it left in the earlier one has no leader. So does a
    /// server that executes `pinfold run` itself, and a launcher that asks again because the daemon died before the reply.
    fn leave_earlier_leaves(&mut self, number: u64) {
        let Some(leader) = self.table.servers.get(&number).map(|server| server.leader) else { return };
        let others = self.table.servers.iter().filter(|(other, server)| **other != number && server.leader == leader);
        let mut left: Vec<u64> = others.map(|(other, _)| *other).collect();
        left.retain(|other| {
            let pidfd = self.table.servers.get_mut(other).and_then(|server| server.leader_pidfd.take());
            pidfd.as_ref().inspect(|pidfd| self.watcher.forget(&***pidfd)).is_some()
        });
        for other in left {
            self.feed(other, Event::LeaderExited);
        }
    }

    /// Watches what a leaf can tell: an unwatched fact is noticed at the next one, so a failure here ends nothing.
    pub(super) fn watch_leaf(&mut self, number: u64, leaf: &Leaf) {
        let group = leaf.group();
        let mut failures = Vec::new();
        let mut watch = |directory: &crate::cgroup::Cgroup, file: &str| {
            if directory.has(file) {
                failures.extend(self.watcher.watch_file(directory, file, number).err());
            }
        };
        watch(group.v2(), "cgroup.events");
        watch(group.v2(), "memory.events");
        // One that is polled is worth no watch, which keeps the file in the kernel's memory.
        if !group.pids_are_polled() {
            watch(group.pids_events(), "pids.events");
        }
        if let Some(annex) = leaf.annex() {
            watch(annex.group.v2(), "cgroup.events");
            watch(annex.group.v2(), "memory.events");
        }
        if let Some(eventfd) = group.oom_eventfd() {
            failures.extend(self.watcher.watch(eventfd, Source::Oom(number)).err());
        }
        if let Some(stdin) = self.table.servers.get(&number).and_then(|server| server.stdin.as_ref()) {
            failures.extend(self.watcher.watch(stdin, Source::Stdin(number)).err());
        }
        for error in failures {
            tracing::warn!(leaf = leaf.name().as_str(), %error, "a fact of this leaf cannot be watched");
        }
        self.watch_highs(leaf);
        self.poll(number, leaf);
    }

    /// A tree that was not moved as a whole stands where it stood, and the server is forgotten. Where some of it could not go
    /// back, that stays contained as what it is: nothing is ended because it could not be adopted.
    fn not_moved(&mut self, number: u64, pending: Pending, refusal: Refusal, left: Option<Box<Leaf>>) {
        let Refusal { mut reason, remedy } = refusal;
        if let Some(leaf) = left {
            let stays = format!("and some of it could not go back: that is in the leaf {} now", leaf.name().as_str());
            if let Some(server) = self.table.servers.get_mut(&number) {
                server.warnings.push(format!("{ADOPTED_IN_PART}: {reason}"));
            }
            reason = format!("{reason}, {stays}");
            self.placed(number, *leaf);
        } else {
            self.forget_unplaced(number);
        }
        tracing::warn!(%reason, "not adopted");
        let _ = pending.reply.send(Err(adopting::fault(Refusal { reason, remedy })));
    }

    /// Nothing was made for it, or is left of that.
    fn forget_unplaced(&mut self, number: u64) {
        let Some((server, gone)) = self.table.remove(number) else { return };
        self.watcher.forget_files(number);
        self.forget_highs();
        // It may have been the last of a session whose other servers ended meanwhile.
        let leaf = Left::of(&server);
        self.clean_up(server.key, leaf, gone.session, (number, None));
    }

    /// What was made was taken back, and the server is forgotten; or its launcher is still in the leaf, which goes when
    /// that has printed its reason and is gone.
    fn not_placed(&mut self, number: u64, refusal: Refusal, left: Option<Box<Leaf>>) {
        let Some(about) = self.about(number) else { return };
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        if let Some(pending) = server.launch.take_if(|pending| pending.moves_in) {
            return self.not_moved(number, pending, refusal, left);
        }
        let pending = server.launch.take();
        if let Some(leaf) = left {
            let leaf = Arc::new(*leaf);
            server.leaf = Some(leaf.clone());
            self.watch_leaf(number, &leaf);
            self.feed(number, Event::PlacementFailed);
        } else {
            self.forget_unplaced(number);
        }
        let Some(pending) = pending else { return };
        let fault = self.refuse(pending.uncontained, about, refusal);
        let _ = pending.reply.send(Err(fault));
    }
}
