//! What is a secret: by the name that it is given under, or by its own look.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Whether what is given under this name is a secret: `--api-key`, `GITHUB_TOKEN`, `clientSecret`, `X-Auth-Token`.
///
/// It errs towards yes: a masked file name costs little. What says where a secret is, or how many tokens a model may
/// use, is none.
pub(super) fn is_secret_name(name: &str) -> bool {
    const WORDS: [&str; 18] = [
        "auth",
        "authorization",
        "bearer",
        "cookie",
        "creds",
        "dsn",
        "jwt",
        "key",
        "keys",
        "otp",
        "pass",
        "pat",
        "pwd",
        "sas",
        "sig",
        "signature",
        "token",
        "tokens",
    ];
    const PARTS: [&str; 12] = [
        "accesskey",
        "apikey",
        "authtoken",
        "accesstoken",
        "connectionstring",
        "credential",
        "passphrase",
        "passwd",
        "password",
        "privatekey",
        "secret",
        "webhook",
    ];
    const ELSEWHERE: [&str; 22] = [
        "count", "dir", "endpoint", "env", "expiry", "file", "format", "host", "id", "length", "limit", "method",
        "mode", "name", "path", "port", "provider", "ttl", "type", "uri", "url", "var",
    ];
    const AMOUNTS: [&str; 10] =
        ["budget", "context", "input", "limit", "max", "min", "num", "output", "per", "thinking"];
    let words = words_of(name);
    let squashed: String = words.concat();
    if squashed.contains("webhook") {
        return true;
    }
    let says_where = words.last().is_some_and(|last| ELSEWHERE.contains(&last.as_str()));
    let amounts = words.iter().any(|word| AMOUNTS.contains(&word.as_str()));
    let negated = words.first().is_some_and(|first| first == "no");
    let secret = PARTS.iter().any(|part| squashed.contains(part))
        || words.iter().any(|word| WORDS.contains(&word.as_str()) && !(amounts && word.starts_with("token")));
    secret && !says_where && !negated
}

/// The words of a name in lower case: it is split at what is no letter or digit, and where camelCase turns.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in name.chars() {
        if !c.is_ascii_alphanumeric() || (before.is_ascii_lowercase() && c.is_ascii_uppercase()) {
            words.push(String::new());
        }
        if c.is_ascii_alphanumeric() {
            words.last_mut().expect("it begins with one").push(c.to_ascii_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// How issued tokens begin, and how many bytes they have at least; shorter ones are words like `sk-learn`.
const ISSUED: [(&str, usize); 37] = [
    ("AIza", 35),
    ("AKIA", 20),
    ("ASIA", 20),
    ("BSA", 27),
    ("SG.", 30),
    ("ATATT", 30),
    ("dop_v1_", 30),
    ("eyJ", 20),
    ("fc-", 30),
    ("figd_", 20),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghr_", 20),
    ("ghs_", 20),
    ("ghu_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("gsk_", 20),
    ("hf_", 20),
    ("lin_api_", 20),
    ("npm_", 36),
    ("ntn_", 20),
    ("pk_live_", 20),
    ("pplx-", 20),
    ("pypi-", 40),
    ("r8_", 20),
    ("rk_live_", 20),
    ("sbp_", 20),
    ("shpat_", 20),
    ("sk-", 20),
    ("sk_live_", 16),
    ("sk_test_", 16),
    ("tvly-", 16),
    ("xai-", 20),
    ("xapp-", 16),
    ("xox", 16),
    ("ya29.", 20),
];

/// The length of the issued token that this text begins with.
pub(super) fn issued_token(text: &str) -> Option<usize> {
    let (_, least) = ISSUED.iter().find(|(prefix, _)| text.starts_with(prefix))?;
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"_-.~+/=".contains(c)).unwrap_or(text.len());
    let token = &text[..end];
    let varied = token.bytes().any(|b| b.is_ascii_digit());
    (end >= *least && varied).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whether_it_stands_for_a_secret() {
        for secret in [
            "--api-key",
            "--token",
            "--password",
            "--access-token",
            "--client-secret",
            "--key",
            "--auth",
            "GITHUB_TOKEN",
            "OPENAI_API_KEY",
            "apiKey",
            "clientSecret",
            "X-Auth-Token",
            "Authorization",
            "PGPASSWORD",
            "MYSQL_PWD",
            "apikey",
            "SLACK_WEBHOOK_URL",
            "DB_PASS",
            "AZURE_CREDENTIALS",
            "--bearer",
            "SENTRY_DSN",
            "API_TOKENS",
            "Cookie",
        ] {
            assert!(is_secret_name(secret), "{secret}");
        }
        for plain in [
            "--port",
            "--token-file",
            "--max-tokens",
            "MAX_THINKING_TOKENS",
            "--auth-type",
            "--no-auth",
            "--author",
            "--session",
            "--directory",
            "--client-id",
            "KEYBOARD",
            "PATH",
            "--compass",
            "--monkey",
            "OAUTH_CALLBACK_PORT",
            "",
        ] {
            assert!(!is_secret_name(plain), "{plain}");
        }
    }
}
