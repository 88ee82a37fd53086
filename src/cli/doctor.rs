//! `pinfold doctor`: what holds on this machine, each with what to do where it does not.
//!
//! What matters is what holds for a daemon, so one is asked; where none runs, one is started as a launch would do it.

use serde::Serialize;

use super::text::{self, Tone};
use super::{DONE, NO, args};
use crate::cgroup::Layout;
use crate::chain::chain;
use crate::client;
use crate::wire::{Call, Description};

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
    let mut findings = vec![kernel(), layout()];
    let described = client::find_or_start(doctor.socket.socket.as_deref()).and_then(|mut client| {
        let description = client.call::<Description>(&Call::Describe, &[], client::VIEW_MAX)?;
        Ok((client.socket().to_owned(), description))
    });
    let daemon = match described {
        Ok((socket, description)) => {
            findings.push(user(&description));
            let detail =
                format!("version {}, process {}, at {}", description.version, description.pid, socket.display());
            findings.push(Finding::ok("daemon", detail));
            findings.push(backend(&description));
            findings.extend(description.notes.iter().map(|note| Finding::note("backend", note, "")));
            findings.extend(limits(&description));
            findings.push(stdin(&description));
            Some(description)
        }
        Err(error) => {
            // The error says what to change.
            findings.push(Finding::problem("daemon", chain(&error), ""));
            None
        }
    };
    let report = Report { findings, daemon };
    if doctor.json {
        text::print_json(&report);
    } else {
        text::print(&lines(&report));
    }
    if report.findings.iter().any(|finding| finding.verdict == Verdict::Problem) { NO } else { DONE }
}

fn kernel() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
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

fn user(daemon: &Description) -> Finding {
    let own = nix::unistd::geteuid();
    let name = nix::unistd::User::from_uid(own).ok().flatten().map_or_else(|| own.to_string(), |user| user.name);
    if daemon.uid == own.as_raw() {
        Finding::ok("user", format!("{name}, whose daemon it is"))
    } else {
        Finding::ok("user", format!("{name}, in the daemon of uid {}: leaves belong to that user", daemon.uid))
    }
}

fn backend(daemon: &Description) -> Finding {
    let detail = format!("{}, below {}: {}", daemon.backend, daemon.root, daemon.backend_why);
    Finding::ok("backend", detail)
}

fn limits(daemon: &Description) -> Vec<Finding> {
    let names = ["memory", "swap", "pids", "cpu", "io"];
    let told = names.into_iter().filter_map(|name| Some((name, daemon.limits.get(name)?)));
    told.map(|(name, state)| match state.strip_prefix("does not hold: ").map(|rest| rest.split_once("; ")) {
        None => Finding::ok(name, state.clone()),
        Some(Some((why, remedy))) => Finding::note(name, format!("limits do not hold: {why}"), remedy),
        Some(None) => Finding::note(name, state.clone(), ""),
    })
    .map(|finding| match (finding.what, finding.verdict) {
        // Without these two the defaults are refused; CPU and I/O limits are only for who asks for them.
        ("memory" | "pids", Verdict::Note) => Finding { verdict: Verdict::Problem, ..finding },
        _ => finding,
    })
    .collect()
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

fn lines(report: &Report) -> String {
    let mut lines = String::new();
    for finding in &report.findings {
        let (mark, tone) = match finding.verdict {
            Verdict::Ok => ("ok", Tone::Good),
            Verdict::Note => ("note", Tone::Plain),
            Verdict::Problem => ("PROBLEM", Tone::Bad),
        };
        let margin = format!("{mark:>7}  {:<8} ", finding.what);
        let paragraph = text::paragraph(&margin, &finding.detail);
        lines.push_str(&paragraph.replacen(mark, &text::tinted(mark, tone), 1));
        if let Some(remedy) = &finding.remedy {
            lines.push_str(&text::paragraph(&format!("{:>18}→ ", ""), remedy));
        }
    }
    lines
}
