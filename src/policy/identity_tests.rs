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
fn the_hosts_of_today_are_known_by_the_command_lines_that_they_have() {
    let electron = "--type=utility --utility-sub-type=node.mojom.NodeService --user-data-dir=/home/u/.config/Cursor";
    for (comm, line, expected) in [
        // A gateway that wrote a title over its command line, in 15 bytes and in all of them; one without its title.
        ("openclaw-gatewa", "openclaw-gateway||||||", "openclaw"),
        ("MainThread", "node|/usr/lib/node_modules/openclaw/dist/entry.js|gateway", "openclaw"),
        (
            "node",
            "node|/x/node_modules/.pnpm/openclaw@2026.9.6/node_modules/openclaw/dist/index.js|gateway",
            "openclaw",
        ),
        ("openclaw", "openclaw", "openclaw"),
        // Claude Code's native program, by its link, by its version, and as editors bring it along.
        ("claude", "/home/u/.local/bin/claude|-p", "claude-code"),
        ("2.1.90", "/home/u/.local/share/claude/versions/2.1.90|--output-format|stream-json", "claude-code"),
        ("node", "node|/home/u/.nvm/versions/node/v22.11.0/bin/claude", "claude-code"),
        (
            "claude",
            "/home/u/.vscode/extensions/anthropic.claude-code-2.1.0/resources/native-binary/claude",
            "claude-code",
        ),
        ("claude.exe", "/usr/lib/node_modules/@anthropic-ai/claude-code/bin/claude.exe", "claude-code"),
        ("codex", "/x/node_modules/@openai/codex/vendor/x86_64-unknown-linux-musl/codex/codex|app-server", "codex"),
        ("codex-exec", "codex-exec|--json", "codex"),
        ("goose", "/root/.local/bin/goose|run|--text|x", "goose"),
        ("goosed", "/usr/lib/goose/resources/bin/goosed|agent", "goose"),
        ("opencode", "/home/u/.opencode/bin/opencode|serve|--port|4096", "opencode"),
        ("opencode", "/x/node_modules/opencode-ai/node_modules/opencode-linux-x64/bin/opencode", "opencode"),
        ("opencode.exe", "/x/node_modules/@opencode/cli/bin/opencode.exe|serve|--service", "opencode"),
        ("node", "node|/x/node_modules/opencode-ai/bin/opencode", "opencode"),
        ("zed-editor", "/home/u/.local/zed.app/libexec/zed-editor", "zed"),
        ("zed-remote-serv", "/home/u/.zed_server/zed-remote-server-stable-0.200.1|run", "zed"),
        // Editors on Electron: the program itself, its helpers with one word of argv, and under an AppImage.
        ("cursor", "/opt/Cursor/cursor|--no-sandbox", "cursor"),
        ("exe", &format!("/opt/Cursor/cursor {electron}"), "cursor"),
        ("cursor", "/tmp/.mount_cursorAbCdEf/usr/share/cursor/cursor|--type=utility", "cursor"),
        (
            "node",
            "/home/u/.local/share/cursor-agent/versions/2025.09.18-7ae6800/node|--use-system-ca|/home/u/.local/share/cursor-agent/versions/2025.09.18-7ae6800/index.js|chat",
            "cursor",
        ),
        ("MainThread", "/home/u/.local/bin/cursor-agent|--use-system-ca|/x/index.js", "cursor"),
        ("code", "/usr/share/code/code|--type=utility|--utility-sub-type=node.mojom.NodeService", "vscode"),
        ("code", "/snap/code/200/usr/share/code/code|--ms-enable-electron-run-as-node|/x/out/bootstrap-fork", "vscode"),
        ("codium", "/usr/share/codium/codium", "vscode"),
        // Their servers on remote machines: it is the extension host that launches.
        (
            "node",
            "/home/u/.vscode-server/bin/ee8c/node|/home/u/.vscode-server/bin/ee8c/out/server-main.js|--port=0",
            "vscode",
        ),
        (
            "node",
            "/home/u/.vscode-server/cli/servers/Stable-38c3/server/node|--dns-result-order=ipv4first|/home/u/.vscode-server/cli/servers/Stable-38c3/server/out/bootstrap-fork|--type=extensionHost",
            "vscode",
        ),
        (
            "node",
            "/home/u/.cursor-server/bin/53b9/node|/home/u/.cursor-server/bin/53b9/out/bootstrap-fork|--type=extensionHost",
            "cursor",
        ),
        ("node", "/usr/lib/code-server/lib/node|/usr/lib/code-server|--bind-addr|127.0.0.1:8080", "vscode"),
        (
            "node",
            "/usr/lib/code-server/lib/node|/usr/lib/code-server/lib/vscode/out/bootstrap-fork|--type=extensionHost",
            "vscode",
        ),
        ("node", "node|--no-warnings=DEP0040|/usr/bin/gemini", "gemini-cli"),
        (
            "node",
            "/usr/bin/node|--max-old-space-size=8192|/usr/lib/node_modules/@google/gemini-cli/bundle/gemini.js",
            "gemini-cli",
        ),
    ] {
        assert_eq!(host(comm, line).as_deref(), Some(expected), "{comm} {line}");
    }
}

#[test]
fn what_only_looks_like_a_host_is_none() {
    for (comm, line) in [
        // Servers and helpers that lie below a host's own directories.
        ("node", "node|/home/u/.vscode-server/extensions/acme.mcp-1.0/dist/server.js"),
        ("node", "node|/home/u/.vscode-server/extensions/acme.mcp-1.0/dist/server-main-loop.js"),
        ("python3", "python3|/home/u/.claude/skills/server.py"),
        ("node", "/home/u/.nvm/versions/node/v22.11.0/bin/node|/srv/index.js"),
        ("python3.12", "/home/u/.pyenv/versions/3.12.1/bin/python3.12|main.py"),
        ("node", "node|/home/code/index.js"),
        ("main", "/home/claude/bin/main"),
        ("npm exec @acme/", "npm exec @acme/codex"),
        ("codex-linux-san", "/x/codex-linux-sandbox|--|ls"),
        ("sh", "sh|-c|exec claude mcp serve"),
        ("grep", "grep|--color|claude"),
    ] {
        assert_eq!(host(comm, line), None, "{comm} {line}");
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
