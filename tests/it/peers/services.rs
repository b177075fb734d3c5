//! The `h2` package as a service behind the gateway.

use super::load::h2load;
use super::python::Service;
use crate::harness::{Config, Gateway, Http, Site, get, post, until};

fn behind(service: &Service) -> (Site, Gateway) {
    let site = Site::new(&Config::towards(&format!("targets = ['h2c://{}']", service.address())).gateway_workers(1));
    let gateway = site.start();
    (site, gateway)
}

#[test]
fn a_service_of_the_h2_package_is_understood() {
    let service = Service::start(["-m", "h2_service"]);
    let (site, gateway) = behind(&service);
    let key = site.key(&[]);
    until("the key", || gateway.send(get("/any/x").bearer(&key.token)).status == 200);
    let mut connection = gateway.connect(Http::Two);
    let answer = connection.send(get("/any/x").bearer(&key.token).header("keyward-key-id", "spoofed"));
    assert_eq!((answer.status, answer.text().as_str(), answer.header("x-key")), (200, "h2", Some(key.id.as_str())));
    // More than its windows hold, both ways.
    let answer = connection.send(post("/public/x").zeros(1_000_000));
    assert_eq!((answer.status, answer.body.bytes, answer.body.broken), (200, 1_000_000, None));
    // A head that takes more than one frame.
    let answer = gateway.send(get("/public/long"));
    assert_eq!((answer.status, answer.header("x-long-3").map(str::len)), (200, Some(6000)));
    // What was refused is sent again, for nothing was done about it.
    assert_eq!(connection.send(get("/public/refused")).status, 200);
    assert_eq!(connection.send(get("/public/x")).header("x-connection"), Some("1"));
}

#[test]
fn a_service_that_says_goodbye_after_every_fifty_requests_loses_none() {
    let service = Service::start(["-m", "h2_service", "--requests", "50"]);
    let (_site, gateway) = behind(&service);
    let mut connection = gateway.connect(Http::Two);
    for turn in 0..120 {
        assert_eq!(connection.send(get("/public/x")).status, 200, "turn {turn}");
    }
    h2load(&gateway, 600, &["-c2", "-m4"], "/public/x");
}
