//! `h2load` and `curl` as callers.

use std::process::Command;

use super::process::run;
use crate::harness::{Config, Gateway, Site, Upstream, times};

/// Sends this many requests, which must all be answered with 200.
pub(super) fn h2load(gateway: &Gateway, requests: usize, arguments: &[&str], path: &str) {
    let mut command = Command::new("h2load");
    command.args(["-n", &requests.to_string()]).args(arguments).arg(url(gateway, path));
    let printed = run(command);
    let all = format!("{requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed");
    let good = format!("status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx");
    assert!(printed.contains(&all) && printed.contains(&good), "{arguments:?}: {printed}");
}

fn url(gateway: &Gateway, path: &str) -> String {
    let scheme = if gateway.is_tls() { "https" } else { "http" };
    format!("{scheme}://localhost:{}{path}", gateway.address().port())
}

#[test]
fn h2load_has_every_request_answered() {
    let requests = times("KEYWARD_H2LOAD", 300);
    let upstream = Upstream::start();
    let config = Config::in_front_of(&upstream).gateway("access_log = false");
    let mut sent = 0;
    for config in [config.clone(), config.tls()] {
        let site = Site::new(&config);
        let key = site.key(&[]);
        let gateway = site.start();
        let bearer = format!("authorization: Bearer {}", key.token);
        for protocol in [&["--h1"][..], &["-m10"]] {
            let arguments = [&["-c8", "-t1", "-H", &bearer], protocol].concat();
            h2load(&gateway, requests, &arguments, "/any/x");
            sent += requests;
        }
    }
    assert_eq!(upstream.count(), sent);
}

#[test]
fn curl_speaks_every_version() {
    let upstream = Upstream::start();
    let config = Config::in_front_of(&upstream);
    let site = Site::new(&config);
    let body = site.path("body");
    std::fs::write(&body, vec![b'x'; 200_000]).expect("a file");
    let body = format!("@{}", body.display());
    let site_tls = Site::new(&config.tls());
    let (clear, tls) = (site.start(), site_tls.start());
    for (gateway, flag, version) in [
        (&clear, "--http1.0", "1.1"),
        (&clear, "--http1.1", "1.1"),
        // In clear text it asks for an upgrade, which is not taken.
        (&clear, "--http2", "1.1"),
        (&clear, "--http2-prior-knowledge", "2"),
        (&tls, "--http1.1", "1.1"),
        (&tls, "--http2", "2"),
        (&tls, "--http2-prior-knowledge", "2"),
    ] {
        let seen = gateway.curl(&[flag], "/public/x");
        assert_eq!((seen.status.as_str(), seen.body.as_str()), ("200", "hello from the upstream"), "{flag}");
        assert!(seen.version == version || flag == "--http1.0", "{flag}: {seen:?}");
        // Where curl waits for 100 in vain it does so for a second: HTTP/1.0 has none, and over HTTP/2 none is sent.
        let expects = if version == "1.1" && flag != "--http1.0" { "Expect: 100-continue" } else { "Expect:" };
        let seen = gateway.curl(&[flag, "--header", expects, "--data-binary", &body], "/public/x");
        assert_eq!(seen.status, "200", "{flag}");
        assert_eq!(gateway.curl(&[flag, "--head"], "/public/x").status, "200", "{flag}");
        assert_eq!(gateway.curl(&[flag], "/any/x").status, "401", "{flag}");
    }
    let bodies: Vec<_> = upstream.requests().iter().map(|request| request.body.bytes).filter(|&it| it > 0).collect();
    assert_eq!(bodies, [200_000; 7]);
}
