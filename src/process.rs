//! Hands on `/proc`: what the kernel tells of one process. Every answer may be out of date when it is read, so whoever
//! acts on it holds a pidfd and compares the start time.

pub mod holders;
pub mod peers;
pub mod reach;
pub mod sockets;
pub mod survey;

mod tree;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags};

use crate::outcome::Exit;
use crate::policy::ProcessFacts;
use crate::session::ProcessId;
use crate::sys::text;
pub use tree::{Family, member};

/// How many ancestors are looked at.
const ANCESTORS_MAX: usize = 32;

/// The most that is read of a command line or an environment, in bytes.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// A process of the chain above a launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// Who it is.
    pub id: ProcessId,
    /// What it shows.
    pub facts: ProcessFacts,
}

/// Some fields of `/proc/PID/stat` (proc_pid_stat(5)).
struct Stat {
    name: String,
    state: char,
    parent: i32,
    flags: u32,
    start_time: u64,
    /// As wait(2) gives it; 0 where it may not be read.
    wait_status: i32,
}

fn stat(pid: i32) -> io::Result<Stat> {
    let text = text::of(&format!("/proc/{pid}/stat"), TEXT_BYTES_MAX)?;
    parse_stat(&text).ok_or_else(|| io::Error::other("/proc/PID/stat is not as proc_pid_stat(5) has it"))
}

/// The name in parentheses may hold anything, parentheses included: fields are counted from its last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (before, fields) = text.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let mut fields = fields.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let flags = fields.nth(4)?.parse().ok()?;
    let start_time = fields.nth(12)?.parse().ok()?;
    let wait_status = fields.nth(29)?.parse().ok()?;
    Some(Stat { name, state, parent, flags, start_time, wait_status })
}

/// The process with this number now.
pub fn identify(pid: i32) -> io::Result<ProcessId> {
    Ok(ProcessId { pid, start_time: stat(pid)?.start_time })
}

/// The processes above `pid`, nearest first.
pub fn ancestors(pid: i32) -> Vec<Ancestor> {
    let mut found = Vec::new();
    let mut next = stat(pid).map(|stat| stat.parent).unwrap_or(0);
    while next > 0 && found.len() < ANCESTORS_MAX {
        let Ok(stat) = stat(next) else { break };
        let argv = list(next, "cmdline").unwrap_or_default();
        let facts = ProcessFacts { pid: next, comm: stat.name, argv };
        found.push(Ancestor { id: ProcessId { pid: next, start_time: stat.start_time }, facts });
        next = stat.parent;
    }
    found
}

/// What it is called, and its command line. Empty where it is gone.
pub fn facts(pid: i32) -> ProcessFacts {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    ProcessFacts { pid, comm: comm.trim_end_matches('\n').to_owned(), argv: list(pid, "cmdline").unwrap_or_default() }
}

/// The environment that a process was executed with, as far as it is text. Empty where it may not be read.
pub fn environment(pid: i32) -> Vec<(String, String)> {
    let pairs = list(pid, "environ").unwrap_or_default();
    pairs.iter().filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

/// The command line of a process. Empty where it is gone.
pub fn command_line(pid: i32) -> Vec<String> {
    list(pid, "cmdline").unwrap_or_default()
}

/// Reads the same as it stands there, each variable with a NUL at its end.
pub fn read_environment(pid: i32, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    read(pid, "environ", bytes)
}

/// Whose process it is: the real and the effective uid of proc_pid_status(5).
pub fn uids(pid: i32) -> io::Result<(u32, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    let mut uids = line.unwrap_or_default().split_whitespace().map_while(|uid| uid.parse().ok());
    let both = uids.next().zip(uids.next());
    both.ok_or_else(|| io::Error::other("/proc/PID/status is not as proc_pid_status(5) has it"))
}

/// A NUL-separated list of `/proc/PID`.
fn list(pid: i32, file: &str) -> io::Result<Vec<String>> {
    let mut bytes = Vec::new();
    read(pid, file, &mut bytes)?;
    let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    Ok(text.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect())
}

fn read(pid: i32, file: &str, bytes: &mut Vec<u8>) -> io::Result<()> {
    text::read(&format!("/proc/{pid}/{file}"), TEXT_BYTES_MAX, bytes)
}

/// Holds the process `id`, if it still is the one that has its number.
pub fn hold(id: ProcessId) -> Option<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(id.pid)?, PidfdFlags::empty()).ok()?;
    // Once held, the number cannot pass on: what is read now is about this process.
    (identify(id.pid).ok()? == id).then_some(pidfd)
}

/// How a process that is gone exited: while nobody has waited for it its `stat` tells, and after that its pidfd, where the
/// kernel knows that (Linux 6.15). `None` where neither does.
pub fn exit_of(id: ProcessId, pidfd: BorrowedFd<'_>) -> Option<Exit> {
    let zombie = stat(id.pid).ok().filter(|stat| stat.start_time == id.start_time && stat.state == 'Z');
    // What may not be read is shown as zero there. This link takes the same permission (PTRACE_MODE_READ_FSCREDS).
    let zombie = zombie.filter(|_| std::fs::read_link(format!("/proc/{}/ns/user", id.pid)).is_ok());
    let status = zombie.map(|stat| stat.wait_status).or_else(|| crate::sys::pidfd::wait_status(pidfd));
    status.map(Exit::of_wait_status)
}

/// The number of the process that a pidfd holds: `Pid` of its fdinfo (pidfd_open(2)), -1 once it was reaped.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<i32> {
    let text = text::of(&format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd()), TEXT_BYTES_MAX)?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.ok_or_else(|| io::Error::other("the descriptor is no pidfd"))
}

/// Time since boot, the machine's sleep included (`CLOCK_BOOTTIME`, clock_gettime(2)).
pub fn since_boot() -> Duration {
    crate::sys::elapsed(nix::libc::CLOCK_BOOTTIME)
}

/// Time since boot without the machine's sleep (`CLOCK_MONOTONIC`): what systemd's timers go by.
pub fn awake_since_boot() -> Duration {
    crate::sys::elapsed(nix::libc::CLOCK_MONOTONIC)
}

/// The id of this boot: what was written down before it is about other processes.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let text = "42 (a) S 1 (b) Z 7 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 98765 0 0 18446744073709551615 0 0 0 0 \
                    0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 1792\n";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.start_time, stat.wait_status), ('Z', 7, 98765, 7 << 8));
        assert_eq!(stat.name, "a) S 1 (b");
    }

    #[test]
    fn how_a_child_exited_is_known_before_it_is_waited_for_and_where_the_kernel_tells_after_that() {
        for (script, exit) in [("read _; exit 3", Exit::Status(3)), ("read _; kill -SEGV $$", Exit::Signal(11))] {
            let mut command = std::process::Command::new("sh");
            let mut child = command.args(["-c", script]).stdin(std::process::Stdio::piped()).spawn().unwrap();
            let id = identify(child.id() as i32).unwrap();
            let pidfd = hold(id).unwrap();
            assert_eq!(exit_of(id, pidfd.as_fd()), None, "it lives");
            drop(child.stdin.take());
            let mut polled = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut polled, None).unwrap();
            assert_eq!(exit_of(id, pidfd.as_fd()), Some(exit), "nobody has waited for it");
            child.wait().unwrap();
            let after = exit_of(id, pidfd.as_fd());
            assert!(after == Some(exit) || after.is_none() && !tells_after_the_wait(), "{after:?}");
        }
    }

    /// Linux 6.15 and later do.
    fn tells_after_the_wait() -> bool {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(6), Some(15))
    }

    #[test]
    fn a_process_finds_itself_and_its_parent() {
        let own = std::process::id() as i32;
        let id = identify(own).unwrap();
        let pidfd = hold(id).unwrap();
        assert_eq!(pid_of(pidfd.as_fd()).unwrap(), own);
        assert_eq!(uids(own).unwrap(), (nix::unistd::getuid().as_raw(), nix::unistd::geteuid().as_raw()));
        assert!(hold(ProcessId { start_time: id.start_time + 1, ..id }).is_none());
        let parent = std::os::unix::process::parent_id() as i32;
        assert_eq!(ancestors(own)[0].id.pid, parent);
    }
}
