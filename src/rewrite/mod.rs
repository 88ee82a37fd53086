//! Hands on the configuration files of hosts: [`find`] tells where they are, [`original`] reads one and puts other bytes in its
//! place, whole or not at all, [`beside`] keeps files of ours next to it, [`kept`] remembers which files were wrapped and what stood in them.
//!
//! What is to change is not decided here: [`crate::hostfile`] does that, and it only sees bytes.

mod attributes;
pub mod beside;
mod drafts;
pub mod find;
pub mod kept;
pub mod original;
