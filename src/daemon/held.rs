//! What the daemon holds of a server, a stdin and a stderr, over its own death: the service manager keeps dups of them where
//! there is one ([`crate::systemd::Store`]); else they are taken again from the server's first process.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use rustix::process::PidfdGetfdFlags;

use super::aside::Foreign;
use super::driver::Driver;
use super::stdin;
use super::table::Server;
use crate::naming::LeafName;
use crate::records::{FileId, Record};

/// What the name of a stored stdin begins with; that of its leaf follows, which no other launch has.
const STDIN: &str = "stdin-";

/// What the name of a stored stderr begins with.
const STDERR: &str = "stderr-";

/// The name of a server's stdin in the store.
pub(super) fn stdin(leaf: &LeafName) -> String {
    format!("{STDIN}{}", leaf.as_str())
}

/// The name of a server's stderr in the store.
pub(super) fn stderr(leaf: &LeafName) -> String {
    format!("{STDERR}{}", leaf.as_str())
}

/// Whether a name of the store is of our making.
pub(super) fn is_ours(name: &str) -> bool {
    name.strip_prefix(STDIN).or_else(|| name.strip_prefix(STDERR)).is_some_and(|leaf| LeafName::parse(leaf).is_ok())
}

impl Driver {
    /// Puts what is held of a server into the store.
    pub(super) fn keep_held(&self, number: u64) {
        let Some(server) = self.table.servers.get(&number) else { return };
        if let Some(held) = &server.stdin {
            self.store.keep(&stdin(&server.leaf_name), held);
        }
        if let Some(held) = &server.stderr {
            self.store.keep(&stderr(&server.leaf_name), held);
        }
    }

    /// Takes a stderr out of the store. The manager keeps one of several descriptors of one open file, as the servers of a
    /// host often share: it is given that of another server.
    pub(super) fn remove_stderr(&self, leaf: &LeafName, held: Option<&Foreign>) {
        self.store.remove(&stderr(leaf));
        let Some(file) = held.filter(|_| self.store.is_there()).and_then(FileId::of) else { return };
        let held = |server: &Server| server.stderr.as_ref().and_then(FileId::of);
        let other = self.table.servers.values().find(|server| server.leaf_name != *leaf && held(server) == Some(file));
        if let Some((other, fd)) = other.and_then(|other| Some((other, other.stderr.as_ref()?))) {
            self.store.keep(&stderr(&other.leaf_name), fd);
        }
    }

    /// The stdin and the stderr that an earlier daemon held of a server, as far as they can be had again.
    pub(super) fn take_held(
        &mut self,
        leaf: &LeafName,
        record: &Record,
        leader: Option<&OwnedFd>,
    ) -> (Option<Foreign>, Option<Foreign>) {
        let mut again = |name: String, number, file: Option<FileId>| {
            let is_same = |fd: &OwnedFd| file.is_some() && FileId::of(fd) == file;
            match (self.store.take(&name, is_same), file, leader) {
                (Some(stored), ..) => Some(Foreign::from(stored)),
                (None, Some(file), Some(leader)) => take(leader, number, file).inspect(|fd| self.store.keep(&name, fd)),
                (None, ..) => None,
            }
        };
        let input = again(stdin(leaf), 0, record.stdin).filter(|fd| stdin::can_be_watched(fd));
        (input, again(stderr(leaf), 2, record.stderr))
    }
}

/// A standard descriptor of a process (pidfd_getfd(2)), where we may take it and it is still what its host gave it: a server
/// may have opened another file there.
fn take(leader: &OwnedFd, number: RawFd, file: FileId) -> Option<Foreign> {
    let taken = rustix::process::pidfd_getfd(leader.as_fd(), number, PidfdGetfdFlags::empty()).ok();
    let taken = Foreign::from(taken?);
    (FileId::of(&taken) == Some(file)).then_some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Name;

    #[test]
    fn a_name_of_the_store_tells_its_leaf_and_what_it_is_and_systemd_takes_it() {
        let leaf = LeafName::new(&Name::parse(&"@x:".repeat(20)).unwrap(), u64::MAX);
        for name in [stdin(&leaf), stderr(&leaf)] {
            assert!(is_ours(&name), "{name}");
            // sd_pid_notify_with_fds(3).
            assert!(name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{name}");
        }
        for other in ["pinfold.socket", "stdin-", "stdin-../x", "stdout-x.1", "connection"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
