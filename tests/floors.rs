//! The plan of the house: a module uses lower floors only, and every module has a floor. The table is `design`'s, as
//! `src/lib.rs` tells it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Each room and its floor.
const FLOORS: &[(&str, u8)] = &[
    // Words: values that cannot be wrong once built.
    ("argv", 0),
    ("chain", 0),
    ("confine", 0),
    ("container", 0),
    ("label", 0),
    ("limits", 0),
    ("outcome", 0),
    ("realm", 0),
    ("session", 0),
    ("timespan", 0),
    ("timestamp", 0),
    // Rules: no I/O, no clock, no locks, no logging.
    ("hostfile", 1),
    ("lifecycle", 1),
    ("naming", 1),
    ("policy", 1),
    // What may be seen from outside.
    ("occurrence", 2),
    ("snapshot", 2),
    ("strays", 2),
    // Raw system calls; requests and replies.
    ("sys", 3),
    ("wire", 3),
    // Hands: each touches one outside thing.
    ("cgroup", 4),
    ("config", 4),
    ("engine", 4),
    ("process", 4),
    ("rewrite", 4),
    ("systemd", 4),
    // One face for the backends; the socket's client; what a restart must know; what ended; what Prometheus is told.
    ("backend", 5),
    ("client", 5),
    ("history", 5),
    ("metrics", 5),
    ("records", 5),
    // Long-lived tasks; the exec shim; the live screen.
    ("daemon", 6),
    ("launch", 6),
    ("tui", 6),
    // Words from the user; exit statuses.
    ("cli", 7),
];

/// Words may use words that stand before them in this order: a floor of values has no cycles, but has neighbours.
const WORDS: &[&str] = &[
    "chain",
    "confine",
    "container",
    "limits",
    "timespan",
    "timestamp",
    "session",
    "label",
    "argv",
    "outcome",
    "realm",
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The room of a file: the first part of its path below `src`.
fn room(file: &Path, root: &Path) -> String {
    let below = file.strip_prefix(root).unwrap();
    below.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// The rooms that a source names: `crate::x`, and the heads of `crate::{x, y::z}`. Comments do not count.
fn used(source: &str) -> Vec<String> {
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(heads(group)),
            None => found.push(head(rest)),
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// The first name of each entry of `x, y::{a, b}, z}`.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut entry, mut found) = (0, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => found.push(head(std::mem::take(&mut entry).trim())),
            _ if depth == 0 => entry.push(c),
            _ => {}
        }
    }
    found.push(head(entry.trim()));
    found
}

fn head(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn a_module_uses_lower_floors_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floors: BTreeMap<&str, u8> = FLOORS.iter().copied().collect();
    let word = |name: &str| WORDS.iter().position(|word| *word == name);
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30, "the sources were not found in {}", root.display());
    let mut climbs = Vec::new();
    for file in files {
        let own = room(&file, &root);
        if own == "lib" || own == "main" {
            continue;
        }
        let Some(floor) = floors.get(own.as_str()) else {
            climbs.push(format!("{own} has no floor: give it one before it gets code"));
            continue;
        };
        for other in used(&std::fs::read_to_string(&file).unwrap()) {
            let Some(target) = floors.get(other.as_str()).copied() else { continue };
            let earlier_word = *floor == 0 && word(&other) < word(&own);
            if other != own && target >= *floor && !earlier_word {
                climbs.push(format!("{} (floor {floor}) uses {other} (floor {target})", file.display()));
            }
        }
    }
    assert!(climbs.is_empty(), "{}", climbs.join("\n"));
}

#[test]
fn every_word_is_in_the_order_of_words() {
    for (name, floor) in FLOORS {
        assert_eq!(*floor == 0, WORDS.contains(name), "{name}");
    }
}

#[test]
fn the_pure_rooms_deny_what_is_impure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (name, floor) in FLOORS {
        if *floor > 2 && *name != "wire" {
            continue;
        }
        let mut files = vec![root.join(format!("{name}.rs"))];
        if root.join(name).is_dir() {
            files.retain(|file| file.exists());
            sources(&root.join(name), &mut files);
        }
        // A room may say it once, at its head, for all its files.
        let head = root.join(name).join("mod.rs");
        let says = |file: &Path| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            text.contains("#![forbid(unsafe_code)]")
                && text.contains("#![deny(clippy::disallowed_methods, clippy::disallowed_types)]")
        };
        for file in files {
            let is_test = file.to_string_lossy().ends_with("tests.rs");
            assert!(is_test || says(&head) || says(&file), "{} does not say that it is pure", file.display());
        }
    }
}

#[test]
fn the_parser_of_this_test_sees_groups_and_nested_paths() {
    let source = "use crate::{argv, policy::{self, Grant}};\n// crate::cli\nlet x = crate::wire::Call::List;\nthis_crate::daemon();";
    assert_eq!(used(source), ["argv", "policy", "wire"]);
}
