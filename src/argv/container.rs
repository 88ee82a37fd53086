//! What a command line asks of a container engine. The engine's daemon starts the container, so that it stands in no cgroup
//! of the command that asked.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::options::Options;

/// Options of `docker` and `podman` themselves that take the next word as their value.
const VALUED: [&str; 31] = [
    "-c",
    "-H",
    "-l",
    "--cdi-spec-dir",
    "--cgroup-manager",
    "--config",
    "--conmon",
    "--connection",
    "--context",
    "--events-backend",
    "--hooks-dir",
    "--host",
    "--identity",
    "--imagestore",
    "--log-level",
    "--module",
    "--network-cmd-path",
    "--network-config-dir",
    "--out",
    "--root",
    "--runroot",
    "--runtime",
    "--runtime-flag",
    "--ssh",
    "--storage-driver",
    "--storage-opt",
    "--tlscacert",
    "--tlscert",
    "--tlskey",
    "--tmpdir",
    "--url",
];

/// What a command line does with a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerUse<'a> {
    /// `docker run`, `podman container run`: it makes one.
    Run {
        /// The program.
        program: &'a str,
        /// The options of the program itself, which say which engine is meant.
        globals: &'a [String],
        /// Where an option of `run` can be put in: right after the word.
        at: usize,
    },
    /// It has to do with one in a way that is not followed.
    Unfollowed,
}

/// What a command line does with a container, where it does. A program in front of it (`sudo`, a shell) is not looked
/// through: what is put into its words would have to be quoted as it reads them.
pub fn container_use(words: &[String]) -> Option<ContainerUse<'_>> {
    let (program, rest) = words.split_first()?;
    match base(program) {
        "docker" | "podman" => {}
        "nerdctl" => return makes_one(rest).then_some(ContainerUse::Unfollowed),
        _ => return asks_within(rest).then_some(ContainerUse::Unfollowed),
    }
    let operands = Options::read(rest, &VALUED).operands;
    let (verb, after) = operands.split_first()?;
    let globals = &rest[..rest.len() - operands.len()];
    let (verb, after) = if verb == "container" { after.split_first()? } else { (verb, after) };
    match verb.as_str() {
        "run" => Some(ContainerUse::Run { program, globals, at: words.len() - after.len() }),
        "compose" | "create" | "exec" | "kube" | "play" | "start" => Some(ContainerUse::Unfollowed),
        _ => None,
    }
}

fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

fn makes_one(words: &[String]) -> bool {
    words.iter().any(|word| matches!(word.as_str(), "run" | "compose" | "exec" | "start"))
}

/// Whether `docker … run` stands among the arguments of another program, as words or as a text for a shell.
fn asks_within(words: &[String]) -> bool {
    let engine = |word: &str| matches!(base(word), "docker" | "podman" | "nerdctl");
    let as_words = words.iter().position(|word| engine(word)).is_some_and(|at| makes_one(&words[at + 1..]));
    let as_text = words.iter().any(|word| {
        let parts: Vec<String> = word.split_whitespace().map(str::to_owned).collect();
        parts.len() > 1 && parts.iter().position(|part| engine(part)).is_some_and(|at| makes_one(&parts[at + 1..]))
    });
    as_words || as_text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split('¦').map(str::to_owned).collect()
    }

    #[test]
    fn an_option_is_put_in_right_after_the_word_run_whatever_stands_around_it() {
        for (line, globals, at) in [
            ("docker¦run¦-i¦--rm¦mcp/fetch", 0, 2),
            ("/usr/bin/docker¦run¦mcp/fetch¦run", 0, 2),
            ("podman¦run¦--cgroup-parent=x.slice¦-d¦i", 0, 2),
            ("docker¦container¦run¦i", 0, 3),
            ("docker¦-H¦unix:///run/d.sock¦run¦i", 2, 4),
            ("docker¦--host=tcp://h¦-D¦run¦i", 2, 4),
            ("docker¦--context¦run¦run¦i", 2, 4),
            ("podman¦--log-level¦debug¦container¦run¦i", 2, 5),
            ("docker¦run", 0, 2),
        ] {
            let words = words(line);
            let Some(ContainerUse::Run { program, globals: found, at: place }) = container_use(&words) else {
                panic!("{line}")
            };
            assert_eq!((program, found.len(), place), (words[0].as_str(), globals, at), "{line}");
            assert_eq!(words[place - 1], "run", "{line}");
        }
    }

    #[test]
    fn what_is_not_followed_is_told_from_what_makes_no_container() {
        for line in [
            "docker¦exec¦-i¦notes¦server",
            "docker¦compose¦run¦notes",
            "docker¦container¦start¦-ai¦x",
            "podman¦kube¦play¦x.yaml",
            "nerdctl¦run¦i",
            "sudo¦docker¦run¦i",
            "env¦A=b¦/usr/bin/podman¦run¦i",
            "sh¦-c¦exec docker run -i --rm mcp/fetch",
        ] {
            assert_eq!(container_use(&words(line)), Some(ContainerUse::Unfollowed), "{line}");
        }
        for line in
            ["docker¦ps", "docker", "docker¦mcp¦gateway", "npx¦-y¦docker-mcp", "node¦run", "cat", "docker¦--run¦x"]
        {
            assert_eq!(container_use(&words(line)), None, "{line}");
        }
        assert_eq!(container_use(&[]), None);
    }
}
