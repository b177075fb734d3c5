//! Fields on their way through: what is taken off, and only then what is put on.
//!
//! The order is the point. First hop-by-hop fields and what `Connection` names, then the client's
//! copies of identity and forwarding fields, and last our own: nothing a client sends can take away
//! or stand in for what the gateway says of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Version;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    TE, UPGRADE, VARY, VIA,
};
use http::uri::Authority;

use crate::clock::Timestamp;
use crate::key::{FlagSet, Record, RecordFlags, Status};
use crate::policy::{
    Code, CredentialSource, FieldRules, Forward, HostForward, Permit, PermitKind, mark_credential, strip_credential,
};
use crate::wire::{
    RequestId, TraceParent, Upstreamward, remove_spellings, strip_request_fields, strip_response_fields,
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
const KEY_ID: HeaderName = HeaderName::from_static("keyward-key-id");
const PROJECT: HeaderName = HeaderName::from_static("keyward-project");
const ENVIRONMENT: HeaderName = HeaderName::from_static("keyward-environment");
const USER: HeaderName = HeaderName::from_static("keyward-user");
const FLAGS: HeaderName = HeaderName::from_static("keyward-flags");
const KEY_STATUS: HeaderName = HeaderName::from_static("keyward-key-status");
const KEY_EXPIRES: HeaderName = HeaderName::from_static("keyward-key-expires");
const SHADOW: HeaderName = HeaderName::from_static("keyward-shadow");
const ASSERTION: HeaderName = HeaderName::from_static("keyward-assertion");
/// The most bytes of `keyward-flags`: a key with more is told of in part, for a head that an
/// upstream refuses helps nobody.
const FLAGS_BYTES_MAX: usize = 8 * 1024;

/// What of a request, its connection and its route decides how its fields are rewritten.
#[derive(Debug)]
pub(super) struct Passage<'a> {
    /// The peer's address as a field's value.
    pub(super) peer: HeaderValue,
    /// Whether the peer's own forwarding fields are believed.
    pub(super) trusted: bool,
    /// Whether the connection is TLS.
    pub(super) tls: bool,
    /// The version of the request.
    pub(super) version: Version,
    /// Host and port as the client named them.
    pub(super) authority: Option<&'a Authority>,
    /// Host and port of the upstream, where that can stand in a field.
    pub(super) target: Option<&'a HeaderValue>,
    /// The id of the request.
    pub(super) request_id: &'a RequestId,
    /// The trace, in a span of ours.
    pub(super) trace: &'a TraceParent,
    /// Whether the trace began elsewhere.
    pub(super) trace_continues: bool,
    /// Where the route looks for a credential.
    pub(super) credential: &'a [CredentialSource],
    /// What the route says about forwarding.
    pub(super) forward: &'a Forward,
    /// Whether the request is gRPC.
    pub(super) grpc: bool,
    /// Whether the request opens a WebSocket that the route allows.
    pub(super) websocket: bool,
    /// The length of the body, where the client declared one.
    pub(super) length: Option<u64>,
    /// The fields that tell an upstream who the caller is.
    pub(super) identity: Option<Identity>,
    /// What proves it to the upstream, where the route asks for that.
    pub(super) assertion: Option<HeaderValue>,
}

/// Rewrites the fields of a request that `permit` lets through. What the gateway adds goes to the end of `added`, and
/// nothing of the same name stays in `headers`.
///
/// # Errors
/// [`Code::BadRequest`] when `Connection` names what is not the client's to remove.
pub(super) fn rewrite_request(
    headers: &mut HeaderMap,
    added: &mut Vec<(HeaderName, HeaderValue)>,
    permit: &Permit<'_>,
    passage: Passage<'_>,
) -> Result<(), Code> {
    let keep = Upstreamward {
        keep_forwarding: passage.trusted,
        keep_overrides: &passage.forward.keep_override_fields,
        keep_trailer: passage.grpc,
    };
    strip_request_fields(headers, keep).map_err(|_forbidden| Code::BadRequest)?;
    headers.remove(EXPECT);
    match permit.kind() {
        PermitKind::Shadow(_) => mark_credential(headers, passage.credential),
        PermitKind::Public | PermitKind::Key { .. } => {
            if passage.forward.forward_credential {
                mark_credential(headers, passage.credential);
            } else {
                strip_credential(headers, passage.credential);
            }
        }
    }
    if passage.version == Version::HTTP_2 {
        join_cookies(headers);
    }
    apply(&passage.forward.request_fields, headers);
    if let Some((name, value)) = &passage.forward.upstream_credential {
        remove_spellings(headers, name);
        headers.insert(name.clone(), value.clone());
    }
    let host = set_framing(headers, added, &passage);
    set_way(headers, added, &passage, host.as_ref());
    match permit.kind() {
        PermitKind::Public => {}
        PermitKind::Shadow(_) => {
            added.push((SHADOW, HeaderValue::from_static("denied")));
        }
        PermitKind::Key { status, .. } => {
            if let Some(identity) = passage.identity {
                identity.write(added);
            }
            if let Some(assertion) = passage.assertion {
                added.push((ASSERTION, assertion));
            }
            added.push((KEY_STATUS, HeaderValue::from_static(status.as_str())));
        }
    }
    Ok(())
}

/// Applies what a route says of fields.
fn apply(rules: &FieldRules, headers: &mut HeaderMap) {
    for name in &rules.remove {
        remove_spellings(headers, name);
    }
    for (name, value) in &rules.set {
        remove_spellings(headers, name);
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in &rules.add {
        headers.append(name.clone(), value.clone());
    }
}

/// The most fields that are added.
pub(super) const ADDED_MAX: usize = 15;

/// Host, length, and what is said to the next hop alone. Returns the host that the client named.
fn set_framing(
    headers: &mut HeaderMap,
    added: &mut Vec<(HeaderName, HeaderValue)>,
    passage: &Passage<'_>,
) -> Option<HeaderValue> {
    let host = headers.remove(HOST);
    let sent = match (&passage.forward.host, passage.authority) {
        (HostForward::Client, Some(authority)) => said(authority, host.as_ref()),
        (HostForward::Client, None) | (HostForward::Target, _) => passage.target.cloned(),
        (HostForward::Fixed(host), _) => text(host),
    };
    added.extend(sent.map(|host| (HOST, host)));
    // Spelt anew: `010` and `10, 10` are read in more than one way.
    match passage.length {
        Some(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        None => {
            headers.remove(CONTENT_LENGTH);
        }
    }
    if passage.grpc {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if passage.websocket {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    host
}

/// An authority as a field's value: the client's own, where that says the same. Not printable: better no field than
/// half of one.
fn said(authority: &Authority, host: Option<&HeaderValue>) -> Option<HeaderValue> {
    let same = |host: &&HeaderValue| host.as_bytes() == authority.as_str().as_bytes();
    host.filter(same).cloned().or_else(|| text(authority.as_str()))
}

/// The way the request came, its id and its trace. `host` is the client's field, used again where it says what
/// was understood.
fn set_way(
    headers: &mut HeaderMap,
    added: &mut Vec<(HeaderName, HeaderValue)>,
    passage: &Passage<'_>,
    host: Option<&HeaderValue>,
) {
    let before = headers.get_all(FORWARDED_FOR).iter().fold(BytesMut::new(), |mut joined, value| {
        if !joined.is_empty() {
            joined.extend_from_slice(b", ");
        }
        joined.extend_from_slice(value.as_bytes());
        joined
    });
    let mut way = Some(passage.peer.clone());
    if !before.is_empty() {
        let mut joined = before;
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(passage.peer.as_bytes());
        way = HeaderValue::from_maybe_shared(joined.freeze()).ok();
    }
    if let Some(way) = way {
        headers.remove(FORWARDED_FOR);
        added.push((FORWARDED_FOR, way));
    }
    if !is_one(headers, &FORWARDED_PROTO, |value| value == b"http" || value == b"https") {
        headers.remove(FORWARDED_PROTO);
        let scheme = if passage.tls { "https" } else { "http" };
        added.push((FORWARDED_PROTO, HeaderValue::from_static(scheme)));
    }
    if !is_one(headers, &FORWARDED_HOST, |value| !value.is_empty()) {
        headers.remove(FORWARDED_HOST);
        let named = passage.authority.and_then(|authority| said(authority, host));
        added.extend(named.map(|host| (FORWARDED_HOST, host)));
    }
    added.push((VIA, HeaderValue::from_static("1.1 keyward")));
    headers.remove(REQUEST_ID);
    added.push((REQUEST_ID, passage.request_id.value().clone()));
    headers.remove(TRACE_PARENT);
    added.push((TRACE_PARENT, passage.trace.value()));
    if !passage.trace_continues {
        headers.remove(TRACE_STATE);
    }
}

fn is_one(headers: &HeaderMap, name: &HeaderName, good: impl Fn(&[u8]) -> bool) -> bool {
    let mut values = headers.get_all(name).iter();
    values.next().is_some_and(|value| good(value.as_bytes())) && values.next().is_none()
}

/// HTTP/2 may send a cookie a field (RFC 9113, 8.2.3); HTTP/1 has one field for all.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let joined = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(mut value) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        value.set_sensitive(true);
        headers.insert(COOKIE, value);
    }
}

/// What a response is told beyond what the upstream said.
#[derive(Debug)]
pub(super) struct Notice<'r> {
    /// The key's status and end, where the holder should know.
    pub(super) expiry: Option<(Status, Timestamp)>,
    /// Where the credential is that the answer depends on; none on public routes.
    pub(super) keyed: &'r [CredentialSource],
    /// Whether shared caches are kept from storing the answer.
    pub(super) private: bool,
}

impl<'r> Notice<'r> {
    /// What is to be told of an answer to what `permit` let through, over a route with these
    /// credentials.
    pub(super) fn of(
        permit: &Permit<'_>,
        keyed: &'r [CredentialSource],
        forward: &Forward,
        expiry_notice: std::time::Duration,
        now: Timestamp,
    ) -> Self {
        let expiry = permit
            .status()
            .zip(permit.ends_at())
            .filter(|(status, end)| *status == Status::Grace || end.since(now) <= expiry_notice);
        let private = !keyed.is_empty() && !forward.shared_cache;
        Self { expiry, keyed, private }
    }
}

/// Rewrites the fields of an upstream's response.
pub(super) fn rewrite_response(
    headers: &mut HeaderMap,
    forward: &Forward,
    notice: &Notice<'_>,
    request_id: &RequestId,
    grpc: bool,
) {
    strip_response_fields(headers, grpc);
    apply(&forward.response_fields, headers);
    headers.insert(REQUEST_ID, request_id.value().clone());
    if let Some((status, end)) = notice.expiry {
        if status == Status::Grace {
            headers.insert(KEY_STATUS, HeaderValue::from_static(status.as_str()));
        }
        if let Ok(value) = HeaderValue::try_from(format!("@{}", end.seconds())) {
            headers.insert(KEY_EXPIRES, value);
        }
    }
    for source in notice.keyed {
        vary_on(headers, source.field());
    }
    if notice.private {
        let private = HeaderValue::from_static("private");
        if !headers.contains_key(CACHE_CONTROL) {
            headers.insert(CACHE_CONTROL, private);
        } else if !says_who_may_share(headers) {
            into_one_field(headers, &CACHE_CONTROL, Some(private));
        }
    }
}

/// Whether an answer says whether caches may share it: then it is left as it is. How long it may be
/// kept says nothing of that, for the upstream sees no credential and cannot know that there was one.
fn says_who_may_share(headers: &HeaderMap) -> bool {
    let directives =
        headers.get_all(CACHE_CONTROL).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    directives.map(<[u8]>::trim_ascii).any(|directive| {
        let name = directive.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        ["public", "private", "no-store", "s-maxage"].iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
    })
}

/// Says that an answer depends on this field of its request. In one field with all others: of
/// several `Vary` some caches, nginx 1.22 among them, see only one, and serve one caller's answer to
/// another.
pub(super) fn vary_on(headers: &mut HeaderMap, name: &HeaderName) {
    let is_first = !headers.contains_key(VARY);
    let entry = if !is_first && varies_on(headers, name) {
        None
    } else if *name == AUTHORIZATION {
        Some(HeaderValue::from_static("authorization"))
    } else {
        Some(name.clone().into())
    };
    match entry {
        Some(entry) if is_first => {
            headers.insert(VARY, entry);
        }
        entry => into_one_field(headers, &VARY, entry),
    }
}

/// Joins the fields of a list, and one more entry, into one field.
fn into_one_field(headers: &mut HeaderMap, name: &HeaderName, entry: Option<HeaderValue>) {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    let joined = match (first, second, entry) {
        (None, _, Some(entry)) => entry,
        (None, _, None) | (Some(_), None, None) => return,
        (Some(_), _, entry) => {
            let values = headers.get_all(name).iter().chain(&entry).map(HeaderValue::as_bytes);
            let joined = values.filter(|value| !value.is_empty()).collect::<Vec<_>>().join(&b", "[..]);
            match HeaderValue::from_maybe_shared(Bytes::from(joined)) {
                Ok(joined) => joined,
                Err(_impossible) => return,
            }
        }
    };
    headers.insert(name.clone(), joined);
}

fn varies_on(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(VARY).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).any(|entry| {
        let entry = entry.trim_ascii();
        entry == b"*" || entry.eq_ignore_ascii_case(name.as_str().as_bytes())
    })
}

/// The fields that tell an upstream who the caller is, ready to be set.
#[derive(Debug)]
pub(super) struct Identity {
    key_id: Option<HeaderValue>,
    user: Option<HeaderValue>,
    shared: Rc<SharedIdentity>,
}

/// Those of them that many keys have in common.
#[derive(Debug)]
pub(super) struct SharedIdentity {
    project: Option<HeaderValue>,
    environment: Option<HeaderValue>,
    flags: Option<HeaderValue>,
}

/// Ids hold printable ASCII only; what does not is left out rather than forged.
fn text(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(text.as_bytes())).ok()
}

impl Identity {
    /// What it has in common with other keys. One and the same for as long as nothing of that changes.
    pub(super) const fn shared(&self) -> &Rc<SharedIdentity> {
        &self.shared
    }

    fn write(self, added: &mut Vec<(HeaderName, HeaderValue)>) {
        let SharedIdentity { project, environment, flags } = &*self.shared;
        let key_id = self.key_id.unwrap_or_else(|| HeaderValue::from_static(""));
        added.push((KEY_ID, key_id));
        let shared = [(PROJECT, project), (ENVIRONMENT, environment), (FLAGS, flags)];
        added.extend(shared.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        added.extend(self.user.map(|user| (USER, user)));
    }
}

/// What a key may do, space-separated.
fn flags_text(flags: &RecordFlags) -> String {
    let mut text = String::new();
    for flag in flags.effective() {
        if text.len() + flag.as_str().len() < FLAGS_BYTES_MAX {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(flag.as_str());
        }
    }
    text
}

/// What the keys that one worker saw have in common, as text. By key it would be more than fits in memory that is
/// quick: a table of 100,000 keys, 20,000 of them busy, has some dozens of these. The rest is made anew: an id is
/// written sooner than looked up.
#[derive(Debug, Default)]
pub(super) struct Identities {
    known: RefCell<HashMap<Places, Known, BuildHasherDefault<OfPlaces>>>,
}

/// Where project, environment and sets of flags lie. They are shared by all keys that have the same, and never
/// change in place.
type Places = [usize; 4];

/// A hash of places, which nobody outside chooses.
#[derive(Debug, Default)]
struct OfPlaces(u64);

impl Hasher for OfPlaces {
    fn finish(&self) -> u64 {
        self.0
    }

    /// Places come as the bytes of all four at once.
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_ne_bytes(*word)));
        rest.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, word: u64) {
        // The upper bits count as the lower ones do.
        let mixed = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(u64::try_from(word).unwrap_or(0));
    }
}

/// Holds on to what its place is known by, so that nothing else can come to lie there.
#[derive(Debug)]
struct Known {
    shared: Rc<SharedIdentity>,
    _flags: RecordFlags,
    _project: Option<crate::key::ProjectId>,
    _environment: crate::key::EnvironmentId,
}

impl Identities {
    /// Enough for what is busy at a time; past it all is forgotten, which costs little.
    const KNOWN_MAX: usize = 4096;

    /// The fields of `record`.
    pub(super) fn of(&self, record: &Record) -> Identity {
        Identity {
            key_id: HeaderValue::from_maybe_shared(Bytes::from(record.id.to_string())).ok(),
            user: record.user.as_ref().and_then(|id| text(id.as_str())),
            shared: self.shared(record),
        }
    }

    fn shared(&self, record: &Record) -> Rc<SharedIdentity> {
        let mut known = self.known.borrow_mut();
        let places = places(record);
        if let Some(entry) = known.get(&places) {
            return Rc::clone(&entry.shared);
        }
        if known.len() >= Self::KNOWN_MAX {
            known.clear();
        }
        let shared = Rc::new(SharedIdentity {
            project: record.project.as_ref().and_then(|id| text(id.as_str())),
            environment: text(record.environment.as_str()),
            flags: text(&flags_text(&record.flags)),
        });
        let entry = Known {
            shared: Rc::clone(&shared),
            _flags: record.flags.clone(),
            _project: record.project.clone(),
            _environment: record.environment.clone(),
        };
        known.insert(places, entry);
        shared
    }
}

fn places(record: &Record) -> Places {
    let of_text = |text: &str| text.as_ptr().addr();
    let of_flags = |flags: &Arc<FlagSet>| Arc::as_ptr(flags).addr();
    let (flags, more) = match &record.flags {
        RecordFlags::Own(flags) | RecordFlags::Inherited(flags) => (of_flags(flags), 0),
        RecordFlags::Both { key, user } => (of_flags(key), of_flags(user)),
    };
    let project = record.project.as_ref().map_or(0, |project| of_text(project.as_str()));
    [project, of_text(record.environment.as_str()), flags, more]
}

/// A peer's address as a field's value, kept for the next request from the same one.
#[derive(Debug, Default)]
pub(super) struct PeerText {
    last: RefCell<Option<(IpAddr, HeaderValue)>>,
}

impl PeerText {
    /// The text of `address`.
    pub(super) fn of(&self, address: IpAddr) -> HeaderValue {
        let mut last = self.last.borrow_mut();
        if let Some((known, value)) = &*last
            && *known == address
        {
            return value.clone();
        }
        let text = Bytes::from(address.to_canonical().to_string());
        let value =
            HeaderValue::from_maybe_shared(text).unwrap_or_else(|_impossible| HeaderValue::from_static("unknown"));
        *last = Some((address, value.clone()));
        value
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn places_are_hashed_word_by_word() {
        let places: Places = [1, usize::MAX, 0, 0x0102_0304];
        let mut word_by_word = OfPlaces::default();
        // How many there are comes first.
        [places.len()].iter().chain(&places).for_each(|word| word_by_word.write_usize(*word));
        let hashes = BuildHasherDefault::<OfPlaces>::default();
        assert_eq!(hashes.hash_one(places), word_by_word.finish());
        for at in 0..places.len() {
            let mut other = places;
            other[at] ^= 1 << 20;
            assert_ne!(hashes.hash_one(places), hashes.hash_one(other), "{at}");
        }
    }
}
