//! Nothing is shed by moving: what held a launcher in its unit and slices holds its session, or it is not launched.

use std::process::{Command, Stdio};

use crate::support::*;

/// `pinfold run` out of a unit of its own with these properties.
fn from_unit(machine: &Machine, properties: &[&str], script: &str) -> Launched {
    let manager = if is_system() { "--system" } else { "--user" };
    let mut run = Command::new("systemd-run");
    run.args([manager, "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec"]);
    run.args(properties.iter().map(|property| format!("--property={property}")));
    run.arg(format!("--setenv=PINFOLD_SOCKET={}", machine.socket().display()));
    run.arg("--").arg(binary()).args(["run", "--session", "s", "--", "sh", "-c", script]);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Launched::spawn(run)
}

#[test]
fn the_limits_of_a_launchers_unit_hold_its_session() {
    if !offered() {
        return;
    }
    let machine =
        Machine::with_config("[session]\nmemory_max = '300M'\npids_max = 300\n[server]\nmemory_max = '200M'\n");
    let limits = ["MemoryMax=100M", "TasksMax=40", "CPUQuota=50%"];
    let mut server = from_unit(&machine, &limits, "echo up; exec cat");
    assert_eq!(server.line(), "up");
    let session = machine.session("s");
    assert_eq!(property(&session.slice(), "MemoryMax"), (100 << 20).to_string());
    assert_eq!(knob(&session.directory(), "memory.max"), (100 << 20).to_string());
    assert_eq!(knob(&session.directory(), "pids.max"), "40");
    assert_eq!(knob(&session.directory(), "cpu.max"), "50000 100000");
    // Who comes from a laxer place does not widen it.
    let _two = machine.up(&["--session", "s"], "exec cat");
    assert_eq!(knob(&session.directory(), "memory.max"), (100 << 20).to_string());
    machine.ask(&["end", "s"]);
    machine.expect_nothing_left();
}

#[test]
fn addresses_and_devices_that_a_unit_denies_are_denied_to_its_session() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    let denied = ["IPAddressDeny=any", "DevicePolicy=closed"];
    let probe = "{ true </dev/kmsg; } 2>/dev/null && echo opened || echo denied; \
        python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b\"x\", (\"127.0.0.1\", 9))' \
        2>/dev/null && echo sent || echo denied; exec cat";
    let mut free = machine.run(&["--session", "free"], probe);
    assert_eq!((free.line().as_str(), free.line().as_str()), ("opened", "sent"));
    let mut server = from_unit(&machine, &denied, probe);
    assert_eq!((server.line().as_str(), server.line().as_str()), ("denied", "denied"), "{}", machine.log());
    let slice = machine.session("s").slice();
    assert_eq!(property(&slice, "DevicePolicy"), "closed");
    assert!(property(&slice, "IPAddressDeny").contains("0.0.0.0/0"));
    machine.ask(&["end", "--all"]);
    machine.expect_nothing_left();
}

/// systemd filters what a slice denies by the programs of the units in it, and attaches none to the slice.
#[test]
fn addresses_that_a_slice_denies_are_denied_to_a_session_from_within_it() {
    const SLICE: &str = "pinfoldtest.slice";
    if !offered() || !is_system() {
        return;
    }
    let machine = Machine::new();
    systemctl(&["set-property", "--runtime", SLICE, "IPAddressDeny=any"]);
    let probe = "python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
        s.sendto(b\"x\", (\"127.0.0.1\", 9))' 2>/dev/null && echo sent || echo denied; exec cat";
    let mut server = from_unit(&machine, &["IPAccounting=yes", &format!("Slice={SLICE}")], probe);
    let told = server.line();
    systemctl(&["revert", SLICE]);
    assert_eq!(told, "denied", "{}", machine.log());
    machine.ask(&["end", "--all"]);
    machine.expect_nothing_left();
}

#[test]
fn a_program_that_somebody_attached_behind_systemds_back_is_not_shed() {
    if !offered() || !is_system() {
        return;
    }
    for (config, launched) in [("", false), ("allow_leave = ['pinfold-test-host.service']\n", true)] {
        let machine = Machine::with_config(config);
        let manager =
            ["systemd-run", "--system", "--quiet", "--collect", "--unit=pinfold-test-host", "--service-type=exec"];
        let started = Command::new(manager[0]).args(&manager[1..]).args(["sleep", "1000"]).status().unwrap();
        assert!(started.success());
        let cgroup = property("pinfold-test-host.service", "ControlGroup");
        let cgroup = std::path::Path::new("/sys/fs/cgroup").join(cgroup.trim_start_matches('/'));
        attach_device_program(&cgroup);
        let run = machine.pinfold(&["run", "--session", "s", "--", "echo", "launched"]);
        let mut sh = Command::new("sh");
        sh.args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""])
            .arg(&cgroup)
            .arg(run.get_program())
            .args(run.get_args());
        sh.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = sh.stdin(Stdio::null()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout == b"launched\n", launched, "{told}");
        assert_eq!(told.contains("would free it from the BPF program (cgroup_device) of"), !launched, "{told}");
        systemctl(&["stop", "pinfold-test-host.service"]);
        machine.expect_nothing_left();
    }
}
