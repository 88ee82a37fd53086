//! The driver's side of an end: who may order it, and who is told when it is over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::aside;
use super::chronicle::About;
use super::containers::Left;
use super::driver::Driver;
use super::held;
use super::historian::Kept;
use super::log::LINES;
use super::message::{Message, Peer};
use super::removing::{self, Remove};
use super::table::{Session, Waiter};
use super::targets::Selection;
use super::tell;
use crate::cgroup::Caller;
use crate::chain::chain;
use crate::lifecycle::Event;
use crate::occurrence;
use crate::outcome::{Cause, Outcome};
use crate::sys::crash;
use crate::wire::{End, EndReply, Ended, Fault};

/// Beyond the longest grace: how long a waiting `end` waits for the next step of any of its servers.
const END_WAIT: Duration = Duration::from_secs(10);

impl Driver {
    /// The end of a server is over: the kernel said empty, and its directories are gone.
    pub(super) fn tell(&mut self, number: u64) {
        let Some((server, gone)) = self.table.remove(number) else { return };
        let cause = server.state.cause().unwrap_or(Cause::LeaderExited);
        let session = self.table.sessions.get(&server.key).or(gone.session.as_ref());
        let Some(session) = session else { return };
        let (id, about) = (session.id.clone(), About::server(&server, session));
        let outcome = Outcome {
            cause,
            processes: server.stock.processes,
            killed: server.stock.killed,
            memory_bytes: server.stock.memory,
            peak_bytes: server.stock.peak,
            exit: server.leader_exit(),
        };
        let (left, mut kept) = (Left::of(&server), None);
        if cause != Cause::LaunchFailed {
            let lifetime_seconds = server.started_at.time().elapsed().unwrap_or_default().as_secs_f64();
            let end_seconds = server.ending_since.map(|since| self.now().saturating_sub(since).as_secs_f64());
            let (started_at, parked_seconds) = (server.started_at, server.nap.parked.as_secs_f64());
            let ended = occurrence::Ended { outcome, started_at, lifetime_seconds, end_seconds, parked_seconds };
            kept = self.ended(about, ended);
        }
        if gone.session.is_some() {
            self.counters.forget(server.key.as_str());
        }
        // What is held here is let go with it; what the manager holds is not.
        self.store.remove(&held::stdin(&server.leaf_name));
        self.remove_stderr(&server.leaf_name, server.stderr.as_ref());
        if let Some(line) = tell::line(&id, &server.name, &outcome) {
            tracing::info!(target: LINES, session = %id, server = %server.name, cause = cause.word(), "{line}");
            if let Some(stderr) = server.stderr.filter(|_| cause != Cause::LaunchFailed) {
                // It may be a file of a filesystem that answers when it likes.
                aside::run(move || {
                    tell::write(&stderr, &line);
                    crash::step("the reason was told");
                });
            }
        }
        self.watcher.forget_files(number);
        self.forget_highs();
        let leaf = server.leaf_name.as_str().to_owned();
        for waiter in &mut self.table.waiters {
            if waiter.remaining.contains(&number) {
                waiter.ended.push(Ended {
                    session: id.clone(),
                    server: server.name.clone(),
                    leaf: leaf.clone(),
                    outcome,
                });
            }
        }
        if let Some(stdin) = &server.stdin {
            self.watcher.forget(stdin);
        }
        self.clean_up(server.key, left, gone.session, (number, kept));
    }

    /// Removes what was made for the session if that is gone, answers who waited for it, and lets the record go. What cannot
    /// be removed now is tried again.
    pub(super) fn clean_up(
        &mut self,
        key: crate::naming::SessionKey,
        left: Left,
        gone: Option<Session>,
        (number, kept): (u64, Option<Kept>),
    ) {
        let (backend, outbox) = (self.backend.clone(), self.outbox.clone());
        let user = self.table.sessions.get(&key).or(gone.as_ref()).map_or(0, |session| session.uid);
        let machines = gone.map(|session| session.machines);
        let name = key.as_str().to_owned();
        let leaf = left.leaf.as_str().to_owned();
        let annex = left.leaf.clone();
        let remove = move || {
            let removed = match &machines {
                Some(machines) => backend.remove_session(&key, machines),
                None => backend.remove_annex(&key, &annex),
            };
            let removed =
                removed.inspect_err(|error| tracing::debug!(error = %chain(error), "the session stays for now"));
            removed.is_ok()
        };
        let (remove, turns): (Remove, _) = (Arc::new(remove), self.removals.clone());
        let (letting_go, engine) = (self.let_go(leaf, kept), self.engines.queue(user));
        tokio::spawn(async move {
            engine.remove(left, name.clone()).await;
            let removed = removing::once(&turns, remove.clone()).await;
            let _ = outbox.send(Message::Gone(number)).await;
            letting_go.await;
            if !removed {
                removing::again(&turns, &name, remove).await;
            }
        });
    }

    /// Removes the record of what is gone, once the history has its end: if the daemon is killed before, the next one finds
    /// the record and tells the end again, which the history then has once. A daemon that stops waits for it.
    pub(super) fn let_go(&mut self, leaf: String, kept: Option<Kept>) -> impl Future<Output = ()> + Send + use<> {
        self.cleaning += 1;
        let (records, outbox) = (self.records.clone(), self.outbox.clone());
        async move {
            if let Some(kept) = kept {
                kept.written().await;
            }
            let remove = move || {
                if let Err(error) = records.remove(&leaf) {
                    tracing::warn!(error = %chain(&error), "a record of what is gone stays");
                }
            };
            let _ = tokio::task::spawn_blocking(remove).await;
            let _ = outbox.send(Message::LetGo).await;
        }
    }

    /// Answers who waited for this server and for nothing else any more.
    pub(super) fn gone(&mut self, number: u64) {
        self.went_on(number);
        for waiter in &mut self.table.waiters {
            waiter.remaining.retain(|other| *other != number);
        }
        let finished: Vec<Waiter> = self.table.waiters.extract_if(.., |waiter| waiter.remaining.is_empty()).collect();
        for waiter in finished {
            self.answer(waiter);
        }
    }

    /// A step of a server's end is done that is not done twice: whoever waits for it has reason to wait on.
    pub(super) fn went_on(&mut self, number: u64) {
        let patience = self.now() + END_WAIT;
        for waiter in self.table.waiters.iter_mut().filter(|waiter| waiter.remaining.contains(&number)) {
            waiter.deadline = waiter.deadline.max(patience);
        }
    }

    pub(super) fn answer(&self, waiter: Waiter) {
        let leaf = |number: &u64| Some(self.table.servers.get(number)?.leaf_name.as_str().to_owned());
        let pending = waiter.remaining.iter().filter_map(leaf).collect();
        let _ = waiter.reply.send(EndReply { ended: waiter.ended, pending });
    }

    /// Ends what was named, as far as the caller may.
    pub(super) fn end(
        &mut self,
        peer: Peer,
        inside: Option<&Caller>,
        wish: &End,
        reply: oneshot::Sender<Result<EndReply, Fault>>,
    ) {
        let targets = match Selection::of_end(wish).and_then(|named| self.targets(peer, inside, &named)) {
            Ok(targets) => targets,
            Err(fault) => {
                let _ = reply.send(Err(fault));
                return;
            }
        };
        let graces =
            targets.iter().filter_map(|number| self.table.servers.get(number)).map(|server| server.terms.grace);
        let deadline = self.now() + graces.max().unwrap_or_default() + END_WAIT;
        let (sender, answer) = oneshot::channel();
        let waiter = Waiter { remaining: targets.clone(), ended: Vec::new(), deadline, reply: sender };
        for number in targets {
            self.feed(number, Event::EndRequested { now: wish.now });
        }
        if wish.wait && !waiter.remaining.is_empty() {
            self.table.waiters.push(waiter);
        } else {
            self.answer(waiter);
        }
        tokio::spawn(async move {
            if let Ok(done) = answer.await {
                let _ = reply.send(Ok(done));
            }
        });
    }
}
