//! How views are laid out for people.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The narrowest terminal that text is laid out for.
const WIDTH_MIN: usize = 40;

/// How wide stdout is, where it is a terminal; a pipe gets everything on one line.
fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col).max(WIDTH_MIN)).filter(|_| size.ws_col > 0)
}

/// Columns as wide as their widest cell, two spaces apart; the last one as long as it is. On a terminal the first column
/// gives way, so that a line is a line.
pub(super) fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.width()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    if let (Some(terminal), [first, others @ ..]) = (width(), widths.as_mut_slice()) {
        let rest: usize = others.iter().map(|width| width + 2).sum();
        *first = (*first).min(terminal.saturating_sub(rest).max(12));
    }
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let cell = cut(cell, *width);
            line.push_str(&cell);
            line.extend(std::iter::repeat_n(' ', width - cell.width() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// As much of a text as fits, and an ellipsis where something is missing.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        if kept.width() + c.width().unwrap_or(0) + 1 > width {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

/// Text after a margin that its further lines keep, broken between words where stdout is a terminal.
pub(super) fn paragraph(margin: &str, text: &str) -> String {
    let Some(width) = width() else { return format!("{margin}{text}\n") };
    let indent = margin.width();
    let (mut lines, mut line) = (String::new(), margin.to_owned());
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.width() + 1 + word.width() > width {
            lines.push_str(&line);
            lines.push('\n');
            line = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    lines + &line + "\n"
}

/// What a word means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Bad,
}

/// A word in the colour of its meaning, where stdout is a terminal and `NO_COLOR` is not set.
pub(super) fn tinted(word: &str, tone: Tone) -> String {
    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match (colours, tone) {
        (false, _) | (_, Tone::Plain) => word.to_owned(),
        (true, Tone::Good) => format!("\x1b[32m{word}\x1b[0m"),
        (true, Tone::Bad) => format!("\x1b[1;31m{word}\x1b[0m"),
    }
}

/// A text for a terminal: names, paths and files may say anything, and nothing of it steers the terminal or turns around what
/// stands beside it (control characters, and those that format text in two directions or cannot be seen).
pub(super) fn shown(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// A path for a terminal.
pub(super) fn path(path: &Path) -> String {
    shown(&path.to_string_lossy())
}

/// A span as people say it, in its two largest units: `1h 5min`, `42s`, `350ms`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, 0) => format!("{}ms", span.as_millis()),
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, min, s) => format!("{min}min {s}s"),
        (0, h, min, _) => format!("{h}h {min}min"),
        (d, h, ..) => format!("{d}d {h}h"),
    }
}

/// Prints, and takes a closed pipe (`pinfold ls | head`) for an answer: whether anybody reads on.
pub(super) fn print(text: &str) -> bool {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// Prints a value as JSON.
pub(super) fn print_json<T: serde::Serialize>(value: &T) {
    let mut text = serde_json::to_string_pretty(value).expect("our views are JSON");
    text.push('\n');
    print(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_steers_a_terminal() {
        assert_eq!(shown("a\x1b[31m\u{202e}é\n"), "a\\u{1b}[31m\\u{202e}é\\n");
        assert_eq!(path(Path::new("/x y/\x07")), "/x y/\\u{7}");
    }

    #[test]
    fn a_wide_character_takes_two_columns() {
        let rows = vec![vec!["🦊".to_owned(), "x".to_owned()], vec!["abc".to_owned(), "y".to_owned()]];
        assert_eq!(columns(&["A", "B"], &rows), "A    B\n🦊   x\nabc  y\n");
    }

    #[test]
    fn a_span_is_told_in_its_two_largest_units() {
        let told = |seconds: f64| span(Duration::from_secs_f64(seconds));
        assert_eq!(
            [0.35, 42.9, 65.0, 3900.0, 90_000.0].map(told),
            ["350ms", "42s", "1min 5s", "1h 5min", "1d 1h"].map(str::to_owned)
        );
    }

    #[test]
    fn what_does_not_fit_is_cut_and_says_so() {
        assert_eq!(
            (cut("session", 7), cut("session", 5), cut("🦊🦊🦊", 4)),
            ("session".into(), "sess…".into(), "🦊…".into())
        );
    }
}
