//! What is wrong is refused by name, and changes nothing.

use serde_json::{Value, json};

use super::{Place, acme, text};
use crate::harness::{Answer, Call, delete, get, patch, post, put};

/// What the audit log holds: whatever changes anything makes it longer.
fn history(place: &Place) -> String {
    place.asks(get("/v1/events").header("accept", "application/x-ndjson")).text()
}

fn refused(answer: &Answer) -> (u16, String, Value) {
    let body = answer.json();
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{body}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(body["status"], answer.status);
    assert_eq!(body["type"], format!("urn:keyward:problem:{}", text(&body, "code")));
    assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"));
    assert!(!text(&body, "title").is_empty() && !text(&body, "detail").is_empty());
    (answer.status, text(&body, "code"), body["field"].clone())
}

fn raw(call: Call, body: impl Into<Vec<u8>>) -> Call {
    call.header("content-type", "application/json").bytes(body.into())
}

#[test]
fn what_is_wrong_is_a_problem_with_a_code_and_changes_nothing() {
    let place = Place::new();
    let made = place.made(&acme("build", &["a"]));
    let id = text(&made, "id");
    let key = format!("/v1/api-keys/{id}");
    let rotate = format!("{key}/rotate");
    assert_eq!(place.asks(post(&rotate)).status, 200);
    let dead = text(&place.made(&acme("dead", &[])), "id");
    assert_eq!(place.asks(delete(&format!("/v1/api-keys/{dead}"))).status, 204);
    // The successor is used, so another rotation is no repetition of a lost one.
    let successor = text(&place.asks(get(&key)).json(), "replaced_by_key_id");
    assert_eq!(place.asks(post(&format!("/v1/api-keys/{successor}/rotate"))).status, 200);
    let before = history(&place);

    let keys = || post("/v1/api-keys");
    let with = |name: &str, value: Value| {
        let mut fields = acme("x", &[]);
        fields[name] = value;
        keys().json(&fields)
    };
    let many: Vec<String> = (0..10_000).map(|_| "a".to_owned()).collect();
    let flags: Vec<String> = (0..257).map(|number| format!("f{number}")).collect();
    let props: serde_json::Map<String, Value> = (0..65).map(|number| (format!("p{number}"), json!("x"))).collect();
    let past = "2020-01-01T00:00:00Z";
    let nobody = format!("key_{}", "0".repeat(32));
    let cases: Vec<(Call, u16, &str, &str)> = vec![
        (with("colour", json!("red")), 400, "unknown_field", "colour"),
        (
            with("operates_on", json!({ "project": "acme", "environment": "all", "x": 1 })),
            400,
            "unknown_field",
            "operates_on.x",
        ),
        (with("name", json!(7)), 400, "invalid_field", "name"),
        (with("name", json!(null)), 400, "invalid_field", "name"),
        (with("name", json!("")), 400, "invalid_field", "name"),
        (with("name", json!("a\r\nb")), 400, "invalid_field", "name"),
        (with("name", json!("a\u{0}b")), 400, "invalid_field", "name"),
        (with("name", json!("ü".repeat(201))), 400, "invalid_field", "name"),
        (with("scopes", json!("a")), 400, "invalid_field", "scopes"),
        (with("scopes", json!(["a", "b..c"])), 400, "invalid_field", "scopes[1]"),
        (with("scopes", json!(many)), 400, "invalid_field", "scopes"),
        (with("scopes", json!(flags)), 400, "invalid_field", "scopes"),
        (with("props", json!(props)), 400, "invalid_field", "props"),
        (with("props", json!({ "a": 1 })), 400, "invalid_field", "props.a"),
        (with("props", json!({ "a": "x".repeat(5000) })), 400, "invalid_field", "props"),
        (with("project_id", json!("all")), 400, "invalid_field", "project_id"),
        (with("project_id", json!("a b")), 400, "invalid_field", "project_id"),
        (with("project_id", json!(null)), 400, "invalid_field", "project_id"),
        (with("environment_id", json!("Live")), 400, "invalid_field", "environment_id"),
        (with("expires_at", json!(past)), 409, "conflicting_field", "expires_at"),
        (with("expires_at", json!("9999-12-31T23:59:59Z")), 409, "conflicting_field", "expires_at"),
        (with("expires_at", json!("tomorrow")), 400, "invalid_field", "expires_at"),
        (with("expires_in_days", json!(0)), 400, "invalid_field", "expires_in_days"),
        (with("expires_in_days", json!(-1)), 400, "invalid_field", "expires_in_days"),
        (with("expires_in_days", json!("7")), 400, "invalid_field", "expires_in_days"),
        (with("expires_in_days", json!(1.5)), 400, "invalid_field", "expires_in_days"),
        (with("user_id", json!("nobody")), 400, "invalid_field", "user_id"),
        (with("inherit", json!(true)), 400, "invalid_field", "inherit"),
        (with("rotation_interval_days", json!(0)), 400, "invalid_field", "rotation_interval_days"),
        (with("may_grant", json!(["a"])), 400, "invalid_field", "may_grant"),
        (with("scopes", json!(["keyward.keys.read"])), 400, "invalid_field", "operates_on"),
        (with("format", json!("imported")), 400, "invalid_field", "format"),
        (keys().json(&json!({ "name": "x" })), 400, "invalid_field", "project_id"),
        (keys().json(&json!([])), 400, "invalid_field", "body"),
        (raw(keys(), r#"{"project_id":"acme","name":"a","name":"b"}"#), 400, "invalid_field", "name"),
        (raw(keys(), r#"{"project_id":"acme","name":"a","props":{"a":"","a":""}}"#), 400, "invalid_field", "props"),
        (raw(keys(), ""), 400, "invalid_json", ""),
        (raw(keys(), "{"), 400, "invalid_json", ""),
        (raw(keys(), r#"{"project_id":"acme","name":"a"} {}"#), 400, "invalid_json", ""),
        (raw(keys(), b"{\"name\":\"\xff\"}".to_vec()), 400, "invalid_json", ""),
        (raw(keys(), "[".repeat(60_000)), 400, "invalid_field", "body"),
        (raw(keys(), format!("{{\"name\":{}", "[".repeat(60_000))), 400, "invalid_field", "name"),
        (raw(keys(), r#"["acme","a"]"#), 400, "invalid_field", "body"),
        (with("operates_on", json!(["acme", "all"])), 400, "invalid_field", "operates_on"),
        (raw(keys(), vec![b' '; 65 * 1024]), 413, "body_too_large", ""),
        (raw(keys(), vec![b' '; 65 * 1024]).chunked(), 413, "body_too_large", ""),
        (keys().bytes(acme("x", &[]).to_string().into_bytes()), 415, "unsupported_media_type", ""),
        (keys().header("content-type", "text/plain").bytes(b"{}".to_vec()), 415, "unsupported_media_type", ""),
        (get("/v1/api-keys?limit=0"), 400, "invalid_field", "limit"),
        (get("/v1/api-keys?limit=201"), 400, "invalid_field", "limit"),
        (get("/v1/api-keys?limit=x"), 400, "invalid_field", "limit"),
        (get("/v1/api-keys?limit=1&limit=2"), 400, "invalid_field", "limit"),
        (get("/v1/api-keys?colour=red"), 400, "unknown_field", "colour"),
        (get("/v1/api-keys?cursor=x"), 404, "invalid_cursor", ""),
        (get("/v1/users?cursor="), 404, "invalid_cursor", ""),
        (get("/v1/events?cursor=MSA3"), 404, "invalid_cursor", ""),
        (get("/v1/api-keys?status=listed"), 400, "invalid_field", "status"),
        (get("/v1/api-keys?project_id=a%20b"), 400, "invalid_field", "project_id"),
        (get(&format!("{key}?x=1")), 400, "unknown_field", "x"),
        (get(&format!("/v1/api-keys/{nobody}")), 404, "not_found", ""),
        (get("/v1/api-keys/build"), 404, "not_found", ""),
        (get("/v1/api-keys/%FF"), 404, "not_found", ""),
        (patch(&format!("/v1/api-keys/{nobody}")).json(&json!({})), 404, "not_found", ""),
        (delete(&format!("/v1/api-keys/{nobody}")), 404, "not_found", ""),
        (patch(&key).json(&json!({ "id": nobody })), 400, "unknown_field", "id"),
        (patch(&key).json(&json!({ "name": null })), 400, "invalid_field", "name"),
        (patch(&key).json(&json!({ "expires_at": past })), 409, "conflicting_field", "expires_at"),
        (patch(&key).json(&json!({ "inherit": true })), 409, "conflicting_field", "inherit"),
        (patch(&key).json(&json!({ "may_grant": ["a"] })), 409, "conflicting_field", "may_grant"),
        (patch(&key).json(&json!({ "inherit": false })), 400, "invalid_field", "inherit"),
        (patch(&key).json(&json!({ "inherit": true, "scopes": ["a"] })), 400, "invalid_field", "inherit"),
        (patch(&format!("/v1/api-keys/{dead}")).json(&json!({ "name": "y" })), 409, "key_revoked", ""),
        (post(&rotate), 409, "already_rotated", ""),
        (post(&format!("/v1/api-keys/{dead}/rotate")), 409, "not_rotatable", ""),
        (post(&rotate).json(&json!({ "grace_period_minutes": 43_201 })), 400, "invalid_field", "grace_period_minutes"),
        (post(&rotate).json(&json!({ "grace": 1 })), 400, "unknown_field", "grace"),
        (post(&format!("{key}/revoke")).json(&json!({ "scope": "all" })), 400, "invalid_field", "scope"),
        (delete(&format!("{key}?wait=61s")), 400, "invalid_field", "wait"),
        (put("/v1/users/a%20b").json(&json!({ "flags": [] })), 400, "invalid_field", "id"),
        (put("/v1/users/ann").json(&json!({})), 400, "invalid_field", "flags"),
        (get("/v1/users/a%20b"), 404, "user_not_found", ""),
        (get("/v1/users/ann"), 404, "user_not_found", ""),
        (delete("/v1/users/ann"), 404, "user_not_found", ""),
        (post("/apikey").json(&json!({ "flags": { "a": true } })), 400, "invalid_field", "flags"),
        (post("/apikey").json(&json!({ "flags": [], "name": "x" })), 400, "unknown_field", "name"),
        (get("/v1"), 404, "no_route", ""),
        (get("/v1/api-keys/"), 404, "no_route", ""),
        (put("/v1/api-keys"), 405, "method_not_allowed", ""),
        (delete("/openapi.json"), 405, "method_not_allowed", ""),
    ];
    for (number, (call, status, code, field)) in cases.into_iter().enumerate() {
        let asked = format!("{number}: {call:.300?}");
        let answer = place.asks(call);
        let (found_status, found_code, found_field) = refused(&answer);
        assert_eq!((found_status, found_code.as_str()), (status, code), "{asked}: {}", answer.text());
        assert_eq!(found_field.as_str().unwrap_or_default(), field, "{asked}: {}", answer.text());
    }
    assert_eq!(history(&place), before);
}

#[test]
fn who_sends_no_key_or_a_bad_one_is_told_so_alike() {
    let place = Place::new();
    let dead = place.site.key(&[]);
    place.site.revoke(&dead);
    let typo = super::mistyped(place.site.operator());
    let unknown = "a-token-that-nobody-has-ever-made";
    for token in [dead.token.as_str(), &typo, unknown] {
        let answer = place.asks_as(token, get("/v1/api-keys"));
        assert_eq!(refused(&answer).1, "invalid_key");
        assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.contains("invalid_token")));
    }
    let answer = place.gateway.api(get("/v1/api-keys"));
    assert_eq!((answer.status, answer.code().as_str()), (401, "missing_key"));
    let answer = place.gateway.api(get("/v1/api-keys").header("authorization", "Basic YTpi"));
    assert_eq!(answer.code(), "missing_key");
    let twice = get("/v1/api-keys").bearer(place.site.operator()).bearer(place.site.operator());
    assert_eq!(place.gateway.api(twice).code(), "invalid_request");
    // A key that manages nothing may do nothing, and the gateway's own routes are none of this listener's.
    let plain = place.site.key(&["a"]);
    assert_eq!(place.asks_as(&plain.token, get("/v1/api-keys")).status, 403);
    assert_eq!(place.asks_as(&plain.token, get("/any/x")).code(), "no_route");
}

#[test]
fn a_token_that_was_sent_where_none_belongs_is_told_nowhere() {
    let place = Place::new();
    let token = place.site.operator().to_owned();
    let mark = place.gateway.log_mark();
    for call in [
        post("/v1/api-keys").json(&json!({ "project_id": token, "name": token, "expires_in_days": token })),
        get(&format!("/v1/api-keys/{token}")),
        get(&format!("/v1/users/{token}")),
        get(&format!("/v1/api-keys?q={token}&limit=x")),
        get(&format!("/v1/api-keys?cursor={token}")),
        get(&format!("/{token}")),
        get(&format!("/v1/api-keys?{token}=1")),
    ] {
        let answer = place.asks(call);
        assert!(!answer.text().contains(&token), "{}", answer.text());
    }
    place.gateway.until_logged(mark, "management request");
    assert!(!place.gateway.log().contains(&token));
    assert!(!place.gateway.metrics().contains(&token));
}
