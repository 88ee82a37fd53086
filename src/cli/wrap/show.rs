//! What an edit of a host's file would do, and did, for people and for programs.

use std::path::Path;

use serde::Serialize;

use super::super::text::{self, Tone};
use super::{Chosen, Found, Way};
use crate::hostfile::diff::{self, Line};
use crate::hostfile::edit::{Edit, Entry, State};
use crate::hostfile::masked;

/// How an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Standing {
    /// pinfold is in front of it, or will be after the edit.
    Wrapped,
    /// It is not.
    Bare,
    /// It is reached over the network.
    Remote,
    /// It says no command.
    NoCommand,
    /// It is written in a way that no edit is safe for.
    Unusual,
}

/// An entry, for programs.
#[derive(Debug, Serialize)]
pub(super) struct EntryView {
    name: String,
    project: Option<String>,
    /// How it stands: after the edit where that was made, else now.
    state: Standing,
    /// The edit is, or would be, about it.
    edited: bool,
    /// Why it is left.
    reason: Option<&'static str>,
    /// The program that asks another daemon for its container.
    container: Option<String>,
}

/// All entries; `made` tells which way the edit was made, if it was.
pub(super) fn entries(edit: &Edit, made: Option<Way>) -> Vec<EntryView> {
    let view = |entry: &Entry| EntryView {
        name: entry.name.clone(),
        project: entry.project.clone(),
        state: match (entry.state, made) {
            (State::Wrapped, Some(Way::Out)) if entry.edited => Standing::Bare,
            (State::Bare, Some(Way::In)) if entry.edited => Standing::Wrapped,
            (State::Wrapped, _) => Standing::Wrapped,
            (State::Bare, _) => Standing::Bare,
            (State::Remote, _) => Standing::Remote,
            (State::NoCommand, _) => Standing::NoCommand,
            (State::Unusual(_), _) => Standing::Unusual,
        },
        edited: entry.edited,
        reason: if let State::Unusual(why) = entry.state { Some(why) } else { None },
        container: entry.container.clone(),
    };
    edit.entries.iter().map(view).collect()
}

/// What helps where the program in front is gone.
const AGAIN: &str = "unwrapping the file and wrapping it again puts this one in its place";

/// The program in front of an entry, where that is named by a path at which there is none.
pub(super) fn gone_front(entry: &Entry) -> Option<&str> {
    let front = entry.front.as_deref().filter(|front| front.starts_with('/'))?;
    let is_gone = std::fs::metadata(front).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    is_gone.then_some(front)
}

fn called(entry: &Entry) -> String {
    match &entry.project {
        Some(project) => format!("{} (of {})", text::shown(&entry.name), text::shown(project)),
        None => text::shown(&entry.name),
    }
}

fn all_called<'a>(entries: impl Iterator<Item = &'a Entry>) -> String {
    entries.map(called).collect::<Vec<_>>().join(", ")
}

fn head(file: &Chosen, what: &str) -> String {
    let host = file.host.map_or_else(String::new, |host| format!(" ({host})"));
    format!("{}{host}: {what}\n", text::path(&file.path))
}

fn servers(count: usize) -> String {
    if count == 1 { "1 server".to_owned() } else { format!("{count} servers") }
}

/// What an edit is about, what it leaves and why, and the lines that change.
pub(super) fn file(file: &Chosen, found: &Found, way: Way) -> String {
    let edit = &found.edit;
    let count = |is: &dyn Fn(&Entry) -> bool| edit.entries.iter().filter(|entry| is(entry)).count();
    let edited = count(&|entry| entry.edited);
    let (verb, there) = match way {
        Way::In => ("wrap", count(&|entry| entry.state == State::Wrapped)),
        Way::Out => ("unwrap", count(&|entry| entry.state == State::Bare)),
    };
    let what = match (edited, there, way) {
        (0, ..) if found.changes() => "the plug-in".to_owned(),
        (0, 0, Way::In) => "nothing to wrap".to_owned(),
        (0, 0, Way::Out) => "nothing to unwrap".to_owned(),
        (0, there, Way::In) => format!("{} wrapped already, nothing changes", servers(there)),
        (0, _, Way::Out) => "nothing is wrapped, nothing changes".to_owned(),
        (edited, 0, _) | (edited, _, Way::Out) => format!("{} to {verb}", servers(edited)),
        (edited, there, Way::In) => format!("{} to {verb}, {there} wrapped already", servers(edited)),
    };
    let mut lines = head(file, &what);
    lines.push_str(&left(edit, way));
    lines.extend(found.plugin.shown().map(|shown| text::paragraph("  ", &text::shown(&shown))));
    let line = |text: &str| text.split('\t').map(text::shown).collect::<Vec<_>>().join("\t");
    for shown in diff::lines(&masked(found.syntax, &edit.before), &edit.changes) {
        lines.push_str(&match shown {
            Line::Place(text) => format!("{text}\n"),
            Line::Same(text) => format!(" {}\n", line(&text)),
            Line::Gone(text) => text::tinted(&format!("-{}", line(&text)), Tone::Bad) + "\n",
            Line::New(text) => text::tinted(&format!("+{}", line(&text)), Tone::Good) + "\n",
        });
    }
    lines
}

/// What is left, and why.
fn left(edit: &Edit, way: Way) -> String {
    let mut lines = String::new();
    let of = |state: State| edit.entries.iter().filter(move |entry| entry.state == state);
    let mut say = |names: String, why: &str| {
        if !names.is_empty() {
            lines.push_str(&text::paragraph("  ", &format!("{names}: {why}")));
        }
    };
    if way == Way::In {
        say(all_called(of(State::Remote)), "reached over the network, no process of this machine; left");
        say(all_called(of(State::NoCommand)), "no command, it comes with the host; left");
        let contained = edit.entries.iter().filter(|entry| entry.container.is_some());
        say(
            all_called(contained.filter(|entry| entry.edited || entry.state == State::Wrapped)),
            "asks an engine for a container, which is put into its session too where it is docker run or podman run and the \
             engine is one of this machine; else its launch says so, and `pinfold status`",
        );
    }
    if way == Way::In {
        for (entry, front) in edit.entries.iter().filter_map(|entry| Some((entry, gone_front(entry)?))) {
            say(called(entry), &format!("{} is not there any more; {AGAIN}", text::shown(front)));
        }
    }
    for entry in &edit.entries {
        if let State::Unusual(why) = entry.state {
            say(called(entry), &format!("left, because {why}; put `pinfold run --` in front by hand"));
        }
    }
    lines
}

/// Whether a file's servers are wrapped, and which are not, of those that are meant.
pub(super) fn checked(file: &Chosen, meant: &[&Entry], bare: &[&Entry], lacks_plugin: bool) -> String {
    if lacks_plugin {
        let also = if bare.is_empty() {
            String::new()
        } else {
            format!("; not wrapped: {}", all_called(bare.iter().copied()))
        };
        return head(file, &format!("the plug-in is not installed as this version brings it{also}"));
    }
    if bare.is_empty() {
        let wrapped = meant.iter().filter(|entry| entry.state == State::Wrapped).count();
        let what = if wrapped == 0 { "nothing to wrap".to_owned() } else { format!("{} wrapped", servers(wrapped)) };
        return head(file, &what);
    }
    let (gone, bare): (Vec<&Entry>, Vec<&Entry>) = bare.iter().partition(|entry| gone_front(entry).is_some());
    let bare = (!bare.is_empty()).then(|| format!("not wrapped: {}", all_called(bare.into_iter())));
    let gone = (!gone.is_empty())
        .then(|| format!("what is in front is not there any more: {}; {AGAIN}", all_called(gone.into_iter())));
    head(file, &bare.into_iter().chain(gone).collect::<Vec<_>>().join("; "))
}

/// What an edit is about, in a few words.
pub(super) fn edited(found: &Found) -> String {
    let count = found.edit.entries.iter().filter(|entry| entry.edited).count();
    match (count, found.plugin.changes()) {
        (0, true) => "the plug-in".to_owned(),
        (count, true) => format!("{} and the plug-in", servers(count)),
        (count, false) => servers(count),
    }
}

/// What was done to a file, and where is what stood there before.
pub(super) fn done(path: &Path, edited: &str, way: Way, backup: Option<&Path>) -> String {
    match (way, backup) {
        (Way::In, Some(backup)) => {
            format!("wrapped {edited} in {}; what stood there before is in {}\n", text::path(path), text::path(backup))
        }
        (Way::In, None) => format!("wrapped {edited} in {}\n", text::path(path)),
        (Way::Out, None) => format!("unwrapped {edited} in {}\n", text::path(path)),
        (Way::Out, Some(backup)) => format!(
            "unwrapped {edited} in {}; other parts were changed since it was wrapped: what stood there then is in {}\n",
            text::path(path),
            text::path(backup)
        ),
    }
}

/// That a file which was wrapped is not there now.
pub(super) fn away(path: &Path, note: Option<&Path>) -> String {
    let note = note.map_or_else(String::new, |note| {
        format!("; removing {} forgets it, and what stood there lies beside that", text::path(note))
    });
    let path = text::path(path);
    text::paragraph(
        "",
        &format!("{path} is not there: should it come back, it is wrapped still, and stays noted{note}"),
    )
}

/// Files of a host that an order for its files here does not reach.
pub(super) fn elsewhere(files: &[Chosen]) -> String {
    let files: Vec<String> = files.iter().map(|file| text::path(&file.path)).collect();
    text::paragraph(
        "",
        &format!("wrapped still, elsewhere: {}; `pinfold unwrap --all` takes that back", files.join(", ")),
    )
}

/// What comes next.
pub(super) fn after(way: Way, said: &str, host: Option<&str>) -> String {
    match way {
        Way::In => text::paragraph(
            "",
            &format!(
                "what the host launches from now on goes through pinfold, what runs already does not; `pinfold doctor{}` tells \
                 whether it is contained here, and `pinfold unwrap {}` takes it back",
                host.map_or_else(String::new, |host| format!(" {host}")),
                text::shown(said)
            ),
        ),
        Way::Out => {
            text::paragraph("", "what the host launches from now on is not contained; what runs already stays so")
        }
    }
}
