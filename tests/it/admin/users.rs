//! `/v1/users`.

use serde_json::{Value, json};

use super::{Place, text};
use crate::harness::{Answer, delete, get, patch, put};

#[test]
fn a_user_bounds_its_keys_and_takes_them_with_it() {
    let place = Place::new();
    let user = |fields: Value| place.asks(put("/v1/users/ann").json(&fields));
    let made = user(json!({ "project_id": "acme", "flags": ["keyring.comms.read"] }));
    assert_eq!((made.status, made.header("keyward-applied")), (201, Some("true")), "{}", made.text());
    assert_eq!((&made.json()["active"], &made.json()["flags"]), (&json!(true), &json!(["keyring.comms.read"])));
    let key = place.made(&json!({ "project_id": "acme", "name": "ann's", "inherit": true, "user_id": "ann" }));
    let token = text(&key, "key");
    let reads = || place.gateway.send(get("/keyrings/comms").bearer(&token)).status;
    assert_eq!(reads(), 200);
    assert_eq!(user(json!({ "project_id": "acme", "flags": [] })).status, 200);
    assert_eq!(reads(), 403);
    let disabled = user(json!({ "project_id": "acme", "flags": ["keyring.comms.read"], "active": false }));
    assert_eq!(disabled.json()["active"], false);
    assert_eq!(reads(), 401);
    user(json!({ "project_id": "acme", "flags": ["keyring.comms.read"], "active": true }));
    assert_eq!(reads(), 200);
    assert_eq!(place.asks(get("/v1/users/ann")).json()["id"], "ann");
    let of_ann = place.asks(get("/v1/api-keys?user_id=ann")).json();
    assert_eq!(of_ann[0]["id"], key["id"]);

    assert_eq!(place.asks(delete("/v1/users/ann")).status, 204);
    assert_eq!(reads(), 401);
    assert_eq!(place.asks(delete("/v1/users/ann")).status, 204, "nothing is left to do");
    assert_eq!(place.asks(get("/v1/users/ann")).code(), "user_not_found");
    let again = user(json!({ "project_id": "acme", "flags": [] }));
    assert_eq!((again.status, again.code().as_str()), (409, "user_deleted"));
}

#[test]
fn what_is_not_named_of_a_user_stays_as_it_is() {
    let place = Place::new();
    let patched = |fields: Value| place.asks(patch("/v1/users/ann").json(&fields));
    let shown = |answer: &Answer| {
        let user = answer.json();
        (answer.status, user["project_id"].clone(), user["flags"].clone(), user["active"].clone())
    };
    let made = patched(json!({ "project_id": "acme" }));
    assert_eq!(shown(&made), (201, json!("acme"), json!([]), json!(true)), "{}", made.text());
    let changed = patched(json!({ "flags": ["a"] }));
    assert_eq!(shown(&changed), (200, json!("acme"), json!(["a"]), json!(true)));
    let changed = patched(json!({ "active": false }));
    assert_eq!(shown(&changed), (200, json!("acme"), json!(["a"]), json!(false)));
    assert_eq!(changed.header("keyward-applied"), Some("true"));
    assert_eq!(shown(&patched(json!({}))), (200, json!("acme"), json!(["a"]), json!(false)));
    place.made(&json!({ "project_id": "acme", "name": "ann's", "user_id": "ann" }));
    let moved = patched(json!({ "project_id": "other" }));
    assert_eq!((moved.status, moved.code().as_str()), (409, "conflicting_field"));
    assert_eq!(shown(&patched(json!({ "project_id": null }))), (200, Value::Null, json!(["a"]), json!(false)));
    // Where its operator has one project, it is of that, and none of another is there.
    let operator = place.operator(&["keyward.users.*"], &["a"]);
    let of_one = |id: &str, fields: &Value| place.asks_as(&operator, patch(&format!("/v1/users/{id}")).json(fields));
    assert_eq!(shown(&of_one("bob", &json!({}))), (201, json!("acme"), json!([]), json!(true)));
    assert_eq!(of_one("bob", &json!({ "flags": ["b"] })).code(), "may_not_grant");
    assert_eq!(of_one("ann", &json!({ "active": true })).code(), "user_not_found");
    assert_eq!(patched(json!({ "flags": null })).code(), "invalid_field");
    assert_eq!(place.asks(delete("/v1/users/ann")).status, 204);
    assert_eq!(patched(json!({ "active": true })).code(), "user_deleted");
}

#[test]
fn users_are_listed_by_id_a_page_at_a_time() {
    let place = Place::new();
    for id in ["c", "a", "b@example.com"] {
        assert_eq!(place.asks(put(&format!("/v1/users/{id}")).json(&json!({ "flags": [] }))).status, 201);
    }
    let first = place.asks(get("/v1/users?limit=2"));
    let ids = |page: &Value| -> Vec<String> {
        page.as_array().expect("a list").iter().map(|user| text(user, "id")).collect()
    };
    assert_eq!(ids(&first.json()), ["a", "b@example.com"]);
    let link = first.header("link").expect("a next page");
    let path = link.split(['<', '>']).nth(1).expect("a link");
    let second = place.asks(get(path));
    assert_eq!((ids(&second.json()), second.header("link")), (vec!["c".to_owned()], None));
}

#[test]
fn a_users_project_is_its_operators_where_nothing_is_said() {
    let place = Place::new();
    let operator = place.operator(&["keyward.users.*"], &["a"]);
    let made = place.asks_as(&operator, put("/v1/users/bob").json(&json!({ "flags": ["a"] })));
    assert_eq!((made.status, &made.json()["project_id"]), (201, &json!("acme")), "{}", made.text());
    let refused = place.asks_as(&operator, put("/v1/users/eve").json(&json!({ "flags": ["a"], "project_id": null })));
    assert_eq!((refused.status, refused.code().as_str()), (403, "out_of_scope"));
    let refused = place.asks_as(&operator, put("/v1/users/eve").json(&json!({ "flags": ["b"] })));
    assert_eq!((refused.status, refused.code().as_str()), (403, "may_not_grant"));
}
