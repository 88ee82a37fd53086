//! What the watched configuration files of hosts say about a server: its entry is there, it is not, or nobody can tell.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeSet;

use crate::session::Name;

/// What one watched file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Whose configuration it is.
    pub host: Name,
    /// Its content.
    pub content: Content,
}

/// What a file said when it was last understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// It was not understood yet: it may hold anything, of anybody.
    Unknown,
    /// There is none, and that for long enough.
    Absent,
    /// It has these entries.
    Says {
        /// Who says so: a user of that user's sessions, and root of everybody's.
        uid: u32,
        /// The entries that are switched on.
        entries: BTreeSet<String>,
    },
}

/// All watched files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configured(Vec<Watched>);

impl Configured {
    /// Of all watched files.
    pub fn new(files: Vec<Watched>) -> Self {
        Self(files)
    }

    /// Whether an entry of this name is there for this host and user. `None` where no file is watched for them, or where
    /// one of those that may hold it was not understood yet.
    pub fn has(&self, host: &Name, uid: u32, server: &Name) -> Option<bool> {
        let mut told = None;
        for file in self.0.iter().filter(|file| file.host == *host) {
            match &file.content {
                Content::Unknown => return self.says_so(host, uid, server).then_some(true),
                Content::Says { uid: speaker, .. } if *speaker != uid && *speaker != 0 => {}
                Content::Absent | Content::Says { .. } => told = Some(false),
            }
        }
        told.map(|_| self.says_so(host, uid, server))
    }

    fn says_so(&self, host: &Name, uid: u32, server: &Name) -> bool {
        self.0.iter().filter(|file| file.host == *host).any(|file| match &file.content {
            Content::Says { uid: speaker, entries } => {
                (*speaker == uid || *speaker == 0) && entries.contains(server.as_str())
            }
            Content::Unknown | Content::Absent => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn file(host: &str, content: Option<(u32, &[&str])>) -> Watched {
        let content = content.map_or(Content::Unknown, |(uid, entries)| Content::Says {
            uid,
            entries: entries.iter().map(|&entry| entry.into()).collect(),
        });
        Watched { host: name(host), content }
    }

    fn absent(host: &str) -> Watched {
        Watched { host: name(host), content: Content::Absent }
    }

    #[test]
    fn an_entry_is_gone_only_where_every_file_that_may_hold_it_was_understood_and_has_it_not() {
        let (host, fs) = (name("openclaw"), name("fs"));
        for (files, expected) in [
            (vec![], None),
            (vec![file("zed", Some((1000, &["fs"])))], None),
            (vec![file("openclaw", None)], None),
            (vec![file("openclaw", Some((1000, &["fs"])))], Some(true)),
            (vec![file("openclaw", Some((1000, &["git"])))], Some(false)),
            // Root's file speaks of everybody's sessions, another user's of none of ours.
            (vec![file("openclaw", Some((0, &["fs"])))], Some(true)),
            (vec![file("openclaw", Some((1001, &["fs"])))], None),
            (vec![file("openclaw", Some((1001, &["fs"]))), file("openclaw", Some((1000, &[])))], Some(false)),
            // It is gone altogether; one of two is.
            (vec![absent("openclaw")], Some(false)),
            (vec![absent("openclaw"), file("openclaw", Some((1000, &["fs"])))], Some(true)),
            // One of two has it; one of two cannot be read.
            (vec![file("openclaw", Some((1000, &[]))), file("openclaw", Some((1000, &["fs"])))], Some(true)),
            (vec![file("openclaw", Some((1000, &[]))), file("openclaw", None)], None),
        ] {
            assert_eq!(Configured::new(files.clone()).has(&host, 1000, &fs), expected, "{files:?}");
        }
    }
}
