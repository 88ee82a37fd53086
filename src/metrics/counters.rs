//! What is counted as it happens: each [`Occurrence`] once, where it passes the driver.

use std::collections::BTreeMap;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};

use super::pairs::Pairs;
use crate::lifecycle::{ParkReason, ThawReason};
use crate::occurrence::{Ended, Occurrence, What};

/// Spans of launches: a host waits for its server.
const LAUNCH_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Spans of ends: up to the longest grace, and beyond.
const END_BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0];

/// Spans of thaws: from what woke a server to the moment when all of it may run.
const THAW_BUCKETS: [f64; 9] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 5.0];

/// All events, so that each has its series from the start.
const EVENTS: [&str; 13] = [
    "launched",
    "moved_in",
    "adopted",
    "refused",
    "storm",
    "memory_kill",
    "pids_limit",
    "not_executed",
    "escaped",
    "trimmed",
    "parked",
    "thawed",
    "ended",
];

/// On v1 what a leaf has counted goes with it: how many processes the kernel killed for memory in each leaf of a session, by
/// the session's key. The number under no leaf is of those that ended.
pub type Kept = BTreeMap<String, BTreeMap<Option<String>, u64>>;

/// Counts, since the daemon started.
#[derive(Debug)]
pub struct Counters {
    registry: Registry,
    events: IntCounterVec,
    launches: IntCounterVec,
    unheld: IntCounter,
    adoptions: IntCounter,
    launch_seconds: Histogram,
    end_seconds: Histogram,
    ends: IntCounterVec,
    kills: IntCounterVec,
    memory_kills: IntCounterVec,
    pids_limits: IntCounterVec,
    escapes: IntCounter,
    storms: IntCounter,
    given_back: IntCounter,
    trims: IntCounter,
    parks: IntCounterVec,
    thaws: IntCounterVec,
    thaw_seconds: Histogram,
    reclaimed: IntCounter,
    history_dropped: IntCounter,
    pairs: Pairs,
    kept: Kept,
}

/// Makes and registers, where names are our own and each is there once.
struct Maker(Registry);

impl Maker {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let made = IntCounterVec::new(Opts::new(name, help), labels).expect("a name of ours is valid");
        self.0.register(Box::new(made.clone())).expect("a name of ours is there once");
        made
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        let made = IntCounter::new(name, help).expect("a name of ours is valid");
        self.0.register(Box::new(made.clone())).expect("a name of ours is there once");
        made
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let made = Histogram::with_opts(options).expect("a name of ours is valid, and bounds rise");
        self.0.register(Box::new(made.clone())).expect("a name of ours is there once");
        made
    }
}

impl Default for Counters {
    fn default() -> Self {
        let make = Maker(Registry::new());
        let of_server = ["host", "server"];
        let of_level = ["level", "host", "server"];
        let counters = Self {
            events: make.counters("pinfold_events_total", "What happened, as pinfold events tells it.", &["event"]),
            launches: make.counters(
                "pinfold_launches_total",
                "Launches by what came of them: granted; refused, and not run; or uncontained: refused, and run without \
                 containment.",
                &["result"],
            ),
            unheld: make.counter(
                "pinfold_launches_with_unheld_limits_total",
                "Launches with a limit that was asked for and that the kernel cannot hold here.",
            ),
            adoptions: make.counter(
                "pinfold_adoptions_total",
                "Servers that were alive when this daemon started, and that it took over.",
            ),
            launch_seconds: make.histogram(
                "pinfold_launch_duration_seconds",
                "Launches that were granted, from the request to the reply.",
                &LAUNCH_BUCKETS,
            ),
            end_seconds: make.histogram(
                "pinfold_end_duration_seconds",
                "Ends, from the fact that ended a server to the moment when nothing of it was left; without those that \
                 an earlier daemon began.",
                &END_BUCKETS,
            ),
            ends: make.counters(
                "pinfold_ends_total",
                "Servers that ended, by the first cause.",
                &["cause", "host", "server"],
            ),
            kills: make.counters(
                "pinfold_kills_total",
                "Ends in which cgroup.kill was needed: something was left after the grace, or none was given.",
                &of_server,
            ),
            memory_kills: make.counters(
                "pinfold_memory_kills_total",
                "Servers in the leaves of which the kernel killed for memory, each once, by whose limit was reached; its kills \
                 are told by pinfold_session_memory_kills_total.",
                &of_level,
            ),
            pids_limits: make.counters(
                "pinfold_pids_limits_reached_total",
                "Servers that reached a process limit: the first refused fork of each, by whose limit it was.",
                &of_level,
            ),
            escapes: make.counter(
                "pinfold_escapes_total",
                "Times processes were seen to be outside the leaf that they were launched in.",
            ),
            storms: make.counter(
                "pinfold_launch_storms_total",
                "Times a server began to be launched too often by one owner.",
            ),
            given_back: make.counter(
                "pinfold_memory_given_back_bytes_total",
                "Memory that was charged to the leaves of servers when their ends began: memory.current on cgroup v2, \
                 memory.usage_in_bytes on v1.",
            ),
            trims: make.counter(
                "pinfold_trims_total",
                "Times the memory of an idle server was given back while it went on.",
            ),
            parks: make.counters(
                "pinfold_parks_total",
                "Times a server was frozen and its memory given back, by why: idle or requested.",
                &["reason"],
            ),
            thaws: make.counters(
                "pinfold_thaws_total",
                "Times a parked server was thawed, by why: input, closed, ending, requested, reload or stopping.",
                &["reason"],
            ),
            thaw_seconds: make.histogram(
                "pinfold_thaw_duration_seconds",
                "Thaws, from what woke a parked server to the moment when the kernel said that all of it may run; what of its \
                 memory it then needs comes back page by page.",
                &THAW_BUCKETS,
            ),
            reclaimed: make.counter(
                "pinfold_memory_reclaimed_bytes_total",
                "What was charged to idle servers before their memory was given back, less what was afterwards.",
            ),
            history_dropped: make.counter(
                "pinfold_history_dropped_total",
                "Ends that the history had no room for, or could not write.",
            ),
            registry: make.0,
            pairs: Pairs::default(),
            kept: Kept::new(),
        };
        EVENTS.iter().for_each(|event| counters.events.with_label_values(&[event]).inc_by(0));
        for result in ["granted", "refused", "uncontained"] {
            counters.launches.with_label_values(&[result]).inc_by(0);
        }
        ParkReason::ALL.iter().for_each(|reason| counters.parks.with_label_values(&[reason.word()]).inc_by(0));
        ThawReason::ALL.iter().for_each(|reason| counters.thaws.with_label_values(&[reason.word()]).inc_by(0));
        counters
    }
}

impl Counters {
    /// Something happened.
    pub fn count(&mut self, occurrence: &Occurrence) {
        self.events.with_label_values(&[occurrence.what.word()]).inc();
        let (host, server) = self.pairs.pair(occurrence.host.as_ref(), &occurrence.server);
        let of_server = [host.as_str(), server.as_str()];
        match &occurrence.what {
            What::Launched { launch_seconds, warnings, .. } => {
                self.launches.with_label_values(&["granted"]).inc();
                self.launch_seconds.observe(*launch_seconds);
                self.unheld.inc_by(u64::from(!warnings.is_empty()));
            }
            What::Adopted { .. } => self.adoptions.inc(),
            What::Refused { uncontained, .. } => {
                let result = if *uncontained { "uncontained" } else { "refused" };
                self.launches.with_label_values(&[result]).inc();
            }
            What::Storm { .. } => self.storms.inc(),
            What::MemoryKill { level, kills } => {
                // One death of a leaf may be told in several steps, as the kernel counts on.
                if self.keep(occurrence, *kills) {
                    let level = level.to_string();
                    self.memory_kills.with_label_values(&[level.as_str(), of_server[0], of_server[1]]).inc();
                }
            }
            What::PidsLimit { level } => {
                let level = level.to_string();
                self.pids_limits.with_label_values(&[level.as_str(), of_server[0], of_server[1]]).inc();
            }
            // Its end counts the failure; that it was this one is told by the event's own count. So is what was no launch.
            What::NotExecuted { .. } | What::MovedIn { .. } => {}
            What::Escaped { .. } => self.escapes.inc(),
            What::Trimmed { before_bytes, after_bytes, .. } => {
                self.trims.inc();
                self.reclaimed.inc_by(before_bytes.less(*after_bytes).0);
            }
            What::Parked { reason, before_bytes, after_bytes, .. } => {
                self.parks.with_label_values(&[reason.word()]).inc();
                self.reclaimed.inc_by(before_bytes.less(*after_bytes).0);
            }
            What::Thawed { reason, thaw_seconds, .. } => {
                self.thaws.with_label_values(&[reason.word()]).inc();
                if let Some(seconds) = thaw_seconds {
                    self.thaw_seconds.observe(*seconds);
                }
            }
            What::Ended(ended) => self.count_end(occurrence, ended, of_server),
        }
    }

    fn count_end(&mut self, occurrence: &Occurrence, ended: &Ended, of_server: [&str; 2]) {
        let Ended { outcome, end_seconds, .. } = ended;
        self.ends.with_label_values(&[outcome.cause.word(), of_server[0], of_server[1]]).inc();
        // So that it can be told from nothing of the kind, it is there with the first end.
        self.kills.with_label_values(&of_server).inc_by(u64::from(outcome.killed));
        if let Some(seconds) = end_seconds {
            self.end_seconds.observe(*seconds);
        }
        if let Some(bytes) = outcome.memory_bytes {
            self.given_back.inc_by(bytes.0);
        }
        let leaves = occurrence.key.as_ref().and_then(|key| self.kept.get_mut(key));
        if let Some(leaves) = leaves
            && let Some(kills) = leaves.remove(&occurrence.leaf)
        {
            *leaves.entry(None).or_default() += kills;
        }
    }

    /// Whether these are the first kills of the leaf.
    fn keep(&mut self, occurrence: &Occurrence, kills: u64) -> bool {
        let (Some(key), Some(leaf)) = (&occurrence.key, &occurrence.leaf) else { return true };
        let leaves = self.kept.entry(key.clone()).or_default();
        let before = leaves.insert(Some(leaf.clone()), kills);
        if let Some(before) = before.filter(|before| *before > kills) {
            leaves.insert(Some(leaf.clone()), before);
        }
        before.is_none()
    }

    /// A session is over.
    pub fn forget(&mut self, key: &str) {
        self.kept.remove(key);
    }

    /// Counts the ends that are missing in the history.
    pub fn history_dropped(&self) -> IntCounter {
        self.history_dropped.clone()
    }

    /// What was told of leaves whose own counters may be gone.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// The names that labels have.
    pub fn pairs(&self) -> &Pairs {
        &self.pairs
    }

    /// Where the counts can be read while they are counted.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }
}
