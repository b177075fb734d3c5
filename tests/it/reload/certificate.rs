//! Certificates are replaced as pairs, and a pair that does not match replaces nothing.

use crate::harness::{Config, Http, Site, Upstream, get, until};

#[test]
fn a_new_pair_is_shown_to_new_connections_and_open_ones_go_on() {
    let upstream = Upstream::start();
    let mut site = Site::new(&Config::in_front_of(&upstream).tls());
    let gateway = site.start();
    let old = site.certificate().cloned().expect("a site with TLS");
    let mut open = gateway.connect(Http::Two);
    assert_eq!(open.send(get("/public/x")).status, 200);
    assert!(gateway.shows(&old));

    site.new_certificate();
    let new = site.certificate().cloned().expect("a site with TLS");
    gateway.hang_up();
    until("the new certificate", || gateway.shows(&new));
    assert!(!gateway.shows(&old));
    assert_eq!(open.send(get("/public/x")).status, 200);
}

#[test]
fn a_new_pair_is_found_without_a_signal() {
    let upstream = Upstream::start();
    let mut site = Site::new(&Config::in_front_of(&upstream).tls());
    let gateway = site.start();
    site.new_certificate();
    let new = site.certificate().cloned().expect("a site with TLS");
    until("the new certificate", || gateway.shows(&new));
}

#[test]
fn a_key_without_its_certificate_is_refused_and_the_old_pair_stays() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).tls());
    let gateway = site.start();
    let old = site.certificate().cloned().expect("a site with TLS");
    let mark = gateway.log_mark();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    site.replace("tls/key.pem", &other.signing_key.serialize_pem());
    gateway.hang_up();
    gateway.until_logged(mark, "key.pem");
    assert!(gateway.shows(&old));
}
