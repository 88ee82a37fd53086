//! The socket under those who hold it and say nothing, or not enough.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::hosts::NOBODY;
use crate::support::{DEADLINE, Launched, Machine, offered, root_offered};

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
