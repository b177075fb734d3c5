//! `/v1/verify`.

use serde_json::{Value, json};

use super::{Place, acme, text};
use crate::harness::{delete, post};

#[test]
fn what_the_gateway_would_decide_is_told_with_its_reason() {
    let place = Place::new();
    let made = place.made(&acme("build", &["keyring.comms.read"]));
    let (id, token) = (text(&made, "id"), text(&made, "key"));
    let verdict = |fields: Value| {
        let answer = place.asks(post("/v1/verify").json(&fields));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.text().contains(&token));
        answer.json()
    };
    let told = |fields: Value| {
        let verdict = verdict(fields);
        (verdict["allowed"] == true, verdict["code"].clone(), verdict["reason"].clone())
    };
    let refused = |code: &str, reason: &str| (false, json!(code), json!(reason));
    let allowed = (true, Value::Null, Value::Null);
    let whole = verdict(json!({ "key": token, "route": "GET /keyrings/comms" }));
    assert_eq!((&whole["allowed"], &whole["route"], &whole["key_id"]), (&json!(true), &json!("ring-read"), &json!(id)));
    assert_eq!((&whole["status"], &whole["project_id"]), (&json!("active"), &json!("acme")));
    assert_eq!(told(json!({ "key": token, "route": "GET https://any.example.com/keyrings/comms?x=1" })), allowed);
    assert_eq!(
        told(json!({ "key": token, "route": "GET /keyrings/other" })),
        refused("insufficient_scope", "lacks_flags")
    );
    assert_eq!(told(json!({ "key": token, "route": "any" })), allowed);
    assert_eq!(told(json!({ "key": token })), allowed);
    assert_eq!(told(json!({ "key": token, "flags": ["keyring.comms.read"] })), allowed);
    let lacks = refused("insufficient_scope", "lacks_flags");
    assert_eq!(told(json!({ "key": token, "flags": ["keyring.comms.read", "other"] })), lacks);
    let operator = place.site.operator();
    assert_eq!(told(json!({ "key": operator, "route": "any" })), refused("insufficient_scope", "operator_key"));
    assert_eq!(told(json!({ "key": "nobodys" })), refused("invalid_key", "unknown"));
    assert_eq!(told(json!({ "key": super::mistyped(&token) })), refused("invalid_key", "malformed"));
    assert_eq!(told(json!({ "key": "nobodys", "route": "public" })), allowed);
    place.asks(delete(&format!("/v1/api-keys/{id}")));
    assert_eq!(told(json!({ "key": token, "route": "any" })), refused("invalid_key", "revoked"));

    for (fields, code) in [
        (json!({ "key": token, "route": "ring-read" }), "unknown_route"),
        (json!({ "key": token, "route": "nothing" }), "unknown_route"),
        (json!({ "key": token, "route": "GET /nothing" }), "unknown_route"),
        (json!({ "key": token, "route": "POST /keyrings/comms" }), "unknown_route"),
        (json!({ "key": token, "route": "GET /a/../b" }), "unknown_route"),
        (json!({ "key": token, "route": "any", "flags": [] }), "invalid_field"),
        (json!({ "key": token, "flags": ["a.*"] }), "invalid_field"),
        (json!({ "key": "a b" }), "invalid_field"),
        (json!({ "key": "" }), "invalid_field"),
    ] {
        let answer = place.asks(post("/v1/verify").json(&fields));
        let status = if code == "unknown_route" { 409 } else { 400 };
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
    }
}

#[test]
fn it_needs_its_own_permission_and_tells_nothing_of_other_projects() {
    let place = Place::new();
    let token = text(&place.made(&json!({ "project_id": "other", "name": "x" })), "key");
    let operator = place.operator(&["keyward.keys.*"], &[]);
    let asked = || post("/v1/verify").json(&json!({ "key": token }));
    assert_eq!(place.asks_as(&operator, asked()).code(), "lacks_permission");
    let operator = place.operator(&["keyward.verify"], &[]);
    let verdict = place.asks_as(&operator, asked()).json();
    assert_eq!((&verdict["reason"], &verdict["key_id"]), (&json!("unknown"), &Value::Null));
}
