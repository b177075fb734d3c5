//! What goes to a client: the head of an answer, and its body as it is framed.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRAILER, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use tokio::io::AsyncWrite;

use super::date::Date;
use super::head::has_token;
use crate::listen::connection::WRITTEN_AHEAD_MAX;
use crate::listen::ticker::Ticker;
use crate::wire::number;

/// What is still to be written: large pieces in their turn, then what is small.
#[derive(Default)]
pub(super) struct Outgoing {
    pieces: VecDeque<Bytes>,
    /// Bytes of all pieces.
    held: usize,
    small: Vec<u8>,
    /// So much of what is small has been written; none while there are pieces.
    written: usize,
    unflushed: bool,
}

/// What an answer answers to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) version: Version,
    /// Whether only the head is wanted.
    pub(super) head_only: bool,
    /// Whether the client takes trailers.
    pub(super) trailers: bool,
}

/// How the rest of a body is framed.
#[derive(Debug)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// By its length; so much is left.
    Length(u64),
    /// By chunks, with these trailers and no others.
    Chunked(Vec<HeaderName>),
    /// By the end of the connection.
    UntilEnd,
}

/// A body is longer or shorter than its head said: what was written cannot be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WrongLength;

impl Outgoing {
    /// Whether so much waits that nobody should add to it.
    pub(super) fn is_full(&self) -> bool {
        self.held + self.small.len() >= WRITTEN_AHEAD_MAX || self.pieces.len() >= PIECES_MAX
    }

    /// Bytes that are written as they are.
    pub(super) fn add_raw(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
        self.unflushed = true;
    }

    /// Adds the head of an answer and says how its body is framed. `size` is that of the body where it is known, and
    /// `keep` whether the connection may go on, which is taken back where it cannot.
    pub(super) fn add_head(
        &mut self,
        head: &Parts,
        asked: Asked,
        size: Option<u64>,
        keep: &mut bool,
        (date, ticker): (&Date, &Ticker),
    ) -> Framing {
        self.unflushed = true;
        let into = &mut self.small;
        write_status(into, head.status, asked.version);
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let mut is_dated = false;
        let (mut length, mut trailers) = (None, Vec::new());
        for (name, value) in &head.headers {
            if *name == CONTENT_LENGTH {
                length = length.or(Some(value));
            } else if *name == TRAILER {
                trailers.push(value);
            } else if *name == CONNECTION && !switches {
                *keep &= !has_token(value, b"close");
            } else if *name != TRANSFER_ENCODING {
                is_dated |= *name == DATE;
                write_field(into, name.as_str().as_bytes(), value.as_bytes());
            }
        }
        let framing = framing(head.status, asked, size, length);
        match (&framing, length) {
            (Framing::Length(length), _) => write_length(into, *length),
            (Framing::Chunked(_), _) => {
                into.extend_from_slice(b"transfer-encoding: chunked\r\n");
                trailers.iter().for_each(|value| write_field(into, b"trailer", value.as_bytes()));
            }
            (Framing::UntilEnd, _) => *keep = false,
            (Framing::None, Some(told)) if tells_length(head.status, asked) => {
                write_field(into, b"content-length", told.as_bytes());
            }
            (Framing::None, None) if asked.head_only && tells_length(head.status, asked) => {
                if let Some(size) = size.filter(|size| *size > 0) {
                    write_length(into, size);
                }
            }
            (Framing::None, _) => {}
        }
        if !switches {
            match (*keep, asked.version) {
                (false, _) => into.extend_from_slice(b"connection: close\r\n"),
                (true, Version::HTTP_10) => into.extend_from_slice(b"connection: keep-alive\r\n"),
                (true, _) => {}
            }
        }
        if !is_dated {
            into.extend_from_slice(b"date: ");
            date.write(ticker, into);
            into.extend_from_slice(b"\r\n");
        }
        into.extend_from_slice(b"\r\n");
        match framing {
            Framing::Chunked(_) if asked.trailers => Framing::Chunked(names(&trailers)),
            framing => framing,
        }
    }

    /// Adds a piece of a body.
    ///
    /// # Errors
    /// When there is more of it than was said.
    pub(super) fn add_data(&mut self, data: Bytes, framing: &mut Framing) -> Result<(), WrongLength> {
        if data.is_empty() {
            return Ok(());
        }
        self.unflushed = true;
        match framing {
            Framing::None => return Err(WrongLength),
            Framing::Length(left) => {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                *left = left.checked_sub(length).ok_or(WrongLength)?;
                self.add_piece(data);
            }
            Framing::UntilEnd => self.add_piece(data),
            Framing::Chunked(_) => {
                write_hex(&mut self.small, data.len());
                self.small.extend_from_slice(b"\r\n");
                self.add_piece(data);
                self.small.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Ends a body.
    ///
    /// # Errors
    /// When there is less of it than was said.
    pub(super) fn end(&mut self, framing: Framing, trailers: Option<&HeaderMap>) -> Result<(), WrongLength> {
        match framing {
            Framing::None | Framing::Length(0) | Framing::UntilEnd => Ok(()),
            Framing::Length(_) => Err(WrongLength),
            Framing::Chunked(announced) => {
                self.unflushed = true;
                self.small.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| announced.contains(name)) {
                    write_field(&mut self.small, name.as_str().as_bytes(), value.as_bytes());
                }
                self.small.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }

    fn add_piece(&mut self, data: Bytes) {
        if data.len() <= COPIED_BYTES_MAX {
            self.small.extend_from_slice(&data);
            return;
        }
        if !self.small.is_empty() {
            let mut before = Bytes::from(std::mem::take(&mut self.small));
            before.advance(std::mem::take(&mut self.written));
            self.hold(before);
        }
        self.hold(data);
    }

    fn hold(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.held += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Writes everything, and has it leave.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.pieces.is_empty() || self.written < self.small.len() {
            let count = ready!(self.poll_write_some(io, cx))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(count);
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_some<W: AsyncWrite + Unpin>(&self, io: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let small = self.small.get(self.written..).unwrap_or_default();
        if self.pieces.is_empty() {
            return Pin::new(io).poll_write(cx, small);
        }
        let mut all = [IoSlice::new(b""); PIECES_MAX + 1];
        let parts = self.pieces.iter().map(|piece| &**piece).chain([small]);
        let count = all.iter_mut().zip(parts).map(|(slot, part)| *slot = IoSlice::new(part)).count();
        Pin::new(io).poll_write_vectored(cx, all.get(..count).unwrap_or_default())
    }

    /// Gives back what small pieces were gathered in, where all of them are written and more may be long in coming.
    pub(super) fn lighten(&mut self) {
        if self.small.is_empty() && self.small.capacity() > SMALL_KEPT_MAX {
            self.small = Vec::new();
        }
    }

    fn advance(&mut self, count: usize) {
        let mut left = count;
        while left > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let taken = left.min(piece.len());
            piece.advance(taken);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            self.held -= taken;
            left -= taken;
        }
        self.written += left;
        if self.written >= self.small.len() {
            self.small.clear();
            self.written = 0;
        }
    }
}

fn write_status(into: &mut Vec<u8>, status: StatusCode, version: Version) {
    if status == StatusCode::OK && version == Version::HTTP_11 {
        into.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    let version = if version == Version::HTTP_10 { "HTTP/1.0 " } else { "HTTP/1.1 " };
    // There must be a reason: many programs want one.
    for part in [version, status.as_str(), " ", status.canonical_reason().unwrap_or("Unknown"), "\r\n"] {
        into.extend_from_slice(part.as_bytes());
    }
}

fn framing(status: StatusCode, asked: Asked, size: Option<u64>, told: Option<&HeaderValue>) -> Framing {
    let is_bodiless = asked.head_only
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if is_bodiless {
        return Framing::None;
    }
    match size.or_else(|| told.and_then(|told| number(told.as_bytes()))) {
        Some(length) => Framing::Length(length),
        None if asked.version == Version::HTTP_10 => Framing::UntilEnd,
        None => Framing::Chunked(Vec::new()),
    }
}

/// Whether an answer without a body says how long one would be.
fn tells_length(status: StatusCode, asked: Asked) -> bool {
    !status.is_informational()
        && status != StatusCode::NO_CONTENT
        && (asked.head_only || status == StatusCode::NOT_MODIFIED)
}

fn names(trailers: &[&HeaderValue]) -> Vec<HeaderName> {
    let members = trailers.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    members.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

fn write_length(into: &mut Vec<u8>, length: u64) {
    into.extend_from_slice(b"content-length: ");
    let mut digits = [0; 20];
    let mut begin = digits.len();
    let mut left = length;
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        // One digit.
        *digit = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
        begin = at;
        if left == 0 {
            break;
        }
    }
    into.extend_from_slice(digits.get(begin..).unwrap_or_default());
    into.extend_from_slice(b"\r\n");
}

fn write_hex(into: &mut Vec<u8>, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = (number >> (4 * place)) & 0xf;
        into.push(*b"0123456789ABCDEF".get(digit).unwrap_or(&b'0'));
    }
}

fn write_field(into: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    into.reserve(name.len() + value.len() + 4);
    for part in [name, b": ", value, b"\r\n"] {
        into.extend_from_slice(part);
    }
}

/// A larger buffer for small pieces is not kept while nothing is in it.
const SMALL_KEPT_MAX: usize = 4 * 1024;
/// A piece of a body up to this is copied behind the head: cheaper than a second piece for the kernel to gather.
const COPIED_BYTES_MAX: usize = 4 * 1024;
/// More pieces than this are not held.
const PIECES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_grew_is_given_back_once_it_is_empty() {
        let mut outgoing = Outgoing::default();
        outgoing.small.resize(SMALL_KEPT_MAX + 1, b'x');
        outgoing.lighten();
        assert!(!outgoing.small.is_empty(), "it is still to be written");
        outgoing.advance(SMALL_KEPT_MAX + 1);
        outgoing.lighten();
        assert_eq!(outgoing.small.capacity(), 0);
    }
}
