//! What a newcomer does first.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::{Quickstart, Upstream};

/// Runs a printed line as it stands, asking only for the status instead of the body.
fn status_of(line: &str) -> String {
    let asked = line.replacen("curl ", "curl --silent --output /dev/null --write-out '%{http_code}' ", 1);
    let output = Command::new("bash").args(["-c", &asked]).stdin(Stdio::null()).output().expect("bash runs");
    String::from_utf8(output.stdout).expect("curl writes digits")
}

#[test]
fn the_printed_lines_answer_200_401_and_403_and_again_the_next_day() {
    let folder = TempDir::with_prefix("keyward-it-").expect("a folder");
    for day in ["first", "second"] {
        let quickstart = Quickstart::start(folder.path(), &[]);
        let statuses: Vec<String> = quickstart.curl_lines(3).iter().map(|line| status_of(line)).collect();
        assert_eq!(statuses, ["200", "401", "403"], "on the {day} day:\n{}", quickstart.printed());
    }
}

#[test]
fn an_upstream_of_ones_own_is_put_behind_it_and_named_again_the_next_day() {
    let upstream = Upstream::start();
    let folder = TempDir::with_prefix("keyward-it-").expect("a folder");
    let url = format!("http://{}", upstream.address());
    for (day, requests) in [("first", 1), ("second", 2)] {
        let quickstart = Quickstart::start(folder.path(), &["--upstream", &url]);
        let statuses: Vec<String> = quickstart.curl_lines(3).iter().map(|line| status_of(line)).collect();
        assert_eq!(statuses, ["200", "401", "403"], "on the {day} day:\n{}", quickstart.printed());
        assert_eq!(upstream.count(), requests, "one of three on the {day} day");
    }
    assert!(upstream.requests().iter().all(|request| request.target == "/"));
    // Another than the folder's is not passed over.
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
    command.args(["quickstart", "--upstream", "http://127.0.0.1:1", "--dir"]).arg(folder.path().join("keyward-data"));
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(64) && said.contains("it has another upstream"), "{said}");
}
