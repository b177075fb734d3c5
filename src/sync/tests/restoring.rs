//! Stores that went back to a backup, or lost their newest changes: what of the history before stays true.

use std::time::Duration;

use super::{House, begin};
use crate::key::{Key, Status};
use crate::sync::fake::{key, keys, revoked};
use crate::sync::metrics::Alarm;

/// A key that was replaced, with a grace that ends so many seconds after the test began.
fn in_grace(number: u32, seconds: u64) -> Key {
    Key { grace_expires_at: Some(begin().plus(Duration::from_secs(seconds))), ..key(number) }
}

#[tokio::test]
async fn a_restored_store_cannot_lengthen_the_grace_of_a_replaced_key() {
    let house = House::new();
    house.store.commit(keys((0..10).map(key)));
    let backup = house.store.backup();
    house.store.commit(keys([in_grace(1, 60), in_grace(2, 3600)]));
    let mut run = house.run();
    run.turn().await;
    house.clock.advance(Duration::from_secs(90));
    house.store.restore(backup);
    house.store.commit(keys([key(30)]));
    run.turn().await;
    assert_eq!(run.status(30), Some(Status::Active));
    assert_eq!((run.status(1), run.status(2)), (Some(Status::Superseded), Some(Status::Grace)));
    assert_eq!((run.metrics.alarms_of(Alarm::History), run.metrics.alarms_of(Alarm::TakenBack)), (1, 2));
    house.store.commit(keys([key(1)]));
    run.turn().await;
    assert_eq!(run.status(1), Some(Status::Superseded), "the store has a newer row of it, without its rotation");
    assert_eq!(run.metrics.alarms_of(Alarm::TakenBack), 3);
    run.drain().await;
    house.clock.advance(Duration::from_secs(3600));
    let mut run = house.run();
    run.turn().await;
    assert_eq!((run.status(1), run.status(2)), (Some(Status::Superseded), Some(Status::Superseded)));
}

#[tokio::test]
async fn what_ended_in_a_lost_history_is_in_the_snapshot_of_the_next() {
    let house = House::new();
    house.store.commit(keys((0..10).map(key)));
    let oldest = house.store.backup();
    house.store.commit(keys([key(20)]));
    let older = house.store.backup();
    house.store.commit(keys([key(21), revoked(20)]));
    let mut run = house.run();
    run.turn().await;
    house.store.restore(oldest);
    run.turn().await;
    assert_eq!(run.status(20), Some(Status::Revoked), "the store does not have it");
    run.drain().await;
    let mut run = house.run();
    run.turn().await;
    assert_eq!(run.status(20), Some(Status::Revoked), "after a restart too");
    house.store.restore(older);
    run.turn().await;
    assert_eq!(run.status(20), Some(Status::Revoked), "the store has it as live");
}

#[tokio::test]
async fn an_accepted_store_is_taken_over_once_even_where_the_file_that_says_so_is_lost() {
    let house = House::new();
    house.store.commit(keys((0..10).map(key)));
    let backup = house.store.backup();
    house.store.commit(keys([revoked(1)]));
    let mut run = house.run();
    run.turn().await;
    house.store.restore(backup);
    house.store.accept();
    run.turn().await;
    assert_eq!(run.status(1), Some(Status::Active), "an operator said that this is meant");
    run.drain().await;
    std::fs::remove_file(house.state().join("accepted")).expect("what was taken over is written down");
    let mut run = house.run();
    run.turn().await;
    let backup = house.store.backup();
    house.store.commit(keys([revoked(2)]));
    run.turn().await;
    house.store.restore(backup);
    house.store.commit(keys([key(30)]));
    run.turn().await;
    assert_eq!(run.status(30), Some(Status::Active));
    assert_eq!(run.status(2), Some(Status::Revoked), "nobody accepted this one");
}

#[tokio::test]
async fn a_change_in_a_history_that_is_not_followed_is_not_called_applied() {
    let house = House::new();
    house.store.commit(keys((0..2).map(key)));
    let backup = house.store.backup();
    for number in 2..10 {
        house.store.commit(keys([key(number)]));
    }
    let mut run = house.run();
    run.turn().await;
    assert_eq!(run.table.applied(), 9);
    let handle = run.sync.handle.clone();
    house.store.restore(backup);
    // The reload is refused, for it would lose too much.
    let revision = house.store.commit(keys([revoked(1)]));
    let most = Duration::from_millis(20);
    let (applied, ()) = tokio::join!(handle.wait_applied(revision, most), run.turn());
    assert_eq!((applied, run.status(1)), (false, Some(Status::Active)));
    let (applied, ()) = tokio::join!(handle.wait_applied(revision, most), run.turn());
    assert!(!applied, "not later either");
}

#[tokio::test]
async fn a_change_that_was_applied_before_anybody_asked_is_called_applied_after_one_more_look() {
    let house = House::new();
    let mut run = house.run();
    let revision = house.store.commit(keys([key(1)]));
    run.turn().await;
    assert_eq!(run.table.applied(), revision);
    let handle = run.sync.handle.clone();
    assert!(!handle.wait_applied(revision, Duration::ZERO).await);
    let (applied, ()) = tokio::join!(handle.wait_applied(revision, Duration::from_secs(10)), run.turn());
    assert!(applied);
}
