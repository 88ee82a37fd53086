//! How views are laid out for people.

use std::io::{self, IsTerminal, Write};

/// Columns as wide as their widest cell, two spaces apart; the last one as long as it is.
pub(super) fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
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

/// Prints, and takes a closed pipe (`pinfold ls | head`) for an answer.
pub(super) fn print(text: &str) {
    let mut stdout = io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Prints a value as JSON.
pub(super) fn print_json<T: serde::Serialize>(value: &T) {
    let mut text = serde_json::to_string_pretty(value).expect("our views are JSON");
    text.push('\n');
    print(&text);
}
