//! Masks the secrets of a command line.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;

use serde::{Deserialize, Serialize};

use super::secret::{is_secret_name, issued_token};

/// What stands in the place of a secret.
const MASK: &str = "***";
/// What stands in the place of what was too long.
const CUT: &str = "…";

/// A command line without its secrets: the only form in which one leaves the launcher.
///
/// Masked are values of options, variables, headers, query parameters and JSON members whose name says that they are
/// secret, passwords in URLs, and words that look like an issued token. It has at most [`MaskedArgv::MAX_ARGUMENTS`]
/// arguments and [`MaskedArgv::MAX_BYTES`] bytes; what was left out is told by `…`. Masking what is masked changes
/// nothing, so whatever reads one from outside masks it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(from = "Vec<String>")]
pub struct MaskedArgv(Vec<String>);

impl MaskedArgv {
    /// The most arguments, the program and a `…` included.
    pub const MAX_ARGUMENTS: usize = 64;
    /// The most bytes of all arguments together.
    pub const MAX_BYTES: usize = 4096;
    /// The most bytes of one argument, so that a long `sh -c` leaves room for the others.
    const MAX_ARGUMENT_BYTES: usize = 1024;
    const ROUNDS: usize = 8;

    /// Masks a command line.
    pub fn mask<S: AsRef<str>>(argv: &[S]) -> Self {
        let mut words: Vec<String> =
            argv.iter().take(Self::MAX_ARGUMENTS + 1).map(|word| word.as_ref().to_owned()).collect();
        // A cut can make a new word out of an old one, so it is masked until nothing changes.
        for _ in 0..Self::ROUNDS {
            let masked = Self::bounded(mask_words(&words));
            if masked == words {
                return Self(masked);
            }
            words = masked;
        }
        Self(vec![CUT.to_owned()])
    }

    /// The arguments, the program first.
    pub fn words(&self) -> &[String] {
        &self.0
    }

    fn bounded(words: Vec<String>) -> Vec<String> {
        let words: Vec<String> = words.into_iter().map(Self::shortened).collect();
        let bytes: usize = words.iter().map(String::len).sum();
        if words.len() <= Self::MAX_ARGUMENTS && bytes <= Self::MAX_BYTES {
            return words;
        }
        let mut room = Self::MAX_BYTES - CUT.len();
        let fits = |word: &String| {
            let left = room.checked_sub(word.len());
            room = left.unwrap_or(0);
            left.is_some()
        };
        let kept = words.into_iter().take(Self::MAX_ARGUMENTS - 1).take_while(fits);
        kept.chain(std::iter::once(CUT.to_owned())).collect()
    }

    /// An argument that is too long ends with its last whole word, since half a word could be half a secret's name.
    fn shortened(mut word: String) -> String {
        if word.len() > Self::MAX_ARGUMENT_BYTES {
            let room = Self::MAX_ARGUMENT_BYTES - 1 - CUT.len();
            let spaces = word.match_indices(char::is_whitespace).map(|(at, _)| at);
            let cut = spaces.take_while(|at| *at <= room).last().unwrap_or(0);
            word.truncate(cut);
            word.truncate(word.trim_end().len());
            let space = if word.is_empty() { "" } else { " " };
            word = format!("{word}{space}{CUT}");
        }
        word
    }
}

impl From<Vec<String>> for MaskedArgv {
    fn from(argv: Vec<String>) -> Self {
        Self::mask(&argv)
    }
}

/// The command line for people: separated by spaces, control characters escaped, so that it cannot forge a line.
impl fmt::Display for MaskedArgv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.join(" ").chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { fmt::Write::write_char(f, c)? }
        }
        Ok(())
    }
}

/// What the word before says about the next one.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    /// Nothing.
    Word,
    /// It is a secret.
    Secret,
    /// It is a header of HTTP: `Name: value`.
    Header,
    /// It is `user:password`.
    UserAndPassword,
}

fn mask_words<S: AsRef<str>>(words: &[S]) -> Vec<String> {
    let mut next = Next::Word;
    let masked = words.iter().map(|word| {
        let word = word.as_ref();
        let this = next;
        next = after(word);
        match this {
            _ if word.is_empty() || word == CUT || is_option(word) => mask_text(word),
            Next::Word => mask_text(word),
            // `Bearer` in `--auth Bearer x` is no secret yet.
            Next::Secret if is_scheme(word) => word.to_owned(),
            Next::Secret => MASK.to_owned(),
            Next::Header => mask_after(word, ':').unwrap_or_else(|| mask_text(word)),
            Next::UserAndPassword if word.bytes().all(|b| b.is_ascii_digit() || b == b':') => word.to_owned(),
            Next::UserAndPassword => mask_after(word, ':').unwrap_or_else(|| mask_text(word)),
        }
    });
    masked.collect()
}

/// Whether a word after an option is the next one, and not the value of the first: `-x`, `--some-words`, `--some=x`.
fn is_option(word: &str) -> bool {
    match word.strip_prefix("--") {
        Some(long) => long.split('=').next().is_some_and(|name| {
            name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') && !name.starts_with('-')
        }),
        None => word.starts_with('-') && word.chars().count() <= 2,
    }
}

fn after(word: &str) -> Next {
    match word {
        "-H" | "--header" | "--headers" => Next::Header,
        "-u" | "--user" | "--proxy-user" => Next::UserAndPassword,
        option if option.starts_with('-') && !option.contains('=') && is_secret_name(option) => Next::Secret,
        scheme if is_scheme(scheme) => Next::Secret,
        _ => Next::Word,
    }
}

/// Whether it is the name of a scheme of HTTP's `Authorization`, after which the secret comes.
fn is_scheme(word: &str) -> bool {
    ["bearer", "basic"].iter().any(|scheme| word.eq_ignore_ascii_case(scheme))
}

/// `name: value` with the value masked. A URL is no such pair. Quotes around all of it stay in place.
fn mask_after(word: &str, separator: char) -> Option<String> {
    if let Some((quote, inner)) = quoted(word) {
        return Some(format!("{quote}{}{quote}", mask_after(inner, separator)?));
    }
    let (name, value) = word.split_once(separator)?;
    let space = if value.starts_with(' ') { " " } else { "" };
    let pair = !value.trim().is_empty() && !value.starts_with("//");
    pair.then(|| format!("{name}{separator}{space}{MASK}"))
}

/// One argument, or the value in one.
fn mask_text(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    loop {
        if let Some((quote, inner)) = quoted(rest) {
            return format!("{masked}{quote}{}{quote}", mask_text(inner));
        }
        // A name before `=` or `:` at the beginning speaks of everything that follows, spaces included.
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_-.".contains(c)).unwrap_or(rest.len());
        let (name, value) = rest.split_at(end);
        if value.starts_with(['=', ':']) && is_secret_name(name) && value[1..].trim() != CUT {
            let secret = mask_after(rest, value.chars().next().unwrap_or('='));
            return masked + &secret.unwrap_or_else(|| mask_parts(rest));
        }
        if name.is_empty() || !value.starts_with('=') {
            break;
        }
        masked.push_str(&rest[..=end]);
        rest = &rest[end + 1..];
    }
    masked + &mask_json(rest).unwrap_or_else(|| mask_parts(rest))
}

fn mask_parts(text: &str) -> String {
    if !text.contains(char::is_whitespace) {
        return mask_atom(text);
    }
    let parts = split_words(text);
    let words: Vec<&str> = parts.iter().map(|(word, _)| *word).collect();
    if words.len() == 1 {
        return mask_atom(text);
    }
    mask_words(&words).into_iter().zip(&parts).map(|(word, (_, space))| word + space).collect()
}

/// Words and the white space after each. What stands in quotes is one word, where the quotes begin a word or a value.
fn split_words(text: &str) -> Vec<(&str, &str)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut end = 0;
        let mut before = ' ';
        while let Some(c) = rest[end..].chars().next().filter(|c| !c.is_whitespace()) {
            let opens = matches!(c, '"' | '\'') && matches!(before, ' ' | '=' | ':');
            let inside = if opens { rest[end + 1..].find(c).map(|i| i + 1) } else { None };
            end += inside.unwrap_or(0) + c.len_utf8();
            before = c;
        }
        let (word, tail) = rest.split_at(end);
        let space = tail.len() - tail.trim_start().len();
        parts.push((word, &tail[..space]));
        rest = &tail[space..];
    }
    parts
}

fn quoted(text: &str) -> Option<(char, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inner = text[1..].strip_suffix(quote)?;
    (!inner.contains(quote)).then_some((quote, inner))
}

/// A JSON text, as some servers take their settings. `None` where it is none.
fn mask_json(text: &str) -> Option<String> {
    let mut value: serde_json::Value = serde_json::from_str(text).ok().filter(|_| text.starts_with(['{', '[']))?;
    let before = value.clone();
    mask_value(&mut value, false);
    Some(if value == before { text.to_owned() } else { value.to_string() })
}

fn mask_value(value: &mut serde_json::Value, secret: bool) {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(_) if !secret => {}
        Value::Number(_) => *value = MASK.into(),
        Value::String(text) => *text = if secret { MASK.to_owned() } else { mask_text(text) },
        Value::Array(values) if !secret && values.iter().all(Value::is_string) => {
            let words: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            *values = mask_words(&words).into_iter().map(Value::from).collect();
        }
        Value::Array(values) => values.iter_mut().for_each(|value| mask_value(value, secret)),
        Value::Object(members) => {
            members.iter_mut().for_each(|(name, value)| mask_value(value, secret || is_secret_name(name)));
        }
    }
}

/// A word that is neither a pair nor JSON: a URL, a connection string, a token.
fn mask_atom(word: &str) -> String {
    mask_tokens(&mask_pairs(&mask_userinfo(word)))
}

/// `scheme://user:password@host`, every one in the word. A user without a password is a name, unless it is long enough
/// for a token.
fn mask_userinfo(word: &str) -> String {
    let mut masked = String::with_capacity(word.len());
    let mut rest = word;
    while let Some((scheme, after)) = rest.split_once("://") {
        masked.push_str(scheme);
        masked.push_str("://");
        let (userinfo, tail) = after.split_at(userinfo_end(scheme, after).unwrap_or(0));
        match userinfo.split_once(':') {
            Some((user, password)) if !password.is_empty() => masked.extend([user, ":", MASK]),
            None if userinfo.len() >= 16 => masked.push_str(MASK),
            Some(_) | None => masked.push_str(userinfo),
        }
        rest = tail;
    }
    masked + rest
}

/// Where the `@` stands that ends user and password. Passwords are often written with the `/` or `?` bare that should be
/// escaped, so the last `@` counts: that of this URL, or where it has none any behind it (`me://word@host` is the
/// password `//word`). Only the web has an `@` in its paths as well, behind a host and a port.
fn userinfo_end(scheme: &str, after: &str) -> Option<usize> {
    let authority = &after[..after.find(['/', '?', '#']).unwrap_or(after.len())];
    let web = scheme.ends_with("http") || scheme.ends_with("https");
    let bare = || {
        let (_, port) = authority.split_once(':')?;
        let is_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        if web && is_port { None } else { after.split("://").next()?.rfind('@').or_else(|| after.rfind('@')) }
    };
    authority.rfind('@').or_else(bare)
}

/// `name=value` and `"name":"value"` between the separators of query strings, connection strings and loose JSON.
fn mask_pairs(text: &str) -> String {
    let masked = text.split_inclusive(['?', '&', ';', ',', '#', ' ']).map(|part| {
        let body = part.trim_end_matches(['?', '&', ';', ',', '#', ' ']);
        let Some((left, value)) = body.split_once('=').or_else(|| body.split_once("\":")) else {
            return part.to_owned();
        };
        let end = left.trim_end_matches(['"', '\'']);
        let name = end.rsplit(|c: char| !c.is_ascii_alphanumeric() && !"_-.".contains(c)).next().unwrap_or(end);
        if value.is_empty() || !is_secret_name(name) {
            return part.to_owned();
        }
        let separator = body.len() - value.len();
        format!("{}{MASK}{}", &body[..separator], &part[body.len()..])
    });
    masked.collect()
}

/// Issued tokens, wherever a word of letters and digits begins.
fn mask_tokens(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut before = ' ';
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if before.is_ascii_alphanumeric() { None } else { issued_token(rest) };
        match length {
            Some(_) => masked.push_str(MASK),
            None => masked.push(c),
        }
        before = c;
        rest = &rest[length.unwrap_or(c.len_utf8())..];
    }
    masked
}

#[cfg(test)]
#[path = "mask_tests.rs"]
mod tests;
