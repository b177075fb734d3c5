//! The pages under `docs/` say what the code does: where they list names, the lists are held
//! against it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward::config::{Config, Environment};
use keyward::policy::{Code, Reason};
use proc_macro2::{TokenStream, TokenTree};

use crate::harness::{Config as HarnessConfig, Site, Upstream, get};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|fault| panic!("{name}: {fault}"))
}

/// The cells of every table row whose first cell is a name in backticks.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    text.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
}

/// The part of a page under one of its headings.
fn section<'t>(text: &'t str, heading: &str) -> &'t str {
    let (_, rest) = text.split_once(heading).unwrap_or_else(|| panic!("no heading {heading:?}"));
    rest.split("\n## ").next().unwrap_or_default()
}

/// Every Rust file below these folders.
fn sources(folders: &[&str]) -> Vec<PathBuf> {
    let mut waiting: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut files = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(path).expect("a folder").map(|entry| entry.expect("a folder").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Calls `see` with every token of a file, groups opened.
fn each_token(tokens: TokenStream, see: &mut impl FnMut(&TokenTree)) {
    for token in tokens {
        if let TokenTree::Group(group) = &token {
            each_token(group.stream(), see);
        }
        see(&token);
    }
}

fn each_token_of(files: &[PathBuf], see: &mut impl FnMut(&TokenTree)) {
    for file in files {
        let text = fs::read_to_string(file).expect("a source file");
        let tokens: TokenStream = text.parse().unwrap_or_else(|fault| panic!("{}: {fault}", file.display()));
        each_token(tokens, see);
    }
}

fn is_metric_name(text: &str) -> bool {
    let rest = text.strip_prefix("keyward_").unwrap_or_default();
    !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Every metric name in the source: the string literals that are one.
fn metric_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    each_token_of(&sources(&["src"]), &mut |token| {
        if let TokenTree::Literal(literal) = token {
            let text = literal.to_string();
            names.extend(text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).map(str::to_owned));
        }
    });
    names.retain(|name| is_metric_name(name));
    names
}

#[test]
fn every_refusal_is_listed_with_its_status() {
    let text = page("docs/ERRORS.md");
    let listed: BTreeMap<String, (String, String)> = rows(text.split("\n## ").next().unwrap_or_default())
        .into_iter()
        .map(|cells| (cells[0].clone(), (cells[1].clone(), cells[2].clone())))
        .collect();
    let known: BTreeMap<String, (String, String)> = Code::ALL
        .iter()
        .map(|code| (code.as_str().to_owned(), (code.status().to_string(), code.grpc_status().to_string())))
        .collect();
    assert_eq!(listed, known);
}

#[test]
fn every_reason_is_listed_with_its_code() {
    let text = page("docs/ERRORS.md");
    let listed: BTreeMap<String, String> =
        rows(section(&text, "\n## Reasons")).into_iter().map(|cells| (cells[0].clone(), cells[1].clone())).collect();
    let known: BTreeMap<String, String> =
        Reason::ALL.iter().map(|reason| (reason.as_str().to_owned(), reason.code().as_str().to_owned())).collect();
    assert_eq!(listed, known);
}

#[test]
fn every_metric_is_listed_and_no_other() {
    let listed: BTreeSet<String> =
        rows(&page("docs/METRICS.md")).into_iter().filter_map(|cells| cells.first().cloned()).collect();
    let known = metric_names();
    let (missing, unknown): (Vec<_>, Vec<_>) =
        (known.difference(&listed).collect(), listed.difference(&known).collect());
    assert!(missing.is_empty() && unknown.is_empty(), "not listed: {missing:?}; listed in vain: {unknown:?}");
}

#[test]
fn what_a_gateway_shows_is_described_as_it_describes_it() {
    let upstream = Upstream::start();
    let site = Site::new(&HarnessConfig::in_front_of(&upstream).tls());
    let key = site.key(&[]);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
    let shown = gateway.metrics();
    let listed: BTreeMap<String, Vec<String>> =
        rows(&page("docs/METRICS.md")).into_iter().map(|cells| (cells[0].clone(), cells[1..].to_vec())).collect();
    let mut seen = 0;
    for line in shown.lines() {
        let (is_help, rest) = match (line.strip_prefix("# HELP "), line.strip_prefix("# TYPE ")) {
            (Some(rest), None) => (true, rest),
            (None, Some(rest)) => (false, rest),
            _ => continue,
        };
        let (name, said) = rest.split_once(' ').expect("a name and a text");
        let row = listed.get(name).unwrap_or_else(|| panic!("docs/METRICS.md has no {name}"));
        let listed = if is_help { row.last() } else { row.first() };
        assert_eq!(listed.map(String::as_str), Some(said), "{name}");
        seen += 1;
    }
    assert!(seen > 40, "{shown}");
}

#[test]
fn no_page_names_a_metric_that_there_is_not() {
    let known = metric_names();
    // What Prometheus makes of a histogram's name is no name of ours.
    let is_known = |name: &str| {
        known.contains(name)
            || ["_bucket", "_sum", "_count"]
                .iter()
                .any(|end| name.strip_suffix(end).is_some_and(|name| known.contains(name)))
    };
    let watching = ["deploy/alerts.yml", "deploy/dashboard.json"];
    for name in watching {
        assert!(page(name).matches("keyward_").count() > 15, "{name}");
    }
    let pages = ["README.md", "docs/OPERATIONS.md", "docs/ARCHITECTURE.md", "docs/THREATS.md", "docs/METRICS.md"];
    for name in pages.into_iter().chain(watching) {
        let text = page(name);
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        for word in words.filter(|word| is_metric_name(word)) {
            assert!(is_known(word), "{name} names {word}");
        }
    }
}

#[test]
fn of_each_alarm_it_is_said_what_to_do() {
    let (alarms, said) = (page("deploy/alerts.yml"), page("docs/OPERATIONS.md"));
    let names: Vec<_> = alarms.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 15);
    for name in names {
        assert!(said.contains(&format!("\n| `{name}` | ")), "{name}");
    }
}

#[test]
fn the_dashboard_is_json_with_a_query_in_each_panel() {
    let board: serde_json::Value = serde_json::from_str(&page("deploy/dashboard.json")).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    for panel in panels {
        let queries = panel["targets"].as_array().expect("queries");
        assert!(queries.iter().all(|query| query["expr"].as_str().is_some_and(|text| text.contains('{'))), "{panel}");
        assert!(!queries.is_empty());
    }
    assert!(panels.len() > 20);
}

#[test]
fn the_glossary_has_every_word() {
    let text = page("docs/GLOSSARY.md");
    let listed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|line| line.split(" | ").next())
        .flat_map(|words| words.split(", "))
        .collect();
    for word in [
        "key",
        "token",
        "hash",
        "flag",
        "requirement",
        "user",
        "operator",
        "project",
        "environment",
        "lineage",
        "route",
        "upstream",
        "target",
        "grace",
        "revision",
        "event",
        "table",
        "decision",
        "dialect",
        "downstream",
        "authenticate",
        "authorize",
    ] {
        assert!(listed.contains(&word), "no {word} in {listed:?}");
    }
}

#[test]
fn the_architecture_names_every_module() {
    let text = page("docs/ARCHITECTURE.md");
    for entry in fs::read_dir(root().join("src")).expect("src can be listed") {
        let path = entry.expect("src can be listed").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("file names are UTF-8");
        let shown = if path.is_dir() { format!("| `src/{name}/` |") } else { format!("| `src/{name}` |") };
        let is_root = ["lib.rs", "main.rs"].contains(&name);
        assert!(is_root || text.contains(&shown), "no row for {shown}");
    }
    let listed = rows(section(&text, "\n## Where things are"));
    for cells in listed {
        assert!(root().join(&cells[0]).exists(), "there is no {}", cells[0]);
    }
}

#[test]
fn the_readme_s_two_commands_exist() {
    let readme = page("README.md");
    let run = readme.find("\ncargo run --release -- quickstart\n").expect("the first command");
    let test = readme.find("\nmake test\n").expect("the second command");
    assert!(run < test);
    assert!(page("Makefile").contains("\ntest: "));
    let help = Command::new(env!("CARGO_BIN_EXE_keyward")).args(["quickstart", "--help"]).output();
    assert!(help.expect("the program starts").status.success());
}

#[test]
fn every_configuration_on_a_page_is_right() {
    for name in ["README.md", "docs/OPERATIONS.md"] {
        let text = page(name);
        let blocks: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!blocks.is_empty(), "{name} has no example");
        for block in blocks {
            let read = Config::parse(Path::new(name), block, &Environment::default());
            let faults: Vec<String> = read.err().unwrap_or_default().iter().map(ToString::to_string).collect();
            assert_eq!(faults, [""; 0], "{block}");
        }
    }
}

#[test]
fn every_link_leads_somewhere() {
    for name in
        ["README.md", "SECURITY.md", "docs/ARCHITECTURE.md", "docs/OPERATIONS.md", "docs/ERRORS.md", "docs/API.md"]
    {
        let file = root().join(name);
        let text = page(name);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let is_outside = target.starts_with("https://") || target.starts_with('#');
            let path = file.parent().expect("a file lies in a folder").join(target.split('#').next().unwrap_or(target));
            assert!(is_outside || path.exists(), "{name} links to {target}");
        }
    }
}

#[test]
fn the_changes_begin_with_what_is_not_yet_released() {
    let text = page("CHANGELOG.md");
    let first = text.lines().find(|line| line.starts_with("## "));
    assert_eq!(first, Some("## Unreleased"));
    assert!(section(&text, "\n## Unreleased").contains("\n- "));
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let mut functions = BTreeSet::new();
    let mut after_fn = false;
    each_token_of(&sources(&["src", "tests"]), &mut |token| {
        if let TokenTree::Ident(word) = token {
            if after_fn {
                functions.insert(word.to_string());
            }
            after_fn = word == "fn";
        }
    });
    let text = page("docs/THREATS.md");
    let promises = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise"));
    let mut seen = 0;
    for line in promises {
        let held_by = line.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        for name in held_by.split('`').skip(1).step_by(2) {
            seen += 1;
            let as_folder = name.replace("::", "/");
            let is_place = ["src/", "tests/it/"].iter().any(|above| {
                root().join(format!("{above}{as_folder}.rs")).exists()
                    || root().join(format!("{above}{as_folder}")).is_dir()
            });
            let is_fuzzed = root().join(format!("fuzz/fuzz_targets/{name}.rs")).exists();
            assert!(is_place || is_fuzzed || functions.contains(name), "nothing is called {name}: {line}");
        }
    }
    assert!(seen > 20, "only {seen} names were found");
}

#[test]
fn what_the_image_is_built_of_goes_to_the_builder() {
    let (dockerfile, ignored) = (page("Dockerfile"), page(".dockerignore"));
    let sent: BTreeSet<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let copied =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--"));
    let copied: BTreeSet<&str> =
        copied.flat_map(|line| line.rsplit_once(' ').expect("a target").0.split(' ')).collect();
    assert_eq!(copied, sent);
}

#[test]
fn every_fuzz_target_is_declared() {
    let manifest = page("fuzz/Cargo.toml");
    for file in sources(&["fuzz/fuzz_targets"]) {
        let name = file.file_name().and_then(|name| name.to_str()).expect("file names are UTF-8");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}\"")), "{name} is never run");
    }
}
