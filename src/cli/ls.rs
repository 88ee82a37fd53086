//! `pinfold ls`.

use super::{DONE, args, failed, text};
use crate::client::{self, ClientError};
use crate::limits::Bytes;
use crate::snapshot::SessionView;
use crate::wire::{Call, ListReply};

pub(super) fn ls(ls: &args::Ls) -> u8 {
    let sessions = match list(&ls.socket) {
        Ok(sessions) => sessions,
        Err(error) => return failed(&error),
    };
    if ls.json {
        text::print_json(&sessions);
    } else if sessions.is_empty() {
        text::print("no sessions\n");
    } else {
        text::print(&table(&sessions));
    }
    DONE
}

/// The sessions; none where no daemon runs, since nothing is contained then.
pub(super) fn list(socket: &args::Socket) -> Result<Vec<SessionView>, ClientError> {
    match client::find(socket.socket.as_deref()) {
        Err(ClientError::NoDaemon(_)) if socket.socket.is_none() => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(mut client) => Ok(client.call::<ListReply>(&Call::List, &[], client::VIEW_MAX)?.sessions),
    }
}

fn table(sessions: &[SessionView]) -> String {
    let mut rows = Vec::new();
    for session in sessions {
        for server in &session.servers {
            rows.push(vec![
                session.id.to_string(),
                server.name.to_string(),
                server.state.clone(),
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

/// An amount, or a dash where nothing is known or nothing is limited.
pub(super) fn amount(bytes: Option<Bytes>) -> String {
    bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string())
}
