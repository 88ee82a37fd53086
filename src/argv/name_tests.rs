use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(table: &[(&str, &str)]) {
    for (line, expected) in table {
        let argv: Vec<String> = line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        assert_eq!(server_name(&argv).as_str(), *expected, "{line}");
    }
}

#[test]
fn npx_and_its_kin_are_named_after_the_package() {
    check(&[
        ("npx -y @upstash/context7-mcp", "context7-mcp"),
        ("npx -y @upstash/context7-mcp@latest --api-key x", "context7-mcp"),
        ("/usr/local/bin/npx --yes @modelcontextprotocol/server-filesystem@2026.8.31 /data", "server-filesystem"),
        ("npx pkg@1.2", "pkg"),
        ("npx -y -- mcp-deepwiki", "mcp-deepwiki"),
        ("npx --registry https://r.example/ mcp-server-sqlite-npx a.db", "mcp-server-sqlite-npx"),
        ("npx -y @playwright/mcp@latest --headless", "playwright-mcp"),
        ("npx -y @sentry/mcp-server", "sentry-mcp-server"),
        ("npx -p @scope/pkg mcp-server-foo", "mcp-server-foo"),
        ("npx -y --package=@scope/pkg -- server", "pkg"),
        ("npx --package @scope/pkg@1", "pkg"),
        ("npx tsx src/weather.ts", "weather"),
        ("npx -y dotenvx run -- node /srv/notes-mcp/index.js", "notes-mcp"),
        ("npx -y github:user/repo-mcp#v1", "repo-mcp"),
        ("npx -y mcp-remote https://example.com/sse", "mcp-remote"),
        ("npm exec -y chrome-devtools-mcp@latest", "chrome-devtools-mcp"),
        ("npm exec --yes -- @scope/pkg", "pkg"),
        ("npm x pkg", "pkg"),
        ("npm --prefix /srv/my-mcp run start", "my-mcp"),
        ("npm run mcp:github", "mcp:github"),
        ("npm start", "npm"),
        ("pnpm dlx @scope/pkg@2", "pkg"),
        ("pnpm --package=@scope/pkg dlx tool", "tool"),
        ("pnpm --dir /srv/my-mcp start", "my-mcp"),
        ("yarn dlx -q @scope/pkg", "pkg"),
        ("yarn dlx -p typescript tool", "tool"),
        ("bunx --bun @scope/pkg", "pkg"),
        ("bun x @scope/pkg", "pkg"),
        ("npx", "npx"),
        ("npx -y", "npx"),
    ]);
}

#[test]
fn python_runners_are_named_after_the_tool() {
    check(&[
        ("uvx mcp-server-git --repository /x", "mcp-server-git"),
        ("uvx mcp-server-fetch@2025.4.7", "mcp-server-fetch"),
        ("uvx mcp-server-fetch==1.0", "mcp-server-fetch"),
        ("uvx --python 3.12 --from git+https://github.com/o/serena serena start-mcp-server", "serena"),
        ("uvx --from awslabs-docs@1 server", "awslabs-docs"),
        ("uv tool run mcp-server-time", "mcp-server-time"),
        ("uv run mcp-server-time", "mcp-server-time"),
        ("uv --directory /srv/weather run server.py", "weather"),
        ("uv run --directory /srv/weather main.py", "weather"),
        ("uv run --with mcp[cli] mcp run /srv/weather/server.py", "weather"),
        ("uv run --with mcp mcp run stocks.py:app", "stocks"),
        ("uv run python -m mcp_server_time", "mcp_server_time"),
        ("uv run -m my_mcp.server", "my_mcp"),
        ("uv run python /srv/weather/src/server.py", "weather"),
        ("uv run fastmcp run stocks.py", "stocks"),
        ("uv sync", "uv"),
        ("pipx run mcp-server-time", "mcp-server-time"),
        ("pipx run --spec mcp-weather server", "mcp-weather"),
        ("poetry -C /srv/weather run server", "weather"),
        ("poetry run mcp-weather", "mcp-weather"),
        ("uvx", "uvx"),
    ]);
}

#[test]
fn interpreters_are_named_after_the_script() {
    check(&[
        ("node /x/node_modules/@scope/pkg/dist/index.js", "pkg"),
        ("node --no-warnings --max-old-space-size=256 /srv/my-mcp/dist/index.js", "my-mcp"),
        ("node -r dotenv/config /srv/my-mcp/build/src/server.js", "my-mcp"),
        ("/opt/node-v22/bin/node weather.js", "weather"),
        ("node ./weather/server.js", "weather"),
        ("node /home/alice/index.js", "index"),
        ("node server.js", "server"),
        ("node -e 1", "node"),
        ("node", "node"),
        ("tsx watch /srv/my-mcp/src/index.ts", "my-mcp"),
        ("bun run /srv/my-mcp/index.ts", "my-mcp"),
        ("bun run start", "start"),
        ("deno run -A npm:@scope/pkg@1", "pkg"),
        ("deno run --allow-net /srv/my-mcp/mod.ts", "my-mcp"),
        ("deno run -A https://example.com/my-mcp/mod.ts", "my-mcp"),
        ("python -m mcp_server_time --local-timezone UTC", "mcp_server_time"),
        ("python3.12 -um my_pkg.server", "my_pkg"),
        ("python3 -m mcp_server", "mcp_server"),
        ("python -m uv run mcp-server-git", "mcp-server-git"),
        ("python weather/server.py", "weather"),
        ("python /srv/notes/src/notes_mcp/__main__.py", "notes_mcp"),
        ("python /srv/notes/.venv/bin/notes-mcp", "notes-mcp"),
        ("python3 -c pass", "python3"),
        ("java -jar /opt/stirling-mcp.jar", "stirling-mcp"),
        ("php /srv/blog-mcp/bin/server.php", "blog-mcp"),
    ]);
}

#[test]
fn containers_are_named_after_the_image() {
    check(&[
        ("docker run -i --rm -e GITHUB_TOKEN ghcr.io/github/github-mcp-server:latest stdio", "github-mcp-server"),
        ("docker run -it --rm mcp/fetch", "fetch"),
        ("docker run --rm -i --network host -v /a:/b --mount type=bind,src=/a,dst=/b mcp/filesystem /b", "filesystem"),
        ("docker run -eA=b -p8080:80 --init --name=x acme/mcp@sha256:abcd", "acme-mcp"),
        ("docker --context remote run --rm postgres:16", "postgres"),
        ("docker container run --rm mcp/time", "time"),
        ("podman run --rm -i --replace --name x localhost:5000/notes-mcp:2", "notes-mcp"),
        ("docker exec -i notes-container /bin/server", "notes-container"),
        ("docker compose -f c.yml run --rm -T notes", "notes"),
        ("docker ps", "docker"),
        ("docker run", "docker"),
    ]);
}

#[test]
fn wrappers_are_looked_through() {
    check(&[
        ("env A=b B=c npx -y @scope/pkg", "pkg"),
        ("nice -n 10 timeout 5 stdbuf -oL uvx mcp-server-git", "mcp-server-git"),
        ("nohup setsid /srv/my-mcp/bin/server", "my-mcp"),
        ("sudo -u mcp -E npx pkg", "pkg"),
        ("dotenvx run -f .env -- npx pkg", "pkg"),
        ("op run -- uvx mcp-notes", "mcp-notes"),
        ("/bin/bash /srv/start-notes.sh", "start-notes"),
        ("sh", "sh"),
        ("env", "env"),
    ]);
    for (text, expected) in [
        ("exec npx -y @scope/pkg", "pkg"),
        ("cd /srv/x && node /srv/my-mcp/index.js", "my-mcp"),
        ("export A=b; exec uvx 'mcp-server-git'", "mcp-server-git"),
        ("A=b npx pkg 2>/dev/null", "pkg"),
        ("cd /x", "sh"),
    ] {
        assert_eq!(server_name(&["sh", "-c", text].map(str::to_owned)).as_str(), expected, "{text}");
    }
    let npx_call = ["npx", "-y", "-p", "@scope/pkg", "-c", "mcp-tool --x"].map(str::to_owned);
    assert_eq!(server_name(&npx_call).as_str(), "mcp-tool");
}

#[test]
fn other_programs_are_named_after_themselves() {
    check(&[
        ("/usr/local/bin/github-mcp-server stdio", "github-mcp-server"),
        ("/opt/foo/v1.2/bin/server", "foo"),
        ("./target/release/notes-mcp", "notes-mcp"),
        ("/srv/notes.sh", "notes"),
        ("server", "server"),
        ("…", "server"),
        ("..", "server"),
        ("/", "server"),
        ("", "server"),
        ("node ..", "server"),
    ]);
}

#[test]
fn a_wrapper_in_a_wrapper_does_not_go_on_for_ever() {
    let argv = vec!["env".to_owned(); 10_000];
    assert_eq!(server_name(&argv).as_str(), "env");
}

proptest! {
    #[test]
    fn any_command_line_has_a_name(
        program in "(npx|uvx|uv|sh|env|docker|node|python|bun|deno|npm|timeout|mcp|.{0,8})",
        words in proptest::collection::vec("(-[a-zA-Z]{0,3}|--|run|-c|-m|@|a=b|[@/.:#a-z]{0,12}|.{0,12})", 0..8),
    ) {
        let argv: Vec<String> = std::iter::once(program).chain(words).collect();
        let _ = server_name(&argv);
    }
}
