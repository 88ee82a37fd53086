//! The configuration is read anew, on SIGHUP or when somebody asks: what lives gets the limits and manners that a launch of
//! the same server would get now, as far as nothing ends for it unless that is forced.
//!
//! ```text
//!  order ─▶ file and hosts' files are read ─▶ the driver takes the settings over ─▶ limits are changed ─▶ answer
//!              (off the driver)               (launches get them from here on)      (off the driver)
//! ```
//!
//! One at a time, in order. From a file that is wrong nothing follows. A launch that was under way under the settings before
//! may set their limits once more; when it is placed, or is not, all of it is gone through again.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Options;
use super::driver::Driver;
use super::hostfiles::{self, HostFiles, Turns};
use super::message::Message;
use super::parking::{resting, spans};
use super::placing::{ADOPTED_IN_PART, warnings};
use super::table::{Entry, Server, Session};
use crate::backend::{Place, Told, Wanted, WantedLeaf, WantedSession};
use crate::chain::chain;
use crate::config::{Config, ConfigError};
use crate::lifecycle::{Idle, State, ThawReason};
use crate::limits::{LimitKey, Limits};
use crate::naming::SessionKey;
use crate::outcome::Level;
use crate::policy::{self, Grant, Lowering, Refusal, Request, Settings};
use crate::session::{Name, SessionId};
use crate::wire::{Fault, LimitChange, LimitKept, LimitPlace, ReloadReply};

/// Reloads that may wait for those before them.
const WAITING_MAX: usize = 16;

/// Limits that are told in the log one by one.
const LOGGED_MAX: usize = 50;

/// Who waits for a reload.
pub(super) type Asker = oneshot::Sender<Result<ReloadReply, Fault>>;

/// What is to be done about the settings.
enum Order {
    /// Read them anew.
    Reload { lowering: Lowering, asker: Option<Asker> },
    /// A launch may have set what the settings before said.
    Again,
}

/// What the driver knows of reloads.
#[derive(Default)]
pub(super) struct Reloads {
    /// The configuration file that is in use.
    pub(super) path: Option<PathBuf>,
    /// Where one is looked for while none is.
    usual: Option<PathBuf>,
    /// Whether the daemon leaves when it is not used.
    on_demand: bool,
    /// The keys of the machine level that were ever set: it outlives its sessions, and what no file names any more is as
    /// the kernel made it.
    machine: Limits,
    /// How often the settings were replaced: what is under way with earlier ones is gone through again.
    pub(super) generation: u64,
    waiting: VecDeque<Order>,
    /// The one under way.
    current: Option<Order>,
    /// The task that follows the files of hosts.
    follower: Option<JoinHandle<()>>,
    /// The turns of those who read these files.
    turns: Turns,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Loaded {
    config: Config,
    path: Option<PathBuf>,
    files: HostFiles,
}

/// What was to be changed, by the names that people know, and what came of it.
#[derive(Debug)]
pub(super) struct Applied {
    told: Told,
    names: Names,
    warnings: Vec<String>,
}

/// What sessions and servers are called.
#[derive(Debug, Default)]
struct Names {
    sessions: BTreeMap<SessionKey, SessionId>,
    servers: BTreeMap<String, Name>,
}

impl Reloads {
    /// Of a daemon that was started with this file.
    pub(super) fn new(path: Option<PathBuf>, options: &Options) -> Self {
        Self { path, usual: options.usual_config.clone(), on_demand: options.on_demand, ..Self::default() }
    }

    /// These limits of the machine level, with what is to be taken back there.
    pub(super) fn of_machine(&mut self, wanted: Limits) -> Limits {
        self.machine = wanted.and_untouched(&self.machine);
        self.machine
    }

    /// Follows the files of hosts from now on, and those before no more.
    pub(super) fn follow(&mut self, files: HostFiles, driver: mpsc::Sender<Message>) {
        self.stop();
        self.turns = files.turns();
        self.follower = (!files.is_empty()).then(|| tokio::spawn(files.follow(self.generation, driver)));
    }

    /// Follows none any more.
    pub(super) fn stop(&mut self) {
        if let Some(follower) = self.follower.take() {
            follower.abort();
        }
    }
}

/// The configuration: the file that is in use, else the usual one where it is there by now, else what holds without one.
pub(super) fn load(used: Option<PathBuf>, usual: Option<PathBuf>) -> Result<(Config, Option<PathBuf>), ConfigError> {
    match used.or_else(|| usual.filter(|path| path.exists())) {
        Some(path) => Ok((Config::load(&path)?, Some(path))),
        None => Ok((Config::default(), None)),
    }
}

async fn read(used: Option<PathBuf>, usual: Option<PathBuf>, turns: Turns) -> Result<Loaded, String> {
    let loaded = tokio::task::spawn_blocking(move || load(used, usual)).await;
    let (config, path) = loaded.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
    let files = HostFiles::new(hostfiles::named(&config.settings), turns);
    let mut files = files.map_err(|error| format!("the files of hosts cannot be watched: {error}"))?;
    files.read().await;
    Ok(Loaded { config, path, files })
}

impl Driver {
    /// Somebody asks for the configuration to be read anew.
    pub(super) fn reload(&mut self, force: bool, asker: Option<Asker>) {
        if self.reloads.waiting.len() >= WAITING_MAX {
            let why =
                format!("{WAITING_MAX} reloads are waiting already, and the first of them reads what is there then");
            if let Some(asker) = asker {
                let _ = asker.send(Err(Fault::NotReloaded(why)));
            }
            return;
        }
        let lowering = if force { Lowering::Forced } else { Lowering::NotBelowUsage };
        self.reloads.waiting.push_back(Order::Reload { lowering, asker });
        self.next_reload();
    }

    /// What an earlier daemon launched gets what the file says by now.
    pub(super) fn catch_up(&mut self) {
        if !self.table.servers.is_empty() {
            self.reloads.waiting.push_back(Order::Again);
            self.next_reload();
        }
    }

    /// A launch is over that was decided under these settings. Where they are others by now, what it set may be wrong.
    pub(super) fn decided_under(&mut self, generation: u64) {
        let waits = self.reloads.waiting.iter().any(|order| matches!(order, Order::Again));
        if generation != self.reloads.generation && !waits {
            self.reloads.waiting.push_back(Order::Again);
            self.next_reload();
        }
    }

    fn next_reload(&mut self) {
        if self.reloads.current.is_some() {
            return;
        }
        let Some(order) = self.reloads.waiting.pop_front() else { return };
        let again = matches!(order, Order::Again);
        self.reloads.current = Some(order);
        if again {
            return self.apply(Lowering::NotBelowUsage);
        }
        let (used, usual, outbox) = (self.reloads.path.clone(), self.reloads.usual.clone(), self.outbox.clone());
        let turns = self.reloads.turns.clone();
        tokio::spawn(async move {
            let loaded = read(used, usual, turns).await;
            let _ = outbox.send(Message::Loaded(Box::new(loaded))).await;
        });
    }

    /// The file was read, or is wrong.
    pub(super) fn loaded(&mut self, loaded: Result<Loaded, String>) {
        let Some(Order::Reload { lowering, .. }) = &self.reloads.current else { return };
        let lowering = *lowering;
        let Loaded { config, path, files } = match loaded {
            Ok(loaded) => loaded,
            Err(why) => {
                tracing::error!("the configuration is not read anew, and what it said before still holds: {why}");
                return self.answer_reload(Err(Fault::NotReloaded(why)));
            }
        };
        self.wake_all(ThawReason::Reload);
        self.reloads.generation += 1;
        self.reloads.path = path;
        self.idle_exit = config.idle_exit.at().filter(|_| self.reloads.on_demand);
        self.historian.bound(config.history);
        self.metrics.send_if_modified(|said| std::mem::replace(said, config.metrics.clone()) != config.metrics);
        let settings = std::mem::replace(&mut self.settings, config.settings);
        self.forget_entries(&settings);
        self.heed(files.configured());
        self.reloads.follow(files, self.outbox.clone());
        self.apply(lowering);
    }

    /// What a launch of this server would be granted now. `None` where it is not known what its launch asked for.
    fn regrant(&self, server: &Server) -> Option<Result<Box<Grant>, Refusal>> {
        let (asked, session) = (server.asked.as_ref()?, self.table.sessions.get(&server.key)?);
        let offers = self.offers_of(server, session);
        let request = Request {
            host: server.host.as_ref(),
            session: &session.id,
            server: &server.name,
            wishes: &asked.limits,
            grace: asked.grace.map(|grace| grace.duration()),
            confine: server.confine,
            offered: offers.as_ref().unwrap_or(&self.offers),
        };
        Some(policy::regrant(&self.settings, &request))
    }

    /// Which limits hold where a server in a container stands. Whether its processes may be moved was decided at its launch.
    fn offers_of(&self, server: &Server, session: &Session) -> Option<policy::Offers> {
        let machine = server.leaf.as_ref()?.machine().paths();
        let container = session.container.as_ref().filter(|_| self.backend.directories().is_below(&machine))?;
        let park = self.offers.park.clone();
        Some(policy::Offers { park, ..self.backend.offers_below(container, false) })
    }

    /// Gives all that lives what the settings say: manners at once, limits off the driver.
    fn apply(&mut self, lowering: Lowering) {
        let mut wanted = Wanted { machine: Limits::default(), sessions: Vec::new() };
        let (mut names, mut warnings) = (Names::default(), Vec::new());
        for key in self.table.sessions.keys().cloned().collect::<Vec<_>>() {
            let Some(session) = self.table.sessions.get(&key) else { continue };
            names.sessions.insert(key.clone(), session.id.clone());
            let (id, numbers) = (session.id.clone(), session.servers.clone());
            let mut of_session = WantedSession { key, limits: None, leaves: Vec::new() };
            for number in numbers {
                let Some(server) = self.table.servers.get(&number) else { continue };
                let Some(leaf) = server.leaf.clone().filter(|_| server.state == State::Running) else { continue };
                names.servers.insert(server.leaf_name.as_str().to_owned(), server.name.clone());
                let what = format!("server {} of session {id} keeps what it has", server.name);
                let limits = match self.regrant(server) {
                    None => {
                        warnings.push(format!(
                            "{what}: an earlier version launched it, and did not write down what its launch asked for"
                        ));
                        None
                    }
                    Some(Err(refusal)) => {
                        warnings.push(format!("{what}: {refusal}"));
                        None
                    }
                    // No limit of ours stands below its container.
                    Some(Ok(grant)) if !leaf.group().tells_limits() => {
                        self.give_manners(number, *grant);
                        continue;
                    }
                    Some(Ok(grant)) => {
                        wanted.machine = self.reloads.of_machine(grant.machine);
                        // As with launches: the last one's host says what holds its session.
                        of_session.limits = Some(grant.session.and_untouched(&Limits::untouched()));
                        let limits = grant.server.and_untouched(&Limits::untouched());
                        self.give_manners(number, *grant);
                        Some(limits)
                    }
                };
                of_session.leaves.push(WantedLeaf { leaf, limits });
            }
            if !of_session.leaves.is_empty() {
                wanted.sessions.push(of_session);
            }
        }
        let (backend, outbox) = (self.backend.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let work = tokio::task::spawn_blocking(move || backend.adjust(&wanted, lowering));
            let told = work.await.unwrap_or_default();
            let _ = outbox.send(Message::Applied(Box::new(Applied { told, names, warnings }))).await;
        });
    }

    /// What is no limit of a cgroup holds at once, from the next event on.
    fn give_manners(&mut self, number: u64, grant: Grant) {
        let (terms, now) = (self.terms(grant.grace, grant.stdin_grace), self.now());
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        let (resting, mut warnings) = (resting(&grant), warnings(&grant, server.adopted));
        // What became of its adoption stays true.
        warnings.extend(server.warnings.iter().filter(|told| told.starts_with(ADOPTED_IN_PART)).cloned());
        let (was, is) = (server.idle.as_ref().map(Idle::spans), spans(&resting, grant.idle_after.at()));
        let same = (server.terms, server.on_pids, server.stall, server.resting)
            == (terms, grant.on_pids, grant.stall, resting)
            && server.warnings == warnings
            && was.unwrap_or_default() == is;
        if was.unwrap_or_default() != is {
            server.idle = Idle::begin(is, now);
        }
        server.resting = resting;
        (server.terms, server.on_pids, server.stall, server.warnings) = (terms, grant.on_pids, grant.stall, warnings);
        if !same {
            self.record_again(number);
        }
    }

    /// A file that is not watched any more says nothing: that its entries are gone from the others ends nobody.
    fn forget_entries(&mut self, before: &Settings) {
        let (before, now) = (hostfiles::named(before), hostfiles::named(&self.settings));
        let dropped: Vec<&Name> = before.iter().filter(|file| !now.contains(file)).map(|(host, _)| host).collect();
        for number in self.table.servers.keys().copied().collect::<Vec<_>>() {
            let Some(server) = self.table.servers.get_mut(&number) else { continue };
            if server.entry == Entry::Seen && server.host.as_ref().is_some_and(|host| dropped.contains(&host)) {
                server.entry = Entry::Unseen;
                self.record_again(number);
            }
        }
    }

    /// The limits are changed, as far as they can be.
    pub(super) fn applied(&mut self, applied: Applied) {
        let Applied { told, names, warnings } = applied;
        if told.changed.iter().any(|(_, change)| change.key == LimitKey::MemoryHigh) {
            let leaves = self.table.servers.values().filter_map(|server| server.leaf.clone());
            leaves.collect::<Vec<_>>().iter().for_each(|leaf| self.watch_highs(leaf));
        }
        let changed = told.changed.into_iter().map(|(place, change)| LimitChange {
            at: names.of(&place),
            limit: change.key,
            from: change.from.at(),
            to: change.to.at(),
        });
        let lowering = match &self.reloads.current {
            Some(Order::Reload { lowering, .. }) => *lowering,
            Some(Order::Again) | None => Lowering::NotBelowUsage,
        };
        let kept = told.kept.into_iter().map(|(place, kept)| LimitKept {
            at: names.of(&place),
            limit: kept.key,
            stays: kept.stays.at(),
            wanted: kept.wanted.at(),
            usage: kept.usage,
            why: why(&kept, lowering),
        });
        let config = self.reloads.path.as_ref().map(|path| path.display().to_string());
        let reply = ReloadReply { config, changed: changed.collect(), kept: kept.collect(), warnings };
        log(&reply, matches!(self.reloads.current, Some(Order::Again)));
        self.answer_reload(Ok(reply));
    }

    fn answer_reload(&mut self, answer: Result<ReloadReply, Fault>) {
        if let Some(Order::Reload { asker: Some(asker), .. }) = self.reloads.current.take() {
            // Whoever asked may be gone.
            let _ = asker.send(answer);
        }
        self.next_reload();
    }
}

impl Names {
    fn of(&self, place: &Place) -> LimitPlace {
        let session = |key| self.sessions.get(key).cloned();
        match place {
            Place::Machine => LimitPlace { level: Level::Machine, session: None, server: None, leaf: None },
            Place::Session(key) => {
                LimitPlace { level: Level::Session, session: session(key), server: None, leaf: None }
            }
            Place::Server(key, leaf) => LimitPlace {
                level: Level::Server,
                session: session(key),
                server: self.servers.get(leaf).cloned(),
                leaf: Some(leaf.clone()),
            },
        }
    }
}

/// Why a limit is not what it should be, and what to do.
fn why(kept: &crate::cgroup::Kept, lowering: Lowering) -> String {
    match (kept.usage, &kept.error) {
        (Some(usage), _) => {
            let used = LimitKey::spell(kept.key, crate::limits::Limit::At(usage));
            match lowering {
                Lowering::NotBelowUsage => format!(
                    "{used} is in use; end some of it, or `pinfold reload --force`, for which the kernel may kill"
                ),
                // v2 takes any limit.
                Lowering::Forced => format!(
                    "{used} is in use, and cgroup v1 takes no limit below that; what goes beyond it is killed from now on"
                ),
            }
        }
        (None, Some(error)) => error.clone(),
        (None, None) => "the kernel holds another value".to_owned(),
    }
}

/// Where nobody waits for the answer, the log has it.
fn log(reply: &ReloadReply, again: bool) {
    let (changed, kept) = (reply.changed.len(), reply.kept.len());
    if again && changed + kept == 0 {
        return;
    }
    tracing::info!(changed, kept, "the limits of what lives are those of the configuration now");
    reply.changed.iter().take(LOGGED_MAX).for_each(|change| tracing::info!("{change}"));
    reply.kept.iter().take(LOGGED_MAX).for_each(|kept| tracing::warn!("{kept}"));
    reply.warnings.iter().take(LOGGED_MAX).for_each(|warning| tracing::warn!("{warning}"));
}
