//! Whether a caller may make a change. One function for every change to a key or user, asked on
//! rows that were read inside the change's own transaction.
//!
//! Whatever makes a key or user more capable, live again, longer-lived or moved, or discloses a
//! token or the secret of a key's webhook, needs the whole resulting set of flags within what the caller may grant, and the result
//! within what it manages. Anything else needs the permission alone. A key or user outside of what
//! the caller manages is not there for it.

use super::{Caller, ManageError};
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, FlagSet, Grant, Grants, Key, OperatorScope, ProjectId, User};
use crate::store::Reading;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Update,
    /// An update whose answer holds the secret of the key's webhook.
    TellWebhookSecret,
    Rotate,
    Revoke,
    Import,
    ReadKeys,
    WriteUsers,
    DeleteUser,
    ReadUsers,
    ReadEvents,
    ReadGateways,
    ForgetGateway,
    Verify,
}

const OPERATORS_WRITE: &str = "keyward.operators.write";

impl Operation {
    /// The flag that permits it.
    const fn permission(self) -> &'static str {
        match self {
            Self::Create => "keyward.keys.create",
            Self::Update | Self::TellWebhookSecret => "keyward.keys.update",
            Self::Rotate => "keyward.keys.rotate",
            Self::Revoke => "keyward.keys.revoke",
            Self::Import => "keyward.keys.import",
            Self::ReadKeys => "keyward.keys.read",
            Self::WriteUsers | Self::DeleteUser => "keyward.users.write",
            Self::ReadUsers => "keyward.users.read",
            Self::ReadEvents => "keyward.events.read",
            Self::ReadGateways => "keyward.gateways.read",
            Self::ForgetGateway => OPERATORS_WRITE,
            Self::Verify => "keyward.verify",
        }
    }

    /// Whether it hands out a credential that its caller then knows, or what announcements of the key are
    /// believed by.
    const fn discloses(self) -> bool {
        match self {
            Self::Create | Self::TellWebhookSecret | Self::Rotate | Self::Import => true,
            Self::Update
            | Self::Revoke
            | Self::ReadKeys
            | Self::WriteUsers
            | Self::DeleteUser
            | Self::ReadUsers
            | Self::ReadEvents
            | Self::ReadGateways
            | Self::ForgetGateway
            | Self::Verify => false,
        }
    }
}

/// A caller, as the rows of this moment know it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Acting<'a> {
    /// Holds the master secret.
    Trusted,
    /// Holds this key, which works.
    Operator { key: &'a Key, user: Option<&'a User> },
}

/// A key with its user, or a user, before or after a change.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    Key { key: &'a Key, user: Option<&'a User> },
    User(&'a User),
}

impl<'a> Acting<'a> {
    /// The caller as `reading` knows it.
    pub(super) fn of(caller: &Caller, reading: &'a Reading) -> Result<Self, ManageError> {
        let Some(id) = caller.key() else { return Ok(Self::Trusted) };
        let key = reading.key(id).ok_or(ManageError::CallerNotLive { status: None })?;
        let user = reading.user_of(key);
        let status = key.status(user, reading.now);
        if !status.is_usable() {
            return Err(ManageError::CallerNotLive { status: Some(status) });
        }
        Ok(Self::Operator { key, user })
    }

    /// What it manages; none where it manages everything.
    pub(super) fn scope(&self) -> Result<Option<&'a OperatorScope>, ManageError> {
        match self {
            Self::Trusted => Ok(None),
            Self::Operator { key, .. } => key.operates_on.as_ref().map(Some).ok_or(ManageError::OutOfScope {
                field: "operates_on",
                found: "any key: it is no operator".to_owned(),
            }),
        }
    }

    /// Whether `target` is there for this caller.
    pub(super) fn sees(&self, target: Target<'_>) -> bool {
        self.scope().is_ok_and(|scope| scope.is_none_or(|scope| outside(scope, target).is_none()))
    }

    /// Whether it holds the permission for `operation`.
    pub(super) fn is_permitted(&self, operation: Operation) -> Result<(), ManageError> {
        self.holds(operation.permission())
    }

    fn holds(&self, flag: &'static str) -> Result<(), ManageError> {
        match self {
            Self::Trusted => Ok(()),
            Self::Operator { key, user } if key.holds(*user, flag) => Ok(()),
            Self::Operator { .. } => Err(ManageError::LacksPermission { flag }),
        }
    }

    /// Whether it may grant `grant`: what is reserved within what it holds, the rest within its
    /// `may_grant`.
    fn grants(&self, grant: &Grant) -> Result<(), ManageError> {
        let Self::Operator { key, user } = self else { return Ok(()) };
        let covered = if grant.is_reserved() {
            self.holds(OPERATORS_WRITE)?;
            match (&key.grants, user) {
                (Grants::Only(flags), None) => key.user.is_none() && flags.covers(grant),
                (Grants::Only(flags), Some(user)) => flags.covers(grant) && user.flags.covers(grant),
                (Grants::Inherit, Some(user)) => user.flags.covers(grant),
                (Grants::Inherit, None) => false,
            }
        } else {
            key.may_grant.covers(grant)
        };
        if covered { Ok(()) } else { Err(ManageError::MayNotGrant { flag: grant.to_string() }) }
    }
}

/// Whether the caller may turn `before` into `after`. None stands for a row that is not there.
pub(super) fn may(
    acting: Acting<'_>,
    operation: Operation,
    before: Option<Target<'_>>,
    after: Target<'_>,
) -> Result<(), ManageError> {
    let Some(scope) = acting.scope()? else { return Ok(()) };
    if let Some(before) = before
        && outside(scope, before).is_some()
    {
        return Err(not_found(before));
    }
    acting.is_permitted(operation)?;
    if let Target::User(_) = after
        && let Some(environment) = &scope.environment
    {
        // A user's keys may be of any environment, so whoever manages one alone may not touch it.
        let found = format!("users, whose keys are not of environment {environment} alone");
        return Err(ManageError::OutOfScope { field: "environment_id", found });
    }
    if !operation.discloses() && before.is_some_and(|before| !raises(before, after)) {
        return Ok(());
    }
    if let Some((field, found)) = outside(scope, after) {
        return Err(ManageError::OutOfScope { field, found });
    }
    for grant in own_flags(after).into_iter().flat_map(FlagSet::iter) {
        acting.grants(grant)?;
    }
    let Target::Key { key, .. } = after else { return Ok(()) };
    may_let_operate(acting, scope, key)
}

/// Whether the caller may hand out what `key` has as an operator beside its flags.
fn may_let_operate(acting: Acting<'_>, scope: &OperatorScope, key: &Key) -> Result<(), ManageError> {
    if !key.may_grant.is_empty() || key.operates_on.is_some() {
        acting.holds(OPERATORS_WRITE)?;
    }
    for grant in key.may_grant.iter() {
        acting.grants(grant)?;
    }
    match &key.operates_on {
        Some(wanted) => within(scope, wanted),
        None => Ok(()),
    }
}

/// Whether the caller may turn the user `before` into `after`, whose keys are `keys`. An operator's
/// key may have been held down by its user alone; whoever raises the user then makes an operator.
pub(super) fn may_set_user<'k>(
    acting: Acting<'_>,
    before: Option<&User>,
    after: &User,
    keys: impl Iterator<Item = &'k Key>,
) -> Result<(), ManageError> {
    may(acting, Operation::WriteUsers, before.map(Target::User), Target::User(after))?;
    let Some(scope) = acting.scope()? else { return Ok(()) };
    let Some(before) = before.filter(|before| raises(Target::User(before), Target::User(after))) else {
        return Ok(());
    };
    for key in keys.filter(|key| !key.may_grant.is_empty() || key.operates_on.is_some()) {
        let gains = |flag: &Grant| !before.is_usable() || !before.flags.covers(flag);
        if after.flags.iter().any(|flag| flag.is_reserved() && gains(flag)) {
            may_let_operate(acting, scope, key)?;
        }
    }
    Ok(())
}

fn not_found(target: Target<'_>) -> ManageError {
    match target {
        Target::Key { key, .. } => ManageError::KeyNotFound { id: key.id },
        Target::User(user) => ManageError::UserNotFound { id: user.id.clone() },
    }
}

/// What of `target` lies outside of `scope`, if anything does.
fn outside(scope: &OperatorScope, target: Target<'_>) -> Option<(&'static str, String)> {
    let (project, environment) = match target {
        Target::Key { key, .. } => (key.project.as_ref(), Some(&key.environment)),
        Target::User(user) => (user.project.as_ref(), None),
    };
    if scope.project.is_some() && scope.project.as_ref() != project {
        let found = project.map_or("what belongs to no one project".to_owned(), |project| format!("project {project}"));
        return Some(("project_id", found));
    }
    match (&scope.environment, environment) {
        (Some(managed), Some(environment)) if managed != environment => {
            Some(("environment_id", format!("environment {environment}")))
        }
        (None, _) | (_, None) | (Some(_), Some(_)) => None,
    }
}

fn within(scope: &OperatorScope, wanted: &OperatorScope) -> Result<(), ManageError> {
    let all = || "all".to_owned();
    if scope.project.is_some() && scope.project != wanted.project {
        let found = wanted.project.as_ref().map(ProjectId::to_string).unwrap_or_else(all);
        return Err(ManageError::OutOfScope { field: "operates_on.project", found });
    }
    if scope.environment.is_some() && scope.environment != wanted.environment {
        let found = wanted.environment.as_ref().map(EnvironmentId::to_string).unwrap_or_else(all);
        return Err(ManageError::OutOfScope { field: "operates_on.environment", found });
    }
    Ok(())
}

/// The flags that bound what `target` can ever do as it stands: a key's own, whatever its user
/// holds now, for the user may come to hold more.
fn own_flags<'a>(target: Target<'a>) -> Option<&'a FlagSet> {
    match target {
        Target::User(user) => Some(&user.flags),
        Target::Key { key, user } => match &key.grants {
            Grants::Only(flags) => Some(flags),
            Grants::Inherit => user.map(|user| &user.flags),
        },
    }
}

/// Whether `after` is more capable than `before`, live again, longer-lived or moved.
fn raises(before: Target<'_>, after: Target<'_>) -> bool {
    match (before, after) {
        (Target::User(before), Target::User(after)) => {
            !before.flags.covers_all(&after.flags)
                || (!before.is_usable() && after.is_usable())
                || before.project != after.project
        }
        (Target::Key { key: before, user: user_before }, Target::Key { key: after, user: user_after }) => {
            raises_flags(before, user_before, after, user_after)
                || revives(before, after)
                || is_later(before.expires_at, after.expires_at)
                || (before.grace_expires_at.is_some() && is_later(before.grace_expires_at, after.grace_expires_at))
                || before.project != after.project
                || before.environment != after.environment
                || before.user != after.user
                || (after.rotates_itself() && !before.rotates_itself())
                || !before.may_grant.covers_all(&after.may_grant)
                || (after.operates_on.is_some() && before.operates_on != after.operates_on)
        }
        (Target::Key { .. }, Target::User(_)) | (Target::User(_), Target::Key { .. }) => true,
    }
}

fn raises_flags(before: &Key, user_before: Option<&User>, after: &Key, user_after: Option<&User>) -> bool {
    if after.grants == Grants::Inherit && before.grants != Grants::Inherit {
        return true;
    }
    let before = own_flags(Target::Key { key: before, user: user_before });
    let after = own_flags(Target::Key { key: after, user: user_after });
    match (before, after) {
        (_, None) => false,
        (None, Some(after)) => !after.is_empty(),
        (Some(before), Some(after)) => !before.covers_all(after),
    }
}

fn revives(before: &Key, after: &Key) -> bool {
    let (before, after) = (before.states, after.states);
    (before.disabled && !after.disabled)
        || (before.revoked && !after.revoked)
        || (before.superseded && !after.superseded)
}

/// Whether an end moves to a later time, or away.
fn is_later(before: Option<Timestamp>, after: Option<Timestamp>) -> bool {
    match (before, after) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(before), Some(after)) => after > before,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::key::{Format, KeyId, RESERVED_SEGMENT, Rotation, Stamp, States, TokenHash, UserId};

    fn flags(texts: &[&str]) -> FlagSet {
        FlagSet::parse(texts).expect("flags of a test are well-formed")
    }

    fn key(number: u128, grants: Grants) -> Key {
        let id = KeyId::from_bits(number);
        Key {
            id,
            lineage: id.lineage(),
            hash: TokenHash::of(&number.to_be_bytes()),
            format: Format::Opaque,
            shown_prefix: None,
            last_four: None,
            name: "a key".to_owned(),
            project: Some("acme".parse().expect("a project")),
            environment: EnvironmentId::live(),
            user: None,
            grants,
            props: BTreeMap::new(),
            may_grant: FlagSet::default(),
            operates_on: None,
            self_rotate: false,
            minted_by: None,
            states: States::default(),
            revoked_at: None,
            replaced_by: None,
            expires_at: None,
            grace_expires_at: None,
            rotation: Rotation::default(),
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
            stamp: Stamp::default(),
        }
    }

    fn operator(held: &[&str], may_grant: &[&str]) -> Key {
        let scope = OperatorScope { project: "acme".parse().ok(), environment: None };
        Key { may_grant: flags(may_grant), operates_on: Some(scope), ..key(1, Grants::Only(flags(held))) }
    }

    fn asks(by: &Key, operation: Operation, before: Option<&Key>, after: &Key) -> Result<(), ManageError> {
        let before = before.map(|key| Target::Key { key, user: None });
        may(Acting::Operator { key: by, user: None }, operation, before, Target::Key { key: after, user: None })
    }

    fn code(result: Result<(), ManageError>) -> &'static str {
        result.err().map_or("allowed", |error| error.as_code())
    }

    #[test]
    fn a_permission_is_needed_for_each_operation() {
        let target = key(2, Grants::Only(flags(&["a"])));
        for operation in [Operation::Create, Operation::Update, Operation::Rotate, Operation::Revoke, Operation::Import]
        {
            let with = operator(&[operation.permission()], &["**"]);
            assert_eq!(code(asks(&with, operation, None, &target)), "allowed", "{operation:?}");
            let without = operator(&["keyward.verify"], &["**"]);
            assert_eq!(code(asks(&without, operation, None, &target)), "lacks_permission", "{operation:?}");
            let wild = operator(&["**"], &["**"]);
            assert_eq!(code(asks(&wild, operation, None, &target)), "lacks_permission", "{operation:?}");
        }
    }

    #[test]
    fn another_projects_key_is_not_there() {
        let by = operator(&["keyward.**"], &["**"]);
        let other = Key { project: "other".parse().ok(), ..key(2, Grants::Only(flags(&[]))) };
        assert_eq!(code(asks(&by, Operation::Revoke, Some(&other), &other)), "not_found");
        assert_eq!(code(asks(&by, Operation::Create, None, &other)), "out_of_scope");
        let everywhere = Key { project: None, ..key(2, Grants::Only(flags(&[]))) };
        assert_eq!(code(asks(&by, Operation::Update, Some(&everywhere), &everywhere)), "not_found");
        let here = key(2, Grants::Only(flags(&[])));
        assert_eq!(code(asks(&by, Operation::Update, Some(&here), &other)), "out_of_scope");
        let mut tester = operator(&["keyward.**"], &["**"]);
        tester.operates_on = Some(OperatorScope { project: None, environment: "test".parse().ok() });
        assert_eq!(code(asks(&tester, Operation::Revoke, Some(&here), &here)), "not_found");
    }

    #[test]
    fn a_key_that_states_no_scope_manages_nothing() {
        let by = Key { operates_on: None, ..operator(&["keyward.**"], &["**"]) };
        let target = key(2, Grants::Only(flags(&[])));
        assert_eq!(code(asks(&by, Operation::Revoke, Some(&target), &target)), "out_of_scope");
    }

    #[test]
    fn whatever_raises_a_key_needs_its_whole_resulting_set() {
        let by = operator(&["keyward.keys.**"], &["a.*"]);
        let wide = key(2, Grants::Only(flags(&["a.x", "b"])));
        let end = |seconds| Some(Timestamp::from_seconds(seconds));
        let ended = Key { expires_at: end(5), grace_expires_at: end(5), ..wide.clone() };
        let off = Key { states: States { disabled: true, ..States::default() }, ..wide.clone() };
        let moved = Key { environment: "test".parse().expect("an environment"), ..wide.clone() };
        let renamed = Key { name: "other".to_owned(), ..wide.clone() };
        let less = key(2, Grants::Only(flags(&["b"])));
        for (what, before, after, expected) in [
            ("more flags", &less, &wide, "may_not_grant"),
            ("live again", &off, &wide, "may_not_grant"),
            ("no end", &ended, &wide, "may_not_grant"),
            ("a later end", &ended, &Key { expires_at: end(6), ..ended.clone() }, "may_not_grant"),
            ("a later grace", &ended, &Key { grace_expires_at: end(6), ..ended.clone() }, "may_not_grant"),
            ("moved", &wide, &moved, "may_not_grant"),
            ("fewer flags", &wide, &less, "allowed"),
            ("switched off", &wide, &off, "allowed"),
            ("an earlier end", &wide, &ended, "allowed"),
            ("a name", &wide, &renamed, "allowed"),
        ] {
            assert_eq!(code(asks(&by, Operation::Update, Some(before), after)), expected, "{what}");
        }
        let own = key(2, Grants::Only(flags(&["a.x"])));
        assert_eq!(code(asks(&by, Operation::Rotate, Some(&own), &own)), "allowed");
        assert_eq!(code(asks(&by, Operation::Rotate, Some(&wide), &wide)), "may_not_grant");
        assert_eq!(code(asks(&by, Operation::Revoke, Some(&wide), &wide)), "allowed");
    }

    #[test]
    fn operators_are_made_only_by_writers_of_operators_within_their_own() {
        let plain = operator(&["keyward.keys.create"], &["**"]);
        let writer = operator(&["keyward.keys.create", "keyward.operators.write"], &["a.**"]);
        let reader = |extra: &[&str]| operator(&["keyward.keys.create"], extra);
        assert_eq!(code(asks(&plain, Operation::Create, None, &reader(&[]))), "lacks_permission");
        assert_eq!(code(asks(&writer, Operation::Create, None, &reader(&["a.b"]))), "allowed");
        assert_eq!(code(asks(&writer, Operation::Create, None, &reader(&["b"]))), "may_not_grant");
        let stronger = operator(&["keyward.keys.revoke"], &[]);
        assert_eq!(code(asks(&writer, Operation::Create, None, &stronger)), "may_not_grant");
        let mut wider = reader(&[]);
        wider.operates_on = Some(OperatorScope { project: None, environment: None });
        assert_eq!(code(asks(&writer, Operation::Create, None, &wider)), "out_of_scope");
    }

    #[test]
    fn a_user_is_raised_only_within_what_may_be_granted() {
        let user = |texts: &[&str], active| User {
            id: "ann".parse().expect("a user id"),
            project: "acme".parse().ok(),
            flags: flags(texts),
            active,
            deleted: false,
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
            stamp: Stamp::default(),
        };
        let by = operator(&["keyward.users.write"], &["a.*"]);
        let asks = |before: Option<&User>, after: &User| {
            let acting = Acting::Operator { key: &by, user: None };
            code(may(acting, Operation::WriteUsers, before.map(Target::User), Target::User(after)))
        };
        assert_eq!(asks(None, &user(&["a.x"], true)), "allowed");
        assert_eq!(asks(None, &user(&["b"], true)), "may_not_grant");
        assert_eq!(asks(Some(&user(&["b"], false)), &user(&["b"], true)), "may_not_grant");
        assert_eq!(asks(Some(&user(&["b"], true)), &user(&["b"], false)), "allowed");
        assert_eq!(asks(Some(&user(&["b"], true)), &User { project: None, ..user(&["b"], true) }), "out_of_scope");
        let other = User { project: "other".parse().ok(), ..user(&[], true) };
        assert_eq!(asks(Some(&other), &other), "user_not_found");
        let mut tester = by.clone();
        tester.operates_on = Some(OperatorScope { project: None, environment: "test".parse().ok() });
        let acting = Acting::Operator { key: &tester, user: None };
        let refused = may(acting, Operation::WriteUsers, None, Target::User(&user(&[], true)));
        assert_eq!(code(refused), "out_of_scope");
    }

    fn grant() -> impl Strategy<Value = Grant> {
        let segment = || prop::sample::select(vec!["a", "b", RESERVED_SEGMENT, "*"]);
        let last = prop::sample::select(vec!["a", "b", RESERVED_SEGMENT, "*", "**"]);
        (proptest::collection::vec(segment(), 0..2), last).prop_map(|(mut segments, last)| {
            segments.push(last);
            segments.join(".").parse().expect("built from segments")
        })
    }

    fn set() -> impl Strategy<Value = FlagSet> {
        proptest::collection::vec(grant(), 0..4).prop_map(FlagSet::from)
    }

    fn grants() -> impl Strategy<Value = Grants> {
        prop_oneof![3 => set().prop_map(Grants::Only), 1 => Just(Grants::Inherit)]
    }

    /// Every concrete flag of one to three segments over three words.
    fn universe() -> Vec<String> {
        let words = ["a", "b", RESERVED_SEGMENT];
        let mut flags: Vec<String> = words.map(str::to_owned).to_vec();
        let mut longest = flags.clone();
        for _ in 0..2 {
            longest = longest.iter().flat_map(|flag| words.map(|word| format!("{flag}.{word}"))).collect();
            flags.extend(longest.clone());
        }
        flags
    }

    fn owner(flags: FlagSet) -> User {
        let id: UserId = "ann".parse().expect("a user id");
        let (created_at, updated_at, stamp) = (Timestamp::EPOCH, Timestamp::EPOCH, Stamp::default());
        User { id, project: None, flags, active: true, deleted: false, created_at, updated_at, stamp }
    }

    proptest! {
        #[test]
        fn nobody_hands_out_what_they_may_not(
            held in set(),
            may_grant in set(),
            writes_operators in any::<bool>(),
            before in grants(),
            after in grants(),
            user in proptest::option::of(set()),
            was_off in any::<bool>(),
            operation in prop::sample::select(vec![Operation::Create, Operation::Update, Operation::Rotate]),
        ) {
            let permissions = ["keyward.keys.**", OPERATORS_WRITE];
            let permissions = permissions.iter().take(if writes_operators { 2 } else { 1 });
            let held: FlagSet = held.iter().cloned().chain(permissions.map(|flag| flag.parse().expect("a flag"))).collect();
            // Drawn flags may hold it too, by a wildcard.
            let writes_operators = held.grants(OPERATORS_WRITE);
            let by = Key { may_grant, ..operator(&[], &[]) };
            let by = Key { grants: Grants::Only(held.clone()), ..by };
            let user = user.map(owner);
            let owned = |grants| Key { user: user.as_ref().map(|user| user.id.clone()), ..key(2, grants) };
            let (mut before, after) = (owned(before), owned(after));
            before.states.disabled = was_off;
            let target = |key| Target::Key { key, user: user.as_ref() };
            let old = (operation != Operation::Create).then(|| target(&before));
            let acting = Acting::Operator { key: &by, user: None };
            if may(acting, operation, old, target(&after)).is_err() {
                return Ok(());
            }
            for flag in universe() {
                let had = operation == Operation::Update && !was_off && before.holds(user.as_ref(), &flag);
                if !had && after.holds(user.as_ref(), &flag) {
                    let reserved = flag.split('.').next() == Some(RESERVED_SEGMENT);
                    prop_assert_eq!(reserved && !writes_operators, false, "{} is reserved", flag);
                    let own = if reserved { held.grants(&flag) } else { by.may_grant.grants(&flag) };
                    prop_assert!(own, "{} is not the caller's to grant", flag);
                }
            }
        }

        #[test]
        fn taking_away_needs_no_more_than_the_permission(wide in set(), may_grant in set()) {
            let by = Key { may_grant, ..operator(&["keyward.keys.update"], &[]) };
            let before = key(2, Grants::Only(wide.clone()));
            for kept in 0..wide.len() {
                let after = key(2, Grants::Only(wide.iter().take(kept).cloned().collect()));
                prop_assert!(asks(&by, Operation::Update, Some(&before), &after).is_ok());
            }
        }
    }
}
