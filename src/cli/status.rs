//! `pinfold status`.

use super::{DONE, NO, args, failed, ls, nearest, text};
use crate::client::{self, ClientError, Other};
use crate::confine::Confine;
use crate::limits::Bytes;
use crate::session::SessionId;
use crate::snapshot::{ContainerView, SessionView};
use crate::wire::{Call, Fault, Located, StatusReply};

pub(super) fn status(status: &args::Status) -> u8 {
    match status.pid {
        Some(pid) => of_process(status, pid),
        None => status.session.as_ref().map_or(NO, |id| of_session(status, id)),
    }
}

fn of_process(status: &args::Status, pid: i32) -> u8 {
    let mut other = None;
    let located = client::find(status.socket.socket.as_deref()).and_then(|mut client| {
        other = client.other().cloned();
        client.call::<Located>(&Call::Locate(pid), &[], client::VIEW_MAX)
    });
    match located {
        Ok(located) if status.json => text::print_json(&located),
        Ok(located) => {
            let server = located.session.servers.iter().find(|server| server.leaf == located.leaf);
            let names = located.session.servers.iter().map(|server| &server.name);
            let name = server.map_or(located.leaf.as_str(), |server| ls::called(&server.name, &server.leaf, names));
            text::print(&format!("process {pid} belongs to server {name} of session {}\n\n", located.session.id));
            text::print(&page(&located.session));
        }
        Err(ClientError::Fault(Fault::NotContained(_)) | ClientError::NoDaemon(_)) => {
            eprintln!("pinfold: {}", holds_none(pid));
            tell_not_shown(other);
            return NO;
        }
        Err(error) => return failed(&error),
    }
    DONE
}

/// That a process is in no session; or that there is none.
pub(super) fn holds_none(pid: i32) -> String {
    let answer = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
    // What is not above zero is a process group to kill(2).
    if pid <= 0 || answer == Err(nix::errno::Errno::ESRCH) {
        format!("there is no process {pid}")
    } else {
        format!("no session of yours holds process {pid}")
    }
}

fn of_session(status: &args::Status, id: &SessionId) -> u8 {
    let mut other = None;
    let mut living = Vec::new();
    let asked = client::find(status.socket.socket.as_deref()).and_then(|mut client| {
        other = client.other().cloned();
        let reply = client.call::<StatusReply>(&Call::Status(id.clone()), &[], client::VIEW_MAX)?;
        if reply.sessions.is_empty() {
            living = nearest::sessions(&mut client);
        }
        Ok(reply)
    });
    let StatusReply { sessions: found, complete } = match asked {
        Ok(reply) => reply,
        // No daemon, no sessions.
        Err(ClientError::NoDaemon(_)) if status.socket.socket.is_none() => {
            StatusReply { sessions: Vec::new(), complete: true }
        }
        Err(error) => return failed(&error),
    };
    if found.is_empty() {
        eprintln!("pinfold: {}", nearest::no_session(id, &living));
        tell_not_shown(other);
        return NO;
    }
    if !complete {
        eprintln!("pinfold: not all processes of this machine could be looked at in time: more may have escaped");
    }
    if status.json {
        text::print_json(&found);
    } else {
        text::print(&found.iter().map(page).collect::<Vec<_>>().join("\n"));
    }
    DONE
}

/// What was not found may be another daemon's.
fn tell_not_shown(other: Option<Other>) {
    if let Some(other) = other {
        eprintln!("pinfold: {}", ls::not_shown(&other));
    }
}

/// What the kernel shows of a server's container.
fn of_container(container: &ContainerView) -> String {
    match (container.outside, &container.parent) {
        (Some(why), _) if container.monitored => {
            let pids: Vec<String> = container.outside_pids.iter().map(|pid| format!(", first process {pid}")).collect();
            let pids = pids.concat();
            format!("container: OUTSIDE the session, under no limit of it; it ends with its server{pids}: {why}")
        }
        (Some(why), _) if container.removed => {
            format!("container: OUTSIDE the session, under no limit of it; its engine removes it at the end: {why}")
        }
        (Some(why), _) => format!("container: OUTSIDE the session, under no limit and no end of it: {why}"),
        (None, _) if !container.cgroups.is_empty() => {
            let of = if container.processes == 1 { "process" } else { "processes" };
            format!("container: {}, {} {of}, in its session", container.cgroups.join(", "), container.processes)
        }
        (None, Some(parent)) => format!("container: none in {parent}, where its engine was told to make it"),
        (None, None) => "container: not made yet".to_owned(),
    }
}

fn page(session: &SessionView) -> String {
    let host = session.host.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let owner = session.owner_pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let memory = &session.memory;
    let mut page = format!(
        "{} ({})\n    Host: {host}, owned by process {owner}, uid {}\n  CGroup: {} ({})\n  Memory: {} RSS, {} now, {} at most, limit {}\n   Procs: {}\n     Run: generation {}\n",
        session.id,
        session.state,
        session.uid,
        session.cgroup,
        session.backend,
        ls::amount(memory.rss_bytes),
        ls::amount(memory.current_bytes),
        ls::amount(memory.peak_bytes),
        ls::amount(memory.max_bytes),
        session.processes,
        session.generation,
    );
    if let (Some(ttl), Some(at)) = (&session.ttl, &session.expires_at) {
        page.push_str(&format!(" Expires: {at}, {ttl} after its first launch\n"));
    }
    for server in &session.servers {
        page.push_str(&format!(
            "\n  {} ({}), process {}, since {}\n    {}\n    processes: {}; memory: {} RSS, {} at most, limit {}; stdin {}{}{}\n",
            ls::called(&server.name, &server.leaf, session.servers.iter().map(|server| &server.name)),
            server.state,
            server.leader_pid,
            server.started_at,
            server.argv,
            server.processes,
            ls::amount(server.memory.rss_bytes),
            ls::amount(server.memory.peak_bytes),
            ls::amount(server.memory.max_bytes),
            if server.stdin == crate::snapshot::StdinWatch::Watched { "watched" } else { "unwatched" },
            match server.confine {
                Confine::No => "",
                Confine::Yes => "; confined",
                Confine::Strict => "; confined, without capabilities",
            },
            if server.escaped { "; ESCAPED: its first process has left the leaf" } else { "" },
        ));
        if let Some(container) = &server.container {
            page.push_str(&format!("    {}\n", of_container(container)));
        }
        if let Some(reclaimed) = server.reclaimed_bytes.filter(|reclaimed| *reclaimed > Bytes(0)) {
            let since = server.parked_at.map_or_else(String::new, |at| format!("parked since {at}: "));
            page.push_str(&format!("    {since}of its memory {reclaimed} are given back\n"));
        }
        if !server.labels.is_empty() {
            page.push_str(&format!("    labels: {}\n", server.labels));
        }
        if server.generation != session.generation {
            page.push_str(&format!("    of generation {}\n", server.generation));
        }
        let others = server.escaped_pids.iter().filter(|pid| **pid != server.leader_pid);
        let others: Vec<String> = others.map(ToString::to_string).collect();
        if !others.is_empty() {
            let others = others.join(", ");
            page.push_str(&format!("    ESCAPED: in no leaf although they carry its marks: {others}\n"));
        }
        if server.pids_refusals > 0 {
            page.push_str(&format!("    its process limit refused {} forks\n", server.pids_refusals));
        }
        for warning in &server.warnings {
            page.push_str(&format!("    warning: {warning}\n"));
        }
    }
    page
}
