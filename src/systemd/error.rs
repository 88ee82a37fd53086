//! What was tried on which unit, and what systemd or the bus said.

use std::time::Duration;

/// What was tried on which unit, and why it did not work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {unit}")]
pub struct SystemdError {
    doing: &'static str,
    unit: String,
    #[source]
    reason: Reason,
}

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The bus or its connection failed.
    #[error("the connection to the service manager failed")]
    Bus(#[source] zbus::Error),
    /// There is no connection now, and none came in time.
    #[error("the service manager cannot be reached")]
    Unreachable,
    /// The manager refused the call.
    #[error("systemd refused it: {message} ({name})")]
    Refused {
        /// The D-Bus error's name.
        name: String,
        /// What it says.
        message: String,
    },
    /// The job was done, and not with the result `done`.
    #[error("its job ended as `{0}`; `systemctl status` and the journal tell more")]
    Job(String),
    /// No answer, or no end of the job, in time.
    #[error("systemd did not finish it within {} s", .0.as_secs())]
    TooSlow(Duration),
    /// The answer is not what the interface says.
    #[error("systemd's answer was not understood: {0}")]
    Misunderstood(String),
}

impl SystemdError {
    pub(super) fn new(doing: &'static str, unit: impl Into<String>, reason: impl Into<Reason>) -> Self {
        Self { doing, unit: unit.into(), reason: reason.into() }
    }

    /// Why it did not work.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// There is no such unit (any more): at teardown that is success.
    pub fn is_gone(&self) -> bool {
        self.is_named("NoSuchUnit") || self.is_named("UnitNotLoaded")
    }

    /// A unit has this name already, if only one that failed and was kept.
    pub fn exists(&self) -> bool {
        self.is_named("UnitExists")
    }

    /// It was not started because a unit that it is bound to is not active.
    pub fn is_unmet_dependency(&self) -> bool {
        matches!(&self.reason, Reason::Job(result) if result == "dependency")
    }

    /// The process that was to be placed is gone.
    pub fn process_is_gone(&self) -> bool {
        match &self.reason {
            Reason::Refused { name, message } => {
                name.ends_with("UnixProcessIdUnknown")
                    || name.ends_with(".NoSuchProcess")
                    || message.contains("No such process")
            }
            _ => false,
        }
    }

    /// The property that this manager does not know, if that is why the call was refused.
    ///
    /// systemd answers `PropertyReadOnly`: "Cannot set property X, or unknown property." Versions are no guide, because
    /// distributions carry features back.
    pub fn unknown_property(&self) -> Option<&str> {
        match &self.reason {
            Reason::Refused { name, message } if name.ends_with("PropertyReadOnly") => {
                message.split("property ").nth(1)?.split([',', ' ']).next()
            }
            _ => None,
        }
    }

    fn is_named(&self, end: &str) -> bool {
        matches!(&self.reason, Reason::Refused { name, .. } if name.ends_with(end))
    }
}

impl From<zbus::Error> for Reason {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, message, _) => {
                Self::Refused { name: name.as_str().to_owned(), message: message.unwrap_or_default() }
            }
            zbus::Error::FDO(error) => match *error {
                zbus::fdo::Error::ZBus(error) => error.into(),
                other => {
                    use zbus::DBusError;
                    let message = other.description().unwrap_or_default().to_owned();
                    Self::Refused { name: other.name().as_str().to_owned(), message }
                }
            },
            other => Self::Bus(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_property_that_an_older_manager_does_not_know_is_named_by_its_refusal() {
        let refused = |name: &str, message: &str| {
            let reason = Reason::Refused { name: name.into(), message: message.into() };
            SystemdError::new("start", "x.scope", reason)
        };
        let error =
            refused("org.freedesktop.DBus.Error.PropertyReadOnly", "Cannot set property PIDFDs, or unknown property.");
        assert_eq!(error.unknown_property(), Some("PIDFDs"));
        let error = refused("org.freedesktop.systemd1.UnitExists", "Unit x.scope was already loaded.");
        assert_eq!((error.unknown_property(), error.exists()), (None, true));
    }
}
