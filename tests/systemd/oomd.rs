//! systemd-oomd kills whole leaves with a SIGKILL to each process: no job and no counter of the kernel tells, but what it
//! writes on the cgroup does. It is masked in the guest's image, and runs for these tests only.
//!
//! These are tests of the system ring: only root can start it.

use crate::support::*;

/// systemd-oomd, which acts after a second of pressure, for as long as this lives.
struct Oomd;

const SETTINGS: &str = "/run/systemd/oomd.conf.d/test.conf";

impl Oomd {
    #[track_caller]
    fn start() -> Self {
        std::fs::create_dir_all("/run/systemd/oomd.conf.d").unwrap();
        std::fs::write(SETTINGS, "[OOM]\nDefaultMemoryPressureDurationSec=1s\n").unwrap();
        let oomd = Self;
        for arguments in [&["unmask", "systemd-oomd.service"][..], &["start", "systemd-oomd.service"]] {
            let output = systemctl(arguments);
            assert!(output.status.success(), "{arguments:?}: {output:?}");
        }
        oomd
    }

    /// Lets it watch a slice with a session in it, whose memory is made short.
    #[track_caller]
    fn watch(watched: &str, session: &str) {
        let kill = ["ManagedOOMMemoryPressure=kill", "ManagedOOMMemoryPressureLimit=1%"];
        for (slice, settings) in [(session, &["MemoryHigh=40M"][..]), (watched, &kill)] {
            let output = systemctl(&[&["set-property", "--runtime", slice], settings].concat());
            assert!(output.status.success(), "{output:?}");
        }
    }
}

impl Drop for Oomd {
    fn drop(&mut self) {
        systemctl(&["stop", "systemd-oomd.service"]);
        systemctl(&["mask", "systemd-oomd.service"]);
        let _ = std::fs::remove_file(SETTINGS);
    }
}

/// Reads a file again and again that is larger than what its session may keep in memory.
const THRASHES: &str = r#"
import mmap, os, tempfile
file = tempfile.TemporaryFile(dir="/var/tmp")
file.write(b"x" * (80 << 20))
file.flush()
pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
held = bytearray(20 << 20)
print("up", flush=True)
while True:
    for at in range(0, len(pages), 4096):
        pages[at]
"#;

#[test]
fn what_systemd_oomd_kills_is_told_as_such_and_its_sibling_lives() {
    if !offered() || !is_system() {
        return;
    }
    let machine = Machine::new();
    let script = machine.path("thrashes.py");
    std::fs::write(&script, THRASHES).unwrap();
    let _oomd = Oomd::start();
    let sibling = machine.up(&["--session", "s", "--server", "sibling"], "exec cat");
    let thrashes = format!("setsid sleep 1000 & exec python3 {}", script.display());
    let mut server = machine.up(&["--session", "s", "--server", "thrashes"], &thrashes);
    assert_eq!(server.line(), "up");
    let session = machine.session("s");
    let inside = processes(&session.leaf(1));
    assert_eq!(inside.len(), 2);
    Oomd::watch("pinfold.slice", &session.slice());
    assert_eq!(server.exit_status(), 128 + 9, "{}", machine.log());
    // What it goes on seeing for some seconds is what was.
    systemctl(&["set-property", "--runtime", "pinfold.slice", "ManagedOOMMemoryPressure=auto"]);
    let told = server.stderr();
    assert!(told.contains("ended server thrashes of session s: systemd-oomd killed it"), "{told}; {}", machine.log());
    assert!(!inside.iter().any(|pid| lives(*pid)) && lives(sibling.pid()));
    machine.expect_cause("stopped");
    machine.ask(&["end", "s"]);
    machine.expect_nothing_left();
}

#[test]
fn what_systemd_oomd_kills_is_told_as_such_although_its_scope_is_gone_at_once() {
    if !offered() || !is_system() {
        return;
    }
    let machine = Machine::new();
    let script = machine.path("thrashes.py");
    std::fs::write(&script, THRASHES).unwrap();
    let _oomd = Oomd::start();
    for _ in 0..2 {
        let mut server = machine.up(&["--session", "s"], &format!("exec python3 {}", script.display()));
        assert_eq!(server.line(), "up");
        Oomd::watch("pinfold.slice", &machine.session("s").slice());
        assert_eq!(server.exit_status(), 128 + 9, "{}", machine.log());
        systemctl(&["set-property", "--runtime", "pinfold.slice", "ManagedOOMMemoryPressure=auto"]);
        let told = server.stderr();
        assert!(told.contains("of session s: systemd-oomd killed it"), "{told}; {}", machine.log());
        machine.expect_nothing_left();
    }
}
