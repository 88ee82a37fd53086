//! How many launches a second come through when eight ask at once.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::figures::{Samples, Table};
use crate::machine::{Machine, SERVER, SESSION, timed};
use crate::progress::Progress;
use crate::raw::Level;
use crate::rounds::Interrupt;

const CLIENTS: usize = 8;

/// What ended is cleaned up once it was weighed for a tenth of a second.
const PAUSE: Duration = Duration::from_millis(500);

/// Each launch of ours here is the first of its session.
pub const OURS: &str = "pinfold run, each a session";

const RAW: &str = "the kernel's own: mkdir, limits, cgroup.procs, exec";

/// One of those who ask; it is told who it is and which of its launches this is.
pub type Once<'a> = dyn Fn(usize, usize) -> Fallible<()> + Sync + 'a;

/// Our launches beside the kernel's own.
pub fn table(machine: &Machine, short: bool, said: (&Progress, &Interrupt)) -> Fallible<Table> {
    let (rounds, span) = if short { (1, Duration::from_millis(500)) } else { (8, Duration::from_secs(2)) };
    let by_hand = |client: usize, number: usize| raw(&machine.raw.child(&format!("load-{client}-{number}")));
    let plain = |_: usize, _: usize| timed(&mut Command::new("true")).map(drop);
    let ours = |_: usize, _: usize| timed(machine.run(&machine.name()).arg("true")).map(drop);
    rates(RAW, &[("plain exec", &plain), (RAW, &by_hand), (OURS, &ours)], (rounds, span, PAUSE), said)
}

/// How many of each come through in a second, in rounds of this span, with this pause before each.
pub fn rates(
    base: &str,
    contenders: &[(&str, &Once<'_>)],
    (rounds, span, pause): (usize, Duration, Duration),
    (progress, interrupt): (&Progress, &Interrupt),
) -> Fallible<Table> {
    let mut rows: Vec<_> =
        contenders.iter().map(|(label, _)| ((*label).to_owned(), Samples::default(), String::new())).collect();
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    for round in 0..rounds {
        fastrand::shuffle(&mut order);
        progress.say(&format!("eight clients: round {round} of {rounds}"));
        for at in &order {
            interrupt.check()?;
            std::thread::sleep(pause);
            rows[*at].1.add_number(rate(contenders[*at].1, span)?);
        }
    }
    Ok(Table::of("Launches a second, with eight clients", "1/s", base, &rows))
}

fn rate(once: &Once<'_>, span: Duration) -> Fallible<f64> {
    let start = Instant::now();
    let counts: Result<Vec<usize>, String> = std::thread::scope(|scope| {
        let client = |client: usize| {
            move || -> Result<usize, String> {
                let mut count = 0;
                while start.elapsed() < span {
                    once(client, count).map_err(|error| error.to_string())?;
                    count += 1;
                }
                Ok(count)
            }
        };
        let threads: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(client(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a client panicked".into()))).collect()
    });
    Ok(counts?.iter().sum::<usize>() as f64 / start.elapsed().as_secs_f64())
}

fn raw(session: &Level) -> Fallible<()> {
    let leaf = session.child("leaf");
    session.make(SESSION, true)?;
    leaf.make(SERVER, false)?;
    timed(&mut leaf.command(Path::new("true"))?)?;
    leaf.remove()?;
    session.remove()
}
