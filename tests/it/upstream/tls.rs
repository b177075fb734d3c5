//! TLS towards a service.

use http::Version;

use super::peer::{Authority, Peer, server};
use crate::harness::{Config, Http, Site, get};

/// A site whose service is `https://localhost:port`, with this authority trusted.
fn site(authority: &Authority, port: u16, more: &str) -> Site {
    let service = format!("targets = ['https://localhost:{port}']\n[upstreams.service.tls]\nca = 'ca.pem'\n{more}");
    let site = Site::new(&Config::towards(&service));
    site.replace("ca.pem", &authority.pem());
    site
}

#[test]
fn an_https_target_is_spoken_to_in_what_both_speak() {
    let authority = Authority::new();
    let shown = authority.issue("localhost");
    let cases = [
        (&["h2", "http/1.1"][..], "", "h2", Version::HTTP_2),
        (&["http/1.1"], "", "http/1.1", Version::HTTP_11),
        (&[], "", "http/1.1", Version::HTTP_11),
        (&["h2", "http/1.1"], "http2 = false", "http/1.1", Version::HTTP_11),
    ];
    for (protocols, more, answer, version) in cases {
        let peer = Peer::over_tls(server(&shown, protocols, None));
        let site = site(&authority, peer.port(), more);
        let gateway = site.start();
        for http in [Http::One, Http::Two] {
            let mut connection = gateway.connect(http);
            for _ in 0..3 {
                assert_eq!(connection.send(get("/public/x?y=1").host("api.example")).text(), answer, "{protocols:?}");
            }
        }
        let (seen, target, fields) = peer.last();
        assert_eq!(seen, version);
        match version {
            Version::HTTP_2 => assert_eq!(target, "https://api.example/public/x?y=1"),
            _ => assert_eq!((target.as_str(), fields["host"].as_bytes()), ("/public/x?y=1", &b"api.example"[..])),
        }
        assert_eq!(peer.handshakes()[0].0.as_deref(), Some("localhost"));
        assert!(peer.connections() <= 2, "one a worker, and there are {}", peer.connections());
    }
}

#[test]
fn a_certificate_of_another_authority_or_name_is_not_believed() {
    let (authority, other) = (Authority::new(), Authority::new());
    for shown in [other.issue("localhost"), authority.issue("elsewhere.example")] {
        let peer = Peer::over_tls(server(&shown, &["h2", "http/1.1"], None));
        let site = site(&authority, peer.port(), "");
        let answer = site.start().send(get("/public/x"));
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_unreachable"));
        assert_eq!(peer.requests(), 0);
    }
}

#[test]
fn the_name_and_the_certificate_that_are_configured_are_shown() {
    let authority = Authority::new();
    let peer = Peer::over_tls(server(&authority.issue("rings.internal"), &["h2"], Some(&authority)));
    let more = "server_name = 'rings.internal'\ncertificate = 'client.pem'\nkey = 'client.key'";
    let site = site(&authority, peer.port(), more);
    let client = authority.issue("keyward.internal");
    site.replace("client.pem", &client.chain);
    site.replace("client.key", &client.key);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/public/x")).text(), "h2");
    assert_eq!(peer.handshakes(), [(Some("rings.internal".to_owned()), true)]);
}

#[test]
fn a_certificate_file_at_fault_is_named() {
    let authority = Authority::new();
    let site = site(&authority, 1, "certificate = 'client.pem'\nkey = 'client.key'");
    let checked = site.try_run(["check", "-c", "keyward.toml"]);
    let served = site.try_run(["serve", "-c", "keyward.toml"]);
    for ran in [checked, served] {
        let said = ran.stdout + &ran.stderr;
        assert_eq!(ran.code, Some(64), "{said}");
        assert!(said.contains("client.pem: no such file") && said.contains("client.key: no such file"), "{said}");
    }
}

#[test]
fn a_renewed_authority_takes_by_a_reload_and_a_bad_one_does_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let peer = Peer::over_tls(server(&new.issue("localhost"), &["h2"], None));
    let site = site(&old, peer.port(), "");
    let gateway = site.start();
    assert_eq!(gateway.send(get("/public/x")).status, 502);
    let mark = gateway.log_mark();
    site.replace("ca.pem", "no certificate");
    gateway.hang_up();
    gateway.until_logged(mark, "configuration not reloaded");
    let mark = gateway.log_mark();
    site.replace("ca.pem", &new.pem());
    gateway.until_logged(mark, "configuration reloaded");
    assert_eq!(gateway.send(get("/public/x")).text(), "h2");
}
