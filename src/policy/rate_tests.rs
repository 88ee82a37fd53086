use proptest::prelude::*;

use super::*;

const RATE: Rate = Rate { burst: Limit::At(3), every: Duration::from_secs(4), wait_max: Duration::ZERO };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn source(owner: i32, server: &str) -> Source {
    let owner = ProcessId { pid: owner, start_time: 1 };
    Source { uid: 1000, in_container: false, owner, kind: "openclaw".into(), server: Name::parse(server).unwrap() }
}

#[test]
fn a_burst_goes_at_once_and_then_one_in_each_span() {
    let mut buckets = Buckets::default();
    let fs = source(1, "fs");
    for _ in 0..3 {
        assert_eq!(buckets.take(&RATE, &fs, seconds(100)), Ok(()));
    }
    assert_eq!(buckets.take(&RATE, &fs, seconds(101)), Err(Empty { at: seconds(104), begins: true }));
    assert_eq!(buckets.take(&RATE, &fs, seconds(103)), Err(Empty { at: seconds(104), begins: false }));
    assert_eq!(buckets.take(&RATE, &fs, seconds(104)), Ok(()));
    assert_eq!(buckets.take(&RATE, &fs, seconds(104)), Err(Empty { at: seconds(108), begins: false }));
    // Another server of the owner has a bucket of its own.
    assert_eq!(buckets.take(&RATE, &source(1, "git"), seconds(104)), Ok(()));
}

#[test]
fn a_storm_is_over_and_the_next_begins_when_the_bucket_was_full_again() {
    let mut buckets = Buckets::default();
    let fs = source(1, "fs");
    let mut storm = |at| {
        (0..4)
            .map(|_| buckets.take(&RATE, &fs, seconds(at)))
            .filter(|took| took.is_err_and(|empty| empty.begins))
            .count()
    };
    assert_eq!([storm(0), storm(11), storm(100)], [1, 0, 1]);
}

#[test]
fn an_owner_that_comes_back_under_another_number_finds_the_bucket_of_its_kind_as_it_left_it() {
    let mut buckets = Buckets::default();
    let granted = (0..100).filter(|owner| buckets.take(&RATE, &source(*owner, "fs"), seconds(0)).is_ok()).count();
    assert_eq!(granted, 3 * KIN as usize);
    // Another user's is another.
    assert_eq!(buckets.take(&RATE, &Source { uid: 1001, ..source(1, "fs") }, seconds(0)), Ok(()));
}

#[test]
fn without_a_burst_there_is_no_bound_and_nothing_is_kept() {
    let mut buckets = Buckets::default();
    let rate = Rate { burst: Limit::Infinity, ..RATE };
    assert!((0..1000).all(|_| buckets.take(&rate, &source(1, "fs"), seconds(0)).is_ok()));
    assert!(buckets.users.is_empty());
}

#[test]
fn the_default_lets_fifty_sessions_start_the_same_server_at_once() {
    let rate = crate::policy::Settings::default().launches;
    let mut buckets = Buckets::default();
    assert!((0..50).all(|_| buckets.take(&rate, &source(1, "fs"), seconds(0)).is_ok()));
    // And as many again in the minutes after that.
    assert!((1..50).all(|session| buckets.take(&rate, &source(1, "fs"), seconds(session * 4)).is_ok()));
}

#[test]
fn the_table_is_bounded_for_each_user_and_what_is_full_again_is_forgotten() {
    let mut buckets = Buckets::default();
    for number in 0..3000 {
        let _ = buckets.take(&RATE, &Source { kind: format!("k{number}"), ..source(number, "fs") }, seconds(0));
    }
    assert_eq!(buckets.users[&(1000, false)].len(), BUCKETS_MAX + 1);
    assert!(buckets.take(&RATE, &Source { kind: "new".into(), ..source(9999, "fs") }, seconds(0)).is_err());
    let other = Source { uid: 1001, ..source(1, "fs") };
    assert_eq!(buckets.take(&RATE, &other, seconds(0)), Ok(()), "no user's crowd is another's");
    let _ = buckets.take(&RATE, &other, seconds(100_000));
    assert_eq!(buckets.users.keys().collect::<Vec<_>>(), [&(1001, false)]);
}

proptest! {
    #[test]
    fn in_no_window_are_there_more_than_the_burst_and_one_for_each_span(
        burst in 1u32..6, every in 1u64..5000,
        launches in proptest::collection::vec((0i32..6, 0u64..3000), 1..150),
    ) {
        let rate = Rate { burst: Limit::At(burst), every: Duration::from_millis(every), wait_max: Duration::ZERO };
        let mut buckets = Buckets::default();
        let (mut now, mut granted) = (Duration::ZERO, Vec::new());
        for (owner, pause) in launches {
            now += Duration::from_millis(pause);
            match buckets.take(&rate, &source(owner, "fs"), now) {
                Ok(()) => granted.push((owner, now)),
                Err(empty) => prop_assert!(empty.at > now, "what is refused is told a moment to come"),
            }
        }
        let within = |moments: &[Duration], burst: u32, every: Duration| {
            moments.iter().enumerate().all(|(first, start)| moments[first..].iter().enumerate().all(|(more, end)| {
                (more as u128) < u128::from(burst) + (*end - *start).as_nanos() / every.as_nanos().max(1)
            }))
        };
        for owner in 0..6 {
            let own: Vec<Duration> = granted.iter().filter(|(by, _)| *by == owner).map(|(_, at)| *at).collect();
            prop_assert!(within(&own, burst, rate.every), "{own:?}");
        }
        let all: Vec<Duration> = granted.iter().map(|(_, at)| *at).collect();
        prop_assert!(within(&all, burst * KIN, rate.every / KIN), "{all:?}");
    }

    #[test]
    fn who_comes_again_at_the_moment_that_was_told_goes(
        burst in 1u32..6, every in 1u64..5000, crowd in 1usize..30
    ) {
        let rate = Rate { burst: Limit::At(burst), every: Duration::from_millis(every), wait_max: Duration::ZERO };
        let mut buckets = Buckets::default();
        let mut now = Duration::ZERO;
        for _ in 0..crowd {
            if let Err(Empty { at, .. }) = buckets.take(&rate, &source(1, "fs"), now) {
                now = at;
                prop_assert_eq!(buckets.take(&rate, &source(1, "fs"), now), Ok(()));
            }
        }
    }
}
