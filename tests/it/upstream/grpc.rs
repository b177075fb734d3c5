//! gRPC from an HTTP/2 client to an HTTP/2 service: every kind of call is frames both ways and trailers.

use std::future::Future;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Version};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::peer::Peer;
use crate::harness::{Config, Gateway, Key, Site, until};

/// A gateway in front of an echoing service, and a key.
fn house(peer: &Peer) -> (Site, Gateway, Key) {
    let config = Config::towards(&format!("targets = ['h2c://{}']", peer.address()))
        .route("name = 'grpc'\npath = '/pkg.Echo/{method}'\nany_key = true");
    let site = Site::new(&config);
    let key = site.key(&[]);
    let gateway = site.start();
    (site, gateway, key)
}

/// Runs `test` with a connection to the gateway.
fn with_connection<F: Future<Output = ()>>(gateway: &Gateway, test: impl FnOnce(SendRequest<Bytes>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = TcpStream::connect(gateway.address()).await.expect("the gateway accepts connections");
        let (sender, connection) = h2::client::handshake(stream).await.expect("a preface");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        let patience = std::time::Duration::from_secs(30);
        tokio::time::timeout(patience, test(sender)).await.expect("the test hangs");
    });
}

fn call(key: &Key) -> Request<()> {
    Request::post("http://localhost/pkg.Echo/Talk")
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {}", key.token))
        .body(())
        .expect("a request")
}

#[test]
fn a_call_streams_both_ways_at_once_and_ends_with_trailers() {
    let peer = Peer::h2c();
    let (_site, gateway, key) = house(&peer);
    with_connection(&gateway, async |sender| {
        let mut sender = sender.ready().await.expect("a connection");
        let (response, mut sending) = sender.send_request(call(&key), false).expect("a stream");
        sending.send_data(Bytes::from_static(b"one"), false).expect("a stream");
        let response = response.await.expect("a head before the request has ended");
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        for say in ["one", "two", "three"] {
            let heard = body.data().await.expect("a frame").expect("a good frame");
            assert_eq!(heard, say);
            body.flow_control().release_capacity(heard.len()).expect("a window");
            match say {
                "one" => sending.send_data(Bytes::from_static(b"two"), false).expect("a stream"),
                "two" => sending.send_data(Bytes::from_static(b"three"), false).expect("a stream"),
                _ => sending.send_trailers(HeaderMap::new()).expect("a stream"),
            }
        }
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.expect("a good end").expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
    });
    let (version, _target, fields) = peer.last();
    assert_eq!((version, fields["te"].as_bytes()), (Version::HTTP_2, &b"trailers"[..]));
    assert!(!fields.contains_key("connection") && !fields.contains_key("authorization"), "{fields:?}");
}

#[test]
fn te_is_for_grpc_alone() {
    let peer = Peer::h2c();
    let (_site, gateway, key) = house(&peer);
    let answer = gateway
        .connect(crate::harness::Http::Two)
        .send(crate::harness::get("/any/x").bearer(&key.token).header("te", "trailers"));
    assert_eq!(answer.text(), "h2");
    assert!(!peer.last().2.contains_key("te"));
}

#[test]
fn a_caller_that_cancels_cancels_at_the_service() {
    let peer = Peer::h2c();
    let (_site, gateway, key) = house(&peer);
    with_connection(&gateway, async |sender| {
        let mut sender = sender.ready().await.expect("a connection");
        let (response, mut sending) = sender.send_request(call(&key), false).expect("a stream");
        sending.send_data(Bytes::from_static(b"one"), false).expect("a stream");
        let mut body = response.await.expect("a head").into_body();
        body.data().await.expect("a frame").expect("a good frame");
        sending.send_reset(h2::Reason::CANCEL);
        // The reset has to be written.
        let again = sender.ready().await.expect("a connection").send_request(call(&key), true).expect("a stream");
        again.0.await.expect("the connection goes on");
    });
    until("the service hears of it", || peer.seen().cancels() == 1);
    assert!(peer.connections() <= 2);
}
