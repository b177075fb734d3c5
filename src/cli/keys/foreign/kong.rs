//! Kong: the key-auth credentials of a declarative configuration, as `deck gateway dump` or
//! `kong config db_export` write it.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::super::rows::{Defaults, LineFault, from_defaults};
use super::{Found, Groups, Refused, from_yaml, grant, keep, line_of, rename};
use crate::clock::Timestamp;
use crate::key::Token;
use crate::manage::{Expiry, ImportedKey, ImportedSecret};

/// The parts of the file that are about keys.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    consumers: Vec<Consumer>,
    #[serde(default)]
    keyauth_credentials: Vec<Spanned<Credential>>,
    #[serde(default)]
    acls: Vec<Acl>,
}

#[derive(Deserialize)]
struct Consumer {
    id: Option<String>,
    username: Option<String>,
    custom_id: Option<String>,
    #[serde(default)]
    keyauth_credentials: Vec<Spanned<Credential>>,
    #[serde(default)]
    acls: Vec<Acl>,
}

#[derive(Deserialize)]
struct Credential {
    key: Option<String>,
    consumer: Option<String>,
    /// Seconds from the creation on.
    ttl: Option<u64>,
    created_at: Option<i64>,
    #[serde(default)]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Acl {
    group: String,
    consumer: Option<String>,
}

/// Whom a credential belongs to.
#[derive(Default)]
struct Owner {
    name: Option<String>,
    custom_id: Option<String>,
    groups: Vec<String>,
    credentials: usize,
}

pub(super) fn read(text: &str, defaults: &Defaults, groups: Groups) -> Result<Found, LineFault> {
    let file: File = from_yaml(text, "a declarative configuration of Kong")?;
    let mut owners: Vec<Owner> = Vec::with_capacity(file.consumers.len());
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut credentials = Vec::new();
    for consumer in file.consumers {
        let number = owners.len();
        for name in [&consumer.id, &consumer.username].into_iter().flatten() {
            numbers.insert(name.clone(), number);
        }
        owners.push(Owner {
            name: consumer.username.or_else(|| consumer.custom_id.clone()),
            custom_id: consumer.custom_id,
            groups: consumer.acls.into_iter().map(|acl| acl.group).collect(),
            credentials: 0,
        });
        credentials.extend(consumer.keyauth_credentials.into_iter().map(|credential| (Some(number), credential)));
    }
    for acl in file.acls {
        let owner = acl.consumer.and_then(|name| numbers.get(&name)).and_then(|&number| owners.get_mut(number));
        if let Some(owner) = owner {
            owner.groups.push(acl.group);
        }
    }
    for credential in file.keyauth_credentials {
        let number = credential.value.consumer.as_ref().and_then(|name| numbers.get(name)).copied();
        credentials.push((number, credential));
    }

    let mut found = Found::default();
    let mut nobody = Owner::default();
    for (number, credential) in credentials {
        let line = line_of(credential.referenced.line());
        let owner = number.and_then(|number| owners.get_mut(number)).unwrap_or(&mut nobody);
        owner.credentials += 1;
        found.take(line, one(line, credential.value, owner, defaults, groups));
    }
    Ok(found)
}

fn one(
    line: usize,
    credential: Credential,
    owner: &Owner,
    defaults: &Defaults,
    groups: Groups,
) -> Result<ImportedKey, Refused> {
    let token = credential.key.ok_or_else(|| "has no key: Kong would make one up".to_owned())?;
    if token.starts_with("{vault://") {
        return Err("its key is a reference to a vault; put the key itself there".to_owned().into());
    }
    let mut key = from_defaults(line, ImportedSecret::Token(Token::from_text(&token)), defaults)?;
    if let Some(name) = &owner.name {
        match owner.credentials {
            1 => rename(&mut key, name)?,
            number => rename(&mut key, &format!("{name}-{number}"))?,
        }
    }
    match groups {
        Groups::AsFlags => grant(&mut key, defaults, &owner.groups)?,
        Groups::AsProp => keep(&mut key, "groups", &owner.groups),
    }
    keep(&mut key, "custom_id", owner.custom_id.as_slice());
    keep(&mut key, "tags", &credential.tags.unwrap_or_default());
    if let Some(ttl) = credential.ttl.filter(|&ttl| ttl > 0) {
        let created = credential.created_at.ok_or_else(|| {
            "has a ttl and no created_at, so that its end is unknown; give created_at, or take ttl away".to_owned()
        })?;
        key.expires = Expiry::At(Timestamp::from_seconds(created).plus(Duration::from_secs(ttl)));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{defaults, faults, flags_of, token_of};
    use super::super::{System, read};
    use super::*;

    const FILE: &str = "\
_format_version: '3.0'
services:
- name: rings
  url: http://rings
consumers:
- username: ann
  custom_id: '17'
  acls:
  - group: jobs:read
  keyauth_credentials:
  - key: first-token
    tags: [old, blue]
  - key: second-token
    ttl: 60
    created_at: 1700000000
- username: bob
keyauth_credentials:
- consumer: bob
  key: third-token
acls:
- consumer: bob
  group: jobs:write
";

    #[test]
    fn the_credentials_of_every_consumer_are_read_wherever_they_stand() {
        let found = read(System::Kong, FILE, &defaults(), Groups::AsFlags).expect("a good file");
        let names: Vec<_> = found.keys.iter().map(|key| (key.line, key.name.as_str(), token_of(key))).collect();
        assert_eq!(names, [(11, "ann", "first-token"), (13, "ann-2", "second-token"), (18, "bob", "third-token")]);
        let flags: Vec<_> = found.keys.iter().map(flags_of).collect();
        assert_eq!(flags, ["a.b jobs:read", "a.b jobs:read", "a.b jobs:write"]);
        assert_eq!(found.keys[1].expires, Expiry::At(Timestamp::from_seconds(1_700_000_060)));
        assert_eq!(found.keys[0].props["tags"], "old blue");
        assert_eq!(found.keys[0].props["custom_id"], "17");
    }

    #[test]
    fn groups_grant_nothing_unless_asked_for() {
        let found = read(System::Kong, FILE, &defaults(), Groups::AsProp).expect("a good file");
        assert_eq!(flags_of(&found.keys[0]), "a.b");
        assert_eq!(found.keys[0].props["groups"], "jobs:read");
    }

    #[test]
    fn the_same_in_json_is_read_too() {
        let text = r#"{"consumers": [{"username": "ann", "keyauth_credentials": [{"key": "first-token"}]}]}"#;
        let found = read(System::Kong, text, &defaults(), Groups::AsProp).expect("a good file");
        assert_eq!(token_of(&found.keys[0]), "first-token");
    }

    #[test]
    fn what_cannot_be_imported_is_named_by_its_line_and_not_quoted() {
        let text = "keyauth_credentials:\n- key: '{vault://env/secret}'\n- ttl: 5\n- key: geheim\n  ttl: 5\n";
        let told = faults(System::Kong, text);
        assert!(told[0].starts_with("2: its key is a reference to a vault"), "{told:?}");
        assert!(told[1].starts_with("3: has no key"), "{told:?}");
        assert!(told[2].starts_with("4: has a ttl and no created_at"), "{told:?}");
        let told = faults(System::Kong, "consumers:\n- keyauth_credentials:\n  - key: [geheim]\n");
        assert_eq!(told, ["3: is not a declarative configuration of Kong"]);
    }
}
