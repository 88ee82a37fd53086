//! A host's file as it may be shown: its values may be secrets, and a terminal's output ends in logs.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::HashSet;
use std::ops::Range;

use super::Syntax;
use super::edit::shown_words;
use super::tree::{Node, What, tree};

/// The text with a star for each byte of its values, except for numbers, flags, and those words of a server's command that
/// are no secrets. It is as long as before, and has the same lines: what is told of places in the one holds in the other.
///
/// Of a text that is none of this syntax all is hidden.
pub fn masked(syntax: Syntax, text: &str) -> String {
    let mark = text.len() - text.trim_start_matches('\u{feff}').len();
    let mut bytes = text.as_bytes().to_vec();
    let mut hide = |span: Range<usize>| {
        for byte in bytes.get_mut(span).unwrap_or_default().iter_mut().filter(|byte| **byte != b'\n') {
            *byte = b'*';
        }
    };
    match tree(syntax, &text[mark..]) {
        None => hide(0..text.len()),
        Some(root) => {
            let shown: HashSet<usize> = shown_words(syntax, &root).into_iter().map(|node| node.span.start).collect();
            let mut values = Vec::new();
            leaves(&root, &mut values);
            for span in values.into_iter().filter(|span| !shown.contains(&span.start)) {
                hide(within_quotes(&text[mark..], span, mark));
            }
        }
    }
    // Whole characters are hidden or none.
    String::from_utf8(bytes).unwrap_or_default()
}

/// The places of all values that say something.
fn leaves(node: &Node, found: &mut Vec<Range<usize>>) {
    match &node.what {
        What::Table(fields, _) => fields.iter().for_each(|field| leaves(&field.value, found)),
        What::List(items, _) => items.iter().for_each(|item| leaves(item, found)),
        What::Text(_) | What::Other => found.push(node.span.clone()),
    }
}

/// Where a value stands in the whole text; without its quotes, and nothing of a number or a flag.
fn within_quotes(text: &str, span: Range<usize>, mark: usize) -> Range<usize> {
    let value = text.get(span.clone()).unwrap_or_default();
    let (start, end) = (span.start + mark, span.end + mark);
    let is_quoted = value.len() >= 2 && value.starts_with(['"', '\'']) && value.chars().next() == value.chars().last();
    if is_quoted {
        start + 1..end - 1
    } else if matches!(value, "true" | "false" | "null" | "~") || value.parse::<f64>().is_ok() {
        start..start
    } else {
        start..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_hidden_and_a_servers_plain_words_are_not() {
        for (syntax, text, expected) in [
            (
                Syntax::Json,
                r#"{ "key": "s3", "n": 12, "mcpServers": { "fs": { "command": "npx", "args": ["x", "--api-key", "s3"], "env": { "T": "s3" } } } }"#,
                r#"{ "key": "**", "n": 12, "mcpServers": { "fs": { "command": "npx", "args": ["x", "--api-key", "**"], "env": { "T": "**" } } } }"#,
            ),
            (
                Syntax::Toml,
                "[mcp_servers.fs]\ncommand = 'npx'\nargs = ['x', '--token=é3']\nenv = { T = 's3', ok = true }\n",
                "[mcp_servers.fs]\ncommand = 'npx'\nargs = ['x', '***********']\nenv = { T = '**', ok = true }\n",
            ),
            (
                Syntax::Yaml,
                "extensions:\n  fs:\n    cmd: npx\n    args: [x]\n    envs:\n      T: s3\n      U: !x s3\n",
                "extensions:\n  fs:\n    cmd: npx\n    args: [x]\n    envs:\n      T: **\n      U: !x **\n",
            ),
        ] {
            let told = masked(syntax, text);
            assert_eq!(told, expected);
            assert_eq!((told.len(), told.lines().count()), (text.len(), text.lines().count()));
        }
        assert_eq!(masked(Syntax::Json, "\u{feff}{\"a\": \"b\"}"), "\u{feff}{\"a\": \"*\"}");
        assert_eq!(masked(Syntax::Json, "{\"a\": s3\n"), "********\n");
    }

    proptest::proptest! {
        #[test]
        fn whatever_it_is_its_length_and_its_lines_stay(text in "\\PC{0,80}|[\\{\\}\\[\\]\"':,a-zé\n -]{0,80}") {
            for syntax in [Syntax::Json, Syntax::Toml, Syntax::Yaml] {
                if super::super::entries(syntax, text.as_bytes()).is_ok() {
                    let told = masked(syntax, &text);
                    proptest::prop_assert_eq!(told.len(), text.len());
                    proptest::prop_assert_eq!(told.matches('\n').count(), text.matches('\n').count());
                }
            }
        }
    }
}
