//! Hosts inside containers whose servers the host's daemon contains: below the container's cgroup, and seen by nobody else in a
//! container. What a container is to the kernel is made here: namespaces of its own, and a cgroup in which they begin.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Launched, Machine, base, eventually, lives, offered, processes, root_offered};

/// A container's cgroup. It goes with whatever is in it when it is dropped.
struct Container {
    directory: PathBuf,
}

impl Container {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = base().join(format!("pinfold-test-{}-container-{number}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        Self { directory }
    }

    /// The command as the first process of a pid namespace in it.
    fn within(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        let script =
            "echo $$ >\"$1/cgroup.procs\"; shift; exec unshare --cgroup --pid --fork --kill-child --mount-proc \"$@\"";
        inside.args(["-c", script, "sh"]).arg(&self.directory);
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// `pinfold run OPTIONS… -- sh -c SCRIPT` in it, its stdin held open.
    #[track_caller]
    fn run(&self, machine: &Machine, options: &[&str], script: &str) -> Launched {
        let mut run = machine.pinfold(&["run"]);
        run.args(options).args(["--", "sh", "-c", script]);
        let mut inside = self.within(&run);
        inside.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Launched::spawn(inside)
    }

    /// Runs `pinfold ARGUMENTS…` in it to its end.
    fn ask(&self, machine: &Machine, arguments: &[&str]) -> Output {
        self.within(&machine.pinfold(arguments)).stdin(Stdio::null()).output().unwrap()
    }

    /// The sessions that are seen from it, by their ids.
    #[track_caller]
    fn sessions(&self, machine: &Machine) -> Vec<String> {
        let output = self.ask(machine, &["ls", "--json"]);
        assert!(output.status.success(), "{output:?}");
        let sessions: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        sessions.iter().map(|session| session["id"].as_str().unwrap().to_owned()).collect()
    }

    /// What was made below its cgroup.
    fn below(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
    }

    #[track_caller]
    fn expect_nothing_below(&self) {
        eventually("nothing is left below the container's cgroup", || {
            let below = self.below();
            if below.is_empty() { Ok(()) } else { Err(format!("{below:?}")) }
        });
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        fn remove(directory: &Path) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            let _ = std::fs::remove_dir(directory);
        }
        let _ = std::fs::write(self.directory.join("cgroup.kill"), "1");
        let start = Instant::now();
        while self.directory.exists() && start.elapsed() < Duration::from_secs(20) {
            remove(&self.directory);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The ids of all sessions with a running server, as the host sees them.
#[track_caller]
fn expect_sessions(machine: &Machine, wanted: &[&str]) {
    eventually(&format!("the sessions are {wanted:?}"), || {
        let sessions = machine.sessions();
        let running = sessions.iter().filter(|session| session["servers"][0]["state"] == "running");
        let mut ids: Vec<&str> = running.map(|session| session["id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        if ids == wanted { Ok(()) } else { Err(format!("{ids:?}; {}", machine.log())) }
    });
}

#[test]
fn a_leaf_of_a_container_stands_below_its_cgroup_and_ends_like_any_other() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    let container = Container::new();
    let mut server = container.run(&machine, &["--session", "s"], "setsid sleep 1000 & exec sleep 1000");
    let leaf = machine.leaf("s");
    assert!(leaf.starts_with(&container.directory), "{leaf:?} is not below {:?}", container.directory);
    let inside = eventually("the server and its grandchild are in it", || {
        let inside = processes(&leaf);
        if inside.len() == 2 { Ok(inside) } else { Err(format!("{inside:?}")) }
    });
    assert_eq!(container.sessions(&machine), ["s"]);
    let ended = container.ask(&machine, &["end", "s", "--now"]);
    assert!(ended.status.success(), "{ended:?}");
    assert!(inside.iter().all(|pid| !lives(*pid)), "{inside:?}");
    server.exit_status();
    container.expect_nothing_below();
    machine.expect_nothing_left();
}

#[test]
fn a_container_sees_and_ends_its_own_sessions_only_whoever_it_is_in_there() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    let (one, other) = (Container::new(), Container::new());
    let on_the_host = machine.run(&["--session", "host"], "exec sleep 1000");
    let mut same_id =
        [&one, &other].map(|container| container.run(&machine, &["--session", "same"], "exec sleep 1000"));
    expect_sessions(&machine, &["host", "same", "same"]);
    for container in [&one, &other] {
        assert_eq!(container.sessions(&machine), ["same"]);
    }
    let events = one.ask(&machine, &["events"]);
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(events.contains("session same") && !events.contains("session host"), "{events}");
    let found = one.ask(&machine, &["status", "host"]);
    assert!(!found.status.success(), "{found:?}");
    for order in [&["end", "host", "--now"][..], &["end", "--all", "--now"]] {
        one.ask(&machine, order);
    }
    same_id[0].exit_status();
    expect_sessions(&machine, &["host", "same"]);
    assert_eq!(other.sessions(&machine), ["same"]);
    assert!(one.sessions(&machine).is_empty());
    for order in [&["reload"][..], &["history"], &["adopt", "1"]] {
        let refused = one.ask(&machine, order);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains("on the host only"), "{order:?}: {refused:?}");
    }
    let doctor = String::from_utf8_lossy(&one.ask(&machine, &["doctor"]).stdout).into_owned();
    assert!(doctor.contains("you are in a container"), "{doctor}");
    machine.ask(&["end", "--all", "--now"]);
    drop((same_id, on_the_host));
    machine.expect_nothing_left();
    one.expect_nothing_below();
    other.expect_nothing_below();
}

#[test]
fn a_daemon_that_takes_over_knows_whose_container_a_session_is() {
    if !offered() || !root_offered() {
        return;
    }
    let mut machine = Machine::new();
    let (one, other) = (Container::new(), Container::new());
    let mut server = one.run(&machine, &["--session", "s"], "exec sleep 1000");
    let leaf = machine.leaf("s");
    machine.kill_daemon();
    machine.start();
    assert_eq!(machine.leaf("s"), leaf, "{}", machine.log());
    assert_eq!((one.sessions(&machine), other.sessions(&machine)), (vec!["s".to_owned()], vec![]));
    // Its container ends while no daemon runs, and its cgroup is removed by whoever made it.
    machine.kill_daemon();
    drop(one);
    server.exit_status();
    machine.start();
    machine.expect_nothing_left();
}

#[test]
fn a_server_that_made_namespaces_for_itself_launches_into_its_own_session_and_ends_that_alone() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    let other = machine.run(&["--session", "other"], "exec sleep 1000");
    let pinfold = crate::support::binary();
    let script = format!(
        "exec unshare --cgroup --pid --fork --kill-child --mount-proc sh -c '{pinfold} ls; {pinfold} end other --now; \
         {pinfold} end --all --server=inner; sleep 1000 | {pinfold} run --server inner -- sleep 1000 & wait'"
    );
    let mut server = machine.run(&["--session", "own", "--server", "outer"], &script);
    let names = eventually("it has launched another one beside itself", || {
        let session = machine.session("own");
        let names: Vec<String> =
            session["servers"].as_array().unwrap().iter().map(|one| one["name"].to_string()).collect();
        if names.len() == 2 { Ok(names) } else { Err(format!("{names:?}; {}", machine.log())) }
    });
    assert_eq!(names, ["\"outer\"", "\"inner\""]);
    assert!(machine.leaf("own").starts_with(machine.tree()));
    expect_sessions(&machine, &["other", "own"]);
    let ended = machine.ask(&["end", "--all", "--now"]);
    assert!(ended.status.success(), "{ended:?}");
    server.exit_status();
    drop((server, other));
    machine.expect_nothing_left();
}

#[test]
fn a_container_that_ends_takes_its_sessions_along() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    let container = Container::new();
    let mut server = container.run(&machine, &["--session", "s"], "exec sleep 1000");
    machine.session("s");
    drop(container);
    server.exit_status();
    machine.expect_nothing_left();
}

#[test]
fn directories_of_the_names_of_a_leaf_below_a_container_open_no_session() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    let container = Container::new();
    let victim = machine.run(&["--session", "victim"], "exec sleep 1000");
    let own = container.run(&machine, &["--session", "own"], "exec sleep 1000");
    expect_sessions(&machine, &["own", "victim"]);
    let session = machine.session("victim");
    let (key, leaf) = (session["key"].as_str().unwrap(), session["servers"][0]["leaf"].as_str().unwrap());
    let forged = container.below().pop().unwrap().join(key).join(leaf);
    let pinfold = machine.pinfold(&[]);
    let script =
        "mkdir -p \"$1\" && echo 0 >\"$1/cgroup.procs\" && \"$0\" end victim --now; \"$0\" ls; exec \"$0\" run -- true";
    let mut forger = machine.pinfold(&[]);
    let environment = std::mem::replace(&mut forger, Command::new("sh"));
    forger.args(["-c", script]).arg(pinfold.get_program()).arg(&forged);
    for (name, value) in environment.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        forger.env(name, value);
    }
    let told = container.within(&forger).stdin(Stdio::null()).output().unwrap();
    let refusal = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(125), "{told:?}");
    assert!(refusal.contains("inside a session that this daemon does not hold"), "{refusal}");
    assert!(!String::from_utf8_lossy(&told.stdout).contains("victim"), "{told:?}");
    expect_sessions(&machine, &["own", "victim"]);
    machine.ask(&["end", "--all", "--now"]);
    drop((own, victim));
    // What was forged is the container's own, and goes with it.
    drop(container);
    machine.expect_nothing_left();
}
