//! Requests as bytes: what is refused before anything is decided.

use crate::harness::{Config, Gateway, Site, Upstream};

fn status_of(gateway: &Gateway, request: &str) -> String {
    let answer = gateway.raw(request);
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_head_that_a_backend_may_read_otherwise_is_refused() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let gateway = site.start();
    for head in [
        "GET /public/x HTTP/1.1\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost:\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET public/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://b/public/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://u:p@a/public/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /public/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST /public/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\nab",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: close, authorization\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX: b\r\n folded\r\n\r\n",
    ] {
        assert_eq!(status_of(&gateway, head), "400", "{head:?}");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_length_is_forwarded_as_the_number_it_is() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let gateway = site.start();
    let request = "POST /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\n\r\nabc";
    assert_eq!(status_of(&gateway, request), "200");
    let arrived = upstream.only_request();
    assert_eq!((arrived.header("content-length"), arrived.body.bytes), (Some("3"), 3));
}

#[test]
fn options_star_is_answered_here() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let gateway = site.start();
    assert_eq!(status_of(&gateway, "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), "204");
    assert_eq!(status_of(&gateway, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"), "405");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn what_is_too_large_is_named() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let gateway = site.start();
    let long = "a".repeat(10_000);
    assert_eq!(status_of(&gateway, &format!("GET /public/{long} HTTP/1.1\r\nHost: a\r\n\r\n")), "414");
    let large = "a".repeat(40_000);
    assert_eq!(status_of(&gateway, &format!("GET /public/x HTTP/1.1\r\nHost: a\r\nX: {large}\r\n\r\n")), "431");
    let many = "X: a\r\n".repeat(120);
    assert_eq!(status_of(&gateway, &format!("GET /public/x HTTP/1.1\r\nHost: a\r\n{many}\r\n")), "431");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_refused_caller_is_not_asked_for_its_body() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let gateway = site.start();
    let head = "POST /any/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n";
    let answer = gateway.raw(head);
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert_eq!(status_of(&gateway, "GET /public/x HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n"), "417");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn http_1_0_without_a_host_is_served() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let gateway = site.start();
    assert_eq!(status_of(&gateway, "GET /public/x HTTP/1.0\r\n\r\n"), "200");
    assert_eq!(upstream.count(), 1);
}
