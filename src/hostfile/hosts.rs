//! Which files the known hosts read.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Where a path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The home directory.
    Home,
    /// The directory of configurations: `XDG_CONFIG_HOME`, or `~/.config`.
    Config,
    /// The working directory: what a project brings.
    Here,
    /// The directory that this variable names; where it is set, the host reads nothing below the home directory.
    Directory(&'static str),
    /// This variable names the file itself, in the same way; the path is no more than what it is called.
    File(&'static str),
}

/// A host, under the name by which it is recognised among ancestors, and the files that it reads.
#[derive(Debug, Clone, Copy)]
pub struct HostFiles {
    /// Its name.
    pub name: &'static str,
    /// The files that it may have.
    pub files: &'static [(Base, &'static str)],
}

/// The known hosts.
pub const HOSTS: &[HostFiles] = &[
    HostFiles {
        name: "openclaw",
        files: &[
            (Base::File("OPENCLAW_CONFIG_PATH"), "openclaw.json"),
            (Base::Directory("OPENCLAW_STATE_DIR"), "openclaw.json"),
            (Base::Home, ".openclaw/openclaw.json"),
        ],
    },
    HostFiles {
        name: "claude-code",
        files: &[
            (Base::Directory("CLAUDE_CONFIG_DIR"), ".claude.json"),
            (Base::Home, ".claude.json"),
            (Base::Here, ".mcp.json"),
        ],
    },
    HostFiles { name: "cursor", files: &[(Base::Home, ".cursor/mcp.json"), (Base::Here, ".cursor/mcp.json")] },
    HostFiles {
        name: "vscode",
        files: &[
            (Base::Config, "Code/User/mcp.json"),
            (Base::Config, "Code/User/settings.json"),
            (Base::Config, "Code - Insiders/User/mcp.json"),
            (Base::Config, "VSCodium/User/mcp.json"),
            (Base::Home, ".vscode-server/data/Machine/mcp.json"),
            (Base::Here, ".vscode/mcp.json"),
            (Base::Here, ".vscode/settings.json"),
        ],
    },
    HostFiles {
        name: "gemini-cli",
        files: &[(Base::Home, ".gemini/settings.json"), (Base::Here, ".gemini/settings.json")],
    },
    HostFiles {
        name: "codex",
        files: &[
            (Base::Directory("CODEX_HOME"), "config.toml"),
            (Base::Home, ".codex/config.toml"),
            (Base::Here, ".codex/config.toml"),
        ],
    },
    HostFiles { name: "goose", files: &[(Base::Config, "goose/config.yaml")] },
    HostFiles {
        name: "opencode",
        files: &[
            (Base::File("OPENCODE_CONFIG"), "opencode.json"),
            (Base::Config, "opencode/opencode.json"),
            (Base::Config, "opencode/opencode.jsonc"),
            (Base::Here, "opencode.json"),
            (Base::Here, "opencode.jsonc"),
        ],
    },
    HostFiles { name: "zed", files: &[(Base::Config, "zed/settings.json"), (Base::Here, ".zed/settings.json")] },
];

/// Names of files that say enough where nothing is known of their directories.
const TELLING: &[&str] = &["openclaw.json", ".claude.json", ".mcp.json", "opencode.json", "opencode.jsonc"];

/// The host of this name.
pub fn host(name: &str) -> Option<&'static HostFiles> {
    HOSTS.iter().find(|host| host.name == name)
}

/// The host that reads a file of this path, as far as the path tells.
pub fn host_of(path: &str) -> Option<&'static HostFiles> {
    let ends = |end: &str| path.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('/'));
    let by_path = HOSTS.iter().find(|host| host.files.iter().any(|(_, file)| file.contains('/') && ends(file)));
    by_path.or_else(|| {
        let name = TELLING.iter().find(|name| ends(name))?;
        HOSTS.iter().find(|host| host.files.iter().any(|(_, file)| file == name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_its_host_or_none() {
        for (path, expected) in [
            ("/home/u/.openclaw/openclaw.json", Some("openclaw")),
            ("/srv/gateway/openclaw.json", Some("openclaw")),
            (".mcp.json", Some("claude-code")),
            ("/home/u/.claude.json", Some("claude-code")),
            ("/w/.cursor/mcp.json", Some("cursor")),
            ("/w/.vscode/mcp.json", Some("vscode")),
            ("/home/u/.config/Code/User/mcp.json", Some("vscode")),
            ("/home/u/.gemini/settings.json", Some("gemini-cli")),
            ("/home/u/.codex/config.toml", Some("codex")),
            ("/home/u/.config/goose/config.yaml", Some("goose")),
            ("/w/opencode.jsonc", Some("opencode")),
            ("/home/u/.config/zed/settings.json", Some("zed")),
            ("/w/mcp.json", None),
            ("/w/config.toml", None),
            ("/w/notopenclaw.json", None),
        ] {
            assert_eq!(host_of(path).map(|host| host.name), expected, "{path}");
        }
    }

    #[test]
    fn the_name_of_a_host_can_be_an_option_of_a_launch() {
        assert!(HOSTS.iter().all(|host| crate::session::Name::parse(host.name).is_ok()));
    }
}
