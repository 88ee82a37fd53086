//! What the screen knows: an event in, what is to be done out. No clock and no I/O; a moment is a plain duration since the
//! start of the screen, and comes with each reading.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::keys::Key;
use super::rows::{Arrangement, Id, Row, Sort, take_all};
use super::track::Track;
use crate::occurrence::Occurrence;
use crate::snapshot::SessionView;
use crate::timestamp::Timestamp;
use crate::wire::End;

/// The longest filter, in characters.
const FILTER_MAX: usize = 60;

/// How long what was said stands in the place of the keys, unless a key takes it away.
const NOTE_MAX: Duration = Duration::from_secs(8);

/// The intervals that `+` and `-` go through.
const INTERVALS: [Duration; 8] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// What was read of the daemon in one go.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    /// When, since the start of the screen.
    pub(super) at: Duration,
    /// The same on the machine's clock, which ages are counted by.
    pub(super) now: Timestamp,
    /// Who answered.
    pub(super) about: About,
    pub(super) sessions: Vec<SessionView>,
    /// What ended lately, oldest first.
    pub(super) ends: Vec<Occurrence>,
}

/// The daemon that answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct About {
    pub(super) version: String,
    pub(super) backend: String,
    /// The socket of another daemon, whose sessions are not shown.
    pub(super) other: Option<String>,
}

/// Why nothing could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// When, since the start of the screen.
    pub(super) at: Duration,
    pub(super) why: String,
}

/// What happens to the screen.
#[derive(Debug)]
pub(super) enum Event {
    /// The daemon answered.
    Read(Box<Reading>),
    /// It did not.
    Failed(Trouble),
    /// What the daemon said to an order, for people.
    Told(String),
    Key(Key),
    /// The terminal has so many lines now.
    Resized(u16),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    /// Order these ends.
    End(Vec<End>),
    /// Look this often from now on.
    Look(Duration),
    /// Draw every cell anew: something else wrote to the terminal.
    Redraw,
}

/// What keys mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Normal,
    /// They are typed into the filter.
    Filter,
    /// They answer a question.
    Question(Question),
    /// The help is shown; any key leaves it.
    Help,
}

/// Whether something is really to be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    id: Id,
    ends: Vec<End>,
    /// `session` or `server`.
    pub(super) kind: &'static str,
    pub(super) name: String,
    /// What goes with it.
    pub(super) size: String,
}

/// What the screen knows.
#[derive(Debug)]
pub(super) struct State {
    reading: Option<Reading>,
    trouble: Option<Trouble>,
    tracks: HashMap<Id, Track>,
    folded: HashSet<Id>,
    selected: Option<Id>,
    sort: Sort,
    filter: String,
    mode: Mode,
    interval: Duration,
    /// What was said last, and when.
    note: Option<(String, Duration)>,
    /// How many rows a page has.
    page: usize,
}

impl State {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            reading: None,
            trouble: None,
            tracks: HashMap::new(),
            folded: HashSet::new(),
            selected: None,
            sort: Sort::default(),
            filter: String::new(),
            mode: Mode::default(),
            interval,
            note: None,
            page: 10,
        }
    }

    /// Takes in what happens, and says what is to be done.
    #[must_use]
    pub(super) fn step(&mut self, event: Event) -> Option<Action> {
        match event {
            Event::Read(reading) => self.read(*reading),
            Event::Failed(trouble) => self.trouble = Some(trouble),
            Event::Told(text) => self.say(text),
            Event::Resized(lines) => self.page = usize::from(lines / 2).max(1),
            Event::Key(key) => return self.key(key),
        }
        None
    }

    fn read(&mut self, reading: Reading) {
        let before = self.position();
        take_all(&mut self.tracks, reading.at, &reading.sessions);
        self.trouble = None;
        self.note.take_if(|(_, said)| reading.at.saturating_sub(*said) > NOTE_MAX);
        self.reading = Some(reading);
        let living: HashSet<Id> = self.living();
        self.tracks.retain(|id, _| living.contains(id));
        self.folded.retain(|id| living.contains(id));
        if let Mode::Question(question) = &self.mode
            && !living.contains(&question.id)
        {
            let gone = format!("{} {} is gone already", question.kind, question.name);
            self.mode = Mode::Normal;
            self.say(gone);
        }
        self.select_near(before);
    }

    fn say(&mut self, text: String) {
        let now = self.reading.as_ref().map_or(Duration::ZERO, |reading| reading.at);
        self.note = Some((text, now));
    }

    fn living(&self) -> HashSet<Id> {
        let sessions = self.sessions();
        let servers = sessions.iter().flat_map(|session| session.servers.iter().map(Id::of_server));
        sessions.iter().map(Id::of_session).chain(servers).collect()
    }

    fn key(&mut self, key: Key) -> Option<Action> {
        match (&self.mode, key) {
            (_, Key::Interrupt) => Some(Action::Quit),
            (_, Key::Redraw) => Some(Action::Redraw),
            (Mode::Help, _) => {
                self.mode = Mode::Normal;
                None
            }
            (Mode::Question(_), _) => self.answer(key),
            (Mode::Filter, _) => {
                self.type_filter(key);
                None
            }
            (Mode::Normal, _) => self.command(key),
        }
    }

    fn command(&mut self, key: Key) -> Option<Action> {
        self.note = None;
        match key {
            Key::Char('q') => return Some(Action::Quit),
            Key::Up | Key::Char('k') => self.go(|at, _| at.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.go(|at, _| at + 1),
            Key::PageUp => self.go(|at, page| at.saturating_sub(page)),
            Key::PageDown => self.go(|at, page| at + page),
            Key::Home | Key::Char('g') => self.go(|_, _| 0),
            Key::End | Key::Char('G') => self.go(|_, _| usize::MAX),
            Key::Enter | Key::Char(' ') => self.fold(),
            Key::Char('s') => self.sort = self.sort.next(),
            Key::Char('/') => self.mode = Mode::Filter,
            Key::Char('e') => self.ask(),
            Key::Char('?' | 'h') => self.mode = Mode::Help,
            Key::Char('+') => return self.look(INTERVALS.into_iter().find(|next| *next > self.interval)),
            Key::Char('-') => return self.look(INTERVALS.into_iter().rev().find(|next| *next < self.interval)),
            Key::Escape => self.filter_by(String::new()),
            Key::Backspace | Key::Interrupt | Key::Redraw | Key::Char(_) => {}
        }
        None
    }

    fn look(&mut self, interval: Option<Duration>) -> Option<Action> {
        self.interval = interval?;
        interval.map(Action::Look)
    }

    fn type_filter(&mut self, key: Key) {
        let mut filter = self.filter.clone();
        match key {
            Key::Char(c) if filter.chars().count() < FILTER_MAX => filter.push(c),
            Key::Backspace => drop(filter.pop()),
            Key::Escape => filter.clear(),
            _ => {}
        }
        if matches!(key, Key::Enter | Key::Escape) {
            self.mode = Mode::Normal;
        }
        match key {
            Key::Up => self.go(|at, _| at.saturating_sub(1)),
            Key::Down => self.go(|at, _| at + 1),
            _ => self.filter_by(filter),
        }
    }

    fn filter_by(&mut self, filter: String) {
        let before = self.position();
        self.filter = filter;
        self.select_near(before);
    }

    /// Only a plain yes is one.
    fn answer(&mut self, key: Key) -> Option<Action> {
        let Mode::Question(question) = std::mem::take(&mut self.mode) else { return None };
        if !matches!(key, Key::Char('y' | 'Y')) {
            return None;
        }
        self.say(format!("ending {} {}", question.kind, question.name));
        Some(Action::End(question.ends))
    }

    fn ask(&mut self) {
        let rows = self.rows();
        let Some(row) = rows.iter().find(|row| Some(&row.id) == self.selected.as_ref()) else { return };
        let question = question(row, self.sessions());
        self.mode = Mode::Question(question);
    }

    /// Folds the session that is selected or whose server is, or unfolds it.
    fn fold(&mut self) {
        let rows = self.rows();
        let Some(row) = rows.iter().find(|row| Some(&row.id) == self.selected.as_ref()) else { return };
        let session = Id::of_session(row.session);
        if !self.folded.remove(&session) {
            self.folded.insert(session.clone());
        }
        self.selected = Some(session);
    }

    /// Selects another row.
    fn go(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        let rows = self.rows();
        let at = self.position_in(&rows).unwrap_or(0);
        let to = to(at, self.page).min(rows.len().saturating_sub(1));
        self.selected = rows.get(to).map(|row| row.id.clone());
    }

    fn position(&self) -> usize {
        self.position_in(&self.rows()).unwrap_or(0)
    }

    fn position_in(&self, rows: &[Row<'_>]) -> Option<usize> {
        rows.iter().position(|row| Some(&row.id) == self.selected.as_ref())
    }

    /// Keeps what is selected; where it is gone, what stands in its place is.
    fn select_near(&mut self, before: usize) {
        let rows = self.rows();
        if self.position_in(&rows).is_none() {
            let near = before.min(rows.len().saturating_sub(1));
            self.selected = rows.get(near).map(|row| row.id.clone());
        }
    }
}

/// What the screen shows.
impl State {
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let arrangement =
            Arrangement { sort: self.sort, filter: &self.filter, folded: &self.folded, tracks: &self.tracks };
        arrangement.rows(self.sessions())
    }

    pub(super) fn sessions(&self) -> &[SessionView] {
        self.reading.as_ref().map_or(&[], |reading| &reading.sessions)
    }

    pub(super) fn reading(&self) -> Option<&Reading> {
        self.reading.as_ref()
    }

    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    pub(super) fn track(&self, id: &Id) -> Option<&Track> {
        self.tracks.get(id)
    }

    pub(super) fn selected(&self) -> Option<&Id> {
        self.selected.as_ref()
    }

    pub(super) fn sort(&self) -> Sort {
        self.sort
    }

    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    pub(super) fn mode(&self) -> &Mode {
        &self.mode
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn note(&self) -> Option<&str> {
        self.note.as_ref().map(|(text, _)| text.as_str())
    }
}

/// What would be ended with a row. A session is named with its generation: what comes later under its id is spared.
fn question(row: &Row<'_>, sessions: &[SessionView]) -> Question {
    let session = row.session;
    let of_leaf =
        |leaf: &str| End { session: Some(session.id.clone()), server: Some(leaf.to_owned()), ..End::default() };
    let processes = row.processes();
    let processes = format!("{processes} {}", if processes == 1 { "process" } else { "processes" });
    if let Some(server) = row.server {
        let (ends, name) = (vec![of_leaf(&server.leaf)], server.name.to_string());
        return Question { id: row.id.clone(), ends, kind: "server", name, size: processes };
    }
    // Root sees each user's: one that shares its id with another's is ended by its own leaves.
    let shared = sessions.iter().filter(|other| other.id == session.id).count() > 1;
    let ends = if shared {
        session.servers.iter().map(|server| of_leaf(&server.leaf)).collect()
    } else {
        vec![End { session: Some(session.id.clone()), generation: Some(session.generation), ..End::default() }]
    };
    let count = session.servers.len();
    let size = format!("{count} {}, {processes}", if count == 1 { "server" } else { "servers" });
    Question { id: row.id.clone(), ends, kind: "session", name: session.id.to_string(), size }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
