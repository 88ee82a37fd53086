//! What was measured, as it is written down: samples become medians and 99th percentiles, and a run is all of its tables.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// All that one run measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// Where.
    pub about: About,
    /// What.
    pub tables: Vec<Table>,
    /// What a session costs when there are this many.
    pub curve: Vec<Point>,
    /// What could not be measured here, and why.
    pub missing: Vec<String>,
}

/// The machine, and how busy it was with other things.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct About {
    /// What there is to be said of the machine before all else.
    #[serde(default)]
    pub machine: String,
    pub kernel: String,
    pub cpus: usize,
    pub layout: String,
    /// Only a look at the harness, and no figures to quote.
    pub short: bool,
    /// The load average before it began.
    pub load: f64,
}

impl About {
    /// This machine, now.
    pub fn here(layout: &str, short: bool) -> crate::Fallible<Self> {
        let load = std::fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            machine: String::new(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            layout: layout.to_owned(),
            short,
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN),
        })
    }
}

/// Things that are compared: each is done once in every round, in random order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Table {
    pub title: String,
    /// The row that the others are compared with.
    pub base: String,
    pub unit: String,
    pub rows: Vec<Row>,
}

/// One of them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    pub label: String,
    pub samples: usize,
    pub median: f64,
    pub p99: f64,
    /// Of its median to that of the base.
    pub ratio: f64,
    /// What it is compared with, where that is not the base.
    #[serde(default)]
    pub against: String,
    /// What else is to be said of it.
    #[serde(default)]
    pub note: String,
}

/// What a session of three servers costs when there are so many.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Point {
    pub sessions: usize,
    /// All memory of the daemon's cgroup, and the kernel's share of it.
    pub cgroup_bytes: u64,
    pub kernel_bytes: u64,
    /// What is left of it when the kernel was told to reclaim what it can.
    #[serde(default)]
    pub kept_bytes: u64,
    /// Of that: the kernel's, the program's own, and what is in files in memory.
    #[serde(default)]
    pub kept_kernel_bytes: u64,
    #[serde(default)]
    pub kept_heap_bytes: u64,
    #[serde(default)]
    pub kept_files_bytes: u64,
    pub resident_bytes: u64,
    pub descriptors: usize,
    /// Of all its threads while nothing happens.
    pub wakeups_per_second: f64,
    pub idle_cpu_per_mille: f64,
    /// Medians, in milliseconds.
    pub scrape: f64,
    pub scrape_p99: f64,
    pub scrape_bytes: usize,
    pub raw_read: f64,
    /// With descriptors of all files kept; 0 where that would be too many.
    pub raw_kept: f64,
    pub raw_files: usize,
    pub launch: f64,
    pub raw_launch: f64,
    pub end: f64,
    pub raw_end: f64,
    /// What follows processes without us.
    #[serde(default)]
    pub exporter: Option<Exported>,
}

/// What another program takes that tells of the same servers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Exported {
    /// Milliseconds.
    pub scrape: f64,
    pub scrape_p99: f64,
    pub resident_bytes: u64,
    pub descriptors: usize,
}

/// The times of one row.
#[derive(Debug, Default, Clone)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    pub fn add_number(&mut self, number: f64) {
        self.0.push(number);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    pub fn p99(&self) -> f64 {
        self.at(0.99)
    }

    /// The nearest sample from above; nothing where there is none.
    fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

impl Run {
    /// Takes what was not measured anew from an earlier run.
    pub fn complete(&mut self, earlier: Self) {
        let measured: Vec<String> = self.tables.iter().map(|table| table.title.clone()).collect();
        self.tables.extend(earlier.tables.into_iter().filter(|table| !measured.contains(&table.title)));
        if self.curve.is_empty() {
            self.curve = earlier.curve;
        }
        let said: Vec<String> = self.missing.clone();
        self.missing.extend(earlier.missing.into_iter().filter(|missing| !said.contains(missing)));
        // In the order in which a whole run measures.
        self.tables.sort_by_key(|table| {
            ["Launch, ", "End of ", "Launches"].iter().position(|begin| table.title.starts_with(begin))
        });
    }
}

impl Table {
    /// A table of what was measured in this order.
    pub fn of(title: &str, unit: &str, base: &str, rows: &[(String, Samples, String)]) -> Self {
        let of_base =
            rows.iter().find(|(label, ..)| label == base).map_or(f64::NAN, |(_, samples, _)| samples.median());
        let row = |(label, samples, note): &(String, Samples, String)| Row {
            label: label.clone(),
            samples: samples.len(),
            median: samples.median(),
            p99: samples.p99(),
            ratio: samples.median() / of_base,
            against: String::new(),
            note: note.clone(),
        };
        let measured = rows.iter().filter(|(_, samples, _)| samples.len() > 0);
        Self { title: title.into(), base: base.into(), unit: unit.into(), rows: measured.map(row).collect() }
    }
}
