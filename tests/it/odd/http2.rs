//! Odd requests over HTTP/2, frame by frame.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::Scene;
use super::frames::{Came, END_STREAM, Frames};
use crate::harness::{Config, Site};

type Field = (&'static str, &'static str);

const METHOD: Field = (":method", "GET");
const SCHEME: Field = (":scheme", "http");
const AUTHORITY: Field = (":authority", "a.example");
const PATH: Field = (":path", "/public/x");

fn bytes<'f>(fields: &[(&'f str, &'f str)]) -> Vec<(&'f [u8], &'f [u8])> {
    fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
}

/// A good head with one of its own fields replaced.
fn but(field: Field) -> Vec<Field> {
    [METHOD, SCHEME, AUTHORITY, PATH].map(|own| if own.0 == field.0 { field } else { own }).to_vec()
}

/// A good head with more fields.
fn and(more: &[Field]) -> Vec<Field> {
    [&[METHOD, SCHEME, AUTHORITY, PATH], more].concat()
}

fn without(name: &str) -> Vec<Field> {
    and(&[]).into_iter().filter(|field| field.0 != name).collect()
}

#[test]
fn an_odd_head_over_http_2_arrives_in_no_form() {
    let scene = Scene::new("timeouts = { first_byte = '10s' }");
    let mut heads = vec![
        without(":method"),
        without(":scheme"),
        without(":path"),
        without(":authority"),
        but((":method", "")),
        but((":method", "G T")),
        but((":method", "get")),
        but((":method", "CONNECT")),
        but((":method", "TRACE")),
        but((":method", "QUERY")),
        but((":scheme", "ftp")),
        but((":scheme", "")),
        but((":scheme", "javascript")),
        but((":authority", "")),
        but((":authority", "u@a.example")),
        but((":authority", "u:p@a.example")),
        but((":authority", "a.example:")),
        but((":authority", "a.example:x")),
        but((":authority", "a..example")),
        but((":authority", "a example")),
        but((":authority", "a.example/public/admin")),
        but((":authority", "a.example, b.example")),
        but((":authority", "a.example\r\nx: y")),
        but((":path", "")),
        but((":path", "public/x")),
        but((":path", "*")),
        but((":path", "?a")),
        but((":path", "//public/x")),
        but((":path", "http://a.example/public/x")),
        but((":path", "/public/x y")),
        but((":path", "/public/x\r\nHost: b")),
        but((":path", "/public/../any/x")),
        but((":path", "/public/%2e%2e/any/x")),
        but((":path", "/public\\x")),
        but((":path", "/public//x")),
        but((":path", "/public/admin/x")),
        but((":path", "/public/\0")),
        but((":path", "/any/x")),
        and(&[(":method", "GET")]),
        and(&[(":path", "/public/y")]),
        and(&[(":authority", "a.example")]),
        and(&[(":scheme", "http")]),
        and(&[(":status", "200")]),
        and(&[(":protocol", "websocket")]),
        and(&[(":x", "y")]),
        and(&[("host", "b.example")]),
        and(&[("host", "a.example:81")]),
        and(&[("host", "a.example"), ("host", "a.example")]),
        and(&[("host", "")]),
        and(&[("x", "y"), (":x", "y")]),
        and(&[("X-Upper", "y")]),
        and(&[("Authorization", "y")]),
        and(&[("", "y")]),
        and(&[("a b", "y")]),
        and(&[("a:b", "y")]),
        and(&[("a\r\nb", "y")]),
        and(&[("a\0", "y")]),
        and(&[("x", "a\r\nb: c")]),
        and(&[("x", "a\nb")]),
        and(&[("x", "a\0b")]),
        and(&[("connection", "close")]),
        and(&[("connection", "keyward-key-id")]),
        and(&[("keep-alive", "timeout=1")]),
        and(&[("proxy-connection", "keep-alive")]),
        and(&[("transfer-encoding", "chunked")]),
        and(&[("transfer-encoding", "identity")]),
        and(&[("upgrade", "h2c")]),
        and(&[("te", "gzip")]),
        and(&[("te", "trailers, gzip")]),
        and(&[("content-length", "5")]),
        and(&[("content-length", "+0")]),
        and(&[("content-length", "-1")]),
        and(&[("content-length", "0, 0")]),
        and(&[("content-length", "x")]),
        and(&[("content-length", "0"), ("content-length", "1")]),
        and(&[("expect", "200-ok")]),
        and(&[("authorization", "Bearer a"), ("authorization", "Bearer a")]),
    ];
    let mut last = and(&[]);
    last.rotate_left(1);
    last.insert(0, ("x", "y"));
    heads.push(last);
    for head in heads {
        let mut frames = Frames::connect(scene.gateway.address());
        let stream = frames.head(&bytes(&head), END_STREAM);
        let came = frames.outcome(stream);
        assert_ne!(came, Came::Status(200), "{head:?}");
        let (arrived, faults) = (scene.recorder.take(), scene.recorder.faults());
        assert!(arrived.is_empty() && faults.is_empty(), "{head:?} {arrived:?} {faults:?}");
    }
}

#[test]
fn a_good_head_over_http_2_arrives_once_and_in_the_form_of_http_1() {
    let scene = Scene::new("timeouts = { first_byte = '10s' }");
    for (head, names) in [
        (and(&[]), vec![]),
        (and(&[("host", "A.example")]), vec![]),
        ([METHOD, SCHEME, PATH, ("host", "a.example")].to_vec(), vec![]),
        (but((":scheme", "https")), vec![]),
        (but((":path", "/public/%78?a=b")), vec![]),
        (and(&[("te", "trailers")]), vec![]),
        (and(&[("content-length", "0")]), vec![]),
        (and(&[("cookie", "a=b"), ("cookie", "c=d"), ("cookie", "e=f")]), vec![("cookie", "a=b; c=d; e=f")]),
        (and(&[("x", " y\t")]), vec![("x", "y")]),
        (and(&[("x", "a"), ("x", "b")]), vec![]),
        (and(&[("keyward-key-id", "root"), ("x_forwarded_for", "6.6.6.6")]), vec![]),
    ] {
        let mut frames = Frames::connect(scene.gateway.address());
        let stream = frames.head(&bytes(&head), END_STREAM);
        assert_eq!(frames.outcome(stream), Came::Status(200), "{head:?}");
        let (arrived, faults) = (scene.recorder.take(), scene.recorder.faults());
        assert!(arrived.len() == 1 && faults.is_empty(), "{head:?} {arrived:?} {faults:?}");
        for (name, value) in names {
            assert_eq!(arrived[0].all(name), [value], "{head:?}");
        }
    }
    let padded = format!(" Bearer {} ", scene.key.token);
    let mut frames = Frames::connect(scene.gateway.address());
    let head = [METHOD, SCHEME, AUTHORITY, (":path", "/any/x"), ("authorization", &padded)];
    let stream = frames.head(&bytes(&head), END_STREAM);
    assert_eq!(frames.outcome(stream), Came::Status(200));
    assert_eq!((scene.recorder.take().len(), scene.recorder.faults()), (1, vec![]));
}

#[test]
fn a_body_over_http_2_that_is_not_as_long_as_it_says_arrives_in_no_form() {
    let scene = Scene::new("timeouts = { first_byte = '10s' }");
    let post =
        |length: &'static str| [(":method", "POST"), SCHEME, AUTHORITY, PATH, ("content-length", length)].to_vec();
    for (length, data) in [("5", "abc"), ("3", "abcdef"), ("0", "a"), ("1", "")] {
        let mut frames = Frames::connect(scene.gateway.address());
        let stream = frames.head(&bytes(&post(length)), 0);
        frames.data(stream, data.as_bytes(), END_STREAM);
        assert_ne!(frames.outcome(stream), Came::Status(200), "{length} {data:?}");
        let (arrived, faults) = (scene.recorder.take(), scene.recorder.faults());
        assert!(arrived.is_empty() && faults.is_empty(), "{length} {data:?} {arrived:?} {faults:?}");
    }
    for (method, head) in [("GET", vec![]), ("POST", vec![("content-length", "3")]), ("POST", vec![])] {
        let head = [vec![(":method", method), SCHEME, AUTHORITY, PATH], head].concat();
        let mut frames = Frames::connect(scene.gateway.address());
        let stream = frames.head(&bytes(&head), 0);
        frames.data(stream, b"abc", 0);
        frames.trailers(stream, &bytes(&[("keyward-key-id", "root"), ("x-forwarded-for", "6.6.6.6")]));
        assert_eq!(frames.outcome(stream), Came::Status(200), "{head:?}");
        let (arrived, faults) = (scene.recorder.take(), scene.recorder.faults());
        assert!(arrived.len() == 1 && faults.is_empty(), "{head:?} {arrived:?} {faults:?}");
        assert_eq!(arrived[0].body, b"abc");
    }
}

#[test]
fn an_expectation_over_http_2_is_decided_on_before_the_body_and_goes_no_further() {
    fn post<'f>(path: &'f str, expectation: &'f str, more: &[(&'f str, &'f str)]) -> Vec<(&'f str, &'f str)> {
        let head = [(":method", "POST"), SCHEME, AUTHORITY, (":path", path), ("expect", expectation)];
        [&head, more].concat()
    }
    let scene = Scene::new("timeouts = { first_byte = '10s' }");
    let bearer = format!("Bearer {}", scene.key.token);
    // Not a byte of the body is sent, and there is no 1xx before the answer.
    for (head, status) in [
        (post("/any/x", "100-continue", &[("content-length", "3")]), 401),
        (post("/any/admin/x", "100-continue", &[("authorization", &bearer)]), 403),
        (post("/nowhere", "100-continue", &[]), 404),
        (post("/public/x", "200-ok", &[]), 417),
    ] {
        let mut frames = Frames::connect(scene.gateway.address());
        let stream = frames.head(&bytes(&head), 0);
        assert_eq!(frames.outcome(stream), Came::Status(status), "{head:?}");
        assert_eq!((scene.recorder.take().len(), scene.recorder.faults()), (0, vec![]), "{head:?}");
    }
    // Who waits for a 100 that HTTP/2 has no room for here sends its body after a while.
    let mut frames = Frames::connect(scene.gateway.address());
    let stream = frames.head(&bytes(&post("/any/x", "100-continue", &[("authorization", &bearer)])), 0);
    assert_eq!(frames.outcome_within(stream, Duration::from_millis(200)), None);
    frames.data(stream, b"abc", END_STREAM);
    assert_eq!(frames.outcome(stream), Came::Status(200));
    let (arrived, faults) = (scene.recorder.take(), scene.recorder.faults());
    assert!(arrived.len() == 1 && faults.is_empty() && arrived[0].body == b"abc", "{arrived:?} {faults:?}");
}

#[test]
fn pseudo_fields_among_trailers_reach_nobody() {
    let scene = Scene::new("timeouts = { first_byte = '10s' }");
    let bearer = format!("Bearer {}", scene.key.token);
    for pseudo in
        [(":path", "/public/admin/x"), (":method", "DELETE"), (":authority", "b"), (":status", "200"), (":x", "y")]
    {
        for kind in ["application/grpc", "text/plain"] {
            let head = [
                (":method", "POST"),
                SCHEME,
                AUTHORITY,
                (":path", "/any/x"),
                ("authorization", &bearer),
                ("content-type", kind),
            ];
            let mut frames = Frames::connect(scene.gateway.address());
            let stream = frames.head(&bytes(&head), 0);
            frames.data(stream, b"abc", 0);
            frames.trailers(stream, &bytes(&[pseudo, ("x-sum", "1")]));
            let came = frames.outcome(stream);
            let (arrived, faults) = (scene.recorder.take(), scene.recorder.faults());
            assert!(faults.is_empty(), "{pseudo:?} {faults:?}");
            // Malformed by RFC 9113, 8.1: refused, or forwarded as if it were not there.
            let Some(one) = arrived.first() else {
                assert_ne!(came, Came::Status(200), "{pseudo:?}");
                continue;
            };
            assert_eq!((arrived.len(), one.target.as_str(), one.method.as_str()), (1, "/r-any/any/x", "POST"));
            assert!(one.trailers.iter().all(|(name, _)| name == "x-sum"), "{pseudo:?} {:?}", one.trailers);
        }
    }
}

#[test]
fn a_stream_that_is_reset_takes_its_call_to_the_service_with_it() {
    let service = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let config = Config::to(service.local_addr().expect("bound")).route("name = 'x'\npath = '/{*rest}'\npublic = true");
    let site = Site::new(&config);
    let gateway = site.start();
    let mut frames = Frames::connect(gateway.address());
    for _ in 0..20 {
        let stream = frames.head(&bytes(&and(&[])), END_STREAM);
        let (mut call, _peer) = service.accept().expect("a call");
        call.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        assert!(call.read(&mut [0; 4096]).expect("a request") > 0);
        frames.reset(stream);
        assert!(matches!(call.read(&mut [0; 16]), Ok(0) | Err(_)), "the call goes on");
    }
    let stream = frames.head(&bytes(&and(&[])), END_STREAM);
    let (mut call, _peer) = service.accept().expect("a call");
    assert!(call.read(&mut [0; 4096]).expect("a request") > 0);
    call.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("a socket");
    assert_eq!(frames.outcome(stream), Came::Status(200));
}

/// Begins a POST of three bytes, which are sent without a word that this is all; its stream.
fn three_bytes(frames: &mut Frames, path: &'static str) -> u32 {
    let head = [(":method", "POST"), SCHEME, AUTHORITY, (":path", path), ("content-length", "3")];
    let stream = frames.head(&bytes(&head), 0);
    frames.data(stream, b"abc", 0);
    stream
}

/// Reads a request up to its three bytes.
fn read_three_bytes(call: &mut TcpStream) {
    call.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
    while !seen.ends_with(b"abc") {
        let count = call.read(&mut chunk).expect("a request");
        assert!(count > 0, "closed after {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&chunk[..count]);
    }
}

#[test]
fn a_body_over_http_2_whose_end_comes_after_its_last_byte_is_whole_by_then() {
    let service = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = format!("targets = ['http://{}']\nhead_timeout = '2s'", service.local_addr().expect("bound"));
    let site = Site::new(&Config::towards(&target));
    let gateway = site.start();
    let mut frames = Frames::connect(gateway.address());
    let first = three_bytes(&mut frames, "/public/x");
    let (mut call, _peer) = service.accept().expect("a call");
    read_three_bytes(&mut call);
    frames.data(first, b"", END_STREAM);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    call.write_all(answer).expect("a socket");
    assert_eq!(frames.outcome(first), Came::Status(200));
    // Its connection serves the next one, whose end never comes.
    let second = three_bytes(&mut frames, "/public/x");
    read_three_bytes(&mut call);
    call.write_all(answer).expect("a socket");
    assert_eq!(frames.outcome(second), Came::Status(200));
}

#[test]
fn a_silent_service_that_has_a_whole_body_is_given_up_and_its_client_is_not() {
    let service = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = format!("targets = ['http://{}']\nhead_timeout = '400ms'", service.local_addr().expect("bound"));
    let slow = "name = 'slow'\npath = '/slow'\npublic = true\nstream_idle = '100ms'";
    let site = Site::new(&Config::towards(&target).route(slow));
    let gateway = site.start();
    for path in ["/public/x", "/slow"] {
        let mut frames = Frames::connect(gateway.address());
        let stream = three_bytes(&mut frames, path);
        let (mut call, _peer) = service.accept().expect("a call");
        read_three_bytes(&mut call);
        frames.data(stream, b"", END_STREAM);
        assert_eq!(frames.outcome(stream), Came::Status(504), "{path}");
    }
}

#[test]
fn a_connection_has_no_more_streams_than_it_may() {
    let service = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let config = Config::to(service.local_addr().expect("bound"))
        .gateway("limits = { http2_streams = 3 }")
        .route("name = 'x'\npath = '/{*rest}'\npublic = true");
    let site = Site::new(&config);
    let gateway = site.start();
    let mut frames = Frames::connect(gateway.address());
    let open: Vec<_> = (0..3).map(|_| frames.head(&bytes(&and(&[])), END_STREAM)).collect();
    let calls: Vec<_> = open.iter().map(|_| service.accept().expect("a call")).collect();
    let more = frames.head(&bytes(&and(&[])), END_STREAM);
    // REFUSED_STREAM: it may be sent again.
    assert_eq!(frames.outcome(more), Came::Reset(7));
    service.set_nonblocking(true).expect("a socket");
    assert!(service.accept().is_err(), "a fourth call");
    drop(calls);
}
