//! Finds the subtree that is ours to write, and makes it ready: the first thing a daemon does.
//!
//! What cannot work is refused here, in words that say what to change: this is where default containers, v1-only
//! machines and users without delegation arrive.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::containers::MOVED;
use super::dir::{Cgroup, CgroupError};
use super::files::{self, Membership};
use super::group::Controllers;
use super::layout::{Layout, LayoutError};
use super::tree::MACHINE;
use crate::limits::Bytes;
use crate::sys::crash;

/// Where an on-demand daemon lives: not in its host's cgroup, or it would die with the host.
const DAEMON: &str = "pinfold-daemon";

/// How often the processes of the root are moved before it is given up: they may fork meanwhile.
const VACATE_TRIES: usize = 20;

/// What is asked of the tree.
#[derive(Debug, Clone, Default)]
pub struct TreeOptions {
    /// The subtree to use; else the daemon's own cgroup.
    pub root: Option<PathBuf>,
    /// Move the daemon out of the cgroup that it was started in.
    pub leave_host: bool,
}

/// Why there is no tree. Each message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// No usable layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The cgroup filesystem cannot be written at all.
    #[error(
        "{} is mounted read-only, as in a default container: run the container with writable cgroups \
         (podman: --security-opt unmask=/sys/fs/cgroup; docker: --security-opt writable-cgroups=true from 28 on, else \
         --privileged), or mount /run/pinfold of a host that runs pinfold", .0.display()
    )]
    ReadOnly(PathBuf),
    /// No permission to make a cgroup.
    #[error(
        "may not write {}: run pinfold as root, or in a cgroup that is delegated to this user \
         (a systemd unit with Delegate=yes), or name such a cgroup with --root", .0.display()
    )]
    NotDelegated(PathBuf),
    /// systemd owns the tree.
    #[error(
        "systemd manages the cgroups of this machine and did not delegate {}: run pinfold in a unit with \
         Delegate=yes, or name a delegated cgroup with --root", .0.display()
    )]
    Systemd(PathBuf),
    /// The daemon's own cgroup cannot be seen.
    #[error("this process's own cgroup is not visible under {}: name a subtree with --root", .0.display())]
    Invisible(PathBuf),
    /// The root given is not in the v2 mount.
    #[error("{} is not in the cgroup v2 filesystem at {}: give --root a directory below that", root.display(), mount.display())]
    OutsideMount {
        /// What was given.
        root: PathBuf,
        /// Where the filesystem is.
        mount: PathBuf,
    },
    /// The root given does not exist.
    #[error("there is no cgroup {}: make it with mkdir, or give --root one that exists", .0.display())]
    Missing(PathBuf),
    /// Others' processes stand where only cgroups may.
    #[error(
        "{} holds processes that are not pinfold's ({pids:?}), and a cgroup with processes cannot give its children \
         limits: name an empty cgroup with --root, or start pinfold in a cgroup of its own", path.display()
    )]
    Occupied {
        /// Which cgroup.
        path: PathBuf,
        /// Some of the processes.
        pids: Vec<i32>,
    },
    /// Another daemon has this tree.
    #[error("another pinfold works below {}: stop it first, or give this one another --root", root.display())]
    Taken {
        /// Which tree.
        root: PathBuf,
        /// The directory in it that it has locked.
        locked: PathBuf,
    },
    /// Too old a kernel.
    #[error("this kernel has no cgroup.kill: Linux 5.14 or newer is needed")]
    KernelTooOld,
    /// The kernel refused something else.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// What [`open`] found.
pub(super) struct Opened {
    pub(super) layout: Layout,
    pub(super) root: PathBuf,
    pub(super) controllers: Controllers,
    pub(super) changes: Changes,
    /// Held for as long as the tree is this daemon's.
    pub(super) lock: OwnedFd,
}

/// What [`open`] changed beyond making directories, so that [`close`] can take it back.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Where the daemon was before it left its host's cgroup.
    came_from: Option<PathBuf>,
    /// The controllers that were not enabled in the root.
    enabled: Vec<&'static str>,
}

/// Finds the root, makes the machine level, and enables the controllers for what will be below it.
pub(super) fn open(options: &TreeOptions) -> Result<Opened, TreeError> {
    let layout = Layout::detect()?;
    let mount = layout.v2().clone();
    let path = match &options.root {
        Some(given) => given.clone(),
        None => default_root(&layout)?,
    };
    if mount.cgroup(&path).is_none() {
        return Err(TreeError::OutsideMount { root: path, mount: mount.point });
    }
    let root = Cgroup::open(&path).map_err(|error| match error {
        error if error.is_gone() => TreeError::Missing(path.clone()),
        error => error.into(),
    })?;
    let refused = |error: CgroupError| match error {
        error if error.is_read_only() => TreeError::ReadOnly(path.clone()),
        error if error.is_denied() => TreeError::NotDelegated(path.clone()),
        error => error.into(),
    };
    let (machine, _) = root.ensure_child(MACHINE).map_err(refused)?;
    // That it is there already says nothing about who may write it.
    machine.writable().map_err(refused)?;
    let lock = machine.lock()?.ok_or_else(|| TreeError::Taken { root: path.clone(), locked: path.join(MACHINE) })?;
    if !machine.has("cgroup.kill") {
        return Err(TreeError::KernelTooOld);
    }
    let mut changes =
        Changes { came_from: options.leave_host.then(|| layout.own_directory()).flatten(), ..Changes::default() };
    if options.leave_host {
        let (own, _) = root.ensure_child(DAEMON)?;
        own.write("cgroup.procs", "0")?;
    }
    let controllers = match &layout {
        Layout::Pure { .. } => enable_controllers(&root, &mount.point, &mut changes.enabled)?,
        Layout::Hybrid { memory, pids, .. } => {
            let writable = |mount: &Option<super::layout::Mount>| {
                let writes = |point: &Path| rustix::fs::access(point, rustix::fs::Access::WRITE_OK).is_ok();
                mount.as_ref().is_some_and(|mount| !mount.read_only && writes(&mount.point))
            };
            Controllers { memory: writable(memory), pids: writable(pids), cpu: false, io: false }
        }
    };
    Ok(Opened { layout, root: path, controllers, changes, lock })
}

/// The daemon's own cgroup, or the one that a daemon of this tree was started from.
fn default_root(layout: &Layout) -> Result<PathBuf, TreeError> {
    let point = layout.v2().point.clone();
    // Without controllers in v2 no limit hangs on where in it a process is; the top is where all can be reached from.
    let writes = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    if matches!(layout, Layout::Hybrid { .. }) && writes(&point) {
        return Ok(point);
    }
    let own = layout.own_directory().ok_or(TreeError::Invisible(point.clone()))?;
    let ours = |part: &std::ffi::OsStr| part == MACHINE || part == DAEMON || part == MOVED;
    let root: PathBuf = own.iter().take_while(|part| !ours(part)).collect();
    if Path::new("/run/systemd/system").exists() && !is_delegated(&root) {
        return Err(TreeError::Systemd(root));
    }
    Ok(root)
}

/// systemd marks what it delegates with an extended attribute (systemd's CGROUP_DELEGATION).
pub(super) fn is_delegated(directory: &Path) -> bool {
    let mut value = [0u8; 8];
    ["trusted.delegate", "user.delegate"]
        .iter()
        .any(|name| rustix::fs::getxattr(directory, *name, &mut value[..]).is_ok_and(|length| value[..length] == *b"1"))
}

/// Enables what is there for the children of `root`, one by one, so that one refusal does not take the others along.
fn enable_controllers(root: &Cgroup, mount: &Path, changed: &mut Vec<&'static str>) -> Result<Controllers, TreeError> {
    let offered = root.read("cgroup.controllers")?;
    let mut enabled = root.read("cgroup.subtree_control")?;
    for name in ["memory", "pids", "cpu", "io"] {
        let has = |list: &str| list.split_whitespace().any(|word| word == name);
        if !has(&offered) || has(&enabled) {
            continue;
        }
        let enable = || root.write("cgroup.subtree_control", &format!("+{name}"));
        let outcome = match enable() {
            Err(error) if error.is_busy() => {
                vacate(root, mount)?;
                enable()
            }
            other => other,
        };
        match outcome {
            Ok(()) => changed.push(name),
            Err(error) if error.is_denied() => {}
            Err(error) => return Err(error.into()),
        }
        enabled = root.read("cgroup.subtree_control")?;
    }
    let has = |name| enabled.split_whitespace().any(|word| word == name);
    Ok(Controllers { memory: has("memory"), pids: has("pids"), cpu: has("cpu"), io: has("io") })
}

/// Moves the processes of the root out of the way: our own, and all of them where the root is that of a container.
fn vacate(root: &Cgroup, mount: &Path) -> Result<(), TreeError> {
    let own = std::process::id() as i32;
    let others: Vec<i32> = root.processes()?.into_iter().filter(|pid| *pid != own).take(5).collect();
    if root.path() != mount && !others.is_empty() {
        return Err(TreeError::Occupied { path: root.path().to_owned(), pids: others });
    }
    empty_into(root, MOVED)?;
    let pids: Vec<i32> = root.processes()?.into_iter().take(5).collect();
    if pids.is_empty() { Ok(()) } else { Err(TreeError::Occupied { path: root.path().to_owned(), pids }) }
}

/// Moves all processes of a cgroup to a child of it, as long as there are any. They may fork meanwhile.
pub(super) fn empty_into(cgroup: &Cgroup, child: &str) -> Result<(), CgroupError> {
    let (moved, _) = cgroup.ensure_child(child)?;
    for _ in 0..VACATE_TRIES {
        let pids = cgroup.processes()?;
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            match moved.write("cgroup.procs", &pid.to_string()) {
                Err(error) if !error.is_gone() => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Makes one directory whose parent exists, or finds it made.
pub(super) fn ensure_directory(path: &Path) -> Result<(), CgroupError> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(CgroupError::new("create", path, error)),
        _ => {
            crash::step("the machine level was made");
            Ok(())
        }
    }
}

/// rmdir(2) where it succeeds: a cgroup with processes or children refuses it, and stays.
pub(super) fn remove_if_empty(path: &Path) {
    let _ = std::fs::remove_dir(path);
    crash::step("a level that nobody uses was removed");
}

/// Takes back what [`open`] did to the root, as far as nobody is in it: the directories, and the controllers that it
/// enabled. The daemon itself may be in one: it goes back to where it was started, or up.
pub(super) fn close(root: &Path, changes: &Changes) {
    let tree_is_gone = std::fs::remove_dir(root.join(MACHINE)).is_ok();
    if let (true, Ok(root)) = (tree_is_gone, Cgroup::open(root)) {
        for name in &changes.enabled {
            // One that somebody else has come to use meanwhile stays.
            let _ = root.write("cgroup.subtree_control", &format!("-{name}"));
        }
    }
    let own = Membership::of("self").ok().and_then(|place| place.v2).unwrap_or_default();
    if own.ends_with(DAEMON) || own.ends_with(MOVED) {
        let leave = |to: &Path| Cgroup::open(to).is_ok_and(|to| to.write("cgroup.procs", "0").is_ok());
        // Where neither takes it, an empty directory stays for the next daemon.
        let _ = changes.came_from.as_deref().is_some_and(leave) || leave(root);
    }
    remove_if_empty(&root.join(DAEMON));
    remove_if_empty(&root.join(MOVED));
}

/// How much memory there is to take a share of: the machine's, or what the cgroup above the root allows if that is less,
/// as in a container.
pub fn ram(root: &Path) -> Bytes {
    let info = rustix::system::sysinfo();
    let machine = info.totalram * u64::from(info.mem_unit);
    let limit = |directory: &Path| {
        let text = Cgroup::open(directory).and_then(|cgroup| cgroup.read("memory.max")).ok()?;
        files::number(&text)
    };
    Bytes(root.ancestors().filter_map(limit).fold(machine, u64::min))
}
