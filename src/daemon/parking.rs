//! The driver's side of idle servers that live on: when their memory is given back, when they are frozen, and that they are
//! awake before anything else happens to them.
//!
//! While a server is frozen its held stdin is watched for input, too, without a byte of it being read; the thaw is the
//! driver's own write, so that whatever is done for a server afterwards finds it awake. A server whose stdin is not watched
//! is never frozen, and none is where nobody would thaw what a dead daemon froze ([`super::supervision`]).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};

use super::driver::Driver;
use super::fair::{FairTurns, Queue, Turn};
use super::message::Message;
use super::reclaiming::{self, Outcome, Park, Task};
use super::stdin;
use super::table::Server;
use crate::cgroup::{Leaf, Order, Reclaimed};
use crate::chain::chain;
use crate::lifecycle::{Event, Idle, Moment, ParkReason, Rest, Spans, State, ThawReason, Want};
use crate::limits::Bytes;
use crate::occurrence::What;
use crate::policy::{Grant, Offer};
use crate::records::Resting;
use crate::timestamp::Timestamp;

/// How many servers give memory back at a time: they share one disk.
const TURNS: usize = 2;

/// After how long one that the kernel holds up lets others have its turn, and its user has one less.
const TURN_MAX: Duration = Duration::from_secs(30);

/// How long a thaw may take until the kernel tells that all of a leaf may run.
const THAW_MAX: Duration = Duration::from_secs(5);

/// The wait before a thaw is tried again that the kernel refused.
const THAW_PAUSE: Duration = Duration::from_millis(500);

/// How long what is parked keeps its memory before more of it is given back, where the machine was short of something: that is
/// the span over which the kernel tells it.
const POSTPONED: Duration = Duration::from_secs(10);

/// How a server rests, as only this daemon knows it: the next one finds all of them awake.
#[derive(Debug, Default)]
pub(super) struct Nap {
    pub(super) rest: Rest,
    /// Under which it is frozen and reclaimed.
    pub(super) order: Option<Arc<Order>>,
    /// Since when it is parked.
    pub(super) since: Option<(Timestamp, Moment)>,
    /// For how long it was, in all.
    pub(super) parked: Duration,
    /// What was charged to it before its memory was last given back.
    pub(super) before: Option<Bytes>,
    /// The kernel refused to thaw it, which was told and is tried again.
    stuck: bool,
    /// It was not to be parked when that was last tried, and has done nothing since.
    refused: bool,
    why: Option<ParkReason>,
    /// Who waits for it to be parked.
    pub(super) waiter: Option<oneshot::Sender<Result<Reclaimed, String>>>,
}

/// The turns of those that give memory back.
pub(super) fn reclaimers() -> FairTurns {
    FairTurns::new(TURNS, TURNS)
}

/// What a grant says of idle servers.
pub(super) fn resting(grant: &Grant) -> Resting {
    Resting {
        trim_after: grant.trim_after.at(),
        park_after: grant.park_after.at(),
        reachable: grant.park_reachable,
        swap: grant.idle_swap,
        swap_max: grant.server.memory_swap_max,
    }
}

/// After how long what follows, together with the span after which it ends.
pub(super) fn spans(resting: &Resting, idle_after: Option<crate::timespan::TimeSpan>) -> Spans {
    Spans { trim: resting.trim_after, park: resting.park_after, end: idle_after }
}

impl Driver {
    /// It has been idle for so long, or did something: `None`.
    pub(super) fn rest(&mut self, number: u64, idle: Option<Duration>) {
        let parks = self.offers.park == Offer::Holds;
        let Some(server) = self.table.servers.get_mut(&number).filter(|server| server.state == State::Running) else {
            return;
        };
        let Some(idle) = idle else {
            match server.nap.rest {
                // It may have waited for its turn until now, or be under way: what is in use is left alone.
                Rest::Trimming => {
                    server.nap.order.take().inspect(|order| order.call_off());
                    server.nap.rest = Rest::Awake;
                }
                Rest::Trimmed => server.nap.rest = Rest::Awake,
                Rest::Awake | Rest::Parking | Rest::Parked => {}
            }
            server.nap.refused = false;
            return;
        };
        let Some(watch) = &server.idle else { return };
        // An engine speaks to what it has in its container.
        let may_park = parks && server.stdin.is_some() && server.container.is_none() && !server.nap.refused;
        match server.nap.rest.wants(watch.spans(), idle, may_park) {
            Want::Nothing => {}
            Want::Trim => self.begin_rest(number, None),
            Want::Park => {
                let reachable = server.resting.reachable;
                let idle = watch.baseline().map(|activity| (activity.clone(), idle));
                self.begin_rest(number, Some((Park { reachable, idle }, ParkReason::Idle)));
            }
        }
    }

    /// Has a server trimmed, or parked.
    pub(super) fn begin_rest(&mut self, number: u64, park: Option<(Park, ParkReason)>) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        let Some(leaf) = server.leaf.clone() else { return };
        let order = Arc::new(Order::default());
        server.nap.order = Some(order.clone());
        server.nap.rest = if park.is_some() { Rest::Parking } else { Rest::Trimming };
        server.nap.why = park.as_ref().map(|(_, why)| *why);
        if let Some(held) = server.stdin.as_ref().filter(|_| park.is_some())
            && let Err(error) = self.watcher.watch_input(held, number, true)
        {
            tracing::warn!(%error, leaf = leaf.name().as_str(), "its stdin cannot be watched for input; it is not parked");
            self.refuse_park(number, "its stdin cannot be watched for input");
            return;
        }
        let task = Task { leaf, order, swap: server.resting.swap, park: park.map(|(park, _)| park) };
        let queue = self.reclaimers.of(self.table.uid(number));
        tokio::spawn(give_back(number, task, queue, self.outbox.clone()));
    }

    /// A server's memory was given back, or was not.
    pub(super) fn rested(&mut self, number: u64, order: &Arc<Order>, outcome: Outcome) {
        let now = self.now();
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        let is_current = server.nap.order.as_ref().is_some_and(|current| Arc::ptr_eq(current, order));
        // Whoever woke it has taken the order, and has told of that.
        if !is_current {
            return;
        }
        let parks = server.nap.rest == Rest::Parking;
        match outcome {
            Outcome::Reclaimed(reclaimed) => {
                if let Some(idle) = &mut server.idle {
                    idle.was_reclaimed();
                }
                if server.nap.rest != Rest::Parked {
                    server.nap.before = Some(reclaimed.before);
                    server.nap.since = parks.then(|| (Timestamp::of(SystemTime::now()), now));
                    server.nap.rest = match () {
                        () if parks => Rest::Parked,
                        // The next reading that finds it idle tries that again.
                        () if reclaimed.stop.is_for_now() => Rest::Awake,
                        () => Rest::Trimmed,
                    };
                }
                if let Some(waiter) = server.nap.waiter.take() {
                    let _ = waiter.send(Ok(reclaimed));
                }
                let is_over = parks || !reclaimed.stop.is_for_now();
                if !is_over && !reclaimed.gave_back() {
                    return;
                }
                let Reclaimed { before, after, swap, .. } = reclaimed;
                let (before_bytes, after_bytes, swap_bytes) = (before, after, swap);
                let reason = server.nap.why.filter(|_| parks);
                self.occurred(
                    number,
                    match reason {
                        Some(reason) => What::Parked { reason, before_bytes, after_bytes, swap_bytes },
                        None => What::Trimmed { before_bytes, after_bytes, swap_bytes },
                    },
                );
            }
            Outcome::CalledOff => {}
            Outcome::Stirs => {
                // Nothing is done instead.
                server.nap.why = None;
                self.refuse_park(number, "it is doing something");
            }
            Outcome::NotParked(why) => self.refuse_park(number, &why),
            Outcome::Failed(why) => {
                let leaf = server.leaf_name.as_str();
                tracing::warn!(leaf, "the memory of an idle server is not given back: {why}");
                if server.nap.rest != Rest::Parked {
                    self.refuse_park(number, &why);
                }
            }
        }
    }

    /// It is not parked, and awake. What was to be parked for being idle is trimmed instead, once.
    fn refuse_park(&mut self, number: u64, why: &str) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        let was = (server.nap.rest, server.nap.why.take());
        tracing::debug!(leaf = server.leaf_name.as_str(), why, "it is not parked");
        server.nap.refused = true;
        server.nap.rest = Rest::Trimmed;
        if let Some(waiter) = server.nap.waiter.take() {
            let _ = waiter.send(Err(why.to_owned()));
        }
        let (leaf, order) = (server.leaf.clone(), server.nap.order.clone());
        self.watch_hang_up(number);
        let is_thawed =
            leaf.zip(order).is_none_or(|(leaf, order)| self.undo(number, &leaf, order, ThawReason::Requested));
        if is_thawed && was == (Rest::Parking, Some(ParkReason::Idle)) {
            self.begin_rest(number, None);
        }
    }

    /// Calls an order off, and thaws what it froze; `false` where the kernel refuses that, which is tried again as long as no other
    /// order takes its place.
    fn undo(&mut self, number: u64, leaf: &Leaf, order: Arc<Order>, reason: ThawReason) -> bool {
        let thawed = leaf.thaw(&order);
        let Some(server) = self.table.servers.get_mut(&number) else { return true };
        let was_stuck = std::mem::replace(&mut server.nap.stuck, thawed.is_err());
        let Err(error) = thawed else { return true };
        if !was_stuck {
            tracing::error!(leaf = leaf.name().as_str(), error = %chain(&error), "a server cannot be thawed; trying again");
        }
        server.nap.order = Some(order.clone());
        self.later(THAW_PAUSE, Message::ThawAgain(number, order, reason));
        false
    }

    /// From now on only a hang-up of its stdin is of interest.
    fn watch_hang_up(&self, number: u64) {
        if let Some(held) = self.table.servers.get(&number).and_then(|server| server.stdin.as_ref())
            && let Err(error) = self.watcher.watch_input(held, number, false)
        {
            tracing::warn!(%error, "a stdin cannot be watched any more");
        }
    }

    /// The held stdin spoke: it hung up, or something was written to it while its server was frozen.
    pub(super) fn stdin_spoke(&mut self, number: u64) {
        let Some(server) = self.table.servers.get(&number) else { return };
        let hung_up = server.stdin.as_ref().is_none_or(|held| stdin::has_hung_up(held.as_fd()));
        self.wake(number, if hung_up { ThawReason::Closed } else { ThawReason::Input });
        if hung_up {
            self.feed(number, Event::StdinClosed);
        } else {
            self.watch_hang_up(number);
        }
    }

    /// Has a server go on, if it rests. When this returns it is thawed; or, where the kernel refuses, that is tried again until
    /// it is done or the server is gone.
    pub(super) fn wake(&mut self, number: u64, reason: ThawReason) {
        let asked = Instant::now();
        let now = self.now();
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        let Some(order) = server.nap.order.take() else { return };
        let (rest, since) = (std::mem::take(&mut server.nap.rest), server.nap.since.take());
        server.nap.refused = false;
        if let Some(waiter) = server.nap.waiter.take() {
            let _ = waiter.send(Err(format!("it was wanted again: {reason}")));
        }
        // Idle is what it is from here on.
        server.idle = server.idle.as_ref().and_then(|idle| Idle::begin(idle.spans(), now));
        let Some(leaf) = server.leaf.clone() else { return };
        self.undo(number, &leaf, order, reason);
        if rest.is_frozen() {
            self.watch_hang_up(number);
        }
        if let Some((_, since)) = since {
            let parked = now.saturating_sub(since);
            if let Some(server) = self.table.servers.get_mut(&number) {
                server.nap.parked += parked;
            }
            let parked_seconds = parked.as_secs_f64();
            self.thawed(number, leaf, (reason, asked, parked_seconds));
        }
    }

    /// Has a server go on that the daemon before this one left frozen, where that could not be thawed so far.
    pub(super) fn thaw_adopted(&mut self, number: u64) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        if server.leaf.as_ref().is_some_and(|leaf| leaf.is_frozen().unwrap_or(false)) {
            server.nap.order = Some(Arc::default());
            self.wake(number, ThawReason::Requested);
        }
    }

    /// A thaw failed a moment ago.
    pub(super) fn thaw_again(&mut self, number: u64, order: &Arc<Order>, reason: ThawReason) {
        let nap = self.table.servers.get(&number).map(|server| &server.nap);
        if nap.and_then(|nap| nap.order.as_ref()).is_some_and(|current| Arc::ptr_eq(current, order)) {
            self.wake(number, reason);
        }
    }

    /// Tells of a thaw once the kernel says that all of the leaf may run.
    fn thawed(&mut self, number: u64, leaf: Arc<Leaf>, (reason, asked, parked_seconds): (ThawReason, Instant, f64)) {
        let Some(about) = self.about(number) else { return };
        // Mostly it says so at once; a daemon that stops, or ends the server, waits for no more than that.
        let runs = leaf.is_frozen().is_ok_and(|frozen| !frozen);
        let told = move |runs: bool| What::Thawed {
            reason,
            parked_seconds,
            thaw_seconds: runs.then(|| asked.elapsed().as_secs_f64()),
        };
        if runs {
            self.occurred_to(about, told(true));
            return;
        }
        let outbox = self.outbox.clone();
        tokio::spawn(async move {
            let wait = tokio::task::spawn_blocking(move || leaf.wait_frozen(false, THAW_MAX).unwrap_or(false));
            let what = told(wait.await.unwrap_or(false));
            let _ = outbox.send(Message::Thawed(Box::new((about, what)))).await;
        });
    }

    /// Has all that rests go on.
    pub(super) fn wake_all(&mut self, reason: ThawReason) {
        let resting = self.table.servers.iter().filter(|(_, server)| server.nap.order.is_some());
        for number in resting.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.wake(number, reason);
        }
    }

    /// How many servers are parked.
    pub(super) fn parked(&self) -> usize {
        self.table.servers.values().filter(|server| server.is_parked()).count()
    }
}

/// Gives back the memory of one server, as its turn comes. Where the machine is short of something, what is frozen keeps the
/// rest of it for a while; what goes on is tried again when it is found idle the next time.
async fn give_back(number: u64, mut task: Task, queue: Queue, outbox: mpsc::Sender<Message>) {
    let frozen = task.park.is_some();
    loop {
        let Some(Turn { own, shared }) = queue.turn().await else { return };
        let work = {
            let task = task.clone();
            move || {
                let outcome = if task.order.is_off() { Outcome::CalledOff } else { reclaiming::run(&task) };
                drop(own);
                outcome
            }
        };
        let mut work = tokio::task::spawn_blocking(work);
        let in_time = tokio::time::timeout(TURN_MAX, &mut work).await;
        drop(shared);
        let done = match in_time {
            Ok(done) => done,
            Err(_) => work.await,
        };
        let Ok(outcome) = done else { return };
        let more = matches!(&outcome, Outcome::Reclaimed(reclaimed) if reclaimed.stop.is_for_now()) && frozen;
        if outbox.send(Message::Rested(number, task.order.clone(), Box::new(outcome))).await.is_err() || !more {
            return;
        }
        tokio::time::sleep(POSTPONED).await;
        if task.order.is_off() {
            return;
        }
        task.park = None;
    }
}

impl Server {
    /// Whether it is frozen, with its memory given back as far as the machine allowed it.
    pub(super) fn is_parked(&self) -> bool {
        self.state == State::Running && self.nap.rest == Rest::Parked
    }
}
