//! The engine that a command asks for a container: how it can be told where that goes, and the command that tells it.
//!
//! It is asked with the caller's own rights, and nothing of it is run: podman makes its containers itself, and a local docker
//! daemon says how it makes cgroups when it is asked over its socket.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::argv::{self, ContainerUse, PutIn};
use crate::container::{ContainerPlace, ContainerWish, Outside};
use crate::wire::Launched;

/// How long an engine may take to answer. The host waits meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The longest configuration file of docker's that is read.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Where docker's daemon listens unless told.
const DOCKER: &str = "unix:///var/run/docker.sock";

/// What is asked for the container that a command makes, where it makes one.
pub(super) fn wish(words: &[String]) -> Option<ContainerWish> {
    let place = match argv::container_use(words)? {
        ContainerUse::Unfollowed => Err(Outside::Unfollowed),
        ContainerUse::Run { at, .. } if argv::says_where(&words[at..]) => Err(Outside::OwnOptions),
        ContainerUse::Run { program, globals, .. } if argv::is_podman(program) => podman(globals),
        ContainerUse::Run { globals, .. } => docker(globals),
    };
    Some(place.unwrap_or_else(|why| ContainerWish::Nowhere { why }))
}

/// The command, with what its engine is to be told.
pub(super) fn command(command: &[OsString], launched: &Launched) -> Vec<OsString> {
    let words: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let Some(ContainerUse::Run { program, at, .. }) = argv::container_use(&words) else { return command.to_vec() };
    let put = PutIn { parent: launched.container_parent.as_deref(), session: &launched.key, server: &launched.leaf };
    put.into_command(argv::is_podman(program), at, command)
}

/// What whoever launched should know of a container that is outside.
pub(super) fn warning(wish: Option<ContainerWish>, launched: &Launched) -> Option<String> {
    let why = match (wish?, launched.container) {
        (_, Some(ContainerPlace::Inside)) => return None,
        (ContainerWish::Nowhere { why }, _) | (_, Some(ContainerPlace::Outside { why })) => why.to_string(),
        (_, None) => "the daemon is of a version that knows of none".to_owned(),
    };
    Some(format!(
        "the container that this asks for is OUTSIDE the session, whose limits do not hold for it and whose end does not end \
         it: {why}; give it --rm, --memory and --pids-limit; it is labelled {}={}",
        argv::SESSION_LABEL,
        launched.key
    ))
}

fn podman(globals: &[String]) -> Result<ContainerWish, Outside> {
    let elsewhere = argv::global(globals, &["-c", "-r", "--connection", "--remote", "--url"]).is_some();
    if elsewhere || variable("CONTAINER_HOST").is_some() || variable("CONTAINER_CONNECTION").is_some() {
        return Err(Outside::Remote);
    }
    match argv::global(globals, &["--cgroup-manager"]) {
        None | Some("cgroupfs") => Ok(ContainerWish::OwnDirectory),
        Some(_) => Err(Outside::OwnOptions),
    }
}

fn docker(globals: &[String]) -> Result<ContainerWish, Outside> {
    let host = argv::global(globals, &["-H", "--host"]).map(str::to_owned);
    let host = match host.or_else(|| variable("DOCKER_HOST")) {
        Some(host) => host,
        None if argv::global(globals, &["-c", "--context"]).is_some_and(|context| context != "default") => {
            return Err(Outside::Remote);
        }
        None if chosen_context(globals).is_some_and(|context| context != "default") => return Err(Outside::Remote),
        None => DOCKER.to_owned(),
    };
    let socket = host.strip_prefix("unix://").ok_or(Outside::Remote)?;
    let answer = ask(Path::new(socket)).ok_or(Outside::Unanswered)?;
    read(&answer).ok_or(Outside::Unanswered)?.place()
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

/// `GET /info` of the engine's API. By HTTP/1.0, which has no chunks and ends with its connection.
fn ask(socket: &Path) -> Option<Vec<u8>> {
    let start = Instant::now();
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_write_timeout(Some(ANSWER_MAX)).ok()?;
    stream.write_all(b"GET /info HTTP/1.0\r\nHost: docker\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    let mut part = [0; 8192];
    loop {
        let left = ANSWER_MAX.checked_sub(start.elapsed()).filter(|left| !left.is_zero())?;
        stream.set_read_timeout(Some(left)).ok()?;
        match stream.read(&mut part).ok()? {
            0 => return Some(answer),
            read => answer.extend_from_slice(&part[..read]),
        }
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            return None;
        }
    }
}

/// What an engine says of itself.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    cgroup_driver: String,
    #[serde(default)]
    cgroup_version: String,
    #[serde(default)]
    kernel_version: String,
    name: String,
    #[serde(default)]
    security_options: Option<Vec<String>>,
}

fn read(answer: &[u8]) -> Option<Info> {
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let status = std::str::from_utf8(&answer[..head]).ok()?.split(' ').nth(1)?;
    if status == "200" { serde_json::from_slice(&answer[head + 4..]).ok() } else { None }
}

impl Info {
    fn place(&self) -> Result<ContainerWish, Outside> {
        let here = rustix::system::uname();
        let is = |one: &std::ffi::CStr, other: &str| one.to_bytes() == other.as_bytes();
        if !is(here.nodename(), &self.name) || !is(here.release(), &self.kernel_version) {
            return Err(Outside::Remote);
        }
        if self.security_options.iter().flatten().any(|option| option.split(',').any(|part| part == "name=rootless")) {
            return Err(Outside::Rootless);
        }
        match (self.cgroup_driver.as_str(), self.cgroup_version.as_str()) {
            (_, version) if version != "2" => Err(Outside::Hybrid),
            ("cgroupfs", _) => Ok(ContainerWish::Directory),
            ("systemd", _) => Ok(ContainerWish::Slice),
            _ => Err(Outside::Driver),
        }
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
        let answer = format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{said}");
        read(answer.as_bytes()).unwrap().place()
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

    #[test]
    fn what_is_no_answer_is_none() {
        for wrong in ["", "HTTP/1.0 200 OK", "HTTP/1.0 500 No\r\n\r\n{}", "HTTP/1.0 200 OK\r\n\r\n{}"] {
            assert!(read(wrong.as_bytes()).is_none(), "{wrong:?}");
        }
        assert!(ask(Path::new("/nonexistent/docker.sock")).is_none());
    }
}
