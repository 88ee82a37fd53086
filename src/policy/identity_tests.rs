use super::*;

fn process(pid: i32, comm: &str, line: &str) -> ProcessFacts {
    let argv = line.split('|').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    ProcessFacts { pid, comm: comm.to_owned(), argv }
}

fn host(comm: &str, line: &str) -> Option<String> {
    recognise_host(&Settings::default(), &[process(1, comm, line)]).map(|(name, _)| name.to_string())
}

#[test]
fn a_host_is_known_by_its_name_its_program_or_its_script() {
    for (comm, line, expected) in [
        ("claude", "", Some("claude-code")),
        ("openclaw-gatewa", "openclaw-gateway", Some("openclaw")),
        ("MainThread", "openclaw gateway --port 1", Some("openclaw")),
        ("node", "node|/usr/lib/node_modules/openclaw/openclaw.mjs|gateway", Some("openclaw")),
        ("node", "/usr/bin/node|/usr/lib/node_modules/openclaw/dist/index.js|gateway|--port|1", Some("openclaw")),
        ("node", "node|--no-warnings|/x/node_modules/@openai/codex/bin/codex.js", Some("codex")),
        ("codex", "/x/vendor/x86_64/codex/codex", Some("codex")),
        ("node", "node|/x/node_modules/@anthropic-ai/claude-code/cli.js|-p", Some("claude-code")),
        ("node", "node|/x/node_modules/@google/gemini-cli/dist/index.js", Some("gemini-cli")),
        ("x", "/home/a/.local/bin/goose|session", Some("goose")),
        ("zed-editor", "/usr/libexec/zed-editor", Some("zed")),
        ("bash", "bash|-c|claude", None),
        ("node", "node|/x/node_modules/codex-helper/index.js", None),
        ("node", "node|/x/server.js|claude", None),
        ("x", "/home/u/code projects/x", None),
        ("openclaw-gatew", "", None),
        ("", "", None),
    ] {
        assert_eq!(host(comm, line).as_deref(), expected, "{comm} {line}");
    }
}

#[test]
fn openclaws_helpers_are_passed_over_for_the_gateway() {
    let at = |script: &str| format!("/usr/bin/node|/usr/lib/node_modules/openclaw/dist/{script}");
    let ancestors = [
        process(5, "node", &at("process/supervisor/service-child-group-anchor.js")),
        process(4, "node", &at("process/supervisor/service-child-relay.js")),
        process(3, "node", &at("spawn-broker/worker.js")),
        process(2, "openclaw-gatewa", "openclaw-gateway"),
        process(1, "systemd", "/sbin/init"),
    ];
    assert_eq!(recognise_host(&Settings::default(), &ancestors), Some((Name::parse("openclaw").unwrap(), 3)));
}

#[test]
fn the_nearest_known_host_counts() {
    let ancestors = [process(3, "sh", "sh|-c|x"), process(2, "claude", "claude"), process(1, "zed", "zed")];
    assert_eq!(recognise_host(&Settings::default(), &ancestors), Some((Name::parse("claude-code").unwrap(), 1)));
    assert_eq!(recognise_host(&Settings::default(), &ancestors[..1]), None);
}

const OWNER: ProcessId = ProcessId { pid: 40, start_time: 400 };
const LAUNCHER: ProcessId = ProcessId { pid: 50, start_time: 500 };

/// Who asks, with `host` as its host and `environment` as `A=b C=d`.
#[track_caller]
fn name(
    host: &str,
    environment: &str,
    explicit: Option<&str>,
    inside: Option<&str>,
) -> Result<(String, NamedBy), String> {
    let host = Name::parse(host).ok();
    let pairs = environment.split(' ').filter_map(|pair| pair.split_once('='));
    let environment: Vec<(String, String)> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let [explicit, inside] = [explicit, inside].map(|id| id.map(|id| SessionId::parse(id).unwrap()));
    let caller = Caller {
        explicit: explicit.as_ref(),
        environment: &environment,
        host: host.as_ref(),
        owner: OWNER,
        launcher: LAUNCHER,
        inside: inside.as_ref(),
    };
    match name_session(&Settings::default(), &caller) {
        SessionNaming::Named(SessionName { id, named_by }) => Ok((id.as_str().to_owned(), named_by)),
        SessionNaming::Refused(refusal) => Err(refusal.to_string()),
    }
}

#[test]
fn a_session_is_named_by_the_first_that_says_so() {
    let all = "PINFOLD_SESSION=p CLAUDE_CODE_SESSION_ID=c AGENT_SESSION_ID=g";
    for (host, environment, explicit, expected, by) in [
        ("claude-code", all, Some("x"), "x", NamedBy::Host),
        ("claude-code", all, None, "p", NamedBy::Host),
        ("claude-code", "CLAUDE_CODE_SESSION_ID=c AGENT_SESSION_ID=g", None, "c", NamedBy::Host),
        ("goose", "CLAUDE_CODE_SESSION_ID=c AGENT_SESSION_ID=g", None, "g", NamedBy::Host),
        ("codex", "CLAUDE_CODE_SESSION_ID=c", None, "codex-40-400", NamedBy::Owner),
        ("claude-code", "PINFOLD_SESSION= CLAUDE_CODE_SESSION_ID=", None, "claude-code-40-400", NamedBy::Owner),
        ("openclaw", "CLAUDE_CODE_SESSION_ID=c", None, "connection-50-500", NamedBy::Connection),
        ("unheard-of", "AGENT_SESSION_ID=g", None, "g", NamedBy::Host),
        ("", "AGENT_SESSION_ID=g", None, "g", NamedBy::Host),
        ("", "MY_SESSION_ID=m", None, "connection-50-500", NamedBy::Connection),
    ] {
        assert_eq!(name(host, environment, explicit, None), Ok((expected.to_owned(), by)), "{host} {environment}");
    }
}

#[test]
fn a_launch_from_inside_a_session_stays_in_it() {
    let nested = Ok(("s".to_owned(), NamedBy::Nested));
    assert_eq!(name("claude-code", "PINFOLD_SESSION=p CLAUDE_CODE_SESSION_ID=c", None, Some("s")), nested);
    assert_eq!(name("", "", Some("s"), Some("s")), nested);
    let refusal = name("", "", Some("other"), Some("s")).unwrap_err();
    assert!(refusal.contains("inside session s and cannot join session other"), "{refusal}");
}

#[test]
fn a_variable_that_is_no_session_id_is_told_and_not_passed_over() {
    let refusal = name("", &format!("PINFOLD_SESSION={}", "x".repeat(201)), None, None).unwrap_err();
    assert!(refusal.starts_with("PINFOLD_SESSION names no session: session id"), "{refusal}");
}
