//! `pinfold scan`: what runs on this machine without pinfold, and which of it looks abandoned.
//!
//! It only looks: no process is signalled, moved or read from, nothing is written, and no daemon is started for it. Whether
//! a server is contained is told by its cgroup; a daemon that runs is asked only for what left its leaf.

mod evidence;
mod look;
mod page;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{DONE, NO, args, serve, text};
use crate::chain::chain;
use crate::client::{self, ClientError};
use crate::config::{Config, ConfigError};
use crate::policy::Settings;
use crate::session::Name;
use crate::wire::{Call, ListReply};

/// After this no further process is looked at, and what was found is told.
const LOOK_MAX: Duration = Duration::from_secs(8);

/// After this nothing is told: the kernel holds the look up at one process, and nobody can tell for how long.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// How long a daemon may take to answer.
const DAEMON_MAX: Duration = Duration::from_secs(2);

pub(super) fn scan(scan: &args::Scan) -> u8 {
    let (settings, wrong) = settings();
    let daemon = Daemon::ask(scan.socket.socket.as_deref());
    let at = Arc::new(AtomicI32::new(0));
    let (sender, receiver) = mpsc::sync_channel(1);
    let (escaped, progress) = (daemon.escaped, at.clone());
    // Reading of a process waits for whoever holds the lock of its memory, and no deadline ends that: it waits in a thread
    // that this command does not wait for.
    std::thread::spawn(move || {
        let survey = look::survey(&settings, &escaped, Instant::now() + LOOK_MAX, &progress);
        let _ = sender.send(survey);
    });
    let mut survey = match receiver.recv_timeout(ANSWER_MAX) {
        Ok(Ok(survey)) => survey,
        Ok(Err(error)) => {
            eprintln!("pinfold: cannot list /proc: {}; mount it", chain(&error));
            return NO;
        }
        Err(_) => {
            let pid = at.load(Ordering::Relaxed);
            eprintln!(
                "pinfold: the kernel has held up the look at process {pid} for more than {} s: see what it waits for in \
                 /proc/{pid}/stack, and try again when it has gone on",
                (ANSWER_MAX - LOOK_MAX).as_secs()
            );
            return NO;
        }
    };
    survey.notes.extend(wrong);
    survey.notes.extend(daemon.note.filter(|_| survey.contained.servers > 0));
    if scan.json {
        text::print_json(&survey);
    } else {
        text::print(&page::page(&survey, scan.all));
    }
    DONE
}

/// The hosts that are known here, by the configuration of the daemon that this user would start. Where that is of no use,
/// those that are built in, and a word about it.
fn settings() -> (Settings, Option<String>) {
    let named = std::env::var_os("PINFOLD_CONFIG").map(PathBuf::from);
    let Some(path) = named.or_else(serve::default_config) else { return (Settings::default(), None) };
    match Config::load(&path) {
        Ok(config) => (config.settings, None),
        Err(error @ (ConfigError::Read { .. } | ConfigError::Wrong { .. })) => {
            (Settings::default(), Some(format!("hosts of the configuration are not known here: {}", chain(&error))))
        }
    }
}

/// What a daemon adds to what can be seen.
#[derive(Default)]
struct Daemon {
    /// Processes that left their leaf, and whose that was.
    escaped: HashMap<i32, Name>,
    /// That nobody looks after what is contained.
    note: Option<String>,
}

impl Daemon {
    /// Asks the daemon that would be taken for a launch. None is started.
    fn ask(chosen: Option<&Path>) -> Self {
        let asked = client::find_running(chosen).and_then(|mut client| client.call(&Call::List, &[], DAEMON_MAX));
        match asked {
            Ok(ListReply { sessions, .. }) => {
                let servers = sessions.iter().flat_map(|session| &session.servers);
                let escaped =
                    servers.flat_map(|server| server.escaped_pids.iter().map(|pid| (*pid, server.name.clone())));
                Self { escaped: escaped.collect(), note: None }
            }
            // There is one; that it says nothing to this user is its right.
            Err(ClientError::NotPermitted(_)) => Self::default(),
            Err(error) => {
                let note = format!(
                    "{}; unless another one looks after what is contained here, that stays until the next daemon adopts it",
                    chain(&error)
                );
                Self { note: Some(note), ..Self::default() }
            }
        }
    }
}
