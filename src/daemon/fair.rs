//! Turns of work on a user's processes, which the kernel may hold up for as long as these like: no user has them all.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many turns, of which each user has a few at most.
#[derive(Debug)]
pub(super) struct FairTurns {
    all: Arc<Semaphore>,
    of_one: usize,
    users: HashMap<u32, Arc<Semaphore>>,
}

/// Where one user's work waits for its turn.
#[derive(Debug)]
pub(super) struct Queue {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// A turn, which lasts until both are dropped.
#[derive(Debug)]
pub(super) struct Turn {
    /// Its user's: kept for as long as the work occupies a thread.
    pub(super) own: OwnedSemaphorePermit,
    /// Everybody's.
    pub(super) shared: OwnedSemaphorePermit,
}

impl FairTurns {
    pub(super) fn new(all: usize, of_one: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), of_one, users: HashMap::new() }
    }

    /// The queue of a user. Users who wait for nothing are forgotten.
    pub(super) fn of(&mut self, user: u32) -> Queue {
        self.users.retain(|_, own| Arc::strong_count(own) > 1);
        let own = self.users.entry(user).or_insert_with(|| Arc::new(Semaphore::new(self.of_one)));
        Queue { own: own.clone(), all: self.all.clone() }
    }
}

impl Queue {
    /// Waits for a turn; `None` where there will be none any more.
    pub(super) async fn turn(&self) -> Option<Turn> {
        let own = self.own.clone().acquire_owned().await.ok()?;
        Some(Turn { own, shared: self.all.clone().acquire_owned().await.ok()? })
    }

    /// A turn, where there is one at once.
    pub(super) fn turn_at_once(&self) -> Option<Turn> {
        let own = self.own.clone().try_acquire_owned().ok()?;
        Some(Turn { own, shared: self.all.clone().try_acquire_owned().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// A turn, if there is one at once.
    fn take(turns: &mut FairTurns, user: u32) -> Option<Turn> {
        let queue = turns.of(user);
        let at_once = queue.turn_at_once().is_some();
        let mut turn = pin!(queue.turn());
        match turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => turn.filter(|_| at_once),
            Poll::Pending => {
                assert!(!at_once);
                None
            }
        }
    }

    #[test]
    fn a_user_whose_work_never_ends_leaves_turns_to_others() {
        let mut turns = FairTurns::new(4, 2);
        let held = [take(&mut turns, 1), take(&mut turns, 1)];
        assert!(held.iter().all(Option::is_some) && take(&mut turns, 1).is_none());
        let other = take(&mut turns, 2);
        assert!(other.is_some());
        drop((held, other));
        assert!(take(&mut turns, 1).is_some());
        assert_eq!(turns.users.len(), 1, "who holds nothing is forgotten");
    }

    #[test]
    fn work_that_gives_its_turn_up_while_it_goes_on_still_counts_for_its_user() {
        let mut turns = FairTurns::new(2, 2);
        let stuck: Vec<_> = [take(&mut turns, 1), take(&mut turns, 1)].into_iter().flatten().collect();
        assert!(take(&mut turns, 2).is_none(), "all are taken");
        let own: Vec<_> = stuck.into_iter().map(|Turn { own, .. }| own).collect();
        assert!(own.len() == 2 && take(&mut turns, 1).is_none() && take(&mut turns, 2).is_some());
    }
}
