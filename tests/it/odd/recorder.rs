//! A service that keeps every byte that reaches it, and judges it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::strict::{self, Request};
use crate::harness::Key;

/// The service. It ends when this is dropped.
pub(super) struct Recorder {
    address: SocketAddr,
    kept: Arc<Kept>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Kept {
    stopped: AtomicBool,
    arrived: AtomicUsize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// What each identity field must say, where it stands.
    identity: HashMap<String, String>,
    requests: Vec<Request>,
    faults: Vec<String>,
}

/// The last few are kept for who asks.
const REQUESTS_KEPT: usize = 64;

impl Recorder {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let kept = Arc::new(Kept::default());
        let shared = Arc::clone(&kept);
        let accepting = std::thread::Builder::new()
            .name("recorder".into())
            .spawn(move || {
                for stream in listener.incoming() {
                    if shared.stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    let (stream, kept) = (stream.expect("an accepted connection"), Arc::clone(&shared));
                    std::thread::spawn(move || kept.serve(stream));
                }
            })
            .expect("a thread");
        Self { address, kept, accepting: Some(accepting) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whose identity the gateway may tell.
    pub(super) fn expect_key(&self, key: &Key) {
        let identity = [
            ("keyward-key-id", key.id.as_str()),
            ("keyward-project", "acme"),
            ("keyward-environment", "live"),
            ("keyward-flags", "keyring.comms.read"),
            ("keyward-key-status", "active"),
        ];
        self.kept.seen().identity = identity.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    }

    /// How many requests have arrived whole.
    pub(super) fn count(&self) -> usize {
        self.kept.arrived.load(Ordering::SeqCst)
    }

    /// What arrived since the last call.
    pub(super) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.kept.seen().requests)
    }

    /// What was wrong with what arrived since the last call.
    pub(super) fn faults(&self) -> Vec<String> {
        std::mem::take(&mut self.kept.seen().faults)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.kept.stopped.store(true, Ordering::SeqCst);
        // Wakes the loop, so that it sees that it is over.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            let _ended = accepting.join();
        }
    }
}

impl Kept {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads requests to the end of the connection. One that is cut short is none.
    fn serve(&self, mut stream: TcpStream) {
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket");
        let (mut bytes, mut chunk) = (Vec::new(), [0; 16 * 1024]);
        loop {
            match strict::read(&bytes) {
                Err(fault) => {
                    self.seen().faults.push(format!("{fault} in {:?}", String::from_utf8_lossy(&bytes)));
                    return;
                }
                Ok(None) => match stream.read(&mut chunk) {
                    Ok(0) | Err(_) => return,
                    Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                },
                Ok(Some((request, length))) => {
                    bytes.drain(..length);
                    self.arrive(request, &bytes);
                    bytes.clear();
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn arrive(&self, request: Request, after: &[u8]) {
        let mut seen = self.seen();
        let judged = if after.is_empty() {
            judge(&request, &seen.identity)
        } else {
            Err(format!("{:?} after its end", String::from_utf8_lossy(after)))
        };
        if let Err(fault) = judged {
            seen.faults.push(format!("{fault} in {request:?}"));
        }
        if seen.requests.len() == REQUESTS_KEPT {
            seen.requests.remove(0);
        }
        seen.requests.push(request);
        self.arrived.fetch_add(1, Ordering::SeqCst);
    }
}

/// Whether a request that is well formed is one that may be here.
fn judge(request: &Request, identity: &HashMap<String, String>) -> Result<(), String> {
    let path = request.target.split('?').next().unwrap_or_default();
    let (route, path) = path.strip_prefix("/r-").and_then(|rest| rest.split_once('/')).ok_or("no route's prefix")?;
    let space = match route {
        "public" => "public",
        "any" => "any",
        "ring" => "keyrings",
        "field" => "field",
        "lax" => "lax",
        other => return Err(format!("{other} is no route of this key")),
    };
    for resolved in resolutions(path, route == "lax") {
        let mut segments = resolved.split('/');
        if segments.next() != Some(space) || segments.next() == Some("admin") {
            return Err(format!("a path that {route} does not allow: {resolved:?}"));
        }
    }
    for (name, value) in request.fields.iter().chain(&request.trailers) {
        let folded: String =
            name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
        if folded.starts_with("keyward-") || folded.starts_with("x-keyward-") {
            let is_keyed = !matches!(route, "public" | "lax");
            if !is_keyed || identity.get(name) != Some(value) {
                return Err(format!("identity forged by {name}: {value}"));
            }
        }
        let is_ours = match folded.as_str() {
            "x-forwarded-for" => value == "127.0.0.1",
            "x-forwarded-proto" => value == "http",
            "x-forwarded-host" => request.all("host").contains(&value.as_str()) || request.all("host").len() != 1,
            "x-request-id" => value.len() == 32,
            "traceparent" => value.len() == 55,
            "content-length" | "content-type" | "content-encoding" => true,
            "te" => value == "trailers",
            "transfer-encoding" => value == "chunked",
            "connection"
            | "keep-alive"
            | "upgrade"
            | "expect"
            | "proxy"
            | "proxy-connection"
            | "http2-settings"
            | "proxy-authorization"
            | "forwarded"
            | "x-real-ip"
            | "x-forwarded"
            | "x-original-url"
            | "x-rewrite-url"
            | "x-http-method-override"
            | "x-http-method"
            | "x-method-override"
            | "x-original-method" => false,
            other => {
                if other.starts_with("x-forwarded-") {
                    return Err(format!("{name} from a stranger"));
                }
                continue;
            }
        };
        if !is_ours || folded != *name {
            return Err(format!("{name}: {value}"));
        }
    }
    for single in ["x-forwarded-for", "x-forwarded-proto", "x-request-id", "traceparent", "te"] {
        request.one(single)?;
    }
    if !request.trailers.is_empty() && !request.all("content-type").iter().any(|kind| kind.contains("grpc")) {
        return Err("trailers".to_owned());
    }
    if let Some((name, _)) = request
        .trailers
        .iter()
        .find(|(name, _)| ["authorization", "host", "content-length", "cookie"].contains(&name.as_str()))
    {
        return Err(format!("the trailer {name}"));
    }
    if !matches!(route, "public" | "lax") {
        for credential in ["authorization", "x-api-key"] {
            let own = if route == "field" { "x-api-key" } else { "authorization" };
            let bearer = request.all(credential).iter().any(|value| value.to_ascii_lowercase().starts_with("bearer"));
            if credential == own && (credential == "x-api-key" && request.one(credential)?.is_some() || bearer) {
                return Err("the credential".to_owned());
            }
        }
    }
    Ok(())
}

/// The path as several servers come to understand it. One that a route lets through in odd forms says
/// that its service takes them as they are.
fn resolutions(path: &str, lax: bool) -> Vec<String> {
    let mut all = vec![resolve(path)];
    if !lax {
        let once = decode(path);
        all.push(resolve(&once));
        all.push(resolve(&decode(&once)));
        all.push(resolve(&once.replace('\\', "/")));
        let bare: Vec<_> = once.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
        all.push(resolve(&bare.join("/")));
        all.push(resolve(once.split(['\0', '#', '?']).next().unwrap_or_default()));
    }
    all
}

/// Without empty segments, dots followed.
pub(super) fn resolve(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    segments.join("/")
}

/// Every escape decoded once.
pub(super) fn decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
