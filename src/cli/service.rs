//! The on-demand daemon as a service, the installed one or a transient one: a manager keeps it out of its host's cgroup,
//! starts it again when it fails, and shows it to whoever looks.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::args::{BackendChoice, Serve};
use crate::chain::chain;
use crate::client;
use crate::config::Config;
use crate::systemd::{Bus, Manager, Properties, SystemdError, Value};

/// The unit that an administrator, or a user for own use, installs (`systemd/` in the sources).
pub(super) const INSTALLED: &str = "pinfold.service";

/// How long the daemon may take to be ready.
const START_MAX: Duration = Duration::from_secs(15);

/// How long a service that is there and neither runs nor is gone is waited for.
const UNDER_WAY_MAX: Duration = Duration::from_secs(5);

/// How often it is looked at.
const UNDER_WAY_PAUSE: Duration = Duration::from_millis(50);

/// Descriptors that the manager keeps for it: a stdin and a stderr of as many servers as there are by default.
const STORE_MAX: u32 = 10_000;

/// What an older manager may not know, and the daemon can do without.
const MAY_LACK: &[&str] = &["CollectMode"];

/// What came of it.
pub(super) enum Started {
    /// The daemon listens.
    Yes,
    /// It is to be started without a service; if something is wrong with it, it says so itself.
    No,
    /// The installed unit did not start: why, and what to exit with. Another daemon than the installed one is not wanted.
    Refused(String, u8),
}

/// Starts it there: the installed unit, where there is one for this socket and nothing else was asked for, else a transient
/// service.
pub(super) fn start(serve: &Serve) -> Started {
    if serve.root.is_some() || serve.backend == BackendChoice::Cgroupfs {
        return Started::No;
    }
    let Some(socket) = serve.socket.socket.clone().or_else(|| client::user_socket().ok()) else { return Started::No };
    let Ok(manager) = Bus::find(nix::unistd::geteuid().as_raw()).map(Manager::connect) else { return Started::No };
    let (Ok(manager), Ok(program)) = (manager, std::env::current_exe()) else { return Started::No };
    if is_for_installed(serve, &socket, &manager) {
        return start_installed(&manager);
    }
    // A manager sees other files than a caller with a /tmp of its own: its service may listen where nobody here finds it.
    let is_found = || UnixStream::connect(&socket).is_ok();
    let unit = format!("{}.service", client::on_demand_unit(&socket));
    match start_transient(&manager, &unit, properties(&program, &socket)) {
        Ok(_) if is_found() => Started::Yes,
        // It was unused for long enough to leave before anybody looked: the launcher, which finds nobody, asks again.
        Ok(Transient::Started) if manager.active_state(&unit).is_ok_and(|state| state != "active") => Started::Yes,
        // It is somebody else's, who does find it.
        Ok(Transient::RanAlready) => Started::No,
        // Another launcher is starting it: whoever comes next finds it, or finds that it failed.
        Err(error) if error.exists() => Started::No,
        Ok(Transient::Started) | Err(_) => {
            // It would be started again and again; what is wrong is said by the one that is started without a service.
            let _ = manager.stop(&unit).and_then(|()| manager.reset_failed(&unit));
            Started::No
        }
    }
}

/// Whether the administrator's unit serves this socket as it was asked for.
fn is_for_installed(serve: &Serve, socket: &Path, manager: &Manager) -> bool {
    serve.config.is_none()
        && serve.backend == BackendChoice::Auto
        && socket == manager.bus().runtime_directory().join("pinfold.sock")
        && manager.unit_text(INSTALLED, "LoadState").is_ok_and(|state| state == "loaded")
}

fn start_installed(manager: &Manager) -> Started {
    let started = manager.start_installed(INSTALLED).or_else(|error| match manager.active_state(INSTALLED)?.as_str() {
        "active" => Ok(()),
        // One that failed too often is not started again before this.
        "failed" => manager.reset_failed(INSTALLED).and_then(|()| manager.start_installed(INSTALLED)),
        _ => Err(error),
    });
    match started {
        Ok(()) => Started::Yes,
        Err(error) => match super::serve::default_config().map(|path| Config::load(&path)) {
            Some(Err(wrong)) => Started::Refused(chain(&wrong), client::EXIT_CONFIG),
            _ => {
                let look = status_of(manager.bus(), INSTALLED);
                Started::Refused(format!("{}; see `{look}`", chain(&error)), client::EXIT_UNIT)
            }
        },
    }
}

/// The command that shows a unit of this manager.
pub(super) fn status_of(bus: &Bus, unit: &str) -> String {
    let user = if matches!(bus, Bus::User(_)) { "--user " } else { "" };
    format!("systemctl {user}status {unit}")
}

/// A transient service that runs.
enum Transient {
    Started,
    RanAlready,
}

fn start_transient(manager: &Manager, unit: &str, properties: Properties) -> Result<Transient, SystemdError> {
    match manager.start(unit, properties.clone(), None, MAY_LACK) {
        Err(error) if error.exists() => {}
        started => return started.map(|()| Transient::Started),
    }
    // One that failed has the name; one that runs is what is wanted; and one that leaves, or is being started by somebody
    // else, is waited for.
    manager.reset_failed(unit)?;
    let start = Instant::now();
    loop {
        match manager.active_state(unit)?.as_str() {
            "active" => return Ok(Transient::RanAlready),
            "activating" | "deactivating" if start.elapsed() < UNDER_WAY_MAX => std::thread::sleep(UNDER_WAY_PAUSE),
            _ => return manager.start(unit, properties, None, MAY_LACK).map(|()| Transient::Started),
        }
    }
}

fn properties(program: &Path, socket: &Path) -> Properties {
    let text = |path: &Path| path.display().to_string();
    let mut command = vec![text(program)];
    command.extend(std::env::args().skip(1));
    command.push("--in-service".to_owned());
    // What it froze is thawed where it cannot do that itself any more.
    let thaw = [&text(program), "thaw", "--left", "--socket", &text(socket)].map(str::to_owned).to_vec();
    // Of what the launcher left of the host's environment, systemd sets none by itself.
    let kept = ["HOME", "PATH", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "PINFOLD_LOG"];
    let environment = kept.into_iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
    Properties::default()
        .with("Description", Value::Text(format!("pinfold on demand, at {}", text(socket))))
        .with("CollectMode", Value::Text("inactive-or-failed".into()))
        .with("Type", Value::Text("notify".into()))
        .with("Restart", Value::Text("on-failure".into()))
        .with("FileDescriptorStoreMax", Value::Count(STORE_MAX))
        .with("TimeoutStartUSec", Value::Number(START_MAX.as_micros() as u64))
        .with("WorkingDirectory", Value::Text("/".into()))
        .with("Environment", Value::Texts(environment.collect()))
        .with("ExecStart", Value::Command(command))
        .with("ExecStopPost", Value::Command(thaw))
}
