//! The life of a key by commands alone.

use serde_json::Value;

use crate::harness::{Config, Site, Upstream};

fn site() -> Site {
    let upstream = Upstream::start();
    Site::new(&Config::in_front_of(&upstream))
}

#[test]
fn a_key_is_made_listed_changed_and_revoked() {
    let site = site();
    let made = site
        .keys(&["create", "--project", "acme", "--name", "build", "--flag", "jobs:read", "--prop", "team=x", "--json"])
        .json();
    let id = made["id"].as_str().expect("an id");
    assert!(made["key"].as_str().is_some_and(|token| token.starts_with("kw_live_")));
    assert_eq!(made["scopes"], serde_json::json!(["jobs:read"]));
    assert_eq!((&made["status"], &made["active"]), (&Value::from("active"), &Value::from(true)));
    assert_eq!(made["props"]["team"], "x");
    assert!(made["expires_at"].is_null() && made["revoked_at"].is_null());

    let listed = site.keys(&["list", "--project", "acme", "--json"]).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!(listed[0]["id"], id);
    assert!(listed[0].get("key").is_none());

    let changed = site.keys(&["update", id, "--disable", "--name", "farm", "--expires-in", "30d", "--json"]).json();
    assert_eq!((&changed["name"], &changed["status"]), (&Value::from("farm"), &Value::from("disabled")));
    assert!(changed["expires_at"].is_string());
    assert!(changed["revision"].as_u64() > made["revision"].as_u64());
    assert_eq!(site.keys(&["list", "--status", "disabled", "--json"]).json()[0]["id"], id);
    assert_eq!(site.keys(&["list", "--expires-within", "31d", "--json"]).json()[0]["id"], id);
    site.keys(&["update", id, "--enable", "--never-expires"]);
    assert_eq!(site.keys(&["show", id, "--json"]).json()["status"], "active");

    let revoked = site.keys(&["revoke", id, "--json"]).json();
    assert_eq!(revoked["revoked"], serde_json::json!([id]));
    let again = site.keys(&["revoke", id, "--json"]).json();
    assert_eq!(again["revoked"], serde_json::json!([]));
    assert_eq!(site.keys(&["show", id, "--json"]).json()["status"], "revoked");
    let ran = site.try_run(["keys", "rotate", id, "-c", "keyward.toml"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
}

#[test]
fn what_people_read_ends_with_the_token_and_says_the_revision() {
    let site = site();
    let ran = site.keys(&["create", "--project", "acme", "--name", "build"]);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert!(lines.first().is_some_and(|line| line.starts_with("made key key_") && line.contains("revision ")));
    assert!(lines.last().is_some_and(|line| line.starts_with("kw_live_") && !line.contains(' ')), "{ran:?}");
    let ran = site.keys(&["list"]);
    let header = ran.stdout.lines().next().unwrap_or_default();
    assert!(header.starts_with("ID ") && header.contains("STATUS"), "{ran:?}");
    assert!(!ran.stdout.contains(['│', '─', '\u{1b}']), "{ran:?}");
    assert!(!ran.stdout.contains(lines.last().expect("a token")));
}

#[test]
fn a_rotation_shows_in_the_lineage_and_in_the_events() {
    let site = site();
    let old = site.key(&["jobs:read"]);
    let new = site.rotate(&old, "60m");
    assert_ne!(old.token, new.token);
    let shown = site.keys(&["show", &old.id, "--json"]).json();
    assert_eq!(
        (&shown["status"], &shown["replaced_by_key_id"]),
        (&Value::from("grace"), &Value::from(new.id.as_str()))
    );
    let lineage: Vec<_> = shown["lineage"].as_array().into_iter().flatten().map(|key| key["id"].clone()).collect();
    assert_eq!(lineage, [old.id.as_str(), new.id.as_str()]);
    let text = site.keys(&["show", &new.id]).stdout;
    assert!(text.contains(&old.id) && text.contains("(this)"), "{text}");

    let events = site.run(["events", "-c", "keyward.toml", "--key", &old.id, "--json"]);
    let kinds: Vec<Value> =
        events.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["kind"].clone()).collect();
    assert_eq!(kinds, ["key.created", "key.rotated"]);
    assert!(events.stdout.contains("\"actor\":\"local:"));
    let all = site.run(["events", "-c", "keyward.toml"]).stdout;
    assert!(all.contains("key.created") && !all.contains(&new.token));

    let revoked = site.keys(&["revoke", &old.id, "--scope", "lineage", "--json"]).json();
    assert_eq!(revoked["revoked"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_token_is_inspected_without_a_store_and_never_repeated() {
    let site = site();
    let key = site.key(&[]);
    let ran = site.run(["keys", "inspect", &key.token, "--json"]);
    let looks = ran.json();
    assert_eq!((&looks["form"], &looks["checksum"]), (&Value::from("keyward"), &Value::from("ok")));
    assert_eq!(looks["environment"], "live");
    assert!(!ran.stdout.contains(&key.token));
    let mut cut = key.token.clone();
    let last = if cut.ends_with('0') { '1' } else { '0' };
    cut.pop();
    cut.push(last);
    let ran = site.try_run(["keys", "inspect", &cut]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("bad") && !ran.stderr.contains(&cut), "{ran:?}");
}

#[test]
fn an_explanation_says_which_route_and_why() {
    let site = site();
    let key = site.key(&["keyring.comms.read"]);
    let explain =
        |arguments: &[&str]| site.run(["explain", "-c", "keyward.toml", "--json"].iter().chain(arguments)).json();
    let told = explain(&["--key-id", &key.id, "GET", "https://api.example.com/keyrings/comms"]);
    assert_eq!((&told["decision"], &told["route"]["name"]), (&Value::from("permit"), &Value::from("ring-read")));
    assert_eq!(told["route"]["captures"]["ring"], "comms");
    let told = explain(&["--key-id", &key.id, "GET", "/keyrings/other"]);
    assert_eq!((&told["decision"], &told["status"]), (&Value::from("denial"), &Value::from(403)));
    assert_eq!(told["reason"], "lacks_flags");
    assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("keyring.read")), "{told}");
    let told = explain(&["--no-key", "GET", "/keyrings/comms"]);
    assert_eq!((&told["status"], &told["code"]), (&Value::from(401), &Value::from("missing_key")));
    let told = explain(&["--no-key", "GET", "/public/x"]);
    assert_eq!(told["decision"], "permit");
    assert_eq!(explain(&["--no-key", "POST", "/keyrings/comms"])["status"], 405);
    assert_eq!(explain(&["--no-key", "GET", "/nowhere"])["status"], 404);
    assert_eq!(explain(&["--no-key", "GET", "/any/%2e%2e/x"])["code"], "ambiguous_path");
    site.revoke(&key);
    let told = explain(&["--key-id", &key.id, "GET", "/keyrings/comms"]);
    assert_eq!((&told["status"], &told["key"]["status"]), (&Value::from(401), &Value::from("revoked")));
}
