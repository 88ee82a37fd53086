//! A process and all that it has started, as `/proc` tells it at one moment. What is started meanwhile may be missing, so
//! whoever needs all of it looks again until nothing is new.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;

use super::{facts, identify, stat, uids};
use crate::policy::Member;
use crate::session::ProcessId;

/// How many processes of the machine are looked at.
const PROCESSES_MAX: usize = 100_000;

/// `PF_KTHREAD` of the flags in proc_pid_stat(5) (the kernel's include/linux/sched.h).
const KERNEL_THREAD: u32 = 0x0020_0000;

/// Who started whom, of all processes.
#[derive(Debug, Default)]
pub struct Family {
    living: HashSet<ProcessId>,
    children: HashMap<i32, Vec<ProcessId>>,
}

impl Family {
    /// Walks through `/proc` once.
    pub fn now() -> io::Result<Self> {
        let mut family = Self::default();
        for (index, entry) in std::fs::read_dir("/proc")?.flatten().enumerate() {
            if index == PROCESSES_MAX {
                return Err(io::Error::other(format!("there are more than {PROCESSES_MAX} processes")));
            }
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            // One that is gone meanwhile is in nobody's tree.
            let Ok(stat) = stat(pid) else { continue };
            let id = ProcessId { pid, start_time: stat.start_time };
            family.living.insert(id);
            family.children.entry(stat.parent).or_default().push(id);
        }
        Ok(family)
    }

    /// Whether it was there, zombies included.
    pub fn has(&self, id: ProcessId) -> bool {
        self.living.contains(&id)
    }

    /// What a process has started and still has for a child.
    pub fn children(&self, of: ProcessId) -> impl Iterator<Item = ProcessId> {
        // A child is never older than its parent: one that is was a child of an earlier process of that number.
        let children = self.children.get(&of.pid).map(Vec::as_slice).unwrap_or_default();
        children.iter().copied().filter(move |child| child.start_time >= of.start_time)
    }

    /// A process and all below it, parents before their children. `None` where these are more than `most`.
    pub fn tree(&self, root: ProcessId, most: usize) -> Option<Vec<ProcessId>> {
        let (mut found, mut queue) = (Vec::new(), VecDeque::from([root]));
        while let Some(id) = queue.pop_front() {
            if found.len() == most {
                return None;
            }
            found.push(id);
            queue.extend(self.children(id));
        }
        Some(found)
    }
}

/// What is to be known of a process before it is moved.
pub fn member(id: ProcessId) -> io::Result<Member> {
    let pid = id.pid;
    let member = Member {
        pid,
        facts: facts(pid),
        uids: uids(pid)?,
        is_of_kernel: stat(pid)?.flags & KERNEL_THREAD != 0,
        is_in_container: is_in_pid_namespace(pid)?,
    };
    // What was read is about one process if the number is still its own.
    if identify(pid)? == id { Ok(member) } else { Err(io::Error::other("the process is gone")) }
}

/// Whether a process has another number for itself than for us (`NSpid` of proc_pid_status(5)).
fn is_in_pid_namespace(pid: i32) -> io::Result<bool> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let numbers = text.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    Ok(numbers.split_whitespace().count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_told_from_its_root_down_and_no_longer_than_it_may_be() {
        let own = identify(std::process::id() as i32).unwrap();
        let script = "sleep 1000 & echo; wait";
        let mut command = std::process::Command::new("sh");
        let mut child = command.args(["-c", script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        // It has started its own child by then.
        io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut [0]).unwrap();
        let id = identify(child.id() as i32).unwrap();
        let family = Family::now().unwrap();
        let tree = family.tree(id, 10).unwrap();
        assert!(family.has(id) && family.children(own).any(|found| found == id));
        assert_eq!((tree.len(), tree[0]), (2, id), "{tree:?}");
        assert_eq!(family.tree(id, 1), None);
        assert_eq!(family.tree(id, 2).map(|tree| tree.len()), Some(2));
        let earlier = ProcessId { start_time: u64::MAX, ..id };
        assert_eq!(family.children(earlier).count(), 0, "nobody's parent is younger than it");
        let member = member(id).unwrap();
        assert!(!member.is_of_kernel && !member.is_in_container, "{member:?}");
        assert_eq!(member.facts.comm, "sh");
        let sleeper = tree[1].pid;
        child.kill().unwrap();
        child.wait().unwrap();
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(sleeper), nix::sys::signal::Signal::SIGKILL);
        assert!(super::member(id).is_err(), "it is gone");
    }
}
