//! The launcher: asks, is placed, proves it, and execs. Same pid, same stdio; nothing of ours stays between a host and
//! its server.
//!
//! It is blocking and small. What fails before the exec is one line on stderr and exit status 125, 126 or 127.

mod alone;
mod confinement;
mod engine;

use std::ffi::{CString, OsString};
use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use rustix::process::PidfdFlags;

use crate::argv::{self, CommandDigest, MaskedArgv};
use crate::cgroup::{CLIENT, Membership};
use crate::chain::chain;
use crate::client::{self, Client, ClientError, Other};
use crate::confine::Confine;
use crate::container::ContainerPlace;
use crate::label::Labels;
use crate::limits::LimitWishes;
use crate::policy::{SERVER_VARIABLE, SESSION_VARIABLE};
use crate::session::{Name, SessionId};
use crate::timespan::TimeSpan;
use crate::wire::{Call, Fault, Launch, Launched, Noted};
use engine::Asked;

/// How often a launch is asked for again because the daemon stopped between two steps.
const TRIES: usize = 3;

/// How long the daemon may take to note that a command could not be executed. The host waits meanwhile.
const REPORT_MAX: Duration = Duration::from_secs(2);

/// pinfold could not, or would not.
pub const EXIT_PINFOLD: u8 = 125;
/// The command was found and cannot be executed.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub const EXIT_NOT_FOUND: u8 = 127;

/// What is to be launched, and how.
#[derive(Debug, Clone)]
pub struct LaunchOptions {
    /// `--session`.
    pub session: Option<SessionId>,
    /// `--server`.
    pub server: Option<Name>,
    /// `--host`.
    pub host: Option<Name>,
    /// `--label`.
    pub labels: Labels,
    /// Limits of the server.
    pub limits: LimitWishes,
    /// `--grace`.
    pub grace: Option<TimeSpan>,
    /// Run without containment rather than not at all.
    pub uncontained: bool,
    /// `--confine`.
    pub confine: Option<Confine>,
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// The configuration files that say how it is confined where no daemon does, each where it is there.
    pub configurations: Vec<PathBuf>,
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
}

/// Why nothing was launched.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("this process was to be in {wanted}, and the kernel tells {found}")]
    NotPlaced { wanted: String, found: String },
}

/// Launches. Returns only with the exit status of a failure.
pub fn launch(options: &LaunchOptions) -> u8 {
    let words: Vec<String> = options.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let container = engine::asked(&words);
    let (placed, granted) = match placed(options, container.as_ref()) {
        Ok(placed) => {
            let confine = placed.0.confine;
            (Some(placed), confine)
        }
        Err(error) if may_run_uncontained(options, &error) => match alone::confine(options) {
            Ok(confine) => {
                say(&format!("RUNNING UNCONTAINED, without limits and without an end: {}", chain(&error)));
                (None, confine)
            }
            Err(why) => {
                say(&format!("not launched: {}; {}", chain(&error), chain(&why)));
                return EXIT_PINFOLD;
            }
        },
        Err(error) => {
            say(&format!("not launched: {}", chain(&error)));
            return EXIT_PINFOLD;
        }
    };
    if let Err(error) = confinement::confine(granted.max(options.confine.unwrap_or_default())) {
        say(&format!("not launched: {}", chain(&error)));
        return EXIT_PINFOLD;
    }
    for warning in placed.iter().flat_map(|(launched, _)| &launched.warnings) {
        say(&format!("warning: {warning}"));
    }
    if let Some(warning) = placed.as_ref().and_then(|(launched, _)| engine::warning(container.as_ref(), launched)) {
        say(&format!("warning: {warning}"));
    }
    exec(options, placed)
}

/// The place, and the connection to the daemon that gave it: an exec closes that.
fn placed(options: &LaunchOptions, container: Option<&Asked>) -> Result<(Launched, Client), LaunchError> {
    let mut tries = 0;
    let (launched, client) = loop {
        tries += 1;
        match ask(options, container) {
            // It was just leaving, unused, or has left already: the next one is started.
            Err(ClientError::HungUp(_) | ClientError::NoDaemon(_)) if tries < TRIES => {}
            other => break other?,
        }
    };
    prove(&launched)?;
    Ok((launched, client))
}

fn ask(options: &LaunchOptions, container: Option<&Asked>) -> Result<(Launched, Client), ClientError> {
    let words: Vec<String> = options.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut client = client::find_or_start(options.socket.as_deref())?;
    match client.other() {
        Some(Other::NotPermitted(other)) => say(&format!(
            "using the daemon at {}; the one at {} is not for this user ({})",
            client.socket().display(),
            other.display(),
            client::way_in()
        )),
        Some(Other::Own(other)) => say(&format!(
            "using the system's daemon at {}, and not this user's own at {}",
            client.socket().display(),
            other.display()
        )),
        None => {}
    }
    let pidfd = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).ok();
    let (stdin, stderr) = (std::io::stdin(), std::io::stderr());
    let mut descriptors: Vec<BorrowedFd<'_>> = Vec::new();
    let mut send = |fd| {
        descriptors.push(fd);
        Some(descriptors.len() - 1)
    };
    let wish = Launch {
        session: options.session.clone(),
        server: options.server.clone().unwrap_or_else(|| argv::server_name(&words)),
        named: options.server.is_some(),
        host: options.host.clone(),
        argv: MaskedArgv::mask(&words),
        command: command(&options.command),
        labels: options.labels.clone(),
        limits: options.limits,
        grace: options.grace,
        uncontained: options.uncontained,
        confine: options.confine,
        container: container.map(|asked| asked.wish),
        container_engine: container.and_then(|asked| asked.socket.clone()),
        container_monitor: container.is_some_and(|asked| asked.monitor),
        stdin: send(stdin.as_fd()),
        stderr: send(stderr.as_fd()),
        pidfd: pidfd.as_ref().and_then(|pidfd| send(pidfd.as_fd())),
    };
    let launched = client.call(&Call::Launch(Box::new(wish)), &descriptors, client::LAUNCH_MAX)?;
    Ok((launched, client))
}

/// What tells this command from others. `None` where the directory that it is run in is gone.
fn command(words: &[OsString]) -> Option<CommandDigest> {
    let directory = std::env::current_dir().ok()?;
    Some(CommandDigest::of(words.iter().map(|word| word.as_bytes()), directory.as_os_str().as_bytes()))
}

/// Reads this process's place back from the kernel: a reply is not a result. The daemon may be in another cgroup
/// namespace, so what is compared is the end of the path.
fn prove(launched: &Launched) -> Result<(), LaunchError> {
    let above = Path::new(&launched.cgroup).parent().and_then(Path::file_name).unwrap_or_default();
    let wanted = format!("/{}/{}", above.to_string_lossy(), launched.leaf);
    let sibling = format!("/{}/{}", launched.key, launched.leaf);
    let mut found = Membership::of("self").unwrap_or_default();
    if let (Some(ContainerPlace::Inside), Some(path)) = (launched.container, &mut found.v2) {
        // Beside the directory of its containers.
        path.truncate(path.strip_suffix(CLIENT).map_or(path.len(), |leaf| leaf.trim_end_matches('/').len()));
    }
    // Whoever launches from inside a confined server has that one's leaf as its root, and stands beside it.
    let beside = format!("/../{}", launched.leaf);
    let ends = |path: &Option<String>, wanted: &str| {
        path.as_ref().is_some_and(|path| path.ends_with(wanted) || *path == beside)
    };
    let companion = |name: &str| launched.companions.iter().any(|companion| companion == name);
    let proved = ends(&found.v2, &wanted)
        && (!companion("memory") || ends(&found.memory, &sibling))
        && (!companion("pids") || ends(&found.pids, &sibling));
    if proved { Ok(()) } else { Err(LaunchError::NotPlaced { wanted, found: found.to_string() }) }
}

/// Where a daemon answered, it decides; where none can be had, the user who asked for it does.
fn may_run_uncontained(options: &LaunchOptions, error: &LaunchError) -> bool {
    match error {
        LaunchError::Client(ClientError::Fault(Fault::Refused { uncontained, .. })) => {
            options.uncontained && *uncontained
        }
        // A configuration that cannot be read may forbid it.
        LaunchError::Client(ClientError::Fault(_) | ClientError::Misconfigured(_) | ClientError::Foreign { .. })
        | LaunchError::NotPlaced { .. } => false,
        LaunchError::Client(_) => options.uncontained,
    }
}

fn exec(options: &LaunchOptions, placed: Option<(Launched, Client)>) -> u8 {
    let command = &options.command[0];
    let text = |word: OsString| CString::new(word.into_vec());
    let launched = placed.as_ref().map(|(launched, _)| launched);
    let words =
        launched.map_or_else(|| options.command.clone(), |launched| engine::command(&options.command, launched));
    let words: Result<Vec<CString>, _> = words.into_iter().map(text).collect();
    let environment: Result<Vec<CString>, _> = environment(launched).into_iter().map(text).collect();
    let (Ok(words), Ok(environment)) = (words, environment) else {
        say("not launched: a word of the command holds a NUL byte");
        return EXIT_PINFOLD;
    };
    let Err(errno) = crate::sys::exec(&words, &environment);
    say(&format!("cannot execute {:?}: {}", command, errno.desc()));
    if let Some((_, mut client)) = placed {
        // An older daemon does not know the word, and sees the exit alone.
        let _ = client.call::<Noted>(&Call::NotExecuted(errno as i32), &[], REPORT_MAX);
    }
    if errno == Errno::ENOENT { EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE }
}

/// What the server finds in its environment: all that the host gave, and our two variables.
fn environment(launched: Option<&Launched>) -> Vec<OsString> {
    let ours = launched.map_or_else(Vec::new, |launched| {
        vec![(SESSION_VARIABLE, launched.session.as_str()), (SERVER_VARIABLE, launched.leaf.as_str())]
    });
    let kept = std::env::vars_os().filter(|(name, _)| !ours.iter().any(|(own, _)| name.as_bytes() == own.as_bytes()));
    let join = |name: OsString, value: OsString| {
        let mut pair = name;
        pair.push("=");
        pair.push(value);
        pair
    };
    let added = ours.iter().map(|(name, value)| join((*name).into(), (*value).into()));
    kept.map(|(name, value)| join(name, value)).chain(added).collect()
}

/// One line on stderr. stdout belongs to the host and its server.
fn say(line: &str) {
    let line = line.replace('\n', " ");
    let mut stderr = std::io::stderr();
    let name = if stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        "\x1b[1mpinfold:\x1b[0m"
    } else {
        "pinfold:"
    };
    // A host that closed stderr, or does not read it, is no reason to launch nothing.
    let _ = writeln!(stderr, "{name} {line}");
}
