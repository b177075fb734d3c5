//! Master secrets that take each other's place.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use keyward::key::{Jwks, JwtParts, Signature};
use serde_json::Value;

use super::{ASSERTION, KEY, asserting, jwt_key, kid, last_assertion, public_keys, served_keys, verified};
use crate::harness::{Gateway, Key, Ran, Site, Upstream, get, until};

fn secrets(site: &Site, arguments: &[&str]) -> Ran {
    site.run(["secrets"].iter().chain(arguments).chain(&["-c", "keyward.toml"]))
}

fn refused(site: &Site, arguments: &[&str]) -> Ran {
    let ran = site.try_run(["secrets"].iter().chain(arguments).chain(&["-c", "keyward.toml"]));
    assert_ne!(ran.code, Some(0), "{ran:?}");
    ran
}

/// Number and state of each, as they are listed.
fn states(site: &Site) -> Vec<(u64, String)> {
    let listed = secrets(site, &["list", "--json"]).json();
    let state =
        |one: &Value| (one["number"].as_u64().expect("a number"), one["state"].as_str().unwrap_or("").to_owned());
    listed.as_array().expect("a list").iter().map(state).collect()
}

fn state(number: u64, state: &str) -> (u64, String) {
    (number, state.to_owned())
}

fn asserted(gateway: &Gateway, upstream: &Upstream, key: &Key) -> String {
    assert_eq!(gateway.send(get("/asserted/x").bearer(&key.token)).status, 200);
    last_assertion(upstream)
}

/// How many public keys a gateway serves.
fn served(gateway: &Gateway) -> usize {
    gateway.send(get("/.well-known/jwks.json")).json()["keys"].as_array().map_or(0, Vec::len)
}

fn file(site: &Site) -> String {
    fs::read_to_string(site.path("data/master.secret")).expect("the file of the master secrets")
}

fn write_file(site: &Site, text: &str) {
    fs::write(site.path("data/master.secret"), text).expect("a file");
}

#[test]
fn a_gateway_takes_a_new_secret_over_while_it_serves_and_what_the_old_one_made_stays_good() {
    let upstream = Upstream::start();
    let site = Site::new(&asserting(&upstream));
    let key = jwt_key(&site, &[]);
    let mut gateway = site.start();
    let old = asserted(&gateway, &upstream, &key);

    let mark = gateway.log_mark();
    let first = file(&site).trim().to_owned();
    let said = secrets(&site, &["rotate"]).stdout;
    assert!(said.contains("added master secret 2") && !said.contains(&first), "{said}");
    assert_eq!(states(&site), [state(2, "in use"), state(1, "retired")]);
    let mode = fs::metadata(site.path("data/master.secret")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    gateway.until_logged(mark, "master secrets taken over");
    assert_eq!(served(&gateway), 2);
    let new = asserted(&gateway, &upstream, &key);
    assert_ne!(kid(&new), kid(&old));
    let young = jwt_key(&site, &[]);
    assert_ne!(kid(&young.token), kid(&key.token));
    for key in [&key, &young] {
        until("the key", || gateway.send(get("/any/x").bearer(&key.token)).status == 200);
    }
    let (served_keys, all_keys) = (served_keys(&gateway), public_keys(&site));
    let seen = verified([
        [&served_keys, ASSERTION, "service", &old],
        [&served_keys, ASSERTION, "service", &new],
        [&all_keys, KEY, "-", &key.token],
        [&all_keys, KEY, "-", &young.token],
    ]);
    assert!(seen.iter().all(|seen| seen["claims"]["sub"].is_string()), "{seen:?}");

    // What the old secret sealed is opened by whoever has both.
    gateway.kill();
    site.hide_store();
    let mut gateway = site.start();
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
    gateway.terminate();
    gateway.ended();
    site.restore_store();

    let refusal = refused(&site, &["forget", "2"]);
    assert!(refusal.stderr.contains("master secret 2 is in use"), "{refusal:?}");
    let mut gateway = site.start();
    let mark = gateway.log_mark();
    assert_eq!(secrets(&site, &["forget", "1", "--json"]).json(), serde_json::json!({ "forgot": 1 }));
    assert_eq!(states(&site), [state(2, "in use")]);
    gateway.until_logged(mark, "master secrets taken over");
    assert_eq!(served(&gateway), 1);
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200, "a key is known by its hash");
    gateway.terminate();
    gateway.ended();
    site.hide_store();
    let gateway = site.start();
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200, "the new secret sealed the last snapshot");
}

#[test]
fn a_secret_can_be_known_to_every_gateway_before_one_of_them_uses_it() {
    let upstream = Upstream::start();
    let site = Site::new(&asserting(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    let old = kid(&asserted(&gateway, &upstream, &key));
    let mark = gateway.log_mark();
    let said = secrets(&site, &["rotate", "--after", "1h"]).stdout;
    assert!(said.contains("copy that file"), "{said}");
    assert_eq!(states(&site), [state(2, "next"), state(1, "in use")]);
    gateway.until_logged(mark, "master secrets taken over");
    assert_eq!(served(&gateway), 2);
    assert_eq!(kid(&asserted(&gateway, &upstream, &key)), old);

    // A gateway that has not heard of it yet goes on with what it has.
    drop(gateway);
    let lone = file(&site).lines().find_map(|line| line.strip_prefix("1:")).expect("the first").to_owned();
    write_file(&site, &lone);
    assert_eq!(states(&site), [state(2, "not here"), state(1, "in use")]);
    let refusal = refused(&site, &["rotate"]);
    assert!(refusal.stderr.contains("the store knows master secret 2"), "{refusal:?}");
    assert_eq!(site.start().send(get("/any/x").bearer(&key.token)).status, 200);
    // One that nobody has any more is given up.
    secrets(&site, &["forget", "2"]);
    secrets(&site, &["rotate"]);
    assert_eq!(states(&site), [state(2, "in use"), state(1, "retired")]);
}

#[test]
fn a_secret_that_was_written_before_the_store_heard_of_it_is_taken_by_whoever_comes_next() {
    let upstream = Upstream::start();
    let site = Site::new(&asserting(&upstream));
    let key = site.key(&[]);
    let first = file(&site).trim().to_owned();
    // What a rotation leaves that was cut off between its two steps, or a secret put there by hand.
    write_file(&site, &format!("2:{}\n1:{first}\n", "ab".repeat(32)));
    assert_eq!(site.start().send(get("/any/x").bearer(&key.token)).status, 200);
    assert_eq!(states(&site), [state(2, "in use"), state(1, "retired")]);
    // Another one of its number is another store's.
    write_file(&site, &format!("2:{}\n1:{first}\n", "cd".repeat(32)));
    for command in [&["keys", "list"], &["secrets", "rotate"]] {
        let ran = site.try_run(command.iter().chain(&["-c", "keyward.toml"]));
        assert_eq!(ran.code, Some(64), "{ran:?}");
    }
    // Nobody who has none of the known ones can add one.
    write_file(&site, &format!("3:{}\n", "ef".repeat(32)));
    let ran = site.try_run(["serve", "-c", "keyward.toml"]);
    assert_eq!(ran.code, Some(64), "{ran:?}");
    assert!(!ran.stderr.contains("efef"), "{ran:?}");
}

#[test]
fn a_wrong_file_leaves_the_old_secrets_in_force() {
    let upstream = Upstream::start();
    let site = Site::new(&asserting(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    let old = kid(&asserted(&gateway, &upstream, &key));
    let good = file(&site);
    for wrong in ["hunter2", &format!("1:{}", "ab".repeat(32)), &format!("{}, x", "ab".repeat(32))] {
        let mark = gateway.log_mark();
        write_file(&site, wrong);
        gateway.hang_up();
        let line = gateway.until_logged(mark, "master secrets not taken over");
        assert!(!line.contains("hunter2") && !line.contains("abab"), "{line}");
        assert_eq!(kid(&asserted(&gateway, &upstream, &key)), old);
    }
    write_file(&site, &good);
    secrets(&site, &["rotate"]);
    until("the new secret", || kid(&asserted(&gateway, &upstream, &key)) != old);
}

#[test]
fn a_rotation_that_is_killed_leaves_secrets_that_work() {
    let upstream = Upstream::start();
    let site = Site::new(&asserting(&upstream));
    let key = jwt_key(&site, &[]);
    for step in 0..6 {
        let mut rotation = site
            .command(["secrets", "rotate", "-c", "keyward.toml"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        // Wherever it is by then: before, in the middle, or done.
        std::thread::sleep(Duration::from_millis(3 * step));
        rotation.kill().expect("a child");
        rotation.wait().expect("a child");
        let numbers: Vec<u64> = states(&site).into_iter().map(|(number, _)| number).collect();
        assert!(numbers.contains(&1), "{numbers:?}");
        let jwks = Jwks::parse(site.run(["secrets", "jwks", "-c", "keyward.toml"]).stdout.as_bytes()).expect("keys");
        let parts = JwtParts::of(&key.token).expect("a JWT");
        assert_eq!(jwks.verify(&parts), Signature::Good, "{numbers:?}");
    }
    assert_eq!(site.start().send(get("/any/x").bearer(&key.token)).status, 200);
}
