//! Self-service: a key of a user manages that user's other keys, within its own project and
//! environment, and never beyond itself. What an operator switched off stays off.

use std::time::Duration;

use super::manager::{Asked, Done, Kept, Manager, changed, created};
use super::may::Acting;
use super::mint::Minter;
use super::once::Once;
use super::plan::{self, Minted, Plan};
use super::{Activity, Answered, Caller, Changed, Created, KeyList, ManageError, OwnChange, check, told};
use crate::key::{
    Event, EventKind, FlagSet, Format, Grants, Key, KeyId, Rotation, Stamp, States, Status, Subject, User, UserId,
};
use crate::secret;
use crate::store::{KeyQuery, ReadRequest, Reading};

/// The name of a key whose user gives it none.
pub const OWN_NAME_DEFAULT: &str = "API key";
/// How many keys a user makes within a [`DAY`], for each that it may have.
const MADE_A_DAY_PER_KEY: usize = 4;
/// How many it may make in any case.
const MADE_A_DAY_MIN: usize = 100;
/// How often a user changes one of its keys within a [`DAY`].
const CHANGED_A_DAY_MAX: usize = 100;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How many of a user's keys its own list shows: the newest.
const LISTED_MAX: usize = 1000;

impl Manager {
    /// Mints a key of the caller's user, in JWT form, with what the caller has and no more.
    ///
    /// # Errors
    /// When the caller is no user's active key, the user has as many keys as it may have, the name
    /// breaks a rule, or the store fails.
    pub async fn own_create(&self, caller: &Caller, name: Option<String>) -> Result<Created, ManageError> {
        let (asked, plan) = self.own_creation(caller, name).await?;
        self.change(caller, asked, plan, created).await
    }

    /// [`Manager::own_create`], once. `answer` makes the answer that is kept; it runs inside the
    /// transaction.
    ///
    /// # Errors
    /// As [`Manager::own_create`], and when the same was asked for before with other words, or with
    /// the same so long ago that the answer is no longer kept.
    pub async fn own_create_once(
        &self,
        caller: &Caller,
        name: Option<String>,
        once: Once,
        answer: impl Fn(&Created) -> Vec<u8> + Send + 'static,
    ) -> Result<Answered<Created>, ManageError> {
        let (asked, plan) = self.own_creation(caller, name).await?;
        let kept = Kept { once, answer: Box::new(answer), key: |created: &Created| Some(created.key.id) };
        self.change_once(caller, asked, plan, created, kept).await
    }

    async fn own_creation(
        &self,
        caller: &Caller,
        name: Option<String>,
    ) -> Result<(Asked, impl FnMut(&Reading) -> Result<Plan<Minted>, ManageError> + Send + use<>), ManageError> {
        // Whose keys are counted follows from the caller's key, which never changes its user.
        let reading = self.asked(caller, ReadRequest::default()).await?;
        let user = caller.key().and_then(|id| reading.key(id)).and_then(|key| key.user.clone());
        let made_for_itself = user.clone().map(|user| (user, DAY));
        let read = ReadRequest { count_of_user: user, made_for_itself, ..ReadRequest::default() };
        let (by, minter, most) = (caller.clone(), self.minter(), self.keys_per_user_max());
        let plan = move |reading: &Reading| create(&by, name.as_deref(), &minter, most, reading);
        Ok((Asked::of("own.create", None, read), plan))
    }

    /// The keys of the caller's user in its project and environment, newest first, without those
    /// that are revoked.
    ///
    /// # Errors
    /// When the caller is no user's active key, or the store fails.
    pub async fn own_keys(&self, caller: &Caller) -> Result<KeyList, ManageError> {
        let reading = self.asked(caller, ReadRequest::default()).await?;
        let own = Own::of(caller, &reading)?;
        let query = KeyQuery {
            project: own.key.project.clone(),
            environment: Some(own.key.environment.clone()),
            user: Some(own.user.id.clone()),
            unrevoked: true,
            limit: LISTED_MAX,
            ..KeyQuery::default()
        };
        self.list(query, reading.now).await
    }

    /// Changes a key of the caller's user. Where nothing differs, nothing is written.
    ///
    /// # Errors
    /// When the key is not there for the caller, has more than the caller, was switched off by an
    /// operator, or was changed very often today; when the name breaks a rule, or the store fails.
    pub async fn own_update(&self, caller: &Caller, id: KeyId, change: OwnChange) -> Result<Changed, ManageError> {
        let by = caller.clone();
        let newest_events = Some((id, CHANGED_A_DAY_MAX));
        let read = ReadRequest { keys: vec![id], disabled: Some(id), newest_events, ..ReadRequest::default() };
        let plan = move |reading: &Reading| update(&by, id, &change, reading);
        self.change(caller, Asked::of("own.update", Some(Subject::Key(id)), read), plan, changed).await
    }

    /// Revokes a key of the caller's user for good. The caller may revoke itself.
    ///
    /// # Errors
    /// When the key is not there for the caller or has more than the caller, or the store fails.
    pub async fn own_revoke(&self, caller: &Caller, id: KeyId) -> Result<Changed, ManageError> {
        let by = caller.clone();
        let read = ReadRequest { keys: vec![id], ..ReadRequest::default() };
        let plan = move |reading: &Reading| revoke(&by, id, reading);
        let finish = |done: Done<(Key, Option<User>)>| changed(done);
        self.change(caller, Asked::of("own.revoke", Some(Subject::Key(id)), read), plan, finish).await
    }
}

/// A user's key that manages the user's others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    key: &'a Key,
    user: &'a User,
}

impl<'a> Own<'a> {
    /// The caller as `reading` knows it.
    pub(super) fn of(caller: &Caller, reading: &'a Reading) -> Result<Self, ManageError> {
        let refused = |cause| ManageError::NotOneself { cause };
        let Acting::Operator { key, user } = Acting::of(caller, reading)? else {
            return Err(refused("the command line is no user; use `keyward keys`"));
        };
        let user = user.filter(|_| key.user.is_some()).ok_or(refused("it has no user"))?;
        if key.status(Some(user), reading.now) != Status::Active {
            return Err(refused("it was replaced, and only its successor may"));
        }
        if key.is_operator(Some(user)) || key.operates_on.is_some() || !key.may_grant.is_empty() {
            return Err(refused("it is an operator's key, which manages keys by /v1"));
        }
        if key.project.is_none() {
            return Err(refused("it belongs to no project"));
        }
        Ok(Self { key, user })
    }

    /// The key `id`, if it is there for this user.
    fn seen(&self, id: KeyId, reading: &'a Reading) -> Result<&'a Key, ManageError> {
        let is_own = |key: &&Key| {
            key.user.as_ref() == Some(&self.user.id)
                && key.project == self.key.project
                && key.environment == self.key.environment
                && !key.states.revoked
        };
        reading.key(id).filter(is_own).ok_or(ManageError::KeyNotFound { id })
    }

    /// Whether `other` has no more than this key, now and whatever becomes of the user.
    fn covers(&self, other: &Key) -> Result<(), ManageError> {
        let covered = match (&self.key.grants, &other.grants) {
            (Grants::Inherit, Grants::Inherit | Grants::Only(_)) => true,
            (Grants::Only(mine), Grants::Only(theirs)) => mine.covers_all(theirs),
            (Grants::Only(_), Grants::Inherit) => false,
        };
        let operates = other.is_operator(Some(self.user)) || other.operates_on.is_some() || !other.may_grant.is_empty();
        if covered && !operates {
            return Ok(());
        }
        Err(ManageError::NotOneself { cause: "the key has more than the calling key" })
    }
}

pub(super) fn create(
    caller: &Caller,
    name: Option<&str>,
    minter: &Minter,
    most: usize,
    reading: &Reading,
) -> Result<Plan<Minted>, ManageError> {
    let own = Own::of(caller, reading)?;
    let counted: &UserId = &own.user.id;
    if reading.count_of_user >= most {
        return Err(ManageError::TooManyKeys { id: counted.clone(), max: most });
    }
    // Keys that are revoked stay stored, so that whoever makes and deletes them again and again is bounded too.
    let max = most.saturating_mul(MADE_A_DAY_PER_KEY).max(MADE_A_DAY_MIN);
    if reading.made_for_itself >= max {
        return Err(ManageError::MadeTooOften { id: counted.clone(), max });
    }
    let now = reading.now;
    let id = KeyId::mint(now, secret::random()?);
    let mut key = Key {
        id,
        lineage: id.lineage(),
        hash: Minter::no_hash(),
        format: Format::Jwt,
        shown_prefix: None,
        last_four: None,
        name: name.unwrap_or(OWN_NAME_DEFAULT).to_owned(),
        project: own.key.project.clone(),
        environment: own.key.environment.clone(),
        user: Some(own.user.id.clone()),
        grants: own.key.grants.clone(),
        props: std::collections::BTreeMap::new(),
        may_grant: FlagSet::default(),
        operates_on: None,
        self_rotate: false,
        minted_by: caller.key(),
        states: States::default(),
        revoked_at: None,
        replaced_by: None,
        // It never outlives the key that minted it.
        expires_at: own.key.expires_at,
        grace_expires_at: None,
        rotation: Rotation::default(),
        created_at: now,
        updated_at: now,
        stamp: Stamp::default(),
    };
    check::key(&key)?;
    check::held(&key, Some(own.user), check::Source::Store)?;
    own.covers(&key)?;
    let token = minter.mint(&mut key)?;
    let mut change = told::new_key(EventKind::KeyCreated, key.clone(), None);
    told::by_its_user(&mut change);
    Ok(Plan { changes: vec![change], outcome: Minted { key, user: Some(own.user.clone()), token } })
}

pub(super) fn update(
    caller: &Caller,
    id: KeyId,
    change: &OwnChange,
    reading: &Reading,
) -> Result<Plan<(Key, Option<User>)>, ManageError> {
    let own = Own::of(caller, reading)?;
    let before = own.seen(id, reading)?;
    own.covers(before)?;
    let mut after = before.clone();
    if let Some(name) = &change.name {
        after.name.clone_from(name);
    }
    let kind = match change.active {
        Some(Activity::Disabled) if !before.states.disabled => {
            after.states.disabled = true;
            EventKind::KeyDisabled
        }
        Some(Activity::Active) if before.states.disabled => {
            own.may_enable(before, reading)?;
            after.states.disabled = false;
            EventKind::KeyEnabled
        }
        Some(Activity::Active | Activity::Disabled) | None => EventKind::KeyUpdated,
    };
    check::key(&after)?;
    let mut changes: Vec<_> = told::changed_key(kind, before, after.clone()).into_iter().collect();
    changes.iter_mut().for_each(told::by_its_user);
    // Events stay stored, so that whoever changes a key again and again is bounded. What switches it off is
    // held up by nothing, and comes no second time without what is.
    if !changes.is_empty() && kind != EventKind::KeyDisabled && changed_today(before, reading) >= CHANGED_A_DAY_MAX {
        return Err(ManageError::ChangedTooOften { id, max: CHANGED_A_DAY_MAX });
    }
    Ok(Plan { changes, outcome: (after, Some(own.user.clone())) })
}

/// How often its user changed `key` within a day, among its newest events.
fn changed_today(key: &Key, reading: &Reading) -> usize {
    let is_of_today = |event: &&Event| {
        let is_its = event.subject == Subject::Key(key.id) && told::is_by_its_user(event);
        is_its && reading.now.since(event.at) < DAY
    };
    reading.newest_events.iter().filter(is_of_today).count()
}

impl Own<'_> {
    /// A key that its user switched off may be switched on again, unless that would make something
    /// live that outlasts the caller.
    fn may_enable(&self, key: &Key, reading: &Reading) -> Result<(), ManageError> {
        let refused = |cause| Err(ManageError::NotOneself { cause });
        let by_its_user = reading
            .disabled
            .as_ref()
            .is_some_and(|event| event.subject == Subject::Key(key.id) && told::is_by_its_user(event));
        if !by_its_user {
            return refused("an operator switched the key off, and only an operator switches it on");
        }
        let mine = self.key.standing(Some(self.user)).ends_at();
        let theirs = key.standing(Some(self.user)).ends_at();
        match (mine, theirs) {
            (Some(_), None) => refused("the key would outlive the calling key"),
            (Some(mine), Some(theirs)) if theirs > mine => refused("the key would outlive the calling key"),
            (Some(_), Some(_)) | (None, _) => Ok(()),
        }
    }
}

pub(super) fn revoke(caller: &Caller, id: KeyId, reading: &Reading) -> Result<Plan<(Key, Option<User>)>, ManageError> {
    let own = Own::of(caller, reading)?;
    let before = own.seen(id, reading)?;
    own.covers(before)?;
    let after = plan::revoked(before, reading.now);
    let mut changes: Vec<_> = told::changed_key(EventKind::KeyRevoked, before, after.clone()).into_iter().collect();
    changes.iter_mut().for_each(told::by_its_user);
    Ok(Plan { changes, outcome: (after, Some(own.user.clone())) })
}
