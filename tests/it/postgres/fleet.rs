//! Two gateways that share one database.

use serde_json::json;

use crate::harness::{Care, Cluster, Config, Site, Upstream, get, post, until};

#[test]
fn a_key_made_at_one_gateway_works_at_both_and_its_revocation_reaches_both() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    // Polling alone would take an hour: what is seen here was heard of.
    let config = Config::in_front_of(&upstream).postgres(&cluster.url(), "").sync("poll = '1h'");
    let config = config.sync("max_staleness = '2h'");
    let site = Site::new(&config);
    let other = site.beside(&config);
    let (one, two) = (site.start(), other.start());
    let key = site.key(&["keyring.read"]);
    let status = |gateway: &crate::harness::Gateway| gateway.send(get("/keyrings/a").bearer(&key.token)).status;
    assert_eq!((status(&one), status(&two)), (200, 200), "a key works the moment its creation was answered");
    other.revoke(&key);
    until("the revocation at the first", || status(&one) == 401);
    until("the revocation at the second", || status(&two) == 401);
    for text in [one.log(), two.log()] {
        assert!(!text.contains("are found by polling"), "{text}");
    }
}

#[test]
fn usage_of_all_gateways_adds_up() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    let config = Config::in_front_of(&upstream).postgres(&cluster.url(), "").sync("usage_flush = '1s'");
    let site = Site::new(&config);
    let key = site.key(&[]);
    let other = site.beside(&config);
    let gateways = [site.start(), other.start()];
    for gateway in &gateways {
        for _ in 0..3 {
            assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
        }
    }
    until("all uses", || cluster.sql("SELECT coalesce(sum(count), 0) FROM keyward.key_usage") == "6");
    assert_eq!(cluster.sql("SELECT count(DISTINCT gateway_id) FROM keyward.key_usage"), "2");
    let shown = site.keys(&["show", &key.id, "--json"]).json();
    assert!(shown["last_used_at"].is_string(), "{shown}");
}

#[test]
fn a_rotation_is_not_repeated_while_another_gateway_may_have_seen_its_result_used() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    let config = Config::in_front_of(&upstream).admin().postgres(&cluster.url(), "");
    let site = Site::new(&config);
    let other = site.beside(&config);
    let (one, two) = (site.start(), other.start());
    let key = site.key(&[]);
    let rotate = || {
        let path = format!("/v1/api-keys/{}/rotate", key.id);
        one.api(post(&path).bearer(site.operator()).json(&json!({ "grace_period_minutes": 60 })))
    };
    let first = rotate();
    assert_eq!(first.status, 200, "{}", first.text());
    let token = first.json()["key"].as_str().expect("a token").to_owned();
    let status = || two.send(get("/any/x").bearer(&token)).status;
    assert_eq!(status(), 200);
    let again = rotate();
    assert_eq!((again.status, again.code().as_str()), (409, "rotation_unsettled"), "{}", again.text());
    assert_eq!(again.json()["key_id"], first.json()["new_key_id"]);
    assert_eq!(status(), 200, "it is in use, and goes on working");
}
