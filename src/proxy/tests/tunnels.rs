//! WebSockets, and what becomes of open streams when their key ends.

use std::time::Duration;

use super::harness::{NOW, Plan, in_house};

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
        assert_eq!(socket.rest().await, "");
        assert_eq!(events.rest().await, "");
        assert_eq!(socket_upstream.rest().await, "");
        assert_eq!(events_upstream.rest().await, "");
        let text = house.metrics();
        assert!(text.contains("keyward_streams_cut_total 2"), "{text}");
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
