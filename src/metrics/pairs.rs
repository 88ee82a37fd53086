//! A bound for labels that others choose: servers are called by their hosts, and hosts by whoever launches. Pure.

use std::collections::BTreeSet;

use super::UNKNOWN;
use crate::session::Name;

/// The most pairs of a host and a server.
const PAIRS_MAX: usize = 200;

/// The most hosts.
const HOSTS_MAX: usize = 50;

/// What stands for all beyond that.
const OTHER: &str = "other";

/// The pairs of a host and a server that have series of their own, for as long as the daemon runs.
#[derive(Debug, Clone, Default)]
pub struct Pairs {
    hosts: BTreeSet<String>,
    pairs: BTreeSet<(String, String)>,
}

impl Pairs {
    /// What this host is called in a label.
    pub fn host(&mut self, host: Option<&Name>) -> String {
        let host = host.map_or(UNKNOWN, Name::as_str);
        if !self.hosts.contains(host) {
            if self.hosts.len() >= HOSTS_MAX {
                return OTHER.to_owned();
            }
            self.hosts.insert(host.to_owned());
        }
        host.to_owned()
    }

    /// What this host, and this server of it, are called in labels.
    pub fn pair(&mut self, host: Option<&Name>, server: &Name) -> (String, String) {
        let pair = (self.host(host), server.as_str().to_owned());
        if self.pairs.contains(&pair) {
            return pair;
        }
        if self.pairs.len() >= PAIRS_MAX {
            return (pair.0, OTHER.to_owned());
        }
        self.pairs.insert(pair.clone());
        pair
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_bound_a_server_is_other_and_those_before_keep_their_names() {
        let name = |text: String| Name::parse(&text).unwrap();
        let host = name("codex".into());
        let mut pairs = Pairs::default();
        for number in 0..PAIRS_MAX {
            let server = name(format!("s{number}"));
            assert_eq!(pairs.pair(Some(&host), &server), ("codex".into(), format!("s{number}")));
        }
        assert_eq!(pairs.pair(Some(&host), &name("one-more".into())), ("codex".into(), "other".into()));
        assert_eq!(pairs.pair(None, &name("s3".into())), ("unknown".into(), "other".into()));
        assert_eq!(pairs.pair(Some(&host), &name("s3".into())), ("codex".into(), "s3".into()));
    }

    #[test]
    fn beyond_the_bound_a_host_is_other() {
        let mut pairs = Pairs::default();
        for number in 0..HOSTS_MAX + 1 {
            let host = Name::parse(&format!("h{number}")).unwrap();
            let told = pairs.host(Some(&host));
            assert_eq!(told, if number < HOSTS_MAX { host.as_str() } else { "other" });
        }
    }
}
