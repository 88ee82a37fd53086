//! Letting the leaves of a new scope use the controllers that are delegated with it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Units, paths};
use crate::backend::AdmitError;
use crate::cgroup::{Controllers, Group, Leaf};
use crate::limits::Limits;
use crate::systemd::{Properties, Value};

/// How long a manager may take to hand on what it delegates.
const HANDED_MAX: Duration = Duration::from_secs(10);

/// When it is asked to look again, and after how long once more: one that is read anew itself may have missed it.
const ASKED_AFTER: Duration = Duration::from_millis(200);
const ASKED_AGAIN: Duration = Duration::from_secs(2);

/// How often it is looked at.
const PAUSE: Duration = Duration::from_millis(5);

impl Units {
    /// Hands on the controllers of a scope, those that these limits need among them. A manager that has read its units anew
    /// lately may tell of a scope that it has started before it hands on what it delegates to it.
    pub(super) fn hand_on(&self, leaf: &Leaf, unit: &str, limits: &Limits) -> Result<(), AdmitError> {
        let directory = leaf.group().v2().path().parent().map(PathBuf::from).unwrap_or_default();
        let scope = Group::open(&paths(directory))?;
        let start = Instant::now();
        let mut ask_at = ASKED_AFTER;
        let offered = loop {
            let offered = Controllers::of(scope.v2())?;
            if suffice(offered, limits) || start.elapsed() >= HANDED_MAX {
                break offered;
            }
            if start.elapsed() >= ask_at {
                tracing::debug!(
                    "{unit} has not all the controllers that are delegated to it: its manager is asked to look again"
                );
                // Any property has it go through the controllers of all that is above.
                self.manager.set(unit, Properties::default().with("TasksAccounting", Value::Flag(true)))?;
                ask_at = start.elapsed() + ASKED_AGAIN;
            }
            std::thread::sleep(PAUSE);
        };
        if !suffice(offered, limits) {
            let above = leaf.group().v2().path().ancestors().skip(1).take(3);
            let hands_on =
                |path: &Path| std::fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
            let told: Vec<_> = above.map(|path| format!("{}: {}", path.display(), hands_on(path).trim())).collect();
            tracing::warn!(unit, ?told, "its manager has not handed on the controllers that are delegated to it");
        }
        // What is missing is told by the limit that cannot be set.
        Ok(scope.delegate_controllers(offered)?)
    }
}

/// Whether these are all that the limits need.
pub(super) fn suffice(offered: Controllers, limits: &Limits) -> bool {
    let memory = limits.memory_max.is_some() || limits.memory_high.is_some() || limits.memory_swap_max.is_some();
    let cpu = limits.cpu_max.is_some() || limits.cpu_weight.is_some();
    let needs = [
        (memory, offered.memory),
        (limits.pids_max.is_some(), offered.pids),
        (cpu, offered.cpu),
        (limits.io_weight.is_some(), offered.io),
    ];
    needs.into_iter().all(|(needed, offered)| offered || !needed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Bytes, Limit};

    #[test]
    fn only_what_a_limit_needs_is_waited_for() {
        let none = Controllers::default();
        assert!(suffice(none, &Limits::default()));
        let limits = Limits { memory_max: Some(Limit::At(Bytes(1 << 20))), ..Limits::default() };
        assert!(!suffice(none, &limits));
        assert!(!suffice(Controllers { pids: true, cpu: true, io: true, ..none }, &limits));
        assert!(suffice(Controllers { memory: true, ..none }, &limits));
    }
}
