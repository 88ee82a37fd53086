//! Clients that say nothing, not enough, too much, or what is none of ours: each is told in one line, and harms nobody.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::hosts::{NOBODY, descriptors, status_field};
use crate::support::{DEADLINE, Launched, Machine, eventually, offered, root_offered, slowness};

/// How much more the daemon may hold of memory than before, in kB: its allocator keeps what it may use again.
const SLACK_KB: u64 = 16 << 10;

fn connect(machine: &Machine) -> UnixStream {
    let stream = UnixStream::connect(machine.socket()).unwrap();
    stream.set_read_timeout(Some(2 * DEADLINE * slowness())).unwrap();
    stream
}

/// The resident memory of the daemon, in kB.
fn resident(machine: &Machine) -> u64 {
    status_field(machine.daemon_pid(), "VmRSS").trim_end_matches(" kB").parse().unwrap()
}

/// Lines of the daemon's log with these words.
fn told(machine: &Machine, words: &str) -> usize {
    machine.log().lines().filter(|line| line.contains(words)).count()
}

/// Whatever a client does: others are answered at once, and when it is gone the daemon holds what it held before and has
/// told of it in one line that names this process.
#[track_caller]
fn expect_harmless(words: &str, client: impl FnOnce(&Machine) -> UnixStream) {
    let machine = Machine::new();
    let (daemon, own) = (machine.daemon_pid(), std::process::id());
    machine.warm_up();
    let (held, kilobytes) = (descriptors(daemon).len(), resident(&machine));
    let stream = client(&machine);
    let start = Instant::now();
    assert_eq!(machine.described()["pid"], daemon);
    assert!(machine.ask(&["run", "--", "true"]).status.success());
    // Before its patience with the client is over.
    assert!(start.elapsed() < Duration::from_secs(9) * slowness(), "{:?}", start.elapsed());
    drop(stream);
    eventually("it is told in one line", || match told(&machine, words) {
        1 => Ok(()),
        other => Err(format!("{other}: {}", machine.log())),
    });
    let own = format!("pid={own}");
    let log = machine.log();
    assert_eq!(log.lines().filter(|line| line.split(' ').any(|word| word == own)).count(), 1, "{log}");
    machine.expect_nothing_left();
    eventually("the daemon holds no more than before", || {
        let (open, now) = (descriptors(daemon), resident(&machine));
        if open.len() <= held && now <= kilobytes + SLACK_KB {
            return Ok(());
        }
        Err(format!("{} of {held} descriptors: {open:?}; {now} of {kilobytes} kB", open.len()))
    });
}

#[test]
fn a_client_that_connects_and_says_nothing_is_hung_up_on() {
    if !offered() {
        return;
    }
    expect_harmless("the client was silent for too long", |machine| {
        let mut other = connect(machine);
        // Others were answered meanwhile, as its own patience shows: this one waits until it is hung up on.
        assert_eq!(machine.described()["pid"], machine.daemon_pid());
        assert_eq!(other.read(&mut [0]).unwrap(), 0);
        other
    });
}

#[test]
fn a_client_that_says_half_a_message_is_not_waited_for_without_end() {
    if !offered() {
        return;
    }
    let half = |machine: &Machine| {
        let mut stream = connect(machine);
        stream.write_all(b"{\"method\":\"io.pinfold.Li").unwrap();
        stream
    };
    expect_harmless("the client hung up in the midst of a message", half);
    expect_harmless("the client was silent for too long", |machine| {
        let mut stream = half(machine);
        assert_eq!(machine.described()["pid"], machine.daemon_pid());
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        stream
    });
}

#[test]
fn of_a_message_of_100_megabytes_no_more_is_read_than_any_may_have() {
    if !offered() {
        return;
    }
    expect_harmless("a message is longer than", |machine| {
        let mut stream = connect(machine);
        let (piece, mut sent) = ([b'x'; 1 << 16], 0);
        while sent < 100 << 20 && stream.write_all(&piece).is_ok() {
            sent += piece.len();
        }
        assert!(sent < 10 << 20, "{sent} bytes were taken");
        stream
    });
}

#[test]
fn a_client_that_brings_1000_descriptors_leaves_none_of_them_in_the_daemon() {
    if !offered() {
        return;
    }
    expect_harmless("more descriptors came along than a message needs", |machine| {
        let nulls = |machine: &Machine| {
            descriptors(machine.daemon_pid()).iter().filter(|(_, target)| target == "/dev/null").count()
        };
        let (stream, before) = (connect(machine), nulls(machine));
        let file = std::fs::File::open("/dev/null").unwrap();
        let fds = vec![file.as_raw_fd(); 250];
        for part in [&b"{\"method\""[..], b":\"io.", b"pinfold", b".Li"] {
            let rights = [ControlMessage::ScmRights(&fds)];
            sendmsg::<()>(stream.as_raw_fd(), &[std::io::IoSlice::new(part)], &rights, MsgFlags::empty(), None)
                .unwrap();
        }
        eventually("they are closed although the client stays", || {
            // As many as a message may bring stay, while it is not whole.
            let kept = nulls(machine) - before;
            let told = told(machine, "more descriptors came along");
            if (told, kept) == (1, 3) { Ok(()) } else { Err(format!("{kept}: {}", machine.log())) }
        });
        (&stream).write_all(b"st\"}\0").unwrap();
        let mut byte = [1];
        while byte[0] != 0 {
            assert_eq!((&stream).read(&mut byte).unwrap(), 1, "it is answered");
        }
        stream
    });
}

#[test]
fn what_is_not_varlink_is_hung_up_on_and_harms_nobody() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut server = machine.run(&["--session", "s"], "exec cat");
    machine.leaf("s");
    let daemon = machine.daemon_pid();
    let before = descriptors(daemon).len();
    let nested = format!("{}{}\0", "[".repeat(20_000), "]".repeat(20_000));
    let bombs: [&[u8]; 9] = [
        b"\0",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n\0",
        b"{}\0",
        b"[1,2]\0",
        b"{\"method\":7}\0",
        b"{\"method\":\"io.pinfold.List\"\0",
        b"\xff\xfe\xfd\0",
        nested.as_bytes(),
        &[b'x'; 1 << 20],
    ];
    for bomb in bombs {
        assert_eq!(machine.send(bomb), b"", "{:?}", String::from_utf8_lossy(&bomb[..bomb.len().min(40)]));
    }
    // Half a message, and nothing more.
    for half in [&b""[..], b"{\"method\":\"io.pinfold.Li"] {
        let mut stream = UnixStream::connect(machine.socket()).unwrap();
        stream.write_all(half).unwrap();
        drop(stream);
    }
    // Two messages in one write, and one in two.
    let mut stream = UnixStream::connect(machine.socket()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
        .write_all(b"{\"method\":\"io.pinfold.List\"}\0{\"method\":\"io.pinfold.Describe\"}\0{\"method\":\"io.pin")
        .unwrap();
    stream.write_all(b"fold.Describe\"}\0").unwrap();
    let (mut replies, mut byte) = (0, [0]);
    while replies < 3 {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "after {replies} replies");
        replies += usize::from(byte[0] == 0);
    }
    drop(stream);
    assert_eq!(machine.described()["pid"], daemon);
    eventually("the daemon holds no more than before", || {
        let now = descriptors(daemon).len();
        if now <= before { Ok(()) } else { Err(format!("{now} of {before}")) }
    });
    assert!(status_field(daemon, "VmRSS").trim_end_matches(" kB").parse::<u64>().unwrap() < 100_000);
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 0);
    machine.expect_nothing_left();
}

#[test]
fn descriptors_that_nobody_asked_for_are_not_kept() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let daemon = machine.daemon_pid();
    let file = std::fs::File::open("/dev/null").unwrap();
    // What five connections cost that bring nothing along, and what five cost that do.
    let cost = |counts: [usize; 5]| {
        let mut streams = Vec::new();
        for count in counts {
            let mut stream = UnixStream::connect(machine.socket()).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let fds = vec![file.as_raw_fd(); count];
            // What a message may bring along is bounded, however many pieces it comes in.
            for part in [&b"{\"method\":"[..], b"\"io.pinfold.Describe\"", b"}\0"] {
                let rights = [ControlMessage::ScmRights(&fds)];
                let control = if count == 0 { &[][..] } else { &rights[..] };
                let bytes = [std::io::IoSlice::new(part)];
                sendmsg::<()>(stream.as_raw_fd(), &bytes, control, MsgFlags::empty(), None).unwrap();
            }
            let mut byte = [1];
            while byte[0] != 0 {
                assert_eq!(stream.read(&mut byte).unwrap(), 1, "{count} descriptors");
            }
            streams.push(stream);
        }
        let open = descriptors(daemon);
        drop(streams);
        open
    };
    let bare = cost([0; 5]).len();
    eventually("what they brought along is closed while they stay", || {
        let open = cost([1, 3, 4, 100, 253]);
        if open.len() <= bare { Ok(()) } else { Err(format!("{bare} before: {open:?}")) }
    });
    assert_eq!(machine.described()["pid"], daemon);
}

#[test]
fn a_crowd_that_connects_and_says_nothing_keeps_nobody_out() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let silent: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(machine.socket()).unwrap()).collect();
    assert!(machine.ask(&["run", "--", "true"]).status.success());
    drop(silent);
    machine.expect_nothing_left();
}

#[test]
fn one_user_who_holds_every_place_of_its_own_keeps_no_other_user_out() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    machine.open_to_all();
    let mut crowd = Command::new("python3");
    crowd.uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
    crowd.args(["-c", CROWD]).arg(machine.socket());
    let mut crowd = Launched::spawn(crowd);
    // More than are served for one user, and more than all users together once had.
    assert_eq!(crowd.line(), "700");
    let output = machine.pinfold(&["run", "--", "echo", "here"]).output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"here\n"[..]), "{output:?}");
    drop(crowd.child.stdin.take());
    assert_eq!(crowd.exit_status(), 0);
    machine.expect_nothing_left();
}

/// Opens connections and holds them until its stdin ends.
const CROWD: &str = "
import socket, sys
held = []
for _ in range(700):
    one = socket.socket(socket.AF_UNIX)
    one.connect(sys.argv[1])
    held.append(one)
print(len(held), flush=True)
sys.stdin.read()
";

#[test]
fn a_message_that_comes_in_drops_is_not_waited_for_without_end() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut stream = UnixStream::connect(machine.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let start = std::time::Instant::now();
    // One byte at a time, each well within any time for a single read.
    let hung_up = loop {
        let mut byte = [0];
        let ended = stream.write_all(b" ").is_err() || matches!(stream.read(&mut byte), Ok(0));
        if ended {
            break true;
        }
        if start.elapsed() > 2 * DEADLINE {
            break false;
        }
    };
    assert!(hung_up, "the daemon still listens after {:?}", start.elapsed());
    assert!(machine.ask(&["ls"]).status.success());
    machine.expect_nothing_left();
}
