//! As much of HTTP/2 as it takes to send what no client sends: frames, and fields as HPACK literals.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(super) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// What came on a stream, or ended its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// A head with this status; 0 where it is none of HPACK's own.
    Status(u16),
    /// The stream was reset with this error.
    Reset(u32),
    /// The connection ended.
    Gone,
}

/// A connection that has said its preface.
pub(super) struct Frames {
    stream: TcpStream,
    next: u32,
}

impl Frames {
    pub(super) fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).expect("the gateway accepts connections");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("a socket");
        let mut frames = Self { stream, next: 1 };
        frames.frame(SETTINGS, 0, 0, &[]);
        frames
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        // The gateway may have closed the connection by now.
        let _gone = self.stream.write_all(&[head.as_slice(), payload].concat());
    }

    /// Opens a stream with these fields; its number.
    pub(super) fn head(&mut self, fields: &[(&[u8], &[u8])], flags: u8) -> u32 {
        let stream = self.next;
        self.next += 2;
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
        self.frame(HEADERS, END_HEADERS | flags, stream, &block);
        stream
    }

    pub(super) fn data(&mut self, stream: u32, bytes: &[u8], flags: u8) {
        self.frame(DATA, flags, stream, bytes);
    }

    /// Trailers.
    pub(super) fn trailers(&mut self, stream: u32, fields: &[(&[u8], &[u8])]) {
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
    }

    pub(super) fn reset(&mut self, stream: u32) {
        self.frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    }

    /// Waits for what comes of a stream.
    pub(super) fn outcome(&mut self, wanted: u32) -> Came {
        loop {
            let mut head = [0; 9];
            if self.stream.read_exact(&mut head).is_err() {
                return Came::Gone;
            }
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            let mut payload = vec![0; length];
            if self.stream.read_exact(&mut payload).is_err() {
                return Came::Gone;
            }
            match head[3] {
                GOAWAY if payload.get(4..8) != Some(&[0; 4]) => return Came::Gone,
                SETTINGS if head[4] == 0 => self.frame(SETTINGS, 1, 0, &[]),
                HEADERS if stream == wanted => return Came::Status(status(&payload)),
                RST_STREAM if stream == wanted => {
                    return Came::Reset(u32::from_be_bytes(payload[..4].try_into().expect("four bytes")));
                }
                _ => {}
            }
        }
    }
}

/// A field without any index (RFC 7541, 6.2.2).
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let text = |text: &[u8]| [&[u8::try_from(text.len()).expect("below 127")], text].concat();
    assert!(name.len() < 127 && value.len() < 127, "longer ones need more than a byte");
    [vec![0], text(name), text(value)].concat()
}

/// The status at the start of a block, as far as HPACK's table has it. Updates of the table's size come before.
fn status(block: &[u8]) -> u16 {
    let first = block.iter().find(|byte| **byte & 0xe0 != 0x20);
    match first {
        Some(0x88) => 200,
        Some(0x89) => 204,
        Some(0x8c) => 400,
        Some(0x8d) => 404,
        Some(0x8e) => 500,
        _ => 0,
    }
}
