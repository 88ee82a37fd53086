//! Whose a session is beside its user's: the host's, or that of one container.
//!
//! Root in a container is uid 0 to the socket, and must neither see nor end what belongs to the host or to another container
//! for that. What tells containers apart is their cgroup as the daemon sees it: the kernel says it, and no client.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The realm of a caller or a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Realm {
    /// The daemon's own: whoever shares its pid, user and cgroup namespaces.
    #[default]
    Host,
    /// A container, by the digest of its cgroup.
    Container([u8; 16]),
}

impl Realm {
    /// Whether it is a container's. What a user launches in containers is counted apart from the rest, and together: whoever
    /// makes namespaces gains one more share by it, and no more than one.
    pub fn is_container(self) -> bool {
        self != Self::Host
    }

    /// Whether somebody of this realm may see and end what is of another, as far as that depends on realms: the host all of
    /// it, and a container its own.
    pub fn reaches(self, other: Self) -> bool {
        self == Self::Host || self == other
    }
}

/// A caller's namespaces of its own, and where in the tree of cgroups they begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Container {
    cgroup: String,
    realm: Realm,
}

impl Container {
    /// The container whose cgroup this is, as the daemon sees it.
    pub fn at(cgroup: impl Into<String>) -> Self {
        let cgroup = cgroup.into();
        let digest = Sha256::digest(cgroup.as_bytes());
        let mut realm = [0; 16];
        realm.copy_from_slice(&digest[..16]);
        Self { cgroup, realm: Realm::Container(realm) }
    }

    /// The kernel's path of its cgroup.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Its realm.
    pub fn realm(&self) -> Realm {
        self.realm
    }

    /// The realm of somebody who is in a container, or is not.
    pub fn realm_of(container: Option<&Self>) -> Realm {
        container.map_or(Realm::Host, Self::realm)
    }
}

impl From<String> for Container {
    fn from(cgroup: String) -> Self {
        Self::at(cgroup)
    }
}

impl From<Container> for String {
    fn from(container: Container) -> Self {
        container.cgroup
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_reaches_all_and_a_container_itself() {
        let (one, other) = (Container::at("/docker/1").realm(), Container::at("/docker/2").realm());
        assert!(Realm::Host.reaches(Realm::Host) && Realm::Host.reaches(one) && one.reaches(one));
        assert!(!one.reaches(Realm::Host) && !one.reaches(other));
        assert_eq!(Container::from(String::from(Container::at("/docker/1"))).realm(), one);
    }
}
