//! What holds a session's scopes while no daemon does: how long systemd lets them live, and the host's unit they are bound to.
//!
//! A scope is given both when it is made and cannot be given them any more. So a session may have several scopes, and a
//! launch joins one that was given what it needs, or begins a further one: the end of one host's unit never takes along what
//! another host launched in the same session.

use std::time::Duration;

use super::{Session, Units};
use crate::backend::AdmitError;
use crate::cgroup::{Admission, Cgroup, Membership};
use crate::naming::SessionKey;
use crate::process;
use crate::session::ProcessId;
use crate::systemd::{Properties, SystemdError, Value, Variant};

/// How much later than the daemon systemd ends what has outlived its session's time-to-live: it is for daemons that died.
const DEAD_MAN_MARGIN: Duration = Duration::from_secs(10);

/// What a scope was given when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// Since boot: systemd does not stop it before. `None`: never.
    until: Option<Duration>,
    /// The units it is bound to (`BindsTo=`, systemd.unit(5)).
    bound: Vec<String>,
}

/// What a launch needs of the scope that it joins.
#[derive(Debug, Clone)]
pub(super) struct Needs {
    until: Option<Duration>,
    /// The unit of its host, whose end ends it.
    pub(super) bound: Option<String>,
    /// The scope that the launcher stands in already.
    own: Option<String>,
    /// Scopes that systemd has forgotten, whose cgroups are still there with nobody but this launcher in them.
    pub(super) forgotten: Vec<String>,
}

impl Needs {
    /// What a scope is given that is made for this launch.
    pub(super) fn given(&self) -> Given {
        Given { until: self.until, bound: self.bound.iter().cloned().collect() }
    }

    /// As properties of a scope. With `After=`, systemd refuses to start it when the unit that it is bound to is not active
    /// at that moment.
    pub(super) fn add_to(&self, properties: Properties) -> Properties {
        let properties = match self.until {
            Some(until) => {
                let left = until.saturating_sub(process::since_boot()) + DEAD_MAN_MARGIN;
                properties.with("RuntimeMaxUSec", Value::Number(left.as_micros() as u64))
            }
            None => properties,
        };
        match &self.bound {
            Some(unit) => properties
                .with("BindsTo", Value::Texts(vec![unit.clone()]))
                .with("After", Value::Texts(vec![unit.clone()])),
            None => properties,
        }
    }

    /// Whether a scope that was given this will do.
    fn are_met_by(&self, given: &Given) -> bool {
        let lives = match (given.until, self.until) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(until), Some(needed)) => needed <= until,
        };
        lives && given.bound.iter().eq(&self.bound)
    }
}

impl Units {
    /// What a launch needs: a nested one what its launcher has.
    pub(super) fn needs(&self, from: &Membership, wanted: &Admission<'_>) -> Result<Needs, AdmitError> {
        let own = self.scope_of(from);
        let bound = match &own {
            Some(scope) => self.given(scope)?.bound.pop(),
            None => self.host_unit(wanted.owner),
        };
        Ok(Needs { until: wanted.until, bound, own, forgotten: Vec::new() })
    }

    /// The living scope that the launcher may join; its session is open then. Where there is none and the host's unit cannot
    /// be bound to, because it is not active, the launch does without.
    pub(super) fn fitting_scope(
        &self,
        kept: &mut Option<Session>,
        key: &SessionKey,
        needs: &mut Needs,
    ) -> Result<Option<(Cgroup, String)>, AdmitError> {
        if let Some(scope) = self.living_fitting_scope(kept, key, needs)? {
            return Ok(Some(scope));
        }
        match &needs.bound {
            Some(unit) if !matches!(self.manager.active_state(unit)?.as_str(), "active" | "reloading") => {
                needs.bound = None;
                self.living_fitting_scope(kept, key, needs)
            }
            Some(_) | None => Ok(None),
        }
    }

    fn living_fitting_scope(
        &self,
        kept: &mut Option<Session>,
        key: &SessionKey,
        needs: &Needs,
    ) -> Result<Option<(Cgroup, String)>, AdmitError> {
        let mut living = self.living_scopes(key)?;
        living.retain(|(_, unit)| !needs.forgotten.contains(unit));
        if living.is_empty() {
            return Ok(None);
        }
        let session = match kept {
            Some(session) => session,
            None => kept.insert(self.open_session(key)?),
        };
        session.scopes.retain(|unit, _| living.iter().any(|(_, name)| name == unit));
        // What is launched from inside a scope stays in it if it can.
        living.sort_by_key(|(_, unit)| needs.own.as_ref() != Some(unit));
        for (directory, unit) in living {
            if !session.scopes.contains_key(&unit) {
                session.scopes.insert(unit.clone(), self.given(&unit)?);
            }
            if !session.scopes.get(&unit).is_some_and(|given| needs.are_met_by(given)) {
                continue;
            }
            // One whose daemon died over its first launch has that launcher in its own cgroup, and is that one's alone.
            if needs.own.as_ref() == Some(&unit) || directory.processes()?.is_empty() {
                return Ok(Some((directory, unit)));
            }
        }
        Ok(None)
    }

    /// What a scope was given, as its manager tells.
    fn given(&self, unit: &str) -> Result<Given, SystemdError> {
        let number = |value: &Variant| value.number().filter(|number| *number != u64::MAX);
        let longest = self.manager.properties(unit)?.get("RuntimeMaxUSec").and_then(number);
        let until = match longest {
            None => None,
            Some(longest) => {
                // systemd's clock stands still while the machine sleeps.
                let since = Duration::from_micros(self.manager.active_since(unit)?);
                let left = (since + Duration::from_micros(longest)).saturating_sub(process::awake_since_boot());
                Some((process::since_boot() + left).saturating_sub(DEAD_MAN_MARGIN))
            }
        };
        Ok(Given { until, bound: self.manager.bound_to(unit)? })
    }

    /// The scope of a session that a process in `membership` stands in.
    fn scope_of(&self, membership: &Membership) -> Option<String> {
        let caller = self.locate(membership)?;
        let above = self.machine.len() + "/".len() + caller.key.slice().len() + "/".len();
        Some(membership.v2.as_deref()?.get(above..)?.split('/').next()?.to_owned())
    }

    /// The unit of this manager that a host stands in, if its end is the host's.
    fn host_unit(&self, host: ProcessId) -> Option<String> {
        let place = Membership::of(host.pid).ok()?.v2?;
        // It was asked by its number, which another process may have by now: then it is the other's unit.
        let is_the_host = process::identify(host.pid).is_ok_and(|now| now == host);
        let unit = self.manager.unit_of(&place)?;
        (is_the_host && is_hosts(unit, &place)).then(|| unit.to_owned())
    }
}

/// Whether a unit is the one that a process in this cgroup is started and stopped with. `init.scope` is the manager itself; a
/// scope of ours ends when its servers do; and what stands below `user@UID.service` is in a unit of another manager's, which
/// this one cannot bind to.
fn is_hosts(unit: &str, cgroup: &str) -> bool {
    let holds_a_manager = unit.starts_with("user@") && !cgroup.ends_with(&format!("/{unit}"));
    unit != "init.scope" && SessionKey::of_scope(unit).is_none() && !holds_a_manager
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_bound_to_the_unit_that_its_host_is_stopped_with() {
        for (unit, cgroup, bound) in [
            ("host.service", "/system.slice/host.service", true),
            ("host.service", "/system.slice/host.service/a/b.service", true),
            ("session-3.scope", "/user.slice/user-1000.slice/session-3.scope", true),
            ("app-host@1.service", "/user.slice/user-1000.slice/user@1000.service/app.slice/app-host@1.service", true),
            ("user@1000.service", "/user.slice/user-1000.slice/user@1000.service/app.slice/host.service", false),
            ("user@1000.service", "/user.slice/user-1000.slice/user@1000.service", true),
            ("init.scope", "/init.scope", false),
            ("pinfold-s_0123456789ab-1.scope", "/pinfold.slice/pinfold-s_0123456789ab.slice/x", false),
        ] {
            assert_eq!(is_hosts(unit, cgroup), bound, "{unit} {cgroup}");
        }
    }

    #[test]
    fn a_launch_joins_a_scope_that_is_bound_as_it_needs_and_lives_for_as_long() {
        let at = |seconds| Some(Duration::from_secs(seconds));
        let needs = |until, bound: Option<&str>| Needs {
            until,
            bound: bound.map(str::to_owned),
            own: None,
            forgotten: Vec::new(),
        };
        let given =
            |until, bound: &[&str]| Given { until, bound: bound.iter().map(|unit| (*unit).to_owned()).collect() };
        for (needs, given, met) in [
            (needs(None, None), given(None, &[]), true),
            (needs(at(5), None), given(None, &[]), true),
            (needs(None, None), given(at(5), &[]), false),
            (needs(at(5), None), given(at(5), &[]), true),
            (needs(at(6), None), given(at(5), &[]), false),
            (needs(None, Some("a")), given(None, &["a"]), true),
            (needs(None, Some("a")), given(None, &["b"]), false),
            (needs(None, Some("a")), given(None, &[]), false),
            (needs(None, None), given(None, &["a"]), false),
            (needs(None, Some("a")), given(None, &["a", "b"]), false),
        ] {
            assert_eq!(needs.are_met_by(&given), met, "{needs:?} {given:?}");
            assert!(needs.are_met_by(&needs.given()), "what is made for a launch is what it needs");
        }
    }
}
