//! `pinfold doctor HOST`: whether pinfold is in front of what a host starts, whether a launch through that really comes to
//! stand in a leaf, and whether the end of the host's session reaches us.

mod end;
mod files;
mod probe;

use std::path::PathBuf;

use serde::Serialize;

use self::files::HostFile;
use super::super::{args, text};
use super::Finding;
use crate::chain::chain;
use crate::client::{self, Client, ClientError};
use crate::hostfile::edit::{Entry, Start, State, starts};
use crate::hostfile::hosts::HostFiles;
use crate::snapshot::SessionView;
use crate::wire::{Call, Description, ListReply, Located};

/// The most launches that are tried: entries whose fronts are alike share one.
const PROBES_MAX: usize = 8;

#[derive(Debug, Serialize)]
struct Report {
    host: &'static str,
    findings: Vec<Finding>,
    files: Vec<FileReport>,
}

/// What a file says.
#[derive(Debug, Serialize)]
struct FileReport {
    path: PathBuf,
    entries: Vec<EntryReport>,
}

#[derive(Debug, Serialize)]
struct EntryReport {
    name: String,
    /// The project directory that it is for, where it is for one.
    project: Option<String>,
    /// `wrapped`, `bare`, `remote`, `no_command` or `unusual`.
    state: &'static str,
    on: bool,
}

/// Looks, tries, and tells; the exit status.
pub(super) fn doctor(doctor: &args::Doctor, host: &'static HostFiles) -> u8 {
    let found = files::files(host);
    let mut report = Report { host: host.name, findings: Vec::new(), files: Vec::new() };
    if found.is_empty() {
        report.findings.push(nowhere(host, &files::places(host)));
    }
    let mut wrapped = Vec::new();
    for file in &found {
        let starts = file.said.clone().and_then(|(syntax, bytes)| {
            starts(syntax, &bytes).map_err(|error| format!("{}: {error}", file.path.display()))
        });
        report.findings.push(match &starts {
            Ok(starts) => of_file(file, starts, host),
            Err(error) => Finding::problem("file", error.clone(), "mend it"),
        });
        let starts = starts.unwrap_or_default();
        let entries = starts.iter().map(EntryReport::of).collect();
        report.files.push(FileReport { path: file.path.clone(), entries });
        wrapped.extend(starts.into_iter().filter(|start| start.is_on && start.entry.state == State::Wrapped));
    }
    report.findings.extend(of_daemon(doctor, host, &wrapped));
    report.findings.extend(end::end(host.name, &found));
    if doctor.json {
        text::print_json(&report);
    } else {
        text::print(&super::lines(&report.findings));
    }
    super::status(&report.findings)
}

impl EntryReport {
    fn of(start: &Start) -> Self {
        let state = match start.entry.state {
            State::Bare => "bare",
            State::Wrapped => "wrapped",
            State::Remote => "remote",
            State::NoCommand => "no_command",
            State::Unusual(_) => "unusual",
        };
        let Entry { name, project, .. } = start.entry.clone();
        Self { name, project, state, on: start.is_on }
    }
}

fn nowhere(host: &HostFiles, places: &[PathBuf]) -> Finding {
    let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
    let detail = format!("{} has no file here; looked for {}", host.name, places.join(", "));
    let remedy = "run it where the host's files are: as its user, with its environment, in the project's directory";
    Finding::problem("file", detail, remedy)
}

/// What a file's entries are; that one which starts a process does so without pinfold is the problem.
fn of_file(file: &HostFile, starts: &[Start], host: &HostFiles) -> Finding {
    let named = |starts: Vec<&Start>| {
        let names = starts.into_iter().map(|start| match &start.entry.project {
            Some(project) => format!("{} (of {project})", start.entry.name),
            None => start.entry.name.clone(),
        });
        names.collect::<Vec<_>>().join(", ")
    };
    let of = |is_on: bool, states: &[fn(&State) -> bool]| {
        let is_of = |start: &&Start| start.is_on == is_on && states.iter().any(|is| is(&start.entry.state));
        starts.iter().filter(is_of).collect::<Vec<_>>()
    };
    let bare: fn(&State) -> bool = |state| *state == State::Bare;
    let unusual: fn(&State) -> bool = |state| matches!(state, State::Unusual(_));
    let (not_wrapped, odd) = (of(true, &[bare]), of(true, &[unusual]));
    let mut in_containers = of(true, &[bare, |state| *state == State::Wrapped]);
    in_containers.retain(|start| start.entry.container.is_some());
    let parts = [
        ("not wrapped", not_wrapped.clone()),
        ("wrapped", of(true, &[|state| *state == State::Wrapped])),
        ("remote, with no process here", of(true, &[|state| *state == State::Remote])),
        ("not understood", odd.clone()),
        ("of them in a container", in_containers.clone()),
        ("off", of(false, &[bare, unusual, |state| *state == State::Wrapped])),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter(|(_, of)| !of.is_empty()).map(|(word, of)| format!("{word}: {}", named(of))).collect();
    let path = file.path.display();
    if parts.is_empty() {
        return Finding::ok("file", format!("{path} starts no server"));
    }
    let detail = format!("{path} has {}", parts.join("; "));
    if !not_wrapped.is_empty() {
        Finding::problem("file", detail, &format!("`pinfold wrap {}`", host.name))
    } else if !odd.is_empty() {
        let remedy = "put `pinfold run --server NAME --` in front of the command by hand, if it starts a process";
        Finding::note("file", detail, remedy)
    } else if !in_containers.is_empty() {
        let remedy = "`pinfold status SESSION` tells for each whether its container is in its session; one that is not is \
                      bounded by its own options (docker run --memory)";
        Finding::note("file", detail, remedy)
    } else {
        Finding::ok("file", detail)
    }
}

/// What only a daemon can tell: one that a launch would take is asked, or started.
fn of_daemon(doctor: &args::Doctor, host: &HostFiles, wrapped: &[Start]) -> Vec<Finding> {
    let asked = client::find_or_start(doctor.socket.socket.as_deref()).and_then(|mut client| {
        let description = client.call::<Description>(&Call::Describe, &[], client::VIEW_MAX)?;
        Ok((client, description))
    });
    let (mut client, description) = match asked {
        Ok(asked) => asked,
        Err(error) => return vec![Finding::problem("daemon", chain(&error), "`pinfold doctor` tells what holds here")],
    };
    let mut findings = vec![super::daemon(&description, client.socket())];
    findings.extend(client.other().map(super::beside));
    findings.extend(launches(wrapped, host, &mut client));
    findings.push(living(host, &mut client));
    findings
}

/// A launch through each front that differs from the others.
fn launches(wrapped: &[Start], host: &HostFiles, client: &mut Client) -> Vec<Finding> {
    const WHAT: &str = "launch";
    if wrapped.is_empty() {
        return vec![Finding::note(WHAT, "none is tried: pinfold is in front of nothing that is on", "")];
    }
    let own = std::process::id().cast_signed();
    match client.call::<Located>(&Call::Locate(own), &[], client::VIEW_MAX) {
        Ok(located) => {
            let session = located.session.id;
            let detail = format!("none is tried: this comes from inside session {session}, and would be in it");
            return vec![Finding::note(WHAT, detail, "call it from a terminal")];
        }
        Err(ClientError::Fault(_)) => {}
        Err(error) => return vec![Finding::problem(WHAT, chain(&error), "`pinfold doctor` tells what holds here")],
    }
    let mut tried: Vec<&Start> = Vec::new();
    for start in wrapped {
        if !tried.iter().any(|other| probe::kind(other) == probe::kind(start)) {
            tried.push(start);
        }
    }
    let left_out = tried.len().saturating_sub(PROBES_MAX);
    let mut findings: Vec<Finding> =
        tried.iter().take(PROBES_MAX).map(|start| probe::probe(start, host.name, client)).collect();
    if left_out > 0 {
        findings.push(Finding::note(
            WHAT,
            format!("{left_out} more are launched in other ways, and were not tried"),
            "",
        ));
    }
    findings
}

/// How many servers of the host live in leaves now.
fn living(host: &HostFiles, client: &mut Client) -> Finding {
    const WHAT: &str = "servers";
    let sessions = match client.call::<ListReply>(&Call::List, &[], client::VIEW_MAX) {
        Ok(listed) => listed.sessions,
        Err(error) => return Finding::problem(WHAT, chain(&error), "`pinfold doctor` tells what holds here"),
    };
    let is_of_host = |session: &&SessionView| session.host.as_ref().is_some_and(|name| name.as_str() == host.name);
    let of_host: Vec<&SessionView> = sessions.iter().filter(is_of_host).collect();
    let servers: usize = of_host.iter().map(|session| session.servers.len()).sum();
    let counted = |number: usize, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    match servers {
        0 => Finding::ok(WHAT, format!("none of {} lives in a leaf now", host.name)),
        _ => Finding::ok(
            WHAT,
            format!(
                "{} of {} live in leaves now, in {}; `pinfold ls` lists them",
                counted(servers, "server"),
                host.name,
                counted(of_host.len(), "session")
            ),
        ),
    }
}
