//! `pinfold history`.

use std::time::{Duration, SystemTime};

use super::{DONE, args, failed, ls, text};
use crate::client::{self, ClientError};
use crate::history::History;
use crate::occurrence::{Occurrence, What};
use crate::outcome::Exit;
use crate::timespan::TimeSpan;
use crate::timestamp::Timestamp;
use crate::wire::{Answer, By, Call, Group, Question};

/// How many ends are shown where nobody says how many.
const LIMIT: u32 = 1000;

/// A point in time, or how long ago that is.
pub(super) fn since(given: &str) -> Result<Timestamp, String> {
    match given.parse::<TimeSpan>() {
        Ok(ago) => Ok(Timestamp::of(SystemTime::now().checked_sub(ago.duration()).unwrap_or(SystemTime::UNIX_EPOCH))),
        Err(_) => given.parse().map_err(|error| format!("it is no time span, as in 2h or 7d, and {error}")),
    }
}

pub(super) fn history(history: &args::History) -> u8 {
    let by = history.by.map(|by| match by {
        args::HistoryBy::Server => By::Server,
        args::HistoryBy::Host => By::Host,
        args::HistoryBy::Cause => By::Cause,
    });
    let limit = Some(history.limit.unwrap_or(LIMIT));
    let question = Question { since: history.since, session: history.session.clone(), by, limit };
    let answer = match client::find(history.socket.socket.as_deref()) {
        Ok(mut client) => {
            if let Some(other) = client.other() {
                eprintln!("pinfold: {}", ls::not_shown(other));
            }
            client.call::<Answer>(&Call::History(question), &[], client::VIEW_MAX)
        }
        // The history outlives daemons; it lies where this user's daemon would write it.
        Err(ClientError::NoDaemon(socket)) => {
            let uid = nix::unistd::geteuid().as_raw();
            return match History::ask(&client::history(&socket), &question, uid) {
                Ok(answer) => show(history, by, &answer),
                Err(error) => failed(&error),
            };
        }
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) => show(history, by, &answer),
        Err(error) => failed(&error),
    }
}

fn show(history: &args::History, by: Option<By>, answer: &Answer) -> u8 {
    if answer.more {
        let or = if by.is_none() { ", or for more with --limit" } else { "" };
        eprintln!("pinfold: there is more than is shown; ask for less with --since{or}");
    }
    if history.json {
        match by {
            Some(_) => text::print_json(&answer.groups),
            None => text::print_json(&answer.ends),
        }
        return DONE;
    }
    match by {
        _ if answer.ends.is_empty() && answer.groups.is_empty() => text::print("nothing ended\n"),
        Some(by) => text::print(&sums(by, &answer.groups)),
        None => text::print(&list(&answer.ends)),
    };
    DONE
}

fn list(ends: &[Occurrence]) -> String {
    let rows = ends.iter().filter_map(|occurrence| {
        let What::Ended(ended) = &occurrence.what else { return None };
        let outcome = &ended.outcome;
        Some(vec![
            occurrence.session.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            occurrence.server.to_string(),
            occurrence.host.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            occurrence.at.to_second(),
            lived(ended.lifetime_seconds),
            ls::amount(outcome.peak_bytes),
            outcome.processes.map_or_else(|| "-".to_owned(), |count| count.to_string()),
            outcome.exit.map_or_else(|| "-".to_owned(), Exit::word),
            if outcome.killed { "killed" } else { "-" }.to_owned(),
            outcome.cause.word().to_owned(),
        ])
    });
    let header = ["SESSION", "SERVER", "HOST", "ENDED", "LIVED", "PEAK", "PROCS", "EXIT", "KILL", "CAUSE"];
    text::columns(&header, &rows.collect::<Vec<_>>())
}

fn sums(by: By, groups: &[Group]) -> String {
    let name = match by {
        By::Server => "SERVER",
        By::Host => "HOST",
        By::Cause => "CAUSE",
    };
    let rows = groups.iter().map(|group| {
        vec![
            group.name.clone().unwrap_or_else(|| "-".to_owned()),
            group.ends.to_string(),
            group.killed.to_string(),
            group.memory.to_string(),
            ls::amount(group.peak_bytes),
            ls::amount(group.memory_bytes),
            lived(group.mean_lifetime_seconds),
            lived(group.max_lifetime_seconds),
        ]
    });
    let header = [name, "ENDS", "KILLED", "MEMORY", "PEAK", "GIVEN BACK", "LIVED ON AVERAGE", "AT MOST"];
    text::columns(&header, &rows.collect::<Vec<_>>())
}

fn lived(seconds: f64) -> String {
    text::span(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)))
}
