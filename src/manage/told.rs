//! What events tell of a change: the fields that differ, as text. Never a token, hash or secret.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Timestamp;
use crate::key::{Event, EventKind, Grants, Key, KeyId, OperatorScope, ProjectId, User};
use crate::store::{Change, NewEvent, Row};

/// Fields by name, as text.
type Fields = BTreeMap<String, String>;

/// A key that is new, with all that can be told of it.
pub(super) fn new_key(kind: EventKind, key: Key, replaces: Option<KeyId>) -> Change {
    let mut changes = fields_of_key(&key);
    changes.extend(replaces.map(|id| ("replaces".to_owned(), id.to_string())));
    Change { row: Row::Key(Box::new(key)), event: NewEvent { kind, changes } }
}

/// A key that changed, if it did.
pub(super) fn changed_key(kind: EventKind, before: &Key, after: Key) -> Option<Change> {
    if *before == after {
        return None;
    }
    let changes = differences(&fields_of_key(before), &fields_of_key(&after));
    Some(Change { row: Row::Key(Box::new(after)), event: NewEvent { kind, changes } })
}

/// A key that is written as it is, for the sake of the event: who wants it so has changed.
pub(super) fn written_again(kind: EventKind, before: &Key, after: Key) -> Change {
    let changes = differences(&fields_of_key(before), &fields_of_key(&after));
    Change { row: Row::Key(Box::new(after)), event: NewEvent { kind, changes } }
}

/// A user that is written as it is, for the sake of the event.
pub(super) fn user_written_again(kind: EventKind, user: User) -> Change {
    Change { row: Row::User(user), event: NewEvent { kind, changes: Fields::new() } }
}

/// The field of events of changes that a user made to its own keys.
const BY_ITS_USER: &str = "by_its_user";

/// Marks `change` as made by the key's own user.
pub(super) fn by_its_user(change: &mut Change) {
    change.event.changes.insert(BY_ITS_USER.to_owned(), "yes".to_owned());
}

/// Whether the key's own user made the change that `event` tells of.
pub(super) fn is_by_its_user(event: &Event) -> bool {
    event.changes.contains_key(BY_ITS_USER)
}

/// A user that is new or changed, if it is.
pub(super) fn user(kind: EventKind, before: Option<&User>, after: User) -> Option<Change> {
    let changes = match before {
        Some(before) if *before == after => return None,
        Some(before) => differences(&fields_of_user(before), &fields_of_user(&after)),
        None => fields_of_user(&after),
    };
    Some(Change { row: Row::User(after), event: NewEvent { kind, changes } })
}

fn differences(before: &Fields, after: &Fields) -> Fields {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let text = |fields: &Fields, name: &str| fields.get(name).map_or("none".to_owned(), String::clone);
    let changed = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    changed.map(|name| (name.clone(), format!("{} -> {}", text(before, name), text(after, name)))).collect()
}

fn fields_of_key(key: &Key) -> Fields {
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let set = |texts: String| (!texts.is_empty()).then_some(texts);
    let flags = match &key.grants {
        Grants::Inherit => Some("inherit".to_owned()),
        Grants::Only(flags) => set(flags.to_string()),
    };
    let fields = [
        ("name", Some(key.name.clone())),
        ("project", key.project.as_ref().map(ProjectId::to_string)),
        ("environment", Some(key.environment.to_string())),
        ("user", key.user.as_ref().map(ToString::to_string)),
        ("flags", flags),
        ("may_grant", set(key.may_grant.to_string())),
        ("operates_on", key.operates_on.as_ref().map(scope)),
        ("self_rotate", key.self_rotate.then(|| "yes".to_owned())),
        ("format", Some(key.format.as_str().to_owned())),
        ("active", Some(if key.states.disabled { "no" } else { "yes" }.to_owned())),
        ("revoked_at", time(key.revoked_at)),
        ("replaced_by", key.replaced_by.map(|id| id.to_string())),
        ("expires_at", time(key.expires_at)),
        ("grace_expires_at", time(key.grace_expires_at)),
        ("rotation_webhook", key.rotation.webhook_url.as_deref().map(origin)),
        ("webhook_secret_version", Some(key.rotation.secret_version).filter(|it| *it > 1).map(|it| it.to_string())),
        ("rotation_interval_days", key.rotation.interval_days.map(|days| days.to_string())),
    ];
    let props = key.props.iter().map(|(name, value)| (format!("props.{name}"), value.clone()));
    named(fields).chain(props).collect()
}

/// Where a webhook goes, without its path and query, which may be as good as a password.
fn origin(url: &str) -> String {
    let uri = url.parse::<http::Uri>().ok();
    uri.and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_else(|| "another".to_owned())
}

fn fields_of_user(user: &User) -> Fields {
    let fields = [
        ("project", user.project.as_ref().map(ProjectId::to_string)),
        ("flags", Some(user.flags.to_string()).filter(|flags| !flags.is_empty())),
        ("active", Some(if user.active { "yes" } else { "no" }.to_owned())),
        ("deleted", user.deleted.then(|| "yes".to_owned())),
    ];
    named(fields).collect()
}

fn named<const N: usize>(fields: [(&str, Option<String>); N]) -> impl Iterator<Item = (String, String)> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)))
}

fn scope(scope: &OperatorScope) -> String {
    let project = scope.project.as_ref().map_or("all", ProjectId::as_str);
    let environment = scope.environment.as_ref().map_or("all", |environment| environment.as_str());
    format!("project={project} environment={environment}")
}
