//! Hands on the configuration files of hosts: [`find`] tells where they are, [`original`] reads one and puts other bytes in its
//! place, whole or not at all.
//!
//! What is to change is not decided here: [`crate::hostfile`] does that, and it only sees bytes.

mod attributes;
pub mod find;
pub mod original;
