//! The settings by which OpenClaw loads our plug-in: put into its file, and taken back, byte for byte.
//!
//! As with the servers' entries the way back needs no memory. What is put in stands right behind a bracket, in one way of
//! writing that is known again; what a host has since written anew is taken out by what it means. An edit whose way back would
//! not lead to the same bytes is not given out.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::ops::Range;

use super::edit::{Change, apply, quoted};
use super::tree::{Field, Node, What, tree};
use super::{HostFileError, Syntax};

/// What the directory of its files is called, by which it is known again.
pub const DIRECTORY: &str = "pinfold-plugin";

/// What it is called among OpenClaw's plug-ins.
const ID: &str = "pinfold";

/// How many parts are taken out at most: the path, the entry, the permission, and some to spare.
const PARTS_MAX: usize = 8;

/// From this version on plug-ins hear of the ends of runs only where the settings allow it; older ones refuse that setting.
const CONVERSATION_SINCE: [u64; 3] = [2026, 4, 24];

/// Why the settings cannot be put in or taken out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// The file cannot be understood.
    #[error(transparent)]
    File(#[from] HostFileError),
    /// It is written in a way that no edit is safe for.
    #[error("its plugins are left, because {0}")]
    Unusual(&'static str),
}

/// Whether an OpenClaw of this version knows of the permission to hear of conversations.
pub fn asks_for_conversations(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let numbers: [u64; 3] = std::array::from_fn(|_| numbers.next().unwrap_or(0));
    numbers >= CONVERSATION_SINCE
}

/// The version of OpenClaw that last wrote this file, where it tells.
pub fn written_by(bytes: &[u8]) -> Option<String> {
    let root = read(std::str::from_utf8(bytes).ok()?).ok()?;
    let version = one(one(&root, "meta").ok()??, "lastTouchedVersion").ok()??;
    version.text().map(str::to_owned)
}

/// Has the plug-in in this directory loaded, with the permission to hear of conversations or without. No changes where the
/// settings are there.
pub fn add(bytes: &[u8], directory: &str, conversations: bool) -> Result<Vec<Change>, PluginError> {
    let before = utf8(bytes)?;
    let (mark, text) = unmarked(before);
    let root = read(text)?;
    let mut changes = Vec::new();
    match one(&root, "plugins")? {
        None => changes.push(insert(text, &root, &[whole(&quoted(directory), conversations)])?),
        Some(plugins) => into(text, plugins, (directory, conversations), &mut changes)?,
    }
    changes.sort_by_key(|change| change.span.start);
    if changes.is_empty() {
        return Ok(changes);
    }
    let after = apply(text, &changes);
    if removed(&after).ok().as_deref() != Some(text) {
        return Err(PluginError::Unusual("a plug-in of this name is in them, with other settings"));
    }
    for change in &mut changes {
        change.span = change.span.start + mark..change.span.end + mark;
    }
    Ok(changes)
}

/// Takes the settings of the plug-in out. No changes where there are none.
pub fn remove(bytes: &[u8]) -> Result<Vec<Change>, PluginError> {
    let before = utf8(bytes)?;
    let (mark, text) = unmarked(before);
    let after = removed(text)?;
    if after == text {
        return Ok(Vec::new());
    }
    let same = |pair: &(char, char)| pair.0 == pair.1;
    let head: usize = text.chars().zip(after.chars()).take_while(same).map(|(c, _)| c.len_utf8()).sum();
    let (rest, kept) = (&text[head..], &after[head..]);
    let tail: usize = rest.chars().rev().zip(kept.chars().rev()).take_while(same).map(|(c, _)| c.len_utf8()).sum();
    let span = mark + head..mark + text.len() - tail;
    Ok(vec![Change { span, text: kept[..kept.len() - tail].to_owned() }])
}

fn into(
    text: &str,
    plugins: &Node,
    (directory, conversations): (&str, bool),
    changes: &mut Vec<Change>,
) -> Result<(), PluginError> {
    let directory_text = quoted(directory);
    let mut pieces = Vec::new();
    match one(plugins, "load")? {
        None => pieces.push(load(&directory_text)),
        Some(load) => match one(load, "paths")? {
            None => changes.push(insert(text, load, &[paths(&directory_text)])?),
            Some(list) if has(list, |path| path == directory) => {}
            Some(list) => changes.push(insert(text, list, std::slice::from_ref(&directory_text))?),
        },
    }
    match one(plugins, "entries")? {
        None => pieces.push(entries(conversations)),
        Some(entries) if one(entries, ID)?.is_none() => changes.push(insert(text, entries, &[entry(conversations)])?),
        Some(_) => {}
    }
    // A list that is empty allows all.
    if let Some(list) = one(plugins, "allow")?
        && has(list, |_| true)
        && !has(list, |id| id == ID)
    {
        changes.push(insert(text, list, &[quoted(ID)])?);
    }
    if !pieces.is_empty() {
        changes.push(insert(text, plugins, &pieces)?);
    }
    Ok(())
}

fn whole(directory: &str, conversations: bool) -> String {
    format!("\"plugins\": {{ {}, {} }}", load(directory), entries(conversations))
}

fn load(directory: &str) -> String {
    format!("\"load\": {{ {} }}", paths(directory))
}

fn paths(directory: &str) -> String {
    format!("\"paths\": [{directory}]")
}

fn entries(conversations: bool) -> String {
    format!("\"entries\": {{ {} }}", entry(conversations))
}

fn entry(conversations: bool) -> String {
    let hooks = if conversations { ", \"hooks\": { \"allowConversationAccess\": true }" } else { "" };
    format!("\"{ID}\": {{ \"enabled\": true{hooks} }}")
}

/// Pieces right behind the opening bracket of a table or a list.
fn insert(text: &str, into: &Node, pieces: &[String]) -> Result<Change, PluginError> {
    let is_empty = match &into.what {
        What::Table(fields, _) => fields.is_empty(),
        What::List(items, _) => items.is_empty(),
        What::Text(_) | What::Other => return Err(PluginError::Unusual("they are no tables and lists")),
    };
    let at = into.span.start + 1;
    let comma = match text[at..].starts_with(['\n', '\r']) {
        _ if is_empty => "",
        true => ",",
        false => ", ",
    };
    Ok(Change { span: at..at, text: pieces.join(", ") + comma })
}

/// The text without the settings.
fn removed(text: &str) -> Result<String, PluginError> {
    let mut text = text.to_owned();
    for _ in 0..PARTS_MAX {
        let Some(span) = part(&text)? else { break };
        text.replace_range(span, "");
    }
    Ok(text)
}

/// One part of the settings that is in the text, as much of it as goes at once.
fn part(text: &str) -> Result<Option<Range<usize>>, PluginError> {
    let root = read(text)?;
    let Some(plugins) = one(&root, "plugins")? else { return Ok(None) };
    let load_table = one(plugins, "load")?;
    let list = load_table.and_then(|load| one(load, "paths").ok()?);
    let entry_table = one(plugins, "entries")?;
    let directory = list.and_then(|list| items(list).iter().find(|item| item.text().is_some_and(is_ours)));
    let token = directory.map(|item| text[item.span.clone()].to_owned());
    // As it was put in, the largest part first.
    let mut ways: Vec<(&Node, Vec<String>)> = Vec::new();
    for conversations in [true, false] {
        let entries = entries(conversations);
        if let Some(token) = &token {
            ways.push((&root, vec![whole(token, conversations)]));
            ways.push((plugins, vec![load(token), entries.clone()]));
        }
        ways.push((plugins, vec![entries]));
        ways.extend(entry_table.map(|table| (table, vec![entry(conversations)])));
    }
    if let Some(token) = &token {
        ways.push((plugins, vec![load(token)]));
        ways.extend(load_table.map(|table| (table, vec![paths(token)])));
        ways.extend(list.map(|list| (list, vec![token.clone()])));
    }
    let allowed = one(plugins, "allow")?;
    let is_entered = entry_table.is_some_and(|table| one(table, ID).is_ok_and(|entry| entry.is_some()));
    // What is allowed goes with the entry, and last.
    let allowed = allowed.filter(|_| !is_entered && token.is_none());
    ways.extend(allowed.map(|list| (list, vec![quoted(ID)])));
    if let Some(span) = ways.iter().find_map(|(node, pieces)| behind(text, node, pieces)) {
        return Ok(Some(span));
    }
    let by_meaning = [
        directory.zip(list).map(|(item, list)| around_item(text, items(list), item)),
        entry_table.and_then(|table| around_field(text, table, ID)),
        allowed.and_then(|list| {
            let item = items(list).iter().find(|item| item.text() == Some(ID))?;
            Some(around_item(text, items(list), item))
        }),
    ];
    Ok(by_meaning.into_iter().flatten().next())
}

/// Where these pieces stand right behind the opening bracket, with the comma that came with them.
fn behind(text: &str, node: &Node, pieces: &[String]) -> Option<Range<usize>> {
    if !matches!(node.what, What::Table(..) | What::List(..)) {
        return None;
    }
    let at = node.span.start + 1;
    let pieces = pieces.join(", ");
    let rest = text[at..].strip_prefix(&pieces)?;
    let comma =
        if rest.starts_with(", ") { 2 } else { usize::from(rest.starts_with(",\n") || rest.starts_with(",\r")) };
    // Another comma would stay alone.
    (comma > 0 || !rest.trim_start().starts_with(',')).then(|| at..at + pieces.len() + comma)
}

fn around_field(text: &str, table: &Node, name: &str) -> Option<Range<usize>> {
    let What::Table(fields, _) = &table.what else { return None };
    let at = fields.iter().position(|field| field.name == name)?;
    let whole = |field: &Field| field.key.start..field.value.span.end;
    let of = |at: usize| fields.get(at).map(whole);
    Some(around(text, of(at)?, at.checked_sub(1).and_then(of), of(at + 1)))
}

fn around_item(text: &str, items: &[Node], item: &Node) -> Range<usize> {
    let at = items.iter().position(|other| other.span == item.span).unwrap_or_default();
    let of = |at: usize| items.get(at).map(|item| item.span.clone());
    around(text, item.span.clone(), at.checked_sub(1).and_then(of), of(at + 1))
}

/// A part with the comma that would be one too many without it.
fn around(text: &str, own: Range<usize>, before: Option<Range<usize>>, after: Option<Range<usize>>) -> Range<usize> {
    match (before, after) {
        (_, Some(after)) => own.start..after.start,
        (Some(before), None) => before.end..own.end,
        (None, None) => {
            let rest = text[own.end..].trim_start();
            let comma = text.len() - rest.len() + 1;
            own.start..if rest.starts_with(',') { comma } else { own.end }
        }
    }
}

fn items(list: &Node) -> &[Node] {
    if let What::List(items, _) = &list.what { items } else { &[] }
}

fn has(list: &Node, is: impl Fn(&str) -> bool) -> bool {
    items(list).iter().any(|item| item.text().is_some_and(&is))
}

fn is_ours(path: &str) -> bool {
    path.rsplit('/').next() == Some(DIRECTORY)
}

/// The only field of this name.
fn one<'a>(table: &'a Node, name: &str) -> Result<Option<&'a Node>, PluginError> {
    let What::Table(fields, _) = &table.what else {
        return Err(PluginError::Unusual("they are no tables and lists"));
    };
    let mut found = fields.iter().filter(|field| field.name == name).map(|field| &field.value);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(PluginError::Unusual("they say one thing twice")),
        (found, None) => Ok(found),
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, PluginError> {
    let text = std::str::from_utf8(bytes);
    text.map_err(|_| HostFileError::Syntax { language: "UTF-8 text", at: None }.into())
}

/// The text without a byte order mark, and how long that is.
fn unmarked(text: &str) -> (usize, &str) {
    let unmarked = text.trim_start_matches('\u{feff}');
    (text.len() - unmarked.len(), unmarked)
}

/// The tree of a text whose depth and size are in bounds.
fn read(text: &str) -> Result<Node, PluginError> {
    super::entries(Syntax::Json, text.as_bytes())?;
    Ok(tree(Syntax::Json, unmarked(text).1).ok_or(HostFileError::NoObject)?)
}

#[cfg(test)]
#[path = "plugin_tests.rs"]
mod tests;
