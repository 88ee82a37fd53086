//! `pinfold park` and `pinfold thaw`: what somebody asks for, of a server that idleness has not brought there.

use std::os::fd::AsFd;
use std::time::Duration;

use tokio::sync::oneshot;

use super::driver::Driver;
use super::message::Peer;
use super::reclaiming::Park;
use super::stdin;
use super::targets::Selection;
use crate::cgroup::{Caller, Reclaimed};
use crate::chain::chain;
use crate::lifecycle::{ParkReason, Rest, State, ThawReason};
use crate::limits::Bytes;
use crate::policy::Offer;
use crate::wire::{Fault, NotParked, ParkReply, Parked, Rested, ThawReply, Whose};

/// How long somebody who asks for servers to be parked waits for them.
const PARK_WAIT: Duration = Duration::from_secs(120);

impl Driver {
    /// Parks what was named, as far as the caller may have that done.
    pub(super) fn park(
        &mut self,
        peer: Peer,
        inside: Option<&Caller>,
        wish: &Rested,
        reply: oneshot::Sender<Result<ParkReply, Fault>>,
    ) {
        let targets = match Selection::of_rest(wish, "parked").and_then(|named| self.targets(peer, inside, &named)) {
            Ok(targets) => targets,
            Err(fault) => return drop(reply.send(Err(fault))),
        };
        let mut under_way = Vec::new();
        let mut answer = ParkReply::default();
        for number in targets {
            let Some(place) = self.place_of(number) else { continue };
            if let Some(parked) = self.is_parked_already(number) {
                answer.parked.push(Parked { was_parked: true, ..Parked::new(place, parked) });
                continue;
            }
            match self.park_one(number) {
                Ok(parked) => under_way.push((place, parked)),
                Err(why) => answer.refused.push(NotParked::new(place, why)),
            }
        }
        tokio::spawn(async move {
            let deadline = tokio::time::Instant::now() + PARK_WAIT;
            for (place, parked) in under_way {
                match tokio::time::timeout_at(deadline, parked).await {
                    Ok(Ok(Ok(Reclaimed { before, after, swap, stop, .. }))) => {
                        let parked = Parked::new(place, (before, after, swap));
                        answer.parked.push(Parked { postponed: stop.is_for_now(), ..parked });
                    }
                    Ok(Ok(Err(why))) => answer.refused.push(NotParked::new(place, why)),
                    Ok(Err(_)) => answer.refused.push(NotParked::new(place, "it ended".to_owned())),
                    Err(_) => answer.refused.push(NotParked::new(place, "it is still under way".to_owned())),
                }
            }
            let _ = reply.send(Ok(answer));
        });
    }

    /// What was charged to a server before it was parked, what is now, and what stands in swap.
    fn is_parked_already(&self, number: u64) -> Option<(Bytes, Bytes, Bytes)> {
        let server = self.table.servers.get(&number).filter(|server| server.is_parked())?;
        let memory = server.leaf.as_ref()?.memory();
        let (now, swap) = (memory.current_bytes.unwrap_or_default(), memory.swap_bytes.unwrap_or_default());
        Some((server.nap.before.unwrap_or(now), now, swap))
    }

    fn park_one(&mut self, number: u64) -> Result<oneshot::Receiver<Result<Reclaimed, String>>, String> {
        let offers = [&self.offers.trim, &self.offers.park];
        if let Some(why) = offers.into_iter().find_map(Offer::why_not) {
            return Err(why);
        }
        let server = self.table.servers.get_mut(&number).ok_or("it is gone")?;
        match (server.state, server.nap.rest) {
            (State::Running, Rest::Parking | Rest::Parked) => return Err("it is being parked already".to_owned()),
            (State::Running, Rest::Awake | Rest::Trimming | Rest::Trimmed) => {}
            (state, _) => return Err(format!("it is {}", state.word())),
        }
        if !server.leaf.as_ref().is_some_and(|leaf| crate::cgroup::can_reclaim(leaf.group())) {
            return Err("its leaf has no memory controller, as below a container without one".to_owned());
        }
        if server.container.is_some() {
            return Err("it has a container, to which its engine speaks".to_owned());
        }
        let Some(held) = server.stdin.as_ref() else {
            return Err("its stdin is not watched, so that nothing would tell when it is wanted".to_owned());
        };
        if stdin::has_unread(held.as_fd()) {
            return Err("a message waits in its stdin".to_owned());
        }
        // A trim that is under way has nothing to freeze; what could not be thawed a moment ago is now, or stays as it is.
        if let (Some(order), Some(leaf)) = (&server.nap.order, &server.leaf) {
            leaf.thaw(order).map_err(|error| chain(&error))?;
        }
        let (waiter, parked) = oneshot::channel();
        server.nap.waiter = Some(waiter);
        self.begin_rest(number, Some((Park { reachable: true, idle: None }, ParkReason::Requested)));
        Ok(parked)
    }

    /// Has what was named go on, as far as the caller may have that done.
    pub(super) fn unpark(&mut self, peer: Peer, inside: Option<&Caller>, wish: &Rested) -> Result<ThawReply, Fault> {
        let targets = self.targets(peer, inside, &Selection::of_rest(wish, "thawed")?)?;
        let mut answer = ThawReply::default();
        for number in targets {
            let frozen = self.table.servers.get(&number).is_some_and(|server| server.nap.rest.is_frozen());
            let Some(place) = self.place_of(number) else { continue };
            self.wake(number, ThawReason::Requested);
            if frozen { answer.thawed.push(place) } else { answer.awake.push(place) }
        }
        Ok(answer)
    }

    fn place_of(&self, number: u64) -> Option<Whose> {
        let server = self.table.servers.get(&number)?;
        let session = self.table.sessions.get(&server.key)?.id.clone();
        Some(Whose { session, server: server.name.clone(), leaf: server.leaf_name.as_str().to_owned() })
    }
}
