//! Many random histories by operators of every kind, by users and by whoever holds any key, held
//! against a rule that is written once more, and as slowly as it reads: nobody comes to hold what the
//! one who did it may not give, nobody touches what is not theirs, and who does not work does nothing.
//!
//! Plans run on rows in memory, for a store adds nothing to what is decided. `KEYWARD_SOAK_HISTORIES`
//! says how many histories there are.

use std::time::Duration;

use super::manager::Seen;
use super::may::Acting;
use super::mint::Minter;
use super::plan::Plan;
use super::*;
use crate::clock::Timestamp;
use crate::key::{
    Event, EventKind, FlagSet, Grants, Key, KeyId, OperatorScope, ProjectId, Stamp, Subject, TokenHash, TokenPrefix,
    User, UserId,
};
use crate::store::{Change, Reading, Row};

const HISTORIES: u64 = 2000;
const STEPS: usize = 14;

/// Everything that anybody could hold here.
const UNIVERSE: [&str; 10] = [
    "a.x",
    "a.y",
    "b",
    "c.z",
    "keyward.keys.create",
    "keyward.keys.update",
    "keyward.keys.rotate",
    "keyward.keys.import",
    "keyward.users.write",
    "keyward.operators.write",
];
const PATTERNS: [&str; 8] = ["a.x", "a.*", "b", "c.z", "**", "*", "a.**", "*.z"];
const RESERVED: [&str; 8] = [
    "keyward.**",
    "keyward.keys.**",
    "keyward.keys.create",
    "keyward.keys.update",
    "keyward.keys.rotate",
    "keyward.keys.import",
    "keyward.users.write",
    "keyward.operators.write",
];
const PROJECTS: [&str; 2] = ["acme", "other"];
const ENVIRONMENTS: [&str; 2] = ["live", "test"];
const USERS: [&str; 3] = ["ann", "bob", "eve"];

/// Numbers that look random and follow from one.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap_or(0) % sides
    }

    fn often(&mut self) -> bool {
        self.roll(4) > 0
    }

    fn seldom(&mut self) -> bool {
        self.roll(4) == 0
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }

    fn flags(&mut self, of: &[&str], most: usize) -> FlagSet {
        let count = self.roll(most + 1);
        FlagSet::parse((0..count).map(|_| self.one(of)).collect::<Vec<_>>()).expect("flags of a test")
    }

    fn any_flags(&mut self) -> FlagSet {
        let plain = self.flags(&PATTERNS, 2);
        let reserved = if self.seldom() { self.flags(&RESERVED, 2) } else { FlagSet::default() };
        plain.iter().chain(reserved.iter()).cloned().collect()
    }

    fn project(&mut self) -> ProjectId {
        self.one(&PROJECTS).parse().expect("a project")
    }

    fn user(&mut self) -> UserId {
        self.one(&USERS).parse().expect("a user")
    }

    fn expiry(&mut self) -> Expiry {
        match self.roll(3) {
            0 => Expiry::Never,
            _ => Expiry::In(Duration::from_secs(u64::try_from(1 + self.roll(9)).expect("a small number"))),
        }
    }

    fn grants(&mut self) -> Grants {
        if self.seldom() { Grants::Inherit } else { Grants::Only(self.any_flags()) }
    }

    fn scope(&mut self) -> OperatorScope {
        let project = if self.seldom() { None } else { Some(self.project()) };
        let environment = if self.often() { None } else { self.one(&ENVIRONMENTS).parse().ok() };
        OperatorScope { project, environment }
    }
}

/// Whether one of `grants` gives `flag`: segment by segment, and nothing reserved by a wildcard.
fn gives(grants: &FlagSet, flag: &str) -> bool {
    let gives_one = |grant: &str| {
        if flag.starts_with("keyward.") && !grant.starts_with("keyward.") {
            return false;
        }
        let (mut grant, mut flag) = (grant.split('.').peekable(), flag.split('.'));
        loop {
            match (grant.next(), flag.next()) {
                (Some("**"), Some(_)) => return true,
                (Some(have), Some(want)) if have == "*" || have == want => {}
                (None, None) => return true,
                _ => return false,
            }
        }
    };
    grants.iter().any(|grant| gives_one(grant.as_str()))
}

/// Whether `key` has `flag`, whether it works or not.
fn has(key: &Key, user: Option<&User>, flag: &str) -> bool {
    let of_user = match (&key.user, user) {
        (None, _) => true,
        (Some(_), None) => return false,
        (Some(_), Some(user)) => gives(&user.flags, flag),
    };
    match &key.grants {
        Grants::Only(own) => of_user && gives(own, flag),
        Grants::Inherit => key.user.is_some() && of_user,
    }
}

/// Whether `key` works at `now`: everything that could be against it, one by one.
fn works(key: &Key, user: Option<&User>, now: Timestamp) -> bool {
    let over = |end: Option<Timestamp>| end.is_some_and(|end| end <= now);
    let user_works = key.user.is_none() || user.is_some_and(|user| user.active && !user.deleted);
    let states = key.states;
    !states.revoked
        && !states.disabled
        && !states.superseded
        && user_works
        && !over(key.expires_at)
        && !over(key.grace_expires_at)
}

fn is_in(scope: &OperatorScope, key: &Key) -> bool {
    let of_project = scope.project.is_none() || scope.project == key.project;
    of_project && scope.environment.as_ref().is_none_or(|environment| *environment == key.environment)
}

fn ends(key: &Key) -> Timestamp {
    let end = |end: Option<Timestamp>| end.unwrap_or(Timestamp::MAX);
    end(key.expires_at).min(end(key.grace_expires_at))
}

/// Every row, and who has it.
#[derive(Clone, Default)]
struct World {
    reading: Reading,
    made: Vec<KeyId>,
    revision: u64,
    /// Who last switched each key off.
    switched_off: Vec<Event>,
}

/// What is done, for the rule and for whoever reads a failure.
#[derive(Debug)]
enum Step {
    Create(Box<NewKey>),
    Update(KeyId, Box<KeyChange>),
    Rotate(KeyId),
    Revoke(KeyId, RevokeScope),
    Import(Box<ImportedKey>),
    SetUser(UserPatch),
    DeleteUser(UserId),
    OwnCreate,
    OwnUpdate(KeyId, OwnChange),
    OwnRevoke(KeyId),
}

fn local() -> Caller {
    Caller::Local { login: "ann".to_owned() }
}

fn minter() -> Minter {
    #[derive(Debug)]
    struct Unsigned;
    impl crate::key::MintJwt for Unsigned {
        fn mint(&self, key: &Key) -> Result<crate::key::Token, crate::secret::NoRandomness> {
            Ok(crate::key::Token::from_text(&format!("e30.{}.e30", key.id)))
        }
    }
    Minter { prefix: TokenPrefix::default(), jwt: Some(std::sync::Arc::new(Unsigned)) }
}

impl World {
    fn key(&self, id: KeyId) -> Option<(&Key, Option<&User>)> {
        let key = self.reading.key(id)?;
        Some((key, self.reading.user_of(key)))
    }

    fn write(&mut self, changes: Vec<Change>, caller: &Caller) {
        self.revision += 1;
        let stamp = Stamp { revision: self.revision, ordinal: 0 };
        for change in changes {
            match change.row {
                Row::Key(key) => {
                    if change.event.kind == EventKind::KeyDisabled {
                        let subject = Subject::Key(key.id);
                        self.switched_off.retain(|event| event.subject != subject);
                        let (at, kind, actor) = (self.reading.now, change.event.kind, caller.actor());
                        let changes = change.event.changes;
                        self.switched_off.push(Event { stamp, at, kind, actor, from: None, subject, changes });
                    }
                    if !self.made.contains(&key.id) {
                        self.made.push(key.id);
                    }
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

    fn take(&mut self, step: &Step, caller: &Caller, minter: &Minter) -> Result<(), ManageError> {
        let changes = self.planned(step, caller, minter)?;
        self.write(changes, caller);
        Ok(())
    }

    fn planned(&mut self, step: &Step, caller: &Caller, minter: &Minter) -> Result<Vec<Change>, ManageError> {
        let target = match step {
            Step::Update(id, _) | Step::OwnUpdate(id, _) => Some(Subject::Key(*id)),
            _ => None,
        };
        self.reading.disabled = self.switched_off.iter().find(|event| Some(&event.subject) == target.as_ref()).cloned();
        self.reading.count_of_user = 0;
        let reading = &self.reading;
        let grace = GRACE_OF_SELF_MIN;
        Ok(match step {
            Step::Create(new) => plan::create(caller, new, minter, reading)?.changes,
            Step::Update(id, change) => plan::update(caller, *id, change, reading)?.changes,
            Step::Rotate(id) => {
                let usage = plan::Usage { seen: &|_| Seen::Unused, settled: USAGE_SETTLED };
                plan::rotate(caller, *id, grace, minter, usage, reading)?.changes
            }
            Step::Revoke(id, scope) => plan::revoke(caller, *id, *scope, reading)?.changes,
            Step::Import(row) => {
                let Plan { changes, .. } = import::import(
                    caller,
                    std::slice::from_ref(row),
                    ImportOptions::default(),
                    &TokenPrefix::default(),
                    reading,
                )?;
                changes
            }
            Step::SetUser(patch) => plan::set_user(caller, patch, reading)?.changes,
            Step::DeleteUser(id) => plan::delete_user(caller, id, reading)?.changes,
            Step::OwnCreate => own::create(caller, None, minter, 50, reading)?.changes,
            Step::OwnUpdate(id, change) => own::update(caller, *id, change, reading)?.changes,
            Step::OwnRevoke(id) => own::revoke(caller, *id, reading)?.changes,
        })
    }

    fn random_key(&self, dice: &mut Dice) -> KeyId {
        if self.made.is_empty() { KeyId::from_bits(7) } else { self.made[dice.roll(self.made.len())] }
    }

    /// Most often an operator's.
    fn random_caller(&self, dice: &mut Dice) -> KeyId {
        let operators = self.reading.keys.iter().filter(|key| key.operates_on.is_some());
        let operators: Vec<KeyId> = operators.map(|key| key.id).collect();
        if operators.is_empty() || dice.seldom() {
            self.random_key(dice)
        } else {
            operators[dice.roll(operators.len())]
        }
    }

    fn new_key(dice: &mut Dice, operator: bool) -> NewKey {
        let project = dice.project();
        let mut new = NewKey {
            environment: dice.one(&ENVIRONMENTS).parse().expect("an environment"),
            user: dice.seldom().then(|| dice.user()),
            grants: dice.grants(),
            expires: dice.expiry(),
            self_rotate: dice.seldom(),
            ..NewKey::named("a key", Some(project))
        };
        if operator {
            let scope = dice.scope();
            new.project = scope.project.clone();
            new.may_grant = dice.flags(&PATTERNS, 3);
            new.operates_on = Some(scope);
            if let Grants::Only(own) = &new.grants {
                let more = dice.flags(&RESERVED, 3);
                new.grants = Grants::Only(own.iter().chain(more.iter()).cloned().collect());
            }
        }
        new
    }

    fn step(&self, dice: &mut Dice) -> Step {
        let id = self.random_key(dice);
        match dice.roll(14) {
            0 | 1 => {
                let operator = dice.seldom();
                Step::Create(Box::new(Self::new_key(dice, operator)))
            }
            2..=5 => {
                let mut change = KeyChange::default();
                match dice.roll(7) {
                    0 => change.grants = Some(dice.grants()),
                    1 => change.active = Some(Activity::Active),
                    2 => change.active = Some(Activity::Disabled),
                    3 => change.expires = Some(dice.expiry()),
                    4 => change.environment = dice.one(&ENVIRONMENTS).parse().ok(),
                    5 => change.may_grant = Some(dice.flags(&PATTERNS, 3)),
                    _ => change.operates_on = Some(Some(dice.scope())),
                }
                if dice.seldom() {
                    change.name = Some("renamed".to_owned());
                }
                Step::Update(id, Box::new(change))
            }
            6 | 7 => Step::Rotate(id),
            8 => {
                let scopes = [RevokeScope::Key, RevokeScope::Lineage, RevokeScope::Descendants];
                Step::Revoke(id, scopes[dice.roll(3)])
            }
            9 => Step::Import(Box::new(ImportedKey {
                line: 1,
                secret: ImportedSecret::Hash(TokenHash::of(&dice.0.to_be_bytes())),
                name: "imported".to_owned(),
                project: dice.project(),
                environment: dice.one(&ENVIRONMENTS).parse().expect("an environment"),
                user: dice.seldom().then(|| dice.user()),
                grants: dice.grants(),
                props: std::collections::BTreeMap::new(),
                expires: dice.expiry(),
            })),
            10 => Step::SetUser(UserPatch {
                id: dice.user(),
                project: dice.seldom().then(|| dice.often().then(|| dice.project())),
                flags: dice.often().then(|| dice.any_flags()),
                active: dice.seldom().then(|| if dice.often() { Activity::Active } else { Activity::Disabled }),
            }),
            11 if dice.seldom() => Step::DeleteUser(dice.user()),
            11 => Step::OwnCreate,
            12 => {
                let active = if dice.often() { Activity::Active } else { Activity::Disabled };
                Step::OwnUpdate(id, OwnChange { name: None, active: Some(active) })
            }
            _ => Step::OwnRevoke(id),
        }
    }
}

/// What the rule says of `step`, which `by` did.
fn is_lawful(before: &World, after: &World, step: &Step, by: KeyId) -> Result<(), String> {
    let now = before.reading.now;
    let (caller, caller_user) = before.key(by).ok_or("an unknown caller")?;
    if !works(caller, caller_user, now) {
        return Err("the caller does not work".to_owned());
    }
    let itself = matches!(step, Step::Rotate(id) if *id == by && caller.rotates_itself());
    let own = matches!(step, Step::OwnCreate | Step::OwnUpdate(..) | Step::OwnRevoke(_));
    for (key, user) in after.made.iter().filter_map(|id| after.key(*id)) {
        let known = before.key(key.id);
        if known.is_some_and(|(was, user_was)| was == key && user_was == user) || key.states.revoked {
            continue;
        }
        let fresh = known.is_none_or(|(was, _)| {
            was.project != key.project || was.environment != key.environment || ends(key) > ends(was)
        });
        let gained = |flag: &str| {
            let latent = has(key, user, flag);
            let live = latent && works(key, user, now);
            let (was_latent, was_live) = known.map_or((false, false), |(was, user_was)| {
                (has(was, user_was, flag), has(was, user_was, flag) && works(was, user_was, now))
            });
            (latent && (fresh || !was_latent)) || (live && !was_live)
        };
        let gains: Vec<&str> = UNIVERSE.into_iter().filter(|flag| gained(flag)).collect();
        let say = |what: &str| Err(format!("{} {what}: {gains:?}", key.id));
        let operates = gains.iter().any(|flag| flag.starts_with("keyward."));
        if own || itself {
            // A successor keeps the absolute expiry; what ends a replaced key is its grace alone.
            let end = if itself { caller.expires_at.unwrap_or(Timestamp::MAX) } else { ends(caller) };
            if ends(key) > end && !gains.is_empty() {
                return say("outlives the key that made it live");
            }
            if !gains.iter().all(|flag| has(caller, caller_user, flag)) {
                return say("has more than the key that made it");
            }
            if own && operates {
                return say("operates, by a user");
            }
            if own
                && (key.user != caller.user || key.project != caller.project || key.environment != caller.environment)
            {
                return say("is not of the caller");
            }
            continue;
        }
        let operated = known.map(|(was, _)| (&was.may_grant, &was.operates_on));
        let operator_changed = operated.is_some_and(|was| was != (&key.may_grant, &key.operates_on));
        if gains.is_empty() && !operator_changed {
            continue;
        }
        let scope = caller.operates_on.as_ref().ok_or("the caller is no operator")?;
        if !gains.is_empty() && !is_in(scope, key) {
            return say("is not of what the caller manages");
        }
        let writes_operators = has(caller, caller_user, "keyward.operators.write");
        for flag in &gains {
            let may = if flag.starts_with("keyward.") {
                writes_operators && has(caller, caller_user, flag)
            } else {
                gives(&caller.may_grant, flag)
            };
            if !may {
                return say(&format!("gained {flag}"));
            }
        }
        let hands_on: Vec<&str> = UNIVERSE
            .into_iter()
            .filter(|flag| gives(&key.may_grant, flag))
            .filter(|flag| operates || !operated.is_some_and(|(was, _)| gives(was, flag)))
            .collect();
        let may_hand_on = writes_operators && hands_on.iter().all(|flag| gives(&caller.may_grant, flag));
        if !hands_on.is_empty() && !may_hand_on {
            return say(&format!("may grant {hands_on:?}"));
        }
        if let Some(wanted) = key.operates_on.as_ref()
            && (operates || operated.is_none_or(|(_, was)| was.as_ref() != Some(wanted)))
        {
            let wider = (scope.project.is_some() && scope.project != wanted.project)
                || (scope.environment.is_some() && scope.environment != wanted.environment);
            if wider || !writes_operators {
                return say("operates on more than the caller");
            }
        }
    }
    Ok(())
}

/// A key that is not of what the caller manages is not there for it.
fn is_hidden(world: &World, step: &Step, by: KeyId) -> bool {
    let (Step::Update(id, _) | Step::Rotate(id) | Step::Revoke(id, _)) = step else { return false };
    let (Some((caller, _)), Some((key, _))) = (world.key(by), world.key(*id)) else { return false };
    *id != by && caller.operates_on.as_ref().is_none_or(|scope| !is_in(scope, key))
}

fn history(seed: u64) -> Result<usize, String> {
    let mut dice = Dice(seed);
    let mut world = World::default();
    world.reading.now = Timestamp::from_seconds(1_000_000);
    let minter = minter();
    // Told in words only where something is wrong.
    let mut steps: Vec<(KeyId, Step, Result<(), ManageError>)> = Vec::new();
    let told = |steps: &[(KeyId, Step, _)], fault: &str| {
        let line = |(by, step, outcome): &(KeyId, Step, _)| format!("\n{by}: {step:?}: {outcome:?}");
        Err(steps.iter().map(line).fold(fault.to_owned(), |text, line| text + &line))
    };
    for user in USERS {
        let patch = UserPatch {
            id: user.parse().expect("a user"),
            project: Some(dice.often().then(|| dice.project())),
            flags: Some(dice.any_flags()),
            active: None,
        };
        world.take(&Step::SetUser(patch), &local(), &minter).expect("the first is trusted");
    }
    for number in 0..8 {
        let _may_break_a_rule =
            world.take(&Step::Create(Box::new(World::new_key(&mut dice, number % 2 == 0))), &local(), &minter);
    }
    let mut done = 0;
    for _ in 0..STEPS {
        if dice.seldom() {
            world.reading.now = world.reading.now.plus(Duration::from_secs(1));
        }
        let by = world.random_caller(&mut dice);
        let caller = Caller::Key { id: by, from: [192, 0, 2, 1].into() };
        let step = world.step(&mut dice);
        match world.planned(&step, &caller, &minter) {
            Ok(changes) => {
                done += 1;
                let hidden = is_hidden(&world, &step, by);
                let before = world.clone();
                world.write(changes, &caller);
                let lawful = is_lawful(&before, &world, &step, by);
                steps.push((by, step, Ok(())));
                if let Err(fault) = lawful {
                    return told(&steps, &fault);
                }
                if hidden {
                    return told(&steps, "it was not the caller's");
                }
            }
            Err(error) => {
                let is_live = Acting::of(&caller, &world.reading).is_ok();
                let tells = is_live && is_hidden(&world, &step, by) && error.as_code() != "not_found";
                steps.push((by, step, Err(error)));
                if tells {
                    return told(&steps, "it tells of what is not the caller's");
                }
            }
        }
    }
    Ok(done)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "longer where it is asked for")]
fn nobody_comes_to_more_than_they_were_given() {
    let asked = std::env::var("KEYWARD_SOAK_HISTORIES");
    let histories = asked.map_or(HISTORIES, |histories| histories.parse().expect("a number of histories"));
    // Each thread has every so manieth of them, so that a failure is of the same number on any machine.
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let of_each = |first: usize| (0..histories).skip(first).step_by(threads);
    let done: usize = std::thread::scope(|scope| {
        let spawn = |first| {
            scope.spawn(move || -> usize {
                let taken = |seed| history(seed).unwrap_or_else(|fault| panic!("history {seed}: {fault}"));
                of_each(first).map(taken).sum()
            })
        };
        let all: Vec<_> = (0..threads).map(spawn).collect();
        all.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).sum()
    });
    // Were everything refused, there would be nothing to find.
    let least = usize::try_from(histories / 2).expect("a number of histories");
    assert!(done > least, "{done} steps were taken");
}
