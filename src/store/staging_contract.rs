//! What every store keeps to of imports that are staged, as tests over the trait. A store joins with one
//! line: `staging_contract!(fixture)`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::contract::{Fixture, at, key, load, newest, user, write, write_key};
use super::*;
use crate::key::*;

/// Runs the contract of stages against the stores that `$fixture` makes.
macro_rules! staging_contract {
    ($fixture:ident) => {
        $crate::store::staging_contract::staging_contract!($fixture:
            what_is_staged_is_seen_by_no_read,
            a_stage_is_taken_in_whole_as_one_revision,
            a_stage_that_is_not_as_it_should_be_is_not_taken_in,
            a_staged_token_is_stored_once,
            what_is_written_first_takes_a_staged_token_for_itself,
            what_was_staged_and_given_up_is_forgotten,
            a_list_goes_on_past_what_is_staged,
            users_are_listed_page_by_page,
            whether_a_user_changed_is_told,
        );
    };
    ($fixture:ident: $($name:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::store::staging_contract::$name($fixture()).await;
        })*
    };
}
pub(super) use staging_contract;

const STAGE: StageId = StageId(1);

fn staged(key: Key) -> StagedKey {
    let changes = BTreeMap::from([("name".to_owned(), key.name.clone())]);
    StagedKey { key, event: NewEvent { kind: EventKind::KeyImported, changes }, other_hash: None }
}

pub(super) fn staging(stage: StageId, keys: impl IntoIterator<Item = Key>) -> Staging {
    let from = "192.0.2.1".parse().ok();
    Staging { stage, actor: Actor::Local("ann".to_owned()), from, keys: keys.into_iter().map(staged).collect() }
}

async fn stage(store: &SharedStore, stage: StageId, numbers: std::ops::Range<u8>) {
    store.stage(staging(stage, numbers.map(key))).await.expect("it can be staged");
}

pub(super) async fn take_in(store: &SharedStore, stage: StageId, keys: u32) -> Result<Committed, StoreError> {
    let plan = move |_: &Reading| {
        let staged = Some(Staged { stage, keys });
        Ok(Changes { staged, ..Changes::by(Actor::Local("ann".to_owned()), vec![]) })
    };
    Ok(store.mutate(ReadRequest::default(), Box::new(plan)).await?.expect("this plan never refuses"))
}

/// Every row that the feed hands over after `cursor`, with its stamp.
async fn fed(store: &SharedStore, cursor: Cursor) -> Vec<(Stamp, KeyId)> {
    let rows = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let sink = {
        let rows = std::sync::Arc::clone(&rows);
        move |batch| match batch {
            Batch::Row(stamp, Row::Key(key)) => {
                assert_eq!(key.stamp, stamp, "each of these was written once");
                rows.lock().push((stamp, key.id));
            }
            Batch::Row(_, Row::User(_)) | Batch::End(_) => {}
            Batch::Damaged(_, what, cause) => panic!("{what:?}: {cause}"),
        }
    };
    store.changes_after(cursor, Box::new(sink)).await.expect("a feed");
    let fed = rows.lock().clone();
    if cursor == Cursor::default() {
        let (lanes, _end) = load(store, 1).await;
        let mut loaded: Vec<_> = lanes.into_iter().flatten().filter_map(key_of).collect();
        loaded.sort_unstable();
        let mut sorted = fed.clone();
        sorted.sort_unstable();
        assert_eq!(loaded, sorted, "a load is what the feed is from its beginning");
    }
    fed
}

fn key_of(loaded: Loaded) -> Option<(Stamp, KeyId)> {
    match loaded {
        Loaded::Key(key) => Some((key.stamp, key.id)),
        Loaded::User(_) => None,
        Loaded::Damaged(what, cause) => panic!("{what:?}: {cause}"),
    }
}

async fn listed(store: &SharedStore, query: KeyQuery) -> Vec<KeyId> {
    let page = store.list_keys(query).await.expect("a list");
    assert_eq!(page.damaged, []);
    page.keys.iter().map(|(key, ..)| key.id).collect()
}

async fn events(store: &SharedStore, query: EventQuery) -> Vec<(Stamp, EventKind)> {
    let events = store.list_events(query).await.expect("events");
    events.into_iter().map(|event| (event.stamp, event.kind)).collect()
}

fn stamp(revision: u64, ordinal: u32) -> Stamp {
    Stamp { revision, ordinal }
}

fn ids(numbers: impl IntoIterator<Item = u8>) -> Vec<KeyId> {
    numbers.into_iter().map(|number| key(number).id).collect()
}

pub(super) async fn what_is_staged_is_seen_by_no_read(f: Fixture) {
    let store = &f.store;
    let owned = Change { row: Row::User(user("ann")), ..write_key(key(0)) };
    write(store, vec![Change { event: owned.event.clone(), ..owned }]).await.expect("a user");
    let before = newest(store).await;
    let mut new = key(1);
    (new.user, new.minted_by) = (Some(user("ann").id), Some(key(9).id));
    store.stage(staging(STAGE, [new.clone()])).await.expect("it can be staged");

    assert_eq!(newest(store).await, before, "it uses no revision");
    assert_eq!(store.find(new.hash).await.expect("a look-up").0, None);
    let read = ReadRequest {
        keys: vec![new.id],
        keys_of_user: new.user.clone(),
        lineage_of: Some(new.id),
        descendants_of: new.minted_by,
        hashes: vec![new.hash],
        count_of_user: new.user.clone(),
        ..ReadRequest::default()
    };
    let reading = store.read(read.clone()).await.expect("a reading");
    assert_eq!((reading.keys, reading.count_of_user, reading.any_key), (vec![], 0, false));
    let queries = [
        KeyQuery::default(),
        KeyQuery { limit: 10, ..KeyQuery::default() },
        KeyQuery { user: new.user.clone(), limit: 10, ..KeyQuery::default() },
        KeyQuery { status: Some(Status::Active), limit: 10, ..KeyQuery::default() },
    ];
    for query in &queries {
        assert_eq!(listed(store, query.clone()).await, []);
    }
    assert_eq!(fed(store, before).await, []);
    assert_eq!(fed(store, Cursor::default()).await, []);
    assert_eq!(events(store, EventQuery { after: stamp(1, 0), ..EventQuery::default() }).await, []);
    let of_key = EventQuery { subject: Some(Subject::Key(new.id)), ..EventQuery::default() };
    assert_eq!(events(store, of_key.clone()).await, []);

    take_in(store, STAGE, 1).await.expect("it is whole");
    let reading = store.read(read).await.expect("a reading");
    assert_eq!((reading.keys.len(), reading.count_of_user, reading.any_key), (1, 1, true));
    for query in &queries {
        assert_eq!(listed(store, query.clone()).await, [new.id]);
    }
    assert_eq!(events(store, of_key).await, [(stamp(2, 0), EventKind::KeyImported)]);
}

pub(super) async fn a_stage_is_taken_in_whole_as_one_revision(f: Fixture) {
    let store = &f.store;
    write(store, vec![write_key(key(1))]).await.expect("a key");
    stage(store, STAGE, 10..13).await;
    write(store, vec![write_key(key(2))]).await.expect("a key meanwhile");
    stage(store, STAGE, 13..15).await;
    let before = newest(store).await;
    f.clock.advance(Duration::from_secs(60));
    let committed = take_in(store, STAGE, 5).await.expect("it is whole");
    assert_eq!((committed.revision, committed.at), (3, at(1060)));
    assert_eq!(newest(store).await, Cursor { revision: 3, commit: committed.commit });
    write(store, vec![write_key(key(3))]).await.expect("a key afterwards");

    let imported: Vec<_> = ids(10..15).into_iter().zip(0..).map(|(id, ordinal)| (stamp(3, ordinal), id)).collect();
    let mut expected = imported.clone();
    expected.push((stamp(4, 0), key(3).id));
    assert_eq!(fed(store, before).await, expected, "after what was there");
    let after = Cursor { revision: 3, commit: committed.commit };
    assert_eq!(fed(store, after).await, expected[5..], "after the import");
    let mut all = fed(store, Cursor::default()).await;
    all.sort_unstable();
    let older = [(stamp(1, 0), key(1).id), (stamp(2, 0), key(2).id)];
    assert_eq!(all, older.into_iter().chain(expected).collect::<Vec<_>>(), "from the beginning");

    let (found, _) = store.find(key(12).hash).await.expect("a look-up");
    let (found, _) = found.expect("its token works");
    assert_eq!((found.stamp, found.updated_at, found.created_at), (stamp(3, 2), at(1060), key(12).created_at));
    assert_eq!(Key { stamp: Stamp::default(), updated_at: key(12).updated_at, ..found.clone() }, key(12));
    let stored = store.list_events(EventQuery { limit: 2, after: stamp(3, 1), ..EventQuery::default() }).await;
    let stored = stored.expect("events");
    assert_eq!(stored.iter().map(|event| event.stamp).collect::<Vec<_>>(), [stamp(3, 2), stamp(3, 3)]);
    assert_eq!((stored[0].at, stored[0].kind), (at(1060), EventKind::KeyImported));
    assert_eq!((&stored[0].actor, stored[0].from), (&Actor::Local("ann".to_owned()), "192.0.2.1".parse().ok()));
    assert_eq!(stored[0].changes["name"], key(12).name);
    let mut paged: Vec<(Stamp, EventKind)> = Vec::new();
    loop {
        let after = paged.last().map_or(Stamp::default(), |(stamp, _)| *stamp);
        let page = events(store, EventQuery { after, limit: 2, ..EventQuery::default() }).await;
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, events(store, EventQuery::default()).await, "page by page");
    assert_eq!(paged.len(), 8);

    // From here on it is a key like all others.
    let mut changed = found.clone();
    changed.states.revoked = true;
    write(store, vec![write_key(changed)]).await.expect("a change");
    let (found, _) = store.find(key(12).hash).await.expect("a look-up");
    assert_eq!(found.map(|(key, _)| (key.stamp, key.states.revoked)), Some((stamp(5, 0), true)));
    assert_eq!(fed(&(f.again)(), after).await, [(stamp(4, 0), key(3).id), (stamp(5, 0), key(12).id)]);
}

pub(super) async fn a_stage_that_is_not_as_it_should_be_is_not_taken_in(f: Fixture) {
    let store = &f.store;
    let is_lost = |taken: Result<Committed, StoreError>| matches!(taken, Err(StoreError::StageLost { .. }));
    assert!(is_lost(take_in(store, STAGE, 1).await), "there is none");
    stage(store, STAGE, 1..4).await;
    assert!(is_lost(take_in(store, STAGE, 2).await), "it holds more");
    assert_eq!(newest(store).await.revision, 0);
    take_in(store, STAGE, 3).await.expect("it is whole");
    assert!(is_lost(take_in(store, STAGE, 3).await), "it was taken in already");
    assert!(matches!(store.stage(staging(STAGE, [key(9)])).await, Err(StoreError::StageLost { .. })));
    stage(store, StageId(2), 5..6).await;
    store.unstage(StageId(2)).await.expect("it is there");
    assert!(is_lost(take_in(store, StageId(2), 1).await), "it was given up");
    store.unstage(STAGE).await.expect("it was taken in, and so it stays");
    store.tidy().await.expect("a sweep");
    assert_eq!(listed(store, KeyQuery::default()).await, ids([3, 2, 1]));
    assert_eq!(newest(store).await.revision, 1);
}

pub(super) async fn a_staged_token_is_stored_once(f: Fixture) {
    let store = &f.store;
    write(store, vec![write_key(key(1))]).await.expect("a key");
    let same = |number: u8, as_of: u8| Key { hash: key(as_of).hash, ..key(number) };
    let refused = |staged: Result<Duration, StoreError>| match staged {
        Err(StoreError::DuplicateToken { row, existing }) => (row, existing),
        other => panic!("expected a duplicate, found {other:?}"),
    };
    assert_eq!(refused(store.stage(staging(STAGE, [key(2), same(3, 1)])).await), (1, key(1).id));
    stage(store, STAGE, 2..3).await;
    assert_eq!(refused(store.stage(staging(STAGE, [key(3), key(4), same(5, 2)])).await), (2, key(2).id));
    let other = StagedKey { other_hash: Some(key(1).hash), ..staged(key(6)) };
    let known = Staging { keys: vec![other], ..staging(STAGE, []) };
    assert_eq!(refused(store.stage(known).await), (0, key(1).id));
    take_in(store, STAGE, 1).await.expect("what was refused left nothing behind");
    assert_eq!(refused(store.stage(staging(StageId(2), [same(7, 2)])).await), (0, key(2).id));
}

pub(super) async fn what_is_written_first_takes_a_staged_token_for_itself(f: Fixture) {
    let store = &f.store;
    let again = |number: u8| Key { hash: key(number).hash, ..key(number + 100) };
    stage(store, STAGE, 1..4).await;
    write(store, vec![write_key(again(1))]).await.expect("nobody has that token yet");
    assert!(matches!(take_in(store, STAGE, 3).await, Err(StoreError::StageLost { .. })));
    assert!(matches!(store.stage(staging(STAGE, [key(4)])).await, Err(StoreError::StageLost { .. })));
    // An import that was broken off keeps nobody from importing the same again.
    let second = StageId(2);
    store.stage(staging(second, [again(2), again(3)])).await.expect("nobody has those tokens yet");
    take_in(store, second, 2).await.expect("it is whole");
    store.tidy().await.expect("a sweep");
    assert_eq!(listed(store, KeyQuery::default()).await.len(), 3);
    for number in 1..4 {
        let (found, _) = store.find(key(number).hash).await.expect("a look-up");
        assert_eq!(found.map(|(key, _)| key.id), Some(again(number).id));
    }
    assert_eq!(events(store, EventQuery::default()).await.len(), 3);
}

pub(super) async fn what_was_staged_and_given_up_is_forgotten(f: Fixture) {
    let store = &f.store;
    stage(store, STAGE, 1..4).await;
    f.clock.advance(STAGE_KEPT - Duration::from_nanos(1));
    store.tidy().await.expect("a sweep");
    stage(store, STAGE, 4..5).await;
    f.clock.advance(STAGE_KEPT - Duration::from_nanos(1));
    store.tidy().await.expect("a sweep");
    take_in(store, STAGE, 4).await.expect("it was not left alone for so long");

    stage(store, StageId(2), 5..7).await;
    f.clock.advance(STAGE_KEPT);
    store.tidy().await.expect("a sweep");
    assert!(matches!(take_in(store, StageId(2), 2).await, Err(StoreError::StageLost { .. })));
    stage(store, StageId(3), 7..9).await;
    store.unstage(StageId(3)).await.expect("it is given up");
    store.tidy().await.expect("a sweep");
    store.unstage(StageId(3)).await.expect("there is nothing left to give up");
    stage(store, StageId(4), 5..9).await;
    take_in(store, StageId(4), 4).await.expect("nothing is in its way");
    assert_eq!(listed(store, KeyQuery::default()).await, ids((1..9).rev()));
}

pub(super) async fn a_list_goes_on_past_what_is_staged(f: Fixture) {
    let store = &f.store;
    write(store, vec![write_key(key(1)), write_key(key(2))]).await.expect("keys");
    stage(store, STAGE, 10..20).await;
    write(store, vec![write_key(key(3))]).await.expect("a key");
    let (mut seen, mut query) = (Vec::new(), KeyQuery { limit: 1, ..KeyQuery::default() });
    loop {
        let page = store.list_keys(query.clone()).await.expect("a page");
        seen.extend(page.keys.iter().map(|(key, ..)| key.id));
        match page.next {
            Some(next) => query.before = Some(next),
            None => break,
        }
        assert!(seen.len() < 10, "it comes to an end");
    }
    assert_eq!(seen, ids([3, 2, 1]));
}

pub(super) async fn users_are_listed_page_by_page(f: Fixture) {
    let store = &f.store;
    let of = |project: &str, id: &str| User { project: project.parse().ok(), ..user(id) };
    let gone = User { deleted: true, ..of("acme", "bob") };
    for user in [of("acme", "ann"), gone, of("acme", "cid"), of("other", "dan"), of("acme", "eve")] {
        let change = Change { row: Row::User(user), ..write_key(key(1)) };
        write(store, vec![change]).await.expect("a user");
    }
    let listed = |query: UserQuery| async move {
        let users = store.list_users(query).await.expect("users");
        users.iter().map(|user| user.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listed(UserQuery::default()).await, ["ann", "bob", "cid", "dan", "eve"]);
    let of_acme = UserQuery { project: "acme".parse().ok(), undeleted: true, limit: 2, ..UserQuery::default() };
    assert_eq!(listed(of_acme.clone()).await, ["ann", "cid"]);
    assert_eq!(listed(UserQuery { after: "cid".parse().ok(), ..of_acme }).await, ["eve"]);
}

pub(super) async fn whether_a_user_changed_is_told(f: Fixture) {
    let store = &f.store;
    let changed = |revision: u64| async move {
        let read = ReadRequest { users_changed_after: Some(revision), ..ReadRequest::default() };
        store.read(read).await.expect("a reading").users_changed
    };
    write(store, vec![write_key(key(1))]).await.expect("a key");
    assert!(!changed(0).await);
    write(store, vec![Change { row: Row::User(user("ann")), ..write_key(key(1)) }]).await.expect("a user");
    assert!(changed(0).await && changed(1).await && !changed(2).await);
    stage(store, STAGE, 2..4).await;
    take_in(store, STAGE, 2).await.expect("it is whole");
    assert!(!changed(2).await);
}
