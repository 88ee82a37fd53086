//! What a host's own configuration file says of MCP servers: which entries there are, and which of them are switched off.
//!
//! [`edit`] puts pinfold in front of what they start, and takes it back; [`plugin`] does the same with a plug-in's settings; [`hosts`] knows which files there are; [`diff`] shows
//! what an edit changes.
//!
//! Pure: bytes in, names out. No host tells how it finds its entries in other hosts' files, so every place that a known
//! host keeps them in is looked at, whichever file it is.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod diff;
pub mod edit;
pub mod hosts;
mod masked;
mod places;
pub mod plugin;
mod tree;

use std::collections::BTreeSet;

use jsonc_parser::tokens::Token;
use jsonc_parser::{JsonValue, ParseOptions, Scanner, ScannerOptions};
pub use masked::masked;
use places::Tree;
use serde_json::Value;

/// The longest file that is understood, in bytes: in `~/.claude.json` stands all that was ever pasted.
pub const FILE_BYTES_MAX: usize = 64 << 20;

/// The most entries that are told of one file.
const ENTRIES_MAX: usize = 4096;

/// The most marks of a table, a list or a value: each costs the reader some hundred bytes of memory.
const MARKS_MAX: usize = 1 << 20;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// JSON with what hosts allow beside it: comments, trailing commas, single quotes, bare keys (JSON5).
    Json,
    /// TOML, as Codex has it.
    Toml,
    /// YAML, as goose has it.
    Yaml,
}

/// A file cannot be understood now: nothing follows from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostFileError {
    /// It is being written, or was cut off.
    #[error("it is empty")]
    Empty,
    /// It is longer than any host's.
    #[error("it has more than {} MiB", FILE_BYTES_MAX >> 20)]
    TooLong,
    /// It has an error. Where is told, and never what stands there: the file may hold secrets, or be none of a host's.
    #[error("it is no {language}{place}", place = .at.map_or_else(String::new, |(line, column)| {
        format!(" at line {line}, column {column}")
    }))]
    Syntax {
        /// What it should be.
        language: &'static str,
        /// The line and the column, from 1 on.
        at: Option<(u64, u64)>,
    },
    /// It is something else than a table of settings.
    #[error("it is no object of settings")]
    NoObject,
    /// It has more entries than any host's.
    #[error("it has more entries than any host's")]
    TooMany,
}

impl Syntax {
    /// By the end of the file's name; JSON is what most hosts write.
    pub fn of(name: &str) -> Self {
        match name.rsplit_once('.').map_or("", |(_, end)| end) {
            "toml" => Self::Toml,
            "yaml" | "yml" => Self::Yaml,
            _ => Self::Json,
        }
    }
}

/// The settings of a file. Of what they say only tables, lists, texts and flags are kept.
pub fn settings(syntax: Syntax, bytes: &[u8]) -> Result<Value, HostFileError> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(HostFileError::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| HostFileError::Syntax { language: "UTF-8 text", at: None })?;
    let text = text.trim_start_matches('\u{feff}');
    if text.trim().is_empty() {
        return Err(HostFileError::Empty);
    }
    if has_too_many_marks(syntax, text) {
        return Err(HostFileError::TooMany);
    }
    let settings = parse(syntax, text)?;
    if settings.is_object() { Ok(settings) } else { Err(HostFileError::NoObject) }
}

/// Whether reading it would take too much memory. What stands in the texts of a JSON file marks nothing: where there are many
/// such characters, the reader's own scanner tells them apart.
fn has_too_many_marks(syntax: Syntax, text: &str) -> bool {
    let is_many = text.bytes().filter(|byte| b"{[:=,".contains(byte)).count() > MARKS_MAX;
    if !is_many || syntax != Syntax::Json {
        return is_many;
    }
    let mut scanner = Scanner::new(text, &ScannerOptions::default());
    let mut marks = 0;
    // Beyond an error nothing is read.
    while let Ok(Some(token)) = scanner.scan() {
        marks += usize::from(matches!(token, Token::OpenBrace | Token::OpenBracket | Token::Colon | Token::Comma));
        if marks > MARKS_MAX {
            return true;
        }
    }
    false
}

/// The names of the entries that are switched on.
pub fn entries(syntax: Syntax, bytes: &[u8]) -> Result<BTreeSet<String>, HostFileError> {
    let settings = settings(syntax, bytes)?;
    let mut found = BTreeSet::new();
    for place in places::places(&settings) {
        let entries = place.table.fields().unwrap_or_default();
        found.extend(entries.into_iter().filter(|(_, entry)| is_on(entry)).map(|(name, _)| name.to_owned()));
    }
    if found.len() > ENTRIES_MAX { Err(HostFileError::TooMany) } else { Ok(found) }
}

fn parse(syntax: Syntax, text: &str) -> Result<Value, HostFileError> {
    match syntax {
        Syntax::Json => {
            let value = jsonc_parser::parse_to_value(text, &AS_HOSTS_WRITE_IT).map_err(|error| {
                let at = Some((error.line_display() as u64, error.column_display() as u64));
                HostFileError::Syntax { language: "JSON", at }
            });
            value?.map(plain).ok_or(HostFileError::Empty)
        }
        Syntax::Toml => toml::from_str(text).map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            HostFileError::Syntax { language: "TOML", at: before.map(place_after) }
        }),
        Syntax::Yaml => serde_saphyr::from_str(text).map_err(|error| {
            let at = error.location().map(|place| (place.line(), place.column()));
            HostFileError::Syntax { language: "YAML", at }
        }),
    }
}

/// The line and the column of what comes after this text.
fn place_after(text: &str) -> (u64, u64) {
    let line = text.rsplit('\n').next().unwrap_or_default();
    (text.matches('\n').count() as u64 + 1, line.chars().count() as u64 + 1)
}

/// Each is said, because the defaults are the parser's own affair.
const AS_HOSTS_WRITE_IT: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_loose_object_property_names: true,
    allow_trailing_commas: true,
    allow_missing_commas: false,
    allow_single_quoted_strings: true,
    allow_hexadecimal_numbers: true,
    allow_unary_plus_numbers: true,
    allow_bare_decimal_point_numbers: true,
    allow_extended_string_escapes: true,
    allow_non_finite_numbers: true,
};

/// Numbers are of no interest, and JSON5 has some that JSON has not.
fn plain(value: JsonValue<'_>) -> Value {
    match value {
        JsonValue::Object(object) => {
            Value::Object(object.into_iter().map(|(name, value)| (name.into_owned(), plain(value))).collect())
        }
        JsonValue::Array(array) => Value::Array(array.into_iter().map(plain).collect()),
        JsonValue::String(text) => Value::String(text.into_owned()),
        JsonValue::Boolean(flag) => Value::Bool(flag),
        JsonValue::Number(_) | JsonValue::Null => Value::Null,
    }
}

fn is_on(entry: &Value) -> bool {
    let Some(entry) = entry.as_object() else { return false };
    let says = |key: &str| entry.get(key).and_then(Value::as_bool);
    says("enabled") != Some(false) && says("disabled") != Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(syntax: Syntax, text: &str) -> Vec<String> {
        entries(syntax, text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}")).into_iter().collect()
    }

    #[test]
    fn the_entries_of_every_known_host_are_found_where_it_keeps_them() {
        for (host, file, text) in [
            ("claude-code", ".mcp.json", r#"{ "mcpServers": { "fs": { "command": "npx" } } }"#),
            ("claude-code", ".claude.json", r#"{ "projects": { "/a": { "mcpServers": { "fs": {} } }, "/b": {} } }"#),
            (
                "openclaw",
                "openclaw.json",
                "{ mcp: { servers: { fs: { command: 'npx', /* one */ } }, }, n: +.5, i: -Infinity } // end",
            ),
            ("vscode", "mcp.json", r#"{ "inputs": [], "servers": { "fs": { "type": "stdio" } } }"#),
            ("vscode", "settings.json", r#"{ "mcp": { "servers": { "fs": {} } }, "editor.fontSize": 12, }"#),
            (
                "zed",
                "settings.json",
                "{ // Zed\n \"context_servers\": { \"fs\": { \"command\": { \"path\": \"x\" } } } }",
            ),
            ("opencode", "opencode.json", r#"{ "mcp": { "fs": { "type": "local", "command": ["npx"] } } }"#),
            ("codex", "config.toml", "model = 'x'\n[mcp_servers.fs]\ncommand = 'npx'\n"),
            ("goose", "config.yaml", "extensions:\n  fs:\n    type: stdio\n    cmd: npx\n    enabled: true\n"),
        ] {
            assert_eq!(names(Syntax::of(file), text), ["fs"], "{host}");
        }
    }

    #[test]
    fn an_entry_that_is_switched_off_is_none() {
        let text = r#"{ "mcpServers": { "a": { "disabled": true }, "b": { "enabled": false }, "c": { "disabled": false }, "d": 1 } }"#;
        assert_eq!(names(Syntax::Json, text), ["c"]);
        assert_eq!(names(Syntax::Toml, "[mcp_servers.a]\nenabled = false\n[mcp_servers.b]\n"), ["b"]);
        assert_eq!(names(Syntax::Yaml, "extensions:\n  a: {enabled: false}\n"), Vec::<String>::new());
    }

    #[test]
    fn from_a_file_that_cannot_be_understood_nothing_follows() {
        for (syntax, text) in [
            (Syntax::Json, ""),
            (Syntax::Json, " \n"),
            (Syntax::Json, "// nothing yet"),
            (Syntax::Json, "[]"),
            (Syntax::Json, r#"{ "mcpServers": { "fs": { "command": "np"#),
            (Syntax::Json, "{} {}"),
            (Syntax::Toml, "[mcp_servers.fs"),
            (Syntax::Yaml, "extensions: [a"),
            (Syntax::Yaml, "just text"),
        ] {
            assert!(entries(syntax, text.as_bytes()).is_err(), "{text:?}");
        }
        assert_eq!(entries(Syntax::Json, &vec![b' '; FILE_BYTES_MAX + 1]), Err(HostFileError::TooLong));
        assert!(entries(Syntax::Json, b"{\"a\": \"\xff\"}").is_err());
    }

    #[test]
    fn what_was_pasted_into_a_file_marks_nothing_and_what_is_nothing_but_marks_is_refused() {
        let pasted = "{a: [1, 2]},".repeat(MARKS_MAX / 4);
        let text = format!(r#"{{ "history": [{{ "display": "{pasted}" }}], "mcpServers": {{ "fs": {{}} }} }}"#);
        assert!(text.len() < FILE_BYTES_MAX && names(Syntax::Json, &text) == ["fs"]);
        for unit in ["0,", "{},", "'',"] {
            let text = format!(r#"{{ "a": [{}], "mcpServers": {{ "fs": {{}} }} }}"#, unit.repeat(MARKS_MAX + 1));
            assert_eq!(entries(Syntax::Json, text.as_bytes()), Err(HostFileError::TooMany), "{unit}");
        }
    }

    #[test]
    fn an_error_tells_where_it_is_and_quotes_nothing() {
        // What a link of a user's could lead root's daemon to.
        let shadow = "root:$6$salt$hash:19000:0:99999:7:::\nalice:$6$pepper$mash:19000:0:99999:7:::\n";
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
        let token = "[secret]\ntoken = tok_4f9a\n";
        for (text, words) in [
            (shadow, &["root", "salt", "alice", "19000"][..]),
            (key, &["BEGIN", "b3Blb"]),
            (token, &["secret", "tok_4f9a"]),
            ("'unterminated-word", &["unterminated-word"]),
            ("secret: [a, *alias]\n", &["alias"]),
            ("secret: !tag {a: 'b\n", &["tag"]),
            ("\"\\q-secret\"", &["q-secret"]),
        ] {
            for syntax in [Syntax::Json, Syntax::Toml, Syntax::Yaml] {
                let Err(error) = entries(syntax, text.as_bytes()) else { continue };
                let told = format!("{error} {error:?}");
                for word in words {
                    assert!(!told.contains(word), "{syntax:?}: {told}");
                }
            }
        }
        for (syntax, text, expected) in [
            (Syntax::Json, "{\n  \"a\": }", "it is no JSON at line 2, column 8"),
            (Syntax::Toml, "a = 1\nb = = 2\n", "it is no TOML at line 2, column 5"),
            (Syntax::Yaml, "a: 1\nb: [1\n", "it is no YAML at line 2, column 4"),
        ] {
            assert_eq!(entries(syntax, text.as_bytes()).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_file_without_entries_says_that_there_are_none() {
        for (syntax, text) in
            [(Syntax::Json, "{}"), (Syntax::Json, r#"{"mcpServers": {}}"#), (Syntax::Toml, "model = 'x'")]
        {
            assert!(names(syntax, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (name, of) in ["b", "c", "d", "e", "f", "g", "h"].iter().zip(["a", "b", "c", "d", "e", "f", "g"]) {
            text += &format!("{name}: &{name} [{}]\n", vec![format!("*{of}"); 9].join(", "));
        }
        assert!(entries(Syntax::Yaml, text.as_bytes()).is_err());
    }

    #[test]
    fn a_file_that_is_nothing_but_depth_is_refused() {
        for open in ["[", "{\"a\":", "{a:["] {
            let text = open.repeat(1_000_000);
            assert!(entries(Syntax::Json, text.as_bytes()).is_err());
        }
        assert!(entries(Syntax::Toml, format!("a = {}", "[".repeat(1_000_000)).as_bytes()).is_err());
        assert!(entries(Syntax::Yaml, "[".repeat(1_000_000).as_bytes()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for syntax in [Syntax::Json, Syntax::Toml, Syntax::Yaml] {
                let _ = entries(syntax, &bytes);
            }
        }
    }
}
