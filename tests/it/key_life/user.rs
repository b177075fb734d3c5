//! Keys follow their user.

use crate::harness::{Config, Site, Upstream, get, until};

#[test]
fn a_users_flags_and_standing_bind_all_its_keys() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let set = |arguments: &[&str]| site.run(["users", "set", "alice", "-c", "keyward.toml"].iter().chain(arguments));
    set(&["--flag", "keyring.comms.read"]);
    let inherits = site.key_with(&["--user", "alice", "--inherit"]);
    let capped = site.key_with(&["--user", "alice", "--flag", "keyring.**"]);
    let gateway = site.start();
    let status = |token: &str, ring: &str| gateway.send(get(&format!("/keyrings/{ring}")).bearer(token)).status;
    for key in [&inherits, &capped] {
        assert_eq!((status(&key.token, "comms"), status(&key.token, "other")), (200, 403));
    }
    assert_eq!(upstream.requests()[0].header("keyward-user"), Some("alice"));

    set(&["--flag", "keyring.other.read"]);
    until("the new flags", || status(&inherits.token, "other") == 200);
    for key in [&inherits, &capped] {
        assert_eq!((status(&key.token, "comms"), status(&key.token, "other")), (403, 200));
    }

    set(&["--disabled"]);
    until("the disabled user", || status(&inherits.token, "other") == 401);
    assert_eq!(status(&capped.token, "other"), 401);
}
