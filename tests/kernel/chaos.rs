//! Random steps of everybody's life and death, from a seed that is printed, against the real kernel.
//!
//! After each step the machine must come to rest in the only state that is right: alive are exactly the processes of
//! servers that have no cause to end, each in its leaf or shown as escaped; no cgroup is there without a session; and
//! every end that was told has the cause that was injected.
//!
//! `PINFOLD_CHAOS_SEED` runs a seed again, `PINFOLD_CHAOS_STEPS` says how many steps are taken in all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fastrand::Rng;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    Launched, Machine, eventually, is_root, lives, offered, on_systemd, processes, signal, slowness, v2_mount,
};

/// Steps in all, where nothing else is said and the machine is not emulated.
const STEPS: usize = 1000;

/// Machines that are in chaos at the same time; all of one manager's sessions are one machine's.
const MACHINES: usize = 4;

/// The ids of the sessions that are named.
const SESSIONS: [&str; 3] = ["one", "two/../two", "drei 🦊"];

/// The most servers that live at a time.
const CROWD: usize = 12;

const CONFIG: &str = r#"
    [server]
    grace = "300ms"
    stdin_grace = "200ms"
    memory_max = "1G"
    instances_max = 1
    [[rule]]
    when = { server = "idler*" }
    server = { idle_after = "1s" }
    [[rule]]
    when = { session = "brief*" }
    session = { ttl = "1s" }
    [launches]
    burst = 15
    every = "2s"
    wait_max = "1s"
"#;

#[test]
fn whatever_happens_alive_are_exactly_the_servers_without_a_cause_and_every_end_has_the_cause_it_was_given() {
    if !offered() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("PINFOLD_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let machines = if on_systemd() { 1 } else { MACHINES };
    let default = if slowness() > 1 { 60 } else { STEPS };
    let steps = number("PINFOLD_CHAOS_STEPS").map_or(default, |steps| steps as usize) / machines;
    eprintln!("PINFOLD_CHAOS_SEED={seed} ({machines} machines, {steps} steps each)");
    std::thread::scope(|scope| {
        let chaos = |number| scope.spawn(move || Chaos::new(seed.wrapping_add(number)).run(steps));
        let running: Vec<_> = (0..machines as u64).map(chaos).collect();
        let failed = running.into_iter().map(|thread| thread.join()).filter(Result::is_err).count();
        assert_eq!(failed, 0, "repeat it with PINFOLD_CHAOS_SEED={seed}");
    });
}

/// What a script says so that its processes are known here: its own and the last that it started, whole at once.
fn tell(name: &str) -> String {
    format!("echo $$ $! >\"$AT/{name}.new\"; mv \"$AT/{name}.new\" \"$AT/{name}\"")
}

/// Who owns a server.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    /// The host with this index.
    Host(usize),
    /// The first process of this server: what launched it from inside.
    Server(String),
}

/// A server that has no cause to end.
#[derive(Debug)]
struct Server {
    /// What it was told to be; none where it is a session of its own.
    session: Option<&'static str>,
    owner: Owner,
    /// Its first process, and the one that left its process group.
    pids: [i32; 2],
    /// What its host holds of its stdin; its owner's end is none of that.
    stdin: Option<File>,
    /// Its first process was moved out of its leaf.
    escaped: bool,
    /// The value of its label `part`.
    part: u8,
}

/// One machine, what is alive on it and what has ended there.
struct Chaos {
    machine: Machine,
    rng: Rng,
    hosts: Vec<Option<Launched>>,
    alive: BTreeMap<String, Server>,
    /// The cause that each ended server was given.
    ended: BTreeMap<String, &'static str>,
    /// Of these the ones whose owner was ended, by us, while their own end was weighed: that may have come first.
    orphaned: BTreeSet<String>,
    /// Processes that must be gone.
    gone: BTreeSet<i32>,
    /// What has ended since the machine was last at rest.
    recent: Vec<(String, Server)>,
    /// What the daemon told as the cause, by server.
    told: BTreeMap<String, BTreeSet<String>>,
    /// How much of its log was read.
    read: u64,
    launched: usize,
    /// Where what escapes goes.
    outside: Option<PathBuf>,
    steps: Vec<String>,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let machine = Machine::with_config(CONFIG);
        std::fs::create_dir(machine.path("pids")).unwrap();
        let outside = is_root().then(|| {
            let name = machine.socket().parent().unwrap().file_name().unwrap().to_owned();
            let path = if on_systemd() { v2_mount().unwrap().join(name) } else { machine.root().join("outside") };
            std::fs::create_dir(&path).unwrap();
            path
        });
        Self {
            machine,
            rng: Rng::with_seed(seed),
            hosts: Vec::new(),
            alive: BTreeMap::new(),
            ended: BTreeMap::new(),
            orphaned: BTreeSet::new(),
            gone: BTreeSet::new(),
            recent: Vec::new(),
            told: BTreeMap::new(),
            read: 0,
            launched: 0,
            outside,
            steps: Vec::new(),
        }
    }

    fn run(mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
            self.settle();
        }
        self.did("end all");
        assert!(self.machine.ask(&["end", "--all"]).status.success(), "{}", self.machine.log());
        self.end_all("requested", |_, _| true);
        self.settle();
        self.machine.expect_nothing_left();
        if let Some(outside) = self.outside.take() {
            eventually("what escaped is gone", || std::fs::remove_dir(&outside).map_err(|error| error.to_string()));
        }
    }

    fn did(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    fn step(&mut self) {
        let crowded = self.alive.len() >= CROWD;
        match self.rng.u32(0..100) {
            0..30 if !crowded => self.launch(),
            30..38 => self.end_one(),
            38..41 => self.end_session(),
            41..43 => self.end_labelled(),
            43..48 if !crowded => self.launch_again(),
            48..60 => self.befall(),
            60..68 => self.kill_daemon(),
            68..73 => self.stall_daemon(),
            73..78 => self.restart_daemon(),
            78..83 => self.reload(),
            83..90 => self.escape(),
            90..94 => self.storm(),
            94..96 => self.hog(),
            96..98 => self.outstay(),
            _ => self.befall(),
        }
    }

    /// A living host, the index of it; a new one where there is none, or by chance.
    fn host(&mut self) -> usize {
        let living: Vec<usize> = (0..self.hosts.len()).filter(|index| self.hosts[*index].is_some()).collect();
        if living.is_empty() || (living.len() < 3 && self.rng.u8(0..4) == 0) {
            let mut command = Command::new(self.machine.shell_named("chaos-host"));
            command.args(["-c", "while read -r line; do eval \"$line\"; done"]);
            self.machine.point_here(&mut command);
            command.env("AT", self.machine.path("pids")).stdin(Stdio::piped()).stdout(Stdio::null());
            self.hosts.push(Some(Launched::spawn(command)));
            return self.hosts.len() - 1;
        }
        living[self.rng.usize(0..living.len())]
    }

    fn order(&mut self, host: usize, line: &str) {
        let host = self.hosts[host].as_mut().expect("it lives");
        writeln!(host.child.stdin.as_mut().expect("it is held"), "{line}").unwrap();
    }

    fn name(&mut self, kind: &str) -> String {
        self.launched += 1;
        format!("{kind}{}", self.launched)
    }

    /// Launches one server, or one with another inside, and waits until all of it runs.
    fn launch(&mut self) {
        let host = self.host();
        let name = self.name("s");
        let session = (self.rng.u8(0..4) > 0).then(|| SESSIONS[self.rng.usize(0..SESSIONS.len())]);
        let nested = (self.rng.u8(0..5) == 0).then(|| format!("{name}-inside"));
        let stubborn = self.rng.u8(0..4) == 0;
        self.did(format!("launch {name} in {session:?} by host {host}{}{}", if stubborn { ", deaf" } else { "" }, {
            if nested.is_some() { ", with one inside" } else { "" }
        }));
        let body = |name: &str| format!("setsid sleep 86400 & {}", tell(name));
        let mut script = String::new();
        if stubborn {
            script.push_str("trap '' TERM HUP; ");
        }
        if let Some(inner) = &nested {
            let _ = write!(
                script,
                "\"$PINFOLD\" run --server {inner} -- sh -c '{}; exec sleep 86400' </dev/null & ",
                body(inner).replace('\'', "'\\''")
            );
        }
        let _ = write!(script, "{}; exec sleep 86400", body(&name));
        let fifo = self.machine.path(&format!("{name}.stdin"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let stdin = File::options().read(true).write(true).open(&fifo).unwrap();
        let part = self.rng.u8(1..4);
        let id = session.map_or_else(String::new, |id| format!("--session '{id}'"));
        let stderr = self.machine.path(&format!("{name}.stderr"));
        let script = script.replace('\'', "'\\''");
        self.order(
            host,
            &format!(
                "\"$PINFOLD\" run {id} --label part={part} --server {name} -- sh -c '{script}' <'{}' 2>'{}' &",
                fifo.display(),
                stderr.display()
            ),
        );
        let pids = self.pids(&name, &stderr);
        if let Some(inner) = nested {
            let pids = self.pids(&inner, &stderr);
            let owner = Owner::Server(name.clone());
            self.alive.insert(inner, Server { session, owner, pids, stdin: None, escaped: false, part: 0 });
        }
        let owner = Owner::Host(host);
        self.alive.insert(name, Server { session, owner, pids, stdin: Some(stdin), escaped: false, part });
    }

    /// The same command runs twice in one named session, under two names: the older one makes way.
    fn launch_again(&mut self) {
        let host = self.host();
        let session = SESSIONS[self.rng.usize(0..SESSIONS.len())];
        let elder = self.name("elder");
        let twin = self.name("twin");
        self.did(format!("launch {elder} and then {twin}, which is the same, in {session} by host {host}"));
        let script = self.machine.path(&twin);
        let body = format!("[ -e \"$AT/{elder}\" ] || twin={elder}; twin=${{twin:-{twin}}}");
        let text = format!("#!/bin/sh\n{body}\nsetsid sleep 86400 &\n{}\nexec sleep 86400\n", tell("$twin"));
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        for (name, given) in [(&elder, format!("--server {elder}")), (&twin, String::new())] {
            let stderr = self.machine.path(&format!("{name}.stderr"));
            let run = format!("\"$PINFOLD\" run --session '{session}' {given} -- '{}'", script.display());
            self.order(host, &format!("{run} </dev/null 2>'{}' &", stderr.display()));
            let pids = self.pids(name, &stderr);
            let owner = Owner::Host(host);
            let server = Server { session: Some(session), owner, pids, stdin: None, escaped: false, part: 0 };
            self.alive.insert(name.clone(), server);
        }
        self.end(&elder, "replaced");
    }

    /// The processes of a server, once it runs.
    fn pids(&self, name: &str, stderr: &Path) -> [i32; 2] {
        let path = self.machine.path("pids").join(name);
        eventually(&format!("{name} runs after {:?}", self.steps), || {
            let why = |error: std::io::Error| {
                let said = std::fs::read_to_string(stderr).unwrap_or_default();
                format!("{error}; it said {said:?}; {}", self.machine.log())
            };
            let text = std::fs::read_to_string(&path).map_err(why)?;
            let mut pids = text.split_whitespace().map(|pid| pid.parse().unwrap());
            Ok([pids.next().unwrap(), pids.next().unwrap()])
        })
    }

    /// Notes the end of a server, and of what it launched from inside, which it owned.
    fn end(&mut self, name: &str, cause: &'static str) {
        self.note(name, cause);
        let owner = Owner::Server(name.to_owned());
        let owned = self.alive.iter().filter(|(_, server)| server.owner == owner);
        for inner in owned.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.end(&inner, "owner_gone");
        }
    }

    fn note(&mut self, name: &str, cause: &'static str) {
        let Some(server) = self.alive.remove(name) else { return };
        let owner = Owner::Server(name.to_owned());
        let owned = self.recent.iter().filter(|(_, server)| server.owner == owner);
        self.orphaned.extend(owned.map(|(name, _)| name.clone()));
        self.gone.extend(server.pids);
        self.ended.insert(name.to_owned(), cause);
        // Its stdin stays open until its end was told: closed, it would be a second cause.
        self.recent.push((name.to_owned(), server));
    }

    /// Notes the end of all that match, for the same cause, what they own included.
    fn end_all(&mut self, cause: &'static str, which: impl Fn(&str, &Server) -> bool) {
        let matching: Vec<String> =
            self.alive.iter().filter(|(name, server)| which(name, server)).map(|(name, _)| name.clone()).collect();
        // Owned ones first: they are ordered to end as well, and not for want of an owner.
        for name in matching.iter().rev() {
            self.note(name, cause);
        }
    }

    fn any(&mut self) -> Option<String> {
        let names: Vec<&String> = self.alive.keys().collect();
        (!names.is_empty()).then(|| names[self.rng.usize(0..names.len())].clone())
    }

    /// The id of the session that a server belongs to.
    fn session_of(&self, name: &str) -> String {
        let sessions = self.machine.sessions();
        let holds = |session: &&Value| session["servers"].as_array().unwrap().iter().any(|one| one["name"] == name);
        sessions.iter().find(holds).expect("it settled")["id"].as_str().unwrap().to_owned()
    }

    fn end_one(&mut self) {
        let Some(name) = self.any() else { return };
        let now = self.rng.bool();
        self.did(format!("end {name}{}", if now { " now" } else { "" }));
        let target = format!("{}/{name}", self.session_of(&name));
        let mut arguments = vec!["end", "--server", &target];
        arguments.extend(now.then_some("--now"));
        let output = self.machine.ask(&arguments);
        assert!(output.status.success(), "{output:?}; {}", self.machine.log());
        self.end(&name, "requested");
    }

    fn end_session(&mut self) {
        let Some(name) = self.any() else { return };
        let id = self.session_of(&name);
        self.did(format!("end session {id}"));
        let output = self.machine.ask(&["end", &id]);
        assert!(output.status.success(), "{output:?}; {}", self.machine.log());
        match self.alive[&name].session {
            Some(session) => self.end_all("requested", |_, server| server.session == Some(session)),
            // A session of its own, with what was launched from inside.
            None => {
                let outer = name.trim_end_matches("-inside").to_owned();
                self.end_all("requested", |name, _| name.trim_end_matches("-inside") == outer);
            }
        }
    }

    fn end_labelled(&mut self) {
        let part = self.rng.u8(1..4);
        let labelled = self.alive.iter().filter(|(_, server)| server.part == part).map(|(name, _)| name.clone());
        let labelled: Vec<String> = labelled.collect();
        if labelled.is_empty() {
            return;
        }
        self.did(format!("end part {part}"));
        let output = self.machine.ask(&["end", "--label", &format!("part={part}")]);
        assert!(output.status.success(), "{output:?}; {}", self.machine.log());
        labelled.iter().for_each(|name| self.end(name, "requested"));
    }

    /// Something happens to one server or one host that nobody asks pinfold for.
    fn befall(&mut self) {
        match self.rng.u8(0..3) {
            0 => {
                let living: Vec<usize> = (0..self.hosts.len()).filter(|index| self.hosts[*index].is_some()).collect();
                let Some(host) = self.rng.choice(living) else { return };
                self.did(format!("kill host {host}"));
                let mut killed = self.hosts[host].take().expect("it lives");
                killed.child.kill().unwrap();
                killed.child.wait().unwrap();
                self.orphan(&Owner::Host(host));
            }
            1 => {
                let Some(name) = self.any() else { return };
                self.did(format!("kill the first process of {name}"));
                signal(self.alive[&name].pids[0], Signal::SIGKILL);
                self.note(&name, "leader_exited");
                self.orphan(&Owner::Server(name));
            }
            _ => {
                let held: Vec<String> = self
                    .alive
                    .iter()
                    .filter(|(_, server)| server.stdin.is_some())
                    .map(|(name, _)| name.clone())
                    .collect();
                let Some(name) = self.rng.choice(held) else { return };
                self.did(format!("close the stdin of {name}"));
                self.alive.get_mut(&name).expect("it is alive").stdin = None;
                self.end(&name, "stdin_closed");
            }
        }
    }

    /// Notes what follows from the end of an owner's process.
    fn orphan(&mut self, owner: &Owner) {
        for (name, _) in self.recent.iter().filter(|(_, server)| server.owner == *owner) {
            // Where nobody has looked in between, that explains more.
            self.ended.insert(name.clone(), "owner_gone");
        }
        let owned = self.alive.iter().filter(|(_, server)| server.owner == *owner);
        for name in owned.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.end(&name, "owner_gone");
        }
    }

    fn kill_daemon(&mut self) {
        self.did("kill the daemon");
        self.machine.kill_daemon();
        self.meanwhile();
        self.machine.start();
    }

    fn restart_daemon(&mut self) {
        self.did("restart the daemon");
        self.machine.stop_daemon();
        self.meanwhile();
        self.machine.start();
    }

    fn stall_daemon(&mut self) {
        self.did("stop the daemon's clock");
        let daemon = self.machine.daemon_pid();
        signal(daemon, Signal::SIGSTOP);
        self.meanwhile();
        signal(daemon, Signal::SIGCONT);
    }

    /// What happens while no daemon looks.
    fn meanwhile(&mut self) {
        for _ in 0..self.rng.u8(0..3) {
            self.befall();
        }
    }

    /// The configuration changes, and the daemon is told: once it says so, and what lives has the new limits.
    fn reload(&mut self) {
        let size = self.rng.u32(1..4);
        self.did(format!("reload with {size}G"));
        std::fs::write(self.machine.path("pinfold.toml"), CONFIG.replace("1G", &format!("{size}G"))).unwrap();
        let output = self.machine.ask(&["reload"]);
        assert!(output.status.success(), "{output:?}; {}", self.machine.log());
        for session in self.machine.sessions() {
            for server in session["servers"].as_array().unwrap() {
                assert_eq!(server["memory"]["max_bytes"], u64::from(size) << 30, "{server:#}");
            }
        }
    }

    /// The first process of a server is moved out of its leaf: it is shown, and stays the server's own.
    fn escape(&mut self) {
        let (Some(outside), Some(name)) = (self.outside.clone(), self.any()) else { return };
        self.did(format!("move the first process of {name} out"));
        let server = self.alive.get_mut(&name).expect("it is alive");
        std::fs::write(outside.join("cgroup.procs"), server.pids[0].to_string()).unwrap();
        server.escaped = true;
    }

    /// A server that exits at once is launched again and again.
    fn storm(&mut self) {
        let host = self.host();
        let count = self.rng.u32(5..20);
        self.did(format!("a storm of {count} by host {host}"));
        let name = self.name("storm");
        let done = self.machine.path(&name);
        let launches = "\"$PINFOLD\" run --server storm -- true </dev/null 2>/dev/null &";
        self.order(
            host,
            &format!(
                "( i=0; while [ $i -lt {count} ]; do {launches} i=$((i+1)); done; wait; echo >'{}' ) &",
                done.display()
            ),
        );
        eventually("the storm is over", || if done.exists() { Ok(()) } else { Err(self.machine.log()) });
    }

    /// A server uses more memory than it may.
    fn hog(&mut self) {
        let host = self.host();
        let name = self.name("hog");
        self.did(format!("{name} runs out of memory"));
        let hog = "head -c 300M /dev/zero | tail | sleep 86400";
        let launch = format!("\"$PINFOLD\" run --memory-max 32M --server {name} -- sh -c '{hog}' </dev/null &");
        self.order(host, &launch);
        self.ended.insert(name, "memory");
    }

    /// A server does nothing for too long, or is in a session whose time is short.
    fn outstay(&mut self) {
        let host = self.host();
        let (kind, cause) = if self.rng.bool() { ("idler", "idle") } else { ("late", "expired") };
        let name = self.name(kind);
        self.did(format!("{name} will be {cause}"));
        let session = if cause == "expired" { format!("--session brief-{name}") } else { String::new() };
        let launch = format!("\"$PINFOLD\" run {session} --server {name} -- sleep 86400 </dev/zero &");
        self.order(host, &launch);
        self.ended.insert(name, cause);
    }

    /// Waits until what is alive, in its place and told is exactly what should be.
    fn settle(&mut self) {
        let mut told = std::mem::take(&mut self.told);
        let mut read = self.read;
        let started = format!("after {:?}", self.steps.last());
        eventually(&format!("the machine settles {started}"), || {
            read = self.listen(read, &mut told);
            self.check(&told).map_err(|wrong| {
                format!("{wrong}\nsteps: {:#?}\n{:#?}\n{}", self.steps, self.machine.sessions(), self.machine.log())
            })
        });
        (self.told, self.read) = (told, read);
        self.recent.clear();
    }

    fn check(&self, told: &BTreeMap<String, BTreeSet<String>>) -> Result<(), String> {
        let sessions = self.machine.sessions();
        let mut names = BTreeSet::new();
        // What the directories of the living may be called, in any hierarchy.
        let mut places: BTreeSet<PathBuf> = BTreeSet::new();
        for session in &sessions {
            places.insert(PathBuf::from(session["cgroup"].as_str().unwrap()));
            for server in session["servers"].as_array().unwrap() {
                let name = server["name"].as_str().unwrap();
                names.insert(name.to_owned());
                let Some(expected) = self.alive.get(name) else { return Err(format!("{name} is still there")) };
                if server["state"] != "running" {
                    return Err(format!("{name} is {}", server["state"]));
                }
                let leaf = PathBuf::from(server["cgroup"].as_str().unwrap());
                Self::check_leaf(name, expected, &leaf)?;
                if server["escaped"] != expected.escaped {
                    return Err(format!("{name}: escaped is {}", server["escaped"]));
                }
                places.extend(leaf.ancestors().map(Path::to_owned));
            }
        }
        if let Some(lost) = self.alive.keys().find(|name| !names.contains(*name)) {
            return Err(format!("{lost} is not listed"));
        }
        if let Some(pid) = self.gone.iter().find(|pid| lives(**pid)) {
            return Err(format!("process {pid} lives and has a cause to end"));
        }
        let last = |path: &Path| path.file_name().map(std::ffi::OsStr::to_owned);
        let known: BTreeSet<_> = places.iter().filter_map(|path| last(path)).collect();
        let tree = last(&self.machine.tree());
        for cgroup in self.machine.cgroups() {
            let name = last(&cgroup);
            let ours = name == tree || name.as_ref().is_some_and(|name| known.contains(name));
            // What companions of all sessions stand in is the machine's.
            let machines = name.as_ref().is_some_and(|name| name.to_string_lossy().starts_with("pinfold."));
            if !ours && !machines {
                return Err(format!("{cgroup:?} is of no session"));
            }
        }
        for (name, cause) in &self.ended {
            let right = |told: &&str| told == cause || (*told == "owner_gone" && self.orphaned.contains(name));
            let causes: Vec<&str> = told.get(name).into_iter().flatten().map(String::as_str).collect();
            if causes.len() != 1 || !causes.iter().all(right) {
                return Err(format!("{name} ended for {cause}, and told was {causes:?}"));
            }
        }
        match told.keys().find(|name| self.alive.contains_key(*name)) {
            Some(name) => Err(format!("{name} lives, and its end was told")),
            None => Ok(()),
        }
    }

    fn check_leaf(name: &str, server: &Server, leaf: &Path) -> Result<(), String> {
        let inside: BTreeSet<i32> = processes(leaf).into_iter().collect();
        let expected: BTreeSet<i32> = server.pids.into_iter().skip(usize::from(server.escaped)).collect();
        if inside != expected || !server.pids.iter().all(|pid| lives(*pid)) {
            return Err(format!("{name}: in its leaf are {inside:?}, of {server:?}"));
        }
        Ok(())
    }

    /// Reads on in the log, and gathers the causes that it tells.
    fn listen(&self, from: u64, told: &mut BTreeMap<String, BTreeSet<String>>) -> u64 {
        let mut log = File::open(self.machine.path("serve.log")).unwrap();
        log.seek(SeekFrom::Start(from)).unwrap();
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes).unwrap();
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
            let field = |name: &str| {
                let (_, rest) = line.rsplit_once(&format!(" {name}="))?;
                Some(rest.split_whitespace().next()?.trim_matches('"').to_owned())
            };
            if let (true, Some(server), Some(cause)) =
                (line.contains(" ended server "), field("server"), field("cause"))
            {
                told.entry(server).or_default().insert(cause);
            }
        }
        from + whole as u64
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        if let Some(outside) = self.outside.take() {
            let _ = std::fs::write(outside.join("cgroup.kill"), "1");
            let _ = std::fs::remove_dir(outside);
        }
    }
}
