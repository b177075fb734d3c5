//! WebSockets, and what becomes of open streams when their key ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http_body_util::{BodyExt, Empty};

use super::harness::{House, NOW, Plan, forward, in_house, token};
use crate::key::{FlagSet, Grants, TokenHash};
use crate::policy::{Access, DenyList, FlagTemplate, RouteSpec};
use crate::proxy::Settings;
use crate::table::{Head, OnStale};
use std::error::Error;

const ASK: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[test]
fn a_websocket_carries_bytes_both_ways_until_one_side_ends() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.get("/socket", ASK).await;
        let mut upstream = house.accept().await;
        let saw = upstream.head().await;
        assert_eq!((saw.field("connection"), saw.field("upgrade")), (Some("upgrade"), Some("websocket")));
        assert_eq!(saw.field("sec-websocket-version"), Some("13"));
        upstream.send(AGREED).await;
        upstream.send("early").await;
        let head = client.head().await;
        assert_eq!((head.status(), head.field("upgrade")), (101, Some("websocket")));
        assert_eq!(head.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(client.take(5).await, "early");
        client.send("ping").await;
        assert_eq!(upstream.take(4).await, "ping");
        upstream.send("pong").await;
        assert_eq!(client.take(4).await, "pong");
        drop(client);
        assert_eq!(upstream.rest().await, "");
    });
}

#[test]
fn an_upgrade_is_not_asked_for_where_the_route_does_not_allow_it() {
    in_house(Plan::default(), async |house| {
        let ask_h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
        for (path, ask) in [("/any/x", ASK), ("/socket", ask_h2c)] {
            let mut client = house.connect();
            client.get(path, ask).await;
            let mut upstream = house.accept().await;
            let saw = upstream.head().await;
            for name in ["connection", "upgrade", "http2-settings"] {
                assert!(saw.fields(name).is_empty(), "{}", saw.0);
            }
            upstream.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
            assert_eq!(client.head().await.status(), 204);
        }
    });
}

#[test]
fn an_upgrade_that_nobody_asked_for_is_a_broken_answer() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.get("/any/x", "").await;
        let mut upstream = house.accept().await;
        upstream.head().await;
        upstream.send(AGREED).await;
        assert_eq!(client.answer().await.0.status(), 502);
        assert_eq!(upstream.rest().await, "");
    });
}

#[test]
fn a_websocket_that_the_upstream_declines_is_an_ordinary_answer() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.get("/socket", ASK).await;
        let mut upstream = house.accept().await;
        upstream.head().await;
        upstream.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno").await;
        let (head, body) = client.answer().await;
        assert_eq!((head.status(), body.as_str()), (400, "no"));
    });
}

#[test]
fn a_revoked_key_is_cut_off_a_websocket_and_a_long_answer() {
    in_house(Plan::default(), async |house| {
        let mut socket = house.connect();
        socket.get("/socket", ASK).await;
        let mut socket_upstream = house.accept().await;
        socket_upstream.head().await;
        socket_upstream.send(AGREED).await;
        assert_eq!(socket.head().await.status(), 101);

        let mut events = house.connect();
        events.get("/any/events", "").await;
        let mut events_upstream = house.accept().await;
        events_upstream.head().await;
        events_upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n").await;
        assert_eq!(events.head().await.status(), 200);
        assert_eq!(events.take(7).await, "2\r\na\n\r\n");

        // A change to another key cuts nobody.
        house.put(2, |_| {});
        socket.send("ping").await;
        assert_eq!(socket_upstream.take(4).await, "ping");

        house.put(1, |row| row.states.revoked = true);
        assert!(socket.rest().await.ends_with("invalid_key"));
        assert_eq!(events.rest().await, "");
        assert_eq!(socket_upstream.rest().await, "");
        assert_eq!(events_upstream.rest().await, "");
        let text = house.metrics();
        assert!(text.contains(r#"keyward_streams_cut_total{reason="revoked"} 2"#), "{text}");
    });
}

#[test]
fn a_key_that_expires_is_cut_off_by_the_clock_alone() {
    in_house(Plan::default(), async |house| {
        house.put(1, |row| row.expires_at = Some(NOW.plus(Duration::from_secs(60))));
        let mut client = house.connect();
        client.get("/any/events", "").await;
        let mut upstream = house.accept().await;
        upstream.head().await;
        upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 200);
        house.clock.advance(Duration::from_secs(60));
        assert_eq!(client.rest().await, "");
        assert_eq!(upstream.rest().await, "");
    });
}

const MESSAGE: &str = "\0\0\0\0\u{5}hello";

fn grpc_request(path: &str) -> http::Request<Empty<Bytes>> {
    http::Request::post(format!("http://a{path}"))
        .header("authorization", format!("Bearer {}", token(1)))
        .header("content-type", "application/grpc")
        .body(Empty::new())
        .expect("a request")
}

/// A gRPC call over HTTP/2 whose answer has begun with `first`, and which `end` has cut.
async fn cut_call(house: &House, first: &str, end: Change) -> Result<Option<http::HeaderMap>, hyper::Error> {
    let mut sender = house.connect_http2::<Empty<Bytes>>().await;
    let call = sender.send_request(grpc_request("/pkg.Watch/comms"));
    let answer = async {
        let mut upstream = house.accept().await;
        upstream.head().await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";
        upstream.send(&format!("{head}{:x}\r\n{first}\r\n", first.len())).await;
        upstream
    };
    let (response, mut upstream) = tokio::join!(call, answer);
    let mut body = response?.into_body();
    let frame = body.frame().await.expect("a frame")?;
    assert_eq!(frame.into_data().ok().as_deref(), Some(first.as_bytes()));
    end(house);
    let rest = body.collect().await;
    assert_eq!(upstream.rest().await, "");
    rest.map(|rest| rest.trailers().cloned())
}

/// A route that asks for a flag.
fn watching() -> Plan {
    let flag = FlagTemplate::parse("keyring.{ring}.read").expect("a flag");
    let access = Access::Flags { any: vec![flag], all: Vec::new() };
    let routes = vec![RouteSpec::new("watch", "/pkg.Watch/{ring}", access, forward())];
    Plan { routes, settings: Some(|settings| settings.on_stale = OnStale::Deny), ..Plan::default() }
}

/// What becomes of a key or its route.
type Change = fn(&House);

const REVOKE: Change = |house| house.put(1, |row| row.states.revoked = true);

#[test]
fn a_grpc_call_that_is_cut_between_two_messages_is_told_by_its_trailers() {
    let ends: [(Change, &str, &[u8]); 5] = [
        (REVOKE, "16", b"invalid_key"),
        (|house| house.put(1, |row| row.states.disabled = true), "16", b"invalid_key"),
        (|house| house.put(1, |row| row.grants = Grants::Only(FlagSet::default())), "16", b"insufficient_scope"),
        (|house| house.clock.advance(Duration::from_secs(60)), "16", b"invalid_key"),
        // That is no fault of the key's.
        (
            |house| {
                house.table.set_max_staleness(Duration::from_secs(40));
                house.clock.advance(Duration::from_secs(50));
            },
            "14",
            b"stale_keys",
        ),
    ];
    for (end, status, message) in ends {
        in_house(watching(), async |house| {
            house.put(1, |row| row.expires_at = Some(NOW.plus(Duration::from_secs(60))));
            let trailers = cut_call(&house, MESSAGE, end).await.expect("a proper end").expect("trailers");
            assert_eq!(trailers.get("grpc-status").map(HeaderValue::as_bytes), Some(status.as_bytes()));
            assert_eq!(trailers.get("grpc-message").map(HeaderValue::as_bytes), Some(message));
        });
    }
}

#[test]
fn a_grpc_call_that_is_cut_before_its_answer_is_told_the_same() {
    in_house(watching(), async |house| {
        let mut sender = house.connect_http2::<Empty<Bytes>>().await;
        let call = sender.send_request(grpc_request("/pkg.Watch/comms"));
        let answer = async {
            let mut upstream = house.accept().await;
            upstream.head().await;
            house.put(1, |row| row.grants = Grants::Only(FlagSet::default()));
            upstream
        };
        let (response, mut upstream) = tokio::join!(call, answer);
        let fields = response.expect("an answer").headers().clone();
        assert_eq!(fields.get("grpc-status").map(HeaderValue::as_bytes), Some(b"16".as_slice()));
        assert_eq!(upstream.rest().await, "");
        let text = house.metrics();
        assert!(text.contains(r#"keyward_requests_total{route="watch",outcome="cut",status_class="2xx"} 1"#), "{text}");
        // A new one is refused for what the key lacks.
        let refused = sender.send_request(grpc_request("/pkg.Watch/comms")).await.expect("an answer");
        assert_eq!(refused.headers().get("grpc-status").map(HeaderValue::as_bytes), Some(b"7".as_slice()));
    });
}

#[test]
fn a_grpc_call_that_is_cut_inside_a_message_is_reset() {
    in_house(watching(), async |house| {
        let fault = cut_call(&house, "\0\0\0\0\u{5}hel", REVOKE).await.expect_err("a reset");
        let reason = fault.source().and_then(|cause| cause.downcast_ref::<h2::Error>()).and_then(h2::Error::reason);
        assert_eq!(reason, Some(h2::Reason::CANCEL));
    });
}

#[test]
fn a_request_that_waits_for_its_answer_is_cut_too() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.get("/any/slow", "").await;
        let mut upstream = house.accept().await;
        upstream.head().await;
        house.put(1, |row| row.states.revoked = true);
        assert_eq!(client.answer().await.0.status(), 401);
        assert_eq!(upstream.rest().await, "");
    });
}

#[test]
fn an_answer_that_nobody_reads_is_cut_at_its_source() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.get("/any/much", "").await;
        let mut upstream = house.accept().await;
        upstream.head().await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await;
        // The client takes nothing; at some point the upstream gets nothing rid of any more.
        let chunk = "x".repeat(64 * 1024);
        while tokio::time::timeout(Duration::from_millis(500), upstream.send(&chunk)).await.is_ok() {}
        house.put(1, |row| row.states.revoked = true);
        assert_eq!(upstream.rest().await, "");
        let rest = client.rest().await;
        assert!(rest.starts_with("HTTP/1.1 200 ") && rest.len() < 100_000_000);
    });
}

#[test]
fn an_answer_over_http_1_that_nobody_reads_is_cut_at_its_source_however_little_of_it_came() {
    in_house(Plan::default(), async |house| {
        let coded = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";
        let large = format!("X-Large: {}\r\n", "x".repeat(60 * 1024));
        for (number, answer) in [
            // More pieces than are taken on at a time, of a byte each.
            (1, format!("{coded}\r\n{}", "1\r\nx\r\n".repeat(20))),
            (2, format!("{coded}{large}\r\n{}", "1000\r\n".to_owned() + &"x".repeat(0x1000) + "\r\n")),
            (3, format!("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n{large}\r\n{}", "x".repeat(4999))),
        ] {
            house.put(number, |_| {});
            let mut client = house.connect_taking(64);
            let bearer = token(number);
            client.send(&format!("GET /any/much HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {bearer}\r\n\r\n")).await;
            let mut upstream = house.accept().await;
            upstream.head().await;
            upstream.send(&answer).await;
            // It is on its way, and nobody takes more of it than its first bytes.
            assert_eq!(client.take(12).await, "HTTP/1.1 200");
            house.put(number, |row| row.states.revoked = true);
            let version = house.table.version();
            let mut reviewed = house.table.reviewed();
            reviewed.wait_for(|reviewed| *reviewed >= version).await.expect("the table lives");
            let closed = tokio::time::timeout(Duration::from_secs(5), upstream.rest());
            assert_eq!(closed.await.expect("cut"), "", "answer {number}");
        }
    });
}

#[test]
fn an_answer_over_http_2_that_nobody_reads_is_cut_at_its_source_however_little_of_it_came() {
    in_house(Plan::default(), async |house| {
        for (number, window, length) in [(1, 1, "100000"), (2, 0, "100000"), (3, 1, "5000"), (4, 1, "100000000")] {
            house.put(number, |_| {});
            let mut client = house.connect_http2_taking::<Empty<Bytes>>(window).await;
            let request = http::Request::get("https://api.example/any/much")
                .header("authorization", format!("Bearer {}", token(number)))
                .body(Empty::new())
                .expect("a request");
            let played = async {
                let mut upstream = house.accept().await;
                upstream.head().await;
                let part = "x".repeat(4096);
                upstream.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{part}")).await;
                upstream
            };
            let (answer, mut upstream) = tokio::join!(client.send_request(request), played);
            let _unread = answer.expect("an answer");
            // What is said to be in force by now is.
            house.put(number, |row| row.states.revoked = true);
            let version = house.table.version();
            let mut reviewed = house.table.reviewed();
            reviewed.wait_for(|reviewed| *reviewed >= version).await.expect("the table lives");
            let closed = tokio::time::timeout(Duration::from_secs(5), upstream.rest());
            assert_eq!(closed.await.expect("cut"), "", "a window of {window}, {length} bytes");
        }
    });
}

#[test]
fn streams_end_with_the_grace_of_their_key_and_with_keys_too_old_for_their_route() {
    let stale = |settings: &mut Settings| settings.on_stale = OnStale::Deny;
    for (reason, end) in [("superseded", 60), ("stale_keys", 3600)] {
        in_house(Plan { settings: Some(stale), ..Plan::default() }, async |house| {
            house.table.set_max_staleness(Duration::from_secs(1800));
            if reason == "superseded" {
                house.put(1, |row| row.grace_expires_at = Some(NOW.plus(Duration::from_secs(60))));
            }
            let mut client = house.connect();
            client.get("/any/events", "").await;
            let mut upstream = house.accept().await;
            upstream.head().await;
            upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            assert_eq!(client.head().await.status(), 200);
            house.table.contact_lost(NOW);
            house.clock.advance(Duration::from_secs(end));
            assert_eq!(client.rest().await, "");
            assert_eq!(upstream.rest().await, "");
            let text = house.metrics();
            assert!(text.contains(&format!("keyward_streams_cut_total{{reason=\"{reason}\"}} 1")), "{text}");
        });
    }
}

#[test]
fn a_deny_list_cuts_open_streams_wherever_in_memory_it_comes_to_lie() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.get("/any/events", "").await;
        let mut upstream = house.accept().await;
        upstream.head().await;
        upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 200);
        // Once the stream was looked at with the list that is there,
        let mut reviewed = house.table.reviewed();
        house.put(2, |_| {});
        let version = house.table.version();
        reviewed.wait_for(|reviewed| *reviewed >= version).await.expect("the table lives");
        // another comes to lie where that one lay, if it can.
        let (listing, faults) = DenyList::parse(TokenHash::of(token(1).as_bytes()).to_hex());
        assert_eq!(faults, []);
        let first = Arc::as_ptr(&house.shared.deny.load_full());
        for _try in 0..1000 {
            house.shared.deny.store(Arc::new(listing.clone()));
            if Arc::as_ptr(&house.shared.deny.load_full()) == first {
                break;
            }
        }
        assert_eq!(client.rest().await, "");
        assert_eq!(upstream.rest().await, "");
        let text = house.metrics();
        assert!(text.contains("keyward_streams_cut_total{reason=\"listed\"} 1"), "{text}");
    });
}

#[test]
fn a_key_that_was_imported_by_its_sha_256_is_listed_by_either_hash_of_its_token() {
    in_house(Plan::default(), async |house| {
        let text = format!("sk_{}", token(7));
        let digest = TokenHash::sha256_of(text.as_bytes());
        for hash in [TokenHash::of(text.as_bytes()), digest] {
            house.shared.deny.store(Arc::default());
            house.put(7, |row| row.head = Head::from(&digest));
            let ask = format!("GET /any/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {text}\r\n\r\n");
            let mut client = house.connect();
            client.send(&ask).await;
            let mut upstream = house.accept().await;
            upstream.head().await;
            upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            assert_eq!(client.head().await.status(), 200);
            house.shared.deny.store(Arc::new(DenyList::parse(hash.to_hex()).0));
            assert_eq!(client.rest().await, "", "{hash:?}");
            assert_eq!(upstream.rest().await, "", "{hash:?}");
            let mut client = house.connect();
            client.send(&ask).await;
            assert_eq!(client.answer().await.0.status(), 401, "{hash:?}");
        }
        let text = house.metrics();
        assert!(text.contains("keyward_streams_cut_total{reason=\"listed\"} 2"), "{text}");
    });
}
