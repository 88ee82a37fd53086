//! `pinfold top`.

use super::{DONE, USAGE, args, failed};
use crate::tui::{self, Colours, ScreenError, Wishes};

pub(super) fn top(top: args::Top) -> u8 {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = if no_color { Colours::Unwanted } else { Colours::Wanted };
    match tui::run(Wishes { socket: top.socket.socket, interval: top.interval.duration(), colours }) {
        Ok(()) => DONE,
        Err(error @ ScreenError::NoTerminal) => {
            failed(&error);
            USAGE
        }
        Err(error) => failed(&error),
    }
}
