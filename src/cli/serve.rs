//! `pinfold serve`, and its two halves when a launcher starts it on demand.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::args::{self, BackendChoice};
use super::service::{self, Started};
use super::{DONE, NO, failed};
use crate::backend::Choice;
use crate::chain::chain;
use crate::client;
use crate::daemon::{self, Options};
use crate::systemd;

/// Where a configuration is looked for when none is named.
const SYSTEM_CONFIG: &str = "/etc/pinfold/pinfold.toml";

pub(super) fn serve(serve: args::Serve) -> u8 {
    if serve.on_demand && !serve.detached && !serve.in_service {
        return match service::start(&serve) {
            Started::Yes => say("ready", DONE),
            Started::No => go_to_background(),
            Started::Refused(why, status) => say(&why, status),
        };
    }
    let socket = match serve.socket.socket.map_or_else(client::user_socket, Ok) {
        Ok(socket) => socket,
        Err(error) => return failed(&error),
    };
    if serve.detached {
        leave_the_host();
    }
    let log = serve.detached.then(|| client::beside(&socket, "log"));
    if let Err(error) = client::prepare_directory(&socket) {
        return refuse(serve.detached, &error);
    }
    if let Err(error) = daemon::start_log(log.as_deref()) {
        return refuse(serve.detached, &error);
    }
    let options = Options {
        config: serve.config,
        usual_config: usual_config(),
        scope: serve.detached.then(|| format!("{}.scope", client::on_demand_unit(&socket))),
        socket,
        backend: match serve.backend {
            BackendChoice::Auto => Choice::Auto,
            BackendChoice::Systemd => Choice::Systemd,
            BackendChoice::Cgroupfs => Choice::Cgroupfs,
        },
        root: serve.root,
        on_demand: serve.on_demand,
        supervised: serve.supervised,
    };
    let ready = || {
        systemd::ready();
        if serve.detached {
            answer("ready");
        }
    };
    match daemon::serve(&options, ready) {
        Ok(()) => DONE,
        Err(error) => {
            let status = refuse(serve.detached, &error);
            if matches!(error, daemon::ServeError::Config(_)) { client::EXIT_CONFIG } else { status }
        }
    }
}

/// The front half's one line, where it is about a service.
fn say(line: &str, status: u8) -> u8 {
    // A launcher that is gone has no use for it.
    let _ = writeln!(io::stdout(), "{}", line.replace('\n', " "));
    status
}

pub(super) fn default_config() -> Option<PathBuf> {
    usual_config().filter(|path| path.exists())
}

/// The files that may say how a server is confined that no daemon places: the one that the environment names for daemons
/// that are started on demand, else the system's and this user's own.
pub(super) fn configurations() -> Vec<PathBuf> {
    match std::env::var_os("PINFOLD_CONFIG") {
        Some(named) => vec![PathBuf::from(named)],
        None => {
            let system = PathBuf::from(SYSTEM_CONFIG);
            let own = usual_config().filter(|own| *own != system);
            // As for a daemon: what is in a directory that this user may not look into is not there.
            std::iter::once(system).chain(own).filter(|path| path.exists()).collect()
        }
    }
}

/// Where a configuration of this user is.
fn usual_config() -> Option<PathBuf> {
    Some(if nix::unistd::geteuid().is_root() {
        PathBuf::from(SYSTEM_CONFIG)
    } else {
        let own = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        own.or_else(|| Some(std::env::home_dir()?.join(".config")))?.join("pinfold/pinfold.toml")
    })
}

/// The front half: starts the back half with nothing of the host's but its environment, passes its one line on, and
/// returns, so that the launcher keeps no child.
fn go_to_background() -> u8 {
    let started = || -> io::Result<(String, u8)> {
        crate::sys::close_on_exec_from(3).map_err(io::Error::from)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .arg("--detached")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            io::BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.trim_end() == "ready" {
            return Ok((line, DONE));
        }
        let status = child.wait()?.code().and_then(|code| u8::try_from(code).ok());
        Ok((line, status.filter(|status| *status != DONE).unwrap_or(NO)))
    };
    match started() {
        Ok((line, status)) => {
            let _ = io::stdout().write_all(line.as_bytes());
            status
        }
        Err(error) => {
            let _ = writeln!(io::stdout(), "cannot start it in the background: {error}");
            NO
        }
    }
}

fn refuse(detached: bool, error: &dyn std::error::Error) -> u8 {
    if detached {
        answer(&chain(error));
        return NO;
    }
    failed(error)
}

/// What a host does to all that it started is not for the daemon: a signal to its process group, or a mark that makes it
/// the first to be killed for memory.
fn leave_the_host() {
    let _ = nix::unistd::setsid();
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
}

/// The back half's one line, after which its stdout is nobody's.
fn answer(line: &str) {
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "{}", line.replace('\n', " ")).and_then(|()| stdout.flush());
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
    }
}
