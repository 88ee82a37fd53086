//! `pinfold completions`.

use std::io::Write;

use super::{DONE, args};

/// Prints what a shell reads to complete the command line.
pub(super) fn completions(completions: &args::Completions) -> u8 {
    let shell = match completions.shell {
        args::CompletionShell::Bash => clap_complete::Shell::Bash,
        args::CompletionShell::Zsh => clap_complete::Shell::Zsh,
        args::CompletionShell::Fish => clap_complete::Shell::Fish,
    };
    // Into memory first: the generator takes a reader that has gone away for a fault of its own.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "pinfold", &mut script);
    let _ = std::io::stdout().write_all(&script);
    DONE
}
