//! What the store commits, takes back, or replaces.

use std::time::Duration;

use tokio::sync::watch;

use super::{House, Run};
use crate::clock::Clock;
use crate::key::{Grants, Status};
use crate::store::{Row, StoreId};
use crate::sync::fake::{Mood, hash, key, keys, revoked, user};
use crate::sync::metrics::Alarm;
use crate::table::{Freshness, MissAnswer};

#[tokio::test]
async fn what_the_store_commits_is_enforced_and_reported() {
    let house = House::with(10);
    let mut run = house.run();
    assert_eq!(run.freshness(), Freshness::Empty);
    run.turn().await;
    assert_eq!(run.freshness(), Freshness::Fresh);
    assert_eq!((run.table.keys(), run.table.applied()), (10, 1));
    assert_eq!(run.status(3), Some(Status::Active));
    let changes = run.table.changes();
    house.store.commit(keys([revoked(3)]));
    run.turn().await;
    assert_eq!(run.status(3), Some(Status::Revoked));
    assert_eq!(run.table.applied(), 2);
    assert!(changes.has_changed().expect("the table lives"));
}

#[tokio::test]
async fn one_change_of_a_user_changes_all_its_keys() {
    let house = House::new();
    let mut rows = vec![Row::User(user("ann", &["jobs:read"]))];
    rows.extend(keys((0..3).map(|number| {
        let mut key = key(number);
        key.user = Some("ann".parse().expect("a user id"));
        key.grants = if number == 0 { Grants::Inherit } else { key.grants };
        key
    })));
    house.store.commit(rows);
    let mut run = house.follower().await;
    let meets = |run: &Run, number| {
        run.table.lookup(&hash(number)).expect("a known key").flags().meets(&"jobs:read".split('.'))
    };
    assert!(meets(&run, 0) && meets(&run, 1));
    house.store.commit(vec![Row::User(user("ann", &[]))]);
    run.turn().await;
    assert!(!meets(&run, 0) && !meets(&run, 1));
    let mut disabled = user("ann", &["jobs:read"]);
    disabled.active = false;
    house.store.commit(vec![Row::User(disabled)]);
    run.turn().await;
    for number in 0..3 {
        assert_eq!(run.status(number), Some(Status::UserDisabled));
    }
}

#[tokio::test]
async fn a_read_that_breaks_off_changes_nothing() {
    let house = House::with(1);
    let mut run = house.follower().await;
    house.store.set(Mood::BreaksOff);
    house.store.commit(keys([key(1)]));
    run.turn().await;
    assert_eq!((run.status(1), run.table.applied()), (None, 1));
    house.store.set(Mood::Well);
    run.turn().await;
    assert_eq!((run.status(1), run.table.applied()), (Some(Status::Active), 2));
}

#[tokio::test]
async fn a_restored_store_cannot_revive_what_was_revoked_here() {
    let house = House::with(10);
    let backup = house.store.backup();
    house.store.commit(keys([revoked(1)]));
    house.store.commit(keys([revoked(20)]));
    let mut run = house.follower().await;
    house.store.restore(backup);
    house.store.commit(keys([key(30)]));
    house.store.commit(keys([key(31)]));
    run.turn().await;
    assert_eq!(run.status(30), Some(Status::Active));
    assert_eq!(run.status(1), Some(Status::Revoked), "the store has it as live");
    assert_eq!(run.status(20), Some(Status::Revoked), "the store no longer has it");
    assert_eq!((run.metrics.alarms_of(Alarm::History), run.metrics.alarms_of(Alarm::TakenBack)), (1, 2));
    assert_eq!(run.table.applied(), 3);
    run.turn().await;
    assert_eq!(run.metrics.alarms_of(Alarm::History), 1);
    run.drain().await;
    let mut run = house.follower().await;
    assert_eq!(run.status(1), Some(Status::Revoked), "after a restart too");
    house.store.commit(keys([key(1)]));
    run.turn().await;
    assert_eq!(run.status(1), Some(Status::Revoked), "and when the store says otherwise again");
    assert_eq!(run.metrics.alarms_of(Alarm::TakenBack), 1);
}

#[tokio::test]
async fn a_restore_while_the_gateway_was_down_is_noticed_at_its_start() {
    let house = House::with(10);
    let backup = house.store.backup();
    house.store.commit(keys([revoked(1)]));
    house.follower().await.drain().await;
    house.store.restore(backup);
    let run = house.follower().await;
    assert_eq!((run.freshness(), run.status(1)), (Freshness::Fresh, Some(Status::Revoked)));
    assert_eq!(run.metrics.alarms_of(Alarm::TakenBack), 1);
}

#[tokio::test]
async fn a_reload_that_would_lose_too_many_keys_or_is_of_another_store_is_refused() {
    let house = House::with(2);
    let backup = house.store.backup();
    house.store.commit(keys((2..10).map(key)));
    let mut run = house.follower().await;
    house.store.restore(backup);
    run.turn().await;
    assert_eq!(run.table.keys(), 10);
    assert_eq!(run.metrics.alarms_of(Alarm::TooManyLost), 1);
    assert!(run.table.contact_lost_at().is_some());
    assert!(matches!(run.resolve(50).await, MissAnswer::UnknownYet));
    house.clock.advance(Duration::from_secs(60));
    run.turn().await;
    assert_eq!(run.metrics.alarms_of(Alarm::TooManyLost), 1, "nothing new is there to be read");
    house.store.commit(keys([key(11)]));
    run.turn().await;
    assert_eq!((run.table.keys(), run.metrics.alarms_of(Alarm::TooManyLost)), (10, 2));
    let mut other = house.store.backup();
    other.id = StoreId(8);
    house.store.restore(other);
    run.turn().await;
    assert_eq!((run.table.keys(), run.metrics.alarms_of(Alarm::OtherStore)), (10, 1));
}

#[tokio::test]
async fn a_lost_store_makes_the_table_stale_in_the_end() {
    let house = House::with(1);
    let mut run = house.follower().await;
    house.store.set(Mood::Gone);
    run.turn().await;
    assert_eq!(run.freshness(), Freshness::Fresh);
    house.clock.advance(Duration::from_secs(24 * 3600 + 1));
    run.turn().await;
    assert_eq!(run.freshness(), Freshness::Stale);
    assert_eq!(run.status(0), Some(Status::Active), "what is then done is the route's to say");
    house.store.set(Mood::Well);
    run.turn().await;
    assert_eq!(run.freshness(), Freshness::Fresh);
}

#[tokio::test]
async fn usage_is_written_in_order_and_counted_again_where_it_was_not_taken() {
    let house = House::with(3);
    let run = house.follower().await;
    let now = house.clock.now();
    let slot = |number| run.table.lookup(&hash(number)).expect("a known key").slot;
    run.table.used(slot(2), now.plus(Duration::from_secs(5)));
    run.table.used(slot(0), now);
    run.table.used(slot(0), now);
    house.store.set(Mood::TakesNoUsage);
    run.sync.runner.flusher.flush().await;
    house.store.set(Mood::Well);
    run.table.used(slot(0), now);
    run.sync.runner.flusher.flush().await;
    run.sync.runner.flusher.flush().await;
    let usage = house.store.backup().usage;
    let told: Vec<_> = usage.iter().map(|update| (update.key, update.count, update.last_used_at)).collect();
    assert_eq!(told, [(key(0).id, 3, now), (key(2).id, 1, now)], "no instant lies in the future");
}

#[tokio::test]
async fn a_running_follower_applies_a_commit_and_leaves_a_snapshot_when_it_is_stopped() {
    let house = House::with(1);
    let Run { sync, table, .. } = house.run();
    let (stop, stopped) = watch::channel(false);
    let running = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(sync.runner.run(stopped));
    });
    assert!(sync.handle.wait_applied(1, Duration::from_secs(10)).await);
    let revision = house.store.commit(keys([revoked(0)]));
    assert!(sync.handle.wait_applied(revision, Duration::from_secs(10)).await);
    assert!(!sync.handle.wait_applied(revision + 1, Duration::from_millis(1)).await);
    let slot = table.lookup(&hash(0)).expect("a known key").slot;
    table.used(slot, house.clock.now());
    stop.send(true).expect("the follower runs");
    running.join().expect("the follower ends");
    assert_eq!(house.store.backup().usage.len(), 1);
    let run = house.without_store().await;
    assert_eq!(run.status(0), Some(Status::Revoked));
}

#[tokio::test]
async fn what_was_found_in_a_history_that_is_lost_does_not_stay() {
    let house = House::with(10);
    let mut run = house.follower().await;
    let backup = house.store.backup();
    let owned = |number: u32| {
        let mut key = key(number);
        key.user = Some("ann".parse().expect("a user id"));
        Row::Key(Box::new(key))
    };
    house.store.commit(vec![]);
    house.store.commit(vec![Row::User(user("ann", &["jobs:read"])), owned(20)]);
    assert!(matches!(run.resolve(20).await, MissAnswer::Found(_)));
    house.store.restore(backup);
    let mut off = user("ann", &["jobs:read"]);
    off.active = false;
    house.store.commit(vec![Row::User(off), owned(21)]);
    house.store.commit(keys([key(22)]));
    house.store.commit(keys([key(23)]));
    run.turn().await;
    assert_eq!(run.status(20), None, "nobody could revoke it any more");
    assert_eq!(run.status(21), Some(Status::UserDisabled), "the user is as this history has it");
    assert_eq!(run.metrics.alarms_of(Alarm::History), 1);
}

#[tokio::test]
async fn a_fleet_does_not_read_everything_at_one_moment_and_serves_meanwhile() {
    let house = House::with(2_000);
    let backup = house.store.backup();
    house.store.commit(keys([revoked(1)]));
    let mut run = house.follower().await;
    house.store.restore(backup);
    run.turn().await;
    run.turn().await;
    assert_eq!((run.metrics.reloads.get(), run.metrics.alarms_of(Alarm::History)), (1, 1));
    assert_eq!((run.freshness(), run.table.contact_lost_at()), (Freshness::Fresh, None));
    assert_eq!((run.status(0), run.status(1)), (Some(Status::Active), Some(Status::Revoked)));
    house.clock.advance(Duration::from_millis(20));
    run.turn().await;
    assert_eq!((run.metrics.reloads.get(), run.metrics.alarms_of(Alarm::History)), (2, 1));
    assert_eq!((run.table.applied(), run.status(1)), (1, Some(Status::Revoked)));
}

#[tokio::test]
async fn a_history_that_is_found_out_by_what_a_miss_found_is_read_anew_however_long_that_takes() {
    let house = House::with(1_000);
    let mut run = house.follower().await;
    let backup = house.store.backup();
    house.store.commit(keys([key(2_000)]));
    assert!(matches!(run.resolve(2_000).await, MissAnswer::Found(_)));
    house.store.restore(backup.clone());
    house.store.commit(keys([key(2_001)]));
    for _ in 0..2 {
        run.turn().await;
        assert_eq!((run.metrics.reloads.get(), run.status(2_000)), (1, Some(Status::Active)), "its turn has not come");
    }
    house.clock.advance(Duration::from_millis(20));
    run.turn().await;
    assert_eq!((run.metrics.reloads.get(), run.status(2_000)), (2, None), "nobody could revoke it any more");
    assert_eq!((run.status(2_001), run.metrics.alarms_of(Alarm::History)), (Some(Status::Active), 1));
}

#[tokio::test]
async fn a_history_that_comes_back_before_it_was_read_anew_leaves_nothing_for_the_next() {
    let house = House::with(2_000);
    let backup = house.store.backup();
    house.store.commit(keys([revoked(1)]));
    let mut run = house.follower().await;
    let newest = house.store.backup();
    for alarms in 1..3 {
        house.store.restore(backup.clone());
        run.turn().await;
        assert_eq!((run.metrics.reloads.get(), run.metrics.alarms_of(Alarm::History)), (1, alarms));
        house.store.restore(newest.clone());
        run.turn().await;
        house.clock.advance(Duration::from_secs(60));
    }
    assert_eq!(run.metrics.reloads.get(), 1);
}
