//! The store goes away while the gateway serves.

use crate::harness::{Config, Site, Upstream, get, until};

#[test]
fn known_keys_are_answered_without_the_store_and_unknown_ones_are_not_called_wrong() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).sync("poll = '200ms'"));
    let (known, revoked) = (site.key(&["keyring.read"]), site.key(&["keyring.read"]));
    site.revoke(&revoked);
    let gateway = site.start();
    let send = |token: &str| gateway.send(get("/keyrings/comms").bearer(token));
    site.hide_store();

    let stranger = "a-token-of-some-other-shape-that-nobody-has-imported";
    until("the outage to be noticed", || send(stranger).status == 503);
    let answer = send(stranger);
    assert_eq!((answer.status, answer.code().as_str()), (503, "unknown_yet"));
    assert!(answer.header("retry-after").is_some());
    assert_eq!((send(&known.token).status, send(&revoked.token).status), (200, 401));
    assert_eq!(gateway.ops("/readyz").status, 200, "an outage that refuses nobody must not empty a load balancer");

    site.restore_store();
    until("contact", || send(stranger).status == 401);
    site.revoke(&known);
    until("the revocation", || send(&known.token).status == 401);
}

#[test]
fn an_unknown_token_is_refused_for_good_once_the_grace_has_passed() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).sync("poll = '200ms'").sync("unknown_grace = '1s'"));
    let gateway = site.start();
    site.hide_store();
    let status = || gateway.send(get("/any/x").bearer("never-seen-before-anywhere")).status;
    until("the outage to be noticed", || status() == 503);
    until("the end of the grace", || status() == 401);
}

#[test]
fn a_gateway_told_to_deny_when_stale_does() {
    let upstream = Upstream::start();
    let config =
        Config::in_front_of(&upstream).sync("poll = '200ms'").sync("max_staleness = '1s'").sync("on_stale = 'deny'");
    let site = Site::new(&config);
    let key = site.key(&[]);
    let gateway = site.start();
    let send = || gateway.send(get("/any/x").bearer(&key.token));
    assert_eq!(send().status, 200);
    site.hide_store();
    until("staleness", || send().code() == "stale_keys");
    assert_eq!(send().status, 503);
    until("readiness to drop", || gateway.ops("/readyz").status == 503);
    site.restore_store();
    until("contact", || send().status == 200);
    until("readiness", || gateway.ops("/readyz").status == 200);
}

#[test]
fn a_reload_changes_what_becomes_of_a_stale_table_and_readiness_agrees() {
    let upstream = Upstream::start();
    let config = || Config::in_front_of(&upstream).sync("poll = '200ms'").sync("max_staleness = '1s'");
    let site = Site::new(&config());
    let key = site.key(&[]);
    let gateway = site.start();
    let send = || gateway.send(get("/any/x").bearer(&key.token));
    site.hide_store();
    site.write_config(&config().sync("on_stale = 'deny'"));
    gateway.hang_up();
    until("staleness", || send().code() == "stale_keys");
    assert_eq!(gateway.ops("/readyz").status, 503, "every key is refused");
    let mark = gateway.log_mark();
    site.write_config(&config());
    gateway.hang_up();
    until("keys to be served again", || send().status == 200);
    assert_eq!(gateway.ops("/readyz").status, 200, "no key is refused");
    assert!(!gateway.log().lines().skip(mark).any(|line| line.contains("when the gateway starts again")));
}

#[test]
fn a_route_told_to_deny_when_stale_does_while_others_go_on() {
    let upstream = Upstream::start();
    let strict = "name = 'strict'\npath = '/strict'\nany_key = true\non_stale = 'deny'";
    let config = Config::in_front_of(&upstream).sync("poll = '200ms'").sync("max_staleness = '1s'").route(strict);
    let site = Site::new(&config);
    let key = site.key(&[]);
    let gateway = site.start();
    let send = |path: &str| gateway.send(get(path).bearer(&key.token));
    assert_eq!((send("/strict").status, send("/any/x").status), (200, 200));
    site.hide_store();
    until("staleness", || send("/strict").code() == "stale_keys");
    assert_eq!((send("/strict").status, send("/any/x").status), (503, 200));
    assert_eq!(gateway.ops("/readyz").status, 200, "most requests are answered");
    site.restore_store();
    until("contact", || send("/strict").status == 200);
}

#[test]
fn a_locked_store_holds_up_no_request() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    let holder = rusqlite::Connection::open(site.path("data/keyward.db")).expect("the store opens");
    holder.execute_batch("BEGIN IMMEDIATE").expect("the write lock is free");
    for _ in 0..20 {
        assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
    }
    holder.execute_batch("ROLLBACK").expect("the lock is ours");
}
