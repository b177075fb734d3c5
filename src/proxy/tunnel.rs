//! A WebSocket once both sides have agreed to it: bytes both ways until both sides have ended,
//! nothing has moved for too long, or what let it through no longer does.
//!
//! Bytes pass as they are. Only the frames towards the client are followed, so that one that is cut
//! can be told so where a frame ends.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Response;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::account::Account;
use super::frames::{Frames, close_frame};
use super::idle::Idle;
use super::streams::OpenStream;
use super::upstream::{AnyBody, AnyLink, Connector, Lease, Link};
use crate::listen::{ClientUpgrade, Peer};
use crate::policy::{Code, Denial};

/// What is read ahead of the other side, each way.
const BUFFER_BYTES: usize = 8 * 1024;
/// How long the frame that has begun may take to end once the tunnel is cut.
const FRAME_PATIENCE: Duration = Duration::from_millis(500);
/// How long the client may take to close once it was told to, and how much it may still send.
const CLOSE_PATIENCE: Duration = Duration::from_millis(250);
const CLOSE_BYTES_MAX: usize = 256 * 1024;
/// RFC 6455, 7.4.1.
const GOING_AWAY: u16 = 1001;
const POLICY_VIOLATION: u16 = 1008;

/// The two ends of a WebSocket.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// The client, once its 101 was written.
    pub(super) client: ClientUpgrade,
    /// The upstream's 101.
    pub(super) response: Response<AnyBody>,
    /// The upstream's connection, closed with the tunnel.
    pub(super) lease: Lease<Connector>,
    /// By what it is watched over.
    pub(super) open: Option<Rc<OpenStream>>,
    /// How long it may go without a byte either way.
    pub(super) idle: Duration,
}

/// Why a tunnel ended.
#[derive(Debug)]
enum End {
    /// Both sides ended, or one of them broke off, which concerns only the other.
    Sides,
    /// Nothing moved for too long.
    Idle,
    /// What let it through no longer does.
    Cut(Denial),
    /// The listener drains, and it had its time.
    Overdue,
}

impl Tunnel {
    /// Runs beside the worker's requests, and settles the account at the end.
    pub(super) fn run(self, peer: &Peer, account: Box<Account>) {
        let overdue = peer.overdue();
        peer.spawn(async move {
            let mut account = account;
            match self.carry(&mut account, overdue).await {
                End::Sides | End::Overdue => {}
                End::Idle => account.broke_off(Code::UpstreamTimeout),
                End::Cut(denial) => account.cut(denial),
            }
        });
    }

    async fn carry(self, account: &mut Account, overdue: impl Future<Output = ()>) -> End {
        let Self { client, response, lease, open, idle } = self;
        let cut = async {
            match &open {
                Some(open) => open.until_cut().await,
                None => pending().await,
            }
        };
        let mut sides = pin!(async { tokio::join!(client, AnyLink::tunnel(response)) });
        let sides = tokio::select! {
            biased;
            sides = &mut sides => sides,
            // One that is cut before it has quite begun is told so too.
            denial = cut => match tokio::time::timeout(FRAME_PATIENCE, &mut sides).await {
                Ok(sides) => sides,
                Err(_late) => return End::Cut(denial),
            },
        };
        let (Ok(client), Ok(upstream)) = sides else { return End::Sides };
        let mut flow = Flow::new(client, upstream);
        let end = flow.run(open.as_deref(), Idle::new(idle), overdue).await;
        match &end {
            End::Sides => {}
            End::Idle => flow.part(GOING_AWAY, "idle").await,
            End::Overdue => flow.part(GOING_AWAY, "the server stops").await,
            End::Cut(denial) => flow.part(POLICY_VIOLATION, denial.code.as_str()).await,
        }
        account.sent = flow.down.moved;
        if let Some(received) = &account.received {
            received.add(flow.up.moved);
        }
        drop(lease);
        end
    }
}

/// Two connections and what is on its way between them.
#[derive(Debug)]
struct Flow<C, U> {
    client: C,
    upstream: U,
    up: Way,
    down: Way,
    frames: Frames,
}

/// One direction.
#[derive(Debug)]
struct Way {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    ended: bool,
    unflushed: bool,
    shut: bool,
    moved: u64,
}

impl<C, U> Flow<C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    fn new(client: C, upstream: U) -> Self {
        Self { client, upstream, up: Way::new(), down: Way::new(), frames: Frames::default() }
    }

    async fn run(&mut self, open: Option<&OpenStream>, mut idle: Idle, overdue: impl Future<Output = ()>) -> End {
        let mut overdue = pin!(overdue);
        poll_fn(|cx| {
            if let Some(denial) = open.and_then(|open| open.poll_cut(cx)) {
                return Poll::Ready(End::Cut(denial));
            }
            let Self { client, upstream, up, down, frames } = self;
            let before = up.moved + down.moved;
            let up_done = up.poll(cx, client, upstream, |_bytes| {});
            let down_done = down.poll(cx, upstream, client, |bytes| frames.pass(bytes));
            if up.moved + down.moved > before {
                idle.progressed();
            }
            match (up_done, down_done) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(End::Sides),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Sides),
                _ if overdue.as_mut().poll(cx).is_ready() => Poll::Ready(End::Overdue),
                _ => idle.poll(cx).map(|()| End::Idle),
            }
        })
        .await
    }

    /// Ends the frame that has begun towards the client, says goodbye and waits for a moment for the
    /// client to hear it. What cannot be done in time is not done: the connection just ends.
    async fn part(&mut self, status: u16, why: &str) {
        if self.down.shut {
            return;
        }
        let told = tokio::time::timeout(FRAME_PATIENCE, self.say_goodbye(status, why)).await;
        if let Ok(Ok(())) = told {
            // A socket that is closed with unread bytes resets, and that may eat the goodbye.
            let _heard = tokio::time::timeout(CLOSE_PATIENCE, self.read_out()).await;
        }
    }

    async fn say_goodbye(&mut self, status: u16, why: &str) -> io::Result<()> {
        let Self { client, upstream, down, frames, .. } = self;
        while !frames.is_between() {
            if down.pending().is_empty() {
                let count = upstream.read(&mut down.buffer).await?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                (down.start, down.end) = (0, count);
            }
            let count = frames.rest_of_frame(down.pending());
            let rest = down.pending().get(..count).unwrap_or_default();
            client.write_all(rest).await?;
            frames.pass(rest);
            down.start += count;
            down.moved += u64::try_from(count).unwrap_or(u64::MAX);
        }
        if !frames.is_closed() {
            client.write_all(&close_frame(status, why)).await?;
        }
        client.shutdown().await
    }

    async fn read_out(&mut self) {
        let mut left = CLOSE_BYTES_MAX;
        while let Ok(count) = self.client.read(&mut self.up.buffer).await {
            left = left.saturating_sub(count);
            if count == 0 || left == 0 {
                return;
            }
        }
    }
}

impl Way {
    fn new() -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Self { buffer, start: 0, end: 0, ended: false, unflushed: false, shut: false, moved: 0 }
    }

    /// What was read and not yet written.
    fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Moves what there is. Ready once the reader has ended and the writer was told so.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        mut written: impl FnMut(&[u8]),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.shut {
            if self.start < self.end {
                let count = ready!(Pin::new(&mut *writer).poll_write(cx, self.pending()))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                written(self.pending().get(..count).unwrap_or_default());
                self.start += count;
                self.moved += u64::try_from(count).unwrap_or(u64::MAX);
                self.unflushed = true;
            } else if self.ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                self.shut = true;
            } else {
                let mut buffer = ReadBuf::new(&mut self.buffer);
                match Pin::new(&mut *reader).poll_read(cx, &mut buffer) {
                    Poll::Ready(read) => {
                        read?;
                        (self.start, self.end) = (0, buffer.filled().len());
                        self.ended = self.end == 0;
                    }
                    Poll::Pending => {
                        if self.unflushed {
                            ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
