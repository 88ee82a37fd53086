//! `pinfold doctor`.

use super::{DONE, NO, args, failed, text};
use crate::client::{self, ClientError};
use crate::wire::{Call, Description};

pub(super) fn doctor(doctor: &args::Doctor) -> u8 {
    let described = client::find_or_start(doctor.socket.socket.as_deref())
        .and_then(|mut client| client.call::<Description>(&Call::Describe, &[], client::VIEW_MAX));
    match described {
        Ok(description) if doctor.json => text::print_json(&description),
        Ok(description) => text::print(&format!("{description:#?}\n")),
        Err(error @ ClientError::NotStarted(_)) => {
            failed(&error);
            return NO;
        }
        Err(error) => return failed(&error),
    }
    DONE
}
