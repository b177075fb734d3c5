//! The description of the API, and that it tells the truth.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::Place;
use crate::harness::{Call, get};
use crate::peers::python;

/// The description as it is served: it is longer than the harness keeps of a body.
fn described(place: &Place) -> Value {
    let url = format!("http://{}/openapi.json", place.gateway.listener("admin"));
    let output = Command::new("curl").args(["--silent", "--max-time", "30", &url]).output();
    serde_json::from_slice(&output.expect("curl is installed").stdout).expect("JSON")
}

#[test]
fn the_description_is_served_without_a_key_and_printed_alike() {
    let place = Place::new();
    let head = place.gateway.api(get("/openapi.json"));
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/json")));
    let served = described(&place);
    assert!(served["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")));
    let printed = place.site.run(["openapi"]).json();
    assert_eq!(served, printed);
}

#[test]
fn whatever_is_described_is_there_and_wants_a_key() {
    let place = Place::new();
    let described = described(&place);
    let mut operations = BTreeSet::new();
    for (path, item) in described["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let id = operation["operationId"].as_str().expect("an id");
            assert!(operations.insert(id.to_owned()), "{id} is there twice");
            assert!(operation["summary"].is_string() && operation["tags"][0].is_string(), "{id}");
            let path = path.replace("{id}", "x").replace("{keyid}", "x");
            let method = method.to_uppercase().parse().expect("a method");
            let answer = place.gateway.api(Call::new(method, &path));
            let open = operation["security"].as_array().is_some_and(Vec::is_empty);
            assert_eq!(answer.status, if open { 200 } else { 401 }, "{id}");
            assert!(operation["responses"].get(answer.status.to_string()).is_some(), "{id}");
        }
    }
    assert!(operations.len() >= 17, "{operations:?}");
}

/// By a validator of OpenAPI that others wrote. `make lint-openapi` has others say what they think of it.
#[test]
fn the_description_is_one_by_the_rules_of_openapi() {
    let place = Place::new();
    let file = place.site.path("openapi.json");
    fs::write(&file, place.site.run(["openapi"]).stdout).expect("a file");
    let file = file.to_str().expect("a path of text");
    let said = python::run(["-m", "openapi_spec_validator", "--schema", "3.1", file]);
    assert_eq!(said.trim(), format!("{file}: OK"));
}

/// Every reference leads somewhere, and nothing is named that nobody uses.
#[test]
fn every_schema_that_is_named_is_there_and_used() {
    let place = Place::new();
    let described = described(&place);
    let mut used = BTreeSet::new();
    collect(&described, &mut used);
    let named: BTreeSet<String> =
        described["components"]["schemas"].as_object().expect("schemas").keys().cloned().collect();
    assert_eq!(used, named);
}

fn collect(value: &Value, used: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                used.insert(reference.rsplit('/').next().unwrap_or_default().to_owned());
            }
            fields.values().for_each(|value| collect(value, used));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, used)),
        _ => {}
    }
}
