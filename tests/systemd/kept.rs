//! Where an installed daemon keeps its history, and that it outlives the daemon.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::installed::{Installed, ask, up};
use crate::support::*;

#[test]
fn the_history_of_an_installed_daemon_is_kept_with_the_state_of_the_system_or_of_its_user() {
    if !offered() {
        return;
    }
    let path = if is_system() {
        PathBuf::from("/var/lib/pinfold/history.db")
    } else {
        std::env::home_dir().unwrap().join(".local/state/pinfold/history.db")
    };
    let _installed = Installed::new();
    let session = format!("kept {}", std::process::id());
    let mut server = up(&session);
    assert!(ask(&["end", &session, "--now"]).status.success());
    server.exit_status();
    let history = || {
        let output = ask(&["history", "--json", "--session", &session]);
        let read = serde_json::from_slice::<Vec<Value>>(&output.stdout);
        read.map_err(|error| format!("{error}: {output:?}"))
    };
    let told = eventually("the end is kept", || {
        let told = history()?;
        if told.len() == 1 { Ok(told) } else { Err(format!("{told:?}")) }
    });
    assert_eq!((&told[0]["cause"], &told[0]["server"]), (&"requested".into(), &"cat".into()), "{told:?}");
    assert!(systemctl(&["stop", "pinfold.service"]).status.success());
    assert_eq!(history().unwrap(), told, "without a daemon");
    for (path, mode) in [(path.as_path(), 0o600), (path.parent().unwrap(), 0o700)] {
        let permissions = std::fs::metadata(path).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, mode, "{}", path.display());
    }
}
