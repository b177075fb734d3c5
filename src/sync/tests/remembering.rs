//! Snapshot, journal and mark: what survives a restart, a full disk, a restore, and another process.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::{DiskMood, House};
use crate::clock::{Clock, Timestamp};
use crate::key::{Grants, Status};
use crate::store::Row;
use crate::sync::StateError;
use crate::sync::fake::{Mood, key, keys, revoked, user};
use crate::sync::loan::Ask;
use crate::sync::metrics::Alarm;
use crate::table::Freshness;

fn flip_each_byte(path: &Path, mut check: impl FnMut(usize)) {
    let whole = std::fs::read(path).expect("the file to damage");
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x41;
        std::fs::write(path, &damaged).expect("a damaged file");
        check(at);
    }
    std::fs::write(path, whole).expect("the file as it was");
}

#[tokio::test]
async fn a_gateway_starts_from_its_snapshot_and_journal_when_the_store_is_gone() {
    let house = House::new();
    let mut expiring = key(4);
    expiring.expires_at = Some(house.clock.now().plus(Duration::from_secs(60)));
    expiring.grants = Grants::Inherit;
    expiring.user = Some("ann".parse().expect("a user id"));
    let mut rows = vec![Row::User(user("ann", &["jobs:read"]))];
    rows.extend(keys([key(0), key(1), revoked(2), expiring]));
    house.store.commit(rows);
    let mut run = house.settled().await;
    house.store.commit(keys([revoked(1)]));
    run.turn().await;
    assert_eq!(run.table.applied(), 2);
    drop(run);
    house.store.set(Mood::Gone);
    let mut run = house.run();
    assert_eq!(run.freshness(), Freshness::Empty, "the store is asked first");
    run.turn().await;
    assert_eq!(run.freshness(), Freshness::Fresh);
    assert_eq!(run.status(0), Some(Status::Active));
    assert_eq!(run.status(1), Some(Status::Revoked), "the journal remembers");
    assert_eq!(run.status(2), Some(Status::Revoked));
    assert_eq!(run.status(4), Some(Status::Active));
    house.clock.advance(Duration::from_secs(60));
    assert_eq!(run.status(4), Some(Status::Expired));
    house.store.set(Mood::Well);
    house.store.commit(keys([key(9)]));
    run.turn().await;
    assert_eq!(run.status(9), Some(Status::Active), "and follows on from there");
    assert_eq!(run.metrics.alarms_of(Alarm::History), 0);
}

#[tokio::test]
async fn a_journal_of_many_restarts_without_the_store_is_read_whole() {
    let house = House::with(10);
    house.follower().await.drain().await;
    for number in 0..5 {
        let mut run = house.run();
        run.turn().await;
        house.store.commit(keys([revoked(number)]));
        run.turn().await;
    }
    let run = house.without_store().await;
    for number in 0..10 {
        let expected = if number < 5 { Status::Revoked } else { Status::Active };
        assert_eq!(run.status(number), Some(expected));
    }
}

#[tokio::test]
async fn what_was_journalled_stays_through_all_restarts_without_the_store() {
    let house = House::new();
    let owned = |number: u32| crate::key::Key { user: Some("ann".parse().expect("a user id")), ..key(number) };
    let mut rows = vec![Row::User(user("ann", &["jobs:read"]))];
    rows.extend(keys([owned(1), key(2)]));
    house.store.commit(rows);
    let mut run = house.settled().await;
    let mut off = key(2);
    off.states.disabled = true;
    let mut rows = vec![Row::User(user("ann", &["jobs:read", "jobs:write"]))];
    rows.extend(keys([off]));
    house.store.commit(rows);
    run.turn().await;
    drop(run);
    for _ in 0..3 {
        let mut run = house.without_store().await;
        assert_eq!((run.status(1), run.status(2)), (Some(Status::Active), Some(Status::Disabled)));
        run.snapshot().await;
        run.drain().await;
    }
    house.store.set(Mood::Well);
    let mut run = house.follower().await;
    run.snapshot().await;
    drop(run);
    let run = house.without_store().await;
    assert_eq!((run.status(1), run.status(2)), (Some(Status::Active), Some(Status::Disabled)));
}

#[tokio::test]
async fn no_byte_of_snapshot_or_journal_or_mark_can_be_changed_unnoticed() {
    let house = House::with(2);
    let mut run = house.settled().await;
    house.store.commit(keys([revoked(1)]));
    run.turn().await;
    drop(run);
    house.store.set(Mood::Gone);
    for path in [house.file("snapshot."), house.file("journal."), house.state().join("high-water")] {
        flip_each_byte(&path, |at| {
            let run = house.run();
            let mut follower = run.sync.runner.follower;
            let turn = follower.turn();
            futures_block_on(turn);
            assert_eq!(
                run.table.freshness(house.clock.now()),
                Freshness::Empty,
                "byte {at} of {} was changed and served",
                path.display()
            );
        });
    }
    let run = house.follower().await;
    assert_eq!((run.freshness(), run.status(1)), (Freshness::Fresh, Some(Status::Revoked)));
}

/// Runs a future that needs timers, from within a test's runtime.
fn futures_block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(future)
        });
        running.join().expect("the future ends")
    })
}

#[tokio::test]
async fn a_record_that_was_not_written_whole_is_left_out_and_one_that_was_cut_off_is_noticed() {
    let house = House::with(2);
    let mut run = house.settled().await;
    house.store.commit(keys([revoked(1)]));
    run.turn().await;
    drop(run);
    house.store.set(Mood::Gone);
    let journal = house.file("journal.");
    let whole = std::fs::read(&journal).expect("the journal");
    let mut longer = whole.clone();
    longer.extend_from_slice(&whole[..whole.len() / 2]);
    std::fs::write(&journal, longer).expect("a torn record");
    let run = house.follower().await;
    assert_eq!((run.freshness(), run.status(1)), (Freshness::Fresh, Some(Status::Revoked)));
    drop(run);
    for kept in [0, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&journal, &whole[..kept]).expect("a journal cut off");
        let mut run = house.run();
        run.turn().await;
        assert_eq!(run.freshness(), Freshness::Empty, "the journal was cut to {kept} bytes");
    }
}

#[tokio::test]
async fn an_older_pair_is_refused_unless_it_is_asked_for_and_the_store_heals_it() {
    let mut house = House::with(2);
    house.follower().await.drain().await;
    let old = house.file("snapshot.");
    let (name, content) = (old.file_name().expect("a name").to_owned(), std::fs::read(&old).expect("the snapshot"));
    let mut run = house.follower().await;
    house.store.commit(keys([revoked(1)]));
    run.turn().await;
    run.drain().await;
    house.run().drain().await;
    for entry in std::fs::read_dir(house.state()).expect("the state folder") {
        let path = entry.expect("an entry").path();
        let found = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        if found.starts_with("snapshot.") || found.starts_with("journal.") {
            std::fs::remove_file(path).expect("a file that can be removed");
        }
    }
    std::fs::write(house.state().join(name), content).expect("the old snapshot");
    let run = house.without_store().await;
    assert_eq!(run.freshness(), Freshness::Empty);
    drop(run);
    house.settings.accept_old_snapshot = true;
    let run = house.follower().await;
    assert_eq!(run.freshness(), Freshness::Fresh);
    drop(run);
    house.settings.accept_old_snapshot = false;
    house.store.set(Mood::Well);
    let run = house.follower().await;
    assert_eq!((run.freshness(), run.status(1)), (Freshness::Fresh, Some(Status::Revoked)));
}

#[tokio::test]
async fn a_broken_newest_snapshot_is_passed_over_for_the_one_before() {
    let house = House::with(2);
    let mut run = house.settled().await;
    house.store.commit(keys([revoked(1)]));
    run.turn().await;
    run.drain().await;
    let newest = house.file("snapshot.");
    std::fs::write(newest, b"broken").expect("a broken snapshot");
    let run = house.without_store().await;
    assert_eq!((run.freshness(), run.status(1)), (Freshness::Fresh, Some(Status::Revoked)));
}

#[tokio::test]
async fn a_snapshot_that_is_too_old_is_served_only_once_the_store_confirmed_it() {
    let house = House::with(1);
    house.follower().await.drain().await;
    house.clock.advance(Duration::from_secs(25 * 3600));
    house.store.set(Mood::Gone);
    let mut run = house.run();
    assert_eq!(run.sync.clock_floor, Some(Timestamp::from_seconds(1_800_000_000)));
    run.turn().await;
    assert_eq!(run.freshness(), Freshness::Empty);
    house.store.set(Mood::Well);
    run.turn().await;
    assert_eq!(run.freshness(), Freshness::Fresh);
}

#[tokio::test]
async fn a_second_process_on_the_state_folder_is_told_so() {
    let house = House::new();
    let run = house.run();
    assert!(matches!(house.start(), Err(StateError::InUse(_))));
    let gateway = run.sync.handle.gateway().to_owned();
    drop(run);
    assert_eq!(house.run().sync.handle.gateway(), gateway);
}

#[tokio::test]
async fn what_is_remembered_is_for_its_owner_alone_and_holds_two_snapshots() {
    let house = House::new();
    std::fs::create_dir(house.state()).expect("a folder that others may read");
    std::fs::write(house.state().join("snapshot.1.new"), b"half").expect("what a killed process left");
    for number in 0..4 {
        let mut run = house.run();
        house.store.commit(keys([key(number)]));
        run.turn().await;
        house.store.commit(keys([revoked(number)]));
        run.turn().await;
        run.drain().await;
    }
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&house.state()), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(house.state()).expect("the state folder") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned());
    }
    let of = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!(of("snapshot."), 2, "{names:?}");
    assert!(of("journal.") <= 2, "{names:?}");
}

#[tokio::test]
async fn on_a_full_disk_a_revocation_is_enforced_but_not_reported_before_it_is_remembered() {
    let house = House::with(2);
    let mut run = house.follower().await;
    run.sync.runner.follower.finish().await;
    let newest = house.file("snapshot.");
    let number = newest.extension().and_then(|number| number.to_str()).expect("a number").to_owned();
    let journal = house.state().join(format!("journal.{number}"));
    house.store.commit(keys([revoked(1)]));
    for attempt in 1..4 {
        std::os::unix::fs::symlink("/dev/full", &journal).expect("a journal that takes nothing");
        run.turn().await;
        assert_eq!((run.status(1), run.table.applied()), (Some(Status::Revoked), 1));
        assert_eq!(run.metrics.alarms_of(Alarm::Journal), attempt);
        assert!(!journal.is_symlink(), "what never held a record is not kept");
    }
    run.turn().await;
    assert_eq!((run.status(1), run.table.applied()), (Some(Status::Revoked), 2));
    drop(run);
    let run = house.without_store().await;
    assert_eq!((run.status(0), run.status(1)), (Some(Status::Active), Some(Status::Revoked)));
}

#[tokio::test]
async fn a_snapshot_that_finds_the_disk_full_gives_back_the_room_it_took() {
    let house = House::with(1);
    let mut run = house.follower().await;
    let unfinished = house.state().join("snapshot.2.new");
    std::os::unix::fs::symlink("/dev/full", &unfinished).expect("a file that takes nothing");
    run.sync.runner.follower.finish().await;
    assert_eq!(run.metrics.snapshot_failures.get(), 1);
    assert!(!unfinished.is_symlink());
    run.sync.runner.follower.finish().await;
    assert!(house.file("snapshot.").exists());
}

#[tokio::test]
async fn a_lent_state_folder_is_written_by_the_borrower_alone() {
    let house = House::with(3);
    let mut old = house.settled().await;
    let lock = old.lend().await;
    assert!(matches!(house.start(), Err(StateError::InUse(_))), "a third process stays out");
    let mut new = house.start_with(Some(lock)).expect("the lock is lent");
    new.turn().await;
    house.store.commit(keys([revoked(1)]));
    old.turn().await;
    assert_eq!(old.status(1), Some(Status::Revoked), "it is enforced");
    assert_eq!(old.table.applied(), 1, "but nobody remembers it yet");
    new.turn().await;
    assert_eq!(new.table.applied(), 2);
    old.sync.runner.follower.answer(Ask::Give).await;
    old.turn().await;
    assert_eq!(old.table.applied(), 2);
    old.drain().await;
    assert!(matches!(house.start(), Err(StateError::InUse(_))), "the lock has gone over");
    house.store.commit(keys([revoked(2)]));
    new.turn().await;
    drop(new);
    let run = house.without_store().await;
    assert_eq!((run.status(0), run.status(1)), (Some(Status::Active), Some(Status::Revoked)));
    assert_eq!(run.status(2), Some(Status::Revoked));
}

#[tokio::test]
async fn a_state_folder_that_comes_back_holds_what_the_borrower_wrote() {
    let house = House::with(3);
    let mut old = house.settled().await;
    let lock = old.lend().await;
    let mut new = house.start_with(Some(lock)).expect("the lock is lent");
    new.turn().await;
    house.store.commit(keys([revoked(1)]));
    new.turn().await;
    drop(new);
    house.store.set(Mood::Gone);
    old.take_back().await;
    assert_eq!(old.status(1), Some(Status::Revoked), "the store could not have told");
    house.store.set(Mood::Well);
    house.store.commit(keys([revoked(2)]));
    old.turn().await;
    assert_eq!(old.table.applied(), 3);
    assert!(matches!(house.start(), Err(StateError::InUse(_))));
    drop(old);
    let run = house.without_store().await;
    let statuses = [0, 1, 2].map(|number| run.status(number));
    assert_eq!(statuses, [Some(Status::Active), Some(Status::Revoked), Some(Status::Revoked)]);
}

#[tokio::test]
async fn what_was_reported_before_the_first_snapshot_is_not_forgotten() {
    let house = House::with(10);
    let backup = house.store.backup();
    let mut run = house.follower().await;
    house.store.commit(keys([revoked(1)]));
    run.turn().await;
    drop(run);
    house.store.restore(backup);
    let mut run = house.without_store().await;
    assert_eq!(run.freshness(), Freshness::Empty, "not all that works is known");
    house.store.set(Mood::Well);
    run.turn().await;
    assert_eq!((run.status(0), run.status(1)), (Some(Status::Active), Some(Status::Revoked)));
    assert_eq!(run.metrics.alarms_of(Alarm::TakenBack), 1);
}

#[tokio::test]
async fn what_a_restored_store_has_forgotten_is_written_down_before_anything_is_reported() {
    let house = House::with(10);
    let backup = house.store.backup();
    house.store.commit(keys([revoked(1)]));
    let mut run = house.follower().await;
    house.store.restore(backup);
    run.turn().await;
    assert_eq!((run.table.applied(), run.status(1)), (1, Some(Status::Revoked)));
    drop(run);
    let run = house.follower().await;
    assert_eq!(run.status(1), Some(Status::Revoked), "it died before it wrote a snapshot");
}

#[tokio::test]
async fn a_snapshot_begun_before_a_reload_takes_nothing_away() {
    let house = House::with(3);
    let mut run = house.settled().await;
    let backup = house.store.backup();
    house.store.commit(keys([revoked(1), key(4), key(5)]));
    run.turn().await;
    run.sync.runner.follower.begin_snapshot();
    house.store.restore(backup);
    run.turn().await;
    run.sync.runner.follower.turn_snapshot().await;
    drop(run);
    let run = house.follower().await;
    assert_eq!((run.status(0), run.status(1)), (Some(Status::Active), Some(Status::Revoked)));
}

#[tokio::test]
async fn what_could_not_be_forgotten_at_once_leaves_something_to_start_from() {
    let mut house = House::with(10);
    let disk = house.disk();
    let mut run = house.settled().await;
    let backup = house.store.backup();
    house.store.commit(keys([revoked(1)]));
    run.turn().await;
    house.store.restore(backup);
    house.store.commit(keys([key(30)]));
    house.store.commit(keys([key(31)]));
    run.snapshot().await;
    disk.set(DiskMood::Full);
    run.turn().await;
    assert_eq!((run.status(31), run.metrics.reloads.get()), (Some(Status::Active), 1));
    assert_eq!((run.table.applied(), run.metrics.alarms_of(Alarm::Journal)), (2, 1));
    disk.set(DiskMood::Well);
    run.snapshot().await;
    run.turn().await;
    assert_eq!(run.table.applied(), 3);
    run.drain().await;
    let run = house.without_store().await;
    assert_eq!((run.freshness(), run.status(31)), (Freshness::Fresh, Some(Status::Active)));
    assert_eq!(run.status(1), Some(Status::Revoked));
}

#[tokio::test]
async fn what_was_lost_with_the_thread_that_wrote_it_down_is_reported_once_a_snapshot_has_it() {
    let mut house = House::with(10);
    let disk = house.disk();
    let mut run = house.settled().await;
    run.snapshot().await;
    house.store.commit(keys([revoked(1)]));
    disk.set(DiskMood::Panics);
    for _ in 0..3 {
        run.turn().await;
        assert_eq!((run.status(1), run.table.applied()), (Some(Status::Revoked), 1));
    }
    run.snapshot().await;
    assert_eq!(run.table.applied(), 2);
    drop(run);
    let run = house.without_store().await;
    assert_eq!((run.freshness(), run.status(1)), (Freshness::Fresh, Some(Status::Revoked)));
}

#[tokio::test]
async fn a_snapshot_that_fails_makes_nobody_wait_for_more_than_the_next() {
    let house = House::with(3);
    let mut run = house.settled().await;
    let backup = house.store.backup();
    house.store.commit(keys([revoked(1)]));
    run.turn().await;
    let number = house.file("journal.").extension().and_then(|number| number.to_str()?.parse::<u64>().ok());
    let unfinished = house.state().join(format!("snapshot.{}.new", number.expect("a number") + 1));
    std::os::unix::fs::symlink("/dev/full", &unfinished).expect("a file that takes nothing");
    run.sync.runner.follower.begin_snapshot();
    house.store.restore(backup);
    house.store.commit(keys([key(30)]));
    house.store.accept();
    run.turn().await;
    run.sync.runner.follower.turn_snapshot().await;
    assert_eq!((run.metrics.snapshot_failures.get(), run.table.applied()), (1, 2));
    run.snapshot().await;
    let handle = run.sync.handle.clone();
    let (applied, ()) = tokio::join!(handle.wait_applied(3, Duration::from_secs(10)), run.turn());
    assert!(applied, "it is in a snapshot");
}
