//! `pinfold events`.

use std::io::IsTerminal;
use std::time::Duration;

use super::{DONE, NO, args, failed, text};
use crate::client::{self, ClientError};
use crate::occurrence::Occurrence;
use crate::wire::{Call, EventsReply, Watch};

pub(super) fn events(events: &args::Events) -> u8 {
    let watch = Watch { session: events.session.clone(), follow: events.follow };
    let mut client = match client::find(events.socket.socket.as_deref()) {
        Ok(client) => client,
        // What happened is gone with the daemon that saw it, but for its log; to wait for what happens there has to be one.
        Err(ClientError::NoDaemon(socket)) if events.socket.socket.is_none() && !events.follow => {
            let log = client::beside(&socket, "log");
            eprintln!("pinfold: no daemon runs; what the last one told is in the journal, or in {}", log.display());
            show(events, &EventsReply::default());
            return DONE;
        }
        Err(error) => return failed(&error),
    };
    if let Some(other) = client.other() {
        eprintln!("pinfold: {}", super::ls::not_shown(other));
    }
    let call = Call::Events(watch);
    if !events.follow {
        return match client.call::<EventsReply>(&call, &[], client::VIEW_MAX) {
            Ok(reply) => {
                show(events, &reply);
                DONE
            }
            Err(error) => failed(&error),
        };
    }
    let mut is_past = true;
    let each =
        |reply: EventsReply| show(events, &reply) && (!std::mem::take(&mut is_past) || begin_the_present(events));
    match client.follow(&call, each) {
        Ok(()) => DONE,
        Err(error @ ClientError::HungUp(_)) => {
            failed(&error);
            eprintln!(
                "pinfold: to follow what happens next, call it again once a daemon runs; it tells what it found alive"
            );
            NO
        }
        Err(error) => failed(&error),
    }
}

/// Tells people, where they look on as it happens, that all above was before. Says whether anybody reads it.
fn begin_the_present(events: &args::Events) -> bool {
    let is_watched = std::io::stdout().is_terminal() && !events.json;
    !is_watched || text::print("--- that was until now; what happens from here on is told as it does ---\n")
}

/// Prints what one reply tells, as far as it is asked for, and says whether anybody reads it.
fn show(events: &args::Events, reply: &EventsReply) -> bool {
    if reply.missed > 0 {
        eprintln!("pinfold: {} events went by unseen: they came faster than they were read", reply.missed);
    }
    let wanted = |occurrence: &&Occurrence| events.since.is_none_or(|since| since <= occurrence.at);
    let wanted: Vec<&Occurrence> = reply.events.iter().filter(wanted).collect();
    if wanted.is_empty() && !events.json && !events.follow {
        return text::print("no events\n");
    }
    let lines = wanted.into_iter().map(|occurrence| {
        if events.json {
            serde_json::to_string(occurrence).expect("our views are JSON") + "\n"
        } else {
            line(occurrence)
        }
    });
    text::print(&lines.collect::<String>())
}

fn line(occurrence: &Occurrence) -> String {
    let mut line = format!("{}  {occurrence}", occurrence.at.to_second());
    if let crate::occurrence::What::Ended(ended) = &occurrence.what {
        let lived = Duration::from_secs_f64(ended.lifetime_seconds.max(0.0));
        line.push_str(&format!(", after {}", text::span(lived)));
    }
    line + "\n"
}
