//! The contract, and what is PostgreSQL's alone: the server and what may happen to it.

#[path = "../../../tests/it/harness/cluster.rs"]
#[expect(dead_code, reason = "some of it is for the tests from outside")]
mod cluster;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::list::{Explained, explained};
use super::schema::Empty;
use super::{Address, Clocks, PostgresSettings, PostgresStore};
use crate::clock::{ManualClock, Timestamp};
use crate::key::Actor;
use crate::store::contract::{Fixture, contract, key, load, newest, queries, write, write_key};
use crate::store::copy_contract::{self, copy_contract};
use crate::store::fleet_contract::fleet_contract;
use crate::store::rotation_contract::rotation_contract;
use crate::store::staging_contract::staging_contract;
use crate::store::{Changes, Cursor, Damaged, KeyQuery, Loaded, ReadRequest, Reading, SharedStore, Store, StoreError};
use cluster::{Care, Cluster};

fn settings(cluster: &Cluster) -> PostgresSettings {
    PostgresSettings::new(Address::parse(&cluster.url()).expect("a good URL"))
}

fn by(clock: &Arc<ManualClock>) -> Clocks {
    Clocks { clock: Some(Arc::<ManualClock>::clone(clock) as _) }
}

fn fixture() -> Fixture {
    let cluster = Cluster::start(Care::Fast);
    let settings = settings(&cluster);
    let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1000)));
    let (store, made) = PostgresStore::start(&settings, Empty::Fill, &by(&clock)).expect("a new store");
    assert!(made);
    let again = {
        let clock = Arc::clone(&clock);
        move || -> SharedStore {
            let opened = PostgresStore::start(&settings, Empty::Refuse, &by(&clock));
            Arc::new(opened.expect("the store is there").0)
        }
    };
    Fixture { store: Arc::new(store), again: Box::new(again), clock, _held: Box::new(cluster) }
}

contract!(fixture);
copy_contract!(fixture);
fleet_contract!(fixture);
rotation_contract!(fixture);
staging_contract!(fixture);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_and_a_server_are_copied_into_each_other() {
    let file = crate::store::sqlite::tests::fixture;
    copy_contract::a_copy_is_the_same_in_every_row(file(), fixture()).await;
    copy_contract::a_copy_is_the_same_in_every_row(fixture(), file()).await;
}

#[tokio::test]
async fn the_tables_of_an_older_version_are_brought_up_to_date() {
    let cluster = Cluster::start(Care::Fast);
    let store = create(&cluster);
    write(&store, vec![write_key(key(1))]).await.expect("a commit");
    drop(store);
    cluster.sql("DROP TABLE keyward.copying, keyward.acceptances; UPDATE keyward.meta SET migrations = 1");
    let store = PostgresStore::open(&settings(&cluster)).expect("it is brought up to date");
    assert_eq!(store.list_keys(KeyQuery::default()).await.expect("a list").keys.len(), 1);
    assert_eq!(store.history().expect("it has one").acceptances().await.expect("an answer"), []);
}

fn create(cluster: &Cluster) -> SharedStore {
    Arc::new(PostgresStore::create(&settings(cluster)).expect("a new store").0)
}

fn one_line(error: &StoreError) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.contains("postgres://127.0.0.1"), "{text}");
    text
}

#[tokio::test]
async fn only_create_makes_the_tables() {
    let cluster = Cluster::start(Care::Fast);
    let error = PostgresStore::open(&settings(&cluster)).expect_err("nothing is there");
    assert!(matches!(error, StoreError::Missing { .. }) && one_line(&error).contains("keyward init"), "{error}");
    let (store, made) = PostgresStore::create(&settings(&cluster)).expect("a new store");
    let (again, made_again) = PostgresStore::create(&settings(&cluster)).expect("it is there already");
    assert_eq!((store.id(), made, made_again), (again.id(), true, false));
    assert_eq!(PostgresStore::open(&settings(&cluster)).expect("it is there").id(), store.id());
}

#[test]
fn two_that_make_the_store_at_once_make_one() {
    let cluster = Cluster::start(Care::Fast);
    let settings = settings(&cluster);
    let made = std::thread::scope(|scope| {
        let makers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| PostgresStore::create(&settings).expect("a store"))).collect();
        makers.into_iter().map(|maker| maker.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert_eq!(made.iter().filter(|(_, made)| *made).count(), 1);
    assert!(made.iter().all(|(store, _)| store.id() == made[0].0.id()));
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let cluster = Cluster::start(Care::Fast);
    drop(create(&cluster));
    cluster.sql("UPDATE keyward.meta SET migrations = 99");
    let error = PostgresStore::open(&settings(&cluster)).expect_err("it is newer");
    assert!(matches!(error, StoreError::TooNew { found: 99, known: 1.., .. }), "{error}");
    assert!(one_line(&error).contains("newer keyward"));
}

#[tokio::test]
async fn times_are_the_servers() {
    let cluster = Cluster::start(Care::Fast);
    let store = create(&cluster);
    let committed = write(&store, vec![write_key(key(1))]).await.expect("a commit");
    let polled = store.poll(Cursor::default()).await.expect("a poll").now;
    let server: i64 = cluster.sql("SELECT floor(extract(epoch FROM now()))").parse().expect("a number");
    for at in [committed.at, polled] {
        assert!((server - 60..=server).contains(&at.seconds()), "{at:?} and {server}");
    }
    assert!(committed.at.nanos() % 1000 == 0 && committed.at <= polled);
}

#[tokio::test]
async fn a_damaged_row_is_named_and_the_others_are_listed_and_followed() {
    let cluster = Cluster::start(Care::Fast);
    let store = create(&cluster);
    for number in 1..=3 {
        write(&store, vec![write_key(key(number))]).await.expect("a commit");
    }
    cluster.sql("UPDATE keyward.keys SET props = 'no JSON' WHERE name = 'key 2'");
    let page = store.list_keys(KeyQuery::default()).await.expect("a list");
    let ids: Vec<_> = page.keys.iter().map(|(key, ..)| key.id).collect();
    assert_eq!(ids, [key(3).id, key(1).id]);
    let named = Damaged::Key { id: key(2).id, hash: Some(key(2).hash) };
    let [(what, cause)] = &page.damaged[..] else { panic!("one row: {:?}", page.damaged) };
    assert!(*what == named && cause.contains(&key(2).id.to_string()), "{what:?}: {cause}");
    let first = store.poll(Cursor::default()).await.expect("a poll");
    for revision in [0, 1] {
        let seen = Arc::new(parking_lot::Mutex::new((0, Vec::new())));
        let given = Arc::clone(&seen);
        let sink = move |batch| match batch {
            crate::store::Batch::Row(..) => given.lock().0 += 1,
            crate::store::Batch::Damaged(_, what, _) => given.lock().1.push(what),
            crate::store::Batch::End(poll) => assert_eq!(poll.newest, first.newest),
        };
        let cursor = Cursor { revision, commit: crate::store::CommitId::default() };
        store.changes_after(cursor, Box::new(sink)).await.expect("the feed");
        let (rows, damaged) = &*seen.lock();
        assert_eq!(
            (*rows, damaged.as_slice()),
            (2 - usize::try_from(revision).expect("small"), [named.clone()].as_slice())
        );
    }
}

/// Keys by the thousand, as one revision. What the server makes up is damaged where its number is `damaged`.
fn fill(cluster: &Cluster, keys: u32, damaged: u32) {
    cluster.sql(&format!(
        "INSERT INTO keyward.keys (id, lineage, hash, format, name, environment, inherit, flags, props, may_grant, \
         operates, self_rotate, revoked, disabled, superseded, webhook_secret_version, created_at, updated_at, \
         revision, ordinal) SELECT id, id, sha512(int4send(n)), 'imported', repeat('n', 200), 'live', false, \
         CASE n WHEN {damaged} THEN 'no..flag' ELSE 'jobs:read' END, '{{}}', '', false, false, false, false, false, 1, 1, \
         1, 1, n FROM (SELECT n, md5(n::text)::uuid AS id FROM generate_series(1, {keys}) AS n OFFSET 0) AS made; \
         UPDATE keyward.counter SET revision = 1, commit_id = gen_random_uuid()"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_are_loaded_by_two_connections_and_each_once() {
    const KEYS: u32 = 22_000;
    let cluster = Cluster::start(Care::Fast);
    let store = create(&cluster);
    fill(&cluster, KEYS, 777);
    for lanes in [1, 2] {
        let (taken, poll) = load(&store, lanes).await;
        assert_eq!(poll.newest.revision, 1);
        assert!(taken.iter().all(|lane| !lane.is_empty()), "every lane takes some");
        let mut ordinals = std::collections::BTreeSet::new();
        for loaded in taken.into_iter().flatten() {
            match loaded {
                Loaded::Key(key) => assert!(ordinals.insert(key.stamp.ordinal), "{key:?} came twice"),
                Loaded::Damaged(Damaged::Key { id, hash: Some(_) }, cause) => {
                    assert!(cause.starts_with(&id.to_string()), "{cause}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(ordinals.len(), usize::try_from(KEYS - 1).expect("few"));
    }
}

#[tokio::test]
async fn a_page_of_events_of_an_import_is_sought_and_not_sorted() {
    let cluster = Cluster::start(Care::Fast);
    let _store = create(&cluster);
    cluster.sql(
        "INSERT INTO keyward.stages (number, id, keys, touched_at, lost, revision, at) \
         SELECT -n, gen_random_uuid(), 1000, 1, false, n, 1 FROM generate_series(1, 5) AS n; \
         INSERT INTO keyward.events (revision, ordinal, at, kind, actor, key_id, changes) \
         SELECT -s, n, 1, 'key_imported', 'system', gen_random_uuid(), '{}' \
         FROM generate_series(1, 5) AS s, generate_series(0, 999) AS n; ANALYZE keyward.events; ANALYZE keyward.stages",
    );
    let sql = super::copy::events_sql();
    let sql = sql.replace("$1", "-3").replace("$2", "500").replace("$3", "-3").replace("$4", "100");
    let plan = cluster.sql(&format!("EXPLAIN {sql}"));
    assert!(plan.contains("Index Scan using events_pkey") && !plan.contains("Sort"), "{plan}");
}

/// Keys of many projects, users and standings, with their usage, as a store has them that is in use.
fn settle(cluster: &Cluster, keys: u32) {
    cluster.sql(&format!(
        "INSERT INTO keyward.users SELECT 'user-' || n, NULL, 'jobs:read', n % 500 <> 0, false, 1, 1, 1, n \
         FROM generate_series(1, {keys} / 20) AS n; \
         INSERT INTO keyward.keys (id, lineage, hash, format, name, project, environment, user_id, inherit, flags, props, \
         may_grant, operates, self_rotate, revoked, disabled, superseded, expires_at, grace_expires_at, \
         webhook_secret_version, created_at, updated_at, revision, ordinal) \
         SELECT id, id, sha512(int4send(n)), 'imported', 'key ' || n, 'project-' || n % 10, \
         CASE n % 8 WHEN 0 THEN 'test' ELSE 'live' END, CASE WHEN n % 2 = 0 THEN 'user-' || 1 + n % ({keys} / 20) END, \
         false, 'jobs:read', '{{}}', '', false, false, n % 5 = 0, n % 50 = 1, n % 20 = 2, \
         CASE n % 4 WHEN 0 THEN n::bigint * 1000000000 END, CASE n % 100 WHEN 3 THEN n::bigint * 1000000000 END, \
         1, 1, 1, 1, n FROM (SELECT n, md5(n::text)::uuid AS id FROM generate_series(1, {keys}) AS n OFFSET 0) AS made; \
         INSERT INTO keyward.key_usage SELECT id, 'gw', 1, 1 FROM keyward.keys; \
         UPDATE keyward.counter SET revision = 1, commit_id = gen_random_uuid(); ANALYZE"
    ));
}

#[tokio::test]
async fn no_list_reads_all_keys() {
    const KEYS: u32 = 20_000;
    let cluster = Cluster::start(Care::Fast);
    let store = PostgresStore::create(&settings(&cluster)).expect("a new store").0;
    settle(&cluster, KEYS);
    let explaining = store.read_with(super::Kind::ReadLong, |transaction| {
        Box::pin(async move {
            let before = i64::from(KEYS / 2);
            // Few of all, as they are where there are many.
            let looked_at: Vec<i64> = (before - 400..before).collect();
            let (mut known, mut found) = (HashSet::new(), Vec::new());
            for query in queries() {
                let query = KeyQuery { limit: 200, ..query };
                found.extend(explained(transaction, &query, before, (&looked_at, &mut known)).await?);
            }
            Ok(found)
        })
    });
    let found = explaining.await.expect("it says how it would");
    assert!(found.len() > 100, "{}", found.len());
    for Explained { sql, is_in_order, plan } in &found {
        let reads_all = plan.contains("Seq Scan on keys") || plan.contains("Seq Scan on key_usage");
        let sorts = *is_in_order && plan.contains("Sort");
        assert!(!reads_all && !sorts, "{sql}\n{plan}");
    }
}

#[tokio::test]
async fn another_stores_database_is_polled_and_never_used() {
    let cluster = Cluster::start(Care::Fast);
    let store = create(&cluster);
    cluster.sql("UPDATE keyward.meta SET store_id = gen_random_uuid()");
    let error = write(&store, vec![write_key(key(1))]).await.expect_err("it is not ours");
    assert!(matches!(error, StoreError::OtherStore { .. }), "{error}");
    assert!(matches!(store.find(key(1).hash).await, Err(StoreError::OtherStore { .. })));
    assert_ne!(store.poll(Cursor::default()).await.expect("a poll").store, store.id());
}

/// Tries until the server answers again.
async fn until_it_answers(store: &SharedStore) -> crate::store::Poll {
    for _attempt in 0..200 {
        if let Ok(poll) = store.poll(Cursor::default()).await {
            return poll;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_crash_of_the_server_and_it_is_found_again() {
    let mut cluster = Cluster::start(Care::Durable);
    let store = create(&cluster);
    let acknowledged = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..4u8 {
        let (store, acknowledged) = (Arc::clone(&store), Arc::clone(&acknowledged));
        tasks.spawn(async move {
            for number in 0..60 {
                let number = writer * 60 + number;
                if let Ok(committed) = write(&store, vec![write_key(key(number))]).await {
                    acknowledged.lock().push((number, committed.revision));
                }
            }
        });
    }
    while acknowledged.lock().len() < 40 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    cluster.kill();
    cluster.restart();
    tasks.join_all().await;
    let poll = until_it_answers(&store).await;
    let listed = store.list_keys(KeyQuery::default()).await.expect("a list").keys;
    let stored: std::collections::BTreeMap<_, _> =
        listed.iter().map(|(key, ..)| (key.id, key.stamp.revision)).collect();
    let acknowledged = acknowledged.lock();
    assert!(acknowledged.len() >= 40);
    for (number, revision) in &*acknowledged {
        assert_eq!(stored.get(&key(*number).id), Some(revision), "key {number} was acknowledged");
    }
    assert_eq!(
        u64::try_from(stored.len()).expect("a small number"),
        poll.newest.revision,
        "no revision twice, none lost"
    );
    // What was not acknowledged was not done: a lost answer was asked after.
    assert_eq!(acknowledged.len(), stored.len());
}

#[tokio::test]
async fn what_a_plan_writes_while_its_server_goes_down_is_not_acknowledged() {
    let mut cluster = Cluster::start(Care::Durable);
    let store = create(&cluster);
    write(&store, vec![write_key(key(1))]).await.expect("a commit");
    cluster.kill();
    let started = std::time::Duration::from_secs(20);
    let failed = tokio::time::timeout(started, write(&store, vec![write_key(key(2))])).await.expect("it says so soon");
    assert!(matches!(failed, Err(StoreError::Unavailable { .. })), "{failed:?}");
    one_line(&failed.expect_err("it is away"));
    cluster.restart();
    until_it_answers(&store).await;
    assert_eq!(newest(&store).await.revision, 1);
    assert_eq!(write(&store, vec![write_key(key(2))]).await.expect("a commit").revision, 2);
}

#[tokio::test]
async fn a_plan_sees_what_its_own_transaction_sees() {
    let cluster = Cluster::start(Care::Fast);
    let store = create(&cluster);
    let (one, other) = (create(&cluster), create(&cluster));
    // Two gateways that both make the first key: the second finds that there is one.
    let first = |store: SharedStore, number| async move {
        let plan = move |reading: &Reading| {
            if reading.any_key {
                Err(Box::new("not the first") as _)
            } else {
                Ok(Changes::by(Actor::System, vec![write_key(key(number))]))
            }
        };
        store.mutate(ReadRequest::default(), Box::new(plan)).await.expect("an answer").is_ok()
    };
    let (one, other) = tokio::join!(first(one, 1), first(other, 2));
    assert!(one != other, "one of them");
    assert_eq!(newest(&store).await.revision, 1);
}
