//! Words from the user, and exit statuses: 0 done, 1 the answer is no, 2 usage; 125 to 127 of `run`.

mod adopt;
mod args;
mod completions;
mod doctor;
mod end;
mod events;
mod history;
mod hook;
mod label;
mod ls;
mod nearest;
mod park;
mod progress;
mod reload;
mod run;
mod scan;
mod serve;
mod service;
mod status;
mod text;
mod top;
mod wrap;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser};

use args::{Arguments, Command};

/// Done.
const DONE: u8 = 0;
/// The answer is no, or it failed.
const NO: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    crate::sys::accounts::keep_to_files();
    let words: Vec<OsString> = std::env::args_os().collect();
    let command = match launch(&words).map_or_else(|| Arguments::try_parse_from(words).map(|all| all.command), Ok) {
        Ok(command) => command,
        Err(error) => return usage(&of_words_alone(error)),
    };
    let status = match command {
        Command::Run(run) => run::run(run),
        Command::Adopt(adopt) => adopt::adopt(adopt),
        Command::Serve(serve) => serve::serve(serve),
        Command::Ls(ls) => ls::ls(&ls),
        Command::Status(status) => status::status(&status),
        Command::Top(top) => top::top(top),
        Command::End(end) => end::end(&end),
        Command::Park(park) => park::park(&park),
        Command::Thaw(thaw) => park::thaw(&thaw),
        Command::Events(events) => events::events(&events),
        Command::History(history) => history::history(&history),
        Command::Reload(reload) => reload::reload(&reload),
        Command::Label(label) => label::label(&label),
        Command::Scan(scan) => scan::scan(&scan),
        Command::Hook(hook) => hook::hook(hook),
        Command::Doctor(doctor) => doctor::doctor(&doctor),
        Command::Wrap(wrap) => wrap::wrap(&wrap),
        Command::Unwrap(unwrap) => wrap::unwrap(&unwrap),
        Command::Completions(completions) => completions::completions(&completions),
    };
    ExitCode::from(status)
}

/// A launch, where that is what these words ask for. A host waits for it, so it is parsed by itself: to set up all other commands,
/// too, takes a fifth of what a launcher executes. What is wrong with it, and what only asks for help, is told by the whole.
fn launch(words: &[OsString]) -> Option<Command> {
    let own = words.get(1..).filter(|own| own.first().is_some_and(|word| word == "run"))?;
    let told = args::Run::augment_args(clap::Command::new("run")).try_get_matches_from(own).ok()?;
    args::Run::from_arg_matches(&told).ok().map(Command::Run)
}

/// The command line as it is parsed, for whoever writes it down.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The same error with a usage line of what is written: one that is set by the environment would stand there as if it were
/// required.
fn of_words_alone(error: clap::Error) -> clap::Error {
    let without = |command: clap::Command| command.mut_args(|argument| argument.env(None::<&str>));
    let alone = without(command()).mut_subcommands(without).try_get_matches().err();
    alone.filter(|alone| alone.kind() == error.kind()).unwrap_or(error)
}

/// Prints what is wrong with the command line. `run` stands for another program, whose statuses are kept free as env(1)
/// keeps them: its own are from 125 on.
fn usage(error: &clap::Error) -> ExitCode {
    // A closed stderr leaves nobody to tell.
    let _ = error.print();
    let is_run = std::env::args_os().nth(1).is_some_and(|word| word == "run");
    let status = error.exit_code();
    ExitCode::from(if is_run && status == i32::from(USAGE) { crate::launch::EXIT_PINFOLD } else { status as u8 })
}

/// Prints an error with its causes, and gives the exit status for it.
fn failed(error: &dyn std::error::Error) -> u8 {
    eprintln!("pinfold: {}", crate::chain::chain(error));
    NO
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn a_launch_that_is_parsed_alone_is_what_the_whole_command_line_makes_of_it() {
        for line in [
            "pinfold run cat",
            "pinfold run -- cat -v",
            "pinfold run cat --session not-ours --help",
            "pinfold run --session s --server=fs --host codex --label a=b --label c=d -- npx -y server /data",
            "pinfold run --memory-max 60% --memory-high 1G --pids-max 64 --cpu-max 50% --grace 2min --uncontained cat",
            "pinfold run --confine --socket /run/here.sock cat",
            "/usr/bin/pinfold run --confine=strict -- run run",
        ] {
            let words = words(line);
            let alone = launch(&words).map(|command| format!("{command:?}"));
            let whole = Arguments::try_parse_from(&words).map(|all| format!("{:?}", all.command));
            assert_eq!(alone, Some(whole.unwrap()), "{line}");
        }
    }

    #[test]
    fn a_word_of_a_launch_may_be_of_any_bytes_and_nothing_is_said_before_run() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(vec![b'a', 0xff]);
        let words = ["pinfold", "run", "--"].map(OsString::from).into_iter().chain([odd.clone()]).collect::<Vec<_>>();
        let Some(Command::Run(run)) = launch(&words) else { panic!("it is a launch") };
        assert_eq!(run.command, [odd]);
        // An argument that stood before the command, or that the command had only here, would be passed over.
        let (all, alone) = (command(), args::Run::augment_args(clap::Command::new("run")));
        assert_eq!(all.get_arguments().count(), 0);
        let ids = |command: &clap::Command| command.get_arguments().map(|arg| arg.get_id().clone()).collect::<Vec<_>>();
        assert_eq!(ids(all.find_subcommand("run").unwrap()), ids(&alone));
    }

    #[test]
    fn what_is_wrong_with_a_launch_or_is_none_is_left_to_the_whole_command_line() {
        for line in [
            "pinfold",
            "pinfold ls",
            "pinfold -- run cat",
            "pinfold --version run cat",
            "pinfold run",
            "pinfold run --help",
            "pinfold run -h cat",
            "pinfold run --version cat",
            "pinfold run --memory-max much cat",
            "pinfold run --no-such-flag cat",
            "pinfold running cat",
        ] {
            assert!(launch(&words(line)).is_none(), "{line}");
        }
    }
}
