//! A directory of ours beside a host's file, with few files in it that belong to whoever that file belongs to.
//!
//! It is reached by descriptors and never through a symbolic link: where root works for a user, nothing that the user has put
//! there leads elsewhere.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::drafts;
use super::original::{FileError, Original};

/// The longest file that is ours, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Files by their names.
pub type Files = [(&'static str, &'static str)];

/// The directory, whether it is there or not.
#[derive(Debug)]
pub struct Beside {
    path: PathBuf,
    around: OwnedFd,
    name: &'static str,
    owner: (u32, u32),
}

impl Beside {
    /// That of this name beside a file.
    pub fn of(original: &Original, name: &'static str) -> Result<Self, FileError> {
        let path = original.target().with_file_name(name);
        let failed = |source| FileError::Failed { doing: "find", path: path.clone(), source };
        let around = original.directory().try_clone().map_err(failed)?;
        let found = original.file().metadata().map_err(failed)?;
        Ok(Self { path, around, name, owner: (found.uid(), found.gid()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether all of these files are there as they should be.
    pub fn holds(&self, files: &Files) -> bool {
        let Ok(directory) = self.open() else { return false };
        files.iter().all(|(name, text)| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&directory, *name, flags, Mode::empty());
            let mut there = Vec::new();
            let read = file.map(|file| File::from(file).take(FILE_BYTES_MAX).read_to_end(&mut there));
            matches!(read, Ok(Ok(_))) && there == text.as_bytes()
        })
    }

    /// Writes these files, each whole or not at all, and the directory where it is not there.
    pub fn write(&self, files: &Files) -> Result<(), FileError> {
        let is_new = match rustix::fs::mkdirat(&self.around, self.name, Mode::from_raw_mode(0o755)) {
            Err(rustix::io::Errno::EXIST) => false,
            made => made.map(|()| true).map_err(self.failed("make"))?,
        };
        let directory = self.open().map_err(self.failed("open"))?;
        let own = File::from(directory.try_clone().map_err(self.failed_io("open"))?);
        if is_new {
            // Who may rename in the directory around could have put another in its place; an empty one is worth nothing.
            self.expect_empty(&directory)?;
            self.give(&own)?;
        } else {
            self.expect_owned(&own)?;
        }
        for (name, text) in files {
            let prefix = format!(".{name}.");
            for left in drafts::left(&directory, |name| name.strip_prefix(&prefix)?.parse().ok()) {
                let _ = rustix::fs::unlinkat(&directory, left, AtFlags::empty());
            }
            let draft = format!("{prefix}{}", std::process::id());
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&directory, &draft, flags, Mode::from_raw_mode(0o644));
            let mut file = File::from(file.map_err(self.failed("write into"))?);
            let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
            let done = written.map_err(self.failed_io("write into")).and_then(|()| self.give(&file)).and_then(|()| {
                rustix::fs::renameat(&directory, &draft, &directory, *name).map_err(self.failed("write into"))
            });
            if done.is_err() {
                let _ = rustix::fs::unlinkat(&directory, &draft, AtFlags::empty());
            }
            done?;
        }
        own.sync_all().map_err(self.failed_io("write into"))
    }

    /// Removes these files, and the directory where nothing else is in it. That there is none is success.
    pub fn remove(&self, files: &Files) -> Result<(), FileError> {
        let directory = match self.open() {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            opened => opened.map_err(self.failed("open"))?,
        };
        self.expect_owned(&File::from(directory.try_clone().map_err(self.failed_io("open"))?))?;
        for (name, _) in files {
            match rustix::fs::unlinkat(&directory, *name, AtFlags::empty()) {
                Err(rustix::io::Errno::NOENT) => {}
                removed => removed.map_err(self.failed("remove files of"))?,
            }
        }
        match rustix::fs::unlinkat(&self.around, self.name, AtFlags::REMOVEDIR) {
            // Somebody else's.
            Err(rustix::io::Errno::NOTEMPTY) => Ok(()),
            removed => removed.map_err(self.failed("remove")),
        }
    }

    fn open(&self) -> Result<OwnedFd, rustix::io::Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.around, self.name, flags, Mode::empty())
    }

    /// What is not the owner's is none of ours, and is neither given away nor emptied.
    fn expect_owned(&self, directory: &File) -> Result<(), FileError> {
        let uid = directory.metadata().map_err(self.failed_io("open"))?.uid();
        if uid == self.owner.0 {
            return Ok(());
        }
        Err(FileError::Foreign { path: self.path.clone(), uid, wanted: self.owner.0 })
    }

    fn expect_empty(&self, directory: &OwnedFd) -> Result<(), FileError> {
        let mut entries = rustix::fs::Dir::read_from(directory).map_err(self.failed("open"))?;
        let is_named = |entry: &rustix::fs::DirEntry| !matches!(entry.file_name().to_bytes(), b"." | b"..");
        match entries.find(|entry| entry.as_ref().map_or(true, is_named)) {
            None => Ok(()),
            Some(_) => Err(FileError::Changed(self.path.clone())),
        }
    }

    /// Gives a file of ours to the owner.
    fn give(&self, file: &File) -> Result<(), FileError> {
        let has = file.metadata().map_err(self.failed_io("write into"))?;
        if (has.uid(), has.gid()) == self.owner {
            return Ok(());
        }
        fchown(file, Some(self.owner.0), Some(self.owner.1)).map_err(self.failed_io("give its owner"))
    }

    fn failed(&self, doing: &'static str) -> impl Fn(rustix::io::Errno) -> FileError + use<> {
        let failed = self.failed_io(doing);
        move |source| failed(source.into())
    }

    fn failed_io(&self, doing: &'static str) -> impl Fn(io::Error) -> FileError + use<> {
        let path = self.path.clone();
        move |source| FileError::Failed { doing, path: path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    const FILES: &Files = &[("index.js", "// one\n"), ("package.json", "{}\n")];

    fn beside(directory: &Path) -> Beside {
        let file = directory.join("openclaw.json");
        std::fs::write(&file, "{}").unwrap();
        if rustix::process::geteuid().is_root() {
            chown(&file, Some(65534), Some(12)).unwrap();
        }
        Beside::of(&Original::read(&file).unwrap(), "plugin").unwrap()
    }

    #[test]
    fn files_come_and_go_and_belong_to_whom_the_file_belongs_to() {
        let directory = tempfile::tempdir().unwrap();
        let beside = beside(directory.path());
        assert!(!beside.holds(FILES));
        beside.write(FILES).unwrap();
        assert!(beside.holds(FILES));
        for path in [beside.path().to_owned(), beside.path().join("index.js")] {
            let found = std::fs::metadata(path).unwrap();
            assert_eq!((found.uid(), found.gid()), beside.owner);
        }
        std::fs::write(beside.path().join("index.js"), "// older\n").unwrap();
        assert!(!beside.holds(FILES));
        beside.write(FILES).unwrap();
        assert!(beside.holds(FILES));
        std::fs::write(beside.path().join("own"), "").unwrap();
        beside.remove(FILES).unwrap();
        assert_eq!(std::fs::read_dir(beside.path()).unwrap().count(), 1);
        std::fs::remove_file(beside.path().join("own")).unwrap();
        beside.remove(FILES).unwrap();
        assert!(!beside.path().exists());
        beside.remove(FILES).unwrap();
    }

    #[test]
    fn a_directory_of_somebody_elses_is_neither_given_away_nor_emptied() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let beside = beside(directory.path());
        std::fs::create_dir(beside.path()).unwrap();
        std::fs::write(beside.path().join("index.js"), "root's").unwrap();
        for refused in [beside.write(FILES), beside.remove(FILES)] {
            assert!(matches!(refused, Err(FileError::Foreign { uid: 0, wanted: 65534, .. })), "{refused:?}");
        }
        assert_eq!(std::fs::metadata(beside.path()).unwrap().uid(), 0);
        assert_eq!(std::fs::read(beside.path().join("index.js")).unwrap(), b"root's");
    }

    #[test]
    fn a_link_in_its_place_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), directory.path().join("plugin")).unwrap();
        let beside = beside(directory.path());
        assert!(beside.write(FILES).is_err());
        assert!(beside.remove(FILES).is_err());
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
