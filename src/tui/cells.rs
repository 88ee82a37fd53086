//! What stands in a cell: amounts, ages, bars and curves, each as short as it can be told.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::limits::Bytes;

/// As much of a text as fits, and an ellipsis where something is missing. What would move the cursor or turn the direction
/// of the text is escaped.
pub(super) fn fit(text: &str, width: usize) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if disturbs(c) { plain.extend(c.escape_default()) } else { plain.push(c) }
    }
    let text = plain;
    if text.width() <= width {
        return text;
    }
    let mut kept = String::new();
    for c in text.chars() {
        if kept.width() + c.width().unwrap_or(0) + 1 > width {
            break;
        }
        kept.push(c);
    }
    if width > 0 {
        kept.push('…');
    }
    kept
}

/// Controls, line separators and the marks of Unicode's bidirectional algorithm.
fn disturbs(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// An amount in at most five columns: `68.7M`, `134M`, `2G`; a dash where nothing is known.
pub(super) fn amount(bytes: Option<Bytes>) -> String {
    let Some(Bytes(bytes)) = bytes else { return "-".to_owned() };
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["K", "M", "G", "T", "P"] {
        if value < 1023.5 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" || value >= 99.95 || (value * 10.0).round() % 10.0 == 0.0 {
        format!("{value:.0}{unit}")
    } else {
        format!("{value:.1}{unit}")
    }
}

/// A share: `25%`.
pub(super) fn percent(percent: Option<f64>) -> String {
    percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0}%"))
}

/// An age in at most six columns: `42s`, `12m`, `3h05m`, `4d07h`.
pub(super) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, _) => format!("{m}m"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d @ ..100, h, ..) => format!("{d}d{h:02}h"),
        (d, ..) => format!("{d}d"),
    }
}

/// A bar that is filled to a share of its width, in eighths of a column; anything is seen of what is not nothing.
pub(super) fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    let part = EIGHTHS[eighths % 8];
    let filled = eighths / 8 + usize::from(!part.is_empty());
    format!("{}{part}{}", "█".repeat(eighths / 8), "·".repeat(width - filled))
}

/// A curve of the last samples from their least to their most. What changes by less than a quarter stays low: a curve is
/// there to show growth, not noise.
pub(super) fn curve(samples: impl ExactSizeIterator<Item = u64> + Clone, width: usize) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let passed = samples.len().saturating_sub(width);
    let shown = samples.skip(passed);
    let (Some(least), Some(most)) = (shown.clone().min(), shown.clone().max()) else { return String::new() };
    let range = (most - least).max(least / 4).max(1) as f64;
    let step = |sample: u64| ((sample - least) as f64 / range * 7.0).round() as usize;
    shown.map(|sample| STEPS[step(sample)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_and_nothing_moves_the_cursor() {
        assert_eq!(
            [fit("session", 7), fit("session", 5), fit("🦊🦊🦊", 4), fit("x", 0)],
            ["session", "sess…", "🦊…", ""]
        );
        assert_eq!(fit("a\x1b[2J\u{202e}b", 20), r"a\u{1b}[2J\u{202e}b");
    }

    #[test]
    fn amounts_take_five_columns_at_most() {
        let told = |bytes: u64| amount(Some(Bytes(bytes)));
        let m = 1 << 20;
        assert_eq!([0, 1023, 1024, 70 * m + 7 * m / 10].map(told), ["0B", "1023B", "1K", "70.7M"]);
        assert_eq!([134 * m + m / 2, 1023 * m + m / 2, 2048 * m, m - 1].map(told), ["134M", "1G", "2G", "1M"]);
        for exponent in 0..63 {
            for bytes in [1u64 << exponent, (1 << exponent) - 1, (1 << exponent) + (1 << exponent) / 3] {
                assert!(told(bytes).len() <= 5, "{}", told(bytes));
            }
        }
    }

    #[test]
    fn ages_take_six_columns_at_most() {
        let told = |seconds: u64| age(Duration::from_secs(seconds));
        assert_eq!([42, 750, 11_100, 371_000, 8_650_000].map(told), ["42s", "12m", "3h05m", "4d07h", "100d"]);
        assert_eq!(told(86_399).len(), 6);
    }

    #[test]
    fn a_bar_is_as_wide_as_it_is_told_and_full_only_when_it_is() {
        assert_eq!(
            [bar(0.0, 4), bar(0.001, 4), bar(0.5, 4), bar(1.0, 4), bar(7.0, 4)],
            ["····", "▏···", "██··", "████", "████"]
        );
        for share in 0..=100 {
            assert_eq!(bar(f64::from(share) / 100.0, 7).width(), 7);
        }
    }

    #[test]
    fn a_curve_shows_growth_and_not_noise() {
        let told = |samples: &[u64]| curve(samples.iter().copied(), 4);
        assert_eq!([told(&[]), told(&[0]), told(&[100, 101, 100, 99])], ["", "▁", "▁▂▁▁"].map(str::to_owned));
        assert_eq!([told(&[9, 100, 200, 300, 450]), told(&[u64::MAX, 0])], ["▁▃▅█".to_owned(), "█▁".to_owned()]);
    }
}
