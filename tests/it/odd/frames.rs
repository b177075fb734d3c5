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

/// One frame as it came.
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// A connection that has said its preface.
pub(super) struct Frames {
    stream: TcpStream,
    next: u32,
    /// What came and was not looked at yet.
    read: Vec<u8>,
}

impl Frames {
    pub(super) fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).expect("the gateway accepts connections");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("a socket");
        let mut frames = Self { stream, next: 1, read: Vec::new() };
        frames.frame(SETTINGS, 0, 0, &[]);
        frames
    }

    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
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

    /// Opens a stream with these fields and what follows them in the block.
    pub(super) fn block(&mut self, fields: &[(&[u8], &[u8])], more: &[u8]) {
        let stream = self.next;
        self.next += 2;
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream, &[block.as_slice(), more].concat());
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
        self.outcome_within(wanted, Duration::from_secs(20)).unwrap_or(Came::Gone)
    }

    /// What comes of a stream for as long as something comes within `patience`; none where nothing does.
    pub(super) fn outcome_within(&mut self, wanted: u32, patience: Duration) -> Option<Came> {
        self.stream.set_read_timeout(Some(patience)).expect("a socket");
        loop {
            let Frame { kind, flags, stream, payload } = match self.read_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return None,
                Err(_over) => return Some(Came::Gone),
            };
            match kind {
                GOAWAY if payload.get(4..8) != Some(&[0; 4]) => return Some(Came::Gone),
                SETTINGS if flags == 0 => self.frame(SETTINGS, 1, 0, &[]),
                HEADERS if stream == wanted => return Some(Came::Status(status(&payload))),
                RST_STREAM if stream == wanted => {
                    return Some(Came::Reset(u32::from_be_bytes(payload[..4].try_into().expect("four bytes"))));
                }
                _ => {}
            }
        }
    }

    /// Whether the gateway has closed the connection, as far as it has come until now.
    pub(super) fn is_gone(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
        loop {
            match self.read_frame() {
                Ok(Some(_frame)) => {}
                Ok(None) => return false,
                Err(_over) => return true,
            }
        }
    }

    /// The next frame; none where none comes in time.
    fn read_frame(&mut self) -> std::io::Result<Option<Frame>> {
        let frame = loop {
            if let [high, middle, low, kind, flags, stream @ ..] = self.read.as_slice()
                && let Some(stream) = stream.first_chunk::<4>()
            {
                let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
                if let Some(payload) = self.read.get(9..9 + length) {
                    let stream = u32::from_be_bytes(*stream) & 0x7fff_ffff;
                    break Frame { kind: *kind, flags: *flags, stream, payload: payload.to_vec() };
                }
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.read.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        };
        self.read.drain(..9 + frame.payload.len());
        Ok(Some(frame))
    }
}

/// A field without any index (RFC 7541, 6.2.2).
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let text = |text: &[u8]| [&[u8::try_from(text.len()).expect("below 127")], text].concat();
    assert!(name.len() < 127 && value.len() < 127, "longer ones need more than a byte");
    [vec![0], text(name), text(value)].concat()
}

/// The status at the start of a block: one of HPACK's own table, or digits in either of its spellings. Updates
/// of the table's size come before.
fn status(block: &[u8]) -> u16 {
    let at = block.iter().position(|byte| *byte & 0xe0 != 0x20);
    match at.map_or(&[][..], |at| &block[at..]) {
        [0x88, ..] => 200,
        [0x89, ..] => 204,
        [0x8b, ..] => 304,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        [0x48 | 0x08 | 0x18, length, text @ ..] if *length & 0x80 == 0 => {
            let digits = text.get(..usize::from(*length)).unwrap_or_default();
            String::from_utf8_lossy(digits).parse().unwrap_or(0)
        }
        [0x48 | 0x08 | 0x18, length, text @ ..] => {
            digits_of(text.get(..usize::from(*length & 0x7f)).unwrap_or_default())
        }
        _ => 0,
    }
}

/// Three digits of the Huffman code (RFC 7541, appendix B): 0 to 2 take five bits, the others six.
fn digits_of(text: &[u8]) -> u16 {
    let bits: Vec<bool> = text.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1 == 1)).collect();
    let number = |bits: &[bool]| bits.iter().fold(0_u16, |number, bit| number << 1 | u16::from(*bit));
    let (mut at, mut status) = (0, 0);
    for _digit in 0..3 {
        let Some(first) = bits.get(at..at + 5).map(number) else { return 0 };
        let (digit, length) =
            if first < 3 { (first, 5) } else { (bits.get(at..at + 6).map_or(0, number).wrapping_sub(22), 6) };
        if digit > 9 {
            return 0;
        }
        (at, status) = (at + length, status * 10 + digit);
    }
    status
}
