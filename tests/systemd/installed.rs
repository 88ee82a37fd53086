//! The usual socket, and the unit that is installed for it: what a machine has where somebody set pinfold up.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::*;

/// A manager in whose unit path `pinfold.service` is, as it stands in the sources; a drop-in names the binary under test.
pub struct Installed {
    directory: PathBuf,
}

impl Installed {
    #[track_caller]
    pub fn new() -> Self {
        Self::running(&format!("{} serve", binary()))
    }

    /// With another command.
    #[track_caller]
    pub fn running(command: &str) -> Self {
        let source = if is_system() {
            include_str!("../../systemd/system/pinfold.service")
        } else {
            include_str!("../../systemd/user/pinfold.service")
        };
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
        let installed = Self { directory };
        let drop_ins = installed.directory.join("pinfold.service.d");
        std::fs::create_dir_all(&drop_ins).unwrap();
        std::fs::write(unit, source).unwrap();
        let order = source.lines().find_map(|line| line.strip_prefix("ExecReload=pinfold ")).unwrap();
        let order = format!("{} {order}", binary());
        let commands = format!("ExecStart=\nExecStart={command}\nExecReload=\nExecReload={order}\n");
        std::fs::write(drop_ins.join("test.conf"), format!("[Service]\n{commands}")).unwrap();
        reload();
        installed
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
            if state == "active" && pid != not { Ok(pid) } else { Err(format!("{state}, {pid}")) }
        })
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = usual(&["end", "--all", "--now"]).stdin(Stdio::null()).output();
        systemctl(&["stop", "pinfold.service"]);
        let _ = std::fs::remove_file(self.directory.join("pinfold.service"));
        let _ = std::fs::remove_dir_all(self.directory.join("pinfold.service.d"));
        let _ = std::fs::remove_file(config_path());
        systemctl(&["reset-failed", "pinfold.service"]);
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
