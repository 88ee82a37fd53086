use std::time::Duration;

use super::*;
use crate::limits::Bytes;
use crate::metrics::{Omitted, samples};

/// What a test says of a page; the rest is like any other.
struct Shown<'a> {
    picture: &'a Picture,
    ends: &'a [&'a Occurrence],
    with_ids: bool,
}

impl Shown<'_> {
    fn html(&self) -> String {
        page(&Page {
            picture: self.picture,
            description: &samples::description(),
            machine: "build<7>",
            ends: self.ends,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_003_700),
            nonce: "f00",
            with_ids: self.with_ids,
        })
    }
}

#[test]
fn names_that_others_choose_stand_for_themselves() {
    let id = "<script>alert(1)</script>\"'& \u{202e}ä";
    let mut picture = samples::picture(id);
    picture.sessions[0].view.servers[0].warnings.push("<b>".to_owned());
    // So it is named above the table as well.
    picture.sessions[0].view.memory.max_bytes = Some(Bytes(100 << 20));
    let ended = samples::ended(id);
    let of = |with_ids| Shown { picture: &picture, ends: &[&ended], with_ids }.html();
    let html = of(true);
    let escaped = "<bdi>&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp; \u{202e}ä</bdi>";
    assert_eq!(html.matches(escaped).count(), 3, "{html}");
    assert_eq!(html.matches("<script").count(), 1, "{html}");
    assert!(!html.contains("<b></li>") && html.contains("<li>&lt;b&gt;</li>"), "{html}");
    assert!(html.contains("<title>(1) pinfold on build&lt;7&gt;</title>"), "{html}");
    assert!(!of(false).contains("alert(1)"), "what hosts call their sessions is told where that is wanted");
}

#[test]
fn the_page_shows_what_is_and_what_ended_without_any_other_file() {
    let mut picture = samples::picture("s");
    picture.omitted.push(Omitted { host: None, servers: vec![(samples::name("x"), 3)] });
    let ended = samples::ended("s");
    let html = Shown { picture: &picture, ends: &[&ended], with_ids: false }.html();
    for shown in [
        "<strong>2</strong> sessions<",
        "<strong>2</strong> servers<",
        "<strong>5</strong> processes<",
        "<td data-column=\"RSS\" class=\"number\">96.0M</td>",
        "value=\"0.391\" aria-label=\"Memory of fs.17\"></meter> <span class=\"share\">39&nbsp;%</span> <span class=\"of\">of 256M<",
        "<td data-column=\"Host\">codex <span class=\"dim\">uid&nbsp;1000</span></td>",
        "<td data-column=\"Memory pressure\" class=\"number\">0.5s</td>",
        "<td data-column=\"CPU time\" class=\"number\">1.5s</td>",
        "<td data-column=\"Age\" class=\"number\">1h 01min</td>",
        "<td data-column=\"Owner\" class=\"number\">41</td>",
        "3 forks refused",
        "1 more session: beyond sessions_max",
        "<span class=\"mark alarm\">memory ran out: the server&#39;s own memory limit was reached",
        "1h 01min ago</span> <time class=\"dim\" datetime=\"2027-01-15T08:00:00Z\">",
        "do not hold here: io (",
        "<style nonce=\"f00\">",
        "<script nonce=\"f00\">",
    ] {
        assert!(html.contains(shown), "{shown} is not in {html}");
    }
    for outside in ["http://", "https://", "src=", "url(", "style=", "onclick", "id=\"look\""] {
        assert!(!html.contains(outside), "{outside} is in {html}");
    }
    assert!(policy("f00").starts_with("default-src 'none'; style-src 'nonce-f00'; script-src 'nonce-f00'; "));
}

#[test]
fn what_needs_somebody_is_told_above_the_table_and_counted_in_the_title() {
    let mut picture = samples::picture("s");
    picture.oldest_end = 125.0;
    picture.machine.as_mut().unwrap().max_bytes = Some(Bytes(101 << 20));
    let server = &mut picture.sessions[0].view.servers[0];
    server.escaped_pids = vec![42, 43];
    server.state = "killing".into();
    server.memory.working_set_bytes = Some(Bytes(250 << 20));
    let html = Shown { picture: &picture, ends: &[], with_ids: true }.html();
    for shown in [
        "<title>(4) pinfold on ",
        "<li id=\"look-all\">All sessions together are at 99&nbsp;% of the memory limit above them.</li>",
        "<li id=\"look-end\">An end has been under way for 2min 05s.</li>",
        "<a href=\"#server-fs.17\"><bdi>fs.17</bdi></a> has left its cgroup: processes 42, 43.</li>",
        "<a href=\"#server-fs.17\"><bdi>fs.17</bdi></a> is at 98&nbsp;% of its memory limit.</li>",
        "<tr id=\"server-fs.17\" class=\"server\">",
        "<span class=\"mark warn\">killing</span> <span class=\"mark alarm\">left its cgroup: processes 42, 43</span>",
        "<span class=\"share alarm\">98&nbsp;%</span>",
    ] {
        assert!(html.contains(shown), "{shown} is not in {html}");
    }
}

#[test]
fn what_is_told_above_the_table_has_a_bound() {
    let mut picture = samples::picture("s");
    let mut reading = picture.sessions.remove(0);
    reading.view.servers[0].escaped = true;
    picture.sessions = vec![reading; 25];
    let html = Shown { picture: &picture, ends: &[], with_ids: true }.html();
    assert_eq!(html.matches("<li id=\"look-").count(), 20);
    assert!(html.contains("<title>(25) ") && html.contains("<li>And 5 more: see below.</li>"), "{html}");
}

#[test]
fn what_uses_most_stands_first() {
    let mut picture = samples::picture("small");
    let mut big = picture.sessions[0].clone();
    big.view.key = "big_0123456789ab".into();
    big.view.memory.rss_bytes = Some(Bytes(1 << 30));
    picture.sessions.push(big);
    let html = Shown { picture: &picture, ends: &[], with_ids: false }.html();
    let at = |key: &str| html.find(&format!("<tr id=\"session-{key}\"")).unwrap();
    assert!(at("big_0123456789ab") < at("s_0123456789ab"), "{html}");
}

#[test]
fn an_empty_daemon_says_so() {
    let html = Shown { picture: &Picture::default(), ends: &[], with_ids: false }.html();
    assert!(html.contains("Nothing is contained.") && html.contains("Nothing has ended since"), "{html}");
}
