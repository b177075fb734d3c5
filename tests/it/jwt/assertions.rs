//! What an upstream is told of its caller, signed.

use std::fs;

use super::{ASSERTION, KEY, asserting, jwt_key, kid, last_assertion, served_keys, verified};
use crate::harness::{Call, Config, Http, Site, Upstream, get, post, until};

#[test]
fn an_upstream_that_asks_gets_an_assertion_that_another_library_verifies() {
    let upstream = Upstream::start();
    let site = Site::new(&asserting(&upstream));
    site.run(["users", "set", "-c", "keyward.toml", "--project", "acme", "--flag", "keyring.**", "ann"]);
    let key = site.key_with(&["--flag", "keyring.read", "--user", "ann"]);
    let gateway = site.start();
    let call = get("/asserted/x").bearer(&key.token).header("keyward-assertion", "mine");
    assert_eq!(gateway.send(call.header("Keyward_Assertion", "mine")).status, 200);
    let token = last_assertion(&upstream);
    let keys = served_keys(&gateway);
    let [seen, elsewhere, as_key] = verified([
        [&keys, ASSERTION, "service", &token],
        [&keys, ASSERTION, "another", &token],
        [&keys, KEY, "-", &token],
    ]);
    let claims = &seen["claims"];
    assert_eq!(claims["key_id"], key.id.as_str(), "{seen}");
    assert_eq!((&claims["sub"], &claims["user"], &claims["project"]), (&"ann".into(), &"ann".into(), &"acme".into()));
    assert_eq!((&claims["iss"], &claims["aud"]), (&"https://api.example.com".into(), &"service".into()));
    assert_eq!(claims["flags"], serde_json::json!(["keyring.read"]));
    let life = claims["exp"].as_i64().expect("an end") - claims["iat"].as_i64().expect("a beginning");
    assert_eq!(life, 60);
    assert_eq!(elsewhere["refused"], "InvalidAudienceError");
    assert_eq!(as_key["refused"], "InvalidTokenError");
}

#[test]
fn a_client_cannot_send_an_assertion_of_its_own_anywhere() {
    let upstream = Upstream::start();
    let site = Site::new(&asserting(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    for path in ["/any/x", "/public/x"] {
        for name in ["keyward-assertion", "Keyward-Assertion", "keyward_assertion", "x-keyward-assertion"] {
            let answer = gateway.send(get(path).bearer(&key.token).header(name, "mine"));
            assert_eq!(answer.status, 200);
            let seen = upstream.requests().pop().expect("a request");
            let names = seen.headers.keys().filter(|name| name.as_str().contains("assertion"));
            assert_eq!(names.count(), 0, "{path} {name}");
        }
    }
}

#[test]
fn an_assertion_is_no_key_and_a_key_no_assertion() {
    let upstream = Upstream::start();
    let site = Site::new(&asserting(&upstream).gateway("credential = ['bearer', { header = 'x-api-key' }]"));
    let key = jwt_key(&site, &[]);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/asserted/x").bearer(&key.token)).status, 200);
    let token = last_assertion(&upstream);
    for call in [get("/any/x").bearer(&token), get("/any/x").header("x-api-key", &token)] {
        let answer = gateway.send(call);
        assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_key"));
    }
    // The gateway does not publish what keys are signed with.
    let keys = served_keys(&gateway);
    let [as_key, as_assertion] = verified([[&keys, KEY, "-", &key.token], [&keys, ASSERTION, "service", &key.token]]);
    assert_eq!(as_key["refused"], "PyJWKClientError");
    assert_eq!(as_assertion["refused"], "InvalidTokenError");

    // Nor does it become one by an import.
    fs::write(site.path("tokens"), &token).expect("a file");
    let import = ["keys", "import", "-c", "keyward.toml", "--project", "acme", "--tokens", "tokens"];
    let refused = site.try_run(import);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("it is an assertion") && !refused.stderr.contains(&token), "{refused:?}");
    let hash = keyward::key::TokenHash::of(token.as_bytes()).to_hex();
    fs::write(site.path("hashes"), hash).expect("a file");
    site.run(["keys", "import", "-c", "keyward.toml", "--project", "acme", "--hashes", "hashes"]);
    let fresh = site.key(&[]);
    until("what came after the import", || gateway.send(get("/any/x").bearer(&fresh.token)).status == 200);
    assert_eq!(gateway.send(get("/any/x").bearer(&token)).status, 401);
}

#[test]
fn an_assertion_serves_for_some_seconds_and_not_past_a_change_of_the_key() {
    let upstream = Upstream::start();
    let site = Site::new(&asserting(&upstream));
    let key = site.key(&["keyring.read"]);
    let gateway = site.start();
    let mut connection = gateway.connect(Http::One);
    let mut asserted = || {
        assert_eq!(connection.send(get("/asserted/x").bearer(&key.token)).status, 200);
        last_assertion(&upstream)
    };
    let first = asserted();
    // A second may have begun between the two, and the ten seconds may have ended: once is enough.
    until("the same assertion again", || {
        let one = asserted();
        one == asserted()
    });
    site.keys(&["update", &key.id, "--flag", "jobs:write"]);
    let changed = |token: &str| {
        let claims = keyward::key::JwtParts::of(token).expect("a JWT").claims;
        claims["flags"] == serde_json::json!(["jobs:write"])
    };
    until("the new flags", || changed(&asserted()));
    assert_eq!(kid(&asserted()), kid(&first));
}

#[test]
fn the_public_keys_are_served_only_where_they_are_asked_for_and_then_before_any_route() {
    let upstream = Upstream::start();
    let path = "/.well-known/jwks.json";
    let route = "name = 'mine'\npath = '/.well-known/{*rest}'\npublic = true";
    let site = Site::new(&Config::in_front_of(&upstream).route(route));
    let gateway = site.start();
    assert_eq!(gateway.send(get(path)).status, 200);
    assert_eq!(upstream.requests().len(), 1, "the route's own");
    site.write_config(&Config::in_front_of(&upstream).route(route).gateway("jwks = true"));
    gateway.hang_up();
    until("the keys", || gateway.send(get(path)).header("content-type") == Some("application/jwk-set+json"));
    let before = upstream.requests().len();
    let answer = gateway.send(get(path));
    assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
    let keys = answer.json()["keys"].as_array().cloned().expect("a list");
    assert_eq!(keys.len(), 1);
    assert_eq!(
        (&keys[0]["kty"], &keys[0]["crv"], &keys[0]["alg"]),
        (&"OKP".into(), &"Ed25519".into(), &"EdDSA".into())
    );
    assert_eq!(keys[0].as_object().map(serde_json::Map::len), Some(6), "nothing private: {answer:?}");
    assert_eq!(gateway.send(get("/.well-known/%6awks.json")).json(), answer.json(), "one canonical path");
    let head = gateway.send(Call::new(http::Method::HEAD, path));
    assert_eq!((head.status, head.header("content-length")), (200, answer.header("content-length")));
    let other = gateway.send(post(path));
    assert_eq!((other.status, other.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(other.header("allow"), Some("GET, HEAD"));
    assert_eq!(upstream.requests().len(), before);
}
