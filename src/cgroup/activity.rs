//! What a leaf has done so far, as the kernel counts it: whoever compares two readings knows whether it did anything.

use std::time::Duration;

use super::dir::CgroupError;
use super::files;
use super::leaf::Leaf;
use crate::lifecycle::Activity;

/// More processes than these are not looked at one by one: what has so many is not idle.
const PROCESSES_MAX: usize = 4096;

impl Leaf {
    /// CPU time of all of it so far. It is there without any controller (admin-guide/cgroup-v2, "cpu.stat"), and counts what is
    /// below and what has exited.
    pub fn cpu(&self) -> Result<Duration, CgroupError> {
        let mut cpu = 0;
        for group in std::iter::once(self.group()).chain(self.annex().map(|annex| &annex.group)) {
            cpu += files::keyed(&group.v2().read("cpu.stat")?, "usage_usec").unwrap_or(0);
        }
        Ok(Duration::from_micros(cpu))
    }

    /// Reads it. `None` where it has too many processes to be looked at. Blocks while one of them executes a program.
    pub fn activity(&self) -> Result<Option<Activity>, CgroupError> {
        let (v2, cpu) = (self.group().v2(), self.cpu()?);
        let mut pids = self.processes()?;
        if pids.len() > PROCESSES_MAX {
            return Ok(None);
        }
        pids.sort_unstable();
        let mut bytes = Vec::with_capacity(pids.len());
        let mut disk = 0u64;
        for pid in pids {
            match std::fs::read_to_string(format!("/proc/{pid}/io")) {
                Ok(text) => {
                    bytes.push((pid, sum(&text, &["rchar", "wchar"])));
                    disk = disk.wrapping_add(sum(&text, &["read_bytes", "write_bytes"]));
                }
                // It exited meanwhile: the next reading lacks it.
                Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ESRCH)) => {}
                Err(error) => return Err(CgroupError::new("read", format!("/proc/{pid}/io"), error)),
            }
        }
        // Only where the io controller is enabled in it.
        let blocks = v2.read("io.stat").map(|text| all_numbers(&text)).unwrap_or(0);
        Ok(Some(Activity { cpu, bytes, disk, blocks }))
    }
}

/// Some of the bytes in `/proc/PID/io` (proc_pid_io(5)): `rchar` and `wchar` are of read(2) and write(2) on every kind of file,
/// pipes, sockets and terminals too; `read_bytes` and `write_bytes` of pages that were fetched from a disk or made dirty. They hold
/// those of children that were waited for.
fn sum(text: &str, keys: &[&str]) -> u64 {
    let value =
        |key: &&str| text.lines().find_map(|line| line.strip_prefix(*key)?.strip_prefix(": ")?.trim().parse().ok());
    keys.iter().filter_map(value).fold(0, u64::wrapping_add)
}

/// The sum of all numbers of a nested keyed file: `8:0 rbytes=90112 wbytes=0 …`.
fn all_numbers(text: &str) -> u64 {
    let values = text.split_whitespace().filter_map(|word| word.split_once('=')?.1.parse().ok());
    values.fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_was_read_and_written_is_added_up() {
        // From Linux 6.18.
        let io = "rchar: 4292\nwchar: 17\nsyscr: 13\nsyscw: 0\nread_bytes: 8192\nwrite_bytes: 4096\n\
                  cancelled_write_bytes: 0\n";
        assert_eq!(sum(io, &["rchar", "wchar"]), 4292 + 17);
        assert_eq!(sum(io, &["read_bytes", "write_bytes"]), 8192 + 4096);
        let stat = "8:16 rbytes=100 wbytes=20 rios=3 wios=4 dbytes=0 dios=0\n8:0 rbytes=5\n";
        assert_eq!((all_numbers(stat), all_numbers("")), (132, 0));
    }
}
