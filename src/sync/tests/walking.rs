//! What a walk over the whole store finds.

use super::{House, Run};
use crate::key::Status;
use crate::store::Row;
use crate::sync::fake::{Mood, key, keys, revoked, user};
use crate::sync::metrics::Alarm;
use crate::sync::reconcile::Went;

#[tokio::test]
async fn what_a_walk_finds_otherwise_is_put_right_and_told() {
    let house = House::new();
    let mut rows = vec![Row::User(user("ann", &["jobs:read"]))];
    rows.extend(keys((0..10).map(key)));
    house.store.commit(rows);
    let mut run = house.run();
    assert_eq!(run.walk().await, Went::Off, "there is nothing to compare yet");
    run.turn().await;
    assert_eq!((run.walk().await, run.differences()), (Went::Through, [0; 5]));
    house.store.tamper(|keys, users| {
        keys.get_mut(&key(1).id).expect("a key").states.disabled = true;
        let mut appears = key(20);
        appears.stamp.revision = 1;
        keys.insert(appears.id, appears);
        keys.remove(&key(5).id);
        users.values_mut().for_each(|user| user.active = false);
    });
    house.store.commit(keys([key(30)]));
    assert_eq!(run.walk().await, Went::Through);
    assert_eq!(run.differences(), [1, 2, 1, 0, 0], "what is new is left to the feed");
    assert_eq!(run.metrics.alarms_of(Alarm::Reconcile), 4);
    let put_right = |run: &Run| {
        assert_eq!((run.status(0), run.status(1)), (Some(Status::Active), Some(Status::Disabled)));
        assert_eq!((run.status(20), run.status(5)), (Some(Status::Active), Some(Status::Disabled)));
    };
    put_right(&run);
    run.turn().await;
    assert_eq!((run.status(30), run.walk().await), (Some(Status::Active), Went::Through));
    assert_eq!(run.differences(), [1, 2, 1, 0, 0], "each is found once");
    run.drain().await;
    let mut run = house.without_store().await;
    put_right(&run);
    house.store.set(Mood::Well);
    house.store.tamper(|keys, _| keys.get_mut(&key(1).id).expect("a key").states.disabled = false);
    run.turn().await;
    run.walk().await;
    assert_eq!(run.status(1), Some(Status::Active), "a repair can be repaired");
    house.store.tamper(|keys, _| keys.get_mut(&key(1).id).expect("a key").states.disabled = true);
    run.walk().await;
    assert_eq!(run.status(1), Some(Status::Disabled), "at the same revision too");
    house.store.commit(keys([key(1)]));
    run.turn().await;
    assert_eq!(run.status(1), Some(Status::Active), "and the feed goes on");
}

#[tokio::test]
async fn a_walk_revives_nothing_and_leaves_a_store_that_lacks_too_much_alone() {
    let house = House::new();
    house.store.commit(keys((0..10).map(|number| if number == 1 { revoked(1) } else { key(number) })));
    let mut run = house.follower().await;
    house.store.tamper(|keys, _| {
        keys.get_mut(&key(1).id).expect("a key").states.revoked = false;
        keys.retain(|id, _| id.bits() <= 5);
    });
    assert_eq!(run.walk().await, Went::Through);
    assert_eq!(run.status(1), Some(Status::Revoked));
    assert_eq!((run.status(8), run.differences()), (Some(Status::Active), [0, 0, 5, 1, 0]));
    assert_eq!(run.metrics.alarms_of(Alarm::TooManyLost), 1);
}

#[tokio::test]
async fn a_walk_over_a_store_that_went_back_changes_nothing() {
    let house = House::with(10);
    let backup = house.store.backup();
    house.store.commit(keys([revoked(1), key(11)]));
    let mut run = house.follower().await;
    house.store.restore(backup);
    assert_eq!((run.walk().await, run.differences()), (Went::Off, [0; 5]));
    house.store.commit(keys([key(12), key(13)]));
    assert_eq!((run.walk().await, run.differences()), (Went::Off, [0; 5]), "nor where the counter has caught up");
    assert_eq!((run.status(1), run.status(11)), (Some(Status::Revoked), Some(Status::Active)));
}

#[tokio::test]
async fn where_too_much_differs_everything_is_read_anew() {
    let house = House::with(1_200);
    let mut run = house.follower().await;
    house.store.tamper(|keys, _| keys.values_mut().for_each(|key| key.states.disabled = true));
    run.walk().await;
    assert_eq!(run.metrics.reloads.get(), 1);
    run.turn().await;
    assert_eq!((run.metrics.reloads.get(), run.status(1_100)), (2, Some(Status::Disabled)));
    assert_eq!((run.walk().await, run.differences()), (Went::Through, [0, 1_200, 0, 0, 0]));
}
