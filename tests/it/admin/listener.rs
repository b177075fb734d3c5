//! The listener itself.

use super::{Place, acme, text};
use crate::harness::{Connection, Http, get, post, until};
use keyward::key::{EnvironmentId, Token, TokenPrefix};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

#[test]
fn the_gateway_knows_nothing_of_the_management_paths() {
    let place = Place::new();
    for path in ["/v1/api-keys", "/v1/users", "/apikey", "/openapi.json", "/api/data/api-keys"] {
        let answer = place.gateway.send(get(path).bearer(place.site.operator()));
        assert_eq!((answer.status, answer.code().as_str()), (404, "no_route"), "{path}");
    }
    assert_eq!(place.upstream.count(), 0);
}

#[test]
fn each_request_is_counted_and_logged_with_who_asked_for_what() {
    let place = Place::new();
    let mark = place.gateway.log_mark();
    let made = place.made(&acme("build", &["a"]));
    let line: Value = serde_json::from_str(&place.gateway.until_logged(mark, "management request")).expect("JSON");
    let said = |name: &str| line["fields"].get(name).or_else(|| line.get(name)).cloned().unwrap_or_default();
    assert_eq!((said("listener"), said("endpoint")), ("admin".into(), "/v1/api-keys".into()), "{line}");
    assert_eq!((said("status"), said("subject")), (201.into(), made["id"].clone()), "{line}");
    assert_eq!((said("key"), said("revision")), (made["minted_by"].clone(), made["revision"].clone()), "{line}");
    assert!(!place.gateway.log().contains(&text(&made, "key")));
    place.asks(get("/v1/nothing"));
    let has = |needle: &str| place.gateway.metrics().contains(needle);
    until("the figures", || has("keyward_admin_refusals_total{code=\"no_route\",listener=\"admin\"} 1"));
    assert!(has("keyward_admin_requests_total{endpoint=\"/v1/api-keys\",listener=\"admin\",status=\"201\"} 1"));
    assert!(has("keyward_admin_requests_total{endpoint=\"none\",listener=\"admin\",status=\"404\"} 1"));
}

#[test]
fn it_speaks_http_2_and_tls_and_takes_a_new_certificate() {
    let upstream = crate::harness::Upstream::start();
    let config = crate::harness::Config::in_front_of(&upstream)
        .tls()
        .admin_line("public_url = 'https://keys.example.com/'")
        .admin_line("tls = { certificates = [{ chain = 'tls/chain.pem', key = 'tls/key.pem' }] }");
    let mut site = crate::harness::Site::new(&config);
    let gateway = site.start();
    let address = gateway.listener("admin");
    for http in [Http::One, Http::Two] {
        let mut connection = Connection::open(address, site.certificate(), http);
        for name in ["a", "b"] {
            let answer = connection.send(post("/v1/api-keys").bearer(site.operator()).json(&acme(name, &[])));
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
        let answer = connection.send(get("/v1/api-keys?limit=1").bearer(site.operator()));
        let link = answer.header("link").expect("a next page");
        assert!(link.starts_with("<https://keys.example.com/v1/api-keys?limit=1&cursor="), "{link}");
    }
    let mark = gateway.log_mark();
    site.new_certificate();
    gateway.hang_up();
    gateway.until_logged(mark, "configuration reloaded");
    let mut connection = Connection::open(address, site.certificate(), Http::Two);
    assert_eq!(connection.send(get("/v1/api-keys").bearer(site.operator())).status, 200);
}

#[test]
fn a_key_that_is_on_the_deny_list_manages_nothing() {
    let place = Place::new();
    let operator = place.site.operator();
    let id = place.asks(get("/v1/api-keys")).json()[0]["id"].as_str().expect("an id").to_owned();
    std::fs::write(place.site.path("deny.txt"), format!("{id}\n")).expect("a file");
    let listed = crate::harness::Config::in_front_of(&place.upstream).admin().gateway("deny_file = 'deny.txt'");
    place.site.write_config(&listed);
    let mark = place.gateway.log_mark();
    place.gateway.until_logged(mark, "configuration reloaded");
    place.gateway.hang_up();
    until("the deny list", || place.gateway.api(get("/v1/api-keys").bearer(operator)).code() == "invalid_key");
}

#[test]
fn a_refused_caller_is_not_asked_for_its_body() {
    let place = Place::new();
    let address = place.gateway.listener("admin");
    let first_bytes = |token: &str| {
        let mut stream = TcpStream::connect(address).expect("a listener");
        let expects = "Expect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 60000";
        write!(stream, "POST /v1/api-keys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{expects}\r\n\r\n")
            .expect("taken");
        let mut first = [0; 12];
        stream.read_exact(&mut first).expect("an answer");
        String::from_utf8_lossy(&first).into_owned()
    };
    let unknown = Token::mint(&TokenPrefix::default(), &EnvironmentId::live(), [7; 32]);
    assert_eq!(first_bytes(unknown.expose()), "HTTP/1.1 401");
    assert_eq!(first_bytes(place.site.operator()), "HTTP/1.1 100");
}
