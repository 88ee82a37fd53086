//! The one configuration file: TOML, in which an unknown key is an error.
//!
//! Reading ([`Config::load`]) and understanding ([`Config::parse`]) are apart. What a wrong file gets is one line that
//! names the file, the line, what stands there, what is wrong with it and what to do. What the keys mean is told in
//! `deploy/pinfold.toml`, which a test keeps equal to the defaults.

mod file;
mod history;
mod metrics;
mod values;

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::limits::Limit;
use crate::policy::{HostRule, Settings, built_in_hosts};
pub use history::Bounds;
pub use metrics::{Listen, Metrics};

/// What the configuration file says. [`Config::default`] is a file that says nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What the policy decides by.
    pub settings: Settings,
    /// How long a daemon that was started on demand stays while it is not used.
    pub idle_exit: Limit<Duration>,
    /// Where metrics are told, and how much of them.
    pub metrics: Metrics,
    /// What is kept of what ended.
    pub history: Bounds,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            idle_exit: Limit::At(Duration::from_secs(60)),
            metrics: Metrics::default(),
            history: Bounds::default(),
        }
    }
}

/// The configuration file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not; [`io::ErrorKind::NotFound`] where there is none.
        source: io::Error,
    },
    /// It holds something wrong.
    #[error("{}:{line}:{column}: {text}: {why}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1, in characters.
        column: usize,
        /// What stands in that line.
        text: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
}

impl Config {
    /// The longest file that is read, in bytes. What is longer is not a configuration.
    pub const MAX_BYTES: u64 = 1 << 20;

    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(Self::MAX_BYTES + 1).read_to_string(&mut text));
        match read {
            Ok(length) if length as u64 > Self::MAX_BYTES => {
                Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 1 MiB"))
            }
            Ok(_) => return Self::parse(&text, path),
            Err(source) => Err(source),
        }
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })
    }

    /// Understands the text of the file. `path` is for the error only.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let wrong = |(span, why): (Option<Range<usize>>, String)| {
            let (line, column, text) = place(text, span.map_or(0, |span| span.start));
            ConfigError::Wrong { path: path.to_owned(), line, column, text, why }
        };
        let written: file::File = toml::from_str(text).map_err(|error| {
            let entry =
                error.span().and_then(|span| text.get(text[..span.start].rfind('\n').map_or(0, |end| end + 1)..));
            wrong((error.span(), remedied(error.message(), entry.and_then(|entry| entry.lines().next()))))
        })?;
        let mut settings = written.settings();
        settings.hosts = hosts(written.host).map_err(|(span, why)| wrong((Some(span), why)))?;
        let daemon = written.daemon;
        daemon.bound(&mut settings);
        let idle_exit = daemon.idle_exit.map_or(Self::default().idle_exit, |idle| idle.0);
        Ok(Self { settings, idle_exit, metrics: written.metrics.0, history: written.history.bounds() })
    }
}

/// The number of the line at this offset, the column in it, and the line's text.
fn place(text: &str, offset: usize) -> (usize, usize, String) {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next().unwrap_or_default().trim();
    let shown = line.chars().take(80).map(|c| if c.is_control() { ' ' } else { c }).collect();
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1, shown)
}

/// What the TOML reader says of this line, with what to do about it where it does not say so.
fn remedied(message: &str, line: Option<&str>) -> String {
    let message = message.trim().replace('\n', ", ");
    match message {
        unknown if unknown.starts_with("unknown field") => match line.map(tables_of).unwrap_or_default() {
            tables if tables.is_empty() => format!("{unknown}; correct its spelling, or remove it"),
            tables => format!("{unknown}; it belongs under {}", tables.join(" or ")),
        },
        told if told.contains("; ") => told,
        other => format!("{other}; correct it, or remove it to have the default"),
    }
}

/// The tables in which this entry would be right.
fn tables_of(entry: &str) -> Vec<&'static str> {
    const TABLES: [&str; 8] =
        ["[server]", "[session]", "[machine]", "[launches]", "[daemon]", "[containers]", "[metrics]", "[history]"];
    TABLES.into_iter().filter(|table| toml::from_str::<file::File>(&format!("{table}\n{entry}\n")).is_ok()).collect()
}

/// The built-in hosts, and over them those of the file: by name, an entry changes what it says or adds a host.
fn hosts(written: Vec<toml::Spanned<file::Host>>) -> Result<Vec<HostRule>, (Range<usize>, String)> {
    let mut hosts = built_in_hosts();
    let mut seen = Vec::new();
    for entry in written {
        let span = entry.span();
        let entry = entry.into_inner();
        if seen.contains(&entry.name) {
            return Err((span, format!("the host {} is there twice; make one entry of the two", entry.name)));
        }
        seen.push(entry.name.clone());
        match hosts.iter_mut().find(|host| host.name == entry.name) {
            Some(host) => entry.change(host),
            None => {
                let name = entry.name.clone();
                hosts.push(entry.into_new().ok_or_else(|| {
                    (span, format!("the host {name} is not known without its commands; add commands = [\"…\"]"))
                })?);
            }
        }
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests;
