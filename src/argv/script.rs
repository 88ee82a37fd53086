//! Which script an interpreter runs.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::options::Options;
use super::path::basename;

/// What an interpreter was told to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script<'a> {
    /// A file, as it was written.
    File(&'a str),
    /// A Python module (`-m`).
    Module(&'a str),
    /// A package that the interpreter fetches by itself: `deno run npm:…`.
    Package(&'a str),
}

/// The script of a command line whose program is an interpreter (node, bun, deno, tsx, Python, Ruby, Perl, PHP,
/// `java -jar`) and the arguments after it. `None` for other programs, for code on the command line (`-e`, `-c`) and
/// for a prompt.
pub fn script(argv: &[String]) -> Option<(Script<'_>, &[String])> {
    let (program, args) = argv.split_first()?;
    let program = basename(program);
    let versionless = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    match versionless {
        "node" | "nodejs" | "tsx" | "ts-node" | "bun" | "deno" => javascript(versionless, args),
        "python" | "pypy" => python(args),
        "ruby" | "perl" | "php" => file(args, &["-I", "-r", "-d", "-c", "-f", "-C"], &["-e", "-n"]),
        "java" => {
            let options = Options::read(args, &["-jar", "-cp", "-classpath", "--class-path", "-p", "--module-path"]);
            Some((Script::File(options.value(&["-jar"])?), options.operands))
        }
        _ => None,
    }
}

fn javascript<'a>(program: &str, args: &'a [String]) -> Option<(Script<'a>, &'a [String])> {
    const VALUED: [&str; 15] = [
        "-r",
        "--require",
        "--import",
        "--loader",
        "--experimental-loader",
        "-C",
        "--conditions",
        "--env-file",
        "--env-file-if-exists",
        "--title",
        "--tsconfig",
        "-P",
        "--project",
        "--cwd",
        "-c",
    ];
    const CODE: [&str; 4] = ["-e", "--eval", "-p", "--print"];
    let options = Options::read(args, &VALUED);
    let deno = program == "deno";
    if options.has(&CODE) && !deno {
        return None;
    }
    match options.operands.split_first()? {
        (word, rest) if word == "run" && program != "node" && program != "nodejs" => {
            // deno takes the values of its permissions after `=`.
            file(rest, if deno { &["-c", "--config", "--import-map", "--env-file"] } else { &VALUED }, &[])
        }
        (word, _) if word == "x" && program == "bun" => None,
        (word, rest) if word == "watch" && program == "tsx" => file(rest, &VALUED, &CODE),
        _ if deno => None,
        (word, rest) => Some((Script::File(word), rest)),
    }
}

fn python(args: &[String]) -> Option<(Script<'_>, &[String])> {
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        let rest = args.get(at + 1..).unwrap_or_default();
        at += 1;
        let Some(letters) = arg.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            return (arg != "-").then_some((Script::File(arg), rest));
        };
        if letters.starts_with('-') {
            continue;
        }
        // Letters may stand together (`-um module`); the first of these ends the cluster (python(1)).
        match letters.find(['m', 'c', 'W', 'X']).map(|i| letters.split_at(i)) {
            None => {}
            Some((_, attached)) if attached.len() > 1 && attached.starts_with('m') => {
                return Some((Script::Module(&attached[1..]), rest));
            }
            Some((_, "m")) => return rest.split_first().map(|(module, rest)| (Script::Module(module.as_str()), rest)),
            Some((_, code)) if code.starts_with('c') => return None,
            Some((_, "W" | "X")) => at += 1,
            Some(_) => {}
        }
    }
    None
}

fn file<'a>(args: &'a [String], valued: &[&str], code: &[&str]) -> Option<(Script<'a>, &'a [String])> {
    let options = Options::read(args, valued);
    let (word, rest) = options.operands.split_first().filter(|_| !options.has(code))?;
    let script =
        if word.starts_with("npm:") || word.starts_with("jsr:") { Script::Package(word) } else { Script::File(word) };
    Some((script, rest))
}

#[cfg(test)]
mod tests {
    use super::Script::*;
    use super::*;

    #[test]
    fn an_interpreter_is_known_by_its_script() {
        for (line, expected) in [
            ("node server.js --port 1", Some(File("server.js"))),
            ("/usr/bin/node --max-old-space-size=512 -r ts/register a/b.js", Some(File("a/b.js"))),
            ("node --import tsx -- src/index.ts", Some(File("src/index.ts"))),
            ("node -e 1 x", None),
            ("node", None),
            ("tsx watch src/a.ts", Some(File("src/a.ts"))),
            ("bun run a.ts", Some(File("a.ts"))),
            ("bun a.ts", Some(File("a.ts"))),
            ("deno run -A npm:@s/p@1", Some(Package("npm:@s/p@1"))),
            ("deno run --allow-net=a,b a.ts", Some(File("a.ts"))),
            ("deno task x", None),
            ("python3.12 -m a.b c", Some(Module("a.b"))),
            ("python -um a", Some(Module("a"))),
            ("python -ma", Some(Module("a"))),
            ("python -u -W ignore -Xdev --check-hash-based-pycs x.py", Some(File("x.py"))),
            ("python -c code x", None),
            ("python -", None),
            ("python -m", None),
            ("java -Xmx1g -jar my-mcp.jar --x", Some(File("my-mcp.jar"))),
            ("ruby -I lib server.rb", Some(File("server.rb"))),
            ("bash x.sh", None),
        ] {
            let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(script(&argv).map(|(script, _)| script), expected, "{line}");
        }
    }

    #[test]
    fn arguments_after_the_script_are_its_own() {
        let argv = ["node", "a.js", "-e", "x"].map(str::to_owned);
        assert_eq!(script(&argv), Some((File("a.js"), &argv[2..])));
    }
}
