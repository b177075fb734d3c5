//! Exit codes, one-line complaints, and readers that go away.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use crate::harness::{Config, Ran, Site, Upstream};

fn site() -> Site {
    let upstream = Upstream::start();
    Site::new(&Config::in_front_of(&upstream))
}

fn assert_one_line(ran: &Ran, code: i32) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(ran.stderr.starts_with("keyward: ") && ran.stderr.lines().count() == 1, "{ran:?}");
}

#[test]
fn each_kind_of_failure_has_its_exit_code_and_one_line() {
    let site = site();
    assert_one_line(&site.try_run(["keys", "list"]), 2);
    assert_one_line(&site.try_run(["keys", "list", "-c", "keyward.toml", "--colour"]), 2);
    assert_one_line(&site.try_run(["keys", "update", &format!("key_{}", "0".repeat(32)), "-c", "keyward.toml"]), 2);
    assert_one_line(&site.try_run(["nonsense"]), 2);
    assert_one_line(&site.try_run::<&str>([]), 2);
    assert_one_line(&site.try_run(["keys", "list", "-c", "nowhere.toml"]), 64);
    assert_one_line(&site.try_run(["keys", "show", &format!("key_{}", "0".repeat(32)), "-c", "keyward.toml"]), 1);
    assert_one_line(&site.try_run(["health", "--url", "http://127.0.0.1:1"]), 1);
    std::fs::remove_file(site.path("data/master.secret")).expect("the secret was there");
    assert_one_line(&site.try_run(["keys", "list", "-c", "keyward.toml"]), 64);
}

#[test]
fn help_and_version_are_answers() {
    let site = site();
    assert!(site.run(["--version"]).stdout.starts_with("keyward 0."));
    assert!(site.run(["keys", "create", "--help"]).stdout.contains("Examples:"));
    assert!(site.run(["completions", "bash"]).stdout.contains("keyward"));
}

#[test]
fn a_good_configuration_is_checked_with_a_summary() {
    let site = site();
    let ran = site.run(["check", "-c", "keyward.toml"]);
    assert!(ran.stdout.starts_with("ok\n") && ran.stdout.contains("routes"), "{ran:?}");
    let told = site.run(["check", "-c", "keyward.toml", "--json"]).json();
    assert_eq!(told["faults"], serde_json::json!([]));
    assert_eq!(told["summary"]["store"]["exists"], true);
    assert!(told["summary"]["routes"]["count"].as_u64().is_some_and(|count| count > 0), "{told}");
    let ran = site.run(["init", "-c", "keyward.toml"]);
    assert_eq!(ran.stdout, "everything is there already\n");
}

#[test]
fn what_is_hardly_meant_is_warned_of() {
    let site = site();
    let text = std::fs::read_to_string(site.path("keyward.toml")).expect("a configuration");
    let upstream = text.split_once("[upstreams.").and_then(|(_, rest)| rest.split_once(']')).expect("an upstream").0;
    let route = |name: &str, path: &str, access: &str| {
        format!("\n[[routes]]\nname = \"{name}\"\npath = \"{path}\"\nupstream = \"{upstream}\"\n{access}\n")
    };
    let watched = route("watched", "/w", "any_key = true\nshadow = true");
    let over = route("over", "/o", "any_key = true\nshadow = true\nshadow_until = 2020-01-01T00:00:00Z");
    let foreign = route("foreign", "/foreign/*", "public = true");
    std::fs::write(site.path("keyward.toml"), [&*text, &watched, &over, &foreign].concat()).expect("a configuration");
    let ran = site.run(["check", "-c", "keyward.toml"]);
    let told = "warning: route foreign: in \"/foreign/*\" \"*\" is only that text; a capture is written {*rest}";
    assert!(ran.stderr.contains(told) && ran.stdout.starts_with("ok\n"), "{ran:?}");
    assert!(ran.stderr.contains("warning: route watched: it lets everybody through"), "{ran:?}");
    assert!(!ran.stderr.contains("route over") && ran.stdout.contains("1 in shadow"), "{ran:?}");
}

#[test]
fn a_store_that_is_gone_is_not_taken_for_one_that_never_was() {
    let site = site();
    let gone = || std::fs::remove_file(site.path("data/keyward.db")).expect("the store was there");
    let state = site.path("keyward.state");
    std::fs::create_dir_all(&state).expect("a folder");
    std::fs::write(state.join("snapshot"), "").expect("a file");
    assert_eq!(site.run(["check", "-c", "keyward.toml"]).stderr, "");
    gone();
    let ran = site.run(["check", "-c", "keyward.toml"]);
    assert!(ran.stderr.contains("put it back from a backup"), "{ran:?}");
    assert_eq!(site.run(["check", "-c", "keyward.toml", "--json"]).json()["summary"]["store"]["exists"], false);
    let refused = site.try_run(["init", "-c", "keyward.toml"]);
    assert_one_line(&refused, 64);
    assert!(refused.stderr.contains("put it back from a backup"), "{refused:?}");
    assert!(!site.path("data/keyward.db").exists());
    std::fs::rename(&state, site.path("away")).expect("a folder");
    // As any volume has it.
    std::fs::create_dir_all(state.join("lost+found")).expect("a folder");
    assert!(site.run(["init", "-c", "keyward.toml"]).stdout.contains("data/keyward.db"));
}

#[test]
fn a_user_that_is_not_there_is_told_by_what_was_asked() {
    let site = site();
    for command in ["show", "delete"] {
        let ran = site.try_run(["users", command, "-c", "keyward.toml", "nobody"]);
        assert_one_line(&ran, 1);
        assert!(ran.stderr.contains("`keyward users list`"), "{ran:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let site = site();
    site.key(&[]);
    // More output than a pipe holds, and a reader that takes one line of it.
    let mut child = site
        .command(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    let mut reader = BufReader::with_capacity(16, child.stdout.take().expect("a pipe"));
    reader.read_line(&mut line).expect("a line");
    drop(reader);
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!((child.wait().expect("it ends").code(), said.as_str()), (Some(0), ""));
}

#[test]
fn a_secret_that_nobody_could_read_is_told_of() {
    let site =
        Site::new(&Config::in_front_of(&Upstream::start()).admin_line("public_url = 'https://keys.example.com/'"));
    let made = site.key_with(&["--rotate-every", "30d", "--webhook", "https://hooks.example.com/"]);
    let create = ["keys", "create", "-c", "keyward.toml", "--project", "acme", "--name", "lost"];
    let change = ["keys", "rotate-webhook-secret", "-c", "keyward.toml", &made.id];
    for command in [&create[..], &change] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = site
            .command(command.iter().copied())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .expect("the program starts");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        assert!(said.contains("could not be printed"), "{command:?}: {said}");
    }
}

#[test]
fn a_token_is_read_from_standard_input() {
    let site = site();
    let key = site.key(&[]);
    let mut child = site
        .command(["keys", "inspect"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    writeln!(child.stdin.take().expect("a pipe"), "{}", key.token).expect("the program reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && said.contains("checksum") && !said.contains(&key.token), "{said}");
}

#[test]
fn events_are_followed_as_they_happen() {
    let site = site();
    let mut child = site
        .command(["events", "-c", "keyward.toml", "--follow", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let first = lines.next().expect("the operator's key").expect("text");
    assert!(first.contains("key.created"), "{first}");
    let key = site.key(&[]);
    let next = lines.next().expect("the new key").expect("text");
    assert!(next.contains(&key.id), "{next}");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}
