//! An upstream's bytes read to their end as one answer, without a connection: what a connection does with them,
//! for tests and the fuzzer to try.

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode};

use super::head::{self, Head, Progress, Read};
use crate::wire::{Decoded, Decoder};

/// What an upstream's bytes are taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRead {
    /// The status; none where there is no answer.
    pub status: Option<StatusCode>,
    /// The fields of the head.
    pub fields: HeaderMap,
    /// As much of the body as came.
    pub body: Vec<u8>,
    /// The fields behind the body.
    pub trailers: Option<HeaderMap>,
    /// How it ended.
    pub end: AnswerEnd,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerEnd {
    /// It is whole, nothing came behind it, and its connection can serve another request.
    Kept,
    /// It is whole, and its connection has to be closed.
    Closed {
        /// How many bytes came behind it.
        left: usize,
    },
    /// The connection is another protocol's, whose first bytes these are.
    Switched(Vec<u8>),
    /// It is not whole: it is malformed, or the connection ended too early.
    Broken,
}

/// Reads what an upstream sends for a request of this method, in the pieces that it comes in, to the end of the
/// connection.
pub fn read_answer<'a>(method: &Method, pieces: impl IntoIterator<Item = &'a [u8]>) -> AnswerRead {
    let mut pieces = pieces.into_iter();
    let mut read = BytesMut::new();
    let mut answer =
        AnswerRead { status: None, fields: HeaderMap::new(), body: Vec::new(), trailers: None, end: AnswerEnd::Broken };
    let Some(Head { response, mut decoder, keep, switches }) = read_head(method, &mut read, &mut pieces) else {
        return answer;
    };
    answer.status = Some(response.status());
    answer.fields = response.into_parts().0.headers;
    if switches {
        answer.end = AnswerEnd::Switched(rest(&read, pieces));
        return answer;
    }
    while !decoder.is_over() {
        match decoder.decode(&mut read) {
            Ok(Decoded::Data(data)) => {
                answer.body.extend_from_slice(&data);
                decoder.finish(&mut read);
            }
            Ok(Decoded::Trailers(trailers)) => {
                answer.trailers = Some(trailers);
                break;
            }
            Ok(Decoded::End) => break,
            Ok(Decoded::More) => match pieces.next() {
                Some(piece) => read.extend_from_slice(piece),
                None if matches!(decoder, Decoder::UntilEnd) => break,
                None => return answer,
            },
            Err(_malformed) => return answer,
        }
    }
    let left = rest(&read, pieces).len();
    answer.end = if keep && left == 0 { AnswerEnd::Kept } else { AnswerEnd::Closed { left } };
    answer
}

fn read_head<'a>(method: &Method, read: &mut BytesMut, pieces: &mut impl Iterator<Item = &'a [u8]>) -> Option<Head> {
    let (mut progress, mut fields) = (Progress::default(), HeaderMap::new());
    loop {
        match head::read(read, method, &mut fields, &mut progress) {
            Ok(Read::Head(head)) => return Some(head),
            Ok(Read::Partial) => read.extend_from_slice(pieces.next()?),
            Err(_malformed) => return None,
        }
    }
}

fn rest<'a>(read: &[u8], pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut rest = read.to_vec();
    pieces.for_each(|piece| rest.extend_from_slice(piece));
    rest
}
