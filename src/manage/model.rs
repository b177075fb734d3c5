//! Many random lives of keys, held against a model that is too simple to be wrong: what is taken,
//! what is refused, and what every key is at every instant that matters.
//!
//! Plans run on rows in memory, for a store adds nothing to what is decided. `KEYWARD_SOAK_LIVES`
//! says how many lives there are.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::manager::Seen;
use super::mint::Minter;
use super::*;
use crate::clock::Timestamp;
use crate::key::{FlagSet, Grants, Key, KeyId, OperatorScope, Stamp, States, Status, TokenPrefix, User, UserId};
use crate::store::{Change, KeyUsage, Reading, Row};

const FLAGS: [&str; 3] = ["a.read", "a.write", "b"];
const USERS: [&str; 2] = ["ann", "bob"];
const LIVES: u32 = 1_000;

#[derive(Debug, Clone)]
enum Step {
    Create { user: Option<usize>, grants: Wanted, lives: Option<u64> },
    Update { key: usize, active: Option<bool>, grants: Option<Wanted>, lives: Option<Option<u64>> },
    Rotate { key: usize, grace: u64 },
    Revoke { key: usize, lineage: bool },
    SetUser { user: usize, flags: u8, active: bool },
    DeleteUser { user: usize },
    Use { key: usize },
    Wait { seconds: u64 },
}

#[derive(Debug, Clone, Copy)]
enum Wanted {
    Only(u8),
    Inherit,
}

fn step() -> impl Strategy<Value = Step> {
    let wanted = || prop_oneof![3 => (0_u8..8).prop_map(Wanted::Only), 1 => Just(Wanted::Inherit)];
    // Zero seconds is an end that does not lie ahead.
    let lives = || proptest::option::of(0_u64..6);
    let (key, user) = (0_usize..6, 0_usize..2);
    prop_oneof![
        3 => (proptest::option::of(user.clone()), wanted(), lives())
            .prop_map(|(user, grants, lives)| Step::Create { user, grants, lives }),
        3 => (key.clone(), any::<Option<bool>>(), proptest::option::of(wanted()), proptest::option::of(lives()))
            .prop_map(|(key, active, grants, lives)| Step::Update { key, active, grants, lives }),
        4 => (key.clone(), 0_u64..5).prop_map(|(key, grace)| Step::Rotate { key, grace }),
        1 => (key.clone(), any::<bool>()).prop_map(|(key, lineage)| Step::Revoke { key, lineage }),
        3 => (user.clone(), 0_u8..8, any::<bool>()).prop_map(|(user, flags, active)| Step::SetUser { user, flags, active }),
        1 => user.prop_map(|user| Step::DeleteUser { user }),
        1 => key.prop_map(|key| Step::Use { key }),
        3 => (1_u64..4).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

fn set(bits: u8) -> FlagSet {
    let chosen = FLAGS.iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0).map(|(_, flag)| *flag);
    FlagSet::parse(chosen).expect("flags of a test")
}

fn grants(wanted: Wanted) -> Grants {
    match wanted {
        Wanted::Only(bits) => Grants::Only(set(bits)),
        Wanted::Inherit => Grants::Inherit,
    }
}

/// A key as the model has it: times are seconds since the beginning.
#[derive(Debug, Clone)]
struct ModelKey {
    user: Option<usize>,
    grants: Wanted,
    off: bool,
    revoked: bool,
    superseded: bool,
    expires: Option<u64>,
    grace: Option<u64>,
    /// The number of the key that replaced it, and of the first of its lineage.
    next: Option<usize>,
    first: usize,
    used: bool,
    by_operator: bool,
}

#[derive(Debug, Clone, Copy)]
struct ModelUser {
    flags: u8,
    active: bool,
    deleted: bool,
}

#[derive(Debug, Default)]
struct Model {
    keys: Vec<ModelKey>,
    users: [Option<ModelUser>; 2],
    now: u64,
}

impl Model {
    fn status(&self, key: &ModelKey, at: u64) -> Status {
        let user_works = |user: usize| self.users[user].is_some_and(|user| user.active && !user.deleted);
        let over = |end: Option<u64>| end.is_some_and(|end| at >= end);
        if key.revoked {
            Status::Revoked
        } else if key.off {
            Status::Disabled
        } else if key.user.is_some_and(|user| !user_works(user)) {
            Status::UserDisabled
        } else if over(key.expires) {
            Status::Expired
        } else if key.superseded || over(key.grace) {
            Status::Superseded
        } else if key.grace.is_some() {
            Status::Grace
        } else {
            Status::Active
        }
    }

    /// The flags that the key's holder can use, were it live.
    fn flags(&self, key: &ModelKey) -> u8 {
        let of_user = key.user.map(|user| self.users[user].map_or(0, |user| user.flags));
        match (key.grants, of_user) {
            (Wanted::Only(own), None) => own,
            (Wanted::Only(own), Some(of_user)) => own & of_user,
            (Wanted::Inherit, of_user) => of_user.unwrap_or(0),
        }
    }

    fn revoke(&mut self, key: usize) {
        let now = self.now;
        let key = &mut self.keys[key];
        if !key.revoked {
            key.revoked = true;
            key.grace = key.grace.map(|grace| grace.min(now));
        }
    }

    /// Does `step`, unless it is to be refused. Whether it was done.
    fn take(&mut self, step: &Step, by_operator: bool) -> bool {
        let now = self.now;
        match *step {
            Step::Create { user, grants, lives } => {
                let owned = user.is_none_or(|user| self.users[user].is_some_and(|user| !user.deleted));
                let inherits_nothing = matches!(grants, Wanted::Inherit) && user.is_none();
                if !owned || inherits_nothing || lives == Some(0) {
                    return false;
                }
                self.keys.push(ModelKey {
                    user,
                    grants,
                    off: false,
                    revoked: false,
                    superseded: false,
                    expires: lives.map(|lives| now + lives),
                    grace: None,
                    next: None,
                    first: self.keys.len(),
                    used: false,
                    by_operator,
                });
            }
            Step::Update { key, active, grants, lives } => {
                let Some(key) = self.keys.get_mut(key) else { return false };
                let wanted = grants.unwrap_or(key.grants);
                if key.revoked || lives == Some(Some(0)) || (matches!(wanted, Wanted::Inherit) && key.user.is_none()) {
                    return false;
                }
                key.grants = wanted;
                key.off = active.map_or(key.off, |active| !active);
                if let Some(lives) = lives {
                    key.expires = lives.map(|lives| now + lives);
                    key.grace = key.grace.map(|grace| grace.min(key.expires.unwrap_or(grace)));
                }
            }
            Step::Rotate { key: number, grace } => {
                let Some(old) = self.keys.get(number).cloned() else { return false };
                match self.status(&old, now) {
                    Status::Active | Status::Grace => {}
                    Status::Superseded if old.next.is_some() => {}
                    _ => return false,
                }
                if let Some(next) = old.next {
                    let lost = &self.keys[next];
                    if lost.used || lost.revoked || lost.next.is_some() || lost.by_operator != by_operator {
                        return false;
                    }
                    self.revoke(next);
                }
                let fresh = ModelKey {
                    off: false,
                    revoked: false,
                    superseded: false,
                    grace: None,
                    next: None,
                    used: false,
                    by_operator,
                    ..old.clone()
                };
                self.keys.push(fresh);
                let next = self.keys.len() - 1;
                let old = &mut self.keys[number];
                let ends = [Some(now + grace), old.expires, old.grace].into_iter().flatten().min();
                (old.next, old.grace) = (Some(next), ends);
                old.superseded |= grace == 0;
            }
            Step::Revoke { key, lineage } => {
                let Some(first) = self.keys.get(key).map(|key| key.first) else { return false };
                for number in 0..self.keys.len() {
                    if number == key || (lineage && self.keys[number].first == first) {
                        self.revoke(number);
                    }
                }
            }
            Step::SetUser { user, flags, active } => {
                if self.users[user].is_some_and(|user| user.deleted) {
                    return false;
                }
                self.users[user] = Some(ModelUser { flags, active, deleted: false });
            }
            Step::DeleteUser { user } => {
                let Some(known) = &mut self.users[user] else { return false };
                known.deleted = true;
                for number in 0..self.keys.len() {
                    if self.keys[number].user == Some(user) {
                        self.revoke(number);
                    }
                }
            }
            Step::Use { key } => match self.keys.get_mut(key) {
                Some(key) => key.used = true,
                None => return false,
            },
            Step::Wait { seconds } => self.now += seconds,
        }
        true
    }
}

/// The rows that the plans really work on.
#[derive(Debug)]
struct Rows {
    reading: Reading,
    /// The keys in the order of their making.
    made: Vec<KeyId>,
    operator: KeyId,
    revision: u64,
}

const BEGINNING: i64 = 1_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(BEGINNING).plus(Duration::from_secs(seconds))
}

impl Rows {
    fn new(may_grant: u8) -> Self {
        let scope = OperatorScope { project: "acme".parse().ok(), environment: None };
        let permissions = ["keyward.keys.**", "keyward.users.write"];
        let new = NewKey {
            grants: Grants::Only(FlagSet::parse(permissions).expect("flags of a test")),
            may_grant: set(may_grant),
            operates_on: Some(scope),
            ..NewKey::named("operator", "acme".parse().ok())
        };
        let reading = Reading { now: at(0), ..Reading::default() };
        let mut rows = Self { reading, made: Vec::new(), operator: KeyId::from_bits(1), revision: 0 };
        let made = plan::create(&local(), &new, &minter(), &rows.reading).expect("an operator");
        rows.operator = made.outcome.key.id;
        rows.write(made.changes);
        rows
    }

    fn write(&mut self, changes: Vec<Change>) {
        self.revision += 1;
        let stamp = Stamp { revision: self.revision, ordinal: 0 };
        for change in changes {
            match change.row {
                Row::Key(key) => {
                    self.reading.keys.retain(|known| known.id != key.id);
                    self.reading.keys.push(Key { stamp, ..*key });
                }
                Row::User(user) => {
                    self.reading.users.retain(|known| known.id != user.id);
                    self.reading.users.push(User { stamp, ..user });
                }
            }
        }
    }

    /// Does `step`. Whether it was done.
    fn take(&mut self, step: &Step, caller: &Caller) -> Result<(), ManageError> {
        let minter = minter();
        let expiry = |lives: Option<u64>| lives.map_or(Expiry::Never, |lives| Expiry::In(Duration::from_secs(lives)));
        let missing = KeyId::from_bits(7);
        let id = |key: usize| self.made.get(key).copied().unwrap_or(missing);
        let changes = match *step {
            Step::Create { user, grants: wanted, lives } => {
                let new = NewKey {
                    grants: grants(wanted),
                    user: user.map(user_id),
                    expires: expiry(lives),
                    ..NewKey::named("a key", "acme".parse().ok())
                };
                let made = plan::create(caller, &new, &minter, &self.reading)?;
                self.made.push(made.outcome.key.id);
                made.changes
            }
            Step::Update { key, active, grants: wanted, lives } => {
                let change = KeyChange {
                    active: active.map(activity),
                    grants: wanted.map(grants),
                    expires: lives.map(expiry),
                    ..KeyChange::default()
                };
                plan::update(caller, id(key), &change, &self.reading)?.changes
            }
            Step::Rotate { key, grace } => {
                let usage = plan::Usage { seen: &|_| Seen::Unused, settled: USAGE_SETTLED };
                let grace = Duration::from_secs(grace);
                let replaced = plan::rotate(caller, id(key), grace, &minter, usage, &self.reading)?;
                self.made.push(replaced.outcome.new.id);
                replaced.changes
            }
            Step::Revoke { key, lineage } => {
                let scope = if lineage { RevokeScope::Lineage } else { RevokeScope::Key };
                plan::revoke(caller, id(key), scope, &self.reading)?.changes
            }
            Step::SetUser { user, flags, active } => {
                let change = UserChange {
                    id: user_id(user),
                    project: "acme".parse().ok(),
                    flags: set(flags),
                    active: activity(active),
                };
                plan::set_user(caller, &change.into(), &self.reading)?.changes
            }
            Step::DeleteUser { user } => plan::delete_user(caller, &user_id(user), &self.reading)?.changes,
            Step::Use { key } => {
                let Some(&key) = self.made.get(key) else { return Err(ManageError::KeyNotFound { id: missing }) };
                self.reading.usage.push(KeyUsage { key, last_used_at: self.reading.now, count: 1 });
                Vec::new()
            }
            Step::Wait { seconds } => {
                self.reading.now = self.reading.now.plus(Duration::from_secs(seconds));
                Vec::new()
            }
        };
        self.write(changes);
        Ok(())
    }

    fn key(&self, number: usize) -> (&Key, Option<&User>) {
        let key = self.reading.key(self.made[number]).expect("a key that was made stays");
        (key, self.reading.user_of(key))
    }

    /// What the holders of all keys can do now.
    fn powers(&self) -> BTreeMap<(usize, &'static str), bool> {
        let mut powers = BTreeMap::new();
        for number in 0..self.made.len() {
            let (key, user) = self.key(number);
            for flag in FLAGS {
                let usable = key.status(user, self.reading.now).is_usable();
                powers.insert((number, flag), usable && key.holds(user, flag));
            }
        }
        powers
    }
}

fn minter() -> Minter {
    Minter { prefix: TokenPrefix::default(), jwt: None }
}

fn local() -> Caller {
    Caller::Local { login: "ann".to_owned() }
}

fn user_id(number: usize) -> UserId {
    USERS[number].parse().expect("a user id of a test")
}

fn activity(active: bool) -> Activity {
    if active { Activity::Active } else { Activity::Disabled }
}

fn like_the_model(rows: &Rows, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(rows.made.len(), model.keys.len());
    for (number, expected) in model.keys.iter().enumerate() {
        let (key, user) = rows.key(number);
        for end in [Some(model.now), Some(model.now + 1), expected.expires, expected.grace].into_iter().flatten() {
            let instants = [(end.saturating_sub(1), at(end).minus(Duration::from_nanos(1))), (end, at(end))];
            for (second, instant) in instants {
                let is = (key.status(user, instant), model.status(expected, second));
                prop_assert!(is.0 == is.1, "key {} at {}: {:?}, expected {:?}", number, second, is.0, is.1);
            }
        }
        if let (Some(grace), Some(expires)) = (key.grace_expires_at, key.expires_at) {
            prop_assert!(grace <= expires, "key {} has grace past its expiry", number);
        }
        let flags = model.flags(expected);
        for (bit, flag) in FLAGS.iter().enumerate() {
            prop_assert_eq!(key.holds(user, flag), flags & (1 << bit) != 0, "key {} and {}", number, flag);
        }
        prop_assert!(!key.is_operator(user));
        prop_assert_eq!(key.states.is_terminal(), expected.revoked || expected.superseded);
        prop_assert_eq!(key.states, States { disabled: expected.off, ..key.states });
    }
    Ok(())
}

/// One life: who does a step is the holder of the master secret, or an operator who may grant
/// little, in turns.
fn live(steps: &[(Step, bool)], may_grant: u8) -> Result<(), TestCaseError> {
    let (mut rows, mut model) = (Rows::new(may_grant), Model::default());
    for (step, by_operator) in steps {
        let caller =
            if *by_operator { Caller::Key { id: rows.operator, from: [192, 0, 2, 1].into() } } else { local() };
        let before = rows.powers();
        let done = rows.take(step, &caller);
        if *by_operator && matches!(done, Err(ManageError::MayNotGrant { .. })) {
            // Whether that was right, the model does not know; that nothing else may be, below.
            continue;
        }
        let expected = model.take(step, *by_operator);
        prop_assert!(done.is_ok() == expected, "{:?} by {:?}: {:?}, expected {}", step, caller, done, expected);
        if *by_operator && !matches!(step, Step::Wait { .. }) {
            for ((number, flag), can) in rows.powers() {
                let could = before.get(&(number, flag)).copied().unwrap_or(false);
                let allowed = set(may_grant).grants(flag);
                prop_assert!(could || !can || allowed, "{:?} gave key {} the flag {}", step, number, flag);
            }
        }
        like_the_model(&rows, &model)?;
    }
    Ok(())
}

#[test]
#[expect(clippy::disallowed_methods, reason = "longer where it is asked for")]
fn every_life_of_a_key_is_as_the_model_says() {
    let cases = std::env::var("KEYWARD_SOAK_LIVES").map_or(LIVES, |lives| lives.parse().expect("a number of lives"));
    let lives = (proptest::collection::vec((step(), any::<bool>()), 1..24), 0_u8..8);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) });
    let outcome = runner.run(&lives, |(steps, may_grant)| live(&steps, may_grant));
    if let Err(fault) = outcome {
        panic!("{fault}");
    }
}
