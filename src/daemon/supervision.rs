//! Whether somebody looks after this daemon: starts it again whenever it dies, keeps what it holds meanwhile, and thaws what it
//! froze where it does not come back. Only then is a server frozen: one that nobody would thaw is worse than one that leaks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{ServeError, lock};
use crate::backend::Backend;
use crate::cgroup::{Thawed, thaw_all_below};
use crate::client::beside;
use crate::policy::Offer;
use crate::process;
use crate::records::{Record, Records};

/// Whether servers may be parked by this daemon. A unit is asked for what it really has, whatever file it was made from;
/// anything else is believed on its word.
pub(super) fn offer(backend: &Backend, declared: bool) -> Offer {
    if declared {
        return Offer::Holds;
    }
    let missing = |why: String| Offer::Missing { why, remedy: REMEDY.to_owned() };
    match backend.supervision() {
        None => missing("no service manager is known to start this daemon again and to thaw what it froze".to_owned()),
        Some(Ok(lacking)) if lacking.is_empty() => Offer::Holds,
        Some(Ok(lacking)) => missing(format!("the unit of this daemon has no {}", lacking.join(", no "))),
        Some(Err(why)) => missing(format!("it is not known whether the unit of this daemon is started again: {why}")),
    }
}

const REMEDY: &str = "run it as pinfold.service does (Restart=, FileDescriptorStoreMax=, ExecStopPost=pinfold thaw --left), or \
                      say `pinfold serve --supervised` where something else sees to that";

/// Thaws what the daemon of this socket has left frozen, where none runs. Tells how many servers that were; that some stand
/// still all the same is an error.
pub fn thaw_left(socket: &Path) -> Result<usize, ServeError> {
    let directory = beside(socket, "d");
    if !directory.is_dir() {
        return Ok(0);
    }
    // None starts meanwhile and parks what is thawed here.
    let _socket = lock::socket(socket, lock::Claim::ToThaw)?;
    let boot = process::boot_id().map_err(super::failed("read", Path::new("/proc/sys/kernel/random/boot_id")))?;
    let Thawed { leaves, failed } = thaw(Records::open(&directory)?.load(&boot)?.records.iter());
    let failures = failed.len();
    match failed.into_iter().next() {
        Some(source) => Err(ServeError::StillFrozen { failures, thawed: leaves, source }),
        None => Ok(leaves),
    }
}

/// Thaws all that stands below the places that these tell of.
pub(super) fn thaw<'a>(records: impl Iterator<Item = &'a Record>) -> Thawed {
    let machines: BTreeSet<PathBuf> = records.map(|record| record.machine.v2.clone()).collect();
    machines.iter().fold(Thawed::default(), |mut all, machine| {
        let Thawed { leaves, failed } = thaw_all_below(machine);
        all.leaves += leaves;
        all.failed.extend(failed);
        all
    })
}
