//! What each entry of a file starts, for whoever looks and edits nothing.

use std::collections::HashSet;

use super::super::places::{Tree, places};
use super::super::tree::{Node, What, tree};
use super::super::{HostFileError, Syntax, is_on, settings};
use super::launch::Launch;
use super::{Entry, look, walk};

/// Where entries say the environment of their server: opencode and goose have words of their own.
const ENVIRONMENTS: &[&str] = &["env", "environment", "envs"];

/// An entry, and how it starts its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// What is so of it.
    pub entry: Entry,
    /// It is not switched off.
    pub is_on: bool,
    /// Pinfold's own words, where it is in front: its program and its options, up to the server's command.
    pub front: Vec<String>,
    /// The environment that the entry gives its server, as far as it is plain text.
    pub environment: Vec<(String, String)>,
}

/// All entries of a file, in its order.
pub fn starts(syntax: Syntax, bytes: &[u8]) -> Result<Vec<Start>, HostFileError> {
    let values = settings(syntax, bytes)?;
    let text = std::str::from_utf8(bytes).map_err(|_| HostFileError::Syntax { language: "UTF-8 text", at: None })?;
    let root = tree(syntax, text.trim_start_matches('\u{feff}')).ok_or(HostFileError::NoObject)?;
    // A file may have thousands of projects.
    let mut on = HashSet::new();
    for place in places(&values) {
        let entries = place.table.fields().unwrap_or_default();
        on.extend(entries.into_iter().filter(|(_, entry)| is_on(entry)).map(|(name, _)| (place.project, name)));
    }
    let start = |(project, name, node): (Option<&str>, &str, &Node)| Start {
        entry: look(project, name, node),
        is_on: on.contains(&(project, name)),
        front: front(node).unwrap_or_default(),
        environment: environment(node),
    };
    Ok(walk(syntax, &root).into_iter().map(start).collect())
}

fn front(node: &Node) -> Option<Vec<String>> {
    let launch = Launch::of(node).ok()?;
    let own = launch.own_words().map(|own| 0..own).or_else(|| launch.behind())?;
    launch.words()[own].iter().map(|word| word.map(str::to_owned)).collect()
}

fn environment(node: &Node) -> Vec<(String, String)> {
    let says = |node: &Node| {
        let tables = ENVIRONMENTS.iter().filter_map(|name| node.field(name)?.fields());
        let pairs = tables.flatten().filter_map(|(name, value)| Some((name.to_owned(), value.text()?.to_owned())));
        pairs.collect::<Vec<_>>()
    };
    let mut found = says(node);
    // Zed's older form has all of it in the command's table.
    found
        .extend(node.field("command").filter(|inner| matches!(inner.what, What::Table(..))).into_iter().flat_map(says));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostfile::edit::State;

    fn told(syntax: Syntax, text: &str) -> Vec<(String, State, bool, String, String)> {
        let starts = starts(syntax, text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
        let pairs = |start: &Start| start.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        starts
            .iter()
            .map(|start| {
                let environment: Vec<String> = pairs(start);
                let name = start.entry.name.clone();
                (name, start.entry.state, start.is_on, start.front.join(" "), environment.join(" "))
            })
            .collect()
    }

    #[test]
    fn an_entry_tells_its_front_and_its_environment_in_each_hosts_way() {
        let wrapped = |front: &str, environment: &str| {
            vec![("fs".to_owned(), State::Wrapped, true, front.to_owned(), environment.to_owned())]
        };
        for (syntax, text, front, environment) in [
            (
                Syntax::Json,
                r#"{"mcpServers": {"fs": {"command": "/usr/bin/pinfold", "args": ["run", "--server", "fs", "--", "npx", "x"], "env": {"A": "1", "N": 2}}}}"#,
                "/usr/bin/pinfold run --server fs --",
                "A=1",
            ),
            (
                Syntax::Json,
                r#"{"mcp": {"fs": {"type": "local", "command": ["pinfold", "run", "--", "npx"], "environment": {"A": "1"}}}}"#,
                "pinfold run --",
                "A=1",
            ),
            (
                Syntax::Json,
                r#"{"context_servers": {"fs": {"command": {"path": "pinfold", "args": ["run", "--uncontained", "x"], "env": {"A": "1"}}}}}"#,
                "pinfold run --uncontained",
                "A=1",
            ),
            (
                Syntax::Toml,
                "[mcp_servers.fs]\ncommand = 'pinfold'\nargs = ['run', '--', 'npx']\n[mcp_servers.fs.env]\nA = '1'\n",
                "pinfold run --",
                "A=1",
            ),
            (
                Syntax::Yaml,
                "extensions:\n  fs:\n    cmd: pinfold\n    args: [run, --, npx]\n    envs: {A: x}\n    enabled: true\n",
                "pinfold run --",
                "A=x",
            ),
        ] {
            assert_eq!(told(syntax, text), wrapped(front, environment), "{text}");
        }
    }

    #[test]
    fn what_has_pinfold_behind_env_is_wrapped_already() {
        for (command, args, front) in [
            ("env", r#"["A=b", "pinfold", "run", "--server", "fs", "--", "npx", "x"]"#, "pinfold run --server fs --"),
            ("/usr/bin/env", r#"["-u", "A", "B=c", "/opt/pinfold", "run", "npx"]"#, "/opt/pinfold run"),
            ("nice", r#"["-n", "5", "env", "pinfold", "run", "--", "npx"]"#, "pinfold run --"),
        ] {
            let text = format!(r#"{{"mcpServers": {{"fs": {{"command": "{command}", "args": {args}}}}}}}"#);
            let [(_, state, _, told, _)] = &told(Syntax::Json, &text)[..] else { panic!("{text}") };
            assert_eq!((*state, told.as_str()), (State::Wrapped, front), "{text}");
        }
        for other in [r#"["A=b", "npx", "pinfold", "run"]"#, r#"["pinfold", "ls"]"#] {
            let text = format!(r#"{{"mcpServers": {{"fs": {{"command": "env", "args": {other}}}}}}}"#);
            assert_eq!(told(Syntax::Json, &text)[0].1, State::Bare, "{text}");
        }
    }

    #[test]
    fn what_is_bare_or_off_or_remote_is_told_as_that() {
        let text = r#"{
            "mcpServers": {"a": {"command": "npx"}, "b": {"command": "pinfold", "args": ["run", "--", "x"], "disabled": true}, "c": {"url": "http://x"}},
            "projects": {"/p": {"mcpServers": {"a": {"command": "npx", "enabled": false}}}}
        }"#;
        let told: Vec<_> =
            told(Syntax::Json, text).into_iter().map(|(name, state, on, ..)| (name, state, on)).collect();
        let expected = [
            ("a", State::Bare, true),
            ("b", State::Wrapped, false),
            ("c", State::Remote, true),
            ("a", State::Bare, false),
        ];
        assert_eq!(told, expected.map(|(name, state, on)| (name.to_owned(), state, on)));
    }
}
