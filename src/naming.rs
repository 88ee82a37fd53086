//! Names of directories and units, made from what hosts and users chose.
//!
//! Nothing that a client sent is ever used as a path or a unit name. A session becomes a [`SessionKey`], a launch
//! becomes a [`LeafName`]; both can be read back from a cgroup tree, which recovery does at start.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::realm::Realm;
use crate::session::{Name, SessionId};

/// The text is not a name that this module makes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {expected}")]
pub struct NamingError {
    given: String,
    expected: &'static str,
}

impl NamingError {
    fn new(given: &str, expected: &'static str) -> Self {
        Self { given: given.chars().take(100).collect(), expected }
    }
}

/// A session in a directory or unit name: `<slug>_<12 hex>`, where the slug is what a person recognises of the id and
/// the hex is cut from the SHA-256 of uid and id.
///
/// It holds letters, digits and `_` only. Above all no `-`: systemd takes `a-b.slice` for a child of `a.slice`
/// (systemd.slice(5)). 48 bits do not collide by accident, but a user can search for a collision on purpose, so whoever
/// keys a table by this compares uid and id as well and refuses a second session under the same key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionKey(String);

impl SessionKey {
    /// The longest key, in bytes.
    pub const MAX_BYTES: usize = Self::SLUG_BYTES + 1 + Self::HEX_DIGITS;
    const SLUG_BYTES: usize = 24;
    const HEX_DIGITS: usize = 12;

    /// The key of this user's session.
    pub fn new(uid: u32, id: &SessionId) -> Self {
        Self::of(uid, id, Realm::Host)
    }

    /// The key of this user's session in a realm: the same id in two containers means two sessions.
    pub fn of(uid: u32, id: &SessionId, realm: Realm) -> Self {
        // The uid has a fixed width, and no id holds a NUL byte, so no two sessions feed the same bytes.
        let mut digest = Sha256::new().chain_update(uid.to_be_bytes()).chain_update(id.as_str());
        if let Realm::Container(container) = realm {
            digest.update([0]);
            digest.update(container);
        }
        let digest = digest.finalize();
        let mut key = slug(id.as_str(), Self::SLUG_BYTES, |c| c.is_ascii_alphanumeric(), "s");
        key.push('_');
        for byte in &digest[..Self::HEX_DIGITS / 2] {
            write!(key, "{byte:02x}").expect("a String takes every write");
        }
        Self(key)
    }

    /// Reads a key back from a directory or unit name. What [`SessionKey::new`] could not have made is refused.
    pub fn parse(text: &str) -> Result<Self, NamingError> {
        let well_formed = text.rsplit_once('_').is_some_and(|(slug, hex)| {
            hex.len() == Self::HEX_DIGITS
                && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
                && (1..=Self::SLUG_BYTES).contains(&slug.len())
                && slug.split('_').all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric()))
        });
        well_formed.then(|| Self(text.to_owned())).ok_or_else(|| NamingError::new(text, "the key of a session"))
    }

    /// The key as text: at once a directory name and a part of a unit name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The systemd slice of the session, a child of [`MACHINE_SLICE`] by its name (systemd.slice(5)).
    pub fn slice(&self) -> String {
        format!("pinfold-{self}.slice")
    }

    /// A scope of the session. An emptied scope is dead, so the next one has another generation.
    pub fn scope(&self, generation: u64) -> String {
        format!("pinfold-{self}-{generation}.scope")
    }

    /// The slice of the containers of one launch, a child of the session's by its name.
    pub fn annex(&self, launch: u64) -> String {
        format!("pinfold-{self}-{launch}.slice")
    }

    /// Reads the key back from the name of a session's slice.
    pub fn of_slice(unit: &str) -> Option<Self> {
        Self::parse(unit.strip_prefix("pinfold-")?.strip_suffix(".slice")?).ok()
    }

    /// Reads key and generation back from the name of a session's scope.
    pub fn of_scope(unit: &str) -> Option<(Self, u64)> {
        let (key, number) = unit.strip_prefix("pinfold-")?.strip_suffix(".scope")?.split_once('-')?;
        let generation = number.parse::<u64>().ok().filter(|parsed| parsed.to_string() == number)?;
        Some((Self::parse(key).ok()?, generation))
    }
}

/// The systemd slice of all of pinfold.
pub const MACHINE_SLICE: &str = "pinfold.slice";

/// The unit, without its kind, that the on-demand daemon at the usual socket runs in.
pub const ON_DEMAND_UNIT: &str = "pinfold-daemon";

/// The directory of one launch below its session: `<slug>.<launch>`, for instance `server-filesystem.17`.
///
/// At most 80 bytes of letters, digits and `_ . -`. The kernel makes a cgroup's own files beside it, all called
/// `<controller>.<word>` and none with a number for its word. Still a slug that is a controller's name gets the prefix
/// `_`, which the kernel sets aside against collisions (admin-guide/cgroup-v2, "Format"): nobody shall take the leaf of
/// the server `memory` for a kernel file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LeafName {
    text: String,
    launch: u64,
}

impl LeafName {
    /// The longest leaf name, in bytes: the slug, the dot, and the longest number.
    pub const MAX_BYTES: usize = 80;
    const SLUG_BYTES: usize = Self::MAX_BYTES - 1 - 20;

    /// The leaf of this launch. `launch` is never used twice in a session: a leaf is for one launch only.
    pub fn new(server: &Name, launch: u64) -> Self {
        let mut slug = slug(server.as_str(), Self::SLUG_BYTES - 1, |c| Self::allows(c) && c != '_', "server");
        if Self::reads_as_controller(&slug) {
            slug.insert(0, '_');
        }
        Self { text: format!("{slug}.{launch}"), launch }
    }

    /// Reads a leaf name back from a directory name. What [`LeafName::new`] could not have made is refused.
    pub fn parse(text: &str) -> Result<Self, NamingError> {
        let wrong = || NamingError::new(text, "the leaf of a launch");
        let (slug, number) = text.rsplit_once('.').ok_or_else(wrong)?;
        let launch: u64 = number.parse().map_err(|_| wrong())?;
        let bare = slug.strip_prefix('_').unwrap_or(slug);
        let well_formed = launch.to_string() == number
            && slug.len() <= Self::SLUG_BYTES
            && bare.starts_with(char::is_alphanumeric)
            && bare.ends_with(char::is_alphanumeric)
            && slug.chars().all(Self::allows)
            && !slug.contains("..")
            && (slug.starts_with('_') == Self::reads_as_controller(bare));
        if well_formed { Ok(Self { text: text.to_owned(), launch }) } else { Err(wrong()) }
    }

    /// The leaf as a directory name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The number of the launch that this leaf was made for.
    pub fn launch(&self) -> u64 {
        self.launch
    }

    /// No `:` although a directory could have it: `/proc/PID/cgroup` separates its fields by it.
    fn allows(c: char) -> bool {
        c.is_ascii_alphanumeric() || "_.-".contains(c)
    }

    fn reads_as_controller(slug: &str) -> bool {
        const PREFIXES: [&str; 19] = [
            "blkio",
            "cgroup",
            "cpu",
            "cpuacct",
            "cpuset",
            "debug",
            "devices",
            "dmem",
            "freezer",
            "hugetlb",
            "io",
            "irq",
            "memory",
            "misc",
            "net_cls",
            "net_prio",
            "perf_event",
            "pids",
            "rdma",
        ];
        PREFIXES.contains(&slug.split('.').next().unwrap_or(slug))
    }
}

/// What a person recognises of a text: each run of what is not kept becomes one `_`, each run of dots one dot; it begins
/// and ends with a letter or digit, has at most `max` bytes, and is `empty` where nothing is left.
fn slug(text: &str, max: usize, keeps: fn(char) -> bool, empty: &str) -> String {
    let mut made = String::with_capacity(max);
    for c in text.chars() {
        match c {
            '.' if made.ends_with('.') => {}
            kept if kept.is_ascii() && keeps(kept) => made.push(kept),
            _ if !made.ends_with('_') => made.push('_'),
            _ => {}
        }
    }
    let begun = made.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let cut = &begun[..begun.len().min(max)];
    match cut.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()) {
        "" => empty.to_owned(),
        fine => fine.to_owned(),
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for LeafName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Serde's and `str::parse`'s door: in through `parse`, out as the text.
macro_rules! through_text {
    ($($type:ty),*) => {$(
        impl FromStr for $type {
            type Err = NamingError;
            fn from_str(text: &str) -> Result<Self, NamingError> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $type {
            type Error = NamingError;
            fn try_from(text: String) -> Result<Self, NamingError> {
                Self::parse(&text)
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.as_str().to_owned()
            }
        }
    )*};
}
through_text!(SessionKey, LeafName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(uid: u32, id: &str) -> SessionKey {
        SessionKey::new(uid, &SessionId::parse(id).unwrap())
    }

    fn leaf(server: &str, launch: u64) -> LeafName {
        LeafName::new(&Name::parse(server).unwrap(), launch)
    }

    #[test]
    fn a_key_begins_with_what_a_person_recognises() {
        for (id, slug) in [
            ("agent:main:cron-7", "agent_main_cron_7"),
            ("../../etc", "etc"),
            ("3f2b1c9e-8a77-4c1d-9e0f-123456789abc", "3f2b1c9e_8a77_4c1d_9e0f"),
            ("🦊", "s"),
            ("__proto__", "proto"),
            ("a\nb", "a_b"),
        ] {
            assert_eq!(key(1000, id).as_str().rsplit_once('_').unwrap().0, slug, "{id:?}");
        }
    }

    #[test]
    fn a_key_is_the_same_in_every_version() {
        assert_eq!(key(1000, "s1").as_str(), "s1_e40562652daf");
    }

    #[test]
    fn two_users_equal_ids_have_two_keys() {
        assert_ne!(key(1000, "s1"), key(1001, "s1"));
        assert_ne!(key(1000, "a b"), key(1000, "a_b"), "the slugs are equal, the sessions are not");
    }

    #[test]
    fn one_id_in_two_containers_and_on_the_host_has_three_keys() {
        let id = SessionId::parse("s1").unwrap();
        let of = |cgroup: &str| SessionKey::of(1000, &id, crate::realm::Container::at(cgroup).realm());
        assert_ne!(of("/docker/1"), of("/docker/2"));
        assert_ne!(of("/docker/1"), key(1000, "s1"));
    }

    #[test]
    fn a_session_has_a_slice_and_scopes_that_read_back() {
        let key = key(1000, "s1");
        assert_eq!(key.slice(), "pinfold-s1_e40562652daf.slice");
        assert_eq!(key.scope(7), "pinfold-s1_e40562652daf-7.scope");
        assert_eq!(SessionKey::of_slice(&key.slice()), Some(key.clone()));
        assert_eq!(SessionKey::of_scope(&key.scope(7)), Some((key.clone(), 7)));
        assert_eq!(SessionKey::of_slice(&key.annex(7)), None, "it is no session's");
        for wrong in ["pinfold.slice", "pinfold-daemon.service", "session-3.scope", "pinfold-s1_e40562652daf-07.scope"]
        {
            assert_eq!((SessionKey::of_slice(wrong), SessionKey::of_scope(wrong)), (None, None), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for wrong in [
            "",
            "s1",
            "_0123456789ab",
            "s1_0123456789AB",
            "s1_0123456789a",
            "s-1_0123456789ab",
            "../s_0123456789ab",
            "a__b_0123456789ab",
            "s_0123456789ab.slice",
            "aaaaaaaaaaaaaaaaaaaaaaaaa_0123456789ab",
        ] {
            assert!(SessionKey::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_leaf_names_its_server_and_its_launch() {
        for (server, launch, name) in [
            ("server-filesystem", 17, "server-filesystem.17"),
            ("context7@2.1", 0, "context7_2.1.0"),
            ("@scope:thing+x", 3, "scope_thing_x.3"),
            ("memory", 4, "_memory.4"),
            ("cgroup.procs", 5, "_cgroup.procs.5"),
            ("memory-server", 6, "memory-server.6"),
            ("_", 7, "server.7"),
            ("a..b", 8, "a.b.8"),
            ("-x-", u64::MAX, "x.18446744073709551615"),
        ] {
            assert_eq!(leaf(server, launch).as_str(), name);
        }
    }

    #[test]
    fn what_is_no_leaf_is_refused_so_that_recovery_leaves_it_alone() {
        for wrong in [
            "",
            ".",
            "..",
            ".17",
            "memory.max",
            "memory.4",
            "cgroup.procs",
            "a.017",
            "a.+7",
            "a.-7",
            "a",
            "a/b.1",
            "a..b.1",
            "a..1",
            "a:b.1",
            "_a.1",
            "-a.1",
            "init.scope",
            "a.99999999999999999999",
        ] {
            assert!(LeafName::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn a_key_is_part_of_a_unit_name_and_reads_back(uid: u32, id in "[^\0]{1,50}") {
            let key = key(uid, &id);
            prop_assert!(key.as_str().len() <= SessionKey::MAX_BYTES);
            prop_assert!(key.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
            prop_assert!(!key.as_str().starts_with('_'));
            prop_assert_eq!(SessionKey::parse(key.as_str()), Ok(key));
        }

        #[test]
        fn a_leaf_is_a_safe_directory_name_and_reads_back(server in "[A-Za-z0-9_@:+-][A-Za-z0-9._@:+-]{0,63}", launch: u64) {
            let leaf = leaf(&server, launch);
            let text = leaf.as_str();
            prop_assert!(text.len() <= LeafName::MAX_BYTES);
            prop_assert!(text.chars().all(LeafName::allows));
            prop_assert!(!text.starts_with(['.', '-']) && !text.contains(".."));
            prop_assert_eq!(leaf.launch(), launch);
            prop_assert_eq!(LeafName::parse(text), Ok(leaf));
        }

        #[test]
        fn two_launches_never_share_a_leaf(one in "[a-z.0-9]{0,63}x", other in "[a-z.0-9]{0,63}x", a: u64, b: u64) {
            let (Ok(one), Ok(other)) = (Name::parse(&one), Name::parse(&other)) else { return Ok(()) };
            prop_assert_eq!(a == b || LeafName::new(&one, a) != LeafName::new(&other, b), true);
        }

        #[test]
        fn parsing_any_text_never_panics(text in ".{0,100}") {
            let _ = (SessionKey::parse(&text), LeafName::parse(&text));
        }
    }
}
