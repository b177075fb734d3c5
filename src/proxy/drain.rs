//! What a client still sends while its answer is on the way: read and thrown away, within bounds,
//! so that the connection can go on, or so that closing it does not eat the answer (a socket that
//! is closed with unread bytes resets).

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http_body::Body;
use http_body_util::BodyExt;

use super::upstream::{ClientBody, Source};
use crate::listen::Peer;

/// A body of at most this many bytes is read to its end, and the connection stays.
pub(super) const KEPT_BYTES_MAX: u64 = 64 * 1024;
/// Of a longer one this much is read before the connection closes: to a client that is still sending then, what comes
/// next is a reset, and many take that for the answer.
const CLOSED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A chunk of one byte is as much work as one of some hundred.
const FRAME_BYTES_MIN: usize = 256;
/// Others have their turn after so much.
const TURN_BYTES: usize = 128 * 1024;
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
        // Late or not, that was all that is read.
        let _late = tokio::time::timeout(DRAIN_FOR, read_over(body)).await;
    });
}

async fn read_over(body: impl Body<Data = Bytes>) {
    let mut body = pin!(body);
    let (mut left, mut turn) = (CLOSED_BYTES_MAX, 0);
    while let Some(Ok(frame)) = body.frame().await {
        let cost = frame.data_ref().map_or(0, Bytes::len).max(FRAME_BYTES_MIN);
        left = left.saturating_sub(cost);
        if left == 0 {
            return;
        }
        turn += cost;
        if turn >= TURN_BYTES {
            // What is in memory already takes no turn by itself.
            tokio::task::yield_now().await;
            turn = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;
    use tokio::task::yield_now;

    use super::*;

    /// Always has another piece of this size, and counts them.
    struct Crumbs<'c>(usize, &'c Cell<usize>);

    impl Body for Crumbs<'_> {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.1.set(self.1.get() + 1);
            Poll::Ready(Some(Ok(Frame::data(vec![b'x'; self.0].into()))))
        }
    }

    #[tokio::test]
    async fn others_have_their_turn_beside_what_is_thrown_away_and_it_is_not_read_without_end() {
        for (size, most, at_a_turn) in [(1, 65_536, 512), (256, 65_536, 512), (64 * 1024, 256, 2)] {
            let (pieces, mut longest) = (Cell::new(0), 0);
            let read = read_over(Crumbs(size, &pieces));
            let other = async {
                let mut seen = 0;
                while pieces.get() < most {
                    longest = longest.max(pieces.get() - seen);
                    seen = pieces.get();
                    yield_now().await;
                }
            };
            tokio::join!(read, other);
            assert_eq!(pieces.get(), most, "{size}");
            // Whose turn comes first changes from one to the next.
            assert!(longest <= 2 * at_a_turn, "{size}: {longest}");
        }
    }
}
