//! A change by the command line is enforced by the running gateway at once.

use std::time::Duration;

use crate::harness::{Config, Http, Site, Stopwatch, Upstream, get, until};

/// From the moment the command has answered.
const ENFORCED_WITHIN: Duration = Duration::from_millis(200);

#[test]
fn a_revoked_key_is_refused_within_200_ms_on_open_connections_too() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let gateway = site.start();
    for http in [Http::One, Http::Two] {
        let key = site.key(&["keyring.read"]);
        let mut connection = gateway.connect(http);
        assert_eq!(connection.send(get("/keyrings/comms").bearer(&key.token)).status, 200);
        site.revoke(&key);
        let watch = Stopwatch::start();
        let mut last = connection.send(get("/keyrings/comms").bearer(&key.token));
        until("the revocation", || {
            last = connection.send(get("/keyrings/comms").bearer(&key.token));
            last.status == 401
        });
        assert!(watch.elapsed() < ENFORCED_WITHIN, "{http:?}: took {:?}", watch.elapsed());
        assert_eq!(last.code(), "invalid_key");
        assert!(!last.text().contains("revoked"), "the holder is told more than it should be: {}", last.text());
    }
}

#[test]
fn the_log_and_the_metrics_know_why() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    site.revoke(&key);
    let gateway = site.start();
    let mark = gateway.log_mark();
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 401);
    let line = gateway.until_logged(mark, "revoked");
    assert!(line.contains(&key.id), "{line}");
    until("the metric", || gateway.metrics().lines().any(|line| line.contains("revoked") && !line.starts_with('#')));
}

#[test]
fn the_holder_is_told_why_where_the_gateway_says_so() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).gateway("reveal_reason = true"));
    let key = site.key(&[]);
    site.revoke(&key);
    let gateway = site.start();
    let answer = gateway.send(get("/any/x").bearer(&key.token));
    assert_eq!(answer.status, 401);
    assert!(answer.text().contains("revoked"), "{}", answer.text());
}

#[test]
fn a_new_key_works_the_moment_it_was_answered() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let gateway = site.start();
    for _ in 0..5 {
        let key = site.key(&["keyring.read"]);
        assert_eq!(gateway.send(get("/keyrings/comms").bearer(&key.token)).status, 200);
    }
}

#[test]
fn a_key_that_is_switched_off_works_again_when_it_is_switched_on() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    let status = || gateway.send(get("/any/x").bearer(&key.token)).status;
    assert_eq!(status(), 200);
    site.keys(&["update", &key.id, "--disable"]);
    until("the key to be off", || status() == 401);
    site.keys(&["update", &key.id, "--enable"]);
    until("the key to be on", || status() == 200);
}
