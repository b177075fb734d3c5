//! Users by commands.

use serde_json::Value;

use crate::harness::{Config, Site, Upstream};

#[test]
fn a_user_is_made_changed_and_deleted_with_its_keys() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let users = |arguments: &[&str]| site.run(["users"].iter().chain(arguments).chain(&["-c", "keyward.toml"]));

    let made = users(&["set", "ann", "--project", "acme", "--flag", "jobs:read", "--json"]).json();
    assert_eq!((&made["id"], &made["active"]), (&Value::from("ann"), &Value::from(true)));
    let key = site.key_with(&["--user", "ann", "--inherit"]);
    assert_eq!(site.keys(&["show", &key.id, "--json"]).json()["inherit"], true);

    let changed = users(&["set", "ann", "--disabled", "--json"]).json();
    assert_eq!((&changed["active"], &changed["flags"]), (&Value::from(false), &serde_json::json!(["jobs:read"])));
    assert_eq!(site.keys(&["show", &key.id, "--json"]).json()["status"], "user_disabled");
    users(&["set", "ann", "--enabled"]);
    assert_eq!(users(&["list", "--json"]).json().as_array().map(Vec::len), Some(1));
    assert!(users(&["show", "ann"]).stdout.contains("jobs:read"));

    let deleted = users(&["delete", "ann", "--json"]).json();
    assert_eq!(deleted["revoked"], serde_json::json!([key.id]));
    assert_eq!(site.keys(&["show", &key.id, "--json"]).json()["status"], "revoked");
    let ran = site.try_run(["users", "set", "ann", "-c", "keyward.toml"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("deleted"), "{ran:?}");
}
