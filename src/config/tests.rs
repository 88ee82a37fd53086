use proptest::prelude::*;

use super::*;
use crate::confine::Confine;
use crate::limits::{Bytes, MemorySize};
use crate::policy::{OnExcess, OnPids, Rate, SessionWishes, Uncontained};
use crate::session::{Name, SessionId};

const SAMPLE: &str = include_str!("../../deploy/pinfold.toml");

#[track_caller]
fn parsed(text: &str) -> Config {
    Config::parse(text, Path::new("p.toml")).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn wrong(text: &str, expected: &str) {
    let error = Config::parse(text, Path::new("p.toml")).expect_err(text).to_string();
    // The column is told after the line, and has a test of its own.
    let (place, told) = error.split_once(": ").unwrap();
    let told = format!("{}: {told}", place.rsplit_once(':').unwrap().0);
    assert!(told.starts_with(expected), "{error}");
    assert!(!error.contains('\n') && error.contains("; "), "one line that says what to do: {error}");
}

#[test]
fn a_file_that_says_nothing_is_the_default() {
    assert_eq!(parsed(""), Config::default());
    assert_eq!(parsed("[server]\n[daemon]\n"), Config::default());
}

#[test]
fn the_sample_says_nothing_until_its_comments_are_removed() {
    assert_eq!(parsed(SAMPLE), Config::default());
}

/// What is commented out without a space is a line of TOML; what has a space is a sentence or an example.
fn uncommented(prefix: &str) -> String {
    let line =
        |line: &'static str| line.strip_prefix(prefix).filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line);
    SAMPLE.lines().map(|text| line(text).to_owned() + "\n").collect()
}

#[test]
fn the_sample_shows_every_default_as_it_is() {
    let Config { settings, idle_exit, metrics, history } = parsed(&uncommented("#"));
    assert_eq!(settings.machine, Settings::built_in_machine());
    assert_eq!(settings.session, Settings::built_in_session());
    assert_eq!(settings.server, Settings::built_in_server());
    let unsaid =
        Settings { machine: Default::default(), session: Default::default(), server: Default::default(), ..settings };
    assert_eq!(Config { settings: unsaid, idle_exit, metrics, history }, Config::default());
}

#[test]
fn the_sample_shows_every_key() {
    let keys = [
        "allow_leave",
        "best_effort",
        "uncontained",
        "on_pids",
        "idle_after",
        "trim_after",
        "park_after",
        "park_reachable",
        "memory_high_pressure",
        "memory_high_for",
        "stdin_grace",
        "files",
        "ttl",
        "idle_exit",
        "sessions_max",
        "servers_max",
        "instances_max",
        "on_excess",
        "confine",
        "sessions_per_user_max",
        "servers_per_user_max",
        "sessions_per_host_max",
        "servers_per_host_max",
        "burst",
        "every",
        "wait_max",
        "move_processes",
        "listen",
        "listen_anywhere",
        "hosts",
        "session_ids",
        "days",
        "max_size",
    ];
    let limits = ["memory_max", "memory_swap_max", "pids_max", "cpu_max", "cpu_weight", "io_weight", "memory_high"];
    for key in keys.into_iter().chain(limits) {
        assert!(SAMPLE.contains(key), "{key}");
    }
}

#[test]
fn the_samples_examples_are_rules() {
    let before_hosts = uncommented("#   ").split("# Hosts:").next().unwrap_or_default().to_owned();
    let rules = parsed(&before_hosts).settings.rules;
    assert_eq!(rules.len(), 2);
    let name = |text| Name::parse(text).unwrap();
    let session = SessionId::parse("agent:main:cron:7").unwrap();
    assert!(rules[0].when.matches(None, &session, &name("chrome-devtools-mcp")));
    assert!(rules[1].when.matches(Some(&name("openclaw")), &session, &name("fs")));
}

#[test]
fn every_key_is_understood() {
    let config = parsed(
        r#"
        best_effort = true
        uncontained = "refuse"
        [machine]
        memory_max = "infinity"
        [session]
        pids_max = "infinity"
        ttl = "8h"
        [server]
        memory_max = "1.5G"
        memory_swap_max = 0
        pids_max = 10
        cpu_max = "150%"
        cpu_weight = 10
        io_weight = 20
        grace = "500ms"
        stdin_grace = "0s"
        on_pids = "end"
        idle_after = "30min"
        trim_after = "5min"
        park_after = "10min"
        park_reachable = true
        memory_high = "1G"
        memory_high_pressure = "70%"
        memory_high_for = "1min"
        instances_max = 2
        on_excess = "refuse"
        confine = "yes"
        [[rule]]
        when.server = "a*"
        server.memory_max = "16M"
        server.confine = "strict"
        [[rule]]
        when.host = "a*"
        session.ttl = "infinity"
        [[host]]
        name = "codex"
        session_env = "CODEX_THREAD_ID"
        [[host]]
        name = "mine"
        commands = ["my-host"]
        [daemon]
        idle_exit = "infinity"
        sessions_max = 1
        servers_max = 2
        sessions_per_user_max = 3
        servers_per_user_max = 4
        sessions_per_host_max = 5
        servers_per_host_max = "6"
        [launches]
        burst = "infinity"
        every = "500ms"
        wait_max = "10s"
        [metrics]
        listen = "10.0.0.5:9317"
        listen_anywhere = true
        hosts = ["metrics.example.org", "[fd00::1]"]
        sessions_max = 0
        session_ids = true
        [history]
        days = 7
        max_size = "2M"
        "#,
    );
    assert_eq!(config.history, Bounds { days: 7, bytes: Bytes(2 << 20) });
    let Metrics { listen, hosts, sessions_max, session_ids } = config.metrics;
    assert_eq!(listen, Listen::Tcp("10.0.0.5:9317".parse().unwrap()));
    assert_eq!((hosts.len(), sessions_max, session_ids), (2, 0, true));
    let settings = config.settings;
    assert!(settings.best_effort);
    assert_eq!((settings.uncontained, config.idle_exit), (Uncontained::Refuse, Limit::Infinity));
    assert_eq!((settings.sessions_max, settings.servers_max), (1, 2));
    assert_eq!((settings.sessions_per_user_max, settings.servers_per_user_max), (Limit::At(3), Limit::At(4)));
    assert_eq!((settings.sessions_per_host_max, settings.servers_per_host_max), (Limit::At(5), Limit::At(6)));
    let every = Duration::from_millis(500);
    assert_eq!(settings.launches, Rate { burst: Limit::Infinity, every, wait_max: Duration::from_secs(10) });
    assert_eq!(
        (settings.server.instances_max, settings.server.on_excess),
        (Some(Limit::At(2)), Some(OnExcess::Refuse))
    );
    assert_eq!(
        (settings.server.confine, settings.rules[0].server.confine),
        (Some(Confine::Yes), Some(Confine::Strict))
    );
    assert_eq!(settings.machine.memory_max, Some(MemorySize::Infinity));
    assert_eq!(settings.server.limits.memory_max, Some(MemorySize::Amount(Bytes(3 << 29))));
    assert_eq!(settings.server.limits.memory_swap_max, Some(MemorySize::Amount(Bytes(0))));
    assert_eq!(settings.server.grace, Some(Duration::from_millis(500)));
    assert_eq!((settings.server.stdin_grace, settings.server.on_pids), (Some(Duration::ZERO), Some(OnPids::End)));
    assert_eq!(settings.server.idle_after, Some(Limit::At("30min".parse().unwrap())));
    assert_eq!(settings.server.trim_after, Some(Limit::At("5min".parse().unwrap())));
    assert_eq!(settings.server.park_after, Some(Limit::At("10min".parse().unwrap())));
    assert_eq!(settings.server.park_reachable, Some(true));
    assert_eq!(settings.server.limits.memory_high, Some(MemorySize::Amount(Bytes(1 << 30))));
    assert_eq!(settings.server.memory_high_pressure, Some(70));
    assert_eq!(settings.server.memory_high_for, Some("1min".parse().unwrap()));
    assert!(settings.server.limits.cpu_weight.is_some() && settings.server.limits.io_weight.is_some());
    assert_eq!(settings.rules[0].session, SessionWishes::default());
    assert_eq!(settings.session.ttl, Some(Limit::At("8h".parse().unwrap())));
    assert_eq!(settings.rules[1].session.ttl, Some(Limit::Infinity));
    let codex = settings.host(&Name::parse("codex").unwrap()).unwrap();
    assert_eq!(codex.session_env.as_deref(), Some("CODEX_THREAD_ID"));
    assert!(codex.session_is_process && codex.commands.len() > 1, "what was not said stays");
    assert_eq!(settings.hosts.last().unwrap().commands, ["my-host"]);
}

#[test]
fn an_empty_session_env_takes_a_built_in_one_away() {
    let config = parsed("[[host]]\nname = \"goose\"\nsession_env = \"\"\n");
    assert_eq!(config.settings.host(&Name::parse("goose").unwrap()).unwrap().session_env, None);
}

#[test]
fn metrics_are_told_where_the_file_says() {
    let listen = |at: &str| parsed(&format!("[metrics]\nlisten = \"{at}\"\n")).metrics.listen;
    assert_eq!((listen("auto"), listen("off")), (Listen::Auto, Listen::Off));
    assert_eq!(listen("/run/x.sock"), Listen::Unix("/run/x.sock".into()));
    assert_eq!(listen("[::1]:80"), Listen::Tcp("[::1]:80".parse().unwrap()), "it is of this machine alone");
}

#[test]
fn a_wrong_file_names_the_line_and_what_to_do() {
    for (text, expected) in [
        ("bset_effort = true", "p.toml:1: bset_effort = true: unknown field `bset_effort`, expected one of"),
        ("\n[server]\nmemory = 1", "p.toml:3: memory = 1: unknown field `memory`"),
        ("[server]\nmemory_max = \"16Q\"", "p.toml:2: memory_max = \"16Q\": \"16Q\" is not a memory size; write"),
        ("[server]\nmemory_max = 1000", "p.toml:2: memory_max = 1000: 1000B is less than a process can start with"),
        ("[server]\nmemory_max = true", "p.toml:2: memory_max = true: \"true\" is not a memory size"),
        ("[session]\nmemory_max = \"0%\"", "p.toml:2: memory_max = \"0%\": 0% is less"),
        ("[session]\nmemory_high = 1", "p.toml:2: memory_high = 1: 1B is less than a process can start with"),
        (
            "[server]\nmemory_high_pressure = 40",
            "p.toml:2: memory_high_pressure = 40: \"40\" is not a part of the time",
        ),
        ("[server]\nmemory_high_pressure = \"0%\"", "p.toml:2: memory_high_pressure = \"0%\": \"0%\" is not a part"),
        ("[server]\nmemory_high_for = \"1h\"", "p.toml:2: memory_high_for = \"1h\": 1h is no time to stand still for"),
        (
            "[session]\nidle_after = \"1h\"",
            "p.toml:2: idle_after = \"1h\": unknown field `idle_after`, expected one of",
        ),
        ("[server]\nidle_after = 5", "p.toml:2: idle_after = 5: \"5\" is not a time to be idle for; write 30min"),
        (
            "[server]\nidle_after = \"1ms\"",
            "p.toml:2: idle_after = \"1ms\": 1ms is too short to tell an idle server by",
        ),
        ("[session]\nttl = 5", "p.toml:2: ttl = 5: \"5\" is not a time to live; write 8h"),
        ("[session]\nttl = \"999ms\"", "p.toml:2: ttl = \"999ms\": 999ms is too short to live for; write at least 1s"),
        ("[machine]\nttl = \"1h\"", "p.toml:2: ttl = \"1h\": unknown field"),
        ("[machine]\npids_max = 0", "p.toml:2: pids_max = 0: \"0\" is not a number of processes"),
        ("[machine]\ngrace = \"1s\"", "p.toml:2: grace = \"1s\": unknown field"),
        ("[server]\ncpu_weight = 0", "p.toml:2: cpu_weight = 0: \"0\" is not a weight"),
        ("[server]\ncpu_max = \"2\"", "p.toml:2: cpu_max = \"2\": \"2\" is not a share of one CPU"),
        ("[server]\ngrace = 5", "p.toml:2: grace = 5: \"5\" is not a time span"),
        ("[server]\ngrace = \"1h\"", "p.toml:2: grace = \"1h\": 1h would hold up the end"),
        ("[server]\non_pids = \"kill\"", "p.toml:2: on_pids = \"kill\": unknown variant `kill`"),
        ("uncontained = true", "p.toml:1: uncontained = true: "),
        ("[daemon]\nsessions_max = 0", "p.toml:2: sessions_max = 0: 0 is not a bound"),
        ("[daemon]\nservers_per_user_max = 0", "p.toml:2: servers_per_user_max = 0: \"0\" is not a cap; write"),
        ("[server]\ninstances_max = 0", "p.toml:2: instances_max = 0: \"0\" is not a cap; write"),
        ("[server]\non_excess = \"end\"", "p.toml:2: on_excess = \"end\": unknown variant `end`"),
        ("[server]\nconfine = true", "p.toml:2: confine = true: "),
        ("[server]\nconfine = \"caps\"", "p.toml:2: confine = \"caps\": unknown variant `caps`"),
        ("[launches]\nburst = -1", "p.toml:2: burst = -1: \"-1\" is not a number of launches; write"),
        ("[launches]\nevery = \"0s\"", "p.toml:2: every = \"0s\": 0s is no span between two launches; write"),
        ("[launches]\nwait_max = \"11s\"", "p.toml:2: wait_max = \"11s\": a host does not wait for its server for 11s"),
        ("[[rule]]\nwhen = {}\nserver = {}", "p.toml:1: [[rule]]: this rule speaks of every launch"),
        ("\n[[rule]]\nwhen.host = \"x\"", "p.toml:2: [[rule]]: this rule says nothing"),
        ("[[rule]]\nwhen.server = \"x\"\nsession.pids_max = 5", "p.toml:1: [[rule]]: the limits of a session cannot"),
        ("[[rule]]\nserver.pids_max = 5", "p.toml:1: [[rule]]: missing field `when`"),
        ("[[rule]]\nwhen.hots = \"x\"", "p.toml:2: when.hots = \"x\": unknown field `hots`"),
        ("[[host]]\nname = \"x\"", "p.toml:1: [[host]]: the host x is not known without its commands"),
        ("[[host]]\nname = \"zed\"\n[[host]]\nname = \"zed\"", "p.toml:3: [[host]]: the host zed is there twice"),
        ("[[host]]\nname = \"a b\"", "p.toml:2: name = \"a b\": name \"a b\" may hold"),
        ("[[host]]\nname = \"x\"\ncommands = []", "p.toml:3: commands = []: a host without commands"),
        ("[[host]]\nname = \"x\"\ncommands = [\"/a\"]", "p.toml:3: commands = [\"/a\"]: \"/a\" is not the name"),
        ("[[host]]\nname = \"zed\"\nsession_env = \"A-B\"", "p.toml:3: session_env = \"A-B\": \"A-B\" is not the name"),
        ("[metrics]\nlistn = \"off\"", "p.toml:2: listn = \"off\": unknown field `listn`"),
        ("[metrics]\nlisten = \"9317\"", "p.toml:1: [metrics]: listen = \"9317\" is no place to listen; write"),
        ("[metrics]\nlisten = \"0.0.0.0:1\"", "p.toml:1: [metrics]: listen = \"0.0.0.0:1\" can be reached from other"),
        ("[metrics]\nlisten = \"[fd00::1]:1\"", "p.toml:1: [metrics]: listen = \"[fd00::1]:1\" can be reached from"),
        ("[metrics]\nsessions_max = -1", "p.toml:1: [metrics]: sessions_max = -1 is no number of sessions; write"),
        ("[metrics]\nhosts = [\"a:80\"]", "p.toml:1: [metrics]: \"a:80\" is not the name of a machine; write"),
        ("[history]\ndays = -1", "p.toml:2: days = -1: \"-1\" is no number of days; write a whole number up to 3660"),
        ("[history]\nmax_size = \"5\"", "p.toml:2: max_size = \"5\": \"5\" is no size for a history; write 64M"),
        ("[history]\nmax_size = \"infinity\"", "p.toml:2: max_size = \"infinity\": \"infinity\" is no size"),
        ("a = = 1", "p.toml:1: a = = 1: "),
        ("[server]\n[server]", "p.toml:2: [server]: duplicate key"),
    ] {
        wrong(text, expected);
    }
}

#[test]
fn an_entry_of_another_table_is_told_where_it_belongs() {
    for (text, table) in [
        ("[session]\npark_after = \"1h\" # when idle", Some("[server]")),
        ("[machine]\nttl = \"1h\"", Some("[session]")),
        ("memory_max = \"1G\"", Some("[server] or [session] or [machine]")),
        ("[server]\nlisten = \"off\"", Some("[metrics]")),
        ("[server]\nmemory = 1", None),
        ("[server]\npark_afer = \"1h\"", None),
        ("[session]\npark_after = 1.5", None),
    ] {
        let error = Config::parse(text, Path::new("p.toml")).unwrap_err().to_string();
        let told = error.split_once("; it belongs under ").map(|(_, rest)| rest);
        assert_eq!(told, table, "{error}");
    }
}

#[test]
fn a_wrong_file_names_the_column() {
    for (text, place) in [("[server]\n  pids_max = 0", "p.toml:2:14: "), ("# ä\n[server]\nx = 1", "p.toml:3:1: ")] {
        let error = Config::parse(text, Path::new("p.toml")).unwrap_err().to_string();
        assert!(error.starts_with(place), "{error}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pinfold.toml");
    let error = Config::load(&path).unwrap_err();
    assert!(matches!(&error, ConfigError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound));
    assert_eq!(error.to_string(), format!("cannot read the configuration file {}", path.display()));
    std::fs::write(&path, "best_effort = true").unwrap();
    assert!(Config::load(&path).unwrap().settings.best_effort);
    std::fs::write(&path, " ".repeat(Config::MAX_BYTES as usize + 1)).unwrap();
    assert!(matches!(Config::load(&path), Err(ConfigError::Read { .. })));
}

proptest! {
    #[test]
    fn parsing_any_text_never_panics(text in "(\\[{0,2}(server|rule|host|when)\\]{0,2}|[a-z_]{1,5} = |\"|[0-9]|\n|.){0,30}") {
        let _ = Config::parse(&text, Path::new("p.toml"));
    }
}

#[test]
fn a_hosts_files_are_named_from_the_root_or_from_home_on() {
    let config = parsed("[[host]]\nname = 'openclaw'\nfiles = ['~/.openclaw/openclaw.json', '/etc/openclaw.json']\n");
    let files = &config.settings.host(&Name::parse("openclaw").unwrap()).unwrap().files;
    assert_eq!(files, &[PathBuf::from("~/.openclaw/openclaw.json"), PathBuf::from("/etc/openclaw.json")]);
    wrong(
        "[[host]]\nname = 'zed'\nfiles = ['settings.json']\n",
        "p.toml:3: files = ['settings.json']: \"settings.json\" is below",
    );
}
