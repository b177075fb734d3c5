//! Keys that come from elsewhere, and go there.

use std::fs;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::{Config, Ran, Site, Upstream, get, until};

fn site() -> Site {
    let upstream = Upstream::start();
    Site::new(&Config::in_front_of(&upstream))
}

/// A token as another system might mint it.
fn foreign(number: u32) -> String {
    format!("sk_9fQ2xV7bLr4TnZ8cKw1HsD6mYp3GjE5aUoXi{number:04}")
}

fn import(site: &Site, arguments: &[&str]) -> Ran {
    site.try_run(["keys", "import", "-c", "keyward.toml"].iter().chain(arguments))
}

fn count(site: &Site) -> usize {
    site.keys(&["list", "--project", "acme", "--json"]).json().as_array().map_or(0, Vec::len)
}

#[test]
fn tokens_are_imported_all_or_none() {
    let site = site();
    let tokens: Vec<String> = (0..50).map(foreign).collect();
    fs::write(site.path("tokens.txt"), tokens.join("\n")).expect("a file");
    let arguments = ["--project", "acme", "--tokens", "tokens.txt", "--flag", "jobs:read", "--json"];

    let dry = import(&site, &[&arguments[..], &["--dry-run"]].concat()).json();
    assert_eq!((&dry["imported"], &dry["revision"]), (&Value::from(50), &Value::Null));
    assert_eq!(count(&site), 0);

    let taken = import(&site, &arguments).json();
    assert_eq!(taken["imported"], 50);
    assert!(taken["revision"].is_u64());
    assert_eq!(count(&site), 50);

    let ran = import(&site, &arguments);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("tokens.txt:1: ") && ran.stderr.contains("nothing was imported"), "{ran:?}");
    assert!(tokens.iter().all(|token| !ran.stderr.contains(token)));
}

#[test]
fn a_bad_row_is_named_and_nothing_is_imported() {
    let site = site();
    for (file, text, place) in [
        ("weak.txt", format!("{}\nhunter2\n", foreign(1)), "weak.txt:2: "),
        ("twice.txt", format!("{0}\n{1}\n{0}\n", foreign(1), foreign(2)), "twice.txt:3: "),
    ] {
        fs::write(site.path(file), text).expect("a file");
        let ran = import(&site, &["--project", "acme", "--tokens", file]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(place), "{ran:?}");
        assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
    }
    fs::write(site.path("keys.csv"), format!("token,flags\n{},a.b\n{},a..b\n", foreign(1), foreign(2)))
        .expect("a file");
    let ran = import(&site, &["--project", "acme", "--csv", "keys.csv"]);
    assert!(ran.stderr.contains("keys.csv:3: flags: "), "{ran:?}");
    fs::write(site.path("hashes.txt"), "abc\n").expect("a file");
    let ran = import(&site, &["--project", "acme", "--hashes", "hashes.txt"]);
    assert!(ran.stderr.contains("hashes.txt:1: "), "{ran:?}");
    let ran = import(&site, &["--project", "acme", "--tokens", "nowhere.txt"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("nowhere.txt"), "{ran:?}");
    assert_eq!(count(&site), 0);
}

#[test]
fn what_one_site_exports_another_imports() {
    let (from, to) = (site(), site());
    let key = from.key_with(&["--flag", "jobs:read", "--expires-at", "2099-01-31T00:00:00Z"]);
    let gone = from.key(&["jobs:read"]);
    from.revoke(&gone);
    let csv = from.keys(&["export", "--project", "acme", "--status", "active", "--hashes"]).stdout;
    assert!(!csv.contains(&key.token));
    fs::write(to.path("keys.csv"), &csv).expect("a file");
    let ran = import(&to, &["--csv", "keys.csv"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(from.keys(&["export", "--status", "revoked"]).stdout.contains(&gone.id));
    let there = &to.keys(&["list", "--project", "acme", "--json"]).json()[0];
    assert_eq!(there["scopes"], serde_json::json!(["jobs:read"]));
    assert_eq!(there["expires_at"], "2099-01-31T00:00:00Z");
    let hash = from.run(["keys", "inspect", &key.token, "--json"]).json()["hash"].clone();
    let lines = to.keys(&["export", "--project", "acme", "--hashes", "--json"]).stdout;
    let line: Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert_eq!(line["hash"], hash);
    assert!(to.keys(&["export"]).stdout.starts_with("id,name,"));
}

#[test]
fn keys_of_other_systems_are_imported_and_work() {
    let site = site();
    let [kong, nginx, unkey] = [10, 11, 12].map(foreign);
    let files = [
        (
            "kong",
            "kong.yaml",
            format!(
                "consumers:\n- username: ann\n  acls:\n  - group: jobs:read\n  keyauth_credentials:\n  - key: {kong}\n"
            ),
        ),
        (
            "nginx",
            "map.conf",
            format!(
                "map $http_authorization $client {{\n  default '';\n  \"Bearer {nginx}\" bob;\n  \"Bearer x\" 0;\n}}\n"
            ),
        ),
        (
            "unkey",
            "keys.json",
            format!("[{{\"keyId\": \"key_1\", \"key\": \"{unkey}\", \"permissions\": [\"jobs:read\"]}}]"),
        ),
    ];
    for (system, file, text) in &files {
        fs::write(site.path(file), text).expect("a file");
        let arguments = ["--project", "acme", "--groups-as-flags", "--from", system, file];
        let dry = import(&site, &[&arguments[..], &["--dry-run"]].concat());
        assert!(dry.stdout.contains("1 keys could be imported; nothing was written"), "{dry:?}");
        assert!(dry.stdout.contains("NAME") && !dry.stdout.contains("sk_9f"), "{dry:?}");
        let taken = import(&site, &[&arguments[..], &["--json"]].concat()).json();
        assert_eq!(
            (&taken["imported"], &taken["left_out"]),
            (&Value::from(1), &Value::from(usize::from(*system == "nginx")))
        );
    }
    let listed = site.keys(&["list", "--project", "acme", "--json"]).json();
    let names: Vec<_> = listed.as_array().expect("a list").iter().map(|key| key["name"].as_str()).collect();
    assert_eq!(names, [Some("key_1"), Some("bob"), Some("ann")]);
    let ran = import(&site, &["--project", "acme", "--from", "tyk", "keys.json"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("no system \"tyk\"; known: kong, nginx, unkey"), "{ran:?}");
}

#[test]
fn a_key_known_by_its_sha_256_alone_opens_its_route_until_it_is_revoked() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let gateway = site.start();
    let [token, never] = [20, 21].map(foreign);
    let digest = data_encoding::BASE64.encode(&Sha256::digest(&token));
    let text = format!("{{\"id\": \"key_1\", \"hash\": \"{digest}\", \"permissions\": [\"keyring.read\"]}}\n");
    fs::write(site.path("keys.json"), text).expect("a file");
    let taken = import(&site, &["--project", "acme", "--groups-as-flags", "--from", "unkey", "keys.json"]);
    assert_eq!(taken.code, Some(0), "{taken:?}");
    let ask = |token: &str| gateway.send(get("/keyrings/comms").bearer(token)).status;
    until("the imported key", || ask(&token) == 200);
    assert_eq!(ask(&never), 401);
    assert_eq!(ask(&digest), 401, "what was imported is no token");
    let id = site.keys(&["list", "--project", "acme", "--json"]).json()[0]["id"].as_str().expect("an id").to_owned();
    site.keys(&["revoke", &id]);
    until("the revocation", || ask(&token) == 401);
}
