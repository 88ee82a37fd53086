//! Where processes live: units that an administrator sees, limits that the kernel holds.

use std::process::{Command, Stdio};

use crate::support::*;

#[test]
fn a_session_is_a_slice_with_its_limits_and_a_delegated_scope_with_its_leaves() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config(
        "[machine]\nmemory_max = '600M'\n[session]\nmemory_max = '300M'\npids_max = 300\ncpu_max = '150%'\n\
         cpu_weight = 50\n[server]\nmemory_max = '200M'\npids_max = 50\n",
    );
    let server = machine.up(&["--session", "s"], "exec cat");
    let session = machine.session("s");
    let (slice, scope) = (session.slice(), session.scope(0));
    assert_eq!(property(&slice, "ActiveState"), "active");
    assert_eq!(property(&slice, "MemoryMax"), (300 << 20).to_string());
    // Whether anything swaps is said for each server: what is idle is given back to swap.
    assert_eq!(property(&slice, "MemorySwapMax"), "infinity");
    assert_eq!(property(&slice, "TasksMax"), "300");
    assert_eq!(property(&slice, "CPUQuotaPerSecUSec"), "1.500000s");
    assert_eq!(property(&slice, "CPUWeight"), "50");
    assert_eq!(property("pinfold.slice", "MemoryMax"), (600 << 20).to_string());
    assert_eq!(property(&scope, "Delegate"), "yes");
    assert_eq!(property(&scope, "Slice"), slice);
    assert_eq!(property(&scope, "ActiveState"), "active");
    let directory = session.directory();
    assert_eq!(knob(&directory, "memory.max"), (300 << 20).to_string());
    assert_eq!(knob(&directory, "memory.swap.max"), "max");
    assert_eq!(knob(&directory, "pids.max"), "300");
    assert_eq!(knob(&directory, "cpu.max"), "150000 100000");
    assert_eq!(knob(&directory, "cpu.weight"), "50");
    assert_eq!(knob(&base().join("pinfold.slice"), "memory.max"), (600 << 20).to_string());
    let leaf = session.leaf(0);
    assert_eq!(knob(&leaf, "memory.max"), (200 << 20).to_string());
    assert_eq!(knob(&leaf, "memory.swap.max"), "0");
    assert_eq!(knob(&leaf, "memory.oom.group"), "1");
    assert_eq!(knob(&leaf, "pids.max"), "50");
    assert_eq!(processes(&leaf), [server.pid()]);
    machine.ask(&["end", "s"]);
    machine.expect_nothing_left();
}

#[test]
fn a_second_server_joins_the_scope_of_its_session() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let _one = machine.up(&["--session", "s", "--server", "one"], "exec cat");
    let two = machine.up(&["--session", "s", "--server", "two"], "exec cat");
    let session = machine.session("s");
    assert_eq!(session.scope(0), session.scope(1));
    assert_ne!(session.leaf(0), session.leaf(1));
    assert_eq!(processes(&session.leaf(1)), [two.pid()]);
    machine.ask(&["end", "--server", "s/one"]);
    assert!(lives(two.pid()));
    assert_eq!(machine.session("s").scope(0), session.scope(0));
    machine.ask(&["end", "s"]);
    machine.expect_nothing_left();
}

#[test]
fn a_launch_after_the_scope_emptied_begins_another_generation() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut scopes = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let mut server = machine.up(&["--session", "s"], "exec cat");
        let session = machine.session("s");
        // The one before may be listed for a moment longer.
        let own = session.0["servers"].as_array().unwrap().iter().position(|it| it["leader_pid"] == server.pid());
        scopes.insert(session.scope(own.unwrap()));
        drop(server.child.stdin.take());
        // Not waited for: the next launch meets the scope while it empties.
        server.exit_status();
    }
    assert_eq!(scopes.len(), 6, "{scopes:?}");
    machine.expect_nothing_left();
}

#[test]
fn limits_that_the_configuration_changed_are_changed_at_the_next_launch() {
    if !offered() {
        return;
    }
    let mut machine = Machine::with_config("[session]\nmemory_max = '300M'\n[server]\nmemory_max = '100M'\n");
    let _one = machine.up(&["--session", "s"], "exec cat");
    machine.kill_daemon();
    std::fs::write(machine.path("pinfold.toml"), "[session]\nmemory_max = '400M'\n[server]\nmemory_max = '100M'\n")
        .unwrap();
    machine.start();
    let _two = machine.up(&["--session", "s"], "exec cat");
    let session = machine.session("s");
    assert_eq!(property(&session.slice(), "MemoryMax"), (400 << 20).to_string());
    assert_eq!(knob(&session.directory(), "memory.max"), (400 << 20).to_string());
    machine.ask(&["end", "s"]);
    machine.expect_nothing_left();
}

/// What session `s` is called among the units.
struct Place {
    key: String,
    /// The unit that its scopes are bound to, where the tests stand in one.
    bound: String,
}

impl Place {
    /// That of a session which is not there any more.
    #[track_caller]
    fn of_s(machine: &Machine) -> Self {
        let _server = machine.up(&["--session", "s"], "exec cat");
        let session = machine.session("s");
        let place = Self { key: session.key().to_owned(), bound: property(&session.scope(0), "BindsTo") };
        assert!(machine.ask(&["end", "s"]).status.success());
        machine.expect_nothing_left();
        place
    }

    fn scope(&self) -> String {
        format!("pinfold-{}-7.scope", self.key)
    }

    /// Runs it in the own cgroup of a scope that a launch could join, as a daemon leaves a launcher that ends right after it
    /// had the scope started.
    fn run(&self, command: &Command) -> Launched {
        let mut run = Command::new("systemd-run");
        run.args([if is_system() { "--system" } else { "--user" }, "--quiet", "--scope", "--collect"]);
        run.args([format!("--unit={}", self.scope()), format!("--slice=pinfold-{}.slice", self.key)]);
        run.arg("--property=Delegate=yes");
        if !self.bound.is_empty() {
            run.args(["BindsTo", "After"].map(|how| format!("--property={how}={}", self.bound)));
        }
        run.arg("--").arg(command.get_program()).args(command.get_args());
        run.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Launched::spawn(run)
    }
}

#[test]
fn a_launcher_in_a_scopes_own_cgroup_is_placed_in_a_leaf_and_limited() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nmemory_max = '100M'\n");
    let place = Place::of_s(&machine);
    let mut server = place.run(&machine.pinfold(&["run", "--session", "s", "--", "sh", "-c", "echo up; exec cat"]));
    let line = server.line();
    assert_eq!(line, "up", "{}; {}", if line.is_empty() { server.stderr() } else { String::new() }, machine.log());
    let session = machine.session("s");
    assert_eq!(processes(&session.leaf(0)), [server.pid()]);
    assert_eq!(knob(&session.leaf(0), "memory.max"), (100 << 20).to_string());
    let _other = machine.up(&["--session", "s"], "exec cat");
    assert_eq!(knob(&machine.session("s").leaf(1), "memory.max"), (100 << 20).to_string());
    assert!(machine.ask(&["end", "s"]).status.success());
    machine.expect_nothing_left();
}

#[test]
fn a_scope_in_whose_own_cgroup_another_one_stands_is_not_joined() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nmemory_max = '100M'\n");
    let place = Place::of_s(&machine);
    let mut stranger = Command::new("sh");
    stranger.args(["-c", "echo up; exec cat"]);
    let mut stranger = place.run(&stranger);
    assert_eq!(stranger.line(), "up");
    let _server = machine.up(&["--session", "s"], "exec cat");
    let session = machine.session("s");
    assert_ne!(session.scope(0), place.scope());
    assert_eq!(knob(&session.leaf(0), "memory.max"), (100 << 20).to_string());
    assert!(machine.ask(&["end", "s"]).status.success());
    // What nobody launched through us is not ours to end.
    assert!(lives(stranger.pid()));
    drop(stranger.child.stdin.take());
    stranger.exit_status();
    systemctl(&["stop", &session.slice()]);
    machine.expect_nothing_left();
}
