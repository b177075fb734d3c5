//! Nothing is refused, reset or dropped while one process takes the place of another.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::config;
use crate::harness::{Client, EchoService, Gateway, Http, Key, Site, WebSocket, get, times};

/// Sends until `done`; how many were answered.
fn send_until(done: &AtomicBool, gateway: &Gateway, http: Http, key: &Key) -> usize {
    let mut client = Client::new(gateway, http);
    let mut sent = 0;
    while !done.load(Ordering::SeqCst) {
        let answer = client.send(&get("/any/x").bearer(&key.token));
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        sent += 1;
    }
    sent
}

/// A new connection for every call; how many were answered.
fn connect_until(done: &AtomicBool, gateway: &Gateway, key: &Key) -> usize {
    let mut sent = 0;
    while !done.load(Ordering::SeqCst) {
        assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
        sent += 1;
    }
    sent
}

fn upgrade_under_load(tls: bool) {
    let service = EchoService::start();
    let config = if tls { config(&service).tls() } else { config(&service) };
    let site = Site::new(&config);
    let key = site.key(&[]);
    let mut gateway = site.start();
    let (done, echoed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let upgrades = times("KEYWARD_TEST_UPGRADES", 5);
    let sent = thread::scope(|scope| {
        let (gateway, done, key) = (&gateway, &done, &key);
        let mut senders = Vec::new();
        for http in [Http::One, Http::One, Http::Two, Http::Two] {
            senders.push(scope.spawn(move || send_until(done, gateway, http, key)));
        }
        senders.push(scope.spawn(move || connect_until(done, gateway, key)));
        let mut sockets = Vec::new();
        for _upgrade in 0..upgrades {
            if !tls {
                sockets.push(WebSocket::open(gateway.address(), "/any/socket", &key.token));
            }
            gateway.upgrade();
            for socket in &mut sockets {
                assert!(socket.echoes(), "a WebSocket was dropped:\n{}", gateway.log());
                echoed.fetch_add(1, Ordering::SeqCst);
            }
        }
        done.store(true, Ordering::SeqCst);
        senders.into_iter().map(|sender| sender.join().expect("no call failed")).sum::<usize>()
    });
    assert!(sent > upgrades * 10, "only {sent} calls");
    // The first process has nothing left to finish.
    let status = gateway.ended();
    assert!(status.success(), "{status}\n{}", gateway.log());
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
    gateway.terminate();
    gateway.successor_ended();
    assert!(!gateway.accepts());
}

#[test]
fn upgrades_under_load_lose_no_request_and_no_websocket() {
    upgrade_under_load(false);
}

#[test]
fn upgrades_under_load_over_tls_lose_no_request() {
    upgrade_under_load(true);
}

#[test]
fn upgrades_under_load_by_wrk_fail_no_request() {
    let service = EchoService::start();
    let site = Site::new(&config(&service));
    let key = site.key(&[]);
    let gateway = site.start();
    let upgrades = times("KEYWARD_TEST_UPGRADES", 5);
    // It is told to end when the last of them is done.
    let seconds = format!("{}s", upgrades * 30);
    let mut wrk = Command::new("wrk")
        .args(["--threads", "1", "--connections", "16", "--duration", &seconds, "--timeout", "8s"])
        .args(["--header", &format!("Authorization: Bearer {}", key.token)])
        .arg(format!("http://{}/any/x", gateway.address()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("wrk is installed: `make tools`");
    let mut done = 0;
    while done < upgrades && wrk.try_wait().expect("a child process").is_none() {
        gateway.upgrade();
        done += 1;
    }
    kill_process(Pid::from_child(&wrk), Signal::INT).expect("it runs");
    let output = wrk.wait_with_output().expect("a child process");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("requests in"), "{said}");
    // wrk prints these lines only where there was such a thing.
    assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "after {done} upgrades:\n{said}");
    assert_eq!(done, upgrades);
}

#[test]
fn another_number_of_workers_is_taken_over_too() {
    let service = EchoService::start();
    let config = config(&service);
    let site = Site::new(&config);
    let key = site.key(&[]);
    let gateway = site.start();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (gateway, done, key) = (&gateway, &done, &key);
        let sender = scope.spawn(move || connect_until(done, gateway, key));
        for workers in [1, 4, 2] {
            let text = config.to_toml().replace("workers = 2", &format!("workers = {workers}"));
            site.replace("keyward.toml", &text);
            gateway.upgrade();
        }
        done.store(true, Ordering::SeqCst);
        assert!(sender.join().expect("no call failed") > 10);
    });
}
