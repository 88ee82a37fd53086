//! A launch as a host would make it, of a process that does nothing: whether it comes to stand in a leaf, and leaves it.
//!
//! It has the options that the host's file gives pinfold, and the little environment that hosts give their servers. It is in
//! a session of its own, so that it counts in nobody's budget and replaces nobody's server. What runs is this very program
//! and nothing that the file names: whoever wrote that, as in a project from elsewhere, would have it run as whoever asks.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::super::wrap::front;
use super::super::Finding;
use crate::cgroup::Membership;
use crate::chain::chain;
use crate::client::{self, Client, ClientError};
use crate::hostfile::edit::Start;
use crate::policy::SESSION_VARIABLE;
use crate::snapshot::ServerView;
use crate::wire::{Call, Fault, ListReply, Located};

/// What the official SDKs hand on to a server of all that the host has; an entry's own environment comes on top.
const HANDED_ON: [&str; 6] = ["HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"];

/// What of an entry's own environment leads a launch to one daemon or another, or past all of them.
const LEADING: [&str; 2] = ["PINFOLD_SOCKET", "PINFOLD_UNCONTAINED"];

/// This program, whatever stands by now at the path that it was started from (proc_pid_exe(5)).
const OWN: &str = "/proc/self/exe";

/// Tells which process it is, and ends with its stdin.
const PROCESS: [&str; 3] = ["/bin/sh", "-c", "echo $$; read -r _ || exit 0"];

/// How long a launch may take that has to start a daemon.
const LAUNCH_MAX: Duration = Duration::from_secs(45);

/// How long it may take to leave, and its leaf to be removed.
const LEAVE_MAX: Duration = Duration::from_secs(20);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// What does not hold, and what to do about it.
struct Trouble {
    what: String,
    remedy: String,
}

impl Trouble {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// Launches and ends a process behind this entry's front, where that is this program.
pub(super) fn probe(start: &Start, host: &str, client: &mut Client) -> Finding {
    let name = &start.entry.name;
    let front = start.front.first().map_or("", String::as_str);
    if !front::is_this(front) {
        let detail = format!("{name}: not tried: {front} is not this pinfold, and whatever it is was not run");
        let remedy = format!("`pinfold unwrap {host}` and then `pinfold wrap {host}` put this one in front");
        return Finding::problem("launch", detail, &remedy);
    }
    match landed(start, client) {
        Ok(told) => Finding::ok("launch", format!("{name}: {told}")),
        Err(trouble) => Finding::problem("launch", format!("{name}: {}", trouble.what), &trouble.remedy),
    }
}

/// What two entries have to have in common for one launch to speak for both.
pub(super) fn kind(start: &Start) -> (Vec<&str>, Vec<&(String, String)>) {
    (without(&start.front, "--server").collect(), leading(start).collect())
}

fn leading(start: &Start) -> impl Iterator<Item = &(String, String)> {
    start.environment.iter().filter(|(name, _)| LEADING.contains(&name.as_str()))
}

/// Pinfold's words without this option and its value.
fn without<'a>(front: &'a [String], option: &'a str) -> impl Iterator<Item = &'a str> {
    let mut is_value = false;
    front.iter().map(String::as_str).filter(move |word| {
        let skipped = std::mem::take(&mut is_value);
        is_value = !skipped && *word == option;
        let is_both = word.strip_prefix(option).is_some_and(|rest| rest.starts_with('='));
        !skipped && !is_value && !is_both
    })
}

fn command(start: &Start) -> Command {
    // A session that is named there is one that others are in.
    let words = without(&start.front, "--session").skip(1);
    let mut command = Command::new(OWN);
    command.args(words).args(PROCESS).env_clear();
    command.envs(HANDED_ON.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.envs(leading(start).map(|(name, value)| (name, value)));
    command.env(SESSION_VARIABLE, format!("pinfold-doctor-{}", std::process::id()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn landed(start: &Start, client: &mut Client) -> Result<String, Trouble> {
    let spawned = command(start).spawn();
    let mut launched = Launched(spawned.map_err(|error| {
        Trouble::new(format!("nothing can be started: {error}"), "see what limits the processes of this user")
    })?);
    let pid = launched.process()?;
    let (server, place) = located(pid, client, &mut launched)?;
    let asked = Instant::now();
    drop(launched.0.stdin.take());
    let exited = within(LEAVE_MAX, || matches!(launched.0.try_wait(), Ok(Some(_))));
    let left = exited && within(LEAVE_MAX, || is_gone(&server, client));
    if !left {
        let what = format!("process {pid} stood in {place}, which is still there {} s later", LEAVE_MAX.as_secs());
        return Err(Trouble::new(what, format!("`pinfold status --pid {pid}` tells more; the daemon's log says why")));
    }
    let after = super::super::text::span(asked.elapsed());
    Ok(format!(
        "its launch lands in {place}, as the kernel and the daemon tell, and leaves nothing ({after} after its end)"
    ))
}

/// The server that the process is, and where it stands, by both who know.
fn located(pid: i32, client: &mut Client, launched: &mut Launched) -> Result<(ServerView, String), Trouble> {
    let place = Membership::of(pid).ok().and_then(|place| place.v2).unwrap_or_default();
    let daemon = client.socket().display().to_string();
    let located = match client.call::<Located>(&Call::Locate(pid), &[], client::VIEW_MAX) {
        Ok(located) => located,
        Err(ClientError::Fault(Fault::NotContained(_))) => {
            let said = launched.said();
            let said = if said.is_empty() { said } else { format!(" (it says: {said})") };
            let what = format!("process {pid} stands in {place}, and in no leaf of the daemon at {daemon}{said}");
            let remedy = "take away --uncontained, and a --socket or PINFOLD_SOCKET that leads to another daemon; \
                          `pinfold doctor` tells what holds here";
            return Err(Trouble::new(what, remedy));
        }
        Err(error) => return Err(Trouble::new(chain(&error), "`pinfold doctor` tells what holds here")),
    };
    let server = located.session.servers.into_iter().find(|server| server.leaf == located.leaf);
    let Some(server) = server else {
        return Err(Trouble::new(format!("the daemon at {daemon} lists no {}", located.leaf), ""));
    };
    // The daemon may see the tree from another cgroup namespace: what has to agree is the end.
    let mut parts = Path::new(&server.cgroup).components().rev();
    let end: PathBuf = [parts.next(), parts.next()].into_iter().flatten().rev().collect();
    if end.as_os_str().is_empty() || !Path::new(&place).ends_with(&end) {
        let what = format!("the daemon has process {pid} in {}, and the kernel in {place}", server.cgroup);
        return Err(Trouble::new(what, "something moved it: `pinfold status --pid` tells what escapes"));
    }
    let place = server.cgroup.clone();
    Ok((server, place))
}

/// Whether neither the daemon nor, as far as it is seen from here, the kernel has its leaf any more.
fn is_gone(server: &ServerView, client: &mut Client) -> bool {
    let listed = client.call::<ListReply>(&Call::List, &[], client::VIEW_MAX);
    let is_it = |other: &ServerView| other.leaf == server.leaf && other.cgroup == server.cgroup;
    listed.is_ok_and(|listed| !listed.sessions.iter().flat_map(|session| &session.servers).any(is_it))
        && !Path::new(&server.cgroup).exists()
}

fn within(max: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if start.elapsed() > max {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// What was launched; it does not outlive us.
struct Launched(Child);

impl Launched {
    /// The process that it became, once it runs.
    fn process(&mut self) -> Result<i32, Trouble> {
        let mut told = String::new();
        let stdout = self.0.stdout.take().expect("it is a pipe");
        let heard = client::read_line(stdout, Instant::now() + LAUNCH_MAX, &mut told);
        if let Some(pid) = told.lines().next().and_then(|line| line.trim().parse().ok()) {
            return Ok(pid);
        }
        let remedy = "`pinfold doctor` tells what holds here";
        if heard.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return Err(Trouble::new(format!("nothing ran within {} s", LAUNCH_MAX.as_secs()), remedy));
        }
        drop(self.0.stdin.take());
        let said = self.said();
        let status =
            if within(LEAVE_MAX, || matches!(self.0.try_wait(), Ok(Some(_)))) { self.0.wait().ok() } else { None };
        let status = status.map_or_else(|| "it does not exit".to_owned(), |status| status.to_string());
        Err(Trouble::new(format!("it was not launched ({status}): {said}"), remedy))
    }

    /// What it has said on stderr, on one line.
    fn said(&mut self) -> String {
        let deadline = Instant::now() + Duration::from_secs(2);
        let Some(stderr) = self.0.stderr.as_ref() else { return String::new() };
        let mut said = String::new();
        while said.len() < 4096 {
            let mut more = String::new();
            let heard = client::read_line(stderr, deadline, &mut more);
            if heard.is_err() || more.is_empty() {
                break;
            }
            said.push_str(&more);
            said.push(' ');
        }
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        if !within(Duration::from_secs(5), || matches!(self.0.try_wait(), Ok(Some(_)))) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_taken_out_with_its_value_however_it_is_written() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (front, expected) in [
            ("pinfold run --session s --server fs --", "pinfold run --server fs --"),
            ("pinfold run --session=s --", "pinfold run --"),
            ("pinfold run --sessions x", "pinfold run --sessions x"),
        ] {
            assert_eq!(without(&words(front), "--session").collect::<Vec<_>>().join(" "), expected, "{front}");
        }
    }
}
