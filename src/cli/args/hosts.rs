//! What is about the files of hosts.

use std::path::PathBuf;

use clap::Args;

use crate::hostfile::hosts::{Base, HOSTS};

/// Which files each host has, for the help.
fn files() -> String {
    // A variable that is set stands in the place of what is below the home directory.
    let mut text = "Files of the hosts (a variable where that is set, instead of what is below ~):\n".to_owned();
    for host in HOSTS {
        let files = host.files.iter().map(|(base, path)| match base {
            Base::Home => format!("~/{path}"),
            Base::Config => format!("~/.config/{path}"),
            Base::Here => format!("./{path}"),
            Base::Directory(variable) => format!("${variable}/{path}"),
            Base::File(variable) => format!("${variable}"),
        });
        text.push_str(&format!("  {:11} {}\n", host.name, files.collect::<Vec<_>>().join(", ")));
    }
    text
}

#[derive(Debug, Args)]
#[command(after_help = files())]
pub(in crate::cli) struct Wrap {
    /// A host, for its files of this user and in this directory: openclaw, claude-code, cursor, vscode, gemini-cli, codex,
    /// goose, opencode or zed; or one file.
    #[arg(value_name = "HOST|FILE")]
    pub(in crate::cli) what: PathBuf,
    /// Only the servers of this name [default: all].
    #[arg(long = "server", value_name = "NAME")]
    pub(in crate::cli) servers: Vec<String>,
    /// Install the plug-in as well, for OpenClaw: it tells pinfold which session a server is of, and when that is over.
    #[arg(long, conflicts_with = "servers")]
    pub(in crate::cli) plugin: bool,
    /// Show what would change, and change nothing.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// Tell whether all are wrapped, and change nothing: status 1 where one is not, since hosts write their files anew.
    #[arg(long, conflicts_with_all = ["dry_run", "yes"])]
    pub(in crate::cli) check: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(in crate::cli) yes: bool,
    /// Print JSON; with --yes, --dry-run or --check.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Unwrap {
    /// A host, for its files of this user and in this directory; or one file.
    #[arg(value_name = "HOST|FILE", required_unless_present = "all")]
    pub(in crate::cli) what: Option<PathBuf>,
    /// Every file that was wrapped by this user.
    #[arg(long, conflicts_with = "what")]
    pub(in crate::cli) all: bool,
    /// Only the servers of this name [default: all].
    #[arg(long = "server", value_name = "NAME")]
    pub(in crate::cli) servers: Vec<String>,
    /// Show what would change, and change nothing.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(in crate::cli) yes: bool,
    /// Print JSON; with --yes or --dry-run.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
