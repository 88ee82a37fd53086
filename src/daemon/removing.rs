//! Removal off the driver: it may wait for a manager, and what cannot be removed now is tried again until it is gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

/// The first wait before what could not be removed is tried again; it doubles up to [`AGAIN_MOST`]. What is still there
/// when the daemon stops is swept by the next one.
const AGAIN: Duration = Duration::from_millis(200);

/// The longest wait before it is tried again.
const AGAIN_MOST: Duration = Duration::from_secs(10);

/// How many are removed at a time. Each may wait for a manager, on a thread that others could use.
pub(super) const REMOVALS: usize = 32;

/// Tries to remove something, and tells whether it is gone. Blocks.
pub(super) type Remove = Arc<dyn Fn() -> bool + Send + Sync>;

/// Tries once, when it is its turn.
pub(super) async fn once(turns: &Semaphore, remove: Remove) -> bool {
    let _turn = turns.acquire().await;
    // One that panics is not tried again.
    tokio::task::spawn_blocking(move || remove()).await.unwrap_or(true)
}

/// Tries after ever longer waits, until it is gone. That this takes long is told once.
pub(super) async fn again(turns: &Semaphore, session: &str, remove: Remove) {
    let (mut pause, mut told) = (AGAIN, false);
    loop {
        if pause == AGAIN_MOST && !std::mem::replace(&mut told, true) {
            tracing::warn!(session, "what is left of a session cannot be removed yet; trying again");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN_MOST);
        if once(turns, remove.clone()).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_is_not_gone_is_tried_until_it_is_and_not_once_more() {
        let (turns, tries) = (Semaphore::new(1), Arc::new(AtomicUsize::new(0)));
        let counted = tries.clone();
        again(&turns, "s", Arc::new(move || counted.fetch_add(1, Ordering::Relaxed) == 2)).await;
        assert_eq!(tries.load(Ordering::Relaxed), 3);
        assert_eq!(turns.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_removal_that_is_held_up_holds_up_its_own_turn_and_nothing_else() {
        let turns = Arc::new(Semaphore::new(2));
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let slow: Remove = Arc::new(move || held.lock().unwrap().recv().is_ok());
        let own = turns.clone();
        let removal = tokio::spawn(async move { again(&own, "slow", slow).await });
        // The only thread of this runtime goes on, and so does whatever else is to be removed.
        while turns.available_permits() == 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        again(&turns, "quick", Arc::new(|| true)).await;
        assert_eq!(turns.available_permits(), 1);
        release.send(()).unwrap();
        removal.await.unwrap();
        assert_eq!(turns.available_permits(), 2);
    }
}
