//! Every field that tells a service who is calling, in every spelling, by every way: none arrives but ours.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Scene;
use crate::harness::{Http, get};

const FIELDS: [&str; 22] = [
    "keyward-key-id",
    "keyward-project",
    "keyward-environment",
    "keyward-user",
    "keyward-flags",
    "keyward-key-status",
    "keyward-key-expires",
    "keyward-shadow",
    "keyward-assertion",
    "x-keyward-key-id",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-real-ip",
    "forwarded",
    "x-request-id",
    "traceparent",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "x-method-override",
];
const SPOOFED: &str = "spoofed";

/// A name as it may be read for the same.
fn spellings(name: &str) -> [String; 7] {
    let title: Vec<_> = name.split('-').map(|part| part[..1].to_uppercase() + &part[1..]).collect();
    [
        name.to_owned(),
        title.join("-"),
        name.to_uppercase(),
        name.replace('-', "_"),
        title.join("_"),
        name.replace('-', "."),
        name.replace('-', "~"),
    ]
}

/// Sends a request that says by itself that it is the last; the status.
fn send(scene: &Scene, request: &str) -> u16 {
    let mut stream = TcpStream::connect(scene.gateway.address()).expect("the gateway accepts connections");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    stream.write_all(request.as_bytes()).expect("a short request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer:?} to {request:?}"))
}

/// Nothing that was sent as `SPOOFED` arrived in what did.
fn check(scene: &Scene, what: &str, arrivals: usize) {
    let (arrived, faults) = (scene.recorder.take(), scene.recorder.faults());
    assert_eq!(arrived.len(), arrivals, "{what}");
    assert!(faults.is_empty(), "{what}: {faults:?}");
    for request in arrived {
        let mut said = request.fields.iter().chain(&request.trailers);
        assert!(!said.any(|(_, value)| value.contains(SPOOFED)), "{what}: {request:?}");
    }
}

#[test]
fn no_identity_of_a_callers_own_arrives_in_any_spelling_by_any_way() {
    let scene = Scene::new("timeouts = { first_byte = '10s' }");
    let credential = format!("Host: a\r\nConnection: close\r\nAuthorization: Bearer {}\r\n", scene.key.token);
    let mut combinations = 0;
    let mut two = scene.gateway.connect(Http::Two);
    for field in FIELDS {
        for name in spellings(field) {
            for path in ["/any/x", "/public/x"] {
                let plain = format!("GET {path} HTTP/1.1\r\n{credential}{name}: {SPOOFED}\r\n\r\n");
                assert_eq!(send(&scene, &plain), 200);
                check(&scene, &plain, 1);

                let twice =
                    format!("GET {path} HTTP/1.1\r\n{credential}{name}: {SPOOFED}\r\n{name}: {SPOOFED}\r\n\r\n");
                assert_eq!(send(&scene, &twice), 200);
                check(&scene, &twice, 1);

                let trailer = format!(
                    "POST {path} HTTP/1.1\r\n{credential}Content-Type: application/grpc\r\nTrailer: {name}\r\n\
                     Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n{name}: {SPOOFED}\r\n\r\n"
                );
                assert_eq!(send(&scene, &trailer), 200);
                check(&scene, &trailer, 1);

                let over_two = get(path).bearer(&scene.key.token).header(&name.to_lowercase(), SPOOFED);
                assert_eq!(two.send(over_two).status, 200);
                check(&scene, &name, 1);
                combinations += 4;
            }
            // Override fields are dropped anyway; all else must not be taken away by being named.
            let is_override = field.starts_with("x-original") || field.starts_with("x-re") && field.ends_with("url");
            let named = format!("GET /any/x HTTP/1.1\r\n{credential}Connection: {name}\r\n{name}: {SPOOFED}\r\n\r\n");
            let may_pass = is_override || field.contains("override");
            assert_eq!(send(&scene, &named), if may_pass { 200 } else { 400 }, "{named}");
            check(&scene, &named, usize::from(may_pass));
            combinations += 1;
        }
    }
    assert!(combinations >= 500, "{combinations}");
}
