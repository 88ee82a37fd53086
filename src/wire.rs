//! Requests and replies of the local socket, and their framing: varlink, one JSON object and a NUL byte per message.
//!
//! Pure: bytes in, values out. A daemon lives on over an upgrade of the command, so an order with something in it that the
//! daemon does not know is refused by name, and of a reply what is not known is passed over and what is missing is the
//! default. The interface itself is written down in `io.pinfold.varlink`, beside this file.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod adopt;
mod describe;
mod fault;
mod history;
mod inbox;
mod newer;
mod reload;
mod rest;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::argv::{CommandDigest, MaskedArgv};
use crate::confine::Confine;
use crate::container::{ContainerPlace, ContainerWish};
use crate::label::Labels;
use crate::limits::LimitWishes;
use crate::occurrence::Occurrence;
use crate::outcome::Outcome;
use crate::session::{Name, SessionId};
use crate::snapshot::SessionView;
use crate::timespan::TimeSpan;
use crate::timestamp::Timestamp;
pub use adopt::{Adopt, Adopted};
pub use describe::{Description, LimitState};
pub use fault::Fault;
pub use history::{Answer, By, ENDS_MAX, Group, Question};
pub use inbox::Inbox;
pub use newer::OLDER;
pub use reload::{LimitChange, LimitKept, LimitPlace, Reload, ReloadReply};
pub use rest::{NotParked, ParkReply, Parked, Rested, ThawReply, Whose};

/// The interface's description, as `varlinkctl introspect` shows it.
pub const DESCRIPTION: &str = include_str!("io.pinfold.varlink");

/// The name of our interface.
pub const INTERFACE: &str = "io.pinfold";

/// The longest message to the daemon, in bytes: a launch with the longest command line that is sent is far below.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;

/// The longest message from the daemon, in bytes: a list of the most servers that the table holds.
pub const REPLY_BYTES_MAX: usize = 64 << 20;

/// The most descriptors that come with a message.
pub const DESCRIPTORS_MAX: usize = 3;

/// A launch as the launcher asks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// `--session`.
    #[serde(default)]
    pub session: Option<SessionId>,
    /// `--server`, or what the command line launches.
    pub server: Name,
    /// Whether its name was given, as the name of an entry in a host's configuration.
    #[serde(default)]
    pub named: bool,
    /// `--host`.
    #[serde(default)]
    pub host: Option<Name>,
    /// The command line, for views.
    pub argv: MaskedArgv,
    /// What tells it from another one, the directory that it is run in included; `None`: only a given name does.
    #[serde(default)]
    pub command: Option<CommandDigest>,
    /// `--label`.
    #[serde(default)]
    pub labels: Labels,
    /// Limits that the launch asks for.
    #[serde(default)]
    pub limits: LimitWishes,
    /// `--grace`.
    #[serde(default)]
    pub grace: Option<TimeSpan>,
    /// It would run without containment rather than not at all.
    #[serde(default)]
    pub uncontained: bool,
    /// `--confine`; `None`: as the configuration says.
    #[serde(default)]
    pub confine: Option<Confine>,
    /// What it asks for the container that its command makes, where that does.
    #[serde(default)]
    pub container: Option<ContainerWish>,
    /// The socket of the engine that makes it, where it has one on this machine.
    #[serde(default)]
    pub container_engine: Option<String>,
    /// Whether its engine can be told to leave the container's monitor in the server's leaf.
    #[serde(default)]
    pub container_monitor: bool,
    /// Index of its stdin among the descriptors.
    #[serde(default)]
    pub stdin: Option<usize>,
    /// Index of its stderr.
    #[serde(default)]
    pub stderr: Option<usize>,
    /// Index of its own pidfd, for kernels without SO_PEERPIDFD (before 6.5).
    #[serde(default)]
    pub pidfd: Option<usize>,
}

/// The launcher is placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launched {
    /// Its session.
    pub session: SessionId,
    /// Its server's name.
    pub server: Name,
    /// What the session's directory is called.
    pub key: String,
    /// What its leaf is called.
    pub leaf: String,
    /// The leaf's directory.
    pub cgroup: String,
    /// The v1 hierarchies that hold a companion of the leaf: `memory`, `pids`.
    #[serde(default)]
    pub companions: Vec<String>,
    /// How the launcher is to confine itself before it execs.
    #[serde(default)]
    pub confine: Confine,
    /// Where the container of its command is to be. `None` where a daemon that knew of none answered.
    #[serde(default)]
    pub container: Option<ContainerPlace>,
    /// What an engine is told as `--cgroup-parent` for it, where that is inside.
    #[serde(default)]
    pub container_parent: Option<String>,
    /// Whether its engine is asked to remove it when its server has ended.
    #[serde(default)]
    pub container_removed: bool,
    /// Whether its engine is told to leave the monitor of a container that is outside in the leaf: it ends with its server.
    #[serde(default)]
    pub container_monitored: bool,
    /// Limits that were asked for and do not hold here.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What is to end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    /// This session.
    pub session: Option<SessionId>,
    /// Only this server of it: a name, or a leaf.
    pub server: Option<String>,
    /// All that this process owns.
    pub owner_pid: Option<i32>,
    /// All that the caller may end.
    pub all: bool,
    /// Of these only servers that carry all of these labels; where nothing else is named, all servers that do.
    pub labels: Labels,
    /// Of these only servers that were launched before.
    pub before: Option<Timestamp>,
    /// Of these only servers of this generation of the session.
    pub generation: Option<u64>,
    /// With no SIGTERM and no grace.
    pub now: bool,
    /// Reply when it is done.
    pub wait: bool,
}

/// A server that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its session.
    pub session: SessionId,
    /// Its name.
    pub server: Name,
    /// Its leaf.
    pub leaf: String,
    /// Why, and what the end did.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What was ended, and what is not gone yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndReply {
    /// Gone: the kernel said so.
    pub ended: Vec<Ended>,
    /// Leaves whose end is under way.
    pub pending: Vec<String>,
}

/// Labels for servers that live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Relabel {
    /// The servers of this session.
    pub session: Option<SessionId>,
    /// All that this process owns.
    pub owner_pid: Option<i32>,
    /// The server that this process belongs to.
    pub pid: Option<i32>,
    /// What they shall carry; a label that is there already gets this value.
    pub labels: Labels,
}

/// What was labelled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Relabelled {
    /// The servers' leaves.
    pub leaves: Vec<String>,
}

/// The answer to `Status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReply {
    /// The caller's session with this id; root's is told of one for each user that has it.
    pub sessions: Vec<SessionView>,
    /// Whether all processes of the machine were looked at for what escaped. Else there are more than that takes.
    #[serde(default)]
    pub complete: bool,
}

/// The answer to `NotExecuted`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Noted {}

/// The answer to `List`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListReply {
    /// The sessions that the caller may see.
    pub sessions: Vec<SessionView>,
}

/// What of all that happens is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Watch {
    /// Of this session only.
    pub session: Option<SessionId>,
    /// And what happens from now on, each as it does: `more` of the call.
    #[serde(skip)]
    pub follow: bool,
}

/// The answer to `Events`: what happened since the daemon started, as far as it is kept, oldest first; where it is followed
/// then what happens next, again and again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EventsReply {
    /// What happened.
    pub events: Vec<Occurrence>,
    /// How many more happened before these and are not told, because whoever follows did not keep up.
    #[serde(default)]
    pub missed: u64,
}

/// The answer to `Locate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Located {
    /// The session, with all its servers.
    pub session: SessionView,
    /// The leaf that holds the process.
    pub leaf: String,
}

/// What a client can ask.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// Place the caller.
    Launch(Box<Launch>),
    /// Place a process that runs already, with its whole tree.
    Adopt(Box<Adopt>),
    /// End something.
    End(End),
    /// Read the configuration anew.
    Reload(Reload),
    /// Freeze something, and give its memory back.
    Park(Rested),
    /// Have something go on.
    Thaw(Rested),
    /// Label something.
    Label(Relabel),
    /// List the sessions.
    List,
    /// Show one session, and look for what escaped from it.
    Status(SessionId),
    /// The caller, which was placed, cannot execute its command, for this errno.
    NotExecuted(i32),
    /// Find a process.
    Locate(i32),
    /// Tell what happened.
    Events(Watch),
    /// Tell what ended.
    History(Question),
    /// Tell about the daemon.
    Describe,
    /// `org.varlink.service.GetInfo`.
    GetInfo,
    /// `org.varlink.service.GetInterfaceDescription`.
    GetInterfaceDescription(String),
}

/// A message as it stands on the wire.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Message {
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Of a call: it is answered again and again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    more: bool,
    /// Of a reply: another one follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    continues: bool,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    parameters: Value,
}

/// One message is not one of ours.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It is not JSON, or not of varlink's form.
    #[error("the message is not varlink: {0}")]
    Malformed(String),
}

impl Call {
    /// The call as bytes, with the NUL at its end.
    pub fn encode(&self) -> Vec<u8> {
        let ours = |method: &str| format!("{INTERFACE}.{method}");
        let (method, parameters) = match self {
            Self::Launch(launch) => (ours("Launch"), to_value(launch)),
            Self::Adopt(adopt) => (ours("Adopt"), to_value(adopt)),
            Self::End(end) => (ours("End"), to_value(end)),
            Self::Reload(reload) => (ours("Reload"), to_value(reload)),
            Self::Park(wish) => (ours("Park"), to_value(wish)),
            Self::Thaw(wish) => (ours("Thaw"), to_value(wish)),
            Self::Label(relabel) => (ours("Label"), to_value(relabel)),
            Self::List => (ours("List"), Value::Null),
            Self::Status(id) => (ours("Status"), serde_json::json!({ "session": id })),
            Self::NotExecuted(errno) => (ours("NotExecuted"), serde_json::json!({ "errno": errno })),
            Self::Locate(pid) => (ours("Locate"), serde_json::json!({ "pid": pid })),
            Self::Events(watch) => (ours("Events"), serde_json::json!({ "session": watch.session })),
            Self::History(question) => (ours("History"), to_value(question)),
            Self::Describe => (ours("Describe"), Value::Null),
            Self::GetInfo => ("org.varlink.service.GetInfo".to_owned(), Value::Null),
            Self::GetInterfaceDescription(name) => {
                ("org.varlink.service.GetInterfaceDescription".to_owned(), serde_json::json!({ "interface": name }))
            }
        };
        let more = matches!(self, Self::Events(Watch { follow: true, .. }));
        frame(&Message { method: Some(method), more, parameters, ..Message::default() })
    }

    /// Reads a call from one message without its NUL: the call, or the fault to answer with.
    pub fn decode(message: &[u8]) -> Result<Result<Self, Fault>, WireError> {
        let message = parse(message)?;
        let method = message.method.ok_or_else(|| WireError::Malformed("it has no method".into()))?;
        Ok(Self::of(&method, message.parameters, message.more))
    }

    fn of(method: &str, parameters: Value, more: bool) -> Result<Self, Fault> {
        fn read<T: DeserializeOwned>(parameters: Value) -> Result<T, Fault> {
            let parameters = if parameters.is_null() { Value::Object(serde_json::Map::new()) } else { parameters };
            serde_json::from_value(parameters).map_err(|error| Fault::InvalidParameter(error.to_string()))
        }
        /// What changes something is read whole or not at all.
        fn order<T: DeserializeOwned>(parameters: Value) -> Result<T, Fault> {
            newer::refuse::<T>("", &parameters)?;
            read(parameters)
        }
        #[derive(Deserialize)]
        struct Pid {
            pid: i32,
        }
        #[derive(Deserialize)]
        struct Failed {
            errno: i32,
        }
        #[derive(Deserialize)]
        struct Session {
            session: SessionId,
        }
        #[derive(Deserialize)]
        struct Interface {
            interface: String,
        }
        match method {
            "io.pinfold.Launch" => {
                newer::refuse::<LimitWishes>("limits.", &parameters["limits"])?;
                Ok(Self::Launch(Box::new(order(parameters)?)))
            }
            "io.pinfold.Adopt" => {
                newer::refuse::<LimitWishes>("limits.", &parameters["limits"])?;
                Ok(Self::Adopt(Box::new(order(parameters)?)))
            }
            "io.pinfold.End" => Ok(Self::End(order(parameters)?)),
            "io.pinfold.Reload" => Ok(Self::Reload(order(parameters)?)),
            "io.pinfold.Park" => Ok(Self::Park(order(parameters)?)),
            "io.pinfold.Thaw" => Ok(Self::Thaw(order(parameters)?)),
            "io.pinfold.Label" => Ok(Self::Label(order(parameters)?)),
            "io.pinfold.List" => Ok(Self::List),
            "io.pinfold.Status" => Ok(Self::Status(read::<Session>(parameters)?.session)),
            "io.pinfold.NotExecuted" => Ok(Self::NotExecuted(order::<Failed>(parameters)?.errno)),
            "io.pinfold.Locate" => Ok(Self::Locate(read::<Pid>(parameters)?.pid)),
            "io.pinfold.Events" => Ok(Self::Events(Watch { follow: more, ..read(parameters)? })),
            "io.pinfold.History" => Ok(Self::History(read(parameters)?)),
            "io.pinfold.Describe" => Ok(Self::Describe),
            "org.varlink.service.GetInfo" => Ok(Self::GetInfo),
            "org.varlink.service.GetInterfaceDescription" => {
                Ok(Self::GetInterfaceDescription(read::<Interface>(parameters)?.interface))
            }
            other => Err(Fault::MethodNotFound(other.to_owned())),
        }
    }
}

/// A reply as bytes: what was asked for.
pub fn encode_reply<T: Serialize>(reply: &T) -> Vec<u8> {
    frame(&Message { parameters: to_value(reply), ..Message::default() })
}

/// The same, where another one follows.
pub fn encode_reply_of_many<T: Serialize>(reply: &T) -> Vec<u8> {
    frame(&Message { parameters: to_value(reply), continues: true, ..Message::default() })
}

/// Reads a reply from one message without its NUL.
pub fn decode_reply<T: DeserializeOwned>(message: &[u8]) -> Result<Result<T, Fault>, WireError> {
    let message = parse(message)?;
    match message.error {
        Some(error) => Fault::of(&error, &message.parameters).map(Err),
        None => {
            serde_json::from_value(message.parameters).map(Ok).map_err(|error| WireError::Malformed(error.to_string()))
        }
    }
}

fn parse(message: &[u8]) -> Result<Message, WireError> {
    serde_json::from_slice(message).map_err(|error| WireError::Malformed(error.to_string()))
}

fn to_value<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("our own messages are JSON: their keys are strings")
}

fn frame(message: &Message) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(message).expect("a message is JSON");
    bytes.push(0);
    bytes
}
