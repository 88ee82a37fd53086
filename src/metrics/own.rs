//! What the daemon itself uses, by the names that Prometheus' own libraries give this.

use std::fs;
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

/// What the daemon itself uses. `None` where the kernel does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Own {
    /// Resident memory.
    pub rss_bytes: Option<u64>,
    /// Open descriptors.
    pub fds: Option<u64>,
    /// The most of them.
    pub fds_max: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// CPU time, in seconds.
    pub cpu_seconds: Option<f64>,
    /// When it started, in seconds since 1970.
    pub started: f64,
}

impl Own {
    /// Reads it, of a daemon that started then.
    pub fn read(started: SystemTime) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        Self {
            rss_bytes: field("VmRSS:").map(|kilobytes| kilobytes * 1024),
            // One of them lists the others.
            fds: fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as u64),
            fds_max: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
            threads: field("Threads:"),
            cpu_seconds: usage.map(|usage| seconds(usage.user_time()) + seconds(usage.system_time())),
            started: unix(started),
        }
    }
}

/// Seconds since 1970.
pub(super) fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}
