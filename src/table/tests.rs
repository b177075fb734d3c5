//! The table against a plain model of it, and what must never be taken back.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::key::{
    EnvironmentId, FlagSet, Grants, KeyId, Label, Record, RecordFlags, Stamp, Standing, States, Status, TokenHash,
    UserId, UserStanding,
};

fn hash(number: u8) -> TokenHash {
    TokenHash::of(&[number])
}

fn row(number: u8, revision: u64) -> KeyRow {
    let id = KeyId::from_bits(u128::from(number) + 1);
    KeyRow {
        head: Head::from(&hash(number)),
        id,
        lineage: id.lineage(),
        states: States::default(),
        project: Some("acme".parse().expect("a project")),
        environment: EnvironmentId::live(),
        user: None,
        grants: Grants::Only(FlagSet::parse(["a.b"]).expect("flags")),
        expires_at: None,
        grace_expires_at: None,
        stamp: Stamp { revision, ordinal: 0 },
    }
}

fn apply(table: &Table, row: KeyRow) -> Applied {
    table.apply(vec![Row::Key(Box::new(row))])
}

fn status(table: &Table, number: u8) -> Option<Status> {
    table.lookup(&hash(number)).map(|record| record.standing.status(false, Timestamp::from_seconds(100)))
}

#[test]
fn an_older_row_never_overwrites() {
    let table = Table::new();
    let mut newer = row(1, 5);
    newer.states.disabled = true;
    apply(&table, newer);
    let version = table.version();
    assert!(apply(&table, row(1, 4)).changed.is_empty());
    assert_eq!((status(&table, 1), table.version()), (Some(Status::Disabled), version));
    assert_eq!(apply(&table, row(1, 6)).changed.len(), 1);
    assert_eq!(status(&table, 1), Some(Status::Active));
}

#[test]
fn what_is_revoked_or_superseded_or_deleted_stays_so_whatever_a_newer_row_says() {
    let table = Table::new();
    let mut gone = row(1, 1);
    gone.states.revoked = true;
    let mut replaced = row(2, 1);
    replaced.states.superseded = true;
    let mut user = UserRow {
        id: "ann".parse().expect("an id"),
        flags: FlagSet::default(),
        active: true,
        deleted: true,
        stamp: Stamp::default(),
    };
    let mut owned = row(3, 1);
    owned.user = Some(user.id.clone());
    table.apply(vec![
        Row::Key(Box::new(gone)),
        Row::Key(Box::new(replaced)),
        Row::User(user.clone()),
        Row::Key(Box::new(owned)),
    ]);
    assert_eq!(apply(&table, row(1, 2)).conflicts, [Conflict::Key(row(1, 2).id)]);
    assert_eq!(apply(&table, row(2, 2)).conflicts.len(), 1);
    user.deleted = false;
    user.stamp.revision = 2;
    assert_eq!(table.apply(vec![Row::User(user.clone())]).conflicts, [Conflict::User(user.id)]);
    assert_eq!(status(&table, 1), Some(Status::Revoked));
    assert_eq!(status(&table, 2), Some(Status::Superseded));
    assert_eq!(status(&table, 3), Some(Status::UserDisabled));
}

#[test]
fn a_key_whose_user_is_not_known_yet_is_refused() {
    let table = Table::new();
    let mut owned = row(1, 1);
    owned.user = Some("ann".parse().expect("an id"));
    apply(&table, owned);
    assert_eq!(status(&table, 1), Some(Status::UserDisabled));
    assert!(!table.lookup(&hash(1)).expect("a key").flags().meets(&"a.b".split('.')));
}

#[test]
fn a_record_of_a_head_that_only_begins_alike_is_not_found() {
    let table = Table::new();
    apply(&table, row(1, 1));
    let mut bytes = *hash(1).as_bytes();
    bytes[31] ^= 1;
    assert!(table.lookup(&TokenHash::from_bytes(bytes)).is_none());
}

#[test]
fn a_swapped_key_set_keeps_slots_usage_and_what_is_terminal() {
    let table = Table::new();
    for number in 0..10 {
        apply(&table, row(number, 1));
    }
    let mut gone = row(9, 2);
    gone.states.revoked = true;
    apply(&table, gone);
    let slot = table.lookup(&hash(3)).expect("a key").slot;
    table.used(slot, Timestamp::from_seconds(5));
    let load = table.load();
    for number in (0..9).rev() {
        load.key(&row(number, 7).view());
    }
    table.used(slot, Timestamp::from_seconds(6));
    let merged = table.swap(load, 20).expect("nothing live is lost");
    assert_eq!(merged.keys, [row(9, 1).id]);
    assert_eq!(status(&table, 9), Some(Status::Revoked));
    assert_eq!(table.lookup(&hash(3)).expect("a key").slot, slot);
    let drained = table.drain_usage(Timestamp::from_seconds(100));
    assert_eq!(drained.len(), 1);
    assert_eq!((drained[0].key, drained[0].count), (row(3, 1).id, 2));
    assert_eq!(drained[0].last_used_at, Timestamp::from_seconds(6));
    let load = table.load();
    load.key(&row(0, 8).view());
    assert_eq!(table.swap(load, 20), Err(LoadRefused { live: 9, missing: 8 }));
    assert_eq!(table.keys(), 10);
}

/// What a miss does with `row`, found in the store at `revision`.
fn found(table: &Table, generation: u64, revision: u64, row: &KeyRow) -> Record {
    let record = Record {
        id: row.id,
        lineage: row.lineage,
        hash_head: *row.head.as_bytes(),
        standing: Standing {
            states: row.states,
            user: UserStanding::None,
            expires_at: row.expires_at,
            grace_expires_at: row.grace_expires_at,
        },
        label: Label { project: row.project.clone(), environment: row.environment.clone(), flags: None }.into(),
        user: None,
        slot: u32::MAX,
    };
    table.insert_found(generation, revision, row, None, record)
}

#[test]
fn what_a_miss_found_is_not_taken_over_once_the_table_has_moved_on() {
    let table = Table::new();
    let generation = table.generation();
    table.set_reached(5);
    for moved_past in [4, 5] {
        let record = found(&table, generation, moved_past, &row(1, 3));
        assert_eq!((record.id, record.slot), (row(1, 1).id, u32::MAX));
        assert!(table.lookup(&hash(1)).is_none(), "what is not known of {moved_past} is of another history");
    }
    assert_eq!(found(&table, generation, 6, &row(1, 6)).slot, 0);
    assert!(table.lookup(&hash(1)).is_some());
    let _merged = table.swap(table.load(), 100).expect("anything may be lost");
    let _record = found(&table, generation, 9, &row(2, 9));
    assert!(table.lookup(&hash(2)).is_none());
}

#[test]
fn an_end_that_a_miss_saw_first_still_comes_by_the_feed_to_be_remembered() {
    let table = Table::new();
    apply(&table, row(1, 5));
    table.report(5);
    let mut ended = row(1, 6);
    ended.states.revoked = true;
    assert!(found(&table, table.generation(), 6, &ended).standing.states.revoked);
    assert_eq!(apply(&table, ended).changed.len(), 1, "what is not here is journalled nowhere");
    assert_eq!(status(&table, 1), Some(Status::Revoked));
    assert!(found(&table, table.generation(), 6, &row(1, 5)).standing.states.revoked, "an older find");
}

#[test]
fn an_end_that_a_miss_found_is_remembered_once_the_feed_brings_it() {
    let table = Table::new();
    table.set_reached(5);
    let (mut ended, works) = (row(1, 6), row(2, 6));
    ended.states.revoked = true;
    for row in [&ended, &works] {
        let _record = found(&table, table.generation(), 6, row);
    }
    assert_eq!((status(&table, 1), table.finds()), (Some(Status::Revoked), 2));
    let rows = [&ended, &works].map(|row| Row::Key(Box::new(row.clone())));
    let applied = table.follow(rows.to_vec(), 2, 6).expect("both are there");
    assert_eq!(applied.changed, [Row::Key(Box::new(ended))], "in force, and written down nowhere yet");
}

#[test]
fn what_was_found_in_a_history_that_was_given_up_is_not_waited_for() {
    let table = Table::new();
    table.set_reached(5);
    let _record = found(&table, table.generation(), 6, &row(1, 6));
    assert_eq!(table.finds(), 1);
    table.replace(table.load());
    assert_eq!(table.finds(), 0);
    assert!(table.follow(Vec::new(), 0, 7).is_ok());
}

#[test]
fn a_new_key_that_never_worked_here_is_remembered_and_one_that_works_need_not_be() {
    let table = Table::new();
    assert!(apply(&table, row(1, 1)).changed.is_empty());
    let mut ended = row(2, 1);
    ended.states.superseded = true;
    assert_eq!(apply(&table, ended).changed.len(), 1);
}

#[test]
fn a_walk_never_finds_an_older_user_under_a_newer_stamp() {
    let table = Arc::new(Table::new());
    let id: UserId = "ann".parse().expect("a user id");
    let at = |revision: u64| UserRow {
        id: id.clone(),
        flags: FlagSet::parse([format!("at.{revision}")]).expect("flags"),
        active: true,
        deleted: false,
        stamp: Stamp { revision, ordinal: 0 },
    };
    let _applied = table.apply(vec![Row::User(at(1))]);
    std::thread::scope(|scope| {
        let walker = scope.spawn(|| {
            for _ in 0..20_000 {
                table.for_each_user(|user| {
                    let flag = user.flags.iter().next().expect("one flag").as_str().to_owned();
                    let state: u64 = flag.trim_start_matches("at.").parse().expect("a number");
                    assert!(state >= user.stamp.revision, "state {state} under stamp {}", user.stamp.revision);
                });
            }
        });
        // Each revision leaves a set of flags behind for ever.
        for revision in 2..20_000 {
            if walker.is_finished() {
                break;
            }
            let _applied = table.apply(vec![Row::User(at(revision))]);
        }
        walker.join().expect("no older user");
    });
}

#[test]
fn readers_never_see_half_a_row() {
    let table = Arc::new(Table::new());
    let at = |revision: u64| {
        let mut row = row(1, revision);
        // No grace is ever lengthened.
        let seconds = 40_000 - i64::try_from(revision).expect("few revisions");
        row.expires_at = Some(Timestamp::from_seconds(seconds));
        row.grace_expires_at = Some(Timestamp::from_seconds(seconds));
        row
    };
    apply(&table, at(1));
    std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let standing = table.lookup(&hash(1)).expect("a key").standing;
                    assert_eq!(standing.expires_at, standing.grace_expires_at);
                }
            })
        });
        for revision in 2..20_000 {
            apply(&table, at(revision));
        }
        for reader in readers {
            reader.join().expect("no half row");
        }
    });
}

#[derive(Debug, Clone)]
enum Step {
    Key { number: u8, revision: u64, bits: u8, user: Option<u8>, inherits: bool, flag: u8, expires: Option<i64> },
    User { number: u8, revision: u64, active: bool, deleted: bool, flag: u8 },
    Reload,
}

fn step() -> impl Strategy<Value = Step> {
    let key = (
        0..6_u8,
        0..20_u64,
        0..8_u8,
        proptest::option::of(0..3_u8),
        any::<bool>(),
        0..3_u8,
        proptest::option::of(0..200_i64),
    );
    let user = (0..3_u8, 0..20_u64, any::<bool>(), proptest::bool::weighted(0.1), 0..3_u8);
    prop_oneof![
        6 => key.prop_map(|(number, revision, bits, user, inherits, flag, expires)| Step::Key {
            number, revision, bits, user, inherits, flag, expires
        }),
        3 => user.prop_map(|(number, revision, active, deleted, flag)| Step::User {
            number, revision, active, deleted, flag
        }),
        1 => Just(Step::Reload),
    ]
}

fn flags(flag: u8) -> FlagSet {
    FlagSet::parse([format!("flag.{flag}")]).expect("flags")
}

fn user_id(number: u8) -> UserId {
    format!("user-{number}").parse().expect("an id")
}

/// The rules in their plainest form.
#[derive(Default)]
struct Model {
    keys: HashMap<u8, KeyRow>,
    users: HashMap<UserId, UserRow>,
}

impl Model {
    fn apply(&mut self, row: Row) {
        match row {
            Row::Key(mut row) => {
                let number = u8::try_from(row.id.bits() - 1).expect("a small number");
                if let Some(known) = self.keys.get(&number) {
                    if row.stamp <= known.stamp {
                        return;
                    }
                    row.states.revoked |= known.states.revoked;
                    row.states.superseded |= known.states.superseded;
                    row.grace_expires_at = row.grace_expires_at.into_iter().chain(known.grace_expires_at).min();
                }
                self.keys.insert(number, *row);
            }
            Row::User(mut row) => {
                if let Some(known) = self.users.get(&row.id) {
                    if row.stamp <= known.stamp {
                        return;
                    }
                    row.deleted |= known.deleted;
                }
                self.users.insert(row.id.clone(), row);
            }
        }
    }

    fn check(&self, table: &Table) {
        assert_eq!(table.keys(), self.keys.len());
        for number in 0..6 {
            let (found, known) = (table.lookup(&hash(number)), self.keys.get(&number));
            let (Some(found), Some(known)) = (&found, known) else {
                assert!(found.is_none() && known.is_none());
                continue;
            };
            let user = known.user.as_ref().and_then(|user| self.users.get(user));
            let standing = match (&known.user, user) {
                (None, _) => UserStanding::None,
                (Some(_), Some(user)) if user.active && !user.deleted => UserStanding::Active,
                (Some(_), _) => UserStanding::Disabled,
            };
            assert_eq!(found.standing.states, known.states);
            assert_eq!(found.standing.user, standing);
            assert_eq!(found.standing.expires_at, known.expires_at);
            assert_eq!(found.standing.grace_expires_at, known.grace_expires_at);
            assert_eq!((found.id, found.project()), (known.id, known.project.as_ref()));
            assert_eq!((found.environment(), found.user_id()), (&known.environment, known.user.as_ref()));
            let of_user = user.map(|user| user.flags.clone()).unwrap_or_default();
            match (found.flags(), &known.grants, &known.user) {
                (RecordFlags::Own(own), Grants::Only(flags), None) => assert_eq!(own, flags),
                (RecordFlags::Own(own), Grants::Inherit, None) => assert!(own.is_empty()),
                (RecordFlags::Both { key, user }, Grants::Only(flags), Some(_)) => {
                    assert_eq!((key, user), (flags, &of_user));
                }
                (RecordFlags::Inherited(user), Grants::Inherit, Some(_)) => assert_eq!(user, &of_user),
                (found, known, _) => panic!("{found:?} of {known:?}"),
            }
        }
    }
}

proptest! {
    #[test]
    fn the_table_is_like_its_model(steps in proptest::collection::vec(step(), 1..60)) {
        let (table, mut model) = (Table::new(), Model::default());
        for step in steps {
            let row = match step {
                Step::Key { number, revision, bits, user, inherits, flag, expires } => {
                    let mut row = row(number, revision);
                    row.states = States { revoked: bits == 7, disabled: bits & 2 != 0, superseded: bits == 5 };
                    row.user = user.map(user_id);
                    row.grants = if inherits { Grants::Inherit } else { Grants::Only(flags(flag)) };
                    row.expires_at = expires.map(Timestamp::from_seconds);
                    row.grace_expires_at = (bits & 1 != 0).then(|| Timestamp::from_seconds(i64::from(flag) + 5));
                    Row::Key(Box::new(row))
                }
                Step::User { number, revision, active, deleted, flag } => Row::User(UserRow {
                    id: user_id(number), flags: flags(flag), active, deleted, stamp: Stamp { revision, ordinal: 0 },
                }),
                Step::Reload => {
                    let load = table.load();
                    table.for_each_user(|user| load.user(&user));
                    table.for_each_key(|key| load.key(key));
                    prop_assert_eq!(table.swap(load, 0), Ok(Merged::default()));
                    model.check(&table);
                    continue;
                }
            };
            table.apply(vec![row.clone()]);
            model.apply(row);
            model.check(&table);
        }
    }
}

#[test]
fn a_walk_sees_every_key_once() {
    let table = Table::new();
    for number in 0..=u8::MAX {
        apply(&table, row(number, 1));
    }
    let mut seen = Vec::new();
    table.for_each_key(|key| seen.push(key.id));
    seen.sort_unstable();
    let expected: Vec<KeyId> = (0..=u8::MAX).map(|number| row(number, 1).id).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_key_of_another_lineage_keeps_it() {
    let table = Table::new();
    let mut successor = row(1, 1);
    successor.lineage = row(0, 1).lineage;
    apply(&table, successor.clone());
    assert_eq!(table.lookup(&hash(1)).expect("a key").lineage, successor.lineage);
    let mut seen = Vec::new();
    table.for_each_key(|key| seen.push(key.to_row()));
    assert_eq!(seen, [successor]);
}

#[test]
fn what_nobody_has_any_more_takes_no_room() {
    let table = Table::new();
    let id: UserId = "ann".parse().expect("a user id");
    let set = |number: u64| FlagSet::parse([format!("jobs:{number}")]).expect("flags");
    apply(&table, row(2, 1));
    for revision in 1..20_000 {
        let mut key = row(1, revision);
        key.grants = Grants::Only(set(revision));
        key.project = Some(format!("project-{revision}").parse().expect("a project"));
        key.environment = format!("env{revision}").parse().expect("an environment");
        let user = UserRow {
            id: id.clone(),
            flags: set(revision + 30_000),
            active: true,
            deleted: false,
            stamp: Stamp { revision, ordinal: 1 },
        };
        table.apply(vec![Row::User(user), Row::Key(Box::new(key))]);
    }
    let places = table.content().shared_places();
    assert!(places.iter().all(|places| *places <= 5), "{places:?}");
    let record = table.lookup(&hash(1)).expect("a known key");
    assert_eq!(record.project().map(ToString::to_string).as_deref(), Some("project-19999"));
    assert!(record.flags().meets(&"jobs:19999".split('.')));
    assert!(!record.flags().meets(&"jobs:19998".split('.')));
    assert!(table.lookup(&hash(2)).is_some_and(|record| record.project().is_some()), "what others have stays");
}

#[test]
fn a_look_up_sees_whole_labels_while_they_take_each_others_places() {
    let table = Arc::new(Table::new());
    let set = |number: u64| FlagSet::parse([format!("jobs:{number}")]).expect("flags");
    let labelled = move |number: u8, revision: u64, of: u64| {
        let mut key = row(number, revision);
        key.grants = Grants::Only(set(of));
        key.project = Some(format!("project-{of}").parse().expect("a project"));
        key
    };
    apply(&table, labelled(1, 1, 1));
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let looking = std::thread::spawn({
        let (table, done) = (Arc::clone(&table), Arc::clone(&done));
        move || {
            let mut seen = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let record = table.lookup(&hash(1)).expect("a known key");
                let project = record.project().expect("a project").to_string();
                let of = project.strip_prefix("project-").expect("the number of one label").to_owned();
                assert!(record.flags().meets(&format!("jobs:{of}").split('.')), "{project}");
                assert_eq!(of.parse::<u64>().expect("a number") % 2, 1, "a label of another key: {project}");
                seen += 1;
            }
            seen
        }
    });
    // One place becomes free and is taken by the other key at once.
    for revision in 2..20_000 {
        apply(&table, labelled(1, revision, revision * 2 + 1));
        apply(&table, labelled(2, revision, revision * 2));
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(looking.join().expect("every label was whole") > 0);
}
