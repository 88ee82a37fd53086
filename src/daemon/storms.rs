//! The driver's side of launches that come too often: they wait for their turn, in the order in which they came, and are
//! refused where it does not come in time.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::oneshot;

use super::admission::Denial;
use super::chronicle::About;
use super::driver::Driver;
use super::launching::{LaunchRequest, Plan};
use super::log::LINES;
use super::tell;
use super::watch::Source as Watched;
use crate::lifecycle::Moment;
use crate::occurrence::What;
use crate::policy::{self, Buckets, Source};
use crate::realm::Realm;
use crate::wire::{Fault, Launched};

/// The most launches of one user that wait at a time: each holds a connection, of which a user has so many. One more is
/// refused at once.
const WAITING_MAX: usize = 64;

/// How long a launch waits before its stderr is told why nothing happens.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// Who launched how often, and what waits for its turn.
#[derive(Debug, Default)]
pub(super) struct Storms {
    buckets: Buckets,
    /// In the order of their arrival.
    waiting: BTreeMap<u64, Waiting>,
}

/// A launch that waits.
#[derive(Debug)]
struct Waiting {
    request: LaunchRequest,
    source: Source,
    reply: oneshot::Sender<Result<Launched, Fault>>,
    arrived: Moment,
    /// When it is tried again.
    next: Moment,
    /// When it is refused.
    until: Moment,
    /// When its stderr is told that it waits, unless it has been.
    tell_at: Option<Moment>,
}

impl Storms {
    /// When something happens to a launch that waits.
    pub(super) fn next_turn(&self) -> Option<Moment> {
        self.waiting
            .values()
            .flat_map(|waiting| [Some(waiting.next.min(waiting.until)), waiting.tell_at])
            .flatten()
            .min()
    }

    /// Whether a launch waits.
    pub(super) fn are_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl Driver {
    /// A launch that is granted goes ahead, or waits for its turn, or is refused because too many wait already.
    pub(super) fn take_turn(
        &mut self,
        request: LaunchRequest,
        plan: Plan,
        reply: oneshot::Sender<Result<Launched, Fault>>,
    ) {
        let (now, rate) = (self.now(), self.settings.launches);
        let source = plan.source(&request);
        let ahead = self.storms.waiting.values().any(|waiting| waiting.source.is_same(&source));
        // Whoever has waited goes first: it is looked at at once, and this launch after it.
        let taken = if ahead { Err(now) } else { self.take_token(&source, request.peer.realm) };
        let Err(next) = taken else { return self.go_ahead(request, plan, reply) };
        let user = |source: &Source| (source.uid, source.in_container);
        let of_user = self.storms.waiting.values().filter(|waiting| user(&waiting.source) == user(&source)).count();
        if rate.wait_max.is_zero() || of_user >= WAITING_MAX {
            let refusal = policy::too_often(&source, &rate);
            return self.turn_away(&request, Denial::lasting(refusal), reply);
        }
        self.counts.delayed += u64::from(!ahead);
        let number = self.table.number();
        if let Err(error) = self.watcher.watch(&request.pidfd, Watched::Waiting(number)) {
            tracing::warn!(%error, "a launcher that waits cannot be watched");
        }
        let waiting = Waiting {
            request,
            source,
            reply,
            arrived: now,
            next,
            until: now + rate.wait_max,
            tell_at: Some(now + SILENT_MAX),
        };
        self.storms.waiting.insert(number, waiting);
    }

    /// Takes a token for a launch, or tells when there may be one.
    fn take_token(&mut self, source: &Source, realm: Realm) -> Result<(), Moment> {
        let now = self.now();
        let Err(empty) = self.storms.buckets.take(&self.settings.launches, source, now) else { return Ok(()) };
        if empty.begins {
            self.counts.storms += 1;
            tracing::warn!(
                target: LINES, server = %source.server, pid = source.owner.pid, owner = source.kind, uid = source.uid,
                "a server is launched too often; its launches wait from now on"
            );
            let server = source.server.clone();
            let about = About { uid: source.uid, realm, session: None, key: None, host: None, server, leaf: None };
            self.occurred_to(about, What::Storm { owner_pid: source.owner.pid, owner: source.kind.clone() });
        }
        Err(empty.at)
    }

    /// Some of those that wait may have their turn, and some have waited for long enough.
    pub(super) fn take_turns(&mut self) {
        self.tell_who_waits();
        let (now, rate) = (self.now(), self.settings.launches);
        let due = |waiting: &Waiting| waiting.next.min(waiting.until) <= now;
        let due = self.storms.waiting.iter().filter(|(_, waiting)| due(waiting)).map(|(number, _)| *number);
        for number in due.collect::<Vec<_>>() {
            let Some(Waiting { request, source, until, .. }) = self.storms.waiting.get(&number) else { continue };
            let (realm, source, until) = (request.peer.realm, source.clone(), *until);
            match self.take_token(&source, realm) {
                Ok(()) => self.resume(number),
                Err(_) if until <= now => {
                    let Some(waiting) = self.stop_waiting(number) else { continue };
                    let refusal = policy::too_often(&source, &rate);
                    self.turn_away(&waiting.request, Denial::lasting(refusal), waiting.reply);
                }
                Err(next) => {
                    let Some(waiting) = self.storms.waiting.get_mut(&number) else { continue };
                    // What only stood behind others had not found its own bucket empty before.
                    self.counts.delayed += u64::from(waiting.next == waiting.arrived);
                    waiting.next = next;
                }
            }
        }
    }

    /// A launch that says nothing for long looks as if it hung.
    fn tell_who_waits(&mut self) {
        let (now, rate) = (self.now(), self.settings.launches);
        for waiting in self.storms.waiting.values_mut() {
            if waiting.tell_at.take_if(|at| *at <= now).is_none() || waiting.until <= now {
                continue;
            }
            let stderr = waiting.request.stderr.as_ref().and_then(|stderr| stderr.try_clone().ok());
            let line = policy::waits(&waiting.source, &rate, waiting.until.saturating_sub(now));
            // It may be a file of a filesystem that answers when it likes.
            stderr.map(|stderr| tokio::task::spawn_blocking(move || tell::write(&stderr, &line)));
        }
    }

    /// The turn of one that waited has come. Much may have changed meanwhile: whether there is room, which session it joins.
    fn resume(&mut self, number: u64) {
        let Some(waiting) = self.stop_waiting(number) else { return };
        match self.plan(&waiting.request) {
            Ok(mut plan) => {
                plan.waited = self.now().saturating_sub(waiting.arrived);
                self.go_ahead(waiting.request, plan, waiting.reply);
            }
            Err(denial) => self.turn_away(&waiting.request, denial, waiting.reply),
        }
    }

    /// A launcher that waited is gone: its stdin is let go at once, and its turn is the next one's.
    pub(super) fn give_up(&mut self, number: u64) {
        if let Some(waiting) = self.stop_waiting(number) {
            tracing::debug!(server = %waiting.source.server, "a launcher is gone before its turn came");
        }
    }

    /// Takes a launch out. Its pidfd is watched for something else from here on, or is closed.
    fn stop_waiting(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.storms.waiting.remove(&number)?;
        let pidfd: &OwnedFd = &waiting.request.pidfd;
        self.watcher.forget(pidfd);
        Some(waiting)
    }
}
