//! Which columns a screen of some width has, and how wide they are: where there is little room, the ones that say least go.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// A column of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Name,
    Rss,
    Bar,
    Limit,
    Trend,
    Cpu,
    Pressure,
    Processes,
    Age,
    Owner,
}

/// From left to right.
const ORDER: [Column; 10] = [
    Column::Name,
    Column::Rss,
    Column::Bar,
    Column::Limit,
    Column::Trend,
    Column::Cpu,
    Column::Pressure,
    Column::Processes,
    Column::Age,
    Column::Owner,
];

/// What says most first. The others give way from the end on.
const PRIORITY: [Column; 10] = [
    Column::Name,
    Column::Rss,
    Column::Bar,
    Column::Cpu,
    Column::Pressure,
    Column::Limit,
    Column::Age,
    Column::Trend,
    Column::Processes,
    Column::Owner,
];

/// What is left over goes to these, each up to so wide, one after the other; and the rest of it to the name.
const GROWTH: [(Column, u16); 8] = [
    (Column::Name, 26),
    (Column::Bar, 8),
    (Column::Trend, 10),
    (Column::Name, 36),
    (Column::Trend, 16),
    (Column::Bar, 12),
    (Column::Owner, 24),
    (Column::Trend, 30),
];

impl Column {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Name => "SESSION / SERVER",
            Self::Rss => "RSS",
            Self::Bar => "",
            Self::Limit => "LIMIT",
            Self::Trend => "TREND",
            Self::Cpu => "CPU",
            Self::Pressure => "PSI",
            Self::Processes => "PROCS",
            Self::Age => "AGE",
            Self::Owner => "OWNER",
        }
    }

    /// Numbers stand at the right of their column.
    pub(super) fn is_number(self) -> bool {
        match self {
            Self::Rss | Self::Cpu | Self::Pressure | Self::Processes | Self::Age => true,
            // The limit stands beside the end of its bar.
            Self::Name | Self::Bar | Self::Limit | Self::Trend | Self::Owner => false,
        }
    }

    fn least(self) -> u16 {
        match self {
            Self::Name => 18,
            Self::Rss | Self::Limit | Self::Cpu | Self::Processes => 5,
            Self::Bar | Self::Age => 6,
            Self::Pressure => 4,
            Self::Trend => 8,
            Self::Owner => 16,
        }
    }
}

/// A column at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) column: Column,
    pub(super) x: u16,
    pub(super) width: u16,
}

/// The columns that a screen of this width has, from left to right.
pub(super) fn columns(width: u16) -> Vec<Placed> {
    let gap = if width < 100 { 1 } else { 2 };
    let mut left = width;
    let mut kept = Vec::new();
    for column in PRIORITY {
        let (least, gap) = if kept.is_empty() { (column.least().min(width), 0) } else { (column.least(), gap) };
        let Some(rest) = left.checked_sub(least + gap) else { break };
        left = rest;
        kept.push(column);
    }
    let mut placed: Vec<Placed> = ORDER
        .into_iter()
        .filter(|column| kept.contains(column))
        .map(|column| Placed { column, x: 0, width: column.least().min(width) })
        .collect();
    for (column, most) in GROWTH.into_iter().chain([(Column::Name, u16::MAX)]) {
        if let Some(place) = placed.iter_mut().find(|place| place.column == column) {
            let more = most.saturating_sub(place.width).min(left);
            place.width += more;
            left -= more;
        }
    }
    let mut x = 0;
    for place in &mut placed {
        place.x = x;
        x += place.width + gap;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_is_filled_and_none_is_overrun() {
        for width in 1..=400 {
            let placed = columns(width);
            let last = placed.last().unwrap();
            assert_eq!(last.x + last.width, width, "{placed:?}");
            assert!(placed.windows(2).all(|pair| pair[0].x + pair[0].width < pair[1].x), "{placed:?}");
        }
    }

    #[test]
    fn a_wider_screen_never_has_fewer_columns() {
        let counts: Vec<usize> = (1..=400).map(|width| columns(width).len()).collect();
        // At 100 the gaps grow, and may cost the last column.
        assert!(counts[..99].is_sorted() && counts[99..].is_sorted(), "{counts:?}");
        assert_eq!((counts[39], counts[119]), (4, ORDER.len()));
    }
}
