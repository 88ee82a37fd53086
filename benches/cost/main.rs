//! What pinfold costs, beside what the kernel itself needs and what one would take instead. `benches/run` starts it.
//!
//! All of it happens in cgroups of its own, which are gone afterwards, also after an interrupt.

mod chart;
mod end;
mod exporter;
mod figures;
mod guest;
mod launch;
mod load;
mod machine;
mod progress;
mod raw;
mod report;
mod rounds;
mod standing;

use std::path::PathBuf;

use exporter::Exporter;
use figures::{About, Run};
use machine::Machine;
use progress::Progress;
use rounds::Interrupt;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: benches/run [--short] [--only launch|end|load|sessions]... [--up-to N] [--json FILE]
                   [--write]
       benches/run --vm [--short] [--write]
       benches/run --render

  --short      few rounds and sessions: shows that all of it works
  --only PART  this part, and others that are named; the rest of what is written stays as it is
  --up-to N    at most so many sessions; 5000 have 15,000 processes
  --json FILE  write the figures there
  --write      write them to docs/cost/native.json, and docs/cost.md, the charts and the README from it
  --vm         in emulated machines with systemd, beside its own tools
  --render     measure nothing, and write those from the figures that are there";

/// What is measured, in this order.
const PARTS: [&str; 4] = ["launch", "end", "load", "sessions"];

#[derive(Debug, Default)]
struct Wanted {
    short: bool,
    only: Vec<String>,
    json: Option<PathBuf>,
    write: bool,
    render: bool,
    /// We are in a machine of `--vm`.
    guest: bool,
    /// Figures that one of those wrote.
    shown: Vec<PathBuf>,
    up_to: Option<usize>,
}

impl Wanted {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut wanted = Self::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value\n{USAGE}"));
            match word.as_str() {
                "--short" => wanted.short = true,
                "--only" => wanted.only.push(value()?),
                "--json" => wanted.json = Some(value()?.into()),
                "--write" => wanted.write = true,
                "--render" => wanted.render = true,
                // What benches/run itself asks for.
                "--guest" => wanted.guest = true,
                "--show" => wanted.shown.push(value()?.into()),
                "--up-to" => {
                    let number = value()?;
                    wanted.up_to = Some(number.parse().map_err(|_| format!("{number:?} is no number\n{USAGE}"))?);
                }
                // What `cargo bench` adds.
                "--bench" => {}
                "--help" => {
                    println!("{USAGE}");
                    std::process::exit(0);
                }
                other => return Err(format!("{other:?} is not known\n{USAGE}")),
            }
        }
        match wanted.only.iter().find(|part| !PARTS.contains(&part.as_str())) {
            Some(part) => Err(format!("there is no part {part:?}\n{USAGE}")),
            None => Ok(wanted),
        }
    }

    fn has(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}

fn main() {
    let wanted = Wanted::parse(std::env::args().skip(1)).unwrap_or_else(|usage| {
        eprintln!("{usage}");
        std::process::exit(2);
    });
    if let Err(error) = run(&wanted) {
        eprintln!("benches/run: {error}");
        std::process::exit(1);
    }
}

fn run(wanted: &Wanted) -> Fallible<()> {
    for path in &wanted.shown {
        println!("{}", report::text(&serde_json::from_slice(&std::fs::read(path)?)?));
    }
    if wanted.render {
        return report::write_all();
    }
    if !wanted.shown.is_empty() {
        return Ok(());
    }
    if wanted.guest {
        let json = serde_json::to_string_pretty(&guest::run(pinfold()?, wanted.short)?)? + "\n";
        return Ok(std::fs::write(wanted.json.as_ref().ok_or("--guest wants --json")?, json)?);
    }
    if wanted.write && wanted.short {
        return Err("--write is for figures that mean something: leave --short out".into());
    }
    let mut run = measure(wanted)?;
    print!("{}", report::text(&run));
    let native = report::directory().join("native.json");
    if wanted.write && !wanted.only.is_empty() && native.exists() {
        run.complete(serde_json::from_slice(&std::fs::read(&native)?)?);
    }
    let json = serde_json::to_string_pretty(&run)? + "\n";
    if let Some(path) = &wanted.json {
        std::fs::write(path, &json)?;
    }
    if wanted.write {
        std::fs::create_dir_all(report::directory())?;
        std::fs::write(native, &json)?;
        report::write_all()?;
    }
    Ok(())
}

fn measure(wanted: &Wanted) -> Fallible<Run> {
    let (interrupt, progress) = (Interrupt::catch()?, Progress::new());
    let said = (&progress, &interrupt);
    let mut machine = Machine::set_up(pinfold()?)?;
    let mut run = Run { about: About::here(machine.layout.word(), wanted.short)?, ..Run::default() };
    machine.start_daemon()?;
    if wanted.has("launch") {
        let rounds = if wanted.short { 3 } else { 200 };
        let made = launch::tables(&machine, rounds, said, &mut run.missing);
        run.tables.extend(had(made, "launch", said.1, &mut run.missing)?);
    }
    if wanted.has("end") {
        let made = end::tables(&machine, wanted.short, said);
        run.tables.extend(had(made, "end", said.1, &mut run.missing)?);
    }
    if wanted.has("load") {
        let made = load::table(&machine, wanted.short, said).map(|table| vec![table]);
        run.tables.extend(had(made, "load", said.1, &mut run.missing)?);
    }
    if wanted.has("sessions") {
        // One that has done nothing yet: what is charged to it is for what is there.
        machine.stop_daemon()?;
        machine.start_daemon()?;
        let (steps, rounds): (&[usize], _) =
            if wanted.short { (&[0, 20], 2) } else { (&[0, 10, 100, 500, 1000, 5000], 15) };
        let most = standing::most()?;
        if steps.last().is_some_and(|last| *last > most) {
            run.missing.push(format!("more than {most} sessions: so many descriptors may a process have here"));
        }
        let steps: Vec<usize> =
            steps.iter().copied().filter(|step| *step <= most.min(wanted.up_to.unwrap_or(most))).collect();
        let exporter = Exporter::start(&machine);
        if let Err(error) = &exporter {
            run.missing.push(format!("{}: {error}", exporter::NAME));
        }
        let beside = exporter.ok();
        run.curve = standing::curve((&machine, beside.as_ref()), &steps, rounds, said, &mut run.missing)?;
    }
    machine.stop_daemon()?;
    Ok(run)
}

fn pinfold() -> Fallible<PathBuf> {
    Ok(std::env::var_os("PINFOLD").map(PathBuf::from).ok_or("PINFOLD names no program to measure")?)
}

/// What a part measured. One that fails is told as missing: what the others take minutes for is not lost with it.
fn had<T: Default>(measured: Fallible<T>, part: &str, interrupt: &Interrupt, missing: &mut Vec<String>) -> Fallible<T> {
    interrupt.check()?;
    Ok(measured.unwrap_or_else(|error| {
        missing.push(format!("{part}: {error}"));
        T::default()
    }))
}
