//! Hands on one systemd manager, the system's or a user's, over D-Bus: transient units, their jobs and properties.
//!
//! It speaks to `org.freedesktop.systemd1` (org.freedesktop.systemd1(5)) by its well-known name, because a re-executed
//! manager has another unique one. Its face is blocking and every call has a deadline; the connection lives on a thread of
//! its own, which makes it anew with a growing pause when the bus goes away. It never writes a cgroup file, and it decides
//! nothing: what a unit is for, [`crate::backend`] knows.
//!
//! A reply is not a result: a method that starts or stops something answers with a job, and only that job's end
//! (`JobRemoved`) says how it went. The signal's match stands before the first call.

mod bus;
mod error;
mod link;
mod manager;
mod names;
mod notify;
mod private;
mod properties;
mod store;

pub use bus::{Bus, BusMissing};
pub use error::{Reason, SystemdError};
pub use manager::{Manager, Stopped};
pub use notify::{Watchdog, ready};
pub use properties::{Properties, Value, Variant};
pub use store::{Passed, Porter, Store};
