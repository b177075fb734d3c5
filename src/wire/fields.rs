//! Which fields of a message may pass.
//!
//! The order matters and is kept here: first hop-by-hop fields and whatever `Connection` names, then
//! the other side's copies of fields that carry identity or the way a request came. Only after both
//! may a caller set its own. Names are compared *folded*: a server that turns fields into
//! environment variables cannot tell `keyward-user` from `Keyward_User` or `keyward.user` (RFC 3875
//! names the dash, lighttpd folds whatever is no letter or digit), so neither do we.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Which of the fields that the gateway asks after a message has, told in one pass over its names. To ask a map for
/// each is to hash each name, byte by byte, and of the thirty that are asked after four are there.
///
/// Good for as long as nothing is added to the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen(u32);

impl Seen {
    /// `Authorization`.
    pub const AUTHORIZATION: Self = Self(1);
    /// `Cache-Control`.
    pub const CACHE_CONTROL: Self = Self(1 << 1);
    /// `Connection`.
    pub const CONNECTION: Self = Self(1 << 2);
    /// `Content-Length`.
    pub const CONTENT_LENGTH: Self = Self(1 << 3);
    /// `Content-Type`.
    pub const CONTENT_TYPE: Self = Self(1 << 4);
    /// `Expect`.
    pub const EXPECT: Self = Self(1 << 5);
    /// `Host`.
    pub const HOST: Self = Self(1 << 6);
    /// `Traceparent` or `Tracestate`.
    pub const TRACE: Self = Self(1 << 7);
    /// `Transfer-Encoding`.
    pub const TRANSFER_ENCODING: Self = Self(1 << 8);
    /// `Upgrade`.
    pub const UPGRADE: Self = Self(1 << 9);
    /// `Vary`.
    pub const VARY: Self = Self(1 << 10);
    /// `X-Forwarded-For`, `-Host` or `-Proto`.
    pub const FORWARDED: Self = Self(1 << 11);
    /// `X-Request-Id`.
    pub const REQUEST_ID: Self = Self(1 << 12);
    /// Whatever may not pass as it is: see [`strip_request_fields`] and [`strip_response_fields`].
    pub const JUDGED: Self = Self(1 << 13);
    /// One field twice.
    pub const REPEATED: Self = Self(1 << 14);

    /// Those of `headers`.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let repeated = if headers.len() > headers.keys_len() { Self::REPEATED } else { Self::default() };
        headers.keys().fold(repeated, |seen, name| seen.and(Self::by_name(name)))
    }

    /// Whether one of `these` is there.
    #[must_use]
    pub const fn has(self, these: Self) -> bool {
        self.0 & these.0 != 0
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn by_name(name: &HeaderName) -> Self {
        const NOTHING: Seen = Seen(0);
        let name = name.as_str().as_bytes();
        match name.len() {
            3 if name == b"via" => NOTHING,
            4 if name == b"host" => Self::HOST,
            4 if name == b"vary" => Self::VARY,
            4 if name == b"date" => NOTHING,
            6 if name == b"accept" || name == b"cookie" || name == b"server" => NOTHING,
            6 if name == b"expect" => Self::EXPECT,
            7 if name == b"upgrade" => Self::UPGRADE.and(Self::JUDGED),
            10 if name == b"user-agent" => NOTHING,
            10 if name == b"connection" => Self::CONNECTION.and(Self::JUDGED),
            10 if name == b"tracestate" => Self::TRACE,
            11 if name == b"traceparent" => Self::TRACE,
            12 if name == b"content-type" => Self::CONTENT_TYPE,
            12 if name == b"x-request-id" => Self::REQUEST_ID,
            13 if name == b"authorization" => Self::AUTHORIZATION,
            13 if name == b"cache-control" => Self::CACHE_CONTROL,
            14 if name == b"content-length" => Self::CONTENT_LENGTH,
            15 if name == b"x-forwarded-for" => Self::FORWARDED.and(Self::JUDGED),
            16 if name == b"content-encoding" => NOTHING,
            16 if name == b"x-forwarded-host" => Self::FORWARDED.and(Self::JUDGED),
            17 if name == b"x-forwarded-proto" => Self::FORWARDED.and(Self::JUDGED),
            17 if name == b"transfer-encoding" => Self::TRANSFER_ENCODING.and(Self::JUDGED),
            _ if class(name) == Class::Plain => NOTHING,
            _ => Self::JUDGED,
        }
    }
}

/// A client named a field in `Connection` that it must not be able to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Connection names a field that is not the client's to remove")]
pub struct ForbiddenNomination;

/// What a request may carry on towards an upstream beyond the plain fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Upstreamward<'a> {
    /// The peer is trusted: its `Forwarded`, `X-Forwarded-*` and `X-Real-IP` stay.
    pub keep_forwarding: bool,
    /// The override fields that the route opted in to by name.
    pub keep_overrides: &'a [HeaderName],
    /// The request is gRPC, whose `Trailer` field stays.
    pub keep_trailer: bool,
}

/// What a field is, by its folded name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Not ours to judge.
    Plain,
    /// Meant for this hop alone.
    HopByHop,
    /// Announces trailers.
    Trailer,
    /// Says who the caller is: set by us or by nobody.
    Identity,
    /// Says by which way the request came.
    Forwarding,
    /// Set by us on every request.
    Ours,
    /// Changes the method or target behind the gateway's back.
    Override,
    /// Says where a body ends, and of what kind it is.
    Framing,
}

const OVERRIDES: [&str; 6] = [
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-method",
];
const OURS: [&str; 3] = ["via", "x-request-id", "traceparent"];
const FRAMING: [&str; 3] = ["content-length", "content-type", "content-encoding"];
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    // No field of HTTP: a CGI program would read it as HTTP_PROXY (CVE-2016-5385).
    "proxy",
];
/// What no client may have removed by naming it in `Connection`, besides identity, forwarding and
/// our own fields.
const NEVER_NOMINATED: [&str; 7] =
    ["authorization", "host", "content-length", "content-type", "content-encoding", "cookie", "tracestate"];
/// What stands in no trailer (RFC 9110, 6.5.1), besides all that is not plain: a server that merges
/// trailers into the head would take it for said there.
const NEVER_TRAILERS: [&str; 12] = [
    "authorization",
    "cache-control",
    "content-range",
    "cookie",
    "expect",
    "host",
    "location",
    "max-forwards",
    "range",
    "set-cookie",
    "tracestate",
    "www-authenticate",
];

const fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// Whether `name` equals the folded `wanted`.
fn folds_to(name: &[u8], wanted: &str) -> bool {
    name.len() == wanted.len() && name.iter().zip(wanted.as_bytes()).all(|(have, want)| fold(*have) == *want)
}

/// Whether `name` begins with the folded `wanted`.
fn folds_to_prefix(name: &[u8], wanted: &str) -> bool {
    name.len() >= wanted.len() && name.iter().zip(wanted.as_bytes()).all(|(have, want)| fold(*have) == *want)
}

fn class(name: &[u8]) -> Class {
    let any = |names: &[&str]| names.iter().any(|wanted| folds_to(name, wanted));
    // Most fields are told apart by their first letter alone.
    match name.first().copied().map(fold) {
        Some(b'x') => {
            if folds_to_prefix(name, "x-keyward-") {
                Class::Identity
            } else if folds_to_prefix(name, "x-forwarded-") || any(&["x-real-ip", "x-forwarded"]) {
                Class::Forwarding
            } else if any(&OURS) {
                Class::Ours
            } else if any(&OVERRIDES) {
                Class::Override
            } else {
                Class::Plain
            }
        }
        Some(b'k') if folds_to_prefix(name, "keyward-") => Class::Identity,
        Some(b'f') if folds_to(name, "forwarded") => Class::Forwarding,
        Some(b'v') if any(&OURS) => Class::Ours,
        Some(b't') if folds_to(name, "trailer") => Class::Trailer,
        Some(b't') if any(&OURS) => Class::Ours,
        Some(b'c') if any(&FRAMING) => Class::Framing,
        Some(b'c' | b'h' | b'k' | b'p' | b't' | b'u') if any(&HOP_BY_HOP) => Class::HopByHop,
        _ => Class::Plain,
    }
}

/// Whether a field is the gateway's own to decide about, in any spelling: hop-by-hop, framing, host,
/// identity, the way of the request, and what stands in for method or target.
#[must_use]
pub fn is_decided_here(name: &HeaderName) -> bool {
    const KEPT: [&str; 4] = ["host", "content-length", "expect", "tracestate"];
    let text = name.as_str().as_bytes();
    let kept = KEPT.iter().any(|kept| folds_to(text, kept));
    match class(text) {
        Class::Plain => kept,
        // A type or an encoding may be set right; in another spelling it would stand beside the true one.
        Class::Framing => kept || !is_canonical(name),
        Class::HopByHop | Class::Trailer | Class::Identity | Class::Forwarding | Class::Ours | Class::Override => true,
    }
}

/// Whether some server reads two names as the same field.
#[must_use]
pub fn is_same_field(name: &HeaderName, wanted: &HeaderName) -> bool {
    let (name, wanted) = (name.as_str().as_bytes(), wanted.as_str().as_bytes());
    name.len() == wanted.len() && name.iter().zip(wanted).all(|(have, want)| fold(*have) == fold(*want))
}

/// Removes a field in all spellings that some server reads as the same one.
pub fn remove_spellings(headers: &mut HeaderMap, wanted: &HeaderName) {
    remove_where(headers, |name| is_same_field(name, wanted));
}

/// Whether a field is spelt as its standard spells it, and not only by folding.
fn is_canonical(name: &HeaderName) -> bool {
    name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Removes from a request all that must not reach an upstream: hop-by-hop fields, the fields that
/// `Connection` names, copies of identity fields in any spelling, and (unless said otherwise)
/// forwarding and override fields.
///
/// # Errors
/// When `Connection` names a field that is not the client's to remove.
pub fn strip_request_fields(
    headers: &mut HeaderMap,
    seen: Seen,
    keep: Upstreamward<'_>,
) -> Result<(), ForbiddenNomination> {
    debug_assert_eq!(seen, Seen::of(headers), "what was seen is what there is");
    if seen.has(Seen::JUDGED) { strip_request(headers, keep) } else { Ok(()) }
}

fn strip_request(headers: &mut HeaderMap, keep: Upstreamward<'_>) -> Result<(), ForbiddenNomination> {
    let nominated = nominated(headers)?;
    remove_where(headers, |name| match class(name.as_str().as_bytes()) {
        Class::Plain => false,
        Class::HopByHop | Class::Identity => true,
        Class::Trailer => !(keep.keep_trailer && is_canonical(name)),
        Class::Forwarding => !(keep.keep_forwarding && is_canonical(name)),
        // Via, the request id and the trace are replaced by the caller, which reads the old ones
        // first; a misspelt copy has no use but to deceive.
        Class::Ours | Class::Framing => !is_canonical(name),
        Class::Override => !keep.keep_overrides.contains(name),
    });
    for name in nominated {
        headers.remove(name);
    }
    Ok(())
}

/// Removes from an upstream's response all that must not reach a client: hop-by-hop fields, the
/// fields that `Connection` names, and identity fields in any spelling.
pub fn strip_response_fields(headers: &mut HeaderMap, seen: Seen, keep_trailer: bool) {
    debug_assert_eq!(seen, Seen::of(headers), "what was seen is what there is");
    if seen.has(Seen::JUDGED) {
        strip_response(headers, keep_trailer);
    }
}

fn strip_response(headers: &mut HeaderMap, keep_trailer: bool) {
    let nominated: Vec<HeaderName> = options(headers)
        .filter(|option| !["content-length", "content-type", "set-cookie"].iter().any(|name| folds_to(option, name)))
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .collect();
    remove_where(headers, |name| match class(name.as_str().as_bytes()) {
        Class::Plain | Class::Forwarding | Class::Ours | Class::Override | Class::Framing => false,
        Class::HopByHop | Class::Identity => true,
        Class::Trailer => !keep_trailer,
    });
    for name in nominated {
        headers.remove(name);
    }
}

/// Removes from trailers, in either direction, what has a meaning only in a head: identity, framing,
/// credentials, the way a request came. `grpc-status` and its like stay.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    remove_where(trailers, |name| match class(name.as_str().as_bytes()) {
        Class::Plain => NEVER_TRAILERS.iter().any(|never| folds_to(name.as_str().as_bytes(), never)),
        Class::HopByHop
        | Class::Trailer
        | Class::Identity
        | Class::Forwarding
        | Class::Ours
        | Class::Override
        | Class::Framing => true,
    });
}

/// Takes spaces and tabs off both ends of every value. HTTP/2 forbids them there (RFC 9113, 8.2.1)
/// and lets them through; on HTTP/1 they mean nothing, so what was decided on them would be decided
/// on another value than the one an upstream reads.
pub fn trim_values(headers: &mut HeaderMap) {
    let is_padded = |value: &HeaderValue| value.as_bytes().trim_ascii().len() < value.len();
    if !headers.values().any(is_padded) {
        return;
    }
    for value in headers.values_mut().filter(|value| is_padded(value)) {
        // What remains of a valid value is one.
        let trimmed = HeaderValue::from_bytes(value.as_bytes().trim_ascii());
        *value = trimmed.unwrap_or_else(|_impossible| HeaderValue::from_static(""));
    }
}

/// The options of all `Connection` fields, trimmed.
fn options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.is_empty())
}

fn nominated(headers: &HeaderMap) -> Result<Vec<HeaderName>, ForbiddenNomination> {
    let mut names = Vec::new();
    for option in options(headers) {
        match class(option) {
            Class::Identity | Class::Forwarding | Class::Ours => return Err(ForbiddenNomination),
            Class::Plain | Class::Framing if NEVER_NOMINATED.iter().any(|name| folds_to(option, name)) => {
                return Err(ForbiddenNomination);
            }
            // `close` and `keep-alive` are options rather than fields; removing fields of that name
            // harms nobody.
            Class::Plain | Class::Framing | Class::Override | Class::HopByHop | Class::Trailer => {
                // A name that is no field name cannot name a field.
                names.extend(HeaderName::from_bytes(option));
            }
        }
    }
    Ok(names)
}

fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn strip_request_fields(headers: &mut HeaderMap, keep: Upstreamward<'_>) -> Result<(), ForbiddenNomination> {
        let seen = Seen::of(headers);
        super::strip_request_fields(headers, seen, keep)
    }

    fn strip_response_fields(headers: &mut HeaderMap, keep_trailer: bool) {
        let seen = Seen::of(headers);
        super::strip_response_fields(headers, seen, keep_trailer);
    }

    fn of(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name in a test");
            headers.append(name, HeaderValue::from_str(value).expect("a value in a test"));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    /// A name in eight spellings that some server behind us reads as the same field.
    fn spellings(name: &str) -> [String; 8] {
        let capital = |part: &str| {
            let (first, rest) = part.split_at(1);
            first.to_uppercase() + rest
        };
        let title = name.split('-').map(capital).collect::<Vec<_>>();
        [
            name.to_owned(),
            name.to_uppercase(),
            title.join("-"),
            name.replace('-', "_"),
            name.replace('-', "."),
            title.join("_").to_uppercase(),
            name.replace('-', "!"),
            name.replacen('-', "~", 1),
        ]
    }

    #[test]
    fn what_is_seen_is_what_a_map_is_asked_for() {
        let asked = [
            ("authorization", Seen::AUTHORIZATION),
            ("cache-control", Seen::CACHE_CONTROL),
            ("connection", Seen::CONNECTION),
            ("content-length", Seen::CONTENT_LENGTH),
            ("content-type", Seen::CONTENT_TYPE),
            ("expect", Seen::EXPECT),
            ("host", Seen::HOST),
            ("traceparent", Seen::TRACE),
            ("tracestate", Seen::TRACE),
            ("transfer-encoding", Seen::TRANSFER_ENCODING),
            ("upgrade", Seen::UPGRADE),
            ("vary", Seen::VARY),
            ("x-forwarded-for", Seen::FORWARDED),
            ("x-forwarded-host", Seen::FORWARDED),
            ("x-forwarded-proto", Seen::FORWARDED),
            ("x-request-id", Seen::REQUEST_ID),
        ];
        for (name, bit) in asked {
            for spelling in spellings(name) {
                let headers = of(&[("accept", "*/*"), (&spelling, "1")]);
                let seen = Seen::of(&headers);
                assert_eq!(seen.has(bit), headers.contains_key(name), "{spelling}");
                let others = asked.iter().filter(|(_, other)| *other != bit);
                assert!(others.clone().all(|(_, other)| !seen.has(*other)), "{spelling}");
                assert!(!seen.has(Seen::REPEATED));
                assert!(Seen::of(&of(&[("a", "1"), (&spelling, "1"), (&spelling, "1")])).has(Seen::REPEATED));
            }
        }
    }

    #[test]
    fn whatever_would_be_taken_off_is_seen_to_be_judged() {
        let names = IDENTITY.iter().chain(&FORWARDING).chain(&HOP_BY_HOP).chain(&OVERRIDES).chain(&["trailer"]);
        for name in names.chain(&OURS).chain(&FRAMING).chain(&["accept", "cookie", "date", "server", "user-agent"]) {
            for spelling in spellings(name) {
                let headers = of(&[("accept", "*/*"), (&spelling, "1")]);
                let (mut asked, mut answered) = (headers.clone(), headers.clone());
                strip_request(&mut asked, Upstreamward::default()).expect("no nomination");
                strip_response(&mut answered, false);
                if asked != headers || answered != headers {
                    assert!(Seen::of(&headers).has(Seen::JUDGED), "{spelling}");
                }
            }
        }
    }

    const IDENTITY: [&str; 8] = [
        "keyward-key-id",
        "keyward-project",
        "keyward-environment",
        "keyward-user",
        "keyward-flags",
        "keyward-key-status",
        "keyward-anything-at-all",
        "x-keyward-user",
    ];
    const FORWARDING: [&str; 5] =
        ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded"];

    #[test]
    fn an_identity_field_is_dropped_in_every_spelling_and_direction() {
        for name in IDENTITY {
            for spelling in spellings(name) {
                let mut headers = of(&[(&spelling, "root"), ("accept", "*/*")]);
                let keep = Upstreamward { keep_forwarding: true, keep_overrides: &[], keep_trailer: true };
                assert_eq!(strip_request_fields(&mut headers, keep), Ok(()));
                assert_eq!(names(&headers), ["accept"], "{spelling}");
                let mut headers = of(&[(&spelling, "root"), ("etag", "1")]);
                strip_response_fields(&mut headers, true);
                assert_eq!(names(&headers), ["etag"], "{spelling}");
            }
        }
    }

    #[test]
    fn a_forwarding_field_passes_only_from_a_trusted_peer_and_only_well_spelt() {
        for name in FORWARDING {
            for spelling in spellings(name) {
                let mut headers = of(&[(&spelling, "1.2.3.4")]);
                strip_request_fields(&mut headers, Upstreamward::default()).expect("no nomination");
                assert!(headers.is_empty(), "{spelling}");
                let mut headers = of(&[(&spelling, "1.2.3.4")]);
                let keep = Upstreamward { keep_forwarding: true, ..Upstreamward::default() };
                strip_request_fields(&mut headers, keep).expect("no nomination");
                assert_eq!(headers.contains_key(name), spelling.eq_ignore_ascii_case(name), "{spelling}");
                assert_eq!(headers.len(), usize::from(spelling.eq_ignore_ascii_case(name)), "{spelling}");
            }
        }
    }

    #[test]
    fn a_client_cannot_have_our_fields_removed_by_naming_them() {
        let ours = ["authorization", "host", "content-length", "via", "x-request-id", "traceparent"];
        for name in IDENTITY.iter().chain(&FORWARDING).chain(&ours) {
            for spelling in spellings(name) {
                for list in [spelling.clone(), format!("close, {spelling}"), format!("{spelling} ,x-a")] {
                    let mut headers = of(&[("connection", &list), ("accept", "*/*")]);
                    assert_eq!(
                        strip_request_fields(&mut headers, Upstreamward::default()),
                        Err(ForbiddenNomination),
                        "{list}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_field_that_connection_names_goes_no_further() {
        let mut headers = of(&[("connection", "close, X-User"), ("x-user", "1"), ("accept", "*/*")]);
        strip_request_fields(&mut headers, Upstreamward::default()).expect("a client's own field");
        assert_eq!(names(&headers), ["accept"]);
        let mut headers =
            of(&[("connection", "x-hop"), ("connection", "x-hip"), ("x-hop", "1"), ("x-hip", "1"), ("etag", "1")]);
        strip_response_fields(&mut headers, false);
        assert_eq!(names(&headers), ["etag"]);
    }

    #[test]
    fn hop_by_hop_fields_pass_in_neither_direction() {
        for name in HOP_BY_HOP.iter().chain(&["trailer"]) {
            let mut headers = of(&[(name, "x-y"), ("accept", "*/*")]);
            strip_request_fields(&mut headers, Upstreamward::default()).expect("no forbidden nomination");
            assert_eq!(names(&headers), ["accept"], "{name}");
            let mut headers = of(&[(name, "x-y"), ("etag", "1")]);
            strip_response_fields(&mut headers, false);
            assert_eq!(names(&headers), ["etag"], "{name}");
        }
    }

    #[test]
    fn overrides_are_dropped_in_every_spelling_unless_the_route_opted_in() {
        for name in OVERRIDES {
            for spelling in spellings(name) {
                let mut headers = of(&[(&spelling, "/admin")]);
                strip_request_fields(&mut headers, Upstreamward::default()).expect("no nomination");
                assert!(headers.is_empty(), "{spelling}");
            }
            let mut headers = of(&[(name, "/admin")]);
            let named = [HeaderName::from_static(name)];
            let keep = Upstreamward { keep_overrides: &named, ..Upstreamward::default() };
            strip_request_fields(&mut headers, keep).expect("no nomination");
            assert!(headers.contains_key(name));
        }
    }

    #[test]
    fn a_prefix_with_nothing_after_it_is_ours_too() {
        for name in ["keyward-", "keyward_", "x-keyward!", "x-forwarded-", "x-forwarded*"] {
            let mut headers = of(&[(name, "root")]);
            strip_request_fields(&mut headers, Upstreamward::default()).expect("no nomination");
            assert!(headers.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_misspelt_length_or_type_goes_no_further_and_a_well_spelt_one_does() {
        for name in FRAMING {
            for spelling in spellings(name) {
                let mut headers = of(&[(&spelling, "1")]);
                strip_request_fields(&mut headers, Upstreamward::default()).expect("no nomination");
                assert_eq!(headers.len(), usize::from(spelling.eq_ignore_ascii_case(name)), "{spelling}");
            }
        }
    }

    #[test]
    fn a_trailer_cannot_say_what_only_a_head_may() {
        let plain = ["grpc-status", "grpc-message", "x-checksum", "server-timing"];
        let forged =
            IDENTITY.iter().chain(&FORWARDING).chain(&OVERRIDES).chain(&OURS).chain(&FRAMING).chain(&HOP_BY_HOP);
        for name in forged.chain(&NEVER_TRAILERS) {
            for spelling in spellings(name) {
                let mut trailers = of(&[(&spelling, "1")]);
                plain.iter().for_each(|plain| drop(trailers.insert(*plain, HeaderValue::from_static("0"))));
                strip_trailers(&mut trailers);
                assert_eq!(trailers.len(), plain.len(), "{spelling}");
            }
        }
    }

    #[test]
    fn values_lose_the_spaces_around_them() {
        let mut headers = of(&[("a", " b\t"), ("a", "c d"), ("e", " "), ("f", "g")]);
        trim_values(&mut headers);
        assert_eq!(headers, of(&[("a", "b"), ("a", "c d"), ("e", ""), ("f", "g")]));
    }

    #[test]
    fn a_route_may_say_nothing_of_what_is_decided_here() {
        let is_kept = |name: &str| is_decided_here(&HeaderName::from_bytes(name.as_bytes()).expect("a name"));
        let own = ["host", "content-length", "expect", "tracestate", "content_type"];
        for name in IDENTITY.iter().chain(&FORWARDING).chain(&OVERRIDES).chain(&HOP_BY_HOP).chain(&OURS).chain(&own) {
            assert!(spellings(name).iter().all(|spelling| name.contains('_') || is_kept(spelling)), "{name}");
            assert!(is_kept(name), "{name}");
        }
        for name in ["authorization", "content-type", "content-encoding", "x-tenant", "cache-control", "cookie"] {
            assert!(!is_kept(name), "{name}");
        }
    }

    #[test]
    fn plain_fields_pass() {
        let plain = ["accept", "x-api-key", "x-forward", "keywords", "x-key", "te2", "content-type", "cookie", "range"];
        for name in plain {
            let mut headers = of(&[(name, "1")]);
            strip_request_fields(&mut headers, Upstreamward::default()).expect("no nomination");
            assert!(headers.contains_key(name), "{name}");
        }
    }
}
