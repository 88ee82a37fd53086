use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A file with these bytes, in a directory of its own.
fn file(bytes: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = directory();
    let path = directory.path().join("a.json");
    std::fs::write(&path, bytes).unwrap();
    (directory, path)
}

fn names(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn other_bytes_take_the_place_of_a_file_and_its_mode_and_attributes_stay() {
    let (directory, path) = file("old");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let tagged = rustix::fs::setxattr(&path, c"user.tag", b"kept", rustix::fs::XattrFlags::empty()).is_ok();
    let before = std::fs::metadata(&path).unwrap().ino();
    let original = Original::read(&path).unwrap();
    assert_eq!(original.bytes(), b"old");
    original.replace(b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(mode(&path), 0o640);
    assert_ne!(std::fs::metadata(&path).unwrap().ino(), before, "it was written in place");
    assert_eq!(names(directory.path()), ["a.json"]);
    if tagged {
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(&path, c"user.tag", &mut value[..]).unwrap();
        assert_eq!(&value[..length], b"kept");
    }
}

#[test]
fn what_root_replaces_stays_its_owners() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (_directory, path) = file("old");
    std::os::unix::fs::chown(&path, Some(65534), Some(12)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    Original::read(&path).unwrap().replace(b"new").unwrap();
    let found = std::fs::metadata(&path).unwrap();
    assert_eq!((found.uid(), found.gid(), mode(&path)), (65534, 12, 0o600));
}

#[test]
fn a_symbolic_link_stays_and_what_it_leads_to_is_replaced() {
    let (directory, path) = file("old");
    let (first, second) = (directory.path().join("first"), directory.path().join("second"));
    symlink("a.json", &second).unwrap();
    symlink(&second, &first).unwrap();
    let original = Original::read(&first).unwrap();
    assert_eq!(original.target(), std::fs::canonicalize(&path).unwrap());
    original.replace(b"new").unwrap();
    assert_eq!(std::fs::read_link(&first).unwrap(), second);
    assert_eq!(std::fs::read_link(&second).unwrap(), Path::new("a.json"));
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}

#[test]
fn a_file_of_two_names_is_left_and_told() {
    let (directory, path) = file("old");
    std::fs::hard_link(&path, directory.path().join("b")).unwrap();
    let error = Original::read(&path).unwrap().replace(b"new").unwrap_err();
    assert!(matches!(error, FileError::ManyNames { names: 2, .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[test]
fn what_was_changed_meanwhile_is_not_overwritten() {
    type Change = fn(&Path);
    let changes: [(Change, Option<&str>); 5] = [
        (|path| std::fs::write(path, "own").unwrap(), Some("own")),
        // The same length, and the time of the last change set back.
        (
            |path| {
                let modified = std::fs::metadata(path).unwrap().modified().unwrap();
                std::fs::write(path, "OLD").unwrap();
                File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
            },
            Some("OLD"),
        ),
        (
            |path| {
                let other = path.with_extension("new");
                std::fs::write(&other, "old").unwrap();
                std::fs::rename(other, path).unwrap();
            },
            Some("old"),
        ),
        (|path| std::fs::remove_file(path).unwrap(), None),
        (
            |path| {
                std::fs::remove_file(path).unwrap();
                symlink("/dev/null", path).unwrap();
            },
            Some(""),
        ),
    ];
    for (change, left) in changes {
        let (directory, path) = file("old");
        let original = Original::read(&path).unwrap();
        change(&path);
        let error = original.replace(b"new").unwrap_err();
        // A file that is gone has no name left, which is no name too many.
        assert!(matches!(error, FileError::Changed(_)), "{error}");
        assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), left);
        assert!(names(directory.path()).iter().all(|name| name == "a.json"), "{:?}", names(directory.path()));
    }
}

#[test]
fn what_is_no_file_or_has_no_end_is_not_read() {
    let directory = directory();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [directory.path(), &pipe, Path::new("/dev/null"), Path::new("/")] {
        assert!(matches!(Original::read(path), Err(FileError::NoFile(_))), "{}", path.display());
    }
    let long = directory.path().join("long");
    File::create(&long).unwrap().set_len(FILE_BYTES_MAX as u64 + 1).unwrap();
    assert!(matches!(Original::read(&long), Err(FileError::TooLong(_))));
    let error = Original::read(&directory.path().join("none")).unwrap_err();
    assert!(matches!(error, FileError::Failed { doing: "find", .. }), "{error}");
}

#[test]
fn a_newer_file_that_a_host_puts_there_at_the_last_moment_is_left() {
    let (directory, path) = file("old");
    let original = Original::read(&path).unwrap();
    let (mut draft, name) = original.draft().unwrap();
    draft.write_all(b"ours").unwrap();
    let newer = directory.path().join("newer");
    std::fs::write(&newer, "newer").unwrap();
    std::fs::rename(&newer, &path).unwrap();
    assert!(matches!(original.exchange(&name), Err(FileError::Changed(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"newer");
    assert_eq!(std::fs::read(directory.path().join(&name)).unwrap(), b"ours");
    // What stands beside it is removed only where it is the file that is meant.
    original.discard(&name, 0);
    assert_eq!(names(directory.path()).len(), 2);
    original.discard(&name, draft.metadata().unwrap().ino());
    assert_eq!(names(directory.path()), ["a.json"]);
}

#[test]
fn by_a_users_link_root_gets_to_no_file_but_that_users() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (directory, path) = file("{}");
    let link = directory.path().join("link");
    symlink(directory.path(), &link).unwrap();
    let by_link = link.join("a.json");
    assert!(Original::read(&by_link).is_ok());
    std::os::unix::fs::lchown(&link, Some(65534), Some(65534)).unwrap();
    assert!(matches!(Original::read(&by_link), Err(FileError::Led { by: 65534, uid: 0, .. })));
    std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
    assert!(Original::read(&by_link).is_ok());
}

/// The number of a process that is gone.
fn gone() -> u32 {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

#[test]
fn what_a_killed_command_left_beside_it_goes_and_what_a_host_may_have_written_stays() {
    let (directory, path) = file("now");
    let (gone, own) = (gone(), std::process::id());
    for (name, text) in [
        (format!(".a.json.pinfold-{gone}-0"), "no"),
        (format!(".a.json.pinfold-{gone}-1"), "before"),
        (format!(".a.json.pinfold-{gone}-2"), ""),
        (format!(".a.json.pinfold-{gone}-3"), "a host's"),
        (format!(".a.json.pinfold-{own}-0"), "now"),
        (format!(".b.json.pinfold-{gone}-0"), "now"),
        (".a.json.pinfold-x-0".to_owned(), "now"),
    ] {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    Original::read(&path).unwrap().remove_drafts(&[b"before"]);
    let mut expected = [
        ".a.json.pinfold-x-0".to_owned(),
        format!(".a.json.pinfold-{gone}-3"),
        format!(".a.json.pinfold-{own}-0"),
        format!(".b.json.pinfold-{gone}-0"),
        "a.json".to_owned(),
    ];
    expected.sort();
    assert_eq!(names(directory.path()), expected.map(OsString::from));
}
