//! Whatever a configuration file holds, it is taken or refused with faults that have lines.
#![no_main]

use std::path::Path;

use keyward::config::{Config, Environment};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &str| {
    if let Err(faults) = Config::parse(Path::new("keyward.toml"), data, &Environment::default()) {
        assert!(!faults.is_empty());
        for fault in faults {
            assert!(fault.to_string().starts_with("keyward.toml"), "{fault}");
        }
    }
});
