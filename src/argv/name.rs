//! What a person would call the server that a command line launches.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::options::Options;
use super::path::{image_name, is_generic, meaningful, package_name, stem};
use super::script::{Script, script};
use super::unwrap::inside;
use crate::session::Name;

/// Wrappers inside wrappers are followed this far: an argument cannot make us search for ever.
const DEPTH: u8 = 12;

/// Names the server that a command line launches, after what is really launched: the package that `npx` fetches, the
/// script that `node` runs, the image that `docker run` starts. The launcher's own name is the last resort, and
/// `server` stands for what has no name.
///
/// A script is called after its package, or else after the first part of its path that says something:
/// `/srv/my-mcp/dist/index.js` is `my-mcp`, `weather/server.py` is `weather`.
pub fn server_name(argv: &[String]) -> Name {
    let last_resort = || argv.first().map(|program| stem(program).to_owned());
    launched(argv, DEPTH)
        .or_else(last_resort)
        .and_then(|name| Name::from_lossy(&name))
        .unwrap_or_else(|| Name::parse("server").expect("`server` is a name"))
}

fn launched(argv: &[String], depth: u8) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    let (program, args) = argv.split_first()?;
    let program = stem(program);
    if let Some(inner) = inside(program, args) {
        return launched(&inner, depth);
    }
    if let Some((script, rest)) = script(argv) {
        return script_name(script, rest, depth);
    }
    match program {
        "npx" | "pnpx" | "bunx" => npx(args, depth),
        "npm" | "pnpm" | "yarn" | "bun" => package_manager(args, depth),
        "uvx" => uvx(args, depth),
        "uv" => uv(args, depth),
        "pipx" | "poetry" | "pdm" | "rye" | "hatch" | "pipenv" => python_runner(args, depth),
        "mcp" | "fastmcp" => mcp_tool(args),
        "docker" | "podman" | "nerdctl" => container(args),
        _ => meaningful(&argv[0]),
    }
}

fn script_name(script: Script<'_>, rest: &[String], depth: u8) -> Option<String> {
    match script {
        Script::File(path) => meaningful(path).or_else(|| Some(stem(path).to_owned())),
        Script::Package(specifier) => package_name(specifier),
        // `python -m uv run …` is `uv run …`.
        Script::Module(runner @ ("uv" | "pipx" | "poetry" | "pdm" | "fastmcp" | "mcp")) => {
            launched(&with_program(runner, rest), depth)
        }
        Script::Module(module) => {
            let says_something = module.rsplit('.').find(|part| !is_generic(part));
            Some(says_something.unwrap_or(module).to_owned())
        }
    }
}

fn with_program(program: &str, rest: &[String]) -> Vec<String> {
    std::iter::once(program.to_owned()).chain(rest.iter().cloned()).collect()
}

/// The operand of a package runner: a package, which may itself run something (`npx tsx server.ts`).
fn runnable(specifier: &str, rest: &[String], depth: u8) -> Option<String> {
    let name = package_name(specifier)?;
    launched(&with_program(&name, rest), depth).or(Some(name))
}

fn npx(args: &[String], depth: u8) -> Option<String> {
    const VALUED: [&str; 13] = [
        "-p",
        "--package",
        "-c",
        "--call",
        "--registry",
        "--prefix",
        "--cache",
        "--userconfig",
        "-w",
        "--workspace",
        "--loglevel",
        "--allow-build",
        "--cwd",
    ];
    let options = Options::read(args, &VALUED);
    if let Some(text) = options.value(&["-c", "--call"]) {
        return launched(&["sh", "-c", text].map(str::to_owned), depth);
    }
    chosen(&options, &["-p", "--package"], depth)
}

/// The operand of a package runner, or where it says nothing the package that was named by an option.
fn chosen(options: &Options<'_>, package: &[&str], depth: u8) -> Option<String> {
    let package = options.value(package).and_then(package_name);
    let operand = options.operands.split_first().and_then(|(specifier, rest)| runnable(specifier, rest, depth));
    match (operand, package) {
        (Some(generic), Some(package)) if is_generic(&generic) => Some(package),
        (operand, package) => operand.or(package),
    }
}

fn package_manager(args: &[String], depth: u8) -> Option<String> {
    const VALUED: [&str; 10] =
        ["--prefix", "-C", "--dir", "--cwd", "--filter", "-F", "-w", "--workspace", "--registry", "--loglevel"];
    let options = Options::read(args, &VALUED);
    let (verb, rest) = options.operands.split_first()?;
    if matches!(verb.as_str(), "exec" | "x" | "dlx") {
        return npx(rest, depth);
    }
    // A script of a package.json: called after the directory that was named, or after itself.
    let verb = if matches!(verb.as_str(), "run" | "run-script") { rest.first()? } else { verb };
    let directory = options.value(&["--prefix", "-C", "--dir", "--cwd", "--filter", "-F", "-w", "--workspace"]);
    directory.and_then(package_or_path).or_else(|| (!is_generic(verb)).then(|| verb.clone()))
}

fn package_or_path(text: &str) -> Option<String> {
    if text.starts_with('@') { package_name(text) } else { meaningful(text) }
}

const PYTHON_VALUED: [&str; 26] = [
    "--from",
    "--with",
    "--with-editable",
    "--with-requirements",
    "-p",
    "--python",
    "--directory",
    "--project",
    "--package",
    "--extra",
    "--group",
    "--only-group",
    "--env-file",
    "--index",
    "--index-url",
    "-i",
    "--default-index",
    "--extra-index-url",
    "--cache-dir",
    "--config-file",
    "--refresh-package",
    "--spec",
    "--pip-args",
    "-C",
    "-c",
    "--color",
];

fn uvx(args: &[String], depth: u8) -> Option<String> {
    chosen(&Options::read(args, &PYTHON_VALUED), &["--from"], depth)
}

fn uv(args: &[String], depth: u8) -> Option<String> {
    let options = Options::read(args, &PYTHON_VALUED);
    let words: Vec<&str> = options.operands.iter().take(2).map(String::as_str).collect();
    match words.as_slice() {
        ["tool", "run"] => uvx(&options.operands[2..], depth),
        ["run", ..] => {
            let run = Options::read(&options.operands[1..], &PYTHON_VALUED);
            let directory =
                ["--directory", "--project"].iter().find_map(|flag| run.value(&[flag]).or(options.value(&[flag])));
            in_project(&run, directory, depth)
        }
        _ => None,
    }
}

fn python_runner(args: &[String], depth: u8) -> Option<String> {
    let options = Options::read(args, &PYTHON_VALUED);
    let (_, rest) = options.operands.split_first().filter(|(verb, _)| *verb == "run")?;
    let run = Options::read(rest, &PYTHON_VALUED);
    match run.value(&["--spec"]) {
        Some(_) => chosen(&run, &["--spec"], depth),
        None => in_project(&run, options.value(&["-C", "--directory", "--project"]), depth),
    }
}

/// What `run` runs in a Python project. The project's directory names what has no better name (`server.py`).
fn in_project(run: &Options<'_>, directory: Option<&str>, depth: u8) -> Option<String> {
    let (command, rest) = run.operands.split_first()?;
    let name = match stem(command) {
        _ if run.has(&["-m", "--module"]) => script_name(Script::Module(command), rest, depth),
        script if script != command && !command.contains('/') => Some(script.to_owned()),
        _ => launched(run.operands, depth).or_else(|| package_name(command)),
    };
    match name {
        Some(name) if !is_generic(&name) => Some(name),
        poor => directory.and_then(meaningful).or(poor),
    }
}

/// `mcp run server.py:app` of the official Python SDK, and FastMCP's.
fn mcp_tool(args: &[String]) -> Option<String> {
    let options = Options::read(args, &[]);
    let (verb, rest) = options.operands.split_first()?;
    if !matches!(verb.as_str(), "run" | "dev") {
        return None;
    }
    let operand = Options::read(rest, &["--transport", "-t", "--with", "--python", "--project"]).operands.first()?;
    let path = operand.split(':').next().unwrap_or(operand);
    meaningful(path).or_else(|| Some(stem(path).to_owned()))
}

/// The image of `docker run`, the container of `docker exec` and `docker start`, the service of `docker compose run`.
fn container(args: &[String]) -> Option<String> {
    const GLOBAL: [&str; 9] =
        ["-c", "--context", "-H", "--host", "-l", "--log-level", "--config", "--connection", "-n"];
    let options = Options::read(args, &GLOBAL);
    let (verb, rest) = options.operands.split_first()?;
    match verb.as_str() {
        "container" => container(rest),
        "run" | "create" => image_name(operand_after_docker_options(rest)?),
        "exec" | "start" | "attach" => Some(operand_after_docker_options(rest)?.to_owned()),
        "compose" => {
            let compose = Options::read(rest, &["-f", "--file", "-p", "--project-name", "--env-file", "--profile"]);
            let (verb, rest) = compose.operands.split_first()?;
            let service =
                operand_after_docker_options(rest).filter(|_| matches!(verb.as_str(), "run" | "exec" | "up"))?;
            Some(service.to_owned())
        }
        _ => None,
    }
}

/// Docker has about a hundred options with a value and few without, so those without are listed.
fn operand_after_docker_options(args: &[String]) -> Option<&str> {
    const ALONE: [&str; 22] = [
        "--attach-stdin",
        "--detach",
        "--disable-content-trust",
        "--env-host",
        "--help",
        "--http-proxy",
        "--init",
        "--interactive",
        "--no-TTY",
        "--no-deps",
        "--no-healthcheck",
        "--no-hosts",
        "--oom-kill-disable",
        "--privileged",
        "--publish-all",
        "--quiet",
        "--read-only",
        "--replace",
        "--rm",
        "--rmi",
        "--sig-proxy",
        "--tty",
    ];
    let mut words = args.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if word == "--" {
            return words.next();
        }
        if !word.starts_with('-') || word == "-" {
            return Some(word);
        }
        let takes_next = match word.strip_prefix("--") {
            Some(_) => !word.contains('=') && !ALONE.contains(&word),
            // Letters stand together (`-it`); one with a value ends the cluster, and has it attached or in the next word.
            None => word[1..].trim_start_matches(['d', 'i', 'P', 'q', 't', 'T']).chars().count() == 1,
        };
        if takes_next {
            words.next();
        }
    }
    None
}

#[cfg(test)]
#[path = "name_tests.rs"]
mod tests;
