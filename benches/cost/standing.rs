//! What it costs that sessions are there: the daemon's memory, its scrapes, its sleep, and whether one more is dearer.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use rustix::fs::{Mode, OFlags};

use crate::Fallible;
use crate::end::timed_end;
use crate::exporter::Exporter;
use crate::figures::{Exported, Point, Samples};
use crate::launch;
use crate::machine::{Machine, SERVER, SESSION, Server, descriptors, end_by, resident, scrape, timed};
use crate::progress::Progress;
use crate::raw::Level;
use crate::rounds::Interrupt;

/// Servers of a session.
const SERVERS: usize = 3;

/// How long threads that the daemon needed meanwhile stay: tokio's own.
const SETTLE: Duration = Duration::from_secs(11);

/// How long the kernel takes to free what was reclaimed.
const FREED: Duration = Duration::from_secs(3);

/// How long it is watched while nothing happens.
const IDLE: Duration = Duration::from_secs(5);

/// Launchers at a time while sessions are made.
const CLIENTS: usize = 3;

/// Between one measured launch or end and the next.
const PAUSE: Duration = Duration::from_millis(130);

/// More descriptors than these are not kept to show what keeping them would bring.
const KEPT_MAX: usize = 100_000;

/// The files that tell what is told of a level. Those that a kernel does not have are passed over.
const FILES: [&str; 19] = [
    "cpu.stat",
    "io.stat",
    "cpu.pressure",
    "io.pressure",
    "memory.pressure",
    "memory.stat",
    "memory.current",
    "memory.peak",
    "memory.max",
    "memory.swap.current",
    "memory.events",
    "memory.usage_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.limit_in_bytes",
    "memory.kmem.usage_in_bytes",
    "memory.failcnt",
    "memory.oom_control",
    "pids.events",
    "cgroup.procs",
];

/// What the daemon holds for each session at most, and keeps free beside them.
const DESCRIPTORS: (u64, u64) = (18, 600);

/// How many sessions there can be where a process may have no more descriptors than it may here.
pub fn most() -> Fallible<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(usize::try_from(hard.saturating_sub(DESCRIPTORS.1) / DESCRIPTORS.0)?)
}

/// Makes sessions up to each number, and measures at each.
pub fn curve(
    (machine, exporter): (&Machine, Option<&Exporter>),
    steps: &[usize],
    rounds: usize,
    (progress, interrupt): (&Progress, &Interrupt),
    missing: &mut Vec<String>,
) -> Fallible<Vec<Point>> {
    let (mut servers, mut points, mut there): (Vec<Server>, _, _) = (Vec::new(), Vec::new(), 0);
    for wanted in steps {
        let mut measured = || {
            while there < *wanted {
                interrupt.check()?;
                progress.say(&format!("making sessions: {there} of {wanted}"));
                let next = (*wanted).min(there + 30);
                servers.extend(make(machine, there..next)?);
                there = next;
            }
            point((machine, exporter), there, rounds, (progress, interrupt))
        };
        match measured() {
            Ok(point) => points.push(point),
            // What fewer of them cost is known.
            Err(error) => {
                interrupt.check()?;
                missing.push(format!("{wanted} sessions: {error}"));
                break;
            }
        }
    }
    progress.say("ending all sessions");
    match machine.end(None) {
        Ok(_) => Server::reap(servers)?,
        Err(error) => missing.push(format!("the end of all sessions: {error}")),
    }
    Ok(points)
}

/// Sessions by these numbers, each of so many servers.
fn make(machine: &Machine, numbers: std::ops::Range<usize>) -> Fallible<Vec<Server>> {
    let start = |number: usize| -> Result<Vec<Server>, String> {
        let of_session = (0..SERVERS).map(|_| {
            let session = format!("stays-{number}");
            Server::start(machine.run(&session).arg(&machine.sleeper)).map_err(|error| error.to_string())
        });
        of_session.collect()
    };
    let numbers: Vec<usize> = numbers.collect();
    let made: Result<Vec<Vec<Server>>, String> = std::thread::scope(|scope| {
        let share = numbers.len().div_ceil(CLIENTS).max(1);
        let run = |numbers: &[usize]| -> Result<Vec<Server>, String> {
            Ok(numbers
                .iter()
                .map(|number| start(*number))
                .collect::<Result<Vec<_>, _>>()?
                .into_iter()
                .flatten()
                .collect())
        };
        let threads: Vec<_> = numbers.chunks(share).map(|numbers| scope.spawn(move || run(numbers))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a launch panicked".into()))).collect()
    });
    Ok(made?.into_iter().flatten().collect())
}

fn point(
    (machine, exporter): (&Machine, Option<&Exporter>),
    sessions: usize,
    rounds: usize,
    said: (&Progress, &Interrupt),
) -> Fallible<Point> {
    let (progress, interrupt) = said;
    progress.say(&format!("{sessions} sessions: waiting until the daemon sleeps"));
    std::thread::sleep(SETTLE);
    interrupt.check()?;
    let pid = machine.daemon_pid();
    // What was made says nothing of what a scrape leaves behind: both are in it.
    scrape(&machine.socket())?;
    exporter.map_or(Ok(()), |exporter| exporter.scrape().map(drop))?;
    std::thread::sleep(SETTLE);
    interrupt.check()?;
    let rest = exporter.map_or(Ok((0, 0)), Exporter::holds)?;
    let memory = machine.daemon_memory();
    let (wakeups, cpu, start) = (wakeups(pid), cpu(pid), Instant::now());
    std::thread::sleep(IDLE);
    let (woken, used, slept) = (self::wakeups(pid) - wakeups, self::cpu(pid).saturating_sub(cpu), start.elapsed());
    let mut point = Point {
        sessions,
        cgroup_bytes: memory.all,
        kernel_bytes: memory.kernel,
        resident_bytes: resident(pid),
        descriptors: descriptors(pid)?,
        wakeups_per_second: woken as f64 / slept.as_secs_f64(),
        idle_cpu_per_mille: used.as_secs_f64() / slept.as_secs_f64() * 1e3,
        ..Point::default()
    };
    machine.reclaim_daemon()?;
    std::thread::sleep(FREED);
    let kept = machine.daemon_memory();
    (point.kept_bytes, point.kept_kernel_bytes) = (kept.all, kept.kernel);
    (point.kept_heap_bytes, point.kept_files_bytes) = (kept.heap, kept.files);
    // What was taken back is there again.
    scrape(&machine.socket())?;
    read(machine, rounds, &mut point, said)?;
    if let Some(exporter) = exporter {
        point.exporter = Some(beside(exporter, rest, rounds, said.1)?);
    }
    one_more(machine, rounds, &mut point, said)?;
    Ok(point)
}

/// A scrape beside the reads that it takes: each file opened below a directory that is held, and on descriptors that are kept.
fn read(
    machine: &Machine,
    rounds: usize,
    point: &mut Point,
    (progress, interrupt): (&Progress, &Interrupt),
) -> Fallible<()> {
    progress.say(&format!("{} sessions: scrapes", point.sessions));
    let directories = held(machine)?;
    point.raw_files = directories.iter().map(|(_, files)| files.len()).sum();
    let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // The hosts' ends of all pipes are ours, too.
    let may_keep = point.raw_files <= KEPT_MAX.min(usize::try_from(descriptors / 2)?);
    let kept: Vec<File> = if may_keep { keep(&directories)? } else { Vec::new() };
    let (mut scrapes, mut reads, mut from_kept) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..rounds {
        interrupt.check()?;
        let (took, bytes) = scrape(&machine.socket())?;
        scrapes.add(took);
        point.scrape_bytes = bytes;
        reads.add(read_all(&directories)?);
        if !kept.is_empty() {
            let (mut text, start) = ([0; 4096], Instant::now());
            kept.iter().try_for_each(|file| file.read_at(&mut text, 0).map(drop))?;
            from_kept.add(start.elapsed());
        }
    }
    (point.scrape, point.scrape_p99) = (scrapes.median(), scrapes.p99());
    point.raw_read = reads.median();
    point.raw_kept = if kept.is_empty() { 0.0 } else { from_kept.median() };
    Ok(())
}

/// The same by what follows processes without us.
fn beside(
    exporter: &Exporter,
    (resident_bytes, descriptors): (u64, usize),
    rounds: usize,
    interrupt: &Interrupt,
) -> Fallible<Exported> {
    let mut scrapes = Samples::default();
    // The first one finds new processes.
    exporter.scrape()?;
    for _ in 0..rounds {
        interrupt.check()?;
        scrapes.add(exporter.scrape()?);
    }
    Ok(Exported { scrape: scrapes.median(), scrape_p99: scrapes.p99(), resident_bytes, descriptors })
}

type Held = Vec<(OwnedFd, Vec<&'static str>)>;

/// Every directory of a session or a leaf, and the files in it that tell something.
fn held(machine: &Machine) -> Fallible<Held> {
    let mut found = Held::new();
    let mut trees = vec![machine.tree()];
    for own in machine.own() {
        let names = std::fs::read_dir(own)?.flatten().map(|entry| entry.path());
        trees.extend(
            names.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pinfold."))),
        );
    }
    for session in trees.iter().flat_map(|tree| below(tree)) {
        found.push(hold(&session, false)?);
        for leaf in below(&session) {
            found.push(hold(&leaf, true)?);
        }
    }
    Ok(found)
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn hold(directory: &Path, is_leaf: bool) -> Fallible<(OwnedFd, Vec<&'static str>)> {
    // Companions have a `cgroup.procs` that tells nothing new, and of a session it is those of its leaves.
    let is_v2 = directory.join("cgroup.events").exists();
    let told = |file: &&&str| (**file != "cgroup.procs" || (is_leaf && is_v2)) && directory.join(**file).exists();
    let files = FILES.iter().filter(told).copied().collect();
    Ok((rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?, files))
}

fn keep(directories: &Held) -> Fallible<Vec<File>> {
    let open = |fd: &OwnedFd, file: &str| {
        Ok(File::from(rustix::fs::openat(fd, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
    };
    directories.iter().flat_map(|(fd, files)| files.iter().map(move |file| open(fd, file))).collect()
}

fn read_all(directories: &Held) -> Fallible<Duration> {
    let (mut text, start) = ([0; 4096], Instant::now());
    for (fd, files) in directories {
        for file in files {
            let opened = rustix::fs::openat(fd, *file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::pread(&opened, &mut text[..], 0)?;
        }
    }
    Ok(start.elapsed())
}

/// One session more, made and ended among all that are there, beside the kernel's own price for the same.
fn one_more(
    machine: &Machine,
    rounds: usize,
    point: &mut Point,
    (progress, interrupt): (&Progress, &Interrupt),
) -> Fallible<()> {
    let (mut launches, mut by_hand) = (Samples::default(), Samples::default());
    let (mut ends, mut kills) = (Samples::default(), Samples::default());
    let (fresh, end) = (machine.raw.child("fresh"), machine.raw.child("end"));
    for round in 0..rounds {
        interrupt.check()?;
        progress.say(&format!("{} sessions, and one more: round {round} of {rounds}", point.sessions));
        std::thread::sleep(PAUSE);
        by_hand.add(launch::raw(&fresh, true, None)?);
        std::thread::sleep(PAUSE);
        launches.add(timed(machine.run(&machine.name()).arg("true"))?);
        std::thread::sleep(PAUSE);
        ends.add(end_one(machine)?);
        std::thread::sleep(PAUSE);
        kills.add(kill_one(machine, &end)?);
    }
    (point.launch, point.raw_launch) = (launches.median(), by_hand.median());
    (point.end, point.raw_end) = (ends.median(), kills.median());
    Ok(())
}

fn end_one(machine: &Machine) -> Fallible<Duration> {
    let session = machine.name();
    let servers: Vec<Server> =
        (0..SERVERS).map(|_| Server::start(machine.run(&session).arg(&machine.sleeper))).collect::<Fallible<_>>()?;
    let mut client = machine.client()?;
    let (took, _) = timed_end(&machine.session_directory(&session)?, || end_by(&mut client, Some(&session)))?;
    Server::reap(servers)?;
    Ok(took)
}

fn kill_one(machine: &Machine, session: &Level) -> Fallible<Duration> {
    session.make(SESSION, true)?;
    let leaves = ["a", "b", "c"].map(|name| session.child(name));
    let mut servers = Vec::new();
    for leaf in &leaves {
        leaf.make(SERVER, false)?;
        servers.push(Server::start(&mut leaf.command(&machine.sleeper)?)?);
    }
    let (took, ()) = timed_end(&session.v2, || session.kill())?;
    Server::reap(servers)?;
    leaves.iter().try_for_each(Level::remove)?;
    session.remove()?;
    Ok(took)
}

/// How often any of its threads was taken off a CPU so far: each is followed by a wake-up.
fn wakeups(pid: u32) -> u64 {
    let switches = |path: PathBuf| {
        let text = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    tasks(pid).map(switches).sum()
}

/// The CPU time of all its threads.
fn cpu(pid: u32) -> Duration {
    let used = |path: PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0)
    };
    Duration::from_nanos(tasks(pid).map(used).sum())
}

fn tasks(pid: u32) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().map(|entry| entry.path())
}
