//! The server goes away and comes back.
//!
//! `KEYWARD_SOAK_OUTAGE_SECONDS` says for how long.

use std::thread;
use std::time::Duration;

use crate::harness::{Care, Cluster, Config, Site, Stopwatch, Upstream, get, post, times, until};

#[test]
fn known_keys_are_answered_while_the_server_is_down_and_changes_after_it_are_seen() {
    let (upstream, mut cluster) = (Upstream::start(), Cluster::start(Care::Durable));
    let config = Config::in_front_of(&upstream).postgres(&cluster.url(), "").admin();
    let site = Site::new(&config);
    let (kept, revoked) = (site.key(&["keyring.read"]), site.key(&["keyring.read"]));
    site.revoke(&revoked);
    let gateway = site.start();
    let status = |token: &str| gateway.send(get("/keyrings/a").bearer(token)).status;
    assert_eq!((status(&kept.token), status(&revoked.token)), (200, 401));

    cluster.kill();
    assert_eq!((status(&kept.token), status(&revoked.token)), (200, 401));
    until("that contact was lost", || status("a-token-of-some-other-shape-that-nobody-has-imported") == 503);
    assert_eq!(gateway.ops("/readyz").status, 200, "requests can be answered");
    let body = serde_json::json!({ "project_id": "acme", "name": "x" });
    let create = || gateway.api(post("/v1/api-keys").bearer(site.operator()).json(&body)).status;
    assert_eq!(create(), 503, "no key is made without a store");
    let (watch, long) = (Stopwatch::start(), Duration::from_secs(times("KEYWARD_SOAK_OUTAGE_SECONDS", 0)));
    while watch.elapsed() < long {
        assert_eq!((status(&kept.token), status(&revoked.token)), (200, 401), "after {:?}", watch.elapsed());
        assert_eq!(gateway.ops("/readyz").status, 200);
        thread::sleep(Duration::from_millis(20));
    }

    cluster.restart();
    until("the server", || status("a-token-of-some-other-shape-that-nobody-has-imported") == 401);
    until("a new key", || create() == 201);
    site.revoke(&kept);
    until("the revocation", || status(&kept.token) == 401);
}

#[test]
fn a_start_without_the_server_goes_on_from_the_snapshot() {
    let (upstream, mut cluster) = (Upstream::start(), Cluster::start(Care::Durable));
    let site = Site::new(&Config::in_front_of(&upstream).postgres(&cluster.url(), "connect_timeout = '1s'"));
    let (known, revoked) = (site.key(&[]), site.key(&[]));
    site.revoke(&revoked);
    let mut gateway = site.start();
    assert_eq!(gateway.send(get("/any/x").bearer(&known.token)).status, 200);
    gateway.terminate();
    assert!(gateway.ended().success());

    cluster.kill();
    let watch = Stopwatch::start();
    let gateway = site.start();
    let status = |token: &str| gateway.send(get("/any/x").bearer(token)).status;
    assert_eq!((status(&known.token), status(&revoked.token)), (200, 401));
    eprintln!("serving without the server {:?} after the start", watch.elapsed());
    if times("KEYWARD_SOAK_OUTAGE_SECONDS", 0) > 0 {
        assert!(watch.elapsed() < Duration::from_secs(1), "{:?}", watch.elapsed());
    }
    cluster.restart();
    site.revoke(&known);
    until("the revocation", || status(&known.token) == 401);
}

#[test]
fn a_server_that_hangs_is_noticed_and_keys_are_answered_meanwhile() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    let site = Site::new(&Config::in_front_of(&upstream).postgres(&cluster.url(), "statement_timeout = '1s'"));
    let key = site.key(&[]);
    let gateway = site.start();
    let status = |token: &str| gateway.send(get("/any/x").bearer(token)).status;
    assert_eq!(status(&key.token), 200);
    // Somebody holds every table for as long as this lasts.
    let lock = "BEGIN; LOCK TABLE keyward.counter, keyward.keys IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(4); ROLLBACK";
    std::thread::scope(|scope| {
        let holding = scope.spawn(|| cluster.sql(lock));
        until("that contact was lost", || status("a-token-of-some-other-shape-that-nobody-has-imported") == 503);
        assert_eq!(status(&key.token), 200);
        holding.join().expect("the lock ends");
    });
    until("contact", || status("a-token-of-some-other-shape-that-nobody-has-imported") == 401);
}
