//! Hosts of which one process is one session: its servers live and die with it, whichever ids it tells, and what Claude
//! Code's hook `SessionEnd` adds to that.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::hosts::{expect_gone, lines};
use crate::ownership::session_of;
use crate::support::{Launched, Machine, eventually, lives, offered, signal};

/// Calls the hook for each word on the host's stdin, as Claude Code would with that reason, and prints its status and what
/// it wrote. A shell that forks without executing anything would be another process of the host: there are files instead.
const HOOKS: &str = r#"
while read -r word; do
    printf '{"session_id": "%s", "transcript_path": "/h/.claude/projects/p/0.jsonl", "cwd": "/h/p", "hook_event_name": "SessionEnd", "reason": "%s"}\n' \
        "$CLAUDE_CODE_SESSION_ID" "$word" >"$FIFO.$$.told"
    sh -c '"$PINFOLD" hook claude-code; exit $?' <"$FIFO.$$.told" >"$FIFO.$$.said" 2>&1
    echo "$? $(cat "$FIFO.$$.said")"
done
"#;

/// A host that launches one server under each of these ids of its variable, and then calls hooks.
fn host(machine: &Machine, name: &str, variable: &str, ids: &[&str], server: &str) -> (Launched, Vec<i32>) {
    let launches: String =
        ids.iter().map(|id| format!("export {variable}={id}; launch --server fs -- sh -c \"{server}\"\n")).collect();
    let mut host = machine.host_command(name, &(launches + HOOKS));
    // For a machine on which everything takes its time.
    host.env("CLAUDE_CODE_SESSIONEND_HOOKS_TIMEOUT_MS", "30000");
    let mut host = Launched::spawn(host);
    let servers: Vec<i32> = ids.iter().map(|_| host.number()).collect();
    servers.iter().for_each(|server| drop(session_of(machine, *server)));
    (host, servers)
}

fn claude(machine: &Machine, ids: &[&str]) -> (Launched, Vec<i32>) {
    host(machine, "claude", "CLAUDE_CODE_SESSION_ID", ids, "exec sleep 1000")
}

/// What the hook said when the host called it for this reason.
#[track_caller]
fn hook(host: &mut Launched, reason: &str) -> String {
    writeln!(host.child.stdin.as_mut().unwrap(), "{reason}").unwrap();
    host.line()
}

/// The states of all servers by their leaders. An order has changed them before it is answered.
fn states(machine: &Machine) -> Vec<(i32, String)> {
    let sessions = machine.sessions();
    let servers = sessions.iter().flat_map(|session| session["servers"].as_array().unwrap());
    let state =
        |server: &Value| (server["leader_pid"].as_i64().unwrap() as i32, server["state"].as_str().unwrap().to_owned());
    let mut states: Vec<_> = servers.map(state).collect();
    states.sort();
    states
}

/// Waits until these run and no others are there: one whose end has begun never runs again.
#[track_caller]
fn expect_running(machine: &Machine, servers: &[i32]) {
    let mut expected: Vec<_> = servers.iter().map(|server| (*server, "running".to_owned())).collect();
    expected.sort();
    eventually("just these run", || {
        let states = states(machine);
        if states == expected { Ok(()) } else { Err(format!("{states:?}; {}", machine.log())) }
    });
}

#[test]
fn a_hook_for_clear_or_resume_ends_nothing_and_one_for_the_exit_ends_all_ids_of_its_process() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let (mut host, servers) = claude(&machine, &["before-clear", "after-clear"]);
    let sessions: Vec<Value> = servers.iter().map(|server| session_of(&machine, *server)).collect();
    assert_eq!((&sessions[0]["id"], &sessions[1]["id"]), (&"before-clear".into(), &"after-clear".into()));
    for session in &sessions {
        assert_eq!((&session["host"], &session["owner_pid"]), (&"claude-code".into(), &host.pid().into()));
    }
    for reason in ["clear", "resume"] {
        assert_eq!(hook(&mut host, reason), "0 ");
        expect_running(&machine, &servers);
    }
    let told = hook(&mut host, "something-new");
    assert!(told.starts_with("0 pinfold: ") && told.contains("something-new"), "{told}");
    expect_running(&machine, &servers);
    assert_eq!(hook(&mut host, "prompt_input_exit"), "0 ");
    servers.into_iter().for_each(expect_gone);
    assert!(lives(host.pid()));
    machine.expect_nothing_left();
}

#[test]
fn a_hook_ends_nothing_of_another_claude_code_although_both_resumed_one_id() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let (mut first, gone) = claude(&machine, &["same"]);
    let (mut second, alive) = claude(&machine, &["same"]);
    assert_eq!(session_of(&machine, gone[0])["id"], session_of(&machine, alive[0])["id"]);
    assert_eq!(hook(&mut first, "other"), "0 ");
    expect_gone(gone[0]);
    expect_running(&machine, &alive);
    assert_eq!(hook(&mut first, "logout"), "0 ", "it owns nothing any more");
    expect_running(&machine, &alive);
    assert_eq!(hook(&mut second, "logout"), "0 ");
    expect_gone(alive[0]);
    machine.expect_nothing_left();
}

#[test]
fn a_hook_that_another_host_calls_ends_nothing() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let (mut goose, servers) = host(&machine, "goose", "AGENT_SESSION_ID", &["one"], "exec sleep 1000");
    let told = hook(&mut goose, "other");
    assert!(told.starts_with("0 pinfold: ") && told.contains("called by goose"), "{told}");
    expect_running(&machine, &servers);
    drop(goose);
    expect_gone(servers[0]);
    machine.expect_nothing_left();
}

#[test]
fn a_host_that_the_daemon_alone_takes_for_claude_code_has_its_hook_heard() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[[host]]\nname = 'claude-code'\ncommands = ['our-claude']\n");
    let (mut host, servers) =
        host(&machine, "our-claude", "CLAUDE_CODE_SESSION_ID", &["one", "two"], "exec sleep 1000");
    assert_eq!(session_of(&machine, servers[0])["owner_pid"], host.pid());
    assert_eq!(hook(&mut host, "other"), "0 ");
    servers.into_iter().for_each(expect_gone);
    machine.expect_nothing_left();
}

#[test]
fn a_killed_host_takes_along_all_that_it_launched_whichever_ids_it_told() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ngrace = '300ms'\n");
    for (name, variable) in
        [("claude", "CLAUDE_CODE_SESSION_ID"), ("codex", "CODEX_THREAD_ID"), ("goose", "AGENT_SESSION_ID")]
    {
        let stubborn = "trap '' TERM; sleep 1000 & wait";
        let (killed, gone) = host(&machine, name, variable, &["first", "second"], stubborn);
        let (other, alive) = host(&machine, name, variable, &["second"], "exec sleep 1000");
        assert!(gone.iter().all(|server| session_of(&machine, *server)["owner_pid"].is_i64()));
        signal(killed.pid(), Signal::SIGKILL);
        gone.into_iter().for_each(expect_gone);
        expect_running(&machine, &alive);
        drop(other);
        expect_gone(alive[0]);
        machine.expect_nothing_left();
    }
}

#[test]
fn a_session_that_is_resumed_while_the_servers_of_its_killed_process_still_end_lives_on() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ngrace = '2s'\n");
    let stubborn = "trap '' TERM; sleep 1000 & wait";
    let (killed, gone) = host(&machine, "claude", "CLAUDE_CODE_SESSION_ID", &["same"], stubborn);
    signal(killed.pid(), Signal::SIGKILL);
    eventually("its end has begun", || {
        let states = states(&machine);
        if states.iter().all(|(_, state)| state != "running") { Ok(()) } else { Err(format!("{states:?}")) }
    });
    let (mut resumed, alive) = claude(&machine, &["same"]);
    expect_gone(gone[0]);
    expect_running(&machine, &alive);
    assert_eq!(hook(&mut resumed, "other"), "0 ");
    expect_gone(alive[0]);
    machine.expect_nothing_left();
}

/// Calls the hook with this on its stdin, which is closed then.
fn told(mut command: Command, text: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may have read enough.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn a_hook_fails_no_host_whatever_it_is_told_and_whoever_is_there() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let hook = || machine.pinfold(&["hook", "claude-code"]);
    let exit = r#"{"hook_event_name": "SessionEnd", "reason": "other"}"#;
    let output = told(hook(), exit);
    assert_eq!((output.status.code(), lines(&output).len()), (Some(0), 0), "no daemon, no servers: {output:?}");
    assert!(!machine.socket().exists(), "none is started for it");
    let long = format!(r#"{{"pad": "{}", "reason": "other"}}"#, "x".repeat(1 << 20));
    for wrong in ["", "not JSON", "{\"reason\": ", "[1]", &long, r#"{"reason": "new"}"#] {
        let output = told(hook(), wrong);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{output:?}");
        assert_eq!(lines(&output).len(), 1, "{output:?}");
    }
    // A daemon that takes the call and never answers, and a host that never says anything.
    let _silent = std::os::unix::net::UnixListener::bind(machine.socket()).unwrap();
    let mut host = machine.host_command("claude", HOOKS);
    host.stderr(Stdio::null());
    let mut host = Launched::spawn(host);
    let said = self::hook(&mut host, "other");
    assert!(said.starts_with("0 pinfold: ") && said.contains("longer than"), "{said}");
    let mut mute = hook();
    mute.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut mute = Launched::spawn(mute);
    assert_eq!(mute.exit_status(), 0);
    assert!(mute.stderr().contains("longer than"));
    let usage = machine.ask(&["hook", "claude"]);
    assert_eq!(usage.status.code(), Some(2), "{usage:?}");
}

#[test]
fn a_hook_whose_stdin_stays_open_is_heard_all_the_same() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"
        launch --server fs -- sleep 1000
        read -r _
        mkfifo "$FIFO.open" && exec 8<>"$FIFO.open"
        echo '{"hook_event_name": "SessionEnd", "reason": "other"}' >&8
        export CLAUDE_CODE_SESSIONEND_HOOKS_TIMEOUT_MS=600000
        "$PINFOLD" hook claude-code <"$FIFO.open" 8>&- 2>&1
        echo "$?"
    "#;
    let mut host = machine.host("claude", script);
    let server = host.number();
    session_of(&machine, server);
    writeln!(host.child.stdin.as_mut().unwrap()).unwrap();
    assert_eq!(host.line(), "0", "and nothing before it");
    expect_gone(server);
    machine.expect_nothing_left();
}
