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

/// v1 limits memory, and memory and swap together; the second may never be below the first.
fn set_memory_v1(cgroup: &Cgroup, knob: &MemController, limits: &Limits) -> Result<(), KnobError> {
    const MEMORY: &str = "memory.limit_in_bytes";
    const BOTH: &str = "memory.memsw.limit_in_bytes";
    let Some(max) = limits.memory_max else { return Ok(()) };
    let both = match (max, limits.memory_swap_max) {
        (Limit::At(Bytes(max)), Some(Limit::At(Bytes(swap)))) => Limit::At(Bytes(max.saturating_add(swap))),
        _ => Limit::Infinity,
    };
    let swap = cgroup.has(BOTH);
    // A session's next launch finds its limits as they are to be: then nothing is widened under those that run.
    if held(cgroup, MEMORY, max).is_ok() && (!swap || held(cgroup, BOTH, both).is_ok()) {
        return Ok(());
    }
    // Widen the sum first, so that neither order of old and new values is refused.
    if swap {
        knob.set_memswap_limit(-1).map_err(|error| kernel_said(cgroup, BOTH, error))?;
    }
    knob.set_limit(signed(max)).map_err(|error| kernel_said(cgroup, MEMORY, error))?;
    held(cgroup, MEMORY, max)?;
    if swap {
        knob.set_memswap_limit(signed(both)).map_err(|error| kernel_said(cgroup, BOTH, error))?;
        held(cgroup, BOTH, both)?;
    }
    Ok(())
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
