//! Calls that a program makes up from the description: whatever it sends, the answer is as described.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::{Place, text};
use crate::harness::{post, times};
use crate::peers::python;

/// Every check is on, as schemathesis has it, but for one status of one operation: a request to make a key that
/// fits the description may be refused with 400, and `tests/peers/api_checks.py` sees to it that `user_id` is
/// why. The plan has that status for a user that there is not, and no description knows which there are. All else
/// that only what is stored, what is configured or the time speaks against is 409, which schemathesis allows.
const CONFIG: &str = "[[operations]]\ninclude-operation-id = 'createKey'\n[operations.checks.positive_data_acceptance]\n\
                      expected-statuses = ['2xx', '3xx', '400', '401', '403', '404', '409', '429', '5xx']\n";

#[test]
fn calls_made_up_from_the_description_find_nothing() {
    let place = Place::with(|config| {
        config.admin_line("self_service = true").admin_line("public_url = 'https://keys.example.com'")
    });
    let config = place.site.path("schemathesis.toml");
    let checks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/api_checks.py");
    let operator = place.site.operator();
    let own = place.asks(post("/v1/verify").json(&json!({ "key": operator }))).json();
    fs::write(place.site.path("operator.id"), text(&own, "key_id")).expect("a file");
    let text = format!("headers = {{ Authorization = 'Bearer {operator}' }}\nhooks = {checks:?}\n{CONFIG}");
    fs::write(&config, text).expect("a file");
    let url = format!("http://{}/openapi.json", place.gateway.listener("admin"));
    let examples = times("KEYWARD_SCHEMATHESIS", 1);
    // The long form also tries what lies at bounds, and sequences of calls.
    let phases = if examples > 1 { "examples,coverage,fuzzing,stateful" } else { "fuzzing" };
    let script = "from schemathesis.cli import schemathesis; schemathesis()";
    let config = config.to_str().expect("a path of text");
    let run = ["-c", script, "--config-file", config, "run", &url, "--phases", phases, "--checks", "all"];
    let examples = examples.to_string();
    let bounds = ["--max-examples", &examples, "--seed", "7", "--generation-database", "none", "--no-color"];
    let said = python::run(run.iter().chain(&bounds));
    assert!(!said.contains("Failures:"), "{said}");
    assert!(!place.gateway.log().contains("panic"));
}
