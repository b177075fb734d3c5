//! The gateway starts and the store is not there.

use std::fs;

use crate::harness::{Config, Site, Upstream, get, until};

#[test]
fn a_restart_without_the_store_goes_on_from_the_snapshot() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let (known, revoked) = (site.key(&["keyring.read"]), site.key(&["keyring.read"]));
    site.revoke(&revoked);
    let mut gateway = site.start();
    assert_eq!(gateway.send(get("/keyrings/a").bearer(&known.token)).status, 200);
    gateway.terminate();
    assert!(gateway.ended().success());

    site.hide_store();
    let gateway = site.start();
    let send = |token: &str| gateway.send(get("/keyrings/a").bearer(token));
    assert_eq!((send(&known.token).status, send(&revoked.token).status), (200, 401));
    let answer = send("a-token-of-some-other-shape-that-nobody-has-imported");
    assert_eq!((answer.status, answer.code().as_str()), (503, "unknown_yet"));

    site.restore_store();
    until("contact", || send("a-token-of-some-other-shape-that-nobody-has-imported").status == 401);
    site.revoke(&known);
    until("the revocation", || send(&known.token).status == 401);
}

#[test]
fn a_revocation_that_was_confirmed_survives_a_crash_and_the_loss_of_the_store() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let (kept, revoked) = (site.key(&[]), site.key(&[]));
    let mut gateway = site.start();
    let status = |gateway: &crate::harness::Gateway, token: &str| gateway.send(get("/any/x").bearer(token)).status;
    // The first snapshot has both keys; the revocation after it is in the journal alone.
    until("a snapshot", || site.files().iter().any(|file| file.to_string_lossy().contains("snapshot")));
    let done = site.try_run(["keys", "revoke", "-c", "keyward.toml", &revoked.id, "--wait", "20s"]);
    assert_eq!((done.code, status(&gateway, &revoked.token)), (Some(0), 401), "{done:?}");
    gateway.kill();

    site.hide_store();
    let gateway = site.start();
    assert_eq!((status(&gateway, &kept.token), status(&gateway, &revoked.token)), (200, 401));
}

#[test]
fn a_start_with_another_store_says_so_and_serves_that_ones_keys() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let old = site.key(&[]);
    let mut gateway = site.start();
    gateway.terminate();
    assert!(gateway.ended().success());

    site.hide_store();
    let (state, away) = (site.path("keyward.state"), site.path("state.away"));
    fs::rename(&state, &away).expect("the state folder");
    site.run(["init", "-c", "keyward.toml"]);
    fs::rename(&away, &state).expect("the state folder");
    let new = site.key(&[]);
    let gateway = site.start();
    gateway.until_logged(0, "this is another store than the one that was followed");
    let status = |token: &str| gateway.send(get("/any/x").bearer(token)).status;
    assert_eq!((status(&old.token), status(&new.token)), (401, 200));
}

#[test]
fn a_damaged_snapshot_decides_nothing_until_the_store_is_back() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let mut gateway = site.start();
    gateway.terminate();
    assert!(gateway.ended().success());

    let mut damaged = 0;
    for file in site.files().iter().filter(|file| file.to_string_lossy().contains("snapshot")) {
        let mut bytes = fs::read(file).expect("a file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).expect("a file");
        damaged += 1;
    }
    assert!(damaged > 0, "{:?}", site.files());
    site.hide_store();
    let gateway = site.start_unready();
    let send = || gateway.send(get("/any/x").bearer(&key.token));
    assert_eq!((send().status, send().code().as_str()), (503, "not_ready"));
    assert_eq!(gateway.send(get("/nowhere")).status, 404, "routes need no keys");
    assert_eq!((gateway.ops("/livez").status, gateway.ops("/readyz").status), (200, 503));

    site.restore_store();
    until("the store", || send().status == 200);
    assert_eq!(gateway.ops("/readyz").status, 200);
}

#[test]
fn a_second_process_on_the_same_state_is_turned_away() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let _serving = site.start();
    let second = site.try_run(["serve", "-c", "keyward.toml"]);
    assert_eq!(second.code, Some(64), "{second:?}");
    assert!(second.stderr.contains("keyward.state"), "{second:?}");
}
