//! A key ends by the clock, whether or not anybody tells the gateway.

use crate::harness::{Config, Site, Upstream, get, until};

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
