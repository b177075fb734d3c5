//! Services that misbehave, by fault or on purpose: what they send ends their own exchange, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::peer::{AnyIo, Peer, echo};
use super::sum;
use crate::harness::{Answer, Call, Config, Gateway, Http, Site, get, post, until};

/// What a service sends for a request.
#[derive(Debug, Clone)]
enum Sends {
    /// These bytes, and then it waits for the next request.
    Text(String),
    /// These bytes, and then it closes.
    Last(String),
    /// The first, and then the second again and again.
    ForEver(String, String),
}

/// A service that has something odd to say to `/…/odd/NUMBER`, and `ok` to everything else.
fn service(all: &[Sends]) -> Peer {
    let all: Arc<[Sends]> = all.into();
    Peer::serving(None, Arc::new(move |stream, _number, _seen| Box::pin(serve(stream, Arc::clone(&all)))))
}

async fn serve(mut stream: AnyIo, all: Arc<[Sends]>) {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut chunk).await {
        bytes.extend_from_slice(&chunk[..count]);
        while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            bytes.drain(..end + 4);
            let number = head.split(' ').nth(1).and_then(|target| target.rsplit_once("/odd/")?.1.parse::<usize>().ok());
            let (text, close) = match number.map(|number| &all[number]) {
                None => ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", false),
                Some(Sends::Text(text)) => (text.as_str(), false),
                Some(Sends::Last(text)) => (text.as_str(), true),
                Some(Sends::ForEver(first, rest)) => {
                    let mut sent = stream.write_all(first.as_bytes()).await;
                    while sent.is_ok() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        sent = stream.write_all(rest.as_bytes()).await;
                    }
                    return;
                }
            };
            if stream.write_all(text.as_bytes()).await.is_err() || close {
                return;
            }
        }
    }
}

fn site(peer: &Peer, more: &str) -> Site {
    let service = format!("targets = ['http://{}']\n{more}", peer.address());
    Site::new(&Config::towards(&service).gateway_workers(1))
}

/// Asks for each of these in turn, and sees to it that what is asked for next is answered as ever.
fn for_each(all: &[Sends], method: &Method, look: impl Fn(usize, &str, &Answer)) {
    let peer = service(all);
    let site = site(&peer, "head_timeout = '300ms'\nidle_timeout = '300ms'");
    let gateway = site.start();
    for (number, sends) in all.iter().enumerate() {
        let shown: String = format!("{sends:?}").chars().take(120).collect();
        let answer = gateway.send(Call::new(method.clone(), &format!("/public/odd/{number}")));
        for _ in 0..3 {
            let next = gateway.send(get("/public/x"));
            assert_eq!((next.status, next.text().as_str()), (200, "ok"), "after {shown}");
        }
        look(number, &shown, &answer);
    }
}

fn text(text: &str) -> Sends {
    Sends::Text(text.replace('\n', "\r\n"))
}

fn last(text: &str) -> Sends {
    Sends::Last(text.replace('\n', "\r\n"))
}

#[test]
fn what_is_no_answer_of_http_is_a_bad_gateway() {
    let field = "x-much: y\n".repeat(150);
    let all = [
        text("HTTP/1.1 \n\n"),
        text("HTTP/1.1 20\n\n"),
        text("HTTP/3.0 200 OK\n\n"),
        text("nonsense\n\n"),
        text("HTTP/1.1 200 OK\ncontent-length: -1\n\n"),
        text("HTTP/1.1 200 OK\ncontent-length: 1\ncontent-length: 2\n\nab"),
        text("HTTP/1.1 200 OK\ncontent-length: 1, 2\n\nab"),
        text("HTTP/1.1 200 OK\nbad name: x\ncontent-length: 0\n\n"),
        text("HTTP/1.1 200 OK\nx: a\u{0}b\ncontent-length: 0\n\n"),
        text("HTTP/1.1 200 OK\nx: a\n b\ncontent-length: 0\n\n"),
        text("HTTP/1.1 200 OK\nx : a\ncontent-length: 0\n\n"),
        // Codings that nobody asked for, and that are lost on the way.
        last("HTTP/1.1 200 OK\ntransfer-encoding: gzip, chunked\n\n0\n\n"),
        last("HTTP/1.1 200 OK\ntransfer-encoding: gzip\n\nx"),
        last("HTTP/1.1 200 OK\ntransfer-encoding: xchunked\n\nx"),
        last("HTTP/1.1 200 OK\ntransfer-encoding: chunked\ntransfer-encoding: chunked\n\n0\n\n"),
        last("HTTP/1.1 200 OK\ntransfer-encoding: identity, chunked\n\n0\n\n"),
        // More fields, or larger ones, than any service needs.
        text(&format!("HTTP/1.1 200 OK\n{field}content-length: 0\n\n")),
        text(&format!("HTTP/1.1 200 OK\nx: {}\ncontent-length: 0\n\n", "y".repeat(400_000))),
        // Nothing at all, half of a head, and a last word that is none.
        last(""),
        last("HTTP/1.1 200 OK\ncontent-le"),
        last("HTTP/1.1 100 Continue\n\n"),
        text("HTTP/1.1 101 Switching Protocols\nconnection: upgrade\nupgrade: websocket\n\n"),
    ];
    for_each(&all, &Method::GET, |_, shown, answer| {
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_broken"), "{shown}");
    });
}

#[test]
fn the_log_says_what_was_wrong_with_an_answer() {
    let peer = service(&[
        text("HTTP/1.1 101 Switching Protocols\nconnection: upgrade\nupgrade: websocket\n\n"),
        last("HTTP/1.1 200 OK\ncontent-length: 10\n\nabc"),
    ]);
    let site = site(&peer, "");
    let gateway = site.start();
    for (number, status, said) in [(0, 502, "what it answered cannot be passed on"), (1, 200, "broke off its answer")] {
        let request = format!("GET /public/odd/{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = gateway.raw(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let id = answer.split_once("x-request-id: ").and_then(|(_, rest)| rest.get(..32)).expect("an id");
        let line: serde_json::Value = serde_json::from_str(&gateway.until_logged(0, id)).expect("JSON");
        assert_eq!((&line["outcome"], &line["code"]), (&"failed".into(), &"upstream_broken".into()), "{line}");
        assert!(line["upstream_error"].as_str().is_some_and(|error| error.contains(said)), "{line}");
    }
}

#[test]
fn what_never_comes_to_an_answer_is_a_timeout() {
    let for_ever = |first: &str, rest: &str| Sends::ForEver(first.replace('\n', "\r\n"), rest.replace('\n', "\r\n"));
    let all = [
        for_ever("", "HTTP/1.1 103 Early Hints\nlink: </a>\n\n"),
        for_ever("", "HTTP/1.1 100 Continue\n\n"),
        for_ever("HTTP/1.1 200 OK\n", "x: y\n"),
        for_ever("HTTP/1.1 200 OK\nx: ", "y"),
        text("HTTP/1.1 199 Whatever\n\n"),
    ];
    for_each(&all, &Method::GET, |_, shown, answer| {
        assert!([502, 504].contains(&answer.status), "{shown}: {}", answer.status);
    });
}

#[test]
fn a_body_that_does_not_come_to_its_end_is_no_whole_answer() {
    let chunked = "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n";
    let extension = "e".repeat(40_000);
    let trailers = "x-trailer: y\n".repeat(5_000);
    let all = [
        last("HTTP/1.1 200 OK\ncontent-length: 10\n\nabc"),
        last(&format!("{chunked}3\nabc\n")),
        last(&format!("{chunked}3\nabc\nzz\n")),
        text(&format!("{chunked}3\nabc\n-1\n")),
        text(&format!("{chunked}3\nabc\nfffffffffffffffff\n")),
        text(&format!("{chunked}3\nabcdef\n0\n\n")),
        text(&format!("{chunked}3\nabc\n3;{extension}\nabc\n0\n\n")),
        text(&format!("{chunked}3\nabc\n0\n{trailers}\n")),
        // A line of a chunk's size that never ends: it is not waited for.
        text(&format!("{chunked}3\nabc\n3;{}", "e".repeat(600))),
        text(&format!("{chunked}3\nabc\n{}", "0".repeat(600))),
        // It pauses for ever.
        text("HTTP/1.1 200 OK\ncontent-length: 10\n\nabc"),
        text(&format!("{chunked}3\nabc\n")),
    ];
    for_each(&all, &Method::GET, |_, shown, answer| {
        assert!(answer.status == 502 || answer.body.broken.is_some(), "{shown}: {answer:?}");
    });
}

#[test]
fn odd_answers_that_can_be_read_in_one_way_are_relayed_as_that() {
    let chunked = "HTTP/1.1 200 OK\ntransfer-encoding: Chunked\n";
    let (all, bodies): (Vec<_>, Vec<_>) = [
        (text("HTTP/1.1 199 Whatever\nx: y\n\nHTTP/1.1 200 OK\ncontent-length: 2\n\nok"), "ok"),
        (text("HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\n\nHTTP/1.1 200 OK\ncontent-length: 2\n\nok"), "ok"),
        (last("HTTP/1.1 200 OK\n\nas long as it lasts"), "as long as it lasts"),
        (last("HTTP/1.0 200 OK\n\nas long as it lasts"), "as long as it lasts"),
        (text(&format!("{chunked}\n3;a=b;c=\"d\"\nabc\n0\n\n")), "abc"),
        (text(&format!("{chunked}trailer: x-late\n\n3\nabc\n0\nx-late: y\ncontent-length: 7\n\n")), "abc"),
        (text(&format!("{chunked}content-length: 2\n\n3\nabc\n0\n\n")), "abc"),
        (text("HTTP/1.1 200 OK\ncontent-length: 3\ncontent-length: 3\n\nabc"), "abc"),
        (text("HTTP/1.1 299 Odd\ncontent-length: 3\n\nabc"), "abc"),
    ]
    .into_iter()
    .unzip();
    for_each(&all, &Method::GET, |number, shown, answer| {
        assert!((200..300).contains(&answer.status), "{shown}: {}", answer.status);
        assert_eq!((answer.text().as_str(), answer.body.broken.as_deref()), (bodies[number], None), "{shown}");
        for name in ["x", "x-late", "trailer"] {
            assert_eq!(answer.header(name), None, "{shown}");
        }
    });
}

#[test]
fn what_follows_an_answer_is_nobodys_answer() {
    const EVIL: &str = "HTTP/1.1 200 OK\ncontent-length: 4\n\nevil";
    for (method, answers) in [
        (
            Method::GET,
            &[
                "HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
                "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n2\nok\n0\n\n",
                "HTTP/1.1 204 No Content\n\n",
                "HTTP/1.1 204 No Content\ncontent-length: 40\n\n",
                "HTTP/1.1 304 Not Modified\ncontent-length: 40\n\n",
            ][..],
        ),
        (Method::HEAD, &["HTTP/1.1 200 OK\ncontent-length: 40\n\n", "HTTP/1.1 200 OK\n\n"]),
    ] {
        let all: Vec<_> = answers.iter().flat_map(|said| vec![text(&format!("{said}{EVIL}")); 3]).collect();
        for_each(&all, &method, |_, shown, answer| {
            assert!([200, 204, 304].contains(&answer.status), "{shown}: {}", answer.status);
            assert!(!answer.text().contains("evil"), "{shown}");
        });
    }
}

/// Reads a request's head; none where there is no more.
async fn read_head(stream: &mut AnyIo, bytes: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            bytes.drain(..end + 4);
            return Some(head);
        }
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&chunk[..count]);
    }
}

#[test]
fn what_comes_while_a_connection_rests_is_nobodys_answer() {
    const ANSWERS: [(Method, &str); 6] = [
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        (Method::POST, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n"),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 40\r\n\r\n"),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n"),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
    ];
    const LATE: [&str; 5] = [
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 408 Request Timeout\r\ncontent-length: 4\r\nconnection: close\r\n\r\nevil",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "\r\n",
        "e",
    ];
    let heard = Arc::new(tokio::sync::Notify::new());
    let sent = Arc::new(AtomicUsize::new(0));
    let (hears, sends) = (Arc::clone(&heard), Arc::clone(&sent));
    let peer = Peer::serving(
        None,
        Arc::new(move |mut stream, _number, _seen| {
            let (heard, sent) = (Arc::clone(&hears), Arc::clone(&sends));
            Box::pin(async move {
                let mut bytes = Vec::new();
                while let Some(head) = read_head(&mut stream, &mut bytes).await {
                    let case = head.split(' ').nth(1).and_then(|target| target.rsplit_once("/late/")?.1.parse().ok());
                    let case: Option<usize> = case;
                    let text = case.map_or(ANSWERS[0].1, |case| ANSWERS[case / LATE.len()].1);
                    let mut written = stream.write_all(text.as_bytes()).await;
                    if let (Ok(()), Some(case)) = (&written, case) {
                        heard.notified().await;
                        written = stream.write_all(LATE[case % LATE.len()].as_bytes()).await;
                        sent.fetch_add(1, Ordering::SeqCst);
                    }
                    if written.is_err() {
                        return;
                    }
                }
            })
        }),
    );
    let site = site(&peer, "");
    let gateway = site.start();
    for case in 0..ANSWERS.len() * LATE.len() {
        let before = peer.connections();
        let method = ANSWERS[case / LATE.len()].0.clone();
        let answer = gateway.send(Call::new(method, &format!("/public/late/{case}")));
        assert!([200, 204, 304].contains(&answer.status), "{case}: {}", answer.status);
        // The client has it all, so the connection rests, or is about to.
        heard.notify_one();
        until("the late bytes", || sent.load(Ordering::SeqCst) == case + 1);
        for call in [get("/public/x"), post("/public/x"), get("/public/x")] {
            let next = gateway.send(call);
            assert_eq!((next.status, next.text().as_str()), (200, "ok"), "after {case}");
        }
        assert_eq!(peer.connections(), before.max(1) + 1, "{case}: the connection was used again");
    }
}

#[test]
fn an_answer_that_says_two_things_of_itself_is_the_last_of_its_connection() {
    const CODED: &str = "transfer-encoding: chunked";
    for (method, answer) in [
        (Method::GET, format!("HTTP/1.1 200 OK\ncontent-length: 2\n{CODED}\n\n2\nok\n0\n\n")),
        (Method::GET, format!("HTTP/1.1 200 OK\n{CODED}\ncontent-length: 2\n\n2\nok\n0\n\n")),
        (Method::HEAD, format!("HTTP/1.1 200 OK\n{CODED}\ncontent-length: 2\n\n")),
        (Method::GET, format!("HTTP/1.1 304 Not Modified\n{CODED}\ncontent-length: 2\n\n")),
        (Method::GET, format!("HTTP/1.1 204 No Content\n{CODED}\n\n")),
        (Method::GET, "HTTP/1.1 204 No Content\ncontent-length: 2\n\n".to_owned()),
        (Method::GET, "HTTP/1.1 200 OK\nconnection: keep-alive\nconnection: close\ncontent-length: 2\n\nok".to_owned()),
        (Method::GET, "HTTP/1.0 200 OK\ncontent-length: 2\n\nok".to_owned()),
    ] {
        let peer = service(&[text(&answer)]);
        let site = site(&peer, "");
        let gateway = site.start();
        assert_eq!(gateway.send(get("/public/x")).text(), "ok");
        let odd = gateway.send(Call::new(method.clone(), "/public/odd/0"));
        assert!([200, 204, 304].contains(&odd.status), "{answer}: {}", odd.status);
        assert_eq!(peer.connections(), 1, "{answer}");
        assert_eq!(gateway.send(get("/public/x")).text(), "ok", "{answer}");
        assert_eq!(peer.connections(), 2, "{answer}: the connection was used again");
    }
}

#[test]
fn what_was_answered_before_it_was_sent_leaves_nothing_on_a_connection() {
    let peer = Peer::serving(
        None,
        Arc::new(|mut stream, _number, _seen| {
            Box::pin(async move {
                let mut bytes = Vec::new();
                while let Some(head) = read_head(&mut stream, &mut bytes).await {
                    let early = head.contains("/early");
                    let text = if early { "early" } else { "other" };
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{text}");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                    // What comes from now on is a body, whatever it looks like.
                    let mut sink = [0; 4096];
                    while early && matches!(stream.read(&mut sink).await, Ok(1..)) {}
                }
            })
        }),
    );
    let site = site(&peer, "");
    let gateway = site.start();
    for http in [Http::One, Http::Two] {
        // More than what sockets hold while nobody reads: it cannot all be sent before the answer. No more, for what is
        // left of it the gateway reads on to some length only.
        for call in [post("/public/early").zeros(10_000_000), post("/public/early").zeros(10_000_000).chunked()] {
            let before = peer.connections();
            let answer = gateway.connect(http).send(call);
            assert_eq!((answer.status, answer.text().as_str()), (200, "early"), "{http:?}");
            let next = gateway.send(get("/public/x"));
            assert_eq!((next.status, next.text().as_str()), (200, "other"), "{http:?}");
            assert!(peer.connections() > before, "{http:?}");
        }
    }
}

#[test]
fn a_304_keeps_its_length_and_both_connections_go_on() {
    let peer = service(&[text("HTTP/1.1 304 Not Modified\netag: \"a\"\ncontent-length: 1234\n\n")]);
    let site = site(&peer, "");
    let gateway = site.start();
    for http in [Http::One, Http::Two] {
        let mut connection = gateway.connect(http);
        for _ in 0..3 {
            let answer = connection.send(get("/public/odd/0"));
            assert_eq!((answer.status, answer.header("content-length")), (304, Some("1234")), "{http:?}");
            assert_eq!(answer.body.bytes, 0);
            assert_eq!(connection.send(get("/public/x")).text(), "ok", "{http:?}");
        }
    }
    assert_eq!(peer.connections(), 1);
}

/// A service that accepts and says nothing, in clear or where TLS is expected.
fn mute() -> Peer {
    Peer::serving(
        None,
        Arc::new(|mut stream, _number, _seen| {
            Box::pin(async move {
                let mut sink = [0; 1024];
                while let Ok(1..) = stream.read(&mut sink).await {}
            })
        }),
    )
}

#[test]
fn a_handshake_that_never_ends_is_a_timeout_of_connecting() {
    let peer = mute();
    let service = format!("targets = ['https://127.0.0.1:{}']\nconnect_timeout = '300ms'", peer.port());
    let site = Site::new(&Config::towards(&service));
    let gateway = site.start();
    let answer = gateway.send(get("/public/x"));
    assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_timeout"));
    let metrics = gateway.metrics();
    assert_eq!(sum(&metrics, r#"keyward_upstream_errors_total{upstream="service",kind="connect_timeout"}"#), 1.0);
}

#[test]
fn a_service_that_answers_tls_in_clear_is_unreachable() {
    let peer = Peer::serving(
        None,
        Arc::new(|mut stream, _number, _seen| {
            Box::pin(async move {
                let _hello = stream.read(&mut [0; 1024]).await;
                let _gone = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            })
        }),
    );
    let site = Site::new(&Config::towards(&format!("targets = ['https://127.0.0.1:{}']", peer.port())));
    let answer = site.start().send(get("/public/x"));
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_unreachable"));
}

#[test]
fn a_service_that_speaks_http_1_where_h2c_is_expected_is_broken() {
    let peer = service(&[]);
    let service = format!("targets = ['h2c://{}']\nhead_timeout = '2s'", peer.address());
    let site = Site::new(&Config::towards(&service));
    let answer = site.start().send(get("/public/x"));
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_broken"));
}

#[test]
fn checks_that_never_end_find_the_target_down() {
    const FAST: &str = "interval = '100ms', timeout = '200ms', healthy_after = 1, unhealthy_after = 2";
    let hints = "HTTP/1.1 100 Continue\r\n\r\n".to_owned();
    let endless_grpc = Peer::serving(
        None,
        Arc::new(|stream, _number, _seen| {
            Box::pin(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                let mut streams = tokio::task::JoinSet::new();
                while let Some(Ok((_request, mut respond))) = connection.accept().await {
                    streams.spawn(async move {
                        let mut sending = respond.send_response(Response::new(()), false).expect("a stream");
                        while sending.send_data(Bytes::from(vec![0; 1000]), false).is_ok() {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    });
                }
            })
        }),
    );
    for (scheme, kind, peer) in [
        ("http", "kind = 'http', path = '/odd/0'", mute()),
        ("http", "kind = 'http', path = '/odd/0'", service(&[Sends::ForEver(hints.clone(), hints)])),
        ("h2c", "kind = 'grpc'", mute()),
        ("h2c", "kind = 'grpc'", endless_grpc),
    ] {
        let target = format!("targets = ['{scheme}://{}']\nhealth = {{ {kind}, {FAST} }}", peer.address());
        let site = Site::new(&Config::towards(&target).gateway_workers(1));
        let gateway = site.start();
        let is_down = |line: &str| line.starts_with("keyward_upstream_target_up{") && line.ends_with(" 0");
        until("the checks' word", || gateway.metrics().lines().any(is_down));
        assert_eq!(gateway.send(get("/public/x")).code(), "no_target", "{kind}");
    }
}

#[test]
fn an_answer_before_the_end_of_its_upload_is_relayed_though_the_service_resets_the_rest() {
    let peer = Peer::serving(
        None,
        Arc::new(|stream, _number, seen| {
            Box::pin(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                let mut streams = tokio::task::JoinSet::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if request.uri().path() != "/public/large" {
                        streams.spawn(echo(request.into_body(), respond, Arc::clone(&seen)));
                        continue;
                    }
                    let mut answer = Response::new(());
                    *answer.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
                    let mut sending = respond.send_response(answer, false).expect("a stream");
                    sending.send_data(Bytes::from_static(b"too large"), true).expect("a stream");
                    // Dropping the rest of the request resets the stream, with NO_ERROR.
                }
            })
        }),
    );
    let site = Site::new(&Config::towards(&format!("targets = ['h2c://{}']", peer.address())).gateway_workers(1));
    let gateway = site.start();
    for http in [Http::One, Http::Two] {
        for _ in 0..3 {
            let mut connection = gateway.connect(http);
            let answer = connection.send(post("/public/large").zeros(10_000_000));
            assert_eq!((answer.status, answer.text().as_str()), (413, "too large"), "{http:?}");
            assert_eq!(gateway.send(get("/public/x")).text(), "h2");
        }
    }
    assert_eq!(peer.connections(), 1);
}

/// One answer of HTTP/2 that is not as it should be.
fn odd_http2(path: &str, respond: &mut h2::server::SendResponse<Bytes>) {
    let mut answer = Response::new(());
    let fields = answer.headers_mut();
    match path {
        "/public/short" => {
            fields.insert("content-length", "5".parse().expect("a value"));
            let mut sending = respond.send_response(answer, false).expect("a stream");
            let _cut = sending.send_data(Bytes::from_static(b"abc"), true);
        }
        "/public/long" => {
            fields.insert("content-length", "2".parse().expect("a value"));
            let mut sending = respond.send_response(answer, false).expect("a stream");
            let _cut = sending.send_data(Bytes::from_static(b"abc"), true);
        }
        "/public/fields" => {
            fields.insert("x-large", "y".repeat(100_000).parse().expect("a value"));
            let _cut = respond.send_response(answer, true);
        }
        _ => {
            let mut sending = respond.send_response(answer, false).expect("a stream");
            sending.send_data(Bytes::from_static(b"abc"), false).expect("a stream");
            let mut trailers = HeaderMap::new();
            trailers.insert("x-large", "y".repeat(100_000).parse().expect("a value"));
            let _cut = sending.send_trailers(trailers);
        }
    }
}

#[test]
fn odd_answers_over_http_2_break_their_own_stream_and_no_other() {
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let peer = Peer::serving(
        None,
        Arc::new(move |stream, _number, seen| {
            let served = Arc::clone(&counted);
            Box::pin(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                let mut streams = tokio::task::JoinSet::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    served.fetch_add(1, Ordering::SeqCst);
                    if request.uri().path() == "/public/x" {
                        streams.spawn(echo(request.into_body(), respond, Arc::clone(&seen)));
                    } else {
                        odd_http2(request.uri().path(), &mut respond);
                    }
                }
            })
        }),
    );
    let more = "head_timeout = '2s'\nidle_timeout = '2s'";
    let site =
        Site::new(&Config::towards(&format!("targets = ['h2c://{}']\n{more}", peer.address())).gateway_workers(1));
    let gateway = site.start();
    for path in ["/public/short", "/public/long", "/public/fields", "/public/trailers"] {
        let answer = broken_or(&gateway, path);
        let broken = answer.is_none_or(|answer| answer.status == 502 || answer.body.broken.is_some());
        // Trailers that nobody asked for are nobody's business, however large they are.
        assert!(broken || path == "/public/trailers", "{path}");
        for _ in 0..3 {
            assert_eq!(gateway.send(get("/public/x")).text(), "h2", "after {path}");
        }
    }
    assert!(served.load(Ordering::SeqCst) >= 16);
}

/// The answer; none where the connection broke before there was one.
fn broken_or(gateway: &Gateway, path: &str) -> Option<Answer> {
    gateway.connect(Http::One).try_send(get(path)).ok()
}
