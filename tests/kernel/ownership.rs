//! Whose a server is: sessions and their names, owners and their deaths, and who may see and end what.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::hosts::{NOBODY, expect_gone, lines, server_names, waits_for_an_answer};
use crate::support::{Launched, Machine, eventually, lives, offered, on_systemd, processes, root_offered, signal};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Ids as hosts might make them.
fn odd_ids() -> Vec<String> {
    let mut ids: Vec<String> = [
        "a b",
        " ",
        "/",
        "..",
        "../../etc/passwd",
        "a/b/c",
        ".",
        "line\nbreak",
        "\t\x1b[31m",
        "🦊",
        "é",
        "%s$(id)`id`;'\"",
        "*",
        "pinfold",
        "-x",
        "--all",
        "A",
        "a",
    ]
    .map(str::to_owned)
    .to_vec();
    ids.push("x".repeat(200));
    ids.push("🦊".repeat(50));
    ids
}

#[test]
fn a_session_may_be_called_anything_that_is_text_of_up_to_200_bytes() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let ids = odd_ids();
    let mut servers: Vec<Launched> = Vec::new();
    for id in &ids {
        let option = format!("--session={id}");
        let mut server =
            machine.run(&[&option], "printf '%s' \"$PINFOLD_SESSION\" | od -An -v -tx1 | tr -d ' \\n'; echo; exec cat");
        let hex: String = id.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(server.line(), hex, "{id:?} in the server's environment");
        servers.push(server);
    }
    let sessions = machine.sessions();
    let listed: BTreeSet<&str> = sessions.iter().map(|session| session["id"].as_str().unwrap()).collect();
    assert_eq!(listed, ids.iter().map(String::as_str).collect());
    let leaves: BTreeSet<PathBuf> =
        sessions.iter().map(|session| PathBuf::from(session["servers"][0]["cgroup"].as_str().unwrap())).collect();
    assert_eq!(leaves.len(), ids.len(), "each has a leaf of its own");
    for leaf in &leaves {
        assert!(leaf.starts_with(machine.tree()) && processes(leaf).len() == 1, "{leaf:?}");
    }
    let table = machine.ask(&["ls"]);
    assert_eq!(text(&table.stdout).lines().count(), ids.len() + 1, "no id forges a line: {table:?}");
    for (id, server) in ids.iter().zip(&mut servers) {
        let output = machine.ask(&["status", "--json", "--", id]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found[0]["servers"][0]["leader_pid"], server.pid(), "{id:?}");
        let output = machine.ask(&["end", "--json", "--", id]);
        let ended: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (ended["ended"].as_array().unwrap().len(), &ended["ended"][0]["session"]),
            (1, &Value::from(id.as_str()))
        );
        assert_eq!(server.exit_status(), 128 + 15, "{id:?}");
    }
    machine.expect_nothing_left();
}

#[test]
fn what_is_no_session_id_is_a_usage_error() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let long = "x".repeat(201);
    for id in [&b""[..], long.as_bytes(), b"\xff\xfe"] {
        let mut run = machine.pinfold(&["run", "--session"]);
        run.arg(std::ffi::OsStr::from_bytes(id)).args(["--", "echo", "ran"]);
        let output = run.stdin(Stdio::null()).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(125), String::new()), "{output:?}");
        assert!(!output.stderr.is_empty());
    }
    for arguments in [&["end", ""][..], &["end", "--server", "no-slash"], &["status", ""], &["end"]] {
        assert_eq!(machine.ask(arguments).status.code(), Some(2), "{arguments:?}");
    }
    // The daemon does not rely on its clients.
    let launch = serde_json::json!({ "session": long, "server": "x", "argv": [] });
    assert_eq!(machine.call("io.pinfold.Launch", &launch)["error"], "org.varlink.service.InvalidParameter");
    machine.expect_nothing_left();
}

#[test]
fn the_variable_names_the_session_where_no_option_does() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let run = |options: &[&str], value: &str| {
        let mut run = machine.pinfold(&["run"]);
        run.args(options).args(["--", "sh", "-c", "echo $PINFOLD_SESSION"]).env("PINFOLD_SESSION", value);
        run.stdin(Stdio::null()).output().unwrap()
    };
    assert_eq!(text(&run(&[], "from the host").stdout), "from the host\n");
    assert_eq!(text(&run(&["--session", "s"], "from the host").stdout), "s\n");
    assert!(text(&run(&[], "").stdout).contains('-'), "an empty variable is none");
    let refused = run(&[], &"x".repeat(201));
    assert_eq!((refused.status.code(), text(&refused.stdout)), (Some(125), String::new()));
    assert!(lines(&refused).len() == 1 && lines(&refused)[0].contains("unset it"), "{refused:?}");
    machine.expect_nothing_left();
}

#[test]
fn claude_codes_own_variable_names_its_session() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut command =
        machine.host_command("claude", "launch --server one -- sleep 1000; launch --server two -- sleep 1000");
    command.env("CLAUDE_CODE_SESSION_ID", "5e55-10n");
    let mut host = Launched::spawn(command);
    let servers = [host.number(), host.number()];
    let session = two_servers(&machine, "5e55-10n");
    assert_eq!((&session["host"], &session["owner_pid"]), (&Value::from("claude-code"), &Value::from(host.pid())));
    let mut leaders: Vec<_> = session["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|server| server["leader_pid"].as_i64().unwrap() as i32)
        .collect();
    leaders.sort_unstable();
    assert_eq!(leaders, servers);
    // A host that leaves of its own accord is gone as well.
    drop(host.child.stdin.take());
    assert_eq!(host.exit_status(), 1);
    servers.into_iter().for_each(expect_gone);
    machine.expect_nothing_left();
}

/// The session with this id, once it has two running servers.
#[track_caller]
fn two_servers(machine: &Machine, id: &str) -> Value {
    eventually(&format!("two servers of {id}"), || {
        let session = machine.session(id);
        let running =
            session["servers"].as_array().unwrap().iter().filter(|server| server["state"] == "running").count();
        if running == 2 { Ok(session) } else { Err(session.to_string()) }
    })
}

/// Waits until this process is the leader of a running server, and gives its session.
#[track_caller]
pub fn session_of(machine: &Machine, leader: i32) -> Value {
    eventually(&format!("process {leader} runs a server"), || {
        let sessions = machine.sessions();
        let leads = |session: &&Value| {
            let mut servers = session["servers"].as_array().unwrap().iter();
            servers.any(|server| server["leader_pid"] == leader && server["state"] == "running")
        };
        sessions.iter().find(leads).cloned().ok_or_else(|| format!("{sessions:?} {}", machine.log()))
    })
}

#[test]
fn a_host_that_is_one_process_without_an_id_is_itself_the_session() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = "launch --server one -- sleep 1000; launch --server two -- sleep 1000";
    let mut first = machine.host_command("codex", script);
    // Started from a terminal of Claude Code: its session is not Codex's.
    first.env("CLAUDE_CODE_SESSION_ID", "claudes");
    let (mut first, mut second) = (Launched::spawn(first), machine.host("codex", script));
    let servers: Vec<i32> =
        [&mut first, &mut second].into_iter().flat_map(|host| [host.number(), host.number()]).collect();
    let sessions: Vec<Value> = servers.iter().map(|server| session_of(&machine, *server)).collect();
    assert_eq!(
        (&sessions[0]["id"], &sessions[2]["id"]),
        (&sessions[1]["id"], &sessions[3]["id"]),
        "one host, one session"
    );
    assert_ne!(sessions[0]["id"], sessions[2]["id"], "two hosts, two sessions");
    for (session, host) in [(&sessions[1], &first), (&sessions[3], &second)] {
        assert!(session["id"].as_str().unwrap().starts_with(&format!("codex-{}-", host.pid())), "{session}");
        assert_eq!((&session["host"], &session["owner_pid"]), (&Value::from("codex"), &Value::from(host.pid())));
    }
    // One dies; the other's servers are none of its.
    signal(first.pid(), Signal::SIGKILL);
    servers[..2].iter().copied().for_each(expect_gone);
    assert!(lives(servers[2]) && lives(servers[3]));
    eventually("its session is gone", || {
        let sessions = machine.sessions();
        if sessions.len() == 1 { Ok(()) } else { Err(format!("{sessions:?}")) }
    });
    assert!(lives(servers[2]) && lives(servers[3]), "{}", machine.log());
    drop(second);
    machine.expect_nothing_left();
}

#[test]
fn openclaws_gateway_owns_what_its_helper_processes_launch() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let dist = machine.path("openclaw/dist");
    std::fs::create_dir_all(dist.join("process/supervisor")).unwrap();
    std::fs::create_dir_all(dist.join("process/spawn-broker")).unwrap();
    let node = machine.shell_named("node").display().to_string();
    // gateway → broker → relay → anchor → launcher, as OpenClaw 2026.9 does it; each is a process that stays.
    let helpers = [
        ("process/spawn-broker/worker.js", "process/supervisor/service-child-relay.js"),
        ("process/supervisor/service-child-relay.js", "process/supervisor/service-child-group-anchor.js"),
    ];
    for (helper, next) in helpers {
        let script = format!("{node} {} <&0 &\nwait $!\n", dist.join(next).display());
        std::fs::write(dist.join(helper), script).unwrap();
    }
    let launch = "echo $$; \"$PINFOLD\" run -- sleep 1000 <\"$FIFO.$GATEWAY\" 9>&- &\necho $!; wait $!\n";
    std::fs::write(dist.join("process/supervisor/service-child-group-anchor.js"), launch).unwrap();
    let broker = format!("export GATEWAY=$$; {node} {} 9>&- &", dist.join("process/spawn-broker/worker.js").display());
    let mut gateway = machine.host("openclaw-gateway", &broker);
    let (anchor, server) = (gateway.number(), gateway.number());
    let session = session_of(&machine, server);
    assert_eq!(session["owner_pid"], gateway.pid(), "{session}");
    assert_eq!(session["host"], "openclaw");
    assert!(session["id"].as_str().unwrap().starts_with(&format!("connection-{server}-")), "{session}");
    let parent = std::fs::read_to_string(format!("/proc/{server}/stat")).unwrap();
    assert_eq!(parent.rsplit_once(')').unwrap().1.split_whitespace().nth(1), Some(anchor.to_string().as_str()));
    signal(gateway.pid(), Signal::SIGKILL);
    expect_gone(server);
    eventually("the owner's end is the cause", || {
        let log = machine.log();
        if log.contains("cause=\"owner_gone\"") { Ok(()) } else { Err(log) }
    });
    // The helpers were waiting for the server, and leave now.
    expect_gone(anchor);
    machine.expect_nothing_left();
}

/// A configuration in which no ancestor of a test can be a known host.
fn no_hosts() -> String {
    let names = ["openclaw", "claude-code", "codex", "goose", "opencode", "zed", "cursor", "vscode", "gemini-cli"];
    names.map(|name| format!("[[host]]\nname = \"{name}\"\ncommands = [\"none-of-{name}\"]\n")).concat()
}

#[test]
fn a_launch_that_nobody_names_is_a_session_of_its_own_and_its_parents() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config(&no_hosts());
    let mut host = machine.host("something", "launch -- sleep 1000; launch -- sleep 1000");
    let servers = [host.number(), host.number()];
    let ids = servers.map(|server| {
        let session = session_of(&machine, server);
        assert!(session["id"].as_str().unwrap().starts_with(&format!("connection-{server}-")), "{session}");
        assert_eq!((&session["host"], &session["owner_pid"]), (&Value::Null, &Value::from(host.pid())));
        session["id"].clone()
    });
    assert_ne!(ids[0], ids[1]);
    let output = machine.ask(&["end", "--owner", &host.pid().to_string(), "--json"]);
    let ended: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ended["ended"].as_array().unwrap().len(), 2, "{ended}");
    servers.into_iter().for_each(expect_gone);
    assert!(lives(host.pid()), "the owner itself is nobody's to end");
    drop(host);
    machine.expect_nothing_left();
}

#[test]
fn a_launch_from_inside_a_leaf_gets_a_sibling_leaf_of_the_same_session() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = "\"$PINFOLD\" run --server inner -- sleep 1000 <&0 & echo $!; \
        PINFOLD_SESSION=other \"$PINFOLD\" run --server forger -- sleep 1000 <&0 & echo $!; \
        \"$PINFOLD\" run --session other -- echo ran; echo $?; \
        env -u PINFOLD_SESSION \"$PINFOLD\" run --session s -- echo same; exec cat";
    let mut run = machine.pinfold(&["run", "--session", "s", "--server", "outer", "--", "sh", "-c", script]);
    machine.point_here(&mut run);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut outer = Launched::spawn(run);
    let inner = [outer.number(), outer.number()];
    assert_eq!(outer.line(), "125", "another session is refused");
    assert_eq!(outer.line(), "same", "its own may be named");
    let session = eventually("both are launched", || {
        let session = machine.session("s");
        if server_names(&session).len() == 3 { Ok(session) } else { Err(session.to_string()) }
    });
    assert_eq!(machine.sessions().len(), 1);
    let directory = PathBuf::from(session["cgroup"].as_str().unwrap());
    let (mut leaders, mut above) = (BTreeSet::new(), BTreeSet::new());
    for server in session["servers"].as_array().unwrap() {
        let leaf = PathBuf::from(server["cgroup"].as_str().unwrap());
        assert!(leaf.starts_with(&directory), "{leaf:?}");
        above.extend(leaf.parent().map(PathBuf::from));
        let leader = server["leader_pid"].as_i64().unwrap() as i32;
        leaders.insert(leader);
        eventually("each leader is alone in its leaf", || {
            let inside = processes(&leaf);
            if inside == [leader] { Ok(()) } else { Err(format!("{inside:?}, led by {leader}")) }
        });
    }
    assert_eq!(leaders, BTreeSet::from([outer.pid(), inner[0], inner[1]]));
    assert_eq!(above.len(), 1, "siblings: {above:?}");
    assert!(machine.ask(&["end", "s"]).status.success());
    assert_eq!(outer.exit_status(), 128 + 15);
    let told = outer.stderr();
    assert!(told.contains("comes from inside session s and cannot join session other"), "{told}");
    inner.into_iter().for_each(expect_gone);
    machine.expect_nothing_left();
}

#[test]
fn from_inside_a_session_only_that_session_can_be_ended() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut other = machine.run(&["--session", "other"], "exec cat");
    let leaf = machine.leaf("other");
    let script = "\"$PINFOLD\" end other; echo $?; \"$PINFOLD\" end --owner \"$OWNER\" --no-wait >/dev/null; echo $?; \
        trap '' TERM; \"$PINFOLD\" end --all --no-wait >/dev/null; echo $?; while read -r _; do :; done";
    // The sibling shares the owner and the session; the other shares the owner only.
    let mut sibling = machine.run(&["--session", "s", "--server", "sibling"], "exec sleep 1000");
    machine.leaf("s");
    let mut run =
        machine.pinfold(&["run", "--session", "s", "--server", "inside", "--grace", "100ms", "--", "sh", "-c", script]);
    machine.point_here(&mut run);
    let owner = machine.session("other")["owner_pid"].to_string();
    run.env("OWNER", owner).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut inside = Launched::spawn(run);
    assert_eq!(inside.line(), "1", "the other session is refused");
    assert_eq!(sibling.exit_status(), 128 + 15, "its own session ends, for what of its owner is there");
    assert!([128 + 9, 128 + 15].contains(&inside.exit_status()));
    assert!(inside.stderr().contains("only that session can be ended"));
    eventually("only the other is left", || {
        let sessions = machine.sessions();
        if sessions.len() == 1 { Ok(()) } else { Err(format!("{sessions:?}")) }
    });
    assert_eq!(processes(&leaf), [other.pid()], "{}", machine.log());
    assert_eq!(machine.session("other")["state"], "running");
    assert!(machine.ask(&["end", "other"]).status.success());
    other.exit_status();
    machine.expect_nothing_left();
}

#[test]
fn a_caller_that_is_gone_before_it_is_looked_at_ends_nothing() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = machine.run(&["--session", "other"], "exec cat");
    machine.leaf("other");
    // A process of another session asks, and is reaped before the daemon can tell from where it asked.
    signal(machine.daemon_pid(), Signal::SIGSTOP);
    let mut run = machine.pinfold(&["end", "--all", "--now", "--no-wait"]);
    let mut asking = run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("it has asked and waits", || waits_for_an_answer(asking.id() as i32));
    asking.kill().unwrap();
    asking.wait().unwrap();
    signal(machine.daemon_pid(), Signal::SIGCONT);
    machine.described();
    assert_eq!(machine.session("other")["state"], "running", "{}", machine.log());
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 0);
    machine.expect_nothing_left();
    machine.stop_daemon();
}

#[test]
fn what_a_killed_host_owned_ends_and_the_cause_is_its_owner() {
    if !offered() {
        return;
    }
    // Stdin hangs up in the same moment, and would have its own, long patience.
    let machine = Machine::with_config("[server]\nstdin_grace = \"60s\"\ngrace = \"5s\"");
    let mut kept = machine.host("claude", "launch --session a -- sleep 1000");
    let kept_server = kept.number();
    session_of(&machine, kept_server);
    for _ in 0..5 {
        let script = "launch --session a -- sh -c 'setsid sleep 1000 & wait'; launch --session b -- sleep 1000";
        let mut host = machine.host("claude", script);
        let servers = [host.number(), host.number()];
        let sessions = servers.map(|server| session_of(&machine, server));
        assert_eq!(sessions[1]["servers"][0]["stdin"], "watched");
        signal(host.pid(), Signal::SIGKILL);
        servers.into_iter().for_each(expect_gone);
        eventually("one session is left", || {
            let sessions = machine.sessions();
            let left = sessions.iter().map(|session| session["servers"].as_array().unwrap().len()).sum::<usize>();
            if left == 1 { Ok(()) } else { Err(format!("{sessions:?}")) }
        });
        let told = host.stderr();
        assert_eq!(told.matches("the process that owned it is gone").count(), 2, "{told}\n{}", machine.log());
    }
    assert!(lives(kept_server), "another owner's server in the same session lives");
    signal(kept.pid(), Signal::SIGKILL);
    expect_gone(kept_server);
    machine.expect_nothing_left();
}

#[test]
fn a_host_whose_stdin_pipe_was_closed_a_moment_before_its_death_is_still_the_cause() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nstdin_grace = \"60s\"\ngrace = \"5s\"");
    let mut host = machine.host("claude", "launch --session s -- sleep 1000\nread -r _; exec 9>&-; kill -KILL $$");
    let server = host.number();
    session_of(&machine, server);
    std::io::Write::write_all(host.child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    expect_gone(server);
    assert!(host.stderr().contains("the process that owned it is gone"), "{}", machine.log());
    machine.expect_nothing_left();
}

#[test]
fn the_daemons_socket_is_for_its_user_alone() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    let group = nix::unistd::Group::from_name("pinfold").unwrap().is_some();
    eventually("the socket has its mode", || {
        let mode = std::fs::metadata(machine.socket()).unwrap().permissions().mode() & 0o777;
        // At no moment others may do more than they will.
        assert!([0o600, 0o660].contains(&mode), "{mode:o}");
        if mode == if group { 0o660 } else { 0o600 } { Ok(()) } else { Err(format!("{mode:o}")) }
    });
    for arguments in [&["ls"][..], &["end", "--all"], &["status", "--pid", "1"]] {
        let output = machine.nobody(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(lines(&output)[0].contains("may not speak to the daemon"), "{output:?}");
        let way_in =
            if group { "join the group `pinfold`" } else { "groupadd --system pinfold && usermod -aG pinfold " };
        assert!(lines(&output)[0].contains(way_in), "{output:?}");
    }
    let output = machine.nobody(&["run", "--", "echo", "ran"]).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(125), String::new()), "{output:?}");
    assert!(lines(&output).len() == 1 && lines(&output)[0].contains("may not speak"), "{output:?}");
    machine.expect_nothing_left();
}

#[test]
fn a_user_sees_and_ends_own_sessions_only_and_root_all() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    machine.open_to_all();
    let mut roots = machine.run(&["--session", "shared"], "exec cat");
    let roots_leaf = machine.leaf("shared");
    let mut run = machine.nobody(&["run", "--session", "shared", "--", "sh", "-c", "id -u; exec sleep 1000"]);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut users = Launched::spawn(run);
    assert_eq!(users.number(), NOBODY as i32);
    let ask = |arguments: &[&str]| machine.nobody(arguments).output().unwrap();
    let seen = |output: std::process::Output| -> Vec<Value> { serde_json::from_slice(&output.stdout).unwrap() };
    let own = seen(ask(&["ls", "--json"]));
    assert_eq!(
        (own.len(), &own[0]["uid"], &own[0]["servers"][0]["leader_pid"]),
        (1, &NOBODY.into(), &users.pid().into())
    );
    let leaf = PathBuf::from(own[0]["servers"][0]["cgroup"].as_str().unwrap());
    assert_eq!(processes(&leaf), [users.pid()]);
    // Equal ids of two users are two sessions; root sees both.
    assert_eq!(machine.sessions().len(), 2);
    assert_eq!(ask(&["status", "--pid", &roots.pid().to_string()]).status.code(), Some(1));
    assert!(ask(&["status", "--pid", &users.pid().to_string()]).status.success());
    let owner = own[0]["owner_pid"].to_string();
    for arguments in [&["end", "shared"][..], &["end", "--owner", &owner], &["end", "--all", "--now"]] {
        let output = ask(arguments);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(processes(&roots_leaf), [roots.pid()], "{arguments:?}: root's is out of reach");
    }
    assert_eq!(users.exit_status(), 128 + 15);
    assert_eq!(machine.session("shared")["state"], "running");
    // Root may end a user's.
    let mut run = machine.nobody(&["run", "--session", "users", "--", "sleep", "1000"]);
    run.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut users = Launched::spawn(run);
    machine.leaf("users");
    assert!(machine.ask(&["end", "users"]).status.success());
    assert_eq!(users.exit_status(), 128 + 15);
    drop(roots.child.stdin.take());
    assert_eq!(roots.exit_status(), 0);
    machine.expect_nothing_left();
}

#[test]
fn a_contained_user_cannot_write_the_leaf_that_holds_it() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    machine.open_to_all();
    let mut run = machine.nobody(&["run", "--session", "s", "--", "sh", "-c"]);
    let script = "read -r leaf; for file in cgroup.procs cgroup.kill ../cgroup.procs ../../cgroup.procs; do \
        (echo 0 > \"$leaf/$file\") 2>/dev/null && echo \"wrote $file\"; done; mkdir \"$leaf/x\" 2>/dev/null && echo made; echo done";
    run.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Launched::spawn(run);
    let leaf = machine.leaf("s");
    std::io::Write::write_all(server.child.stdin.as_mut().unwrap(), format!("{}\n", leaf.display()).as_bytes())
        .unwrap();
    assert_eq!(server.line(), "done");
    assert_eq!(server.exit_status(), 0);
    machine.expect_nothing_left();
}

#[test]
fn a_user_who_may_write_no_cgroup_is_told_what_to_change() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let directory = machine.path("own");
    std::fs::create_dir(&directory).unwrap();
    std::os::unix::fs::chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
    let run = |options: &[&str]| {
        let mut run = machine.nobody(&["run"]);
        run.args(options).args(["--", "echo", "ran"]).env("PINFOLD_SOCKET", directory.join("pinfold.sock"));
        run.env_remove("PINFOLD_CONFIG").output().unwrap()
    };
    let output = run(&[]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(125), String::new()), "{output:?}");
    let told = lines(&output);
    let remedy =
        if on_systemd() { "loginctl enable-linger" } else { "run pinfold as root, or in a cgroup that is delegated" };
    assert!(told.len() == 1 && told[0].contains(remedy), "{told:?}");
    let output = run(&["--uncontained"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "ran\n"), "{output:?}");
    assert!(machine.cgroups().is_empty());
}
