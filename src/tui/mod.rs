//! `pinfold top`: a live screen of the sessions, what each of them uses, and why the last ones ended.
//!
//! An event changes what the screen knows, which answers with what is to be done:
//!
//! ```text
//!   keys, signals ─┐
//!                  ├─ Event ─▶ State::step ─▶ Action ─▶ quit; an order to the reader
//!   the reader ────┘              │
//!                                 └─ draw ─▶ the terminal
//! ```
//!
//! `state` and all that it uses are pure, and so is `draw`; `reader` asks the daemon, in a thread of its own; `terminal`
//! takes the terminal and gives it back. This room ends nothing itself: it asks the daemon to, after a question.

mod cells;
mod columns;
mod details;
mod draw;
mod help;
mod keys;
mod reader;
mod rows;
mod state;
mod terminal;
mod tones;
mod track;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod screen_tests;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ratatui::layout::{Position, Rect};

use keys::Keys;
use reader::{Order, Reader};
use state::{Action, Event, State};
use terminal::{Screen, Waits};
use tones::Palette;

/// How long the rest of a key's sequence may take, over a slow line.
const SEQUENCE_WAIT: Duration = Duration::from_millis(60);

/// How many readings, and how many orders, may wait to be taken.
const WAITING_MAX: usize = 8;

/// How the screen is wanted.
#[derive(Debug)]
pub struct Wishes {
    /// The daemon's socket, where one is chosen.
    pub socket: Option<PathBuf>,
    /// How often to look.
    pub interval: Duration,
    /// Whether there may be colours.
    pub colours: Colours,
}

/// Whether there may be colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    /// There may.
    Wanted,
    /// `NO_COLOR` is set.
    Unwanted,
}

/// Why there is no screen.
#[derive(Debug, thiserror::Error)]
pub enum ScreenError {
    /// Nobody looks.
    #[error(
        "a live screen needs a terminal as stdin and stdout; `pinfold ls` lists the sessions once, and `pinfold ls --json` \
         for programs"
    )]
    NoTerminal,
    /// The terminal failed.
    #[error("cannot {doing} the terminal")]
    Terminal {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> ScreenError {
    move |source| ScreenError::Terminal { doing, source }
}

/// Shows the screen until it is left, or a signal ends it.
pub fn run(wishes: Wishes) -> Result<(), ScreenError> {
    if !terminal::is_one() {
        return Err(ScreenError::NoTerminal);
    }
    let (wake, woken) = UnixStream::pair().map_err(failed("listen beside"))?;
    wake.set_nonblocking(true).map_err(failed("listen beside"))?;
    // Before the terminal is taken: a signal from then on gives it back.
    let waits = Waits::new(woken).map_err(failed("listen beside"))?;
    let (order, orders) = sync_channel(WAITING_MAX);
    let (news_from, news) = sync_channel(WAITING_MAX);
    let screen = Screen::take().map_err(failed("take"))?;
    let reader = Reader {
        socket: wishes.socket,
        interval: wishes.interval,
        start: Instant::now(),
        orders,
        news: news_from,
        wake,
    };
    reader::start(reader).map_err(failed("read for"))?;
    let palette = match wishes.colours {
        Colours::Wanted => Palette::Coloured,
        Colours::Unwanted => Palette::Plain,
    };
    Loop { screen, waits, order, news, palette, keys: Keys::default() }.run(State::new(wishes.interval))
}

/// The screen's own thread.
struct Loop {
    screen: Screen,
    waits: Waits,
    order: SyncSender<Order>,
    news: Receiver<Event>,
    palette: Palette,
    keys: Keys,
}

impl Loop {
    fn run(mut self, mut state: State) -> Result<(), ScreenError> {
        self.resized(&mut state)?;
        loop {
            let palette = self.palette;
            self.screen.terminal.draw(|frame| draw::draw(frame, &state, palette)).map_err(failed("write to"))?;
            let most = self.keys.waits().then_some(SEQUENCE_WAIT);
            let woken = self.waits.wait(most).map_err(failed("wait for"))?;
            if woken.stop {
                return Ok(());
            }
            if woken.redraw {
                self.resized(&mut state)?;
            }
            let mut events: Vec<Event> = self.news.try_iter().collect();
            if woken.keys {
                events.extend(self.read_keys().map_err(failed("read from"))?.into_iter().map(Event::Key));
            } else if most.is_some() {
                events.extend(self.keys.settle().map(Event::Key));
            }
            for event in events {
                match state.step(event) {
                    Some(Action::Quit) => return Ok(()),
                    Some(Action::Redraw) => self.resized(&mut state)?,
                    Some(Action::End(ends)) => self.tell(&mut state, Order::End(ends)),
                    Some(Action::Look(interval)) => self.tell(&mut state, Order::Look(interval)),
                    None => {}
                }
            }
        }
    }

    /// The reader is told, unless it waits for a daemon that hangs and has been told enough.
    fn tell(&self, state: &mut State, order: Order) {
        if self.order.try_send(order).is_err() {
            let busy = "the daemon does not answer: this was not passed on".to_owned();
            let _ = state.step(Event::Told(busy));
        }
    }

    /// Everything is drawn anew in the terminal's size. Not by ratatui's `clear`, which asks the terminal where its cursor
    /// is: one that is slow to answer is given up, and what is typed meanwhile is lost.
    fn resized(&mut self, state: &mut State) -> Result<(), ScreenError> {
        let size = self.screen.terminal.size().map_err(failed("measure"))?;
        self.screen.terminal.resize(Rect::from((Position::ORIGIN, size))).map_err(failed("clear"))?;
        let _ = state.step(Event::Resized(size.height));
        Ok(())
    }

    fn read_keys(&mut self) -> io::Result<Vec<keys::Key>> {
        let mut bytes = [0u8; 1024];
        match rustix::io::read(io::stdin(), &mut bytes) {
            // Read to its end: nobody is there any more.
            Ok(0) => Ok(vec![keys::Key::Interrupt]),
            Ok(read) => Ok(self.keys.read(&bytes[..read])),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(Vec::new()),
            Err(errno) => Err(errno.into()),
        }
    }
}
