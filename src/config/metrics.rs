//! The table `[metrics]`: where metrics are told, to whom, and how much of them.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// The most sessions that may be given series of their own: each has some hundred with its servers.
const SESSIONS_MOST: i64 = 10_000;

/// What `[metrics]` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Where.
    pub listen: Listen,
    /// What this machine is called in requests, besides its loopback addresses.
    pub hosts: Vec<String>,
    /// How many sessions have series of their own.
    pub sessions_max: usize,
    /// Tell what hosts call their sessions.
    pub session_ids: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: Listen::Auto, hosts: Vec::new(), sessions_max: 100, session_ids: false }
    }
}

/// Where metrics are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// The system's daemon on loopback, any other on a unix socket beside its own.
    Auto,
    /// Nowhere.
    Off,
    /// At this address.
    Tcp(SocketAddr),
    /// On this unix socket.
    Unix(PathBuf),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Written {
    listen: Option<String>,
    listen_anywhere: bool,
    hosts: Vec<String>,
    sessions_max: Option<i64>,
    session_ids: bool,
}

/// The table as it is written, checked.
#[derive(Deserialize, Default)]
#[serde(try_from = "Written")]
pub(super) struct Table(pub(super) Metrics);

impl TryFrom<Written> for Table {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let listen = written.listen.as_deref().map_or(Ok(Listen::Auto), listen)?;
        if let Listen::Tcp(address) = listen
            && !address.ip().is_loopback()
            && !written.listen_anywhere
        {
            return Err(format!(
                "listen = \"{address}\" can be reached from other machines, and whoever reaches it reads what runs here; \
                 listen on 127.0.0.1, or write listen_anywhere = true"
            ));
        }
        let built_in = Metrics::default();
        let sessions_max = match written.sessions_max {
            None => built_in.sessions_max,
            Some(number) => usize::try_from(number).ok().filter(|_| number <= SESSIONS_MOST).ok_or_else(|| {
                format!("sessions_max = {number} is no number of sessions; write one from 0 to {SESSIONS_MOST}")
            })?,
        };
        if let Some(wrong) = written.hosts.iter().find(|host| !is_host(host)) {
            return Err(format!("{wrong:?} is not the name of a machine; write it as clients do, without a port"));
        }
        Ok(Self(Metrics { listen, hosts: written.hosts, sessions_max, session_ids: written.session_ids }))
    }
}

fn listen(text: &str) -> Result<Listen, String> {
    match text {
        "auto" => return Ok(Listen::Auto),
        "off" => return Ok(Listen::Off),
        _ => {}
    }
    if text.starts_with('/') {
        return Ok(Listen::Unix(text.into()));
    }
    text.parse().map(Listen::Tcp).map_err(|_| {
        format!(
            "listen = {text:?} is no place to listen; write \"auto\", \"off\", an address with its port as in \
             \"127.0.0.1:9317\", or the path of a unix socket"
        )
    })
}

/// A name or an address as it stands in a Host header, without its port.
fn is_host(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    }
}
