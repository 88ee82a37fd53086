//! Blocking work on a leaf, off the driver, and the driver's queue of it: a write to `cgroup.kill` signals thousands of processes before it returns.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use super::driver::Driver;
use super::message::Message;
use super::table::{Job, Stock};
use crate::cgroup::{CgroupError, Leaf, Membership, has_exited};
use crate::chain::chain;
use crate::lifecycle::Event;
use crate::session::ProcessId;
use crate::sys::crash;

/// How long a kill waits for the kernel to say empty, before it is left to the event files and to the next write.
const KILL_WAIT: Duration = Duration::from_millis(100);

/// The wait before removing a leaf is tried again, when the kernel called it empty and still refused.
const REMOVAL_PAUSE: Duration = Duration::from_millis(100);

/// What a job needs.
#[derive(Debug, Clone)]
pub(super) struct Work {
    pub(super) job: Job,
    pub(super) leaf: Arc<Leaf>,
    pub(super) leader: ProcessId,
    pub(super) leader_pidfd: Option<Arc<OwnedFd>>,
    pub(super) stock: Stock,
}

/// What came of it: what is known now, or what the kernel refused.
pub(super) type Done = (Stock, Result<(), CgroupError>);

/// Does it. Blocks.
pub(super) fn run(work: &Work) -> Done {
    let mut stock = work.stock;
    crash::step(work.job.word());
    let outcome = match work.job {
        Job::TakeStock => {
            if !stock.taken {
                take_stock(&work.leaf, &mut stock);
            }
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
        Job::Kill => {
            // An empty leaf needs no kill: what it held has left by itself.
            stock.killed |= work.leaf.populated().unwrap_or(true);
            signal_escaped_leader(work, &[Signal::KILL]);
            work.leaf.kill().and_then(|()| work.leaf.wait_empty(KILL_WAIT).map(drop))
        }
        Job::Remove => {
            // Where the removal is tried again, the first reading is the last there was.
            stock.peak = work.leaf.memory().peak_bytes.or(stock.peak);
            work.leaf.remove()
        }
    };
    crash::step(work.job.word());
    (stock, outcome)
}

fn take_stock(leaf: &Leaf, stock: &mut Stock) {
    stock.taken = true;
    stock.processes = leaf.processes().ok().map(|pids| pids.len() as u32);
    stock.memory = leaf.memory().current_bytes;
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

impl Driver {
    pub(super) fn push_job(&mut self, number: u64, job: Job) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        // A kill that waits behind a slow one is one kill.
        if server.jobs.back() != Some(&job) {
            server.jobs.push_back(job);
        }
        self.next_job(number);
    }

    fn next_job(&mut self, number: u64) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        let Some(leaf) = server.leaf.clone().filter(|_| !server.busy) else { return };
        let Some(job) = server.jobs.pop_front() else { return };
        server.busy = true;
        let machine = leaf.machine().paths();
        let work =
            Work { job, leaf, leader: server.leader, leader_pidfd: server.leader_pidfd.clone(), stock: server.stock };
        // An end is written down before anything is done for it: the daemon that takes over goes on with it.
        let server = &self.table.servers[&number];
        let begun = (job == Job::TakeStock).then(|| self.record(server, machine)).flatten();
        let (outbox, records) = (self.outbox.clone(), self.records.clone());
        let run = move || {
            if let Some(Err(error)) = begun.map(|record| records.write(&record)) {
                tracing::warn!(error = %chain(&error), "the next daemon would not know of this end");
            }
            run(&work)
        };
        tokio::spawn(async move {
            if let Ok(done) = tokio::task::spawn_blocking(run).await {
                let _ = outbox.send(Message::JobDone(number, job, done)).await;
            }
        });
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
