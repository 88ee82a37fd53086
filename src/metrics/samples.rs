//! A picture in which everything is told, for the tests of this room.

use std::time::{Duration, SystemTime};

use super::{Hits, Picture, Reading, Seen};
use crate::argv::MaskedArgv;
use crate::lifecycle::{ParkReason, ThawReason};
use crate::limits::Bytes;
use crate::occurrence::{Ended, Occurrence, What};
use crate::outcome::{Cause, Level, Outcome};
use crate::session::{Name, SessionId};
use crate::snapshot::{ActivityView, MemoryView, PressureView, ServerView, SessionView, StallView, StdinWatch};
use crate::timestamp::Timestamp;
use crate::wire::{Description, LimitState};

/// When all of it began.
pub(super) const BEGAN: f64 = 1_800_000_000.0;

pub(super) fn moment() -> Timestamp {
    Timestamp::of(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(BEGAN))
}

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn memory() -> MemoryView {
    let mebibytes = |number: u64| Some(Bytes(number << 20));
    MemoryView {
        rss_bytes: mebibytes(96),
        working_set_bytes: mebibytes(100),
        current_bytes: mebibytes(128),
        anon_bytes: mebibytes(64),
        file_bytes: mebibytes(48),
        shmem_bytes: mebibytes(1),
        kernel_bytes: mebibytes(2),
        swap_bytes: mebibytes(3),
        peak_bytes: mebibytes(130),
        max_bytes: mebibytes(256),
    }
}

pub(super) fn picture(id: &str) -> Picture {
    let activity = ActivityView { cpu_seconds: Some(1.5), read_bytes: Some(Bytes(7)), written_bytes: Some(Bytes(8)) };
    let stall = StallView { some_seconds: Some(0.5), full_seconds: Some(0.25) };
    let pressure = PressureView { memory: stall, cpu: stall, io: stall };
    let server = ServerView {
        name: name("fs"),
        leaf: "fs.17".into(),
        state: "running".into(),
        leader_pid: 42,
        owner_pid: 41,
        processes: 2,
        cgroup: "/sys/fs/cgroup/pinfold/s_0123456789ab/fs.17".into(),
        argv: MaskedArgv::mask(&["fs"]),
        labels: Default::default(),
        generation: 1,
        started_at: moment(),
        memory: memory(),
        activity,
        pressure,
        pids_refusals: 3,
        stdin: StdinWatch::Watched,
        confine: Default::default(),
        parked_at: None,
        reclaimed_bytes: Some(Bytes(32 << 20)),
        container: None,
        escaped: false,
        escaped_pids: Vec::new(),
        warnings: Vec::new(),
    };
    let view = SessionView {
        id: SessionId::parse(id).unwrap(),
        key: "s_0123456789ab".into(),
        host: Some(name("codex")),
        uid: 1000,
        owner_pid: Some(41),
        generation: 1,
        state: "running".into(),
        backend: "cgroupfs".into(),
        cgroup: "/sys/fs/cgroup/pinfold/s_0123456789ab".into(),
        ttl: None,
        expires_at: None,
        processes: 2,
        memory: memory(),
        activity,
        pressure,
        servers: vec![server],
    };
    let hits = Hits { memory_kills: Some(1), memory_limit: Some(2), pids_limit: Some(3) };
    let seen = Seen { started: BEGAN, active: BEGAN + 10.0 };
    Picture {
        sessions: vec![Reading { view, hits, seen, servers: vec![(hits, seen)] }],
        machine: Some(memory()),
        delayed: 4,
        parked: 2,
        ending: 1,
        oldest_end: 0.5,
        sessions_max: 1000,
        servers_max: 5000,
        omitted: Vec::new(),
    }
}

pub(super) fn description() -> Description {
    let missing = LimitState::Missing { why: String::new(), remedy: String::new() };
    let limits = [("memory", LimitState::Holds), ("io", missing), ("swap", LimitState::NothingToLimit)];
    Description {
        version: "0.1.0".into(),
        backend: "cgroupfs".into(),
        layout: "v2".into(),
        limits: limits.into_iter().map(|(name, state)| (name.to_owned(), state)).collect(),
        ..Description::default()
    }
}

/// Something happened to the server of [`picture`].
pub(super) fn occurrence(id: &str, what: What) -> Occurrence {
    Occurrence {
        number: 1,
        at: moment(),
        uid: 1000,
        realm: crate::realm::Realm::Host,
        session: Some(SessionId::parse(id).unwrap()),
        key: Some("s_0123456789ab".into()),
        host: Some(name("codex")),
        server: name("fs"),
        leaf: Some("fs.17".into()),
        what,
    }
}

pub(super) fn ended(id: &str) -> Occurrence {
    let outcome = Outcome {
        cause: Cause::Memory { level: Level::Server, stall: None },
        processes: Some(2),
        killed: true,
        memory_bytes: Some(Bytes(128 << 20)),
        peak_bytes: Some(Bytes(130 << 20)),
        exit: None,
    };
    occurrence(
        id,
        What::Ended(Ended {
            outcome,
            started_at: moment(),
            lifetime_seconds: 61.0,
            end_seconds: Some(0.2),
            parked_seconds: 0.0,
        }),
    )
}

/// One of each kind of what may happen.
pub(super) fn all() -> Vec<Occurrence> {
    let warnings = vec!["cpu_max does not hold".to_owned()];
    let kinds = [
        What::Launched { pid: 42, launch_seconds: 0.03, warnings },
        What::MovedIn { pid: 42, warnings: Vec::new() },
        What::Adopted { pid: 42 },
        What::Refused { reason: "no".into(), uncontained: false },
        What::Refused { reason: "no".into(), uncontained: true },
        What::Storm { owner_pid: 41, owner: "codex".into() },
        What::MemoryKill { level: Level::Session, kills: 2 },
        What::PidsLimit { level: Level::Server },
        What::NotExecuted { command: "nxp".into(), reason: "no".into() },
        What::Escaped { pids: vec![42] },
        What::Trimmed { before_bytes: Bytes(64 << 20), after_bytes: Bytes(32 << 20), swap_bytes: Bytes(30 << 20) },
        What::Parked {
            reason: ParkReason::Idle,
            before_bytes: Bytes(32 << 20),
            after_bytes: Bytes(2 << 20),
            swap_bytes: Bytes(60 << 20),
        },
        What::Thawed { reason: ThawReason::Input, parked_seconds: 61.5, thaw_seconds: Some(0.0004) },
    ];
    kinds.into_iter().map(|what| occurrence("s", what)).chain([ended("s")]).collect()
}
