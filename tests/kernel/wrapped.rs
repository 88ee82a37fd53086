//! An entry of a host's own file, launched as it stands there: wrapped, and taken back.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::hosts::{expect_gone, v2_cgroup};
use crate::support::{Launched, Machine, binary, eventually, lives, offered, v2_mount};

/// A server that tells the environment and the directory that it was given, and leaves a grandchild behind.
const FILE: &str = r#"# what a host's user wrote
[mcp_servers.fs]
command = 'sh' # a shell
args = [ "-c", '''setsid sleep 1000 >/dev/null 2>&1 & echo $!; echo "$WORD in $PWD"; exec cat''' ]
cwd = "CWD"
[mcp_servers.fs.env]
WORD = 'hello, "you"'
"#;

/// Launches the entry that stands in the file, as its host does.
#[track_caller]
fn launch(machine: &Machine, text: &str) -> Launched {
    let settings: Value = toml::from_str(text).unwrap();
    let entry = &settings["mcp_servers"]["fs"];
    let mut command = Command::new(entry["command"].as_str().unwrap());
    command.args(entry["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()));
    machine.point_here(&mut command);
    command.envs(entry["env"].as_object().unwrap().iter().map(|(name, value)| (name, value.as_str().unwrap())));
    command.current_dir(entry["cwd"].as_str().unwrap());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Launched::spawn(command)
}

#[test]
fn an_entry_that_was_wrapped_is_launched_into_a_leaf_with_its_own_environment_and_directory() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ngrace = '300ms'\n");
    let directory = machine.path("elsewhere");
    std::fs::create_dir(&directory).unwrap();
    let before = FILE.replace("CWD", directory.to_str().unwrap());
    let file = machine.path("config.toml");
    std::fs::write(&file, &before).unwrap();
    let change = |what: &str| {
        let mut command = machine.pinfold(&[what, file.to_str().unwrap(), "--yes"]);
        command.env("XDG_STATE_HOME", machine.path("state")).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        std::fs::read_to_string(&file).unwrap()
    };
    let wrapped = change("wrap");
    assert!(wrapped.contains(binary()), "{wrapped}");
    let mut server = launch(&machine, &wrapped);
    let grandchild: i32 = server.line().parse().unwrap();
    assert_eq!(server.line(), format!("hello, \"you\" in {}", directory.display()));
    for pid in [server.pid(), grandchild] {
        let cgroup = v2_cgroup(pid, &v2_mount().unwrap());
        assert!(cgroup.starts_with(machine.tree()), "{pid} is in {}", cgroup.display());
    }
    let sessions = machine.sessions();
    assert_eq!(sessions[0]["servers"][0]["name"], "fs", "{sessions:?}");
    assert_eq!(change("unwrap"), before);
    assert!(lives(server.pid()), "what runs is nothing that an edit ends");
    drop(server);
    expect_gone(grandchild);
    machine.expect_nothing_left();
    // And the entry starts what it did before.
    let mut server = launch(&machine, &before);
    let grandchild: i32 = server.line().parse().unwrap();
    assert!(machine.sessions().is_empty());
    drop(server);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(grandchild), nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("the grandchild is gone", || if lives(grandchild) { Err("it lives".to_owned()) } else { Ok(()) });
}

/// `pinfold wrap FILE` on a terminal where somebody has typed this: the exit status, and what is seen.
#[track_caller]
fn wrap_on_a_terminal(machine: &Machine, typed: &str, colours: bool) -> (i32, String) {
    let spawn = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mut command = Command::new("python3");
    command.args(["-c", spawn, binary(), "wrap"]).arg(machine.path("config.toml"));
    command.env("XDG_STATE_HOME", machine.path("state")).env_remove("NO_COLOR");
    if !colours {
        command.env("NO_COLOR", "1");
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), seen)
}

#[test]
fn whoever_sits_at_the_terminal_is_shown_what_changes_and_asked() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let file = machine.path("config.toml");
    std::fs::write(&file, FILE).unwrap();
    for no in ["n\n", "\n", "yea\n", "\x04"] {
        let (status, seen) = wrap_on_a_terminal(&machine, no, true);
        assert_eq!(status, 1, "{seen}");
        assert!(seen.contains("change this file? [y/N]") && seen.contains("nothing was changed"), "{seen}");
        assert!(seen.contains("\x1b[1;31m-command = 'sh'") && seen.contains("\x1b[32m+command ="), "{seen:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), FILE);
    }
    let (status, seen) = wrap_on_a_terminal(&machine, "y\n", false);
    assert_eq!(status, 0, "{seen}");
    assert!(!seen.contains('\x1b') && seen.contains("wrapped 1 server"), "{seen:?}");
    assert!(std::fs::read_to_string(&file).unwrap().contains(binary()));
}
