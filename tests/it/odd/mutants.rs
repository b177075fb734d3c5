//! The corpus, changed at random: whatever still arrives is one request that may.
//!
//! `KEYWARD_MUTANTS` says how many, `KEYWARD_SEED` where to begin. A client waits until the gateway closes, so
//! that what arrives does not depend on how busy the machine is; many are waited for at a time.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Scene;
use super::corpus::{End, corpus};
use crate::harness::times;

const MUTANTS: u64 = 5_000;
const CLIENTS: usize = 4;
/// How many connections of one client are open at a time: with those to the service, fewer than a process
/// usually may have.
const OPEN: usize = 96;
/// The gateway closes what says no more. A mutant is sent in one piece, so none of these is short for one that is
/// whole, however slow the machine.
const TIMEOUTS: &str = "timeouts = { first_byte = '1s', head = '100ms', body_idle = '100ms', idle = '100ms' }";
/// Pieces that mean something somewhere.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"/",
    b"//",
    b"\\",
    b"..",
    b"%",
    b"%2e",
    b"%2F",
    b"%25",
    b"%00",
    b"?",
    b"#",
    b"*",
    b"@",
    b"\x80",
    b"\xff",
    b"0",
    b"chunked",
    b", chunked",
    b"0\r\n\r\n",
    b"\r\n\r\n",
    b"1\r\nx\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content_Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Host: b.example\r\n",
    b"Connection: ",
    b"Connection: keyward-key-id\r\n",
    b"Keyward-Key-Id: root\r\n",
    b"keyward_key_id: root\r\n",
    b"X-Keyward-User: root\r\n",
    b"X-Forwarded-For: 6.6.6.6\r\n",
    b"X-Original-URL: /public/admin/x\r\n",
    b"Authorization: Bearer {T}\r\n",
    b"X-Api-Key: {T}\r\n",
    b"Content-Type: application/grpc\r\n",
    b"Trailer: Keyward-Key-Id\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b"GET /public/admin/x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"http://a.example",
    b"/../admin/",
    b"/public/admin",
    b"admin",
    b"HTTP/1.0",
];

/// `SplitMix64`.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).expect("below a usize")
    }
}

/// The mutant of this number.
fn mutant(seed: u64, cases: &[Vec<u8>], good: usize) -> Vec<u8> {
    let mut random = Random(seed);
    random.next();
    // The good ones come first: most mutants begin as one, for what was refused already mostly is again.
    let pool = if random.below(5) > 0 { good } else { cases.len() };
    let mut bytes = cases[random.below(pool)].clone();
    for _ in 0..=random.below(6) / 2 {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(12)).min(bytes.len());
        match random.below(10) {
            0 => drop(bytes.drain(at..end)),
            1 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            3 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).expect("a byte"),
            4 => {
                let other = &cases[random.below(cases.len())];
                let from = random.below(other.len());
                let to = (from + random.below(60)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            5 => {
                // A whole line again, elsewhere.
                let lines: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
                if !lines.is_empty() {
                    let line = lines[random.below(lines.len())].clone();
                    let before = random.below(lines.len());
                    let at: usize = lines[..before].iter().map(Vec::len).sum();
                    bytes.splice(at..at, line);
                }
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                // A line mostly goes where lines begin.
                let starts: Vec<_> = (1..bytes.len()).filter(|at| bytes[at - 1] == b'\n').collect();
                let is_line = piece.len() > 2 && piece.ends_with(b"\r\n") && random.below(4) > 0;
                let at = if is_line && !starts.is_empty() { starts[random.below(starts.len())] } else { at };
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}

/// Sends bytes. What comes of them is on its way when [`until_closed`] ends.
fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the gateway accepts connections");
    let _cut_short = stream.write_all(bytes);
    stream
}

/// Waits until the gateway has said all and closes.
fn until_closed(mut stream: TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(_answer) => {}
            Err(fault) => {
                let waits = matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!waits, "the gateway never closed");
                return;
            }
        }
    }
}

fn with_token(bytes: &[u8], token: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + token.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(3).position(|window| window == b"{T}") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(token.as_bytes());
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    out
}

#[test]
fn whatever_is_made_of_a_request_what_arrives_is_one_that_may() {
    let scene = Scene::new(TIMEOUTS);
    let (count, first) = (times("KEYWARD_MUTANTS", MUTANTS), times("KEYWARD_SEED", 1));
    // Large ones only cost time.
    let small = corpus().into_iter().filter(|case| case.bytes.len() < 1_000);
    let (good, bad): (Vec<_>, Vec<_>) = small.partition(|case| matches!(case.end, End::Arrives(_)));
    let good_count = good.len();
    let cases: Vec<_> = good.into_iter().chain(bad).map(|case| case.bytes).collect();
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut open = VecDeque::with_capacity(OPEN);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    if open.len() == OPEN {
                        open.pop_front().into_iter().for_each(until_closed);
                    }
                    let bytes = with_token(&mutant(first + number, &cases, good_count), &scene.key.token);
                    open.push_back(send(scene.gateway.address(), &bytes));
                }
                open.into_iter().for_each(until_closed);
            });
        }
    });
    let faults = scene.recorder.faults();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    let arrived = u64::try_from(scene.recorder.count()).expect("a count");
    eprintln!("{arrived} of {count} mutants arrived");
    assert!(arrived > count / 10, "only {arrived} of {count} arrived: the mutants are too wild to prove anything");
    assert!(scene.gateway.metrics().contains("keyward_panics_total{listener=\"gateway\"} 0"));
}
