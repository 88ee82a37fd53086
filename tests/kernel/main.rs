//! The kernel ring: real cgroups, real processes, the built binary. Each test has a daemon and a cgroup subtree of its own.
//!
//! `PINFOLD_TEST_HOST=kernel` states that this machine offers what the ring needs; then a skip is a failure.

#[allow(dead_code, reason = "a builder's vocabulary: not every run of the ring speaks every word")]
mod support;

mod admission;
mod adopt;
mod chaos;
mod clients;
mod configured;
mod confine;
mod containers;
mod daemon;
mod death;
mod doctor_host;
mod ends;
mod events;
mod high;
mod history;
mod hook;
mod hostile;
mod hosts;
mod http;
mod idle;
mod labels;
mod launcher;
mod limits;
mod metrics;
mod openclaw;
mod orders;
mod outside;
mod ownership;
mod park;
mod reboot;
mod reload;
mod scan;
mod servers;
mod shedding;
mod soak;
mod storage;
mod storms;
mod top;
mod ttl;
mod upkeep;
mod wrapped;
