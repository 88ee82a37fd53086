//! The page at `/`: the same picture for people, as one piece of HTML that needs no other file, and no JavaScript for what
//! it shows.

mod cells;
mod ends;
mod living;

use std::fmt::{self, Write};
use std::time::SystemTime;

use self::cells::{Share, Text, amount, plural, used};
use super::Picture;
use crate::occurrence::Occurrence;
use crate::wire::{Description, LimitState};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What the page shows.
#[derive(Debug)]
pub struct Page<'a> {
    /// What is.
    pub picture: &'a Picture,
    /// Whose page it is.
    pub description: &'a Description,
    /// What the machine is called, which tells one page from another.
    pub machine: &'a str,
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

/// The page.
pub fn page(page: &Page<'_>) -> String {
    let mut html = String::with_capacity(16 << 10);
    // Writing to a string cannot fail.
    let _ = write(page, &mut html);
    html
}

fn write(page: &Page<'_>, html: &mut String) -> fmt::Result {
    let nonce = Text(page.nonce);
    let machine = Text(page.machine);
    let title = match living::to_look_at(page).len() {
        0 => format!("pinfold on {machine}"),
        count => format!("({count}) pinfold on {machine}"),
    };
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>\n\
         <style nonce=\"{nonce}\">\n{STYLE}</style>\n</head>\n<body>\n<p id=\"away\" role=\"status\"></p>\n\
         <main data-version=\"{}\" data-title=\"{title}\">\n<h1>pinfold <span>on {machine}</span></h1>\n",
        Text(&page.description.version),
    )?;
    facts(page, html)?;
    living::write(page, html)?;
    ends::write(page, html)?;
    about(page.description, html)?;
    write!(html, "</main>\n<script nonce=\"{nonce}\">\n{SCRIPT}</script>\n</body>\n</html>\n")
}

/// The most important figures, and when they were read.
fn facts(page: &Page<'_>, html: &mut String) -> fmt::Result {
    let Picture { sessions, omitted, machine, .. } = page.picture;
    let beyond = |count: fn(&[(crate::session::Name, u32)]) -> usize| -> usize {
        omitted.iter().map(|session| count(&session.servers)).sum()
    };
    let figures = [
        (sessions.len() + omitted.len(), "session"),
        (sessions.iter().map(|reading| reading.view.servers.len()).sum::<usize>() + beyond(<[_]>::len), "server"),
        (
            sessions.iter().map(|reading| reading.view.processes as usize).sum::<usize>()
                + beyond(|servers| servers.iter().map(|(_, processes)| *processes as usize).sum()),
            "process",
        ),
    ];
    write!(html, "<ul class=\"facts\">")?;
    for (count, what) in figures {
        let plural = if what == "process" && count != 1 { "es" } else { plural(count) };
        write!(html, "<li><strong>{count}</strong> {what}{plural}</li>")?;
    }
    if let Some(memory) = machine
        && let Some(used) = used(memory)
    {
        write!(html, "<li><strong>{}</strong> in use ", amount(used))?;
        match Share::of(memory) {
            Some(share) => write!(html, "{}</li>", share.bar("all sessions together"))?,
            None => write!(html, "<span class=\"of\">no limit above the sessions</span></li>")?,
        }
    }
    let now = crate::timestamp::Timestamp::of(page.now).to_second();
    writeln!(html, "<li class=\"dim\">as of <time datetime=\"{now}\">{now}</time></li></ul>")
}

fn about(description: &Description, html: &mut String) -> fmt::Result {
    let Description { version, backend, layout, limits, .. } = description;
    let missing: Vec<String> = limits
        .iter()
        .filter(|(_, state)| matches!(state, LimitState::Missing { .. }))
        .map(|(name, _)| Text(name).to_string())
        .collect();
    write!(html, "<p>pinfold {}, {} on {}. ", Text(version), Text(backend), Text(layout))?;
    if !missing.is_empty() {
        let names = missing.join(", ");
        write!(html, "Limits of these kinds do not hold here: {names} (<code>pinfold doctor</code> says why). ")?;
    }
    writeln!(html, "<a href=\"/metrics\">/metrics</a> has all of it for Prometheus.</p>")
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
