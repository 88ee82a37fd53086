//! The blocking face: what pinfold asks of a manager, each call with a deadline and each job awaited, unless it says that it
//! does not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use zbus::OwnedObjectPath;

use super::bus::Bus;
use super::error::{Reason, SystemdError};
use super::link::{self, CONNECT_MAX, Link, Signal};
use super::names::unit_below;
use super::properties::{Properties, Value, Variant};

/// How long one call may take, a lost connection included.
const CALL_MAX: Duration = Duration::from_secs(10);

/// How long a job may take.
const JOB_MAX: Duration = Duration::from_secs(15);

/// How often a job whose end may have been missed is asked for.
const JOB_POLL: Duration = Duration::from_secs(1);

/// How many calls are made at a time; the others wait for their turn. The manager does one after the other in any case.
const CALLS: usize = 16;

/// How long a call may wait for its turn.
const TURN_MAX: Duration = Duration::from_secs(60);

/// How many signals about one unit may wait; beyond that its job is asked for.
const HEARD: usize = 16;

/// The pause before a call is made again whose connection was lost.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How many stops may wait to be told.
const STOPS: usize = 1024;

const UNIT: &str = "org.freedesktop.systemd1.Unit";

/// The scope that [`Manager::probe`] asks for, and that never starts.
const PROBE: &str = "pinfold-probe.scope";

/// The name of a scope that got a job which is not ours: somebody stops it.
pub type Stopped = String;

/// One manager. Its connection lives on a thread of its own, so that it can be used from any other.
#[derive(Debug)]
pub struct Manager {
    bus: Bus,
    version: String,
    cgroup: String,
    handle: tokio::runtime::Handle,
    shared: Arc<Shared>,
    stops: Mutex<Option<mpsc::Receiver<Stopped>>>,
    /// Dropping it ends the thread.
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// How a unit is started: in which job mode, and whether its job is waited for.
struct Start {
    mode: &'static str,
    waits: bool,
}

#[derive(Debug)]
struct Shared {
    link: watch::Receiver<Option<Link>>,
    turns: Semaphore,
    /// Units whose jobs are our own now, and who waits for them.
    ours: Mutex<HashMap<String, Vec<mpsc::Sender<Signal>>>>,
    /// Properties that this manager does not know.
    unknown: Mutex<HashSet<String>>,
}

impl Manager {
    /// Connects, and finds out what it must know of the manager.
    pub fn connect(bus: Bus) -> Result<Self, SystemdError> {
        let failed = |reason: Reason| SystemdError::new("reach", bus.word(), reason);
        let io = |error: std::io::Error| failed(Reason::Bus(error.into()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("systemd".into()).spawn(move || {
            let _ = runtime.block_on(ended);
        });
        let thread = thread.map_err(io)?;
        let own = bus.clone();
        let opened = run(&handle, CONNECT_MAX * 2, async move {
            let (link, streams) = Link::open(&own).await?;
            let text = async |name| {
                let value = link.property(None, None, name).await?;
                String::try_from(value).map_err(|error| Reason::Misunderstood(error.to_string()))
            };
            let (version, cgroup) = (text("Version").await?, text("ControlGroup").await?);
            Ok::<_, Reason>((link, streams, version, cgroup))
        });
        let (link, streams, version, cgroup) = match opened {
            Some(opened) => opened.map_err(failed)?,
            None => return Err(failed(Reason::TooSlow(CONNECT_MAX * 2))),
        };
        let (links, current) = watch::channel(Some(link.clone()));
        let shared = Arc::new(Shared {
            link: current,
            turns: Semaphore::new(CALLS),
            ours: Mutex::default(),
            unknown: Mutex::default(),
        });
        let (stopped, stops) = mpsc::channel(STOPS);
        let heeds = shared.clone();
        handle.spawn(link::keep(bus.clone(), (link, streams), Arc::new(links), move |signal| {
            if let Some(unit) = heeds.hand_on(signal).filter(|unit| unit.ends_with(".scope")) {
                // Whoever does not read them does not want to know.
                let _ = stopped.try_send(unit);
            }
        }));
        Ok(Self {
            bus,
            version,
            cgroup,
            handle,
            shared,
            stops: Mutex::new(Some(stops)),
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// Which manager it is.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// systemd's version as it tells it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The kernel's path of the cgroup that all its units are below: empty for the system's.
    pub fn cgroup(&self) -> &str {
        self.cgroup.trim_end_matches('/')
    }

    /// Properties that it was found not to know.
    pub fn unknown_properties(&self) -> Vec<String> {
        let mut names: Vec<_> = lock(&self.shared.unknown).iter().cloned().collect();
        names.sort();
        names
    }

    /// Whether it was found not to know a property.
    pub fn lacks(&self, property: &str) -> bool {
        lock(&self.shared.unknown).contains(property)
    }

    /// Scopes that get jobs which are not ours. Can be taken once.
    pub fn take_stops(&self) -> Option<mpsc::Receiver<Stopped>> {
        lock(&self.stops).take()
    }

    /// Makes a transient unit and starts it, with another one (a slice) made for it in the same breath; waits for its job.
    ///
    /// `may_lack` names the properties that are left out where the manager does not know them.
    pub fn start(
        &self,
        unit: &str,
        properties: Properties,
        beside: Option<(&str, Properties)>,
        may_lack: &[&str],
    ) -> Result<(), SystemdError> {
        self.start_as(Start { mode: "fail", waits: true }, unit, (properties, beside), may_lack)
    }

    /// As [`Manager::start`], and does not wait for the job.
    pub fn begin(&self, unit: &str, properties: Properties, may_lack: &[&str]) -> Result<(), SystemdError> {
        self.start_as(Start { mode: "fail", waits: false }, unit, (properties, None), may_lack)
    }

    /// As [`Manager::start`], and starts nothing that the unit depends on, its slice included. A unit that is bound to another
    /// one, and ordered after it, is not started where that other is not active: [`SystemdError::is_unmet_dependency`].
    pub fn start_alone(&self, unit: &str, properties: Properties, may_lack: &[&str]) -> Result<(), SystemdError> {
        self.start_as(Start { mode: "ignore-dependencies", waits: true }, unit, (properties, None), may_lack)
    }

    fn start_as(
        &self,
        Start { mode, waits }: Start,
        unit: &str,
        (mut properties, mut beside): (Properties, Option<(&str, Properties)>),
        may_lack: &[&str],
    ) -> Result<(), SystemdError> {
        const DOING: &str = "start";
        for name in lock(&self.shared.unknown).iter().filter(|name| may_lack.contains(&name.as_str())) {
            properties.remove(name);
            if let Some((_, properties)) = &mut beside {
                properties.remove(name);
            }
        }
        loop {
            let (own, aux) = (properties.clone(), beside.clone().map(|(unit, aux)| (unit.to_owned(), aux)));
            let ask = move |link: Link, unit: String| -> Asked<OwnedObjectPath> {
                let (own, aux) = (own.clone(), aux.clone());
                Box::pin(async move { link.start_transient_unit(&unit, mode, &own, aux.as_ref()).await })
            };
            let started = if waits { self.job(DOING, unit, ask) } else { self.call(DOING, unit, ask).map(drop) };
            let Err(error) = started else { return Ok(()) };
            let Some(unknown) = error.unknown_property().map(str::to_owned) else { return Err(error) };
            lock(&self.shared.unknown).insert(unknown.clone());
            let had = properties.remove(&unknown);
            let beside_had = beside.as_mut().is_some_and(|(_, properties)| properties.remove(&unknown));
            if !may_lack.contains(&unknown.as_str()) || !(had || beside_had) {
                return Err(error);
            }
        }
    }

    /// Starts a unit that is installed, and waits for its job: a service of type `notify` is ready then.
    pub fn start_installed(&self, unit: &str) -> Result<(), SystemdError> {
        self.job("start", unit, |link, unit| Box::pin(async move { link.start_unit(&unit).await }))
    }

    /// Finds out which of these properties of a scope the manager does not know, before one is needed.
    ///
    /// It asks for a scope with no process in it, which no manager starts: one that knows the property refuses it for that.
    pub fn probe<'a>(&self, properties: impl Iterator<Item = &'a str>) -> Result<(), SystemdError> {
        for name in properties {
            // None of them is a flag: whatever else is wrong, a manager looks for the name first.
            let asked = self.start(PROBE, Properties::default().with(name, Value::Flag(true)), None, &[]);
            match asked.map_err(|error| (matches!(error.reason(), Reason::Refused { .. }), error)) {
                // What was found is kept by `start`.
                Ok(()) | Err((true, _)) => {}
                Err((false, error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// A text that the manager tells of a unit of any kind: `LoadState`, `FragmentPath`, `UnitFileState`….
    pub fn unit_text(&self, unit: &str, property: &'static str) -> Result<String, SystemdError> {
        self.call("look at", unit, move |link, unit| {
            Box::pin(async move { String::try_from(link.unit_property(&unit, UNIT, property).await?) })
        })
    }

    /// Whether a unit was made over the bus, and not from a file that somebody installed.
    pub fn is_transient(&self, unit: &str) -> Result<bool, SystemdError> {
        self.call("look at", unit, |link, unit| {
            Box::pin(async move { bool::try_from(link.unit_property(&unit, UNIT, "Transient").await?) })
        })
    }

    /// Stops a unit with all that is below it, and waits for the job. That it is gone is success.
    pub fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        let stopped = self.job("stop", unit, |link, unit| Box::pin(async move { link.stop_unit(&unit).await }));
        gone_is_success(stopped)
    }

    /// Lets go of a unit that failed and is kept for people to see. That it is gone is success.
    pub fn reset_failed(&self, unit: &str) -> Result<(), SystemdError> {
        let reset = self.call("reset", unit, |link, unit| Box::pin(async move { link.reset_failed_unit(&unit).await }));
        gone_is_success(reset)
    }

    /// Changes properties of a unit until the next boot.
    pub fn set(&self, unit: &str, properties: Properties) -> Result<(), SystemdError> {
        self.call("change the limits of", unit, move |link, unit| {
            let properties = properties.clone();
            Box::pin(async move { link.set_unit_properties(&unit, &properties).await })
        })
    }

    /// Moves a process into a cgroup below that of a delegated unit.
    pub fn attach(&self, unit: &str, below: &str, pid: u32) -> Result<(), SystemdError> {
        let below = format!("/{below}");
        self.call("move a process into", unit, move |link, unit| {
            let below = below.clone();
            Box::pin(async move { link.attach_process(&unit, &below, pid).await })
        })
    }

    /// The properties of a unit that are of its kind; the manager's defaults where there is no such unit.
    pub fn properties(&self, unit: &str) -> Result<BTreeMap<String, Variant>, SystemdError> {
        let told =
            self.call("look at", unit, |link, unit| Box::pin(async move { link.unit_properties(&unit).await }))?;
        Ok(told.into_iter().map(|(name, value)| (name, Variant(value))).collect())
    }

    /// `ActiveState`; `inactive` where there is no such unit.
    pub fn active_state(&self, unit: &str) -> Result<String, SystemdError> {
        self.unit_text(unit, "ActiveState")
    }

    /// The unit of this manager's that a cgroup is, or stands in. `None` where that is a slice, or another manager's.
    pub fn unit_of<'a>(&self, cgroup: &'a str) -> Option<&'a str> {
        unit_below(self.cgroup(), cgroup)
    }

    /// The units that a unit is bound to (`BindsTo=`).
    pub fn bound_to(&self, unit: &str) -> Result<Vec<String>, SystemdError> {
        self.call("look at", unit, |link, unit| {
            Box::pin(async move { Vec::<String>::try_from(link.unit_property(&unit, UNIT, "BindsTo").await?) })
        })
    }

    /// Since when a unit is active, in microseconds of `CLOCK_MONOTONIC`; 0 where it is not.
    pub fn active_since(&self, unit: &str) -> Result<u64, SystemdError> {
        const SINCE: &str = "ActiveEnterTimestampMonotonic";
        self.call("look at", unit, |link, unit| {
            Box::pin(async move { u64::try_from(link.unit_property(&unit, UNIT, SINCE).await?) })
        })
    }

    /// One call and the job that it makes.
    fn job(
        &self,
        doing: &'static str,
        unit: &str,
        ask: impl Fn(Link, String) -> Asked<OwnedObjectPath> + Send + Sync + 'static,
    ) -> Result<(), SystemdError> {
        // Heard from before the job is made on, so that its end is not missed.
        let (heard, mut signals) = mpsc::channel(HEARD);
        lock(&self.shared.ours).entry(unit.to_owned()).or_default().push(heard.clone());
        let (shared, name) = (self.shared.clone(), unit.to_owned());
        let at_most = TURN_MAX + CALL_MAX + JOB_MAX;
        let done = run(&self.handle, at_most, async move {
            let job = shared.ask(&name, ask).await?;
            let result = tokio::time::timeout(JOB_MAX, shared.end_of(&job, &mut signals)).await;
            match result.map_err(|_| Reason::TooSlow(JOB_MAX))? {
                Some(result) if result != "done" => Err(Reason::Job(result)),
                // How it ended was missed: whoever asked looks at what came of it in any case.
                Some(_) | None => Ok(()),
            }
        });
        self.shared.forget(unit, &heard);
        let done = done.unwrap_or(Err(Reason::TooSlow(at_most)));
        done.map_err(|reason| SystemdError::new(doing, unit, reason))
    }

    /// One call.
    fn call<T: Send + 'static>(
        &self,
        doing: &'static str,
        unit: &str,
        ask: impl Fn(Link, String) -> Asked<T> + Send + Sync + 'static,
    ) -> Result<T, SystemdError> {
        let (shared, name) = (self.shared.clone(), unit.to_owned());
        let at_most = TURN_MAX + CALL_MAX * 2;
        let done = run(&self.handle, at_most, async move { shared.ask(&name, ask).await });
        let done = done.unwrap_or(Err(Reason::TooSlow(at_most)));
        done.map_err(|reason| SystemdError::new(doing, unit, reason))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A call under way.
type Asked<T> = Pin<Box<dyn Future<Output = zbus::Result<T>> + Send>>;

impl Shared {
    /// Waits for a connection and asks; asks again where the bus or the manager went away under the question, for as long
    /// as there is time. What was done although no answer came then answers that it exists, or is gone.
    async fn ask<T>(&self, unit: &str, ask: impl Fn(Link, String) -> Asked<T>) -> Result<T, Reason> {
        let turn = tokio::time::timeout(TURN_MAX, self.turns.acquire()).await;
        let _turn = turn.map_err(|_| Reason::TooSlow(TURN_MAX))?.expect("the semaphore is never closed");
        let asked = async {
            let mut links = self.link.clone();
            loop {
                let link = match links.wait_for(Option::is_some).await.as_deref() {
                    Ok(Some(link)) => link.clone(),
                    _ => return Err(Reason::Unreachable),
                };
                match ask(link, unit.to_owned()).await {
                    Err(error) if is_lost(&error) => tokio::time::sleep(ASK_AGAIN).await,
                    answered => return answered.map_err(Reason::from),
                }
            }
        };
        let answered = tokio::time::timeout(CALL_MAX, asked).await;
        answered
            .map_err(|_| if self.link.borrow().is_none() { Reason::Unreachable } else { Reason::TooSlow(CALL_MAX) })?
    }

    /// Waits for the end of a job; `None` where it is over and nobody heard how it went.
    async fn end_of(&self, job: &OwnedObjectPath, signals: &mut mpsc::Receiver<Signal>) -> Option<String> {
        loop {
            match tokio::time::timeout(JOB_POLL, signals.recv()).await {
                Ok(Some(Signal::JobRemoved { job: over, result, .. })) if over == *job => return Some(result),
                Ok(Some(Signal::JobNew { .. } | Signal::JobRemoved { .. })) => {}
                Ok(Some(Signal::Missed) | None) | Err(_) => {
                    let link = self.link.borrow().clone();
                    if let Some(link) = link
                        && !link.has_job(job).await
                        && signals.is_empty()
                    {
                        return None;
                    }
                }
            }
        }
    }

    /// Hands a signal to whoever waits for a job of its unit; gives the unit where nobody does.
    fn hand_on(&self, signal: Signal) -> Option<String> {
        let ours = lock(&self.ours);
        // Who has not read so many asks for the job.
        let hand =
            |waiting: &Vec<mpsc::Sender<Signal>>| waiting.iter().for_each(|one| drop(one.try_send(signal.clone())));
        let (Signal::JobNew { unit } | Signal::JobRemoved { unit, .. }) = &signal else {
            ours.values().for_each(hand);
            return None;
        };
        match ours.get(unit) {
            Some(waiting) => hand(waiting),
            None => return Some(unit.clone()),
        }
        None
    }

    /// Forgets one who has stopped waiting for a job of this unit.
    fn forget(&self, unit: &str, heard: &mpsc::Sender<Signal>) {
        let mut ours = lock(&self.ours);
        let left = ours.get_mut(unit).map_or(0, |waiting| {
            waiting.retain(|one| !one.same_channel(heard));
            waiting.len()
        });
        if left == 0 {
            ours.remove(unit);
        }
    }
}

/// The bus, or the manager at its other end, went away under the call: another connection may bring an answer.
fn is_lost(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::InputOutput(_) => true,
        zbus::Error::FDO(error) => matches!(
            **error,
            zbus::fdo::Error::NoReply(_)
                | zbus::fdo::Error::Disconnected(_)
                | zbus::fdo::Error::ServiceUnknown(_)
                | zbus::fdo::Error::NameHasNoOwner(_)
        ),
        _ => false,
    }
}

fn gone_is_success(outcome: Result<(), SystemdError>) -> Result<(), SystemdError> {
    outcome.or_else(|error| if error.is_gone() { Ok(()) } else { Err(error) })
}

/// Runs a future on the connection's thread, and waits for it. `None` where it takes too long.
fn run<T: Send + 'static>(
    handle: &tokio::runtime::Handle,
    at_most: Duration,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (sender, outcome) = std::sync::mpsc::sync_channel(1);
    let task = handle.spawn(async move {
        let _ = sender.send(work.await);
    });
    let outcome = outcome.recv_timeout(at_most).ok();
    task.abort();
    outcome
}

/// The few sets here are taken for a moment and never while waiting.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
