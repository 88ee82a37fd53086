//! The on-demand daemon as a transient service: a manager keeps it out of its host's cgroup, starts it again when it
//! fails, and shows it to whoever looks.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::args::{BackendChoice, Serve};
use crate::client;
use crate::systemd::{Bus, Manager, Properties, SystemdError, Value};

/// How long the daemon may take to be ready.
const START_MAX: Duration = Duration::from_secs(15);

/// What an older manager may not know, and the daemon can do without.
const MAY_LACK: &[&str] = &["CollectMode"];

/// Starts it there; `false` where no manager answers, or a subtree was named, or the service did not start: then it is
/// started without one, and says itself what is wrong.
pub(super) fn start(serve: &Serve) -> bool {
    if serve.root.is_some() || serve.backend == BackendChoice::Cgroupfs {
        return false;
    }
    let Some(socket) = serve.socket.socket.clone().or_else(|| client::user_socket().ok()) else { return false };
    let Ok(manager) = Bus::find(nix::unistd::geteuid().as_raw()).map(Manager::connect) else { return false };
    let (Ok(manager), Ok(program)) = (manager, std::env::current_exe()) else { return false };
    let unit = unit(&socket);
    let started = || manager.start(&unit, properties(&program, &socket), None, MAY_LACK);
    let started = started().or_else(|error: SystemdError| {
        if !error.exists() {
            return Err(error);
        }
        // One that failed has the name; one that runs is what is wanted.
        manager.reset_failed(&unit)?;
        if manager.active_state(&unit)? == "active" { Ok(()) } else { started() }
    });
    if started.is_err() {
        // It would be started again and again; what is wrong is said by the one that is started without a service.
        let _ = manager.stop(&unit).and_then(|()| manager.reset_failed(&unit));
    }
    started.is_ok()
}

/// One daemon for one socket; the one that everybody uses has the plain name.
fn unit(socket: &Path) -> String {
    if client::user_socket().is_ok_and(|usual| usual == socket) {
        return "pinfold-daemon.service".to_owned();
    }
    let digest = Sha256::digest(socket.as_os_str().as_encoded_bytes());
    let tag: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("pinfold-daemon-{tag}.service")
}

fn properties(program: &Path, socket: &Path) -> Properties {
    let text = |path: &Path| path.display().to_string();
    let mut command = vec![text(program)];
    command.extend(std::env::args().skip(1));
    command.push("--in-service".to_owned());
    // Of what the launcher left of the host's environment, systemd sets none by itself.
    let kept = ["HOME", "PATH", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "PINFOLD_LOG"];
    let environment = kept.into_iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
    Properties::default()
        .with("Description", Value::Text(format!("pinfold on demand, at {}", text(socket))))
        .with("CollectMode", Value::Text("inactive-or-failed".into()))
        .with("Type", Value::Text("notify".into()))
        .with("Restart", Value::Text("on-failure".into()))
        .with("TimeoutStartUSec", Value::Number(START_MAX.as_micros() as u64))
        .with("WorkingDirectory", Value::Text("/".into()))
        .with("Environment", Value::Texts(environment.collect()))
        .with("ExecStart", Value::Command(command))
}

/// Tells the manager that started us, if one did, that we are ready (sd_notify(3)).
pub(super) fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(PathBuf::from(&path)),
    };
    // A manager that does not hear it says so itself.
    let _ = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
}
