//! The descriptor store of the service manager that started this process: descriptors that are put there outlive the
//! process, and come back to the one that the manager starts in its place (systemd's "File Descriptor Store").
//!
//! While the manager has a dup of a stdin, a host can write to a dead server without EPIPE: what is let go is taken out at once.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use sd_notify::NotifyState;

use crate::sys;

/// Orders that may wait for the manager: more than all that is ever in the store.
const ORDERS: usize = 1 << 15;

/// What is to be done with a name of the store.
#[derive(Debug)]
enum Order {
    Keep(String, OwnedFd),
    Remove(String),
}

/// The store, and what came back from it. Of a process that no manager started it keeps nothing.
#[derive(Debug, Default)]
pub struct Store {
    orders: Option<SyncSender<Order>>,
    returned: HashMap<String, OwnedFd>,
    /// Of these the names that were asked for.
    taken: HashSet<String>,
}

/// Sends the orders to the manager, one after the other, until the store is dropped.
#[derive(Debug)]
pub struct Porter(Receiver<Order>);

/// What a manager passed to this process.
#[derive(Debug, Default)]
pub struct Passed {
    /// What came back from its store.
    pub store: Store,
    /// Has to run for as long as the store is there, where there is one.
    pub porter: Option<Porter>,
    /// What it passed under names that are none of ours, as a socket on which it listens for us.
    pub others: Vec<(String, OwnedFd)>,
}

impl Passed {
    /// Takes all of it, and nothing of that to any child. To be called while this process has one thread. `is_ours` tells
    /// which names the store is given.
    pub fn take(is_ours: impl Fn(&str) -> bool) -> Self {
        let (returned, others): (Vec<_>, _) =
            sys::take_passed_descriptors().into_iter().partition(|(name, _)| is_ours(name));
        let returned = returned.into_iter().collect();
        let (orders, porter) = match std::env::var_os("NOTIFY_SOCKET") {
            Some(_) => {
                let (orders, porter) = sync_channel(ORDERS);
                (Some(orders), Some(Porter(porter)))
            }
            None => (None, None),
        };
        Self { store: Store { orders, returned, taken: HashSet::new() }, porter, others }
    }
}

impl Store {
    /// Puts a dup of a descriptor there. Names are of printable ASCII without colons, and have at most 255 bytes.
    pub fn keep(&self, name: &str, fd: impl AsFd) {
        if self.orders.is_some()
            && let Ok(dup) = fd.as_fd().try_clone_to_owned()
        {
            self.order(Order::Keep(name.to_owned(), dup));
        }
    }

    /// Takes what has this name out of the store.
    pub fn remove(&self, name: &str) {
        self.order(Order::Remove(name.to_owned()));
    }

    /// A dup of what came back under this name, which stays in the store; or else of what came back under any name and is
    /// the same: the manager keeps one of several descriptors of one open file.
    pub fn take(&mut self, name: &str, is_same: impl Fn(&OwnedFd) -> bool) -> Option<OwnedFd> {
        let named = self.returned.get(name);
        if named.is_some() {
            self.taken.insert(name.to_owned());
        }
        let fd = named.or_else(|| self.returned.values().find(|fd| is_same(fd)))?;
        fd.try_clone().ok()
    }

    /// Whether there is a manager that keeps anything.
    pub fn is_there(&self) -> bool {
        self.orders.is_some()
    }

    /// Lets go of all that came back, and takes out what nobody took.
    pub fn remove_rest(&mut self) {
        for (name, _) in std::mem::take(&mut self.returned) {
            if !self.taken.contains(&name) {
                self.remove(&name);
            }
        }
    }

    fn order(&self, order: Order) {
        if let Some(Err(TrySendError::Full(order))) = self.orders.as_ref().map(|orders| orders.try_send(order)) {
            tracing::debug!(?order, "the service manager takes no orders for its descriptor store");
        }
    }
}

impl Porter {
    /// Blocks for as long as the store is there, and while the manager does not listen.
    pub fn run(self) {
        for order in self.0 {
            let done = match &order {
                // Without FDPOLL=0 the manager closes what has hung up, which is what is to be seen.
                Order::Keep(name, fd) => sd_notify::notify_with_fds(
                    &[NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")],
                    &[fd.as_fd()],
                ),
                Order::Remove(name) => sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]),
            };
            if let Err(error) = done {
                tracing::debug!(%error, ?order, "the service manager was not told");
            }
        }
    }
}
