//! The engine that a command asks for a container: how it can be told where that goes, and the command that tells it.
//!
//! It is asked with the caller's own rights, and nothing of it is run: podman makes its containers itself, and a local docker
//! daemon says how it makes cgroups when it is asked over its socket.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::argv::{self, ContainerUse, PutIn};
use crate::container::{ContainerPlace, ContainerWish, Outside};
use crate::engine::{Engine, Info};
use crate::wire::Launched;

/// The longest configuration file of docker's that is read.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Where docker's daemon listens unless told.
const DOCKER: &str = "unix:///var/run/docker.sock";

/// What is asked for the container that a command makes.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) wish: ContainerWish,
    /// The socket of its engine, where that has one on this machine.
    pub(super) socket: Option<String>,
    /// Whether it can leave the container's monitor in the leaf.
    pub(super) monitor: bool,
}

/// What is asked for the container of a command, where it makes one.
pub(super) fn asked(words: &[String]) -> Option<Asked> {
    let (socket, monitor, place) = match argv::container_use(words)? {
        ContainerUse::Unfollowed => (None, false, Err(Outside::Unfollowed)),
        ContainerUse::Run { program, globals, at } => {
            let is_podman = argv::is_podman(program);
            let socket = if is_podman { None } else { docker_socket(globals) };
            let place = match () {
                () if argv::says_where(&words[at..]) => Err(Outside::OwnOptions),
                () if is_podman => podman(globals),
                () => docker(socket.as_deref()),
            };
            let monitor = is_podman && !is_elsewhere(globals) && argv::leaves_monitor(&words[at..]);
            (socket, monitor, place)
        }
    };
    Some(Asked { wish: place.unwrap_or_else(|why| ContainerWish::Nowhere { why }), socket, monitor })
}

/// The command, with what its engine is to be told.
pub(super) fn command(command: &[OsString], launched: &Launched) -> Vec<OsString> {
    let words: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let Some(ContainerUse::Run { program, at, .. }) = argv::container_use(&words) else { return command.to_vec() };
    let put = PutIn {
        parent: launched.container_parent.as_deref(),
        monitored: launched.container_monitored,
        session: &launched.key,
        server: &launched.leaf,
    };
    put.into_command(argv::is_podman(program), at, command)
}

/// What whoever launched should know of a container that is outside.
pub(super) fn warning(asked: Option<&Asked>, launched: &Launched) -> Option<String> {
    let why = match (asked?.wish, launched.container) {
        (_, Some(ContainerPlace::Inside)) => return None,
        (ContainerWish::Nowhere { why }, _) | (_, Some(ContainerPlace::Outside { why })) => why.to_string(),
        (_, None) => "the daemon is of a version that knows of none".to_owned(),
    };
    // What is not followed was told nothing: it has no label, and need not know these options.
    let (label, advice) = match asked?.wish {
        ContainerWish::Nowhere { why: Outside::Unfollowed } => (String::new(), ""),
        _ => {
            let label = format!(" (its label is {}={})", argv::SESSION_LABEL, launched.key);
            (label, "; give it --rm, --memory and --pids-limit")
        }
    };
    let end = if launched.container_monitored {
        "and which ends with its server".to_owned()
    } else if launched.container_removed {
        "its engine is asked to remove it when the server has ended".to_owned()
    } else {
        format!("and whose end does not end it{label}")
    };
    Some(format!(
        "the container that this asks for is OUTSIDE the session, whose limits do not hold for it, {end}: {why}{advice}"
    ))
}

fn podman(globals: &[String]) -> Result<ContainerWish, Outside> {
    if is_elsewhere(globals) {
        return Err(Outside::Remote);
    }
    match argv::global(globals, &["--cgroup-manager"]) {
        None | Some("cgroupfs") => Ok(ContainerWish::OwnDirectory),
        Some(_) => Err(Outside::OwnOptions),
    }
}

/// Whether podman has another one do it, which may be on another machine.
fn is_elsewhere(globals: &[String]) -> bool {
    argv::global(globals, &["-c", "-r", "--connection", "--remote", "--url"]).is_some()
        || variable("CONTAINER_HOST").is_some()
        || variable("CONTAINER_CONNECTION").is_some()
}

fn docker(socket: Option<&str>) -> Result<ContainerWish, Outside> {
    let engine = Engine::at(Path::new(socket.ok_or(Outside::Remote)?));
    place(&engine.info().map_err(|_| Outside::Unanswered)?)
}

/// The socket that docker speaks to; `None` where it speaks to another machine, or may.
fn docker_socket(globals: &[String]) -> Option<String> {
    let elsewhere = |context: Option<&str>| context.is_some_and(|context| context != "default");
    let host = argv::global(globals, &["-H", "--host"]).map(str::to_owned);
    let host = match host.or_else(|| variable("DOCKER_HOST")) {
        Some(host) => host,
        None if elsewhere(argv::global(globals, &["-c", "--context"])) => return None,
        None if elsewhere(chosen_context(globals).as_deref()) => return None,
        None => DOCKER.to_owned(),
    };
    host.strip_prefix("unix://").map(str::to_owned)
}

/// The context that docker was told to use for good.
fn chosen_context(globals: &[String]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        current_context: Option<String>,
    }
    if let Some(context) = variable("DOCKER_CONTEXT") {
        return Some(context);
    }
    let directory = argv::global(globals, &["--config"]).map(PathBuf::from);
    let directory = directory.or_else(|| variable("DOCKER_CONFIG").map(PathBuf::from));
    let directory = directory.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".docker")))?;
    let file = std::fs::File::open(directory.join("config.json")).ok()?;
    let mut text = String::new();
    file.take(CONFIG_BYTES_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str::<Config>(&text).ok()?.current_context.filter(|context| !context.is_empty())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where an engine that says this of itself can be told to make a container's cgroup.
fn place(info: &Info) -> Result<ContainerWish, Outside> {
    let here = rustix::system::uname();
    let is = |one: &std::ffi::CStr, other: &str| one.to_bytes() == other.as_bytes();
    if !is(here.nodename(), &info.name) || !is(here.release(), &info.kernel_version) {
        return Err(Outside::Remote);
    }
    if info.security_options.iter().flatten().any(|option| option.split(',').any(|part| part == "name=rootless")) {
        return Err(Outside::Rootless);
    }
    match (info.cgroup_driver.as_str(), info.cgroup_version.as_str()) {
        (_, version) if version != "2" => Err(Outside::Hybrid),
        ("cgroupfs", _) => Ok(ContainerWish::Directory),
        ("systemd", _) => Ok(ContainerWish::Slice),
        _ => Err(Outside::Driver),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(change: &str) -> Result<ContainerWish, Outside> {
        let here = rustix::system::uname();
        let (name, release) = (here.nodename().to_string_lossy(), here.release().to_string_lossy());
        let mut said = serde_json::json!({
            "CgroupDriver": "cgroupfs", "CgroupVersion": "2", "KernelVersion": release, "Name": name,
            "SecurityOptions": ["name=seccomp,profile=builtin"], "Containers": 3,
        });
        let change: serde_json::Value = serde_json::from_str(change).unwrap();
        said.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        place(&serde_json::from_value(said).unwrap())
    }

    #[test]
    fn an_engine_of_this_machine_can_be_told_by_its_driver_and_no_other() {
        assert_eq!(info("{}"), Ok(ContainerWish::Directory));
        assert_eq!(info(r#"{"CgroupDriver": "systemd"}"#), Ok(ContainerWish::Slice));
        for (change, why) in [
            (r#"{"CgroupDriver": "none"}"#, Outside::Driver),
            (r#"{"CgroupVersion": "1"}"#, Outside::Hybrid),
            (r#"{"Name": "docker-desktop"}"#, Outside::Remote),
            (r#"{"KernelVersion": "6.6.0-linuxkit"}"#, Outside::Remote),
            (r#"{"SecurityOptions": ["name=seccomp", "name=rootless"]}"#, Outside::Rootless),
        ] {
            assert_eq!(info(change), Err(why), "{change}");
        }
    }
}
