//! Imports of more rows than one mutation writes.

use super::*;
use crate::manage::manager::Asked;
use crate::manage::staged::IMPORTED_AT_ONCE_MAX;
use crate::store::{ReadRequest, StoreError};

const ROWS: usize = 2 * IMPORTED_AT_ONCE_MAX + 5;

fn many() -> Vec<ImportedKey> {
    (1..=ROWS).map(|line| row(line, ImportedSecret::Hash(hash_of(line)))).collect()
}

fn hash_of(line: usize) -> TokenHash {
    TokenHash::of(&line.to_be_bytes())
}

fn faults(result: Result<Imported, ManageError>) -> Vec<(usize, String)> {
    match result {
        Err(ManageError::Import(faults)) => faults.into_iter().map(|it| (it.line, it.cause.to_string())).collect(),
        other => panic!("expected rows that are refused, found {other:?}"),
    }
}

impl House {
    async fn import(&self, caller: &Caller, rows: Vec<ImportedKey>) -> Result<Imported, ManageError> {
        self.manager.import_keys(caller, rows, ImportOptions::default()).await
    }

    async fn is_known(&self, line: usize) -> bool {
        self.store.find(hash_of(line)).await.expect("a look-up").0.is_some()
    }

    /// Imports `rows`, and does `meanwhile` once they are put aside.
    async fn import_around(
        &self,
        caller: &Caller,
        rows: Vec<ImportedKey>,
        meanwhile: impl AsyncFnOnce(),
    ) -> Result<Imported, ManageError> {
        let lines: Vec<_> = rows.iter().map(|row| (row.line, None)).collect();
        let (asked, check): (Asked, _) = self.manager.taking_in(caller, rows, ImportOptions::default());
        let aside = self.manager.put_aside(caller, asked, check, &lines).await?;
        assert!(!self.is_known(1).await, "what is put aside is not there yet");
        meanwhile().await;
        self.manager.take_in(caller, aside).await
    }

    async fn importer(&self) -> Caller {
        let all = OperatorScope { project: None, environment: None };
        let new = NewKey { operates_on: Some(all), project: None, ..operator(&["keyward.**"], &["**"]) };
        by_key(self.create(new).await.key.id)
    }
}

#[tokio::test]
async fn an_import_of_many_rows_is_one_revision_too() {
    let house = house();
    let by = house.importer().await;
    let imported = house.import(&by, many()).await.expect("an import");
    let committed = imported.committed.expect("it is committed");
    assert_eq!((imported.keys.len(), committed.revision), (ROWS, 2));
    for line in [1, IMPORTED_AT_ONCE_MAX, IMPORTED_AT_ONCE_MAX + 1, ROWS] {
        let (found, _) = house.store.find(hash_of(line)).await.expect("a look-up");
        let (key, _) = found.expect("it is stored");
        assert_eq!(key, imported.keys[line - 1]);
        assert_eq!((key.stamp.revision, usize::try_from(key.stamp.ordinal)), (2, Ok(line - 1)));
    }
    let events = house.events().await;
    assert_eq!(events.len(), ROWS + 1);
    assert!(
        events[1..]
            .iter()
            .all(|it| it.kind == EventKind::KeyImported && it.actor == by.actor() && it.from == by.address())
    );
    let again = faults(house.import(&by, many()).await);
    assert_eq!(again.len(), ROWS);
    assert_eq!(again[0], (1, format!("the token is already stored as {}", imported.keys[0].id)));
}

#[tokio::test]
async fn an_import_of_many_rows_with_a_bad_one_leaves_nothing_behind() {
    let house = house();
    let mut rows = many();
    rows[ROWS - 1].secret = ImportedSecret::Hash(hash_of(7));
    let found = faults(house.import(&local(), rows).await);
    assert_eq!(found, [(ROWS, "the same token as on line 7".to_owned())]);
    // Stored between the check and the last batch.
    let meanwhile = row(1, ImportedSecret::Hash(hash_of(ROWS)));
    let lines: Vec<_> = (1..=ROWS).map(|line| (line, None)).collect();
    let (asked, mut check) = house.manager.taking_in(&local(), many(), ImportOptions::default());
    let mut first = true;
    let raced = {
        let (manager, meanwhile) = (house.manager.clone(), vec![meanwhile]);
        let handle = tokio::runtime::Handle::current();
        move |reading: &crate::store::Reading| {
            let plan = check(reading);
            if std::mem::take(&mut first) {
                let (manager, rows) = (manager.clone(), meanwhile.clone());
                let imported = std::thread::scope(|scope| {
                    let import = async { manager.import_keys(&local(), rows, ImportOptions::default()).await };
                    scope.spawn(|| handle.block_on(import)).join().expect("it does not panic")
                });
                imported.expect("nobody has that token yet");
            }
            plan
        }
    };
    let raced = house.manager.import_staged(&local(), asked, raced, lines).await;
    assert_eq!(faults(raced), [(ROWS, "the token is already stored".to_owned())]);
    assert!(!house.is_known(1).await);
    assert_eq!(house.events().await.len(), 1, "only what was stored meanwhile");
    house.manager.write_back().await.expect("a sweep");
    house.import(&local(), many()[..ROWS - 1].to_vec()).await.expect("nothing is in its way");
}

#[tokio::test]
async fn whoever_may_not_any_more_takes_nothing_in() {
    let house = house();
    let by = house.importer().await;
    let id = by.key().expect("an operator");
    let revoked = house.import_around(&by, many(), async || {
        house.revoke(id, RevokeScope::Key).await;
    });
    assert_eq!(code(revoked.await), "caller_not_live");
    assert!(!house.is_known(1).await && !house.is_known(ROWS).await);

    let by = house.importer().await;
    let id = by.key().expect("an operator");
    let narrowed = KeyChange { may_grant: Some(flags(&["b"])), ..KeyChange::default() };
    let lessened = house.import_around(&by, many(), async || {
        house.update(id, narrowed).await.expect("it is changed");
    });
    assert_eq!(faults(lessened.await).len(), ROWS, "it may not grant what the rows hold any more");
    assert!(!house.is_known(1).await);
    let renamed = KeyChange { name: Some("another".to_owned()), ..KeyChange::default() };
    let by = house.importer().await;
    let id = by.key().expect("an operator");
    let imported = house.import_around(&by, many(), async || {
        house.update(id, renamed).await.expect("it is changed");
    });
    imported.await.expect("that takes nothing from it");
    assert!(house.is_known(1).await);
}

#[tokio::test]
async fn the_users_of_rows_are_held_to_when_they_are_taken_in() {
    let house = house();
    let of_ann =
        |line: usize| ImportedKey { user: Some(user_id("ann")), ..row(line, ImportedSecret::Hash(hash_of(line))) };
    let by = local();
    let rows = || (1..=ROWS).map(of_ann).collect::<Vec<_>>();
    house.manager.set_user(&local(), user("ann", &["a"])).await.expect("a user");
    house.manager.set_user(&local(), user("bob", &["a"])).await.expect("another");
    let imported = house.import_around(&by, rows(), async || {
        house.manager.set_user(&local(), user("bob", &["b"])).await.expect("another changes");
    });
    assert_eq!(imported.await.expect("that is none of theirs").keys.len(), ROWS);
    let house = self::house();
    house.manager.set_user(&local(), user("ann", &["a"])).await.expect("a user");
    let imported = house.import_around(&by, rows(), async || {
        house.manager.delete_user(&local(), user_id("ann")).await.expect("the user is deleted");
    });
    assert_eq!(faults(imported.await).len(), ROWS);
    assert!(!house.is_known(1).await);
}

#[tokio::test]
async fn what_is_imported_twice_at_once_is_imported_once() {
    let (house, by) = (house(), local());
    let second = house.import_around(&by, many(), async || {
        house.import(&local(), many()).await.expect("the later one wins");
    });
    assert!(matches!(second.await, Err(ManageError::Store(StoreError::StageLost { .. }))));
    assert!(house.is_known(1).await && house.is_known(ROWS).await);
    assert_eq!(house.events().await.len(), ROWS);
}

#[tokio::test]
async fn a_list_passes_over_more_than_one_look_of_what_is_put_aside() {
    let house = house();
    let first = house.create(plain(&["a"])).await.key.id;
    let rows = (1..=5000).map(|line| row(line, ImportedSecret::Hash(hash_of(line)))).collect();
    house
        .import_around(&local(), rows, async || {
            for query in [
                KeyQuery::default(),
                KeyQuery { project: acme(), ..KeyQuery::default() },
                KeyQuery { text: Some("a key".to_owned()), ..KeyQuery::default() },
            ] {
                let page = house.store.list_keys(KeyQuery { limit: 10, ..query }).await.expect("a page");
                assert_eq!(page.keys.iter().map(|(key, ..)| key.id).collect::<Vec<_>>(), [first]);
            }
        })
        .await
        .expect("an import");
    let read = ReadRequest { keys: vec![first], ..ReadRequest::default() };
    assert_eq!(house.store.read(read).await.expect("a reading").newest.revision, 2);
}

/// What the command line does while a gateway has the same file.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_import_holds_up_no_revocation_by_another_process() {
    let house = house();
    let rows: Vec<_> =
        (1..=8 * IMPORTED_AT_ONCE_MAX).map(|line| row(line, ImportedSecret::Hash(hash_of(line)))).collect();
    let count = rows.len();
    let path = house.store.name().to_owned();
    let clock = Arc::new(crate::clock::SystemClock::default());
    let other = SqliteStore::open(std::path::Path::new(&path), clock).expect("the store is there");
    let importer = Manager::new(Arc::new(other), TokenPrefix::default());
    let mut importing = tokio::task::JoinSet::new();
    importing.spawn(async move { importer.import_keys(&local(), rows, ImportOptions::default()).await });
    let imported = loop {
        if let Some(done) = importing.try_join_next() {
            break done.expect("it does not panic").expect("an import");
        }
        let id = house.create(plain(&["a"])).await.key.id;
        house.revoke(id, RevokeScope::Key).await;
    };
    assert_eq!(imported.keys.len(), count);
    let revision = imported.committed.expect("it is committed").revision;
    let events = house.events().await;
    assert_eq!(events.iter().filter(|event| event.stamp.revision == revision).count(), count, "as one revision");
    // Lists are in the order of storing: others came between its batches.
    let listed = house.store.list_keys(KeyQuery::default()).await.expect("a list").keys;
    let own: Vec<bool> = listed.iter().map(|(key, ..)| key.name != "a key").collect();
    let (first, last) = (own.iter().position(|own| *own), own.iter().rposition(|own| *own));
    let (first, last) = first.zip(last).expect("they are listed");
    assert!(own[first..last].contains(&false), "nobody wrote while {count} keys were imported");
}
