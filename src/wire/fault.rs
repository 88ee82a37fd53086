//! What can go wrong, and how it is told.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde_json::Value;

use super::{Message, WireError, frame};

/// What can go wrong, as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The launch is not done.
    Refused {
        /// Why.
        reason: String,
        /// What would change that.
        remedy: String,
        /// Whether the caller may run without containment instead.
        uncontained: bool,
    },
    /// The caller may not do this.
    NotPermitted(String),
    /// The configuration is not read anew, and what it said before still holds: why.
    NotReloaded(String),
    /// The history cannot be read: why.
    NoHistory(String),
    /// No session of the caller's holds this process.
    NotContained(i32),
    /// `org.varlink.service`: there is no such method.
    MethodNotFound(String),
    /// `org.varlink.service`: there is no such interface.
    InterfaceNotFound(String),
    /// `org.varlink.service`: a parameter is not what the interface says.
    InvalidParameter(String),
}

impl Fault {
    /// The fault as a reply.
    pub fn encode(&self) -> Vec<u8> {
        let (error, parameters) = match self {
            Self::Refused { reason, remedy, uncontained } => (
                "io.pinfold.Refused",
                serde_json::json!({ "reason": reason, "remedy": remedy, "uncontained": uncontained }),
            ),
            Self::NotPermitted(reason) => ("io.pinfold.NotPermitted", serde_json::json!({ "reason": reason })),
            Self::NotReloaded(reason) => ("io.pinfold.NotReloaded", serde_json::json!({ "reason": reason })),
            Self::NoHistory(reason) => ("io.pinfold.NoHistory", serde_json::json!({ "reason": reason })),
            Self::NotContained(pid) => ("io.pinfold.NotContained", serde_json::json!({ "pid": pid })),
            Self::MethodNotFound(name) => ("org.varlink.service.MethodNotFound", serde_json::json!({ "method": name })),
            Self::InterfaceNotFound(name) => {
                ("org.varlink.service.InterfaceNotFound", serde_json::json!({ "interface": name }))
            }
            Self::InvalidParameter(what) => {
                ("org.varlink.service.InvalidParameter", serde_json::json!({ "parameter": what }))
            }
        };
        frame(&Message { error: Some(error.to_owned()), parameters, ..Message::default() })
    }

    pub(super) fn of(error: &str, parameters: &Value) -> Result<Self, WireError> {
        let text = |key: &str| parameters.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(match error {
            "io.pinfold.Refused" => Self::Refused {
                reason: text("reason"),
                remedy: text("remedy"),
                uncontained: parameters.get("uncontained").and_then(Value::as_bool).unwrap_or(false),
            },
            "io.pinfold.NotPermitted" => Self::NotPermitted(text("reason")),
            "io.pinfold.NotReloaded" => Self::NotReloaded(text("reason")),
            "io.pinfold.NoHistory" => Self::NoHistory(text("reason")),
            "io.pinfold.NotContained" => {
                Self::NotContained(parameters.get("pid").and_then(Value::as_i64).unwrap_or_default() as i32)
            }
            "org.varlink.service.MethodNotFound" => Self::MethodNotFound(text("method")),
            "org.varlink.service.InterfaceNotFound" => Self::InterfaceNotFound(text("interface")),
            "org.varlink.service.InvalidParameter" => Self::InvalidParameter(text("parameter")),
            other => return Err(WireError::Malformed(format!("it tells an unknown error, {other}"))),
        })
    }
}
