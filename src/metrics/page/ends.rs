//! The last ends, on the page: what ended, why, and when.

use std::fmt::{self, Write};

use super::Page;
use super::cells::{self, Age, Column, Text, UNTOLD, amount};
use crate::metrics::{UNKNOWN, own};
use crate::occurrence::{Ended, Occurrence, What};
use crate::outcome::{Cause, Stopper};

const COLUMNS: [Column; 7] = [
    Column("Server", false),
    Column("Session", false),
    Column("Host", false),
    Column("Why", false),
    Column("When", false),
    Column("Lived", true),
    Column("Peak", true),
];

pub(super) fn write(page: &Page<'_>, html: &mut String) -> fmt::Result {
    if page.ends.is_empty() {
        return writeln!(html, "<p>Nothing has ended since this daemon started.</p>");
    }
    cells::head(&COLUMNS, "ended", "The last ends", html)?;
    page.ends.iter().try_for_each(|occurrence| row(page, occurrence, html))?;
    writeln!(html, "</tbody>\n</table>")
}

/// Whether nobody wanted it to end.
fn is_alarming(cause: Cause) -> bool {
    match cause {
        Cause::Memory { .. } | Cause::Pids { .. } | Cause::LaunchFailed | Cause::Stopped { by: Stopper::Oomd } => true,
        Cause::Requested
        | Cause::Stopped { by: Stopper::Manager }
        | Cause::LeaderExited
        | Cause::StdinClosed
        | Cause::OwnerGone
        | Cause::Expired { .. }
        | Cause::Idle { .. }
        | Cause::Unconfigured
        | Cause::Replaced => false,
    }
}

fn row(page: &Page<'_>, occurrence: &Occurrence, html: &mut String) -> fmt::Result {
    let What::Ended(Ended { outcome, lifetime_seconds, .. }) = &occurrence.what else { return Ok(()) };
    let id = occurrence.session.as_ref().filter(|_| page.with_ids).map(|id| id.as_str());
    let session = id.or(occurrence.key.as_deref()).unwrap_or_default();
    let at = occurrence.at.to_second();
    let ago = Age::between(own::unix(occurrence.at.time()), own::unix(page.now));
    let why = Text(&outcome.to_string()).to_string();
    let cells = [
        format!("<bdi>{}</bdi>", Text(session)),
        Text(occurrence.host.as_ref().map_or(UNKNOWN, |host| host.as_str())).to_string(),
        if is_alarming(outcome.cause) { format!("<span class=\"mark alarm\">{why}</span>") } else { why },
        format!("<span class=\"whole\">{ago} ago</span> <time class=\"dim\" datetime=\"{at}\">{at}</time>"),
        cells::seconds(*lifetime_seconds),
        outcome.peak_bytes.map_or_else(|| UNTOLD.to_owned(), amount),
    ];
    write!(html, "<tr id=\"end-{}\"><th scope=\"row\">{}</th>", occurrence.number, Text(occurrence.server.as_str()))?;
    COLUMNS[1..].iter().zip(&cells).try_for_each(|(column, cell)| column.cell(cell, html))?;
    writeln!(html, "</tr>")
}
