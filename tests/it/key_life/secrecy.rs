//! After everything that can be done with a token, it lies nowhere.

use std::fs;

use crate::harness::{Config, Http, Key, Site, Upstream, get, until};

/// The part of a token that nobody may see: the secret behind the shown prefix.
fn canary(key: &Key) -> &str {
    key.token.get(20..50).expect("a token of ours is long")
}

#[test]
fn a_token_is_in_no_log_no_metric_and_no_file() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).tls().sync("usage_flush = '1s'"));
    let (good, revoked) = (site.key(&["keyring.read"]), site.key(&["keyring.read"]));
    site.revoke(&revoked);
    let mut gateway = site.start();
    for http in [Http::One, Http::Two] {
        let mut connection = gateway.connect(http);
        for key in [&good, &revoked] {
            let token = key.token.as_str();
            let misspelt = format!("{}{}", token, "x");
            let wrong_place = get(&format!("/any/{token}?key={token}&{token}")).header("x-api-key", token);
            for call in [
                get("/keyrings/comms").bearer(token),
                get("/any/x").bearer(&misspelt),
                get("/any/x").bearer(token).bearer(token),
                get("/any/x").header("authorization", token),
                get("/nowhere").bearer(token).header("referer", &format!("https://a/?token={token}")),
                get(&format!("/nowhere/{token}")).bearer(token),
                wrong_place.bearer(token),
            ] {
                let answer = connection.send(call);
                assert!(!answer.text().contains(canary(key)), "{}", answer.text());
                assert!(!format!("{:?}", answer.headers).contains(canary(key)), "{:?}", answer.headers);
            }
        }
    }
    site.rotate(&good, "1h");
    until("the usage in the store", || site.keys(&["show", &good.id, "--json"]).json()["last_used_at"].is_string());
    let seen = [gateway.metrics(), gateway.ops("/readyz").text()];
    gateway.terminate();
    gateway.ended();

    for key in [&good, &revoked] {
        let canary = canary(key);
        for text in seen.iter().chain([&gateway.log(), &gateway.stdout()]) {
            let line = text.lines().find(|line| line.contains(canary));
            assert_eq!(line, None);
        }
        for file in site.files() {
            let bytes = fs::read(&file).expect("a file");
            let found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!found, "the token is in {}", file.display());
        }
    }
    assert!(gateway.log().contains(&good.id), "the log knows keys by their ids");
}
