//! What lives, on the page: a row for each session and each of its servers, and before them what has to be looked at.

use std::cmp::Reverse;
use std::fmt::{self, Write};

use super::Page;
use super::cells::{self, Age, Column, Share, Text, UNTOLD, amount, plural};
use crate::metrics::{Hits, Picture, Reading, Seen, UNKNOWN};
use crate::snapshot::{ActivityView, MemoryView, PressureView, ServerView, SessionView};

/// The most that is said above the table; the rows say it of themselves.
const LOOK_MAX: usize = 20;

/// From here on an end takes too long, in seconds: the alert on it begins there as well.
const END_LONG: f64 = 60.0;

const COLUMNS: [Column; 10] = [
    Column("Name", false),
    Column("State", false),
    Column("RSS", true),
    Column("In use, of the limit", false),
    Column("Memory pressure", true),
    Column("CPU time", true),
    Column("Processes", true),
    Column("Age", true),
    Column("Host", false),
    Column("Owner", true),
];

/// What has to be looked at now, a list's item each. It has an id by which it is known when it is told again.
pub(super) fn to_look_at(page: &Page<'_>) -> Vec<String> {
    let Picture { sessions, machine, oldest_end, .. } = page.picture;
    let mut lines = Vec::new();
    if let Some(share) = machine.as_ref().and_then(Share::of).filter(|share| share.is_high()) {
        let share = share.percent();
        lines.push(format!(
            "<li id=\"look-all\">All sessions together are at {share} of the memory limit above them.</li>"
        ));
    }
    if *oldest_end > END_LONG {
        let age = Age::between(0.0, *oldest_end);
        lines.push(format!("<li id=\"look-end\">An end has been under way for {age}.</li>"));
    }
    for Reading { view, .. } in sessions {
        let of_session = ("session", view.key.as_str(), name(page, view));
        lines.extend(near(of_session, &view.memory));
        for server in &view.servers {
            let of_server = ("server", server.leaf.as_str(), server.leaf.as_str());
            if is_escaped(server) {
                let said = format!("has left its cgroup{}", pids(&server.escaped_pids));
                lines.push(item("left", of_server, &said));
            }
            lines.extend(near(of_server, &server.memory));
        }
    }
    lines
}

fn item(what: &str, (kind, key, name): (&str, &str, &str), said: &str) -> String {
    let (key, name) = (Text(key), Text(name));
    format!("<li id=\"look-{what}-{kind}-{key}\"><a href=\"#{kind}-{key}\"><bdi>{name}</bdi></a> {said}.</li>")
}

fn near(of: (&str, &str, &str), memory: &MemoryView) -> Option<String> {
    let share = Share::of(memory).filter(|share| share.is_high())?;
    Some(item("near", of, &format!("is at {} of its memory limit", share.percent())))
}

fn is_escaped(server: &ServerView) -> bool {
    server.escaped || !server.escaped_pids.is_empty()
}

/// The processes in words; nothing where they were not told.
fn pids(pids: &[i32]) -> String {
    let told: Vec<String> = pids.iter().map(ToString::to_string).collect();
    match told.len() {
        0 => String::new(),
        one_or_more => format!(": process{} {}", if one_or_more == 1 { "" } else { "es" }, told.join(", ")),
    }
}

fn name<'a>(page: &Page<'_>, view: &'a SessionView) -> &'a str {
    if page.with_ids { view.id.as_str() } else { &view.key }
}

pub(super) fn write(page: &Page<'_>, html: &mut String) -> fmt::Result {
    let lines = to_look_at(page);
    if !lines.is_empty() {
        writeln!(
            html,
            "<section id=\"look\" aria-labelledby=\"look-head\">\n<h2 id=\"look-head\">To look at</h2>\n<ul>"
        )?;
        lines.iter().take(LOOK_MAX).try_for_each(|line| writeln!(html, "{line}"))?;
        if let Some(more @ 1..) = lines.len().checked_sub(LOOK_MAX) {
            writeln!(html, "<li>And {more} more: see below.</li>")?;
        }
        writeln!(html, "</ul>\n</section>")?;
    }
    table(page, html)
}

fn table(page: &Page<'_>, html: &mut String) -> fmt::Result {
    let Picture { sessions, omitted, .. } = page.picture;
    if sessions.is_empty() && omitted.is_empty() {
        return writeln!(
            html,
            "<p id=\"nothing\"><strong>Nothing is contained.</strong> Servers that a host starts through <code>pinfold \
             run</code> stand here while they live.</p>"
        );
    }
    // What uses most stands first: that is what somebody looks for who comes because memory is short.
    let rss = |memory: &MemoryView| Reverse(memory.rss_bytes.map_or(0, |bytes| bytes.0));
    let mut ordered: Vec<&Reading> = sessions.iter().collect();
    ordered.sort_by_key(|reading| rss(&reading.view.memory));
    cells::head(&COLUMNS, "living", "Sessions and their servers, by resident memory", html)?;
    for reading in ordered {
        Row::session(page, reading).write(page, html)?;
        let mut servers: Vec<_> = reading.view.servers.iter().zip(&reading.servers).collect();
        servers.sort_by_key(|(server, _)| rss(&server.memory));
        servers.into_iter().try_for_each(|(server, (hits, seen))| Row::server(server, hits, seen).write(page, html))?;
    }
    writeln!(html, "</tbody>\n</table>")?;
    match omitted.len() {
        0 => Ok(()),
        more => writeln!(html, "<p>{more} more session{}: beyond sessions_max of [metrics].</p>", plural(more)),
    }
}

/// One row: what sessions and servers have alike.
struct Row<'a> {
    kind: &'static str,
    key: &'a str,
    name: &'a str,
    cgroup: &'a str,
    host: String,
    state: &'a str,
    marks: Vec<String>,
    processes: u32,
    memory: &'a MemoryView,
    activity: &'a ActivityView,
    pressure: &'a PressureView,
    started: f64,
    owner: Option<i32>,
}

fn alarm(text: &str) -> String {
    format!("<span class=\"mark alarm\">{}</span>", Text(text))
}

fn warn(text: &str) -> String {
    format!("<span class=\"mark warn\">{}</span>", Text(text))
}

fn kills(hits: &Hits) -> Option<String> {
    let kills = hits.memory_kills.filter(|kills| *kills > 0)?;
    Some(alarm(&format!("{kills} killed for memory")))
}

/// What is nothing to speak of does not ask to be read.
fn waited(seconds: f64) -> String {
    let told = cells::seconds(seconds);
    if seconds < 0.05 { format!("<span class=\"dim\">{told}</span>") } else { told }
}

impl<'a> Row<'a> {
    fn session(page: &Page<'_>, reading: &'a Reading) -> Self {
        let view = &reading.view;
        let host = view.host.as_ref().map_or(UNKNOWN, |host| host.as_str());
        let mut marks: Vec<String> = kills(&reading.hits).into_iter().collect();
        marks.extend(view.expires_at.as_ref().map(|at| format!("<span class=\"dim\">until {}</span>", Text(at))));
        Row {
            kind: "session",
            key: &view.key,
            name: name(page, view),
            cgroup: &view.cgroup,
            host: format!("{} <span class=\"dim\">uid&nbsp;{}</span>", Text(host), view.uid),
            state: &view.state,
            marks,
            processes: view.processes,
            memory: &view.memory,
            activity: &view.activity,
            pressure: &view.pressure,
            started: reading.seen.started,
            owner: view.owner_pid,
        }
    }

    fn server(server: &'a ServerView, hits: &Hits, seen: &Seen) -> Self {
        let mut marks = Vec::new();
        if is_escaped(server) {
            marks.push(alarm(&format!("left its cgroup{}", pids(&server.escaped_pids))));
        }
        marks.extend(kills(hits));
        if server.pids_refusals > 0 {
            let refused = server.pids_refusals;
            marks.push(warn(&format!("{refused} fork{} refused", if refused == 1 { "" } else { "s" })));
        }
        if !server.warnings.is_empty() {
            let count = server.warnings.len();
            let items = server.warnings.iter().map(|warning| format!("<li>{}</li>", Text(warning)));
            marks.push(format!(
                "<details><summary>{count} warning{}</summary><ul>{}</ul></details>",
                plural(count),
                items.collect::<String>()
            ));
        }
        Row {
            kind: "server",
            key: &server.leaf,
            name: &server.leaf,
            cgroup: &server.cgroup,
            host: String::new(),
            state: &server.state,
            marks,
            processes: server.processes,
            memory: &server.memory,
            activity: &server.activity,
            pressure: &server.pressure,
            started: seen.started,
            owner: Some(server.owner_pid),
        }
    }

    fn state(&self) -> String {
        let state = match self.state {
            quiet @ ("running" | "parked") => format!("<span class=\"dim\">{quiet}</span>"),
            other => warn(other),
        };
        let said: Vec<String> = std::iter::once(state).chain(self.marks.iter().cloned()).collect();
        said.join(" ")
    }

    fn of_limit(&self) -> String {
        let used = cells::used(self.memory);
        match (Share::of(self.memory), used) {
            (Some(share), _) => share.bar(self.name),
            (None, Some(used)) => format!("{} <span class=\"of\">no limit</span>", amount(used)),
            (None, None) => UNTOLD.to_owned(),
        }
    }

    fn write(&self, page: &Page<'_>, html: &mut String) -> fmt::Result {
        let or_untold = |value: Option<String>| value.unwrap_or_else(|| UNTOLD.to_owned());
        let age = Age::between(self.started, crate::metrics::own::unix(page.now));
        let cells = [
            self.state(),
            or_untold(self.memory.rss_bytes.map(amount)),
            self.of_limit(),
            or_untold(self.pressure.memory.some_seconds.map(waited)),
            or_untold(self.activity.cpu_seconds.map(cells::seconds)),
            self.processes.to_string(),
            age.to_string(),
            self.host.clone(),
            or_untold(self.owner.map(|pid| pid.to_string())),
        ];
        write!(
            html,
            "<tr id=\"{kind}-{}\" class=\"{kind}\"><th scope=\"row\" title=\"{}\"><bdi>{}</bdi></th>",
            Text(self.key),
            Text(self.cgroup),
            Text(self.name),
            kind = self.kind,
        )?;
        COLUMNS[1..].iter().zip(&cells).try_for_each(|(column, cell)| column.cell(cell, html))?;
        writeln!(html, "</tr>")
    }
}
