//! Metrics: the figures are the kernel's, what happens is counted once, and whoever scrapes holds nobody up.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::hosts::status_field;
use crate::http::{Answer, exchange};
use crate::servers::{end, inhabitants, level, perl};
use crate::support::{Launched, Machine, eventually, offered, slowness, v1_mount};

const MIB: f64 = 1_048_576.0;

#[track_caller]
fn up(machine: &Machine, options: &[&str], script: &str) -> Launched {
    let mut server = perl(machine, options, &format!("print \"up\\n\"; {script}"));
    assert_eq!(server.line(), "up", "{}", machine.log());
    server
}

/// A number of a cgroup file that has one, or the number behind a key.
fn read(directory: &Path, file: &str, key: &str) -> Option<f64> {
    let text = std::fs::read_to_string(directory.join(file)).ok()?;
    let mut lines = text.lines();
    let found = match key {
        "" => lines.next()?,
        key => lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?,
    };
    found.trim().parse().ok()
}

fn key(machine: &Machine, session: &str) -> String {
    machine.session(session)["key"].as_str().unwrap().to_owned()
}

/// The samples of a session's series and of its servers'.
fn series(answer: &Answer, key: &str) -> usize {
    let label = format!("session=\"{key}\"");
    answer.body.lines().filter(|line| !line.starts_with('#') && line.contains(&label)).count()
}

#[test]
fn the_figures_are_what_the_kernel_says_at_that_moment() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let options = ["--session", "s", "--server", "eats", "--memory-max", "300M", "--host", "codex"];
    let mut server = up(&machine, &options, "grow(64); child { rest }; print \"grown\\n\"; rest");
    assert_eq!(server.line(), "grown", "{}", machine.log());
    let (key, view) = (key(&machine, "s"), machine.session("s"));
    let leaf = view["servers"][0]["leaf"].as_str().unwrap().to_owned();
    let of_session = |name: &str| format!("pinfold_session_{name}{{session=\"{key}\"}}");
    let of_server = |name: &str| format!("pinfold_server_{name}{{session=\"{key}\",server=\"eats\",leaf=\"{leaf}\"}}");
    let on_v1 = v1_mount("memory").is_some();
    // The formula, from the files that this test reads itself.
    let directories = [level(server.pid(), "memory", 0), level(server.pid(), "memory", 1)];
    let rss = |at: &Path| {
        let keys = if on_v1 { ["total_rss", "total_mapped_file"] } else { ["anon", "file_mapped"] };
        Some(keys.into_iter().map(|key| read(at, "memory.stat", key)).sum::<Option<f64>>().unwrap())
    };
    let current = |at: &Path| read(at, if on_v1 { "memory.usage_in_bytes" } else { "memory.current" }, "");
    let inactive = |at: &Path| read(at, "memory.stat", if on_v1 { "total_inactive_file" } else { "inactive_file" });
    let limit = |at: &Path| read(at, if on_v1 { "memory.limit_in_bytes" } else { "memory.max" }, "");
    // It stands still by now, so what is read before and after a scrape is the same, and so is what that reads.
    let scraped = eventually("a scrape between two readings that are alike", || {
        let readings = || directories.each_ref().map(|at| (rss(at), current(at), inactive(at)));
        let before = readings();
        let scraped = machine.scrape();
        let grown = before[0].0.is_some_and(|rss| rss > 64.0 * MIB);
        if grown && before == readings() { Ok(scraped) } else { Err(format!("{before:?}, then {:?}", readings())) }
    });
    for (at, name) in directories.iter().zip([&of_server as &dyn Fn(&str) -> String, &of_session]) {
        assert_eq!(scraped.find(&name("memory_rss_bytes")), rss(at), "{at:?}");
        assert_eq!(scraped.find(&name("memory_current_bytes")), current(at), "{at:?}");
        assert_eq!(scraped.value(&name("memory_working_set_bytes")), current(at).unwrap() - inactive(at).unwrap());
        assert_eq!(scraped.find(&name("memory_limit_bytes")), limit(at), "{at:?}");
        assert_eq!(scraped.value(&name("processes")), 2.0);
        assert!(scraped.value(&name("memory_peak_bytes")) >= current(at).unwrap());
    }
    let directory = Path::new(view["cgroup"].as_str().unwrap());
    let cpu = read(directory, "cpu.stat", "usage_usec").unwrap() / 1e6;
    let told = scraped.value(&of_session("cpu_seconds_total"));
    assert!(told > 0.0 && told <= cpu && cpu - told < 1.0, "{told}, {cpu}");
    let pressed = directory.join("memory.pressure").exists();
    let stall =
        format!("pinfold_session_pressure_seconds_total{{session=\"{key}\",resource=\"memory\",kind=\"some\"}}");
    assert_eq!(scraped.find(&stall).is_some(), pressed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let started = scraped.value(&of_session("start_time_seconds"));
    assert!(now - started < 600.0 && started <= now && started == scraped.value(&of_server("start_time_seconds")));
    assert!(scraped.value(&of_session("last_activity_time_seconds")) >= started);
    assert_eq!(scraped.value("pinfold_sessions{host=\"codex\"}"), 1.0);
    assert_eq!(scraped.value("pinfold_servers{host=\"codex\",server=\"eats\"}"), 1.0);
    assert_eq!(scraped.value("pinfold_processes{host=\"codex\",server=\"eats\"}"), 2.0);
    let held = machine.described()["limits"]["memory"]["state"] == "holds";
    assert_eq!(scraped.value("pinfold_limit_held{limit=\"memory\"}"), f64::from(u8::from(held)));
    assert!(
        scraped.value("pinfold_machine_memory_working_set_bytes")
            <= scraped.value("pinfold_machine_memory_current_bytes")
    );
    assert!(
        scraped.value("pinfold_machine_memory_current_bytes") >= scraped.value(&of_session("memory_current_bytes"))
    );
    let own: f64 = status_field(machine.daemon_pid(), "VmRSS").trim_end_matches(" kB").parse().unwrap();
    assert!((scraped.value("process_resident_memory_bytes") / 1024.0 - own).abs() < 20_000.0);
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn what_happens_is_counted_once() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[launches]\nburst = 3\nevery = '1h'\nwait_max = '0s'\n");
    let server = up(&machine, &["--session", "s", "--server", "kept", "--host", "codex"], "rest");
    let mut exits = machine.run(&["--session", "s", "--server", "exits", "--host", "codex"], "exit 0");
    assert_eq!(exits.exit_status(), 0);
    let mut small = machine.run(&["--session", "s", "--server", "small", "--memory-max", "1K"], "echo ran");
    assert_eq!(small.exit_status(), 125);
    for _ in 0..5 {
        machine.ask(&["run", "--session", "s", "--server", "again", "--host", "codex", "--", "true"]);
    }
    let again = "pinfold_ends_total{cause=\"leader_exited\",host=\"codex\",server=\"again\"}";
    eventually("all that exited has ended", || {
        let ended = machine.scrape().find(again);
        if ended == Some(3.0) { Ok(()) } else { Err(format!("{ended:?}; {}", machine.log())) }
    });
    end(&machine, &["s", "--now"]);
    machine.expect_nothing_left();
    let scraped = machine.scrape();
    for (sample, value) in [
        ("pinfold_launches_total{result=\"granted\"}", 5.0),
        ("pinfold_launches_total{result=\"refused\"}", 3.0),
        ("pinfold_launches_total{result=\"uncontained\"}", 0.0),
        ("pinfold_launch_storms_total", 1.0),
        ("pinfold_launches_delayed_total", 0.0),
        ("pinfold_ends_total{cause=\"requested\",host=\"codex\",server=\"kept\"}", 1.0),
        ("pinfold_ends_total{cause=\"leader_exited\",host=\"codex\",server=\"exits\"}", 1.0),
        (again, 3.0),
        ("pinfold_kills_total{host=\"codex\",server=\"kept\"}", 1.0),
        ("pinfold_kills_total{host=\"codex\",server=\"exits\"}", 0.0),
        ("pinfold_launch_duration_seconds_count", 5.0),
        ("pinfold_end_duration_seconds_count", 5.0),
        ("pinfold_events_total{event=\"ended\"}", 5.0),
        ("pinfold_ending_servers", 0.0),
        ("pinfold_oldest_end_age_seconds", 0.0),
        ("pinfold_sessions_omitted", 0.0),
        ("pinfold_sessions_limit", 1000.0),
    ] {
        assert_eq!(scraped.value(sample), value, "{sample}: {}", scraped.body);
    }
    assert_eq!(scraped.body.matches("session=\"").count(), 0, "the series of a session vanish with it");
    drop(server);
}

#[test]
fn a_memory_kill_is_counted_and_stays_with_its_session_when_its_server_is_gone() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let stays = up(&machine, &["--session", "s", "--server", "stays"], "rest");
    let key = key(&machine, "s");
    let mut eats =
        up(&machine, &["--session", "s", "--server", "eats", "--memory-max", "32M"], "<STDIN>; grow(4) while 1");
    let of_session = format!("pinfold_session_memory_kills_total{{session=\"{key}\"}}");
    assert_eq!(machine.scrape().value(&of_session), 0.0);
    eats.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(eats.exit_status(), 128 + 9);
    let ended = "pinfold_ends_total{cause=\"memory\",host=\"unknown\",server=\"eats\"}";
    // From the kill on, no scrape tells fewer than the one before.
    let mut most = 0.0;
    let scraped = eventually("its end is counted", || {
        let scraped = machine.scrape();
        let kills = scraped.value(&of_session);
        assert!(kills >= most, "{kills} after {most}");
        most = kills;
        let gone = !scraped.body.contains("server=\"eats\",leaf=");
        if scraped.find(ended) == Some(1.0) && gone { Ok(scraped) } else { Err(machine.log()) }
    });
    let directory = machine.session("s")["cgroup"].as_str().unwrap().to_owned();
    let counted = read(Path::new(&directory), "memory.events", "oom_kill").filter(|_| v1_mount("memory").is_none());
    assert_eq!(scraped.value(&of_session), counted.unwrap_or(1.0));
    assert!(most >= 1.0);
    assert_eq!(scraped.value("pinfold_memory_kills_total{host=\"unknown\",level=\"server\",server=\"eats\"}"), 1.0);
    assert!(scraped.value("pinfold_events_total{event=\"memory_kill\"}") >= 1.0);
    assert!(scraped.body.contains("server=\"stays\",leaf="));
    end(&machine, &["s"]);
    machine.expect_nothing_left();
    drop(stays);
}

#[test]
fn series_are_given_to_the_oldest_sessions_until_they_end_and_the_others_are_counted() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[metrics]\nsessions_max = 2\n");
    // The keys are in another order than the launches.
    let servers = ["c", "b", "a"].map(|session| up(&machine, &["--session", session, "--server", "x"], "rest"));
    let keys = ["c", "b", "a"].map(|session| key(&machine, session));
    let shown = |scraped: &Answer| keys.each_ref().map(|key| series(scraped, key) > 0);
    let scraped = machine.scrape();
    assert_eq!((shown(&scraped), scraped.value("pinfold_sessions_omitted")), ([true, true, false], 1.0));
    assert_eq!(scraped.value("pinfold_sessions{host=\"unknown\"}"), 3.0);
    assert_eq!(scraped.value("pinfold_processes{host=\"unknown\",server=\"x\"}"), 3.0);
    end(&machine, &["c"]);
    let scraped = eventually("the next one has its series", || {
        let scraped = machine.scrape();
        if shown(&scraped) == [false, true, true] { Ok(scraped) } else { Err(format!("{:?}", shown(&scraped))) }
    });
    assert_eq!(scraped.value("pinfold_sessions_omitted"), 0.0);
    assert!(!scraped.body.contains(&keys[0]));
    end(&machine, &["--all"]);
    machine.expect_nothing_left();
    drop(servers);
}

#[test]
fn what_hosts_call_their_sessions_is_told_only_where_that_is_wanted() {
    if !offered() {
        return;
    }
    let id = "my\"secret\\<b>\u{e4}";
    for wanted in [false, true] {
        let machine = Machine::with_config(&format!("[metrics]\nsession_ids = {wanted}\n"));
        let server = up(&machine, &["--session", id, "--server", "x"], "rest");
        machine.session(id);
        let (scraped, page) = (machine.scrape(), machine.get("/"));
        assert_eq!(scraped.body.contains(r#"id="my\"secret\\<b>ä""#), wanted, "{}", scraped.body);
        assert_eq!(page.body.contains("<bdi>my&quot;secret\\&lt;b&gt;ä</bdi>"), wanted, "{}", page.body);
        assert!(!page.body.contains("<b>"));
        end(&machine, &["--all"]);
        let page = machine.get("/");
        assert!(page.body.contains("its end was requested"), "{}", page.body);
        machine.expect_nothing_left();
        drop(server);
    }
}

#[test]
fn whoever_asks_gets_the_format_and_the_page_that_it_asks_for() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let text = machine.scrape();
    assert_eq!(text.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(text.body.contains("# TYPE pinfold_adoptions_total counter\npinfold_adoptions_total 0\n"));
    let open = machine.request("GET", "/metrics", "Accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n");
    assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.body.contains("# TYPE pinfold_adoptions counter\npinfold_adoptions_total 0\n"));
    assert!(open.body.ends_with("\n# EOF\n"));
    let (page, again) = (machine.get("/"), machine.get("/"));
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    let nonce = policy.split("script-src 'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    assert!(policy.starts_with("default-src 'none'; ") && page.body.contains(&format!("<script nonce=\"{nonce}\">")));
    assert!(!again.body.contains(nonce), "a nonce is used once");
    assert!(page.body.starts_with("<!doctype html>") && page.body.contains("Nothing is contained."));
    assert_eq!(machine.get("/healthz").body, "ok\n");
    let head = machine.request("HEAD", "/metrics", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.header("content-length").parse::<usize>().unwrap() > 1000);
    assert_eq!(machine.request("GET", "/other", "").status, 404);
    let post = machine.request("POST", "/metrics", "Content-Length: 3\r\n\r\nabc");
    assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD"));
    let long = format!("X: {}\r\n", "x".repeat(100 << 10));
    assert!([431, 400].contains(&machine.request("GET", "/", &long).status), "a head has a bound");
    let socket = machine.path("pinfold.sock.http");
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    machine.stop_daemon();
    assert!(!socket.exists());
}

/// A port of loopback that nobody has: it is held until the daemon is about to be started.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn on_loopback_only_what_names_this_machine_is_answered() {
    if !offered() {
        return;
    }
    let port = free_port();
    let config = format!("[metrics]\nlisten = '127.0.0.1:{port}'\nhosts = ['metrics.example.org']\n");
    let machine = Machine::with_config(&config);
    let ask = |hosts: &str, path: &str| {
        machine.request_at(port, &format!("GET {path} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).status
    };
    for ours in ["localhost", "127.0.0.1:9317", "[::1]", "metrics.example.org:80"] {
        assert_eq!(ask(&format!("Host: {ours}\r\n"), "/healthz"), 200, "{ours}");
    }
    for path in ["/", "/metrics", "/healthz"] {
        assert_eq!(ask("Host: evil.example\r\n", path), 403);
    }
    assert_eq!(ask("", "/metrics"), 403);
    assert_eq!(ask("Host: localhost\r\n", "http://evil.example/metrics"), 403);
    assert_eq!(ask("Host: localhost\r\nHost: evil.example\r\n", "/metrics"), 403);
}

#[test]
fn an_address_that_is_taken_is_told_once_and_costs_nothing_else() {
    if !offered() {
        return;
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let machine = Machine::with_config(&format!("[metrics]\nlisten = '127.0.0.1:{port}'\n"));
    eventually("it is told", || {
        let log = machine.log();
        if log.contains("cannot listen for metrics") { Ok(()) } else { Err(log) }
    });
    let mut server = machine.run(&["--session", "s"], "echo ran");
    assert_eq!(server.exit_status(), 0, "{}", machine.log());
    // A configuration that says something else is heeded at once.
    std::fs::write(machine.path("pinfold.toml"), "[metrics]\nsession_ids = true\n").unwrap();
    assert!(machine.ask(&["reload"]).status.success(), "{}", machine.log());
    assert_eq!(machine.get("/healthz").body, "ok\n");
    assert_eq!(machine.log().matches("cannot listen for metrics").count(), 1, "{}", machine.log());
    std::fs::write(machine.path("pinfold.toml"), "[metrics]\nlisten = 'off'\n").unwrap();
    assert!(machine.ask(&["reload"]).status.success(), "{}", machine.log());
    eventually("it listens no more", || {
        if machine.path("pinfold.sock.http").exists() { Err(machine.log()) } else { Ok(()) }
    });
    machine.expect_nothing_left();
}

#[test]
fn clients_that_are_slow_or_silent_do_not_hold_others_up() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut held = Vec::new();
    for number in 0..40 {
        let mut stream = machine.http();
        match number % 3 {
            0 => {}
            1 => stream.write_all(b"GET /metrics HTTP/1.1\r\nHo").unwrap(),
            // It asks, and does not read what it gets.
            _ => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: any\r\n\r\n").unwrap(),
        }
        held.push(stream);
    }
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(machine.get("/healthz").body, "ok\n");
        assert!(machine.scrape().body.contains("pinfold_build_info"));
        assert!(start.elapsed() < Duration::from_secs(5) * slowness(), "{:?}", start.elapsed());
    }
    // The first of them gave way.
    let mut first = held.swap_remove(0);
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_connection_may_carry_several_scrapes() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let ask = "GET /healthz HTTP/1.1\r\nHost: any\r\n";
    let bytes = exchange(machine.http(), &format!("{ask}\r\n{ask}\r\n{ask}Connection: close\r\n\r\n"));
    assert_eq!(String::from_utf8(bytes).unwrap().matches("\r\n\r\nok\n").count(), 3);
}

#[test]
fn the_next_daemon_takes_the_socket_of_one_that_was_killed_and_counts_what_it_took_over() {
    if !offered() {
        return;
    }
    let mut machine = Machine::new();
    let server = up(&machine, &["--session", "s", "--server", "x"], "rest");
    let key = key(&machine, "s");
    assert_eq!(machine.scrape().value("pinfold_launches_total{result=\"granted\"}"), 1.0);
    machine.kill_daemon();
    machine.start();
    let scraped = eventually("the next daemon is scraped", || {
        let taken = std::os::unix::net::UnixStream::connect(machine.path("pinfold.sock.http"));
        taken.map(|_| machine.scrape()).map_err(|error| format!("{error}; {}", machine.log()))
    });
    assert_eq!(scraped.value("pinfold_adoptions_total"), 1.0);
    assert_eq!(scraped.value("pinfold_launches_total{result=\"granted\"}"), 0.0);
    assert_eq!(scraped.value(&format!("pinfold_session_processes{{session=\"{key}\"}}")), 1.0);
    end(&machine, &["s"]);
    machine.expect_nothing_left();
    drop(server);
}

#[test]
fn a_daemon_that_nobody_scrapes_does_not_wake_for_it() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    machine.scrape();
    // A connection that is kept has its end, which is a timer.
    let wakes = || status_field(machine.daemon_pid(), "voluntary_ctxt_switches").parse::<u64>().unwrap();
    let before = wakes();
    // There is no other proof than to wait.
    std::thread::sleep(Duration::from_secs(5));
    let woken = wakes() - before;
    assert!(woken <= 3, "{woken} wakes");
    assert!(inhabitants(&machine.tree()).is_empty());
}
