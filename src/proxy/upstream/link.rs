//! What the pool needs of a protocol towards an upstream: dialling, one exchange at a time, and
//! knowing whether a connection is still good. A leaner codec can take the place of the present one
//! by implementing these two traits.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::listen::{Paced, RequestBody};
use crate::proxy::headers::{REQUEST_ID, TRACE_PARENT};
use crate::proxy::settings::Target;
use crate::tls;
use crate::wire::Inbound;

/// Makes connections.
pub(crate) trait Dial: fmt::Debug + 'static {
    /// A connection.
    type Link: Link;

    /// Connects. Cancel-safe: a dropped future leaves no connection.
    fn dial(&self, to: Endpoint<'_>) -> impl Future<Output = io::Result<Self::Link>>;

    /// The addresses of a name.
    fn look_up(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>>;
}

/// Where to connect to, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoint<'a> {
    pub(crate) target: &'a Target,
    /// One of the target's addresses; none for a socket file.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) tls: Option<&'a tls::Client>,
    /// Whether nothing but HTTP/1.1 will do.
    pub(crate) http1: bool,
    /// How many exchanges share an HTTP/2 connection.
    pub(crate) streams: u32,
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// It can take a request now.
    Ready,
    /// It has all the exchanges that it can have at a time.
    Busy,
    /// It is closed, or takes no more requests.
    Closed,
}

/// A connection, or one's share of it. Dropping the last share closes the connection; what is in the
/// middle of an exchange then ends at once on HTTP/1, and with that exchange on HTTP/2.
pub(crate) trait Link: fmt::Debug + Sized + 'static {
    /// A response's body.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + fmt::Debug + Unpin + 'static;
    /// The connection's two directions once an upgrade took it over.
    type Tunnel: AsyncRead + AsyncWrite + Unpin + 'static;

    /// How it stands.
    fn state(&self) -> LinkState;

    /// Whether it can be kept for another exchange, as far as is known without looking: [`Self::state`] looks, when it
    /// is taken again.
    fn is_kept(&self) -> bool;

    /// Nothing is expected of it for a while: it holds no more memory than it must.
    fn rest(&self);

    /// A share for one more exchange; none where the connection carries one at a time.
    fn share(&self) -> Option<Self>;

    /// Whether the connection carries many exchanges at a time.
    fn is_multiplexed(&self) -> bool;

    /// Whether others hold a share beside this one.
    fn is_shared(&self) -> bool;

    /// Sends a request and waits for the head of its response. In a box: it goes through half a dozen futures,
    /// each of which would hold it twice.
    fn exchange(&mut self, request: Box<Asked>) -> impl Future<Output = Result<Response<Self::Body>, Lost>>;

    /// The raw connection behind a 101.
    fn tunnel(response: Response<Self::Body>) -> impl Future<Output = io::Result<Self::Tunnel>>;
}

/// A request for an upstream.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request<Upload>,
    /// Comes after the fields of the request, none of which has one of these names, `via` excepted.
    pub(crate) added: Added,
}

impl Asked {
    /// This request, with nothing added.
    pub(crate) const fn of(request: Request<Upload>) -> Self {
        Self { request, added: Added::nothing() }
    }

    /// Puts what was added into the request.
    pub(super) fn settle(&mut self) {
        for (name, mut value) in std::mem::take(&mut self.added).fields() {
            // They come once and never again: in HTTP/2's table they would take the places of what comes again.
            value.set_sensitive([REQUEST_ID, TRACE_PARENT].contains(&name));
            self.request.headers_mut().append(name, value);
        }
    }
}

/// Fields that the gateway adds, as HTTP/1.1 writes them. Most of what an upstream is sent is the gateway's own: as
/// text it is made in half the time that a list of names and values takes, and written in one piece. HTTP/2 reads it
/// back.
#[derive(Clone, Default)]
pub(crate) struct Added(Vec<u8>);

impl Added {
    /// None.
    pub(crate) const fn nothing() -> Self {
        Self(Vec::new())
    }

    /// None yet, and room for as many as most requests get.
    pub(crate) fn begin() -> Self {
        Self(Vec::with_capacity(ADDED_BYTES_USUAL))
    }

    /// One more.
    pub(crate) fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.write(name, value.as_bytes());
    }

    /// One more. What could not stand in a field is left out rather than forged.
    pub(crate) fn add_text(&mut self, name: &HeaderName, text: &[u8]) {
        // To the end in any case, so that many bytes are looked at in one instruction.
        if text.iter().fold(true, |so_far, byte| so_far & matches!(byte, b'\t' | b' '..=b'~' | 0x80..)) {
            self.write(name, text);
        }
    }

    fn write(&mut self, name: &HeaderName, value: &[u8]) {
        let name = name.as_str().as_bytes();
        self.0.reserve(name.len() + value.len() + 4);
        for part in [name, b": ", value, b"\r\n"] {
            self.0.extend_from_slice(part);
        }
    }

    /// Some more.
    pub(crate) fn add_all(&mut self, others: &Self) {
        self.0.extend_from_slice(&others.0);
    }

    /// As HTTP/1.1 writes them: a line each.
    pub(crate) fn as_lines(&self) -> &[u8] {
        &self.0
    }

    /// As names and values.
    fn fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.0.split(|byte| *byte == b'\n').filter_map(|line| {
            let line = line.strip_suffix(b"\r")?;
            let (name, value) = line.split_at_checked(line.iter().position(|byte| *byte == b':')?)?;
            let value = HeaderValue::from_bytes(value.strip_prefix(b": ")?).ok()?;
            Some((HeaderName::from_bytes(name).ok()?, value))
        })
    }
}

/// Never shows a value.
impl fmt::Debug for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.fields().map(|(name, _)| name)).finish()
    }
}

/// With short names of project, environment and flags it is some 500.
const ADDED_BYTES_USUAL: usize = 640;

/// An exchange that ended without a response's head.
#[derive(Debug)]
pub(crate) struct Lost {
    /// The request, if no byte of it was written.
    pub(crate) untouched: Option<Box<Asked>>,
    /// The request, if something of it was written and the connection still had it.
    pub(crate) written: Option<Box<Asked>>,
    /// What the other side said of it.
    pub(crate) word: Word,
    /// What happened.
    pub(crate) cause: Box<dyn Error + Send + Sync>,
}

/// What the other side said of a request that it did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing.
    Silent,
    /// Part of an answer.
    Begun,
    /// That it refuses this one unprocessed (`REFUSED_STREAM`).
    Refused,
    /// That it is going away and processed nothing of it (`GOAWAY`).
    GoingAway,
}

/// A client's body, limited and paced.
pub(crate) type ClientBody = Inbound<Paced<RequestBody>>;

/// A request's body as an upstream gets it.
#[derive(Debug)]
pub(crate) enum Upload {
    /// None.
    Empty,
    /// What the client sends, as it comes, on the sending of this number.
    Stream(Rc<Source>, u32),
    /// A few bytes of our own.
    Own(Bytes),
}

/// A client's body that can be taken back from the connection it is sent on, for instance when the
/// upstream has answered without waiting for all of it, or when the request is sent again.
#[derive(Debug)]
pub(crate) struct Source {
    body: RefCell<Option<ClientBody>>,
    sending: Cell<u32>,
    /// Of the connection that waits for more of it.
    waker: RefCell<Option<Waker>>,
}

impl Source {
    /// Puts `body` at the disposal of a connection.
    pub(crate) fn new(body: ClientBody) -> Rc<Self> {
        Rc::new(Self { body: RefCell::new(Some(body)), sending: Cell::new(0), waker: RefCell::default() })
    }

    /// What is left of it. The connection sees a body that broke off.
    pub(crate) fn take(&self) -> Option<ClientBody> {
        let taken = self.body.borrow_mut().take();
        self.wake();
        taken
    }

    /// A connection that waits for more has to see that it waits in vain.
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let polled = match self.body.borrow_mut().as_mut() {
            Some(body) => Pin::new(body).poll_frame(cx).map_err(|_broken_off| CutShort::new()),
            None => Poll::Ready(Some(Err(CutShort::new()))),
        };
        if polled.is_pending() {
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        polled
    }
}

/// A request's body that ends before its end. Tells HTTP/2 that nobody wants an answer any more.
#[derive(Debug, thiserror::Error)]
#[error("the request's body broke off")]
pub(crate) struct CutShort(#[source] h2::Error);

impl CutShort {
    fn new() -> Self {
        Self(h2::Reason::CANCEL.into())
    }
}

impl Upload {
    /// What `source` has, for its present sending.
    pub(crate) fn of(source: &Rc<Source>) -> Self {
        Self::Stream(Rc::clone(source), source.sending.get())
    }

    /// The same, to be sent [`again`](Self::again) if need be.
    pub(crate) fn kept(&self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Own(bytes) => Self::Own(bytes.clone()),
            Self::Stream(source, sending) => Self::Stream(Rc::clone(source), *sending),
        }
    }

    /// The same for one sending more, and nothing for those before. Only where nothing of it was read.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Own(bytes) => Self::Own(bytes.clone()),
            Self::Stream(source, _) => {
                source.sending.set(source.sending.get().wrapping_add(1));
                source.wake();
                Self::of(source)
            }
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(source, sending) if *sending == source.sending.get() => source.poll_frame(cx),
            Self::Stream(..) => Poll::Ready(Some(Err(CutShort::new()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Own(bytes) => bytes.is_empty(),
            Self::Stream(source, _) => source.body.borrow().as_ref().is_some_and(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Own(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Self::Stream(source, _) => source.body.borrow().as_ref().map_or_else(SizeHint::default, Body::size_hint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: HeaderName = HeaderName::from_static("keyward-user");

    fn read_back(added: &Added) -> Vec<(HeaderName, HeaderValue)> {
        added.fields().collect()
    }

    #[test]
    fn what_is_added_is_the_same_as_lines_and_as_fields() {
        let mut added = Added::begin();
        added.add(&NAME, &HeaderValue::from_static("a: b, c"));
        added.add_text(&NAME, b"");
        let mut more = Added::nothing();
        more.add_text(&HeaderName::from_static("via"), "1.1 ke\u{fc}".as_bytes());
        added.add_all(&more);
        assert_eq!(added.as_lines(), "keyward-user: a: b, c\r\nkeyward-user: \r\nvia: 1.1 ke\u{fc}\r\n".as_bytes());
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).expect("a value");
        let via = (HeaderName::from_static("via"), value("1.1 ke\u{fc}"));
        assert_eq!(read_back(&added), [(NAME, value("a: b, c")), (NAME, value("")), via]);
    }

    #[test]
    fn what_no_field_can_hold_is_not_added() {
        for byte in 0..=u8::MAX {
            let text = [b'a', byte, b'b'];
            let mut added = Added::begin();
            added.add_text(&NAME, &text);
            let value = HeaderValue::from_bytes(&text).ok();
            assert_eq!(read_back(&added), value.map(|value| (NAME, value)).into_iter().collect::<Vec<_>>(), "{byte}");
        }
    }

    #[test]
    fn what_was_added_is_not_shown() {
        let mut added = Added::begin();
        added.add_text(&NAME, b"somebody");
        assert_eq!(format!("{added:?}"), "{\"keyward-user\"}");
    }

    #[test]
    fn what_comes_once_takes_no_place_in_the_tables_of_http_2() {
        let mut asked = Asked::of(Request::new(Upload::Empty));
        for name in [REQUEST_ID, TRACE_PARENT, NAME] {
            asked.added.add_text(&name, b"1");
        }
        asked.settle();
        let fields = asked.request.headers();
        assert!(
            fields[REQUEST_ID].is_sensitive() && fields[TRACE_PARENT].is_sensitive() && !fields[NAME].is_sensitive()
        );
    }
}
