//! Places for connections: each user has so many, so that nobody keeps another out; and what runs in containers as that user
//! has as many of its own.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::aside::Foreign;

/// Connections of one user that are served at a time; the others wait for one of these to close.
pub(super) const SERVED_MAX: usize = 256;

/// Connections of one user that may be open, those that wait included; what comes beyond is closed.
const OPEN_MAX: usize = 2048;

/// Connections of all users: where the daemon may have fewer descriptors than that needs, a quarter of these. Of the last
/// quarter of the connections each user gets no more than one.
const ALL_MAX: usize = 4 * OPEN_MAX;

/// Answers of one user that are made and read at a time: what nobody reads is kept until it is, and may be long.
const ANSWERS_MAX: usize = 4;

/// Of these, those that are read from the history.
const HISTORIES_MAX: usize = 1;

/// A user, and whether inside of containers.
pub(super) type Who = (u32, bool);

/// Who holds how many.
#[derive(Debug)]
pub(super) struct Places {
    all: usize,
    lent_max: usize,
    users: Mutex<Users>,
}

#[derive(Debug, Default)]
struct Users {
    open: usize,
    of: HashMap<Who, User>,
}

#[derive(Debug)]
struct User {
    open: usize,
    bounds: Arc<Bounds>,
}

/// What one user may have at a time.
#[derive(Debug)]
struct Bounds {
    served: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    histories: Arc<Semaphore>,
    /// Descriptors that it sent and that are not closed, in whatever server's place they are.
    lent: Arc<AtomicUsize>,
}

/// One open connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    who: Who,
    bounds: Arc<Bounds>,
}

impl Places {
    /// As many as a process has room for that may have so many descriptors.
    pub(super) fn among(descriptors: u64) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        Self { all: (descriptors / 4).min(ALL_MAX), lent_max: descriptors / 2, users: Mutex::default() }
    }

    /// Counts a connection; `None` where its user has too many open: half as many as are left for others, and one while
    /// there is any. So where some users take all they get, the next ones find a place.
    pub(super) fn open(self: &Arc<Self>, who: Who) -> Option<Place> {
        let mut users = self.lock();
        let shared = (self.all - self.all / 4).saturating_sub(users.open);
        let has = users.of.get(&who).map_or(0, |user| user.open);
        if users.open >= self.all || has >= OPEN_MAX || has >= shared.div_ceil(2).max(1) {
            return None;
        }
        if has == 0 {
            // Who has gone, and has nothing here any more, is forgotten.
            users.of.retain(|_, user| user.open > 0 || user.bounds.lent.load(Ordering::Relaxed) > 0);
        }
        users.open += 1;
        let user = users.of.entry(who).or_insert_with(|| User { open: 0, bounds: Arc::new(Bounds::new()) });
        user.open += 1;
        Some(Place { places: self.clone(), who, bounds: user.bounds.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bounds {
    fn new() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            served: semaphore(SERVED_MAX),
            answers: semaphore(ANSWERS_MAX),
            histories: semaphore(HISTORIES_MAX),
            lent: Arc::default(),
        }
    }
}

impl Place {
    /// Waits until it is this connection's turn.
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        acquire(&self.bounds.served).await
    }

    /// Waits until one more of its user's long answers may be made: it is one until this is dropped.
    pub(super) async fn answer(&self) -> OwnedSemaphorePermit {
        acquire(&self.bounds.answers).await
    }

    /// The same for one that is read from the history.
    pub(super) async fn history(&self) -> OwnedSemaphorePermit {
        acquire(&self.bounds.histories).await
    }

    /// Counts a descriptor that came along.
    pub(super) fn lend(&self, fd: OwnedFd) -> Foreign {
        Foreign::lent(fd, &self.bounds.lent)
    }

    /// Whether its user has sent as many descriptors as one may have here: half of all. Of as many servers that live, which
    /// take more than those that were sent, there is no room for half.
    pub(super) fn has_lent_too_many(&self) -> bool {
        self.bounds.lent.load(Ordering::Relaxed) >= self.places.lent_max
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    semaphore.clone().acquire_owned().await.expect("the semaphore is never closed")
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.places.lock();
        users.open -= 1;
        let Some(user) = users.of.get_mut(&self.who) else { return };
        user.open -= 1;
        if user.open == 0 && user.bounds.lent.load(Ordering::Relaxed) == 0 {
            users.of.remove(&self.who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_that_opens_too_many_keeps_no_other_out_and_is_forgotten_with_the_last() {
        let places = Arc::new(Places::among(1 << 20));
        let mut held: Vec<_> = (0..OPEN_MAX).map(|_| places.open((1000, false)).unwrap()).collect();
        assert!(places.open((1000, false)).is_none());
        assert!(places.open((1001, false)).is_some() && places.open((1000, true)).is_some());
        held.pop();
        assert!(places.open((1000, false)).is_some());
        drop(held);
        assert!(places.lock().of.is_empty());
        assert_eq!(places.lock().open, 0);
    }

    #[test]
    fn where_many_users_take_all_they_get_the_next_one_finds_a_place_and_all_have_a_quarter_of_the_descriptors() {
        let places = Arc::new(Places::among(1024));
        let mut held = Vec::new();
        for uid in 0..60 {
            let before = held.len();
            held.extend(std::iter::from_fn(|| places.open((uid, false))));
            assert!(held.len() > before, "user {uid} after {before}");
        }
        assert!(held.len() <= 1024 / 4, "{}", held.len());
    }

    #[test]
    fn a_user_of_whom_a_descriptor_is_left_stays_known() {
        let places = Arc::new(Places::among(1024));
        let place = places.open((1000, false)).unwrap();
        let lent = place.lend(rustix::pipe::pipe().unwrap().0);
        drop(place);
        let place = places.open((1000, false)).unwrap();
        assert_eq!(place.bounds.lent.load(Ordering::Relaxed), 1);
        drop((lent.known(), place));
        assert!(places.lock().of.is_empty());
    }
}
