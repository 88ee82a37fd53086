//! All processes at once, each with what tells a stranger what it is. Every read is of one process and may find it gone.

use std::io;

use rustix::fs::{Mode, OFlags};

use crate::session::ProcessId;

/// The most that is read of a command line here, in bytes: what names a server stands at its beginning.
const ARGV_BYTES_MAX: u64 = 16 << 10;

/// The most that is read of a table of sockets.
const TABLE_BYTES_MAX: u64 = 8 << 20;

/// `PF_KTHREAD` of the flags in `/proc/PID/stat` (the kernel's include/linux/sched.h).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Clock ticks in a second of the start times in `/proc/PID/stat`: `USER_HZ`, which is 100 wherever this runs.
const TICKS_PER_SECOND: f64 = 100.0;

/// What `/proc` shows of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Who it is.
    pub id: ProcessId,
    /// Its name: at most 15 bytes.
    pub comm: String,
    /// The number of its parent; 0 where that cannot be seen from here.
    pub parent: i32,
    /// It has exited, and nobody has read its status.
    pub is_zombie: bool,
    /// It is a part of the kernel.
    pub is_kernel: bool,
    /// Its real and its effective uid.
    pub uids: (u32, u32),
    /// Resident memory, in bytes; 0 where it has none.
    pub rss: u64,
    /// Its number in each pid namespace from the one of this `/proc` to its own.
    pub numbers: Vec<i32>,
}

/// The numbers of all processes that `/proc` shows.
pub fn all() -> io::Result<Vec<i32>> {
    let entries = std::fs::read_dir("/proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Looks at one process.
pub fn look(pid: i32) -> io::Result<Look> {
    let (stat, status) = (text(pid, "stat")?, text(pid, "status")?);
    parse(pid, &stat, &status).ok_or_else(|| io::Error::other("/proc/PID is not as proc(5) has it"))
}

/// Reads `/proc/PID/stat` and `/proc/PID/status` (proc_pid_stat(5), proc_pid_status(5)). What must agree is taken from
/// one of the two.
pub fn parse(pid: i32, stat: &str, status: &str) -> Option<Look> {
    let (head, tail) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let numbers = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().map_while(|word| word.parse::<u64>().ok()).collect::<Vec<_>>()
    };
    let uids = numbers("Uid:");
    let narrow = |number: &u64| u32::try_from(*number).ok();
    let own = numbers("NSpid:").iter().filter_map(|number| i32::try_from(*number).ok()).collect::<Vec<_>>();
    Some(Look {
        id: ProcessId { pid, start_time: fields.get(19)?.parse().ok()? },
        comm: head.split_once('(')?.1.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        is_zombie: matches!(*fields.first()?, "Z" | "X"),
        is_kernel: fields.get(6)?.parse::<u64>().ok()? & KERNEL_THREAD != 0,
        uids: uids.first().and_then(narrow).zip(uids.get(1).and_then(narrow))?,
        rss: numbers("VmRSS:").first().map_or(0, |kilobytes| kilobytes << 10),
        numbers: if own.is_empty() { vec![pid] } else { own },
    })
}

/// The command line of a process, without the empty words that a process leaves which wrote a title over it.
pub fn argv(pid: i32) -> Vec<String> {
    let bytes = read(pid, "cmdline", ARGV_BYTES_MAX).unwrap_or_default();
    let words = String::from_utf8_lossy(&bytes);
    let words = words.trim_end_matches('\0');
    if words.is_empty() { Vec::new() } else { words.split('\0').map(str::to_owned).collect() }
}

/// The memory of a process in which each shared page counts for its share (`Pss` of smaps_rollup), in bytes.
pub fn pss(pid: i32) -> io::Result<u64> {
    let text = text(pid, "smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.map(|kilobytes| kilobytes << 10).ok_or_else(|| io::Error::other("smaps_rollup has no Pss"))
}

/// For how long a process has lived, in seconds.
pub fn age(id: ProcessId) -> f64 {
    (super::since_boot().as_secs_f64() - id.start_time as f64 / TICKS_PER_SECOND).max(0.0)
}

/// Where a link of `/proc/PID` leads: `cwd`, `fd/0`, `ns/net`.
pub fn link(pid: i32, name: &str) -> io::Result<String> {
    Ok(std::fs::read_link(format!("/proc/{pid}/{name}"))?.to_string_lossy().into_owned())
}

/// A file of `/proc/PID` that may be long.
pub(super) fn long_text(pid: i32, file: &str) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&read(pid, file, TABLE_BYTES_MAX)?).into_owned())
}

fn text(pid: i32, file: &str) -> io::Result<String> {
    // By its bytes: a name may be no UTF-8.
    Ok(String::from_utf8_lossy(&read(pid, file, 1 << 16)?).into_owned())
}

fn read(pid: i32, file: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(format!("/proc/{pid}/{file}"), flags, Mode::empty())?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(std::fs::File::from(opened), bytes_max), &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "4711 (npm exec (x) m) S 4700 4711 4711 0 -1 4194304 1 0 0 0 7 1 0 0 20 0 11 0 98765 1 2 3";
    const STATUS: &str = "Name:\tnpm exec\nUid:\t1000\t1000\t1000\t1000\nNSpid:\t4711\t17\nVmRSS:\t   96104 kB\n";

    #[test]
    fn a_process_in_a_container_has_a_number_in_each_namespace() {
        let look = parse(4711, STAT, STATUS).unwrap();
        assert_eq!((look.parent, look.id.start_time, look.comm.as_str()), (4700, 98765, "npm exec (x) m"));
        assert_eq!((look.uids, look.rss, look.numbers), ((1000, 1000), 96104 << 10, vec![4711, 17]));
        assert!(!look.is_zombie && !look.is_kernel);
    }

    #[test]
    fn a_part_of_the_kernel_and_a_zombie_are_told() {
        let kernel = "15 (rcu_preempt) I 2 0 0 0 -1 2129984 0 0 0 0 0 60 0 0 20 0 1 0 9 0 0";
        let look = parse(15, kernel, "Uid:\t0\t0\t0\t0\n").unwrap();
        assert!(look.is_kernel && look.rss == 0 && look.numbers == [15]);
        let zombie = "16 (node) Z 2 0 0 0 -1 4194304 0 0 0 0 0 60 0 0 20 0 1 0 9 0 0";
        assert!(parse(16, zombie, "Uid:\t0\t0\t0\t0\n").unwrap().is_zombie);
        assert_eq!(parse(16, "16 (node) Z", "Uid:\t0\t0\t0\t0\n"), None);
    }

    #[test]
    fn a_process_finds_itself() {
        let own = std::process::id() as i32;
        assert!(all().unwrap().contains(&own));
        let look = look(own).unwrap();
        assert_eq!((look.id, look.uids), (super::super::identify(own).unwrap(), super::super::uids(own).unwrap()));
        assert!(look.rss > 0 && pss(own).unwrap() > 0 && age(look.id) >= 0.0);
    }
}
