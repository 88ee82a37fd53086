//! The manual pages in `man/` say what the command line, the sample configuration and the README define.
//!
//! `PINFOLD_WRITE_MAN=1 cargo test --test manual` writes them anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap_mangen::Man;

/// The keys by which an operator decides about each cause; `grace` is about all of them.
const KEYS: [(&str, &[&str]); 11] = [
    ("requested", &[]),
    ("stopped", &[]),
    ("leader_exited", &[]),
    ("stdin_closed", &["stdin_grace"]),
    ("owner_gone", &["commands"]),
    ("memory", &["memory_max", "memory_swap_max", "memory_high_pressure", "memory_high_for"]),
    ("pids", &["pids_max", "on_pids"]),
    ("expired", &["ttl"]),
    ("idle", &["idle_after"]),
    ("unconfigured", &["files"]),
    ("replaced", &["instances_max", "on_excess"]),
];

const COMMANDS: &str = r#".SH ENVIRONMENT
.TP
PINFOLD_SOCKET, PINFOLD_CONFIG, PINFOLD_ROOT, PINFOLD_BACKEND
Stand for \fB\-\-socket\fR, \fB\-\-config\fR, \fB\-\-root\fR and \fB\-\-backend\fR.
.TP
PINFOLD_SESSION
The session of a launch that names none. Each server is given it, and PINFOLD_SERVER, the name of its leaf.
.TP
PINFOLD_UNCONTAINED
\fIallow\fR stands for \fB\-\-uncontained\fR; \fIrefuse\fR is the same as unset, and any other word is an error.
.TP
NO_COLOR
Where it is set, nothing is coloured.
.SH FILES
.TP
~/.local/state/pinfold/wrapped, /var/lib/pinfold/wrapped
Which files a user, or root, has wrapped, and what stood in them before.
.TP
/usr/share/pinfold
Prometheus rules and Grafana dashboards, where a package has installed pinfold.
.PP
The sockets and the configuration are told in
.BR pinfold\-serve (8).
.SH EXAMPLES
.nf
pinfold run \-\-server fs \-\- npx \-y @modelcontextprotocol/server\-filesystem /data
pinfold run \-\-session night \-\-label run=42 \-\-memory\-max 512M \-\- node server.js
pinfold end \-\-label run=42
pinfold wrap claude\-code && pinfold doctor claude\-code
pinfold events \-\-follow \-\-json
pinfold completions bash >~/.local/share/bash\-completion/completions/pinfold
.fi
"#;

const STATUS: &str = r#".SH EXIT STATUS
0: done. 1: the answer is no, or it failed. 2: wrong usage. \fBpinfold end\fR of a session or a server that is not there is 1,
unless \fB\-\-if\-exists\fR says that it may be gone already; by \fB\-\-owner\fR, \fB\-\-label\fR or \fB\-\-all\fR, and with
\fB\-\-before\fR or \fB\-\-generation\fR, it is 0. \fBpinfold hook\fR is 0 but for wrong usage.
\fBpinfold run\fR has the status of the server that it becomes;
before that 125 for what pinfold could not or would not do, wrong usage included, 126 for a command that cannot be executed, 127 for one that is not
found, as in
.BR env (1).
"#;

const DAEMON: &str = r#".SH EXIT STATUS
0: it was told to stop, or had nothing to do for long enough. 1: it cannot work here, and one line says why. 2: wrong usage. 78:
the configuration is wrong; to start it again does not mend that.
.SH SIGNALS
SIGTERM and SIGINT stop the daemon and leave the sessions alive; the next start adopts them. SIGHUP reads the configuration
anew, as \fBpinfold reload\fR does.
.SH FILES
.TP
/run/pinfold/pinfold.sock, $XDG_RUNTIME_DIR/pinfold/pinfold.sock
The socket of root's daemon, for the group \fIpinfold\fR where there is one, and of a user's. It speaks varlink; the interface is
\fIio.pinfold\fR.
.TP
\fISOCKET\fR.d
What the next daemon has to know of what lives. It is to be kept over a restart of the daemon, not over a boot.
.TP
/etc/pinfold/pinfold.toml, ~/.config/pinfold/pinfold.toml
The configuration of root's daemon and of a user's, see
.BR pinfold.toml (5).
.SH EXAMPLES
.nf
pinfold serve \-\-config /etc/pinfold/pinfold.toml
systemctl reload pinfold.service
.fi
.SH SEE ALSO
.BR pinfold (1),
.BR pinfold.toml (5),
.BR pinfold\-metrics (7),
.BR systemd.slice (5),
.BR cgroups (7)
"#;

const CONFIGURATION: &str = r#".SH FILES
.TP
/etc/pinfold/pinfold.toml
That of root's daemon. A package installs the sample, which changes nothing as long as nothing is changed in it.
.TP
~/.config/pinfold/pinfold.toml
That of a user's daemon.
.SH EXAMPLES
Browsers may have more than other servers, and no session lives for longer than a day:
.PP
.nf
[session]
ttl = "1d"

[[rule]]
when = { server = "*browser*" }
server = { memory_max = "4G" }
.fi
.PP
\fBpinfold reload\fR has the daemon read it anew, and tells what is wrong by line and column.
.SH SEE ALSO
.BR pinfold (1),
.BR pinfold\-serve (8),
.BR systemd.resource\-control (5)
"#;

const METRICS: &str = r#".SH FILES
.TP
/usr/share/pinfold/prometheus, /usr/share/pinfold/grafana
Rules with alerts, a configuration of Prometheus and dashboards of Grafana, where a package has installed pinfold.
.SH EXAMPLES
.nf
curl http://127.0.0.1:9317/metrics
curl \-\-unix\-socket $XDG_RUNTIME_DIR/pinfold/pinfold.sock.http http://localhost/metrics
topk(5, pinfold_session_memory_working_set_bytes)
rate(pinfold_ends_total{cause="memory"}[1h])
.fi
.SH SEE ALSO
.BR pinfold (1),
.BR pinfold\-serve (8),
.BR pinfold.toml (5)
"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Text as roff(7) takes it: what stands in back quotes is bold.
fn roff(text: &str) -> String {
    let plain = text.replace('\\', "\\e").replace('-', "\\-");
    let mut out = String::new();
    for (index, part) in plain.split('`').enumerate() {
        out.push_str(if index % 2 == 1 { "\\fB" } else { "" });
        out.push_str(part);
        out.push_str(if index % 2 == 1 { "\\fR" } else { "" });
    }
    if out.starts_with(['.', '\'']) { format!("\\&{out}") } else { out }
}

/// One section of a command's page, as it is rendered, without its heading.
fn part(render: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut bytes = Vec::new();
    render(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    text.lines().filter(|line| !line.starts_with(".SH ")).fold(String::new(), |text, line| text + line + "\n")
}

fn title(name: &str, section: u8) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(".TH {name} {section} \"\" \"pinfold {version}\" \"pinfold\"\n.nh\n.ad l\n")
}

/// `pinfold(1)`: every command with its options, and why a server ends.
fn commands() -> String {
    let mut command = pinfold::cli::command();
    command.build();
    let about = command.get_about().unwrap().to_string();
    let mut page = title("pinfold", 1);
    let _ = writeln!(page, ".SH NAME\npinfold \\- {}", roff(&lowered(&about)));
    let _ = write!(page, ".SH SYNOPSIS\n\\fBpinfold\\fR \\fICOMMAND\\fR\n.SH COMMANDS\n");
    for sub in command.get_subcommands() {
        let man = Man::new(sub.clone());
        let _ = writeln!(page, ".SS {}", roff(&format!("pinfold {}", sub.get_name())));
        let _ = writeln!(page, "{}", roff(&sub.get_long_about().or(sub.get_about()).unwrap().to_string()));
        page.push_str(".PP\n");
        page.push_str(&part(|out| man.render_synopsis_section(out)));
        page.push_str(&part(|out| man.render_options_section(out)));
    }
    page.push_str(&causes());
    page.push_str(COMMANDS);
    page.push_str(STATUS);
    page.push_str(".SH SEE ALSO\n.BR pinfold.toml (5),\n.BR pinfold\\-metrics (7),\n.BR pinfold\\-serve (8)\n");
    page
}

fn lowered(text: &str) -> String {
    let mut chars = text.trim_end_matches('.').chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// The README's table of causes, and the keys for each.
fn causes() -> String {
    let readme = read("README.md");
    let start = readme.find("| cause | the fact behind it |").expect("the table of causes");
    let rows: Vec<&str> = readme[start..].lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let sample = read("deploy/pinfold.toml");
    let mut section = ".SH WHAT ENDS A SERVER\n".to_owned();
    assert_eq!(rows.len(), KEYS.len(), "each cause has its keys here");
    for (row, (cause, keys)) in rows.iter().zip(KEYS) {
        let (word, fact) = row.trim_matches(['|', ' ']).split_once(" | ").unwrap();
        assert_eq!(word, format!("`{cause}`"));
        let fact = fact.replace(" (see below)", "");
        let _ = writeln!(section, ".TP\n{}\n{}.", roff(word), roff(&fact));
        for key in keys {
            let is_there = sample.lines().any(|line| line.starts_with(&format!("#{key} = ")));
            assert!(is_there, "deploy/pinfold.toml has no {key}");
        }
        if !keys.is_empty() {
            let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
            let _ = writeln!(section, "Keys: {}.", roff(&keys.join(", ")));
        }
    }
    section.push_str(".PP\nThe keys are told in\n.BR pinfold.toml (5).\nBetween SIGTERM and the kill is the time of the key \\fBgrace\\fR, whatever the cause.\n");
    section
}

/// `pinfold-serve(8)`: the daemon.
fn daemon() -> String {
    let mut command = pinfold::cli::command();
    command.build();
    let serve = command.find_subcommand("serve").unwrap().clone();
    let man = Man::new(serve);
    let mut page = title("pinfold\\-serve", 8);
    page.push_str(".SH NAME\npinfold\\-serve \\- the daemon of pinfold\n.SH SYNOPSIS\n");
    page.push_str(&part(|out| man.render_synopsis_section(out)));
    page.push_str(".SH OPTIONS\n");
    page.push_str(&part(|out| man.render_options_section(out)));
    page.push_str(DAEMON);
    page
}

/// A block of comment lines of the sample configuration.
#[derive(Default)]
struct Block(Vec<String>);

impl Block {
    fn first(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// What is laid out by hand stays as it is; all else is filled.
    fn write(&mut self, page: &mut String, before: &str) {
        let mut literal = false;
        page.push_str(before);
        for line in std::mem::take(&mut self.0) {
            let by_hand = line.trim_start().contains("  ") || line.starts_with("  ");
            if by_hand != literal {
                page.push_str(if by_hand { ".PP\n.nf\n" } else { ".fi\n.PP\n" });
                literal = by_hand;
            }
            page.push_str(&if line.is_empty() { ".PP".to_owned() } else { roff(&line) });
            page.push('\n');
        }
        page.push_str(if literal { ".fi\n" } else { "" });
    }
}

/// `pinfold.toml(5)`: the sample configuration.
fn configuration() -> String {
    let sample = read("deploy/pinfold.toml");
    let mut page = title("pinfold.toml", 5);
    page.push_str(".SH NAME\npinfold.toml \\- what pinfold grants, and to whom\n.SH SYNOPSIS\n");
    page.push_str("/etc/pinfold/pinfold.toml\n.br\n~/.config/pinfold/pinfold.toml\n.SH DESCRIPTION\n");
    page.push_str("This is the sample configuration, \\fIdeploy/pinfold.toml\\fR, with its words.\n");
    let (mut block, mut in_host) = (Block::default(), false);
    let hosts: Vec<&str> = sample.lines().filter_map(|line| line.strip_prefix("#name = ")).collect();
    let flush = |block: &mut Block, page: &mut String| {
        // A block that stands alone and begins with its subject is a section.
        let subject = block.first().split_once(": ").map(|(word, _)| word.to_owned());
        match subject.as_deref() {
            Some("Rules") => block.write(page, ".SH RULES\n"),
            Some("Hosts") => {
                block.write(page, ".SH HOSTS\n");
                let _ = writeln!(page, "{}.", roff(&hosts.join(", ").replace('"', "")));
            }
            _ => block.write(page, ".PP\n"),
        }
    };
    // The first line is the page's name.
    for line in sample.lines().skip(1).chain([""]) {
        if line == "#[[host]]" {
            in_host = true;
        } else if in_host {
            in_host = !line.is_empty();
        } else if let Some(text) = line.strip_prefix("# ") {
            block.0.push(text.to_owned());
        } else if line == "#" {
            block.0.push(String::new());
        } else if let Some(key) = line.strip_prefix('#') {
            block.write(&mut page, &format!(".TP\n{}\n", roff(&format!("`{key}`"))));
        } else if let Some(table) = line.strip_prefix('[') {
            block.write(&mut page, &format!(".SH [{}\n", table.to_uppercase()));
        } else if !block.0.is_empty() {
            flush(&mut block, &mut page);
        }
    }
    page.push_str(CONFIGURATION);
    page
}

/// `pinfold-metrics(7)`: what is exported, as `docs/metrics.md` has it, which a test beside the definitions keeps true.
fn metrics() -> String {
    let mut page = title("pinfold\\-metrics", 7);
    page.push_str(".SH NAME\npinfold\\-metrics \\- what pinfold tells Prometheus\n.SH DESCRIPTION\n");
    // The first line is the page's name.
    for line in read("docs/metrics.md").lines().skip(2) {
        if let Some(heading) = line.strip_prefix("## ") {
            let _ = writeln!(page, ".SH {}", roff(&heading.to_uppercase()));
        } else if let Some(row) = line.strip_prefix("| `") {
            let cells: Vec<&str> = row.trim_end_matches([' ', '|']).splitn(4, '|').map(str::trim).collect();
            let [name, kind, labels, formula] = cells[..] else { panic!("four cells: {line}") };
            let labels = if labels.is_empty() { String::new() } else { format!(" {{{labels}}}") };
            let head = roff(&format!("`{}`{labels}, {kind}", name.trim_end_matches('`')));
            let _ = writeln!(page, ".TP\n{head}\n{}", roff(&formula.replace("\\|", "|")));
        } else if !line.starts_with('|') {
            page.push_str(&if line.is_empty() { ".PP".to_owned() } else { roff(line) });
            page.push('\n');
        }
    }
    page.push_str(METRICS);
    page
}

#[test]
fn the_manual_pages_say_what_the_definitions_say() {
    let pages = [
        ("pinfold.1", commands()),
        ("pinfold.toml.5", configuration()),
        ("pinfold-metrics.7", metrics()),
        ("pinfold-serve.8", daemon()),
    ];
    for (name, text) in pages {
        let path: PathBuf = root().join("man").join(name);
        if std::env::var_os("PINFOLD_WRITE_MAN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "man/{name} is out of date: PINFOLD_WRITE_MAN=1 cargo test --test manual");
    }
}
