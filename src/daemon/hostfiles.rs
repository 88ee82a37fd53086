//! Watches the configuration files of hosts that our own configuration names, and tells the driver what they say.
//!
//! A file is written in many ways: in place, by an atomic rename, through a symlink of a dotfiles manager. So what is
//! watched is every directory in which the name could come to mean another file (inotify(7)); after a moment of quiet the
//! file is read anew. From one that is broken nothing follows; one that stays away has no entries.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::driver::Driver;
use super::message::Message;
use super::table::Entry;
use crate::chain::chain;
use crate::hostfile::{self, FILE_BYTES_MAX, HostFileError, Syntax};
use crate::lifecycle::{Due, Event, State};
use crate::policy::{Configured, Content, Settings, Watched};
use crate::session::Name;

/// How long nothing must happen to a file before it is read: whoever writes it may not be done.
const QUIET: Duration = Duration::from_millis(200);

/// How long a file may be away before it counts as having no entries.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// How long reading a file may take: what it lies on may be a network, or a user's own filesystem.
const READ_MAX: Duration = Duration::from_secs(10);

/// Symbolic links that are followed on the way to a file, as the kernel does (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// One file.
#[derive(Debug)]
struct File {
    path: Arc<Path>,
    watched: Watched,
    /// Since when it is away.
    away: Option<Instant>,
    /// What is wrong with it was told.
    warned: bool,
    /// A thread that reads it does not come back: it is asked no more.
    stuck: bool,
}

/// All of them, and the inotify of the directories on the way to them.
#[derive(Debug)]
pub(super) struct HostFiles {
    files: Vec<File>,
    inotify: AsyncFd<OwnedFd>,
    /// The same inotify, for the threads that look.
    inotify_of_threads: Arc<OwnedFd>,
    /// The watch of each directory.
    watches: BTreeMap<PathBuf, i32>,
    /// The names on the way to a file: of other names nothing is of interest.
    names: BTreeSet<OsString>,
}

/// What looking at a file gave.
struct Look {
    found: Found,
    /// The directories that were on the way to it, with their watches, and the names in them.
    watches: BTreeMap<PathBuf, i32>,
    names: BTreeSet<OsString>,
}

enum Found {
    Says(Content),
    Away,
    Unusable(String),
}

impl HostFiles {
    /// The files by host. Nothing is read yet.
    pub(super) fn new(files: impl IntoIterator<Item = (Name, PathBuf)>) -> io::Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let file = |(host, path): (Name, PathBuf)| File {
            path: path.into(),
            watched: Watched { host, content: Content::Unknown },
            away: None,
            warned: false,
            stuck: false,
        };
        Ok(Self {
            files: files.into_iter().map(file).collect(),
            inotify_of_threads: Arc::new(inotify.try_clone()?),
            inotify: crate::sys::wait_on(inotify)?,
            watches: BTreeMap::new(),
            names: BTreeSet::new(),
        })
    }

    /// Whether there is anything to watch.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Reads what is there; whether anything is told differently now.
    pub(super) async fn read(&mut self) -> bool {
        let mut looks = Vec::new();
        for file in &self.files {
            let (path, inotify) = (file.path.clone(), self.inotify_of_threads.clone());
            // The kernel may hold any of them up: each has a thread of its own, away from the driver's.
            let look = (!file.stuck).then(|| tokio::task::spawn_blocking(move || look(&path, &inotify)));
            looks.push(look);
        }
        let deadline = Instant::now() + READ_MAX;
        let (mut watches, mut names) = (BTreeMap::new(), BTreeSet::new());
        let mut changed = false;
        for (file, look) in self.files.iter_mut().zip(looks) {
            let Some(look) = look else { continue };
            let found = match tokio::time::timeout_at(deadline, look).await {
                Ok(Ok(look)) => {
                    watches.extend(look.watches);
                    names.extend(look.names);
                    look.found
                }
                Ok(Err(_)) | Err(_) => {
                    file.stuck = true;
                    Found::Unusable(format!("it was not read within {} s; it is watched no more", READ_MAX.as_secs()))
                }
            };
            changed |= file.take(found);
        }
        let before = std::mem::replace(&mut self.watches, watches);
        for watch in before.into_values() {
            if !self.watches.values().any(|other| *other == watch) {
                // That it is gone with its directory is no matter.
                let _ = inotify::remove_watch(self.inotify.get_ref(), watch);
            }
        }
        self.names = names;
        changed
    }

    /// What they say.
    pub(super) fn configured(&self) -> Configured {
        Configured::new(self.files.iter().map(|file| file.watched.clone()).collect())
    }

    /// Reads them anew whenever they may have changed, for ever. `settings` is the number of those that name them.
    pub(super) async fn follow(mut self, settings: u64, driver: mpsc::Sender<Message>) {
        loop {
            let away = self.files.iter().filter_map(|file| Some(file.away? + AWAY_MAX)).min();
            let patience = async {
                match away {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.changed() => if let Err(error) = changed {
                    tracing::error!(%error, "the configuration files of hosts are not watched any more");
                    return;
                },
                () = patience => {}
            }
            self.settle().await;
            if self.read().await && driver.send(Message::Configured(settings, self.configured())).await.is_err() {
                return;
            }
        }
    }

    /// Waits until something of interest changes.
    async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            if self.drain() {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    /// Waits until nothing has changed for a moment, or for ten such moments.
    async fn settle(&self) {
        for _ in 0..10 {
            if tokio::time::timeout(QUIET, self.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Takes all events; `false` where none was about a name on the way.
    fn drain(&self) -> bool {
        let mut buffer = [const { MaybeUninit::uninit() }; 4096];
        let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
        let mut any = false;
        while let Ok(event) = reader.next() {
            // One without a name is about the directory itself, or tells that some were lost.
            any |= event.file_name().is_none_or(|name| self.names.contains(OsStr::from_bytes(name.to_bytes())));
        }
        any
    }
}

impl File {
    /// Takes over what was read; whether it is told differently now.
    fn take(&mut self, found: Found) -> bool {
        let now = Instant::now();
        let content = match found {
            Found::Says(content) => {
                (self.away, self.warned) = (None, false);
                content
            }
            // What was away for long enough has been told as such, and only its coming back is of interest.
            Found::Away if self.watched.content == Content::Absent => return false,
            Found::Away if now.duration_since(*self.away.get_or_insert(now)) < AWAY_MAX => return false,
            Found::Away => {
                self.away = None;
                Content::Absent
            }
            Found::Unusable(why) => {
                self.away = None;
                if !std::mem::replace(&mut self.warned, true) {
                    tracing::warn!(host = %self.watched.host, "{} says nothing now: {why}", self.path.display());
                }
                return false;
            }
        };
        let changed = content != self.watched.content;
        self.watched.content = content;
        changed
    }
}

/// The files that the configuration names, below this user's home where they are.
pub(super) fn named(settings: &Settings) -> Vec<(Name, PathBuf)> {
    let home = std::env::home_dir();
    let resolved = |path: &Path| match path.strip_prefix("~") {
        Ok(below) => Some(home.as_ref()?.join(below)),
        Err(_) => Some(path.to_owned()),
    };
    let files = settings.hosts.iter().flat_map(|host| host.files.iter().map(move |path| (host.name.clone(), path)));
    files.filter_map(|(host, path)| Some((host, resolved(path)?))).collect()
}

impl Driver {
    /// The files say this now: a server whose entry was seen, and is gone, is ended.
    pub(super) fn heed(&mut self, configured: Configured) {
        self.configured = configured;
        for number in self.table.servers.keys().copied().collect::<Vec<_>>() {
            let Some(server) = self.table.servers.get(&number) else { continue };
            let Some(session) = self.table.sessions.get(&server.key) else { continue };
            let Some(host) = server.host.as_ref().filter(|_| server.entry != Entry::Unnamed) else { continue };
            match (server.entry, self.configured.has(host, session.uid, &server.name)) {
                (Entry::Unseen, Some(true)) => self.saw_entry(number),
                (Entry::Seen, Some(false)) => self.feed(number, Event::Due(Due::Unconfigured)),
                _ => {}
            }
        }
    }

    /// What ties a launch to an entry.
    pub(super) fn entry(&self, host: Option<&Name>, uid: u32, server: &Name, named: bool) -> Entry {
        match host {
            _ if !named => Entry::Unnamed,
            Some(host) if self.configured.has(host, uid, server) == Some(true) => Entry::Seen,
            _ => Entry::Unseen,
        }
    }

    /// The entry of a server came to be.
    fn saw_entry(&mut self, number: u64) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        server.entry = Entry::Seen;
        self.record_entry(number);
    }

    /// The next daemon is to know of it, too. The record of a launch that is under way is written again once it is placed.
    pub(super) fn record_entry(&self, number: u64) {
        let Some(server) = self.table.servers.get(&number).filter(|server| server.entry == Entry::Seen) else { return };
        // An end that began has written its record, or does so now.
        let leaf = server.leaf.as_ref().filter(|_| server.state == State::Running);
        let record = leaf.and_then(|leaf| self.record(server, leaf.machine().paths()));
        if let Some(Err(error)) = record.map(|record| self.records.write(&record)) {
            tracing::warn!(error = %chain(&error), "the next daemon would not know of this server's entry");
        }
    }
}

/// Looks at a file and at the way to it. The way is watched before the file is read: what changes from then on is told.
fn look(path: &Path, inotify: &OwnedFd) -> Look {
    use inotify::WatchFlags as Flags;
    let way = way(path);
    let events = Flags::CREATE | Flags::MOVED_TO | Flags::MOVED_FROM | Flags::DELETE;
    let mut watches = BTreeMap::new();
    for (directory, _) in &way {
        // In the last one the file may be written in place.
        let flags = events | Flags::DELETE_SELF | Flags::MOVE_SELF | Flags::ONLYDIR | Flags::CLOSE_WRITE;
        // One that is not there is seen to come in the one above it.
        if let Ok(watch) = inotify::add_watch(inotify, directory, flags) {
            watches.insert(directory.clone(), watch);
        }
    }
    let found = read(path, &way);
    Look { found, watches, names: way.into_iter().map(|(_, name)| name).collect() }
}

/// Reads a file: a regular one, and no more of it than any host's has.
///
/// Its path may lead through directories of a user who can point it anywhere, and to open a device is to use it: a watchdog
/// that was opened restarts the machine. So what it is, is looked at before it is opened for reading. Files of the kernel's
/// own, some of which wait for a reader, tell no length.
fn read(path: &Path, way: &[(PathBuf, OsString)]) -> Found {
    let unusable = |why: &dyn std::fmt::Display| Found::Unusable(why.to_string());
    let held = match std::fs::File::options().read(true).custom_flags(nix::libc::O_PATH).open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Found::Away;
        }
        Err(error) => return unusable(&error),
    };
    let meta = match held.metadata() {
        Ok(meta) if !meta.is_file() => return unusable(&"it is no regular file"),
        Ok(meta) if meta.len() == 0 => return unusable(&HostFileError::Empty),
        Ok(meta) if meta.len() > FILE_BYTES_MAX as u64 => return unusable(&HostFileError::TooLong),
        Ok(meta) => meta,
        Err(error) => return unusable(&error),
    };
    let again = format!("/proc/self/fd/{}", held.as_raw_fd());
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let mut bytes = Vec::new();
    let opened = std::fs::File::options().read(true).custom_flags(flags).open(again);
    if let Err(error) = opened.and_then(|file| file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)) {
        return unusable(&error);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match hostfile::entries(Syntax::of(&name), &bytes) {
        Ok(entries) => Found::Says(Content::Says { uid: speaker(way, meta.uid()), entries }),
        Err(error) => unusable(&error),
    }
}

/// Who says what stands in a file: the first on the way to it who is not root, because that user can put anything there.
fn speaker(way: &[(PathBuf, OsString)], owner: u32) -> u32 {
    let of = |path: &Path| std::fs::symlink_metadata(path).ok().map(|meta| meta.uid());
    let on_the_way = way.iter().flat_map(|(directory, name)| [of(directory), of(&directory.join(name))]).flatten();
    on_the_way.chain([owner]).find(|uid| *uid != 0).unwrap_or(0)
}

/// The way to a file: each directory that is walked through, links followed, with the name that is looked up in it. A change
/// of any of these can make the path mean another file.
fn way(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = vec![path.to_owned()];
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(rest) = left.pop() {
        let mut components = rest.components();
        let Some(first) = components.next() else { continue };
        let after = components.as_path().to_owned();
        if after.components().next().is_some() {
            left.push(after);
        }
        match first {
            Component::RootDir => at = PathBuf::from("/"),
            Component::ParentDir => drop(at.pop()),
            Component::CurDir | Component::Prefix(_) => {}
            Component::Normal(name) => {
                found.push((at.clone(), name.to_owned()));
                let next = at.join(name);
                match std::fs::read_link(&next) {
                    Ok(_) if links == LINKS_MAX => return found,
                    Ok(target) => {
                        links += 1;
                        left.push(target);
                    }
                    Err(_) => at = next,
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    #[test]
    fn every_directory_in_which_the_name_could_come_to_mean_another_file_is_on_the_way() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        let at = |name: &str| top.join(name);
        for directory in ["home", "dotfiles", "dotfiles/claude", "store"] {
            std::fs::create_dir(at(directory)).unwrap();
        }
        std::fs::write(at("store/v1.json"), "{}").unwrap();
        symlink("../dotfiles/claude", at("home/.claude")).unwrap();
        symlink(at("store/v1.json"), at("dotfiles/claude/mcp.json")).unwrap();
        let of = |name: &str| {
            let below = way(&at(name)).into_iter().filter(|(directory, _)| directory.starts_with(&top));
            below.map(|(directory, name)| directory.join(name)).collect::<BTreeSet<_>>()
        };
        let set = |names: &[&str]| names.iter().map(|name| at(name)).collect::<BTreeSet<_>>();
        assert_eq!(
            of("home/.claude/mcp.json"),
            set(&[
                "home",
                "home/.claude",
                "dotfiles",
                "dotfiles/claude",
                "dotfiles/claude/mcp.json",
                "store",
                "store/v1.json"
            ])
        );
        // Where there is nothing yet, what will be made there is seen.
        assert_eq!(of("home/none/mcp.json"), set(&["home", "home/none", "home/none/mcp.json"]));
        symlink("loop", at("loop")).unwrap();
        assert_eq!(of("loop"), set(&["loop"]));
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let top = tempfile::tempdir().unwrap();
        let fifo = top.path().join("mcp.json");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&*fifo, Path::new("/dev/zero"), Path::new("/proc/self/mem"), Path::new("/proc/kmsg")] {
            assert!(matches!(read(path, &[]), Found::Unusable(_)), "{path:?}");
        }
        assert!(matches!(read(&top.path().join("none"), &[]), Found::Away));
    }

    #[test]
    fn whoever_can_turn_the_way_to_a_file_is_who_speaks_in_it() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let roots = top.path().join("roots.json");
        std::fs::write(&roots, "{}").unwrap();
        let home = top.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let link = home.join("mcp.json");
        symlink(&roots, &link).unwrap();
        let says = |path: &Path| match read(path, &way(path)) {
            Found::Says(Content::Says { uid, .. }) => uid,
            _ => u32::MAX,
        };
        assert_eq!((says(&roots), says(&link)), (0, 0));
        chown(&home, Some(65534), None).unwrap();
        assert_eq!((says(&roots), says(&link)), (0, 65534));
    }
}
