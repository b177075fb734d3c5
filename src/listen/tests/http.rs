//! Requests, refusals, panics, the cap, upgrades.

use http::StatusCode;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::{House, Plan, Script, exchange, get, http1, http2, read_to_close, run, text};
use crate::listen::connection::Accepted;
use crate::listen::{Clients, Limits};

#[test]
fn http1_is_served_in_clear_and_keeps_its_connection() {
    run(async {
        let house = House::open(Plan::default());
        let (mut sender, _connection) = http1(house.connect().await).await;
        for _ in 0..3 {
            assert_eq!(text(sender.send_request(get("/")).await.expect("answered")).await, "hello");
        }
        assert_eq!(house.metrics.accepted.get(), 1);
        assert_eq!(house.metrics.open.get(), 1);
    });
}

#[test]
fn http2_is_served_in_clear_by_prior_knowledge() {
    run(async {
        let house = House::open(Plan::default());
        let (mut sender, _connection) = http2(house.connect().await).await;
        let answer = sender.send_request(get("/")).await.expect("answered");
        assert_eq!(answer.version(), http::Version::HTTP_2);
        assert_eq!(text(answer).await, "hello");
    });
}

#[test]
fn a_request_whose_first_bytes_come_one_by_one_is_served() {
    run(async {
        let house = House::open(Plan::default());
        let mut stream = house.connect().await;
        stream.set_nodelay(true).expect("a socket");
        for byte in b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" {
            stream.write_all(&[*byte]).await.expect("taken");
            tokio::task::yield_now().await;
        }
        assert!(read_to_close(stream).await.ends_with("hello"));
    });
}

#[test]
fn what_cannot_be_parsed_is_answered_with_a_problem() {
    run(async {
        let house = House::open(Plan::default());
        let bad = exchange(house.connect().await, "GET / HTTP/1.1\r\nhost : a\r\n\r\n").await;
        assert!(bad.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{bad}");
        assert!(bad.contains("application/problem+json") && bad.contains("\"code\":\"bad_request\""), "{bad}");
        let wide = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(40_000));
        let wide = exchange(house.connect().await, &wide).await;
        assert!(wide.starts_with("HTTP/1.1 431 ") && wide.contains("\"head_too_large\""), "{wide}");
        let fields = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(101));
        let fields = exchange(house.connect().await, &fields).await;
        assert!(fields.starts_with("HTTP/1.1 431 ") && fields.contains("\"head_too_large\""), "{fields}");
        let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "y".repeat(9_000));
        let long = exchange(house.connect().await, &long).await;
        assert!(long.starts_with("HTTP/1.1 414 ") && long.contains("\"target_too_long\""), "{long}");
        assert_eq!(house.script.begun.get(), 0);
    });
}

#[test]
fn a_bare_400_of_the_handler_stays_as_it_is() {
    run(async {
        let house = House::open(Plan::default());
        let answer =
            exchange(house.connect().await, "GET /bare HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    });
}

#[test]
fn garbage_after_an_answered_request_gets_its_own_problem() {
    run(async {
        let house = House::open(Plan::default());
        let both = exchange(house.connect().await, "GET / HTTP/1.1\r\nhost: a\r\n\r\n\0\0\0\0\r\n\r\n").await;
        assert!(both.starts_with("HTTP/1.1 200 OK\r\n") && both.contains("\"code\":\"bad_request\""), "{both}");
    });
}

#[test]
fn limits_of_fields_hold_on_http2_as_well() {
    run(async {
        let limits = Limits { fields: 3, ..Limits::default() };
        let house = House::open(Plan { limits, ..Plan::default() });
        let (mut sender, _connection) = http2(house.connect().await).await;
        let mut request = get("/");
        for name in ["a", "b", "c", "d"] {
            request.headers_mut().insert(name, http::HeaderValue::from_static("x"));
        }
        let answer = sender.send_request(request).await.expect("answered");
        assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    });
}

#[test]
fn a_panic_is_answered_with_500_and_costs_that_connection_only() {
    run(async {
        let house = House::open(Plan::default());
        let (mut other, _connection) = http1(house.connect().await).await;
        assert_eq!(text(other.send_request(get("/")).await.expect("answered")).await, "hello");
        let answer = exchange(house.connect().await, "GET /panic HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("\"code\":\"internal\""), "{answer}");
        assert_eq!(text(other.send_request(get("/")).await.expect("answered")).await, "hello");
        assert_eq!(house.metrics.panics.get(), 1);
    });
}

#[test]
fn a_panic_on_one_stream_leaves_the_others() {
    run(async {
        let house = House::open(Plan::default());
        let (mut sender, _connection) = http2(house.connect().await).await;
        let answer = sender.send_request(get("/panic")).await.expect("answered");
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        match sender.send_request(get("/broken")).await {
            Ok(answer) => assert!(answer.into_body().collect().await.is_err()),
            Err(reset) => assert!(!reset.is_user()),
        }
        assert_eq!(text(sender.send_request(get("/")).await.expect("answered")).await, "hello");
        assert_eq!(house.metrics.panics.get(), 2);
    });
}

#[test]
fn a_body_that_panics_is_cut_off_and_never_looks_whole() {
    run(async {
        let house = House::open(Plan::default());
        let (mut sender, _connection) = http1(house.connect().await).await;
        match sender.send_request(get("/broken")).await {
            Ok(answer) => assert!(answer.into_body().collect().await.is_err()),
            Err(cut) => assert!(!cut.is_user()),
        }
        assert_eq!(house.metrics.panics.get(), 1);
    });
}

#[test]
fn over_the_cap_a_connection_is_refused_and_one_that_ends_makes_room() {
    run(async {
        let house = House::open(Plan { connections: 1, ..Plan::default() });
        let (mut first, connection) = http1(house.connect().await).await;
        assert_eq!(text(first.send_request(get("/")).await.expect("answered")).await, "hello");
        let refused = read_to_close(house.connect().await).await;
        assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("\"code\":\"overloaded\""), "{refused}");
        assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
        assert_eq!(house.metrics.refused.get(), 1);
        drop(first);
        let _ended = connection.await;
        while house.metrics.open.get() > 0 {
            tokio::task::yield_now().await;
        }
        let (mut second, _connection) = http1(house.connect().await).await;
        assert_eq!(text(second.send_request(get("/")).await.expect("answered")).await, "hello");
    });
}

#[test]
fn over_its_cap_a_client_is_refused_and_nobody_else_and_one_that_ends_makes_room() {
    run(async {
        let clients = Clients { connections_max: 2, ..Clients::default() };
        let house = House::open(Plan { clients, ..Plan::default() });
        let (mut first, connection) = http1(house.connect().await).await;
        assert_eq!(text(first.send_request(get("/")).await.expect("answered")).await, "hello");
        let _silent = house.connect().await;
        let refused = read_to_close(house.connect().await).await;
        assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("\"code\":\"overloaded\""), "{refused}");
        let (mut other, _connection) = http1(house.connect_from([127, 0, 0, 2]).await).await;
        assert_eq!(text(other.send_request(get("/")).await.expect("answered")).await, "hello");
        assert_eq!((house.metrics.refused_of_client.get(), house.metrics.refused.get()), (1, 0));
        drop(first);
        let _ended = connection.await;
        while house.metrics.open.get() > 2 {
            tokio::task::yield_now().await;
        }
        let (mut second, _connection) = http1(house.connect().await).await;
        assert_eq!(text(second.send_request(get("/")).await.expect("answered")).await, "hello");
    });
}

#[test]
fn an_upgrade_becomes_a_tunnel_and_holds_its_place() {
    run(async {
        let house = House::open(Plan::default());
        let stream = house.connect().await;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a client");
        tokio::task::spawn_local(connection.with_upgrades());
        let mut request = get("/tunnel");
        request.headers_mut().insert("connection", http::HeaderValue::from_static("upgrade"));
        request.headers_mut().insert("upgrade", http::HeaderValue::from_static("echo"));
        let answer = sender.send_request(request).await.expect("answered");
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut tunnel = TokioIo::new(hyper::upgrade::on(answer).await.expect("upgraded"));
        let mut word = [0; 4];
        tunnel.write_all(b"ping").await.expect("taken");
        tunnel.read_exact(&mut word).await.expect("echoed");
        assert_eq!(&word, b"ping");
        assert_eq!(house.metrics.open.get(), 1);
        drop(tunnel);
        while house.metrics.open.get() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_connection_that_has_sent_nothing_is_small() {
    fn size_of_future<A, F>(_serve: impl Fn(A, tokio::net::TcpStream) -> F) -> usize {
        std::mem::size_of::<F>()
    }
    let bytes = size_of_future(Accepted::<Script>::serve);
    assert!(bytes <= 1536, "{bytes} bytes before the first byte");
}
