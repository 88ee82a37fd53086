//! Hands on the daemon's runtime directory: one small file per leaf, written before the leaf is made and removed after it
//! is gone, so that a daemon that dies at any moment leaves nothing that the next one cannot find.
//!
//! The cgroup tree is the truth about what lives; a record holds what the tree cannot say.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags};
use serde::{Deserialize, Serialize};

use crate::argv::{CommandDigest, MaskedArgv};
use crate::cgroup::{GroupPaths, Membership};
use crate::confine::Confine;
use crate::container::{ContainerPlace, Remover};
use crate::label::Labels;
use crate::limits::{Bytes, Limit, LimitWishes, Limits};
use crate::naming::{LeafName, SessionKey};
use crate::outcome::{Cause, Stall};
use crate::policy::{OnPids, STALL};
use crate::realm::Container;
use crate::session::{Name, NamedBy, ProcessId, SessionId};
use crate::sys::crash;
use crate::timespan::TimeSpan;

/// A record is far smaller; what is larger is none of ours.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// What was tried on which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct RecordError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What the tree cannot say about a leaf.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The boot that it is about.
    pub boot_id: String,
    /// Whose it is.
    pub uid: u32,
    /// Its session.
    pub session: SessionId,
    /// How the session got its id.
    pub named_by: NamedBy,
    /// Its session's directory.
    pub key: String,
    /// Its own directory.
    pub leaf: String,
    /// The container that its session belongs to.
    #[serde(default)]
    pub container: Option<Container>,
    /// The host, where it is known.
    pub host: Option<Name>,
    /// The server's name.
    pub server: Name,
    /// Where it has its name by a launch option: whether its host's configuration was seen to have an entry of that name.
    #[serde(default)]
    pub entry_seen: Option<bool>,
    /// What its host tied to it.
    #[serde(default)]
    pub labels: Labels,
    /// Which generation of its session it was launched in; 0 where an earlier version launched it.
    #[serde(default)]
    pub generation: u64,
    /// Its command line.
    pub argv: MaskedArgv,
    /// What it is among the instances of its server.
    #[serde(default)]
    pub instance: Instance,
    /// Its first process.
    pub leader: ProcessId,
    /// The process that owns it.
    pub owner: ProcessId,
    /// The stdin that is held of it.
    #[serde(default)]
    pub stdin: Option<FileId>,
    /// The stderr that is held of it.
    #[serde(default)]
    pub stderr: Option<FileId>,
    /// Where the machine level is: all its directories follow from that.
    pub machine: GroupPaths,
    /// Between SIGTERM and the kill.
    pub grace: Duration,
    /// Between the hang-up of stdin and SIGTERM.
    pub stdin_grace: Duration,
    /// What becomes of it at its process limit.
    pub on_pids: OnPids,
    /// How long it may do nothing, where that has an end.
    #[serde(default)]
    pub idle_after: Option<TimeSpan>,
    /// What becomes of it when it is idle, short of that.
    #[serde(default)]
    pub resting: Resting,
    /// What counts as a standstill at a `memory_high`.
    #[serde(default = "default_stall")]
    pub stall: Stall,
    /// What its launch asked for itself. `None` where an earlier version wrote the record.
    #[serde(default)]
    pub asked: Option<Asked>,
    /// How it was confined.
    #[serde(default)]
    pub confine: Confine,
    /// Where the container of its command is, where that makes one.
    #[serde(default)]
    pub container_place: Option<ContainerPlace>,
    /// The engine that removes what it still has of it.
    #[serde(default)]
    pub container_remover: Option<Remover>,
    /// The first processes of its container, where that is outside and its monitor stays in the leaf.
    #[serde(default)]
    pub container_first: Option<Vec<ProcessId>>,
    /// The limits that held its launcher where that came from, and hold its session. `None` as before.
    #[serde(default)]
    pub held: Option<Limits>,
    /// It ran already when it was moved into its leaf, so that it carries no mark in its environment.
    #[serde(default)]
    pub adopted: bool,
    /// Where its tree stood, while that is moved: all of it goes back there if the daemon dies over it.
    #[serde(default)]
    pub moving_from: Option<Membership>,
    /// When it was launched.
    pub started_at: SystemTime,
    /// When its session's time is over, where it has a time-to-live.
    #[serde(default)]
    pub expires: Option<Expiry>,
    /// Limits that do not hold.
    pub warnings: Vec<String>,
    /// Its end, once that has begun: it goes on whatever becomes of the daemon that began it.
    #[serde(default)]
    pub ending: Option<Ending>,
}

/// A record of a version that knew of no standstill.
fn default_stall() -> Stall {
    STALL
}

/// What becomes of a server that is idle and lives on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resting {
    /// After how long its memory is given back.
    pub trim_after: Option<TimeSpan>,
    /// After how long it is parked.
    pub park_after: Option<TimeSpan>,
    /// Whether it is parked although something other than its stdin could wake it.
    pub reachable: bool,
    /// How much of it may then stand in swap.
    pub swap: Limit<Bytes>,
    /// Its own limit on swap, which is lifted while its memory is given back.
    pub swap_max: Option<Limit<Bytes>>,
}

impl Default for Resting {
    fn default() -> Self {
        Self { trim_after: None, park_after: None, reachable: false, swap: Limit::Infinity, swap_max: None }
    }
}

/// What a server is among the instances of the same server in its session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its command and the directory that it is run in, where its launcher told.
    pub command: Option<CommandDigest>,
    /// The leaf that it was launched from inside of: a server that launches itself again inside is one instance.
    pub inside: Option<String>,
    /// How many there may be, where it takes the place of the oldest beyond that.
    pub replaces_beyond: Option<u32>,
}

/// What a launch asked for itself: it goes before the configuration, whenever that is read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Limits of the server.
    #[serde(default)]
    pub limits: LimitWishes,
    /// Between SIGTERM and the kill.
    #[serde(default)]
    pub grace: Option<TimeSpan>,
}

/// When a session's time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// How long it was given to live.
    pub ttl: TimeSpan,
    /// The moment, since boot (`CLOCK_BOOTTIME`): whoever sets the clock does not move it, and the machine's sleep counts.
    pub at: Duration,
}

/// Which open file it was: while it is open, no other pipe, socket or file has the same numbers (inode(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    /// The filesystem's.
    pub device: u64,
    /// The file's in it.
    pub inode: u64,
}

impl FileId {
    /// That of a descriptor.
    pub fn of(fd: impl AsFd) -> Option<Self> {
        Self::look(fd).map(|(id, _)| id)
    }

    /// The same, and what kind of file it is. A filesystem that answers when it likes is not asked (statx(2)).
    pub fn look(fd: impl AsFd) -> Option<(Self, FileType)> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let told = rustix::fs::statx(fd, c"", flags, StatxFlags::TYPE | StatxFlags::INO).ok()?;
        let device = rustix::fs::makedev(told.stx_dev_major, told.stx_dev_minor);
        Some((Self { device, inode: told.stx_ino }, FileType::from_raw_mode(told.stx_mode.into())))
    }
}

/// An end that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Why.
    pub cause: Cause,
    /// It began with the kill, or has come to that.
    pub killing: bool,
}

impl Record {
    /// The names of its directories, if they are ones that we make.
    pub fn place(&self) -> Option<crate::cgroup::Caller> {
        let key = SessionKey::parse(&self.key).ok()?;
        let leaf = LeafName::parse(&self.leaf).ok()?;
        let below = Container::realm_of(self.container.as_ref());
        Some(crate::cgroup::Caller { key, leaf, below })
    }
}

/// The directory of the records.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
}

impl Records {
    /// Opens the directory, and makes it if need be: nobody else may look in.
    pub fn open(directory: &Path) -> Result<Self, RecordError> {
        let mut builder = std::fs::DirBuilder::new();
        match builder.mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(RecordError { doing: "create", path: directory.to_owned(), source: error })
            }
            _ => Ok(Self { directory: directory.to_owned() }),
        }
    }

    /// Writes a record, whole or not at all.
    pub fn write(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.path(&record.leaf);
        let fail = |source| RecordError { doing: "write", path: path.clone(), source };
        let draft = path.with_extension("new");
        let text = serde_json::to_vec(record).map_err(|error| fail(error.into()))?;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(fail)?;
        crash::step("a draft was made");
        let written = io::Write::write_all(&mut file, &text).and_then(|()| {
            crash::step("a draft was written");
            std::fs::rename(&draft, &path)
        });
        if written.is_err() {
            // On a full disk even an empty draft takes a place.
            let _ = std::fs::remove_file(&draft);
        }
        crash::step("a record was written");
        written.map_err(fail)
    }

    /// Removes the record of a leaf; that there is none is success.
    pub fn remove(&self, leaf: &str) -> Result<(), RecordError> {
        remove(&self.path(leaf))?;
        crash::step("a record was removed");
        Ok(())
    }

    /// Removes a record of an earlier boot; that there is none is success.
    pub fn remove_past(&self, past: &Past) -> Result<(), RecordError> {
        remove(&past.path)?;
        crash::step("a record of the past was removed");
        Ok(())
    }

    /// Reads all records. A draft is removed: it was never renamed. What cannot be read stays: its server may live.
    pub fn load(&self, boot_id: &str) -> Result<Loaded, RecordError> {
        let fail = |source| RecordError { doing: "list", path: self.directory.clone(), source };
        let mut loaded = Loaded::default();
        for entry in std::fs::read_dir(&self.directory).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            match read(&path, boot_id) {
                Ok(Found::Record(record)) => loaded.records.push(*record),
                Ok(Found::Past(server)) => loaded.past.push(Past { path, server }),
                Ok(Found::Draft) => {
                    let _ = std::fs::remove_file(&path);
                    crash::step("a draft was removed");
                }
                Err(source) => loaded.unreadable.push(RecordError { doing: "make use of", path, source }),
            }
        }
        Ok(loaded)
    }

    /// Removes the directory, if no record is in it.
    pub fn close(&self) {
        let _ = std::fs::remove_dir(&self.directory);
    }

    fn path(&self, leaf: &str) -> PathBuf {
        self.directory.join(format!("{leaf}.json"))
    }
}

/// What an earlier daemon left.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Of this boot.
    pub records: Vec<Record>,
    /// Of earlier boots: whatever their numbers mean now, none of their processes lives.
    pub past: Vec<Past>,
    /// What is no record, or not one that this version can read.
    pub unreadable: Vec<RecordError>,
}

/// A record of an earlier boot, in a directory that outlived it.
#[derive(Debug, PartialEq, Eq)]
pub struct Past {
    /// Its file.
    pub path: PathBuf,
    /// The session and the name of its server, where it tells them.
    pub server: Option<(SessionId, Name)>,
}

/// What a file of the directory turned out to be.
#[derive(Debug)]
enum Found {
    Record(Box<Record>),
    /// Of an earlier boot.
    Past(Option<(SessionId, Name)>),
    /// What a daemon that died had not finished.
    Draft,
}

/// What the record of any version tells first.
#[derive(Deserialize)]
struct Boot {
    boot_id: String,
}

/// And of which server it is.
#[derive(Deserialize)]
struct Named {
    session: SessionId,
    server: Name,
}

/// That there is no such file is success.
fn remove(path: &Path) -> Result<(), RecordError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RecordError { doing: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Reads one. Fields that a newer version added are passed over; those that an older one had not are as they are by default.
fn read(path: &Path, boot_id: &str) -> io::Result<Found> {
    if path.extension().is_some_and(|extension| extension == "new") {
        return Ok(Found::Draft);
    }
    // A fifo that is opened for reading waits for a writer, and a symbolic link leads elsewhere.
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if found.len() > RECORD_BYTES_MAX {
        return Err(io::Error::other(format!(
            "a record has at most {RECORD_BYTES_MAX} bytes, and this has {}",
            found.len()
        )));
    }
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, RECORD_BYTES_MAX), &mut text)?;
    // A machine that lost its power leaves files without the data that was not on the disk yet. A daemon writes before it
    // renames, so none of this boot has left one; if somebody else emptied it, its server's processes tell what they are.
    if text.iter().all(|byte| *byte == 0) && path.file_stem().and_then(OsStr::to_str).is_some_and(is_leaf) {
        return Ok(Found::Past(None));
    }
    let boot: Boot = serde_json::from_slice(&text)?;
    if boot.boot_id != boot_id {
        let named: Option<Named> = serde_json::from_slice(&text).ok();
        return Ok(Found::Past(named.map(|named| (named.session, named.server))));
    }
    Ok(Found::Record(serde_json::from_slice(&text)?))
}

fn is_leaf(name: &str) -> bool {
    LeafName::parse(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a record has at least.
    const RECORD: &str = r#"{
        "boot_id": "this", "uid": 0, "session": "s", "named_by": "host", "key": "s_1", "leaf": "cat.7", "host": null,
        "server": "cat", "argv": ["cat"], "leader": {"pid": 1, "start_time": 2}, "owner": {"pid": 1, "start_time": 2},
        "machine": {"v2": "/x", "memory": null, "pids": null}, "grace": {"secs": 3, "nanos": 0},
        "stdin_grace": {"secs": 3, "nanos": 0}, "on_pids": "report",
        "started_at": {"secs_since_epoch": 1, "nanos_since_epoch": 0}, "warnings": []
    }"#;

    /// What is loaded from a directory with this file, and the directory.
    fn loaded(name: &str, text: &[u8]) -> (Loaded, Records, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(name), text).unwrap();
        let records = Records::open(directory.path()).unwrap();
        (records.load("this").unwrap(), records, directory)
    }

    #[test]
    fn a_record_of_this_boot_is_one_of_what_may_live() {
        let (loaded, ..) = loaded("cat.7.json", RECORD.as_bytes());
        assert!(loaded.past.is_empty() && loaded.unreadable.is_empty(), "{loaded:?}");
        assert_eq!(loaded.records.len(), 1, "{loaded:?}");
        assert_eq!(loaded.records[0].leaf, "cat.7");
    }

    #[test]
    fn a_record_of_an_earlier_boot_is_of_the_past_whatever_version_wrote_it() {
        let earlier = RECORD.replace("this", "earlier");
        let named = Some((SessionId::parse("s").unwrap(), Name::parse("cat").unwrap()));
        let other = r#"{"boot_id": "earlier", "session": "s", "server": "cat", "leader": "elsewhere"}"#;
        let nameless = r#"{"boot_id": "earlier", "server": 7}"#;
        for (text, server) in [(earlier.as_str(), named.clone()), (other, named), (nameless, None)] {
            let (loaded, records, directory) = loaded("cat.7.json", text.as_bytes());
            assert!(loaded.records.is_empty() && loaded.unreadable.is_empty(), "{loaded:?}");
            let path = directory.path().join("cat.7.json");
            assert_eq!(loaded.past, [Past { path: path.clone(), server }]);
            assert!(path.exists(), "it is told before it is removed");
            records.remove_past(&loaded.past[0]).unwrap();
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_record_whose_data_never_came_to_the_disk_is_of_the_past_and_a_foreign_file_is_not() {
        for text in [&b""[..], &[0; 300]] {
            let (torn, ..) = loaded("cat.7.json", text);
            assert_eq!(torn.past.len(), 1, "{torn:?}");
            let (foreign, ..) = loaded("notes.json", text);
            assert_eq!((foreign.past.len(), foreign.unreadable.len()), (0, 1), "{foreign:?}");
        }
        let (cut, ..) = loaded("cat.7.json", &RECORD.as_bytes()[..200]);
        assert_eq!((cut.past.len(), cut.unreadable.len()), (0, 1), "{cut:?}");
    }
}
