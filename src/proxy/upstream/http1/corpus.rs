//! Odd answers, what each is taken for, and what hyper's client takes it for. `|` stands for CR LF.
//!
//! Where the two differ ours is stricter, and the reason stands beside it.

use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::answer::{AnswerEnd, AnswerRead, read_answer};

/// What comes, and what it is taken for: status and body, then
/// `kept`: whole, and the connection may serve another request;
/// `closed`: whole, and the connection has to be closed;
/// `switched`: the connection is another protocol's; `broken`: not whole. Or `none`: no answer at all.
type Case = (&'static str, &'static str);

/// Status lines before `content-length: 2||ok`.
const STATUS_LINES: &[Case] = &[
    ("HTTP/1.1 200 OK", "200 ok kept"),
    ("HTTP/1.1 200 ", "200 ok kept"),
    ("HTTP/1.1 200", "200 ok kept"),
    ("HTTP/1.1 200 a\tb", "200 ok kept"),
    ("HTTP/1.1 200 \u{fc}ber", "200 ok kept"),
    ("HTTP/1.1 200 200 200", "200 ok kept"),
    ("HTTP/1.1 299 Odd", "299 ok kept"),
    ("HTTP/1.1 600 Odd", "600 ok kept"),
    ("HTTP/1.1 999 Odd", "999 ok kept"),
    ("HTTP/1.0 200 OK", "200 ok closed"),
    ("|HTTP/1.1 200 OK", "200 ok kept"),
    ("\nHTTP/1.1 200 OK", "200 ok kept"),
    ("||||HTTP/1.1 200 OK", "200 ok kept"),
    ("HTTP/1.1 099 Odd", "none"),
    ("HTTP/1.1 000 Odd", "none"),
    ("HTTP/1.1 20 OK", "none"),
    ("HTTP/1.1 2000 OK", "none"),
    ("HTTP/1.1 2x0 OK", "none"),
    ("HTTP/1.1 -20 OK", "none"),
    ("HTTP/1.1 +20 OK", "none"),
    ("HTTP/1.1 0x1 OK", "none"),
    ("HTTP/1.1  200 OK", "none"),
    ("HTTP/1.1\t200 OK", "none"),
    ("HTTP/1.1200 OK", "none"),
    ("HTTP/1.1 200OK", "none"),
    ("HTTP/1.1 200\tOK", "none"),
    ("HTTP/1.1 200 a\0b", "none"),
    ("HTTP/1.1 200 a\u{7f}b", "none"),
    ("HTTP/1.1 200 a\rb", "none"),
    ("HTTP/1.1 ", "none"),
    ("HTTP/1.1", "none"),
    ("HTTP/1.2 200 OK", "none"),
    ("HTTP/1.10 200 OK", "none"),
    ("HTTP/1. 200 OK", "none"),
    ("HTTP/11 200 OK", "none"),
    ("HTTP/01.1 200 OK", "none"),
    ("HTTP/0.9 200 OK", "none"),
    ("HTTP/2.0 200 OK", "none"),
    ("HTTP/2 200 OK", "none"),
    ("HTTP/3.0 200 OK", "none"),
    ("http/1.1 200 OK", "none"),
    ("HTTPS/1.1 200 OK", "none"),
    ("HTTP /1.1 200 OK", "none"),
    ("ICY 200 OK", "none"),
    ("RTSP/1.0 200 OK", "none"),
    ("SIP/2.0 200 OK", "none"),
    ("220 mail.example ESMTP", "none"),
    ("SSH-2.0-OpenSSH_9.2", "none"),
    ("<html>", "none"),
    ("\0", "none"),
    ("GET / HTTP/1.1", "none"),
    (" HTTP/1.1 200 OK", "none"),
    ("\tHTTP/1.1 200 OK", "none"),
    ("\rHTTP/1.1 200 OK", "none"),
    ("\u{feff}HTTP/1.1 200 OK", "none"),
];

/// Fields before `content-length: 2||ok`.
const FIELDS: &[Case] = &[
    ("x: y", "200 ok kept"),
    ("x:y", "200 ok kept"),
    ("x:", "200 ok kept"),
    ("x: ", "200 ok kept"),
    ("x:\ty", "200 ok kept"),
    ("x: y \t", "200 ok kept"),
    ("X-UPPER: y", "200 ok kept"),
    ("x: \u{fc}", "200 ok kept"),
    ("x: a\tb", "200 ok kept"),
    ("x: a:b", "200 ok kept"),
    ("x!#$%&'*+-.^_`~9: y", "200 ok kept"),
    ("set-cookie: a=b|set-cookie: c=d", "200 ok kept"),
    ("content-encoding: gzip", "200 ok kept"),
    ("content-length: 2", "200 ok kept"),
    ("trailer: x", "200 ok kept"),
    ("upgrade: websocket", "200 ok kept"),
    ("x: a\ny: b", "200 ok kept"),
    ("connection: keep-alive", "200 ok kept"),
    ("connection: closed", "200 ok kept"),
    ("connection: close", "200 ok closed"),
    ("Connection:Close", "200 ok closed"),
    ("connection: keep-alive, close", "200 ok closed"),
    ("connection: close|connection: keep-alive", "200 ok closed"),
    ("connection: x,CLOSE ,y", "200 ok closed"),
    ("x : y", "none"),
    ("x\t: y", "none"),
    (" x: y", "none"),
    ("\tx: y", "none"),
    ("x: a| b", "none"),
    ("x: a|\tb", "none"),
    ("x: a\n b", "none"),
    ("x: a| ", "none"),
    ("x", "none"),
    (": y", "none"),
    ("x y: z", "none"),
    ("x(y): z", "none"),
    ("\u{fc}: y", "none"),
    ("x\0: y", "none"),
    ("x\r: y", "none"),
    ("x\n: y", "none"),
    ("x: a\0b", "none"),
    ("x: a\u{1}b", "none"),
    ("x: a\u{b}b", "none"),
    ("x: a\u{7f}b", "none"),
    ("x: a\rb", "none"),
    ("x: a\r\rb", "none"),
    ("content-length : 2", "none"),
    ("content-length: 3", "none"),
    ("transfer-encoding : chunked", "none"),
];

/// What stands behind `content-length:`, before `||hello`.
const LENGTHS: &[Case] = &[
    ("5", "200 hello kept"),
    (" 5", "200 hello kept"),
    ("\t5 \t", "200 hello kept"),
    ("05", "200 hello kept"),
    ("00000000000000000000000000005", "200 hello kept"),
    ("5,5", "200 hello kept"),
    ("5 , 5", "200 hello kept"),
    ("5|Content-Length: 5", "200 hello kept"),
    ("5,5|x: y|content-length: 05", "200 hello kept"),
    ("4", "200 hell closed"),
    ("0", "200  closed"),
    ("6", "200 hello broken"),
    ("010", "200 hello broken"),
    ("9999999999", "200 hello broken"),
    ("18446744073709551613", "200 hello broken"),
    ("18446744073709551616", "none"),
    ("99999999999999999999999", "none"),
    ("", "none"),
    (" ", "none"),
    (",", "none"),
    ("5,", "none"),
    (",5", "none"),
    ("5,,5", "none"),
    ("5,6", "none"),
    ("5|content-length: 6", "none"),
    ("6|content-length: 5", "none"),
    ("5|content-length:", "none"),
    ("+5", "none"),
    ("-5", "none"),
    ("5.0", "none"),
    ("5e0", "none"),
    ("0x5", "none"),
    ("5 5", "none"),
    ("5;", "none"),
    ("\"5\"", "none"),
    ("five", "none"),
    ("\u{ff15}", "none"),
    ("5\u{a0}", "none"),
];

/// What stands behind `transfer-encoding:`, before `||5|hello|0||`.
const CODINGS: &[Case] = &[
    ("chunked", "200 hello kept"),
    (" Chunked ", "200 hello kept"),
    ("\tCHUNKED\t", "200 hello kept"),
    ("chunked|content-length: 2", "200 hello closed"),
    ("chunked|content-length: x", "200 hello closed"),
    ("chunked|connection: close", "200 hello closed"),
];

/// Bodies of chunks.
const CHUNKS: &[Case] = &[
    ("5|hello|0||", "200 hello kept"),
    ("1|h|4|ello|0||", "200 hello kept"),
    ("005|hello|000||", "200 hello kept"),
    ("0000000000000005|hello|0||", "200 hello kept"),
    ("a|0123456789|0||", "200 0123456789 kept"),
    ("A|0123456789|0||", "200 0123456789 kept"),
    ("0||", "200  kept"),
    ("0;x=y||", "200  kept"),
    ("5 |hello|0||", "200 hello kept"),
    ("5\t |hello|0 ||", "200 hello kept"),
    ("5;|hello|0||", "200 hello kept"),
    ("5;a|hello|0||", "200 hello kept"),
    ("5;a=b;c|hello|0||", "200 hello kept"),
    ("5;a=\"b;c\"|hello|0||", "200 hello kept"),
    ("5 ; a|hello|0||", "200 hello kept"),
    ("5|hello|0|x: y||", "200 hello +trailers kept"),
    ("5|hello|0|x: y|z:||", "200 hello +trailers kept"),
    ("5|hello|0|content-length: 7||", "200 hello +trailers kept"),
    ("5|hello|0||x", "200 hello closed"),
    ("5|hello|0|||", "200 hello closed"),
    ("5|hello|0||0||", "200 hello closed"),
    ("5|hello|0|x: y||z", "200 hello +trailers closed"),
    ("5|hello|0||HTTP/1.1 200 OK|content-length: 4||evil", "200 hello closed"),
    ("", "200  broken"),
    ("5", "200  broken"),
    ("5\r", "200  broken"),
    ("5|", "200  broken"),
    ("5|hel", "200 hel broken"),
    ("5|hello", "200 hello broken"),
    ("5|hello\r", "200 hello broken"),
    ("5|hello|", "200 hello broken"),
    ("5|hello|0", "200 hello broken"),
    ("5|hello|0|", "200 hello broken"),
    ("5|hello|0|\r", "200 hello broken"),
    ("5|hello|0|x: y|", "200 hello broken"),
    ("5|hello|0|x", "200 hello broken"),
    ("|", "200  broken"),
    (";a|hello|0||", "200  broken"),
    ("g|hello|0||", "200  broken"),
    ("-5|hello|0||", "200  broken"),
    ("+5|hello|0||", "200  broken"),
    ("0x5|hello|0||", "200  broken"),
    (" 5|hello|0||", "200  broken"),
    ("5 5|hello|0||", "200  broken"),
    ("5.0|hello|0||", "200  broken"),
    ("5,|hello|0||", "200  broken"),
    ("\"5\"|hello|0||", "200  broken"),
    ("\u{ff15}|hello|0||", "200  broken"),
    ("5\nhello|0||", "200  broken"),
    ("5\rhello|0||", "200  broken"),
    ("5\r\rhello|0||", "200  broken"),
    ("5\u{b}|hello|0||", "200  broken"),
    ("5\0|hello|0||", "200  broken"),
    ("5;a\nb|hello|0||", "200  broken"),
    ("5;a\rb|hello|0||", "200  broken"),
    ("10000000000000000|hello|0||", "200  broken"),
    ("fffffffffffffffff|hello|0||", "200  broken"),
    ("ffffffffffffffff|hello", "200 hello broken"),
    ("5|hello0||", "200 hello broken"),
    ("5|hello\n0||", "200 hello broken"),
    ("5|hello\rx0||", "200 hello broken"),
    ("5|hello||0||", "200 hello broken"),
    ("5|hello|-1|", "200 hello broken"),
    ("5|hello|zz|", "200 hello broken"),
    ("4|hello|0||", "200 hell broken"),
    ("6|hello|0||", "200 hello\r broken"),
    ("5|hello|0|no field||", "200 hello broken"),
    ("5|hello|0| x: y||", "200 hello broken"),
    ("5|hello|0|x : y||", "200 hello broken"),
    ("5|hello|0|: y||", "200 hello broken"),
    ("5|hello|0|x: a\0b||", "200 hello broken"),
    ("5|hello|0|x: a\rb||", "200 hello broken"),
    ("5|hello|0|x: a| b||", "200 hello broken"),
];

/// Whole answers.
const WHOLE: &[Case] = &[
    ("", "none"),
    ("H", "none"),
    ("|", "none"),
    ("HTTP/1.1 200 OK", "none"),
    ("HTTP/1.1 200 OK|", "none"),
    ("HTTP/1.1 200 OK|content-length: 5", "none"),
    ("HTTP/1.1 200 OK|content-length: 5|", "none"),
    ("HTTP/1.1 200 OK||", "200  closed"),
    ("HTTP/1.1 200 OK||as long as it lasts", "200 as long as it lasts closed"),
    ("HTTP/1.0 200 OK||as long as it lasts", "200 as long as it lasts closed"),
    ("HTTP/1.0 200 OK|connection: keep-alive||as long", "200 as long closed"),
    ("HTTP/1.0 200 OK|connection: keep-alive|content-length: 2||ok", "200 ok kept"),
    ("HTTP/1.0 200 OK|content-length: 2||ok", "200 ok closed"),
    ("HTTP/1.0 200 OK|transfer-encoding: chunked||2|ok|0||", "none"),
    ("HTTP/1.0 200 OK|content-length: 2|transfer-encoding: chunked||2|ok|0||", "none"),
    ("HTTP/1.1 200 OK|content-length: 2|transfer-encoding: chunked||2|ok|0||", "200 ok closed"),
    ("HTTP/1.1 200 OK\ncontent-length: 2\n\nok", "200 ok kept"),
    ("HTTP/1.1 200 OK|content-length: 2|\nok", "200 ok kept"),
    ("HTTP/1.1 200 OK|content-length: 2||okHTTP/1.1 100 Continue||", "200 ok closed"),
    ("HTTP/1.1 200 OK|content-length: 2||okHTTP/1.1 200 OK|content-length: 4||evil", "200 ok closed"),
    // Without a body, whatever they say.
    ("HTTP/1.1 204 No Content||", "204  kept"),
    ("HTTP/1.1 204 No Content|content-length: 0||", "204  kept"),
    ("HTTP/1.1 204 No Content|content-length: 5||", "204  closed"),
    ("HTTP/1.1 204 No Content|content-length: 5||hello", "204  closed"),
    ("HTTP/1.1 204 No Content|content-length: x||", "204  closed"),
    ("HTTP/1.1 204 No Content|transfer-encoding: chunked||", "204  closed"),
    ("HTTP/1.1 204 No Content|transfer-encoding: chunked||0||", "204  closed"),
    ("HTTP/1.1 204 No Content||x", "204  closed"),
    ("HTTP/1.1 304 Not Modified||", "304  kept"),
    ("HTTP/1.1 304 Not Modified|content-length: 5||", "304  kept"),
    ("HTTP/1.1 304 Not Modified|transfer-encoding: chunked||", "304  kept"),
    ("HTTP/1.1 304 Not Modified|content-length: 5||hello", "304  closed"),
    ("HTTP/1.1 205 Reset Content||", "205  closed"),
    ("HTTP/1.1 205 Reset Content|content-length: 0||", "205  kept"),
    // Informational ones before.
    ("HTTP/1.1 100 Continue||", "none"),
    ("HTTP/1.1 199 Whatever||", "none"),
    ("HTTP/1.1 100 Continue||HTTP/1.1 200 OK|content-length: 2||ok", "200 ok kept"),
    ("HTTP/1.1 100 Continue||HTTP/1.1 100 Continue||HTTP/1.1 200 OK|content-length: 2||ok", "200 ok kept"),
    ("HTTP/1.1 103 Early Hints|link: </a>||HTTP/1.1 200 OK|content-length: 2||ok", "200 ok kept"),
    ("HTTP/1.1 199 Whatever|connection: close||HTTP/1.1 200 OK|content-length: 2||ok", "200 ok kept"),
    ("HTTP/1.0 100 Continue||HTTP/1.1 200 OK|content-length: 2||ok", "200 ok kept"),
    ("HTTP/1.1 100 Continue||x", "none"),
    ("HTTP/1.1 101 Switching Protocols|upgrade: websocket||", "101  switched"),
    ("HTTP/1.1 101 Switching Protocols|upgrade: websocket||first bytes", "101 first bytes switched"),
    ("HTTP/1.1 101 Switching Protocols|content-length: 5||first bytes", "101 first bytes switched"),
    ("HTTP/1.1 100 Continue||HTTP/1.1 101 Switching Protocols||first bytes", "101 first bytes switched"),
];

/// Answers to HEAD.
const TO_HEAD: &[Case] = &[
    ("HTTP/1.1 200 OK||", "200  kept"),
    ("HTTP/1.1 200 OK|content-length: 5||", "200  kept"),
    ("HTTP/1.1 200 OK|content-length: 5||hello", "200  closed"),
    ("HTTP/1.1 200 OK|transfer-encoding: chunked||", "200  kept"),
    ("HTTP/1.1 200 OK|transfer-encoding: chunked||0||", "200  closed"),
    ("HTTP/1.1 200 OK|transfer-encoding: chunked|content-length: 5||", "200  closed"),
    ("HTTP/1.0 200 OK|content-length: 5||", "200  closed"),
    ("HTTP/1.1 500 Oh|content-length: 5|connection: close||", "500  closed"),
    ("HTTP/1.1 100 Continue||HTTP/1.1 200 OK||", "200  kept"),
];

/// What comes, what it is taken for, what hyper takes it for, and why that is not enough.
const STRICTER: &[(&str, &str, &str, &str)] = &[
    ("HTTP/1.1 200 OK|transfer-encoding: gzip, chunked||5|hello|0||", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: identity, chunked||5|hello|0||", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: ,chunked||5|hello|0||", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: chunked, chunked||5|hello|0||", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: chunked,chunked||5|hello|0||", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: chunked|transfer-encoding: chunked||5|hello|0||", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: gzip|transfer-encoding: chunked||5|hello|0||", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: gzip||hello", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: identity||hello", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: ||hello", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: xchunked||hello", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: chunked;q=1||hello", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: chunked,||hello", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: \"chunked\"||hello", "none", "200 hello", CODING),
    ("HTTP/1.1 200 OK|transfer-encoding: chunked|transfer-encoding: gzip||hello", "none", "200 hello", CODING),
    (
        "HTTP/1.1 200 OK|transfer-encoding: chunked||00000000000000005|hello|0||",
        "200  broken",
        "200 hello",
        "no size of 64 bits has more than 16 digits",
    ),
];

const CODING: &str = "nobody asked for another coding, and who reads the answer is not told of it";

/// All of them: method, bytes, what they are taken for, and what by hyper.
fn all() -> Vec<(Method, Vec<u8>, &'static str, String)> {
    let families: [(Method, &[Case], &str, &str); 7] = [
        (Method::GET, STATUS_LINES, "", "|content-length: 2||ok"),
        (Method::GET, FIELDS, "HTTP/1.1 200 OK|", "|content-length: 2||ok"),
        (Method::GET, LENGTHS, "HTTP/1.1 200 OK|content-length:", "||hello"),
        (Method::GET, CODINGS, "HTTP/1.1 200 OK|transfer-encoding:", "||5|hello|0||"),
        (Method::GET, CHUNKS, "HTTP/1.1 200 OK|transfer-encoding: chunked||", ""),
        (Method::GET, WHOLE, "", ""),
        (Method::HEAD, TO_HEAD, "", ""),
    ];
    let bytes = |text: &str| text.replace('|', "\r\n").into_bytes();
    let alike = families.into_iter().flat_map(|(method, cases, before, behind)| {
        cases.iter().map(move |(text, verdict)| {
            (method.clone(), bytes(&format!("{before}{text}{behind}")), *verdict, as_hyper(verdict))
        })
    });
    let stricter =
        STRICTER.iter().map(|(text, verdict, hyper, _why)| (Method::GET, bytes(text), *verdict, (*hyper).to_owned()));
    alike.chain(stricter).collect()
}

/// What hyper would say where it takes an answer for the same: it does not tell what becomes of the connection.
fn as_hyper(verdict: &str) -> String {
    match verdict.rsplit_once(' ') {
        Some((_, "switched")) => "101 ".to_owned(),
        Some((whole, "kept" | "closed")) => whole.to_owned(),
        _ => verdict.to_owned(),
    }
}

fn told(read: &AnswerRead) -> String {
    let Some(status) = read.status else { return "none".to_owned() };
    let (body, end) = match &read.end {
        AnswerEnd::Kept => (&read.body, "kept"),
        AnswerEnd::Closed { .. } => (&read.body, "closed"),
        AnswerEnd::Broken => (&read.body, "broken"),
        AnswerEnd::Switched(bytes) => (bytes, "switched"),
    };
    let trailers = if read.trailers.is_some() { " +trailers" } else { "" };
    format!("{} {}{trailers} {end}", status.as_u16(), String::from_utf8_lossy(body))
}

/// What hyper's client makes of it.
async fn by_hyper(method: Method, bytes: Vec<u8>) -> String {
    let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
    let service = async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(theirs.read_u8().await.expect("a request"));
        }
        theirs.write_all(&bytes).await.expect("room");
    };
    let client = async move {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.expect("a connection");
        let exchange = async move {
            let request = Request::builder().method(method).uri("/").body(Empty::<&[u8]>::new()).expect("a request");
            let Ok(response) = sender.send_request(request).await else { return "none".to_owned() };
            let (head, mut body) = response.into_parts();
            let (mut text, mut rest) = (format!("{} ", head.status.as_u16()), "");
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) if frame.is_trailers() => rest = " +trailers",
                    Ok(frame) => text += &String::from_utf8_lossy(frame.data_ref().expect("data")),
                    Err(_broken) => return text + " broken",
                }
            }
            text + rest
        };
        tokio::join!(exchange, connection.with_upgrades()).0
    };
    tokio::join!(service, client).1
}

#[test]
fn odd_answers_are_taken_for_what_they_are_however_they_are_cut() {
    let all = all();
    assert!(all.len() >= 200, "{}", all.len());
    let mut wrong = Vec::new();
    for (method, bytes, verdict, _) in all {
        let whole = read_answer(&method, [&bytes[..]]);
        if told(&whole) != verdict {
            wrong.push(format!("{}: {verdict:?}, found {:?}", bytes.escape_ascii(), told(&whole)));
        }
        let by_one = read_answer(&method, bytes.chunks(1));
        assert_eq!(by_one, whole, "by single bytes: {}", bytes.escape_ascii());
        for at in 0..bytes.len() {
            let (one, other) = bytes.split_at(at);
            assert_eq!(read_answer(&method, [one, other]), whole, "cut at {at}: {}", bytes.escape_ascii());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn hyper_takes_the_same_answers_for_the_same_but_for_those_that_are_read_more_strictly() {
    let mut wrong = Vec::new();
    for (method, bytes, verdict, expected) in all() {
        let found = by_hyper(method, bytes.clone()).await;
        if found != expected {
            wrong.push(format!("{}: {verdict:?}, of hyper {expected:?}, found {found:?}", bytes.escape_ascii()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
