//! `pinfold hook claude-code`: what Claude Code's hook `SessionEnd` calls.
//!
//! One process of Claude Code is one session of ours. So the order is about what that process owns, and never about the id
//! that the hook is told: it changes with `/clear`, differs after `--resume`, and may be shared by two processes. What the
//! process owns ends with it in any case; the hook is only earlier, and tells servers by SIGTERM that might see nothing
//! else.
//!
//! Nothing here may hold the host up or fail it: every trouble is one line on stderr, and the status is 0. Claude Code shows
//! stderr where the status is another, and of what stands on stdout it takes nothing for this event.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use serde::Deserialize;

use super::{DONE, args};
use crate::chain::chain;
use crate::client::{self, Client, ClientError};
use crate::policy::{self, Settings};
use crate::process::{self, Ancestor};
use crate::snapshot::SessionView;
use crate::wire::{Call, End, EndReply, ListReply};

/// By this variable Claude Code is told how many milliseconds all hooks of `SessionEnd` together may take.
const BUDGET_VARIABLE: &str = "CLAUDE_CODE_SESSIONEND_HOOKS_TIMEOUT_MS";

/// The same where nobody says, and the most that it can be told.
const BUDGET: Duration = Duration::from_millis(1500);
const BUDGET_MAX: Duration = Duration::from_secs(60);

/// The most that is read of what the host tells: a few paths and ids.
const INPUT_BYTES_MAX: u64 = 64 << 10;

/// The host by its name.
const CLAUDE_CODE: &str = "claude-code";

/// The reasons for which the process is about to exit. A reason that Claude Code has no more, or not yet, ends nothing.
const EXITS: [&str; 4] = ["logout", "prompt_input_exit", "bypass_permissions_disabled", "other"];

/// The reasons for which the process lives on with its servers, under another id.
const GOES_ON: [&str; 2] = ["clear", "resume"];

/// What the hook is told, as far as it matters.
#[derive(Debug, Deserialize)]
struct Told {
    hook_event_name: Option<String>,
    reason: Option<String>,
}

pub(super) fn hook(hook: args::Hook) -> u8 {
    let args::HookHost::ClaudeCode = hook.host;
    let deadline = deadline(std::env::var(BUDGET_VARIABLE).ok().as_deref());
    let (done, ends) = mpsc::sync_channel(1);
    // Whatever waits in it, stdin or a daemon, is left behind at the deadline.
    let work = move || done.send(claude_code(&hook.socket, deadline));
    let trouble = match std::thread::Builder::new().spawn(work) {
        Err(error) => Some(format!("no thread can be started: {error}")),
        Ok(_) => match ends.recv_timeout(deadline) {
            Ok(Ok(())) => None,
            Ok(Err(trouble)) => Some(trouble),
            Err(_) => Some(format!("stdin or the daemon took longer than {} ms", deadline.as_millis())),
        },
    };
    if let Some(trouble) = trouble {
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(std::io::stderr(), "pinfold: not ended ahead of Claude Code's exit: {trouble}");
    }
    DONE
}

/// What is left of the time for saying what was not done: Claude Code kills a hook that takes longer.
fn deadline(told: Option<&str>) -> Duration {
    let told = told.and_then(|told| told.parse().ok()).map(Duration::from_millis);
    told.unwrap_or(BUDGET).min(BUDGET_MAX) * 4 / 5
}

fn claude_code(socket: &args::Socket, deadline: Duration) -> Result<(), String> {
    if !exits(std::io::stdin())? {
        return Ok(());
    }
    let mut client = match client::find_running(socket.socket.as_deref()) {
        Ok(client) => client,
        // No daemon, no servers.
        Err(ClientError::NoDaemon(_)) => return Ok(()),
        Err(error) => return Err(chain(&error)),
    };
    let owner = owner(&mut client, deadline)?;
    let order = Call::End(End { owner_pid: Some(owner), wait: false, ..End::default() });
    client.call::<EndReply>(&order, &[], deadline).map(|_| ()).map_err(|error| chain(&error))
}

/// Whether what is told says that the process is about to exit. The host need not close the pipe: one object is read, and
/// not to the end of it.
fn exits(told: impl Read) -> Result<bool, String> {
    let mut told = serde_json::Deserializer::from_reader(told.take(INPUT_BYTES_MAX)).into_iter::<Told>();
    let told = match told.next() {
        Some(Ok(told)) => told,
        Some(Err(error)) => return Err(format!("what Claude Code tells on stdin is not understood: {error}")),
        None => return Err("Claude Code tells nothing on stdin".to_owned()),
    };
    if told.hook_event_name.as_deref().is_some_and(|event| event != "SessionEnd") {
        let event: String = told.hook_event_name.unwrap_or_default().chars().take(100).collect();
        return Err(format!("this is called for the hook {event:?}; put it below SessionEnd"));
    }
    let reason: String = told.reason.unwrap_or_default().chars().take(100).collect();
    if EXITS.contains(&reason.as_str()) {
        Ok(true)
    } else if GOES_ON.contains(&reason.as_str()) {
        Ok(false)
    } else {
        Err(format!("the reason {reason:?} is none that pinfold knows for an exit"))
    }
}

/// The process of Claude Code that calls: the nearest known host, as at a launch. Where none is known it is the nearest that
/// the daemon has as the owner of Claude Code's servers, by its configuration or by `--host`.
fn owner(client: &mut Client, deadline: Duration) -> Result<i32, String> {
    let ancestors = process::ancestors(std::process::id().cast_signed());
    let facts: Vec<_> = ancestors.iter().map(|ancestor| ancestor.facts.clone()).collect();
    match policy::recognise_host(&Settings::default(), &facts) {
        Some((host, index)) if host.as_str() == CLAUDE_CODE => Ok(facts[index].pid),
        Some((host, index)) => Err(format!("it is called by {host}, process {}", facts[index].pid)),
        None => {
            let listed = client.call::<ListReply>(&Call::List, &[], deadline).map_err(|error| chain(&error))?;
            let owner = ancestors.iter().find(|ancestor| owns(ancestor, &listed.sessions));
            owner.map(|owner| owner.id.pid).ok_or_else(|| "no process above is Claude Code".to_owned())
        }
    }
}

fn owns(ancestor: &Ancestor, sessions: &[SessionView]) -> bool {
    let of_claude_code =
        |session: &&SessionView| session.host.as_ref().is_some_and(|host| host.as_str() == CLAUDE_CODE);
    let mut servers = sessions.iter().filter(of_claude_code).flat_map(|session| &session.servers);
    servers.any(|server| server.owner_pid == ancestor.id.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reason: &str) -> String {
        format!(
            r#"{{"session_id": "abc123", "transcript_path": "/h/.claude/projects/p/00893aaf.jsonl", "cwd": "/h/p",
               "hook_event_name": "SessionEnd", "reason": "{reason}"}}"#
        )
    }

    #[test]
    fn the_deadline_is_within_the_time_that_claude_code_gives() {
        for (told, expected) in [(None, 1200), (Some("5000"), 4000), (Some("999999999"), 48_000), (Some("x"), 1200)] {
            assert_eq!(deadline(told), Duration::from_millis(expected), "{told:?}");
        }
    }

    #[test]
    fn only_a_reason_that_is_known_for_an_exit_ends_anything() {
        for (reason, expected) in [
            ("logout", Some(true)),
            ("prompt_input_exit", Some(true)),
            ("bypass_permissions_disabled", Some(true)),
            ("other", Some(true)),
            ("clear", Some(false)),
            ("resume", Some(false)),
            ("compact", None),
            ("", None),
        ] {
            assert_eq!(exits(told(reason).as_bytes()).ok(), expected, "{reason}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_and_ends_nothing() {
        let long = format!(r#"{{"pad": "{}", "reason": "other"}}"#, "x".repeat(70 << 10));
        let deep = "[".repeat(1000);
        for (wrong, word) in [
            ("", "nothing on stdin"),
            ("reason", "not understood"),
            ("[]", "not understood"),
            (r#"{"reason": 1}"#, "not understood"),
            (r#"{"reason": "other""#, "not understood"),
            (r#"{"hook_event_name": "SessionEnd"}"#, "the reason \"\""),
            (r#"{"hook_event_name": "Stop", "reason": "other"}"#, "below SessionEnd"),
            (&long, "not understood"),
            (&deep, "not understood"),
        ] {
            let told = exits(wrong.as_bytes()).unwrap_err();
            assert!(told.contains(word) && told.lines().count() == 1, "{told}");
        }
    }

    #[test]
    fn a_pipe_that_is_not_closed_is_not_waited_for() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(told("other").as_bytes()).unwrap();
        assert_eq!(exits(reader), Ok(true));
    }
}
