//! A user's manager that hangs, that is restarted, or whose bus cannot be seen.

use std::path::PathBuf;
use std::time::Instant;

use nix::sys::signal::Signal;
use pinfold::client::LAUNCH_MAX;

use crate::agent::Agent;
use crate::support::*;

/// A process that is stopped, until this is dropped.
struct Stopped(i32);

impl Stopped {
    fn now(pid: i32) -> Self {
        signal(pid, Signal::SIGSTOP);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, Signal::SIGCONT);
    }
}

/// Waits for the one line with which a launcher that was refused ends.
#[track_caller]
fn refusal(server: &mut Launched) -> String {
    let (status, told) = (server.exit_status(), server.stderr());
    assert_eq!(status, 125, "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    told
}

#[test]
fn while_the_manager_hangs_launches_are_refused_in_time_and_nothing_half_made_stays() {
    if !offered() || !root_offered() {
        return;
    }
    let agent = Agent::new();
    let living = agent.up(&["--session", "living"], "exec cat");
    let hanging = Stopped::now(agent.manager());
    let start = Instant::now();
    let launches = [&["--session", "begun"], &["--session", "living"]].map(|options| agent.run(options, "echo ran"));
    for mut launch in launches {
        let told = refusal(&mut launch);
        assert!(told.contains("systemd did not finish it within"), "{told}");
        assert!(start.elapsed() < LAUNCH_MAX, "{:?}: {told}", start.elapsed());
        assert_eq!(launch.line(), "");
    }
    // What needs no manager goes on.
    assert!(agent.sessions().iter().any(|session| session["id"] == "living"));
    assert!(lives(living.pid()));
    drop(hanging);
    agent.expect_only(&["living"]);
    let _next = agent.up(&["--session", "begun"], "exec cat");
    agent.expect_only(&["begun", "living"]);
    agent.stop();
}

#[test]
fn a_manager_that_begins_to_hang_during_a_launch_leaves_it_whole_or_refused() {
    if !offered() || !root_offered() {
        return;
    }
    let agent = Agent::new();
    let manager = agent.manager();
    let start = Instant::now();
    let _first = agent.up(&["--session", "first"], "exec cat");
    let whole = start.elapsed();
    let mut ran = vec!["first".to_owned()];
    let mut kept = Vec::new();
    // While what it leaves is looked at, and while its units are made.
    for percent in [35, 65] {
        let id = format!("at{percent}");
        let mut launch = agent.run(&["--session", &id], "echo up; exec cat");
        std::thread::sleep(whole * percent / 100);
        let (hanging, since) = (Stopped::now(manager), Instant::now());
        let line = launch.line();
        if line == "up" {
            ran.push(id);
            kept.push(launch);
        } else {
            let told = refusal(&mut launch);
            assert!(told.contains("systemd did not finish it within") || told.contains("not placed within"), "{told}");
            assert!(since.elapsed() < LAUNCH_MAX, "{:?}: {told}", since.elapsed());
        }
        drop(hanging);
    }
    agent.expect_only(&ran.iter().map(String::as_str).collect::<Vec<_>>());
    agent.stop();
}

#[test]
fn a_restarted_user_manager_ends_its_sessions_and_is_found_again() {
    if !offered() || !root_offered() {
        return;
    }
    let agent = Agent::new();
    let mut servers = ["one", "two"].map(|id| agent.up(&["--session", id], "sleep 1000 & exec cat"));
    let restarted = systemctl(&["restart", "user@1000.service"]);
    assert!(restarted.status.success(), "{restarted:?}");
    // The bus goes at the same moment: that it was a stop is heard or not, that they are gone is seen.
    for server in &mut servers {
        assert!([128 + 15, 128 + 9].contains(&server.exit_status()));
    }
    agent.expect_only(&[]);
    eventually("the daemon is connected again", || {
        let log = agent.log();
        if log.contains("connected to the user manager again") { Ok(()) } else { Err(log) }
    });
    let _again = agent.up(&["--session", "one"], "exec cat");
    agent.expect_only(&["one"]);
    let told = agent.log().matches("cause=\"stopped\"").count();
    let stopped = agent.systemctl(&["stop", "pinfold.slice"]);
    assert!(stopped.status.success(), "{stopped:?}");
    agent.expect_causes("stopped", told + 1);
    agent.stop();
}

/// The user's bus, out of sight until this is dropped.
struct BusAway;

const BUS: &str = "/run/user/1000/bus";

impl BusAway {
    fn place() -> PathBuf {
        PathBuf::from(format!("{BUS}.away"))
    }

    #[track_caller]
    fn now() -> Self {
        std::fs::rename(BUS, Self::place()).unwrap();
        Self
    }
}

impl Drop for BusAway {
    fn drop(&mut self) {
        let _ = std::fs::rename(Self::place(), BUS);
    }
}

#[test]
fn a_daemon_that_sees_no_user_bus_speaks_to_the_managers_own_socket() {
    if !offered() || !root_offered() {
        return;
    }
    let away = BusAway::now();
    let agent = Agent::new();
    let _one = agent.up(&["--session", "s", "--server", "one"], "exec cat");
    let _two = agent.up(&["--session", "s", "--server", "two"], "exec cat");
    let scopes = agent.systemctl(&["list-units", "--plain", "--no-legend", "pinfold-s_*.scope"]);
    let scope = String::from_utf8_lossy(&scopes.stdout).split_whitespace().next().unwrap().to_owned();
    let stopped = agent.systemctl(&["stop", &scope]);
    assert!(stopped.status.success(), "{stopped:?}");
    agent.expect_causes("stopped", 2);
    let _again = agent.up(&["--session", "s"], "exec cat");
    agent.ask(&["end", "s"]);
    agent.expect_only(&[]);
    drop(away);
    agent.stop();
}
