//! What a command line asks of a container engine, and the options by which it is told where the container's cgroup goes. The
//! engine starts the container, which else stands in no cgroup of the command that asked.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::ffi::OsString;

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

/// Options of `run` that say where the container's cgroup goes.
const PLACES: [&str; 4] = ["--cgroup-parent", "--cgroups", "--pod", "--pod-id-file"];

/// The label that names a container's session, by its key.
pub const SESSION_LABEL: &str = "io.pinfold.session";

/// The label that names a container's server, by its leaf.
pub const SERVER_LABEL: &str = "io.pinfold.server";

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

/// Whether an engine is podman, which makes containers itself; docker asks its daemon.
pub fn is_podman(program: &str) -> bool {
    base(program) == "podman"
}

/// The last value of an option of the engine itself: empty where it is given without one.
pub fn global<'a>(globals: &'a [String], spellings: &[&str]) -> Option<&'a str> {
    let options = Options::read(globals, &VALUED);
    options.value(spellings).or_else(|| options.has(spellings).then_some(""))
}

/// Whether `run` is told by its own options where the container's cgroup goes. Among them stand the words for the container,
/// one of which may read the same: such a container stays where its engine puts it.
pub fn says_where(words: &[String]) -> bool {
    words.iter().any(|word| PLACES.contains(&word.split('=').next().unwrap_or_default()))
}

/// Whether podman may be told that the container's monitor stays where it is started: nothing else is said about it.
pub fn leaves_monitor(words: &[String]) -> bool {
    let mut said = words.iter().enumerate().filter_map(|(at, word)| match word.split_once('=') {
        Some(("--cgroups", value)) => Some(value),
        None if word == "--cgroups" => Some(words.get(at + 1).map_or("", String::as_str)),
        _ => None,
    });
    said.all(|value| value == "no-conmon")
}

/// Options that are put into a command which makes a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutIn<'a> {
    /// The cgroup that the container's is made in, where it is given one.
    pub parent: Option<&'a str>,
    /// Whether podman is told to leave the container's monitor where it is started, though the container is elsewhere.
    pub monitored: bool,
    /// The key of its session.
    pub session: &'a str,
    /// The leaf of its server.
    pub server: &'a str,
}

impl PutIn<'_> {
    /// Puts them in right behind the word `run`, which is at `at - 1`.
    pub fn into_command(self, podman: bool, at: usize, command: &[OsString]) -> Vec<OsString> {
        let mut made = command.to_vec();
        let labels = [(SESSION_LABEL, self.session), (SERVER_LABEL, self.server)];
        let mut put: Vec<String> = labels.map(|(label, value)| format!("--label={label}={value}")).to_vec();
        if let Some(parent) = self.parent {
            put.push(format!("--cgroup-parent={parent}"));
        }
        if podman && (self.parent.is_some() || self.monitored) {
            // Its monitor stays where it is started, and outlives the container to clean up after it.
            put.push("--cgroups=no-conmon".to_owned());
        }
        made.splice(at..at, put.into_iter().map(OsString::from));
        if podman && self.parent.is_some() {
            // Before whatever the command says itself, which is the same word then.
            made.insert(1, "--cgroup-manager=cgroupfs".into());
        }
        made
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
    fn what_is_put_in_stands_before_the_words_of_the_command() {
        let put = |line: &str, parent, monitored| {
            let (words, put) = (words(line), PutIn { parent, monitored, session: "s_1", server: "fs.2" });
            let Some(ContainerUse::Run { program, at, .. }) = container_use(&words) else { panic!("{line}") };
            let command: Vec<OsString> = words.iter().map(OsString::from).collect();
            let made = put.into_command(is_podman(program), at, &command);
            made.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        let labels = "--label=io.pinfold.session=s_1 --label=io.pinfold.server=fs.2";
        assert_eq!(
            put("podman¦--log-level¦debug¦container¦run¦-i¦x", Some("/a/b"), false),
            format!(
                "podman --cgroup-manager=cgroupfs --log-level debug container run {labels} --cgroup-parent=/a/b \
                 --cgroups=no-conmon -i x"
            )
        );
        assert_eq!(
            put("/usr/bin/docker¦run¦-i¦x¦run", Some("/a/b"), false),
            format!("/usr/bin/docker run {labels} --cgroup-parent=/a/b -i x run")
        );
        assert_eq!(put("podman¦run¦x", None, false), format!("podman run {labels} x"));
        assert_eq!(
            put("podman¦run¦--cgroup-parent=/c¦x", None, true),
            format!("podman run {labels} --cgroups=no-conmon --cgroup-parent=/c x")
        );
        assert_eq!(put("docker¦run", None, true), format!("docker run {labels}"));
    }

    #[test]
    fn a_command_that_says_where_its_container_goes_is_known_by_its_options() {
        for (line, says) in [
            ("-i¦--rm¦mcp/fetch", false),
            ("--cgroup-parent¦x.slice¦i", true),
            ("--cgroup-parent=/x¦i", true),
            ("-i¦--cgroups=split¦i", true),
            ("--pod=p¦i", true),
            ("--cgroupns=private¦--pids-limit=5¦i", false),
        ] {
            assert_eq!(says_where(&words(line)), says, "{line}");
        }
        for (line, leaves) in [
            ("--pod=p¦i", true),
            ("--cgroups=no-conmon¦i", true),
            ("--cgroups¦no-conmon¦i", true),
            ("--cgroups=enabled¦i", false),
            ("--cgroups¦split¦i", false),
            ("--cgroups", false),
            ("--cgroups=no-conmon¦--cgroups=disabled¦i", false),
        ] {
            assert_eq!(leaves_monitor(&words(line)), leaves, "{line}");
        }
        let globals = words("-H¦tcp://h:1¦--context=far¦--remote");
        assert_eq!(global(&globals, &["-H", "--host"]), Some("tcp://h:1"));
        assert_eq!(global(&globals, &["-c", "--context"]), Some("far"));
        assert_eq!((global(&globals, &["--remote"]), global(&globals, &["--url"])), (Some(""), None));
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
