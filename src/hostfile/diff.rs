//! What an edit changes, line by line, as diff(1) shows it. The lines are the text's own: whoever shows them hides what may
//! be secret before, and has no control characters reach a terminal after.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::edit::Change;

/// How many lines are shown around what changes.
const AROUND: usize = 1;

/// The longest line that is shown whole, in characters: a file may be one line.
const LINE_MAX: usize = 400;

/// A line of a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Where the lines that follow stand, before and after.
    Place(String),
    /// It stays.
    Same(String),
    /// It goes.
    Gone(String),
    /// It comes.
    New(String),
}

/// What these changes, in the order of the text and apart from each other, do to its lines.
pub fn lines(text: &str, changes: &[Change]) -> Vec<Line> {
    let ends = ends(text);
    let mut shown = Vec::new();
    // How many lines the earlier changes have made of those that they touched.
    let mut shift = 0_isize;
    let mut rest = changes;
    while let Some(first) = rest.first() {
        let start = line_of(&ends, first.span.start);
        let mut last = line_of(&ends, first.span.end);
        // Changes whose surroundings would meet are shown as one.
        let count = 1 + rest[1..]
            .iter()
            .take_while(|next| {
                let near = line_of(&ends, next.span.start) <= last + 2 * AROUND + 1;
                if near {
                    last = line_of(&ends, next.span.end);
                }
                near
            })
            .count();
        let (together, later) = rest.split_at(count);
        shift += hunk((text, &ends), (start, last), together, shift, &mut shown);
        rest = later;
    }
    shown
}

/// Shows changes that stand together in these lines, and tells how many lines more there are than before.
fn hunk(
    (text, ends): (&str, &[usize]),
    (start, last): (usize, usize),
    changes: &[Change],
    shift: isize,
    shown: &mut Vec<Line>,
) -> isize {
    let before = start.saturating_sub(AROUND);
    let after = (last + AROUND).min(ends.len().saturating_sub(1));
    let begin = |line: usize| if line == 0 { 0 } else { ends[line - 1] };
    let old = &text[begin(start)..ends[last]];
    let mut new = String::new();
    let mut at = begin(start);
    for change in changes {
        new.push_str(&text[at..change.span.start]);
        new.push_str(&change.text);
        at = change.span.end;
    }
    new.push_str(&text[at..ends[last]]);
    let (old, new): (Vec<_>, Vec<_>) = (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let around = start - before + (after - last);
    let place = |first: isize, count: usize| format!("{},{}", first + 1, count);
    let from = place(before as isize, old.len() + around);
    let to = place(before as isize + shift, new.len() + around);
    shown.push(Line::Place(format!("@@ -{from} +{to} @@")));
    let whole =
        |first: usize, end: usize| (first..end).map(|line| Line::Same(shorten(&text[begin(line)..ends[line]], 0)));
    shown.extend(whole(before, start));
    let mut same = Vec::new();
    interleave(&old, &new, shown, &mut same);
    shown.extend(whole(last + 1, after + 1));
    new.len() as isize - old.len() as isize
}

/// The lines that both have at their end stay; of what is before them, the old lines go and the new ones come, except where
/// they are the same one by one.
fn interleave(old: &[&str], new: &[&str], shown: &mut Vec<Line>, same: &mut Vec<Line>) {
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    for line in &old[old.len() - tail..] {
        same.push(Line::Same(shorten(line, 0)));
    }
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
    let apart = |a: &[&str], b: &[&str]| {
        let at = a.concat().bytes().zip(b.concat().bytes()).take_while(|(a, b)| a == b).count();
        at.saturating_sub(40)
    };
    // Only a line that is alone is worth cutting at its head: it may be the whole file.
    let from = if old.len() == 1 && new.len() == 1 { apart(old, new) } else { 0 };
    if old.len() == new.len() {
        by_pairs(old, new, from, shown);
    } else {
        let head = old.iter().zip(new).take_while(|(old, new)| old == new).count();
        shown.extend(old[..head].iter().map(|line| Line::Same(shorten(line, 0))));
        shown.extend(old[head..].iter().map(|line| Line::Gone(shorten(line, from))));
        shown.extend(new[head..].iter().map(|line| Line::New(shorten(line, from))));
    }
    shown.append(same);
}

/// Where each line has one that takes its place: what stays between those that change is shown so.
fn by_pairs(old: &[&str], new: &[&str], from: usize, shown: &mut Vec<Line>) {
    let pairs: Vec<(&&str, &&str)> = old.iter().zip(new).collect();
    for run in pairs.chunk_by(|a, b| (a.0 == a.1) == (b.0 == b.1)) {
        if run[0].0 == run[0].1 {
            shown.extend(run.iter().map(|(line, _)| Line::Same(shorten(line, 0))));
        } else {
            shown.extend(run.iter().map(|(line, _)| Line::Gone(shorten(line, from))));
            shown.extend(run.iter().map(|(_, line)| Line::New(shorten(line, from))));
        }
    }
}

/// Where each line ends, its newline included.
fn ends(text: &str) -> Vec<usize> {
    let mut ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    if ends.last() != Some(&text.len()) {
        ends.push(text.len());
    }
    ends
}

fn line_of(ends: &[usize], at: usize) -> usize {
    ends.partition_point(|end| *end <= at).min(ends.len() - 1)
}

/// A line, and not without end.
fn shorten(line: &str, from: usize) -> String {
    let line = line.trim_end_matches(['\n', '\r']);
    let from = if line.chars().count() > LINE_MAX {
        (0..=from.min(line.len())).rev().find(|at| line.is_char_boundary(*at))
    } else {
        None
    };
    let from = from.unwrap_or(0);
    let mut shown = if from > 0 { "…".to_owned() } else { String::new() };
    let rest = &line[from..];
    let end = rest.char_indices().nth(LINE_MAX).map(|(at, _)| at);
    shown.push_str(&rest[..end.unwrap_or(rest.len())]);
    if end.is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, changes: &[(std::ops::Range<usize>, &str)]) -> String {
        let changes: Vec<_> =
            changes.iter().map(|(span, text)| Change { span: span.clone(), text: (*text).to_owned() }).collect();
        let line = |line| match line {
            Line::Place(text) => text,
            Line::Same(text) => format!(" {text}"),
            Line::Gone(text) => format!("-{text}"),
            Line::New(text) => format!("+{text}"),
        };
        lines(text, &changes).into_iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_lines_that_change_are_shown_between_those_that_do_not() {
        assert_eq!(shown("a\nb\nc\nd\n", &[(2..3, "B")]), "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c");
        assert_eq!(shown("a", &[(0..1, "b\nc")]), "@@ -1,1 +1,2 @@\n-a\n+b\n+c");
        assert_eq!(shown("a\nb\n", &[(2..2, "x\n")]), "@@ -1,2 +1,3 @@\n a\n+x\n b");
    }

    #[test]
    fn a_line_that_stays_between_two_that_change_is_shown_as_one() {
        assert_eq!(shown("a\nb\nc\n", &[(0..1, "A"), (4..5, "C")]), "@@ -1,3 +1,3 @@\n-a\n+A\n b\n-c\n+C");
    }

    #[test]
    fn changes_far_from_each_other_have_places_of_their_own() {
        let text = "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let told = shown(text, &[(2..3, "one\nmore"), (16..17, "eight")]);
        assert_eq!(told, "@@ -1,3 +1,4 @@\n 0\n-1\n+one\n+more\n 2\n@@ -8,3 +9,3 @@\n 7\n-8\n+eight\n 9");
    }

    #[test]
    fn a_line_without_end_is_cut_around_what_changes() {
        let text = format!("{}A{}", "x".repeat(5000), "y".repeat(5000));
        let told = shown(&text, &[(5000..5001, "B")]);
        assert!(told.len() < 2000 && told.contains("xxxAyyy") && told.contains("xxxByyy"), "{told}");
    }
}
