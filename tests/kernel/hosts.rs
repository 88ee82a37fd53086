//! Hosts that a test plays: shells under a host's name, other users, and clients that speak to the socket in raw bytes.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{DEADLINE, Launched, Machine, binary, eventually};

/// A user who is not root.
pub const NOBODY: u32 = 65534;

/// What a host's script begins with. `launch OPTIONS… -- COMMAND…` launches in the background and prints the pid; the
/// server's stdin is a pipe that hangs up when the host is gone.
const PRELUDE: &str = r#"
mkfifo "$FIFO.$$" && exec 9<>"$FIFO.$$"
launch() { "$PINFOLD" run "$@" <"$FIFO.$$" 9>&- & echo "$!"; }
"#;

impl Machine {
    /// A process of this name that runs a shell script, and then lives until its stdin is closed.
    #[track_caller]
    pub fn host(&self, name: &str, script: &str) -> Launched {
        Launched::spawn(self.host_command(name, script))
    }

    /// The same as a command, to be completed.
    pub fn host_command(&self, name: &str, script: &str) -> Command {
        let mut command = Command::new(self.shell_named(name));
        command.arg("-c").arg(format!("{PRELUDE}\n{script}\nread -r _"));
        self.point_here(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A shell that the kernel shows under this name: a symbolic link lends its own.
    pub fn shell_named(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        match std::os::unix::fs::symlink("/bin/sh", &path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => panic!("{error}"),
            _ => path,
        }
    }

    /// Gives a command the environment that leads to this machine, and no session.
    pub fn point_here(&self, command: &mut Command) {
        let own = self.pinfold(&[]);
        for (name, value) in own.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("PINFOLD", binary()).env("FIFO", self.path("fifo"));
    }

    /// `pinfold ARGUMENTS…` as the user [`NOBODY`], from a copy of the program that this user can reach.
    pub fn nobody(&self, arguments: &[&str]) -> Command {
        let program = self.path("pinfold");
        if !program.exists() {
            let directory = program.parent().unwrap();
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
            // By another process: one that is forked here meanwhile would keep the copy open for writing (ETXTBSY).
            assert!(Command::new("cp").arg(binary()).arg(&program).status().unwrap().success());
        }
        let mut command = Command::new(program);
        command.args(arguments);
        self.point_here(&mut command);
        command.uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::null());
        command
    }

    /// Lets every user speak to the daemon, as the group `pinfold` may on a system.
    pub fn open_to_all(&self) {
        // A daemon that answers has given its socket the mode that it wants.
        self.described();
        std::fs::set_permissions(self.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    }

    /// Calls a method of the daemon, and gives the whole reply.
    #[track_caller]
    pub fn call(&self, method: &str, parameters: &Value) -> Value {
        let message = serde_json::json!({ "method": method, "parameters": parameters });
        let mut reply = self.send(format!("{message}\0").as_bytes());
        assert_eq!(reply.pop(), Some(0), "a reply ends with a NUL byte");
        serde_json::from_slice(&reply).unwrap()
    }

    /// Sends bytes as they are, and reads until the first NUL byte or until the daemon hangs up.
    #[track_caller]
    pub fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // A daemon that has read enough hangs up.
        let _ = stream.write_all(bytes);
        let mut reply = Vec::new();
        let mut byte = [0];
        while !reply.ends_with(&[0]) {
            match stream.read(&mut byte) {
                Ok(1) => reply.push(byte[0]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the daemon does not answer"),
                _ => break,
            }
        }
        reply
    }

    /// What the daemon says of itself.
    #[track_caller]
    pub fn described(&self) -> Value {
        self.call("io.pinfold.Describe", &Value::Null)["parameters"].clone()
    }
}

impl Launched {
    /// A number on the next line of its stdout.
    #[track_caller]
    pub fn number(&mut self) -> i32 {
        let line = self.line();
        line.trim().parse().unwrap_or_else(|_| {
            let _ = self.child.kill();
            panic!("{line:?} is no number; {}", self.stderr())
        })
    }
}

/// The names of the servers of a session, in order.
pub fn server_names(session: &Value) -> Vec<&str> {
    session["servers"].as_array().unwrap().iter().map(|server| server["name"].as_str().unwrap()).collect()
}

/// What the descriptors of a process point to.
pub fn descriptors(pid: i32) -> Vec<(i32, String)> {
    let listed = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let named = |entry: std::fs::DirEntry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, target.display().to_string()))
    };
    let mut found: Vec<(i32, String)> = listed.filter_map(named).collect();
    found.sort();
    found
}

/// A field of `/proc/PID/status`.
pub fn status_field(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// Whether a client of the socket has sent its request and sleeps.
pub fn waits_for_an_answer(pid: i32) -> Result<(), String> {
    let connected = descriptors(pid).iter().any(|(_, target)| target.starts_with("socket:"));
    let stack = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    let state = status_field(pid, "State");
    // Where the kernel does not tell in which function a process sleeps, that it does is all there is.
    let in_read = !stack.starts_with(|c: char| c.is_ascii_alphabetic()) || stack.contains("unix_stream");
    if connected && in_read && state.starts_with('S') { Ok(()) } else { Err(format!("{state} {stack}")) }
}

/// Waits until a process that is not our child is gone.
#[track_caller]
pub fn expect_gone(pid: i32) {
    eventually(&format!("process {pid} is gone"), || {
        if crate::support::lives(pid) { Err(status_field(pid, "State")) } else { Ok(()) }
    });
}

/// The lines of stderr, for a test that expects just one.
pub fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect()
}

/// A process's cgroup in the v2 hierarchy, as a directory below `mount`.
pub fn v2_cgroup(pid: i32, mount: &Path) -> PathBuf {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
    mount.join(path)
}
