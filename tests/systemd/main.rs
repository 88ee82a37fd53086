//! The systemd ring: a real manager, real units, the built binary. `tests/vm/run` runs it in a guest, once with the
//! system manager as root, and once with a user's.
//!
//! `PINFOLD_TEST_HOST=systemd` states that this machine offers what the ring needs; without it every test is skipped:
//! nobody's service manager is made a test bed by `cargo test`. The tests share one manager, so they run one at a time.

mod agent;
#[expect(dead_code, reason = "a vocabulary for two rings: neither speaks every word")]
#[path = "../kernel/support.rs"]
mod kernel;
mod support;

mod activation;
mod adopt;
mod behind;
mod bound;
mod doctor;
mod ends;
mod escapes;
mod failures;
mod installed;
mod journal;
mod kept;
mod lost;
mod manager;
mod memory;
mod on_demand;
mod oomd;
mod outside;
mod places;
mod sandbox;
mod sandboxed;
mod scrape;
mod shedding;
mod ttl;
mod units;
mod watchdog;
mod which_daemon;
mod without_bus;
