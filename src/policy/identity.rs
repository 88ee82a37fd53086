//! Which host launched, and which session the launch belongs to.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::Refusal;
use super::settings::{HostRule, Settings};
use crate::argv::{self, Script};
use crate::session::{Name, NamedBy, ProcessId, SessionId};

/// The variable by which a session is named, and by which what escaped from one is found again.
pub const SESSION_VARIABLE: &str = "PINFOLD_SESSION";

/// The variable that tells a server the name of its leaf.
pub const SERVER_VARIABLE: &str = "PINFOLD_SERVER";

/// What the kernel shows of an ancestor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Its number.
    pub pid: i32,
    /// Its name: `/proc/PID/comm`, which the kernel cuts at 15 bytes.
    pub comm: String,
    /// Its command line as it is now: a process may have written a title over it. Empty where it cannot be read.
    pub argv: Vec<String>,
}

/// Finds the nearest known host among the ancestors of a launch, nearest first, and tells its place in the list.
///
/// A host is known by the name of its process, of its program, or, where an interpreter runs it, of its script. A
/// package lends its name only to scripts that have none of their own (`@openai/codex/bin/codex.js` is `codex`, `gemini-cli/dist/index.js`
/// is `gemini-cli`), and so does a directory of versions (`cursor-agent/versions/1.2/index.js`): the helper processes that OpenClaw puts between its gateway and a server come from the package
/// `openclaw` as well (`openclaw/dist/process/supervisor/service-child-relay.js`), and end with their server.
pub fn recognise_host(settings: &Settings, ancestors: &[ProcessFacts]) -> Option<(Name, usize)> {
    ancestors.iter().enumerate().find_map(|(index, process)| {
        let host = settings.hosts.iter().find(|host| is_host(host, process))?;
        Some((host.name.clone(), index))
    })
}

fn is_host(host: &HostRule, process: &ProcessFacts) -> bool {
    let is_command = |name: &str| host.commands.iter().any(|command| command == name);
    host.commands.iter().any(|command| is_comm(command, &process.comm)) || names(&process.argv).any(is_command)
}

/// Whether a process of this command would show this name: the kernel keeps 15 bytes (proc_pid_comm(5)).
fn is_comm(command: &str, comm: &str) -> bool {
    let shown = command.as_bytes();
    comm.as_bytes() == &shown[..shown.len().min(15)]
}

fn names(argv: &[String]) -> impl Iterator<Item = &str> {
    let program = argv.first().map(String::as_str).unwrap_or_default();
    // What a process wrote over its command line is one word of argv: a title such as `openclaw gateway`, or as Electron's
    // helpers have it the program with all its options.
    let program = program.split(" --").next().unwrap_or_default();
    let title = program.split(' ').next().filter(|word| !word.contains('/'));
    let script = match argv::script(argv) {
        Some((Script::File(path) | Script::Package(path), _)) => {
            let stem = argv::stem(path);
            let lent = [argv::package(path), argv::versioned(path)].map(|name| name.filter(|_| argv::is_generic(stem)));
            [Some(stem), lent[0], lent[1], remote_editor(path, stem)]
        }
        Some((Script::Module(module), _)) => [Some(module), None, None, None],
        None => [None; 4],
    };
    let stem = title.map_or_else(|| argv::stem(program), argv::stem);
    // Claude Code's program is called after its version: `~/.local/share/claude/versions/2.1.90`.
    let product = argv::versioned(program).filter(|_| argv::is_generic(stem));
    [Some(stem), product].into_iter().chain(script).flatten()
}

/// The server that an editor keeps on a remote machine is told by its directory alone: VS Code and what was made from it
/// run scripts of the same names, from `~/.vscode-server`, `~/.cursor-server`…
fn remote_editor<'a>(script: &'a str, stem: &str) -> Option<&'a str> {
    let directory = script.split('/').find_map(|part| part.strip_prefix('.').filter(|name| name.ends_with("-server")));
    directory.filter(|_| matches!(stem, "bootstrap-fork" | "server-main"))
}

/// What is known about who asks for a launch.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// `--session`.
    pub explicit: Option<&'a SessionId>,
    /// The launcher's environment, or as much of it as is known.
    pub environment: &'a [(String, String)],
    /// The host: `--host`, or else as recognised.
    pub host: Option<&'a Name>,
    /// The process that owns the launch: the recognised host, or else the launcher's parent.
    pub owner: ProcessId,
    /// The launcher itself, which becomes the server's leader.
    pub launcher: ProcessId,
    /// The session in whose leaf the launcher already runs.
    pub inside: Option<&'a SessionId>,
}

/// The session of a launch, and how it got its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionName {
    /// The id.
    pub id: SessionId,
    /// Who said so.
    pub named_by: NamedBy,
}

/// Which session a launch belongs to.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionNaming {
    /// To this one.
    Named(SessionName),
    /// To none: what was asked for cannot be.
    Refused(Refusal),
}

/// Decides which session a launch belongs to.
///
/// From inside a leaf it is that leaf's session, whatever the environment says; only `--session` can ask for another,
/// and is refused. Otherwise the first of these names it: `--session`; `PINFOLD_SESSION`; the variable of the host; the
/// owner's process where one process of the host is one session; the launch itself.
///
/// The variable is the known host's own. Where no host is known, the variables of all hosts count, in the order of the
/// configuration. A known host without a variable ignores the others': a Codex that somebody started in a Claude Code
/// terminal inherits `CLAUDE_CODE_SESSION_ID`, and is still no part of that session.
pub fn name_session(settings: &Settings, caller: &Caller<'_>) -> SessionNaming {
    match named(settings, caller) {
        Ok((id, named_by)) => SessionNaming::Named(SessionName { id, named_by }),
        Err(refusal) => SessionNaming::Refused(refusal),
    }
}

fn named(settings: &Settings, caller: &Caller<'_>) -> Result<(SessionId, NamedBy), Refusal> {
    if let Some(inside) = caller.inside {
        return match caller.explicit {
            Some(other) if other != inside => Err(Refusal::new(
                format!("this launch comes from inside session {inside} and cannot join session {other}"),
                "leave out --session, or launch from outside",
            )),
            Some(_) | None => Ok((inside.clone(), NamedBy::Nested)),
        };
    }
    if let Some(id) = caller.explicit {
        return Ok((id.clone(), NamedBy::Host));
    }
    let host = caller.host.and_then(|name| settings.host(name));
    let told: Vec<&str> = match host {
        Some(host) => host.session_env.as_deref().into_iter().collect(),
        None => settings.hosts.iter().filter_map(|host| host.session_env.as_deref()).collect(),
    };
    for variable in std::iter::once(SESSION_VARIABLE).chain(told) {
        if let Some(id) = from_environment(caller.environment, variable)? {
            return Ok((id, NamedBy::Host));
        }
    }
    Ok(match host {
        Some(host) if host.session_is_process => (of_process(host.name.as_str(), caller.owner), NamedBy::Owner),
        Some(_) | None => (of_process("connection", caller.launcher), NamedBy::Connection),
    })
}

/// The session id in a variable. An empty variable is as good as none.
fn from_environment(environment: &[(String, String)], variable: &str) -> Result<Option<SessionId>, Refusal> {
    let value = environment.iter().find(|(name, _)| name == variable).map(|(_, value)| value.as_str());
    match value.filter(|value| !value.is_empty()).map(SessionId::parse) {
        None => Ok(None),
        Some(Ok(id)) => Ok(Some(id)),
        Some(Err(error)) => Err(Refusal::new(
            format!("{variable} names no session: {error}"),
            "unset it, or name the session by --session",
        )),
    }
}

/// The id of a session that is a process. The start time keeps a later process with the same number apart.
fn of_process(kind: &str, ProcessId { pid, start_time }: ProcessId) -> SessionId {
    SessionId::parse(&format!("{kind}-{pid}-{start_time}")).expect("a name and two numbers have less than 200 bytes")
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
