//! `pinfold run`.

use std::ffi::OsStr;

use super::{args, serve};
use crate::chain::chain;
use crate::label::Labels;
use crate::launch::{EXIT_PINFOLD, LaunchOptions, launch};

pub(super) fn run(run: args::Run) -> u8 {
    let labels = match Labels::collect(run.labels) {
        Ok(labels) => labels,
        Err(error) => {
            eprintln!("pinfold: not launched: {}", chain(&error));
            return EXIT_PINFOLD;
        }
    };
    let allowed = match allowed(std::env::var_os("PINFOLD_UNCONTAINED").as_deref()) {
        Ok(allowed) => allowed,
        Err(wrong) => {
            eprintln!("pinfold: not launched: {wrong}");
            return EXIT_PINFOLD;
        }
    };
    launch(&LaunchOptions {
        session: run.session,
        server: run.server,
        host: run.host,
        labels,
        limits: run.limits.wishes(),
        grace: run.grace,
        uncontained: run.uncontained || allowed,
        confine: run.confine,
        socket: run.socket.socket,
        configurations: serve::configurations(),
        command: run.command,
    })
}

/// What `PINFOLD_UNCONTAINED` says. What it may mean otherwise is not guessed: whoever set it relies on it.
fn allowed(said: Option<&OsStr>) -> Result<bool, String> {
    match said {
        None => Ok(false),
        Some(said) if said.is_empty() || said == "refuse" => Ok(false),
        Some(said) if said == "allow" => Ok(true),
        Some(said) => Err(format!(
            "PINFOLD_UNCONTAINED is {said:?}, which means nothing: set it to allow, to run without containment where that \
             cannot be had, or to refuse, or unset it"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_word_allows_to_run_uncontained_and_any_other_is_wrong() {
        let said = |word: &str| allowed(Some(OsStr::new(word)));
        assert_eq!(
            [allowed(None), said(""), said("refuse"), said("allow")],
            [Ok(false), Ok(false), Ok(false), Ok(true)]
        );
        for wrong in ["yes", "1", "Allow", "no", "deny"] {
            let told = said(wrong).unwrap_err();
            assert!(told.contains(&format!("{wrong:?}")) && told.contains("set it to allow"), "{told}");
        }
    }
}
