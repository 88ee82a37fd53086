//! Which files are meant.

use std::path::{Path, PathBuf};

use super::super::{NO, USAGE, text};
use crate::chain::chain;
use crate::hostfile::hosts::{self, HOSTS};
use crate::rewrite::find::{self, Surroundings};
use crate::rewrite::kept::Kept;

/// A file, and the host that reads it where that is known.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) path: PathBuf,
    pub(super) host: Option<&'static str>,
}

/// There is no file to look at.
#[derive(Debug)]
pub(super) struct NoFiles {
    message: String,
    status: u8,
}

impl NoFiles {
    /// Says so, and gives the exit status.
    pub(super) fn tell(&self) -> u8 {
        eprintln!("pinfold: {}", text::shown(&self.message));
        self.status
    }
}

/// The files of a host, or one file. A word that is a host's name is one: `./NAME` is a file.
pub(super) fn named(what: &Path) -> Result<Vec<Chosen>, NoFiles> {
    let around = Surroundings::own();
    let Some(host) = what.to_str().and_then(hosts::host) else { return one(what, &around).map(|file| vec![file]) };
    let files = find::files(host, &around);
    if files.is_empty() {
        let places: Vec<_> = find::places(host, &around).iter().map(|place| place.display().to_string()).collect();
        let message = format!(
            "{} has no configuration here: none of {} is there; name the file where it is another",
            host.name,
            places.join(", ")
        );
        return Err(NoFiles { message, status: NO });
    }
    Ok(files.into_iter().map(|path| Chosen { path, host: Some(host.name) }).collect())
}

fn one(what: &Path, around: &Surroundings) -> Result<Chosen, NoFiles> {
    let path = around.here.join(what);
    let is_word = what.components().count() == 1 && what.extension().is_none();
    if is_word && !path.exists() {
        let names: Vec<_> = HOSTS.iter().map(|host| host.name).collect();
        let message = format!("{:?} is neither a host nor a file: the hosts are {}", what, names.join(", "));
        return Err(NoFiles { message, status: USAGE });
    }
    let host = host_of(&path);
    Ok(Chosen { path, host })
}

/// By the name that was given, or else by that of what a link leads to.
fn host_of(path: &Path) -> Option<&'static str> {
    let of = |path: &Path| Some(hosts::host_of(path.to_str()?)?.name);
    of(path).or_else(|| of(&std::fs::canonicalize(path).ok()?))
}

/// The files that were wrapped; those that are not there any more are told apart.
pub(super) fn kept(missing: &mut Vec<PathBuf>) -> Result<Vec<Chosen>, NoFiles> {
    let listed = match Kept::own() {
        Some(kept) => kept.files().map_err(|error| NoFiles { message: chain(&error), status: NO })?,
        None => Vec::new(),
    };
    let mut files = Vec::new();
    for path in listed {
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => missing.push(path),
            _ => files.push(Chosen { host: host_of(&path), path }),
        }
    }
    Ok(files)
}
