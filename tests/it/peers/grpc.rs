//! The `grpcio` package on both sides of the gateway.

use std::collections::BTreeSet;

use super::python::{Running, Service, run};
use crate::harness::{Config, Site};

const ROUTES: [&str; 2] = [
    "name = 'echo'\npath = '/pkg.Echo/{method}'\nany_key = true",
    "name = 'guarded'\npath = '/pkg.Guarded/{method}'\nany_flags = ['rpc.call']",
];

fn in_front_of(service: &str) -> Config {
    ROUTES.iter().fold(Config::towards(service), |config, route| config.route(route))
}

/// Lets the caller make every kind of call, and check what comes of it.
fn calls(site: &Site, tls: bool) {
    let key = site.key(&[]);
    let gateway = site.start();
    let port = gateway.address().port().to_string();
    let chain = site.path("tls/chain.pem");
    let mut arguments = vec!["-m", "remote.client", &port, &key.token];
    if tls {
        arguments.extend(["--trust", chain.to_str().expect("a path in UTF-8")]);
    }
    let printed = run(arguments);
    assert!(printed.ends_with("all good\n"), "{printed}");
}

#[test]
fn every_kind_of_grpc_call_passes_in_clear_text() {
    let service = Service::start(["-m", "remote.service"]);
    calls(&Site::new(&in_front_of(&format!("targets = ['h2c://{}']", service.address()))), false);
}

#[test]
fn every_kind_of_grpc_call_passes_over_tls_on_both_sides() {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a path in UTF-8").to_owned()
    };
    let chain = write("chain.pem", &pair.cert.pem());
    let key = write("key.pem", &pair.signing_key.serialize_pem());
    let service = Service::start(["-m", "remote.service", "--chain", &chain, "--key", &key]);
    let port = service.address().port();
    let target = format!("targets = ['https://localhost:{port}']\n[upstreams.service.tls]\nca = '{chain}'");
    calls(&Site::new(&in_front_of(&target).tls()), true);
}

#[test]
fn every_call_of_a_revoked_key_ends_as_unauthenticated() {
    let service = Service::start(["-m", "remote.service"]);
    let site = Site::new(&in_front_of(&format!("targets = ['h2c://{}']", service.address())));
    let key = site.key(&[]);
    let gateway = site.start();
    let port = gateway.address().port().to_string();
    let mut caller = Running::start(["-m", "remote.client", &port, &key.token, "--stay"]);
    assert_eq!(caller.line(), "open");
    site.revoke(&key);
    let ends: BTreeSet<_> = (0..5).map(|_| caller.line()).collect();
    for call in ["mute", "quiet", "swallow", "tick"] {
        assert!(ends.contains(&format!("{call} UNAUTHENTICATED")), "{call}: {ends:?}");
    }
    // Within a message there is no way to say why.
    assert!(ends.contains("flood UNAUTHENTICATED") || ends.contains("flood CANCELLED"), "{ends:?}");
}
