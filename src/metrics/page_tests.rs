use super::*;
use crate::metrics::Omitted;
use crate::metrics::samples;

#[test]
fn names_that_others_choose_stand_for_themselves() {
    let id = "<script>alert(1)</script>\"'& \u{202e}ä";
    let (picture, description) = (samples::picture(id), samples::description());
    let ended = samples::ended(id);
    let of = |with_ids| {
        page(&Page {
            picture: &picture,
            description: &description,
            ends: &[&ended],
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            nonce: "f00",
            with_ids,
        })
    };
    let html = of(true);
    let escaped = "<bdi>&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp; \u{202e}ä</bdi>";
    assert_eq!(html.matches(escaped).count(), 2, "{html}");
    assert_eq!(html.matches("<script").count(), 1, "{html}");
    assert!(!of(false).contains("alert"), "what hosts call their sessions is told where that is wanted");
}

#[test]
fn the_page_shows_what_is_and_what_ended_without_any_other_file() {
    let mut picture = samples::picture("s");
    picture.omitted.push(Omitted { host: None, servers: vec![] });
    let ended = samples::ended("s");
    let description = samples::description();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_003_700);
    let html = page(&Page {
        picture: &picture,
        description: &description,
        ends: &[&ended],
        now,
        nonce: "f00",
        with_ids: false,
    });
    for shown in [
        "<p>2 sessions, 1 server at ",
        "<td data-column=\"RSS\">96M</td>",
        "value=\"0.500\">50 %</meter> 256M",
        "<td data-column=\"Host\">codex</td>",
        "<td data-column=\"CPU\">1.5s</td>",
        "<td data-column=\"Age\">1h 1min</td>",
        "<td data-column=\"Owner\">41</td>",
        "1 more session: beyond sessions_max",
        "memory ran out: the server&#39;s own memory limit was reached",
        "<style nonce=\"f00\">",
        "<script nonce=\"f00\">",
    ] {
        assert!(html.contains(shown), "{shown} is not in {html}");
    }
    for outside in ["http://", "https://", "src=", "url(", "style=", "onclick"] {
        assert!(!html.contains(outside), "{outside} is in {html}");
    }
    assert!(policy("f00").starts_with("default-src 'none'; style-src 'nonce-f00'; script-src 'nonce-f00'; "));
}

#[test]
fn an_empty_daemon_says_so() {
    let (picture, description) = (Picture::default(), samples::description());
    let now = SystemTime::UNIX_EPOCH;
    let html =
        page(&Page { picture: &picture, description: &description, ends: &[], now, nonce: "f00", with_ids: false });
    assert!(html.contains("Nothing is contained.") && html.contains("Nothing has ended since"), "{html}");
}
