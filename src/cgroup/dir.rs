//! One cgroup directory, held by its descriptor: a stored path may since mean somebody else.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use super::files;
use crate::sys::bpf::{self, Attach};
use crate::sys::crash;

/// The most that is read of one file; the longest, `cgroup.procs`, then tells half a million processes.
const FILE_BYTES_MAX: usize = 4 << 20;

/// What most files fit in.
const FILE_BYTES: usize = 4 << 10;

/// The longest extended attribute that is read.
const ATTRIBUTE_BYTES_MAX: usize = 64;

/// How deep below a leaf its own child cgroups are followed; the kernel's `cgroup.max.depth` may allow more.
const DEPTH_MAX: usize = 64;

/// What was tried on which cgroup file, and what the kernel said.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct CgroupError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl CgroupError {
    pub(super) fn new(doing: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self { doing, path: path.into(), source: source.into() }
    }

    /// It was looked for and is not there.
    pub fn gone(path: impl Into<PathBuf>) -> Self {
        Self::new("open", path, io::Error::from_raw_os_error(nix::libc::ENOENT))
    }

    fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// The cgroup or the process is gone: at teardown that is success.
    pub fn is_gone(&self) -> bool {
        use nix::libc::{ENODEV, ENOENT, ESRCH};
        matches!(self.errno(), Some(ENOENT | ENODEV | ESRCH))
    }

    /// Something is in it, or the no-internal-process rule forbids it.
    pub fn is_busy(&self) -> bool {
        use nix::libc::{EBUSY, ENOTEMPTY};
        matches!(self.errno(), Some(EBUSY | ENOTEMPTY))
    }

    /// The kernel said no for want of permission, or because the filesystem is mounted read-only.
    pub fn is_denied(&self) -> bool {
        use nix::libc::{EACCES, EPERM, EROFS};
        matches!(self.errno(), Some(EACCES | EPERM | EROFS))
    }

    /// The filesystem is mounted read-only, as in a default container.
    pub fn is_read_only(&self) -> bool {
        self.errno() == Some(nix::libc::EROFS)
    }

    /// Nothing is wrong: less was done than was asked for, or a signal came.
    pub(super) fn is_again(&self) -> bool {
        use nix::libc::{EAGAIN, EINTR};
        matches!(self.errno(), Some(EAGAIN | EINTR))
    }

    pub(super) fn exists(&self) -> bool {
        self.errno() == Some(nix::libc::EEXIST)
    }
}

/// A cgroup directory of any hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    /// Its descriptor, or that of the one that it is a child of.
    at: Arc<OwnedFd>,
    /// What it is called there; empty where it has a descriptor of its own.
    name: String,
    path: PathBuf,
}

impl Cgroup {
    /// Opens an existing cgroup by path. `O_PATH`: the descriptor costs the kernel next to nothing while it is kept.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, CgroupError> {
        let path = path.into();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self::held(fd, path)),
            Err(errno) => Err(CgroupError::new("open", path, errno)),
        }
    }

    fn held(fd: OwnedFd, path: PathBuf) -> Self {
        Self { at: Arc::new(fd), name: String::new(), path }
    }

    /// What one of its files is called below the descriptor.
    fn file<'a>(&self, file: &'a str) -> Cow<'a, str> {
        if self.name.is_empty() { Cow::Borrowed(file) } else { Cow::Owned(format!("{}/{file}", self.name)) }
    }

    /// One that was removed, as if it had been held when it went: it has no file, no process and no child. No descriptor of
    /// it can be had any more, so what is held is a directory of proc(5) whose names are all numbers.
    fn removed(path: PathBuf) -> Result<Self, CgroupError> {
        Ok(Self { path, ..Self::open("/proc/self/fdinfo")? })
    }

    /// Opens a cgroup by path, or the memory of it where it is gone.
    pub(super) fn open_or_removed(path: &Path) -> Result<Self, CgroupError> {
        match Self::open(path) {
            Err(error) if error.is_gone() => Self::removed(path.to_owned()),
            opened => opened,
        }
    }

    /// Opens a child of this cgroup.
    pub fn child(&self, name: &str) -> Result<Self, CgroupError> {
        let path = self.path.join(name);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::openat(&*self.at, &*self.file(name), flags, Mode::empty()) {
            Ok(fd) => Ok(Self::held(fd, path)),
            Err(errno) => Err(CgroupError::new("open", path, errno)),
        }
    }

    /// A child of this cgroup that is there, held by its name: where another of that name, once this one was removed, is as
    /// good. It shares this one's descriptor, and pins nothing of its own in the kernel.
    pub(super) fn child_by_name(&self, name: &str) -> Result<Self, CgroupError> {
        let path = self.path.join(name);
        match rustix::fs::accessat(&*self.at, &*self.file(name), rustix::fs::Access::EXISTS, AtFlags::empty()) {
            Ok(()) => Ok(Self { at: self.at.clone(), name: self.file(name).into_owned(), path }),
            Err(errno) => Err(CgroupError::new("open", path, errno)),
        }
    }

    /// Makes a child; it must not exist yet.
    pub fn create_child(&self, name: &str) -> Result<Self, CgroupError> {
        self.make_child(name)?;
        self.child(name)
    }

    /// Makes a child, and tells nothing of it.
    pub(super) fn make_child(&self, name: &str) -> Result<(), CgroupError> {
        rustix::fs::mkdirat(&*self.at, &*self.file(name), Mode::from_raw_mode(0o755))
            .map_err(|errno| CgroupError::new("create", self.path.join(name), errno))?;
        crash::step("a cgroup was made");
        Ok(())
    }

    /// Makes a child, or opens the one that is there; tells whether it was made.
    pub fn ensure_child(&self, name: &str) -> Result<(Self, bool), CgroupError> {
        match self.create_child(name) {
            Ok(made) => Ok((made, true)),
            Err(error) if error.exists() => Ok((self.child(name)?, false)),
            Err(error) => Err(error),
        }
    }

    /// Removes a child; that it is already gone is success.
    pub fn remove_child(&self, name: &str) -> Result<(), CgroupError> {
        match rustix::fs::unlinkat(&*self.at, &*self.file(name), AtFlags::REMOVEDIR) {
            Ok(()) => {
                crash::step("a cgroup was removed");
                Ok(())
            }
            Err(errno) => {
                let error = CgroupError::new("remove", self.path.join(name), errno);
                if error.is_gone() { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Where it was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path to this very directory, whatever its name means by now: for interfaces that take paths only.
    pub fn fd_path(&self) -> PathBuf {
        let held = PathBuf::from(format!("/proc/self/fd/{}", self.at.as_raw_fd()));
        if self.name.is_empty() { held } else { held.join(&self.name) }
    }

    /// Whether it has this file: a controller that is not enabled here has none.
    pub fn has(&self, file: &str) -> bool {
        rustix::fs::accessat(&*self.at, &*self.file(file), rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
    }

    /// Where BPF programs are attached to it; `None` where the kernel does not tell us, which takes `CAP_NET_ADMIN`.
    pub fn programs(&self) -> Option<Vec<Attach>> {
        // Those of v2 cgroups only, each of which has a descriptor of its own. An older kernel does not know all of them.
        let told = Attach::ALL.into_iter().filter_map(|at| Some((at, bpf::attached(&self.at, at).ok()?)));
        let told: Vec<_> = told.collect();
        (!told.is_empty()).then(|| told.into_iter().filter(|(_, count)| *count > 0).map(|(at, _)| at).collect())
    }

    /// Gives it to a user, with some of its files.
    pub(super) fn give(&self, files: &[&str], user: u32) -> Result<(), CgroupError> {
        let user = Some(rustix::fs::Uid::from_raw(user));
        let own = [(self.fd_path(), AtFlags::empty())];
        let files = files.iter().map(|file| (self.fd_path().join(file), AtFlags::SYMLINK_NOFOLLOW));
        for (path, flags) in own.into_iter().chain(files) {
            rustix::fs::chownat(rustix::fs::CWD, &path, user, None, flags)
                .map_err(|errno| CgroupError::new("give away", self.path.clone(), errno))?;
        }
        Ok(())
    }

    /// Whether children can be made in it.
    pub(super) fn writable(&self) -> Result<(), CgroupError> {
        rustix::fs::access(self.fd_path(), rustix::fs::Access::WRITE_OK)
            .map_err(|errno| CgroupError::new("write", &self.path, errno))
    }

    /// Locks the directory (flock(2)) for as long as the descriptor lives; `None` where somebody else has it.
    pub(super) fn lock(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let fail = |errno: rustix::io::Errno| CgroupError::new("lock", &self.path, errno);
        let fd = rustix::fs::openat(
            &*self.at,
            &*self.file("."),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(fail)?;
        match rustix::fs::flock(&fd, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(fd)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(fail(errno)),
        }
    }

    /// Reads one of its files.
    pub fn read(&self, file: &str) -> Result<String, CgroupError> {
        let fail = |source: io::Error| CgroupError::new("read", self.path.join(file), source);
        let fd = rustix::fs::openat(&*self.at, &*self.file(file), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| fail(errno.into()))?;
        // A list comes by the page. Any other file is one record, of which read(2) gives all that there is room for: what
        // leaves room is its end (seq_read_iter() of the kernel's fs/seq_file.c).
        let is_list = file == "cgroup.procs";
        let mut text = Vec::with_capacity(FILE_BYTES);
        while text.len() < FILE_BYTES_MAX {
            match rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut text)) {
                Ok(0) => break,
                Ok(_) if text.len() == text.capacity() => text.reserve(text.capacity()),
                Ok(_) if is_list => {}
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(fail(errno.into())),
            }
        }
        String::from_utf8(text).map_err(|error| fail(io::Error::other(error)))
    }

    /// Writes one of its files, with one write(2) as the kernel wants it.
    pub fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let fail = |errno: rustix::io::Errno| CgroupError::new("write", self.path.join(file), errno);
        let fd = rustix::fs::openat(&*self.at, &*self.file(file), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(fail)?;
        rustix::io::write(&fd, value.as_bytes()).map_err(fail)?;
        crash::step(file);
        Ok(())
    }

    /// An extended attribute that somebody gave it (xattr(7)), also of a directory that was removed and is held here.
    pub fn attribute(&self, name: &str) -> Option<String> {
        let mut text = [0; ATTRIBUTE_BYTES_MAX];
        let length = rustix::fs::getxattr(self.fd_path(), name, &mut text).ok()?;
        String::from_utf8(text.get(..length)?.to_vec()).ok()
    }

    /// Whether any process is in it or below: `populated` of `cgroup.events`. A cgroup that is gone is empty. v2 only.
    pub fn populated(&self) -> Result<bool, CgroupError> {
        match self.read("cgroup.events") {
            Ok(text) => Ok(files::keyed(&text, "populated") != Some(0)),
            Err(error) if error.is_gone() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The processes of this cgroup itself. Those of other pid namespaces are told as 0 by the kernel and left out.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        match self.read("cgroup.procs") {
            Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()),
            // A threaded cgroup: its processes are told by the domain above it.
            Err(error) if error.is_gone() || error.errno() == Some(nix::libc::EOPNOTSUPP) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The processes of this cgroup and of all below it.
    pub fn all_processes(&self) -> Result<Vec<i32>, CgroupError> {
        let mut found = self.processes()?;
        self.visit(DEPTH_MAX, &mut |cgroup| {
            found.extend(cgroup.processes()?);
            Ok(())
        })?;
        Ok(found)
    }

    /// The cgroups directly below.
    pub fn children(&self) -> Result<Vec<String>, CgroupError> {
        let fail = |errno: rustix::io::Errno| CgroupError::new("list", &self.path, errno);
        // A directory has a link from itself, one from above, and one from each below it (kernfs_refresh_inode() of the
        // kernel's fs/kernfs/inode.c): most have none below, and need not be listed among their files.
        let own = rustix::fs::statat(&*self.at, self.name.as_str(), AtFlags::EMPTY_PATH);
        if own.is_ok_and(|found| found.st_nlink == 2) {
            return Ok(Vec::new());
        }
        let fd = rustix::fs::openat(
            &*self.at,
            &*self.file("."),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let dir = match fd.and_then(Dir::new) {
            Ok(dir) => dir,
            Err(errno) if CgroupError::new("list", &self.path, errno).is_gone() => return Ok(Vec::new()),
            Err(errno) => return Err(fail(errno)),
        };
        let mut names = Vec::new();
        for entry in dir {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) if CgroupError::new("list", &self.path, errno).is_gone() => break,
                Err(errno) => return Err(fail(errno)),
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_dir() && name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Visits all below, children before their parents. What goes meanwhile is passed over.
    fn visit(&self, depth: usize, each: &mut dyn FnMut(&Cgroup) -> Result<(), CgroupError>) -> Result<(), CgroupError> {
        if depth == 0 {
            return Ok(());
        }
        for name in self.children()? {
            match self.child(&name) {
                Ok(child) => {
                    child.visit(depth - 1, each)?;
                    each(&child)?;
                }
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Adds up one number over this cgroup and all below it.
    pub fn sum(&self, number: &dyn Fn(&Cgroup) -> u64) -> u64 {
        let mut total = number(self);
        // What cannot be visited is what is going away; its share is lost with it.
        let _ = self.visit(DEPTH_MAX, &mut |cgroup| {
            total += number(cgroup);
            Ok(())
        });
        total
    }

    /// Removes the child `name` with all cgroups below it; that it is gone is success.
    pub fn remove_tree(&self, name: &str) -> Result<(), CgroupError> {
        // Most have nothing below.
        match self.remove_child(name) {
            Err(error) if error.is_busy() => {}
            other => return other,
        }
        let child = match self.child(name) {
            Ok(child) => child,
            Err(error) if error.is_gone() => return Ok(()),
            Err(error) => return Err(error),
        };
        for below in child.children()? {
            child.remove_tree(&below)?;
        }
        self.remove_child(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_that_was_removed_is_empty_and_takes_nothing() {
        let removed = Cgroup::open_or_removed(Path::new("/sys/fs/cgroup/no such cgroup")).unwrap();
        assert_eq!(removed.path(), Path::new("/sys/fs/cgroup/no such cgroup"));
        assert!(!removed.populated().unwrap());
        assert_eq!((removed.all_processes().unwrap(), removed.children().unwrap()), (vec![], vec![]));
        assert!(!removed.has("cgroup.events") && removed.attribute("user.oomd_ooms").is_none());
        assert!(removed.write("cgroup.kill", "1").unwrap_err().is_gone());
        assert!(removed.create_child("leaf").is_err());
        removed.remove_tree("leaf").unwrap();
    }
}
