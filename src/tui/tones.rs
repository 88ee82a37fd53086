//! How a word looks by what it means. No meaning is in a colour alone: each has its word, its sign or its length as well.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use ratatui::style::{Color, Modifier, Style};

/// Whether there are colours. Terminals without any have bold, faint and reversed text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Palette {
    Coloured,
    Plain,
}

/// What a word means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// What the eye should find first.
    Strong,
    /// What is there to be looked up.
    Faint,
    /// Above a column or a part.
    Title,
    /// A bar with room.
    Good,
    /// Near a limit, or under way.
    Warn,
    /// At a limit, or outside.
    Alarm,
    Curve,
    Selected,
}

impl Tone {
    /// How full a limit is.
    pub(super) fn of_share(share: f64) -> Self {
        match share {
            ..0.75 => Self::Good,
            ..0.9 => Self::Warn,
            _ => Self::Alarm,
        }
    }
}

impl Palette {
    pub(super) fn style(self, tone: Tone) -> Style {
        let plain = Style::new();
        let bold = plain.add_modifier(Modifier::BOLD);
        let coloured = |style: Style, colour| if self == Self::Coloured { style.fg(colour) } else { style };
        match tone {
            Tone::Plain => plain,
            Tone::Strong => bold,
            Tone::Faint => plain.add_modifier(Modifier::DIM),
            Tone::Title => coloured(plain.add_modifier(Modifier::DIM), Color::Cyan),
            Tone::Good => coloured(plain, Color::Green),
            Tone::Warn => coloured(plain, Color::Yellow),
            Tone::Alarm => coloured(bold, Color::Red),
            Tone::Curve => coloured(plain, Color::Cyan),
            Tone::Selected => plain.add_modifier(Modifier::REVERSED),
        }
    }
}
