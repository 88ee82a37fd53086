//! Where an entry says what it starts, in each host's way.

use std::ops::Range;

use super::super::tree::{Field, Layout, Node, What};
use crate::argv;

/// Names of transports that have no process.
const REMOTE: &[&str] =
    &["http", "sse", "streamable-http", "streamable_http", "streamableHttp", "ws", "websocket", "remote"];

/// Where an address stands.
const ADDRESSES: &[&str] = &["url", "httpUrl", "serverUrl", "uri"];

/// How the words of a command stand.
pub(super) enum Form<'a> {
    /// The program in one field, its arguments in another, which may be missing.
    Split { command: &'a Field, arguments: Option<&'a Field> },
    /// The program and its arguments in one list.
    Whole { command: &'a Field },
}

/// What an entry starts.
pub(super) struct Launch<'a> {
    pub(super) form: Form<'a>,
    /// How the table is written that the fields are in.
    pub(super) layout: Layout,
}

/// Why an entry starts nothing that can be wrapped.
pub(super) enum NoLaunch {
    Remote,
    NoCommand,
    Unusual(&'static str),
}

impl<'a> Launch<'a> {
    pub(super) fn of(entry: &'a Node) -> Result<Self, NoLaunch> {
        let What::Table(fields, layout) = &entry.what else {
            return Err(NoLaunch::Unusual("it is no plain table"));
        };
        let says = |names: &[&str]| fields.iter().any(|field| names.contains(&field.name.as_str()));
        let kinds = fields.iter().filter(|field| matches!(field.name.as_str(), "type" | "transport"));
        let is_remote = kinds.filter_map(|field| field.value.text()).any(|kind| REMOTE.contains(&kind));
        // goose says `cmd`.
        let Some(command) = once(fields, &["command", "cmd"])?.filter(|_| !is_remote) else {
            return Err(if is_remote || says(ADDRESSES) {
                NoLaunch::Remote
            } else if says(&["<<"]) {
                NoLaunch::Unusual("it takes what it says from another one (<<)")
            } else {
                NoLaunch::NoCommand
            });
        };
        match &command.value.what {
            What::Text(_) => Self::split(fields, *layout, command),
            What::List(words, Layout::Flow | Layout::Block) if words.iter().all(|word| word.text().is_some()) => {
                if words.is_empty() {
                    Err(NoLaunch::NoCommand)
                } else {
                    Ok(Self { form: Form::Whole { command }, layout: *layout })
                }
            }
            // Zed's older form: the words in a table of their own.
            What::Table(inner, layout) => match once(inner, &["path"])? {
                Some(path) if path.value.text().is_some() => Self::split(inner, *layout, path),
                _ => Err(NoLaunch::Unusual("its command names no path")),
            },
            What::List(..) | What::Other => Err(NoLaunch::Unusual("its command is no plain text")),
        }
    }

    fn split(fields: &'a [Field], layout: Layout, command: &'a Field) -> Result<Self, NoLaunch> {
        let arguments = once(fields, &["args"])?;
        if arguments.is_some_and(|field| !matches!(field.value.what, What::List(..))) {
            return Err(NoLaunch::Unusual("its args are no plain list"));
        }
        Ok(Self { form: Form::Split { command, arguments }, layout })
    }

    /// The items of the list that pinfold's words are in.
    pub(super) fn items(&self) -> &'a [Node] {
        let list = match self.form {
            Form::Split { arguments, .. } => arguments,
            Form::Whole { command } => Some(command),
        };
        match list.map(|field| &field.value.what) {
            Some(What::List(items, _)) => items,
            _ => &[],
        }
    }

    /// The program and all arguments.
    pub(super) fn nodes(&self) -> Vec<&'a Node> {
        let program = match self.form {
            Form::Split { command, .. } => Some(&command.value),
            Form::Whole { .. } => None,
        };
        program.into_iter().chain(self.items()).collect()
    }

    /// The same as words; `None` for an argument that is no text.
    pub(super) fn words(&self) -> Vec<Option<&'a str>> {
        self.nodes().into_iter().map(Node::text).collect()
    }

    /// How many of the words are pinfold's own, where it is in front: those up to the server's command.
    pub(super) fn own_words(&self) -> Option<usize> {
        own_words(&self.words())
    }

    /// Where pinfold's own words stand behind `env A=b` or another program that only starts them. No edit of ours puts them
    /// there, so none takes them away.
    pub(super) fn behind(&self) -> Option<Range<usize>> {
        let words: Option<Vec<String>> = self.words().into_iter().map(|word| word.map(str::to_owned)).collect();
        let words = words?;
        let own = |words: &[String]| own_words(&words.iter().map(|word| Some(word.as_str())).collect::<Vec<_>>());
        let at = argv::behind(&words, |inner| own(inner).is_some())?;
        Some(at..at + own(&words[at..])?)
    }

    /// The program that asks for a container, where the server's command is one that does.
    pub(super) fn container(&self) -> Option<String> {
        let words = self.words();
        let own = self.own_words().or_else(|| self.behind().map(|own| own.end));
        let command = &words[own.unwrap_or(0)..];
        let program = stem(command.first().copied().flatten()?);
        let asks = matches!(program, "docker" | "podman" | "nerdctl") && command.contains(&Some("run"));
        asks.then(|| program.to_owned())
    }
}

fn own_words(words: &[Option<&str>]) -> Option<usize> {
    let is_own = words.first().copied().flatten().is_some_and(|program| stem(program) == "pinfold");
    if !is_own || words.get(1).copied().flatten() != Some("run") {
        return None;
    }
    let mut at = 2;
    loop {
        match words.get(at).copied().flatten()? {
            "--" => break Some(at + 1),
            "--uncontained" => at += 1,
            option if option.starts_with("--") => at += if option.contains('=') { 1 } else { 2 },
            // Written by hand, with nothing between the options and the command.
            _ => break Some(at),
        }
    }
    .filter(|own| *own < words.len())
}

fn stem(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or_default()
}

/// The only field of one of these names: where there are two, hosts differ in which one counts.
fn once<'a>(fields: &'a [Field], names: &[&str]) -> Result<Option<&'a Field>, NoLaunch> {
    let mut found = fields.iter().filter(|field| names.contains(&field.name.as_str()));
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(NoLaunch::Unusual("it says its command or its args twice")),
        (found, None) => Ok(found),
    }
}
