//! A host's configuration file says which servers there are; what was removed there ends.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::hosts::NOBODY;
use crate::support::{Launched, Machine, eventually, offered, root_offered, signal};

/// What no user but root reads.
const SHADOW: &str = "root:$6$salt$hash:19000:0:99999:7:::\n";

/// A host's configuration, and a machine whose daemon watches it.
struct Configured {
    directory: tempfile::TempDir,
    machine: Machine,
}

impl Configured {
    #[track_caller]
    fn with(entries: &[&str]) -> Self {
        Self::prepared(|file| std::fs::write(file, text(entries)).unwrap())
    }

    /// With a file that somebody else makes.
    #[track_caller]
    fn prepared(make: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::Builder::new().prefix("pinfold-host-").tempdir().unwrap();
        let file = directory.path().join("openclaw.json");
        make(&file);
        let machine = Machine::with_config(&format!("[[host]]\nname = 'openclaw'\nfiles = ['{}']\n", file.display()));
        Self { directory, machine }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("openclaw.json")
    }

    /// As editors and hosts do it: another file is written, and takes the name.
    fn replace(&self, text: &str) {
        let draft = self.directory.path().join("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(&draft, self.file()).unwrap();
    }

    #[track_caller]
    fn server(&self, name: &str) -> Launched {
        self.launch(&["--host", "openclaw", "--session", name, "--server", name])
    }

    #[track_caller]
    fn launch(&self, options: &[&str]) -> Launched {
        let mut server = self.machine.run(options, "echo up; exec cat");
        assert_eq!(server.line(), "up");
        server
    }

    /// The ids of the sessions, once there are so many.
    #[track_caller]
    fn left(&self, sessions: &[&str]) {
        eventually("the sessions that are left", || {
            let mut ids: Vec<String> =
                self.machine.sessions().iter().map(|session| session["id"].as_str().unwrap().to_owned()).collect();
            ids.sort();
            if ids == sessions { Ok(()) } else { Err(format!("{ids:?}; {}", self.machine.log())) }
        });
    }

    #[track_caller]
    fn end(&self) {
        self.machine.ask(&["end", "--all"]);
        self.machine.expect_nothing_left();
    }
}

/// JSON5, as OpenClaw has it.
fn text(entries: &[&str]) -> String {
    let entries: String = entries.iter().map(|name| format!("{name}: {{ command: 'npx', }}, ")).collect();
    format!("{{ /* servers */ mcp: {{ servers: {{ {entries} }} }}, }}\n")
}

#[test]
fn a_server_whose_entry_is_removed_ends_and_all_others_live() {
    if !offered() {
        return;
    }
    let configured = Configured::with(&["fs", "git"]);
    let mut fs = configured.server("fs");
    let _git = configured.server("git");
    // Another host's server of that name; one that only looks like it; one that never was an entry.
    let _zed = configured.launch(&["--host", "zed", "--session", "zed", "--server", "fs"]);
    let _guessed = configured.launch(&["--host", "openclaw", "--session", "guessed"]);
    let _other = configured.server("other");
    configured.replace(&text(&["git"]));
    assert_eq!(fs.exit_status(), 128 + 15);
    let told = fs.stderr();
    assert!(told.contains("its entry is gone from its host's configuration"), "{told}");
    configured.left(&["git", "guessed", "other", "zed"]);
    assert!(configured.machine.log().contains("cause=\"unconfigured\""));
    configured.end();
}

#[test]
fn a_server_whose_entry_is_switched_off_in_place_ends() {
    if !offered() {
        return;
    }
    let configured = Configured::with(&["fs"]);
    let mut fs = configured.server("fs");
    std::fs::write(configured.file(), "{ mcp: { servers: { fs: { command: 'npx', enabled: false } } } }").unwrap();
    assert_eq!(fs.exit_status(), 128 + 15);
    configured.end();
}

#[test]
fn an_entry_that_comes_later_and_goes_again_takes_its_server_along() {
    if !offered() {
        return;
    }
    let configured = Configured::with(&[]);
    let (mut fs, _git) = (configured.server("fs"), configured.server("git"));
    configured.replace(&text(&["fs", "git"]));
    eventually("their entries were seen", || {
        let records = std::fs::read_dir(configured.machine.path("pinfold.sock.d")).unwrap();
        let texts = records.map(|record| std::fs::read_to_string(record.unwrap().path()).unwrap_or_default());
        let seen = texts.filter(|text| text.contains("\"entry_seen\":true")).count();
        if seen == 2 { Ok(()) } else { Err(format!("{seen} of 2; {}", configured.machine.log())) }
    });
    configured.replace(&text(&["git"]));
    assert_eq!(fs.exit_status(), 128 + 15);
    configured.left(&["git"]);
    configured.end();
}

#[test]
fn from_a_file_that_is_broken_or_briefly_away_nothing_follows() {
    if !offered() {
        return;
    }
    let configured = Configured::with(&["fs", "git"]);
    let (_fs, mut git) = (configured.server("fs"), configured.server("git"));
    for broken in ["", "{ mcp: { servers: {", "[]", "\u{0}"] {
        configured.replace(broken);
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    std::fs::remove_file(configured.file()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    configured.left(&["fs", "git"]);
    assert!(configured.machine.log().contains("says nothing now"), "{}", configured.machine.log());
    // It is still watched, and one that is whole again counts.
    configured.replace(&text(&["fs"]));
    assert_eq!(git.exit_status(), 128 + 15);
    configured.left(&["fs"]);
    configured.end();
}

#[test]
fn a_link_that_is_turned_to_another_file_is_a_change() {
    if !offered() {
        return;
    }
    let configured = Configured::prepared(|file| {
        let store = file.with_file_name("store");
        std::fs::create_dir(&store).unwrap();
        std::fs::write(store.join("1.json"), text(&["fs", "git"])).unwrap();
        std::fs::write(store.join("2.json"), text(&["git"])).unwrap();
        symlink("store/1.json", file).unwrap();
    });
    let (mut fs, mut git) = (configured.server("fs"), configured.server("git"));
    let draft = configured.directory.path().join("draft");
    symlink("store/2.json", &draft).unwrap();
    std::fs::rename(&draft, configured.file()).unwrap();
    assert_eq!(fs.exit_status(), 128 + 15);
    // And so is a change of what it points to.
    std::fs::write(configured.directory.path().join("store/2.json"), text(&[])).unwrap();
    assert_eq!(git.exit_status(), 128 + 15);
    configured.left(&[]);
    configured.end();
}

#[test]
fn what_was_removed_while_no_daemon_ran_ends_with_its_next_start() {
    if !offered() {
        return;
    }
    let mut configured = Configured::with(&["fs", "git"]);
    let (mut fs, _git) = (configured.server("fs"), configured.server("git"));
    configured.machine.kill_daemon();
    configured.replace(&text(&["git"]));
    configured.machine.start();
    assert_eq!(fs.exit_status(), 128 + 15);
    configured.left(&["git"]);
    configured.end();
}

#[test]
fn a_file_of_one_user_says_nothing_of_anothers_sessions() {
    if !offered() || !root_offered() {
        return;
    }
    let configured = Configured::prepared(|file| {
        std::fs::write(file, text(&["fs"])).unwrap();
        chown(file, Some(NOBODY), Some(NOBODY)).unwrap();
    });
    let _roots = configured.server("fs");
    std::fs::write(configured.file(), text(&[])).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    configured.left(&["fs"]);
    configured.end();
}

/// Waits until the daemon has told this.
#[track_caller]
fn expect_told(configured: &Configured, words: &str) {
    eventually("it is told", || {
        let log = configured.machine.log();
        if log.contains(words) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn a_file_that_is_written_in_place_in_pieces_counts_once_it_is_whole() {
    use std::io::Write;

    if !offered() {
        return;
    }
    let configured = Configured::with(&["fs", "git"]);
    let (_fs, mut git) = (configured.server("fs"), configured.server("git"));
    let whole = text(&["fs"]);
    // Three editors: one after the other begins where nothing stands.
    for end in [0, whole.len() / 2, whole.len() - 3] {
        std::fs::write(configured.file(), &whole[..end]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    configured.left(&["fs", "git"]);
    let mut file = std::fs::File::create(configured.file()).unwrap();
    for piece in whole.as_bytes().chunks(7) {
        file.write_all(piece).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(file);
    assert_eq!(git.exit_status(), 128 + 15);
    configured.left(&["fs"]);
    configured.end();
}

#[test]
fn a_directory_that_is_removed_and_made_anew_is_watched_on() {
    if !offered() {
        return;
    }
    let configured = Configured::prepared(|file| {
        std::fs::create_dir_all(file.with_file_name("store/deep")).unwrap();
        std::fs::write(file.with_file_name("store/deep/host.json"), text(&["fs", "git"])).unwrap();
        symlink("store/deep/host.json", file).unwrap();
    });
    let (mut fs, mut git) = (configured.server("fs"), configured.server("git"));
    let store = configured.directory.path().join("store");
    std::fs::remove_dir_all(&store).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    configured.left(&["fs", "git"]);
    std::fs::create_dir_all(store.join("deep")).unwrap();
    std::fs::write(store.join("deep/host.json"), text(&["fs"])).unwrap();
    assert_eq!(git.exit_status(), 128 + 15);
    // As a whole, by a rename of what was prepared elsewhere.
    let draft = configured.directory.path().join("draft");
    std::fs::create_dir_all(draft.join("deep")).unwrap();
    std::fs::write(draft.join("deep/host.json"), text(&[])).unwrap();
    std::fs::rename(&store, configured.directory.path().join("old")).unwrap();
    std::fs::rename(&draft, &store).unwrap();
    assert_eq!(fs.exit_status(), 128 + 15);
    configured.left(&[]);
    configured.end();
}

#[test]
fn a_file_that_becomes_a_fifo_holds_nobody_up_and_counts_again_as_a_file() {
    if !offered() {
        return;
    }
    let configured = Configured::with(&["fs", "git"]);
    let (_fs, mut git) = (configured.server("fs"), configured.server("git"));
    let draft = configured.directory.path().join("draft");
    nix::unistd::mkfifo(&draft, nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::rename(&draft, configured.file()).unwrap();
    expect_told(&configured, "says nothing now: it is no regular file");
    configured.left(&["fs", "git"]);
    configured.replace(&text(&["fs"]));
    assert_eq!(git.exit_status(), 128 + 15);
    configured.left(&["fs"]);
    configured.end();
}

#[test]
fn what_changed_while_more_happened_than_the_kernel_keeps_is_not_missed() {
    if !offered() {
        return;
    }
    let configured = Configured::with(&["fs", "git"]);
    let (mut fs, _git) = (configured.server("fs"), configured.server("git"));
    let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let most: usize = most.trim().parse().unwrap();
    let daemon = configured.machine.daemon_pid();
    signal(daemon, Signal::SIGSTOP);
    // Each event differs from the one before it, or the kernel keeps one of both (inotify(7)).
    let noise = ["a", "b"].map(|name| configured.directory.path().join(name));
    for _ in 0..most / 4 + 1 {
        for path in &noise {
            std::fs::write(path, "").unwrap();
        }
        for path in &noise {
            std::fs::remove_file(path).unwrap();
        }
    }
    configured.replace(&text(&["git"]));
    signal(daemon, Signal::SIGCONT);
    assert_eq!(fs.exit_status(), 128 + 15);
    configured.left(&["git"]);
    configured.end();
}

#[test]
fn what_a_user_may_not_read_is_not_read_by_root_either_where_that_user_turns_the_way_to_it() {
    if !offered() || !root_offered() {
        return;
    }
    let secrets = tempfile::Builder::new().prefix("pinfold-secret-").tempdir().unwrap();
    let secret = secrets.path().join("shadow");
    std::fs::write(&secret, SHADOW).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let configured = Configured::prepared(|file| {
        symlink(&secret, file).unwrap();
        chown(file.parent().unwrap(), Some(NOBODY), Some(NOBODY)).unwrap();
    });
    expect_told(&configured, "permission denied, with the rights of user 65534");
    configured.end();
}

#[test]
fn what_is_wrong_with_a_file_is_told_without_a_word_of_it() {
    if !offered() {
        return;
    }
    let configured = Configured::prepared(|file| std::fs::write(file, SHADOW).unwrap());
    expect_told(&configured, "says nothing now: it is no JSON at line 1");
    let log = configured.machine.log();
    assert!(!log.contains("$6$") && !log.contains("salt") && !log.contains("hash"), "{log}");
    configured.end();
}

#[test]
fn a_users_own_file_that_others_may_not_read_ends_that_users_server() {
    if !offered() || !root_offered() {
        return;
    }
    let configured = Configured::prepared(|file| {
        std::fs::write(file, text(&["fs"])).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        for path in [file, file.parent().unwrap()] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    });
    configured.machine.open_to_all();
    let options =
        ["run", "--host", "openclaw", "--session", "s", "--server", "fs", "--", "sh", "-c", "echo up; exec cat"];
    let mut run = configured.machine.nobody(&options);
    run.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut server = Launched::spawn(run);
    assert_eq!(server.line(), "up", "{}", configured.machine.log());
    std::fs::write(configured.file(), text(&[])).unwrap();
    assert_eq!(server.exit_status(), 128 + 15);
    configured.left(&[]);
    configured.end();
}
