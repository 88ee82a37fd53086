//! `pinfold adopt`: what runs already is contained from then on, all of it or none.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::death::{CONFIG, Doomed, Played, Tells, answers_or_is_dead, play_at_every_step, revive, stop};
use crate::hosts::{NOBODY, expect_gone, lines, v2_cgroup};
use crate::support::{
    Launched, Machine, base, eventually, is_root, lives, offered, on_systemd, processes, root_offered, signal,
    subtree_offered, v2_mount,
};

/// The variable by which a test finds all of a tree again, wherever it is.
const MARK: &str = "PINFOLD_TEST_ADOPTED";

/// What became of an adoption whose daemon may have died over it.
#[track_caller]
fn expect_all_or_nothing(machine: &Machine, pids: &[i32], before: &[String], told: &Output) {
    let mount = v2_mount().unwrap();
    eventually("all of the tree is contained, or none of it is and nothing is left of the attempt", || {
        let sessions = machine.sessions();
        let fail = |what: &str| Err(format!("{what}: {sessions:?} {:?} {told:?}; {}", places(pids), machine.log()));
        let Some(session) = sessions.first() else {
            return match () {
                () if told.status.success() => fail("it was told to be contained"),
                () if places(pids) != before => fail("it does not stand where it stood"),
                () if !machine.cgroups().is_empty() || !machine.records().is_empty() => fail("something is left"),
                () => Ok(()),
            };
        };
        let leaf = Path::new(session["servers"][0]["cgroup"].as_str().unwrap());
        let whole = pids.iter().all(|pid| v2_cgroup(*pid, &mount) == leaf);
        if whole && session["servers"][0]["state"] == "running" { Ok(()) } else { fail("it is not whole") }
    });
    assert!(pids.iter().all(|pid| lives(*pid)), "nothing was killed; {}", machine.log());
}

#[test]
fn a_daemon_killed_at_any_single_step_of_an_adoption_leaves_all_of_the_tree_contained_or_none_of_it() {
    if !offered() {
        return;
    }
    if on_systemd() {
        // One manager has one daemon at a time: these are the steps between which its part is done.
        for step in ["a record was written", "a cgroup was made", "cgroup.procs", "before the reply"] {
            assert_eq!(adopt_and_die(step), Played::Killed(step.to_owned()));
        }
        return;
    }
    let steps = play_at_every_step(|at| adopt_and_die(&at.to_string()));
    let moves = steps.iter().filter(|step| *step == "cgroup.procs").count();
    assert!(moves >= 4 && steps.iter().any(|step| step == "a record was written"), "{steps:?}");
}

/// Has a daemon adopt a tree that is to die at this step, and looks at what the next one makes of it.
fn adopt_and_die(at: &str) -> Played {
    let machine = Machine::configured(CONFIG);
    let _tells = Tells(&machine);
    let mark = mark(&format!("death {at}"));
    let mut server = tree(&mark, "setsid sleep 1000 & sleep 1000 & sleep 1000; true");
    let pids = grown(&mark, 4);
    let before = places(&pids);
    let mut daemon = Doomed::start(&machine, at);
    // Where it finds no daemon it starts one, and that one does it.
    let told = try_adopt(&machine, server.pid(), &["--session", "s", "--server", "old"]);
    answers_or_is_dead(&machine, &mut daemon);
    let died_at = daemon.died_at();
    daemon.kill();
    revive(&machine);
    expect_all_or_nothing(&machine, &pids, &before, &told);
    assert!(machine.ask(&["end", "s", "--if-exists"]).status.success(), "{}", machine.log());
    marked(&mark).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    server.exit_status();
    machine.expect_nothing_left();
    stop(&machine);
    died_at.map_or(Played::Through, Played::Killed)
}

/// A tree that runs already: a shell with a mark that all that it starts inherits. Its stdin is a pipe that is held open.
fn tree(mark: &str, script: &str) -> Launched {
    Launched::spawn(tree_command(mark, script))
}

fn tree_command(mark: &str, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).env(MARK, mark).env_remove("PINFOLD_SESSION");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The living processes with this mark.
fn marked(mark: &str) -> Vec<i32> {
    let wanted = format!("{MARK}={mark}");
    let is_marked = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let listed = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_marked(pid) && lives(*pid)).collect()
}

/// Waits until a tree has so many processes.
#[track_caller]
fn grown(mark: &str, count: usize) -> Vec<i32> {
    eventually("the tree is there", || {
        let found = marked(mark);
        if found.len() >= count { Ok(found) } else { Err(format!("{found:?}")) }
    })
}

fn places(pids: &[i32]) -> Vec<String> {
    pids.iter().map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default()).collect()
}

/// A mark that no other test has.
fn mark(test: &str) -> String {
    format!("{test}-{}", std::process::id())
}

/// `pinfold adopt PID OPTIONS… --json`, and what it tells of the one that it adopted.
#[track_caller]
fn adopt(machine: &Machine, pid: i32, options: &[&str]) -> Value {
    let output = try_adopt(machine, pid, options);
    assert!(output.status.success(), "{output:?}; {}", machine.log());
    let adopted: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((adopted.as_array().unwrap().len(), &adopted[0]["pid"]), (1, &Value::from(pid)));
    adopted[0].clone()
}

fn try_adopt(machine: &Machine, pid: i32, options: &[&str]) -> Output {
    let pid = pid.to_string();
    let arguments: Vec<&str> = ["adopt", &pid, "--json"].iter().chain(options).copied().collect();
    machine.ask(&arguments)
}

/// That it is refused, in one line with these words, and what was named stands where it stood.
#[track_caller]
fn expect_refused(machine: &Machine, pid: i32, options: &[&str], words: &[&str]) {
    let before = places(&[pid]);
    let output = try_adopt(machine, pid, options);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = lines(&output);
    assert!(told.len() == 1 && words.iter().all(|word| told[0].contains(word)), "{words:?}: {output:?}");
    assert_eq!(places(&[pid]), before);
}

/// Whether all of these stand in a leaf, in each hierarchy that it has a part in.
#[track_caller]
fn expect_in_leaf(leaf: &Path, pids: &[i32]) {
    let mount = v2_mount().unwrap();
    let (session, name) = (leaf.parent().unwrap().file_name().unwrap(), leaf.file_name().unwrap());
    let end = format!("/{}/{}", session.to_string_lossy(), name.to_string_lossy());
    for pid in pids {
        assert_eq!(v2_cgroup(*pid, &mount), leaf, "{pid}");
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let companions = text.lines().filter(|line| line.contains(":memory:") || line.contains(":pids:"));
        assert!(companions.clone().all(|line| line.ends_with(&end)), "{pid}: {text}");
    }
    let mut there = processes(leaf);
    there.sort_unstable();
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    assert_eq!(there, pids);
}

fn cause(machine: &Machine, cause: &str) {
    eventually(&format!("it ends for {cause}"), || {
        let log = machine.log();
        if log.contains(&format!("cause=\"{cause}\"")) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn a_tree_that_runs_already_is_adopted_whole_and_measured_and_ended() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mark = mark("whole");
    // A child, a grandchild in a session of its own, and one that ignores SIGTERM.
    let script = "sh -c 'setsid sh -c \"sleep 1000; true\" & wait' & (trap '' TERM; exec sleep 1000) & \
                  read -r _; big=$(head -c 40000000 /dev/zero | tr '\\0' x); echo done; wait";
    let mut server = tree(&mark, script);
    let pids = grown(&mark, 5);
    let told =
        adopt(&machine, server.pid(), &["--session", "s", "--server", "old", "--label", "run=42", "--grace", "1s"]);
    assert_eq!((&told["session"], &told["server"], &told["processes"]), (&"s".into(), &"old".into(), &5.into()));
    let leaf = machine.leaf("s");
    assert_eq!(told["cgroup"], leaf.display().to_string());
    assert_eq!(marked(&mark).len(), 5, "nothing was killed");
    expect_in_leaf(&leaf, &pids);

    use std::io::Write;
    server.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert_eq!(server.line(), "done");
    let session = machine.session("s");
    let shown = &session["servers"][0];
    assert_eq!(
        (&shown["leader_pid"], &shown["owner_pid"]),
        (&server.pid().into(), &(std::process::id() as i32).into())
    );
    assert_eq!(
        (&shown["labels"]["run"], &shown["stdin"], &shown["processes"]),
        (&"42".into(), &"watched".into(), &5.into())
    );
    let events = machine.ask(&["events", "--json"]);
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(events.contains("\"event\":\"moved_in\"") && !events.contains("\"event\":\"launched\""), "{events}");
    let memory = shown["memory"]["current_bytes"].as_u64().unwrap();
    assert!(memory > 30 << 20, "what it takes from then on is its own: {shown}");
    for said in [&told["warnings"], &shown["warnings"]] {
        assert!(said.to_string().contains("stays charged to where it stood"), "{said}");
    }
    let page = machine.ask(&["status", "s"]);
    assert!(String::from_utf8_lossy(&page.stdout).contains("warning: the memory that it had"), "{page:?}");

    let ended = machine.ask(&["end", "--label", "run=42", "--json"]);
    let ended: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((&ended["ended"][0]["cause"], &ended["ended"][0]["processes"]), (&"requested".into(), &5.into()));
    assert_eq!(marked(&mark), [0; 0], "none of it lives");
    server.exit_status();
    machine.expect_nothing_left();
    eventually("its end is in the history", || {
        let told = machine.ask(&["history", "--session", "s"]);
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        if told.contains("requested") { Ok(()) } else { Err(told) }
    });
}

#[test]
fn what_is_forked_while_it_is_adopted_is_in_the_leaf_afterwards() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut meanwhile = 0;
    for round in 0..3 {
        let mark = mark(&format!("forks{round}"));
        // Two loops that fork until they are told that this is enough, with a bound to it.
        let stop = machine.path(&format!("enough{round}"));
        let fork = format!(
            "i=0; while [ $i -lt 400 ] && ! [ -e {} ]; do sleep 1000 & i=$((i+1)); sleep 0.005; done; wait",
            stop.display()
        );
        let mut server = tree(&mark, &format!("sh -c '{fork}' & {fork}"));
        let before = grown(&mark, 20).len();
        adopt(&machine, server.pid(), &["--session", "s", "--pids-max", "1000"]);
        meanwhile += marked(&mark).len().saturating_sub(before);
        std::fs::write(&stop, "").unwrap();
        let leaf = machine.leaf("s");
        // Both shells and all that they started, whenever that was.
        let pids = eventually("the last pause is over", || {
            let now = marked(&mark);
            let pauses = |pid: &i32| {
                std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep\x000.005"))
            };
            if now.iter().any(pauses) { Err(format!("{} processes", now.len())) } else { Ok(now) }
        });
        let pids: Vec<i32> = pids.into_iter().filter(|pid| lives(*pid)).collect();
        let outside: Vec<_> = pids.iter().filter(|pid| v2_cgroup(**pid, &v2_mount().unwrap()) != leaf).collect();
        assert!(outside.is_empty(), "{outside:?}; {}", machine.log());
        assert!(machine.ask(&["end", "s", "--now"]).status.success());
        assert_eq!(marked(&mark), [0; 0]);
        server.exit_status();
        machine.expect_nothing_left();
    }
    assert!(meanwhile > 0, "something was forked meanwhile");
}

#[test]
fn of_orders_that_come_at_once_one_adopts_the_whole_tree_and_the_others_are_told() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let orders = 4;
    for round in 0..3 {
        let mark = mark(&format!("at-once{round}"));
        let children = "sleep 1000 & ".repeat(20);
        let mut server = tree(&mark, &format!("{children}wait"));
        let pids = grown(&mark, 21);
        let pid = server.pid();
        let told: Vec<Output> = std::thread::scope(|scope| {
            let order = || try_adopt(&machine, pid, &["--session", "s"]);
            let running: Vec<_> = (0..orders).map(|_| scope.spawn(order)).collect();
            running.into_iter().map(|order| order.join().unwrap()).collect()
        });
        let (done, refused): (Vec<_>, Vec<_>) = told.into_iter().partition(|output| output.status.success());
        assert_eq!((done.len(), refused.len()), (1, orders - 1), "{done:?} {refused:?}; {}", machine.log());
        for output in refused {
            let told = lines(&output);
            let known = ["is in session s already", "is being moved into a leaf already", "came into a leaf"];
            assert!(told.len() == 1 && known.iter().any(|words| told[0].contains(words)), "{output:?}");
        }
        expect_in_leaf(&machine.leaf("s"), &pids);
        assert!(machine.ask(&["end", "s", "--now"]).status.success());
        assert_eq!(marked(&mark), [0; 0]);
        server.exit_status();
        machine.expect_nothing_left();
    }
}

#[test]
fn several_are_adopted_each_in_a_leaf_of_its_own_and_one_below_another_is_in_that_ones() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let marks = [mark("several-one"), mark("several-two")];
    let mut servers = marks.each_ref().map(|mark| tree(mark, "sleep 1000; true"));
    let trees = marks.each_ref().map(|mark| grown(mark, 2));
    let child = trees[0].iter().copied().find(|pid| *pid != servers[0].pid()).unwrap();
    let pids = [servers[0].pid(), servers[1].pid(), child].map(|pid| pid.to_string());
    let output = machine.ask(&["adopt", &pids[0], &pids[1], &pids[2], "--session", "s", "--json"]);
    assert_eq!(output.status.code(), Some(1), "one of them was in a leaf already: {output:?}");
    let told = lines(&output);
    assert!(told.len() == 2 && told[0].contains(&format!("process {child} is in session s already")), "{output:?}");
    assert!(told[1].contains("stays charged to where it stood"), "it is told once for all: {output:?}");
    let adopted: Value = serde_json::from_slice(&output.stdout).unwrap();
    let leaves: Vec<&Path> =
        adopted.as_array().unwrap().iter().map(|done| Path::new(done["cgroup"].as_str().unwrap())).collect();
    assert_eq!(leaves.len(), 2);
    for (leaf, pids) in leaves.iter().zip(&trees) {
        expect_in_leaf(leaf, pids);
    }
    assert!(machine.ask(&["end", "s"]).status.success());
    for server in &mut servers {
        server.exit_status();
    }
    machine.expect_nothing_left();
}

#[test]
fn an_adopted_server_ends_with_its_first_process_its_owner_or_its_stdin() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ngrace = '1s'\nstdin_grace = '100ms'\n");
    // What the first process leaves behind goes too.
    let first = mark("ends-first");
    let mut server = tree(&first, "setsid sleep 1000 & sleep 1000; true");
    grown(&first, 3);
    adopt(&machine, server.pid(), &["--session", "first"]);
    signal(server.pid(), Signal::SIGKILL);
    server.exit_status();
    cause(&machine, "leader_exited");
    machine.expect_nothing_left();
    assert_eq!(marked(&first), [0; 0]);

    let stdin = mark("ends-stdin");
    let mut server = tree(&stdin, "setsid sleep 1000 & sleep 1000; true");
    grown(&stdin, 3);
    adopt(&machine, server.pid(), &["--session", "stdin"]);
    drop(server.child.stdin.take());
    cause(&machine, "stdin_closed");
    machine.expect_nothing_left();
    server.exit_status();
    assert_eq!(marked(&stdin), [0; 0]);

    // The nearest known host owns it, and not the shell between.
    let owner = mark("ends-owner");
    let mut host = machine.host_command("claude", "sh -c 'sh -c \"echo \\$\\$; sleep 1000; true\" & wait' &");
    let mut host = Launched::spawn({
        host.env(MARK, &owner);
        host
    });
    let pid = host.number();
    adopt(&machine, pid, &[]);
    let session = machine.sessions()[0].clone();
    assert_eq!((&session["host"], &session["servers"][0]["owner_pid"]), (&"claude-code".into(), &host.pid().into()));
    signal(host.pid(), Signal::SIGKILL);
    host.exit_status();
    cause(&machine, "owner_gone");
    machine.expect_nothing_left();
    assert!(!lives(pid));
    marked(&owner).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
}

#[test]
fn an_orphan_has_no_owner_and_a_stdin_that_hung_up_before_ends_nothing() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mark = mark("orphan");
    let mut parent = tree(&mark, "setsid sh -c 'echo $$; sleep 1000; true' <&0 & exit");
    let orphan: i32 = parent.number();
    drop(parent.child.stdin.take());
    parent.exit_status();
    grown(&mark, 2);
    if !has_init_for_parent(orphan) {
        crate::support::pass_over("another process than init takes in orphans here");
        marked(&mark).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
        return;
    }
    adopt(&machine, orphan, &["--session", "s"]);
    let shown = |machine: &Machine| {
        let session = machine.session("s");
        let server = &session["servers"][0];
        (server["owner_pid"].clone(), server["stdin"].clone(), server["processes"].clone())
    };
    assert_eq!(shown(&machine), (orphan.into(), "unwatched".into(), 2.into()));
    machine.kill_daemon();
    machine.start();
    assert_eq!(shown(&machine).0, orphan);
    signal(orphan, Signal::SIGKILL);
    // Its own exit, and not that of an owner.
    cause(&machine, "leader_exited");
    machine.expect_nothing_left();
    assert_eq!(marked(&mark), [0; 0]);
}

fn has_init_for_parent(pid: i32) -> bool {
    crate::hosts::status_field(pid, "PPid") == "1"
}

#[test]
fn what_may_not_be_adopted_is_refused_with_its_reason_and_stays_where_it_is() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let own = std::process::id() as i32;
    expect_refused(&machine, 1, &[], &["process 1 is init", "name the server"]);
    expect_refused(&machine, machine.daemon_pid(), &[], &["is the daemon", "name the server"]);
    expect_refused(&machine, own, &[], &["stands above it"]);
    if lives(2) && std::fs::read("/proc/2/cmdline").is_ok_and(|line| line.is_empty()) {
        expect_refused(&machine, 2, &[], &["thread of the kernel"]);
    }
    expect_refused(&machine, i32::MAX, &[], &["is not there"]);

    let mark = mark("refused");
    // A host, and whatever has one in its tree.
    let claude = machine.shell_named("claude");
    let mut parent = tree_command(&mark, "\"$CLAUDE\" -c 'sleep 1000; true' & echo $!; wait");
    let mut parent = Launched::spawn({
        parent.env("CLAUDE", claude);
        parent
    });
    let host = parent.number();
    eventually("it has its name", || {
        let comm = std::fs::read_to_string(format!("/proc/{host}/comm")).unwrap_or_default();
        if comm == "claude\n" { Ok(()) } else { Err(comm) }
    });
    expect_refused(&machine, host, &[], &["is an agent host (claude-code)", "pinfold run"]);
    expect_refused(&machine, parent.pid(), &[], &["(claude), which is in the tree", "an agent host"]);
    marked(&mark).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    parent.exit_status();

    // What is in a leaf already.
    let launched = machine.run(&["--session", "mine"], "exec sleep 1000");
    machine.session("mine");
    expect_refused(&machine, launched.pid(), &["--session", "other"], &["is in session mine already", "status --pid"]);
    machine.ask(&["end", "mine"]);

    let mut container = Command::new("unshare");
    // Who is not root may make one in a user namespace only.
    let user: &[&str] = if is_root() { &[] } else { &["--user", "--map-current-user"] };
    container.args(user).args(["--pid", "--fork", "--kill-child", "sleep", "1000"]).env(MARK, &mark);
    container.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut container = Launched::spawn(container);
    let inside = eventually("it runs in a pid namespace of its own", || {
        let inside = marked(&mark).into_iter().find(|pid| crate::hosts::status_field(*pid, "NSpid").contains('\t'));
        inside.ok_or_else(|| format!("{:?}", marked(&mark)))
    });
    expect_refused(&machine, inside, &[], &["a pid namespace of its own", "by its runtime"]);
    expect_refused(&machine, container.pid(), &[], &["is in the tree of process", "a pid namespace of its own"]);
    signal(inside, Signal::SIGKILL);
    container.exit_status();
    assert_eq!(machine.ask(&["adopt", "0"]).status.code(), Some(2));
    assert_eq!(machine.ask(&["adopt"]).status.code(), Some(2));
    machine.expect_nothing_left();
}

#[test]
fn the_main_process_of_a_service_and_a_threaded_cgroup_are_left_to_whom_they_belong() {
    if !offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    let service = machine.root().join("some.service");
    std::fs::create_dir(&service).unwrap();
    let mark = mark("service");
    let script = "read -r _; SYSTEMD_EXEC_PID=$$ exec sh -c 'sleep 1000; true'";
    let mut main = tree(&mark, script);
    std::fs::write(service.join("cgroup.procs"), main.pid().to_string()).unwrap();
    use std::io::Write;
    main.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    grown(&mark, 2);
    expect_refused(&machine, main.pid(), &[], &["is the main process of some.service", "set-property some.service"]);

    let threaded = service.join("threaded");
    std::fs::create_dir(&threaded).unwrap();
    std::fs::write(threaded.join("cgroup.type"), "threaded").unwrap();
    std::fs::write(threaded.join("cgroup.procs"), main.pid().to_string()).unwrap();
    expect_refused(&machine, main.pid(), &[], &["in which threads have cgroups of their own"]);
    marked(&mark).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    main.exit_status();
    eventually("the cgroups of the test are empty", || {
        std::fs::remove_dir(&threaded).or_else(gone_is_fine).map_err(|error| error.to_string())?;
        std::fs::remove_dir(&service).map_err(|error| error.to_string())
    });
    machine.expect_nothing_left();
}

fn gone_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[test]
fn a_tree_that_cannot_be_moved_as_a_whole_goes_back_to_where_it_stood() {
    if !offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    // Below the top, so that nothing else holds it; beside the daemon's tree.
    let elsewhere = machine.root().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let mark = mark("back");
    let mut server = tree(&mark, "sleep 1000 & sleep 1000 & sh -c 'sleep 1000; true' & echo $!; sleep 1000; true");
    let stray = server.number();
    let pids = grown(&mark, 6);
    let below = |pid: &&i32| **pid == stray || crate::hosts::status_field(**pid, "PPid") == stray.to_string();
    for pid in pids.iter().filter(below) {
        std::fs::write(elsewhere.join("cgroup.procs"), pid.to_string()).unwrap();
    }
    let before = places(&pids);
    let output = try_adopt(&machine, server.pid(), &["--session", "s"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = lines(&output);
    assert!(
        told.len() == 1 && told[0].contains(&format!("process {stray}")) && told[0].contains("stands in the cgroup"),
        "{output:?}"
    );
    assert_eq!(places(&pids), before, "{}", machine.log());
    assert_eq!(marked(&mark).len(), pids.len(), "none of it was killed");
    machine.expect_nothing_left();

    // The one that stood elsewhere is contained first, and then it is in nobody's way.
    adopt(&machine, stray, &["--session", "s", "--server", "stray"]);
    let told = adopt(&machine, server.pid(), &["--session", "s", "--server", "rest"]);
    assert_eq!(told["processes"], 4);
    assert!(machine.ask(&["end", "s"]).status.success());
    assert_eq!(marked(&mark), [0; 0]);
    server.exit_status();
    std::fs::remove_dir(&elsewhere).unwrap();
    machine.expect_nothing_left();
}

#[test]
fn the_daemon_that_comes_after_one_that_was_killed_finds_what_was_adopted() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mark = mark("restart");
    let mut server = tree(&mark, "setsid sleep 1000 & sleep 1000; true");
    let pids = grown(&mark, 3);
    adopt(&machine, server.pid(), &["--session", "s", "--server", "old", "--label", "a=b"]);
    let before = machine.session("s");
    machine.kill_daemon();
    assert_eq!(marked(&mark).len(), 3);
    machine.start();
    let after = machine.session("s");
    for field in ["name", "leaf", "leader_pid", "owner_pid", "labels", "generation", "started_at", "processes"] {
        assert_eq!(after["servers"][0][field], before["servers"][0][field], "{field}");
    }
    assert_eq!(after["servers"][0]["escaped"], false);
    expect_in_leaf(&machine.leaf("s"), &pids);
    assert!(machine.ask(&["end", "--server", "s/old"]).status.success());
    assert_eq!(marked(&mark), [0; 0]);
    server.exit_status();
    machine.expect_nothing_left();
}

#[test]
fn a_user_adopts_own_processes_and_what_root_adopts_is_its_users() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    machine.open_to_all();
    let mark = mark("users");
    let mut roots = tree(&mark, "sleep 1000; true");
    let before = places(&[roots.pid()]);
    let output = machine.nobody(&["adopt", &roots.pid().to_string()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(lines(&output)[0].contains(&format!("runs as uid 0, and not as uid {NOBODY}; ask as root")), "{output:?}");
    assert_eq!(places(&[roots.pid()]), before);

    let mut theirs = tree_command(&mark, "sleep 1000; true");
    theirs.uid(NOBODY).gid(NOBODY).current_dir("/");
    let mut theirs = Launched::spawn(theirs);
    adopt(&machine, theirs.pid(), &["--session", "s"]);
    let session = machine.session("s");
    assert_eq!(session["uid"], NOBODY);
    let output = machine.nobody(&["end", "s"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    theirs.exit_status();

    let mut own = tree_command(&mark, "sleep 1000; true");
    own.uid(NOBODY).gid(NOBODY).current_dir("/");
    let mut own = Launched::spawn(own);
    let output = machine.nobody(&["adopt", &own.pid().to_string(), "--session", "t"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(machine.session("t")["servers"][0]["leader_pid"], own.pid());
    machine.ask(&["end", "t"]);
    own.exit_status();
    marked(&mark).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    roots.exit_status();
    machine.expect_nothing_left();
}

#[test]
fn from_inside_a_session_a_process_is_adopted_by_that_session_only() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mark = mark("inside");
    let mut outside = tree(&mark, "sleep 1000; true");
    grown(&mark, 2);
    let pid = outside.pid();
    let script =
        format!("\"$PINFOLD\" adopt {pid} --session t 2>&1; \"$PINFOLD\" adopt {pid} --server taken; exec cat");
    let mut run = machine.pinfold(&["run", "--session", "s", "--server", "asks", "--", "sh", "-c", &script]);
    machine.point_here(&mut run);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut inside = Launched::spawn(run);
    let told = inside.line();
    assert!(told.contains("from inside session s a process can be adopted by that session only"), "{told}");
    let told = inside.line();
    assert!(told.contains(&format!("process {pid} is server taken of session s now: 2 processes")), "{told}");
    assert!(machine.ask(&["end", "s"]).status.success());
    assert_eq!(marked(&mark), [0; 0]);
    inside.exit_status();
    outside.exit_status();
    machine.expect_nothing_left();
}

#[test]
fn caps_and_limits_hold_for_what_is_adopted_and_a_full_machine_takes_none() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[daemon]\nservers_max = 1\n[server]\npids_max = 77\n");
    let marks = [mark("caps-one"), mark("caps-two")];
    let mut servers = marks.each_ref().map(|mark| tree(mark, "sleep 1000; true"));
    marks.iter().for_each(|mark| drop(grown(mark, 2)));
    expect_refused(&machine, servers[0].pid(), &["--memory-max", "1M"], &["memory_max of 1M", "at least"]);
    adopt(&machine, servers[0].pid(), &["--session", "s"]);
    expect_refused(&machine, servers[1].pid(), &["--session", "s"], &["servers_max"]);
    let group = machine.leaf("s");
    let limit = std::fs::read_to_string(group.join("pids.max")).unwrap_or_else(|_| {
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", servers[0].pid())).unwrap();
        let path = text.lines().find_map(|line| line.split_once(":pids:")).unwrap().1.to_owned();
        let mount = crate::support::v1_mount("pids").unwrap();
        std::fs::read_to_string(mount.join(path.trim_start_matches('/')).join("pids.max")).unwrap()
    });
    assert_eq!(limit.trim(), "77");
    machine.ask(&["end", "s"]);
    marked(&marks[1]).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    for server in &mut servers {
        server.exit_status();
    }
    machine.expect_nothing_left();
    assert!(base().is_dir());
    expect_gone(servers[1].pid());
}
