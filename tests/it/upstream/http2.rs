//! HTTP/2 towards a service: sharing connections, and what a service may refuse.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::peer::{Peer, Seen, echo};
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
