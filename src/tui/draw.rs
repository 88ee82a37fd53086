//! From what the screen knows to what stands on it: the head, the tree, what is selected, the last ends, and the keys.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

use super::cells::{age, amount, bar, curve, fit, percent};
use super::columns::{Column, Placed, columns};
use super::details::details;
use super::help::HELP;
use super::rows::{Place, Row};
use super::state::{Mode, Question, Reading, State};
use super::tones::{Palette, Tone};
use crate::limits::Bytes;
use crate::occurrence::{Ended, Occurrence, What};

/// How many lines each part of a screen has. What is not the tree's is there by how much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parts {
    details: u16,
    ends: u16,
}

impl Parts {
    fn of(height: u16) -> Self {
        match height {
            ..12 => Self { details: 0, ends: 0 },
            12..20 => Self { details: 0, ends: 2 },
            20..32 => Self { details: 0, ends: 4 },
            _ => Self { details: 4, ends: 8 },
        }
    }
}

/// A pen on one screen.
pub(super) struct Pen<'a> {
    buffer: &'a mut Buffer,
    palette: Palette,
    width: u16,
}

impl Pen<'_> {
    /// Writes as much of a text as fits between two columns, and gives the column after it.
    pub(super) fn write(&mut self, (x, y): (u16, u16), end: u16, text: &str, tone: Tone) -> u16 {
        let text = fit(text, usize::from(end.min(self.width).saturating_sub(x)));
        self.buffer.set_stringn(x, y, &text, usize::from(self.width), self.palette.style(tone)).0
    }

    /// The same up to the screen's right edge.
    pub(super) fn line(&mut self, at: (u16, u16), text: &str, tone: Tone) -> u16 {
        self.write(at, self.width, text, tone)
    }

    /// Writes a text so that it ends before a column.
    fn right(&mut self, y: u16, end: u16, text: &str, tone: Tone) {
        let width = text.width().min(usize::from(end)) as u16;
        self.write((end - width, y), end, text, tone);
    }
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, palette: Palette) {
    let area = frame.area();
    draw_on(frame.buffer_mut(), area, state, palette);
}

fn draw_on(buffer: &mut Buffer, area: Rect, state: &State, palette: Palette) {
    let (width, height) = (area.width, area.height);
    if width < 4 || height < 4 {
        return;
    }
    let pen = &mut Pen { buffer, palette, width };
    let mut top = head(pen, state);
    if height >= 20 {
        top += 1;
    }
    let bottom = height - 1;
    foot(pen, bottom, state);
    if *state.mode() == Mode::Help {
        let room = usize::from(bottom - top);
        let lines = HELP.into_iter().filter(|(keys, _)| !keys.is_empty() || room >= HELP.len());
        for (line, (keys, meaning)) in (top..bottom).zip(lines) {
            pen.line((1, line), keys, Tone::Strong);
            pen.line((14, line), meaning, Tone::Plain);
        }
        return;
    }
    let parts = Parts::of(height);
    let mut end = bottom;
    if parts.ends > 0 {
        // An empty line above the keys, where there is room for one.
        end -= u16::from(height >= 20);
        end -= parts.ends + 1;
        last_ends(pen, end, parts.ends, state);
        end -= u16::from(height >= 20);
    }
    if parts.details > 0 {
        end -= parts.details + 2;
        details(pen, end, parts.details, state);
        end -= 1;
    }
    tree(pen, top, end, state);
}

/// The first two lines. Gives the line after them.
fn head(pen: &mut Pen<'_>, state: &State) -> u16 {
    let about = state.reading().map(|reading| &reading.about);
    let seconds = state.interval().as_secs_f64();
    let look = format!("by {}, every {seconds}s", state.sort().word());
    pen.right(0, pen.width, &look, Tone::Faint);
    let room = pen.width.saturating_sub(look.width() as u16 + 2);
    let after = pen.write((0, 0), room, "pinfold", Tone::Strong);
    if let Some(about) = about {
        let after = pen.write((after + 1, 0), room, &about.version, Tone::Strong);
        let other = about.other.iter().map(|other| (format!("not shown: {other}"), Tone::Warn));
        let mut x = after + 2;
        for (text, tone) in [(about.backend.clone(), Tone::Faint)].into_iter().chain(other) {
            // Half a word about the daemon says nothing.
            if x + text.width() as u16 <= room || tone == Tone::Warn {
                x = pen.write((x, 0), room, &text, tone) + 2;
            }
        }
    }
    match state.trouble() {
        Some(trouble) => {
            let since = state.reading().map(|reading| trouble.at.saturating_sub(reading.at));
            let shown = since.map_or_else(String::new, |since| format!("this is {} old; ", age(since)));
            pen.line((0, 1), &format!("{shown}trying again: {}", trouble.why), Tone::Alarm);
        }
        None => totals(pen, state),
    }
    2
}

/// What all of it uses. Where there is little room the last words go.
fn totals(pen: &mut Pen<'_>, state: &State) {
    let sessions = state.sessions();
    if state.reading().is_none() {
        pen.line((0, 1), "asking the daemon …", Tone::Faint);
        return;
    }
    let sum = |of: fn(&crate::snapshot::SessionView) -> Option<Bytes>| {
        let known: Vec<u64> = sessions.iter().filter_map(of).map(|bytes| bytes.0).collect();
        amount((!known.is_empty()).then(|| Bytes(known.iter().sum())))
    };
    let cpu = sessions.iter().filter_map(|session| state.track(&super::rows::Id::of_session(session))?.cpu_percent());
    let count = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let servers = sessions.iter().map(|session| session.servers.len()).sum();
    let processes: u32 = sessions.iter().map(|session| session.processes).sum();
    let mut words = vec![
        count(sessions.len(), "session"),
        count(servers, "server"),
        format!("RSS {}", sum(|session| session.memory.rss_bytes)),
        format!("CPU {}", percent(Some(cpu.fold(0.0, std::ops::Add::add)))),
        if processes == 1 { "1 process".to_owned() } else { format!("{processes} processes") },
        format!("swap {}", sum(|session| session.memory.swap_bytes)),
    ];
    let gap = if pen.width < 60 { " " } else { "   " };
    while words.len() > 1 && words.join(gap).width() > usize::from(pen.width) {
        words.pop();
    }
    pen.line((0, 1), &words.join(gap), Tone::Plain);
}

/// The titles and the rows between two lines. What is selected is always among them.
fn tree(pen: &mut Pen<'_>, top: u16, bottom: u16, state: &State) {
    let placed = columns(pen.width);
    for place in &placed {
        let title = place.column.title();
        if place.column.is_number() {
            pen.right(top, place.x + place.width, title, Tone::Title);
        } else {
            // The name's title stands above the names, not above their marks.
            let x = place.x + if place.column == Column::Name { 1 } else { 0 };
            pen.write((x, top), place.x + place.width, title, Tone::Title);
        }
    }
    let rows = state.rows();
    if rows.is_empty() {
        pen.line((1, top + 1), &nothing(state), Tone::Faint);
        return;
    }
    let room = usize::from(bottom.saturating_sub(top + 1));
    let selected = rows.iter().position(|row| Some(&row.id) == state.selected()).unwrap_or(0);
    let first = selected.saturating_sub(room / 2).min(rows.len().saturating_sub(room));
    for (y, (index, row)) in (top + 1..bottom).zip(rows.iter().enumerate().skip(first)) {
        for place in &placed {
            cell(pen, y, *place, row, state);
        }
        if index == selected {
            // The name alone: a bar or a curve with its colours swapped would say the opposite.
            let name = Rect { x: 0, y, width: placed[0].width, height: 1 };
            pen.buffer.set_style(name, pen.palette.style(Tone::Selected));
            pen.write((0, y), 1, "›", Tone::Selected);
        }
    }
    let hidden = [('↑', first), ('↓', rows.len().saturating_sub(first + room))];
    let hidden: Vec<String> =
        hidden.into_iter().filter(|(_, count)| *count > 0).map(|(way, count)| format!("{way}{count}")).collect();
    pen.right(top, placed[0].width, &hidden.join(" "), Tone::Faint);
}

/// What an empty tree means.
fn nothing(state: &State) -> String {
    match (state.trouble(), state.reading()) {
        (None, None) => String::new(),
        (_, Some(_)) if !state.filter().is_empty() => format!("nothing matches /{}; Esc shows all", state.filter()),
        (None, Some(_)) => "no sessions: nothing is contained".to_owned(),
        (Some(_), None) => "nothing is shown until one answers".to_owned(),
        (Some(_), Some(_)) => "there were no sessions".to_owned(),
    }
}

fn cell(pen: &mut Pen<'_>, y: u16, place: Placed, row: &Row<'_>, state: &State) {
    let (x, end) = (place.x, place.x + place.width);
    let memory = row.memory();
    let track = state.track(&row.id);
    let used = memory.working_set_bytes.or(memory.rss_bytes);
    let share = used.zip(memory.max_bytes).map(|(used, max)| used.0 as f64 / max.0.max(1) as f64);
    let body = if row.server.is_none() { Tone::Strong } else { Tone::Plain };
    match place.column {
        Column::Name => name(pen, y, end, row),
        Column::Rss => pen.right(y, end, &amount(memory.rss_bytes), body),
        Column::Bar => {
            if let Some(share) = share {
                pen.write((x, y), end, &bar(share, usize::from(place.width)), Tone::of_share(share));
            }
        }
        Column::Limit => {
            if memory.max_bytes.is_some() {
                pen.write((x, y), end, &amount(memory.max_bytes), Tone::Faint);
            }
        }
        Column::Trend => {
            if let Some(track) = track {
                let curve = curve(track.samples().iter().copied(), usize::from(place.width));
                pen.right(y, end, &curve, Tone::Curve);
            }
        }
        Column::Cpu => {
            let cpu = track.and_then(|track| track.cpu_percent());
            pen.right(
                y,
                end,
                &percent(cpu),
                if cpu.is_some_and(|percent| percent >= 0.5) { body } else { Tone::Faint },
            );
        }
        Column::Pressure => {
            let pressure = track.and_then(|track| track.pressure_percent());
            let tone = match pressure {
                Some(10.0..) => Tone::Warn,
                Some(0.5..) => body,
                _ => Tone::Faint,
            };
            pen.right(y, end, &percent(pressure), tone);
        }
        Column::Processes => pen.right(y, end, &row.processes().to_string(), body),
        Column::Age => pen.right(y, end, &since(state, row).map_or_else(|| "-".to_owned(), age), body),
        Column::Owner => {
            let mut owner = row.owner_pid().map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            if let (None, Some(host)) = (row.server, &row.session.host) {
                owner = format!("{owner} {host}");
            }
            pen.write((x, y), end, &owner, Tone::Faint);
        }
    }
}

/// The branch and the name, and at the right what has to be said of its state.
fn name(pen: &mut Pen<'_>, y: u16, end: u16, row: &Row<'_>) {
    let marks = row.marks();
    let width = marks.width() as u16;
    let tone = if marks.starts_with("ESCAPED") { Tone::Alarm } else { Tone::Warn };
    pen.right(y, end, &marks, tone);
    let end = if width == 0 { end } else { end.saturating_sub(width + 1) };
    let branch = match row.place {
        Place::Open => "▾ ",
        Place::Folded => "▸ ",
        Place::Between => "├ ",
        Place::Last => "└ ",
    };
    let x = if row.server.is_none() { 1 } else { 2 };
    let x = pen.write((x, y), end, branch, Tone::Faint);
    match row.server {
        None => pen.write((x, y), end, &row.session.id.to_string(), Tone::Strong),
        Some(server) => pen.write((x, y), end, server.name.as_str(), Tone::Plain),
    };
}

/// How long a row has been there.
fn since(state: &State, row: &Row<'_>) -> Option<Duration> {
    let now = state.reading()?.now.time();
    Some(now.duration_since(row.started_at()?.time()).unwrap_or_default())
}

/// Why the last ones ended, the latest first.
fn last_ends(pen: &mut Pen<'_>, top: u16, lines: u16, state: &State) {
    let Some(reading) = state.reading() else { return };
    pen.line((1, top), "LAST ENDS", Tone::Title);
    let ends = reading.ends.iter().rev().filter_map(|occurrence| match &occurrence.what {
        What::Ended(ended) => Some((occurrence, ended)),
        _ => None,
    });
    let mut none = true;
    for (y, (occurrence, ended)) in (top + 1..top + 1 + lines).zip(ends) {
        end(pen, y, reading, occurrence, ended);
        none = false;
    }
    if none {
        pen.line((1, top + 1), "none since the daemon started", Tone::Faint);
    }
}

fn end(pen: &mut Pen<'_>, y: u16, reading: &Reading, occurrence: &Occurrence, ended: &Ended) {
    let ago = reading.now.time().duration_since(occurrence.at.time()).unwrap_or_default();
    let wide = pen.width >= 60;
    let ago = if wide { format!("{:>6} ago", age(ago)) } else { format!("{:>6}", age(ago)) };
    let x = pen.line((0, y), &ago, Tone::Faint) + 2;
    // The server is what one looks for: of a long session's id less is shown.
    let room = (pen.width * 3 / 10).max(16);
    let server = format!("/{}", occurrence.server);
    let server = fit(&server, usize::from(room) * 2 / 3);
    let session = occurrence.session.as_ref().map_or_else(String::new, ToString::to_string);
    let session = fit(&session, usize::from(room) - server.width());
    pen.write((x, y), x + room, &format!("{session}{server}"), Tone::Plain);
    let why = match pen.width {
        100.. => ended.outcome.to_string(),
        60.. => ended.outcome.why(),
        _ => ended.outcome.cause.word().to_owned(),
    };
    let tone = if ended.outcome.cause.word() == "memory" { Tone::Warn } else { Tone::Plain };
    pen.line((x + room + 2, y), &why, tone);
}

/// The last line: a question, the filter while it is typed, what was said, or the keys.
fn foot(pen: &mut Pen<'_>, y: u16, state: &State) {
    match (state.mode(), state.note()) {
        (Mode::Question(question), _) => ask(pen, y, question),
        (Mode::Filter, _) => {
            let x = pen.line((1, y), &format!("/{}", state.filter()), Tone::Strong);
            let x = pen.line((x, y), "▏", Tone::Strong);
            pen.line((x + 1, y), "Enter keeps it, Esc clears it", Tone::Faint);
        }
        (Mode::Help, _) => drop(pen.line((1, y), "any key goes back", Tone::Faint)),
        (Mode::Normal, Some(note)) => drop(pen.line((1, y), note, Tone::Strong)),
        (Mode::Normal, None) => keys(pen, y, state),
    }
}

/// The answer has to be seen: it is the name that gives way.
fn ask(pen: &mut Pen<'_>, y: u16, question: &Question) {
    let (before, after) = (format!("End {} ", question.kind), " y/N ");
    let size = if pen.width < 60 { "?".to_owned() } else { format!(" ({})?", question.size) };
    let room = usize::from(pen.width).saturating_sub(1 + before.width() + size.width() + after.width());
    let x = pen.line((1, y), &format!("{before}{}{size}", fit(&question.name, room)), Tone::Strong);
    pen.line((x, y), after, Tone::Alarm);
}

fn keys(pen: &mut Pen<'_>, y: u16, state: &State) {
    let filter = if state.filter().is_empty() { "filter".to_owned() } else { format!("{} (Esc: all)", state.filter()) };
    let keys = [
        ("e", "end"),
        ("s", "sort"),
        ("/", filter.as_str()),
        ("?", "help"),
        ("q", "quit"),
        ("Enter", "fold"),
        ("↑↓", "select"),
        ("+ -", "interval"),
    ];
    let mut x = 1;
    for (key, meaning) in keys {
        let width = (key.width() + 1 + meaning.width()) as u16;
        if x + width > pen.width {
            break;
        }
        let after = pen.line((x, y), key, Tone::Strong);
        x = pen.line((after + 1, y), meaning, Tone::Faint) + 2;
    }
}
