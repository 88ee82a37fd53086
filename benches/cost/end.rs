//! An end at once, of so many processes: from the moment it is ordered until the kernel says that nobody is there.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::figures::{Samples, Table};
use crate::machine::{Machine, SERVER, Server, end_by, reap, timed};
use crate::progress::Progress;
use crate::raw::{emptied, events};
use crate::rounds::{Contender, Interrupt, PAUSE, paced};

const RAW: &str = "the kernel's own: cgroup.kill";
const TOLD: &str = "the same, by a thread that sleeps until it is told to over a socket";
const OURS: &str = "pinfold, from the request on";
const LOOP: &str = "kill of the process group until it is gone";

/// How many processes, and how many rounds of them.
const SIZES: [(usize, usize); 4] = [(1, 60), (10, 60), (100, 30), (1000, 8)];

/// How long a thread has to go to sleep.
const ASLEEP: Duration = Duration::from_millis(5);

/// Rounds of a short run: it only shows that all of it works.
const SHORT: usize = 2;

/// Waits until a directory is empty while somebody orders that, and tells how long it took from the order on.
pub fn timed_end<T: Send>(
    directory: &std::path::Path,
    order: impl FnOnce() -> Fallible<T> + Send,
) -> Fallible<(Duration, T)> {
    let events = events(directory)?;
    std::thread::scope(|scope| {
        let ordering = scope.spawn(move || {
            let start = Instant::now();
            order().map(|done| (start, done)).map_err(|error| error.to_string())
        });
        let empty = emptied(&events)?;
        let (start, done) = ordering.join().map_err(|_| "the order panicked")??;
        Ok((empty.saturating_duration_since(start), done))
    })
}

pub fn tables(machine: &Machine, short: bool, said: (&Progress, &Interrupt)) -> Fallible<Vec<Table>> {
    let mut made = Vec::new();
    for (processes, rounds) in SIZES {
        made.push(table(machine, processes, if short { SHORT } else { rounds }, said)?);
    }
    Ok(made)
}

fn table(machine: &Machine, processes: usize, rounds: usize, said: (&Progress, &Interrupt)) -> Fallible<Table> {
    let wanted = processes.to_string();
    let (raw, group) = (machine.raw.child("end"), machine.raw.child("group"));
    // Beside what is shown: until the reply, which waits for the last readings and the removal; and what a loop left.
    let (mut replies, mut left) = (Samples::default(), Samples::default());
    let by_kill = || {
        raw.make(SERVER, false)?;
        let server = Server::start(raw.command(&machine.sleeper)?.arg(&wanted))?;
        let (took, ()) = timed_end(&raw.v2, || raw.kill())?;
        Server::reap([server])?;
        raw.remove()?;
        Ok(took)
    };
    let by_thread = || {
        raw.make(SERVER, false)?;
        let server = Server::start(raw.command(&machine.sleeper)?.arg(&wanted))?;
        let (mut order, mut told) = UnixStream::pair()?;
        let took = std::thread::scope(|scope| -> Fallible<Duration> {
            let killing = scope.spawn(|| told.read_exact(&mut [0]).is_ok() && raw.kill().is_ok());
            std::thread::sleep(ASLEEP);
            let (took, ()) = timed_end(&raw.v2, || Ok(order.write_all(b"k")?))?;
            if killing.join().unwrap_or(false) { Ok(took) } else { Err("the thread did not kill".into()) }
        })?;
        Server::reap([server])?;
        raw.remove()?;
        Ok(took)
    };
    let by_request = || {
        let session = machine.name();
        let server = Server::start(machine.run(&session).arg(&machine.sleeper).arg(&wanted))?;
        let mut client = machine.client()?;
        let leaf = leaf_of(machine, &session)?;
        let (took, reply) = timed_end(&leaf, || {
            let start = Instant::now();
            end_by(&mut client, Some(&session)).map(|_| start.elapsed())
        })?;
        Server::reap([server])?;
        replies.add(reply);
        Ok(took)
    };
    let by_command = || {
        let session = machine.name();
        let server = Server::start(machine.run(&session).arg(&machine.sleeper).arg(&wanted))?;
        let mut command = std::process::Command::new(&machine.pinfold);
        let took = timed(command.arg("end").arg("--socket").arg(machine.socket()).args(["--now", &session]))?;
        Server::reap([server])?;
        Ok(took)
    };
    let by_loop = || {
        group.make(SERVER, false)?;
        let mut command = group.command(&machine.sleeper)?;
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let server = Server::start(command.arg(&wanted).stderr(Stdio::null()))?;
        let target = nix::unistd::Pid::from_raw(server.child.id() as i32);
        let start = Instant::now();
        // The leader is ours to reap, as it is its host's.
        while nix::sys::signal::killpg(target, nix::sys::signal::Signal::SIGKILL).is_ok() {
            reap();
        }
        let took = start.elapsed();
        left.add_number(group.processes() as f64);
        group.kill()?;
        emptied(&events(&group.v2)?)?;
        reap();
        group.remove()?;
        Ok(took)
    };
    let mut contenders = [
        Contender::new(RAW, by_kill),
        Contender::new(TOLD, by_thread),
        Contender::new(OURS, by_request),
        Contender::new("pinfold end --now, the command as a whole", by_command),
        Contender::new(LOOP, by_loop),
    ];
    let title = format!("end of {processes}");
    let mut rows = paced((&title, PAUSE), &mut contenders, rounds, said)?;
    drop(contenders);
    rows.insert(3, ("pinfold, until it has read, removed and replied".into(), replies, String::new()));
    let left = left.median();
    if let Some((.., note)) = rows.iter_mut().find(|(label, ..)| label == LOOP) {
        *note = format!("leaves {left} of {processes} alive");
    }
    let noun = if processes == 1 { "process" } else { "processes" };
    Ok(Table::of(&format!("End of {processes} {noun}"), "ms", RAW, &rows))
}

/// The v2 directory of the only leaf of a session.
fn leaf_of(machine: &Machine, session: &str) -> Fallible<std::path::PathBuf> {
    let directory = machine.session_directory(session)?;
    let leaves = std::fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let leaf = leaves.flatten().map(|leaf| leaf.path()).find(|leaf| leaf.join("cgroup.events").exists());
    leaf.ok_or_else(|| format!("session {session} has no leaf").into())
}
