//! A client's requests are the same however their bytes are cut; and what is taken for a whole request is taken for the
//! same one by hyper's server, which is read and attacked by many. Ours may refuse what hyper takes, and nothing else.
#![no_main]

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keyward::listen::{Limits, RequestRead, RequestsEnd, read_requests};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};

/// What the bytes begin with, so that bodies are reached as soon as heads.
const BEGINNINGS: [&str; 6] = [
    "",
    "GET / HTTP/1.1\r\n",
    "GET / HTTP/1.0\r\nconnection: keep-alive\r\n",
    "PUT / HTTP/1.1\r\ncontent-length:",
    "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
    "PUT / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
];

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().build().expect("a runtime");
}

fuzz_target!(|data: &[u8]| {
    let [choice, cut, data @ ..] = data else { return };
    let beginning = BEGINNINGS[usize::from(*choice) % BEGINNINGS.len()];
    let bytes = [beginning.as_bytes(), data].concat();
    let limits = Limits::default();

    let whole = read_requests(&limits, [&bytes[..]]);
    for piece in [1, 2, 7, usize::from(*cut) + 1] {
        let pieces = read_requests(&limits, bytes.chunks(piece));
        assert_eq!(pieces.requests, whole.requests, "{piece} at a time: {}", bytes.escape_ascii());
        assert!(is_the_same(pieces.end, whole.end), "{piece} at a time: {pieces:?}, {whole:?}");
    }
    let by_hyper = RUNTIME.with(|runtime| runtime.block_on(by_hyper(&bytes)));
    let mut ours = &whole.requests[..];
    if matches!(whole.end, RequestsEnd::BadBody | RequestsEnd::InBody) {
        // The last is not whole.
        ours = &ours[..ours.len() - 1];
    }
    for (at, one) in ours.iter().enumerate() {
        let other = by_hyper.get(at).unwrap_or_else(|| panic!("{one:?} is none to hyper: {}", bytes.escape_ascii()));
        assert_eq!(one.line, other.line, "{}", bytes.escape_ascii());
        assert_eq!(one.fields, other.fields, "{}", bytes.escape_ascii());
        assert!(one.body == other.body, "{one:?}, {other:?}: {}", bytes.escape_ascii());
        assert_eq!(one.trailers, other.trailers, "{}", bytes.escape_ascii());
    }
    let goes_on = whole.end == RequestsEnd::Kept || matches!(whole.end, RequestsEnd::InHead(_));
    if goes_on || matches!(whole.end, RequestsEnd::Closed { .. }) {
        // What is behind the last one is no request to either.
        assert_eq!(ours.len(), by_hyper.len(), "{whole:?}, {by_hyper:?}: {}", bytes.escape_ascii());
    }
});

/// What is refused may be so for the first of its faults that is seen, and is looked at again with each line that ends.
fn is_the_same(pieces: RequestsEnd, whole: RequestsEnd) -> bool {
    let is_refused = matches!(whole, RequestsEnd::Refused(_));
    pieces == whole || is_refused && matches!(pieces, RequestsEnd::Refused(_) | RequestsEnd::InHead(_))
}

/// The requests that hyper sees before it gives up.
async fn by_hyper(bytes: &[u8]) -> Vec<RequestRead> {
    let (ours, mut theirs) = tokio::io::duplex(1024 * 1024);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = {
        let seen = Rc::clone(&seen);
        service_fn(move |request: Request<Incoming>| {
            let seen = Rc::clone(&seen);
            async move {
                let (head, mut body) = request.into_parts();
                let line = format!("{} {}", head.method, head.uri);
                let expects = head.version == Version::HTTP_11 && head.headers.contains_key("expect");
                let mut read = RequestRead { line, fields: head.headers, body: Vec::new(), trailers: None, expects };
                while let Some(frame) = body.frame().await {
                    match frame.map(http_body::Frame::into_data) {
                        Ok(Ok(data)) => read.body.extend_from_slice(&data),
                        Ok(Err(frame)) => read.trailers = frame.into_trailers().ok(),
                        Err(_broke_off) => break,
                    }
                }
                seen.borrow_mut().push(read);
                Ok::<_, Infallible>(Response::new(Empty::<&[u8]>::new()))
            }
        })
    };
    let client = async move {
        // It may have closed already, and said why.
        let _unread = theirs.write_all(bytes).await;
        let _closed = theirs.shutdown().await;
        let _answers = theirs.read_to_end(&mut Vec::new()).await;
    };
    let mut server = hyper::server::conn::http1::Builder::new();
    let server = server.half_close(true).serve_connection(TokioIo::new(ours), service);
    let (_, _ended) = tokio::join!(client, async { server.await });
    seen.take()
}
