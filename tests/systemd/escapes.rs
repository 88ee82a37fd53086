//! The ways out of a leaf that a service manager offers: taken by a server, they are seen where its marks go along; taken by a
//! confined one, they are closed.

use std::process::Command;

use crate::support::*;

/// Asks the manager of whoever runs this, in each of its ways, and tells which of them got something started: as `NAME out`
/// or `NAME held`. What is started is told by its name and lives for long.
fn attempts() -> String {
    let manager = if is_system() { "--system" } else { "--user" };
    // A user's own bus, and the manager's private socket beside it, are found by this variable (systemd-run(1)).
    let environment = if is_system() { "" } else { "export XDG_RUNTIME_DIR=/run/user/$(id -u); " };
    format!(
        "{environment}try() {{ name=$1; shift; if timeout 60 \"$@\" >/dev/null 2>&1; then echo $name out; else echo $name held; fi; }}; \
         try scope systemd-run {manager} --scope --collect --unit=escape-scope sh -c 'setsid sleep 10101 & exit 0'; \
         try service systemd-run {manager} --collect --unit=escape-service sleep 10102; \
         try bus busctl {manager} call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager ListUnits; \
         echo done; exec sleep 10103"
    )
}

/// The processes with these arguments.
fn sleepers(argument: &str) -> Vec<i32> {
    let output = Command::new("pgrep").args(["-f", &format!("(^|/)sleep {argument}$")]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().filter_map(|pid| pid.parse().ok()).collect()
}

struct Stopped;

impl Drop for Stopped {
    fn drop(&mut self) {
        systemctl(&["stop", "escape-scope.scope", "escape-service.service"]);
    }
}

#[test]
fn what_a_server_has_its_manager_start_is_out_and_is_seen_with_its_pid_where_its_marks_go_along() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let _stopped = Stopped;
    let mut server = machine.run(&["--session", "s"], &attempts());
    assert_eq!(server.got_out(), ["scope", "service", "bus"], "{}", machine.log());
    // It lives in the scope, with the environment that it was started in.
    let grandchild = eventually("it lives", || match sleepers("10101")[..] {
        [pid] => Ok(pid),
        ref other => Err(format!("{other:?}")),
    });
    let shown = machine.ask(&["status", "s"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&format!("in no leaf although they carry its marks: {grandchild}")), "{shown}");
    // The service has the manager's environment: nothing tells whose it is.
    assert_eq!(sleepers("10102").len(), 1);
    assert!(machine.ask(&["end", "s"]).status.success());
    assert!(lives(grandchild), "nothing is ended for its marks");
}

#[test]
fn a_confined_server_reaches_no_service_manager() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let _stopped = Stopped;
    let mut server = machine.run(&["--session", "s", "--confine=strict"], &attempts());
    assert_eq!(server.got_out(), [""; 0]);
    assert_eq!((sleepers("10101"), sleepers("10102")), (vec![], vec![]));
    let shown = machine.ask(&["status", "s"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("confined") && !shown.contains("ESCAPED"), "{shown}");
    assert!(machine.ask(&["end", "s"]).status.success());
    machine.expect_nothing_left();
}
