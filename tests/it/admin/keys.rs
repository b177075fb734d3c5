//! `/v1/api-keys`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Place, acme, text};
use crate::harness::{delete, get, patch, post};

/// Every field of a key, in the order of the design.
const FIELDS: [&str; 28] = [
    "id",
    "project_id",
    "name",
    "key_prefix",
    "scopes",
    "expires_at",
    "last_used_at",
    "created_at",
    "revoked_at",
    "replaced_by_key_id",
    "grace_expires_at",
    "environment_id",
    "rotation_interval_days",
    "next_rotation_at",
    "rotation_webhook_url",
    "active",
    "status",
    "inherit",
    "user_id",
    "props",
    "updated_at",
    "revision",
    "format",
    "lineage_id",
    "minted_by",
    "self_rotate",
    "may_grant",
    "operates_on",
];

fn names(value: &Value) -> BTreeSet<String> {
    value.as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn a_key_is_made_shown_once_and_works_when_its_answer_is_there() {
    let place = Place::new();
    let answer = place.asks(post("/v1/api-keys").json(&json!({
        "project_id": "acme", "name": "build", "scopes": ["keyring.comms.read"], "props": { "team": "x" },
        "expires_in_days": 30, "environment_id": "live", "rotation_interval_days": 90, "self_rotate": true,
    })));
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("keyward-applied"), Some("true"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let made = answer.json();
    assert_eq!(answer.header("keyward-revision"), Some(made["revision"].to_string().as_str()));
    assert_eq!(answer.header("location"), Some(format!("/v1/api-keys/{}", text(&made, "id")).as_str()));
    let token = text(&made, "key");
    assert!(token.starts_with(&text(&made, "key_prefix")));
    assert_eq!(place.gateway.send(get("/keyrings/comms").bearer(&token)).status, 200);
    assert_eq!((&made["status"], &made["active"], &made["format"]), (&json!("active"), &json!(true), &json!("opaque")));
    assert_eq!((&made["props"]["team"], &made["rotation_interval_days"]), (&json!("x"), &json!(90)));
    assert!(made["expires_at"].is_string() && made["next_rotation_at"].is_string() && made["minted_by"].is_string());

    let shown = place.asks(get(&format!("/v1/api-keys/{}", text(&made, "id"))));
    assert!(!shown.text().contains(&token));
    let mut wanted: BTreeSet<String> = FIELDS.iter().map(ToString::to_string).collect();
    assert_eq!(names(&place.asks(get("/v1/api-keys")).json()[0]), wanted);
    wanted.insert("key".to_owned());
    assert_eq!(names(&made), wanted);
    wanted.remove("key");
    let told = ["uses", "lineage", "last_four", "announcements"].map(ToOwned::to_owned);
    wanted.extend(told);
    wanted.extend(["webhook_secret_version", "old_webhook_secret_valid_until"].map(ToOwned::to_owned));
    assert_eq!(names(&shown.json()), wanted);
    assert!(token.ends_with(&text(&shown.json(), "last_four")));
}

#[test]
fn keys_are_listed_newest_first_a_page_at_a_time_and_by_what_they_are() {
    let place = Place::new();
    let mut ids: Vec<String> =
        (0..5).map(|number| text(&place.made(&acme(&format!("build {number}"), &["a"])), "id")).collect();
    ids.reverse();
    let (mut seen, mut next) = (Vec::new(), Some("/v1/api-keys?project_id=acme&limit=2".to_owned()));
    while let Some(path) = next.take() {
        let answer = place.asks(get(&path));
        let page = answer.json();
        let page = page.as_array().expect("a list");
        assert!(page.len() <= 2);
        seen.extend(page.iter().map(|key| text(key, "id")));
        next = answer.header("link").map(|link| {
            let (url, relation) = link.split_once('>').expect("a link");
            assert_eq!(relation, "; rel=\"next\"");
            url.trim_start_matches('<').to_owned()
        });
    }
    assert_eq!(seen, ids);

    let found = |query: &str| -> Vec<String> {
        let answer = place.asks(get(&format!("/v1/api-keys?{query}")));
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        answer.json().as_array().expect("a list").iter().map(|key| text(key, "id")).collect()
    };
    place.asks(patch(&format!("/v1/api-keys/{}", ids[0])).json(&json!({ "active": false })));
    place.asks(delete(&format!("/v1/api-keys/{}", ids[1])));
    assert_eq!(found("status=disabled"), ids[..1]);
    assert_eq!(found("status=revoked"), ids[1..2]);
    assert_eq!(found("project_id=acme&q=build%202").len(), 1);
    assert_eq!(found(&format!("q={}", &ids[3])), ids[3..4]);
    assert_eq!(found("project_id=other").len(), 0);
    assert_eq!(found("environment_id=test").len(), 0);
    assert_eq!(found("expires_within_days=7").len(), 0);
    assert_eq!(found("project_id=acme&unused_for_days=0").len(), 5);
}

#[test]
fn a_key_is_changed_field_by_field_and_stops_and_works_again() {
    let place = Place::new();
    let made = place.made(&acme("build", &["a"]));
    let (path, token) = (format!("/v1/api-keys/{}", text(&made, "id")), text(&made, "key"));
    let change = |fields: Value| {
        let answer = place.asks(patch(&path).json(&fields));
        assert_eq!((answer.status, answer.header("keyward-applied")), (200, Some("true")), "{}", answer.text());
        answer.json()
    };
    assert_eq!(place.lets_through(&token), 200);
    assert_eq!(change(json!({ "active": false }))["status"], "disabled");
    assert_eq!(place.lets_through(&token), 401);
    assert_eq!(change(json!({ "active": true }))["status"], "active");
    assert_eq!(place.lets_through(&token), 200);
    let changed = change(json!({
        "name": "other", "scopes": ["b", "c.*"], "props": { "k": "v" }, "expires_at": "2099-01-01T00:00:00Z",
        "environment_id": "test", "rotation_interval_days": 7,
    }));
    assert_eq!((&changed["name"], &changed["scopes"]), (&json!("other"), &json!(["b", "c.*"])));
    assert_eq!((&changed["environment_id"], &changed["props"]), (&json!("test"), &json!({ "k": "v" })));
    assert_eq!(changed["expires_at"], "2099-01-01T00:00:00Z");
    let cleared = change(json!({ "expires_at": null, "rotation_interval_days": null }));
    assert!(cleared["expires_at"].is_null() && cleared["rotation_interval_days"].is_null());
    let before = cleared["revision"].clone();
    assert_eq!(change(json!({}))["revision"], before, "nothing was changed");
}

#[test]
fn a_deleted_key_is_gone_for_good_and_deleting_it_again_changes_nothing() {
    let place = Place::new();
    let made = place.made(&acme("build", &[]));
    let path = format!("/v1/api-keys/{}", text(&made, "id"));
    let first = place.asks(delete(&path));
    assert_eq!((first.status, first.body.bytes, first.header("keyward-applied")), (204, 0, Some("true")));
    assert_eq!(place.lets_through(&text(&made, "key")), 401);
    let again = place.asks(delete(&path));
    assert_eq!((again.status, again.header("keyward-revision")), (204, first.header("keyward-revision")));
    let refused = place.asks(patch(&path).json(&json!({ "active": true })));
    assert_eq!((refused.status, refused.code().as_str()), (409, "key_revoked"));
    assert_eq!(place.asks(get(&path)).json()["status"], "revoked");
}

#[test]
fn a_rotation_replaces_a_key_and_its_lineage_tells_so() {
    let place = Place::new();
    let made = place.made(&acme("build", &["a"]));
    let (old, old_token) = (text(&made, "id"), text(&made, "key"));
    let answer = place.asks(post(&format!("/v1/api-keys/{old}/rotate")));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let rotated = answer.json();
    assert_eq!(
        (&rotated["old_key_id"], &rotated["name"], &rotated["scopes"]),
        (&json!(old), &json!("build"), &json!(["a"]))
    );
    assert!(rotated["grace_expires_at"].is_string());
    assert!(rotated["revoked_key_id"].is_null());
    let again = place.asks(post(&format!("/v1/api-keys/{old}/rotate"))).json();
    assert_eq!(again["revoked_key_id"], rotated["new_key_id"]);
    assert_eq!(place.lets_through(&text(&rotated, "key")), 401);
    let rotated = again;
    let (new, new_token) = (text(&rotated, "new_key_id"), text(&rotated, "key"));
    assert_eq!((place.lets_through(&old_token), place.lets_through(&new_token)), (200, 200));
    let shown = place.asks(get(&format!("/v1/api-keys/{old}"))).json();
    assert_eq!((&shown["status"], &shown["replaced_by_key_id"]), (&json!("grace"), &json!(new)));
    let lineage: Vec<&Value> =
        shown["lineage"].as_array().expect("a list").iter().map(|member| &member["id"]).collect();
    assert_eq!((lineage.len(), lineage.first(), lineage.last()), (3, Some(&&json!(old)), Some(&&json!(new))));

    let body = json!({ "grace_period_minutes": 0 });
    let rotated = place.asks(post(&format!("/v1/api-keys/{new}/rotate")).json(&body));
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    assert_eq!(place.lets_through(&new_token), 401);
    let ended = place.asks(post(&format!("/v1/api-keys/{old}/revoke")).json(&json!({ "scope": "lineage" })));
    assert_eq!((ended.status, ended.json()["revoked"].as_array().map(Vec::len)), (200, Some(3)), "{}", ended.text());
    assert_eq!(place.lets_through(&old_token), 401);
}

#[test]
fn a_revocation_tells_what_it_left() {
    let place = Place::new();
    let operator = place.operator(&["keyward.keys.create", "keyward.keys.read"], &["a"]);
    let made = place.asks_as(&operator, post("/v1/api-keys").json(&acme("made by it", &["a"])));
    assert_eq!(made.status, 201, "{}", made.text());
    let (made, minter) = (text(&made.json(), "id"), text(&made.json(), "minted_by"));
    let path = format!("/v1/api-keys/{minter}/revoke");
    let left = place.asks(post(&path)).json();
    assert_eq!((&left["revoked"], &left["related"]), (&json!([minter]), &json!([made])));
    let all = place.asks(post(&path).json(&json!({ "scope": "descendants" }))).json();
    assert_eq!(all["revoked"], json!([made]));
    assert_eq!(place.asks_as(&operator, get("/v1/api-keys")).code(), "invalid_key");
}

#[test]
fn an_operator_of_one_project_sees_and_makes_nothing_beyond_it() {
    let place = Place::new();
    let all = ["keyward.keys.*", "keyward.users.*"];
    let operator = place.operator(&all, &["a", "b.**"]);
    let elsewhere = text(&place.made(&json!({ "project_id": "other", "name": "x" })), "id");
    let asks = |call| place.asks_as(&operator, call);
    for call in [
        get(&format!("/v1/api-keys/{elsewhere}")),
        patch(&format!("/v1/api-keys/{elsewhere}")).json(&json!({ "name": "y" })),
        delete(&format!("/v1/api-keys/{elsewhere}")),
        post(&format!("/v1/api-keys/{elsewhere}/rotate")),
        post(&format!("/v1/api-keys/{elsewhere}/revoke")),
        get(&format!("/apikey/{elsewhere}")),
    ] {
        let answer = asks(call);
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{}", answer.text());
    }
    let listed = asks(get("/v1/api-keys")).json();
    assert!(listed.as_array().expect("a list").iter().all(|key| key["project_id"] == "acme"));
    let code = |fields: Value| {
        let answer = asks(post("/v1/api-keys").json(&fields));
        (answer.status, answer.code())
    };
    let refused = |code: &str| (403, code.to_owned());
    assert_eq!(code(json!({ "project_id": "other", "name": "x" })), refused("out_of_scope"));
    assert_eq!(code(acme("x", &["c"])), refused("may_not_grant"));
    assert_eq!(code(acme("x", &["**"])), refused("may_not_grant"));
    assert_eq!(code(acme("x", &["b.c"])).0, 201);
    assert_eq!(asks(get("/v1/events")).code(), "lacks_permission");
    assert_eq!(asks(get("/v1/api-keys?project_id=other")).code(), "out_of_scope");
}

#[test]
fn a_key_rotates_itself_where_it_may() {
    let place = Place::with(|config| config.admin().own_keys());
    let mut fields = acme("build", &["a"]);
    fields["self_rotate"] = json!(true);
    let token = text(&place.made(&fields), "key");
    let own = |call: crate::harness::Call, token: &str| {
        let address = place.gateway.listener("self");
        crate::harness::Connection::open(address, None, crate::harness::Http::One).send(call.bearer(token))
    };
    let rotated = own(post("/v1/api-keys/self/rotate"), &token);
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    let new = text(&rotated.json(), "key");
    assert_eq!((place.lets_through(&token), place.lets_through(&new)), (200, 200));
    let short = own(post("/v1/api-keys/self/rotate").json(&json!({ "grace_period_minutes": 1 })), &new);
    assert_eq!((short.status, short.code().as_str()), (400, "invalid_field"), "{}", short.text());
    // Nothing else is there, whoever asks.
    for path in ["/v1/api-keys", "/v1/users", "/v1/events", "/apikey/x", "/openapi.json"] {
        assert_eq!(own(get(path), place.site.operator()).code(), "no_route", "{path}");
    }
    let plain = place.made(&acme("plain", &["a"]));
    assert_eq!(own(post("/v1/api-keys/self/rotate"), &text(&plain, "key")).status, 403);
    // An operator's token that got out to where callers are ends nobody's, its own neither.
    let of_operator = [
        post("/v1/api-keys/self/rotate"),
        post("/v1/api-keys/self/rotate").json(&json!({ "grace_period_minutes": 0 })),
    ];
    for call in of_operator {
        let refused = own(call, place.site.operator());
        assert_eq!((refused.status, refused.code().as_str()), (403, "lacks_permission"), "{}", refused.text());
    }
    assert_eq!(place.gateway.api(post("/v1/api-keys/self/rotate").bearer(place.site.operator())).status, 403);
    assert_eq!(place.gateway.api(get("/v1/api-keys").bearer(place.site.operator())).status, 200);
    let theirs = own(post(&format!("/v1/api-keys/{}/rotate", text(&plain, "id"))), place.site.operator());
    assert_eq!((theirs.status, theirs.code().as_str()), (404, "not_found"));
    assert_eq!(place.lets_through(&text(&plain, "key")), 200);
}
