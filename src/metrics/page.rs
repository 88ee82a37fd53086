//! The page at `/`: the same picture for people, as one piece of HTML that needs no other file, and no JavaScript for what
//! it shows.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use super::{Picture, Reading, UNKNOWN};
use crate::limits::Bytes;
use crate::occurrence::{Ended, Occurrence, What};
use crate::snapshot::{ActivityView, MemoryView, PressureView};
use crate::wire::Description;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What the page shows.
#[derive(Debug)]
pub struct Page<'a> {
    /// What is.
    pub picture: &'a Picture,
    /// Whose page it is.
    pub description: &'a Description,
    /// The last ends, the latest first.
    pub ends: &'a [&'a Occurrence],
    /// When.
    pub now: SystemTime,
    /// What the page's own style and script are known by, and nothing that was smuggled in.
    pub nonce: &'a str,
    /// Show what hosts call their sessions.
    pub with_ids: bool,
}

/// The Content-Security-Policy of a page with this nonce: it loads nothing, and asks for itself only.
pub fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    )
}

/// Text that stands for itself in HTML, in an element or in a quoted attribute.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// A span in its two largest units.
struct Age(Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..60 => write!(f, "{seconds}s"),
            60..3600 => write!(f, "{}min {}s", seconds / 60, seconds % 60),
            3600..86400 => write!(f, "{}h {}min", seconds / 3600, seconds % 3600 / 60),
            _ => write!(f, "{}d {}h", seconds / 86400, seconds % 86400 / 3600),
        }
    }
}

/// The page.
pub fn page(page: &Page<'_>) -> String {
    let mut html = String::with_capacity(16 << 10);
    // Writing to a string cannot fail.
    let _ = write(page, &mut html);
    html
}

fn write(page: &Page<'_>, html: &mut String) -> fmt::Result {
    let nonce = Text(page.nonce);
    let now = crate::timestamp::Timestamp::of(page.now).to_second();
    let Description { version, backend, layout, .. } = page.description;
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>pinfold</title>\n<noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>\n\
         <style nonce=\"{nonce}\">\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>pinfold</h1>\n"
    )?;
    let (sessions, servers) = counts(page.picture);
    writeln!(
        html,
        "<p>{sessions} session{}, {servers} server{} at <time datetime=\"{now}\">{now}</time>. Version {}, {} on {}.</p>",
        plural(sessions),
        plural(servers),
        Text(version),
        Text(backend),
        Text(layout),
    )?;
    machine(page.picture, html)?;
    living(page, html)?;
    ends(page, html)?;
    write!(
        html,
        "<p><a href=\"/metrics\">/metrics</a> has all of it for Prometheus.</p>\n</main>\n\
         <script nonce=\"{nonce}\">\n{SCRIPT}</script>\n</body>\n</html>\n"
    )
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn counts(picture: &Picture) -> (usize, usize) {
    let shown: usize = picture.sessions.iter().map(|reading| reading.view.servers.len()).sum();
    let omitted: usize = picture.omitted.iter().map(|session| session.servers.len()).sum();
    (picture.sessions.len() + picture.omitted.len(), shown + omitted)
}

fn machine(picture: &Picture, html: &mut String) -> fmt::Result {
    let Some(MemoryView { current_bytes: Some(current), max_bytes, .. }) = picture.machine else { return Ok(()) };
    write!(html, "<p>All sessions together are charged {current}")?;
    if let Some(max) = max_bytes {
        write!(html, " of {max} {}", meter(current, max))?;
    }
    writeln!(html, ".</p>")
}

/// Full from nine tenths on; it is what the kernel charges that meets the limit.
fn meter(used: Bytes, max: Bytes) -> String {
    let part = if max.0 == 0 { 1.0 } else { used.0 as f64 / max.0 as f64 };
    format!(
        "<meter min=\"0\" max=\"1\" low=\"0.75\" high=\"0.9\" optimum=\"0\" value=\"{:.3}\">{:.0} %</meter>",
        part.min(1.0),
        part * 100.0
    )
}

const COLUMNS: [&str; 10] = ["Name", "Host", "State", "Processes", "RSS", "Of limit", "CPU", "Waited", "Age", "Owner"];

fn head(columns: &[&str], caption: &str, html: &mut String) -> fmt::Result {
    write!(html, "<table>\n<caption>{caption}</caption>\n<thead><tr>")?;
    columns.iter().try_for_each(|column| write!(html, "<th scope=\"col\">{column}</th>"))?;
    writeln!(html, "</tr></thead>\n<tbody>")
}

fn living(page: &Page<'_>, html: &mut String) -> fmt::Result {
    if page.picture.sessions.is_empty() && page.picture.omitted.is_empty() {
        return writeln!(html, "<p>Nothing is contained.</p>");
    }
    head(&COLUMNS, "Sessions and their servers", html)?;
    page.picture.sessions.iter().try_for_each(|reading| session(page, reading, html))?;
    writeln!(html, "</tbody>\n</table>")?;
    match page.picture.omitted.len() {
        0 => Ok(()),
        more => writeln!(html, "<p>{more} more session{}: beyond sessions_max of [metrics].</p>", plural(more)),
    }
}

/// One row: what sessions and servers have alike.
struct Row<'a> {
    class: &'static str,
    name: &'a str,
    title: &'a str,
    host: &'a str,
    state: &'a str,
    processes: u32,
    memory: &'a MemoryView,
    activity: &'a ActivityView,
    pressure: &'a PressureView,
    started: f64,
    owner: Option<i32>,
}

fn session(page: &Page<'_>, reading: &Reading, html: &mut String) -> fmt::Result {
    let view = &reading.view;
    let row = Row {
        class: "session",
        name: if page.with_ids { view.id.as_str() } else { &view.key },
        title: &view.cgroup,
        host: view.host.as_ref().map_or(UNKNOWN, |host| host.as_str()),
        state: &view.state,
        processes: view.processes,
        memory: &view.memory,
        activity: &view.activity,
        pressure: &view.pressure,
        started: reading.seen.started,
        owner: view.owner_pid,
    };
    row.write(page.now, html)?;
    view.servers.iter().zip(&reading.servers).try_for_each(|(server, (_, seen))| {
        let row = Row {
            class: "server",
            name: &server.leaf,
            title: &server.cgroup,
            host: "",
            state: &server.state,
            processes: server.processes,
            memory: &server.memory,
            activity: &server.activity,
            pressure: &server.pressure,
            started: seen.started,
            owner: Some(server.owner_pid),
        };
        row.write(page.now, html)
    })
}

impl Row<'_> {
    fn write(&self, now: SystemTime, html: &mut String) -> fmt::Result {
        let shown = |value: Option<String>| value.unwrap_or_default();
        let MemoryView { rss_bytes, current_bytes, max_bytes, .. } = self.memory;
        let limit = current_bytes.zip(*max_bytes).map(|(used, max)| format!("{} {max}", meter(used, max)));
        let waited = self.pressure.memory.some_seconds.filter(|seconds| *seconds >= 0.05);
        let age = Duration::try_from_secs_f64(super::own::unix(now) - self.started).unwrap_or_default();
        let cells = [
            Text(self.host).to_string(),
            Text(self.state).to_string(),
            self.processes.to_string(),
            shown(rss_bytes.map(|rss| rss.to_string())),
            shown(limit),
            shown(self.activity.cpu_seconds.map(|seconds| format!("{seconds:.1}s"))),
            shown(waited.map(|seconds| format!("{seconds:.1}s for memory"))),
            Age(age).to_string(),
            shown(self.owner.map(|pid| pid.to_string())),
        ];
        write!(
            html,
            "<tr class=\"{}\"><th scope=\"row\" title=\"{}\"><bdi>{}</bdi></th>",
            self.class,
            Text(self.title),
            Text(self.name)
        )?;
        COLUMNS[1..].iter().zip(&cells).try_for_each(|(column, cell)| cell_of(column, cell, html))?;
        writeln!(html, "</tr>")
    }
}

/// On a narrow screen each cell has a line of its own, with its column's name.
fn cell_of(column: &str, cell: &str, html: &mut String) -> fmt::Result {
    let class = if cell.is_empty() { " class=\"none\"" } else { "" };
    write!(html, "<td data-column=\"{column}\"{class}>{cell}</td>")
}

const END_COLUMNS: [&str; 7] = ["Server", "Session", "Host", "When", "Why", "Lived", "Peak"];

fn ends(page: &Page<'_>, html: &mut String) -> fmt::Result {
    if page.ends.is_empty() {
        return writeln!(html, "<p>Nothing has ended since this daemon started.</p>");
    }
    head(&END_COLUMNS, "The last ends", html)?;
    for occurrence in page.ends {
        let What::Ended(Ended { outcome, lifetime_seconds, .. }) = &occurrence.what else { continue };
        let id = occurrence.session.as_ref().filter(|_| page.with_ids).map(|id| id.as_str());
        let session = id.or(occurrence.key.as_deref()).unwrap_or_default();
        let at = occurrence.at.to_second();
        let lived = Age(Duration::try_from_secs_f64(*lifetime_seconds).unwrap_or_default());
        let cells = [
            format!("<bdi>{}</bdi>", Text(session)),
            Text(occurrence.host.as_ref().map_or(UNKNOWN, |host| host.as_str())).to_string(),
            format!("<time datetime=\"{at}\">{at}</time>"),
            Text(&outcome.to_string()).to_string(),
            lived.to_string(),
            outcome.peak_bytes.map(|peak| peak.to_string()).unwrap_or_default(),
        ];
        write!(html, "<tr><th scope=\"row\">{}</th>", Text(occurrence.server.as_str()))?;
        END_COLUMNS[1..].iter().zip(&cells).try_for_each(|(column, cell)| cell_of(column, cell, html))?;
        writeln!(html, "</tr>")?;
    }
    writeln!(html, "</tbody>\n</table>")
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
