//! `/v1/refusals`.

use serde_json::json;

use super::{Place, acme, text};
use crate::harness::{get, post};

#[test]
fn who_tried_what_and_was_refused_is_told_with_the_address() {
    let place = Place::new();
    let operator = place.operator(&["keyward.keys.create"], &["a"]);
    for _ in 0..3 {
        let refused = place.asks_as(&operator, post("/v1/api-keys").json(&acme("x", &["b"])));
        assert_eq!(refused.code(), "may_not_grant");
    }
    let listed = place.asks(get("/v1/refusals")).json();
    let first = &listed[0];
    assert_eq!((&first["operation"], &first["code"]), (&json!("create"), &json!("may_not_grant")), "{listed}");
    assert_eq!(first["from"], "127.0.0.1");
    let count: u64 = listed.as_array().expect("a list").iter().filter_map(|tally| tally["count"].as_u64()).sum();
    assert_eq!(count, 3, "{listed}");
    let actor = text(first, "actor");
    assert!(actor.starts_with("key_"));
    assert_eq!(place.asks(get(&format!("/v1/refusals?actor={actor}&limit=1"))).json(), listed);
    let nobody = format!("key_{}", "0".repeat(32));
    assert_eq!(place.asks(get(&format!("/v1/refusals?actor={nobody}"))).json(), json!([]));
    assert_eq!(place.asks_as(&operator, get("/v1/refusals")).code(), "lacks_permission");
}
