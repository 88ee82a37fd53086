//! What somebody else does to the cgroups: root may move, freeze, kill and remove whatever it likes behind our back.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::{
    Launched, Machine, companions_offered, eventually, lives, offered, processes, root_offered, signal,
    subtree_offered, v1_mount, v2_mount,
};

/// A server with a child, and the child's pid.
#[track_caller]
fn with_child(machine: &Machine, options: &[&str]) -> (Launched, i32) {
    let mut server = machine.run(options, "sleep 1000 & echo $!; exec cat");
    let child = server.line().parse().unwrap();
    (server, child)
}

/// The directories of a session's leaf, companions included.
pub fn leaf_directories(machine: &Machine, id: &str) -> Vec<PathBuf> {
    let leaf = machine.leaf(id);
    let name = leaf.file_name().unwrap().to_owned();
    let mut found: Vec<PathBuf> = machine.cgroups().into_iter().filter(|path| path.ends_with(&name)).collect();
    found.sort();
    found
}

/// Moves all that is in these to the top of their hierarchies, as an administrator could.
#[track_caller]
pub fn move_out(directories: &[PathBuf]) {
    let tops = [v2_mount(), v1_mount("memory"), v1_mount("pids")];
    for directory in directories {
        let top = tops.iter().flatten().find(|top| directory.starts_with(top)).unwrap();
        for pid in processes(directory) {
            std::fs::write(top.join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }
}

#[track_caller]
fn remove(directory: &Path) {
    eventually("it can be removed", || match std::fs::remove_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    });
}

#[track_caller]
fn expect_cause(machine: &Machine, cause: &str) {
    eventually("the cause is told", || {
        let log = machine.log();
        if log.contains(&format!("cause=\"{cause}\"")) { Ok(()) } else { Err(log) }
    });
}

#[track_caller]
fn expect_escaped(machine: &Machine, id: &str) {
    eventually("it is shown as escaped", || {
        let server = machine.session(id)["servers"][0].clone();
        if server["escaped"] == true { Ok(()) } else { Err(format!("{server}; {}", machine.log())) }
    });
    let listed = String::from_utf8(machine.ask(&["ls"]).stdout).unwrap();
    assert!(listed.lines().any(|line| line.starts_with(id) && line.contains("  ESCAPED  ")), "{listed}");
}

#[test]
fn a_server_whose_leaf_was_emptied_and_removed_behind_our_back_is_shown_as_escaped_and_ended() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    let mut server = machine.run(&["--session", "s"], "echo up; exec sleep 1000");
    assert_eq!(server.line(), "up");
    let directories = leaf_directories(&machine, "s");
    move_out(&directories);
    directories.iter().for_each(|directory| remove(directory));
    expect_escaped(&machine, "s");
    assert!(lives(server.pid()), "nothing is a reason to end it");
    // Another server of the session finds a session's directory, whoever removed it.
    let above: Vec<PathBuf> = directories.iter().map(|directory| directory.parent().unwrap().to_owned()).collect();
    above.iter().for_each(|directory| remove(directory));
    let mut other = machine.run(&["--session", "s", "--server", "other"], "echo up; exec cat");
    assert_eq!(other.line(), "up");
    assert!(machine.ask(&["end", "s"]).status.success());
    assert_eq!(server.exit_status(), 128 + 15);
    other.exit_status();
    machine.expect_nothing_left();
}

#[test]
fn an_escaped_server_is_adopted_and_ended_by_the_next_daemon() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = machine.run(&["--session", "s"], "echo up; exec sleep 1000");
    assert_eq!(server.line(), "up");
    // Its leaf is empty, while the leader lives elsewhere.
    move_out(&leaf_directories(&machine, "s"));
    expect_escaped(&machine, "s");
    machine.kill_daemon();
    machine.start();
    expect_escaped(&machine, "s");
    assert!(lives(server.pid()));
    assert!(machine.ask(&["end", "s"]).status.success());
    assert_eq!(server.exit_status(), 128 + 15);
    machine.expect_nothing_left();
}

/// A server that is moved out of its leaf, which is then removed, session and all, while no daemon runs. Its host goes on.
#[track_caller]
fn removed_while_no_daemon_ran(machine: &mut Machine, script: &str) -> Launched {
    let mut server = machine.run(&["--session", "s", "--grace", "300ms"], script);
    assert_eq!(server.line(), "up");
    let directories = leaf_directories(machine, "s");
    machine.kill_daemon();
    move_out(&directories);
    for directory in &directories {
        remove(directory);
        remove(directory.parent().unwrap());
    }
    server
}

#[test]
fn a_server_whose_leaf_was_removed_while_no_daemon_ran_is_shown_as_escaped_and_ended_by_the_next_one() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let mut machine = Machine::new();
    // What ignores SIGTERM is killed when its grace is over, as anywhere.
    for (script, signal) in [("echo up; exec sleep 1000", 15), ("trap '' TERM; echo up; exec sleep 1000", 9)] {
        let mut server = removed_while_no_daemon_ran(&mut machine, script);
        machine.start();
        let session = machine.session("s");
        let shown = &session["servers"][0];
        assert_eq!(
            (&shown["state"], &shown["escaped"], &shown["leader_pid"], &shown["escaped_pids"]),
            (&"running".into(), &true.into(), &server.pid().into(), &vec![server.pid()].into()),
            "{shown}"
        );
        assert!(machine.log().contains("outlived its leaf"), "{}", machine.log());
        assert!(lives(server.pid()), "nothing is a reason to end it");
        // Once more: nothing was made for it that the next daemon would miss.
        machine.kill_daemon();
        machine.start();
        expect_escaped(&machine, "s");
        assert!(machine.ask(&["end", "s"]).status.success());
        assert_eq!(server.exit_status(), 128 + signal);
        expect_cause(&machine, "requested");
        machine.expect_nothing_left();
    }
}

#[test]
fn a_server_whose_leaf_was_removed_while_no_daemon_ran_ends_when_its_owner_goes() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut host = machine.host("claude", "launch --session s -- sh -c 'trap \"\" HUP; echo up; exec sleep 1000'");
    let server = host.number();
    assert_eq!(host.line(), "up");
    let directories = leaf_directories(&machine, "s");
    machine.kill_daemon();
    move_out(&directories);
    directories.iter().for_each(|directory| remove(directory));
    machine.start();
    expect_escaped(&machine, "s");
    // The session takes a launch as ever, and both end.
    let mut other = machine.run(&["--session", "s", "--server", "other"], "echo up; exec cat");
    assert_eq!(other.line(), "up");
    signal(host.pid(), Signal::SIGKILL);
    host.exit_status();
    eventually("it ends", || if lives(server) { Err(machine.log()) } else { Ok(()) });
    expect_cause(&machine, "owner_gone");
    drop(other.child.stdin.take());
    other.exit_status();
    machine.expect_nothing_left();
}

#[test]
fn a_stranger_that_has_the_number_of_a_server_that_is_gone_with_its_leaf_is_left_alone() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = removed_while_no_daemon_ran(&mut machine, "echo up; exec sleep 1000");
    // As if the number had passed on: the same marks, and another start.
    let record = machine.records().pop().unwrap();
    let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    let started = text["leader"]["start_time"].as_u64().unwrap();
    text["leader"]["start_time"] = (started - 1).into();
    std::fs::write(&record, text.to_string()).unwrap();
    machine.start();
    assert!(machine.sessions().is_empty());
    machine.expect_nothing_left();
    assert!(machine.ask(&["end", "--all", "--now"]).status.code().is_some());
    assert!(lives(server.pid()));
    signal(server.pid(), Signal::SIGKILL);
    assert_eq!(server.exit_status(), 128 + 9);
    machine.expect_nothing_left();
}

#[test]
fn what_the_next_daemon_cannot_sweep_at_its_start_is_swept_once_it_can_be() {
    // Only where there are companions can a leaf be empty and stay: somebody is left in one of those.
    if !offered() || !root_offered() || !subtree_offered() || !companions_offered() {
        return;
    }
    let mut machine = Machine::new();
    let (mut server, child) = with_child(&machine, &["--session", "s"]);
    let directories = leaf_directories(&machine, "s");
    let leaf = machine.leaf("s");
    machine.kill_daemon();
    std::fs::write(v2_mount().unwrap().join("cgroup.procs"), child.to_string()).unwrap();
    signal(server.pid(), Signal::SIGKILL);
    server.exit_status();
    machine.start();
    eventually("it was tried in vain", || {
        let log = machine.log();
        if log.contains("an empty leaf is not removed yet") { Ok(()) } else { Err(log) }
    });
    assert!(machine.sessions().is_empty(), "{}", machine.log());
    assert!(lives(child) && directories.iter().any(|directory| *directory != leaf && directory.exists()));
    assert_eq!(machine.records().len(), 1, "the next daemon is to know of it, too");
    signal(child, Signal::SIGKILL);
    machine.expect_nothing_left();
    eventually("its record goes with it", || if machine.records().is_empty() { Ok(()) } else { Err(machine.log()) });
}

#[test]
fn a_session_that_was_killed_and_removed_behind_our_back_is_over_and_the_next_launch_is_granted() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    let (mut server, child) = with_child(&machine, &["--session", "s"]);
    let directories = leaf_directories(&machine, "s");
    std::fs::write(machine.leaf("s").join("cgroup.kill"), "1").unwrap();
    for directory in &directories {
        remove(directory);
        // The daemon may have been first.
        remove(directory.parent().unwrap());
    }
    assert_eq!(server.exit_status(), 128 + 9);
    assert!(!lives(child));
    machine.expect_nothing_left();
    let log = machine.log();
    assert!(log.contains("to=Ended { cause: LeaderExited }"), "{log}");
    let (_again, _) = with_child(&machine, &["--session", "s"]);
    assert!(machine.ask(&["end", "s"]).status.success());
    machine.expect_nothing_left();
}

#[test]
fn where_the_whole_tree_was_removed_a_launch_makes_it_anew_or_says_what_is_missing() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    remove(&machine.tree());
    let (_server, _) = with_child(&machine, &["--session", "s"]);
    assert!(machine.ask(&["end", "s"]).status.success());
    machine.expect_nothing_left();
    remove(&machine.tree());
    remove(machine.root());
    let mut refused = machine.run(&["--session", "s"], "echo up");
    assert_eq!(refused.exit_status(), 125);
    let told = refused.stderr();
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains(&machine.root().display().to_string()), "{told}");
    std::fs::create_dir(machine.root()).unwrap();
    let (_server, _) = with_child(&machine, &["--session", "s"]);
    assert!(machine.ask(&["end", "s"]).status.success());
    machine.expect_nothing_left();
}

#[test]
fn a_limit_that_was_changed_behind_our_back_is_shown_as_the_kernel_has_it() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    let (_server, _) = with_child(&machine, &["--session", "s", "--memory-max", "64M"]);
    let shown = || machine.session("s")["servers"][0]["memory"]["max_bytes"].as_u64();
    assert_eq!(shown(), Some(64 << 20));
    // v1 has the sum of memory and swap beside it, which may not be below.
    for directory in leaf_directories(&machine, "s") {
        for file in ["memory.max", "memory.memsw.limit_in_bytes", "memory.limit_in_bytes"] {
            let file = directory.join(file);
            if file.exists() {
                std::fs::write(file, (128u64 << 20).to_string()).unwrap();
            }
        }
    }
    assert_eq!(shown(), Some(128 << 20), "{}", machine.log());
    assert!(machine.ask(&["end", "s"]).status.success());
    machine.expect_nothing_left();
}

#[test]
fn controllers_that_were_taken_from_a_session_behind_our_back_are_there_again_for_its_next_launch() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    let (_server, _) = with_child(&machine, &["--session", "s", "--server", "one"]);
    let session = machine.leaf("s").parent().unwrap().to_owned();
    // On a hybrid machine there is none to take, and the launch finds its companions.
    let enabled = std::fs::read_to_string(session.join("cgroup.subtree_control")).unwrap();
    for controller in enabled.split_whitespace() {
        std::fs::write(session.join("cgroup.subtree_control"), format!("-{controller}")).unwrap();
    }
    let (_other, _) = with_child(&machine, &["--session", "s", "--server", "two", "--pids-max", "77"]);
    let two = leaf_directories(&machine, "s").into_iter().chain(machine.cgroups());
    let limits: Vec<String> = two.filter_map(|path| std::fs::read_to_string(path.join("pids.max")).ok()).collect();
    assert!(limits.iter().any(|limit| limit.trim() == "77"), "{limits:?}");
    assert!(machine.ask(&["end", "s"]).status.success());
    machine.expect_nothing_left();
}

#[test]
fn a_leader_that_somebody_killed_takes_its_leaf_along_and_that_is_the_cause() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let (mut server, child) = with_child(&machine, &["--session", "s"]);
    signal(server.pid(), Signal::SIGKILL);
    assert_eq!(server.exit_status(), 128 + 9);
    machine.expect_nothing_left();
    assert!(!lives(child));
    expect_cause(&machine, "leader_exited");
}

#[test]
fn a_leaf_that_root_froze_is_ended_at_the_grace() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    // A frozen one dies of a SIGTERM that it would die of (signal(7)), and is thawed by none that it does not heed.
    let mut server =
        machine.run(&["--session", "s", "--grace", "300ms"], "trap '' TERM; sleep 1000 & echo $!; exec cat");
    let child = server.line().parse().unwrap();
    let leaf = machine.leaf("s");
    std::fs::write(leaf.join("cgroup.freeze"), "1").unwrap();
    eventually("it is frozen", || {
        let events = std::fs::read_to_string(leaf.join("cgroup.events")).unwrap();
        if events.contains("frozen 1") { Ok(()) } else { Err(events) }
    });
    // A frozen one does not see that its host is gone.
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 128 + 9);
    expect_cause(&machine, "stdin_closed");
    machine.expect_nothing_left();
    assert!(!lives(child));
}

#[test]
fn a_process_that_somebody_moved_into_a_leaf_counts_there_and_ends_with_it() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    let (_server, _) = with_child(&machine, &["--session", "s"]);
    let mut stranger = machine.host("stranger", "echo up");
    assert_eq!(stranger.line(), "up");
    for directory in leaf_directories(&machine, "s") {
        std::fs::write(directory.join("cgroup.procs"), stranger.pid().to_string()).unwrap();
    }
    assert_eq!(machine.session("s")["processes"], 3);
    assert!(machine.ask(&["end", "s"]).status.success());
    assert_eq!(stranger.exit_status(), 128 + 15);
    machine.expect_nothing_left();
}

/// A `podman run` whose container is in a cgroup that is nobody's of ours: programs of these names stand in for podman and for
/// its monitor, which is the parent of the container's first process as conmon is. Gives the launcher, that process and what a
/// process of another name has there.
#[track_caller]
fn with_container_elsewhere(machine: &Machine, elsewhere: &Path) -> (Launched, i32, i32) {
    std::fs::create_dir_all(elsewhere).unwrap();
    let program = |name: &str| {
        let path = machine.path(name);
        let _ = std::fs::remove_file(&path);
        std::fs::copy("/bin/sh", &path).unwrap();
        path
    };
    // Of the hierarchies that hold a companion of the leaf it leaves that too.
    let tops = [v1_mount("memory"), v1_mount("pids")].into_iter().flatten();
    let places =
        tops.chain([elsewhere.to_owned()]).map(|place| format!("echo $! > {}/cgroup.procs; ", place.display()));
    let child = format!("sleep 1000 <&- >&- 2>&- & {}echo $!; wait", places.collect::<String>());
    let (monitor, other) = (program("conmon"), program("other"));
    let script = machine.path("podman");
    let text = format!(
        // One after the other.
        "#!/bin/sh\necho \"$@\"\n{} -c '{child}' &\nsleep 0.5\n{} -c '{child}' &\nwait\n",
        monitor.display(),
        other.display(),
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let options = ["--session", "s", "--grace", "300ms"];
    let mut server =
        machine.launch(&options, &[script.to_str().unwrap(), "run", "--cgroup-parent=/elsewhere", "image"]);
    let words = server.line();
    assert!(words.contains("--cgroups=no-conmon --cgroup-parent=/elsewhere image"), "{words}");
    let first = server.line().parse().unwrap();
    let other = server.line().parse().unwrap();
    eventually("its first process is told, and nothing else", || {
        let container = machine.session("s")["servers"][0]["container"].clone();
        let is_told = container["outside_pids"] == serde_json::json!([first]) && container["monitored"] == true;
        if is_told { Ok(()) } else { Err(container.to_string()) }
    });
    (server, first, other)
}

#[track_caller]
fn expect_end(pid: i32) {
    eventually("the container ends", || if lives(pid) { Err(pid.to_string()) } else { Ok(()) });
}

#[test]
fn a_container_of_podman_elsewhere_ends_with_its_server_and_nothing_else_there_does() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let mut machine = Machine::new();
    let elsewhere = machine.root().join("elsewhere");
    let mut others = Vec::new();
    type End = fn(&mut Machine, &[PathBuf]);
    let ends: [(&str, End); 3] = [
        ("by order", |machine, _| assert!(machine.ask(&["end", "s"]).status.success())),
        ("its leaf is killed", |_, leaf| kill_all(leaf)),
        ("its leaf is killed while no daemon runs", |machine, leaf| {
            machine.kill_daemon();
            kill_all(leaf);
            machine.start();
        }),
    ];
    for (how, end) in ends {
        let (mut server, first, other) = with_container_elsewhere(&machine, &elsewhere);
        others.push(other);
        let leaf = leaf_directories(&machine, "s");
        assert!(!leaf.iter().any(|directory| processes(directory).contains(&first)), "{how}");
        end(&mut machine, &leaf);
        expect_end(first);
        server.exit_status();
        let said = server.stderr();
        assert!(said.contains("OUTSIDE the session") && said.contains("which ends with its server"), "{how}: {said}");
        eventually("the session is over", || match machine.sessions() {
            sessions if sessions.is_empty() => Ok(()),
            sessions => Err(format!("{sessions:?}")),
        });
        assert!(lives(other), "{how}: a process that no monitor has is told, and not ended");
    }
    others.into_iter().for_each(|other| signal(other, Signal::SIGKILL));
    eventually("it can be removed", || std::fs::remove_dir(&elsewhere).map_err(|error| error.to_string()));
    machine.expect_nothing_left();
}

/// All that is in these, as the kernel does it for memory.
#[track_caller]
fn kill_all(directories: &[PathBuf]) {
    for pid in directories.iter().flat_map(|directory| processes(directory)).collect::<std::collections::BTreeSet<_>>()
    {
        signal(pid, Signal::SIGKILL);
    }
}
