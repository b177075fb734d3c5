//! Who gets through, and what the others are told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::harness::{Answer, Call, Config, Http, Reply, Site, Upstream, get, post};

/// The shape that every refusal has.
fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let body = answer.json();
    assert_eq!(body["status"], status);
    for member in ["type", "title", "detail", "request_id"] {
        assert!(body[member].is_string(), "no {member} in {body}");
    }
}

fn challenge(answer: &Answer) -> &str {
    answer.header("www-authenticate").expect("a challenge")
}

#[test]
fn a_key_with_the_flag_gets_through_and_one_without_does_not() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let all = site.key(&["keyring.read"]);
    let one = site.key(&["keyring.comms.read"]);
    let none = site.key(&["keyring.comms.write"]);
    let gateway = site.start();

    let answer = gateway.send(get("/keyrings/comms").bearer(&all.token));
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello from the upstream"));
    assert_eq!(gateway.send(get("/keyrings/comms").bearer(&one.token)).status, 200);
    assert_eq!(upstream.count(), 2);

    let answer = gateway.send(get("/keyrings/other").bearer(&one.token));
    assert_refused(&answer, 403, "insufficient_scope");
    assert!(challenge(&answer).contains("error=\"insufficient_scope\""), "{}", challenge(&answer));
    assert!(challenge(&answer).contains("scope=\"keyring.read\""), "{}", challenge(&answer));
    assert_refused(&gateway.send(get("/keyrings/comms").bearer(&none.token)), 403, "insufficient_scope");
    assert_eq!(upstream.count(), 2, "a refused request reached the upstream");
}

#[test]
fn the_log_tells_a_caller_from_the_proxy_that_speaks_for_it() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).gateway("trusted_proxies = ['127.0.0.0/8']"));
    let gateway = site.start();
    let line = |call: Call| -> serde_json::Value {
        let id = gateway.send(call).header("x-request-id").expect("an id").to_owned();
        serde_json::from_str(&gateway.until_logged(0, &id)).expect("JSON")
    };
    let through = line(get("/nowhere").header("x-forwarded-for", "192.0.2.7"));
    assert_eq!(through["client"], "192.0.2.7");
    assert!(through["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{through}");
    let direct = line(get("/nowhere"));
    assert_eq!((&direct["client"], &direct["peer"]), (&"127.0.0.1".into(), &serde_json::Value::Null));
}

#[test]
fn a_request_whose_head_is_refused_is_logged_and_counted_under_the_id_that_its_client_was_told() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).section("[gateway.timeouts]\nhead = '300ms'"));
    let gateway = site.start();
    let long = format!("GET /{}?token=hunter2 HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9000));
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(40_000));
    let many = format!("DELETE /many HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(101));
    for (head, status, code, method, path) in [
        (long.as_str(), 414, "target_too_long", "GET", "/…"),
        (large.as_str(), 431, "head_too_large", "-", ""),
        (many.as_str(), 431, "head_too_large", "-", ""),
        ("blah\r\n\r\n", 400, "bad_request", "-", ""),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "bad_request", "-", ""),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y", 408, "request_timeout", "-", ""),
        ("GE", 408, "request_timeout", "-", ""),
    ] {
        let mark = gateway.log_mark();
        let counter = format!("keyward_denials_total{{code=\"{code}\",reason=\"{code}\"}} ");
        let counted = || -> u64 {
            let page = gateway.metrics();
            let line = page.lines().find_map(|line| line.strip_prefix(&counter));
            line.and_then(|value| value.parse().ok()).expect(&counter)
        };
        let before = counted();
        let answer = gateway.raw(head);
        let (fields, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(fields.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let told: serde_json::Value = serde_json::from_str(body).expect(body);
        assert_eq!(told["code"], code);
        let id = told["request_id"].as_str().expect("an id");
        let line: serde_json::Value = serde_json::from_str(&gateway.until_logged(mark, id)).expect("JSON");
        for (name, value) in [
            ("target", "keyward::access"),
            ("request_id", id),
            ("method", method),
            ("path", path),
            ("client", "127.0.0.1"),
            ("outcome", "denied"),
            ("code", code),
            ("reason", code),
        ] {
            assert_eq!(line[name], value, "{name} of {line}");
        }
        assert_eq!(line["status"], status);
        assert!(!line.to_string().contains("hunter2"), "{line}");
        assert_eq!(counted(), before + 1, "{code}");
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(gateway.send(get("/public/x")).status, 200);
}

#[test]
fn a_missing_key_is_asked_for_and_a_wrong_one_is_called_wrong() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&["keyring.read"]);
    let gateway = site.start();

    let answer = gateway.send(get("/keyrings/comms"));
    assert_refused(&answer, 401, "missing_key");
    assert!(challenge(&answer).starts_with("Bearer realm=\""), "{}", challenge(&answer));
    assert!(!challenge(&answer).contains("error="), "{}", challenge(&answer));
    assert_refused(&gateway.send(get("/keyrings/comms").header("authorization", "Basic YTpi")), 401, "missing_key");

    let unknown = "kw_live_0123456789";
    let mut misspelt = key.token.clone();
    let last = misspelt.pop().expect("a token has characters");
    misspelt.push(if last == '0' { '1' } else { '0' });
    for wrong in [unknown, &misspelt] {
        let answer = gateway.send(get("/keyrings/comms").bearer(wrong));
        assert_refused(&answer, 401, "invalid_key");
        assert!(challenge(&answer).contains("error=\"invalid_token\""), "{}", challenge(&answer));
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn the_scheme_may_be_written_in_any_case() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&["keyring.read"]);
    let gateway = site.start();
    for scheme in ["bearer", "BEARER", "BeArEr"] {
        let call = get("/keyrings/comms").header("authorization", &format!("{scheme} {}", key.token));
        assert_eq!(gateway.send(call).status, 200, "{scheme}");
    }
}

#[test]
fn two_credentials_are_one_too_many() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&["keyring.read"]);
    let gateway = site.start();
    let answer = gateway.send(get("/keyrings/comms").bearer(&key.token).bearer(&key.token));
    assert_refused(&answer, 400, "invalid_request");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_key_may_be_asked_for_in_a_header_of_its_own() {
    let upstream = Upstream::start();
    let config = Config::bare(&upstream)
        .route("name = 'x'\npath = '/{*rest}'\nany_key = true\ncredential = [{ header = 'x-api-key' }]");
    let site = Site::new(&config);
    let key = site.key(&[]);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/a").header("x-api-key", &key.token)).status, 200);
    assert_refused(&gateway.send(get("/a").bearer(&key.token)), 401, "missing_key");
    assert_eq!(upstream.only_request().header("x-api-key"), None);
}

#[test]
fn routes_answer_for_themselves_before_any_key_is_looked_at() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let gateway = site.start();
    for call in [get("/nowhere"), get("/nowhere").bearer("wrong"), get("/v1/api-keys")] {
        assert_refused(&gateway.send(call), 404, "no_route");
    }
    let answer = gateway.send(post("/keyrings/comms"));
    assert_refused(&answer, 405, "method_not_allowed");
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")), "{:?}", answer.headers);
    let strange = http::Method::from_bytes(b"FROBNICATE").expect("a method");
    assert_refused(&gateway.send(Call::new(strange, "/any/x")), 501, "method_unknown");
    let answer = gateway.send(Call::new(http::Method::TRACE, "/any/x"));
    assert_refused(&answer, 405, "method_not_allowed");
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")), "{:?}", answer.headers);
    assert_eq!(upstream.count(), 0);
}

#[test]
fn head_follows_get() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&["keyring.read"]);
    let gateway = site.start();
    let answer = gateway.send(Call::new(http::Method::HEAD, "/keyrings/comms").bearer(&key.token));
    assert_eq!((answer.status, answer.body.bytes), (200, 0));
    assert_eq!(answer.header("content-length"), Some("23"));
    assert_eq!(upstream.only_request().method, http::Method::HEAD);
}

#[test]
fn a_path_that_can_be_read_in_two_ways_is_refused() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&["**"]);
    let gateway = site.start();
    for path in [
        "/any/../public/x",
        "/any/%2e%2e/x",
        "/any/a%2fb",
        "/any/a%5Cb",
        "/any/a%00",
        "/any/a%252e",
        "/any//x",
        "/any/a;b=c",
        "/any/a%zz",
        "/any/a%3fb",
        "/any/./x",
    ] {
        assert_refused(&gateway.send(get(path).bearer(&key.token)), 400, "ambiguous_path");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_path_is_forwarded_in_its_one_spelling() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&["keyring.comms.read"]);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/%6beyrings/%63omms?q=%61&r").bearer(&key.token)).status, 200);
    assert_eq!(upstream.only_request().target, "/keyrings/comms?q=%61&r");
}

#[test]
fn a_capture_that_is_no_flag_segment_satisfies_nothing() {
    let upstream = Upstream::start();
    let site = Site::new(
        &Config::bare(&upstream).route("name = 'x'\npath = '/keyrings/{ring}'\nany_flags = ['keyring.{ring}.read']"),
    );
    let key = site.key(&["keyring.*.read"]);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/keyrings/comms").bearer(&key.token)).status, 200);
    for ring in ["*", "**", "a.b", "%20"] {
        let answer = gateway.send(get(&format!("/keyrings/{ring}")).bearer(&key.token));
        assert_refused(&answer, 403, "insufficient_scope");
    }
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_route_may_say_401_where_flags_are_lacking() {
    let upstream = Upstream::start();
    let site = Site::new(
        &Config::bare(&upstream).route("name = 'x'\npath = '/{*rest}'\nall_flags = ['jobs:read']\ndenied_status = 401"),
    );
    let (good, poor) = (site.key(&["jobs:read"]), site.key(&["jobs:write"]));
    let gateway = site.start();
    assert_eq!(gateway.send(get("/jobs").bearer(&good.token)).status, 200);
    let answer = gateway.send(get("/jobs").bearer(&poor.token));
    assert_refused(&answer, 401, "insufficient_scope");
}

#[test]
fn all_flags_means_all() {
    let upstream = Upstream::start();
    let site = Site::new(
        &Config::bare(&upstream).route("name = 'x'\npath = '/{*rest}'\nall_flags = ['jobs:read', 'jobs:write']"),
    );
    let (both, one) = (site.key(&["jobs:read", "jobs:write"]), site.key(&["jobs:write"]));
    let gateway = site.start();
    assert_eq!(gateway.send(get("/jobs").bearer(&both.token)).status, 200);
    assert_refused(&gateway.send(get("/jobs").bearer(&one.token)), 403, "insufficient_scope");
}

#[test]
fn a_route_may_be_of_one_project_or_environment() {
    let upstream = Upstream::start();
    let config = Config::bare(&upstream)
        .route("name = 'mine'\npath = '/mine'\nany_key = true\nprojects = ['acme']")
        .route("name = 'theirs'\npath = '/theirs'\nany_key = true\nprojects = ['other']")
        .route("name = 'live'\npath = '/live'\nany_key = true\nenvironments = ['live']");
    let site = Site::new(&config);
    let key = site.key(&[]);
    let test = site.key_with(&["--environment", "test"]);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/mine").bearer(&key.token)).status, 200);
    assert_refused(&gateway.send(get("/theirs").bearer(&key.token)), 403, "insufficient_scope");
    assert_eq!(gateway.send(get("/live").bearer(&key.token)).status, 200);
    assert_refused(&gateway.send(get("/live").bearer(&test.token)), 403, "insufficient_scope");
}

#[test]
fn an_operator_is_refused_on_the_gateway() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let gateway = site.start();
    assert_refused(&gateway.send(get("/any/x").bearer(site.operator())), 403, "insufficient_scope");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_shadow_route_lets_pass_and_says_so_to_the_upstream() {
    let upstream = Upstream::start();
    let site = Site::new(
        &Config::bare(&upstream).route("name = 'x'\npath = '/{*rest}'\nany_flags = ['jobs:read']\nshadow = true"),
    );
    let gateway = site.start();
    assert_eq!(gateway.send(get("/jobs").bearer("somebody else's").header("keyward-key-id", "me")).status, 200);
    let arrived = upstream.only_request();
    assert_eq!(arrived.header("keyward-shadow"), Some("denied"));
    assert_eq!(arrived.header("authorization"), Some("Bearer somebody else's"));
    assert_eq!(arrived.header("keyward-key-id"), None);
    assert_refused(&gateway.send(get("/jobs/../x")), 400, "ambiguous_path");
}

#[test]
fn a_public_route_asks_for_nothing_and_hands_on_no_key_of_ours() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/public/x")).status, 200);
    assert_eq!(gateway.send(get("/public/x").bearer(&key.token)).status, 200);
    assert_eq!(gateway.send(get("/public/x").header("authorization", "Basic YTpi")).status, 200);
    let arrived: Vec<_> = upstream.requests().iter().map(|it| it.header("authorization").map(str::to_owned)).collect();
    assert_eq!(arrived, [None, None, Some("Basic YTpi".to_owned())]);
}

#[test]
fn a_refusal_keeps_the_connection() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&["keyring.read"]);
    let gateway = site.start();
    let mut connection = gateway.connect(Http::One);
    for _ in 0..3 {
        assert_eq!(connection.send(get("/keyrings/comms")).status, 401);
        assert_eq!(connection.send(post("/any/x").text("a small body")).status, 401);
        assert_eq!(connection.send(get("/keyrings/comms").bearer(&key.token)).status, 200);
    }
}

#[test]
fn grpc_callers_are_refused_in_their_own_words() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let poor = site.key(&[]);
    let gateway = site.start();
    let mut connection = gateway.connect(Http::Two);
    let mut status = |call: Call| {
        let answer = connection.send(call.header("content-type", "application/grpc").header("te", "trailers"));
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/grpc")));
        answer.header("grpc-status").map(str::to_owned)
    };
    assert_eq!(status(post("/any/x")).as_deref(), Some("16"));
    assert_eq!(status(get("/keyrings/comms").bearer(&poor.token)).as_deref(), Some("7"));
    assert_eq!(status(post("/nowhere")).as_deref(), Some("12"));
}

#[test]
fn an_upstream_that_is_gone_is_not_the_callers_fault() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    drop(upstream);
    assert_refused(&gateway.send(get("/any/x").bearer(&key.token)), 502, "upstream_unreachable");
}

#[test]
fn an_upstream_that_hangs_up_is_reported_and_a_post_is_not_sent_twice() {
    let upstream = Upstream::answering(|_request| Reply::hang_up());
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    assert_refused(&gateway.send(post("/any/x").bearer(&key.token).text("once")), 502, "upstream_broken");
    assert_eq!(upstream.count(), 1);
}

/// Reads until this has come.
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let (mut seen, mut chunk) = (String::new(), [0; 4096]);
    while !seen.contains(end) {
        let count = stream.read(&mut chunk).expect("a socket");
        assert!(count > 0, "no {end:?}, but {seen:?}");
        seen += &String::from_utf8_lossy(&chunk[..count]);
    }
    seen
}

#[test]
fn an_upload_whose_connection_breaks_while_more_of_it_is_awaited_is_not_sent_again() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let route = "name = 'public'\npath = '/public/{*rest}'\npublic = true";
    let config = Config::to(listener.local_addr().expect("bound")).route(route).gateway_workers(1);
    let service = std::thread::spawn(move || {
        let (mut first, _) = listener.accept().expect("a connection");
        read_until(&mut first, "\r\n\r\n");
        first.write_all(OK).expect("a socket");
        let upload = read_until(&mut first, "abc");
        drop(first);
        let (mut second, _) = listener.accept().expect("a connection");
        let next = read_until(&mut second, "\r\n\r\n");
        second.write_all(OK).expect("a socket");
        (upload, next)
    });
    let site = Site::new(&config);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/public/x")).status, 200);
    let mut client = TcpStream::connect(gateway.address()).expect("the gateway accepts connections");
    // What may be sent twice, but not once something of its body has been taken.
    client.write_all(b"PUT /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc").expect("a socket");
    let answer = read_until(&mut client, "\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(gateway.send(get("/public/x")).status, 200);
    let (upload, next) = service.join().expect("the service");
    assert!(upload.starts_with("PUT /public/x ") && upload.contains("content-length: 100\r\n"), "{upload}");
    assert!(next.starts_with("GET /public/x "), "{next}");
}

#[test]
fn a_keyed_answer_is_private_unless_the_upstream_says_otherwise() {
    let upstream = Upstream::answering(|request| match request.target.as_str() {
        "/any/shared" => Reply::text("x").header("cache-control", "public, max-age=60"),
        _ => Reply::text("x"),
    });
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    let answer = gateway.send(get("/any/own").bearer(&key.token));
    assert_eq!(answer.header("cache-control"), Some("private"));
    assert!(answer.header("vary").is_some_and(|vary| vary.eq_ignore_ascii_case("authorization")), "{answer:?}");
    let answer = gateway.send(get("/any/shared").bearer(&key.token));
    assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
    assert_eq!(gateway.send(get("/public/x")).header("cache-control"), None);
}
