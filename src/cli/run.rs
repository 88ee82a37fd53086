//! `pinfold run`.

use super::args;
use crate::chain::chain;
use crate::label::Labels;
use crate::launch::{EXIT_PINFOLD, LaunchOptions, launch};
use crate::limits::LimitWishes;

pub(super) fn run(run: args::Run) -> u8 {
    let labels = match Labels::collect(run.labels) {
        Ok(labels) => labels,
        Err(error) => {
            eprintln!("pinfold: not launched: {}", chain(&error));
            return EXIT_PINFOLD;
        }
    };
    let allowed = std::env::var_os("PINFOLD_UNCONTAINED").is_some_and(|value| value == "allow");
    launch(&LaunchOptions {
        session: run.session,
        server: run.server,
        host: run.host,
        labels,
        limits: LimitWishes {
            memory_max: run.memory_max,
            memory_high: run.memory_high,
            memory_swap_max: run.memory_swap_max,
            pids_max: run.pids_max,
            cpu_max: run.cpu_max,
            cpu_weight: run.cpu_weight,
            io_weight: run.io_weight,
        },
        grace: run.grace,
        uncontained: run.uncontained || allowed,
        socket: run.socket.socket,
        command: run.command,
    })
}
