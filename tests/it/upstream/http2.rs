//! HTTP/2 towards a service: sharing connections, and what a service may refuse.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use http::{Response, StatusCode};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::peer::{AnyIo, Peer, Seen, echo, h2_echo};
use super::sum;
use crate::harness::{Config, Gate, Http, Site, get, post, until};

fn site(peer: &Peer, more: &str) -> Site {
    Site::new(&Config::towards(&format!("targets = ['h2c://{}']\n{more}", peer.address())).gateway_workers(1))
}

#[test]
fn requests_share_a_connection_up_to_its_streams() {
    for (more, connections) in [("", 1), ("http2_streams = 4", 4)] {
        let gate = Gate::closed();
        let held = gate.clone();
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&begun);
        let peer = Peer::serving(
            None,
            Arc::new(move |stream, _number, _seen| {
                let (gate, begun) = (held.clone(), Arc::clone(&counted));
                Box::pin(async move {
                    let mut connection = h2::server::handshake(stream).await.expect("a preface");
                    let mut streams = tokio::task::JoinSet::new();
                    while let Some(Ok((_request, mut respond))) = connection.accept().await {
                        begun.fetch_add(1, Ordering::SeqCst);
                        let gate = gate.clone();
                        streams.spawn(async move {
                            gate.passed().await;
                            let mut answer = Response::new(());
                            *answer.status_mut() = StatusCode::NO_CONTENT;
                            respond.send_response(answer, true).expect("a stream");
                        });
                    }
                })
            }),
        );
        let site = site(&peer, more);
        let gateway = site.start();
        thread::scope(|scope| {
            let calls: Vec<_> = (0..16).map(|_| scope.spawn(|| gateway.send(post("/public/x").text("a")))).collect();
            until("sixteen requests at once", || begun.load(Ordering::SeqCst) == 16);
            gate.open();
            for call in calls {
                assert_eq!(call.join().expect("a call").status, 204);
            }
        });
        assert_eq!(peer.connections(), connections, "{more}");
    }
}

#[test]
fn a_request_that_a_service_refused_unprocessed_is_sent_again_whatever_it_is() {
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refused);
    let peer = Peer::serving(
        None,
        Arc::new(move |stream, _number, seen| {
            let refused = Arc::clone(&counted);
            Box::pin(async move {
                let mut connection = h2::server::handshake(stream).await.expect("a preface");
                let mut streams = tokio::task::JoinSet::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    // Every other one.
                    if refused.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    } else {
                        streams.spawn(echo(request.into_body(), respond, Arc::clone(&seen)));
                    }
                }
            })
        }),
    );
    let site = site(&peer, "");
    let gateway = site.start();
    let mut connection = gateway.connect(Http::One);
    for _ in 0..5 {
        assert_eq!(connection.send(get("/public/x")).text(), "h2");
    }
    let metrics = gateway.metrics();
    assert_eq!(sum(&metrics, r#"keyward_upstream_retries_total{upstream="service",reason="refused_stream"}"#), 5.0);
    assert_eq!(peer.connections(), 1);
}

#[test]
fn retries_that_are_over_the_budget_are_not_made() {
    let peer = Peer::serving(
        None,
        Arc::new(move |stream, _number, _seen| {
            Box::pin(async move {
                let mut connection = h2::server::handshake(stream).await.expect("a preface");
                while let Some(Ok((_request, mut respond))) = connection.accept().await {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            })
        }),
    );
    let site = site(&peer, "retries = { share = 10, per_second = 0 }");
    let gateway = site.start();
    let mut connection = gateway.connect(Http::One);
    for _ in 0..50 {
        assert_eq!(connection.send(get("/public/x")).code(), "upstream_broken");
    }
    let retries = |reason: &str| {
        sum(&gateway.metrics(), &format!(r#"keyward_upstream_retries_total{{upstream="service",reason="{reason}"}}"#))
    };
    assert_eq!(retries("refused_stream"), 5.0);
    assert!(retries("over_budget") >= 40.0);
}

/// Answers so many streams, then says GOAWAY as if the next had come too late.
async fn goes_away_after(stream: super::peer::AnyIo, count: usize, seen: Arc<Seen>) {
    let mut connection = h2::server::handshake(stream).await.expect("a preface");
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..count {
        let Some(Ok((request, respond))) = connection.accept().await else { return };
        streams.spawn(echo(request.into_body(), respond, Arc::clone(&seen)));
    }
    connection.graceful_shutdown();
    while let Some(Ok((request, respond))) = connection.accept().await {
        streams.spawn(echo(request.into_body(), respond, Arc::clone(&seen)));
    }
}

#[test]
fn a_service_that_goes_away_again_and_again_loses_no_request() {
    let peer = Peer::serving(None, Arc::new(|stream, _number, seen| Box::pin(goes_away_after(stream, 7, seen))));
    let site = site(&peer, "");
    let gateway = site.start();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = gateway.connect(Http::One);
                    for turn in 0..50 {
                        let call = if turn % 2 == 0 { get("/public/x") } else { post("/public/x").text("body") };
                        let answer = connection.send(call);
                        assert_eq!((answer.status, answer.body.broken), (200, None), "turn {turn}");
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().expect("a client");
        }
    });
    assert!(peer.connections() > 5, "{}", peer.connections());
}

#[test]
fn a_stream_that_the_service_resets_breaks_the_answer_and_nothing_else() {
    let peer = Peer::serving(
        None,
        Arc::new(move |stream, _number, seen| {
            Box::pin(async move {
                let mut connection = h2::server::handshake(stream).await.expect("a preface");
                let mut streams = tokio::task::JoinSet::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if request.uri().path() == "/public/broken" {
                        let mut sending = respond.send_response(Response::new(()), false).expect("a stream");
                        sending.send_data(Bytes::from_static(b"some"), false).expect("a stream");
                        streams.spawn(async move {
                            tokio::task::yield_now().await;
                            sending.send_reset(h2::Reason::INTERNAL_ERROR);
                        });
                    } else {
                        streams.spawn(echo(request.into_body(), respond, Arc::clone(&seen)));
                    }
                }
            })
        }),
    );
    let site = site(&peer, "");
    let gateway = site.start();
    let mut connection = gateway.connect(Http::Two);
    for _ in 0..3 {
        let broken = connection.try_send(get("/public/broken"));
        assert!(broken.map_or(true, |answer| answer.status == 502 || answer.body.broken.is_some()));
        assert_eq!(connection.send(get("/public/x")).text(), "h2");
    }
    assert_eq!(peer.connections(), 1);
}

/// HTTP/2 frame by frame, where a library would not do what is wanted.
struct ByHand {
    stream: AnyIo,
    /// The stream of the first request.
    first: u32,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;

impl ByHand {
    /// Greets with these settings, and reads until a frame of this kind has come.
    async fn greet(mut stream: AnyIo, settings: &[u8], until: u8) -> std::io::Result<Self> {
        stream.read_exact(&mut [0; 24]).await?;
        let mut it = Self { stream, first: 0 };
        it.write(SETTINGS, 0, settings).await?;
        loop {
            let (kind, id) = it.read().await?;
            if kind == HEADERS && it.first == 0 {
                it.first = id;
            }
            if kind == until {
                return Ok(it);
            }
        }
    }

    async fn read(&mut self) -> std::io::Result<(u8, u32)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await?;
        let [a, b, c, kind, _flags, id @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).expect("24 bits")];
        self.stream.read_exact(&mut payload).await?;
        Ok((kind, u32::from_be_bytes(id)))
    }

    async fn write(&mut self, kind: u8, id: u32, payload: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, 0];
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).await
    }

    async fn go_away(&mut self, last: u32, reason: h2::Reason) -> std::io::Result<()> {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend_from_slice(&u32::from(reason).to_be_bytes());
        self.write(GO_AWAY, 0, &payload).await
    }

    async fn reset(&mut self, reason: h2::Reason) -> std::io::Result<()> {
        let first = self.first;
        self.write(RST_STREAM, first, &u32::from(reason).to_be_bytes()).await
    }

    /// Reads on until the other side closes.
    async fn linger(mut self) {
        while self.read().await.is_ok() {}
    }
}

/// How a service sends a request back without having looked at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SentBack {
    GoAwayBefore,
    Refused,
}

/// Sends the first request of the first connection back once a frame of kind `after` has come, and
/// echoes everything else. Counts what it sent back.
fn sends_back(how: SentBack, after: u8) -> (Peer, Arc<AtomicUsize>) {
    let back = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&back);
    let peer = Peer::serving(
        None,
        Arc::new(move |stream, number, seen| {
            let back = Arc::clone(&counted);
            Box::pin(async move {
                if number > 0 {
                    return h2_echo(stream, seen).await;
                }
                let mut hand = ByHand::greet(stream, &[], after).await.expect("a request");
                match how {
                    SentBack::GoAwayBefore => hand.go_away(0, h2::Reason::NO_ERROR).await,
                    SentBack::Refused => {
                        hand.reset(h2::Reason::REFUSED_STREAM).await.expect("a connection");
                        hand.go_away(hand.first, h2::Reason::NO_ERROR).await
                    }
                }
                .expect("a connection");
                back.fetch_add(1, Ordering::SeqCst);
                hand.linger().await;
            })
        }),
    );
    (peer, back)
}

#[test]
fn a_post_that_came_back_before_its_body_began_is_sent_again_whole() {
    for how in [SentBack::GoAwayBefore, SentBack::Refused] {
        let (peer, back) = sends_back(how, HEADERS);
        let site = site(&peer, "retries = { share = 0, per_second = 5 }");
        let gateway = site.start();
        let mut stream = std::net::TcpStream::connect(gateway.address()).expect("the gateway accepts connections");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a socket");
        use std::io::{Read, Write};
        let head = "POST /public/x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nconnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("a request");
        until("the request comes back and goes out again", || back.load(Ordering::SeqCst) == 1 && peer.requests() == 1);
        stream.write_all(b"hello").expect("a body");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("hello"), "{how:?}: {answer}");
        assert_eq!(peer.requests(), 1, "{how:?}");
    }
}

#[test]
fn a_post_without_a_body_that_came_back_is_sent_again() {
    for how in [SentBack::GoAwayBefore, SentBack::Refused] {
        let (peer, back) = sends_back(how, HEADERS);
        let site = site(&peer, "");
        let answer = site.start().send(post("/public/x"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "h2"), "{how:?}");
        assert_eq!((back.load(Ordering::SeqCst), peer.requests()), (1, 1), "{how:?}");
    }
}

#[test]
fn a_post_that_came_back_after_its_body_had_begun_is_said_to_have_failed() {
    for how in [SentBack::GoAwayBefore, SentBack::Refused] {
        let (peer, back) = sends_back(how, DATA);
        let site = site(&peer, "");
        let gateway = site.start();
        let answer = gateway.send(post("/public/x").text("half of it is with the service already"));
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_broken"), "{how:?}");
        assert_eq!((back.load(Ordering::SeqCst), peer.requests()), (1, 0), "{how:?}");
        assert_eq!(sum(&gateway.metrics(), "keyward_upstream_retries_total"), 0.0, "{how:?}");
    }
}

#[test]
fn a_request_that_a_service_going_away_may_have_processed_is_not_sent_again() {
    for reason in [h2::Reason::NO_ERROR, h2::Reason::INTERNAL_ERROR, h2::Reason::ENHANCE_YOUR_CALM] {
        let peer = Peer::serving(
            None,
            Arc::new(move |stream, number, seen| {
                Box::pin(async move {
                    if number > 0 {
                        return h2_echo(stream, seen).await;
                    }
                    let mut hand = ByHand::greet(stream, &[], HEADERS).await.expect("a request");
                    // Up to and with it: it was taken on.
                    hand.go_away(hand.first, reason).await.expect("a connection");
                })
            }),
        );
        let site = site(&peer, "");
        let answer = site.start().send(post("/public/x"));
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_broken"), "{reason:?}");
        assert_eq!(peer.requests(), 0, "{reason:?}");
    }
}

#[test]
fn a_service_that_allows_no_streams_costs_no_more_than_its_own_requests() {
    // SETTINGS_MAX_CONCURRENT_STREAMS = 0.
    let none = [0, 3, 0, 0, 0, 0];
    let peer = Peer::serving(
        None,
        Arc::new(move |stream, _number, _seen| {
            Box::pin(async move {
                if let Ok(hand) = ByHand::greet(stream, &none, SETTINGS).await {
                    hand.linger().await;
                }
            })
        }),
    );
    let site = site(&peer, "head_timeout = '200ms'\nconnect_timeout = '1s'");
    let gateway = site.start();
    for _ in 0..5 {
        let answer = gateway.send(get("/public/x"));
        assert!([502, 504].contains(&answer.status), "{}", answer.status);
    }
    // A connection that is known to allow none is not kept for others to wait on.
    let open = || sum(&gateway.metrics(), "keyward_upstream_open_connections");
    until("the connections to be gone", || open() <= 1.0);
    assert!(peer.connections() <= 5, "{}", peer.connections());
}
