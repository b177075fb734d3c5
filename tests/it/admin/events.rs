//! `/v1/events`.

use serde_json::{Value, json};

use super::{Place, acme, text};
use crate::harness::{delete, get};

#[test]
fn every_change_is_told_in_order_as_pages_and_as_lines() {
    let place = Place::new();
    let made = place.made(&acme("build", &["a"]));
    let id = text(&made, "id");
    for number in 0..3 {
        place.made(&acme(&format!("other {number}"), &[]));
    }
    place.asks(delete(&format!("/v1/api-keys/{id}")));
    let of_key = place.asks(get(&format!("/v1/events?key_id={id}"))).json();
    let kinds: Vec<&Value> = of_key.as_array().expect("a list").iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["key.created", "key.revoked"]);
    assert_eq!(of_key[0]["subject"], json!({ "key": id }));
    assert_eq!(of_key[0]["changes"]["name"], "build");
    assert!(!of_key.to_string().contains(&text(&made, "key")));

    let mut pages = Vec::new();
    let mut path = "/v1/events?limit=2".to_owned();
    loop {
        let answer = place.asks(get(&path));
        pages.extend(answer.json().as_array().expect("a list").clone());
        match answer.header("link") {
            Some(link) => path = link.split(['<', '>']).nth(1).expect("a link").to_owned(),
            None => break,
        }
    }
    let lines = place.asks(get("/v1/events").header("accept", "application/x-ndjson"));
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> =
        lines.text().lines().map(|line| serde_json::from_str(line).expect("JSON on each line")).collect();
    assert_eq!(lines, pages);
    assert_eq!(lines.len(), 6);
    let after = place.asks(get(&format!("/v1/events?after={}", made["revision"]))).json();
    assert_eq!(after.as_array().map(Vec::len), Some(4));
}

#[test]
fn a_long_history_is_exported_whole() {
    let place = Place::new();
    // More than are read at a time.
    let rows: String = (0..1100).map(|number| format!("imported-token-{number:032}-{number}\n")).collect();
    std::fs::write(place.site.path("tokens.txt"), rows).expect("a file");
    place.site.keys(&["import", "--project", "acme", "--tokens", "tokens.txt", "--allow-weak"]);
    let lines = place.asks(get("/v1/events").header("accept", "application/x-ndjson"));
    assert!(lines.body.broken.is_none());
    let shown = place.gateway.api(get("/v1/events").header("accept", "application/x-ndjson")).code();
    assert_eq!(shown, "missing_key");
    assert!(lines.body.bytes > 200_000, "{} bytes", lines.body.bytes);
}
