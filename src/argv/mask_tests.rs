use proptest::prelude::*;

use super::*;

fn masked(line: &str) -> String {
    let argv: Vec<&str> = line.split('¦').collect();
    MaskedArgv::mask(&argv).words().join("¦")
}

#[test]
fn secrets_are_masked_and_nothing_else() {
    for (line, expected) in [
        // Options.
        ("x¦--api-key¦abc¦--port¦80", "x¦--api-key¦***¦--port¦80"),
        ("x¦--api-key=abc", "x¦--api-key=***"),
        ("x¦--token¦-abc", "x¦--token¦***"),
        ("x¦--password¦-DSN%abc¦y", "x¦--password¦***¦***"),
        ("x¦--auth¦--port¦80", "x¦--auth¦--port¦80"),
        ("x¦--password¦", "x¦--password¦"),
        ("x¦-key¦abc¦y", "x¦-key¦***¦y"),
        ("x¦--auth¦Bearer¦abc", "x¦--auth¦Bearer¦***"),
        ("x¦--client-secret¦a b", "x¦--client-secret¦***"),
        ("x¦--token-file¦/run/t", "x¦--token-file¦/run/t"),
        ("x¦--max-tokens¦4096", "x¦--max-tokens¦4096"),
        ("curl¦-u¦me:abc", "curl¦-u¦me:***"),
        ("docker¦run¦-u¦1000:1000¦i", "docker¦run¦-u¦1000:1000¦i"),
        // Headers.
        ("x¦-H¦Authorization: Bearer abc", "x¦-H¦Authorization: ***"),
        ("x¦--header¦Authorization:${AUTH}", "x¦--header¦Authorization:***"),
        ("x¦--header=X-Api-Key: abc", "x¦--header=X-Api-Key: ***"),
        ("x¦-H¦X-Custom: abc", "x¦-H¦X-Custom: ***"),
        ("docker¦-H¦unix:///run/d.sock", "docker¦-H¦unix:///run/d.sock"),
        ("x¦Authorization: Bearer abc", "x¦Authorization: ***"),
        // Variables.
        ("env¦GITHUB_TOKEN=abc¦A=b¦x", "env¦GITHUB_TOKEN=***¦A=b¦x"),
        ("docker¦run¦-e¦GITHUB_TOKEN=abc¦-e¦GITHUB_TOKEN¦i", "docker¦run¦-e¦GITHUB_TOKEN=***¦-e¦GITHUB_TOKEN¦i"),
        ("docker¦run¦--env=DB_PASSWORD=a=b c", "docker¦run¦--env=DB_PASSWORD=***"),
        // URLs and connection strings.
        ("x¦postgres://me:abc@host:5432/db", "x¦postgres://me:***@host:5432/db"),
        ("x¦redis://:abc@host", "x¦redis://:***@host"),
        ("x¦postgres://me:a/b@c@host/db", "x¦postgres://me:***@host/db"),
        ("x¦postgres://me://abc@host/db", "x¦postgres://me:***@host/db"),
        ("x¦DATABASE_URL=postgres://me:abc@host/db", "x¦DATABASE_URL=postgres://me:***@host/db"),
        ("x¦https://0123456789abcdef0123@o1.example/1", "x¦https://***@o1.example/1"),
        ("x¦ssh://git@host/r", "x¦ssh://git@host/r"),
        ("x¦amqp://me:1/2@a,amqp://me:abc@b", "x¦amqp://me:***@a,amqp://me:***@b"),
        ("x¦file:///home/alice/projects/@scope/a", "x¦file:///home/alice/projects/@scope/a"),
        ("x¦git+https://host.example.org/a/repo.git@main", "x¦git+https://host.example.org/a/repo.git@main"),
        ("x¦https://host:80/@scope/a", "x¦https://host:80/@scope/a"),
        ("x¦https://h/p?a=1&api_key=abc&token=d#f", "x¦https://h/p?a=1&api_key=***&token=***#f"),
        ("x¦Server=h;Password=abc;User=me", "x¦Server=h;Password=***;User=me"),
        // JSON.
        (r#"x¦--config¦{"apiKey":"abc","n":1}"#, r#"x¦--config¦{"apiKey":"***","n":1}"#),
        (r#"x¦--config={"a": {"token": 12}, "b": "c d"}"#, r#"x¦--config={"a":{"token":"***"},"b":"c d"}"#),
        (r#"x¦["--token", "abc"]"#, r#"x¦["--token","***"]"#),
        (r#"x¦{"a": "b"}"#, r#"x¦{"a": "b"}"#),
        // Shells.
        ("sh¦-c¦exec npx y --api-key abc --port 80", "sh¦-c¦exec npx y --api-key *** --port 80"),
        ("sh¦-c¦exec y --api-key 'a b' z", "sh¦-c¦exec y --api-key *** z"),
        ("sh¦-c¦export GITHUB_TOKEN=\"a b\"; y", "sh¦-c¦export GITHUB_TOKEN=*** y"),
        ("sh¦-c¦curl -H 'Authorization: Bearer abc' h", "sh¦-c¦curl -H 'Authorization: ***' h"),
        ("sh¦-c¦it's --token abc isn't", "sh¦-c¦it's --token *** isn't"),
        // Nothing to mask.
        (
            "npx¦-y¦@modelcontextprotocol/server-filesystem¦/data",
            "npx¦-y¦@modelcontextprotocol/server-filesystem¦/data",
        ),
        ("pinfold¦run¦--session¦a:b¦--¦x", "pinfold¦run¦--session¦a:b¦--¦x"),
    ] {
        assert_eq!(masked(line), expected, "{line}");
        assert_eq!(masked(expected), expected, "masked again");
    }
}

/// The tokens are put together here, or scanners of secrets would find them in this file.
#[test]
fn what_looks_like_an_issued_token_is_masked_wherever_it_stands() {
    let random = "0123456789abcdefghij0123456789abcdefghij";
    for prefix in
        ["sk-", "sk-ant-", "sk-proj-", "ghp_", "gho_", "github_pat_", "xoxb-", "glpat-", "npm_", "hf_", "AIza"]
    {
        let token = format!("{prefix}{random}");
        for (given, expected) in [
            (token.clone(), "***"),
            (format!("--flag={token}"), "--flag=***"),
            (format!("a:{token},b"), "a:***,b"),
            (format!("sh -c 'x {token}'"), "sh -c 'x ***'"),
        ] {
            assert_eq!(masked(&format!("x¦{given}")), format!("x¦{expected}"), "{given}");
        }
    }
    let jwt = ["ey", "JhbGciOiJIUzI1NiJ9.ey", "JzdWIiOiIxIn0.c2ln"].concat();
    let aws = ["AK", "IAABCDEFGH12345678"].concat();
    assert_eq!(masked(&format!("x¦{jwt}¦{aws}")), "x¦***¦***");
    for plain in ["sk-learn-mcp", "npm_config_registry", "hf_x", "task-0123456789abcdefghij", "eyJ"] {
        assert_eq!(masked(&format!("x¦{plain}")), format!("x¦{plain}"));
    }
}

#[test]
fn a_command_line_has_at_most_64_arguments_and_4096_bytes() {
    let many = vec!["x"; 65];
    let masked = MaskedArgv::mask(&many);
    assert_eq!((masked.words().len(), masked.words()[63].as_str()), (64, "…"));
    assert_eq!(MaskedArgv::mask(&many[..64]).words(), &many[..64]);

    let long = vec!["0123456789".repeat(100); 10];
    let masked = MaskedArgv::mask(&long);
    assert_eq!((masked.words().len(), masked.words()[4].as_str()), (5, "…"));
}

#[test]
fn a_long_argument_ends_with_a_whole_word() {
    let text = format!("npx y --token {} --port 80", "a ".repeat(2000));
    let masked = MaskedArgv::mask(&["sh", "-c", &text]);
    let last = &masked.words()[2];
    assert!(last.starts_with("npx y --token *** a a") && last.ends_with("a …") && last.len() <= 1024, "{last}");
    assert_eq!(MaskedArgv::mask(&["x", &"y".repeat(2000)]).words(), ["x", "…"]);
    assert_eq!(MaskedArgv::mask(&["x", "--token", &"y".repeat(2000)]).words(), ["x", "--token", "***"]);
}

#[test]
fn what_comes_from_outside_is_masked_again() {
    let masked: MaskedArgv = serde_json::from_str(r#"["x", "--token", "abc"]"#).unwrap();
    assert_eq!(serde_json::to_string(&masked).unwrap(), r#"["x","--token","***"]"#);
}

#[test]
fn a_command_line_cannot_forge_a_line_of_output() {
    assert_eq!(MaskedArgv::mask(&["a\nb", "\x1b[31m"]).to_string(), "a\\nb \\u{1b}[31m");
}

fn any_word() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("--token"),
        Just("-H"),
        Just("-u"),
        Just("Bearer"),
        Just("="),
        Just(":"),
        Just("://"),
        Just("@"),
        Just("\""),
        Just("'"),
        Just(" "),
        Just("…"),
        Just("***"),
        Just("api_key"),
        Just("a"),
        Just("{"),
        Just("}"),
        Just(","),
        Just("?"),
        Just("&"),
        Just(";"),
        Just("--"),
        Just("ghp_01234567"),
        Just("89abcdefghij"),
        Just("\\"),
        Just("é"),
        Just("{\"password\":\"x\"}"),
        Just("long long long "),
        Just("1"),
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn masking_twice_is_masking_once_and_keeps_the_bounds(
        words in proptest::collection::vec(prop_oneof![4 => any_word(), 4 => ".{0,30}", 1 => any_word().prop_map(|word| word.repeat(40))], 0..10),
    ) {
        let once = MaskedArgv::mask(&words);
        prop_assert_eq!(&MaskedArgv::mask(once.words()), &once);
        prop_assert!(once.words().len() <= MaskedArgv::MAX_ARGUMENTS);
        prop_assert!(once.words().iter().map(String::len).sum::<usize>() <= MaskedArgv::MAX_BYTES);
    }

    #[test]
    fn a_secret_under_a_secret_name_never_shows(
        before in proptest::collection::vec("[a-z./-]{0,10}", 0..5),
        secret in "[A-Za-z0-9!%^*()+/-]{0,20}Xq7Zv[A-Za-z0-9!%^*()+/-]{0,20}",
        form in 0..8usize,
    ) {
        let given: Vec<String> = match form {
            0 => vec!["--api-key".into(), secret],
            1 => vec![format!("--api-key={secret}")],
            2 => vec!["-e".into(), format!("SOME_TOKEN={secret}")],
            3 => vec!["-H".into(), format!("Authorization: Bearer {secret}")],
            4 => vec![format!("https://host/x?a=b&api_key={secret}")],
            5 => vec![format!("{{\"clientSecret\": \"{secret}\"}}")],
            6 => vec![format!("postgres://me:{secret}@host/db")],
            _ => vec!["sh".into(), "-c".into(), format!("exec x --password {secret} y")],
        };
        let argv: Vec<String> = before.into_iter().chain(given).collect();
        let shown = MaskedArgv::mask(&argv).words().join(" ");
        prop_assert!(!shown.contains("Xq7Zv"), "{}", shown);
    }
}
