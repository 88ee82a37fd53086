//! Servers that are confined: the ways out of a leaf, each tried by a server that is not confined and by one that is.

use std::io::Write;
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

/// What of these attempts got out.
fn got_out(server: &mut Launched) -> Vec<String> {
    let mut out = Vec::new();
    loop {
        let line = server.line();
        match line.split_once(' ') {
            _ if line == "done" => break out,
            Some((name, "out")) => out.push(name.to_owned()),
            Some((_, "held")) => {}
            _ => panic!("{line:?}"),
        }
    }
}

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
    let unconfined = got_out(&mut free);
    assert!(unconfined.contains(&"gains-rights".to_owned()), "{unconfined:?}");
    if is_root() {
        for name in ["makes-a-cgroup", "moves-to-the-root", "mounts-it-writable"] {
            assert!(unconfined.contains(&name.to_owned()), "{name}: {unconfined:?}");
        }
    }
    let mut confined = machine.run(&["--session", "c", "--server", "shut", "--confine=strict"], &script);
    let pid = confined.pid();
    assert_eq!(got_out(&mut confined), [""; 0]);
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
    let mut out = Vec::new();
    let last = loop {
        let line = server.line();
        if line == "done" {
            break server.line();
        }
        out.extend(line.strip_suffix(" out").map(str::to_owned));
    };
    assert_eq!((out, last), (Vec::<String>::new(), NOBODY.to_string()));
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

#[test]
fn what_a_confined_server_launches_stands_beside_it_and_is_confined_too() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let nested = "\"$PINFOLD\" run --server inner --confine=no -- sh -c 'echo inner; exec cat' <&8 & wait";
    let mut run = machine.pinfold(&["run", "--session", "s", "--server", "outer", "--confine", "--", "sh", "-c"]);
    machine.point_here(&mut run);
    run.arg(format!("mkfifo f.$$; exec 8<>f.$$; rm f.$$; {nested}")).current_dir(machine.path("."));
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut outer = Launched::spawn(run);
    assert_eq!(outer.line(), "inner", "{}", machine.log());
    let session = machine.session("s");
    let servers = session["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 2, "{session}");
    for server in servers {
        assert_eq!((confine_of(server), &server["escaped"]), ("yes", &Value::Bool(false)), "{server}");
    }
    end(&machine, &["s"]);
    machine.expect_nothing_left();
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
