//! What stands in a cell of the page: text that stands for itself, spans, amounts, and bars.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::limits::Bytes;
use crate::snapshot::MemoryView;

/// What stands where nothing is known.
pub(super) const UNTOLD: &str = "<span class=\"dim\">–</span>";

/// Text that stands for itself in HTML, in an element or in a quoted attribute.
pub(super) struct Text<'a>(pub(super) &'a str);

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
pub(super) struct Age(pub(super) Duration);

impl Age {
    /// From one moment to another, in seconds since 1970.
    pub(super) fn between(since: f64, now: f64) -> Self {
        Self(Duration::try_from_secs_f64(now - since).unwrap_or_default())
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..60 => write!(f, "{seconds}s"),
            60..3600 => write!(f, "{}min {:02}s", seconds / 60, seconds % 60),
            3600..86400 => write!(f, "{}h {:02}min", seconds / 3600, seconds % 3600 / 60),
            _ => write!(f, "{}d {:02}h", seconds / 86400, seconds % 86400 / 3600),
        }
    }
}

/// Seconds of CPU time or of waiting: tenths where these say anything.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 60.0 { format!("{seconds:.1}s") } else { Age::between(0.0, seconds).to_string() }
}

/// An amount in three digits, so that those below each other can be compared.
pub(super) fn amount(Bytes(bytes): Bytes) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["K", "M", "G", "T", "P"] {
        if value < 1023.5 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" || value >= 99.95 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

pub(super) fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// How full a limit is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    part: f64,
    max: Bytes,
}

impl Share {
    /// From here on it is shown as nearly full.
    const HIGH: f64 = 0.9;

    /// By what cannot be given back: page cache fills every limit in time, and the kernel takes it back before it kills.
    pub(super) fn of(memory: &MemoryView) -> Option<Self> {
        let (used, max) = used(memory).zip(memory.max_bytes)?;
        Some(Self { part: used.0 as f64 / max.0.max(1) as f64, max })
    }

    pub(super) fn is_high(self) -> bool {
        self.part >= Self::HIGH
    }

    pub(super) fn percent(self) -> String {
        format!("{:.0}&nbsp;%", self.part * 100.0)
    }

    /// A bar with its number. `whose` names it to those who do not see it.
    pub(super) fn bar(self, whose: &str) -> String {
        let class = if self.is_high() { "share alarm" } else { "share" };
        format!(
            "<meter min=\"0\" max=\"1\" low=\"0.75\" high=\"0.9\" optimum=\"0\" value=\"{:.3}\" aria-label=\"Memory of \
             {}\"></meter> <span class=\"{class}\">{}</span> <span class=\"of\">of {}</span>",
            self.part.min(1.0),
            Text(whose),
            self.percent(),
            self.max
        )
    }
}

/// What cannot be given back without loss; where the kernel does not tell that, what is resident.
pub(super) fn used(memory: &MemoryView) -> Option<Bytes> {
    memory.working_set_bytes.or(memory.rss_bytes)
}

/// A column: its name, and whether it has numbers, which stand at its right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column(pub(super) &'static str, pub(super) bool);

impl Column {
    fn class(self) -> &'static str {
        if self.1 { " class=\"number\"" } else { "" }
    }

    /// On a narrow screen each cell stands for itself, with its column's name.
    pub(super) fn cell(self, cell: &str, html: &mut String) -> fmt::Result {
        let class = if cell == UNTOLD || cell.is_empty() { " class=\"none\"" } else { self.class() };
        write!(html, "<td data-column=\"{}\"{class}>{cell}</td>", self.0)
    }
}

/// Everything of a table that is before its rows.
pub(super) fn head(columns: &[Column], id: &str, caption: &str, html: &mut String) -> fmt::Result {
    write!(html, "<table id=\"{id}\">\n<caption>{caption}</caption>\n<thead><tr>")?;
    columns.iter().try_for_each(|column| write!(html, "<th scope=\"col\"{}>{}</th>", column.class(), column.0))?;
    writeln!(html, "</tr></thead>\n<tbody>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_amounts_can_be_read_at_a_glance() {
        let age = |seconds: u64| Age(Duration::from_secs(seconds)).to_string();
        assert_eq!([59, 61, 3660, 90_000].map(age), ["59s", "1min 01s", "1h 01min", "1d 01h"]);
        assert_eq!([0.0, 59.94, 125.0].map(seconds), ["0.0s", "59.9s", "2min 05s"]);
        let m = 1 << 20;
        let told = [0, 1023, 1024, 70 * m + m / 2, 134 * m + m / 2, 2048 * m, m - 1].map(|bytes| amount(Bytes(bytes)));
        assert_eq!(told, ["0B", "1023B", "1.0K", "70.5M", "134M", "2.0G", "1.0M"]);
    }

    #[test]
    fn page_cache_brings_nothing_near_its_limit() {
        let bytes = |number| Some(Bytes(number));
        let memory = MemoryView {
            rss_bytes: bytes(20),
            working_set_bytes: bytes(40),
            current_bytes: bytes(100),
            max_bytes: bytes(100),
            ..MemoryView::default()
        };
        let share = Share::of(&memory).unwrap();
        assert_eq!((share.is_high(), share.percent().as_str()), (false, "40&nbsp;%"));
        assert!(Share::of(&MemoryView { working_set_bytes: bytes(90), ..memory }).unwrap().is_high());
        assert!(Share::of(&MemoryView { max_bytes: None, ..memory }).is_none());
    }
}
