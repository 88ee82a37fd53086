//! Whether the end of a host's session reaches us.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::Finding;
use super::files::{self, HostFile};
use crate::cli::wrap::openclaw::{self, FILES};
use crate::hostfile::{Syntax, plugin, settings};

const WHAT: &str = "end";

/// What is to be said of it, host by host. `found` are the host's files with its servers.
pub(super) fn end(host: &str, found: &[HostFile]) -> Vec<Finding> {
    match host {
        "openclaw" => vec![of_openclaw(found)],
        "claude-code" => vec![of_process(host), claude_code()],
        "codex" | "goose" => vec![of_process(host)],
        _ => vec![of_connection(host)],
    }
}

fn of_process(host: &str) -> Finding {
    let told = format!(
        "one process of {host} is one session: the kernel tells when it is gone, and all that it launched ends then, \
         whichever ids it used"
    );
    Finding::ok(WHAT, told)
}

fn of_connection(host: &str) -> Finding {
    let told = format!(
        "{host} tells nobody which session a server is for: each launch is a session of its own, and ends when its stdin is \
         closed or {host} is gone. What {host} forgets while it holds the stdin lives on"
    );
    Finding::note(WHAT, told, "`idle_after` or `ttl` in the configuration bound that; `pinfold end` ends one at once")
}

/// Whether the hook of `SessionEnd` stands in one of the files that Claude Code reads settings from.
fn claude_code() -> Finding {
    let mut broken = Vec::new();
    let mut hook = None;
    for path in settings_of_claude_code() {
        let Some(bytes) = files::read(&path).transpose() else { continue };
        let told = |error| format!("{}: {error}", path.display());
        match bytes.and_then(|(_, bytes)| settings(Syntax::Json, &bytes).map_err(told)) {
            Ok(settings) if settings["disableAllHooks"] == true => {
                return Finding::note(WHAT, format!("{} switches all hooks off", path.display()), "");
            }
            Ok(settings) if has_hook(&settings) => hook = hook.or(Some(path)),
            Ok(_) => {}
            Err(error) => broken.push(error),
        }
    }
    match hook {
        Some(path) => Finding::ok(WHAT, format!("its exit is told ahead, too: the hook is in {}", path.display())),
        None if !broken.is_empty() => Finding::note(WHAT, broken.join("; "), "mend it: the hook is not seen there"),
        None => Finding::note(
            WHAT,
            "there is no hook that tells its exit ahead, and none is needed",
            "to end servers a moment earlier: hooks.SessionEnd with `pinfold hook claude-code` (deploy/claude-code)",
        ),
    }
}

fn settings_of_claude_code() -> Vec<PathBuf> {
    let named = std::env::var_os("CLAUDE_CONFIG_DIR").filter(|named| !named.is_empty()).map(PathBuf::from);
    let own = named.or_else(|| Some(std::env::home_dir()?.join(".claude")));
    let managed = Path::new("/etc/claude-code/managed-settings.json").to_owned();
    let here = [".claude/settings.json", ".claude/settings.local.json"].map(PathBuf::from);
    own.map(|own| own.join("settings.json")).into_iter().chain(here).chain([managed]).collect()
}

fn has_hook(settings: &Value) -> bool {
    let matchers = settings["hooks"]["SessionEnd"].as_array().into_iter().flatten();
    let hooks = matchers.flat_map(|matcher| matcher["hooks"].as_array().into_iter().flatten());
    hooks.filter_map(|hook| hook["command"].as_str()).any(|command| {
        let words: Vec<&str> = command.split_whitespace().map(|word| word.trim_matches(['"', '\''])).collect();
        words
            .windows(3)
            .any(|words| words[0].rsplit('/').next() == Some("pinfold") && words[1..] == ["hook", "claude-code"])
    })
}

/// By what a directory is known to hold a plug-in.
const MANIFEST: &str = "openclaw.plugin.json";

/// Whether the plug-in is there, and OpenClaw is told to load it.
fn of_openclaw(found: &[HostFile]) -> Finding {
    const REMEDY: &str = "`pinfold wrap openclaw --plugin`, and restart the gateway";
    let Some((path, bytes, settings)) = found.iter().find_map(|file| {
        let (_, bytes) = file.said.as_ref().ok()?;
        Some((&file.path, bytes, settings(Syntax::Json, bytes).ok()?))
    }) else {
        return Finding::problem(
            WHAT,
            "without its configuration it is not known whether it loads the plug-in",
            REMEDY,
        );
    };
    let at = path.display();
    let unheard = "so sessions that end while the gateway lives are not heard of";
    if let Some(why) = switched_off(&settings["plugins"]) {
        return Finding::problem(WHAT, format!("{at} {why}, {unheard}"), REMEDY);
    }
    let Some(directory) = plugin_directory(path, &settings["plugins"]) else {
        let detail = format!("no directory of plugins.load.paths in {at} holds the plug-in, {unheard}");
        return Finding::problem(WHAT, detail, REMEDY);
    };
    let has: Vec<_> = FILES.iter().map(|(file, _)| files::read(&directory.join(file)).ok().flatten()).collect();
    let missing: Vec<&str> =
        FILES.iter().zip(&has).filter(|(_, has)| has.is_none()).map(|((file, _), _)| *file).collect();
    if !missing.is_empty() {
        let detail = format!("{} lacks {} of the plug-in, {unheard}", directory.display(), missing.join(" and "));
        return Finding::problem(WHAT, detail, REMEDY);
    }
    let version = manifest(&directory).and_then(|manifest| manifest["version"].as_str().map(str::to_owned));
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    let told = format!("the plug-in{version} in {} is loaded by {at}", directory.display());
    if FILES
        .iter()
        .zip(&has)
        .any(|((_, ours), has)| has.as_ref().map(|(_, bytes)| bytes.as_slice()) != Some(ours.as_bytes()))
    {
        return Finding::note(WHAT, format!("{told}; it is another one than this pinfold brings along"), REMEDY);
    }
    let version = openclaw::installed().or_else(|| plugin::written_by(bytes));
    let asks = version.as_deref().is_none_or(plugin::asks_for_conversations);
    if asks && settings["plugins"]["entries"]["pinfold"]["hooks"]["allowConversationAccess"] != true {
        let remedy = "plugins.entries.pinfold.hooks.allowConversationAccess: true, from OpenClaw 2026.4.24 on";
        let which = version.map_or_else(|| "newer versions do".to_owned(), |version| format!("version {version} does"));
        return Finding::note(WHAT, format!("{told}; {which} not tell it the end of cron runs"), remedy);
    }
    Finding::ok(WHAT, format!("{told}: it tells the end of each session"))
}

/// Why OpenClaw would not load it, by the rules of its `plugins`.
fn switched_off(plugins: &Value) -> Option<&'static str> {
    let names = |list: &Value| list.as_array().is_some_and(|list| list.iter().any(|name| name == "pinfold"));
    if plugins["enabled"] == false {
        Some("switches all plug-ins off (plugins.enabled)")
    } else if names(&plugins["deny"]) {
        Some("refuses the plug-in (plugins.deny)")
    } else if plugins["allow"].as_array().is_some_and(|list| !list.is_empty()) && !names(&plugins["allow"]) {
        Some("allows other plug-ins only (plugins.allow)")
    } else if plugins["entries"]["pinfold"]["enabled"] != true {
        Some("does not enable the plug-in (plugins.entries.pinfold)")
    } else {
        None
    }
}

/// Where the plug-in is that would be loaded: below one of the paths, or where OpenClaw keeps what was installed.
fn plugin_directory(config: &Path, plugins: &Value) -> Option<PathBuf> {
    let state = config.parent().unwrap_or(Path::new("/"));
    let named = plugins["load"]["paths"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let named = named.take(64).map(|path| match path.strip_prefix("~/").zip(std::env::home_dir()) {
        Some((below, home)) => home.join(below),
        None => state.join(path),
    });
    let places = named.chain([state.join("extensions/pinfold")]);
    // A path names the plug-in, or a directory of plug-ins.
    let mut places = places.flat_map(|path| [path.clone(), path.join("pinfold"), path.join("openclaw")]);
    places.find(|directory| manifest(directory).is_some_and(|manifest| manifest["id"] == "pinfold"))
}

fn manifest(directory: &Path) -> Option<Value> {
    settings(Syntax::Json, &files::read(&directory.join(MANIFEST)).ok()??.1).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hook_is_told_by_its_command_wherever_pinfold_is() {
        let with = |command: &str| json!({"hooks": {"SessionEnd": [{"matcher": "", "hooks": [{"type": "command", "command": command}]}]}});
        for command in [
            "pinfold hook claude-code",
            "'/opt/my tools/pinfold' hook claude-code",
            "nice \"/usr/bin/pinfold\" hook claude-code",
        ] {
            assert!(has_hook(&with(command)), "{command}");
        }
        for command in ["pinfold end --all", "echo hook claude-code", "pinfold-x hook claude-code"] {
            assert!(!has_hook(&with(command)), "{command}");
        }
        assert!(!has_hook(&json!({"hooks": {"Stop": [{"hooks": [{"command": "pinfold hook claude-code"}]}]}})));
    }

    #[test]
    fn a_plug_in_that_openclaw_would_not_load_is_told_as_that() {
        let on = json!({"pinfold": {"enabled": true}});
        for (plugins, word) in [
            (json!({"entries": on}), None),
            (json!({"entries": on, "allow": ["x", "pinfold"]}), None),
            // A list that is empty allows all.
            (json!({"entries": on, "allow": []}), None),
            (json!({"entries": on, "allow": ["x"]}), Some("plugins.allow")),
            (json!({"entries": on, "deny": ["pinfold"]}), Some("plugins.deny")),
            (json!({"entries": on, "enabled": false}), Some("plugins.enabled")),
            (json!({"entries": {"pinfold": {}}}), Some("plugins.entries")),
            (Value::Null, Some("plugins.entries")),
        ] {
            let told = switched_off(&plugins);
            assert_eq!(told.is_some(), word.is_some(), "{plugins}: {told:?}");
            assert!(told.unwrap_or_default().contains(word.unwrap_or_default()), "{plugins}: {told:?}");
        }
    }
}
