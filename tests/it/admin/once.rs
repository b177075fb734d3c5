//! `Idempotency-Key`: a request that is done once, however often it is sent.

use serde_json::json;

use super::{Place, acme, text};
use crate::harness::{Call, get, post};

const KEY: &str = "a secret of the caller 1";

fn once(call: Call, key: &str) -> Call {
    call.header("idempotency-key", key)
}

#[test]
fn the_same_request_again_gets_the_same_answer_and_makes_nothing() {
    let place = Place::new();
    let create = || once(post("/v1/api-keys").json(&acme("build", &["a"])), KEY);
    let first = place.asks(create());
    assert_eq!(first.status, 201, "{}", first.text());
    let again = place.asks(create());
    assert_eq!((again.status, again.text()), (201, first.text()));
    assert_eq!(again.header("keyward-revision"), first.header("keyward-revision"));
    let place_of = format!("/v1/api-keys/{}", text(&first.json(), "id"));
    assert_eq!([&first, &again].map(|answer| answer.header("location")), [Some(place_of.as_str()); 2]);
    assert_eq!(again.header("keyward-applied"), Some("true"));
    assert_eq!(place.asks(get("/v1/api-keys?project_id=acme")).json().as_array().map(Vec::len), Some(1));

    let other = place.asks(once(post("/v1/api-keys").json(&acme("other", &["a"])), KEY));
    assert_eq!((other.status, other.code().as_str()), (409, "idempotency_conflict"));
    // Another path, and another caller, may use the same.
    let rotate = || once(post(&format!("/v1/api-keys/{}/rotate", text(&first.json(), "id"))), KEY);
    let rotated = place.asks(rotate());
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    assert_eq!(place.asks(rotate()).text(), rotated.text());
    let operator = place.operator(&["keyward.keys.*"], &["a"]);
    let theirs = place.asks_as(&operator, create());
    assert_eq!(theirs.status, 201);
    assert_ne!(text(&theirs.json(), "id"), text(&first.json(), "id"));
}

#[test]
fn every_endpoint_that_makes_something_can_be_asked_once() {
    let place = Place::new();
    let made = || once(post("/apikey").json(&json!({ "flags": ["a"] })), KEY);
    let first = place.asks(made());
    assert_eq!((first.status, place.asks(made()).text()), (200, first.text()));
    let id = text(&first.json(), "keyid");
    let revoke = || once(post(&format!("/v1/api-keys/{id}/revoke")), KEY);
    let revoked = place.asks(revoke());
    assert_eq!((revoked.status, place.asks(revoke()).text()), (200, revoked.text()));
}

#[test]
fn a_key_that_could_be_guessed_is_refused() {
    let place = Place::new();
    let create = || post("/v1/api-keys").json(&acme("build", &["a"]));
    for key in ["", "short", &"x".repeat(256)] {
        let refused = place.asks(once(create(), key));
        assert_eq!((refused.status, refused.code().as_str()), (400, "bad_idempotency_key"), "{key}");
    }
    assert_eq!(place.asks(once(once(create(), KEY), KEY)).code(), "invalid_request");
    assert_eq!(place.asks(get("/v1/api-keys?project_id=acme")).json().as_array().map(Vec::len), Some(0));
}
