//! Tokens that the table does not know.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{HERE, House};
use crate::clock::Clock;
use crate::key::Status;
use crate::store::Row;
use crate::sync::fake::{Mood, hash, key, keys, revoked, user};
use crate::table::MissAnswer;
use crate::wire::FailureLimit;

#[tokio::test]
async fn a_key_works_before_the_feed_has_brought_it() {
    let house = House::with(1);
    let mut run = house.follower().await;
    assert!(matches!(run.resolve(1).await, MissAnswer::Unknown));
    let mut owned = key(1);
    owned.user = Some("ann".parse().expect("a user id"));
    house.store.commit(vec![Row::User(user("ann", &["jobs:read"])), Row::Key(Box::new(owned))]);
    house.store.commit(keys([key(2)]));
    assert!(matches!(run.resolve(1).await, MissAnswer::Unknown), "looked for in vain just now");
    assert!(matches!(run.resolve(2).await, MissAnswer::Found(_)));
    assert_eq!(run.status(2), Some(Status::Active), "and is kept");
    house.clock.advance(Duration::from_secs(2));
    let MissAnswer::Found(record) = run.resolve(1).await else { panic!("the store has it") };
    assert!(record.standing.status(false, house.clock.now()).is_usable());
    run.turn().await;
    assert_eq!((run.table.keys(), run.table.applied()), (3, 3));
}

#[tokio::test]
async fn what_was_looked_for_in_vain_is_looked_for_again_after_any_change() {
    let house = House::with(1);
    let mut run = house.follower().await;
    assert!(matches!(run.resolve(1).await, MissAnswer::Unknown));
    assert!(matches!(run.resolve(1).await, MissAnswer::Unknown));
    assert_eq!(house.store.finds.load(Ordering::SeqCst), 1);
    house.store.commit(keys([revoked(0)]));
    run.turn().await;
    assert!(matches!(run.resolve(1).await, MissAnswer::Unknown));
    assert_eq!(house.store.finds.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn many_who_ask_for_one_token_cost_one_read_and_one_who_leaves_stops_nobody() {
    let house = House::with(1);
    let run = house.follower().await;
    house.store.commit(keys([key(1)]));
    let all = house.store.gate.acquire_many(1_000_000).await.expect("the gate is open");
    let (now, wanted) = (house.clock.now(), hash(1));
    let ask = || Box::pin(run.sync.misses.resolve(wanted, HERE, now).answer());
    let mut first = ask();
    assert!(futures_poll_once(&mut first).is_none());
    let mut others: Vec<_> = (0..20).map(|_| ask()).collect();
    for other in &mut others {
        assert!(futures_poll_once(other).is_none());
    }
    assert_eq!(house.store.finds.load(Ordering::SeqCst), 1);
    drop(first);
    for other in &mut others {
        assert!(futures_poll_once(other).is_none());
    }
    assert_eq!(house.store.finds.load(Ordering::SeqCst), 2, "another went on");
    drop(all);
    for other in others {
        assert!(matches!(other.await, MissAnswer::Found(_)));
    }
    assert_eq!(house.store.finds.load(Ordering::SeqCst), 2);
}

fn futures_poll_once<F: Future + ?Sized>(future: &mut std::pin::Pin<Box<F>>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn junk_is_limited_by_client_and_by_the_whole() {
    let mut house = House::new();
    house.settings.failure_limit = FailureLimit { per_second: 10, burst: 5, ..FailureLimit::default() };
    house.settings.misses_per_second = 3;
    house.store.commit(keys([key(0)]));
    let run = house.follower().await;
    for number in 100..103 {
        assert!(matches!(run.resolve(number).await, MissAnswer::Unknown));
    }
    for number in 103..105 {
        assert!(matches!(run.resolve(number).await, MissAnswer::Overloaded));
    }
    let MissAnswer::TooManyFailures { retry_after } = run.resolve(105).await else { panic!("the share is used up") };
    assert_eq!(retry_after, Duration::from_millis(100));
    assert_eq!(house.store.finds.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_unknown_token_is_not_called_bad_for_a_while_after_the_store_was_lost() {
    let house = House::with(1);
    let mut run = house.run();
    assert!(matches!(run.resolve(1).await, MissAnswer::UnknownYet), "nothing is loaded");
    run.turn().await;
    house.store.set(Mood::Gone);
    assert!(matches!(run.resolve(1).await, MissAnswer::UnknownYet));
    house.clock.advance(Duration::from_secs(59));
    assert!(matches!(run.resolve(1).await, MissAnswer::UnknownYet));
    house.clock.advance(Duration::from_secs(1));
    assert!(matches!(run.resolve(1).await, MissAnswer::Unknown));
    house.store.set(Mood::Well);
    house.store.commit(keys([key(1)]));
    run.turn().await;
    assert_eq!(run.status(1), Some(Status::Active));
}

#[tokio::test]
async fn a_key_that_only_the_feed_may_bring_is_found_once_the_feed_has_brought_it() {
    let house = House::new();
    house.store.commit(vec![Row::User(user("ann", &["jobs:read"]))]);
    let mut run = house.follower().await;
    // What is new of a user that is known has to be remembered, and the feed does that.
    house.store.commit(vec![Row::User(user("ann", &["jobs:write"]))]);
    let mut owned = key(1);
    owned.user = Some("ann".parse().expect("a user id"));
    house.store.commit(vec![Row::Key(Box::new(owned))]);
    let (misses, hash) = (Arc::clone(&run.sync.misses), hash(1));
    let mut found = Box::pin(misses.resolve(hash, HERE, house.clock.now()).answer());
    assert!(futures_poll_once(&mut found).is_none(), "a stream of it would be cut as that of an unknown key");
    run.turn().await;
    let MissAnswer::Found(record) = found.await else { panic!("the store has it") };
    assert!(record.standing.status(false, house.clock.now()).is_usable());
    assert_eq!(run.status(1), Some(Status::Active));
}
