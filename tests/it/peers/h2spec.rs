//! All cases of h2spec against the gateway, with a service behind it.

use super::python::run;
use crate::harness::{Config, Site, Upstream};

/// Runs every case; the lines of the run, of which the last is the sum.
fn conformance(config: &Config) -> String {
    let site = Site::new(config);
    let gateway = site.start();
    let port = gateway.address().port().to_string();
    let chain = site.path("tls/chain.pem");
    let mut arguments = vec!["-m", "h2spec", "--port", &port, "--path", "/public/x"];
    if config.is_tls() {
        arguments.extend(["--trust", chain.to_str().expect("a path in UTF-8")]);
    }
    let printed = run(arguments);
    assert!(printed.ends_with("\n146 of 146 passed, 1 of 1 strict\n"), "{printed}");
    printed
}

#[test]
fn every_case_of_h2spec_passes_over_tls() {
    let upstream = Upstream::start();
    let printed = conformance(&Config::in_front_of(&upstream).tls());
    assert_eq!(printed.lines().filter(|line| line.starts_with("pass  ")).count(), 147);
    // Of what was malformed the service heard nothing, or an upload that broke off.
    assert!(upstream.requests().iter().all(|request| request.target == "/public/x"));
}

#[test]
fn every_case_of_h2spec_passes_in_clear_text() {
    let upstream = Upstream::start();
    conformance(&Config::in_front_of(&upstream));
}
