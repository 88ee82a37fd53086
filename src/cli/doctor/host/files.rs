//! A host's files, as they are now.

use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::hostfile::FILE_BYTES_MAX;
use crate::hostfile::hosts::{Base, HostFiles};

/// A file that is there.
pub(super) struct HostFile {
    /// Where.
    pub(super) path: PathBuf,
    /// What it says, or why that is not known.
    pub(super) bytes: Result<Vec<u8>, String>,
}

/// The files that are there, and all places that were looked at.
pub(super) fn find(host: &HostFiles) -> (Vec<HostFile>, Vec<PathBuf>) {
    let places = places(host);
    let found = places.iter().filter_map(|path| {
        let bytes = read(path).transpose()?;
        Some(HostFile { path: path.clone(), bytes })
    });
    (found.collect(), places)
}

/// Where the host reads, in this environment and this directory.
fn places(host: &HostFiles) -> Vec<PathBuf> {
    let named = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = std::env::home_dir();
    let is_moved = host.files.iter().any(|(base, _)| match base {
        Base::Directory(variable) | Base::File(variable) => named(variable).is_some(),
        Base::Home | Base::Config | Base::Here => false,
    });
    let place = |(base, file): &(Base, &str)| match base {
        Base::Home => home.as_ref().filter(|_| !is_moved).map(|home| home.join(file)),
        Base::Config => {
            let config = named("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
            Some(config.or_else(|| Some(home.as_ref()?.join(".config")))?.join(file))
        }
        Base::Here => Some(std::env::current_dir().ok()?.join(file)),
        Base::Directory(variable) => Some(named(variable)?.join(file)),
        Base::File(variable) => named(variable),
    };
    host.files.iter().filter_map(place).collect()
}

/// Reads a file; none where there is none. What is no regular file is not waited for.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let opened = std::fs::File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err("it is no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map(|_| Some(bytes)).map_err(|error| format!("it cannot be read: {error}"))
}
