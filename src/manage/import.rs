//! Keys minted elsewhere, taken in by token or by hash: all rows or none, in one revision.
//!
//! **Estimated entropy.** A token's bits are its length times log2 of its alphabet. The alphabet is
//! the smallest of these that holds all of its characters: digits (10), hexadecimal in one case
//! (16), letters of one case (26), letters of one case and digits (36), letters (52), letters and
//! digits (62), with `-` and `_` (64), all printable (94). Where fewer than half as many different
//! characters occur as a random token of that length and alphabet would show, the alphabet is what
//! occurs. Hyphens of a token that is else hexadecimal, such as a UUID, count for nothing. A token
//! that begins with a long public prefix is over-estimated: this finds passwords, not bad
//! generators.

use std::collections::{BTreeSet, HashMap};

use super::may::{Acting, Operation, Target, may};
use super::plan::Plan;
use super::{Caller, ImportOptions, ImportedKey, ImportedSecret, ManageError, RowCause, RowFault, check, told};
use crate::clock::Timestamp;
use crate::key::{
    EventKind, FlagSet, Form, Format, Key, KeyId, Rotation, Shape, Stamp, States, TOKEN_BYTES_MAX, Token, TokenHash,
    TokenPrefix, User, UserId, is_assertion,
};
use crate::secret;
use crate::store::Reading;

const BITS_MIN: u32 = 112;
/// A shorter token shows nothing of itself: six characters and four would be too much of it.
const SHOWN_LENGTH_MIN: usize = 24;
const SHOWN: usize = 6;

/// The users that rows name.
type Users<'a> = HashMap<&'a UserId, &'a User>;

/// The hashes of each row's token, by any of which the store may know it.
pub(super) fn hashes(rows: &[ImportedKey]) -> Vec<TokenHash> {
    rows.iter().flat_map(|row| [Some(hash_of(&row.secret)), other_hash_of(&row.secret)]).flatten().collect()
}

/// By what else the same token may have been imported.
pub(super) fn other_hash_of(secret: &ImportedSecret) -> Option<TokenHash> {
    match secret {
        ImportedSecret::Token(token) => Some(TokenHash::sha256_of(token.expose().as_bytes())),
        ImportedSecret::Hash(_) => None,
    }
}

fn hash_of(secret: &ImportedSecret) -> TokenHash {
    match secret {
        ImportedSecret::Token(token) => token.hash(),
        ImportedSecret::Hash(hash) => *hash,
    }
}

pub(super) fn import(
    caller: &Caller,
    rows: &[ImportedKey],
    options: ImportOptions,
    prefix: &TokenPrefix,
    reading: &Reading,
) -> Result<Plan<Vec<Key>>, ManageError> {
    let acting = Acting::of(caller, reading)?;
    acting.is_permitted(Operation::Import)?;
    let stored: HashMap<&[u8; 64], &Key> = reading.keys.iter().map(|key| (key.hash.as_bytes(), key)).collect();
    // There may be as many users as rows.
    let users: Users<'_> = reading.users.iter().map(|user| (&user.id, user)).collect();
    let mut first_lines: HashMap<[u8; 64], usize> = HashMap::new();
    let (mut changes, mut keys, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let hash = hash_of(&row.secret);
        let other = other_hash_of(&row.secret);
        let known = [Some(hash), other].into_iter().flatten().find_map(|hash| stored.get(hash.as_bytes()).copied());
        let mut repeated = first_lines.insert(*hash.as_bytes(), row.line);
        if let Some(other) = other {
            repeated = repeated.or(first_lines.insert(*other.as_bytes(), row.line));
        }
        match one(caller, acting, row, hash, known, repeated, options, prefix, reading, &users) {
            Ok(key) => {
                changes.push(told::new_key(EventKind::KeyImported, key.clone(), None));
                keys.push(key);
            }
            Err(cause) => faults.push(RowFault { line: row.line, cause }),
        }
    }
    if faults.is_empty() { Ok(Plan { changes, outcome: keys }) } else { Err(ManageError::Import(faults)) }
}

#[expect(clippy::too_many_arguments, reason = "one row with all that it is held against")]
fn one(
    caller: &Caller,
    acting: Acting<'_>,
    row: &ImportedKey,
    hash: TokenHash,
    stored: Option<&Key>,
    repeated: Option<usize>,
    options: ImportOptions,
    prefix: &TokenPrefix,
    reading: &Reading,
    users: &Users<'_>,
) -> Result<Key, RowCause> {
    if let ImportedSecret::Token(token) = &row.secret {
        well_formed(token, prefix)?;
        let bits = entropy_bits(token.expose());
        if bits < BITS_MIN && !options.allow_weak {
            return Err(RowCause::Weak { bits });
        }
    }
    if let Some(first) = repeated {
        return Err(RowCause::Repeated { first });
    }
    if let Some(key) = stored {
        let seen = acting.sees(Target::Key { key, user: reading.user_of(key) });
        return Err(RowCause::Stored { existing: seen.then_some(key.id) });
    }
    key(caller, acting, row, hash, prefix, reading.now, users).map_err(|error| RowCause::Refused(Box::new(error)))
}

/// Whether a token could be sent and looked up at all.
fn well_formed(token: &Token, prefix: &TokenPrefix) -> Result<(), RowCause> {
    let text = token.expose();
    let wrong = |cause: &str| Err(RowCause::Refused(Box::new(check::invalid("token", cause))));
    if text.is_empty() || text.len() > TOKEN_BYTES_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong("it is not 1 to 4096 printable ASCII characters without spaces");
    }
    if is_assertion(text.as_bytes()) {
        return wrong("it is an assertion, which is for a service behind a gateway and never a key");
    }
    if Shape::of(text.as_bytes(), prefix) == Shape::NoKey {
        return wrong("it looks like one minted here and its checksum is wrong, so it would never be looked up");
    }
    Ok(())
}

fn key(
    caller: &Caller,
    acting: Acting<'_>,
    row: &ImportedKey,
    hash: TokenHash,
    prefix: &TokenPrefix,
    now: Timestamp,
    users: &Users<'_>,
) -> Result<Key, ManageError> {
    let project = Some(row.project.clone());
    let user = check::owner(row.user.as_ref(), project.as_ref(), |id| users.get(id).copied(), acting)?;
    let (shown_prefix, last_four) = match &row.secret {
        ImportedSecret::Hash(_) => (None, None),
        ImportedSecret::Token(token) => shown(token, prefix),
    };
    let id = KeyId::mint(now, secret::random()?);
    let key = Key {
        id,
        lineage: id.lineage(),
        hash,
        format: Format::Imported,
        shown_prefix,
        last_four,
        name: row.name.clone(),
        project,
        environment: row.environment.clone(),
        user: row.user.clone(),
        grants: row.grants.clone(),
        props: row.props.clone(),
        may_grant: FlagSet::default(),
        operates_on: None,
        self_rotate: false,
        minted_by: caller.key(),
        states: States::default(),
        revoked_at: None,
        replaced_by: None,
        expires_at: check::expiry(row.expires, now)?,
        grace_expires_at: None,
        rotation: Rotation::default(),
        created_at: now,
        updated_at: now,
        stamp: Stamp::default(),
    };
    check::key(&key)?;
    check::held(&key, user, check::Source::Request)?;
    may(acting, Operation::Import, None, Target::Key { key: &key, user })?;
    Ok(key)
}

/// What may be shown of an imported token: its beginning and its end.
fn shown(token: &Token, prefix: &TokenPrefix) -> (Option<String>, Option<String>) {
    let text = token.expose();
    if text.len() < SHOWN_LENGTH_MIN {
        return (None, None);
    }
    let beginning = match Form::of(text.as_bytes(), prefix) {
        Form::Own(environment) => Some(token.shown_prefix(prefix, &environment)),
        Form::Foreign | Form::Malformed | Form::Assertion => text.get(..SHOWN).map(str::to_owned),
    };
    (beginning, Some(token.last_four().to_owned()))
}

/// The estimate that the head of this file describes, rounded down.
fn entropy_bits(token: &str) -> u32 {
    let hexadecimal = |text: &str| {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        text.bytes().all(digit)
            || text.to_ascii_lowercase().bytes().all(digit) && !text.bytes().any(|b| b.is_ascii_lowercase())
    };
    let plain: String = token.chars().filter(|&c| c != '-').collect();
    let counted = if hexadecimal(&plain) { plain.as_str() } else { token };
    let any = |is: fn(&u8) -> bool| counted.bytes().any(|byte| is(&byte));
    let (lower, upper, digit) = (any(u8::is_ascii_lowercase), any(u8::is_ascii_uppercase), any(u8::is_ascii_digit));
    let other = counted.bytes().any(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_'));
    let dash = counted.bytes().any(|byte| matches!(byte, b'-' | b'_'));
    let alphabet: u32 = match (lower || upper, lower && upper, digit) {
        _ if other => 94,
        _ if dash => 64,
        (false, _, _) => 10,
        (true, _, _) if hexadecimal(counted) => 16,
        (true, false, false) => 26,
        (true, false, true) => 36,
        (true, true, false) => 52,
        (true, true, true) => 62,
    };
    let length = f64::from(u32::try_from(counted.len()).unwrap_or(u32::MAX));
    let distinct: BTreeSet<u8> = counted.bytes().collect();
    let distinct = f64::from(u32::try_from(distinct.len()).unwrap_or(u32::MAX));
    let size = f64::from(alphabet);
    let expected = size * (1.0 - (1.0 - 1.0 / size).powf(length));
    let bits = length * if distinct * 2.0 < expected { distinct.max(1.0) } else { size }.log2();
    // Between 0 and 4096 * log2(94).
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number that is not negative")]
    let bits = bits as u32;
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_estimated_by_the_rule() {
        for (token, bits) in [
            ("", 0),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 0),
            ("1234567890", 33),
            ("hunter2", 36),
            ("0123456789abcdef0123456789abcdef", 128),
            ("0123456789ABCDEF0123456789ABCDEF", 128),
            ("550e8400-e29b-41d4-a716-446655440000", 128),
            ("abcabcabcabcabcabcabcabcabcabcabcabcabc", 61),
            ("x7Kq9ZpW3mTf8LrB2vNc5J", 130),
            ("correct-horse-battery-staple", 168),
        ] {
            assert_eq!(entropy_bits(token), bits, "{token}");
        }
    }
}
