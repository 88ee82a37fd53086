//! Servers that are confined: the ways out of a leaf, each tried by a server that is not confined and by one that is.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::hosts::{NOBODY, server_names, status_field};
use crate::servers::{end, only_ended};
use crate::support::{Launched, Machine, eventually, is_root, lives, offered, root_offered, subtree_offered};

/// Each attempt is one line, `NAME out` or `NAME held`. A hierarchy that is mounted anew is no way out where its root is the leaf
/// (only the root of all has no `cgroup.type`). What it needs of the machine and cannot have is `held` as well, so
/// every one of them is also tried unconfined where that can succeed.
const ATTEMPTS: &str = r#"
held() { if [ "$2" = 0 ]; then echo "$1 out"; else echo "$1 held"; fi; }
mounts=$(awk '$0 ~ / - cgroup/ {print $5}' /proc/self/mountinfo)
for mount in $mounts; do
    mkdir "$mount/pinfold-test-escape" 2>/dev/null; got=$?
    rmdir "$mount/pinfold-test-escape" 2>/dev/null
    [ $got = 0 ] && break
done
held makes-a-cgroup $got
for mount in $mounts; do sh -c 'echo $$ >"$1/cgroup.procs"' sh "$mount" 2>/dev/null; got=$?; [ $got = 0 ] && break; done
held moves-to-the-root $got
for mount in $mounts; do mount -o remount,rw,bind "$mount" 2>/dev/null; got=$?; [ $got = 0 ] && break; done
held mounts-it-writable $got
unshare --user --map-root-user --mount --cgroup sh -c '
    directory=$(mktemp -d) && mount -t cgroup2 none "$directory" && [ ! -e "$directory/cgroup.type" ]
' 2>/dev/null; held mounts-another $?
sh -c 'ls /proc/1/root/' >/dev/null 2>&1; held sees-through-the-first-process $?
nsenter --target 1 --mount true 2>/dev/null; held enters-the-first-process $?
[ -n "$(ls -A /run/user /run/dbus /run/docker.sock 2>/dev/null | grep -v ':$')" ]; held sees-the-managers $?
grep -q 'NoNewPrivs:.1' /proc/self/status; [ $? = 1 ]; held gains-rights $?
echo done
"#;

/// A group that the tests' other user is not in.
const SPOOLERS: u32 = 1;

fn confine_of(server: &Value) -> &str {
    server["confine"].as_str().unwrap()
}

#[test]
fn a_confined_server_without_capabilities_finds_no_way_out_that_an_unconfined_one_has() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = format!("{ATTEMPTS} exec cat");
    let mut free = machine.run(&["--session", "s", "--server", "free"], &script);
    let unconfined = free.got_out();
    assert!(unconfined.contains(&"gains-rights".to_owned()), "{unconfined:?}");
    if is_root() {
        for name in ["makes-a-cgroup", "moves-to-the-root", "mounts-it-writable"] {
            assert!(unconfined.contains(&name.to_owned()), "{name}: {unconfined:?}");
        }
    }
    let mut confined = machine.run(&["--session", "c", "--server", "shut", "--confine=strict"], &script);
    let pid = confined.pid();
    assert_eq!(confined.got_out(), [""; 0]);
    let server = machine.session("c")["servers"][0].clone();
    assert_eq!((confine_of(&server), &server["escaped"]), ("strict", &Value::Bool(false)));
    assert_eq!(status_field(pid, "CapBnd"), "0000000000000000");
    end(&machine, &["c", "s", "--if-exists"]);
    machine.expect_nothing_left();
}

#[test]
fn a_confined_server_of_another_user_has_no_way_out_either() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    machine.open_to_all();
    let mut run = machine.nobody(&["run", "--session", "s", "--confine", "--", "sh", "-c"]);
    run.arg(format!("{ATTEMPTS} id -u; exec cat"));
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Launched::spawn(run);
    assert_eq!((server.got_out(), server.line()), (Vec::new(), NOBODY.to_string()));
    assert_eq!(status_field(server.pid(), "CapEff"), "0000000000000000");
    assert_eq!(confine_of(&machine.session("s")["servers"][0]), "yes");
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn a_confined_server_is_the_same_process_with_its_stdio_directory_environment_and_descriptors() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let directory = machine.path("here");
    std::fs::create_dir(&directory).unwrap();
    let mut run = Command::new("sh");
    machine.point_here(&mut run);
    run.current_dir(&directory).env("GIVEN", "as it was").stdin(Stdio::piped()).stdout(Stdio::piped());
    run.stderr(Stdio::piped()).arg("-c").arg(
        "exec 7</dev/null; exec \"$PINFOLD\" run --session s --confine -- \
         sh -c 'echo $$; pwd; echo \"$GIVEN\"; readlink /proc/self/fd/7; exec cat'",
    );
    let mut server = Launched::spawn(run);
    assert_eq!(server.line(), server.pid().to_string());
    assert_eq!(server.line(), directory.canonicalize().unwrap().display().to_string());
    assert_eq!((server.line().as_str(), server.line().as_str()), ("as it was", "/dev/null"));
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn what_the_operator_confines_cannot_be_launched_less_confined() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config(
        "[server]\nconfine = \"yes\"\n[[rule]]\nwhen.server = \"tight\"\nserver.confine = \"strict\"\n",
    );
    let mut servers = Vec::new();
    for (name, option, expected) in
        [("plain", "--confine=no", "yes"), ("more", "--confine=strict", "strict"), ("tight", "--confine", "strict")]
    {
        let mut server =
            machine.run(&["--session", name, "--server", name, option], "grep NoNewPrivs /proc/self/status; exec cat");
        assert_eq!(server.line(), "NoNewPrivs:\t1", "{name}");
        let session = machine.session(name);
        assert_eq!((server_names(&session), confine_of(&session["servers"][0])), (vec![name], expected));
        servers.push(server);
    }
    let shown = machine.ask(&["status", "tight"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("confined, without capabilities"), "{shown:?}");
    end(&machine, &["--all"]);
    machine.expect_nothing_left();
}

#[test]
fn a_launch_that_cannot_be_confined_is_refused_and_leaves_nothing() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut run = Command::new("unshare");
    machine.point_here(&mut run);
    // In a user namespace of its own this launcher may make no mount namespace.
    let output = run
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg("echo 0 >/proc/sys/user/max_mnt_namespaces && exec \"$PINFOLD\" run --uncontained --confine -- echo ran")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(told.contains("cannot be confined") && told.contains("user.max_mnt_namespaces"), "{told}");
    assert!(output.stdout.is_empty(), "{output:?}");
    machine.expect_nothing_left();
}

/// What a confined server launches, with a wish not to be: both are told, and how the inner one is confined.
#[track_caller]
fn launches_nested(machine: &Machine, run: fn(&Machine) -> Command, option: &str, expected: &str) {
    let nested = "\"$PINFOLD\" run --server inner --confine=no -- \
                  sh -c 'grep NoNewPrivs /proc/self/status; grep CapBnd /proc/self/status; exec cat' <&8 & wait";
    let mut run = run(machine);
    machine.point_here(&mut run);
    run.args(["run", "--session", "s", "--server", "outer", option, "--", "sh", "-c"]);
    run.arg(format!("d=$(mktemp -d); mkfifo $d/f; exec 8<>$d/f; rm -r $d; {nested}"));
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut outer = Launched::spawn(run);
    assert_eq!(outer.line(), "NoNewPrivs:\t1", "{option}: {}", machine.log());
    let capabilities = outer.line();
    assert_eq!(
        capabilities == "CapBnd:\t0000000000000000",
        expected == "strict" || !is_root_of(&outer),
        "{capabilities}"
    );
    let session = machine.session("s");
    let servers = session["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 2, "{session}");
    for server in servers {
        assert_eq!((confine_of(server), &server["escaped"]), (expected, &Value::Bool(false)), "{server}");
    }
    end(machine, &["s"]);
    outer.exit_status();
}

fn is_root_of(server: &Launched) -> bool {
    status_field(server.pid(), "Uid").starts_with("0\t")
}

#[test]
fn what_a_confined_server_launches_stands_beside_it_and_is_confined_too() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    for (option, expected) in [("--confine", "yes"), ("--confine=strict", "strict")] {
        launches_nested(&machine, |machine| machine.pinfold(&[]), option, expected);
    }
    machine.expect_nothing_left();
}

#[test]
fn what_a_confined_server_of_another_user_launches_is_confined_too() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    machine.open_to_all();
    for (option, expected) in [("--confine", "yes"), ("--confine=strict", "strict")] {
        launches_nested(&machine, |machine| machine.nobody(&[]), option, expected);
    }
    machine.expect_nothing_left();
}

/// A program that gains a group, as at(1) and crontab(1) do, and a spool that only that group may write to.
#[test]
fn a_confined_server_queues_nothing_for_at_or_cron() {
    if !offered() || !root_offered() || !subtree_offered() {
        return;
    }
    let machine = Machine::new();
    machine.open_to_all();
    let (program, spool) = (machine.path("queue"), machine.path("spool"));
    std::fs::create_dir(&spool).unwrap();
    // What a shell does of this itself it does without the group (bash(1), -p), so it is a program of one step.
    std::fs::copy("/usr/bin/touch", &program).unwrap();
    for (path, mode) in [(&program, 0o2755), (&spool, 0o730)] {
        std::os::unix::fs::chown(path, Some(0), Some(SPOOLERS)).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    for (option, job, expected) in [("--confine=no", "free", true), ("--confine", "shut", false)] {
        let mut run = machine.nobody(&[
            "run",
            "--session",
            job,
            option,
            "--",
            "sh",
            "-c",
            "\"$0\" \"$1\" && echo queued || echo held",
        ]);
        run.args([&program, &spool.join(job)]).stdin(Stdio::null());
        let output = run.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            (told.trim(), spool.join(job).exists()),
            (if expected { "queued" } else { "held" }, expected),
            "{output:?}"
        );
    }
    machine.expect_nothing_left();
}

#[test]
fn without_a_daemon_a_server_is_confined_as_the_configuration_says_or_does_not_run() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let run = |server: &str, options: &[&str], config: &str| {
        let path = machine.path("alone.toml");
        std::fs::write(&path, config).unwrap();
        // No daemon can be had where its socket has no directory, so none reads the configuration.
        let mut run =
            machine.pinfold(&["run", "--uncontained", "--socket", "/no/such/directory/pinfold.sock", "--server"]);
        run.arg(server).args(options).args(["--", "grep", "NoNewPrivs", "/proc/self/status"]);
        run.env("PINFOLD_CONFIG", path).stdin(Stdio::null()).output().unwrap()
    };
    let config = "[server]\nconfine = \"yes\"\n[[rule]]\nwhen.server = \"open\"\nserver.confine = \"no\"\n";
    for (server, options, config, expected) in [
        ("fs", &[][..], config, "1"),
        ("fs", &["--confine=no"], config, "1"),
        ("open", &[], config, "0"),
        ("open", &["--confine"], config, "1"),
        ("fs", &[], "", "0"),
    ] {
        let output = run(server, options, config);
        let (out, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(out.trim(), format!("NoNewPrivs:\t{expected}"), "{server} {options:?}: {told}");
        assert!(told.contains("RUNNING UNCONTAINED"), "{told}");
    }
    let output = run("fs", &[], "[server]\nconfined = 1\n");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{output:?}");
    assert!(
        told.lines().count() == 1 && told.contains("how it is to be confined") && told.contains("alone.toml:2"),
        "{told}"
    );
}

#[test]
fn a_confined_server_is_held_by_the_next_daemon_as_any_other() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = machine.run(&["--session", "s", "--confine"], "echo up; cat >/dev/null; exec sleep 1000");
    assert_eq!(server.line(), "up");
    machine.kill_daemon();
    machine.start();
    let seen = machine.session("s")["servers"][0].clone();
    assert_eq!((confine_of(&seen), &seen["stdin"], &seen["escaped"]), ("yes", &"watched".into(), &Value::Bool(false)));
    assert!(lives(server.pid()));
    let ended = end(&machine, &["s"]);
    assert_eq!(only_ended(&ended)["cause"], "requested");
    server.exit_status();
    machine.expect_nothing_left();
}

#[test]
fn what_runs_already_is_adopted_unconfined_and_says_so() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nconfine = \"yes\"\n");
    let mut stray = Command::new("sh").args(["-c", "read -r _; exit 0"]).stdin(Stdio::piped()).spawn().unwrap();
    let adopted = machine.ask(&["adopt", "--session", "s", &stray.id().to_string()]);
    assert!(adopted.status.success(), "{adopted:?}");
    let warned = eventually("it is shown", || {
        let server = machine.session("s")["servers"][0].clone();
        server["warnings"][0].as_str().map(str::to_owned).ok_or_else(|| server.to_string())
    });
    assert!(warned.contains("is not confined"), "{warned}");
    assert_eq!(confine_of(&machine.session("s")["servers"][0]), "no");
    stray.stdin.take().unwrap().write_all(b"\n").unwrap();
    stray.wait().unwrap();
    machine.expect_nothing_left();
}
