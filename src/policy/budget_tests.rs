use proptest::prelude::*;

use super::*;

struct Held {
    id: SessionId,
    uid: u32,
    host: Option<Name>,
    servers: u32,
}

fn held(uid: u32, host: &str, id: &str, servers: u32) -> Held {
    Held { id: SessionId::parse(id).unwrap(), uid, host: Name::parse(host).ok(), servers }
}

/// What a launch of this user and host is told.
fn asked(settings: &Settings, (uid, reader): (u32, u32), host: &str, known: bool, all: &[Held]) -> Result<(), String> {
    let host = Name::parse(host).ok();
    let newcomer = Newcomer {
        uid,
        realm: Realm::Host,
        reader: (reader, Realm::Host),
        host: host.as_ref(),
        session_is_known: known,
    };
    let holdings: Vec<Holding<'_>> = all
        .iter()
        .map(|held| Holding {
            id: &held.id,
            uid: held.uid,
            realm: Realm::Host,
            host: held.host.as_ref(),
            servers: held.servers,
            of_host: if held.host == host { held.servers } else { 0 },
        })
        .collect();
    has_room(settings, &newcomer, &holdings).map_err(|refusal| {
        assert!(!refusal.remedy.is_empty());
        refusal.reason
    })
}

fn crowd() -> Vec<Held> {
    vec![
        held(1000, "openclaw", "agent:main", 40),
        held(1000, "openclaw", "agent:cron", 7),
        held(1000, "codex", "codex-1-2", 3),
        held(1000, "", "mine", 2),
        held(1001, "zed", "secret of another", 9),
    ]
}

#[test]
fn each_cap_counts_what_it_says_and_is_reached_at_its_number() {
    type Cap = fn(&mut Settings, u32);
    let caps: [(Cap, u32, &str); 6] = [
        (|settings, max| settings.sessions_max = max, 5, "pinfold holds 5 sessions already, and sessions_max allows 5"),
        (|settings, max| settings.servers_max = max, 61, "pinfold holds 61 servers already, and servers_max allows 61"),
        (
            |settings, max| settings.sessions_per_user_max = Limit::At(max),
            4,
            "uid 1000 holds 4 sessions already, and sessions_per_user_max allows 4",
        ),
        (
            |settings, max| settings.servers_per_user_max = Limit::At(max),
            52,
            "uid 1000 holds 52 servers already, and servers_per_user_max allows 52",
        ),
        (
            |settings, max| settings.sessions_per_host_max = Limit::At(max),
            2,
            "host openclaw of uid 1000 holds 2 sessions already, and sessions_per_host_max allows 2",
        ),
        (
            |settings, max| settings.servers_per_host_max = Limit::At(max),
            47,
            "host openclaw of uid 1000 holds 47 servers already, and servers_per_host_max allows 47",
        ),
    ];
    for (cap, count, reason) in caps {
        let mut settings = Settings::default();
        cap(&mut settings, count + 1);
        assert_eq!(asked(&settings, (1000, 1000), "openclaw", false, &crowd()), Ok(()), "{reason}");
        cap(&mut settings, count);
        let told = asked(&settings, (1000, 1000), "openclaw", false, &crowd()).unwrap_err();
        assert!(told.starts_with(reason), "{told}");
        let known = asked(&settings, (1000, 1000), "openclaw", true, &crowd());
        assert_eq!(
            known.is_ok(),
            reason.contains("sessions already"),
            "a session that is there needs no room: {known:?}"
        );
    }
}

#[test]
fn a_refusal_names_the_biggest_users_and_shows_nobody_what_others_run() {
    let settings = Settings { servers_max: 5, ..Settings::default() };
    let told = |reader| asked(&settings, (1001, reader), "zed", true, &crowd()).unwrap_err();
    assert_eq!(
        told(1001),
        "pinfold holds 61 servers already, and servers_max allows 5; the most have uid 1000 (52), uid 1001 (9); \
         host zed (9); session secret of another (9)"
    );
    assert_eq!(
        told(0),
        "pinfold holds 61 servers already, and servers_max allows 5; the most have uid 1000 (52), uid 1001 (9); \
         host openclaw (47), host zed (9), host codex (3); \
         session agent:main (40), session secret of another (9), session agent:cron (7)"
    );
    assert!(!told(1002).contains("session "), "{}", told(1002));
}

#[test]
fn the_cap_of_a_host_holds_for_one_user_and_for_no_launch_of_an_unknown_host() {
    let one = Limit::At(1);
    let settings = Settings { servers_per_host_max: one, sessions_per_host_max: one, ..Settings::default() };
    for (uid, host, refused) in
        [(1000, "openclaw", true), (1001, "openclaw", false), (1000, "zed", false), (1000, "", false)]
    {
        let told = asked(&settings, (uid, uid), host, false, &crowd());
        assert_eq!(told.is_err(), refused, "{uid} {host}: {told:?}");
    }
}

proptest! {
    #[test]
    fn where_every_launch_asks_no_cap_is_ever_exceeded(
        launches in proptest::collection::vec((0u32..3, 0usize..3, 0u32..4), 0..80),
        (user, host, machine) in (1u32..9, 1u32..6, 1u32..20),
    ) {
        let settings = Settings {
            servers_max: machine,
            servers_per_user_max: Limit::At(user),
            servers_per_host_max: Limit::At(host),
            sessions_per_user_max: Limit::At(2),
            ..Settings::default()
        };
        let mut all: Vec<Held> = Vec::new();
        for (uid, which, session) in launches {
            let name = ["openclaw", "zed", ""][which];
            let id = format!("{name} {session}");
            let found = all.iter().position(|held| held.uid == uid && held.id.as_str() == id);
            if asked(&settings, (uid, uid), name, found.is_some(), &all).is_ok() {
                match found {
                    Some(index) => all[index].servers += 1,
                    None => all.push(held(uid, name, &id, 1)),
                }
            }
        }
        prop_assert!(all.iter().map(|held| held.servers).sum::<u32>() <= machine);
        for uid in 0..3 {
            let own = || all.iter().filter(|held| held.uid == uid);
            prop_assert!(own().count() <= 2 && own().map(|held| held.servers).sum::<u32>() <= user);
            let of_host = own().filter(|held| held.host.as_ref().is_some_and(|name| name.as_str() == "zed"));
            prop_assert!(of_host.map(|held| held.servers).sum::<u32>() <= host);
        }
    }
}

#[test]
fn what_root_launches_in_containers_counts_apart_and_learns_nothing_of_the_rest() {
    use crate::realm::Container;
    let (one, other) = (Container::at("/docker/1").realm(), Container::at("/docker/2").realm());
    let ids = ["host", "one", "other"].map(|id| SessionId::parse(id).unwrap());
    let holdings: Vec<Holding<'_>> = [Realm::Host, one, other]
        .into_iter()
        .zip(&ids)
        .map(|(realm, id)| Holding { id, uid: 0, realm, host: None, servers: 2, of_host: 0 })
        .collect();
    let ask = |settings: &Settings, realm| {
        let newcomer = Newcomer { uid: 0, realm, reader: (0, realm), host: None, session_is_known: true };
        has_room(settings, &newcomer, &holdings)
    };
    let settings = Settings { servers_per_user_max: Limit::At(4), ..Settings::default() };
    assert!(ask(&settings, Realm::Host).is_ok());
    let told = ask(&settings, one).unwrap_err().reason;
    assert!(told.starts_with("uid 0 in containers holds 4 servers already"), "{told}");
    assert!(told.contains("session one (2)") && !told.contains("other"), "{told}");
    let full = Settings { servers_max: 6, ..Settings::default() };
    let told = ask(&full, one).unwrap_err().reason;
    assert!(told.contains("uid 0 in containers (4), uid 0 (2)") && !told.contains("session host"), "{told}");
    assert!(ask(&full, Realm::Host).unwrap_err().reason.contains("session other (2)"));
}

#[test]
fn a_launch_is_refused_while_there_are_still_descriptors_for_what_else_is_done() {
    for (max, most) in [(20_000, 19_488), (1024, 768), (64, 48)] {
        assert!(has_descriptors(most - 1, max).is_ok(), "{max}");
        let told = has_descriptors(most, max).unwrap_err().to_string();
        let count = format!("the daemon has {most} of the {max} descriptors");
        assert!(told.starts_with(&count) && told.contains("LimitNOFILE="), "{told}");
    }
}
