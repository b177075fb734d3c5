//! The same over the management API.

use serde_json::{Value, json};

use super::{Fleet, go_on, status, stop};
use crate::harness::{Answer, Call, Config, Upstream, delete, get, patch, post, put};

fn asks(fleet: &Fleet, call: Call) -> Answer {
    fleet.gateways[0].api(call.bearer(fleet.site.operator()))
}

fn told(answer: &Answer) -> [Option<&str>; 2] {
    ["keyward-applied", "keyward-confirmed"].map(|name| answer.header(name))
}

#[test]
fn a_change_says_whether_all_have_confirmed_it_and_its_answer_stays_its_own() {
    let upstream = Upstream::start();
    let fleet = Fleet::of(2, &Config::in_front_of(&upstream).admin());
    let all = [Some("true"), Some("all")];
    let made = asks(&fleet, post("/v1/api-keys?wait=20s").json(&json!({ "project_id": "acme", "name": "a" })));
    assert_eq!((made.status, told(&made)), (201, all), "{}", made.text());
    let id = made.json()["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/api-keys/{id}");
    let plain = asks(&fleet, patch(&path).json(&json!({ "name": "b" })));
    assert_eq!((plain.status, told(&plain)), (200, [Some("true"), None]), "who does not ask is not told");
    let flags = json!({ "flags": ["x"], "active": true });
    for (call, expected) in [
        (patch(&format!("{path}?wait=20s")).json(&json!({ "active": false })), 200),
        (delete(&format!("{path}?wait=20s")), 204),
        (post(&format!("{path}/revoke?wait=20s")), 200),
        (put("/v1/users/ann?wait=20s").json(&flags), 201),
        (delete("/v1/users/ann?wait=20s"), 204),
        (post("/apikey?wait=20s").json(&json!({ "flags": ["x"] })), 200),
    ] {
        let answer = asks(&fleet, call);
        assert_eq!((answer.status, told(&answer)), (expected, all), "{}", answer.text());
    }
    for wrong in ["5", "31s", "1m", "-1s", "", "soon"] {
        let answer = asks(&fleet, delete(&format!("{path}?wait={wrong}")));
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_field"), "{wrong}");
    }
}

#[test]
fn who_has_not_confirmed_a_change_is_listed_beside_those_that_have() {
    let upstream = Upstream::start();
    let fleet = Fleet::of(2, &Config::in_front_of(&upstream).admin());
    let key = fleet.key();
    let stands = fleet.gateways[1].process();
    let ids = [0, 1].map(|number| fleet.id_of(fleet.gateways[number].process()));
    stop(stands);
    let answer = asks(&fleet, delete(&format!("/v1/api-keys/{}?wait=1s", key.id)));
    assert_eq!((answer.status, told(&answer)), (204, [Some("true"), Some("partial")]));
    let path = format!("/v1/revisions/{}", answer.header("keyward-revision").expect("a revision"));
    let revision = asks(&fleet, get(&path)).json();
    let listed =
        |of: &str| revision[of].as_array().expect("a list").iter().map(|it| it["id"].clone()).collect::<Vec<_>>();
    assert_eq!((listed("applied"), listed("unconfirmed")), (vec![json!(ids[0])], vec![json!(ids[1])]), "{revision}");
    assert_eq!(revision["confirmed"], json!(false));
    go_on(stands);
    crate::harness::until("the revision confirmed", || asks(&fleet, get(&path)).json()["confirmed"] == json!(true));
    assert_eq!(status(&fleet.gateways[1], &key), 401);
    for (revision, expected) in [("1000000", 404), ("x", 404), ("0", 200)] {
        let answer = asks(&fleet, get(&format!("/v1/revisions/{revision}")));
        assert_eq!(answer.status, expected, "{revision}: {}", answer.text());
    }
}

#[test]
fn gateways_are_read_and_forgotten_by_those_who_may() {
    let upstream = Upstream::start();
    let mut fleet = Fleet::of(2, &Config::in_front_of(&upstream).admin());
    let operator = |scopes: Value, project: &str| {
        let operates_on = json!({ "project": project, "environment": "all" });
        let project = (project != "all").then_some(project);
        let fields = json!({ "project_id": project, "name": "o", "scopes": scopes, "operates_on": operates_on });
        let made = asks(&fleet, post("/v1/api-keys?wait=20s").json(&fields));
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()["key"].as_str().expect("a token").to_owned()
    };
    let reader = operator(json!(["keyward.gateways.read"]), "acme");
    let other = operator(json!(["keyward.keys.*", "keyward.events.read"]), "all");
    let writer = operator(json!(["keyward.operators.write"]), "all");
    let narrow = operator(json!(["keyward.operators.write"]), "acme");
    fleet.gateways[1].kill();
    let by = |token: &str, call: Call| fleet.gateways[0].api(call.bearer(token));
    let list = by(&reader, get("/v1/gateways"));
    assert_eq!((list.status, list.json().as_array().map(Vec::len)), (200, Some(2)), "{}", list.text());
    for path in ["/v1/gateways", "/v1/revisions/1"] {
        assert_eq!((by(&other, get(path)).status, by(&writer, get(path)).status), (403, 403), "{path}");
    }
    let here = fleet.id_of(fleet.gateways[0].process());
    let list = list.json();
    let gone = list.as_array().expect("a list").iter().find(|listed| listed["id"] != json!(here)).expect("the other");
    let path = format!("/v1/gateways/{}", gone["id"].as_str().expect("an id"));
    for (token, status) in [(&reader, 403), (&other, 403), (&narrow, 403), (&writer, 204), (&writer, 404)] {
        let answer = by(token, delete(&path));
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    assert_eq!(by(&reader, get("/v1/gateways")).json().as_array().map(Vec::len), Some(1));
    assert_eq!(by(&writer, delete("/v1/gateways/x")).code(), "gateway_not_found");
}
