//! What held a launcher where it stood: moving it must not free it from anything.
//!
//! Limits are read from the kernel, cgroup by cgroup, whoever set them. What systemd enforces by BPF programs shows in no
//! file, so the units on the way up are asked for it (systemd.resource-control(5)). All of it is copied to the session's
//! slice, the stricter of both; what cannot be copied is a refusal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::cgroup::{Cgroup, CgroupError, Membership, Mount, percent};
use crate::limits::{Bytes, Limit, Limits};
use crate::sys::bpf::Attach;
use crate::systemd::{Manager, Properties, SystemdError, Value, Variant};

/// Restrictions of access that another unit can be given.
const COPIED: &[&str] = &[
    "DeviceAllow",
    "DevicePolicy",
    "IPAddressAllow",
    "IPAddressDeny",
    "RestrictNetworkInterfaces",
    "SocketBindAllow",
    "SocketBindDeny",
];

/// Programs of somebody else's, which cannot.
const PROGRAMS: &[&str] = &["BPFProgram", "IPEgressFilterPath", "IPIngressFilterPath"];

/// Restrictions of access by property, only those that restrict.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Access(BTreeMap<String, Arc<Variant>>);

/// What a launcher would leave.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The strictest of each limit.
    pub(super) limits: Limits,
    pub(super) access: Access,
}

/// A restriction that cannot be taken along.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("moving the process would free it from {property}= of {unit}: {why}")]
pub struct CannotCopy {
    /// Which.
    pub property: String,
    /// Whose.
    pub unit: String,
    /// Why not.
    pub why: &'static str,
}

/// Why it is not known what a launcher would leave.
#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    /// The kernel refused something.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A manager refused something.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// Something cannot be taken along.
    #[error(transparent)]
    CannotCopy(#[from] CannotCopy),
    /// Somebody other than systemd attached a program to a cgroup that the launcher would leave: a container runtime does.
    #[error(
        "moving the process would free it from the BPF program ({kind}) of {cgroup}, which no setting of its unit explains"
    )]
    Program {
        /// Where it is attached, as bpftool(8) calls it.
        kind: &'static str,
        /// Whose it is.
        cgroup: String,
    },
    /// The launcher's own cgroup cannot be seen.
    #[error("the cgroup {0:?} of the process is not visible in this daemon's cgroup namespace")]
    Invisible(Membership),
}

/// One cgroup on the way up from a launcher, below what it has in common with where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// The kernel's path.
    pub(super) cgroup: String,
    /// Its unit, where it is one's.
    pub(super) unit: Option<String>,
    /// Whose unit: the user whose manager made it, or the system's.
    pub(super) user: bool,
}

/// The cgroups that a process leaves which goes from `from` to `to`, nearest first.
pub(super) fn steps(from: &str, to: &str) -> Vec<Step> {
    let below = |path: &str, above: &str| path == above || path.starts_with(&format!("{above}/"));
    let mut found = Vec::new();
    let mut at = from.trim_end_matches('/');
    while !at.is_empty() && !below(to, at) {
        let (above, name) = at.rsplit_once('/').unwrap_or(("", at));
        let parts: Vec<&str> = above.split('/').collect();
        let user = parts.iter().rposition(|part| part.starts_with("user@") && part.ends_with(".service"));
        // What is below a unit that is no slice is that unit's own, whatever it is called.
        let is_units = parts.iter().skip(user.map_or(1, |at| at + 1)).all(|part| part.ends_with(".slice"));
        let unit = Some(name.strip_prefix('_').unwrap_or(name)).filter(|name| is_units && is_unit(name));
        found.push(Step { cgroup: at.to_owned(), unit: unit.map(str::to_owned), user: user.is_some() });
        at = above;
    }
    found
}

impl Step {
    /// The unit that it is, or that it stands in.
    pub(super) fn unit_around(&self) -> Option<&str> {
        self.cgroup.rsplit('/').find(|name| is_unit(name))
    }
}

fn is_unit(name: &str) -> bool {
    [".service", ".scope", ".slice", ".socket", ".mount", ".swap"].iter().any(|end| name.ends_with(end))
}

impl Held {
    /// Adds the limits that the kernel holds in one cgroup.
    pub(super) fn add_limits(&mut self, cgroup: &Cgroup) {
        let read = |file: &str| cgroup.read(file).ok();
        let number = |file: &str| read(file).and_then(|text| text.trim().parse::<u64>().ok());
        let limits = &mut self.limits;
        limits.memory_max = stricter(limits.memory_max, number("memory.max").map(Bytes));
        limits.memory_high = stricter(limits.memory_high, number("memory.high").map(Bytes));
        limits.memory_swap_max = stricter(limits.memory_swap_max, number("memory.swap.max").map(Bytes));
        let pids = number("pids.max").map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        limits.pids_max = stricter(limits.pids_max, pids);
        limits.cpu_max = stricter(limits.cpu_max, read("cpu.max").as_deref().and_then(percent));
    }

    /// Adds what a unit restricts by other means.
    pub(super) fn add_access(&mut self, manager: &Manager, unit: &str, may_leave: bool) -> Result<(), HeldError> {
        let has = manager.properties(unit)?;
        for name in PROGRAMS {
            if !may_leave && has.get(*name).is_some_and(|value| !value.is_nothing()) {
                let why = "a BPF program of its own cannot be copied to another unit";
                return Err(CannotCopy { property: (*name).into(), unit: unit.into(), why }.into());
            }
        }
        for (name, value) in Access::of(&has).0 {
            let added = match self.access.0.get(&name) {
                None => Some(value),
                Some(own) if *own == value => continue,
                // systemd puts the addresses of a unit and its slices into one list as well.
                Some(own) if name.starts_with("IPAddress") => own.joined(&value).map(Arc::new),
                Some(_) => None,
            };
            match added {
                Some(value) => drop(self.access.0.insert(name, value)),
                None if may_leave => {}
                None => {
                    let why = "the units above the launcher differ in it, and one unit cannot hold both";
                    return Err(CannotCopy { property: name, unit: unit.into(), why }.into());
                }
            }
        }
        Ok(())
    }
}

/// The first program that a unit's properties do not account for.
pub(super) fn unaccounted(programs: &[Attach], has: &BTreeMap<String, Variant>) -> Option<Attach> {
    let set = |names: &[&str]| names.iter().any(|name| has.get(*name).is_some_and(|value| !value.is_nothing()));
    let accounted = |at: &Attach| match at {
        Attach::Device => {
            set(&["DeviceAllow"]) || has.get("DevicePolicy").is_some_and(|policy| !policy.is_text("auto"))
        }
        Attach::Ingress | Attach::Egress => {
            set(&["IPAddressAllow", "IPAddressDeny", "RestrictNetworkInterfaces"])
                || has.get("IPAccounting").is_some_and(Variant::is_true)
        }
        Attach::Bind4 | Attach::Bind6 => set(&["SocketBindAllow", "SocketBindDeny"]),
        _ => false,
    };
    programs.iter().copied().find(|at| !accounted(at))
}

impl Access {
    /// Those among a unit's properties that restrict.
    pub(super) fn of(has: &BTreeMap<String, Variant>) -> Self {
        let restricts =
            |name: &&&str| has.get(**name).is_some_and(|value| !value.is_nothing() && !value.is_text("auto"));
        let named = COPIED
            .iter()
            .filter(restricts)
            .filter_map(|name| Some(((*name).to_owned(), Arc::new(has.get(*name)?.try_clone()?))));
        let mut found: BTreeMap<_, _> = named.collect();
        // Allowing alone restricts nothing.
        for (allow, deny) in [("IPAddressAllow", "IPAddressDeny"), ("SocketBindAllow", "SocketBindDeny")] {
            if !found.contains_key(deny) {
                found.remove(allow);
            }
        }
        Self(found)
    }

    /// Whether nothing is restricted.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What of this is not in `others`; a property that both have with other values cannot be reconciled.
    pub(super) fn beyond(&self, others: &Self) -> Result<Self, &str> {
        let mut missing = Self::default();
        for (name, value) in &self.0 {
            match others.0.get(name) {
                Some(own) if own == value => {}
                Some(_) => return Err(name),
                None => drop(missing.0.insert(name.clone(), value.clone())),
            }
        }
        Ok(missing)
    }

    /// As properties.
    pub(super) fn add_to(&self, properties: Properties) -> Properties {
        self.0.iter().fold(properties, |properties, (name, value)| properties.with(name, Value::Copied(value.clone())))
    }

    /// Takes over what was added.
    pub(super) fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().map(|(name, value)| (name.clone(), value.clone())));
    }

    /// A property of it, to name in a refusal.
    pub(super) fn first(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }
}

/// The stricter of what is wanted and what held.
pub(super) fn strictest(wanted: Limits, held: &Limits) -> Limits {
    let at = |limit: Option<Limit<Bytes>>| limit.and_then(Limit::at);
    Limits {
        memory_max: stricter(wanted.memory_max, at(held.memory_max)),
        memory_high: stricter(wanted.memory_high, at(held.memory_high)),
        memory_swap_max: stricter(wanted.memory_swap_max, at(held.memory_swap_max)),
        pids_max: stricter(wanted.pids_max, held.pids_max.and_then(Limit::at)),
        cpu_max: stricter(wanted.cpu_max, held.cpu_max.and_then(Limit::at)),
        ..wanted
    }
}

fn stricter<T: Ord + Copy>(one: Option<Limit<T>>, other: Option<T>) -> Option<Limit<T>> {
    match (one, other) {
        (Some(Limit::At(one)), Some(other)) => Some(Limit::At(one.min(other))),
        (_, Some(other)) => Some(Limit::At(other)),
        (one, None) => one,
    }
}

/// The directory of a cgroup on the way up.
pub(super) fn open(mount: &Mount, from: &Membership, cgroup: &str) -> Result<Cgroup, HeldError> {
    let directory = mount.directory(cgroup).ok_or_else(|| HeldError::Invisible(from.clone()))?;
    Ok(Cgroup::open(directory.as_path() as &Path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_leaves_the_cgroups_below_what_it_has_in_common_with_its_session() {
        let names = |from: &str, to: &str| {
            steps(from, to).into_iter().map(|step| (step.unit.unwrap_or(step.cgroup), step.user)).collect::<Vec<_>>()
        };
        let system = "/pinfold.slice/pinfold-s.slice";
        assert_eq!(
            names("/system.slice/host.service/sub", system),
            [
                ("/system.slice/host.service/sub".into(), false),
                ("host.service".into(), false),
                ("system.slice".into(), false)
            ]
        );
        let user = "/user.slice/user-1000.slice/user@1000.service/pinfold.slice/pinfold-s.slice";
        assert_eq!(
            names("/user.slice/user-1000.slice/user@1000.service/app.slice/host.scope", user),
            [("host.scope".into(), true), ("app.slice".into(), true)]
        );
        assert_eq!(names("/user.slice/user-1000.slice/session-3.scope", user), [("session-3.scope".into(), false)]);
        assert_eq!(
            names("/system.slice/host.service/b.service", system)[0],
            ("/system.slice/host.service/b.service".into(), false)
        );
        assert_eq!(names("/_memory.service", system), [("memory.service".into(), false)]);
        assert_eq!(names("/pinfold.slice/pinfold-s.slice/pinfold-s-1.scope/x.1", system).len(), 2);
        assert_eq!(names("/", system), []);
    }

    #[test]
    fn the_stricter_of_two_limits_holds() {
        let held =
            Limits { pids_max: Some(Limit::At(50)), memory_max: Some(Limit::At(Bytes(1 << 30))), ..Limits::default() };
        let wanted = Limits {
            pids_max: Some(Limit::Infinity),
            memory_max: Some(Limit::At(Bytes(1 << 20))),
            ..Limits::default()
        };
        let both = strictest(wanted, &held);
        assert_eq!((both.pids_max, both.memory_max), (Some(Limit::At(50)), Some(Limit::At(Bytes(1 << 20)))));
        assert_eq!(percent("50000 100000"), Some(50));
        assert_eq!((percent("1 100000"), percent("max 100000")), (Some(1), None));
    }
}
