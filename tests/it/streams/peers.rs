//! Both ends of many streams at once: a service that keeps them open, and the callers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use keyward::clock::{Clock, SystemClock};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::frames::Frame;

pub(super) const BEAT: Duration = Duration::from_millis(100);

pub(super) fn now() -> Instant {
    SystemClock::default().monotonic()
}

pub(super) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// What a service saw of its connections.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) begun: AtomicUsize,
    pub(super) ended: AtomicUsize,
    /// Uploads that came to their proper end.
    pub(super) whole: AtomicUsize,
    pub(super) heads: Mutex<Vec<String>>,
}

/// A service that answers `/ws…` with a WebSocket and `/events…` with events, each with something
/// every [`BEAT`], and takes `/upload…` without ever answering. A WebSocket `/ws-echo` sends back
/// what it gets; one below `/ws-half` says half of a frame and no more.
pub(super) struct Service {
    address: SocketAddr,
    pub(super) seen: Arc<Seen>,
}

impl Service {
    pub(super) fn start(runtime: &Runtime) -> Self {
        let seen = Arc::new(Seen::default());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::clone(&seen);
        runtime.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&shared);
                connections.spawn(async move {
                    // The gateway may end a connection at any time.
                    let _ended = serve(stream, &seen).await;
                    seen.ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, seen }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn begun(&self) -> usize {
        self.seen.begun.load(Ordering::SeqCst)
    }

    pub(super) fn ended(&self) -> usize {
        self.seen.ended.load(Ordering::SeqCst)
    }
}

const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: chat\r\n\r\n";

async fn serve(mut stream: TcpStream, seen: &Seen) -> std::io::Result<()> {
    let (head, early) = read_head(&mut stream).await?;
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    seen.heads.lock().unwrap_or_else(PoisonError::into_inner).push(head);
    seen.begun.fetch_add(1, Ordering::SeqCst);
    if path.contains("/upload") {
        let mut last = early;
        loop {
            let mut chunk = [0; 4096];
            let count = stream.read(&mut chunk).await?;
            if count == 0 {
                break;
            }
            last.extend_from_slice(&chunk[..count]);
            last.drain(..last.len().saturating_sub(5));
        }
        if last == b"0\r\n\r\n" {
            seen.whole.fetch_add(1, Ordering::SeqCst);
        }
        return Ok(());
    }
    if path.contains("/ws-echo") {
        assert!(early.is_empty(), "bytes came before the upgrade was agreed to");
        stream.write_all(AGREED.as_bytes()).await?;
        return echo(stream).await;
    }
    let beat: Vec<u8> = if path.contains("/ws") {
        stream.write_all(AGREED.as_bytes()).await?;
        if path.contains("/ws-half") {
            stream.write_all(&Frame::text(&"x".repeat(300)).to_bytes(None)[..100]).await?;
            let _ended = stream.read(&mut [0; 16]).await?;
            return Ok(());
        }
        // Longer than a segment, so that a cut may come in its middle.
        Frame::text(&"x".repeat(3000)).to_bytes(None)
    } else {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        b"9\r\ndata: x\n\n\r\n".to_vec()
    };
    let mut sink = [0; 1024];
    loop {
        stream.write_all(&beat).await?;
        if let Ok(read) = tokio::time::timeout(BEAT, stream.read(&mut sink)).await
            && read? == 0
        {
            return Ok(());
        }
    }
}

/// Sends frames back until it is told to close, or the other side has ended; then says a last word.
async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            stream.write_all(&Frame::text("goodbye").to_bytes(None)).await?;
            return stream.shutdown().await;
        }
        bytes.extend_from_slice(&chunk[..count]);
        while let Some((frame, length)) = Frame::first(&bytes) {
            bytes.drain(..length);
            stream.write_all(&frame.to_bytes(None)).await?;
        }
    }
}

/// Reads up to the end of a head; the head, and what came after it.
pub(super) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..count]);
    }
}

/// What kind of stream a caller opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Socket,
    Events,
    Upload,
}

/// What a caller saw in the end.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) kind: Kind,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    pub(super) at: Instant,
}

/// The head of a handshake.
pub(super) fn handshake(path: &str, token: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: chat\r\n\r\n"
    )
}

/// Opens a stream and stays until it is over.
/// `open` counts the answers that have begun, which an upload's does only at its end.
pub(super) async fn stay(gateway: SocketAddr, token: String, kind: Kind, open: Arc<AtomicUsize>) -> Outcome {
    let mut stream = TcpStream::connect(gateway).await.expect("the gateway accepts connections");
    let head = match kind {
        Kind::Socket => handshake("/s/ws", &token),
        Kind::Events => format!("GET /s/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"),
        Kind::Upload => format!(
            "POST /s/upload HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
             transfer-encoding: chunked\r\n\r\n"
        ),
    };
    stream.write_all(head.as_bytes()).await.expect("a request");
    if kind == Kind::Upload {
        let (mut reader, mut writer) = stream.split();
        let answered = async {
            let answer = read_head(&mut reader).await;
            (answer, now())
        };
        let (answer, at) = tokio::select! {
            answered = answered => answered,
            never = upload(&mut writer) => never,
        };
        let (head, body) = answer.unwrap_or_default();
        return Outcome { kind, head, body, at };
    }
    let (head, mut body) = read_head(&mut stream).await.unwrap_or_default();
    open.fetch_add(1, Ordering::SeqCst);
    let mut chunk = [0; 8192];
    while let Ok(count) = stream.read(&mut chunk).await {
        if count == 0 {
            break;
        }
        body.extend_from_slice(&chunk[..count]);
    }
    Outcome { kind, head, body, at: now() }
}

/// Sends a chunk every beat for as long as anybody takes it, and then waits for ever.
async fn upload<T>(writer: &mut (impl AsyncWrite + Unpin)) -> T {
    while writer.write_all(b"5\r\nhello\r\n").await.is_ok() {
        tokio::time::sleep(BEAT).await;
    }
    std::future::pending().await
}
