//! What is exported and what is documented are the same, and every sample is right.

use std::collections::BTreeSet;

use super::encode::Kind;
use super::*;
use crate::occurrence::What;
use crate::outcome::Level;

const DOCUMENT: &str = include_str!("../../docs/metrics.md");

fn counted() -> Counters {
    let mut counters = Counters::default();
    samples::all().iter().for_each(|occurrence| counters.count(occurrence));
    counters
}

/// All that is exported where everything is told.
fn exported() -> Vec<Family> {
    let own = Own {
        rss_bytes: Some(1 << 20),
        fds: Some(9),
        fds_max: Some(1024),
        threads: Some(3),
        cpu_seconds: Some(0.5),
        started: samples::BEGAN,
    };
    let counters = counted();
    let pairs = counters.pairs().clone();
    let mut all = families(&samples::picture("s"), &samples::description(), pairs, (&own, 0.002), true);
    all.extend(counters.registry().gather().iter().map(Family::of));
    all.sort_by(|one, other| one.name().cmp(other.name()));
    all
}

/// The labels of a sample's line, as they stand in it; nothing in the samples here has to be escaped.
fn labels(line: &str) -> Vec<&str> {
    let between = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(labels, _)| labels);
    between.split("\",").filter(|label| !label.is_empty()).collect()
}

/// A row of the document: name, type, labels, formula.
fn row(family: &Family) -> String {
    let mut names: Vec<&str> = Vec::new();
    for label in family.samples.lines().flat_map(labels) {
        let name = label.split_once("=\"").map_or(label, |(name, _)| name);
        // Every histogram has its bounds.
        if name != "le" && !names.contains(&name) {
            names.push(name);
        }
    }
    format!("| `{}` | {} | {} | {} |", family.name, family.kind.word(), names.join(", "), family.help)
}

#[test]
fn every_metric_that_is_exported_is_documented_and_the_other_way_round() {
    let exported: Vec<String> = exported().iter().map(row).collect();
    let documented: Vec<&str> = DOCUMENT.lines().filter(|line| line.starts_with("| `")).collect();
    let missing: Vec<&String> = exported.iter().filter(|row| !documented.contains(&row.as_str())).collect();
    let unknown: Vec<&&str> = documented.iter().filter(|row| !exported.iter().any(|other| other == **row)).collect();
    let told = |rows: &[String]| rows.join("\n");
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "documented nowhere: {missing:#?}\nexported nowhere: {unknown:#?}\nall of it:\n{}",
        told(&exported)
    );
    assert_eq!(documented.len(), exported.len(), "each is documented once");
}

#[test]
fn names_are_as_prometheus_wants_them() {
    for family in exported() {
        let (name, help) = (&family.name, &family.help);
        let is_counter = family.kind == Kind::Counter;
        assert_eq!(name.ends_with("_total"), is_counter, "{name}");
        assert!(name.starts_with("pinfold_") || name.starts_with("process_"), "{name}");
        assert!(help.ends_with('.') && help.len() > 12 && !help.contains("  "), "{name}: {help:?}");
        let mut seen = BTreeSet::new();
        for line in family.samples.lines() {
            let series = line.rsplit_once(' ').map(|(series, _)| series);
            assert!(series.is_some() && seen.insert(series), "{name} has {series:?} twice");
        }
    }
}

#[test]
fn a_scrape_tells_each_figure_under_its_name() {
    let text = Format::OpenMetrics.encode(&exported());
    for line in [
        "pinfold_build_info{version=\"0.1.0\",backend=\"cgroupfs\",layout=\"v2\"} 1",
        "pinfold_sessions{host=\"codex\"} 1",
        "pinfold_processes{host=\"codex\",server=\"fs\"} 2",
        "pinfold_limit_held{limit=\"memory\"} 1",
        "pinfold_limit_held{limit=\"io\"} 0",
        "pinfold_launches_total{result=\"granted\"} 1",
        "pinfold_launches_total{result=\"refused\"} 1",
        "pinfold_launches_total{result=\"uncontained\"} 1",
        "pinfold_ends_total{cause=\"memory\",host=\"codex\",server=\"fs\"} 1",
        "pinfold_kills_total{host=\"codex\",server=\"fs\"} 1",
        "pinfold_memory_kills_total{host=\"codex\",level=\"session\",server=\"fs\"} 1",
        "pinfold_events_total{event=\"refused\"} 2",
        "pinfold_events_total{event=\"ended\"} 1",
        "pinfold_launch_duration_seconds_bucket{le=\"0.05\"} 1",
        "pinfold_end_duration_seconds_count 1",
        "pinfold_memory_given_back_bytes_total 134217728",
        "pinfold_session_memory_rss_bytes{session=\"s_0123456789ab\"} 100663296",
        "pinfold_server_memory_limit_bytes{session=\"s_0123456789ab\",server=\"fs\",leaf=\"fs.17\"} 268435456",
        "pinfold_session_pressure_seconds_total{session=\"s_0123456789ab\",resource=\"io\",kind=\"full\"} 0.25",
        "pinfold_session_last_activity_time_seconds{session=\"s_0123456789ab\"} 1800000010",
        "# TYPE pinfold_session_cpu_seconds counter",
        "# TYPE pinfold_session_memory_rss_bytes gauge",
    ] {
        assert!(text.contains(&format!("\n{line}\n")), "{line} is not in {text}");
    }
    assert!(!text.contains("limit=\"swap\""), "of what there is nothing to limit nothing is told");
}

#[test]
fn what_an_ended_leaf_was_told_stays_with_its_session_until_that_ends() {
    let mut counters = counted();
    let kept = |counters: &Counters| counters.kept().get("s_0123456789ab").cloned();
    assert_eq!(kept(&counters), Some([(None, 2)].into()), "its only leaf has ended");
    let kill = |kills| samples::occurrence("s", What::MemoryKill { level: Level::Session, kills });
    [3, 4, 1].into_iter().for_each(|kills| counters.count(&kill(kills)));
    assert_eq!(kept(&counters), Some([(None, 2), (Some("fs.17".to_owned()), 4)].into()));
    let told: Vec<Family> = counters.registry().gather().iter().map(Family::of).collect();
    let text = Format::Text.encode(&told);
    let once = "\npinfold_memory_kills_total{host=\"codex\",level=\"session\",server=\"fs\"} 2\n";
    assert!(text.contains(once), "one for each leaf: {text}");
    counters.forget("s_0123456789ab");
    assert_eq!(kept(&counters), None);
}

#[test]
fn every_event_has_its_series_from_the_start() {
    let series = |counters: &Counters| {
        let all = counters.registry().gather();
        let events = all.iter().find(|family| family.name() == "pinfold_events_total").unwrap();
        events.get_metric().len()
    };
    assert_eq!(series(&Counters::default()), series(&counted()));
}
