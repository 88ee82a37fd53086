//! A made-up machine, the same for every screen: long ids and wide ones, a server that escaped, one that is ending, one
//! without a limit, one that grows, and sessions of two users.

use std::time::{Duration, SystemTime};

use super::keys::Key;
use super::state::{About, Action, Event, Reading, State};
use crate::argv::MaskedArgv;
use crate::label::{Label, Labels};
use crate::limits::Bytes;
use crate::occurrence::{Ended, Occurrence, What};
use crate::outcome::{Cause, Level, Outcome};
use crate::session::{Name, SessionId};
use crate::snapshot::{ActivityView, MemoryView, PressureView, ServerView, SessionView, StallView, StdinWatch};
use crate::timestamp::Timestamp;

const M: u64 = 1 << 20;

/// Seconds since 1970 of the first reading.
const START: u64 = 1_769_860_800;

fn moment(seconds: u64) -> Timestamp {
    Timestamp::of(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// One server, by what a test is about; the rest is like any other.
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) rss: u64,
    pub(super) max: Option<u64>,
    /// CPU seconds and seconds of pressure so far.
    pub(super) seconds: (f64, f64),
    pub(super) processes: u32,
    pub(super) age: u64,
    pub(super) state: &'static str,
    pub(super) escaped_pids: &'static [i32],
}

impl Server {
    pub(super) fn new(name: &'static str, rss_mib: u64) -> Self {
        let max = Some(2048 * M);
        Self {
            name,
            rss: rss_mib * M,
            max,
            seconds: (0.0, 0.0),
            processes: 4,
            age: 600,
            state: "running",
            escaped_pids: &[],
        }
    }

    fn view(&self, session: &str, number: usize, now: u64) -> ServerView {
        let pid = 4000 + number as i32 * 10;
        let argv = ["npx", "-y", "@modelcontextprotocol/server-filesystem", "--token", "secret", "/srv/data"];
        ServerView {
            name: Name::parse(self.name).unwrap(),
            leaf: format!("{}.{session}{number}", self.name),
            state: self.state.to_owned(),
            leader_pid: pid,
            owner_pid: 3100,
            processes: self.processes,
            cgroup: format!("/sys/fs/cgroup/pinfold/{session}/{}.{number}", self.name),
            argv: MaskedArgv::mask(&argv),
            labels: Labels::collect(["run=42".parse::<Label>().unwrap()]).unwrap(),
            generation: 1,
            started_at: moment(now - self.age),
            memory: memory(self.rss, self.max),
            activity: activity(self.seconds.0),
            pressure: pressure(self.seconds.1),
            pids_refusals: 0,
            stdin: StdinWatch::Watched,
            confine: Default::default(),
            parked_at: None,
            reclaimed_bytes: None,
            container: None,
            escaped: !self.escaped_pids.is_empty(),
            escaped_pids: self.escaped_pids.to_vec(),
            warnings: Vec::new(),
        }
    }
}

fn memory(rss: u64, max: Option<u64>) -> MemoryView {
    MemoryView {
        rss_bytes: Some(Bytes(rss)),
        working_set_bytes: Some(Bytes(rss + rss / 20)),
        current_bytes: Some(Bytes(rss + rss / 3)),
        anon_bytes: Some(Bytes(rss - rss / 5)),
        file_bytes: Some(Bytes(rss / 4)),
        swap_bytes: Some(Bytes(0)),
        peak_bytes: Some(Bytes(rss + rss / 2)),
        max_bytes: max.map(Bytes),
        ..MemoryView::default()
    }
}

fn activity(seconds: f64) -> ActivityView {
    ActivityView { cpu_seconds: Some(seconds), ..ActivityView::default() }
}

fn pressure(seconds: f64) -> PressureView {
    let memory = StallView { some_seconds: Some(seconds), full_seconds: Some(seconds / 2.0) };
    PressureView { memory, ..PressureView::default() }
}

/// A session of a user, and its servers.
pub(super) fn session(id: &str, uid: u32, host: Option<&str>, servers: &[Server], now: u64) -> SessionView {
    let views: Vec<ServerView> = servers
        .iter()
        .enumerate()
        .map(|(number, server)| server.view(&format!("{uid}-{}", id.len()), number, now))
        .collect();
    let ending = !views.is_empty() && views.iter().all(|server| server.state != "running");
    let (cpu, stalled) =
        servers.iter().fold((0.0, 0.0), |sum, server| (sum.0 + server.seconds.0, sum.1 + server.seconds.1));
    SessionView {
        id: SessionId::parse(id).unwrap(),
        key: format!("key-{}-{uid}", id.len()),
        host: host.map(|host| Name::parse(host).unwrap()),
        uid,
        owner_pid: (!views.is_empty()).then_some(3100),
        generation: 1,
        state: if ending { "ending" } else { "running" }.to_owned(),
        backend: "cgroupfs".to_owned(),
        cgroup: format!("/sys/fs/cgroup/pinfold/key-{}-{uid}", id.len()),
        ttl: None,
        expires_at: None,
        processes: servers.iter().map(|server| server.processes).sum(),
        memory: memory(servers.iter().map(|server| server.rss).sum(), Some(4096 * M)),
        activity: activity(cpu),
        pressure: pressure(stalled),
        servers: views,
    }
}

/// An end, so many seconds before the last reading.
fn ended(ago: u64, (session, server): (&str, &str), cause: Cause, killed: bool) -> Occurrence {
    let outcome = Outcome {
        cause,
        processes: Some(4),
        killed,
        memory_bytes: Some(Bytes(187 * M)),
        peak_bytes: Some(Bytes(201 * M)),
        exit: None,
    };
    Occurrence {
        number: 1,
        at: moment(START + 60 - ago),
        uid: 1000,
        realm: crate::realm::Realm::Host,
        session: Some(SessionId::parse(session).unwrap()),
        key: None,
        host: None,
        server: Name::parse(server).unwrap(),
        leaf: None,
        what: What::Ended(Ended {
            outcome,
            started_at: moment(START + 60 - ago - 930),
            lifetime_seconds: 930.0,
            end_seconds: Some(0.2),
            parked_seconds: 0.0,
        }),
    }
}

/// What the daemon says `tick` seconds after the first reading, one reading each two seconds.
fn reading(tick: u64) -> Reading {
    let now = START + tick;
    let at = tick as f64;
    let servers = [
        Server { seconds: (at * 0.03, 0.0), age: 11_100, ..Server::new("filesystem", 134) },
        // It grows towards its limit.
        Server {
            seconds: (at * 1.31, at * 0.23),
            age: 905,
            processes: 31,
            ..Server::new("chrome-devtools", 520 + 22 * tick)
        },
        Server { max: None, seconds: (at * 0.004, 0.0), age: 11_100, processes: 2, ..Server::new("time", 41) },
    ];
    let more = [
        Server { escaped_pids: &[5120, 5121], seconds: (at * 0.12, 0.0), age: 371_000, ..Server::new("github", 96) },
        Server { state: "ending", age: 371_000, processes: 1, ..Server::new("memory", 12) },
    ];
    let wide = [Server {
        max: Some(512 * M),
        seconds: (at * 0.5, at * 0.02),
        ..Server::new("mcp-server-everything-with-a-long-name", 430)
    }];
    let single = [Server { processes: 1, age: 42, max: Some(256 * M), ..Server::new("fetch", 77) }];
    let leaving = [Server { state: "killing", processes: 3, age: 63, ..Server::new("sqlite", 30) }];
    let sessions = vec![
        session(
            "agent:main:telegram:group:-1001234567890:thread:42:run:7f3c9a1e",
            1000,
            Some("openclaw"),
            &servers,
            now,
        ),
        session("夜間バッチ処理セッション🦊の長い名前", 1000, Some("claude-code"), &wide, now),
        session("release\u{1b}[2J 1.4", 1001, None, &more, now),
        session("0b5c2d8e-6a1f-4c3b-9e57-2f8d1a7b6c90", 1001, Some("claude-code"), &single, now),
        session("demo", 1000, None, &leaving, now),
    ];
    let long = "agent:main:telegram:group:-1001234567890:thread:41:run:0a";
    let wide = ("夜間バッチ処理セッション", "mcp-server-everything-with-a-long-name");
    let memory = Cause::Memory { level: Level::Server, stall: None };
    let ends = vec![
        ended(9000, ("demo", "everything"), Cause::Requested, false),
        ended(4100, (long, "filesystem"), Cause::OwnerGone, false),
        ended(720, wide, Cause::StdinClosed, true),
        ended(205, ("release", "github"), Cause::LeaderExited, false),
        ended(31, ("demo", "chrome-devtools"), memory, true),
    ];
    let about = About { version: "0.1.0".to_owned(), backend: "cgroupfs".to_owned(), other: None };
    Reading { at: Duration::from_secs(tick), now: moment(START + 60.max(tick)), about, sessions, ends }
}

/// A reading of these sessions, so many seconds after the start.
pub(super) fn reading_of(at: u64, sessions: Vec<SessionView>) -> Event {
    Event::Read(Box::new(Reading { sessions, ends: Vec::new(), ..reading(at) }))
}

/// The screen of a machine that was looked at for a minute.
pub(super) fn state() -> State {
    let mut state = State::new(Duration::from_secs(2));
    for tick in (0..=60).step_by(2) {
        assert_eq!(state.step(Event::Read(Box::new(reading(tick)))), None);
    }
    state
}

/// Presses keys, and gives what the last of them asks for.
pub(super) fn press(state: &mut State, keys: &[Key]) -> Option<Action> {
    keys.iter().map(|key| state.step(Event::Key(*key))).last().flatten()
}

/// Types a text.
pub(super) fn typed(state: &mut State, text: &str) -> Option<Action> {
    let keys: Vec<Key> = text.chars().map(Key::Char).collect();
    press(state, &keys)
}
