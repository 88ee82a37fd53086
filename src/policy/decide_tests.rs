use proptest::prelude::*;
use wildmatch::WildMatch;

use super::*;
use crate::policy::{Rule, ServerWishes, SessionWishes, WhenRule};

const GIB: u64 = 1 << 30;

fn missing(what: &str) -> Offer {
    Offer::Missing { why: format!("no {what} controller"), remedy: format!("enable {what}") }
}

fn everything() -> Offers {
    Offers {
        memory: Offer::Holds,
        memory_high: Offer::Holds,
        swap: Offer::Holds,
        pids: Offer::Holds,
        cpu: Offer::Holds,
        io: Offer::Holds,
        trim: Offer::Holds,
        park: Offer::Holds,
        ram: Bytes(16 * GIB),
    }
}

fn nothing() -> Offers {
    Offers {
        memory: missing("memory"),
        memory_high: missing("memory pressure"),
        swap: missing("swap"),
        pids: missing("pids"),
        cpu: missing("cpu"),
        io: missing("io"),
        trim: missing("memory"),
        park: missing("supervision"),
        ram: Bytes(16 * GIB),
    }
}

/// In a container whose processes stand in its own cgroup.
fn withheld() -> Offers {
    let withheld = || Offer::Withheld { why: "processes stand there".into(), remedy: "move them".into() };
    Offers {
        memory: withheld(),
        memory_high: withheld(),
        swap: withheld(),
        pids: withheld(),
        cpu: withheld(),
        io: withheld(),
        trim: withheld(),
        park: Offer::Holds,
        ram: Bytes(16 * GIB),
    }
}

/// A launch of `server` by openclaw in the session `agent:main`.
struct Launch {
    settings: Settings,
    offers: Offers,
    server: &'static str,
    wishes: LimitWishes,
    grace: Option<Duration>,
    confine: Confine,
}

fn launch() -> Launch {
    Launch {
        settings: Settings::default(),
        offers: everything(),
        server: "fs",
        wishes: LimitWishes::default(),
        grace: None,
        confine: Confine::No,
    }
}

impl Launch {
    fn decide(&self) -> Decision {
        let (host, session) = (Name::parse("openclaw").unwrap(), SessionId::parse("agent:main").unwrap());
        let request = Request {
            host: Some(&host),
            session: &session,
            server: &Name::parse(self.server).unwrap(),
            wishes: &self.wishes,
            grace: self.grace,
            confine: self.confine,
            offered: &self.offers,
        };
        decide(&self.settings, &request)
    }

    #[track_caller]
    fn granted(&self) -> Grant {
        match self.decide() {
            Decision::Granted(grant) => *grant,
            Decision::Refused(refusal) => panic!("refused: {refusal}"),
        }
    }

    #[track_caller]
    fn refused(&self, expected: &str) {
        match self.decide() {
            Decision::Granted(grant) => panic!("granted: {grant:?}"),
            Decision::Refused(refusal) => {
                assert!(refusal.to_string().contains(expected), "{refusal}");
                assert!(!refusal.remedy.is_empty());
            }
        }
    }
}

fn memory(text: &str) -> LimitWishes {
    LimitWishes { memory_max: Some(text.parse().unwrap()), ..LimitWishes::default() }
}

fn at(bytes: u64) -> Option<Limit<Bytes>> {
    Some(Limit::At(Bytes(bytes)))
}

#[test]
fn a_launch_that_asks_for_nothing_has_the_defaults() {
    let grant = launch().granted();
    let no_swap = at(0);
    assert_eq!(
        (grant.server.memory_max, grant.server.memory_swap_max, grant.server.pids_max),
        (at(2 * GIB), no_swap, Some(Limit::At(1024)))
    );
    assert_eq!((grant.session.memory_max, grant.session.pids_max), (at(8 * GIB), Some(Limit::At(4096))));
    assert_eq!((grant.machine.memory_max, grant.machine.pids_max), (at(12 * GIB), Some(Limit::At(16_384))));
    assert_eq!((grant.server.cpu_max, grant.server.cpu_weight, grant.server.io_weight), (None, None, None));
    assert_eq!((grant.grace.as_secs(), grant.stdin_grace.as_secs(), grant.on_pids), (3, 5, OnPids::Report));
    assert_eq!(grant.warnings, Vec::<String>::new());
}

#[test]
fn what_the_launch_asks_for_goes_before_a_later_rule_before_an_earlier_one_before_the_table() {
    let mut launch = launch();
    let rule = |server: &str, wishes: ServerWishes| Rule {
        when: WhenRule { server: Some(WildMatch::new(server)), ..WhenRule::default() },
        server: wishes,
        session: SessionWishes::default(),
    };
    let of = |text: &str| ServerWishes { limits: memory(text), ..ServerWishes::default() };
    let second = Some(Duration::from_secs(1));
    launch.settings.server = of("100M");
    assert_eq!(launch.granted().server.memory_max, at(100 << 20));
    launch.settings.rules = vec![
        rule("*", ServerWishes { grace: second, ..of("200M") }),
        rule("chrome-*", of("4G")),
        rule("f*", of("300M")),
    ];
    assert_eq!(launch.granted().server.memory_max, at(300 << 20));
    assert_eq!(Some(launch.granted().grace), second, "a later rule leaves alone what it says nothing about");
    launch.wishes = memory("400M");
    launch.grace = Some(Duration::from_secs(7));
    assert_eq!(launch.granted().server.memory_max, at(400 << 20));
    assert_eq!(launch.granted().grace.as_secs(), 7);
    assert_eq!(launch.granted().server.pids_max, Some(Limit::At(1024)), "what nobody wrote is the default");
}

#[test]
fn a_limit_that_cannot_hold_is_refused_with_a_remedy() {
    let mut launch = launch();
    launch.offers.memory = missing("memory");
    launch.refused("memory_max of 12G (the default) cannot hold here: no memory controller; enable memory, or write");
    launch.offers = everything();
    launch.offers.cpu = missing("cpu");
    assert!(launch.granted().warnings.is_empty(), "nobody asked for a CPU limit");
    launch.wishes.cpu_max = Some("50%".parse().unwrap());
    launch.refused("the server's cpu_max of 50% cannot hold here");
    launch.offers = everything();
    launch.offers.io = missing("io");
    launch.wishes.io_weight = Some("50".parse().unwrap());
    launch.refused("io_weight");
}

#[test]
fn best_effort_drops_what_cannot_hold_and_says_so_once_for_all_levels() {
    let mut launch = launch();
    launch.settings.best_effort = true;
    launch.offers = nothing();
    let grant = launch.granted();
    assert_eq!((grant.server, grant.session, grant.machine), (Limits::default(), Limits::default(), Limits::default()));
    assert_eq!(
        grant.warnings,
        [
            "memory_max of machine, session, server is not held here: no memory controller",
            "pids_max of machine, session, server is not held here: no pids controller",
            "memory_swap_max of server is not held here: no swap controller",
        ]
    );
}

#[test]
fn the_default_of_no_swap_gives_way_and_a_written_one_does_not() {
    let mut launch = launch();
    launch.offers.swap = Offer::NothingToLimit;
    let grant = launch.granted();
    assert_eq!((grant.server.memory_swap_max, grant.warnings.len()), (None, 0), "no swap: it holds by itself");
    launch.offers.swap = missing("swap");
    let grant = launch.granted();
    assert_eq!((grant.server.memory_swap_max, grant.warnings.len()), (None, 1));
    launch.wishes.memory_swap_max = Some("0".parse().unwrap());
    launch.refused("the server's memory_swap_max of 0B cannot hold here");
    launch.offers.swap = Offer::NothingToLimit;
    assert_eq!(launch.granted().warnings.len(), 0);
}

#[test]
fn a_session_lives_for_as_long_as_the_last_rule_that_speaks_of_it_says() {
    let mut launch = launch();
    assert_eq!(launch.granted().ttl, Limit::Infinity);
    let ttl = |text: &str| SessionWishes { ttl: Some(Limit::At(text.parse().unwrap())), ..SessionWishes::default() };
    launch.settings.session = ttl("8h");
    assert_eq!(Some(launch.granted().ttl), ttl("8h").ttl);
    let rule = |session: &str, wishes: SessionWishes| Rule {
        when: WhenRule { session: Some(WildMatch::new(session)), ..WhenRule::default() },
        session: wishes,
        server: ServerWishes::default(),
    };
    let for_ever = SessionWishes { ttl: Some(Limit::Infinity), ..SessionWishes::default() };
    launch.settings.rules = vec![rule("*", ttl("1h")), rule("agent:*", for_ever), rule("other", ttl("2h"))];
    assert_eq!(launch.granted().ttl, Limit::Infinity);
    launch.settings.rules.remove(1);
    assert_eq!(Some(launch.granted().ttl), ttl("1h").ttl);
}

#[test]
fn no_limit_needs_no_controller() {
    let mut launch = launch();
    launch.offers.pids = missing("pids");
    let infinite = Some("infinity".parse().unwrap());
    launch.settings.machine.pids_max = infinite;
    launch.settings.session.limits.pids_max = infinite;
    launch.wishes.pids_max = infinite;
    assert_eq!(launch.granted().server.pids_max, None);
    launch.offers.pids = Offer::Holds;
    assert_eq!(launch.granted().server.pids_max, Some(Limit::Infinity));
}

#[test]
fn less_than_a_process_can_start_with_is_refused_at_every_level() {
    let mut below = launch();
    below.wishes = memory("16777215");
    below.refused("the server's memory_max of 16.0M is less than a process can start with; ask for at least 16M");
    below.wishes = memory("12");
    below.refused(
        "the server's memory_max of 12B is less than a process can start with; ask for at least 16M; a number without a unit \
         counts bytes",
    );
    below.wishes = memory("16M");
    assert_eq!(below.granted().server.memory_max, at(16 << 20));
    below.offers.ram = Bytes(20 << 20);
    below.refused("the machine's memory_max");
    let mut none = launch();
    none.wishes.pids_max = Some(PidsMax(Limit::At(0)));
    none.refused("the server's pids_max of 0");
}

#[test]
fn memory_high_holds_where_its_watchdog_can_see_and_is_refused_elsewhere() {
    let mut launch = launch();
    assert_eq!(launch.granted().server.memory_high, None, "there is none unless somebody asks for it");
    launch.wishes.memory_high = Some("1G".parse().unwrap());
    launch.settings.session.limits.memory_high = Some("50%".parse().unwrap());
    let grant = launch.granted();
    assert_eq!((grant.server.memory_high, grant.session.memory_high), (at(GIB), at(8 * GIB)));
    assert_eq!(grant.stall, STALL);
    launch.offers.memory_high = missing("memory pressure");
    launch.refused("the session's memory_high of 8G cannot hold here: no memory pressure controller");
    launch.settings.best_effort = true;
    let grant = launch.granted();
    assert_eq!((grant.server.memory_high, grant.session.memory_high), (None, None));
    assert_eq!(grant.warnings, ["memory_high of session, server is not held here: no memory pressure controller"]);
    launch.wishes.memory_high = Some("1M".parse().unwrap());
    launch.refused("the server's memory_high of 1M is less than a process can start with");
}

#[test]
fn a_server_may_be_idle_for_ever_unless_its_rule_says_otherwise() {
    let mut launch = launch();
    assert_eq!(launch.granted().idle_after, Limit::Infinity);
    let hour = Limit::At("1h".parse().unwrap());
    launch.settings.server.idle_after = Some(hour);
    assert_eq!(launch.granted().idle_after, hour);
    let server = ServerWishes {
        idle_after: Some(Limit::Infinity),
        memory_high_pressure: Some(70),
        memory_high_for: Some("1min".parse().unwrap()),
        ..ServerWishes::default()
    };
    let when = WhenRule { server: Some(WildMatch::new("f*")), ..WhenRule::default() };
    launch.settings.rules.push(Rule { when, server, ..Rule::default() });
    assert_eq!(launch.granted().idle_after, Limit::Infinity);
    assert_eq!(launch.granted().stall, Stall { span: "1min".parse().unwrap(), percent: 70 });
}

#[test]
fn a_limit_that_a_wider_level_reaches_first_is_told() {
    let mut launch = launch();
    launch.wishes = memory("10G");
    assert_eq!(
        launch.granted().warnings,
        ["the server's memory_max of 10G is out of reach: the session's memory_max of 8G comes first"]
    );
    launch.offers.ram = Bytes(2 * GIB);
    launch.wishes = LimitWishes::default();
    assert_eq!(launch.granted().warnings.len(), 0, "a default is nobody's expectation");
}

#[test]
fn an_end_cannot_be_put_off_for_ever() {
    let mut launch = launch();
    launch.grace = Some(GRACE_MAX);
    assert_eq!(launch.granted().grace, GRACE_MAX);
    launch.grace = Some(GRACE_MAX + Duration::from_secs(1));
    launch.refused("a grace of 601 seconds");
}

fn any_offer() -> impl Strategy<Value = Offer> {
    prop_oneof![Just(Offer::Holds), Just(Offer::NothingToLimit), Just(missing("any"))]
}

fn any_size() -> impl Strategy<Value = Option<MemorySize>> {
    proptest::option::of(prop_oneof![
        (0u64..1 << 60).prop_map(|bytes| MemorySize::Amount(Bytes(bytes))),
        any::<u32>().prop_map(MemorySize::Share),
        Just(MemorySize::Infinity),
    ])
}

prop_compose! {
    fn any_wishes()(
        memory_max in any_size(),
        memory_high in any_size(),
        memory_swap_max in any_size(),
        pids in proptest::option::of(any::<Option<u32>>()),
        cpu in proptest::option::of(any::<Option<u32>>()),
        weight in proptest::option::of(1u32..=10_000),
    ) -> LimitWishes {
        let limit = |max: Option<u32>| max.map_or(Limit::Infinity, Limit::At);
        LimitWishes {
            memory_max,
            memory_high,
            memory_swap_max,
            pids_max: pids.map(|max| PidsMax(limit(max))),
            cpu_max: cpu.map(|max| CpuMax(limit(max))),
            cpu_weight: weight.map(|weight| weight.try_into().unwrap()),
            io_weight: weight.map(|weight| weight.try_into().unwrap()),
        }
    }
}

fn at_most<T: Ord + Copy>(granted: Option<Limit<T>>, asked: Option<Limit<T>>) -> bool {
    match (granted, asked) {
        (Some(Limit::At(granted)), Some(Limit::At(asked))) => granted <= asked,
        (Some(Limit::Infinity), Some(Limit::At(_))) => false,
        (Some(_) | None, _) => true,
    }
}

proptest! {
    #[test]
    fn what_is_granted_is_never_more_than_asked_and_never_below_the_floor(
        wishes in any_wishes(),
        session in any_wishes(),
        best_effort: bool,
        offers in proptest::array::uniform6(any_offer()),
        ram in 0u64..1 << 50,
    ) {
        let mut launch = launch();
        let [memory, memory_high, swap, pids, cpu, io] = offers;
        launch.offers = Offers { memory, memory_high, swap, pids, cpu, io, ram: Bytes(ram), ..everything() };
        launch.settings.best_effort = best_effort;
        launch.settings.session.limits = session;
        launch.wishes = wishes;
        let Decision::Granted(grant) = launch.decide() else { return Ok(()) };
        let Grant { server, session, machine, .. } = *grant;
        prop_assert!(at_most(server.memory_max, wishes.memory_max.map(|size| size.resolve(Bytes(ram)))));
        prop_assert!(at_most(server.memory_high, wishes.memory_high.map(|size| size.resolve(Bytes(ram)))));
        prop_assert!(at_most(server.memory_swap_max, wishes.memory_swap_max.map(|size| size.resolve(Bytes(ram)))));
        prop_assert!(at_most(server.pids_max, wishes.pids_max.map(|PidsMax(max)| max)));
        prop_assert!(at_most(server.cpu_max, wishes.cpu_max.map(|CpuMax(max)| max)));
        for limits in [server, session, machine] {
            let floors = [limits.memory_max, limits.memory_high];
            let floor = floors.iter().flatten().filter_map(|limit| limit.at()).all(|max| max >= MEMORY_MAX_FLOOR);
            prop_assert!(floor && limits.pids_max.and_then(Limit::at) != Some(0));
            let watched = launch.offers.memory_high == Offer::Holds;
            prop_assert!(limits.memory_high.is_none() || watched, "a memory_high without its watchdog");
        }
        if !best_effort {
            let asked = wishes.memory_max.is_some_and(|size| size != MemorySize::Infinity);
            let holds = server.memory_max.is_some() || launch.offers.memory == Offer::NothingToLimit;
            prop_assert!(!asked || holds, "what was asked for holds, or the launch is refused");
        }
    }
}

#[test]
fn a_launch_is_confined_as_the_operator_says_or_more_and_never_less() {
    let granted = |general: Option<Confine>, rule: Option<Confine>, asked: Confine| {
        let mut launch = Launch { confine: asked, ..launch() };
        launch.settings.server.confine = general;
        let server = ServerWishes { confine: rule, ..ServerWishes::default() };
        launch.settings.rules.push(Rule { server, ..Rule::default() });
        launch.granted().confine
    };
    use Confine::{No, Strict, Yes};
    for (general, rule, asked, expected) in [
        (None, None, No, No),
        (None, None, Strict, Strict),
        (Some(Yes), None, No, Yes),
        (Some(Yes), None, Strict, Strict),
        (Some(Strict), Some(No), No, No),
        (Some(No), Some(Strict), Yes, Strict),
    ] {
        assert_eq!(granted(general, rule, asked), expected, "{general:?} {rule:?} {asked}");
    }
}

#[test]
fn in_a_container_what_nobody_wrote_gives_way_and_is_told_in_one_line() {
    let grant = Launch { offers: withheld(), ..launch() }.granted();
    for limits in [grant.server, grant.session, grant.machine] {
        assert_eq!((limits.memory_max, limits.pids_max), (None, None));
    }
    let told = "no memory_max, memory_swap_max, pids_max is held here but the container's own: processes stand there";
    assert_eq!(grant.warnings, [told]);
}

#[test]
fn in_a_container_what_was_asked_for_is_refused_unless_best_effort_but_the_machines_is_not_the_containers() {
    let asks = || LimitWishes { memory_max: Some(MemorySize::Amount(Bytes(GIB))), ..LimitWishes::default() };
    Launch { offers: withheld(), wishes: asks(), ..launch() }.refused("move them, or write best_effort = true");
    let of_session = SessionWishes { limits: asks(), ..SessionWishes::default() };
    let settings = Settings { session: of_session, ..Settings::default() };
    Launch { offers: withheld(), settings, ..launch() }.refused("the session's memory_max of 1G cannot hold here");
    let settings = Settings { best_effort: true, ..Settings::default() };
    assert_eq!(Launch { offers: withheld(), wishes: asks(), settings, ..launch() }.granted().warnings.len(), 1);
    let settings = Settings { machine: asks(), ..Settings::default() };
    assert_eq!(Launch { offers: withheld(), settings, ..launch() }.granted().machine.memory_max, None);
}
