//! `pinfold doctor HOST` on real files in a home directory, with real launches through what they say.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::hosts::expect_gone;
use crate::ownership::session_of;
use crate::support::{Launched, Machine, binary, offered, on_systemd};

/// The variables that move a host's files.
const MOVES: [&str; 7] = [
    "CLAUDE_CONFIG_DIR",
    "CODEX_HOME",
    "OPENCLAW_CONFIG_PATH",
    "OPENCLAW_STATE_DIR",
    "OPENCODE_CONFIG",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
];

/// Every host, a file of its, and the text for one server `fs`, with `ENV` where the environment's pairs stand.
const FILES: [(&str, &str, &str); 9] = [
    (
        "openclaw",
        ".openclaw/openclaw.json",
        "{ mcp: { servers: { fs: { command: 'cat', env: {ENV}, }, }, }, } // end\n",
    ),
    (
        "claude-code",
        ".claude.json",
        r#"{"mcpServers": {"fs": {"type": "stdio", "command": "cat", "args": [], "env": {ENV}}}}"#,
    ),
    ("cursor", ".cursor/mcp.json", r#"{"mcpServers": {"fs": {"command": "cat", "args": ["-u"], "env": {ENV}}}}"#),
    (
        "vscode",
        ".config/Code/User/mcp.json",
        r#"{"servers": {"fs": {"type": "stdio", "command": "cat", "env": {ENV}}}}"#,
    ),
    ("gemini-cli", ".gemini/settings.json", r#"{"mcpServers": {"fs": {"command": "cat", "env": {ENV}}}}"#),
    ("codex", ".codex/config.toml", "[mcp_servers.fs]\ncommand = \"cat\"\n[mcp_servers.fs.env]\nENV\n"),
    (
        "goose",
        ".config/goose/config.yaml",
        "extensions:\n  fs:\n    type: stdio\n    cmd: cat\n    enabled: true\n    envs: {ENV}\n",
    ),
    (
        "opencode",
        ".config/opencode/opencode.json",
        r#"{"mcp": {"fs": {"type": "local", "command": ["cat"], "environment": {ENV}}}}"#,
    ),
    (
        "zed",
        ".config/zed/settings.json",
        r#"{"context_servers": {"fs": {"command": "cat", "args": [], "env": {ENV}}}}"#,
    ),
];

/// A home directory, with what leads a launch to a machine's daemon.
struct Home<'a> {
    machine: &'a Machine,
    path: PathBuf,
}

impl<'a> Home<'a> {
    fn new(machine: &'a Machine) -> Self {
        let path = machine.path("home");
        std::fs::create_dir(&path).unwrap();
        Self { machine, path }
    }

    #[track_caller]
    fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.path.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The host's file, with this environment of the server.
    #[track_caller]
    fn host(&self, host: &str, environment: &[(&str, String)]) -> PathBuf {
        let (_, file, text) = FILES.into_iter().find(|(name, ..)| *name == host).unwrap();
        let (is, separator) = if file.ends_with(".toml") { (" = ", "\n") } else { (": ", ", ") };
        let pairs = environment.iter().map(|(name, value)| format!("{name:?}{is}{value:?}"));
        self.write(file, &text.replace("ENV", &pairs.collect::<Vec<_>>().join(separator)))
    }

    /// What leads a launch to the daemon of this machine.
    fn way(&self) -> Vec<(&'static str, String)> {
        let (variable, place) = self.machine.place();
        let socket = self.machine.socket().display().to_string();
        vec![("PINFOLD_SOCKET", socket), (variable, place.into_string().unwrap())]
    }

    /// Puts this pinfold in front of all of a file.
    #[track_caller]
    fn wrap(&self, path: &Path) {
        let wrapped = self.command(&["wrap", path.to_str().unwrap(), "--yes"]).output().unwrap();
        assert!(wrapped.status.success(), "{wrapped:?}");
    }

    /// Gives a command this home directory, and no variable that moves a host's files from there.
    fn live_here(&self, command: &mut Command) {
        for variable in MOVES {
            command.env_remove(variable);
        }
        // What is kept of a file that was wrapped goes with the home directory, too, also as root.
        command.env("HOME", &self.path).env("XDG_STATE_HOME", self.path.join(".local/state")).current_dir(&self.path);
    }

    /// `pinfold ARGUMENTS…` from there, to be completed.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.machine.pinfold(arguments);
        self.live_here(&mut command);
        command.stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn doctor(&self, host: &str) -> Visit {
        Visit::of(&self.command(&["doctor", host, "--json"]).output().unwrap())
    }
}

/// What the doctor said.
struct Visit {
    status: Option<i32>,
    report: Value,
}

impl Visit {
    #[track_caller]
    fn of(output: &Output) -> Self {
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        Self { status: output.status.code(), report }
    }

    /// That there is such a finding; its remedy.
    #[track_caller]
    fn expect(&self, verdict: &str, what: &str, detail: &str) -> String {
        let findings = self.report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| {
            finding["verdict"] == verdict
                && finding["what"] == what
                && finding["detail"].as_str().unwrap().contains(detail)
        });
        let found = found.unwrap_or_else(|| panic!("no {verdict} {what} {detail:?} in {:#}", self.report));
        found["remedy"].as_str().unwrap_or_default().to_owned()
    }
}

#[test]
fn the_launch_of_every_wrapped_host_lands_in_a_leaf_and_leaves_nothing() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let home = Home::new(&machine);
    for (host, ..) in FILES {
        let path = home.host(host, &home.way());
        home.wrap(&path);
        let visit = home.doctor(host);
        visit.expect("ok", "file", "has wrapped: fs");
        visit.expect("ok", "launch", &format!("fs: its launch lands in {}", machine.tree().display()));
        visit.expect("ok", "daemon", &machine.socket().display().to_string());
        visit.expect("ok", "servers", "none");
        // Of OpenClaw alone more is needed.
        assert_eq!(visit.status, Some(i32::from(host == "openclaw")), "{:#}", visit.report);
        machine.expect_nothing_left();
    }
}

#[test]
fn an_entry_that_is_not_wrapped_is_the_problem_and_what_is_off_or_remote_is_none() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let home = Home::new(&machine);
    let path = home.write(
        ".codex/config.toml",
        "[mcp_servers.off]\ncommand = \"x\"\nenabled = false\n[mcp_servers.far]\nurl = \"http://localhost/\"\n",
    );
    let visit = home.doctor("codex");
    visit.expect("ok", "file", "remote, with no process here: far; off: off");
    visit.expect("note", "launch", "none is tried");
    assert_eq!(visit.status, Some(0), "{:#}", visit.report);
    let text = std::fs::read_to_string(home.host("codex", &home.way())).unwrap();
    home.write(".codex/config.toml", &(text + "[mcp_servers.off]\ncommand = \"x\"\nenabled = false\n"));
    let visit = home.doctor("codex");
    assert_eq!(visit.expect("problem", "file", "not wrapped: fs; off: off"), "`pinfold wrap codex`");
    assert_eq!(visit.status, Some(1));
    let entries = &visit.report["files"][0]["entries"];
    assert_eq!(
        (&entries[0]["name"], &entries[0]["state"], &entries[0]["on"]),
        (&"fs".into(), &"bare".into(), &true.into())
    );
    home.wrap(&path);
    home.doctor("codex").expect("ok", "file", "wrapped: fs; off: off");
    // Where the home directory is the project's as well, a file is still one.
    assert_eq!(home.doctor("codex").report["files"].as_array().map(Vec::len), Some(1));
    let text = std::fs::read_to_string(home.host("cursor", &home.way())).unwrap();
    let text = text.replace("cat", "docker").replace("-u", "run");
    home.wrap(&home.write(".cursor/mcp.json", &text));
    home.doctor("cursor").expect("note", "file", "of them in a container: fs");
    home.write(".codex/config.toml", "[mcp_servers.fs\n");
    let visit = home.doctor("codex");
    visit.expect("problem", "file", "it is no TOML at line 1");
    assert_eq!(visit.status, Some(1));
}

#[test]
fn a_launch_that_lands_with_another_daemon_is_told_as_that() {
    // A service manager has one.
    if !offered() || on_systemd() {
        return;
    }
    let (machine, other) = (Machine::new(), Machine::new());
    let home = Home::new(&machine);
    let elsewhere = Home::new(&other).way();
    home.wrap(&home.host("goose", &elsewhere));
    let visit = home.doctor("goose");
    visit.expect("problem", "launch", "in no leaf of the daemon at");
    assert_eq!(visit.status, Some(1));
    other.expect_nothing_left();
}

#[test]
fn a_launch_that_lands_nowhere_is_told_as_that() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let home = Home::new(&machine);
    // No daemon can be there: it would run without containment.
    let nowhere = machine.path("home/.codex/config.toml/pinfold.sock").display().to_string();
    let path = home.host("codex", &[("PINFOLD_SOCKET", nowhere), ("PINFOLD_UNCONTAINED", "allow".to_owned())]);
    home.wrap(&path);
    home.doctor("codex").expect("problem", "launch", "RUNNING UNCONTAINED");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"allow\"", "\"refuse\"")).unwrap();
    home.doctor("codex").expect("problem", "launch", "it was not launched (exit status: 125): pinfold: not launched");
    std::fs::write(&path, text.replace(binary(), "/nowhere/pinfold")).unwrap();
    let remedy = home.doctor("codex").expect("problem", "launch", "/nowhere/pinfold is not this pinfold");
    assert!(remedy.contains("`pinfold wrap codex`"), "{remedy}");
    machine.expect_nothing_left();
}

#[test]
fn nothing_that_a_file_names_is_run_and_nothing_runs_with_its_environment() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let home = Home::new(&machine);
    let mark = home.path.join("ran");
    let script = home.write("pinfold", &format!("#!/bin/sh\nenv >> '{}'\n", mark.display()));
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for front in ["./pinfold", script.to_str().unwrap()] {
        home.write(
            ".mcp.json",
            &format!(r#"{{"mcpServers": {{"fs": {{"command": "{front}", "args": ["run", "--", "true"]}}}}}}"#),
        );
        let visit = home.doctor("claude-code");
        visit.expect("problem", "launch", "whatever it is was not run");
        assert_eq!(visit.status, Some(1));
    }
    assert!(!mark.exists(), "{:?}", std::fs::read_to_string(mark));
    // This program itself, with what would have the loader take a file of the project's (ld.so(8)).
    let preload = ("LD_DEBUG_OUTPUT", home.path.join("loaded").display().to_string());
    let path = home.host("codex", &[home.way(), vec![preload, ("LD_DEBUG", "files".to_owned())]].concat());
    home.wrap(&path);
    home.doctor("codex").expect("ok", "launch", "lands in");
    let loaded = std::fs::read_dir(&home.path).unwrap().flatten();
    let loaded: Vec<_> = loaded.filter(|entry| entry.file_name().to_string_lossy().starts_with("loaded")).collect();
    assert!(loaded.is_empty(), "{loaded:?}");
    machine.expect_nothing_left();
}

#[test]
fn what_is_tried_replaces_no_living_server_although_the_host_itself_asks() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ninstances_max = 1\non_excess = 'replace'\n");
    let home = Home::new(&machine);
    home.wrap(&home.host("codex", &home.way()));
    let script = r#"
        export PINFOLD_SESSION=
        launch --host codex --server fs -- cat
        read -r _
        env PINFOLD_SESSION=mine "$PINFOLD" doctor codex --json | tr -d '\n'
        echo
    "#;
    let mut command = machine.host_command("codex", script);
    home.live_here(&mut command);
    let mut host = Launched::spawn(command);
    let server = host.number();
    let session = session_of(&machine, server);
    std::io::Write::write_all(host.child.stdin.as_mut().unwrap(), b"\n").unwrap();
    let report: Value = serde_json::from_str(&host.line()).unwrap();
    let visit = Visit { status: None, report };
    visit.expect("ok", "launch", "lands in");
    visit.expect("ok", "servers", "1 server of codex live");
    assert_eq!(session_of(&machine, server)["id"], session["id"]);
    drop(host);
    expect_gone(server);
    machine.expect_nothing_left();
}

#[test]
fn from_inside_a_session_nothing_is_tried() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let home = Home::new(&machine);
    home.wrap(&home.host("codex", &home.way()));
    let output =
        home.command(&["run", "--session", "s", "--", binary(), "doctor", "codex", "--json"]).output().unwrap();
    let visit = Visit::of(&output);
    visit.expect("note", "launch", "from inside session s");
    machine.expect_nothing_left();
}

#[test]
fn the_plug_in_is_missed_until_openclaw_would_load_it() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let home = Home::new(&machine);
    let config = |plugins: &str| home.write(".openclaw/openclaw.json", &format!("{{ plugins: {plugins}, mcp: {{}} }}"));
    let enabled = "entries: { pinfold: { enabled: true, hooks: { allowConversationAccess: true } } }";
    let loaded = format!("{{ load: {{ paths: ['~/plug-in'] }}, {enabled} }}");
    config("{}");
    let visit = home.doctor("openclaw");
    assert!(visit.expect("problem", "end", "does not enable").contains("--plugin"));
    assert_eq!(visit.status, Some(1));
    config(&loaded);
    home.doctor("openclaw").expect("problem", "end", "holds the plug-in");
    home.write("plug-in/openclaw.plugin.json", r#"{"id": "pinfold", "version": "1.2.3"}"#);
    home.write("plug-in/index.js", "export default {}");
    home.doctor("openclaw").expect("problem", "end", "lacks package.json");
    home.write("plug-in/package.json", "{}");
    let visit = home.doctor("openclaw");
    let told = visit.report["findings"].to_string();
    assert!(told.contains("the plug-in 1.2.3 in") && visit.status == Some(0), "{told}");
    config(&format!("{{ deny: ['pinfold'], load: {{ paths: ['~/plug-in'] }}, {enabled} }}"));
    home.doctor("openclaw").expect("problem", "end", "plugins.deny");
}

#[test]
fn the_plug_in_that_wrap_installs_is_told_from_another_one() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let home = Home::new(&machine);
    for version in ["2026.4.15", "2026.9.6"] {
        let path = home.write(
            ".openclaw/openclaw.json",
            &format!("{{ meta: {{ lastTouchedVersion: '{version}' }}, mcp: {{ servers: {{}} }} }}"),
        );
        home.doctor("openclaw").expect("problem", "end", "does not enable the plug-in");
        let mut wrap = home.command(&["wrap", "openclaw", "--plugin", "--yes"]);
        // No OpenClaw of this machine's own.
        let wrapped = wrap.env("PATH", "/usr/bin:/bin").output().unwrap();
        assert!(wrapped.status.success(), "{wrapped:?}");
        let doctor = || {
            Visit::of(&home.command(&["doctor", "openclaw", "--json"]).env("PATH", "/usr/bin:/bin").output().unwrap())
        };
        let visit = doctor();
        visit.expect("ok", "end", "it tells the end of each session");
        assert_eq!(visit.status, Some(0), "{:#}", visit.report);
        let text = std::fs::read_to_string(&path).unwrap();
        if version == "2026.9.6" {
            std::fs::write(&path, text.replace("\"allowConversationAccess\": true", "")).unwrap();
            doctor().expect("note", "end", "version 2026.9.6 does not tell it the end of cron runs");
        }
        std::fs::write(path.with_file_name("pinfold-plugin").join("index.js"), "export default {}").unwrap();
        let remedy = doctor().expect("note", "end", "another one than this pinfold brings along");
        assert!(remedy.contains("--plugin"), "{remedy}");
    }
}

#[test]
fn claude_codes_hook_is_seen_in_its_settings_and_none_is_needed() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let home = Home::new(&machine);
    home.write(".mcp.json", "{}");
    let visit = home.doctor("claude-code");
    visit.expect("ok", "end", "one process of claude-code is one session");
    visit.expect("note", "end", "there is no hook");
    assert_eq!(visit.status, Some(0), "{:#}", visit.report);
    // As the hook's own paper has it.
    let paper = include_str!("../../deploy/claude-code/README.md");
    let snippet = paper.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let settings = home.write(".claude/settings.json", snippet);
    home.doctor("claude-code").expect("ok", "end", &settings.display().to_string());
    home.write(".claude/settings.local.json", r#"{"disableAllHooks": true}"#);
    home.doctor("claude-code").expect("note", "end", "switches all hooks off");
}

#[test]
fn a_host_that_is_not_known_or_has_no_file_is_told_what_there_is() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let home = Home::new(&machine);
    let output = home.command(&["doctor", "codx"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(FILES.iter().all(|(host, ..)| said.contains(host)), "{said}");
    let visit = home.doctor("zed");
    let looked = home.path.join(".config/zed/settings.json").display().to_string();
    visit.expect("problem", "file", &looked);
    assert_eq!(visit.status, Some(1));
    // Whatever a file says, nothing of it reaches a terminal raw.
    home.write(".codex/config.toml", "[mcp_servers.\"\\u001b[2J\"]\ncommand = \"x\"\n");
    let output = home.command(&["doctor", "codex"]).output().unwrap();
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(page.contains("not wrapped: \\u{1b}[2J") && !page.contains('\u{1b}'), "{page}");
    let output = home.command(&["doctor", "zed"]).output().unwrap();
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(page.contains("PROBLEM  file     zed has no file here"), "{page}");
    // What is no file is not waited for.
    std::fs::create_dir_all(home.path.join(".config/zed")).unwrap();
    nix::unistd::mkfifo(&home.path.join(".config/zed/settings.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    home.doctor("zed").expect("problem", "file", &looked);
}
