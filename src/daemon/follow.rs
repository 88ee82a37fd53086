//! What happened, to whoever asks; and to whoever follows as it happens, for as long as the connection stands.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::message::{Message, Peer};
use super::socket::{ConnectionError, SILENCE_MAX, Service, ask};
use crate::occurrence::Occurrence;
use crate::wire::{self, EventsReply, Watch};

/// How much goes into one reply.
const BATCH_MAX: usize = 100;

/// What of it the peer may see, and asked for.
fn is_for(peer: Peer, watch: &Watch, occurrence: &Occurrence) -> bool {
    peer.reaches(occurrence.uid, occurrence.realm) && (watch.session.is_none() || watch.session == occurrence.session)
}

fn copies(peer: Peer, watch: &Watch, all: &[Arc<Occurrence>]) -> Vec<Occurrence> {
    all.iter().filter(|occurrence| is_for(peer, watch, occurrence)).map(|one| (**one).clone()).collect()
}

/// What happened so far.
pub(super) async fn recent(service: &Service, peer: Peer, watch: &Watch) -> Result<EventsReply, ConnectionError> {
    let following = ask(service, Message::Follow).await?;
    Ok(EventsReply { events: copies(peer, watch, &following.recent), missed: 0 })
}

/// The same, and then all that happens until the client hangs up. One that does not read is let go.
pub(super) async fn follow(
    service: &Service,
    peer: Peer,
    watch: &Watch,
    stream: &mut UnixStream,
) -> Result<(), ConnectionError> {
    let mut following = ask(service, Message::Follow).await?;
    let mut reply = EventsReply { events: copies(peer, watch, &following.recent), missed: 0 };
    drop(std::mem::take(&mut following.recent));
    let mut first = true;
    loop {
        if first || !reply.events.is_empty() || reply.missed > 0 {
            let bytes = wire::encode_reply_of_many(&reply);
            let written = tokio::time::timeout(SILENCE_MAX, stream.write_all(&bytes));
            written.await.map_err(|_| ConnectionError::Silent)??;
        }
        (first, reply) = (false, EventsReply::default());
        let mut byte = [0];
        let next = tokio::select! {
            next = following.next.recv() => next,
            // The call has been answered for as long as it stands: whatever comes is its end.
            _ = stream.read(&mut byte) => return Ok(()),
        };
        let mut next = next.map_err(|error| match error {
            RecvError::Lagged(missed) => TryRecvError::Lagged(missed),
            RecvError::Closed => TryRecvError::Closed,
        });
        loop {
            match next {
                Ok(occurrence) if is_for(peer, watch, &occurrence) => reply.events.push((*occurrence).clone()),
                Ok(_) => {}
                Err(TryRecvError::Lagged(missed)) => reply.missed += missed,
                Err(TryRecvError::Closed) => return Err(ConnectionError::Stopping),
                Err(TryRecvError::Empty) => break,
            }
            if reply.events.len() == BATCH_MAX {
                break;
            }
            next = following.next.try_recv();
        }
    }
}
