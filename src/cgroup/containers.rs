//! Who calls from inside a container, and which cgroup is the container's.
//!
//! A caller that differs from this process in its pid, user or cgroup namespace is in a container, or in a sandbox like one.
//! Its cgroup is the root of its cgroup namespace, which a runtime makes for it; nothing that the caller writes or mounts
//! changes what the kernel says of that, and whoever makes another namespace inside gets one that begins further down. Where
//! it has none of its own, or this process may not look into it, its own cgroup counts.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::dir::Cgroup;
use super::directories::Directories;
use super::files::Membership;
use super::group::Controllers;
use super::root;
use crate::realm::Container;

/// Where the processes of a cgroup go that must be empty, because its children get controllers: a container's own, and that
/// of a daemon in one.
pub(super) const MOVED: &str = "pinfold-moved";

/// What makes a caller another realm's.
const NAMESPACES: [&str; 3] = ["pid", "user", "cgroup"];

impl Directories {
    /// The container that a process is in, if it is in one.
    pub fn container_of(&self, pid: i32) -> Option<Container> {
        let differs = |kind: &str| {
            let own = std::fs::read_link(format!("/proc/self/ns/{kind}"));
            let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{kind}"));
            own.ok().zip(theirs.ok()).map_or_else(|| !seems_to_share(pid), |(own, theirs)| own != theirs)
        };
        let different: Vec<&str> = NAMESPACES.into_iter().filter(|kind| differs(kind)).collect();
        if different.is_empty() {
            return None;
        }
        let own = Membership::of(pid).ok().and_then(|place| place.v2).unwrap_or_default();
        let beginning = different.contains(&"cgroup").then(|| namespace_root(pid, &own)).flatten();
        Some(Container::at(self.outside(beginning.as_deref().unwrap_or(&own))))
    }

    /// The cgroup above what we made below it.
    fn outside<'a>(&self, cgroup: &'a str) -> &'a str {
        let ours = [format!("/{}/", self.companion), format!("/{MOVED}/")];
        let ends = [format!("/{}", self.companion), format!("/{MOVED}")];
        let cut = ours.iter().filter_map(|ours| cgroup.find(ours.as_str())).min();
        let cut = cut.or_else(|| ends.iter().find_map(|end| cgroup.strip_suffix(end.as_str())).map(str::len));
        cut.map_or(cgroup, |at| &cgroup[..at])
    }

    /// Whether the leaves of a container may be made below its cgroup. Not where that is systemd's own: what is in a unit that
    /// is not delegated is a sandbox there, and its servers are placed as those of the unit's other processes.
    pub fn takes_leaves(&self, container: &Container) -> bool {
        let Some(directory) = self.layout.v2().directory(container.cgroup()) else { return false };
        let point = &self.layout.v2().point;
        if directory == *point {
            return false;
        }
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_unit = |path: &Path, ends: &[&str]| ends.iter().any(|end| name(path).ends_with(end));
        let mut above = directory.ancestors().take_while(|path| *path != point);
        let unit = above.find(|path| is_unit(path, &[".scope", ".service"]));
        // A user's manager marks nothing, and makes no cgroup in a unit: whoever made one there had it delegated.
        let of_user = |unit: &Path| unit.ancestors().skip(1).any(|path| name(path).starts_with("user@"));
        let delegated = |unit: &Path| root::is_delegated(unit) || (unit != directory && of_user(unit));
        unit.is_none_or(delegated)
            && (!is_unit(&directory, &[".scope", ".service", ".slice"]) || root::is_delegated(&directory))
    }

    /// Which controllers leaves below a container have now, and which they could have.
    pub fn controllers_below(&self, container: &Container) -> (Controllers, Controllers) {
        let directory = self.layout.v2().directory(container.cgroup());
        let Some(cgroup) = directory.and_then(|path| Cgroup::open(path).ok()) else { return Default::default() };
        (Controllers::enabled(&cgroup).unwrap_or_default(), Controllers::of(&cgroup).unwrap_or_default())
    }
}

/// Whether a process whose namespaces may not be read shares them as far as anybody may see: root's, for the daemon of a user
/// (`NSpid` of proc_pid_status(5), and user_namespaces(7)). One that is gone does not: nobody reaches further for hiding.
fn seems_to_share(pid: i32) -> bool {
    let read = |process: &str, file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}")).ok();
    let pid = pid.to_string();
    let numbers = read(&pid, "status").unwrap_or_default();
    let numbers =
        numbers.lines().find_map(|line| line.strip_prefix("NSpid:")).map(|line| line.split_whitespace().count());
    numbers == Some(1) && read(&pid, "uid_map").is_some_and(|theirs| read("self", "uid_map") == Some(theirs))
}

/// The root of a process's cgroup namespace: how its cgroup is called there is the end of how it is called here. It takes the
/// privilege to enter that namespace, which one thread does that exits afterwards.
fn namespace_root(pid: i32, own: &str) -> Option<String> {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/cgroup")).ok()?;
    let look = move || {
        enter(namespace.as_fd())?;
        Membership::of(pid).ok()?.v2
    };
    let inside = std::thread::Builder::new().name("cgroup-namespace".into()).spawn(look).ok()?.join().ok()??;
    // "/../x": it was moved out of its own namespace.
    if inside.split('/').any(|part| part == "..") {
        return None;
    }
    let root = if inside == "/" { own } else { own.strip_suffix(inside.as_str())? };
    Some(if root.is_empty() { "/" } else { root }.to_owned())
}

fn enter(namespace: BorrowedFd<'_>) -> Option<()> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::ControlGroup)).ok()
}
