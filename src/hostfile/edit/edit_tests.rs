use proptest::prelude::*;

use super::*;

/// Files as hosts and people write them, with what each entry is to become: the command behind pinfold's words.
const FILES: &[(&str, &str)] = &[
    ("a.json", "{ \"mcpServers\": { \"fs\": { \"command\": \"npx\", \"args\": [\"-y\", \"x\"] } } }"),
    (
        "a.json",
        "{\n\t\"mcpServers\": {\n\t\t\"fs\": {\n\t\t\t\"command\": \"npx\",\n\t\t\t\"args\": [\n\t\t\t\t\"-y\", // yes\n\t\t\t\t\"x\",\n\t\t\t],\n\t\t},\n\t},\n}",
    ),
    (
        "a.json",
        "\u{feff}{\r\n  \"mcpServers\": {\r\n    \"fs\": { \"args\": [ ], \"command\": \"npx\" },\r\n    \"bare\": { \"command\": \"x\" }\r\n  }\r\n}\r\n",
    ),
    (
        "a.json",
        "{ mcp: { servers: { 'fs': { command: 'np\\'x', args: ['-y', /* why */ \"x\",], env: { K: 'v' } } } } } // end",
    ),
    ("a.json", "{\"mcpServers\":{\"fs\":{\"command\":\"npx\",\"args\":[/* none */]},\"é \":{\"command\":\"c\"}}}"),
    (
        "a.json",
        "{\"mcpServers\":{\"-fs\":{\"command\":\"npx\",\"args\":[\"x\"]},\"--\":{\"command\":\"npx\",\"args\":[]}}}",
    ),
    ("a.json", "{\"mcp\":{\"fs\":{\"type\":\"local\",\"command\":[ \"npx\",\"-y\"],\"enabled\":false}}}"),
    (
        "a.json",
        "{\"context_servers\":{\"fs\":{\"command\":{\"path\":\"npx\",\"args\":[\"a\"]}},\"b\":{\"command\":{\"path\":\"npx\"}}}}",
    ),
    (
        "a.json",
        "{\"projects\":{\"/a\":{\"mcpServers\":{\"fs\":{\"command\":\"npx\",\"args\":[1]}}}},\"mcpServers\":{\"fs\":{\"command\":\"n\"}}}",
    ),
    (
        "a.toml",
        "model = 'x'\n[mcp_servers.fs]\ncommand = 'npx' # c\nargs = ['-y',\n  \"x\", # d\n]\n[mcp_servers.fs.env]\nK = 'v'\n",
    ),
    ("a.toml", "[mcp_servers.\"a b\"]\r\n  command = \"\"\"npx\"\"\" # c\r\n"),
    ("a.toml", "[mcp_servers]\nfs = { command = 'npx', env = {} }\ng = { command = 'g', args = [] }\nh.command = 'h'"),
    ("a.toml", "mcp_servers.fs.command = 'npx'\n"),
    (
        "a.yaml",
        "extensions:\n  fs:\n    type: stdio\n    cmd: npx # c\n    args:\n    - -y\n    # d\n    - 'x y'\n    enabled: true\n",
    ),
    (
        "a.yaml",
        "extensions:\r\n  fs:\r\n    cmd: 'npx'\r\n    args:\r\n      - -y\r\n  g:\r\n    cmd: g\r\n    args: []\r\n  h:\r\n    cmd: h",
    ),
    ("a.yaml", "extensions: {fs: {cmd: npx, args: [-y, x]}, g: {cmd: g}}\n"),
    ("a.yaml", "extensions:\n  fs:\n    cmd: a,b\n    args:\n    -   -y\n"),
];

fn front(host: &Name) -> Front<'_> {
    Front { program: "/usr/bin/pinfold", host: Some(host) }
}

fn wrapped(file: &str, text: &str) -> Edit {
    let host = Name::parse("h").unwrap();
    wrap(Syntax::of(file), text.as_bytes(), front(&host), &[]).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_way_back_leads_to_the_same_bytes() {
    for (file, text) in FILES {
        let there = wrapped(file, text);
        assert!(!there.changes.is_empty(), "{text}");
        assert!(there.entries.iter().all(|entry| entry.edited), "{text}\n{:#?}", there.entries);
        let back = unwrap(Syntax::of(file), there.after.as_bytes(), &[]).unwrap();
        assert_eq!(back.after, *text);
        assert_eq!(apply(text, &there.changes), there.after);
    }
}

#[test]
fn a_second_time_changes_nothing() {
    for (file, text) in FILES {
        let once = wrapped(file, text);
        let twice = wrapped(file, &once.after);
        assert_eq!(twice.after, once.after);
        assert!(twice.entries.iter().all(|entry| entry.state == State::Wrapped), "{:#?}", twice.entries);
        assert!(unwrap(Syntax::of(file), text.as_bytes(), &[]).unwrap().changes.is_empty());
    }
}

#[test]
fn what_is_written_reads_as_pinfold_and_then_the_command() {
    for (text, expected) in [
        (
            FILES[0].1,
            r#"{ "mcpServers": { "fs": { "command": "/usr/bin/pinfold", "args": ["run", "--host", "h", "--server", "fs", "--", "npx", "-y", "x"] } } }"#,
        ),
        (
            r#"{"mcpServers":{"a b":{"command":"x"}}}"#,
            r#"{"mcpServers":{"a b":{"command":"/usr/bin/pinfold", "args": ["run", "--host", "h", "--server", "a_b", "--", "x"]}}}"#,
        ),
        (
            r#"{"mcp":{"fs":{"command":["npx"]}}}"#,
            r#"{"mcp":{"fs":{"command":["/usr/bin/pinfold", "run", "--host", "h", "--server", "fs", "--", "npx"]}}}"#,
        ),
    ] {
        assert_eq!(wrapped("a.json", text).after, expected);
    }
    assert_eq!(
        wrapped("a.toml", "[mcp_servers.fs]\n  command = 'npx' # c\n").after,
        "[mcp_servers.fs]\n  args = [\"run\", \"--host\", \"h\", \"--server\", \"fs\", \"--\", 'npx']\n  command = \"/usr/bin/pinfold\" # c\n"
    );
    assert_eq!(
        wrapped("a.yaml", "extensions:\n  fs:\n    cmd: npx\n    args:\n    - -y\n").after,
        "extensions:\n  fs:\n    cmd: \"/usr/bin/pinfold\"\n    args:\n    - \"run\"\n    - \"--host\"\n    - \"h\"\n    - \"--server\"\n    - \"fs\"\n    - \"--\"\n    - npx\n    - -y\n"
    );
}

#[test]
fn what_starts_nothing_or_cannot_be_edited_is_left_and_told() {
    for (file, entry, expected) in [
        ("a.json", r#"{"url":"https://x"}"#, State::Remote),
        ("a.json", r#"{"type":"http","command":"x"}"#, State::Remote),
        ("a.json", r#"{"settings":{}}"#, State::NoCommand),
        ("a.json", r#"{"command":"a","command":"b"}"#, State::Unusual("it says its command or its args twice")),
        ("a.json", r#"{"command":"a","args":"b"}"#, State::Unusual("its args are no plain list")),
        ("a.json", r#"{"command":"/x/pinfold","args":["run","--memory-max","1G","--","a"]}"#, State::Wrapped),
        ("a.json", r#"{"command":"/x/pinfold","args":["ls"]}"#, State::Bare),
        ("a.yaml", r#"{"command": &a x}"#, State::Unusual("its command is no plain text")),
    ] {
        let text = format!("{{\"mcpServers\": {{\"fs\": {entry}}}}}");
        let told = wrapped(file, &text);
        assert_eq!(told.entries[0].state, expected, "{text}");
        assert_eq!(told.entries[0].edited, expected == State::Bare, "{text}");
    }
    let docker = wrapped("a.json", r#"{"mcpServers":{"fs":{"command":"/bin/docker","args":["run","-i","x"]}}}"#);
    assert_eq!(docker.entries[0].container.as_deref(), Some("docker"));
    assert!(docker.entries[0].edited);
}

#[test]
fn one_server_can_be_named() {
    let text = r#"{"mcpServers":{"a":{"command":"x"},"b":{"command":"y"}}}"#;
    let host = Name::parse("h").unwrap();
    let told = wrap(Syntax::Json, text.as_bytes(), front(&host), &["b".to_owned()]).unwrap();
    assert_eq!(told.entries.iter().map(|entry| entry.edited).collect::<Vec<_>>(), [false, true]);
    let all = wrapped("a.json", text);
    let back = unwrap(Syntax::Json, all.after.as_bytes(), &["a".to_owned()]).unwrap();
    assert_eq!(back.after, told.after);
}

#[test]
fn what_was_written_anew_since_is_unwrapped_to_the_same_meaning() {
    for (file, now, expected) in [
        // As a host writes its file anew, with the list laid out in its own way.
        (
            "a.json",
            "{\"mcpServers\": {\"fs\": {\n  \"command\": \"/usr/bin/pinfold\",\n  \"args\": [\n    \"run\",\n    \"--server\",\n    \"fs\",\n    \"--\",\n    \"npx\"\n  ]\n}}}",
            "{\"mcpServers\": {\"fs\": {\n  \"command\": \"npx\"\n}}}",
        ),
        (
            "a.json",
            r#"{"mcpServers":{"fs":{"args":["run","--server","fs","--","npx",],"command":"pinfold"}}}"#,
            r#"{"mcpServers":{"fs":{"args":[],"command":"npx"}}}"#,
        ),
        // An argument that was added, and limits.
        (
            "a.json",
            r#"{"mcpServers":{"fs":{"command":"pinfold","args":["run","--memory-max=1G","--server","fs","--","npx","new"]}}}"#,
            r#"{"mcpServers":{"fs":{"command":"npx","args":["new"]}}}"#,
        ),
        (
            "a.yaml",
            "extensions:\n  fs:\n    cmd: /usr/bin/pinfold\n    args:\n    - run\n    - --server\n    - fs\n    - --\n    - npx\n    enabled: true\n",
            "extensions:\n  fs:\n    cmd: npx\n    enabled: true\n",
        ),
    ] {
        let back = unwrap(Syntax::of(file), now.as_bytes(), &[]).unwrap();
        assert_eq!(back.after, expected, "{:#?}", back.entries);
    }
}

#[test]
fn a_file_that_cannot_be_parsed_is_an_error_that_tells_the_line() {
    let error = wrap(Syntax::Json, b"{\n \"mcpServers\": }", Front { program: "p", host: None }, &[]).unwrap_err();
    assert_eq!(error.to_string(), "it is no JSON at line 2, column 16");
}

/// Space between the parts of JSON with comments.
fn gap() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", " ", "\n", "\r\n\t", " /* c */ ", " // \"x\": [\n"]).prop_map(str::to_owned)
}

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "\"npx\"",
        "'-y'",
        "\"a \\\"b\\\" \\u00e9\"",
        "\"{\"",
        "\"]\"",
        "\"//\"",
        "\"é🦊\"",
        "\"--\"",
        "\"run\"",
        "\"\"",
    ])
    .prop_map(str::to_owned)
}

prop_compose! {
    fn json_entry()(
        command in word(),
        arguments in prop::option::of((prop::collection::vec((word(), gap()), 0..4), any::<bool>(), gap())),
        gaps in prop::array::uniform6(gap()),
        first in any::<bool>(),
        comma in any::<bool>(),
    ) -> String {
        let [a, b, c, d, e, f] = gaps;
        let command = format!("\"command\"{a}:{b}{command}");
        let list = arguments.map(|(words, trailing, inside)| {
            let mut list: String = words.iter().map(|(word, gap)| format!("{gap}{word},")).collect();
            if !trailing || words.is_empty() { list.pop(); }
            format!("args{c}:{d}[{list}{inside}]")
        });
        let mut fields: Vec<String> = list.into_iter().chain([command]).collect();
        if first { fields.reverse(); }
        fields.push("env: { K: 'v' }".to_owned());
        format!("{{{e}{}{f}{}}}", fields.join(&format!("{f},{e}")), if comma { "," } else { "" })
    }
}

proptest! {
    #[test]
    fn any_json_comes_back(entries in prop::collection::vec(json_entry(), 1..4)) {
        let entries: Vec<_> = entries.iter().enumerate().map(|(n, entry)| format!("s{n}: {entry}")).collect();
        let text = format!("{{ mcpServers: {{ {} }} }}", entries.join(",\n"));
        let there = wrapped("a.json", &text);
        prop_assert!(there.entries.iter().all(|entry| entry.edited), "{}\n{:?}", text, there.entries);
        prop_assert_eq!(unwrap(Syntax::Json, there.after.as_bytes(), &[]).unwrap().after, text);
    }

    #[test]
    fn no_bytes_make_an_edit_panic(text in "[\\[\\]{}:,\"' \\-\na-z&*#=]{0,60}") {
        for syntax in [Syntax::Json, Syntax::Toml, Syntax::Yaml] {
            for text in [text.clone(), format!("{{\"servers\": {text}}}"), format!("extensions:\n  fs:\n    cmd: {text}\n"), format!("[servers.a]\ncommand = {text}\n")] {
                let front = Front { program: "/usr/bin/pinfold", host: None };
                if let Ok(there) = wrap(syntax, text.as_bytes(), front, &[]) {
                    let untouched = there.entries.iter().all(|entry| entry.state != State::Wrapped);
                    let back = unwrap(syntax, there.after.as_bytes(), &[]).unwrap();
                    prop_assert!(!untouched || back.after == text, "{}", text);
                    let _ = super::super::diff::lines(&there.before, &there.changes);
                }
            }
        }
    }
}

#[test]
fn a_name_that_would_be_taken_for_an_option_is_left_out() {
    let edit = wrapped("a.json", "{\"mcpServers\":{\"-fs\":{\"command\":\"npx\",\"args\":[\"x\"]}}}");
    assert!(edit.after.contains(r#""args":["run", "--host", "h", "--", "npx", "x"]"#), "{}", edit.after);
}

#[test]
fn no_two_entries_are_called_the_same() {
    let text = r#"{"mcpServers": {"git hub": {"command": "a"}, "git_hub": {"command": "b"}, "x!": {"command": "c"},
        "x?": {"command": "d"}, "a/b": {"command": "e"}, "_y": {"command": "f"}}}"#;
    let after = wrapped("a.json", text).after;
    for (command, named) in [
        ("a", None),
        ("b", Some("git_hub")),
        ("c", None),
        ("d", None),
        // Of one that has no name of pinfold's no other is called what it is called.
        ("e", Some("a_b")),
        ("f", Some("_y")),
    ] {
        let server = named.map_or_else(String::new, |named| format!(r#""--server", "{named}", "#));
        let words = format!(r#""run", "--host", "h", {server}"--", "{command}""#);
        assert!(after.contains(&words), "{command}: {after}");
    }
}

#[test]
fn what_an_anchor_or_a_merge_stands_for_is_told_and_left() {
    let reasons = |text: &str| -> Vec<(String, bool)> {
        let edit = wrapped("a.yaml", text);
        assert_eq!(edit.after, text);
        edit.entries.iter().map(|entry| (entry.name.clone(), matches!(entry.state, State::Unusual(_)))).collect()
    };
    let told = |name: &str| vec![(name.to_owned(), true)];
    assert_eq!(reasons("extensions: &all\n  fs:\n    cmd: npx\n"), told("extensions"));
    assert_eq!(reasons("x: &x {fs: {cmd: npx}}\nextensions: *x\n"), told("extensions"));
    assert_eq!(reasons("x: &x {cmd: npx}\nextensions:\n  fs:\n    <<: *x\n"), told("fs"));
    assert_eq!(reasons("extensions:\n"), []);
    assert_eq!(reasons("extensions: null\n"), []);
}
