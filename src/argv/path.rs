//! Names out of paths and package specifiers.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// The last component of a path.
pub(super) fn basename(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// The last component of a path without the ending of a program or script: `dist/index.js` is `index`.
pub fn stem(path: &str) -> &str {
    const ENDINGS: [&str; 16] =
        ["js", "mjs", "cjs", "jsx", "ts", "mts", "cts", "tsx", "py", "pyz", "sh", "rb", "pl", "php", "jar", "exe"];
    let name = basename(path);
    match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() && ENDINGS.contains(&ending) => stem,
        _ => name,
    }
}

/// Whether a name says nothing about whose program it is: `index`, `server`, `main`, `dist`, `v1.2`…
pub fn is_generic(name: &str) -> bool {
    const GENERIC: [&str; 33] = [
        "__main__",
        "app",
        "bin",
        "build",
        "bundle",
        "cli",
        "cmd",
        "debug",
        "dev",
        "dist",
        "entry",
        "entrypoint",
        "esm",
        "cjs",
        "index",
        "launch",
        "lib",
        "main",
        "mcp",
        "mcp-server",
        "mcp_server",
        "mod",
        "out",
        "package",
        "release",
        "run",
        "scripts",
        "server",
        "src",
        "start",
        "stdio",
        "target",
        "venv",
    ];
    let lower = name.to_ascii_lowercase();
    let version = lower.strip_prefix('v').unwrap_or(&lower);
    GENERIC.contains(&lower.as_str())
        || name.starts_with('.')
        || version.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// The package that a file below `node_modules` belongs to, without its scope: `…/node_modules/@scope/pkg/dist/x.js`
/// is `pkg`. With several `node_modules`, the innermost counts.
pub fn package(path: &str) -> Option<&str> {
    let (scope, name) = scope_and_package(path)?;
    Some(name.unwrap_or(scope))
}

/// The product whose versions are kept beside each other: `claude` of `/x/claude/versions/2.1.90`.
pub fn versioned(path: &str) -> Option<&str> {
    let (product, _) = path.rsplit_once("/versions/")?;
    Some(basename(product)).filter(|name| !name.is_empty())
}

/// The first two components of a package below `node_modules`: the scope and the name, or the name and nothing.
fn scope_and_package(path: &str) -> Option<(&str, Option<&str>)> {
    let (_, inside) = path.rsplit_once("node_modules/")?;
    let mut parts = inside.split('/').filter(|part| !part.is_empty());
    match parts.next()? {
        bin if bin.starts_with('.') => None,
        scope if scope.starts_with('@') => parts.next().map(|name| (scope, Some(name))),
        name => Some((name, None)),
    }
}

/// What a person would call the program of this path. A file of a package is called after the package. Otherwise the
/// first name that says something counts, from the file upwards: `/srv/my-mcp/dist/index.js` is `my-mcp`. Places
/// that hold everybody's files (`/srv`, `/home/alice`) are no names. `None` where nothing else is left.
pub(super) fn meaningful(path: &str) -> Option<String> {
    if let Some((scope, Some(name))) = scope_and_package(path) {
        return Some(scoped(scope, name));
    }
    if let Some(name) = package(path) {
        return Some(name.to_owned());
    }
    let mut parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    let file = stem(parts.pop()?);
    let places = match parts.as_slice() {
        ["home" | "Users", _, ..] if path.starts_with('/') => 2,
        ["usr", "local" | "share", ..] if path.starts_with('/') => 2,
        ["srv" | "opt" | "usr" | "root" | "tmp" | "var" | "mnt" | "data" | "app" | "work", ..]
            if path.starts_with('/') =>
        {
            1
        }
        _ => 0,
    };
    let above = parts[places.min(parts.len())..].iter().rev().copied();
    std::iter::once(file).chain(above).find(|name| !is_generic(name)).map(str::to_owned)
}

/// A package with its scope, where the name alone says nothing: `@playwright/mcp` is `playwright-mcp`.
fn scoped(scope: &str, name: &str) -> String {
    match scope.trim_start_matches('@') {
        owner if is_generic(name) && !owner.is_empty() => format!("{owner}-{name}"),
        _ => name.to_owned(),
    }
}

/// What a person would call this package: no scope, no version, no extras.
///
/// Reads what npx, bunx, deno, uvx and pipx take: `@scope/pkg@latest`, `npm:pkg`, `pkg==1.2`, `pkg[extra]>=1`,
/// `git+https://host/user/repo.git@ref`, `github:user/repo#ref`, a path, an archive.
pub(super) fn package_name(specifier: &str) -> Option<String> {
    let bare = ["npm:", "jsr:"].iter().find_map(|prefix| specifier.strip_prefix(prefix)).unwrap_or(specifier);
    let bare = bare.split(['#', '?']).next().unwrap_or(bare);
    if let Some(scoped_name) = bare.strip_prefix('@') {
        let (scope, name) = scoped_name.split_once('/')?;
        let name = name.split(['@', '/']).next().unwrap_or(name);
        return (!name.is_empty()).then(|| scoped(scope, name));
    }
    let name = match bare.rsplit_once('/') {
        // `pkg @ git+https://…` (PEP 508) names the package first.
        _ if bare.contains(" @ ") => bare.split(' ').next()?,
        Some(_) if bare.starts_with(['.', '/', '~']) => return meaningful(bare),
        Some((owner, repository)) => {
            let repository = repository.split('@').next().unwrap_or(repository);
            let repository = repository.trim_end_matches(".git").trim_end_matches(".tgz");
            return (!repository.is_empty())
                .then(|| scoped(basename(owner).rsplit(':').next().unwrap_or(""), repository));
        }
        None => bare,
    };
    let name = name.split(['@', '=', '<', '>', '~', '!', '[', ';', ' ']).next().unwrap_or(name);
    (!name.is_empty()).then(|| name.to_owned())
}

/// What a person would call this container image: no registry, no tag, no digest.
pub(super) fn image_name(image: &str) -> Option<String> {
    let untagged = image.split('@').next().unwrap_or(image);
    let (owner, name) = untagged.rsplit_once('/').unwrap_or(("", untagged));
    let name = name.split(':').next().unwrap_or(name);
    (!name.is_empty()).then(|| scoped(basename(owner).split(':').next().unwrap_or(""), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_called_after_the_first_name_that_says_something() {
        for (path, expected) in [
            ("/srv/my-mcp/dist/index.js", Some("my-mcp")),
            ("/x/node_modules/@scope/pkg/dist/index.js", Some("pkg")),
            ("/x/node_modules/@playwright/mcp/cli.js", Some("playwright-mcp")),
            ("/x/node_modules/pkg/build/stdio-entry.js", Some("pkg")),
            ("/x/node_modules/a/node_modules/b/x.js", Some("b")),
            ("/x/node_modules/.bin/mcp-server-fs", Some("mcp-server-fs")),
            ("node_modules/pkg/x.js", Some("pkg")),
            ("weather/server.py", Some("weather")),
            ("./weather.py", Some("weather")),
            ("/home/alice/server.js", None),
            ("/home/alice/notes/src/server.js", Some("notes")),
            ("/srv/server.js", None),
            ("/app/dist/index.js", None),
            ("server.js", None),
            ("../index.js", None),
            ("/opt/foo/v1.2.3/bin/server", Some("foo")),
            ("/usr/local/bin/github-mcp-server", Some("github-mcp-server")),
            ("", None),
            ("/", None),
        ] {
            assert_eq!(meaningful(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn a_package_is_called_without_scope_and_version() {
        for (specifier, expected) in [
            ("@upstash/context7-mcp", Some("context7-mcp")),
            ("@upstash/context7-mcp@latest", Some("context7-mcp")),
            ("@playwright/mcp@latest", Some("playwright-mcp")),
            ("pkg@1.2", Some("pkg")),
            ("pkg@^1.0.0-beta.3", Some("pkg")),
            ("npm:pkg@1", Some("pkg")),
            ("jsr:@s/p@1/sub", Some("p")),
            ("pkg==1.2", Some("pkg")),
            ("pkg[all]>=1,<2", Some("pkg")),
            ("pkg @ git+https://x/y", Some("pkg")),
            ("github:user/repo#v1", Some("repo")),
            ("user/repo", Some("repo")),
            ("git+https://github.com/user/repo.git@main", Some("repo")),
            ("https://x.org/a/thing.tgz", Some("thing")),
            ("./my-mcp", Some("my-mcp")),
            ("@scope", None),
            ("@", None),
            ("", None),
        ] {
            assert_eq!(package_name(specifier).as_deref(), expected, "{specifier}");
        }
    }

    #[test]
    fn an_image_is_called_without_registry_and_tag() {
        for (image, expected) in [
            ("mcp/github", "github"),
            ("ghcr.io/github/github-mcp-server:v1.2", "github-mcp-server"),
            ("localhost:5000/fetch", "fetch"),
            ("acme/mcp@sha256:abcd", "acme-mcp"),
            ("postgres:16", "postgres"),
        ] {
            assert_eq!(image_name(image).as_deref(), Some(expected), "{image}");
        }
    }
}
