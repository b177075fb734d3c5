//! The `websockets` package on both sides of the gateway.

use super::python::{Running, Service, run};
use crate::harness::{Config, Site};

fn config(service: &Service) -> Config {
    Config::to(service.address())
        .route("name = 'sockets'\npath = '/sockets/{*rest}'\nany_key = true\nupgrades = ['websocket']")
}

#[test]
fn a_websocket_carries_all_that_websockets_can_say() {
    let service = Service::start(["-m", "websocket.service"]);
    let site = Site::new(&config(&service));
    let key = site.key(&[]);
    let gateway = site.start();
    let url = format!("ws://localhost:{}/sockets", gateway.address().port());
    let printed = run(["-m", "websocket.client", &url, &key.token]);
    assert!(printed.ends_with("all good\n"), "{printed}");
}

#[test]
fn a_websocket_over_tls_carries_all_that_websockets_can_say() {
    let service = Service::start(["-m", "websocket.service"]);
    let site = Site::new(&config(&service).tls());
    let key = site.key(&[]);
    let gateway = site.start();
    let url = format!("wss://localhost:{}/sockets", gateway.address().port());
    let chain = site.path("tls/chain.pem");
    let printed = run(["-m", "websocket.client", &url, &key.token, "--trust", chain.to_str().expect("UTF-8")]);
    assert!(printed.ends_with("all good\n"), "{printed}");
}

#[test]
fn a_websocket_of_a_revoked_key_is_closed_with_1008() {
    let service = Service::start(["-m", "websocket.service"]);
    let site = Site::new(&config(&service));
    let key = site.key(&[]);
    let gateway = site.start();
    let url = format!("ws://localhost:{}/sockets", gateway.address().port());
    let mut caller = Running::start(["-m", "websocket.client", &url, &key.token, "--stay"]);
    assert_eq!(caller.line(), "open");
    site.revoke(&key);
    assert_eq!(caller.line(), "closed 1008 invalid_key");
}
