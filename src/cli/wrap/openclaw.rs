//! OpenClaw's plug-in: its files beside the configuration, and the settings that have it loaded.

use std::path::PathBuf;

use serde_json::Value;

use crate::chain::chain;
use crate::hostfile::edit::Edit;
use crate::hostfile::plugin;
use crate::rewrite::beside::{Beside, Files};
use crate::rewrite::original::Original;

/// The files, as they are in the source.
pub(in crate::cli) const FILES: &Files = &[
    ("index.js", include_str!("../../../deploy/openclaw/index.js")),
    ("openclaw.plugin.json", include_str!("../../../deploy/openclaw/openclaw.plugin.json")),
    ("package.json", include_str!("../../../deploy/openclaw/package.json")),
];

/// The host whose plug-in it is.
pub(super) const HOST: &str = "openclaw";

/// What is to become of the plug-in.
pub(super) enum Plugin {
    /// Nothing: nobody asked for it, or it is there, or it is not.
    Stays,
    /// Its files are written, and its settings put in where they are not there.
    Comes {
        /// Where its files are.
        beside: Beside,
        /// No version of OpenClaw is known: then its settings are those that every version takes.
        is_blind: bool,
    },
    /// Its settings are taken out, and its files go.
    Goes(Beside),
}

impl Plugin {
    /// Whether something changes.
    pub(super) fn changes(&self) -> bool {
        !matches!(self, Self::Stays)
    }

    /// For programs.
    pub(super) fn word(&self) -> Option<&'static str> {
        match self {
            Self::Stays => None,
            Self::Comes { .. } => Some("comes"),
            Self::Goes(_) => Some("goes"),
        }
    }

    /// For people, while they are asked.
    pub(super) fn shown(&self) -> Option<String> {
        match self {
            Self::Stays => None,
            Self::Comes { beside, is_blind } => {
                let blind = "; which version of OpenClaw is here is not known, so `hooks: { allowConversationAccess: true }` is left \
                             out, which from 2026.4.24 on has it hear of the ends of runs";
                let blind = if *is_blind { blind } else { "" };
                let path = beside.path().display();
                Some(format!(
                    "the plug-in: its files go to {path}, and the gateway loads it when it starts next{blind}"
                ))
            }
            Self::Goes(beside) => Some(format!("the plug-in: {} goes", beside.path().display())),
        }
    }

    /// Writes the files: before the settings name them.
    pub(super) fn come(&self) -> Result<(), String> {
        let Self::Comes { beside, .. } = self else { return Ok(()) };
        beside.write(FILES).map_err(|error| chain(&error))
    }

    /// Removes the files, once no settings name them.
    pub(super) fn go(&self) -> Result<(), String> {
        let (Self::Comes { beside, .. } | Self::Goes(beside)) = self else { return Ok(()) };
        beside.remove(FILES).map_err(|error| chain(&error))
    }
}

/// Adds the settings to an edit.
pub(super) fn add(original: &Original, edit: Edit) -> Result<(Edit, Plugin), String> {
    let failed =
        |error: &dyn std::error::Error| format!("{} is left as it is: {}", original.target().display(), chain(error));
    let beside = Beside::of(original, plugin::DIRECTORY).map_err(|error| failed(&error))?;
    let directory = beside.path().to_str().ok_or("the path of the plug-in would be no UTF-8 text")?.to_owned();
    let version = installed().or_else(|| plugin::written_by(original.bytes()));
    let is_blind = version.is_none();
    let conversations = version.is_some_and(|version| plugin::asks_for_conversations(&version));
    let changes = plugin::add(original.bytes(), &directory, conversations).map_err(|error| failed(&error))?;
    let plugin =
        if changes.is_empty() && beside.holds(FILES) { Plugin::Stays } else { Plugin::Comes { beside, is_blind } };
    let edit = edit.with(changes).ok_or("the settings of the plug-in would meet those of a server")?;
    Ok((edit, plugin))
}

/// Takes the settings out, where they are in the file.
pub(super) fn remove(original: &Original, edit: Edit) -> Result<(Edit, Plugin), String> {
    if !is_there(original.bytes()) {
        return Ok((edit, Plugin::Stays));
    }
    let failed =
        |error: &dyn std::error::Error| format!("{} is left as it is: {}", original.target().display(), chain(error));
    let changes = plugin::remove(original.bytes()).map_err(|error| failed(&error))?;
    if changes.is_empty() {
        return Ok((edit, Plugin::Stays));
    }
    let beside = Beside::of(original, plugin::DIRECTORY).map_err(|error| failed(&error))?;
    let edit = edit.with(changes).ok_or("the settings of the plug-in meet those of a server")?;
    Ok((edit, Plugin::Goes(beside)))
}

/// Whether the settings of the plug-in are in a file, and not only the word.
pub(super) fn is_there(bytes: &[u8]) -> bool {
    let speaks_of_it = bytes.windows(plugin::DIRECTORY.len()).any(|window| window == plugin::DIRECTORY.as_bytes());
    speaks_of_it && plugin::remove(bytes).is_ok_and(|changes| !changes.is_empty())
}

/// The version of the OpenClaw that `PATH` leads to.
pub(in crate::cli) fn installed() -> Option<String> {
    let paths = std::env::var_os("PATH")?;
    let program = std::env::split_paths(&paths).map(|path| path.join("openclaw")).find(|path| path.is_file())?;
    let program: PathBuf = std::fs::canonicalize(program).ok()?;
    let read = |directory: &std::path::Path| {
        let file = Original::read(&directory.join("package.json")).ok()?;
        let package: Value = serde_json::from_slice(file.bytes()).ok()?;
        (package["name"] == "openclaw").then(|| package["version"].as_str().map(str::to_owned))?
    };
    program.ancestors().skip(1).find_map(read)
}
