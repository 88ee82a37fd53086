//! Sets limits and reads them back. What cgroups-rs knows (the v1 and v2 names of a limit) it writes; the rest is ours.
//!
//! The kernel rounds memory down to whole pages and may refuse in silence on odd kernels, so nothing counts as set
//! before it was read back.

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::error::{Error, ErrorKind};
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;

use super::dir::{Cgroup, CgroupError};
use super::files;
use crate::limits::{Bytes, Limit, Limits, Weight};

/// The period that a CPU limit is dealt out in, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// v1: the limit of memory alone, and of memory and swap together.
const V1_MEMORY: &str = "memory.limit_in_bytes";
const V1_BOTH: &str = "memory.memsw.limit_in_bytes";

/// Which interface a cgroup directory has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// cgroup v1: `memory.limit_in_bytes`.
    V1,
    /// cgroup v2: `memory.max`.
    V2,
}

/// A limit was not set.
#[derive(Debug, thiserror::Error)]
pub enum KnobError {
    /// The kernel refused the write, or the file could not be read back.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The write went through, and the file tells another value.
    #[error("set {wanted} in {}, and the kernel holds {found}", path.display())]
    NotHeld {
        /// What was written.
        wanted: String,
        /// What was read back.
        found: String,
        /// Which file.
        path: std::path::PathBuf,
    },
}

/// Sets the memory limits among `limits`.
pub(super) fn set_memory(cgroup: &Cgroup, version: Version, limits: &Limits) -> Result<(), KnobError> {
    let knob = MemController::new(cgroup.fd_path(), cgroup.fd_path(), version == Version::V2);
    match version {
        Version::V2 => {
            if let Some(high) = limits.memory_high {
                cgroup.write("memory.high", &spell(high))?;
                held(cgroup, "memory.high", high)?;
            }
            if let Some(max) = limits.memory_max {
                knob.set_limit(signed(max)).map_err(|error| kernel_said(cgroup, "memory.max", error))?;
                held(cgroup, "memory.max", max)?;
            }
            if let Some(swap) = limits.memory_swap_max.filter(|_| cgroup.has("memory.swap.max")) {
                knob.set_memswap_limit(signed(swap)).map_err(|error| kernel_said(cgroup, "memory.swap.max", error))?;
                held(cgroup, "memory.swap.max", swap)?;
            }
        }
        Version::V1 => set_memory_v1(cgroup, &knob, limits)?,
    }
    Ok(())
}

/// v1 limits memory, and memory and swap together; the second may never be below the first. So what grows is written from
/// the sum down, and what shrinks from the memory up, and nothing is ever wider than it was or is to be. Below what it
/// cannot take back the kernel refuses (EBUSY), and then all stays as it was.
fn set_memory_v1(cgroup: &Cgroup, knob: &MemController, limits: &Limits) -> Result<(), KnobError> {
    let Some(max) = limits.memory_max else { return Ok(()) };
    let both = match (max, limits.memory_swap_max) {
        (Limit::At(Bytes(max)), Some(Limit::At(Bytes(swap)))) => Limit::At(Bytes(max.saturating_add(swap))),
        _ => Limit::Infinity,
    };
    let memory = |max| knob.set_limit(signed(max)).map_err(|error| kernel_said(cgroup, V1_MEMORY, error));
    if !cgroup.has(V1_BOTH) {
        memory(max)?;
        return held(cgroup, V1_MEMORY, max);
    }
    let sum = |both| knob.set_memswap_limit(signed(both)).map_err(|error| kernel_said(cgroup, V1_BOTH, error));
    let (memory_before, both_before) = (v1_limit(cgroup, V1_MEMORY)?, v1_limit(cgroup, V1_BOTH)?);
    let grows = match (both_before, both) {
        (Limit::At(before), Limit::At(both)) => both > before,
        (before, both) => before != both && both == Limit::Infinity,
    };
    if grows {
        sum(both)?;
    }
    if memory_before != max
        && let Err(error) = memory(max)
    {
        if grows {
            sum(both_before)?;
        }
        return Err(error);
    }
    if !grows
        && both_before != both
        && let Err(error) = sum(both)
    {
        memory(memory_before)?;
        return Err(error);
    }
    held(cgroup, V1_MEMORY, max)?;
    held(cgroup, V1_BOTH, both)
}

fn v1_limit(cgroup: &Cgroup, file: &'static str) -> Result<Limit<Bytes>, CgroupError> {
    cgroup.read(file).map(|text| memory_limit(&text))
}

/// What the kernel holds of memory limits now; what it does not tell is `None`.
pub(super) fn memory_limits(cgroup: &Cgroup, version: Version) -> Limits {
    let read = |file| cgroup.read(file).ok().map(|text| memory_limit(&text));
    let none = Limits::default();
    match version {
        Version::V2 => Limits {
            memory_max: read("memory.max"),
            memory_high: read("memory.high"),
            memory_swap_max: read("memory.swap.max"),
            ..none
        },
        Version::V1 => {
            let memory_max = read(V1_MEMORY);
            let swap = |both| match (memory_max, both) {
                (Some(Limit::At(Bytes(max))), Limit::At(Bytes(both))) => Limit::At(Bytes(both.saturating_sub(max))),
                _ => Limit::Infinity,
            };
            Limits { memory_max, memory_swap_max: read(V1_BOTH).map(swap), ..none }
        }
    }
}

/// What the kernel holds of process, CPU and I/O limits now, in what `pids` and `cgroup` have of them.
pub(super) fn other_limits(cgroup: &Cgroup, pids: &Cgroup) -> Limits {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let weight = |file| {
        let text = cgroup.read(file).ok()?;
        let first = text.lines().next().unwrap_or_default().trim_start_matches("default ").to_owned();
        Weight::try_from(u32::try_from(number(&first)?).ok()?).ok()
    };
    let count =
        |text: String| number(&text).map_or(Limit::Infinity, |max| Limit::At(max.try_into().unwrap_or(u32::MAX)));
    Limits {
        pids_max: pids.read("pids.max").ok().map(count),
        cpu_max: cgroup.read("cpu.max").ok().map(|text| percent(&text).map_or(Limit::Infinity, Limit::At)),
        cpu_weight: weight("cpu.weight"),
        io_weight: weight("io.weight"),
        ..Limits::default()
    }
}

/// `cpu.max` as whole percents of one CPU, rounded down but never to nothing; `None` where there is no limit.
pub fn percent(text: &str) -> Option<u32> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    u32::try_from(quota.saturating_mul(100) / period.max(1)).ok().map(|percent| percent.max(1))
}

/// Sets the limit on processes and threads: `pids.max` in both versions.
pub(super) fn set_pids(cgroup: &Cgroup, limits: &Limits) -> Result<(), KnobError> {
    let Some(max) = limits.pids_max else { return Ok(()) };
    let value = max.at().map_or(MaxValue::Max, |count| MaxValue::Value(count.into()));
    PidController::new(cgroup.fd_path(), cgroup.fd_path(), false)
        .set_pid_max(value)
        .map_err(|error| kernel_said(cgroup, "pids.max", error))?;
    has_pids(cgroup, max)
}

/// Sets CPU limit and weight. v2 only: a hybrid machine refuses them before they come here.
pub(super) fn set_cpu(cgroup: &Cgroup, limits: &Limits) -> Result<(), KnobError> {
    let knob = CpuController::new(cgroup.fd_path(), cgroup.fd_path(), true);
    if let Some(max) = limits.cpu_max {
        let quota = quota(max);
        knob.set_cfs_quota_and_period(Some(quota), Some(CPU_PERIOD_US))
            .map_err(|error| kernel_said(cgroup, "cpu.max", error))?;
        has_quota(cgroup, quota)?;
    }
    if let Some(weight) = limits.cpu_weight {
        knob.set_shares(u32::from(weight).into()).map_err(|error| kernel_said(cgroup, "cpu.weight", error))?;
        weighs(cgroup, "cpu.weight", weight)?;
    }
    Ok(())
}

/// Sets the I/O weight. Ours: cgroups-rs writes `io.bfq.weight` only.
pub(super) fn set_io(cgroup: &Cgroup, limits: &Limits) -> Result<(), KnobError> {
    let Some(weight) = limits.io_weight else { return Ok(()) };
    cgroup.write("io.weight", &format!("default {}", u32::from(weight)))?;
    weighs(cgroup, "io.weight", weight)
}

/// Whether a v2 cgroup that somebody else sets (a unit's) holds these limits.
pub(super) fn verify(cgroup: &Cgroup, limits: &Limits) -> Result<(), KnobError> {
    if let Some(high) = limits.memory_high {
        held(cgroup, "memory.high", high)?;
    }
    if let Some(max) = limits.memory_max {
        held(cgroup, "memory.max", max)?;
    }
    if let Some(swap) = limits.memory_swap_max.filter(|_| cgroup.has("memory.swap.max")) {
        held(cgroup, "memory.swap.max", swap)?;
    }
    if let Some(max) = limits.pids_max {
        has_pids(cgroup, max)?;
    }
    if let Some(max) = limits.cpu_max {
        has_quota(cgroup, quota(max))?;
    }
    if let Some(weight) = limits.cpu_weight {
        weighs(cgroup, "cpu.weight", weight)?;
    }
    match limits.io_weight {
        Some(weight) => weighs(cgroup, "io.weight", weight),
        None => Ok(()),
    }
}

fn has_pids(cgroup: &Cgroup, max: Limit<u32>) -> Result<(), KnobError> {
    let found = cgroup.read("pids.max")?;
    let holds = files::number(&found) == max.at().map(u64::from);
    if holds { Ok(()) } else { Err(not_held(cgroup, "pids.max", max.to_string(), found)) }
}

/// Microseconds of CPU time in each period; -1 is no limit, as cgroups-rs spells it.
fn quota(max: Limit<u32>) -> i64 {
    max.at().map_or(-1, |percent| i64::from(percent) * (CPU_PERIOD_US as i64) / 100)
}

fn has_quota(cgroup: &Cgroup, quota: i64) -> Result<(), KnobError> {
    let wanted = if quota > 0 { format!("{quota} {CPU_PERIOD_US}") } else { format!("max {CPU_PERIOD_US}") };
    let found = cgroup.read("cpu.max")?;
    if found.trim() == wanted { Ok(()) } else { Err(not_held(cgroup, "cpu.max", wanted, found)) }
}

fn weighs(cgroup: &Cgroup, file: &'static str, weight: Weight) -> Result<(), KnobError> {
    let found = cgroup.read(file)?;
    let value = found.lines().next().unwrap_or_default().trim_start_matches("default ");
    let holds = files::number(value) == Some(u32::from(weight).into());
    if holds { Ok(()) } else { Err(not_held(cgroup, file, u32::from(weight).to_string(), found)) }
}

/// The number of a memory limit file; v1 tells no limit as the largest page-rounded number.
pub(super) fn memory_limit(text: &str) -> Limit<Bytes> {
    match files::number(text) {
        Some(bytes) if bytes < i64::MAX as u64 & !0xf_ffff => Limit::At(Bytes(bytes)),
        _ => Limit::Infinity,
    }
}

fn held(cgroup: &Cgroup, file: &'static str, wanted: Limit<Bytes>) -> Result<(), KnobError> {
    let found = cgroup.read(file)?;
    if memory_limit(&found) == wanted { Ok(()) } else { Err(not_held(cgroup, file, spell(wanted), found)) }
}

fn not_held(cgroup: &Cgroup, file: &str, wanted: String, found: String) -> KnobError {
    KnobError::NotHeld { wanted, found: found.trim().to_owned(), path: cgroup.path().join(file) }
}

fn spell(limit: Limit<Bytes>) -> String {
    limit.at().map_or_else(|| "max".to_owned(), |Bytes(bytes)| bytes.to_string())
}

/// A limit in the spelling of cgroups-rs, where -1 is none.
fn signed(limit: Limit<Bytes>) -> i64 {
    limit.at().map_or(-1, |Bytes(bytes)| i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// An error of cgroups-rs as ours: it keeps the system's answer as its cause, and tells the path by our descriptor.
fn kernel_said(cgroup: &Cgroup, file: &str, error: Error) -> KnobError {
    let doing = match error.kind() {
        ErrorKind::ReadFailed(_) => "read",
        _ => "write",
    };
    let source = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .and_then(std::io::Error::raw_os_error)
        .map_or_else(|| std::io::Error::other(error.to_string()), std::io::Error::from_raw_os_error);
    KnobError::Cgroup(CgroupError::new(doing, cgroup.path().join(file), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_a_case_and_not_a_huge_number() {
        assert_eq!(memory_limit("9223372036854771712\n"), Limit::Infinity);
        assert_eq!(memory_limit("max\n"), Limit::Infinity);
        assert_eq!(memory_limit("67108864\n"), Limit::At(Bytes(64 << 20)));
    }
}
