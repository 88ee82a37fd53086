//! The walk through `/proc`: what the rules of [`crate::strays`] judge by. What vanishes meanwhile was not there.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::super::text;
use super::evidence::{Clues, Facts};
use crate::argv::MaskedArgv;
use crate::cgroup::{Membership, leaf_of};
use crate::limits::Bytes;
use crate::policy::{ProcessFacts, Settings};
use crate::process::survey;
use crate::session::Name;
use crate::strays::{
    Contained, Evidence, PIDS_MAX, Parent, Seen, Stdin, Stray, StrayOwner, Survey, Tree, judge, looks_like_server,
    trees,
};
use crate::timestamp::Timestamp;

/// How many processes are looked at.
const PROCESSES_MAX: usize = 100_000;

/// What is kept of the time for the second look, at what looks like a server.
const SECOND_LOOK: Duration = Duration::from_secs(4);

/// What is kept of that for memory, which is read last.
const MEMORY: Duration = Duration::from_secs(2);

/// What only the walk sees of a process, beside [`Seen`].
pub(super) struct Beside {
    rss: u64,
    uid: u32,
    /// Its number in its own pid namespace.
    pub(super) own_number: i32,
    in_container: bool,
    is_zombie: bool,
}

/// All processes, in two lists of one order.
#[derive(Default)]
pub(super) struct Processes {
    pub(super) seen: Vec<Seen>,
    pub(super) beside: Vec<Beside>,
    contained: Contained,
    complete: bool,
}

/// Looks at all processes, and then again at those that look like servers. `at` is the process that is looked at.
pub(super) fn survey(
    settings: &Settings,
    escaped: &HashMap<i32, Name>,
    deadline: Instant,
    at: &AtomicI32,
) -> io::Result<Survey> {
    let processes = walk(deadline - SECOND_LOOK, at)?;
    let found = trees(settings, &processes.seen);
    let clues = Clues::gather(&processes, &found, deadline - MEMORY, at);
    let mut teller = Teller { processes: &processes, clues: &clues, escaped, deadline, at, users: HashMap::new() };
    let alike = alike(&processes, &found);
    let strays =
        found.iter().zip(&clues.facts).zip(alike).map(|((tree, facts), alike)| teller.stray(tree, facts, alike));
    let mut survey = Survey::new(strays.collect());
    survey.contained = processes.contained;
    survey.looked_at = processes.seen.len();
    survey.complete = processes.complete;
    survey.notes = notes(&processes, &clues, &survey);
    Ok(survey)
}

fn walk(deadline: Instant, at: &AtomicI32) -> io::Result<Processes> {
    let mut processes = Processes { complete: true, ..Processes::default() };
    let mut leaves = BTreeSet::new();
    for pid in survey::all()? {
        if processes.seen.len() == PROCESSES_MAX || Instant::now() > deadline {
            processes.complete = false;
            break;
        }
        at.store(pid, Ordering::Relaxed);
        let Ok(look) = survey::look(pid) else { continue };
        if look.is_kernel {
            continue;
        }
        let leaf = Membership::of(pid).ok().and_then(|place| leaf_of(&place));
        let is_contained = leaf.is_some();
        leaves.extend(leaf.map(|leaf| (leaf.key, leaf.leaf)));
        processes.contained.processes += usize::from(is_contained);
        let own_number = look.numbers.last().copied().unwrap_or(pid);
        let argv = if look.is_zombie { Vec::new() } else { survey::argv(pid) };
        let piped =
            |name| survey::link(pid, name).is_ok_and(|link| link.starts_with("pipe:") || link.starts_with("socket:"));
        processes.seen.push(Seen {
            id: look.id,
            parent: look.parent,
            facts: ProcessFacts { pid, comm: text::shown(&look.comm), argv },
            directory: survey::link(pid, "cwd").ok(),
            is_piped: piped("fd/0") && piped("fd/1"),
            is_init: own_number == 1,
            is_contained,
        });
        let (rss, uid) = (look.rss, look.uids.0);
        let (in_container, is_zombie) = (look.numbers.len() > 1, look.is_zombie);
        processes.beside.push(Beside { rss, uid, own_number, in_container, is_zombie });
    }
    processes.contained.servers = leaves.len();
    Ok(processes)
}

/// For each tree, how many of the same server its host has, and whether it is the youngest.
fn alike(processes: &Processes, found: &[Tree]) -> Vec<(usize, bool)> {
    let key = |tree: &Tree| match &tree.parent {
        Parent::Host(_, host) => Some((*host, tree.server.clone())),
        Parent::Reaper(_) | Parent::Other(..) => None,
    };
    let start = |tree: &Tree| processes.seen[tree.processes[0]].id.start_time;
    let mut groups: HashMap<_, (usize, u64)> = HashMap::new();
    for (tree, key) in found.iter().filter_map(|tree| Some((tree, key(tree)?))) {
        let (count, youngest) = groups.entry(key).or_default();
        *count += 1;
        *youngest = (*youngest).max(start(tree));
    }
    let told = |tree: &Tree| key(tree).map_or((1, true), |key| (groups[&key].0, groups[&key].1 == start(tree)));
    found.iter().map(told).collect()
}

/// Tells of each tree what it costs and how it looks.
struct Teller<'a> {
    processes: &'a Processes,
    clues: &'a Clues,
    escaped: &'a HashMap<i32, Name>,
    deadline: Instant,
    at: &'a AtomicI32,
    users: HashMap<u32, Option<String>>,
}

impl Teller<'_> {
    fn stray(&mut self, tree: &Tree, facts: &Facts, (alike, is_youngest): (usize, bool)) -> Stray {
        let (first, beside) = (&self.processes.seen[tree.processes[0]], &self.processes.beside[tree.processes[0]]);
        let (pss, pss_missing) = self.pss(tree);
        let age = survey::age(first.id);
        let born = SystemTime::now().checked_sub(Duration::from_secs_f64(age)).unwrap_or(SystemTime::UNIX_EPOCH);
        let (verdict, mut reasons) = judge(&Evidence {
            parent: tree.parent.clone(),
            stdin: facts.stdin,
            holder: facts.holder.map(|place| self.clues.called(self.processes, place)),
            is_service: facts.is_service,
            listens: facts.listens.clone(),
            alike,
            is_youngest,
        });
        let leaf = self.escaped.get(&first.id.pid);
        reasons.extend(
            leaf.map(|leaf| format!("it left the leaf of {leaf}, whose daemon ends its first process all the same")),
        );
        let rss = tree.processes.iter().map(|place| self.processes.beside[*place].rss).sum();
        let pids = tree.processes.iter().take(PIDS_MAX).map(|place| self.processes.seen[*place].id.pid);
        Stray {
            pid: first.id.pid,
            server: tree.server.clone(),
            argv: MaskedArgv::mask(&first.facts.argv),
            uid: beside.uid,
            user: self.users.entry(beside.uid).or_insert_with(|| user(beside.uid)).clone(),
            started_at: Timestamp::of(born),
            age_seconds: age,
            processes: tree.processes.len(),
            pids: pids.collect(),
            rss_bytes: Bytes(rss),
            pss_bytes: pss.map(Bytes),
            pss_missing,
            owner: match &tree.parent {
                Parent::Host(host, pid) => Some(StrayOwner { host: host.clone(), pid: *pid }),
                Parent::Reaper(_) | Parent::Other(..) => None,
            },
            in_container: beside.in_container,
            verdict,
            reasons,
        }
    }

    /// The sum of what could be read, if any could; and of how many processes it could not.
    fn pss(&self, tree: &Tree) -> (Option<u64>, usize) {
        let (mut sum, mut read, mut missing) = (0, false, 0);
        for place in tree.processes.iter().filter(|place| !self.processes.beside[**place].is_zombie) {
            let pid = self.processes.seen[*place].id.pid;
            self.at.store(pid, Ordering::Relaxed);
            let late = Instant::now() > self.deadline;
            match if late { Err(io::ErrorKind::TimedOut.into()) } else { survey::pss(pid) } {
                Ok(bytes) => (sum, read) = (sum + bytes, true),
                // It has exited since: it has no memory any more.
                Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ESRCH)) => {}
                Err(_) => missing += 1,
            }
        }
        (read.then_some(sum), missing)
    }
}

fn user(uid: u32) -> Option<String> {
    Some(nix::unistd::User::from_uid(uid.into()).ok()??.name)
}

/// What could not be seen, and what would change that.
fn notes(processes: &Processes, clues: &Clues, survey: &Survey) -> Vec<String> {
    let mut told = Vec::new();
    let mut tell = |count: usize, text: String| told.extend((count > 0).then_some(text));
    let as_root = if nix::unistd::geteuid().is_root() { "" } else { ": run it as root" };
    let hidden = usize::from(!processes.seen.iter().any(|seen| seen.id.pid == 1));
    tell(hidden, "processes of others are hidden in /proc (its mount option hidepid): run it as root".to_owned());
    let looked_at = survey.looked_at;
    tell(
        usize::from(!survey.complete),
        format!("there are more than the {looked_at} processes that were looked at, or that took too long: try again"),
    );
    let stdins = clues.facts.iter().filter(|facts| facts.stdin == Stdin::Unknown).count();
    tell(stdins, format!("the stdin of {} could not be looked at{as_root}", trees_of(stdins)));
    let pss = survey.abandoned.pss_missing + survey.unclear.pss_missing + survey.in_use.pss_missing;
    let of = if pss == 1 { "process" } else { "processes" };
    tell(pss, format!("the PSS of {pss} {of} could not be read, and is missing in the sums{as_root}"));
    let containers = processes.seen.iter().zip(&processes.beside).filter(|(seen, beside)| {
        let looks = || looks_like_server(&seen.facts.argv, seen.directory.as_deref()).is_some();
        beside.in_container && seen.is_init && looks()
    });
    let containers = containers.count();
    let of = if containers == 1 {
        "container runs what looks like a server as its"
    } else {
        "containers run what look like servers as their"
    };
    tell(containers, format!("{containers} {of} first process, and are for their runtime to tell about (docker ps)"));
    told
}

pub(super) fn trees_of(count: usize) -> String {
    format!("{count} {}", if count == 1 { "tree" } else { "trees" })
}
