//! Keeping the table like the store: load, follow, merge, remember across restarts.

mod settings;

pub use settings::Settings;
