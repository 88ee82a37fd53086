//! What is selected, in full: what the tree had to cut, and where it is.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::cells::amount;
use super::draw::Pen;
use super::rows::{Row, escaped};
use super::state::State;
use super::tones::Tone;
use crate::snapshot::ServerView;

/// Where the values begin.
const VALUES: u16 = 10;

/// Writes up to so many lines about what is selected, below their title.
pub(super) fn details(pen: &mut Pen<'_>, top: u16, lines: u16, state: &State) {
    let rows = state.rows();
    let Some(row) = rows.iter().find(|row| Some(&row.id) == state.selected()) else { return };
    pen.line((1, top), "SELECTED", Tone::Title);
    for (y, (what, value, tone)) in (top + 1..top + 1 + lines).zip(told(row)) {
        pen.line((1, y), what, Tone::Faint);
        pen.line((VALUES, y), &value, tone);
    }
}

/// Most important first.
fn told(row: &Row<'_>) -> Vec<(&'static str, String, Tone)> {
    let session = row.session;
    let mut told = Vec::new();
    match row.server {
        None => told.push(("session", session.id.to_string(), Tone::Strong)),
        Some(server) => told.push(("server", format!("{} of session {}", server.name, session.id), Tone::Strong)),
    }
    if let Some(text) = row.server.filter(|server| escaped(server)).map(outside) {
        told.push(("ESCAPED", text, Tone::Alarm));
    }
    if let Some(warning) = row.server.and_then(|server| server.warnings.first()) {
        told.push(("warning", warning.clone(), Tone::Warn));
    }
    told.push(("memory", memory(row), Tone::Plain));
    if let Some(server) = row.server {
        told.push(("command", server.argv.words().join(" "), Tone::Plain));
    }
    let cgroup = row.server.map_or(&session.cgroup, |server| &server.cgroup);
    told.push(("cgroup", cgroup.clone(), Tone::Plain));
    if let Some(server) = row.server.filter(|server| !server.labels.is_empty()) {
        told.push(("labels", server.labels.to_string(), Tone::Plain));
    }
    if row.server.is_none() {
        let mut facts = format!("uid {}, generation {}", session.uid, session.generation);
        if let Some(expires) = &session.expires_at {
            facts.push_str(&format!(", expires {expires}"));
        }
        told.push(("is", facts, Tone::Plain));
    }
    told
}

fn outside(server: &ServerView) -> String {
    let pids: Vec<String> = server.escaped_pids.iter().map(ToString::to_string).collect();
    if pids.is_empty() {
        format!("its first process, {}, stands outside its leaf", server.leader_pid)
    } else {
        format!("these processes stand outside its leaf: {}", pids.join(", "))
    }
}

fn memory(row: &Row<'_>) -> String {
    let memory = row.memory();
    let parts = [
        ("working set", memory.working_set_bytes),
        ("anon", memory.anon_bytes),
        ("file", memory.file_bytes),
        ("shmem", memory.shmem_bytes),
        ("kernel", memory.kernel_bytes),
        ("swap", memory.swap_bytes),
        ("peak", memory.peak_bytes),
    ];
    let told =
        parts.into_iter().filter(|(_, bytes)| bytes.is_some()).map(|(name, bytes)| format!("{name} {}", amount(bytes)));
    let told = told.collect::<Vec<_>>().join(", ");
    if told.is_empty() { "the kernel does not tell".to_owned() } else { told }
}
