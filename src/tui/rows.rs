//! Which rows the screen has, and in which order: sessions, and below each of them its servers.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use super::track::Track;
use crate::session::SessionId;
use crate::snapshot::{ActivityView, MemoryView, PressureView, ServerView, SessionView};
use crate::timestamp::Timestamp;

/// What a row stands for, over many readings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Id {
    /// A session of a user.
    Session(u32, SessionId),
    /// A leaf, unique among all that live.
    Server(String),
}

impl Id {
    pub(super) fn of_session(session: &SessionView) -> Self {
        Self::Session(session.uid, session.id.clone())
    }

    pub(super) fn of_server(server: &ServerView) -> Self {
        Self::Server(server.leaf.clone())
    }
}

/// By what the rows are sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// Most resident memory first.
    #[default]
    Memory,
    /// Most CPU time over the last interval first.
    Cpu,
    /// Oldest first.
    Age,
    /// By name.
    Name,
}

impl Sort {
    /// The one after it, and after the last the first.
    pub(super) fn next(self) -> Self {
        match self {
            Self::Memory => Self::Cpu,
            Self::Cpu => Self::Age,
            Self::Age => Self::Name,
            Self::Name => Self::Memory,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Age => "age",
            Self::Name => "name",
        }
    }
}

/// One row.
#[derive(Debug, Clone)]
pub(super) struct Row<'a> {
    pub(super) id: Id,
    pub(super) session: &'a SessionView,
    /// The server; `None`: the row is the session's own.
    pub(super) server: Option<&'a ServerView>,
    pub(super) place: Place,
}

/// Where in the tree a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A session, with its servers below it.
    Open,
    /// A session whose servers are not shown.
    Folded,
    /// A server, with another one below it.
    Between,
    /// The last server of its session.
    Last,
}

impl Row<'_> {
    pub(super) fn memory(&self) -> &MemoryView {
        self.server.map_or(&self.session.memory, |server| &server.memory)
    }

    pub(super) fn processes(&self) -> u32 {
        self.server.map_or(self.session.processes, |server| server.processes)
    }

    pub(super) fn owner_pid(&self) -> Option<i32> {
        self.server.map_or(self.session.owner_pid, |server| Some(server.owner_pid))
    }

    /// When it began: a session with the first of its living servers.
    pub(super) fn started_at(&self) -> Option<Timestamp> {
        self.server.map_or_else(|| began(self.session), |server| Some(server.started_at))
    }

    /// What has to be said of its state; nothing of what runs as it should.
    pub(super) fn marks(&self) -> String {
        let (state, escaped) = match self.server {
            Some(server) => (server.state.as_str(), escaped(server)),
            // Where the servers are shown, each says it of itself.
            None => {
                (self.session.state.as_str(), self.place == Place::Folded && self.session.servers.iter().any(escaped))
            }
        };
        match (escaped, state) {
            (true, "running") => "ESCAPED".to_owned(),
            (true, state) => format!("ESCAPED {state}"),
            (false, "running") => String::new(),
            (false, state) => state.to_owned(),
        }
    }
}

/// Whether something of a server stands outside its leaf.
pub(super) fn escaped(server: &ServerView) -> bool {
    server.escaped || !server.escaped_pids.is_empty()
}

fn began(session: &SessionView) -> Option<Timestamp> {
    session.servers.iter().map(|server| server.started_at).min()
}

/// What decides which rows there are.
#[derive(Debug)]
pub(super) struct Arrangement<'a> {
    pub(super) sort: Sort,
    /// Only what has this in its name, its session's, its host's or a label, in upper or lower case.
    pub(super) filter: &'a str,
    pub(super) folded: &'a HashSet<Id>,
    pub(super) tracks: &'a HashMap<Id, Track>,
}

impl Arrangement<'_> {
    /// The rows, from the top down.
    pub(super) fn rows<'a>(&self, sessions: &'a [SessionView]) -> Vec<Row<'a>> {
        let filter = self.filter.to_lowercase();
        let mut shown: Vec<(&SessionView, Vec<&ServerView>)> =
            sessions.iter().filter_map(|session| Some((session, matching(session, &filter)?))).collect();
        shown.sort_by(|(a, _), (b, _)| self.order(&session_rank(a), &session_rank(b)));
        let mut rows = Vec::new();
        for (session, mut servers) in shown {
            let id = Id::of_session(session);
            let folded = self.folded.contains(&id);
            rows.push(Row { id, session, server: None, place: if folded { Place::Folded } else { Place::Open } });
            if folded {
                continue;
            }
            servers.sort_by(|a, b| self.order(&server_rank(a), &server_rank(b)));
            let last = servers.len().saturating_sub(1);
            rows.extend(servers.into_iter().enumerate().map(|(index, server)| Row {
                id: Id::of_server(server),
                session,
                server: Some(server),
                place: if index == last { Place::Last } else { Place::Between },
            }));
        }
        rows
    }

    fn order(&self, a: &Rank<'_>, b: &Rank<'_>) -> Ordering {
        let cpu = |rank: &Rank<'_>| self.tracks.get(&rank.id).and_then(Track::cpu_percent).unwrap_or(-1.0);
        let by = match self.sort {
            Sort::Memory => b.rss.cmp(&a.rss),
            Sort::Cpu => cpu(b).total_cmp(&cpu(a)),
            Sort::Age => a.started_at.cmp(&b.started_at),
            Sort::Name => Ordering::Equal,
        };
        by.then_with(|| a.name.cmp(b.name)).then_with(|| a.tie.cmp(&b.tie))
    }
}

/// By what a session or a server is sorted.
struct Rank<'a> {
    id: Id,
    rss: u64,
    started_at: Option<Timestamp>,
    name: &'a str,
    /// What tells those of one name apart.
    tie: (u32, &'a str),
}

fn session_rank(session: &SessionView) -> Rank<'_> {
    Rank {
        id: Id::of_session(session),
        rss: session.memory.rss_bytes.map_or(0, |bytes| bytes.0),
        started_at: began(session),
        name: session.id.as_str(),
        tie: (session.uid, &session.key),
    }
}

fn server_rank(server: &ServerView) -> Rank<'_> {
    Rank {
        id: Id::of_server(server),
        rss: server.memory.rss_bytes.map_or(0, |bytes| bytes.0),
        started_at: Some(server.started_at),
        name: server.name.as_str(),
        tie: (0, &server.leaf),
    }
}

/// The servers of a session that a filter leaves: all of them where the session itself is what was looked for, and `None`
/// where nothing of it is. `filter` is in lower case.
fn matching<'a>(session: &'a SessionView, filter: &str) -> Option<Vec<&'a ServerView>> {
    let has = |text: &str| text.to_lowercase().contains(filter);
    let itself = has(session.id.as_str()) || session.host.as_ref().is_some_and(|host| has(host.as_str()));
    let fits = |server: &&ServerView| {
        itself || has(server.name.as_str()) || (!server.labels.is_empty() && has(&server.labels.to_string()))
    };
    let servers: Vec<&ServerView> = session.servers.iter().filter(fits).collect();
    (itself || !servers.is_empty()).then_some(servers)
}

/// Takes in what was read of all sessions and servers at a moment.
pub(super) fn take_all<'a>(
    tracks: &mut HashMap<Id, Track>,
    at: std::time::Duration,
    sessions: impl IntoIterator<Item = &'a SessionView>,
) {
    let mut take = |id: Id, memory: &MemoryView, activity: &ActivityView, pressure: &PressureView| {
        tracks.entry(id).or_default().take(at, memory, activity, pressure);
    };
    for session in sessions {
        take(Id::of_session(session), &session.memory, &session.activity, &session.pressure);
        for server in &session.servers {
            take(Id::of_server(server), &server.memory, &server.activity, &server.pressure);
        }
    }
}
