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

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

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
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&of_words_alone(error)),
    };
    let status = match arguments.command {
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
