//! The configuration is read anew: what lives gets its limits in place, never below what it uses unless that is forced.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::hosts::descriptors;
use crate::servers::{end, level, only_ended, perl};
use crate::support::{Launched, Machine, eventually, offered, pass_over, root_offered, signal, v1_mount};

const MIB: u64 = 1 << 20;

/// Room for the machine level, which is the same throughout.
const MACHINE: &str = "[machine]\nmemory_max = '900M'\npids_max = 900\n";

/// Writes the configuration anew; it is not read yet.
fn write(machine: &Machine, config: &str) {
    std::fs::write(machine.path("pinfold.toml"), format!("{MACHINE}{config}")).unwrap();
}

#[track_caller]
fn with(config: &str) -> Machine {
    Machine::with_config(&format!("{MACHINE}{config}"))
}

/// `pinfold reload` of what is to be changed without a word.
#[track_caller]
fn reloaded(machine: &Machine, options: &[&str]) -> Value {
    let output = machine.ask(&[&["reload", "--json"], options].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}; {}", machine.log());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `pinfold reload`, for which something stays.
#[track_caller]
fn left_something(machine: &Machine, options: &[&str]) -> Value {
    let output = machine.ask(&[&["reload", "--json"], options].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}; {}", machine.log());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[track_caller]
fn up(machine: &Machine, options: &[&str]) -> Launched {
    let mut server = machine.run(options, "echo up; exec cat");
    assert_eq!(server.line(), "up", "{}", machine.log());
    server
}

/// The memory and process limits that the kernel holds for a server (0), its session (1) or the machine (2).
#[track_caller]
fn held(server: &Launched, up: usize) -> (Option<u64>, Option<u64>) {
    let number = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        text.trim().parse::<u64>().ok().filter(|number| *number < 1 << 60)
    };
    let memory = if v1_mount("memory").is_some() { "memory.limit_in_bytes" } else { "memory.max" };
    let memory = number(level(server.pid(), "memory", up).join(memory));
    (memory.map(|bytes| bytes / MIB), number(level(server.pid(), "pids", up).join("pids.max")))
}

#[track_caller]
fn eventually_held(machine: &Machine, server: &Launched, up: usize, expected: (Option<u64>, Option<u64>)) {
    eventually("the kernel holds the limits", || {
        let found = held(server, up);
        if found == expected { Ok(()) } else { Err(format!("{found:?}; {}", machine.log())) }
    });
}

fn changes(reply: &Value) -> Vec<(String, String, Value, Value)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let changed = reply["changed"].as_array().unwrap();
    let all = changed
        .iter()
        .map(|change| (text(&change["level"]), text(&change["limit"]), change["from"].clone(), change["to"].clone()));
    let mut all: Vec<_> = all.collect();
    all.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
    all
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_limits_of_what_lives_are_raised_and_lowered_in_place() {
    if !offered() {
        return;
    }
    let machine =
        with("[session]\nmemory_max = '600M'\npids_max = 600\n[server]\nmemory_max = '300M'\npids_max = 300\n");
    let server = up(&machine, &["--session", "s", "--server", "fs"]);
    assert_eq!(held(&server, 0), (Some(300), Some(300)));
    // Of one level up, of the other down, and one as it was.
    let config = "[session]\nmemory_max = '500M'\npids_max = 600\n[server]\nmemory_max = '400M'\npids_max = 200\n";
    std::fs::write(machine.path("pinfold.toml"), format!("[machine]\nmemory_max = '800M'\npids_max = 1000\n{config}"))
        .unwrap();
    let reply = reloaded(&machine, &[]);
    let change =
        |level: &str, limit: &str, from: u64, to: u64| (level.to_owned(), limit.to_owned(), json!(from), json!(to));
    assert_eq!(
        changes(&reply),
        [
            change("machine", "memory_max", 900 * MIB, 800 * MIB),
            change("machine", "pids_max", 900, 1000),
            change("server", "memory_max", 300 * MIB, 400 * MIB),
            change("server", "pids_max", 300, 200),
            change("session", "memory_max", 600 * MIB, 500 * MIB),
        ]
    );
    assert_eq!((reply["kept"].clone(), reply["warnings"].clone()), (json!([]), json!([])));
    for (up, expected) in [(0, (400, 200)), (1, (500, 600)), (2, (800, 1000))] {
        assert_eq!(held(&server, up), (Some(expected.0), Some(expected.1)), "level {up}");
    }
    // Once more, and nothing is another one; and by SIGHUP.
    assert_eq!(changes(&reloaded(&machine, &[])), []);
    write(
        &machine,
        "[session]\nmemory_max = '500M'\npids_max = 600\n[server]\nmemory_max = '100M'\npids_max = 'infinity'\n",
    );
    signal(machine.daemon_pid(), Signal::SIGHUP);
    eventually_held(&machine, &server, 0, (Some(100), None));
    eventually_held(&machine, &server, 2, (Some(900), Some(900)));
    // What the file does not say any more is the default again.
    write(&machine, "");
    reloaded(&machine, &[]);
    assert_eq!(held(&server, 0), (Some(2048), Some(1024)));
    // Who comes next gets what holds now.
    let next = up(&machine, &["--session", "s"]);
    assert_eq!(held(&next, 0), (Some(2048), Some(1024)));
    let output = machine.ask(&["reload"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("no limit of what lives is another one"), "{output:?}");
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn no_limit_is_lowered_below_what_is_used() {
    if !offered() {
        return;
    }
    let machine =
        with("[session]\nmemory_max = '600M'\npids_max = 600\n[server]\nmemory_max = '300M'\npids_max = 300\n");
    let mut server = perl(&machine, &["--session", "s"], r#"grow(120); child { rest } for 1..20; print "up\n"; rest"#);
    assert_eq!(server.line(), "up", "{}", machine.log());
    write(&machine, "[session]\nmemory_max = '80M'\npids_max = 10\n[server]\nmemory_max = '60M'\npids_max = 5\n");
    let reply = left_something(&machine, &[]);
    assert_eq!(changes(&reply), [], "{reply}");
    let kept = reply["kept"].as_array().unwrap();
    assert_eq!(kept.len(), 4, "{reply}");
    for kept in kept {
        let (usage, wanted) = (kept["usage"].as_u64().unwrap(), kept["wanted"].as_u64().unwrap());
        assert!(usage > wanted && kept["why"].as_str().unwrap().contains(" is in use; end some of it, "), "{kept}");
        assert_eq!(kept["session"], "s", "{kept}");
    }
    assert_eq!((held(&server, 0), held(&server, 1)), ((Some(300), Some(300)), (Some(600), Some(600))));
    let output = machine.ask(&["reload"]);
    let told = told(&output);
    assert!(told.contains("memory_max stays 300M, and is not 60M: ") && told.contains("--force"), "{told}");
    // Nor does a launch of the same session end it, which is decided by what the file says now.
    let _next = up(&machine, &["--session", "s", "--server", "next"]);
    assert_eq!(held(&server, 1), (Some(600), Some(600)));
    // What is used below the limit is no hindrance, and the rest goes on being tried.
    write(&machine, "[session]\nmemory_max = '200M'\npids_max = 50\n[server]\nmemory_max = '150M'\npids_max = 5\n");
    let reply = left_something(&machine, &[]);
    assert_eq!(reply["kept"].as_array().unwrap().len(), 1, "{reply}");
    assert_eq!((held(&server, 0), held(&server, 1)), ((Some(150), Some(300)), (Some(200), Some(50))));
    assert!(server.child.try_wait().unwrap().is_none(), "{}", machine.log());
    assert!(!machine.log().contains("the kernel killed"), "{}", machine.log());
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn page_cache_does_not_keep_a_limit_from_being_lowered() {
    if !offered() {
        return;
    }
    let machine = with("[server]\nmemory_max = '400M'\n");
    // Not below /tmp: the pages of a tmpfs are memory.
    let directory = tempfile::Builder::new().prefix("pinfold-test-").tempdir_in("/var/tmp").unwrap();
    let file = directory.path().join("big");
    let script =
        format!("dd if=/dev/zero of={0} bs=1M count=150 conv=fsync status=none; echo up; exec cat", file.display());
    let mut server = machine.run(&["--session", "s"], &script);
    assert_eq!(server.line(), "up", "{}", machine.log());
    let used = machine.session("s")["servers"][0]["memory"]["current_bytes"].as_u64().unwrap();
    assert!(used > 64 * MIB, "a busy machine has taken it back: {used}");
    write(&machine, "[server]\nmemory_max = '64M'\n");
    reloaded(&machine, &[]);
    assert_eq!(held(&server, 0).0, Some(64));
    assert!(server.child.try_wait().unwrap().is_none(), "{}", machine.log());
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn what_dies_of_a_limit_that_was_lowered_by_force_is_told_as_out_of_memory() {
    if !offered() {
        return;
    }
    let machine = with("[server]\nmemory_max = '300M'\n");
    let _other = up(&machine, &["--session", "s", "--server", "other"]);
    let script = r#"grow(120); print "up\n"; <STDIN>; grow(100); print "grown\n"; rest"#;
    let mut hog = perl(&machine, &["--session", "s", "--server", "hog"], script);
    assert_eq!(hog.line(), "up", "{}", machine.log());
    write(&machine, "[server]\nmemory_max = '60M'\n");
    let reply = machine.ask(&["reload", "--json", "--force"]);
    // On cgroup v2 it is dead by now. v1 takes a limit as low as what is used, and kills what goes beyond.
    let reply: Value = serde_json::from_slice(&reply.stdout).unwrap();
    if v1_mount("memory").is_some() {
        let limit = held(&hog, 0).0.unwrap();
        assert!((110..200).contains(&limit), "{limit}; {reply}");
        let kept = &reply["kept"][0];
        assert_eq!(kept["server"], "hog", "{reply}");
        // What was forced is not advised once more.
        let why = kept["why"].as_str().unwrap();
        assert!(why.contains("cgroup v1 takes no limit below that") && !why.contains("--force"), "{kept}");
        std::io::Write::write_all(hog.child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    }
    assert_eq!(hog.exit_status(), 128 + 9, "{}", machine.log());
    let told = hog.stderr();
    assert!(told.contains("memory ran out: the server's own memory limit"), "{told}");
    eventually("only the other is left", || {
        let servers = machine.sessions()[0]["servers"].clone();
        let names: Vec<&Value> = servers.as_array().unwrap().iter().map(|server| &server["name"]).collect();
        if names == ["other"] { Ok(()) } else { Err(servers.to_string()) }
    });
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn a_wrong_file_keeps_what_holds_and_is_told_by_line_and_column() {
    if !offered() {
        return;
    }
    let machine = with("[server]\npids_max = 300\n");
    let server = up(&machine, &["--session", "s"]);
    write(&machine, "[server]\npids_max = 200\nmemory_max = 'lots'\n");
    let place = format!("{}:6:14: ", machine.path("pinfold.toml").display());
    let output = machine.ask(&["reload"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{output:?}");
    let told = told(&output);
    assert!(told.contains(&place) && told.contains("what it said before still holds"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    let in_log = || machine.log().matches(&place).count();
    assert_eq!(in_log(), 1, "{}", machine.log());
    signal(machine.daemon_pid(), Signal::SIGHUP);
    eventually("it is told once more", || if in_log() == 2 { Ok(()) } else { Err(machine.log()) });
    assert_eq!(held(&server, 0).1, Some(300));
    let next = up(&machine, &["--session", "s"]);
    assert_eq!(held(&next, 0).1, Some(300));
    // One that is gone is as wrong, and one that is right again counts.
    std::fs::remove_file(machine.path("pinfold.toml")).unwrap();
    let output = machine.ask(&["reload", "--force"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(held(&server, 0).1, Some(300));
    write(&machine, "[server]\npids_max = 200\n");
    reloaded(&machine, &[]);
    assert_eq!((held(&server, 0).1, held(&next, 0).1), (Some(200), Some(200)));
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn what_a_launch_asked_for_itself_stays_over_a_restart_and_reloads() {
    if !offered() {
        return;
    }
    let mut machine = with("[server]\nmemory_max = '300M'\npids_max = 300\n");
    let server = up(&machine, &["--session", "s", "--memory-max", "200M", "--grace", "150ms"]);
    write(&machine, "[server]\nmemory_max = '100M'\npids_max = 100\n");
    reloaded(&machine, &[]);
    assert_eq!(held(&server, 0), (Some(200), Some(100)));
    machine.kill_daemon();
    machine.start();
    write(&machine, "[session]\npids_max = 77\n[server]\nmemory_max = '400M'\npids_max = 40\ngrace = '500s'\n");
    let reply = reloaded(&machine, &[]);
    assert_eq!(held(&server, 0), (Some(200), Some(40)), "{reply}");
    assert_eq!(held(&server, 1).1, Some(77), "{reply}");
    // Its own grace as well: were it the file's, this would take minutes.
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn a_daemon_that_starts_under_another_file_gives_what_lives_its_limits() {
    if !offered() {
        return;
    }
    let mut machine = with("[session]\npids_max = 500\n[server]\nmemory_max = '300M'\npids_max = 300\n");
    let server = up(&machine, &["--session", "s", "--memory-max", "200M"]);
    assert_eq!((held(&server, 0), held(&server, 1).1), ((Some(200), Some(300)), Some(500)));
    machine.stop_daemon();
    write(&machine, "[session]\npids_max = 400\n[server]\nmemory_max = '100M'\npids_max = 100\n");
    machine.start();
    // What the launch asked for itself stays.
    eventually_held(&machine, &server, 0, (Some(200), Some(100)));
    eventually("the session's", || match held(&server, 1).1 {
        Some(400) => Ok(()),
        other => Err(format!("{other:?}; {}", machine.log())),
    });
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn a_rule_that_comes_with_a_reload_holds_for_what_it_speaks_of() {
    if !offered() {
        return;
    }
    let machine = with("[server]\npids_max = 300\n");
    let (fs, git) =
        (up(&machine, &["--session", "s", "--server", "fs"]), up(&machine, &["--session", "t", "--server", "git"]));
    write(
        &machine,
        "[server]\npids_max = 300\n[[rule]]\nwhen = { server = 'git' }\nserver = { pids_max = 50 }\n\
         [[rule]]\nwhen = { session = 't' }\nsession = { pids_max = 60 }\n",
    );
    assert_eq!(changes(&reloaded(&machine, &[])).len(), 2);
    assert_eq!((held(&fs, 0).1, held(&git, 0).1, held(&git, 1).1), (Some(300), Some(50), Some(60)));
    assert_ne!(held(&fs, 1).1, Some(60));
    end(&machine, &["--all"]);
    machine.expect_nothing_left();
}

#[test]
fn the_grace_of_what_lives_is_that_of_the_file_that_holds() {
    if !offered() {
        return;
    }
    let mut machine = with("[server]\ngrace = '590s'\n");
    let mut server = machine.run(&["--session", "s"], "trap '' TERM; echo up; while :; do sleep 1000; done");
    assert_eq!(server.line(), "up");
    write(&machine, "[server]\ngrace = '100ms'\n");
    reloaded(&machine, &[]);
    // The next daemon knows it, too.
    machine.kill_daemon();
    machine.start();
    assert_eq!(only_ended(&end(&machine, &["s"]))["killed"], true);
    assert_eq!(server.exit_status(), 128 + 9);
    machine.expect_nothing_left();
}

#[test]
fn only_root_and_the_daemons_own_user_may_reload_and_no_server() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = with("[server]\npids_max = 300\n");
    machine.open_to_all();
    let server = up(&machine, &["--session", "s"]);
    write(&machine, "[server]\npids_max = 200\n");
    let output = machine.nobody(&["reload", "--force"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(told(&output).contains("only root and uid 0 may reload"), "{output:?}");
    let script = "\"$0\" reload 2>&1; echo \"$?\"; exec cat";
    let mut inside = machine.launch(&["--session", "t"], &["sh", "-c", script, crate::support::binary()]);
    let said = inside.line();
    assert!(said.contains("cannot be reloaded from inside a session"), "{said}");
    assert_eq!(inside.line(), "1");
    assert_eq!(held(&server, 0).1, Some(300));
    reloaded(&machine, &[]);
    assert_eq!(held(&server, 0).1, Some(200));
    end(&machine, &["--all"]);
    machine.expect_nothing_left();
}

/// A configuration that has these files of OpenClaw's watched.
fn watching(files: &[&Path]) -> String {
    let files: Vec<String> = files.iter().map(|file| format!("'{}'", file.display())).collect();
    format!("[[host]]\nname = 'openclaw'\nfiles = [{}]\n", files.join(", "))
}

/// A host's file with these entries, which takes its name at once.
fn entries(file: &Path, names: &[&str]) {
    let servers: Vec<String> = names.iter().map(|name| format!("\"{name}\": {{ \"command\": \"npx\" }}")).collect();
    let draft = file.with_extension("draft");
    std::fs::write(&draft, format!("{{ \"mcpServers\": {{ {} }} }}\n", servers.join(", "))).unwrap();
    std::fs::rename(&draft, file).unwrap();
}

#[test]
fn files_of_hosts_are_watched_from_a_reload_on_and_no_more_after_another() {
    if !offered() {
        return;
    }
    let machine = with("");
    let directory = tempfile::Builder::new().prefix("pinfold-host-").tempdir().unwrap();
    let (one, two) = (directory.path().join("one.json"), directory.path().join("two.json"));
    entries(&one, &["fs", "git"]);
    entries(&two, &["db"]);
    let server = |name: &str| up(&machine, &["--host", "openclaw", "--session", name, "--server", name]);
    let (mut fs, git, mut db) = (server("fs"), server("git"), server("db"));
    write(&machine, &watching(&[&one, &two]));
    reloaded(&machine, &[]);
    entries(&one, &["git"]);
    assert_eq!(fs.exit_status(), 128 + 15, "{}", machine.log());
    // One of them is dropped: whoever stood in it is tied to nothing any more, and the other goes on being watched.
    write(&machine, &watching(&[&two]));
    reloaded(&machine, &[]);
    entries(&one, &[]);
    entries(&two, &[]);
    assert_eq!(db.exit_status(), 128 + 15, "{}", machine.log());
    let ids: Vec<Value> = machine.sessions().iter().map(|session| session["id"].clone()).collect();
    assert_eq!(ids, ["git"], "{}", machine.log());
    drop(git);
    machine.expect_nothing_left();
}

/// Runs the rest of its arguments where its first one is `/etc`.
const WITH_ANOTHER_ETC: &str = "mount --bind \"$0\" /etc && exec \"$@\"";

#[test]
fn the_doctor_tells_the_file_that_a_reload_found_at_the_usual_place() {
    if !offered() || !root_offered() {
        return;
    }
    let etc = tempfile::Builder::new().prefix("pinfold-etc-").tempdir().unwrap();
    let usual = etc.path().join("pinfold/pinfold.toml");
    let mut machine = Machine::without_daemon();
    machine.through = ["unshare", "--mount", "sh", "-c", WITH_ANOTHER_ETC].map(Into::into).to_vec();
    machine.through.push(etc.path().into());
    machine.start();
    assert_eq!(machine.described()["config"], Value::Null);
    std::fs::create_dir(usual.parent().unwrap()).unwrap();
    std::fs::write(&usual, "[server]\npids_max = 77\n").unwrap();
    assert_eq!(machine.described()["config"], Value::Null, "it does not count before it is read");
    assert_eq!(reloaded(&machine, &[])["config"], "/etc/pinfold/pinfold.toml");
    assert_eq!(machine.described()["config"], "/etc/pinfold/pinfold.toml");
    let doctor = machine.ask(&["doctor", "--json"]);
    let told: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert_eq!(told["daemon"]["config"], "/etc/pinfold/pinfold.toml", "{told}");
    // From a wrong one nothing follows, also not that there is none.
    std::fs::write(&usual, "pids_max = [").unwrap();
    assert_ne!(machine.ask(&["reload"]).status.code(), Some(0));
    assert_eq!(machine.described()["config"], "/etc/pinfold/pinfold.toml");
    let server = up(&machine, &[]);
    assert_eq!(held(&server, 0).1, Some(77));
    drop(server);
    machine.expect_nothing_left();
}

/// Mounts a filesystem at its first argument that answers nothing, until its stdin ends: `/dev/fuse`, read by nobody.
const UNANSWERED: &str = r"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
device, place = os.open('/dev/fuse', os.O_RDWR), os.fsencode(sys.argv[1])
options = b'fd=%d,rootmode=40000,user_id=0,group_id=0' % device
print(libc.mount(b'unanswered', place, b'fuse', 0, options), flush=True)
sys.stdin.read()
libc.umount2(place, 2)
";

/// The threads of the daemon that read a host's file, and its inotify instances.
fn readers(machine: &Machine) -> (usize, usize) {
    let daemon = machine.daemon_pid();
    let tasks = std::fs::read_dir(format!("/proc/{daemon}/task")).unwrap().flatten();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let watches = descriptors(daemon).into_iter().filter(|(_, target)| target == "anon_inode:inotify");
    (tasks.map(name).filter(|name| name.trim() == "hostfile").count(), watches.count())
}

#[test]
fn a_file_on_a_filesystem_that_answers_nothing_holds_up_one_thread_however_often_it_is_reloaded() {
    if !offered() || !root_offered() {
        return;
    }
    let directory = tempfile::Builder::new().prefix("pinfold-host-").tempdir().unwrap();
    let (other, hung) = (directory.path().join("other.json"), directory.path().join("hung"));
    std::fs::create_dir(&hung).unwrap();
    entries(&other, &["fs"]);
    let mut filesystem = std::process::Command::new("python3");
    filesystem.args(["-c", UNANSWERED]).arg(&hung).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut filesystem = Launched::spawn(filesystem);
    if filesystem.line() != "0" {
        return pass_over("no filesystem can be made here that answers nothing (/dev/fuse)");
    }
    let machine = with(&watching(&[&other]));
    let mut fs = up(&machine, &["--host", "openclaw", "--session", "fs", "--server", "fs"]);
    let before = readers(&machine);
    for _ in 0..4 {
        // It is dropped now and then, too.
        for files in [&[&*other, &hung.join("mcp.json")][..], &[&other]] {
            write(&machine, &watching(files));
            reloaded(&machine, &[]);
        }
    }
    assert_eq!(readers(&machine).0, 1, "{}", machine.log());
    assert!(machine.log().contains("it was not read within"), "{}", machine.log());
    // Whatever hangs, the others are watched.
    entries(&other, &[]);
    assert_eq!(fs.exit_status(), 128 + 15, "{}", machine.log());
    drop(filesystem);
    eventually("the thread comes back, and takes its watches along", || {
        let now = readers(&machine);
        if now.0 == 0 && now.1 <= before.1 { Ok(()) } else { Err(format!("{now:?} of {before:?}")) }
    });
    machine.expect_nothing_left();
}

#[test]
fn a_limit_of_all_sessions_that_no_file_names_any_more_is_gone_with_the_next_launch() {
    if !offered() {
        return;
    }
    let machine = with("cpu_max = '50%'\n");
    if machine.described()["limits"]["cpu"]["state"] != "holds" {
        return pass_over("cpu can be limited here");
    }
    let cpu = || std::fs::read_to_string(machine.tree().join("cpu.max")).unwrap().trim().to_owned();
    let first = up(&machine, &["--session", "s"]);
    assert_eq!(cpu(), "50000 100000");
    end(&machine, &["s"]);
    drop(first);
    // Nothing lives that a reload could look at.
    write(&machine, "");
    reloaded(&machine, &[]);
    let second = up(&machine, &["--session", "t"]);
    assert_eq!(cpu(), "max 100000", "{}", machine.log());
    end(&machine, &["t"]);
    drop(second);
    machine.expect_nothing_left();
}

#[test]
fn reloads_and_launches_at_the_same_time_end_with_what_the_last_file_says() {
    if !offered() {
        return;
    }
    let machine = with("[server]\npids_max = 300\n");
    let mut servers: Vec<Launched> = Vec::new();
    for round in 0..6u32 {
        write(&machine, &format!("[session]\npids_max = {}\n[server]\npids_max = {}\n", 500 + round, 200 + round));
        let mut reloads: Vec<_> =
            (0..3).map(|_| machine.pinfold(&["reload"]).stdout(Stdio::null()).spawn().unwrap()).collect();
        signal(machine.daemon_pid(), Signal::SIGHUP);
        let name = format!("server-{round}");
        let mut launched: Vec<_> =
            (0..3).map(|_| machine.run(&["--session", "s", "--server", &name], "echo up; exec cat")).collect();
        for reload in &mut reloads {
            assert!(reload.wait().unwrap().success(), "{}", machine.log());
        }
        launched.iter_mut().for_each(|server| assert_eq!(server.line(), "up", "{}", machine.log()));
        servers.extend(launched);
    }
    for server in &servers {
        eventually("all have the last file's limits", || {
            let found = (held(server, 0).1, held(server, 1).1);
            if found == (Some(205), Some(505)) { Ok(()) } else { Err(format!("{found:?}; {}", machine.log())) }
        });
    }
    let output = machine.ask(&["reload"]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains(" holds\nno limit of what lives is another one"), "{output:?}");
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}
