//! What a service manager has to do with it: whether it can be spoken to, and what the daemon is to it.

use super::Finding;
use crate::cgroup::Membership;
use crate::chain::chain;
use crate::cli::service::{INSTALLED, status_of};
use crate::naming::MACHINE_SLICE;
use crate::systemd::{Bus, BusMissing, Manager, SystemdError};
use crate::wire::Description;

/// What makes launches wait while the installed daemon is restarted.
const SOCKET: &str = "pinfold.socket";

/// Where the system's daemon stands, with memory kept for it.
const SLICE: &str = "pinfoldd.slice";

/// The manager of what this user starts, or of the daemon that was found.
pub(super) struct Systemd {
    uid: u32,
    found: Result<Manager, Unreachable>,
}

enum Unreachable {
    Missing(BusMissing),
    Silent(Bus, Box<SystemdError>),
}

impl Systemd {
    pub(super) fn look(daemon: Option<&Description>) -> Self {
        let own = nix::unistd::geteuid().as_raw();
        let uid = daemon.map_or(own, |daemon| daemon.uid);
        let found = Bus::find(uid)
            .map_err(Unreachable::Missing)
            .and_then(|bus| Manager::connect(bus.clone()).map_err(|error| Unreachable::Silent(bus, error.into())));
        Self { uid, found }
    }

    /// Whether there is a manager, and how it is spoken to. Where a daemon works without one that is no problem.
    pub(super) fn manager(&self, daemon: Option<&Description>) -> Finding {
        const WHAT: &str = "systemd";
        let needed = daemon.is_none();
        let missing = |detail: String, remedy: &str| {
            if needed { Finding::problem(WHAT, detail, remedy) } else { Finding::note(WHAT, detail, remedy) }
        };
        match &self.found {
            Ok(manager) => {
                let bus = manager.bus();
                Finding::ok(WHAT, format!("{} answers {} (systemd {})", bus.word(), bus.way(), manager.version()))
            }
            Err(Unreachable::Missing(BusMissing::NotBooted)) => {
                Finding::ok(WHAT, "it does not manage this machine; pinfold makes the cgroups itself")
            }
            Err(Unreachable::Missing(why)) => missing(why.why(), &why.remedy().unwrap_or_default()),
            Err(Unreachable::Silent(bus, error)) => {
                let look = match bus {
                    Bus::System => "`systemctl is-system-running` tells more".to_owned(),
                    Bus::User(_) => format!("`systemctl status user@{}.service` tells more", self.uid),
                };
                missing(chain(error.as_ref()), &look)
            }
        }
    }

    /// Why there is no daemon, without what [`Self::manager`] has told already.
    pub(super) fn without(&self, error: &str) -> String {
        match &self.found {
            Err(Unreachable::Missing(why)) => {
                error.replace(&format!("{why}; and without a service manager: "), "without a service manager, ")
            }
            _ => error.to_owned(),
        }
    }

    /// What the daemon is to it: the installed unit, a transient service, or none of it.
    pub(super) fn unit(&self, daemon: &Description) -> Option<Finding> {
        const WHAT: &str = "unit";
        let manager = self.found.as_ref().ok()?;
        let place = place(daemon);
        let by_hand = |unit: &str| {
            let detail = format!("none of its own: it was started by hand in {unit}, and ends with that");
            let remedy = format!("install {INSTALLED}, or let the first launch start it");
            Finding::note(WHAT, detail, &remedy)
        };
        let Some(unit) = manager.unit_of(&place) else {
            // It may stand in another manager's, as in the scope of a login.
            let others = place.split('/').find(|name| name.ends_with(".scope") || name.ends_with(".service"));
            return others.map(by_hand);
        };
        let bus = manager.bus();
        if unit.starts_with("pinfold-daemon") && unit.ends_with(".scope") {
            let detail =
                format!("{unit}: no service could be started here, so nobody starts the daemon again if it fails");
            let remedy = format!("install {INSTALLED}, and pinfold where a service finds it, as in /usr/local/bin");
            return Some(Finding::note(WHAT, detail, &remedy));
        }
        let main = manager.properties(unit).ok().and_then(|has| has.get("MainPID")?.number());
        if main != u64::try_from(daemon.pid).ok() {
            return Some(by_hand(unit));
        }
        let look = format!("`{}` shows it", status_of(bus, unit));
        if manager.is_transient(unit).unwrap_or(false) {
            return Some(Finding::ok(
                WHAT,
                format!("{unit}, transient: a launch started it, and it leaves when it is unused; {look}"),
            ));
        }
        let state = manager.unit_text(unit, "UnitFileState").unwrap_or_default();
        let when = match state.as_str() {
            "enabled" | "enabled-runtime" => "installed and enabled",
            _ => "installed, not enabled: the first launch starts it",
        };
        Some(Finding::ok(WHAT, format!("{unit}, {when}; {look}")))
    }

    /// What belongs to the installed unit and is not there.
    pub(super) fn missing(&self, daemon: &Description) -> Vec<Finding> {
        let place = place(daemon);
        let Some(manager) = self.found.as_ref().ok().filter(|manager| manager.unit_of(&place) == Some(INSTALLED))
        else {
            return Vec::new();
        };
        let user = if matches!(manager.bus(), Bus::User(_)) { "--user " } else { "" };
        let mut found = Vec::new();
        if manager.active_state(SOCKET).is_ok_and(|state| state != "active") {
            let group = matches!(nix::unistd::Group::from_name("pinfold"), Ok(None)) && user.is_empty();
            let first = if group { "make the group `pinfold` (groupadd --system pinfold), then " } else { "" };
            let remedy = format!(
                "{first}install {SOCKET} where it is not, and `systemctl {user}restart {INSTALLED}`, which starts it"
            );
            let detail =
                format!("{SOCKET} is not active: who launches while the daemon is restarted does not wait for it");
            found.push(Finding::note("socket", detail, &remedy));
        }
        let watchdog = manager.properties(INSTALLED).ok().and_then(|has| has.get("WatchdogUSec")?.number());
        if watchdog.is_some_and(|every| every == 0 || every == u64::MAX) {
            let detail = format!("{INSTALLED} has none: a daemon that is stuck is not started again");
            found.push(Finding::note("watchdog", detail, "set WatchdogSec=60 in it"));
        }
        if user.is_empty() && !place.split('/').any(|part| part == SLICE) {
            let detail = format!("{INSTALLED} does not stand in {SLICE}: no memory is kept for it");
            found.push(Finding::note(
                "slice",
                detail,
                &format!("install {SLICE}, and set Slice={SLICE} in {INSTALLED}"),
            ));
        }
        found
    }

    /// How all sessions are looked at with systemd's own tools.
    pub(super) fn slice(&self) -> String {
        let bus = self.found.as_ref().map_or(&Bus::System, Manager::bus);
        format!("each session is a slice below {MACHINE_SLICE}; `{}` shows them", status_of(bus, MACHINE_SLICE))
    }
}

/// The cgroup that a daemon stands in.
fn place(daemon: &Description) -> String {
    Membership::of(daemon.pid).ok().and_then(|place| place.v2).unwrap_or_default()
}
