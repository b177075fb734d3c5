//! How long a service may take.

use crate::harness::{Config, Gate, Reply, Site, Upstream, get};

#[test]
fn each_timeout_has_its_answer_and_its_metric() {
    for (more, kind) in [("head_timeout = '150ms'", "head_timeout"), ("total_timeout = '150ms'", "total_timeout")] {
        let gate = Gate::closed();
        let held = gate.clone();
        let upstream = Upstream::answering(move |_request| Reply::text("late").behind(&held));
        let site = Site::new(&Config::towards(&format!("targets = ['http://{}']\n{more}", upstream.address())));
        let gateway = site.start();
        let answer = gateway.send(get("/public/x"));
        assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_timeout"), "{more}");
        let series = format!(r#"keyward_upstream_errors_total{{upstream="service",kind="{kind}"}} 1"#);
        assert!(gateway.metrics().contains(&series), "{more}");
        gate.open();
    }
}

#[test]
fn an_answer_that_goes_on_too_long_in_all_is_cut() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let peer = super::peer::Peer::on(
        listener,
        None,
        std::sync::Arc::new(|mut stream, _number, _seen| {
            Box::pin(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let _head = stream.read(&mut [0; 4096]).await;
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                if stream.write_all(head).await.is_err() {
                    return;
                }
                let mut every = tokio::time::interval(std::time::Duration::from_millis(20));
                loop {
                    every.tick().await;
                    if stream.write_all(b"1\r\na\r\n").await.is_err() {
                        return;
                    }
                }
            })
        }),
    );
    let more = "total_timeout = '300ms'\nidle_timeout = '10s'";
    let site = Site::new(&Config::towards(&format!("targets = ['http://{address}']\n{more}")));
    let gateway = site.start();
    let answer = gateway.send(get("/public/x"));
    assert_eq!(answer.status, 200);
    assert!(answer.body.broken.is_some() && (3..30).contains(&answer.body.bytes), "{:?}", answer.body);
    drop(peer);
}

/// A service that takes a request whose body is `one two`, and answers in two parts with a pause between.
async fn pauses(mut stream: super::peer::AnyIo) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
    while !seen.ends_with(b"0\r\n\r\n") {
        let Ok(count @ 1..) = stream.read(&mut chunk).await else { return };
        seen.extend_from_slice(&chunk[..count]);
    }
    let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 8\r\n\r\nhalf";
    let paused = stream.write_all(head).await;
    tokio::time::sleep(PAUSE).await;
    let _gone = stream.write_all(b"half").await.and(paused);
}

const PAUSE: std::time::Duration = std::time::Duration::from_millis(700);

#[test]
fn a_stream_of_any_kind_may_pause_on_a_route_that_says_so() {
    use std::io::{Read, Write};
    let serve =
        |stream, _number, _seen| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> { Box::pin(pauses(stream)) };
    let peer = super::peer::Peer::serving(None, std::sync::Arc::new(serve));
    let config = Config::towards(&format!("targets = ['http://{}']\nidle_timeout = '150ms'", peer.address()))
        .gateway("timeouts = { body_idle = '150ms' }")
        .route("name = 'slow'\npath = '/slow'\npublic = true\nstream_idle = '10s'");
    let site = Site::new(&config);
    let gateway = site.start();
    for (path, whole) in [("/slow", true), ("/public/x", false)] {
        let mut stream = std::net::TcpStream::connect(gateway.address()).expect("the gateway accepts connections");
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("a request");
        stream.write_all(b"4\r\none \r\n").expect("its first part");
        std::thread::sleep(PAUSE);
        // Where it has been given up, nobody takes it.
        let _late = stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n");
        let mut answer = String::new();
        let _reset = stream.read_to_string(&mut answer);
        assert_eq!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("halfhalf"), whole, "{path}: {answer}");
        assert_eq!(answer.starts_with("HTTP/1.1 408 "), !whole, "{path}: {answer}");
    }
}
