//! What a cgroup uses, as the kernel accounts for it: memory (v2 or v1), and CPU time, I/O and pressure, which only v2 tells.
//!
//! Each reading opens a file below the directory that is held: nothing is walked, and no descriptor of a file is kept.

use std::time::Duration;

use super::dir::Cgroup;
use super::files;
use super::group::Group;
use super::knobs;
use super::oom;
use super::pressure::stalled;
use crate::limits::Bytes;
use crate::snapshot::{ActivityView, MemoryView, PressureView, StallView};

impl Group {
    /// What is charged to it now. What the kernel does not tell is `None`: no memory controller holds it, or it is gone.
    ///
    /// The files are described in admin-guide/cgroup-v2 and admin-guide/cgroup-v1/memory of the kernel.
    pub fn memory(&self) -> MemoryView {
        match &self.memory {
            Some(companion) => memory(companion, &V1),
            None => memory(&self.v2, &V2),
        }
    }

    /// What of it is in use now: the one number, where nothing else is asked for.
    pub fn memory_in_use(&self) -> Option<Bytes> {
        self.memory_number(V2.current, V1.current)
    }

    /// The most that was in use.
    pub fn memory_peak(&self) -> Option<Bytes> {
        self.memory_number(V2.peak, V1.peak)
    }

    fn memory_number(&self, v2: &str, v1: &str) -> Option<Bytes> {
        let text = match &self.memory {
            Some(companion) => companion.read(v1),
            None => self.v2.read(v2),
        };
        files::number(&text.ok()?).map(Bytes)
    }

    /// What it has done so far, those of its processes and cgroups included that are gone.
    pub fn activity(&self) -> ActivityView {
        let cpu = self.v2.read("cpu.stat").ok().and_then(|text| files::keyed(&text, "usage_usec"));
        let io = self.v2.read("io.stat").ok();
        let sum = |key| io.as_ref().map(|text| Bytes(sum_of_devices(text, key)));
        ActivityView {
            cpu_seconds: cpu.map(|usec| Duration::from_micros(usec).as_secs_f64()),
            read_bytes: sum("rbytes="),
            written_bytes: sum("wbytes="),
        }
    }

    /// For how long its processes have waited so far.
    pub fn pressure(&self) -> PressureView {
        let stall = |file| self.v2.read(file).map(|text| stall(&text)).unwrap_or_default();
        PressureView { memory: stall("memory.pressure"), cpu: stall("cpu.pressure"), io: stall("io.pressure") }
    }

    /// How often its memory limit was reached, and how often the kernel killed in it and below it for memory.
    ///
    /// On v2 these are `max` and `oom_kill` of `memory.events`, where those below it count as well, and the first of those that
    /// the kernel kills by `memory.oom.group` twice (`oom_kill_process()`, and again in the walk over the group). On v1 they are
    /// `memory.failcnt`, and what is counted where the victim was: the sum of it and of what was made below it is a leaf's.
    pub fn memory_hits(&self) -> (Option<u64>, Option<u64>) {
        match &self.memory {
            Some(v1) => {
                (self.memory_limit_hits(), v1.has("memory.oom_control").then(|| oom::kills(&self.v2, Some(v1))))
            }
            None => {
                let text = self.v2.read("memory.events").ok();
                let of = |key| text.as_deref().and_then(|text| files::keyed(text, key));
                (of("max"), of("oom_kill"))
            }
        }
    }

    /// v1: how often its own memory limit was reached.
    pub fn memory_limit_hits(&self) -> Option<u64> {
        files::number(&self.memory.as_ref()?.read("memory.failcnt").ok()?)
    }
}

/// Where each amount is told: in a file of its own, or under a key of `memory.stat`.
struct Names {
    anon: &'static str,
    file_mapped: &'static str,
    inactive_file: &'static str,
    file: &'static str,
    shmem: &'static str,
    kernel: &'static str,
    swap: &'static str,
    current: &'static str,
    peak: &'static str,
    max: &'static str,
}

const V2: Names = Names {
    anon: "anon",
    file_mapped: "file_mapped",
    inactive_file: "inactive_file",
    file: "file",
    shmem: "shmem",
    kernel: "kernel",
    swap: "memory.swap.current",
    current: "memory.current",
    peak: "memory.peak",
    max: "memory.max",
};

/// `total_` counts what is below as well, as v2 always does.
const V1: Names = Names {
    anon: "total_rss",
    file_mapped: "total_mapped_file",
    inactive_file: "total_inactive_file",
    file: "total_cache",
    shmem: "total_shmem",
    kernel: "memory.kmem.usage_in_bytes",
    swap: "total_swap",
    current: "memory.usage_in_bytes",
    peak: "memory.max_usage_in_bytes",
    max: "memory.limit_in_bytes",
};

fn memory(cgroup: &Cgroup, names: &Names) -> MemoryView {
    let stat = cgroup.read("memory.stat").unwrap_or_default();
    let amount = |name: &str| match name.starts_with("memory.") {
        true => files::number(&cgroup.read(name).ok()?).map(Bytes),
        false => files::keyed(&stat, name).map(Bytes),
    };
    let (anon, current) = (amount(names.anon), amount(names.current));
    MemoryView {
        rss_bytes: sum(anon, amount(names.file_mapped)),
        working_set_bytes: less(current, amount(names.inactive_file)),
        current_bytes: current,
        anon_bytes: anon,
        file_bytes: amount(names.file),
        shmem_bytes: amount(names.shmem),
        kernel_bytes: amount(names.kernel),
        swap_bytes: amount(names.swap),
        peak_bytes: amount(names.peak),
        max_bytes: cgroup.read(names.max).ok().and_then(|text| knobs::memory_limit(&text).at()),
    }
}

fn sum(one: Option<Bytes>, other: Option<Bytes>) -> Option<Bytes> {
    Some(Bytes(one?.0 + other?.0))
}

/// The two are read one after the other, so the part may for a moment be more than the whole.
fn less(whole: Option<Bytes>, part: Option<Bytes>) -> Option<Bytes> {
    Some(whole?.less(part?))
}

/// Adds up one key of `io.stat`, which has a line for each device.
fn sum_of_devices(text: &str, key: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

fn stall(text: &str) -> StallView {
    let total = |kind| stalled(text, kind).map(|span| span.as_secs_f64());
    StallView { some_seconds: total("some"), full_seconds: total("full") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_is_added_up_over_devices_and_stalls_are_in_seconds() {
        // From Linux 6.12.
        let io = "254:0 rbytes=4096 wbytes=512 rios=1 wios=1 dbytes=0 dios=0\n\
                  253:16 rbytes=1000 wbytes=0 rios=2 wios=0 dbytes=0 dios=0\n";
        assert_eq!((sum_of_devices(io, "rbytes="), sum_of_devices(io, "wbytes=")), (5096, 512));
        let pressure = "some avg10=81.04 avg60=24.50 avg300=5.94 total=20151000\n\
                        full avg10=80.95 avg60=24.31 avg300=5.89 total=20012345\n";
        let view = stall(pressure);
        assert_eq!((view.some_seconds, view.full_seconds), (Some(20.151), Some(20.012345)));
        assert_eq!(stall(""), StallView::default());
    }

    #[test]
    fn a_working_set_is_never_below_nothing() {
        assert_eq!(less(Some(Bytes(5)), Some(Bytes(7))), Some(Bytes(0)));
        assert_eq!(less(Some(Bytes(5)), None), None);
    }
}
