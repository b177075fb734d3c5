//! Where a request carries its token, and that it carries exactly one.
//!
//! A credential is looked for only where the route says: the same field elsewhere is neither read
//! nor stripped.

use http::header::{AUTHORIZATION, Entry, HeaderMap, HeaderName, HeaderValue};

use crate::key::TOKEN_BYTES_MAX;
use crate::wire::{is_same_field, remove_spellings};

/// A place where a credential may be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CredentialSource {
    /// `Authorization: Bearer …` (RFC 6750, 2.1).
    Bearer,
    /// The whole value of this field.
    Header(HeaderName),
}

impl CredentialSource {
    /// The field that is read, as `Vary` names it.
    #[must_use]
    pub fn field(&self) -> &HeaderName {
        static BEARER_FIELD: HeaderName = AUTHORIZATION;
        match self {
            Self::Bearer => &BEARER_FIELD,
            Self::Header(name) => name,
        }
    }
}

/// What a request carries where its route looks for a credential.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// Nothing, or only another scheme in `Authorization`.
    None,
    /// One token: 1 to 4,096 bytes of `!` to `~`.
    One(&'a [u8]),
    /// More than one credential, or one field twice, also in another spelling. Which one would count is anybody's
    /// guess.
    Repeated,
    /// One credential that can be no token.
    Malformed,
}

/// Never shows the token.
impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::One(_) => "One(..)",
            Self::Repeated => "Repeated",
            Self::Malformed => "Malformed",
        })
    }
}

/// The one credential that `headers` carry in `sources`.
#[must_use]
pub fn find_credential<'a>(headers: &'a HeaderMap, sources: &[CredentialSource]) -> Credential<'a> {
    let mut found = Credential::None;
    for source in sources {
        let mut values = headers.get_all(source.field()).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Credential::Repeated;
        }
        let token = match source {
            CredentialSource::Bearer => match bearer(value.as_bytes()) {
                Some(token) => token,
                None => continue,
            },
            CredentialSource::Header(_) => value.as_bytes(),
        };
        if found != Credential::None {
            return Credential::Repeated;
        }
        found = if is_token(token) { Credential::One(token) } else { Credential::Malformed };
    }
    let is_written_so = |source: &&CredentialSource| **source != CredentialSource::Bearer;
    if found != Credential::None
        && sources.iter().filter(is_written_so).any(|source| is_misspelt(headers, source.field()))
    {
        return Credential::Repeated;
    }
    found
}

/// Whether the field is there in another spelling, which a service behind us may read in its place.
fn is_misspelt(headers: &HeaderMap, field: &HeaderName) -> bool {
    let has_spellings = field.as_str().bytes().any(|byte| !byte.is_ascii_alphanumeric());
    has_spellings && headers.keys().any(|name| name != field && is_same_field(name, field))
}

/// Takes the credential out of `headers`, whatever it is: every field of `sources` in all its spellings, except
/// an `Authorization` of another scheme, which is no credential.
pub fn strip_credential(headers: &mut HeaderMap, sources: &[CredentialSource]) {
    for source in sources {
        match source {
            CredentialSource::Header(name) => remove_spellings(headers, name),
            CredentialSource::Bearer => strip_bearer(headers),
        }
    }
}

/// Marks every field of `sources` as one that is not to be shown, nor kept in the tables by which HTTP/2
/// compresses fields (RFC 7541, 7.1.3): for a credential that is forwarded.
pub fn mark_credential(headers: &mut HeaderMap, sources: &[CredentialSource]) {
    for source in sources {
        if let Entry::Occupied(mut values) = headers.entry(source.field().clone()) {
            values.iter_mut().for_each(|value| value.set_sensitive(true));
        }
    }
}

fn strip_bearer(headers: &mut HeaderMap) {
    let is_bearer = |value: &HeaderValue| bearer(value.as_bytes()).is_some();
    match headers.entry(AUTHORIZATION) {
        Entry::Vacant(_) => return,
        Entry::Occupied(field) if field.iter().all(is_bearer) => {
            field.remove();
            return;
        }
        Entry::Occupied(_) => {}
    }
    let (mut found, mut others) = (false, Vec::new());
    for value in headers.get_all(AUTHORIZATION) {
        if is_bearer(value) {
            found = true;
        } else {
            others.push(value.clone());
        }
    }
    if !found {
        return;
    }
    headers.remove(AUTHORIZATION);
    for value in others {
        headers.append(AUTHORIZATION, value);
    }
}

/// What stands behind the scheme `Bearer` in any case, or nothing where the scheme is another.
/// A bare `Bearer`, and one followed by a tab, count as the scheme: then the token is malformed.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(b"bearer".len())?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    match rest.first() {
        None | Some(b'\t') => Some(rest),
        Some(b' ') => Some(rest.trim_ascii()),
        Some(_) => None,
    }
}

fn is_token(text: &[u8]) -> bool {
    // To the end in any case, so that many bytes are looked at in one instruction.
    let is_plain = text.iter().fold(true, |so_far, byte| so_far & byte.is_ascii_graphic());
    is_plain && (1..=TOKEN_BYTES_MAX).contains(&text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEARER: &[CredentialSource] = &[CredentialSource::Bearer];

    fn both() -> Vec<CredentialSource> {
        vec![CredentialSource::Bearer, CredentialSource::Header(HeaderName::from_static("x-api-key"))]
    }

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().expect("a field name");
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a field value"));
        }
        headers
    }

    #[test]
    fn a_credential_that_is_forwarded_is_marked_as_one() {
        let mut fields = headers(&[("authorization", "Bearer t"), ("x-api-key", "u"), ("accept", "v")]);
        mark_credential(&mut fields, &both());
        let marked = fields.iter().filter(|(_, value)| value.is_sensitive()).map(|(name, _)| name.as_str());
        assert_eq!(marked.collect::<Vec<_>>(), ["authorization", "x-api-key"]);
        assert!(!format!("{fields:?}").contains("Bearer t"));
    }

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        for value in ["Bearer t", "bearer t", "BEARER t", "bEARER   t", "Bearer t "] {
            assert_eq!(
                find_credential(&headers(&[("authorization", value)]), BEARER),
                Credential::One(b"t"),
                "{value:?}"
            );
        }
    }

    #[test]
    fn another_scheme_is_no_credential() {
        for value in ["Basic dTpw", "Bearertoken", "", "t", "Digest x", "Bear", "Token Bearer t"] {
            assert_eq!(find_credential(&headers(&[("authorization", value)]), BEARER), Credential::None, "{value:?}");
        }
    }

    #[test]
    fn what_is_no_token_is_malformed() {
        let long = format!("Bearer {}", "t".repeat(4097));
        for value in ["Bearer", "Bearer ", "Bearer a b", "Bearer\tt", "Bearer a\tb", "Bearer tök", &long] {
            assert_eq!(
                find_credential(&headers(&[("authorization", value)]), BEARER),
                Credential::Malformed,
                "{value:?}"
            );
        }
        let longest = format!("Bearer {}", "t".repeat(4096));
        assert!(matches!(find_credential(&headers(&[("authorization", &longest)]), BEARER), Credential::One(_)));
        assert_eq!(find_credential(&headers(&[("x-api-key", "")]), &both()), Credential::Malformed);
    }

    #[test]
    fn exactly_one_credential_is_allowed() {
        let twice = headers(&[("authorization", "Bearer t"), ("authorization", "Bearer t")]);
        assert_eq!(find_credential(&twice, BEARER), Credential::Repeated);
        let mixed = headers(&[("authorization", "Basic x"), ("authorization", "Bearer t")]);
        assert_eq!(find_credential(&mixed, BEARER), Credential::Repeated);
        let places = headers(&[("authorization", "Bearer t"), ("x-api-key", "t")]);
        assert_eq!(find_credential(&places, &both()), Credential::Repeated);
        let malformed = headers(&[("authorization", "Bearer"), ("x-api-key", "t")]);
        assert_eq!(find_credential(&malformed, &both()), Credential::Repeated);
        let field = headers(&[("x-api-key", "t"), ("x-api-key", "t")]);
        assert_eq!(find_credential(&field, &both()), Credential::Repeated);
        let other_scheme = headers(&[("authorization", "Basic x"), ("x-api-key", "t")]);
        assert_eq!(find_credential(&other_scheme, &both()), Credential::One(b"t"));
    }

    #[test]
    fn a_field_that_a_service_may_take_for_the_credential_is_a_second_one_and_never_arrives() {
        let spellings =
            ["x-api-key", "X-API-KEY", "X-Api-Key", "x_api_key", "x.api.key", "X_API_KEY", "x!api!key", "x~api-key"];
        for spelling in spellings {
            for (name, value) in [("x-api-key", "t"), ("authorization", "Bearer t")] {
                let twice = headers(&[(name, value), (spelling, "u")]);
                assert_eq!(find_credential(&twice, &both()), Credential::Repeated, "{name}, {spelling}");
            }
            let mut alone = headers(&[(spelling, "u"), ("accept", "v")]);
            let found =
                if spelling.eq_ignore_ascii_case("x-api-key") { Credential::One(b"u") } else { Credential::None };
            assert_eq!(find_credential(&alone, &both()), found, "{spelling}");
            assert_eq!(find_credential(&alone, BEARER), Credential::None);
            strip_credential(&mut alone, &both());
            assert_eq!(alone, headers(&[("accept", "v")]), "{spelling}");
        }
    }

    #[test]
    fn a_credential_is_read_and_stripped_only_where_the_route_says() {
        let mut request = headers(&[("authorization", "Bearer t"), ("x-api-key", "k")]);
        assert_eq!(find_credential(&request, BEARER), Credential::One(b"t"));
        strip_credential(&mut request, BEARER);
        assert_eq!(request, headers(&[("x-api-key", "k")]));
        strip_credential(&mut request, &both());
        assert!(request.is_empty());
    }

    #[test]
    fn another_scheme_is_not_stripped() {
        let mut request = headers(&[("authorization", "Basic x"), ("authorization", "bearer t")]);
        strip_credential(&mut request, BEARER);
        assert_eq!(request, headers(&[("authorization", "Basic x")]));
        strip_credential(&mut request, BEARER);
        assert_eq!(request, headers(&[("authorization", "Basic x")]));
    }

    #[test]
    fn a_token_is_not_shown() {
        assert_eq!(format!("{:?}", Credential::One(b"secret")), "One(..)");
    }
}
