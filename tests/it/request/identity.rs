//! Who the upstream is told that is calling, and what it never believes from a caller.

use crate::harness::{Config, Http, Reply, Site, Upstream, get};

#[test]
fn the_upstream_learns_who_calls_and_never_the_token() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&["keyring.read", "keyring.comms.write"]);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/keyrings/comms").bearer(&key.token)).status, 200);
    let arrived = upstream.only_request();
    assert_eq!(arrived.header("keyward-key-id"), Some(key.id.as_str()));
    assert_eq!(arrived.header("keyward-project"), Some("acme"));
    assert_eq!(arrived.header("keyward-environment"), Some("live"));
    assert_eq!(arrived.header("keyward-key-status"), Some("active"));
    let flags = arrived.header("keyward-flags").expect("the key's flags");
    assert!(flags.contains("keyring.read") && flags.contains("keyring.comms.write"), "{flags}");
    assert_eq!(arrived.header("authorization"), None);
    assert!(!format!("{arrived:?}").contains(&key.token));
    assert_eq!(arrived.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(arrived.header("x-forwarded-proto"), Some("http"));
    assert!(arrived.header("x-forwarded-host").is_some_and(|host| host.starts_with("localhost")));
    assert!(arrived.header("via").is_some_and(|via| via.contains("keyward")));
}

#[test]
fn what_a_caller_says_of_itself_never_arrives() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    let names = [
        "keyward-key-id",
        "Keyward_Key_Id",
        "keyward.key.id",
        "x-keyward-project",
        "X_Keyward_Anything",
        "keyward-user",
        "keyward-flags",
        "keyward-shadow",
        "x-forwarded-for",
        "x_forwarded_for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-real-ip",
        "forwarded",
        "x-original-url",
        "x-rewrite-url",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x_original_method",
    ];
    for http in [Http::One, Http::Two] {
        for path in ["/any/x", "/public/x"] {
            let mut call = get(path).bearer(&key.token);
            for name in names {
                call = call.header(name, "spoofed");
            }
            assert_eq!(gateway.connect(http).send(call).status, 200);
        }
    }
    for arrived in upstream.requests() {
        let spoofed: Vec<_> = arrived.headers.iter().filter(|(_, value)| value.as_bytes() == b"spoofed").collect();
        assert!(spoofed.is_empty(), "{spoofed:?}");
    }
    assert_eq!(upstream.count(), 4);
}

#[test]
fn fields_of_one_hop_stay_on_it() {
    let upstream = Upstream::answering(|_request| {
        Reply::text("x").header("connection", "x-named").header("x-named", "1").header("keep-alive", "timeout=9")
    });
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    let call = get("/any/x")
        .bearer(&key.token)
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("te", "gzip")
        .header("proxy-authorization", "Basic YTpi")
        .header("upgrade", "h2c");
    let answer = gateway.send(call);
    assert_eq!(answer.status, 200);
    for name in ["x-named", "keep-alive"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    let arrived = upstream.only_request();
    for name in ["x-hop", "te", "proxy-authorization", "upgrade"] {
        assert_eq!(arrived.header(name), None, "{name}");
    }
}

#[test]
fn an_upstream_cannot_speak_for_the_gateway() {
    let upstream = Upstream::answering(|_request| {
        Reply::text("x").header("keyward-key-status", "grace").header("X-Keyward_Key", "1").header("keyward.a", "1")
    });
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let answer = site.start().send(get("/any/x").bearer(&key.token));
    let ours: Vec<_> = answer.headers.keys().filter(|name| name.as_str().contains("keyward")).collect();
    assert!(answer.status == 200 && ours.iter().all(|name| *name == "via"), "{ours:?}");
}

#[test]
fn a_route_may_hand_the_credential_on() {
    let upstream = Upstream::start();
    let site = Site::new(
        &Config::bare(&upstream).route("name = 'x'\npath = '/{*rest}'\nany_key = true\nforward_credential = true"),
    );
    let key = site.key(&[]);
    assert_eq!(site.start().send(get("/a").bearer(&key.token)).status, 200);
    assert_eq!(upstream.only_request().header("authorization"), Some(format!("Bearer {}", key.token).as_str()));
}
