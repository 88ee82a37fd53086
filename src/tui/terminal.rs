//! The terminal: taken at the start, and given back whatever happens.
//!
//! A panic aborts, so that nothing is dropped: what gives the terminal back is then the panic hook.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::{QueueableCommand, cursor, style, terminal};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGWINCH};

/// The signals after which the screen goes.
const STOPPING: [i32; 3] = [SIGTERM, SIGHUP, SIGINT];
/// The ones after which it is drawn anew: another size, or whatever wrote to the terminal while this was stopped.
const REDRAWING: [i32; 2] = [SIGWINCH, SIGCONT];

/// Whether there is somebody to look, and to press keys.
pub(super) fn is_one() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// The terminal while the screen has it. Dropping it gives it back.
pub(super) struct Screen {
    pub(super) terminal: Terminal<CrosstermBackend<io::Stdout>>,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn take() -> io::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        terminal::enable_raw_mode()?;
        let taken = take_to(&mut io::stdout()).and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        taken.map(|terminal| Self { terminal }).inspect_err(|_| give_back())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take_to(out: &mut impl Write) -> io::Result<()> {
    out.queue(terminal::EnterAlternateScreen)?.queue(cursor::Hide)?.flush()
}

/// Gives the terminal back as it was. One that is gone takes nothing back, and needs nothing.
fn give_back() {
    let _ = give_back_to(&mut io::stdout());
    let _ = terminal::disable_raw_mode();
}

fn give_back_to(out: &mut impl Write) -> io::Result<()> {
    out.queue(style::ResetColor)?.queue(cursor::Show)?.queue(terminal::LeaveAlternateScreen)?.flush()
}

/// What there is to wake up for: keys, signals, and what the other thread has.
pub(super) struct Waits {
    stopped: UnixStream,
    redraw: UnixStream,
    news: UnixStream,
}

/// What woke us up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Woken {
    pub(super) keys: bool,
    /// A signal to stop, or the terminal is gone.
    pub(super) stop: bool,
    pub(super) redraw: bool,
    pub(super) news: bool,
}

impl Waits {
    /// Listens to signals from now on. `news` is readable when the other thread has something.
    pub(super) fn new(news: UnixStream) -> io::Result<Self> {
        let pipe = |signals: &[i32]| {
            let (read, write) = UnixStream::pair()?;
            for signal in signals {
                signal_hook::low_level::pipe::register(*signal, write.try_clone()?)?;
            }
            read.set_nonblocking(true)?;
            Ok::<_, io::Error>(read)
        };
        news.set_nonblocking(true)?;
        Ok(Self { stopped: pipe(&STOPPING)?, redraw: pipe(&REDRAWING)?, news })
    }

    /// Waits until there is something, or for so long where that is given.
    pub(super) fn wait(&mut self, most: Option<Duration>) -> io::Result<Woken> {
        let stdin = io::stdin();
        let readable = |of| PollFd::new(of, PollFlags::POLLIN);
        let mut polled = [
            readable(stdin.as_fd()),
            readable(self.stopped.as_fd()),
            readable(self.redraw.as_fd()),
            readable(self.news.as_fd()),
        ];
        let most = most.map_or(PollTimeout::NONE, |most| PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX));
        match nix::poll::poll(&mut polled, most) {
            Ok(_) => {}
            // A signal that has its pipe: that is readable the next time.
            Err(nix::errno::Errno::EINTR) => return Ok(Woken::default()),
            Err(errno) => return Err(errno.into()),
        }
        let [keys, stop, redraw, news] = polled.map(|each| each.revents().unwrap_or(PollFlags::empty()));
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        drain(&mut self.redraw);
        drain(&mut self.news);
        Ok(Woken {
            keys: keys.contains(PollFlags::POLLIN),
            stop: !stop.is_empty() || keys.intersects(gone),
            redraw: !redraw.is_empty(),
            news: !news.is_empty(),
        })
    }
}

/// What is read says only that there is something.
fn drain(pipe: &mut UnixStream) {
    let mut bytes = [0u8; 64];
    while matches!(pipe.read(&mut bytes), Ok(1..)) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back() {
        let (mut taken, mut given) = (Vec::new(), Vec::new());
        take_to(&mut taken).unwrap();
        give_back_to(&mut given).unwrap();
        // xterm's control sequences: the alternate screen (1049) and the cursor (25), on and off; and no colour.
        assert_eq!(String::from_utf8(taken).unwrap(), "\x1b[?1049h\x1b[?25l");
        assert_eq!(String::from_utf8(given).unwrap(), "\x1b[0m\x1b[?25h\x1b[?1049l");
    }

    #[test]
    fn the_other_thread_wakes_the_screen_up_and_once() {
        let (read, mut write) = UnixStream::pair().unwrap();
        let mut waits = Waits::new(read).unwrap();
        write.write_all(&[1, 1, 1]).unwrap();
        assert!(waits.wait(Some(Duration::from_secs(20))).unwrap().news);
        assert!(!waits.wait(Some(Duration::ZERO)).unwrap().news);
    }
}
