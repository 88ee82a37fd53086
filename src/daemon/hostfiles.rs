//! Watches the configuration files of hosts that our own configuration names, and tells the driver what they say.
//!
//! A file is written in many ways: in place, by an atomic rename, through a symlink of a dotfiles manager. So what is
//! watched is every directory in which the name could come to mean another file (inotify(7)); after a moment of quiet the
//! file is read anew. From one that is broken nothing follows; one that stays away has no entries.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::driver::{Driver, Message};
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

/// How long reading them may take: what a file lies on may be a network, or a user's own filesystem.
const READ_MAX: Duration = Duration::from_secs(10);

/// Symbolic links that are followed on the way to a file, as the kernel does (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// One file.
#[derive(Debug)]
struct File {
    path: PathBuf,
    watched: Watched,
    /// Since when it is away.
    away: Option<Instant>,
    /// What is wrong with it was told.
    told: bool,
}

/// All of them, and the inotify of the directories on the way to them.
#[derive(Debug)]
pub(super) struct HostFiles {
    files: Vec<File>,
    inotify: AsyncFd<OwnedFd>,
    /// The same inotify, for the thread that looks.
    look: Arc<Look>,
}

/// What looks at paths, away from the driver's thread: what they lie on may not answer.
#[derive(Debug)]
struct Look {
    inotify: OwnedFd,
    paths: Vec<PathBuf>,
    /// The watch of each directory.
    watches: Mutex<BTreeMap<PathBuf, i32>>,
}

/// What reading a file gave.
enum Found {
    Content(Content),
    Away,
    Unusable(String),
}

impl HostFiles {
    /// The files by host. Nothing is read yet.
    pub(super) fn new(files: impl IntoIterator<Item = (Name, PathBuf)>) -> io::Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let (hosts, paths): (Vec<Name>, Vec<PathBuf>) = files.into_iter().unzip();
        let file = |(host, path): (Name, &PathBuf)| File {
            path: path.clone(),
            watched: Watched { host, content: None },
            away: None,
            told: false,
        };
        let files = hosts.into_iter().zip(&paths).map(file).collect();
        let look = Look { inotify: inotify.try_clone()?, paths, watches: Mutex::default() };
        Ok(Self { files, inotify: crate::sys::wait_on(inotify)?, look: Arc::new(look) })
    }

    /// Whether there is anything to watch.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Reads what is there, before anything is adopted or launched.
    pub(super) async fn read_now(&mut self) -> Configured {
        if let Some(found) = self.read().await {
            self.take(found);
        }
        self.told()
    }

    /// Reads them all; `None` where that takes too long. They are watched before they are read: what changes from then on
    /// is told.
    async fn read(&self) -> Option<Vec<Found>> {
        let look = self.look.clone();
        let reading = tokio::task::spawn_blocking(move || {
            look.watch_directories();
            look.paths.iter().map(|path| read(path)).collect()
        });
        tokio::time::timeout(READ_MAX, reading).await.ok()?.ok()
    }

    /// Reads them anew whenever they may have changed, for ever.
    pub(super) async fn follow(mut self, driver: mpsc::Sender<Message>) {
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
            let Some(found) = self.read().await else {
                tracing::error!("a configuration file of a host cannot be read in time; none is watched any more");
                return;
            };
            if self.take(found) && driver.send(Message::Configured(self.told())).await.is_err() {
                return;
            }
        }
    }

    /// Waits until a directory of interest changes.
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

    /// Takes all events; `false` where there was none. Which directory it was is no matter: reading them all is cheap.
    fn drain(&self) -> bool {
        let mut buffer = [const { MaybeUninit::uninit() }; 4096];
        let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
        let mut any = false;
        while reader.next().is_ok() {
            any = true;
        }
        any
    }

    /// Takes over what was read; whether anything is told differently now.
    fn take(&mut self, found: Vec<Found>) -> bool {
        let now = Instant::now();
        let mut changed = false;
        for (file, found) in self.files.iter_mut().zip(found) {
            let path = file.path.display();
            let content = match found {
                Found::Content(content) => {
                    (file.away, file.told) = (None, false);
                    Some(content)
                }
                Found::Away => {
                    let since = *file.away.get_or_insert(now);
                    let last = file.watched.content.as_ref();
                    // Its owner is who it was; without one it never spoke of anybody.
                    let none = last.map(|last| Content { uid: last.uid, entries: BTreeSet::new() });
                    none.filter(|_| now.duration_since(since) >= AWAY_MAX)
                }
                Found::Unusable(why) => {
                    file.away = None;
                    if !std::mem::replace(&mut file.told, true) {
                        tracing::warn!(host = %file.watched.host, "{path} says nothing now: {why}");
                    }
                    None
                }
            };
            if file.away.is_some_and(|since| now.duration_since(since) >= AWAY_MAX) {
                // It is told; from here on its coming back is waited for.
                file.away = None;
            }
            if content.is_some() && content != file.watched.content {
                file.watched.content = content;
                changed = true;
            }
        }
        changed
    }

    fn told(&self) -> Configured {
        Configured::new(self.files.iter().map(|file| file.watched.clone()).collect())
    }
}

impl Look {
    /// Watches the directories that are on the way now, and no others.
    fn watch_directories(&self) {
        use inotify::WatchFlags as Flags;
        let wanted: BTreeSet<PathBuf> = self.paths.iter().flat_map(|path| directories(path)).collect();
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|directory, watch| {
            let keep = wanted.contains(directory);
            if !keep {
                // That it is gone with its directory is no matter.
                let _ = inotify::remove_watch(&self.inotify, *watch);
            }
            keep
        });
        let events = Flags::CREATE | Flags::MOVED_TO | Flags::MOVED_FROM | Flags::DELETE | Flags::CLOSE_WRITE;
        let flags = events | Flags::ATTRIB | Flags::DELETE_SELF | Flags::MOVE_SELF | Flags::ONLYDIR;
        for directory in wanted {
            // A directory that was replaced under the same name is another one: adding it again tells.
            if let Ok(watch) = inotify::add_watch(&self.inotify, &directory, flags) {
                watches.insert(directory, watch);
            }
        }
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

    /// The entry of a running server came to be: the next daemon is to know it too.
    fn saw_entry(&mut self, number: u64) {
        let Some(server) = self.table.servers.get_mut(&number) else { return };
        server.entry = Entry::Seen;
        let server = &self.table.servers[&number];
        // An end that began has written its record, or does so now.
        let leaf = server.leaf.as_ref().filter(|_| server.state == State::Running);
        let record = leaf.and_then(|leaf| self.record(server, leaf.machine().paths()));
        if let Some(Err(error)) = record.map(|record| self.records.write(&record)) {
            tracing::warn!(error = %chain(&error), "the next daemon would not know of this server's entry");
        }
    }
}

/// Reads a file: a regular one, and no more of it than any host's has.
///
/// Its path leads through directories of a user who may point it anywhere, and to open a device is to use it: a watchdog
/// that was opened restarts the machine. So what it is, is looked at before it is opened for reading.
fn read(path: &Path) -> Found {
    let file = match std::fs::File::options().read(true).custom_flags(nix::libc::O_PATH).open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Found::Away;
        }
        Err(error) => return Found::Unusable(error.to_string()),
    };
    let uid = match file.metadata() {
        Ok(meta) if meta.is_file() => meta.uid(),
        Ok(_) => return Found::Unusable("it is no regular file".into()),
        Err(error) => return Found::Unusable(error.to_string()),
    };
    let mut bytes = Vec::new();
    let file = match std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        Ok(file) => file,
        Err(error) => return Found::Unusable(error.to_string()),
    };
    if let Err(error) = file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes) {
        return Found::Unusable(error.to_string());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let entries = hostfile::entries(Syntax::of(&name), &bytes);
    entries.map_or_else(
        |error: HostFileError| Found::Unusable(error.to_string()),
        |entries| Found::Content(Content { uid, entries }),
    )
}

/// The directories in which a change can make this path mean another file: the one it is in, those that hold a symbolic
/// link on the way, and where the way ends early, the last one that is there.
fn directories(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = vec![path.to_owned()];
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(rest) = left.pop() {
        let mut components = rest.components();
        let Some(first) = components.next() else { continue };
        let after = components.as_path().to_owned();
        let has_more = after.components().next().is_some();
        if has_more {
            left.push(after);
        }
        match first {
            Component::RootDir => at = PathBuf::from("/"),
            Component::ParentDir => drop(at.pop()),
            Component::CurDir | Component::Prefix(_) => {}
            Component::Normal(name) => {
                let next = at.join(name);
                let target = std::fs::read_link(&next).ok();
                let is_last = !has_more && left.is_empty();
                if target.is_some() || is_last || !next.exists() {
                    found.push(at.clone());
                }
                match target {
                    Some(target) if links < LINKS_MAX => {
                        links += 1;
                        left.push(target);
                    }
                    _ => at = next,
                }
            }
        }
    }
    found.retain(|directory| directory.is_dir());
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_directory_in_which_the_name_could_come_to_mean_another_file_is_watched() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        let at = |name: &str| top.join(name);
        for directory in ["home", "dotfiles", "dotfiles/claude", "store"] {
            std::fs::create_dir(at(directory)).unwrap();
        }
        std::fs::write(at("store/v1.json"), "{}").unwrap();
        symlink("../dotfiles/claude", at("home/.claude")).unwrap();
        symlink(at("store/v1.json"), at("dotfiles/claude/mcp.json")).unwrap();
        std::fs::write(at("home/plain.json"), "{}").unwrap();
        let of = |name: &str| directories(&at(name)).into_iter().collect::<BTreeSet<_>>();
        let set = |names: &[&str]| names.iter().map(|name| at(name)).collect::<BTreeSet<_>>();
        assert_eq!(of("home/plain.json"), set(&["home"]));
        assert_eq!(of("home/.claude/mcp.json"), set(&["home", "dotfiles/claude", "store"]));
        // Where there is nothing yet, what will be made there is seen.
        assert_eq!(of("home/none/yet/mcp.json"), set(&["home"]));
        symlink("loop", at("loop")).unwrap();
        assert_eq!(of("loop"), BTreeSet::from([top]));
    }

    #[test]
    fn what_is_no_regular_file_is_not_waited_for() {
        let top = tempfile::tempdir().unwrap();
        let fifo = top.path().join("mcp.json");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(read(&fifo), Found::Unusable(_)));
        for device in ["/dev/zero", "/dev/tty", "/proc/self/mem"] {
            assert!(matches!(read(Path::new(device)), Found::Unusable(_)), "{device}");
        }
        assert!(matches!(read(&top.path().join("none")), Found::Away));
    }
}
