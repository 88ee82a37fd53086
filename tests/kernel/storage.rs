//! Where the daemon's records stand there is no more room, or nothing may be written.

use std::path::PathBuf;
use std::process::Command;

use crate::servers::{end, only_ended};
use crate::support::{Machine, is_root, offered, pass_over};

/// A small filesystem of its own where a machine's records are.
struct Disk(PathBuf);

impl Disk {
    #[track_caller]
    fn below(machine: &Machine) -> Self {
        let path = machine.path("pinfold.sock.d");
        std::fs::create_dir(&path).unwrap();
        let disk = Self(path);
        disk.mount(&["-t", "tmpfs", "-o", "size=64k,mode=0700", "none"]);
        disk
    }

    #[track_caller]
    fn mount(&self, options: &[&str]) {
        let output = Command::new("mount").args(options).arg(&self.0).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Leaves no byte free.
    #[track_caller]
    fn fill(&self) {
        let error = std::fs::write(self.0.join("filler"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    #[track_caller]
    fn clear(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

/// With a machine that has a disk, and a server that was launched while all was well.
fn with_disk(test: impl FnOnce(&mut Machine, &Disk)) {
    if !offered() {
        return;
    }
    if !is_root() {
        return pass_over("only root mounts");
    }
    let mut machine = Machine::without_daemon();
    let disk = Disk::below(&machine);
    machine.start();
    test(&mut machine, &disk);
    machine.expect_nothing_left();
    machine.stop_daemon();
    drop(disk);
}

/// A launch that is refused, because what must outlive the daemon cannot be written down.
#[track_caller]
fn expect_refused(machine: &Machine, why: &str) {
    let output = machine.ask(&["run", "--session", "s", "--", "echo", "ran"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(125), &b""[..]), "{told}");
    assert!(told.contains(why) && told.contains("pinfold.sock.d") && told.lines().count() == 1, "{told}");
}

#[test]
fn on_a_full_disk_launches_are_refused_and_what_lives_lives_on_and_is_ended() {
    with_disk(|machine, disk| {
        let mut old = machine.run(&["--session", "old"], "echo up; exec cat");
        assert_eq!(old.line(), "up");
        disk.fill();
        expect_refused(machine, "No space left on device");
        machine.kill_daemon();
        machine.start();
        expect_refused(machine, "No space left on device");
        let pids: Vec<_> = machine.sessions().iter().map(|one| one["servers"][0]["leader_pid"].clone()).collect();
        assert_eq!(pids, [old.pid()], "{}", machine.log());
        let reply = end(machine, &["old"]);
        assert_eq!(only_ended(&reply)["cause"], "requested", "{reply}");
        assert_eq!(old.exit_status(), 128 + 15);
        disk.clear();
        let output = machine.ask(&["run", "--session", "s", "--", "echo", "ran"]);
        assert_eq!(output.stdout, b"ran\n", "{output:?}");
    });
}

#[test]
fn where_nothing_may_be_written_launches_are_refused_and_what_lives_lives_on_and_is_ended() {
    with_disk(|machine, disk| {
        let mut old = machine.run(&["--session", "old"], "echo up; exec cat");
        assert_eq!(old.line(), "up");
        disk.mount(&["-o", "remount,ro"]);
        expect_refused(machine, "Read-only file system");
        let reply = end(machine, &["old"]);
        assert_eq!(only_ended(&reply)["cause"], "requested", "{reply}");
        assert_eq!(old.exit_status(), 128 + 15);
        disk.mount(&["-o", "remount,rw"]);
        // What could not be removed is of nobody that lives: the next daemon passes over it, or removes it.
        machine.stop_daemon();
        machine.start();
        assert_eq!(machine.sessions(), Vec::<serde_json::Value>::new(), "{}", machine.log());
        let output = machine.ask(&["run", "--session", "s", "--", "echo", "ran"]);
        assert_eq!(output.stdout, b"ran\n", "{output:?}");
    });
}
