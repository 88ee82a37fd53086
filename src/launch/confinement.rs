//! What the launcher does to itself between its proof and the exec, so that what it executes cannot leave its leaf.
//!
//! The ways out, and what closes each: another cgroup's `cgroup.procs` (all cgroup mounts become read-only, in a mount
//! namespace of its own; a cgroup namespace makes the leaf the root of all that can be mounted anew), a service manager or
//! a message bus (`/run/user`, `/run/systemd`, `/run/dbus` are covered), a container daemon (its sockets are), and programs
//! that gain rights, as at(1) and crontab(1) do (`PR_SET_NO_NEW_PRIVS`). Without `CAP_SYS_ADMIN` all that takes a user
//! namespace, in which the user stays who that is (user_namespaces(7)), and no capability is left at the end.
//!
//! It is the same process afterwards, with the same descriptors, directory and environment. Whatever fails is told, and then
//! nothing is executed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::cgroup::{self, Membership};
use crate::confine::Confine;

/// Where service managers, message buses and container daemons listen.
const HIDDEN: &[&str] = &[
    "/run/user",
    "/run/systemd",
    "/run/dbus",
    "/run/containerd",
    "/run/crio",
    "/run/docker",
    "/run/podman",
    "/run/docker.sock",
];

/// What of that starts nothing and is needed: `/etc/resolv.conf` leads here (systemd-resolved.service(8)).
const KEPT: &[&str] = &["/run/systemd/resolve"];

/// What listens in a runtime directory that stands elsewhere.
const OF_A_USER: &[&str] = &["bus", "systemd", "podman", "docker.sock"];

/// The most bits that a set of capabilities has.
const CAPABILITIES: u32 = u64::BITS;

/// Why it cannot be confined.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfineError {
    #[error("it cannot be confined: no namespaces are to be had here ({}): {remedy}", source.desc())]
    Namespaces { source: Errno, remedy: String },
    #[error("it cannot be confined: cannot {doing} {} ({}): {remedy}", path.display(), source.desc())]
    Mount { doing: &'static str, path: PathBuf, source: Errno, remedy: String },
    #[error("it cannot be confined: cannot {doing}")]
    Own {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("it was confined, and the kernel tells that {0}")]
    Unproved(String),
}

/// Confines the calling process, and with it all that it will start.
pub(super) fn confine(how: Confine) -> Result<(), ConfineError> {
    if how == Confine::No || is_held_already().map_err(own("look at how it is confined already"))? {
        return Ok(());
    }
    let in_user_namespace = namespaces()?;
    let none: Option<&str> = None;
    // What the machine mounts later is seen here too, and nothing that is done here is seen there.
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).map_err(failed("part from", Path::new("/")))?;
    let cgroups = cgroup::mount_points().map_err(own("read /proc/self/mountinfo"))?;
    cgroups.iter().try_for_each(|point| make_read_only(point))?;
    let hidden = hidden();
    let covered = hidden.iter().map(|path| cover(path)).collect::<Result<Vec<_>, _>>()?;
    nix::sys::prctl::set_no_new_privs().map_err(|errno| own("give up gaining rights")(errno.into()))?;
    if how == Confine::Strict || in_user_namespace {
        // In a user namespace root would have all of them again, over the mounts that were just made.
        drop_capabilities().map_err(|errno| own("drop its capabilities")(errno.into()))?;
    }
    prove(&cgroups, covered.iter().flatten())
}

/// Whether it was launched by a root that is confined strictly, and so can leave nothing: without capabilities root can be
/// given no user namespace in which it is root (`CAP_SETFCAP`, user_namespaces(7)), and has no use for one.
fn is_held_already() -> io::Result<bool> {
    if !rustix::process::geteuid().is_root() || !rustix::thread::capabilities(None)?.permitted.is_empty() {
        return Ok(false);
    }
    let bounding = (0..CAPABILITIES).map(|number| CapabilitySet::from_bits_retain(1 << number));
    let gains_none = nix::sys::prctl::get_no_new_privs()?
        && bounding.map(rustix::thread::capability_is_in_bounding_set).all(|has| !has.unwrap_or(false));
    // Where its cgroup namespace began is a leaf: its own, or the one beside it out of which it was launched.
    let found = Membership::of("self")?;
    let is_beside = |cgroup: &String| cgroup == "/" || cgroup.starts_with("/../");
    let cgroups = [&found.v2, &found.memory, &found.pids].into_iter().flatten().all(is_beside)
        && cgroup::mount_points()?.iter().all(|point| !is_writable(point));
    Ok(gains_none && cgroups && hidden().iter().all(|path| is_covered(path)))
}

/// Whether there is nothing but what [`cover`] puts there.
fn is_covered(path: &Path) -> bool {
    let Ok(found) = rustix::fs::stat(path) else { return true };
    if !path.is_dir() {
        return identity(path) == identity(Path::new("/dev/null")) && found.st_rdev != 0;
    }
    let is_kept = |entry: std::fs::DirEntry| KEPT.iter().any(|kept| Path::new(kept) == entry.path());
    !is_writable(path) && std::fs::read_dir(path).is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(is_kept)))
}

/// Whether what is mounted there can be written; not where nobody gets there.
fn is_writable(point: &Path) -> bool {
    rustix::fs::statvfs(point).is_ok_and(|found| !found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Namespaces of its own for its cgroups and its mounts, and a user namespace where that takes one.
fn namespaces() -> Result<bool, ConfineError> {
    let wanted = CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNS;
    match unshare(wanted) {
        Ok(()) => return Ok(false),
        Err(Errno::EPERM) => {}
        Err(source) => return Err(ConfineError::Namespaces { source, remedy: remedy() }),
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(wanted | CloneFlags::CLONE_NEWUSER)
        .map_err(|source| ConfineError::Namespaces { source, remedy: remedy() })?;
    // A group may be mapped by whoever cannot leave groups, which could deny something (user_namespaces(7)).
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ];
    for (file, text) in maps {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(own("stay the same user in a user namespace"))?;
    }
    Ok(true)
}

/// Read-only in this mount namespace. The flags that it has are locked, where it takes a user namespace, and stay.
fn make_read_only(point: &Path) -> Result<(), ConfineError> {
    let has = match rustix::fs::statvfs(point) {
        Ok(found) => found.f_flag,
        // Hidden below another mount: nobody gets there.
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(own("look at the cgroup mounts")(error.into())),
    };
    let kept = [
        (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
        (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
        (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
        (StatVfsMountFlags::NOATIME, MsFlags::MS_NOATIME),
        (StatVfsMountFlags::NODIRATIME, MsFlags::MS_NODIRATIME),
        (StatVfsMountFlags::RELATIME, MsFlags::MS_RELATIME),
    ];
    let kept = kept.into_iter().filter(|(flag, _)| has.contains(*flag)).map(|(_, flag)| flag).collect::<MsFlags>();
    let none: Option<&str> = None;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | kept;
    mount(none, point, none, flags, none).map_err(failed("make read-only", point))
}

/// All that is there of what is to be hidden.
fn hidden() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = HIDDEN.iter().map(PathBuf::from).collect();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    paths.extend(runtime.iter().flat_map(|path| OF_A_USER.iter().map(|name| path.join(name))));
    paths.extend(bus(std::env::var_os("DBUS_SESSION_BUS_ADDRESS")
        .as_deref()
        .map(|value| value.as_bytes())
        .unwrap_or(b"")));
    // Links are followed: what is covered is what stands at their end. What is below another one is covered with it.
    let mut real: Vec<PathBuf> = paths.iter().filter_map(|path| path.canonicalize().ok()).collect();
    real.sort();
    real.dedup_by(|path, above| path.starts_with(above));
    real
}

/// The socket of a bus (D-Bus Specification, "Server Addresses"). An abstract one cannot be covered.
fn bus(address: &[u8]) -> Vec<PathBuf> {
    let text = String::from_utf8_lossy(address);
    let paths = text.split(';').filter_map(|one| one.strip_prefix("unix:"));
    paths.flat_map(|keys| keys.split(',')).filter_map(|key| Some(PathBuf::from(key.strip_prefix("path=")?))).collect()
}

/// Something that was covered, and the device that it stood on.
#[derive(Debug)]
struct Covered {
    path: PathBuf,
    was: (u64, u64),
}

/// Puts an empty directory, or a file that nobody can connect to, over what stands there.
fn cover(path: &Path) -> Result<Option<Covered>, ConfineError> {
    let Some(was) = identity(path) else { return Ok(None) };
    let none: Option<&str> = None;
    if !path.is_dir() {
        mount(Some("/dev/null"), path, none, MsFlags::MS_BIND, none).map_err(failed("hide", path))?;
        return Ok(Some(Covered { path: path.to_owned(), was }));
    }
    let kept: Vec<(PathBuf, OwnedFd)> = KEPT
        .iter()
        .filter_map(|kept| Some((path.join(Path::new(kept).strip_prefix(path).ok()?), open(kept)?)))
        .collect();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("mode=0755,size=16k")).map_err(failed("hide", path))?;
    for (place, directory) in kept {
        std::fs::create_dir(&place).map_err(own("keep the resolver's directory"))?;
        let source = format!("/proc/self/fd/{}", directory.as_raw_fd());
        mount(Some(source.as_str()), &place, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
            .map_err(failed("keep", &place))?;
    }
    let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags;
    mount(none, path, none, remount, none).map_err(failed("make read-only", path))?;
    Ok(Some(Covered { path: path.to_owned(), was }))
}

fn open(path: &str) -> Option<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Which file it is.
fn identity(path: &Path) -> Option<(u64, u64)> {
    rustix::fs::stat(path).ok().map(|found| (found.st_dev, found.st_ino))
}

/// No capability is left, and none comes back with an exec.
fn drop_capabilities() -> rustix::io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    for number in 0..CAPABILITIES {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // This kernel has no such one.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// Reads back from the kernel what holds.
fn prove<'a>(cgroups: &[PathBuf], mut covered: impl Iterator<Item = &'a Covered>) -> Result<(), ConfineError> {
    let unproved = |what: String| Err(ConfineError::Unproved(what));
    let found = Membership::of("self").map_err(own("read /proc/self/cgroup"))?;
    if [&found.v2, &found.memory, &found.pids].into_iter().flatten().any(|cgroup| cgroup != "/") {
        return unproved(format!("its cgroup namespace has another root: {found}"));
    }
    if let Some(point) = cgroups.iter().find(|point| is_writable(point)) {
        return unproved(format!("{} can be written", point.display()));
    }
    if let Some(seen) = covered.find(|covered| identity(&covered.path) == Some(covered.was)) {
        return unproved(format!("{} can be seen", seen.path.display()));
    }
    match nix::sys::prctl::get_no_new_privs() {
        Ok(true) => Ok(()),
        _ => unproved("it can gain rights".to_owned()),
    }
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(Errno) -> ConfineError {
    let path = path.to_owned();
    move |source| ConfineError::Mount { doing, path: path.clone(), source, remedy: remedy() }
}

fn own(doing: &'static str) -> impl Fn(io::Error) -> ConfineError {
    move |source| ConfineError::Own { doing, source }
}

/// What stands in the way of whoever is not root.
fn remedy() -> String {
    const SWITCHES: &[(&str, &str, &str)] = &[
        ("/proc/sys/user/max_user_namespaces", "0", "set user.max_user_namespaces above 0"),
        ("/proc/sys/user/max_mnt_namespaces", "0", "set user.max_mnt_namespaces above 0"),
        ("/proc/sys/user/max_cgroup_namespaces", "0", "set user.max_cgroup_namespaces above 0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "set kernel.unprivileged_userns_clone to 1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "give pinfold an AppArmor profile that allows userns, or set kernel.apparmor_restrict_unprivileged_userns to 0",
        ),
    ];
    let says = |path: &str, value: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let switch = SWITCHES.iter().find(|(path, value, _)| says(path, value)).map(|(.., remedy)| *remedy);
    let switch =
        switch.unwrap_or("allow user namespaces to this user (in a container its runtime's seccomp profile has to)");
    format!("{switch}, launch it as root, or launch it without --confine where the configuration leaves that open")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_a_bus_is_found_in_its_address() {
        let found = |address: &str| bus(address.as_bytes());
        assert_eq!(found("unix:path=/run/user/1000/bus"), [PathBuf::from("/run/user/1000/bus")]);
        assert_eq!(found("tcp:host=x;unix:guid=1,path=/tmp/b"), [PathBuf::from("/tmp/b")]);
        assert_eq!(found("unix:abstract=/tmp/dbus-1").len() + found("").len(), 0);
    }

    #[test]
    fn who_is_not_to_be_confined_stays_as_it_is() {
        let before = std::fs::read_link("/proc/self/ns/mnt").unwrap();
        confine(Confine::No).unwrap();
        assert_eq!(std::fs::read_link("/proc/self/ns/mnt").unwrap(), before);
    }
}
