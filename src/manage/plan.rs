//! What each change writes, decided on rows of one moment. Nothing here waits or reads a clock.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::manager::Seen;
use super::may::{Acting, Operation, Target, may, may_set_user};
use super::mint::Minter;
use super::{
    Activity, Caller, GRACE_MAX, GRACE_OF_SELF_MIN, KeyChange, ManageError, NewKey, RevokeScope, UserPatch, check,
    told, webhook,
};
use crate::clock::Timestamp;
use crate::key::{
    EventKind, FlagSet, Format, Key, KeyId, OperatorScope, Stamp, States, Status, Subject, Token, User, UserId,
};
use crate::secret;
use crate::store::{Change, Reading};

/// How long after a rotation it is known to the store whether the successor is in use, at least: longer
/// than a gateway usually waits before it writes usage down.
pub const USAGE_SETTLED: Duration = Duration::from_secs(30);
/// How much longer than gateways wait before they write usage down.
pub(super) const USAGE_WRITTEN_WITHIN: Duration = Duration::from_secs(20);
/// How often a key, with all that it replaced, rotates itself within a [`DAY`].
const OWN_ROTATIONS_MAX: usize = 48;
/// How many keys of a lineage its rotation looks at: the newest.
pub(super) const LINEAGE_READ: usize = OWN_ROTATIONS_MAX + 2;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Changes to write, and what to answer once they are committed.
pub(super) struct Plan<T> {
    pub(super) changes: Vec<Change>,
    pub(super) outcome: T,
}

/// A key that was minted and its token.
pub(super) struct Minted {
    pub(super) key: Key,
    pub(super) user: Option<User>,
    pub(super) token: Token,
}

pub(super) fn create(
    caller: &Caller,
    new: &NewKey,
    minter: &Minter,
    reading: &Reading,
) -> Result<Plan<Minted>, ManageError> {
    let acting = Acting::of(caller, reading)?;
    let now = reading.now;
    let user = check::owner(new.user.as_ref(), new.project.as_ref(), |id| reading.user(id), acting)?;
    let id = KeyId::mint(now, secret::random()?);
    let mut key = Key {
        id,
        lineage: id.lineage(),
        hash: Minter::no_hash(),
        format: new.format,
        shown_prefix: None,
        last_four: None,
        name: new.name.clone(),
        project: new.project.clone(),
        environment: new.environment.clone(),
        user: new.user.clone(),
        grants: new.grants.clone(),
        props: new.props.clone(),
        may_grant: new.may_grant.clone(),
        operates_on: new.operates_on.clone(),
        self_rotate: new.self_rotate,
        minted_by: caller.key(),
        states: States::default(),
        revoked_at: None,
        replaced_by: None,
        expires_at: check::expiry(new.expires, now)?,
        grace_expires_at: None,
        rotation: check::rotation(new.rotation_interval_days, new.rotation_webhook_url.as_deref(), now)?,
        created_at: now,
        updated_at: now,
        stamp: Stamp::default(),
    };
    check::key(&key)?;
    check::held(&key, user, check::Source::Request)?;
    may(acting, Operation::Create, None, Target::Key { key: &key, user })?;
    let token = minter.mint(&mut key)?;
    let changes = vec![told::new_key(EventKind::KeyCreated, key.clone(), None)];
    Ok(Plan { changes, outcome: Minted { key, user: user.cloned(), token } })
}

/// The key `id`, if it is there for the caller, and its user.
pub(super) fn seen<'a>(
    id: KeyId,
    reading: &'a Reading,
    acting: Acting<'_>,
) -> Result<(&'a Key, Option<&'a User>), ManageError> {
    let key = reading.key(id).ok_or(ManageError::KeyNotFound { id })?;
    let user = reading.user_of(key);
    if !acting.sees(Target::Key { key, user }) {
        return Err(ManageError::KeyNotFound { id });
    }
    Ok((key, user))
}

/// What the caller's row and the subject's say alone, before everything is read that `operation` may
/// touch.
pub(super) fn glance(
    caller: &Caller,
    operation: Operation,
    subject: &Subject,
    reading: &Reading,
) -> Result<(), ManageError> {
    let acting = Acting::of(caller, reading)?;
    let target = match subject {
        Subject::Key(id) => {
            let (key, user) = seen(*id, reading, acting)?;
            Target::Key { key, user }
        }
        Subject::User(id) => match reading.user(id) {
            Some(user) => Target::User(user),
            None if operation == Operation::DeleteUser => return Err(ManageError::UserNotFound { id: id.clone() }),
            // One that is not there has no keys to be read.
            None => return Ok(()),
        },
    };
    may(acting, operation, Some(target), target)
}

pub(super) fn update(
    caller: &Caller,
    id: KeyId,
    change: &KeyChange,
    reading: &Reading,
) -> Result<Plan<(Key, Option<User>)>, ManageError> {
    let acting = Acting::of(caller, reading)?;
    let (before, user) = seen(id, reading, acting)?;
    let mut after = changed(before, change, reading.now)?;
    if let Some(Some(_)) = &change.rotation_webhook_url {
        webhook::take_newest_secret(&mut after, reading);
    }
    check::key(&after)?;
    if change.grants.is_some() || change.may_grant.is_some() || change.operates_on.is_some() {
        check::held(&after, user, check::Source::Store)?;
    }
    // Whoever sets a URL is told the secret.
    let is_told = matches!(change.rotation_webhook_url, Some(Some(_)));
    let operation = if is_told { Operation::TellWebhookSecret } else { Operation::Update };
    may(acting, operation, Some(Target::Key { key: before, user }), Target::Key { key: &after, user })?;
    if before.states.revoked {
        return Err(ManageError::KeyRevoked { id });
    }
    let kind = match (before.states.disabled, after.states.disabled) {
        (false, true) => EventKind::KeyDisabled,
        (true, false) => EventKind::KeyEnabled,
        // What its user switched off, and an operator wants off too, is off by the operator.
        (true, true) if change.active == Some(Activity::Disabled) && off_by_its_user(id, reading) => {
            let changes = vec![told::written_again(EventKind::KeyDisabled, before, after.clone())];
            return Ok(Plan { changes, outcome: (after, user.cloned()) });
        }
        (true, true) | (false, false) => EventKind::KeyUpdated,
    };
    let changes = told::changed_key(kind, before, after.clone()).into_iter().collect();
    Ok(Plan { changes, outcome: (after, user.cloned()) })
}

fn off_by_its_user(id: KeyId, reading: &Reading) -> bool {
    let by_its_user =
        |event: &crate::key::Event| event.subject == crate::key::Subject::Key(id) && told::is_by_its_user(event);
    reading.disabled.as_ref().is_some_and(by_its_user)
}

fn changed(before: &Key, change: &KeyChange, now: Timestamp) -> Result<Key, ManageError> {
    let KeyChange {
        name,
        active,
        grants,
        props,
        expires,
        environment,
        rotation_interval_days,
        rotation_webhook_url,
        may_grant,
        operates_on,
    } = change.clone();
    let mut after = before.clone();
    after.name = name.unwrap_or(after.name);
    after.grants = grants.unwrap_or(after.grants);
    after.props = props.unwrap_or(after.props);
    after.environment = environment.unwrap_or(after.environment);
    after.may_grant = may_grant.unwrap_or(after.may_grant);
    after.operates_on = operates_on.unwrap_or(after.operates_on);
    match active {
        Some(Activity::Active) => after.states.disabled = false,
        Some(Activity::Disabled) => after.states.disabled = true,
        None => {}
    }
    if let Some(expires) = expires {
        after.expires_at = check::expiry(expires, now)?;
        let is_later = match (before.expires_at, after.expires_at) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(before), Some(after)) => after > before,
        };
        if before.format == Format::Jwt && is_later {
            let cause = "a key in JWT form cannot be made to live longer, for its end is in its token; rotate it";
            return Err(check::conflicting("expires_at", cause));
        }
        // Grace never outlives the key's own expiry.
        after.grace_expires_at = after.grace_expires_at.map(|end| end.min(after.expires_at.unwrap_or(end)));
    }
    if let Some(days) = rotation_interval_days
        && days != before.rotation.interval_days
    {
        let rotation = check::rotation(days, None, now)?;
        after.rotation.interval_days = rotation.interval_days;
        // A key that was replaced does not come due again.
        after.rotation.next_at = rotation.next_at.filter(|_| before.replaced_by.is_none());
    }
    if let Some(url) = rotation_webhook_url {
        after.rotation.webhook_url = url;
    }
    Ok(after)
}

/// A key that was replaced, what replaces it, and that one's token.
pub(super) struct Replaced {
    pub(super) old: Key,
    pub(super) new: Key,
    pub(super) token: Token,
    /// What had replaced it before, was never used, and is revoked.
    pub(super) unused: Option<KeyId>,
}

/// What is known of the use of keys beyond what the store says.
#[derive(Clone, Copy)]
pub(super) struct Usage<'a> {
    pub(super) seen: &'a dyn Fn(&Key) -> Seen,
    /// How long after a key was made the store knows whether it was used.
    pub(super) settled: Duration,
}

pub(super) fn rotate(
    caller: &Caller,
    id: KeyId,
    grace: Duration,
    minter: &Minter,
    usage: Usage<'_>,
    reading: &Reading,
) -> Result<Plan<Replaced>, ManageError> {
    let now = reading.now;
    let acting = Acting::of(caller, reading)?;
    let of_itself = caller.key() == Some(id);
    let (old, user) = match reading.key(id) {
        // A key that is no operator manages nothing, and still knows itself.
        Some(key) if of_itself => (key, reading.user_of(key)),
        Some(_) | None => seen(id, reading, acting)?,
    };
    if grace > GRACE_MAX {
        let minutes = grace.as_secs().div_ceil(60);
        return Err(check::invalid("grace_period_minutes", format!("{minutes} is more than 43200, which is 30 days")));
    }
    let mut new = successor(caller, old, now)?;
    if of_itself && old.rotates_itself() {
        if grace < GRACE_OF_SELF_MIN {
            return Err(check::invalid(
                "grace_period_minutes",
                "a key that rotates itself gives itself 5 minutes or more",
            ));
        }
    } else {
        may(acting, Operation::Rotate, Some(Target::Key { key: old, user }), Target::Key { key: &new, user })?;
    }
    is_live_but_for_grace(old, user, now)?;
    // Keys are never removed, so what a key may do by itself has an end.
    let of_today = |key: &&Key| key.lineage == old.lineage && now.since(key.created_at) < DAY;
    if of_itself && reading.keys.iter().filter(of_today).count() >= OWN_ROTATIONS_MAX {
        return Err(ManageError::RotatedTooOften { id, max: OWN_ROTATIONS_MAX });
    }
    let unused = match old.replaced_by {
        None => None,
        Some(successor) => Some(never_used(caller, old, successor, usage, reading)?),
    };
    let token = minter.mint(&mut new)?;

    let mut replaced = old.clone();
    replaced.replaced_by = Some(new.id);
    replaced.rotation.next_at = None;
    let end = now.plus(grace).min(old.expires_at.unwrap_or(Timestamp::MAX));
    // A rotation that is repeated never lengthens the grace that the first one gave.
    replaced.grace_expires_at = Some(end.min(old.grace_expires_at.unwrap_or(end)));
    replaced.states.superseded |= grace.is_zero();

    let mut changes = vec![told::new_key(EventKind::KeyCreated, new.clone(), Some(old.id))];
    changes.extend(told::changed_key(EventKind::KeyRotated, old, replaced.clone()));
    changes.extend(unused.and_then(|key| told::changed_key(EventKind::KeyRevoked, key, revoked(key, now))));
    Ok(Plan { changes, outcome: Replaced { old: replaced, new, token, unused: unused.map(|key| key.id) } })
}

/// What replaces `old`, without a token yet.
fn successor(caller: &Caller, old: &Key, now: Timestamp) -> Result<Key, ManageError> {
    let mut rotation = old.rotation.clone();
    let interval = rotation.interval_days.map(|days| Duration::from_secs(u64::from(days) * 24 * 60 * 60));
    rotation.next_at = interval.map(|interval| now.plus(interval));
    // What was minted elsewhere is minted here from now on.
    let format = match old.format {
        Format::Jwt => Format::Jwt,
        Format::Opaque | Format::Imported => Format::Opaque,
    };
    Ok(Key {
        id: KeyId::mint(now, secret::random()?),
        lineage: old.lineage,
        hash: Minter::no_hash(),
        format,
        shown_prefix: None,
        last_four: None,
        minted_by: caller.key(),
        states: States::default(),
        revoked_at: None,
        replaced_by: None,
        grace_expires_at: None,
        rotation,
        created_at: now,
        updated_at: now,
        stamp: Stamp::default(),
        ..old.clone()
    })
}

/// A key can be rotated that works, or would but for having been replaced.
fn is_live_but_for_grace(key: &Key, user: Option<&User>, now: Timestamp) -> Result<(), ManageError> {
    match key.status(user, now) {
        Status::Active | Status::Grace => Ok(()),
        Status::Superseded if key.replaced_by.is_some() => Ok(()),
        status @ (Status::Listed
        | Status::Revoked
        | Status::Disabled
        | Status::UserDisabled
        | Status::Expired
        | Status::Superseded) => Err(ManageError::NotRotatable { id: key.id, status }),
    }
}

/// What replaced `old`, if the same caller rotated it and the answer seems to have been lost: then
/// nobody has used it, and it may be revoked and another minted, so that no one is locked out.
fn never_used<'a>(
    caller: &Caller,
    old: &Key,
    successor: KeyId,
    usage: Usage<'_>,
    reading: &'a Reading,
) -> Result<&'a Key, ManageError> {
    let refused = ManageError::AlreadyRotated { id: old.id, successor };
    let Some(next) = reading.key(successor) else { return Err(refused) };
    let used = reading.usage.iter().any(|usage| usage.key == successor);
    if used || next.minted_by != caller.key() || next.replaced_by.is_some() || next.states.revoked {
        return Err(refused);
    }
    let since = reading.now.since(next.created_at);
    match (usage.seen)(next) {
        Seen::Used => Err(refused),
        Seen::Unknown if since < usage.settled => {
            Err(ManageError::RotationUnsettled { id: old.id, successor, since, settled: usage.settled })
        }
        Seen::Unused | Seen::Unknown => Ok(next),
    }
}

/// Keys that were revoked, and how many more the caller may not touch.
pub(super) struct Ended {
    pub(super) keys: Vec<Key>,
    pub(super) out_of_reach: usize,
}

pub(super) fn revoke(
    caller: &Caller,
    id: KeyId,
    scope: RevokeScope,
    reading: &Reading,
) -> Result<Plan<Ended>, ManageError> {
    let acting = Acting::of(caller, reading)?;
    let (target, _) = seen(id, reading, acting)?;
    acting.is_permitted(Operation::Revoke)?;
    let below = below(id, reading);
    let in_reach = |key: &Key| match scope {
        RevokeScope::Key => key.id == id,
        RevokeScope::Lineage => key.lineage == target.lineage,
        RevokeScope::Descendants => key.id == id || below.contains(&key.id),
    };
    ended(acting, in_reach, reading)
}

/// What is asked for may be done, and is left for later.
pub(super) const fn nothing_ended() -> Plan<Ended> {
    Plan { changes: vec![], outcome: Ended { keys: vec![], out_of_reach: 0 } }
}

/// Revokes those of `ids` that the caller may revoke.
pub(super) fn revoke_these(caller: &Caller, ids: &[KeyId], reading: &Reading) -> Result<Plan<Ended>, ManageError> {
    let acting = Acting::of(caller, reading)?;
    acting.is_permitted(Operation::Revoke)?;
    let ids: HashSet<KeyId> = ids.iter().copied().collect();
    ended(acting, |key| ids.contains(&key.id), reading)
}

fn ended(acting: Acting<'_>, in_reach: impl Fn(&Key) -> bool, reading: &Reading) -> Result<Plan<Ended>, ManageError> {
    let (mut changes, mut outcome) = (Vec::new(), Ended { keys: vec![], out_of_reach: 0 });
    let mut again = Vec::new();
    let is_to_be_told = |key: &Key| !key.states.revoked || reading.ended_by_gateways.contains(&Subject::Key(key.id));
    for key in reading.keys.iter().filter(|key| in_reach(key) && is_to_be_told(key)) {
        let user = reading.user_of(key);
        if !acting.sees(Target::Key { key, user }) {
            outcome.out_of_reach += usize::from(!key.states.revoked);
            continue;
        }
        let after = revoked(key, reading.now);
        may(acting, Operation::Revoke, Some(Target::Key { key, user }), Target::Key { key: &after, user })?;
        if key.states.revoked {
            // By a gateway, which an accepted backup takes back: from here on by this caller.
            again.push(told::written_again(EventKind::KeyRevoked, key, after));
        } else {
            changes.extend(told::changed_key(EventKind::KeyRevoked, key, after.clone()));
            outcome.keys.push(after);
        }
    }
    // The outcome's keys have the first ordinals.
    changes.extend(again);
    Ok(Plan { changes, outcome })
}

/// What a key minted, directly or through others.
pub(super) struct Below {
    /// What is not revoked and the caller sees, oldest first, so that none comes before the one that
    /// minted it.
    pub(super) unrevoked: Vec<KeyId>,
    /// What is revoked, whoever sees it.
    pub(super) revoked: Vec<KeyId>,
    /// How many are not revoked that the caller does not see.
    pub(super) hidden: usize,
}

/// What the key `id` minted.
pub(super) fn minted_by(caller: &Caller, id: KeyId, reading: &Reading) -> Result<Below, ManageError> {
    let acting = Acting::of(caller, reading)?;
    let below = below(id, reading);
    let minted = reading.keys.iter().filter(|key| below.contains(&key.id));
    let (revoked, unrevoked): (Vec<&Key>, Vec<&Key>) = minted.partition(|key| key.states.revoked);
    let sees = |key: &&Key| acting.sees(Target::Key { key, user: reading.user_of(key) });
    let (mut seen, hidden): (Vec<&Key>, Vec<&Key>) = unrevoked.into_iter().partition(sees);
    seen.sort_by_key(|key| (key.created_at, key.id));
    let ids = |keys: Vec<&Key>| keys.iter().map(|key| key.id).collect();
    Ok(Below { unrevoked: ids(seen), revoked: ids(revoked), hidden: hidden.len() })
}

/// What the key `id` minted or was replaced by and is not revoked, as far as the caller sees it.
pub(super) fn related(caller: &Caller, id: KeyId, reading: &Reading) -> Result<Vec<KeyId>, ManageError> {
    let acting = Acting::of(caller, reading)?;
    let (target, _) = seen(id, reading, acting)?;
    let below = below(id, reading);
    let is_related = |key: &&Key| {
        let kin = key.lineage == target.lineage || below.contains(&key.id);
        kin && key.id != id && !key.states.revoked && acting.sees(Target::Key { key, user: reading.user_of(key) })
    };
    Ok(reading.keys.iter().filter(is_related).map(|key| key.id).collect())
}

/// The keys of `reading` that were minted by the key `id`, directly or through others there.
fn below(id: KeyId, reading: &Reading) -> HashSet<KeyId> {
    let mut minted: HashMap<KeyId, Vec<KeyId>> = HashMap::new();
    for key in &reading.keys {
        if let Some(minter) = key.minted_by {
            minted.entry(minter).or_default().push(key.id);
        }
    }
    let (mut below, mut next) = (HashSet::new(), vec![id]);
    while let Some(minter) = next.pop() {
        for key in minted.remove(&minter).unwrap_or_default() {
            if below.insert(key) {
                next.push(key);
            }
        }
    }
    below
}

/// `key` revoked at `now`, or as it is if it is revoked already.
pub(super) fn revoked(key: &Key, now: Timestamp) -> Key {
    let mut after = key.clone();
    if !key.states.revoked {
        after.states.revoked = true;
        after.revoked_at = Some(now);
        after.grace_expires_at = key.grace_expires_at.map(|end| end.min(now));
        after.rotation.next_at = None;
    }
    after
}

pub(super) fn set_user(
    caller: &Caller,
    change: &UserPatch,
    reading: &Reading,
) -> Result<Plan<(User, bool)>, ManageError> {
    let acting = Acting::of(caller, reading)?;
    let before = reading.user(&change.id);
    let now = reading.now;
    let blank = || User {
        id: change.id.clone(),
        project: acting.scope().ok().flatten().and_then(|scope| scope.project.clone()),
        flags: FlagSet::default(),
        active: true,
        deleted: false,
        created_at: now,
        updated_at: now,
        stamp: Stamp::default(),
    };
    let mut after = before.cloned().unwrap_or_else(blank);
    if let Some(project) = &change.project {
        after.project.clone_from(project);
    }
    if let Some(flags) = &change.flags {
        after.flags.clone_from(flags);
    }
    if let Some(active) = change.active {
        after.active = active == Activity::Active;
    }
    check::project(after.project.as_ref())?;
    check::flags("flags", &after.flags)?;
    let owned = |key: &&Key| key.user.as_ref() == Some(&change.id) && !key.states.revoked;
    may_set_user(acting, before, &after, reading.keys.iter().filter(owned))?;
    if before.is_some_and(|before| before.deleted) {
        return Err(ManageError::UserDeleted { id: change.id.clone() });
    }
    if let Some(project) = &after.project
        && let Some(elsewhere) = reading.keys.iter().filter(owned).find(|key| key.project.as_ref() != Some(project))
    {
        let cause = format!("its key {} is not of project {project}; revoke that key first", elsewhere.id);
        return Err(check::conflicting("project_id", cause));
    }
    let kind = if before.is_some() { EventKind::UserUpdated } else { EventKind::UserCreated };
    let changes = told::user(kind, before, after.clone()).into_iter().collect();
    Ok(Plan { changes, outcome: (after, before.is_none()) })
}

pub(super) fn delete_user(
    caller: &Caller,
    id: &UserId,
    reading: &Reading,
) -> Result<Plan<(User, Vec<Key>)>, ManageError> {
    let acting = Acting::of(caller, reading)?;
    let before = reading.user(id).ok_or_else(|| ManageError::UserNotFound { id: id.clone() })?;
    let after = User { deleted: true, ..before.clone() };
    may(acting, Operation::DeleteUser, Some(Target::User(before)), Target::User(&after))?;
    // Deleted by a gateway, which an accepted backup takes back: from here on by this caller.
    let is_a_gateways = reading.ended_by_gateways.contains(&Subject::User(id.clone()));
    let again = || is_a_gateways.then(|| told::user_written_again(EventKind::UserDeleted, after.clone()));
    let change = told::user(EventKind::UserDeleted, Some(before), after.clone()).or_else(again);
    let mut changes: Vec<Change> = change.into_iter().collect();
    let mut keys = Vec::new();
    for key in reading.keys.iter().filter(|key| key.user.as_ref() == Some(id) && !key.states.revoked) {
        let ended = revoked(key, reading.now);
        changes.extend(told::changed_key(EventKind::KeyRevoked, key, ended.clone()));
        keys.push(ended);
    }
    Ok(Plan { changes, outcome: (after, keys) })
}

/// The first operator key: everything over everything.
pub(super) fn first_operator() -> NewKey {
    let flags = |text| crate::key::FlagSet::parse([text]).expect("a constant that is a flag");
    NewKey {
        grants: crate::key::Grants::Only(flags("keyward.**")),
        may_grant: flags("**"),
        operates_on: Some(OperatorScope { project: None, environment: None }),
        ..NewKey::named("first operator", None)
    }
}
