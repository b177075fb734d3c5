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
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    TE, UPGRADE, VARY, VIA,
};
use http::uri::Authority;

use super::upstream::Added;
use crate::clock::Timestamp;
use crate::key::{FlagSet, Held, Label, ProjectId, Record, RecordFlags, Status};
use crate::policy::{
    Code, CredentialSource, FieldRules, Forward, HostForward, Permit, PermitKind, mark_credential, strip_credential,
};
use crate::wire::{
    RequestId, Seen, TraceParent, Upstreamward, remove_spellings, strip_request_fields, strip_response_fields,
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
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
    /// Which fields the client sent.
    pub(super) seen: Seen,
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
    /// What the key has in common with others, as fields.
    pub(super) identity: Option<Rc<SharedIdentity>>,
    /// What proves it to the upstream, where the route asks for that.
    pub(super) assertion: Option<HeaderValue>,
}

/// Rewrites the fields of a request that `permit` lets through. What the gateway says of it goes to the end of `added`,
/// and nothing of the same name stays in `headers`; what frames the request and what is secret goes among `headers`.
///
/// # Errors
/// [`Code::BadRequest`] when `Connection` names what is not the client's to remove.
pub(super) fn rewrite_request(
    headers: &mut HeaderMap,
    added: &mut Added,
    permit: &Permit<'_>,
    passage: Passage<'_>,
) -> Result<(), Code> {
    let keep = Upstreamward {
        keep_forwarding: passage.trusted,
        keep_overrides: &passage.forward.keep_override_fields,
        keep_trailer: passage.grpc,
    };
    strip_request_fields(headers, passage.seen, keep).map_err(|_forbidden| Code::BadRequest)?;
    if passage.seen.has(Seen::EXPECT) {
        headers.remove(EXPECT);
    }
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
    set_framing(headers, added, &passage);
    set_way(headers, added, &passage);
    match permit.kind() {
        PermitKind::Public => {}
        PermitKind::Shadow(_) => added.add_text(&SHADOW, b"denied"),
        PermitKind::Key { record, status } => {
            if let Some(shared) = &passage.identity {
                shared.write(record, added);
            }
            if let Some(assertion) = passage.assertion {
                // Marked as a secret, which text cannot be.
                headers.insert(ASSERTION, assertion);
            }
            added.add_text(&KEY_STATUS, status.as_str().as_bytes());
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

/// Host, length, and what is said to the next hop alone.
fn set_framing(headers: &mut HeaderMap, added: &mut Added, passage: &Passage<'_>) {
    if passage.seen.has(Seen::HOST) {
        headers.remove(HOST);
    }
    match (&passage.forward.host, passage.authority) {
        (HostForward::Client, Some(authority)) => say(added, &HOST, authority),
        (HostForward::Client, None) | (HostForward::Target, _) => {
            if let Some(target) = passage.target {
                added.add(&HOST, target);
            }
        }
        (HostForward::Fixed(host), _) => added.add_text(&HOST, host.as_bytes()),
    }
    // Spelt anew: `010` and `10, 10` are read in more than one way.
    match passage.length {
        Some(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        None if passage.seen.has(Seen::CONTENT_LENGTH) => {
            headers.remove(CONTENT_LENGTH);
        }
        None => {}
    }
    if passage.grpc {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if passage.websocket {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// Adds an authority as a field's value. Not printable: better no field than half of one.
fn say(added: &mut Added, name: &HeaderName, authority: &Authority) {
    added.add_text(name, authority.as_str().as_bytes());
}

/// The way the request came, its id and its trace.
fn set_way(headers: &mut HeaderMap, added: &mut Added, passage: &Passage<'_>) {
    let was_forwarded = passage.seen.has(Seen::FORWARDED);
    if was_forwarded && headers.contains_key(FORWARDED_FOR) {
        let before = headers.get_all(FORWARDED_FOR).iter().chain([&passage.peer]).map(HeaderValue::as_bytes);
        added.add_text(&FORWARDED_FOR, &before.filter(|value| !value.is_empty()).collect::<Vec<_>>().join(&b", "[..]));
        headers.remove(FORWARDED_FOR);
    } else {
        added.add(&FORWARDED_FOR, &passage.peer);
    }
    if !was_forwarded || !is_one(headers, &FORWARDED_PROTO, |value| value == b"http" || value == b"https") {
        added.add_text(&FORWARDED_PROTO, if passage.tls { b"https" } else { b"http" });
        if was_forwarded {
            headers.remove(FORWARDED_PROTO);
        }
    }
    if !was_forwarded || !is_one(headers, &FORWARDED_HOST, |value| !value.is_empty()) {
        if let Some(authority) = passage.authority {
            say(added, &FORWARDED_HOST, authority);
        }
        if was_forwarded {
            headers.remove(FORWARDED_HOST);
        }
    }
    added.add_text(&VIA, b"1.1 keyward");
    added.add(&REQUEST_ID, passage.request_id.value());
    if passage.seen.has(Seen::REQUEST_ID) {
        headers.remove(REQUEST_ID);
    }
    added.add_text(&TRACE_PARENT, &passage.trace.text());
    if passage.seen.has(Seen::TRACE) {
        headers.remove(TRACE_PARENT);
        if !passage.trace_continues {
            headers.remove(TRACE_STATE);
        }
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
    /// What is to be told of an answer over a route with these credentials.
    pub(super) fn of(expiry: Option<(Status, Timestamp)>, keyed: &'r [CredentialSource], forward: &Forward) -> Self {
        Self { expiry, keyed, private: !keyed.is_empty() && !forward.shared_cache }
    }
}

/// How a key that works stands and when it ends, where its holder should know: in grace, or so near to its end.
pub(super) fn expiry_of(record: &Record, near: Duration, now: Timestamp) -> Option<(Status, Timestamp)> {
    let end = record.standing.ends_at()?;
    let status = record.standing.status(false, now);
    (status == Status::Grace || status.is_usable() && end.since(now) <= near).then_some((status, end))
}

/// Tells the holder of a key of its end.
pub(super) fn write_expiry(headers: &mut HeaderMap, expiry: Option<(Status, Timestamp)>) {
    let Some((status, end)) = expiry else { return };
    if status == Status::Grace {
        headers.insert(KEY_STATUS, HeaderValue::from_static(status.as_str()));
    }
    if let Ok(value) = HeaderValue::try_from(format!("@{}", end.seconds())) {
        headers.insert(KEY_EXPIRES, value);
    }
}

/// Rewrites the fields of an upstream's response.
pub(super) fn rewrite_response(
    headers: &mut HeaderMap,
    seen: Seen,
    forward: &Forward,
    notice: &Notice<'_>,
    request_id: &RequestId,
    grpc: bool,
) {
    strip_response_fields(headers, seen, grpc);
    apply(&forward.response_fields, headers);
    let seen = if forward.response_fields.is_empty() { seen } else { Seen::of(headers) };
    headers.insert(REQUEST_ID, request_id.value().clone());
    write_expiry(headers, notice.expiry);
    match notice.keyed {
        [source] if !seen.has(Seen::VARY) => {
            headers.insert(VARY, entry_of(source.field()));
        }
        sources => sources.iter().for_each(|source| vary_on(headers, source.field())),
    }
    if notice.private {
        let private = HeaderValue::from_static("private");
        if !seen.has(Seen::CACHE_CONTROL) {
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
    let entry = if !is_first && varies_on(headers, name) { None } else { Some(entry_of(name)) };
    match entry {
        Some(entry) if is_first => {
            headers.insert(VARY, entry);
        }
        entry => into_one_field(headers, &VARY, entry),
    }
}

/// A field as `Vary` names it.
fn entry_of(name: &HeaderName) -> HeaderValue {
    if *name == AUTHORIZATION { HeaderValue::from_static("authorization") } else { name.clone().into() }
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

/// The fields that tell an upstream of a key what it has in common with many others.
#[derive(Debug)]
pub(super) struct SharedIdentity {
    pub(super) project: Option<ProjectId>,
    fields: Added,
}

impl SharedIdentity {
    /// Ids hold printable ASCII only; what does not is left out rather than forged.
    fn of(record: &Record) -> Self {
        let mut fields = Added::nothing();
        if let Some(project) = record.project() {
            fields.add_text(&PROJECT, project.as_str().as_bytes());
        }
        fields.add_text(&ENVIRONMENT, record.environment().as_str().as_bytes());
        fields.add_text(&FLAGS, flags_text(record.flags()).as_bytes());
        Self { project: record.project().cloned(), fields }
    }

    /// Adds all that tells an upstream who the caller is.
    fn write(&self, record: &Record, added: &mut Added) {
        added.add_text(&KEY_ID, record.id.write_into(&mut [0; 36]));
        added.add_all(&self.fields);
        if let Some(user) = record.user_id() {
            added.add_text(&USER, user.as_str().as_bytes());
        }
    }
}

/// What a key may do, space-separated.
fn flags_text(flags: RecordFlags<'_>) -> String {
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

/// Where the label and the user's flags lie. They are shared by all keys that have the same, and never change in
/// place.
type Places = [usize; 2];

/// A hash of places, which nobody outside chooses.
#[derive(Debug, Default)]
struct OfPlaces(u64);

impl Hasher for OfPlaces {
    fn finish(&self) -> u64 {
        self.0
    }

    /// Places come as the bytes of all at once.
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
    _label: Arc<Label>,
    _user_flags: Option<Arc<FlagSet>>,
}

impl Identities {
    /// Enough for what is busy at a time; past it all is forgotten, which costs little.
    const KNOWN_MAX: usize = 4096;

    /// What `record` has in common with others. One and the same for as long as nothing of that changes.
    pub(super) fn of(&self, record: &Record) -> Rc<SharedIdentity> {
        let mut known = self.known.borrow_mut();
        let places = places(record);
        if let Some(entry) = known.get(&places) {
            return Rc::clone(&entry.shared);
        }
        if known.len() >= Self::KNOWN_MAX {
            known.clear();
        }
        let shared = Rc::new(SharedIdentity::of(record));
        let entry = Known {
            shared: Rc::clone(&shared),
            _label: Held::kept(&record.label),
            _user_flags: record.user.as_ref().map(|user| Arc::clone(&user.flags)),
        };
        known.insert(places, entry);
        shared
    }
}

fn places(record: &Record) -> Places {
    let of_user = record.user.as_ref().map_or(0, |user| Arc::as_ptr(&user.flags).addr());
    [std::ptr::from_ref::<Label>(&record.label).addr(), of_user]
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
        let places: Places = [usize::MAX, 0x0102_0304];
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
