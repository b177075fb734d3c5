//! The first bytes of a connection or of a request, kept in as little memory as they take.
//!
//! A parser's buffers are made once there is something to parse: who sends half a head and waits holds
//! half a head here, and no more.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use super::http1::EMPTY_BYTES_MAX;

/// What has come so far.
#[derive(Default)]
pub(super) struct Beginning {
    bytes: Vec<u8>,
    /// Bytes of empty lines that were passed over.
    skipped: usize,
}

impl Beginning {
    /// Goes on from what was read before.
    pub(super) fn of(read: Bytes) -> Self {
        Self { bytes: read.into(), skipped: 0 }
    }

    /// Reads what there is; 0 where the other side has ended.
    ///
    /// # Errors
    /// When the connection broke.
    pub(super) fn poll_read<S>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>>
    where
        S: AsyncRead + Unpin,
    {
        // On the stack of this call alone: what waits holds none of it.
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut space = ReadBuf::uninit(&mut space);
        ready!(Pin::new(io).poll_read(cx, &mut space))?;
        let read = space.filled();
        self.bytes.reserve_exact(read.len());
        self.bytes.extend_from_slice(read);
        Poll::Ready(Ok(read.len()))
    }

    /// Whether this is the preface of HTTP/2, or none where it may still become one.
    pub(super) fn is_http2(&self) -> Option<bool> {
        if self.bytes.starts_with(PREFACE) {
            return Some(true);
        }
        (!PREFACE.starts_with(&self.bytes)).then_some(false)
    }

    /// Passes over empty lines, if they are all there is and not too many: more are the parser's business. Whether
    /// there were any.
    pub(super) fn skip_empty_lines(&mut self) -> bool {
        let is_empty = self.skipped <= EMPTY_BYTES_MAX
            && self.bytes.ends_with(b"\n")
            && self.bytes.split_inclusive(|&byte| byte == b'\n').all(|line| matches!(line, b"\n" | b"\r\n"));
        if is_empty {
            self.skipped += self.bytes.len();
            self.bytes = Vec::new();
        }
        is_empty
    }

    /// Whether a parser of HTTP/1 has something to say of it: the head is whole, or is none, or is so long that
    /// nothing is saved by keeping it here.
    pub(super) fn is_for_parser(&self) -> bool {
        if self.bytes.ends_with(b"\r\n\r\n") {
            return true;
        }
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut head = httparse::Request::new(&mut fields);
        self.bytes.len() >= READ_BYTES || !matches!(head.parse(&self.bytes), Ok(httparse::Status::Partial))
    }

    /// The bytes.
    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes.into()
    }
}

/// RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Most heads are shorter.
const READ_BYTES: usize = 4096;
/// With more of them it is the parser's business.
const FIELDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn beginning(read: &[u8]) -> Beginning {
        Beginning::of(Bytes::copy_from_slice(read))
    }

    #[test]
    fn a_preface_is_told_from_http1_at_the_first_byte_that_differs() {
        for length in 0..PREFACE.len() {
            assert_eq!(beginning(&PREFACE[..length]).is_http2(), None, "{length}");
        }
        assert_eq!(beginning(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0").is_http2(), Some(true));
        assert_eq!(beginning(b"PO").is_http2(), Some(false));
        assert_eq!(beginning(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\0").is_http2(), Some(false));
    }

    #[test]
    fn empty_lines_are_passed_over_where_they_are_all() {
        for (read, left) in
            [("", ""), ("\r\n", ""), ("\n\r\n\n", ""), ("\r", "\r"), ("\r\r\n", "\r\r\n"), ("\r\nG", "\r\nG")]
        {
            let mut beginning = beginning(read.as_bytes());
            assert_eq!(beginning.skip_empty_lines(), read != left, "{read:?}");
            assert_eq!(beginning.into_bytes(), left, "{read:?}");
        }
    }

    #[test]
    fn a_head_waits_here_until_it_is_whole_or_can_be_none() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
        for length in 0..head.len() {
            assert!(!beginning(&head[..length]).is_for_parser(), "{length}");
        }
        for done in [&head[..], b"GET / HTTP/1.1\r\n\r\nbody", b"GET / HTTP/1.1\n\n", b"\0", b"GET /\0", b"G(T"] {
            assert!(beginning(done).is_for_parser(), "{done:?}");
        }
        assert!(beginning(&[b'a'; READ_BYTES]).is_for_parser());
        assert!(!beginning(&[b'a'; READ_BYTES - 1]).is_for_parser());
    }
}
