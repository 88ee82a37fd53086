//! How this machine lays out its cgroups: pure v2, or v2 beside v1 (*hybrid*). A v1-only machine is refused.

use std::path::PathBuf;

use super::files::{self, Membership, MountLine};

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Which of its cgroups is mounted there, as this process sees it.
    pub root: String,
    /// Mounted read-only, as in a default container.
    pub read_only: bool,
}

impl Mount {
    /// The directory of a cgroup of this hierarchy; `None` where the mount does not show it.
    pub fn directory(&self, cgroup: &str) -> Option<PathBuf> {
        let below = match self.root.as_str() {
            "/" => cgroup,
            root => cgroup.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/'))?,
        };
        let below = below.trim_start_matches('/');
        // A process outside our cgroup namespace is told as "/../x": its directory cannot be reached from here.
        let reachable = !below.split('/').any(|part| part == "..");
        reachable.then(|| if below.is_empty() { self.point.clone() } else { self.point.join(below) })
    }

    /// The cgroup of a directory of this mount: the inverse of [`Mount::directory`].
    pub fn cgroup(&self, directory: &std::path::Path) -> Option<String> {
        let below = directory.strip_prefix(&self.point).ok()?.to_str()?;
        let root = self.root.trim_end_matches('/');
        Some(if below.is_empty() { format!("{root}/") } else { format!("{root}/{below}") })
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// cgroup v2 alone.
    Pure {
        /// The one hierarchy.
        v2: Mount,
    },
    /// cgroup v2 beside v1 hierarchies that hold the controllers.
    Hybrid {
        /// Tracks and kills.
        v2: Mount,
        /// Carries memory limits and accounting, where mounted.
        memory: Option<Mount>,
        /// Carries process limits, where mounted.
        pids: Option<Mount>,
    },
}

/// Why no layout can be used; the message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// No cgroup2 mount at all.
    #[error(
        "no cgroup v2 hierarchy is mounted, and pinfold needs one to end a whole session at once: boot with \
         systemd.unified_cgroup_hierarchy=1, or mount one with `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`"
    )]
    NoV2,
    /// The mounts could not be read.
    #[error("cannot read /proc/self/mountinfo")]
    Unreadable(#[source] std::io::Error),
}

impl Layout {
    /// Looks at this machine.
    pub fn detect() -> Result<Self, LayoutError> {
        Self::parse(&std::fs::read_to_string("/proc/self/mountinfo").map_err(LayoutError::Unreadable)?)
    }

    /// Parses a mountinfo file. Where a hierarchy is mounted in several places, the first counts; where several mounts
    /// are in one place, the last, which covers the others.
    pub fn parse(mountinfo: &str) -> Result<Self, LayoutError> {
        let mounts = files::cgroup_mounts(mountinfo);
        let mount = |line: &MountLine| Mount {
            point: line.point.clone().into(),
            root: line.root.clone(),
            read_only: line.read_only,
        };
        let top = |first: &MountLine| {
            mounts.iter().rfind(|line| line.point == first.point && line.kind == first.kind).map(mount)
        };
        let v2 = mounts.iter().find(|line| line.kind == "cgroup2").and_then(top).ok_or(LayoutError::NoV2)?;
        let v1 = |controller: &str| {
            let carries =
                |line: &&MountLine| line.kind == "cgroup" && line.options.split(',').any(|option| option == controller);
            mounts.iter().find(carries).map(mount)
        };
        match (v1("memory"), v1("pids")) {
            (None, None) => Ok(Self::Pure { v2 }),
            (memory, pids) => Ok(Self::Hybrid { v2, memory, pids }),
        }
    }

    /// The hierarchy that tracks and kills.
    pub fn v2(&self) -> &Mount {
        match self {
            Self::Pure { v2 } | Self::Hybrid { v2, .. } => v2,
        }
    }

    /// The directory of the calling process's own v2 cgroup, if it can be seen.
    pub fn own_directory(&self) -> Option<PathBuf> {
        self.v2().directory(&Membership::of("self").ok()?.v2?)
    }

    /// The word for views: `v2` or `hybrid`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pure { .. } => "v2",
            Self::Hybrid { .. } => "hybrid",
        }
    }
}

/// How the kernel moves processes from one cgroup to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moves {
    /// `favordynmods` (Linux 6.0, admin-guide/cgroup-v2 of the kernel, "Mounting"): it does not wait for all CPUs first. The
    /// option of one hierarchy counts for all of them.
    pub favored: bool,
    /// Where cgroup v2 is mounted.
    pub point: PathBuf,
    /// With what: a remount that leaves an option out takes it away.
    pub options: Vec<String>,
}

impl Moves {
    /// Looks at this machine.
    pub fn detect() -> Result<Self, LayoutError> {
        Self::parse(&std::fs::read_to_string("/proc/self/mountinfo").map_err(LayoutError::Unreadable)?)
    }

    /// Parses a mountinfo file.
    pub fn parse(mountinfo: &str) -> Result<Self, LayoutError> {
        let point = Layout::parse(mountinfo)?.v2().point.clone();
        let mounts = files::cgroup_mounts(mountinfo);
        let options = |line: &MountLine| line.options.split(',').map(str::to_owned).collect::<Vec<_>>();
        let v2 = mounts.iter().rfind(|line| line.kind == "cgroup2" && point.as_os_str() == line.point.as_str());
        let own = v2.map(options).unwrap_or_default().into_iter().filter(|option| option != "rw" && option != "ro");
        let favored = mounts.iter().flat_map(options).any(|option| option == "favordynmods");
        Ok(Self { favored, point, options: own.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "31 30 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1_ONLY: &str = "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    const HYBRID: &str = "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_three_layouts_are_told_apart() {
        assert_eq!(Layout::parse(V2).unwrap().word(), "v2");
        assert_eq!(Layout::parse(HYBRID).unwrap().word(), "hybrid");
        assert!(matches!(Layout::parse(V1_ONLY), Err(LayoutError::NoV2)));
    }

    #[test]
    fn the_option_of_any_hierarchy_favors_moves_in_all() {
        let plain = Moves::parse(HYBRID).unwrap();
        assert!(!plain.favored && plain.options.is_empty(), "{plain:?}");
        let v1 = HYBRID.replace("rw,pids", "rw,favordynmods,pids");
        assert!(Moves::parse(&v1).unwrap().favored);
        let v2 = Moves::parse(&V2.replace("rw,nsdelegate", "rw,nsdelegate,favordynmods")).unwrap();
        assert!(v2.favored);
        assert_eq!(v2.options, ["nsdelegate", "favordynmods"]);
        // Of a flag of the mount itself the kernel knows nothing.
        assert!(!Moves::parse(&V2.replace("rw,nosuid", "rw,favordynmods")).unwrap().favored);
    }

    #[test]
    fn a_mount_that_covers_another_counts() {
        let covered = format!("{V2}45 31 0:27 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(Layout::parse(&covered).unwrap().v2().read_only);
    }

    #[test]
    fn a_directory_and_its_cgroup_are_each_others_inverse() {
        let inside = Mount { point: "/sys/fs/cgroup".into(), root: "/docker/ab".into(), read_only: false };
        assert_eq!(inside.directory("/docker/ab/x/y").unwrap(), PathBuf::from("/sys/fs/cgroup/x/y"));
        assert_eq!(inside.cgroup(std::path::Path::new("/sys/fs/cgroup/x/y")).unwrap(), "/docker/ab/x/y");
        assert_eq!(inside.directory("/docker/abc"), None);
        let whole = Mount { root: "/".into(), ..inside };
        assert_eq!(whole.directory("/").unwrap(), PathBuf::from("/sys/fs/cgroup"));
        assert_eq!(whole.directory("/../other"), None);
    }
}
