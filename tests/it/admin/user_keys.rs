//! The dialect of user keys, as clients of it speak it: a user's key manages that user's keys.

use serde_json::{Value, json};

use super::{Place, text};
use crate::harness::{Answer, Call, Connection, Http, delete, get, patch, post, put};

const PATH: &str = "/api/data/api-keys";

fn place() -> Place {
    Place::with(|config| config.own_keys().admin_line("self_service = true").admin_line("keys_per_user_max = 3"))
}

/// The token of a key of the user `ann`, made by the operator.
fn ann(place: &Place, more: &Value) -> String {
    let user = json!({ "project_id": "acme", "flags": ["keyring.comms.read"] });
    assert!(place.asks(put("/v1/users/ann").json(&user)).status < 300);
    let mut fields = json!({ "project_id": "acme", "name": "ann's first", "user_id": "ann" });
    for (name, value) in more.as_object().expect("fields") {
        fields[name] = value.clone();
    }
    text(&place.made(&fields), "key")
}

/// What the listener for callers outside the management network answers.
fn own(place: &Place, token: &str, call: Call) -> Answer {
    Connection::open(place.gateway.listener("self"), None, Http::One).send(call.bearer(token))
}

#[test]
fn a_users_key_makes_lists_stops_and_ends_its_users_keys() {
    let place = place();
    let first = ann(&place, &json!({ "inherit": true }));
    let made = own(&place, &first, post(PATH));
    assert_eq!(made.status, 200, "{}", made.text());
    let made = made.json();
    assert_eq!((&made["active"], &made["user_id"]), (&json!(true), &json!("ann")));
    assert!(!text(&made, "name").is_empty(), "a name is given");
    let (id, jwt) = (text(&made, "id"), text(&made, "jwt"));
    assert!(jwt.starts_with("eyJ") && jwt.split('.').count() == 3);
    for time in ["created_at", "updated_at"] {
        let time = text(&made, time);
        assert_eq!((time.len(), time.ends_with('Z')), (27, true), "microseconds: {time}");
    }
    let reads = || place.gateway.send(get("/keyrings/comms").bearer(&jwt)).status;
    assert_eq!(reads(), 200);

    let named = own(&place, &jwt, post(PATH).json(&json!({ "name": "laptop" }))).json();
    assert_eq!(named["name"], "laptop", "what was made so makes further ones");
    let listed = own(&place, &first, get(PATH));
    assert!(!listed.text().contains(&jwt));
    let listed = listed.json();
    let keys = listed["api-keys"].as_array().expect("a list");
    assert_eq!(keys.len(), 3);
    let shown = keys.iter().find(|key| key["id"] == id).expect("it is listed");
    assert!(jwt.ends_with(text(shown, "jwt").trim_start_matches('*')));

    let key = format!("{PATH}/{id}");
    let change = |fields: Value| own(&place, &first, patch(&key).json(&fields)).json();
    assert_eq!(change(json!({ "active": false }))["active"], false);
    assert_eq!(reads(), 401);
    assert_eq!(change(json!({ "active": true, "name": "other" }))["name"], "other");
    assert_eq!(reads(), 200);
    let full = own(&place, &first, post(PATH));
    assert_eq!((full.status, full.code().as_str()), (409, "too_many_keys"), "{}", full.text());
    assert_eq!(own(&place, &first, delete(&key)).status, 200);
    assert_eq!(reads(), 401);
    assert_eq!(own(&place, &first, patch(&key).json(&json!({ "active": true }))).status, 404);
    let left = own(&place, &first, get(PATH)).json();
    assert_eq!(left["api-keys"].as_array().map(Vec::len), Some(2));
    assert_eq!(own(&place, &first, post(PATH)).status, 200, "there is room again");
}

#[test]
fn a_user_gets_no_further_than_itself_and_no_operator_in() {
    let place = place();
    let narrow = ann(&place, &json!({ "scopes": [] }));
    let wide = ann(&place, &json!({ "inherit": true, "name": "wide" }));
    let listed = own(&place, &narrow, get(PATH)).json();
    let wide_id = listed["api-keys"].as_array().expect("a list").iter().find(|key| key["name"] == "wide");
    let wide_id = text(wide_id.expect("it is the same user's"), "id");
    let path = format!("{PATH}/{wide_id}");
    assert_eq!(own(&place, &narrow, delete(&path)).code(), "not_oneself");
    assert_eq!(own(&place, &narrow, patch(&path).json(&json!({ "active": false }))).code(), "not_oneself");
    let made = text(&own(&place, &narrow, post(PATH)).json(), "jwt");
    assert_eq!(place.gateway.send(get("/keyrings/comms").bearer(&made)).status, 403, "no more than its maker");
    // What an operator switched off stays off.
    place.asks(patch(&format!("/v1/api-keys/{wide_id}")).json(&json!({ "active": false })));
    assert_eq!(own(&place, &wide, get(PATH)).code(), "invalid_key");
    assert_eq!(own(&place, place.site.operator(), get(PATH)).code(), "not_oneself");
    let nobodys = place.site.key(&["a"]);
    assert_eq!(own(&place, &nobodys.token, post(PATH)).code(), "not_oneself");
    assert_eq!(own(&place, &narrow, get("/v1/api-keys")).code(), "no_route");
}

#[test]
fn it_is_off_until_it_is_switched_on() {
    let place = Place::with(|config| config.admin().own_keys());
    let token = ann(&place, &json!({ "inherit": true }));
    for call in [get(PATH), post(PATH)] {
        assert_eq!(own(&place, &token, call.clone()).code(), "no_route");
        assert_eq!(place.asks_as(&token, call).code(), "no_route");
    }
}

#[test]
fn the_public_keys_are_served_to_whoever_asks_the_management_listener() {
    let place = Place::new();
    let served = place.gateway.api(get("/.well-known/jwks.json"));
    assert_eq!(served.status, 200);
    let keys = served.json();
    let keys = keys["keys"].as_array().expect("a list");
    assert!(keys.len() >= 2 && keys.iter().all(|key| key["kty"] == "OKP" && key.get("d").is_none()), "{keys:?}");
}
