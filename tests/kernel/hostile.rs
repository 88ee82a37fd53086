//! A hostile user beside others, who may speak to the daemon as the group `pinfold` may: it sees nothing, ends nothing, exhausts
//! nothing, and a launch beside it takes as long as anywhere.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pinfold::cgroup::{Above, Group, GroupPaths, Layout, Leaf, Membership, give_back};
use pinfold::naming::LeafName;
use serde_json::{Value, json};

use crate::hosts::{NOBODY, descriptors, status_field};
use crate::support::{DEADLINE, Launched, Machine, eventually, lives, offered, on_systemd, root_offered, slowness};

/// As many connections as it makes, each in one of the ways to be a burden; fewer where the machine is emulated.
fn connections() -> String {
    (10_000 / slowness()).to_string()
}

/// What one user may have open of connections, descriptors of each included, and what a daemon holds besides.
const DESCRIPTORS_MAX: usize = 3 * 2048 + 6144 + 512;

/// How much more memory the daemon may hold then, in kB.
const MEMORY_KB_MAX: u64 = 96 << 10;

/// A process of the user nobody that does what the script says until its stdin ends.
fn hostile(machine: &Machine, script: &str, arguments: &[&str]) -> Launched {
    let mut hostile = Command::new("python3");
    hostile.uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
    hostile.args(["-c", &format!("{TOOLS}{script}")]).arg(machine.socket()).args(arguments);
    Launched::spawn(hostile)
}

fn end(mut hostile: Launched) {
    drop(hostile.child.stdin.take());
    assert_eq!(hostile.exit_status(), 0);
}

/// What each script begins with.
const TOOLS: &str = r#"
import array, collections, json, os, resource, socket, struct, sys, threading, time
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
path = sys.argv[1]
null = os.open("/dev/null", os.O_RDONLY)

def connected():
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(20)
    one.connect(path)
    return one

def call(method, **more):
    return json.dumps({"method": "io.pinfold." + method, **more}).encode() + b"\0"

listener = socket.create_server(("127.0.0.1", 0))

def lingering():
    "A socket whose last close waits for an hour, and the other end of it."
    one = socket.create_connection(listener.getsockname())
    other, _ = listener.accept()
    one.setblocking(False)
    try:
        while True:
            one.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    return one, other

def pass_on(one, text, fds):
    one.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
"#;

/// Makes as many connections as it is told, each in one of eight ways to be a burden, and goes on making them.
const BURDEN: &str = r#"
room = max(64, hard - 1024)
held, others, slow = collections.deque(), [], []

def burden(kind):
    one = connected()
    if kind == 1:
        one.send(b'{"method":"io.pinfold.Li')
    elif kind == 2:
        one.send(call("Describe") * 200)
    elif kind == 3:
        one.send(call("Events", more=True))
    elif kind == 4:
        pass_on(one, b"{", [null] * 250)
    elif kind == 5 and len(others) < 64:
        stuck, other = lingering()
        others.append(other)
        # In a message that wants none of it; and in one that never ends. The last close is to be the daemon's.
        pass_on(one, b" ", [stuck.fileno()])
        stuck.close()
        one.send(call("Describe") if len(others) % 2 else b"{")
    elif kind == 6:
        one.send(call("List"))
        one.shutdown(socket.SHUT_WR)
    elif kind == 7:
        slow.append(one)
    return one

made = 0
def once():
    global made
    try:
        held.append(burden(made % 8))
    except OSError:
        pass
    made += 1
    while len(held) > room:
        held.popleft().close()
    if made % 64 == 0:
        for one in slow[-256:]:
            try:
                one.send(b" ", socket.MSG_DONTWAIT)
            except OSError:
                pass

while made < int(sys.argv[2]):
    once()
print(made, flush=True)
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
while not over.wait(0.005):
    once()
"#;

/// How long a launch takes.
#[track_caller]
fn launch(machine: &Machine) -> Duration {
    let start = Instant::now();
    let output = machine.ask(&["run", "--", "true"]);
    assert!(output.status.success(), "{output:?}");
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn resident(machine: &Machine) -> u64 {
    status_field(machine.daemon_pid(), "VmRSS").trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_user_who_makes_10_000_connections_of_every_bad_kind_slows_no_launch_of_another_and_leaves_nothing() {
    if !offered() || !root_offered() {
        return;
    }
    let (quiet, machine) = (Machine::new(), Machine::new());
    machine.open_to_all();
    quiet.warm_up();
    machine.warm_up();
    let (held, kilobytes) = (descriptors(machine.daemon_pid()).len(), resident(&machine));
    let mut crowd = hostile(&machine, BURDEN, &[&connections()]);
    let start = Instant::now();
    while start.elapsed() < 3 * DEADLINE * slowness() && !has_line(&mut crowd) {
        launch(&machine);
        let open = descriptors(machine.daemon_pid()).len();
        assert!(open < held + DESCRIPTORS_MAX, "{open} descriptors");
    }
    assert_eq!(crowd.line(), connections());
    // Side by side and in turn, so that what slows the machine slows both.
    let mut ratios = Vec::new();
    let within_twice = (0..6).any(|_| {
        let (mut usual, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..9 {
            usual.push(launch(&quiet));
            beside.push(launch(&machine));
        }
        let (usual, beside) = (median(usual), median(beside));
        ratios.push(beside.as_secs_f64() / usual.as_secs_f64());
        eprintln!("hostile: a launch takes {usual:?}, beside a hostile user {beside:?}: {:.2}", ratios.last().unwrap());
        beside <= 2 * usual
    });
    assert!(within_twice, "{ratios:?}");
    let (open, now) = (descriptors(machine.daemon_pid()).len(), resident(&machine));
    eprintln!("hostile: the daemon has {open} descriptors, {held} before; {now} kB, {kilobytes} kB before");
    assert!(open < held + DESCRIPTORS_MAX, "{open} descriptors");
    assert!(now < kilobytes + MEMORY_KB_MAX, "{now} kB, and {kilobytes} kB before");
    end(crowd);
    machine.expect_nothing_left();
    eventually("the daemon holds no more than before", || {
        let open = descriptors(machine.daemon_pid());
        if open.len() <= held { Ok(()) } else { Err(format!("{} of {held}: {open:?}", open.len())) }
    });
}

fn has_line(launched: &mut Launched) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout};
    let stdout = std::os::fd::AsFd::as_fd(launched.child.stdout.as_ref().unwrap());
    nix::poll::poll(&mut [PollFd::new(stdout, PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() > 0
}

/// Sends sockets whose close waits for an hour, in a message that does not want them, in one that never ends and as a pidfd; and
/// the same in other sockets, which are closed with these inside.
const LINGER: &str = r#"
kept = []
for nested in [False, True]:
    for text in [call("Describe"), b"{", call("Adopt", parameters={"pid": 1, "pidfd": 0})]:
        for _ in range(4):
            one = connected()
            pairs = [lingering(), lingering()]
            kept += [other for _, other in pairs]
            fds = [stuck.fileno() for stuck, _ in pairs]
            # While its message is not whole the daemon keeps it: so the last close is the daemon's.
            if nested:
                inner, outer = socket.socketpair()
                pass_on(outer, b"x", fds)
                pass_on(one, b" ", [inner.fileno()])
                inner.close()
            else:
                pass_on(one, b" ", fds)
            for stuck, _ in pairs:
                stuck.close()
            one.send(text)
            one.close()
print("sent", flush=True)
sys.stdin.read()
"#;

#[test]
fn a_descriptor_whose_close_waits_for_an_hour_holds_up_nobody() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    machine.open_to_all();
    machine.warm_up();
    let held = descriptors(machine.daemon_pid()).len();
    let mut sender = hostile(&machine, LINGER, &[]);
    assert_eq!(sender.line(), "sent");
    for _ in 0..5 {
        launch(&machine);
        assert_eq!(machine.described()["pid"], machine.daemon_pid());
    }
    machine.expect_nothing_left();
    // What the closes wait for is gone with the sender.
    end(sender);
    eventually("the daemon holds no more than before", || {
        let open = descriptors(machine.daemon_pid());
        if open.len() <= held { Ok(()) } else { Err(format!("{} of {held}: {open:?}", open.len())) }
    });
}

/// Opens connections for as long as it can, and holds them.
const HOLD: &str = r#"
held = []
for _ in range(int(sys.argv[2])):
    try:
        held.append(connected())
        pass_on(held[-1], b"{", [null] * 3)
    except OSError:
        pass
print("held", flush=True)
sys.stdin.read()
"#;

#[test]
fn a_daemon_with_few_descriptors_keeps_enough_of_them_for_others() {
    if !offered() || !root_offered() {
        return;
    }
    let mut machine = Machine::without_daemon();
    machine.through = ["prlimit", "--nofile=384:384"].map(Into::into).to_vec();
    machine.start();
    machine.open_to_all();
    let mut crowd = hostile(&machine, HOLD, &["1000"]);
    assert_eq!(crowd.line(), "held");
    let open = descriptors(machine.daemon_pid()).len();
    assert!(open < 384, "{open} descriptors");
    launch(&machine);
    let mut server = machine.run(&["--session", "s"], "exec cat");
    machine.leaf("s");
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 0);
    assert!(!machine.log().contains("cannot accept a connection"), "{}", machine.log());
    end(crowd);
    machine.expect_nothing_left();
}

/// Asks for all that can be asked for of others, and prints the answers.
const PRY: &str = r#"
pid = int(sys.argv[2])
asked = [("List", {}), ("Status", {"session": "s"}), ("Locate", {"pid": pid}), ("Events", {}), ("History", {}),
         ("End", {"session": "s", "now": True, "wait": True}), ("End", {"all": True, "now": True, "wait": True}),
         ("End", {"owner_pid": pid, "now": True}), ("Label", {"pid": pid, "labels": {"a": "b"}}),
         ("Adopt", {"pid": pid}), ("NotExecuted", {"errno": 1}), ("Reload", {"force": True})]
for method, parameters in asked:
    one = connected()
    one.send(call(method, parameters=parameters))
    reply = b""
    while not reply.endswith(b"\0"):
        part = one.recv(65536)
        if not part:
            break
        reply += part
    print(method, reply.rstrip(b"\0").decode(), flush=True)
print("asked", flush=True)
sys.stdin.read()
"#;

#[test]
fn another_user_sees_and_ends_nothing_whatever_it_asks_for() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    machine.open_to_all();
    let mut server = machine.run(&["--session", "s", "--server", "hidden"], "exec cat");
    let leaf = machine.leaf("s");
    let mut prying = hostile(&machine, PRY, &[&server.pid().to_string()]);
    let mut answers = Vec::new();
    loop {
        let line = prying.line();
        if line == "asked" || line.is_empty() {
            break;
        }
        answers.push(line);
    }
    assert_eq!(answers.len(), 12, "{answers:?}");
    for answer in &answers {
        let (method, reply) = answer.split_once(' ').unwrap();
        assert!(!reply.contains("hidden") && !reply.contains(leaf.to_str().unwrap()), "{answer}");
        let reply: Value = serde_json::from_str(reply).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let refused = reply["error"].is_string();
        match method {
            "List" => assert_eq!(reply["parameters"]["sessions"], json!([]), "{answer}"),
            "Events" => assert_eq!(reply["parameters"]["events"], json!([]), "{answer}"),
            "Status" => assert!(refused || reply["parameters"]["sessions"] == json!([]), "{answer}"),
            "End" => assert!(refused || reply["parameters"]["ended"] == json!([]), "{answer}"),
            "History" => assert!(refused || reply["parameters"]["ends"] == json!([]), "{answer}"),
            _ => assert!(refused, "{answer}"),
        }
    }
    end(prying);
    assert_eq!(machine.leaf("s"), leaf, "it lives");
    assert_eq!(machine.session("s")["servers"][0]["labels"].as_object().map_or(0, |labels| labels.len()), 0);
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 0);
    machine.expect_nothing_left();
}

#[test]
fn a_daemon_does_not_start_where_others_could_turn_the_way_to_its_files() {
    if !offered() {
        return;
    }
    let machine = Machine::without_daemon();
    let directory = machine.socket().parent().unwrap().to_owned();
    let set = |mode| std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o777, 0o1777] {
        set(mode);
        let mut daemon = machine.serve().spawn().unwrap();
        let status = eventually("it gives up", || daemon.try_wait().unwrap().ok_or("it runs".to_owned()));
        assert!(!status.success());
        let log = machine.log();
        assert!(log.contains("is no place for the files of a daemon") && log.contains("--socket"), "{log}");
    }
    set(0o700);
    let left: Vec<_> = std::fs::read_dir(&directory).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["serve.log"], "nothing was made there");
}

/// A leaf of the daemon's, as another part of pinfold would hold it.
fn held(layout: &Layout, path: &Path) -> Leaf {
    let open = |path: &Path| Group::open(&GroupPaths { v2: path.to_owned(), memory: None, pids: None }).unwrap();
    let session = path.parent().unwrap();
    let above =
        Above { session: Arc::new(open(session)), machine: Arc::new(open(session.parent().unwrap())), scope: None };
    let name = LeafName::parse(path.file_name().unwrap().to_str().unwrap()).unwrap();
    Leaf::new(name, open(path), above, layout.v2().cgroup(path).unwrap())
}

#[test]
fn who_came_into_a_leaf_by_the_number_of_one_that_is_gone_goes_back_and_who_was_born_there_stays() {
    if !offered() || !root_offered() || on_systemd() {
        return;
    }
    let machine = Machine::new();
    let mut server = machine.run(&["--session", "s"], "sleep 1000 & echo $!; cat; kill $!");
    let (native, path) = (server.number(), machine.leaf("s"));
    let layout = Layout::detect().unwrap();
    let leaf = held(&layout, &path);
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let number = stranger.id() as i32;
    let home = Membership::of(number).unwrap();
    std::fs::write(path.join("cgroup.procs"), number.to_string()).unwrap();
    assert!(leaf.holds(&Membership::of(number).unwrap()));
    assert!(give_back(&layout, &leaf, number));
    assert_eq!(Membership::of(number).unwrap(), home);
    assert!(!give_back(&layout, &leaf, number), "a second time there is nothing to do");
    assert!(!give_back(&layout, &leaf, native));
    assert!(leaf.holds(&Membership::of(native).unwrap()));
    stranger.kill().unwrap();
    // Not waited for, it has its number still, and is nobody to move.
    eventually("it is gone", || if lives(number) { Err("it lives".to_owned()) } else { Ok(()) });
    assert!(!give_back(&layout, &leaf, number));
    stranger.wait().unwrap();
    drop(server.child.stdin.take());
    server.exit_status();
    machine.expect_nothing_left();
}
