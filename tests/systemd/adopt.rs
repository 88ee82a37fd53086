//! `pinfold adopt` beside a manager: what a service has started is taken out of it, and not what the service is.

use std::process::Command;

use crate::support::*;

const UNIT: &str = "host-of-adopted.service";

/// The processes that one has started and not lost.
fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn a_services_main_process_is_left_to_its_unit_and_what_it_has_started_is_adopted_with_the_units_limits() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[session]\nmemory_max = '300M'\n[server]\nmemory_max = '200M'\n");
    let script = "setsid sh -c 'sleep 1000 & wait' & wait; exec sleep 1000";
    let manager = if is_system() { "--system" } else { "--user" };
    let mut host = Command::new("systemd-run");
    host.args([manager, "--quiet", "--collect", "--service-type=exec", "--property=MemoryMax=100M"]);
    host.args(["--property=TasksMax=40", &format!("--unit={UNIT}"), "--", "sh", "-c", script]);
    assert!(host.status().unwrap().success());
    let main: i32 = property(UNIT, "MainPID").parse().unwrap();
    let (server, grandchild) = eventually("the service has started its own", || {
        let found = children(main).first().and_then(|child| Some((*child, *children(*child).first()?)));
        found.ok_or_else(|| format!("{:?}", children(main)))
    });

    let refused = machine.ask(&["adopt", &main.to_string(), "--session", "s"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("is the main process of {UNIT}")) && told.contains("set-property"), "{told}");

    let adopted = machine.ask(&["adopt", &server.to_string(), "--session", "s"]);
    assert!(adopted.status.success(), "{adopted:?}; {}", machine.log());
    let session = machine.session("s");
    let leaf = session.leaf(0);
    let mut found = processes(&leaf);
    found.sort_unstable();
    let mut wanted = vec![server, grandchild];
    wanted.sort_unstable();
    assert_eq!(found, wanted, "{}", machine.log());
    assert_eq!(property(&session.scope(0), "ActiveState"), "active");
    assert_eq!(knob(&leaf, "memory.max"), (200 << 20).to_string());
    assert_eq!(knob(&session.directory(), "memory.max"), (100 << 20).to_string(), "what held it holds its session");
    assert_eq!(knob(&session.directory(), "pids.max"), "40");

    assert!(machine.ask(&["end", "s"]).status.success());
    assert!(lives(main) && !lives(server) && !lives(grandchild));
    machine.expect_nothing_left();
    systemctl(&["stop", UNIT]);
}
