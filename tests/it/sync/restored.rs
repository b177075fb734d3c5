//! The store's file is replaced by an older copy of itself while the gateway serves.

use std::fs;

use rusqlite::Connection;

use crate::harness::{Config, Site, Upstream, get, until};

#[test]
fn a_restored_store_is_told_again_what_was_revoked_and_deleted_since() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).sync("poll = '200ms'"));
    let user = |command: &str| site.run(["users", command, "-c", "keyward.toml", "ann"]);
    user("set");
    let (leaked, works) = (site.key(&[]), site.key(&[]));
    let of_ann = site.key_with(&["--user", "ann"]);
    Connection::open(site.path("data/keyward.db"))
        .and_then(|store| store.execute("VACUUM INTO ?1", [site.path("backup.db").to_str().expect("a plain path")]))
        .expect("a backup");
    let gateway = site.start();
    let send = |token: &str| gateway.send(get("/any/x").bearer(token)).status;
    assert_eq!((send(&leaked.token), send(&of_ann.token)), (200, 200));
    site.revoke(&leaked);
    user("delete");
    until("the ends", || (send(&leaked.token), send(&of_ann.token)) == (401, 401));

    let mark = gateway.log_mark();
    fs::rename(site.path("backup.db"), site.path("data/keyward.db")).expect("the backup takes the file's place");
    gateway.until_logged(mark, "no longer has this key as revoked");
    gateway.until_logged(mark, "no longer has this user as deleted");
    let status = |id: &str| site.keys(&["show", "--json", id]).json()["status"].clone();
    until("the store to say it again", || status(&leaked.id) == "revoked" && status(&of_ann.id) == "revoked");
    gateway.until_logged(mark, "revoked in the store again");
    assert_eq!((send(&leaked.token), send(&of_ann.token), send(&works.token)), (401, 401, 200));
    assert!(
        gateway.metrics().contains("keyward_divergence_alarms_total{kind=\"taken_back\"} 3"),
        "{}",
        gateway.metrics()
    );
    let events = site.run(["events", "-c", "keyward.toml", "--json"]).stdout;
    assert!(events.contains("gateway"), "{events}");
}
