//! What an upstream is told of a request, and a client of its answer.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};

use super::harness::{House, NOW, Plan, in_house, token};
use crate::proxy::Network;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Sends a request with these fields and tells what the upstream saw.
async fn upstream_saw(house: &House, path: &str, fields: &str) -> super::harness::Head1 {
    let mut client = house.connect();
    client.get(path, fields).await;
    let mut upstream = house.accept().await;
    let head = upstream.head().await;
    upstream.send(OK).await;
    assert_eq!(client.answer().await.0.status(), 200);
    head
}

#[test]
fn an_upstream_is_told_who_calls_and_gets_no_credential() {
    in_house(Plan::default(), async |house| {
        let saw = upstream_saw(&house, "/keyrings/comms?x=1", "Accept: */*\r\n").await;
        assert_eq!(saw.line(), "GET /keyrings/comms?x=1 HTTP/1.1");
        assert_eq!(saw.field("host"), Some("api.example"));
        assert_eq!(saw.field("keyward-key-id"), Some("key_00000000000000000000000000000001"));
        assert_eq!(saw.field("keyward-project"), Some("acme"));
        assert_eq!(saw.field("keyward-environment"), Some("live"));
        assert_eq!(saw.field("keyward-flags"), Some("keyring.comms.read"));
        assert_eq!(saw.field("keyward-key-status"), Some("active"));
        assert_eq!(saw.field("keyward-user"), None);
        assert_eq!(saw.field("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(saw.field("x-forwarded-proto"), Some("http"));
        assert_eq!(saw.field("x-forwarded-host"), Some("api.example"));
        assert_eq!(saw.field("via"), Some("1.1 keyward"));
        assert_eq!(saw.field("x-request-id").map(str::len), Some(32));
        assert_eq!(saw.field("traceparent").map(str::len), Some(55));
        assert_eq!(saw.field("accept"), Some("*/*"));
        assert!(saw.fields("authorization").is_empty());
        assert!(!saw.0.contains(&token(1)));
    });
}

#[test]
fn a_client_cannot_say_who_it_is() {
    in_house(Plan::default(), async |house| {
        let forged = "Keyward-User: root\r\nkeyward_user: root\r\nX-Keyward-Key-Id: k\r\nKEYWARD.PROJECT: p\r\n\
                      X-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
                      X-Real-IP: 6.6.6.6\r\nX-Request-Id: mine\r\nX-Original-URL: /admin\r\n\
                      Connection: x-hop\r\nX-Hop: 1\r\n";
        let saw = upstream_saw(&house, "/any/x", forged).await;
        for sign in ["root", "6.6.6.6", "mine", "/admin", "x-hop", "x-keyward", "keyward.project"] {
            assert!(!saw.0.to_lowercase().contains(sign), "{sign} in {}", saw.0);
        }
        assert_eq!(saw.field("keyward-project"), Some("acme"));
        assert_eq!(saw.field("x-forwarded-for"), Some("127.0.0.1"));
    });
}

#[test]
fn a_trusted_proxy_is_believed_about_the_way_but_not_about_the_caller() {
    let trust = |settings: &mut crate::proxy::Settings| {
        settings.trusted_proxies = vec![Network { address: [127, 0, 0, 0].into(), bits: 8 }];
    };
    // The miss path asserts a loopback client, so only known keys are sent here.
    in_house(Plan { settings: Some(trust), ..Plan::default() }, async |house| {
        let fields = "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\n\
                      X-Request-Id: edge-1\r\nKeyward-User: root\r\n";
        let saw = upstream_saw(&house, "/any/x", fields).await;
        assert_eq!(saw.field("x-forwarded-for"), Some("198.51.100.7, 127.0.0.1"));
        assert_eq!(saw.field("x-forwarded-proto"), Some("https"));
        assert_eq!(saw.field("x-forwarded-host"), Some("a.example"));
        assert_eq!(saw.field("x-request-id"), Some("edge-1"));
        assert!(saw.fields("keyward-user").is_empty());
    });
}

#[test]
fn a_trace_goes_on_in_a_span_of_ours() {
    in_house(Plan::default(), async |house| {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let saw = upstream_saw(&house, "/any/x", &format!("traceparent: {parent}\r\ntracestate: a=1\r\n")).await;
        let ours = saw.field("traceparent").expect("one");
        assert!(ours.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && ours != parent);
        assert_eq!(saw.field("tracestate"), Some("a=1"));
        let saw = upstream_saw(&house, "/any/x", "traceparent: nonsense\r\ntracestate: a=1\r\n").await;
        assert!(saw.fields("tracestate").is_empty());
    });
}

#[test]
fn a_public_route_takes_no_key_and_passes_none_on() {
    in_house(Plan::default(), async |house| {
        let saw = upstream_saw(&house, "/public/x", "").await;
        assert!(saw.fields("authorization").is_empty());
        assert!(!saw.0.contains("keyward-key-id"));
        let mut client = house.connect();
        client.send("GET /public/x HTTP/1.1\r\nHost: a\r\nAuthorization: Basic eA==\r\n\r\n").await;
        let mut upstream = house.accept().await;
        assert_eq!(upstream.head().await.field("authorization"), Some("Basic eA=="));
        upstream.send(OK).await;
        let (head, _) = client.answer().await;
        assert!(head.fields("vary").is_empty() && head.fields("cache-control").is_empty());
    });
}

#[test]
fn a_route_that_only_watches_lets_pass_and_says_so() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.send("GET /watched HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer unknown\r\n\r\n").await;
        let mut upstream = house.accept().await;
        let saw = upstream.head().await;
        assert_eq!(saw.field("keyward-shadow"), Some("denied"));
        assert_eq!(saw.field("authorization"), Some("Bearer unknown"));
        assert!(saw.fields("keyward-key-id").is_empty());
        upstream.send(OK).await;
        assert_eq!(client.answer().await.0.status(), 200);
        assert!(house.metrics().contains(r#"keyward_denials_total{code="invalid_key",reason="unknown"} 1"#));
    });
}

#[test]
fn an_upstream_cannot_speak_for_the_gateway() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.get("/any/x", "").await;
        let mut upstream = house.accept().await;
        upstream.head().await;
        upstream
            .send(
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeyward-Key-Status: grace\r\nX_Keyward_User: root\r\n\
                 Connection: x-private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nSet-Cookie: a=1\r\n\r\n",
            )
            .await;
        let (head, _) = client.answer().await;
        for sign in ["keyward-key", "x_keyward", "x-private", "keep-alive"] {
            assert!(!head.0.to_lowercase().contains(sign), "{sign} in {}", head.0);
        }
        assert_eq!(head.field("set-cookie"), Some("a=1"));
        assert_eq!(head.field("vary"), Some("authorization"));
        assert_eq!(head.field("cache-control"), Some("private"));
        assert_eq!(head.field("x-request-id").map(str::len), Some(32));
    });
}

#[test]
fn what_an_upstream_says_of_caching_stands() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.get("/header", "").await;
        let mut upstream = house.accept().await;
        upstream.head().await;
        upstream
            .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: public\r\nVary: Authorization\r\n\r\n")
            .await;
        let (head, _) = client.answer().await;
        assert_eq!(head.field("cache-control"), Some("public"));
        assert_eq!(head.fields("vary"), ["Authorization, x-api-key"]);
    });
}

#[test]
fn a_holder_is_told_when_its_key_ends() {
    in_house(Plan::default(), async |house| {
        let in_grace = NOW.plus(Duration::from_secs(90 * 60));
        house.put(1, |row| row.grace_expires_at = Some(in_grace));
        let mut client = house.connect();
        for (change, status, expires) in
            [(0, Some("grace"), Some("@1800005400")), (1, None, Some("@1800001800")), (2, None, None)]
        {
            match change {
                0 => {}
                1 => house.put(2, |row| row.expires_at = Some(NOW.plus(Duration::from_secs(1800)))),
                _ => house.put(2, |row| row.expires_at = Some(NOW.plus(Duration::from_secs(7200)))),
            }
            let token = token(if change == 0 { 1 } else { 2 });
            client.send(&format!("GET /any/x HTTP/1.1\r\nHost: a\r\nAuthorization: bearer {token}\r\n\r\n")).await;
            let mut upstream = house.accept().await;
            upstream.head().await;
            upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            let (head, _) = client.answer().await;
            assert_eq!(head.field("keyward-key-status"), status);
            assert_eq!(head.field("keyward-key-expires"), expires);
        }
    });
}

#[test]
fn http_2_becomes_http_1_for_the_upstream() {
    in_house(Plan::default(), async |house| {
        let mut sender = house.connect_http2().await;
        let request = http::Request::get("https://api.example/any/x?y")
            .header("authorization", format!("Bearer {}", token(1)))
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("te", "trailers")
            .body(Empty::new())
            .expect("a request");
        let answer = sender.send_request(request);
        let played = async {
            let mut upstream = house.accept().await;
            let saw = upstream.head().await;
            upstream.send(OK).await;
            saw
        };
        let (answer, saw) = tokio::join!(answer, played);
        assert_eq!(saw.line(), "GET /any/x?y HTTP/1.1");
        assert_eq!(saw.field("host"), Some("api.example"));
        assert_eq!(saw.field("cookie"), Some("a=1; b=2"));
        assert!(saw.fields("te").is_empty() && saw.fields("transfer-encoding").is_empty());
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert_eq!(&answer.into_body().collect().await.expect("whole").to_bytes()[..], b"ok");
    });
}
