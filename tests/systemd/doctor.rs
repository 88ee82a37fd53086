//! `pinfold doctor` where systemd is not as it should be: each time on a manager that really is so.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use crate::installed::{self, Installed};
use crate::support::*;
use crate::which_daemon::{Daemon, Group, Who, ask, pinfold};

/// What it prints, each finding on a line, as it does where stdout is no terminal.
#[track_caller]
fn page(output: &Output) -> String {
    let page = String::from_utf8(output.stdout.clone()).unwrap();
    eprintln!("{page}");
    assert!(!page.is_empty(), "{output:?}");
    page
}

/// That there is this finding, with this verdict.
#[track_caller]
fn expect(page: &str, verdict: &str, what: &str, detail: &str) {
    let found = page.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(verdict) && words.next() == Some(what) && line.contains(detail)
    });
    assert!(found, "no {verdict} {what} {detail:?} in\n{page}");
}

/// Something that is put back.
struct Moved(Vec<(PathBuf, PathBuf)>);

impl Moved {
    fn away(paths: &[&str]) -> Self {
        let away = |path: &&str| {
            let (from, to) = (PathBuf::from(path), PathBuf::from(format!("{path}.away")));
            std::fs::rename(&from, &to).unwrap();
            (from, to)
        };
        Self(paths.iter().map(away).collect())
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        for (from, to) in &self.0 {
            let _ = std::fs::rename(to, from);
        }
    }
}

/// A visit of the doctor, after which the daemon that it may have started is stopped.
struct Visit {
    who: Who,
    status: Option<i32>,
    page: String,
}

impl Visit {
    #[track_caller]
    fn to(who: Who) -> Self {
        let output = ask(who, &["doctor"]);
        Self { who, status: output.status.code(), page: page(&output) }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let report: serde_json::Value =
            serde_json::from_slice(&ask(self.who, &["doctor", "--json"]).stdout).unwrap_or_default();
        let Some(pid) = report["daemon"]["pid"].as_i64() else { return };
        signal(pid as i32, nix::sys::signal::Signal::SIGTERM);
        if std::thread::panicking() {
            return;
        }
        eventually("the daemon has left", || if lives(pid as i32) { Err(pid.to_string()) } else { Ok(()) });
    }
}

#[test]
fn doctor_tells_an_installed_unit_from_a_transient_one_and_from_none() {
    if !offered() {
        return;
    }
    let look = if is_system() { "systemctl status" } else { "systemctl --user status" };
    let manager = if is_system() { "the system manager answers on the" } else { "the user manager answers on the" };
    let slice = format!("`{look} pinfold.slice` shows them");
    {
        let installed = Installed::new();
        let page = page(&installed::ask(&["doctor"]));
        expect(&page, "ok", "systemd", manager);
        expect(
            &page,
            "ok",
            "unit",
            &format!("pinfold.service, installed, not enabled: the first launch starts it; `{look} pinfold.service`"),
        );
        expect(&page, "ok", "backend", &slice);
        expect(&page, "ok", "limits", "hold for memory, swap, pids, cpu");
        let first = installed.expect_active(0);
        // The group of the system's socket is not there; what is advised against that helps.
        assert_eq!(page.contains("pinfold.socket is not active"), is_system(), "{page}");
        if is_system() {
            assert!(page.contains("make the group `pinfold`") && page.contains("restart pinfold.service"), "{page}");
            let _group = Group::new();
            assert!(systemctl(&["restart", "pinfold.service"]).status.success());
            installed.expect_active(first);
            assert_eq!(property("pinfold.socket", "ActiveState"), "active");
            let page = self::page(&installed::ask(&["doctor"]));
            assert!(!page.contains("pinfold.socket is not"), "{page}");
        }
        assert!(!page.contains("watchdog") && !page.contains("pinfoldd.slice"), "{page}");
    }
    let machine = Machine::without_daemon("[daemon]\nidle_exit = '2s'\n");
    let told = page(&machine.ask(&["doctor"]));
    expect(&told, "ok", "unit", ".service, transient: a launch started it, and it leaves when it is unused; `");
    eventually("the daemon has left", || if units().is_empty() { Ok(()) } else { Err(format!("{:?}", units())) });
    let machine = Machine::new();
    expect(&page(&machine.ask(&["doctor"])), "note", "unit", "none of its own: it was started by hand in ");
}

#[test]
fn doctor_tells_what_this_manager_does_not_know_before_the_first_launch() {
    if !offered() {
        return;
    }
    let version = String::from_utf8(std::process::Command::new("systemctl").arg("--version").output().unwrap().stdout);
    let version: u32 = version.unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    let machine = Machine::new();
    let told = page(&machine.ask(&["doctor"]));
    let lacks = told.contains("this systemd does not know PIDFDs=: launchers are placed by their number");
    assert_eq!(lacks, version < 255, "systemd {version}");
    let wrong = told.contains("CollectMode=") || told.contains("OOMPolicy=");
    assert!(!wrong, "both managers know these");
    assert!(units().is_empty(), "what was asked for was made: {:?}", units());
}

#[test]
fn doctor_names_both_daemons_where_there_are_two() {
    if !offered() || !is_system() {
        return;
    }
    let _group = Group::new();
    let (_own, _system) = (Daemon::start(Who::Agent), Daemon::start(Who::Root));
    let told = page(&ask(Who::Member, &["doctor"]));
    expect(&told, "ok", "daemon", "the system's, which agent may use: version");
    expect(&told, "note", "besides", "this user's own daemon, which launches do not take: version");
    let told = page(&ask(Who::Agent, &["doctor"]));
    expect(&told, "ok", "daemon", "agent's own: version");
    expect(&told, "note", "besides", "the system's daemon at /run/pinfold/pinfold.sock is not for this user");
    assert!(told.contains("→ to use it, join the group `pinfold` and log in again"), "{told}");
}

#[test]
fn doctor_says_what_a_user_without_a_service_manager_needs_and_that_helps() {
    if !offered() || !is_system() {
        return;
    }
    assert!(!Path::new("/run/user/65534").exists());
    let visit = Visit::to(Who::Nobody);
    let told = &visit.page;
    assert_eq!(visit.status, Some(1));
    expect(told, "PROBLEM", "systemd", "uid 65534 has no service manager now");
    assert!(told.contains("→ log in, or have root run `loginctl enable-linger 65534`"), "{told}");
    let daemon = "no daemon could be started: without a service manager, may not write";
    expect(told, "PROBLEM", "daemon", daemon);

    let linger = |verb: &str| std::process::Command::new("loginctl").args([verb, "65534"]).output().unwrap();
    let enabled = linger("enable-linger");
    assert!(enabled.status.success(), "{enabled:?}");
    eventually("it has one", || {
        let there = Path::new("/run/user/65534/systemd/private").exists();
        if there { Ok(()) } else { Err("no socket".to_owned()) }
    });
    let told = Visit::to(Who::Nobody).page.clone();
    linger("disable-linger");
    systemctl(&["stop", "user@65534.service"]);
    expect(&told, "ok", "systemd", "the user manager answers on the user bus");
}

#[test]
fn doctor_works_without_a_user_bus_and_says_what_is_missing_without_the_managers_socket() {
    if !offered() || !is_system() {
        return;
    }
    let bus = "/run/user/1000/bus";
    {
        let _away = Moved::away(&[bus]);
        let visit = Visit::to(Who::Agent);
        let told = &visit.page;
        expect(told, "ok", "systemd", "the user manager answers at its own socket, because there is no user bus");
        expect(told, "ok", "limits", "hold for memory");
        let run = ask(Who::Agent, &["run", "--", "cat", "/proc/self/cgroup"]);
        let place = String::from_utf8_lossy(&run.stdout);
        assert!(place.contains("/user@1000.service/pinfold.slice/"), "{run:?}");
    }
    let _away = Moved::away(&[bus, "/run/user/1000/systemd/private"]);
    let visit = Visit::to(Who::Agent);
    let told = &visit.page;
    assert_eq!(visit.status, Some(1));
    let neither = "/run/user/1000 has neither the socket of a user bus nor that of a service manager";
    expect(told, "PROBLEM", "systemd", neither);
    assert!(told.contains("→ it does not run: have root run `systemctl start user@1000.service`"), "{told}");
}

/// What a user's manager is delegated, for as long as it is wanted. The manager is started anew for it.
struct Delegated;

impl Delegated {
    /// systemd's accounting of either brings the memory controller along.
    const UNITS: [&str; 2] = ["user@", "user-runtime-dir@"];

    fn drop_in(unit: &str) -> PathBuf {
        PathBuf::from(format!("/run/systemd/system/{unit}.service.d/pinfold-test.conf"))
    }

    #[track_caller]
    fn set(delegate: &str, accounting: &str) -> Self {
        let delegated = Self;
        delegated.change(delegate, accounting);
        delegated
    }

    #[track_caller]
    fn change(&self, delegate: &str, accounting: &str) {
        for (unit, delegate) in Self::UNITS.into_iter().zip([delegate, ""]) {
            let drop_in = Self::drop_in(unit);
            std::fs::create_dir_all(drop_in.parent().unwrap()).unwrap();
            std::fs::write(drop_in, format!("[Service]\n{delegate}\n{accounting}\n")).unwrap();
        }
        Self::restart();
    }

    #[track_caller]
    fn restart() {
        for arguments in [&["daemon-reload"][..], &["restart", "user-runtime-dir@1000.service", "user@1000.service"]] {
            let done = systemctl(arguments);
            assert!(done.status.success(), "{done:?}");
        }
        eventually("the user's bus is there", || {
            std::os::unix::net::UnixStream::connect("/run/user/1000/bus").map_err(|error| error.to_string())
        });
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for unit in Self::UNITS {
            let _ = std::fs::remove_file(Self::drop_in(unit));
        }
        if !std::thread::panicking() {
            Self::restart();
        }
    }
}

#[test]
fn doctor_says_which_controllers_a_user_manager_was_not_delegated_and_what_to_do_helps() {
    if !offered() || !is_system() {
        return;
    }
    let remedy = "→ as root, `systemctl edit user@.service`: Delegate=cpu cpuset io memory pids in its [Service]";
    let visit = Visit::to(Who::Agent);
    let told = &visit.page;
    assert_eq!(visit.status, Some(0));
    expect(told, "note", "io", "cannot be limited: the user manager was not delegated the io controller");
    assert!(told.contains(remedy), "{told}");
    drop(visit);

    let delegated = Delegated::set("Delegate=\nDelegate=pids", "MemoryAccounting=no");
    let visit = Visit::to(Who::Agent);
    let told = &visit.page;
    assert_eq!(visit.status, Some(1));
    expect(told, "PROBLEM", "memory", "cannot be limited: the user manager was not delegated the memory controller");
    expect(told, "note", "cpu", "cannot be limited: the user manager was not delegated the cpu controller");
    let mut run = pinfold(Who::Agent, &["run", "--", "echo", "ran"]);
    let run = run.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(125), "{said}");
    assert!(said.contains("was not delegated the memory controller"), "{said}");
    drop(visit);

    delegated.change("Delegate=cpu cpuset io memory pids", "");
    let visit = Visit::to(Who::Agent);
    let told = &visit.page;
    expect(told, "ok", "limits", "hold for memory, swap, pids, cpu, io");
}
