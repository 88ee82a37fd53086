//! Another boot: what a daemon finds in a runtime directory that outlived the one before. `tests/vm/reboot.sh` resets a machine.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Machine, lives, offered, on_systemd};

/// A process that nothing may be done to.
struct Stranger(Child);

impl Stranger {
    /// One with the mark of a server of this leaf.
    fn marked(leaf: &str) -> Self {
        let mut sleep = Command::new("sleep");
        Self(sleep.arg("1000").env("PINFOLD_SERVER", leaf).stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// As a record names it: its number and its start.
    fn id(&self) -> Value {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let start: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
        json!({"pid": self.pid(), "start_time": start})
    }

    /// `false` also where it is a zombie.
    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none() && lives(self.pid())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_an_earlier_boot_wrote_down_is_told_and_removed_and_whoever_has_its_numbers_now_is_left_alone() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let mut server = machine.run(&["--session", "s", "--server", "alone"], "echo up; exec cat");
    assert_eq!(server.line(), "up");
    let leaf: PathBuf = machine.leaf("s");
    let generation = machine.session("s")["generation"].as_u64().unwrap();
    let path = machine.records().pop().unwrap();
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(machine.ask(&["end", "s"]).status.success());
    server.exit_status();
    machine.expect_nothing_left();
    machine.kill_daemon();

    // All but the boot speaks for the stranger: its number and start, its mark, a leaf of that name, an end that had begun.
    let mut stranger = Stranger::marked(record["leaf"].as_str().unwrap());
    record["leader"] = stranger.id();
    record["owner"] = stranger.id();
    record["ending"] = json!({"cause": {"cause": "requested"}, "killing": true});
    record["boot_id"] = "4d2c1f0e-0000-4000-8000-000000000000".into();

    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, record.to_string()).unwrap();
    std::fs::write(path.with_file_name("torn.1.json"), [0; 200]).unwrap();
    if !on_systemd() {
        std::fs::create_dir_all(&leaf).unwrap();
    }
    machine.start();
    let log = machine.log();
    assert_eq!(log.matches("server alone of session s ended with an earlier boot of the machine").count(), 1, "{log}");
    assert_eq!(
        log.matches("that an earlier boot of the machine left does not tell of which server").count(),
        1,
        "{log}"
    );
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    machine.expect_nothing_left();

    let mut server = machine.run(&["--session", "s", "--server", "alone"], "echo up; exec cat");
    assert_eq!(server.line(), "up");
    assert_ne!(machine.session("s")["generation"].as_u64(), Some(generation));
    assert!(machine.ask(&["end", "s"]).status.success());
    server.exit_status();
    machine.expect_nothing_left();
    assert!(
        stranger.lives(),
        "a process that has the number of a server of an earlier boot was ended: {}",
        machine.log()
    );
}
