//! A file that may be replaced: read once, with bounds, and given other bytes whole or not at all.
//!
//! The new bytes are written to a file beside it that gets its owner, mode and attributes, and are on the disk before one
//! rename(2) puts them in its place. What has changed since it was read is not replaced. A symbolic link stays, and what it
//! leads to is replaced. A file of several names is not replaced at all: a rename would part it from its other names, and
//! to write in place would leave half a file behind where that is cut short, and reach names that nobody thought of, such
//! as those in a backup made of hard links.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::attributes::{Attributes, NotGiven};
use super::drafts;
use crate::hostfile::{FILE_BYTES_MAX, Syntax};

/// How many names are tried for the file that takes the place of another.
const DRAFTS_MAX: u32 = 16;

/// Why a file cannot be read or replaced.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// What was tried failed.
    #[error("cannot {doing} {}", path.display())]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is a directory, a device, a pipe.
    #[error("{} is no regular file", .0.display())]
    NoFile(PathBuf),
    /// It is longer than any host's.
    #[error("{} has more than {} MiB, which no host's has", .0.display(), FILE_BYTES_MAX >> 20)]
    TooLong(PathBuf),
    /// It has other names.
    #[error(
        "{} has {names} names (hard links), which would no longer be one file: `cp -p {0} {0}.new && mv {0}.new {0}` parts it \
         from the others",
        path.display()
    )]
    ManyNames {
        /// The file.
        path: PathBuf,
        /// How many.
        names: u64,
    },
    /// Somebody has written it since.
    #[error("{} was changed meanwhile, and is left as it is now: try again", .0.display())]
    Changed(PathBuf),
    /// A directory of ours belongs to somebody else than the file that it stands beside.
    #[error("{} belongs to uid {uid}, and not to uid {wanted}, whose file it stands beside: move it away", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Whose it should be.
        wanted: u32,
    },
    /// A user's symbolic link leads root to what is not that user's.
    #[error(
        "{} is a symbolic link of uid {by}, and leads to {}, which belongs to uid {uid}: name that file itself if it is meant",
        link.display(), target.display()
    )]
    Led {
        /// The link.
        link: PathBuf,
        /// Whose it is.
        by: u32,
        /// Where it leads.
        target: PathBuf,
        /// Whose that is.
        uid: u32,
    },
    /// It cannot be given back to its owner.
    #[error("{} is left as it is", path.display())]
    NotGiven {
        /// The file.
        path: PathBuf,
        /// What it would lose.
        #[source]
        source: NotGiven,
    },
}

/// Which file it is, and which state of it.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: i64,
    changed: (i64, u64),
    modified: (i64, u64),
}

impl Identity {
    fn of(stat: &rustix::fs::Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            changed: (stat.st_ctime, stat.st_ctime_nsec),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
        }
    }

    /// A rename changes when the inode was changed, and nothing else of it.
    fn is_same_but_renamed(&self, other: &Self) -> bool {
        let but_that = |identity: &Self| (identity.device, identity.inode, identity.size, identity.modified);
        but_that(self) == but_that(other)
    }
}

/// A file as it was read.
#[derive(Debug)]
pub struct Original {
    /// Where it is, with no symbolic link on the way.
    target: PathBuf,
    directory: OwnedFd,
    name: OsString,
    file: File,
    identity: Identity,
    bytes: Vec<u8>,
}

impl Original {
    /// Reads a file, by way of symbolic links. A pipe does not have it wait.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let failed = |doing| move |source| FileError::Failed { doing, path: path.to_owned(), source };
        let target = std::fs::canonicalize(path).map_err(failed("find"))?;
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(FileError::NoFile(target));
        };
        // What is on the way may become another directory; the descriptor is this one.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty());
        let directory = directory.map_err(|error| failed("look into the directory of")(error.into()))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, name, flags, Mode::empty());
        let mut file = File::from(file.map_err(|error| failed("read")(error.into()))?);
        let stat = rustix::fs::fstat(&file).map_err(|error| failed("read")(error.into()))?;
        if !file.metadata().map_err(failed("read"))?.is_file() {
            return Err(FileError::NoFile(target));
        }
        if rustix::process::geteuid().is_root() {
            expect_no_lead(path, &target, stat.st_uid)?;
        }
        let bytes = read_whole(&mut file).map_err(failed("read"))?;
        if bytes.len() > FILE_BYTES_MAX {
            return Err(FileError::TooLong(target));
        }
        let name = name.to_owned();
        Ok(Self { target, directory, name, file, identity: Identity::of(&stat), bytes })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where it is, with no symbolic link on the way.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// How it is written, where it was named by this path. A link is called as its host wants it; what it leads to may be called
    /// otherwise.
    pub fn syntax(&self, named: &Path) -> Syntax {
        Syntax::of(&if named.extension().is_some() { named } else { &self.target }.to_string_lossy())
    }

    pub(super) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Puts these bytes in its place.
    pub fn replace(mut self, bytes: &[u8]) -> Result<(), FileError> {
        let names = self.file.metadata().map_err(|error| self.failed("read")(error))?.nlink();
        if names > 1 {
            return Err(FileError::ManyNames { path: self.target, names });
        }
        let (draft, draft_name) = self.draft()?;
        let draft_inode = draft.metadata().map_or(0, |found| found.ino());
        let done = self.fill(draft, bytes).and_then(|()| {
            self.unchanged()?;
            self.exchange(&draft_name)
        });
        // After an exchange that is the file of before, and else what was to take its place.
        self.discard(&draft_name, if done.is_ok() { self.identity.inode } else { draft_inode });
        done?;
        // The rename itself; some filesystems have no such thing for directories, and then it is as safe as it gets.
        let _ = rustix::fs::fsync(&self.directory);
        Ok(())
    }

    /// Removes what a command that was killed left beside it, as far as that is known: the beginning of what it has now, or of
    /// one of these. Anything else may be what a host wrote, which an exchange brought out.
    pub fn remove_drafts(&self, known: &[&[u8]]) {
        let prefix = format!(".{}.pinfold-", self.name.to_string_lossy());
        let draft = |name: &str| name.strip_prefix(&prefix)?.split_once('-')?.0.parse().ok();
        for name in drafts::left(&self.directory, draft) {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let Ok(file) = rustix::fs::openat(&self.directory, &name, flags, Mode::empty()) else { continue };
            let mut file = File::from(file);
            let Ok(found) = file.metadata() else { continue };
            let Ok(bytes) = read_whole(&mut file) else { continue };
            if found.is_file() && known.iter().chain([&self.bytes()]).any(|known| known.starts_with(&bytes)) {
                self.discard(&name.into(), found.ino());
            }
        }
    }

    /// Removes what stands beside it under this name, unless that is another file than this one: then it is a host's.
    fn discard(&self, name: &OsString, inode: u64) {
        let there = rustix::fs::statat(self.directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|stat| stat.st_ino == inode) {
            let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
        }
    }

    /// Makes the file that is to take its place, which nobody else can read before it has its owner and mode.
    fn draft(&self) -> Result<(File, OsString), FileError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut last = Errno::EXIST;
        for attempt in 0..DRAFTS_MAX {
            let mut name = OsString::from(".");
            name.push(&self.name);
            name.push(format!(".pinfold-{}-{attempt}", std::process::id()));
            match rustix::fs::openat(&self.directory, &name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok((file.into(), name)),
                Err(error) => last = error,
            }
            if last != Errno::EXIST {
                break;
            }
        }
        Err(self.failed("write beside")(last.into()))
    }

    /// Gives a draft the bytes and all that the file has beside them, on the disk.
    fn fill(&self, mut draft: File, bytes: &[u8]) -> Result<(), FileError> {
        draft.write_all(bytes).map_err(self.failed("write beside"))?;
        let attributes = Attributes::of(&self.file).map_err(self.failed("read the attributes of"))?;
        attributes.give(&draft).map_err(|source| FileError::NotGiven { path: self.target.clone(), source })?;
        draft.sync_all().map_err(self.failed("write beside"))
    }

    /// Lets both files change their names, looks at what came out, and takes that back where it is not what was read: a host
    /// may put a newer one there at any moment, and a rename over it would lose that (`RENAME_EXCHANGE`, rename(2)).
    fn exchange(&self, draft_name: &OsString) -> Result<(), FileError> {
        let change = |flags| rustix::fs::renameat_with(&self.directory, draft_name, &self.directory, &self.name, flags);
        match change(RenameFlags::EXCHANGE) {
            Ok(()) => {}
            // A filesystem without it: what was looked at just now is what is replaced, as far as can be told.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return change(RenameFlags::empty()).map_err(|error| self.failed("replace")(error.into()));
            }
            Err(error) => return Err(self.failed("replace")(error.into())),
        }
        let came_out = rustix::fs::statat(self.directory.as_fd(), draft_name, AtFlags::SYMLINK_NOFOLLOW);
        if came_out.is_ok_and(|stat| Identity::of(&stat).is_same_but_renamed(&self.identity)) {
            return Ok(());
        }
        change(RenameFlags::EXCHANGE).map_err(|error| self.failed("give back its name to")(error.into()))?;
        Err(FileError::Changed(self.target.clone()))
    }

    /// Whether the name still means this file, and that has the bytes that were read.
    fn unchanged(&mut self) -> Result<(), FileError> {
        let has_bytes = read_whole(&mut self.file).is_ok_and(|bytes| bytes == self.bytes);
        let now = rustix::fs::statat(self.directory.as_fd(), &self.name, AtFlags::SYMLINK_NOFOLLOW);
        let is_same = has_bytes && now.is_ok_and(|stat| Identity::of(&stat) == self.identity);
        if is_same { Ok(()) } else { Err(FileError::Changed(self.target.clone())) }
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> FileError + use<> {
        let path = self.target.clone();
        move |source| FileError::Failed { doing, path, source }
    }
}

/// Root may work for a user on that user's files, and by that user's links gets to no others.
fn expect_no_lead(path: &Path, target: &Path, uid: u32) -> Result<(), FileError> {
    for part in path.ancestors() {
        let Ok(found) = std::fs::symlink_metadata(part) else { continue };
        if found.is_symlink() && found.uid() != 0 && found.uid() != uid {
            let (link, target) = (part.to_owned(), target.to_owned());
            return Err(FileError::Led { link, by: found.uid(), target, uid });
        }
    }
    Ok(())
}

/// All of a file, and no more than one byte beyond what any may have.
fn read_whole(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "original_tests.rs"]
mod tests;
