//! Places for connections: each user has so many, so that nobody keeps another out; and what runs in containers as that user
//! has as many of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections of one user that are served at a time; the others wait for one of these to close.
pub(super) const SERVED_MAX: usize = 256;

/// Connections of one user that may be open, those that wait included; what comes beyond is closed.
const OPEN_MAX: usize = 2048;

/// A user, and whether inside of containers.
pub(super) type Who = (u32, bool);

/// Who holds how many.
#[derive(Debug, Default)]
pub(super) struct Places {
    users: Mutex<HashMap<Who, User>>,
}

#[derive(Debug)]
struct User {
    open: usize,
    served: Arc<Semaphore>,
}

/// One open connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    who: Who,
    served: Arc<Semaphore>,
}

impl Places {
    /// Counts a connection; `None` where its user has too many open.
    pub(super) fn open(self: &Arc<Self>, who: Who) -> Option<Place> {
        let mut users = self.lock();
        let user = users.entry(who).or_insert_with(|| User { open: 0, served: Arc::new(Semaphore::new(SERVED_MAX)) });
        if user.open == OPEN_MAX {
            return None;
        }
        user.open += 1;
        Some(Place { places: self.clone(), who, served: user.served.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Who, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until it is this connection's turn.
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        self.served.clone().acquire_owned().await.expect("the semaphore is never closed")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.places.lock();
        let Some(user) = users.get_mut(&self.who) else { return };
        user.open -= 1;
        if user.open == 0 {
            users.remove(&self.who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_that_opens_too_many_keeps_no_other_out_and_is_forgotten_with_the_last() {
        let places = Arc::new(Places::default());
        let mut held: Vec<_> = (0..OPEN_MAX).map(|_| places.open((1000, false)).unwrap()).collect();
        assert!(places.open((1000, false)).is_none());
        assert!(places.open((1001, false)).is_some() && places.open((1000, true)).is_some());
        held.pop();
        assert!(places.open((1000, false)).is_some());
        drop(held);
        assert!(places.lock().is_empty());
    }
}
