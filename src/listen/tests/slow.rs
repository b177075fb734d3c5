//! Clients that take their time: every one of them is closed, with nothing but its own connection as the clock.

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{House, Plan, SHORT, exchange, get, http1, http2, read_to_close, run, text};
use crate::listen::Timeouts;

fn patient_but(change: impl FnOnce(&mut Timeouts)) -> Plan {
    let mut timeouts = Timeouts::default();
    change(&mut timeouts);
    Plan { timeouts, ..Plan::default() }
}

#[test]
fn a_connection_that_sends_nothing_is_closed() {
    run(async {
        let house = House::open(patient_but(|it| it.first_byte = SHORT));
        assert_eq!(read_to_close(house.connect().await).await, "");
        assert_eq!(house.timeouts("first_byte"), 1);
    });
}

#[test]
fn a_single_byte_that_could_become_a_preface_is_not_waited_for() {
    run(async {
        let house = House::open(patient_but(|it| it.head = SHORT));
        let answer = exchange(house.connect().await, "P").await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"request_timeout\""), "{answer}");
        assert_eq!(house.timeouts("head"), 1);
    });
}

#[test]
fn half_a_preface_is_not_waited_for() {
    run(async {
        let house = House::open(patient_but(|it| it.head = SHORT));
        exchange(house.connect().await, "PRI * HTTP/2.0\r\n\r\nSM").await;
        assert_eq!(house.timeouts("head"), 1);
    });
}

#[test]
fn a_preface_without_settings_is_not_waited_for() {
    run(async {
        let house = House::open(patient_but(|it| it.head = SHORT));
        exchange(house.connect().await, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        assert_eq!(house.timeouts("head"), 1);
    });
}

#[test]
fn a_slow_head_is_answered_with_408() {
    run(async {
        let house = House::open(patient_but(|it| it.head = SHORT));
        let answer = exchange(house.connect().await, "GET / HTTP/1.1\r\nhost: a\r\nx-slow").await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close"), "{answer}");
        assert_eq!(house.timeouts("head"), 1);
    });
}

#[test]
fn a_slow_second_head_is_answered_with_408_too() {
    run(async {
        let house = House::open(patient_but(|it| it.head = SHORT));
        let mut stream = house.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("taken");
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.expect("answered");
        assert_eq!(&first, b"HTTP/1.1 200");
        let answer = exchange(stream, "GET /again").await;
        assert!(answer.contains("hello") && answer.contains("HTTP/1.1 408 "), "{answer}");
    });
}

#[test]
fn an_idle_http1_connection_is_closed_without_a_word() {
    run(async {
        let house = House::open(patient_but(|it| it.idle = SHORT));
        let answer = exchange(house.connect().await, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(answer.ends_with("hello"), "{answer}");
        assert_eq!(house.timeouts("idle"), 1);
    });
}

#[test]
fn an_idle_http2_connection_is_closed() {
    run(async {
        let house = House::open(patient_but(|it| it.idle = SHORT));
        let (mut sender, connection) = http2(house.connect().await).await;
        assert_eq!(text(sender.send_request(get("/")).await.expect("answered")).await, "hello");
        let _ended = connection.await;
        assert_eq!(house.timeouts("idle"), 1);
    });
}

#[test]
fn an_http2_connection_that_never_asks_is_closed_as_idle() {
    run(async {
        let house = House::open(patient_but(|it| it.idle = SHORT));
        let (_sender, connection) = http2(house.connect().await).await;
        let _ended = connection.await;
        assert_eq!(house.timeouts("idle"), 1);
    });
}

#[test]
fn an_open_request_is_not_idle() {
    run(async {
        let house = House::open(patient_but(|it| (it.idle, it.head, it.first_byte) = (SHORT, SHORT, SHORT)));
        let (mut sender, _connection) = http1(house.connect().await).await;
        let waiting = tokio::task::spawn_local(async move { sender.send_request(get("/wait")).await });
        house.script.has_begun(1).await;
        // Another connection measures the time: it is closed for silence after as long.
        assert_eq!(read_to_close(house.connect().await).await, "");
        assert_eq!(read_to_close(house.connect().await).await, "");
        house.script.release.notify_one();
        let answer = waiting.await.expect("no panic").expect("answered");
        assert_eq!(text(answer).await, "waited");
    });
}

#[test]
fn an_old_connection_ends_after_its_request() {
    run(async {
        let house = House::open(patient_but(|it| it.connection_age = SHORT));
        let stream = house.connect().await;
        let waiting = tokio::task::spawn_local(exchange(stream, "GET /wait HTTP/1.1\r\nhost: a\r\n\r\n"));
        house.script.has_begun(1).await;
        let (mut other, connection) = http1(house.connect().await).await;
        assert_eq!(text(other.send_request(get("/")).await.expect("answered")).await, "hello");
        let _ended = connection.await;
        house.script.release.notify_one();
        let answer = waiting.await.expect("no panic");
        assert!(answer.contains("connection: close") && answer.ends_with("waited"), "{answer}");
    });
}

#[test]
fn a_slow_body_is_the_handlers_to_refuse() {
    run(async {
        let house = House::open(patient_but(|it| it.body_idle = SHORT));
        let head = "POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\nconnection: close\r\n\r\nhalf";
        let answer = exchange(house.connect().await, head).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    });
}

#[test]
fn a_byte_now_and_then_does_not_keep_a_body_going() {
    run(async {
        let house = House::open(patient_but(|it| it.body_idle = SHORT));
        let (mut read, mut write) = house.connect().await.into_split();
        write.write_all(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 9000\r\n\r\n").await.expect("taken");
        let drip = tokio::task::spawn_local(async move {
            let mut beat = tokio::time::interval(SHORT / 4);
            while write.write_all(b"x").await.is_ok() {
                beat.tick().await;
            }
        });
        let mut status = [0; 12];
        read.read_exact(&mut status).await.expect("answered");
        assert_eq!(&status, b"HTTP/1.1 408");
        drip.abort();
    });
}

#[test]
fn an_answer_that_is_taken_a_little_at_a_time_is_cut() {
    run(async {
        // What the system's own buffers take is not slow; the least that is asked for is far more than what is read.
        let mut plan = patient_but(|it| it.body_idle = SHORT);
        plan.limits.rate_min = 64 << 20;
        let house = House::open(plan);
        let (mut read, mut write) = house.connect().await.into_split();
        write.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("taken");
        let sip = tokio::task::spawn_local(async move {
            let mut beat = tokio::time::interval(SHORT / 20);
            let mut buffer = vec![0; 64 * 1024];
            while read.read_exact(&mut buffer).await.is_ok() {
                beat.tick().await;
            }
        });
        while house.timeouts("write") == 0 {
            tokio::task::yield_now().await;
        }
        sip.abort();
    });
}

#[test]
fn an_answer_that_nobody_reads_is_cut() {
    run(async {
        let house = House::open(patient_but(|it| it.body_idle = SHORT));
        let mut stream = house.connect().await;
        stream.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("taken");
        while house.timeouts("write") == 0 {
            tokio::task::yield_now().await;
        }
        read_to_close(stream).await;
        assert_eq!(house.metrics.open.get(), 0);
    });
}

#[test]
fn a_stream_that_nobody_reads_is_reset_and_its_connection_lives() {
    run(async {
        let house = House::open(patient_but(|it| it.body_idle = SHORT));
        let (mut sender, _connection) = http2(house.connect().await).await;
        let stalled = sender.send_request(get("/endless")).await.expect("a head");
        while house.timeouts("stream") == 0 {
            tokio::task::yield_now().await;
        }
        assert!(stalled.into_body().collect().await.is_err());
        let answer = sender.send_request(get("/")).await.expect("the connection lives");
        assert_eq!(answer.status(), StatusCode::OK);
    });
}

#[test]
fn reading_steadily_keeps_an_answer_alive() {
    run(async {
        let house = House::open(patient_but(|it| it.body_idle = SHORT));
        let mut stream: TcpStream = house.connect().await;
        stream.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("taken");
        let mut buffer = vec![0; 256 * 1024];
        for _ in 0..100 {
            stream.read_exact(&mut buffer).await.expect("more");
        }
        assert_eq!(house.timeouts("write"), 0);
    });
}

#[test]
fn an_idle_connection_gives_its_buffers_back_and_is_still_served() {
    run(async {
        let house = House::open(patient_but(|it| (it.idle, it.first_byte) = (4 * SHORT, SHORT)));
        let (mut sender, connection) = http1(house.connect().await).await;
        for _ in 0..2 {
            assert_eq!(text(sender.send_request(get("/")).await.expect("answered")).await, "hello");
            while house.metrics.resting.get() == 0 {
                tokio::task::yield_now().await;
            }
        }
        let _ended = connection.await;
        assert_eq!(house.timeouts("idle"), 1);
        assert_eq!(house.metrics.resting.get(), 0);
    });
}

#[test]
fn a_resting_connection_that_begins_a_head_must_finish_it() {
    run(async {
        let house = House::open(patient_but(|it| (it.idle, it.head) = (4 * SHORT, SHORT)));
        let mut stream = house.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("taken");
        while house.metrics.resting.get() == 0 {
            tokio::task::yield_now().await;
        }
        let answer = exchange(stream, "GET /again").await;
        assert!(answer.contains("hello") && answer.contains("HTTP/1.1 408 "), "{answer}");
    });
}
