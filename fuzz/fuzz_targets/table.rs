//! Whatever comes from the store, in whatever order: the table knows of every key what a plain map
//! would, and takes nothing back that is for good.
#![no_main]

use std::collections::BTreeMap;

use keyward::clock::Timestamp;
use keyward::key::{
    EnvironmentId, FlagSet, Grants, KeyId, ProjectId, RecordFlags, Stamp, States, TokenHash, UserId, UserStanding,
};
use keyward::table::{Head, KeyRow, Row, Table, UserRow};
use libfuzzer_sys::fuzz_target;

const KEYS: u8 = 12;
const USERS: u8 = 3;

/// What a plain map knows.
#[derive(Default)]
struct Model {
    keys: BTreeMap<u8, KeyRow>,
    users: BTreeMap<u8, UserRow>,
}

impl Model {
    fn key(&mut self, number: u8, mut row: KeyRow) {
        if let Some(known) = self.keys.get(&number) {
            if row.stamp <= known.stamp {
                return;
            }
            row.states.revoked |= known.states.revoked;
            row.states.superseded |= known.states.superseded;
            row.grace_expires_at = earliest(row.grace_expires_at, known.grace_expires_at);
        }
        self.keys.insert(number, row);
    }

    fn user(&mut self, number: u8, mut row: UserRow) {
        if let Some(known) = self.users.get(&number) {
            if row.stamp <= known.stamp {
                return;
            }
            row.deleted |= known.deleted;
        }
        self.users.insert(number, row);
    }

    /// What this becomes where `previous` was in use before it.
    fn after(mut self, previous: Self) -> Self {
        for (number, old) in previous.keys.iter().filter(|(_, old)| !old.states.is_terminal()) {
            // What has ended needs no end of a grace.
            if let Some(key) = self.keys.get_mut(number).filter(|key| !key.states.is_terminal()) {
                key.grace_expires_at = earliest(key.grace_expires_at, old.grace_expires_at);
            }
        }
        for (number, old) in previous.keys.into_iter().filter(|(_, old)| old.states.is_terminal()) {
            let states = old.states;
            let key = self.keys.entry(number).or_insert(old);
            if !key.states.revoked {
                key.states.revoked |= states.revoked;
                key.states.superseded |= states.superseded;
            }
        }
        for (number, old) in previous.users.into_iter().filter(|(_, old)| old.deleted) {
            self.users.entry(number).or_insert(old).deleted = true;
        }
        self
    }
}

fn earliest(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

fn flags(bits: u8) -> FlagSet {
    let names = (0..3).filter(|bit| bits & (1 << bit) != 0).map(|bit| format!("a.{bit}"));
    FlagSet::parse(names.collect::<Vec<_>>()).expect("flags")
}

fn user_id(number: u8) -> UserId {
    format!("user-{number}").parse().expect("a user id")
}

fn hash(number: u8) -> TokenHash {
    TokenHash::of(&[number])
}

fn key_row(number: u8, what: [u8; 3]) -> KeyRow {
    let [states, whose, stamp] = what;
    let id = KeyId::from_bits(u128::from(number) + 1);
    let end = |bit: u8, seconds| (whose & bit != 0).then(|| Timestamp::from_seconds(seconds + i64::from(stamp)));
    KeyRow {
        head: Head::from(&hash(number)),
        id,
        lineage: if states & 8 != 0 { KeyId::from_bits(u128::from(stamp) + 1).lineage() } else { id.lineage() },
        states: States { revoked: states & 1 != 0, disabled: states & 2 != 0, superseded: states & 4 != 0 },
        project: (states & 16 != 0).then(|| format!("p{}", stamp % 4).parse::<ProjectId>().expect("a project")),
        environment: if states & 32 != 0 { "test".parse().expect("a name") } else { EnvironmentId::live() },
        user: (whose & 3 != 3).then(|| user_id(whose & 3)),
        grants: if whose & 4 != 0 { Grants::Inherit } else { Grants::Only(flags(whose >> 3)) },
        expires_at: end(64, 1_000),
        grace_expires_at: end(128, 500),
        stamp: Stamp { revision: u64::from(stamp / 4), ordinal: u32::from(stamp % 4) },
    }
}

fn user_row(number: u8, what: [u8; 3]) -> UserRow {
    let [states, granted, stamp] = what;
    UserRow {
        id: user_id(number),
        flags: flags(granted),
        active: states & 1 != 0,
        deleted: states & 2 != 0,
        stamp: Stamp { revision: u64::from(stamp / 4), ordinal: u32::from(stamp % 4) },
    }
}

fn agree(table: &Table, model: &Model) {
    assert_eq!(table.keys(), model.keys.len());
    for number in 0..KEYS {
        let found = table.lookup(&hash(number));
        let (Some(record), Some(row)) = (&found, model.keys.get(&number)) else {
            assert_eq!(found.is_some(), model.keys.contains_key(&number), "key {number}");
            continue;
        };
        assert_eq!((record.id, record.lineage, record.hash_head), (row.id, row.lineage, hash(number).head()));
        assert_eq!((record.standing.states, record.project()), (row.states, row.project.as_ref()));
        assert_eq!((record.environment(), record.user_id()), (&row.environment, row.user.as_ref()));
        assert_eq!(record.standing.expires_at, row.expires_at);
        assert_eq!(record.standing.grace_expires_at, row.grace_expires_at);
        let user = row.user.as_ref().map(|id| model.users.values().find(|user| user.id == *id));
        let usable = user.map(|user| user.filter(|user| user.active && !user.deleted));
        let standing = match usable {
            None => UserStanding::None,
            Some(Some(_)) => UserStanding::Active,
            Some(None) => UserStanding::Disabled,
        };
        assert_eq!(record.standing.user, standing, "key {number}");
        if standing == UserStanding::Disabled {
            continue;
        }
        for bit in 0..3 {
            let name = format!("a.{bit}");
            let own = match &row.grants {
                Grants::Only(flags) => flags.grants(&name),
                Grants::Inherit => usable.is_some(),
            };
            let theirs = usable.flatten().is_none_or(|user| user.flags.grants(&name));
            let met = match record.flags() {
                RecordFlags::Own(flags) | RecordFlags::Inherited(flags) => flags.grants(&name),
                RecordFlags::Both { key, user } => key.grants(&name) && user.grants(&name),
            };
            assert_eq!(met, own && theirs, "key {number}, {name}");
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let table = Table::new();
    let mut model = Model::default();
    // A key set that is built beside the one in use.
    let mut beside = None;
    for step in data.chunks_exact(4).take(200) {
        let &[what, one, two, three] = step else { continue };
        let rest = [one, two, three];
        match what {
            0..=159 => {
                let row = key_row(what % KEYS, rest);
                match &mut beside {
                    Some((load, built)) => {
                        let load: &keyward::table::Load = load;
                        let built: &mut Model = built;
                        load.key(&row.view());
                        built.key(what % KEYS, row);
                    }
                    None => {
                        let _applied = table.apply(vec![Row::Key(Box::new(row.clone()))]);
                        model.key(what % KEYS, row);
                    }
                }
            }
            160..=223 => {
                let row = user_row(what % USERS, rest);
                match &mut beside {
                    Some((load, built)) => {
                        load.user(&row);
                        built.user(what % USERS, row);
                    }
                    None => {
                        let _applied = table.apply(vec![Row::User(row.clone())]);
                        model.user(what % USERS, row);
                    }
                }
            }
            224..=239 => beside = Some((table.load(), Model::default())),
            240..=255 => {
                if let Some((load, built)) = beside.take() {
                    table.swap(load, 100).expect("anything may be lost");
                    model = built.after(model);
                }
            }
        }
        agree(&table, &model);
    }
});
