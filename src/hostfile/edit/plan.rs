//! Which bytes change, so that the way back can be told from the edited text alone.

use super::super::Syntax;
use super::super::tree::{Field, Layout, Node, What};
use super::launch::{Form, Launch};
use super::{Change, Front};
use crate::session::Name;

const MULTILINE: &str = "its command goes over several lines";
const DASHES: &str = "its list is laid out in an unusual way";

/// Pinfold's own arguments. A server without a name is called by what it runs. An empty list that was
/// there before is marked by `--server=NAME` in one word, so that the way back knows whether to leave a list.
fn own_arguments(front: Front<'_>, server: Option<&Name>, was_empty: bool) -> Vec<String> {
    let mut words = vec!["run".to_owned()];
    let options = [("--host", front.host), ("--server", server)];
    for (option, value) in options.into_iter().filter_map(|(option, value)| Some((option, value?))) {
        if was_empty {
            words.push(format!("{option}={value}"));
        } else {
            words.extend([option.to_owned(), value.to_string()]);
        }
    }
    words.push("--".to_owned());
    words
}

/// A text in double quotes as all three languages read it.
pub(in crate::hostfile) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text can be written as JSON")
}

pub(super) fn wrap(
    syntax: Syntax,
    text: &str,
    launch: &Launch<'_>,
    server: Option<&Name>,
    front: Front<'_>,
) -> Result<Vec<Change>, &'static str> {
    let (command, arguments) = match launch.form {
        Form::Whole { command } => {
            let first = launch.items().first().ok_or(DASHES)?;
            let mut words = vec![quoted(front.program)];
            words.extend(own_arguments(front, server, false).iter().map(|word| quoted(word)));
            return Ok(vec![before_item(text, layout_of(command), first, &words)?]);
        }
        Form::Split { command, arguments } => (command, arguments),
    };
    let token = &text[command.value.span.clone()];
    let was_empty = arguments.is_some() && launch.items().is_empty();
    let mut words: Vec<String> = own_arguments(front, server, was_empty).iter().map(|word| quoted(word)).collect();
    words.push(token.to_owned());
    let layout = arguments.map_or(Layout::Flow, layout_of);
    movable(syntax, token, layout)?;
    let list = match (arguments, launch.items().first()) {
        (Some(_), Some(first)) => before_item(text, layout, first, &words)?,
        (Some(arguments), None) => {
            let at = arguments.value.span.start + 1;
            Change { span: at..at, text: words.join(", ") }
        }
        (None, _) => new_list(syntax, text, launch.layout, command, &words)?,
    };
    Ok(vec![list, Change { span: command.value.span.clone(), text: quoted(front.program) }])
}

fn layout_of(list: &Field) -> Layout {
    if let What::List(_, layout) = list.value.what { layout } else { Layout::Flow }
}

/// Whether a command's bytes mean the same in a list.
fn movable(syntax: Syntax, token: &str, layout: Layout) -> Result<(), &'static str> {
    if syntax != Syntax::Yaml {
        return Ok(());
    }
    if token.contains(['\n', '\r']) {
        return Err(MULTILINE);
    }
    let is_plain = !token.starts_with(['"', '\'']);
    if is_plain && layout == Layout::Flow && token.contains([',', '[', ']', '{', '}']) {
        return Err("its command needs quotes to stand in a list");
    }
    Ok(())
}

/// Words in front of an item, laid out as the list is.
fn before_item(text: &str, layout: Layout, item: &Node, words: &[String]) -> Result<Change, &'static str> {
    match layout {
        Layout::Flow => {
            let at = item.span.start;
            Ok(Change { span: at..at, text: words.join(", ") + ", " })
        }
        Layout::Block => {
            let at = dash(text, item)?;
            let indent = &text[line_start(text, at)..at];
            if !indent.chars().all(char::is_whitespace) {
                return Err(DASHES);
            }
            let line = |word: &String| format!("- {word}{}{indent}", newline(text));
            Ok(Change { span: at..at, text: words.iter().map(line).collect() })
        }
    }
}

/// A list where there was none: in front of the command's line, or right behind the command.
fn new_list(
    syntax: Syntax,
    text: &str,
    layout: Layout,
    command: &Field,
    words: &[String],
) -> Result<Change, &'static str> {
    let list = format!("[{}]", words.join(", "));
    let name = match syntax {
        Syntax::Json => "\"args\": ",
        Syntax::Toml => "args = ",
        Syntax::Yaml => "args: ",
    };
    if layout == Layout::Flow {
        let at = command.value.span.end;
        return Ok(Change { span: at..at, text: format!(", {name}{list}") });
    }
    let at = line_start(text, command.key.start);
    // The indentation, and in TOML the names of the tables that a dotted name begins with.
    let prefix = &text[at..command.key.start];
    Ok(Change { span: at..at, text: format!("{prefix}{name}{list}{}", newline(text)) })
}

pub(super) fn unwrap(text: &str, launch: &Launch<'_>, own: usize) -> Result<Vec<Change>, &'static str> {
    let items = launch.items();
    let (command, arguments) = match launch.form {
        Form::Whole { command } => {
            let layout = layout_of(command);
            let span = start(text, layout, &items[0])?..start(text, layout, &items[own])?;
            return Ok(vec![Change { span, text: String::new() }]);
        }
        Form::Split { command, arguments: Some(arguments) } => (command, arguments),
        Form::Split { arguments: None, .. } => return Err(DASHES),
    };
    // The first word is the program, which is no item.
    let moved = own - 1;
    let layout = layout_of(arguments);
    let token = text[items[moved].span.clone()].to_owned();
    let list = match items.get(moved + 1) {
        Some(rest) => {
            let span = start(text, layout, &items[0])?..start(text, layout, rest)?;
            Change { span, text: String::new() }
        }
        None => {
            let marked = items[..moved].iter().filter_map(Node::text);
            let was_empty = marked.into_iter().any(|word| word.starts_with("--host=") || word.starts_with("--server="));
            let gone = if was_empty { None } else { without_list(text, launch.layout, command, arguments, items) };
            gone.unwrap_or_else(|| emptied(text, layout, arguments, items))
        }
    };
    let command = Change { span: command.value.span.clone(), text: token };
    Ok(if list.span.start < command.span.start { vec![list, command] } else { vec![command, list] })
}

/// Where an item begins, with its dash.
fn start(text: &str, layout: Layout, item: &Node) -> Result<usize, &'static str> {
    if layout == Layout::Flow { Ok(item.span.start) } else { dash(text, item) }
}

/// Takes the whole list away, where it stands where an edit of ours or a host that wrote the file anew has put it.
fn without_list(text: &str, layout: Layout, command: &Field, arguments: &Field, items: &[Node]) -> Option<Change> {
    let end = if layout_of(arguments) == Layout::Block { items.last()?.span.end } else { arguments.value.span.end };
    if layout == Layout::Flow {
        let between = text.get(command.value.span.end..arguments.key.start)?;
        let span = command.value.span.end..end;
        return (between.trim() == ",").then_some(Change { span, text: String::new() });
    }
    let from = line_start(text, arguments.key.start);
    let line_end = text[end..].find('\n').map_or(text.len(), |at| end + at + 1);
    let own_lines =
        text[from..arguments.key.start].chars().all(|c| c != '#' && c != '-') && text[end..line_end].trim().is_empty();
    own_lines.then(|| Change { span: from..line_end, text: String::new() })
}

/// Leaves the list, with nothing in it.
fn emptied(text: &str, layout: Layout, arguments: &Field, items: &[Node]) -> Change {
    let last = items.last().map_or(arguments.value.span.end, |item| item.span.end);
    if layout == Layout::Block {
        // A list without items has to be written with brackets.
        let colon = text[arguments.key.end..].find(':').map_or(arguments.key.end, |at| arguments.key.end + at + 1);
        return Change { span: colon..last, text: " []".to_owned() };
    }
    let first = items.first().map_or(last, |item| item.span.start);
    let rest = &text[last..arguments.value.span.end];
    // A comma behind the last item may not stay alone.
    let comma = rest.len() - rest.trim_start().len();
    let end = if rest[comma..].starts_with(',') { last + comma + 1 } else { last };
    Change { span: first..end, text: String::new() }
}

/// Where the dash of an item of a block list stands.
fn dash(text: &str, item: &Node) -> Result<usize, &'static str> {
    let before = text[..item.span.start].trim_end_matches([' ', '\t']);
    if before.ends_with('-') { Ok(before.len() - 1) } else { Err(DASHES) }
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// The end of line that the file has.
fn newline(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text[..at].ends_with('\r') => "\r\n",
        _ => "\n",
    }
}
