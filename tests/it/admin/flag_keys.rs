//! The dialect of flag keys, as clients of it speak it: with curl and the bodies of its document.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Place, text};
use crate::harness::{get, post};

/// What curl answers for these arguments: the status and the body.
fn curl(place: &Place, token: &str, arguments: &[&str], path: &str) -> (String, Value) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}"])
        .args(["-H", &format!("Authorization: Bearer {token}")])
        .args(arguments)
        .arg(format!("http://{}{path}", place.gateway.listener("admin")))
        .stdin(Stdio::null())
        .output()
        .expect("curl is installed");
    let text = String::from_utf8(output.stdout).expect("text");
    let (body, status) = text.rsplit_once('\n').expect("curl writes the status last");
    (status.to_owned(), serde_json::from_str(body).unwrap_or_else(|fault| panic!("{fault}: {body:?}")))
}

const JSON: [&str; 2] = ["-H", "Content-Type: application/json"];

#[test]
fn a_flag_key_lives_and_dies_as_its_document_says() {
    let place = Place::new();
    let operator = place.site.operator();
    let body = r#"{"flags":["keyring.comms.read","beta"],"props":{"owner":"ann"}}"#;
    let (status, made) = curl(&place, operator, &[JSON[0], JSON[1], "-d", body], "/apikey");
    assert_eq!(status, "200", "{made}");
    assert_eq!(made["flags"], json!({ "keyring.comms.read": true, "beta": true }));
    assert_eq!((&made["active"], &made["props"]), (&json!(true), &json!({ "owner": "ann" })));
    let (id, token) = (text(&made, "keyid"), text(&made, "key"));
    let created = text(&made, "createdAt");
    assert_eq!((created.len(), created.ends_with('Z'), created.as_bytes()[19]), (24, true, b'.'), "{created}");
    let reads = || place.gateway.send(get("/keyrings/comms").bearer(&token)).status;
    assert_eq!(reads(), 200);

    let path = format!("/apikey/{id}");
    let (status, shown) = curl(&place, operator, &[], &path);
    assert_eq!(status, "200");
    assert_eq!((shown.get("key"), &shown["keyid"], &shown["flags"]), (None, &made["keyid"], &made["flags"]));
    let (status, off) = curl(&place, operator, &["-X", "PATCH", JSON[0], JSON[1], "-d", r#"{"active":false}"#], &path);
    assert_eq!((status.as_str(), &off["active"]), ("200", &json!(false)));
    assert_eq!(reads(), 401);
    let (_, on) = curl(&place, operator, &["-X", "PATCH", JSON[0], JSON[1], "-d", r#"{"active":true}"#], &path);
    assert_eq!(on["active"], true);
    assert_eq!(reads(), 200);
    let (_, less) = curl(&place, operator, &["-X", "PATCH", JSON[0], JSON[1], "-d", r#"{"flags":["beta"]}"#], &path);
    assert_eq!(less["flags"], json!({ "beta": true }));
    assert_eq!(reads(), 403);
    let (status, gone) = curl(&place, operator, &["-X", "DELETE"], &path);
    assert_eq!((status.as_str(), &gone["active"]), ("200", &json!(false)));
    assert_eq!(reads(), 401);
    let (status, refused) =
        curl(&place, operator, &["-X", "PATCH", JSON[0], JSON[1], "-d", r#"{"active":true}"#], &path);
    assert_eq!((status.as_str(), &refused["code"]), ("409", &json!("key_revoked")));
}

#[test]
fn a_flag_key_gets_its_operators_project_and_lacking_permission_is_401() {
    let place = Place::new();
    let project = |token: &str| {
        let made = place.asks_as(token, post("/apikey").json(&json!({ "flags": [] }))).json();
        text(&place.asks(get(&format!("/v1/api-keys/{}", text(&made, "keyid")))).json(), "project_id")
    };
    assert_eq!(project(place.site.operator()), "default");
    let operator = place.operator(&["keyward.keys.create"], &["a"]);
    assert_eq!(project(&operator), "acme");
    let refused = place.asks_as(&operator, post("/apikey").json(&json!({ "flags": ["b"] })));
    assert_eq!((refused.status, refused.code().as_str()), (401, "may_not_grant"));
    assert!(refused.header("www-authenticate").is_some());
    let plain = place.site.key(&["a"]);
    let refused = place.asks_as(&plain.token, post("/apikey").json(&json!({ "flags": [] })));
    assert_eq!(refused.status, 401, "{}", refused.text());
}
