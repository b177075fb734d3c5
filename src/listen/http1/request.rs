//! A client's bytes read to their end as requests, without a connection: what a connection does with them, for tests
//! and the fuzzer to try.

use bytes::BytesMut;
use http::{HeaderMap, Request};

use super::head;
use crate::listen::answer::Refusal;
use crate::listen::settings::Limits;
use crate::wire::Decoded;

/// What a client's bytes are taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestsRead {
    /// The requests, in turn. Of the last the body may not be whole.
    pub requests: Vec<RequestRead>,
    /// How they ended.
    pub end: RequestsEnd,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRead {
    /// Its method and target.
    pub line: String,
    /// The fields of its head.
    pub fields: HeaderMap,
    /// As much of the body as came.
    pub body: Vec<u8>,
    /// The fields behind the body.
    pub trailers: Option<HeaderMap>,
    /// Whether its sender waits for a 100.
    pub expects: bool,
}

/// How a client's requests end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestsEnd {
    /// All are whole, and another could follow.
    Kept,
    /// The last is whole, and the connection has to be closed: so many bytes behind it are nobody's.
    Closed {
        /// How many.
        left: usize,
    },
    /// What comes next is refused.
    Refused(Refusal),
    /// The body of the last is none by its own framing.
    BadBody,
    /// They end within a head, of which so many bytes came.
    InHead(usize),
    /// They end within the last one's body.
    InBody,
}

/// Reads what a client sends, in the pieces that it comes in, to the end of the connection.
pub fn read_requests<'a>(limits: &Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> RequestsRead {
    let mut pieces = pieces.into_iter();
    let mut read = BytesMut::new();
    let mut requests = Vec::new();
    let end = loop {
        if let Some(end) = read_one(limits, &mut read, &mut pieces, &mut requests) {
            break end;
        }
    };
    RequestsRead { requests, end }
}

/// Reads one request more. How they end, where they do.
fn read_one<'a>(
    limits: &Limits,
    read: &mut BytesMut,
    pieces: &mut impl Iterator<Item = &'a [u8]>,
    requests: &mut Vec<RequestRead>,
) -> Option<RequestsEnd> {
    let (mut tried, mut request) = (0, Request::default());
    let head = loop {
        if !read.is_empty() {
            match head::read(read, &mut request, limits, &mut tried) {
                Ok(Some(head)) => break head,
                Ok(None) => {}
                Err(refusal) => return Some(RequestsEnd::Refused(refusal)),
            }
        }
        match pieces.next() {
            Some(piece) => read.extend_from_slice(piece),
            None if read.is_empty() => return Some(RequestsEnd::Kept),
            None => return Some(RequestsEnd::InHead(read.len())),
        }
    };
    let (parts, ()) = request.into_parts();
    let line = format!("{} {}", parts.method, parts.uri);
    let (fields, expects) = (parts.headers, head.expects);
    requests.push(RequestRead { line, fields, body: Vec::new(), trailers: None, expects });
    let request = requests.last_mut()?;
    let mut decoder = head.decoder;
    while !decoder.is_over() {
        match decoder.decode(read) {
            Ok(Decoded::Data(data)) => {
                request.body.extend_from_slice(&data);
                decoder.finish(read);
            }
            Ok(Decoded::Trailers(trailers)) => {
                request.trailers = Some(trailers);
                break;
            }
            Ok(Decoded::End) => break,
            Ok(Decoded::More) => match pieces.next() {
                Some(piece) => read.extend_from_slice(piece),
                None => return Some(RequestsEnd::InBody),
            },
            Err(_malformed) => return Some(RequestsEnd::BadBody),
        }
    }
    if head.keep {
        return None;
    }
    let rest: usize = pieces.map(<[u8]>::len).sum();
    Some(RequestsEnd::Closed { left: read.len() + rest })
}
