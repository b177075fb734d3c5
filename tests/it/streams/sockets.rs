//! WebSockets: only where the route says so, only when asked for well, and then as they are.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frames::Frame;
use super::peers::{Service, handshake, now, read_head, runtime};
use crate::harness::{Config, Http, Site, client_config, until};

const MASK: [u8; 4] = [1, 2, 3, 4];

fn config(service: &Service) -> Config {
    Config::to(service.address())
        .route("name = 'sockets'\npath = '/s/{*rest}'\nany_key = true\nupgrades = ['websocket']\nupgrade_idle = '1s'")
        .route("name = 'plain'\npath = '/plain/{*rest}'\nany_key = true")
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> Frame {
    loop {
        if let Some((frame, length)) = Frame::first(bytes) {
            bytes.drain(..length);
            return frame;
        }
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.expect("a frame");
        assert!(count > 0, "the connection ended before a frame did");
        bytes.extend_from_slice(&chunk[..count]);
    }
}

/// Frames of every form of length there and back, then half-close.
async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, token: &str) {
    let mut ask = handshake("/s/ws-echo", token).into_bytes();
    let hello = Frame::text("hello");
    // Sent before anybody has agreed to anything.
    ask.extend(hello.to_bytes(Some(MASK)));
    stream.write_all(&ask).await.expect("a request");
    let (head, mut bytes) = read_head(&mut stream).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for field in ["sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", "sec-websocket-protocol: chat\r\n"] {
        assert!(head.contains(field), "{head}");
    }
    assert_eq!(read_frame(&mut stream, &mut bytes).await, hello);
    for length in [0, 125, 126, 65_535, 65_536, 300_000] {
        let frame = Frame { opcode: 2, payload: vec![7; length] };
        let sent = frame.to_bytes(Some(MASK));
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let (written, back) = tokio::join!(writer.write_all(&sent), read_frame(&mut reader, &mut bytes));
        written.expect("a frame is taken");
        assert_eq!(back, frame);
    }
    stream.shutdown().await.expect("one half closes");
    assert_eq!(read_frame(&mut stream, &mut bytes).await, Frame::text("goodbye"));
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
}

#[test]
fn frames_pass_both_ways_and_each_half_closes_for_itself_in_clear_and_over_tls() {
    for tls in [false, true] {
        let runtime = runtime();
        let service = Service::start(&runtime);
        let config = config(&service);
        let site = Site::new(&if tls { config.tls() } else { config });
        let key = site.key(&[]);
        let gateway = site.start();
        let mark = gateway.log_mark();
        runtime.block_on(async {
            let stream = TcpStream::connect(gateway.address()).await.expect("the gateway accepts connections");
            match site.certificate() {
                None => talk(stream, &key.token).await,
                Some(certificate) => {
                    let connector = tokio_rustls::TlsConnector::from(client_config(certificate, Http::One));
                    let name = ServerName::try_from("localhost").expect("a name");
                    talk(connector.connect(name, stream).await.expect("a handshake"), &key.token).await;
                }
            }
        });
        let line = gateway.until_logged(mark, "\"status\":101");
        let line: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        let field = |name: &str| line[name].as_u64().or_else(|| line["fields"][name].as_u64()).unwrap_or_default();
        assert!(field("bytes_in") > 431_000 && field("bytes_out") > 431_000, "{line}");
        let seen = service.seen.heads.lock().unwrap_or_else(PoisonError::into_inner)[0].to_ascii_lowercase();
        assert!(!seen.contains("authorization"), "{seen}");
        for field in
            ["connection: upgrade\r\n", "upgrade: websocket\r\n", "sec-websocket-key: ", "sec-websocket-protocol: chat"]
        {
            assert!(seen.contains(field), "{seen}");
        }
        runtime.shutdown_background();
    }
}

#[test]
fn a_handshake_that_is_not_right_never_reaches_the_service() {
    let runtime = runtime();
    let service = Service::start(&runtime);
    let site = Site::new(&config(&service));
    let key = site.key(&[]);
    let gateway = site.start();
    let good = handshake("/s/ws", &key.token);
    let wrong = [
        good.replace("GET ", "POST "),
        good.replace("connection: Upgrade\r\n", ""),
        good.replace("upgrade: websocket", "upgrade: websocket, h2c"),
        good.replace("version: 13", "version: 12"),
        good.replace("sec-websocket-version: 13\r\n", ""),
        good.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="),
        good.replace("sec-websocket-version", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version"),
        good.replace("upgrade: websocket", "upgrade: websocket\r\ncontent-length: 3"),
    ];
    for request in wrong {
        let answer = gateway.raw(&request);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request}\n{answer}");
    }
    let keyless = good.replace(&key.token, "kw_live_nonsense");
    assert!(gateway.raw(&keyless).starts_with("HTTP/1.1 401 "));
    assert_eq!(service.begun(), 0);
    // Where the route allows no upgrade it is an ordinary request.
    let plain = gateway.raw(good.replace("/s/ws", "/plain/ws"));
    assert!(plain.starts_with("HTTP/1.1 502 "), "{plain}");
    until("the plain request", || service.begun() == 1);
    let seen = service.seen.heads.lock().unwrap_or_else(PoisonError::into_inner)[0].to_ascii_lowercase();
    assert!(!seen.contains("upgrade"), "{seen}");
    runtime.shutdown_background();
}

#[test]
fn a_websocket_on_which_nothing_moves_is_closed() {
    let runtime = runtime();
    let service = Service::start(&runtime);
    let site = Site::new(&config(&service));
    let key = site.key(&[]);
    let gateway = site.start();
    runtime.block_on(async {
        let mut stream = TcpStream::connect(gateway.address()).await.expect("the gateway accepts connections");
        stream.write_all(handshake("/s/ws-echo", &key.token).as_bytes()).await.expect("a request");
        let (_head, mut bytes) = read_head(&mut stream).await.expect("an answer");
        let begun = now();
        let goodbye = read_frame(&mut stream, &mut bytes).await;
        assert_eq!(goodbye.status(), Some(1001));
        let took = now() - begun;
        // The gateway's clock for it runs from a little before the answer came here.
        assert!(took >= Duration::from_millis(900), "{took:?}");
    });
    until("the service's end", || service.ended() == 1);
    runtime.shutdown_background();
}

#[test]
fn a_websocket_that_is_cut_inside_a_frame_just_ends() {
    let runtime = runtime();
    let service = Service::start(&runtime);
    let site = Site::new(&config(&service));
    let key = site.key(&[]);
    let gateway = site.start();
    runtime.block_on(async {
        let mut stream = TcpStream::connect(gateway.address()).await.expect("the gateway accepts connections");
        stream.write_all(handshake("/s/ws-half", &key.token).as_bytes()).await.expect("a request");
        let (_head, mut bytes) = read_head(&mut stream).await.expect("an answer");
        while bytes.len() < 100 {
            let mut chunk = [0; 100];
            let count = stream.read(&mut chunk).await.expect("half of a frame");
            bytes.extend_from_slice(&chunk[..count]);
        }
        site.revoke(&key);
        let revoked = now();
        let mut rest = Vec::new();
        // Reset or closed, it is over.
        let _ended = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{rest:?}");
        assert!(now() - revoked < Duration::from_secs(1), "{:?}", now() - revoked);
    });
    until("the service's end", || service.ended() == 1);
    assert_eq!(service.seen.whole.load(Ordering::SeqCst), 0);
    runtime.shutdown_background();
}

#[test]
fn a_websocket_that_outlives_a_drain_is_told_that_the_server_goes_away() {
    let runtime = runtime();
    let service = Service::start(&runtime);
    let site = Site::new(&config(&service).gateway("timeouts.drain = '500ms'"));
    let key = site.key(&[]);
    let mut gateway = site.start();
    runtime.block_on(async {
        let mut sockets = Vec::new();
        for path in ["/s/ws", "/s/ws-echo"] {
            let mut stream = TcpStream::connect(gateway.address()).await.expect("the gateway accepts connections");
            stream.write_all(handshake(path, &key.token).as_bytes()).await.expect("a request");
            let (head, bytes) = read_head(&mut stream).await.expect("an answer");
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            sockets.push((path, stream, bytes));
        }
        gateway.terminate();
        for (path, mut stream, mut bytes) in sockets {
            // Reset or closed, it is over.
            let _ended = stream.read_to_end(&mut bytes).await;
            let (frames, whole) = Frame::all(&bytes);
            assert!(whole, "{path}: cut inside a frame");
            assert_eq!(frames.last().and_then(Frame::status), Some(1001), "{path}");
        }
    });
    assert!(gateway.ended().success());
    until("the service's ends", || service.ended() == 2);
    runtime.shutdown_background();
}
