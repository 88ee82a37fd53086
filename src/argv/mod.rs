//! What a command line says: which server it launches, which script an interpreter runs, and which parts of it are
//! secrets that must not leave the launcher.
//!
//! All of it reads text only. It never looks a program up, and what it answers is a label: nothing is ever killed,
//! matched or limited because of a command line alone, except where the configuration says so.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod container;
mod digest;
mod mask;
mod name;
mod options;
mod path;
mod script;
mod secret;
mod unwrap;

pub use container::{
    ContainerUse, PutIn, SERVER_LABEL, SESSION_LABEL, container_use, global, is_podman, leaves_monitor, says_where,
};
pub use digest::{CommandDigest, DigestError};
pub use mask::MaskedArgv;
pub use name::server_name;
pub use path::{is_generic, package, stem, versioned};
pub use script::{Script, script};
pub use unwrap::behind;
