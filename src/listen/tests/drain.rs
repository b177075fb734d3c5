//! Stopping.

use std::io::Write;
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{House, Plan, SHORT, exchange, get, http1, http2, read_to_close, run, text};
use crate::listen::Timeouts;

fn drains_in(drain: Duration) -> Plan {
    Plan { timeouts: Timeouts { drain, ..Timeouts::default() }, ..Plan::default() }
}

#[test]
fn open_requests_are_finished_and_idle_connections_closed() {
    run(async {
        let house = House::open(drains_in(Duration::from_secs(15)));
        let waiting =
            tokio::task::spawn_local(exchange(house.connect().await, "GET /wait HTTP/1.1\r\nhost: a\r\n\r\n"));
        house.script.has_begun(1).await;
        let (mut idle, idle_connection) = http1(house.connect().await).await;
        assert_eq!(text(idle.send_request(get("/")).await.expect("answered")).await, "hello");
        house.stop();
        let _closed = idle_connection.await;
        assert!(TcpStream::connect(house.address).await.is_err(), "the listener is closed");
        house.script.release.notify_one();
        let answer = waiting.await.expect("no panic");
        assert!(answer.contains("connection: close") && answer.ends_with("waited"), "{answer}");
        house.closed().await;
    });
}

#[test]
fn http2_gets_goaway_and_finishes_its_streams() {
    run(async {
        let house = House::open(drains_in(Duration::from_secs(15)));
        let (mut sender, connection) = http2(house.connect().await).await;
        let mut again = sender.clone();
        let waiting = tokio::task::spawn_local(async move { sender.send_request(get("/wait")).await });
        house.script.has_begun(1).await;
        house.stop();
        house.script.release.notify_one();
        let answer = waiting.await.expect("no panic").expect("answered");
        assert_eq!(text(answer).await, "waited");
        let _closed = connection.await;
        assert!(again.send_request(get("/")).await.is_err());
        house.closed().await;
    });
}

#[test]
fn what_is_open_at_the_deadline_is_cut() {
    run(async {
        let house = House::open(drains_in(SHORT));
        let waiting =
            tokio::task::spawn_local(exchange(house.connect().await, "GET /wait HTTP/1.1\r\nhost: a\r\n\r\n"));
        let (mut sender, _connection) = http2(house.connect().await).await;
        let endless = tokio::task::spawn_local(async move { sender.send_request(get("/wait")).await });
        house.script.has_begun(2).await;
        house.stop();
        let (metrics, dropped) = (house.metrics.clone(), house.script.dropped.clone());
        house.closed().await;
        assert_eq!(waiting.await.expect("no panic"), "");
        assert!(endless.await.expect("no panic").is_err());
        assert_eq!(metrics.open.get(), 0);
        assert_eq!(dropped.get(), 2, "both requests were dropped");
    });
}

#[test]
fn an_endless_stream_is_cut_at_the_deadline() {
    run(async {
        let house = House::open(drains_in(SHORT));
        let (mut sender, _connection) = http2(house.connect().await).await;
        let body = sender.send_request(get("/endless")).await.expect("a head").into_body();
        house.stop();
        house.closed().await;
        assert!(body.collect().await.is_err());
    });
}

#[test]
fn an_answer_that_ends_with_the_connection_does_not_look_whole_when_it_is_cut_at_the_deadline() {
    run(async {
        let house = House::open(drains_in(SHORT));
        let mut stream = house.connect().await;
        stream.write_all(b"GET /pauses HTTP/1.0\r\n\r\n").await.expect("taken");
        let mut read = [0; 12];
        stream.read_exact(&mut read).await.expect("answered");
        house.stop();
        house.closed().await;
        let end = stream.read_to_end(&mut Vec::new()).await;
        assert_eq!(end.expect_err("no end").kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_tunnel_is_cut_at_the_deadline() {
    run(async {
        let house = House::open(drains_in(SHORT));
        let mut stream = house.connect().await;
        let head = b"GET /tunnel HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(head).await.expect("taken");
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.expect("answered");
        assert_eq!(&start, b"HTTP/1.1 101");
        house.stop();
        let dropped = house.script.dropped.clone();
        house.closed().await;
        assert_eq!(dropped.get(), 1);
    });
}

#[test]
fn a_silent_connection_does_not_hold_up_a_drain() {
    run(async {
        let house = House::open(drains_in(Duration::from_secs(15)));
        let _silent = house.connect().await;
        let (mut idle, _connection) = http1(house.connect().await).await;
        assert_eq!(text(idle.send_request(get("/")).await.expect("answered")).await, "hello");
        house.stop();
        tokio::time::timeout(Duration::from_secs(10), house.closed()).await.expect("well before the deadline");
    });
}

#[test]
fn a_resting_connection_is_closed_after_a_tenth_of_the_drain() {
    run(async {
        let drain = Duration::from_secs(4);
        let timeouts = Timeouts { idle: Duration::from_secs(10), first_byte: SHORT, drain, ..Timeouts::default() };
        let house = House::open(Plan { timeouts, ..Plan::default() });
        let (mut idle, connection) = http1(house.connect().await).await;
        assert_eq!(text(idle.send_request(get("/")).await.expect("answered")).await, "hello");
        while house.metrics.resting.get() == 0 {
            tokio::task::yield_now().await;
        }
        house.stop();
        let _ended = connection.await;
        house.closed().await;
    });
}

#[test]
fn an_idle_connection_is_told_in_its_next_answer() {
    run(async {
        let house = House::open(drains_in(Duration::from_secs(60)));
        let (mut idle, connection) = http1(house.connect().await).await;
        let answer = idle.send_request(get("/")).await.expect("answered");
        assert!(answer.headers().get("connection").is_none());
        assert_eq!(text(answer).await, "hello");
        house.stop();
        while TcpStream::connect(house.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let answer = idle.send_request(get("/")).await.expect("answered");
        assert_eq!(answer.headers()["connection"], "close");
        assert_eq!(text(answer).await, "hello");
        connection.await.expect("no panic").expect("closed in peace");
        house.closed().await;
    });
}

#[test]
fn connections_that_still_wait_to_be_accepted_are_served() {
    run(async {
        let house = House::open(Plan { connections: 10, ..drains_in(Duration::from_secs(15)) });
        assert!(exchange(house.connect().await, "GET / HTTP/1.0\r\n\r\n").await.ends_with("hello"));
        while house.metrics.open.get() > 0 {
            tokio::task::yield_now().await;
        }
        // Without an await: the worker, which is this thread, is busy meanwhile.
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let mut stream = std::net::TcpStream::connect(house.address).expect("queued");
                stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("taken");
                stream.set_nonblocking(true).expect("a socket");
                TcpStream::from_std(stream).expect("a socket")
            })
            .collect();
        house.stop();
        for (number, stream) in waiting.into_iter().enumerate() {
            let answer = read_to_close(stream).await;
            if number < 10 {
                assert!(answer.contains("connection: close") && answer.ends_with("hello"), "{answer}");
            } else {
                assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            }
        }
        house.closed().await;
    });
}
