//! A replaced key works on for its grace, says so, and ends by the clock.

use crate::harness::{Answer, Config, Site, Upstream, get, until};
use keyward::clock::{Clock, SystemClock, Timestamp};

fn notice(answer: &Answer) -> Option<Timestamp> {
    let seconds = answer.header("keyward-key-expires")?.strip_prefix('@')?;
    Some(Timestamp::from_seconds(seconds.parse().expect("unix seconds")))
}

#[test]
fn the_old_token_works_in_its_grace_with_notice_and_is_refused_at_its_end() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let old = site.key(&["keyring.read"]);
    let gateway = site.start();
    let send = |token: &str| gateway.send(get("/keyrings/comms").bearer(token));
    assert_eq!(send(&old.token).header("keyward-key-status"), None);

    let new = site.rotate(&old, "3s");
    assert_ne!(new.id, old.id);
    let mut answer = send(&old.token);
    until("the grace", || {
        answer = send(&old.token);
        answer.header("keyward-key-status").is_some()
    });
    assert_eq!((answer.status, answer.header("keyward-key-status")), (200, Some("grace")));
    let end = notice(&answer).expect("the end of the grace");
    let fresh = send(&new.token);
    assert_eq!((fresh.status, notice(&fresh)), (200, None));

    let clock = SystemClock::default();
    until("the end of the grace", || send(&old.token).status == 401);
    // The field has whole seconds; the window ends within the one it names.
    assert!(clock.now() >= end, "refused at {}, before {end}", clock.now());
    assert!(clock.now() < end.plus(std::time::Duration::from_secs(2)), "refused at {}, long after {end}", clock.now());
    assert_eq!(send(&new.token).status, 200);
    assert_eq!(upstream.requests().last().and_then(|it| it.header("keyward-key-id").map(str::to_owned)), Some(new.id));
}

#[test]
fn a_rotation_without_grace_ends_the_old_token_at_once() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let old = site.key(&[]);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/any/x").bearer(&old.token)).status, 200);
    let new = site.rotate(&old, "0s");
    until("the end of the old token", || gateway.send(get("/any/x").bearer(&old.token)).status == 401);
    assert_eq!(gateway.send(get("/any/x").bearer(&new.token)).status, 200);
}

#[test]
fn revoking_ends_a_grace() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let old = site.key(&[]);
    let gateway = site.start();
    site.rotate(&old, "1h");
    assert_eq!(gateway.send(get("/any/x").bearer(&old.token)).status, 200);
    site.revoke(&old);
    until("the end of the old token", || gateway.send(get("/any/x").bearer(&old.token)).status == 401);
}

#[test]
fn the_upstream_is_told_that_a_key_is_in_grace() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let old = site.key(&[]);
    site.rotate(&old, "1h");
    let gateway = site.start();
    assert_eq!(gateway.send(get("/any/x").bearer(&old.token)).status, 200);
    assert_eq!(upstream.only_request().header("keyward-key-status"), Some("grace"));
}
