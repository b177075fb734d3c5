//! Bodies both ways: streamed, framed as they should be, broken off when they must be.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Empty};

use super::harness::{Plan, in_house, token};
use crate::proxy::Upstream;

#[test]
fn a_download_streams_as_it_comes() {
    in_house(Plan::default(), async |house| {
        let (mut client, mut upstream) = house.ask("GET", "/any/x", "", "").await;
        upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        assert_eq!(client.head().await.field("transfer-encoding"), Some("chunked"));
        for piece in ["3\r\nabc\r\n", "2\r\nde\r\n"] {
            upstream.send(piece).await;
            assert_eq!(client.take(piece.len()).await, piece);
        }
        upstream.send("0\r\n\r\n").await;
        assert_eq!(client.take(5).await, "0\r\n\r\n");
    });
}

#[test]
fn an_upload_streams_as_it_comes() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.request("POST", "/any/x", "Transfer-Encoding: chunked\r\n").await;
        let mut upstream = house.accept().await;
        assert_eq!(upstream.head().await.field("transfer-encoding"), Some("chunked"));
        for piece in ["3\r\nabc\r\n", "2\r\nde\r\n"] {
            client.send(piece).await;
            assert_eq!(upstream.take(piece.len()).await, piece);
        }
        client.send("0\r\n\r\n").await;
        assert_eq!(upstream.take(5).await, "0\r\n\r\n");
        upstream.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
        let head = client.head().await;
        assert_eq!((head.status(), head.field("connection")), (201, None));
    });
}

#[test]
fn a_length_goes_upstream_as_it_was_parsed() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.request("POST", "/any/x", "Content-Length: 003\r\n").await;
        client.send("abc").await;
        let mut upstream = house.accept().await;
        assert_eq!(upstream.head().await.fields("content-length"), ["3"]);
        assert_eq!(upstream.take(3).await, "abc");
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 200);
        client.request("POST", "/any/x", "Content-Length: 0\r\n").await;
        let head = upstream.head().await;
        assert_eq!((head.field("content-length"), head.field("transfer-encoding")), (Some("0"), None));
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 200);
    });
}

#[test]
fn answers_without_a_body_keep_their_framing_and_leave_nothing_behind() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        let mut upstream = None;
        for (method, answer, length) in [
            ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", Some("1234")),
            ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: \"1\"\r\n\r\n", Some("1234")),
            ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
            (
                "GET",
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
                None,
            ),
        ] {
            client.request(method, "/any/x", "").await;
            if upstream.is_none() {
                upstream = Some(house.accept().await);
            }
            let upstream = upstream.as_mut().expect("accepted");
            upstream.head().await;
            upstream.send(answer).await;
            let head = client.head().await;
            assert!(answer.contains(&head.status().to_string()), "{}", head.0);
            assert_eq!(head.field("content-length"), length, "{answer}");
            assert_eq!(head.field("transfer-encoding"), None, "{answer}");
        }
        // The same connection still serves, and its next answer is the next request's.
        client.get("/any/x", "").await;
        let upstream = upstream.as_mut().expect("accepted");
        upstream.head().await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext").await;
        assert_eq!(client.answer().await.1, "next");
    });
}

#[test]
fn an_answer_before_the_end_of_the_upload_is_relayed_and_then_both_sides_close() {
    in_house(Plan::default(), async |house| {
        let (mut client, mut upstream) = house.ask("POST", "/any/x", "Content-Length: 100000\r\n", "abc").await;
        upstream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        let (head, body) = client.answer().await;
        assert_eq!((head.status(), head.field("connection"), body.as_str()), (403, Some("close"), "no"));
        assert_eq!(upstream.rest().await, "");
        // Nobody needs to send the rest; whoever does is not reset while reading the answer.
        client.try_send(&"x".repeat(1000)).await.expect("still read");
    });
}

#[test]
fn a_bad_chunk_ends_the_upstream_connection_without_a_last_chunk() {
    in_house(Plan::default(), async |house| {
        let (mut client, mut upstream) =
            house.ask("POST", "/any/x", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n").await;
        client.send("zz\r\n").await;
        assert_eq!(upstream.rest().await, "");
        let head = client.head().await;
        assert_eq!((head.status(), head.field("connection")), (400, Some("close")), "{}", head.0);
    });
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_its_upload_was_refused_nothing() {
    in_house(Plan::default(), async |house| {
        let counted = r#"keyward_requests_total{route="any",outcome="abandoned",status_class="4xx"}"#;
        let (client, mut upstream) = house.ask("POST", "/any/x", "Content-Length: 100\r\n", "abc").await;
        drop(client);
        assert_eq!(upstream.rest().await, "");
        house.until_counted(&format!("{counted} 1")).await;
        let mut upload = house.connect_http2().await;
        let (sender, body) = http_body_util::channel::Channel::<Bytes>::new(1);
        let request = Request::post("http://a/any/x").header("authorization", format!("Bearer {}", token(1)));
        let answer = tokio::task::spawn_local(upload.send_request(request.body(body).expect("a request")));
        let mut upstream = house.accept().await;
        upstream.head().await;
        drop((sender, answer.abort()));
        house.until_counted(&format!("{counted} 2")).await;
        let text = house.metrics();
        assert!(text.contains(r#"keyward_denials_total{code="bad_request",reason="bad_request"} 0"#), "{text}");
    });
}

#[test]
fn an_upload_that_breaks_off_beside_its_answer_is_no_fault_of_the_upstream() {
    in_house(Plan::default(), async |house| {
        let (mut client, mut upstream) =
            house.ask("POST", "/any/x", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n").await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
        assert_eq!(client.head().await.status(), 200);
        assert_eq!(client.take(3).await, "abc");
        client.send("zz\r\n").await;
        assert_eq!(upstream.rest().await, "");
        assert_eq!(client.rest().await, "");
        let text = house.metrics();
        assert!(!text.contains(r#"kind="body_broken"} 1"#), "{text}");
        assert!(text.contains(r#"keyward_denials_total{code="bad_request",reason="bad_request"} 1"#), "{text}");
    });
}

#[test]
fn an_upload_over_the_limit_is_broken_off() {
    in_house(Plan::default(), async |house| {
        let (mut client, mut upstream) =
            house.ask("POST", "/small", "Transfer-Encoding: chunked\r\n", "9\r\n123456789\r\n").await;
        client.send("2\r\nab\r\n").await;
        assert_eq!(upstream.rest().await, "");
        let (head, body) = client.answer().await;
        assert_eq!(head.status(), 413);
        assert!(body.contains("body_too_large"));
    });
}

#[test]
fn a_download_that_breaks_off_is_not_made_to_look_whole() {
    in_house(Plan::default(), async |house| {
        for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
            let (mut client, mut upstream) = house.ask("GET", "/any/x", "", "").await;
            upstream.send(&format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")).await;
            assert_eq!(client.head().await.status(), 200);
            upstream.send("3\r\nabc\r\n").await;
            assert_eq!(client.take(8).await, "3\r\nabc\r\n");
            drop(upstream);
            assert_eq!(client.rest().await, "");
        }
        let text = house.metrics();
        assert!(text.contains(r#"keyward_upstream_errors_total{upstream="api",kind="body_broken"} 2"#), "{text}");
    });
}

#[test]
fn an_upstream_that_says_nothing_is_given_up() {
    let quick = |upstream: &mut Upstream| upstream.head_timeout = Duration::from_millis(30);
    in_house(Plan { upstream: Some(quick), ..Plan::default() }, async |house| {
        let (mut client, mut upstream) = house.ask("GET", "/any/x", "", "").await;
        let (head, body) = client.answer().await;
        assert_eq!(head.status(), 504);
        assert!(body.contains("upstream_timeout"));
        assert_eq!(upstream.rest().await, "");
    });
}

#[test]
fn an_answer_that_pauses_for_too_long_is_broken_off() {
    let quick = |upstream: &mut Upstream| upstream.idle_timeout = Duration::from_millis(30);
    in_house(Plan { upstream: Some(quick), ..Plan::default() }, async |house| {
        let (mut client, mut upstream) = house.ask("GET", "/any/x", "", "").await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
        assert_eq!(client.head().await.status(), 200);
        assert_eq!(client.rest().await, "abc");
        assert_eq!(upstream.rest().await, "");
    });
}

#[test]
fn an_expectation_that_is_met_is_not_passed_on() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.request("POST", "/any/x", "Content-Length: 3\r\nExpect: 100-continue\r\n").await;
        assert_eq!(client.head().await.status(), 100);
        client.send("abc").await;
        let mut upstream = house.accept().await;
        assert!(upstream.head().await.fields("expect").is_empty());
        assert_eq!(upstream.take(3).await, "abc");
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 200);
    });
}

#[test]
fn trailers_pass_for_grpc_alone() {
    in_house(Plan::default(), async |house| {
        let mut sender = house.connect_http2().await;
        let mut reused = None;
        for (kind, passes) in [("application/grpc", true), ("text/plain", false)] {
            let request = Request::post("https://api.example/pkg.Service/Do")
                .header("authorization", format!("Bearer {}", token(1)))
                .header("content-type", kind)
                .body(Empty::<Bytes>::new())
                .expect("a request");
            let answer = sender.send_request(request);
            let played = async {
                let mut upstream = match reused.take() {
                    Some(upstream) => upstream,
                    None => house.accept().await,
                };
                let saw = upstream.head().await;
                assert_eq!(saw.field("te"), passes.then_some("trailers"));
                upstream
                    .send(&format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\
                         Trailer: grpc-status\r\n\r\n2\r\nhi\r\n0\r\ngrpc-status: 0\r\n\r\n"
                    ))
                    .await;
                upstream
            };
            let (answer, upstream) = tokio::join!(answer, played);
            let whole = answer.expect("an answer").into_body().collect().await.expect("whole");
            assert_eq!(whole.trailers().is_some(), passes);
            assert_eq!(&whole.to_bytes()[..], b"hi");
            reused = Some(upstream);
        }
    });
}

/// A body of frames that are there already.
struct Frames(std::vec::IntoIter<Frame<Bytes>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(self.0.next().map(Ok))
    }
}

#[test]
fn trailers_of_a_client_are_dropped() {
    in_house(Plan::default(), async |house| {
        let mut sender = house.connect_http2().await;
        let mut trailers = HeaderMap::new();
        trailers.insert("keyward-user", "root".parse().expect("a value"));
        let frames = vec![Frame::data(Bytes::from_static(b"abc")), Frame::trailers(trailers)];
        let request = Request::post("https://api.example/any/x")
            .header("authorization", format!("Bearer {}", token(1)))
            .header("trailer", "keyward-user")
            .body(Frames(frames.into_iter()))
            .expect("a request");
        let answer = sender.send_request(request);
        let played = async {
            let mut upstream = house.accept().await;
            upstream.head().await;
            assert_eq!(upstream.take(13).await, "3\r\nabc\r\n0\r\n\r\n");
            upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        };
        let (answer, ()) = tokio::join!(answer, played);
        assert_eq!(answer.expect("an answer").status(), 204);
    });
}

#[test]
fn a_client_that_goes_away_ends_the_exchange_upstream() {
    in_house(Plan::default(), async |house| {
        let (mut client, mut upstream) = house.ask("GET", "/any/x", "", "").await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
        client.head().await;
        drop(client);
        while upstream.try_send(&"x".repeat(64 * 1024)).await.is_ok() {}
        drop(upstream);
    });
}

#[test]
fn the_length_of_what_has_no_body_is_kept() {
    in_house(Plan::default(), async |house| {
        let mut sender = house.connect_http2::<Empty<Bytes>>().await;
        for (method, answer) in [
            ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nConnection: close\r\n\r\n"),
            ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nConnection: close\r\n\r\n"),
        ] {
            let request = http::Request::builder()
                .method(method)
                .uri("http://a/any/x")
                .header("authorization", format!("Bearer {}", token(1)))
                .body(Empty::new())
                .expect("a request");
            let upstream = async {
                let mut upstream = house.accept().await;
                upstream.head().await;
                upstream.send(answer).await;
            };
            let (response, ()) = tokio::join!(sender.send_request(request), upstream);
            let response = response.expect("an answer");
            assert_eq!(response.headers().get("content-length").map(HeaderValue::as_bytes), Some(b"1234".as_slice()));
            assert!(response.into_body().collect().await.expect("no body").to_bytes().is_empty());
        }
    });
}

#[test]
fn a_304_over_http_1_keeps_its_length_and_the_connection_goes_on() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.get("/any/x", "").await;
        let mut upstream = house.accept().await;
        for (told, kept) in [
            ("Content-Length: 1234\r\n", Some("1234")),
            ("Content-Length: 0\r\n", Some("0")),
            ("Content-Length: 007\r\n", Some("7")),
            ("", None),
            ("Content-Length: 1\r\nContent-Length: 2\r\n", None),
            ("Content-Length: much\r\n", None),
        ] {
            upstream.head().await;
            upstream.send(&format!("HTTP/1.1 304 Not Modified\r\n{told}ETag: \"a\"\r\n\r\n")).await;
            let head = client.head().await;
            assert_eq!((head.status(), head.field("content-length"), head.field("etag")), (304, kept, Some("\"a\"")));
            client.get("/any/x", "").await;
        }
        upstream.head().await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(client.answer().await.1, "ok");
    });
}
