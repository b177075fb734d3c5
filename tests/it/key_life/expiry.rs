//! A key ends by the clock, whether or not anybody tells the gateway.

use crate::harness::{Config, Reply, Site, Upstream, get, until};

#[test]
fn a_key_is_refused_at_its_end_with_no_store_to_say_so() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let gateway = site.start();
    let key = site.key_with(&["--expires-in", "3s"]);
    let send = || gateway.send(get("/any/x").bearer(&key.token));
    let answer = send();
    assert_eq!(answer.status, 200);
    assert!(answer.header("keyward-key-expires").is_some_and(|end| end.starts_with('@')), "{:?}", answer.headers);
    assert_eq!(answer.header("keyward-key-status"), None);
    site.hide_store();
    until("the expiry", || send().status == 401);
    assert_eq!(send().code(), "invalid_key");
}

#[test]
fn a_key_far_from_its_end_is_told_nothing() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let (far, near) = (site.key_with(&["--expires-in", "300d"]), site.key_with(&["--expires-in", "10d"]));
    let gateway = site.start();
    let notice = |token: &str| {
        let answer = gateway.send(get("/any/x").bearer(token));
        assert_eq!(answer.status, 200);
        answer.header("keyward-key-expires").is_some()
    };
    assert!(!notice(&far.token));
    assert!(notice(&near.token));
}

#[test]
fn a_key_near_its_end_is_told_so_whatever_the_answer_is() {
    let upstream = Upstream::answering(|_| Reply::hang_up());
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key_with(&["--expires-in", "10d"]);
    let revoked = site.key_with(&["--expires-in", "10d"]);
    site.revoke(&revoked);
    let gateway = site.start();
    let told = |path: &str, token: &str| {
        let answer = gateway.send(get(path).bearer(token));
        (answer.status, answer.header("keyward-key-expires").is_some())
    };
    assert_eq!(told("/any/x", &key.token), (502, true));
    assert_eq!(told("/keyrings/a", &key.token), (403, true), "it works, and lacks a flag");
    assert_eq!(told("/any/x", &revoked.token), (401, false));
    assert_eq!(told("/nowhere", &key.token), (404, false), "nobody looked at it");
}
