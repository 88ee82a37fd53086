use super::*;
use crate::outcome::{Cause, Level, Outcome};
use crate::session::{Name, SessionId};
use crate::timestamp::Timestamp;

const DAY: u64 = 86_400;

fn ended(number: u64, uid: u32, server: &str, cause: Cause, age: Duration) -> Occurrence {
    let at = SystemTime::now() - age;
    let outcome = Outcome {
        cause,
        processes: Some(3),
        killed: cause == Cause::Requested,
        memory_bytes: Some(Bytes(number << 20)),
        peak_bytes: Some(Bytes(number << 21)),
        exit: None,
    };
    let started_at = Timestamp::of(at - Duration::from_secs(number));
    Occurrence {
        number,
        at: Timestamp::of(at),
        uid,
        realm: crate::realm::Realm::Host,
        session: Some(SessionId::parse("s\u{1F98A}").unwrap()),
        key: Some("s_0123456789ab".into()),
        host: None,
        server: Name::parse(server).unwrap(),
        leaf: Some(format!("{server}.{number}")),
        what: What::Ended(Ended {
            outcome,
            started_at,
            lifetime_seconds: number as f64,
            end_seconds: Some(0.1),
            parked_seconds: 0.0,
        }),
    }
}

fn open(bounds: Bounds) -> (tempfile::TempDir, PathBuf, History) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/history.db");
    let history = History::open(&path, bounds).unwrap();
    (directory, path, history)
}

fn all(history: &History, question: Question, uid: u32) -> Vec<Occurrence> {
    history.answer(&question, uid).unwrap().ends
}

#[test]
fn what_ended_is_read_back_as_it_was_oldest_first_by_its_user_and_root() {
    let (_directory, path, mut history) = open(Bounds::default());
    let hour = Duration::from_secs(3600);
    let ends = [
        ended(1, 1000, "fs", Cause::Requested, hour * 3),
        ended(2, 0, "web", Cause::Memory { level: Level::Session, stall: None }, hour * 2),
        ended(3, 1000, "fs", Cause::StdinClosed, hour),
    ];
    history.write(&ends.iter().collect::<Vec<_>>(), Bounds::default()).unwrap();
    let reader = History::read(&path).unwrap().unwrap();
    assert_eq!(all(&reader, Question::default(), 0), ends);
    assert_eq!(all(&reader, Question::default(), 1000), [ends[0].clone(), ends[2].clone()]);
    assert!(all(&reader, Question::default(), 7).is_empty());
    let since = Some(Timestamp::of(SystemTime::now() - hour - hour / 2));
    assert_eq!(all(&reader, Question { since, ..Question::default() }, 0), ends[2..]);
    let latest = reader.answer(&Question { limit: Some(1), ..Question::default() }, 0).unwrap();
    assert_eq!((latest.ends.as_slice(), latest.more), (&ends[2..], true));
    let session = Some(SessionId::parse("another").unwrap());
    assert!(all(&reader, Question { session, ..Question::default() }, 0).is_empty());
}

#[test]
fn ends_are_added_up_by_server_and_by_cause() {
    let (_directory, _path, mut history) = open(Bounds::default());
    let second = Duration::from_secs(1);
    let memory = Cause::Memory { level: Level::Server, stall: None };
    let ends = [
        ended(1, 0, "fs", Cause::Requested, second),
        ended(2, 0, "web", memory, second),
        ended(3, 0, "fs", memory, second),
    ];
    history.write(&ends.iter().collect::<Vec<_>>(), Bounds::default()).unwrap();
    let by = |by| history.answer(&Question { by: Some(by), ..Question::default() }, 0).unwrap().groups;
    let fs = &by(By::Server)[0];
    assert_eq!((fs.name.as_deref(), fs.ends, fs.killed, fs.memory), (Some("fs"), 2, 1, 1));
    assert_eq!((fs.peak_bytes, fs.memory_bytes), (Some(Bytes(6 << 20)), Some(Bytes(4 << 20))));
    assert_eq!((fs.mean_lifetime_seconds, fs.max_lifetime_seconds), (2.0, 3.0));
    let causes: Vec<_> = by(By::Cause).into_iter().map(|group| (group.name.unwrap(), group.ends)).collect();
    assert_eq!(causes, [("memory".to_owned(), 2), ("requested".to_owned(), 1)]);
    assert_eq!(by(By::Host)[0].name, None);
}

#[test]
fn an_end_that_is_told_twice_is_kept_once() {
    let (_directory, path, mut history) = open(Bounds::default());
    let end = ended(1, 0, "fs", Cause::Requested, Duration::from_secs(1));
    history.write(&[&end], Bounds::default()).unwrap();
    drop(history);
    let mut history = History::open(&path, Bounds::default()).unwrap();
    let again = Occurrence { number: 9, at: Timestamp::of(SystemTime::now()), ..end.clone() };
    history.write(&[&again], Bounds::default()).unwrap();
    assert_eq!(all(&history, Question::default(), 0), [end]);
}

#[test]
fn what_is_too_old_is_forgotten_and_what_is_too_much_makes_the_oldest_give_way() {
    let bounds = Bounds { days: 10, bytes: Bytes(256 << 10) };
    let (_directory, path, mut history) = open(bounds);
    history.write(&[&ended(1, 0, "old", Cause::Requested, Duration::from_secs(11 * DAY))], bounds).unwrap();
    assert!(all(&history, Question::default(), 0).is_empty());
    for batch in 0..40u64 {
        let age = |number| Duration::from_secs(4000 - number);
        let ends: Vec<_> = (batch * 50..batch * 50 + 50).map(|n| ended(n, 0, "fs", Cause::Requested, age(n))).collect();
        history.write(&ends.iter().collect::<Vec<_>>(), bounds).unwrap();
    }
    let kept = all(&history, Question::default(), 0);
    assert_eq!(kept.last().unwrap().number, 1999);
    assert!(kept.len() > 50 && kept.len() < 1000, "{}", kept.len());
    assert!(kept.windows(2).all(|pair| pair[0].number + 1 == pair[1].number), "the oldest went");
    drop(history);
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size <= 256 << 10, "{size}");
}

#[test]
fn a_file_that_is_larger_than_it_may_be_by_now_is_made_smaller_and_the_latest_stay() {
    let (_directory, path, mut history) = open(Bounds::default());
    let age = |number| Duration::from_secs(4000 - number);
    let ends: Vec<_> = (0..2000).map(|n| ended(n, 0, "fs", Cause::Requested, age(n))).collect();
    history.write(&ends.iter().collect::<Vec<_>>(), Bounds::default()).unwrap();
    drop(history);
    let bounds = Bounds { bytes: Bytes(256 << 10), ..Bounds::default() };
    assert!(std::fs::metadata(&path).unwrap().len() > 512 << 10);
    let history = History::open(&path, bounds).unwrap();
    let kept = all(&history, Question::default(), 0);
    assert_eq!(kept.last().unwrap().number, 1999);
    assert!(kept.len() > 50 && kept.len() < 1000, "{}", kept.len());
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size <= bounds.bytes.0, "{size}");
}

#[test]
fn what_somebody_else_put_in_the_way_is_not_written_to() {
    let directory = tempfile::tempdir().unwrap();
    let (target, path) = (directory.path().join("target"), directory.path().join("history.db"));
    std::fs::write(&target, "").unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    History::open(&path, Bounds::default()).unwrap_err();
    assert_eq!(std::fs::metadata(&target).unwrap().len(), 0);
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    std::os::unix::fs::chown(&target, Some(12_345), None).unwrap();
    let told = crate::chain::chain(&History::open(&target, Bounds::default()).unwrap_err());
    assert!(told.contains("it belongs to user 12345"), "{told}");
}

#[test]
fn a_question_that_takes_too_long_is_given_up_and_says_what_to_do() {
    let (_directory, _path, mut history) = open(Bounds::default());
    history.connection.progress_handler(1, Some(|| true)).unwrap();
    let told = crate::chain::chain(&history.answer(&Question::default(), 0).unwrap_err());
    assert!(told.contains("that takes too long; ask for less"), "{told}");
}

#[test]
fn what_is_no_history_is_told_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.db");
    assert!(History::read(&path).unwrap().is_none());
    std::fs::write(&path, "#!/bin/sh\n".repeat(100)).unwrap();
    let told = crate::chain::chain(&History::open(&path, Bounds::default()).unwrap_err());
    assert!(told.contains("cannot open the history") && told.contains("not a database"), "{told}");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("#!/bin/sh"));
    let later = directory.path().join("later.db");
    Connection::open(&later).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let told = crate::chain::chain(&History::open(&later, Bounds::default()).unwrap_err());
    assert!(told.contains("a later version of pinfold (7)"), "{told}");
}

#[test]
fn where_others_may_write_beside_it_nothing_is_written_nor_where_something_stands_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.db");
    let set = |mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(directory.path(), permissions).unwrap();
    };
    for mode in [0o777, 0o1777] {
        set(mode);
        let error = History::open(&path, Bounds::default()).unwrap_err();
        assert!(crate::chain::chain(&error).contains("others may write into its directory"), "{error:?}");
    }
    set(0o700);
    let elsewhere = directory.path().join("elsewhere");
    std::fs::write(&elsewhere, "").unwrap();
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    History::open(&path, Bounds::default()).unwrap_err();
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"");
}
