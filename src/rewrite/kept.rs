//! Which files were wrapped, and what stood in them before: for each a note with its path, and its bytes of then.
//!
//! They are kept with the state of the user who wrapped, and not beside the file: that may be in a project whose directory is
//! published, and the bytes may hold secrets. Each file has a note of its own, so that two commands at once do not lose one.
//! The way back from an edit does not need them; they are for `unwrap --all`, and for whoever mistrusts an editor of files.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::drafts;

/// The most files that are told of.
const NOTES_MAX: usize = 4096;

/// The longest note: a path and little else.
const NOTE_BYTES_MAX: u64 = 64 << 10;

/// How much of a file's own name is in the name of what is kept of it, for people who look.
const STEM_MAX: usize = 40;

/// How long another command of this user's is waited for.
const LOCK_MAX: Duration = Duration::from_secs(10);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What was tried on which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct KeptError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl KeptError {
    /// Whether somebody else has it, and it is a matter of time.
    pub fn is_taken(&self) -> bool {
        self.source.kind() == io::ErrorKind::TimedOut
    }
}

/// What is kept is not changed by anybody else until this is dropped.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

/// What a note says.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// Where it is, with no symbolic link on the way.
    path: PathBuf,
    /// The path by which it was wrapped: a link may be called as its host wants it, and lead to what is called otherwise.
    named: PathBuf,
}

/// What is kept of the files that were wrapped.
#[derive(Debug)]
pub struct Kept {
    directory: PathBuf,
}

/// What became of the bytes of before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Where they are.
    pub path: PathBuf,
    /// The file was not noted before.
    pub is_new: bool,
}

impl Kept {
    /// That of the user who runs this process: below `XDG_STATE_HOME`, else below `/var/lib` for root, and `~/.local/state`
    /// for anybody else. `None` for somebody who has no home.
    pub fn own() -> Option<Self> {
        let given = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let usual = || {
            if rustix::process::geteuid().is_root() {
                return Some(PathBuf::from("/var/lib"));
            }
            Some(std::env::home_dir().filter(|home| home.is_absolute())?.join(".local/state"))
        };
        Some(Self::below(&given.or_else(usual)?))
    }

    /// That below this directory of states.
    pub fn below(state: &Path) -> Self {
        Self { directory: state.join("pinfold/wrapped") }
    }

    /// Waits for other commands of this user's, and has further ones wait (flock(2)). Makes the directory where it is missing.
    pub fn lock(&self) -> Result<Lock, KeptError> {
        let directory = self.make()?;
        let start = Instant::now();
        loop {
            match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    self.remove_drafts(&directory);
                    return Ok(Lock { _directory: directory });
                }
                Err(Errno::WOULDBLOCK) if start.elapsed() < LOCK_MAX => std::thread::sleep(LOOK),
                Err(error) => {
                    let text = "another pinfold wraps or unwraps all the while";
                    let taken = io::Error::new(io::ErrorKind::TimedOut, text);
                    let source = if error == Errno::WOULDBLOCK { taken } else { error.into() };
                    return Err(KeptError { doing: "lock", path: self.directory.clone(), source });
                }
            }
        }
    }

    /// Removes what a command that was killed left here.
    fn remove_drafts(&self, directory: &File) {
        let Ok(held) = directory.try_clone() else { return };
        for name in drafts::left(&held.into(), |name| name.rsplit_once(".new-")?.1.parse().ok()) {
            let _ = std::fs::remove_file(self.directory.join(name));
        }
    }

    /// What stood in a file before it was wrapped, where that is kept.
    pub fn before(&self, target: &Path) -> Option<Vec<u8>> {
        std::fs::read(self.names(target).1).ok()
    }

    /// The directory, for nobody else to look into; one of somebody else's is not written to.
    fn make(&self) -> Result<File, KeptError> {
        let failed = |source| KeptError { doing: "make", path: self.directory.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(failed)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&self.directory);
        let directory = opened.map_err(failed)?;
        let uid = directory.metadata().map_err(failed)?.uid();
        if uid != rustix::process::geteuid().as_raw() {
            let text =
                format!("it belongs to uid {uid}: unset XDG_STATE_HOME, which may be another user's, or move it away");
            return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, text)));
        }
        Ok(directory)
    }

    /// Keeps what stands in a file, and notes the file: where it is, and by which path it was named. Where it `is_wrapped`
    /// already, what was kept when it was not is left as it is.
    pub fn keep(&self, (target, named): (&Path, &Path), bytes: &[u8], is_wrapped: bool) -> Result<Backup, KeptError> {
        let text = serde_json::to_vec(&Note { path: target.to_owned(), named: named.to_owned() });
        let text = text.map_err(|error| KeptError { doing: "note", path: target.to_owned(), source: error.into() })?;
        let directory = self.make()?;
        let (note, backup) = self.names(target);
        let is_new = !note.exists();
        if !is_wrapped || !backup.exists() {
            write(&backup, bytes)?;
        }
        write(&note, &text)?;
        directory.sync_all().map_err(|source| KeptError { doing: "write", path: self.directory.clone(), source })?;
        Ok(Backup { path: backup, is_new })
    }

    /// Where a file is noted, if it is.
    pub fn note(&self, target: &Path) -> Option<PathBuf> {
        Some(self.names(target).0).filter(|note| note.exists())
    }

    /// Forgets a file that is as it was: with these bytes, where it is there at all. What was kept of it goes where it is the
    /// same; else it stays, and where that is told.
    pub fn forget(&self, target: &Path, bytes: Option<&[u8]>) -> Result<Option<PathBuf>, KeptError> {
        let (note, backup) = self.names(target);
        let same = bytes.is_some_and(|bytes| std::fs::read(&backup).is_ok_and(|kept| kept == bytes));
        if same {
            remove(&backup)?;
        }
        remove(&note)?;
        Ok(Some(backup).filter(|backup| backup.exists()))
    }

    /// The files that were wrapped, in the order of their paths, by the names that they were wrapped by, where those still
    /// lead there. What is no note is passed over.
    pub fn files(&self) -> Result<Vec<PathBuf>, KeptError> {
        let failed = |source| KeptError { doing: "list", path: self.directory.clone(), source };
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed.map_err(failed)?,
        };
        let notes = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let notes = notes.filter(|path| path.extension() == Some(OsStr::new("json"))).take(NOTES_MAX);
        // A note that was put there for another path is none of ours: nothing would ever forget it.
        let own = notes.filter_map(|path| read(&path).filter(|note| self.names(&note.path).0 == path));
        let by_name = |note: Note| match std::fs::canonicalize(&note.named) {
            Ok(target) if target == note.path => note.named,
            _ => note.path,
        };
        let mut files: Vec<_> = own.map(by_name).collect();
        files.sort();
        Ok(files)
    }

    /// The note of a file, and its bytes of before.
    fn names(&self, target: &Path) -> (PathBuf, PathBuf) {
        let hash = Sha256::digest(target.as_os_str().as_bytes());
        let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let is_safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let stem: String = name.trim_start_matches('.').chars().take(STEM_MAX).map(is_safe).collect();
        let of = |end: &str| self.directory.join(format!("{stem}-{hash}.{end}"));
        (of("json"), of("before"))
    }
}

fn read(note: &Path) -> Option<Note> {
    let mut bytes = Vec::new();
    File::open(note).ok()?.take(NOTE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Writes a file, whole or not at all, that nobody else can read.
fn write(path: &Path, bytes: &[u8]) -> Result<(), KeptError> {
    let draft = path.with_extension(format!("new-{}", std::process::id()));
    // One that was left, or put there, is not written to, and a link is not followed (O_EXCL, open(2)).
    let _ = std::fs::remove_file(&draft);
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
    let written = written.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    let written = written.and_then(|()| std::fs::rename(&draft, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    written.map_err(|source| KeptError { doing: "write", path: path.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), KeptError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KeptError { doing: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_stood_in_a_file_is_kept_until_it_stands_there_again() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::below(&state.path().join("deeper"));
        assert!(kept.files().unwrap().is_empty());
        let file = Path::new("/home/u/.config/a b/é.json");
        let backup = kept.keep((file, file), b"bare", false).unwrap();
        assert!(backup.is_new);
        assert_eq!(std::fs::metadata(&backup.path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = kept.keep((file, file), b"half wrapped", true).unwrap();
        assert_eq!((again.path.as_path(), again.is_new), (backup.path.as_path(), false));
        assert_eq!(std::fs::read(&backup.path).unwrap(), b"bare");
        assert_eq!(kept.files().unwrap(), [file]);
        assert_eq!(kept.forget(file, Some(b"bare")).unwrap(), None);
        assert_eq!(kept.files().unwrap(), Vec::<PathBuf>::new());
        assert_eq!(std::fs::read_dir(kept.directory).unwrap().count(), 0);
    }

    #[test]
    fn what_does_not_stand_there_again_stays_and_is_told_of() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::below(state.path());
        let (changed, gone) = (Path::new("/a/mcp.json"), Path::new("/b/mcp.json"));
        kept.keep((changed, changed), b"bare", false).unwrap();
        kept.keep((gone, gone), b"bare too", false).unwrap();
        let left = kept.forget(changed, Some(b"other")).unwrap().unwrap();
        assert_eq!(std::fs::read(left).unwrap(), b"bare");
        let left = kept.forget(gone, None).unwrap().unwrap();
        assert_eq!(std::fs::read(left).unwrap(), b"bare too");
        assert!(kept.files().unwrap().is_empty());
        // Bare again, and wrapped again: what stands there now is what counts.
        let again = kept.keep((changed, changed), b"newer", false).unwrap();
        assert_eq!((std::fs::read(again.path).unwrap(), again.is_new), (b"newer".to_vec(), true));
    }

    #[test]
    fn what_a_killed_command_left_goes_with_the_next_lock() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::below(state.path());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        drop(kept.make().unwrap());
        for pid in [child.id(), std::process::id()] {
            std::fs::write(kept.directory.join(format!("mcp.json-0.new-{pid}")), "half").unwrap();
        }
        drop(kept.lock().unwrap());
        let left: Vec<_> =
            std::fs::read_dir(&kept.directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [format!("mcp.json-0.new-{}", std::process::id()).as_str()]);
    }

    #[test]
    fn a_link_in_the_place_of_a_draft_is_not_followed() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::below(state.path());
        let file = Path::new("/a/mcp.json");
        kept.make().unwrap();
        let (_, backup) = kept.names(file);
        let aim = state.path().join("aim");
        std::fs::write(&aim, "whole").unwrap();
        let draft = backup.with_extension(format!("new-{}", std::process::id()));
        std::os::unix::fs::symlink(&aim, draft).unwrap();
        kept.keep((file, file), b"bare", false).unwrap();
        assert_eq!(
            (std::fs::read(&aim).unwrap(), std::fs::read(&backup).unwrap()),
            (b"whole".to_vec(), b"bare".to_vec())
        );
        assert!(!std::fs::symlink_metadata(backup).unwrap().is_symlink());
    }

    #[test]
    fn a_directory_of_another_users_is_not_written_to() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::below(state.path());
        kept.make().unwrap();
        std::os::unix::fs::chown(&kept.directory, Some(65534), None).unwrap();
        let file = Path::new("/a/mcp.json");
        assert!(crate::chain::chain(&kept.keep((file, file), b"bare", false).unwrap_err()).contains("uid 65534"));
        assert!(kept.lock().is_err_and(|error| !error.is_taken()));
    }

    #[test]
    fn one_command_at_a_time_changes_what_is_kept() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::below(state.path());
        let first = kept.lock().unwrap();
        let second = std::thread::spawn({
            let kept = Kept::below(state.path());
            move || kept.lock().map(drop)
        });
        assert!(!second.is_finished());
        drop(first);
        second.join().unwrap().unwrap();
    }

    #[test]
    fn what_is_no_note_is_passed_over() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::below(state.path());
        let file = Path::new("/a/mcp.json");
        kept.keep((file, file), b"bare", false).unwrap();
        for (name, text) in [("x.json", "{"), ("y.json", "{\"path\":\"/etc/passwd\"}"), ("z", ""), ("w.new-1", "")] {
            std::fs::write(kept.directory.join(name), text).unwrap();
        }
        assert_eq!(kept.files().unwrap(), [file]);
    }
}
