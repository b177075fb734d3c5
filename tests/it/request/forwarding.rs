//! What a request and its answer look like on the other side.

use http::StatusCode;

use crate::harness::{Config, Http, Reply, Site, Upstream, get, post, put};

#[test]
fn method_target_fields_and_body_arrive_as_sent() {
    let upstream = Upstream::answering(|_request| {
        Reply::text("made").status(StatusCode::CREATED).header("location", "/any/1").header("x-own", "1")
    });
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    for http in [Http::One, Http::Two] {
        let call = put("/any/a/b?c=d&e").bearer(&key.token).header("x-mine", "yes").text("some text");
        let answer = gateway.connect(http).send(call);
        assert_eq!((answer.status, answer.text().as_str()), (201, "made"), "{http:?}");
        assert_eq!((answer.header("location"), answer.header("x-own")), (Some("/any/1"), Some("1")));
    }
    for arrived in upstream.requests() {
        assert_eq!((arrived.method.as_str(), arrived.target.as_str()), ("PUT", "/any/a/b?c=d&e"));
        assert_eq!(arrived.header("x-mine"), Some("yes"));
        assert_eq!(arrived.body.beginning, b"some text");
        assert_eq!(arrived.header("content-length"), Some("9"));
    }
    assert_eq!(upstream.count(), 2);
}

#[test]
fn a_body_of_untold_length_comes_through_both_ways() {
    let upstream = Upstream::answering(|request| Reply::zeros(request.body.bytes + 1).chunked());
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    for http in [Http::One, Http::Two] {
        let answer = gateway.connect(http).send(post("/any/x").bearer(&key.token).zeros(300_000).chunked());
        assert_eq!((answer.status, answer.body.bytes), (200, 300_001), "{http:?}");
    }
    assert_eq!(upstream.requests()[0].header("content-length"), None);
}

#[test]
fn answers_without_a_body_keep_their_framing_and_the_connection() {
    let upstream = Upstream::answering(|request| match request.target.as_str() {
        "/any/204" => Reply::text("").status(StatusCode::NO_CONTENT),
        "/any/304" => Reply::text("").status(StatusCode::NOT_MODIFIED),
        _ => Reply::text("whole"),
    });
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    let mut connection = gateway.connect(Http::One);
    for (path, status, text) in [("/any/204", 204, ""), ("/any/304", 304, ""), ("/any/200", 200, "whole")] {
        let answer = connection.send(get(path).bearer(&key.token));
        assert_eq!((answer.status, answer.text().as_str()), (status, text));
    }
}

#[test]
fn connections_to_the_upstream_are_kept_and_used_again() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    let mut connection = gateway.connect(Http::One);
    for _ in 0..20 {
        assert_eq!(connection.send(get("/any/x").bearer(&key.token)).status, 200);
    }
    assert_eq!((upstream.count(), upstream.connections()), (20, 1));
}

#[test]
fn every_request_is_named_and_traced() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
    let arrived = upstream.only_request();
    let id = arrived.header("x-request-id").expect("a request id").to_owned();
    let trace = arrived.header("traceparent").expect("a trace parent");
    assert!(trace.starts_with("00-") && trace.len() == 55, "{trace}");
    let line = gateway.until_logged(0, &id);
    assert!(line.contains(&key.id), "the access line does not name the key: {line}");
}

#[test]
fn an_incoming_trace_is_continued() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let call = get("/any/x").bearer(&key.token).header("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"));
    assert_eq!(gateway.send(call).status, 200);
    let arrived = upstream.only_request();
    assert!(arrived.header("traceparent").is_some_and(|parent| parent.contains(trace)), "{arrived:?}");
}
