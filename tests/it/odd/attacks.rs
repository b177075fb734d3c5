//! Attacks that stretch over time, over several requests or over what lies beneath HTTP: what is sent by
//! and by, behind an answer, or in frames that say nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::Scene;
use super::frames::{Came, Frames};
use super::recorder::Recorder;
use crate::harness::{Config, Gateway, Http, Site, Stopwatch, client_config, get};

/// For whom nothing may take longer.
const PATIENCE: Duration = Duration::from_secs(10);

fn connect(gateway: &Gateway) -> TcpStream {
    let stream = TcpStream::connect(gateway.address()).expect("the gateway accepts connections");
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// Sends `again` every few milliseconds for as long as the gateway takes it; what it answered, and after how
/// long the connection was over.
fn drip(mut stream: TcpStream, again: &[u8]) -> (String, Duration) {
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket");
    let watch = Stopwatch::start();
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    while watch.elapsed() < PATIENCE {
        let _gone = stream.write_all(again);
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_reset) => break,
        }
    }
    (String::from_utf8_lossy(&answer).into_owned(), watch.elapsed())
}

#[test]
fn bytes_that_bring_a_request_no_further_do_not_keep_it_going() {
    let scene = Scene::new("timeouts = { first_byte = '200ms', head = '200ms', body_idle = '200ms', idle = '200ms' }");
    let chunked = "POST /public/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let before = "GET /public/x HTTP/1.1\r\nHost: a\r\n\r\n";
    for (name, beginning, again) in [
        ("zeros before a chunk's size", chunked.to_owned(), "0"),
        ("an extension without an end", format!("{chunked}3;"), "a"),
        ("space behind a size", format!("{chunked}3"), " "),
        ("a trailer without an end", format!("{chunked}0\r\nX: "), "a"),
        ("trailers without an end", format!("{chunked}0\r\n"), "X: y\r\n"),
        ("empty lines before a first request", String::new(), "\r\n"),
        ("a target without an end", "GET /".to_owned(), "a"),
        ("fields without an end", "GET /public/x HTTP/1.1\r\nHost: a\r\n".to_owned(), "X: y\r\n"),
        ("spaces in a value", "GET /public/x HTTP/1.1\r\nHost: a\r\nX:".to_owned(), " "),
    ] {
        let mut stream = connect(&scene.gateway);
        stream.write_all(beginning.as_bytes()).expect("a socket");
        let (answer, took) = drip(stream, again.as_bytes());
        assert!(took < PATIENCE, "{name}: still going after {took:?}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{name}: {answer}");
        assert_eq!((scene.recorder.take().len(), scene.recorder.faults()), (0, vec![]), "{name}");
    }
    // The same behind a request that was answered.
    for again in ["\r\n", "G"] {
        let mut stream = connect(&scene.gateway);
        stream.write_all(before.as_bytes()).expect("a socket");
        let (answer, took) = drip(stream, again.as_bytes());
        assert!(took < PATIENCE, "{again:?} behind an answer: still going after {took:?}");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!((scene.recorder.take().len(), scene.recorder.faults()), (1, vec![]), "{again:?}");
    }
}

/// Reads one of the gateway's own answers, which end with their line of JSON.
fn read_refusal(stream: &mut TcpStream) -> String {
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"}\n") {
        let count = stream.read(&mut chunk).expect("an answer");
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits for as long as the gateway waits for the first byte of a connection.
fn wait_for_first_byte(gateway: &Gateway) {
    let _reset = connect(gateway).read_to_end(&mut Vec::new());
}

/// What comes until it is quiet for a while, or over.
fn read_until_quiet(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
    let mut answers = Vec::new();
    let _quiet = stream.read_to_end(&mut answers);
    String::from_utf8_lossy(&answers).into_owned()
}

#[test]
fn the_rest_of_a_refused_body_is_no_request_however_late_it_comes() {
    // An idle connection gives its buffers back after a quarter of its time, which is here well over.
    let scene = Scene::new("timeouts = { first_byte = '500ms', idle = '1s' }");
    let rest = "GET /public/inside HTTP/1.1\r\nHost: a\r\n\r\n";
    let after = "GET /public/after HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for (length, stays) in [(10 + rest.len(), true), (100_000, false)] {
        let mut stream = connect(&scene.gateway);
        let head = format!("POST /any/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n0123456789");
        stream.write_all(head.as_bytes()).expect("a socket");
        let refusal = read_refusal(&mut stream);
        assert!(refusal.starts_with("HTTP/1.1 401 ") && refusal.contains("connection: close") != stays, "{refusal}");
        wait_for_first_byte(&scene.gateway);
        stream.write_all(rest.as_bytes()).expect("a socket");
        let _closing = stream.write_all(after.as_bytes());
        let answers = read_until_quiet(&mut stream);
        let arrived: Vec<_> = scene.recorder.take().into_iter().map(|request| request.target).collect();
        assert_eq!(arrived, if stays { &["/r-public/public/after"][..] } else { &[] }, "{length}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), arrived.len(), "{length}: {answers}");
        assert_eq!(scene.recorder.faults(), Vec::<String>::new());
    }
}

#[test]
fn a_refused_body_that_comes_slowly_is_not_taken_for_a_slow_head() {
    let scene = Scene::new("timeouts = { first_byte = '600ms', head = '200ms' }");
    let mut stream = connect(&scene.gateway);
    let head = "POST /any/x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("a socket");
    assert!(read_refusal(&mut stream).starts_with("HTTP/1.1 401 "));
    stream.write_all(b"01234").expect("a socket");
    wait_for_first_byte(&scene.gateway);
    assert_eq!(read_until_quiet(&mut stream), "", "nobody asked anything");
    stream.write_all(b"56789GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("a socket");
    assert!(read_until_quiet(&mut stream).starts_with("HTTP/1.1 200 "));
    assert_eq!((scene.recorder.take().len(), scene.recorder.faults()), (1, vec![]));
    // The same where all of it has come: the connection is idle, and no head is awaited.
    let mut stream = connect(&scene.gateway);
    stream.write_all(head.as_bytes()).expect("a socket");
    assert!(read_refusal(&mut stream).starts_with("HTTP/1.1 401 "));
    stream.write_all(b"0123456789").expect("a socket");
    wait_for_first_byte(&scene.gateway);
    assert_eq!(read_until_quiet(&mut stream), "", "nobody asked anything");
}

#[test]
fn frames_that_say_nothing_keep_no_connection_and_no_body_going() {
    const PING: u8 = 6;
    const PRIORITY: u8 = 2;
    const WINDOW_UPDATE: u8 = 8;
    const SETTINGS: u8 = 4;
    const UNKNOWN: u8 = 0x42;
    const PADDED: u8 = 8;
    let scene = Scene::new("timeouts = { first_byte = '200ms', head = '200ms', body_idle = '200ms', idle = '200ms' }");
    let says = [
        ("pings", PING, 0, vec![7; 8]),
        ("priorities", PRIORITY, 1, vec![0, 0, 0, 3, 16]),
        ("windows", WINDOW_UPDATE, 0, vec![0, 0, 0, 1]),
        ("settings", SETTINGS, 0, vec![]),
        ("what nobody knows", UNKNOWN, 0, vec![1; 64]),
    ];
    let mut open: Vec<_> = says.iter().map(|says| (says, Frames::connect(scene.gateway.address()))).collect();
    let watch = Stopwatch::start();
    while !open.is_empty() {
        let left: Vec<_> = open.iter().map(|((name, ..), _)| name).collect();
        assert!(watch.elapsed() < PATIENCE, "{left:?} keep their connections");
        for ((_, kind, stream, payload), frames) in &mut open {
            frames.frame(*kind, 0, *stream, payload);
        }
        open.retain_mut(|(_, frames)| !frames.is_gone());
        sleep(Duration::from_millis(20));
    }
    // A body of padding, and one of nothing.
    for (name, flags, payload) in [("padding", PADDED, [vec![200], vec![0; 200]].concat()), ("nothing", 0, vec![])] {
        let mut frames = Frames::connect(scene.gateway.address());
        let head: [(&[u8], &[u8]); 4] =
            [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/public/x")];
        let stream = frames.head(&head, 0);
        let watch = Stopwatch::start();
        let came = loop {
            assert!(watch.elapsed() < PATIENCE, "{name} keeps the body going");
            frames.frame(0, flags, stream, &payload);
            if let Some(came) = frames.outcome_within(stream, Duration::from_millis(20)) {
                break came;
            }
        };
        assert_ne!(came, Came::Status(200), "{name}");
    }
    assert_eq!((scene.recorder.take().len(), scene.recorder.faults()), (0, vec![]));
}

#[test]
fn empty_lines_in_front_of_a_request_are_passed_over_and_not_without_end() {
    let scene = Scene::new("");
    let refused = b"GET /any/x HTTP/1.1\r\nHost: a\r\n\r\n";
    for (name, asks_first, line) in [("at first", false, "\r\n"), ("later", true, "\r\n"), ("bare", true, "\n")] {
        let mut stream = connect(&scene.gateway);
        if asks_first {
            stream.write_all(refused).expect("a socket");
            assert!(read_refusal(&mut stream).starts_with("HTTP/1.1 401 "));
        }
        // So many in front of each are no fault.
        for _ in 0..3 {
            stream.write_all(line.repeat(1_000 / line.len()).as_bytes()).expect("a socket");
            stream.write_all(refused).expect("a socket");
            assert!(read_refusal(&mut stream).starts_with("HTTP/1.1 401 "), "{name}");
        }
        let watch = Stopwatch::start();
        let mut written = 0;
        // One at a time, or as many as there is room for: for ever it is neither.
        while stream.write_all(line.repeat(100).as_bytes()).is_ok() {
            assert!(watch.elapsed() < PATIENCE, "{name}: {written} are read");
            written += 100;
            sleep(Duration::from_millis(1));
        }
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{name}: {answer}");
    }
    assert_eq!(scene.recorder.take().len(), 0);
}

#[test]
fn floods_over_http_2_end_their_connection_and_cost_no_memory() {
    const RST_STREAM: u8 = 3;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;
    const HEAD: [(&[u8], &[u8]); 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/public/x")];
    const UPLOAD: [(&[u8], &[u8]); 4] =
        [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/public/x")];
    // A field of 4,000 bytes for the table (its name is the letter a), and 15,000 times that by its number.
    let bomb = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'b'; 4_000], &[0xbe; 12_000]].concat();
    // One piece of each; what begins them comes once.
    type Beginning<'b> = &'b dyn Fn(&mut Frames) -> u32;
    type Piece = Box<dyn Fn(&mut Frames, u32)>;
    type Flood<'b> = (&'static str, Beginning<'b>, Piece);
    let opened = |frames: &mut Frames| frames.head(&UPLOAD, 0);
    let begun = |frames: &mut Frames| {
        frames.frame(1, 0, 1, &[0x82]);
        1
    };
    let nothing = |_: &mut Frames| 0;
    let floods: [Flood<'_>; 6] = [
        (
            "rapid reset",
            &nothing,
            Box::new(|frames, _| {
                let stream = frames.head(&HEAD, 1);
                frames.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            }),
        ),
        (
            "made you reset",
            &nothing,
            Box::new(|frames, _| {
                let stream = frames.head(&HEAD, 1);
                frames.frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes());
            }),
        ),
        (
            "continuation",
            &begun,
            Box::new(|frames, stream| {
                let field = [&[0, 1, b'a', 100][..], &[b'b'; 100]].concat();
                frames.frame(CONTINUATION, 0, stream, &field.repeat(100));
            }),
        ),
        ("empty continuation", &begun, Box::new(|frames, stream| frames.frame(CONTINUATION, 0, stream, &[]))),
        ("table bomb", &nothing, Box::new(move |frames, _| frames.block(&HEAD, &bomb))),
        ("empty data", &opened, Box::new(|frames, stream| frames.data(stream, &[], 0))),
    ];
    let scene = Scene::new("");
    assert_eq!(scene.gateway.send(get("/public/x")).status, 200);
    let before = scene.gateway.resident_kib();
    for (name, begin, piece) in floods {
        let mut frames = Frames::connect(scene.gateway.address());
        let stream = begin(&mut frames);
        let watch = Stopwatch::start();
        let mut pieces = 0;
        while !frames.is_gone() {
            assert!(watch.elapsed() < PATIENCE, "{name} goes on after {pieces} pieces");
            for _ in 0..100 {
                piece(&mut frames, stream);
            }
            pieces += 100;
        }
        assert_eq!(scene.gateway.send(get("/public/x")).status, 200, "behind {name}");
    }
    let more = scene.gateway.resident_kib().saturating_sub(before);
    assert!(more < 8 * 1024, "{more} KiB more than before");
    assert_eq!(scene.recorder.faults(), Vec::<String>::new());
}

#[test]
fn tls_records_that_never_end_keep_no_connection() {
    let recorder = Recorder::start();
    let config = Scene::config(&recorder, "timeouts = { first_byte = '400ms', handshake = '400ms', head = '400ms' }");
    let site = Site::new(&config.tls());
    let gateway = site.start();
    let mut session = ClientConnection::new(
        client_config(gateway.certificate().expect("a site with TLS"), Http::One),
        ServerName::try_from("localhost").expect("a name"),
    )
    .expect("a client");
    let mut tcp = connect(&gateway);
    while session.is_handshaking() {
        session.complete_io(&mut tcp).expect("a handshake");
    }
    session.writer().write_all(&[b'G'; 8_000]).expect("a buffer");
    let mut record = Vec::new();
    session.write_tls(&mut record).expect("a buffer");
    let watch = Stopwatch::start();
    for byte in record {
        if watch.elapsed() > PATIENCE || tcp.write_all(&[byte]).is_err() {
            break;
        }
        sleep(Duration::from_millis(20));
    }
    assert!(watch.elapsed() < PATIENCE, "half a record keeps the connection");
    // A hello, byte by byte.
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let mut stream = connect(&gateway);
    stream.write_all(hello).expect("a socket");
    let (_alert, took) = drip(stream, &[0]);
    assert!(took < PATIENCE, "a hello without an end keeps the connection");
    assert_eq!((recorder.count(), recorder.faults()), (0, vec![]));
}

#[test]
fn a_protocol_that_was_not_agreed_is_not_spoken() {
    let recorder = Recorder::start();
    let site = Site::new(&Scene::config(&recorder, "timeouts = { first_byte = '400ms', head = '400ms' }").tls());
    let gateway = site.start();
    let said = |http: Http, bytes: &[u8]| {
        let config = client_config(gateway.certificate().expect("a site with TLS"), http);
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(config, name).expect("a client");
        let mut stream = rustls::StreamOwned::new(session, connect(&gateway));
        stream.write_all(bytes).expect("a socket");
        let mut answer = Vec::new();
        let _cut_short = stream.read_to_end(&mut answer);
        answer
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let answer = said(Http::One, preface);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "), "{:?}", String::from_utf8_lossy(&answer));
    let answer = said(Http::Two, b"GET /public/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(!answer.starts_with(b"HTTP/"), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!((recorder.count(), recorder.faults()), (0, vec![]));
}

#[test]
fn what_lies_in_the_body_of_a_request_that_is_answered_here_is_no_request() {
    let recorder = Recorder::start();
    let config = Config::to(recorder.address())
        .gateway("access_log = false\njwks = true")
        .gateway("timeouts = { first_byte = '200ms', head = '200ms', body_idle = '200ms', idle = '200ms' }")
        .route(
            "name = 'open'\npath = '/public/{*rest}'\npublic = true\nrewrite_prefix = '/r-public'\n\
             upgrades = ['websocket']\n[routes.cors]\norigins = ['*']",
        );
    let site = Site::new(&config);
    let gateway = site.start();
    let inner = "GET /public/inner HTTP/1.1\r\nHost: a\r\n\r\n";
    let (length, size) = (inner.len(), format!("{:x}", inner.len()));
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let preflight = "OPTIONS /public/x HTTP/1.1\r\nHost: a\r\nOrigin: https://b\r\nAccess-Control-Request-Method: GET";
    let socket = format!("GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{key}");
    for (head, status) in [
        (preflight, 204),
        ("GET /.well-known/jwks.json HTTP/1.1\r\nHost: a", 200),
        ("POST /.well-known/jwks.json HTTP/1.1\r\nHost: a", 405),
        ("OPTIONS * HTTP/1.1\r\nHost: a", 204),
        (&*socket, 400),
        ("GET /nowhere HTTP/1.1\r\nHost: a", 404),
    ] {
        for framed in [
            format!("{head}\r\nContent-Length: {length}\r\n\r\n{inner}"),
            format!("{head}\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\n{inner}\r\n0\r\n\r\n"),
            format!("{head}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n{inner}"),
        ] {
            let mut stream = connect(&gateway);
            stream.write_all(framed.as_bytes()).expect("a socket");
            // To the end of the connection: a second answer would be one to what lay inside.
            let (answers, _took) = drip(stream, b"");
            let own = answers.matches("HTTP/1.1 ").count() - answers.matches("HTTP/1.1 100 ").count();
            assert!(own == 1 && answers.contains(&format!("HTTP/1.1 {status} ")), "{framed}: {answers}");
            assert_eq!((recorder.take().len(), recorder.faults()), (0, vec![]), "{framed}");
        }
    }
}

#[test]
fn requests_whose_answers_nobody_reads_are_not_taken_without_end() {
    let scene = Scene::new("timeouts = { body_idle = '400ms' }");
    let one = format!("GET /nowhere?{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(40));
    let many = one.repeat(1_000);
    let mut stream = connect(&scene.gateway);
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let before = scene.gateway.resident_kib();
    let (mut sent, most) = (0, 500);
    // Each answer is ten times as long as its request, and there is no room for them.
    while sent < most && stream.write_all(many.as_bytes()).is_ok() {
        sent += 1;
    }
    assert!(sent < most, "{sent},000 requests were taken, and no answer read");
    let grown = scene.gateway.resident_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB for a connection whose answers are not read");
}

#[test]
fn a_head_of_http_1_0_gets_no_chunks_however_the_service_answers() {
    let service = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let config = Config::to(service.local_addr().expect("bound")).route("name = 'x'\npath = '/{*rest}'\npublic = true");
    let site = Site::new(&config);
    let gateway = site.start();
    for keep in ["", "Connection: keep-alive\r\n"] {
        let mut stream = connect(&gateway);
        let two = format!("GET /x HTTP/1.0\r\nHost: a\r\n{keep}\r\nGET /y HTTP/1.0\r\nHost: a\r\n\r\n");
        stream.write_all(two.as_bytes()).expect("a socket");
        let (mut call, _peer) = service.accept().expect("a call");
        assert!(call.read(&mut [0; 4096]).expect("a request") > 0);
        call.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            .expect("a socket");
        let mut answer = String::new();
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.read_to_string(&mut answer).expect("an answer that ends with its connection");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(!head.to_ascii_lowercase().contains("transfer-encoding") && body == "abc", "{answer}");
    }
}

#[test]
fn a_length_that_nobody_can_send_is_refused_and_its_connection_closed() {
    let scene = Scene::new("timeouts = { body_idle = '2s' }");
    for length in ["4294967297", "9223372036854775807", "9223372036854775808", "18446744073709551615"] {
        let answer = scene.gateway.raw(format!(
            "POST /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nGET /public/y HTTP/1.1\r\nHost: a\r\n\r\n"
        ));
        let refused = ["400", "413", "431"].iter().any(|status| answer.starts_with(&format!("HTTP/1.1 {status} ")));
        assert!(refused, "{length}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{length}: {answer}");
        let mut frames = Frames::connect(scene.gateway.address());
        let head: [(&[u8], &[u8]); 5] = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":authority", b"a"),
            (b":path", b"/public/x"),
            (b"content-length", length.as_bytes()),
        ];
        let stream = frames.head(&head, 0);
        assert_ne!(frames.outcome(stream), Came::Status(200), "{length}");
    }
    assert_eq!((scene.recorder.take().len(), scene.recorder.faults()), (0, vec![]));
}

#[test]
fn a_nomination_of_what_frames_a_request_changes_nothing_of_how_it_is_framed() {
    let scene = Scene::new("timeouts = { body_idle = '500ms', first_byte = '1s' }");
    for (named, framed) in [
        ("close, Transfer-Encoding", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        ("close, Trailer", "Trailer: X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"),
        ("close, TE", "TE: trailers\r\nContent-Length: 3\r\n\r\nabc"),
        ("Content-Length", "Content-Length: 3\r\n\r\nabc"),
    ] {
        let answer =
            scene.gateway.raw(format!("POST /public/x HTTP/1.1\r\nHost: a\r\nConnection: {named}\r\n{framed}"));
        let (arrived, faults) = (scene.recorder.take(), scene.recorder.faults());
        assert_eq!(faults, Vec::<String>::new(), "{named}");
        // Refused, or whole.
        let whole = arrived.len() == 1 && arrived[0].body == b"abc" && arrived[0].trailers.is_empty();
        let refused = arrived.is_empty() && answer.starts_with("HTTP/1.1 400 ");
        assert!(whole || refused, "{named}: {answer} {arrived:?}");
    }
}
