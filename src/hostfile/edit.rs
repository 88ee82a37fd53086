//! Puts pinfold in front of the servers of a host's file, and takes it back, byte for byte.
//!
//! An edit undoes itself: the command's own bytes, with their quotes, become an argument behind pinfold's, and go back from
//! there; what pinfold's own words are can be told by looking at them. So the way back needs no memory, and works after the
//! host or the user has written other parts of the file anew. Each edit is proved before it is given out: the way back must
//! lead to the same bytes, and the reader must see the same command behind pinfold's words.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod launch;
mod plan;
mod starts;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::places::{Tree, places};
use super::tree::{Node, What, tree};
use super::{HostFileError, Syntax};
use crate::argv::MaskedArgv;
use crate::session::Name;
use launch::{Launch, NoLaunch};
pub(super) use plan::quoted;
pub use starts::{Start, starts};

/// What is put in front.
#[derive(Debug, Clone, Copy)]
pub struct Front<'a> {
    /// The program: a path, or a name that the host finds.
    pub program: &'a str,
    /// What the host is called, where that is known; else it is recognised at each launch.
    pub host: Option<&'a Name>,
}

/// A stretch of a file, and what stands there instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its bytes.
    pub span: Range<usize>,
    /// What comes there.
    pub text: String,
}

/// What is so of an entry, or was before the edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It starts a process, and pinfold is not in front of it.
    Bare,
    /// pinfold is in front of it.
    Wrapped,
    /// It is reached over the network: there is no process to contain.
    Remote,
    /// It says no command: it comes with the host, or from an extension.
    NoCommand,
    /// It is written in a way that no edit is safe for; this is what is in the way.
    Unusual(&'static str),
}

/// An entry of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is called.
    pub name: String,
    /// The project directory that it is for, where it is for one.
    pub project: Option<String>,
    /// What is so of it.
    pub state: State,
    /// Its program asks another daemon for a container, which is then no child of the server's: `docker`, `podman`.
    pub container: Option<String>,
    /// The program that is in front of it, where it is wrapped.
    pub front: Option<String>,
    /// Whether the edit changes it.
    pub edited: bool,
}

/// An edit of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The text of the file as it is.
    pub before: String,
    /// The text as it is to be: the same where nothing changes.
    pub after: String,
    /// What changes, in the order of the file.
    pub changes: Vec<Change>,
    /// All entries, switched off ones too.
    pub entries: Vec<Entry>,
}

impl Edit {
    /// The same edit with further changes of the same bytes; `None` where they would meet.
    pub fn with(self, more: Vec<Change>) -> Option<Self> {
        let mut changes = self.changes;
        changes.extend(more);
        changes.sort_by_key(|change| (change.span.start, change.span.end));
        if changes.windows(2).any(|pair| pair[0].span.end > pair[1].span.start) {
            return None;
        }
        Some(Self { after: apply(&self.before, &changes), changes, ..self })
    }
}

/// Puts pinfold in front of the entries of these names that start a process, or of all where none is named.
pub fn wrap(syntax: Syntax, bytes: &[u8], front: Front<'_>, only: &[String]) -> Result<Edit, HostFileError> {
    edit(syntax, bytes, Way::In(front), only)
}

/// Takes pinfold away from in front of the entries of these names, or of all where none is named.
pub fn unwrap(syntax: Syntax, bytes: &[u8], only: &[String]) -> Result<Edit, HostFileError> {
    edit(syntax, bytes, Way::Out, only)
}

#[derive(Debug, Clone, Copy)]
enum Way<'a> {
    In(Front<'a>),
    Out,
}

fn edit(syntax: Syntax, bytes: &[u8], way: Way<'_>, only: &[String]) -> Result<Edit, HostFileError> {
    // What the daemon would not read is not edited either; this bounds size and depth.
    super::entries(syntax, bytes)?;
    let before = std::str::from_utf8(bytes).map_err(|_| HostFileError::Syntax { language: "UTF-8 text", at: None })?;
    let text = before.trim_start_matches('\u{feff}');
    let mark = before.len() - text.len();
    let root = tree(syntax, text).ok_or(HostFileError::NoObject)?;
    let mut entries = Vec::new();
    let mut plans: Vec<(usize, Vec<Change>)> = Vec::new();
    let walked = walk(syntax, &root);
    let called = called(&walked);
    for (index, (project, name, node)) in walked.into_iter().enumerate() {
        let mut entry = look(project, name, node);
        if only.is_empty() || only.iter().any(|wanted| wanted == name) {
            match plan(syntax, text, (called[index].as_ref(), node), way) {
                Ok(Some(changes)) => plans.push((index, changes)),
                Ok(None) => {}
                Err(why) => entry.state = State::Unusual(why),
            }
        }
        entries.push(entry);
    }
    entries.extend(overlooked(syntax, text, &root));
    let unproved = settle(syntax, text, way, &mut plans);
    for index in unproved {
        entries[index].state = State::Unusual("the way back from the edit would not lead to the same bytes");
    }
    for (index, _) in &plans {
        entries[*index].edited = true;
    }
    let mut changes: Vec<Change> = plans.into_iter().flat_map(|(_, changes)| changes).collect();
    changes.sort_by_key(|change| (change.span.start, change.span.end));
    let after = before[..mark].to_owned() + &apply(text, &changes);
    for change in &mut changes {
        change.span = change.span.start + mark..change.span.end + mark;
    }
    Ok(Edit { before: before.to_owned(), after, changes, entries })
}

/// What each entry's server is to be called. A name that is none of pinfold's is changed to one, where no other entry would be
/// called the same: by its name a server ends with its entry. One that would be taken for an option is none.
fn called(entries: &[(Option<&str>, &str, &Node)]) -> Vec<Option<Name>> {
    let usable = |name: &str| {
        let called = Name::parse(name).ok().or_else(|| Name::from_lossy(name));
        called.filter(|called| !called.as_str().starts_with('-'))
    };
    let mut of: HashMap<Name, HashSet<&str>> = HashMap::new();
    for (_, name, _) in entries {
        if let Some(called) = usable(name) {
            of.entry(called).or_default().insert(name);
        }
    }
    let is_alone = |called: &Name, name: &str| called.as_str() == name || of[called].len() == 1;
    entries.iter().map(|(_, name, _)| usable(name).filter(|called| is_alone(called, name))).collect()
}

/// Tables of entries that no edit is safe for: in YAML an anchor, a tag or an alias makes them more than their own bytes.
fn overlooked(syntax: Syntax, text: &str, root: &Node) -> Vec<Entry> {
    const TABLES: &[&str] = &["extensions", "mcpServers", "mcp_servers", "servers", "context_servers"];
    let fields = root.fields().filter(|_| syntax == Syntax::Yaml).unwrap_or_default();
    let is_table = |node: &Node| {
        let said = text.get(node.span.clone()).unwrap_or_default();
        matches!(node.what, What::Other) && (said.starts_with(['*', '{']) || said.contains(':'))
    };
    let tables = fields.into_iter().filter(|(name, node)| TABLES.contains(name) && is_table(node));
    let state = State::Unusual("an anchor, a tag or an alias stands for its entries");
    tables
        .map(|(name, _)| Entry {
            name: name.to_owned(),
            project: None,
            state,
            container: None,
            front: None,
            edited: false,
        })
        .collect()
}

/// All entries, in an order that no edit changes.
///
/// What is no table is no entry, but another setting of the host's beside them. In YAML an alias may stand for a table.
fn walk(syntax: Syntax, root: &Node) -> Vec<(Option<&str>, &str, &Node)> {
    let is_entry = |node: &Node| match node.what {
        What::Table(..) => true,
        What::Other => syntax == Syntax::Yaml,
        What::Text(_) | What::List(..) => false,
    };
    let mut found = Vec::new();
    for place in places(root) {
        let entries = place.table.fields().unwrap_or_default().into_iter().filter(|(_, node)| is_entry(node));
        found.extend(entries.map(|(name, node)| (place.project, name, node)));
    }
    found
}

/// The words of servers' commands that may be shown: those that hold no secret.
pub(super) fn shown_words(syntax: Syntax, root: &Node) -> Vec<&Node> {
    let mut shown = Vec::new();
    for (.., entry) in walk(syntax, root) {
        let Ok(launch) = Launch::of(entry) else { continue };
        let nodes = launch.nodes();
        let words: Vec<&str> = nodes.iter().map(|node| node.text().unwrap_or_default()).collect();
        let masked = MaskedArgv::mask(&words);
        let plain = nodes.into_iter().zip(&words).zip(masked.words());
        shown.extend(plain.filter(|((_, word), masked)| **word == masked.as_str()).map(|((node, _), _)| node));
    }
    shown
}

/// What VS Code says to a command of another name than its debugger knows: nothing is started.
const DEBUGGED: &str = "its dev.debug has VS Code start it by the name node or python only: take that away to wrap it";

/// Whether VS Code attaches a debugger to it. That it is started anew when files change (`dev.watch`) stands in no way.
fn is_debugged(node: &Node) -> bool {
    node.field("dev").is_some_and(|dev| dev.field("debug").is_some())
}

fn look(project: Option<&str>, name: &str, node: &Node) -> Entry {
    let (state, container) = match Launch::of(node) {
        Ok(launch) if launch.own_words().is_some() || launch.behind().is_some() => (State::Wrapped, launch.container()),
        Ok(launch) if is_debugged(node) => (State::Unusual(DEBUGGED), launch.container()),
        Ok(launch) => (State::Bare, launch.container()),
        Err(NoLaunch::Remote) => (State::Remote, None),
        Err(NoLaunch::NoCommand) => (State::NoCommand, None),
        Err(NoLaunch::Unusual(why)) => (State::Unusual(why), None),
    };
    let front = Launch::of(node).ok().and_then(|launch| {
        let at = launch.own_words().map_or_else(|| launch.behind().map(|own| own.start), |_| Some(0))?;
        launch.words()[at].map(str::to_owned)
    });
    let (name, project) = (name.to_owned(), project.map(str::to_owned));
    Entry { name, project, state, container, front, edited: false }
}

/// What the edit of one entry changes; none where there is nothing to do.
fn plan(
    syntax: Syntax,
    text: &str,
    (name, node): (Option<&Name>, &Node),
    way: Way<'_>,
) -> Result<Option<Vec<Change>>, &'static str> {
    let Ok(launch) = Launch::of(node) else { return Ok(None) };
    if launch.own_words().is_none() && launch.behind().is_some() {
        return match way {
            Way::In(_) => Ok(None),
            Way::Out => Err("pinfold stands behind another program there, where no wrap puts it: take it out by hand"),
        };
    }
    match (way, launch.own_words()) {
        (Way::In(_), None) if is_debugged(node) => Ok(None),
        (Way::In(front), None) => plan::wrap(syntax, text, &launch, name, front).map(Some),
        (Way::Out, Some(own)) => plan::unwrap(text, &launch, own).map(Some),
        (Way::In(_), Some(_)) | (Way::Out, None) => Ok(None),
    }
}

/// Drops the plans that cannot be proved, and tells whose they were.
fn settle(syntax: Syntax, text: &str, way: Way<'_>, plans: &mut Vec<(usize, Vec<Change>)>) -> Vec<usize> {
    if proved(syntax, text, way, plans) {
        return Vec::new();
    }
    let mut unproved = Vec::new();
    plans.retain(|plan| {
        let holds = proved(syntax, text, way, std::slice::from_ref(plan));
        if !holds {
            unproved.push(plan.0);
        }
        holds
    });
    if !proved(syntax, text, way, plans) {
        unproved.extend(plans.drain(..).map(|(index, _)| index));
    }
    unproved
}

/// Whether the reader sees of the edited text what it should, and the way back leads to the same bytes.
fn proved(syntax: Syntax, text: &str, way: Way<'_>, plans: &[(usize, Vec<Change>)]) -> bool {
    let mut changes: Vec<Change> = plans.iter().flat_map(|(_, changes)| changes.clone()).collect();
    changes.sort_by_key(|change| (change.span.start, change.span.end));
    if changes.windows(2).any(|pair| pair[0].span.end > pair[1].span.start) {
        return false;
    }
    let edited = apply(text, &changes);
    if super::entries(syntax, edited.as_bytes()).is_err() {
        return false;
    }
    let (Some(old), Some(new)) = (tree(syntax, text), tree(syntax, &edited)) else { return false };
    let (old, new) = (walk(syntax, &old), walk(syntax, &new));
    let is_planned = |index: &usize| plans.iter().any(|(planned, _)| planned == index);
    let mut back = Vec::new();
    let names = |entries: &[(Option<&str>, &str, &Node)]| {
        entries.iter().map(|(project, name, _)| (project.map(str::to_owned), (*name).to_owned())).collect::<Vec<_>>()
    };
    if names(&old) != names(&new) {
        return false;
    }
    for (index, (before, after)) in old.iter().zip(&new).enumerate() {
        if !is_planned(&index) {
            if text.get(before.2.span.clone()) != edited.get(after.2.span.clone()) {
                return false;
            }
            continue;
        }
        let (Ok(before), Ok(after)) = (Launch::of(before.2), Launch::of(after.2)) else { return false };
        let (bare, wrapped) = if matches!(way, Way::In(_)) { (&before, &after) } else { (&after, &before) };
        let Some(own) = wrapped.own_words() else { return false };
        if bare.own_words().is_some() || bare.words() != wrapped.words()[own..] {
            return false;
        }
        if matches!(way, Way::In(_)) {
            let Ok(changes) = plan::unwrap(&edited, &after, own) else { return false };
            back.extend(changes);
        }
    }
    back.sort_by_key(|change| (change.span.start, change.span.end));
    !matches!(way, Way::In(_)) || apply(&edited, &back) == text
}

/// The text with these changes, which are in its order and apart from each other.
pub(super) fn apply(text: &str, changes: &[Change]) -> String {
    let mut edited = String::with_capacity(text.len() + changes.len() * 128);
    let mut at = 0;
    for change in changes {
        edited.push_str(&text[at..change.span.start]);
        edited.push_str(&change.text);
        at = change.span.end;
    }
    edited.push_str(&text[at..]);
    edited
}

#[cfg(test)]
#[path = "edit/edit_tests.rs"]
mod tests;
