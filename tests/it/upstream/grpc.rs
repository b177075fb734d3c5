//! gRPC from an HTTP/2 client to an HTTP/2 service: every kind of call is frames both ways and trailers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response, Version};
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
    with_window(gateway, 65_535, test);
}

/// The same with a client that takes so many bytes of an answer before it has read them.
fn with_window<F: Future<Output = ()>>(gateway: &Gateway, window: u32, test: impl FnOnce(SendRequest<Bytes>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = TcpStream::connect(gateway.address()).await.expect("the gateway accepts connections");
        let mut client = h2::client::Builder::new();
        let (sender, connection) = client.initial_window_size(window).handshake(stream).await.expect("a preface");
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

/// A message as gRPC frames it.
fn message(text: &str) -> Bytes {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(text.len()).expect("short").to_be_bytes());
    framed.extend_from_slice(text.as_bytes());
    framed.into()
}

/// Opens a call, and has its first message back.
async fn talking(sender: &SendRequest<Bytes>, key: &Key) -> (SendStream<Bytes>, RecvStream) {
    let mut sender = sender.clone().ready().await.expect("a connection");
    let (response, mut sending) = sender.send_request(call(key), false).expect("a stream");
    sending.send_data(message("one"), false).expect("a stream");
    let mut body = response.await.expect("a head").into_body();
    assert_eq!(hear(&mut body).await, message("one"));
    (sending, body)
}

async fn hear(body: &mut RecvStream) -> Bytes {
    let heard = body.data().await.expect("a frame").expect("a good frame");
    body.flow_control().release_capacity(heard.len()).expect("a window");
    heard
}

/// How a call ended: its status, if it was told one.
async fn status(body: &mut RecvStream) -> String {
    assert!(body.data().await.is_none_or(|read| read.is_err()), "nothing more comes");
    let trailers = body.trailers().await.expect("a proper end").expect("trailers");
    trailers["grpc-status"].to_str().expect("text").to_owned()
}

fn talking_config(peer: &Peer, access: &str, more: &str) -> Config {
    Config::towards(&format!("targets = ['h2c://{}']\n{more}", peer.address()))
        .route(&format!("name = 'grpc'\npath = '/pkg.Echo/{{method}}'\n{access}"))
}

#[test]
fn a_call_whose_key_may_no_longer_is_told_to_authenticate_whatever_ended_it() {
    const ACCESS: &str = "any_flags = ['echo.use']";
    const LIVES: [&str; 4] = ["--flag", "echo.use", "--expires-in", "4s"];
    let peer = Peer::h2c();
    let site = Site::new(&talking_config(&peer, ACCESS, ""));
    let gateway = site.start();
    let set_user = |more: &str| site.run(["users", "set", "alice", "-c", "keyward.toml", more, "echo.use"]);
    set_user("--flag");
    let changed = || {
        site.write_config(&talking_config(&peer, "any_flags = ['echo.other']", ""));
        gateway.hang_up();
    };
    let of_alice = || site.key_with(&["--user", "alice", "--inherit"]);
    type End<'a> = &'a dyn Fn(&Key);
    let ends: [(&str, Key, End<'_>); 5] = [
        ("revoked", site.key(&["echo.use"]), &|key| site.revoke(key)),
        ("user_disabled", of_alice(), &|_| {
            site.run(["users", "set", "alice", "-c", "keyward.toml", "--disabled"]);
        }),
        ("lacks_flags", site.key(&["echo.use"]), &|key| {
            site.keys(&["update", &key.id, "--flag", "another"]);
        }),
        ("expired", site.key_with(&LIVES), &|_| {}),
        ("lacks_flags", site.key(&["echo.use"]), &|_| changed()),
    ];
    with_connection(&gateway, async |sender| {
        // The one that expires first has to begin first.
        let mut calls = Vec::new();
        for (_, key, _) in &ends {
            calls.push(talking(&sender, key).await);
        }
        for ((reason, key, end), (sending, mut body)) in ends.iter().zip(calls) {
            let mark = gateway.log_mark();
            end(key);
            assert_eq!(status(&mut body).await, "16", "{reason}");
            gateway.until_logged(mark, &format!("\"reason\":\"{reason}\""));
            drop(sending);
        }
    });
    until("the service hears of it", || peer.seen().cancels() == 5);
}

#[test]
fn an_upload_whose_caller_reads_nothing_is_cut_at_the_service_too() {
    let peer = Peer::h2c();
    let (site, gateway, key) = house(&peer);
    with_window(&gateway, 0, async |sender| {
        let mut sender = sender.ready().await.expect("a connection");
        let (response, mut sending) = sender.send_request(call(&key), false).expect("a stream");
        sending.send_data(message("one"), false).expect("a stream");
        let body = response.await.expect("a head").into_body();
        // The echo waits at the gateway for a caller that takes it.
        site.revoke(&key);
        until("the service hears of it", || peer.seen().cancels() == 1);
        drop(body);
    });
}

/// Reads all of a call in silence and then says that it was well.
async fn listens(stream: super::peer::AnyIo) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        streams.spawn(async move {
            let mut body = request.into_body();
            let mut sending = respond.send_response(Response::new(()), false).expect("a stream");
            while let Some(Ok(read)) = body.data().await {
                body.flow_control().release_capacity(read.len()).expect("a window");
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().expect("a value"));
            let _gone = sending.send_trailers(trailers);
        });
    }
}

#[test]
fn a_quiet_call_goes_on_where_a_body_or_an_answer_that_pauses_would_end() {
    let peer = Peer::h2c();
    let config =
        talking_config(&peer, "any_key = true", "idle_timeout = '150ms'").gateway("timeouts = { body_idle = '150ms' }");
    let site = Site::new(&config);
    let key = site.key(&[]);
    let gateway = site.start();
    with_connection(&gateway, async |sender| {
        let (mut sending, mut body) = talking(&sender, &key).await;
        tokio::time::sleep(Duration::from_millis(900)).await;
        sending.send_data(message("two"), true).expect("the stream is there");
        assert_eq!(hear(&mut body).await, message("two"));
        assert_eq!(status(&mut body).await, "0");
        // Another request that pauses like that.
        let mut plain = call(&key);
        plain.headers_mut().insert("content-type", "text/plain".parse().expect("a value"));
        let mut sender = sender.clone().ready().await.expect("a connection");
        let (response, mut sending) = sender.send_request(plain, false).expect("a stream");
        sending.send_data(Bytes::from_static(b"one"), false).expect("a stream");
        let ended = match response.await {
            Ok(response) => {
                let mut body = response.into_body();
                while let Some(Ok(read)) = body.data().await {
                    body.flow_control().release_capacity(read.len()).expect("a window");
                }
                body.trailers().await.is_err()
            }
            Err(_reset) => true,
        };
        assert!(ended);
    });
}

#[test]
fn a_call_on_which_nothing_moves_either_way_ends_at_the_bound_of_its_route() {
    let peer = Peer::h2c();
    let silent = Peer::serving(None, Arc::new(|stream, _number, _seen| Box::pin(listens(stream))));
    let both =
        format!("targets = ['h2c://{}']\n[upstreams.silent]\ntargets = ['h2c://{}']", peer.address(), silent.address());
    let config = Config::towards(&both)
        .route("name = 'grpc'\npath = '/pkg.Echo/{method}'\nany_key = true\nstream_idle = '200ms'")
        .raw("[[routes]]\nname = 'silent'\npath = '/pkg.Silent/{method}'\nany_key = true\nstream_idle = '400ms'\nupstream = 'silent'");
    let site = Site::new(&config);
    let key = site.key(&[]);
    let gateway = site.start();
    with_connection(&gateway, async |sender| {
        let (sending, mut body) = talking(&sender, &key).await;
        assert_eq!(status(&mut body).await, "4");
        drop(sending);
        // One that never says a word has not even an answer.
        let mut ready = sender.clone().ready().await.expect("a connection");
        let (response, _sending) = ready.send_request(call(&key), false).expect("a stream");
        let head = response.await.expect("an answer");
        assert!(head.headers().get("grpc-status").is_none_or(|status| status == "4"));
        // What moves one way is not silent, however long the other way is.
        let mut request = call(&key);
        *request.uri_mut() = "http://localhost/pkg.Silent/Tell".parse().expect("a target");
        let mut ready = sender.clone().ready().await.expect("a connection");
        let (response, mut sending) = ready.send_request(request, false).expect("a stream");
        let mut body = response.await.expect("a head").into_body();
        for _ in 0..30 {
            sending.send_data(message("on and on"), false).expect("the stream is there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        sending.send_data(Bytes::new(), true).expect("the stream is there");
        assert_eq!(status(&mut body).await, "0");
    });
    let metrics = gateway.metrics();
    assert!(metrics.contains(r#"keyward_upstream_errors_total{upstream="service",kind="body_timeout"}"#), "{metrics}");
}
