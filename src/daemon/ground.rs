//! The ground that a daemon stands on: the directory of its socket, and the way there. Beside the socket are its lock, its
//! records and perhaps its history, and all of them are opened by path: whoever could turn the way, or put another file in
//! theirs, would have a daemon of root's write where he likes.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Symbolic links that are followed on the way, as the kernel does (path_resolution(7)).
const LINKS_MAX: usize = 40;

const STICKY: u32 = 0o1000;
const OF_OTHERS: u32 = 0o002;
const OF_GROUP: u32 = 0o020;

/// Why a directory is none to stand on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it belongs to user {0}")]
    Foreign(u32),
    #[error("others may write into it")]
    Open,
    #[error("its way has too many symbolic links")]
    Links,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Whom everything on the way may belong to: root, the daemon's own user, and whoever has `/`, which in a user namespace may
/// be nobody.
fn trusted() -> io::Result<BTreeSet<u32>> {
    let root = std::fs::symlink_metadata("/")?.uid();
    Ok(BTreeSet::from([0, nix::unistd::geteuid().as_raw(), root]))
}

/// Whether nobody else can turn the way to this directory, or put something into it. Tells the place that is unfit.
pub(super) fn firm(directory: &Path) -> Result<(), (PathBuf, Unfit)> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| (path, Unfit::Io(error))
    };
    let trusted = trusted().map_err(fail(Path::new("/")))?;
    let mut way = std::path::absolute(directory).map_err(fail(directory))?;
    for _ in 0..LINKS_MAX {
        let Some(link) = step(&way, &trusted)? else { return Ok(()) };
        way = link;
    }
    Err((directory.to_owned(), Unfit::Links))
}

/// Looks at everything on this way from the top down; where there is a link, gives the way that goes on behind it.
fn step(way: &Path, trusted: &BTreeSet<u32>) -> Result<Option<PathBuf>, (PathBuf, Unfit)> {
    let mut above: Vec<&Path> = way.ancestors().collect();
    above.reverse();
    for path in above {
        let at = |unfit| (path.to_owned(), unfit);
        let found = std::fs::symlink_metadata(path).map_err(|error| at(error.into()))?;
        if !trusted.contains(&found.uid()) {
            return Err(at(Unfit::Foreign(found.uid())));
        }
        if found.is_symlink() {
            let target = std::fs::read_link(path).map_err(|error| at(error.into()))?;
            let rest = way.strip_prefix(path).expect("it is one of its ancestors");
            let from = path.parent().unwrap_or(Path::new("/"));
            // `..` goes up from where the kernel is then: none of the names before it is a link.
            let target = flat(&from.join(target));
            // With nothing to join, a slash would be, and that follows the link.
            return Ok(Some(if rest.as_os_str().is_empty() { target } else { target.join(rest) }));
        }
        // In a sticky directory nobody moves what is another's, which is enough on the way and too little at its end. A
        // group of one's own is common; root's has no business with one.
        let is_end = path == way;
        let group = if nix::unistd::geteuid().is_root() && found.gid() != 0 { OF_GROUP } else { 0 };
        if found.mode() & (OF_OTHERS | group) != 0 && (is_end || found.mode() & STICKY == 0) {
            return Err(at(Unfit::Open));
        }
    }
    Ok(None)
}

fn flat(path: &Path) -> PathBuf {
    let mut flat = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(flat.pop()),
            std::path::Component::CurDir => {}
            other => flat.push(other),
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn made() -> (tempfile::TempDir, PathBuf) {
        let top = tempfile::tempdir().unwrap();
        let inner = top.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        (top, inner)
    }

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_of_ones_own_is_firm_ground_also_behind_links() {
        let (top, inner) = made();
        firm(&inner).unwrap();
        symlink("a", top.path().join("link")).unwrap();
        symlink("../link", top.path().join("a/up")).unwrap();
        firm(&top.path().join("a/up/b")).unwrap();
    }

    #[test]
    fn what_others_may_write_into_is_not_also_where_it_is_on_the_way() {
        let (top, inner) = made();
        for (unfit, bits) in [(inner.clone(), 0o777), (inner.clone(), 0o1777), (top.path().join("a"), 0o757)] {
            mode(&unfit, bits);
            let (told, why) = firm(&inner).unwrap_err();
            assert!(told == unfit && matches!(why, Unfit::Open), "{told:?}: {why}");
            mode(&unfit, 0o755);
        }
        // A link leads there.
        let open = top.path().join("open");
        std::fs::create_dir(&open).unwrap();
        mode(&open, 0o777);
        symlink("open", top.path().join("link")).unwrap();
        assert_eq!(firm(&top.path().join("link")).unwrap_err().0, open);
        // A sticky one on the way is as /tmp is.
        mode(&top.path().join("a"), 0o1777);
        firm(&inner).unwrap();
    }

    #[test]
    fn links_that_lead_in_circles_are_not_followed_without_end() {
        let (top, _) = made();
        symlink("two", top.path().join("one")).unwrap();
        symlink("one", top.path().join("two")).unwrap();
        assert!(matches!(firm(&top.path().join("one")).unwrap_err().1, Unfit::Links));
    }

    #[test]
    fn what_belongs_to_another_is_unfit() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (top, inner) = made();
        std::os::unix::fs::chown(top.path().join("a"), Some(1), None).unwrap();
        assert!(matches!(firm(&inner).unwrap_err().1, Unfit::Foreign(1)));
    }
}
