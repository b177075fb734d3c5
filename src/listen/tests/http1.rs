//! HTTP/1 byte by byte: what follows what on one connection, and how it ends.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{House, LARGE, Plan, SHORT, exchange, read_to_close, run};
use crate::listen::Timeouts;

/// More than sockets hold, of which nobody reads anything.
const SENT_ON: usize = 14 * 1024 * 1024;

/// Reads up to and with `end`.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let byte = stream.read_u8().await.unwrap_or_else(|fault| {
            panic!("{fault} before {end:?}, after {:?}", String::from_utf8_lossy(&read));
        });
        read.push(byte);
    }
    String::from_utf8_lossy(&read).into_owned()
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[test]
fn requests_in_one_packet_are_answered_in_turn() {
    run(async {
        let house = House::open(Plan::default());
        let requests = "POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc\
                        HEAD / HTTP/1.1\r\nhost: a\r\n\r\n\
                        POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n\
                        GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n\
                        GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let answers = exchange(house.connect().await, requests).await;
        let bodies: Vec<&str> =
            answers.split("HTTP/1.1 200 OK\r\n").filter_map(|one| one.split("\r\n\r\n").nth(1)).collect();
        assert_eq!(bodies, ["3 bytes", "", "5 bytes", "hello"], "{answers}");
        assert_eq!(count(&answers, "connection: close\r\n"), 1, "{answers}");
        assert_eq!(house.script.begun.get(), 4);
    });
}

#[test]
fn a_body_that_nobody_reads_is_passed_over_where_it_is_here_and_ends_the_connection_where_it_is_not() {
    run(async {
        let house = House::open(Plan::default());
        let here = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nGET /\
                    GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let answers = exchange(house.connect().await, here).await;
        assert_eq!(count(&answers, "HTTP/1.1 200 OK\r\n"), 2, "{answers}");
        let late = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 500\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let answers = exchange(house.connect().await, late).await;
        assert_eq!(count(&answers, "HTTP/1.1 200 OK\r\n"), 1, "{answers}");
        assert_eq!(count(&answers, "connection: close\r\n"), 1, "{answers}");
        assert_eq!(house.script.begun.get(), 3);
    });
}

#[test]
fn http_1_0_goes_on_where_it_asks_to() {
    run(async {
        let house = House::open(Plan::default());
        let once = exchange(house.connect().await, "GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n").await;
        assert!(once.starts_with("HTTP/1.0 200 OK\r\n") && once.ends_with("\r\n\r\nhello"), "{once}");
        assert_eq!(count(&once, "hello"), 1, "{once}");
        let twice = "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n";
        let twice = exchange(house.connect().await, twice).await;
        assert_eq!(count(&twice, "connection: keep-alive\r\n"), 1, "{twice}");
        assert_eq!(count(&twice, "hello"), 2, "{twice}");
    });
}

#[test]
fn a_body_is_asked_for_once_and_by_whom_reads_it() {
    run(async {
        let house = House::open(Plan::default());
        let mut stream = house.connect().await;
        let head = "POST /upload HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 6\r\n\r\n";
        for _ in 0..2 {
            stream.write_all(head.as_bytes()).await.expect("taken");
            assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
            for piece in ["abc", "def"] {
                stream.write_all(piece.as_bytes()).await.expect("taken");
                tokio::task::yield_now().await;
            }
            let answer = read_until(&mut stream, "6 bytes").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
        let unread = head.replace("/upload", "/");
        let answer = exchange(stream, &unread).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(count(&answer, "HTTP/1.1 "), 1, "{answer}");
    });
}

#[test]
fn what_comes_ahead_of_a_tunnel_goes_into_it() {
    run(async {
        let house = House::open(Plan::default());
        let mut stream = house.connect().await;
        let request = "GET /tunnel HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nping";
        stream.write_all(request.as_bytes()).await.expect("taken");
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
        assert_eq!(read_until(&mut stream, "ping").await, "ping");
        stream.write_all(b"pong").await.expect("taken");
        assert_eq!(read_until(&mut stream, "pong").await, "pong");
    });
}

#[test]
fn nothing_that_was_read_is_shown_for_debugging() {
    run(async {
        let house = House::open(Plan::default());
        let requests = "POST /shown HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nsecret\
                        GET / HTTP/1.1\r\nauthorization: Bearer secret\r\nhost: a\r\nconnection: close\r\n\r\n";
        let answers = exchange(house.connect().await, requests).await;
        assert!(answers.contains("Http1Body") && !answers.contains("secret"), "{answers}");
    });
}

#[test]
fn an_answer_that_ends_with_the_connection_does_not_look_whole_when_it_breaks_off() {
    run(async {
        let house = House::open(Plan::default());
        let mut stream = house.connect().await;
        stream.write_all(b"GET /broken HTTP/1.0\r\n\r\n").await.expect("taken");
        let mut read = Vec::new();
        let end = stream.read_to_end(&mut read).await;
        assert_eq!(end.expect_err("no end").kind(), ErrorKind::ConnectionReset, "{}", String::from_utf8_lossy(&read));
    });
}

#[test]
fn nor_does_it_where_its_client_has_ended_its_side() {
    run(async {
        let house = House::open(Plan::default());
        let mut stream = house.connect().await;
        stream.write_all(b"GET /pauses HTTP/1.0\r\n\r\n").await.expect("taken");
        read_until(&mut stream, "\r\n\r\nhello").await;
        stream.shutdown().await.expect("ended");
        let end = stream.read_to_end(&mut Vec::new()).await;
        assert_eq!(end.expect_err("no end").kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn whoever_goes_away_is_noticed_while_the_answer_pauses_whatever_was_sent_ahead() {
    run(async {
        let house = House::open(Plan::default());
        for (at, ahead) in ["", "\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"].into_iter().enumerate() {
            let mut stream = house.connect().await;
            let request = format!("GET /pauses HTTP/1.1\r\nhost: a\r\n\r\n{ahead}");
            stream.write_all(request.as_bytes()).await.expect("taken");
            read_until(&mut stream, "\r\n\r\n5\r\nhello\r\n").await;
            assert_eq!(house.script.dropped.get(), at);
            drop(stream);
            while house.metrics.open.get() > 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(house.script.dropped.get(), at + 1);
        }
    });
}

#[test]
fn an_answer_of_known_length_is_over_when_that_has_come() {
    run(async {
        let house = House::open(Plan::default());
        let requests = "GET /ends-late HTTP/1.1\r\nhost: a\r\n\r\n\
                        GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let answers = exchange(house.connect().await, requests).await;
        assert_eq!(count(&answers, "\r\n\r\nhello"), 2, "{answers}");
    });
}

#[test]
fn the_last_answer_arrives_whole_whatever_lies_unread_behind_its_request() {
    run(async {
        let house = House::open(Plan::default());
        let mut stream = house.connect().await;
        let last = "GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let more = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(1_000);
        stream.write_all(format!("{last}{more}").as_bytes()).await.expect("taken");
        read_until(&mut stream, "\r\n\r\n").await;
        let mut body = Vec::new();
        stream.read_to_end(&mut body).await.expect("an end in order");
        assert_eq!(body.len(), LARGE);
    });
}

#[test]
fn behind_a_body_that_was_read_to_its_end_nobody_lingers() {
    run(async {
        let house = House::open(Plan::default());
        let mut stream = house.connect().await;
        let request = "POST /upload HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
        stream.write_all(request.as_bytes()).await.expect("taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an end in order");
        assert!(answer.ends_with("5 bytes"), "{answer}");
        let closed = async {
            while house.metrics.open.get() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(4), closed).await.expect("long before a lingering close is over");
    });
}

#[test]
fn whoever_sends_many_requests_at_once_does_not_keep_others_waiting_for_all_of_them() {
    run(async {
        let house = House::open(Plan::default());
        let (mut greedy, mut other) = (house.connect().await, house.connect().await);
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        for stream in [&mut greedy, &mut other] {
            stream.write_all(request).await.expect("taken");
            read_until(stream, "hello").await;
        }
        greedy.write_all(&request.repeat(100)).await.expect("taken");
        other.write_all(request).await.expect("taken");
        read_until(&mut other, "hello").await;
        assert!(house.script.begun.get() < 50, "{}", house.script.begun.get());
        for _ in 0..100 {
            read_until(&mut greedy, "hello").await;
        }
    });
}

#[test]
fn an_empty_line_behind_a_body_begins_no_head() {
    run(async {
        let timeouts = Timeouts { head: SHORT, idle: SHORT * 3, ..Timeouts::default() };
        let house = House::open(Plan { timeouts, ..Plan::default() });
        let request = "POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc\r\n";
        let answers = exchange(house.connect().await, request).await;
        assert!(answers.ends_with("\r\n\r\n3 bytes"), "{answers}");
        assert_eq!((house.timeouts("idle"), house.timeouts("head")), (1, 0));
    });
}

#[test]
fn empty_lines_between_requests_begin_no_head_and_gain_no_time() {
    run(async {
        let timeouts = Timeouts { head: SHORT, idle: SHORT * 3, ..Timeouts::default() };
        let house = House::open(Plan { timeouts, ..Plan::default() });
        for lines in ["\r\n", "\n\r\n"] {
            let mut stream = house.connect().await;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("taken");
            read_until(&mut stream, "hello").await;
            assert_eq!(exchange(stream, lines).await, "");
        }
        assert_eq!((house.timeouts("idle"), house.timeouts("head")), (2, 0));
        // There it is a head that is waited for.
        let answer = exchange(house.connect().await, "\r\n\n").await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    });
}

#[test]
fn an_answer_that_comes_before_its_request_has_is_read_whole_by_whoever_reads_it_last() {
    run(async {
        let house = House::open(Plan::default());
        let heads = [
            "POST / HTTP/1.1\r\nhost: a\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n",
            "NOT HTTP\r\n",
        ];
        for (head, status) in heads.into_iter().zip(["200", "200", "400"]) {
            let mut stream = house.connect().await;
            stream.write_all(format!("{head}content-length: {SENT_ON}\r\n\r\n").as_bytes()).await.expect("taken");
            stream.write_all(&vec![b'x'; SENT_ON]).await.expect("taken to its end");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an end in order");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert_eq!(count(&answer, "connection: close\r\n"), 1, "{answer}");
        }
    });
}

#[test]
fn an_answer_that_is_still_being_taken_is_neither_idle_nor_done_however_old_its_connection() {
    run(async {
        let timeouts = Timeouts { idle: SHORT, connection_age: SHORT * 2, ..Timeouts::default() };
        let house = House::open(Plan { timeouts, ..Plan::default() });
        let mut stream = house.connect().await;
        stream.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("taken");
        read_until(&mut stream, "\r\n\r\n").await;
        let mut other = house.connect().await;
        // As long as it takes for another to be both.
        for _ in 0..3 {
            other.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("taken");
            read_until(&mut other, "hello").await;
            assert_eq!(read_to_close(other).await, "");
            other = house.connect().await;
        }
        assert_eq!((house.timeouts("idle"), house.timeouts("close")), (3, 0));
        let mut body = Vec::new();
        stream.read_to_end(&mut body).await.expect("an end in order");
        assert_eq!(body.len(), LARGE);
    });
}

#[test]
fn a_connection_that_always_has_half_a_head_ahead_ends_when_it_is_old() {
    run(async {
        let timeouts = Timeouts { connection_age: SHORT, ..Timeouts::default() };
        let house = House::open(Plan { timeouts, ..Plan::default() });
        let mut stream = house.connect().await;
        let (begun, rest) = ("GET / H", "TTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(begun.as_bytes()).await.expect("taken");
        loop {
            stream.write_all(format!("{rest}{begun}").as_bytes()).await.expect("taken");
            if read_until(&mut stream, "hello").await.contains("connection: close\r\n") {
                break;
            }
        }
        let mut more = Vec::new();
        stream.read_to_end(&mut more).await.expect("an end in order");
        assert!(more.is_empty(), "{}", String::from_utf8_lossy(&more));
    });
}

#[test]
fn what_follows_a_request_for_a_tunnel_is_no_request() {
    run(async {
        let house = House::open(Plan::default());
        let both = "CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let answers = exchange(house.connect().await, both).await;
        assert_eq!((count(&answers, "HTTP/1.1 "), count(&answers, "connection: close\r\n")), (1, 1), "{answers}");
    });
}
