//! Blocking work on a leaf, off the driver, and the driver's queue of it: a write to `cgroup.kill` signals thousands of processes before it returns.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::mpsc;

use super::driver::Driver;
use super::message::Message;
use super::outside::{Below, First};
use super::table::{Job, Stock};
use crate::cgroup::{CgroupError, Leaf, Membership, has_exited};
use crate::chain::chain;
use crate::lifecycle::Event;
use crate::records::{Record, Records};
use crate::session::ProcessId;
use crate::sys::crash;

/// How long a kill waits for the kernel to say empty, before it is left to the event files and to the next write.
const KILL_WAIT: Duration = Duration::from_millis(100);

/// The wait before removing a leaf is tried again, when the kernel called it empty and still refused.
const REMOVAL_PAUSE: Duration = Duration::from_millis(100);

/// How many kills are begun together. What is killed dies on other CPUs while the next is.
const KILLS: usize = 16;

/// Of no more processes than these a kill takes the kernel about a millisecond: it is not worth the wake-up of a thread.
const FEW: u32 = 32;

/// What a job needs.
#[derive(Debug)]
pub(super) struct Work {
    number: u64,
    /// In this order.
    jobs: Vec<Job>,
    leaf: Arc<Leaf>,
    leader: ProcessId,
    leader_pidfd: Option<Arc<OwnedFd>>,
    stock: Stock,
    /// A container outside that ends with it, by its first processes.
    outside: Option<(Below, Vec<First>)>,
    /// An end is written down before anything is done for it: the daemon that takes over goes on with it.
    begun: Option<(Arc<Records>, Record)>,
}

/// What came of it: what is known now, or what the kernel refused. Of what is done together the last is told.
pub(super) type Done = (Stock, Result<(), CgroupError>);

impl Driver {
    /// Does it once nothing is under way for the server, and [`Self::next_job`] is called.
    pub(super) fn push_job(&mut self, number: u64, job: Job) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        // A kill that waits behind a slow one is one kill.
        if server.jobs.back() != Some(&job) {
            server.jobs.push_back(job);
        }
    }

    /// Begins what waits for the server, if nothing is under way. What begins an end is done in one go: each turn of another
    /// thread would let the processes live on.
    pub(super) fn next_job(&mut self, number: u64) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        let Some(leaf) = server.leaf.clone().filter(|_| !server.busy) else { return };
        let Some(first) = server.jobs.pop_front() else { return };
        let mut jobs = vec![first];
        if first == Job::TakeStock && matches!(server.jobs.front(), Some(Job::Terminate | Job::Kill)) {
            jobs.extend(server.jobs.pop_front());
        }
        let last = *jobs.last().unwrap_or(&first);
        server.busy = true;
        let machine = leaf.machine().paths();
        let (leader, leader_pidfd, stock) = (server.leader, server.leader_pidfd.clone(), server.stock);
        let server = &self.table.servers[&number];
        let uid = self.table.sessions.get(&server.key).map(|session| session.uid);
        let outside = server
            .monitored
            .clone()
            .zip(uid)
            .map(|(first, uid)| (Below { leaf: leaf.clone(), backend: self.backend.clone(), uid }, first));
        let begun = (first == Job::TakeStock).then(|| self.record(server, machine)).flatten();
        let begun = begun.map(|record| (self.records.clone(), record));
        let work = Work { number, jobs, leaf, leader, leader_pidfd, stock, outside, begun };
        if last == Job::Kill {
            self.kills.push(work);
            return;
        }
        let outbox = self.outbox.clone();
        let working = tokio::task::spawn_blocking(move || run(&work));
        tokio::spawn(async move {
            if let Ok(done) = working.await {
                let _ = outbox.send(Message::JobDone(number, last, done)).await;
            }
        });
    }

    /// Begins the kills of this turn. The first of them are written here where that is quick: an order to kill waits for no
    /// other thread. That they are empty is waited for by another one, which writes what is left.
    pub(super) fn begin_kills(&mut self) {
        let kills = std::mem::take(&mut self.kills).into_iter().map(Killing::of);
        // A monitor of podman's is given time to clean up, which is nobody else's.
        let (alone, quick): (Vec<_>, Vec<_>) = kills.partition(|killing| killing.work.outside.is_some());
        for killing in alone {
            let outbox = self.outbox.clone();
            drop(tokio::task::spawn_blocking(move || kill_all(vec![killing], &outbox)));
        }
        let mut waiting = quick.into_iter();
        let mut is_first = true;
        loop {
            let mut together: Vec<Killing> = waiting.by_ref().take(KILLS).collect();
            if together.is_empty() {
                return;
            }
            if std::mem::replace(&mut is_first, false) {
                together.iter_mut().for_each(Killing::begin);
            }
            let outbox = self.outbox.clone();
            drop(tokio::task::spawn_blocking(move || kill_all(together, &outbox)));
        }
    }

    pub(super) fn job_done(&mut self, number: u64, job: Job, (stock, outcome): Done) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        server.busy = false;
        server.stock = stock;
        if job != Job::Kill && outcome.is_ok() {
            self.went_on(number);
        }
        match (job, outcome) {
            (Job::Remove, Ok(())) => return self.feed(number, Event::Removed),
            (Job::Remove, Err(error)) => {
                tracing::debug!(error = %chain(&error), "the leaf is not removed yet");
                self.later(REMOVAL_PAUSE, Message::RemovalFailed(number));
            }
            (job, Err(error)) => tracing::warn!(?job, error = %chain(&error), "trying again at the next deadline"),
            (Job::TakeStock | Job::Terminate | Job::Kill, Ok(())) => {}
        }
        self.next_job(number);
        self.probe(number);
    }
}

impl Work {
    /// An end is written down before anything is done for it.
    fn write_down(&self) {
        if let Some((records, record)) = &self.begun
            && let Err(error) = records.write(record)
        {
            tracing::warn!(error = %chain(&error), "the next daemon would not know of this end");
        }
    }
}

/// Does it. Blocks.
fn run(work: &Work) -> Done {
    work.write_down();
    let (mut stock, mut outcome) = (work.stock, Ok(()));
    for job in &work.jobs {
        crash::step(job.word());
        outcome = match job {
            Job::TakeStock => {
                take_stock(&work.leaf, &mut stock);
                Ok(())
            }
            Job::Terminate => {
                match work.leaf.containers() {
                    // It stands beside them, and tells its engine.
                    Some(_) => signal_leader(work, &[Signal::TERM, Signal::CONT]),
                    None => signal_escaped_leader(work, &[Signal::TERM, Signal::CONT]),
                }
                work.leaf.terminate().map(drop)
            }
            Job::Kill => kill(work, &mut stock),
            Job::Remove => {
                // The kernel may have killed the monitor for memory.
                if let Some((_, first)) = &work.outside {
                    first.iter().for_each(|first| _ = first.kill());
                }
                // A part of the leaf may be gone, or all of it: then what was read before is the most that is known.
                stock.peak = stock.peak.max(work.leaf.memory_peak());
                work.leaf.remove()
            }
        };
        crash::step(job.word());
    }
    (stock, outcome)
}

/// A kill under way.
struct Killing {
    work: Work,
    stock: Stock,
    /// An end is written down before anything is done for it.
    written: bool,
    /// What came of the write, once it is done.
    outcome: Option<Result<(), CgroupError>>,
}

impl Killing {
    fn of(work: Work) -> Self {
        Self { stock: work.stock, work, written: false, outcome: None }
    }

    /// Kills where that is quick. A server may have made any number of cgroups below its leaf, and each is read.
    fn begin(&mut self) {
        let is_new = self.work.jobs.contains(&Job::TakeStock);
        if !is_new || !self.work.leaf.is_single() {
            return;
        }
        self.prepare();
        if self.stock.processes.is_some_and(|count| count <= FEW) {
            self.kill();
        }
    }

    fn prepare(&mut self) {
        if std::mem::replace(&mut self.written, true) {
            return;
        }
        self.work.write_down();
        if self.work.jobs.contains(&Job::TakeStock) {
            crash::step(Job::TakeStock.word());
            take_stock(&self.work.leaf, &mut self.stock);
            crash::step(Job::TakeStock.word());
        }
    }

    fn kill(&mut self) {
        if self.outcome.is_none() {
            crash::step(Job::Kill.word());
            self.outcome = Some(kill(&self.work, &mut self.stock));
        }
    }

    /// What was killed is seen to be gone. What is elsewhere is looked for when those in the leaf are, as they are from its
    /// companions then: each of them would be held and signalled a second time.
    fn bury(self, deadline: Instant) -> (u64, Done) {
        let Self { work, stock, outcome, .. } = self;
        let emptied = outcome
            .unwrap_or(Ok(()))
            .and_then(|()| work.leaf.wait_empty(deadline.saturating_duration_since(Instant::now())));
        signal_escaped_leader(&work, &[Signal::KILL]);
        let outcome = emptied.and_then(|_| work.leaf.kill_in_companions());
        crash::step(Job::Kill.word());
        (work.number, (stock, outcome))
    }
}

/// Kills in all of these, and tells of each when the kernel says that it is empty, or after [`KILL_WAIT`]. Blocks.
fn kill_all(mut all: Vec<Killing>, driver: &mpsc::Sender<Message>) {
    for each in &mut all {
        each.prepare();
        each.kill();
    }
    let deadline = Instant::now() + KILL_WAIT;
    for each in all {
        let (number, done) = each.bury(deadline);
        if driver.blocking_send(Message::JobDone(number, Job::Kill, done)).is_err() {
            return;
        }
    }
}

fn take_stock(leaf: &Leaf, stock: &mut Stock) {
    if !std::mem::replace(&mut stock.taken, true) {
        stock.processes = leaf.processes().ok().map(|pids| pids.len() as u32);
        stock.memory = leaf.memory_in_use();
        stock.peak = leaf.memory_peak();
    }
}

fn kill(work: &Work, stock: &mut Stock) -> Result<(), CgroupError> {
    let counted =
        work.jobs.contains(&Job::TakeStock) && !work.stock.taken && stock.processes.is_some_and(|count| count > 0);
    // An empty leaf needs no kill: what it held has left by itself.
    stock.killed |= counted || work.leaf.populated().unwrap_or(true);
    // Once it is empty, a service manager removes its scope, and where there is one CPU nobody else reads there before.
    if !counted {
        stock.peak = stock.peak.max(work.leaf.memory_peak());
    }
    if let Some((below, first)) = &work.outside {
        below.kill(first);
    }
    work.leaf.kill()
}

/// A leader that left its leaf is still the server's first process, and we hold it.
fn signal_escaped_leader(work: &Work, signals: &[Signal]) {
    if Membership::of(work.leader.pid).is_ok_and(|place| !work.leaf.holds(&place)) {
        signal_leader(work, signals);
    }
}

fn signal_leader(work: &Work, signals: &[Signal]) {
    let Some(pidfd) = work.leader_pidfd.as_ref().filter(|pidfd| !has_exited(pidfd.as_fd())) else { return };
    for signal in signals {
        let _ = rustix::process::pidfd_send_signal(pidfd, *signal);
    }
}
