//! `pinfold park` and `pinfold thaw`.

use std::time::Duration;

use super::progress::Progress;
use super::{DONE, NO, USAGE, args, failed, nearest, text};
use crate::client::{self, Client, ClientError};
use crate::daemon;
use crate::limits::Bytes;
use crate::session::SessionId;
use crate::wire::{Call, ParkReply, Rested, ThawReply, Whose};

/// The longest that we wait for the daemon, which has deadlines of its own.
const WAIT_MAX: Duration = Duration::from_secs(150);

pub(super) fn park(park: &args::Park) -> u8 {
    let mut all = ParkReply::default();
    let progress = Progress::start("waiting for memory to be given back");
    let asked = ask(&park.servers, park.all, &park.socket, |client, wish| {
        let reply: ParkReply = client.call(&Call::Park(wish), &[], WAIT_MAX)?;
        let found = !(reply.parked.is_empty() && reply.refused.is_empty());
        all.parked.extend(reply.parked);
        all.refused.extend(reply.refused);
        Ok(found)
    });
    drop(progress);
    if park.json {
        text::print_json(&all);
    } else {
        // Where a name was wrong that is said, and not that there is nothing.
        if asked == DONE || !all.parked.is_empty() {
            text::print(&parked(&all));
        }
        for refused in &all.refused {
            eprintln!("pinfold: {} is not parked: {}", called(&refused.whose), refused.reason);
        }
    }
    if all.refused.is_empty() { asked } else { asked.max(NO) }
}

pub(super) fn thaw(thaw: &args::Thaw) -> u8 {
    if thaw.left {
        return thaw_left(thaw);
    }
    let mut all = ThawReply::default();
    let asked = ask(&thaw.servers, thaw.all, &thaw.socket, |client, wish| {
        let reply: ThawReply = client.call(&Call::Thaw(wish), &[], WAIT_MAX)?;
        let found = !(reply.thawed.is_empty() && reply.awake.is_empty());
        all.thawed.extend(reply.thawed);
        all.awake.extend(reply.awake);
        Ok(found)
    });
    if thaw.json {
        text::print_json(&all);
    } else {
        let line = |whose: &Whose, how| format!("{}: {how}\n", called(whose));
        let lines = all.thawed.iter().map(|whose| line(whose, "goes on"));
        text::print(&lines.chain(all.awake.iter().map(|whose| line(whose, "was awake"))).collect::<String>());
    }
    asked
}

fn thaw_left(thaw: &args::Thaw) -> u8 {
    let socket = match thaw.socket.socket.clone().map_or_else(client::user_socket, Ok) {
        Ok(socket) => socket,
        Err(error) => return failed(&error),
    };
    match daemon::thaw_left(&socket) {
        Ok(count) if thaw.json => {
            text::print_json(&serde_json::json!({ "thawed": count }));
            DONE
        }
        Ok(0) => DONE,
        Ok(count) => {
            text::print(&format!(
                "{count} server{} that a daemon had left frozen\n",
                if count == 1 { "" } else { "s" }
            ));
            DONE
        }
        Err(error) => failed(&error),
    }
}

/// Asks for each of what was named; `each` tells whether there was anything of the kind.
fn ask(
    servers: &[String],
    all: bool,
    socket: &args::Socket,
    mut each: impl FnMut(&mut Client, Rested) -> Result<bool, ClientError>,
) -> u8 {
    let mut client = match client::find(socket.socket.as_deref()) {
        Ok(client) => client,
        // No daemon, no sessions.
        Err(ClientError::NoDaemon(_)) if socket.socket.is_none() && all => return DONE,
        Err(error) => return failed(&error),
    };
    if all {
        return each(&mut client, Rested { all, ..Rested::default() }).map_or_else(|error| failed(&error), |_| DONE);
    }
    let mut status = DONE;
    for word in servers {
        match one(word, &mut client, &mut each) {
            Ok(found) => status = status.max(found),
            Err(error) => return failed(&error),
        }
    }
    status
}

/// A session, or a server of one: the id of a session may hold slashes, the name of a server does not, and what is a session is
/// taken for that.
fn one(
    word: &str,
    client: &mut Client,
    each: &mut impl FnMut(&mut Client, Rested) -> Result<bool, ClientError>,
) -> Result<u8, ClientError> {
    let whole = match SessionId::parse(word) {
        Ok(id) => id,
        Err(error) => {
            eprintln!("pinfold: {word:?}: {error}");
            return Ok(USAGE);
        }
    };
    if each(client, Rested { session: Some(whole.clone()), ..Rested::default() })? {
        return Ok(DONE);
    }
    let part = word.rsplit_once('/').and_then(|(id, server)| Some((SessionId::parse(id).ok()?, server.to_owned())));
    let missed = match part {
        Some((id, server)) => {
            let wish = Rested { session: Some(id.clone()), server: Some(server.clone()), ..Rested::default() };
            if each(client, wish)? {
                return Ok(DONE);
            }
            let sessions = nearest::sessions(client);
            // Where there is not even the session, all of it may have been meant for one.
            let is_there = sessions.iter().any(|session| session.id == id);
            if is_there { nearest::no_server(&id, &server, &sessions) } else { nearest::no_session(&whole, &sessions) }
        }
        None => nearest::no_session(&whole, &nearest::sessions(client)),
    };
    eprintln!("pinfold: {missed}");
    Ok(NO)
}

fn called(whose: &Whose) -> String {
    format!("{} / {}", whose.session, whose.leaf)
}

fn parked(reply: &ParkReply) -> String {
    let mut lines = String::new();
    for parked in &reply.parked {
        let swap =
            if parked.swap_bytes == Bytes(0) { String::new() } else { format!(", {} in swap", parked.swap_bytes) };
        let (before, after) = (parked.before_bytes, parked.after_bytes);
        lines.push_str(&format!("{}: parked, {before} → {after}{swap}\n", called(&parked.whose)));
    }
    if reply.parked.len() > 1 {
        let back: u64 = reply.parked.iter().map(|parked| parked.before_bytes.less(parked.after_bytes).0).sum();
        lines.push_str(&format!("{} servers: {} given back\n", reply.parked.len(), Bytes(back)));
    }
    if reply.parked.is_empty() && reply.refused.is_empty() {
        lines.push_str("nothing to park\n");
    }
    lines
}
