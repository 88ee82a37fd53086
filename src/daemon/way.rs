//! Walks to a host's configuration file step by step, as the kernel would, and reads it with the rights of whoever can
//! turn its way.
//!
//! The way of a file that root watches may lead through directories of a user, who can point it at any file at any moment.
//! So each step holds what it reached by a descriptor, and from the first one on that is not root's the thread has the
//! rights of its owner (credentials(7)): what that user may not read is not read. Each directory is watched before a
//! name is looked up in it, so that whatever makes the path mean another file is told.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Uid, User};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, inotify};
use rustix::io::Errno;

use crate::chain::chain;
use crate::hostfile::{self, FILE_BYTES_MAX, HostFileError, Syntax};
use crate::policy::Content;

/// Symbolic links that are followed on the way to a file, as the kernel does (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// The group of a user that the system does not know: nobody's.
const NO_GROUP: u32 = 65534;

/// What looking at a file gave.
pub(super) struct Look {
    pub(super) found: Found,
    /// The watches of the directories that were on the way to it, and the names in them.
    pub(super) watches: BTreeSet<i32>,
    pub(super) names: BTreeSet<OsString>,
}

pub(super) enum Found {
    Says(Content),
    Away,
    Unusable(String),
}

/// Why nothing was read. No message quotes the file: whoever reads the log may not be who may read it.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{}{}", .0.kind(), .1.map_or_else(String::new, |uid| format!(", with the rights of user {uid}")))]
    Io(io::Error, Option<u32>),
    #[error("its way has too many symbolic links")]
    Links,
    #[error("others than root may change {}, so that nobody can be said to speak in it", .0.display())]
    Everybodys(PathBuf),
    #[error("the rights of user {0} cannot be taken")]
    Rights(u32, #[source] io::Error),
    #[error("it is no regular file")]
    NoFile,
    #[error(transparent)]
    Content(#[from] HostFileError),
}

/// Looks at a file, on a thread of its own: its rights are never given back.
pub(super) fn look(path: &Path, inotify: &OwnedFd) -> Look {
    let mut way = Way { inotify, at: PathBuf::new(), speaker: None, watches: BTreeSet::new(), names: BTreeSet::new() };
    let found = match way.walk(path).and_then(|(file, meta)| way.read(path, &file, &meta)) {
        Ok(entries) => Found::Says(Content::Says { uid: way.speaker.unwrap_or(0), entries }),
        Err(Lost::Io(error, _)) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Found::Away
        }
        Err(lost) => Found::Unusable(chain(&lost)),
    };
    Look { found, watches: way.watches, names: way.names }
}

/// A way, and what was met on it.
struct Way<'a> {
    inotify: &'a OwnedFd,
    /// The directory that was reached, links followed.
    at: PathBuf,
    /// Who says what stands in the file: the first owner on the way who is not root, because that user can put anything
    /// there. None for root.
    speaker: Option<u32>,
    watches: BTreeSet<i32>,
    names: BTreeSet<OsString>,
}

/// One step, that owns its name: the target of a link is read on the way.
enum Step {
    Top,
    Up,
    Down(OsString),
}

impl Way<'_> {
    fn walk(&mut self, path: &Path) -> Result<(OwnedFd, Stat), Lost> {
        let mut left = steps(path);
        let (mut reached, mut meta) = self.top()?;
        let mut links = 0;
        while let Some(step) = left.pop_front() {
            match step {
                Step::Top => (reached, meta) = self.top()?,
                Step::Up => {
                    self.at.pop();
                    (reached, meta) = self.open(&reached, OsStr::new(".."), OFlags::DIRECTORY)?;
                }
                Step::Down(name) => {
                    self.watch(&reached, &name);
                    let (next, next_meta) = self.down(&reached, &name, left.is_empty())?;
                    if FileType::from_raw_mode(next_meta.st_mode) == FileType::Symlink {
                        links += 1;
                        if links > LINKS_MAX {
                            return Err(Lost::Links);
                        }
                        let target = rustix::fs::readlinkat(&next, "", Vec::new()).map_err(|error| self.lost(error))?;
                        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                        steps(&target).into_iter().rev().for_each(|step| left.push_front(step));
                    } else {
                        (reached, meta) = (next, next_meta);
                        self.at.push(name);
                    }
                }
            }
        }
        Ok((reached, meta))
    }

    fn top(&mut self) -> Result<(OwnedFd, Stat), Lost> {
        self.at = PathBuf::from("/");
        let top =
            rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|error| self.lost(error))?;
        self.met(top, OsStr::new(""))
    }

    /// What has this name in a directory; a link is not followed. `O_DIRECTORY` is what makes automounts happen (open(2)).
    fn down(&mut self, directory: &OwnedFd, name: &OsStr, is_last: bool) -> Result<(OwnedFd, Stat), Lost> {
        if !is_last {
            match self.open(directory, name, OFlags::DIRECTORY) {
                Err(Lost::Io(error, _)) if error.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => {}
                other => return other,
            }
        }
        self.open(directory, name, OFlags::empty())
    }

    fn open(&mut self, directory: &OwnedFd, name: &OsStr, flags: OFlags) -> Result<(OwnedFd, Stat), Lost> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags;
        let opened = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(|error| self.lost(error))?;
        self.met(opened, name)
    }

    /// Takes note of whose this is, and goes on with no more rights than that user has.
    fn met(&mut self, opened: OwnedFd, name: &OsStr) -> Result<(OwnedFd, Stat), Lost> {
        let meta = rustix::fs::statat(&opened, "", AtFlags::EMPTY_PATH).map_err(|error| self.lost(error))?;
        if self.speaker.is_none() && meta.st_uid != 0 {
            take_rights(meta.st_uid).map_err(|error| Lost::Rights(meta.st_uid, error))?;
            self.speaker = Some(meta.st_uid);
        }
        let is_link = FileType::from_raw_mode(meta.st_mode) == FileType::Symlink;
        // What an ACL gives to others shows in the bits of the group (acl(5)).
        let of_others = meta.st_mode & 0o002 != 0 || (meta.st_mode & 0o020 != 0 && meta.st_gid != 0);
        let is_sticky = meta.st_mode & 0o1000 != 0;
        if self.speaker.is_none() && of_others && !is_sticky && !is_link {
            return Err(Lost::Everybodys(self.at.join(name)));
        }
        Ok((opened, meta))
    }

    /// One that cannot be watched is seen at the next change of another.
    fn watch(&mut self, directory: &OwnedFd, name: &OsStr) {
        use inotify::WatchFlags as Flags;
        // The file may be written in place, and its mode may be what kept it from being read.
        let contents = Flags::CLOSE_WRITE | Flags::ATTRIB;
        let names = Flags::CREATE | Flags::MOVED_TO | Flags::MOVED_FROM | Flags::DELETE;
        let itself = Flags::DELETE_SELF | Flags::MOVE_SELF | Flags::ONLYDIR;
        let watch = inotify::add_watch(self.inotify, own_path(directory), contents | names | itself);
        self.watches.extend(watch.ok());
        self.names.insert(name.to_owned());
    }

    /// Reads a file: a regular one, and no more of it than any host's has.
    ///
    /// To open a device is to use it: a watchdog that was opened restarts the machine. So what it is, is known before it
    /// is opened for reading. Files of the kernel's own, some of which wait for a reader, tell no length.
    fn read(&self, path: &Path, file: &OwnedFd, meta: &Stat) -> Result<BTreeSet<String>, Lost> {
        if FileType::from_raw_mode(meta.st_mode) != FileType::RegularFile {
            return Err(Lost::NoFile);
        }
        match usize::try_from(meta.st_size) {
            Ok(0) => return Err(HostFileError::Empty.into()),
            Ok(..=FILE_BYTES_MAX) => {}
            Ok(_) | Err(_) => return Err(HostFileError::TooLong.into()),
        }
        let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
        let mut bytes = Vec::new();
        let opened = File::options().read(true).custom_flags(flags).open(own_path(file));
        let read = opened.and_then(|file| file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
        read.map_err(|error| Lost::Io(error, self.speaker))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(hostfile::entries(Syntax::of(&name), &bytes)?)
    }

    fn lost(&self, error: Errno) -> Lost {
        Lost::Io(error.into(), self.speaker)
    }
}

/// The steps of a path.
fn steps(path: &Path) -> VecDeque<Step> {
    let step = |component: Component<'_>| match component {
        Component::RootDir => Some(Step::Top),
        Component::ParentDir => Some(Step::Up),
        Component::CurDir | Component::Prefix(_) => None,
        Component::Normal(name) => Some(Step::Down(name.to_owned())),
    };
    path.components().filter_map(step).collect()
}

/// A path that leads to what a descriptor holds, whatever has its name now.
fn own_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Gives this thread the rights of a user on files, and no more: with another filesystem uid than root's go the
/// capabilities that pass over them (setfsuid(2), capabilities(7)). A daemon that is not root has its user's already.
fn take_rights(uid: u32) -> io::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let (uid, user) = (Uid::from_raw(uid), User::from_uid(Uid::from_raw(uid))?);
    let gid = user.as_ref().map_or(Gid::from_raw(NO_GROUP), |user| user.gid);
    let groups = match user.and_then(|user| CString::new(user.name).ok()) {
        Some(name) => nix::unistd::getgrouplist(&name, gid)?,
        None => vec![gid],
    };
    // The system call, which is about one thread; setgroups(3) of the C library is about all.
    let groups: Vec<_> = groups.iter().map(|group| rustix::process::Gid::from_raw(group.as_raw())).collect();
    rustix::thread::set_thread_groups(&groups)?;
    nix::unistd::setfsgid(gid);
    nix::unistd::setfsuid(uid);
    // They tell no failure, but what holds now (setfsuid(2)).
    let (now, group_now) = (nix::unistd::setfsuid(uid), nix::unistd::setfsgid(gid));
    if (now, group_now) == (uid, gid) { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

#[cfg(test)]
#[path = "way_tests.rs"]
mod tests;
