//! Watches the configuration files of hosts that our own configuration names, and tells the driver what they say.
//!
//! A file is written in many ways: in place, by an atomic rename, through a symlink of a dotfiles manager. So what is
//! watched is every directory in which the name could come to mean another file (inotify(7)); after a moment of quiet the
//! file is read anew. From one that is broken nothing follows; one that stays away has no entries.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::driver::Driver;
use super::launching::Plan;
use super::message::Message;
use super::table::Entry;
use super::way::{self, Found};
use crate::chain::chain;
use crate::lifecycle::{Due, Event, State};
use crate::policy::{Configured, Content, Settings, Watched};
use crate::session::Name;
use crate::wire::Launch;

/// How long nothing must happen to a file before it is read: whoever writes it may not be done.
const QUIET: Duration = Duration::from_millis(200);

/// How long a file may be away before it counts as having no entries.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// How long reading a file may take: what it lies on may be a network, or a user's own filesystem.
const READ_MAX: Duration = Duration::from_secs(10);

/// One file.
#[derive(Debug)]
struct File {
    path: Arc<Path>,
    watched: Watched,
    /// Since when it is away.
    away: Option<Instant>,
    /// What is wrong with it was told.
    warned: bool,
    turn: Arc<Turn>,
    /// A thread that reads it does not come back: it is asked no more.
    stuck: bool,
}

/// The turn of whoever reads a file. A thread that the kernel holds up keeps it, whatever is reloaded meanwhile, so that a
/// file holds up one thread and no second one.
#[derive(Debug)]
pub(super) struct Turn {
    one: Arc<Semaphore>,
    /// Whoever has it, or had it last, did not come back in time.
    late: AtomicBool,
}

/// The turns of files, for those who read them from the next reload on.
pub(super) type Turns = BTreeMap<(Name, PathBuf), Arc<Turn>>;

/// All of them, and the inotify of the directories on the way to them.
#[derive(Debug)]
pub(super) struct HostFiles {
    files: Vec<File>,
    inotify: AsyncFd<OwnedFd>,
    /// The same inotify, for the threads that look.
    inotify_of_threads: Arc<OwnedFd>,
    /// The watches of the directories.
    watches: BTreeSet<i32>,
    /// The names on the way to a file: of other names nothing is of interest.
    names: BTreeSet<OsString>,
    turns: Turns,
}

impl HostFiles {
    /// The files by host, with the turns of those who read files before. Nothing is read yet.
    pub(super) fn new(files: impl IntoIterator<Item = (Name, PathBuf)>, mut before: Turns) -> io::Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let mut turns = Turns::new();
        let file = |named: (Name, PathBuf)| {
            let turn = turns.entry(named.clone()).or_insert_with(|| before.remove(&named).unwrap_or_default());
            File {
                turn: turn.clone(),
                path: named.1.into(),
                watched: Watched { host: named.0, content: Content::Unknown },
                away: None,
                warned: false,
                stuck: false,
            }
        };
        let files = files.into_iter().map(file).collect();
        // Of a file that is named no more a thread may still be there when it is named again.
        turns.extend(before.into_iter().filter(|(_, turn)| turn.is_held_up()));
        Ok(Self {
            files,
            turns,
            inotify_of_threads: Arc::new(inotify.try_clone()?),
            inotify: crate::sys::wait_on(inotify)?,
            watches: BTreeSet::new(),
            names: BTreeSet::new(),
        })
    }

    /// Whether there is anything to watch.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The turns of those who read them.
    pub(super) fn turns(&self) -> Turns {
        self.turns.clone()
    }

    /// Reads what is there; whether anything is told differently now.
    pub(super) async fn read(&mut self) -> bool {
        let deadline = Instant::now() + READ_MAX;
        let look = |file: &File| {
            let (path, inotify) = (file.path.clone(), self.inotify_of_threads.clone());
            tokio::spawn(file.turn.clone().look(path, inotify, deadline))
        };
        let looks: Vec<_> = self.files.iter().map(|file| (!file.stuck).then(|| look(file))).collect();
        let (mut watches, mut names) = (BTreeSet::new(), BTreeSet::new());
        let mut changed = false;
        for (file, look) in self.files.iter_mut().zip(looks) {
            let Some(look) = look else { continue };
            let found = match look.await {
                Ok(Some(look)) => {
                    watches.extend(look.watches);
                    names.extend(look.names);
                    look.found
                }
                Ok(None) | Err(_) => {
                    file.stuck = true;
                    Found::Unusable(format!("it was not read within {} s; it is watched no more", READ_MAX.as_secs()))
                }
            };
            changed |= file.take(found);
        }
        let before = std::mem::replace(&mut self.watches, watches);
        for watch in before.difference(&self.watches) {
            // That it is gone with its directory is no matter.
            let _ = inotify::remove_watch(self.inotify.get_ref(), *watch);
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

impl Default for Turn {
    fn default() -> Self {
        Self { one: Arc::new(Semaphore::new(1)), late: AtomicBool::new(false) }
    }
}

impl Turn {
    /// Whether a thread has it that nobody waits for any more.
    fn is_held_up(&self) -> bool {
        self.late.load(Ordering::Relaxed) && self.one.available_permits() == 0
    }

    /// Looks at a file on a thread of its own: the kernel may hold it up, and its rights become those of a user.
    async fn look(self: Arc<Self>, path: Arc<Path>, inotify: Arc<OwnedFd>, deadline: Instant) -> Option<way::Look> {
        if self.is_held_up() {
            return None;
        }
        let turn = tokio::time::timeout_at(deadline, self.one.clone().acquire_owned()).await.ok()?.ok()?;
        self.late.store(false, Ordering::Relaxed);
        let (sender, look) = oneshot::channel();
        let work = move || {
            let look = way::look(&path, &inotify);
            drop(turn);
            // Whoever asked may be gone, or have given it up.
            let _ = sender.send(look);
        };
        if let Err(error) = std::thread::Builder::new().name("hostfile".into()).spawn(work) {
            tracing::warn!(%error, "a host's configuration file cannot be looked at");
        }
        match tokio::time::timeout_at(deadline, look).await {
            Ok(look) => look.ok(),
            Err(_) => {
                self.late.store(true, Ordering::Relaxed);
                None
            }
        }
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
            let is_watched = server.entry != Entry::Unnamed && session.container.is_none();
            let Some(host) = server.host.as_ref().filter(|_| is_watched) else { continue };
            match (server.entry, self.configured.has(host, session.uid, &server.name)) {
                (Entry::Unseen, Some(true)) => self.saw_entry(number),
                (Entry::Seen, Some(false)) => self.feed(number, Event::Due(Due::Unconfigured)),
                _ => {}
            }
        }
    }

    /// What ties a launch to an entry. The files that are watched are those of the users of this machine, and say nothing of
    /// what a container launches.
    pub(super) fn entry(&self, plan: &Plan, wish: &Launch) -> Entry {
        match plan.host.as_ref() {
            _ if !wish.named => Entry::Unnamed,
            _ if plan.container.is_some() => Entry::Unseen,
            Some(host) if self.configured.has(host, plan.uid, &wish.server) == Some(true) => Entry::Seen,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn says(files: &HostFiles) -> bool {
        files.files.iter().all(|file| matches!(file.watched.content, Content::Says { .. }))
    }

    #[tokio::test]
    async fn a_file_whose_reader_does_not_come_back_has_no_second_one_over_reloads_until_it_does() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("mcp.json");
        std::fs::write(&path, "{ \"mcpServers\": {} }").unwrap();
        let named = || [(Name::parse("openclaw").unwrap(), path.clone())];
        let mut files = HostFiles::new(named(), Turns::new()).unwrap();
        assert!(files.read().await && says(&files));

        // As a thread has it that the kernel holds up.
        let turn = files.files[0].turn.clone();
        let thread = turn.one.clone().try_acquire_owned().unwrap();
        turn.late.store(true, Ordering::Relaxed);
        let mut turns = files.turns();
        for _ in 0..3 {
            let start = Instant::now();
            files = HostFiles::new(named(), turns).unwrap();
            assert!(!files.read().await && files.files[0].stuck);
            assert!(start.elapsed() < READ_MAX, "nobody waits for it again");
            // It may be named by no file for a while.
            turns = HostFiles::new([], files.turns()).unwrap().turns();
        }
        drop(thread);
        files = HostFiles::new(named(), turns).unwrap();
        assert!(files.read().await && says(&files));
        // What is named no more is forgotten.
        assert!(HostFiles::new([], files.turns()).unwrap().turns().is_empty());
    }
}
