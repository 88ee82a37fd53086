//! Rules: what a launch is granted, which host launched it, and which session it belongs to.
//!
//! Everything here is a function of what it is given: the settings (built by `config` from the one file), what
//! this machine offers, and facts that others read from the kernel. It touches nothing and remembers nothing.
//!
//! A refusal is an answer, not an error: it carries its reason and what to do about it.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod adjust;
mod adoption;
mod budget;
mod configured;
mod decide;
mod identity;
mod instances;
mod rate;
mod settings;

pub use adjust::{Lowering, Pass, Usage, differing, is_below_usage};
pub use adoption::{Adopter, Member, may_be_moved, takes_in_orphans};
pub use budget::{Holding, Newcomer, has_descriptors, has_room};
pub use configured::{Configured, Content, Watched};
pub use decide::{Decision, GRACE_MAX, Grant, Offer, Offers, Request, confined, decide, regrant};
pub use identity::{
    Caller, ProcessFacts, SERVER_VARIABLE, SESSION_VARIABLE, SessionName, SessionNaming, name_session, recognise_host,
};
pub use instances::{Likeness, counts_instances, oldest_beyond, too_many_instances};
pub use rate::{Buckets, Empty, KIN, Rate, Source, WAIT_MAX, too_often, waits};
pub use settings::{
    HostRule, OnExcess, OnPids, Rule, STALL, ServerWishes, SessionWishes, Settings, Uncontained, WhenRule,
    built_in_hosts,
};

/// Why something is not done, and what would change that. Both are clauses without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What stands against it.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Refusal {
    fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into() }
    }
}

/// The refusal as one line for people: `reason; remedy`.
impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.reason, self.remedy)
    }
}
