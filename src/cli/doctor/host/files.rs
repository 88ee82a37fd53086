//! A host's files, as they are now.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::chain::chain;
use crate::hostfile::Syntax;
use crate::hostfile::hosts::HostFiles;
use crate::rewrite::find::{self, Surroundings};
use crate::rewrite::original::{FileError, Original};

/// A file that is there.
pub(super) struct HostFile {
    /// Where.
    pub(super) path: PathBuf,
    /// How it is written and what it says, or why that is not known.
    pub(super) said: Result<(Syntax, Vec<u8>), String>,
}

/// The files that are there, in this environment and this directory.
pub(super) fn files(host: &HostFiles) -> Vec<HostFile> {
    let found = find::files(host, &Surroundings::own()).into_iter();
    found.filter_map(|path| Some(HostFile { said: read(&path).transpose()?, path })).collect()
}

/// Where they would be.
pub(super) fn places(host: &HostFiles) -> Vec<PathBuf> {
    find::places(host, &Surroundings::own())
}

/// Reads a file; none where there is none.
pub(super) fn read(path: &Path) -> Result<Option<(Syntax, Vec<u8>)>, String> {
    match Original::read(path) {
        Ok(file) => Ok(Some((file.syntax(path), file.bytes().to_vec()))),
        Err(FileError::Failed { source, .. })
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(chain(&error)),
    }
}
