//! What others ask of the driver, and what its own work reports to it.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::adopting::AdoptRequest;
use super::chronicle::{About, Following};
use super::escapes::Escapees;
use super::idling::Readings;
use super::jobs::Done;
use super::launching::LaunchRequest;
use super::outside::First;
use super::placing::Admitted;
use super::publish::Entry;
use super::reclaiming::Outcome;
use super::reload::{Applied, Asker, Loaded};
use super::scrape::Facts;
use super::table::Job;
use crate::cgroup::{Caller, Order};
use crate::lifecycle::ThawReason;
use crate::occurrence::What;
use crate::policy::Configured;
use crate::realm::Realm;
use crate::wire::{End, EndReply, Fault, Launched, ParkReply, Relabel, Relabelled, Rested, ThawReply};

/// Messages that may wait for the driver.
pub(super) const INBOX: usize = 256;

/// Who calls, as the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) pid: i32,
    /// Whose sessions it may see and end at most.
    pub(super) realm: Realm,
}

impl Peer {
    /// Whether it may see a user's session, and, unless it stands in a leaf, end it: its own, or root's all, in its realm.
    pub(super) fn reaches(self, uid: u32, realm: Realm) -> bool {
        (self.uid == 0 || self.uid == uid) && self.realm.reaches(realm)
    }
}

/// What others ask of the driver, and what its own work reports.
#[derive(Debug)]
pub(super) enum Message {
    Launch(Box<LaunchRequest>, oneshot::Sender<Result<Launched, Fault>>),
    /// Contain what runs already.
    Adopt(Box<AdoptRequest>, oneshot::Sender<Result<Launched, Fault>>),
    Admitted(u64, Box<Admitted>),
    /// The launcher has waited for its place for long enough.
    Overdue(u64),
    JobDone(u64, Job, Done),
    /// What servers that may be idle have done.
    Readings(Readings),
    /// The memory of an idle server was given back under this order, or was not.
    Rested(u64, Arc<Order>, Box<Outcome>),
    /// A thaw under this order failed: try again.
    ThawAgain(u64, Arc<Order>, ThawReason),
    /// The kernel told of a thaw.
    Thawed(Box<(About, What)>),
    /// A fact may have come to be: look again.
    LookAgain(u64),
    RemovalFailed(u64),
    /// systemd has a job for this unit that is not ours.
    Stopped(String),
    /// Nothing of this server, and of its session if it was the last, is left.
    Gone(u64),
    /// And no record tells of one any more.
    LetGo,
    End {
        peer: Peer,
        inside: Option<Caller>,
        wish: End,
        reply: oneshot::Sender<Result<EndReply, Fault>>,
    },
    /// A launcher that was placed cannot execute its command, for this errno. Tells whether there is one.
    NotExecuted(Peer, i32, oneshot::Sender<bool>),
    Park {
        peer: Peer,
        inside: Option<Caller>,
        wish: Rested,
        reply: oneshot::Sender<Result<ParkReply, Fault>>,
    },
    Thaw {
        peer: Peer,
        inside: Option<Caller>,
        wish: Rested,
        reply: oneshot::Sender<Result<ThawReply, Fault>>,
    },
    Label {
        peer: Peer,
        inside: Option<Caller>,
        /// The leaf that holds the process it names.
        holder: Option<Caller>,
        wish: Relabel,
        reply: oneshot::Sender<Result<Relabelled, Fault>>,
    },
    /// Processes of this server were seen outside its leaf.
    /// The first processes of what a server has outside.
    ContainerFound(u64, Vec<First>),
    Escaped(u64, Escapees),
    List {
        peer: Peer,
        reply: oneshot::Sender<Vec<Entry>>,
    },
    /// What metrics are made from.
    Facts(oneshot::Sender<Facts>),
    /// What happened, and what will.
    Follow(oneshot::Sender<Following>),
    /// What is counted, and the configuration file that is in use.
    Describe(oneshot::Sender<(Counts, Option<PathBuf>)>),
    /// The configuration files of hosts say something else: those that were named by the settings of this number.
    Configured(u64, Configured),
    /// The configuration is to be read anew.
    Reload {
        force: bool,
        reply: Option<Asker>,
    },
    /// It was read, or is wrong.
    Loaded(Box<Result<Loaded, String>>),
    /// What lives has its limits by it.
    Applied(Box<Applied>),
    Stop,
}

/// Counted since the daemon started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) launches: u64,
    pub(super) refusals: u64,
    pub(super) uncontained: u64,
    pub(super) delayed: u64,
    pub(super) storms: u64,
}
