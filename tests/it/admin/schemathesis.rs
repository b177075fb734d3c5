//! Calls that a program makes up from the description: whatever it sends, the answer is as described.

use std::fs;

use super::Place;
use crate::harness::times;
use crate::peers::python;

#[test]
fn calls_made_up_from_the_description_find_nothing() {
    let place = Place::with(|config| config.admin_line("self_service = true"));
    let config = place.site.path("schemathesis.toml");
    // Rules that no JSON Schema can say (an end in the future, a user that exists, one of two fields) are
    // refused with 400 as well, so a request that fits the schema may be.
    let text = format!(
        "headers = {{ Authorization = \"Bearer {}\" }}\n[checks.positive_data_acceptance]\n\
         expected-statuses = [\"2xx\", \"400\", \"401\", \"403\", \"404\", \"409\"]\n",
        place.site.operator()
    );
    fs::write(&config, text).expect("a file");
    let url = format!("http://{}/openapi.json", place.gateway.listener("admin"));
    let examples = times("KEYWARD_SCHEMATHESIS", 1).to_string();
    let script = "from schemathesis.cli import schemathesis; schemathesis()";
    let config = config.to_str().expect("a path of text");
    let run = ["-c", script, "--config-file", config, "run", &url, "--phases", "fuzzing", "--checks", "all"];
    let bounds = ["--max-examples", &examples, "--seed", "7", "--generation-database", "none", "--no-color"];
    let said = python::run(run.iter().chain(&bounds));
    assert!(!said.contains("Failures:"), "{said}");
    assert!(!place.gateway.log().contains("panic"));
}
