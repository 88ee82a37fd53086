//! `pinfold top` in a real terminal: tmux(1) is one, and tells what stands on it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;

use crate::support::{Machine, eventually, lives, pass_over, processes, signal};

/// A terminal of a tmux server of its own, with a shell in it that runs on when the screen is left.
pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Opens one of this size, for `pinfold` on this machine. `None` where there is no tmux and none is asked for.
    #[track_caller]
    pub fn open(machine: &Machine, (width, height): (u16, u16)) -> Option<Self> {
        if Command::new("tmux").arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).status().is_err() {
            pass_over("there is no tmux(1)");
            return None;
        }
        // One that is on its way out still has its socket.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("tmux.{}.sock", NUMBER.fetch_add(1, Ordering::Relaxed));
        let terminal = Self { socket: machine.path(&name) };
        let mut open = terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-s", "t"]);
        open.args(["-x", &width.to_string(), "-y", &height.to_string()]);
        open.args(["env", "PS1=$ ", "LC_ALL=C.UTF-8", "sh"]);
        let (variable, place) = machine.place();
        open.env("PINFOLD_SOCKET", machine.socket()).env(variable, place).env_remove("NO_COLOR");
        let opened = open.output().unwrap();
        assert!(opened.status.success(), "{opened:?}");
        Some(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.args(["-u", "-S"]).arg(&self.socket).args(arguments).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
        tmux
    }

    #[track_caller]
    fn ask(&self, arguments: &[&str]) -> Output {
        let output = self.tmux(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output
    }

    /// Presses keys, by tmux's names of them.
    #[track_caller]
    pub fn press(&self, keys: &[&str]) {
        self.ask(&[&["send-keys", "-t", "t"], keys].concat());
    }

    /// What stands on it.
    #[track_caller]
    fn shown(&self) -> String {
        String::from_utf8(self.ask(&["capture-pane", "-p", "-t", "t"]).stdout).unwrap()
    }

    /// Waits until a text stands on it, and gives all that does.
    #[track_caller]
    pub fn expect(&self, text: &str) -> String {
        self.expect_all(&[text], "\0")
    }

    /// Waits until these stand on it at the same time, and this does not: a screen may be seen while it is drawn.
    #[track_caller]
    fn expect_all(&self, texts: &[&str], without: &str) -> String {
        eventually(&format!("the terminal shows {texts:?} and not {without:?}"), || {
            let shown = self.shown();
            let all = texts.iter().all(|text| shown.contains(text)) && !shown.contains(without);
            if all { Ok(shown) } else { Err(shown) }
        })
    }

    /// One of tmux's own facts about it.
    #[track_caller]
    fn fact(&self, name: &str) -> String {
        let output = self.ask(&["display-message", "-p", "-t", "t", &format!("#{{{name}}}")]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Starts the screen, and waits until it has the terminal.
    #[track_caller]
    fn start(&self, arguments: &str) {
        self.press(&[&format!("'{}' top {arguments}; echo \"left with $?\"", crate::support::binary()), "Enter"]);
        self.expect("LAST ENDS");
        assert_eq!((self.fact("alternate_on"), self.fact("cursor_flag")), ("1".into(), "0".into()));
    }

    /// The pid of the screen: the shell's only child.
    #[track_caller]
    fn pid(&self) -> i32 {
        let shell = self.fact("pane_pid");
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        children.trim().parse().unwrap()
    }

    /// Waits until the screen is gone, and sees that the terminal is as it was: the shell's own screen with what stood on
    /// it, the cursor, and a line that is echoed and edited.
    #[track_caller]
    fn expect_clean(&self, status: i32) {
        self.expect_all(&[&format!("left with {status}"), " top "], "LAST ENDS");
        assert_eq!((self.fact("alternate_on"), self.fact("cursor_flag")), ("0".into(), "1".into()));
        self.press(&["stty -a | tr ';' '\\n'", "Enter"]);
        let shown = self.expect("icanon");
        let words: Vec<&str> = shown.split_whitespace().collect();
        for word in ["icanon", "echo", "isig", "icrnl", "opost"] {
            assert!(words.contains(&word), "{word} is off: {shown}");
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]).output();
    }
}

#[test]
fn a_session_is_seen_and_ended_on_the_screen_and_the_terminal_is_clean_after_it() {
    let machine = Machine::new();
    let Some(terminal) = Terminal::open(&machine, (80, 24)) else { return };
    let mut server = machine.run(&["--session", "seen 🦊", "--server", "eats"], "sleep 1000 & exec sleep 1000");
    let leaf = machine.leaf("seen 🦊");
    let inside = processes(&leaf);
    assert!(!inside.is_empty());
    let sent = machine.path("sent");
    terminal.ask(&["pipe-pane", "-t", "t", &format!("cat >'{}'", sent.display())]);
    terminal.start("--interval 200ms");
    let backend = machine.session("seen 🦊")["backend"].as_str().unwrap().to_owned();
    terminal.expect_all(&["seen 🦊", "eats", "1 session ", &backend, "TREND", "+ - interval"], "OWNER");

    terminal.ask(&["resize-window", "-t", "t", "-x", "140", "-y", "40"]);
    terminal.expect_all(&["eats", "OWNER", "SELECTED"], "\0");
    terminal.ask(&["resize-window", "-t", "t", "-x", "40", "-y", "15"]);
    terminal.expect_all(&["SESSION / SERVER", "eats", "CPU", "q quit"], "TREND");
    terminal.ask(&["resize-window", "-t", "t", "-x", "80", "-y", "24"]);
    terminal.expect_all(&["eats", "TREND"], "OWNER");

    terminal.press(&["e"]);
    terminal.expect("y/N");
    terminal.press(&["n"]);
    terminal.expect("q quit");
    assert!(inside.iter().all(|pid| lives(*pid)), "it was ended by a no");
    terminal.press(&["e"]);
    terminal.expect("End session seen");
    terminal.press(&["y"]);
    server.exit_status();
    eventually("the kernel has nothing of it left", || {
        let left: Vec<i32> = inside.iter().copied().filter(|pid| lives(*pid)).collect();
        if left.is_empty() && !leaf.exists() { Ok(()) } else { Err(format!("{left:?}, {}", leaf.display())) }
    });
    terminal.expect_all(&["seen 🦊/eats", "its end was requested", "nothing is contained"], "\0");

    terminal.press(&["C-l", "q"]);
    terminal.expect_clean(0);
    // An answer that comes late would be taken for keys, and none at all for a failure.
    let sent = std::fs::read(sent).unwrap();
    assert!(sent.windows(8).any(|bytes| bytes == b"\x1b[?1049l"), "what was sent was not seen");
    assert!(!sent.windows(4).any(|bytes| bytes == b"\x1b[6n"), "it asked the terminal where its cursor is");
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let machine = Machine::new();
    for each in [Signal::SIGTERM, Signal::SIGHUP] {
        let Some(terminal) = Terminal::open(&machine, (80, 24)) else { return };
        terminal.start("");
        signal(terminal.pid(), each);
        terminal.expect_clean(0);
    }
}

#[test]
fn a_terminal_that_goes_takes_the_screen_with_it() {
    let machine = Machine::new();
    let Some(terminal) = Terminal::open(&machine, (80, 24)) else { return };
    terminal.start("");
    let pid = terminal.pid();
    drop(terminal);
    eventually("the screen is gone", || if lives(pid) { Err("it lives".to_owned()) } else { Ok(()) });
}

#[test]
fn a_daemon_that_dies_is_told_on_the_screen_and_the_next_one_is_seen() {
    let mut machine = Machine::new();
    let Some(terminal) = Terminal::open(&machine, (80, 24)) else { return };
    terminal.start("--interval 200ms");
    machine.kill_daemon();
    terminal.expect("trying again: no pinfold daemon listens");
    machine.start();
    let _server = machine.run(&["--session", "after"], "exec sleep 1000");
    terminal.expect_all(&["after"], "trying again");
    terminal.press(&["C-c"]);
    terminal.expect_clean(0);
}

#[test]
fn without_a_terminal_the_screen_refuses_and_names_ls() {
    let machine = Machine::new();
    let output = machine.ask(&["top"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(told.contains("`pinfold ls`") && !told.contains('\u{1b}'), "{told}");
}
