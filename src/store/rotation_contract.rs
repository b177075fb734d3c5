//! What every store keeps to where announcements are kept. A store joins with one line, as for the
//! rest of the contract: `rotation_contract!(fixture)`.

use std::time::Duration;

use super::contract::{Fixture, at, key, user, write, write_key};
use super::*;
use crate::key::*;

/// Runs the contract of announcements against the stores that `$fixture` makes.
macro_rules! rotation_contract {
    ($fixture:ident) => {
        $crate::store::rotation_contract::rotation_contract!($fixture:
            a_date_is_announced_once_and_another_date_again,
            only_keys_that_work_and_have_a_url_are_announced,
            an_end_is_announced_once_from_the_events,
            a_delivery_is_leased_to_one_until_the_lease_ends,
            no_host_has_more_than_its_share,
            no_project_has_more_than_its_share,
            what_an_attempt_came_to_is_kept,
            two_gateways_take_each_date_on_once,
            counts_tell_what_is_due_and_what_waits,
        );
    };
    ($fixture:ident: $($name:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::store::rotation_contract::$name($fixture()).await;
        })*
    };
}
pub(super) use rotation_contract;

const NOTICE: Duration = Duration::from_secs(100);

fn of(store: &SharedStore) -> &dyn RotationStore {
    store.rotation().expect("this store keeps announcements")
}

fn hooked(number: u8, next_at: i64) -> Key {
    let rotation = Rotation {
        interval_days: Some(1),
        next_at: Some(at(next_at)),
        webhook_url: Some("https://example.com/".to_owned()),
        ..Rotation::default()
    };
    Key { rotation, ..key(number) }
}

fn delivery(number: u8, notice: &Notice, host: &str) -> NewDelivery {
    NewDelivery {
        id: DeliveryId::from_bits(u128::from(number)),
        key: notice.key.id,
        lineage: notice.key.lineage,
        kind: notice.kind,
        at: notice.at,
        host: host.to_owned(),
        body: format!("body {number}"),
    }
}

async fn found(store: &SharedStore) -> (Vec<(NoticeKind, KeyId)>, Unannounced) {
    let found = of(store).unannounced(NOTICE, 100).await.expect("an answer");
    (found.notices.iter().map(|notice| (notice.kind, notice.key.id)).collect(), found)
}

async fn announce(store: &SharedStore, first: u8, host: &str) -> usize {
    let (_, found) = found(store).await;
    let deliveries = (first..).zip(&found.notices).map(|(number, notice)| delivery(number, notice, host)).collect();
    of(store).announce(deliveries, found.read).await.expect("taken on")
}

fn claim_by(owner: u128) -> Claim {
    Claim { owner, lease: Duration::from_secs(60), limit: 10, per_host: 4, per_project: 10 }
}

async fn claimed(store: &SharedStore, claim: Claim) -> Vec<DeliveryId> {
    let claimed = of(store).claim(claim).await.expect("an answer");
    claimed.iter().map(|claimed| claimed.delivery.id).collect()
}

fn settled(id: u128, owner: u128, state: DeliveryState, next: i64) -> Settlement {
    let told = "answered 500".to_owned();
    Settlement { id: DeliveryId::from_bits(id), owner, state, next_attempt_at: at(next), told }
}

pub(super) async fn a_date_is_announced_once_and_another_date_again(f: Fixture) {
    f.clock.set(at(5000));
    let due = hooked(1, 5000);
    let ending = Key { expires_at: Some(at(5100)), ..hooked(2, 9000) };
    write(&f.store, vec![write_key(due.clone()), write_key(ending.clone()), write_key(hooked(3, 5001))])
        .await
        .expect("a commit");
    let (kinds, _) = found(&f.store).await;
    assert_eq!(kinds, [(NoticeKind::RotationDue, due.id), (NoticeKind::Expiring, ending.id)]);
    assert_eq!(announce(&f.store, 1, "a").await, 2);
    let again = (f.again)();
    assert_eq!(found(&again).await.0, [], "it is remembered, whoever looks");
    f.clock.set(at(5001));
    assert_eq!(found(&f.store).await.0, [(NoticeKind::RotationDue, hooked(3, 0).id)]);
    write(&f.store, vec![write_key(hooked(1, 4999))]).await.expect("a commit");
    assert_eq!(found(&f.store).await.0[0], (NoticeKind::RotationDue, due.id), "another date");
    let before = f.store.poll(Cursor::default()).await.expect("a poll").newest;
    announce(&f.store, 9, "a").await;
    assert_eq!(f.store.poll(Cursor::default()).await.expect("a poll").newest, before, "no revision is used");
}

pub(super) async fn only_keys_that_work_and_have_a_url_are_announced(f: Fixture) {
    f.clock.set(at(5000));
    let off = User { active: false, ..user("off") };
    let plain = Key { rotation: Rotation { webhook_url: None, ..hooked(1, 1).rotation }, ..key(1) };
    let keys = [
        plain,
        Key { states: States { disabled: true, ..States::default() }, ..hooked(2, 1) },
        Key { states: States { revoked: true, ..States::default() }, ..hooked(3, 1) },
        Key { states: States { superseded: true, ..States::default() }, ..hooked(4, 1) },
        Key { expires_at: Some(at(5000)), ..hooked(5, 1) },
        Key { user: Some("off".parse().expect("a user")), ..hooked(6, 1) },
        Key { grace_expires_at: Some(at(4000)), replaced_by: Some(key(1).id), ..hooked(7, 1) },
        Key { replaced_by: Some(key(1).id), expires_at: Some(at(5010)), ..hooked(8, 9000) },
        hooked(9, 5000),
    ];
    let event = NewEvent { kind: EventKind::UserCreated, changes: Default::default() };
    let users = [Change { row: Row::User(off), event }];
    let rows = users.into_iter().chain(keys.into_iter().map(write_key)).collect();
    write(&f.store, rows).await.expect("a commit");
    let first = of(&f.store).unannounced(NOTICE, 1).await.expect("an answer");
    assert!(first.more && first.notices.len() == 1, "what does not count does not fill the limit: {first:?}");
    assert_eq!(found(&f.store).await.0, [(NoticeKind::RotationDue, key(9).id)]);
}

fn ended(kind: EventKind, key: Key) -> Change {
    Change { row: Row::Key(Box::new(key)), event: NewEvent { kind, changes: Default::default() } }
}

pub(super) async fn an_end_is_announced_once_from_the_events(f: Fixture) {
    f.clock.set(at(5000));
    write(&f.store, vec![write_key(hooked(1, 9000)), write_key(hooked(2, 9000)), write_key(key(3))])
        .await
        .expect("a commit");
    let ends = vec![
        ended(EventKind::KeyRotated, hooked(1, 9000)),
        ended(EventKind::KeyRevoked, hooked(2, 9000)),
        ended(EventKind::KeyRevoked, key(3)),
        ended(EventKind::KeyUpdated, hooked(1, 9000)),
    ];
    write(&f.store, ends).await.expect("a commit");
    let (kinds, unread) = found(&f.store).await;
    assert_eq!(kinds, [(NoticeKind::Rotated, key(1).id), (NoticeKind::Revoked, key(2).id)]);
    assert!(unread.notices.iter().all(|notice| notice.at == at(5000)));
    assert_eq!(unread.read.1, Stamp { revision: 2, ordinal: 3 });
    assert_eq!(announce(&f.store, 1, "a").await, 2);
    let late = unread.notices.iter().map(|notice| delivery(9, notice, "a")).collect();
    assert_eq!(of(&f.store).announce(late, unread.read).await.expect("an answer"), 0, "somebody else read on");
    assert_eq!(found(&(f.again)()).await.0, []);
    let told = of(&f.store).deliveries(key(1).lineage, 10).await.expect("an answer");
    assert_eq!((told.len(), told[0].kind, told[0].body.as_str()), (1, NoticeKind::Rotated, "body 1"));
}

pub(super) async fn a_delivery_is_leased_to_one_until_the_lease_ends(f: Fixture) {
    f.clock.set(at(5000));
    write(&f.store, vec![write_key(hooked(1, 1))]).await.expect("a commit");
    announce(&f.store, 1, "a").await;
    let (one, other) = (claim_by(1), claim_by(2));
    let claimed_first = of(&f.store).claim(one).await.expect("an answer");
    assert_eq!((claimed_first.len(), claimed_first[0].key.id), (1, key(1).id));
    assert_eq!(claimed(&(f.again)(), other).await, []);
    assert_eq!(claimed(&f.store, one).await, [], "nor to the same a second time");
    f.clock.set(at(5059));
    assert_eq!(claimed(&f.store, other).await, []);
    f.clock.set(at(5060));
    assert_eq!(claimed(&f.store, other).await, [DeliveryId::from_bits(1)]);
    let lost = settled(1, 1, DeliveryState::Pending, 5061);
    of(&f.store).settle(lost).await.expect("an answer");
    f.clock.set(at(5061));
    assert_eq!(claimed(&f.store, one).await, [], "a failure of whoever lost the lease does not end it");
    of(&f.store).settle(settled(1, 1, DeliveryState::Delivered, 0)).await.expect("an answer");
    f.clock.set(at(6000));
    assert_eq!(claimed(&f.store, one).await, [], "what was taken is taken, whoever sent it");
}

pub(super) async fn no_host_has_more_than_its_share(f: Fixture) {
    f.clock.set(at(5000));
    write(&f.store, (1..=6).map(|number| write_key(hooked(number, 1))).collect()).await.expect("a commit");
    announce(&f.store, 1, "slow").await;
    f.clock.set(at(5001));
    write(&f.store, (7..=8).map(|number| write_key(hooked(number, 1))).collect()).await.expect("a commit");
    announce(&f.store, 7, "fast").await;
    let two = |owner| Claim { per_host: 2, ..claim_by(owner) };
    let ids = |ids: &[u128]| ids.iter().map(|id| DeliveryId::from_bits(*id)).collect::<Vec<_>>();
    assert_eq!(claimed(&f.store, Claim { limit: 1, ..two(1) }).await, ids(&[1]));
    assert_eq!(claimed(&f.store, two(2)).await, ids(&[2, 7, 8]));
    assert_eq!(claimed(&f.store, two(3)).await, []);
    of(&f.store).settle(settled(1, 1, DeliveryState::Delivered, 0)).await.expect("an answer");
    assert_eq!(claimed(&f.store, two(3)).await, ids(&[3]));
}

pub(super) async fn no_project_has_more_than_its_share(f: Fixture) {
    f.clock.set(at(5000));
    write(&f.store, (1..=6).map(|number| write_key(hooked(number, 1))).collect()).await.expect("a commit");
    let (_, unread) = found(&f.store).await;
    // A host each, so that no host stands in the way.
    let spread = unread.notices.iter().zip(1..).map(|(notice, number)| delivery(number, notice, &number.to_string()));
    of(&f.store).announce(spread.collect(), unread.read).await.expect("an answer");
    f.clock.set(at(5001));
    let other = |number| Key { project: "other".parse().ok(), ..hooked(number, 1) };
    write(&f.store, (7..=8).map(|number| write_key(other(number))).collect()).await.expect("a commit");
    announce(&f.store, 7, "late").await;
    let three = |owner, limit| Claim { per_project: 3, limit, ..claim_by(owner) };
    let ids = |ids: &[u128]| ids.iter().map(|id| DeliveryId::from_bits(*id)).collect::<Vec<_>>();
    assert_eq!(claimed(&f.store, three(1, 2)).await, ids(&[1, 7]), "they take turns");
    assert_eq!(claimed(&f.store, three(2, 10)).await, ids(&[2, 8, 3]), "and neither has more than three");
    assert_eq!(claimed(&f.store, three(3, 10)).await, []);
    of(&f.store).settle(settled(1, 1, DeliveryState::Delivered, 0)).await.expect("an answer");
    assert_eq!(claimed(&f.store, three(3, 10)).await, ids(&[4]));
}

pub(super) async fn what_an_attempt_came_to_is_kept(f: Fixture) {
    f.clock.set(at(5000));
    write(&f.store, vec![write_key(hooked(1, 1))]).await.expect("a commit");
    announce(&f.store, 1, "a").await;
    claimed(&f.store, claim_by(1)).await;
    of(&f.store).settle(settled(1, 1, DeliveryState::Pending, 5300)).await.expect("an answer");
    let store = (f.again)();
    let stands = || async { of(&store).deliveries(key(1).lineage, 1).await.expect("an answer").remove(0) };
    let pending = stands().await;
    assert_eq!((pending.attempts, pending.next_attempt_at, pending.state), (1, at(5300), DeliveryState::Pending));
    assert_eq!((pending.told.as_str(), pending.created_at), ("answered 500", at(5000)));
    f.clock.set(at(5299));
    assert_eq!(claimed(&store, claim_by(2)).await, []);
    f.clock.set(at(5300));
    assert_eq!(claimed(&store, claim_by(2)).await, [DeliveryId::from_bits(1)]);
    of(&store).settle(settled(1, 2, DeliveryState::GivenUp, 0)).await.expect("an answer");
    assert_eq!(stands().await.state, DeliveryState::GivenUp);
    assert_eq!(of(&store).forget_deliveries(at(5300)).await.expect("an answer"), 0);
    assert_eq!(of(&store).forget_deliveries(at(5301)).await.expect("an answer"), 1);
    assert_eq!(of(&store).deliveries(key(1).lineage, 1).await.expect("an answer"), []);
}

pub(super) async fn two_gateways_take_each_date_on_once(f: Fixture) {
    f.clock.set(at(5000));
    write(&f.store, (1..=50).map(|number| write_key(hooked(number, 1))).collect()).await.expect("a commit");
    let other = (f.again)();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, store) in (0u8..).zip([&f.store, &other, &f.store, &other]) {
        let store = std::sync::Arc::clone(store);
        tasks.spawn(async move { announce(&store, number * 60 + 1, &number.to_string()).await });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<usize>(), 50);
    let mut tasks = tokio::task::JoinSet::new();
    for (owner, store) in (0..).zip([&f.store, &other, &f.store, &other]) {
        let store = std::sync::Arc::clone(store);
        tasks.spawn(async move {
            claimed(&store, Claim { limit: 100, per_host: 100, per_project: 100, ..claim_by(owner) }).await.len()
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<usize>(), 50, "each is leased to one");
}

pub(super) async fn counts_tell_what_is_due_and_what_waits(f: Fixture) {
    let day = 24 * 60 * 60;
    f.clock.set(at(day + 5000));
    let plain = Key { rotation: Rotation { webhook_url: None, ..hooked(3, 5000).rotation }, ..key(3) };
    let rows = vec![write_key(hooked(1, day + 5000)), write_key(hooked(2, day + 5001)), write_key(plain)];
    write(&f.store, rows).await.expect("a commit");
    announce(&f.store, 1, "a").await;
    let counts = of(&f.store).rotation_counts().await.expect("an answer");
    assert_eq!((counts.due, counts.overdue), (2, 1));
    assert_eq!((counts.pending, counts.oldest_pending, counts.now), (1, Some(at(day + 5000)), at(day + 5000)));
}
