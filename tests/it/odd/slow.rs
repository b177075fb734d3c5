//! Connections that take their time, each in its own way: what one costs in memory, what a crowd of them
//! costs an honest caller, and that all are shed.
//!
//! In full, ten thousand of each kind: `KEYWARD_SLOW=10000`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::caps::metric;
use crate::harness::{Config, Connection, Gateway, Http, Site, Stopwatch, Upstream, client_config, get, times, until};

/// How a connection takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Sends nothing.
    Silent,
    /// Sends half of what HTTP/2 begins with.
    HalfPreface,
    /// Sends a head without its end.
    SlowHead,
    /// Had an answer to an upload, and then sends a head without its end.
    SlowHeadAfterUpload,
    /// Sends a body without its end, which the upstream waits for.
    SlowBody,
    /// Had an answer over HTTP/1.1, and then says no more.
    Idle,
    /// Had an answer over HTTP/2, and then says no more.
    IdleHttp2,
    /// Sends half a TLS hello.
    HalfHello,
    /// Sends a TLS hello and does not answer what comes back.
    StalledHandshake,
}

/// One of them.
enum Guest {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

const HEAD: &[u8] = b"GET /public/x HTTP/1.1\r\nHost: a\r\nX-Longer: and longer, but for its end";
const WHOLE: &[u8] = b"GET /public/x HTTP/1.1\r\nHost: a\r\n\r\n";
/// So much that it is read in the largest pieces there are.
static UPLOADED: [u8; 512 * 1024] = [b'x'; 512 * 1024];
const BODY: &[u8] = b"POST /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc";
/// The preface, empty SETTINGS, and a head (RFC 7541): GET, the scheme, `/public/x`, `a`, which end stream 1.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x10\x01\x05\x00\x00\x00\x01\x82\x86\x04\x09/public/x\x01\x01a";
const ANSWER: &[u8] = b"hello from the upstream";

impl Guest {
    fn arrive(gateway: &Gateway, manner: Manner, tls: bool) -> Self {
        let mut tcp = TcpStream::connect(gateway.address()).expect("the gateway accepts connections");
        tcp.set_read_timeout(Some(Duration::from_secs(90))).expect("a socket");
        tcp.set_nodelay(true).expect("a socket");
        if tls && manner != Manner::Silent {
            let http = if manner == Manner::IdleHttp2 { Http::Two } else { Http::One };
            let config = client_config(gateway.certificate().expect("a site with TLS"), http);
            let name = ServerName::try_from("localhost").expect("a name");
            let mut session = ClientConnection::new(config, name).expect("a client");
            if matches!(manner, Manner::HalfHello | Manner::StalledHandshake) {
                let mut hello = Vec::new();
                session.write_tls(&mut hello).expect("a buffer");
                let sent = if manner == Manner::HalfHello { hello.len() / 2 } else { hello.len() };
                tcp.write_all(&hello[..sent]).expect("a socket");
                return Self::Clear(tcp);
            }
            while session.is_handshaking() {
                session.complete_io(&mut tcp).expect("a handshake");
            }
            let mut guest = Self::Tls(Box::new(StreamOwned::new(session, tcp)));
            guest.behave(manner);
            return guest;
        }
        let mut guest = Self::Clear(tcp);
        guest.behave(manner);
        guest
    }

    fn behave(&mut self, manner: Manner) {
        let said: &[u8] = match manner {
            Manner::Silent | Manner::HalfHello | Manner::StalledHandshake => return,
            Manner::HalfPreface => &HTTP2[..16],
            Manner::SlowHead => HEAD,
            Manner::SlowHeadAfterUpload => {
                let length = UPLOADED.len();
                write!(self, "POST /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
                    .expect("a socket");
                self.write_all(&UPLOADED).expect("a socket");
                self.read_answer();
                HEAD
            }
            Manner::SlowBody => BODY,
            Manner::Idle => WHOLE,
            Manner::IdleHttp2 => HTTP2,
        };
        self.write_all(said).expect("a socket");
        self.flush().expect("a socket");
        if matches!(manner, Manner::Idle | Manner::IdleHttp2) {
            self.read_answer();
        }
    }

    fn read_answer(&mut self) {
        let (mut seen, mut chunk) = (Vec::new(), [0; 1024]);
        while !seen.windows(ANSWER.len()).any(|window| window == ANSWER) {
            let length = self.read(&mut chunk).expect("an answer");
            assert!(length > 0, "no answer, but {:?}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&chunk[..length]);
        }
    }

    /// Waits until the gateway closes it.
    fn until_shed(mut self) {
        let mut chunk = [0; 1024];
        loop {
            match self.read(&mut chunk) {
                Ok(0) => return,
                Ok(_answer) => {}
                Err(fault) => {
                    let waits = matches!(fault.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                    assert!(!waits, "never shed");
                    return;
                }
            }
        }
    }
}

impl Read for Guest {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Guest {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Clear(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// The 99th percentile of an honest caller's answers: the middle of several rounds, for a machine that does
/// other things beside.
fn honest(connection: &mut Connection) -> Duration {
    let mut rounds: Vec<_> = (0..ROUNDS)
        .map(|_round| {
            let mut took: Vec<_> = (0..200)
                .map(|_call| {
                    let watch = Stopwatch::start();
                    assert_eq!(connection.send(get("/public/x")).status, 200);
                    watch.elapsed()
                })
                .collect();
            took.sort();
            took[took.len() * 99 / 100]
        })
        .collect();
    rounds.sort();
    rounds[ROUNDS / 2]
}

const ROUNDS: usize = 5;

/// The resident memory of the gateway once it has not moved for `quiet`, in bytes. The allocator gives back
/// what is free when it is asked for something else, so something is asked meanwhile.
fn resident(gateway: &Gateway, caller: &mut Connection, quiet: Duration) -> u64 {
    let (mut last, mut since) = (0, Stopwatch::start());
    until("the memory to settle", || {
        let now = gateway.resident_kib();
        if now.abs_diff(last) > 16 {
            (last, since) = (now, Stopwatch::start());
        }
        if since.elapsed() < quiet {
            std::thread::sleep(Duration::from_millis(10));
            assert_eq!(caller.send(get("/public/x")).status, 200);
        }
        since.elapsed() >= quiet
    });
    last * 1024
}

/// A crowd of one manner: no guest may cost more than `kib_max`, with all that is held for it, a connection to the
/// upstream too. In the long form it is also measured what the crowd costs an honest caller, and how soon it is gone.
fn crowd(manner: Manner, tls: bool, kib_max: u64) {
    let usual = if tls { 200 } else { 400 };
    let mut size = times("KEYWARD_SLOW", usual);
    let long = size > usual;
    if manner == Manner::SlowBody {
        // The gateway has a connection to the upstream open for each.
        size = size.min(9_000);
    }
    // Longer than it takes until all are there.
    let seconds = 60;
    let upstream = Upstream::start();
    let config = Config::in_front_of(&upstream)
        .gateway(&format!(
            "timeouts = {{ first_byte = '{seconds}s', handshake = '{seconds}s', head = '{seconds}s', \
             body_idle = '{seconds}s', idle = '{seconds}s' }}"
        ))
        .gateway("connections_max = 20000\naccess_log = false");
    let site = Site::new(&if tls { config.tls() } else { config });
    let gateway = site.start();
    // What is made once only is made now.
    for _first in 0..4 {
        drop(Guest::arrive(&gateway, manner, tls));
    }
    let mut caller = gateway.connect(Http::One);
    let alone = if long { honest(&mut caller) } else { Duration::ZERO };
    assert_eq!(caller.send(get("/public/x")).status, 200);
    let only_it = || metric(&gateway, "keyward_connections_open{listener=\"gateway\"}") <= 1;
    until("the first ones to be gone", only_it);
    // What is free is given back within a second and a bit.
    let quiet = Duration::from_millis(if long { 2_500 } else { 1_250 });
    let before = resident(&gateway, &mut caller, quiet);
    let begun = upstream.begun();
    let watch = Stopwatch::start();
    let mut guests = Vec::new();
    for _guest in 0..size {
        if manner == Manner::SlowBody {
            // Not more at a time than wait to be accepted at the upstream.
            upstream.until_begun((begun + guests.len()).saturating_sub(50));
        }
        guests.push(Guest::arrive(&gateway, manner, tls));
    }
    until("all are in", || metric(&gateway, "keyward_connections_open{listener=\"gateway\"}") > size);
    if manner == Manner::SlowBody {
        upstream.until_begun(begun + guests.len());
    }
    let arrived = watch.elapsed();
    if manner == Manner::Idle {
        let resting = || metric(&gateway, "keyward_connections_resting{listener=\"gateway\"}");
        until("all are at rest", || resting() >= size);
    }
    // What is made once, thousands share; a few hundred bear it too.
    let allowed = if long { kib_max * 1024 } else { kib_max * 1024 * 3 / 2 };
    if long {
        let each = resident(&gateway, &mut caller, quiet).saturating_sub(before) / size;
        eprintln!("{manner:?}, TLS {tls}: {each} bytes each of {size}");
        let among = honest(&mut caller);
        let ratio = among.as_secs_f64() / alone.as_secs_f64();
        eprintln!("{manner:?}, TLS {tls}: honest p99 {alone:?} alone, {among:?} among: {ratio:.2}");
        // Twice, and what a machine that does other things beside adds.
        assert!(among <= 2 * alone + Duration::from_millis(20), "{alone:?} alone, {among:?} among");
        for guest in guests {
            guest.until_shed();
        }
        let (gone, limit) = (watch.elapsed(), arrived + Duration::from_secs(seconds + 2));
        eprintln!("{manner:?}, TLS {tls}: arrived in {arrived:?}, all shed {:?} later", gone - arrived);
        assert!(gone < limit, "shed after {gone:?}, not {limit:?}");
        until("all are gone but the honest one", only_it);
        assert!(each <= allowed, "{manner:?}, TLS {tls}: {each} bytes each, allowed {allowed}");
    } else {
        until("the crowd to hold no more than it may", || {
            assert_eq!(caller.send(get("/public/x")).status, 200);
            (gateway.resident_kib() * 1024).saturating_sub(before) / size <= allowed
        });
    }
}

/// Before the first byte.
const NOTHING_YET_KIB: u64 = 4;
const CLEAR_KIB: u64 = 24;
const TLS_KIB: u64 = 36;
/// At rest, without buffers.
const IDLE_KIB: u64 = 6;
const IDLE_TLS_KIB: u64 = 16;

#[test]
fn a_silent_connection_costs_next_to_nothing() {
    crowd(Manner::Silent, false, NOTHING_YET_KIB);
}

#[test]
fn a_silent_connection_to_a_tls_listener_costs_next_to_nothing() {
    crowd(Manner::Silent, true, NOTHING_YET_KIB);
}

#[test]
fn half_a_preface_costs_next_to_nothing() {
    crowd(Manner::HalfPreface, false, NOTHING_YET_KIB);
}

#[test]
fn a_slow_head_costs_little() {
    crowd(Manner::SlowHead, false, CLEAR_KIB);
}

#[test]
fn a_slow_head_over_tls_costs_little() {
    crowd(Manner::SlowHead, true, TLS_KIB);
}

#[test]
fn a_slow_head_behind_an_upload_costs_little() {
    crowd(Manner::SlowHeadAfterUpload, false, CLEAR_KIB);
}

#[test]
fn a_slow_body_costs_little() {
    crowd(Manner::SlowBody, false, CLEAR_KIB);
}

#[test]
fn a_slow_body_over_tls_costs_little() {
    crowd(Manner::SlowBody, true, TLS_KIB);
}

#[test]
fn an_idle_connection_costs_little() {
    crowd(Manner::Idle, false, IDLE_KIB);
}

#[test]
fn an_idle_connection_over_tls_costs_little() {
    crowd(Manner::Idle, true, IDLE_TLS_KIB);
}

#[test]
fn an_idle_connection_of_http_2_costs_little() {
    crowd(Manner::IdleHttp2, false, CLEAR_KIB);
}

#[test]
fn an_idle_connection_of_http_2_over_tls_costs_little() {
    crowd(Manner::IdleHttp2, true, TLS_KIB);
}

#[test]
fn half_a_hello_costs_little() {
    crowd(Manner::HalfHello, true, TLS_KIB);
}

#[test]
fn a_stalled_handshake_costs_little() {
    crowd(Manner::StalledHandshake, true, TLS_KIB);
}
