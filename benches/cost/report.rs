//! What is shown of a run: on the terminal, in `docs/cost.md`, and in the README between two marks.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::Fallible;
use crate::chart::{self, number};
use crate::exporter;
use crate::figures::{About, Point, Run, Table};

/// The marks between which the README is written anew.
const BEGIN: &str = "<!-- Written by `benches/run --write`. -->\n";
const END: &str = "<!-- Until here. -->\n";

/// Where the figures of the repository are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cost")
}

/// What a row of a table may cost at most, as a ratio to the base; by the beginnings of title and label.
const BARS: [(&str, &str, f64); 6] = [
    ("Launch, 130 ms apart", "pinfold run", 1.3),
    ("End of ", "pinfold, from the request", 1.2),
    ("Launch of `true`", "pinfold run", 0.5),
    ("Scrape", "pinfold", 2.0),
    ("One more launch", "pinfold", 1.3),
    ("One more end", "pinfold", 1.2),
];

fn bar(title: &str, label: &str) -> Option<f64> {
    let fits = |(of, who, _): &&(&str, &str, f64)| title.starts_with(of) && label.starts_with(who);
    BARS.iter().find(fits).map(|(.., bar)| *bar)
}

fn verdict(title: &str, label: &str, ratio: f64) -> String {
    bar(title, label).map_or_else(String::new, |bar| {
        let held = if ratio <= bar { "held" } else { "missed" };
        format!("≤ {bar}: {held}")
    })
}

fn sentence(About { machine, kernel, cpus, layout, short, load }: &About) -> String {
    let machine = if machine.is_empty() { String::new() } else { format!("{machine}; ") };
    let cut =
        if *short { " A short run: it shows that all of it works, and no figure of it means anything." } else { "" };
    format!("{machine}{cpus} CPUs, Linux {kernel}, cgroups {layout}; load average {load:.1} before it began.{cut}")
}

/// Tables for a terminal or a pipe.
pub fn text(run: &Run) -> String {
    let mut text = format!("{}\n", sentence(&run.about));
    for table in run.tables.iter().chain(&curve_tables(&run.curve)) {
        let _ = writeln!(text, "\n{} ({})", table.title, table.unit);
        let width = table.rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0);
        for row in &table.rows {
            let (median, p99, ratio) = (number(row.median), number(row.p99), number(row.ratio));
            let verdict = verdict(&table.title, &row.label, row.ratio);
            let line = format!("  {:width$} {median:>8} {p99:>8} {ratio:>7}×  {verdict} {}", row.label, row.note);
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text.push_str(&at_rest(&run.curve));
    for missing in &run.missing {
        let _ = writeln!(text, "\nnot measured here: {missing}");
    }
    text
}

/// What was measured at each number of sessions, as tables of the same form.
fn curve_tables(curve: &[Point]) -> Vec<Table> {
    let row = |label: &str, median: f64, p99: f64, base: f64| crate::figures::Row {
        label: label.into(),
        samples: 0,
        median,
        p99,
        ratio: median / base,
        against: String::new(),
        note: String::new(),
    };
    let mut tables = Vec::new();
    for point in curve.iter().filter(|point| point.sessions > 0) {
        let sessions = point.sessions;
        let mut rows = vec![
            row(
                &format!("open, read and close of {} files", point.raw_files),
                point.raw_read,
                f64::NAN,
                point.raw_read,
            ),
            row("pinfold, GET /metrics", point.scrape, point.scrape_p99, point.raw_read),
        ];
        if point.raw_kept > 0.0 {
            rows.insert(1, row("read on descriptors of all of them, kept", point.raw_kept, f64::NAN, point.raw_read));
        }
        if let Some(other) = &point.exporter {
            let label = format!("{}, a group for each cgroup", exporter::NAME);
            rows.push(row(&label, other.scrape, other.scrape_p99, point.raw_read));
        }
        let (title, base) = (format!("Scrape of {sessions} sessions of three servers"), rows[0].label.clone());
        tables.push(Table { title, base, unit: "ms".into(), rows });
        for (what, ours, raw) in
            [("launch", point.launch, point.raw_launch), ("end of three servers", point.end, point.raw_end)]
        {
            let rows = vec![row("the kernel's own", raw, f64::NAN, raw), row("pinfold", ours, f64::NAN, raw)];
            let title = format!("One more {what} beside {sessions} sessions");
            tables.push(Table { title, base: rows[0].label.clone(), unit: "ms".into(), rows });
        }
    }
    tables
}

/// The page with all of it.
pub fn page(runs: &[Run]) -> String {
    let mut page = String::from(
        "# What it costs\n\nWritten by `benches/run --write`; the figures are in `docs/cost/*.json`. In every round each thing \
         is done once, in random order, so that what else the machine does falls on all of them: read the ratios first. \
         A ratio is that of two medians, to the kernel's own or else to the first row that says 1.00; a further launch is \
         compared with a further one. Of rates, as launches a second, p99 is the best of them.\n",
    );
    for run in runs {
        let _ = writeln!(page, "\n## {}\n", sentence(&run.about));
        for table in run.tables.iter().chain(&curve_tables(&run.curve)) {
            let Table { title, unit, .. } = table;
            let _ =
                writeln!(page, "\n### {title}\n\n| | median {unit} | p99 {unit} | ratio | |\n|---|---:|---:|---:|---|");
            for row in &table.rows {
                let (median, p99, ratio) = (number(row.median), number(row.p99), number(row.ratio));
                let said = [verdict(title, &row.label, row.ratio), row.note.clone()];
                let said = said.iter().filter(|said| !said.is_empty()).cloned().collect::<Vec<_>>().join("; ");
                let _ = writeln!(page, "| {} | {median} | {p99} | {ratio} | {said} |", row.label);
            }
        }
        page.push_str(&rest(&run.curve));
        for missing in &run.missing {
            let _ = writeln!(page, "\nNot measured here: {missing}.");
        }
    }
    page
}

/// What is told of the daemon at rest, for a terminal and for a page; and of what one would take instead.
type Column = (&'static str, &'static str, fn(&Point) -> String);
const AT_REST: [Column; 13] = [
    ("sessions", "sessions", |point| point.sessions.to_string()),
    ("cgroup MiB", "its cgroup MiB", |point| mib(point.cgroup_bytes)),
    ("kernel MiB", "of that the kernel's", |point| mib(point.kernel_bytes)),
    ("kept MiB", "after reclaim", |point| mib(point.kept_bytes)),
    ("its kernel", "of that the kernel's", |point| mib(point.kept_kernel_bytes)),
    ("heap", "its heap", |point| mib(point.kept_heap_bytes)),
    ("files", "its files in memory", |point| mib(point.kept_files_bytes)),
    ("RSS MiB", "RSS MiB", |point| mib(point.resident_bytes)),
    ("fds", "descriptors", |point| point.descriptors.to_string()),
    ("wake-ups/s", "wake-ups/s", |point| number(point.wakeups_per_second)),
    ("CPU \u{2030}", "CPU \u{2030}", |point| number(point.idle_cpu_per_mille)),
    ("exporter MiB", "process-exporter: RSS MiB", |point| {
        point.exporter.as_ref().map_or_else(String::new, |other| mib(other.resident_bytes))
    }),
    ("its fds", "its descriptors", |point| {
        point.exporter.as_ref().map_or_else(String::new, |other| other.descriptors.to_string())
    }),
];

const AT_REST_TITLE: &str = "The daemon at rest, sessions of three servers";

fn mib(bytes: u64) -> String {
    number(bytes as f64 / (1 << 20) as f64)
}

fn at_rest(curve: &[Point]) -> String {
    if curve.is_empty() {
        return String::new();
    }
    let line = |cell: &dyn Fn(&Column) -> String| {
        let cells = AT_REST.iter().map(|column| format!("{:>1$}", cell(column), column.0.chars().count().max(6)));
        format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let rows = curve.iter().map(|point| line(&|(.., tell)| tell(point)));
    format!("\n{AT_REST_TITLE}\n{}{}", line(&|(short, ..)| (*short).to_owned()), rows.collect::<String>())
}

fn rest(curve: &[Point]) -> String {
    if curve.is_empty() {
        return String::new();
    }
    let line = |cell: &dyn Fn(&Column) -> String| {
        format!("| {} |\n", AT_REST.iter().map(cell).collect::<Vec<_>>().join(" | "))
    };
    let head = line(&|(_, long, _)| (*long).to_owned());
    let rows = curve.iter().map(|point| line(&|(.., tell)| tell(point)));
    format!("\n### {AT_REST_TITLE}\n\n{head}|{}\n{}", "---:|".repeat(AT_REST.len()), rows.collect::<String>())
}

/// From so many sessions on the README tells of them; the page tells of all.
const MANY: usize = 1000;

/// What the README shows: where we are beside others, and the charts.
fn summary(runs: &[Run]) -> String {
    let mut text = String::from("| | against | ratio | bar |\n|---|---|---:|---|\n");
    for run in runs {
        let most = run.curve.iter().map(|point| point.sessions).max().unwrap_or(0);
        let many = run.curve.iter().filter(|point| point.sessions >= most.min(MANY)).filter(|point| point.sessions > 0);
        let many: Vec<Point> = many.cloned().collect();
        for table in run.tables.iter().chain(&curve_tables(&many)) {
            for row in table.rows.iter().filter(|row| bar(&table.title, &row.label).is_some()) {
                let verdict = verdict(&table.title, &row.label, row.ratio);
                let against = if row.against.is_empty() { &table.base } else { &row.against };
                let place =
                    run.about.machine.rsplit_once(", ").map_or(String::new(), |(_, place)| format!(", {place}"));
                let _ = writeln!(
                    text,
                    "| {}: {} | {against}{place} | {} | {verdict} |",
                    table.title,
                    row.label,
                    number(row.ratio)
                );
            }
        }
        for Point { sessions, cgroup_bytes, kept_bytes, wakeups_per_second, .. } in many {
            let whole = format!("The daemon's whole cgroup at {sessions} sessions of three servers");
            for (what, bytes) in
                [(whole.as_str(), cgroup_bytes), ("Of that, what stays when the kernel is short of memory", kept_bytes)]
            {
                let ratio = bytes as f64 / ((8 << 20) + (sessions << 14)) as f64;
                let held = if ratio <= 1.0 { "held" } else { "missed" };
                let ratio = number(ratio);
                let _ = writeln!(text, "| {what} | 8 MiB + 16 KiB a session | {ratio} | ≤ 1: {held} |");
            }
            let _ = writeln!(
                text,
                "| Its wake-ups a second while nothing happens, at {sessions} sessions | none | {} | |",
                number(wakeups_per_second)
            );
        }
    }
    text.push_str("\n![Launches](docs/cost/launch.svg)\n");
    if runs.iter().any(|run| run.curve.len() > 1) {
        text.push_str("\n![What a session costs when there are many](docs/cost/sessions.svg)\n");
    }
    for run in runs {
        let _ = write!(text, "\nMeasured on: {}\n", sentence(&run.about));
    }
    text
}

/// Writes page, charts and README from the figures of the repository.
pub fn write_all() -> Fallible<()> {
    let directory = directory();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let runs: Vec<Run> =
        files.iter().map(|path| Ok(serde_json::from_slice(&std::fs::read(path)?)?)).collect::<Fallible<_>>()?;
    let launches =
        runs.iter().flat_map(|run| &run.tables).filter(|table| table.title.starts_with("Launch, ")).collect::<Vec<_>>();
    std::fs::write(directory.join("launch.svg"), chart::bars(&launches))?;
    if let Some(run) = runs.iter().find(|run| run.curve.len() > 1) {
        std::fs::write(directory.join("sessions.svg"), chart::curves(&run.curve))?;
    }
    std::fs::write(directory.with_extension("md"), page(&runs))?;
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(&readme)?;
    std::fs::write(readme, spliced(&text, &summary(&runs))?)?;
    Ok(())
}

fn spliced(text: &str, summary: &str) -> Fallible<String> {
    let (before, rest) = text.split_once(BEGIN).ok_or("README.md lacks the mark where the figures begin")?;
    let (_, after) = rest.split_once(END).ok_or("README.md lacks the mark where the figures end")?;
    Ok(format!("{before}{BEGIN}{summary}{END}{after}"))
}
