//! The daemon of a test with all that the installed unit takes away from it: `PINFOLD_TEST_SANDBOXED=1` has every test of the
//! ring show that it does its work nevertheless.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;

use crate::installed::source;
use crate::support::*;

/// Where in a unit file the sandbox begins.
const BEGINS: &str = "# Below here:";

/// A transient service.
pub struct Sandboxed {
    unit: String,
    pid: i32,
}

impl Sandboxed {
    /// Whether this run of the ring is one of those.
    pub fn is_wanted() -> bool {
        std::env::var_os("PINFOLD_TEST_SANDBOXED").is_some()
    }

    /// Starts the command there, which may write its own directory besides.
    #[track_caller]
    pub fn start(command: &Command, writable: &Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let unit = format!("sandboxed-{}.service", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut run = Command::new("systemd-run");
        run.arg(if is_system() { "--system" } else { "--user" });
        run.args(["--quiet", "--collect", "--service-type=exec", &format!("--unit={unit}")]);
        run.args(properties().map(|line| format!("--property={line}")));
        if is_system() {
            run.arg(format!("--property=ReadWritePaths={}", writable.display()));
            // Where the usual daemon keeps its own.
            run.args(["--property=RuntimeDirectory=pinfold", "--property=RuntimeDirectoryPreserve=yes"]);
        }
        run.arg(format!("--property=StandardError=append:{}", writable.join("serve.log").display()));
        for (name, value) in command.get_envs().filter_map(|(name, value)| Some((name, value?))) {
            run.arg(format!("--setenv={}={}", name.display(), value.display()));
        }
        let started = run.arg("--").arg(command.get_program()).args(command.get_args()).output().unwrap();
        assert!(started.status.success(), "{started:?}");
        let pid = property(&unit, "MainPID").parse().unwrap();
        Self { unit, pid }
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Signals it, and waits until it is gone.
    pub fn end(self, with: Signal) {
        signal(self.pid, with);
        eventually("the daemon is gone", || match property(&self.unit, "ActiveState") {
            state if state == "inactive" => Ok(()),
            state => Err(state),
        });
    }
}

/// What the installed unit says of its sandbox.
fn properties() -> impl Iterator<Item = &'static str> {
    let lines = source("pinfold.service").lines().skip_while(|line| !line.starts_with(BEGINS));
    lines.take_while(|line| *line != "[Install]").filter(|line| !line.is_empty() && !line.starts_with('#'))
}
