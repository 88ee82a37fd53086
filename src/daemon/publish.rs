//! What the driver lets out: copies of its facts, and from them the snapshot, read from the kernel off the driver.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::escapes::{Escapees, Found, Wanted};
use super::message::Peer;
use super::table::{Server, Session, Table};
use crate::backend::Backend;
use crate::cgroup::{Group, Leaf, Membership};
use crate::container::ContainerPlace;
use crate::limits::Bytes;
use crate::naming::{LeafName, SessionKey};
use crate::process;
use crate::records::Expiry;
use crate::session::{Name, ProcessId, SessionId};
use crate::snapshot::{ActivityView, ContainerView, MemoryView, PressureView, ServerView, SessionView, StdinWatch};

/// How many containers of one server are shown.
const CONTAINERS_MAX: usize = 16;

/// The facts of one session.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: SessionKey,
    pub(super) id: SessionId,
    uid: u32,
    pub(super) host: Option<Name>,
    backend: &'static str,
    cgroup: String,
    /// It stands below a container, and not in what is the machine's.
    pub(super) is_below: bool,
    expires: Option<Expiry>,
    pub(super) servers: Vec<Facts>,
}

/// The facts of one server.
#[derive(Debug)]
pub(super) struct Facts {
    /// What is known of it without the kernel.
    pub(super) view: ServerView,
    leader: ProcessId,
    /// Its first process left it for a later launch, which is no escape.
    leads_on: bool,
    /// None while it is being placed.
    pub(super) leaf: Option<Arc<Leaf>>,
}

/// Copies what somebody may see: all of it where nobody is named.
pub(super) fn entries(table: &Table, peer: Option<Peer>, backend: &Backend) -> Vec<Entry> {
    let reaches = |session: &Session| peer.is_none_or(|peer| peer.reaches(session.uid, session.realm()));
    let visible = table.sessions.iter().filter(|(_, session)| reaches(session));
    visible.map(|(key, session)| entry(table, key, session, backend)).collect()
}

fn entry(table: &Table, key: &SessionKey, session: &Session, backend: &Backend) -> Entry {
    let below = session.machines.iter().find(|machine| backend.directories().is_below(machine));
    let directory = below.map_or_else(|| backend.session_directory(key), |machine| machine.child(key.as_str()).v2);
    let servers = session.servers.iter().filter_map(|number| Some((*number, table.servers.get(number)?)));
    let facts = |(number, server): (u64, &Server)| Facts {
        view: known(server, &directory),
        leader: server.leader,
        leads_on: server.leader_pidfd.is_none() || table.leads_on(number),
        leaf: server.leaf.clone(),
    };
    Entry {
        key: key.clone(),
        id: session.id.clone(),
        uid: session.uid,
        host: session.host.clone(),
        backend: backend.word(),
        cgroup: directory.display().to_string(),
        is_below: below.is_some(),
        expires: session.expires,
        servers: servers.map(facts).collect(),
    }
}

/// All but what only the kernel can tell.
fn known(server: &Server, session: &Path) -> ServerView {
    ServerView {
        name: server.name.clone(),
        leaf: server.leaf_name.as_str().to_owned(),
        state: if server.is_parked() { "parked" } else { server.state.word() }.to_owned(),
        leader_pid: server.leader.pid,
        owner_pid: server.owner.pid,
        processes: 0,
        cgroup: session.join(server.leaf_name.as_str()).display().to_string(),
        argv: server.argv.clone(),
        labels: server.labels.clone(),
        generation: server.generation,
        started_at: server.started_at,
        memory: MemoryView::default(),
        activity: ActivityView::default(),
        pressure: PressureView::default(),
        pids_refusals: 0,
        stdin: if server.stdin.is_some() { StdinWatch::Watched } else { StdinWatch::Unwatched },
        escaped: server.escaped,
        escaped_pids: Vec::new(),
        confine: server.confine,
        parked_at: server.nap.since.map(|(at, _)| at),
        // What it held then; it is less what it holds once that is read.
        reclaimed_bytes: server.nap.before,
        container: server.container.map(|place| container(place, server)),
        warnings: server.warnings.clone(),
    }
}

fn container(place: ContainerPlace, server: &Server) -> ContainerView {
    let outside = match place {
        ContainerPlace::Inside => None,
        ContainerPlace::Outside { why } => Some(why),
    };
    let first = server.monitored.iter().flatten();
    ContainerView {
        outside,
        removed: server.remover.is_some(),
        monitored: server.monitored.is_some(),
        outside_pids: first.filter(|first| first.lives()).map(|first| first.id.pid).collect(),
        ..ContainerView::default()
    }
}

/// Adds what the kernel shows of the containers in a leaf.
fn look_at_containers(view: &mut ContainerView, leaf: &Leaf) {
    let Some(containers) = leaf.containers() else { return };
    view.parent = Some(containers.path().display().to_string());
    view.processes = containers.all_processes().map(|pids| pids.len() as u32).unwrap_or(0);
    view.cgroups = containers.children().unwrap_or_default();
    view.cgroups.sort_unstable();
    view.cgroups.truncate(CONTAINERS_MAX);
}

/// Reads what the kernel tells of a session. Blocks.
pub(super) fn view(entry: Entry) -> SessionView {
    read(entry).0
}

/// The same, and of each server how many forks its limit refused, as far as the kernel tells. Each file is read once.
pub(super) fn read(entry: Entry) -> (SessionView, Vec<Option<u64>>) {
    let mut memory = MemoryView::default();
    let (mut activity, mut pressure) = (ActivityView::default(), PressureView::default());
    let mut read: Vec<Arc<Group>> = Vec::new();
    let mut servers = Vec::with_capacity(entry.servers.len());
    let mut refusals = Vec::with_capacity(entry.servers.len());
    for Facts { view: mut server, leader, leads_on, leaf } in entry.servers {
        let mut refused = None;
        if let Some(leaf) = leaf {
            server.cgroup = leaf.group().v2().path().display().to_string();
            let pids = leaf.processes().unwrap_or_default();
            server.processes = pids.len() as u32;
            server.memory = leaf.memory();
            server.reclaimed_bytes =
                server.reclaimed_bytes.zip(server.memory.current_bytes).map(|(before, now)| before.less(now));
            server.activity = leaf.group().activity();
            server.pressure = leaf.group().pressure();
            // While others are in the leaf, no event tells that its first process has left.
            if !leads_on && !pids.contains(&leader.pid) && is_outside(leader, &leaf) {
                server.escaped = true;
                server.escaped_pids.push(leader.pid);
            }
            refused = leaf.group().pids_limit_hits();
            server.pids_refusals = refused.unwrap_or(0);
            if let Some(view) = &mut server.container {
                look_at_containers(view, &leaf);
            }
            let session = leaf.session();
            if read.is_empty() {
                memory = session.memory();
                (activity, pressure) = (session.activity(), session.pressure());
                read.push(session.clone());
            } else if session.has_memory_companion() && !read.iter().any(|other| other.is(session)) {
                memory = wider(memory, session.memory());
                read.push(session.clone());
            }
        }
        refusals.push(refused);
        servers.push(server);
    }
    let ending = !servers.is_empty()
        && servers.iter().all(|server| !matches!(server.state.as_str(), "placing" | "running" | "parked"));
    let view = SessionView {
        id: entry.id,
        key: entry.key.as_str().to_owned(),
        host: entry.host,
        uid: entry.uid,
        owner_pid: servers.first().map(|server| server.owner_pid),
        generation: servers.iter().map(|server| server.generation).max().unwrap_or(0),
        state: if ending { "ending" } else { "running" }.to_owned(),
        backend: entry.backend.to_owned(),
        cgroup: entry.cgroup,
        ttl: entry.expires.map(|expiry| expiry.ttl),
        expires_at: entry.expires.map(|expiry| humantime::format_rfc3339_seconds(moment(expiry)).to_string()),
        processes: servers.iter().map(|server| server.processes).sum(),
        memory,
        activity,
        pressure,
        servers,
    };
    (view, refusals)
}

impl Entry {
    /// Whose processes are to be looked for outside its leaves.
    pub(super) fn wanted(&self) -> Wanted {
        let servers = self.servers.iter().map(|server| (server.view.leaf.clone(), server.leader)).collect();
        Wanted { session: self.id.clone(), key: self.key.clone(), uid: self.uid, servers }
    }
}

/// Adds what was found outside a session's leaves.
pub(super) fn add_escapees(session: &mut SessionView, found: &Found) {
    for (leaf, pid) in &found.processes {
        let server = session.servers.iter_mut().find(|server| server.leaf == *leaf);
        if let Some(server) = server.filter(|server| !server.escaped_pids.contains(pid)) {
            server.escaped_pids.push(*pid);
        }
    }
}

/// What is outside its leaf of each server of a session.
pub(super) fn escapees(session: &SessionView) -> Vec<(u64, Escapees)> {
    let outside = session.servers.iter().filter(|server| !server.escaped_pids.is_empty());
    let told = outside.filter_map(|server| {
        let number = LeafName::parse(&server.leaf).ok()?.launch();
        let leader = server.escaped_pids.contains(&server.leader_pid);
        Some((number, Escapees { leader, pids: server.escaped_pids.clone() }))
    });
    told.collect()
}

/// The moment on the clock as it stands now.
fn moment(Expiry { at, .. }: Expiry) -> SystemTime {
    let (wall, boot) = (SystemTime::now(), process::since_boot());
    if at >= boot { wall + (at - boot) } else { wall - (boot - at) }
}

/// Whether a first process that lives is in another cgroup than its leaf.
pub(super) fn is_outside(leader: ProcessId, leaf: &Leaf) -> bool {
    let outside = Membership::of(leader.pid).is_ok_and(|place| !leaf.holds(&place));
    // What was read is about the leader if the number is still its own afterwards.
    outside && process::identify(leader.pid).is_ok_and(|id| id == leader)
}

/// On a hybrid machine the callers of one session may stand in several v1 cgroups: what counts is the fullest.
pub(super) fn wider(one: MemoryView, other: MemoryView) -> MemoryView {
    let most = |one: Option<Bytes>, other: Option<Bytes>| one.max(other);
    MemoryView {
        rss_bytes: most(one.rss_bytes, other.rss_bytes),
        working_set_bytes: most(one.working_set_bytes, other.working_set_bytes),
        current_bytes: most(one.current_bytes, other.current_bytes),
        anon_bytes: most(one.anon_bytes, other.anon_bytes),
        file_bytes: most(one.file_bytes, other.file_bytes),
        shmem_bytes: most(one.shmem_bytes, other.shmem_bytes),
        kernel_bytes: most(one.kernel_bytes, other.kernel_bytes),
        swap_bytes: most(one.swap_bytes, other.swap_bytes),
        peak_bytes: most(one.peak_bytes, other.peak_bytes),
        max_bytes: most(one.max_bytes, other.max_bytes),
    }
}
