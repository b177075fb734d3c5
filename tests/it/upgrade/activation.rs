//! Sockets that the service manager opened, and what it is told.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::config;
use crate::harness::{EchoService, Gateway, Site, get, until};

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port()
}

#[test]
fn a_socket_of_the_service_manager_is_listened_on_and_handed_on() {
    let service = EchoService::start();
    let config = config(&service);
    let site = Site::new(&config);
    let key = site.key(&[]);
    let address = format!("127.0.0.1:{}", free_port());
    site.replace("keyward.toml", &config.to_toml().replacen("127.0.0.1:0", &address, 1));
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", &address]).arg(env!("CARGO_BIN_EXE_keyward")).args(["serve", "-c", "keyward.toml"]);
    command.current_dir(site.path("."));
    // It starts the program at the first connection, which waits meanwhile.
    let first = thread::spawn({
        let (address, token) = (address.clone(), key.token.clone());
        move || {
            let mut answer = None;
            until("the first connection", || {
                answer = ureq(&address, &token);
                answer.is_some()
            });
            answer.expect("it was answered")
        }
    });
    let gateway = Gateway::start_by(&site, command);
    assert_eq!(gateway.address().to_string(), address);
    assert!(first.join().expect("a call").starts_with("HTTP/1.1 200"));
    gateway.upgrade();
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
}

/// One request as bytes; none where nobody listens yet.
fn ureq(address: &str, token: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let head = format!("GET /any/x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The service manager's end of `sd_notify`.
struct Manager {
    socket: UnixDatagram,
    said: Vec<String>,
}

impl Manager {
    fn until(&mut self, needle: &str) {
        until(needle, || {
            let mut text = [0; 1024];
            while let Ok(length) = self.socket.recv(&mut text) {
                self.said.extend(String::from_utf8_lossy(&text[..length]).lines().map(str::to_owned));
            }
            self.said.iter().any(|line| line == needle)
        });
        let at = self.said.iter().position(|line| line == needle).expect("it was said");
        self.said.drain(..=at);
    }
}

#[test]
fn the_service_manager_is_told_of_every_turn() {
    let service = EchoService::start();
    let site = Site::new(&config(&service));
    let socket = UnixDatagram::bind(site.path("notify")).expect("a socket");
    socket.set_nonblocking(true).expect("a socket");
    let mut manager = Manager { socket, said: Vec::new() };
    let mut command = site.command(["serve", "-c", "keyward.toml"]);
    command.env("NOTIFY_SOCKET", site.path("notify")).env("WATCHDOG_USEC", "2000000");
    let mut gateway = Gateway::start_by(&site, command);
    manager.until("READY=1");
    manager.until("WATCHDOG=1");
    gateway.hang_up();
    manager.until("RELOADING=1");
    manager.until("READY=1");
    manager.until("WATCHDOG=1");
    gateway.upgrade();
    manager.until("RELOADING=1");
    manager.until(&format!("MAINPID={}", gateway.process().as_raw_nonzero()));
    manager.until("READY=1");
    assert!(gateway.ended().success());
    manager.until("WATCHDOG=1");
    gateway.terminate();
    manager.until("STOPPING=1");
    gateway.successor_ended();
}
