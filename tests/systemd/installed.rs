//! The usual socket, and the unit that is installed for it: what a machine has where somebody set pinfold up.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::*;

/// A manager in whose unit path all of pinfold's units are, as they stand in the sources; a drop-in names the binary under
/// test. None of them is started, nor enabled.
pub struct Installed {
    directory: PathBuf,
    drop_ins: Vec<PathBuf>,
}

/// The units of this manager, by name.
fn sources() -> &'static [(&'static str, &'static str)] {
    if is_system() {
        &[
            ("pinfold.service", include_str!("../../systemd/system/pinfold.service")),
            ("pinfold.socket", include_str!("../../systemd/system/pinfold.socket")),
            ("pinfold.slice", include_str!("../../systemd/system/pinfold.slice")),
            ("pinfoldd.slice", include_str!("../../systemd/system/pinfoldd.slice")),
        ]
    } else {
        &[
            ("pinfold.service", include_str!("../../systemd/user/pinfold.service")),
            ("pinfold.socket", include_str!("../../systemd/user/pinfold.socket")),
            ("pinfold.slice", include_str!("../../systemd/user/pinfold.slice")),
        ]
    }
}

/// Their names.
pub fn unit_files() -> Vec<&'static str> {
    sources().iter().map(|(name, _)| *name).collect()
}

/// One of them, as it stands in the sources.
pub fn source(unit: &str) -> &'static str {
    sources().iter().find(|(name, _)| *name == unit).unwrap().1
}

impl Installed {
    #[track_caller]
    pub fn new() -> Self {
        Self::running(&format!("{} serve", binary()))
    }

    /// With another command.
    #[track_caller]
    pub fn running(command: &str) -> Self {
        let directory = if is_system() {
            PathBuf::from("/run/systemd/system")
        } else {
            std::env::home_dir().unwrap().join(".config/systemd/user")
        };
        let unit = directory.join("pinfold.service");
        assert!(
            !unit.exists() && !Path::new("/etc/systemd/system/pinfold.service").exists(),
            "pinfold is installed here"
        );
        std::fs::create_dir_all(&directory).unwrap();
        for (name, text) in sources() {
            std::fs::write(directory.join(name), text).unwrap();
        }
        let mut installed = Self { directory, drop_ins: Vec::new() };
        let mut commands = format!("ExecStart=\nExecStart={command}\n");
        for key in ["ExecReload", "ExecStopPost"] {
            let text = source("pinfold.service");
            let order = text.lines().find_map(|line| line.strip_prefix(&format!("{key}=pinfold "))).unwrap();
            commands.push_str(&format!("{key}=\n{key}={} {order}\n", binary()));
        }
        installed.drop_in("pinfold.service", "commands", &format!("[Service]\n{commands}"));
        installed
    }

    /// Changes a unit.
    #[track_caller]
    pub fn drop_in(&mut self, unit: &str, name: &str, text: &str) {
        let directory = self.directory.join(format!("{unit}.d"));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(format!("{name}.conf")), text).unwrap();
        self.drop_ins.push(directory);
        reload();
    }

    /// Where one of its units stands.
    pub fn path(&self, unit: &str) -> PathBuf {
        self.directory.join(unit)
    }

    pub fn main_pid(&self) -> i32 {
        property("pinfold.service", "MainPID").parse().unwrap()
    }

    /// Writes the configuration file that the unit reads; it goes with this.
    #[track_caller]
    pub fn configure(&self, config: &str) {
        let path = config_path();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, config).unwrap();
    }

    #[track_caller]
    pub fn expect_active(&self, not: i32) -> i32 {
        eventually("the unit is active", || {
            let (state, pid) = (property("pinfold.service", "ActiveState"), self.main_pid());
            // It may have ended between the two questions.
            if state == "active" && pid != not && pid != 0 { Ok(pid) } else { Err(format!("{state}, {pid}")) }
        })
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = usual(&["end", "--all", "--now"]).stdin(Stdio::null()).output();
        // Each of them would start the other again: the socket for whoever still comes, and the service after a failure.
        systemctl(&["stop", "pinfold.socket", "pinfold.service"]);
        systemctl(&["stop", "pinfold.socket"]);
        systemctl(&["stop", "pinfold.slice", "pinfoldd.slice"]);
        for unit in unit_files() {
            let _ = std::fs::remove_file(self.path(unit));
        }
        for directory in &self.drop_ins {
            let _ = std::fs::remove_dir_all(directory);
        }
        // What was set at run time is a file, too.
        systemctl(&["revert", "pinfold.slice"]);
        let _ = std::fs::remove_file(config_path());
        let _ = std::fs::remove_file(usual_socket());
        systemctl(&["reset-failed", "pinfold.service"]);
        systemctl(&["reset-failed", "pinfold.socket"]);
        reload();
    }
}

fn config_path() -> PathBuf {
    if is_system() {
        PathBuf::from("/etc/pinfold/pinfold.toml")
    } else {
        std::env::home_dir().unwrap().join(".config/pinfold/pinfold.toml")
    }
}

/// Where everybody finds the daemon.
pub fn usual_socket() -> PathBuf {
    if is_system() {
        PathBuf::from("/run/pinfold/pinfold.sock")
    } else {
        PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").unwrap()).join("pinfold/pinfold.sock")
    }
}

fn reload() {
    let reloaded = systemctl(&["daemon-reload"]);
    assert!(reloaded.status.success(), "{reloaded:?}");
}

/// `pinfold ARGUMENTS…` with nothing that says which daemon.
pub fn usual(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments);
    for name in ["SOCKET", "CONFIG", "ROOT", "BACKEND", "SESSION", "UNCONTAINED"] {
        command.env_remove(format!("PINFOLD_{name}"));
    }
    command
}

#[track_caller]
pub fn ask(arguments: &[&str]) -> Output {
    usual(arguments).stdin(Stdio::null()).output().unwrap()
}

/// `pinfold run` of a server that says `up` when it runs.
#[track_caller]
pub fn up(session: &str) -> Launched {
    let mut run = usual(&["run", "--session", session, "--", "sh", "-c", "echo up; exec cat"]);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Launched::spawn(run);
    let line = server.line();
    assert_eq!(line, "up", "{}", if line.is_empty() { server.stderr() } else { String::new() });
    server
}

/// The first processes of all servers that the daemon at the usual socket knows.
#[track_caller]
pub fn leaders() -> Vec<i64> {
    let output = ask(&["ls", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let sessions: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let servers = sessions.iter().flat_map(|session| session["servers"].as_array().unwrap());
    servers.map(|server| server["leader_pid"].as_i64().unwrap()).collect()
}
