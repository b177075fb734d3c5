//! A second proxy between the gateway and the service: whatever a caller says of the fields that tell who
//! calls, the service hears of them what the gateway said, or hears nothing at all.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::haproxy::{HaProxy, server};
use super::process::{Served, free_address};
use crate::harness::{Config, Site, Upstream, until};

/// What the gateway says of a request, with a key that has all there is to say of it.
const FIELDS: [&str; 13] = [
    "keyward-key-id",
    "keyward-project",
    "keyward-environment",
    "keyward-user",
    "keyward-flags",
    "keyward-key-status",
    "keyward-key-expires",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-request-id",
    "traceparent",
    "via",
];
const SPOOFED: &str = "spoofed";

fn title(name: &str) -> String {
    let capital = |word: &str| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    };
    name.split('-').map(capital).collect::<Vec<_>>().join("-")
}

/// `Connection` that takes a field away, in ways that one proxy or another may read so.
fn nominations(name: &str) -> [String; 6] {
    [
        name.to_owned(),
        title(name),
        name.to_uppercase(),
        name.replace('-', "_"),
        format!("close, {name}"),
        format!("keep-alive ,\t{} ,", title(name)),
    ]
}

/// nginx that passes everything on to `target`.
struct Nginx {
    _process: Served,
    address: SocketAddr,
    _folder: TempDir,
}

impl Nginx {
    fn start(target: SocketAddr) -> Self {
        let folder = TempDir::with_prefix("keyward-nginx-").expect("a folder");
        let (address, at) = (free_address(), folder.path().display());
        let text = format!(
            "daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log {at}/error.log;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
             uwsgi_temp_path {at}/u; scgi_temp_path {at}/s; underscores_in_headers on; ignore_invalid_headers off;\n\
             server {{ listen {address};\n\
             location / {{ proxy_pass http://{target}; proxy_http_version 1.1; proxy_set_header Host $host; }} }} }}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), text).expect("a file");
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-c"]).arg(folder.path().join("nginx.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Served::start(command);
        until("nginx", || TcpStream::connect(address).is_ok());
        Self { _process: process, address, _folder: folder }
    }
}

/// Sends a request that says by itself that it is the last; the status.
fn send(gateway: SocketAddr, request: &str) -> u16 {
    let mut stream = TcpStream::connect(gateway).expect("the gateway accepts connections");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    stream.write_all(request.as_bytes()).expect("a short request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer:?} to {request:?}"))
}

/// Every field in every way, with `second` between the gateway and `upstream`.
fn matrix(second: SocketAddr, upstream: &Upstream) {
    let config = Config::in_front_of_address(second)
        .gateway("access_log = false")
        .route("name = 'any'\npath = '/any/{*rest}'\nany_key = true")
        .route("name = 'public'\npath = '/public/{*rest}'\npublic = true");
    let site = Site::new(&config);
    site.run(["users", "set", "-c", "keyward.toml", "ann", "--flag", "keyring.read"]);
    let key = site.key_with(&["--user", "ann", "--inherit", "--expires-in", "1d"]);
    let gateway = site.start();
    let mut refused = 0;
    let mut combinations = 0;
    for field in FIELDS {
        for nomination in nominations(field) {
            for (path, keyed) in [("/any/x", true), ("/public/x", false)] {
                for spoof in
                    ["", &format!("{field}: {SPOOFED}\r\n"), &format!("{}: {SPOOFED}\r\n", field.replace('-', "_"))]
                {
                    let request = format!(
                        "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
                         Connection: {nomination}\r\n{spoof}\r\n",
                        key.token
                    );
                    let before = upstream.count();
                    let status = send(gateway.address(), &request);
                    let arrived = upstream.requests().split_off(before);
                    combinations += 1;
                    if status == 400 {
                        assert!(arrived.is_empty(), "{request}");
                        refused += 1;
                        continue;
                    }
                    assert_eq!((status, arrived.len()), (200, 1), "{request}");
                    let head = format!("{:?}", arrived[0].headers);
                    assert!(!head.contains(SPOOFED), "{request} {head}");
                    let said = |name: &str| arrived[0].headers.get(name).map(|value| value.as_bytes().to_vec());
                    assert_eq!(said("keyward-key-id"), keyed.then(|| key.id.clone().into_bytes()), "{request} {head}");
                    assert_eq!(said("keyward-user"), keyed.then(|| b"ann".to_vec()), "{request} {head}");
                    for ours in FIELDS.iter().filter(|name| keyed || !name.starts_with("keyward-")) {
                        assert!(said(ours).is_some(), "{ours} was taken away by {request} {head}");
                    }
                }
            }
        }
    }
    assert_eq!(combinations, 13 * 6 * 2 * 3);
    assert!(refused > combinations / 2, "{refused} of {combinations}");
}

#[test]
fn no_caller_takes_away_or_makes_up_who_it_is_with_haproxy_behind() {
    let upstream = Upstream::start();
    let haproxy = HaProxy::start("http", "", &server(upstream.address(), ""));
    matrix(haproxy.address(), &upstream);
}

#[test]
fn no_caller_takes_away_or_makes_up_who_it_is_with_nginx_behind() {
    let upstream = Upstream::start();
    let nginx = Nginx::start(upstream.address());
    matrix(nginx.address, &upstream);
}
