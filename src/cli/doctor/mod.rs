//! `pinfold doctor`: what holds on this machine, each with what to do where it does not.
//!
//! What matters is what holds for a daemon, so one is asked; where none runs, one is started as a launch would do it.

mod host;
mod moves;
mod systemd;

use std::path::{Path, PathBuf};

use serde::Serialize;

use self::systemd::Systemd;
use super::text::{self, Tone};
use super::{DONE, NO, args};
use crate::cgroup::{Layout, Moves, Swap};
use crate::chain::chain;
use crate::client::{self, Other};
use crate::hostfile::hosts;
use crate::limits::Bytes;
use crate::wire::{Call, Description, LimitState};

/// How one matter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// It holds.
    Ok,
    /// It is as it is; good to know.
    Note,
    /// It does not hold.
    Problem,
}

/// One matter that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    detail: String,
    remedy: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    findings: Vec<Finding>,
    daemon: Option<Description>,
    /// Where another daemon listens that launches of this user do not take.
    other: Option<PathBuf>,
}

impl Finding {
    fn ok(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Ok, detail: detail.into(), remedy: None }
    }

    fn note(what: &'static str, detail: impl Into<String>, remedy: &str) -> Self {
        let remedy = (!remedy.is_empty()).then(|| remedy.to_owned());
        Self { what, verdict: Verdict::Note, detail: detail.into(), remedy }
    }

    fn problem(what: &'static str, detail: impl Into<String>, remedy: &str) -> Self {
        let remedy = (!remedy.is_empty()).then(|| remedy.to_owned());
        Self { what, verdict: Verdict::Problem, detail: detail.into(), remedy }
    }
}

pub(super) fn doctor(doctor: &args::Doctor) -> u8 {
    match doctor.host.as_deref().and_then(hosts::host) {
        Some(host) => host::doctor(doctor, host),
        None => machine(doctor),
    }
}

/// What holds whichever host launches.
fn machine(doctor: &args::Doctor) -> u8 {
    let described = client::find_or_start(doctor.socket.socket.as_deref()).and_then(|mut client| {
        let description = client.call::<Description>(&Call::Describe, &[], client::VIEW_MAX)?;
        Ok((client.socket().to_owned(), description, client.other().cloned()))
    });
    let systemd = Systemd::look(described.as_ref().ok().map(|(_, daemon, _)| daemon));
    let version = running();
    let mut findings = vec![kernel(&version), layout()];
    // That there is no hierarchy was just told.
    findings.extend(Moves::detect().ok().map(|found| moves::moves(&found, version.1)));
    findings.push(systemd.manager(described.as_ref().ok().map(|(_, daemon, _)| daemon)));
    let (daemon, other) = match described {
        Ok((socket, description, other)) => {
            findings.push(daemon(&description, &socket));
            findings.extend(systemd.unit(&description));
            findings.extend(systemd.missing(&description));
            findings.push(backend(&description, &systemd));
            findings.extend(description.notes.iter().map(|note| Finding::note("backend", note, "")));
            findings.extend(limits(&description));
            findings.extend(idle(&description, Swap::now()));
            findings.push(stdin(&description));
            findings.extend(other.as_ref().map(beside));
            (Some(description), other)
        }
        Err(error) => {
            // The error says what to change.
            findings.push(Finding::problem("daemon", systemd.without(&chain(&error)), ""));
            (None, None)
        }
    };
    let report = Report { findings, daemon, other: other.map(|other| other.socket().to_owned()) };
    if doctor.json {
        text::print_json(&report);
    } else {
        text::print(&lines(&report.findings));
    }
    status(&report.findings)
}

fn status(findings: &[Finding]) -> u8 {
    if findings.iter().any(|finding| finding.verdict == Verdict::Problem) { NO } else { DONE }
}

/// The kernel's own name of its release, and the version of its sources.
fn running() -> (String, (u32, u32, u32)) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let version = kernel_version(&release, &uname.version().to_string_lossy());
    (release, version)
}

fn kernel((release, version): &(String, (u32, u32, u32))) -> Finding {
    let version = *version;
    if version < (5, 14, 0) {
        return Finding::problem("kernel", format!("Linux {release} has no cgroup.kill"), "use Linux 5.14 or newer");
    }
    // Fixed by "cgroup: fix race between fork and cgroup.kill" in 6.14, 6.12.16 and 6.1.129.
    let fixed = match version {
        (6, 1, patch) => patch >= 129,
        (6, 12, patch) => patch >= 16,
        other => other >= (6, 14, 0),
    };
    if fixed {
        Finding::ok("kernel", format!("Linux {release}"))
    } else {
        let detail =
            format!("Linux {release}: a fork can slip through one write of cgroup.kill, so it is written again");
        Finding::note("kernel", detail, "6.1.129, 6.12.16 and 6.14 have the fix")
    }
}

/// The version of the sources that a kernel was built from. A distribution's mark may follow the last number
/// ("6.12.107+deb13-amd64"); where its release counts the distribution's own builds ("6.1.0-50-amd64"), Debian's uname(2)
/// version tells it ("#1 SMP Debian 6.1.176-1").
fn kernel_version(release: &str, version: &str) -> (u32, u32, u32) {
    let told = version.split_once("Debian ").map_or(release, |(_, told)| told);
    let mut numbers = told.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

fn layout() -> Finding {
    match Layout::detect() {
        Ok(layout @ Layout::Pure { .. }) => Finding::ok("cgroups", layout.word()),
        Ok(Layout::Hybrid { .. }) => Finding::note(
            "cgroups",
            "hybrid: v2 tracks and kills, v1 memory and pids hold the limits; the machine's limits are summed for each \
             cgroup that callers stand in, not over all of them",
            "boot with systemd.unified_cgroup_hierarchy=1 for cgroup v2 alone",
        ),
        Err(error) => Finding::problem("cgroups", chain(&error), ""),
    }
}

/// Which daemon a launch of this user takes.
fn daemon(daemon: &Description, socket: &Path) -> Finding {
    let own = nix::unistd::geteuid();
    let name = nix::unistd::User::from_uid(own).ok().flatten().map_or_else(|| own.to_string(), |user| user.name);
    let whose = match daemon.uid {
        uid if uid == own.as_raw() => format!("{name}'s own"),
        0 => format!("the system's, which {name} may use"),
        uid => format!("of uid {uid}"),
    };
    let Description { version, pid, .. } = daemon;
    Finding::ok("daemon", format!("{whose}: version {version}, process {pid}, at {}", socket.display()))
}

/// The daemon that launches of this user do not take.
fn beside(other: &Other) -> Finding {
    let socket = other.socket();
    match other {
        Other::NotPermitted(_) => Finding::note(
            "besides",
            format!("the system's daemon at {} is not for this user, and launches do not take it", socket.display()),
            &format!(
                "to use it, {} and log in again; the group has to be there when that daemon starts",
                client::way_in()
            ),
        ),
        Other::Own(_) => {
            let described = client::find(Some(socket))
                .and_then(|mut client| client.call::<Description>(&Call::Describe, &[], client::VIEW_MAX));
            let which = match described {
                Ok(own) => format!("version {}, process {}, at {}", own.version, own.pid, socket.display()),
                Err(error) => chain(&error),
            };
            let remedy = format!("`pinfold ls --socket {}` shows its sessions", socket.display());
            Finding::note("besides", format!("this user's own daemon, which launches do not take: {which}"), &remedy)
        }
    }
}

fn backend(daemon: &Description, systemd: &Systemd) -> Finding {
    let Description { backend, backend_why, root, .. } = daemon;
    Finding::ok(
        "backend",
        match backend.as_str() {
            "systemd" => format!("systemd: {}", systemd.slice()),
            _ => format!("{backend}, below {root}: {backend_why}"),
        },
    )
}

/// What holds on one line, and what does not on a line each.
fn limits(daemon: &Description) -> Vec<Finding> {
    let (mut hold, mut findings) = (Vec::new(), Vec::new());
    for name in ["memory", "swap", "pids", "cpu", "io", "memory_high"] {
        match daemon.limits.get(name) {
            Some(LimitState::Holds) => hold.push(name.to_owned()),
            Some(LimitState::NothingToLimit) => hold.push(format!("{name} (there is none)")),
            // Without these two the defaults are refused; the others are only for who asks for them.
            Some(LimitState::Missing { why, remedy }) if ["memory", "pids"].contains(&name) => {
                findings.push(Finding::problem(name, format!("cannot be limited: {why}"), remedy));
            }
            Some(LimitState::Missing { why, remedy }) if name == "memory_high" => {
                findings.push(Finding::note("high", format!("no memory_high can be set: {why}"), remedy));
            }
            Some(LimitState::Missing { why, remedy }) => {
                findings.push(Finding::note(name, format!("cannot be limited: {why}"), remedy));
            }
            None => {}
        }
    }
    if !hold.is_empty() {
        findings.insert(0, Finding::ok("limits", format!("hold for {}", hold.join(", "))));
    }
    findings
}

/// What can be done for idle servers on this machine.
fn idle(daemon: &Description, swap: Swap) -> Vec<Finding> {
    const WHAT: &str = "idle";
    let mut findings = Vec::new();
    let missing = |name| match daemon.idle.get(name) {
        Some(LimitState::Missing { why, remedy }) => Some((why, remedy)),
        _ => None,
    };
    match missing("trim") {
        Some((why, remedy)) => {
            return vec![Finding::note(WHAT, format!("memory of idle servers is not given back: {why}"), remedy)];
        }
        None if swap.total == Bytes(0) => findings.push(Finding::note(
            WHAT,
            "of idle servers only page cache is given back: this machine has no swap, where most of what a server holds \
             and never touches again could go",
            "set up zram, which is swap in compressed memory and needs no disk (zram-tools, systemd-zram-generator), or a swap \
             file, with zswap to compress what goes there (boot with zswap.enabled=1)",
        )),
        None => findings.push(Finding::ok(
            WHAT,
            format!("memory of idle servers is given back, up to {} of it to swap", swap.room()),
        )),
    }
    findings.push(match missing("park") {
        Some((why, remedy)) => Finding::note(WHAT, format!("no server is parked: {why}"), remedy),
        None => Finding::ok(WHAT, "servers can be parked, where park_after or `pinfold park` says so"),
    });
    findings
}

/// Whether a daemon that is restarted can watch the stdin of the servers that it adopts.
fn stdin(daemon: &Description) -> Finding {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    let restricted = scope.and_then(|text| text.trim().parse::<u8>().ok()).unwrap_or(0) > 0;
    if restricted && daemon.uid != 0 {
        let detail = "after a restart of the daemon the stdin of living servers is unwatched (Yama ptrace scope)";
        Finding::note("stdin", detail, "run the daemon as root, or set kernel.yama.ptrace_scope=0")
    } else {
        Finding::ok("stdin", "watched, also after a restart of the daemon")
    }
}

fn lines(findings: &[Finding]) -> String {
    let mut lines = String::new();
    let mut following = findings.iter().skip(1);
    for finding in findings {
        let (mark, tone) = match finding.verdict {
            Verdict::Ok => ("ok", Tone::Good),
            Verdict::Note => ("note", Tone::Plain),
            Verdict::Problem => ("PROBLEM", Tone::Bad),
        };
        let margin = format!("{mark:>7}  {:<8} ", finding.what);
        let paragraph = text::paragraph(&margin, &text::shown(&finding.detail));
        lines.push_str(&paragraph.replacen(mark, &text::tinted(mark, tone), 1));
        // What helps against several in a row is said once, after the last.
        let again = following.next().is_some_and(|next| next.remedy == finding.remedy);
        if let Some(remedy) = finding.remedy.as_ref().filter(|_| !again) {
            lines.push_str(&text::paragraph(&format!("{:>18}→ ", ""), &text::shown(remedy)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_done_for_idle_servers_is_told_with_what_would_help() {
        let missing = || LimitState::Missing { why: "nobody restarts it".into(), remedy: "run it as a service".into() };
        let described = |trim, park| {
            let idle = [("trim".to_owned(), trim), ("park".to_owned(), park)];
            Description { idle: idle.into(), ..Description::default() }
        };
        let none = Swap { total: Bytes(0), free: Bytes(0) };
        let some = Swap { total: Bytes(2 << 30), free: Bytes(2 << 30) };
        let told = |daemon: &Description, swap| lines(&idle(daemon, swap));
        let bare = told(&described(LimitState::Holds, LimitState::Holds), none);
        assert!(bare.contains("only page cache") && bare.contains("zram") && bare.contains("can be parked"), "{bare}");
        let parks = told(&described(LimitState::Holds, missing()), some);
        assert!(parks.contains("up to 1.8G of it to swap") && parks.contains("no server is parked"), "{parks}");
        let old = told(&described(missing(), LimitState::Holds), some);
        assert!(old.contains("is not given back") && !old.contains("parked"), "{old}");
    }

    #[test]
    fn a_kernels_version_is_that_of_its_sources() {
        let bookworm = ("6.1.0-50-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-05-01)");
        let trixie = ("6.12.107+deb13-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.107-1 (2026-06-01)");
        let others = [("6.14.2-arch1-1", "#1 SMP PREEMPT_DYNAMIC"), ("6.18", "#1 SMP")];
        let versions =
            [bookworm, trixie, others[0], others[1]].map(|(release, version)| kernel_version(release, version));
        assert_eq!(versions, [(6, 1, 176), (6, 12, 107), (6, 14, 2), (6, 18, 0)]);
    }
}
