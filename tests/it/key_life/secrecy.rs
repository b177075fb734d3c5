//! After everything that can be done with a token, it lies nowhere.

use std::fs;

use crate::harness::{Config, Http, Site, Upstream, get, post, until};

/// Parts of a token that nobody may see: the secret behind the shown prefix; of a JWT what it says last, which
/// nobody can guess, and its signature.
fn canaries(token: &str) -> Vec<&str> {
    let parts: Vec<&str> = token.split('.').skip(1).collect();
    if parts.is_empty() {
        return vec![token.get(20..50).expect("a token of ours is long")];
    }
    parts.into_iter().map(|part| part.get(part.len() - 40..).expect("a part of a JWT is long")).collect()
}

#[test]
fn a_token_is_in_no_log_no_metric_and_no_file() {
    let upstream = Upstream::start();
    let asserted = "name = 'asserted'\npath = '/asserted/{*rest}'\nany_key = true\nassertion = true";
    let site = Site::new(&Config::in_front_of(&upstream).tls().admin().sync("usage_flush = '1s'").route(asserted));
    let (good, revoked) = (site.key(&["keyring.read"]), site.key(&["keyring.read"]));
    let jwt = || site.key_with(&["--flag", "keyring.read", "--format", "jwt"]);
    let (good_jwt, revoked_jwt) = (jwt(), jwt());
    let keys = [&good, &revoked, &good_jwt, &revoked_jwt];
    site.revoke(&revoked);
    site.revoke(&revoked_jwt);
    // Libraries tell most there.
    let mut gateway = site.start_with(&[("KEYWARD_LOG", "trace")]);
    for key in keys {
        let asked = post("/v1/verify").json(&serde_json::json!({ "key": key.token, "flags": ["a"] }));
        assert_eq!(gateway.api(asked.bearer(site.operator())).status, 200);
        assert_eq!(gateway.api(get("/v1/api-keys").bearer(&key.token)).status / 100, 4);
    }
    let named = post("/v1/api-keys").json(&serde_json::json!({ "project_id": "acme", "name": "once" }));
    let named = named.header("idempotency-key", "a-canary-among-the-idempotency-keys").bearer(site.operator());
    let once = gateway.api(named).json()["key"].as_str().expect("a token").to_owned();
    for http in [Http::One, Http::Two] {
        let mut connection = gateway.connect(http);
        for key in keys {
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
                get("/asserted/x").bearer(token),
                wrong_place.bearer(token),
            ] {
                let answer = connection.send(call);
                for canary in canaries(token) {
                    assert!(!answer.text().contains(canary), "{}", answer.text());
                    assert!(!format!("{:?}", answer.headers).contains(canary), "{:?}", answer.headers);
                }
            }
        }
    }
    let assertions =
        upstream.requests().into_iter().filter_map(|seen| seen.header("keyward-assertion").map(str::to_owned));
    let assertions: Vec<String> = assertions.collect();
    assert!(!assertions.is_empty());
    let successors = [site.rotate(&good, "1h"), site.rotate(&good_jwt, "1h")];
    until("the usage in the store", || site.keys(&["show", &good.id, "--json"]).json()["last_used_at"].is_string());
    let process = |name: &str| {
        let bytes = fs::read(format!("/proc/{}/{name}", gateway.process().as_raw_nonzero())).expect("a live process");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let seen = [gateway.metrics(), gateway.ops("/readyz").text(), process("cmdline"), process("environ")];
    let core = process("limits").lines().find(|line| line.starts_with("Max core file size")).map(str::to_owned);
    assert_eq!(core.as_deref().map(|line| line.split_whitespace().nth(4)), Some(Some("0")), "{core:?}");
    gateway.terminate();
    gateway.ended();

    let secret = fs::read_to_string(site.path("data/master.secret")).expect("the master secret");
    let tokens = keys.into_iter().chain(&successors).map(|key| key.token.as_str());
    let managed = canaries(&once).into_iter().chain(canaries(site.operator()));
    let canaries = tokens.chain(assertions.iter().map(String::as_str)).flat_map(canaries);
    let canaries = canaries.chain(managed).chain(["a-canary-among-the-idempotency-keys"]);
    for canary in canaries.chain([secret.trim()]) {
        for text in seen.iter().chain([&gateway.log(), &gateway.stdout()]) {
            let line = text.lines().find(|line| line.contains(canary));
            assert_eq!(line, None);
        }
        for file in site.files().into_iter().filter(|file| !file.ends_with("master.secret")) {
            let bytes = fs::read(&file).expect("a file");
            let found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!found, "the token is in {}", file.display());
        }
    }
    assert!(gateway.log().contains(&good.id), "the log knows keys by their ids");
}
