//! What every store keeps to that can be copied and knows of restored backups. A store joins with one line,
//! as for the rest of the contract: `copy_contract!(fixture)`, where each call makes a store of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use super::contract::{Fixture, at, key, newest, user, write, write_key};
use super::staging_contract::{staging, take_in};
use super::*;
use crate::key::*;

/// Runs the contract of copies against the stores that `$fixture` makes.
macro_rules! copy_contract {
    ($fixture:ident) => {
        $crate::store::copy_contract::copy_contract!($fixture:
            a_copy_is_the_same_in_every_row,
            a_copy_goes_on_where_it_stopped_and_takes_over_what_changed,
            a_copy_takes_the_place_of_nothing,
            what_gateways_told_a_restored_store_again_is_taken_back,
            what_somebody_else_ended_too_stays_ended_in_an_accepted_backup,
        );
    };
    ($fixture:ident: $($name:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::store::copy_contract::$name($fixture(), $fixture()).await;
        })*
    };
}
pub(super) use copy_contract;

fn part(store: &SharedStore) -> &dyn CopyStore {
    store.copies().expect("this store can be copied")
}

fn history(store: &SharedStore) -> &dyn HistoryStore {
    store.history().expect("this store knows of restored backups")
}

async fn copied(from: &SharedStore, to: &SharedStore) -> Result<Copied, CopyFault> {
    copy(part(from), part(to), &mut |_step| {}).await
}

async fn rows(store: &SharedStore, table: CopyTable) -> Vec<CopyRow> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = part(store).rows(table, after, 2).await.expect("rows");
        let Some(last) = page.last() else { break };
        after = Some(last.iter().take(table.key_width()).cloned().collect());
        all.extend(page);
    }
    assert_eq!(part(store).count(table).await.expect("a count"), u64::try_from(all.len()).expect("few"));
    all
}

async fn assert_same(one: &SharedStore, other: &SharedStore) {
    for &table in CopyTable::ALL {
        assert_eq!(rows(one, table).await, rows(other, table).await, "{table:?}");
    }
    assert_eq!(part(one).head().await.expect("a head"), part(other).head().await.expect("a head"));
    assert_eq!(keys(one).await, keys(other).await);
    assert_eq!(events(one).await, events(other).await);
}

async fn keys(store: &SharedStore) -> Vec<OwnedKey> {
    let page = store.list_keys(KeyQuery::default()).await.expect("a list");
    page.keys.into_iter().map(|(key, user, _)| (key, user)).collect()
}

async fn events(store: &SharedStore) -> Vec<Event> {
    store.list_events(EventQuery::default()).await.expect("events")
}

fn event(kind: EventKind) -> NewEvent {
    NewEvent { kind, changes: BTreeMap::new() }
}

/// A store with something in each of its parts.
async fn fill(store: &SharedStore) {
    store.check_secret(3, [3; 32]).await.expect("a secret");
    let ann = Change { row: Row::User(user("ann")), event: event(EventKind::UserCreated) };
    let mut of_ann = key(2);
    of_ann.user = Some("ann".parse().expect("a user id"));
    of_ann.props = BTreeMap::from([("a".to_owned(), "ü".to_owned())]);
    of_ann.grants = Grants::Inherit;
    write(store, vec![ann, write_key(key(1)), write_key(of_ann)]).await.expect("a commit");
    // Keys of an import that was taken in, and some of one that was not.
    store.stage(staging(StageId(7), (10..15).map(key))).await.expect("a stage");
    take_in(store, StageId(7), 5).await.expect("a commit");
    store.stage(staging(StageId(8), (20..23).map(key))).await.expect("a stage");
    write(store, vec![write_key(key(3))]).await.expect("a commit");
    let used = UsageUpdate { key: key(1).id, last_used_at: at(900), count: 4 };
    store.record_usage("gateway".to_owned(), vec![used]).await.expect("it is written");
    let tally = RefusalTally {
        minute: at(960),
        actor: Actor::Key(key(1).id),
        from: "192.0.2.1".parse().ok(),
        operation: "create".to_owned(),
        code: "may_not_grant".to_owned(),
        subject: None,
        count: 2,
        last_at: at(970),
    };
    store.record_refusals(vec![tally]).await.expect("it is written");
}

pub(super) async fn a_copy_is_the_same_in_every_row(from: Fixture, to: Fixture) {
    fill(&from.store).await;
    let done = copied(&from.store, &to.store).await.expect("a copy");
    assert_eq!(done.head.newest, newest(&from.store).await);
    assert!(done.verified > 0 && done.written == done.verified, "{done:?}");
    let (source, copy) = (from.store, (to.again)());
    assert_same(&source, &copy).await;
    assert_eq!(copy.id(), source.id());
    check_secrets(&*copy, &[(3, [3; 32])]).await.expect("it is whole");
    // It goes on like any other.
    let next = write(&copy, vec![write_key(key(30))]).await.expect("a commit");
    assert_eq!(next.revision, done.head.newest.revision + 1);
    let listed = copy.list_keys(KeyQuery { limit: 1, ..KeyQuery::default() }).await.expect("a list");
    assert_eq!(listed.keys.first().map(|(newest, ..)| newest.id), Some(key(30).id));
}

pub(super) async fn a_copy_goes_on_where_it_stopped_and_takes_over_what_changed(from: Fixture, to: Fixture) {
    fill(&from.store).await;
    // As far as a copy comes that is broken off, with a row that has changed since and one that has gone.
    let (source, target) = (part(&from.store), part(&to.store));
    target.begin_copy(from.store.id()).await.expect("it is empty");
    let mut users = rows(&from.store, CopyTable::Users).await;
    let mut gone = users.first().expect("a user").clone();
    if let Some(id) = gone.first_mut() {
        *id = Value::Text("eve".to_owned());
    }
    users.push(gone);
    if let Some(flags) = users.first_mut().and_then(|user| user.get_mut(2)) {
        *flags = Value::Text("other".to_owned());
    }
    target.write_rows(CopyTable::Users, users).await.expect("they are written");
    let first = source.rows(CopyTable::Keys, None, 1).await.expect("a row");
    target.write_rows(CopyTable::Keys, first).await.expect("it is written");
    let refused = check_secrets(&*(to.again)(), &[(3, [3; 32])]).await;
    assert!(matches!(refused, Err(StoreError::Unfinished { .. })), "{refused:?}");
    write(&from.store, vec![write_key(key(4))]).await.expect("a commit");
    let done = copied(&from.store, &to.store).await.expect("a copy");
    assert!(done.written < done.verified + 1, "what was there is not written again: {done:?}");
    assert_same(&from.store, &(to.again)()).await;
}

pub(super) async fn a_copy_takes_the_place_of_nothing(from: Fixture, to: Fixture) {
    fill(&from.store).await;
    write(&to.store, vec![write_key(key(9))]).await.expect("a commit");
    let refused = copied(&from.store, &to.store).await;
    assert!(matches!(refused, Err(CopyFault::Occupied)), "{refused:?}");
    let itself = copied(&from.store, &(from.again)()).await;
    assert!(matches!(itself, Err(CopyFault::AlreadyThere { .. })), "{itself:?}");
    // Rows are written into copies alone.
    let row = rows(&from.store, CopyTable::Users).await;
    assert!(part(&to.store).write_rows(CopyTable::Users, row).await.is_err());
    assert!(part(&to.store).finish_copy(part(&from.store).head().await.expect("a head")).await.is_err());
    assert_eq!(rows(&to.store, CopyTable::Keys).await.len(), 1);
}

async fn ended(store: &SharedStore, login: &str, change: Change) {
    let actor = Actor::Local(login.to_owned());
    let plan = move |_: &Reading| Ok(Changes::by(actor.clone(), vec![change.clone()]));
    let outcome = store.mutate(ReadRequest::default(), Box::new(plan)).await.expect("a commit");
    assert!(outcome.is_ok());
}

fn revoked(number: u8) -> Change {
    let mut key = key(number);
    key.states.revoked = true;
    key.revoked_at = Some(at(1000));
    Change { row: Row::Key(Box::new(key)), event: event(EventKind::KeyRevoked) }
}

pub(super) async fn what_gateways_told_a_restored_store_again_is_taken_back(fixture: Fixture, _other: Fixture) {
    let store = &fixture.store;
    let ann = Change { row: Row::User(user("ann")), event: event(EventKind::UserCreated) };
    write(store, vec![ann, write_key(key(1)), write_key(key(2)), write_key(key(3))]).await.expect("a commit");
    // Two that are to be rotated daily, and one of them was.
    let daily = |number: u8, replaced_by| {
        let rotation = Rotation { interval_days: Some(1), ..Rotation::default() };
        Key { rotation, replaced_by, ..key(number) }
    };
    let daily = [daily(4, None), daily(5, Some(key(4).id))];
    write(store, daily.clone().map(write_key).to_vec()).await.expect("a commit");
    let gone = User { deleted: true, ..user("ann") };
    ended(store, "somebody", revoked(1)).await;
    ended(store, GATEWAY_LOGIN, revoked(2)).await;
    let middle = newest(store).await;
    ended(store, GATEWAY_LOGIN, revoked(3)).await;
    for key in daily {
        let key = Key { states: States { revoked: true, ..key.states }, revoked_at: Some(at(1000)), ..key };
        ended(store, GATEWAY_LOGIN, Change { row: Row::Key(Box::new(key)), event: event(EventKind::KeyRevoked) }).await;
    }
    ended(store, GATEWAY_LOGIN, Change { row: Row::User(gone), event: event(EventKind::UserDeleted) }).await;
    let before = newest(store).await;
    let told = |retold: &[Retold]| retold.iter().map(|one| one.subject.clone()).collect::<Vec<_>>();
    let user = Subject::User("ann".parse().expect("a user id"));
    let late = vec![Subject::Key(key(3).id), Subject::Key(key(4).id), Subject::Key(key(5).id), user];
    assert_eq!(told(&history(store).retold(middle.revision).await.expect("an answer")), late);
    assert_eq!(history(store).acceptances().await.expect("an answer"), []);

    let actor = Actor::Local("ann".to_owned());
    let (acceptance, retold) = history(store).accept(actor.clone(), middle.revision).await.expect("it is accepted");
    assert_eq!((told(&retold), acceptance.revision, acceptance.actor.clone()), (late, before.revision + 1, actor));
    let known = history(store).acceptances().await.expect("an answer");
    assert_eq!(known, std::slice::from_ref(&acceptance));
    assert_eq!(history(store).retold(0).await.expect("an answer"), [], "what came before is done with");
    let ids = [1, 2, 3, 4, 5].map(|number| key(number).id);
    let request = ReadRequest { keys: ids.to_vec(), ..ReadRequest::default() };
    let reading = store.read(ReadRequest { users: vec!["ann".parse().expect("a user id")], ..request }).await;
    let reading = reading.expect("a reading");
    let states = [1, 2, 3].map(|number| reading.key(key(number).id).expect("the key").states.revoked);
    assert_eq!(states, [true, true, false]);
    assert!(reading.users.iter().all(|user| !user.deleted));
    let day = Duration::from_secs(24 * 60 * 60);
    let next_at = [4, 5].map(|number| reading.key(key(number).id).expect("the key").rotation.next_at);
    assert_eq!(next_at, [Some(acceptance.at.plus(day)), None], "what was replaced is rotated no more");
    fixture.clock.advance(day);
    let counts = store.rotation().expect("this store keeps announcements").rotation_counts().await;
    assert_eq!(counts.expect("an answer").due, 1);
    // No place in the history before is one in this.
    for place in [middle, before] {
        let poll = store.poll(place).await.expect("a poll");
        assert!(poll.at_cursor != Some(place.commit) && poll.newest.revision == acceptance.revision, "{poll:?}");
    }
    let now = newest(store).await;
    let leads_on = async |cursor| {
        let request = ReadRequest { leads_on_from: Some(cursor), ..ReadRequest::default() };
        store.read(request).await.expect("a reading").leads_on
    };
    assert_eq!([leads_on(middle).await, leads_on(before).await, leads_on(now).await], [false, false, true]);
    assert_eq!(store.poll(now).await.expect("a poll").at_cursor, Some(now.commit));
    let events =
        store.list_events(EventQuery { after: Stamp { ordinal: u32::MAX, ..stamp(before) }, ..EventQuery::default() });
    assert_eq!(events.await.expect("events").len(), 4);
}

pub(super) async fn what_somebody_else_ended_too_stays_ended_in_an_accepted_backup(fixture: Fixture, _other: Fixture) {
    let store = &fixture.store;
    let users = ["ann", "bob"].map(|id| Change { row: Row::User(user(id)), event: event(EventKind::UserCreated) });
    let keys = [1, 2, 3].map(|number| write_key(key(number)));
    write(store, users.into_iter().chain(keys).collect()).await.expect("a commit");
    let gone =
        |id: &str| Change { row: Row::User(User { deleted: true, ..user(id) }), event: event(EventKind::UserDeleted) };
    for change in [revoked(1), revoked(2), gone("ann"), gone("bob")] {
        ended(store, GATEWAY_LOGIN, change).await;
    }
    ended(store, "somebody", revoked(3)).await;
    let (keys, ids) = ([1, 2, 3].map(|number| key(number).id), ["ann", "bob"].map(|id| user(id).id));
    let reading = async || {
        let request = ReadRequest { keys: keys.to_vec(), users: ids.to_vec(), ..ReadRequest::default() };
        store.read(ReadRequest { ended_by_gateways: true, ..request }).await.expect("a reading")
    };
    let subjects = |keys: &[KeyId], users: &[UserId]| {
        let keys = keys.iter().copied().map(Subject::Key);
        keys.chain(users.iter().cloned().map(Subject::User)).collect::<std::collections::HashSet<_>>()
    };
    assert_eq!(reading().await.ended_by_gateways, subjects(&keys[..2], &ids));
    // An operator wants one of each ended, too.
    ended(store, "somebody", revoked(1)).await;
    ended(store, "somebody", gone("ann")).await;
    assert_eq!(reading().await.ended_by_gateways, subjects(&keys[1..2], &ids[1..]));
    let (_, retold) = history(store).accept(Actor::System, 0).await.expect("it is accepted");
    let told: Vec<Subject> = retold.into_iter().map(|one| one.subject).collect();
    assert_eq!(told, [Subject::Key(keys[1]), Subject::User(ids[1].clone())]);
    let reading = reading().await;
    assert_eq!(keys.map(|id| reading.key(id).expect("the key").states.revoked), [true, false, true]);
    assert_eq!(ids.clone().map(|id| reading.user(&id).expect("the user").deleted), [true, false]);
    assert_eq!(reading.ended_by_gateways, subjects(&[], &[]));
}

fn stamp(cursor: Cursor) -> Stamp {
    Stamp { revision: cursor.revision, ordinal: 0 }
}
