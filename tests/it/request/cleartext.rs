//! A listener in clear text beside one that speaks TLS.

use std::net::SocketAddr;

use crate::harness::{Config, Connection, Http, Site, Upstream, get};

#[test]
fn a_clear_listener_beside_one_with_tls_asks_for_the_same_keys() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).tls().gateway("listen_cleartext = ['127.0.0.1:0']"));
    let key = site.key(&[]);
    let gateway = site.start();
    let line: serde_json::Value =
        serde_json::from_str(&gateway.until_logged(0, "\"gateway_cleartext\"")).expect("a line of JSON");
    let address: SocketAddr = line["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    for http in [Http::One, Http::Two] {
        let mut clear = Connection::open(address, None, http);
        assert_eq!(clear.send(get("/any/x").bearer(&key.token)).status, 200);
        assert_eq!(clear.send(get("/any/x")).status, 401);
        assert_eq!(gateway.connect(http).send(get("/any/x").bearer(&key.token)).status, 200);
    }
    let forwarded: Vec<_> =
        upstream.requests().iter().map(|it| it.header("x-forwarded-proto").map(str::to_owned)).collect();
    assert_eq!(forwarded, ["http", "https", "http", "https"].map(|scheme| Some(scheme.to_owned())));
    gateway.upgrade();
    assert_eq!(Connection::open(address, None, Http::One).send(get("/any/x").bearer(&key.token)).status, 200);
}
