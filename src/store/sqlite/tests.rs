//! The contract, and what is SQLite's alone: the file and what may happen to it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::{SqliteStore, examine};
use crate::clock::{ManualClock, Timestamp};
use crate::store::contract::{Fixture, contract, key, newest, write, write_key};
use crate::store::copy_contract::copy_contract;
use crate::store::fleet_contract::fleet_contract;
use crate::store::rotation_contract::rotation_contract;
use crate::store::staging_contract::staging_contract;
use crate::store::{Cursor, Damaged, KeyQuery, SharedStore, Store, StoreError};

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_seconds(1000)))
}

pub(in crate::store) fn fixture() -> Fixture {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("keys").join("keyward.db");
    let clock = clock();
    let store = SqliteStore::create(&path, Arc::<ManualClock>::clone(&clock) as _).expect("a new store");
    let again = {
        let clock = Arc::clone(&clock);
        move || -> SharedStore {
            Arc::new(SqliteStore::open(&path, Arc::<ManualClock>::clone(&clock) as _).expect("the store is there"))
        }
    };
    Fixture { store: Arc::new(store), again: Box::new(again), clock, _held: Box::new(folder) }
}

contract!(fixture);
copy_contract!(fixture);
fleet_contract!(fixture);
rotation_contract!(fixture);
staging_contract!(fixture);

fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, clock())
}

fn one_line(error: &StoreError) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.contains("keyward.db"), "{text}");
    text
}

#[test]
fn only_create_makes_a_file_and_none_but_its_owner_may_read_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("keyward.db");
    let error = open(&path).expect_err("nothing is there");
    assert!(matches!(error, StoreError::Missing { .. }) && one_line(&error).contains("keyward init"), "{error}");
    assert!(!path.exists());
    let id = SqliteStore::create(&path, clock()).expect("a new store").id();
    let mode = fs::metadata(&path).expect("the file is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(SqliteStore::create(&path, clock()).expect("it is there already").id(), id);
    assert_eq!(open(&path).expect("it is there").id(), id);
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("keyward.db");
    drop(SqliteStore::create(&path, clock()).expect("a new store"));
    Connection::open(&path).and_then(|file| file.pragma_update(None, "user_version", 99)).expect("a changed number");
    let error = open(&path).expect_err("it is newer");
    assert!(matches!(error, StoreError::TooNew { found: 99, known: 2.., .. }), "{error}");
    assert!(one_line(&error).contains("newer keyward"));
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("keyward.db");
    let noise = b"no database at all, but long enough to have a header of a hundred bytes ".repeat(40);
    fs::write(&path, &noise).expect("a file");
    for result in [open(&path), SqliteStore::create(&path, clock())] {
        let error = result.expect_err("it is no database");
        assert!(matches!(error, StoreError::Damaged { .. }) && one_line(&error).contains("backup"), "{error}");
    }
    assert_eq!(fs::read(&path).expect("the file is there"), noise);

    fs::write(&path, b"").expect("a file");
    assert!(matches!(open(&path), Err(StoreError::Damaged { .. })), "an empty file is no store");

    fs::remove_file(&path).expect("the file is there");
    Connection::open(&path).and_then(|file| file.execute_batch("CREATE TABLE theirs (x)")).expect("their database");
    for result in [open(&path), SqliteStore::create(&path, clock())] {
        let error = result.expect_err("it is another program's");
        assert!(one_line(&error).contains("another program"), "{error}");
    }
}

#[tokio::test]
async fn a_torn_file_is_told_as_damaged() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("keyward.db");
    let store: SharedStore = Arc::new(SqliteStore::create(&path, clock()).expect("a new store"));
    for number in 0..50 {
        write(&store, vec![write_key(key(number))]).await.expect("a commit");
    }
    drop(store);
    let mut bytes = fs::read(&path).expect("the file is there");
    examine(&path).expect("a sound file");
    bytes[8192..].fill(0x5a);
    fs::write(&path, bytes).expect("a torn file");
    let error = examine(&path).expect_err("pages are torn");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    one_line(&error);
    let error = match open(&path) {
        Err(error) => error,
        Ok(store) => store.changes_after(Cursor::default(), Box::new(|_| {})).await.expect_err("rows are torn"),
    };
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    one_line(&error);
}

/// Puts a copy of the store as it is now beside it.
fn back_up(path: &Path, copy: &Path) {
    let into = copy.to_str().expect("a path of a test");
    Connection::open(path).and_then(|file| file.execute("VACUUM INTO ?1", [into])).expect("a copy");
}

#[tokio::test]
async fn a_file_replaced_by_rename_is_noticed_before_anything_is_acknowledged() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("keyward.db");
    let store: SharedStore = Arc::new(SqliteStore::create(&path, clock()).expect("a new store"));
    write(&store, vec![write_key(key(1))]).await.expect("a commit");
    let copy = folder.path().join("backup.db");
    back_up(&path, &copy);
    let lost = write(&store, vec![write_key(key(2))]).await.expect("a commit");
    let cursor = Cursor { revision: lost.revision, commit: lost.commit };
    store.wait_for_news(Duration::from_millis(1)).await;

    let replacing = Arc::new(parking_lot::Mutex::new(Some((copy, path.clone()))));
    // In the middle of a mutation: after its rows are read, before it is committed.
    let plan = move |_: &crate::store::Reading| {
        if let Some((from, to)) = replacing.lock().take() {
            fs::rename(from, to).expect("a rename");
        }
        let changes = vec![write_key(key(3))];
        Ok(crate::store::Changes::by(crate::key::Actor::System, changes))
    };
    let error = store.mutate(crate::store::ReadRequest::default(), Box::new(plan)).await.expect_err("not acknowledged");
    assert!(matches!(error, StoreError::Replaced { .. }), "{error}");

    let poll = store.poll(cursor).await.expect("the new file is opened");
    assert_eq!((poll.newest.revision, poll.at_cursor), (1, None));
    let (found, _) = store.find(key(2).hash).await.expect("a look-up");
    assert!(found.is_none(), "the log of the old file was not replayed into the new one");
    let other = write(&store, vec![write_key(key(4))]).await.expect("the new file is written");
    assert_eq!(other.revision, 2);
    let poll = store.poll(cursor).await.expect("a poll");
    assert_eq!(poll.at_cursor, Some(other.commit));
    assert_ne!(other.commit, lost.commit, "the same revision, another history");
    assert_eq!(Arc::new(open(&path).expect("it is whole")).id(), store.id());
}

#[tokio::test]
async fn a_replaced_file_is_news() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("keyward.db");
    let store: SharedStore = Arc::new(SqliteStore::create(&path, clock()).expect("a new store"));
    let copy = folder.path().join("backup.db");
    back_up(&path, &copy);
    store.wait_for_news(Duration::from_millis(1)).await;
    fs::rename(&copy, &path).expect("a rename");
    let woken = tokio::time::timeout(Duration::from_secs(10), store.wait_for_news(Duration::from_secs(60)));
    assert!(woken.await.is_ok());
}

#[tokio::test]
async fn another_stores_file_is_polled_and_never_used() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, other) = (folder.path().join("keyward.db"), folder.path().join("other.db"));
    let store: SharedStore = Arc::new(SqliteStore::create(&path, clock()).expect("a new store"));
    drop(SqliteStore::create(&other, clock()).expect("another store"));
    fs::rename(&other, &path).expect("a rename");
    let error = write(&store, vec![write_key(key(1))]).await.expect_err("it is not ours");
    assert!(matches!(error, StoreError::OtherStore { .. }), "{error}");
    assert!(matches!(store.find(key(1).hash).await, Err(StoreError::OtherStore { .. })));
    assert_ne!(store.poll(Cursor::default()).await.expect("a poll").store, store.id());
}

#[tokio::test]
async fn a_file_that_is_gone_is_missing_until_it_is_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, away) = (folder.path().join("keyward.db"), folder.path().join("away.db"));
    let store: SharedStore = Arc::new(SqliteStore::create(&path, clock()).expect("a new store"));
    write(&store, vec![write_key(key(1))]).await.expect("a commit");
    fs::rename(&path, &away).expect("a rename");
    assert!(matches!(write(&store, vec![write_key(key(2))]).await, Err(StoreError::Missing { .. })));
    assert!(matches!(store.poll(Cursor::default()).await, Err(StoreError::Missing { .. })));
    fs::rename(&away, &path).expect("a rename");
    assert_eq!(newest(&store).await.revision, 1);
    assert_eq!(write(&store, vec![write_key(key(2))]).await.expect("a commit").revision, 2);
}

/// Names the store that [`a_writer_to_be_killed`] shall write.
const WRITER_PATH: &str = "KEYWARD_TEST_WRITER_PATH";

/// Not a test of its own: the process that the next test kills. It tells of each commit once the
/// store has acknowledged it.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the one way to tell a test that it runs as a child")]
async fn a_writer_to_be_killed() {
    let Some(path) = std::env::var_os(WRITER_PATH) else { return };
    let store: SharedStore = Arc::new(open(Path::new(&path)).expect("the parent made it"));
    for number in 0..=u8::MAX {
        write(&store, vec![write_key(key(number))]).await.expect("a commit");
        println!("acknowledged={number}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_killed_process() {
    let this = std::env::current_exe().expect("the test program");
    for round in 1..=3 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("keyward.db");
        drop(SqliteStore::create(&path, clock()).expect("a new store"));
        let mut child = Command::new(&this)
            .args(["--exact", "store::sqlite::tests::a_writer_to_be_killed", "--nocapture", "--test-threads=1"])
            .env(WRITER_PATH, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut told = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        let number = |line: String| line.split_once("acknowledged=").and_then(|(_, number)| number.parse::<u8>().ok());
        let mut acknowledged: Vec<u8> = told.by_ref().filter_map(number).take(round * 20).collect();
        child.kill().expect("it still runs");
        acknowledged.extend(told.filter_map(number));
        child.wait().expect("it has ended");
        let store: SharedStore = Arc::new(open(&path).expect("it recovers"));
        assert!(acknowledged.len() >= round * 20);
        for number in acknowledged {
            let (found, _) = store.find(key(number).hash).await.expect("a look-up");
            assert!(found.is_some(), "key {number} was acknowledged");
        }
        let listed = store.list_keys(KeyQuery::default()).await.expect("a list").keys.len();
        assert_eq!(newest(&store).await.revision, u64::try_from(listed).expect("a small number"));
    }
}

#[tokio::test]
async fn a_known_secret_is_found_right_while_another_process_writes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("keyward.db");
    let store = SqliteStore::create(&path, clock()).expect("a new store");
    store.check_secret(1, [7; 32]).await.expect("the first is taken");
    let other = Connection::open(&path).expect("the file is there");
    other.execute_batch("BEGIN IMMEDIATE").expect("nobody else writes");
    let again = tokio::time::timeout(Duration::from_secs(2), store.check_secret(1, [7; 32])).await;
    assert!(again.expect("it needs no write lock").is_ok());
    other.execute_batch("ROLLBACK").expect("the lock is ours");
    assert!(matches!(store.check_secret(1, [8; 32]).await, Err(StoreError::WrongSecret { .. })));
}

#[test]
fn every_connection_waits_for_the_disk() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("keyward.db");
    let _store = SqliteStore::create(&path, clock()).expect("a new store");
    for role in [super::file::Role::Writer, super::file::Role::Reader] {
        let connection = super::file::connect(&path, role).unwrap_or_else(|fault| panic!("{fault:?}"));
        let level: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).expect("a level");
        assert_eq!(level, 2, "{role:?}: FULL");
        let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("a mode");
        assert_eq!(mode, "wal");
    }
}

#[tokio::test]
async fn a_damaged_row_is_named_and_the_others_are_listed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("keyward.db");
    let store: SharedStore = Arc::new(SqliteStore::create(&path, clock()).expect("a new store"));
    for number in 1..=3 {
        write(&store, vec![write_key(key(number))]).await.expect("a commit");
    }
    let file = Connection::open(&path).expect("the file is there");
    file.execute("UPDATE keys SET props = 'no JSON' WHERE name = 'key 2'", []).expect("a torn row");
    let page = store.list_keys(KeyQuery::default()).await.expect("a list");
    let ids: Vec<_> = page.keys.iter().map(|(key, ..)| key.id).collect();
    assert_eq!(ids, [key(3).id, key(1).id]);
    let [(what, cause)] = &page.damaged[..] else { panic!("one row: {:?}", page.damaged) };
    assert_eq!(*what, Damaged::Key { id: key(2).id, hash: Some(key(2).hash) });
    assert!(cause.contains(&key(2).id.to_string()), "{cause}");
}
