//! The server goes away and comes back.

use crate::harness::{Care, Cluster, Config, Site, Upstream, get, post, until};

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
    let gateway = site.start();
    let status = |token: &str| gateway.send(get("/any/x").bearer(token)).status;
    assert_eq!((status(&known.token), status(&revoked.token)), (200, 401));
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
