use proptest::prelude::*;

use super::*;

const HERE: &str = "/home/u/.openclaw/pinfold-plugin";

/// The file with the settings, and with them taken out again.
#[track_caller]
fn there_and_back(text: &str, conversations: bool) -> (String, String) {
    let there =
        apply(text, &add(text.as_bytes(), HERE, conversations).unwrap_or_else(|error| panic!("{error}: {text}")));
    let back = apply(&there, &remove(there.as_bytes()).unwrap());
    (there, back)
}

/// What the settings say, however they are written.
#[track_caller]
fn said(text: &str) -> serde_json::Value {
    let text = text.trim_start_matches('\u{feff}');
    super::super::parse(Syntax::Json, text).unwrap_or_else(|error| panic!("{error}: {text}"))["plugins"].clone()
}

#[track_caller]
fn expect_loaded(text: &str) {
    let said = said(text);
    assert!(said["load"]["paths"].as_array().unwrap().iter().any(|path| path == HERE), "{text}");
    assert_eq!(said["entries"]["pinfold"]["enabled"], true, "{text}");
    let allowed =
        said["allow"].as_array().is_none_or(|allowed| allowed.is_empty() || allowed.contains(&"pinfold".into()));
    assert!(allowed, "{text}");
}

#[test]
fn the_settings_come_and_go_without_a_trace() {
    for text in [
        "{}",
        "{ }\n",
        "\u{feff}{\r\n}\r\n",
        "{ // c\n mcp: { servers: {} } }",
        "{plugins:{}}",
        "{plugins:{ /* none */ }, a: 1,}",
        "{plugins:{load:{}}}",
        "{plugins:{load:{paths:[]}, entries:{}}}",
        "{plugins:{load:{paths:[ '/a/b', ]}, allow: [], }}",
        "{plugins:{load:{watch:true}, entries:{x:{enabled:true},}, allow: ['x']}}",
        "{plugins:{entries:{'active-memory':{enabled:true}}}}",
        "{a:1,plugins:{enabled:true,allow:[\"x\", // y\n],},}",
    ] {
        for conversations in [true, false] {
            let (there, back) = there_and_back(text, conversations);
            assert_eq!(back, text);
            expect_loaded(&there);
            assert!(add(there.as_bytes(), HERE, conversations).unwrap().is_empty(), "{there}");
            assert!(remove(text.as_bytes()).unwrap().is_empty(), "{text}");
            let hooks = said(&there)["entries"]["pinfold"]["hooks"]["allowConversationAccess"].as_bool();
            assert_eq!(hooks, conversations.then_some(true));
        }
    }
}

#[test]
fn what_a_host_wrote_anew_is_taken_out_by_what_it_means() {
    let now = format!(
        "{{\n  \"plugins\": {{\n    \"allow\": [\n      \"pinfold\",\n      \"x\"\n    ],\n    \"load\": {{\n      \"paths\": [\n        \"/a\",\n        \
         \"{HERE}\"\n      ]\n    }},\n    \"entries\": {{\n      \"pinfold\": {{\n        \"enabled\": true,\n        \"config\": {{}}\n      \
         }}\n    }}\n  }}\n}}\n"
    );
    let after = apply(&now, &remove(now.as_bytes()).unwrap());
    assert_eq!(
        said(&after),
        serde_json::json!({ "allow": ["x"], "load": { "paths": ["/a"] }, "entries": {} }),
        "{after}"
    );
}

#[test]
fn settings_of_somebody_else_are_left_and_told() {
    for text in [
        "{plugins:{entries:{pinfold:{enabled:false}}}}",
        "{plugins:[]}",
        "{plugins:{load:1}}",
        "{plugins:{load:{paths:{}}},plugins:{}}",
        "[]",
        "{",
    ] {
        assert!(add(text.as_bytes(), HERE, true).is_err(), "{text}");
    }
}

#[test]
fn versions_that_would_refuse_the_permission_are_not_given_it() {
    for (version, asks) in [
        ("2026.4.15", false),
        ("2026.4.24", true),
        ("2026.4.24-beta.1", true),
        ("2026.9.6", true),
        ("", false),
        ("2025.12.30", false),
    ] {
        assert_eq!(asks_for_conversations(version), asks, "{version}");
    }
    assert_eq!(written_by(b"{ meta: { lastTouchedVersion: '2026.9.6' } }").as_deref(), Some("2026.9.6"));
    assert_eq!(written_by(b"{ meta: 1 }"), None);
}

fn gap() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", " ", "\n\t", "\r\n", " /* , { */ ", " // ]\n"])
}

/// A table or a list of some parts, with space between and perhaps a comma at its end.
fn around_parts(open: char, close: char, parts: Vec<String>) -> impl Strategy<Value = String> {
    (gap(), gap(), any::<bool>()).prop_map(move |(a, b, comma)| {
        let comma = if comma && !parts.is_empty() { "," } else { "" };
        format!("{open}{a}{}{b}{comma}{b}{close}", parts.join(&format!("{b},{a}")))
    })
}

fn some_of(parts: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::sample::subsequence(parts, 0..=parts.len()).prop_map(|parts| parts.into_iter().map(str::to_owned).collect())
}

fn list() -> impl Strategy<Value = String> {
    some_of(&["'/a'", "\"/b/pinfold\"", "'x'"]).prop_flat_map(|parts| around_parts('[', ']', parts))
}

fn plugins() -> impl Strategy<Value = String> {
    let load = (list(), some_of(&["watch: true"]), any::<bool>()).prop_flat_map(|(list, mut parts, there)| {
        if there {
            parts.push(format!("'paths': {list}"));
        }
        around_parts('{', '}', parts)
    });
    let entries = some_of(&["a: { enabled: true }", "\"b\": {}"]).prop_flat_map(|parts| around_parts('{', '}', parts));
    (load, entries, list(), prop::array::uniform3(any::<bool>()), some_of(&["enabled: true"])).prop_flat_map(
        |(load, entries, allow, there, mut parts)| {
            let named = [format!("load: {load}"), format!("\"entries\": {entries}"), format!("allow: {allow}")];
            parts.extend(named.into_iter().zip(there).filter(|(_, there)| *there).map(|(part, _)| part));
            around_parts('{', '}', parts)
        },
    )
}

proptest! {
    #[test]
    fn any_file_gets_the_settings_and_comes_back(
        plugins in prop::option::of(plugins()),
        rest in some_of(&["mcp: { servers: { fs: { command: 'npx' } } }", "\"meta\": {}"]),
        conversations in any::<bool>(),
    ) {
        let mut parts = rest;
        parts.extend(plugins.map(|plugins| format!("plugins: {plugins}")));
        let text = format!("{{{}}}", parts.join(",\n"));
        let (there, back) = there_and_back(&text, conversations);
        prop_assert_eq!(back, text);
        expect_loaded(&there);
    }
}
