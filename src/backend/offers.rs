//! What holds where a leaf is made, of each backend: limits, and what can be done for idle servers.

use std::path::Path;

use super::{Backend, Units};
use crate::cgroup::{Controllers, Layout, Membership, Tree, tells_pressure};
use crate::chain::chain;
use crate::policy::{Offer, Offers};
use crate::systemd::{Bus, Variant};

/// By which memory is given back on v2.
pub(super) const RECLAIM: &str = "memory.reclaim";

/// What a manager can hold: what the kernel has for the system's, what was delegated for a user's.
pub(super) fn of_units(units: &Units) -> Offers {
    let Controllers { memory, pids, cpu, io } = units.controllers();
    let missing = |name: &str| match units.manager().bus() {
        Bus::System => Offer::Missing {
            why: format!("this kernel has no {name} controller"),
            remedy: format!("boot without cgroup_disable={name}, or another kernel"),
        },
        Bus::User(_) => Offer::Missing {
            why: format!("the user manager was not delegated the {name} controller"),
            remedy:
                "as root, `systemctl edit user@.service`: Delegate=cpu cpuset io memory pids in its [Service]; then \
                     log out and in again"
                    .to_owned(),
        },
    };
    let offer = |there: bool, name: &str| if there { Offer::Holds } else { missing(name) };
    Offers {
        memory: offer(memory, "memory"),
        memory_high: with_pressure(offer(memory, "memory"), units.base()),
        swap: if memory || has_swap() { offer(memory, "memory") } else { Offer::NothingToLimit },
        pids: offer(pids, "pids"),
        cpu: offer(cpu, "cpu"),
        io: offer(io, "io"),
        trim: with_reclaim(offer(memory, "memory"), &units.base().join(RECLAIM)),
        park: unsupervised(),
        ram: units.ram(),
    }
}

pub(super) fn of_tree(tree: &Tree) -> Offers {
    let hybrid = tree.layout().word() == "hybrid";
    let holds = tree.controllers();
    let offer = |there: bool, name: &str| match (there, hybrid) {
        (true, _) => Offer::Holds,
        (false, true) => Offer::Missing {
            why: format!("this machine has no {name} controller in cgroup v2 (hybrid layout)"),
            remedy: "boot with systemd.unified_cgroup_hierarchy=1".to_owned(),
        },
        (false, false) => Offer::Missing {
            why: format!("the {name} controller is not available in {}", tree.root().display()),
            remedy: format!("enable it in the cgroup.subtree_control above, or delegate it ({name})"),
        },
    };
    let memory = offer(holds.memory, "memory");
    let swap = match tree.swap_is_limited() {
        true => memory.clone(),
        false if !has_swap() => Offer::NothingToLimit,
        false => Offer::Missing {
            why: "the kernel does not account swap".to_owned(),
            remedy: "boot with swapaccount=1".to_owned(),
        },
    };
    let memory_high = match memory {
        Offer::Holds if hybrid => Offer::Missing {
            why: "memory is limited by cgroup v1, which has no memory.high (hybrid layout)".to_owned(),
            remedy: "use memory_max, or boot with systemd.unified_cgroup_hierarchy=1".to_owned(),
        },
        _ => with_pressure(memory.clone(), tree.root()),
    };
    let file = match tree.layout() {
        Layout::Hybrid { memory: Some(v1), .. } => v1.point.join("memory.force_empty"),
        Layout::Hybrid { .. } | Layout::Pure { .. } => tree.root().join(RECLAIM),
    };
    let trim = with_reclaim(memory.clone(), &file);
    Offers {
        memory,
        memory_high,
        swap,
        pids: offer(holds.pids, "pids"),
        cpu: offer(holds.cpu, "cpu"),
        io: offer(holds.io, "io"),
        trim,
        park: unsupervised(),
        ram: tree.ram(),
    }
}

/// A `memory.high` is offered only together with its watchdog: what it stalls stands still for ever, and nothing but the
/// pressure tells.
pub(super) fn with_pressure(memory: Offer, directory: &Path) -> Offer {
    match memory {
        Offer::Holds if !tells_pressure(directory) => Offer::Missing {
            why: "this kernel tells no memory pressure (PSI), by which its watchdog sees what stands still".to_owned(),
            remedy: "use memory_max, or boot with psi=1".to_owned(),
        },
        other => other,
    }
}

/// Whether there is any swap to use (proc_swaps(5): a header line, then one line each).
fn has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// Memory that can be limited can be given back, too, where the kernel has the file for it.
pub(super) fn with_reclaim(memory: Offer, file: &Path) -> Offer {
    match memory {
        Offer::Holds if !file.exists() => Offer::Missing {
            why: "this kernel has no memory.reclaim, by which the memory of an idle server is given back".to_owned(),
            remedy: "boot Linux 5.19 or later".to_owned(),
        },
        other => other,
    }
}

impl Backend {
    /// What the unit of this process lacks of what brings a dead daemon and its descriptors back, and has thawed what it
    /// froze; or why that cannot be seen. `None` where no manager is spoken to, or no unit of its holds this process.
    pub fn supervision(&self) -> Option<Result<Vec<&'static str>, String>> {
        let Self::Systemd(units) = self else { return None };
        let manager = units.manager();
        let place = match Membership::of("self") {
            Ok(place) => place.v2?,
            Err(error) => return Some(Err(chain(&error))),
        };
        let unit = manager.unit_of(&place).filter(|unit| unit.ends_with(".service"))?;
        let properties = match manager.properties(unit) {
            Ok(properties) => properties,
            Err(error) => return Some(Err(chain(&error))),
        };
        // What dies of a signal, or of its watchdog (systemd.service(5)).
        let mends = ["always", "on-failure", "on-abnormal"];
        let restarts = properties.get("Restart").is_some_and(|value| mends.iter().any(|word| value.is_text(word)));
        let stores = properties.get("FileDescriptorStoreMax").and_then(Variant::number).is_some_and(|most| most > 0);
        let is_thaw = |value: &Variant| ["thaw", "--left"].iter().all(|word| value.has_word(word));
        let thaws = properties.get("ExecStopPost").is_some_and(is_thaw);
        let has = [
            (restarts, "Restart= that starts it again when it dies"),
            (stores, "FileDescriptorStoreMax="),
            (thaws, "ExecStopPost=pinfold thaw --left"),
        ];
        Some(Ok(has.into_iter().filter(|(has, _)| !has).map(|(_, name)| name).collect()))
    }
}

/// Until it is known who would thaw what a dead daemon froze.
pub(super) fn unsupervised() -> Offer {
    Offer::Missing {
        why: "nobody is known who would start this daemon again and thaw what it froze".to_owned(),
        remedy: "run it as pinfold.service does, or say `pinfold serve --supervised` where something else sees to both"
            .to_owned(),
    }
}
