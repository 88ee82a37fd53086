//! `pinfold label`.

use super::{DONE, NO, USAGE, args, failed, text};
use crate::chain::chain;
use crate::client::{self, ClientError};
use crate::label::{Label, Labels};
use crate::session::SessionId;
use crate::wire::{Call, Fault, Relabel, Relabelled};

pub(super) fn label(label: &args::Relabel) -> u8 {
    let wish = match wish(label) {
        Ok(wish) => wish,
        Err(usage) => {
            eprintln!("pinfold: {usage}");
            return USAGE;
        }
    };
    let call = Call::Label(wish.clone());
    let asked = client::find(label.socket.socket.as_deref())
        .and_then(|mut client| client.call::<Relabelled>(&call, &[], client::VIEW_MAX));
    let reply = match asked {
        Ok(reply) => reply,
        // Nobody that it could be tied to.
        Err(ClientError::Fault(Fault::NotContained(_))) => Relabelled::default(),
        Err(ClientError::NoDaemon(_)) if label.socket.socket.is_none() => Relabelled::default(),
        Err(error) => return failed(&error),
    };
    if label.json {
        text::print_json(&reply);
    }
    if reply.leaves.is_empty() {
        eprintln!("pinfold: nothing labelled: {}", nobody(&wish));
        return NO;
    }
    if !label.json {
        text::print(&format!("{}: {}\n", reply.leaves.join(", "), wish.labels));
    }
    DONE
}

fn nobody(wish: &Relabel) -> String {
    match (&wish.session, wish.owner_pid, wish.pid) {
        (Some(session), ..) => format!("no server of session {session} is alive"),
        (None, Some(pid), _) => format!("process {pid} owns nothing that lives"),
        (None, None, pid) => super::status::holds_none(pid.unwrap_or_default()),
    }
}

/// The first word is the session, unless an option says what is labelled.
fn wish(label: &args::Relabel) -> Result<Relabel, String> {
    let (session, words) = match label.words.split_first() {
        Some((session, words)) if label.owner.is_none() && label.pid.is_none() => (Some(session), words),
        _ => (None, label.words.as_slice()),
    };
    let session = session.map(|id| SessionId::parse(id)).transpose().map_err(|error| error.to_string())?;
    if words.is_empty() {
        return Err("there is no label to give; write KEY=VALUE behind the session, as in run=42".to_owned());
    }
    let labels = words.iter().map(|word| word.parse()).collect::<Result<Vec<Label>, _>>();
    let labels = labels.and_then(Labels::collect).map_err(|error| chain(&error))?;
    Ok(Relabel { session, owner_pid: label.owner, pid: label.pid, labels })
}
