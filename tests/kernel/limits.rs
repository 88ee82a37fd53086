//! Limits: the kernel holds what was asked for, and whose limit ended a server is told.

use std::path::Path;

use crate::servers::{Process, crowd, end, expect_dead, inhabitants, level, perl, tell};
use crate::support::{Machine, companions_offered, eventually, offered, pass_over, v1_mount};

const MIB: u64 = 1 << 20;

/// The number in a cgroup file; `None` for `max`.
#[track_caller]
fn number(directory: &Path, file: &str) -> Option<u64> {
    let path = directory.join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    text.trim().parse().ok()
}

/// Whether cgroup v2 itself limits here, or v1 companions do.
fn is_hybrid() -> bool {
    v1_mount("memory").is_some() || v1_mount("pids").is_some()
}

/// A script that grows to so many MiB once a line comes in, and says when it is there.
fn grows_to(mib: u64) -> String {
    format!(r#"print "up\n"; <STDIN>; grow({mib}); print "grown\n"; rest"#)
}

#[test]
fn the_limits_of_all_three_levels_are_in_the_kernel_as_asked() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config(
        "[machine]\nmemory_max = \"900M\"\nmemory_swap_max = \"0\"\npids_max = 900\n\
         [session]\nmemory_max = \"600M\"\nmemory_swap_max = \"0\"\npids_max = 600\n",
    );
    let options = ["--session", "s", "--memory-max", "300M", "--memory-swap-max", "20M", "--pids-max", "300"];
    let mut server = machine.run(&options, "echo up; exec cat");
    assert_eq!(server.line(), "up");
    machine.session("s");
    let asked = [(300, 20, 300), (600, 0, 600), (900, 0, 900)];
    for (up, (memory, swap, pids)) in asked.into_iter().enumerate() {
        let (in_memory, in_pids) = (level(server.pid(), "memory", up), level(server.pid(), "pids", up));
        if v1_mount("memory").is_some() {
            assert_eq!(number(&in_memory, "memory.limit_in_bytes"), Some(memory * MIB), "{in_memory:?}");
            if in_memory.join("memory.memsw.limit_in_bytes").exists() {
                let both = Some((memory + swap) * MIB);
                assert_eq!(number(&in_memory, "memory.memsw.limit_in_bytes"), both, "{in_memory:?}");
            }
        } else {
            assert_eq!(number(&in_memory, "memory.max"), Some(memory * MIB), "{in_memory:?}");
            if in_memory.join("memory.swap.max").exists() {
                assert_eq!(number(&in_memory, "memory.swap.max"), Some(swap * MIB), "{in_memory:?}");
            }
        }
        assert_eq!(number(&in_pids, "pids.max"), Some(pids), "{in_pids:?}");
    }
    let view = machine.session("s");
    assert_eq!(view["memory"]["max_bytes"], 600 * MIB);
    assert_eq!(view["servers"][0]["memory"]["max_bytes"], 300 * MIB);
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn no_limit_asked_for_is_no_limit_in_the_kernel() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let options = ["--session", "s", "--memory-max", "infinity", "--pids-max", "infinity"];
    let mut server = machine.run(&options, "echo up; exec cat");
    assert_eq!(server.line(), "up", "{}", machine.log());
    assert_eq!(number(&level(server.pid(), "pids", 0), "pids.max"), None);
    assert!(machine.session("s")["servers"][0]["memory"]["max_bytes"].is_null());
    assert!(!machine.session("s")["memory"]["max_bytes"].is_null(), "the session's default still holds");
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn a_memory_limit_below_what_a_process_can_start_with_is_refused() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    for size in ["1", "4K", "15M", "0%"] {
        let mut server = machine.run(&["--session", "s", "--memory-max", size], "echo up");
        assert_eq!(server.exit_status(), 125, "{size}");
        assert_eq!(server.line(), "", "{size}: it does not run");
        let told = server.stderr();
        assert!(told.contains("less than a process can start with") && told.contains("at least 16M"), "{told}");
        assert_eq!(told.contains("of 1B is less"), size == "1", "{told}");
        assert!(size == "0%" || !told.contains("of 0B"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    assert!(machine.cgroups().is_empty(), "nothing was made for it");
    let mut enough = machine.run(&["--session", "s", "--memory-max", "16M"], "echo up");
    assert_eq!(enough.line(), "up", "{}", machine.log());
    assert_eq!(enough.exit_status(), 0);
    machine.expect_nothing_left();
}

#[test]
fn a_cpu_or_io_limit_holds_or_is_refused_with_its_reason() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    for (option, value, controller, key) in [
        ("--cpu-max", "50%", "cpu", "cpu_max of 50%"),
        ("--cpu-weight", "50", "cpu", "cpu_weight of 50"),
        ("--io-weight", "50", "io", "io_weight of 50"),
    ] {
        let mut server = machine.run(&["--session", "s", option, value], "echo up; exec cat");
        if !is_hybrid() && offers(&machine, controller) {
            assert_eq!(server.line(), "up", "{}", machine.log());
            let leaf = machine.leaf("s");
            let (file, held) = match option {
                "--cpu-max" => ("cpu.max", "50000 100000"),
                "--cpu-weight" => ("cpu.weight", "50"),
                _ => ("io.weight", "default 50"),
            };
            assert!(std::fs::read_to_string(leaf.join(file)).unwrap().starts_with(held), "{file}");
            end(&machine, &["s"]);
            continue;
        }
        assert_eq!(server.exit_status(), 125, "{option}");
        assert_eq!(server.line(), "", "{option}: it does not run");
        let told = server.stderr();
        assert!(told.contains(&format!("the server's {key} cannot hold here")), "{told}");
        assert!(told.contains(&format!("{controller} controller")) && told.contains("best_effort"), "{told}");
        assert_eq!(is_hybrid(), told.contains("systemd.unified_cgroup_hierarchy=1"), "{told}");
    }
    machine.expect_nothing_left();
}

fn offers(machine: &Machine, controller: &str) -> bool {
    let offered = std::fs::read_to_string(machine.root().join("cgroup.controllers")).unwrap();
    offered.split_whitespace().any(|name| name == controller)
}

#[test]
fn under_best_effort_a_limit_that_cannot_hold_is_a_warning() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("best_effort = true\n");
    if !is_hybrid() && offers(&machine, "cpu") {
        pass_over("the cpu limit holds on this layout");
        return;
    }
    let options = ["--session", "s", "--cpu-max", "50%", "--memory-max", "100M"];
    let mut server = machine.run(&options, "echo up; exec cat");
    assert_eq!(server.line(), "up", "{}", machine.log());
    let view = machine.session("s")["servers"][0].clone();
    let warnings = view["warnings"].to_string();
    assert!(warnings.contains("cpu_max of server is not held here"), "{warnings}");
    assert_eq!(view["memory"]["max_bytes"], 100 * MIB, "what can hold, holds");
    end(&machine, &["s"]);
    let told = server.stderr();
    assert!(told.contains("pinfold: warning: cpu_max of server is not held here"), "{told}");
    machine.expect_nothing_left();
}

#[test]
fn a_leaf_out_of_memory_dies_whole_and_its_sibling_server_lives() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut other = machine.run(&["--session", "s", "--server", "other"], "echo up; exec cat");
    assert_eq!(other.line(), "up");
    // The first process does nothing; one child grows beyond the limit, one has left the terminal session.
    let script = r#"
        my $modest = child { POSIX::setsid(); rest };
        my $hog = child { <STDIN>; grow(200); print "grown\n"; rest };
        print "$modest $hog\n"; rest"#;
    let options = ["--session", "s", "--server", "hog", "--memory-max", "40M"];
    let mut hog = perl(&machine, &options, script);
    let line = hog.line();
    let mut all: Vec<Process> = line.split(' ').map(Process::told).collect();
    all.push(Process::of(hog.pid()));
    eventually("both servers run", || {
        let sessions = machine.sessions();
        if sessions[0]["servers"][1]["state"] == "running" { Ok(()) } else { Err(format!("{sessions:?}")) }
    });
    tell(&mut hog);
    assert_eq!(hog.exit_status(), 128 + 9, "{}", machine.log());
    let told = hog.stderr();
    assert_eq!(hog.line(), "", "the limit held");
    assert!(told.contains("ended server hog of session s: memory ran out: the server's own memory limit"), "{told:?}");
    eventually("the leaf is gone", || {
        let servers = machine.sessions()[0]["servers"].clone();
        if servers.as_array().unwrap().len() == 1 { Ok(()) } else { Err(servers.to_string()) }
    });
    expect_dead(&all);
    let log = machine.log();
    assert!(log.contains(r#"session=s server=hog cause="memory""#), "{log}");
    assert!(Process::of(other.pid()).lives());
    assert_eq!(machine.session("s")["servers"][0]["name"], "other");
    // The sibling's own end is its own: nothing of the other's is told there.
    end(&machine, &["s"]);
    let told = other.stderr();
    assert!(told.contains("its end was requested") && !told.contains("memory ran out"), "{told}");
    machine.expect_nothing_left();
}

#[test]
fn a_limit_above_the_servers_is_told_as_whose_it_was() {
    if !offered() {
        return;
    }
    for (table, hog_session, whose) in
        [("session", "s", "its session's memory limit"), ("machine", "t", "the memory limit of all sessions together")]
    {
        let machine = Machine::with_config(&format!("[{table}]\nmemory_max = \"64M\"\n"));
        let mut modest =
            perl(&machine, &["--session", "s", "--server", "modest", "--memory-max", "50M"], &grows_to(12));
        let mut hog =
            perl(&machine, &["--session", hog_session, "--server", "hog", "--memory-max", "62M"], &grows_to(60));
        assert_eq!((modest.line(), hog.line()), ("up".into(), "up".into()), "{}", machine.log());
        tell(&mut modest);
        assert_eq!(modest.line(), "grown");
        tell(&mut hog);
        assert_eq!(hog.exit_status(), 128 + 9, "{}", machine.log());
        let told = hog.stderr();
        assert!(told.contains(whose), "{table}: {told:?}; {}", machine.log());
        assert!(Process::of(modest.pid()).lives(), "{table}");
        end(&machine, &["--all"]);
        let told = modest.stderr();
        assert!(told.contains("its end was requested"), "{table}: {told}");
        machine.expect_nothing_left();
    }
}

#[test]
fn a_companion_that_was_left_with_more_in_it_than_its_session_may_use_keeps_no_launch_out() {
    if !companions_offered() {
        return;
    }
    let machine = Machine::with_config("[session]\nmemory_max = \"32M\"\n");
    let mut ballast = perl(&machine, &["--session", "other"], &grows_to(64));
    let mut first = machine.run(&["--session", "s"], "echo up; exec cat");
    assert_eq!((ballast.line(), first.line()), ("up".into(), "up".into()), "{}", machine.log());
    let companion = level(first.pid(), "memory", 1);
    end(&machine, &["s"]);
    eventually("the session's directories are gone", || match companion.exists() {
        false => Ok(()),
        true => Err(machine.log()),
    });
    // As if it had been left by a daemon that was killed over the removal, with somebody in it.
    std::fs::create_dir(&companion).unwrap();
    std::fs::write(companion.join("cgroup.procs"), ballast.pid().to_string()).unwrap();
    tell(&mut ballast);
    assert_eq!(ballast.line(), "grown");
    let mut again = machine.run(&["--session", "s"], "echo up; exec cat");
    assert_eq!(again.line(), "up", "{}", machine.log());
    assert_eq!(level(again.pid(), "memory", 1), companion);
    assert_ne!(number(&companion, "memory.limit_in_bytes"), Some(32 * MIB), "what is in use is not taken");
    assert!(Process::of(ballast.pid()).lives());
    end(&machine, &["other"]);
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn after_a_sibling_died_for_the_sessions_limit_a_server_that_reaches_its_own_is_told_so() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[session]\nmemory_max = \"64M\"\n");
    let mut second = perl(&machine, &["--session", "s", "--server", "b", "--memory-max", "30M"], &grows_to(200));
    let mut first = perl(&machine, &["--session", "s", "--server", "a", "--memory-max", "62M"], &grows_to(200));
    let mut ballast = perl(&machine, &["--session", "s", "--server", "c", "--memory-max", "30M"], &grows_to(12));
    assert_eq!((first.line(), second.line(), ballast.line()), ("up".into(), "up".into(), "up".into()));
    tell(&mut ballast);
    assert_eq!(ballast.line(), "grown");
    tell(&mut first);
    assert_eq!(first.exit_status(), 128 + 9);
    let told = first.stderr();
    assert!(told.contains("its session's memory limit"), "{told:?}; {}", machine.log());
    tell(&mut second);
    assert_eq!(second.exit_status(), 128 + 9);
    let told = second.stderr();
    assert!(told.contains("the server's own memory limit"), "{told:?}; {}", machine.log());
    end(&machine, &["--all"]);
    machine.expect_nothing_left();
}

/// CAP_SYS_RESOURCE, capability 24: a container's root may lack it.
fn may_ask_to_be_spared() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    u64::from_str_radix(effective, 16).unwrap() & (1 << 24) != 0
}

#[test]
fn a_process_that_the_oom_killer_may_not_choose_dies_with_its_leaf() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"
        my $spared = child { eval { put("/proc/$$/oom_score_adj", -1000) }; print "spared\n"; rest };
        child { <STDIN>; grow(200); print "grown\n"; rest };
        print "$spared\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s", "--memory-max", "40M"], script);
    let mut lines = [server.line(), server.line()];
    lines.sort();
    assert_eq!(lines[1], "spared", "{lines:?}");
    let spared = Process::told(&lines[0]);
    let score = |process: &str| std::fs::read_to_string(format!("/proc/{process}/oom_score_adj")).unwrap();
    let (adjusted, own) = (score(&spared.pid.to_string()), score("self"));
    // Without CAP_SYS_RESOURCE nobody can ask to be spared; then it is only the smaller of the two.
    assert_eq!(adjusted.trim(), if may_ask_to_be_spared() { "-1000" } else { own.trim() });
    let (_, all) = crowd(&machine, "s", 3);
    assert!(all.contains(&spared));
    tell(&mut server);
    assert_eq!(server.exit_status(), 128 + 9);
    machine.expect_nothing_left();
    assert!(!spared.lives());
    assert_eq!(server.line(), "", "the limit held");
    assert!(machine.log().contains(r#"cause="memory""#), "{}", machine.log());
}

#[test]
fn a_hog_in_a_memory_cgroup_of_its_own_below_the_companion_is_held_and_told() {
    if !offered() || !companions_offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"
        my $below = at("memory") . "/below"; mkdir($below) or die $!;
        child { put("$below/cgroup.procs", $$); print "up\n"; <STDIN>; grow(200); print "grown\n"; rest };
        rest"#;
    let mut server = perl(&machine, &["--session", "s", "--memory-max", "40M"], script);
    assert_eq!(server.line(), "up");
    let companion = level(server.pid(), "memory", 0);
    assert_eq!(inhabitants(&companion.join("below")).len(), 1);
    machine.session("s");
    tell(&mut server);
    assert_eq!(server.exit_status(), 128 + 9);
    let told = server.stderr();
    assert!(told.contains("the server's own memory limit"), "{told:?}; {}", machine.log());
    assert_eq!(server.line(), "", "the limit held");
    machine.expect_nothing_left();
    assert!(!companion.exists());
}

#[test]
fn a_server_that_only_fills_the_page_cache_is_not_killed() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    // Not below /tmp: the pages of a tmpfs are memory, and nothing can be written back to make room.
    let directory = tempfile::Builder::new().prefix("pinfold-test-").tempdir_in("/var/tmp").unwrap();
    let file = directory.path().join("big");
    let script = format!(
        "dd if=/dev/zero of={0} bs=1M count=300 status=none && dd if={0} of=/dev/null bs=1M status=none; echo $?; exec cat",
        file.display()
    );
    let mut server = machine.run(&["--session", "s", "--memory-max", "64M"], &script);
    let leaf = machine.leaf("s");
    assert_eq!(server.line(), "0", "{}", machine.log());
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 300 * MIB);
    let view = machine.session("s")["servers"][0].clone();
    let peak = view["memory"]["peak_bytes"].as_u64().unwrap();
    assert!(peak > 48 * MIB && peak <= 64 * MIB, "it was at its limit: {view}");
    assert!(leaf.exists() && Process::of(server.pid()).lives());
    assert!(!machine.log().contains("the kernel killed"), "{}", machine.log());
    drop(server.child.stdin.take());
    assert_eq!(server.exit_status(), 0);
    assert_eq!(server.stderr(), "");
    machine.expect_nothing_left();
}

#[test]
fn a_process_limit_refuses_forks_and_is_reported() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"for (1..19) { child { rest } } print defined(fork()) ? "forked\n" : "refused\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s", "--server", "many", "--pids-max", "20"], script);
    assert_eq!(server.line(), "refused");
    let (_, all) = crowd(&machine, "s", 20);
    assert_eq!(machine.session("s")["servers"][0]["pids_refusals"], 1);
    eventually("it is reported", || {
        let log = machine.log();
        if log.contains("a process limit is reached") && log.contains("level=server") { Ok(()) } else { Err(log) }
    });
    assert!(all.iter().all(|process| process.lives()), "and nobody is ended for it");
    end(&machine, &["s"]);
    machine.expect_nothing_left();
}

#[test]
fn a_process_limit_ends_the_server_where_the_policy_says_so() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\non_pids = \"end\"\n");
    let script = r#"print "up\n"; <STDIN>; for (1..20) { fork() // last } rest"#;
    let mut server = perl(&machine, &["--session", "s", "--pids-max", "20"], script);
    assert_eq!(server.line(), "up");
    machine.session("s");
    tell(&mut server);
    assert_eq!(server.exit_status(), 128 + 15, "{}", machine.log());
    let told = server.stderr();
    assert!(told.contains("no more processes: the server's own process limit was reached"), "{told:?}");
    machine.expect_nothing_left();
}

#[test]
fn a_server_that_switched_the_oom_killer_off_stalls_at_its_limit_and_is_ended() {
    if !offered() || !companions_offered() {
        return;
    }
    let machine = Machine::new();
    let script = r#"put(at("memory") . "/memory.oom_control", 1); print "up\n"; grow(200); print "grown\n"; rest"#;
    let mut server = perl(&machine, &["--session", "s", "--memory-max", "40M", "--grace", "300ms"], script);
    assert_eq!(server.line(), "up");
    let companion = level(server.pid(), "memory", 0);
    eventually("it stalls", || {
        let control = std::fs::read_to_string(companion.join("memory.oom_control")).unwrap();
        if control.contains("under_oom 1") { Ok(()) } else { Err(control) }
    });
    let leader = Process::of(server.pid());
    machine.session("s");
    end(&machine, &["s"]);
    assert!(!leader.lives());
    assert!(server.exit_status() > 128);
    assert_eq!(server.line(), "", "the limit held");
    machine.expect_nothing_left();
}
