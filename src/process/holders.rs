//! Who holds the other end of what: the descriptors of processes, by what they are of. It looks, and reads nothing from
//! anything that it finds.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

/// How many descriptors of one process are looked at.
const DESCRIPTORS_MAX: usize = 16_384;

/// The filesystem of pipes without a name: `PIPEFS_MAGIC` of linux/magic.h.
const PIPEFS: rustix::fs::FsWord = 0x5049_5045;

/// What a descriptor is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Object {
    /// A pipe without a name, by its inode.
    Pipe(u64),
    /// A socket, by its inode.
    Socket(u64),
}

impl Object {
    /// Reads the text of a link of `/proc/PID/fd`: `pipe:[1]`, `socket:[1]`.
    pub fn parse(link: &str) -> Option<Self> {
        let inode = |kind: &str| link.strip_prefix(kind)?.strip_suffix(']')?.parse().ok();
        inode("pipe:[").map(Self::Pipe).or_else(|| inode("socket:[").map(Self::Socket))
    }
}

/// Whether the pipe that is stdin of a process has no writer any more.
///
/// Its end for reading is opened a second time, which takes the permission to look at the process, and polled: that takes
/// nothing out of it, and no writer waits for readers of a pipe without a name (pipe(7)). An open of one with a name, or of
/// a device, could be noticed, and the process may have made its stdin one since it was looked at: so it is held by `O_PATH`,
/// which opens nothing, until it is known to be this pipe.
pub fn pipe_has_ended(pid: i32, inode: u64) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let held: OwnedFd = rustix::fs::open(format!("/proc/{pid}/fd/0"), flags, Mode::empty())?;
    if rustix::fs::fstatfs(&held)?.f_type != PIPEFS || rustix::fs::fstat(&held)?.st_ino != inode {
        return Err(io::Error::new(io::ErrorKind::NotFound, "its stdin is another one by now"));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened: OwnedFd = rustix::fs::open(format!("/proc/self/fd/{}", held.as_raw_fd()), flags, Mode::empty())?;
    let mut polled = [PollFd::new(&opened, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(polled[0].revents().contains(PollFlags::HUP))
}

/// Which of `wanted` a process holds; of a pipe the end for writing. Nothing where it may not be looked at.
pub fn held(pid: i32, wanted: &HashSet<Object>) -> io::Result<Vec<Object>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten().take(DESCRIPTORS_MAX) {
        let Ok(link) = std::fs::read_link(entry.path()) else { continue };
        let Some(object) = link.to_str().and_then(Object::parse).filter(|object| wanted.contains(object)) else {
            continue;
        };
        if matches!(object, Object::Socket(_)) || is_writable(pid, &entry.file_name().to_string_lossy()) {
            found.push(object);
        }
    }
    Ok(found)
}

/// Whether a descriptor was opened for writing: `flags` of its fdinfo, in octal (proc_pid_fdinfo(5)).
fn is_writable(pid: i32, descriptor: &str) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_some_and(|flags| flags & nix::libc::O_ACCMODE != nix::libc::O_RDONLY)
}

/// The TCP ports on which sockets wait for connections in the network namespace of a process, by their inodes.
pub fn listening(pid: i32) -> HashMap<u64, u16> {
    let mut found = HashMap::new();
    for file in ["net/tcp", "net/tcp6"] {
        let text = super::survey::long_text(pid, file).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(parse_listening));
    }
    found
}

/// One line of `/proc/net/tcp` (proc_net_tcp(5)), where it is a socket that waits (state 0A).
fn parse_listening(line: &str) -> Option<(u64, u16)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let port = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
    let inode = fields.get(9)?.parse().ok()?;
    (*fields.get(3)? == "0A").then_some((inode, port))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_pipe_is_told_with_its_writer_and_that_it_has_none() {
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::piped()).spawn().unwrap();
        let (pid, own) = (child.id() as i32, std::process::id() as i32);
        let link = super::super::survey::link(pid, "fd/0").unwrap();
        let pipe = Object::parse(&link).unwrap();
        let Object::Pipe(inode) = pipe else { panic!("{link}") };
        let wanted = HashSet::from([pipe]);
        assert!(!pipe_has_ended(pid, inode).unwrap());
        assert!(pipe_has_ended(pid, inode + 1).is_err(), "it is another pipe by now");
        assert_eq!(held(own, &wanted).unwrap().len(), 1);
        assert_eq!(held(pid, &wanted).unwrap(), [], "it reads, and that is not to hold the other end");
        drop(child.stdin.take());
        // Another test may have forked meanwhile, and not have executed yet.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !pipe_has_ended(pid, inode).unwrap() {
            assert!(std::time::Instant::now() < deadline, "nobody writes any more");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_is_no_pipe_without_a_name_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let both = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&both.metadata().unwrap());
        let mut child = Command::new("sleep").arg("1000").stdin(both).spawn().unwrap();
        assert!(pipe_has_ended(child.id() as i32, inode).is_err());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_port_that_somebody_waits_on_is_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = listening(std::process::id() as i32);
        let inode = found.iter().find(|(_, found)| **found == port).map(|(inode, _)| *inode).unwrap();
        let wanted = HashSet::from([Object::Socket(inode)]);
        assert_eq!(held(std::process::id() as i32, &wanted).unwrap(), [Object::Socket(inode)]);
        assert_eq!(parse_listening("0: 0100007F:1F90 0100007F:0016 01 0:0 0:0 0 0 0 77 1"), None, "it is connected");
    }

    #[test]
    fn other_links_are_no_object() {
        assert_eq!(Object::parse("socket:[7]"), Some(Object::Socket(7)));
        for link in ["/dev/null", "/tmp/fifo", "pipe:[x]", "pipe:[1", "anon_inode:[eventpoll]"] {
            assert_eq!(Object::parse(link), None, "{link}");
        }
    }
}
