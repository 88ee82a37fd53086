//! `pinfold wrap` and `pinfold unwrap`: look at what a host's files would become, ask, and put that in their place.

pub(super) mod front;
pub(super) mod openclaw;
mod show;
mod which;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::front::FrontError;
use self::openclaw::Plugin;
use self::which::Chosen;
use super::{DONE, NO, USAGE, args, failed, text};
use crate::chain::chain;
use crate::hostfile::Syntax;
use crate::hostfile::edit::{self, Edit, Front, State};
use crate::hostfile::hosts;
use crate::rewrite::kept::Kept;
use crate::rewrite::original::{FileError, Original};
use crate::session::Name;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// What is wished of all files.
struct Order<'a> {
    way: Way,
    servers: &'a [String],
    /// The plug-in comes, too.
    plugin: bool,
    dry_run: bool,
    yes: bool,
    json: bool,
    /// What is put in front; nothing on the way out.
    program: String,
    /// What the user said, to be said again.
    said: String,
}

/// A file that was looked at.
struct Looked {
    file: Chosen,
    found: Result<Found, String>,
}

/// What it is, and what it is to be.
struct Found {
    original: Original,
    syntax: Syntax,
    edit: Edit,
    plugin: Plugin,
}

impl Found {
    fn changes(&self) -> bool {
        !self.edit.changes.is_empty() || self.plugin.changes()
    }

    /// Whether something of ours is in the file before the edit.
    fn is_wrapped(&self) -> bool {
        let is_wrapped = self.edit.entries.iter().any(|entry| entry.state == State::Wrapped);
        is_wrapped || openclaw::is_there(self.original.bytes())
    }

    /// Whether something of ours is in it after the edit on the way out.
    fn is_left(&self) -> bool {
        let is_left = self.edit.entries.iter().any(|entry| entry.state == State::Wrapped && !entry.edited);
        is_left || openclaw::is_there(self.edit.after.as_bytes())
    }
}

/// What became of a file, for programs.
#[derive(Debug, Serialize)]
struct Told {
    path: PathBuf,
    host: Option<&'static str>,
    outcome: Outcome,
    /// What stood there before, where that is kept.
    backup: Option<PathBuf>,
    error: Option<String>,
    entries: Vec<show::EntryView>,
    /// What becomes of the plug-in, where something does: `comes`, `goes`.
    plugin: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// There was nothing to change.
    Unchanged,
    /// It would be changed.
    WouldChange,
    /// It was changed.
    Changed,
    /// It is left as it is.
    Failed,
    /// It was wrapped, and is not there, as on a disk that is not mounted or in another branch: it may come back.
    Away,
}

pub(super) fn wrap(wrap: &args::Wrap) -> u8 {
    if wrap.json && !wrap.yes && !wrap.dry_run && !wrap.check {
        return json_does_not_ask();
    }
    let files = match which::named(&wrap.what) {
        Ok(files) => files,
        Err(error) => return error.tell(),
    };
    if wrap.plugin && files.iter().any(|file| file.host != Some(openclaw::HOST)) {
        eprintln!("pinfold: --plugin is for OpenClaw: say `pinfold wrap openclaw --plugin`, or name its openclaw.json");
        return USAGE;
    }
    let program = match front::program() {
        Ok(program) => program,
        // Whether something is wrapped can be told whatever this program is called.
        Err(_) if wrap.check => "pinfold".to_owned(),
        Err(error @ (FrontError::Unknown(_) | FrontError::Called(_))) => return failed(&error),
    };
    let order = Order {
        way: Way::In,
        servers: &wrap.servers,
        plugin: wrap.plugin,
        dry_run: wrap.dry_run,
        yes: wrap.yes,
        json: wrap.json,
        program,
        said: wrap.what.display().to_string(),
    };
    let looked: Vec<Looked> = files.into_iter().map(|file| look(file, &order)).collect();
    if let Some(status) = unknown_server(&looked, &order) {
        return status;
    }
    if wrap.check { check(&looked, &order) } else { carry_out(looked, Vec::new(), &order) }
}

pub(super) fn unwrap(unwrap: &args::Unwrap) -> u8 {
    if unwrap.json && !unwrap.yes && !unwrap.dry_run {
        return json_does_not_ask();
    }
    let mut missing = Vec::new();
    let files = match &unwrap.what {
        Some(what) => which::named(what),
        None => which::kept(&mut missing),
    };
    let files = match files {
        Ok(files) => files,
        Err(error) => return error.tell(),
    };
    let order = Order {
        way: Way::Out,
        servers: &unwrap.servers,
        plugin: false,
        dry_run: unwrap.dry_run,
        yes: unwrap.yes,
        json: unwrap.json,
        program: String::new(),
        said: unwrap.what.as_ref().map_or_else(|| "--all".to_owned(), |what| what.display().to_string()),
    };
    let looked: Vec<Looked> = files.into_iter().map(|file| look(file, &order)).collect();
    if let Some(status) = unknown_server(&looked, &order) {
        return status;
    }
    let here: Vec<PathBuf> = looked.iter().map(|looked| looked.file.path.clone()).collect();
    let host = unwrap.what.as_ref().and_then(|what| hosts::host(what.to_str()?)).map(|host| host.name);
    let status = carry_out(looked, missing, &order);
    if let Some(host) = host.filter(|_| !order.json) {
        tell_elsewhere(host, &here);
    }
    status
}

/// A host's name means its files of this user and in this directory: others that were wrapped stay so.
fn tell_elsewhere(host: &str, here: &[PathBuf]) {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let here: Vec<_> = here.iter().filter_map(|path| real(path)).collect();
    let others = which::kept(&mut Vec::new()).unwrap_or_default().into_iter();
    let is_other =
        |file: &Chosen| file.host == Some(host) && real(&file.path).is_some_and(|path| !here.contains(&path));
    let others: Vec<Chosen> = others.filter(is_other).collect();
    if !others.is_empty() {
        text::print(&show::elsewhere(&others));
    }
}

fn json_does_not_ask() -> u8 {
    eprintln!("pinfold: --json does not ask: add --yes to change it, or --dry-run to look only");
    USAGE
}

/// Reads a file and makes the edit of it.
fn look(file: Chosen, order: &Order<'_>) -> Looked {
    let read = Original::read(&file.path).map_err(|error| chain(&error));
    let found = read.and_then(|original| {
        let syntax = original.syntax(&file.path);
        let host = file.host.and_then(|host| Name::parse(host).ok());
        let edit = match order.way {
            Way::In => {
                let front = Front { program: &order.program, host: host.as_ref() };
                edit::wrap(syntax, original.bytes(), front, order.servers)
            }
            Way::Out => edit::unwrap(syntax, original.bytes(), order.servers),
        };
        let edit = edit.map_err(|error| format!("{} is left as it is: {}", file.path.display(), chain(&error)))?;
        let (edit, plugin) = match order.way {
            Way::In if order.plugin => openclaw::add(&original, edit)?,
            Way::Out if order.servers.is_empty() => openclaw::remove(&original, edit)?,
            Way::In | Way::Out => (edit, Plugin::Stays),
        };
        Ok(Found { original, syntax, edit, plugin })
    });
    Looked { file, found }
}

/// A server that is named and is nowhere is a slip of the pen: nothing is done, and what there is is told.
fn unknown_server(looked: &[Looked], order: &Order<'_>) -> Option<u8> {
    let edits = || looked.iter().filter_map(|looked| Some(&looked.found.as_ref().ok()?.edit));
    let names = || edits().flat_map(|edit| &edit.entries).map(|entry| entry.name.as_str());
    let unknown = order.servers.iter().find(|server| names().all(|name| name != *server))?;
    for error in looked.iter().filter_map(|looked| looked.found.as_ref().err()) {
        eprintln!("pinfold: {}", text::shown(error));
    }
    let mut all: Vec<String> = names().map(text::shown).collect();
    all.sort_unstable();
    all.dedup();
    let there = if all.is_empty() { "there is none".to_owned() } else { format!("there are {}", all.join(", ")) };
    eprintln!("pinfold: no server is called {unknown:?} in {}: {there}; nothing was changed", text::shown(&order.said));
    Some(NO)
}

/// Tells whether all of them are wrapped.
fn check(looked: &[Looked], order: &Order<'_>) -> u8 {
    let mut told = Vec::new();
    let mut all = true;
    for Looked { file, found } in looked {
        let (entries, error) = match found {
            Ok(found) => (show::entries(&found.edit, None), None),
            Err(error) => (Vec::new(), Some(error.clone())),
        };
        let bare = match found {
            Ok(found) => found.edit.entries.iter().filter(|entry| lacks(entry, order)).collect(),
            Err(_) => Vec::new(),
        };
        let lacks_plugin = found.as_ref().is_ok_and(|found| found.plugin.changes());
        let is_whole = bare.is_empty() && !lacks_plugin;
        all &= is_whole && error.is_none();
        if !order.json {
            error.iter().for_each(|error| eprintln!("pinfold: {}", text::shown(error)));
            if let Ok(found) = found {
                let meant: Vec<_> = found.edit.entries.iter().filter(|entry| is_meant(entry, order)).collect();
                text::print(&show::checked(file, &meant, &bare, lacks_plugin));
            }
        }
        let outcome = match (&error, is_whole) {
            (Some(_), _) => Outcome::Failed,
            (None, true) => Outcome::Unchanged,
            (None, false) => Outcome::WouldChange,
        };
        let plugin = found.as_ref().ok().and_then(|found| found.plugin.word());
        told.push(Told { path: file.path.clone(), host: file.host, outcome, backup: None, error, entries, plugin });
    }
    if order.json {
        text::print_json(&told);
    }
    if all { DONE } else { NO }
}

/// Whether an entry that is meant is not wrapped: not yet, or in no way, or by a program that is gone.
fn lacks(entry: &edit::Entry, order: &Order<'_>) -> bool {
    is_meant(entry, order)
        && (entry.edited || matches!(entry.state, State::Unusual(_)) || show::gone_front(entry).is_some())
}

fn is_meant(entry: &edit::Entry, order: &Order<'_>) -> bool {
    order.servers.is_empty() || order.servers.contains(&entry.name)
}

/// Shows the edits, asks, does them, and tells what became of each.
fn carry_out(looked: Vec<Looked>, missing: Vec<PathBuf>, order: &Order<'_>) -> u8 {
    let host = looked.iter().find_map(|looked| looked.file.host);
    // What is in front of these is gone: they do not start, whatever else is done here.
    let is_broken = order.way == Way::In
        && looked.iter().filter_map(|looked| looked.found.as_ref().ok()).any(|found| {
            found.edit.entries.iter().any(|entry| is_meant(entry, order) && show::gone_front(entry).is_some())
        });
    for Looked { file, found } in looked.iter().filter(|_| !order.json) {
        match found {
            Ok(found) => _ = text::print(&show::file(file, found, order.way)),
            Err(error) => eprintln!("pinfold: {}", text::shown(error)),
        }
    }
    let changing = looked.iter().filter(|looked| looked.found.as_ref().is_ok_and(Found::changes)).count();
    if changing > 0
        && !order.dry_run
        && !order.yes
        && let Err(status) = ask(changing)
    {
        return status;
    }
    // Until the last of them is written nobody else of this user changes what is kept of any.
    let _lock = match Kept::own().filter(|_| !order.dry_run).map(|kept| kept.lock()).transpose() {
        Ok(lock) => lock,
        // Without a place for notes there are none to be confused.
        Err(error) if order.way == Way::Out && !error.is_taken() => None,
        Err(error) => return failed(&error),
    };
    let mut told: Vec<Told> = missing.into_iter().map(|path| tell_missing(path, order)).collect();
    told.extend(looked.into_iter().map(|looked| apply(looked, order)));
    let any = |outcome: Outcome| told.iter().any(|told| told.outcome == outcome);
    if order.json {
        text::print_json(&told);
    } else if any(Outcome::Changed) {
        text::print(&show::after(order.way, &order.said, host));
    } else if changing > 0 && order.dry_run {
        text::print("nothing was changed: --dry-run\n");
    } else if told.is_empty() {
        text::print("no file is wrapped\n");
    }
    if order.way == Way::In && !order.json && (any(Outcome::Changed) || order.dry_run) {
        tell_of_socket();
    }
    if any(Outcome::Failed) || is_broken { NO } else { DONE }
}

/// An environment is not written into a host's file: what stands there holds for everybody who starts the host.
fn tell_of_socket() {
    if let Some(socket) = std::env::var_os("PINFOLD_SOCKET") {
        eprintln!(
            "pinfold: PINFOLD_SOCKET is set here, and hosts do not hand it on: what they launch goes to the daemon that a launch \
             finds by itself; to have it go to this one, give the entries the environment variable PINFOLD_SOCKET={}, too",
            text::shown(&socket.to_string_lossy())
        );
    }
}

/// Asks whoever sits there; the status where the answer is no, or nobody does.
fn ask(files: usize) -> Result<(), u8> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        eprintln!(
            "pinfold: nothing was changed, because nobody can be asked here: add --yes to change it, or --dry-run to look only"
        );
        return Err(USAGE);
    }
    let what = if files == 1 { "this file".to_owned() } else { format!("these {files} files") };
    eprint!("change {what}? [y/N] ");
    let _ = io::stderr().flush();
    let mut answer = String::new();
    // What cannot be read is no yes.
    let _ = io::stdin().lock().read_line(&mut answer);
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    eprintln!("nothing was changed");
    Err(NO)
}

/// Tells of a file that was wrapped and is not there.
fn tell_missing(path: PathBuf, order: &Order<'_>) -> Told {
    if !order.json {
        let note = Kept::own().and_then(|kept| kept.note(&path));
        text::print(&show::away(&path, note.as_deref()));
    }
    Told { path, host: None, outcome: Outcome::Away, backup: None, error: None, entries: Vec::new(), plugin: None }
}

/// Does one edit, and tells what came of it.
fn apply(looked: Looked, order: &Order<'_>) -> Told {
    let Looked { file, found } = looked;
    let Chosen { path, host } = file;
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            return Told {
                path,
                host,
                outcome: Outcome::Failed,
                backup: None,
                error: Some(error),
                entries: Vec::new(),
                plugin: None,
            };
        }
    };
    if !order.dry_run {
        let kept = Kept::own().and_then(|kept| kept.before(found.original.target())).unwrap_or_default();
        found.original.remove_drafts(&[found.edit.after.as_bytes(), &kept]);
    }
    let (entries, made) = (show::entries(&found.edit, None), show::entries(&found.edit, Some(order.way)));
    let plugin = found.plugin.word();
    let mut told = Told { path, host, outcome: Outcome::Unchanged, backup: None, error: None, entries, plugin };
    if !found.changes() {
        if order.way == Way::Out && !order.dry_run && !found.is_wrapped() {
            told.backup = forget(found.original.target(), Some(found.original.bytes()));
        }
        return told;
    }
    if order.dry_run {
        told.outcome = Outcome::WouldChange;
        return told;
    }
    let what = show::edited(&found);
    let done = match order.way {
        Way::In => put_in(found, &told.path).map(Some),
        Way::Out => take_out(found),
    };
    match done {
        Ok(backup) => {
            (told.outcome, told.entries) = (Outcome::Changed, made);
            if !order.json {
                text::print(&show::done(&told.path, &what, order.way, backup.as_deref()));
            }
            told.backup = backup;
        }
        Err(error) => {
            told.outcome = Outcome::Failed;
            if !order.json {
                eprintln!("pinfold: {}", text::shown(&error));
            }
            told.error = Some(error);
        }
    }
    told
}

/// Keeps what stands there, and replaces it; tells where it is kept.
fn put_in(found: Found, named: &Path) -> Result<PathBuf, String> {
    let kept =
        Kept::own().ok_or("nothing was changed: there is no home directory to keep what stands there: set HOME")?;
    let is_wrapped = found.is_wrapped();
    let Found { original, edit, plugin, .. } = found;
    let target = original.target().to_owned();
    let left = |error: &dyn std::error::Error| format!("{} is left as it is: {}", target.display(), chain(error));
    let backup = kept.keep((&target, named), original.bytes(), is_wrapped).map_err(|error| left(&error))?;
    let replace = || {
        plugin.come()?;
        if edit.changes.is_empty() {
            Ok(())
        } else {
            original.replace(edit.after.as_bytes()).map_err(|error| replaced(&error))
        }
    };
    replace().inspect_err(|_| {
        if backup.is_new {
            // It is as it was, or as somebody else wants it.
            let _ = kept.forget(&target, Some(edit.before.as_bytes()));
            let _ = plugin.go();
        }
    })?;
    Ok(backup.path)
}

/// Replaces what stands there, and forgets the file where nothing of ours is left in it; tells where other bytes are kept.
fn take_out(found: Found) -> Result<Option<PathBuf>, String> {
    let is_left = found.is_left();
    let Found { original, edit, plugin, .. } = found;
    let target = original.target().to_owned();
    original.replace(edit.after.as_bytes()).map_err(|error| replaced(&error))?;
    plugin.go()?;
    Ok(if is_left { None } else { forget(&target, Some(edit.after.as_bytes())) })
}

fn replaced(error: &FileError) -> String {
    match error {
        FileError::Failed { doing: "write beside", path, source } if source.kind() != io::ErrorKind::StorageFull => {
            let parent = path.parent().unwrap_or(path).display();
            format!("{}; whoever changes it has to be able to write in {parent}", chain(error))
        }
        error => chain(error),
    }
}

/// Forgets a file. That this cannot be written down is no reason to fail: the file itself is as it should be.
fn forget(target: &Path, bytes: Option<&[u8]>) -> Option<PathBuf> {
    match Kept::own()?.forget(target, bytes) {
        Ok(left) => left,
        Err(error) => {
            eprintln!("pinfold: {}", chain(&error));
            None
        }
    }
}
