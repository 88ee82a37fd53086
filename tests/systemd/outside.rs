//! A user's daemon, and launchers of that user that stand outside the user manager's subtree, as in an SSH session or a
//! system unit: the kernel denies the daemon to write them into a leaf, so the manager has to place them.

use std::process::Command;

use crate::agent::{AGENT, Agent, as_agent};
use crate::support::*;

#[test]
fn launchers_outside_the_user_managers_subtree_are_placed_by_the_manager() {
    if !offered() || !root_offered() {
        return;
    }
    let agent = Agent::with_config("");
    let run = |name: &str| {
        let mut server = agent.run(&["--session", "s", "--server", name], "cat /proc/self/cgroup; exec cat");
        let line = server.line();
        assert!(!line.is_empty(), "{}", server.stderr());
        (server, line)
    };
    let (_one, first) = run("one");
    let (_two, second) = run("two");
    let slice = "0::/user.slice/user-1000.slice/user@1000.service/pinfold.slice/pinfold-s_";
    assert!(first.starts_with(slice) && first.contains(".scope/one."), "{first}");
    assert!(second.starts_with(slice) && second.contains(".scope/two."), "{second}");
    // Their host stands in a unit of the system's manager, to which the user's cannot bind.
    let scope = first.split('/').find(|part| part.ends_with(".scope")).unwrap();
    assert!(second.contains(scope), "{first} {second}");
    let mut show = Command::new("systemctl");
    show.args(["--user", "show", scope, "--property=BindsTo,ActiveState"]);
    let mut show = as_agent(show);
    let shown = show.env("XDG_RUNTIME_DIR", format!("/run/user/{AGENT}")).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("ActiveState=active") && shown.contains("BindsTo=\n"), "{shown}");
    agent.stop();
}

#[test]
fn what_a_user_manager_cannot_enforce_is_refused_unless_the_unit_may_be_left() {
    if !offered() || !root_offered() {
        return;
    }
    let agent = Agent::with_config("");
    let mut server = agent.run_from_unit("IPAddressDeny=any");
    let told = server.stderr();
    assert!(told.contains("IPAddressDeny= of host-of-agent.service"), "{told}");
    assert!(told.contains("allow_leave"), "{told}");
    assert_eq!(server.exit_status(), 125);
    agent.stop();
    let agent = Agent::with_config("allow_leave = ['host-of-*']\n");
    let mut server = agent.run_from_unit("IPAddressDeny=any");
    let line = server.line();
    assert_eq!(line, "up", "{}", if line.is_empty() { server.stderr() } else { String::new() });
    agent.stop();
}
