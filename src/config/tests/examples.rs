//! The schema, the examples and the documentation say the same.

use std::time::Duration;

use super::{faults_of, lines, parse_well, repository};
use crate::config::schema::{self, KEYS, Kind, LeftOut, SECTIONS};
use crate::config::{Config, Environment, Fronted, POSTGRES_URL_VARIABLE, Variables, format_duration};
use crate::secret::Secret;

fn route_of(config: &Config, method: &http::Method, path: &str) -> String {
    let path = crate::policy::canonicalize(path).expect("a canonical path");
    match config.proxy.routes.find(None, method, &path) {
        crate::policy::Found::Route(found) => found.route.name().to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn the_quickstart_has_a_route_for_each_answer() {
    let config = parse_well(&Fronted::Echo.quickstart_text("http://127.0.0.1:9000"));
    assert!(config.gateway.tls.is_some() && config.ops.is_some());
    assert_eq!(route_of(&config, &http::Method::GET, "/demo/hello"), "demo-read");
    assert_eq!(route_of(&config, &http::Method::POST, "/demo/hello"), "demo-write");
    assert_eq!(route_of(&config, &http::Method::DELETE, "/echo/a/b"), "echo");
    assert_eq!(route_of(&config, &http::Method::GET, "/status"), "status");
}

#[test]
fn the_quickstart_of_another_service_has_no_route_that_is_open_or_elsewhere() {
    let text = Fronted::Service.quickstart_text("http://127.0.0.1:9000");
    assert!(["{name}", "{upstream}", "{echo}", "/demo/"].iter().all(|left| !text.contains(left)), "{text}");
    let config = parse_well(&text);
    for path in ["/", "/status", "/echo/a", "/demo/b"] {
        assert_eq!(route_of(&config, &http::Method::GET, path), "demo-read");
        assert_eq!(route_of(&config, &http::Method::POST, path), "demo-write");
    }
    assert_eq!(config.proxy.routes.routes().len(), 2);
}

#[test]
fn the_key_ring_example_has_each_flag_on_its_own_route() {
    let path = repository().join("config/keyring.toml");
    let config = Config::load(&path, &Environment::default()).expect("no faults");
    let mut flags = Vec::new();
    for route in config.proxy.routes.routes() {
        let crate::policy::Access::Flags { any, all } = &route.spec().access else { panic!("{}", route.name()) };
        assert_eq!((any.len(), all.len()), (1, 0), "{}", route.name());
        assert_eq!(route.spec().denied_status, crate::policy::DeniedStatus::Unauthorized401);
        flags.push(any[0].to_string());
    }
    flags.sort();
    assert_eq!(
        flags,
        [
            "keyring.create",
            "keyring.delete",
            "keyring.read",
            "keyring.{ring}.config.read",
            "keyring.{ring}.config.write",
            "keyring.{ring}.decrypt",
            "keyring.{ring}.encrypt",
            "keyring.{ring}.read",
            "keyring.{ring}.rotate",
        ]
    );
}

/// A file with one key of a schema table, on its second line.
fn one_key(section: &str, line: &str) -> String {
    match section.split_once("[].") {
        Some((list, table)) => format!("[[{list}]]\n{table} = {{ {line} }}\n"),
        None => format!("{}\n{line}\n", header_of(section)),
    }
}

/// The header line of a schema table, as a file has it.
pub(super) fn header_of(section: &str) -> String {
    match section.strip_suffix("[]") {
        Some(list) => format!("[[{list}]]"),
        None => format!("[{}]", section.replace("NAME", "x")),
    }
}

pub(super) fn section_and_name(key: &schema::Key) -> (&'static str, &'static str) {
    key.path.rsplit_once('.').expect("every key is in a table")
}

#[test]
fn every_key_is_read_by_its_kind() {
    for key in KEYS {
        let (section, name) = section_and_name(key);
        // Nothing is a time of day.
        let text = match section.strip_suffix(".certificates[]") {
            Some(table) => format!("[{table}]\ncertificates = [{{ {name} = 07:32:00 }}]\n"),
            None => one_key(section, &format!("{name} = 07:32:00")),
        };
        let place = key.path.replace("NAME", "x").replace("[]", "[0]");
        let line = format!(":2: {place}: found the time 07:32:00, expected ");
        let faults = faults_of(&text);
        assert!(faults.iter().any(|fault| fault.contains(&line)), "{} gives\n{}", key.path, faults.join("\n"));
    }
}

#[test]
fn every_key_is_in_a_documented_table_and_there_once() {
    for (index, key) in KEYS.iter().enumerate() {
        let (section, _) = section_and_name(key);
        assert!(SECTIONS.iter().any(|(known, _)| *known == section), "{}", key.path);
        assert!(KEYS.iter().skip(index + 1).all(|other| other.path != key.path), "{} is there twice", key.path);
        assert!(key.meaning.ends_with('.') && !key.meaning.contains('|'), "{}", key.path);
    }
}

#[test]
fn ranges_end_where_the_schema_says() {
    for key in KEYS {
        let (section, name) = section_and_name(key);
        let at = |value: String| {
            let faults = faults_of(&one_key(section, &format!("{name} = {value}")));
            faults.iter().any(|fault| fault.contains(&format!("{name}: found ")))
        };
        let quoted = |span: Duration| format!("\"{}\"", format_duration(span));
        let milli = Duration::from_millis(1);
        match key.kind {
            Kind::Count { min, max } => {
                assert!(!at(min.to_string()) && !at(max.to_string()) && at((max + 1).to_string()), "{}", key.path);
                assert!(at("-1".to_owned()) && (min == 0 || at((min - 1).to_string())), "{}", key.path);
            }
            Kind::Size { min, max } => {
                assert!(!at(min.to_string()) && !at(max.to_string()) && at((max + 1).to_string()), "{}", key.path);
                assert!(at("-1".to_owned()) && (min == 0 || at((min - 1).to_string())), "{}", key.path);
            }
            Kind::Duration { min, max } => {
                assert!(!at(quoted(min)) && !at(quoted(max)) && at(quoted(max + milli)), "{}", key.path);
                assert!(min.is_zero() || at(quoted(min - milli)), "{}", key.path);
            }
            Kind::Switch
            | Kind::Text(_)
            | Kind::Choice(_)
            | Kind::Status
            | Kind::Time
            | Kind::Path
            | Kind::Address
            | Kind::List(_)
            | Kind::Fields => {}
        }
    }
}

/// One `key = value` line of a file, live or commented out.
struct Line<'t> {
    section: String,
    name: &'t str,
    value: &'t str,
    is_live: bool,
}

/// The lines of a configuration that set a key, commented-out ones included.
fn settings_of(text: &str) -> Vec<Line<'_>> {
    let mut section = String::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if bare.starts_with('[') {
            let name = bare.trim_matches(['[', ']']);
            let is_list = bare.starts_with("[[");
            let table = name.strip_prefix("upstreams.").map(|of| of.split_once('.').map_or("", |(_, table)| table));
            let named = match table {
                None => name.replace("routes.", "routes[]."),
                Some("") => "upstreams.NAME".to_owned(),
                Some(table) => format!("upstreams.NAME.{table}"),
            };
            section = format!("{named}{}", if is_list { "[]" } else { "" });
            continue;
        }
        let Some((name, rest)) = bare.split_once(" = ") else { continue };
        if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
            let value = rest.split(" #").next().unwrap_or(rest).trim();
            lines.push(Line { section: section.clone(), name, value, is_live: bare == line });
        }
    }
    lines
}

#[test]
fn the_full_example_has_every_key_with_its_default() {
    let text = std::fs::read_to_string(repository().join("config/keyward.toml")).expect("the example");
    let lines = settings_of(&text);
    for key in KEYS {
        let (section, name) = section_and_name(key);
        if let Some(table) = section.strip_suffix(".certificates[]") {
            let pair = lines.iter().find(|line| line.section == table && line.name == "certificates");
            assert!(pair.is_some_and(|line| line.value.contains(&format!("{name} = "))), "{}", key.path);
            continue;
        }
        let line = lines.iter().find(|line| line.section == section && line.name == name);
        let line = line.unwrap_or_else(|| panic!("config/keyward.toml has no {}", key.path));
        if let LeftOut::Is(default) = key.default {
            assert!(line.is_live || line.value == default, "{} = {}, not {default}", key.path, line.value);
        }
    }
    for line in lines {
        let path = format!("{}.{}", line.section, line.name);
        assert!(schema::key_at(&path).is_some(), "config/keyward.toml has {path}, which is no key");
    }
}

#[test]
fn writing_every_default_out_changes_nothing() {
    let text = std::fs::read_to_string(repository().join("config/keyward.toml")).expect("the example");
    // Without what they must have there are no tables to spell out.
    let is_absent = |section: &str| {
        let tables = [
            "routes[].upstream_credential",
            "routes[].cors",
            "store.postgres",
            "upstreams.NAME.tls",
            "upstreams.NAME.health",
        ];
        section.starts_with("admin")
            || section.starts_with("self")
            || section == "store.postgres"
            || tables.contains(&section)
    };
    let mut spelled = String::new();
    let mut section = String::new();
    for line in text.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if bare.starts_with('[') {
            section = settings_of(&format!("{bare}\nx = 0"))[0].section.clone();
            let is_absent = is_absent(&section);
            spelled += if is_absent { line } else { bare };
        } else {
            let has_default = settings_of(bare).first().is_some_and(|setting| {
                let key = schema::key_at(&format!("{section}.{}", setting.name));
                key.is_some_and(|key| matches!(key.default, LeftOut::Is(_))) && !is_absent(&section)
            });
            spelled += if has_default { bare } else { line };
        }
        spelled.push('\n');
    }
    let count = |text: &str| settings_of(text).iter().filter(|line| line.is_live).count();
    assert!(count(&spelled) > count(&text) + 50, "{spelled}");
    assert_eq!(format!("{:?}", parse_well(&spelled)), format!("{:?}", parse_well(&text)));
}

#[test]
fn every_example_is_without_faults() {
    let mut count = 0;
    for entry in std::fs::read_dir(repository().join("config")).expect("the folder") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path)
            .expect("text")
            .replace("{upstream}", "http://127.0.0.1:9000")
            .replace("{name}", "demo");
        let faults = Config::parse(&path, &text, &Environment::default()).err().unwrap_or_default();
        assert_eq!(lines(&faults), [""; 0]);
        count += 1;
    }
    assert!(count >= 5, "{count} examples");
}

#[test]
fn what_is_deployed_is_without_faults() {
    let folder = repository().join("deploy");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect(name);
    let variables =
        |name: &str| (name == POSTGRES_URL_VARIABLE).then(|| Secret::new("postgres://keyward@db/keyward".to_owned()));
    let environment = Environment { variables: Variables(variables), ..Environment::default() };
    let documents: Vec<serde_json::Value> =
        serde_saphyr::from_multiple(&read("kubernetes.yaml")).expect("YAML for Kubernetes");
    let of_map = documents.iter().find_map(|document| document["data"]["keyward.toml"].as_str());
    for text in [of_map.expect("a configuration"), &read("compose/keyward.toml")] {
        let faults = Config::parse(&folder.join("keyward.toml"), text, &environment).err().unwrap_or_default();
        assert_eq!(lines(&faults), [""; 0]);
    }
    let kinds: Vec<_> = documents.iter().filter_map(|document| document["kind"].as_str()).collect();
    assert_eq!(kinds, ["ConfigMap", "Job", "StatefulSet", "Service", "Service", "PodDisruptionBudget"]);
    for name in ["alerts.yml", "compose/compose.yaml", "compose/prometheus.yml"] {
        let parsed: serde_json::Value = serde_saphyr::from_str(&read(name)).expect(name);
        assert!(parsed.as_object().is_some_and(|fields| !fields.is_empty()), "{name}");
    }
}

#[test]
fn the_documentation_lists_every_key() {
    const MARK: &str = "<!-- the rest is rendered from src/config/schema.rs: \
                        KEYWARD_BLESS=1 cargo nextest run -p keyward config -->\n";
    let path = repository().join("docs/CONFIG.md");
    let found = std::fs::read_to_string(&path).expect("docs/CONFIG.md");
    let (head, _) = found.split_once(MARK).expect("the mark before the tables");
    let rendered = format!("{head}{MARK}{}", tables());
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    if std::env::var_os("KEYWARD_BLESS").is_some() {
        std::fs::write(&path, &rendered).expect("written");
        return;
    }
    assert_eq!(found, rendered, "docs/CONFIG.md is not what the schema says: KEYWARD_BLESS=1 writes it");
}

fn tables() -> String {
    let mut text = String::new();
    for (section, title) in SECTIONS {
        text += &format!("\n### {title}\n\n| key | value | default | meaning |\n|---|---|---|---|\n");
        for key in KEYS {
            let (its_section, name) = section_and_name(key);
            if its_section != *section {
                continue;
            }
            let default = match key.default {
                LeftOut::Required => "required".to_owned(),
                LeftOut::Is(value) => format!("`{value}`"),
                LeftOut::Says(words) => words.to_owned(),
            };
            text += &format!("| `{name}` | {} | {default} | {} |\n", key.kind.words(), key.meaning);
        }
    }
    text
}
