//! Unkey: keys as its API lists them or its database is exported, in a JSON array, in an object that
//! holds one, or one object a line.

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::super::rows::{Defaults, LineFault, from_defaults};
use super::{Found, Groups, Refused, from_yaml, grant, keep, line_of, rename};
use crate::clock::Timestamp;
use crate::key::{Token, TokenHash};
use crate::manage::{Expiry, ImportedKey, ImportedSecret};

const WHAT: &str = "a list of Unkey's keys in JSON";

/// A list, wherever it is.
#[derive(Deserialize)]
struct Page {
    #[serde(alias = "data")]
    keys: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(alias = "plaintext")]
    key: Option<String>,
    hash: Option<Hash>,
    #[serde(alias = "keyId", alias = "key_id")]
    id: Option<String>,
    name: Option<String>,
    #[serde(alias = "externalId", alias = "external_id", alias = "ownerId")]
    owner_id: Option<String>,
    #[serde(default)]
    permissions: Option<Vec<Named>>,
    #[serde(default)]
    roles: Option<Vec<Named>>,
    /// Milliseconds since 1970, or RFC 3339.
    expires: Option<Instant>,
    enabled: Option<bool>,
    #[serde(alias = "deletedAt", alias = "deletedAtM", alias = "deleted_at_m")]
    deleted_at: Option<Instant>,
    #[serde(alias = "remaining_requests")]
    remaining: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Hash {
    Text(String),
    Told { value: String, variant: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Text(String),
    Object { name: String },
}

impl Named {
    fn texts(list: Option<Vec<Self>>) -> Vec<String> {
        let name = |named| match named {
            Self::Text(name) | Self::Object { name } => name,
        };
        list.unwrap_or_default().into_iter().map(name).collect()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Instant {
    Milliseconds(i64),
    Text(String),
}

pub(super) fn read(text: &str, defaults: &Defaults, groups: Groups) -> Result<Found, LineFault> {
    let mut found = Found::default();
    for (line, key) in entries(text)? {
        found.take(line, one(line, key, defaults, groups));
    }
    Ok(found)
}

fn entries(text: &str) -> Result<Vec<(usize, Entry)>, LineFault> {
    let placed = |list: Vec<Spanned<Entry>>| {
        list.into_iter().map(|entry| (line_of(entry.referenced.line()), entry.value)).collect()
    };
    let text = text.trim_start_matches('\u{feff}');
    let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    if first.starts_with('[') {
        return from_yaml(text, WHAT).map(placed);
    }
    if first.starts_with('{') && first.ends_with('}') && serde_json::from_str::<Page>(first).is_err() {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        return lines
            .map(|(at, line)| {
                let entry = serde_json::from_str(line);
                let fault =
                    |_quoted| LineFault { line: at + 1, cause: "is not one of Unkey's keys in JSON".to_owned() };
                entry.map(|entry| (at + 1, entry)).map_err(fault)
            })
            .collect();
    }
    from_yaml::<Page>(text, WHAT).map(|page| placed(page.keys))
}

fn one(line: usize, entry: Entry, defaults: &Defaults, groups: Groups) -> Result<ImportedKey, Refused> {
    if entry.deleted_at.is_some() {
        return Err(Refused::Ended("it is deleted there".to_owned()));
    }
    if entry.enabled == Some(false) {
        return Err(Refused::Ended("it is disabled there".to_owned()));
    }
    if entry.remaining.is_some() {
        return Err("it has a number of uses left, which is not counted here; take `remaining` away to import it \
                    without that limit"
            .to_owned()
            .into());
    }
    let secret = match (entry.key, entry.hash) {
        (Some(token), _) => ImportedSecret::Token(Token::from_text(&token)),
        (None, Some(hash)) => ImportedSecret::Hash(TokenHash::from_sha256(digest(&hash)?)),
        (None, None) => return Err("has neither a key nor a hash".to_owned().into()),
    };
    let mut key = from_defaults(line, secret, defaults)?;
    if let Some(name) = entry.name.as_ref().or(entry.id.as_ref()).filter(|name| !name.is_empty()) {
        rename(&mut key, name)?;
    }
    let permissions = Named::texts(entry.permissions);
    match groups {
        Groups::AsFlags => grant(&mut key, defaults, &permissions)?,
        Groups::AsProp => keep(&mut key, "permissions", &permissions),
    }
    keep(&mut key, "roles", &Named::texts(entry.roles));
    keep(&mut key, "external_id", entry.owner_id.as_slice());
    keep(&mut key, "unkey_id", entry.id.as_slice());
    if let Some(end) = entry.expires {
        key.expires = Expiry::At(instant(end)?);
    }
    Ok(key)
}

/// The SHA-256 of a token, in base64 or as 64 hexadecimal digits.
fn digest(hash: &Hash) -> Result<[u8; 32], String> {
    let text = match hash {
        Hash::Text(text) => text,
        Hash::Told { value, variant } if variant == "sha256_base64" => value,
        Hash::Told { .. } => return Err("its hash is of an unknown variant; known: sha256_base64".to_owned()),
    };
    let bytes = match text.len() {
        64 => HEXLOWER_PERMISSIVE.decode(text.as_bytes()),
        _ => BASE64.decode(text.as_bytes()),
    };
    let bytes = bytes.ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| "its hash is no SHA-256 in base64".to_owned())
}

fn instant(at: Instant) -> Result<Timestamp, String> {
    match at {
        Instant::Milliseconds(milliseconds) => Ok(Timestamp::from_nanos(milliseconds.saturating_mul(1_000_000))),
        Instant::Text(text) => text.parse().map_err(|fault| format!("expires: {fault}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{defaults, faults, flags_of, token_of};
    use super::super::{System, read};
    use super::*;

    /// SHA-256 of `abc`, FIPS 180-2, appendix B.1.
    const OF_ABC: &str = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";

    fn found(text: &str) -> Found {
        read(System::Unkey, text, &defaults(), Groups::AsFlags).expect("a good file")
    }

    #[test]
    fn keys_are_known_by_their_sha_256() {
        let text = format!(
            r#"[
  {{"keyId": "key_1", "hash": "{OF_ABC}", "name": "ann", "permissions": ["jobs.read"], "expires": 1900000000000,
    "externalId": "17"}},
  {{"id": "key_2", "hash": {{"value": "{OF_ABC}", "variant": "sha256_base64"}}, "enabled": true, "meta": {{"a": 1}}}},
  {{"id": "key_3", "hash": "{OF_ABC}", "enabled": false}}
]"#
        );
        let found = found(&text);
        let [one, two] = &found.keys[..] else { panic!("{:?}", found.keys) };
        assert_eq!((one.line, one.name.as_str(), flags_of(one).as_str()), (2, "ann", "a.b jobs.read"));
        let ImportedSecret::Hash(hash) = &one.secret else { panic!("{:?}", one.secret) };
        assert!(hash.is_sha256() && hash.to_hex().starts_with("ba7816bf8f01cfea414140de5dae2223b00361a396177a9c"));
        assert_eq!(one.expires, Expiry::At(Timestamp::from_seconds(1_900_000_000)));
        assert_eq!((one.props["external_id"].as_str(), one.props["unkey_id"].as_str()), ("17", "key_1"));
        assert_eq!((two.line, two.name.as_str()), (4, "key_2"));
        assert_eq!(found.left_out[0].to_string(), "5: it is disabled there");
    }

    #[test]
    fn a_page_of_the_api_and_a_key_a_line_are_read_too() {
        let page = r#"{"meta": {"requestId": "req_1"}, "data": [{"keyId": "key_1", "plaintext": "geheim"}]}"#;
        assert_eq!(token_of(&found(page).keys[0]), "geheim");
        let lines = "{\"id\": \"key_1\", \"key\": \"one\"}\n\n{\"id\": \"key_2\", \"key\": \"two\"}\n";
        let found = found(lines);
        assert_eq!((found.keys[1].line, token_of(&found.keys[1])), (3, "two"));
    }

    #[test]
    fn what_cannot_be_imported_is_named_by_its_line_and_not_quoted() {
        let told = faults(
            System::Unkey,
            r#"[{"id": "a"},
{"hash": "geheim"},
{"key": "geheim", "remaining": 5},
{"hash": {"value": "x", "variant": "md5"}}]"#,
        );
        assert!(told[0].starts_with("1: has neither a key nor a hash"), "{told:?}");
        assert!(told[1].starts_with("2: its hash is no SHA-256"), "{told:?}");
        assert!(told[2].starts_with("3: it has a number of uses left"), "{told:?}");
        assert!(told[3].starts_with("4: its hash is of an unknown variant"), "{told:?}");
        assert!(!told.concat().contains("geheim"));
        assert_eq!(faults(System::Unkey, r#"[{"key": ["geheim"]}]"#), ["1: is not a list of Unkey's keys in JSON"]);
    }
}
