//! In which leaf a process stands, of whatever daemon and of none: told by the shape of the cgroup's path.
//!
//! A daemon knows its own tree and asks that. Whoever looks at a machine from outside has no tree, sees other users' and
//! those of daemons that are gone, and meets them below roots that only their daemons were told.

use super::files::Membership;
use super::tree::{COMPANIONS, Caller, MACHINE};
use crate::naming::{LeafName, MACHINE_SLICE, SessionKey};
use crate::realm::Realm;

/// Hex digits in the name of a companion's machine level.
const TAG_DIGITS: usize = 6;

/// The leaf that a process in `membership` stands in. A companion's counts: what only left its v2 leaf is shown as escaped
/// by the daemon that launched it.
pub fn leaf_of(membership: &Membership) -> Option<Caller> {
    [&membership.v2, &membership.memory, &membership.pids].into_iter().flatten().find_map(|path| leaf_in(path))
}

fn leaf_in(path: &str) -> Option<Caller> {
    let parts: Vec<&str> = path.split('/').collect();
    // A session inside another's leaf: the innermost is where the process was launched.
    (0..parts.len()).rev().find_map(|at| directories(&parts[at..]).or_else(|| units(&parts[at..])))
}

/// `pinfold/<session>/<leaf>`, and the same below a companion's machine level.
fn directories(parts: &[&str]) -> Option<Caller> {
    let [machine, key, leaf, ..] = parts else { return None };
    let tag = || machine.strip_prefix(COMPANIONS.trim_start_matches('/'));
    let is_companion =
        || tag().is_some_and(|tag| tag.len() == TAG_DIGITS && tag.bytes().all(|b| b.is_ascii_hexdigit()));
    if *machine != MACHINE && !is_companion() {
        return None;
    }
    Some(Caller { key: SessionKey::parse(key).ok()?, leaf: LeafName::parse(leaf).ok()?, below: Realm::Host })
}

/// `pinfold.slice/<session>.slice/<session>-<n>.scope/<leaf>`.
fn units(parts: &[&str]) -> Option<Caller> {
    let [machine, slice, scope, leaf, ..] = parts else { return None };
    let key = SessionKey::of_slice(slice).filter(|_| *machine == MACHINE_SLICE)?;
    let (of_scope, _) = SessionKey::of_scope(scope)?;
    let leaf = LeafName::parse(leaf).ok()?;
    (of_scope == key).then_some(Caller { key, leaf, below: Realm::Host })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<(String, String)> {
        leaf_of(&Membership::parse(text)).map(|caller| (caller.key.to_string(), caller.leaf.to_string()))
    }

    #[test]
    fn a_leaf_is_known_below_every_root_of_both_backends_and_by_its_companions() {
        let leaf = Some(("s1_e40562652daf".to_owned(), "fs.7".to_owned()));
        for text in [
            "0::/pinfold/s1_e40562652daf/fs.7\n",
            "0::/a/b/pinfold/s1_e40562652daf/fs.7/what/it/made\n",
            "0::/../x/pinfold/s1_e40562652daf/fs.7 (deleted)\n",
            "0::/user.slice/user-1.slice/user@1.service/pinfold.slice/pinfold-s1_e40562652daf.slice/pinfold-s1_e40562652daf-2.scope/fs.7\n",
            "4:memory:/process/pinfold.0a1b2c/s1_e40562652daf/fs.7\n0::/\n",
            "8:pids:/pinfold.0a1b2c/s1_e40562652daf/fs.7\n0::/elsewhere\n",
            "0::/pinfold/s0_000000000000/outer.1/pinfold/s1_e40562652daf/fs.7\n",
        ] {
            assert_eq!(found(text), leaf, "{text}");
        }
    }

    #[test]
    fn what_only_looks_similar_is_no_leaf() {
        for text in [
            "0::/\n",
            "0::/pinfold\n",
            "0::/pinfold-daemon\n",
            "0::/pinfold/s1_e40562652daf\n",
            "0::/pinfold/s1/fs.7\n",
            "0::/pinfold/s1_e40562652daf/init\n",
            "0::/home/s1_e40562652daf/fs.7\n",
            "0::/pinfold.service/s1_e40562652daf/fs.7\n",
            "0::/pinfold.slice/pinfold-s1_e40562652daf.slice/pinfold-s2_e40562652daf-2.scope/fs.7\n",
            "0::/system.slice/pinfold.service\n",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
