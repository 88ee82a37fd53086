//! Whether a command line looks like that of an MCP server.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::argv::{self, Script};
use crate::session::Name;

/// How many components of a script's path may name it, from its file upwards.
const COMPONENTS: usize = 4;

/// Names the server that a command line looks like. `None` where nothing in the name of what it runs says MCP: its
/// package, its script, its module, its image, or its own.
///
/// `directory` is where it runs, by which a script with a relative path is called.
pub fn looks_like_server(argv: &[String], directory: Option<&str>) -> Option<Name> {
    let words = &words(argv);
    let program = words.first().map(|program| argv::stem(program))?;
    // Ours are the orders about servers, and launchers that are on their way into a leaf.
    if program == "pinfold" {
        return None;
    }
    let name = argv::server_name(words);
    let says = says_mcp(name.as_str())
        || words.iter().any(|word| is_package_of(word, &name))
        || script_path(words, directory).is_some_and(|path| path_says_mcp(&path));
    let named = |name: &Name| {
        // A name that says nothing gives way to that of the place.
        let path = script_path(words, directory).filter(|_| argv::is_generic(name.as_str()))?;
        let placed = argv::server_name(&[words[0].clone(), path]);
        Some(placed).filter(|placed| !argv::is_generic(placed.as_str()))
    };
    says.then(|| named(&name).unwrap_or(name))
}

/// The command line as words, also where a process wrote it as a title: `npm exec @scope/pkg` in one word.
pub(super) fn words(argv: &[String]) -> Vec<String> {
    match argv {
        [title] if title.contains(' ') && !title.split(' ').next().unwrap_or_default().contains('/') => {
            title.split_whitespace().map(str::to_owned).collect()
        }
        words => words.to_vec(),
    }
}

/// Whether one word of a name is MCP, or begins or ends with it.
fn says_mcp(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("modelcontextprotocol")
        || text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word.starts_with("mcp") || word.ends_with("mcp"))
}

/// Whether a word is the package, or the image, that the name comes from, and the part of it that is not in the name says
/// it: `@modelcontextprotocol/server-everything`, `mcp/github`. Paths are looked at elsewhere.
fn is_package_of(word: &str, name: &Name) -> bool {
    let is_path = word.starts_with(['/', '.', '~', '-']) || word.contains('=') || word.contains(' ');
    !is_path && word.contains(name.as_str()) && says_mcp(word)
}

/// The path of the script that an interpreter runs.
fn script_path(words: &[String], directory: Option<&str>) -> Option<String> {
    match argv::script(words)? {
        (Script::File(path), _) if path.starts_with('/') => Some(path.to_owned()),
        (Script::File(path), _) => Some(format!("{}/{path}", directory?.trim_end_matches('/'))),
        (Script::Module(_) | Script::Package(_), _) => None,
    }
}

/// Whether a script's path says it. A file of a package is the package's, wherever that was installed; and the directory
/// of a file with a name of its own says nothing about it.
fn path_says_mcp(path: &str) -> bool {
    if let Some((_, inside)) = path.rsplit_once("node_modules/") {
        return inside.split('/').take(2).any(says_mcp);
    }
    let mut parts = path.rsplit('/').filter(|part| !matches!(*part, "" | "."));
    let Some(file) = parts.next() else { return false };
    if !argv::is_generic(argv::stem(file)) {
        return says_mcp(file);
    }
    // `/srv/my-mcp/dist/index.js`: up to the first directory with a name of its own.
    for part in parts.take(COMPONENTS - 1) {
        if says_mcp(part) {
            return true;
        }
        if !argv::is_generic(part) {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(line: &str, directory: &str) -> Option<String> {
        let argv: Vec<String> = line.split('|').map(str::to_owned).collect();
        looks_like_server(&argv, Some(directory)).map(|name| name.to_string())
    }

    #[test]
    fn a_server_is_told_by_its_package_script_module_image_or_program() {
        for (line, directory, expected) in [
            // As /proc/PID/cmdline shows them: npm writes a title over its command line.
            ("npm exec @modelcontextprotocol/server-everything", "/", "server-everything"),
            ("npm exec @playwright/mcp@latest --headless", "/", "playwright-mcp"),
            ("sh|-c|mcp-server-everything", "/", "mcp-server-everything"),
            ("node|/root/.npm/_npx/1f/node_modules/.bin/mcp-server-everything", "/", "mcp-server-everything"),
            ("node|/x/node_modules/@modelcontextprotocol/server-github/dist/index.js", "/", "server-github"),
            ("npx|-y|@upstash/context7-mcp", "/", "context7-mcp"),
            ("/usr/bin/npx|-y|mcp-remote|https://x/sse", "/", "mcp-remote"),
            ("uvx|mcp-server-fetch", "/", "mcp-server-fetch"),
            ("/root/.cache/uv/bin/python|/root/.cache/uv/bin/mcp-server-fetch", "/", "mcp-server-fetch"),
            ("python3|-m|mcp_server_git|--repository|/x", "/", "mcp_server_git"),
            ("uv|run|--directory|/srv/weather-mcp|server.py", "/", "weather-mcp"),
            ("docker|run|-i|--rm|-e|TOKEN|mcp/github", "/", "github"),
            ("docker|run|-i|--rm|ghcr.io/github/github-mcp-server", "/", "github-mcp-server"),
            ("/usr/local/bin/github-mcp-server|stdio", "/", "github-mcp-server"),
            ("node|dist/index.js", "/srv/my-mcp", "my-mcp"),
            ("python|server.py", "/home/u/weather-mcp", "weather-mcp"),
            ("node|/opt/mcp/server.js", "/", "server"),
            ("node|/home/u/my-mcp/dist/index.js", "/", "my-mcp"),
            ("bunx|xcodebuildmcp", "/", "xcodebuildmcp"),
            ("bash|-c|cd /x && exec npx -y mcp-remote https://x", "/", "mcp-remote"),
        ] {
            assert_eq!(looks(line, directory).as_deref(), Some(expected), "{line}");
        }
    }

    #[test]
    fn what_only_speaks_of_servers_is_none() {
        for (line, directory) in [
            ("vim|/srv/my-mcp/server.py", "/srv/my-mcp"),
            ("grep|-r|mcp|/x", "/srv/my-mcp"),
            ("tail|-f|/var/log/mcp.log", "/"),
            ("claude|--mcp-config|/x/mcp.json", "/"),
            ("npm|install|@modelcontextprotocol/server-everything", "/"),
            ("npm run dev", "/srv/my-mcp"),
            ("node|/srv/my-mcp/node_modules/.bin/vite", "/srv/my-mcp"),
            ("node|/srv/my-mcp/node_modules/vite/bin/vite.js", "/srv/my-mcp"),
            ("python|manage.py|runserver", "/srv/my-mcp"),
            ("pinfold|run|--|npx|-y|mcp-remote", "/"),
            ("pinfold|adopt|12|--session|mcp", "/"),
            ("git|clone|https://x/my-mcp", "/"),
            ("sleep|1000", "/srv/my-mcp"),
            ("bash", "/srv/my-mcp"),
            ("sshd: u [mcp]", "/"),
            ("", "/"),
        ] {
            assert_eq!(looks(line, directory), None, "{line}");
        }
        assert_eq!(looks_like_server(&[], None), None);
    }
}
