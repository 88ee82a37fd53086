//! Screens as they are drawn, against the files in `tests/golden/top`.
//!
//! `PINFOLD_WRITE_SCREENS=1 cargo test --lib tui` writes them anew.

use std::path::Path;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use unicode_width::UnicodeWidthStr;

use super::draw::draw;
use super::fixture::{press, reading_of, state, typed};
use super::keys::Key;
use super::state::{Event, State, Trouble};
use super::tones::Palette;

/// What a terminal of this size would show, without colours, one line each.
fn screen(state: &State, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, Palette::Coloured)).unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..height {
        let (mut line, mut x) = (String::new(), 0);
        while x < width {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            // A wide character stands in the next cell as well.
            x += symbol.width().max(1) as u16;
        }
        assert_eq!(line.width(), usize::from(width), "line {y} is not as wide as the screen: {line}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[track_caller]
fn expect(name: &str, state: &State, size: (u16, u16)) {
    let shown = screen(state, size);
    let (width, height) = size;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/top/{name}-{width}x{height}.txt"));
    if std::env::var_os("PINFOLD_WRITE_SCREENS").is_some() {
        std::fs::write(&path, &shown).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == shown, "{} is not what is drawn (PINFOLD_WRITE_SCREENS=1 writes it):\n{shown}", path.display());
}

const SIZES: [(u16, u16); 3] = [(40, 15), (80, 24), (120, 40)];

#[test]
fn a_busy_machine_fits_every_size_of_screen() {
    for size in SIZES {
        expect("busy", &state(), size);
    }
}

#[test]
fn what_is_selected_and_escaped_is_told_in_full_where_there_is_room() {
    let mut state = state();
    let _ = typed(&mut state, "/github");
    let _ = press(&mut state, &[Key::Enter, Key::Down]);
    expect("escaped", &state, (120, 40));
}

#[test]
fn the_question_is_seen_whole_whatever_the_session_is_called() {
    let mut state = state();
    let _ = typed(&mut state, "e");
    for size in SIZES {
        let shown = screen(&state, size);
        assert!(shown.trim_end().ends_with("y/N"), "{shown}");
    }
    expect("question", &state, (80, 24));
}

#[test]
fn the_help_fits_the_narrowest_screen() {
    let mut state = state();
    let _ = typed(&mut state, "?");
    let shown = screen(&state, (40, 15));
    assert!(!shown.contains('…'), "{shown}");
    expect("help", &state, (80, 24));
}

#[test]
fn a_daemon_that_is_gone_is_told_and_what_was_seen_last_stays() {
    let mut state = state();
    let why = "no daemon runs".to_owned();
    let _ = state.step(Event::Failed(Trouble { at: Duration::from_secs(72), why }));
    expect("gone", &state, (80, 24));
    let mut state = State::new(Duration::from_secs(2));
    assert!(screen(&state, (80, 24)).contains("asking the daemon"));
    let why = "no daemon runs".to_owned();
    let _ = state.step(Event::Failed(Trouble { at: Duration::from_secs(1), why }));
    expect("none", &state, (80, 24));
}

#[test]
fn an_empty_screen_says_what_that_means() {
    let mut state = state();
    let _ = typed(&mut state, "/nowhere");
    assert!(screen(&state, (80, 24)).contains("nothing matches /nowhere"));
    let _ = press(&mut state, &[Key::Escape]);
    let _ = state.step(reading_of(62, Vec::new()));
    let shown = screen(&state, (80, 24));
    assert!(shown.contains("nothing is contained") && shown.contains("0 sessions"), "{shown}");
}

#[test]
fn no_size_is_too_small_to_be_drawn() {
    let mut state = state();
    for keys in ["", "e", "n/x", "\u{8}"] {
        let _ = typed(&mut state, keys);
        for width in (1..=130).step_by(3) {
            for height in [1, 2, 3, 4, 5, 8, 11, 12, 13, 19, 20, 31, 32, 33, 50] {
                let _ = screen(&state, (width, height));
            }
        }
    }
}

#[test]
fn what_is_selected_is_seen_however_long_the_list_is() {
    let mut state = state();
    for _ in 0..20 {
        let _ = press(&mut state, &[Key::Down]);
        let shown = screen(&state, (40, 15));
        assert_eq!(shown.matches('›').count(), 1, "{shown}");
    }
}

#[test]
fn a_screen_without_colours_has_none() {
    let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
    terminal.draw(|frame| draw(frame, &state(), Palette::Plain)).unwrap();
    let plain = ratatui::style::Color::Reset;
    assert!(terminal.backend().buffer().content().iter().all(|cell| cell.fg == plain && cell.bg == plain));
}
