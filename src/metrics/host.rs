//! Whom a request is for. A page of the web can make a browser ask a server on this machine by a name of its own that it
//! lets resolve to 127.0.0.1 (DNS rebinding); the name then stands in the Host header, and is not ours. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Whether a Host header names this machine: `localhost`, a loopback address, or one of these names. The port is anybody's.
pub fn is_ours(header: &str, names: &[String]) -> bool {
    let Some(host) = host(header) else { return false };
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        if address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback()) {
            return true;
        }
    } else if host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
    {
        return true;
    }
    names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// The header without its port; none where what stands there is no port.
fn host(header: &str) -> Option<&str> {
    let end = if header.starts_with('[') { header.find(']')? + 1 } else { header.find(':').unwrap_or(header.len()) };
    let (host, port) = header.split_at(end);
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.strip_prefix(':') {
        Some(port) if is_port(port) => Some(host),
        None if port.is_empty() => Some(host),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_names_this_machine_is_answered() {
        let names = ["metrics.example.org".to_owned(), "[fd00::1]".to_owned(), "10.0.0.5".to_owned()];
        for ours in [
            "localhost",
            "LocalHost:9317",
            "127.0.0.1:9317",
            "127.1.2.3",
            "[::1]:9317",
            "[::1]",
            "metrics.EXAMPLE.org:80",
            "[fd00::1]:1",
            "10.0.0.5:9317",
        ] {
            assert!(is_ours(ours, &names), "{ours}");
        }
        for foreign in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:evil",
            "localhost:9317:1",
            "[::1]evil",
            "[::1",
            "[::2]",
            "10.0.0.6",
            "0.0.0.0",
            "user@localhost",
            " localhost",
        ] {
            assert!(!is_ours(foreign, &names), "{foreign}");
        }
    }
}
