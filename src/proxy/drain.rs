//! What a client still sends while its answer is on the way: read and thrown away, within bounds,
//! so that the connection can go on, or so that closing it does not eat the answer (a socket that
//! is closed with unread bytes resets).

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::Version;
use http_body::Body;
use http_body_util::BodyExt;

use super::upstream::{ClientBody, Source};
use crate::listen::Peer;

/// A body of at most this many bytes is read to its end, and the connection stays.
pub(super) const KEPT_BYTES_MAX: u64 = 64 * 1024;
/// Of a longer one this much is read before the connection closes: to a client that is still sending then, what comes
/// next is a reset, and many take that for the answer.
const CLOSED_BYTES_MAX: u64 = 16 * 1024 * 1024;
const DRAIN_FOR: Duration = Duration::from_secs(5);

/// The rest of a request's body that nobody reads any more.
#[derive(Debug)]
pub(super) struct Unread {
    source: Option<Rc<Source>>,
    peer: Rc<Peer>,
    version: Version,
}

impl Unread {
    /// The rest of what `source` sends; none for no body.
    pub(super) const fn new(source: Option<Rc<Source>>, peer: Rc<Peer>, version: Version) -> Self {
        Self { source, peer, version }
    }

    /// Takes the rest and reads it to its end, within bounds, beside whatever else goes on. On HTTP/2
    /// the stream is reset instead, which costs nobody its answer.
    pub(super) fn drain(&mut self) {
        if let Some(body) = self.take().filter(|_| self.version != Version::HTTP_2) {
            drain(&self.peer, body);
        }
    }

    /// The same, for somebody else to look after.
    pub(super) fn let_go(&mut self) -> Self {
        Self { source: self.source.take(), peer: Rc::clone(&self.peer), version: self.version }
    }

    /// Where it comes from, while somebody may still read it.
    pub(super) fn source(&self) -> Option<Rc<Source>> {
        self.source.clone()
    }

    /// What is left, unless all was read.
    pub(super) fn take(&mut self) -> Option<ClientBody> {
        self.source.take().and_then(|source| source.take()).filter(|body| !body.is_end_stream())
    }
}

/// Reads `body` to its end, within bounds.
pub(super) fn drain(peer: &Peer, body: ClientBody) {
    peer.spawn(async move {
        let read = async {
            let mut body = pin!(body);
            let mut left = CLOSED_BYTES_MAX;
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, bytes::Bytes::len);
                left = left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
                if left == 0 {
                    return;
                }
            }
        };
        // Late or not, that was all that is read.
        let _late = tokio::time::timeout(DRAIN_FOR, read).await;
    });
}
