use super::*;
use crate::argv::MaskedArgv;
use crate::session::Name;
use crate::strays::{Contained, StrayOwner, TREES_MAX};

fn tree(pid: i32, verdict: Verdict, pss: Option<u64>) -> Stray {
    Stray {
        pid,
        server: Name::parse("server-everything").unwrap(),
        argv: MaskedArgv::mask(&["npx", "-y", "x", "--token", "hunter2"]),
        uid: 1000,
        user: None,
        started_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        age_seconds: 3900.0,
        processes: 3,
        pids: vec![pid, pid + 1, pid + 2],
        rss_bytes: Bytes(300 << 20),
        pss_bytes: pss.map(Bytes),
        pss_missing: usize::from(pss.is_none()) * 3,
        owner: (verdict == Verdict::InUse).then(|| StrayOwner { host: Name::parse("codex").unwrap(), pid: 7 }),
        in_container: false,
        verdict,
        reasons: vec!["one".into(), "two".into()],
    }
}

#[test]
fn what_looks_abandoned_is_told_first_with_its_reasons_and_all_with_what_it_costs() {
    let mut survey = Survey::new(vec![
        tree(70, Verdict::InUse, Some(9 << 20)),
        tree(10, Verdict::Abandoned, Some(100 << 20)),
        tree(20, Verdict::Abandoned, Some(200 << 20)),
        tree(30, Verdict::Unclear, None),
    ]);
    survey.contained = Contained { servers: 1, processes: 4 };
    survey.looked_at = 99;
    let told = page(&survey, false);
    let expected = "\
SERVER             LOOKS      PID  PROCS  PSS   RSS   AGE      USER  HOST
server-everything  abandoned  20   3      200M  300M  1h 5min  1000  -
    npx -y x --token ***
    one; two
server-everything  abandoned  10   3      100M  300M  1h 5min  1000  -
    npx -y x --token ***
    one; two
server-everything  unclear    30   3      -     300M  1h 5min  1000  -
    npx -y x --token ***
    one; two

WITHOUT PINFOLD  TREES  PROCS  PSS    RSS
abandoned        2      6      300M   600M
unclear          1      3      -      300M
in use           1      3      9M     300M
together         4      12     309M+  1.2G
1 server is contained, with 4 processes; 99 processes were looked at
1 tree not shown: --all shows them
";
    assert!(told.starts_with(expected), "{told}");
    assert!(told.ends_with("`pinfold adopt 20`\n"), "{told}");
    assert!(page(&survey, true).contains("in use     70   3      9M    300M  1h 5min  1000  codex (7)\n"));
}

#[test]
fn where_there_is_nothing_that_is_told() {
    assert_eq!(
        page(&Survey::new(Vec::new()), false),
        "no server was seen outside of pinfold\n0 servers are contained, with 0 processes; 0 processes were looked at\n\
         nothing to do: what is launched by `pinfold run --` is contained\n"
    );
}

#[test]
fn of_many_trees_some_are_told_and_all_are_counted() {
    let many = (0..TREES_MAX as i32 + 5).map(|pid| tree(pid, Verdict::Abandoned, Some(1 << 20))).collect();
    let survey = Survey::new(many);
    assert_eq!((survey.trees.len(), survey.left_out, survey.abandoned.trees), (TREES_MAX, 5, TREES_MAX + 5));
    let told = page(&survey, false);
    assert_eq!(told.matches("server-everything").count(), ROWS_MAX);
    assert!(told.contains("965 trees not shown"), "{told}");
    assert!(page(&survey, true).contains("5 trees not shown: the largest are shown"));
}
