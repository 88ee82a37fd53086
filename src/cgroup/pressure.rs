//! Pressure against `memory.high`, as the kernel tells it: the limit, how often it was pressed against, and for how long all
//! that wanted to run waited for memory (PSI; the kernel's accounting/psi and admin-guide/cgroup-v2).

use std::path::Path;
use std::time::Duration;

use super::dir::Cgroup;
use super::files;
use super::group::Group;
use super::leaf::Leaf;
use crate::lifecycle::Pressure;

/// The file of pressure stall information.
const PRESSURE: &str = "memory.pressure";

/// Whether this directory tells its memory pressure: a kernel without PSI, or booted with `psi=0`, does not.
pub fn tells_pressure(directory: &Path) -> bool {
    Cgroup::open(directory).is_ok_and(|cgroup| full(&cgroup).is_some())
}

impl Group {
    /// Whether it has a `memory.high` that can be pressed against. Whoever set it: the kernel's file counts.
    pub fn has_memory_high(&self) -> bool {
        self.v2.read("memory.high").is_ok_and(|text| files::number(&text).is_some())
    }

    /// How often its own `memory.high` was pressed against; those below count for themselves.
    fn presses(&self) -> u64 {
        self.v2.read("memory.events.local").ok().and_then(|text| files::keyed(&text, "high")).unwrap_or(0)
    }
}

impl Leaf {
    /// What it has suffered so far. `None` where the kernel does not tell, or it is gone.
    pub fn pressure(&self) -> Option<Pressure> {
        let full = full(self.group().v2())?;
        Some(Pressure { full, presses: [self.group().presses(), self.session().presses(), self.machine().presses()] })
    }

    /// The levels with a `memory.high`: the leaf, its session, the machine.
    pub fn memory_highs(&self) -> [bool; 3] {
        [self.group().has_memory_high(), self.session().has_memory_high(), self.machine().has_memory_high()]
    }
}

/// How long all that wanted to run has waited, in all.
fn full(cgroup: &Cgroup) -> Option<Duration> {
    stalled(&cgroup.read(PRESSURE).ok()?, "full")
}

/// The total of one line of a pressure file.
pub(super) fn stalled(text: &str, kind: &str) -> Option<Duration> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
    let total = line.split_whitespace().find_map(|word| word.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_line_tells_how_long_all_waited() {
        // From Linux 6.12.
        let text = "some avg10=81.04 avg60=24.50 avg300=5.94 total=20151000\n\
                    full avg10=80.95 avg60=24.31 avg300=5.89 total=20012345\n";
        assert_eq!(stalled(text, "full"), Some(Duration::from_micros(20_012_345)));
        assert_eq!(stalled("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", "full"), None);
    }
}
