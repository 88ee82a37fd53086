//! Which processes make a tree, and who owns it.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{HashMap, HashSet};

use super::looks::{looks_like_server, words};
use super::verdict::Parent;
use crate::argv::{self, Script};
use crate::policy::{ProcessFacts, Settings, recognise_host, takes_in_orphans};
use crate::session::{Name, ProcessId};

/// How many processes above one are looked at.
const ANCESTORS_MAX: usize = 64;

/// Programs that fetch a package, or start a container, and run it.
const RUNNERS: [&str; 12] =
    ["npx", "pnpx", "bunx", "npm", "pnpm", "yarn", "uvx", "uv", "pipx", "docker", "podman", "nerdctl"];

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Who it is.
    pub id: ProcessId,
    /// The number of its parent.
    pub parent: i32,
    /// Its name, its command line.
    pub facts: ProcessFacts,
    /// Where it runs, as far as that may be seen.
    pub directory: Option<String>,
    /// Its stdin and its stdout are pipes or sockets.
    pub is_piped: bool,
    /// It is the first of its pid namespace.
    pub is_init: bool,
    /// It stands in a leaf of ours.
    pub is_contained: bool,
}

/// A tree, by the places of its processes in the list that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// What a person would call it.
    pub server: Name,
    /// Its processes, the topmost first.
    pub processes: Vec<usize>,
    /// Who is above it.
    pub parent: Parent,
}

/// The trees that look like servers and stand in no leaf of ours: each begins with the topmost process that looks like one,
/// and has all that descends from it. What left it for init is no longer to be seen as a part of it.
pub fn trees(settings: &Settings, seen: &[Seen]) -> Vec<Tree> {
    let machine = Machine::new(settings, seen);
    let mut found = Vec::new();
    for (index, process) in seen.iter().enumerate() {
        let Some(server) = machine.server(index) else { continue };
        let above = machine.above(index);
        if above.iter().any(|place| machine.server(*place).is_some()) {
            continue;
        }
        let parent = machine.parent(process, &above);
        found.push(Tree { server: server.clone(), processes: machine.below(index), parent });
    }
    found
}

struct Machine<'a> {
    settings: &'a Settings,
    seen: &'a [Seen],
    by_pid: HashMap<i32, usize>,
    children: HashMap<i32, Vec<usize>>,
    servers: Vec<Option<Name>>,
}

impl<'a> Machine<'a> {
    fn new(settings: &'a Settings, seen: &'a [Seen]) -> Self {
        let mut children: HashMap<i32, Vec<usize>> = HashMap::new();
        for (index, process) in seen.iter().enumerate() {
            children.entry(process.parent).or_default().push(index);
        }
        let by_pid = seen.iter().enumerate().map(|(index, process)| (process.id.pid, index)).collect();
        let mut machine = Self { settings, seen, by_pid, children, servers: Vec::new() };
        machine.servers = seen.iter().map(|process| machine.looks(process)).collect();
        machine
    }

    fn server(&self, index: usize) -> Option<&Name> {
        self.servers[index].as_ref()
    }

    fn looks(&self, process: &Seen) -> Option<Name> {
        let facts = &process.facts;
        let is_host = recognise_host(self.settings, std::slice::from_ref(facts)).is_some();
        if process.is_contained || process.is_init || is_host {
            return None;
        }
        looks_like_server(&facts.argv, process.directory.as_deref()).or_else(|| self.launched_by_host(process))
    }

    /// What a known host starts by a package runner and speaks to is a server, whatever it is called. Its shells, its
    /// language servers and its own helpers are none.
    fn launched_by_host(&self, process: &Seen) -> Option<Name> {
        let parent = self.by_pid.get(&process.parent).map(|place| &self.seen[*place])?;
        let words = words(&process.facts.argv);
        let runs = words.first().is_some_and(|program| RUNNERS.contains(&argv::stem(program)));
        (process.is_piped && runs && self.is_of_host(&parent.facts)).then(|| argv::server_name(&words))
    }

    /// Whether it is a host, or a helper of one: a script of the host's own package.
    fn is_of_host(&self, facts: &ProcessFacts) -> bool {
        let package = match argv::script(&facts.argv) {
            Some((Script::File(path), _)) => argv::package(path),
            _ => None,
        };
        recognise_host(self.settings, std::slice::from_ref(facts)).is_some()
            || package.is_some_and(|package| {
                self.settings.hosts.iter().any(|host| host.commands.iter().any(|command| command == package))
            })
    }

    /// The processes above one, nearest first.
    fn above(&self, index: usize) -> Vec<usize> {
        let mut found = Vec::new();
        let mut next = self.by_pid.get(&self.seen[index].parent);
        while let Some(place) = next.filter(|place| found.len() < ANCESTORS_MAX && !found.contains(*place)) {
            found.push(*place);
            next = self.by_pid.get(&self.seen[*place].parent);
        }
        found
    }

    /// A process and all that descends from it, but for what is in a leaf.
    fn below(&self, index: usize) -> Vec<usize> {
        let (mut found, mut known) = (vec![index], HashSet::from([index]));
        let mut at = 0;
        while let Some(place) = found.get(at).copied() {
            at += 1;
            let children = self.children.get(&self.seen[place].id.pid).into_iter().flatten().copied();
            found.extend(children.filter(|child| !self.seen[*child].is_contained && known.insert(*child)));
        }
        found
    }

    fn parent(&self, process: &Seen, above: &[usize]) -> Parent {
        let facts: Vec<ProcessFacts> = above.iter().map(|place| self.seen[*place].facts.clone()).collect();
        if let Some((host, place)) = recognise_host(self.settings, &facts) {
            return Parent::Host(host, facts[place].pid);
        }
        match above.first().map(|place| &self.seen[*place]) {
            None if process.parent > 0 => Parent::Other(process.parent, "not to be seen from here".to_owned()),
            None => Parent::Reaper("outside of what can be seen from here".to_owned()),
            // The first process of a container starts servers as well as it takes orphans in.
            Some(parent) if takes_in_orphans(&parent.facts) && (parent.id.pid == 1 || !parent.is_init) => {
                Parent::Reaper(format!("{} (process {})", parent.facts.comm, parent.id.pid))
            }
            Some(parent) => Parent::Other(parent.id.pid, parent.facts.comm.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, comm: &str, line: &str) -> Seen {
        let argv = line.split('|').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        Seen {
            id: ProcessId { pid, start_time: pid as u64 },
            parent,
            facts: ProcessFacts { pid, comm: comm.to_owned(), argv },
            directory: Some("/".into()),
            is_piped: true,
            is_init: pid == 1,
            is_contained: false,
        }
    }

    fn found(seen: &[Seen]) -> Vec<(String, Vec<i32>, Parent)> {
        let pids = |tree: &Tree| tree.processes.iter().map(|place| seen[*place].id.pid).collect();
        let trees = trees(&Settings::default(), seen);
        trees.iter().map(|tree| (tree.server.to_string(), pids(tree), tree.parent.clone())).collect()
    }

    const EVERYTHING: &str = "npm exec @modelcontextprotocol/server-everything";

    #[test]
    fn a_wrapper_its_shell_and_its_server_are_one_tree_of_the_nearest_host() {
        let seen = [
            process(1, 0, "systemd", "/sbin/init"),
            process(10, 1, "openclaw-gatewa", "openclaw-gateway"),
            process(11, 10, "npm exec @model", EVERYTHING),
            process(12, 11, "sh", "sh|-c|mcp-server-everything"),
            process(13, 12, "node", "node|/x/.bin/mcp-server-everything"),
            process(14, 13, "chrome", "/opt/chrome"),
            process(20, 10, "bash", "bash|-c|ls"),
        ];
        let host = Parent::Host(Name::parse("openclaw").unwrap(), 10);
        assert_eq!(found(&seen), [("server-everything".into(), vec![11, 12, 13, 14], host)]);
    }

    #[test]
    fn what_a_service_manager_or_init_took_in_is_an_orphan() {
        let seen = [
            process(1, 0, "systemd", "/sbin/init"),
            process(9, 1, "systemd", "/usr/lib/systemd/systemd|--user"),
            process(11, 9, "npm exec @model", EVERYTHING),
            process(12, 1, "node", "node|/x/.bin/mcp-server-everything"),
            process(13, 15, "node", "node|/x/.bin/mcp-server-everything"),
            process(15, 1, "node", "node|/x/relay.js"),
        ];
        let parents: Vec<Parent> = found(&seen).into_iter().map(|(_, _, parent)| parent).collect();
        assert!(matches!(&parents[0], Parent::Reaper(name) if name.starts_with("systemd")), "{parents:?}");
        assert!(matches!(&parents[1], Parent::Reaper(name) if name == "systemd (process 1)"), "{parents:?}");
        assert_eq!(parents[2], Parent::Other(15, "node".into()));
    }

    #[test]
    fn the_first_process_of_a_container_may_have_started_what_it_has() {
        let mut seen = [process(700, 699, "tini", "tini|--|x"), process(701, 700, "node", "node|/srv/my-mcp/index.js")];
        assert_eq!(found(&seen)[0].2, Parent::Reaper("tini (process 700)".into()));
        seen[0].is_init = true;
        assert_eq!(found(&seen)[0].2, Parent::Other(700, "tini".into()));
    }

    #[test]
    fn what_is_in_a_leaf_is_not_listed() {
        let mut seen = vec![
            process(1, 0, "init", "/sbin/init"),
            process(11, 1, "npm exec @model", EVERYTHING),
            process(12, 11, "sh", "sh|-c|mcp-server-everything"),
        ];
        seen[1].is_contained = true;
        seen[2].is_contained = true;
        assert_eq!(found(&seen), []);
        seen[1].is_contained = false;
        assert_eq!(found(&seen)[0].1, [11]);
    }

    #[test]
    fn what_a_host_runs_by_a_package_runner_and_speaks_to_is_a_server() {
        let mut seen = vec![
            process(10, 1, "claude", "claude"),
            process(11, 10, "node", "npx|-y|weather"),
            process(12, 10, "node", "node|/x/tsserver.js"),
            process(13, 10, "zsh", "/bin/zsh|-c|npx vite"),
            process(14, 13, "node", "npx|vite"),
            process(15, 1, "node", "npx|-y|weather"),
        ];
        let pids = |seen: &[Seen]| found(seen).into_iter().map(|(_, pids, _)| pids).collect::<Vec<_>>();
        assert_eq!(pids(&seen), [[11]]);
        seen[1].is_piped = false;
        assert_eq!(pids(&seen), Vec::<Vec<i32>>::new());
    }

    #[test]
    fn a_host_is_no_server_and_a_circle_of_parents_comes_to_an_end() {
        let seen = [
            process(10, 1, "claude", "claude|mcp|serve"),
            process(21, 22, "node", "node|/x/my-mcp.js"),
            process(22, 21, "node", "node|/x/your-mcp.js"),
        ];
        assert!(found(&seen).iter().all(|(_, pids, _)| !pids.contains(&10)));
    }
}
