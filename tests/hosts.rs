//! Real configuration files of every known host, in `tests/hosts/HOST/`, wrapped and unwrapped: by the rules alone, and by the
//! built program in a home of its own.

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use pinfold::hostfile::Syntax;
use pinfold::hostfile::edit::{self, Front, State};
use pinfold::hostfile::hosts::{self, HOSTS};
use pinfold::rewrite::find::{Surroundings, places};
use pinfold::session::Name;
use serde_json::Value;

/// Each file, and what there is in it: how many entries start something, and those that do not or cannot be edited.
const CORPUS: &[(&str, usize, &[&str])] = &[
    ("openclaw/openclaw.json", 7, &["stripe"]),
    ("openclaw/minified.json", 3, &[]),
    ("claude-code/.mcp.json", 2, &["sentry", "asana"]),
    ("claude-code/.claude.json", 3, &["linear"]),
    ("cursor/mcp.json", 3, &["figma"]),
    ("vscode/mcp.json", 2, &["github", "debugged"]),
    ("vscode/settings.json", 1, &[]),
    ("gemini-cli/settings.json", 2, &["remote"]),
    ("codex/config.toml", 6, &["remote"]),
    ("goose/config.yaml", 6, &["developer", "web", "shared", "again"]),
    ("opencode/opencode.jsonc", 3, &["jira"]),
    ("zed/settings.json", 3, &["postgres-context-server", "remote"]),
];

fn corpus(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts").join(file)).unwrap()
}

/// A file as it may be written besides: with other ends of lines, a mark at its head, other indentation, or no last newline.
fn variants(file: &str) -> Vec<(&'static str, String)> {
    let text = corpus(file);
    let mut variants = vec![
        ("CRLF", text.replace('\n', "\r\n")),
        ("a byte order mark", format!("\u{feff}{text}")),
        ("no last newline", text.trim_end().to_owned()),
        ("all of these", format!("\u{feff}{}", text.trim_end().replace('\n', "\r\n"))),
        ("many last newlines", format!("{text}\n\n")),
    ];
    if !file.ends_with("yaml") {
        variants.push(("tabs", text.replace("  ", "\t")));
    }
    variants.push(("itself", text));
    variants
}

#[test]
fn every_known_host_has_a_file_in_the_corpus() {
    for host in HOSTS {
        assert!(CORPUS.iter().any(|(file, ..)| file.split('/').next() == Some(host.name)), "{}", host.name);
    }
}

#[test]
fn every_file_however_it_is_written_comes_back_byte_for_byte() {
    for (file, count, others) in CORPUS {
        let host = Name::parse(file.split('/').next().unwrap()).unwrap();
        for (how, text) in variants(file) {
            let front = Front { program: "/usr/local/bin/pinfold", host: Some(&host) };
            let there = edit::wrap(Syntax::of(file), text.as_bytes(), front, &[])
                .unwrap_or_else(|error| panic!("{file} with {how}: {error}"));
            let left: Vec<_> = there.entries.iter().filter(|entry| !entry.edited).collect();
            let names: Vec<_> = left.iter().map(|entry| entry.name.as_str()).collect();
            assert_eq!(names, *others, "{file} with {how}: {left:?}");
            assert_eq!(there.entries.len() - left.len(), *count, "{file} with {how}");
            let again = edit::wrap(Syntax::of(file), there.after.as_bytes(), front, &[]).unwrap();
            assert!(again.changes.is_empty(), "{file} with {how} is wrapped twice");
            let back = edit::unwrap(Syntax::of(file), there.after.as_bytes(), &[]).unwrap();
            assert!(back.after == text, "{file} with {how} did not come back:\n{}", back.after);
            assert!(back.entries.iter().all(|entry| entry.edited == (entry.state == State::Wrapped)));
        }
    }
}

/// A home with its state, and the program that works there.
struct Home {
    directory: tempfile::TempDir,
    program: PathBuf,
    uid: Option<u32>,
}

const NOBODY: u32 = 65534;

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for name in ["home", "project", "state"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory, program: env!("CARGO_BIN_EXE_pinfold").into(), uid: None }
    }

    /// That of a user who is not root: this one, or nobody's.
    fn of_a_user() -> Self {
        let mut home = Self::new();
        if rustix::process::geteuid().is_root() {
            // What was built may lie where nobody else gets.
            let program = home.path("pinfold");
            std::fs::copy(&home.program, &program).unwrap();
            for name in ["home", "project", "state"] {
                chown(home.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            (home.program, home.uid) = (program, Some(NOBODY));
        }
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file, and makes the way to it.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        if let Some(uid) = self.uid {
            chown(&path, Some(uid), Some(uid)).unwrap();
        }
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.path("home"));
        command.env("XDG_STATE_HOME", self.path("state")).current_dir(self.path("project")).stdin(Stdio::null());
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command
    }

    #[track_caller]
    fn pinfold(&self, arguments: &[&str]) -> Output {
        let started = Instant::now();
        loop {
            match self.command(arguments).output() {
                // A copy was just written, and what another test has forked since has it open until it executes its program.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                    assert!(started.elapsed() < Duration::from_secs(10), "{error}");
                    std::thread::sleep(Duration::from_millis(5));
                }
                output => return output.unwrap(),
            }
        }
    }

    /// What it prints, where it ends with this status.
    #[track_caller]
    fn says(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.pinfold(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "pinfold {arguments:?}: {text}");
        text
    }

    /// What is kept in its state.
    fn kept(&self) -> Vec<PathBuf> {
        let listed = std::fs::read_dir(self.path("state/pinfold/wrapped")).into_iter().flatten().flatten();
        listed.map(|entry| entry.path()).collect()
    }
}

const MCP: &str = "{ \"mcpServers\": { \"fs\": { \"command\": \"npx\", \"args\": [\"-y\", \"fs\"] } } }\n";

#[test]
fn every_file_is_wrapped_and_unwrapped_by_the_program_itself() {
    let home = Home::new();
    for (number, (file, count, _)) in CORPUS.iter().enumerate() {
        for (how, text) in variants(file) {
            let path = home.write(&format!("project/{number}/{file}"), &text);
            let name = path.to_str().unwrap();
            // These have entries that no edit is safe for.
            let is_whole = !file.starts_with("goose") && *file != "vscode/mcp.json";
            home.says(1, &["wrap", name, "--check"]);
            home.says(0, &["wrap", name, "--yes"]);
            home.says(i32::from(!is_whole), &["wrap", name, "--check"]);
            let wrapped = std::fs::read_to_string(&path).unwrap();
            assert_eq!(wrapped.matches(env!("CARGO_BIN_EXE_pinfold")).count(), *count, "{file} with {how}:\n{wrapped}");
            home.says(0, &["wrap", name, "--yes"]);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), wrapped, "{file} with {how} was wrapped twice");
            assert_eq!(home.kept().len(), 2);
            home.says(0, &["unwrap", name, "--yes"]);
            assert!(std::fs::read_to_string(&path).unwrap() == text, "{file} with {how} did not come back");
            assert_eq!(home.kept(), Vec::<PathBuf>::new());
        }
    }
}

#[test]
fn a_host_is_wrapped_in_all_files_that_it_reads_and_unwrap_all_knows_them() {
    let home = Home::new();
    let around = Surroundings {
        home: Some(home.path("home")),
        config: Some(home.path("home/.config")),
        here: home.path("project"),
        variable: |_| None,
    };
    let mut files = Vec::new();
    for host in HOSTS {
        let of_host = CORPUS.iter().filter(|(file, ..)| file.split('/').next() == Some(host.name));
        for (place, (file, ..)) in places(host, &around).into_iter().zip(of_host.cycle()) {
            let alike = CORPUS
                .iter()
                .find(|(other, ..)| other.starts_with(host.name) && Path::new(other).file_name() == place.file_name());
            let text = corpus(alike.map_or(file, |(file, ..)| file));
            let path = home.write(place.strip_prefix(home.directory.path()).unwrap().to_str().unwrap(), &text);
            files.push((host, path, text));
        }
    }
    for host in HOSTS {
        home.says(0, &["wrap", host.name, "--yes"]);
    }
    for (host, path, text) in &files {
        let wrapped = std::fs::read_to_string(path).unwrap();
        assert!(wrapped != *text, "{} of {} is not wrapped", path.display(), host.name);
        assert!(wrapped.contains(host.name), "{} does not say {}", path.display(), host.name);
        assert_eq!(hosts::host_of(path.to_str().unwrap()).map(|host| host.name), Some(host.name));
    }
    // One goes, and one is written anew by somebody else: what stood there is kept.
    let (gone, changed) = (files.remove(0), files.remove(0));
    std::fs::remove_file(&gone.1).unwrap();
    let rewritten = std::fs::read_to_string(&changed.1).unwrap().replacen('{', "{ \"more\": 1,", 1);
    std::fs::write(&changed.1, &rewritten).unwrap();
    let told = home.says(0, &["unwrap", "--all", "--yes"]);
    let away = format!("{} is not there: should it come back", gone.1.display());
    assert!(told.replace('\n', " ").contains(&away), "{told}");
    for (_, path, text) in &files {
        assert!(std::fs::read_to_string(path).unwrap() == *text, "{} did not come back", path.display());
    }
    assert_eq!(std::fs::read_to_string(&changed.1).unwrap(), changed.2.replacen('{', "{ \"more\": 1,", 1));
    let backups =
        home.kept().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "before"));
    let mut kept: Vec<_> = backups.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    kept.sort();
    let mut expected = vec![gone.2.clone(), changed.2];
    expected.sort();
    assert!(kept == expected, "{:?}", home.kept());
    // It comes back, as with another branch: it is known still, and so is every other file of its host, wherever one stands.
    std::fs::write(&gone.1, &gone.2).unwrap();
    home.says(0, &["wrap", gone.0.name, "--yes"]);
    let wrapped = std::fs::read_to_string(&gone.1).unwrap();
    std::fs::remove_file(&gone.1).unwrap();
    home.says(0, &["unwrap", "--all", "--yes"]);
    std::fs::write(&gone.1, wrapped).unwrap();
    home.says(0, &["unwrap", "--all", "--yes"]);
    assert!(std::fs::read_to_string(&gone.1).unwrap() == gone.2);
    assert!(home.says(0, &["unwrap", "--all", "--yes"]).contains("no file is wrapped"));
}

#[test]
fn what_unwrap_of_a_host_does_not_reach_is_told() {
    let home = Home::new();
    let text = "{ \"mcpServers\": { \"fs\": { \"command\": \"cat\" } } }";
    let project = home.write("elsewhere/.mcp.json", text);
    home.write("home/.claude.json", text);
    home.says(0, &["wrap", project.to_str().unwrap(), "--yes"]);
    home.says(0, &["wrap", "claude-code", "--yes"]);
    let told = home.says(0, &["unwrap", "claude-code", "--yes"]).replace('\n', " ");
    assert!(told.contains(&format!("wrapped still, elsewhere: {}", project.display())), "{told}");
    assert!(told.contains("unwrap --all"), "{told}");
    home.says(0, &["unwrap", "--all", "--yes"]);
    assert_eq!(std::fs::read_to_string(&project).unwrap(), text);
}

#[test]
fn a_preview_tells_how_an_entry_stands_now() {
    let home = Home::new();
    let text = "{ \"mcpServers\": { \"fs\": { \"command\": \"cat\" }, \"r\": { \"url\": \"http://x\" } } }";
    let file = home.write("home/.cursor/mcp.json", text);
    let states = |told: &str| {
        let told: serde_json::Value = serde_json::from_str(told).unwrap();
        told[0]["entries"][0]["state"].as_str().unwrap().to_owned()
    };
    let path = file.to_str().unwrap();
    assert_eq!(states(&home.says(1, &["wrap", path, "--check", "--json"])), "bare");
    assert_eq!(states(&home.says(0, &["wrap", path, "--dry-run", "--json"])), "bare");
    assert_eq!(states(&home.says(0, &["wrap", path, "--yes", "--json"])), "wrapped");
    let told = home.says(0, &["wrap", path, "--check", "--server", "r"]);
    assert!(told.contains("nothing to wrap"), "{told}");
}

#[test]
fn openclaws_plug_in_is_installed_and_goes_without_a_trace() {
    for file in ["openclaw/openclaw.json", "openclaw/minified.json"] {
        for (how, text) in variants(file) {
            let home = Home::new();
            let path = home.write("home/.openclaw/openclaw.json", &text);
            let plugin = home.path("home/.openclaw/pinfold-plugin");
            home.says(1, &["wrap", "openclaw", "--plugin", "--check"]);
            home.says(0, &["wrap", "openclaw", "--plugin", "--yes"]);
            home.says(0, &["wrap", "openclaw", "--plugin", "--check"]);
            let wrapped = std::fs::read_to_string(&path).unwrap();
            let settings = format!("[\"{}\"]", std::fs::canonicalize(&plugin).unwrap().display());
            assert!(
                wrapped.contains(&settings) && !wrapped.contains("allowConversationAccess"),
                "{file} with {how}: {wrapped}"
            );
            for (name, own) in [
                ("index.js", include_str!("../deploy/openclaw/index.js")),
                ("package.json", include_str!("../deploy/openclaw/package.json")),
                ("openclaw.plugin.json", include_str!("../deploy/openclaw/openclaw.plugin.json")),
            ] {
                assert_eq!(std::fs::read_to_string(plugin.join(name)).unwrap(), own);
            }
            home.says(0, &["wrap", "openclaw", "--plugin", "--yes"]);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), wrapped, "{file} with {how} was wrapped twice");
            home.says(0, &["unwrap", "--all", "--yes"]);
            assert!(std::fs::read_to_string(&path).unwrap() == text, "{file} with {how} did not come back");
            assert!(!plugin.exists() && home.kept().is_empty(), "{file} with {how}");
        }
    }
}

#[test]
fn a_plug_in_of_another_version_is_brought_up_to_date_and_a_newer_openclaw_lets_it_hear_of_runs() {
    let home = Home::new();
    let text = corpus("openclaw/minified.json");
    let path = home.write("home/.openclaw/openclaw.json", &text);
    home.write("openclaw/package.json", "{ \"name\": \"openclaw\", \"version\": \"2026.9.6\" }");
    let program = home.write("openclaw/bin/openclaw.mjs", "");
    std::fs::create_dir(home.path("bin")).unwrap();
    symlink(program, home.path("bin/openclaw")).unwrap();
    let mut wrap = home.command(&["wrap", "openclaw", "--plugin", "--yes"]);
    let output = wrap.env("PATH", home.path("bin")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(std::fs::read_to_string(&path).unwrap().contains("\"hooks\": { \"allowConversationAccess\": true }"));
    let file = home.path("home/.openclaw/pinfold-plugin/index.js");
    let own = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "// older").unwrap();
    home.says(1, &["wrap", "openclaw", "--plugin", "--check"]);
    home.says(0, &["wrap", "openclaw", "--plugin", "--yes"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), own);
    home.says(0, &["unwrap", "openclaw", "--yes"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    home.write("project/.mcp.json", MCP);
    home.says(2, &["wrap", ".mcp.json", "--plugin", "--yes"]);
}

#[test]
fn nothing_is_changed_where_nobody_can_be_asked_or_only_a_look_is_wanted() {
    let home = Home::new();
    let path = home.write("project/.mcp.json", MCP);
    let told = home.says(2, &["wrap", ".mcp.json"]);
    assert!(told.contains("+{ \"mcpServers\"") && told.contains("--yes"), "{told}");
    assert!(!told.contains('\x1b'), "{told:?}");
    home.says(0, &["wrap", ".mcp.json", "--dry-run"]);
    home.says(1, &["wrap", ".mcp.json", "--check"]);
    home.says(2, &["wrap", ".mcp.json", "--json"]);
    home.says(2, &["wrap", ".mcp.json", "--check", "--yes"]);
    home.says(2, &["wrap", "clod"]);
    home.says(1, &["wrap", "codex"]);
    home.says(2, &["unwrap"]);
    let told = home.says(1, &["wrap", ".mcp.json", "--yes", "--server", "fz"]);
    assert!(told.contains("\"fz\"") && told.contains("fs"), "{told}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), MCP);
    assert!(home.kept().is_empty());
    home.says(0, &["wrap", ".mcp.json", "--yes"]);
    home.says(2, &["unwrap", ".mcp.json"]);
    assert!(home.says(0, &["unwrap", ".mcp.json", "--dry-run"]).contains("1 server to unwrap"));
}

#[test]
fn what_may_be_secret_is_not_shown_and_nothing_steers_the_terminal() {
    let home = Home::new();
    let text = MCP.replace(
        "\"args\": [\"-y\", \"fs\"]",
        "\"args\": [\"-y\", \"fs\", \"--api-key\", \"s3cret-1\"], \"env\": { \"TOKEN\": \"s3cret-2\" }",
    );
    let text = text.replacen('{', "{ \"password\": \"s3cret-3\",", 1);
    home.write("project/d\x1b[31m\u{202e}/.mcp.json", &text);
    let name = "d\x1b[31m\u{202e}/.mcp.json";
    for (status, arguments) in
        [(0, ["wrap", name, "--dry-run"]), (0, ["wrap", name, "--yes"]), (0, ["unwrap", name, "--yes"])]
    {
        let told = home.says(status, &arguments);
        assert!(told.contains("\"npx\"") && told.contains("TOKEN"), "{told}");
        assert!(!told.contains("s3cret"), "{told}");
        assert!(!told.contains(['\x1b', '\u{202e}']), "{told:?}");
    }
}

#[test]
fn of_commands_at_once_none_loses_what_another_has_noted() {
    let home = Home::new();
    for round in 0..10 {
        let path = home.write("project/.mcp.json", MCP);
        let mut commands: Vec<_> = (0..3)
            .map(|_| {
                home.command(&["wrap", ".mcp.json", "--yes"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let statuses: Vec<_> = commands.iter_mut().map(|command| command.wait().unwrap().success()).collect();
        assert!(statuses.contains(&true), "{round}: {statuses:?}");
        assert!(std::fs::read_to_string(&path).unwrap().contains("pinfold"), "{round}");
        home.says(0, &["unwrap", "--all", "--yes"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), MCP, "{round}: it was not known as wrapped");
    }
}

#[test]
fn that_hosts_hand_on_no_socket_is_told_with_what_to_do_before_and_after_a_wrap() {
    let home = Home::new();
    let file = home.write("work/.mcp.json", "{ \"mcpServers\": { \"fs\": { \"command\": \"npx\" } } }");
    for how in ["--dry-run", "--yes"] {
        let mut command = home.command(&["wrap", file.to_str().unwrap(), how]);
        let output = command.env("PINFOLD_SOCKET", "/run/mine.sock").output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() && told.contains("the environment variable PINFOLD_SOCKET=/run/mine.sock"),
            "{told}"
        );
    }
    assert!(!home.says(0, &["wrap", file.to_str().unwrap(), "--dry-run"]).contains("PINFOLD_SOCKET"));
}

#[test]
fn what_a_killed_wrap_left_goes_with_the_next_one() {
    let home = Home::new();
    let text = "{ \"mcpServers\": { \"fs\": { \"command\": \"npx\" } } }";
    let file = home.write("work/.mcp.json", text);
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let draft = home.write(&format!("work/..mcp.json.pinfold-{}-0", child.id()), &text[..9]);
    home.says(0, &["wrap", file.to_str().unwrap(), "--dry-run"]);
    assert!(draft.exists(), "a look changes nothing");
    home.says(0, &["wrap", file.to_str().unwrap(), "--yes"]);
    assert!(!draft.exists());
}

#[test]
fn what_is_away_with_its_directory_stays_noted_and_nothing_is_forgotten_before_the_answer() {
    let home = Home::new();
    let path = home.write("disk/.mcp.json", MCP);
    let other = home.write("project/.mcp.json", MCP);
    home.says(0, &["wrap", path.to_str().unwrap(), "--yes"]);
    home.says(0, &["wrap", ".mcp.json", "--yes"]);
    std::fs::rename(home.path("disk"), home.path("elsewhere")).unwrap();
    home.says(2, &["unwrap", "--all"]);
    assert!(home.says(0, &["unwrap", "--all", "--yes"]).contains("stays noted"));
    assert_eq!(std::fs::read_to_string(&other).unwrap(), MCP);
    std::fs::rename(home.path("elsewhere"), home.path("disk")).unwrap();
    home.says(0, &["unwrap", "--all", "--yes"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), MCP);
    assert!(home.kept().is_empty(), "{:?}", home.kept());
}

#[test]
fn a_word_of_ours_in_a_comment_makes_no_file_ours() {
    let home = Home::new();
    let text = format!("// see pinfold-plugin\n{MCP}");
    let path = home.write(
        "home/.openclaw/openclaw.json",
        &text.replace("\"mcpServers\": {", "\"mcp\": { \"servers\": {").replace("} } }\n", "} } } }\n"),
    );
    let before = std::fs::read_to_string(&path).unwrap();
    home.says(0, &["wrap", "openclaw", "--yes"]);
    home.says(0, &["unwrap", "openclaw", "--yes"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    assert!(home.kept().is_empty(), "{:?}", home.kept());
}

#[test]
fn a_program_in_front_that_is_gone_is_told_of() {
    let home = Home::new();
    let gone = MCP.replace("\"npx\", \"args\": [", "\"/nowhere/pinfold\", \"args\": [\"run\", \"--\", \"npx\", ");
    let path = home.write("project/.mcp.json", &gone);
    let told = home.says(1, &["wrap", ".mcp.json", "--check"]);
    assert!(told.contains("not there any more: fs"), "{told}");
    assert!(home.says(1, &["wrap", ".mcp.json", "--yes"]).contains("/nowhere/pinfold is not there any more"));
    home.says(0, &["unwrap", ".mcp.json", "--yes"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), MCP);
}

#[test]
fn a_file_of_a_host_that_is_not_known_is_wrapped_without_one() {
    let home = Home::new();
    let path = home.write("project/servers.json", MCP);
    home.says(0, &["wrap", "servers.json", "--yes"]);
    let wrapped = std::fs::read_to_string(&path).unwrap();
    assert!(wrapped.contains("[\"run\", \"--server\", \"fs\", \"--\", \"npx\""), "{wrapped}");
    home.write("project/.cursor/mcp.json", MCP);
    home.says(0, &["wrap", ".cursor/mcp.json", "--yes"]);
    let wrapped = std::fs::read_to_string(home.path("project/.cursor/mcp.json")).unwrap();
    assert!(wrapped.contains("\"--host\", \"cursor\""), "{wrapped}");
}

#[test]
fn a_file_that_cannot_be_understood_is_not_touched_and_not_quoted() {
    let home = Home::new();
    let broken = "{\n  \"mcpServers\": { \"fs\": { \"command\": \"npx\", \"env\": { \"TOKEN\": \"hunter2\" }\n";
    let path = home.write("project/.mcp.json", broken);
    for arguments in
        [&["wrap", ".mcp.json", "--yes"][..], &["unwrap", ".mcp.json", "--yes"], &["wrap", ".mcp.json", "--check"]]
    {
        let told = home.says(1, arguments);
        assert!(told.contains("it is no JSON at line") && !told.contains("hunter2"), "{told}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), broken);
}

#[test]
fn programs_are_told_of_each_file_and_each_entry() {
    let home = Home::new();
    home.write("project/.mcp.json", &corpus("claude-code/.mcp.json"));
    let output = home.pinfold(&["wrap", "claude-code", "--yes", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told[0]["outcome"], &told[0]["host"]), (&"changed".into(), &"claude-code".into()), "{told}");
    let states: Vec<_> = told[0]["entries"].as_array().unwrap().iter().map(|entry| &entry["state"]).collect();
    assert_eq!(states, ["wrapped", "wrapped", "remote", "remote"]);
    let backup = told[0]["backup"].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(backup).unwrap(), corpus("claude-code/.mcp.json"));
    let output = home.pinfold(&["wrap", "claude-code", "--check", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told[0]["outcome"], "unchanged", "{told}");
}

#[test]
fn what_stood_there_is_kept_over_a_second_wrap_of_other_servers() {
    let home = Home::new();
    let text = corpus("claude-code/.mcp.json");
    home.write("project/.mcp.json", &text);
    home.says(0, &["wrap", ".mcp.json", "--yes", "--server", "plain"]);
    home.says(1, &["wrap", ".mcp.json", "--check"]);
    home.says(0, &["wrap", ".mcp.json", "--check", "--server", "plain"]);
    home.says(0, &["wrap", ".mcp.json", "--yes"]);
    let before = home.kept().into_iter().find(|path| path.extension().is_some_and(|end| end == "before")).unwrap();
    assert_eq!(std::fs::read_to_string(before).unwrap(), text);
    home.says(0, &["unwrap", ".mcp.json", "--yes", "--server", "plain"]);
    assert_eq!(home.kept().len(), 2);
    home.says(0, &["unwrap", "--all", "--yes"]);
    assert_eq!(std::fs::read_to_string(home.path("project/.mcp.json")).unwrap(), text);
    assert!(home.kept().is_empty());
}

#[test]
fn a_link_of_another_name_stays_and_is_known_again() {
    let home = Home::new();
    let text = corpus("goose/config.yaml");
    let target = home.write("project/dotfiles/goose", &text);
    let link = home.path("home/.config/goose/config.yaml");
    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(&target, &link).unwrap();
    home.says(0, &["wrap", "goose", "--yes"]);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(std::fs::read_to_string(&target).unwrap().contains("pinfold"));
    home.says(0, &["unwrap", "--all", "--yes"]);
    assert_eq!(std::fs::read_to_string(&target).unwrap(), text);
}

#[test]
fn a_file_whose_directory_cannot_be_written_is_left_and_the_reason_told() {
    let home = Home::of_a_user();
    let path = home.write("project/sub/.mcp.json", MCP);
    std::fs::set_permissions(path.parent().unwrap(), PermissionsExt::from_mode(0o555)).unwrap();
    let told = home.says(1, &["wrap", path.to_str().unwrap(), "--yes"]);
    std::fs::set_permissions(path.parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    assert!(told.contains("Permission denied") && told.contains("has to be able to write in"), "{told}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), MCP);
    assert!(home.kept().is_empty(), "it is noted as wrapped");
}

#[test]
fn a_file_that_could_not_be_given_back_to_its_owner_is_left() {
    let home = Home::of_a_user();
    if home.uid.is_none() {
        return;
    }
    let path = home.write("project/.mcp.json", MCP);
    chown(&path, Some(1), Some(1)).unwrap();
    let told = home.says(1, &["wrap", ".mcp.json", "--yes"]);
    assert!(told.contains("it belongs to uid 1"), "{told}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), MCP);
    assert!(home.kept().is_empty(), "it is noted as wrapped");
}

#[test]
fn what_root_wraps_stays_its_users() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = Home::new();
    let path = home.write("project/.mcp.json", MCP);
    chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    home.says(0, &["wrap", ".mcp.json", "--yes"]);
    let found = std::fs::metadata(&path).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (NOBODY, NOBODY, 0o640));
}
