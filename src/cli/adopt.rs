//! `pinfold adopt`.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags};

use super::{DONE, NO, USAGE, args, failed, text};
use crate::chain::chain;
use crate::client::{self, Client, ClientError};
use crate::label::Labels;
use crate::wire::{Adopt, Adopted, Call};

/// The longest that we wait for the daemon: for the whole tree, and all of it back where that fails.
const ADOPT_MAX: Duration = Duration::from_secs(120);

pub(super) fn adopt(adopt: args::Adopt) -> u8 {
    // Held from the beginning: whoever gets the number of one that exits is not meant.
    let held: Vec<(i32, Option<OwnedFd>)> = adopt.pids.iter().map(|pid| (*pid, hold(*pid))).collect();
    let labels = match Labels::collect(adopt.labels) {
        Ok(labels) => labels,
        Err(error) => {
            eprintln!("pinfold: {}", chain(&error));
            return USAGE;
        }
    };
    let mut client = match client::find_or_start(adopt.socket.socket.as_deref()) {
        Ok(client) => client,
        Err(error) => return failed(&error),
    };
    let mut adopted: Vec<Adopted> = Vec::new();
    for (pid, pidfd) in &held {
        let Some(pidfd) = pidfd else {
            eprintln!("pinfold: not adopted: process {pid} is not there; see `ps` for those that live");
            continue;
        };
        let wish = Adopt {
            pid: *pid,
            pidfd: Some(0),
            session: adopt.session.clone(),
            server: adopt.server.clone(),
            labels: labels.clone(),
            limits: adopt.limits.wishes(),
            grace: adopt.grace,
        };
        match ask(&mut client, wish, pidfd.as_fd()) {
            Ok(done) => adopted.push(done),
            Err(error @ ClientError::Fault(_)) => eprintln!("pinfold: not adopted: {}", chain(&error)),
            // Nobody answers the next one either.
            Err(error) => {
                eprintln!("pinfold: not adopted, or not seen to be: process {pid}: {}", chain(&error));
                break;
            }
        }
    }
    // What is so of all is told once.
    for warning in adopted.iter().flat_map(|done| &done.warnings).collect::<BTreeSet<_>>() {
        eprintln!("pinfold: warning: {warning}");
    }
    if adopt.json {
        text::print_json(&adopted);
    } else {
        text::print(&adopted.iter().map(line).collect::<String>());
    }
    if adopted.len() == held.len() { DONE } else { NO }
}

fn hold(pid: i32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

fn ask(client: &mut Client, wish: Adopt, pidfd: BorrowedFd<'_>) -> Result<Adopted, ClientError> {
    client.call(&Call::Adopt(Box::new(wish)), &[pidfd], ADOPT_MAX)
}

fn line(done: &Adopted) -> String {
    let processes = if done.processes == 1 { "1 process".to_owned() } else { format!("{} processes", done.processes) };
    let Adopted { pid, session, server, leaf, .. } = done;
    format!("process {pid} is server {server} of session {session} now: {processes} in the leaf {leaf}\n")
}
