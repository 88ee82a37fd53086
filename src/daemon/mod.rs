//! The daemon: long-lived tasks around one table. Read [`serve`] as its start list and stop list.
//!
//! It may die at any moment: servers live on, untouched, and the next one adopts them.

mod accept;
mod admission;
mod adopting;
mod alive;
mod aside;
mod caller;
mod chronicle;
mod containers;
mod crowd;
mod door;
mod driver;
mod ending;
mod escapes;
mod expiry;
mod fair;
mod follow;
mod generation;
mod ground;
mod hearing;
mod held;
mod historian;
mod hostfiles;
mod http;
mod idling;
mod jobs;
mod labels;
mod launching;
mod listener;
mod lock;
mod log;
mod lost;
mod message;
mod others;
mod outside;
mod parking;
mod places;
mod placing;
mod polling;
mod publish;
mod reclaiming;
mod recording;
mod recover;
mod reload;
mod removing;
mod requested;
mod scrape;
mod servers;
mod socket;
mod stalling;
mod stdin;
mod storms;
mod supervision;
mod table;
mod targets;
mod tell;
mod watch;
mod way;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

use crate::backend::{Backend, BackendError, Choice};
use crate::cgroup::{CgroupError, TreeError, TreeOptions};
use crate::client::{ClientError, beside};
use crate::config::{Config, ConfigError};
use crate::metrics::Counters;
use crate::policy::{Configured, Offer, Offers};
use crate::process;
use crate::records::{RecordError, Records};
use crate::sys::crash;
use crate::systemd::{Passed, Porter, Store, Watchdog};
use crate::wire::{Description, LimitState};
use alive::Alive;
use door::Door;
use driver::Driver;
use historian::Historian;
use hostfiles::HostFiles;
use lock::{Claim, Held};
pub use log::{LogError, start_log};
use message::{INBOX, Message};
pub use others::Other;
use reload::Reloads;
pub use supervision::thaw_left;

/// How the daemon is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration file, if there is one.
    pub config: Option<PathBuf>,
    /// Where one is looked for otherwise.
    pub usual_config: Option<PathBuf>,
    /// The socket to listen on.
    pub socket: PathBuf,
    /// Who makes the cgroups.
    pub backend: Choice,
    /// The cgroup subtree to use, else one is found.
    pub root: Option<PathBuf>,
    /// Started by a launcher: lives in a cgroup of its own, and leaves when it has been unused for a while.
    pub on_demand: bool,
    /// Somebody starts it again whenever it dies, and thaws what it froze where that does not help.
    pub supervised: bool,
    /// The scope that it moves to where a service manager makes the cgroups: of one that is no service.
    pub scope: Option<String>,
}

/// Why the daemon did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is nobody to make cgroups.
    #[error(transparent)]
    Backend(BackendError),
    /// Another daemon has this cgroup tree.
    #[error("another pinfold works below {}{}: {}; or give this one another --root", root.display(), other.who(), other.remedy())]
    TreeTaken {
        /// Which tree.
        root: PathBuf,
        /// Who has it.
        other: Other,
    },
    /// What lives was launched below another root.
    #[error(
        "what lives here was launched by a daemon below {}, which is gone: start that again, `pinfold serve --root {} --socket {}`",
        root.display(), root.display(), socket.display()
    )]
    LeftElsewhere {
        /// Below which.
        root: PathBuf,
        /// Where that daemon listened.
        socket: PathBuf,
    },
    /// The runtime directory cannot be used.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// Another user could have the daemon write elsewhere.
    #[error("{} is no place for the files of a daemon, which stand beside its socket: {why}; give this one another --socket", path.display())]
    Ground {
        /// What of it, or of the way to it.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Another daemon has this socket.
    #[error("another pinfold serves {}{}: {}; or give this one another --socket", socket.display(), other.who(), other.remedy())]
    Taken {
        /// Which socket.
        socket: PathBuf,
        /// Who has it.
        other: Other,
    },
    /// The service manager passed a socket that is not the one to listen on.
    #[error(
        "the service manager passed {name:?}, which {why}; this daemon listens at {}: give both the same path, or disable that \
         unit", socket.display()
    )]
    Passed {
        /// What the manager calls it.
        name: String,
        /// What is wrong with it.
        why: String,
        /// Where callers come to.
        socket: PathBuf,
    },
    /// Somebody listens at the socket who is no daemon.
    #[error(
        "somebody listens at {} for a daemon that is yet to come, as systemd does where pinfold.socket is active: start \
         pinfold.service instead, stop pinfold.socket, or give this one another --socket", socket.display()
    )]
    Awaited {
        /// Which socket.
        socket: PathBuf,
    },
    /// Another daemon works with this service manager.
    #[error(
        "another pinfold works with {manager}{}, and a service manager has one daemon for all its sessions: {}",
        other.who(), other.remedy()
    )]
    ManagerTaken {
        /// Which manager.
        manager: &'static str,
        /// Who does.
        other: Other,
    },
    /// What a daemon that is gone froze stands still.
    #[error("{thawed} servers were thawed, and {failures} others or more may stand still")]
    StillFrozen {
        /// In how many places that failed.
        failures: usize,
        /// How many servers go on.
        thawed: usize,
        /// Why the first of them does not.
        #[source]
        source: CgroupError,
    },
    /// There is no directory for a lock.
    #[error(transparent)]
    Directory(#[from] ClientError),
    /// Something of the operating system failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl From<BackendError> for ServeError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Tree(TreeError::Taken { root, locked }) => {
                Self::TreeTaken { root, other: Other::that_locked(&locked) }
            }
            other => Self::Backend(other),
        }
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServeError {
    let path = path.to_owned();
    move |source| ServeError::Io { doing, path, source }
}

/// Runs the daemon until it is told to stop; `ready` is called once it can be spoken to.
pub fn serve(options: &Options, ready: impl FnOnce()) -> Result<(), ServeError> {
    // One that was started by a launcher is no service, whatever its environment says.
    let Passed { store, porter, others } =
        if options.scope.is_none() { Passed::take(held::is_ours) } else { Passed::default() };
    let watchdog = Watchdog::open().filter(|_| options.scope.is_none());
    let config = reload::load(options.config.clone(), options.usual_config.clone())?;
    raise_descriptor_limit();
    crash::step("the daemon starts");
    crate::sys::share_one_heap();
    let around = options.socket.parent().filter(|around| !around.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ground::firm(around).map_err(|(path, why)| ServeError::Ground { path, why: why.to_string() })?;
    let handed = door::handed(others, &options.socket)?;
    let claim = match handed {
        Some(_) => Claim::Handed,
        None if options.on_demand => Claim::OnDemand,
        None => Claim::ToStay,
    };
    let mut socket = lock::socket(&options.socket, claim)?;
    let tree = TreeOptions { root: options.root.clone(), leave_host: options.on_demand };
    let (backend, why) = Backend::open(options.backend, &tree)?;
    tracing::info!(backend = backend.word(), "{why}");
    let _manager = backend.bus().map(|bus| lock::manager(bus, &options.socket)).transpose()?;
    if let Some(scope) = &options.scope {
        backend.leave_host(scope)?;
    }
    let backend = Arc::new(backend);
    let records = Arc::new(Records::open(&beside(&options.socket, "d"))?);
    if let Some(root) = left_below(&records, &backend).filter(|_| options.on_demand) {
        backend.close();
        return Err(ServeError::LeftElsewhere { root, socket: options.socket.clone() });
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("start the event loop for", &options.socket))?;
    let given = Given { handed, store, porter, watchdog };
    let grounds = (backend.clone(), why, &mut socket);
    let outcome = runtime.block_on(run(options, config, grounds, (records.clone(), given), ready));
    // A write that the kernel holds up does not hold up the end of the daemon.
    runtime.shutdown_timeout(Duration::from_secs(1));
    records.close();
    backend.close();
    outcome
}

/// The root, which is not ours, of a tree in which a daemon that is gone left servers: ours would take them for escaped.
fn left_below(records: &Records, backend: &Backend) -> Option<PathBuf> {
    let own = backend.root();
    let left = records.load(&process::boot_id().ok()?).ok()?.records;
    let machines = left.iter().filter(|record| record.container.is_none()).map(|record| &record.machine.v2);
    let other = machines.into_iter().find(|machine| !machine.starts_with(&own) && machine.is_dir())?;
    other.parent().filter(|_| other.file_name() == Some(OsStr::new("pinfold"))).map(Path::to_owned)
}

/// What a service manager gives to the daemon.
struct Given {
    handed: Option<door::Handed>,
    store: Store,
    porter: Option<Porter>,
    watchdog: Option<Watchdog>,
}

async fn run(
    options: &Options,
    (config, path): (Config, Option<PathBuf>),
    (backend, why, socket): (Arc<Backend>, String, &mut Held),
    (records, Given { handed, store, porter, watchdog }): (Arc<Records>, Given),
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let io = |doing| failed(doing, &options.socket);
    let (outbox, inbox) = mpsc::channel(INBOX);
    let offers = Offers { park: supervision::offer(&backend, options.supervised), ..backend.offers() };
    let description = Description { backend_why: why, ..describe(&backend, &offers) };
    let counters = Counters::default();
    let history = crate::client::history(&options.socket);
    let (historian, writing) = Historian::start(history.clone(), config.history, counters.history_dropped());
    let mut driver = Driver {
        settings: config.settings,
        offers,
        backend: backend.clone(),
        records,
        boot_id: process::boot_id().map_err(failed("read", Path::new("/proc/sys/kernel/random/boot_id")))?,
        watcher: watch::Watcher::new().map_err(io("watch the kernel for"))?,
        table: Default::default(),
        counts: Default::default(),
        chronicle: Default::default(),
        historian,
        counters,
        metrics: tokio::sync::watch::Sender::new(config.metrics),
        storms: Default::default(),
        start: Instant::now(),
        outbox: outbox.clone(),
        configured: Configured::default(),
        store,
        alarm: expiry::Alarm::new().map_err(io("make a timer for"))?,
        alive: Alive::new(watchdog),
        idle_exit: config.idle_exit.at().filter(|_| options.on_demand),
        idle_since: Duration::ZERO,
        polls: Default::default(),
        kills: Vec::new(),
        cleaning: 0,
        removals: Arc::new(Semaphore::new(removing::REMOVALS)),
        engines: containers::Engines::default(),
        placements: Arc::new(Semaphore::new(placing::PLACEMENTS)),
        moves: Arc::new(Semaphore::new(placing::MOVES)),
        readers: idling::readers(),
        reclaimers: parking::reclaimers(),
        reloads: Reloads::new(path, options),
        stop_by: None,
    };
    driver.watcher.watch(&driver.alarm, watch::Source::Alarm).map_err(io("watch a timer for"))?;
    let named = hostfiles::named(&driver.settings);
    let mut files = HostFiles::new(named, Default::default()).map_err(io("watch the files of hosts for"))?;
    files.read().await;
    driver.configured = files.configured();
    if let Some(porter) = porter {
        // It ends with the driver, which has the store.
        tokio::task::spawn_blocking(|| porter.run());
    }
    let stops = stop_on_signals(outbox.clone()).map_err(io("catch signals for"))?;
    driver.recover();
    driver.heed(driver.configured.clone());
    // One on demand may have been started under another file than what lives was launched under, by whoever only looked.
    if !options.on_demand {
        driver.catch_up();
    }
    // Whoever finds that it listens can have it make way.
    socket.announce();
    let (listener, door) = Door::open(handed, &options.socket)?;
    crash::step("the daemon listens");
    let relay = backend.take_stops().map(|stops| tokio::spawn(relay_stops(stops, outbox.clone())));
    let reloads = reload_on_hangup(outbox.clone()).map_err(io("catch SIGHUP for"))?;
    driver.reloads.follow(files, outbox.clone());
    let (counts, said) = (driver.counters.registry(), driver.metrics.subscribe());
    let exporter = http::Exporter::new(outbox.clone(), description.clone(), counts, said);
    let exports = tokio::spawn(exporter.serve(listener::Usual::of(options)));
    let service = socket::Service::new(outbox, backend, description, history);
    let connections = tokio::spawn(accept::serve(listener, Arc::new(service)));
    tracing::info!(socket = %options.socket.display(), "ready");
    ready();
    let mut driver = driver.run(inbox).await;
    // New callers find no socket from here on and start another daemon, once this one has let go of its lock; or they wait at
    // the manager's.
    drop(door);
    connections.abort();
    exports.abort();
    stops.abort();
    reloads.abort();
    driver.reloads.stop();
    if let Some(relay) = relay {
        relay.abort();
    }
    let living = driver.servers();
    drop(driver);
    // What waits for a disk that does not answer is told again by the next daemon, which finds the records.
    let _ = tokio::time::timeout(historian::STOP_MAX, writing).await;
    tracing::info!(living, "stopped; what lives is adopted by the next start");
    Ok(())
}

impl Driver {
    fn servers(&self) -> usize {
        self.table.servers.len()
    }
}

/// What systemd stops is a fact for the driver.
async fn relay_stops(mut units: mpsc::Receiver<String>, driver: mpsc::Sender<Message>) {
    while let Some(unit) = units.recv().await {
        let _ = driver.send(Message::Stopped(unit)).await;
    }
}

fn stop_on_signals(driver: mpsc::Sender<Message>) -> io::Result<tokio::task::JoinHandle<()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = driver.send(Message::Stop).await;
    }))
}

fn reload_on_hangup(driver: mpsc::Sender<Message>) -> io::Result<tokio::task::JoinHandle<()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let _ = driver.send(Message::Reload { force: false, reply: None }).await;
        }
    }))
}

/// Each server costs a handful of descriptors, and the soft limit is made for select(2).
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// What stays as it is while the daemon runs: the rest is the driver's to tell.
fn describe(backend: &Backend, offers: &Offers) -> Description {
    let told = |offer: &Offer| match offer.clone() {
        Offer::Holds => LimitState::Holds,
        Offer::NothingToLimit => LimitState::NothingToLimit,
        Offer::Withheld { why, remedy } | Offer::Missing { why, remedy } => LimitState::Missing { why, remedy },
    };
    let limits = [
        ("memory", &offers.memory),
        ("memory_high", &offers.memory_high),
        ("swap", &offers.swap),
        ("pids", &offers.pids),
        ("cpu", &offers.cpu),
        ("io", &offers.io),
    ];
    Description {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id() as i32,
        uid: nix::unistd::geteuid().as_raw(),
        backend: backend.word().to_owned(),
        backend_why: String::new(),
        notes: Vec::new(),
        layout: backend.layout().word().to_owned(),
        root: backend.root().display().to_string(),
        config: None,
        limits: limits.into_iter().map(|(name, offer)| (name.to_owned(), told(offer))).collect::<BTreeMap<_, _>>(),
        idle: [("trim", &offers.trim), ("park", &offers.park)]
            .into_iter()
            .map(|(name, offer)| (name.to_owned(), told(offer)))
            .collect(),
        launches: 0,
        refusals: 0,
        uncontained: 0,
        delayed: 0,
        storms: 0,
    }
}
