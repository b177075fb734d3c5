//! One binary after the other, and a service manager around them.

mod activation;
mod failing;
mod state;
mod under_load;

use std::process::Command;

use crate::harness::{Config, EchoService, Gateway, Site};

/// WebSockets and everything else below `/any`, for any key.
fn config(service: &EchoService) -> Config {
    Config::in_front_of_address(service.address())
        .route("name = 'any'\npath = '/any/{*rest}'\nany_key = true\nupgrades = ['websocket']")
        .route("name = 'public'\npath = '/public/{*rest}'\npublic = true")
}

/// A gateway that is started through a link, so that another binary can be put in its place.
fn start_by_link(site: &Site) -> Gateway {
    put_in_place(site, env!("CARGO_BIN_EXE_keyward"));
    let mut command = Command::new(site.path("keyward"));
    command.args(["serve", "-c", "keyward.toml"]).current_dir(site.path("."));
    Gateway::start_by(site, command)
}

/// Makes the link lead to `binary`.
fn put_in_place(site: &Site, binary: impl AsRef<std::path::Path>) {
    let (fresh, link) = (site.path("keyward.link"), site.path("keyward"));
    std::os::unix::fs::symlink(binary, &fresh).expect("a link");
    std::fs::rename(fresh, link).expect("a link");
}
