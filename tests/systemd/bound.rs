//! A session's scope is bound to the unit of its host: the end of one is the end of the other, also while no daemon runs.

use std::io::Write;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::support::*;

/// A host in a unit of its own, which runs the lines of shell that it is given.
struct Host {
    unit: String,
    files: Vec<PathBuf>,
    orders: PathBuf,
}

/// Where this manager finds unit files until the next boot (systemd.unit(5)).
fn unit_directory() -> PathBuf {
    let uid = nix::unistd::geteuid();
    match is_system() {
        true => PathBuf::from("/run/systemd/system"),
        false => PathBuf::from(format!("/run/user/{uid}/systemd/user")),
    }
}

#[track_caller]
fn ordered(arguments: &[&str]) {
    let output = systemctl(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

impl Host {
    /// A simple service.
    #[track_caller]
    fn start(machine: &Machine, name: &str) -> Self {
        let host = Self::with_service(machine, name, "ExecStart=/bin/sh SCRIPT", "");
        ordered(&["start", &host.unit]);
        host
    }

    /// Writes a unit whose service is told by these lines; SCRIPT is what runs what the host is given.
    #[track_caller]
    fn with_service(machine: &Machine, name: &str, service: &str, unit: &str) -> Self {
        let (script, orders) = (machine.path(&format!("{name}.sh")), machine.path(&format!("{name}.orders")));
        nix::unistd::mkfifo(&orders, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let text = format!("exec 3<>{}\nwhile read -r line <&3; do eval \"$line\"; done\n", orders.display());
        std::fs::write(&script, text).unwrap();
        let service = service.replace("SCRIPT", &script.display().to_string());
        let mut host = Self { unit: format!("test-{name}.service"), files: Vec::new(), orders };
        let socket = machine.socket().display().to_string();
        let text = format!("[Unit]\n{unit}\n[Service]\nEnvironment=PINFOLD_SOCKET={socket}\n{service}\n");
        let own = host.unit.clone();
        host.also(&own, &text);
        host
    }

    /// Writes another unit, which goes with the host.
    #[track_caller]
    fn also(&mut self, unit: &str, text: &str) {
        std::fs::create_dir_all(unit_directory()).unwrap();
        let path = unit_directory().join(unit);
        std::fs::write(&path, text).unwrap();
        self.files.push(path);
        ordered(&["daemon-reload"]);
    }

    /// Waits until the host listens to what it is told, and gives the way there.
    #[track_caller]
    fn listens(&self) -> std::fs::File {
        use std::os::unix::fs::OpenOptionsExt;
        // Without O_NONBLOCK this would wait for ever where the host is gone (fifo(7)).
        let mut options = std::fs::File::options();
        options.write(true).custom_flags(nix::libc::O_NONBLOCK);
        eventually("the host listens", || options.open(&self.orders).map_err(|error| error.to_string()))
    }

    /// Has the host run a line of shell.
    #[track_caller]
    fn run(&self, line: &str) {
        writeln!(self.listens(), "{line}").unwrap();
    }

    /// Has the host launch a server in this session, and waits until it runs; its leader and its scope are told.
    #[track_caller]
    fn launch(&self, machine: &Machine, session: &str, server: &str) -> (i32, String) {
        let launch = format!("{} run --session {session} --server {server} -- sh -c", binary());
        self.run(&format!("{launch} 'setsid sleep 1000 & exec sleep 1000' &"));
        eventually(&format!("{server} runs"), || {
            let sessions = machine.sessions();
            let servers = sessions.iter().filter(|shown| shown["id"] == session);
            let mut servers = servers.flat_map(|session| session["servers"].as_array().unwrap().clone());
            let found = servers.find(|shown| shown["name"] == server && shown["state"] == "running");
            let found = found.ok_or_else(|| format!("{sessions:?}; {}", machine.log()))?;
            let leaf = PathBuf::from(found["cgroup"].as_str().unwrap());
            let scope = leaf.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            let inside = processes(&leaf);
            if inside.len() < 2 {
                return Err(format!("{inside:?}"));
            }
            Ok((found["leader_pid"].as_i64().unwrap() as i32, scope))
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let units: Vec<_> = self.files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        for unit in &units {
            systemctl(&["kill", "--signal=KILL", unit]);
            systemctl(&["stop", unit]);
        }
        self.files.iter().for_each(|path| drop(std::fs::remove_file(path)));
        systemctl(&["daemon-reload"]);
        systemctl(&[&["reset-failed"], &units[..]].concat());
    }
}

#[track_caller]
fn expect_dead(pid: i32) {
    eventually("the server is gone", || if lives(pid) { Err(format!("{pid} lives")) } else { Ok(()) });
}

#[test]
fn stopping_the_unit_of_a_host_ends_its_session() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let host = Host::start(&machine, "host");
    let (server, scope) = host.launch(&machine, "s", "one");
    assert_eq!(property(&scope, "BindsTo"), host.unit);
    let (_, second) = host.launch(&machine, "s", "two");
    assert_eq!(second, scope);
    ordered(&["stop", &host.unit]);
    assert!(!lives(server), "the scope is stopped before its host");
    machine.expect_cause("stopped");
    machine.expect_nothing_left();
}

#[test]
fn the_end_of_a_hosts_unit_ends_its_session_while_no_daemon_runs() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    for (name, stops) in [("stopped", true), ("killed", false)] {
        let host = Host::start(&machine, name);
        let (server, scope) = host.launch(&machine, "s", "one");
        let leaf = machine.session("s").leaf(0);
        let inside = processes(&leaf);
        machine.kill_daemon();
        match stops {
            true => ordered(&["stop", &host.unit]),
            false => ordered(&["kill", "--signal=KILL", &host.unit]),
        }
        expect_dead(server);
        inside.iter().for_each(|pid| expect_dead(*pid));
        eventually("its scope is gone", || match property(&scope, "ActiveState").as_str() {
            "inactive" => Ok(()),
            other => Err(other.to_owned()),
        });
        machine.start();
        machine.expect_nothing_left();
    }
}

#[test]
fn the_end_of_one_host_leaves_alone_what_another_one_launched_in_the_same_session() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let (one, two) = (Host::start(&machine, "one"), Host::start(&machine, "two"));
    let (first, scope_of_one) = one.launch(&machine, "s", "one");
    let (second, scope_of_two) = two.launch(&machine, "s", "two");
    assert_ne!(scope_of_one, scope_of_two);
    assert_eq!(
        (property(&scope_of_one, "BindsTo"), property(&scope_of_two, "BindsTo")),
        (one.unit.clone(), two.unit.clone())
    );
    // What a scope is bound to is the manager's to tell to the next daemon.
    machine.kill_daemon();
    machine.start();
    let (third, scope) = two.launch(&machine, "s", "three");
    assert_eq!(scope, scope_of_two);
    let (_, scope) = one.launch(&machine, "s", "four");
    assert_eq!(scope, scope_of_one);
    ordered(&["stop", &one.unit]);
    expect_dead(first);
    eventually("the first host's servers are gone", || {
        let servers = machine.session("s").0["servers"].as_array().unwrap().len();
        if servers == 2 { Ok(()) } else { Err(format!("{servers}")) }
    });
    assert!(lives(second) && lives(third));
    machine.kill_daemon();
    ordered(&["stop", &two.unit]);
    expect_dead(second);
    machine.start();
    machine.expect_nothing_left();
}

#[test]
fn a_restarted_host_launches_anew() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let host = Host::start(&machine, "host");
    let (first, scope) = host.launch(&machine, "s", "one");
    ordered(&["restart", &host.unit]);
    expect_dead(first);
    assert_eq!(property(&host.unit, "ActiveState"), "active");
    let (second, again) = host.launch(&machine, "s", "two");
    assert_ne!(again, scope);
    assert_eq!(property(&again, "BindsTo"), host.unit);
    assert!(lives(second));
    ordered(&["stop", &host.unit]);
    machine.expect_nothing_left();
}

#[test]
fn a_unit_that_is_not_active_is_neither_bound_to_nor_started() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    // What stays behind a service that was stopped.
    let service = "KillMode=process\nExecStart=/bin/sh -c '/bin/sh SCRIPT & exec sleep 1000'";
    let host = Host::with_service(&machine, "host", service, "");
    ordered(&["start", &host.unit]);
    host.listens();
    ordered(&["stop", &host.unit]);
    assert_eq!(property(&host.unit, "ActiveState"), "inactive");
    let (one, scope) = host.launch(&machine, "s", "one");
    assert_eq!(property(&scope, "BindsTo"), "");
    assert_eq!(property(&host.unit, "ActiveState"), "inactive");
    let (_, second) = host.launch(&machine, "s", "two");
    assert_eq!(second, scope);
    drop(host);
    expect_dead(one);
    machine.expect_cause("owner_gone");
    machine.expect_nothing_left();
}

#[test]
fn a_host_that_is_a_unit_which_never_becomes_active_is_served_and_not_bound() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let host = Host::with_service(&machine, "host", "Type=oneshot\nExecStart=/bin/sh SCRIPT", "");
    ordered(&["start", "--no-block", &host.unit]);
    let (_, scope) = host.launch(&machine, "s", "one");
    assert_eq!(property(&host.unit, "ActiveState"), "activating");
    assert_eq!(property(&scope, "BindsTo"), "");
    let (_, second) = host.launch(&machine, "s", "two");
    assert_eq!(second, scope);
    ordered(&["stop", &host.unit]);
    machine.expect_nothing_left();
}

#[test]
fn a_launch_while_its_hosts_unit_waits_to_be_stopped_is_granted_and_ends_with_it() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut host = Host::with_service(&machine, "host", "ExecStart=/bin/sh SCRIPT", "");
    let late = "[Unit]\nBindsTo=test-host.service\nAfter=test-host.service\n[Service]\n\
        ExecStart=/bin/sleep 1000\nExecStop=/bin/sh -c 'while ! [ -e STOP ]; do sleep 0.1; done'\n";
    let stop = machine.path("stop");
    host.also("test-late.service", &late.replace("STOP", &stop.display().to_string()));
    ordered(&["start", &host.unit, "test-late.service"]);
    ordered(&["stop", "--no-block", &host.unit]);
    eventually("what is stopped first is being stopped", || {
        match property("test-late.service", "ActiveState").as_str() {
            "deactivating" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    assert_eq!(property(&host.unit, "ActiveState"), "active");
    let (server, scope) = host.launch(&machine, "s", "one");
    assert_eq!(property(&scope, "BindsTo"), host.unit);
    std::fs::write(stop, "").unwrap();
    expect_dead(server);
    machine.expect_nothing_left();
}

#[test]
fn a_nested_launch_stays_in_the_scope_of_its_launcher() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let (one, two) = (Host::start(&machine, "one"), Host::start(&machine, "two"));
    let (_, scope_of_one) = one.launch(&machine, "s", "one");
    let (_, scope_of_two) = two.launch(&machine, "s", "two");
    let nested = |outer: &str, inner: &str| {
        let pinfold = binary().to_owned();
        format!(
            "{pinfold} run --session s --server {outer} -- sh -c '{pinfold} run --server {inner} -- sleep 1000 & exec sleep 1000' &"
        )
    };
    one.run(&nested("outer-one", "inner-one"));
    two.run(&nested("outer-two", "inner-two"));
    for (server, scope) in [("inner-one", &scope_of_one), ("inner-two", &scope_of_two)] {
        eventually(&format!("{server} stands in {scope}"), || {
            let shown = machine.session("s").0;
            let servers = shown["servers"].as_array().unwrap();
            let found = servers.iter().find(|shown| shown["name"] == server && shown["state"] == "running");
            let cgroup = found.map(|shown| shown["cgroup"].as_str().unwrap().to_owned());
            if cgroup.as_ref().is_some_and(|cgroup| cgroup.contains(scope.as_str())) {
                Ok(())
            } else {
                Err(format!("{shown}"))
            }
        });
    }
    ordered(&["stop", &one.unit, &two.unit]);
    machine.expect_nothing_left();
}

#[test]
fn a_server_of_a_killed_host_does_not_outlive_its_unit() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let host = Host::start(&machine, "host");
    let (server, _) = host.launch(&machine, "s", "one");
    let main: i32 = property(&host.unit, "MainPID").parse().unwrap();
    signal(main, Signal::SIGKILL);
    expect_dead(server);
    machine.expect_nothing_left();
    let log = machine.log();
    assert!(log.contains("cause=\"stopped\"") || log.contains("cause=\"owner_gone\""), "{log}");
}

#[test]
fn a_host_below_another_manager_is_not_bound_to() {
    if !offered() || !is_system() {
        return;
    }
    let machine = Machine::new();
    // Root's own user manager, and in it a host that launches through the system's daemon.
    ordered(&["start", "user@0.service"]);
    let mut run = std::process::Command::new("systemd-run");
    run.args(["--user", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec"]);
    run.env("XDG_RUNTIME_DIR", "/run/user/0").env_remove("DBUS_SESSION_BUS_ADDRESS");
    run.arg(format!("--setenv=PINFOLD_SOCKET={}", machine.socket().display()));
    let launch = format!("{} run --session s -- sh -c 'echo up; exec cat'", binary());
    run.args(["--unit=test-below.service", "--", "sh", "-c", &format!("{launch}; true")]);
    run.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut server = Launched::spawn(run);
    let line = server.line();
    assert_eq!(line, "up", "{}; {}", if line.is_empty() { server.stderr() } else { String::new() }, machine.log());
    let owner = machine.session("s").0["owner_pid"].as_i64().unwrap();
    let place = std::fs::read_to_string(format!("/proc/{owner}/cgroup")).unwrap();
    assert!(place.contains("user@0.service") && place.contains("test-below.service"), "{place}");
    assert_eq!(property(&machine.session("s").scope(0), "BindsTo"), "");
    machine.ask(&["end", "s"]);
    drop(server);
    ordered(&["stop", "user@0.service"]);
    machine.expect_nothing_left();
}
