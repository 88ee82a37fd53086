//! What the installed unit may not do, and that it does its work nevertheless.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::installed::{self, Installed, up, usual};
use crate::support::*;
use crate::which_daemon::{self, Group, Who};

/// The exposure that `systemd-analyze security` may find at most, in tenths: what is left are the capabilities and system calls
/// that it works with, its view of all processes, and that it makes cgroups. A user's manager can take much less away.
fn exposure() -> u32 {
    if is_system() { 42 } else { 70 }
}

#[test]
fn the_installed_units_are_what_systemd_expects_and_are_exposed_to_little() {
    if !offered() {
        return;
    }
    let installed = Installed::new();
    let manager = if is_system() { "--system" } else { "--user" };
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", manager, "--man=no"]).args(installed::unit_files());
    let verified = verify.output().unwrap();
    assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");
    let threshold = format!("--threshold={}", exposure());
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=yes", "--no-pager", &threshold]).arg(installed.path("pinfold.service"));
    let found = security.output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));
}

#[test]
fn the_group_of_the_socket_is_one_that_sysusers_makes() {
    if !offered() || !is_system() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pinfold.conf");
    std::fs::write(&file, include_str!("../../systemd/sysusers.d/pinfold.conf")).unwrap();
    let before = std::fs::read_to_string("/etc/group").unwrap();
    let made = Command::new("systemd-sysusers").arg(&file).output().unwrap();
    let after = std::fs::read_to_string("/etc/group").unwrap();
    std::fs::write("/etc/group", before).unwrap();
    let _ = Command::new("sh").args(["-c", "sed -i /^pinfold:/d /etc/gshadow"]).status();
    assert!(made.status.success() && after.contains("\npinfold:x:"), "{made:?}; {after}");
}

#[test]
fn the_daemon_stands_in_a_slice_of_its_own_with_memory_kept_for_it_and_sessions_in_theirs() {
    if !offered() || !is_system() {
        return;
    }
    let mut installed = Installed::new();
    installed.configure("[machine]\nmemory_max = '500M'\n");
    // Somebody's own limit of what pinfold sets nothing about.
    installed.drop_in("pinfold.slice", "own", "[Slice]\nCPUQuota=150%\nMemoryMax=90M\n");
    let _server = up("s");
    let daemon = installed.expect_active(0);
    let cgroup = std::fs::read_to_string(format!("/proc/{daemon}/cgroup")).unwrap();
    assert_eq!(cgroup.trim(), "0::/pinfoldd.slice/pinfold.service");
    for place in ["pinfoldd.slice", "pinfoldd.slice/pinfold.service"] {
        assert_eq!(knob(&Path::new("/sys/fs/cgroup").join(place), "memory.min"), (64 << 20).to_string(), "{place}");
    }
    let sessions = Path::new("/sys/fs/cgroup/pinfold.slice");
    assert_eq!(knob(sessions, "memory.max"), (500 << 20).to_string(), "what pinfold is told to set counts");
    assert_eq!(knob(sessions, "cpu.max"), "150000 100000");
    // It goes with the last session and the daemon, and is started again with its limits.
    assert!(installed::ask(&["end", "--all", "--now"]).status.success());
    assert!(systemctl(&["stop", "pinfold.service"]).status.success());
    eventually("the slice is gone", || if sessions.exists() { Err("it is there".to_owned()) } else { Ok(()) });
    let _server = up("s");
    assert_eq!(knob(sessions, "memory.max"), (500 << 20).to_string());
    assert_eq!(knob(sessions, "cpu.max"), "150000 100000");
}

/// The only session that `pinfold ls --json` tells.
#[track_caller]
fn session() -> Value {
    let output = installed::ask(&["ls", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let sessions: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    sessions[0].clone()
}

#[test]
fn a_sandboxed_daemon_launches_limits_watches_and_ends_what_a_user_starts_and_reads_that_users_files() {
    if !offered() || !is_system() {
        return;
    }
    let _group = Group::new();
    let installed = Installed::new();
    // A file that its user alone reads, in a directory that its user alone enters.
    let own = tempfile::Builder::new().prefix("host-").tempdir_in("/home/agent").unwrap();
    std::os::unix::fs::chown(own.path(), Some(1000), Some(1000)).unwrap();
    let file = own.path().join("openclaw.json");
    let write = |entries: &str| {
        let draft = file.with_extension("draft");
        std::fs::write(&draft, format!("{{\"mcp\": {{\"servers\": {{{entries}}}}}}}")).unwrap();
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&draft, Some(1000), Some(1000)).unwrap();
        std::fs::rename(&draft, &file).unwrap();
    };
    write("\"cat\": {\"command\": \"x\"}");
    installed.configure(&format!("[[host]]\nname = 'openclaw'\nfiles = ['{}']\n", file.display()));

    let options = ["run", "--host", "openclaw", "--session", "s", "--server", "cat", "--memory-max", "100M"];
    let script = ["--", "sh", "-c", "setsid sleep 1000 & echo up; exec sleep 1000"];
    let mut run = which_daemon::pinfold(Who::Member, &[&options[..], &script[..]].concat());
    // The socket's unit made it for the group.
    assert!(systemctl(&["start", "pinfold.service"]).status.success());
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Launched::spawn(run);
    let line = server.line();
    assert_eq!(line, "up", "{}", if line.is_empty() { server.stderr() } else { String::new() });
    let leaf = PathBuf::from(session()["servers"][0]["cgroup"].as_str().unwrap());
    assert_eq!(knob(&leaf, "memory.max"), (100 << 20).to_string());
    assert_eq!(processes(&leaf).len(), 2);
    let first = installed.expect_active(0);
    // With a file of which nothing follows nothing would follow from the entry that goes, either.
    let said =
        Command::new("journalctl").args(["--no-pager", "--output=cat", &format!("_PID={first}")]).output().unwrap();
    assert!(!String::from_utf8_lossy(&said.stdout).contains("openclaw.json"), "{said:?}");
    let status = std::fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    assert!(status.contains("\nNoNewPrivs:\t1\n") && status.contains("\nSeccomp:\t2\n"), "{status}");

    // A stop gives up what the manager keeps: the stdin is taken from the user's process.
    assert!(systemctl(&["stop", "pinfold.service"]).status.success());
    assert!(systemctl(&["start", "pinfold.service"]).status.success());
    installed.expect_active(first);
    assert_eq!(session()["servers"][0]["leader_pid"], server.pid());
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 128 + 15, "the hang-up of its stdin is seen");
    eventually("its leaf is gone", || if leaf.exists() { Err(format!("{leaf:?}")) } else { Ok(()) });

    // The entry of another one goes.
    let mut run = which_daemon::pinfold(Who::Member, &[&options[..], &script[..]].concat());
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Launched::spawn(run);
    assert_eq!(server.line(), "up");
    write("");
    assert_eq!(server.exit_status(), 128 + 15, "what its user's file does not name any more ends");
}

#[test]
fn a_sandboxed_daemon_adopts_what_runs_already_and_sees_what_holds_a_launcher() {
    if !offered() || !is_system() {
        return;
    }
    let installed = Installed::new();
    assert!(systemctl(&["start", "pinfold.service"]).status.success());
    installed.expect_active(0);
    let mut host = Command::new("systemd-run");
    host.args(["--system", "--quiet", "--collect", "--service-type=exec", "--uid=1000", "--unit=host-of-sandboxed"]);
    host.args(["--property=TasksMax=40", "--", "sh", "-c", "sleep 1000 & wait; exec sleep 1000"]);
    assert!(host.status().unwrap().success());
    let main: i32 = property("host-of-sandboxed.service", "MainPID").parse().unwrap();
    let server: i32 = eventually("the service has started its own", || {
        let text = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap_or_default();
        text.trim().parse().map_err(|_| text)
    });
    let adopted = installed::ask(&["adopt", &server.to_string(), "--session", "s"]);
    assert!(adopted.status.success(), "{adopted:?}");
    let leaf = PathBuf::from(session()["servers"][0]["cgroup"].as_str().unwrap());
    assert_eq!(processes(&leaf), [server]);
    assert_eq!(knob(leaf.parent().unwrap().parent().unwrap(), "pids.max"), "40", "what held it holds its session");
    assert!(installed::ask(&["end", "s"]).status.success());
    assert!(!lives(server) && lives(main));

    // Programs are seen only by who may ask the kernel for them.
    let cgroup = property("host-of-sandboxed.service", "ControlGroup");
    let cgroup = Path::new("/sys/fs/cgroup").join(cgroup.trim_start_matches('/'));
    attach_device_program(&cgroup);
    let run = usual(&["run", "--session", "t", "--", "echo", "launched"]);
    let mut sh = Command::new("sh");
    sh.args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""]).arg(&cgroup);
    let output = sh.arg(run.get_program()).args(run.get_args()).stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("would free it from the BPF program (cgroup_device) of"), "{output:?}");
    systemctl(&["stop", "host-of-sandboxed.service"]);
}

#[test]
fn a_sandboxed_daemon_finds_the_cgroup_of_a_container_whichever_of_its_cgroups_a_launch_comes_from() {
    if !offered() || !is_system() {
        return;
    }
    let installed = Installed::new();
    assert!(systemctl(&["start", "pinfold.service"]).status.success());
    installed.expect_active(0);
    let run = usual(&["run", "--session", "s", "--", "sleep", "1000"]);
    let mut host = Command::new("systemd-run");
    host.args(["--system", "--quiet", "--collect", "--service-type=exec", "--unit=box-of-sandboxed"]);
    host.args(["--property=Delegate=yes", "--", "unshare", "--cgroup", "--pid", "--fork", "sh", "-c"]);
    host.arg("cd /sys/fs/cgroup/system.slice/box-of-sandboxed.service && mkdir inner && echo 0 >inner/cgroup.procs && exec \"$@\"");
    host.arg("sh").arg(run.get_program()).args(run.get_args());
    assert!(host.status().unwrap().success());
    let launched = eventually("it is launched", || {
        let output = installed::ask(&["ls", "--json"]);
        let sessions: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let running = sessions.first().filter(|session| session["servers"][0]["state"] == "running").cloned();
        running.ok_or_else(|| {
            let said = Command::new("journalctl").args(["--no-pager", "--unit=box-of-sandboxed", "--lines=5"]).output();
            format!("{sessions:?}; {said:?}")
        })
    });
    let leaf = launched["servers"][0]["cgroup"].as_str().unwrap().to_owned();
    assert!(leaf.starts_with("/sys/fs/cgroup/system.slice/box-of-sandboxed.service/pinfold."), "{leaf}");
    assert!(installed::ask(&["end", "s"]).status.success());
    systemctl(&["stop", "box-of-sandboxed.service"]);
}
