//! The one task that owns the table of sessions: it feeds facts to [`crate::lifecycle`] and carries out the actions.
//!
//! Others send it messages and get copies. What takes the kernel long is done by [`super::jobs`];
//! what it reads itself are small files of cgroupfs and proc.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};

use super::alive::Alive;
use super::chronicle::Chronicle;
use super::containers::Engines;
use super::escapes::Escapees;
use super::expiry::Alarm;
use super::fair::FairTurns;
use super::held;
use super::historian::Historian;
use super::jobs::Work;
use super::log::LINES;
use super::message::{Counts, Message};
use super::polling::Polls;
use super::publish;
use super::reload::Reloads;
use super::storms::Storms;
use super::table::{Job, Table};
use super::watch::{Source, Watcher};
use crate::backend::Backend;
use crate::cgroup::{Leaf, Membership, MemoryKill, has_exited};
use crate::config::Metrics;
use crate::lifecycle::{Action, Event, Moment, State, ThawReason};
use crate::metrics::Counters;
use crate::occurrence::What;
use crate::policy::{Configured, Offers, OnPids, Settings};
use crate::records::{Ending, Records};
use crate::systemd::Store;

/// When a v1 memory event is looked at again: it is told before the kernel has chosen what to kill.
const OOM_RECHECKS: [Duration; 5] = [
    Duration::from_millis(2),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
];

/// How long a daemon that was told to stop waits for what is half removed. What is not done then is swept by the next.
const STOP_MAX: Duration = Duration::from_secs(2);

/// The owner of all state.
pub(super) struct Driver {
    pub(super) settings: Settings,
    pub(super) offers: Offers,
    pub(super) backend: Arc<Backend>,
    pub(super) records: Arc<Records>,
    pub(super) boot_id: String,
    pub(super) watcher: Watcher,
    pub(super) table: Table,
    pub(super) counts: Counts,
    /// What happened.
    pub(super) chronicle: Chronicle,
    /// Keeps what ended.
    pub(super) historian: Historian,
    /// How often, for metrics.
    pub(super) counters: Counters,
    /// Tells the listener for metrics what the configuration says.
    pub(super) metrics: watch::Sender<Metrics>,
    /// Who launched how often, and what waits for its turn.
    pub(super) storms: Storms,
    pub(super) start: Instant,
    /// For the work it starts.
    pub(super) outbox: mpsc::Sender<Message>,
    /// What the configuration files of hosts say.
    pub(super) configured: Configured,
    /// Where what it holds outlives it.
    pub(super) store: Store,
    /// Rings when a session's time is over.
    pub(super) alarm: Alarm,
    /// Whom it tells that it turns.
    pub(super) alive: Alive,
    /// Leave when nothing was contained for so long.
    pub(super) idle_exit: Option<Duration>,
    /// Since when nothing is contained.
    pub(super) idle_since: Moment,
    /// When refused forks are looked for.
    pub(super) polls: Polls,
    /// Kills that begin when this turn is over.
    pub(super) kills: Vec<Work>,
    /// Servers whose last traces are being removed.
    pub(super) cleaning: usize,
    /// Turns for that.
    pub(super) removals: Arc<Semaphore>,
    /// Turns of those who ask container engines.
    pub(super) engines: Engines,
    /// Turns of what is placed.
    pub(super) placements: Arc<Semaphore>,
    /// Turns of trees that are moved.
    pub(super) moves: Arc<Semaphore>,
    /// Turns of what is read for being idle.
    pub(super) readers: FairTurns,
    /// Turns of what gives memory back.
    pub(super) reclaimers: FairTurns,
    /// The configuration file, and what is under way with it.
    pub(super) reloads: Reloads,
    /// Told to stop: then, or when nothing is half removed any more.
    pub(super) stop_by: Option<Moment>,
}

impl Driver {
    /// Runs until it is told to stop, or has been idle for long enough. Whatever it leaves for, it leaves nothing frozen.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) -> Self {
        // However long the start took: whoever started this daemon has had no chance to use it.
        self.idle_since = self.now();
        self.turn(&mut inbox).await;
        self.wake_all(ThawReason::Stopping);
        self
    }

    async fn turn(&mut self, inbox: &mut mpsc::Receiver<Message>) {
        self.begin_kills();
        loop {
            let wake = self.next_deadline();
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until((self.start + at).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = inbox.recv() => match message {
                    None => return,
                    Some(message) => self.receive(message),
                },
                spoke = self.watcher.next() => match spoke {
                    Ok(sources) => sources.into_iter().for_each(|source| self.notice(source)),
                    Err(error) => {
                        tracing::error!(%error, "cannot wait for the kernel; stopping, sessions live on");
                        return;
                    }
                },
                () = timer => self.tick(),
            }
            self.begin_kills();
            if self.stop_by.is_some_and(|latest| self.cleaning == 0 || latest <= self.now()) {
                return;
            }
            if self.is_idle_for_long() {
                tracing::info!("nothing is contained any more; leaving until somebody needs it");
                return;
            }
        }
    }

    pub(super) fn now(&self) -> Moment {
        self.start.elapsed()
    }

    fn is_idle_for_long(&mut self) -> bool {
        if !self.table.servers.is_empty() || self.storms.are_waited_for() {
            self.idle_since = self.now();
        }
        self.idle_exit.is_some_and(|limit| self.now().saturating_sub(self.idle_since) >= limit)
    }

    fn next_deadline(&mut self) -> Option<Moment> {
        let servers = self.table.servers.next_due();
        let waiters = self.table.waiters.iter().map(|waiter| waiter.deadline);
        let idle = self.idle_exit.filter(|_| self.table.servers.is_empty()).map(|limit| self.idle_since + limit);
        let turns = self.storms.next_turn();
        let poll = self.polls.next();
        waiters.chain(servers).chain(turns).chain(idle).chain(poll).chain(self.alive.next()).chain(self.stop_by).min()
    }

    fn tick(&mut self) {
        let now = self.now();
        self.alive.tell(now);
        self.take_turns();
        for number in self.table.servers.due(now) {
            let state = self.table.servers.get(&number).map(|server| server.state);
            if state.and_then(State::deadline).is_none_or(|deadline| deadline > now) {
                continue;
            }
            self.feed(number, Event::Tick);
            self.probe(number);
        }
        self.read_polled(now);
        self.read_idlers(now);
        self.read_pressure(now);
        let waiters = std::mem::take(&mut self.table.waiters);
        for waiter in waiters {
            if waiter.deadline > now { self.table.waiters.push(waiter) } else { self.answer(waiter) }
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Launch(request, reply) => self.launch(*request, reply),
            Message::Adopt(request, reply) => self.adopt_running(*request, reply),
            Message::Admitted(number, outcome) => self.admitted(number, *outcome),
            Message::Overdue(number) => self.overdue(number),
            Message::JobDone(number, job, done) => self.job_done(number, job, done),
            Message::Readings(readings) => self.weigh_idlers(readings),
            Message::Rested(number, order, outcome) => self.rested(number, &order, *outcome),
            Message::ThawAgain(number, order, reason) => self.thaw_again(number, &order, reason),
            Message::Thawed(thawed) => drop(self.occurred_to(thawed.0, thawed.1)),
            Message::LookAgain(number) => self.look(number),
            Message::RemovalFailed(number) => self.feed(number, Event::RemovalFailed),
            Message::Gone(number) => self.gone(number),
            Message::LetGo => self.cleaning = self.cleaning.saturating_sub(1),
            Message::Stopped(unit) => self.stopped(&unit),
            Message::End { peer, inside, wish, reply } => self.end(peer, inside.as_ref(), &wish, reply),
            Message::Park { peer, inside, wish, reply } => self.park(peer, inside.as_ref(), &wish, reply),
            Message::Thaw { peer, inside, wish, reply } => {
                let _ = reply.send(self.unpark(peer, inside.as_ref(), &wish));
            }
            Message::Label { peer, inside, holder, wish, reply } => {
                let _ = reply.send(self.label(peer, inside.as_ref(), holder.as_ref(), &wish));
            }
            Message::NotExecuted(peer, errno, reply) => {
                let _ = reply.send(self.not_executed(peer, errno));
            }
            Message::ContainerFound(number, first) => self.container_found(number, first),
            Message::Escaped(number, escapees) => self.escaped(number, &escapees),
            Message::List { peer, reply } => {
                let _ = reply.send(publish::entries(&self.table, Some(peer), &self.backend));
            }
            Message::Follow(reply) => {
                let _ = reply.send(self.chronicle.follow());
            }
            Message::Describe(reply) => {
                let _ = reply.send((self.counts, self.reloads.path.clone()));
            }
            Message::Facts(reply) => {
                let _ = reply.send(self.facts());
            }
            Message::Configured(of, configured) if of == self.reloads.generation => self.heed(configured),
            // It was on its way when other files were named.
            Message::Configured(..) => {}
            Message::Reload { force, reply } => self.reload(force, reply),
            Message::Loaded(loaded) => self.loaded(*loaded),
            Message::Applied(applied) => self.applied(*applied),
            Message::Stop => {
                self.wake_all(ThawReason::Stopping);
                self.stop_by = Some(self.now() + STOP_MAX);
            }
        }
    }

    /// The kernel spoke.
    fn notice(&mut self, source: Source) {
        match source {
            Source::Leader(number) => {
                // Whoever waits for it does so soon, and a kernel before 6.15 forgets it then.
                if let Some(server) = self.table.servers.get_mut(&number) {
                    server.exit = server.leader_exit();
                }
                self.feed(number, Event::LeaderExited);
                self.probe(number);
            }
            Source::Stdin(number) => self.stdin_spoke(number),
            Source::Owner(watch) => {
                let servers = self.table.owners.get(&watch).map(|owner| owner.servers.clone()).unwrap_or_default();
                for number in servers {
                    self.feed(number, Event::OwnerGone);
                }
            }
            Source::Events(number) => {
                self.look(number);
                self.press(number);
            }
            Source::Alarm => self.expire(),
            Source::Waiting(number) => self.give_up(number),
            Source::Oom(number) => {
                self.look(number);
                for pause in OOM_RECHECKS {
                    self.later(pause, Message::LookAgain(number));
                }
            }
        }
    }

    /// Only stopping makes a job for a scope that runs: systemd refuses to start it a second time.
    fn stopped(&mut self, unit: &str) {
        let stands_in = |leaf: &Leaf| leaf.scope() == Some(unit);
        let servers = self.table.servers.iter();
        let hit = servers.filter(|(_, server)| server.leaf.as_deref().is_some_and(stands_in));
        for number in hit.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.feed(number, Event::Stopped);
        }
    }

    /// Reads the counters of a leaf, and feeds what they say.
    pub(super) fn look(&mut self, number: u64) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        let Some(leaf) = server.leaf.clone() else { return };
        if let Some(kill) = leaf.memory_kill() {
            tracing::debug!(leaf = leaf.name().as_str(), level = %kill.level, kills = kill.kills, "the kernel killed");
            self.memory_killed(number, kill);
            self.feed(number, Event::MemoryKill { level: kill.level });
        }
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        let refusals = leaf.group().pids_refusals();
        if refusals > server.pids_told {
            let (first, ends) = (server.pids_told == 0, server.on_pids == OnPids::End);
            server.pids_told = refusals;
            let level = leaf.full_level();
            if first {
                let server = &server.name;
                tracing::warn!(target: LINES, %server, leaf = leaf.name().as_str(), %level, "a process limit is reached");
                self.occurred(number, What::PidsLimit { level });
            }
            if ends {
                self.feed(number, Event::PidsLimit { level });
            }
        }
        self.probe(number);
    }

    /// Tells that the kernel killed, once: what it kills after the first is the same end.
    fn memory_killed(&mut self, number: u64, MemoryKill { level, kills }: MemoryKill) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        if !std::mem::replace(&mut server.memory_kill_told, true) {
            self.occurred(number, What::MemoryKill { level, kills });
        }
    }

    /// Feeds one event, and all that follow from it at once.
    pub(super) fn feed(&mut self, number: u64, event: Event) {
        self.work_off(number, VecDeque::from([event]));
    }

    /// Goes on with an end that an earlier daemon began.
    pub(super) fn resume_end(&mut self, number: u64, Ending { cause, killing }: Ending) {
        let now = self.now();
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        let step = State::resume(cause, killing, now, &server.terms);
        server.state = step.state;
        tracing::info!(server = %server.name, leaf = server.leaf_name.as_str(), "its end goes on: {cause}");
        let mut queue = VecDeque::new();
        for action in step.actions {
            self.perform(number, action, &mut queue);
        }
        self.next_job(number);
        self.work_off(number, queue);
    }

    fn work_off(&mut self, number: u64, mut queue: VecDeque<Event>) {
        while let Some(event) = queue.pop_front() {
            let now = self.now();
            let Some(server) = self.table.servers.get_mut(&number) else { return };
            let before = server.state;
            let step = before.step(event, now, &server.terms);
            server.state = step.state;
            if step.state.cause().is_some() {
                server.ending_since.get_or_insert(now);
            }
            if step.state != before {
                tracing::debug!(leaf = server.leaf_name.as_str(), ?event, from = ?before, to = ?step.state, "step");
            }
            if step.state.cause().is_some() {
                // What is done for its end is done to a server that can act on it.
                self.wake(number, ThawReason::Ending);
            }
            for action in step.actions {
                self.perform(number, action, &mut queue);
            }
            self.next_job(number);
            if std::mem::discriminant(&step.state) != std::mem::discriminant(&before) && self.is_empty(number) {
                queue.push_back(Event::Emptied);
            }
        }
    }

    /// Feeds `Emptied` where the kernel says so and it matters.
    pub(super) fn probe(&mut self, number: u64) {
        if self.is_empty(number) {
            self.feed(number, Event::Emptied);
        }
    }

    fn is_empty(&self, number: u64) -> bool {
        let Some(server) = self.table.servers.get(&number) else { return false };
        match (&server.leaf, server.state) {
            (_, State::Placing { .. } | State::Removing { .. } | State::Ended { .. }) | (None, _) => false,
            // What cannot be read is not called empty.
            (Some(leaf), State::Running | State::Withdrawing { .. }) => {
                leaf.populated().is_ok_and(|populated| !populated)
            }
            // A leader that left its leaf is still the server: its end is not over before it is gone.
            (Some(leaf), _) => server.leader_is_gone() && leaf.populated().is_ok_and(|populated| !populated),
        }
    }

    fn perform(&mut self, number: u64, action: Action, queue: &mut VecDeque<Event>) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        match action {
            Action::ReadFacts => self.read_facts(number, queue),
            Action::ReleaseStdin => {
                if let Some(stdin) = server.stdin.take() {
                    self.watcher.forget(&stdin);
                    self.store.remove(&held::stdin(&server.leaf_name));
                }
            }
            Action::ReleaseStderr => {
                if let Some(stderr) = server.stderr.take() {
                    let leaf = server.leaf_name.clone();
                    self.remove_stderr(&leaf, Some(&stderr));
                }
            }
            Action::TakeStock => self.push_job(number, Job::TakeStock),
            Action::Terminate => self.push_job(number, Job::Terminate),
            Action::Kill => self.push_job(number, Job::Kill),
            Action::Remove => self.push_job(number, Job::Remove),
            Action::Tell => self.tell(number),
        }
    }

    fn read_facts(&mut self, number: u64, queue: &mut VecDeque<Event>) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        let leader_gone = server.leader_is_gone();
        if leader_gone {
            queue.push_back(Event::LeaderExited);
        }
        let owners = self.table.owners.values();
        if owners.filter(|owner| owner.servers.contains(&number)).any(|owner| has_exited(owner.pidfd.as_fd())) {
            queue.push_back(Event::OwnerGone);
        }
        if server.stdin.as_ref().is_some_and(|stdin| super::stdin::has_hung_up(stdin.as_fd())) {
            queue.push_back(Event::StdinClosed);
        }
        let Some(leaf) = &server.leaf else { return };
        let kill = leaf.memory_kill();
        if let Some(kill) = kill {
            queue.push_back(Event::MemoryKill { level: kill.level });
        }
        if leaf.oomd_kills() > 0 {
            queue.push_back(Event::OomdKill);
        }
        let outside = !leader_gone && Membership::of(server.leader.pid).is_ok_and(|place| !leaf.holds(&place));
        let leader = server.leader.pid;
        if let Some(kill) = kill {
            self.memory_killed(number, kill);
        }
        if outside {
            let pids = vec![leader];
            self.escaped(number, &Escapees { leader: true, pids });
        }
    }

    pub(super) fn later(&self, pause: Duration, message: Message) {
        let outbox = self.outbox.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = outbox.send(message).await;
        });
    }
}
