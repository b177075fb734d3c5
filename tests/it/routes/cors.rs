//! Scripts of other origins.

use http::Method;

use crate::harness::{Answer, Call, Config, Http, Reply, Site, Upstream, get};

const APP: &str = "https://app.example.com";

fn config(upstream: &Upstream) -> Config {
    Config::bare(upstream)
        .route(&format!(
            "name = 'read'\npath = '/items/{{item}}'\nmethods = ['GET']\nany_flags = ['item.read']\n\
             credential = ['bearer', {{ header = 'x-api-key' }}]\n\
             [routes.cors]\norigins = ['{APP}', 'http://localhost:3000']\ncredentials = true\n\
             expose = ['x-total']\nmax_age = '2m'"
        ))
        .route("name = 'write'\npath = '/items/{item}'\nmethods = ['PUT']\nany_key = true")
        .route("name = 'open'\npath = '/open'\npublic = true\n[routes.cors]\norigins = ['*']")
        .route("name = 'none'\npath = '/none'\nany_key = true")
}

fn preflight(path: &str, origin: &str, method: &str) -> Call {
    Call::new(Method::OPTIONS, path)
        .header("origin", origin)
        .header("access-control-request-method", method)
        .header("access-control-request-headers", "authorization")
}

fn varies(answer: &Answer, name: &str) -> bool {
    let all = answer.headers.get_all("vary").iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(',')).any(|entry| entry.trim().eq_ignore_ascii_case(name))
}

fn allowed<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.header(&format!("access-control-allow-{name}"))
}

#[test]
fn a_preflight_is_answered_without_a_key_and_reaches_nobody() {
    let upstream = Upstream::start();
    let site = Site::new(&config(&upstream));
    let gateway = site.start();
    for http in [Http::One, Http::Two] {
        let mut connection = gateway.connect(http);
        let answer = connection.send(preflight("/items/1", APP, "GET"));
        assert_eq!(answer.status, 204);
        assert_eq!(allowed(&answer, "origin"), Some(APP));
        assert_eq!(allowed(&answer, "credentials"), Some("true"));
        assert_eq!(allowed(&answer, "methods"), Some("GET"));
        assert_eq!(allowed(&answer, "headers"), Some("authorization, x-api-key, content-type"));
        assert_eq!(answer.header("access-control-max-age"), Some("120"));
        assert!(["origin", "access-control-request-method"].iter().all(|name| varies(&answer, name)), "{answer:?}");

        let answer = connection.send(preflight("/items/1", "https://evil.example", "GET"));
        assert_eq!((answer.status, allowed(&answer, "origin"), allowed(&answer, "methods")), (204, None, None));
        assert!(varies(&answer, "origin"));

        let answer = connection.send(preflight("/open", "https://anybody.example", "POST"));
        assert_eq!((answer.status, allowed(&answer, "origin")), (204, Some("*")));
        assert_eq!(allowed(&answer, "credentials"), None);

        // Routes that say nothing let nothing through.
        assert_eq!(connection.send(preflight("/items/1", APP, "PUT")).status, 405);
        assert_eq!(connection.send(preflight("/none", APP, "GET")).code(), "missing_key");
        // And without its fields an OPTIONS is no preflight.
        assert_eq!(connection.send(Call::new(Method::OPTIONS, "/items/1").header("origin", APP)).status, 405);
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn answers_and_refusals_alike_can_be_read_by_the_scripts_that_may() {
    let upstream = Upstream::answering(|_| {
        Reply::text("x").header("access-control-allow-origin", "*").header("vary", "accept").header("x-total", "3")
    });
    let site = Site::new(&config(&upstream));
    let (good, poor) = (site.key(&["item.read"]), site.key(&["other"]));
    let gateway = site.start();
    let send = |token: &str, origin: &str| gateway.send(get("/items/1").bearer(token).header("origin", origin));
    for (token, status) in [(good.token.as_str(), 200), (poor.token.as_str(), 403), ("kw_live_nonsense", 401)] {
        let answer = send(token, APP);
        assert_eq!(answer.status, status);
        assert_eq!(allowed(&answer, "origin"), Some(APP), "{status}");
        assert_eq!(allowed(&answer, "credentials"), Some("true"), "{status}");
        assert_eq!(answer.header("access-control-expose-headers"), Some("x-total"), "{status}");
        assert!(varies(&answer, "origin"), "{status}");
        let answer = send(token, "https://evil.example");
        assert_eq!((answer.status, allowed(&answer, "origin")), (status, None));
        assert!(varies(&answer, "origin"), "{status}");
    }
    let answer = gateway.send(get("/items/1").bearer(&good.token));
    assert_eq!(allowed(&answer, "origin"), None);
    assert!(varies(&answer, "origin") && varies(&answer, "accept") && varies(&answer, "x-api-key"), "{answer:?}");
    // Where a route says nothing the service's own word passes.
    let answer = gateway.send(get("/none").bearer(&good.token).header("origin", APP));
    assert_eq!(allowed(&answer, "origin"), Some("*"));
}
