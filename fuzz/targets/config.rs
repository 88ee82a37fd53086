//! The configuration file: whatever stands in it, it is understood or the error says where.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pinfold::config::{Config, ConfigError};

fuzz_target!(|text: &str| match Config::parse(text, Path::new("/pinfold.toml")) {
    Ok(config) => drop(config),
    Err(ConfigError::Wrong { line, column, text: shown, .. }) => {
        assert!(line >= 1 && line <= text.matches('\n').count() + 1, "line {line}");
        assert!(column >= 1 && shown.chars().count() <= 80);
        assert!(!shown.contains(char::is_control), "{shown:?}");
    }
    Err(error) => panic!("{error}"),
});
