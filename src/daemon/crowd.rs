//! The connections for metrics that are open, and who gives way where they are too many: one that waits for its client, of the
//! user who has most of them. So no user keeps another's scrape out, or cuts it off while it is answered.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::{AbortHandle, JoinSet};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;

/// Those of one user. Whose they are is told of this machine's users; all others are one.
pub(super) const OF_ONE_MAX: usize = 16;

/// How long an answer is made and read before its connection gives way like one that waits.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// How far a connection is with its answer.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<At>);

#[derive(Debug, Clone, Copy, Default)]
enum At {
    /// It waits for a request.
    #[default]
    Waiting,
    /// The answer is made, since then.
    Made(Instant),
    /// It is on its way, since the request came.
    Sent(Instant),
}

impl Progress {
    /// A request is there.
    pub(super) fn begin(&self) {
        self.set(At::Made(Instant::now()));
    }

    /// Its answer is made, and will be written.
    pub(super) fn send(&self) {
        if let At::Made(since) = self.at() {
            self.set(At::Sent(since));
        }
    }

    /// Whether no answer is under way, or none that anybody could still wait for.
    fn gives_way(&self) -> bool {
        match self.at() {
            At::Waiting => true,
            At::Made(since) | At::Sent(since) => since.elapsed() > ANSWER_MAX,
        }
    }

    fn written(&self) {
        if let At::Sent(_) = self.at() {
            self.set(At::Waiting);
        }
    }

    fn at(&self) -> At {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, at: At) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

/// A stream that notes when an answer has left: hyper flushes it once nothing is left to write.
pub(super) struct Noted<S>(pub(super) S, pub(super) Arc<Progress>);

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = Pin::new(&mut self.0).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            self.1.written();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The connections that are open, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    tasks: JoinSet<()>,
    open: VecDeque<Open>,
}

#[derive(Debug)]
struct Open {
    task: AbortHandle,
    progress: Arc<Progress>,
    whose: Option<u32>,
}

impl Crowd {
    /// Takes in one more, of this user where that can be told.
    pub(super) fn add<F>(&mut self, whose: Option<u32>, serve: impl FnOnce(Arc<Progress>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|open| !open.task.is_finished());
        if let Some(loser) = self.loser(whose) {
            let gives_way = |open: &Open| open.whose == loser && open.progress.gives_way();
            let Some(open) = self.open.iter().position(gives_way).and_then(|at| self.open.remove(at)) else {
                tracing::debug!("too many ask for metrics at a time");
                return;
            };
            open.task.abort();
        }
        let progress = Arc::<Progress>::default();
        let task = self.tasks.spawn(serve(progress.clone()));
        self.open.push_back(Open { task, progress, whose });
    }

    /// The user one of whose connections has to give way for another one of this user, if any has to.
    fn loser(&self, whose: Option<u32>) -> Option<Option<u32>> {
        let mut counts = HashMap::<_, usize>::new();
        self.open.iter().for_each(|open| *counts.entry(open.whose).or_default() += 1);
        if counts.get(&whose).is_some_and(|count| *count >= OF_ONE_MAX) {
            return Some(whose);
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(whose, _)| whose);
        most.filter(|_| self.open.len() >= CONNECTIONS_MAX)
    }

    /// How the connection is that was taken in as this number of those that are open.
    #[cfg(test)]
    pub(super) fn progress(&self, number: usize) -> &Arc<Progress> {
        &self.open[number].progress
    }

    #[cfg(test)]
    pub(super) fn is_idle(progress: &Progress) -> bool {
        matches!(progress.at(), At::Waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(crowd: &Crowd, whose: Option<u32>) -> usize {
        crowd.open.iter().filter(|open| open.whose == whose).count()
    }

    #[tokio::test]
    async fn of_many_users_the_one_with_most_connections_gives_way() {
        let mut crowd = Crowd::default();
        for uid in [1000, 1001, 1002, 1003, 1004] {
            for _ in 0..2 * OF_ONE_MAX {
                crowd.add(Some(uid), |_| std::future::pending());
            }
        }
        assert_eq!(crowd.open.len(), CONNECTIONS_MAX);
        for uid in [1000, 1001, 1002, 1003, 1004] {
            assert!(count(&crowd, Some(uid)) >= CONNECTIONS_MAX / 5, "{:?}", count(&crowd, Some(uid)));
        }
        crowd.add(None, |_| std::future::pending());
        crowd.add(Some(1000), |_| std::future::pending());
        assert_eq!(count(&crowd, None), 1, "who has one keeps it");
        assert_eq!(crowd.open.len(), CONNECTIONS_MAX);
    }

    #[tokio::test]
    async fn one_that_is_answered_does_not_give_way_before_its_answer_has_left() {
        let mut crowd = Crowd::default();
        crowd.add(Some(1000), |_| std::future::pending());
        let first = crowd.open[0].progress.clone();
        first.begin();
        first.send();
        for _ in 0..OF_ONE_MAX {
            crowd.add(Some(1000), |_| std::future::pending());
        }
        assert!(Arc::ptr_eq(&crowd.open[0].progress, &first));
        first.written();
        crowd.add(Some(1000), |_| std::future::pending());
        assert!(!Arc::ptr_eq(&crowd.open[0].progress, &first));
    }
}
