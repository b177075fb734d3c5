//! Bodies for both sides: nothing, a text, or so many bytes made as they are asked for.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

/// A body that is never in memory as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stream {
    text: Bytes,
    zeros: u64,
    chunked: bool,
}

impl Stream {
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    pub(crate) fn zeros(bytes: u64) -> Self {
        Self { zeros: bytes, ..Self::default() }
    }

    /// Of a length that is not told beforehand.
    pub(crate) fn chunked(self) -> Self {
        Self { chunked: true, ..self }
    }
}

const CHUNK: &[u8; 64 * 1024] = &[0; 64 * 1024];

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.text.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.text)))));
        }
        if self.zeros > 0 {
            let length = usize::try_from(self.zeros).map_or(CHUNK.len(), |left| left.min(CHUNK.len()));
            self.zeros -= length as u64;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK[..length])))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_empty() && self.zeros == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.chunked {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.text.len() as u64 + self.zeros)
    }
}

/// What came of a body: its whole length, the beginning of its content, and whether it came whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Received {
    pub(crate) bytes: u64,
    pub(crate) beginning: Vec<u8>,
    /// Why it ended early, where it did.
    pub(crate) broken: Option<String>,
}

/// Reads `body` to its end and keeps at most its first 64 KiB.
pub(crate) async fn receive(mut body: hyper::body::Incoming) -> Received {
    let mut received = Received::default();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                received.bytes += data.len() as u64;
                let room = CHUNK.len().saturating_sub(received.beginning.len()).min(data.len());
                received.beginning.extend_from_slice(&data[..room]);
            }
            Ok(Err(_trailers)) => {}
            Err(fault) => {
                received.broken = Some(fault.to_string());
                break;
            }
        }
    }
    received
}
