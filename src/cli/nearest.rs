//! What was meant by a name that nothing has.

use crate::client::{self, Client};
use crate::session::SessionId;
use crate::snapshot::SessionView;
use crate::wire::{Call, ListReply};

/// How many names are offered.
const OFFERED_MAX: usize = 3;

/// The sessions that a daemon shows to whoever asks; none where it does not answer, since this is for a hint only.
pub(super) fn sessions(client: &mut Client) -> Vec<SessionView> {
    let listed = client.call::<ListReply>(&Call::List, &[], client::VIEW_MAX);
    listed.map(|listed| listed.sessions).unwrap_or_default()
}

/// That no session has this id, with those that may have been meant.
pub(super) fn no_session(id: &SessionId, sessions: &[SessionView]) -> String {
    let has = |session: &SessionView, server: &str| session.servers.iter().any(|one| one.name.as_str() == server);
    if let Some((of, server)) = id.as_str().rsplit_once('/')
        && sessions.iter().any(|session| session.id.as_str() == of && has(session, server))
    {
        return format!(
            "no session is called {id:?}: that is a server of session {of:?}, which `end` takes as --server {id}, and `status` \
             shows with its session",
            id = id.as_str()
        );
    }
    let offered = offer(id.as_str(), sessions.iter().map(|session| session.id.as_str()));
    format!("no session is called {:?}; {offered}`pinfold ls` lists those that live", id.as_str())
}

/// That a session has no server of this name, or is not there itself.
pub(super) fn no_server(id: &SessionId, server: &str, sessions: &[SessionView]) -> String {
    let mut of_it = sessions.iter().filter(|session| session.id == *id).peekable();
    if of_it.peek().is_none() {
        return no_session(id, sessions);
    }
    let offered = offer(server, of_it.flat_map(|session| &session.servers).map(|server| server.name.as_str()));
    format!("session {:?} has no server {server:?}; {offered}`pinfold ls` lists those that live", id.as_str())
}

/// The names that are like this one, the most alike first, as a question.
fn offer<'a>(name: &str, living: impl Iterator<Item = &'a str>) -> String {
    let wanted = name.to_lowercase();
    let distance = |living: &str| {
        let living = living.to_lowercase();
        let distance = strsim::damerau_levenshtein(&wanted, &living);
        let begins = wanted.len() >= 3 && (living.starts_with(&wanted) || wanted.starts_with(&living));
        (begins || distance <= (wanted.chars().count() / 3).max(1)).then_some(distance)
    };
    let mut near: Vec<(usize, &str)> = living.filter_map(|living| Some((distance(living)?, living))).collect();
    near.sort_unstable();
    near.dedup();
    let near: Vec<String> = near.into_iter().take(OFFERED_MAX).map(|(_, name)| format!("{name:?}")).collect();
    if near.is_empty() { String::new() } else { format!("did you mean {}? ", near.join(" or ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_alike_are_offered_the_most_alike_first_and_others_are_not() {
        let living = ["demo", "demos", "release", "agent:main:telegram:42", "Demo"];
        let offered = |name| offer(name, living.into_iter());
        assert_eq!(offered("dmeo"), "did you mean \"Demo\" or \"demo\"? ");
        assert_eq!(offered("agent:main"), "did you mean \"agent:main:telegram:42\"? ");
        assert_eq!(offered("relaese"), "did you mean \"release\"? ");
        assert_eq!(offered("x"), "");
    }
}
