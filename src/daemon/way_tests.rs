use std::os::unix::fs::{PermissionsExt, chown, symlink};

use super::*;

const NOBODY: u32 = 65534;

/// Looks on a thread of its own, as the daemon does.
fn looked(path: &Path) -> Look {
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
    std::thread::scope(|scope| scope.spawn(|| look(path, &inotify)).join().unwrap())
}

/// Who speaks in a file, or why nobody does.
fn speaker(path: &Path) -> Result<u32, String> {
    match looked(path).found {
        Found::Says(Content::Says { uid, .. }) => Ok(uid),
        Found::Says(_) | Found::Away => Err("away".into()),
        Found::Unusable(why) => Err(why),
    }
}

/// A directory that everybody may enter.
fn open_to_all() -> tempfile::TempDir {
    let top = tempfile::tempdir().unwrap();
    set_mode(top.path(), 0o755);
    top
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn every_directory_in_which_the_name_could_come_to_mean_another_file_is_watched() {
    let top = tempfile::tempdir().unwrap();
    let top = top.path().canonicalize().unwrap();
    let at = |name: &str| top.join(name);
    for directory in ["home", "dotfiles", "dotfiles/claude", "store"] {
        std::fs::create_dir(at(directory)).unwrap();
    }
    std::fs::write(at("store/v1.json"), "{}").unwrap();
    symlink("../dotfiles/claude", at("home/.claude")).unwrap();
    symlink(at("store/v1.json"), at("dotfiles/claude/mcp.json")).unwrap();
    symlink("loop", at("loop")).unwrap();
    let depth = top.components().count();
    // Each directory has one watch, however often the way leads through it.
    for (path, below, names) in [
        ("home/.claude/mcp.json", 5, &["home", ".claude", "dotfiles", "claude", "mcp.json", "store", "v1.json"][..]),
        // Where there is nothing yet, what will be made there is seen.
        ("home/none/mcp.json", 2, &["home", "none"][..]),
        ("loop", 1, &["loop"][..]),
    ] {
        let look = looked(&at(path));
        assert_eq!(look.watches.len(), depth - 1 + below, "{path}");
        for name in names {
            assert!(look.names.contains(OsStr::new(name)), "{path}: {name} in {:?}", look.names);
        }
    }
    assert!(matches!(looked(&at("home/none/mcp.json")).found, Found::Away));
    assert!(speaker(&at("loop")).unwrap_err().contains("too many symbolic links"));
    assert!(matches!(looked(&at("store/v1.json/x")).found, Found::Away));
}

#[test]
fn what_is_no_regular_file_is_not_opened() {
    let top = tempfile::tempdir().unwrap();
    let fifo = top.path().join("mcp.json");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [&*fifo, top.path(), Path::new("/dev/zero"), Path::new("/proc/self/mem"), Path::new("/proc/kmsg")] {
        assert!(matches!(looked(path).found, Found::Unusable(_)), "{path:?}");
    }
    assert!(matches!(looked(&top.path().join("none")).found, Found::Away));
}

#[test]
fn whoever_can_turn_the_way_to_a_file_is_who_speaks_in_it() {
    if !is_root() {
        return;
    }
    let top = open_to_all();
    let roots = top.path().join("roots.json");
    std::fs::write(&roots, "{}").unwrap();
    let home = top.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let link = home.join("mcp.json");
    symlink(&roots, &link).unwrap();
    assert_eq!((speaker(&roots), speaker(&link)), (Ok(0), Ok(0)));
    chown(&home, Some(NOBODY), None).unwrap();
    assert_eq!((speaker(&roots), speaker(&link)), (Ok(0), Ok(NOBODY)));
}

#[test]
fn what_a_user_may_not_read_is_not_read_where_that_user_can_turn_the_way() {
    if !is_root() {
        return;
    }
    let top = open_to_all();
    let (secrets, home) = (top.path().join("secrets"), top.path().join("home"));
    let secret = secrets.join("secret.json");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::create_dir(&home).unwrap();
    std::fs::write(&secret, "{}").unwrap();
    chown(&home, Some(NOBODY), None).unwrap();
    let link = home.join("mcp.json");
    symlink(&secret, &link).unwrap();
    assert_eq!(speaker(&link), Ok(NOBODY));
    // A file that only root may read; one that only its group may; a directory that only root may enter.
    for (path, mode) in [(&secret, 0o600), (&secret, 0o640), (&secrets, 0o700)] {
        set_mode(path, mode);
        let why = speaker(&link).unwrap_err();
        assert!(why.contains("permission denied, with the rights of user 65534"), "{why}");
        assert_eq!(speaker(&secret), Ok(0), "root itself may");
        set_mode(path, if path.is_dir() { 0o755 } else { 0o644 });
    }
    // What the user's own group may read.
    set_mode(&secret, 0o640);
    chown(&secret, None, Some(NO_GROUP)).unwrap();
    assert_eq!(speaker(&link), Ok(NOBODY));
}

#[test]
fn the_rights_of_one_look_are_not_those_of_the_daemon_nor_of_the_next_one() {
    if !is_root() {
        return;
    }
    let top = open_to_all();
    let (roots, users) = (top.path().join("roots.json"), top.path().join("users.json"));
    std::fs::write(&roots, "{}").unwrap();
    std::fs::write(&users, "{}").unwrap();
    set_mode(&roots, 0o600);
    chown(&users, Some(NOBODY), Some(NOBODY)).unwrap();
    for _ in 0..3 {
        assert_eq!((speaker(&users), speaker(&roots)), (Ok(NOBODY), Ok(0)));
    }
    std::fs::read(&roots).unwrap();
}

#[test]
fn in_a_file_that_everybody_may_change_nobody_speaks() {
    if !is_root() {
        return;
    }
    let top = open_to_all();
    let file = top.path().join("mcp.json");
    std::fs::write(&file, "{}").unwrap();
    for (path, mode) in [(top.path(), 0o777), (&*file, 0o666)] {
        set_mode(path, mode);
        let why = speaker(&file).unwrap_err();
        assert!(why.contains("others than root may change"), "{why}");
        set_mode(path, 0o755);
    }
    // As in /tmp: there everybody may make a file, and only its owner takes it away.
    set_mode(top.path(), 0o1777);
    assert_eq!(speaker(&file), Ok(0));
}
