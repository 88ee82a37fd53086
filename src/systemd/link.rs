//! One living connection to a manager, with its subscription; made anew when the bus goes away.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::watch;
use zbus::message::Type;
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant};

use super::bus::{Bus, UserBus};
use super::error::Reason;
use super::names::unit_path;
use super::private;
use super::properties::Properties;

/// The manager's well-known name.
const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const JOB: &str = "org.freedesktop.systemd1.Job";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// How long a new connection may take.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);

/// The first pause before the connection is made anew; it doubles up to [`AGAIN_MOST`].
const AGAIN: Duration = Duration::from_millis(100);

/// The longest pause before the connection is made anew.
const AGAIN_MOST: Duration = Duration::from_secs(10);

/// How long a manager may reload before it is no longer waited for.
const SUBSCRIBE_MAX: Duration = Duration::from_secs(60);

/// How many signals of one kind may wait to be handed on.
const SIGNALS: usize = 4096;

/// What the manager tells.
#[derive(Debug, Clone)]
pub(super) enum Signal {
    /// A job was made for a unit.
    JobNew { unit: String },
    /// A job is over.
    JobRemoved { job: OwnedObjectPath, unit: String, result: String },
    /// Signals may have been missed: the connection is a new one, or the manager reloads.
    Missed,
}

/// A connection that lives, as far as is known.
#[derive(Debug, Clone)]
pub(super) struct Link {
    connection: Connection,
}

impl Link {
    /// Connects, subscribes, and gives the streams of signals.
    pub(super) async fn open(bus: &Bus) -> Result<(Self, Streams), Reason> {
        let made = tokio::time::timeout(CONNECT_MAX, Self::make(bus)).await;
        made.map_err(|_| Reason::TooSlow(CONNECT_MAX))?.map_err(Reason::from)
    }

    async fn make(bus: &Bus) -> zbus::Result<(Self, Streams)> {
        use zbus::connection::Builder;
        let builder = match bus {
            Bus::System => Builder::system(),
            Bus::User(UserBus::Socket(path)) => {
                std::os::unix::net::UnixStream::connect(path).map(Builder::unix_stream)?
            }
            Bus::User(UserBus::Private(path)) => {
                let (socket, id) = private::connect(path).await?;
                Builder::authenticated_socket(socket, id).p2p()
            }
        };
        let link = Self { connection: builder.build().await? };
        let streams = Streams {
            new: link.signal("JobNew").await?,
            removed: link.signal("JobRemoved").await?,
            reloading: link.signal("Reloading").await?,
            owner: link.owner_changes().await?,
        };
        link.subscribe().await?;
        Ok((link, streams))
    }

    /// Asks for signals. That it was asked already is no matter.
    async fn subscribe(&self) -> zbus::Result<()> {
        match self.call(PATH, MANAGER, "Subscribe", &()).await {
            Err(zbus::Error::MethodError(name, ..)) if name.as_str().ends_with("AlreadySubscribed") => Ok(()),
            other => other.map(drop),
        }
    }

    /// The manager's name passing on: it was executed anew.
    async fn owner_changes(&self) -> zbus::Result<MessageStream> {
        const BUS: &str = "org.freedesktop.DBus";
        let rule = MatchRule::builder().msg_type(Type::Signal).interface(BUS).member("NameOwnerChanged");
        MessageStream::for_match_rule(rule.arg(0, NAME).build()?, &self.connection, None).await
    }

    async fn signal(&self, member: &'static str) -> zbus::Result<MessageStream> {
        let rule = MatchRule::builder().msg_type(Type::Signal).interface(MANAGER).member(member);
        let rule = if self.connection.is_bus() { rule.sender(NAME) } else { rule };
        let room = std::num::NonZeroUsize::new(SIGNALS);
        MessageStream::for_match_rule(rule.build()?, &self.connection, room).await
    }

    /// Makes a transient unit, and one beside it, and starts it in this job mode; gives the job.
    pub(super) async fn start_transient_unit(
        &self,
        unit: &str,
        mode: &str,
        properties: &Properties,
        beside: Option<&(String, Properties)>,
    ) -> zbus::Result<OwnedObjectPath> {
        let properties = properties.to_variants()?;
        let beside = beside.map(|(unit, properties)| Ok::<_, zbus::Error>((unit.as_str(), properties.to_variants()?)));
        let beside: Vec<_> = beside.transpose()?.into_iter().collect();
        let body = (unit, mode, properties, beside);
        self.call(PATH, MANAGER, "StartTransientUnit", &body).await?.body().deserialize()
    }

    /// Starts a unit that is installed; gives the job.
    pub(super) async fn start_unit(&self, unit: &str) -> zbus::Result<OwnedObjectPath> {
        self.call(PATH, MANAGER, "StartUnit", &(unit, "replace")).await?.body().deserialize()
    }

    /// Stops a unit; gives the job.
    pub(super) async fn stop_unit(&self, unit: &str) -> zbus::Result<OwnedObjectPath> {
        self.call(PATH, MANAGER, "StopUnit", &(unit, "replace")).await?.body().deserialize()
    }

    /// Lets go of a failed unit.
    pub(super) async fn reset_failed_unit(&self, unit: &str) -> zbus::Result<()> {
        self.call(PATH, MANAGER, "ResetFailedUnit", &(unit,)).await.map(drop)
    }

    /// Changes properties until the next boot.
    pub(super) async fn set_unit_properties(&self, unit: &str, properties: &Properties) -> zbus::Result<()> {
        let body = (unit, true, properties.to_variants()?);
        self.call(PATH, MANAGER, "SetUnitProperties", &body).await.map(drop)
    }

    /// Moves a process into a cgroup below that of a delegated unit.
    pub(super) async fn attach_process(&self, unit: &str, below: &str, pid: u32) -> zbus::Result<()> {
        self.call(PATH, MANAGER, "AttachProcessesToUnit", &(unit, below, vec![pid])).await.map(drop)
    }

    /// All properties of a unit that are of its kind (`Service`, `Slice`…).
    pub(super) async fn unit_properties(&self, unit: &str) -> zbus::Result<HashMap<String, OwnedVariant>> {
        let kind = unit.rsplit_once('.').map_or("", |(_, kind)| kind);
        let capital = kind.get(..1).unwrap_or_default().to_uppercase();
        let interface = format!("{NAME}.{capital}{}", kind.get(1..).unwrap_or_default());
        self.call(&unit_path(unit), PROPERTIES, "GetAll", &(interface,)).await?.body().deserialize()
    }

    /// Whether a job is still to be done.
    pub(super) async fn has_job(&self, job: &OwnedObjectPath) -> bool {
        self.property(Some(job.as_str()), Some(JOB), "State").await.is_ok()
    }

    /// A property of a unit.
    pub(super) async fn unit_property(&self, unit: &str, interface: &str, name: &str) -> zbus::Result<OwnedVariant> {
        self.property(Some(&unit_path(unit)), Some(interface), name).await
    }

    /// A property of an object; of the manager where no path is given.
    pub(super) async fn property(
        &self,
        path: Option<&str>,
        interface: Option<&str>,
        name: &str,
    ) -> zbus::Result<OwnedVariant> {
        let body = (interface.unwrap_or(MANAGER), name);
        self.call(path.unwrap_or(PATH), PROPERTIES, "Get", &body).await?.body().deserialize()
    }

    async fn call<B>(&self, path: &str, interface: &str, method: &str, body: &B) -> zbus::Result<zbus::Message>
    where
        B: serde::Serialize + zbus::wire::DynamicType,
    {
        let to = self.connection.is_bus().then_some(NAME);
        self.connection.call_method(to, path, Some(interface), method, body).await
    }
}

/// The signals of one connection.
#[derive(Debug)]
pub(super) struct Streams {
    new: MessageStream,
    removed: MessageStream,
    reloading: MessageStream,
    owner: MessageStream,
}

impl Streams {
    /// The next signal; `None` when the connection is lost.
    async fn next(&mut self) -> Option<Signal> {
        loop {
            let (message, is_new) = tokio::select! {
                message = next(&mut self.new) => (message, true),
                message = next(&mut self.removed) => (message, false),
                message = next(&mut self.reloading) => {
                    message?.ok()?;
                    return Some(Signal::Missed);
                }
                message = next(&mut self.owner) => {
                    message?.ok()?;
                    return Some(Signal::Missed);
                }
            };
            let body = message?.ok()?.body();
            let signal = if is_new {
                body.deserialize::<(u32, OwnedObjectPath, String)>().map(|(_, _, unit)| Signal::JobNew { unit })
            } else {
                body.deserialize::<(u32, OwnedObjectPath, String, String)>()
                    .map(|(_, job, unit, result)| Signal::JobRemoved { job, unit, result })
            };
            // What is not as the interface says tells nothing.
            if let Ok(signal) = signal {
                return Some(signal);
            }
        }
    }
}

async fn next(stream: &mut MessageStream) -> Option<zbus::Result<zbus::Message>> {
    std::future::poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

/// Hands every signal on, and makes the connection anew whenever it is lost: for ever.
pub(super) async fn keep(
    bus: Bus,
    (mut link, mut streams): (Link, Streams),
    links: Arc<watch::Sender<Option<Link>>>,
    heed: impl Fn(Signal),
) {
    loop {
        while let Some(signal) = streams.next().await {
            if matches!(signal, Signal::Missed) {
                // A manager that reloads forgets who subscribed (seen with 257). It answers when it is done.
                let link = link.clone();
                tokio::spawn(async move { tokio::time::timeout(SUBSCRIBE_MAX, link.subscribe()).await });
            }
            heed(signal);
        }
        links.send_replace(None);
        tracing::debug!("the connection to {} is lost", bus.word());
        let mut pause = AGAIN;
        (link, streams) = loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN_MOST);
            match Link::open(&bus).await {
                Ok((link, streams)) => {
                    links.send_replace(Some(link.clone()));
                    break (link, streams);
                }
                Err(error) => tracing::debug!(%error, "{} cannot be reached yet", bus.word()),
            }
        };
        tracing::debug!("connected to {} again", bus.word());
        heed(Signal::Missed);
    }
}
