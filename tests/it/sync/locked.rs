//! The store's file is held by somebody else when the gateway starts.

use std::time::Duration;

use rusqlite::Connection;

use crate::harness::{Config, Site, Stopwatch, Upstream, get, until};

/// SQLite itself waits 5 s for a lock; a start that could go on from a snapshot must not.
const STARTED_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn a_start_on_a_locked_store_answers_from_the_snapshot_at_once() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let (known, revoked) = (site.key(&[]), site.key(&[]));
    site.revoke(&revoked);
    let mut gateway = site.start();
    gateway.terminate();
    assert!(gateway.ended().success());

    let holder = Connection::open(site.path("data/keyward.db")).expect("the store opens");
    holder.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").expect("nobody else has it open");
    let watch = Stopwatch::start();
    let gateway = site.start();
    let send = |token: &str| gateway.send(get("/any/x").bearer(token)).status;
    assert_eq!((send(&known.token), send(&revoked.token)), (200, 401));
    assert!(watch.elapsed() < STARTED_WITHIN, "took {:?}", watch.elapsed());
    assert_eq!(send("a-token-of-some-other-shape-that-nobody-has-imported"), 503);

    drop(holder);
    until("contact", || send("a-token-of-some-other-shape-that-nobody-has-imported") == 401);
    site.revoke(&known);
    until("the revocation", || send(&known.token) == 401);
}

#[test]
fn a_start_while_somebody_writes_goes_as_ever() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let holder = Connection::open(site.path("data/keyward.db")).expect("the store opens");
    holder.execute_batch("BEGIN IMMEDIATE").expect("the write lock is free");
    let watch = Stopwatch::start();
    let gateway = site.start();
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
    assert!(watch.elapsed() < STARTED_WITHIN, "took {:?}", watch.elapsed());
    holder.execute_batch("ROLLBACK").expect("the lock is ours");
}
