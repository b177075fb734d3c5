//! The rules that every key and user is held to, whoever makes it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::may::{Acting, Target};
use super::{Expiry, ManageError, PROP_NAME_MAX, PROPS_BYTES_MAX, PROPS_MAX, ROTATION_DAYS_MAX};
use crate::clock::Timestamp;
use crate::key::{
    FLAGS_PER_KEY_MAX, FlagFault, FlagSet, Grants, Key, ProjectId, Rotation, User, UserId, check_key_name,
};

#[expect(clippy::needless_pass_by_value, reason = "texts and faults alike are handed over and forgotten")]
pub(super) fn invalid(field: &'static str, cause: impl ToString) -> ManageError {
    ManageError::Invalid { field, cause: cause.to_string() }
}

#[expect(clippy::needless_pass_by_value, reason = "as above")]
pub(super) fn conflicting(field: &'static str, cause: impl ToString) -> ManageError {
    ManageError::Conflicting { field, cause: cause.to_string() }
}

/// Rules of a key's own fields.
pub(super) fn key(key: &Key) -> Result<(), ManageError> {
    check_key_name(&key.name).map_err(|fault| invalid("name", fault))?;
    project(key.project.as_ref())?;
    if let Grants::Only(granted) = &key.grants {
        flags("flags", granted)?;
    }
    flags("may_grant", &key.may_grant)?;
    props(&key.props)?;
    Ok(())
}

/// Of what fields that depend on each other are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Of the request alone: it is wrong, whatever is stored.
    Request,
    /// Of what is stored, too.
    Store,
}

impl Source {
    fn fault(self, field: &'static str, cause: &str) -> ManageError {
        match self {
            Self::Request => invalid(field, cause),
            Self::Store => conflicting(field, cause),
        }
    }
}

/// What a key may hold: flags of its user where it has one, and, of an operator's, what it manages.
pub(super) fn held(key: &Key, user: Option<&User>, source: Source) -> Result<(), ManageError> {
    let inherits = key.grants == Grants::Inherit;
    if inherits && key.user.is_none() {
        return Err(source.fault("inherit", "only a key with a user can inherit its flags; name the user"));
    }
    // Whether it is an operator's is up to its user.
    operator(key, user, if inherits { Source::Store } else { source })
}

/// Operators say what they manage, and nobody else does.
fn operator(key: &Key, user: Option<&User>, source: Source) -> Result<(), ManageError> {
    let is_operator = key.is_operator(user);
    let (field, cause) = match &key.operates_on {
        None if is_operator => {
            ("operates_on", "a key with keyward.* flags must say which keys it manages; name a project or all")
        }
        None if !key.may_grant.is_empty() => {
            ("may_grant", "only a key with keyward.* flags can grant flags; add one, or leave may_grant out")
        }
        None if key.project.is_none() => ("project_id", "only an operator of all projects has no project; name one"),
        None => return Ok(()),
        Some(_) if !is_operator => {
            ("operates_on", "only a key with keyward.* flags manages keys; add one, or leave operates_on out")
        }
        // That two texts are the same is nothing that a description of requests can say.
        Some(scope) if scope.project != key.project => {
            let cause = "an operator manages its own project, or all where it has none itself";
            return Err(conflicting("operates_on", cause));
        }
        Some(_) => return Ok(()),
    };
    Err(source.fault(field, cause))
}

/// `all` stands for every project and names none.
pub(super) fn project(project: Option<&ProjectId>) -> Result<(), ManageError> {
    if project.is_some_and(ProjectId::is_reserved) {
        return Err(invalid("project_id", "the name \"all\" is reserved; choose another"));
    }
    Ok(())
}

pub(super) fn flags(field: &'static str, flags: &FlagSet) -> Result<(), ManageError> {
    if flags.len() > FLAGS_PER_KEY_MAX {
        return Err(invalid(field, FlagFault::TooMany { found: flags.len(), max: FLAGS_PER_KEY_MAX }));
    }
    Ok(())
}

fn props(props: &BTreeMap<String, String>) -> Result<(), ManageError> {
    if props.len() > PROPS_MAX {
        return Err(invalid("props", format!("{} entries where at most {PROPS_MAX} are allowed", props.len())));
    }
    let bytes: usize = props.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > PROPS_BYTES_MAX {
        return Err(invalid("props", format!("{bytes} bytes where at most {PROPS_BYTES_MAX} are allowed")));
    }
    for (name, value) in props {
        if !(1..=PROP_NAME_MAX).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            return Err(invalid(
                "props",
                format!(
                    "{name:?} is no name: expected 1 to {PROP_NAME_MAX} characters, none of them a control character"
                ),
            ));
        }
        if value.chars().any(char::is_control) {
            return Err(invalid("props", format!("the value of {name:?} has control characters")));
        }
    }
    Ok(())
}

/// The instant that `expiry` names at `now`, which must lie ahead.
pub(super) fn expiry(expiry: Expiry, now: Timestamp) -> Result<Option<Timestamp>, ManageError> {
    let end = match expiry {
        Expiry::Never => return Ok(None),
        Expiry::At(end) => end,
        Expiry::In(span) => now.plus(span),
    };
    if end <= now {
        return Err(conflicting("expires_at", format!("{end} is not in the future; it is {now} now")));
    }
    if end == Timestamp::MAX {
        return Err(conflicting("expires_at", format!("it is later than can be told apart; the last is {end}")));
    }
    Ok(Some(end))
}

/// A rotation every `days`, counted from `now`, announced at `url`.
pub(super) fn rotation(days: Option<u32>, url: Option<&str>, now: Timestamp) -> Result<Rotation, ManageError> {
    let webhook_url = url.map(str::to_owned);
    let Some(days) = days else { return Ok(Rotation { webhook_url, ..Rotation::default() }) };
    if !(1..=ROTATION_DAYS_MAX).contains(&days) {
        return Err(invalid("rotation_interval_days", format!("{days} is not within 1 and {ROTATION_DAYS_MAX}")));
    }
    let next = now.plus(Duration::from_secs(u64::from(days) * 24 * 60 * 60));
    Ok(Rotation { interval_days: Some(days), next_at: Some(next), webhook_url, ..Rotation::default() })
}

/// The user that a key of `project` shall have, who must be there for the caller. `of` looks up users.
pub(super) fn owner<'a>(
    id: Option<&UserId>,
    project: Option<&ProjectId>,
    of: impl Fn(&UserId) -> Option<&'a User>,
    acting: Acting<'_>,
) -> Result<Option<&'a User>, ManageError> {
    let Some(id) = id else { return Ok(None) };
    let unknown = || ManageError::UserNotFound { id: id.clone() };
    let user = of(id).ok_or_else(unknown)?;
    if user.project.is_some() && !acting.sees(Target::User(user)) {
        return Err(unknown());
    }
    if user.deleted {
        return Err(ManageError::UserDeleted { id: id.clone() });
    }
    match &user.project {
        Some(theirs) if Some(theirs) != project => {
            Err(invalid("user_id", format!("user {id:?} belongs to project {theirs}, and the key does not")))
        }
        Some(_) | None => Ok(Some(user)),
    }
}
