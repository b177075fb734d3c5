//! A service that closes connections as soon as they are idle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::peer::{AnyIo, Peer};
use super::sum;
use crate::harness::{Config, Http, Site, get, post};

const CLIENTS: usize = 8;

/// The requests of one run: 5,000, or as many as `KEYWARD_STALE_REQUESTS` says.
fn requests() -> usize {
    #[expect(clippy::disallowed_methods, reason = "the long form is asked for by the environment")]
    let asked = std::env::var("KEYWARD_STALE_REQUESTS");
    asked.ok().and_then(|count| count.parse().ok()).unwrap_or(5000)
}

/// How often each POST arrived, by its number.
type Arrived = Arc<Mutex<HashMap<String, usize>>>;

/// Answers requests without a body, and closes after 2 ms of silence after each.
async fn closes_soon(mut stream: AnyIo, arrived: Arrived) {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    let mut patience = Duration::from_secs(10);
    loop {
        let read = tokio::time::timeout(patience, stream.read(&mut chunk)).await;
        let Ok(Ok(length @ 1..)) = read else { return };
        bytes.extend_from_slice(&chunk[..length]);
        patience = Duration::from_millis(2);
        while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            bytes.drain(..end + 4);
            if let Some(target) = head.strip_prefix("POST ") {
                let number = target.split(' ').next().unwrap_or_default().to_owned();
                *arrived.lock().expect("no panic").entry(number).or_default() += 1;
            }
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                return;
            }
        }
    }
}

#[test]
fn no_get_fails_and_no_post_is_doubled_where_the_service_closes_idle_connections() {
    let arrived = Arrived::default();
    let shared = Arc::clone(&arrived);
    let peer =
        Peer::serving(None, Arc::new(move |stream, _number, _seen| Box::pin(closes_soon(stream, Arc::clone(&shared)))));
    let more = "retries = { share = 0, per_second = 0 }";
    let site = Site::new(&Config::towards(&format!("targets = ['http://{}']\n{more}", peer.address())));
    let gateway = site.start();
    let each = requests() / CLIENTS;
    let failed_posts: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let gateway = &gateway;
                scope.spawn(move || {
                    let mut connection = gateway.connect(Http::One);
                    let mut failed = 0;
                    for turn in 0..each {
                        // Pauses around the service's patience, so that closing and sending meet.
                        if turn % 4 == 0 {
                            thread::sleep(Duration::from_micros(1700 + (turn as u64 * 37) % 700));
                        }
                        if turn % 2 == 0 {
                            assert_eq!(connection.send(get("/public/x")).status, 200, "turn {turn}");
                        } else {
                            let answer = connection.send(post(&format!("/public/{client}-{turn}")));
                            failed += usize::from(answer.status != 200);
                        }
                    }
                    failed
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    });
    let arrived = arrived.lock().expect("no panic");
    assert!(arrived.values().all(|times| *times == 1));
    // One that met the closing half way may have been processed, and is told so. How many do is the machine's affair.
    assert!(failed_posts * 4 < each * CLIENTS, "{failed_posts} POSTs failed");
    let stale =
        sum(&gateway.metrics(), r#"keyward_upstream_retries_total{upstream="service",reason="stale_connection"}"#);
    println!("{} requests, {failed_posts} POSTs failed, {stale} sent again", each * CLIENTS);
}
