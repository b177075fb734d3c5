//! HAProxy as the service, and in front of the gateway with a PROXY header.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::process::{Served, free_address, run};
use crate::harness::{Config, Http, Reply, Site, Upstream, get, post, times, until};

/// HAProxy with one listener. It is killed when this is dropped.
pub(super) struct HaProxy {
    _process: Served,
    address: SocketAddr,
    _folder: TempDir,
}

impl HaProxy {
    /// `bind` goes on after the listener's address; `service` are the lines of what stands behind it.
    pub(super) fn start(mode: &str, bind: &str, service: &str) -> Self {
        let folder = TempDir::with_prefix("keyward-haproxy-").expect("a folder");
        Self::start_in(folder, mode, bind, service)
    }

    fn start_in(folder: TempDir, mode: &str, bind: &str, service: &str) -> Self {
        let address = free_address();
        let text = format!(
            "global\n  nbthread 1\n  maxconn 200\n\
             defaults\n  mode {mode}\n  timeout connect 10s\n  timeout client 20s\n  timeout server 20s\n\
             listen all\n  bind {address} {bind}\n{service}\n"
        );
        let path = folder.path().join("haproxy.cfg");
        std::fs::write(&path, text).expect("a file");
        let mut command = Command::new("haproxy");
        // In the foreground; it complains on what this test's output goes to.
        command.arg("-db").arg("-f").arg(&path).stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = Served::start(command);
        until("HAProxy", || {
            assert_eq!(process.child().try_wait().expect("a child"), None, "HAProxy ended");
            TcpStream::connect(address).is_ok()
        });
        Self { _process: process, address, _folder: folder }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Lines that pass everything on to one server.
pub(super) fn server(address: SocketAddr, options: &str) -> String {
    format!("  server one {address} {options}")
}

fn files(folder: &Path) -> (String, String) {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let chain = folder.join("chain.pem");
    std::fs::write(&chain, pair.cert.pem()).expect("a file");
    let both = folder.join("both.pem");
    std::fs::write(&both, pair.cert.pem() + &pair.signing_key.serialize_pem()).expect("a file");
    (chain.display().to_string(), both.display().to_string())
}

/// Requests of every kind to HAProxy, which passes them on to a service.
fn carries_everything(config: &Config, upstream: &Upstream) {
    let site = Site::new(config);
    let key = site.key(&[]);
    let gateway = site.start();
    for http in [Http::One, Http::Two] {
        let mut connection = gateway.connect(http);
        for turn in 0..100 {
            let answer = connection.send(get("/any/x").bearer(&key.token));
            assert_eq!((answer.status, answer.text().as_str()), (200, "GET 0"), "turn {turn}");
        }
        for body in [post("/any/x").zeros(300_000), post("/any/x").zeros(300_000).chunked()] {
            let answer = connection.send(body.bearer(&key.token));
            assert_eq!((answer.status, answer.text().as_str()), (200, "POST 300000"));
        }
        let large = connection.send(get("/any/large").bearer(&key.token));
        assert_eq!((large.status, large.body.bytes, large.body.broken), (200, 3 << 20, None));
    }
    let arrived = upstream.requests();
    assert_eq!(arrived.len(), 206);
    assert!(arrived.iter().all(|request| request.header("keyward-key-id") == Some(&key.id)));
}

/// A service that tells what it got, or sends much.
fn teller() -> Upstream {
    Upstream::answering(|request| match request.target.as_str() {
        "/any/large" => Reply::zeros(3 << 20).chunked(),
        _ => Reply::text(format!("{} {}", request.method, request.body.bytes)),
    })
}

const ANY: &str = "name = 'any'\npath = '/any/{*rest}'\nany_key = true";

#[test]
fn haproxy_is_a_service_over_http_1() {
    let upstream = teller();
    let haproxy = HaProxy::start("http", "", &server(upstream.address(), ""));
    carries_everything(&Config::in_front_of_address(haproxy.address()).route(ANY), &upstream);
}

#[test]
fn haproxy_is_a_service_over_http_2_in_clear_text() {
    let upstream = teller();
    let haproxy = HaProxy::start("http", "proto h2", &server(upstream.address(), ""));
    carries_everything(&Config::towards(&format!("targets = ['h2c://{}']", haproxy.address())), &upstream);
}

#[test]
fn haproxy_is_a_service_over_http_2_and_tls() {
    let upstream = teller();
    let folder = TempDir::with_prefix("keyward-haproxy-").expect("a folder");
    let (chain, both) = files(folder.path());
    let bind = format!("ssl crt {both} alpn h2,http/1.1");
    let haproxy = HaProxy::start_in(folder, "http", &bind, &server(upstream.address(), ""));
    let port = haproxy.address().port();
    let service = format!("targets = ['https://localhost:{port}']\n[upstreams.service.tls]\nca = '{chain}'");
    carries_everything(&Config::towards(&service), &upstream);
}

#[test]
fn haproxy_that_closes_idle_connections_soon_loses_no_request() {
    let upstream = teller();
    let lines = "  timeout http-keep-alive 2ms\n".to_owned() + &server(upstream.address(), "");
    let haproxy = HaProxy::start("http", "", &lines);
    let site = Site::new(&Config::in_front_of_address(haproxy.address()).route(ANY).gateway_workers(1));
    let key = site.key(&[]);
    let gateway = site.start();
    let mut connection = gateway.connect(Http::One);
    let mut posts = 0;
    for turn in 0..times("KEYWARD_STALE_HAPROXY", 200) {
        let posting = turn % 4 == 0;
        let call = if posting { post("/any/x").zeros(9) } else { get("/any/x") };
        let status = connection.send(call.bearer(&key.token)).status;
        // What may have been done is not sent again.
        assert!(status == 200 || posting && status == 502, "turn {turn}: {status}");
        posts += usize::from(posting);
        // About as long as a connection may rest.
        std::thread::sleep(Duration::from_micros(1000 + turn % 20 * 100));
    }
    assert!(upstream.requests().iter().filter(|request| request.method == "POST").count() <= posts);
}

#[test]
fn haproxy_in_front_tells_who_the_client_is_by_either_version_of_the_proxy_header() {
    let upstream = Upstream::start();
    for tls in [false, true] {
        let config =
            Config::in_front_of(&upstream).gateway("proxy_protocol = true\ntrusted_proxies = ['127.0.0.1/32']");
        let config = if tls { config.tls() } else { config };
        let site = Site::new(&config);
        let gateway = site.start();
        let chain = site.path("tls/chain.pem");
        for header in ["send-proxy", "send-proxy-v2"] {
            let haproxy = HaProxy::start("tcp", "", &server(gateway.address(), header));
            for version in ["--http1.1", if tls { "--http2" } else { "--http2-prior-knowledge" }] {
                let seen = upstream.count();
                // Two requests on one connection, of which only the first begins it; not where this curl
                // cannot do that (7.88 with HTTP/2 by prior knowledge).
                let times = if version == "--http2-prior-knowledge" { 1 } else { 2 };
                let mut command = Command::new("curl");
                command.args(["--silent", "--show-error", "--fail", "--max-time", "30", version]);
                // A client that is not where HAProxy is, and claims to be yet another.
                command.args(["--interface", "127.0.0.77", "--header", "x-forwarded-for: 6.6.6.6"]);
                if tls {
                    command.arg("--cacert").arg(&chain);
                }
                let port = haproxy.address().port();
                command.args(["--resolve", &format!("localhost:{port}:127.0.0.1")]);
                let scheme = if tls { "https" } else { "http" };
                command.args(vec![format!("{scheme}://localhost:{port}/public/x"); times]);
                assert_eq!(run(command), "hello from the upstream".repeat(times), "{header} {version}");
                let arrived = upstream.requests().split_off(seen);
                assert_eq!(arrived.len(), times);
                for request in arrived {
                    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.77"), "{header} {version}");
                    assert_eq!(request.header("x-forwarded-proto"), Some(scheme), "{header} {version}");
                }
            }
        }
    }
}
