//! What the journal has of what happens, as somebody finds it who asks for a session.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use pinfold::occurrence::What;
use serde_json::Value;

use crate::installed::{Installed, ask, up};
use crate::support::*;

/// The entries that match all of these, oldest first.
#[track_caller]
fn entries(matches: &[&str]) -> Vec<Value> {
    let mut journalctl = Command::new("journalctl");
    journalctl.args(["--output=json", "--no-pager", "--quiet", "--boot"]).args(matches);
    let output = journalctl.stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_happens_to_a_session_is_found_in_the_journal_by_its_fields_and_once() {
    if !offered() || !is_system() {
        return;
    }
    let _installed = Installed::new();
    let session = format!("journal {}", std::process::id());
    let mut server = up(&session);
    assert!(ask(&["end", &session, "--now"]).status.success());
    assert_eq!(server.exit_status(), 128 + 9);
    let of_session = format!("PINFOLD_SESSION={session}");
    let told = eventually("the end is in the journal", || {
        let told = entries(&[&of_session]);
        if told.iter().any(|entry| entry["PINFOLD_EVENT"] == "ended") { Ok(told) } else { Err(format!("{told:?}")) }
    });
    let events: Vec<&str> = told.iter().filter_map(|entry| entry["PINFOLD_EVENT"].as_str()).collect();
    assert_eq!(events, ["launched", "ended"], "{told:?}");
    let ended = &told[1];
    let text = |name: &str| ended[name].as_str().unwrap_or_default();
    assert_eq!(
        (text("PINFOLD_CAUSE"), text("PINFOLD_SERVER"), text("PINFOLD_UID")),
        ("requested", "cat", "0"),
        "{ended}"
    );
    assert_eq!((text("_SYSTEMD_UNIT"), text("PRIORITY")), ("pinfold.service", "5"), "{ended}");
    let line = format!("ended server cat of session {session}: its end was requested, ");
    assert!(text("MESSAGE").starts_with(&line) && text("MESSAGE").ends_with(", killed"), "{ended}");
    // The line that a log without fields has is not there a second time.
    let again = entries(&["_SYSTEMD_UNIT=pinfold.service"]);
    let lines = again.iter().filter(|entry| entry["MESSAGE"].as_str().is_some_and(|text| text.starts_with(&line)));
    assert_eq!(lines.count(), 1, "{again:?}");
    // Each kind has an id of its own, by which a catalog or a script finds it.
    let id = format!("MESSAGE_ID={}", What::Adopted { pid: 1 }.message_id());
    assert!(entries(&[&of_session, &id]).is_empty());
    let id = format!("MESSAGE_ID={}", text("MESSAGE_ID"));
    assert_eq!(entries(&[&of_session, &id]).len(), 1);
}

#[test]
fn a_memory_kill_is_found_with_its_reason() {
    if !offered() || !is_system() {
        return;
    }
    let _installed = Installed::new();
    let session = format!("hog {}", std::process::id());
    let hog = "my $held = 'x' x (200 << 20); sleep 1000";
    let run = ["run", "--session", &session, "--server", "hog", "--memory-max", "40M", "--", "perl", "-e", hog];
    let output = ask(&run);
    assert_eq!(output.status.signal(), Some(9), "{output:?}");
    let of_session = format!("PINFOLD_SESSION={session}");
    let told = eventually("the end is in the journal", || {
        let told = entries(&[&of_session]);
        if told.iter().any(|entry| entry["PINFOLD_EVENT"] == "ended") { Ok(told) } else { Err(format!("{told:?}")) }
    });
    let events: Vec<&str> = told.iter().filter_map(|entry| entry["PINFOLD_EVENT"].as_str()).collect();
    assert_eq!(events, ["launched", "memory_kill", "ended"], "{told:?}");
    let text = |name: &str| told[2][name].as_str().unwrap_or_default();
    assert_eq!((text("PINFOLD_CAUSE"), text("PINFOLD_SERVER")), ("memory", "hog"), "{}", told[2]);
    let line = format!("ended server hog of session {session}: memory ran out: ");
    assert!(text("MESSAGE").starts_with(&line), "{}", told[2]);
}
