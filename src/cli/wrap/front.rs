//! What is put in front of a server: this program, by a path that stays.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why this program cannot be put in front.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrontError {
    /// Its path is not known.
    #[error("cannot find out where this program is: start it anew from where it is installed")]
    Unknown(#[source] io::Error),
    /// It would not be known again.
    #[error(
        "this program is {0:?}: what is put in front has to be called pinfold, or `unwrap` would not know it again"
    )]
    Called(PathBuf),
}

/// The path of this program: the one in `PATH` where that is this very file, which may be a link that outlives an update.
pub(super) fn program() -> Result<String, FrontError> {
    let own = std::fs::read_link("/proc/self/exe").map_err(FrontError::Unknown)?;
    let path = match in_path("pinfold").filter(|path| is_same(path)) {
        Some(path) => path,
        None if is_same(&own) => own,
        // It was replaced since it was started, and the kernel shows "… (deleted)".
        None => return Err(FrontError::Unknown(io::Error::from(io::ErrorKind::NotFound))),
    };
    let is_called = path.file_name().is_some_and(|name| name == "pinfold");
    match path.to_str() {
        Some(text) if is_called => Ok(text.to_owned()),
        _ => Err(FrontError::Called(path)),
    }
}

/// Whether a host that starts this word starts this program.
pub(in crate::cli) fn is_this(word: &str) -> bool {
    let path = if word.contains('/') { Some(PathBuf::from(word)) } else { in_path(word) };
    path.is_some_and(|path| path.is_absolute() && is_same(&path))
}

/// Whether a path leads to the file that this program is.
fn is_same(path: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    identity(path).is_some_and(|found| Some(found) == identity(Path::new("/proc/self/exe")))
}

/// The first file of this name in `PATH`.
fn in_path(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    let absolute = std::env::split_paths(&paths).filter(|path| path.is_absolute());
    absolute.map(|path| path.join(name)).find(|path| path.is_file())
}
