//! Parsers of what the kernel writes in cgroup and proc files: text in, values out. [`Membership::of`] alone reads a file.

use serde::{Deserialize, Serialize};

use crate::sys::text;

/// The most that is read of a membership: a line for each hierarchy, with a path each.
const MEMBERSHIP_BYTES_MAX: usize = 1 << 20;

/// The value of `key` in a flat keyed file (`populated 1`), as `cgroup.events` and `memory.stat` are.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A file of one number; `max` is no number.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Where a process is, from `/proc/PID/cgroup` (cgroups(7)): paths as seen from the reader's cgroup namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Its cgroup in the v2 hierarchy.
    pub v2: Option<String>,
    /// Its cgroup in the v1 `memory` hierarchy, on a hybrid machine.
    pub memory: Option<String>,
    /// Its cgroup in the v1 `pids` hierarchy, on a hybrid machine.
    pub pids: Option<String>,
}

impl std::fmt::Display for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.v2.as_deref().unwrap_or("no cgroup of v2"))?;
        for (controller, path) in [("memory", &self.memory), ("pids", &self.pids)] {
            if let Some(path) = path {
                write!(f, ", {controller}: {path}")?;
            }
        }
        Ok(())
    }
}

impl Membership {
    /// Reads what the kernel says of one process (`self` of the calling one).
    pub fn of(pid: impl std::fmt::Display) -> std::io::Result<Self> {
        Ok(Self::parse(&text::of(&format!("/proc/{pid}/cgroup"), MEMBERSHIP_BYTES_MAX)?))
    }

    /// Parses the file.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            // A process whose cgroup was removed under it, a zombie's, is told as "/x (deleted)".
            let path = Some(path.strip_suffix(" (deleted)").unwrap_or(path).to_owned());
            match controllers {
                "" if id == "0" => found.v2 = path,
                list if list.split(',').any(|name| name == "memory") => found.memory = path,
                list if list.split(',').any(|name| name == "pids") => found.pids = path,
                _ => {}
            }
        }
        found
    }
}

/// One line of `/proc/self/mountinfo` that is of interest (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountLine {
    pub(super) root: String,
    pub(super) point: String,
    pub(super) read_only: bool,
    pub(super) kind: String,
    pub(super) options: String,
}

/// Where cgroup hierarchies of either version are mounted, as this process sees it.
pub fn mount_points() -> std::io::Result<Vec<std::path::PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(cgroup_mounts(&text).into_iter().map(|line| line.point.into()).collect())
}

/// The cgroup mounts of a mountinfo file, both versions.
pub(super) fn cgroup_mounts(mountinfo: &str) -> Vec<MountLine> {
    mountinfo.lines().filter_map(mount_line).filter(|line| line.kind.starts_with("cgroup")).collect()
}

fn mount_line(line: &str) -> Option<MountLine> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point, flags) = (before.next()?, before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, _source, options) = (after.next()?, after.next()?, after.next()?);
    Some(MountLine {
        root: unescape(root),
        point: unescape(point),
        read_only: flags.split(',').any(|flag| flag == "ro"),
        kind: kind.to_owned(),
        options: options.to_owned(),
    })
}

/// Undoes the octal escapes of mountinfo: `\040` is a space.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Linux 6.18, hybrid, with another controller's hierarchy beside.
    const HYBRID: &str = "9:name=systemd:/\n8:pids:/\n7:blkio:/\n4:memory:/process/2bc0:22f7\n3:cpuset:/\n0::/\n";

    #[test]
    fn a_membership_tells_the_three_places_of_a_process() {
        let found = Membership::parse(HYBRID);
        assert_eq!(found.v2.as_deref(), Some("/"));
        assert_eq!(found.memory.as_deref(), Some("/process/2bc0:22f7"));
        assert_eq!(found.pids.as_deref(), Some("/"));
        let pure = Membership::parse("0::/user.slice/user-1000.slice/session-1.scope\n");
        assert_eq!(pure, Membership { v2: Some("/user.slice/user-1000.slice/session-1.scope".into()), ..pure.clone() });
        assert_eq!(Membership::parse("0::/gone (deleted)\n").v2.as_deref(), Some("/gone"));
    }

    #[test]
    fn keyed_files_are_matched_by_the_whole_key() {
        let stat = "anon 4096\nanon_thp 8192\nfile 1\n";
        assert_eq!((keyed(stat, "anon"), keyed(stat, "fil"), keyed(stat, "anon_thp")), (Some(4096), None, Some(8192)));
        assert_eq!((number("max\n"), number("12\n")), (None, Some(12)));
    }

    #[test]
    fn cgroup_mounts_are_found_among_the_others() {
        let text = "22 1 0:20 / /proc rw,nosuid - proc proc rw\n\
            31 30 0:27 / /sys/fs/cgroup\\040x rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
            32 30 0:28 /docker/ab /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n";
        let found = cgroup_mounts(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].point.as_str(), found[0].kind.as_str()), ("/sys/fs/cgroup x", "cgroup2"));
        assert_eq!(
            (found[1].root.as_str(), found[1].read_only, found[1].options.as_str()),
            ("/docker/ab", true, "rw,memory")
        );
    }
}
