//! Words from the user, and exit statuses: 0 done, 1 the answer is no, 2 usage, 125 to 127 of `run`, 69 no daemon.

mod args;
mod doctor;
mod end;
mod ls;
mod run;
mod serve;
mod status;
mod text;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};

/// Done.
const DONE: u8 = 0;
/// The answer is no, or it failed.
const NO: u8 = 1;

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let status = match arguments.command {
        Command::Run(run) => run::run(run),
        Command::Serve(serve) => serve::serve(serve),
        Command::Ls(ls) => ls::ls(&ls),
        Command::Status(status) => status::status(&status),
        Command::End(end) => end::end(&end),
        Command::Doctor(doctor) => doctor::doctor(&doctor),
    };
    ExitCode::from(status)
}

/// Prints an error with its causes, and gives the exit status for it.
fn failed(error: &dyn std::error::Error) -> u8 {
    eprintln!("pinfold: {}", crate::chain::chain(error));
    NO
}
