//! `pinfold reload`.

use std::time::Duration;

use super::{DONE, NO, args, failed, text};
use crate::client;
use crate::wire::{Call, Reload, ReloadReply};

/// The longest that we wait for the daemon: the kernel may take its time to give memory back.
const WAIT_MAX: Duration = Duration::from_secs(120);

pub(super) fn reload(reload: &args::Reload) -> u8 {
    let wish = Reload { force: reload.force };
    let answered = client::find(reload.socket.socket.as_deref())
        .and_then(|mut client| client.call::<ReloadReply>(&Call::Reload(wish), &[], WAIT_MAX));
    match answered {
        Ok(reply) => report(reload, &reply),
        Err(error) => failed(&error),
    }
}

/// What changed goes to stdout; what did not is for whoever looks for what is wrong.
fn report(reload: &args::Reload, reply: &ReloadReply) -> u8 {
    if reload.json {
        text::print_json(reply);
    } else {
        text::print(&lines(reply));
        reply.kept.iter().for_each(|kept| eprintln!("pinfold: {kept}"));
        reply.warnings.iter().for_each(|warning| eprintln!("pinfold: warning: {warning}"));
    }
    if reply.kept.is_empty() && reply.warnings.is_empty() { DONE } else { NO }
}

fn lines(reply: &ReloadReply) -> String {
    let mut lines = match &reply.config {
        Some(path) => format!("{path} holds\n"),
        None => "there is no configuration file; the defaults hold\n".to_owned(),
    };
    reply.changed.iter().for_each(|change| lines.push_str(&format!("{change}\n")));
    if reply.changed.is_empty() && reply.kept.is_empty() {
        lines.push_str("no limit of what lives is another one; all else holds from now on\n");
    }
    lines
}
