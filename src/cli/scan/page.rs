//! What a scan found, for people.

use std::time::Duration;

use unicode_width::UnicodeWidthChar;

use super::super::ls::amount;
use super::super::text::{self, Tone};
use super::look::trees_of;
use crate::limits::Bytes;
use crate::strays::{Cost, Stray, Survey, Verdict};

/// How many trees are shown one by one, unless all are asked for.
const ROWS_MAX: usize = 40;

/// How much of a command line is shown.
const COMMAND_MAX: usize = 160;

/// The trees with their reasons, what they cost, what could not be seen, and what to do.
pub(super) fn page(survey: &Survey, all: bool) -> String {
    let wanted: Vec<&Stray> = survey.trees.iter().filter(|tree| all || tree.verdict != Verdict::InUse).collect();
    let shown = &wanted[..wanted.len().min(if all { usize::MAX } else { ROWS_MAX })];
    let mut page = String::new();
    if !shown.is_empty() {
        page.push_str(&rows(shown));
        page.push('\n');
    }
    page.push_str(&costs(survey));
    page.push_str(&contained(survey));
    let total = survey.trees.len() + survey.left_out;
    if total > shown.len() {
        let how = if all || survey.left_out > 0 { "the largest are shown" } else { "--all shows them" };
        page.push_str(&text::paragraph("", &format!("{} not shown: {how}", trees_of(total - shown.len()))));
    }
    for line in &survey.notes {
        page.push_str(&text::paragraph("note: ", line));
    }
    page.push_str(&text::paragraph("", &advice(survey)));
    page
}

/// One line for each tree, and below it why it looks as it does.
fn rows(trees: &[&Stray]) -> String {
    const HEADER: [&str; 9] = ["SERVER", "LOOKS", "PID", "PROCS", "PSS", "RSS", "AGE", "USER", "HOST"];
    let cells = trees.iter().map(|tree| {
        vec![
            tree.server.to_string(),
            tree.verdict.word().to_owned(),
            tree.pid.to_string(),
            tree.processes.to_string(),
            pss(tree.pss_bytes, tree.pss_missing),
            tree.rss_bytes.to_string(),
            text::span(Duration::from_secs_f64(tree.age_seconds.clamp(0.0, 1e9))),
            tree.user.clone().unwrap_or_else(|| tree.uid.to_string()),
            tree.owner.as_ref().map_or_else(|| "-".to_owned(), |owner| format!("{} ({})", owner.host, owner.pid)),
        ]
    });
    let table = text::columns(&HEADER, &cells.collect::<Vec<_>>());
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.find(HEADER[1]).unwrap_or_default();
    let mut told = format!("{header}\n");
    for (line, tree) in lines.zip(trees) {
        told.push_str(&tint(line, column, tree.verdict));
        told.push('\n');
        told.push_str(&text::paragraph("    ", &text::cut(&tree.argv.to_string(), COMMAND_MAX)));
        let container = if tree.in_container { "in a container; " } else { "" };
        told.push_str(&text::paragraph("    ", &format!("{container}{}", tree.reasons.join("; "))));
    }
    told
}

/// Gives the word in this column of the screen its colour.
fn tint(line: &str, column: usize, verdict: Verdict) -> String {
    let mut width = 0;
    let start = line.char_indices().find(|(_, c)| {
        let here = width >= column;
        width += c.width().unwrap_or(0);
        here
    });
    let (before, after) = line.split_at(start.map_or(line.len(), |(at, _)| at));
    let word = verdict.word();
    let tone = match verdict {
        Verdict::Abandoned => Tone::Bad,
        Verdict::Unclear => Tone::Plain,
        Verdict::InUse => Tone::Good,
    };
    match after.strip_prefix(word) {
        Some(rest) => format!("{before}{}{rest}", text::tinted(word, tone)),
        None => line.to_owned(),
    }
}

/// What trees cost, by how they look.
fn costs(survey: &Survey) -> String {
    let total = [survey.abandoned, survey.unclear, survey.in_use].into_iter().fold(Cost::default(), Cost::plus);
    if total.trees == 0 {
        return "no server was seen outside of pinfold\n".to_owned();
    }
    let row = |word: &str, cost: &Cost| {
        vec![
            word.to_owned(),
            cost.trees.to_string(),
            cost.processes.to_string(),
            pss(cost.pss_bytes, cost.pss_missing),
            cost.rss_bytes.to_string(),
        ]
    };
    let kinds = [
        (Verdict::Abandoned.word(), &survey.abandoned),
        (Verdict::Unclear.word(), &survey.unclear),
        (Verdict::InUse.word(), &survey.in_use),
        ("together", &total),
    ];
    let rows: Vec<_> = kinds.iter().map(|(word, cost)| row(word, cost)).collect();
    text::columns(&["WITHOUT PINFOLD", "TREES", "PROCS", "PSS", "RSS"], &rows)
}

/// An amount, a dash where nothing could be read, and a plus where something is missing.
fn pss(bytes: Option<Bytes>, missing: usize) -> String {
    let told = amount(bytes);
    if bytes.is_some() && missing > 0 { told + "+" } else { told }
}

fn contained(survey: &Survey) -> String {
    let contained = survey.contained;
    let servers = if contained.servers == 1 { "server is" } else { "servers are" };
    let processes = if contained.processes == 1 { "process" } else { "processes" };
    text::paragraph(
        "",
        &format!(
            "{} {servers} contained, with {} {processes}; {} processes were looked at",
            contained.servers, contained.processes, survey.looked_at
        ),
    )
}

fn advice(survey: &Survey) -> String {
    match survey.trees.first() {
        None => "nothing to do: what is launched by `pinfold run --` is contained".to_owned(),
        Some(tree) => format!(
            "This is how it looks, and only the host knows. To contain what is launched from now on, put `pinfold run --` \
             in front of the servers' commands (`pinfold wrap HOST`); what runs is moved into a leaf by `pinfold adopt \
             {}`",
            tree.pid
        ),
    }
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
