//! The clients: each connection has at most one request under way.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup, SignatureScheme};

use crate::backend::{end_of_head, length};
use crate::options::Options;
use crate::tally::Latencies;
use crate::{CLIENT, Outcome};

pub struct Clients<'o> {
    options: &'o Options,
    all: Vec<Client>,
    heads: Vec<Vec<u8>>,
    next_head: usize,
    body: Vec<u8>,
    buffer: Vec<u8>,
    plain: Vec<u8>,
    tls: Option<Arc<ClientConfig>>,
    /// Connections that have nothing to do, and requests that are due and have no connection.
    free: VecDeque<usize>,
    due: VecDeque<Instant>,
    next_due: Option<Instant>,
    warm: usize,
    measuring: bool,
    pub answered: u64,
    pub wrong: u64,
    pub broken: u64,
    pub resumed: u64,
    pub latencies: Latencies,
}

struct Client {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    ready: bool,
    warm: bool,
    busy: bool,
    since: Instant,
    /// Which head is sent, and how much of it and the body after it has left.
    head: usize,
    sent: usize,
    answer: Answer,
}

/// What has come of an answer.
#[derive(Default)]
struct Answer {
    /// The beginning of a head whose end has not come.
    begun: Vec<u8>,
    status: u16,
    missing: usize,
    is_in_body: bool,
}

struct Socket(OwnedFd);

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, into)?)
    }
}

impl Write for Socket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.0, from)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'o> Clients<'o> {
    pub fn new(options: &'o Options, poll: &OwnedFd) -> Outcome<Self> {
        let (method, length) = if options.upload > 0 {
            ("POST", format!("Content-Length: {}\r\n", options.upload))
        } else {
            ("GET", String::new())
        };
        let more = match options {
            Options { close: true, .. } => "Connection: close\r\n",
            Options { websocket: true, .. } => WEBSOCKET,
            _ => "",
        };
        let head = |key: &String| {
            format!(
                "{method} /s{} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load/1\r\nAccept: */*\r\n\
                 Authorization: Bearer {key}\r\n{length}{more}\r\n",
                options.body
            )
            .into_bytes()
        };
        let mut clients = Self {
            options,
            all: Vec::new(),
            heads: options.keys.iter().map(head).collect(),
            next_head: 0,
            body: vec![b'u'; options.upload],
            buffer: vec![0; 256 * 1024],
            plain: Vec::with_capacity(256 * 1024),
            tls: options.tls.then(|| tls(options.resume)).transpose()?,
            free: VecDeque::new(),
            due: VecDeque::new(),
            next_due: None,
            warm: 0,
            measuring: false,
            answered: 0,
            wrong: 0,
            broken: 0,
            resumed: 0,
            latencies: Latencies::default(),
        };
        if options.target.is_some() {
            for _ in 0..options.connections.min(CONNECTING_MAX) {
                clients.connect_one_more(poll)?;
            }
        }
        Ok(clients)
    }

    /// Whether each connection was answered once.
    pub fn is_warm(&self) -> bool {
        self.options.target.is_none() || self.warm >= self.options.connections
    }

    pub fn connections(&self) -> usize {
        self.all.len()
    }

    /// What is counted is counted from now on.
    pub fn begin(&mut self) {
        (self.answered, self.wrong, self.broken, self.resumed) = (0, 0, 0, 0);
        self.latencies = Latencies::default();
        self.measuring = true;
        self.next_due = Some(Instant::now());
    }

    fn new_client(&self, at: usize, poll: &OwnedFd) -> Outcome<Client> {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        if self.options.close {
            // A reset in place of a FIN: tens of thousands of ports would wait for two minutes each.
            sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        }
        match connect(&socket, &self.options.target.ok_or("no target")?) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(poll, &socket, EventData::new_u64(CLIENT | at as u64), events)?;
        let tls = match &self.tls {
            Some(config) => {
                Some(Box::new(ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost")?)?))
            }
            None => None,
        };
        let (head, sent, answer) = (0, 0, Answer::default());
        let (ready, warm, busy) = (false, false, false);
        Ok(Client { socket: Socket(socket), tls, ready, warm, busy, since: Instant::now(), head, sent, answer })
    }

    fn connect_one_more(&mut self, poll: &OwnedFd) -> Outcome<()> {
        let client = self.new_client(self.all.len(), poll)?;
        self.all.push(client);
        Ok(())
    }

    /// Begins the requests whose time has come.
    pub fn send_what_is_due(&mut self, now: Instant) -> Outcome<()> {
        let (Some(rate), Some(mut next)) = (self.options.rate, self.next_due) else { return Ok(()) };
        while next <= now {
            self.due.push_back(next);
            next += Duration::from_secs_f64(1.0 / rate);
        }
        self.next_due = Some(next);
        while let Some(since) = self.due.front().copied().filter(|_| !self.free.is_empty()) {
            self.due.pop_front();
            if let Some(at) = self.free.pop_front() {
                self.send(at, since);
            }
        }
        Ok(())
    }

    fn send(&mut self, at: usize, since: Instant) {
        self.next_head = (self.next_head + 1) % self.heads.len();
        let client = &mut self.all[at];
        (client.since, client.busy, client.head, client.sent) = (since, true, self.next_head, 0);
        client.push(&self.heads[self.next_head], &self.body);
    }

    pub fn on_event(&mut self, at: usize, flags: EventFlags, poll: &OwnedFd) -> Outcome<()> {
        let mut open = true;
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            open = self.read(at);
        }
        if !open {
            if self.all[at].busy {
                self.broken += 1;
            }
            let warm = self.all[at].warm;
            self.all[at] = self.new_client(at, poll)?;
            self.all[at].warm = warm;
            return Ok(());
        }
        let client = &mut self.all[at];
        if client.busy {
            client.push(&self.heads[client.head], &self.body);
        } else {
            client.flush();
        }
        let shaken = client.tls.as_ref().is_none_or(|tls| !tls.is_handshaking());
        if !client.ready && flags.contains(EventFlags::OUT) | client.tls.is_some() && shaken {
            client.ready = true;
            self.send(at, Instant::now());
            if self.all.len() < self.options.connections {
                self.connect_one_more(poll)?;
            }
        }
        Ok(())
    }

    /// Reads what there is. Whether the connection goes on.
    fn read(&mut self, at: usize) -> bool {
        loop {
            let client = &mut self.all[at];
            let count = match client.socket.read(&mut self.buffer) {
                Ok(0) => return false,
                Ok(count) => count,
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            };
            let mut read = &self.buffer[..count];
            if let Some(tls) = &mut client.tls {
                if decrypt(tls, read, &mut self.plain).is_err() {
                    return false;
                }
                read = &self.plain;
            }
            if !read.is_empty() && client.answer.take(read) {
                let resumed =
                    client.tls.as_ref().is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed));
                let (status, since) = (client.answer.status, client.since);
                client.answer = Answer { begun: std::mem::take(&mut client.answer.begun), ..Answer::default() };
                client.busy = false;
                if !client.warm {
                    client.warm = true;
                    self.warm += 1;
                }
                self.answered += 1;
                self.resumed += u64::from(resumed);
                let wanted = self.options.status;
                self.wrong += u64::from(status != wanted && status / 100 != wanted);
                self.latencies.add(since.elapsed());
                if self.options.close {
                    return false;
                }
                self.go_on(at);
            }
            if count < self.buffer.len() {
                return true;
            }
        }
    }

    /// The next request on a connection whose last one was answered.
    fn go_on(&mut self, at: usize) {
        if self.options.idle {
            return;
        }
        if self.options.rate.is_none() || !self.measuring && self.warm < self.options.connections {
            self.send(at, Instant::now());
        } else if let Some(since) = self.due.pop_front() {
            self.send(at, since);
        } else {
            self.free.push_back(at);
        }
    }
}

impl Client {
    /// Sends what is left of a request, as far as the socket takes it.
    fn push(&mut self, head: &[u8], body: &[u8]) {
        loop {
            let rest = match head.get(self.sent..) {
                Some(rest) if !rest.is_empty() => rest,
                _ => &body[(self.sent - head.len()).min(body.len())..],
            };
            let taken = match &mut self.tls {
                _ if rest.is_empty() => break,
                Some(tls) => tls.writer().write(rest).unwrap_or(0),
                None => self.socket.write(rest).unwrap_or(0),
            };
            self.sent += taken;
            if self.tls.is_some() {
                // What rustls took may wait in its buffer until the socket takes it.
                if !self.flush() || taken == 0 {
                    break;
                }
            } else if taken < rest.len() {
                break;
            }
        }
        self.flush();
    }

    /// Whether everything left.
    fn flush(&mut self) -> bool {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                if tls.write_tls(&mut self.socket).is_err() {
                    return false;
                }
            }
        }
        true
    }
}

/// What is in the records that were read. Not with rustls reading the socket by itself: it takes 4 KiB at a
/// time, and reads once more to see that there is nothing.
fn decrypt(tls: &mut ClientConnection, records: &[u8], plain: &mut Vec<u8>) -> Outcome<()> {
    plain.clear();
    let mut records = records;
    while !records.is_empty() {
        tls.read_tls(&mut records)?;
        let ready = tls.process_new_packets()?.plaintext_bytes_to_read();
        let before = plain.len();
        plain.resize(before + ready, 0);
        tls.reader().read_exact(&mut plain[before..])?;
    }
    Ok(())
}

impl Answer {
    /// Takes in what was read. Whether the answer is whole.
    fn take(&mut self, read: &[u8]) -> bool {
        if self.is_in_body {
            self.missing = self.missing.saturating_sub(read.len());
            return self.missing == 0;
        }
        let joined = !self.begun.is_empty();
        if joined {
            self.begun.extend_from_slice(read);
        }
        let seen = if joined { &self.begun[..] } else { read };
        let Some(end) = end_of_head(seen) else {
            if !joined {
                self.begun.extend_from_slice(read);
            }
            return false;
        };
        let head = &seen[..end];
        self.status = head.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok()).unwrap_or(0);
        // An answer without a length is none that was asked for, but where it is a WebSocket: it counts as wrong.
        let Some(length) = length(head) else {
            self.status = if self.status == 101 { 101 } else { 0 };
            self.begun.clear();
            return true;
        };
        self.missing = length.saturating_sub(seen.len() - end);
        self.is_in_body = true;
        self.begun.clear();
        self.missing == 0
    }
}

/// TLS 1.3 with one suite and one group, so that all proxies do the same sums.
fn tls(resume: bool) -> Outcome<Arc<ClientConfig>> {
    let mut provider = ring::default_provider();
    provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    provider.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(ring::default_provider())))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = if resume { Resumption::store(Arc::new(Tickets::default())) } else { Resumption::disabled() };
    Ok(Arc::new(config))
}

/// The tickets of all connections. rustls keeps eight, which would not be enough for those that come together.
#[derive(Debug, Default)]
struct Tickets(Mutex<VecDeque<Tls13ClientSessionValue>>);

impl Tickets {
    fn all(&self) -> MutexGuard<'_, VecDeque<Tls13ClientSessionValue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _server: ServerName<'static>, _group: NamedGroup) {}

    fn kx_hint(&self, _server: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _server: ServerName<'static>, _value: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _server: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _server: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut all = self.all();
        if all.len() < TICKETS_MAX {
            all.push_back(value);
        }
    }

    fn take_tls13_ticket(&self, _server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.all().pop_front()
    }
}

/// Believes every certificate: the load side shall not spend its time on signatures.
#[derive(Debug)]
struct AnyServer(CryptoProvider);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const TICKETS_MAX: usize = 512;
/// So many handshakes are under way at a time, at the beginning.
const CONNECTING_MAX: usize = 64;
