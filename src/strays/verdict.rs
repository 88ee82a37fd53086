//! Whether a tree looks abandoned, by what can be seen of it. Neither its name nor its age says so.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Deserialize, Serialize};

use crate::session::Name;

/// How a tree looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nobody can ask it for anything any more.
    Abandoned,
    /// It cannot be told from outside.
    Unclear,
    /// Somebody can.
    InUse,
}

impl Verdict {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Unclear => "unclear",
            Self::InUse => "in use",
        }
    }
}

/// What a server would read its next request from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stdin {
    /// A pipe or a socket that somebody holds the other end of.
    Held,
    /// A pipe without a writer, or a socket whose other end was closed: all that it will read is its end.
    Ended,
    /// `/dev/null`.
    Null,
    /// There is none.
    Closed,
    /// A terminal.
    Terminal,
    /// A file, or something else.
    Other,
    /// It may not be looked at, or the kernel does not tell.
    #[default]
    Unknown,
}

/// Who is above a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    /// A known host, itself or through others: what it is called, and its process.
    Host(Name, i32),
    /// Init, or whoever takes its place for orphans; what it is called.
    Reaper(String),
    /// Another process, and what it is called.
    Other(i32, String),
}

/// What was seen of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Who is above it.
    pub parent: Parent,
    /// Its topmost process's.
    pub stdin: Stdin,
    /// Who holds the other end of that, where it could be found: a process, and what it is called.
    pub holder: Option<(i32, String)>,
    /// A service manager started that process.
    pub is_service: bool,
    /// Where it waits for connections: `TCP port 8000`, `a unix socket`.
    pub listens: Vec<String>,
    /// How many trees of the same server this host has.
    pub alike: usize,
    /// It is the youngest of them.
    pub is_youngest: bool,
}

/// How a tree looks, and why.
///
/// An MCP server on stdio that nobody can write to serves nobody: that is the one fact by which a tree looks abandoned, and
/// where it is only `/dev/null`, its host must be gone as well. A stdin that is held proves nothing, since a host that
/// leaks its servers holds it too.
pub fn judge(evidence: &Evidence) -> (Verdict, Vec<String>) {
    let mut reasons = vec![above(&evidence.parent), stdin(evidence)];
    let is_orphan = matches!(evidence.parent, Parent::Reaper(_));
    let verdict = match evidence.stdin {
        _ if evidence.is_service => Verdict::InUse,
        Stdin::Ended => Verdict::Abandoned,
        Stdin::Null | Stdin::Closed if is_orphan => Verdict::Abandoned,
        Stdin::Null | Stdin::Closed => Verdict::Unclear,
        _ if is_orphan => Verdict::Unclear,
        Stdin::Held | Stdin::Terminal => Verdict::InUse,
        Stdin::Other | Stdin::Unknown if matches!(evidence.parent, Parent::Host(..)) => Verdict::InUse,
        Stdin::Other | Stdin::Unknown => Verdict::Unclear,
    };
    if evidence.is_service {
        reasons.push("a service manager started it".to_owned());
    }
    let is_one_of_many = evidence.alike > 1 && !evidence.is_youngest && verdict == Verdict::InUse;
    if evidence.alike > 1 {
        let which = if evidence.is_youngest { ", the youngest" } else { ": only the host knows which it uses" };
        reasons.push(format!("one of {} of the same server under this host{which}", evidence.alike));
    }
    match (verdict, evidence.listens.is_empty()) {
        (Verdict::Abandoned, false) => {
            let places = evidence.listens.join(", ");
            reasons.push(format!("it waits for connections on {places}, and may serve by that"));
            (Verdict::Unclear, reasons)
        }
        _ if is_one_of_many => (Verdict::Unclear, reasons),
        _ => (verdict, reasons),
    }
}

fn above(parent: &Parent) -> String {
    match parent {
        Parent::Host(name, pid) => format!("its host {name}, process {pid}, lives"),
        Parent::Reaper(name) => format!("what started it is gone: its parent is {name}"),
        Parent::Other(pid, name) => format!("no known host is above it; its parent, process {pid} ({name}), lives"),
    }
}

fn stdin(evidence: &Evidence) -> String {
    match (evidence.stdin, &evidence.holder, &evidence.parent) {
        (Stdin::Held, Some((pid, _)), Parent::Host(_, host)) if pid == host => {
            "it holds the other end of its stdin".to_owned()
        }
        (Stdin::Held, Some((pid, name)), _) => format!("its stdin is held by process {pid} ({name})"),
        (Stdin::Held, None, _) => "its stdin is held by somebody".to_owned(),
        (Stdin::Ended, ..) => "nobody is left at the other end of its stdin".to_owned(),
        (Stdin::Null, ..) => "its stdin is /dev/null, where nobody can ask it for anything".to_owned(),
        (Stdin::Closed, ..) => "it has no stdin".to_owned(),
        (Stdin::Terminal, ..) => "its stdin is a terminal".to_owned(),
        (Stdin::Other, ..) => "its stdin is a file, or a pipe with a name".to_owned(),
        (Stdin::Unknown, ..) => "its stdin cannot be looked at".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(parent: Parent, stdin: Stdin) -> Evidence {
        Evidence { parent, stdin, holder: None, is_service: false, listens: Vec::new(), alike: 1, is_youngest: true }
    }

    fn host() -> Parent {
        Parent::Host(Name::parse("openclaw").unwrap(), 7)
    }

    fn init() -> Parent {
        Parent::Reaper("init".into())
    }

    #[test]
    fn a_tree_looks_abandoned_where_nobody_can_ask_it_for_anything() {
        let shell = || Parent::Other(8, "bash".into());
        for (parent, stdin, expected) in [
            (init(), Stdin::Ended, Verdict::Abandoned),
            (init(), Stdin::Null, Verdict::Abandoned),
            (init(), Stdin::Closed, Verdict::Abandoned),
            (init(), Stdin::Held, Verdict::Unclear),
            (init(), Stdin::Terminal, Verdict::Unclear),
            (init(), Stdin::Unknown, Verdict::Unclear),
            (host(), Stdin::Ended, Verdict::Abandoned),
            (host(), Stdin::Null, Verdict::Unclear),
            (host(), Stdin::Held, Verdict::InUse),
            (host(), Stdin::Unknown, Verdict::InUse),
            (shell(), Stdin::Ended, Verdict::Abandoned),
            (shell(), Stdin::Null, Verdict::Unclear),
            (shell(), Stdin::Held, Verdict::InUse),
            (shell(), Stdin::Terminal, Verdict::InUse),
            (shell(), Stdin::Unknown, Verdict::Unclear),
        ] {
            let evidence = seen(parent, stdin);
            assert_eq!(judge(&evidence).0, expected, "{evidence:?}");
        }
    }

    #[test]
    fn what_may_serve_otherwise_does_not_look_abandoned() {
        let network = Evidence { listens: vec!["TCP port 8000".into()], ..seen(init(), Stdin::Null) };
        let (verdict, reasons) = judge(&network);
        assert_eq!(verdict, Verdict::Unclear);
        assert!(reasons.iter().any(|reason| reason.contains("port 8000")), "{reasons:?}");
        let service = Evidence { is_service: true, ..seen(init(), Stdin::Null) };
        assert_eq!(judge(&service).0, Verdict::InUse);
    }

    #[test]
    fn who_holds_a_stdin_is_told_where_it_is_known() {
        let held = |parent, pid| {
            let holder = Some((pid, "node".to_owned()));
            judge(&Evidence { holder, ..seen(parent, Stdin::Held) }).1.join("; ")
        };
        assert_eq!(held(host(), 7), "its host openclaw, process 7, lives; it holds the other end of its stdin");
        assert!(held(host(), 9).ends_with("its stdin is held by process 9 (node)"));
        assert!(held(init(), 9).ends_with("its stdin is held by process 9 (node)"));
    }

    #[test]
    fn of_many_alike_under_one_host_only_the_youngest_is_known_to_be_in_use() {
        let one = Evidence { alike: 25, is_youngest: false, ..seen(host(), Stdin::Held) };
        assert_eq!(judge(&one).0, Verdict::Unclear, "the host knows, and nobody else");
        assert!(judge(&one).1.iter().any(|reason| reason.starts_with("one of 25")));
        assert_eq!(judge(&Evidence { is_youngest: true, ..one }).0, Verdict::InUse);
    }
}
