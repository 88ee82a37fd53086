//! Takes off what a command line wraps around another: `env`, `timeout 5`, `sh -c "exec …"`.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::options::Options;

/// Programs that run the command line in their arguments: their options with a value, and how many operands of their
/// own stand before the command.
const PREFIXES: [(&str, &[&str], usize); 22] = [
    ("caffeinate", &["-t", "-w"], 0),
    ("chrt", &["-T", "-P", "-D"], 1),
    ("command", &[], 0),
    ("cross-env", &[], 0),
    ("doas", &["-u", "-C"], 0),
    ("dumb-init", &["-r", "--rewrite"], 0),
    ("env", &["-u", "--unset", "-C", "--chdir"], 0),
    ("exec", &["-a"], 0),
    ("ionice", &["-c", "-n", "--class", "--classdata"], 0),
    ("nice", &["-n", "--adjustment"], 0),
    ("nohup", &[], 0),
    ("prlimit", &[], 0),
    ("setpriv", &["--reuid", "--regid", "--groups", "--inh-caps", "--bounding-set", "--pdeathsig"], 0),
    ("setsid", &[], 0),
    ("stdbuf", &["-i", "-o", "-e", "--input", "--output", "--error"], 0),
    ("sudo", &["-u", "-g", "-h", "-p", "-C", "-T", "-U", "-D", "-R", "--user", "--group", "--host", "--chdir"], 0),
    ("systemd-run", &["-p", "-u", "-E", "--property", "--unit", "--setenv", "--slice", "--description"], 0),
    ("taskset", &[], 1),
    ("time", &["-f", "-o"], 0),
    ("timeout", &["-s", "-k", "--signal", "--kill-after"], 1),
    ("tini", &["-p", "-e"], 0),
    ("xvfb-run", &["-n", "-s", "-e", "-f", "-p", "-w"], 0),
];

/// Programs that take the command line after `--`.
const AFTER_DASHES: [&str; 12] = [
    "aws-vault",
    "chamber",
    "devbox",
    "direnv",
    "doppler",
    "dotenv",
    "dotenvx",
    "infisical",
    "mise",
    "op",
    "pinfold",
    "teller",
];

const SHELLS: [&str; 8] = ["ash", "bash", "busybox", "dash", "fish", "ksh", "sh", "zsh"];

/// Commands of a shell that prepare the one that matters.
const SETUP: [&str; 33] = [
    ".", ":", "[", "[[", "break", "cd", "continue", "echo", "eval", "exit", "export", "false", "kill", "local",
    "mkdir", "printf", "pushd", "read", "readonly", "return", "set", "shift", "shopt", "sleep", "source", "test",
    "trap", "true", "type", "ulimit", "umask", "unset", "wait",
];

/// Words of a shell's grammar that stand before a command.
const BEFORE: [&str; 8] = ["!", "do", "elif", "else", "if", "then", "until", "while"];

/// Words of a shell's grammar with no command behind them.
const ALONE: [&str; 7] = ["case", "done", "esac", "fi", "for", "function", "select"];

/// The command line inside this one. `None` where `program` wraps nothing, or what it wraps cannot be told.
pub(super) fn inside(program: &str, args: &[String]) -> Option<Vec<String>> {
    if program == "env" {
        // What `env -S` splits comes before the other operands (env(1)).
        let options = Options::read(args, &["-u", "--unset", "-C", "--chdir", "-S", "--split-string"]);
        if let Some(text) = options.value(&["-S", "--split-string"]) {
            let mut words = commands(text).into_iter().next().unwrap_or_default();
            words.extend_from_slice(options.operands);
            return command(&words);
        }
    }
    if let Some((_, valued, operands)) = PREFIXES.iter().find(|(prefix, ..)| *prefix == program) {
        return command(Options::read(args, valued).operands.get(*operands..)?);
    }
    if AFTER_DASHES.contains(&program) {
        let dashes = args.iter().position(|arg| arg == "--")?;
        return command(&args[dashes + 1..]);
    }
    if SHELLS.contains(&program) { shell(args) } else { None }
}

/// Where in a command line the one begins that `is_it` knows, behind `env A=b` and other programs that start it word by word.
pub fn behind(words: &[String], is_it: impl Fn(&[String]) -> bool) -> Option<usize> {
    let mut inner = words.to_vec();
    while let Some((program, args)) = inner.split_first() {
        let next = inside(program.rsplit('/').next().unwrap_or_default(), args)?;
        if next.len() >= inner.len() || !words.ends_with(&next) {
            return None;
        }
        if is_it(&next) {
            return Some(words.len() - next.len());
        }
        inner = next;
    }
    None
}

/// What follows the assignments that may stand before a command.
fn command(words: &[String]) -> Option<Vec<String>> {
    let is_assignment = |word: &String| word.split_once('=').is_some_and(|(name, _)| is_variable(name));
    let at = words.iter().position(|word| !is_assignment(word))?;
    Some(words[at..].to_vec())
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The command line that `sh -c` runs: the first command that is no preparation. A script is a program like another.
fn shell(args: &[String]) -> Option<Vec<String>> {
    let mut runs_text = false;
    let mut at = 0;
    while let Some(flag) = args.get(at).filter(|arg| arg.starts_with(['-', '+']) && arg.len() > 1) {
        at += 1;
        if flag == "--" {
            break;
        }
        let letters = if flag.starts_with("--") { "" } else { &flag[1..] };
        runs_text |= letters.contains('c');
        if letters.ends_with(['o', 'O']) {
            at += 1;
        }
    }
    let (text, parameters) = args.get(at..)?.split_first()?;
    if !runs_text {
        return Some(std::iter::once(text).chain(parameters).cloned().collect());
    }
    let (zero, rest) = parameters.split_at(parameters.len().min(1));
    let expand = |word: String| match word.as_str() {
        "$0" => zero.to_vec(),
        "$@" | "$*" => rest.to_vec(),
        _ => vec![word],
    };
    let expanded = commands(text).into_iter().map(|words| words.into_iter().flat_map(expand).collect::<Vec<_>>());
    let begun = expanded.filter_map(|words| {
        command(words.iter().position(|word| !is_one_of(word, &BEFORE)).map_or(&[], |at| &words[at..]))
    });
    begun.into_iter().find(|words| !is_one_of(&words[0], &SETUP) && !is_one_of(&words[0], &ALONE))
}

fn is_one_of(word: &str, words: &[&str]) -> bool {
    words.contains(&word)
}

/// Splits the text of a shell into commands and words, as far as quotes and operators go. It expands nothing: what is
/// wanted is a name for people, not what a shell would do.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    // How many `$(` of the word are open.
    let mut nested = 0;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('"') | None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '(') if nested > 0 || word.as_ref().is_some_and(|word| word.ends_with('$')) => {
                nested += 1;
                word.get_or_insert_default().push(c);
            }
            (None, c) if nested > 0 => {
                nested -= usize::from(c == ')');
                word.get_or_insert_default().push(c);
            }
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ';' | '&' | '|' | '\n' | '(' | ')' | '{' | '}') if c != '{' && c != '}' || word.is_none() => {
                all.last_mut().expect("it never gets empty").extend(word.take());
                all.push(Vec::new());
            }
            (None, c) if c.is_whitespace() => all.last_mut().expect("it never gets empty").extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    all.last_mut().expect("it never gets empty").extend(word);
    all.retain(|words| !words.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapper_is_taken_off() {
        for (program, args, expected) in [
            ("env", "A=b¦-¦x", Some("-¦x")),
            ("env", "-i¦-u¦A¦B=c¦npx¦x", Some("npx¦x")),
            ("env", "-S¦node --flag x.js¦y", Some("node¦--flag¦x.js¦y")),
            ("env", "A=b", None),
            ("nice", "-n¦5¦x", Some("x")),
            ("nice", "-5¦x", Some("x")),
            ("timeout", "-k¦1¦5¦npx¦x", Some("npx¦x")),
            ("timeout", "5", None),
            ("stdbuf", "-oL¦-e¦0¦x", Some("x")),
            ("sudo", "-u¦alice¦-E¦A=b¦x¦y", Some("x¦y")),
            ("dotenvx", "run¦-f¦.env¦--¦x", Some("x")),
            ("dotenvx", "run¦x", None),
            ("pinfold", "run¦--server¦a¦--¦npx¦x", Some("npx¦x")),
            ("sh", "-c¦exec npx -y x", Some("exec¦npx¦-y¦x")),
            ("bash", "-lc¦cd '/a b' && A=b npx \"x y\" | tee log", Some("npx¦x y")),
            ("bash", "-o¦pipefail¦-c¦. ~/.nvm/nvm.sh;npx x", Some("npx¦x")),
            ("sh", "-c¦exec \"$0\" \"$@\"¦npx¦x", Some("exec¦npx¦x")),
            ("sh", "-c¦exec \"$@\"¦sh¦npx¦x", Some("exec¦npx¦x")),
            ("sh", "-c¦{ npx ${X}; }", Some("npx¦${X}")),
            ("sh", "-c¦if [ -f x ]; then npx x; else exit 1; fi", Some("npx¦x")),
            ("sh", "-c¦for i in 1 2; do A=b npx x; done", Some("npx¦x")),
            ("sh", "-c¦while ! npx x; do sleep 1; done; exit", Some("npx¦x")),
            ("sh", "-c¦i=0; while [ $i -lt 9 ]; do sleep 1 & i=$((i+1)); done; wait", None),
            ("sh", "-c¦", None),
            ("sh", "-c", None),
            ("sh", "-e¦start.sh¦x", Some("start.sh¦x")),
            ("npx", "x", None),
        ] {
            let args: Vec<String> = args.split('¦').map(str::to_owned).collect();
            assert_eq!(inside(program, &args).map(|words| words.join("¦")).as_deref(), expected, "{program} {args:?}");
        }
    }
}
