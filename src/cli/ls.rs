//! `pinfold ls`.

use super::{DONE, args, failed, text};
use crate::client::{self, ClientError, Other};
use crate::limits::Bytes;
use crate::session::Name;
use crate::snapshot::{ServerView, SessionView};
use crate::wire::{Call, ListReply};

pub(super) fn ls(ls: &args::Ls) -> u8 {
    let Listed { sessions, other } = match list(&ls.socket) {
        Ok(listed) => listed,
        Err(error) => return failed(&error),
    };
    if let Some(other) = other {
        eprintln!("pinfold: {}", not_shown(&other));
    }
    if ls.json {
        text::print_json(&sessions);
    } else if sessions.is_empty() {
        text::print("no sessions\n");
    } else {
        text::print(&table(&sessions));
    }
    DONE
}

/// What one daemon tells.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) sessions: Vec<SessionView>,
    /// A daemon that was not asked.
    pub(super) other: Option<Other>,
}

/// The sessions; none where no daemon runs, since nothing is contained then.
pub(super) fn list(socket: &args::Socket) -> Result<Listed, ClientError> {
    match client::find(socket.socket.as_deref()) {
        Err(ClientError::NoDaemon(_)) if socket.socket.is_none() => Ok(Listed::default()),
        Err(error) => Err(error),
        Ok(mut client) => {
            let sessions = client.call::<ListReply>(&Call::List, &[], client::VIEW_MAX)?.sessions;
            Ok(Listed { sessions, other: client.other().cloned() })
        }
    }
}

/// That there is more than was looked at.
pub(super) fn not_shown(other: &Other) -> String {
    let socket = other.socket().display();
    match other {
        Other::NotPermitted(_) => {
            let way_in = client::way_in();
            format!("sessions of the daemon at {socket} are not shown: it is not for this user ({way_in})")
        }
        Other::Own(_) => {
            format!("sessions of the daemon at {socket} are not shown: see `pinfold ls --socket {socket}`")
        }
    }
}

fn table(sessions: &[SessionView]) -> String {
    let mut rows = Vec::new();
    for session in sessions {
        for server in &session.servers {
            rows.push(vec![
                session.id.to_string(),
                called(&server.name, &server.leaf, session.servers.iter().map(|server| &server.name)).to_owned(),
                state(server),
                server.leader_pid.to_string(),
                server.processes.to_string(),
                amount(server.memory.rss_bytes),
                amount(server.memory.max_bytes),
                session.host.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            ]);
        }
    }
    text::columns(&["SESSION", "SERVER", "STATE", "PID", "PROCS", "RSS", "LIMIT", "HOST"], &rows)
}

/// Where it is in its life; and where its first process stands, if that is not in its leaf.
fn state(server: &ServerView) -> String {
    match (server.escaped, server.state.as_str()) {
        (false, state) => state.to_owned(),
        (true, "running") => "ESCAPED".to_owned(),
        (true, state) => format!("{state}, ESCAPED"),
    }
}

/// What a server is called beside these, itself among them: by its leaf where more than one of them have its name.
pub(super) fn called<'a>(name: &'a Name, leaf: &'a str, beside: impl Iterator<Item = &'a Name>) -> &'a str {
    if beside.filter(|other| *other == name).count() > 1 { leaf } else { name.as_str() }
}

/// An amount, or a dash where nothing is known or nothing is limited.
pub(super) fn amount(bytes: Option<Bytes>) -> String {
    bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string())
}
