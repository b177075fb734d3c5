//! The head of a request, and what it says of the body behind it (RFC 9112, 3 to 6).
//!
//! Read no more leniently than hyper reads it. What is well formed and could still be read two ways is the handler's
//! to refuse.

use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, Request, Uri, Version};

use crate::listen::answer::Refusal;
use crate::listen::settings::Limits;
use crate::wire::{Decoder, FieldPlace, Place, number};

/// What the head of a request says of the body and of the connection.
#[derive(Debug)]
pub(super) struct Head {
    /// How its body is delimited.
    pub(super) decoder: Decoder,
    /// Whether the connection may serve another request.
    pub(super) keep: bool,
    /// Whether its sender waits for a 100 before it sends the body.
    pub(super) expects: bool,
    /// Whether it asks for another protocol.
    pub(super) upgrades: bool,
    /// Whether its sender takes trailers.
    pub(super) trailers: bool,
}

/// Takes a head off the front of `read`; none where it is not whole. It is put into `request`, whose map is empty: one
/// is 2 KiB to make anew, and what is put where it belongs is not handed from function to function. `tried` bytes of it
/// were parsed in vain before.
///
/// # Errors
/// What is refused. There may be some of it in `request`.
pub(super) fn read(
    read: &mut BytesMut,
    request: &mut Request<()>,
    limits: &Limits,
    tried: &mut usize,
) -> Result<Option<Head>, Refusal> {
    if skip_empty_lines(read) {
        // One that came in two pieces was taken for a head's beginning.
        *tried = 0;
    }
    // Without a line's end among what came since it would be in vain again.
    let is_new = *tried == 0 || read.get(*tried..).is_some_and(|new| new.contains(&b'\n'));
    let mut usual = [FieldPlace::default(); FIELDS_USUAL];
    let mut more = Vec::new();
    let mut places = usual.get_mut(..limits.fields.min(FIELDS_USUAL)).unwrap_or_default();
    let mut found = if is_new { locate_usual(read, places) } else { Ok(None) };
    if matches!(found, Err(Refusal::HeadTooLarge)) && limits.fields > FIELDS_USUAL {
        more.resize(limits.fields, FieldPlace::default());
        places = &mut more;
        found = locate(read, &mut vec![MaybeUninit::uninit(); limits.fields], places);
    }
    let Some(line) = found? else {
        *tried = read.len();
        return if read.len() >= limits.head_bytes { Err(Refusal::HeadTooLarge) } else { Ok(None) };
    };
    *tried = 0;
    if line.length > limits.head_bytes {
        return Err(Refusal::HeadTooLarge);
    }
    take(read, &line, places, request).map(Some)
}

/// Passes over empty lines in front of a head (RFC 9112, 2.2). Returns whether there was one.
pub(super) fn skip_empty_lines(read: &mut BytesMut) -> bool {
    let length = read.len();
    loop {
        match **read {
            [b'\r', b'\n', ..] => read.advance(2),
            [b'\n', ..] => read.advance(1),
            _ => return read.len() != length,
        }
    }
}

/// The first line of a head, and how long and large the whole is.
struct Line {
    method: Method,
    target: Place,
    version: Version,
    length: usize,
    fields: usize,
}

fn locate_usual(read: &[u8], places: &mut [FieldPlace]) -> Result<Option<Line>, Refusal> {
    // Room for the most fields is several KiB.
    let mut space = [const { MaybeUninit::uninit() }; FIELDS_USUAL];
    let count = places.len();
    locate(read, space.get_mut(..count).unwrap_or_default(), places)
}

/// Where everything lies in the head at the front of `read`; none where it is not whole.
fn locate<'r>(
    read: &'r [u8],
    space: &mut [MaybeUninit<httparse::Header<'r>>],
    places: &mut [FieldPlace],
) -> Result<Option<Line>, Refusal> {
    let mut parsed = httparse::Request::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_request_with_uninit_headers(&mut parsed, read, space) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(_malformed) => return Err(Refusal::BadRequest),
    };
    for (place, field) in places.iter_mut().zip(&*parsed.headers) {
        *place = FieldPlace::of(read, field);
    }
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes());
    Ok(Some(Line {
        method: method.map_err(|_malformed| Refusal::BadRequest)?,
        target: Place::of(read, parsed.path.unwrap_or_default().as_bytes()),
        version: if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 },
        length,
        fields: parsed.headers.len(),
    }))
}

fn take(read: &mut BytesMut, line: &Line, places: &[FieldPlace], request: &mut Request<()>) -> Result<Head, Refusal> {
    let malformed = Refusal::BadRequest;
    let whole = read.split_to(line.length).freeze();
    let target = line.target.part(&whole).ok_or(malformed)?;
    if target.len() > TARGET_BYTES_MAX {
        return Err(Refusal::TargetTooLong);
    }
    // No target has a fragment; `Uri` would leave it out, and who decides by the line would not.
    if target.contains(&b'#') {
        return Err(malformed);
    }
    *request.method_mut() = line.method.clone();
    *request.uri_mut() = Uri::from_maybe_shared(target).map_err(|_malformed| malformed)?;
    *request.version_mut() = line.version;
    let headers = request.headers_mut();
    headers.reserve(line.fields);
    let mut framing = Framing::of(line.version);
    for place in places.iter().take(line.fields) {
        let (name, value) = place.field(&whole).map_err(|_malformed| malformed)?;
        // What is told by its length is not compared six times.
        match name.as_str().len() {
            14 if name == CONTENT_LENGTH && framing.has_said_length(&value)? => continue,
            17 if name == TRANSFER_ENCODING => framing.has_said_coding(&value)?,
            10 if name == CONNECTION => framing.has_said_connection(&value),
            6 if name == EXPECT => framing.expects = value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            7 if name == UPGRADE => framing.upgrades = line.version == Version::HTTP_11,
            2 if name == TE => framing.trailers |= has_token(&value, b"trailers"),
            _ => {}
        }
        headers.append(name, value);
    }
    framing.finish(request)
}

/// What the fields so far say of the body and of the connection.
#[derive(Debug)]
struct Framing {
    version: Version,
    length: Option<u64>,
    is_measured: bool,
    /// Whether there is a coding, and whether the last of all is `chunked`.
    coding: Option<bool>,
    keep: bool,
    closes: bool,
    expects: bool,
    upgrades: bool,
    trailers: bool,
}

impl Framing {
    fn of(version: Version) -> Self {
        Self {
            version,
            length: None,
            is_measured: false,
            coding: None,
            keep: version == Version::HTTP_11,
            closes: false,
            expects: false,
            upgrades: false,
            trailers: false,
        }
    }

    /// Whether this says again what was said. Beside a coding no length counts.
    fn has_said_length(&mut self, value: &HeaderValue) -> Result<bool, Refusal> {
        self.is_measured = true;
        if self.coding.is_some() {
            return Ok(true);
        }
        let length = number(value.as_bytes()).ok_or(Refusal::BadRequest)?;
        match self.length.replace(length) {
            None => Ok(false),
            Some(before) if before == length => Ok(true),
            Some(_another) => Err(Refusal::BadRequest),
        }
    }

    fn has_said_coding(&mut self, value: &HeaderValue) -> Result<(), Refusal> {
        if self.version == Version::HTTP_10 {
            return Err(Refusal::BadRequest);
        }
        let last = value.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
        self.coding = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        Ok(())
    }

    /// One `close` counts, whatever else is said.
    fn has_said_connection(&mut self, value: &HeaderValue) {
        self.closes |= has_token(value, b"close");
        self.keep = !self.closes && (self.keep || has_token(value, b"keep-alive"));
    }

    fn finish(self, request: &mut Request<()>) -> Result<Head, Refusal> {
        let decoder = match (self.coding, self.length) {
            (Some(true), _) => Decoder::chunked(),
            (Some(false), _) => return Err(Refusal::BadRequest),
            (None, length) => Decoder::Length(length.unwrap_or(0)),
        };
        let both = self.coding.is_some() && self.is_measured;
        if both {
            // The coding counts, and what comes after the body may be somebody else's idea of it.
            request.headers_mut().remove(CONTENT_LENGTH);
        }
        let expects = self.expects && !decoder.is_over() && self.version == Version::HTTP_11;
        // What follows a request for a tunnel was meant for the tunnel.
        let follows = !both && *request.method() != Method::CONNECT;
        let Self { keep, upgrades, trailers, .. } = self;
        Ok(Head { decoder, keep: keep && follows, expects, upgrades, trailers })
    }
}

/// Whether one of the members of a list is this.
pub(super) fn has_token(value: &HeaderValue, wanted: &[u8]) -> bool {
    let mut members = value.as_bytes().split(|byte| *byte == b',');
    members.any(|member| member.trim_ascii().eq_ignore_ascii_case(wanted))
}

/// What a target can be at most (`http::Uri`).
const TARGET_BYTES_MAX: usize = u16::MAX as usize - 1;
/// As many fields as most requests have.
const FIELDS_USUAL: usize = 32;
