//! A service on a socket file.

use super::peer::Peer;
use crate::harness::{Config, Http, Site, get, post};

#[test]
fn a_service_on_a_socket_file_is_reached_and_its_connection_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("service.sock");
    let peer = Peer::on_file(&path);
    let site = Site::new(&Config::towards(&format!("targets = ['unix:{}']", path.display())));
    let gateway = site.start();
    let mut connection = gateway.connect(Http::One);
    for _ in 0..5 {
        assert_eq!(connection.send(get("/public/x").host("api.example")).text(), "http/1.1");
        assert_eq!(connection.send(post("/public/x").text("body")).status, 200);
    }
    assert_eq!(peer.connections(), 1);
    drop(peer);
    std::fs::remove_file(&path).expect("the file was there");
    assert_eq!(connection.send(get("/public/x")).code(), "upstream_unreachable");
}
