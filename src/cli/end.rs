//! `pinfold end`.

use std::time::Duration;

use super::progress::Progress;
use super::{DONE, NO, USAGE, args, failed, nearest, text};
use crate::client::{self, Client, ClientError};
use crate::label::Labels;
use crate::limits::Bytes;
use crate::session::SessionId;
use crate::snapshot::SessionView;
use crate::wire::{Call, End, EndReply};

/// The longest that we wait for the daemon, which has deadlines of its own.
const WAIT_MAX: Duration = Duration::from_secs(690);

pub(super) fn end(end: &args::End) -> u8 {
    let wishes = match wishes(end) {
        Ok(wishes) => wishes,
        Err(usage) => {
            eprintln!("pinfold: {usage}");
            return USAGE;
        }
    };
    let mut client = match client::find(end.socket.socket.as_deref()) {
        Ok(client) => client,
        // No daemon, no sessions.
        Err(ClientError::NoDaemon(_)) if end.socket.socket.is_none() => {
            let missed: Vec<String> = wishes.iter().filter_map(|wish| missed(end, wish, &[])).collect();
            missed.iter().for_each(|missed| eprintln!("pinfold: {missed}"));
            if missed.is_empty() || end.json {
                report(end, &EndReply::default());
            }
            return if missed.is_empty() { DONE } else { NO };
        }
        Err(error) => return failed(&error),
    };
    let progress = Progress::start("waiting for the servers to leave");
    let mut all = EndReply::default();
    let mut unmatched = Vec::new();
    for wish in wishes {
        match ask(&mut client, wish.clone()) {
            Ok(reply) => {
                if reply.ended.is_empty() && reply.pending.is_empty() {
                    unmatched.push(wish);
                }
                all.ended.extend(reply.ended);
                all.pending.extend(reply.pending);
            }
            Err(error) => {
                drop(progress);
                // What was ended before is told; that nothing was is not an answer to what failed.
                if all != EndReply::default() {
                    report(end, &all);
                }
                return failed(&error);
            }
        }
    }
    drop(progress);
    let sessions = if unmatched.is_empty() { Vec::new() } else { nearest::sessions(&mut client) };
    let mut is_missed = false;
    for wish in &unmatched {
        match missed(end, wish, &sessions) {
            Some(missed) => {
                is_missed = true;
                eprintln!("pinfold: {missed}");
            }
            None if end.json => {}
            None => {
                text::print(&described(wish));
            }
        }
    }
    if let Some(other) = client.other().filter(|_| !unmatched.is_empty()) {
        // What was not there may be another daemon's.
        eprintln!("pinfold: {}", super::ls::not_shown(other));
    }
    let status = if all == EndReply::default() && !end.json { DONE } else { report(end, &all) };
    if is_missed { NO } else { status }
}

/// What is wrong where a session or a server was named and there is none. Any other order is one about whatever there is:
/// with labels, a time or a generation it may come late, and that nothing is left is what it asks for.
fn missed(end: &args::End, wish: &End, sessions: &[SessionView]) -> Option<String> {
    let may_be_late = !wish.labels.is_empty() || wish.before.is_some() || wish.generation.is_some();
    let session = wish.session.as_ref().filter(|_| !may_be_late && !end.if_exists)?;
    Some(match &wish.server {
        Some(server) => nearest::no_server(session, server, sessions),
        None => nearest::no_session(session, sessions),
    })
}

/// That nothing is left of it is what was asked for; that there was nothing is worth a line.
fn described(wish: &End) -> String {
    if !wish.labels.is_empty() || wish.before.is_some() || wish.generation.is_some() {
        let mut wanted: Vec<String> = wish.session.iter().map(|id| format!("is of session {id}")).collect();
        wanted.extend(wish.server.iter().map(|server| format!("is called {server}")));
        wanted.extend(wish.owner_pid.map(|pid| format!("is owned by process {pid}")));
        wanted.extend((!wish.labels.is_empty()).then(|| format!("carries {}", wish.labels)));
        wanted.extend(wish.generation.map(|generation| format!("is of generation {generation}")));
        wanted.extend(wish.before.map(|before| format!("was launched before {before}")));
        return format!("nothing to end: no server of yours {}\n", wanted.join(" and "));
    }
    match (&wish.session, &wish.server, wish.owner_pid) {
        (Some(session), Some(server), _) => format!("nothing to end: session {session} has no server {server}\n"),
        (Some(session), None, _) => format!("nothing to end: no session {session} is alive\n"),
        (None, _, Some(pid)) => format!("nothing to end: process {pid} owns nothing\n"),
        (None, ..) => "nothing to end\n".to_owned(),
    }
}

fn ask(client: &mut Client, wish: End) -> Result<EndReply, ClientError> {
    client.call(&Call::End(wish), &[], WAIT_MAX)
}

fn wishes(end: &args::End) -> Result<Vec<End>, String> {
    let labels = Labels::collect(end.labels.iter().cloned()).map_err(|error| error.to_string())?;
    if end.generation.is_some() && end.sessions.is_empty() && end.server.is_empty() {
        return Err("--generation is one of a session: name it, too".to_owned());
    }
    let base = End {
        now: end.now,
        wait: !end.no_wait,
        labels,
        before: end.before,
        generation: end.generation,
        ..End::default()
    };
    let mut wishes: Vec<End> =
        end.sessions.iter().map(|id| End { session: Some(id.clone()), ..base.clone() }).collect();
    for server in &end.server {
        // A session's id may hold slashes; a server's name does not.
        let Some((session, name)) = server.rsplit_once('/') else {
            return Err(format!("--server {server:?}: write SESSION/NAME, both as `pinfold ls` shows them"));
        };
        let session = SessionId::parse(session).map_err(|error| error.to_string())?;
        wishes.push(End { session: Some(session), server: Some(name.to_owned()), ..base.clone() });
    }
    if let Some(pid) = end.owner {
        wishes.push(End { owner_pid: Some(pid), ..base.clone() });
    }
    if end.all {
        wishes.push(End { all: true, ..base.clone() });
    }
    if wishes.is_empty() {
        wishes.push(base);
    }
    Ok(wishes)
}

fn report(end: &args::End, reply: &EndReply) -> u8 {
    if end.json {
        text::print_json(reply);
    } else {
        text::print(&lines(end, reply));
    }
    if reply.pending.is_empty() || end.no_wait { DONE } else { NO }
}

fn lines(end: &args::End, reply: &EndReply) -> String {
    let mut lines = String::new();
    for ended in &reply.ended {
        let outcome = &ended.outcome;
        let processes = outcome.processes.map_or_else(|| "?".to_owned(), |count| count.to_string());
        let memory = outcome.memory_bytes.map_or_else(String::new, |bytes| format!(", {bytes} given back"));
        let how = if outcome.killed { ", killed" } else { "" };
        let why = if outcome.cause.word() == "requested" { String::new() } else { format!(" ({})", outcome.why()) };
        let noun = if outcome.processes == Some(1) { "process" } else { "processes" };
        let same_session = reply.ended.iter().filter(|other| other.session == ended.session);
        let server = super::ls::called(&ended.server, &ended.leaf, same_session.map(|other| &other.server));
        let line = format!("{} / {server}: {processes} {noun}{memory}{how}{why}\n", ended.session);
        lines.push_str(&line);
    }
    let total: u64 = reply.ended.iter().filter_map(|ended| ended.outcome.memory_bytes).map(|Bytes(bytes)| bytes).sum();
    if reply.ended.len() > 1 {
        let processes: u32 = reply.ended.iter().filter_map(|ended| ended.outcome.processes).sum();
        lines.push_str(&format!("{} servers: {processes} processes, {} given back\n", reply.ended.len(), Bytes(total)));
    }
    for leaf in &reply.pending {
        lines.push_str(&format!(
            "{leaf}: {}\n",
            if end.no_wait { "its end has begun" } else { "not gone yet; it is tried again" }
        ));
    }
    if lines.is_empty() {
        lines.push_str("nothing to end\n");
    }
    lines
}
