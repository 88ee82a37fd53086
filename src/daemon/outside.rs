//! The container of a `podman run` that has no place in its session, and ends with its server all the same.
//!
//! podman is told to leave the container's monitor (conmon) where it was started, in the server's leaf. The first process of
//! the container is the monitor's child, which the kernel tells, and it is held from when it is seen: the monitor may be gone
//! before it. At the end it is killed first, so that the monitor sees its exit and cleans up.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::mpsc;

use super::driver::Driver;
use super::launching::LaunchRequest;
use super::message::Message;
use crate::backend::Backend;
use crate::cgroup::{CLEANED_UP_MAX, Leaf, Membership, has_exited};
use crate::process::{self, Family};
use crate::session::ProcessId;

/// What a monitor is called (`/proc/PID/comm`).
const MONITOR: &str = "conmon";

/// How often it is looked whether the container is there by now, or another one in its place.
const LOOK: Duration = Duration::from_millis(500);

/// How many first processes of one server are held: podman starts one container after the other.
const HELD_MAX: usize = 4;

/// The first and the longest pause between two looks of an end.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_MOST: Duration = Duration::from_millis(200);

/// The first process of a container, held.
#[derive(Debug, Clone)]
pub(super) struct First {
    pub(super) id: ProcessId,
    pidfd: Arc<OwnedFd>,
}

impl First {
    /// Holds a process that was written down, if it still lives.
    pub(super) fn of(id: ProcessId) -> Option<Self> {
        process::hold(id).map(|pidfd| Self { id, pidfd: Arc::new(pidfd) })
    }

    pub(super) fn lives(&self) -> bool {
        !has_exited(self.pidfd.as_fd())
    }

    /// Kills it, and with it all of its container, which is its PID namespace (pid_namespaces(7)). Tells whether it lived.
    pub(super) fn kill(&self) -> bool {
        self.lives() && rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL).is_ok()
    }
}

/// Where containers of a server are looked for.
#[derive(Debug, Clone)]
pub(super) struct Below {
    pub(super) leaf: Arc<Leaf>,
    pub(super) backend: Arc<Backend>,
    /// Whose session it is.
    pub(super) uid: u32,
}

impl Below {
    /// The monitors in the leaf.
    fn monitors(&self) -> Vec<ProcessId> {
        let pids = self.leaf.processes().unwrap_or_default();
        let is_monitor = |pid: &i32| process::facts(*pid).comm == MONITOR;
        pids.into_iter().filter(is_monitor).filter_map(|pid| process::identify(pid).ok()).collect()
    }

    /// The children of these which stand in no leaf. Blocks: it walks through all of `/proc`.
    fn first_processes(&self, monitors: &[ProcessId]) -> Vec<First> {
        let Some(family) = (!monitors.is_empty()).then(Family::now).and_then(Result::ok) else { return Vec::new() };
        let children = monitors.iter().flat_map(|monitor| family.children(*monitor).map(|child| (*monitor, child)));
        children.filter_map(|(monitor, child)| self.first(monitor, child)).take(HELD_MAX).collect()
    }

    /// A child of a monitor, once it is held and what makes it the first process of a container was read again.
    fn first(&self, monitor: ProcessId, child: ProcessId) -> Option<First> {
        let first = First::of(child)?;
        let is_its_child = process::ancestors(child.pid).first().is_some_and(|parent| parent.id == monitor);
        let stands_in_leaf = Membership::of(monitor.pid).is_ok_and(|place| self.leaf.holds(&place));
        let outside = Membership::of(child.pid)
            .is_ok_and(|place| !self.leaf.holds(&place) && self.backend.locate(&place).is_none());
        (is_its_child && stands_in_leaf && outside && self.may_end(child.pid)).then_some(first)
    }

    /// Whether a process is its user's: by its uid, or by a user namespace that is not ours. What somebody became root in by
    /// sudo is neither.
    fn may_end(&self, pid: i32) -> bool {
        let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/user")).ok();
        self.uid == 0
            || process::uids(pid).is_ok_and(|(uid, _)| uid == self.uid)
            || matches!((namespace("self"), namespace(&pid.to_string())), (Some(own), Some(other)) if own != other)
    }

    /// Kills what is known and what is found now, and waits for the monitors to clean up after it: `--rm`. What the leaf holds
    /// then is killed with it. Blocks.
    pub(super) fn kill(&self, known: &[First]) {
        known.iter().for_each(|first| _ = first.kill());
        let (start, mut pause) = (Instant::now(), PAUSE_FIRST);
        let mut monitors = self.monitors();
        if monitors.is_empty() {
            return;
        }
        while self.leaf.populated().unwrap_or(false) && start.elapsed() < CLEANED_UP_MAX {
            self.first_processes(&monitors).iter().for_each(|first| _ = first.kill());
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MOST);
            monitors = self.monitors();
        }
    }
}

/// Whether the monitor of this launch's container would stay where it is started. A user's podman leaves a cgroup that is not
/// that user's own, as the leaf of another one's daemon, and takes the monitor with it.
pub(super) fn may_monitor(request: &LaunchRequest) -> bool {
    request.wish.container_monitor && request.peer.uid == nix::unistd::geteuid().as_raw()
}

impl Driver {
    /// Looks for the container of a server from now on, until nothing is in its leaf.
    pub(super) fn follow_container(&self, number: u64) {
        let Some(server) = self.table.servers.get(&number) else { return };
        let Some((leaf, first)) = server.leaf.clone().zip(server.monitored.clone()) else { return };
        let Some(session) = self.table.sessions.get(&server.key) else { return };
        let below = Below { leaf, backend: self.backend.clone(), uid: session.uid };
        tokio::spawn(follow(number, below, first, self.outbox.clone()));
    }

    /// These are the first processes of what the server has outside. The next daemon is to know them.
    pub(super) fn container_found(&mut self, number: u64, first: Vec<First>) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        server.monitored = Some(first);
        self.record_again(number);
    }
}

async fn follow(number: u64, below: Below, mut first: Vec<First>, driver: mpsc::Sender<Message>) {
    loop {
        if !first.iter().any(First::lives) {
            let below = below.clone();
            let look = move || {
                let lives = below.leaf.populated().unwrap_or(false);
                lives.then(|| below.first_processes(&below.monitors()))
            };
            let Ok(Some(found)) = tokio::task::spawn_blocking(look).await else { return };
            if !found.is_empty() {
                first = found.clone();
                if driver.send(Message::ContainerFound(number, found)).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
