//! Beside a service manager, inside of a machine that has one (`benches/run --vm`): what a launch, an end and a scrape take
//! with systemd's own tools, and what stays for a container's monitor.
//!
//! The machine is emulated and its CPU some twenty times slower than the host's: its ratios are of interest.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pinfold::client::Client;
use zbus::{OwnedObjectPath, OwnedVariant};

use crate::Fallible;
use crate::end::timed_end;
use crate::figures::{About, Run, Samples, Table};
use crate::launch::{Other, others};
use crate::load;
use crate::machine::{Server, end_by, scrape, timed};
use crate::progress::Progress;
use crate::rounds::{Contender, Interrupt, paced};

const RUN: &str = "systemd-run --scope";
const STOP: &str = "systemctl stop of a scope";
const BUS: &str = "GetAll of each scope over D-Bus";
const MONITOR: &str = "conmon, of each podman container";

/// A shell and nine children, as an npx tree has some ten processes.
const TREE: &str = "i=0; while [ $i -lt 9 ]; do sleep 1000 & i=$((i+1)); done; echo up; wait";

/// One that stays.
const STAYS: &str = "echo up; exec sleep 1000000";

/// How many sessions are read.
const SESSIONS: usize = 20;

/// How many containers are looked at.
const CONTAINERS: usize = 3;

/// Between one thing and the next: what came before is over by then, although it goes on here for as long as a second.
const PAUSE: Duration = Duration::from_secs(1);

/// The same after eight clients.
const SETTLE: Duration = Duration::from_secs(5);

/// How long something is waited for, in a machine as slow as this one.
const WAIT_MAX: Duration = Duration::from_secs(180);

/// Its name there, and what it is made of: an image of busybox.
const IMAGE: &str = "localhost/pinfold-bench";
const IMPORT: &str =
    "set -e; mkdir -p \"$0/root/bin\"; cp /bin/busybox \"$0/root/bin/\"; ln -s busybox \"$0/root/bin/sleep\"
    tar -C \"$0/root\" --owner=0 --group=0 -c . | podman import --quiet - \"$1\"";

/// A daemon of the manager that we stand below.
struct Guest {
    pinfold: PathBuf,
    /// What leads systemd's tools to that manager.
    manager: &'static str,
    directory: tempfile::TempDir,
    daemon: Child,
    number: AtomicUsize,
}

/// Measures all of it.
pub fn run(pinfold: PathBuf, short: bool) -> Fallible<Run> {
    let said = (&Progress::new(), &Interrupt::catch()?);
    nix::sys::prctl::set_child_subreaper(true)?;
    let rounds = if short { 2 } else { 12 };
    let guest = Guest::start(pinfold)?;
    let mut run = Run { about: guest.about(short)?, ..Run::default() };
    let launches = guest.launches(rounds, said, &mut run.missing)?;
    run.tables.push(launches);
    run.tables.push(guest.rates(short, said)?);
    run.tables.push(guest.ends(rounds, said)?);
    let bare = guest.daemon_bytes()?;
    let servers =
        (0..SESSIONS).map(|_| guest.up(&mut guest.run(&guest.name(), STAYS))).collect::<Fallible<Vec<_>>>()?;
    run.tables.push(guest.scrapes(rounds, said)?);
    let grown = guest.daemon_bytes()?.saturating_sub(bare) as f64 / SESSIONS as f64;
    guest.end_all(servers)?;
    match guest.monitors(said.0) {
        Ok(monitors) => run.tables.push(memory(&monitors, grown)),
        Err(error) => run.missing.push(format!("{MONITOR}: {error}")),
    }
    Ok(run)
}

impl Guest {
    fn start(pinfold: PathBuf) -> Fallible<Self> {
        let is_root = nix::unistd::geteuid().is_root();
        let manager = if is_root { "--system" } else { "--user" };
        let directory = tempfile::Builder::new().prefix("pinfold-bench-").tempdir_in(runtime(is_root))?;
        let socket = directory.path().join("pinfold.sock");
        let log = std::fs::File::create(directory.path().join("serve.log"))?;
        let mut command = Command::new(&pinfold);
        // As many of one server by one host would else wait for their turn.
        let config = directory.path().join("pinfold.toml");
        std::fs::write(&config, "launches = { burst = \"infinity\" }\n")?;
        command.args(["serve", "--backend", "systemd", "--socket"]).arg(&socket).arg("--config").arg(config);
        let daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let guest = Self { pinfold, manager, directory, daemon, number: AtomicUsize::new(0) };
        let start = Instant::now();
        while guest.client().is_err() {
            if start.elapsed() > WAIT_MAX {
                let log = std::fs::read_to_string(guest.directory.path().join("serve.log")).unwrap_or_default();
                return Err(format!("the daemon did not start: {log}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(guest)
    }

    fn about(&self, short: bool) -> Fallible<About> {
        let told = Command::new("systemctl").arg("--version").output()?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        let version = told.split_whitespace().nth(1).unwrap_or("?").to_owned();
        let manager = self.manager.trim_start_matches('-');
        Ok(About {
            machine: format!("An emulated machine: systemd {version}, its {manager} manager"),
            ..About::here("v2", short)?
        })
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("pinfold.sock")
    }

    fn client(&self) -> Fallible<Client> {
        Ok(Client::connect(&self.socket())?)
    }

    fn name(&self) -> String {
        format!("bench-{}-{}", std::process::id(), self.number.fetch_add(1, Ordering::Relaxed))
    }

    fn pinfold(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.pinfold);
        command.args(words).env("PINFOLD_SOCKET", self.socket());
        command
    }

    fn run(&self, session: &str, script: &str) -> Command {
        self.pinfold(&["run", "--session", session, "--", "sh", "-c", script])
    }

    fn scope(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new("systemd-run");
        command.args([self.manager, "--quiet", "--collect", "--scope"]).args(options).args(words);
        command
    }

    fn up(&self, command: &mut Command) -> Fallible<Server> {
        Server::start(command)
    }

    fn end_all(&self, servers: Vec<Server>) -> Fallible<()> {
        end_by(&mut self.client()?, None)?;
        Server::reap(servers)
    }

    fn launches(&self, rounds: usize, said: (&Progress, &Interrupt), missing: &mut Vec<String>) -> Fallible<Table> {
        let slice = if self.manager == "--system" { "system.slice:bench:crun" } else { "app.slice:bench:crun" };
        let bundle = self.directory.path().join("bundle");
        let others = others(&[Other::bwrap(), Other::crun(&bundle, "systemd", slice)?], missing);
        let shared = self.name();
        let stays = self.up(&mut self.run(&shared, STAYS))?;
        let launch = |session: &str| timed(&mut self.pinfold(&["run", "--session", session, "--", "true"]));
        let mut contenders = vec![
            Contender::new("plain exec", || timed(&mut Command::new("true"))),
            Contender::new(RUN, || timed(&mut self.scope(&[], &["true"]))),
            Contender::new("pinfold run, first of a session", || launch(&self.name())),
            Contender::new("pinfold run, a further one", || launch(&shared)),
        ];
        contenders.extend(others.iter().map(Other::contender));
        let rows = paced(("launch", PAUSE), &mut contenders, rounds, said)?;
        drop(contenders);
        self.end_all(vec![stays])?;
        Ok(Table::of("Launch of `true`, until it has exited", "ms", RUN, &rows))
    }

    /// How many come through when eight ask at once.
    fn rates(&self, short: bool, said: (&Progress, &Interrupt)) -> Fallible<Table> {
        let (rounds, span) = if short { (1, Duration::from_secs(2)) } else { (4, Duration::from_secs(6)) };
        let scope = |_: usize, _: usize| timed(&mut self.scope(&[], &["true"])).map(drop);
        let run = ["run", "--session"];
        let ours = |_: usize, _: usize| timed(self.pinfold(&run).arg(self.name()).args(["--", "true"])).map(drop);
        load::rates(RUN, &[(RUN, &scope), (load::OURS, &ours)], (rounds, span, SETTLE), said)
    }

    /// From the order on until the kernel says that nobody is there; each by a command, as an operator gives it, and by a request.
    fn ends(&self, rounds: usize, said: (&Progress, &Interrupt)) -> Fallible<Table> {
        let by_manager = |words: &[&str]| {
            let unit = self.name() + ".scope";
            let server = self.up(&mut self.scope(&["--unit", &unit], &["sh", "-c", TREE]))?;
            let directory = cgroup(server.child.id())?;
            let (took, ()) = timed_end(&directory, || {
                let mut command = Command::new("systemctl");
                timed(command.arg(self.manager).args(words).arg(&unit)).map(drop)
            })?;
            Server::reap([server])?;
            Ok(took)
        };
        let by_us = |order: &(dyn Fn(&str) -> Fallible<()> + Sync)| {
            let session = self.name();
            let server = self.up(&mut self.run(&session, TREE))?;
            let directory = cgroup(server.child.id())?;
            let (took, ()) = timed_end(&directory, || order(&session))?;
            Server::reap([server])?;
            Ok(took)
        };
        let by_command = |words: &[&str], session: &str| timed(self.pinfold(words).arg(session)).map(drop);
        let mut contenders = [
            Contender::new(STOP, || by_manager(&["stop"])),
            Contender::new("systemctl kill --signal=KILL of a scope", || by_manager(&["kill", "--signal=KILL"])),
            Contender::new("pinfold end", || by_us(&|session| by_command(&["end"], session))),
            Contender::new("pinfold end --now", || by_us(&|session| by_command(&["end", "--now"], session))),
            Contender::new("pinfold, a request to end now", || {
                by_us(&|session| end_by(&mut self.client()?, Some(session)).map(drop))
            }),
        ];
        let rows = paced(("end of ten processes", PAUSE), &mut contenders, rounds, said)?;
        Ok(Table::of("End of ten processes, beside systemd's", "ms", STOP, &rows))
    }

    fn scrapes(&self, rounds: usize, (progress, interrupt): (&Progress, &Interrupt)) -> Fallible<Table> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bus = runtime.block_on(self.bus())?;
        let units = runtime.block_on(scopes(&bus))?;
        if units.len() != SESSIONS {
            return Err(format!("{} scopes of {SESSIONS} sessions", units.len()).into());
        }
        let (mut calls, mut scrapes) = (Samples::default(), Samples::default());
        for round in 0..=rounds {
            interrupt.check()?;
            progress.say(&format!("scrapes: round {round} of {rounds}"));
            let start = Instant::now();
            runtime.block_on(get_all(&bus, &units))?;
            let called = start.elapsed();
            let (scraped, _) = scrape(&self.socket())?;
            if round > 0 {
                calls.add(called);
                scrapes.add(scraped);
            }
        }
        let rows =
            [(BUS.to_owned(), calls, String::new()), ("pinfold, GET /metrics".to_owned(), scrapes, String::new())];
        Ok(Table::of(&format!("Scrape of {SESSIONS} scopes"), "ms", BUS, &rows))
    }

    async fn bus(&self) -> zbus::Result<zbus::Connection> {
        if self.manager == "--system" {
            return zbus::Connection::system().await;
        }
        let address = format!("unix:path=/run/user/{}/bus", nix::unistd::geteuid());
        zbus::connection::Builder::address(address.as_str()).build().await
    }

    /// What the daemon has for itself, and its share of what it has with others.
    fn daemon_bytes(&self) -> Fallible<u64> {
        proportional(self.daemon.id())
    }

    /// The same of the monitors of some containers.
    fn monitors(&self, progress: &Progress) -> Fallible<Vec<u64>> {
        progress.say("containers");
        let made = Command::new("sh").args(["-c", IMPORT]).arg(self.directory.path()).arg(IMAGE).output()?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).trim().to_owned().into());
        }
        let mut found = Vec::new();
        for _ in 0..CONTAINERS {
            let mut command = Command::new("podman");
            // A unit's id tells podman that its monitor has a cgroup already.
            command
                .args(["run", "--detach", "--network", "none", IMAGE, "sleep", "1000000"])
                .env_remove("INVOCATION_ID");
            let told = command.output()?;
            if !told.status.success() {
                return Err(String::from_utf8_lossy(&told.stderr).trim().to_owned().into());
            }
            let id = String::from_utf8_lossy(&told.stdout).trim().to_owned();
            let format = "{{.State.ConmonPid}}";
            let pid = Command::new("podman").args(["inspect", "--format", format, &id]).output()?;
            found.push(proportional(String::from_utf8_lossy(&pid.stdout).trim().parse()?)?);
        }
        let _ = Command::new("podman").args(["rm", "--all", "--force", "--time", "0"]).output();
        Ok(found)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.client().and_then(|mut client| end_by(&mut client, None));
        let pid = nix::unistd::Pid::from_raw(self.daemon.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.daemon.wait();
    }
}

/// Where the files of a daemon are in life.
fn runtime(is_root: bool) -> PathBuf {
    if is_root { "/run".into() } else { format!("/run/user/{}", nix::unistd::geteuid()).into() }
}

/// The v2 directory in which a process stands.
fn cgroup(pid: u32) -> Fallible<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let place = text.trim().strip_prefix("0::/").ok_or("its cgroup is not told")?;
    Ok(Path::new("/sys/fs/cgroup").join(place))
}

fn proportional(pid: u32) -> Fallible<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("it has no Pss")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? << 10)
}

/// The scopes of all sessions, as objects of the manager.
async fn scopes(bus: &zbus::Connection) -> Fallible<Vec<OwnedObjectPath>> {
    type Unit = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);
    let interface = Some("org.freedesktop.systemd1.Manager");
    let (states, patterns): (Vec<&str>, _) = (vec!["active"], vec!["pinfold-*.scope"]);
    let asked = (states, patterns);
    let (name, path) = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1");
    let told = bus.call_method(Some(name), path, interface, "ListUnitsByPatterns", &asked).await?;
    let units: Vec<Unit> = told.body().deserialize()?;
    Ok(units.into_iter().map(|unit| unit.6).collect())
}

/// What an exporter asks that knows units only.
async fn get_all(bus: &zbus::Connection, units: &[OwnedObjectPath]) -> Fallible<()> {
    for unit in units {
        let interface = Some("org.freedesktop.DBus.Properties");
        let asked = "org.freedesktop.systemd1.Scope";
        let told = bus.call_method(Some("org.freedesktop.systemd1"), unit, interface, "GetAll", &asked).await?;
        let _: HashMap<String, OwnedVariant> = told.body().deserialize()?;
    }
    Ok(())
}

fn memory(monitors: &[u64], grown: f64) -> Table {
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let (mut conmon, mut daemon) = (Samples::default(), Samples::default());
    monitors.iter().for_each(|bytes| conmon.add_number(mib(*bytes as f64)));
    daemon.add_number(mib(grown));
    let note = "no process stays; the daemon grows by this".to_owned();
    let rows = [(MONITOR.to_owned(), conmon, String::new()), ("pinfold, for each session".to_owned(), daemon, note)];
    Table::of("Memory that stays (PSS)", "MiB", MONITOR, &rows)
}
