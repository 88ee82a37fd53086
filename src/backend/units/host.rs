//! The daemon's own place, where no manager started it.

use std::time::{Duration, Instant};

use super::Units;
use crate::backend::BackendError;
use crate::cgroup::Membership;
use crate::systemd::{Properties, Value};

/// How long the scope of a daemon that was here before may need to go.
const NAME_FREE_MAX: Duration = Duration::from_secs(5);

/// The pause before it is looked for again.
const PAUSE: Duration = Duration::from_millis(50);

/// What an older manager may not know, and the scope can do without.
const MAY_LACK: &[&str] = &["CollectMode"];

impl Units {
    /// Moves this process into a scope of its own, and reads back from the kernel that it is there.
    pub fn leave_host(&self, scope: &str) -> Result<(), BackendError> {
        let properties = Properties::default()
            .with("Description", Value::Text("pinfold on demand".into()))
            .with("CollectMode", Value::Text("inactive-or-failed".into()))
            .with("PIDs", Value::Processes(vec![std::process::id()]));
        let start = Instant::now();
        loop {
            match self.manager.start(scope, properties.clone(), None, MAY_LACK) {
                // The last process of the one before is gone, and the manager has not seen it yet; or it failed.
                Err(error) if error.exists() && start.elapsed() < NAME_FREE_MAX => {
                    self.manager.reset_failed(scope)?;
                    std::thread::sleep(PAUSE);
                }
                started => break started?,
            }
        }
        let found = Membership::of("self").ok().and_then(|place| place.v2);
        let suffix = format!("/{scope}");
        match found {
            Some(found) if found.ends_with(&suffix) => Ok(()),
            found => Err(BackendError::NotMoved { scope: scope.to_owned(), found }),
        }
    }
}
