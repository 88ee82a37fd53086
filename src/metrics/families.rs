//! From a picture to families of samples. Each HELP states the formula.

use std::collections::BTreeMap;

use super::encode::{self, Family, Kind};
use super::pairs::Pairs;
use super::seen::Seen;
use super::{Hits, Own, Picture, Reading};
use crate::snapshot::{ActivityView, MemoryView, PressureView, StallView};
use crate::wire::{Description, LimitState};

/// A label and its value.
type Label<'a> = (&'static str, &'a str);

/// The families of one scrape, by the two parts of their names.
#[derive(Default)]
struct Families(BTreeMap<(&'static str, &'static str), Family>);

impl Families {
    /// Adds a sample to a family. `labels` are as [`encode::labels`] writes them.
    fn add(
        &mut self,
        name: (&'static str, &'static str),
        (kind, help): (Kind, &'static str),
        labels: &str,
        value: f64,
    ) {
        let family = self.0.entry(name).or_insert_with(|| Family::new([name.0, name.1].concat(), help, kind));
        family.add(labels, value);
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[Label<'_>], value: f64) {
        self.add((name, ""), (Kind::Gauge, help), &encode::labels(labels), value);
    }

    fn counter(&mut self, name: &'static str, help: &'static str, labels: &[Label<'_>], value: f64) {
        self.add((name, ""), (Kind::Counter, help), &encode::labels(labels), value);
    }
}

/// One session, or one server.
struct Subject<'a> {
    /// How the names of its families begin.
    level: &'static str,
    /// As they stand in each of its samples.
    labels: String,
    memory: &'a MemoryView,
    activity: &'a ActivityView,
    pressure: &'a PressureView,
    processes: u32,
    hits: Hits,
    seen: Seen,
}

/// A family that sessions and servers have: what follows `pinfold_session_` or `pinfold_server_`, its formula, its value.
type Each = (&'static str, &'static str, fn(&Subject<'_>) -> Option<f64>);

const GAUGES: [Each; 13] = [
    (
        "memory_rss_bytes",
        "Resident memory: anon + file_mapped of memory.stat on cgroup v2, total_rss + total_mapped_file on v1.",
        |of| bytes(of.memory.rss_bytes),
    ),
    (
        "memory_working_set_bytes",
        "What cannot be given back without loss: memory.current - inactive_file on cgroup v2, memory.usage_in_bytes - \
         total_inactive_file on v1.",
        |of| bytes(of.memory.working_set_bytes),
    ),
    (
        "memory_current_bytes",
        "All that is charged, page cache included: memory.current on cgroup v2, memory.usage_in_bytes on v1.",
        |of| bytes(of.memory.current_bytes),
    ),
    (
        "memory_anon_bytes",
        "Memory of processes that stands for no file: anon of memory.stat on cgroup v2, total_rss on v1.",
        |of| bytes(of.memory.anon_bytes),
    ),
    (
        "memory_file_bytes",
        "Page cache, tmpfs and shared memory included: file of memory.stat on cgroup v2, total_cache on v1.",
        |of| bytes(of.memory.file_bytes),
    ),
    ("memory_shmem_bytes", "tmpfs and shared memory: shmem of memory.stat on cgroup v2, total_shmem on v1.", |of| {
        bytes(of.memory.shmem_bytes)
    }),
    (
        "memory_kernel_bytes",
        "The kernel's own memory for it: kernel of memory.stat on cgroup v2, memory.kmem.usage_in_bytes on v1.",
        |of| bytes(of.memory.kernel_bytes),
    ),
    ("memory_swap_bytes", "Swapped out: memory.swap.current on cgroup v2, total_swap of memory.stat on v1.", |of| {
        bytes(of.memory.swap_bytes)
    }),
    (
        "memory_peak_bytes",
        "The most that was ever charged: memory.peak on cgroup v2, memory.max_usage_in_bytes on v1.",
        |of| bytes(of.memory.peak_bytes),
    ),
    (
        "memory_limit_bytes",
        "Its memory limit: memory.max on cgroup v2, memory.limit_in_bytes on v1; absent where there is none.",
        |of| bytes(of.memory.max_bytes),
    ),
    ("processes", "Processes: the lines of cgroup.procs of its leaves and of the cgroups in them.", |of| {
        Some(f64::from(of.processes))
    }),
    (
        "start_time_seconds",
        "When it was launched, in seconds since 1970; of a session the first launch among the servers that scrapes have \
         seen.",
        |of| Some(of.seen.started),
    ),
    (
        "last_activity_time_seconds",
        "The time of the last scrape that saw its CPU time or its I/O bytes move, or saw it for the first time, in seconds \
         since 1970.",
        |of| Some(of.seen.active),
    ),
];

const COUNTERS: [Each; 6] = [
    ("cpu_seconds_total", "CPU time of all its processes, of those too that are gone: usage_usec of cpu.stat.", |of| {
        of.activity.cpu_seconds
    }),
    (
        "io_read_bytes_total",
        "Read from disks: the sum of rbytes of io.stat over all devices; absent where the io controller is not.",
        |of| bytes(of.activity.read_bytes),
    ),
    (
        "io_written_bytes_total",
        "Written to disks: the sum of wbytes of io.stat over all devices; absent where the io controller is not.",
        |of| bytes(of.activity.written_bytes),
    ),
    (
        "memory_kills_total",
        "Kills in it for memory as the kernel counts them, by whosever limit: oom_kill of memory.events on cgroup v2, where \
         the first of those that are killed with their whole leaf counts twice; on v1 of memory.oom_control of its leaves, with \
         what leaves that ended had told to this daemon.",
        |of| of.hits.memory_kills.map(|kills| kills as f64),
    ),
    (
        "memory_limit_hits_total",
        "Times that a charge met the memory limit: max of memory.events on cgroup v2, with those of the limits below it; \
         memory.failcnt on v1, of its own limit, which not every kernel counts.",
        |of| of.hits.memory_limit.map(|hits| hits as f64),
    ),
    (
        "pids_limit_hits_total",
        "Forks that were refused by its own process limit: max of pids.events.local, or of pids.events where there is no \
         such file.",
        |of| of.hits.pids_limit.map(|hits| hits as f64),
    ),
];

const PRESSURE: &str = "For how long its processes have waited for a resource, in seconds: total of memory.pressure, \
                        cpu.pressure and io.pressure; some: at least one of them, full: all that wanted to run. Absent \
                        where the kernel has no pressure stall information.";

fn bytes(of: Option<crate::limits::Bytes>) -> Option<f64> {
    of.map(|bytes| bytes.0 as f64)
}

impl Families {
    fn subject(&mut self, of: &Subject<'_>) {
        let level = of.level;
        for (name, help, value) in GAUGES {
            if let Some(value) = value(of) {
                self.add((level, name), (Kind::Gauge, help), &of.labels, value);
            }
        }
        for (name, help, value) in COUNTERS {
            if let Some(value) = value(of) {
                self.add((level, name), (Kind::Counter, help), &of.labels, value);
            }
        }
        let PressureView { memory, cpu, io } = of.pressure;
        for (resource, StallView { some_seconds, full_seconds }) in [("memory", memory), ("cpu", cpu), ("io", io)] {
            for (kind, seconds) in [("some", some_seconds), ("full", full_seconds)] {
                if let Some(seconds) = seconds {
                    let labels = format!("{},{}", of.labels, encode::labels(&[("resource", resource), ("kind", kind)]));
                    self.add((level, "pressure_seconds_total"), (Kind::Counter, PRESSURE), &labels, *seconds);
                }
            }
        }
    }

    fn session(&mut self, reading: &Reading, with_id: bool) {
        let view = &reading.view;
        self.subject(&Subject {
            level: "pinfold_session_",
            labels: encode::labels(&[("session", &view.key)]),
            memory: &view.memory,
            activity: &view.activity,
            pressure: &view.pressure,
            processes: view.processes,
            hits: reading.hits,
            seen: reading.seen,
        });
        let (uid, owner) = (view.uid.to_string(), view.owner_pid.map_or_else(String::new, |pid| pid.to_string()));
        let mut labels = vec![
            ("session", view.key.as_str()),
            ("host", view.host.as_ref().map_or(super::UNKNOWN, |host| host.as_str())),
            ("uid", &uid),
            ("owner_pid", &owner),
            ("cgroup", &view.cgroup),
            ("backend", &view.backend),
        ];
        if with_id {
            labels.push(("id", view.id.as_str()));
        }
        self.gauge("pinfold_session_info", SESSION_INFO, &labels, 1.0);
        for (server, (hits, seen)) in view.servers.iter().zip(&reading.servers) {
            let names = [("session", view.key.as_str()), ("server", server.name.as_str()), ("leaf", &server.leaf)];
            let leader = server.leader_pid.to_string();
            let facts = [("leader_pid", leader.as_str()), ("cgroup", &server.cgroup)];
            self.gauge("pinfold_server_info", SERVER_INFO, &[&names[..], &facts].concat(), 1.0);
            self.subject(&Subject {
                level: "pinfold_server_",
                labels: encode::labels(&names),
                memory: &server.memory,
                activity: &server.activity,
                pressure: &server.pressure,
                processes: server.processes,
                hits: *hits,
                seen: *seen,
            });
        }
    }

    /// Sessions, servers and processes by their names, those without series of their own included.
    fn numbers(&mut self, picture: &Picture, pairs: &mut Pairs) {
        let (mut sessions, mut servers) = (BTreeMap::<String, f64>::new(), BTreeMap::<_, (f64, f64)>::new());
        let shown = picture.sessions.iter().map(|reading| {
            let servers = reading.view.servers.iter().map(|server| (&server.name, server.processes));
            (reading.view.host.as_ref(), servers.collect::<Vec<_>>())
        });
        let omitted = picture.omitted.iter().map(|session| {
            let servers = session.servers.iter().map(|(name, processes)| (name, *processes));
            (session.host.as_ref(), servers.collect::<Vec<_>>())
        });
        for (host, of_session) in shown.chain(omitted) {
            *sessions.entry(pairs.host(host)).or_default() += 1.0;
            for (server, processes) in of_session {
                let (count, sum) = servers.entry(pairs.pair(host, server)).or_default();
                *count += 1.0;
                *sum += f64::from(processes);
            }
        }
        for (host, count) in sessions {
            self.gauge("pinfold_sessions", "Sessions that live.", &[("host", &host)], count);
        }
        for ((host, server), (count, processes)) in servers {
            let labels = [("host", host.as_str()), ("server", server.as_str())];
            self.gauge("pinfold_servers", "Servers that live.", &labels, count);
            self.gauge(
                "pinfold_processes",
                "Processes in the leaves of servers: see cgroup.procs.",
                &labels,
                processes,
            );
        }
    }

    fn machine(&mut self, picture: &Picture, description: &Description) {
        let Description { version, backend, layout, limits, .. } = description;
        let build = [("version", version.as_str()), ("backend", backend), ("layout", layout)];
        self.gauge(
            "pinfold_build_info",
            "What this daemon is, who makes its cgroups, and in which layout.",
            &build,
            1.0,
        );
        for (limit, state) in limits {
            let held = match state {
                LimitState::Holds => 1.0,
                LimitState::Missing { .. } => 0.0,
                LimitState::NothingToLimit => continue,
            };
            self.gauge("pinfold_limit_held", LIMIT_HELD, &[("limit", limit)], held);
        }
        let omitted = picture.omitted.len() as f64;
        let servers = picture.sessions.iter().flat_map(|reading| &reading.view.servers);
        let reclaimed: u64 = servers.filter_map(|server| server.reclaimed_bytes).map(|bytes| bytes.0).sum();
        for (name, help, value) in [
            (
                "pinfold_sessions_omitted",
                "Sessions without series of their own: beyond sessions_max of [metrics].",
                omitted,
            ),
            ("pinfold_sessions_limit", "The most sessions: sessions_max of [daemon].", f64::from(picture.sessions_max)),
            ("pinfold_servers_limit", "The most servers: servers_max of [daemon].", f64::from(picture.servers_max)),
            (
                "pinfold_parked_servers",
                "Servers that are parked: frozen, with their memory given back.",
                picture.parked as f64,
            ),
            ("pinfold_memory_reclaimed_bytes", RECLAIMED, reclaimed as f64),
            ("pinfold_ending_servers", "Servers whose end is under way.", picture.ending as f64),
            (
                "pinfold_oldest_end_age_seconds",
                "For how long the oldest end that is under way has been so; 0 where none is.",
                picture.oldest_end,
            ),
        ] {
            self.gauge(name, help, &[], value);
        }
        self.counter(
            "pinfold_launches_delayed_total",
            "Launches that had to wait for their turn, because one owner launched too often.",
            &[],
            picture.delayed as f64,
        );
        let machine = picture.machine.unwrap_or_default();
        if let Some(current) = bytes(machine.current_bytes) {
            self.gauge("pinfold_machine_memory_current_bytes", MACHINE_CURRENT, &[], current);
        }
        if let Some(working_set) = bytes(machine.working_set_bytes) {
            self.gauge("pinfold_machine_memory_working_set_bytes", MACHINE_WORKING_SET, &[], working_set);
        }
        if let Some(limit) = bytes(machine.max_bytes) {
            self.gauge("pinfold_machine_memory_limit_bytes", MACHINE_LIMIT, &[], limit);
        }
    }

    fn own(&mut self, own: &Own) {
        let number = |of: Option<u64>| of.map(|number| number as f64);
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Of the daemon itself: VmRSS of /proc/self/status.",
                number(own.rss_bytes),
            ),
            ("process_open_fds", "Of the daemon itself: the entries of /proc/self/fd.", number(own.fds)),
            ("process_max_fds", "Of the daemon itself: the soft RLIMIT_NOFILE.", number(own.fds_max)),
            ("process_threads", "Of the daemon itself: Threads of /proc/self/status.", number(own.threads)),
            (
                "process_start_time_seconds",
                "Of the daemon itself: when it started, in seconds since 1970.",
                Some(own.started),
            ),
        ] {
            if let Some(value) = value {
                self.gauge(name, help, &[], value);
            }
        }
        if let Some(seconds) = own.cpu_seconds {
            let help = "Of the daemon itself: user and system CPU time, as getrusage(2) tells.";
            self.counter("process_cpu_seconds_total", help, &[], seconds);
        }
    }
}

const SESSION_INFO: &str = "1, with the facts of a session as labels: its host, its user, the process that owns the first \
                            of its servers, its cgroup, and who made that; its id where session_ids of [metrics] is true.";
const SERVER_INFO: &str = "1, with the facts of a server as labels: its first process, and its cgroup.";
const LIMIT_HELD: &str = "1 where the kernel holds a limit of this kind here, 0 where it cannot (pinfold doctor says why); \
                          absent where there is nothing of the kind to limit.";
const MACHINE_CURRENT: &str = "Memory charged to the level above all sessions: memory.current on cgroup v2, \
                               memory.usage_in_bytes on v1; absent while there is no session.";
const MACHINE_WORKING_SET: &str = "What of that cannot be given back without loss: memory.current - inactive_file on cgroup v2, \
                                   memory.usage_in_bytes - total_inactive_file on v1; absent while there is no session.";
const MACHINE_LIMIT: &str = "The memory limit of the level above all sessions: memory.max on cgroup v2, \
                             memory.limit_in_bytes on v1; absent where there is none, and while there is no session.";
const RECLAIMED: &str = "What idle servers held when their memory was given back, less what they hold now: memory.current on \
                         cgroup v2, memory.usage_in_bytes on v1; of servers with series of their own.";
const SCRAPE: &str = "How long this very scrape took to read all this.";

/// All that is told of what is, and of how long it took to see; `with_ids` names sessions as their hosts do.
pub fn families(
    picture: &Picture,
    description: &Description,
    mut pairs: Pairs,
    (own, scrape_seconds): (&Own, f64),
    with_ids: bool,
) -> Vec<Family> {
    let mut families = Families::default();
    families.machine(picture, description);
    families.numbers(picture, &mut pairs);
    families.own(own);
    picture.sessions.iter().for_each(|reading| families.session(reading, with_ids));
    families.gauge("pinfold_scrape_duration_seconds", SCRAPE, &[], scrape_seconds);
    families.0.into_values().collect()
}
