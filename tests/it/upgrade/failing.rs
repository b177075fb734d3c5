//! A new binary that is no good leaves the old process serving.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{config, put_in_place, start_by_link};
use crate::harness::{EchoService, Gateway, Key, Site, WebSocket, get};

fn assert_serves(gateway: &Gateway, key: &Key) {
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
}

/// Puts a shell script in the place of the binary.
fn put_script(site: &Site, name: &str, script: &str) {
    let path = site.path(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a file");
    put_in_place(site, path);
}

#[test]
fn a_binary_that_ends_or_is_none_or_hangs_leaves_the_old_one_serving_until_a_good_one_comes() {
    let service = EchoService::start();
    let site = Site::new(&config(&service).gateway("timeouts.upgrade = '1s'"));
    let key = site.key(&[]);
    let mut gateway = start_by_link(&site);
    let mut socket = WebSocket::open(gateway.address(), "/any/socket", &key.token);
    let fail = |needle: &str| {
        let mark = gateway.log_mark();
        gateway.ask_for_upgrade();
        let line = gateway.until_logged(mark, "not upgraded");
        assert!(line.contains(needle), "{line}");
        assert_serves(&gateway, &key);
    };
    put_script(&site, "ends", "exit 3");
    fail("exit status: 3");
    put_script(&site, "hangs", "exec sleep 60");
    fail("not ready within 1s");
    fs::write(site.path("none"), "neither a program nor a script").expect("a file");
    put_in_place(&site, site.path("none"));
    fail("cannot be started");
    assert!(gateway.metrics().contains("keyward_upgrade_failures_total 3"));

    assert!(socket.echoes());
    put_in_place(&site, env!("CARGO_BIN_EXE_keyward"));
    gateway.upgrade();
    assert_serves(&gateway, &key);
    drop(socket);
    assert!(gateway.ended().success());
    assert_serves(&gateway, &key);
}

#[test]
fn a_configuration_with_faults_stops_the_new_process_and_not_the_old() {
    let service = EchoService::start();
    let config = config(&service);
    let site = Site::new(&config);
    let key = site.key(&[]);
    let gateway = site.start();
    let fail = |needle: &str| {
        let mark = gateway.log_mark();
        gateway.ask_for_upgrade();
        let line = gateway.until_logged(mark, "not upgraded");
        assert!(line.contains(needle), "{line}");
        assert_serves(&gateway, &key);
    };
    site.write_config(&config.clone().route("name = 'bad'\npath = 'no-slash'\npublic = true"));
    fail("exit status: 64");
    // Found once the file was read: the new process says so itself.
    site.write_config(&config.clone().gateway("deny_file = 'not-there'"));
    fail("not-there");
    site.write_config(&config);
    gateway.upgrade();
    assert_serves(&gateway, &key);
}
