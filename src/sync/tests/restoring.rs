//! Stores that went back to a backup, or lost their newest changes: what of the history before stays true.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{House, Run, begin};
use crate::key::{Key, States, Status, Subject};
use crate::sync::fake::{FakeStore, Mood, key, keys, revoked};
use crate::sync::metrics::Alarm;
use crate::table::Freshness;

/// A key that was replaced, with a grace that ends so many seconds after the test began.
fn in_grace(number: u32, seconds: u64) -> Key {
    Key { grace_expires_at: Some(begin().plus(Duration::from_secs(seconds))), ..key(number) }
}

#[tokio::test]
async fn a_restored_store_cannot_lengthen_the_grace_of_a_replaced_key() {
    let house = House::with(10);
    let mut run = after_lost_rotations(&house).await;
    assert_eq!(run.status(30), Some(Status::Active));
    assert_eq!((run.metrics.alarms_of(Alarm::History), run.metrics.alarms_of(Alarm::TakenBack)), (1, 2));
    house.store.commit(keys([key(1)]));
    run.turn().await;
    assert_eq!(run.status(1), Some(Status::Superseded), "the store has a newer row of it, without its rotation");
    assert_eq!(run.metrics.alarms_of(Alarm::TakenBack), 3);
    run.drain().await;
    house.clock.advance(Duration::from_secs(3600));
    let run = house.follower().await;
    assert_eq!((run.status(1), run.status(2)), (Some(Status::Superseded), Some(Status::Superseded)));
}

#[tokio::test]
async fn what_ended_in_a_lost_history_is_in_the_snapshot_of_the_next() {
    let house = House::with(10);
    let oldest = house.store.backup();
    house.store.commit(keys([key(20)]));
    let older = house.store.backup();
    house.store.commit(keys([key(21), revoked(20)]));
    let mut run = house.follower().await;
    house.store.restore(oldest);
    run.turn().await;
    assert_eq!(run.status(20), Some(Status::Revoked), "the store does not have it");
    run.drain().await;
    let mut run = house.follower().await;
    assert_eq!(run.status(20), Some(Status::Revoked), "after a restart too");
    house.store.restore(older);
    run.turn().await;
    assert_eq!(run.status(20), Some(Status::Revoked), "the store has it as live");
}

#[tokio::test]
async fn an_accepted_store_is_taken_over_once_even_where_the_file_that_says_so_is_lost() {
    let house = House::with(10);
    let backup = house.store.backup();
    house.store.commit(keys([revoked(1)]));
    let mut run = house.follower().await;
    house.store.restore(backup);
    house.store.accept();
    run.turn().await;
    assert_eq!(run.status(1), Some(Status::Active), "an operator said that this is meant");
    run.drain().await;
    std::fs::remove_file(house.state().join("accepted")).expect("what was taken over is written down");
    let mut run = house.follower().await;
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
    let house = House::with(2);
    let backup = house.store.backup();
    for number in 2..10 {
        house.store.commit(keys([key(number)]));
    }
    let mut run = house.follower().await;
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

/// A gateway that knew two rotations which a restored store has lost, one with a grace that has ended since.
async fn after_lost_rotations(house: &House) -> Run {
    let backup = house.store.backup();
    house.store.commit(keys([in_grace(1, 60), in_grace(2, 3600)]));
    let mut run = house.follower().await;
    house.clock.advance(Duration::from_secs(90));
    house.store.restore(backup);
    house.store.commit(keys([key(30)]));
    run.turn().await;
    assert_eq!((run.status(1), run.status(2)), (Some(Status::Superseded), Some(Status::Grace)));
    run
}

impl Run {
    /// Walks twice; what differed, and how often everything was read.
    async fn walked(&mut self) -> ([u64; 5], u64) {
        for _ in 0..2 {
            self.walk().await;
            self.turn().await;
        }
        (self.differences(), self.metrics.reloads.get())
    }
}

#[tokio::test]
async fn what_a_restored_store_was_told_again_is_no_difference_from_it() {
    let house = House::with(10);
    let mut run = after_lost_rotations(&house).await;
    assert_eq!(run.walked().await, ([0; 5], 2), "it is owed, and was told when it was found");
    // As it comes back by the feed where the store was told of it.
    house.store.commit(keys([revoked(1)]));
    run.turn().await;
    assert_eq!((run.status(1), run.metrics.alarms_of(Alarm::TakenBack)), (Some(Status::Revoked), 2));
    assert_eq!(run.walked().await, ([0; 5], 2));
    house.store.tamper(|keys, _| keys.get_mut(&key(2).id).expect("a key").states.disabled = true);
    assert_eq!(run.walked().await, ([0, 1, 0, 0, 0], 2));
    assert_eq!(run.status(2), Some(Status::Disabled), "all else is as the store has it");
    run.drain().await;
    let mut run = house.follower().await;
    assert_eq!(run.walked().await, ([0, 0, 0, 1, 0], 0), "another process does not know what was found");
}

#[tokio::test]
async fn a_key_that_was_superseded_and_is_told_again_as_revoked_is_no_difference() {
    let house = House::with(10);
    let backup = house.store.backup();
    let states = States { superseded: true, ..States::default() };
    house.store.commit(keys([Key { states, ..key(1) }]));
    let mut run = house.follower().await;
    house.store.restore(backup);
    house.store.commit(keys([revoked(1)]));
    house.store.commit(keys([key(30)]));
    run.turn().await;
    assert_eq!((run.status(30), run.status(1)), (Some(Status::Active), Some(Status::Revoked)));
    assert_eq!((run.metrics.alarms_of(Alarm::History), run.metrics.alarms_of(Alarm::TakenBack)), (1, 0));
    assert_eq!(run.walked().await, ([0; 5], 2));
}

#[tokio::test]
async fn a_rotation_that_a_restored_store_has_lost_is_told_to_it_once_the_grace_has_ended() {
    let mut house = House::with(10);
    let retells = house.retells();
    let mut run = after_lost_rotations(&house).await;
    let (ended, running) = (Subject::Key(key(1).id), Subject::Key(key(2).id));
    assert_eq!(retells.told.lock().as_slice(), std::slice::from_ref(&ended));
    house.clock.advance(Duration::from_secs(3600));
    run.turn().await;
    assert_eq!(*retells.told.lock(), [ended, running]);
    run.turn().await;
    let held = house.store.backup();
    assert!([1, 2].iter().all(|number| held.keys[&key(*number).id].states.revoked), "for who starts anew, too");
    assert_eq!((run.status(1), run.status(2)), (Some(Status::Revoked), Some(Status::Revoked)));
    assert_eq!((run.metrics.alarms_of(Alarm::TakenBack), run.walked().await), (2, ([0; 5], 2)));
}

#[tokio::test]
async fn a_grace_is_ended_in_the_store_for_good_only_once_it_has_ended_by_the_clocks_of_both() {
    let mut house = House::with(10);
    let retells = house.retells();
    *house.store.behind.lock() = Duration::from_secs(25 * 3600);
    let mut run = after_lost_rotations(&house).await;
    assert_eq!(run.metrics.alarms_of(Alarm::Clock), 1);
    assert!(retells.told.lock().is_empty(), "other gateways let it through, as was promised");
    for (hours, told) in [(24, 0), (1, 1), (1, 2)] {
        house.clock.advance(Duration::from_secs(hours * 3600));
        run.turn().await;
        assert_eq!(retells.told.lock().len(), told);
    }
    let held = house.store.backup();
    assert!([1, 2].iter().all(|number| held.keys[&key(*number).id].states.revoked));
}

#[tokio::test]
async fn what_the_store_was_told_while_a_walk_read_it_is_no_difference_and_what_it_says_after_that_is() {
    let mut house = House::with(10);
    let retells = house.retells();
    let mut run = after_lost_rotations(&house).await;
    house.clock.advance(Duration::from_secs(3600));
    run.sync.runner.reconciler.step().await;
    run.turn().await;
    assert_eq!(retells.told.lock().len(), 2, "it was told after it was read");
    run.sync.runner.follower.repair_all();
    run.turn().await;
    assert_eq!((run.metrics.alarms_of(Alarm::Reconcile), run.walked().await), (0, ([0; 5], 2)));
    house.store.tamper(|keys, _| keys.get_mut(&key(2).id).expect("a key").states.revoked = false);
    assert_eq!((run.walked().await, retells.told.lock().len()), (([0, 0, 0, 1, 0], 2), 3));
}

#[tokio::test]
async fn what_a_turn_has_read_is_reported_before_the_store_is_told_anything() {
    let mut house = House::with(10);
    let retells = house.retells();
    let mut run = after_lost_rotations(&house).await;
    house.clock.advance(Duration::from_secs(3600));
    let revision = house.store.commit(keys([revoked(3)]));
    let (applied, table) = (Arc::new(AtomicU64::new(0)), Arc::clone(&run.table));
    let at_telling = Arc::clone(&applied);
    retells.after(move |_store| at_telling.store(table.applied(), Ordering::SeqCst));
    run.turn().await;
    assert_eq!((retells.told.lock().len(), applied.load(Ordering::SeqCst)), (2, revision));
}

#[tokio::test]
async fn a_store_that_never_says_what_was_accepted_is_out_of_contact() {
    let house = House::with(10);
    house.follower().await.drain().await;
    house.store.set(Mood::KeepsItsHistory);
    let turn = tokio::time::timeout(Duration::from_secs(10), house.follower());
    let mut run = turn.await.expect("it is not waited for");
    assert!(run.table.contact_lost_at().is_some());
    assert_eq!((run.freshness(), run.status(1)), (Freshness::Fresh, Some(Status::Active)));
    house.store.set(Mood::Well);
    run.turn().await;
    assert_eq!(run.table.contact_lost_at(), None);
}

#[tokio::test]
async fn what_a_restored_store_is_owed_is_told_after_a_restart_unless_it_was_accepted() {
    let mut house = House::with(10);
    let backup = house.store.backup();
    house.store.commit(keys([revoked(3)]));
    house.follower().await.drain().await;
    house.store.restore(backup.clone());
    let run = after_lost_rotations(&house).await;
    assert_eq!(run.status(3), Some(Status::Revoked));
    run.drain().await;
    let retells = house.retells();
    let mut run = house.follower().await;
    assert!(retells.told.lock().is_empty(), "nothing was lost since it started");
    run.walked().await;
    let told = [Subject::Key(key(3).id), Subject::Key(key(1).id)];
    assert_eq!(*retells.told.lock(), told, "the other one's grace runs");
    house.store.restore(backup);
    house.store.accept();
    run.turn().await;
    house.clock.advance(Duration::from_secs(3600));
    assert_eq!(run.walked().await.0, [0, 0, 0, 3, 0], "each of them was found once, before");
    assert_eq!((run.status(1), run.status(2)), (Some(Status::Active), Some(Status::Active)));
    assert_eq!(*retells.told.lock(), told);
}

#[tokio::test]
async fn an_acceptance_that_comes_while_everything_is_read_is_heeded() {
    let mut house = House::with(10);
    let retells = house.retells();
    let backup = house.store.backup();
    house.store.commit(keys([revoked(1)]));
    let mut run = house.follower().await;
    house.store.restore(backup);
    house.store.commit(keys([key(30)]));
    house.store.accepts_once_asked.store(true, Ordering::SeqCst);
    run.turn().await;
    assert_eq!((run.status(30), run.status(1)), (Some(Status::Active), Some(Status::Active)));
    run.turn().await;
    assert!(retells.told.lock().is_empty() && run.metrics.alarms_of(Alarm::TakenBack) == 0);
}

#[tokio::test]
async fn an_acceptance_that_comes_while_a_restored_store_is_told_ends_the_telling() {
    let mut house = House::with(10);
    let retells = house.retells();
    let backup = house.store.backup();
    house.store.commit(keys([revoked(1), revoked(2)]));
    let mut run = house.follower().await;
    house.store.restore(backup);
    retells.after(FakeStore::accept);
    run.turn().await;
    assert_eq!((run.status(1), run.metrics.alarms_of(Alarm::TakenBack)), (Some(Status::Revoked), 2));
    for _ in 0..2 {
        run.turn().await;
        assert_eq!((run.status(1), run.status(2)), (Some(Status::Active), Some(Status::Active)));
    }
    assert!(retells.told.lock().is_empty());
}

#[tokio::test]
async fn a_turn_that_begins_before_somebody_waits_and_after_it_asked_for_one_is_enough() {
    let house = House::with(1);
    let run = house.follower().await;
    let begun = run.table.turns_begun();
    let turn = run.table.begin_turn();
    let waiting = run.table.wait_applied_after(begun, 1);
    run.table.end_turn(turn);
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it saw what was committed before");
}
