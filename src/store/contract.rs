//! What every store keeps to, as tests over the trait. A store joins with one line:
//! `contract!(fixture)`, where `fixture` is a function that makes an empty store.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::key::*;

/// An empty store, its clock, and a way to open it once more as another process would.
pub(super) struct Fixture {
    pub(super) store: SharedStore,
    pub(super) again: Box<dyn Fn() -> SharedStore>,
    pub(super) clock: Arc<ManualClock>,
    /// What goes away with the store, such as its folder.
    pub(super) _held: Box<dyn Any>,
}

/// Runs the whole contract against the stores that `$fixture` makes.
macro_rules! contract {
    ($fixture:ident) => {
        $crate::store::contract::contract!($fixture:
            a_change_and_its_event_are_committed_together,
            a_refused_plan_changes_nothing_and_uses_no_revision,
            a_refused_neighbour_takes_nothing_from_the_others,
            a_plan_without_changes_uses_no_revision,
            a_plan_that_panics_changes_nothing_and_harms_no_later_one,
            a_key_reads_back_as_it_was_written,
            a_token_is_stored_once,
            users_come_before_the_keys_that_need_them,
            a_reading_holds_what_was_asked_for,
            a_follower_misses_nothing_of_concurrent_writers,
            a_reload_equals_following,
            a_walk_comes_by_every_row_page_by_page,
            the_commit_id_names_the_history,
            a_commit_elsewhere_is_news,
            a_commit_here_is_news_at_once,
            usage_adds_up_and_stays_out_of_the_future,
            a_list_keeps_to_its_filters_and_limit,
            events_are_listed_in_order,
            another_secret_is_refused,
            a_secret_takes_another_ones_place,
            an_answer_is_kept_with_what_it_answers_and_forgotten_in_time,
            refused_attempts_add_up_without_a_revision,
            an_event_tells_from_where_it_was_asked,
            a_reading_tells_what_a_mutation_will_be,
            a_page_goes_on_where_it_ended,
            what_a_user_makes_for_itself_is_counted,
            no_more_is_read_of_what_a_key_minted_than_was_asked_for,
            the_newest_events_of_a_key_are_read,
            a_load_says_what_the_feed_says_from_its_beginning,
        );
    };
    ($fixture:ident: $($name:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::store::contract::$name($fixture()).await;
        })*
    };
}
pub(super) use contract;

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

pub(super) fn key(number: u8) -> Key {
    let id = KeyId::mint(at(1000 + i64::from(number)), [number; 10]);
    Key {
        id,
        lineage: id.lineage(),
        hash: TokenHash::of(&[number]),
        format: Format::Opaque,
        shown_prefix: Some("kw_live_abcdef".to_owned()),
        last_four: Some("wxyz".to_owned()),
        name: format!("key {number}"),
        project: Some("acme".parse().expect("a project")),
        environment: EnvironmentId::live(),
        user: None,
        grants: Grants::Only(FlagSet::parse(["jobs:read", "ring.*.read"]).expect("flags")),
        props: BTreeMap::new(),
        may_grant: FlagSet::default(),
        operates_on: None,
        self_rotate: false,
        minted_by: None,
        states: States::default(),
        revoked_at: None,
        replaced_by: None,
        expires_at: None,
        grace_expires_at: None,
        rotation: Rotation::default(),
        created_at: at(1000),
        updated_at: at(1000),
        stamp: Stamp::default(),
    }
}

pub(super) fn user(id: &str) -> User {
    User {
        id: id.parse().expect("a user id"),
        project: None,
        flags: FlagSet::parse(["jobs:**"]).unwrap_or_default(),
        active: true,
        deleted: false,
        created_at: at(1000),
        updated_at: at(1000),
        stamp: Stamp::default(),
    }
}

fn change(row: Row, kind: EventKind) -> Change {
    Change { row, event: NewEvent { kind, changes: BTreeMap::from([("name".to_owned(), "x".to_owned())]) } }
}

pub(super) fn write_key(key: Key) -> Change {
    change(Row::Key(Box::new(key)), EventKind::KeyCreated)
}

fn write_user(user: User) -> Change {
    change(Row::User(user), EventKind::UserCreated)
}

pub(super) async fn write(store: &SharedStore, changes: Vec<Change>) -> Result<Committed, StoreError> {
    let plan = move |_: &Reading| Ok(Changes::by(Actor::System, changes.clone()));
    let outcome = store.mutate(ReadRequest::default(), Box::new(plan)).await?;
    Ok(outcome.expect("this plan never refuses"))
}

pub(super) async fn newest(store: &SharedStore) -> Cursor {
    store.poll(Cursor::default()).await.expect("the store answers").newest
}

/// What a follower of the feed holds.
#[derive(Debug, Default, PartialEq)]
struct Followed {
    keys: BTreeMap<KeyId, Key>,
    users: BTreeMap<UserId, User>,
    stamps: Vec<Stamp>,
    cursor: Cursor,
}

impl Followed {
    async fn follow(mut self, store: &SharedStore) -> Self {
        let taken = Arc::new(Mutex::new((self, None)));
        let given = Arc::clone(&taken);
        let cursor = given.lock().0.cursor;
        let sink = move |batch: Batch| {
            let mut given = given.lock();
            assert!(given.1.is_none(), "nothing comes after the end");
            match batch {
                Batch::Row(stamp, Row::Key(key)) => {
                    if let Some(user) = &key.user {
                        assert!(given.0.users.contains_key(user), "a user comes before its keys");
                    }
                    given.0.stamps.push(stamp);
                    given.0.keys.insert(key.id, *key);
                }
                Batch::Row(stamp, Row::User(user)) => {
                    given.0.stamps.push(stamp);
                    given.0.users.insert(user.id.clone(), user);
                }
                Batch::Damaged(_, what, cause) => panic!("{what:?}: {cause}"),
                Batch::End(poll) => given.1 = Some(poll),
            }
        };
        store.changes_after(cursor, Box::new(sink)).await.expect("the feed is read");
        let (followed, poll) = std::mem::take(&mut *taken.lock());
        self = followed;
        self.cursor = poll.expect("every feed ends").newest;
        self
    }
}

/// What a load hands over, by lane, and where it ends.
pub(super) async fn load(store: &SharedStore, lanes: usize) -> (Vec<Vec<Loaded>>, Poll) {
    let taken = Arc::new(Mutex::new(vec![Vec::new(); lanes]));
    let lane = |at: usize| -> LoadLane {
        let taken = Arc::clone(&taken);
        Box::new(move |loaded| taken.lock()[at].push(loaded))
    };
    let poll = store.load((0..lanes).map(lane).collect()).await.expect("a load");
    (std::mem::take(&mut *taken.lock()), poll)
}

pub(super) async fn a_load_says_what_the_feed_says_from_its_beginning(f: Fixture) {
    assert_eq!(load(&f.store, 2).await.0, vec![Vec::new(), Vec::new()], "there is nothing");
    let ann = user("ann");
    let (mut inherits, mut ended, mut bare) = (key(1), key(2), key(3));
    (inherits.user, inherits.grants) = (Some(ann.id.clone()), Grants::Inherit);
    ended.states = States { revoked: true, disabled: true, superseded: true };
    (ended.expires_at, ended.grace_expires_at) = (Some(at(9000)), Some(at(8000)));
    (bare.project, bare.lineage, bare.grants) = (None, key(2).lineage, Grants::Only(FlagSet::default()));
    write(&f.store, vec![write_user(ann), write_key(inherits), write_key(ended)]).await.expect("a commit");
    write(&f.store, vec![write_key(bare), write_key(key(4))]).await.expect("a commit");

    let (lanes, poll) = load(&f.store, 2).await;
    let followed = Followed::default().follow(&f.store).await;
    assert_eq!((poll.newest, poll.at_cursor), (followed.cursor, Some(CommitId::default())));
    let (mut keys, mut users) = (BTreeMap::new(), BTreeMap::new());
    for loaded in lanes.into_iter().flatten() {
        match loaded {
            Loaded::Key(key) => assert!(keys.insert(key.id, key).is_none(), "each once"),
            Loaded::User(user) => assert!(users.insert(user.id.clone(), user).is_none(), "each once"),
            Loaded::Damaged(what, cause) => panic!("{what:?}: {cause}"),
        }
    }
    let of_feed: BTreeMap<KeyId, KeyCore> = followed.keys.into_iter().map(|(id, key)| (id, key.into())).collect();
    assert_eq!((keys, users), (of_feed, followed.users));
}

pub(super) async fn a_change_and_its_event_are_committed_together(f: Fixture) {
    f.clock.set(at(5000));
    let committed = write(&f.store, vec![write_key(key(1)), write_key(key(2))]).await.expect("a commit");
    assert_eq!((committed.revision, committed.at), (1, at(5000)));
    assert_eq!(newest(&f.store).await, Cursor { revision: 1, commit: committed.commit });
    let events = f.store.list_events(EventQuery::default()).await.expect("events");
    let stamps: Vec<_> = events.iter().map(|event| event.stamp).collect();
    assert_eq!(stamps, [Stamp { revision: 1, ordinal: 0 }, Stamp { revision: 1, ordinal: 1 }]);
    assert!(events.iter().all(|event| event.at == at(5000) && event.actor == Actor::System));
    let (found, cursor) = f.store.find(key(2).hash).await.expect("a look-up");
    let (found, none) = found.expect("it was stored");
    assert_eq!((found.stamp, found.updated_at, none), (Stamp { revision: 1, ordinal: 1 }, at(5000), None));
    assert_eq!(cursor.revision, 1);
}

pub(super) async fn a_refused_plan_changes_nothing_and_uses_no_revision(f: Fixture) {
    let refused = f.store.mutate(ReadRequest::default(), Box::new(|_| Err(Box::new("no")))).await.expect("an answer");
    let reason = refused.expect_err("it was refused").downcast::<&str>().expect("what was boxed comes back");
    assert_eq!(*reason, "no");
    assert_eq!(newest(&f.store).await, Cursor::default());
    assert_eq!(write(&f.store, vec![write_key(key(1))]).await.expect("a commit").revision, 1);
}

pub(super) async fn a_refused_neighbour_takes_nothing_from_the_others(f: Fixture) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..60 {
        let store = Arc::clone(&f.store);
        tasks.spawn(async move {
            // Of three, one is refused, one writes a token that is there already, and one writes its own.
            let hash = TokenHash::of(&[if number % 3 == 1 { 0 } else { number }]);
            let own = write_key(Key { hash, ..key(number) });
            let plan = move |_: &Reading| -> Planned {
                let changes = vec![own.clone()];
                if number % 3 == 2 { Err(Box::new(())) } else { Ok(Changes::by(Actor::System, changes)) }
            };
            matches!(store.mutate(ReadRequest::default(), Box::new(plan)).await, Ok(Ok(_)))
        });
    }
    let written = tasks.join_all().await.into_iter().filter(|written| *written).count();
    let listed = f.store.list_keys(KeyQuery::default()).await.expect("a list").keys;
    let revisions: std::collections::BTreeSet<u64> = listed.iter().map(|(key, ..)| key.stamp.revision).collect();
    // Whoever came first with the token that all of the second kind share has it.
    assert_eq!(written, 20);
    assert_eq!(listed.len(), written);
    assert!(revisions.into_iter().eq(1..=u64::try_from(written).expect("a small number")), "no revision was lost");
}

pub(super) async fn a_plan_without_changes_uses_no_revision(f: Fixture) {
    let first = write(&f.store, vec![write_key(key(1))]).await.expect("a commit");
    let nothing = write(&f.store, vec![]).await.expect("nothing to commit");
    assert_eq!((nothing.revision, nothing.commit), (1, first.commit));
    assert_eq!(newest(&f.store).await.commit, first.commit);
}

pub(super) async fn a_plan_that_panics_changes_nothing_and_harms_no_later_one(f: Fixture) {
    let failed = f.store.mutate(ReadRequest::default(), Box::new(|_| panic!("on purpose"))).await;
    assert!(failed.is_err());
    assert_eq!(newest(&f.store).await.revision, 0);
    assert_eq!(write(&f.store, vec![write_key(key(1))]).await.expect("a commit").revision, 1);
}

pub(super) async fn a_key_reads_back_as_it_was_written(f: Fixture) {
    let mut full = key(1);
    full.user = Some("ann@example.com".parse().expect("a user id"));
    full.grants = Grants::Inherit;
    full.format = Format::Imported;
    full.props = BTreeMap::from([("team".to_owned(), "blue \"sky\" ü".to_owned())]);
    full.may_grant = FlagSet::parse(["**", "a.b"]).expect("flags");
    full.operates_on = Some(OperatorScope { project: full.project.clone(), environment: None });
    full.self_rotate = true;
    full.minted_by = Some(key(7).id);
    full.states = States { revoked: true, disabled: true, superseded: true };
    full.revoked_at = Some(at(1));
    full.replaced_by = Some(key(8).id);
    full.expires_at = Some(at(2));
    full.grace_expires_at = Some(Timestamp::MAX);
    full.rotation = Rotation {
        interval_days: Some(30),
        next_at: Some(at(4)),
        webhook_url: Some("u".to_owned()),
        secret_version: 7,
        old_secret_until: Some(at(6)),
    };
    let mut bare = key(2);
    bare.shown_prefix = None;
    bare.last_four = None;
    bare.project = None;
    bare.operates_on = Some(OperatorScope { project: None, environment: None });
    bare.grants = Grants::Only(FlagSet::default());
    let ann = user("ann@example.com");
    let changes = vec![write_user(ann.clone()), write_key(full.clone()), write_key(bare.clone())];
    let now = write(&f.store, changes).await.expect("a commit").at;
    let read = ReadRequest { keys: vec![full.id, bare.id], ..ReadRequest::default() };
    let reading = f.store.read(read).await.expect("a reading");
    for (ordinal, wanted) in (1..).zip([full, bare]) {
        let stamp = Stamp { revision: 1, ordinal };
        assert_eq!(reading.key(wanted.id), Some(&Key { updated_at: now, stamp, ..wanted }));
    }
    let stamp = Stamp { revision: 1, ordinal: 0 };
    assert_eq!(reading.users, [User { updated_at: now, stamp, ..ann }]);
}

pub(super) async fn a_token_is_stored_once(f: Fixture) {
    write(&f.store, vec![write_key(key(1))]).await.expect("a commit");
    let same = Key { hash: key(1).hash, ..key(2) };
    let error = write(&f.store, vec![write_key(key(3)), write_key(same)]).await.expect_err("the hash is there");
    assert!(matches!(error, StoreError::DuplicateToken { row: 1, existing } if existing == key(1).id), "{error}");
    let twin = Key { hash: key(4).hash, ..key(5) };
    let error = write(&f.store, vec![write_key(key(4)), write_key(twin)]).await.expect_err("the hash comes twice");
    assert!(matches!(error, StoreError::DuplicateToken { row: 1, existing } if existing == key(4).id), "{error}");
    assert_eq!(newest(&f.store).await.revision, 1);
    write(&f.store, vec![write_key(Key { name: "again".to_owned(), ..key(1) })])
        .await
        .expect("its own hash is no other");
}

pub(super) async fn users_come_before_the_keys_that_need_them(f: Fixture) {
    let owned = Key { user: Some("ann".parse().expect("a user id")), ..key(1) };
    write(&f.store, vec![write_key(key(2))]).await.expect("a commit");
    let before = Followed::default().follow(&f.store).await;
    write(&f.store, vec![write_key(owned), write_user(user("ann"))]).await.expect("in either order");
    write(&f.store, vec![write_user(user("ann"))]).await.expect("a commit");
    let after = before.follow(&f.store).await;
    assert_eq!((after.keys.len(), after.users.len()), (2, 1));
    assert!(after.stamps.is_sorted());
}

pub(super) async fn a_reading_holds_what_was_asked_for(f: Fixture) {
    let ann: UserId = "ann".parse().expect("a user id");
    let first = Key { user: Some(ann.clone()), ..key(1) };
    let second = Key { lineage: first.lineage, minted_by: Some(first.id), ..key(2) };
    let third = Key { minted_by: Some(second.id), ..key(3) };
    let revoked = Key { user: Some(ann.clone()), states: States { revoked: true, ..States::default() }, ..key(4) };
    let reading = f.store.read(ReadRequest::default()).await.expect("a reading");
    assert!(!reading.any_key);
    let keys = [&first, &second, &third, &revoked].map(|key| write_key(key.clone()));
    write(&f.store, keys.into_iter().chain([write_user(user("ann"))]).collect()).await.expect("a commit");
    let ids = |request: ReadRequest| async {
        let reading = f.store.read(request).await.expect("a reading");
        assert!(reading.any_key);
        let mut ids: Vec<KeyId> = reading.keys.iter().map(|key| key.id).collect();
        ids.sort_unstable();
        (ids, reading.users.len())
    };
    let lineage = ReadRequest { lineage_of: Some(second.id), keys: vec![first.id], ..ReadRequest::default() };
    assert_eq!(ids(lineage).await, (vec![first.id, second.id], 1));
    let newest = ReadRequest { lineage_of: Some(first.id), lineage_newest: 1, ..ReadRequest::default() };
    assert_eq!(ids(newest).await, (vec![second.id], 0));
    let minted = ReadRequest { descendants_of: Some(first.id), ..ReadRequest::default() };
    assert_eq!(ids(minted).await, (vec![second.id, third.id], 0));
    let owned = ReadRequest { keys_of_user: Some(ann.clone()), ..ReadRequest::default() };
    assert_eq!(ids(owned).await, (vec![first.id], 1));
    let hashes = ReadRequest { hashes: vec![third.hash, key(9).hash], users: vec![ann], ..ReadRequest::default() };
    assert_eq!(ids(hashes).await, (vec![third.id], 1));
}

pub(super) async fn a_follower_misses_nothing_of_concurrent_writers(f: Fixture) {
    const WRITERS: u8 = 4;
    const EACH: u8 = 20;
    let mut tasks = tokio::task::JoinSet::new();
    let stores = [Arc::clone(&f.store), (f.again)()];
    for writer in 0..WRITERS {
        let store = Arc::clone(&stores[usize::from(writer) % stores.len()]);
        tasks.spawn(async move {
            for number in 0..EACH {
                write(&store, vec![write_key(key(writer * EACH + number))]).await.expect("a commit");
            }
        });
    }
    let mut followed = Followed::default();
    while followed.cursor.revision < u64::from(WRITERS * EACH) {
        let cursor = followed.cursor;
        followed = followed.follow(&f.store).await;
        assert!(followed.cursor.revision >= cursor.revision);
        let held = u64::try_from(followed.keys.len()).expect("a small number");
        assert_eq!(held, followed.cursor.revision, "every revision up to the cursor was handed over");
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no writer panics");
    }
    assert!(followed.stamps.is_sorted());
}

pub(super) async fn a_reload_equals_following(f: Fixture) {
    let mut runner = TestRunner::new(Config { cases: 1, ..Config::default() });
    let steps = proptest::collection::vec(proptest::collection::vec((0u8..12, any::<[bool; 4]>()), 1..4), 40);
    let steps = steps.new_tree(&mut runner).expect("a strategy without filters").current();
    let mut followed = Followed::default();
    let mut users_made = std::collections::BTreeSet::new();
    for (step, rows) in steps.into_iter().enumerate() {
        f.clock.advance(Duration::from_secs(1));
        let mut changes = Vec::new();
        let mut used = std::collections::BTreeSet::new();
        for (number, [is_user, renewed, revoked, disabled]) in rows {
            // Whose a key is never changes.
            let owned = number % 2 == 0;
            let name = format!("user-{}", number % 3);
            if !used.insert(number) || (is_user && !used.insert(100 + number % 3)) {
                continue;
            }
            if is_user || (owned && (renewed || !users_made.contains(&name))) {
                users_made.insert(name.clone());
                changes.push(write_user(User { active: !disabled, ..user(&name) }));
            }
            if !is_user {
                let states = States { revoked, disabled, superseded: false };
                let user = owned.then(|| name.parse().expect("a user id"));
                changes.push(write_key(Key { states, user, name: step.to_string(), ..key(number) }));
            }
        }
        write(&f.store, changes).await.expect("a commit");
        if step % 3 == 0 {
            followed = followed.follow(&f.store).await;
        }
    }
    followed = followed.follow(&f.store).await;
    let loaded = Followed::default().follow(&f.store).await;
    assert_eq!((&followed.keys, &followed.users), (&loaded.keys, &loaded.users));
    assert_eq!(followed.cursor, loaded.cursor);
    assert!(loaded.keys.values().all(|key| key.created_at == at(1000) && key.updated_at > at(1000)));
}

pub(super) async fn a_walk_comes_by_every_row_page_by_page(f: Fixture) {
    use super::staging_contract::{staging, take_in};
    let of_bob = Key { user: Some("bob".parse().expect("a user id")), ..key(3) };
    let users = ["cid", "ann", "bob"].map(|id| write_user(user(id)));
    write(&f.store, users.into_iter().chain([write_key(of_bob), write_key(key(1))]).collect()).await.expect("a commit");
    // Keys of an import that was taken in, and some of one that was not.
    f.store.stage(staging(StageId(7), [key(2), key(9)])).await.expect("a stage");
    take_in(&f.store, StageId(7), 2).await.expect("a commit");
    f.store.stage(staging(StageId(8), [key(5), key(8)])).await.expect("a stage");
    let whole = Followed::default().follow(&f.store).await;
    let every_key = || whole.keys.values().cloned().map(|key| Row::Key(Box::new(key)));
    let every_row = whole.users.values().cloned().map(Row::User).chain(every_key());
    let every_row: Vec<String> = every_row.map(|row| format!("{row:?}")).collect();
    assert_eq!(every_row.len(), 7);
    for limit in [1, 2, 3, 5, 7, 100] {
        let (mut walked, mut after) = (Vec::new(), None);
        loop {
            let page = Arc::new(Mutex::new((Vec::new(), None)));
            let given = Arc::clone(&page);
            let sink = move |batch: Batch| match batch {
                Batch::Row(stamp, row) => given.lock().0.push((stamp, row)),
                Batch::Damaged(_, what, cause) => panic!("{what:?}: {cause}"),
                Batch::End(poll) => given.lock().1 = Some(poll),
            };
            f.store.walk(whole.cursor, after, limit, Box::new(sink)).await.expect("a page");
            let (rows, poll) = std::mem::take(&mut *page.lock());
            let poll = poll.expect("every page ends");
            assert_eq!((poll.newest, poll.at_cursor), (whole.cursor, Some(whole.cursor.commit)));
            let count = u32::try_from(rows.len()).expect("few rows");
            assert!(count <= limit, "{count} rows in a page of {limit}");
            after = rows.last().map(|(_, row)| match row {
                Row::Key(key) => Subject::Key(key.id),
                Row::User(user) => Subject::User(user.id.clone()),
            });
            for (stamp, row) in rows {
                let of_row = match &row {
                    Row::Key(key) => key.stamp,
                    Row::User(user) => user.stamp,
                };
                assert_eq!(stamp, of_row);
                walked.push(format!("{row:?}"));
            }
            if count < limit {
                break;
            }
        }
        assert_eq!(walked, every_row, "in pages of {limit}");
    }
}

pub(super) async fn the_commit_id_names_the_history(f: Fixture) {
    let first = write(&f.store, vec![write_key(key(1))]).await.expect("a commit");
    let second = write(&f.store, vec![write_key(key(2))]).await.expect("a commit");
    assert_ne!(first.commit, second.commit);
    let here = |revision| Cursor { revision, commit: CommitId::default() };
    let poll = f.store.poll(here(1)).await.expect("a poll");
    assert_eq!((poll.at_cursor, poll.newest.revision), (Some(first.commit), 2));
    assert_eq!((poll.store, poll.now), (f.store.id(), f.clock.now()));
    assert_eq!(f.store.poll(here(2)).await.expect("a poll").at_cursor, Some(second.commit));
    assert_eq!(f.store.poll(here(3)).await.expect("a poll").at_cursor, None);
    assert_eq!(f.store.poll(here(0)).await.expect("a poll").at_cursor, Some(CommitId::default()));
    assert_eq!((f.again)().id(), f.store.id());
}

pub(super) async fn a_commit_elsewhere_is_news(f: Fixture) {
    let other = (f.again)();
    let told = async {
        while newest(&f.store).await.revision == 0 {
            f.store.wait_for_news(Duration::from_secs(60)).await;
        }
    };
    let written = write(&other, vec![write_key(key(1))]);
    let (told, written) = tokio::join!(tokio::time::timeout(Duration::from_secs(10), told), written);
    assert!(told.is_ok() && written.is_ok());
}

pub(super) async fn a_commit_here_is_news_at_once(f: Fixture) {
    write(&f.store, vec![write_key(key(1))]).await.expect("a commit");
    // Nobody waited when it happened, and still it wakes the next who does.
    let woken = tokio::time::timeout(Duration::from_secs(10), f.store.wait_for_news(Duration::from_secs(60)));
    assert!(woken.await.is_ok());
}

pub(super) async fn usage_adds_up_and_stays_out_of_the_future(f: Fixture) {
    f.clock.set(at(2000));
    let before = write(&f.store, vec![write_key(key(1)), write_key(key(2))]).await.expect("a commit");
    let used = |number, seconds, count| UsageUpdate { key: key(number).id, last_used_at: at(seconds), count };
    let record = |gateway: &str, updates| f.store.record_usage(gateway.to_owned(), updates);
    record("a", vec![used(2, 1500, 1), used(1, 1500, 2), used(9, 1500, 1)]).await.expect("usage is stored");
    record("a", vec![used(1, 1400, 3)]).await.expect("usage is stored");
    record("b", vec![used(1, 9000, 4)]).await.expect("usage is stored");
    let read = ReadRequest { keys: vec![key(1).id], ..ReadRequest::default() };
    let usage = f.store.read(read).await.expect("a reading").usage;
    assert_eq!(usage, [KeyUsage { key: key(1).id, last_used_at: at(2000), count: 9 }]);
    let listed = f.store.list_keys(KeyQuery::default()).await.expect("a list").keys;
    let usage: Vec<_> = listed.iter().map(|(_, _, usage)| usage.map(|usage| usage.count)).collect();
    assert_eq!(usage, [Some(1), Some(9)]);
    assert_eq!(newest(&f.store).await.commit, before.commit);
}

pub(super) async fn a_list_keeps_to_its_filters_and_limit(f: Fixture) {
    f.clock.set(at(1000));
    let day = |days: i64| at(1000 + days * 86_400);
    let ann: UserId = "ann".parse().expect("a user id");
    let keys = [
        Key { name: "Deploy".to_owned(), ..key(1) },
        Key { project: Some("other".parse().expect("a project")), ..key(2) },
        Key { environment: "test".parse().expect("an environment"), ..key(3) },
        Key { user: Some(ann.clone()), ..key(4) },
        Key { states: States { revoked: true, ..States::default() }, ..key(5) },
        Key { expires_at: Some(day(3)), shown_prefix: Some("kw_live_zzzzzz".to_owned()), ..key(6) },
        Key { states: States { revoked: true, ..States::default() }, created_at: day(40), ..key(7) },
    ];
    let off = User { active: false, ..user("ann") };
    let rows = [write_user(off)].into_iter().chain(keys.into_iter().map(write_key)).collect();
    write(&f.store, rows).await.expect("a commit");
    let list = |query: KeyQuery| async {
        let listed = f.store.list_keys(query).await.expect("a list").keys;
        let number = |id: KeyId| (1u8..8).find(|number| key(*number).id == id).unwrap_or_default();
        listed.iter().map(|(key, _, _)| number(key.id)).collect::<Vec<_>>()
    };
    let all = KeyQuery::default;
    assert_eq!(list(all()).await, [7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(list(KeyQuery { limit: 2, ..all() }).await, [7, 6]);
    assert_eq!(list(KeyQuery { limit: 2, before: Some(key(6).id), ..all() }).await, [5, 4]);
    assert_eq!(list(KeyQuery { project: "other".parse().ok(), ..all() }).await, [2]);
    assert_eq!(list(KeyQuery { environment: "test".parse().ok(), ..all() }).await, [3]);
    assert_eq!(list(KeyQuery { user: Some(ann), ..all() }).await, [4]);
    assert_eq!(list(KeyQuery { status: Some(Status::Revoked), limit: 1, ..all() }).await, [7]);
    assert_eq!(list(KeyQuery { status: Some(Status::UserDisabled), ..all() }).await, [4]);
    assert_eq!(list(KeyQuery { status: Some(Status::Active), limit: 3, ..all() }).await, [6, 3, 2]);
    assert_eq!(list(KeyQuery { text: Some("dEPloy".to_owned()), ..all() }).await, [1]);
    assert_eq!(list(KeyQuery { text: Some("kw_live_zz".to_owned()), ..all() }).await, [6]);
    assert_eq!(list(KeyQuery { text: Some(key(3).id.to_string()), ..all() }).await, [3]);
    assert_eq!(list(KeyQuery { expires_within_days: Some(2), ..all() }).await, [0u8; 0]);
    assert_eq!(list(KeyQuery { expires_within_days: Some(3), ..all() }).await, [6]);
    assert_eq!(list(KeyQuery { lineage: Some(key(2).lineage), ..all() }).await, [2]);
    f.clock.set(day(31));
    let update = UsageUpdate { key: key(1).id, last_used_at: day(30), count: 1 };
    f.store.record_usage("a".to_owned(), vec![update]).await.expect("usage is stored");
    assert_eq!(list(KeyQuery { unused_for_days: Some(30), ..all() }).await, [6, 5, 4, 3, 2]);
    let users = f.store.list_users(UserQuery::default()).await.expect("users");
    assert_eq!(users.len(), 1);
    let of_acme = UserQuery { project: "acme".parse().ok(), ..UserQuery::default() };
    assert_eq!(f.store.list_users(of_acme).await.expect("users"), []);
}

pub(super) async fn events_are_listed_in_order(f: Fixture) {
    write(&f.store, vec![write_key(key(1)), write_key(key(2))]).await.expect("a commit");
    write(&f.store, vec![write_user(user("ann")), write_key(key(1))]).await.expect("a commit");
    let list = |query: EventQuery| async {
        let events = f.store.list_events(query).await.expect("events");
        events.iter().map(|event| (event.stamp.revision, event.stamp.ordinal)).collect::<Vec<_>>()
    };
    let all = EventQuery::default;
    assert_eq!(list(all()).await, [(1, 0), (1, 1), (2, 0), (2, 1)]);
    let after = Stamp { revision: 1, ordinal: 0 };
    assert_eq!(list(EventQuery { after, limit: 2, ..all() }).await, [(1, 1), (2, 0)]);
    assert_eq!(list(EventQuery { subject: Some(Subject::Key(key(1).id)), ..all() }).await, [(1, 0), (2, 1)]);
    let ann = Subject::User("ann".parse().expect("a user id"));
    assert_eq!(list(EventQuery { subject: Some(ann), ..all() }).await, [(2, 0)]);
}

pub(super) async fn another_secret_is_refused(f: Fixture) {
    assert_eq!(f.store.secrets().await.expect("secrets"), []);
    f.store.check_secret(1, [7; 32]).await.expect("the first secret is taken");
    f.store.check_secret(1, [7; 32]).await.expect("the same secret is known");
    for (number, fingerprint) in [(1, [8; 32]), (2, [8; 32])] {
        let error = f.store.check_secret(number, fingerprint).await.expect_err("another secret");
        assert!(matches!(error, StoreError::WrongSecret { .. }), "{error}");
    }
    assert_eq!((f.again)().secrets().await.expect("secrets"), [(1, [7; 32])]);
}

pub(super) async fn a_secret_takes_another_ones_place(f: Fixture) {
    let (one, two, three) = ((1, [7; 32]), (2, [8; 32]), (3, [9; 32]));
    let wrong = |checked: Result<(), StoreError>| matches!(checked, Err(StoreError::WrongSecret { .. }));
    check_secrets(&*f.store, &[one]).await.expect("the first secret is taken");
    assert!(wrong(check_secrets(&*f.store, &[two]).await), "nobody has shown a known one");
    check_secrets(&*f.store, &[two, one]).await.expect("the second comes beside the first");
    check_secrets(&*f.store, &[one]).await.expect("who has not heard of the second");
    assert!(wrong(check_secrets(&*f.store, &[one, (2, [6; 32])]).await), "another second one");
    assert!(wrong(f.store.add_secret(2, [6; 32]).await) && wrong(f.store.add_secret(1, [6; 32]).await));
    assert_eq!((f.again)().secrets().await.expect("secrets"), [one, two]);

    f.store.forget_secret(1).await.expect("forgotten");
    f.store.forget_secret(1).await.expect("forgotten already");
    f.store.forget_secret(2).await.expect("the only one stays");
    assert_eq!(f.store.secrets().await.expect("secrets"), [two]);
    check_secrets(&*f.store, &[one, two, three]).await.expect("what was forgotten does no harm");
    assert_eq!(f.store.secrets().await.expect("secrets"), [two, three], "and is not taken again");
    assert!(wrong(check_secrets(&*f.store, &[one]).await));
}

fn keep(number: u8, until: Timestamp) -> Keep {
    let key = Some(key(number).id);
    Keep { once: OnceKey([number; 32]), request: [7; 32], key, sealed: vec![number], until }
}

async fn kept(store: &SharedStore, number: u8) -> Option<Kept> {
    let read = ReadRequest { once: Some(OnceKey([number; 32])), ..ReadRequest::default() };
    store.read(read).await.expect("a reading").once
}

async fn write_and_keep(store: &SharedStore, changes: Vec<Change>, keep: Keep) -> Result<Committed, StoreError> {
    let read = ReadRequest { once: Some(keep.once), ..ReadRequest::default() };
    let plan = move |reading: &Reading| -> Planned {
        if reading.once.is_some() {
            return Err(Box::new("again"));
        }
        Ok(Changes { keep: Some(keep.clone()), ..Changes::by(Actor::System, changes.clone()) })
    };
    let outcome = store.mutate(read, Box::new(plan)).await?;
    outcome.map_err(|_refusal| StoreError::Unavailable { store: "again".to_owned(), cause: String::new() })
}

pub(super) async fn an_answer_is_kept_with_what_it_answers_and_forgotten_in_time(f: Fixture) {
    f.clock.set(at(10_000));
    let until = at(10_900);
    let same = Key { hash: key(1).hash, ..key(2) };
    write(&f.store, vec![write_key(key(1))]).await.expect("a commit");
    write_and_keep(&f.store, vec![write_key(same)], keep(2, until)).await.expect_err("the token is there");
    assert!(kept(&f.store, 2).await.is_none(), "what was not done was not answered");
    // Many at once with the same key: one is done, and in whatever commit it was, the rest see it.
    let mut tasks = tokio::task::JoinSet::new();
    let stores = [Arc::clone(&f.store), (f.again)()];
    for number in 10..26 {
        let store = Arc::clone(&stores[usize::from(number) % 2]);
        tasks.spawn(async move { write_and_keep(&store, vec![write_key(key(number))], keep(3, until)).await });
    }
    let done = tasks.join_all().await.into_iter().filter_map(Result::ok).collect::<Vec<_>>();
    assert_eq!((done.len(), f.store.list_keys(KeyQuery::default()).await.expect("a list").keys.len()), (1, 2));
    let found = kept(&f.store, 3).await.expect("it is kept");
    assert_eq!((found.request, found.key, found.revision), ([7; 32], Some(key(3).id), done[0].revision));
    assert_eq!(found.sealed, Some(vec![3]));
    let nothing = write_and_keep(&f.store, vec![], keep(4, until)).await.expect("nothing to do");
    assert_eq!(kept(&f.store, 4).await.map(|kept| kept.revision), Some(nothing.revision));
    assert_eq!(newest(&f.store).await.revision, nothing.revision, "an answer alone uses no revision");
    for swept in [false, true] {
        f.clock.set(until);
        if swept {
            f.store.tidy().await.expect("a sweep");
        }
        let found = kept(&f.store, 3).await.expect("that it was done is remembered");
        assert_eq!((found.key, found.sealed), (Some(key(3).id), None));
    }
    f.clock.set(at(10_000).plus(ONCE_KEPT));
    assert!(kept(&f.store, 3).await.is_none());
    write_and_keep(&f.store, vec![write_key(key(30))], keep(3, at(200_000))).await.expect("it is new again");
    f.store.tidy().await.expect("a sweep");
    assert_eq!(kept(&f.store, 3).await.map(|kept| kept.sealed), Some(Some(vec![3])));
}

pub(super) async fn refused_attempts_add_up_without_a_revision(f: Fixture) {
    f.clock.set(at(10_000_000));
    let before = newest(&f.store).await;
    let tally = |minute: i64, code: &str, count| RefusalTally {
        minute: at(10_000_000 + minute * 60),
        actor: Actor::Key(key(1).id),
        from: Some([192, 0, 2, 1].into()),
        operation: "create".to_owned(),
        code: code.to_owned(),
        subject: Some(Subject::Key(key(2).id)),
        count,
        last_at: at(10_000_000 + minute * 60 + count_of(count)),
    };
    let alone = RefusalTally { from: None, subject: None, actor: Actor::Local("ann".to_owned()), ..tally(0, "a", 1) };
    f.store.record_refusals(vec![tally(0, "a", 2), tally(0, "b", 1), alone.clone()]).await.expect("written");
    f.store.record_refusals(vec![tally(0, "a", 3), tally(1, "a", 1)]).await.expect("written");
    let list = |query: RefusalQuery| async { f.store.list_refusals(query).await.expect("a list") };
    let all = list(RefusalQuery::default()).await;
    let sum = RefusalTally { last_at: at(10_000_003), ..tally(0, "a", 5) };
    assert_eq!(all, [tally(1, "a", 1), sum.clone(), tally(0, "b", 1), alone.clone()]);
    assert_eq!(list(RefusalQuery { limit: 1, ..RefusalQuery::default() }).await, [tally(1, "a", 1)]);
    let before_it = RefusalQuery { before: Some(at(10_000_060)), actor: Some(Actor::Key(key(1).id)), limit: 0 };
    assert_eq!(list(before_it).await, [sum, tally(0, "b", 1)]);
    assert_eq!(newest(&f.store).await, before);
    f.clock.set(at(10_000_030).plus(REFUSALS_KEPT));
    f.store.tidy().await.expect("a sweep");
    assert_eq!(list(RefusalQuery::default()).await, [tally(1, "a", 1)]);
}

fn count_of(count: u64) -> i64 {
    i64::try_from(count).expect("a small number")
}

pub(super) async fn an_event_tells_from_where_it_was_asked(f: Fixture) {
    let own = write_key(key(1));
    let plan = move |_: &Reading| -> Planned {
        let changes = Changes::by(Actor::Key(key(9).id), vec![own.clone()]);
        Ok(Changes { from: "2001:db8::1".parse().ok(), ..changes })
    };
    assert!(f.store.mutate(ReadRequest::default(), Box::new(plan)).await.expect("an answer").is_ok());
    write(&f.store, vec![write_key(key(2))]).await.expect("a commit");
    let events = f.store.list_events(EventQuery::default()).await.expect("events");
    let from: Vec<_> = events.iter().map(|event| event.from).collect();
    assert_eq!(from, ["2001:db8::1".parse().ok(), None]);
}

pub(super) async fn a_reading_tells_what_a_mutation_will_be(f: Fixture) {
    f.clock.set(at(1000));
    let ann: UserId = "ann".parse().expect("a user id");
    let owned = |number| Key { user: Some(ann.clone()), ..key(number) };
    let ended = [
        Key { states: States { revoked: true, ..States::default() }, ..owned(3) },
        Key { states: States { superseded: true, ..States::default() }, ..owned(4) },
        Key { expires_at: Some(at(1000)), ..owned(5) },
        Key { grace_expires_at: Some(at(999)), ..owned(6) },
    ];
    let rows = [owned(1), Key { expires_at: Some(at(1001)), ..owned(2) }, key(7)].into_iter().chain(ended);
    let rows = [write_user(user("ann"))].into_iter().chain(rows.map(write_key)).collect();
    let first = write(&f.store, rows).await.expect("a commit");
    let off = |number| change(Row::Key(Box::new(owned(number))), EventKind::KeyDisabled);
    write(&f.store, vec![off(1)]).await.expect("a commit");
    let last = write(&f.store, vec![off(2), off(1)]).await.expect("a commit");
    let seen = Arc::new(Mutex::new(None));
    let told = Arc::clone(&seen);
    let own = write_key(key(8));
    let plan = move |reading: &Reading| -> Planned {
        *told.lock() = Some(reading.clone());
        Ok(Changes::by(Actor::System, vec![own.clone()]))
    };
    let read = ReadRequest { count_of_user: Some(ann), disabled: Some(key(1).id), ..ReadRequest::default() };
    let committed = f.store.mutate(read.clone(), Box::new(plan)).await.expect("an answer").expect("a commit");
    let seen = seen.lock().take().expect("the plan ran");
    assert_eq!(seen.next, Cursor { revision: committed.revision, commit: committed.commit });
    assert_eq!(seen.newest, Cursor { revision: last.revision, commit: last.commit });
    assert_eq!((seen.now, seen.count_of_user), (committed.at, 2));
    let switched_off = seen.disabled.expect("it was switched off");
    assert_eq!(switched_off.stamp, Stamp { revision: last.revision, ordinal: 1 });
    let outside = f.store.read(ReadRequest { disabled: Some(key(7).id), ..read }).await.expect("a reading");
    assert_eq!((outside.next, outside.newest.revision), (outside.newest, first.revision + 3));
    assert!(outside.disabled.is_none());
}

pub(super) async fn a_page_goes_on_where_it_ended(f: Fixture) {
    let rare = |number: u8| number % 100 == 7;
    let keys = (0..=250).map(|number| Key { name: if rare(number) { "rare" } else { "x" }.to_owned(), ..key(number) });
    write(&f.store, keys.map(write_key).collect()).await.expect("a commit");
    for limit in [1, 3, 100, 300] {
        let mut query = KeyQuery { text: Some("rare".to_owned()), limit, ..KeyQuery::default() };
        let mut found = Vec::new();
        loop {
            let page = f.store.list_keys(query.clone()).await.expect("a list");
            assert!(page.keys.len() <= limit);
            found.extend(page.keys.into_iter().map(|(found, _, _)| found.id));
            let Some(next) = page.next else { break };
            query.before = Some(next);
        }
        assert_eq!(found, [key(207).id, key(107).id, key(7).id]);
    }
    let unknown = KeyQuery { before: Some(KeyId::from_bits(1)), limit: 1, ..KeyQuery::default() };
    assert!(f.store.list_keys(unknown).await.expect("a list").keys.is_empty());
}

pub(super) async fn what_a_user_makes_for_itself_is_counted(f: Fixture) {
    let ann = user("ann").id;
    let of_ann = |number: u8, minter: Option<u8>, made: i64| Key {
        user: Some(ann.clone()),
        minted_by: minter.map(|minter| key(minter).id),
        created_at: at(made),
        ..key(number)
    };
    let mut gone = of_ann(4, Some(1), 950);
    gone.states.revoked = true;
    let keys = [
        of_ann(1, None, 990),
        of_ann(2, Some(1), 899),
        of_ann(3, Some(1), 901),
        gone,
        of_ann(5, Some(6), 960),
        Key { user: None, minted_by: Some(key(1).id), created_at: at(970), ..key(6) },
        of_ann(7, Some(3), 980),
    ];
    let mut changes = vec![write_user(user("ann"))];
    changes.extend(keys.map(write_key));
    write(&f.store, changes).await.expect("a commit");
    let read = ReadRequest { made_for_itself: Some((ann, Duration::from_secs(100))), ..ReadRequest::default() };
    let reading = f.store.read(read).await.expect("a reading");
    assert_eq!(reading.made_for_itself, 3, "3, 4 and 7: neither what is older nor what others made");
}

pub(super) async fn no_more_is_read_of_what_a_key_minted_than_was_asked_for(f: Fixture) {
    // Key 1 minted 2, that one 3, and so on; and 1 minted 9.
    let minted = |number: u8, by: u8| write_key(Key { minted_by: Some(key(by).id), ..key(number) });
    let mut changes = vec![write_key(key(1))];
    changes.extend((2..=6).map(|number| minted(number, number - 1)));
    changes.push(minted(9, 1));
    write(&f.store, changes).await.expect("a commit");
    let read = async |most| {
        let request = ReadRequest { descendants_of: Some(key(1).id), descendants_max: most, ..ReadRequest::default() };
        f.store.read(request).await.expect("a reading").keys
    };
    assert_eq!(read(0).await.len(), 6);
    for most in 1..=8 {
        let keys = read(most).await;
        assert_eq!(keys.len(), most.min(6));
        let is_there = |id| id == key(1).id || keys.iter().any(|key| key.id == id);
        assert!(keys.iter().all(|key| key.minted_by.is_some_and(is_there)), "each with the one that minted it");
    }
}

pub(super) async fn the_newest_events_of_a_key_are_read(f: Fixture) {
    for number in [1, 2, 1, 1] {
        write(&f.store, vec![write_key(key(3)), write_key(key(number))]).await.expect("a commit");
    }
    let read = async |most| {
        let request = ReadRequest { newest_events: Some((key(1).id, most)), ..ReadRequest::default() };
        let events = f.store.read(request).await.expect("a reading").newest_events;
        assert!(events.iter().all(|event| event.subject == Subject::Key(key(1).id)));
        events.iter().map(|event| event.stamp.revision).collect::<Vec<_>>()
    };
    assert_eq!((read(2).await, read(9).await), (vec![4, 3], vec![4, 3, 1]));
}

/// Every filter alone, and every two of them.
pub(super) fn queries() -> Vec<KeyQuery> {
    let statuses = Status::ALL.map(Some);
    let mut one: Vec<KeyQuery> = vec![
        KeyQuery { project: "acme".parse().ok(), ..KeyQuery::default() },
        KeyQuery { environment: "test".parse().ok(), ..KeyQuery::default() },
        KeyQuery { user: "ann".parse().ok(), ..KeyQuery::default() },
        KeyQuery { text: Some("x".to_owned()), ..KeyQuery::default() },
        KeyQuery { expires_within_days: Some(3), ..KeyQuery::default() },
        KeyQuery { unused_for_days: Some(3), ..KeyQuery::default() },
        KeyQuery { lineage: Some(KeyId::from_bits(1).lineage()), ..KeyQuery::default() },
        KeyQuery { unrevoked: true, ..KeyQuery::default() },
    ];
    one.extend(statuses.map(|status| KeyQuery { status, ..KeyQuery::default() }));
    let mut all = one.clone();
    for first in &one {
        for second in &one {
            all.push(KeyQuery {
                project: first.project.clone().or(second.project.clone()),
                environment: first.environment.clone().or(second.environment.clone()),
                user: first.user.clone().or(second.user.clone()),
                status: first.status.or(second.status),
                text: first.text.clone().or(second.text.clone()),
                expires_within_days: first.expires_within_days.or(second.expires_within_days),
                unused_for_days: first.unused_for_days.or(second.unused_for_days),
                lineage: first.lineage.or(second.lineage),
                unrevoked: first.unrevoked || second.unrevoked,
                ..KeyQuery::default()
            });
        }
    }
    all
}
