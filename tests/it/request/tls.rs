//! The same over TLS, as `curl` and our own client see it.

use http::Version;

use crate::harness::{Config, Http, Reply, Site, Upstream, get, post};

#[test]
fn curl_speaks_both_versions_over_tls() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).tls());
    let key = site.key(&["keyring.read"]);
    let gateway = site.start();
    let bearer = format!("Authorization: Bearer {}", key.token);
    for (flag, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let seen = gateway.curl(&[flag, "--header", &bearer], "/keyrings/comms");
        assert_eq!(
            (seen.status.as_str(), seen.version.as_str(), seen.body.as_str()),
            ("200", version, "hello from the upstream")
        );
        assert_eq!(gateway.curl(&[flag], "/keyrings/comms").status, "401");
        assert_eq!(gateway.curl(&[flag, "--tlsv1.2", "--tls-max", "1.2"], "/public/x").status, "200");
    }
    assert!(upstream.requests().iter().all(|it| it.header("x-forwarded-proto") == Some("https")));
}

#[test]
fn curl_speaks_http_2_by_prior_knowledge_in_clear() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let gateway = site.start();
    let seen = gateway.curl(&["--http2-prior-knowledge"], "/public/x");
    assert_eq!((seen.status.as_str(), seen.version.as_str()), ("200", "2"));
}

#[test]
fn bodies_stream_over_tls() {
    let upstream = Upstream::answering(|request| Reply::zeros(request.body.bytes));
    let site = Site::new(&Config::in_front_of(&upstream).tls());
    let key = site.key(&[]);
    let gateway = site.start();
    for (http, version) in [(Http::One, Version::HTTP_11), (Http::Two, Version::HTTP_2)] {
        let answer = gateway.connect(http).send(post("/any/x").bearer(&key.token).zeros(8 << 20));
        assert_eq!((answer.status, answer.version, answer.body.bytes), (200, version, 8 << 20));
    }
}

#[test]
fn the_authority_of_an_http_2_request_is_its_host() {
    let upstream = Upstream::start();
    let config = Config::bare(&upstream)
        .tls()
        .route("name = 'a'\nhost = 'a.example.com'\npath = '/{*rest}'\npublic = true")
        .route("name = 'b'\nhost = '*.example.com'\npath = '/only-b'\npublic = true");
    let site = Site::new(&config);
    let gateway = site.start();
    for http in [Http::One, Http::Two] {
        let status = |host: &str, path: &str| gateway.connect(http).send(get(path).host(host)).status;
        assert_eq!(status("A.example.com:8443", "/x"), 200, "{http:?}");
        assert_eq!(status("b.example.com", "/only-b"), 200, "{http:?}");
        assert_eq!(status("b.example.com", "/x"), 404, "{http:?}");
        assert_eq!(status("example.com", "/x"), 404, "{http:?}");
    }
}
