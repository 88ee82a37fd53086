//! Where known hosts keep their entries, for whoever reads or edits them.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde_json::Value;

/// Settings as they nest, whatever else is known of each part.
pub(super) trait Tree: Sized {
    /// The fields of a table, in the order of the file where it is known; `None` for what is no table.
    fn fields(&self) -> Option<Vec<(&str, &Self)>>;

    /// The last field of this name, which is the one that counts where a file says it twice.
    fn field(&self, name: &str) -> Option<&Self> {
        self.fields()?.into_iter().rev().find(|(field, _)| *field == name).map(|(_, value)| value)
    }
}

impl Tree for Value {
    fn fields(&self) -> Option<Vec<(&str, &Self)>> {
        Some(self.as_object()?.iter().map(|(name, value)| (name.as_str(), value)).collect())
    }

    fn field(&self, name: &str) -> Option<&Self> {
        self.get(name)
    }
}

/// A table of entries.
pub(super) struct Place<'a, T> {
    /// The project directory that the entries are for, where they are for one.
    pub(super) project: Option<&'a str>,
    /// The table: names, and what is said of each.
    pub(super) table: &'a T,
}

/// The tables of entries, wherever a known host keeps one.
pub(super) fn places<T: Tree>(settings: &T) -> Vec<Place<'_, T>> {
    let at = |path: &[&str]| {
        let place = path.iter().try_fold(settings, |place, key| place.field(key))?;
        place.fields().is_some().then_some(Place { project: None, table: place })
    };
    let mut found: Vec<_> = [
        // Claude Code, Cursor, Gemini CLI, Cline, and most others.
        at(&["mcpServers"]),
        // OpenClaw, and VS Code in its settings.
        at(&["mcp", "servers"]),
        // VS Code in its mcp.json.
        at(&["servers"]),
        // Codex.
        at(&["mcp_servers"]),
        // Zed.
        at(&["context_servers"]),
        // goose.
        at(&["extensions"]),
    ]
    .into_iter()
    .flatten()
    .collect();
    // opencode keeps its entries right below `mcp`.
    found.extend(at(&["mcp"]).filter(|place| place.table.field("servers").is_none()));
    // Claude Code keeps some for each project directory.
    let projects = settings.field("projects").and_then(Tree::fields).unwrap_or_default();
    found.extend(projects.into_iter().filter_map(|(project, settings)| {
        let table = settings.field("mcpServers").filter(|table| table.fields().is_some())?;
        Some(Place { project: Some(project), table })
    }));
    found
}
