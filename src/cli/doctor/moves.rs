//! What a launch waits for in the kernel: the move of its process into the leaf.

use super::Finding;
use crate::cgroup::Moves;

const WHAT: &str = "moves";

/// The first kernel with a mount option against the wait.
const OPTION_SINCE: (u32, u32, u32) = (6, 0, 0);

/// Tells whether that takes long. The option makes each fork and exit of the whole machine a little dearer, so pinfold only
/// names it.
pub(super) fn moves(found: &Moves, kernel: (u32, u32, u32)) -> Finding {
    let slow = "a launch waits while the kernel moves it into its leaf, 5 to 25 ms where none came shortly before";
    if found.favored {
        return Finding::ok(
            WHAT,
            "cgroups are mounted with favordynmods: the kernel moves a launch into its leaf at once",
        );
    }
    if kernel < OPTION_SINCE {
        return Finding::note(WHAT, slow, "Linux 6.0 has a mount option against it, favordynmods");
    }
    let kept = found.options.iter().fold(String::new(), |kept, option| kept + option + ",");
    let point = found.point.display();
    let remedy = format!(
        "`mount -o remount,{kept}favordynmods {point}` takes that away until the next boot, for a little on each fork and exit \
         of the machine"
    );
    Finding::note(WHAT, slow, &remedy)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    const NOW: (u32, u32, u32) = (6, 12, 107);

    #[test]
    fn the_option_that_moves_at_once_is_named_where_it_is_off_with_those_that_are_on() {
        let off = "31 30 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        let found = moves(&Moves::parse(off).unwrap(), NOW);
        assert_eq!(found.verdict, Verdict::Note);
        let remedy = found.remedy.unwrap();
        let command = "`mount -o remount,nsdelegate,memory_recursiveprot,favordynmods /sys/fs/cgroup`";
        assert!(remedy.starts_with(command), "{remedy}");
        let on = moves(&Moves::parse(&off.replace("nsdelegate", "nsdelegate,favordynmods")).unwrap(), NOW);
        assert_eq!((on.verdict, on.remedy), (Verdict::Ok, None));
        let old = moves(&Moves::parse(off).unwrap(), (5, 15, 0));
        assert!(old.remedy.unwrap().starts_with("Linux 6.0"));
    }
}
