//! `pinfold park` and `pinfold thaw`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::progress::Progress;
use super::{DONE, NO, USAGE, args, failed, nearest, text};
use crate::client::{self, Client, ClientError};
use crate::daemon;
use crate::limits::Bytes;
use crate::session::{Name, SessionId};
use crate::wire::{Call, NotParked, ParkReply, Rested, ThawReply, Whose};

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
        let whose =
            all.parked.iter().map(|parked| &parked.whose).chain(all.refused.iter().map(|refused| &refused.whose));
        let names = Names::of(whose, &park.servers);
        if asked == DONE || !all.parked.is_empty() {
            text::print(&parked(&all, &names));
        }
        eprint!("{}", refused(&all.refused, &names));
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
        let names = Names::of(all.thawed.iter().chain(&all.awake), &thaw.servers);
        let line = |whose: &Whose, how| format!("{}: {how}\n", names.called(whose));
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

/// What servers are called, so that it can be given to the next command: by the leaf where that was asked for, or where one
/// session has two of a name.
struct Names<'a> {
    twice: BTreeSet<(&'a SessionId, &'a Name)>,
    asked: &'a [String],
}

impl<'a> Names<'a> {
    fn of(servers: impl Iterator<Item = &'a Whose>, asked: &'a [String]) -> Self {
        let mut seen = BTreeSet::new();
        let twice = servers.map(|one| (&one.session, &one.server)).filter(|name| !seen.insert(*name)).collect();
        Self { twice, asked }
    }

    fn called(&self, whose: &Whose) -> String {
        let by_leaf = format!("{}/{}", whose.session, whose.leaf);
        let is_twice = self.twice.contains(&(&whose.session, &whose.server));
        if is_twice || self.asked.contains(&by_leaf) { by_leaf } else { format!("{}/{}", whose.session, whose.server) }
    }
}

fn parked(reply: &ParkReply, names: &Names<'_>) -> String {
    let mut lines = String::new();
    for parked in &reply.parked {
        let name = names.called(&parked.whose);
        let (before, after) = (parked.before_bytes, parked.after_bytes);
        let figures = if parked.was_parked {
            format!("was parked, holds {after}")
        } else {
            format!("parked, {before} → {after}")
        };
        let swap =
            if parked.swap_bytes == Bytes(0) { String::new() } else { format!(", {} in swap", parked.swap_bytes) };
        let rest = if parked.postponed {
            "; this machine is short of something, and more is given back when it is not"
        } else {
            ""
        };
        lines.push_str(&format!("{name}: {figures}{swap}{rest}\n"));
    }
    let new: Vec<_> = reply.parked.iter().filter(|parked| !parked.was_parked).collect();
    if new.len() > 1 {
        let back: u64 = new.iter().map(|parked| parked.before_bytes.less(parked.after_bytes).0).sum();
        lines.push_str(&format!("{} servers: {} given back\n", new.len(), Bytes(back)));
    }
    if reply.parked.is_empty() && reply.refused.is_empty() {
        lines.push_str("nothing to park\n");
    }
    lines
}

/// One line for each reason, however many servers it is true of.
fn refused(refused: &[NotParked], names: &Names<'_>) -> String {
    const NAMED_MAX: usize = 5;
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for one in refused {
        let name = names.called(&one.whose);
        match reasons.iter_mut().find(|(reason, _)| *reason == one.reason) {
            Some((_, of)) => of.push(name),
            None => reasons.push((&one.reason, vec![name])),
        }
    }
    let line = |(reason, of): (&str, Vec<String>)| {
        let is = if of.len() == 1 { "is" } else { "are" };
        let more = of.len().saturating_sub(NAMED_MAX);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("pinfold: {}{more} {is} not parked: {reason}\n", of[..of.len().min(NAMED_MAX)].join(", "))
    };
    reasons.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Parked;

    fn whose(session: &str, server: &str, leaf: &str) -> Whose {
        let session = SessionId::parse(session).unwrap();
        Whose { session, server: Name::parse(server).unwrap(), leaf: leaf.to_owned() }
    }

    #[test]
    fn a_server_is_called_what_the_next_command_takes() {
        let servers =
            [whose("s", "fs", "fs.1"), whose("s", "git", "git.2"), whose("t", "fs", "fs.3"), whose("t", "fs", "fs.4")];
        let asked = ["s/git.2".to_owned()];
        let names = Names::of(servers.iter(), &asked);
        let called: Vec<_> = servers.iter().map(|whose| names.called(whose)).collect();
        assert_eq!(called, ["s/fs", "s/git.2", "t/fs.3", "t/fs.4"]);
    }

    #[test]
    fn what_was_parked_before_is_not_given_back_again() {
        let bytes = |before: u64, after: u64| (Bytes(before << 20), Bytes(after << 20), Bytes(0));
        let one = Parked::new(whose("s", "fs", "fs.1"), bytes(30, 2));
        let again = Parked { was_parked: true, ..Parked::new(whose("s", "git", "git.2"), bytes(30, 3)) };
        let short = Parked { postponed: true, ..Parked::new(whose("t", "fs", "fs.3"), bytes(30, 20)) };
        let told =
            parked(&ParkReply { parked: vec![one, again, short], refused: Vec::new() }, &Names::of([].iter(), &[]));
        assert_eq!(
            told,
            "s/fs: parked, 30M → 2M\ns/git: was parked, holds 3M\nt/fs: parked, 30M → 20M; this machine is short of \
             something, and more is given back when it is not\n2 servers: 38M given back\n"
        );
    }

    #[test]
    fn a_reason_that_is_true_of_many_is_told_once() {
        let not = |session: u32, why: &str| NotParked::new(whose(&format!("s{session}"), "fs", "fs.1"), why.to_owned());
        let many: Vec<_> =
            (0..7).map(|session| not(session, "no swap")).chain([not(9, "it is doing something")]).collect();
        assert_eq!(
            refused(&many, &Names::of([].iter(), &[])),
            "pinfold: s0/fs, s1/fs, s2/fs, s3/fs, s4/fs and 2 more are not parked: no swap\n\
             pinfold: s9/fs is not parked: it is doing something\n"
        );
    }
}
