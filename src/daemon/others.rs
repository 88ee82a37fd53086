//! Who else has what there is one daemon for: its pid and its socket, as far as the kernel tells.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use crate::client::beside;

/// Another daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Other {
    pid: Option<i32>,
    socket: Option<PathBuf>,
}

impl Other {
    /// The one that listens there.
    pub(super) fn at(socket: PathBuf) -> Self {
        let stream = UnixStream::connect(&socket).ok();
        // SO_PEERCRED of a connection is of whoever called listen(2).
        let peer = stream
            .and_then(|stream| nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).ok());
        Self { pid: peer.map(|peer| peer.pid()).filter(|pid| *pid > 0), socket: Some(socket) }
    }

    /// The one that has locked this file or directory (flock(2)).
    pub(super) fn that_locked(path: &Path) -> Self {
        let pid = holder(path);
        Self { pid, socket: pid.and_then(listens_at) }
    }

    /// The same, where its socket is named already.
    pub(super) fn here(self) -> Self {
        Self { socket: None, ..self }
    }

    /// Who it is, in parentheses, for a message about what it has.
    pub(super) fn who(&self) -> String {
        match (self.pid, &self.socket) {
            (Some(pid), Some(socket)) => format!(" (process {pid}, which listens at {})", socket.display()),
            (Some(pid), None) => format!(" (process {pid})"),
            (None, Some(socket)) => format!(" (it listens at {})", socket.display()),
            (None, None) => String::new(),
        }
    }

    /// The ways out that it leaves.
    pub(super) fn remedy(&self) -> String {
        let mut remedy = "use that one".to_owned();
        if let Some(socket) = &self.socket {
            let _ = write!(remedy, " (--socket {})", socket.display());
        }
        remedy.push_str(", or stop it first");
        match self.pid {
            Some(pid) => {
                let _ = write!(remedy, " (kill {pid}: what it contains lives on, and the next one adopts it)");
            }
            None => remedy.push_str(" (what it contains lives on, and the next one adopts it)"),
        }
        remedy
    }
}

/// The process that has a lock, by proc_locks(5).
pub(super) fn holder(path: &Path) -> Option<i32> {
    let meta = std::fs::metadata(path).ok()?;
    let file = format!("{:02x}:{:02x}:{}", major(meta.dev()), minor(meta.dev()), meta.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| locked(line, &file)).filter(|pid| *pid > 0)
}

/// The process of a line of proc_locks(5) that is about a flock(2) of this file, and is not of one that waits for it.
fn locked(line: &str, file: &str) -> Option<i32> {
    let mut fields = line.split_whitespace().skip(1);
    let (kind, pid) = (fields.next()?, fields.nth(2)?);
    (kind == "FLOCK" && fields.next()? == file).then(|| pid.parse().ok()).flatten()
}

/// Where a daemon listens: at the one of its process's sockets that has its lock beside it.
fn listens_at(pid: i32) -> Option<PathBuf> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = descriptors.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inode = |link: PathBuf| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    let inodes: HashSet<String> = links.filter_map(inode).collect();
    let sockets = std::fs::read_to_string(format!("/proc/{pid}/net/unix")).ok()?;
    let named = sockets.lines().filter_map(|line| {
        let (inode, path) =
            line.split_whitespace().skip(6).collect::<Vec<_>>().split_first().map(|(inode, path)| {
                // A path may hold spaces.
                ((*inode).to_owned(), path.join(" "))
            })?;
        inodes.contains(&inode).then_some(PathBuf::from(path))
    });
    named.into_iter().find(|path| path.is_absolute() && beside(path, "lock").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_of_its_file_and_of_who_has_it() {
        let file = "00:2f:4567";
        let told = |line| locked(line, file);
        assert_eq!(told("12: FLOCK  ADVISORY  WRITE 321 00:2f:4567 0 EOF"), Some(321));
        assert_eq!(told("12: -> FLOCK  ADVISORY  WRITE 322 00:2f:4567 0 EOF"), None);
        assert_eq!(told("13: FLOCK  ADVISORY  WRITE 321 00:2f:456 0 EOF"), None);
        assert_eq!(told("14: POSIX  ADVISORY  WRITE 321 00:2f:4567 0 EOF"), None);
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let known = Other { pid: Some(7), socket: Some("/run/x.sock".into()) };
        assert_eq!(known.who(), " (process 7, which listens at /run/x.sock)");
        assert_eq!(
            known.remedy(),
            "use that one (--socket /run/x.sock), or stop it first (kill 7: what it contains lives on, and the next one adopts it)"
        );
        assert_eq!(Other::default().who(), "");
    }
}
