//! Whether something other than its stdin could wake a server: a connection, or a socket on which it waits for one
//! (`/proc/PID/net`, proc_pid_net(5)), or a browser, which has timers of its own. What is frozen hears nothing of that.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// More descriptors than these are not looked at: what has so many open serves somebody.
const DESCRIPTORS_MAX: usize = 4096;

/// The most that is read of one table of sockets.
const TABLE_BYTES_MAX: u64 = 16 << 20;

/// Programs that go on by themselves while nobody asks anything of them, as `/proc/PID/comm` begins.
const BROWSERS: [&str; 10] = [
    "chrome",
    "chromium",
    "headless_shell",
    "firefox",
    "msedge",
    "brave",
    "electron",
    "WebKitWebProcess",
    "pw_run.sh",
    "safaridriver",
];

/// What could wake a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    pid: i32,
    way: Way,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Listens,
    IsConnected,
    Receives,
    IsBrowser(String),
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pid = self.pid;
        match &self.way {
            Way::Listens => write!(f, "process {pid} of it listens on a socket"),
            Way::IsConnected => write!(f, "process {pid} of it has a network connection"),
            Way::Receives => write!(f, "process {pid} of it waits for datagrams"),
            Way::IsBrowser(name) => write!(f, "process {pid} of it is a browser ({name})"),
        }
    }
}

/// The first thing that could wake one of these processes, if there is one. What is gone meanwhile is passed over; what cannot
/// be looked at is an error.
pub fn other_than_stdin(pids: &[i32]) -> io::Result<Option<Reach>> {
    let mut tables: HashMap<PathBuf, HashMap<u64, Way>> = HashMap::new();
    for pid in pids {
        let Some(sockets) = seen(sockets(*pid))? else { continue };
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if BROWSERS.iter().any(|browser| comm.starts_with(browser)) {
            return Ok(Some(Reach { pid: *pid, way: Way::IsBrowser(comm.trim_end().to_owned()) }));
        }
        if sockets.is_empty() {
            continue;
        }
        let Some(namespace) = seen(std::fs::read_link(format!("/proc/{pid}/ns/net")))? else { continue };
        let ways = match tables.entry(namespace) {
            std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => match seen(ways(*pid))? {
                Some(ways) => new.insert(ways),
                None => continue,
            },
        };
        if let Some(way) = sockets.iter().find_map(|inode| ways.get(inode)) {
            return Ok(Some(Reach { pid: *pid, way: way.clone() }));
        }
    }
    Ok(None)
}

/// `None` where the process is gone.
fn seen<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ESRCH)) => Ok(None),
        found => found.map(Some),
    }
}

/// The inodes of its sockets.
fn sockets(pid: i32) -> io::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    for (count, entry) in std::fs::read_dir(format!("/proc/{pid}/fd"))?.enumerate() {
        if count >= DESCRIPTORS_MAX {
            return Err(io::Error::other("it has too many files open"));
        }
        let Some(link) = seen(std::fs::read_link(entry?.path()))? else { continue };
        let inode = |link: &str| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok();
        found.extend(link.to_str().and_then(inode));
    }
    Ok(found)
}

/// What can come in by the sockets of its network namespace, by inode.
fn ways(pid: i32) -> io::Result<HashMap<u64, Way>> {
    let mut found = HashMap::new();
    for (table, read) in
        [("tcp", tcp as fn(&[&str]) -> Option<(u64, Way)>), ("tcp6", tcp), ("udp", udp), ("udp6", udp), ("unix", unix)]
    {
        let text = match text(pid, table) {
            // A kernel without IPv6 has no such table.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => continue,
            text => text?,
        };
        let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        found.extend(rows.filter_map(|row| read(&row)));
    }
    Ok(found)
}

fn text(pid: i32, table: &str) -> io::Result<String> {
    whole(std::fs::File::open(format!("/proc/{pid}/net/{table}"))?, TABLE_BYTES_MAX)
}

/// All of a table. Of a longer one the end is not known, and somebody else may have made it that long.
fn whole(table: impl io::Read, most: u64) -> io::Result<String> {
    let mut text = String::new();
    let read = io::Read::read_to_string(&mut io::Read::take(table, most + 1), &mut text)?;
    if read as u64 > most { Err(io::Error::other("there are too many sockets")) } else { Ok(text) }
}

/// `sl local rem st tx:rx tr:tm retrnsmt uid timeout inode …`; the states are those of include/net/tcp_states.h.
fn tcp(row: &[&str]) -> Option<(u64, Way)> {
    let inode = row.get(9)?.parse().ok()?;
    match *row.get(3)? {
        "0A" => Some((inode, Way::Listens)),
        // On its way to being closed nothing comes any more that anybody waits for.
        "01" | "02" | "03" => Some((inode, Way::IsConnected)),
        _ => None,
    }
}

/// The same columns. One that has no port yet is told by nobody.
fn udp(row: &[&str]) -> Option<(u64, Way)> {
    let inode = row.get(9)?.parse().ok()?;
    let (_, port) = row.get(1)?.rsplit_once(':')?;
    (port != "0000").then_some((inode, Way::Receives))
}

/// `Num RefCount Protocol Flags Type St Inode Path`; what listens has `__SO_ACCEPTCON` among its flags.
fn unix(row: &[&str]) -> Option<(u64, Way)> {
    const ACCEPTS: u32 = 1 << 16;
    let flags = u32::from_str_radix(row.get(3)?, 16).ok()?;
    (flags & ACCEPTS != 0).then_some((row.get(6)?.parse().ok()?, Way::Listens))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    /// What is told of this process, which has what the test opens among what others have open.
    fn way_of(inode: u64) -> Option<Way> {
        let own = std::process::id() as i32;
        assert!(sockets(own).unwrap().contains(&inode));
        ways(own).unwrap().get(&inode).cloned()
    }

    fn inode(socket: &impl std::os::fd::AsRawFd) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }

    #[test]
    fn what_waits_for_connections_or_has_one_can_be_woken_and_a_pair_of_sockets_as_a_stdin_is_none() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(directory.path().join("s")).unwrap();
        let (stdin, _host) = UnixStream::pair().unwrap();
        assert_eq!(way_of(inode(&listener)), Some(Way::Listens));
        assert_eq!(way_of(inode(&client)), Some(Way::IsConnected));
        assert_eq!(way_of(inode(&datagrams)), Some(Way::Receives));
        assert_eq!(way_of(inode(&unix)), Some(Way::Listens));
        assert_eq!(way_of(inode(&stdin)), None);
        let own = std::process::id() as i32;
        assert!(other_than_stdin(&[own]).unwrap().is_some_and(|reach| reach.pid == own));
    }

    #[test]
    fn what_is_gone_is_passed_over() {
        assert_eq!(other_than_stdin(&[i32::MAX]).unwrap(), None);
    }

    #[test]
    fn a_table_that_is_too_long_to_be_read_is_an_error_and_no_shorter_one() {
        assert_eq!(whole(&b"rows"[..], 4).unwrap(), "rows");
        assert!(whole(&b"rows"[..], 3).is_err());
    }

    #[test]
    fn rows_that_are_none_tell_nothing() {
        for row in [&[][..], &["0:"], &["0:", "0100007F:1F90", "00000000:0000", "0A"]] {
            assert_eq!((tcp(row), udp(row), unix(row)), (None, None, None));
        }
    }
}
