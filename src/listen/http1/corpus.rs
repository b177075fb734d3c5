//! Odd requests, what each is taken for, and what hyper's server takes it for. `|` stands for CR LF.
//!
//! Where the two differ ours is stricter, and the reason stands beside it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::request::{RequestsEnd, RequestsRead, read_requests};
use crate::listen::Limits;

/// What comes, and what it is taken for: each request as `METHOD target body`, with ` +trailers` and a semicolon, then
/// `kept`: another could follow; `closed`: none; `cut`: more was to come; `bad`: the last body is none; or the status
/// of a refusal.
type Case = (&'static str, &'static str);

/// First lines, before `|host: a||`.
const LINES: &[Case] = &[
    ("GET / HTTP/1.1", "GET / ; kept"),
    ("GET / HTTP/1.0", "GET / ; closed"),
    ("|GET / HTTP/1.1", "GET / ; kept"),
    ("\nGET / HTTP/1.1", "GET / ; kept"),
    ("||||GET / HTTP/1.1", "GET / ; kept"),
    ("OPTIONS * HTTP/1.1", "OPTIONS * ; kept"),
    ("GET http://a/b?c HTTP/1.1", "GET http://a/b?c ; kept"),
    ("GET https://a:8443/ HTTP/1.1", "GET https://a:8443/ ; kept"),
    ("GET a:80 HTTP/1.1", "GET a:80 ; kept"),
    ("GET /\u{fc}ber HTTP/1.1", "GET /\u{fc}ber ; kept"),
    ("GET /a%2e%2e/ HTTP/1.1", "GET /a%2e%2e/ ; kept"),
    ("get / HTTP/1.1", "get / ; kept"),
    ("M-SEARCH / HTTP/1.1", "M-SEARCH / ; kept"),
    ("GET  / HTTP/1.1", "400"),
    ("GET /  HTTP/1.1", "400"),
    (" GET / HTTP/1.1", "400"),
    ("GET\t/ HTTP/1.1", "400"),
    ("GET /\tHTTP/1.1", "400"),
    ("GET / HTTP/1.1 ", "400"),
    ("GET /a b HTTP/1.1", "400"),
    ("GET /a\0b HTTP/1.1", "400"),
    ("GET /a\u{7f}b HTTP/1.1", "400"),
    ("GET /a\rb HTTP/1.1", "400"),
    ("GET /", "400"),
    ("GET", "400"),
    ("GET / HTTP/0.9", "400"),
    ("GET / HTTP/1.2", "400"),
    ("GET / HTTP/1.10", "400"),
    ("GET / HTTP/01.1", "400"),
    ("GET / HTTP/2.0", "400"),
    ("GET / HTTP/2", "400"),
    ("GET / HTTP/3.0", "400"),
    ("GET / http/1.1", "400"),
    ("GET / HTTPS/1.1", "400"),
    ("GET / HTTP/1.1x", "400"),
    ("G(T / HTTP/1.1", "400"),
    ("G\u{fc}T / HTTP/1.1", "400"),
    ("\u{feff}GET / HTTP/1.1", "400"),
    ("GET \"/\" HTTP/1.1", "400"),
    ("GET http:// HTTP/1.1", "400"),
    ("\u{16}\u{3}\u{1}", "400"),
];

/// Fields behind `GET / HTTP/1.1|`, before `||`.
const FIELDS: &[Case] = &[
    ("host: a", "GET / ; kept"),
    ("host:a", "GET / ; kept"),
    ("host:  a  ", "GET / ; kept"),
    ("host:\ta\t", "GET / ; kept"),
    ("host:", "GET / ; kept"),
    ("x: \u{fc}ber", "GET / ; kept"),
    ("x: a\tb", "GET / ; kept"),
    ("!#$%&'*+-.^_`~0aZ: a", "GET / ; kept"),
    ("host : a", "400"),
    ("host\t: a", "400"),
    (" host: a", "400"),
    ("host: a| folded", "400"),
    ("host: a|\tfolded", "400"),
    ("host", "400"),
    (": a", "400"),
    ("ho st: a", "400"),
    ("h\u{fc}: a", "400"),
    ("h(: a", "400"),
    ("x: a\0b", "400"),
    ("x: a\rb", "400"),
    ("x: a\u{7f}b", "400"),
    ("x: a\u{1}b", "400"),
    ("connection: close", "GET / ; closed"),
    ("connection: Close", "GET / ; closed"),
    ("connection: keep-alive, close", "GET / ; closed"),
    ("connection: close|connection: keep-alive", "GET / ; closed"),
    ("connection: keep-alive|connection: close", "GET / ; closed"),
    ("connection: closed", "GET / ; kept"),
    ("connection: keep-alive", "GET / ; kept"),
    ("connection: upgrade|upgrade: h2c", "GET / ; kept"),
];

/// Fields behind `GET / HTTP/1.0|`, before `||`.
const OLD: &[Case] = &[
    ("connection: keep-alive", "GET / ; kept"),
    ("connection: Keep-Alive, x", "GET / ; kept"),
    ("connection: keep-alive, close", "GET / ; closed"),
    ("connection: close", "GET / ; closed"),
    ("x: y", "GET / ; closed"),
    ("transfer-encoding: chunked", "400"),
    ("transfer-encoding: identity", "400"),
    ("content-length: 0|connection: keep-alive", "GET / ; kept"),
];

/// Lengths behind `PUT / HTTP/1.1|host: a|content-length:`, before `||hello`.
const LENGTHS: &[Case] = &[
    (" 5", "PUT / hello; kept"),
    ("5", "PUT / hello; kept"),
    (" 05", "PUT / hello; kept"),
    (" 00000000000000000000000000005", "PUT / hello; kept"),
    (" 5|content-length: 5", "PUT / hello; kept"),
    (" 5|content-length: 05", "PUT / hello; kept"),
    (" 6", "PUT / hello; cut"),
    (" 18446744073709551613", "PUT / hello; cut"),
    (" 5|content-length: 6", "400"),
    (" 5|content-length: x", "400"),
    (" 5, 5", "400"),
    (" 5,6", "400"),
    ("", "400"),
    (" ", "400"),
    (" +5", "400"),
    (" -5", "400"),
    (" 0x5", "400"),
    (" 5.", "400"),
    (" 5 5", "400"),
    (" \u{665}", "400"),
    (" 18446744073709551616", "400"),
    (" 99999999999999999999999", "400"),
];

/// Codings behind `PUT / HTTP/1.1|host: a|transfer-encoding:`, before `||5|hello|0||`. What else than `chunked` alone
/// there may be is refused by the gate.
const CODINGS: &[Case] = &[
    (" chunked", "PUT / hello; kept"),
    (" Chunked", "PUT / hello; kept"),
    ("\tchunked ", "PUT / hello; kept"),
    (" gzip, chunked", "PUT / hello; kept"),
    (" ,chunked", "PUT / hello; kept"),
    (" chunked, chunked", "PUT / hello; kept"),
    (" chunked|transfer-encoding: chunked", "PUT / hello; kept"),
    (" gzip|transfer-encoding: chunked", "PUT / hello; kept"),
    (" chunked|transfer-encoding: gzip", "400"),
    (" chunked, gzip", "400"),
    (" chunked,", "400"),
    (" gzip", "400"),
    (" identity", "400"),
    (" xchunked", "400"),
    (" chunked;q=1", "400"),
    (" \"chunked\"", "400"),
    ("", "400"),
    // The coding counts, and nothing behind the body is taken for a request.
    (" chunked|content-length: 3", "PUT / hello; closed"),
    (" chunked|content-length: x", "PUT / hello; closed"),
];

/// The same with a length before the coding: behind `PUT / HTTP/1.1|host: a|content-length:`.
const LENGTH_AND_CODING: &[Case] = &[
    (" 3|transfer-encoding: chunked||5|hello|0||", "PUT / hello; closed"),
    (" 3|transfer-encoding: gzip||5|hello|0||", "400"),
    (" x|transfer-encoding: chunked||5|hello|0||", "400"),
    (" 3|content-length: 4|transfer-encoding: chunked||5|hello|0||", "400"),
];

/// Bodies behind `PUT / HTTP/1.1|host: a|transfer-encoding: chunked||`.
const CHUNKS: &[Case] = &[
    ("0||", "PUT / ; kept"),
    ("5|hello|0||", "PUT / hello; kept"),
    ("5;a=b|hello|0||", "PUT / hello; kept"),
    ("5 ;a=b|hello|0;c||", "PUT / hello; kept"),
    ("1|h|4|ello|000||", "PUT / hello; kept"),
    ("0|a: b||", "PUT /  +trailers; kept"),
    ("5|hello|0||GET /x HTTP/1.1|host: a||", "PUT / hello; GET /x ; kept"),
    ("5|hel", "PUT / hel; cut"),
    ("5|hello|", "PUT / hello; cut"),
    ("5|hello|0|", "PUT / hello; cut"),
    ("x|", "PUT / ; bad"),
    ("5|helloo|0||", "PUT / hello; bad"),
    ("-5|hello|0||", "PUT / ; bad"),
    ("|hello|0||", "PUT / ; bad"),
    ("11111111111111111|", "PUT / ; bad"),
];

/// Whole requests.
const WHOLE: &[Case] = &[
    ("", "kept"),
    ("GET / HTTP/1.1|", "cut"),
    ("GET / HTTP/1.1|host: a|", "cut"),
    ("GET / HTTP/1.1||", "GET / ; kept"),
    ("GET / HTTP/1.1||||", "GET / ; kept"),
    ("GET / HTTP/1.1|||GET", "GET / ; cut"),
    ("GET / HTTP/1.1\nhost: a\n\n", "GET / ; kept"),
    ("GET /1 HTTP/1.1|host: a||GET /2 HTTP/1.1|host: a||", "GET /1 ; GET /2 ; kept"),
    ("GET /1 HTTP/1.1|host: a||||GET /2 HTTP/1.1|host: a||", "GET /1 ; GET /2 ; kept"),
    ("GET /1 HTTP/1.1|connection: close||GET /2 HTTP/1.1|host: a||", "GET /1 ; closed"),
    ("PUT /1 HTTP/1.1|content-length: 2||abGET /2 HTTP/1.1|host: a||", "PUT /1 ab; GET /2 ; kept"),
    ("PUT /1 HTTP/1.1|content-length: 0||GET /2 HTTP/1.1|host: a||", "PUT /1 ; GET /2 ; kept"),
    ("GET /1 HTTP/1.1|content-length: 2||abGET /2 HTTP/1.1|host: a||", "GET /1 ab; GET /2 ; kept"),
    ("GET /1 HTTP/1.1||hello", "GET /1 ; cut"),
    ("GET /1 HTTP/1.1||hello there|", "GET /1 ; 400"),
];

/// What comes, what it is taken for, what hyper takes it for, and what the difference is.
const OTHERWISE: &[(&str, &str, &str, &str)] = &[
    (
        "PUT / HTTP/1.1|transfer-encoding: chunked||00000000000000005|hello|0||",
        "PUT / ; bad",
        "PUT / hello; kept",
        "no size of 64 bits has more than 16 digits",
    ),
    ("GET /#a HTTP/1.1|host: a||", "400", "GET / ; kept", "a target has no fragment"),
    ("GET /a?b#c HTTP/1.1|host: a||", "400", "GET /a?b ; kept", "nor has its query"),
    ("PUT / HTTP/1.1|transfer-encoding: chunked||5\nhello|0||", "PUT / ; bad", "PUT / ; bad", "a line ends with CR LF"),
];

/// All of them: bytes, what they are taken for, and what by hyper.
fn all() -> Vec<(Vec<u8>, &'static str, String)> {
    let families: [(&[Case], &str, &str); 8] = [
        (LINES, "", "|host: a||"),
        (FIELDS, "GET / HTTP/1.1|", "||"),
        (OLD, "GET / HTTP/1.0|", "||"),
        (LENGTHS, "PUT / HTTP/1.1|host: a|content-length:", "||hello"),
        (CODINGS, "PUT / HTTP/1.1|host: a|transfer-encoding:", "||5|hello|0||"),
        (LENGTH_AND_CODING, "PUT / HTTP/1.1|host: a|content-length:", ""),
        (CHUNKS, "PUT / HTTP/1.1|host: a|transfer-encoding: chunked||", ""),
        (WHOLE, "", ""),
    ];
    let bytes = |text: &str| text.replace('|', "\r\n").into_bytes();
    let alike = families.into_iter().flat_map(|(cases, before, behind)| {
        cases
            .iter()
            .map(move |(text, verdict)| (bytes(&format!("{before}{text}{behind}")), *verdict, as_hyper(verdict)))
    });
    let otherwise = OTHERWISE.iter().map(|(text, verdict, hyper, _why)| (bytes(text), *verdict, (*hyper).to_owned()));
    alike.chain(otherwise).collect()
}

/// What hyper would say where it takes requests for the same: a body that ends too early is a bad one to it.
fn as_hyper(verdict: &str) -> String {
    let in_body = verdict.contains(';').then(|| verdict.strip_suffix("cut")).flatten();
    in_body.filter(|_| verdict.starts_with("PUT")).map_or_else(|| verdict.to_owned(), |whole| format!("{whole}bad"))
}

fn told(read: &RequestsRead) -> String {
    let mut text = String::new();
    for request in &read.requests {
        let trailers = if request.trailers.is_some() { " +trailers" } else { "" };
        text += &format!("{} {}{trailers}; ", request.line, String::from_utf8_lossy(&request.body));
    }
    match read.end {
        RequestsEnd::Kept => text + "kept",
        RequestsEnd::Closed { .. } => text + "closed",
        RequestsEnd::Refused(refusal) => text + refusal.status().as_str(),
        RequestsEnd::BadBody => text + "bad",
        RequestsEnd::InHead(_) | RequestsEnd::InBody => text + "cut",
    }
}

/// What hyper's server makes of it.
async fn by_hyper(bytes: Vec<u8>) -> String {
    let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
    let seen = Rc::new(RefCell::new(String::new()));
    let service = {
        let seen = Rc::clone(&seen);
        service_fn(move |request: Request<Incoming>| {
            let seen = Rc::clone(&seen);
            async move {
                let (head, mut body) = request.into_parts();
                *seen.borrow_mut() += &format!("{} {} ", head.method, head.uri);
                let mut end = ";";
                while let Some(frame) = body.frame().await {
                    match frame {
                        Ok(frame) if frame.is_trailers() => end = " +trailers;",
                        Ok(frame) => *seen.borrow_mut() += &String::from_utf8_lossy(frame.data_ref().expect("data")),
                        Err(fault) => end = if fault.is_incomplete_message() { "; cut" } else { "; bad" },
                    }
                }
                *seen.borrow_mut() += end;
                *seen.borrow_mut() += " ";
                Ok::<_, Infallible>(Response::new(Empty::<&[u8]>::new()))
            }
        })
    };
    let client = async move {
        theirs.write_all(&bytes).await.expect("room");
        theirs.shutdown().await.expect("open");
        let mut answers = String::new();
        theirs.read_to_string(&mut answers).await.expect("text");
        answers
    };
    let server =
        hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(ours), service);
    let (answers, ended) = tokio::join!(client, server);
    let seen = seen.borrow().trim_end().to_owned();
    if seen.ends_with("cut") || seen.ends_with("bad") {
        return seen;
    }
    let last = answers.split("HTTP/1.").last().unwrap_or_default();
    let end = match last.get(2..5) {
        Some(status @ ("400" | "414" | "431")) => status,
        _ if ended.is_err() => "cut",
        _ if last.contains("connection: close") || last.starts_with("0 ") && !last.contains("keep-alive") => "closed",
        _ => "kept",
    };
    format!("{seen} {end}").trim_start().to_owned()
}

#[test]
fn odd_requests_are_taken_for_what_they_are_however_they_are_cut() {
    let (all, limits) = (all(), Limits::default());
    assert!(all.len() >= 150, "{}", all.len());
    let mut wrong = Vec::new();
    for (bytes, verdict, _) in all {
        let whole = read_requests(&limits, [&bytes[..]]);
        if told(&whole) != verdict {
            wrong.push(format!("{}: {verdict:?}, found {:?}", bytes.escape_ascii(), told(&whole)));
        }
        let by_one = read_requests(&limits, bytes.chunks(1));
        assert_eq!(by_one, whole, "by single bytes: {}", bytes.escape_ascii());
        for at in 0..bytes.len() {
            let (one, other) = bytes.split_at(at);
            assert_eq!(read_requests(&limits, [one, other]), whole, "cut at {at}: {}", bytes.escape_ascii());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn hyper_takes_the_same_requests_for_the_same_but_for_a_few_that_are_read_more_strictly() {
    let mut wrong = Vec::new();
    for (bytes, verdict, expected) in all() {
        let found = by_hyper(bytes.clone()).await;
        if found != expected {
            wrong.push(format!("{}: {verdict:?}, of hyper {expected:?}, found {found:?}", bytes.escape_ascii()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn limits_hold_to_the_byte() {
    let limits = Limits { head_bytes: 300, target_bytes: 100, fields: 40, ..Limits::default() };
    let status = |text: &str| match read_requests(&limits, text.as_bytes().chunks(7)).end {
        RequestsEnd::Refused(refusal) => refusal.status().as_u16(),
        _ => 200,
    };
    let of_length = |length: usize| format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(length - 23));
    assert_eq!((of_length(300).len(), status(&of_length(300)), status(&of_length(301))), (300, 200, 431));
    // One that has no end is not read for longer.
    assert_eq!(status(of_length(900).get(..301).unwrap_or_default()), 431);
    let of_fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a:b\r\n".repeat(count));
    assert_eq!([31, 32, 33, 40, 41].map(|count| status(&of_fields(count))), [200, 200, 200, 200, 431]);
    let few = Limits { fields: 3, ..Limits::default() };
    let refused = |count: usize| read_requests(&few, [of_fields(count).as_bytes()]).end != RequestsEnd::Kept;
    assert_eq!([2, 3, 4].map(refused), [false, false, true]);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(65_534));
    let wide = Limits { head_bytes: 100_000, ..Limits::default() };
    let end = read_requests(&wide, [long.as_bytes()]).end;
    assert!(matches!(end, RequestsEnd::Refused(refusal) if refusal.status().as_u16() == 414), "{end:?}");
}
