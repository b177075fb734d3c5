//! A request on its way out.

use std::fmt::Write as _;
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, Request};
use http_body::Body;
use tokio::io::AsyncWrite;

use crate::proxy::upstream::link::{Asked, CutShort, Upload};

/// What is still to be written of a request: its head and whatever else is small, then one large piece of its
/// body, then the rest of the body.
pub(super) struct Outgoing {
    small: Vec<u8>,
    written: usize,
    large: Bytes,
    /// What ends the large piece.
    after: &'static [u8],
    body: Upload,
    framing: Framing,
    flushed: bool,
    touched: bool,
}

/// How the end of the body is told.
#[derive(Debug)]
enum Framing {
    /// There is none, or it has been told.
    Over,
    /// By the length in the head; so much is left.
    Length(u64),
    /// By chunks, with these trailers and no others.
    Chunked(Vec<HeaderName>),
}

/// Why a request was not written to its end.
#[derive(Debug, thiserror::Error)]
pub(in crate::proxy::upstream) enum Unsent {
    /// The connection broke.
    #[error("the connection broke while the request was written")]
    Broken(#[source] io::Error),
    /// The body broke off.
    #[error("the request's body broke off")]
    Body(#[source] CutShort),
    /// The body is longer or shorter than its declared length, which the listener rules out.
    #[error("the request's body is not as long as it was said to be")]
    Length,
}

impl Outgoing {
    pub(super) const fn nothing() -> Self {
        Self {
            small: Vec::new(),
            written: 0,
            large: Bytes::new(),
            after: b"",
            body: Upload::Empty,
            framing: Framing::Over,
            flushed: true,
            touched: false,
        }
    }

    /// Gives back what it has no use for until the next request. Only when all has left.
    pub(super) fn rest(&mut self) {
        if self.small.capacity() > SMALL_KEPT_MAX {
            self.small = Vec::new();
        }
    }

    /// Holds no memory for another request. Everything was written.
    pub(super) fn give_back(&mut self) {
        (self.small, self.written) = (Vec::new(), 0);
    }

    /// Bytes of its buffer.
    #[cfg(test)]
    pub(super) const fn memory(&self) -> usize {
        self.small.capacity()
    }

    /// Whether all that there is was written, and more is waited for.
    pub(super) const fn awaits_body(&self) -> bool {
        self.touched && !self.has_more() && !matches!(self.framing, Framing::Over)
    }

    /// Holds no memory for what is yet to come.
    pub(super) fn lighten(&mut self) {
        if self.small.is_empty() {
            self.small = Vec::new();
        }
    }

    /// Begins with another request; the last one is done with.
    pub(super) fn begin(&mut self, asked: &Asked) {
        let request = &asked.request;
        self.small.clear();
        self.framing = framing(request);
        self.body = if matches!(self.framing, Framing::Over) { Upload::Empty } else { request.body().kept() };
        write_head(&mut self.small, asked, &self.framing);
        (self.written, self.large, self.after) = (0, Bytes::new(), b"");
        (self.flushed, self.touched) = (false, false);
    }

    /// Whether anything of the request was taken from its body, or written.
    pub(super) const fn is_touched(&self) -> bool {
        self.touched
    }

    /// Whether all of it has left.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.framing, Framing::Over) && self.flushed
    }

    /// Writes no more of it.
    pub(super) fn give_up(&mut self) {
        (self.written, self.large, self.after) = (self.small.len(), Bytes::new(), b"");
        (self.body, self.framing, self.flushed) = (Upload::Empty, Framing::Over, true);
    }

    /// Writes what can be written. Ready when all has left.
    pub(super) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsent>> {
        if self.is_over() {
            return Poll::Ready(Ok(()));
        }
        let mut sent = 0;
        loop {
            let waits = self.fill(cx, &mut sent)?;
            while self.has_more() {
                if sent >= TURN_BYTES {
                    // The answer may be here already, and others have their turn.
                    ready!(pin!(tokio::task::yield_now()).poll(cx));
                }
                self.flushed = false;
                let count = ready!(self.poll_write(socket, cx)).map_err(Unsent::Broken)?;
                if count == 0 {
                    return Poll::Ready(Err(Unsent::Broken(io::ErrorKind::WriteZero.into())));
                }
                self.touched = true;
                self.advance(count);
                sent += count;
            }
            if waits || matches!(self.framing, Framing::Over) {
                if !self.flushed {
                    ready!(Pin::new(&mut *socket).poll_flush(cx)).map_err(Unsent::Broken)?;
                    self.flushed = true;
                }
                return if waits { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
        }
    }

    const fn has_more(&self) -> bool {
        self.written < self.small.len() || !self.large.is_empty() || !self.after.is_empty()
    }

    fn poll_write<S: AsyncWrite + Unpin>(&self, socket: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let small = self.small.get(self.written..).unwrap_or_default();
        if self.large.is_empty() && self.after.is_empty() {
            return Pin::new(socket).poll_write(cx, small);
        }
        let all = [IoSlice::new(small), IoSlice::new(&self.large), IoSlice::new(self.after)];
        Pin::new(socket).poll_write_vectored(cx, &all)
    }

    fn advance(&mut self, count: usize) {
        let small = count.min(self.small.len() - self.written);
        self.written += small;
        let large = (count - small).min(self.large.len());
        self.large.advance(large);
        if self.large.is_empty() {
            // With nothing in it, it would keep all that its client's connection was read into.
            self.large = Bytes::new();
        }
        self.after = self.after.get(count - small - large..).unwrap_or_default();
        if self.written == self.small.len() {
            self.small.clear();
            self.written = 0;
        }
    }

    /// Takes what there is of the body, up to one large piece and what ends it: what is taken later goes
    /// behind both. Whether more has to be waited for. A small piece costs a turn more than its bytes.
    fn fill(&mut self, cx: &mut Context<'_>, turn: &mut usize) -> Result<bool, Unsent> {
        while !matches!(self.framing, Framing::Over)
            && self.large.is_empty()
            && self.after.is_empty()
            && self.small.len() < SMALL_BYTES_MAX
        {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(None) => self.end(None)?,
                Poll::Ready(Some(Err(broken_off))) => {
                    // Asked once more, a body that broke off would seem to be over.
                    self.touched = true;
                    return Err(Unsent::Body(broken_off));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    self.touched = true;
                    *turn += FRAME_BYTES;
                    match frame.into_data() {
                        Ok(data) => self.add(data)?,
                        Err(frame) => self.end(frame.trailers_ref())?,
                    }
                }
            }
            if matches!(self.framing, Framing::Length(0)) {
                self.end_at_length(cx)?;
            }
        }
        Ok(false)
    }

    fn add(&mut self, data: Bytes) -> Result<(), Unsent> {
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            Framing::Over => return Err(Unsent::Length),
            Framing::Length(left) => {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                *left = left.checked_sub(length).ok_or(Unsent::Length)?;
            }
            Framing::Chunked(_) => {
                let mut line = String::new();
                // A String takes whatever is written to it.
                let _never = write!(line, "{:X}\r\n", data.len());
                self.small.extend_from_slice(line.as_bytes());
                self.after = b"\r\n";
            }
        }
        if data.len() <= COPIED_BYTES_MAX {
            self.small.extend_from_slice(&data);
            self.small.extend_from_slice(self.after);
            self.after = b"";
        } else {
            self.large = data;
        }
        Ok(())
    }

    /// Ends a body that has its length. It is asked once more, so that its sender learns that it was read to
    /// its end where that is known already, and nobody waits for it where it is not.
    fn end_at_length(&mut self, cx: &mut Context<'_>) -> Result<(), Unsent> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending | Poll::Ready(None) => self.end(None),
            Poll::Ready(Some(Err(broken_off))) => Err(Unsent::Body(broken_off)),
            Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(|data| !data.is_empty()) => {
                Err(Unsent::Length)
            }
            Poll::Ready(Some(Ok(_nothing_more))) => self.end(None),
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Unsent> {
        match std::mem::replace(&mut self.framing, Framing::Over) {
            Framing::Over | Framing::Length(0) => {}
            Framing::Length(_) => return Err(Unsent::Length),
            Framing::Chunked(announced) => {
                self.small.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| announced.contains(name)) {
                    write_field(&mut self.small, name, value);
                }
                self.small.extend_from_slice(b"\r\n");
            }
        }
        self.body = Upload::Empty;
        Ok(())
    }
}

/// How the body is to be framed, by what the head says of it.
fn framing(request: &Request<Upload>) -> Framing {
    let headers = request.headers();
    // Most have neither, and to pass over the few names that there are takes less than to look one up.
    let (mut is_measured, mut is_coded) = (false, false);
    for name in headers.keys() {
        is_measured |= *name == CONTENT_LENGTH;
        is_coded |= *name == TRANSFER_ENCODING;
    }
    let declared = if is_measured { headers.get(CONTENT_LENGTH) } else { None };
    let declared = declared.and_then(|value| value.to_str().ok()?.parse().ok());
    // A length that nothing comes for would be taken from the next request: such a one fails as any other that
    // is shorter than it was said to be.
    if request.body().is_end_stream() && declared.is_none_or(|length| length == 0) {
        return Framing::Over;
    }
    if is_coded {
        let announced = headers.get_all(TRAILER).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let announced = announced.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
        return Framing::Chunked(announced.collect());
    }
    match declared.or_else(|| request.body().size_hint().exact()) {
        Some(length) => Framing::Length(length),
        None => Framing::Chunked(Vec::new()),
    }
}

fn write_head(into: &mut Vec<u8>, Asked { request, added }: &Asked, framing: &Framing) {
    let headers = request.headers();
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    for part in [request.method().as_str(), " ", target, " HTTP/1.1\r\n"] {
        into.extend_from_slice(part.as_bytes());
    }
    let is_chunked = matches!(framing, Framing::Chunked(_));
    for (name, value) in headers {
        // What frames the body is written once, and as it is.
        if *name != TRANSFER_ENCODING && !(is_chunked && *name == CONTENT_LENGTH) {
            write_field(into, name, value);
        }
    }
    into.extend_from_slice(added.as_lines());
    match framing {
        Framing::Chunked(_) => into.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(length) if !headers.contains_key(CONTENT_LENGTH) => {
            into.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
        }
        Framing::Length(_) | Framing::Over => {}
    }
    into.extend_from_slice(b"\r\n");
}

fn write_field(into: &mut Vec<u8>, name: &HeaderName, value: &http::HeaderValue) {
    into.reserve(name.as_str().len() + value.len() + 4);
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        into.extend_from_slice(part);
    }
}

/// A piece of a body up to this is copied behind the head: cheaper than a second piece for the kernel to gather.
const COPIED_BYTES_MAX: usize = 4 * 1024;
/// With so much waiting it is written before more is taken.
const SMALL_BYTES_MAX: usize = 16 * 1024;
/// A buffer larger than this is not kept while there is nothing to send.
const SMALL_KEPT_MAX: usize = 4 * 1024;
/// So much of a body is sent before it is looked whether the answer is here.
const TURN_BYTES: usize = 512 * 1024;
/// What taking a piece of a body costs, in bytes that are sent.
const FRAME_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http::HeaderValue;
    use http::header::HeaderName;

    use super::*;

    /// Takes so many bytes, then nothing once, then whatever comes.
    #[derive(Debug)]
    struct Narrow {
        first: Option<usize>,
        full: bool,
        taken: Vec<u8>,
    }

    impl Narrow {
        fn after(first: usize) -> Self {
            Self { first: Some(first), full: first == 0, taken: Vec::new() }
        }

        fn take(&mut self, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            if std::mem::take(&mut self.full) {
                return Poll::Pending;
            }
            let mut room = self.first.take().filter(|first| *first > 0).unwrap_or(usize::MAX);
            let before = self.taken.len();
            for part in parts {
                let count = part.len().min(room);
                self.taken.extend_from_slice(&part[..count]);
                room -= count;
            }
            self.full = room == 0;
            Poll::Ready(Ok(self.taken.len() - before))
        }
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
            self.take(&[IoSlice::new(from)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            from: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.take(from)
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn request(body: Upload, fields: &[(HeaderName, &'static str)]) -> Asked {
        let mut request = Request::new(body);
        request
            .headers_mut()
            .extend(fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))));
        Asked::of(request)
    }

    fn sent(request: &Asked, socket: &mut Narrow) -> Result<(), Unsent> {
        let (mut outgoing, mut cx) = (Outgoing::nothing(), Context::from_waker(Waker::noop()));
        outgoing.begin(request);
        for _ in 0..100 {
            if let Poll::Ready(sent) = outgoing.poll_send(socket, &mut cx) {
                assert!(sent.is_err() || outgoing.is_over());
                return sent;
            }
        }
        panic!("not sent");
    }

    #[test]
    fn a_request_is_the_same_wherever_its_writing_is_held_up() {
        for length in [1, COPIED_BYTES_MAX, COPIED_BYTES_MAX + 1] {
            let data = "x".repeat(length);
            for (fields, expected) in [
                (
                    &[(TRANSFER_ENCODING, "chunked")][..],
                    format!("GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{length:X}\r\n{data}\r\n0\r\n\r\n"),
                ),
                (&[], format!("GET / HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{data}")),
            ] {
                for first in 0..=expected.len() {
                    let mut socket = Narrow::after(first);
                    let request = request(Upload::Own(data.clone().into()), fields);
                    sent(&request, &mut socket).expect("all is taken");
                    assert!(socket.taken == expected.as_bytes(), "{length} bytes, held up after {first}");
                }
            }
        }
    }

    #[test]
    fn a_body_of_another_length_than_was_said_is_not_sent_on() {
        for (body, length) in [("", "5"), ("abc", "5"), ("abcdef", "5"), ("abc", "0")] {
            let body = if body.is_empty() { Upload::Empty } else { Upload::Own(body.into()) };
            let mut socket = Narrow::after(usize::MAX);
            let sent = sent(&request(body, &[(CONTENT_LENGTH, length)]), &mut socket);
            assert!(matches!(sent, Err(Unsent::Length)), "{sent:?}");
        }
    }

    #[test]
    fn length_and_coding_are_never_sent_together() {
        let fields = [(TRANSFER_ENCODING, "chunked"), (CONTENT_LENGTH, "3"), (TRANSFER_ENCODING, "gzip")];
        let mut socket = Narrow::after(usize::MAX);
        sent(&request(Upload::Own("abc".into()), &fields), &mut socket).expect("all is taken");
        let expected = "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(String::from_utf8(socket.taken).expect("text"), expected);
    }

    #[test]
    fn what_a_client_sent_is_let_go_of_once_it_is_written() {
        let held = std::sync::Arc::new([7_u8; 100]);
        struct Piece(std::sync::Arc<[u8; 100]>);
        impl AsRef<[u8]> for Piece {
            fn as_ref(&self) -> &[u8] {
                &*self.0
            }
        }
        let mut outgoing = Outgoing::nothing();
        outgoing.large = Bytes::from_owner(Piece(std::sync::Arc::clone(&held)));
        outgoing.advance(99);
        assert_eq!(std::sync::Arc::strong_count(&held), 2);
        outgoing.advance(1);
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
    }

    #[test]
    fn what_is_not_needed_is_given_back() {
        let mut outgoing = Outgoing::nothing();
        outgoing.begin(&request(Upload::Empty, &[]));
        outgoing.small.reserve(2 * SMALL_KEPT_MAX);
        outgoing.give_up();
        outgoing.rest();
        assert!(outgoing.small.capacity() <= SMALL_KEPT_MAX);
    }
}
