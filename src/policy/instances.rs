//! Which launches are launches of the same server, and which of its instances go where there are too many.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::Refusal;
use crate::argv::CommandDigest;
use crate::session::{Name, NamedBy, SessionId};

/// A launch, as far as it tells which server it launches.
#[derive(Debug, Clone, Copy)]
pub struct Likeness<'a> {
    /// The server's name.
    pub name: &'a Name,
    /// Whether that was given (`--server`), or only taken from its command line.
    pub named: bool,
    /// Its command and the directory that it is run in, where that is known.
    pub command: Option<CommandDigest>,
}

impl Likeness<'_> {
    /// Whether both launch the same server. Where both were given a name, that decides: two names for one command are
    /// somebody's way to say that they are two servers (of two accounts, which only their environment tells apart).
    pub fn is_same(&self, other: &Likeness<'_>) -> bool {
        if self.named && other.named {
            return self.name == other.name;
        }
        self.command.is_some() && self.command == other.command
    }
}

/// Whether a server of this session can have instances too many. Who launches into a session that nobody named shares
/// nothing with whoever launches the next: each of these is a session of its own.
pub fn counts_instances(named_by: NamedBy) -> bool {
    match named_by {
        NamedBy::Host | NamedBy::Owner => true,
        NamedBy::Connection | NamedBy::Nested => false,
    }
}

/// Of the instances that live, the oldest, which are beyond the limit. They are given and told by the numbers of their
/// launches.
pub fn oldest_beyond(max: u32, mut living: Vec<u64>) -> Vec<u64> {
    living.sort_unstable();
    let kept = usize::try_from(max).unwrap_or(usize::MAX);
    living.truncate(living.len().saturating_sub(kept));
    living
}

/// Why no further instance is launched.
pub fn too_many_instances(server: &Name, session: &SessionId, living: usize, max: u32) -> Refusal {
    let runs = if living == 1 { "runs once".to_owned() } else { format!("runs {living} times") };
    Refusal::new(
        format!("server {server} {runs} in session {session} already, and its instances_max allows {max}"),
        format!(
            "end the one that is there (pinfold end --server {session}/{server}), raise instances_max, or write \
             on_excess = \"replace\" in the configuration"
        ),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_given_name_decides_and_else_the_command() {
        let (fs, git) = (Name::parse("fs").unwrap(), Name::parse("git").unwrap());
        let command = |text: &str| Some(CommandDigest::of([text.as_bytes()], b"/"));
        let like = |name, named, command| Likeness { name, named, command };
        for (one, other, same) in [
            (like(&fs, true, command("a")), like(&fs, true, command("b")), true),
            (like(&fs, true, command("a")), like(&git, true, command("a")), false),
            (like(&fs, true, command("a")), like(&git, false, command("a")), true),
            (like(&fs, true, command("a")), like(&fs, false, command("b")), false),
            (like(&fs, false, command("a")), like(&git, false, command("a")), true),
            // A name that was taken from a command line says nothing: `node a.js` and `node b.js`.
            (like(&fs, false, command("a")), like(&fs, false, command("b")), false),
            (like(&fs, false, None), like(&fs, false, None), false),
        ] {
            assert_eq!((one.is_same(&other), other.is_same(&one)), (same, same), "{one:?} {other:?}");
        }
    }

    #[test]
    fn only_where_somebody_named_the_session_there_are_instances() {
        let counts = [NamedBy::Host, NamedBy::Owner, NamedBy::Connection, NamedBy::Nested].map(counts_instances);
        assert_eq!(counts, [true, true, false, false]);
    }

    proptest! {
        #[test]
        fn what_goes_is_the_oldest_and_what_stays_leaves_room_for_exactly_one(
            living in proptest::collection::hash_set(0u64..100, 0..20), max in 1u32..12
        ) {
            let living: Vec<u64> = living.into_iter().collect();
            let gone = oldest_beyond(max, living.clone());
            let stay: Vec<u64> = living.iter().copied().filter(|number| !gone.contains(number)).collect();
            prop_assert_eq!(stay.len(), living.len().min(max as usize));
            prop_assert!(gone.iter().all(|old| stay.iter().all(|kept| old < kept)));
        }
    }
}
